"""uint8 pictures in fixed point: taps in 16 bits, two rows at a time, sums in 32 bits.

The function has the same form as in `rows.py`. A line of the tile holds two rows, an element the pixels of both as a
pair of 16-bit numbers; one instruction multiplies a pair by two taps and adds the products, twice as many as float32
does. Separable kernels go down the columns first, into rows of 16-bit numbers that are paired with their neighbour to
the right for the pass along the row. `fixed.py` bounds the effect of rounding the taps.
"""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ir

from dojang.base.record import plain_repr
from dojang.filters.code.program import ByRows
from dojang.filters.code.rows import begin, on_picture, over_tiles, row_address
from dojang.native.emit import I32, I64, U8, Emit, Value
from dojang.native.machine import Machine

# With at most so many taps, product and sum are one instruction. The next one waits five cycles for it instead of one:
# with it, kernels of 5x5 and 7x7 took 1.1 and 1.4 times as long (an Intel server, November 2026).
FUSED = 12

FixedTap = tuple[int, int, int]  # (rows down, elements to the right, 16-bit tap)


@plain_repr
@dataclass(frozen=True, slots=True)
class Pairs(ByRows):
    """(Σ tap · pixel + add) >> shift, saturated to uint8.

    With `along`, whose taps are `step` elements apart, the taps make (Σ tap · pixel + first) >> middle first, which
    must fit 16 bits, and those are summed along the row.
    """

    channels: int
    extent: int
    reach: int
    taps: tuple[FixedTap, ...]
    along: tuple[int, ...]
    step: int
    first: int
    middle: int
    shift: int
    add: int
    fill: int
    rows: int
    vectors: int

    stride: tuple[int, int] = (1, 1)

    @property
    def lines_kept(self) -> int:
        """Lines of the tile, two rows each, that the next block needs again."""
        return self.extent // 2

    @property
    def advance(self) -> int:
        """Lines loaded for one block of output rows."""
        return self.rows // 2

    @property
    def lines(self) -> int:
        """Lines of the tile that a block reads; it loads new lines over those that the block before no longer needs."""
        return self.lines_kept + self.advance

    def chunk(self, machine: Machine) -> int:
        """Elements of a result row stored at a time; a picture's rows must have as many."""
        return 4 * machine.lanes(4)

    def tile_width(self, machine: Machine) -> int:
        """Output elements of a tile's row: what level 1 cache holds for small kernels, else level 2."""
        room = machine.l1 * 3 // 4 if self.lines * 4 * 512 <= machine.l1 * 3 // 4 else machine.l2 // 2
        width = min(max(room // (4 * self.lines), 512, 4 * self.reach), 1 << 14)
        chunk = self.chunk(machine)
        return -(-width // chunk) * chunk

    def pitch(self, machine: Machine) -> int:
        """Bytes from one line to the next, an odd number of cache lines."""
        wide = 4 * (self.tile_width(machine) + self.reach + 2 * self.chunk(machine))
        return (-(-wide // 64) | 1) * 64

    def scratch_bytes(self, machine: Machine, inner: int) -> int:
        """Bytes that one thread needs for rows of `inner` elements."""
        lines = self.lines + (2 * self.rows if self.along else 0)
        return lines * self.pitch(machine) + self.tile_width(machine) + self.chunk(machine) + inner + 256


def emit_pairs(program: Pairs, machine: Machine) -> str:
    """The IR text of the program's module."""
    return _Pairs(program, machine).write()


class _Pairs:
    def __init__(self, program: Pairs, machine: Machine) -> None:
        self.p, self.machine = program, machine
        self.b = b = begin(machine)
        self.lanes = machine.lanes(4)
        self.chunk, self.pitch = program.chunk(machine), program.pitch(machine)
        self.tile = b.arg.scratch
        self.mid = b.at(self.tile, program.lines * self.pitch)
        self.paired = b.at(self.mid, program.rows * self.pitch)
        self.spare = b.at(self.mid, 2 * program.rows * self.pitch if program.along else 0)
        self.empty = b.at(self.spare, program.tile_width(machine) + self.chunk)  # a row of fill

    def write(self) -> str:
        b, a, p = self.b, self.b.arg, self.p
        fill = b.const(U8, p.fill)
        wide = self.machine.lanes(1)
        b.loop(0, a.inner, wide, lambda e, _: b.vstore(fill, b.at(self.empty, e), U8))
        over_tiles(b, p.tile_width(self.machine), self.chunk, self.column)
        return b.finish()

    def column(self, x0: Value, n: Value) -> None:
        """All rows y0 to y1 of the tile of n output elements that begins at x0."""
        b, a, p = self.b, self.b.arg, self.p
        n_in = b.add(n, p.reach)
        ring = [b.at(self.tile, i * self.pitch) for i in range(p.lines)]
        edge, end = on_picture(b, x0, n_in)

        def load(row, line):
            self.load_line(row, line, x0, n_in, edge, end)

        b.loop(0, p.lines_kept, 1, lambda i, _: load(b.add(a.y0, b.mul(i, 2)), b.at(self.tile, b.mul(i, self.pitch))))

        def block(y, lines):
            for i in range(p.lines_kept, p.lines):
                load(b.add(y, 2 * i), lines[i])
            if p.along:
                self.separable(y, lines, x0, n, n_in)
            else:
                self.dense(y, lines, x0, n)
            return lines[p.advance :] + lines[: p.advance]

        b.loop(a.y0, a.y1, p.rows, block, ring)

    # -- loading ----------------------------------------------------------------------------------------------------

    def row(self, p: Value) -> Value:
        """The address of padded row p's first pixel."""
        return row_address(self.b, p, self.empty)

    def load_line(self, row: Value, line: Value, x0: Value, n_in: Value, edge: Value, end: Value) -> None:
        """Padded rows `row` and the next into a line of the tile."""
        b, a, p, lanes = self.b, self.b.arg, self.p, self.lanes
        high, low = self.row(row), self.row(b.add(row, 1))
        start = b.sub(x0, a.left)
        high_, low_ = b.at(high, start), b.at(low, start)
        ahead = b.mul(a.src_pitch, p.rows)
        sixteen = ir.Constant(I32.ir, 16)

        def join(one, two):
            if isinstance(one.type, ir.VectorType):
                type_ = I32.vector(one.type.count)
                return b.or_(b.zext(one, type_), b.shl(b.zext(two, type_), ir.Constant(type_, [16] * one.type.count)))
            return b.or_(b.zext(one, I32.ir), b.shl(b.zext(two, I32.ir), sixteen))

        def outside(e, _):
            index = b.sload(b.at(a.cols, b.mul(b.add(x0, e), 8)), I64)
            place = b.at(line, b.mul(e, 4))

            def inside():
                b.vstore(join(b.sload(b.at(high, index), U8), b.sload(b.at(low, index), U8)), place, I32)

            empty = ir.Constant(I32.ir, p.fill << 16 | p.fill)
            b.choose(b.less(index, 0), lambda: b.vstore(empty, place, I32), inside)

        def one(e, _):
            pair = join(b.sload(b.at(high_, e), U8), b.sload(b.at(low_, e), U8))
            b.vstore(pair, b.at(line, b.mul(e, 4)), I32)

        def many():
            last = b.sub(end, 2 * lanes)

            def some(e, _):
                e = b.imin(e, last)
                # Prefetch the rows of the next block, which are too far apart for the hardware prefetcher.
                b.prefetch(b.at(high_, e, ahead))
                b.prefetch(b.at(low_, e, ahead))
                for v in range(2):
                    at = [b.vload(b.at(r, e, v * lanes), U8, lanes) for r in (high_, low_)]
                    b.vstore(join(*at), b.at(line, b.mul(e, 4), 4 * v * lanes), I32)

            b.loop(edge, end, 2 * lanes, some)

        b.loop(0, edge, 1, outside)
        b.choose(b.less(b.sub(end, edge), 2 * lanes), lambda: b.loop(edge, end, 1, one) and None, many)
        b.loop(end, n_in, 1, outside)

    # -- sums -------------------------------------------------------------------------------------------------------

    def sums(self, lines: list[Value], o: Value, first: int) -> list[list[Value]]:
        """Σ tap · pixel + first, o bytes into the lines: [row][vector]. Each vector is loaded once for all rows."""
        b, p, lanes = self.b, self.p, self.lanes
        users: dict[tuple[int, int], dict[int, list[list[int]]]] = {}
        for row, shift, tap in p.taps:
            for r in range(p.rows):
                line, half = divmod(row + r, 2)
                pieces = users.setdefault((line, shift), {}).setdefault(r, [])
                free = next((piece for piece in pieces if piece[half] == 0), None)
                if free is None:
                    pieces.append(free := [0, 0])
                free[half] = tap
        few = len(p.taps) <= FUSED
        total: list[list[Value]] = [[b.const(I32, first)] * p.vectors for _ in range(p.rows)]
        for line, shift in sorted(users):
            pairs = [b.vload(b.at(lines[line], o, 4 * (shift + v * lanes)), I32) for v in range(p.vectors)]
            for r, pieces in users[line, shift].items():
                for piece in pieces:
                    for v, x in enumerate(pairs):
                        total[r][v] = multiply_add(b, total[r][v], x, *piece, fused=few)
        return total

    def targets(self, y: Value, x0: Value) -> list[Value]:
        """The addresses of the rows of a block; rows after the last one go to a line that is never read."""
        b, a = self.b, self.b.arg
        places = [b.at(a.dst, b.mul(b.add(y, r), a.dst_pitch), x0) for r in range(self.p.rows)]
        return [b.select(b.less(b.add(y, r), a.y1), t, self.spare) if r else t for r, t in enumerate(places)]

    def dense(self, y: Value, lines: list[Value], x0: Value, n: Value) -> None:
        b, p = self.b, self.p
        targets = self.targets(y, x0)
        step = p.vectors * self.lanes
        last = b.sub(n, step)

        def some(e, _):
            e = b.imin(e, last)
            self.store_rows(self.sums(lines, b.mul(e, 4), p.add), [b.at(t, e) for t in targets])

        b.loop(0, n, step, some)

    def separable(self, y: Value, lines: list[Value], x0: Value, n: Value, n_in: Value) -> None:
        b, p, lanes = self.b, self.p, self.lanes
        step = p.vectors * lanes
        last = b.sub(n_in, step)
        drop = b.const(I32, p.middle)

        def down(e, _):
            e = b.imin(e, last)
            o = b.mul(e, 4)
            for r, row in enumerate(self.sums(lines, o, p.first)):
                for v, total in enumerate(row):
                    b.vstore(b.ashr(total, drop), b.at(self.mid, o, r * self.pitch + 4 * v * lanes), I32)

        b.loop(0, n_in, step, down)
        targets = self.targets(y, x0)
        for r in range(p.rows):
            self.along(b.at(self.mid, r * self.pitch), b.at(self.paired, r * self.pitch), targets[r], n, n_in)

    def along(self, mid: Value, paired: Value, target: Value, n: Value, n_in: Value) -> None:
        """One row of the second pass."""
        b, p, lanes = self.b, self.p, self.lanes
        low, sixteen = b.const(I32, 0xFFFF), b.const(I32, 16)

        def pair(at, o):
            one, two = b.vload(b.at(at, o), I32), b.vload(b.at(at, o + 4 * p.step), I32)
            return b.or_(b.and_(one, low), b.shl(two, sixteen))

        kept = len(p.along) > 4
        if kept:  # pairs for several taps are made once

            def keep(e, _):
                o = b.mul(e, 4)
                for v in range(2):
                    b.vstore(pair(b.at(mid, o), 4 * v * lanes), b.at(paired, o, 4 * v * lanes), I32)

            b.loop(0, n_in, 2 * lanes, keep)
        last = b.sub(n, self.chunk)

        def some(e, _):
            e = b.imin(e, last)
            here, there = b.at(mid, b.mul(e, 4)), b.at(paired, b.mul(e, 4))
            row = []
            for v in range(4):
                total = b.const(I32, p.add)
                for j in range(0, len(p.along), 2):
                    o = 4 * (j * p.step + v * lanes)
                    if j + 1 == len(p.along):
                        x, taps = b.vload(b.at(here, o), I32), (p.along[j], 0)
                    else:
                        x, taps = b.vload(b.at(there, o), I32) if kept else pair(here, o), p.along[j : j + 2]
                    total = multiply_add(b, total, x, *taps, fused=False)
                row.append(total)
            self.store_rows([row], [b.at(target, e)])

        b.loop(0, n, self.chunk, some)

    def store_rows(self, rows: list[list[Value]], targets: list[Value]) -> None:
        """Rows of sums of equally many vectors as pixels, four vectors at a time."""
        b, wide = self.b, len(rows[0])
        drop = b.const(I32, self.p.shift)
        sums = [b.ashr(v, drop) for row in rows for v in row]
        if len(sums) % 4 or 4 % wide:
            for i, target in enumerate(targets):
                v = b.concat(sums[i * wide : (i + 1) * wide])
                b.vstore(b.convert(v, I32, U8, saturate=True), target, U8)
            return
        for i in range(0, len(sums), 4):
            pixels = packed(b, sums[i : i + 4])
            for k in range(4 // wide):
                part = range(k * wide * self.lanes, (k + 1) * wide * self.lanes)
                v = pixels if wide == 4 else b.shuffle(pixels, None, part)
                b.vstore(v, targets[i // wide + k], U8)


def packed(b: Emit, four: list[Value]) -> Value:
    """Four vectors of 32-bit numbers as one of saturated bytes.

    x86 packs two vectors within each 128 bits; the order is corrected at the end.
    """
    lanes = four[0].type.count
    short, byte = ir.VectorType(ir.IntType(16), 2 * lanes), ir.VectorType(ir.IntType(8), 4 * lanes)
    names = {
        8: ("llvm.x86.avx2.packssdw", "llvm.x86.avx2.packuswb"),
        16: ("llvm.x86.avx512.packssdw.512", "llvm.x86.avx512.packuswb.512"),
    }
    two = [intrinsic(b, names[lanes][0], short, four[i : i + 2]) for i in (0, 2)]
    one = intrinsic(b, names[lanes][1], byte, two)
    parts = lanes // 4  # of 128 bits: each holds four pixels of each vector
    places = [4 * (i % parts) + i // parts for i in range(lanes)]
    return b.bitcast(b.shuffle(b.bitcast(one, four[0].type), None, places), byte)


def multiply_add(b: Emit, total: Value, pairs: Value, low: int, high: int, fused: bool) -> Value:
    """total + low · x + high · y for each pair (x, y) of signed 16-bit numbers, x in the low half of a 32-bit lane.

    In one instruction if `fused` and the processor has one.
    """
    lanes = pairs.type.count
    halves = ir.VectorType(ir.IntType(16), 2 * lanes)
    taps = ir.Constant(halves, [low, high] * lanes)
    features = b.machine.features.split(",")
    if fused and {8: "+avxvnni", 16: "+avx512vnni"}[lanes] in features:
        both = [total, pairs, b.bitcast(taps, pairs.type)]
        return intrinsic(b, f"llvm.x86.avx512.vpdpwssd.{32 * lanes}", pairs.type, both)
    name = {8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}[lanes]
    return ir.IRBuilder.add(b, total, intrinsic(b, name, pairs.type, [b.bitcast(pairs, halves), taps]))


def intrinsic(b: Emit, name: str, result: ir.Type, args: list[Value]) -> Value:
    """A call of a processor's own instruction."""
    found = b.module.globals.get(name)
    if found is None:
        found = ir.Function(b.module, ir.FunctionType(result, [v.type for v in args]), name)
    return b.call(found, args)
