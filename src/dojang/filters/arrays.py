"""Kernels applied to a NumPy array, whose rows or planes may lie at any distance: checks, memory for the result."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dojang.arith.conv import by
from dojang.base.errors import ShapeError, UsageError
from dojang.filters.alpha import weigh
from dojang.filters.job import Options, as_stack, like_image
from dojang.filters.kernels.parse import Kernel
from dojang.filters.memory import empty
from dojang.filters.prepare import Prepared, prepare


def filter_array(
    picture: NDArray,
    kernels: tuple[Kernel, ...],
    options: Options,
    out: NDArray | None = None,
    threads: int | None = None,
    alpha: bool = False,
    one: bool = False,
) -> NDArray:
    """(kernels, *picture's shape): every kernel's result. With `alpha` the last channel is copied, and weighs the
    colours under kernels that blur.

    With `one`, error messages describe the result of the only kernel.
    """
    return filtered(picture, kernels, options, out, threads, alpha, one)[0]


def filtered(
    picture: NDArray,
    kernels: tuple[Kernel, ...],
    options: Options,
    out: NDArray | None = None,
    threads: int | None = None,
    alpha: bool = False,
    one: bool = False,
) -> tuple[NDArray, Prepared]:
    """`filter_array`, and what was prepared for it."""
    shape = picture.shape
    stack = as_stack(picture)
    if out is None and not alpha and (planes := _planes(stack)) is not None:
        ready = prepare(kernels, planes.shape, picture.dtype, options, threads)
        n, c = stack.shape[0], stack.shape[3]
        results = empty((len(kernels), n, c, *ready.out_size), ready.out_dtype)
        ready.run(planes, results.reshape(len(kernels), n * c, *ready.out_size, 1))
        last = np.moveaxis(results, 2, -1)
        return last if picture.ndim == 4 else last[:, 0], ready
    ready = prepare(kernels, stack.shape, picture.dtype, options, threads)
    whole = (len(kernels), *like_image(shape, ready.out_size))
    result = target_for(out, whole, ready.out_dtype, picture, int(one))
    if picture.dtype != ready.dtype or not _whole_rows(stack):
        stack = np.ascontiguousarray(stack, ready.dtype)
    results = result.reshape(len(kernels), stack.shape[0], *ready.out_size, stack.shape[3])
    ready.run(stack, results, alpha)
    if alpha:
        for job, one_stack in zip(ready.jobs, results, strict=True):
            for one_picture, one_result in zip(stack, one_stack, strict=True):
                weigh(job, one_picture, one_result, threads)
    if out is not None and result is not out:
        out[...] = result
    return result, ready


def _whole_rows(stack: NDArray) -> bool:
    """Whether each row of a stack (n, h, w, c) lies in one piece; rows and pictures may lie at any distance."""
    if stack.flags.c_contiguous:
        return True
    _, _, w, c = stack.shape
    _, _, across, between = stack.strides
    size = stack.itemsize
    return stack.flags.aligned and (c == 1 or between == size) and (w == 1 or across == c * size)


def _planes(stack: NDArray) -> NDArray | None:
    """A stack whose channels lie apart, each in whole rows, as a stack (n · c, h, w, 1) of planes, without a copy;
    None for others.
    """
    n, h, w, c = stack.shape
    picture, row, across, plane = stack.strides
    if c == 1 or stack.flags.c_contiguous or across != stack.itemsize or plane < w * across or not stack.dtype.isnative:
        return None
    if not stack.flags.aligned or not (n == 1 or picture == c * plane):
        return None
    return np.lib.stride_tricks.as_strided(stack, (n * c, h, w, 1), (plane, row, across, across), writeable=False)


def target_for(out: NDArray | None, shape: tuple[int, ...], dtype: np.dtype, picture: NDArray, skip: int) -> NDArray:
    """The array to write to: `out` if it can be written directly and does not alias the picture, or a new one.

    Errors leave out the first `skip` axes, which the user did not give.
    """
    if out is None:
        return empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype:
        raise ShapeError(f"out= is {by(out.shape[skip:])} {out.dtype}; the result is {by(shape[skip:])} {dtype}")
    if not out.flags.writeable:
        raise UsageError("out= is read-only; give a writable array")
    return out if takes(out, shape, dtype, picture) else empty(shape, dtype)


def takes(out: Any, shape: tuple[int, ...], dtype: np.dtype, picture: NDArray) -> bool:
    """Whether the result can be written directly to `out`."""
    if type(out) is not np.ndarray or out.shape != shape or out.dtype != dtype:
        return False
    flags = out.flags
    return flags.c_contiguous and flags.aligned and flags.writeable and not np.may_share_memory(out, picture)
