"""The adjoint of a filter: what gradients with respect to the result become with respect to the picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dojang.filters.arrays import filter_array
from dojang.filters.borders import index_map
from dojang.filters.job import Job, Options
from dojang.filters.kernels.named import Outer
from dojang.filters.kernels.parse import Kernel


def adjoint(job: Job, gradients: NDArray, threads: int | None = None) -> NDArray:
    """(n, h, w, c) of the transposed filter from (n, oh, ow, c): Σ ⟨filter(x), g⟩ = Σ ⟨x, adjoint(g)⟩ without offset
    and constants.

    Each gradient is spread over its window by the kernel turned by half a turn; what falls on the border goes to the
    pixels of which the border is made.
    """
    (sy, sx), (ey, ex), (oh, ow) = job.options.stride, job.extent, job.out_size
    n, c = gradients.shape[0], gradients.shape[3]
    spread = np.zeros((n, (oh - 1) * sy + ey, (ow - 1) * sx + ex, c), gradients.dtype)
    spread[:, : (oh - 1) * sy + 1 : sy, : (ow - 1) * sx + 1 : sx] = gradients
    options = Options("zero", (1, 1), job.options.dilation)
    (window,) = filter_array(spread, (_turned(job.kernel),), options, threads=threads)
    for axis, size, before, after in (
        (1, job.height, job.before[0], job.after[0]),
        (2, job.width, job.before[1], job.after[1]),
    ):
        window = _folded(window, axis, index_map(size, before, after, job.options.border), size, before)
    return window


def _turned(kernel: Kernel) -> Kernel:
    """The kernel turned by half a turn, its last tap on the pixel."""
    kh, kw = kernel.size
    parts = (
        Outer(kernel.pair[0][::-1], kernel.pair[1][::-1]) if kernel.pair else tuple(p[::-1, ::-1] for p in kernel.parts)
    )
    return replace(kernel, parts=parts, anchor=(kh - 1, kw - 1))


def _folded(padded: NDArray, axis: int, places: NDArray[np.int64], size: int, before: int) -> NDArray:
    """Padded positions added to those that they were copied from; constants are dropped."""
    lines = np.moveaxis(padded, axis, 0)
    count = len(lines)  # with a stride the last padded positions may be in no window
    result = np.zeros((size, *lines.shape[1:]), padded.dtype)
    inside = lines[before : before + size]
    result[: len(inside)] = inside
    for p in (*range(min(before, count)), *range(before + size, count)):
        if places[p] >= 0:
            result[places[p]] += lines[p]
    return np.moveaxis(result, 0, axis)
