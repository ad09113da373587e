"""A module that takes mappings, tuples or named arguments as one of plain tensors, so that it can be followed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn


class Adapted(nn.Module):
    """Another module with the tensors of its arguments as positional arguments, in order.

    The layers and arrays are those of the module itself, under the same names. What is no tensor, or has but one number
    for each sample, is passed as it was in the batch that the adapter was made for.
    """

    def __init__(self, module: nn.Module, args: Sequence[Any], named: Mapping[str, Any]) -> None:
        """Takes the arguments of one call as the pattern of all."""
        super().__init__()
        self.__dict__["module"] = module
        for store in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            self.__dict__[store] = module.__dict__[store]
        self.__dict__["pattern"] = (_emptied(tuple(args)), _emptied(dict(named)))
        self.training = module.training

    def forward(self, *given: Tensor) -> Any:
        """What the module answers."""
        rest = list(given)
        args, named = (_filled(part, rest) for part in self.__dict__["pattern"])
        return self.__dict__["module"](*args, **named)

    def train(self, mode: bool = True) -> Adapted:
        """The mode of the module too."""
        super().train(mode)
        self.__dict__["module"].training = mode
        return self

    @property
    def whole(self) -> nn.Module:
        """The module itself."""
        found: nn.Module = self.__dict__["module"]
        return found


class TensorPlace:
    """Where a tensor goes in the arguments of a call."""


def _emptied(value: Any) -> Any:
    if isinstance(value, Tensor) and value.ndim > 1:
        return TensorPlace()
    if isinstance(value, Mapping):
        return {k: _emptied(v) for k, v in value.items()}
    return type(value)(_emptied(v) for v in value) if type(value) in (list, tuple) else value


def _filled(value: Any, rest: list[Tensor]) -> Any:
    if isinstance(value, TensorPlace):
        return rest.pop(0)
    if isinstance(value, dict):
        return {k: _filled(v, rest) for k, v in value.items()}
    return type(value)(_filled(v, rest) for v in value) if type(value) in (list, tuple) else value
