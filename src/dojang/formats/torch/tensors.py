"""Tensors that go out: those in what a module's forward returned (a tensor, or nested tuples, mappings and dataclasses
of tensors), and an array made a tensor like the one that was given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, cast

import numpy as np
import torch


def tensor_like(array: np.ndarray, given: torch.Tensor) -> torch.Tensor:
    """A copy of an array on the device of a given tensor, in its precision if both hold real numbers, else in its own.

    >>> tensor_like(np.zeros(2, "f4"), torch.zeros(1, dtype=torch.float64)).dtype
    torch.float64
    >>> tensor_like(np.zeros(2, "i8"), torch.zeros(1)).dtype
    torch.int64
    """
    own = torch.tensor(array)
    both_real = own.is_floating_point() and given.is_floating_point()
    return own.to(given.device, given.dtype if both_real else own.dtype)


def tensors_in(result: Any) -> list[torch.Tensor]:
    """The tensors in what forward returned, in order."""
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, Mapping):
        return [o for v in cast(Mapping[Any, Any], result).values() for o in tensors_in(v)]
    if isinstance(result, list | tuple):
        return [o for v in cast(Sequence[Any], result) for o in tensors_in(v)]
    if is_dataclass(result) and not isinstance(result, type):
        return [o for f in fields(result) for o in tensors_in(getattr(result, f.name))]
    return []


def keys_in(result: Any) -> list[str]:
    """A name for each tensor of `tensors_in`: the keys, fields and places that lead to it, joined by points.

    Empty where no dictionary and no dataclass names any of them, as in a plain tuple.
    """
    paths = _paths(result)
    named = any(isinstance(step, str) for path in paths for step in path)
    return [".".join(map(str, path)) for path in paths] if named else []


def _paths(result: Any) -> list[tuple[str | int, ...]]:
    if isinstance(result, torch.Tensor):
        return [()]
    parts: list[tuple[str | int, Any]] = []
    if isinstance(result, Mapping):
        parts = [(str(key), value) for key, value in cast(Mapping[Any, Any], result).items()]
    elif isinstance(result, list | tuple):
        fields_of = getattr(result, "_fields", None) or range(len(result))  # a named tuple has names, too
        parts = list(zip(fields_of, cast(Sequence[Any], result), strict=True))
    elif is_dataclass(result) and not isinstance(result, type):
        parts = [(f.name, getattr(result, f.name)) for f in fields(result)]
    return [(step, *path) for step, value in parts for path in _paths(value)]
