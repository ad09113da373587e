"""Kernels that are wider than the picture on both sides, a column times a row: one matrix for each axis.

Every window then holds the whole picture along that axis, several times with a border that mirrors or repeats it. Taps
that fall on one pixel are added up beforehand, so that a result takes as many products as the picture has rows, however
wide the kernel: a gaussian of sigma 150 has 901 taps on 32 rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dojang.filters.borders import index_map
from dojang.filters.job import Job, Options
from dojang.filters.kernels.named import Outer, Taps
from dojang.filters.kernels.parse import Kernel
from dojang.filters.plain import finish

Press = Callable[[NDArray, Kernel, Options], NDArray]
MOST_PIXELS = 1 << 20  # of a picture; larger ones may be filtered in bands, which must not differ
LEAST_TAPS = 64  # shorter columns and rows are fast as they are


def folds(job: Job) -> tuple[bool, bool]:
    """Whether the columns, and the rows, can be folded: each window reaches over the whole picture."""
    if job.kernel.pair is None or job.anywhere or job.height * job.width > MOST_PIXELS:
        return False, False
    if job.options.border == "valid" or job.options.stride != (1, 1):
        return False, False
    found = [
        len(taps) >= LEAST_TAPS and bool(taps.all()) and min(before, after) >= size - 1
        for taps, before, after, size in zip(
            job.kernel.pair, job.before, job.after, (job.height, job.width), strict=True
        )
    ]
    return found[0], found[1]


def folded(taps: Taps, size: int, before: int, step: int, job: Job) -> tuple[Taps, Taps]:
    """(size, size): what each pixel of an axis adds to each result, and (size): what the border's constant adds."""
    after = (len(taps) - 1) * step - before
    places = index_map(size, before, after, job.options.border)
    matrix, constant = np.zeros((size, size)), np.zeros(size)
    positions = np.arange(len(taps)) * step
    for y in range(size):
        sources = places[y + positions]
        inside = sources >= 0
        matrix[y] = np.bincount(sources[inside], taps[inside], size)
        constant[y] = taps[~inside].sum()
    return matrix, constant


class Folded:
    """One kernel on stacks of one size, with matrices for one axis or both."""

    def __init__(self, job: Job, press: Press) -> None:
        """`job` is one that `folds`; `press` filters by a kernel of one row or column."""
        assert job.kernel.pair is not None
        self.job, self.press = job, press
        self.rows, self.cols = folds(job)
        (dy, dx), (column, row) = job.options.dilation, job.kernel.pair
        self.down = folded(column, job.height, job.before[0], dy, job) if self.rows else None
        self.across = folded(row, job.width, job.before[1], dx, job) if self.cols else None
        single = {job.dtype, job.out_dtype} <= {np.dtype("u1"), np.dtype("f4")}
        self.work = np.dtype("f4" if single else "f8")

    def run(self, stack: NDArray, out: NDArray) -> None:
        """Writes the results for `stack` (n, h, w, c) into `out` of the same shape."""
        job, x = self.job, stack.astype(self.work, copy=False)
        assert job.kernel.pair is not None
        column, row = job.kernel.pair
        plain = replace(job.options, offset=0.0, dtype=None)
        fill = job.fill
        if self.across is not None:
            matrix, constant = self.across
            x = np.einsum("nhwc,vw->nhvc", x, matrix.astype(self.work), optimize=True)
            x += (constant * fill).astype(self.work)[:, None]
        else:
            kernel = Kernel("row", Outer(np.ones(1), row), anchor=(0, job.kernel.anchor[1]))
            x = self.press(x, kernel, plain)
        if self.down is not None:
            matrix, constant = self.down
            x = np.einsum("nhwc,vh->nvwc", x, matrix.astype(self.work), optimize=True)
            # Above and below, all pixels of a row are the constant.
            x += (constant * fill * row.sum()).astype(self.work)[:, None, None]
        else:
            kernel = Kernel("column", Outer(column, np.ones(1)), anchor=(job.kernel.anchor[0], 0))
            # The constant is what a row of constants becomes along the row.
            value = fill * float(row.sum())
            border = replace(plain, value=value) if job.options.border == "constant" else plain
            x = self.press(x, kernel, border)
        out[...] = finish(x.astype("f8") + job.options.offset, job.out_dtype)
