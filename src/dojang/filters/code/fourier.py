"""Large kernels: Fourier transforms down the columns, and along the rows the kernel's taps or transforms, too.

A correlation is a sum along y of products with each kernel column; transformed along y it becomes, for each frequency,
a short correlation along x: N·kw·4 multiply-adds for the N − kh + 1 rows of a block, where the definition needs
kh·kw for each. Columns are transformed side by side, a vector of them at a time. Two column blocks travel as the real
and the imaginary part of one complex signal, which a real kernel never mixes.

For wider kernels (`wide` is not 0) the rows of a vector of frequencies are transposed into a buffer, where each lane
holds one of them, transformed along x in the same way, each channel by itself, multiplied by the kernel's spectrum,
transformed back, and transposed back.

The forward transform is in place by decimation in frequency and leaves the frequencies in a permuted order; the
kernel's spectrum is stored in that order, and the inverse undoes it. Lengths and passes come from memory, so that there
is one piece of code for all of them.

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

WORDS = (
    "kw",
    "step",
    "reach",
    "columns",
    "pitch",
    "extent",
    "scaled",
    "half",
    "length",
    "wide",
    "channels",
    "passes",
    "row_passes",
    "spectrum",
    "apart",
    "tile",
)
"""What the table of the taps begins with, words of 64 bits: taps of a row, bytes between them, elements from the first
to the last, elements of a block with those, bytes from row to row, rows of the kernel, whether results are scaled,
elements of half a tile, rows of a transform, pixels of one along the rows (or 0), channels, passes of both transforms,
where the kernel's spectrum is, in bytes, bytes between two vectors of a row divided by their lanes, and bytes of a
tile. Then come scale and offset, and four words for each pass: its radix, the length that it takes, the length of its
parts, and where its twiddle factors are, in bytes.
"""


@plain_repr
@dataclass(frozen=True, slots=True)
class FourierCode(OfKinds):
    """What the code depends on: not on the kernel, whose size and taps come from memory, nor on the lengths."""

    source: str
    target: str
    fill: float
    work: str
    both: bool

    rows: int = 1
    advance: int = 1


@plain_repr
@dataclass(frozen=True, slots=True)
class Fourier(OfKinds):
    """A correlation with `extent` × kw taps by transforms of `length` rows; two blocks of `half` elements a tile.

    With `wide` the rows are transformed, too, `wide` pixels at a time.
    """

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
    wide: int = 0

    rows: int = 1
    advance: int = 1

    @property
    def code(self) -> FourierCode:
        """What the code depends on."""
        return FourierCode(self.source, self.target, self.fill, self.work, self.wide > 0)

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
        """Elements from row to row: an odd number of vectors, so that a column does not fall into one cache set; with
        transforms of both axes, one vector.
        """
        lanes = machine.lanes(self.work_kind.bytes)
        return lanes if self.wide else (self.columns(machine) // lanes + 1 | 1) * lanes

    @property
    def strip(self) -> int:
        """Vectors of a strip of a tile, with transforms of both axes: an odd number; the imaginary parts begin one
        after the real ones end, so that both do not fall into one cache set.
        """
        return 2 * self.length + 3

    def vectors(self, machine: Machine) -> int:
        """Vectors of a tile, real and imaginary."""
        lanes = machine.lanes(self.work_kind.bytes)
        if self.wide:
            return self.columns(machine) // lanes * self.strip
        return 2 * self.length * self.pitch(machine) // lanes

    def scratch_bytes(self, machine: Machine, inner: int) -> int:
        """Bytes that one thread needs."""
        del inner
        lanes = machine.lanes(self.work_kind.bytes)
        buffer = 2 * self.columns(machine) + 1 if self.wide else 0
        return (self.vectors(machine) + buffer) * lanes * self.work_kind.bytes + 256

    def table(self, machine: Machine, matrix: NDArray[np.float64]) -> NDArray[np.int64]:
        """What `taps` points to: the words, scale and offset, the passes, their twiddle factors, and the spectrum of
        the kernel's rows, dilated.
        """
        size, dtype = self.work_kind.bytes, np.dtype(self.work_kind.dtype)
        counts, passes, factors = _twiddles(self.length, self.wide, machine.registers, dtype)
        at = 8 * (len(WORDS) + 2 + len(passes)) + factors.nbytes
        head = [
            *(self.kw, self.step * size, self.reach, self.columns(machine), self.pitch(machine) * size, self.extent),
            int(self.finish.scale != 1 or self.finish.offset != 0),
            *(self.half, self.length, self.wide, self.channels, counts[0], sum(counts[1:]), at),
            (self.strip if self.wide else 1) * size,
            self.vectors(machine) * machine.lanes(size) * size,
        ]
        both = np.array([self.finish.scale, self.finish.offset])
        words = np.concatenate([np.array(head, np.int64), both.view(np.int64), passes])
        n, m = self.length, self.wide or self.kw
        spectrum = 2 * n * m * size
        whole = np.empty(-(-(at + spectrum) // 8), np.int64)
        whole[-1] = 0
        whole[: words.size] = words
        values = whole.view(dtype)
        begin = 8 * words.size // size
        values[begin : begin + factors.size] = factors
        self._spectrum(machine, matrix, values[at // size : (at + spectrum) // size])
        return whole

    def _spectrum(self, machine: Machine, matrix: NDArray[np.float64], out: NDArray) -> None:
        """Writes, of each kernel column, [frequency][column][re, im]; or of both axes, for each vector of frequencies
        [frequency along x][re, im][lane].
        """
        registers, n, m = machine.registers, self.length, self.wide
        if not m:
            found = (np.fft.fft(matrix, n, axis=0).conj() / n)[order(n, registers)]
            lines = out.reshape(n, -1, 2)
            lines[..., 0], lines[..., 1] = found.real, found.imag
            return
        spread = matrix
        if self.step != self.channels:
            spread = np.zeros((matrix.shape[0], self.reach // self.channels + 1))
            spread[:, :: self.step // self.channels] = matrix
        half = np.fft.fft(np.fft.rfft(spread, m, axis=1), n, axis=0)
        half *= 1 / (n * m)
        lanes = machine.lanes(self.work_kind.bytes)
        places, mirrored = _places(n, m, registers, lanes)
        taken = half.ravel().take(places)
        vectors = out.reshape(n // lanes, m, 2, lanes)
        vectors[:, :, 0] = taken.real
        np.multiply(taken.imag, mirrored, out=vectors[:, :, 1], casting="same_kind")


@lru_cache(maxsize=16)
def _twiddles(length: int, wide: int, registers: int, dtype: np.dtype) -> tuple[list[int], NDArray[np.int64], NDArray]:
    """The number of passes down and along, their words, and their factors, which begin after the words."""
    lengths = [length, wide] if wide else [length]
    counts = [len(radices(n, registers)) for n in lengths]
    at = 8 * (len(WORDS) + 2 + 4 * sum(counts))
    passes, factors = [], []
    for n in lengths:
        for radix in radices(n, registers):
            turns = np.exp(-2j * np.pi / n * np.outer(np.arange(n // radix), np.arange(1, radix)))
            factors.append(_pairs(turns))
            passes += [radix, n, n // radix, at]
            at += factors[-1].size * dtype.itemsize
            n //= radix
    return counts, np.array(passes, np.int64), np.concatenate(factors).astype(dtype)


@lru_cache(maxsize=4)
def _places(n: int, m: int, registers: int, lanes: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Where the spectrum of both axes stands in that of `rfft` (n, m // 2 + 1), by [vector][frequency along x][lane],
    and the sign of its imaginary part: of a real kernel, F[−f, −g] is the conjugate of F[f, g], and the table holds
    conjugates.
    """
    rows, columns, half = order(n, registers), order(m, registers), m // 2 + 1
    mirrored = columns >= half
    down = np.where(mirrored[:, None], -rows % n, rows)  # (m, n)
    places = down * half + np.where(mirrored, m - columns, columns)[:, None]
    signs = np.where(mirrored, 1.0, -1.0)[:, None]
    return np.ascontiguousarray(places.reshape(m, n // lanes, lanes).transpose(1, 0, 2)), signs


def _pairs(numbers: NDArray[np.complex128]) -> NDArray[np.float64]:
    """Real and imaginary parts in turns."""
    return np.stack([np.real(numbers), np.imag(numbers)], -1).ravel()


RADICES = (2, 3, 4, 5, 8)


@lru_cache(maxsize=64)
def radices(length: int, registers: int) -> tuple[int, ...]:
    """The passes of the forward transform. At most two of 8: the first of three would read 8 vectors that fall into
    one set of level 1 cache.
    """
    from dojang.native.transforms import radices as found

    passes = found(length, registers)
    return tuple(passes if passes.count(8) < 3 else [2, 4, *passes[1:]])


@lru_cache(maxsize=64)
def order(length: int, registers: int) -> NDArray[np.int64]:
    """The frequency at each position after the forward transform, found by transforming a signal of one phase step."""
    signal = np.zeros(length, complex)
    signal[1] = 1
    n = length
    for radix in radices(length, registers):
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
        self.radices = RADICES if machine.registers >= 32 else RADICES[:-1]
        # Imported here: it imports all algorithms for networks, which takes longer than a picture with code on disk.
        from dojang.native.transforms import ComplexArithmetic

        self.numbers = ComplexArithmetic(self.b, self.kind)
        self.lanes = machine.lanes(self.size)
        self.of = {name: b.sload(b.at(b.arg.taps, 8 * i), I64) for i, name in enumerate(WORDS)}
        self.kw, self.step, self.reach, self.extent = (self.of[name] for name in ("kw", "step", "reach", "extent"))
        self.columns, self.pitch, self.half = (self.of[name] for name in ("columns", "pitch", "half"))
        self.length = self.of["length"]
        self.finish = Finishing(b, b.at(b.arg.taps, 8 * len(WORDS)), self.of["scaled"])
        self.passes = b.at(b.arg.taps, 8 * (len(WORDS) + 2))
        self.row_passes = b.at(self.passes, b.mul(self.of["passes"], 32))
        self.spectrum = b.at(b.arg.taps, self.of["spectrum"])
        self.real = self.b.arg.scratch
        apart = b.add(self.length, 1) if code.both else self.length
        self.imag = self.b.at(self.real, b.mul(self.pitch, apart))
        self.apart = self.of["apart"] if code.both else self.size
        self.buffer = self.b.at(self.real, self.of["tile"])

    def write(self) -> str:
        b, a = self.b, self.b.arg
        b.loop(0, a.width, b.mul(self.half, 2), lambda x, _: self.tile(x))
        return b.finish()

    def tile(self, x0: Value) -> None:
        b, a = self.b, self.b.arg
        rows = b.sub(b.add(b.sub(a.y1, a.y0), self.extent), 1)
        b.loop(0, self.length, 1, lambda i, _: self.load(i, rows, x0))
        b.loop(0, self.columns, self.lanes, lambda c, _: self.column(c, False))
        if self.p.both:
            b.loop(0, self.length, self.lanes, lambda f, _: self.across(f))
        else:
            b.loop(0, self.length, 1, lambda f, _: self.products(f))
        b.loop(0, self.half, self.lanes, lambda c, _: self.column(c, True))
        b.loop(0, b.sub(a.y1, a.y0), 1, lambda t, _: self.out(t, x0))

    # -- in and out -------------------------------------------------------------------------------------------------

    def load(self, i: Value, rows: Value, x0: Value) -> None:
        """Row i of both planes; zeros below the last row that is needed and right of the padded row's end."""
        b, a, p = self.b, self.b.arg, self.p
        index = row_index(b, b.add(a.y0, i))
        source = b.at(a.src, b.mul(index, a.src_pitch))
        zero = b.const(self.kind, 0)
        needed = b.less(i, rows)
        for plane, shift in ((self.real, 0), (self.imag, self.half)):
            line = self.buffer if p.both else b.at(plane, b.mul(i, self.pitch))
            start = b.add(x0, shift)
            have = b.sub(b.add(a.width, self.reach), start)
            have = b.imax(b.imin(have, b.add(self.reach, self.half)), b.index(0))
            have = b.select(needed, have, b.index(0))
            edge = b.imin(b.imax(b.sub(a.left, start), 0), have)
            end = b.imin(b.imax(b.sub(b.add(a.left, a.inner), start), 0), have)
            b.loop(
                0,
                b.mul(self.columns, self.size) if p.both else self.pitch,
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
            if p.both:

                def scatter(e, _, plane=plane, line=line):
                    v = b.vload(b.at(line, b.mul(e, self.size)), self.kind)
                    b.vstore(v, self.place(plane, i, e), self.kind)

                b.loop(0, self.columns, self.lanes, scatter)

    def place(self, plane: Value, row: Value, e: Value) -> Value:
        """Where a vector of the tile is; e is a multiple of the lanes. With transforms of both axes, a strip of one
        vector's width lies in one piece, because its rows on pages of their own would take longer.
        """
        return self.b.at(plane, self.b.mul(row, self.pitch), self.b.mul(e, self.apart))

    def out(self, t: Value, x0: Value) -> None:
        """Row t of the block, both planes."""
        b, a, p = self.b, self.b.arg, self.p
        size = p.target_kind.bytes
        for plane, shift in ((self.real, 0), (self.imag, self.half)):
            start = b.add(x0, shift)
            n = b.imax(b.imin(b.sub(a.width, start), self.half), b.index(0))
            place = b.at(a.dst, b.mul(b.add(a.y0, t), a.dst_pitch), b.mul(start, size))

            def one(e, mask, plane=plane, place=place):
                v = b.vload(self.place(plane, t, e), self.kind)
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

    def column(self, c: Value, back: bool) -> None:
        """One vector of columns, transformed or transformed back."""
        base = self.b.mul(c, self.apart)
        planes = (self.b.at(self.real, base), self.b.at(self.imag, base))
        self.transform(planes, self.pitch, self.length, self.passes, self.of["passes"], back)

    def transform(
        self, planes: tuple[Value, Value], pitch: Value, length: Value, passes: Value, count: Value, back: bool
    ) -> None:
        """`length` complex vectors, `pitch` bytes apart, in place; the inverse takes the passes in reverse."""
        b = self.b

        def one(i, _):
            entry = b.at(passes, b.mul(b.sub(b.sub(count, 1), i) if back else i, 32))
            radix, n, q, at = (b.sload(b.at(entry, 8 * k), I64) for k in range(4))
            for known in self.radices:
                b.choose(
                    b.icmp_signed("==", radix, b.index(known)),
                    lambda known=known: self.butterflies(planes, pitch, length, known, (n, q, at), back),
                )

        b.loop(0, count, 1, one)

    def butterflies(
        self,
        planes: tuple[Value, Value],
        pitch: Value,
        length: Value,
        radix: int,
        sizes: tuple[Value, Value, Value],
        back: bool,
    ) -> None:
        """One pass: n numbers become `radix` parts of q, with twiddle factors from `at` on."""
        b, (n, q, at) = self.b, sizes
        part = b.mul(pitch, q)

        def some(k, _):
            table = b.at(b.arg.taps, at, b.mul(k, (radix - 1) * 2 * self.size))
            turns = [
                tuple(b.splat_load(b.at(table, (2 * m + i) * self.size), self.kind) for i in (0, 1))
                for m in range(radix - 1)
            ]

            def block(s, _):
                row = b.mul(b.add(k, s), pitch)
                places = [tuple(b.at(plane, row, b.mul(part, m)) for plane in planes) for m in range(radix)]
                values = [(b.vload(re, self.kind), b.vload(im, self.kind)) for re, im in places]
                for (re, im), (x, y) in zip(places, self.turned(values, turns, back), strict=True):
                    b.vstore(x, re, self.kind)
                    b.vstore(y, im, self.kind)

            b.loop(0, length, n, block)

        b.loop(0, q, 1, some)

    def turned(self, values: list, turns: list, back: bool) -> list:
        """A transform and twiddle factors, or those and the inverse, which is a transform with its frequencies
        backwards.
        """
        times = self.numbers.times
        if back:
            rest = [times(u, by, conjugate=True) for u, by in zip(values[1:], turns, strict=True)]
            first, *others = self.numbers.transform([values[0], *rest])
            return [first, *others[::-1]]
        first, *rest = self.numbers.transform(values)
        return [first, *(times(u, by) for u, by in zip(rest, turns, strict=True))]

    def across(self, f: Value) -> None:
        """The rows of a vector of frequencies, through the buffer: transformed, multiplied, transformed back."""
        b, size, vector = self.b, self.size, self.lanes * self.size
        lines = (self.buffer, b.at(self.buffer, b.mul(b.add(self.columns, 1), vector)))

        def turn(e, back):
            for plane, line in zip((self.real, self.imag), lines, strict=True):
                rows = [self.place(plane, b.add(f, k), e) for k in range(self.lanes)]
                turned = [b.at(line, b.mul(b.add(e, k), vector)) for k in range(self.lanes)]
                sources, targets = (turned, rows) if back else (rows, turned)
                for v, to in zip(b.transpose([b.vload(s, self.kind) for s in sources]), targets, strict=True):
                    b.vstore(v, to, self.kind)

        b.loop(0, self.columns, self.lanes, lambda e, _: turn(e, False))
        wide, pitch = self.of["wide"], b.mul(self.of["channels"], vector)
        table = b.at(self.spectrum, b.mul(b.mul(f, wide), 2 * size))

        def channel(c, _):
            planes = tuple(b.at(line, b.mul(c, vector)) for line in lines)
            given = (wide, self.row_passes, self.of["row_passes"])
            self.transform(planes, pitch, *given, False)

            def multiply(g, _):
                re, im = (b.at(plane, b.mul(g, pitch)) for plane in planes)
                by = b.at(table, b.mul(g, 2 * vector))
                number = (b.vload(re, self.kind), b.vload(im, self.kind))
                factor = (b.vload(by, self.kind), b.vload(b.at(by, vector), self.kind))
                for v, to in zip(self.numbers.times(number, factor), (re, im), strict=True):
                    b.vstore(v, to, self.kind)

            b.loop(0, wide, 1, multiply)
            self.transform(planes, pitch, *given, True)

        b.loop(0, self.of["channels"], 1, channel)
        b.loop(0, self.half, self.lanes, lambda e, _: turn(e, True))

    def products(self, f: Value) -> None:
        """One frequency's row of both planes times the kernel's, along x, in place: it reads only elements to the
        right.
        """
        b, lanes = self.b, self.lanes
        table = b.at(self.spectrum, b.mul(f, b.mul(self.kw, 2 * self.size)))
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

        b.loop(0, self.half, VECTORS * lanes, group)
