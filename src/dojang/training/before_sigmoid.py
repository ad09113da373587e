"""Training a network that ends in sigmoid: the loss of several classes to a sample takes the scores before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

NEAREST = 1e-6
"""Probabilities are held at least so far from 0 and 1, where a score would be infinite; beyond it there is no slope."""


@contextmanager
def giving_scores(*modules: nn.Module) -> Iterator[None]:
    """Within it modules that end in sigmoid give log(p / (1 − p)) of each probability p: the score before it."""
    with ExitStack() as undo:
        for module in modules:
            undo.callback(module.register_forward_hook(_scores).remove)
        yield


def _scores(module: nn.Module, args: Any, output: Any) -> Any:
    return torch.logit(output.float(), NEAREST) if isinstance(output, Tensor) else output
