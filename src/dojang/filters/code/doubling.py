"""Box sums of floats by doubling: sums of n pixels make sums of 2n and 2n + 1, along the rows, then down the columns.

A window of k pixels takes ⌊log₂ k⌋ passes of one or two additions, and only pixels of the window are ever added: unlike
in a running sum, from which the pixels that leave are subtracted again, no rounding error of large pixels and no
infinity or NaN remains, zeros give 0, and a sum of values that are not negative is not negative. Each result is one
fixed tree of additions, so it does not depend on where a tile or a band begins, and its error grows with log₂ k, not
with k.

With `blocks` the columns are summed in blocks of kh rows instead, with three additions for each result whatever kh is:
each window is the end of one block and the beginning of the next, so that it is a sum from a row to the end of its
block and a sum from the beginning of a block (van Herk, "A fast algorithm for local minimum and maximum filters",
Pattern Recognition Letters 13, 1992, for sums). Still only pixels of the window are added, at most kh of them in a row.
The blocks are counted from the first row of the picture, so bands begin at multiples of kh.

The function has the same form as in `rows.py`. A block of rows is loaded, summed along the rows into a tile, and the
tile's rows are then summed down the columns; the rows that the next block needs too are moved to the top.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dojang.base.record import plain_repr
from dojang.filters.code.program import ByRows, Finish, OfSums
from dojang.filters.code.rows import _Press, across, begin, on_picture, row_index
from dojang.native.emit import ElementType, Value
from dojang.native.machine import Machine

VECTORS = 2


@plain_repr
@dataclass(frozen=True, slots=True)
class Doubling(ByRows, OfSums):
    """Σ over kh × kw pixels, `step` elements and `row_step` rows apart, then `finish`."""

    source: str
    target: str
    work: str
    channels: int
    kh: int
    kw: int
    row_step: int
    step: int
    finish: Finish
    fill: float

    blocks: bool = False
    unsigned: bool = False
    stride: tuple[int, int] = (1, 1)
    rows: int = 1
    vectors: int = VECTORS
    advance: int = 1

    @property
    def extent(self) -> int:  # type: ignore[override]
        """Rows from the first of a window to the last."""
        return (self.kh - 1) * self.row_step + 1

    @property
    def reach(self) -> int:
        """Elements from the first pixel of a window to the last."""
        return (self.kw - 1) * self.step

    @property
    def grid(self) -> int:
        """A part of the picture may begin at multiples of this many rows."""
        return self.kh if self.blocks else 1

    @property
    def tile_rows(self) -> int:
        """Rows of both tiles; in blocks one of the rows of a block, and a row of sums from its beginning."""
        return self.kh + 1 if self.blocks else 2 * (self.block + self.extent)

    @property
    def block(self) -> int:
        """Result rows of one block: twice the rows that blocks share, so that moving those costs little."""
        return max(32, 2 * self.extent)

    def chunk(self, machine: Machine) -> int:
        """Elements computed at a time; a picture's rows must have as many."""
        return machine.lanes(self.work_kind.bytes) * self.vectors

    def tile_width(self, machine: Machine) -> int:
        """Result elements of a tile's row: both tiles in half of level 2 cache, at least 256 and twice the reach."""
        per = self.tile_rows * self.work_kind.bytes
        width = max(machine.l2 // 2 // per, 256, 2 * self.reach)
        chunk = self.chunk(machine)
        return -(-min(width, 1 << 14) // chunk) * chunk

    def tile_step(self, machine: Machine) -> int:
        """What the width of a tile is a multiple of."""
        return self.chunk(machine)

    def pitch(self, machine: Machine) -> int:
        """Elements from row to row of the tiles: an odd number of vectors, so that columns spread over cache sets."""
        lanes = machine.lanes(self.work_kind.bytes)
        return ((self.tile_width(machine) + self.chunk(machine)) // lanes | 1) * lanes

    def line(self, machine: Machine) -> int:
        """Elements of a line with the reach of the kernel and of vectors that look past its end."""
        return self.tile_width(machine) + self.reach + 4 * self.chunk(machine)

    def scratch_bytes(self, machine: Machine, inner: int) -> int:
        """Bytes that one thread needs: two tiles and two lines."""
        del inner
        return (self.tile_rows * self.pitch(machine) + 2 * self.line(machine)) * self.work_kind.bytes + 256


def doublings(count: int) -> list[tuple[int, bool]]:
    """From sums of 1 to sums of `count`: (n, whether one more is added) for each step from n to 2n or 2n + 1.

    >>> doublings(7), doublings(1)
    ([(1, True), (3, True)], [])
    """
    steps, n = [], 1
    for bit in bin(count)[3:]:
        steps.append((n, bit == "1"))
        n = 2 * n + (bit == "1")
    return steps


def emit_doubling(program: Doubling, machine: Machine) -> str:
    """The IR text of the program's module."""
    return _Doubled(program, machine).write()


class _Doubled(_Press):
    """Uses the tiles' division of the row, the row loader and the rounding of `_Press`."""

    def __init__(self, program: Doubling, machine: Machine) -> None:
        self.p, self.machine = program, machine  # type: ignore[assignment]  # it has what the shared parts ask for
        self.b = begin(machine)
        self.kind: ElementType = program.work_kind
        self.lanes = machine.lanes(self.kind.bytes)
        self.chunk = program.chunk(machine)
        self.tile = program.tile_width(machine)
        size = self.kind.bytes
        self.row_bytes = program.pitch(machine) * size
        b = self.b
        self.sums = b.arg.scratch  # of rows
        both = program.tile_rows * self.row_bytes
        # Of rows and columns, on the way; in blocks the sums from the beginning of one.
        self.windows = b.at(self.sums, program.kh * self.row_bytes if program.blocks else both // 2)
        self.pixels = b.at(self.sums, both)
        self.spans = b.at(self.pixels, program.line(machine) * size)

    def column(self, x0: Value, n: Value) -> None:
        """All rows y0 to y1 of the tile of n output elements that begins at x0."""
        b, a, p = self.b, self.b.arg, self.p
        n_in = b.add(n, p.reach)
        edge, end = on_picture(b, x0, n_in)

        def load(row, at):
            self.row(row, at, x0, n, n_in, edge, end)

        if p.blocks:
            self.column_of_blocks(load, x0, n)
            return
        b.loop(0, p.extent - 1, 1, lambda i, _: load(b.add(a.y0, i), b.at(self.sums, b.mul(i, self.row_bytes))))

        def block(y, _):
            count = b.imin(b.sub(a.y1, y), p.block)
            kept = p.extent - 1
            b.loop(
                0, count, 1,
                lambda i, _: load(b.add(b.add(y, i), kept), b.at(self.sums, b.mul(b.add(i, kept), self.row_bytes))),
            )  # fmt: skip
            self.down(y, count, x0, n)
            b.loop(0, kept, 1, lambda i, _: self.move(b.add(i, count), i, n))

        b.loop(a.y0, a.y1, p.block, block)

    def column_of_blocks(self, load, x0: Value, n: Value) -> None:
        """All rows of a tile, by blocks of kh: sums of rows from each to the end of its block, in place; then those of
        the next block, one by one, take the places of the ones that are no longer needed.
        """
        b, a, p = self.b, self.b.arg, self.p

        def place(r: Any) -> Any:
            return b.at(self.sums, b.mul(r, self.row_bytes))

        b.loop(0, p.kh, 1, lambda r, _: load(b.add(a.y0, r), place(r)))
        zero = b.const(self.kind, 0)

        def block(y, _):
            def to_end(i, _):
                here, next_ = place(b.sub(p.kh - 2, i)), place(b.sub(p.kh - 1, i))

                def one(o):
                    v = b.fadd(b.vload(b.at(here, o), self.kind), b.vload(b.at(next_, o), self.kind))
                    b.vstore(v, b.at(here, o), self.kind)

                self.over(n, one)

            b.loop(0, p.kh - 1, 1, to_end)
            self.over(n, lambda o: b.vstore(zero, b.at(self.windows, o), self.kind))

            def result(r, _):
                here = place(r)
                self.results(
                    b.add(y, r), x0, n,
                    lambda o: b.fadd(b.vload(b.at(here, o), self.kind), b.vload(b.at(self.windows, o), self.kind)),
                )  # fmt: skip
                load(b.add(b.add(y, p.kh), r), here)

                def more(o):
                    v = b.fadd(b.vload(b.at(self.windows, o), self.kind), b.vload(b.at(here, o), self.kind))
                    b.vstore(v, b.at(self.windows, o), self.kind)

                self.over(n, more)

            b.loop(0, b.imin(b.sub(a.y1, y), p.kh), 1, result)

        b.loop(a.y0, a.y1, p.kh, block)

    def results(self, row: Value, x0: Value, n: Value, total) -> None:
        """Row `row` of the result from `total(byte offset)`."""
        b, a, p = self.b, self.b.arg, self.p
        size = p.target_kind.bytes
        target = b.at(a.dst, b.mul(row, a.dst_pitch), b.mul(x0, size))

        def some(e, past):
            for v in range(VECTORS):
                o = b.add(b.mul(e, self.kind.bytes), v * self.lanes * self.kind.bytes)
                place = b.at(target, b.mul(b.add(e, v * self.lanes), size))
                b.vstore(self.pixel([total(o)], p.finish), place, p.target_kind, past=past)

        across(b, b.index(0), n, self.chunk, target, size, some)

    def move(self, source: Value, target: Value, n: Value) -> None:
        """A row of sums that the next block needs, to the top."""
        b = self.b
        from_, to = (b.at(self.sums, b.mul(i, self.row_bytes)) for i in (source, target))
        self.over(n, lambda o: b.vstore(b.vload(b.at(from_, o), self.kind), b.at(to, o), self.kind))

    def over(self, n: Value, body) -> None:
        """`body(byte offset)` for each vector of n elements, the last one perhaps past their end."""
        b, size = self.b, self.kind.bytes

        def some(e, _):
            for v in range(VECTORS):
                body(b.add(b.mul(e, size), v * self.lanes * size))

        b.loop(0, n, self.chunk, some)

    def row(self, row: Value, at: Value, x0: Value, n: Value, n_in: Value, edge: Value, end: Value) -> None:
        """Padded row `row` loaded and summed along itself, to `at`."""
        b, a, p, size = self.b, self.b.arg, self.p, self.kind.bytes
        steps = doublings(p.kw)
        index = row_index(b, row)
        source = b.at(a.src, b.mul(index, a.src_pitch))
        line = self.pixels if steps else at
        b.choose(
            b.less(index, 0),
            lambda: self.fill(line, n_in),
            lambda: self.copy_row(
                source, b.at(source, b.mul(b.sub(x0, a.left), p.source_kind.bytes)), line, x0, n_in, edge, end
            ),
        )
        old = line
        for i, (count, more) in enumerate(steps):
            last = i == len(steps) - 1
            new = at if last else self.spans
            rest = (p.kw - 2 * count - more) * p.step  # what the next steps look at
            jump = count * p.step * size

            def one(o, old=old, new=new, jump=jump, more=more):
                v = b.fadd(b.vload(b.at(old, o), self.kind), b.vload(b.at(old, o, jump), self.kind))
                if more:
                    v = b.fadd(v, b.vload(b.at(self.pixels, o, 2 * jump), self.kind))
                b.vstore(v, b.at(new, o), self.kind)

            self.over(b.add(n, rest), one)
            old = new

    def down(self, y: Value, count: Value, x0: Value, n: Value) -> None:
        """The tile's rows summed down the columns; the last step makes the pixels of rows y to y + count."""
        b, p = self.b, self.p
        steps = doublings(p.kh)
        old = self.sums
        for number, more in steps[:-1]:
            rest = (p.kh - 2 * number - more) * p.row_step

            def one(r, _, old=old, number=number, more=more):
                here = b.mul(r, self.row_bytes)
                self.over(n, lambda o: b.vstore(
                    self.joined(old, b.add(here, o), number, more), b.at(self.windows, here, o), self.kind
                ))  # fmt: skip

            b.loop(0, b.add(count, rest), 1, one)
            old = self.windows

        def result(r, _):
            here = b.mul(r, self.row_bytes)

            def total(o):
                if steps:
                    return self.joined(old, b.add(here, o), *steps[-1])
                return b.vload(b.at(self.sums, here, o), self.kind)

            self.results(b.add(y, r), x0, n, total)

        b.loop(0, count, 1, result)

    def joined(self, old: Value, o: Value, number: int, more: bool) -> Value:
        """Sums of `number` rows made sums of twice as many, and of one more."""
        b, jump = self.b, number * self.p.row_step * self.row_bytes
        v = b.fadd(b.vload(b.at(old, o), self.kind), b.vload(b.at(old, o, jump), self.kind))
        return b.fadd(v, b.vload(b.at(self.sums, o, 2 * jump), self.kind)) if more else v
