"""Layers in a row, one band of rows after the other: what lies between them never leaves the cache of a core.

*front*: a convolution, *middle*: a depthwise convolution or a pooling, *back*: a 1×1 convolution; front or back may be
missing. The block of MobileNetV2 (expand, depthwise, project), depthwise + pointwise, and convolution + pooling are of
this form. A unit computes some rows of the middle's output: block by block of channels the rows of the front that they
need (to scratch memory), then the middle; when all channels are there, the back. Rows of the front that two bands need
are computed twice. Without a back, units may also be blocks of channels, with no row computed twice.

Weights are those of the three layers one after the other, each as its own kernel packs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import inf, prod
from typing import Any

import numpy as np

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.conv import direct, grouped
from dojang.engine.kernels.conv.direct import Direct, Tile, cycles, pack_weights, three
from dojang.engine.kernels.conv.grouped import Grouped
from dojang.engine.kernels.other import pool
from dojang.engine.kernels.other.pool import Pool, PoolTask
from dojang.engine.kernels.task import Code, Offer, Refusal, Step, Task
from dojang.native.costs import COSTS
from dojang.native.emit import I64, PTR, Emit, Value
from dojang.native.machine import Machine

NAME = "bands"


@plain_repr
@dataclass(frozen=True, slots=True)
class BandTask:
    """Layers in a row; sizes and channels of neighbours agree. `x_ld` counts of the first, `y_ld` of the last."""

    front: Task | None
    middle: Task | PoolTask
    back: Task | None = None

    @property
    def stages(self) -> tuple[Task | PoolTask, ...]:
        """The layers that are there, in order."""
        return tuple(s for s in (self.front, self.middle, self.back) if s is not None)


@plain_repr
@dataclass(frozen=True, slots=True)
class Window:
    """The middle along rows (h) and columns (w)."""

    channels: int
    h: int
    w: int
    oh: int
    ow: int
    kh: int
    kw: int
    sh: int
    sw: int
    ph: int
    dh: int

    def rows(self, out: int) -> int:
        """Most input rows under `out` output rows."""
        return max(1, min(self.h, (out - 1) * self.sh + (self.kh - 1) * self.dh + 1))


@plain_repr
@dataclass(frozen=True, slots=True)
class BandBlocking:
    """Rows of the middle's output per unit, vectors of channels per block, blocks per unit."""

    rows: int
    vectors: int
    blocks: int


def window_of(task: BandTask) -> Window:
    """The middle's geometry."""
    m = task.middle
    if isinstance(m, PoolTask):
        p = m.three()
        before, channels = tuple(a for a, _ in p.padding), m.channels
    else:
        p = three(m.conv)
        before, channels = p.padding, m.conv.oc
    (h, w), (oh, ow), (kh, kw), (sh, sw) = (v[1:] for v in (p.size, p.out_size, p.kernel, p.stride))
    return Window(channels, h, w, oh, ow, kh, kw, sh, sw, before[1], p.dilation[1])


def offer(task: BandTask, machine: Machine) -> Offer | Refusal:
    """For float32 images of one or two axes, a middle of one channel per group, a back of one tap."""
    reason = refusal_of_middle(task.middle, machine)
    if reason is not None:
        return Refusal(reason)
    if task.front is not None and (task.front.conv.groups > 1 or task.front.residual_ld):
        return Refusal("the front has groups or a residual")
    if any(s.kind != "f32" for s in task.stages if isinstance(s, Task)):
        return Refusal("not float32")
    for stage in (task.front, task.back):
        found = None if stage is None else direct.offer(stage, machine)
        if isinstance(found, Refusal):
            return found
    back = task.back
    if back is not None and not (back.conv.pointwise and back.conv.groups == 1 and max(back.conv.stride) == 1
                                 and not any(p for pair in back.conv.padding for p in pair)):  # fmt: skip
        return Refusal("the back has more than one tap, stride, padding or groups")
    seconds = plan(task, machine)[1]
    return Offer(seconds) if seconds < inf else Refusal("no output")


