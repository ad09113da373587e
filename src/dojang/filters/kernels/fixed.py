"""Taps in fixed point for uint8 pictures, with a bound on what their rounding does to a result.

A pixel is 127.5 + u, |u| <= 127.5. The error of the rounded taps on the 127.5 is known beforehand and corrected by
a constant, so only the rounding of u · tap counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dojang.base.record import plain_repr
from dojang.filters.kernels.named import Taps

MIDDLE = 127.5
TOP = 32767  # of a 16-bit number
_SUM = 2.0**31 - 2**24  # of a 32-bit sum, with space for the constants


@plain_repr
@dataclass(frozen=True, slots=True)
class Fixed:
    """(Σ taps · pixel + add) / 2^shift, the result at most `error` off. Taps are whole, of any size."""

    taps: Taps
    shift: int
    add: int
    error: float


@plain_repr
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
    """The fewest fraction bits whose error is at most `most`, or None if the sums would not fit 32 bits.

    >>> found = fixed(np.array([[0.1, 0.7, 0.2]]), 0.0, 1 / 64)
    >>> found.taps.tolist(), found.shift, found.error < 1 / 64
    ([[819.0, 5734.0, 1638.0]], 13, True)
    """
    together = max(1, min(BLOCK // taps.size, 18))
    for first in range(6, 24, together):
        shifts = np.arange(first, min(first + together, 24))
        scales = np.ldexp(1.0, shifts)
        errors = MIDDLE * _misfits(taps.ravel(), scales) + 0.5 / scales
        near = np.flatnonzero(errors <= most)
        if not near.size:
            continue
        shift, scale, error = int(shifts[near[0]]), float(scales[near[0]]), float(errors[near[0]])
        whole = np.rint(taps * scale)
        add = round((offset + MIDDLE * taps.sum()) * scale - MIDDLE * whole.sum()) + (1 << (shift - 1))
        fits = 255 * np.abs(whole).sum() + abs(add) < _SUM
        return Fixed(whole, shift, add, error) if fits else None
    return None


BLOCK = 1 << 14
"""Products of taps and scales that are tried together."""


def _misfits(taps: Taps, scales: Taps) -> Taps:
    """For each scale Σ |tap − its nearest multiple of 1/scale|."""
    off = np.multiply.outer(taps, scales)
    off -= np.rint(off)
    return np.abs(off, out=off).sum(axis=0) / scales


def _line_misfits(line: Taps, scales: Taps) -> Taps:
    """`_misfits`; of a symmetric line, one half is computed."""
    values, half = line.tolist(), len(line) // 2
    if half and values[:half] == values[: -half - 1 : -1]:
        found = 2 * _misfits(line[:half], scales)
        return found + _misfits(line[half:-half], scales) if len(line) % 2 else found
    return _misfits(line, scales)


def fixed_passes(column: Taps, row: Taps, offset: float, most: float) -> FixedPasses | None:
    """Both passes in fixed point, or None if no scales keep the error below `most` and the numbers within their bits.

    The product of the two scales is a power of two; of many scales the one is taken at which the taps are closest to
    whole numbers.
    """
    size = np.abs(column).sum()
    column, row = column / size, row * size
    reach, top, top_row = float(np.abs(row).sum()), float(np.abs(column).max()), float(np.abs(row).max())
    for shift in SHIFTS:
        centre = 2.0**shift * (offset + MIDDLE * float(column.sum()) * float(row.sum()))
        # All of these conditions hold from one scale on, or up to one; `between` are the numbers between the passes.
        most_between = min(TOP - 8, MIDDLE * min(TOP / top, 2.0**22) / 2) / MIDDLE
        least_between = max(16.0, 0.5 * reach / most)
        low = int(SCALES.searchsorted(2.0**shift / most_between))
        high = int(SCALES.searchsorted(min(2.0**shift / least_between, TOP / top_row), "right"))
        if low >= high:
            continue
        scale = SCALES[low:high]
        between = 2.0**shift / scale
        rest, sums = len(row) / 2, reach * scale  # the taps in fixed point add up to `sums`, to within `rest`
        least = (MIDDLE * between + 1) * (sums - rest) + (abs(centre + 2.0 ** (shift - 1)) - 2 - rest / 4) - sums / 4
        if not (possible := least < 2.0**31).all():
            scale, between = scale[possible], between[possible]
            if not scale.size:
                continue
        # The largest power of 2 by which the column's taps, and their sums, still fit.
        middle = np.frexp(min(TOP / top, 2.0**22) / between)[1] - 1
        wrong1, wrong2 = _line_misfits(column, np.ldexp(between, middle)), _line_misfits(row, scale)
        error = MIDDLE * (wrong1 * (reach + wrong2) + wrong2) + 0.5 / between * (reach + wrong2) + 1.0 / 2**shift
        while error[i := int(error.argmin())] <= most:
            drop = int(middle[i])
            q1, q2 = np.rint(column * (float(between[i]) * 2.0**drop)), np.rint(row * scale[i])
            total = float(q1.sum())
            back = round(MIDDLE * total)
            add = round(centre - (MIDDLE * total - back) / 2.0**drop * float(q2.sum())) + (1 << (shift - 1))
            if (MIDDLE * between[i] + 1) * np.abs(q2).sum() + abs(add) < 2.0**31:
                return FixedPasses(q1, q2, drop, (1 << (drop - 1)) - back, shift, add, float(error[i]))
            error[i] = np.inf
    return None


SHIFTS = (24, 23, 22, 21)
"""The products of the scales of both passes that are tried, as powers of 2."""
SCALES = 2.0 ** np.linspace(13.5, 17.5, 600)
"""The scales of the taps along the row that are tried."""


@plain_repr
@dataclass(frozen=True, slots=True)
class FixedColumns:
    """Two passes of products that keep the upper 16 of 32 bits: (Σ along(Σ down) + add) >> 8, at most `error` off.

    A tap is (offset, second offset or -1, tap): of 2^16, or of 2^17 for two offsets that share one.
    """

    down: tuple[tuple[int, int, int], ...]
    along: tuple[tuple[int, int, int], ...]
    add: int
    error: float


def fixed_columns(column: Taps, row: Taps, most: float) -> FixedColumns | None:
    """Both passes in 16 bits, about 8 of them after the point, or None if taps are negative, add up to more than 1,
    or have an error above `most`. The largest error of each product down is found by trying all operands. Of many
    scales between the passes the one is taken at which the taps are closest to 16-bit numbers.
    """
    size = float(column.sum())
    if size <= 0 or column.min() < 0 or row.min() < 0 or float(row.sum()) * size > 1 + 1e-9:
        return None
    if 0.5 * (len(set(column.tolist())) + len(set(row.tolist()))) > 256 * most + 2:
        return None  # each product loses up to 1
    column, row = column / size, row * size
    wrong = _rounded_off(column, BETWEEN, 0.8)
    wrong += _rounded_off(row, BETWEEN_ALONG, 1.0)
    best = int(wrong.argmin())
    if wrong[best] == np.inf:
        return None
    down, along = _shared(column * BETWEEN[best]), _shared(row / BETWEEN[best])
    return None if down is None or along is None else _fixed_columns(down, along, most)


BETWEEN = np.linspace(0.8, 1.0, 401)
"""The scales between the passes that are tried."""
BETWEEN_ALONG = 1 / BETWEEN


def _rounded_off(taps: Taps, scales: Taps, least: float) -> Taps:
    """For each scale, of which `least` is the smallest, what rounding changes in all products of `_shared`; infinite
    where a tap exceeds 16 bits.
    """
    found = _shared(taps * least)
    if found is None:
        return np.full(len(scales), np.inf)
    wide = np.multiply.outer(np.array([tap for _, _, _, tap in found]) * (2.0**16 / least), scales)
    whole = np.rint(wide)
    top = whole.max(axis=0)
    wide -= whole
    wrong = np.abs(wide, out=wide).sum(axis=0)
    if top.max() > 0xFFFF:
        wrong[top > 0xFFFF] = np.inf
    return wrong


def _fixed_columns(down: list[_Product], along: list[_Product], most: float) -> FixedColumns | None:
    low = high = top = 0.0
    for _, other, tap, exact in down:
        s = HALVES if other >= 0 else WHOLES
        product = s * tap >> 16
        off = product - s * exact
        low, high, top = low + float(off.min()), high + float(off.max()), top + int(product[-1])
    if top > 0xFFFF:
        return None
    # ⌊s · tap / 2^16⌋ − s · exact is s · drift less a fraction below 1, for sums s of 0 to `top`.
    lost, won, most_along, top = 0.0, 0.0, 0, int(top)
    for _, other, tap, exact in along:
        drift = top * (tap / 2**16 - exact)
        lost += min(drift, 0.0) - 1 + exact * low
        won += max(drift, 0.0) + exact * (high + (0.5 if other >= 0 else 0.0))  # a mean is rounded up
        most_along += top * tap >> 16
    bias = round(-(lost + won) / 2)
    error = max(abs(lost + bias), abs(won + bias)) / 256
    if most_along + 128 + bias > 0xFFFF or bias < -128 or error > most:
        return None
    places = [tuple((i, j, tap) for i, j, tap, _ in taps) for taps in (down, along)]
    return FixedColumns(places[0], places[1], 128 + bias, float(error))


WHOLES, HALVES = np.arange(256) << 8, np.arange(511) << 7
"""All pixels, and all means of two, in the 16 bits of an operand."""

_Product = tuple[int, int, int, float]


def _shared(taps: Taps) -> list[_Product] | None:
    """(offset, second offset or -1, tap in 16 bits, exact tap): pairs of equal taps below 1/2 share one entry."""
    found: list[_Product] = []
    waiting: list[tuple[float, int]] = []
    for i, t in enumerate(taps.tolist()):
        if t == 0:
            continue
        for one in waiting:
            if abs(one[0] - t) <= 1e-13 and t < 0.5:
                waiting.remove(one)
                found.append((one[1], i, round(t * 2**17), 2 * t))
                break
        else:
            waiting.append((t, i))
    found += [(i, -1, round(t * 2**16), t) for t, i in waiting]
    return found if all(tap <= 0xFFFF for _, _, tap, _ in found) else None
