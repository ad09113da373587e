"""Groups narrower than a vector: the lanes of a register are output channels of several groups at once.

A vector of output channels spans whole groups, so its inputs are one run of channels: one load. Input channel j of
every group is then brought to the group's lanes by one shuffle, and serves all taps of the kernel row that use this
pixel. Depthwise convolution is the case of one channel per group, where no shuffle is needed.
Weights are packed [vector of output channels][kd][kh][kw][input channel of the group][lane].
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from dojang.engine.kernels import task as t
from dojang.engine.kernels.conv.direct import Nest, store, three
from dojang.engine.kernels.rows import OpenRow, exact, open_row
from dojang.engine.kernels.task import Code, Offer, Refusal, Step, Task
from dojang.native.costs import COSTS
from dojang.native.emit import Emit, Value
from dojang.native.machine import Machine

NAME = "grouped"
MOST_FMAS = 1500  # per tile and kernel row; above, the code of one tile no longer fits the instruction cache


def offer(task: Task, machine: Machine) -> Offer | Refusal:
    """For groups of which several fit in a vector, with no more inputs than outputs."""
    c = task.conv
    if c.transposed:
        return Refusal("transposed")
    if c.rank > 3:
        return Refusal("more than 3 dimensions")
    lanes = machine.lanes(task.element.bytes)
    icg, ocg = c.ic // c.groups, c.oc // c.groups
    if c.groups == 1:
        return Refusal("not grouped")
    if ocg >= lanes or lanes % ocg:
        return Refusal(f"{ocg} output channels per group do not share a vector of {lanes}")
    if icg > ocg:
        return Refusal(f"{icg} inputs per group are more than its {ocg} outputs")
    if c.kernel[-1] * icg * pixels_of(task, machine) > MOST_FMAS:
        return Refusal(f"a row of {c.kernel[-1]} taps is too long to unroll")
    return Offer(seconds(task, machine))


def pixels_of(task: Task, machine: Machine) -> int:
    """Outputs of a row computed together: accumulators leave room for inputs and the row's weights.

    The inputs of a row are used once per channel of a group. Where there are many registers they stay in them: 256
    channels in 32 groups, stride 2, took 1.17 times as long with 14 outputs as with 7 (Granite Rapids, 2026).
    """
    return max(1, min(task.conv.out_size[-1], most_pixels(task, machine)))


def most_pixels(task: Task, machine: Machine) -> int:
    """The same in rows that are long enough."""
    c = task.conv
    weights = c.kernel[-1] * (c.ic // c.groups)
    room = machine.registers - 3 - (weights if weights <= machine.registers // 2 else 0)
    if machine.registers >= 32 and c.ic > c.groups:
        reach = (c.kernel[-1] - 1) * c.dilation[-1] + 1 - c.stride[-1]  # columns besides `stride` for each output
        room = (machine.registers - 3 - c.kernel[-1] - max(0, reach)) // (1 + c.stride[-1])
    return max(1, min(room, 14))


def seconds(task: Task, machine: Machine) -> float:
    """Predicted seconds on one core per image: FMAs and shuffles, or the bytes moved, whichever takes longer."""
    c, p = task.conv, machine.peaks
    n = max(1, c.n)
    flops = (
        2 * c.macs / n * (1.0 if c.ic == c.groups else COSTS.shuffles if c.stride[-1] == 1 else COSTS.shuffles_strided)
    )
    moved = (c.in_bytes + c.out_bytes) / n
    return max(flops / (p.fma_gflops * 1e9 * COSTS.rate_grouped), moved / (p.cache_gbs * 1e9)) + COSTS.start_s


def pack(task: Task, machine: Machine, weight: np.ndarray, bias: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Weights (oc, ic/groups, *kernel) as [vector][kd][kh][kw][ic/groups][lane]."""
    c, lanes, dtype = three(task.conv), machine.lanes(task.element.bytes), task.element.dtype
    vectors, icg = t.ceil_div(c.oc, lanes), c.ic // c.groups
    w = np.zeros((vectors * lanes, icg, prod(c.kernel)), dtype)
    w[: c.oc] = np.asarray(weight).reshape(c.oc, icg, -1)
    packed = w.reshape(vectors, lanes, icg, -1).transpose(0, 3, 2, 1)
    return np.ascontiguousarray(packed).reshape(-1), t.pack_vector(bias, 1, lanes, c.oc, dtype)