def refusal_of_middle(m: Task | PoolTask, machine: Machine) -> str | None:
    """Why bands cannot be cut from this depthwise convolution or pooling; None if they can."""
    if isinstance(m, PoolTask):
        found = pool.offer(m, machine)
        if isinstance(found, Refusal):
            return found.reason
        if len(m.size) > 2:
            return "more than 2 dimensions"
        return "one window" if prod(m.out_size) == 1 else None
    c, found = m.conv, grouped.offer(m, machine)
    if isinstance(found, Refusal):
        return found.reason
    if c.rank > 2 or not c.ic == c.oc == c.groups or m.residual_ld:
        return "the middle is no plain depthwise convolution of an image"
    return None


def vectors_of(channels: int, machine: Machine) -> int:
    """Registers that hold one pixel's channels."""
    return t.ceil_div(channels, machine.lanes(4))


def tile_of(task: Task, machine: Machine) -> Tile:
    """The register tile of front or back."""
    return direct.tile_for(three(replace(task.conv, n=1)), 4, machine)


def between(task: BandTask, cut: BandBlocking, machine: Machine) -> tuple[int, int]:
    """(elements from pixel to pixel in the back's input, bytes of the front's rows) in scratch memory."""
    w, lanes = window_of(task), machine.lanes(4)
    lines = t.ceil_div(vectors_of(w.channels, machine) * machine.vector_bytes, 64) | 1  # odd: spread over all sets
    front = w.rows(cut.rows) * w.w * cut.vectors * lanes * 4 if task.front is not None else 0
    return lines * 16, front


def scratch_of(task: BandTask, cut: BandBlocking, machine: Machine) -> int:
    """Bytes of scratch memory."""
    ld, front = between(task, cut, machine)
    return front + (cut.rows * window_of(task).ow * ld * 4 if task.back is not None else 0)


