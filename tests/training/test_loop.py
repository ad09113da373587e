"""Training itself: it learns, repeats itself to the bit, stops well, and refuses what cannot work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dojang.base.errors import CheckFailed, DataError, FileError, ShapeError, UsageError
from dojang.training.config import TrainConfig
from dojang.training.data import Augment, Data, from_arrays
from dojang.training.load import load
from dojang.training.loop import fit
from dojang.training.record import Progress
from dojang.training.score import evaluate
from dojang.training.state import STATE_FILE, read

Small = Callable[..., nn.Module]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("digits")


def few(data: Data, count: int = 200) -> Data:
    x, y = data.train.x[:count], data.train.y[:count]
    return from_arrays(x, y, data.test.x[:80], data.test.y[:80], classes=data.classes, name="few digits")


def weights(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: t.numpy().copy() for name, t in module.state_dict().items()}


def same(a: nn.Module, b: nn.Module) -> bool:
    one, two = weights(a), weights(b)
    return one.keys() == two.keys() and all(np.array_equal(one[k], two[k]) for k in one)


@pytest.mark.slow
def test_a_small_cnn_learns_the_digits(digits: Data, small: Small) -> None:
    module = small(norm=False)
    history = fit(module, digits, TrainConfig(epochs=15, lr=0.1))
    assert history.test.accuracy > 0.97
    assert history.metric == "accuracy"
    assert not module.training
    # The figures are those of the module that is handed back, after the last epoch.
    x, y = torch.from_numpy(digits.test.inputs()), torch.from_numpy(digits.test.y)
    with torch.no_grad():
        output = module(x)
    assert history.test.accuracy == pytest.approx(float((output.argmax(1) == y).float().mean()))
    assert history.test.loss == pytest.approx(float(F.cross_entropy(output, y)), rel=1e-5)
    assert evaluate(module, digits.test).accuracy == history.test.accuracy
    assert evaluate(module, digits.train, batch_size=7).loss == pytest.approx(history.train.loss, rel=1e-5)
    assert digits.test.accuracy(output.numpy()) == history.test.accuracy
    assert history.gap == history.train.accuracy - history.test.accuracy
    record = json.loads(json.dumps(history.to_dict()))
    assert [point["epoch"] for point in record["curve"]] == list(range(1, 16))
    assert record["test_accuracy"] == record["curve"][-1]["test_accuracy"]
    assert record["curve"][-1]["train_loss"] < 0.2 * record["curve"][0]["train_loss"]
    assert record["data"]["hash"] == digits.hash
    assert record["config"]["seed"] == 0


def test_one_step_is_that_of_pytorch_by_hand(small: Small) -> None:
    rng = np.random.default_rng(0)
    data = from_arrays(rng.normal(size=(16, 1, 8, 8)), np.arange(16) % 10, rng.normal(size=(2, 1, 8, 8)), [0, 1])
    ours, theirs = small(norm=False), small(norm=False)
    fit(ours, data, TrainConfig(epochs=3, batch_size=16, lr=0.1, warmup=0.0, weight_decay=0.01))
    x, y = torch.from_numpy(data.train.inputs()), torch.from_numpy(data.train.y)
    velocity = {n: torch.zeros_like(p) for n, p in theirs.named_parameters()}
    for step in range(3):
        rate = 0.05 * (1 + np.cos(np.pi * step / 3))
        theirs.zero_grad()
        F.cross_entropy(theirs(x), y).backward()
        with torch.no_grad():
            for name, p in theirs.named_parameters():
                assert p.grad is not None
                gradient = p.grad + (0.01 * p if p.ndim > 1 else 0)
                velocity[name] = 0.9 * velocity[name] + gradient
                p -= rate * (gradient + 0.9 * velocity[name])  # Nesterov
    for name, a in weights(ours).items():
        np.testing.assert_allclose(a, theirs.state_dict()[name].numpy(), rtol=1e-4, atol=1e-6)


def test_the_same_seed_gives_the_same_bits_whatever_else_draws_numbers(digits: Data, small: Small) -> None:
    data, config = few(digits), TrainConfig(epochs=2, augment=Augment(1, True), label_smoothing=0.1)
    a, b, c = small(dropout=0.3), small(dropout=0.3), small(dropout=0.3)
    first = fit(a, data, config)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    second = fit(b, data, config)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(a, b)
    assert [p.train_loss for p in first.curve] == [p.train_loss for p in second.curve]
    fit(c, data, TrainConfig(**{**vars(config), "seed": 1}))
    assert not same(a, c)


class Stop(Exception):
    pass


@pytest.mark.parametrize("at", [(1, 1), (1, 3), (2, 4), (3, 2)])
def test_taken_up_again_it_ends_the_same(digits: Data, small: Small, tmp_path: Path, at: tuple[int, int]) -> None:
    data = few(digits)
    config = TrainConfig(epochs=3, batch_size=50, augment=Augment(1, True), checkpoint_seconds=0.0)
    whole, parts = small(dropout=0.3), small(dropout=0.3)
    expected = fit(whole, data, config)

    def stop(now: Progress) -> None:
        if (now.epoch, now.step) == at and now.done is None:
            raise Stop

    with pytest.raises(Stop):
        fit(parts, data, config, directory=tmp_path, progress=stop)
    again = small(seed=5, dropout=0.3)
    got = fit(again, data, config, directory=tmp_path, resume=True)
    assert same(whole, again)
    strip = [{**vars(p), "seconds": 0} for p in expected.curve]
    assert [{**vars(p), "seconds": 0} for p in got.curve] == strip
    assert (got.train, got.test) == (expected.train, expected.test)
    # And once it is finished, taking it up again trains no further.
    third = small(seed=6, dropout=0.3)
    assert fit(third, data, config, directory=tmp_path, resume=True).curve == got.curve
    assert same(whole, third)


def test_a_run_is_neither_overwritten_nor_mixed_with_another(digits: Data, small: Small, tmp_path: Path) -> None:
    data, config = few(digits), TrainConfig(epochs=1)
    fit(small(), data, config, directory=tmp_path, resume=True)  # nothing there yet: starts anew
    with pytest.raises(UsageError, match="holds a training run already"):
        fit(small(), data, config, directory=tmp_path)
    with pytest.raises(UsageError, match=r"has finished its 1 epochs.*fine-tune the network"):
        fit(small(), data, TrainConfig(epochs=2), directory=tmp_path, resume=True)
    with pytest.raises(UsageError, match="has other data: samples, labels, classes or normalisation are not"):
        fit(small(), few(digits, 190), config, directory=tmp_path, resume=True)
    with pytest.raises(UsageError, match=r"another network: there '1: BatchNorm2d.*here '1: Identity"):
        fit(small(norm=False), data, TrainConfig(epochs=1), directory=tmp_path, resume=True)
    fit(small(), data, TrainConfig(epochs=2), directory=tmp_path, overwrite=True)
    for bad in ((tmp_path / STATE_FILE).read_bytes()[:500], b"", b"\x08\0\0\0\0\0\0\0{}      "):
        (tmp_path / STATE_FILE).write_bytes(bad)
        with pytest.raises(FileError, match="damaged"):
            fit(small(), data, TrainConfig(epochs=2), directory=tmp_path, resume=True)


@pytest.mark.slow
def test_distillation_outweighs_wrong_labels(digits: Data, small: Small) -> None:
    data = few(digits, 600)
    teacher = small(seed=1)
    fit(teacher, data, TrainConfig(epochs=10, lr=0.1))
    wrong = from_arrays(data.train.x, (data.train.y + 1) % 10, data.test.x, data.test.y)
    x = torch.from_numpy(data.test.inputs())

    def agreement(student: nn.Module) -> float:
        with torch.no_grad():
            return float((student(x).argmax(1) == teacher(x).argmax(1)).float().mean())

    alone, taught, other = small(seed=2), small(seed=2), small(seed=2)
    config = TrainConfig(epochs=8, lr=0.1, alpha=0.95, temperature=2.0)
    before = weights(teacher)
    teacher.train()
    fit(alone, wrong, config)
    fit(taught, wrong, config, teacher=teacher)
    assert teacher.training
    teacher.eval()
    assert agreement(alone) < 0.2
    assert agreement(taught) > 0.85
    assert all(np.array_equal(before[k], v) for k, v in weights(teacher).items())
    # A function serves as well as a module, and gives the same.
    fit(other, wrong, config, teacher=lambda batch: teacher(batch).numpy())
    assert same(taught, other)


def test_regression_reports_r2(small: Small) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 1, 8, 8))
    y = np.stack([x.mean((1, 2, 3)) * 8 + 3, x[:, 0, :4].mean((1, 2)) * 5 - 7], 1)
    data = from_arrays(x, y)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    history = fit(module, data, TrainConfig(epochs=30, lr=0.05, weight_decay=0.0))
    assert history.metric == "r2"
    assert history.test.accuracy > 0.99
    with torch.no_grad():
        output = module(torch.from_numpy(data.test.inputs())).numpy().astype(np.float64)
    error = ((output - data.test.y) ** 2).mean(0)
    assert history.test.accuracy == pytest.approx(1 - (error / data.test.y.astype(np.float64).var(0)).mean(), abs=1e-5)
    assert history.test.loss == pytest.approx(error.mean(), rel=1e-3)
    assert data.test.accuracy(output) == pytest.approx(history.test.accuracy, abs=1e-5)
    with pytest.raises(ShapeError, match="2 targets"):
        fit(small(outputs=3), data, TrainConfig())
    with pytest.raises(CheckFailed, match=r"scale the targets, whose deviation is 1\.\d+e\+06"):
        fit(small(outputs=2), from_arrays(x, y * 1e6), TrainConfig(lr=0.1))


def test_a_loss_that_is_no_number_stops_with_the_last_good_state(digits: Data, small: Small, tmp_path: Path) -> None:
    data, module = few(digits), small(norm=False)
    seen: list[Any] = []

    def blow_up(now: Progress) -> None:
        seen.append(now)
        if (now.epoch, now.step) == (2, 2) and now.done is None:
            with torch.no_grad():
                module[0].weight.mul_(float("inf"))
        if now.done is not None:
            seen.append(weights(module))

    config = TrainConfig(epochs=4, batch_size=50, lr=0.05)
    with pytest.raises(CheckFailed, match=r"epoch 2, step 3 of 4.*after 1 epochs and 0 steps is kept in"):
        fit(module, data, config, directory=tmp_path, progress=blow_up)
    good = next(s for s in seen if isinstance(s, dict))
    assert all(np.array_equal(good[k], v) for k, v in weights(module).items())
    kept = read(tmp_path)
    assert kept is not None
    assert (kept.position.epoch, kept.position.step) == (1, 0)
    assert all(np.array_equal(good[k], kept.tensors[f"model.{k}"].numpy()) for k in good)
    with pytest.raises(CheckFailed, match=r"diverged .* smaller --lr than 1e\+09"):
        fit(small(norm=False), data, TrainConfig(epochs=4, lr=1e9))
    module = small()
    module[4].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(DataError, match="NaN or infinity before training"):
        fit(module, data, config)


def test_networks_and_data_that_do_not_fit(digits: Data, small: Small) -> None:
    data = few(digits)
    for module, error, message in (
        (
            small(outputs=1000),
            ShapeError,
            r"\(1, 1000\) for one sample, the data have 10 classes; use a network with 10 outputs",
        ),
        (nn.Conv2d(3, 10, 8), ShapeError, "does not take samples of 1×8×8"),
        (nn.Sequential(small(), nn.Softmax(1)), ShapeError, "ends in softmax"),
        (nn.Flatten(), UsageError, "no parameters"),
    ):
        with pytest.raises(error, match=message) as caught:
            fit(module, data, TrainConfig())
        assert "\n" not in str(caught.value)
    with pytest.raises(ShapeError, match="the teacher gives"):
        fit(small(), data, TrainConfig(), teacher=small(outputs=7))
    with pytest.raises(ShapeError, match="ends in sigmoid"):
        fit(nn.Sequential(small(), nn.Sigmoid(), nn.Flatten()), data, TrainConfig())
    with pytest.raises(UsageError, match="batch norm"):
        fit(small(), data, TrainConfig(batch_size=1))
    with pytest.raises(UsageError, match="device 'tpu'"):
        fit(small(), data, TrainConfig(device="tpu"))
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no CUDA device"):
            fit(small(), data, TrainConfig(device="cuda"))


def test_the_test_part_is_looked_at_as_often_as_asked(digits: Data, small: Small) -> None:
    history = fit(small(), few(digits), TrainConfig(epochs=5, test_every=2))
    assert [p.test_accuracy is not None for p in history.curve] == [False, True, False, True, True]


def test_uint8_pictures_train_as_their_floats_do(small: Small) -> None:
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 256, (64, 1, 8, 8), dtype=np.uint8), np.arange(64) % 2
    a, b = small(outputs=2), small(outputs=2)
    config = TrainConfig(epochs=2, optimiser="sgd")  # AdamW divides gradients near 0 by themselves
    fit(a, from_arrays(x, y, x, y), config)
    fit(b, from_arrays((x / 255).astype(np.float32), y, x / 255, y), config)
    for name, value in weights(a).items():
        np.testing.assert_allclose(value, b.state_dict()[name].numpy(), rtol=2e-3, atol=2e-4)


@pytest.mark.slow
def test_frozen_switches_of_pytorch_are_no_hindrance():
    script = (
        "import numpy as np, torch; torch.backends.disable_global_flags();"
        "from dojang.training import TrainConfig, fit, from_arrays;"
        "x = np.random.default_rng(0).random((64, 1, 4, 4), np.float32); y = np.arange(64) % 2;"
        "net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2));"
        "fit(net, from_arrays(x, y, x, y), TrainConfig(epochs=1, batch_size=16))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
