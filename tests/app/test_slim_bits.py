"""`slim --bits 8`: what is written, what is judged, which layers keep their floats and why, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import dojang
from dojang.app.cli import main
from dojang.arith.graph import Graph, Node
from dojang.base.errors import DataError, UsageError
from dojang.engine.compiled import compile
from dojang.engine.reference.operators import run_reference
from dojang.evidence.histograms import Histogram
from dojang.formats import checkpoint
from dojang.formats import onnx as onnx_format
from dojang.slimming import layer_noise, quantising
from dojang.slimming.layer_noise import LEAST_DB, Noise


def network(seed: int = 0) -> Graph:
    """Three layers, of which the second reads a few huge numbers beside small ones that decide its output."""
    nodes = (
        Node.of("x", "input", shape=(3, 8, 8)),
        Node.of("c1", "conv", "x", out=8, kernel=(3, 3), padding=1),
        Node.of("r1", "relu", "c1"),
        Node.of("c2", "conv", "r1", out=6, kernel=(3, 3), padding=1),
        Node.of("r2", "relu", "c2"),
        Node.of("g", "global_avgpool", "r2"),
        Node.of("f", "flatten", "g"),
        Node.of("y", "dense", "f", out=4),
    )
    graph, rng = Graph(nodes, ("y",), name="three"), np.random.default_rng(seed)
    return graph.replace(
        weights={
            name: rng.normal(scale=np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.1, size=shape).astype("f4")
            for name, shape in graph.param_shapes.items()
        }
    )


def samples(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 3, 8, 8)).astype("f4")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("bits")
    checkpoint.save(network(), folder / "three.safetensors")
    np.save(folder / "x.npy", samples(40))
    argv = ["slim", str(folder / "three.safetensors"), "--data", str(folder / "x.npy"), "--values", "as-is", "--bits",
            "8", "--no-tuning", "-o", str(folder / "out")]  # fmt: skip
    assert main([*argv]) == 0
    return folder / "out", json.loads((folder / "out" / "run.json").read_text())


def test_files_hold_the_network_in_8_bits(written: tuple[Path, dict[str, object]]) -> None:
    folder, _ = written
    one, two = onnx_format.load(folder / "model.onnx"), checkpoint.load(folder / "model.safetensors")
    assert {p.kind for p in one.precisions.values()} == {p.kind for p in two.precisions.values()} == {"int8", "int32"}
    x = samples(6, seed=9)
    right = run_reference(network(), x).outputs[0]
    for found in (compile(one)(x), compile(two)(x)):
        assert np.square(found - right).sum() < 1e-2 * np.square(right).sum()
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    theirs = session.run(None, {session.get_inputs()[0].name: x})[0]
    np.testing.assert_allclose(compile(one)(x), theirs, atol=0.02 * np.abs(theirs).max())


def test_json_and_page_say_bits_and_noise_of_each_layer(written: tuple[Path, dict[str, object]]) -> None:
    folder, run = written
    result = run["results"]
    assert isinstance(result, dict)
    rows = {row["layer"]: row for row in result["bits"]}
    assert list(rows) == ["c1", "c2", "y"]
    assert all(row["bits"] == 8 and row["own_db"] > 30 and row["why"] == "" for row in rows.values())
    edit = next(e for e in result["edits"] if e["rewrite"] == "eight-bits")
    assert edit["claim"] == "lossy"
    assert "of 40 samples" in edit["check"]["says"]
    page = (folder / "report.html").read_text()
    assert "Signal to noise by layer" in page
    assert f"{rows['c2']['whole_db']:.1f}" in page


def test_the_noise_is_that_of_float64(written: tuple[Path, dict[str, object]]) -> None:
    graph, x = network(), samples(32)
    known = quantising.calibrated(graph, [x])
    made = quantising.quantised(graph, known)
    own, whole = layer_noise.noises(graph, made, [x[:16], x[16:]])
    exact = run_reference(graph, {"x": x}, np.float64, taps=("c1", "r1", "c2")).taps
    small = run_reference(made.graph, {"x": x}, np.float64, taps=("c2",)).taps
    right = 10 * np.log10(np.square(exact["c2"]).sum() / np.square(small["c2"] - exact["c2"]).sum())
    assert abs(whole["c2"].db - right) < 0.1
    scale, zero = made.grids["r1"]
    put = (np.clip(np.rint(exact["r1"] / scale) + zero, 0, 255) - zero) * scale
    nodes = (Node.of("r1", "input", shape=(8, 8, 8)), Node.of("c2", "conv", "r1", **made.graph["c2"].attrs))
    alone = Graph(nodes, ("c2",),
                  weights={k: made.graph.weights[k] for k in ("c2.weight", "c2.bias")})  # fmt: skip
    found = run_reference(alone, {"r1": put}, np.float64).outputs[0]
    right = 10 * np.log10(np.square(exact["c2"]).sum() / np.square(found - exact["c2"]).sum())
    assert abs(own["c2"].db - right) < 0.1


def outlying(graph: Graph) -> Graph:
    """A channel that is large, and that the next layer hardly looks at: on its grid the others have no bits left."""
    weights = {k: v.copy() for k, v in graph.weights.items()}
    weights["c1.bias"][0], weights["c2.weight"][:, 0] = 4e6, 1e-9
    return graph.replace(weights=weights)


def test_a_layer_with_too_much_noise_keeps_its_floats_and_says_why() -> None:
    graph = outlying(network())
    done = dojang.slim(graph, samples(40), bits=8, tuning=False)
    rows = {row.layer: row for row in done.result.bits}
    assert rows["c2"].bits == 32
    assert rows["c2"].own_db is not None
    assert rows["c2"].own_db < LEAST_DB
    assert f"below the limit of {LEAST_DB:g} dB" in rows["c2"].why
    assert rows["c1"].bits == rows["y"].bits == 8
    kept = ["c1.bias", "c1.weight", "y.bias", "y.weight"]  # 4e6 fits int32 beside a coarser scale of its weights
    assert sorted(done.graph.precisions) == kept
    x = samples(8, seed=4)
    right = run_reference(graph, x).outputs[0]
    found = compile(done.graph)(x)
    assert np.square(found - right).sum() < 1e-2 * np.square(right).sum()


def test_layers_keep_their_floats_until_the_selection_loses_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_noise, "LEAST_DB", -100.0)  # so that the judge alone decides
    graph, x = outlying(network()), samples(400)
    y = run_reference(graph, x).outputs[0].argmax(1)
    done = dojang.slim(graph, (x, y), bits=8, tuning=False, values="as-is", mean=0.0, std=1.0, max_drop=3.0)
    rows = {row.layer: row for row in done.result.bits}
    assert rows["c2"].bits == 32
    assert "the selection scores" in rows["c2"].why
    assert any(row.bits == 8 for row in rows.values())
    assert done.after.accuracy is not None
    assert done.after.accuracy > 0.95
    (edit,) = (e for e in done.edits if e.rewrite == "eight-bits")
    assert edit.check["accuracy_after"] >= edit.check["accuracy_before"] - 0.03


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"bits": 8, "lossless": True}, "8 bits change answers, and lossless allows no change"),
        ({"bits": 4}, "bits 4 are not made; use 8"),
        ({"tuning": False}, "no tuning is a request about 8 bits"),
        ({"bits": 8, "tuning": False, "runtime": "torch"}, "torch gains nothing"),
        ({"bits": 8, "evaluate": float}, "not with tune, evaluate"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(more: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        dojang.slim(network(), samples(8), **more)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="calibrated on samples"):
        dojang.slim(network(), bits=8, tuning=False)


@pytest.mark.parametrize("x", [samples(0), np.full((8, 3, 8, 8), np.nan, "f4"), np.full((8, 3, 8, 8), np.inf, "f4")])
def test_samples_that_say_nothing_are_errors(x: np.ndarray) -> None:
    with pytest.raises(DataError) as error:
        dojang.slim(network(), x, bits=8, tuning=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("x", [np.zeros((8, 3, 8, 8), "f4"), np.full((8, 3, 8, 8), 1e-20, "f4"), 300 * samples(8)])
def test_constant_samples_and_those_of_another_range_are_calibrated_as_they_are(x: np.ndarray) -> None:
    graph = network()
    done = dojang.slim(graph, x, bits=8, tuning=False)
    right, found = run_reference(graph, x).outputs[0], compile(done.graph)(x)
    assert np.abs(found - right).max() <= 0.1 * np.abs(right).max()


def test_noise_of_nothing_is_infinite() -> None:
    none, all_noise = Noise(), Noise()
    none.add(np.ones(3), np.ones(3))
    all_noise.add(np.zeros(3), np.ones(3))
    assert (none.db, all_noise.db) == (np.inf, -np.inf)
    assert Histogram().low == np.inf
