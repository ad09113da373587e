"""Diagnosis at its edges: one sample, networks without layers, settings that make no sense."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dojang
from dojang.base.errors import UsageError

SIZE = (3, 6, 6)
X = np.random.default_rng(0).standard_normal((12, *SIZE)).astype(np.float32)


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()


def test_one_sample_shows_no_constants() -> None:
    """Every channel has one value on one sample; on 12 samples these move, as PyTorch says."""
    assert small()(torch.from_numpy(X)).std(0).min() > 1e-3
    one = dojang.diagnose(small(), X[:1], input_size=SIZE)
    assert "constant" not in {f.kind for f in one.findings}
    assert any(n.kind.startswith("constant") and "one sample" in n.reason for n in one.not_judged)


def test_a_constant_is_held_against_the_first_sample() -> None:
    """Of N samples N − 1 are held against the first, so that (1 − p)^(N − 1) = 0.05 / statements."""
    still = np.repeat(X[:1], 3, axis=0)
    (finding,) = [f for f in dojang.diagnose(small(), still, input_size=SIZE).findings if f.kind == "constant"][:1]
    statements = int(re.search(r"all ([\d,]+) statements", finding.evidence)[1].replace(",", ""))
    assert f"fewer than {1 - (0.05 / statements) ** (1 / 2):.2%} of such" in finding.evidence


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.Flatten(), nn.MaxPool2d(2)])
def test_networks_without_layers(layer: nn.Module) -> None:
    assert dojang.diagnose(nn.Sequential(layer).eval(), X, input_size=SIZE).samples == 12


@pytest.mark.parametrize(
    ("setting", "value"), [("threshold", np.nan), ("threshold", -1.0), ("threshold", np.inf), ("seed", -1)]
)
def test_settings_that_make_no_sense(setting: str, value: Any) -> None:
    with pytest.raises(UsageError, match=setting):
        dojang.diagnose(small(), X, input_size=SIZE, **{setting: value})
