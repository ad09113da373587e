"""Slimming a PyTorch module gives a module back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dojang as package
from dojang.app.tuning import Owned, TuningOptions, tuner
from dojang.arith.channels import channels
from dojang.arith.cut import cut
from dojang.training.data import from_arrays

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


TRAINED: list[int] = []
"""Batches that a `Kept` has seen in training mode."""


class Kept(nn.Module):
    """A frozen first layer, batch norm of momentum 0, a path that is taken in training only, 24 channels for 3 rows."""

    def __init__(self, auxiliary: bool = False) -> None:
        super().__init__()
        self.auxiliary = auxiliary
        self.a, self.norm, self.b = (
            nn.Conv2d(1, 24, 3, padding=1),
            nn.BatchNorm2d(24, momentum=0.0),
            nn.Conv2d(24, 8, 3),
        )
        self.head = nn.Linear(8, 3)
        self.a.weight.requires_grad_(False)
        self.a.bias.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.relu(self.b(torch.relu(self.norm(self.a(x))))).mean((2, 3))
        if self.training:
            TRAINED.append(len(x))
            if self.auxiliary:
                return self.head(x), x
        return self.head(x)


@pytest.fixture(scope="module")
def bright() -> tuple[np.ndarray, np.ndarray]:
    """Pictures whose class is the row that is bright."""
    rng = np.random.default_rng(0)
    y = np.arange(240) % 3
    x = rng.normal(0, 0.3, (240, 1, 12, 12)).astype(np.float32)
    x[np.arange(240), 0, 4 * y] += 2
    return x, y


def test_a_cut_network_is_tuned_as_the_module_that_it_comes_from(bright: tuple[np.ndarray, np.ndarray]) -> None:
    TRAINED.clear()
    torch.manual_seed(0)
    module = Kept().eval()
    first, mean = module.a.weight.detach().clone(), module.norm.running_mean.clone()
    graph = package.load(module, input_size=(1, 12, 12)).alone()
    tied = channels(graph)
    less = cut(graph, tied.fit(tied.removable[::2]), tied)
    own = Owned(module, graph)
    data = from_arrays(*bright)
    tuned = tuner(data, 1, TuningOptions(owned=own))(less, graph)
    assert TRAINED
    assert not own.notes
    assert tuned.weights["a.weight"].shape == less.weights["a.weight"].shape != tuple(first.shape)
    for still in ("a.weight", "a.bias", "norm.running_mean"):  # frozen, and a momentum of 0
        assert np.array_equal(tuned.weights[still], less.weights[still]), still
    for moved in ("b.weight", "head.weight"):
        assert not np.array_equal(tuned.weights[moved], less.weights[moved]), moved
    assert torch.equal(module.a.weight, first)  # the module itself is as it was
    assert torch.equal(module.norm.running_mean, mean)


@pytest.mark.parametrize("why", ["frozen", "Kept: in training mode its forward gives a tuple"])
def test_a_module_that_cannot_be_trained_is_tuned_as_a_plain_one_and_said(
    why: str, bright: tuple[np.ndarray, np.ndarray]
) -> None:
    torch.manual_seed(0)
    module = Kept(why != "frozen").eval()
    if why == "frozen":
        module.requires_grad_(False)
    done: Any = package.slim(  # type: ignore[operator]
        module, bright, max_drop=100, target_macs=0.6, epochs=1, input_size=(1, 12, 12)
    )
    assert done.result.tunings
    assert (
        sum("plain module made from its layers, not as a Kept" in note and why in note for note in done.result.notes)
        == 1
    )
