"""Direct convolution for few pixels and many weights: every weight is read once, by one core.

The sums of all pixels of an image for some output channels stay in the first two caches, as scratch memory. Weights
come in panels of some input channels of one tap, small enough for the first cache; a panel meets all pixels that its
tap sees, in register tiles like those of `direct`, while the next panel is fetched. So memory is read at one even rate
beside the multiply-adds, where `direct` would read all weights of a block again for every tile.

A tile is any pixels of the rectangle of outputs for which the tap falls on the image: nothing is multiplied by padding.
Weights are packed as `direct` packs them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import Any

import numpy as np

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.conv.direct import LINE, Nest, cycles, pack_weights, store, three
from dojang.engine.kernels.task import Code, Offer, Refusal, Step, Task
from dojang.native.costs import COSTS
from dojang.native.emit import Emit, Value
from dojang.native.machine import Machine

NAME = "streamed"
MOST_PIXELS = 1024
MOST_TAPS = 25  # each is written apart
SUMS = 96 << 10  # bytes of sums of a unit, where more than one image shares its weights


@plain_repr
@dataclass(frozen=True, slots=True)
class StreamedBlocking:
    """Pixels × vectors of a register tile, input channels of a panel, images of a unit."""

    pixels: int
    vectors: int
    depth: int
    images: int


@plain_repr
@dataclass(frozen=True, slots=True)
class Tap:
    """A tap that falls on the image for the outputs `row`.. and `column`.., `rows` × `columns` of them."""

    number: int
    row: int
    column: int
    rows: int
    columns: int


def offer(task: Task, machine: Machine) -> Offer | Refusal:
    """For one group, up to two axes, few pixels and taps."""
    c = task.conv
    if c.transposed or c.groups > 1:
        return Refusal("transposed" if c.transposed else "grouped")
    if c.rank > 2:
        return Refusal("more than 2 dimensions")
    pixels = prod(c.out_size)
    if pixels < 2:
        return Refusal("one pixel: each weight is used once per image")
    if pixels > MOST_PIXELS:
        return Refusal("more pixels than sums that stay in cache")
    if prod(c.kernel) > MOST_TAPS:
        return Refusal(f"{prod(c.kernel)} taps, each of them written apart")
    return Offer(seconds(task, machine))


def nest_of(task: Task) -> Nest:
    """The convolution in three dimensions; pixels of 1×1 kernels in one row."""
    c = three(task.conv)
    # A nest knows the padding before the input only: what comes after shows in the output's size.
    if prod(c.kernel) == prod(c.stride) == 1 and not any(c.padding) and c.size == c.out_size:
        row = (1, 1, prod(c.size))
        return replace(c, size=row, out_size=row)
    return c


def taps_of(c: Nest) -> list[Tap]:
    """The taps that fall on the image anywhere, in the order of the weights."""

    def inside(axis: int, k: int) -> range:
        s, p, d, size = c.stride[axis], c.padding[axis], c.dilation[axis], c.size[axis]
        here = [o for o in range(c.out_size[axis]) if 0 <= o * s - p + k * d < size]
        return range(here[0], here[-1] + 1) if here else range(0)

    found = []
    for kh in range(c.kernel[1]):
        for kw in range(c.kernel[2]):
            rows, columns = inside(1, kh), inside(2, kw)
            if rows and columns:
                found.append(Tap(kh * c.kernel[2] + kw, rows.start, columns.start, len(rows), len(columns)))
    return found


def alike(c: Nest) -> Iterator[tuple[int, list[tuple[Tap, int]]]]:
    """Rows of taps that fall on the image for the same outputs: how many, and of the first one the taps that do: the
    first, how many.

    >>> c = Nest(16, 16, 1, (1, 14, 14), (1, 3, 3), (1, 2, 2), (0, 1, 1), (1, 1, 1), (1, 7, 7))
    >>> [(down, [(tap.number, across) for tap, across in groups]) for down, groups in alike(c)]
    [(1, [(0, 1), (1, 2)]), (2, [(3, 1), (4, 2)])]
    """
    by_row: dict[int, list[Tap]] = {}
    for tap in taps_of(c):
        by_row.setdefault(tap.number // c.kernel[2], []).append(tap)
    lines = list(by_row.values())
    for first, down in t.runs([[(o.row, o.rows, o.column, o.columns) for o in line] for line in lines]):
        line = lines[first]
        yield down, [(line[start], across) for start, across in t.runs([(o.column, o.columns) for o in line])]


@cache
def seen(c: Nest) -> dict[int, int]:
    """Numbers of outputs for which a tap falls on the image, and how many taps have that number."""
    return dict(Counter(tap.rows * tap.columns for tap in taps_of(c)))


def cut_of(task: Task, machine: Machine) -> StreamedBlocking:
    """The cut with the least estimated time for one image."""
    return _cut(nest_of(task), task.element.bytes, machine)


@cache
def _cut(c: Nest, element_bytes: int, machine: Machine) -> StreamedBlocking:
    lanes = machine.lanes(element_bytes)
    total = t.ceil_div(c.oc, lanes)
    cuts = []
    for v in range(1, min(4, total) + 1):
        depth = max(8, machine.l1 * 2 // 3 // (v * machine.vector_bytes) // 8 * 8)
        images = max(1, SUMS // (prod(c.out_size) * v * machine.vector_bytes))
        most = max(1, min(machine.tile_rows(v, spare=3), prod(c.out_size)))  # with fewer free, sums are spilled
        cuts += [StreamedBlocking(p, v, depth, images) for p in range(1, most + 1)]
    return min(cuts, key=lambda cut: work(c, cut, lanes, machine.cores))


def work(c: Nest, cut: StreamedBlocking, lanes: int, cores: int) -> float:
    """Estimated cycles of one core for one image; the last round of units may be for some cores only."""
    total, panels = t.ceil_div(c.oc, lanes), t.ceil_div(c.ic, cut.depth)
    cost = 0.0
    for v, count in ((cut.vectors, total // cut.vectors), (total % cut.vectors, 1)):
        if v and count:
            for pixels, taps in seen(c).items():
                for n, tiles in t.balanced_sizes(pixels, cut.pixels):
                    cost += count * taps * tiles * (cycles(n, v) * c.ic + panels * (1.5 * n * v + 12))
            cost += count * prod(c.out_size) * 4 * v
    blocks = t.ceil_div(total, cut.vectors)
    return cost * t.ceil_div(blocks, cores) * cores / blocks


def seconds(task: Task, machine: Machine) -> float:
    """Predicted seconds on one core per image: the multiply-adds, beside which the weights come from memory."""
    p, c, cut = machine.peaks, nest_of(task), cut_of(task, machine)
    many = min(max(1, task.conv.n), cut.images)
    compute = (
        work(c, cut, machine.lanes(task.element.bytes), machine.cores) * 4 * machine.lanes(4) / (p.fma_gflops * 1e9)
    )
    memory = task.fetched(task.conv.weight_bytes, p) / many
    return max(compute + COSTS.exposed_streamed * memory, memory)


def pack(task: Task, machine: Machine, weight: np.ndarray, bias: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Weights (oc, ic, *kernel) as [block][kh][kw][ic][oc in block], bias in whole vectors."""
    lanes = machine.lanes(task.element.bytes)
    return pack_weights(weight, bias, nest_of(task), lanes, cut_of(task, machine).vectors, task.element.dtype)


