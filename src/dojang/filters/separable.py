"""`sep_filter`: a picture filtered along its rows and down its columns."""

from __future__ import annotations

from inspect import signature
from typing import Any

from dojang.base.errors import ShapeError, UsageError
from dojang.base.wording import did_you_mean
from dojang.filters.filter import filter
from dojang.filters.given import as_numbers
from dojang.filters.kernels.named import Outer
from dojang.filters.kernels.parse import Kernel

_OPTIONS = tuple(signature(filter).parameters)[2:]  # all but image and kernel


def sep_filter(
    image: Any,
    kx: Any,
    ky: Any,
    border: str = "reflect",
    stride: int | tuple[int, int] = 1,
    dilation: int | tuple[int, int] = 1,
    **options: Any,
) -> Any:
    """The picture's correlation with the kernel ky · kxᵀ: `kx` along the rows, `ky` down the columns.

    Both are vectors, each of any length up to 16,384; (n, 1) and (1, n) count as vectors. All else is as in `filter`:
    border, stride, dilation, and the `options` anchor (row, column), value, offset, dtype, mask, nan, layout, out,
    threads, alpha; what it returns and raises, too. The cost grows with the sum of the lengths, not with their product,
    and nothing is compiled for new vectors.

    >>> sep_filter([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]], [1, 2, 1], [0, 1, 0], "zero").tolist()
    [[2.0, 1.0, 0.0], [1.0, 2.0, 1.0], [0.0, 1.0, 2.0]]
    """
    for name in options:
        if name not in _OPTIONS:
            hint = did_you_mean(name, _OPTIONS, f"use {', '.join(_OPTIONS)}")
            raise UsageError(f"sep_filter has no option {name}; {hint}")
    kernel = Kernel("column times row", Outer(_vector(ky, "ky"), _vector(kx, "kx")))
    return filter(image, kernel, border, stride, dilation, **options)


def _vector(given: Any, name: str) -> Any:
    array = as_numbers(given, name)
    if array.ndim == 2 and 1 in array.shape:
        array = array.ravel()
    if array.ndim != 1:
        raise ShapeError(f"{name} must be a vector, got shape {array.shape}")
    return array
