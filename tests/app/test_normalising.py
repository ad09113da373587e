"""Where normalisation lives in exported networks: held against ONNX Runtime on raw pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import dojang as package
from dojang.app.exporting import Normalise
from dojang.app.normalising import normalising_inside
from dojang.arith.graph import Graph, Node
from dojang.arith.preparation import preparations, stating
from dojang.base.errors import UsageError
from dojang.evidence.intervals import ranges
from dojang.formats import onnx as onnx_format

from .conftest import Command

NET = "input {} \nconv 6 3x3 padding=1\nrelu\nglobal_avgpool\nflatten\ndense 3\n"


def answers(path: Path | bytes, x: np.ndarray) -> np.ndarray:
    """What ONNX Runtime gives for a batch."""
    session = onnxruntime.InferenceSession(path if isinstance(path, bytes) else str(path))
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x.astype(np.float32)})[0])


def pictures(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Bright pictures of 3×8×8 whose class is their colour; the channels differ in mean and deviation."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, count)
    x = rng.normal(np.array([200.0, 150.0, 90.0])[:, None, None], np.array([5.0, 20.0, 40.0])[:, None, None],
                   (count, 3, 8, 8))  # fmt: skip
    x[np.arange(count), y] += np.array([4.0, 12.0, 25.0])[y, None, None]
    return x.clip(0, 255).astype(np.uint8), y


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that was trained on such pictures, which says so."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "colours.net").write_text(NET.format("3x8x8"))
    package.train(folder / "colours.net", pictures(0, 300), epochs=4, batch_size=32, lr=0.1, output=folder / "out")
    return folder / "out/model.safetensors"


def test_raw_pictures_are_answered_as_dojang_run_answers_them(dojang: Command, trained: Path, tmp_path: Path) -> None:
    x, y = pictures(1, 200)
    np.save(tmp_path / "x.npy", x)
    for where in ("outside", "inside"):
        ran = dojang("export", trained, "-o", tmp_path / f"{where}.onnx", "--normalise", where)
        assert ran.code == 0, ran.err
        assert f"Normalisation is {where} of the network" in ran.out.splitlines()[1]
    ran = dojang("run", trained, tmp_path / "x.npy", "-o", tmp_path / "y.npy")
    ours = np.load(tmp_path / "y.npy")
    right = (ours.argmax(1) == y).mean()
    assert right > 0.8  # so that the comparison means something
    inside = answers(tmp_path / "inside.onnx", x)
    np.testing.assert_allclose(inside, ours, rtol=1e-4, atol=1e-4)
    assert (inside.argmax(1) == y).mean() == right
    assert (answers(tmp_path / "outside.onnx", x).argmax(1) == y).mean() < right - 0.2  # what was silent
    again = dojang("run", tmp_path / "inside.onnx", tmp_path / "x.npy", "-o", tmp_path / "again.npy")
    assert again.code == 0, again.err
    np.testing.assert_allclose(np.load(tmp_path / "again.npy"), ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(3,), (2, 9), (3, 6, 5), (1, 7, 7), (2, 4, 5, 3)])
@pytest.mark.parametrize("pixels", [True, False])
def test_the_layers_see_the_same_bits(shape: tuple[int, ...], pixels: bool) -> None:
    """Of a network that is its input alone, ONNX Runtime gives what enters the layers."""
    rng = np.random.default_rng(len(shape) * 10 + pixels)
    mean, std = rng.normal(0.5, 0.3, shape[0]), rng.uniform(0.05, 0.6, shape[0])
    graph = Graph((Node.of("x", "input", shape=shape), Node.of("same", "identity", "x")), ("same", "x"))
    graph = stating(graph, tuple(mean), tuple(std), pixels)
    raw = rng.integers(0, 256, (4, *shape)).astype(np.float32) if pixels else rng.normal(size=(4, *shape))
    line = (1, -1, *(1,) * (len(shape) - 1))
    exact = (raw.astype(np.float32).astype(np.float64) / (255 if pixels else 1) - mean.reshape(line)) / std.reshape(
        line
    )
    a = (1 / (std * (255 if pixels else 1))).astype(np.float32).reshape(line)
    b = (-mean / std).astype(np.float32).reshape(line)
    for optimise in (True, False):
        options = onnxruntime.SessionOptions()
        if not optimise:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        written = onnx_format.to_bytes(normalising_inside(graph))
        onnx.checker.check_model(written, full_check=True)
        session = onnxruntime.InferenceSession(written, options)
        for got in map(np.asarray, session.run(None, {"x": raw.astype(np.float32)})):
            assert np.array_equal(got, raw.astype(np.float32) * a + b)
            np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-5)


def test_the_file_says_it_to_people_and_to_other_programs(trained: Path, tmp_path: Path) -> None:
    said: dict[Normalise, str] = {
        "outside": "give 'input' (x / 255 − mean) / std for pixels x from 0 to 255, with mean",
        "inside": "give 'input' pixels from 0 to 255 as float32.",
    }
    for where, wanted in said.items():
        done = package.export(trained, output=tmp_path / f"{where}.onnx", normalise=where)
        (row,) = done.to_dict()["normalisation"]
        assert (row["where"], row["divisor"], len(row["mean"])) == (where, 255, 3)
        assert wanted in row["text"]
        # Reading and writing the file again must not repeat the sentence, nor keep one that holds no more.
        package.export(tmp_path / f"{where}.onnx", output=tmp_path / f"{where}2.onnx")
        for name in (where, f"{where}2"):
            assert "normalisation" not in package.load(tmp_path / f"{name}.onnx").meta
            model = onnx.load(tmp_path / f"{name}.onnx")
            entries = {entry.key: entry.value for entry in model.metadata_props}
            texts = model.doc_string, model.graph.input[0].doc_string, entries["normalisation"]
            assert set(texts) == {row["text"]}
    package.export(tmp_path / "outside2.onnx", output=tmp_path / "moved.onnx", normalise="inside")
    assert onnx.load(tmp_path / "moved.onnx").doc_string == onnx.load(tmp_path / "inside.onnx").doc_string
    x = pictures(2, 8)[0]
    assert np.array_equal(answers(tmp_path / "moved.onnx", x), answers(tmp_path / "inside.onnx", x))


def test_the_figures_that_are_told_are_the_figures_of_the_training_pictures(trained: Path) -> None:
    x = pictures(0, 300)[0] / 255
    (how,) = preparations(package.load(trained))
    np.testing.assert_allclose(how.mean, x.mean(axis=(0, 2, 3)), rtol=0.02)
    np.testing.assert_allclose(how.std, x.std(axis=(0, 2, 3)), rtol=0.05)


def test_inside_twice_changes_nothing_more(trained: Path) -> None:
    once = normalising_inside(package.load(trained))
    assert normalising_inside(once).nodes == once.nodes


def test_floats_are_taken_as_the_training_data_have_them(dojang: Command, tmp_path: Path) -> None:
    x, y = pictures(0, 240)
    net = tmp_path / "colours.net"
    net.write_text(NET.format("3x8x8"))
    samples = x.astype(np.float32) * 7 - 300
    package.train(net, (samples, y), epochs=3, batch_size=32, lr=0.1, output=tmp_path / "out")
    model = tmp_path / "out/model.safetensors"
    done = dojang("export", model, "-o", tmp_path / "in.onnx", "--normalise", "inside")
    assert "give 'input' values as they are in the training data." in done.out
    np.save(tmp_path / "x.npy", samples[:50])
    for source in (model, tmp_path / "in.onnx"):
        assert dojang("run", source, tmp_path / "x.npy", "-o", tmp_path / "y.npy", "--force").code == 0
        np.testing.assert_allclose(
            np.load(tmp_path / "y.npy"), answers(tmp_path / "in.onnx", samples[:50]), rtol=1e-3, atol=1e-3
        )
    # Such values lie outside of 0 … 1, so nothing may be proved from that range.
    graph = package.load(model)
    assert ranges(graph)[graph.inputs[0].name].lo.max() == -np.inf


def test_what_cannot_go_inside_is_refused(dojang: Command, trained: Path, tmp_path: Path) -> None:
    refused = dojang("export", trained, "-o", tmp_path / "a.net", "--normalise", "inside")
    assert (refused.code, "holds no numbers" in refused.err) == (2, True)
    silent = Graph((Node.of("x", "input", shape=(3, 4, 4)), Node.of("r", "relu", "x")), ("r",), "silent")
    with pytest.raises(UsageError, match="input 'x' states no mean and deviation"):
        package.export(silent, output=tmp_path / "a.onnx", normalise="inside")
    assert list(tmp_path.iterdir()) == []
    told = package.export(silent, output=tmp_path / "a.onnx")
    assert str(told.normalisation[0]) == "The network does not say how the values of 'x' are normalised."
    assert onnx.load(tmp_path / "a.onnx").doc_string == ""
