"""Filtering in NumPy, tap by tap in float64: the slow reference against which the fast methods are tested."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dojang.filters.borders import index_map
from dojang.filters.job import Job

ROW_BYTES = 1 << 25  # float64 scratch per band of rows, small compared with the picture


def run(job: Job, image: NDArray, out: NDArray) -> None:
    """Writes into `out` (oh, ow, c) the response to `image` (h, w, c)."""
    oh, _ = job.out_size
    per_row = 8 * (job.width + sum(job.before) + sum(job.after)) * job.channels * 3
    step = max(1, ROW_BYTES // per_row)
    for y0 in range(0, oh, step):
        y1 = min(y0 + step, oh)
        out[y0:y1] = finish(respond(job, image, y0, y1), job.out_dtype)


def respond(job: Job, image: NDArray, y0: int, y1: int) -> NDArray[np.float64]:
    """Rows y0 to y1 of the response in float64, before rounding, offset included."""
    (sy, sx), (dy, dx), (_, ow) = job.options.stride, job.options.dilation, job.out_size
    ys = index_map(job.height, job.before[0], job.after[0], job.options.border)[y0 * sy : (y1 - 1) * sy + job.extent[0]]
    xs = index_map(job.width, job.before[1], job.after[1], job.options.border)
    rows = image[ys].astype(np.float64)
    source = rows[:, xs]
    source[ys < 0] = job.fill
    source[:, xs < 0] = job.fill
    parts = []
    for taps in job.kernel.parts:
        total = np.zeros((y1 - y0, ow, job.channels))
        for i, j in np.argwhere(taps):
            window = source[i * dy :: sy, j * dx :: sx]
            total += taps[i, j] * window[: y1 - y0, :ow]
        parts.append(total)
    response = parts[0] if job.kernel.combine == "linear" else np.hypot(*parts)
    return response + job.options.offset


def finish(response: NDArray[np.float64], dtype: np.dtype) -> NDArray:
    """The response as `dtype`: integers rounded to nearest (ties to even) and saturated."""
    if dtype.kind == "f":
        return response.astype(dtype)
    top = np.iinfo(dtype).max
    return np.rint(response).clip(0, top).astype(dtype)
