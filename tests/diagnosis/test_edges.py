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


class Tokens(nn.Module):
    """A layer norm over the channels of a dense layer, and one that reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n, self.b, self.c = nn.Linear(18, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.relu(self.b(self.n(self.a(x.transpose(1, 2).flatten(2))))).mean(1))


def grouped(groups: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.GroupNorm(groups, 6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    )


def unread(make: str) -> tuple[nn.Module, str, nn.Module]:
    """A network whose channel 3 has weights of 0 behind a norm, the name of the layer before, and that layer."""
    torch.manual_seed(0)
    module = Tokens() if make == "layernorm" else grouped(int(make))
    (module.b if isinstance(module, Tokens) else module[5]).weight.data[:, 3] = 0
    name = "a" if isinstance(module, Tokens) else "0"
    return module.eval(), name, module.get_submodule(name)


@pytest.mark.parametrize("make", ["layernorm", "1", "2", "6"])
def test_a_channel_that_moves_the_statistics_of_others_is_read(make: str) -> None:
    """Whether the answers depend on the channel is asked of PyTorch, by changing it."""
    module, name, layer = unread(make)
    told = [f for f in dojang.diagnose(module, X, input_size=SIZE).findings if f.kind == "unread" and f.layer == name]
    before = module(torch.from_numpy(X))
    layer.weight.data[3] = torch.randn_like(layer.weight.data[3])
    depends = bool((module(torch.from_numpy(X)) - before).abs().max() > 1e-6)
    assert depends == (make != "6")
    assert [f.channels for f in told] == ([] if depends else [(3,)])


def test_a_dead_channel_behind_such_a_norm_is_said_to_move_the_others() -> None:
    torch.manual_seed(0)
    module = grouped(2).eval()
    module[1].weight.data[4], module[1].bias.data[4] = 0, -0.1
    (finding,) = [f for f in dojang.diagnose(module, X, input_size=SIZE).findings if f.kind == "dead-proven"]
    assert finding.channels == (4,)
    assert "before that they enter the statistics of 1" in finding.evidence


class Flipped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.b, self.c = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.relu(self.b(x.flip(3))).mean((2, 3)))


def test_behind_a_flip_responses_move_the_other_way() -> None:
    """The same as the convolution with a flipped kernel, without the flip, by PyTorch; away from the borders exact."""
    torch.manual_seed(0)
    module = Flipped().eval()
    x = np.random.default_rng(0).standard_normal((4, 3, 10, 10)).astype(np.float32)
    seen = {e.layer: e for e in dojang.diagnose(module, x, input_size=(3, 10, 10)).equivariance}["b"]
    places = np.clip(np.arange(10) - seen.shift, 0, None)
    with torch.no_grad():
        old, new = (module.b(torch.from_numpy(v).flip(3)).double().numpy() for v in (x, x[..., places]))
    ours, theirs = new[..., : 10 - seen.shift], old[..., seen.shift :]
    expected = np.sqrt(((ours - theirs) ** 2).mean()) / np.sqrt((theirs**2).mean())
    assert seen.along == pytest.approx(expected, rel=1e-4)
    assert seen.moved == pytest.approx(0, abs=1e-6)


def test_layers_that_are_not_split_are_listed() -> None:
    """Silence about groups would read as "there are none": dense layers, and channels that do not split evenly."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 4), nn.Linear(4, 2)
    )
    left = [n for n in dojang.diagnose(module.eval(), X, input_size=SIZE).not_judged if n.kind == "low-correlation"]
    assert {n.layer: n.reason for n in left} == {
        "0": "3 input and 5 output channels do not split into 2 equal groups",
        "2": "5 input and 4 output channels do not split into 2 equal groups",
        "": "dense layers are not split into groups",
    }


@pytest.mark.parametrize("bias", ["none", "zero", "of the weights", "random"])
@pytest.mark.parametrize("rank", [3, 2])
def test_more_filters_than_inputs_are_low_rank_only_by_their_weights(bias: str, rank: int) -> None:
    """NumPy's rank of the weights decides, whatever the biases are."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 12, 1, bias=bias != "none"), nn.Tanh(), nn.Flatten(), nn.Linear(432, 2)).eval()
    weight = module[0].weight.data
    if rank == 2:
        weight[:, 2] = weight[:, 0] - weight[:, 1]
    if bias != "none":
        made = {"zero": torch.zeros(12), "of the weights": weight[:, :, 0, 0].sum(1), "random": torch.randn(12)}
        module[0].bias.data = made[bias]
    found = [f for f in dojang.diagnose(module, X, input_size=SIZE).findings if f.kind == "low-rank" and f.layer == "0"]
    assert bool(found) == (np.linalg.matrix_rank(weight[:, :, 0, 0].numpy(), tol=1e-5) < 3)
