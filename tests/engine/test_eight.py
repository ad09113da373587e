"""Quantised networks in bytes: which steps are taken, and their answers against ONNX Runtime and the NumPy reference.

Networks are files with QuantizeLinear and DequantizeLinear, drawn by a rule from a seed. Now and then
a sum lies within a rounding error of a half and goes to the other side, and what follows takes that step on.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dojang.arith.graph import Graph, Node
from dojang.arith.precision import Precision
from dojang.engine.compiled import compile
from dojang.engine.reference.operators import run_reference
from dojang.formats import onnx as onnx_format
from dojang.native.machine import Machine

helper = pytest.importorskip("onnx.helper")
ort = pytest.importorskip("onnxruntime")
HOST = Machine.processor()
BYTES = pytest.mark.skipif("+avx512vnni" not in HOST.features, reason="this processor does not multiply bytes")


class Drawn:
    """A network while it is drawn: nodes, stored arrays, and the shape of each value (channels, height, width)."""

    def __init__(self, seed: int) -> None:
        """Types, and where zero points lie, are drawn once for the network."""
        self.rng = np.random.default_rng(seed)
        self.nodes, self.held, self.count = [], [], 0
        self.scales: dict[str, np.float32] = {}  # of values on a grid
        self.kind = (np.uint8, np.int8)[seed % 2]
        self.shapes = {"x": (int(self.rng.integers(2, 9)), 11, 9)}

    def name(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def store(self, value: np.ndarray) -> str:
        name = f"{self.name()}.array"
        code = helper.np_dtype_to_tensor_dtype(value.dtype)
        self.held.append(helper.make_tensor(name, code, value.shape, value.tobytes(), raw=True))
        return name

    def node(self, op: str, inputs: list[str], shape: tuple, **attrs) -> str:
        name = self.name()
        self.nodes.append(helper.make_node(op, inputs, [name], **attrs))
        self.shapes[name] = shape
        return name

    def grid(self, value: str, scale: float | None = None) -> str:
        """The value quantised and made real again."""
        info = np.iinfo(self.kind)
        number = np.float32(scale or 0.05 * self.rng.uniform(0.5, 2))
        scale = self.store(number)
        zero = self.store(np.array(self.rng.integers(info.min, info.max, endpoint=True), self.kind))
        whole = self.node("QuantizeLinear", [value, scale, zero], self.shapes[value])
        made = self.node("DequantizeLinear", [whole, scale, zero], self.shapes[value])
        self.scales[made] = number
        return made

    def weight(self, value: str, *shape: int) -> tuple[str, str]:
        """Weights of whole numbers, per channel or not, and a bias in the unit of the sums, for a layer of a value."""
        rng, out = self.rng, shape[0]
        each = bool(rng.integers(2))
        scale = rng.uniform(0.002, 0.02, out if each else ()).astype("f4") / np.float32(np.prod(shape[1:]) ** 0.5 / 4)
        whole = rng.integers(-127, 128, shape).astype(np.int8)
        zero = np.zeros(scale.shape, np.int8)
        axis = {"axis": 0} if each else {}
        w = self.node("DequantizeLinear", [self.store(whole), self.store(scale), self.store(zero)], shape, **axis)
        bias = rng.integers(-3000, 3000, out).astype(np.int32)
        unit = np.broadcast_to(scale * self.scales[value], out).astype("f4")
        b = self.node("DequantizeLinear", [self.store(bias), self.store(unit)], (out,), axis=0)
        return w, b

    def function(self, value: str) -> str:
        pick, shape = int(self.rng.integers(5)), self.shapes[value]
        if pick == 0:
            return self.node("Relu", [value], shape)
        if pick == 1:
            return self.node("Clip", [value, self.store(np.float32(0)), self.store(np.float32(3))], shape)
        if pick == 2:
            return self.node("HardSwish", [value], shape)
        return value

    def layer(self, value: str) -> str:
        rng, (ic, h, w) = self.rng, self.shapes[value]
        groups, out = 1, int(rng.integers(1, 40))
        pick = int(rng.integers(4))
        if pick == 0:
            groups = out = ic
        elif pick == 1 and ic % 2 == 0:
            groups, out = 2, 2 * (out // 2 + 1)
        k, stride, pad = int(rng.integers(1, 4)), int(rng.integers(1, 3)), int(rng.integers(0, 2))
        size = [(s + 2 * pad - k) // stride + 1 for s in (h, w)]
        if min(size) < 2:
            return value
        weight, bias = self.weight(value, out, ic // groups, k, k)
        made = self.node("Conv", [value, weight, bias][: 2 + int(rng.integers(2))], (out, *size), group=groups,
                         strides=[stride] * 2, pads=[pad] * 4)  # fmt: skip
        return self.grid(self.function(made))

    def step(self, value: str) -> str:
        rng, shape = self.rng, self.shapes[value]
        pick = int(rng.integers(6))
        if pick == 0:
            other = self.grid(self.node("Sigmoid", [value], shape), 1 / 256)
            return self.grid(self.node(str(rng.choice(["Add", "Mul"])), [value, other], shape))
        if pick == 1 and min(shape[1:]) >= 4:
            size = tuple((s - 2) // 2 + 1 for s in shape[1:])
            made = self.node("MaxPool", [value], (shape[0], *size), kernel_shape=[2, 2], strides=[2, 2])
            self.scales[made] = self.scales[value]
            return made
        if pick == 2 and min(shape[1:]) >= 3:
            pooled = self.node("AveragePool", [value], shape, kernel_shape=[3, 3], pads=[1] * 4)
            return self.grid(pooled)
        if pick == 3:
            other = self.grid(self.node("Relu", [value], shape))
            return self.grid(self.node("Concat", [value, other], (2 * shape[0], *shape[1:]), axis=1))
        return self.layer(value)

    def file(self, depth: int = 5) -> bytes:
        value = self.layer(self.grid("x"))
        for _ in range(depth):
            value = self.step(value)
        channels = self.shapes[value][0]
        mean = self.grid(self.node("GlobalAveragePool", [value], (channels, 1, 1)))
        flat = self.node("Flatten", [mean], (channels,))
        self.scales[flat] = self.scales[mean]
        weight, bias = self.weight(flat, 7, channels)
        last = self.node("Gemm", [flat, weight, bias], (7,), transB=1)
        graph = helper.make_graph(
            self.nodes, "g", [helper.make_tensor_value_info("x", 1, ["N", *self.shapes["x"]])],
            [helper.make_tensor_value_info(n, 1, None) for n in (last, value)], self.held,
        )  # fmt: skip
        opsets = [helper.make_opsetid("", 19)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def algorithms(graph: Graph, **rest) -> list[str]:
    return [c.algorithm for c in compile(graph, threads=1, **rest).plan().choices]


def refused(graph: Graph, **rest) -> dict[str, str]:
    """Why layers are not computed in bytes."""
    choices = compile(graph, threads=1, **rest).plan().choices
    return {name: dict(c.refused).get("bytes", "") for c in choices for name in c.members}


@BYTES
@pytest.mark.parametrize("seed", range(24))
def test_networks_in_bytes_answer_as_onnx_runtime_and_the_reference(seed: int) -> None:
    drawn = Drawn(seed)
    data = drawn.file()
    graph = onnx_format.from_bytes(data)
    x = np.random.default_rng(seed).normal(scale=2, size=(3, *drawn.shapes["x"])).astype("f4")
    compiled = compile(graph, threads=1 + seed % 2)
    found = compiled.run(x).outputs
    right = run_reference(graph, x).outputs
    peer = ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    assert any(name.startswith("eight") for name in algorithms(graph))
    for ours, *others in zip(found, right, peer, strict=True):
        for other in others:
            off, spread = np.abs(ours.astype("f8") - other), float(np.abs(other).max()) + 1e-6
            assert off.mean() <= 0.004 * spread, f"{seed}: {off.mean()} of {spread}"
            assert off.max() <= 0.15 * spread, f"{seed}: {off.max()} of {spread}"
    assert np.array_equal(compiled(x[:1]), found[0][:1])  # a batch and its images alone


@BYTES
def test_every_value_between_is_on_its_grid_and_off_by_one_step_at_most() -> None:
    """Each group alone: what it reads is given by the network itself, so that no step is taken on."""
    for seed in range(6):
        drawn = Drawn(seed + 100)
        graph = onnx_format.from_bytes(drawn.file())
        x = np.random.default_rng(seed).normal(scale=2, size=(2, *drawn.shapes["x"])).astype("f4")
        grids = [n for n in graph.nodes if n.op == "fake_quantize"]
        taps = compile(graph, threads=1).run(x, taps=[n.name for n in grids]).taps
        plain = run_reference(graph, x, taps=[n.name for n in grids]).taps
        for node in grids:
            steps = taps[node.name] / np.float32(node.attrs["scale"])
            np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
            assert node.attrs["low"] <= np.rint(steps).min()
            assert np.rint(steps).max() <= node.attrs["high"]
            off = np.abs(taps[node.name] - plain[node.name]) / np.float32(node.attrs["scale"])
            assert (off > 0.5).mean() < 0.002, f"{seed}: {node.name}"


def flattening(seed: int) -> tuple[Drawn, bytes]:
    """A convolution of narrow groups, a pooling, and a dense layer of the whole image."""
    drawn = Drawn(seed)
    drawn.shapes["x"] = (32, 9, 7)
    first = drawn.grid("x")
    weight, bias = drawn.weight(first, 32, 4, 3, 3)
    made = drawn.node("Conv", [first, weight, bias], (32, 9, 7), group=8, pads=[1] * 4)
    narrow = drawn.grid(drawn.node("Relu", [made], (32, 9, 7)))
    pooled = drawn.node("MaxPool", [narrow], (32, 4, 3), kernel_shape=[2, 2], strides=[2, 2])
    flat = drawn.node("Flatten", [pooled], (384,))
    drawn.scales[flat] = drawn.scales[narrow]
    weight, bias = drawn.weight(flat, 21, 384)
    last = drawn.grid(drawn.node("Gemm", [flat, weight, bias], (21,), transB=1))
    outputs = [last, *([pooled] if seed % 2 else [])]  # what a part of the image is needed for besides
    graph = helper.make_graph(
        drawn.nodes, "g", [helper.make_tensor_value_info("x", 1, ["N", 32, 9, 7])],
        [helper.make_tensor_value_info(n, 1, None) for n in outputs], drawn.held,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 19)]
    return drawn, helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


@BYTES
@pytest.mark.parametrize("seed", range(6))
def test_a_dense_layer_of_a_whole_image_stays_in_bytes(seed: int) -> None:
    drawn, data = flattening(seed)
    graph = onnx_format.from_bytes(data)
    x = np.random.default_rng(seed).normal(scale=2, size=(3, *drawn.shapes["x"])).astype("f4")
    compiled = compile(graph, threads=1 + seed % 2)
    found, right = compiled.run(x).outputs, run_reference(graph, x).outputs
    peer = ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    (dense,) = (c for c in compiled.plan().choices if c.op == "dense")
    assert dense.algorithm == "eight"
    assert not [c for c in compiled.plan().choices if c.op == "flatten"]
    for ours, *others in zip(found, right, peer, strict=True):
        for other in others:
            off, spread = np.abs(ours.astype("f8") - other), float(np.abs(other).max()) + 1e-6
            assert off.mean() <= 0.004 * spread
            assert off.max() <= 0.15 * spread
    assert np.array_equal(compiled(x[:1]), found[0][:1])


def sample(**changes) -> Graph:
    """A quantised convolution between grids."""
    rng = np.random.default_rng(3)
    scale = Precision("int8", tuple(float(np.float32(s)) for s in rng.uniform(0.01, 0.1, 6)), (0,) * 6, 0)
    whole = rng.integers(-127, 128, (6, 4, 3, 3))
    weight = (whole.astype("f4") * np.array(scale.scale, "f4").reshape(-1, 1, 1, 1)).astype("f4")
    bias = np.array(changes.pop("bias", [0.5] * 6), "f4")
    nodes = (
        Node.of("x", "input", shape=(4, 6, 6)),
        Node.of("q", "fake_quantize", "x", scale=changes.pop("scale", 0.05), low=-100, high=155),
        Node.of("c", "conv", "q", out=6, kernel=(3, 3), padding=1),
        Node.of("y", "fake_quantize", "c", scale=0.1, low=-128, high=127),
    )
    graph = Graph(nodes, ("y",), weights={"c.weight": weight, "c.bias": bias}, precisions={"c.weight": scale})
    return graph.replace(**changes) if changes else graph


X = np.random.default_rng(1).normal(size=(2, 4, 6, 6)).astype("f4")


@BYTES
def test_a_layer_with_its_grids_is_one_step_and_equal_to_whole_numbers() -> None:
    graph = sample()
    assert algorithms(graph).count("eight") == 1
    (scale,), precision = (0.05,), graph.precisions["c.weight"]
    q = np.clip(np.rint(X / np.float32(scale)), -100, 155)
    whole = np.rint(graph.weights["c.weight"] / np.array(precision.scale, "f4").reshape(-1, 1, 1, 1)).astype("i8")
    padded = np.pad(q, ((0, 0), (0, 0), (1, 1), (1, 1))).astype("i8")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    unit = np.float32(scale) * np.array(precision.scale, "f4")
    sums = np.einsum("nihwkl,oikl->nohw", windows, whole)
    sums += np.rint(0.5 / (np.float64(np.float32(scale)) * np.array(precision.scale))).astype("i8").reshape(-1, 1, 1)
    factor = (unit / np.float32(0.1)).reshape(-1, 1, 1)
    right = np.clip(np.rint(sums.astype("f4") * factor), -128, 127).astype("f4") * np.float32(0.1)
    np.testing.assert_array_equal(compile(graph, threads=1)(X), right)


@BYTES
@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"weights": {**sample().weights, "c.weight": 1.001 * sample().weights["c.weight"]}}, "its weights"),
        ({"bias": [1e9] * 6}, "32 bits"),
        ({"bias": [np.inf] * 6}, "32 bits"),
        ({"bias": [0.3] * 6, "scale": 30.0}, "its bias is much finer"),
        ({"precisions": {}}, "its weights"),
        ({"precisions": {"c.weight": Precision("int8", (0.01,) * 4, (0,) * 4, 1)}}, "its weights"),
        ({"scale": 0.0}, "not on a grid"),
    ],
    ids=["weights off their grid", "sums beyond int32", "infinite bias", "a fine bias", "no scales", "scales by input",
         "scale of 0"],
)  # fmt: skip
def test_what_bytes_cannot_do_is_computed_in_real_numbers(changed: dict, why: str) -> None:
    graph = sample(**changed)
    assert "eight" not in algorithms(graph)
    assert why in refused(graph)["c"]
    with np.errstate(all="ignore"):
        right = run_reference(graph, X).outputs[0]
    np.testing.assert_allclose(compile(graph, threads=1)(X), right, rtol=1e-5, atol=0.1001)


def test_processors_without_products_of_bytes_stay_with_real_numbers() -> None:
    narrow = [HOST.restrict(isa) for isa in HOST.narrower()]
    right = run_reference(sample(), X).outputs[0]
    for machine in (*narrow, replace(HOST, features=HOST.features.replace("+avx512vnni", "-avx512vnni"))):
        assert not any(name.startswith("eight") for name in algorithms(sample(), machine=machine))
        assert "this processor has no instruction" in refused(sample(), machine=machine)["c"]
        off = np.abs(compile(sample(), threads=1, machine=machine)(X) - right)
        assert off.max() <= 0.1001
        assert (off > 0.05).mean() < 0.02


@BYTES
def test_numbers_that_are_none_become_the_least() -> None:
    x = X.copy()
    x[0, 0, 0, 0], x[0, 1, 2, 2], x[1, 0, 0, 0] = np.nan, np.inf, -np.inf
    graph = sample()
    right = run_reference(graph, x).outputs[0]
    off = np.abs(compile(graph, threads=1)(x) - right)
    assert off.max() <= 0.1001
    assert (off > 0.05).mean() < 0.02


@BYTES
def test_channels_of_zeros_stay_bytes() -> None:
    graph = sample()
    nodes = (
        *graph.nodes,
        Node.of("s", "maxpool", "y", kernel=(1, 1), stride=2),
        Node.of("p", "pad", "s", pads=((2, 3), (0, 0), (0, 0))),
        Node.of("d", "conv", "p", out=6, kernel=(1, 1), bias=False),
        Node.of("z", "fake_quantize", "d", scale=0.2, low=-128, high=127),
    )
    whole = np.random.default_rng(5).integers(-127, 128, (6, 11, 1, 1)).astype("f4")
    one = Precision("int8", (0.125,), (0,))
    weights, precisions = {**graph.weights, "d.weight": whole / 8}, {**graph.precisions, "d.weight": one}
    graph = Graph(nodes, ("z",), weights=weights, precisions=precisions)
    assert all(name.startswith(("eight", "layout")) for name in algorithms(graph))
    off = np.abs(compile(graph, threads=1)(X) - run_reference(graph, X).outputs[0])
    assert off.max() <= 0.2001
    assert (off > 0.1).mean() < 0.02


@BYTES
def test_weights_are_let_go_and_packed_once() -> None:
    graph = sample()
    compiled = compile(graph.replace(weights=dict(graph.weights)), threads=1, release=True)
    first = compiled(X)
    assert "c.weight" not in compiled.graph.weights
    np.testing.assert_array_equal(compiled(X[:1]), first[:1])
    np.testing.assert_array_equal(first, compile(graph, threads=2)(X))