def row_cycles(task: Task, tile: Tile, machine: Machine) -> float:
    """Estimated cycles of an output row of front or back."""
    c = three(task.conv)
    total, k = 0.0, prod(c.kernel) * c.ic
    vectors = vectors_of(c.oc, machine)
    for count, size in ((vectors // tile.vectors, tile.vectors), (1, vectors % tile.vectors)):
        if size and count:
            tiles = t.balanced(c.out_size[2], tile.pixels)
            total += count * sum(cycles(n, size) * k + 12 + 1.5 * n * size for _, n in tiles)
    return total


def middle_cycles(w: Window, machine: Machine) -> float:
    """Estimated cycles of an output row of the middle: loads of a tile's columns, once per kernel row, or its sums."""
    loads = w.kh * (w.ow * w.sw + t.ceil_div(w.ow, 14) * (2 * w.kw - 1))
    sums = w.kh * w.kw * w.ow
    return vectors_of(w.channels, machine) * (max(loads, sums) / 2 + 2 * w.ow + 10)


@cache
def plan(task: BandTask, machine: Machine) -> tuple[BandBlocking, float]:
    """The cut with the least estimated time, and that time: seconds of a core for an image, infinite without output."""
    w, p, lanes = window_of(task), machine.peaks, machine.lanes(4)
    vectors = vectors_of(w.channels, machine)
    if task.front is not None:
        tile = tile_of(task.front, machine)
        block, front = tile.vectors, row_cycles(task.front, tile, machine)
    else:  # the rows under a window stay in the first cache
        fit = machine.l1 // 2 // (w.kh * w.w * machine.vector_bytes)
        block, front = max(min(4, vectors), min(vectors, fit)), 0.0
    middle = middle_cycles(w, machine)
    back = row_cycles(task.back, tile_of(task.back, machine), machine) if task.back is not None else 0.0
    weights = 4 * sum(prod(s.conv.weight_shape) for s in task.stages if isinstance(s, Task))
    blocks = t.ceil_div(vectors, block)
    images = max(1, task.middle.conv.n) if isinstance(task.middle, Task) else 1
    seconds_per_cycle = 4 * lanes / (p.fma_gflops * 1e9)
    first = task.stages[0]
    row_in = 4 * (first.conv.ic * prod(first.conv.size) if isinstance(first, Task) else w.channels * w.h * w.w) / w.h
    last = task.stages[-1]
    row_out = 4 * w.ow * (last.conv.oc if isinstance(last, Task) else w.channels)
    best: tuple[float, BandBlocking] | None = None
    for rows in sorted({t.ceil_div(w.oh, i) for i in range(1, w.oh + 1)}):
        for some in {t.ceil_div(blocks, i) for i in range(1, blocks + 1)} if task.back is None else (blocks,):
            cut = BandBlocking(rows, block, some)
            if scratch_of(task, cut, machine) > COSTS.between_layers * machine.l2 and rows > 1:
                continue
            units = images * t.ceil_div(w.oh, rows) * t.ceil_div(blocks, some)
            share = min(1.0, some / blocks)
            compute = share * (w.rows(rows) * front + rows * (middle + back)) * seconds_per_cycle
            moved = w.rows(rows) * row_in * (share if task.front is None else 1) + share * (rows * row_out + weights)
            unit = compute + moved / (p.cache_gbs * 2e9) + COSTS.start_band_s
            turns = t.ceil_div(units, machine.cores)
            cost = turns * unit * machine.cores / images
            if best is None or cost < best[0]:
                best = (cost, cut)
    if best is None:
        return BandBlocking(1, block, blocks), inf
    return best[1], best[0]


def offsets(task: BandTask, machine: Machine) -> tuple[list[int], list[int]]:
    """Bytes from the first weight, and from the first bias, to those of each stage."""
    lanes = machine.lanes(4)
    at, bias = [0], [0]
    for stage in task.stages:
        size, width = 0, 0
        if isinstance(stage, Task):
            c = stage.conv
            width = vectors_of(c.oc, machine) * lanes * 4
            size = width * prod(c.kernel) * (c.ic // c.groups)
        at.append(at[-1] + t.ceil_div(size, 64) * 64)
        bias.append(bias[-1] + t.ceil_div(width, 64) * 64)
    return at, bias


def pack(
    task: BandTask, machine: Machine, arrays: Sequence[tuple[np.ndarray, np.ndarray | None] | None]
) -> tuple[np.ndarray, np.ndarray]:
    """(weight, bias) of each stage (None for a pooling), packed one after the other."""
    at, biases = offsets(task, machine)
    weights, bias = t.lined((at[-1] // 4,), "f4"), t.lined((biases[-1] // 4,), "f4")
    weights[:], bias[:] = 0, 0
    cut, lanes = plan(task, machine)[0], machine.lanes(4)
    for k, (stage, pair) in enumerate(zip(task.stages, arrays, strict=True)):
        if pair is None or isinstance(stage, PoolTask):
            continue
        if stage is task.middle:
            w, v = grouped.pack(stage, machine, *pair)
        else:
            many = cut.vectors if stage is task.front else tile_of(stage, machine).vectors
            w, v = pack_weights(*pair, three(stage.conv), lanes, many, "f4")
        weights[at[k] // 4 :][: w.size] = w
        bias[biases[k] // 4 :][: v.size] = v
    return weights, bias


def emit(task: BandTask, machine: Machine) -> Code:
    """One step."""
    cut, _ = plan(task, machine)
    alike: Any = lambda s: replace(s, conv=replace(s.conv, n=1)) if isinstance(s, Task) else s  # noqa: E731
    task = BandTask(alike(task.front), alike(task.middle), alike(task.back))
    w = window_of(task)
    blocks = t.ceil_div(vectors_of(w.channels, machine), cut.vectors)
    units = t.ceil_div(w.oh, cut.rows) * t.ceil_div(blocks, cut.blocks)
    recipe = f"{NAME} {task} {cut} {[tile_of(s, machine) for s in (task.front, task.back) if s is not None]}"
    step = Step(recipe, lambda name: Bands(name, task, cut, machine).text(), lambda n: n * units)
    return Code((step,), scratch_of(task, cut, machine))


class Bands:
    """The loop nest of one kernel while it is written."""

    def __init__(self, symbol: str, task: BandTask, cut: BandBlocking, machine: Machine) -> None:
        """The writers of the stages share one builder."""
        self.task, self.cut, self.machine = task, cut, machine
        self.w = window_of(task)
        self.b: Emit = t.begin(symbol, machine)
        self.lanes = machine.lanes(4)
        self.vectors = vectors_of(self.w.channels, machine)
        self.d_ld, self.d_at = between(task, cut, machine)
        self.e_ld = cut.vectors * self.lanes
        self.at, self.bias_at = offsets(task, machine)
        self.x_ld, self.y_ld = task.stages[0].x_ld, task.stages[-1].y_ld

    def text(self) -> str:
        """Decodes the unit; blocks of channels, then the back."""
        b, w, cut = self.b, self.w, self.cut
        blocks = t.ceil_div(self.vectors, cut.vectors)
        parts, bands = t.ceil_div(blocks, cut.blocks), t.ceil_div(w.oh, cut.rows)
        part, place = b.urem(b.arg.unit, parts), b.udiv(b.arg.unit, parts)
        band, image = b.urem(place, bands), b.udiv(place, bands)
        self.first = b.mul(band, cut.rows)
        self.last = b.imin(b.add(self.first, cut.rows), w.oh)
        # Rows of the middle's input that are needed.
        self.lo = b.imax(b.sub(b.mul(self.first, w.sh), w.ph), 0)
        reach = (w.kh - 1) * w.dh + 1 - w.ph
        self.hi = b.imin(b.add(b.mul(b.sub(self.last, 1), w.sh), reach), w.h)
        first, last = self.task.stages[0], self.task.stages[-1]
        size_in = first.conv.size if isinstance(first, Task) else first.size
        self.x = b.at(t.word(b, t.X), b.mul(image, prod(size_in) * self.x_ld * 4))
        self.y = b.at(t.word(b, t.Y), b.mul(image, w.oh * w.ow * self.y_ld * 4))
        self.r = None
        if isinstance(last, Task) and last.residual_ld:
            self.r = b.at(t.word(b, t.R), b.mul(image, w.oh * w.ow * last.residual_ld * 4))
        self.weights, self.biases = t.word(b, t.W), t.word(b, t.B)
        self.low, self.units = b.mul(part, cut.blocks), parts * bands
        write = self.middle_of_pool() if isinstance(self.task.middle, PoolTask) else self.middle_of_conv()
        front = self.front()
        masked = self.task.front is None or self.task.back is None

        def block(v: Any, count: int, channels: int) -> None:
            if front is not None:
                front(v, count)
            write(v, count, channels if masked else count * self.lanes)

        high = b.imin(b.add(self.low, cut.blocks), blocks)
        in_blocks(b, self.vectors, cut.vectors, w.channels, masked, block, self.low, high)
        if self.task.back is not None:
            self.back(self.task.back)
        return b.finish()

    def stage(self, k: int) -> tuple[Value, Value]:
        """Weights and biases of stage k of those that are there."""
        return self.b.at(self.weights, self.at[k]), self.b.at(self.biases, self.bias_at[k])

    def part(
        self, name: str, pointers: dict[str, Value], lo: Value, hi: Value, write: Any, ahead: t.Ahead | None = None
    ) -> None:
        """Calls a function of its own for rows lo..hi, with these pointers: each stage has all registers to itself."""
        if ahead is not None:
            pointers = pointers | {"ahead": ahead.base}
        params = {**dict.fromkeys(pointers, PTR), "lo": I64, "hi": I64, **({"each": I64} if ahead is not None else {})}
        f = Emit.begin(f"{name}{len(self.b.module.functions)}", params, self.machine, self.b.module, internal=True)
        write(f)
        f.ret_void()
        args = [*pointers.values(), lo, hi, *([ahead.each] if ahead is not None else [])]
        self.b.call(f.function, [self.b.index(a) for a in args])

    def front(self) -> Callable[[Any, int], None] | None:
        """Writes rows lo..hi of some vectors of the front's channels into scratch memory."""
        task, b = self.task.front, self.b
        if task is None:
            return None
        tile = replace(tile_of(task, self.machine), vectors=self.cut.vectors)
        weights, biases = self.stage(0)
        per = self.lanes * prod(task.conv.kernel) * task.conv.ic * 4
        target = self.shifted(b.arg.scratch, self.lo, self.w.w * self.e_ld)
        per_block = self.w.rows(self.cut.rows) * len(t.balanced(self.w.w, tile.pixels))
        ahead = self.ahead(per_block * self.cut.blocks) if task.conv.pointwise else None
        tiles = lambda v: b.mul(b.sub(b.udiv(v, self.cut.vectors), self.low), per_block)  # noqa: E731

        def rows(v: Any, count: int) -> None:
            def write(f: Emit) -> None:
                kernel = Direct(f, replace(task, y_ld=self.e_ld), three(task.conv), tile, self.machine)
                kernel.x, kernel.w, kernel.bias, kernel.y, kernel.r = f.arg.x, f.arg.w, f.arg.bias, f.arg.y, None
                kernel.ahead = t.Ahead(f.arg.ahead, f.arg.each) if ahead is not None else None
                kernel.rows(f.arg.lo, f.arg.hi, count, count * self.lanes)

            pointers = {"x": self.x, "w": b.at(weights, b.mul(v, per)), "bias": b.at(biases, b.mul(v, self.lanes * 4))}
            self.part("front", pointers | {"y": target}, self.lo, self.hi, write, ahead and ahead.tile(b, tiles(v)))

        return rows

    def ahead(self, tiles: int) -> t.Ahead:
        """This unit's share of the weights that come next, fetched by so many register tiles."""
        return t.Ahead.of(self.b, self.b.arg.unit, self.units, tiles)

    def shifted(self, base: Value, row: Value, elements: int) -> Value:
        """Where row 0 would lie if `row` lay at `base`."""
        return self.b.at(base, self.b.sub(0, self.b.mul(row, elements * 4)))

    def source(self, v: Any) -> tuple[Value, int]:
        """The middle's input from vector v on, and elements from pixel to pixel."""
        b = self.b
        if self.task.front is not None:
            return self.shifted(b.arg.scratch, self.lo, self.w.w * self.e_ld), self.e_ld
        return b.at(self.x, b.mul(v, self.lanes * 4)), self.x_ld

    def target(self, v: Any) -> tuple[Value, int]:
        """Where the middle writes from vector v on, and elements from pixel to pixel."""
        b = self.b
        base, ld = self.y, self.y_ld
        if self.task.back is not None:
            base, ld = self.shifted(b.at(b.arg.scratch, self.d_at), self.first, self.w.ow * self.d_ld), self.d_ld
        return b.at(base, b.mul(v, self.lanes * 4)), ld

    def middle_of_conv(self) -> Callable[[Any, int, int], None]:
        """Rows first..last of a depthwise convolution, for some vectors of channels."""
        b, task = self.b, self.task.middle
        assert isinstance(task, Task)
        weights, biases = self.stage(int(self.task.front is not None))
        per = self.lanes * prod(task.conv.kernel) * 4

        def rows(v: Any, count: int, channels: int) -> None:
            (x, x_ld), (y, y_ld) = self.source(v), self.target(v)

            def write(f: Emit) -> None:
                kernel = Grouped(f, replace(task, x_ld=x_ld, y_ld=y_ld), self.machine)
                whole = channels // self.lanes

                def tile(start, pixels, inside, depth, height, yr, _):
                    def one(u: Any, some: int) -> None:
                        o = f.mul(u, self.lanes * 4)
                        bias = f.vload(f.at(f.arg.bias, o), kernel.kind)
                        w = f.at(f.arg.w, f.mul(u, per))
                        kernel.one(start, pixels, inside, some, f.at(f.arg.x, o), w, bias, f.at(yr, o), None,
                                   depth, height)  # fmt: skip

                    f.loop(0, whole, 1, lambda u, _: one(u, self.lanes))
                    if whole < count:
                        one(whole, channels - whole * self.lanes)

                f.loop(f.arg.lo, f.arg.hi, 1, lambda r, _: kernel.row(r, f.arg.y, None, tile))

            w, bias = b.at(weights, b.mul(v, per)), b.at(biases, b.mul(v, self.lanes * 4))
            self.part("middle", {"x": x, "w": w, "bias": bias, "y": y}, self.first, self.last, write)

        return rows

    def middle_of_pool(self) -> Callable[[Any, int, int], None]:
        """Rows first..last of a pooling, for some vectors of channels."""
        task = self.task.middle
        assert isinstance(task, PoolTask)

        def rows(v: Any, count: int, channels: int) -> None:
            (x, x_ld), (y, y_ld) = self.source(v), self.target(v)

            def write(f: Emit) -> None:
                kernel = Pool(f, replace(task, x_ld=x_ld, y_ld=y_ld).three(), self.machine)
                whole = channels // self.lanes

                def one(u: Any, mask: Any) -> None:
                    xu, yu = (f.at(p, f.mul(u, self.lanes * 4)) for p in (f.arg.x, f.arg.y))
                    f.loop(f.arg.lo, f.arg.hi, 1, lambda r, _: kernel.row(r, lambda body: body(xu, yu, mask)))

                f.loop(0, whole, 1, lambda u, _: one(u, None))
                if whole < count:
                    one(whole, f.mask(channels - whole * self.lanes, self.lanes))

            self.part("middle", {"x": x, "y": y}, self.first, self.last, write)

        return rows

    def back(self, task: Task) -> None:
        """Rows first..last of the 1×1 convolution, from scratch memory."""
        b, tile = self.b, tile_of(task, self.machine)
        weights, biases = self.stage(len(self.task.stages) - 1)
        per = self.lanes * task.conv.ic * 4
        source = self.shifted(b.at(b.arg.scratch, self.d_at), self.first, self.w.ow * self.d_ld)

        vectors = vectors_of(task.conv.oc, self.machine)
        per_block = self.cut.rows * len(t.balanced(self.w.ow, tile.pixels))
        front = self.task.front  # the weights that come next are fetched by one stage
        ahead = None if front is not None and front.conv.pointwise else self.ahead(
            per_block * t.ceil_div(vectors, tile.vectors))  # fmt: skip

        def block(v: Any, count: int, channels: int) -> None:
            def write(f: Emit) -> None:
                kernel = Direct(f, replace(task, x_ld=self.d_ld), three(task.conv), tile, self.machine)
                kernel.x, kernel.w, kernel.bias, kernel.y = f.arg.x, f.arg.w, f.arg.bias, f.arg.y
                kernel.r = f.arg.r if task.residual_ld else None
                kernel.ahead = t.Ahead(f.arg.ahead, f.arg.each) if ahead is not None else None
                kernel.rows(f.arg.lo, f.arg.hi, count, channels)

            o = b.mul(v, self.lanes * 4)
            pointers = {"x": source, "w": b.at(weights, b.mul(v, per)), "bias": b.at(biases, o), "y": b.at(self.y, o)}
            pointers |= {"r": b.at(self.r, o)} if self.r is not None else {}
            index = b.mul(b.udiv(v, tile.vectors), per_block)
            self.part("back", pointers, self.first, self.last, write, ahead and ahead.tile(b, index))

        in_blocks(b, vectors, tile.vectors, task.conv.oc, True, block)


def in_blocks(
    b: Emit, vectors: int, each: int, channels: int, masked: bool, body: Callable, low: Any = 0, high: Any = None
) -> None:
    """`body(first vector, vectors, channels)` for the blocks low..high of `each` vectors; the last one is written apart
    if it is smaller, or if it is masked.
    """
    lanes = b.machine.lanes(4)
    blocks = t.ceil_div(vectors, each)
    apart = vectors % each != 0 or (masked and channels % lanes != 0)
    same = blocks - apart
    high = blocks if high is None else high
    b.loop(low, b.imin(high, same), 1, lambda j, _: body(b.mul(j, each), each, each * lanes))
    if apart:
        first = same * each
        rest = lambda: body(first, vectors - first, channels - first * lanes)  # noqa: E731
        if isinstance(high, int):
            rest()
        else:
            b.choose(b.less(same, high), lambda: rest())
