"""How a layer is cut for matrix tiles, and its kernel: split inputs, products, outputs, and plain sums for what is not
finite. `amx.py` chooses the cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.activations import activate
from dojang.engine.kernels.conv import amx_tiles as tiles
from dojang.engine.kernels.conv.direct import Nest
from dojang.engine.kernels.task import Task
from dojang.native.emit import F32, I16, I32, Emit, Value
from dojang.native.machine import Machine

CHUNK = 24  # steps of 32 products whose weights a unit splits at a time: 72 KB for 16 output channels
ROWS = tiles.DEPTH // 2  # pairs of k in a tile of right factors


@plain_repr
@dataclass(frozen=True, slots=True)
class AmxBlocking:
    """How a layer is cut: `rows` pixels of a tile, `pixels` × `vectors` tiles at a time, `lines` output rows of a unit,
    for `vectors` · `blocks` · 16 output channels of it.
    """

    rows: int
    pixels: int
    vectors: int
    lines: int
    blocks: int
    own: bool
    fresh: bool
    inner: bool = False  # channels are the inner loop: the pixels' parts stay in the first cache


@plain_repr
@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of the split input: its places are input places `first`, `first` + `step`, ...; an output uses every
    `stride`-th of them, taps are `dilation` apart.
    """

    first: int
    step: int
    stride: int
    dilation: int
    kernel: int
    size: int

    def places(self, outputs: int) -> int:
        """Places that so many neighbouring outputs look at."""
        return (outputs - 1) * self.stride + (self.kernel - 1) * self.dilation + 1


