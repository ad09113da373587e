"""A captured FX graph as `torch.compile` hands it over: which arguments are weights, which numbers are the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn


@dataclass(frozen=True, slots=True, eq=False)
class Captured:
    """What following a captured graph needs to know of it; nothing here changes when it is run.

    `holders` are its placeholders, one for each argument; `static` says of each whether it is a weight. `letters` are
    the places of those arguments that are the batch as a plain number.
    """

    module: fx.GraphModule
    holders: tuple[fx.Node, ...]
    static: tuple[bool, ...]
    letters: frozenset[int]

    @property
    def numbers(self) -> dict[int, str]:
        """The places of arguments that are a size as a plain number, and its symbol; the batch aside."""
        letters = _batch_letters(self.holders, self.static)
        said = {k: n.meta.get("example_value") for k, n in enumerate(self.holders)}
        return {k: str(v) for k, v in said.items() if isinstance(v, torch.SymInt) and str(v) not in letters}

    @property
    def open_input(self) -> tuple[int, tuple[int | str, ...]] | None:
        """The place of the only data, and its sizes without the batch, symbols as names; None where it has none."""
        data = [(k, _captured_shape(n)) for k, (n, held) in enumerate(zip(self.holders, self.static, strict=True))
                if not held and len(_captured_shape(n)) > 1]  # fmt: skip
        if len(data) != 1:
            return None
        place, shape = data[0]
        sizes = tuple(str(s) if isinstance(s, torch.SymInt) else int(s) for s in shape[1:])
        plain = all(isinstance(s, int) or s.isidentifier() for s in sizes) and str(shape[0]) not in sizes
        return (place, sizes) if plain and any(isinstance(s, str) for s in sizes) else None

    @classmethod
    def of(cls, module: fx.GraphModule) -> Captured:
        """The record of a captured graph, or of a part that was cut out of one."""
        holders = tuple(n for n in module.graph.nodes if n.op == "placeholder")
        static = tuple(is_static(n) for n in holders)
        letters = _batch_letters(holders, static)
        at = frozenset(k for k, n in enumerate(holders) if str(n.meta.get("example_value")) in letters)
        return cls(module, holders, static, at)


def is_number(value: Any) -> bool:
    """Whether an argument is a Python float, which PyTorch may hand over as a tensor without axes."""
    return isinstance(value, torch.Tensor) and value.dim() == 0 and value.dtype == torch.float64


def is_static(node: fx.Node) -> bool:
    """Whether a placeholder is a parameter or buffer of a module."""
    held = node.meta.get("tensor_dict") or {}
    return "_dynamo_static_input_type" in held or issubclass(node.type or object, nn.Parameter)


def _captured_shape(node: fx.Node) -> Sequence[Any]:
    """The shape of a placeholder as it was captured, with symbols."""
    value = node.meta.get("example_value")
    return value.shape if isinstance(value, torch.Tensor) else ()


def _batch_letters(holders: Sequence[fx.Node], static: Sequence[bool]) -> set[str]:
    """The symbols that stand for the batch in a captured graph: the first sizes of its data."""
    return {str(shape[0]) for node, held in zip(holders, static, strict=True)
            if not held and (shape := _captured_shape(node))}  # fmt: skip
