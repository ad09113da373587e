"""A `RowProgram` as LLVM IR: rows converted into a tile with their borders, horizontal passes, register-blocked sums.

The function is `press(args, unit, scratch)`: `band` output rows of one picture, from unit · band on; `args` points
to the 64-bit `FIELDS`. Pitches in bytes; `rows[p]` is the source row of padded row p and `cols[e]` the source element
of padded element e (−1: the fill); `left` and `inner` are the padded row's elements before the picture and on it;
`width` is the output row at stride 1, in elements, at least one chunk; `past` is 1 if results bypass the caches. Each
picture of a stack is `bands` units, `src_plane` and `dst_image` bytes from the one before.

The last vector of a row is moved left to end with the row instead of being masked: some elements are computed twice,
and nothing is touched outside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.ir as ir

from dojang.filters.code.program import Finish, RowProgram
from dojang.native.emit import F32, F64, I16, I64, PTR, U8, U16, ElementType, Emit, Value
from dojang.native.machine import Machine

FIELDS = (
    "src",
    "src_pitch",
    "dst",
    "dst_pitch",
    "dst_plane",
    "rows",
    "nrows",
    "cols",
    "left",
    "inner",
    "width",
    "taps",
    "height",
    "band",
    "past",
    "bands",
    "src_plane",
    "dst_image",
)
POINTERS = ("src", "dst", "rows", "cols", "taps")


def emit(program: RowProgram, machine: Machine) -> str:
    """The IR text of the program's module."""
    return _Press(program, machine).write()


def begin(machine: Machine) -> Emit:
    """The start of a function that `press(args, unit, scratch)` calls; `b.arg` has the fields, y0, y1 and scratch."""
    fields = {name: PTR if name in POINTERS else I64 for name in FIELDS}
    inside = {**fields, "y0": I64, "y1": I64, "scratch": PTR}
    inner = Emit.begin("inside", inside, machine, noalias=(*POINTERS, "scratch"), internal=True)
    outer = Emit.begin("press", {"args": PTR, "unit": I64, "scratch": PTR}, machine, module=inner.module)
    values = {}
    for i, (name, kind) in enumerate(fields.items()):
        place = outer.at(outer.arg.args, 8 * i)
        values[name] = outer.pload(place) if kind is PTR else outer.sload(place, I64)
    picture = outer.udiv(outer.arg.unit, values["bands"])
    values["src"] = outer.at(values["src"], outer.mul(picture, values["src_plane"]))
    values["dst"] = outer.at(values["dst"], outer.mul(picture, values["dst_image"]))
    y0 = outer.mul(outer.sub(outer.arg.unit, outer.mul(picture, values["bands"])), values["band"])
    y1 = outer.imin(outer.add(y0, values["band"]), values["height"])
    outer.call(inner.function, [*values.values(), y0, y1, outer.arg.scratch])
    outer.ret_void()
    return inner


LINE = 64  # bytes of a cache line


def across(
    b: Emit, first: Value, end: Value, chunk: int, row: Value, size: int, body: Callable[[Value, bool], None]
) -> None:
    """`body(e, past)` for each chunk of the elements from `first` to `end`, the last moved left to end there.

    `row` is where element 0 is stored. With the field `past`, chunks that begin on a cache line bypass the caches:
    a large result would be evicted before it is read, and a line that is stored whole need not be fetched first, which
    saves a third of the traffic. A chunk must consist of whole lines, and so must the pitches if it stores several
    rows.
    """
    last = b.sub(end, chunk)

    def through():
        b.loop(first, end, chunk, lambda e, _: body(b.imin(e, last), False))

    if chunk * size % LINE:
        through()
        return

    def past():
        at = b.add(b.ptrtoint(row, I64.ir), b.mul(first, size))
        lead = b.udiv(b.and_(b.sub(b.index(0), at), b.index(LINE - 1)), size)
        begin = b.add(first, lead)
        whole = b.sub(end, b.urem(b.sub(end, begin), chunk))
        b.choose(b.less(0, lead), lambda: body(first, False))
        b.loop(begin, whole, chunk, lambda e, _: body(e, True))
        b.choose(b.less(whole, end), lambda: body(last, False))

    short = b.less(b.sub(end, first), 2 * chunk)
    b.choose(b.or_(short, b.icmp_signed("==", b.arg.past, b.index(0))), through, past)


