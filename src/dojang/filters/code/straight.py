"""Float kernels with their taps as constants, straight from the picture.

The function has the same form as in `rows.py`, but no tile of the picture is kept: floats need no conversion, so a
block of rows reads them in place. Only one chunk at the left and right edge is copied, together with the border beyond
it.
"""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ir

from dojang.base.record import plain_repr
from dojang.filters.code.columns import _Columns
from dojang.filters.code.program import ByRows, Finish
from dojang.filters.code.rows import LINE, across, on_picture, spare_like
from dojang.native.emit import I64, KINDS, ElementType, Value
from dojang.native.machine import Machine

StraightTap = tuple[int, int, float]  # (rows down, elements to the right, tap)


@plain_repr
@dataclass(frozen=True, slots=True)
class Straight(ByRows):
    """Σ tap · pixel, finished."""

    kind: str
    channels: int
    extent: int
    reach: int
    taps: tuple[StraightTap, ...]
    finish: Finish
    fill: float
    rows: int
    vectors: int

    stride: tuple[int, int] = (1, 1)
    fixed: bool = False

    @property
    def work_kind(self) -> ElementType:
        """The element type of picture, sums and result."""
        return KINDS[self.kind]

    source_kind = target_kind = work_kind

    @property
    def lines(self) -> int:
        """Rows that a block reads."""
        return self.extent + self.rows - 1

    def chunk(self, machine: Machine) -> int:
        """Elements computed at a time; a picture's rows must have as many."""
        return machine.lanes(self.work_kind.bytes) * self.vectors

    def tile_width(self, machine: Machine) -> int:
        """Output elements of a tile: what a block reads and writes fills half of level 2 cache.

        Mostly whole rows: each tile of a row is a new stream from memory.
        """
        width = max(machine.l2 // 2 // ((self.lines + self.rows) * self.work_kind.bytes), 1024)
        chunk = self.chunk(machine)
        return -(-width // chunk) * chunk

    def pitch(self, machine: Machine) -> int:
        """Bytes from one copied row to the next, an odd number of cache lines."""
        wide = self.work_kind.bytes * (2 * self.chunk(machine) + self.reach)
        return (-(-wide // 64) | 1) * 64

    def scratch_bytes(self, machine: Machine, inner: int) -> int:
        """Bytes that one thread needs for rows of `inner` elements."""
        return self.lines * self.pitch(machine) + self.spare(machine) + inner * self.work_kind.bytes + 256

    def spare(self, machine: Machine) -> int:
        """Bytes of a result row of a tile, wherever in a cache line it begins."""
        return -(-(self.tile_width(machine) + self.chunk(machine)) * self.work_kind.bytes // LINE) * LINE + LINE


def emit_straight(program: Straight, machine: Machine) -> str:
    """The IR text of the program's module."""
    return _Straight(program, machine).write()


class _Straight(_Columns):
    """Uses the tiles and the row addresses of `_Columns`."""

    p: Straight  # type: ignore[assignment]

    def __init__(self, program: Straight, machine: Machine) -> None:
        super().__init__(program, machine)
        self.spare = self.empty  # a result row that is never read; then a row of fill
        self.empty = self.b.at(self.spare, program.spare(machine))

    def column(self, x0: Value, n: Value) -> None:
        """All rows y0 to y1 of the tile of n output elements that begins at x0."""
        b, a, p, size = self.b, self.b.arg, self.p, self.kind.bytes
        n_in = b.add(n, p.reach)
        start = b.mul(b.sub(x0, a.left), size)
        base = b.at(a.dst, b.mul(x0, size))
        spare = spare_like(b, self.spare, base)
        # Chunks at the picture's edges read copies, and so do all chunks of a tile of at most two.
        narrow = b.less(n, 2 * self.chunk + 1)
        at_left = b.or_(narrow, b.less(x0, a.left))
        at_right = b.or_(
            narrow, b.less(b.sub(b.add(a.left, a.inner), x0), b.add(n_in, self.lanes))
        )  # no vector is partial
        first = b.select(at_left, b.index(self.chunk), b.index(0))
        end = b.select(at_right, b.sub(n, self.chunk), n)
        # The last chunk between them, moved left, must not reach beyond the picture's left edge.
        end = b.select(narrow, end, b.imax(end, b.add(b.imax(b.sub(a.left, x0), b.index(0)), self.chunk)))

        def block(y, _):
            rows = {i: self.row(b.add(y, i)) for i in sorted({i + r for i, _, _ in p.taps for r in range(p.rows)})}
            inside = {i: b.at(row, start) for i, row in rows.items()}
            targets = []
            for r in range(p.rows):
                place = b.at(base, b.mul(b.add(y, r), a.dst_pitch))
                targets.append(b.select(b.less(b.add(y, r), a.y1), place, spare) if r else place)

            def some(e, past):
                o = b.mul(e, size)
                for line in range(0, self.chunk * size, LINE):
                    for i in sorted(inside)[-p.rows :]:  # of the next block
                        b.prefetch(b.at(inside[i], o, b.mul(a.src_pitch, p.rows), line))
                self.sums({i: b.at(row, o) for i, row in inside.items()}, [b.at(t, o) for t in targets], past)

            across(b, first, end, self.chunk, base, size, some)

            def edge(e):
                self.copies(rows, b.add(x0, e))
                lines = {i: b.at(self.lines, k * self.pitch) for k, i in enumerate(rows)}
                self.sums(lines, [b.at(t, b.mul(e, size)) for t in targets])

            def left():
                edge(b.index(0))

            def right():
                edge(b.sub(n, self.chunk))

            b.choose(at_left, left)
            b.choose(at_right, right)

        b.loop(a.y0, a.y1, p.rows, block)

    def copies(self, rows: dict[int, Value], x: Value) -> None:
        """The padded elements that a chunk at x needs, of every row; those of the picture by vectors."""
        b, a, p, kind = self.b, self.b.arg, self.p, self.kind
        wide = self.chunk + p.reach
        edge, end = on_picture(b, x, wide)
        start = b.mul(b.sub(x, a.left), kind.bytes)
        fill = ir.Constant(kind.ir, p.fill)

        def outside(e, _):
            index = b.sload(b.at(a.cols, b.mul(b.add(x, e), 8)), I64)
            beyond = b.less(index, 0)
            place = b.mul(b.imax(index, b.index(0)), kind.bytes)
            for k, row in enumerate(rows.values()):
                v = b.select(beyond, fill, b.sload(b.at(row, place), kind))
                b.vstore(v, b.at(self.lines, b.mul(e, kind.bytes), k * self.pitch), kind)

        def copy(e, lanes):
            o = b.mul(e, kind.bytes)
            for k, row in enumerate(rows.values()):
                place = b.at(self.lines, o, k * self.pitch)
                if lanes:
                    b.vstore(b.vload(b.at(row, start, o), kind, lanes), place, kind)
                else:
                    b.vstore(b.sload(b.at(row, start, o), kind), place, kind)

        last = b.sub(end, self.lanes)

        def many():
            b.loop(edge, end, self.lanes, lambda e, _: copy(b.imin(e, last), self.lanes))

        def few():
            b.loop(edge, end, 1, lambda e, _: copy(e, 0))

        b.loop(0, edge, 1, outside)
        b.choose(b.less(b.sub(end, edge), self.lanes), few, many)
        b.loop(end, wide, 1, outside)

    def sums(self, rows: dict[int, Value], targets: list[Value], past: bool = False) -> None:
        """One chunk of every row of the block: each vector is loaded once and used for every row that needs it."""
        b, p = self.b, self.p
        users: dict[tuple[int, int], list[tuple[int, float]]] = {}
        for row, shift, tap in p.taps:
            for r in range(p.rows):
                users.setdefault((row + r, shift), []).append((r, tap))
        total: list[list[Value]] = [[None] * p.vectors for _ in range(p.rows)]
        loaded: dict[tuple[int, int], Value] = {}
        for row, shift in sorted(users):
            for v in range(p.vectors):
                x = self.shifted(rows[row], loaded, row, shift + v * self.lanes)
                for r, tap in users[row, shift]:
                    total[r][v] = self.term(total[r][v], x, tap)
        for r, target in enumerate(targets):
            for v in range(p.vectors):
                at = b.at(target, v * self.lanes * self.kind.bytes)
                b.vstore(self.pixel([total[r][v]], p.finish), at, self.kind, past=past)

    def shifted(self, line: Value, loaded: dict[tuple[int, int], Value], row: int, shift: int) -> Value:
        """A vector of row elements from `shift` on.

        With 512 bits nearly every such load would touch two cache lines; joining two vectors costs less.
        """
        if self.machine.isa != "avx512":
            return self.vector(line, shift * self.kind.bytes)
        whole, rest = divmod(shift, self.lanes)
        for q in (whole, whole + 1)[: 2 if rest else 1]:
            if (row, q) not in loaded:
                loaded[row, q] = self.vector(line, q * self.lanes * self.kind.bytes)
        if not rest:
            return loaded[row, whole]
        return self.b.shuffle(loaded[row, whole], loaded[row, whole + 1], range(rest, rest + self.lanes))