def cut(c: Nest, lanes: int) -> tuple[int, int]:
    """(rows, vectors) of a unit: about 128 kB of output, less in small layers so that every core has some."""
    rows, vectors = c.out_size[0] * c.out_size[1], t.ceil_div(c.oc, lanes)
    row_bytes = 4 * c.out_size[2] * c.oc
    goal = min(128 << 10, max(8 << 10, rows * row_bytes // 8))
    some = min(rows, max(1, goal // row_bytes))
    if some < rows or rows * row_bytes <= goal:
        return some, vectors
    return rows, max(1, vectors * goal // (rows * row_bytes))


def emit(task: Task, machine: Machine) -> Code:
    """One step; a unit is some rows of one image for some vectors of channels."""
    task = replace(task, conv=replace(task.conv, n=1))  # the code does not depend on the batch
    c, lanes = three(task.conv), machine.lanes(task.element.bytes)
    rows, vectors = cut(c, lanes)
    parts = t.ceil_div(c.out_size[0] * c.out_size[1], rows) * t.ceil_div(t.ceil_div(c.oc, lanes), vectors)
    recipe = f"{NAME} {task} {rows} {vectors} {pixels_of(task, machine)}"
    return Code((Step(recipe, lambda name: Grouped(name, task, machine).text(), lambda n: n * parts),))


def emit_open(task: Task, like: Task, machine: Machine) -> Code:
    """Like `emit`, with code for images of any size where they are not too small, and the weights packed for `like`."""
    c, lanes = three(task.conv), machine.lanes(task.element.bytes)
    row = open_row(c.out_size[2], most_pixels(task, machine), lambda start, count: columns(c, start, count))
    if row is None or c.size[0] > 1 or c.out_size[0] > 1:
        return emit(task, machine)
    rows, vectors = cut(c, lanes)
    row_parts, vector_parts = t.ceil_div(c.out_size[1], rows), t.ceil_div(t.ceil_div(c.oc, lanes), vectors)
    form = replace(c, size=(1, 0, 0), out_size=(1, 0, 0))

    def build(name: str) -> str:
        b = t.begin(name, machine)
        ih, iw, oh, ow, rows_per_unit, vectors_per_unit = t.sizes(b, 6)
        kernel = Grouped(b, task, machine, replace(form, size=(1, ih, iw), out_size=(1, oh, ow)))
        kernel.cut_open, kernel.unit = row, (rows_per_unit, vectors_per_unit)
        return kernel.text()

    recipe = f"{NAME} open {t.form(task)} {row}"
    sizes = (*c.size[1:], *c.out_size[1:], rows, vectors)
    return Code((Step(recipe, build, lambda n: n * row_parts * vector_parts, sizes),))


def columns(c: Nest, start: int, count: int) -> tuple[int, int]:
    """The input columns of a tile, from its first, that are not padding."""
    span = (count - 1) * c.stride[2] + (c.kernel[2] - 1) * c.dilation[2] + 1
    left = start * c.stride[2] - c.padding[2]
    return max(0, -left), min(span, c.size[2] - left)


class Grouped:
    """The loop nest of one grouped kernel while it is written."""

    def __init__(self, b: Emit | str, task: Task, machine: Machine, nest: Nest | None = None) -> None:
        """Sizes in elements, as Python ints, or in `nest` as they are known at run time.

        `b`: the name of a new function, or the builder of one that does more.
        """
        self.task, self.c = task, nest or three(task.conv)
        self.b: Emit = t.begin(b, machine) if isinstance(b, str) else b
        self.kind, self.size = task.element, task.element.bytes
        self.lanes = machine.lanes(self.size)
        self.icg, self.ocg = self.c.ic // self.c.groups, self.c.oc // self.c.groups
        self.window = self.lanes // self.ocg * self.icg  # input channels under one vector of outputs
        self.pixels = pixels_of(task, machine)
        self.cut_open: OpenRow | None = None  # how rows of any length are cut
        self.unit: tuple[Any, Any] | None = None  # rows and vectors of a unit, where sizes are known at run time

    def text(self) -> str:
        """Decodes the unit; loops over vectors, rows and tiles."""
        b, c, task = self.b, self.c, self.task
        rows_per, vectors_per = self.unit or cut(c, self.lanes)
        rows, vectors = c.out_size[0] * c.out_size[1], t.ceil_div(c.oc, self.lanes)
        row_parts, vector_parts = t.ceil_div(rows, rows_per), t.ceil_div(vectors, vectors_per)
        part = b.urem(b.arg.unit, vector_parts)
        place = b.udiv(b.arg.unit, vector_parts)
        chunk, image = b.urem(place, row_parts), b.udiv(place, row_parts)
        x = b.at(t.word(b, t.X), b.mul(image, prod(c.size) * task.x_ld * self.size))
        pixels = prod(c.out_size)
        y = b.at(t.word(b, t.Y), b.mul(image, pixels * task.y_ld * self.size))
        r = b.at(t.word(b, t.R), b.mul(image, pixels * task.residual_ld * self.size)) if task.residual_ld else None
        w, bias = t.word(b, t.W), t.word(b, t.B)
        first = b.mul(chunk, rows_per)
        last = b.imin(b.add(first, rows_per), rows)
        low = b.mul(part, vectors_per)
        # The last vector may be masked: it is written apart, so that the others need no masks.
        whole = c.oc // self.lanes
        high = b.imin(b.add(low, vectors_per), whole)

        def tile(start: Any, count: int, inside: tuple[int, int], depth: Any, height: Any, yr: Value, rr: Any) -> None:
            # Vectors innermost: all channels of the tile's pixels are read in order, as memory likes it.
            def vector(v: Any, channels: int) -> None:
                o = b.mul(v, self.lanes * self.size)
                xv, bv = b.at(x, b.mul(v, self.window * self.size)), b.vload(b.at(bias, o), self.kind)
                wv = b.at(w, b.mul(v, prod(c.kernel) * self.icg * self.lanes * self.size))
                rv = b.at(rr, o) if rr is not None else None
                self.one(start, count, inside, channels, xv, wv, bv, b.at(yr, o), rv, depth, height)

            b.loop(low, high, 1, lambda v, _: vector(v, self.lanes))
            if c.oc % self.lanes:
                rest = lambda: vector(whole, c.oc % self.lanes)  # noqa: E731
                if not isinstance(vector_parts, int) or vector_parts > 1:
                    b.choose(b.less(whole, b.add(low, vectors_per)), rest)
                else:
                    rest()

        b.loop(first, last, 1, lambda row_, _: self.row(row_, y, r, tile))
        return b.finish()

    def row(self, r: Any, y: Value, res: Value | None, tile: Any) -> None:
        """One output row, tile by tile; neighbours with the same border in a loop."""
        b, c, task = self.b, self.c, self.task
        od: Any
        od, oh = (0, r) if c.out_size[0] == 1 else (b.udiv(r, c.out_size[1]), b.urem(r, c.out_size[1]))
        depth = t.tap_range(b, od, c.stride[0], c.padding[0], c.dilation[0], c.kernel[0], c.size[0])
        height = t.tap_range(b, oh, c.stride[1], c.padding[1], c.dilation[1], c.kernel[1], c.size[1])
        ow = c.out_size[2]
        y = b.at(y, b.mul(r, ow * task.y_ld * self.size))
        res = b.at(res, b.mul(r, ow * task.residual_ld * self.size)) if res is not None else None
        if self.cut_open is not None:
            pieces = self.cut_open.pieces(ow)
        else:
            pieces = exact(t.balanced(ow, self.pixels), lambda start, count: columns(c, start, count))
        for piece in pieces:
            piece.loop(b, lambda i, p=piece: tile(i, p.count, p.border, depth, height, y, res))

    def one(self, start, count, inside, channels, x, w, bias, y, res, depth, height) -> None:
        """One tile; `inside` are the input columns, from its first, that are not padding."""
        b, c, task = self.b, self.c, self.task
        pixel = task.x_ld * self.size
        xw = b.at(x, b.mul(b.sub(b.mul(start, c.stride[2]), c.padding[2]), pixel))
        kw, vec = c.kernel[2], self.lanes * self.size
        # A masked vector of outputs reads only the inputs of its groups.
        mask = b.mask(t.ceil_div(channels, self.ocg) * self.icg, self.lanes)
        narrow = self.window < self.lanes and mask is None

        def kernel_row(kd, kh, acc):
            acc = list(acc)
            ih = b.add(height[0], b.mul(kh, c.dilation[1]))
            i_d = b.add(depth[0], b.mul(kd, c.dilation[0]))
            xr = b.at(xw, b.mul(b.add(b.mul(i_d, c.size[1]), ih), c.size[2] * pixel))
            wr = b.at(w, b.mul(b.add(b.mul(kd, c.kernel[1]), kh), kw * self.icg * vec))
            # Input channels outside, columns inside: sums that follow each other are then mostly independent.
            loaded: dict[int, Value] = {}
            for j in range(self.icg):
                ws: dict[int, Value] = {}
                for column in range(*inside):
                    uses = []
                    for k in range(kw):
                        p, off = divmod(column - k * c.dilation[2], c.stride[2])
                        if not off and 0 <= p < count:
                            uses.append((p, k))
                    if not uses:
                        continue
                    if column not in loaded:
                        at = b.at(xr, column * pixel)
                        loaded[column] = b.vload(at, self.kind, self.window if narrow else self.lanes, mask=mask)
                    xv = self.spread(loaded[column], j)
                    for p, k in uses:
                        if k not in ws:
                            ws[k] = b.vload(b.at(wr, (k * self.icg + j) * vec), self.kind)
                        acc[p] = b.fma(xv, ws[k], acc[p])
            return acc

        acc = b.loop(depth[1], depth[2], 1, lambda kd, a: b.loop(
            height[1], height[2], 1, lambda kh, a: kernel_row(kd, kh, a), a
        ), [bias] * count)  # fmt: skip
        store(b, task, acc, count, 1, channels,
              b.at(y, b.mul(start, task.y_ld * self.size)),
              b.at(res, b.mul(start, task.residual_ld * self.size)) if res is not None else None)  # fmt: skip

    def spread(self, v: Value, j: int) -> Value:
        """Input channel j of each group in the lanes of the group."""
        if self.icg == self.ocg == 1:
            return v
        return self.b.shuffle(v, None, [lane // self.ocg * self.icg + j for lane in range(self.lanes)])