def spare_like(b: Emit, spare: Value, row: Value) -> Value:
    """`spare`, which is on a cache line, moved to lie in its line as `row` does in its own."""
    return b.at(spare, b.and_(b.ptrtoint(row, I64.ir), b.index(LINE - 1)))


def over_tiles(b: Emit, widest: Value | int, step: int, column: Callable[[Value, Value], None]) -> None:
    """`column(x0, n)` for each tile of n elements of the output row, at most `widest`, which is a multiple of `step`.

    All tiles have one width: the last one is moved left to end with the row, and overlaps its neighbour a little.
    """
    a = b.arg
    tiles = b.udiv(b.add(a.width, b.sub(widest, 1)), widest)
    even = b.udiv(b.add(a.width, b.sub(tiles, 1)), tiles)
    n = b.imin(a.width, b.mul(b.udiv(b.add(even, step - 1), step), step))
    last = b.sub(a.width, n)
    b.loop(0, a.width, n, lambda x, _: column(b.imin(x, last), n))


def on_picture(b: Emit, x0: Value, n: Value | int) -> tuple[Value, Value]:
    """Which of the n padded elements from x0 on lie on the picture: from the first to before the second, less x0."""
    a, zero = b.arg, b.index(0)
    edge = b.imin(b.imax(b.sub(a.left, x0), zero), n)
    return edge, b.imin(b.imax(b.sub(b.add(a.left, a.inner), x0), zero), n)


def row_index(b: Emit, p: Value) -> Value:
    """The source row of padded row p, −1 for the fill; below the last padded row comes that row again."""
    return b.sload(b.at(b.arg.rows, b.mul(b.imin(p, b.sub(b.arg.nrows, 1)), 8)), I64)


def row_address(b: Emit, p: Value, empty: Value) -> Value:
    """The address of padded row p's first pixel; `empty` is a row of fill."""
    index = row_index(b, p)
    return b.select(b.less(index, 0), empty, b.at(b.arg.src, b.mul(index, b.arg.src_pitch)))


