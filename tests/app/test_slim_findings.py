"""Slimming by one's own loop says what it found, what its cuts made of it, and why the rest was not cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dojang as package

slim: Any = package.slim


class Planted(nn.Module):
    """Channels 1 and 2 of `first` can never be positive; of `second`, channel 3 is twice channel 5."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)
        with torch.no_grad():
            self.first.weight[1:3] = 0
            self.first.bias[1:3] = -1
            self.second.weight[3] = 2 * self.second.weight[5]
            self.second.bias[3] = 2 * self.second.bias[5]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def planted() -> tuple[Planted, Tensor]:
    torch.manual_seed(0)
    return Planted().eval(), torch.randn(48, 3, 10, 10)


def test_findings_are_cut(planted: tuple[Planted, Tensor]) -> None:
    done = slim(*planted, target_macs=0.7)
    dead = next(a for a in done.result.answers if a.finding.kind.startswith("dead") and a.finding.layer == "first")
    assert dead.finding.channels == (1, 2)
    assert dead.verdict == "cut"
    twins = next(a for a in done.result.answers if a.finding.layer == "second" and a.finding.kind == "duplicate")
    assert set(twins.finding.channels) >= {3} or set(twins.finding.channels) >= {5}
    assert twins.edits
    assert done.to_dict()["answers"][0]["outcome"]
    assert "first: dead-" in str(done)
    assert "cut by remove-channels" in str(done)


def test_what_is_kept_says_why(planted: tuple[Planted, Tensor]) -> None:
    done = slim(*planted, target_macs=0.7, keep=("first",))
    dead = next(a for a in done.result.answers if a.finding.kind.startswith("dead") and a.finding.layer == "first")
    assert dead.verdict == "refused"
    assert any("is to be kept (first)" in done.result.refused[i].reason for i in dead.refused)


def test_large_networks_are_not_looked_at(planted: tuple[Planted, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dojang.app.own_findings.MOST_PARAMS", 10)
    done = slim(*planted, target_macs=0.7)
    assert not done.result.answers
    assert "findings were not looked for" in str(done)
    assert any("take minutes" in note for note in done.diagnosis.notes)


def test_outputs_that_say_nothing_any_more_are_told(planted: tuple[Planted, Tensor]) -> None:
    module, x = planted
    told = "says nothing any more"
    assert not any(told in note for note in slim(module, x, target_macs=0.9).notes)
    crushed = slim(module, x, target_macs=0.03)
    moved = max(one["outputs_moved"] for one in crushed.result.candidates if one["taken"])
    assert (moved >= 1) == any(told in note for note in crushed.notes)


@pytest.mark.parametrize("apart", [0.0, 1e-9])
def test_a_measure_near_zero_is_not_random(planted: tuple[Planted, Tensor], apart: float) -> None:
    """Two answers of 1e-9 and 0 differ by all of their size, and by nothing that matters."""
    answers = iter([apart, 0.0] + [0.0] * 20)
    done = slim(*planted, evaluate=lambda net: next(answers), target_macs=0.9)
    assert not any("random" in note for note in done.notes)


def test_a_measure_near_zero_that_is_random_is_refused(planted: tuple[Planted, Tensor]) -> None:
    answers = iter([1e-3, -1e-3] * 20)
    with pytest.raises(package.UsageError, match="evaluate is random"):
        slim(*planted, evaluate=lambda net: next(answers), target_macs=0.9)
    noisy = iter([(1e-3, 0.2), (-1e-3, 0.2)] * 20)  # a hundredth of its own standard error
    done = slim(*planted, evaluate=lambda net: next(noisy), target_macs=0.9)
    assert done.edits
