"""Code for discrete Fourier transforms: complex numbers as two vectors, butterflies, and the passes of a transform.

Each lane is a separate signal (a channel, a tile, a column), so lanes are never shuffled. A pass reads one line of
complex numbers and writes another (Stockham's order of work), so that frequencies come out in their natural order:
X[f] = Σ x[k] exp(−2πi k f / n) (Van Loan, "Computational Frameworks for the Fast Fourier Transform", 1992, chapter
1.7). The inverse, times n, is the same code with real and imaginary parts exchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np

from dojang.base.record import plain_repr
from dojang.native.emit import ElementType, Emit, Value

Complex = tuple[Value, Value]


@plain_repr
@dataclass(frozen=True, slots=True)
class Line:
    """Complex vectors in memory: position k is at `base` + k · `stride`, its imaginary part `imag` bytes further."""

    base: Value
    stride: Value | int
    imag: Value | int


class ComplexArithmetic:
    """Arithmetic on complex vectors."""

    def __init__(self, b: Emit, kind: ElementType) -> None:
        """`kind` is the element type of both parts."""
        self.b, self.kind = b, kind

    def add(self, u: Complex, v: Complex) -> Complex:
        """u + v."""
        return self.b.fadd(u[0], v[0]), self.b.fadd(u[1], v[1])

    def sub(self, u: Complex, v: Complex) -> Complex:
        """u − v."""
        return self.b.fsub(u[0], v[0]), self.b.fsub(u[1], v[1])

    def scaled(self, u: Complex, by: float) -> Complex:
        """u · by, a real number."""
        c = self.b.const(self.kind, by)
        return self.b.fmul(u[0], c), self.b.fmul(u[1], c)

    def more(self, u: Complex, v: Complex, by: float) -> Complex:
        """u + v · by, a real number."""
        c = self.b.const(self.kind, by)
        return self.b.fma(v[0], c, u[0]), self.b.fma(v[1], c, u[1])

    def times(self, v: Complex, w: Complex, conjugate: bool = False) -> Complex:
        """v · w, or v · w̄."""
        b, (x, y), (c, s) = self.b, v, w
        if conjugate:
            return b.fma(x, c, b.fmul(y, s)), b.fsub(b.fmul(y, c), b.fmul(x, s))
        return b.fsub(b.fmul(x, c), b.fmul(y, s)), b.fma(x, s, b.fmul(y, c))

    def quarter(self, x: Complex, y: Complex, back: bool = False) -> Complex:
        """x − i·y, or x + i·y."""
        b = self.b
        if back:
            return b.fsub(x[0], y[1]), b.fadd(x[1], y[0])
        return b.fadd(x[0], y[1]), b.fsub(x[1], y[0])

    def transform(self, v: Sequence[Complex]) -> list[Complex]:
        """The transform of 2, 3, 4, 5 or 8 numbers."""
        return getattr(self, f"_{len(v)}")(v)

    def _2(self, v: Sequence[Complex]) -> list[Complex]:
        return [self.add(v[0], v[1]), self.sub(v[0], v[1])]

    def _3(self, v: Sequence[Complex]) -> list[Complex]:
        total, turn = self.add(v[1], v[2]), self.scaled(self.sub(v[1], v[2]), sin(pi / 3))
        middle = self.more(v[0], total, -0.5)
        return [self.add(v[0], total), self.quarter(middle, turn), self.quarter(middle, turn, True)]

    def _4(self, v: Sequence[Complex]) -> list[Complex]:
        even, odd = self.add(v[0], v[2]), self.add(v[1], v[3])
        x, y = self.sub(v[0], v[2]), self.sub(v[1], v[3])
        return [self.add(even, odd), self.quarter(x, y), self.sub(even, odd), self.quarter(x, y, True)]

    def _5(self, v: Sequence[Complex]) -> list[Complex]:
        c, s = [cos(2 * pi * k / 5) for k in (0, 1, 2)], [sin(2 * pi * k / 5) for k in (0, 1, 2)]
        near, far = self.add(v[1], v[4]), self.add(v[2], v[3])
        one, two = self.sub(v[1], v[4]), self.sub(v[2], v[3])
        low = self.more(self.more(v[0], near, c[1]), far, c[2])
        high = self.more(self.more(v[0], near, c[2]), far, c[1])
        turn = self.more(self.scaled(one, s[1]), two, s[2])
        more = self.more(self.scaled(one, s[2]), two, -s[1])
        return [self.add(v[0], self.add(near, far)), self.quarter(low, turn), self.quarter(high, more),
                self.quarter(high, more, True), self.quarter(low, turn, True)]  # fmt: skip

    def _8(self, v: Sequence[Complex]) -> list[Complex]:
        b, root = self.b, self.b.const(self.kind, 0.5**0.5)
        sums = [self.add(v[k], v[k + 4]) for k in range(4)]
        x = [self.sub(v[k], v[k + 4]) for k in range(4)]
        # Times exp(−πi/4), −i, exp(−3πi/4).
        turned = [
            x[0],
            (b.fmul(root, b.fadd(x[1][0], x[1][1])), b.fmul(root, b.fsub(x[1][1], x[1][0]))),
            (x[2][1], b.fneg(x[2][0])),
            (b.fmul(root, b.fsub(x[3][1], x[3][0])), b.fmul(b.fneg(root), b.fadd(x[3][0], x[3][1]))),
        ]
        even, odd = self._4(sums), self._4(turned)
        return [part[k] for k in range(4) for part in (even, odd)]


OPERATIONS = {2: 4, 3: 16, 4: 16, 5: 40, 8: 60}
"""Vector operations of a butterfly; twiddle factors take four more for each number but the first."""


def smooth(most: int) -> list[int]:
    """The lengths that butterflies can transform: products of 2, 3 and 5 up to `most`, in order.

    >>> smooth(10)
    [1, 2, 3, 4, 5, 6, 8, 9, 10]
    """
    found = {1}
    for p in (2, 3, 5):
        for n in sorted(found):
            while n * p <= most:
                n *= p
                found.add(n)
    return sorted(found)


def radices(length: int, registers: int) -> list[int]:
    """The passes of a transform. The longest butterfly comes last, where it needs no twiddle factors.

    >>> radices(64, 32), radices(80, 32), radices(64, 16)
    ([8, 8], [4, 4, 5], [4, 4, 4])
    """
    odd, rest = [], length
    for p in (3, 5):
        while rest % p == 0:
            odd.append(p)
            rest //= p
    bits = rest.bit_length() - 1
    eights = bits // 3 if registers >= 32 else 0
    while eights and bits - 3 * eights == 1:
        eights -= 1
    bits -= 3 * eights
    return sorted(odd + [2] * (bits % 2) + [4] * (bits // 2) + [8] * eights)


def twiddles(length: int, registers: int) -> np.ndarray:
    """The twiddle factors of all passes but the last, [pass][turn][number but the first][re, im], float64."""
    parts, n = [], length
    for radix in radices(length, registers)[:-1]:
        turns = np.outer(np.arange(n // radix), np.arange(1, radix))
        parts.append(np.stack([np.cos(2 * np.pi / n * turns), -np.sin(2 * np.pi / n * turns)], -1).ravel())
        n //= radix
    return np.concatenate(parts) if parts else np.zeros(0)


def cycles(length: int, registers: int) -> float:
    """Estimated cycles of one transform: two operations a cycle, or two loads and a store."""
    passes, total = radices(length, registers), 0.0
    for i, radix in enumerate(passes):
        factors = 4 * (radix - 1) if i < len(passes) - 1 else 0
        total += length / radix * (max((OPERATIONS[radix] + factors) / 2, 2.5 * radix) + 3)
    return total


@plain_repr
@dataclass(frozen=True)
class Transform:
    """The passes of transforms of one length. `table` is the address of its factors, `factors` their bytes per pass."""

    numbers: ComplexArithmetic
    length: int
    table: Value

    @property
    def passes(self) -> list[int]:
        """Radix by pass."""
        return radices(self.length, self.numbers.b.machine.registers)

    def write(
        self, source: Line, buffers: Sequence[Line], *, source_buffer: int | None = None, target: Line | None = None,
        result_buffer: int = 0, inverse: bool = False,
    ) -> Line:  # fmt: skip
        """Code that transforms `source`; returns the line with the result: `target`, or one of the two buffers.

        If `source` is a buffer, `source_buffer` is its number; if not, the result is in buffer `result_buffer`. Each
        pass writes to the buffer that it does not read, the last to `target`.
        """
        count = len(self.passes)
        first = 1 - source_buffer if source_buffer is not None else result_buffer if count % 2 else 1 - result_buffer
        n, done, at, line = self.length, 1, 0, source
        for i, radix in enumerate(self.passes):
            out = buffers[first ^ (i & 1)] if target is None or i < count - 1 else target
            self._pass(line, out, radix, n, done, at, inverse)
            n //= radix
            at += n * (radix - 1) * 2 * self.numbers.kind.bytes
            done, line = done * radix, out
        return line

    def _pass(self, x: Line, y: Line, radix: int, n: int, done: int, at: int, inverse: bool) -> None:
        """One pass over `done` interleaved transforms of length n."""
        b, kind, size = self.numbers.b, self.numbers.kind, self.numbers.kind.bytes
        turns = n // radix

        def turn(p, _):
            factors: list[Complex] = []
            if turns > 1:
                table = b.at(self.table, at, b.mul(p, (radix - 1) * 2 * size))
                load = lambda k: b.splat_load(b.at(table, k * size), kind)  # noqa: E731
                factors = [(load(2 * m), load(2 * m + 1)) for m in range(radix - 1)]

            def one(q, _):
                first = b.at(x.base, b.mul(b.add(q, b.mul(p, done)), x.stride))
                places = [b.at(first, b.mul(x.stride, j * done * turns)) for j in range(radix)]
                values = self.numbers.transform([self.load(at_, x, inverse) for at_ in places])
                if factors:
                    values[1:] = [self.numbers.times(v, w) for v, w in zip(values[1:], factors, strict=True)]
                first = b.at(y.base, b.mul(b.add(q, b.mul(p, radix * done)), y.stride))
                for j, v in enumerate(values):
                    self.store(v, b.at(first, b.mul(y.stride, j * done)), y, inverse)

            b.loop(0, done, 1, one)

        b.loop(0, turns, 1, turn)

    def load(self, at: Value, line: Line, swap: bool = False) -> Complex:
        """Loads a complex vector; with `swap` its parts are exchanged."""
        b, kind = self.numbers.b, self.numbers.kind
        re, im = b.vload(at, kind), b.vload(b.at(at, line.imag), kind)
        return (im, re) if swap else (re, im)

    def store(self, v: Complex, at: Value, line: Line, swap: bool = False) -> None:
        """Stores a complex vector."""
        b, kind = self.numbers.b, self.numbers.kind
        re, im = (v[1], v[0]) if swap else v
        b.vstore(re, at, kind)
        b.vstore(im, b.at(at, line.imag), kind)


def spectrum(taps: np.ndarray, height: int, width: int) -> np.ndarray:
    """The conjugate transform of real kernels (..., kh, kw), [..., column of half the frequencies][row], over n."""
    found = np.fft.rfft2(taps, (height, width)).conj() / (height * width)
    return np.swapaxes(found, -1, -2)
