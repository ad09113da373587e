"""A module is trained as its owner wrote it: its own forward in training mode, its frozen parameters, its momentum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dojang
from dojang.base.errors import DataError, UnsupportedError, UsageError
from dojang.training.config import TrainConfig
from dojang.training.data import Data, from_arrays
from dojang.training.freezing import matches
from dojang.training.loop import fit


class Owned(nn.Module):
    """Batch norm of another momentum, Dropout2d, a path that is taken in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4, momentum=0.7)
        self.drop = nn.Dropout2d(0.2)
        self.fc = nn.Linear(4 * 36, 3)
        self.trained_calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv1(x)))
        if self.training:
            self.trained_calls += 1
            x = self.drop(x)
            if torch.rand(()) < 0.5:
                x = 0.5 * x
        return self.fc(x.flatten(1))


def owned() -> Owned:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Owned()


def data(count: int = 60, classes: int = 3) -> Data:
    """Pictures whose class is the row that is bright."""
    rng = np.random.default_rng(0)
    y = np.arange(count) % classes
    x = rng.normal(0, 0.3, (count, 1, 6, 6)).astype(np.float32)
    x[np.arange(count), 0, y] += 1.5
    return from_arrays(x, y, x[:30], y[:30])


def test_the_module_itself_is_trained_and_given_back(tmp_path: Path) -> None:
    module = owned()
    module.conv1.weight.requires_grad_(False)
    still, seen = module.conv1.weight.clone(), []
    module.fc.register_forward_hook(lambda m, i, o: seen.append(m.training))
    parts = data()
    done = dojang.train(module, parts, input_size=(1, 6, 6), epochs=4, batch_size=20, output=tmp_path / "run")
    assert module.trained_calls >= 12  # three steps in each epoch went through its own branch
    assert sum(seen) >= 12
    assert torch.equal(module.conv1.weight, still)
    assert not module.conv1.weight.requires_grad
    assert module.norm.momentum == 0.7
    assert not module.training
    # the network that was written answers as the module does
    x = parts.test.inputs()
    with torch.no_grad():
        answers = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(dojang.compile(str(tmp_path / "run" / "model.safetensors"))(x), answers, atol=1e-4)
    assert done.history["start"]["frozen"] == ("conv1.weight",)
    assert done.accuracy == pytest.approx((answers.argmax(1) == parts.test.y).mean())


def test_running_statistics_follow_the_owners_momentum() -> None:
    module, parts = owned(), data(16)
    with torch.no_grad():
        first = module.conv1(torch.from_numpy(parts.train.inputs()))
    expected = 0.3 * module.norm.running_mean + 0.7 * first.mean((0, 2, 3))  # of the one batch that there is
    fit(module, parts, TrainConfig(epochs=1, batch_size=64, lr=1e-6, warmup=0.0))
    np.testing.assert_allclose(module.norm.running_mean.numpy(), expected.numpy(), atol=1e-4)


def test_parts_in_evaluation_mode_stay_there() -> None:
    module = owned()
    module.norm.eval()
    before = module.norm.running_mean.clone()
    fit(module, data(), TrainConfig(epochs=1, batch_size=20))
    assert torch.equal(module.norm.running_mean, before)
    assert module.norm.weight.grad is not None


def test_layers_are_frozen_by_pattern_and_free_afterwards() -> None:
    module = owned()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    record = fit(module, data(), TrainConfig(epochs=2, batch_size=20, freeze=("conv*", "norm")))
    changed = {k for k, v in module.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"fc.weight", "fc.bias"}
    assert record.start.frozen == ("conv1.weight", "conv1.bias", "norm.weight", "norm.bias")
    assert all(p.requires_grad for p in module.parameters())
    with pytest.raises(UsageError, match=r"'cnov1': names no layer.*did you mean conv1"):
        fit(owned(), data(), TrainConfig(freeze=("cnov1",)))
    with pytest.raises(UsageError, match="no parameters to train"):
        fit(owned(), data(), TrainConfig(freeze=("*",)))


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [("layer1.0.conv1.weight", "layer1", True), ("layer1.0.conv1.weight", "layer1.*", True),
     ("layer1.0.conv1.weight", "conv*", False), ("layer1.0.conv1.weight", "*.conv1", True),
     ("layer10.0.weight", "layer1", False), ("w", "w", True)],
)  # fmt: skip
def test_a_pattern_names_a_parameter_or_what_is_around_it(name: str, pattern: str, expected: bool) -> None:
    assert matches(name, pattern) is expected


class Auxiliary(Owned):
    def forward(self, x: torch.Tensor) -> Any:
        y = super().forward(x)
        return (y, y) if self.training else y


def test_what_cannot_be_trained_is_refused_by_name_and_left_as_it_was() -> None:
    module = Auxiliary()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    with pytest.raises(UnsupportedError, match="Auxiliary: in training mode its forward gives a tuple"):
        fit(module, data(), TrainConfig(batch_size=20))
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    with pytest.raises(UnsupportedError, match=r"Owned: conv1.weight is float64.*\.float\(\)"):
        fit(owned().double(), data(), TrainConfig(batch_size=20))
    with pytest.raises(DataError, match="has 2 classes"):
        dojang.train(owned(), data(classes=2), input_size=(1, 6, 6))


def test_small_steps_take_one_thread_and_the_callers_number_comes_back() -> None:
    from dojang.training.start import WORTH_THREADS, fitting_threads

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for macs, within in ((WORTH_THREADS / 2, 1), (2 * WORTH_THREADS, 2)):
            with fitting_threads(macs):
                assert torch.get_num_threads() == within
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_several_threads_are_taken_where_they_are_quicker_and_the_number_comes_back() -> None:
    from dojang.training.start import fitting_threads, probed_seconds, several_are_quicker

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert several_are_quicker(lambda threads: 1.0 / threads)
        assert not several_are_quicker(lambda threads: 1.0 * threads)  # they wait for each other
        assert not several_are_quicker(lambda threads: 1.0 - 0.01 * threads)  # not worth it
        assert probed_seconds(2) > 0
        with fitting_threads(1e12, measured=True):
            assert torch.get_num_threads() in (1, 2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
