"""Kernels of any size whose taps come from memory: one piece of code for all of them, so that nothing is compiled for a
new kernel.

The function has the same form as in `rows.py`. `taps` points to a table: `WORDS` words of 64 bits that say how large
kernel and tile are, then the taps (`Loops.table` writes it). Rows of the picture are converted into a tile that stays
in cache, and one of these forms sums them:

- `dense`: Σ over all taps, one chain of multiply-adds in the order of the kernel's rows; `dense rows` adds up each
  kernel row by itself first, which keeps the rounding of a long sum small;
- `rows first`: along each row as it is loaded, then down the columns;
- `columns first`: down the columns into four lines of level 1 cache, then along those;
- `fixed columns`: the same by the products of `columns.py` that keep the upper 16 of 32 bits, each for one pixel twice
  or two that share a tap.

The order of the sums is that of the code with constants (`direct`, `straight`, `columns first`, `separable`), so that a
kernel gives the same bits however often it was used before. Integers of 32 bits (`work` "i32") are those of `pairs.py`,
whose sums have no rounding at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import llvmlite.ir as ir
import numpy as np
from numpy.typing import NDArray

from dojang.base.record import plain_repr
from dojang.filters.code.program import ByRows, OfKinds
from dojang.filters.code.rows import Finishing, _Press, across, begin, on_picture, over_tiles, spare_like
from dojang.native.emit import I32, I64, KINDS, U8, ElementType, Value
from dojang.native.machine import Machine

NONE: NDArray[np.int64] = np.zeros(0, np.int64)
Form = Literal["dense", "dense rows", "rows first", "columns first", "fixed columns"]
ROWS, VECTORS = 4, 2  # results that share what they load: eight sums hide the latency of a multiply-add
MOST_TILE = 8 << 20  # bytes

WORDS = (
    "down",
    "along",
    "reach",
    "widest",
    "pitch",
    "tile_rows",
    "scaled",
    "middle",
    "shift",
    "first",
    "add",
    "step",
    "pairs",
)
"""Taps down and along, elements from the first tap of a row to the last, elements of a tile's row of results, bytes
from one of its rows to the next, its rows, whether results are scaled, shifts and additions of 32-bit sums, bytes from
one tap of a row to the next, and products down. After them come scale and offset, then the taps along with their
offsets in bytes (or, for dense kernels, none), then the taps down (or all taps). Fixed columns have two lists of
offsets before each list of taps.
"""


@plain_repr
@dataclass(frozen=True, slots=True)
class LoopCode(OfKinds):
    """What the code depends on."""

    source: str
    target: str
    work: str
    form: Form
    fill: float

    @property
    def advance(self) -> int:
        """Rows loaded for one block of output rows."""
        return ROWS


@plain_repr
@dataclass(frozen=True, slots=True)
class Loops(ByRows, OfKinds):
    """Σ down · (Σ along · pixel), in one of the forms, finished; the code and the sizes of one kernel.

    `down` is the number of kernel rows, `along` that of taps along a row, `reach` the elements from the first of those
    to the last.
    """

    code: LoopCode
    channels: int
    down: int
    along: int
    reach: int

    stride: tuple[int, int] = (1, 1)
    rows: int = ROWS

    @property
    def source(self) -> str:  # type: ignore[override]
        """The element type of the picture."""
        return self.code.source

    @property
    def target(self) -> str:  # type: ignore[override]
        """The element type of the result."""
        return self.code.target

    @property
    def extent(self) -> int:  # type: ignore[override]
        """Rows from the first tap to the last."""
        return self.down

    @property
    def work_kind(self) -> ElementType:
        """The element type of the sums."""
        return KINDS[self.code.work]

    def chunk(self, machine: Machine) -> int:
        """Elements computed at a time; a picture's rows must have as many."""
        return machine.lanes(self.work_kind.bytes) * VECTORS

    @property
    def tile_rows(self) -> int:
        """Rows of the tile: what is kept and some blocks, so that moving the kept rows to the top costs little."""
        blocks = max(2, -(-2 * self.keep // ROWS))
        return self.keep + min(blocks, 16) * ROWS

    def tile_width(self, machine: Machine) -> int:
        """Output elements of a tile's row: as many as half of level 2 cache holds, at least 512, and as many as keep
        what is loaded, or summed, once more for every tile small, but no more than `MOST_TILE` bytes.
        """
        row = self.work_kind.bytes * self.tile_rows
        least = min(4 * self.reach if "columns" in self.code.form else self.reach, MOST_TILE // row)
        width = min(max(machine.l2 // 2 // row, 512, least), 1 << 14)
        return -(-width // self.chunk(machine)) * self.chunk(machine)

    def pitch(self, machine: Machine) -> int:
        """Bytes from one tile row to the next, an odd number of cache lines; loads may run two chunks past the end."""
        inside = 0 if self.code.form == "rows first" else self.reach
        wide = (self.tile_width(machine) + inside + 2 * self.chunk(machine)) * self.work_kind.bytes
        return (-(-wide // 64) | 1) * 64

    def fixed_table(
        self,
        machine: Machine,
        down: Sequence[tuple[int, int, float]],
        along: Sequence[tuple[int, int, float]],
        **words: int,
    ) -> NDArray[np.int64]:
        """What `taps` points to for fixed columns: products of (offset, second offset or −1, tap), in rows and in
        elements.
        """
        parts = []
        for products, unit in ((along, self.work_kind.bytes), (down, self.pitch(machine))):
            places = [i for i, _, _ in products] + [i if j < 0 else j for i, j, _ in products]
            taps = np.array([int(tap) for _, _, tap in products] + [0] * (len(products) % 2)).astype(np.uint32)
            parts += [np.array(places, np.int64) * unit, taps.view(np.int64)]
        head = self.table(machine, NONE, NONE, NONE, pairs=len(down), **words)
        return np.concatenate([head, *parts])

    def line_bytes(self, machine: Machine) -> int:
        """Bytes of a line that holds a padded row of a tile."""
        return -(-(self.tile_width(machine) + self.reach + 4 * self.chunk(machine)) * self.work_kind.bytes // 64) * 64

    def scratch_bytes(self, machine: Machine, inner: int) -> int:
        """Bytes that one thread needs, whatever the number of elements `inner` of a picture's row."""
        del inner
        spare = (self.tile_width(machine) + 2 * self.chunk(machine)) * self.target_kind.bytes + 128
        lines = ROWS * self.pitch(machine) + self.line_bytes(machine)
        return self.tile_rows * self.pitch(machine) + lines + spare

    def table(
        self,
        machine: Machine,
        taps: NDArray,
        along: NDArray,
        offsets: NDArray,
        scale: float = 1.0,
        offset: float = 0.0,
        **words: int,
    ) -> NDArray[np.int64]:
        """What `taps` points to: `taps` down or all of them, row by row; `along` with their offsets in elements."""
        size, tile_width, pitch = self.work_kind.bytes, *_sizes(self, machine)
        given = {
            "down": self.down,
            "along": self.along,
            "reach": self.reach,
            "widest": tile_width,
            "pitch": pitch,
            "tile_rows": self.tile_rows,
            "scaled": int(scale != 1 or offset != 0),
            "step": self.channels * size,
            **words,
        }
        head = np.array([given.get(name, 0) for name in WORDS], np.int64)
        dtype = np.dtype(KINDS[self.code.work].dtype)
        first, second = head.size + 2, head.size + 2 + np.size(offsets)
        values = [np.asarray(v, np.float64).ravel() for v in (along, taps)]
        count = values[0].size + values[1].size
        whole = np.zeros(second + -(-count * dtype.itemsize // 8), np.int64)
        whole[: head.size] = head
        if dtype.kind == "f":
            whole[head.size : first].view(np.float64)[:] = scale, offset
        whole[first:second] = np.asarray(offsets) * size
        whole[second:].view(dtype)[:count] = np.concatenate(values)
        return whole


@lru_cache(maxsize=64)
def _sizes(program: Loops, machine: Machine) -> tuple[int, int]:
    """`tile_width` and `pitch`."""
    return program.tile_width(machine), program.pitch(machine)


def emit_loops(code: LoopCode, machine: Machine) -> str:
    """The IR text of the code's module."""
    return _Loops(code, machine).write()


class _Loops(_Press):
    """Uses the row loader of `_Press`."""

    def __init__(self, code: LoopCode, machine: Machine) -> None:
        self.p, self.machine = code, machine  # type: ignore[assignment]
        self.form = code.form
        self.b = b = begin(machine)
        self.kind = KINDS[code.work]
        self.size = self.kind.bytes
        self.none = -0.0 if self.kind.floating else 0  # a sum of nothing: −0 keeps the sign of a first product of −0
        self.lanes = machine.lanes(self.size)
        self.chunk = self.lanes * VECTORS
        table = b.arg.taps
        self.of = {name: b.sload(b.at(table, 8 * i), I64) for i, name in enumerate(WORDS)}
        scale = b.at(table, 8 * len(WORDS))
        self.finish = Finishing(b, scale, self.of["scaled"])
        self.offsets = b.at(scale, 16)
        lists = 0 if "dense" in self.form else 16 if self.form == "fixed columns" else 8
        self.along_taps = b.at(self.offsets, b.mul(self.of["along"], lists))
        self.down_taps = b.at(self.along_taps, b.mul(self.of["along"], self.size if lists else 0))
        if self.form == "fixed columns":
            even = b.and_(b.add(self.of["along"], 1), b.index(-2))
            self.rows = b.at(self.along_taps, b.mul(even, self.size))
            self.down_taps = b.at(self.rows, b.mul(self.of["pairs"], 16))
        self.pitch = self.of["pitch"]
        self.keep = b.sub(self.of["down"], 1)
        self.buffer = b.arg.scratch
        self.mids = b.at(self.buffer, b.mul(self.of["tile_rows"], self.pitch))
        self.line = b.at(self.mids, b.mul(self.pitch, ROWS))
        wide = b.mul(b.add(b.add(self.of["widest"], self.of["reach"]), 4 * self.chunk), self.size)
        self.spare = b.at(self.line, b.and_(b.add(wide, 63), b.index(-64)))

    def write(self) -> str:
        over_tiles(self.b, self.of["widest"], self.chunk, self.column)
        return self.b.finish()

    def column(self, x0: Value, n: Value) -> None:
        """All rows y0 to y1 of the tile of n output elements that begins at x0."""
        b, a = self.b, self.b.arg
        n_in = b.add(n, self.of["reach"])
        edge, end = on_picture(b, x0, n_in)

        def load(row, at):
            self.load_row(row, at, x0, n, n_in, edge, end)

        b.loop(0, self.keep, 1, lambda i, _: load(b.add(a.y0, i), b.at(self.buffer, b.mul(i, self.pitch))))

        def block(y, carry):
            (base,) = carry
            here = b.at(self.buffer, b.mul(base, self.pitch))
            new = b.at(here, b.mul(self.keep, self.pitch))
            top = b.add(y, self.keep)
            b.loop(0, ROWS, 1, lambda i, _: load(b.add(top, i), b.at(new, b.mul(i, self.pitch))))
            self.block(y, here, x0, n, n_in)
            following = b.add(base, ROWS)
            full = b.less(b.sub(b.sub(self.of["tile_rows"], self.keep), ROWS), following)
            return b.choose(full, lambda: self.top(following, n, n_in), lambda: [following])

        b.loop(a.y0, a.y1, ROWS, block, [b.index(0)])

    def top(self, base: Value, n: Value, n_in: Value) -> list[Value]:
        """The rows that are kept, moved to the top of the tile; their new base."""
        b = self.b

        def row(i, _):
            source = b.at(self.buffer, b.mul(b.add(base, i), self.pitch))
            target = b.at(self.buffer, b.mul(i, self.pitch))

            def copy(e, _):
                o = b.mul(e, self.size)
                b.vstore(b.vload(b.at(source, o), self.kind), b.at(target, o), self.kind)

            b.loop(0, n if self.form == "rows first" else n_in, self.lanes, copy)

        b.loop(0, self.keep, 1, row)
        return [b.index(0)]

    def load_row(self, row: Value, at: Value, x0: Value, n: Value, n_in: Value, edge: Value, end: Value) -> None:
        """Padded row `row` into the tile at `at`; with rows first, summed along the row."""
        b, a, p = self.b, self.b.arg, self.p
        rows_first = self.form == "rows first"
        index = b.sload(b.at(a.rows, b.mul(b.imin(row, b.sub(a.nrows, 1)), 8)), I64)
        line = self.line if rows_first else at
        source = b.at(a.src, b.mul(index, a.src_pitch))
        shifted = b.at(source, b.mul(b.sub(x0, a.left), p.source_kind.bytes))
        b.choose(
            b.less(index, 0),
            lambda: self.fill(line, n_in),
            lambda: self.copy_row(source, shifted, line, x0, n_in, edge, end),
        )
        if not rows_first:
            return
        wide = 2 * VECTORS

        def some(e, _):
            o = b.mul(e, self.size)
            (sums,) = self.along([b.at(line, o)], wide)
            for v, total in enumerate(sums):
                b.vstore(total, b.at(at, o, v * self.lanes * self.size), self.kind)

        # Two chunks at a time, past the end of the row into the space behind it.
        b.loop(0, n, wide * self.lanes, some)

    # -- sums -------------------------------------------------------------------------------------------------------

    def term(self, total: Value, x: Value, tap: Value) -> Value:
        b = self.b
        if self.kind.floating:
            return b.fma(x, tap, total)
        return ir.IRBuilder.add(b, total, ir.IRBuilder.mul(b, x, tap))

    def along(self, lines: list[Value], vectors: int) -> list[list[Value]]:
        """Σ along · line, for each line so many vectors."""
        b = self.b
        if self.form == "fixed columns":
            return self.high_sums(lines, vectors, self.offsets, self.along_taps, self.of["along"], 1)
        zero = b.const(self.kind, self.none)

        def tap(t, sums):
            tap = b.splat_load(b.at(self.along_taps, b.mul(t, self.size)), self.kind)
            move = b.sload(b.at(self.offsets, b.mul(t, 8)), I64)
            out = []
            for k, line in enumerate(lines):
                place = b.at(line, move)
                for v in range(vectors):
                    x = b.vload(b.at(place, v * self.lanes * self.size), self.kind)
                    out.append(self.term(sums[k * vectors + v], x, tap))
            return out

        sums = b.loop(0, self.of["along"], 1, tap, [zero] * (len(lines) * vectors))
        return [list(sums[k * vectors : (k + 1) * vectors]) for k in range(len(lines))]

    def down(self, source: Value) -> list[list[Value]]:
        """[row][vector]: sums of `ROWS` results from the tile's rows at `source`; each row is loaded once for all.

        The first and last rows concern some of the results only; a tap of zero would turn their NaN into a result.
        """
        b, kh = self.b, self.of["down"]
        if self.form == "fixed columns":
            rows = [b.at(source, b.mul(self.pitch, r)) for r in range(ROWS)]
            return self.high_sums(rows, VECTORS, self.rows, self.down_taps, self.of["pairs"], 0)
        dense = "dense" in self.form
        apart = self.form == "dense rows"
        zero = b.const(self.kind, self.none)
        row_taps = b.mul(self.of["along"], self.size) if dense else self.size

        def inner(line, taps, users, sums):
            """Adds a tile row to the sums of these results; `taps` are where the kernel row of the first begins."""

            def one(j, state):
                at = b.at(line, b.mul(j, self.of["step"])) if dense else line
                xs = [b.vload(b.at(at, v * self.lanes * self.size), self.kind) for v in range(VECTORS)]
                out = []
                for k in range(len(users)):
                    place = b.at(taps, b.mul(j, self.size)) if dense else taps
                    tap = b.splat_load(b.at(place, b.sub(0, b.mul(row_taps, k))), self.kind)
                    out += [self.term(state[k * VECTORS + v], x, tap) for v, x in enumerate(xs)]
                return out

            if not dense:
                return one(0, sums)
            if not apart:
                return b.loop(0, self.of["along"], 1, one, sums)
            new = b.loop(0, self.of["along"], 1, one, [zero] * len(sums))
            return [b.fadd(old, more) for old, more in zip(sums, new, strict=True)]

        def whole(i, sums):
            line = b.at(source, b.mul(i, self.pitch))
            return inner(line, b.at(self.down_taps, b.mul(i, row_taps)), range(ROWS), sums)

        def partly(i, sums):
            line, out = b.at(source, b.mul(i, self.pitch)), []
            for r in range(ROWS):
                mine = list(sums[r * VECTORS : (r + 1) * VECTORS])
                k = b.sub(i, r)
                taps = b.at(self.down_taps, b.mul(k, row_taps))
                inside = b.and_(b.icmp_signed(">=", k, b.index(0)), b.less(k, kh))
                out += b.choose(inside, lambda t=taps, m=mine: list(inner(line, t, [0], m)), lambda m=mine: m)
            return out

        sums = [zero] * (ROWS * VECTORS)
        sums = b.loop(0, b.index(ROWS - 1), 1, partly, sums)
        sums = b.loop(b.index(ROWS - 1), kh, 1, whole, sums)
        sums = b.loop(b.imax(kh, ROWS - 1), b.add(kh, ROWS - 1), 1, partly, sums)
        return [list(sums[r * VECTORS : (r + 1) * VECTORS]) for r in range(ROWS)]

    def high_sums(
        self, lines: list[Value], vectors: int, offsets: Value, taps: Value, count: Value, mean: int
    ) -> list[list[Value]]:
        """Σ ⌊both · tap / 2^16⌋ for each line, with both = (x + y) · 2^7, or for a `mean` ⌊(x + y + 1) / 2⌋."""
        b = self.b

        def const(v: Any) -> Any:
            return b.const(self.kind, v)

        def product(t, sums):
            tap = b.splat_load(b.at(taps, b.mul(t, self.size)), self.kind)
            places = (b.mul(t, 8), b.mul(b.add(t, count), 8))
            one, two = (b.sload(b.at(offsets, place), I64) for place in places)
            out = []
            for k, line in enumerate(lines):
                for v in range(vectors):
                    x, y = (b.vload(b.at(line, o, v * self.lanes * self.size), self.kind) for o in (one, two))
                    both = ir.IRBuilder.add(b, x, y)
                    both = b.lshr(ir.IRBuilder.add(b, both, const(1)), const(1)) if mean else b.shl(both, const(7))
                    high = b.lshr(ir.IRBuilder.mul(b, both, tap), const(16))
                    out.append(ir.IRBuilder.add(b, sums[k * vectors + v], high))
            return out

        sums = b.loop(0, count, 1, product, [const(0)] * (len(lines) * vectors))
        return [list(sums[k * vectors : (k + 1) * vectors]) for k in range(len(lines))]

    # -- results ----------------------------------------------------------------------------------------------------

    def block(self, y: Value, here: Value, x0: Value, n: Value, n_in: Value) -> None:
        """The block of output rows that begins at y, from the tile rows that begin at `here`."""
        b, a = self.b, self.b.arg
        size = self.p.target_kind.bytes
        first = b.at(a.dst, b.mul(x0, size))
        spare = spare_like(b, self.spare, first)
        targets = []
        for r in range(ROWS):
            place = b.at(a.dst, b.mul(b.add(y, r), a.dst_pitch), b.mul(x0, size))
            targets.append(b.select(b.less(b.add(y, r), a.y1), place, spare) if r else place)
        columns_first = "columns" in self.form
        mids = [b.at(self.mids, b.mul(self.pitch, r)) for r in range(ROWS)]
        if columns_first:

            def line(e, _):
                o = b.mul(e, self.size)
                for mid, row in zip(mids, self.down(b.at(here, o)), strict=True):
                    for v, total in enumerate(row):
                        b.vstore(self.between(total), b.at(mid, o, v * self.lanes * self.size), self.kind)

            b.loop(0, n_in, self.chunk, line)

        def some(e, past):
            o = b.mul(e, self.size)
            sums = self.along([b.at(m, o) for m in mids], VECTORS) if columns_first else self.down(b.at(here, o))
            for row, target in zip(sums, targets, strict=True):
                for v, total in enumerate(row):
                    place = b.at(target, b.mul(e, size), v * self.lanes * size)
                    b.vstore(self.finished(total), place, self.p.target_kind, past=past)

        across(b, b.index(0), n, self.chunk, first, size, some)

    def between(self, total: Value) -> Value:
        """32-bit sums between the passes lose bits; floats stay as they are."""
        if self.kind.floating:
            return total
        return self.shifted(total, "first", "middle")

    def shifted(self, total: Value, add: str, by: str) -> Value:
        b = self.b

        def wide(v: Any) -> Any:
            return b.splat(b.trunc(v, I32.ir), self.lanes)

        return b.ashr(ir.IRBuilder.add(b, total, wide(self.of[add])), wide(self.of[by]))

    def finished(self, total: Value) -> Value:
        """A sum as pixels: scaled, rounded, saturated."""
        b, kind, target = self.b, self.kind, self.p.target_kind
        if not kind.floating:
            return b.convert(self.shifted(total, "add", "shift"), I32, U8, saturate=True)
        return self.finish.pixels(total, kind, target)