def emit(task: Task, machine: Machine) -> Code:
    """One step; a unit is one block of output channels of some images."""
    task = replace(task, conv=replace(task.conv, n=1))  # the code does not depend on the batch
    c, cut = nest_of(task), cut_of(task, machine)
    blocks = t.ceil_div(t.ceil_div(c.oc, machine.lanes(task.element.bytes)), cut.vectors)
    scratch = cut.images * prod(c.out_size) * cut.vectors * machine.vector_bytes
    step = Step(f"{NAME} {task} {cut}", lambda name: Streamed(name, task, cut, machine).text(),
                lambda n: blocks * t.ceil_div(n, cut.images))  # fmt: skip
    return Code((step,), scratch)


class Streamed:
    """The kernel of one layer while it is written."""

    def __init__(self, symbol: str, task: Task, cut: StreamedBlocking, machine: Machine) -> None:
        """Sizes in elements, as Python ints."""
        self.task, self.c, self.cut = task, nest_of(task), cut
        self.b: Emit = t.begin(symbol, machine)
        self.kind, self.size = task.element, task.element.bytes
        self.lanes = machine.lanes(self.size)
        self.vector = machine.vector_bytes
        self.places, self.pixels = prod(self.c.size), prod(self.c.out_size)

    def text(self) -> str:
        """Decodes the unit: blocks of channels are the slow index, so that a thread keeps one over all images."""
        b, c, cut, task = self.b, self.c, self.cut, self.task
        images = t.word(b, t.N, pointer=False)
        parts = b.udiv(b.add(images, cut.images - 1), cut.images)
        first = b.mul(b.urem(b.arg.unit, parts), cut.images)
        self.many = b.imin(b.sub(images, first), cut.images)
        block = b.udiv(b.arg.unit, parts)
        self.x = b.at(t.word(b, t.X), b.mul(first, self.places * task.x_ld * self.size))
        o = b.mul(block, cut.vectors * self.vector)
        weights = t.word(b, t.W)
        self.w = b.at(weights, b.mul(o, prod(c.kernel) * c.ic))
        # Threads take units from both ends, so this one's next unit is probably the one farther in.
        total = b.mul(parts, t.ceil_div(t.ceil_div(c.oc, self.lanes), cut.vectors))
        inward = b.select(b.less(b.mul(b.arg.unit, 2), total), b.index(1), b.index(-1))
        coming = b.udiv(b.imax(b.add(b.arg.unit, inward), 0), parts)
        self.coming = b.at(weights, b.mul(coming, cut.vectors * self.vector * prod(c.kernel) * c.ic))
        self.bias = b.at(t.word(b, t.B), o)
        at = lambda slot, ld: b.at(t.word(b, slot), b.mul(first, self.pixels * ld * self.size), o)  # noqa: E731
        self.y = at(t.Y, task.y_ld)
        self.r = at(t.R, task.residual_ld) if task.residual_ld else None
        full, rest = divmod(t.ceil_div(c.oc, self.lanes), cut.vectors)
        # The last block may be smaller or masked: it is written apart.
        same = full - (rest == 0 and c.oc % self.lanes > 0)
        width = cut.vectors * self.lanes
        last = lambda: self.block(rest or cut.vectors, c.oc - same * width)  # noqa: E731
        if same == 0:
            last()
        elif same * width >= c.oc:
            self.block(cut.vectors, width)
        else:
            b.choose(b.less(block, same), lambda: self.block(cut.vectors, width), last)
        return b.finish()

    def block(self, vectors: int, channels: int) -> None:
        """All pixels of the unit's images for one block of channels."""
        b = self.b
        self.pitch = vectors * self.vector  # bytes of one pixel's sums, and of the weights of one input channel
        count = b.mul(self.many, self.pixels)
        biases = [b.vload(b.at(self.bias, v * self.vector), self.kind) for v in range(vectors)]

        def begin(q: Value, _: Any) -> None:
            for v in range(vectors):
                b.vstore(biases[v], b.at(b.arg.scratch, b.mul(q, self.pitch), v * self.vector), self.kind)

        b.loop(0, count, 1, begin)

        # Taps that fall on the image for the same outputs are one loop: of nine taps at stride 2 four are written.
        def line(down: Any, groups: Sequence[tuple[Tap, int]]) -> None:
            for tap, across in groups:
                b.loop(0, across, 1, lambda j, _, tap=tap: self.tap(tap, down, j, vectors))

        for down, groups in alike(self.c):
            b.loop(0, down, 1, lambda i, _, groups=groups: line(i, groups))

        def end(q: Value, _: Any) -> None:
            sums = [
                b.vload(b.at(b.arg.scratch, b.mul(q, self.pitch), v * self.vector), self.kind) for v in range(vectors)
            ]
            task = self.task
            store(b, task, sums, 1, vectors, channels, b.at(self.y, b.mul(q, task.y_ld * self.size)),
                  b.at(self.r, b.mul(q, task.residual_ld * self.size)) if self.r is not None else None)  # fmt: skip

        b.loop(0, count, 1, end)

    def tap(self, tap: Tap, down: Any, across: Any, vectors: int) -> None:
        """All panels of the tap that is so many rows and columns behind another one."""
        b, c = self.b, self.c
        w = b.at(self.w, b.mul(b.add(b.mul(down, c.kernel[2]), b.add(tap.number, across)), c.ic * self.pitch))
        for first, depth, many in self.panels():
            b.loop(first, first + many * depth, depth,
                   lambda k, _, depth=depth: self.panel(tap, down, across, w, k, depth, vectors))  # fmt: skip

    def panels(self) -> Iterator[tuple[int, int, int]]:
        """(first input channel, channels of a panel, how many such panels)."""
        cuts = t.balanced(self.c.ic, self.cut.depth)
        for first, many in t.runs([n for _, n in cuts]):
            yield *cuts[first], many

    def panel(self, tap: Tap, down: Any, across: Any, w: Value, k: Any, depth: int, vectors: int) -> None:
        """One panel of weights, from input channel `k` of a tap on, with all pixels that the tap sees."""
        b, c = self.b, self.c
        w = b.at(w, b.mul(k, self.pitch))
        kh, kw = divmod(tap.number, c.kernel[2])
        top = b.add(tap.row * c.stride[1] - c.padding[1] + kh * c.dilation[1], b.mul(down, c.dilation[1]))
        left = b.add(tap.column * c.stride[2] - c.padding[2] + kw * c.dilation[2], b.mul(across, c.dilation[2]))
        pixel = b.mul(b.add(b.mul(top, c.size[2]), left), self.task.x_ld * self.size)
        x = b.at(self.x, pixel, b.mul(k, self.size))
        sums = b.at(b.arg.scratch, (tap.row * c.out_size[2] + tap.column) * self.pitch)
        tiles = t.balanced(tap.rows * tap.columns, self.cut.pixels)
        each = t.ceil_div(depth * self.pitch, LINE * len(tiles))  # lines of the next panel that one tile fetches
        ahead = b.at(w, depth * self.pitch)
        last = taps_of(c)[-1]
        if (tap.row, tap.rows, tap.column, tap.columns) == (last.row, last.rows, last.column, last.columns):
            # After the last panel, the first one of the next unit.
            number = b.add(b.mul(down, c.kernel[2]), b.add(tap.number, across))
            more = b.or_(b.less(b.index(b.add(k, depth)), c.ic), b.less(b.index(number), last.number))
            ahead = b.select(more, ahead, self.coming)

        def image(i: Any, _: Any) -> None:
            xi = b.at(x, b.mul(i, self.places * self.task.x_ld * self.size))
            si = b.at(sums, b.mul(i, self.pixels * self.pitch))
            for first, many in t.runs([n for _, n in tiles]):
                start, count = tiles[first]

                def some(q: Any, _: Any, count: int = count) -> None:
                    mine = b.at(ahead, b.mul(b.udiv(q, self.cut.pixels), each * LINE))
                    self.tile(tap, q, count, xi, si, w, depth, vectors, mine, each)

                b.loop(start, start + many * count, count, some)

        b.loop(0, self.many, 1, image)

    def tile(self, tap: Tap, q: Any, count: int, x, sums, w, depth: int, vectors: int, ahead, each: int) -> None:
        """`count` pixels from the q-th of the tap's rectangle on: sums loaded, `depth` products added, sums stored."""
        b, c = self.b, self.c
        xs, outs = [], []
        for p in range(count):
            place = b.add(q, p)
            row, column = (0, place) if tap.rows == 1 else (b.udiv(place, tap.columns), b.urem(place, tap.columns))
            at = b.add(b.mul(row, c.stride[1] * c.size[2]), b.mul(column, c.stride[2]))
            xs.append(b.at(x, b.mul(at, self.task.x_ld * self.size)))
            outs.append(b.at(sums, b.mul(b.add(b.mul(row, c.out_size[2]), column), self.pitch)))
        acc = [b.vload(b.at(out, v * self.vector), self.kind) for out in outs for v in range(vectors)]
        every = max(1, depth // each)  # turns from one fetched line to the next
        lines = t.ceil_div(each, depth)  # of each of these turns
        tight = count * vectors + vectors + 2 >= b.machine.registers
        unroll = 1 if tight and every == 1 else every if every in (2, 4) else 2
        unroll = unroll if unroll <= b.machine.turns(count, vectors) else 1

        def turn(k: Any, acc: list[Value], first: bool) -> list[Value]:
            acc = list(acc)
            if first:
                for line in range(lines):
                    b.prefetch(b.at(ahead, b.mul(b.udiv(k, unroll), lines * LINE), line * LINE), locality=2)
            wk, xk = b.at(w, b.mul(k, self.pitch)), b.mul(k, self.size)
            ws = [b.vload(b.at(wk, v * self.vector), self.kind) for v in range(vectors)]
            for p in range(count):
                xv = b.splat_load(b.at(xs[p], xk), self.kind)
                for v in range(vectors):
                    acc[p * vectors + v] = b.fma(xv, ws[v], acc[p * vectors + v])
            return acc

        def turns(k: Any, acc: list[Value]) -> list[Value]:
            for i in range(unroll):
                acc = turn(b.add(k, i), acc, i == 0)
            return acc

        whole = depth // unroll * unroll
        acc = b.loop(0, whole, unroll, turns, acc)
        for k in range(whole, depth):
            acc = turn(k, acc, False)
        for out, (p, v) in ((outs[i // vectors], divmod(i, vectors)) for i in range(count * vectors)):
            b.vstore(acc[p * vectors + v], b.at(out, v * self.vector), self.kind)