class _Press:
    def __init__(self, program: RowProgram, machine: Machine) -> None:
        self.p, self.machine = program, machine
        self.b = begin(machine)
        self.kind = program.work_kind
        self.lanes = machine.lanes(self.kind.bytes)
        self.chunk = program.chunk(machine)
        self.tile = program.tile_width(machine)
        self.pitch = program.pitch(machine) * self.kind.bytes  # of one segment, bytes
        self.row_bytes = self.pitch * max(1, len(program.segments))
        self.buffer = self.b.arg.scratch
        line_at = -(-program.tile_rows * self.row_bytes // 64) * 64
        self.line = self.b.at(self.buffer, line_at)
        line_bytes = (self.tile + program.reach + 2 * self.chunk) * self.kind.bytes
        self.spare = self.b.at(self.buffer, line_at + -(-line_bytes // 64) * 64)
        self.out_line = program.out_line(machine)

    def write(self) -> str:
        over_tiles(self.b, self.tile, self.p.tile_step(self.machine), self.column)
        return self.b.finish()

    def column(self, x0: Value, n: Value) -> None:
        """All rows y0 to y1 of the tile of n output elements that begins at x0."""
        b, a, p = self.b, self.b.arg, self.p
        first = b.mul(a.y0, p.stride[0])
        n_in = b.add(n, p.reach)
        edge, end = on_picture(b, x0, n_in)

        def load(row: Any, at: Any) -> Any:
            return self.load_row(row, at, x0, n, n_in, edge, end)

        b.loop(0, p.keep, 1, lambda i, _: load(b.add(first, i), b.at(self.buffer, b.mul(i, self.row_bytes))))

        def block(y, carry):
            (base,) = carry
            here = b.at(self.buffer, b.mul(base, self.row_bytes))
            top = b.add(b.mul(y, p.stride[0]), p.keep)
            b.loop(
                0, p.advance, 1, lambda i, _: load(b.add(top, i), b.at(here, b.mul(b.add(i, p.keep), self.row_bytes)))
            )
            self.rows(y, here, x0, n)
            following = b.add(base, p.advance)
            full = b.less(p.tile_rows - p.keep - p.advance, following)
            return b.choose(full, lambda: self.to_top(following, n, n_in), lambda: [following])

        b.loop(a.y0, a.y1, p.rows, block, [b.index(0)])

    def to_top(self, base: Value, n: Value, n_in: Value) -> list[Value]:
        """The rows that are kept, moved to the top of the tile; their new base."""
        b, lanes = self.b, self.lanes

        def row(i, _):
            source = b.at(self.buffer, b.mul(b.add(base, i), self.row_bytes))
            target = b.at(self.buffer, b.mul(i, self.row_bytes))

            def copy(e, _):
                for segment in range(max(1, len(self.p.segments))):
                    o = b.add(b.mul(e, self.kind.bytes), segment * self.pitch)
                    b.vstore(b.vload(b.at(source, o), self.kind), b.at(target, o), self.kind)

            b.loop(0, n if self.p.segments else n_in, lanes, copy)

        b.loop(0, self.p.keep, 1, row)
        return [b.index(0)]

    # -- loading ----------------------------------------------------------------------------------------------------

    def load_row(self, row: Value, at: Value, x0: Value, n: Value, n_in: Value, edge: Value, end: Value) -> None:
        """Padded row `row` into the tile at `at`, through the horizontal passes if there are any."""
        b, a, p = self.b, self.b.arg, self.p
        index = row_index(b, row)
        line = self.line if p.segments else at
        source = b.at(a.src, b.mul(index, a.src_pitch))
        size = p.source_kind.bytes
        b.choose(
            b.less(index, 0),
            lambda: self.fill(line, n_in),
            lambda: self.copy_row(source, b.at(source, b.mul(b.sub(x0, a.left), size)), line, x0, n_in, edge, end),
        )
        for s, taps in enumerate(p.segments):
            self.horizontal(line, b.at(at, s * self.pitch), taps, n)

    def fill(self, line: Value, n: Value) -> None:
        b = self.b
        value = b.const(self.kind, self.p.fill)
        b.loop(0, n, self.lanes, lambda e, _: b.vstore(value, b.at(line, b.mul(e, self.kind.bytes)), self.kind))

    def copy_row(
        self, row: Value, shifted: Value, line: Value, x0: Value, n_in: Value, edge: Value, end: Value
    ) -> None:
        """Elements [0, edge) and [end, n_in) through `cols`, those between straight from the picture, all converted."""
        b, a, p, kind, source = self.b, self.b.arg, self.p, self.kind, self.p.source_kind
        # Prefetch the rows of the next block, which are too far apart for the hardware prefetcher.
        ahead = b.at(shifted, b.mul(a.src_pitch, p.advance))

        def outside(e, _):
            index = b.sload(b.at(a.cols, b.mul(b.add(x0, e), 8)), I64)
            place = b.at(line, b.mul(e, kind.bytes))

            def inside():
                v = b.sload(b.at(row, b.mul(index, source.bytes)), source)
                b.vstore(b.convert(v, source, kind), place, kind)

            empty = ir.Constant(kind.ir, p.fill if kind.floating else int(p.fill))
            b.choose(b.less(index, 0), lambda: b.vstore(empty, place, kind), inside)

        def one(e, _):
            v = b.sload(b.at(shifted, b.mul(e, source.bytes)), source)
            b.vstore(b.convert(v, source, kind), b.at(line, b.mul(e, kind.bytes)), kind)

        def many():
            last = b.sub(end, self.lanes)

            def some(e, _):
                e = b.imin(e, last)
                b.prefetch(b.at(ahead, b.mul(e, source.bytes)))
                v = b.vload(b.at(shifted, b.mul(e, source.bytes)), source, self.lanes)
                b.vstore(b.convert(v, source, kind), b.at(line, b.mul(e, kind.bytes)), kind)

            b.loop(edge, end, self.lanes, some)

        b.loop(0, edge, 1, outside)
        b.choose(b.less(b.sub(end, edge), self.lanes), lambda: b.loop(edge, end, 1, one) and None, many)
        b.loop(end, n_in, 1, outside)

    def horizontal(self, line: Value, at: Value, taps: tuple, n: Value) -> None:
        """A tile segment: Σ tap · line[e + shift]."""
        b, last = self.b, self.b.sub(n, self.chunk)

        def some(e, _):
            e = b.imin(e, last)
            o = b.mul(e, self.kind.bytes)
            source = b.at(line, o)
            for v in range(self.p.vectors):
                move = v * self.lanes
                terms = [(self.vector(source, (shift + move) * self.kind.bytes), tap) for shift, tap in taps]
                b.vstore(self.combine(terms), b.at(at, o, move * self.kind.bytes), self.kind)

        b.loop(0, n, self.chunk, some)

    def vector(self, base: Value, offset: int) -> Value:
        return self.b.vload(self.b.at(base, offset), self.kind)

    # -- sums -------------------------------------------------------------------------------------------------------

    def combine(self, terms: list[tuple[Value, float]]) -> Value:
        """Σ tap · vector. Taps of one magnitude are summed before they are multiplied, where that is less work."""
        b = self.b
        if not terms:
            return b.const(self.kind, 0)
        if self.kind.floating:
            total = None
            for v, tap in terms:
                total = self.float_term(total, v, tap)
            return total
        groups: dict[int, Value | None] = {}
        for v, tap in sorted(
            terms, key=lambda t: -t[1]
        ):  # positive taps first, so that a group seldom begins with 0 − v
            size = abs(int(tap))
            old = groups.get(size)
            if old is None:
                groups[size] = v if tap > 0 else b.sub(b.const(self.kind, 0), v)
            else:
                groups[size] = ir.IRBuilder.add(b, old, v) if tap > 0 else ir.IRBuilder.sub(b, old, v)
        total = None
        for size, v in groups.items():
            scaled = v if size == 1 else ir.IRBuilder.mul(b, v, b.const(self.kind, _wrap(size)))
            total = scaled if total is None else ir.IRBuilder.add(b, total, scaled)
        return total

    def float_term(self, total: Value | None, v: Value, tap: float) -> Value:
        b = self.b
        if total is None:
            return v if tap == 1 else b.fmul(v, b.const(self.kind, tap))
        if tap == 1:
            return b.fadd(total, v)
        if tap == -1:
            return b.fsub(total, v)
        return b.fma(v, b.const(self.kind, tap), total)

    def rows(self, y: Value, here: Value, x0: Value, n: Value) -> None:
        """The block of output rows that begins at y, from the tile rows that begin at `here`."""
        b, a, p = self.b, self.b.arg, self.p
        strided = p.stride[1] != 1
        size = p.target_kind.bytes
        first = b.at(a.dst, b.mul(x0, size))
        spare = spare_like(b, self.spare, first)
        places = []
        for k in range(len(p.outputs) or 1):
            for r in range(p.rows):
                row = b.add(y, r)
                scratch = b.at(self.spare, (k * p.rows + r + 1) * self.out_line)
                target = b.at(a.dst, b.mul(a.dst_plane, k), b.mul(row, a.dst_pitch), b.mul(x0, size))
                inside = b.less(row, a.y1)
                places.append(scratch if strided else b.select(inside, target, spare) if r else target)

        def some(e, past):
            source = b.at(here, b.mul(e, self.kind.bytes))
            targets = [b.at(t, b.mul(e, size)) for t in places]
            if p.dense:
                self.store(self.dense(source), targets, p.finishes[0], past)
            else:
                for k, parts in enumerate(p.outputs):
                    sums = [self.part(source, taps) for taps in parts]
                    self.store(sums, targets[k * p.rows : (k + 1) * p.rows], p.finishes[k], past)

        if strided:
            last = b.sub(n, self.chunk)
            b.loop(0, n, self.chunk, lambda e, _: some(b.imin(e, last), False))
            for i, line in enumerate(places):
                k, r = divmod(i, p.rows)
                self.thin(line, b.add(y, r), k, x0, n)
        else:
            across(b, b.index(0), n, self.chunk, first, size, some)

    def part(self, source: Value, taps: tuple) -> list[list[Value]]:
        """sums[row][vector] of one part. Each tile vector is loaded once and used for every row that needs it."""
        b, p = self.b, self.p
        users: dict[tuple[int, int, int], list[tuple[int, float]]] = {}
        for row, segment, shift, tap in taps:
            for r in range(p.rows):
                users.setdefault((row + r * p.stride[0], segment, shift), []).append((r, tap))
        order = sorted(users)
        result: list[list[Value]] = [[None] * p.vectors for _ in range(p.rows)]
        if not self.kind.floating:
            for v in range(p.vectors):
                terms: list[list[tuple[Value, float]]] = [[] for _ in range(p.rows)]
                for key in order:
                    x = self.vector(source, self.offset(key, v))
                    for r, tap in users[key]:
                        terms[r].append((x, tap))
                for r in range(p.rows):
                    result[r][v] = self.combine(terms[r])
            return result
        for key in order:
            xs = [self.vector(source, self.offset(key, v)) for v in range(p.vectors)]
            for r, tap in users[key]:
                for v, x in enumerate(xs):
                    result[r][v] = self.float_term(result[r][v], x, tap)
        zero = b.const(self.kind, 0)
        return [[zero if s is None else s for s in row] for row in result]

    def offset(self, key: tuple[int, int, int], v: int) -> int:
        row, segment, shift = key
        return row * self.row_bytes + segment * self.pitch + (shift + v * self.lanes) * self.kind.bytes

    def dense(self, source: Value) -> list[list[list[Value]]]:
        """The sums of a large kernel, its taps read from memory: [part][row][vector].

        Several output rows share tile rows only without stride and dilation.
        """
        b, p = self.b, self.p
        kh, kw, row_step, step = p.dense  # type: ignore[misc]
        size = self.kind.bytes
        zero = b.const(self.kind, 0)

        def row(i, sums, users):
            """Tile row i, which output row r meets with tap row i − r."""
            line = b.at(source, b.mul(i, self.row_bytes * row_step))
            taps = b.at(b.arg.taps, b.mul(b.sub(i, users[0]), kw * size))

            def column(j, line_sums):
                at = b.at(line, b.mul(j, step * size))
                xs = [self.vector(at, v * self.lanes * size) for v in range(p.vectors)]
                out = []
                for k, r in enumerate(users):
                    tap = b.splat_load(b.at(taps, b.mul(j, size), (users[0] - r) * kw * size), self.kind)
                    out += [b.fma(x, tap, line_sums[k * p.vectors + v]) for v, x in enumerate(xs)]
                return out

            # Each row is summed separately, because the rounding errors of a long sum grow with its partial sums.
            new = b.loop(0, kw, 1, column, [zero] * (len(users) * p.vectors), unroll=min(4, kw))
            sums = list(sums)
            for k, r in enumerate(users):
                for v in range(p.vectors):
                    sums[r * p.vectors + v] = b.fadd(sums[r * p.vectors + v], new[k * p.vectors + v])
            return sums

        # The first and last tile rows concern some output rows only; a zero tap would turn their NaN into a result.
        users = {i: [r for r in range(p.rows) if 0 <= i - r < kh] for i in range(kh + p.rows - 1)}
        whole = [i for i, rows in users.items() if len(rows) == p.rows]
        first, end = (whole[0], whole[-1] + 1) if whole else (kh + p.rows - 1,) * 2
        sums = [zero] * (p.rows * p.vectors)
        for i in range(first):
            sums = row(i, sums, users[i])
        sums = b.loop(first, end, 1, lambda i, s: row(i, s, list(range(p.rows))), sums)
        for i in range(end, kh + p.rows - 1):
            sums = row(i, sums, users[i])
        return [[list(sums[r * p.vectors : (r + 1) * p.vectors]) for r in range(p.rows)]]

    # -- results ----------------------------------------------------------------------------------------------------

    def store(self, parts: list[list[list[Value]]], targets: list[Value], finish: Finish, past: bool) -> None:
        b, target = self.b, self.p.target_kind
        for r, place in enumerate(targets):
            for v in range(self.p.vectors):
                sums = [part[r][v] for part in parts]
                pixel = self.pixel(sums, finish)
                b.vstore(pixel, b.at(place, v * self.lanes * target.bytes), target, past=past)

    def pixel(self, sums: list[Value], finish: Finish) -> Value:
        """Sums to pixels: joined, scaled, rounded, saturated."""
        b, kind, target = self.b, self.kind, self.p.target_kind
        if not kind.floating and len(sums) == 1 and target == U8:
            whole = self.whole_pixel(sums[0], finish)
            if whole is not None:
                return whole
        work = kind if kind.floating else F32
        values = [v if kind.floating else b.convert(v, kind, F32) for v in sums]
        total = values[0]
        if len(values) == 2:
            total = b.sqrt(b.fma(values[0], values[0], b.fmul(values[1], values[1])))
        lanes = total.type.count
        if finish.scale != 1:
            total = b.fma(total, b.const(work, finish.scale, lanes), b.const(work, finish.offset, lanes))
        elif finish.offset:
            total = b.fadd(total, b.const(work, finish.offset, lanes))
        if target.floating:
            return b.convert(total, work, target)
        return round_to(b, total, work, target)

    def whole_pixel(self, total: Value, finish: Finish) -> Value | None:
        """16-bit sums to uint8 without floats, or None if the scale needs floats."""
        b, kind = self.b, self.kind

        def const(v: Any) -> Any:
            return b.const(kind, v)

        if finish.magic:
            add, multiply, shift = finish.magic
            wide = ir.VectorType(ir.IntType(32), self.lanes)
            total = ir.IRBuilder.add(b, total, const(add)) if add else total
            product = ir.IRBuilder.mul(b, b.zext(total, wide), ir.Constant(wide, [multiply] * self.lanes))
            high = b.trunc(b.lshr(product, ir.Constant(wide, [16] * self.lanes)), total.type)
            total = b.lshr(high, const(shift)) if shift else high
        elif finish.shift:
            s = finish.shift
            right: Callable = b.lshr if self.p.unsigned else b.ashr
            odd = b.and_(right(total, const(s)), const(1))
            total = right(ir.IRBuilder.add(b, ir.IRBuilder.add(b, total, const((1 << (s - 1)) - 1)), odd), const(s))
        elif finish.scale != 1:
            return None
        if finish.offset:
            return None
        return b.convert(total, U16 if self.p.unsigned else I16, U8, saturate=True)

    def thin(self, line: Value, row: Value, plane: int, x0: Value, n: Value) -> None:
        """Stores every stride-th pixel of a finished row of the tile in the result."""
        b, a, c, sx = self.b, self.b.arg, self.p.channels, self.p.stride[1]
        kind = self.p.target_kind
        target = b.at(a.dst, b.mul(a.dst_plane, plane), b.mul(row, a.dst_pitch))
        first = b.udiv(b.add(b.udiv(x0, c), sx - 1), sx)
        end = b.udiv(b.add(b.udiv(b.add(x0, n), c), sx - 1), sx)

        def pixel(x, _):
            from_ = b.at(line, b.mul(b.sub(b.mul(x, sx * c), x0), kind.bytes))
            to = b.at(target, b.mul(x, c * kind.bytes))
            for i in range(c):
                b.vstore(b.sload(b.at(from_, i * kind.bytes), kind), b.at(to, i * kind.bytes), kind)

        b.choose(b.less(row, a.y1), lambda: b.loop(first, end, 1, pixel) and None)


class Finishing:
    """How a sum becomes a pixel, by a scale and an offset from memory, two float64 at `at`; not `scaled`: as it is."""

    def __init__(self, b: Emit, at: Value, scaled: Value) -> None:
        self.b, self.scaled = b, b.icmp_signed("!=", scaled, b.index(0))
        self.scale, self.offset = b.sload(at, F64), b.sload(b.at(at, 8), F64)

    def pixels(self, total: Value, kind: ElementType, target: ElementType) -> Value:
        """A vector of sums scaled, rounded, saturated."""
        b, lanes = self.b, total.type.count
        scale, offset = (b.splat(b.convert(v, F64, kind), lanes) for v in (self.scale, self.offset))
        total = b.select(self.scaled, b.fma(total, scale, offset), total)
        return b.convert(total, kind, target) if target.floating else round_to(b, total, kind, target)


def round_to(b: Emit, v: Value, work: ElementType, target: ElementType) -> Value:
    """Floats to saturated integers, halves to even.

    After clamping, adding 1.5 · 2^m leaves the integer in the low bits; m, 23 for float32 and 52 for float64, is the
    number of bits after a float's first one.
    """
    lanes = v.type.count
    low, high = b.const(work, 0, lanes), b.const(work, target.high, lanes)
    v = b.minimum(b.maximum(v, low), high)
    magic = 1.5 * 2.0 ** (23 if work == F32 else 52)
    v = b.fadd(v, b.const(work, magic, lanes))
    whole = ir.VectorType(ir.IntType(8 * work.bytes), lanes)
    return b.trunc(b.bitcast(v, whole), target.vector(lanes))


def _wrap(value: int) -> int:
    """A 16-bit pattern as the signed number that LLVM prints; multiplication is the same for both."""
    value &= 0xFFFF
    return value - 0x10000 if value >= 0x8000 else value
