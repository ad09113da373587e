"""The control: the original tuned as often and as long as the result, its figures, and whom it teaches."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import dojang as package
from children import finished
from dojang.app.slimming import selection_share
from dojang.app.tuning import Control, TuningOptions, part_of, slopes, tuner
from dojang.arith.graph import Graph
from dojang.base.errors import CheckFailed
from dojang.formats import checkpoint
from dojang.formats.torch import to_module, weights_of
from dojang.formats.zoo import load as zoo
from dojang.training.config import TrainConfig
from dojang.training.load import load as load_data
from dojang.training.loop import fit

from .conftest import Command

EPOCHS, LAST = 1, 2


@pytest.fixture(scope="module")
def slimmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    out = tmp_path_factory.mktemp("tuned") / "out"
    how: Any = {"epochs": EPOCHS, "final_epochs": LAST, "max_drop": 8, "target_macs": 0.6}
    return out, package.slim("digits-cnn", "digits", output=out, **how)  # type: ignore[operator]


def test_the_control_is_the_original_trained_as_long(slimmed: tuple[Path, Any]) -> None:
    """Its accuracy is had again with the training loop alone, from what the documentation says of the recipe."""
    _, done = slimmed
    told = done.to_dict()["control"]
    tunings = done.result.tunings
    assert tunings >= 1
    assert told["tunings"] == tunings + 1
    assert told["epochs"] == tunings * EPOCHS + LAST
    graph = zoo("digits-cnn")
    data = load_data("digits")
    choice = data.selection(selection_share(len(data.train)), 0)
    module = to_module(graph)
    norm = any(isinstance(m, torch.nn.BatchNorm2d) for m in module.modules())
    rate = 0.5 * (0.1 if norm else 0.04) * 64 / 128
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for epochs in [EPOCHS] * tunings + [LAST]:
            config = TrainConfig(epochs=epochs, batch_size=64, lr=rate, seed=0, test_every=epochs)
            fit(module, choice, config, teacher=to_module(graph).eval())
    finally:
        torch.set_num_threads(threads)
    x = ((data.test.x - 0.305) / 0.376).astype(np.float32)
    with torch.no_grad():
        right = (module.eval()(torch.from_numpy(x)).flatten(1).argmax(1).numpy() == data.test.y).mean()
    assert told["accuracy"] == pytest.approx(right, abs=1.5 / len(x))


def test_the_last_tuning_is_told_and_is_what_the_files_hold(slimmed: tuple[Path, Any]) -> None:
    out, done = slimmed
    finish = done.to_dict()["finish"]
    assert finish["epochs"] == LAST
    assert finish["kept"]
    assert finish["teacher"] in ("control", "original")
    data = load_data("digits")
    chosen = data.selection(selection_share(len(data.train)), 0).test
    session = onnxruntime.InferenceSession(out / "model.onnx")
    x = ((chosen.x - 0.305) / 0.376).astype(np.float32)
    answers = session.run(None, {session.get_inputs()[0].name: x})[0].argmax(1)
    assert finish["accuracy_after"] == pytest.approx((answers == chosen.y).mean(), abs=1.5 / len(x))
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Last fine-tuning: 2 epochs" in page
    assert "Control: the original fine-tuned as the result was" in page


def steps(log: list[str]) -> Any:
    """A tuning that writes down who was tuned and who taught, and marks the network."""

    def named(what: str) -> Any:
        def tune(graph: Graph, teacher: Graph, share: float) -> Graph:
            log.append(f"{share:g}: {graph.name} by {teacher.name}")
            return graph.replace(name=f"{graph.name}+{share:g}")

        return tune

    return named


def test_who_is_tuned_by_whom() -> None:
    log: list[str] = []
    graph = zoo("digits-cnn").replace(name="o")
    control = Control(graph, steps(log)("t"), 4, 2)
    finish = control.finish(lambda network: 0.9 if "+" in network.name else 0.8)
    cut = graph.replace(name="cut")
    assert finish(cut, (0.25, 0.75), 0.5).name == "cut+0.5"
    assert log == ["0.25: o by o", "0.75: o+0.25 by o", "0.5: o+0.25+0.75 by o", "0.5: cut by o+0.25+0.75+0.5"]
    assert control.teacher == "control"
    assert control.figures((0.25, 0.75, 0.5), lambda network: float(len(network.name))) == {
        "accuracy": float(len("o+0.25+0.75+0.5")),
        "tunings": 3,
        "epochs": 6,
    }
    assert control.figures((0.25,), lambda network: float(len(network.name))) == {
        "accuracy": float(len("o+0.25")),
        "tunings": 1,
        "epochs": 1,
    }
    assert len(log) == 4  # nothing is trained twice
    assert control.figures((), lambda network: 1.0) is None


def test_a_control_that_learnt_nothing_teaches_nobody() -> None:
    log: list[str] = []
    control = Control(zoo("digits-cnn").replace(name="o"), steps(log)("t"), 3, 7)
    control.finish(lambda network: 0.7 if "+" in network.name else 0.8)(zoo("digits-cnn").replace(name="cut"), (1,), 2)
    assert log[-1] == "2: cut by o"
    assert control.teacher == "original"


def test_a_control_that_diverges_is_said() -> None:
    def tune(graph: Graph, teacher: Graph, share: float) -> Graph:
        raise CheckFailed("training diverged at epoch 1")

    found = Control(zoo("digits-cnn"), tune, 3).figures((1.0, 0.5), lambda network: 1.0)
    assert found == {"accuracy": None, "tunings": 2, "epochs": 4.5, "failed": "training diverged at epoch 1"}


@pytest.mark.parametrize(("epochs", "samples", "whole"), [(0.25, 250, 1), (1, 1000, 1), (1.5, 750, 2), (0.01, 64, 1)])
def test_a_part_of_an_epoch_is_a_part_of_the_samples(epochs: float, samples: int, whole: int) -> None:
    data = load_data("digits")
    data = replace(data, train=data.train.take(np.arange(1000)))
    part, times = part_of(data, epochs, 64, 0)
    assert (len(part.train), times) == (samples, whole)
    assert {tuple(x.ravel()) for x in part.train.x} <= {tuple(x.ravel()) for x in data.train.x}
    again, _ = part_of(data, epochs, 64, 0)
    assert np.array_equal(part.train.y, again.train.y)


def test_tuning_moves_the_weights_and_nothing_else() -> None:
    graph = zoo("digits-cnn")
    data = load_data("digits")
    tuned = tuner(data, 1, TuningOptions(seed=3))(graph, graph)
    assert tuned.nodes == graph.nodes
    assert tuned.weights.keys() == graph.weights.keys()
    assert any(not np.array_equal(tuned.weights[k], graph.weights[k]) for k in graph.weights)
    assert weights_of(to_module(tuned), tuned).weights.keys() == graph.weights.keys()


def test_slopes_are_those_of_finite_differences() -> None:
    """Against the loss itself, moved by a little along single weights, in float64."""
    graph = zoo("digits-cnn")
    data = load_data("digits")
    found = slopes(data, 0)(graph)
    part = data.train.take(np.sort(np.random.default_rng(0).permutation(len(data.train))[:512]))
    x, y = torch.from_numpy(part.inputs(0, len(part))).double(), torch.from_numpy(part.y)
    module = to_module(graph).double().eval()
    named = dict(module.named_parameters())
    assert set(named) <= set(found)
    rng = np.random.default_rng(1)
    for name, parameter in named.items():
        at = tuple(int(rng.integers(0, n)) for n in parameter.shape)
        losses = []
        for step in (1e-4, -1e-4):
            with torch.no_grad():
                parameter[at] += step
                losses.append(float(torch.nn.functional.cross_entropy(module(x).flatten(1), y)))
                parameter[at] -= step
        assert found[name][at] == pytest.approx((losses[0] - losses[1]) / 2e-4, rel=2e-3, abs=1e-6)


@pytest.mark.parametrize("kind", ["weight", "batchnorm", "taylor"])
def test_channels_are_ranked_as_asked(kind: str, dojang: Command, tmp_path: Path) -> None:
    flags = ("--data", "digits", "--epochs", "1", "--max-drop", "30", "--target-macs", "0.6", "--importance", kind)
    ran = dojang("slim", "digits-cnn", *flags, "-o", tmp_path / kind, "--json")
    assert ran.code == 0, ran.err
    data = json.loads(ran.out)
    assert data["after"]["macs"] <= 0.6 * data["before"]["macs"] or any("not reached" in n for n in data["notes"])
    facts = json.loads((tmp_path / kind / "run.json").read_text())
    assert facts["configuration"]["importance"] == kind


SLIM = ("slim", "digits-cnn", "--data", "digits", "--epochs", "1", "--final-epochs", "2", "--max-drop", "8",
        "--target-macs", "0.6")  # fmt: skip


def test_killed_while_the_control_learns_it_ends_the_same_wherever_it_goes_on(dojang: Command, tmp_path: Path) -> None:
    """All choices are made by then; two copies of what was left, each gone on with, end in the same weights."""
    command = [sys.executable, "-m", "dojang", *SLIM, "-o", str(tmp_path / "a")]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert run.stderr is not None
    for line in run.stderr:
        if "control: the original fine-tuned" in line:
            break
    run.send_signal(signal.SIGKILL)
    finished(run)
    assert run.returncode == -signal.SIGKILL
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["unfinished"]
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    ends = []
    for name in ("a", "b"):
        ran = dojang(*SLIM, "-o", tmp_path / name, "--resume")
        assert ran.code == 0, ran.err
        assert not (tmp_path / name / "unfinished").exists()
        facts = json.loads((tmp_path / name / "run.json").read_text())["results"]
        ends.append((checkpoint.load(tmp_path / name / "model.safetensors"), facts["control"], facts["finish"]))
    (one, *said), (other, *same) = ends
    assert said == same
    assert one.nodes == other.nodes
    assert all(np.array_equal(one.weights[k], other.weights[k]) for k in one.weights)
