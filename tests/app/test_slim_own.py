"""Slimming by somebody's own loop and measure, and without either: what decides, what is refused, what comes back."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, TensorDataset

import dojang as package
from dojang.base.errors import DataError, DojangError, FileError, UnsupportedError, UsageError

slim: Any = package.slim
load_slim: Any = package.load_slim


def block(ins: int, outs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(ins, outs, 3, stride, 1, bias=False), nn.BatchNorm2d(outs), nn.ReLU())


class Net(nn.Module):
    """Three convolutions and a head; `features` fewer than `width` say anything after `planted`."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.body = nn.Sequential(block(3, width, 2), block(width, width, 2), block(width, width))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


def pictures(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Pictures whose class is their brightest colour."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (count,), generator=rng)
    x = torch.randn(count, 3, 12, 12, generator=rng)
    x[torch.arange(count), y] += 0.7
    return x, y


def train(module: nn.Module, x: Tensor, y: Tensor, steps: int = 30, lr: float = 0.05) -> None:
    torch.manual_seed(1)
    module.train()
    optimiser = torch.optim.SGD(module.parameters(), lr, momentum=0.9)
    for step in range(steps):
        own = slice(step * 32 % len(x), step * 32 % len(x) + 32)
        loss = nn.functional.cross_entropy(module(x[own]), y[own])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


@torch.no_grad()
def right(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return (module(x).argmax(1) == y).float()


@pytest.fixture(scope="module")
def trained() -> tuple[Net, Tensor, Tensor]:
    torch.manual_seed(0)
    x, y = pictures(320)
    module = Net()
    train(module, x, y, 60)
    return module.eval(), x, y


# What decides


def test_the_owners_loop_and_measure_decide(trained: tuple[Net, Tensor, Tensor], tmp_path: Path) -> None:
    module, x, y = trained
    held = pictures(200, 7)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    tuned: list[int] = []

    def tune(net: nn.Module) -> None:
        assert type(net) is Net
        tuned.append(net.head.in_features)
        train(net, x, y, 10, 0.01)

    done = slim(module, x, tune=tune, evaluate=lambda net: right(net, *held), target_macs=0.5)
    assert type(done.module) is Net
    assert done.after.macs <= 0.5 * done.before.macs
    assert not done.module.training
    assert done.after.accuracy == pytest.approx(right(done.module, *held).mean().item(), abs=1e-6)
    assert done.after.accuracy > 0.8
    control = done.result.control
    assert control["tunings"] == 1
    assert control["lost"] == pytest.approx(control["accuracy"] - done.after.accuracy)
    assert 0 < control["standard_error"] < 0.1 or control["lost"] == 0
    assert tuned.count(24) >= 1  # the control is tuned as well
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert sum(one["taken"] for one in done.result.candidates) == 1
    assert "Every network that was tried" in str(done)
    assert done.to_dict()["candidates"]
    done.save(tmp_path / "slim.pt")
    again = load_slim(tmp_path / "slim.pt", Net())
    torch.testing.assert_close(again(x[:5]), done.module(x[:5]))
    with pytest.raises(UsageError, match=r"slim.onnx: save writes a PyTorch state dict, not a .onnx file"):
        done.save(tmp_path / "slim.onnx")
    assert not (tmp_path / "slim.onnx").exists()
    assert sum(p.numel() for p in again.parameters()) < sum(p.numel() for p in module.parameters())
    train(again, x, y, 1)


def test_a_cut_is_judged_against_the_control(trained: tuple[Net, Tensor, Tensor]) -> None:
    """A loop that makes every network worse by the same amount is no fault of a cut."""
    module, x, _ = trained

    def tune(net: Any) -> None:
        net.head.bias.data[0] += 0.5  # everything looks like class 0 a little more

    @torch.no_grad()
    def evaluate(net: nn.Module) -> float:
        return float(net(x)[:, 1:].mean() - net(x)[:, 0].mean())

    plain = slim(module, x, evaluate=evaluate, target_macs=1.0)
    assert not plain.edits
    done = slim(module, x, tune=tune, evaluate=evaluate, max_drop=30, target_macs=0.95)
    assert done.edits, done.notes
    assert done.before.accuracy - done.after.accuracy > 0.4
    assert abs(done.result.control["lost"]) <= 0.3


@pytest.mark.parametrize("parts", [False, True])
def test_without_a_control_only_candidates_are_tuned(trained: tuple[Net, Tensor, Tensor], parts: bool) -> None:
    module, x, y = trained
    held, widths = pictures(200, 7), list[int]()

    def whole(net: nn.Module, share: float = 1.0) -> None:
        widths.append(sum(layer.out_channels for layer in net.modules() if isinstance(layer, nn.Conv2d)))
        train(net, x, y, max(1, round(10 * share)), 0.01)

    done = slim(
        module, x, tune=whole if parts else lambda net: whole(net), evaluate=lambda net: right(net, *held),
        target_macs=0.5, control=False,
    )  # fmt: skip
    assert max(widths) < 72, "the original was tuned"
    assert done.after.macs <= 0.5 * done.before.macs
    assert done.after.accuracy == pytest.approx(right(done.module, *held).mean().item(), abs=1e-6)
    assert done.result.control is None
    assert any("no control was tuned" in note for note in done.notes)
    assert "Control:" not in str(done)
    assert all(one["lost"] is None for one in done.result.candidates)
    for more in ({"max_drop": 1, "target_macs": 0.5}, {}):
        with pytest.raises(UsageError, match="control=False needs a target, no max_drop"):
            slim(module, x, tune=whole, evaluate=lambda net: right(net, *held), control=False, **more)
    with pytest.raises(UsageError, match=r"dojang's own loop always tunes the control"):
        slim(module, (x, y), target_macs=0.5, control=False)


class GroupNormed(nn.Module):
    """Group norms with and without weights, and one over all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 24, 3, padding=1), nn.GroupNorm(6, 24)
        self.inner, self.bare = nn.Conv2d(24, 24, 3, padding=1), nn.GroupNorm(8, 24, affine=False)
        self.last, self.all = nn.Conv2d(24, 16, 3, padding=1), nn.GroupNorm(1, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        x = x + self.bare(self.inner(x))
        return self.head(self.all(self.last(x.relu())).relu().mean((2, 3)))


def test_group_norms_lose_whole_groups(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = GroupNormed().eval(), torch.randn(40, 3, 12, 12)
    done = slim(module, x, target_macs=0.6)
    own = done.module
    assert type(own) is GroupNormed
    assert done.after.macs <= 0.6 * done.before.macs
    assert own.first.out_channels == own.norm.num_channels == own.bare.num_channels < 24
    assert own.norm.num_channels / own.norm.num_groups == 4
    assert own.bare.num_channels / own.bare.num_groups == 3
    assert own.all.num_channels == 16
    assert any("normalises over all channels" in one.reason for one in done.result.refused)
    done.save(tmp_path / "slim.pt")
    again = load_slim(tmp_path / "slim.pt", GroupNormed())
    torch.testing.assert_close(again(x), own(x))
    assert (again.bare.num_groups, again.norm.num_groups) == (own.bare.num_groups, own.norm.num_groups)


def test_cutting_nothing_passes() -> None:
    from dojang.app.own_loop import Score, loss

    rng = np.random.default_rng(0)
    each = rng.random(50)
    for score in (Score(0.3), Score(0.3, 0.1), Score(float(each.mean()), 0.1, each)):
        lost, error = loss(score, score)
        assert lost == 0
        assert error is None or error >= 0
    lost, error = loss(Score(0, None, each), Score(0, None, each + 0.1))
    assert error == pytest.approx(0, abs=1e-12)  # every sample lost the same: there is no doubt about it


def test_a_drop_is_kept(trained: tuple[Net, Tensor, Tensor]) -> None:
    module, x, _ = trained
    wanted = module(x).detach()

    @torch.no_grad()
    def explained(net: nn.Module) -> float:
        return float(1 - (net(x) - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum())

    done = slim(module, x, evaluate=explained, max_drop=0.1, target_macs=0.05)
    assert done.edits
    assert done.result.control["lost"] <= 0.001 + 1e-9
    assert done.after.macs > 0.05 * done.before.macs
    assert any("target was not reached" in note for note in done.notes)


def test_a_teacher_is_given_where_it_is_asked_for(trained: tuple[Net, Tensor, Tensor]) -> None:
    module, x, _ = trained
    teachers: list[Any] = []

    def tune(net: nn.Module, teacher: nn.Module) -> nn.Module:
        teachers.append(teacher)
        return net

    slim(module, x, tune=tune, target_macs=0.7)
    assert teachers
    assert all(teacher is module for teacher in teachers)


def test_a_loader_with_labels_and_no_loop_is_tuned_here(trained: tuple[Net, Tensor, Tensor]) -> None:
    """Samples go in as they are, and the labels decide."""
    module, x, y = trained
    rows = torch.nn.functional.one_hot(y, 3)
    for labels, metric in ((y, "accuracy"), (rows | rows.roll(1, 0), "label accuracy")):
        loader = DataLoader(TensorDataset(x, labels), batch_size=50)
        done = slim(module, loader, target_macs=0.7, epochs=1, max_drop=100)
        assert done.metric == metric
        assert done.data["normalisation"] == {"mean": [0.0] * 3, "std": [1.0] * 3}
        assert done.result.control["epochs"] == done.result.tunings


# Without a loop


def test_one_shot_keeps_what_says_something() -> None:
    """Of 32 channels 8 are read with weight; the 24 others may all go without the outputs moving."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 16, 3, padding=1), nn.ReLU(),
                           nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)).eval()  # fmt: skip
    useful = [1, 4, 9, 16, 20, 25, 30, 31]
    idle = [c for c in range(32) if c not in useful]
    with torch.no_grad():
        module[2].weight[:, idle] *= 1e-4
    x = torch.randn(64, 3, 10, 10)
    done = slim(module, x.numpy(), target_macs=0.3)
    kept = module[0].weight[useful]
    assert done.module[0].out_channels <= 9
    for row in kept.detach():
        assert any(torch.equal(row, own) for own in done.module[0].weight.detach())
    wanted, got = (net(x).detach() for net in (module, done.module))
    assert float((got - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()) < 1e-2


def test_what_goes_is_given_to_what_stays() -> None:
    """Half of the channels are mixtures of the others: without them least squares gives the same answers."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
    with torch.no_grad():
        mix = torch.randn(8, 8) / 3
        first.weight[8:] = torch.einsum("oi,ixyz->oxyz", mix, first.weight[:8])
        first.bias[8:] = mix @ first.bias[:8]
    module = nn.Sequential(first, second, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    x = torch.randn(128, 3, 12, 12)
    done = slim(module, x, target_macs=0.55, keep=("5",))
    assert done.module[0].out_channels <= 8 + 1
    wanted, got = (net(x).detach() for net in (module, done.module))
    assert float((got - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()) < 0.02


def test_norms_are_measured_anew_without_what_the_samples_do_to_the_original() -> None:
    """Samples of another brightness than those that the norms have seen: a cut of idle channels changes nothing."""
    torch.manual_seed(0)
    module = Net(16).eval()
    with torch.no_grad():
        module.train()
        for _ in range(20):
            module(torch.randn(16, 3, 12, 12))
        module.eval()
        module.body[1][0].weight[:, 8:] = 0
    x = torch.randn(96, 3, 12, 12) * 3 + 2
    done = slim(module, x, target_macs=0.8)
    assert done.module.body[0][0].out_channels < 16
    wanted, got = (net(x).detach() for net in (module, done.module))
    assert float((got - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()) < 1e-3


# Samples and modules of every form


class Pair(nn.Module):
    """Two inputs by name or in a mapping, two outputs in one."""

    def __init__(self, mapping: bool) -> None:
        super().__init__()
        self.mapping = mapping
        self.a, self.b, self.head = block(3, 16, 2), block(3, 16, 2), nn.Linear(16, 3)

    def forward(self, left: Any, right: Any = None) -> dict[str, Tensor]:
        if self.mapping:
            left, right = left["left"], left["right"]
        y = (self.a(left) + self.b(right)).mean((2, 3))
        return {"logits": self.head(y), "largest": self.head(y).amax(1)}


@pytest.mark.parametrize("form", ["tuple", "mapping", "dataset", "loader", "batches", "named"])
def test_samples_of_every_form(form: str) -> None:
    torch.manual_seed(0)
    x, y = pictures(48)
    labels = torch.zeros(48, 5)
    module = Pair(form in ("batches",)).eval()
    samples: Any = {
        "tuple": (x, x.flip(0), labels),
        "mapping": {"left": x, "right": x.flip(0), "label": y},
        "dataset": TensorDataset(x, x.flip(0)),
        "loader": DataLoader(TensorDataset(x, x.flip(0), y), batch_size=16),
        "batches": [{"left": x[i : i + 16], "right": x[i : i + 16], "label": y[i : i + 16]} for i in (0, 16, 32)],
        "named": ({"left": x[:24].numpy(), "right": x[24:].numpy()},),
    }[form]
    if form == "named":
        samples = list(samples)
    done = slim(module, samples, target_macs=0.6)
    assert type(done.module) is Pair
    assert done.after.macs <= 0.6 * done.before.macs
    assert done.module.a[0].out_channels == done.module.b[0].out_channels < 16
    batch = ({"left": x, "right": x},) if form == "batches" else (x, x)
    assert done.module(*batch)["logits"].shape == (48, 3)


class Recurrent(nn.Module):
    """A part that dojang does not know, behind one that it does."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(block(3, 16, 2), block(16, 16, 2))
        self.lstm, self.head = nn.LSTM(16, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        found, _ = self.lstm(self.front(x).flatten(2).transpose(1, 2))
        return self.head(found[:, -1])


class Halves(nn.Module):
    """Both halves of a layer are used on their own, and halved by the module's code."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = block(3, 32, 2), block(16, 16), nn.Conv2d(48, 8, 1)
        with torch.no_grad():
            self.last.weight[:, :16] *= 1e-3  # nobody needs the first half, and alone it would go

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).chunk(2, 1))
        parts.append(parts[1] + self.inner(parts[1]))
        return self.last(torch.cat(parts, 1)).mean((2, 3))


class Auxiliary(nn.Module):
    """A head that only training uses reads the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = block(3, 16, 2), block(16, 16, 2)
        self.aux, self.head = nn.Conv2d(16, 3, 1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Any:
        y = self.first(x)
        found = self.head(self.second(y).mean((2, 3)))
        return (found, self.aux(y)) if self.training else found


class Fixed(nn.Module):
    """Code that fixes one size, and leaves another open."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = block(3, 16, 2), block(16, 16, 2), nn.Linear(16 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)).view(-1, 144))


class Places(nn.Module):
    """Logits, and which of them is the largest."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net(16)

    def forward(self, x: Tensor) -> Any:
        y = self.net(x)
        return y, y.argmax(1)


class Steps(nn.Module):
    """Logits in steps: PyTorch has no derivative for `//`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) // 0.01


@pytest.mark.parametrize(
    ("make", "narrower", "whole"),
    [
        (Recurrent, ["front.0.0"], ["front.1.0"]),
        (Halves, ["first.0", "inner.0"], ["last"]),
        (Auxiliary, ["second.0"], ["first.0"]),
        (Fixed, ["first.0"], ["second.0"]),
        (Places, ["net.body.0.0", "net.body.1.0"], ["net.head"]),
        (Steps, ["net.body.0.0", "net.body.1.0"], ["net.head"]),
    ],
)
def test_what_is_not_followed_stays_and_the_rest_goes(
    make: Callable[[], nn.Module], narrower: list[str], whole: list[str]
) -> None:
    torch.manual_seed(0)
    module = make().eval()
    done = slim(module, torch.randn(48, 3, 12, 12), target_macs=0.4)
    assert type(done.module) is make
    for name in narrower:
        assert done.module.get_submodule(name).weight.shape[0] < module.get_submodule(name).weight.shape[0]
    for name in whole:
        assert done.module.get_submodule(name).weight.shape[0] == module.get_submodule(name).weight.shape[0]
        assert any(name in one.layers for one in done.refused)
    done.module.train()(torch.randn(4, 3, 12, 12))
    assert any("fails" in one.reason for one in done.refused) is (make in (Auxiliary, Fixed))
    if make is Auxiliary:
        assert any("only training uses: aux" in one.reason for one in done.refused)


@pytest.mark.parametrize("norm", ["weight", "spectral", "old weight", "old spectral", "compiled", "hook"])
def test_what_stands_around_layers_survives(norm: str) -> None:
    torch.manual_seed(0)
    module: Any = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(),
                                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))  # fmt: skip
    wrap: Any = {
        "weight": parametrizations.weight_norm,
        "spectral": parametrizations.spectral_norm,
        "old weight": getattr(nn.utils, "weight_norm"),  # noqa: B009 (deprecated, and still in use)
        "old spectral": nn.utils.spectral_norm,
    }.get(norm, lambda layer: layer)
    called: list[int] = []
    with pytest.warns(FutureWarning) if norm == "old weight" else _nothing():
        for place in (0, 2, 6):
            module[place] = wrap(module[place])
    if norm == "hook":
        module[0].register_forward_hook(lambda *_: called.append(1))
    x = torch.randn(48, 3, 12, 12)
    with torch.no_grad():
        module.train()(x)
    module.eval()
    if norm == "compiled":
        module = torch.compile(module, backend="eager")
    wanted = module(x)
    done = slim(module, x, target_macs=0.5)
    assert type(done.module) is type(module)
    own, inner = (getattr(net, "_orig_mod", net) for net in (done.module, module))
    assert own[0].weight.shape[0] < 16
    assert type(own[0]) is type(inner[0])
    assert set(done.module.state_dict()) == set(module.state_dict())
    assert done.module(x).shape == wanted.shape
    called.clear()
    done.module.train()(x)
    assert bool(called) is (norm == "hook")


class _nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


# What is refused


def broken(case: str, module: Net, x: Tensor) -> dict[str, Any]:
    def raises(net: nn.Module) -> None:
        raise RuntimeError("out of memory")

    def spoils(net: Any) -> None:
        net.head.weight.data[0] = float("nan")

    def wrong(net: nn.Module) -> None:
        module.head.weight.data += 1

    answers: Iterator[float] = iter([0.9, 0.4, 0.7] * 20)
    return {
        "tune raises": {"tune": raises, "target_macs": 0.5},
        "tune leaves NaN": {"tune": spoils, "target_macs": 0.5},
        "tune changes the wrong module": {"tune": wrong, "target_macs": 0.5},
        "tune returns a number": {"tune": lambda net: 3.0, "target_macs": 0.5},
        "tune returns another": {"tune": lambda net: Net(7), "target_macs": 0.5},
        "evaluate is random": {"evaluate": lambda net: next(answers), "target_macs": 0.5},
        "evaluate says nothing": {"evaluate": lambda net: None, "target_macs": 0.5},
        "evaluate says NaN": {"evaluate": lambda net: float("nan"), "target_macs": 0.5},
        "evaluate raises": {"evaluate": raises, "target_macs": 0.5},
        "no target": {},
        "drop without a measure": {"max_drop": 1.0, "target_macs": 0.5},
        "unknown layer": {"keep": ("boddy.*",), "target_macs": 0.5},
        "impossible target": {"target_macs": 1.5},
    }[case]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("tune raises", "tune raised RuntimeError: out of memory"),
        ("tune leaves NaN", r"after tune head.weight holds NaN"),
        ("tune changes the wrong module", "tune changed the module that was given to slim"),
        ("tune returns a number", "tune returned float"),
        ("tune returns another", "other arrays"),
        ("evaluate is random", "evaluate is random: .* 0.9, then 0.4"),
        ("evaluate says nothing", "evaluate returned None"),
        ("evaluate says NaN", "finite number"),
        ("evaluate raises", "evaluate raised RuntimeError"),
        ("no target", "say how far to cut"),
        ("drop without a measure", "max_drop needs `evaluate`"),
        ("unknown layer", "boddy.*no layer is called so"),
        ("impossible target", "target-macs 1.5"),
    ],
)
def test_bad_loops_and_measures_are_refused_in_one_line(
    case: str, said: str, trained: tuple[Net, Tensor, Tensor]
) -> None:
    module, x, _ = trained
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(DojangError, match=said) as error:
        slim(module, x, **broken(case, module, x))
    assert len(str(error.value).splitlines()) == 1
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize(
    ("samples", "said", "kind"),
    [
        (torch.zeros(0, 3, 12, 12), "there are no samples", DataError),
        (torch.full((8, 3, 12, 12), float("nan")), "NaN or infinity", DataError),
        (torch.zeros(8, 5, 12, 12), "does not go through Net", DataError),
        (np.zeros((8, 3, 12, 12), np.uint8), "whole bytes", UsageError),
        (17, "samples are an array", UsageError),
        ([], "there are no samples", DataError),
        ([torch.zeros(8, 3, 12, 12), torch.zeros(8, 4, 12, 12)], "8x4x12x12 does not go through Net", DataError),
    ],
)
def test_bad_samples_are_refused(samples: Any, said: str, kind: type[DojangError]) -> None:
    with pytest.raises(kind, match=said):
        slim(Net().eval(), samples, target_macs=0.5)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"tune": 3}, "tune is int, and has to be a function of a module: tune=lambda module: ..."),
        ({"evaluate": 0.85}, "evaluate is float, and has to be a function of a module"),
        ({"target_macs": "0.5"}, "target-macs '0.5' is no number"),
        ({"runtime": "tensorrt"}, "runtime 'tensorrt' is not known; use dojang"),
        ({"batch_size": 0}, "batch size 0 must be at least 1"),
        ({"seed": -1}, "seed -1 is no whole number from 0"),
        ({"keep": "hed"}, "keep 'hed': no layer is called so"),
    ],
)
def test_what_makes_no_sense_is_said_before_the_work(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        slim(Net(), torch.randn(32, 3, 12, 12), **{"target_macs": 0.5, **asked})
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_samples_say_their_size_to_a_diagnosis() -> None:
    torch.manual_seed(0)
    module, x = Net().eval(), torch.randn(20, 3, 12, 12)
    with torch.no_grad():
        module.body[0][1].weight[:3], module.body[0][1].bias[:3] = 0, -1
    found = [package.diagnose(module, given) for given in (x, x.numpy(), (x, torch.arange(20) % 3))]
    for one in found:
        assert one.samples in (17, 20)  # with labels a part is held out
        assert {finding.channels for finding in one.findings if finding.kind == "dead-proven"} == {(0, 1, 2)}


def test_a_module_that_cannot_be_followed_is_refused_with_the_reason() -> None:
    class Loop(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            while x.sum() > 0:
                x = x - 1
            return x

    with pytest.raises(UnsupportedError, match="Loop cannot be followed"):
        slim(Loop(), torch.randn(8, 3, 4, 4), target_macs=0.5)


def test_small_noise_of_a_measure_is_said(trained: tuple[Net, Tensor, Tensor]) -> None:
    module, x, y = trained
    noise = iter(np.linspace(0, 0.1, 50).tolist())
    done = slim(module, x, evaluate=lambda net: float(right(net, x, y).mean()) + next(noise), target_macs=0.8)
    assert any("evaluate is random" in note for note in done.notes)
    assert done.result.control["standard_error"] > 0


def test_tunings_of_other_code_are_not_taken_up(trained: tuple[Net, Tensor, Tensor], tmp_path: Path) -> None:
    """Longer training, or another measure, asks anew; the same code does not."""
    module, x, y = trained
    seen: list[tuple[int, int]] = []

    def run(epochs: int, part: int, most: int, resume: bool = True, out: str = "out") -> int:
        """Runs until `most` modules were measured; how often the loop and the measure were called."""
        seen.clear()

        def tune(net: nn.Module) -> None:
            seen.append((epochs, part))
            train(net, x, y, epochs, 0.01)

        def evaluate(net: nn.Module) -> Tensor:
            seen.append((epochs, part))
            return right(net, x, y)[part:]

        halt = iter([0] * most)

        def measured(net: nn.Module) -> Tensor:
            if next(halt, 1):
                raise KeyboardInterrupt
            return evaluate(net)

        with contextlib.suppress(KeyboardInterrupt):
            slim(module, x, tune=tune, evaluate=measured, target_macs=0.5, output=tmp_path / out, resume=resume)
        return len(seen)

    run(1, 0, 1000, False, "whole")
    measured = sum(1 for _ in seen) - 3  # two candidates and the control are tuned
    first = run(1, 0, measured - 1, False)
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "out", kept)
    again = []
    for epochs, part in ((1, 0), (2, 0), (1, 1)):
        shutil.rmtree(tmp_path / "out")
        shutil.copytree(kept, tmp_path / "out")
        again.append(run(epochs, part, measured - 1))
    assert again[0] < first
    assert again[1] > again[0]
    assert again[2] > again[0]


@pytest.mark.parametrize("minutes", [0.001, None])
def test_a_target_missed_for_want_of_time_says_so(trained: tuple[Net, Tensor, Tensor], minutes: float | None) -> None:
    module, x, y = trained

    def tune(net: nn.Module, share: float) -> None:
        train(net, x, y, 1, 0.001 * share)

    done = slim(module, x, tune=tune, evaluate=lambda net: right(net, x, y), target_macs=0.001, minutes=minutes)
    [missed] = [note for note in done.result.notes if "the target was not reached" in note]
    why = "no more channels can go" if minutes is None else "the time for choosing was up; give more minutes"
    assert missed.endswith(why)


def test_nothing_is_left_in_the_temporary_folder(
    trained: tuple[Net, Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, x, y = trained
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    slim(module, x, evaluate=lambda net: right(net, x, y), target_macs=0.7)
    assert list(tmp_path.iterdir()) == []


def test_a_loop_that_is_interrupted_is_taken_up(trained: tuple[Net, Tensor, Tensor], tmp_path: Path) -> None:
    module, x, y = trained
    tuned: list[int] = []
    fails: list[int] = []

    def run(fail: int, **more: Any) -> Any:
        fails[:] = [fail]

        def tune(net: nn.Module) -> None:
            tuned.append(1)
            if len(tuned) == fails[0]:
                raise KeyboardInterrupt
            train(net, x, y, 4, 0.01)

        given: dict[str, Any] = {"tune": tune, "evaluate": lambda net: right(net, x, y), "target_macs": 0.1}
        return slim(module, x, output=tmp_path / "out", **given, **more)

    straight = slim(module, x, tune=lambda net: train(net, x, y, 4, 0.01), evaluate=lambda net: right(net, x, y),
                    target_macs=0.1)  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        run(5)
    assert (tmp_path / "out" / "unfinished" / "best.pt").is_file()
    load_slim(tmp_path / "out" / "unfinished" / "best.pt", Net())(x)
    with pytest.raises(UsageError, match="resume"):
        run(0)
    before = len(tuned)
    done = run(0, resume=True)
    assert len(tuned) - before < before + 4
    for name, value in straight.module.state_dict().items():
        torch.testing.assert_close(done.module.state_dict()[name], value)
    assert not (tmp_path / "out" / "unfinished").exists()
    assert {Path(file).name for file in done.files} == {
        "front.svg", "model.onnx", "model.pt", "model.safetensors", "report.html", "run.json"
    }  # fmt: skip
    torch.testing.assert_close(load_slim(tmp_path / "out" / "model.pt", Net())(x), done.module(x))
    with pytest.raises(UsageError, match="Halves"):
        load_slim(tmp_path / "out" / "model.pt", Halves())
    torch.save(module.state_dict(), tmp_path / "plain.pt")
    with pytest.raises(FileError, match="was not written by a slimming"):
        load_slim(tmp_path / "plain.pt", Net())
