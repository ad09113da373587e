"""How the taps of a kernel are summed (in 16-bit integers, float32 or float64) and how a sum becomes a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from math import sqrt

import numpy as np

from dojang.base.record import plain_repr
from dojang.filters.code.program import Finish
from dojang.filters.job import Job, weight_of
from dojang.filters.kernels.factor import rounded_division, whole_form
from dojang.filters.kernels.named import LARGE, Taps
from dojang.filters.kernels.parse import Kernel
from dojang.native.machine import Machine

TIE = 1 / 64  # only results this close to a half may be rounded differently
UNROLLED = 144  # kernels with more taps are loops over taps in memory, since compile time grows with unrolled taps


@plain_repr
@dataclass(frozen=True, slots=True)
class Sums:
    """How taps are summed: element type, the matrices in it, and what is done to a sum."""

    work: str
    unsigned: bool
    parts: Sequence[Taps]
    finish: Finish
    whole: bool


def source_top(job: Job) -> float:
    """The largest pixel; 1 for floats."""
    return top_of(job.dtype)


@cache
def top_of(dtype: np.dtype) -> float:
    """The largest pixel of a type; 1 for floats."""
    return float(np.iinfo(dtype).max) if dtype.kind == "u" else 1.0


def sums_of(job: Job) -> Sums:
    """16-bit integers if no result overflows, float32 if it is exact or exact except for ties, else float64."""
    return sums_on(job.kernel, job.dtype, job.out_dtype, job.options.offset)


@lru_cache(maxsize=64)
def sums_on(kernel: Kernel, dtype: np.dtype, out_dtype: np.dtype, offset: float) -> Sums:
    """`sums_of`, of what it depends on."""
    parts = kernel.parts
    plain = Finish(1.0, offset)
    if np.float64 in (out_dtype, dtype):
        return Sums("f64", False, parts, plain, False)
    top, total, pair = top_of(dtype), weight_of(kernel), kernel.pair
    large = pair is not None and len(pair[0]) * len(pair[1]) > LARGE
    whole = whole_form(tuple(parts)) if dtype.kind == "u" and not large else None
    if whole is not None:
        scaled = Finish(whole.unit, offset)
        if dtype == np.uint8:
            found = _sixteen_bits(whole.parts, whole.unit, offset)
            if found is not None:
                return found
        if top * max(np.abs(p).sum() for p in whole.parts) < 2**24:
            return Sums("f32", False, whole.parts, scaled, True)
    count = pair[0].size * pair[1].size if pair is not None and large else max(np.count_nonzero(p) for p in parts)
    # About three standard deviations of the error of a growing sum; loops sum each kernel row separately.
    steps = sqrt(count) + 2 if count <= UNROLLED else sqrt(kernel.size[0]) + 4
    exact = out_dtype.kind == "f" or top * total * 2**-24 * steps <= TIE
    if exact and total < 1e38:
        return Sums("f32", False, parts, plain, False)
    return Sums("f64", False, parts, plain, False)


def _sixteen_bits(parts: Sequence[Taps], unit: float, offset: float) -> Sums | None:
    """Sums of uint8 pixels in 16 bits. Only the final sum must fit, because intermediate overflow wraps and cancels."""
    high = max(255 * p.clip(0).sum() for p in parts)
    low = min(255 * p.clip(None, 0).sum() for p in parts)
    unsigned = low == 0
    if not (high <= 65535 if unsigned else (high <= 32767 and low >= -32768)):
        return None
    finish = Finish(unit, offset)
    near = round(1 / unit) if unit <= 1 else 0
    if unit != 1 and offset == 0 and len(parts) == 1 and near and unit == 1 / near:
        room = (65535 if unsigned else 32767) - high
        if near & (near - 1) == 0 and near // 2 <= room:
            finish = Finish(unit, 0.0, shift=near.bit_length() - 1)
        elif unsigned:
            finish = Finish(unit, 0.0, magic=rounded_division(near, int(high)))
    return Sums("i16", unsigned, parts, finish, True)


def lanes_of(sums: Sums, machine: Machine) -> int:
    """Sums in one vector register."""
    return machine.lanes({"i16": 2, "f32": 4, "f64": 8}[sums.work])


def said(sums: Sums) -> str:
    """The element type of the sums, for people."""
    if sums.work == "i16":
        how = "halved by shifts" if sums.finish.shift else "divided by a multiplication" if sums.finish.magic else ""
        return "16-bit integers" + (f", {how}" if how else "")
    return {"f32": "float32", "f64": "float64"}[sums.work] + (" on whole numbers (exact)" if sums.whole else "")


def tolerance(job: Job, sums: Sums, matrix: Taps) -> float | Taps:
    """The largest error of a factored matrix: of all taps together far below a tie for integers; for floats of each
    tap, so that a large pixel at a small tap gives what that tap allows. That is the rounding of one float32, or of a
    sum of so many float64.
    """
    return whole_tolerance(job.dtype) if job.out_dtype.kind == "u" else tap_tolerance(matrix, sums.work)


def whole_tolerance(dtype: np.dtype) -> float:
    """`tolerance` where results are whole numbers, as pixels of this type are."""
    return TIE / 4 / top_of(dtype)


FIXED_TOLERANCE = TIE / 64 / 255
"""The largest error of all taps together of a matrix that is factored for fixed point."""


def tap_tolerance(matrix: Taps, work: str) -> Taps:
    """The rounding of each tap in one float32, or in a sum of so many float64."""
    return np.abs(matrix) * (2.0**-24 if work == "f32" else max(8, matrix.size) * 2.0**-53)


def cancels(job: Job, sums: Sums, matrix: Taps, pairs: Sequence[tuple[Taps, Taps]]) -> bool:
    """Whether sums by these factors lose digits: products of theirs are larger than the taps that they add up to."""
    sizes = sum((np.outer(np.abs(column), np.abs(row)) for column, row in pairs), np.zeros_like(matrix))
    if job.out_dtype.kind == "f":
        return bool((sizes > 8 * np.abs(matrix)).any())
    return sums.work == "f32" and float(sizes.sum()) > 8 * float(np.abs(matrix).sum())
