"""Large kernels: Fourier transforms down the columns, the kernel's taps along the rows.

A correlation is a sum along y of products with each kernel column; transformed along y it becomes, for each frequency,
a short correlation along x: N·kw·4 multiply-adds for the N − kh + 1 rows of a block, where the definition needs
kh·kw for each. Columns are transformed side by side, a vector of them at a time, so no data is ever transposed. Two
column blocks travel as the real and the imaginary part of one complex signal, which a real kernel never mixes.

The forward transform is in place by decimation in frequency (radix 4, once radix 2) and leaves the frequencies in a
permuted order; the kernel's spectrum is stored in that order, and the inverse undoes it.

A transform spreads the rounding error of its largest pixel over all rows of a block. For uint8 and uint16 that error is
far too small to change the rounded result; float results are transformed in float64, and only if `guard.py` finds that
the error stays below that of a direct sum of each window.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import llvmlite.ir as ir
import numpy as np
from numpy.typing import NDArray

from dojang.base.record import plain_repr
from dojang.filters.code.program import Finish, OfKinds
from dojang.filters.code.rows import Finishing, _Press, begin, row_index
from dojang.native.emit import I64, KINDS, ElementType, Value
from dojang.native.machine import Machine

VECTORS = 4  # of 16 columns, real and imaginary: 8 sums, enough to hide the latency of a multiply-add


WORDS = ("kw", "step", "reach", "columns", "pitch", "extent", "scaled")
"""What the table of the taps begins with, words of 64 bits: taps of a row, bytes between them, elements from the first
to the last, elements of a block with those, bytes from row to row, rows of the kernel, whether results are scaled. Then
come scale and offset."""


@plain_repr
@dataclass(frozen=True, slots=True)
class FourierCode(OfKinds):
    """What the code depends on: not on the kernel, whose size and taps come from memory."""

    source: str
    target: str
    length: int
    half: int
    fill: float
    work: str = "f32"

    rows: int = 1
    advance: int = 1


@plain_repr
@dataclass(frozen=True, slots=True)
class Fourier(OfKinds):
    """A correlation with `extent` × kw taps by transforms of `length` rows; two blocks of `half` elements a tile."""

    source: str
    target: str
    channels: int
    extent: int
    kw: int
    step: int  # elements between taps of a row
    length: int
    half: int
    finish: Finish
    fill: float
    work: str = "f32"

    rows: int = 1
    advance: int = 1

    @property
    def code(self) -> FourierCode:
        """What the code depends on."""
        return FourierCode(self.source, self.target, self.length, self.half, self.fill, self.work)

    @property
    def work_kind(self) -> ElementType:
        """The element type of the transforms."""
        return KINDS[self.work]

    @property
    def grid(self) -> int:
        """Result rows of one block."""
        return self.length - self.extent + 1

    @property
    def together(self) -> int:
        """How many blocks `guard.py` examines together: several for short transforms, because examining takes time."""
        return max(1, 128 // self.grid) if self.work == "f64" else 1

    def chunk(self, machine: Machine) -> int:
        """The least width of a picture's row: any."""
        del machine
        return 1

    @property
    def reach(self) -> int:
        """Elements from the first tap of a row to the last."""
        return (self.kw - 1) * self.step

    def columns(self, machine: Machine) -> int:
        """Elements of a block with the kernel's reach, whole vectors."""
        lanes = machine.lanes(self.work_kind.bytes)
        return -(-(self.half + self.reach) // lanes) * lanes

    def pitch(self, machine: Machine) -> int:
        """Elements from row to row: an odd number of vectors, so that a column does not fall into one cache set."""
        lanes = machine.lanes(self.work_kind.bytes)
        return (self.columns(machine) // lanes + 1 | 1) * lanes

    def scratch_bytes(self, machine: Machine, inner: int) -> int:
        """Bytes that one thread needs."""
        del inner
        return 2 * self.length * self.pitch(machine) * self.work_kind.bytes + 256

    def table(self, machine: Machine, matrix: NDArray[np.float64]) -> NDArray[np.int64]:
        """What `taps` points to: the words, scale and offset, and `tables` of the kernel's rows, dilated."""
        size = self.work_kind.bytes
        head = [
            *(self.kw, self.step * size, self.reach, self.columns(machine), self.pitch(machine) * size, self.extent),
            int(self.finish.scale != 1 or self.finish.offset != 0),
        ]
        both = np.array([self.finish.scale, self.finish.offset])
        raw = tables(matrix, self.length, self.work).tobytes()
        raw += bytes(-len(raw) % 8)
        return np.concatenate([np.array(head, np.int64), both.view(np.int64), np.frombuffer(raw, np.int64)])


def radices(length: int) -> list[int]:
    """The passes of the forward transform."""
    bits = length.bit_length() - 1
    return [2] * (bits % 2) + [4] * (bits // 2)


def tables(matrix: NDArray[np.float64], length: int, work: str = "f32") -> NDArray:
    """Twiddle factors of every pass, then the spectrum of each kernel column, [frequency][column][re, im]."""
    parts = []
    n = length
    for radix in radices(length):
        q = n // radix
        turns = np.exp(-2j * np.pi / n * np.outer(np.arange(q), np.arange(1, radix)))
        parts.append(np.stack([np.real(turns), np.imag(turns)], -1).ravel())
        n = q
    padded = np.zeros((length, matrix.shape[1]))
    padded[: matrix.shape[0]] = matrix
    spectrum = (np.fft.fft(padded, axis=0).conj() / length)[order(length)]
    parts.append(np.stack([spectrum.real, spectrum.imag], -1).ravel())
    return np.concatenate(parts).astype(KINDS[work].dtype)


@lru_cache(maxsize=16)
def order(length: int) -> NDArray[np.int64]:
    """The frequency at each position after the forward transform, found by transforming a signal of one phase step."""
    signal = np.zeros(length, complex)
    signal[1] = 1
    n = length
    for radix in radices(length):
        q = n // radix
        blocks = signal.reshape(-1, radix, q)
        turn = np.exp(-2j * np.pi / radix * np.outer(np.arange(radix), np.arange(radix)))
        twiddle = np.exp(-2j * np.pi / n * np.outer(np.arange(radix), np.arange(q)))
        signal = (np.einsum("mj,bjq->bmq", turn, blocks) * twiddle).ravel()
        n = q
    return np.rint(-np.angle(signal) * length / (2 * np.pi)).astype(np.int64) % length


def emit_fourier(code: FourierCode, machine: Machine) -> str:
    """The IR text of the code's module."""
    return _Transforms(code, machine).write()


class _Transforms(_Press):
    """Uses the row loader and the rounding of `_Press`."""

    def __init__(self, code: FourierCode, machine: Machine) -> None:
        self.p = code  # type: ignore[assignment]  # what the loader asks of a program, this one has too
        self.b = b = begin(machine)
        self.kind = KINDS[code.work]
        self.size = self.kind.bytes
        # Imported here: it imports all algorithms for networks, which takes longer than a picture with code on disk.
        from dojang.native.transforms import ComplexArithmetic

        self.numbers = ComplexArithmetic(self.b, self.kind)
        self.lanes = machine.lanes(self.size)
        words = {name: b.sload(b.at(b.arg.taps, 8 * i), I64) for i, name in enumerate(WORDS)}
        self.kw, self.step, self.reach, self.extent = (words[name] for name in ("kw", "step", "reach", "extent"))
        self.columns, self.pitch = words["columns"], words["pitch"]
        self.finish = Finishing(b, b.at(b.arg.taps, 8 * len(WORDS)), words["scaled"])
        self.tables = b.at(b.arg.taps, 8 * (len(WORDS) + 2))
        self.real = self.b.arg.scratch
        self.imag = self.b.at(self.real, b.mul(self.pitch, code.length))

    def write(self) -> str:
        b, a = self.b, self.b.arg
        b.loop(0, a.width, 2 * self.p.half, lambda x, _: self.tile(x))
        return b.finish()

    def tile(self, x0: Value) -> None:
        b, a, p = self.b, self.b.arg, self.p
        rows = b.sub(b.add(b.sub(a.y1, a.y0), self.extent), 1)
        b.loop(0, p.length, 1, lambda i, _: self.load(i, rows, x0))
        b.loop(0, self.columns, self.lanes, lambda c, _: self.forward(c))
        b.loop(0, p.length, 1, lambda f, _: self.products(f))
        b.loop(0, p.half, self.lanes, lambda c, _: self.inverse(c))
        b.loop(0, b.sub(a.y1, a.y0), 1, lambda t, _: self.out(t, x0))

    # -- in and out -------------------------------------------------------------------------------------------------

    def load(self, i: Value, rows: Value, x0: Value) -> None:
        """Row i of both planes; zeros below the last row that is needed and right of the padded row's end."""
        b, a, p = self.b, self.b.arg, self.p
        index = row_index(b, b.add(a.y0, i))
        source = b.at(a.src, b.mul(index, a.src_pitch))
        zero = b.const(self.kind, 0)
        needed = b.less(i, rows)
        for plane, shift in ((self.real, 0), (self.imag, p.half)):
            line = b.at(plane, b.mul(i, self.pitch))
            start = b.add(x0, shift)
            have = b.sub(b.add(a.width, self.reach), start)
            have = b.imax(b.imin(have, b.add(self.reach, p.half)), b.index(0))
            have = b.select(needed, have, b.index(0))
            edge = b.imin(b.imax(b.sub(a.left, start), 0), have)
            end = b.imin(b.imax(b.sub(b.add(a.left, a.inner), start), 0), have)
            b.loop(
                0,
                self.pitch,
                self.lanes * self.size,
                lambda o, _, line=line: b.vstore(zero, b.at(line, o), self.kind),
            )

            def copy(line=line, start=start, have=have, edge=edge, end=end):
                shifted = b.at(source, b.mul(b.sub(start, a.left), p.source_kind.bytes))
                self.copy_row(source, shifted, line, start, have, edge, end)

            def fill(line=line, have=have):
                value = ir.Constant(self.kind.ir, p.fill)
                b.loop(0, have, 1, lambda e, _: b.vstore(value, b.at(line, b.mul(e, self.size)), self.kind))

            b.choose(b.less(index, 0), fill, copy)

    def out(self, t: Value, x0: Value) -> None:
        """Row t of the block, both planes."""
        b, a, p = self.b, self.b.arg, self.p
        size = p.target_kind.bytes
        for plane, shift in ((self.real, 0), (self.imag, p.half)):
            start = b.add(x0, shift)
            n = b.imax(b.imin(b.sub(a.width, start), p.half), b.index(0))
            line = b.at(plane, b.mul(t, self.pitch))
            place = b.at(a.dst, b.mul(b.add(a.y0, t), a.dst_pitch), b.mul(start, size))

            def one(e, mask, line=line, place=place):
                v = b.vload(b.at(line, b.mul(e, self.size)), self.kind)
                b.vstore(
                    self.finish.pixels(v, self.kind, p.target_kind),
                    b.at(place, b.mul(e, size)),
                    p.target_kind,
                    mask=mask,
                )

            whole = b.mul(b.udiv(n, self.lanes), self.lanes)
            b.loop(0, whole, self.lanes, lambda e, _, one=one: one(e, None))
            rest = b.sub(n, whole)
            b.choose(b.less(0, rest), lambda one=one, whole=whole, rest=rest: one(whole, b.mask(rest, self.lanes)))

    # -- transforms -------------------------------------------------------------------------------------------------

    def passes(self) -> list[tuple[int, int, int]]:
        """(radix, size, first table word) of each pass of the forward transform."""
        found, n, at = [], self.p.length, 0
        for radix in radices(self.p.length):
            found.append((radix, n, at))
            n //= radix
            at += n * (radix - 1) * 2
        return found

    def forward(self, c: Value) -> None:
        """All passes over one vector of columns."""
        for radix, n, at in self.passes():
            self.butterflies(c, radix, n, at, self.split2 if radix == 2 else self.split4)

    def inverse(self, c: Value) -> None:
        """The passes in reverse."""
        for radix, n, at in reversed(self.passes()):
            self.butterflies(c, radix, n, at, self.join2 if radix == 2 else self.join4)

    def butterflies(self, c: Value, radix: int, n: int, at: int, body) -> None:
        b, q = self.b, n // radix
        base = b.mul(c, self.size)

        def one(k, _):
            table = b.at(self.tables, at * self.size, b.mul(k, (radix - 1) * 2 * self.size))
            turns = [
                (
                    b.splat_load(b.at(table, 2 * m * self.size), self.kind),
                    b.splat_load(b.at(table, (2 * m + 1) * self.size), self.kind),
                )
                for m in range(radix - 1)
            ]

            def block(s, _):
                row = b.mul(b.add(k, s), self.pitch)
                places = [
                    (b.at(self.real, base, row, move), b.at(self.imag, base, row, move))
                    for move in (b.mul(self.pitch, m * q) for m in range(radix))
                ]
                values = [(b.vload(re, self.kind), b.vload(im, self.kind)) for re, im in places]
                for (re, im), (x, y) in zip(places, body(values, turns), strict=True):
                    b.vstore(x, re, self.kind)
                    b.vstore(y, im, self.kind)

            b.loop(0, self.p.length, n, block)

        b.loop(0, q, 1, one)

    def split2(self, v, w):
        total, less = self.numbers.transform(v)
        return [total, self.numbers.times(less, w[0])]

    def join2(self, v, w):
        return self.numbers.transform([v[0], self.numbers.times(v[1], w[0], conjugate=True)])

    def split4(self, v, w):
        first, *rest = self.numbers.transform(v)
        return [first, *(self.numbers.times(u, by) for u, by in zip(rest, w, strict=True))]

    def join4(self, v, w):
        turned = [self.numbers.times(u, by, conjugate=True) for u, by in zip(v[1:], w, strict=True)]
        a, b, c, d = self.numbers.transform([v[0], *turned])
        return [a, d, c, b]  # the inverse: frequencies backwards

    def products(self, f: Value) -> None:
        """One frequency's row of both planes times the kernel's, along x, in place: it reads only elements to the
        right.
        """
        b, p, lanes = self.b, self.p, self.lanes
        words = sum(n // r * (r - 1) * 2 for r, n, _ in self.passes())
        table = b.at(self.tables, words * self.size, b.mul(f, b.mul(self.kw, 2 * self.size)))
        row = b.mul(f, self.pitch)
        real, imag = b.at(self.real, row), b.at(self.imag, row)
        zero = b.const(self.kind, 0)

        def group(x, _):
            o = b.mul(x, self.size)

            def tap(j, sums):
                at = b.mul(j, 2 * self.size)
                kr, ki = b.splat_load(b.at(table, at), self.kind), b.splat_load(b.at(table, at, self.size), self.kind)
                back = b.fneg(ki)
                move = b.mul(j, self.step)
                out = []
                for v in range(VECTORS):
                    xr = b.vload(b.at(real, o, move, v * lanes * self.size), self.kind)
                    xi = b.vload(b.at(imag, o, move, v * lanes * self.size), self.kind)
                    yr, yi = sums[2 * v], sums[2 * v + 1]
                    out += [b.fma(xi, back, b.fma(xr, kr, yr)), b.fma(xr, ki, b.fma(xi, kr, yi))]
                return out

            sums = b.loop(0, self.kw, 1, tap, [zero] * (2 * VECTORS), unroll=2)
            for v in range(VECTORS):
                b.vstore(sums[2 * v], b.at(real, o, v * lanes * self.size), self.kind)
                b.vstore(sums[2 * v + 1], b.at(imag, o, v * lanes * self.size), self.kind)

        b.loop(0, p.half, VECTORS * lanes, group)
