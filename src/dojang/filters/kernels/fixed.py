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
    off = taps * scales[:, None]
    off -= np.rint(off)
    return np.abs(off, out=off).sum(axis=1) / scales


def _line_misfits(line: Taps, scales: Taps) -> Taps:
    """`_misfits`; of a symmetric line, one half is computed."""
    half = len(line) // 2
    if half and np.array_equal(line[:half], line[: -half - 1 : -1]):
        middle = _misfits(line[half:-half], scales) if len(line) % 2 else 0.0
        return 2 * _misfits(line[:half], scales) + middle
    return _misfits(line, scales)


def fixed_passes(column: Taps, row: Taps, offset: float, most: float) -> FixedPasses | None:
    """Both passes in fixed point, or None if no scales keep the error below `most` and the numbers within their bits.

    The product of the two scales is a power of two; of many scales the one is taken at which the taps are closest to
    whole numbers.
    """
    size = np.abs(column).sum()
    column, row = column / size, row * size
    reach, top, top_row = np.abs(row).sum(), np.abs(column).max(), np.abs(row).max()
    for shift in (24, 23, 22, 21):
        scale = SCALES
        between = 2.0**shift / scale  # of the numbers between the passes
        middle = np.floor(np.log2(np.minimum(TOP / top, 2.0**22) / between))
        possible = (MIDDLE * between <= TOP - 8) & (between >= 16) & (top_row * scale <= TOP) & (middle >= 1)
        possible &= 0.5 / between * reach <= most
        centre = 2.0**shift * (offset + MIDDLE * column.sum() * row.sum())
        rest, sums = len(row) / 2, reach * scale  # the taps in fixed point add up to `sums`, to within `rest`
        least = (MIDDLE * between + 1) * (sums - rest) + abs(centre + 2.0 ** (shift - 1)) - (sums + rest) / 4 - 2
        possible &= least < 2.0**31
        scale, between, middle = scale[possible], between[possible], middle[possible]
        if not scale.size:
            continue
        first = between * 2.0**middle
        wrong1, wrong2 = _line_misfits(column, first), _line_misfits(row, scale)
        error = MIDDLE * (wrong1 * (reach + wrong2) + wrong2) + 0.5 / between * (reach + wrong2) + 1.0 / 2**shift
        while error[i := int(np.argmin(error))] <= most:
            q1, q2, drop = np.rint(column * first[i]), np.rint(row * scale[i]), int(middle[i])
            total = q1.sum()
            back = np.rint(MIDDLE * total)
            add = np.rint(centre - (MIDDLE * total - back) / 2.0**drop * q2.sum()) + (1 << (shift - 1))
            if (MIDDLE * between[i] + 1) * np.abs(q2).sum() + np.abs(add) < 2.0**31:
                first_add = (1 << (drop - 1)) - int(back)
                return FixedPasses(q1, q2, drop, first_add, shift, int(add), float(error[i]))
            error[i] = np.inf
    return None


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
    size = column.sum()
    if (column < 0).any() or (row < 0).any() or size <= 0 or row.sum() * size > 1 + 1e-9:
        return None
    if 0.5 * (np.unique(column).size + np.unique(row).size) > 256 * most + 2:
        return None  # each product loses up to 1
    scales = np.linspace(0.8, 1.0, 401)
    wrong = _rounded_off(column / size, scales) + _rounded_off(row * size, 1 / scales)
    best = int(np.argmin(wrong))
    if not np.isfinite(wrong[best]):
        return None
    down, along = _shared(column / size * scales[best]), _shared(row * size / scales[best])
    return None if down is None or along is None else _fixed_columns(down, along, most)


def _rounded_off(taps: Taps, scales: Taps) -> Taps:
    """For each scale what rounding changes in all products of `_shared`; infinite where a tap exceeds 16 bits."""
    found = _shared(taps * scales.min())
    if found is None:
        return np.full(len(scales), np.inf)
    exact = np.array([tap for _, _, _, tap in found]) / scales.min() * scales[:, None]
    wide = exact * 2.0**16
    wrong = np.abs(np.rint(wide) - wide).sum(axis=1)
    wrong[(np.rint(wide) > 0xFFFF).any(axis=1)] = np.inf
    return wrong


def _fixed_columns(down: list[_Product], along: list[_Product], most: float) -> FixedColumns | None:
    low = high = top = 0.0
    for _, other, tap, exact in down:
        s = np.arange(511 if other >= 0 else 256) << (7 if other >= 0 else 8)
        product = s * tap >> 16
        off = product - s * exact
        low, high, top = low + off.min(), high + off.max(), top + product.max()
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


_Product = tuple[int, int, int, float]


def _shared(taps: Taps) -> list[_Product] | None:
    """(offset, second offset or -1, tap in 16 bits, exact tap): pairs of equal taps below 1/2 share one entry."""
    found: list[_Product] = []
    waiting: list[tuple[float, int]] = []
    for i in np.flatnonzero(taps):
        t = float(taps[i])
        same = next((one for one in waiting if abs(one[0] - t) <= 1e-13 and t < 0.5), None)
        if same is None:
            waiting.append((t, int(i)))
        else:
            waiting.remove(same)
            found.append((same[1], int(i), round(t * 2**17), 2 * t))
    found += [(i, -1, round(t * 2**16), t) for t, i in waiting]
    return found if all(tap <= 0xFFFF for _, _, tap, _ in found) else None
