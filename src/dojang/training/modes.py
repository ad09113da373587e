"""Training mode and evaluation mode of a module and of every part of it, which may differ: frozen batch norms, say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode; afterwards each of its parts is in the mode that it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def set_modes_like(module: nn.Module, other: nn.Module) -> None:
    """Puts every part of a module into the mode of the part of another one that has its name; others into that of the
    whole.
    """
    modes = {name: part.training for name, part in other.named_modules(remove_duplicate=False)}
    for name, part in module.named_modules(remove_duplicate=False):
        part.training = modes.get(name, other.training)
