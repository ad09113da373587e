"""Slimming without loss, without labels and without data: what is cut, what is said, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import dojang as package
from dojang.arith.graph import Graph
from dojang.base.errors import DataError, ShapeError, UsageError
from dojang.engine.session import Session
from dojang.formats import onnx
from nets import N, conv, net, weighted

from .conftest import Command


@pytest.fixture(scope="module")
def doubled() -> Graph:
    """A network whose first layer says everything eight times, so that less takes less time on any clock."""
    graph = weighted(
        net(
            conv("c1", "x", 128), N("r1", "relu", "c1"), conv("c2", "r1", 64), N("r2", "relu", "c2"),
            N("g", "global_avgpool", "r2"), N("f", "flatten", "g"), N("y", "dense", "f", out=5), shape=(3, 16, 16),
        )
    )  # fmt: skip
    again = {name: np.concatenate([graph.weights[name][:16]] * 8) for name in ("c1.weight", "c1.bias")}
    return graph.replace(weights={**graph.weights, **again})


def samples(count: int = 20) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3, 16, 16)).astype(np.float32)


@pytest.mark.parametrize("given", ["nothing", "array", "npy", "npz"])
def test_what_is_cut_answers_the_same(given: str, doubled: Graph, tmp_path: Path) -> None:
    x = samples()
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    data = {"nothing": None, "array": x, "npy": tmp_path / "x.npy", "npz": tmp_path / "x.npz"}[given]
    result = package.slim(doubled, data, lossless=True, output=tmp_path / "out")
    assert result.graph["c1"].attrs["out"] == 16
    np.testing.assert_allclose(Session(result.graph)(x), Session(doubled)(x), atol=1e-5)
    assert set(result.result.certificate) == ({"random"} if given == "nothing" else {"random", "real"})
    assert all(difference["float64"] < 1e-6 for difference in result.result.certificate.values())
    assert result.result.before.accuracy is None
    assert result.result.after.accuracy is None
    assert "accuracy" not in result.convention
    assert result.diagnosis.samples == (0 if given == "nothing" else len(x))
    assert "without labels" in (tmp_path / "out" / "report.html").read_text()


def test_the_command_needs_no_data(doubled: Graph, dojang: Command, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(onnx.to_bytes(doubled))
    done = dojang("slim", tmp_path / "net.onnx", "--lossless", "-o", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["after"]["params"] < found["before"]["params"]
    assert found["after"]["accuracy"] is None
    assert found["data"]["task"] == "unlabelled"


@pytest.mark.parametrize("runtime", ["dojang", "torch", "onnxruntime"])
def test_several_inputs_need_no_data(runtime: str, tmp_path: Path) -> None:
    """Two inputs, two outputs, a channel that is eight others' equal in what they share."""
    graph = weighted(
        net(
            N("z", "input", shape=(2, 16, 16)), conv("c1", "x", 128), N("r1", "relu", "c1"), conv("d1", "z", 128),
            N("s", "add", "r1", "d1"), N("r2", "relu", "s"), conv("c2", "r2", 8), N("g", "global_avgpool", "c2"),
            N("f", "flatten", "g"), N("y", "dense", "f", out=5), outputs=("y", "c2"), shape=(3, 16, 16),
        )
    )  # fmt: skip
    dead = {name: np.array(graph.weights[name]) for name in graph.weights}
    for name in ("c1.weight", "c1.bias", "d1.weight", "d1.bias"):
        dead[name][16:] = 0
    graph = graph.replace(weights=dead)
    result = package.slim(graph, lossless=True, runtime=runtime, output=tmp_path / "out")
    assert result.graph["c1"].attrs["out"] == result.graph["d1"].attrs["out"] == 16
    x = {
        name: np.random.default_rng(1).normal(size=(2, c, 16, 16)).astype(np.float32)
        for name, c in (("x", 3), ("z", 2))
    }
    for a, b in zip(Session(result.graph).run(x).outputs, Session(graph).run(x).outputs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    with pytest.raises(UsageError, match="has 2 inputs"):
        package.slim(graph, samples(), lossless=True)


def test_what_is_refused(doubled: Graph, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give --data, or --lossless"):
        package.slim(doubled)
    with pytest.raises(ShapeError, match="takes"):
        package.slim(doubled, np.zeros((4, 3, 9, 9), np.float32), lossless=True)
    with pytest.raises(DataError, match="NaN|finite"):
        package.slim(doubled, np.full((4, 3, 16, 16), np.nan, np.float32), lossless=True)
    np.savez(tmp_path / "x.npz", pictures=samples())
    with pytest.raises(DataError, match="needs an array x"):
        package.slim(doubled, tmp_path / "x.npz", lossless=True)
    np.savez(tmp_path / "x.npz", x=samples())
    with pytest.raises(DataError, match="needs arrays x and y"):
        package.slim(doubled, tmp_path / "x.npz")


def test_diagnosis_takes_samples_without_labels_and_training_says_that_it_needs_them(
    dojang: Command, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).normal(size=(40, 1, 8, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    same = [package.diagnose("digits-cnn", data) for data in (tmp_path / "x.npy", tmp_path / "x.npz", x)]
    assert [found.samples for found in same] == [40] * 3
    measured = [{(f.layer, f.kind, f.channels) for f in found.findings if f.kind != "hot-spot"} for found in same]
    assert measured[0] == measured[1] == measured[2]
    assert [spectrum.outputs for spectrum in same[0].spectra] == [spectrum.outputs for spectrum in same[2].spectra]
    ran = dojang("diagnose", "digits-cnn", "--data", tmp_path / "x.npy", "--json")
    assert json.loads(ran.out)["samples"] == 40
    for command in ("train", "slim"):
        ran = dojang(command, "digits-cnn", "--data", tmp_path / "x.npy", "-o", tmp_path / "out")
        assert ran.code == 2
        assert "labels are needed: give an .npz with x and y" in ran.err
