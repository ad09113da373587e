"""The stages of Winograd convolution as code: transforms, products, and the orders they are done in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.activations import activate
from dojang.engine.kernels.conv.direct import LINE
from dojang.engine.kernels.conv.interpolate import Matrix, apply, matrices
from dojang.engine.kernels.task import Task
from dojang.native.emit import F32, Emit, SizeValue, Value
from dojang.native.machine import Machine

APART = 192
"""Bytes after the numbers of a position, so that those of all positions do not fall into one set of the first cache."""
LARGE_TILE = 36  # numbers of a transformed tile that are transformed without a loop


@plain_repr
@dataclass(frozen=True, slots=True)
class StageLayer:
    """What the stages use of a convolution whose sizes are known at run time."""

    ic: int
    oc: int
    groups: int
    size: tuple[SizeValue, SizeValue]
    kernel: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    out_size: tuple[SizeValue, SizeValue]


@plain_repr
@dataclass(frozen=True, slots=True)
class Shape:
    """How a layer is cut: m outputs per tile side (1 where the kernel has one tap), register tile, tiles per unit (of
    all tiles when `phased`).

    `chunk` is the number of input channels whose weights are transformed at a time, `rows` of their transform before
    these are used; 0: they are transformed beforehand.
    """

    m: int
    pixels: int
    vectors: int
    tiles: int
    phased: bool
    chunk: int = 0
    rows: int = 0


def sides(task: Task, m: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(outputs, inputs) of a tile down and across."""
    down, across = ((m, m + r - 1) if r > 1 else (1, 1) for r in task.conv.kernel)
    return down, across


def tiles_of(task: Task, m: int) -> tuple[int, int]:
    """Tiles down and across one image."""
    oh, ow = task.conv.out_size
    (mh, _), (mw, _) = sides(task, m)
    return t.ceil_div(oh, mh), t.ceil_div(ow, mw)


def positions(task: Task, m: int) -> int:
    """Numbers of a transformed tile."""
    (_, ah), (_, aw) = sides(task, m)
    return ah * aw


