"""Kernels that are planned alike: a plan depends on the size of a kernel, and often on nothing else of its taps.

Augmentation blurs every picture by another sigma. Choosing a method for it takes several times as long as filtering a
small picture does, so that what was prepared for one kernel is used for the next one with other taps in its table.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dojang.filters.code.loops import NONE, Loops
from dojang.filters.job import weight_of
from dojang.filters.kernels.factor import surely_above
from dojang.filters.kernels.parse import Kernel
from dojang.filters.plan.method import Method
from dojang.filters.plan.methods import most_pairs
from dojang.filters.plan.sums import sums_on, tap_tolerance, top_of, whole_tolerance
from dojang.filters.plan.transforms import work_for

ORDINARY = 1e-15, 1e15
"""The sizes of taps whose products neither vanish nor overflow, in float32 either."""


def likeness(kernel: Kernel, dtype: np.dtype, out_dtype: np.dtype, offset: float) -> tuple | None:
    """What a plan depends on of this kernel; None where it depends on the taps themselves.

    Columns times rows of the same sizes are planned alike, and so are matrices of the same size that are surely no sum
    of few of those: if no tap is 0 or far from 1, not all of them are equal, and they are no whole numbers. On uint8,
    where taps are rounded to fixed point, all depends on them.
    """
    if kernel.combine != "linear" or dtype == out_dtype == np.uint8:
        return None
    pair, low, high = kernel.pair, 1.0, 1.0
    for taps in pair or kernel.parts:
        sizes = np.abs(taps)
        low, high = float(sizes.min()), float(sizes.max())
        if not ORDINARY[0] < low < high < ORDINARY[1]:
            return None
    work = transformed = "f64" if np.float64 in (dtype, out_dtype) else "f32"
    if dtype.kind == "u":
        sums = sums_on(kernel, dtype, out_dtype, offset)
        if sums.whole:
            return None
        work, transformed = sums.work, work_for(top_of(dtype) * weight_of(kernel))
    if pair is None:
        matrix = kernel.parts[0]
        allowed = whole_tolerance(dtype) if out_dtype.kind == "u" else tap_tolerance(matrix, work)
        if out_dtype.kind == "u" and low <= whole_tolerance(dtype):
            return None
        if not surely_above(matrix, allowed, most_pairs(kernel.size)):
            return None
    return kernel.size, kernel.anchor, pair is not None, work, transformed


def table_for(method: Method, kernel: Kernel) -> NDArray | None:
    """The table of a method's taps for another kernel that is planned alike; None where they are not read from memory
    as they are.
    """
    program, make = method.program, method.taps
    if not isinstance(program, Loops) or not isinstance(make, partial):
        return None
    machine, _, _, offsets, *finish = make.args
    given: tuple[Any, ...] = (kernel.parts[0], NONE, NONE)
    if "dense" not in program.code.form:
        assert kernel.pair is not None
        given = (*kernel.pair, offsets)
    return make.func(machine, *given, *finish, **make.keywords)
