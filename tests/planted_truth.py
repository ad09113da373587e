"""Waste in a network as PyTorch sees it, in float64: what is planted, and whether it is there.

What is wasted is replaced by what the plant says it equals; the outputs must not move. dojang has no part in this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from planted_networks import Net

Array = np.ndarray
Predicted = Callable[[torch.Tensor], torch.Tensor]
"""From a value with its channels last, what the planted channels of it can be replaced by."""

EXACT = 1e-5
"""Outputs that move by no more than this part of their size did not move: weights are float32."""


@dataclass(frozen=True)
class Plant:
    """`channels` of `layer` are wasted as `kind` says. `also`: other names under which a finding may tell it.

    `tap`, `predicted`: at which module's value the channels can be replaced, and by what; None where the structure of
    the weights is the plant, which `check` verifies. `groups`: how many were planted.
    """

    kind: str
    layer: str
    channels: tuple[int, ...] = ()
    also: tuple[str, ...] = ()
    tap: str = ""
    predicted: Predicted | None = None
    check: Callable[[Net, Array], bool] | None = field(default=None, repr=False)
    groups: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        return (self.layer, *self.also)


def values(net: Net, x: Array, names: list[str]) -> dict[str, torch.Tensor]:
    """What these modules give in float64, channels last, all uses of a module one after the other."""
    found: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    modules = dict(net.named_modules())
    hooks = [
        modules[name].register_forward_hook(lambda m, _, y, name=name: found[name].append(channels_last(net, name, y)))
        for name in names
    ]
    try:
        outputs(net, x)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat([v.reshape(-1, *v.shape[1:]) for v in parts]) for name, parts in found.items()}


def outputs(net: Net, x: Array) -> torch.Tensor:
    """All outputs as one matrix (n, numbers), float64."""
    with torch.no_grad():
        found = net(torch.from_numpy(x).double())
    return torch.cat([y.flatten(1) for y in (found if isinstance(found, tuple) else (found,))], 1)


def channels_last(net: Net, name: str, y: torch.Tensor) -> torch.Tensor:
    """Maps have channels on axis 1, tokens on the last."""
    return y.movedim(_axis(net, name), -1)


def _axis(net: Net, name: str) -> int:
    return -1 if net.kind == "tokens" and name != "x" and not name.startswith("stem") else 1


def replaced(net: Net, x: Array, tap: str, channels: tuple[int, ...], predicted: Predicted) -> torch.Tensor:
    """The outputs with these channels of a module's value (or of the input, tap "x") replaced."""

    def change(y: torch.Tensor) -> torch.Tensor:
        last = channels_last(net, tap, y).clone()
        last[..., list(channels)] = predicted(last)
        return last.movedim(-1, _axis(net, tap))

    if tap == "x":
        return outputs(net, change(torch.from_numpy(x).double()).numpy())
    module = dict(net.named_modules())[tap]
    hook = module.register_forward_hook(lambda m, _, y: change(y))
    try:
        return outputs(net, x)
    finally:
        hook.remove()


def moved(net: Net, x: Array, tap: str, channels: tuple[int, ...], predicted: Predicted) -> float:
    """How far the outputs move when the channels are replaced, relative to their deviation."""
    before, after = outputs(net, x), replaced(net, x, tap, channels, predicted)
    return float((after - before).abs().max() / before.std().clamp_min(1e-30))


def holds(net: Net, x: Array, planted: Plant) -> bool:
    """Whether the plant is the truth about this network on these samples."""
    if planted.check is not None and not planted.check(net, x):
        return False
    if planted.predicted is None:
        return True
    return moved(net, x, planted.tap, planted.channels, planted.predicted) < EXACT


def share_of_parameters(net: Net, layer: str) -> float:
    own = sum(p.numel() for p in dict(net.named_modules())[layer].parameters())
    return own / sum(p.numel() for p in net.parameters())
