"""What a function of an operator is given: inputs by place, attributes, and the version of the operator set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dojang.base.errors import DataError, ShapeError

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class OperatorCall:
    """One use of an operator. `inputs` are arrays by place, None where one is left out; `dtype` is the type of the
    output that is asked for.
    """

    kind: str
    inputs: Sequence[Array | None]
    attrs: Mapping[str, Any]
    opset: int
    dtype: str = "float32"

    def get(self, place: int) -> Array | None:
        """The input at a place, None if it is left out."""
        return self.inputs[place] if place < len(self.inputs) else None

    def __getitem__(self, place: int) -> Array:
        """The input at a place; it must be there."""
        found = self.get(place)
        if found is None:
            raise DataError(f"{self.kind} lacks its input {place + 1}")
        return found

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attrs.get(name, default)

    def ints(self, place: int, name: str = "") -> list[int] | None:
        """Whole numbers from an attribute, as older versions have it, or from an input; None if there are neither."""
        if name and name in self.attrs:
            value = self.attrs[name]
            return [int(v) for v in value] if isinstance(value, list) else [int(value)]
        given = self.get(place)
        return None if given is None else [int(v) for v in np.ravel(given)]

    def present(self) -> list[Array]:
        """All inputs that are given."""
        return [x for x in self.inputs if x is not None]


Function = Callable[[OperatorCall], Sequence[Array]]


def axis_in(axis: int, rank: int) -> int:
    """An axis counted from the front; raises `ShapeError` if there is no such axis."""
    if not -rank <= axis < rank:
        raise ShapeError(f"axis {axis} of a tensor of {rank} axes")
    return axis % rank
