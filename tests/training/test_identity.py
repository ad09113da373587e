"""`resume` takes up the run of the same network only: what differs is found in settings, code, hooks and switches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dojang.base.errors import ShapeError, UnsupportedError, UsageError
from dojang.training.config import TrainConfig
from dojang.training.data import Augment, Data, from_arrays
from dojang.training.loop import fit
from dojang.training.record import Progress


def data() -> Data:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((24, 3, 4, 8)).astype(np.float32)
    return from_arrays(x, np.arange(24) % 4, x, np.arange(24) % 4)


def run(module: nn.Module, directory: Path, *, resume: bool = False) -> None:
    """Two epochs, of which the first call takes one."""

    def stop(at: Progress) -> None:
        if not resume and at.done is not None:
            raise KeyboardInterrupt

    config = TrainConfig(epochs=2, batch_size=12, lr=0.01, checkpoint_seconds=0)
    try:
        fit(module, data(), config, directory=directory, resume=resume, progress=stop)
    except KeyboardInterrupt:
        assert not resume


class With(nn.Module):
    """A setting that its forward reads, and a counter that it changes."""

    def __init__(self, how: Any, part: nn.Module | None = None) -> None:
        super().__init__()
        self.how, self.calls = how, 0
        self.part = part or nn.Identity()
        self.fc = nn.Linear(96, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.last = x
        return self.fc(self.part(x).flatten(1))


class Encoder(nn.Module):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        settings = {"nhead": 2, "dropout": 0.0} | settings
        self.encoder = nn.TransformerEncoderLayer(12, dim_feedforward=8, batch_first=True, **settings)
        self.fc = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.encoder(x.transpose(1, 3).flatten(2)).mean(1))


class Base(nn.Module):
    slope = 1.0

    def __init__(self, fixed: float = 1.0) -> None:
        super().__init__()
        self.fc = nn.Linear(96, 4)
        self.register_buffer("fixed", torch.tensor(fixed), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(helper(x.flatten(1)))


class Derived(Base):
    pass


def helper(x: torch.Tensor) -> torch.Tensor:
    return F.relu(x)


def other(x: torch.Tensor) -> torch.Tensor:
    return F.softplus(x)


def hooked(scale: float) -> nn.Module:
    module = With(1)
    module.part.register_forward_hook(lambda _m, _i, y: y * scale)
    return module


def partly_fixed() -> nn.Module:
    module = With(1, nn.BatchNorm2d(3))
    module.part.eval()
    return module


OTHERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "activation of an encoder": (Encoder, partial(Encoder, activation="gelu")),
    "order of its norms": (Encoder, partial(Encoder, norm_first=True)),
    "heads of attention": (Encoder, partial(Encoder, nhead=4)),
    "whole number": (partial(With, 1), partial(With, 2)),
    "list": (partial(With, [1, 2]), partial(With, [1, 3])),
    "dictionary": (partial(With, {"a": 1}), partial(With, {"a": 2})),
    "record": (partial(With, SimpleNamespace(a=1)), partial(With, SimpleNamespace(a=2))),
    "function": (partial(With, F.relu), partial(With, torch.tanh)),
    "own function": (partial(With, helper), partial(With, other)),
    "partial": (partial(With, partial(F.elu, alpha=1)), partial(With, partial(F.elu, alpha=2))),
    "array": (partial(With, torch.tensor([1.0])), partial(With, torch.tensor([2.0]))),
    "buffer that is not kept": (Base, partial(Base, 2.0)),
    "padding that counts": (
        lambda: With(1, nn.AvgPool2d(3, 1, 1)),
        lambda: With(1, nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
    ),
    "hook": (lambda: hooked(1.0), lambda: hooked(2.0)),
    "no hook": (lambda: With(1), lambda: hooked(2.0)),
    "a norm that stands still": (lambda: With(1, nn.BatchNorm2d(3)), partly_fixed),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_run_of_another_network_is_not_taken_up(what: str, tmp_path: Path) -> None:
    first, second = OTHERS[what]
    run(first(), tmp_path)
    with pytest.raises(UsageError, match="resume with the same network"):
        run(second(), tmp_path, resume=True)


@pytest.mark.parametrize("what", OTHERS)
def test_the_same_network_made_anew_is_taken_up(what: str, tmp_path: Path) -> None:
    for make in OTHERS[what]:
        place = tmp_path / make.__class__.__name__ / str(id(make))
        run(make(), place)
        run(make(), place, resume=True)


def test_the_same_object_with_counters_is_taken_up(tmp_path: Path) -> None:
    module = With(1)
    run(module, tmp_path)
    run(module, tmp_path, resume=True)


def test_a_helper_or_a_parent_that_was_edited_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(Derived(), tmp_path)
    with monkeypatch.context() as edited:
        edited.setitem(globals(), "helper", other)
        with pytest.raises(UsageError, match="another network"):
            run(Derived(), tmp_path, resume=True)
    run(Derived(), tmp_path, resume=True)


class One(nn.Module):
    def __init__(self, forward: Callable[[One, torch.Tensor], Any], outputs: int = 4) -> None:
        super().__init__()
        self.fc, self.given = nn.Linear(96, outputs), forward

    def forward(self, x: torch.Tensor) -> Any:
        return self.given(self, x.flatten(1))


def no_gradient(m: One, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return m.fc(x)


def asserting(m: One, x: torch.Tensor) -> torch.Tensor:
    assert x.ndim == 4, "pictures only"
    return m.fc(x)


def failing_in_training(m: One, x: torch.Tensor) -> torch.Tensor:
    return m.fc({False: x}[m.training])


@pytest.mark.parametrize(
    ("forward", "error", "said"),
    [
        (lambda m, x: {"scores": m.fc(x)}, ShapeError, "gives a dict, not a tensor"),
        (lambda m, x: (m.fc(x), x), ShapeError, "gives a tuple, not a tensor"),
        (lambda m, x: m.missing(x), UnsupportedError, "AttributeError.*missing"),
        (asserting, UnsupportedError, "AssertionError: pictures only"),
        (failing_in_training, UnsupportedError, "in training mode: KeyError: True"),
        (no_gradient, UnsupportedError, "no gradient"),
    ],
)
def test_what_a_forward_does_wrong_is_told_in_words(
    forward: Callable[[One, torch.Tensor], Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        fit(One(forward), data(), TrainConfig(epochs=1, lr=0.01))


def test_one_number_for_each_sample_may_come_without_an_axis() -> None:
    """The same weights as with the axis, to the last bit."""
    x = np.random.default_rng(1).standard_normal((20, 3, 4, 8)).astype(np.float32)
    amounts = from_arrays(x, x.mean((1, 2, 3)) + 0.25)
    done = []
    for forward in (lambda m, v: m.fc(v), lambda m, v: m.fc(v)[:, 0]):
        torch.manual_seed(0)
        module = One(forward, 1)
        history = fit(module, amounts, TrainConfig(epochs=2, lr=0.01, batch_size=8))
        done.append((module.fc.weight, history.test.loss))
    assert torch.equal(done[0][0], done[1][0])
    assert done[0][1] == done[1][1]


@pytest.mark.parametrize("weights", [(1.0, 2.0), (0.0,) * 4, (1.0, -1.0, 1.0, 1.0)])
def test_class_weights_that_do_not_fit_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="class_weights"):
        fit(One(lambda m, x: m.fc(x)), data(), TrainConfig(epochs=1, lr=0.01, class_weights=weights))


@pytest.mark.parametrize("name", ["epochs", "seed", "batch_size", "patience"])
def test_numbers_that_count_are_whole(name: str) -> None:
    with pytest.raises(UsageError, match="whole number"):
        TrainConfig(**{name: 1.5})


class Averaged(nn.Module):
    """Keeps a running mean of its weights, as its forward in training mode says."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(96, 4)
        self.mean = nn.Parameter(torch.zeros(4, 96), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(self.fc.weight, 0.25)
        return self.fc(x.flatten(1))


def test_looking_at_a_module_does_not_train_it() -> None:
    """Of one step the mean is a quarter of the weights before it, as in a loop by hand."""
    module = Averaged()
    before = module.fc.weight.detach().clone()
    fit(module, data(), TrainConfig(epochs=1, batch_size=100, lr=0.01))
    assert torch.equal(module.mean, torch.zeros(4, 96).lerp_(before, 0.25))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"mode": "fine-tune"}, "has mode scratch, this one fine-tune"),
        ({"select": 0.25}, "has select None, this one 0.25"),
        ({"optimiser": "sgd"}, "has optimiser adamw, this one sgd"),
    ],
)
def test_the_setting_that_differs_is_named(setting: dict[str, Any], said: str, tmp_path: Path) -> None:
    whole = {"epochs": 2, "batch_size": 12, "mode": "scratch"}
    fit(With(1), data(), TrainConfig(**whole), directory=tmp_path)
    with pytest.raises(UsageError, match=said):
        fit(With(1), data(), TrainConfig(**whole | setting), directory=tmp_path, resume=True)


def test_pictures_are_not_shifted_out_of_sight() -> None:
    with pytest.raises(UsageError, match="crop 5 shifts pictures of 4×8 out of sight; give 4 or less"):
        fit(With(1), data(), TrainConfig(epochs=1, augment=Augment(crop=5)))
