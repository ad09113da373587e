"""Numbers that a user gives, as NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dojang.base.errors import ShapeError
from dojang.base.showing import first_line


def as_numbers(given: Any, what: str) -> NDArray:
    """The array of what was given. Raises `ShapeError` for lists of unequal lengths, and for tensors that cannot be
    arrays, such as sparse ones or those with gradients; `what` begins the message.

    >>> as_numbers([[1, 2], [3, 4]], "kx").shape
    (2, 2)
    """
    try:
        return np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:  # PyTorch raises all three
        raise ShapeError(f"{what}: not an array of numbers ({first_line(error)})") from None


def as_taps(array: NDArray, what: str) -> NDArray[np.float64]:
    """A copy of a kernel's taps as float64. Raises `ShapeError` for complex numbers and for what is no number."""
    if array.dtype.kind == "c":
        raise ShapeError(f"{what}: its taps are complex; they must be real numbers")
    try:
        return np.array(array, np.float64, order="C")
    except (TypeError, ValueError) as error:
        raise ShapeError(f"{what}: not an array of numbers ({first_line(error)})") from None
