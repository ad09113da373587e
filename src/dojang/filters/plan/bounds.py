"""What each method takes at least, found without building its program: the planner tries the cheapest ones only.

A bound never exceeds the method's own prediction, and is infinite where the method certainly refuses, so that the
method chosen is the one that trying all of them would choose (`tests/filters/plan/test_bounds.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import inf

import numpy as np

from dojang.filters.job import Job
from dojang.filters.kernels.fixed import MIDDLE
from dojang.filters.kernels.named import Taps
from dojang.filters.kernels.parse import Kernel
from dojang.filters.plan.costs import FilterCosts, costs_of
from dojang.filters.plan.loops import dense_cycles, passes_cycles
from dojang.filters.plan.sums import FIXED_TOLERANCE, TIE, UNROLLED, lanes_of, sums_of, whole_tolerance
from dojang.filters.plan.transforms import least_cycles
from dojang.native.machine import Machine

MOST_ROWS = 15
"""The most rows of a kernel that are read in parallel; with 31, tiles are faster (Intel server, November 2026)."""


def direct_cycles(count: int, cost: FilterCosts) -> float:
    """Cycles per vector of so many taps as constants."""
    return count * cost.tap + cost.load + cost.store


def straight_cycles(count: int, cost: FilterCosts) -> float:
    """The same without a tile."""
    return count * cost.straight_tap + cost.straight


def pairs_cycles(count: float, cost: FilterCosts) -> float:
    """Cycles per vector of so many products of two taps."""
    return count * cost.pair_tap + cost.pair


def separable_cycles(count: int, segments: int, pass_tap: float, cost: FilterCosts) -> float:
    """Cycles per vector of so many taps in pairs of passes, each of `pass_tap`."""
    return count * pass_tap + cost.passes + cost.pass_pair * segments


def separable_pairs_cycles(kh: int, kw: int, cost: FilterCosts) -> float:
    """Cycles per vector of a column and a row in fixed point."""
    return (kh // 2 + kw // 2 + 2) * cost.pair_pass_tap + cost.pair_passes


def columns_cycles(products: int, each: float, cost: FilterCosts) -> float:
    """Cycles per vector of a column and a row without a tile."""
    return products * each + cost.columns


def looped_cycles(kh: int, kw: int, cost: FilterCosts) -> float:
    """Cycles per vector of taps from memory, with a stride or with dilation down the columns."""
    return kh * kw * cost.looped_tap + cost.load + cost.store


@lru_cache(maxsize=64)
def lines_of(job: Job) -> tuple[int, int]:
    """The fewest taps down and along of a column and a row, or of several, whose products are near enough to all parts
    of the kernel for the sums of this job.
    """
    sums = sums_of(job)
    if sums.whole:  # factors are exact; the whole numbers of very small taps are 0
        return _lines(sums.parts, 0.0)
    return _fewest(job.kernel, whole_tolerance(job.dtype) if job.out_dtype.kind == "u" else 0.0)


def _fewest(kernel: Kernel, allowed: float) -> tuple[int, int]:
    """The same of factors by which all taps together may be off by `allowed`; 0, where it must not be less than of each
    tap (a tap that is not 0 has a product that is not 0).
    """
    pair = kernel.pair
    if pair is None:
        return _lines(kernel.parts, allowed)
    down, along = (int(np.count_nonzero(line)) for line in pair)
    return (down, along) if down and along else (0, 0)


def _lines(parts: Sequence[Taps], allowed: float) -> tuple[int, int]:
    """Rows and columns with a tap above `allowed`, which no factors may leave out."""
    rows, columns = (sum(int(np.count_nonzero(np.abs(p).max(axis=a) > allowed)) for p in parts) for a in (1, 0))
    return rows, columns


def _plain(job: Job) -> bool:
    return job.kernel.combine == "linear" and job.options.stride == (1, 1)


def _of_two_lines(job: Job) -> bool:
    return 1 not in job.kernel.size


def _whole_sums(job: Job) -> bool:
    return sums_of(job).work == "i16"


def _count(job: Job) -> int:
    return sum(int(np.count_nonzero(part)) for part in sums_of(job).parts)


def _direct(job: Job, machine: Machine) -> float:
    count = _count(job)
    return inf if count > UNROLLED else direct_cycles(count, costs_of(machine)) / lanes_of(sums_of(job), machine)


def _straight(job: Job, machine: Machine) -> float:
    if job.dtype.kind != "f" or job.out_dtype != job.dtype or not _plain(job) or job.extent[0] > MOST_ROWS:
        return inf
    count = _count(job)
    if not 0 < count <= UNROLLED:
        return inf
    return straight_cycles(count, costs_of(machine)) / lanes_of(sums_of(job), machine)


def _fixed(job: Job) -> bool:
    """Whether fixed point may be for the job."""
    return job.dtype == job.out_dtype == np.uint8 and _plain(job) and not _whole_sums(job)


def _pairs(job: Job, machine: Machine) -> float:
    if not _fixed(job) or job.options.dilation[0] != 1:
        return inf
    # Fixed point keeps each tap without which a result would be off by more than 1/64.
    kept = np.count_nonzero(np.abs(job.kernel.parts[0]) * MIDDLE > TIE, axis=0)
    if kept.sum() > UNROLLED:
        return inf
    return pairs_cycles(float((kept // 2 + 1).sum()), costs_of(machine)) / machine.lanes(4)


def _separable(job: Job, machine: Machine) -> float:
    kh, kw = job.kernel.size
    if not _of_two_lines(job) or kh + kw > (2 if job.kernel.pair else 4) * UNROLLED:
        return inf
    cost = costs_of(machine)
    cycles = separable_cycles(sum(lines_of(job)), 1, min(cost.pass_tap, cost.equal_tap), cost)
    return cycles / lanes_of(sums_of(job), machine)


def _separable_pairs(job: Job, machine: Machine) -> float:
    kh, kw = job.kernel.size
    if not _fixed(job) or job.options.dilation[0] != 1 or not _of_two_lines(job) or kh + kw > UNROLLED:
        return inf
    return separable_pairs_cycles(kh, kw, costs_of(machine)) / machine.lanes(4)


def _columns(job: Job, machine: Machine) -> float:
    if not _plain(job) or not _of_two_lines(job) or job.kernel.size[0] > MOST_ROWS:
        return inf
    cost = costs_of(machine)
    return columns_cycles(sum(lines_of(job)), cost.column_tap, cost) / lanes_of(sums_of(job), machine)


def _fixed_columns(job: Job, machine: Machine) -> float:
    if not _fixed(job) or job.options.offset or not _of_two_lines(job) or job.kernel.size[0] > MOST_ROWS:
        return inf
    cost = costs_of(machine)
    products = sum(-(-taps // 2) for taps in _fewest(job.kernel, FIXED_TOLERANCE))  # two equal taps share one
    return columns_cycles(products, cost.fixed_product, cost) / machine.lanes(2)


def _box(job: Job, machine: Machine) -> float:
    del machine
    return inf if job.dtype.kind == "f" or one_tap(job.kernel) is None else 0.0


def _doubling(job: Job, machine: Machine) -> float:
    del machine
    return inf if job.dtype.kind != "f" or one_tap(job.kernel) is None else 0.0


def _fourier(job: Job, machine: Machine) -> float:
    return inf if job.anywhere or not _plain(job) else least_cycles(job, machine)


def _passes(job: Job, machine: Machine) -> float:
    if not _plain(job) or job.options.dilation[0] != 1 or not _of_two_lines(job) or _whole_sums(job):
        return inf
    kw = lines_of(job)[1]
    return passes_cycles(job.kernel.size[0], kw, costs_of(machine)) / lanes_of(sums_of(job), machine)


def _looped(job: Job, machine: Machine) -> float:
    if job.kernel.combine != "linear":
        return inf
    (kh, kw), cost = job.kernel.size, costs_of(machine)
    plain = job.options.stride == (1, 1) and (job.options.dilation[0] == 1 or kh == 1)
    cycles = dense_cycles(kh, kw, cost) if plain else looped_cycles(kh, kw, cost)
    return cycles / machine.lanes(8 if sums_of(job).work == "f64" else 4)


@lru_cache(maxsize=64)
def one_tap(kernel: Kernel) -> float | None:
    """The tap of a kernel of two or more taps that are all equal, or None."""
    pair = kernel.pair
    if kernel.combine != "linear" or kernel.size == (1, 1):
        return None
    if pair is not None:
        same = all((v == v[0]).all() for v in pair)
        return float(pair[0][0] * pair[1][0]) if same else None
    matrix = kernel.parts[0]
    return float(matrix[0, 0]) if (matrix == matrix[0, 0]).all() else None


LEAST: Mapping[str, Callable[[Job, Machine], float]] = {
    "direct": _direct,
    "straight": _straight,
    "pairs": _pairs,
    "separable": _separable,
    "separable pairs": _separable_pairs,
    "columns first": _columns,
    "columns first in fixed point": _fixed_columns,
    "running sums": _box,
    "doubling": _doubling,
    "fourier": _fourier,
    "passes": _passes,
    "looped": _looped,
}
"""By method: predicted cycles per element, or fewer."""
