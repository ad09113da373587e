"""Whole residual blocks of somebody's module: dropped where they say nothing, tried in parts, and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dojang as package

from .test_slim_own import pictures, right, train

pytestmark = pytest.mark.slow

slim: Any = package.slim
load_slim: Any = package.load_slim


class Residual(nn.Module):
    """x + branch(x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.c2, self.b2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.b2(self.c2(torch.relu(self.b1(self.c1(x))))))


class Blocks(nn.Module):
    """A stem, four residual blocks, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU())
        self.blocks = nn.Sequential(*(Residual(16) for _ in range(4)))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def test_blocks_that_say_nothing_are_dropped_and_the_class_stays(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Blocks()
    x, y = pictures(192)
    train(net, x, y, 30)
    for place in (1, 2):  # planted: these two add a thousandth of what they did
        norm: Any = net.blocks[place].b2  # type: ignore[union-attr]
        norm.weight.data *= 1e-3
        norm.bias.data *= 1e-3
    parts: list[float] = []

    def tune(module: nn.Module, share: float = 1.0) -> None:
        parts.append(share)
        train(module, x, y, max(1, round(24 * share)), 0.02)

    held = pictures(256, 1)
    done = slim(net.eval(), x, tune=tune, evaluate=lambda module: right(module, *held).float(), target_macs=0.6)
    assert isinstance(done.module, Blocks)
    [edit] = done.edits
    assert "remove-branches" in edit.rewrite
    assert {"blocks.1.c1", "blocks.2.c1"} <= set(edit.layers)
    assert isinstance(done.module.blocks[1], nn.Identity)
    assert isinstance(done.module.blocks[2], nn.Identity)
    assert not isinstance(done.module.blocks[0], nn.Identity)
    assert done.after.macs <= 0.6 * done.before.macs
    assert {1 / 16, 3 / 16, 3 / 4} == set(parts)
    assert parts.count(3 / 4) == 2  # the best candidate and the control
    done.save(tmp_path / "slim.pt")
    torch.testing.assert_close(load_slim(tmp_path / "slim.pt", Blocks())(held[0]), done.module.eval()(held[0]))
