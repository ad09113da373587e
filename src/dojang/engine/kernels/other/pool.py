"""Maximum and average pooling, windowed or over the whole image: lanes are channels.

Average: the sum is divided by the count of places, as the reference does, not multiplied by a rounded reciprocal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from math import inf, prod
from typing import Any

from dojang.arith.conv import Conv, Pads, Sizes
from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.rows import OpenRow, exact, open_row
from dojang.engine.kernels.task import Code, Offer, Refusal, Step
from dojang.native.costs import COSTS
from dojang.native.emit import F32, Emit, SizeValue, Value
from dojang.native.machine import Machine

NAME = "pool"
PIXELS = 8  # outputs of a row computed together


@plain_repr
@dataclass(frozen=True, slots=True)
class PoolTask:
    """Pooling of `channels`; `what` is "max" or "avg". `out_size` is given, since ceil mode decides it."""

    what: str
    channels: int
    size: Sizes
    kernel: Sizes
    stride: Sizes
    padding: Pads
    dilation: Sizes
    out_size: Sizes
    x_ld: int
    y_ld: int
    count_padding: bool = True

    def three(self) -> PoolTask:
        """The same in three dimensions."""
        k = 3 - len(self.size)
        one, none = (1,) * k, ((0, 0),) * k
        return PoolTask(
            self.what,
            self.channels,
            one + self.size,
            one + self.kernel,
            one + self.stride,
            none + self.padding,
            one + self.dilation,
            one + self.out_size,
            self.x_ld,
            self.y_ld,
            self.count_padding,
        )


def offer(task: PoolTask, machine: Machine) -> Offer | Refusal:
    """For up to three dimensions, rows of taps short enough to unroll: one operation per tap, or the bytes."""
    if len(task.size) > 3:
        return Refusal("more than 3 dimensions")
    if task.kernel[-1] > 16 and prod(task.out_size) > 1:
        return Refusal(f"a row of {task.kernel[-1]} taps is too long to unroll")
    p = machine.peaks
    taps = prod(task.out_size) * prod(task.kernel) * task.channels
    moved = 4 * task.channels * (prod(task.size) + prod(task.out_size))
    return Offer(max(2 * taps / (p.fma_gflops * (COSTS.rate_pool * 1e9)), moved / (p.cache_gbs * 1e9)) + COSTS.start_s)


def cut(task: PoolTask, lanes: int) -> tuple[int, int]:
    """(rows, vectors) of a unit: about 64 kB of input."""
    rows, vectors = task.out_size[0] * task.out_size[1], t.ceil_div(task.channels, lanes)
    total = 4 * prod(task.size) * task.channels
    goal = min(128 << 10, max(8 << 10, total // 8))
    some = min(rows, max(1, rows * goal // max(1, total)))
    if rows > 1:
        return some, vectors
    return 1, max(1, min(vectors, vectors * goal // max(1, total)))


def emit(task: PoolTask, machine: Machine) -> Code:
    """One step; a unit is some rows of one image for some vectors of channels."""
    three, lanes = task.three(), machine.lanes(4)
    rows, vectors = cut(three, lanes)
    parts = t.ceil_div(three.out_size[0] * three.out_size[1], rows) * t.ceil_div(
        t.ceil_div(task.channels, lanes), vectors
    )
    recipe = f"{NAME} {task} {rows} {vectors}"
    return Code((Step(recipe, lambda name: Pool(name, three, machine).text(), lambda n: n * parts),))


def emit_open(task: PoolTask, like: PoolTask, machine: Machine) -> Code:
    """Like `emit`, with code for images of any size where they are not too small."""
    three, lanes = task.three(), machine.lanes(4)
    whole = three.kernel == three.size and prod(three.out_size) == 1 and not any(map(any, three.padding))
    row = open_row(three.out_size[2], PIXELS, lambda start, count: border(three, start, count))
    if not whole and (row is None or three.size[0] > 1 or three.out_size[0] > 1):
        return emit(task, machine)
    rows, vectors = cut(three, lanes)
    row_parts = t.ceil_div(three.out_size[0] * three.out_size[1], rows)
    vector_parts = t.ceil_div(t.ceil_div(task.channels, lanes), vectors)
    none = (0, 0, 0)
    form = replace(three, size=none, out_size=none, **({"kernel": none, "stride": none} if whole else {}))

    def build(name: str) -> str:
        b = t.begin(name, machine)
        *size, oh, ow, rows_per_unit, vectors_per_unit = t.sizes(b, 7)
        given = replace(form, size=tuple(size), out_size=(1, 1, 1), kernel=tuple(size)) if whole else replace(
            form, size=(1, *size[1:]), out_size=(1, oh, ow))  # fmt: skip
        kernel = Pool(b, given, machine, whole)
        kernel.cut_open, kernel.unit = row, (rows_per_unit, vectors_per_unit)
        return kernel.text()

    sizes = (*three.size, *three.out_size[1:], rows, vectors)
    recipe = f"{NAME} open {form} {None if whole else row}"
    return Code((Step(recipe, build, lambda n: n * row_parts * vector_parts, sizes),))


def border(c: PoolTask, start: int, count: int) -> tuple[tuple[int, ...], tuple[int, int]]:
    """Of `count` outputs of a row: the places that each one's average divides by, and the columns that are read."""

    def places(ow: int) -> int:
        left = ow * c.stride[2] - c.padding[2][0]
        if c.count_padding:
            return min(c.kernel[2], c.size[2] + c.padding[2][1] - left)
        return sum(0 <= left + k * c.dilation[2] < c.size[2] for k in range(c.kernel[2]))

    left = start * c.stride[2] - c.padding[2][0]
    span = (count - 1) * c.stride[2] + (c.kernel[2] - 1) * c.dilation[2] + 1
    return tuple(places(start + p) for p in range(count)), (max(0, -left), min(span, c.size[2] - left))


