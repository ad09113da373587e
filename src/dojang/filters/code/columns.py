"""Separable kernels, columns first: sums down the columns straight from the picture, then along the row.

The function has the same form as in `rows.py`, but no tile of the picture is kept: a block of rows reads what it needs
from the picture itself, where each row it loads serves all its sums, and leaves its column sums in a few lines of level
1 cache. Beyond the left and right edge there are column sums, too: those of the columns that the border copies.

With `fixed` the picture is uint8, the taps are positive and all sums have 16 bits, 8 of them after the point: a
product keeps its upper half. `fixed.passes16` proves that dropping the lower halves does not change results too much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import llvmlite.ir as ir

from dojang.base.record import plain_repr
from dojang.filters.code.program import ByRows, Finish, OfSums
from dojang.filters.code.rows import _Press, across, begin, on_picture, over_tiles, row_address
from dojang.native.emit import I64, U8, Value
from dojang.native.machine import Machine

PassTap = tuple[int, int, float]  # (offset, second offset with the same tap or -1, tap); offsets in rows or elements


@plain_repr
@dataclass(frozen=True, slots=True)
class Columns(ByRows, OfSums):
    """Σ along · (Σ down · pixel), finished; both lists are sums over rows, and over elements to the right.

    With `fixed`, taps are 16-bit numbers: of 2^16, of 2^17 for two offsets that share one; then `finish.offset` is
    added and 8 bits are dropped.
    """

    source: str
    target: str
    work: str
    unsigned: bool
    channels: int
    extent: int
    reach: int
    down: tuple[PassTap, ...]
    along: tuple[PassTap, ...]
    finish: Finish
    fixed: bool
    fill: float
    rows: int = 4
    vectors: int = 2

    stride: tuple[int, int] = (1, 1)

    @property
    def lines(self) -> int:
        """Lines of column sums."""
        return self.rows

    def chunk(self, machine: Machine) -> int:
        """Elements computed at a time; a picture's rows must have as many."""
        return machine.lanes(self.work_kind.bytes) * self.vectors

    def tile_width(self, machine: Machine) -> int:
        """Output elements of a line: all lines together fill half of level 1 cache."""
        width = max(machine.l1 // 2 // (self.rows * self.work_kind.bytes), 512, 4 * self.reach)
        chunk = self.chunk(machine)
        return -(-width // chunk) * chunk

    def pitch(self, machine: Machine) -> int:
        """Bytes from one line to the next, an odd number of cache lines."""
        wide = self.work_kind.bytes * (self.tile_width(machine) + self.reach + 3 * self.chunk(machine))
        return (-(-wide // 64) | 1) * 64

    def scratch_bytes(self, machine: Machine, inner: int) -> int:
        """Bytes that one thread needs for rows of `inner` elements."""
        return self.rows * self.pitch(machine) + inner * self.source_kind.bytes + 256


def emit_columns(program: Columns, machine: Machine) -> str:
    """The IR text of the program's module."""
    return _Columns(program, machine).write()


class _Columns(_Press):
    """Uses the rounding of `_Press`."""

    def __init__(self, program: Columns | Any, machine: Machine) -> None:
        self.p = program  # type: ignore[assignment]  # what the rounding and `straight.py` ask
        self.machine = machine
        self.b = b = begin(machine)
        self.kind = program.work_kind
        self.lanes = machine.lanes(self.kind.bytes)
        self.chunk, self.pitch = program.chunk(machine), program.pitch(machine)
        self.lines = b.arg.scratch
        self.empty = b.at(self.lines, program.lines * self.pitch)  # a row of fill

    def write(self) -> str:
        b, a, p = self.b, self.b.arg, self.p
        source, lanes = p.source_kind, self.machine.lanes(p.source_kind.bytes)
        fill = b.const(source, p.fill)
        b.loop(0, a.inner, lanes, lambda e, _: b.vstore(fill, b.at(self.empty, b.mul(e, source.bytes)), source))
        over_tiles(b, p.tile_width(self.machine), self.chunk, self.column)
        return b.finish()

    def column(self, x0: Value, n: Value) -> None:
        """All rows y0 to y1 of the tile of n output elements that begins at x0."""
        b, a, p, size = self.b, self.b.arg, self.p, self.kind.bytes
        n_in = b.add(n, p.reach)
        edge, end = on_picture(b, x0, n_in)
        # The first element that comes from the picture lies on a register's boundary.
        lines = b.at(self.lines, b.mul(b.and_(b.sub(b.index(0), edge), b.index(self.lanes - 1)), size))
        start = b.mul(b.sub(x0, a.left), p.source_kind.bytes)

        def block(y, _):
            needed = sorted({i + r for tap in p.down for i in tap[:2] if i >= 0 for r in range(p.rows)})
            rows = {i: self.row(b.add(y, i)) for i in needed}
            self.down({i: b.at(row, start) for i, row in rows.items()}, lines, edge, end)
            self.edges(rows, lines, x0, n_in, edge, end)

            def line(r, _):
                target = b.at(a.dst, b.mul(b.add(y, r), a.dst_pitch), b.mul(x0, p.target_kind.bytes))
                self.row_sums(b.at(lines, b.mul(r, self.pitch)), target, n)

            b.loop(0, b.imin(b.sub(a.y1, y), p.rows), 1, line)

        b.loop(a.y0, a.y1, p.rows, block)

    def row(self, p: Value) -> Value:
        """The address of padded row p's first pixel."""
        return row_address(self.b, p, self.empty)

    # -- down the columns -------------------------------------------------------------------------------------------

    def down(self, rows: dict[int, Value], lines: Value, edge: Value, end: Value) -> None:
        """The column sums of elements [edge, end) into the lines, one for each row of the block."""
        b, p, source = self.b, self.p, self.p.source_kind
        last = b.sub(end, self.chunk)
        newest = sorted(rows)[-p.rows :]

        def some(e, _):
            e = b.imin(e, last)
            o = b.mul(e, source.bytes)
            for line in range(0, self.chunk * source.bytes, 64):
                for i in newest:  # of the next block
                    b.prefetch(b.at(rows[i], o, b.mul(b.arg.src_pitch, p.rows), line))
            for v in range(p.vectors):
                at = v * self.lanes * source.bytes
                xs = {i: self.widened(b.vload(b.at(row, o, at), source, self.lanes)) for i, row in rows.items()}
                self.leave(xs, lines, e, v * self.lanes)

        def one(e, _):
            xs = {i: self.widened(b.sload(b.at(row, b.mul(e, source.bytes)), source)) for i, row in rows.items()}
            self.leave(xs, lines, e, 0)

        narrow = b.less(b.sub(end, edge), self.chunk)
        b.choose(
            narrow, lambda: b.loop(edge, end, 1, one) and None, lambda: b.loop(edge, end, self.chunk, some) and None
        )

    def leave(self, xs: dict[int, Value], lines: Value, e: Value, more: int) -> None:
        for r in range(self.p.rows):
            total = self.sum([(xs[i + r], None if j < 0 else xs[j + r], tap) for i, j, tap in self.p.down], True)
            place = self.b.at(lines, self.b.mul(e, self.kind.bytes), r * self.pitch + more * self.kind.bytes)
            self.b.vstore(total, place, self.kind)

    def edges(self, rows: dict[int, Value], lines: Value, x0: Value, n_in: Value, edge: Value, end: Value) -> None:
        """Column sums beyond the picture: copied from this tile, or computed if their column is not in it."""
        b, a, p, kind, source = self.b, self.b.arg, self.p, self.kind, self.p.source_kind
        fill = ir.Constant(source.ir, p.fill if source.floating else int(p.fill))

        def one(e, _):
            index = b.sload(b.at(a.cols, b.mul(b.add(x0, e), 8)), I64)
            place = b.sub(b.add(index, a.left), x0)
            here = b.and_(b.icmp_signed(">=", place, edge), b.less(place, end))

            def copy():
                for r in range(p.rows):
                    line = b.at(lines, r * self.pitch)
                    v = b.sload(b.at(line, b.mul(place, kind.bytes)), kind)
                    b.vstore(v, b.at(line, b.mul(e, kind.bytes)), kind)

            def make():
                beyond = b.less(index, 0)
                safe = b.mul(b.imax(index, b.index(0)), source.bytes)
                pixels = {i: b.select(beyond, fill, b.sload(b.at(row, safe), source)) for i, row in rows.items()}
                self.leave({i: self.widened(v) for i, v in pixels.items()}, lines, e, 0)

            b.choose(here, copy, make)

        b.loop(0, edge, 1, one)
        b.loop(end, n_in, 1, one)

    # -- along the row ----------------------------------------------------------------------------------------------

    def row_sums(self, line: Value, target: Value, n: Value) -> None:
        """One row of n result elements from its line of column sums."""
        b, p, size = self.b, self.p, self.p.target_kind.bytes

        def some(e, past):
            here = b.at(line, b.mul(e, self.kind.bytes))
            pixels = []
            for v in range(p.vectors):

                def load(shift: Any, v: int = v) -> Any:
                    return self.vector(here, (shift + v * self.lanes) * self.kind.bytes)

                total = self.sum([(load(i), None if j < 0 else load(j), tap) for i, j, tap in p.along], False)
                pixels.append(self.last(total))
            if p.target_kind == U8:
                b.vstore(b.concat(pixels), b.at(target, b.mul(e, size)), p.target_kind, past=past)
            else:
                for v, pixel in enumerate(pixels):
                    b.vstore(pixel, b.at(target, b.mul(e, size), v * self.lanes * size), p.target_kind, past=past)

        across(b, b.index(0), n, self.chunk, target, size, some)

    # -- arithmetic -------------------------------------------------------------------------------------------------

    def like(self, v: Value, value: float) -> Value:
        """A constant of the working type with as many lanes as v."""
        return self.b.const(self.kind, value, v.type.count if isinstance(v.type, ir.VectorType) else 0)

    def widened(self, v: Value) -> Value:
        """Pixels in the working type; in fixed point shifted by 7 bits, so that the sum of two has 16 bits."""
        v = self.b.convert(v, self.p.source_kind, self.kind)
        return self.b.shl(v, self.like(v, 7)) if self.p.fixed else v

    def sum(self, terms: list[tuple[Value, Value | None, float]], pixels: bool) -> Value:
        """Σ tap · value, or tap · (value + value): of pixels, or of column sums."""
        b = self.b
        if not self.p.fixed:
            total = None
            if self.kind.floating:
                for v, _, tap in terms:
                    total = self.term(total, v, tap)
                return total
            return self.whole_sum([(v, tap) for v, _, tap in terms])
        total = None
        for v, other, tap in terms:
            if pixels:
                both = ir.IRBuilder.add(b, v, v if other is None else other)
            else:
                both = v if other is None else self.mean(v, other)
            product = self.high(both, int(tap))
            total = product if total is None else ir.IRBuilder.add(b, total, product)
        return total

    def term(self, total: Value | None, v: Value, tap: float) -> Value:
        b = self.b
        if total is None:
            return v if tap == 1 else b.fmul(v, self.like(v, tap))
        if abs(tap) == 1:
            return b.fadd(total, v) if tap == 1 else b.fsub(total, v)
        return b.fma(v, self.like(v, tap), total)

    def whole_sum(self, terms: list[tuple[Value, float]]) -> Value:
        """Taps of one magnitude are summed before they are multiplied."""
        b = self.b
        groups: dict[int, Value] = {}
        for v, tap in sorted(
            terms, key=lambda t: -t[1]
        ):  # positive taps first, so that a group seldom begins with 0 − v
            size = abs(int(tap))
            old = groups.get(size)
            if old is None:
                groups[size] = v if tap > 0 else ir.IRBuilder.sub(b, self.like(v, 0), v)
            else:
                groups[size] = ir.IRBuilder.add(b, old, v) if tap > 0 else ir.IRBuilder.sub(b, old, v)
        total = None
        for size, v in groups.items():
            wrapped = (size + 0x8000 & 0xFFFF) - 0x8000
            scaled = v if size == 1 else ir.IRBuilder.mul(b, v, self.like(v, wrapped))
            total = scaled if total is None else ir.IRBuilder.add(b, total, scaled)
        return total

    def high(self, v: Value, tap: int) -> Value:
        """⌊v · tap / 2^16⌋ of unsigned 16-bit numbers."""
        b = self.b
        lanes = v.type.count if isinstance(v.type, ir.VectorType) else 0
        wide = ir.VectorType(ir.IntType(32), lanes) if lanes else ir.IntType(32)

        def many(x: Any) -> Any:
            return ir.Constant(wide, [x] * lanes if lanes else x)

        product = ir.IRBuilder.mul(b, b.zext(v, wide), many(tap))
        return b.trunc(b.lshr(product, many(16)), v.type)

    def mean(self, v: Value, other: Value) -> Value:
        """⌊(v + other + 1) / 2⌋ of unsigned 16-bit numbers; one instruction on x86."""
        b, wide = self.b, ir.VectorType(ir.IntType(32), v.type.count)
        one = ir.Constant(wide, [1] * v.type.count)
        total = ir.IRBuilder.add(b, ir.IRBuilder.add(b, b.zext(v, wide), b.zext(other, wide)), one)
        return b.trunc(b.lshr(total, one), v.type)

    def last(self, total: Value) -> Value:
        """A sum as a pixel."""
        b, p = self.b, self.p
        if not p.fixed:
            return self.pixel([total], p.finish)
        total = ir.IRBuilder.add(b, total, self.like(total, int(p.finish.offset)))
        return b.trunc(b.lshr(total, self.like(total, 8)), U8.vector(self.lanes))
