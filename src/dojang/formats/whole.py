"""Arrays of real numbers as the whole numbers that a precision keeps them as, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dojang.arith.precision import Precision, fits
from dojang.base.errors import DataError

if TYPE_CHECKING:
    import numpy as np

HELD = {"int4": "int8", "uint4": "uint8", "int2": "int8", "uint2": "uint8"}
"""Types that NumPy does not have, and those whose arrays hold their values."""


def _spread(values: tuple[Any, ...], dtype: str, precision: Precision, rank: int) -> np.ndarray:
    """Scales or zero points, shaped to go with an array."""
    import numpy as np

    wide = [1] * rank
    if precision.axis is not None:
        wide[precision.axis] = -1
    return np.asarray(values, dtype).reshape(wide if precision.axis is not None else ())


def real_of(whole: np.ndarray, precision: Precision) -> np.ndarray:
    """scale · (whole − zero) in float32, as DequantizeLinear of ONNX. Raises `DataError` for scales that do not fit."""
    import numpy as np

    if not fits(precision, whole.shape):
        raise DataError(f"{len(precision.scale)} scales on axis {precision.axis} do not fit {whole.shape}")
    # int32 less a zero point needs more than float32 before it is rounded once
    wide = whole.astype(np.float64 if whole.dtype.itemsize > 2 else np.float32)
    centred = wide - _spread(precision.zero, "f4", precision, whole.ndim)
    return np.asarray(centred.astype(np.float32) * _spread(precision.scale, "f4", precision, whole.ndim), np.float32)


def whole_of(array: np.ndarray, precision: Precision) -> np.ndarray | None:
    """The whole numbers that an array of real ones stands for, in the type that keeps them; None where some number is
    not scale · (q − zero) in float32 for a q of the type.
    """
    import numpy as np

    if not precision.whole or not fits(precision, array.shape):
        return None
    scale, zero = (_spread(values, "f8", precision, array.ndim) for values in (precision.scale, precision.zero))
    low, high = precision.limits
    with np.errstate(all="ignore"):
        found = np.rint(np.asarray(array, np.float64) / scale) + zero
    if not np.all((found >= low) & (found <= high)):  # NaN is not
        return None
    whole = found.astype(HELD.get(precision.kind, precision.kind))
    return whole if np.array_equal(real_of(whole, precision), np.asarray(array, np.float32)) else None
