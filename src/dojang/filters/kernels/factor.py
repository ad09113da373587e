"""Arithmetic on kernels before they are compiled: whole-number form, separable factors, rounding without floats."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import gcd

import numpy as np
from numpy.typing import NDArray

from dojang.base.record import plain_repr
from dojang.filters.kernels.named import Taps


@plain_repr
@dataclass(frozen=True, slots=True)
class Whole:
    """Matrices of whole numbers that give the kernel's parts when multiplied by `unit`."""

    parts: tuple[Taps, ...]
    unit: float


def whole_form(parts: tuple[Taps, ...], largest: int = 1 << 20) -> Whole | None:
    """Whole numbers with one common unit, or None if there are none up to `largest`.

    Tried are the unit 1 and the smallest tap over 1 to 16; a tap may be off its multiple by 1e-13 of the largest.
    """
    values = np.concatenate([np.abs(p[p != 0]) for p in parts])
    if not values.size:
        return Whole(parts, 1.0)
    top, low = float(values.max()), float(values.min())
    one, other = float(values[values.size // 2]), float(values[values.size // 3])
    off = 1e-13 * top
    for unit in (1.0, *(low / m for m in range(1, 17))):
        if unit < 1e-300 or top / unit > largest:  # its inverse must be a number
            continue
        if abs(one - round(one / unit) * unit) > 2 * off or abs(other - round(other / unit) * unit) > 2 * off:
            continue  # most units fail at one of these two taps
        ratio = values / unit
        if np.abs(ratio - np.rint(ratio)).max() <= 1e-13 * top / unit:
            near = round(1 / unit)
            exact = 1 / near if near and abs(unit * near - 1) < 1e-13 else unit
            return Whole(tuple(np.rint(p / unit) for p in parts), exact)
    return None


def whole_factors(matrix: Taps) -> tuple[Taps, Taps] | None:
    """Whole column and row vectors whose outer product is the whole-number matrix exactly, or None."""
    i, j = np.unravel_index(np.abs(matrix).argmax(), matrix.shape)
    if matrix[i, j] == 0:
        return None
    divisor = gcd(*(int(abs(v)) for v in matrix[i] if v))
    row = matrix[i] / divisor
    column = matrix[:, j] / row[j]
    if (column != np.rint(column)).any() or not np.array_equal(np.outer(column, row), matrix):
        return None
    return column, row


def factors(matrix: Taps, allowed: float | Taps, most: int) -> list[tuple[Taps, Taps]] | None:
    """Columns and rows whose outer products sum to the matrix; None if more than `most` are needed, and for a matrix of
    zeros, which has none.

    `allowed`: the most error of all taps together, or of each. As few as possible: a matrix whose rows are multiples of
    one row is factored by that row, so that its zeros and equal taps stay; one that differs from such a matrix only in
    its largest tap (as a sharpening by a blur does) by that row and this tap; any other by singular values.
    """

    def close(found: list[tuple[Taps, Taps]]) -> bool:
        left = np.abs(sum((np.outer(column, row) for column, row in found), -matrix))
        return bool((left <= allowed).all() if isinstance(allowed, np.ndarray) else left.sum() <= allowed)

    i, j = np.unravel_index(np.abs(matrix).argmax(), matrix.shape)
    if matrix[i, j] == 0 or (most and surely_above(matrix, allowed, most)):
        return None
    if most:
        pair = matrix[:, j] / matrix[i, j], matrix[i]
        left = np.abs(np.outer(*pair) - matrix)
        if bool((left <= allowed).all() if isinstance(allowed, np.ndarray) else left.sum() <= allowed):
            return [pair]
        if most == 1 and _far(left, allowed):
            return None
        others = np.abs(matrix)
        others[i], others[:, j] = 0, 0
        y, x = np.unravel_index(others.argmax(), matrix.shape)
        if most > 1 and others[y, x] != 0:
            with np.errstate(over="ignore", invalid="ignore"):  # by a very small tap; then the factors are not close
                column, row = matrix[:, x] / matrix[y, x], matrix[y]
                spot, line = np.zeros(len(column)), np.zeros(len(row))
                spot[i], line[j] = 1, matrix[i, j] - column[i] * row[j]
                if close([(column, row), (spot, line)]):
                    return [(column, row), (spot, line)]
    if not most or (matrix.size > SKETCHED and _rank_above(matrix, allowed, most)):
        return None
    u, s, vt = np.linalg.svd(matrix)
    found = []
    for r in range(min(most, len(s))):
        found.append((u[:, r] * np.sqrt(s[r]), vt[r] * np.sqrt(s[r])))
        if close(found):
            return found
    return None


FAR = 1e3
"""What is left over, in units of what is allowed, from which on singular values would not find a closer sum."""
SKETCHED = 400
"""Taps above which a matrix is looked at before its singular values are computed: 63x63 take 20 ms."""


def surely_above(matrix: Taps, allowed: float | Taps, most: int) -> bool:
    """Whether a few of its taps show that no sum of `most` outer products is so near to the matrix.

    If one is, then singular value `most` + 1 of any part of the matrix is at most the Frobenius norm of what is left
    over (Weyl), and of a part of 2x2 taps, |determinant| is at most what the four errors make of it.
    """
    kh, kw = matrix.shape
    if min(kh, kw) <= most:
        return False
    if most == 1:
        (y, x), e = (kh // 2, kw // 2), allowed
        a, b, c, d = float(matrix[0, 0]), float(matrix[0, x]), float(matrix[y, 0]), float(matrix[y, x])
        if isinstance(e, np.ndarray):
            e = max(float(e[0, 0]), float(e[0, x]), float(e[y, 0]), float(e[y, x]))
        return abs(a * d - b * c) > SMALL and abs(a * d - b * c) > 2 * e * (abs(a) + abs(b) + abs(c) + abs(d) + e)
    part = matrix.take(_spread(kh, kw, most + 1))
    top = float(np.abs(part).max())
    if not SMALL < top < 1 / SMALL:
        return False
    left = float(np.linalg.norm(allowed)) if isinstance(allowed, np.ndarray) else allowed
    return float(np.linalg.svd(part, compute_uv=False)[-1]) > 2 * left + 1e-14 * top


@lru_cache(maxsize=256)
def _spread(kh: int, kw: int, count: int) -> NDArray[np.intp]:
    """Places (count, count) in a matrix of kh x kw, spread over all of it."""
    rows, columns = (np.arange(count) * (n - 1) // (count - 1) for n in (kh, kw))
    return rows[:, None] * kw + columns


SMALL = 1e-100
"""Numbers between this and its inverse have squares."""


def _far(left: Taps, allowed: float | Taps) -> bool:
    """Whether so much more is left over than is allowed; in units of the largest, whose square may be no number."""
    top = float(np.abs(left).max())
    with np.errstate(over="ignore"):
        return top > 0 and bool(np.linalg.norm(left / top) > FAR * np.linalg.norm(allowed / np.float64(top)))


def _rank_above(matrix: Taps, allowed: float | Taps, most: int) -> bool:
    """Whether no sum of `most` outer products can come near the matrix: its rows, projected on as many and two more
    random mixtures of its columns, leave over more than a thousand times what is allowed (Halko, Martinsson and Tropp,
    SIAM Review 53, 2011).
    """
    if most + 2 >= min(matrix.shape):
        return False
    mixed = matrix @ _mixtures(matrix.shape[1], most + 2)
    base, _ = np.linalg.qr(mixed)
    left = matrix - base @ (base.T @ matrix)
    return _far(left, allowed)


@lru_cache(maxsize=32)
def _mixtures(columns: int, count: int) -> Taps:
    """So many random mixtures of columns, the same every time."""
    return np.random.default_rng(0).standard_normal((columns, count))


def rounded_division(divisor: int, most: int) -> tuple[int, int, int] | None:
    """(add, multiply, shift) so that ⌊(s + add) · multiply / 2^(16 + shift)⌋ is s / divisor rounded, s up to `most`.

    All in 16 bits; checked for every s. None for even divisors, whose halves would not be rounded to even, and if no
    16-bit multiplier is exact.
    """
    add = divisor // 2
    if divisor % 2 == 0 or most + add > 0xFFFF:
        return None
    sums = np.arange(most + 1, dtype=np.int64)
    exact = (sums + add) // divisor
    for shift in range(16):
        multiply = -(-(1 << (16 + shift)) // divisor)
        if multiply > 0xFFFF:
            return None
        if np.array_equal((sums + add) * multiply >> (16 + shift), exact):
            return add, multiply, shift
    return None
