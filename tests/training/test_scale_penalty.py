"""The penalty on the scales of batch norms: exact zeros, nothing else touched, states of before still taken up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from dojang.base.errors import UsageError
from dojang.training.config import TrainConfig
from dojang.training.load import load
from dojang.training.loop import fit
from dojang.training.recipe import scales_of, shrink
from dojang.training.state import read, write


def test_shrinking_minimises_distance_and_penalty() -> None:
    values = torch.tensor([-2.0, -0.3, 0.0, 0.1, 0.5, 3.0], dtype=torch.float64)
    moved = values.clone()
    shrink([moved], 0.4)
    grid = torch.linspace(-4, 4, 80_001, dtype=torch.float64)
    best = [grid[((grid - v).square() / 2 + 0.4 * grid.abs()).argmin()].item() for v in values]
    torch.testing.assert_close(moved, torch.tensor(best, dtype=torch.float64), atol=1e-4, rtol=0)
    assert moved[1:4].tolist() == [0, 0, 0]


def test_only_trained_scales_of_batch_norms_are_meant() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.BatchNorm2d(2, affine=False), nn.GroupNorm(1, 2))
    assert [id(s) for s in scales_of(module)] == [id(module[1].weight)]
    module[1].weight.requires_grad_(False)
    assert scales_of(module) == []


@pytest.mark.slow
def test_it_makes_channels_die_and_zero_changes_nothing(small: Callable[..., nn.Module]) -> None:
    data = load("digits")
    plain, zero, strong = small(), small(), small()
    for module, epochs, penalty in ((plain, 2, None), (zero, 2, 0.0), (strong, 6, 1.0)):
        config = TrainConfig(epochs=epochs, **({} if penalty is None else {"scale_l1": penalty}))
        fit(module, data, config)
    for a, b in zip(plain.state_dict().values(), zero.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    dead = sum(int((s == 0).sum()) for s in scales_of(strong))
    assert 0 < dead < 24
    assert sum(int((s == 0).sum()) for s in scales_of(plain)) == 0


def test_a_state_that_does_not_know_the_penalty_is_taken_up(small: Callable[..., nn.Module], tmp_path: Path) -> None:
    data = load("digits")
    fit(small(), data, TrainConfig(epochs=1, optimiser="sgd"), directory=tmp_path)
    state = read(tmp_path)
    assert state is not None
    del state.fingerprint["scale_l1"]
    write(state, tmp_path)
    assert fit(small(), data, TrainConfig(epochs=1, optimiser="sgd"), directory=tmp_path, resume=True).curve
    with pytest.raises(UsageError, match="scale l1"):
        fit(small(), data, TrainConfig(epochs=1, optimiser="sgd", scale_l1=0.1), directory=tmp_path, resume=True)
