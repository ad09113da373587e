"""Fine-tuning: its rate, the best epoch beside the last, stopping early, other classes, resuming."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dojang
from dojang.app.samples import load_samples
from dojang.base.errors import CheckFailed, UsageError
from dojang.formats import checkpoint
from dojang.training.config import TrainConfig
from dojang.training.data import Data, from_arrays
from dojang.training.heads import with_new_head
from dojang.training.loop import fit
from dojang.training.probe import is_trained
from dojang.training.recipe import recipe_of
from dojang.training.score import evaluate
from dojang.training.world import World

NET = "network tiny\ninput 1x6x6\nconv1: conv 4 3x3 pad=1\nr: relu\nflatten\nfc: dense {classes}\n"


def rows(count: int = 300, classes: int = 3, noise: float = 0.3, names: tuple[str, ...] | None = None) -> Data:
    """Pictures whose class is the row that is bright."""
    rng = np.random.default_rng(classes)
    y = np.arange(count) % classes
    x = rng.normal(0, noise, (count, 1, 6, 6)).astype(np.float32)
    x[np.arange(count), 0, y] += 1.0
    half = count // 2
    return from_arrays(x[:half], y[:half], x[half:], y[half:], classes=names)


def linear() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 3))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo network trained on classes with names."""
    place = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(0)
    y = np.arange(200) % 10
    x = rng.normal(0, 0.3, (200, 1, 8, 8)).astype(np.float32)
    x[np.arange(200), 0, y % 8, y // 5] += 3
    known = from_arrays(x, y, classes=[f"class {i}" for i in range(10)])
    dojang.train("digits-cnn", known, epochs=4, batch_size=32, output=place / "run")
    return place / "run" / "model.safetensors"


def test_guessing_several_classes_to_a_sample_has_the_entropy_of_yes_and_no() -> None:
    rng = np.random.default_rng(3)
    y = rng.random((200, 3)) < [0.5, 0.1, 0.02]
    y[:3] = True
    data = from_arrays(rng.normal(size=(200, 4)).astype(np.float32), y, rng.normal(size=(20, 4)), y[:20])
    module = nn.Linear(4, 3)
    known, loss, guess = is_trained(module, data, World(torch.device("cpu")))
    shares = y.mean(axis=0)
    best = F.binary_cross_entropy(torch.tensor(shares).expand(200, 3), torch.from_numpy(y).double())
    assert guess == pytest.approx(float(best), rel=1e-6)
    assert loss > guess
    assert not known


def test_trained_weights_are_told_from_fresh_ones_by_their_loss() -> None:
    data, module = rows(), linear()
    alone = World(torch.device("cpu"))
    known, loss, guess = is_trained(module, data, alone)
    assert not known
    assert guess == pytest.approx(np.log(3), rel=1e-3)
    assert loss == pytest.approx(evaluate(module, data.train).loss, rel=1e-5)
    first = fit(module, data, TrainConfig(epochs=15, batch_size=30))
    assert not first.start.fine_tuning
    assert first.start.before is None
    assert is_trained(module, data, alone)[0]
    before = evaluate(module, data.test).accuracy
    second = fit(module, data, TrainConfig(epochs=2, batch_size=30))
    assert second.start.fine_tuning
    assert second.start.before is not None
    assert second.start.before.accuracy == before
    assert second.start.optimiser == "sgd"
    assert second.start.lr < 0.05 * 0.04
    assert "count as trained already" in second.start.why


def test_the_best_epoch_by_the_selection_part_is_kept_beside_the_last() -> None:
    data, module = rows(600, noise=0.8), linear()
    start = {k: v.clone() for k, v in module.state_dict().items()}
    record = fit(module, data, TrainConfig(epochs=6, batch_size=30, lr=3.0, select=0.2, momentum=0.0))
    best = record.best
    assert best is not None
    assert record.best_weights is not None
    curve = [point.selection_accuracy for point in record.curve]
    assert best.accuracy == max(v for v in curve if v is not None)
    chosen = linear()
    chosen.load_state_dict(record.best_weights)
    part = data.selection(0.2)
    assert evaluate(chosen, part.test).accuracy == best.accuracy
    assert evaluate(chosen, data.test).accuracy == best.test_accuracy
    assert evaluate(module, data.test).accuracy == record.test.accuracy  # the module is the last one
    # a rate that spoils everything leaves the state before the first step as the best
    good, data = linear(), rows(600)
    fit(good, data, TrainConfig(epochs=10, batch_size=30, mode="scratch"))
    kept = {k: v.clone() for k, v in good.state_dict().items()}
    # one step, whose weight decay takes every weight w to −w
    decay = TrainConfig(epochs=1, batch_size=600, lr=1e-3, weight_decay=2000.0, momentum=0.0, warmup=0.0)
    worse = fit(good, data, replace(decay, mode="fine-tune"))
    assert worse.best is not None
    assert worse.best.epoch == 0
    assert worse.best_weights is not None
    assert all(torch.equal(worse.best_weights[k], v) for k, v in kept.items())
    assert start.keys() == kept.keys()


@pytest.mark.parametrize(
    ("count", "patience", "aside"), [(60, None, 0), (150, None, 0), (300, None, 30), (900, None, 51), (900, 1, 90)]
)
def test_few_samples_are_set_aside_to_choose_by(count: int, patience: int | None, aside: int) -> None:
    """A tenth of few samples, 50 of more (17 of each of three classes); a tenth where they end the run."""
    data = rows(2 * count)
    assert len(data.train) == count
    config = TrainConfig(epochs=1, batch_size=count, lr=1e-3, mode="fine-tune", patience=patience)
    record = fit(linear(), data, config)
    assert record.start.selection_samples == (record.best.samples if record.best else 0) == aside
    assert record.start.batch == count - aside  # the others are all trained on
    own = fit(linear(), replace(data, val=data.train.take(slice(0, 30))), config)
    assert (own.start.selection_samples, own.start.batch) == (30, count)
    assert "chosen by 30 samples of the validation part" in " ".join(own.start.sentences("accuracy"))
    if aside:
        assert f"chosen by {aside} train samples set aside" in " ".join(record.start.sentences("accuracy"))


def test_patience_ends_the_run_and_resuming_goes_on_with_it(tmp_path: Path) -> None:
    data = rows(400)
    config = TrainConfig(epochs=40, batch_size=30, patience=3, lr=0.05)
    whole = fit(linear(), data, config, directory=tmp_path / "a")
    assert whole.stopped_early
    assert whole.best is not None
    assert len(whole.curve) == whole.best.epoch + 3 < 40
    assert whole.curve[-1].test_accuracy == whole.test.accuracy

    class Stop(Exception):
        pass

    def stop(now: Any) -> None:
        if now.epoch == 3 and now.done is None:
            raise Stop

    quick = TrainConfig(**{**vars(config), "checkpoint_seconds": 0.0})
    with pytest.raises(Stop):
        fit(linear(), data, quick, directory=tmp_path / "b", progress=stop)
    again = fit(linear(), data, quick, directory=tmp_path / "b", resume=True)
    assert again.best == whole.best
    assert [p.selection_loss for p in again.curve] == [p.selection_loss for p in whole.curve]
    assert fit(linear(), data, quick, directory=tmp_path / "b", resume=True).best == whole.best
    with pytest.raises(UsageError, match="has finished its"):
        fit(linear(), data, TrainConfig(**{**vars(config), "epochs": 50}), directory=tmp_path / "a", resume=True)


def test_adamw_taken_up_again_ends_in_the_same_bits(tmp_path: Path) -> None:
    data, config = rows(), TrainConfig(epochs=3, batch_size=30, optimiser="adamw", checkpoint_seconds=0.0)
    whole, again = linear(), linear()
    fit(whole, data, config)

    class Stop(Exception):
        pass

    def stop(now: Any) -> None:
        if (now.epoch, now.step) == (2, 3):
            raise Stop

    with pytest.raises(Stop):
        fit(linear(), data, config, directory=tmp_path, progress=stop)
    fit(again, data, config, directory=tmp_path, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("batch", "samples", "step"), [(299, 300, 150), (500, 300, 300), (128, 300, 100), (64, 64, 64)]
)
def test_the_rate_is_that_of_the_steps_as_they_are(batch: int, samples: int, step: float) -> None:
    recipe = recipe_of(TrainConfig(batch_size=batch, optimiser="sgd"), linear(), samples, False)
    assert recipe.lr == pytest.approx(0.04 * step / 128)
    assert f"{step:g} samples a step" in recipe.why


def test_a_batch_larger_than_the_data_is_all_of_them() -> None:
    record = fit(linear(), rows(100), TrainConfig(epochs=1, batch_size=512))
    assert (record.start.batch, record.steps) == (50, 1)


def test_data_of_other_classes_get_a_new_last_layer(trained: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(90, 1, 8, 8)).astype(np.float32), np.arange(90) % 3
    said: list[str] = []
    for name, settings in (("file", {}), ("zoo", {"weights": trained, "num_classes": 3})):
        net = str(trained) if name == "file" else "digits-cnn"
        done = dojang.train(net, (x, y), epochs=1, batch_size=90, freeze=["conv*", "fc1"], output=tmp_path / name,
                            told=said.append, **settings)  # fmt: skip
        old = checkpoint.read_arrays(trained)
        for array, value in done.graph.weights.items():
            if array.startswith("fc2"):
                assert value.shape[0] == 3
            else:
                assert np.array_equal(value, old[array]), array
        assert set(done.history["start"]["anew"]) == {"fc2.weight", "fc2.bias"}
    assert sum("The last layer fc2 is replaced by one with 3 outputs" in line for line in said) == 2
    # as many classes, by other names
    names = [f"animal {i}" for i in range(10)]
    other = from_arrays(rng.normal(size=(80, 1, 8, 8)), np.arange(80) % 10, classes=names)
    done = dojang.train(str(trained), other, epochs=1, output=tmp_path / "names")
    assert done.history["start"]["anew"]
    assert "animal 3" in done.graph.meta["classes"]


@pytest.mark.parametrize("outputs", [3, 40])
def test_a_new_last_layer_begins_by_guessing_and_passes_slopes_on(outputs: int) -> None:
    """Its first answers lose about what guessing loses, ln(classes), whatever size the old weights had, and yet say
    something of the input: slopes reach the layers before it. PyTorch computes both.
    """
    rng = np.random.default_rng(2)
    graph = dojang.load("digits-cnn")
    new, names = with_new_head(graph, outputs, 0)
    weights = {name: torch.from_numpy(np.array(new.weights[name])) for name in sorted(names)}
    weight = next(w for w in weights.values() if w.ndim == 2)
    assert weight.shape[0] == outputs
    features = torch.from_numpy(np.abs(rng.normal(size=(200, weight.shape[1]))).astype(np.float32)).requires_grad_()
    loss = F.cross_entropy(features @ weight.T, torch.arange(200) % outputs)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(np.log(outputs), rel=0.02)
    assert features.grad is not None
    assert 200 * float(features.grad.norm(dim=1).mean()) > 0.02
    assert all(not w.any() for w in weights.values() if w.ndim == 1)


def test_a_fine_tuning_writes_the_best_and_the_last(trained: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    y = np.arange(300) % 10
    x = rng.normal(0, 0.3, (300, 1, 8, 8)).astype(np.float32)
    x[np.arange(300), 0, y % 8, y // 5] += 3
    names = [f"class {i}" for i in range(10)]
    done = dojang.train(str(trained), from_arrays(x, y, classes=names), epochs=2, output=tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())["results"]
    assert record["best"]["samples"] == done.history["start"]["selection_samples"] > 0
    assert record["start"]["before"]["accuracy"] > 0.3
    best = dojang.load(str(tmp_path / "run" / "best.safetensors"))
    part = load_samples(from_arrays(x, y, classes=names), best).test  # normalised as the network says
    run = dojang.compile(best)
    assert part.accuracy(run(part.inputs())) == pytest.approx(record["best"]["test_accuracy"])


def test_another_network_is_not_taken_up(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = (rng.normal(size=(60, 1, 6, 6)).astype(np.float32), np.arange(60) % 3)
    one, other = tmp_path / "one.net", tmp_path / "other.net"
    text = NET.replace("{classes}", "3")
    one.write_text(text)
    other.write_text(text.replace("relu", "tanh"))
    dojang.train(one, parts, epochs=1, output=tmp_path / "run")
    with pytest.raises(UsageError, match=r"another network: there .*relu.*, here .*tanh"):
        dojang.train(other, parts, epochs=1, output=tmp_path / "run", resume=True)
    assert dojang.train(one, parts, epochs=1, output=tmp_path / "run", resume=True).history["epochs"] == 1


def test_a_new_run_that_diverges_leaves_no_older_network_beside_its_state(tmp_path: Path) -> None:
    dojang.train("digits-cnn", "digits", epochs=1, output=tmp_path)
    with pytest.raises(CheckFailed, match="diverged"):
        dojang.train("digits-cnn", "digits", epochs=2, lr=1e9, force=True, output=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"training.safetensors", "log.csv", "tensorboard"}
    # refused before it starts, it leaves everything
    dojang.train("digits-cnn", "digits", epochs=1, force=True, output=tmp_path)
    with pytest.raises(UsageError):
        dojang.train("digits-cnn", "digits", freeze="nothing", force=True, output=tmp_path)
    assert (tmp_path / "model.safetensors").exists()


def test_a_regression_has_no_answers_with_probabilities(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 1, 6, 6)).astype(np.float32)
    net = tmp_path / "ages.net"
    net.write_text(NET.replace("{classes}", "2"))
    dojang.train(net, (x, np.stack([x.mean((1, 2, 3)), x.std((1, 2, 3))], 1)), epochs=1, output=tmp_path / "run")
    assert dojang.run(str(tmp_path / "run" / "model.safetensors"), x[0]).top == ()
