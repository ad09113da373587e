"""The tensors in what a module's forward returned: a tensor, or nested tuples, mappings and dataclasses of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, cast

import torch


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
