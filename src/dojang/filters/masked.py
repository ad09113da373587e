"""Filtering around pixels that are missing: normalised convolution.

A result is Σ tap · pixel over the pixels that count, divided by Σ tap over the same pixels and multiplied by Σ tap over
all: the mean with the weights of the kernel, at the kernel's own scale (Knutsson and Westin, "Normalized and
differential convolution", CVPR 1993; for a kernel that adds up to 1 it is what astropy's `convolve` does with
`nan_treatment="interpolate"`). Pixels outside of the picture count as `border` makes them: as the pixels of which they
are copies, or as ones of a known value (zero, constant).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dojang.arith.conv import by
from dojang.base.errors import ShapeError, UsageError
from dojang.filters.arrays import filter_array
from dojang.filters.given import as_numbers
from dojang.filters.job import Options, check_dtype, check_offset, result_dtype
from dojang.filters.kernels.parse import Kernel
from dojang.filters.plain import finish

LEAST_WEIGHT = 1e-6  # of Σ |tap|; what is left of a kernel below that is rounding


def filter_masked(
    picture: NDArray,
    kernels: tuple[Kernel, ...],
    options: Options,
    mask: Any,
    nan: str,
    threads: int | None,
) -> NDArray:
    """(kernels, *picture's shape): normalised convolutions without the pixels where `mask` is True, and with `nan`
    "ignore" without those that are NaN.

    A result none of whose pixels count is NaN; in an integer picture it is 0.

    Raises `ShapeError` for a mask that does not fit, `UsageError` for kernels that have no weights: two parts, or taps
    that add up to 0.
    """
    dtype = check_dtype(picture.dtype)
    total = [_total(kernel) for kernel in kernels]
    missing = None if mask is None else _checked(mask, picture.shape)
    if nan == "ignore" and dtype.kind == "f":
        holes = np.isnan(picture)
        missing = holes if missing is None else missing | holes
    if missing is None:
        return filter_array(picture, kernels, options, threads=threads)
    out_dtype = result_dtype(dtype, options.dtype)
    check_offset(options.offset, out_dtype)
    work = np.dtype("f4") if {dtype, out_dtype} <= {np.dtype("u1"), np.dtype("f4")} else np.dtype("f8")
    plain = replace(options, offset=0.0, dtype=None)
    values = np.where(missing, work.type(0), picture).astype(work, copy=False)
    above = filter_array(values, kernels, plain, threads=threads)
    known = options.border in ("zero", "constant")
    weights = replace(plain, border="constant", value=1.0) if known else plain
    below = filter_array((~missing).astype(work), kernels, weights, threads=threads)
    if below.ndim < above.ndim:
        below = below[..., None]
    results = np.empty(above.shape, out_dtype)
    for k, kernel in enumerate(kernels):
        counts = np.abs(below[k]) > LEAST_WEIGHT * kernel.weight
        with np.errstate(divide="ignore", invalid="ignore"):
            response = above[k].astype("f8") / below[k] * total[k] + options.offset
        response = np.where(counts, response, np.nan if out_dtype.kind == "f" else 0.0)
        results[k] = finish(response, out_dtype)
    return results


def _total(kernel: Kernel) -> float:
    if kernel.combine != "linear":
        raise UsageError(f"kernel {kernel.name} joins two responses; with mask= or nan= give a kernel of one matrix")
    pair = kernel.pair
    total = float(pair[0].sum() * pair[1].sum() if pair else kernel.parts[0].sum())
    if abs(total) <= LEAST_WEIGHT * kernel.weight:
        raise UsageError(
            f"kernel {kernel.name}: its taps add up to {total:.3g}, so they are no weights for the pixels that count; "
            "with mask= or nan= use a kernel that blurs"
        )
    return total


def _checked(mask: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The mask as an array that goes with the picture: of its shape, or without the axis of the channels."""
    array = as_numbers(mask, "mask=")
    if array.dtype.kind not in "bui":
        raise UsageError(f"mask= must be of truth values or whole numbers, got {array.dtype}; True leaves a pixel out")
    allowed = [shape] if len(shape) == 2 else [shape, shape[:-1]]
    if array.shape not in allowed:
        raise ShapeError(f"mask= is {by(array.shape)}; a picture of {by(shape)} needs {' or '.join(map(by, allowed))}")
    whole = array.astype(bool)
    return whole if whole.ndim == len(shape) else np.broadcast_to(whole[..., None], shape)
