"""Taps in fixed point for uint8 pictures, with a bound on what their rounding does to a result.

A pixel is 127.5 + u, |u| <= 127.5. What the rounded taps make of the 127.5 is known beforehand and put right by a
constant, so that only the rounding of u · tap counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dojang.filters.named import Taps

MIDDLE = 127.5
TOP = 32767  # of a 16-bit number
_SUM = 2.0**31 - 2**24  # of a 32-bit sum, with room for the constants


@dataclass(frozen=True, slots=True)
class Fixed:
    """(Σ taps · pixel + add) / 2^shift, the result at most `error` off. Taps are whole, of any size."""

    taps: Taps
    shift: int
    add: int
    error: float


@dataclass(frozen=True, slots=True)
class FixedPasses:
    """((Σ column · pixel + first) >> middle) in 16 bits, then (Σ row · that + add) / 2^shift, at most `error` off."""

    column: Taps
    row: Taps
    middle: int
    first: int
    shift: int
    add: int
    error: float


def fixed(taps: Taps, offset: float, most: float) -> Fixed | None:
    """The fewest fraction bits whose error is at most `most`, or None where the sums would not fit 32 bits.

    >>> found = fixed(np.array([[0.1, 0.7, 0.2]]), 0.0, 1 / 64)
    >>> found.taps.tolist(), found.shift, found.error < 1 / 64
    ([[819.0, 5734.0, 1638.0]], 13, True)
    """
    for shift in range(6, 24):
        scale = 2.0**shift
        whole = np.rint(taps * scale)
        error = MIDDLE * np.abs(taps - whole / scale).sum() + 0.5 / scale
        if error > most:
            continue
        add = round((offset + MIDDLE * taps.sum()) * scale - MIDDLE * whole.sum()) + (1 << (shift - 1))
        fits = 255 * np.abs(whole).sum() + abs(add) < _SUM
        return Fixed(whole, shift, add, float(error)) if fits else None
    return None


def fixed_passes(column: Taps, row: Taps, offset: float, most: float) -> FixedPasses | None:
    """Both passes in fixed point, or None where no scales keep the error below `most` and the numbers in their bits.

    The two scales make a power of two together; each may be any number, and of many the one is taken at which the
    taps happen to lie nearest to whole numbers.
    """
    size = np.abs(column).sum()
    column, row = column / size, row * size
    reach = np.abs(row).sum()
    best: FixedPasses | None = None
    for shift in (24, 23, 22, 21):
        for scale in 2.0 ** np.linspace(13.5, 17.5, 600):
            between = 2.0**shift / scale  # of the numbers between the passes
            if MIDDLE * between > TOP - 8 or between < 16 or np.abs(row).max() * scale > TOP:
                continue
            middle = int(np.log2(min(TOP / np.abs(column).max(), 2.0**22) / between))
            if middle < 1:
                continue
            q1, q2 = np.rint(column * between * 2.0**middle), np.rint(row * scale)
            wrong1 = np.abs(column - q1 / (between * 2.0**middle)).sum()
            wrong2 = np.abs(row - q2 / scale).sum()
            error = MIDDLE * (wrong1 * (reach + wrong2) + wrong2) + 0.5 / between * (reach + wrong2) + 1.0 / 2**shift
            if error > (most if best is None else best.error):
                continue
            back = round(MIDDLE * q1.sum())
            centre = 2.0**shift * (offset + MIDDLE * column.sum() * row.sum())
            add = round(centre - (MIDDLE * q1.sum() - back) / 2.0**middle * q2.sum()) + (1 << (shift - 1))
            if (MIDDLE * between + 1) * np.abs(q2).sum() + abs(add) >= 2.0**31:
                continue
            best = FixedPasses(q1, q2, middle, (1 << (middle - 1)) - back, shift, add, float(error))
        if best is not None:
            return best
    return None
