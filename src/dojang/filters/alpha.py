"""Alpha: blurs weigh the colours of a picture by it, so that colours under transparent pixels do not show.

out = offset + S · Σ w·α·c / Σ w·α, with S = Σ w: the mean of the visible colours, times what the kernel makes of a flat
area. Alpha itself is kept. Where all pixels of a window are opaque this is the plain result, which stands there; where
all are transparent, the stored colours are filtered as they are. Only kernels that blur do this (`weighs`): for kernels
with negative taps Σ w·α may be 0. Pixels beyond a zero or constant border count as opaque, so that an opaque picture
gives the same with and without its alpha. Source: Porter and Duff, Compositing Digital Images, 1984 (premultiplied
colours).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dojang.arith.conv import by
from dojang.base.errors import ShapeError
from dojang.filters.borders import index_map
from dojang.filters.job import Job, Options
from dojang.filters.kernels.parse import Kernel
from dojang.filters.prepare import Prepared
from dojang.filters.run import part_rows

BLOCK_BYTES = 1 << 22  # of weighted rows in memory at a time
OPAQUE = {"float32": 1e-5, "float64": 1e-9}
"""A window counts as opaque if Σ w·α lies no further below S times the top; larger than rounding, smaller than 1/64 of
a level of 8 bits (float32) or of 16 (float64).
"""


def weighs(kernel: Kernel) -> bool:
    """Whether colours are weighted by alpha under the kernel: it has two taps or more, and none below zero."""
    taps = kernel.parts[0]
    return kernel.combine == "linear" and bool((taps >= 0).all()) and int(np.count_nonzero(taps)) > 1


def check_alpha(shape: tuple[int, ...]) -> None:
    """Raises unless the last axis can be colours and alpha."""
    if len(shape) < 3 or shape[-1] < 2:
        raise ShapeError(f"alpha=True needs channels, the last of which is alpha; shape {by(shape)} has none")


def top_of(dtype: np.dtype) -> float:
    """The alpha of an opaque pixel: the largest integer of the type, or 1 for floats."""
    return float(np.iinfo(dtype).max) if dtype.kind == "u" else 1.0


def weigh(job: Job, picture: NDArray, result: NDArray, threads: int | None = None) -> None:
    """Puts the weighted colours into the plain `result` (oh, ow, c) of `picture` (h, w, c); alpha is last."""
    if not weighs(job.kernel) or job.channels < 2:
        return
    clear = (picture[..., -1] != top_of(job.dtype)).any(axis=1)
    if not clear.any():
        return
    rows = max(4 * job.extent[0], BLOCK_BYTES // (job.width * job.channels * 16))
    for y0 in range(0, len(result), rows):
        y1 = min(y0 + rows, len(result))
        if clear[part_rows(job, y0, y1)[0]].any():
            weigh_rows(job, lambda needed: picture[needed], y0, y1, result[y0:y1], threads)


def weigh_rows(
    job: Job,
    rows_of: Callable[[NDArray[np.int64]], NDArray],
    y0: int,
    y1: int,
    result: NDArray,
    threads: int | None = None,
) -> None:
    """The same for the result rows `y0` to `y1`; `rows_of` gives rows of the picture by number. The values of a row do
    not depend on the rows that are computed with it.
    """
    top = top_of(job.dtype)
    needed, ys = part_rows(job, y0, y1)
    source = rows_of(needed)
    if (source[..., -1] == top).all():
        return
    real = real_of(job.dtype, job.out_dtype)
    left, right = job.before[1], job.after[1]
    xs = index_map(job.width, left, right, job.options.border)
    beyond = np.full(job.channels, job.fill * top, real)
    beyond[-1] = top
    wide = np.empty((len(source), len(xs), job.channels), real)
    premultiplied(source, real, wide[:, left : left + job.width])
    for place in (*range(left), *range(left + job.width, len(xs))):
        wide[:, place] = beyond if xs[place] < 0 else wide[:, left + xs[place]]
    padded = wide if len(ys) == len(wide) and (ys == np.arange(len(ys))).all() else wide[ys]
    padded[ys < 0] = beyond
    inner = replace(sums_options(job.options), border="valid")
    ready = _prepared(job.kernel, padded.shape, real, inner, threads)
    sums = np.empty((1, 1, *ready.out_size, job.channels), real)
    ready.run(np.ascontiguousarray(padded)[None], sums)
    total = float(job.kernel.parts[0].sum())
    combine(sums[0, 0, : y1 - y0, : result.shape[1]], total, top, job.options.offset, result)


@lru_cache(maxsize=8)
def _prepared(
    kernel: Kernel, shape: tuple[int, ...], real: np.dtype, options: Options, threads: int | None
) -> Prepared:
    return Prepared((kernel,), (1, *shape), real, options, threads, anywhere=True)


def combine(sums: NDArray, total: float, top: float, offset: float, result: NDArray) -> None:
    """Puts offset + S · Σ w·α·c / Σ w·α into `result` where a window is neither opaque nor transparent."""
    channels = sums.shape[-1]
    below = sums[..., -1]
    seen = (below > 0) & (below < total * top * (1 - OPAQUE[sums.dtype.name]))
    with np.errstate(all="ignore"):
        ratio = np.divide(sums.dtype.type(total), below, out=np.zeros(below.shape, sums.dtype), where=seen)
        colours = np.repeat(ratio[..., None], channels, axis=-1)  # whole arrays: a broadcast over channels is slower
        colours *= sums
        colours += sums.dtype.type(offset)
    if result.dtype.kind == "u":
        np.rint(colours, out=colours)
        np.clip(colours, 0, np.iinfo(result.dtype).max, out=colours)
    where = np.repeat(seen[..., None], channels, axis=-1)
    where[..., -1] = False
    np.copyto(result, colours, where=where, casting="unsafe")


def premultiplied(block: NDArray, real: np.dtype | None = None, out: NDArray | None = None) -> NDArray:
    """Colours times alpha, and alpha, as floats: what `combine` needs sums of. A colour under alpha 0 gives 0, were it
    infinite.
    """
    real = real or real_of(block.dtype, block.dtype)
    weighted = np.empty(block.shape, real) if out is None else out
    factor = np.repeat(block[..., -1:].astype(real), block.shape[-1], axis=-1)
    factor[..., -1] = 1
    with np.errstate(invalid="ignore", over="ignore"):
        np.multiply(block, factor, out=weighted, dtype=real)
    if block.dtype.kind == "f":
        np.copyto(weighted, 0, where=factor == 0)
    return weighted


def real_of(dtype: np.dtype, out_dtype: np.dtype) -> np.dtype:
    """The type of the sums: float64 for pictures of 16 bits and for float64."""
    return np.dtype("float64" if {dtype.name, out_dtype.name} & {"uint16", "float64"} else "float32")


def sums_options(options: Options) -> Options:
    """The options for sums of weighted colours: no offset, floats as they are."""
    return replace(options, offset=0.0, dtype=None, value=0.0)