def axes_of(c: Nest) -> tuple[Axis, Axis]:
    """Rows and columns. With one tap along an axis only the places that outputs use are kept."""

    def axis(k: int) -> Axis:
        step = c.stride[k] if c.kernel[k] == 1 else 1
        return Axis(-c.padding[k], step, c.stride[k] // step, c.dilation[k], c.kernel[k], c.size[k])

    return axis(1), axis(2)


@plain_repr
@dataclass(frozen=True, slots=True)
class Depth:
    """The order of K: `runs` of `length` products, each padded to `steps` steps of 32; `pitch` numbers per pixel."""

    runs: int
    length: int
    pitch: int
    row: bool  # a run is a row of taps

    @property
    def steps(self) -> int:
        """Steps of one run."""
        return t.ceil_div(self.length, tiles.DEPTH)

    @property
    def total(self) -> int:
        """Steps of all runs."""
        return self.runs * self.steps


def depth_of(c: Nest) -> Depth:
    """Rows of taps where that takes fewer steps than single taps."""
    pitch = t.ceil_div(c.ic, tiles.DEPTH) * tiles.DEPTH
    # An odd number of cache lines from pixel to pixel: the rows of a tile fall into different sets of the caches.
    taps = Depth(c.kernel[1] * c.kernel[2], c.ic, pitch + (tiles.DEPTH if pitch % (8 * tiles.DEPTH) == 0 else 0), False)
    row = Depth(c.kernel[1], c.kernel[2] * c.ic, c.ic, True)
    return row if c.kernel[2] > 1 and c.dilation[2] == 1 and row.total < taps.total else taps


def tall(s: AmxBlocking, wide: int, per_line: int) -> int:
    """Tiles of pixels of a block that is `wide` tiles of channels across."""
    return s.pixels if wide == s.vectors else max(1, min(tiles.MOST_SUMS // wide, s.lines * per_line))


@plain_repr
@dataclass(frozen=True, slots=True)
class Region:
    """Split inputs in memory: [part][line][place][number]; bytes of each."""

    lines: int
    line: int
    part: int

    @property
    def bytes(self) -> int:
        """Of all parts."""
        return tiles.PARTS * self.part


class AmxKernel:
    """One layer while it is written. Offsets in bytes."""

    def __init__(self, task: Task, nest: Nest, cut: AmxBlocking, machine: Machine) -> None:
        """Sizes as Python ints."""
        self.task, self.c, self.s, self.machine = task, nest, cut, machine
        self.depth = depth_of(nest)
        self.down, self.across = axes_of(nest)
        self.oh, self.ow = nest.out_size[1:]
        self.vectors = t.ceil_div(nest.oc, tiles.LANES)
        self.per_line = t.ceil_div(self.ow, cut.rows)
        self.per_unit = cut.lines * self.per_line  # tiles of pixels
        self.pixel = 2 * self.depth.pitch
        self.pitch = self.across.stride * self.pixel
        self.groups = 1 if cut.own else t.ceil_div(self.vectors, cut.vectors * cut.blocks)
        self.region = self.region_of(cut.lines if cut.own else self.oh)
        self.shared_lines = max(1, self.region.lines // (4 * machine.cores))
        # scratch: tiles' shape, what is not finite, sums, fresh weights, split inputs
        self.bad_at = tiles.CONFIG
        self.sums_at = 128
        sums = (self.per_unit + tiles.MOST_SUMS) * cut.vectors if cut.fresh else 2 * tiles.MOST_SUMS
        self.fresh_at = self.sums_at + sums * tiles.TILE
        self.chunk = t.ceil_div(self.depth.total, t.ceil_div(self.depth.total, CHUNK))
        fresh = 2 * self.chunk * cut.vectors * tiles.PARTS * tiles.TILE if cut.fresh else 0
        self.region_at = self.fresh_at + fresh
        self.scratch = self.region_at + (self.region.bytes if cut.own else 0)

    def region_of(self, lines: int) -> Region:
        """The split input of so many output rows, with room after it for tiles that are not full and blocks of tiles
        that go beyond the last row.
        """
        count = self.down.places(lines)
        line = self.across.places(self.ow) * self.pixel
        beyond = tiles.MOST_SUMS * tiles.ROWS * self.pitch + tiles.MOST_SUMS * self.down.stride * line
        part = t.ceil_div(count * line + beyond + 2 * tiles.DEPTH, 64) * 64
        return Region(count, line, part + (64 if part % 4096 == 0 else 0))

    def start(self, symbol: str) -> Emit:
        """A builder."""
        self.b = t.begin(symbol, self.machine)
        return self.b

    # -- split inputs ------------------------------------------------------------------------------------------------

    def splitting(self, symbol: str) -> str:
        """A unit splits some lines of one image into the first shared area."""
        b = self.start(symbol)
        units = t.ceil_div(self.region.lines, self.shared_lines)
        image, first = b.udiv(b.arg.unit, units), b.mul(b.urem(b.arg.unit, units), self.shared_lines)
        last = b.imin(b.add(first, self.shared_lines), self.region.lines)
        to = b.at(t.word(b, t.S0), b.mul(image, self.region.bytes))
        self.split_lines(image, 0, first, last, to)
        b.choose(b.less(last, self.region.lines), lambda: None, lambda: self.clear_after(to, self.region.lines))
        return b.finish()

    def clear_after(self, to: Value, lines: Any) -> None:
        """Zeros after the last line: the last run of K reads beyond the last pixel, with weights of 0."""
        if self.depth.row:
            b = self.b
            at = b.at(to, b.mul(lines, self.region.line))
            for part in range(tiles.PARTS):
                b.vstore(b.const(I16, 0, tiles.DEPTH), b.at(at, part * self.region.part), I16)

    def split_lines(self, image: Value, top: Value | int, first: Any, last: Any, to: Value) -> None:
        """Lines first..last of a region whose first output row is `top`."""
        b, c, down = self.b, self.c, self.down
        begin = b.add(b.mul(top, c.stride[1]), down.first)
        x = b.at(t.word(b, t.X), b.mul(image, 4 * self.task.x_ld * c.size[1] * c.size[2]))

        def line(k: Value, _: Any) -> None:
            ih = b.add(begin, b.mul(k, down.step))
            out = b.at(to, b.mul(k, self.region.line))
            inside = b.icmp_unsigned("<", b.index(ih), b.index(down.size))
            b.choose(inside, lambda: self.split_line(b.at(x, b.mul(ih, 4 * self.task.x_ld * c.size[2])), out),
                     lambda: self.zeros(out, 0, self.across.places(self.ow)))  # fmt: skip

        b.loop(first, last, 1, line)

    def zeros(self, out: Value, first: int, last: int) -> None:
        """Places first..last of a line are 0."""
        b = self.b
        begin, end = first * self.depth.pitch, last * self.depth.pitch
        whole = begin + (end - begin) // tiles.DEPTH * tiles.DEPTH
        zero = b.const(I16, 0, tiles.DEPTH)
        for part in range(tiles.PARTS):
            at = b.at(out, part * self.region.part)
            b.loop(begin, whole, tiles.DEPTH, lambda k, _, at=at: b.vstore(zero, b.at(at, b.mul(k, 2)), I16))
            if whole < end:
                b.vstore(zero, b.at(at, 2 * whole), I16, mask=b.mask(end - whole, tiles.DEPTH))

    def split_line(self, x: Value, out: Value) -> None:
        """One line of the input; places outside are 0."""
        b, c, across = self.b, self.c, self.across
        places = across.places(self.ow)
        inside = [q for q in range(places) if 0 <= across.first + q * across.step < across.size]
        lo, hi = (inside[0], inside[-1] + 1) if inside else (0, 0)
        self.zeros(out, 0, lo)
        self.zeros(out, hi, places) if inside else self.zeros(out, 0, places)
        if not inside:
            return
        pixel = 4 * self.task.x_ld
        x = b.at(x, (across.first + lo * across.step) * pixel)
        out = b.at(out, lo * self.pixel)
        if self.task.x_ld == c.ic == self.depth.pitch and across.step == 1:
            self.split_run(x, out, (hi - lo) * c.ic, (hi - lo) * c.ic)
            return

        even = 1 if self.depth.row else tiles.DEPTH  # steps read whole runs of 32

        def one(q: Value, _: Any) -> None:
            at = b.at(x, b.mul(q, across.step * pixel))
            self.split_run(at, b.at(out, b.mul(q, self.pixel)), c.ic, t.ceil_div(c.ic, even) * even)

        b.loop(0, hi - lo, 1, one)

    def split_run(self, x: Value, out: Value, length: int, padded: int) -> None:
        """`length` numbers that follow each other, then zeros up to `padded`."""
        b, lanes = self.b, tiles.LANES
        whole = length // tiles.DEPTH * tiles.DEPTH

        def some(k: Any, _: Any, count: int = tiles.DEPTH, room: int = tiles.DEPTH) -> None:
            at = b.at(x, b.mul(k, 4))
            pair = [b.vload(b.at(at, 4 * i * lanes), F32, mask=b.mask(count - i * lanes, lanes)) for i in range(2)]
            mask = b.mask(room, tiles.DEPTH)
            tiles.split(b, pair, lambda part, v: b.vstore(v, b.at(out, part * self.region.part, b.mul(k, 2)), I16,
                                                          mask=mask))  # fmt: skip

        b.loop(0, whole, tiles.DEPTH, some, unroll=2 if whole // tiles.DEPTH % 2 == 0 else 1)
        if whole < padded:
            some(whole, None, length - whole, padded - whole)

    # -- products ----------------------------------------------------------------------------------------------------

    def product(self, symbol: str) -> str:
        """A unit: some lines of one image, all output channels or one group of them."""
        b, s = self.start(symbol), self.s
        images = t.word(b, t.N, pointer=False)
        chunks = t.ceil_div(self.oh, s.lines)
        # Groups of channels are the slow index: a thread keeps their weights in its cache over images and lines.
        inner = b.mul(images, chunks) if self.groups > 1 else b.index(1)
        group = b.udiv(b.arg.unit, inner) if self.groups > 1 else 0
        place = b.urem(b.arg.unit, inner) if self.groups > 1 else b.arg.unit
        image, top = b.udiv(place, chunks), b.mul(b.urem(place, chunks), s.lines)
        count = b.imin(b.sub(self.oh, top), s.lines)
        self.lines = count
        self.image, self.top = image, top
        scratch = b.arg.scratch
        tiles.configure(b, scratch, s.rows)
        b.vstore(b.const(F32, 0.0), b.at(scratch, self.bad_at), F32)
        if s.own:
            self.from_ = b.at(scratch, self.region_at)
            self.split_lines(image, top, 0, self.places(count), self.from_)
            self.clear_after(self.from_, self.places(count))
        else:
            self.from_ = b.at(t.word(b, t.S0), b.mul(image, self.region.bytes),
                              b.mul(top, self.down.stride * self.region.line))  # fmt: skip
        pixel = b.mul(b.add(b.mul(image, self.oh), top), self.ow)
        self.y = b.at(t.word(b, t.Y), b.mul(pixel, 4 * self.task.y_ld))
        self.res = None
        if self.task.residual_ld:
            sparse, first = self.task.sparse, 0
            if sparse:
                pixel, first = sparse.pixel(b, image, top, 0), -4 * sparse.before
            self.res = b.at(t.word(b, t.R), b.mul(pixel, 4 * self.task.residual_ld), first)
        self.w, self.bias = t.word(b, t.W), t.word(b, t.B)
        per = s.vectors * s.blocks
        first = b.mul(group, per)
        last = b.imin(b.add(first, per), self.vectors)
        full = self.vectors // s.vectors * s.vectors
        self.blocks(first, b.imin(last, full), s.vectors)
        if rest := self.vectors - full:
            b.choose(b.less(full, last), lambda: self.blocks(b.index(full), b.index(full + rest), rest))
        tiles.release(b)
        bad = b.sum(b.vload(b.at(scratch, self.bad_at), F32), F32)
        b.choose(b.fcmp_unordered("uno", bad, bad), lambda: self.plainly(first, last))
        return b.finish()

    def places(self, lines: Value) -> Value:
        """Lines of the region for a count of output rows."""
        b, d = self.b, self.down
        return b.add(b.mul(b.sub(lines, 1), d.stride), (d.kernel - 1) * d.dilation + 1)

    def weights_of(self, o: Value | int) -> Value:
        """Where the weights of a vector of output channels begin."""
        b = self.b
        return b.at(self.w, b.mul(o, self.depth.total * tiles.TILE * (2 if self.s.fresh else tiles.PARTS)))

    def blocks(self, first: Value, last: Value, wide: int) -> None:
        """Output channels first..last, vectors, `wide` at a time, with all pixels of the unit."""
        b, s = self.b, self.s
        if s.fresh:
            self.fresh_blocks(b.index(first), b.index(last), wide)
            return
        pixels = tall(s, wide, self.per_line)
        count = b.mul(self.lines, self.per_line)
        step = tiles.PARTS * tiles.TILE

        def one(q: Value, o: Value, before: list[Value]) -> list[Value]:
            w, turn = self.weights_of(o), before[2]
            right = lambda k, j, part: b.at(w, b.mul(k, step), j * self.depth.total * step + part * tiles.TILE)  # noqa: E731
            self.sums(q, self.kept_of(turn), pixels, wide, right, self.depth.total)
            # The block before is finished while the tiles still work at this one.
            other = b.sub(1, turn)
            self.finish(before[0], self.kept_of(other), before[1], pixels, wide)
            self.keep(self.kept_of(turn), pixels, wide)
            return [b.index(q), b.index(o), other]

        state = [b.index(-pixels), b.index(first), b.index(0)]
        if s.inner:
            state = b.loop(0, count, pixels, lambda q, state: b.loop(
                first, last, wide, lambda o, state: one(q, o, state), state), state)  # fmt: skip
        else:
            state = b.loop(first, last, wide, lambda o, state: b.loop(
                0, count, pixels, lambda q, state: one(q, o, state), state), state)  # fmt: skip
        self.finish(state[0], self.kept_of(b.sub(1, state[2])), state[1], pixels, wide)

    def kept_of(self, turn: Value) -> Value:
        """Where sums are kept, in turns."""
        b = self.b
        return b.at(b.arg.scratch, self.sums_at, b.mul(turn, tiles.MOST_SUMS * tiles.TILE))

    def fresh_blocks(self, first: Value, last: Value, wide: int) -> None:
        """Output channels first..last with all pixels of the unit; weights are split some steps of K at a time, into
        two areas in turns: those of the steps that follow while the tiles multiply with these.
        """
        b, s, total = self.b, self.s, self.depth.total
        pixels = tall(s, wide, self.per_line)
        count = b.mul(self.lines, self.per_line)
        turns = b.udiv(b.add(count, pixels - 1), pixels)
        parts = b.mul(turns, len(tiles.PRODUCTS))
        each = b.udiv(b.add(b.sub(parts, 1), ROWS * wide), parts)  # pairs of k to split beside four products
        pieces = t.ceil_div(total, CHUNK)
        small, larger = divmod(total, pieces)
        step = wide * tiles.PARTS * tiles.TILE
        area = b.at(b.arg.scratch, self.fresh_at)
        half = self.chunk * step

        def steps_of(k: Value) -> Value:
            return b.add(small, b.select(b.less(k, larger), b.index(1), b.index(0))) if larger else b.index(small)

        def weights(o: Value, k: Value) -> Value:
            start = b.add(b.mul(k, small), b.imin(k, larger))
            return b.at(self.weights_of(o), b.mul(start, wide * 2 * tiles.TILE))

        def piece(o: Value, k: Value, turn: Value) -> Value:
            this, other = b.at(area, b.mul(turn, half)), b.at(area, b.mul(b.sub(1, turn), half))
            steps, begin = steps_of(k), b.icmp_signed("==", k, b.index(0))
            more = b.less(b.add(k, 1), pieces)
            next_k = b.select(more, b.add(k, 1), b.index(0))
            next_o = b.select(more, o, b.add(o, wide))
            ahead = b.select(b.less(next_o, last), steps_of(next_k), b.index(0))
            source = weights(next_o, next_k)

            def one(q: Value, _: Any) -> None:
                first = b.mul(b.udiv(q, pixels), b.mul(each, len(tiles.PRODUCTS)))

                def beside(k: Value, turn: int) -> None:
                    low = b.add(first, b.mul(each, turn))
                    high = b.index(b.imin(b.add(low, each), ROWS * wide))
                    self.split_weights(source, other, wide, k, low, b.select(b.less(k, ahead), high, b.index(0)))

                right = lambda k, j, part: b.at(this, b.mul(k, step), (j * tiles.PARTS + part) * tiles.TILE)  # noqa: E731
                kept = b.at(b.arg.scratch, self.sums_at, b.mul(q, wide * tiles.TILE))
                start = b.add(b.mul(k_, small), b.imin(k_, larger))
                self.sums(q, kept, pixels, wide, right, steps, begin, start, beside)
                self.keep(kept, pixels, wide)

            k_ = k
            b.loop(0, count, pixels, one)
            b.loop(steps, ahead, 1, lambda k, _: self.split_weights(source, other, wide, k, 0, ROWS * wide))
            return b.sub(1, turn)

        def block(o: Value, state: list[Value]) -> list[Value]:
            (turn,) = b.loop(b.index(0), b.index(pieces), 1, lambda k, state: [piece(o, k, state[0])], state)
            kept_of = lambda q: b.at(b.arg.scratch, self.sums_at, b.mul(q, wide * tiles.TILE))  # noqa: E731
            b.loop(0, count, pixels, lambda q, _: self.finish(q, kept_of(q), o, pixels, wide))
            return [turn]

        begins = b.select(b.less(first, last), steps_of(b.index(0)), b.index(0))
        b.loop(0, begins, 1, lambda k, _: self.split_weights(self.weights_of(first), area, wide, k, 0, ROWS * wide))
        b.loop(first, last, wide, block, [b.index(0)])

    def split_weights(self, w: Value, to: Value, wide: int, step: Value, low: Any, high: Any) -> None:
        """Pairs of k `low` to `high` of a step, of `wide` vectors in turn, as parts: [vector][part][pair]."""
        b = self.b
        w = b.at(w, b.mul(step, wide * 2 * tiles.TILE))
        to = b.at(to, b.mul(step, wide * tiles.PARTS * tiles.TILE))

        def one(k: Value, _: Any) -> None:
            at = b.at(w, b.mul(k, 128))
            j, row = b.udiv(k, ROWS), b.urem(k, ROWS)
            out = b.at(to, b.mul(j, tiles.PARTS * tiles.TILE), b.mul(row, 64))
            pair = [b.vload(b.at(at, 64 * i), F32) for i in range(2)]
            tiles.split(b, pair, lambda part, v: b.vstore(v, b.at(out, part * tiles.TILE), I16), woven=True)

        b.loop(low, high, 1, one)

    def left_of(self, q: Value) -> Value:
        """Where the first output pixel of a tile finds its input."""
        b, s = self.b, self.s
        line, tile = b.udiv(q, self.per_line), b.urem(q, self.per_line)
        return b.at(self.from_, b.mul(line, self.down.stride * self.region.line), b.mul(tile, s.rows * self.pitch))

    def sums(
        self, q: Value, kept: Value, pixels: int, wide: int, right: Any, steps: Any, begin: Value | None = None,
        start: Any = 0, beside: Any = None,
    ) -> None:  # fmt: skip
        """Sums of a block of pixels × wide tiles from tile `q` on, over `steps` steps of K from `start`, in registers.

        Where `begin` does not hold, added to what is kept. `beside(k, i)` writes what is done beside step k
        (`tiles.multiply`).
        """
        b = self.b
        q = b.index(q)
        lefts = [self.left_of(b.add(q, i)) for i in range(pixels)]

        def zero() -> None:
            for k in range(pixels * wide):
                tiles.zero(b, k)

        def load() -> None:
            for k in range(pixels * wide):
                tiles.load(b, k, b.at(kept, k * tiles.TILE), 64)

        zero() if begin is None else b.choose(begin, zero, load)

        def step(k: Any, _: Any) -> None:
            offset = self.offset_of(b.add(start, k))
            tiles.multiply(
                b, pixels, wide, lambda i, part: b.at(lefts[i], offset, part * self.region.part),
                lambda j, part: right(k, j, part), self.pitch, partial(beside, k) if beside is not None else None,
            )  # fmt: skip

        b.loop(0, steps, 1, step)

    def keep(self, kept: Value, pixels: int, wide: int) -> None:
        """The sums of a block from registers to memory."""
        for k in range(pixels * wide):
            tiles.store(self.b, k, self.b.at(kept, k * tiles.TILE), 64)

    def finish(self, q: Value, kept: Value, o: Any, pixels: int, wide: int) -> None:
        """The outputs of the block from tile `q` on; nothing below 0."""
        b = self.b
        q = b.index(q)
        for i in range(pixels):
            self.finish_tile(b.add(q, i), b.at(kept, i * wide * tiles.TILE), o, wide)

    def offset_of(self, k: Any) -> Any:
        """Where step k of K begins, from a pixel's first input."""
        b, depth, d = self.b, self.depth, self.down
        run, inside = b.udiv(k, depth.steps), b.urem(k, depth.steps)
        line = d.dilation * self.region.line
        if depth.row:
            return b.add(b.mul(run, line), b.mul(inside, 64))
        kh, kw = b.udiv(run, self.c.kernel[2]), b.urem(run, self.c.kernel[2])
        return b.add(b.add(b.mul(kh, line), b.mul(kw, self.across.dilation * self.pixel)), b.mul(inside, 64))

    def finish_tile(self, q: Value, kept: Value, o: Any, wide: int) -> None:
        """Bias, residual, activation, store: the pixels of a tile that are there."""
        b, s, task, lanes = self.b, self.s, self.task, tiles.LANES
        line, tile = b.udiv(q, self.per_line), b.urem(q, self.per_line)
        start = b.mul(tile, s.rows)
        valid = b.imin(b.sub(self.ow, start), s.rows)
        inside = b.icmp_unsigned("<", b.index(line), b.index(self.lines))
        valid = b.select(inside, b.index(valid), b.index(0))
        pixel = b.add(b.mul(line, self.ow), start)
        offset = b.mul(o, 4 * lanes)
        y = b.at(self.y, b.mul(pixel, 4 * task.y_ld), offset)
        res = (
            b.at(self.res, b.mul(self.added(line, start), 4 * task.residual_ld), offset)
            if self.res is not None
            else None
        )
        biases = [b.vload(b.at(self.bias, offset, 4 * j * lanes), F32) for j in range(wide)]
        masks: list[Any] = [None] * wide
        if self.c.oc % lanes:
            masks = [b.mask(b.sub(self.c.oc, b.mul(b.add(o, j), lanes)), lanes) for j in range(wide)]
        there, across = masks, 1
        if sparse := task.sparse:
            there = [sparse.there(b, b.mul(b.add(o, j), lanes), lanes) for j in range(wide)]
            across = sparse.step[1]
        bad_at = b.at(b.arg.scratch, self.bad_at)

        def one(p: Value, carry: list[Value]) -> list[Value]:
            (bad,) = carry
            row, yp = b.at(kept, b.mul(p, 64)), b.at(y, b.mul(p, 4 * task.y_ld))
            for j in range(wide):
                value = b.fadd(b.vload(b.at(row, j * tiles.TILE), F32), biases[j])
                if res is not None:
                    at = b.at(res, b.mul(p, across * 4 * task.residual_ld), 4 * j * lanes)
                    value = b.fadd(value, b.vload(at, F32, mask=there[j]))
                bad = b.fma(value, b.const(F32, 0.0), bad)
                value = activate(b, value, task.activation, F32)
                b.vstore(value, b.at(yp, 4 * j * lanes), F32, mask=masks[j])
            return [bad]

        (bad,) = b.loop(0, valid, 1, one, [b.vload(bad_at, F32)])
        b.vstore(bad, bad_at, F32)

    def added(self, line: Any, column: Any) -> Any:
        """The pixel of the residual for an output of the unit, from that of its first output on."""
        b, sparse = self.b, self.task.sparse
        return sparse.pixel(b, 0, line, column) if sparse else b.add(b.mul(line, self.ow), column)

    # -- what is not finite ------------------------------------------------------------------------------------------

    def plainly(self, first: Value, last: Value) -> None:
        """The unit again, product by product, taps outside the image left out: short code, for it hardly ever runs."""
        b, c, task, lanes = self.b, self.c, self.task, tiles.LANES
        x = b.at(t.word(b, t.X), b.mul(self.image, 4 * task.x_ld * c.size[1] * c.size[2]))

        def pixel(q: Value, _: Any) -> None:
            line, column = b.udiv(q, self.ow), b.urem(q, self.ow)
            down = t.tap_range(b, b.add(self.top, line), c.stride[1], c.padding[1], c.dilation[1], c.kernel[1],
                               c.size[1])  # fmt: skip
            over = t.tap_range(b, column, c.stride[2], c.padding[2], c.dilation[2], c.kernel[2], c.size[2])

            def vector(o: Value, _: Any) -> None:
                def product(kh: Value, kw: Value, i: Value, acc: Value) -> Value:
                    ih = b.add(down[0], b.mul(kh, c.dilation[1]))
                    iw = b.add(over[0], b.mul(kw, c.dilation[2]))
                    at = b.at(x, b.mul(b.add(b.mul(ih, c.size[2]), iw), 4 * task.x_ld), b.mul(i, 4))
                    return b.fma(b.splat_load(at, F32), self.weight(o, kh, kw, i), acc)

                def taps(kh: Value, acc: list[Value]) -> list[Value]:
                    return b.loop(over[1], over[2], 1, lambda kw, acc: b.loop(
                        0, c.ic, 1, lambda i, acc: [product(kh, kw, i, acc[0])], acc), acc)  # fmt: skip

                offset = b.mul(o, 4 * lanes)
                (value,) = b.loop(down[1], down[2], 1, taps, [b.vload(b.at(self.bias, offset), F32)])
                mask = b.mask(b.sub(c.oc, b.mul(o, lanes)), lanes) if c.oc % lanes else None
                if self.res is not None:
                    at = b.at(self.res, b.mul(self.added(line, column), 4 * task.residual_ld), offset)
                    there = task.sparse.there(b, b.mul(o, lanes), lanes) if task.sparse else mask
                    value = b.fadd(value, b.vload(at, F32, mask=there))
                value = activate(b, value, task.activation, F32)
                b.vstore(value, b.at(self.y, b.mul(q, 4 * task.y_ld), offset), F32, mask=mask)

            b.loop(first, last, 1, vector)

        b.loop(0, b.mul(self.lines, self.ow), 1, pixel)

    def weight(self, o: Value, kh: Value, kw: Value, i: Value) -> Value:
        """One weight for each of 16 output channels, its parts added up again."""
        b, depth = self.b, self.depth
        padded = depth.steps * tiles.DEPTH
        tap = b.add(b.mul(kh, self.c.kernel[2]), kw)
        k = b.add(b.add(b.mul(kh, padded), b.mul(kw, self.c.ic)) if depth.row else b.mul(tap, padded), i)
        step, row, odd = b.udiv(k, tiles.DEPTH), b.udiv(b.urem(k, tiles.DEPTH), 2), b.urem(k, 2)
        if self.s.fresh:
            block, j = b.mul(b.udiv(o, self.s.vectors), self.s.vectors), b.urem(o, self.s.vectors)
            wide = b.imin(b.sub(self.vectors, block), self.s.vectors)
            at = b.at(self.weights_of(block), b.mul(b.add(b.mul(step, wide), j), 2 * tiles.TILE))
            return b.vload(b.at(at, b.mul(row, 128), b.mul(odd, 64)), F32)
        at = b.at(self.weights_of(o), b.mul(step, tiles.PARTS * tiles.TILE), b.mul(row, 64))
        shift = b.splat(b.trunc(b.mul(b.sub(1, odd), 16), I32.ir), tiles.LANES)
        total = None
        for part in reversed(range(tiles.PARTS)):
            bits = b.shl(b.vload(b.at(at, part * tiles.TILE), I32), shift)
            value = b.bitcast(b.and_(bits, b.const(I32, -0x10000)), F32.vector(tiles.LANES))
            total = value if total is None else b.fadd(total, value)
        return total