class Pool:
    """The loop nest of one pooling layer while it is written."""

    def __init__(self, b: Emit | str, task: PoolTask, machine: Machine, single: bool | None = None) -> None:
        """`task` in three dimensions. `b` is the name of a new function, or the builder of one that does more.

        `single`: whether there is one window, where sizes are known at run time.
        """
        self.c = task
        self.b: Emit = t.begin(b, machine) if isinstance(b, str) else b
        self.lanes, self.registers = machine.lanes(4), machine.registers
        self.single = prod(task.out_size) == 1 if single is None else single
        self.cut_open: OpenRow | None = None  # how rows of any length are cut
        self.unit: tuple[Any, Any] | None = None  # rows and vectors of a unit, where sizes are known at run time

    def text(self) -> str:
        """Decodes the unit; loops over rows, tiles and vectors."""
        b, c = self.b, self.c
        rows_per, vectors_per = self.unit or cut(c, self.lanes)
        rows, vectors = c.out_size[0] * c.out_size[1], t.ceil_div(c.channels, self.lanes)
        row_parts, vector_parts = t.ceil_div(rows, rows_per), t.ceil_div(vectors, vectors_per)
        part, place = b.urem(b.arg.unit, vector_parts), b.udiv(b.arg.unit, vector_parts)
        chunk, image = b.urem(place, row_parts), b.udiv(place, row_parts)
        x = b.at(t.word(b, t.X), b.mul(image, 4 * prod(c.size) * c.x_ld))
        y = b.at(t.word(b, t.Y), b.mul(image, 4 * prod(c.out_size) * c.y_ld))
        first = b.mul(chunk, rows_per)
        last = b.imin(b.add(first, rows_per), rows)
        low = b.mul(part, vectors_per)
        whole = c.channels // self.lanes

        def across(body: Callable[[Value, Value, Any], Any]) -> None:
            """The unit's vectors of channels one after the other."""

            def vector(v: Any, mask: Any) -> None:
                body(b.at(x, b.mul(v, 4 * self.lanes)), b.at(y, b.mul(v, 4 * self.lanes)), mask)

            b.loop(low, b.imin(b.add(low, vectors_per), whole), 1, lambda v, _: vector(v, None))
            if c.channels % self.lanes:
                mask = b.mask(c.channels % self.lanes, self.lanes)
                b.choose(b.less(whole, b.index(b.add(low, vectors_per))), lambda: vector(whole, mask))

        if self.single:
            across(self.everything)
        else:
            b.loop(first, last, 1, lambda r, _: self.row(r, across))
        return b.finish()

    def join(self, acc: Value, v: Value) -> Value:
        """One more place of a window."""
        return self.b.maximum_nan(v, acc) if self.c.what == "max" else self.b.fadd(acc, v)

    def begin(self) -> Value:
        """A window without places."""
        return self.b.const(F32, -inf if self.c.what == "max" else 0.0)

    def everything(self, x: Value, y: Value, mask: Any) -> None:
        """One window that gives one output: its rows in loops, four partial results."""
        b, c = self.b, self.c
        edges = []
        for i, k, p, d in zip(c.size, c.kernel, c.padding, c.dilation, strict=True):
            if isinstance(k, SizeValue):  # the window is the image
                edges.append((0, k, 1, k))
                continue
            taps = [j for j in range(k) if 0 <= j * d - p[0] < i]
            counted = sum(j * d < i + sum(p) for j in range(k)) if c.count_padding else len(taps)
            edges.append((taps[0] * d - p[0] if taps else 0, len(taps), d, counted))
        (d0, dn, dd, dc), (h0, hn, hd, hc), (w0, wn, wd, wc) = edges

        def place(i, j, k):
            row = b.mul(b.add(b.mul(b.add(b.mul(i, dd), d0), c.size[1]), b.add(b.mul(j, hd), h0)), c.size[2])
            return b.at(x, b.mul(b.add(row, b.add(b.mul(k, wd), w0)), 4 * c.x_ld))

        def line(i, j, acc):
            chains = len(acc)

            def some(k, acc):
                return [self.join(a, b.vload(place(i, j, b.add(k, q)), F32, mask=mask)) for q, a in enumerate(acc)]

            end = wn // chains * chains
            acc = b.loop(0, end, chains, some, acc)
            for q in range(chains - 1):
                one = lambda q=q: [self.join(acc[q], b.vload(place(i, j, b.add(end, q)), F32, mask=mask))]  # noqa: E731
                if isinstance(wn, SizeValue):
                    (acc[q],) = b.choose(b.less(end + q, wn), one, lambda q=q: [acc[q]])
                elif end + q < wn:
                    (acc[q],) = one()
            return acc

        acc = b.loop(0, dn, 1, lambda i, a: b.loop(0, hn, 1, lambda j, e: line(i, j, e), a), [self.begin()] * 4)
        while len(acc) > 1:
            acc = [self.join(acc[q], acc[q + 1]) for q in range(0, len(acc), 2)]
        value, count = acc[0], dc * hc * wc
        if c.what == "avg":
            known = isinstance(count, int)
            number = b.const(F32, float(max(1, count))) if known else b.splat(b.sitofp(count.value, F32.ir), self.lanes)
            value = b.fdiv(value, number)
        b.vstore(value, y, F32, mask=mask)

    def row(self, r: Any, across: Callable[[Callable[[Value, Value, Any], Any]], Any]) -> None:
        """One output row, tile by tile; `across` calls what it is given with the input, the output and a mask.

        All channels of a tile follow each other, as they lie in memory.
        """
        b, c = self.b, self.c
        od: Any
        od, oh = (0, r) if c.out_size[0] == 1 else (b.udiv(r, c.out_size[1]), b.urem(r, c.out_size[1]))
        depth = t.tap_range(b, od, c.stride[0], c.padding[0][0], c.dilation[0], c.kernel[0], c.size[0])
        height = t.tap_range(b, oh, c.stride[1], c.padding[1][0], c.dilation[1], c.kernel[1], c.size[1])
        outer = 1
        for axis, (start, lo, hi) in ((0, depth), (1, height)):
            places = b.sub(hi, lo)
            if c.count_padding:
                room = b.sub(b.add(c.size[axis], c.padding[axis][1]), start)
                places = b.imin(room, c.kernel[axis])  # dilation is 1 for averages
            outer = b.mul(outer, places)
        ow = c.out_size[2]
        before = b.mul(r, 4 * ow * c.y_ld)
        if self.cut_open is not None:
            pieces = self.cut_open.pieces(ow)
        else:
            pieces = exact(t.balanced(ow, PIXELS), lambda start, count: border(c, start, count))
        for piece in pieces:
            taps, inside = piece.border
            piece.loop(b, lambda i, n=piece.count, taps=taps, inside=inside: across(lambda x, y, mask: self.one(
                i, n, taps, inside, outer, x, b.at(y, before), mask, depth, height
            )))  # fmt: skip

    def columns(self, p: int) -> range:
        """The columns of the window of a tile's output `p`, the first one's being 0."""
        left, apart = p * self.c.stride[2], self.c.dilation[2]
        return range(left, left + self.c.kernel[2] * apart, apart)

    def one(self, start, count, taps, inside, outer, x, y, mask, depth, height) -> None:
        """One tile."""
        b, c = self.b, self.c
        pixel = 4 * c.x_ld
        xw = b.at(x, b.mul(b.sub(b.mul(start, c.stride[2]), c.padding[2][0]), pixel))

        # Windows that overlap share columns: the largest of each column first, where all columns fit into registers.
        columns = range(*inside)
        by_column = c.what == "max" and len(columns) <= self.registers - 6

        def window_row(kd, kh, acc):
            acc = list(acc)
            ih = b.add(height[0], b.mul(kh, c.dilation[1]))
            i_d = b.add(depth[0], b.mul(kd, c.dilation[0]))
            xr = b.at(xw, b.mul(b.add(b.mul(i_d, c.size[1]), ih), c.size[2] * pixel))
            for i, column in enumerate(columns):
                uses = [p for p in range(count) if column in self.columns(p)]
                if uses:
                    v = b.vload(b.at(xr, column * pixel), F32, mask=mask)
                    for p in [i] if by_column else uses:
                        acc[p] = self.join(acc[p], v)
            return acc

        acc = b.loop(depth[1], depth[2], 1, lambda kd, a: b.loop(
            height[1], height[2], 1, lambda kh, a: window_row(kd, kh, a), a
        ), [self.begin()] * (len(columns) if by_column else count))  # fmt: skip
        if by_column:
            largest = dict(zip(columns, acc, strict=True))
            mine = [[largest[column] for column in self.columns(p) if column in largest] for p in range(count)]
            acc = [reduce(self.join, values) if values else self.begin() for values in mine]
        for p, value in enumerate(acc):
            if c.what == "avg":
                places = b.imax(b.mul(outer, max(1, taps[p])), 1)
                number = b.sitofp(b.index(places), F32.ir)
                value = b.fdiv(value, b.splat(number, self.lanes))
            b.vstore(value, b.at(y, b.mul(b.add(start, p), 4 * c.y_ld)), F32, mask=mask)


def of_conv(conv: Conv, what: str) -> PoolTask:
    """Pooling with the window of a convolution, for tests and benchmarks."""
    return PoolTask(
        what, conv.ic, conv.size, conv.kernel, conv.stride, conv.padding, conv.dilation, conv.out_size, conv.ic, conv.ic
    )
