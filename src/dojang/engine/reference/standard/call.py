"""The functions of operators of ONNX in NumPy: what they are given, and what they give."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dojang.arith import operator_call
from dojang.base.errors import ShapeError

Array = np.ndarray


OperatorCall = operator_call.OperatorCall[Array]
Function = Callable[[OperatorCall], Sequence[Array]]


def axis_in(axis: int, rank: int) -> int:
    """An axis counted from the front; raises `ShapeError` if there is no such axis."""
    if not -rank <= axis < rank:
        raise ShapeError(f"axis {axis} of a tensor of {rank} axes")
    return axis % rank
