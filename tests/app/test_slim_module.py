"""Slimming a PyTorch module gives a module back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dojang as package

from .conftest import Command


class Wide(nn.Module):
    """Two layers of 128 channels of which 8 say anything, and a residual."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.fixed = fixed
        self.a, self.b = nn.Conv2d(3, 128, 3, padding=1), nn.Conv2d(128, 128, 3, padding=1)
        self.head = nn.Linear(128 * 16, 3)
        with torch.no_grad():
            for layer in (self.a, self.b):
                layer.weight[8:] = 0
                layer.bias[8:] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.a(x))
        x = nn.functional.avg_pool2d(x + torch.relu(self.b(x)), 4)
        return self.head(x.view(-1, 128 * 16) if self.fixed else x.flatten(1))


@pytest.mark.parametrize("fixed", [False, True])
def test_lossless_keeps_the_class_where_its_code_allows(fixed: bool) -> None:
    torch.manual_seed(0)
    module = Wide(fixed).eval()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3, 16, 16)).astype(np.float32)
    y = rng.integers(0, 3, 60)
    done: Any = package.slim(module, (x, y), lossless=True, input_size=(3, 16, 16))  # type: ignore[operator]
    assert "remove-dead-channels" in {edit.rewrite for edit in done.result.edits}
    assert (type(done.module) is Wide) is not fixed
    assert any("plain one" in note for note in done.result.notes) is fixed
    sample = torch.from_numpy(x)
    torch.testing.assert_close(done.module(sample), module(sample), atol=1e-5, rtol=1e-4)
    if not fixed:
        assert (done.module.a.out_channels, done.module.b.in_channels, done.module.head.in_features) == (8, 8, 128)


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_said_before_the_work(device: str, dojang: Command, tmp_path: Path) -> None:
    ran = dojang("slim", "digits-cnn", "--data", "digits", "--device", device, "-o", tmp_path / "out")
    assert ran.code == 2
    assert device.partition(":")[0] in ran.err
    assert len(ran.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
