"""What a function of an operator of ONNX is given: inputs by place, attributes, and the version of the operator set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from dojang.base.errors import DataError

Value = TypeVar("Value")


@dataclass(frozen=True)  # a generic class with slots cannot be made by the name of one of its forms
class OperatorCall(Generic[Value]):
    """One use of an operator. `inputs` are NumPy arrays or PyTorch tensors by place, None where one is left out;
    `dtype` is the type of the output that is asked for.
    """

    kind: str
    inputs: Sequence[Value | None]
    attrs: Mapping[str, Any]
    opset: int
    dtype: str = "float32"

    def get(self, place: int) -> Value | None:
        """The input at a place, None if it is left out."""
        return self.inputs[place] if place < len(self.inputs) else None

    def __getitem__(self, place: int) -> Value:
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
            said: Any = self.attrs[name]
            values: Sequence[Any] = cast(list[Any], said) if isinstance(said, list) else [said]
        elif (given := self.get(place)) is None:
            return None
        else:
            array: Any = given
            values = array.reshape(-1).tolist()
        return [int(v) for v in values]

    def present(self) -> list[Value]:
        """All inputs that are given."""
        return [x for x in self.inputs if x is not None]