class Winograd:
    """The stages of one layer while they are written. Offsets in bytes unless said otherwise."""

    def __init__(self, task: Task, shape: Shape, machine: Machine, any_size: bool = False) -> None:
        """Sizes as Python ints; for images of any size they are known at run time, `tiles` of a unit as well."""
        self.task, self.s, self.machine, self.any_size = task, shape, machine, any_size
        self.c: Any = task.conv
        c = task.conv
        (self.mh, self.ah), (self.mw, self.aw) = sides(task, shape.m)
        self.a2 = self.ah * self.aw
        self.down, self.across = (matrices(m, r) for m, r in zip((self.mh, self.mw), c.kernel, strict=True))
        self.th, self.tw = tiles_of(task, shape.m)
        self.lanes = machine.lanes(4)
        self.icg, self.ocg = c.ic // c.groups, c.oc // c.groups
        self.vectors = t.ceil_div(self.ocg, self.lanes)
        self.wide = c.groups * self.vectors * self.lanes  # channels of a transformed output

    def start(self, symbol: str) -> Emit:
        """A builder with the arguments all stages use."""
        b = self.b = t.begin(symbol, self.machine)
        if self.any_size:
            ih, iw, oh, ow, tiles, self.some = t.sizes(b, 6)
            c = self.task.conv
            self.c = StageLayer(c.ic, c.oc, c.groups, (ih, iw), c.kernel, c.padding, (oh, ow))
            self.th, self.tw = t.ceil_div(oh, self.mh), t.ceil_div(ow, self.mw)
            self.s = replace(self.s, tiles=tiles)
        if self.a2 > LARGE_TILE:  # a tile transformed down its columns
            self.half = b.local(F32.vector(self.lanes), self.a2)
        self.total = b.mul(t.word(b, t.N, pointer=False), self.th * self.tw)
        return b

    def blocked_planes(self) -> tuple[int, int]:
        """Bytes from position to position of the transformed inputs and of the products of a unit."""
        return 4 * self.s.tiles * self.c.ic + APART, 4 * self.s.tiles * self.wide + APART

    def blocked(self, symbol: str) -> str:
        """All stages for `tiles` tiles, in the thread's scratch."""
        b = self.start(symbol)
        s, v_plane, m_plane = self.s, *self.blocked_planes()
        first = b.mul(b.arg.unit, s.tiles)
        count = b.imin(b.sub(self.total, first), s.tiles)
        v, m = b.arg.scratch, b.at(b.arg.scratch, self.a2 * v_plane)
        b.loop(0, count, 1, lambda i, _: self.transform(b.add(first, i), b.at(v, b.mul(i, 4 * self.c.ic)), v_plane))
        groups = b.udiv(b.add(count, s.pixels - 1), s.pixels)
        plane = 4 * self.wide * self.icg
        # Where few tiles meet a weight, those of the next position are fetched meanwhile.
        ahead = plane if not self.any_size and s.tiles <= 2 * s.pixels else 0

        def position(k, _):
            u = b.at(t.word(b, t.W), b.mul(k, plane))
            vk, mk = b.at(v, b.mul(k, v_plane)), b.at(m, b.mul(k, m_plane))

            def group(g, _):
                gu, gv = b.at(u, b.mul(g, 4 * self.vectors * self.lanes * self.icg)), b.at(vk, b.mul(g, 4 * self.icg))
                gm = b.at(mk, b.mul(g, 4 * self.vectors * self.lanes))
                full, rest = divmod(self.vectors, s.vectors)
                block = s.vectors * self.lanes
                b.loop(0, full, 1, lambda o, _: self.multiply(
                    b.at(gu, b.mul(o, 4 * block * self.icg)), gv, b.at(gm, b.mul(o, 4 * block)), groups, s.vectors,
                    ahead=ahead,
                ))  # fmt: skip
                if rest:
                    self.multiply(
                        b.at(gu, full * 4 * block * self.icg), gv, b.at(gm, full * 4 * block), groups, rest, ahead=ahead
                    )

            b.loop(0, self.c.groups, 1, group)

        b.loop(0, self.a2, 1, position)
        b.loop(0, count, 1, lambda i, _: self.inverse(b.add(first, i), b.at(m, b.mul(i, 4 * self.wide)), m_plane))
        return b.finish()

    def padded(self) -> Value:
        """All tiles, rounded up to whole register tiles."""
        b = self.b
        return b.mul(b.udiv(b.add(self.total, self.s.pixels - 1), self.s.pixels), self.s.pixels)

    def forward(self, symbol: str, some: Any = None) -> str:
        """The input transform of some tiles into the first shared area."""
        b = self.start(symbol)
        if self.any_size:
            some = self.some
        first = b.mul(b.arg.unit, some or self.s.tiles)
        last = b.imin(b.add(first, some or self.s.tiles), self.total)
        wide = 4 * (self.s.chunk or self.c.ic)
        v, plane = t.word(b, t.S0), b.mul(self.padded(), wide)
        b.loop(first, last, 1, lambda i, _: self.transform(i, b.at(v, b.mul(i, wide)), plane))
        return b.finish()

    def product(self, symbol: str, some: Any = 1) -> str:
        """The product of one position and `some` blocks of output channels over all tiles."""
        b = self.start(symbol)
        if self.any_size:
            some = self.some
        s, c = self.s, self.c
        full, rest = divmod(self.vectors, s.vectors)
        per_group = full + (rest > 0)
        parts = b.udiv(per_group * c.groups, some)
        k, first = b.udiv(b.arg.unit, parts), b.mul(b.urem(b.arg.unit, parts), some)
        block = s.vectors * self.lanes
        padded = self.padded()
        groups = b.udiv(padded, s.pixels)
        uk = b.at(t.word(b, t.W), b.mul(k, 4 * self.wide * self.icg))
        vk = b.at(t.word(b, t.S0), b.mul(k, b.mul(padded, 4 * c.ic)))
        mk = b.at(t.word(b, t.S1), b.mul(k, b.mul(padded, 4 * self.wide)))

        def one(i: Any, _: Any) -> None:
            o = b.add(first, i)
            g, inner = b.udiv(o, per_group), b.urem(o, per_group)
            u = b.at(uk, b.mul(g, 4 * self.vectors * self.lanes * self.icg), b.mul(inner, 4 * block * self.icg))
            v = b.at(vk, b.mul(g, 4 * self.icg))
            m = b.at(mk, b.mul(g, 4 * self.vectors * self.lanes), b.mul(inner, 4 * block))
            if rest and full:
                b.choose(b.less(inner, full), lambda: self.multiply(u, v, m, groups, s.vectors),
                         lambda: self.multiply(u, v, m, groups, rest))  # fmt: skip
            else:
                self.multiply(u, v, m, groups, rest or s.vectors)

        b.loop(0, some, 1, one)
        return b.finish()

    def back(self, symbol: str) -> str:
        """The output transform of some tiles from the second shared area."""
        b = self.start(symbol)
        first = b.mul(b.arg.unit, self.s.tiles)
        last = b.imin(b.add(first, self.s.tiles), self.total)
        m, plane = t.word(b, t.S1), b.mul(self.padded(), 4 * self.wide)
        b.loop(first, last, 1, lambda i, _: self.inverse(i, b.at(m, b.mul(i, 4 * self.wide)), plane))
        return b.finish()

    def planes(self) -> tuple[int, int]:
        """Bytes from position to position of the fresh weights and of the products."""
        block = 4 * self.s.vectors * self.lanes
        return self.s.chunk * block + APART, self.s.tiles * block + APART

    def fresh(self, symbol: str) -> str:
        """All that follows the input transform, for one block of output channels and `tiles` tiles."""
        b = self.start(symbol)
        s, c, a2 = self.s, self.c, self.a2
        block = s.vectors * self.lanes
        blocks = c.oc // block
        part, o = b.udiv(b.arg.unit, blocks), b.urem(b.arg.unit, blocks)
        first = b.mul(part, s.tiles)
        count = b.imin(b.sub(self.total, first), s.tiles)
        groups = b.udiv(b.add(count, s.pixels - 1), s.pixels)
        u_plane, m_plane = self.planes()
        bytes_ = 4 * block * 9 * s.chunk
        u, m = b.arg.scratch, b.at(b.arg.scratch, s.rows * self.aw * u_plane)
        w = b.at(t.word(b, t.W), b.mul(o, 4 * block * c.ic * 9))
        v = b.at(t.word(b, t.S0), b.mul(first, 4 * s.chunk))
        v_plane = b.mul(self.padded(), 4 * s.chunk)  # [chunk][position][tile][ic in chunk]

        def chunk(k: Any, begin: bool) -> None:
            wk, vk = b.at(w, b.mul(k, 4 * block * 9)), b.at(v, b.mul(b.udiv(k, s.chunk), b.mul(v_plane, a2)))
            # Meanwhile the weights of the next chunk come from memory.
            ahead, lines = b.at(wk, bytes_), t.ceil_div(bytes_, 64 * a2)
            for first in range(0, self.ah, s.rows):
                self.weigh(wk, u, u_plane, range(first, first + s.rows))

                def position(x: Any, _: Any, first: int = first) -> None:
                    q = b.add(x, first * self.aw)
                    b.loop(0, lines, 1, lambda i, _: [b.prefetch(b.at(ahead, b.mul(b.add(b.mul(q, lines), i), 64)),
                                                                 locality=2)][:0])  # fmt: skip
                    self.multiply(b.at(u, b.mul(x, u_plane)), b.at(vk, b.mul(q, v_plane)), b.at(m, b.mul(q, m_plane)),
                                  groups, s.vectors, s.chunk, block, begin)  # fmt: skip

                b.loop(0, s.rows * self.aw, 1, position)

        chunk(0, True)
        b.loop(s.chunk, c.ic, s.chunk, lambda k, _: chunk(k, False))
        b.loop(0, count, 1, lambda i, _: self.inverse(b.add(first, i), b.at(m, b.mul(i, 4 * block)), m_plane,
                                                      (b.mul(o, 4 * block), block)))  # fmt: skip
        return b.finish()

    def weigh(self, w: Value, u: Value, plane: int, rows: Sequence[int]) -> None:
        """Rows of G g Gᵀ of all input channels of a chunk and a block of output channels."""
        b, r, g = self.b, self.c.kernel[0], self.down[1]
        block, some = self.s.vectors * self.lanes, tuple(g[y] for y in rows)

        def channel(i: Any, _: Any) -> None:
            wi, ui = b.at(w, b.mul(i, 4 * block * r * r)), b.at(u, b.mul(i, 4 * block))
            for j in range(self.s.vectors):
                o = 4 * j * self.lanes

                def column(x: int, o: int = o) -> list[Value]:
                    used = [k for k in range(r) if any(row[k] for row in some)]
                    taps = [b.vload(b.at(wi, 4 * block * (k * r + x) + o), F32) for k in used]
                    return apply(b, tuple(tuple(row[k] for k in used) for row in some), taps)

                half = [column(x) for x in range(r)]
                for y in range(len(some)):
                    for x, value in enumerate(apply(b, g, [half[k][y] for k in range(r)])):
                        b.vstore(value, b.at(ui, (y * self.aw + x) * plane + o), F32)

        b.loop(0, self.s.chunk, 1, channel)

    def place(self, tile: Value) -> tuple[Value, Value, Value]:
        """(image, first output row, first output column) of a tile."""
        b = self.b
        image, inside = b.udiv(tile, self.th * self.tw), b.urem(tile, self.th * self.tw)
        return image, b.mul(b.udiv(inside, self.tw), self.mh), b.mul(b.urem(inside, self.tw), self.mw)

    def transform(self, tile: Value, v: Value, plane: Any) -> None:
        """Bᵀ d B of one tile, all channels, to v; `plane` bytes from position to position."""
        b, c, ah, aw = self.b, self.c, self.ah, self.aw
        image, oh, ow = self.place(tile)
        ih, iw = b.sub(oh, c.padding[0][0]), b.sub(ow, c.padding[1][0])
        pixel, (height, width) = 4 * self.task.x_ld, c.size
        x = b.at(t.word(b, t.X), b.mul(b.add(b.mul(b.add(b.mul(image, height), ih), width), iw), pixel))

        rows = [b.icmp_unsigned("<", b.index(b.add(ih, i)), b.index(height)) for i in range(ah)]

        def lanes(o: Any, border: bool, tail: Any) -> None:
            xo, vo = b.at(x, b.mul(o, 4)), b.at(v, b.mul(o, 4))
            if chunk := self.s.chunk:
                vo = b.at(v, b.mul(b.udiv(o, chunk), b.mul(plane, self.a2)), b.mul(b.urem(o, chunk), 4))

            def read(i: int, j: Any) -> Value:
                mask = tail
                if border:
                    mask = b.splat(
                        b.and_(rows[i], b.icmp_unsigned("<", b.index(b.add(iw, j)), b.index(width))), self.lanes
                    )
                    mask = b.and_(mask, tail) if tail is not None else mask
                return b.vload(b.at(xo, i * width * pixel, b.mul(j, pixel)), F32, mask=mask)

            def put(i: Any, j: int, value: Value) -> None:
                b.vstore(value, b.at(vo, b.mul(b.add(b.mul(i, aw), j), plane)), F32, mask=tail)

            self.both(self.down[2], self.across[2], read, put)

        def every(border: bool) -> None:
            whole = c.ic // self.lanes * self.lanes
            b.loop(0, whole, self.lanes, lambda o, _: lanes(o, border, None))
            if c.ic > whole:
                lanes(whole, border, b.mask(c.ic - whole, self.lanes))

        def inside(start: Value, size: Any, a: int) -> Value:
            if isinstance(size, SizeValue):
                return b.and_(b.less(-1, start), b.less(start, size - (a - 1)))
            return b.icmp_unsigned("<=", start, b.index(max(0, size - a))) if size >= a else b.less(0, b.index(0))

        fits = b.and_(inside(b.index(ih), height, ah), inside(b.index(iw), width, aw))
        b.choose(fits, lambda: every(False), lambda: every(True))

    def both(
        self,
        down: Matrix,
        across: Matrix,
        read: Callable[[int, Any], Value],
        put: Callable[[Any, int, Value], None],
    ) -> None:
        """down · X · acrossᵀ, where `read(i, j)` gives X and `put(i, j, value)` takes the result.

        Sixty-four numbers are in no registers: they go through memory anyway, so then each side is a loop, which is an
        eighth of the code to compile.
        """
        b, rows, columns = self.b, len(down[0]), len(across[0])
        if rows * columns <= LARGE_TILE:
            half = [apply(b, down, [read(i, j) for i in range(rows)]) for j in range(columns)]
            for i in range(len(down)):
                for j, value in enumerate(apply(b, across, [half[j][i] for j in range(columns)])):
                    put(i, j, value)
            return
        vector = 4 * self.lanes

        def column(j: Value, _: Any) -> None:
            for i, value in enumerate(apply(b, down, [read(i, j) for i in range(rows)])):
                b.vstore(value, b.at(self.half, b.mul(b.add(j, i * columns), vector)), F32)

        def row(i: Value, _: Any) -> None:
            at = b.at(self.half, b.mul(i, columns * vector))
            for j, value in enumerate(apply(b, across, [b.vload(b.at(at, k * vector), F32) for k in range(columns)])):
                put(i, j, value)

        b.loop(0, columns, 1, column)
        b.loop(0, len(down), 1, row)

    def multiply(
        self,
        u: Value,
        v: Value,
        m: Value,
        groups: Value,
        vectors: int,
        length: int = 0,
        wide: int = 0,
        begin=True,
        ahead: int = 0,
    ) -> None:
        """m[p, o] = Σ v[p, i] u[i, o] for groups of `pixels` tiles and `vectors` vectors of output channels.

        `length` input channels (all of the group); `wide` channels from tile to tile of m; not `begin`: added to m.
        Weights `ahead` bytes after these are fetched meanwhile, if any.
        """
        b, pixels = self.b, self.s.pixels
        ld, wide, length = 4 * (self.s.chunk or self.c.ic), 4 * (wide or self.wide), length or self.icg

        def group(q, _):
            vq, mq = b.at(v, b.mul(q, pixels * ld)), b.at(m, b.mul(q, pixels * wide))

            def k_step(k, acc):
                uk, vk = b.at(u, b.mul(k, 4 * vectors * self.lanes)), b.at(vq, b.mul(k, 4))
                us = [b.vload(b.at(uk, 4 * j * self.lanes), F32) for j in range(vectors)]
                for j in range(0, vectors * self.lanes * 4, LINE) if ahead else ():
                    b.prefetch(b.at(uk, ahead + j), locality=2)
                acc = list(acc)
                for p in range(pixels):
                    xv = b.splat_load(b.at(vk, p * ld), F32)
                    for j in range(vectors):
                        acc[p * vectors + j] = b.fma(xv, us[j], acc[p * vectors + j])
                return acc

            places = [b.at(mq, i // vectors * wide + i % vectors * 4 * self.lanes) for i in range(pixels * vectors)]
            acc = [b.const(F32, 0.0)] * len(places) if begin else [b.vload(at, F32) for at in places]
            twice = length % 2 == 0 and b.machine.turns(pixels, vectors) >= 2
            acc = b.loop(0, length, 1, k_step, acc, unroll=2 if twice else 1)
            for at, value in zip(places, acc, strict=True):
                b.vstore(value, at, F32)

        b.loop(0, groups, 1, group)

    def inverse(self, tile: Value, m: Value, plane: Any, block: tuple[Value, int] | None = None) -> None:
        """Aᵀ M A of one tile, bias, residual, activation, to the output; outputs beyond the edge are not stored.

        Where the task is `halved`, the largest of 2 × 2 is taken first: bias and activation keep the order of numbers.

        `block`: (offset in bytes, count) of the output channels, all if None.
        """
        b, c, task, aw = self.b, self.c, self.task, self.aw
        image, oh, ow = self.place(tile)
        height, width = c.out_size
        mh, mw = self.mh, self.mw
        if task.halved:
            oh, ow, height, width, mh, mw = (b.udiv(v, 2) for v in (oh, ow, height, width, mh, mw))
        pixel = b.add(b.mul(b.add(b.mul(image, height), oh), width), ow)
        y = b.at(t.word(b, t.Y), b.mul(pixel, 4 * task.y_ld))
        across, down, first = 1, width, 0  # pixels of the residual from output to output; output channels before it
        if sparse := task.sparse:
            across, down, first = sparse.step[1], sparse.step[0] * sparse.size[1], sparse.before
            pixel = sparse.pixel(b, image, oh, ow)
        res = b.at(t.word(b, t.R), b.mul(pixel, 4 * task.residual_ld), -4 * first) if task.residual_ld else None
        bias = t.word(b, t.B)
        channels = c.oc
        begin: Any = 0
        if block is not None:
            y, bias, channels, begin = b.at(y, block[0]), b.at(bias, block[0]), block[1], b.udiv(block[0], 4)
            res = b.at(res, block[0]) if res is not None else None

        columns = [b.less(b.add(ow, j), width) for j in range(mw)]
        left: dict[tuple[int, int], Value] = {}  # results that wait for those beside and below them

        def lanes(o: Any, edge: bool, tail: Any) -> None:
            mo, yo = b.at(m, b.mul(o, 4)), b.at(y, b.mul(o, 4))
            offset = b.vload(b.at(bias, b.mul(o, 4)), F32)
            there = task.sparse.there(b, b.add(begin, o), self.lanes) if task.sparse else None

            def read(i: int, j: Any) -> Value:
                return b.vload(b.at(mo, b.mul(b.add(j, i * aw), plane)), F32)

            def put(i: Any, j: int, value: Value) -> None:
                if not task.halved:
                    store(i, j, value)
                elif j % 2 == 0:
                    left[i, j] = value
                elif i % 2 == 0:
                    left[i, j] = b.maximum_nan(left[i, j - 1], value)
                else:
                    store(i // 2, j // 2, b.maximum_nan(left[i - 1, j], b.maximum_nan(left[i, j - 1], value)))

            def store(i: Any, j: int, value: Value) -> None:
                mask = tail
                if edge:
                    mask = b.splat(b.and_(b.less(b.add(oh, i), height), columns[j]), self.lanes)
                    mask = b.and_(mask, tail) if tail is not None else mask
                value, place = b.fadd(value, offset), b.add(b.mul(i, width), j)
                if res is not None:
                    source = b.add(b.mul(i, down), j * across)
                    at = b.at(res, b.mul(source, 4 * task.residual_ld), b.mul(o, 4))
                    inside = mask if there is None else there if mask is None else b.and_(mask, there)
                    value = b.fadd(value, b.vload(at, F32, mask=inside))
                value = activate(b, value, task.activation, F32)
                b.vstore(value, b.at(yo, b.mul(place, 4 * task.y_ld)), F32, mask=mask)

            self.both(self.down[0], self.across[0], read, put)

        def every(edge: bool) -> None:
            # One group may end in a masked vector; several groups are whole vectors (`winograd.offer`).
            whole = channels // self.lanes * self.lanes
            b.loop(0, whole, self.lanes, lambda o, _: lanes(o, edge, None))
            if channels > whole:
                lanes(whole, edge, b.mask(channels - whole, self.lanes))

        if not self.any_size and c.out_size[0] % self.mh == 0 and c.out_size[1] % self.mw == 0:
            every(False)
            return
        fits = b.and_(b.less(b.add(oh, mh - 1), height), b.less(b.add(ow, mw - 1), width))
        b.choose(fits, lambda: every(False), lambda: every(True))
