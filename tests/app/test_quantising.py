"""`quantize`: calibrated networks against what they were, and against ONNX Runtime on the written file; bad samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import dojang
from dojang.arith.graph import Graph, Node
from dojang.base.errors import DataError, ShapeError, UsageError
from dojang.engine.compiled import compile
from dojang.engine.reference.operators import run_reference
from dojang.evidence.histograms import Histogram
from dojang.formats import checkpoint
from dojang.formats import onnx as onnx_format
from dojang.native.machine import Machine
from dojang.slimming import quantising

METHODS = tuple(quantising.METHODS)


def network(seed: int = 0) -> Graph:
    """Batch norms, a shortcut, a pooling, functions, a concatenation, a depthwise layer, a dense one."""
    nodes = (
        Node.of("x", "input", shape=(3, 12, 12)),
        Node.of("c1", "conv", "x", out=8, kernel=(3, 3), padding=1, bias=False),
        Node.of("n1", "batchnorm", "c1"),
        Node.of("r1", "relu", "n1"),
        Node.of("c2", "conv", "r1", out=8, kernel=(3, 3), padding=1),
        Node.of("a", "add", "c2", "r1"),
        Node.of("r2", "relu", "a"),
        Node.of("p", "maxpool", "r2", kernel=(2, 2), stride=2),
        Node.of("c3", "conv", "p", out=8, kernel=(3, 3), padding=1, groups=8),
        Node.of("s3", "silu", "c3"),
        Node.of("k", "concat", "s3", "p", axis=1),
        Node.of("c4", "conv", "k", out=12, kernel=(1, 1)),
        Node.of("g", "global_avgpool", "c4"),
        Node.of("f", "flatten", "g"),
        Node.of("y", "dense", "f", out=5),
    )
    graph, rng = Graph(nodes, ("y",)), np.random.default_rng(seed)
    weights = {}
    for name, shape in graph.param_shapes.items():
        spread = np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.3
        weights[name] = rng.normal(scale=spread, size=shape).astype("f4")
        if "running_var" in name:
            weights[name] = rng.uniform(0.5, 2, shape).astype("f4")
    return graph.replace(weights=weights)


def samples(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 3, 12, 12)).astype("f4")


@pytest.mark.parametrize("method", METHODS)
def test_answers_stay_close_to_those_of_real_numbers(method: str) -> None:
    graph, x = network(), samples(20, seed=2)
    small = dojang.quantize(graph, samples(48), method=method)
    right, found = run_reference(graph, x).outputs[0], compile(small, threads=1)(x)
    noise = np.square(found - right).mean() / np.square(right).mean()
    assert noise < 0.02  # −17 dB; with 4 bits, or a scale that is twice too large, it is above
    kinds = {name: p.kind for name, p in small.precisions.items()}
    assert kinds == {f"{c}.{r}": k for c in ("c1", "c2", "c3", "c4", "y") for r, k in (("weight", "int8"),
                     ("bias", "int32"))}  # fmt: skip


def test_the_written_file_gives_the_same_answers_in_onnx_runtime(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    small = dojang.quantize(network(), samples(48))
    path = tmp_path / "small.onnx"
    onnx_format.save(small, path)
    session = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    x = samples(8, seed=3)
    theirs = session.run(None, {session.get_inputs()[0].name: x})[0]
    ours = compile(small, threads=1)(x)
    assert np.abs(ours - theirs).max() <= 0.02 * np.abs(theirs).max()
    assert np.abs(ours - theirs).mean() <= 0.002 * np.abs(theirs).max()
    again = onnx_format.load(path)
    assert sorted(p.kind for p in again.precisions.values()) == sorted(p.kind for p in small.precisions.values())
    np.testing.assert_array_equal(compile(again, threads=1)(x), ours)


def test_a_checkpoint_takes_a_quarter_and_answers_alike(tmp_path: Path) -> None:
    graph, x = network(), samples(4, seed=5)
    small = dojang.quantize(graph, samples(16))
    one = checkpoint.save(small, tmp_path / "small.safetensors")
    again = checkpoint.load(one)
    assert dict(again.precisions) == dict(small.precisions)
    np.testing.assert_array_equal(compile(again, threads=1)(x), compile(small, threads=1)(x))


@pytest.mark.parametrize(("op", "groups", "inputs"), [("conv", 1, 6), ("conv", 3, 6), ("conv", 6, 6), ("dense", 1, 18)])
def test_the_correction_of_a_bias_is_what_rounded_weights_do_to_mean_inputs(op: str, groups: int, inputs: int) -> None:
    rng, means = np.random.default_rng(0), np.random.default_rng(1).normal(size=6)
    if op == "conv":
        nodes = (
            Node.of("x", "input", shape=(6, 5, 4)),
            Node.of("c", "conv", "x", out=12, kernel=(3, 2), groups=groups),
        )
        error, x = rng.normal(size=(12, 6 // groups, 3, 2)), np.broadcast_to(means.reshape(1, 6, 1, 1), (1, 6, 5, 4))
    else:  # behind 6 channels of 3 places each
        nodes = (Node.of("x", "input", shape=(18,)), Node.of("c", "dense", "x", out=12))
        error, x = rng.normal(size=(12, inputs)), means.repeat(3).reshape(1, 18)
    graph = Graph(nodes, ("c",), weights={"c.weight": error.astype("f4"), "c.bias": np.zeros(12, "f4")})
    right = run_reference(graph, x.astype("f4")).outputs[0].reshape(12, -1)[:, 0]
    np.testing.assert_allclose(-quantising.shift(error, means, nodes[1]), right, rtol=1e-4, atol=1e-5)


def test_biases_are_corrected_unless_it_is_refused() -> None:
    graph, x = network(7), samples(16)
    plain = {"adapt": False, "equalise": False}
    with_it, without = (dojang.quantize(graph, x, correct=c, **plain).weights for c in (True, False))
    assert not np.array_equal(with_it["c4.bias"], without["c4.bias"])
    assert np.abs(without["c4.bias"] - graph.weights["c4.bias"]).max() < 1e-4
    np.testing.assert_array_equal(with_it["c4.weight"], without["c4.weight"])


@pytest.mark.parametrize("seed", range(4))
def test_a_histogram_of_batches_is_that_of_all_numbers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(scale=10.0 ** rng.uniform(-3, 3), size=(int(rng.integers(1, 9)), 3, 7)) for _ in range(6)]
    parts.insert(0, np.zeros((2, 3, 7)))
    found = Histogram()
    for part in parts:
        found.add(part.astype("f4"), "v")
    x = np.concatenate(parts).astype("f4")
    assert (found.low, found.high) == (x.min(), x.max())
    assert found.counts.sum() == x.size
    np.testing.assert_allclose(found.means, x.mean((0, 2), dtype="f8"), rtol=1e-6)
    right, _ = np.histogram(x, (np.arange(found.counts.size + 1) - found.counts.size // 2) * found.width)
    assert np.abs(np.cumsum(found.counts) - np.cumsum(right)).max() <= 2  # a number on the edge of two bins
    low, high = found.quantiles(0.1)
    assert (x < low).mean() <= 0.1 <= (x < low + 2 * found.width).mean()
    assert (x > high).mean() <= 0.1 <= (x > high - 2 * found.width).mean()


def test_the_least_error_leaves_out_a_lonely_number_and_nothing_of_a_flat_distribution() -> None:
    for lonely, low, high in ((True, 0.0, 0.5), (False, 0.97, 1.01)):
        found = Histogram()
        x = np.random.default_rng(0).uniform(0, 1, (1, 1, 2_000_000)).astype("f4")
        if lonely:
            x[0, 0, 0] = 4.0
        found.add(x, "v")
        bounds = quantising.least_error(found)
        assert low <= bounds[1] / float(x.max()) <= high


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((0, 3, 12, 12), "f4"), "no sample"),
        ([], "no sample"),
        (np.full((4, 3, 12, 12), np.nan, "f4"), "x: the samples give NaN"),
        (np.full((4, 3, 12, 12), np.inf, "f4"), "x: the samples give NaN or infinite"),
        (np.full((4, 3, 12, 12), 3e38, "f4"), "NaN or infinite numbers here"),
        ("pictures", "not 'pictures'"),
        (None, "not None"),
        (3, "not int"),
        (np.array([["a"]]), "not arrays of numbers"),
    ],
)
def test_samples_that_cannot_be_used_are_said_in_a_line(given: object, said: str) -> None:
    with pytest.raises(DataError, match=said) as error:
        dojang.quantize(network(), given)
    assert "\n" not in str(error.value)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ShapeError):
        dojang.quantize(network(), np.zeros((2, 3, 5, 5), "f4"))
    with pytest.raises(UsageError, match="'mseh' is not known; did you mean mse"):
        dojang.quantize(network(), samples(2), method="mseh")
    plain = Graph((Node.of("x", "input", shape=(3, 4, 4)), Node.of("y", "relu", "x")), ("y",))
    with pytest.raises(UsageError, match="no convolution"):
        dojang.quantize(plain, samples(2))


def test_numbers_beyond_those_of_the_samples_are_held_at_their_ends() -> None:
    small, x = dojang.quantize(network(), samples(16)), samples(4, seed=3)
    for size in (1e-30, 30.0, 1e6):
        far = x * np.float32(size)
        right = run_reference(small, far).outputs[0]
        assert np.abs(compile(small, threads=1)(far) - right).max() <= 0.01 * np.abs(right).max()
        scale, most = small["x.grid"].attrs["scale"], small["x.grid"].attrs["high"]
        np.testing.assert_allclose(right, run_reference(small, np.clip(far, -9e9, scale * most)).outputs[0])


@pytest.mark.parametrize("value", [0.0, 2.5, -3.0, 1e30])
def test_constant_samples_and_weights_of_0_give_what_they_gave(value: float) -> None:
    graph = network()
    graph = graph.replace(weights={**graph.weights, "c2.weight": np.zeros((8, 8, 3, 3), "f4")})
    x = np.full((4, 3, 12, 12), value, "f4")
    small = dojang.quantize(graph, x)
    right, found = run_reference(graph, x).outputs[0], compile(small, threads=1)(x)
    assert np.abs(found - right).max() <= 0.05 * np.abs(right).max() + 1e-6


def scaled_network() -> Graph:
    """Hard swishes as five nodes, and products with and sums of one number, as exporters of OCR networks write them."""
    numbers = {"three": 3.0, "six": 6.0, "scale": 0.47, "shift": -0.2, "before": 1.9, "more": 0.8}
    nodes = (
        Node.of("x", "input", shape=(3, 12, 12)),
        *(Node.of(name, "constant", shape=(1,), fill=number) for name, number in numbers.items()),
        Node.of("c1", "conv", "x", out=8, kernel=(3, 3), padding=1),
        Node.of("m1", "mul", "before", "c1"),
        Node.of("a1", "add", "m1", "more"),
        Node.of("a3", "add", "a1", "three"),
        Node.of("clip", "clip", "a3", min=0.0, max=6.0),
        Node.of("gated", "mul", "a1", "clip"),
        Node.of("h", "div", "gated", "six"),
        Node.of("m2", "mul", "scale", "h"),
        Node.of("a2", "add", "m2", "shift"),
        Node.of("c2", "conv", "a2", out=8, kernel=(3, 3), padding=1, groups=8),
        Node.of("t", "conv_transpose", "c2", out=8, kernel=(2, 2), stride=2),
        Node.of("c3", "conv", "t", out=4, kernel=(1, 1)),
        Node.of("up", "resize", "c3", scale=(2.0, 2.0), mode="nearest", rounding="floor", coords="asymmetric"),
        Node.of("y", "conv", "up", out=4, kernel=(1, 1)),
    )
    graph, rng = Graph(nodes, ("y",)), np.random.default_rng(0)
    weights = {name: rng.normal(scale=0.3, size=shape).astype("f4") for name, shape in graph.param_shapes.items()}
    return graph.replace(weights=weights)


def test_functions_with_constants_are_applied_where_bytes_are_stored(tmp_path: Path) -> None:
    graph, x = scaled_network(), samples(6, seed=2)
    small = dojang.quantize(graph, samples(32))
    machine = Machine.cross("avx512")
    machine = replace(machine, features=f"{machine.features},+avx512vnni")
    found = {name: c for c in compile(small, threads=1, machine=machine).plan().choices for name in c.members}
    assert found["c1"].algorithm == "eight"
    assert {"c1", "h", "m2", "a2"} <= set(found["c1"].members)
    right, ours = run_reference(graph, x).outputs[0], compile(small, threads=1)(x)
    assert np.square(ours - right).mean() < 0.002 * np.square(right).mean()
    ort = pytest.importorskip("onnxruntime")
    onnx_format.save(small, tmp_path / "small.onnx")
    session = ort.InferenceSession((tmp_path / "small.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    theirs = session.run(None, {session.get_inputs()[0].name: x})[0]
    assert np.abs(ours - theirs).max() <= 0.02 * np.abs(theirs).max()
    again = compile(onnx_format.load(tmp_path / "small.onnx"), threads=1)(x)
    assert np.abs(again - ours).max() <= 0.02 * np.abs(theirs).max()


def test_a_bias_fits_beside_weights_that_are_tiny() -> None:
    graph = network()
    weights = {k: v.copy() for k, v in graph.weights.items()}
    weights["c3.weight"][2], weights["c3.bias"][2] = 1e-11, 40.0
    graph, x = graph.replace(weights=weights), samples(6, seed=2)
    small = dojang.quantize(graph, samples(32))
    assert small.precisions["c3.bias"].kind == "int32"
    right, found = run_reference(graph, x).outputs[0], compile(small, threads=1)(x)
    assert np.square(found - right).mean() < 0.02 * np.square(right).mean()
