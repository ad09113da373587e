"""A module and samples as their owner has them: in any mode, in whole numbers, with buffers; nothing is guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dojang as package
from dojang.app.own_loop import Score
from dojang.app.own_search import OwnRequest, OwnSearch
from dojang.base.errors import DataError, UnsupportedError
from dojang.slimming.halving import UNTUNED, Contender, Trainer, halved

slim: Any = package.slim
load_slim: Any = package.load_slim


class Scaled(nn.Module):
    """Normalises by a buffer of its own, after scaling what it is given; takes a mapping's entry by name."""

    def __init__(self, only_bytes: bool = False) -> None:
        super().__init__()
        self.only_bytes = only_bytes
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.one, self.norm = nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16)
        self.two, self.last, self.head = nn.Conv2d(16, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.Linear(16, 4)

    def forward(self, image: Tensor) -> Tensor:
        x = image.float() / 255 if image.dtype == torch.uint8 or not self.only_bytes else image
        y = self.norm(self.one((x - self.mean) * 4)).relu()
        return self.head(self.last(self.two(y)).relu().mean((2, 3)))


def made(only_bytes: bool = False) -> tuple[Scaled, Tensor]:
    """A module whose norms have seen pictures, in training mode with one norm frozen; and pictures."""
    torch.manual_seed(0)
    x = torch.randint(0, 256, (48, 3, 16, 16), dtype=torch.uint8)
    module = Scaled(only_bytes)
    with torch.no_grad():
        module(x)
    module.train().norm.eval()
    return module, x


def test_modes_and_statistics_stay_as_they_were(tmp_path: Path) -> None:
    module, x = made()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    done = slim(module, {"image": x}, target_macs=0.6, output=tmp_path / "out")
    for one in (module, done.module):
        assert [name for name, part in one.named_modules() if not part.training] == ["norm"]
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name])
    for name, value in load_slim(tmp_path / "out" / "model.pt", Scaled()).state_dict().items():
        assert torch.equal(value, done.module.state_dict()[name])
    assert str(tmp_path / "out" / "model.onnx") in done.files  # the buffer is no parameter there either
    assert done.network == "Scaled"
    assert "samples are uint8; files that are written take the same numbers in float32" in done.notes


def test_what_whole_numbers_alone_get_is_not_followed() -> None:
    module, x = made(True)
    with pytest.raises(UnsupportedError, match="something else with uint8 than with the same numbers in float32"):
        slim(module, x, target_macs=0.6)
    slim(module, x[:16].float() / 255, target_macs=0.6)


def test_labels_that_nothing_reads_are_told() -> None:
    module, x = made()
    labelled = [{"image": x, "mask": torch.zeros(48, 16, 16)}]
    said = "what batches hold beside the samples (labels, most likely) was not used"
    for samples in (labelled, [x]):
        assert any(said in note for note in slim(module, samples, target_macs=0.7).notes) is (samples is labelled)


@pytest.mark.parametrize("labels", ["amounts", "several"])
def test_a_network_that_knows_nothing_stops_the_slimming(labels: str) -> None:
    """Real numbers go in as they are, and an original no better than one answer for all is no measure of cuts."""
    module, x = made()
    y = torch.randn(48, 4) if labels == "amounts" else (torch.rand(48, 4) < 0.1)
    x, y = x.float().repeat(5, 1, 1, 1) / 255, y.repeat(5, 1)
    said = "R² is -" if labels == "amounts" else "labels that are right is"
    with pytest.raises(DataError, match=said) as error:
        slim(module.eval(), (x, y), target_macs=0.6)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("asked", "slow", "fast", "taken"),
    [
        (OwnRequest(target_macs=0.6), 0.9001, 0.9, "slow"),  # no time is asked for: the score decides
        (OwnRequest(target_macs=0.6, target_ms=1.0), 0.9001, 0.9, "fast"),  # by less than the time is worth
        (OwnRequest(target_macs=0.6, target_time=0.7), 0.9001, 0.9, "fast"),
        (OwnRequest(target_macs=0.6, target_ms=1.0), 0.91, 0.9, "slow"),  # by more than that
        (OwnRequest(target_macs=0.6, target_ms=1.0), 0.97, 0.96, "fast"),  # neither loses anything
    ],
)
def test_where_a_time_is_asked_for_the_faster_one_goes_on(
    asked: OwnRequest, slow: float, fast: float, taken: str
) -> None:
    """Two candidates of half and a third of the time, held against a control of 0.95; times here are given."""
    nothing: Any = None
    search = OwnSearch(nothing, asked, nothing, nothing, nothing, nothing)
    search.before = Score(0.95)
    runners = [Contender("slow", slow, time=1 / 2), Contender("fast", fast, time=1 / 3)]
    by = Trainer(
        tune=lambda network, share: network,
        score=lambda network: network,
        control=lambda schedule: 0.95,
        price=search.price,
    )
    halved(runners, UNTUNED, by)
    assert [one.name for one in runners if not one.reason] == [taken]


def test_what_is_odd_about_samples_loops_and_measures_is_told() -> None:
    module, x = made()
    module.eval()

    def forgets(net: nn.Module) -> Tensor:
        with torch.no_grad():
            return net.train()(x).amax(1)

    cases: list[tuple[str, Any, dict[str, Any]]] = [
        ("evaluate changed the module: its batch norms ran in training mode", x, {"evaluate": forgets}),
        ("tune left every array as it was", x, {"tune": lambda net: net.eval()}),
        ("the outputs are the same for all samples", x[:1].repeat(20, 1, 1, 1), {}),
        ("1 sample is few to cut by", x[:1], {}),
    ]
    for said, samples, how in cases:
        assert any(said in note for note in slim(module, samples, target_macs=0.7, **how).notes), said


def test_samples_of_several_sizes_are_looked_at() -> None:
    module, x = made()
    done = slim(module, [x[:16], x[16:32, :, 2:, 4:], x[32:40, :, :9, :11]], target_macs=0.6)
    assert done.after.macs <= 0.6 * done.before.macs
    assert done.module(x[:2]).shape == (2, 4)


stops, calls = [0], [0]


def counted() -> None:
    calls[0] += 1
    if calls[0] == stops[0]:
        raise KeyboardInterrupt


@pytest.mark.slow
def test_interrupted_in_any_call_it_is_taken_up_to_the_same_result(tmp_path: Path) -> None:
    module, x = made()
    rng = torch.Generator().manual_seed(0)
    y = torch.randint(0, 4, (48,), generator=rng)

    def tune(net: nn.Module, share: float = 1.0) -> None:
        counted()
        optimiser = torch.optim.SGD(net.parameters(), 0.01 * share)
        nn.functional.cross_entropy(net(x), y).backward()
        optimiser.step()
        counted()

    def evaluate(net: nn.Module) -> Tensor:
        counted()
        return (net(x).argmax(1) == y).float()

    def run(stop: int, out: str, **more: Any) -> Any:
        stops[0], calls[0] = stop, 0
        return slim(module, x, tune=tune, evaluate=evaluate, target_macs=0.4, output=tmp_path / out, **more)

    whole = run(0, "whole")
    total = calls[0]
    for stop in (2 + torch.randperm(total - 1, generator=rng)[:2]).tolist():
        with pytest.raises(KeyboardInterrupt):
            run(stop, str(stop))
        again = run(0, str(stop), resume=True)
        assert calls[0] <= total - stop + 2
        for name, value in whole.module.state_dict().items():
            assert torch.equal(again.module.state_dict()[name], value)
