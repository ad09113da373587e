"""Dask arrays: the same filter, lazily, chunk by chunk with overlaps, so that Dask's scheduler distributes the work."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dojang.base.errors import ShapeError, UsageError
from dojang.filters.alpha import check_alpha, combine, premultiplied, sums_options, top_of, weighs
from dojang.filters.borders import index_map
from dojang.filters.job import Job, Options, check_dtype
from dojang.filters.kernels.parse import Kernel
from dojang.filters.pictures.images import need
from dojang.filters.prepare import Prepared


def filter_dask(array: Any, kernels: tuple[Kernel, ...], options: Options, bank: bool, alpha: bool = False) -> Any:
    """The lazy result for a Dask array (h, w), (h, w, c) or (n, h, w, c); equal to that of the array in memory.

    The border is made of slices of the array itself, and each chunk is then filtered with the rows and columns that
    follow it (`map_overlap`). A stride keeps every n-th pixel of the full result.
    """
    da = need("dask.array", "a Dask array")
    if np.isnan(array.shape).any():
        raise ShapeError("the Dask array has unknown sizes; call compute_chunk_sizes() first")
    if alpha:
        check_alpha(array.shape)
    results = [(_with_alpha if alpha else _one)(da, array, kernel, options) for kernel in kernels]
    return da.stack(results) if bank else results[0]


def _with_alpha(da: Any, array: Any, kernel: Kernel, options: Options) -> Any:
    """The last channel kept, and the colours weighted by it under a kernel that blurs (`filters.alpha`)."""
    array = array.rechunk({array.ndim - 1: -1})
    plain = _one(da, array, kernel, options)
    job = _job(array, kernel, options)
    if weighs(kernel):
        top = top_of(job.dtype)
        real = premultiplied(np.zeros((1, 1, 2), job.dtype)).dtype
        if job.out_dtype == np.float64:
            real = np.dtype(np.float64)
        weighted = array.map_blocks(premultiplied, real, dtype=real)
        beyond = np.full(array.shape[-1], job.fill * top, real)
        beyond[-1] = top
        sums = _one(da, weighted, kernel, sums_options(options), beyond).rechunk(plain.chunks)
        plain = da.map_blocks(
            _combined,
            plain,
            sums,
            total=float(kernel.parts[0].sum()),
            top=top,
            offset=options.offset,
            dtype=plain.dtype,
        )
    at = 1 if array.ndim == 4 else 0
    (y0, x0), (sy, sx), (oh, ow) = job.origin, job.options.stride, job.out_size
    kept = array[..., -1:][(slice(None),) * at + (slice(y0, None, sy), slice(x0, None, sx))]
    kept = kept[(slice(None),) * at + (slice(oh), slice(ow))].astype(job.out_dtype)
    return da.concatenate([plain[..., :-1], kept], axis=-1).rechunk(plain.chunks)


def _combined(plain: NDArray, sums: NDArray, total: float, top: float, offset: float) -> NDArray:
    """A chunk of the plain result with weighted colours where they are due."""
    result = plain.copy()
    combine(sums, total, top, offset, result)
    return result


def _job(array: Any, kernel: Kernel, options: Options) -> Job:
    shape = array.shape if array.ndim == 4 else (1, *array.shape, *(() if array.ndim == 3 else (1,)))
    return Job.of(kernel, shape, check_dtype(array.dtype), options, anywhere=True)


def _one(da: Any, array: Any, kernel: Kernel, options: Options, fill: NDArray | None = None) -> Any:
    """One kernel's result; `fill` has the values beyond a zero or constant border, by channel."""
    if array.ndim not in (2, 3, 4):
        raise ShapeError(f"a picture has 2, 3 or 4 axes; the Dask array has {array.ndim}")
    ay = 1 if array.ndim == 4 else 0
    job = _job(array, kernel, options)
    if array.ndim > 2 and len(array.chunks[-1]) > 1:
        array = array.rechunk({array.ndim - 1: -1})
    source = array.astype(job.dtype)
    for axis in (0, 1):
        source = _pad(da, source, job, axis, ay + axis, fill)
    inner = Options("valid", (1, 1), options.dilation, 0.0, options.offset, options.dtype)
    reach = [e - 1 for e in job.extent]
    depth = dict.fromkeys(range(array.ndim), 0) | {ay: (0, reach[0]), ay + 1: (0, reach[1])}
    chunks = list(source.chunks)
    for axis, extra in ((ay, reach[0]), (ay + 1, reach[1])):
        chunks[axis] = _shorter(chunks[axis], extra)
    # Chunks of the padded array: those of the result, the last one longer by the kernel's reach.
    longer = list(chunks)
    for axis, extra in ((ay, reach[0]), (ay + 1, reach[1])):
        longer[axis] = (*chunks[axis][:-1], chunks[axis][-1] + extra)
    source = source.rechunk(tuple(longer))
    result = da.map_overlap(
        _press,
        source,
        depth=depth,
        boundary="none",
        trim=False,
        dtype=job.out_dtype,
        chunks=tuple(chunks),
        meta=np.empty((0,) * array.ndim, job.out_dtype),
        allow_rechunk=False,
        kernel=kernel,
        options=inner,
    )
    sy, sx = options.stride
    if (sy, sx) != (1, 1):
        result = result[:, ::sy, ::sx] if ay else result[::sy, ::sx]
    return result


def _press(block: NDArray, kernel: Kernel, options: Options) -> NDArray:
    """A chunk with the rows and columns that follow it, filtered where the kernel fits."""
    shape = block.shape
    stack = block.reshape(shape if block.ndim == 4 else (1, *shape, *(() if block.ndim == 3 else (1,))))
    stack = np.ascontiguousarray(stack)
    ready = Prepared((kernel,), stack.shape, stack.dtype, options, 1, anywhere=True)
    out = np.empty((1, stack.shape[0], *ready.out_size, stack.shape[3]), ready.out_dtype)
    ready.run(stack, out)
    at = 1 if block.ndim == 4 else 0
    return out.reshape(*shape[:at], *ready.out_size, *shape[at + 2 :])


def _pad(da: Any, array: Any, job: Job, which: int, axis: int, fill: NDArray | None) -> Any:
    """The array with the border's pixels before and after along one axis: slices of itself, or the constant."""
    size, before, after = array.shape[axis], job.before[which], job.after[which]
    if not before and not after:
        return array
    places = index_map(size, before, after, job.options.border)
    pieces = []
    for wanted in (places[:before], places[before + size :]):
        if not len(wanted):
            continue
        if wanted[0] < 0:
            shape = list(array.shape)
            shape[axis] = len(wanted)
            beyond = da.full(tuple(shape), job.fill if fill is None else 1, dtype=array.dtype)
            pieces.append(beyond if fill is None else beyond * fill)
        else:
            pieces.append(da.take(array, wanted, axis=axis))
    if before:
        pieces.insert(1, array)
    else:
        pieces.insert(0, array)
    return da.concatenate(pieces, axis=axis)


def _shorter(chunks: tuple[int, ...], by: int) -> tuple[int, ...]:
    """Chunks of the result along an axis: `by` shorter than the padded array, each large enough for its neighbour's
    overlap.
    """
    total = sum(chunks) - by
    if total < 1:
        raise UsageError("the kernel is larger than the Dask array")
    size = max(max(chunks), by, 1)
    full, rest = divmod(total, size)
    return (size,) * full + ((rest,) if rest else ())
