"""A module whose forward is a function, for tests of what a forward may do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


class Forward(nn.Module):
    """`forward(module, x)` is run on calls; `parts` become attributes of the module."""

    def __init__(self, forward: Callable[[Any, Any], Any], **parts: Any) -> None:
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Any) -> Any:
        return self.run(self, x)
