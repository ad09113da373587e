"""Box sums at a cost that does not depend on the size of the box: running sums down the columns, a running sum along
the row.

The function has the same form as in `rows.py`. Column sums are kept over all columns of the picture; the next row adds
the row that enters and takes off the row that leaves. Along the row s[x] = s[x − 1] + column[x + kw − 1] − column[x −
1], a prefix sum, made inside the registers by log₂(lanes) shifted additions. For integers, whose sums are exact; floats
are summed by doubling (`doubling.py`), because the rounding error of a large pixel would stay in a running sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import llvmlite.ir as ir

from dojang.base.record import plain_repr
from dojang.filters.code.rows import LINE, begin, round_to, row_address
from dojang.native.emit import F32, F64, I64, KINDS, ElementType, Value
from dojang.native.machine import Machine


@plain_repr
@dataclass(frozen=True, slots=True)
class Box:
    """Σ over kh × kw pixels · scale + offset, in sums of type `work`: i32, or u32 or i64 where they may be larger."""

    source: str
    target: str
    work: str
    channels: int
    kh: int
    kw: int
    scale: float
    offset: float
    fill: float

    rows: int = 1
    vectors: int = 1

    @property
    def work_kind(self) -> ElementType:
        """The element type of the sums."""
        return KINDS[self.work]

    @property
    def grid(self) -> int:
        """Parts of the picture may begin at any row."""
        return 1

    def chunk(self, machine: Machine) -> int:
        """The least width of a picture's row: any."""
        del machine
        return 1

    def group(self, machine: Machine) -> int:
        """Vectors that hold whole pixels together; at least 2."""
        lanes = machine.lanes(self.work_kind.bytes)
        vectors = self.channels // gcd(lanes, self.channels)
        return vectors if vectors > 1 else 2

    def margin(self, machine: Machine) -> int:
        """Zeros before the column sums, from which the running sum begins; whole groups and one more."""
        wide = machine.lanes(self.work_kind.bytes) * self.group(machine)
        return (-(-self.kw * self.channels // wide) + 1) * wide

    def scratch_bytes(self, machine: Machine, inner: int) -> int:
        """Bytes that one thread needs for rows of `inner` elements."""
        lanes = machine.lanes(self.work_kind.bytes)
        columns = self.margin(machine) + inner + self.kw * self.channels + (self.group(machine) + 1) * lanes
        return columns * self.work_kind.bytes + (inner + 64) * KINDS[self.source].bytes + 256


def emit_box(box: Box, machine: Machine) -> str:
    """The IR text of the box's module."""
    return _BoxSums(box, machine).write()


class _BoxSums:
    def __init__(self, box: Box, machine: Machine) -> None:
        self.box = box
        self.b = begin(machine)
        self.kind, self.source, self.target = box.work_kind, KINDS[box.source], KINDS[box.target]
        self.lanes = machine.lanes(self.kind.bytes)
        b, a = self.b, self.b.arg
        self.margin, self.group = box.margin(machine), box.group(machine)
        self.plus = lambda x, y: ir.IRBuilder.add(b, x, y)
        self.minus = lambda x, y: ir.IRBuilder.sub(b, x, y)
        self.columns = b.at(a.scratch, self.margin * self.kind.bytes)  # of padded element 0
        room = b.mul(b.add(a.inner, box.kw * box.channels + (self.group + 1) * self.lanes), self.kind.bytes)
        self.empty = b.at(self.columns, room)  # a source row of fill
        self.real = b.at(self.columns, b.mul(a.left, self.kind.bytes))  # of the picture's element 0

    def write(self) -> str:
        b, a, size = self.b, self.b.arg, self.kind.bytes
        zero, fill = b.const(self.kind, 0), b.const(self.source, self.box.fill, self.lanes)
        b.loop(-self.margin, 0, self.lanes, lambda e, _: b.vstore(zero, b.at(self.columns, b.mul(e, size)), self.kind))
        self.over(a.inner, lambda e, m: b.vstore(zero, b.at(self.real, b.mul(e, size)), self.kind, mask=m))
        width = self.source.bytes
        self.over(a.inner, lambda e, m: b.vstore(fill, b.at(self.empty, b.mul(e, width)), self.source, mask=m))
        b.loop(0, self.box.kh - 1, 1, lambda i, _: self.enter(self.row(b.add(a.y0, i)), None))

        def line(y, _):
            old = self.row(b.imax(b.sub(y, 1), 0))
            new = self.row(b.add(y, self.box.kh - 1))
            b.choose(b.less(a.y0, y), lambda: self.enter(new, old), lambda: self.enter(new, None))
            self.edges()
            self.along(y)

        b.loop(a.y0, a.y1, 1, line)
        return b.finish()

    def over(self, n: Value, body) -> None:
        """`body(element, mask)` over n elements in vectors, the last one masked."""
        b = self.b
        whole = b.mul(b.udiv(n, self.lanes), self.lanes)
        b.loop(0, whole, self.lanes, lambda e, _: body(e, None))
        b.choose(b.less(whole, n), lambda: body(whole, b.mask(b.sub(n, whole), self.lanes)))

    def row(self, p: Value) -> Value:
        """The address of padded row p's first pixel."""
        return row_address(self.b, p, self.empty)

    def enter(self, new: Value, old: Value | None) -> None:
        """Column sums with one row more and, given `old`, one row less."""
        b = self.b
        plus, minus = self.plus, self.minus

        def some(e, mask):
            o = b.mul(e, self.source.bytes)
            if mask is None:
                b.prefetch(b.at(new, o, b.arg.src_pitch))
            v = b.convert(b.vload(b.at(new, o), self.source, self.lanes, mask), self.source, self.kind)
            if old is not None:
                gone = b.vload(b.at(old, o), self.source, self.lanes, mask)
                v = minus(v, b.convert(gone, self.source, self.kind))
            place = b.at(self.real, b.mul(e, self.kind.bytes))
            b.vstore(plus(b.vload(place, self.kind), v), place, self.kind, mask=mask)

        self.over(b.arg.inner, some)

    def edges(self) -> None:
        """Column sums beyond the picture: those of the columns that the border copies, or of the fill."""
        b, a, kind = self.b, self.b.arg, self.kind
        fill = ir.Constant(kind.ir, int(self.box.fill * self.box.kh))

        def one(e, _):
            index = b.sload(b.at(a.cols, b.mul(e, 8)), I64)
            place = b.at(self.columns, b.mul(e, kind.bytes))

            def copy():
                b.vstore(b.sload(b.at(self.real, b.mul(index, kind.bytes)), kind), place, kind)

            b.choose(b.less(index, 0), lambda: b.vstore(fill, place, kind), copy)

        b.loop(0, a.left, 1, one)
        b.loop(b.add(a.left, a.inner), b.add(a.width, (self.box.kw - 1) * self.box.channels), 1, one)

    def along(self, y: Value) -> None:
        """The running sum of the columns, scaled and stored as row y.

        `group` vectors at a time, which together contain whole pixels: then the sum before them is the same for each
        pixel, and only one addition per group depends on the group before.
        """
        b, a, c, kind, lanes, group = self.b, self.b.arg, self.box.channels, self.kind, self.lanes, self.group
        reach = (self.box.kw - 1) * c
        target = b.at(a.dst, b.mul(y, a.dst_pitch))
        plus, minus = self.plus, self.minus
        # Loaded instead of a constant, from which LLVM would make an expanding move, twice as slow as a rotation.
        zero, size = b.vload(b.at(self.columns, -self.margin * kind.bytes), kind), self.target.bytes
        last_pixel = [lanes - c + i % c for i in range(lanes)]

        def local(x, v):
            o = b.mul(x, kind.bytes)
            at = v * lanes * kind.bytes
            entering = b.vload(b.at(self.columns, o, at + reach * kind.bytes), kind)
            d = minus(entering, b.vload(b.at(self.columns, o, at - c * kind.bytes), kind))
            step = c
            while step < lanes:
                moved = b.shuffle(zero, d, [lanes + i - step if i >= step else 0 for i in range(lanes)])
                d = plus(d, moved)
                step *= 2
            return d

        def sums(x, before, store):
            inside = None
            for v in range(group):
                d = local(x, v)
                inside = d if inside is None else plus(d, b.shuffle(inside, None, last_pixel))
                if store:
                    place = [(v * lanes + i) % c for i in range(lanes)]
                    store(v, plus(inside, b.shuffle(before, None, place)))
            return [plus(before, b.shuffle(inside, None, last_pixel))]

        wide = lanes * group
        (before,) = b.loop(-self.margin + wide, 0, wide, lambda x, s: sums(x, s[0], None), [zero])
        whole = b.mul(b.udiv(a.width, wide), wide)

        def many(past):
            def some(x, s):
                def store(v, pixels):
                    place = b.at(target, b.mul(x, size), v * lanes * size)
                    b.vstore(self.pixel(pixels), place, self.target, past=past)

                return sums(x, s[0], store)

            return b.loop(0, whole, wide, some, [before])

        if self.target.floating:  # uint8 pictures of this size are limited by arithmetic, not by memory
            lies = b.and_(b.ptrtoint(target, I64.ir), b.index(LINE - 1))
            whole_lines = b.and_(b.icmp_signed("==", lies, b.index(0)), b.less(0, a.past))
            (before,) = b.choose(whole_lines, lambda: many(True), lambda: many(False))
        else:
            (before,) = many(False)

        def rest():
            def store(v, pixels):
                mask = b.mask(b.sub(b.sub(a.width, whole), v * lanes), lanes)
                b.vstore(self.pixel(pixels), b.at(target, b.mul(whole, size), v * lanes * size), self.target, mask=mask)

            sums(whole, before, store)

        b.choose(b.less(whole, a.width), rest)

    def pixel(self, v: Value) -> Value:
        b = self.b
        work = F64 if self.box.target == "f64" else F32
        v = b.convert(v, self.kind, work)
        lanes = v.type.count
        scale, offset = b.const(work, self.box.scale, lanes), b.const(work, self.box.offset, lanes)
        v = b.fma(v, scale, offset) if self.box.offset else b.fmul(v, scale)
        return b.convert(v, work, self.target) if self.target.floating else round_to(b, v, work, self.target)
