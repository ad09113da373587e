"""Quantised networks in the kernels of real numbers: bit by bit what exact whole numbers give."""

from __future__ import annotations

import numpy as np
import pytest

from dojang.engine.compiled import compile
from dojang.engine.reference.operators import run_reference
from dojang.engine.whole import exact, whole_numbers
from dojang.formats import onnx as onnx_format

helper = pytest.importorskip("onnx.helper")
ort = pytest.importorskip("onnxruntime")


def tensor(name: str, value: np.ndarray):
    return helper.make_tensor(
        name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape, value.tobytes(), raw=True
    )


def network(seed: int, depth: int = 3, wide: float = 1.0) -> tuple[bytes, tuple[int, ...]]:
    """Quantised convolutions with everything drawn: types, scales per tensor or channel, zero points, strides, groups;
    a sum of two quantised values, a pooling, real numbers in between.
    """
    rng = np.random.default_rng(seed)
    kind = (np.uint8, np.int8)[seed % 2]
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    point = lambda name: tensor(name, np.array(rng.integers(low + 40, high - 40), kind))  # noqa: E731
    size = lambda name, around: tensor(name, np.array(around * rng.uniform(0.7, 1.4), np.float32))  # noqa: E731
    held, nodes = [size("sx", 0.03), point("zx")], [helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["q0"])]
    channels, value = int(rng.integers(2, 7)), "q0"
    entry = channels
    for k in range(depth):
        out, group = 2 * int(rng.integers(1, 9)), 1
        if rng.integers(3) == 0:
            out = group = channels  # depthwise
        weight = (rng.integers(-127, 128, (out, channels // group, 3, 3)) * wide).astype(np.int8)
        each = out if rng.integers(2) else 1
        scale = (rng.uniform(0.001, 0.02, each) / np.sqrt(weight[0].size)).astype(np.float32)
        held += [
            tensor(f"w{k}", weight), tensor(f"ws{k}", scale if each > 1 else scale.reshape(())),
            tensor(f"wz{k}", np.zeros(each if each > 1 else (), np.int8)), size(f"s{k}", 0.03), point(f"z{k}"),
            tensor(f"b{k}", rng.integers(-3000, 3000, out).astype(np.int32)),
        ]  # fmt: skip
        last = ("sx", "zx") if k == 0 else (f"s{k - 1}", f"z{k - 1}")
        inputs = [value, *last, f"w{k}", f"ws{k}", f"wz{k}", f"s{k}", f"z{k}", f"b{k}"]
        nodes.append(helper.make_node("QLinearConv", inputs, [f"q{k + 1}"], pads=[1] * 4, group=group))
        value, channels = f"q{k + 1}", out
    nodes.append(helper.make_node("MaxPool", [value], ["p"], kernel_shape=[2, 2], strides=[2, 2]))
    same = [f"s{depth - 1}", f"z{depth - 1}"]
    held += [size("sa", 0.05), point("za")]
    nodes.append(helper.make_node("QLinearAdd", ["p", *same, "p", *same, "sa", "za"], ["a"], domain="com.microsoft"))
    nodes += [
        helper.make_node("DequantizeLinear", ["a", "sa", "za"], ["r"]), helper.make_node("Relu", ["r"], ["t"]),
        helper.make_node("Add", ["t", "r"], ["y"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, ["N", entry, 10, 8])],
        [helper.make_tensor_value_info(n, c, None) for n, c in (("y", 1), (value, 2 if kind is np.uint8 else 3))], held,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString(), (entry, 10, 8)


@pytest.mark.parametrize("seed", range(8))
def test_every_bit_is_that_of_exact_whole_numbers(seed: int) -> None:
    data, size = network(seed)
    graph = onnx_format.from_bytes(data)
    x = np.random.default_rng(seed).standard_normal((2, *size)).astype(np.float32) * 2
    compiled = compile(graph, threads=1)
    found, right = compiled.run(x).outputs, run_reference(graph, x).outputs
    peer = ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    for got, wanted, other in zip(found, right, peer, strict=True):
        assert got.dtype == wanted.dtype == other.dtype
        np.testing.assert_array_equal(got, wanted)
        # ONNX Runtime rounds its product of scales elsewhere: now and then one step of the last quantisation
        off = np.abs(got.astype(np.float64) - other) > (1 if got.dtype.kind in "iu" else 0.2)
        assert not off.any()
    assert len(exact(compiled._settled)) >= 2
    slow = {graph[n].attrs.get("kind") for n in compiled.plan(2).in_python if n in graph.by_name}
    assert slow <= {"QuantizeLinear", None}  # the one that is an output is a whole number


def test_sums_that_float32_does_not_hold_stay_whole() -> None:
    data, size = network(3)
    graph = onnx_format.from_bytes(data)
    large = {k: v.astype(np.int64) * 4000 if k.endswith("weight") else v for k, v in graph.weights.items()}
    graph = graph.replace(weights=large)
    assert whole_numbers(graph) is graph
    x = np.random.default_rng(0).standard_normal((1, *size)).astype(np.float32)
    for got, wanted in zip(compile(graph, threads=1).run(x).outputs, run_reference(graph, x).outputs, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_taps_have_the_types_of_the_network() -> None:
    data, size = network(2)
    graph = onnx_format.from_bytes(data)
    x = np.random.default_rng(0).standard_normal((1, *size)).astype(np.float32)
    names = [n.name for n in graph.nodes if graph.types[n.name] in ("uint8", "int32") and n.op != "constant"]
    found, right = compile(graph, threads=1).run(x, names).taps, run_reference(graph, x, taps=names).taps
    for name in names:
        assert found[name].dtype == right[name].dtype
        np.testing.assert_array_equal(found[name], right[name])


def dynamic(seed: int) -> tuple[bytes, tuple[int, ...]]:
    """Convolutions and a product whose inputs are quantised by their own range, with biases in whole numbers."""
    rng = np.random.default_rng(seed)
    held, nodes, value, channels = [], [], "x", 3
    for k in range(2):
        out = int(rng.integers(2, 9))
        held += [
            tensor(f"w{k}", rng.integers(-127, 128, (out, channels, 3, 3)).astype(np.int8)),
            tensor(f"s{k}", np.array(0.01 * rng.uniform(0.5, 2), np.float32)),
            tensor(f"b{k}", rng.uniform(-1, 1, out).astype(np.float32)), tensor(f"wz{k}", np.array(0, np.int8)),
        ]  # fmt: skip
        nodes += [
            helper.make_node("DynamicQuantizeLinear", [value], [f"q{k}", f"qs{k}", f"qz{k}"]),
            helper.make_node("ConvInteger", [f"q{k}", f"w{k}", f"qz{k}", f"wz{k}"], [f"c{k}"], pads=[1] * 4),
            helper.make_node("Mul", [f"qs{k}", f"s{k}"], [f"m{k}"]),
            helper.make_node("Div", [f"b{k}", f"m{k}"], [f"d{k}"]), helper.make_node("Floor", [f"d{k}"], [f"f{k}"]),
            helper.make_node("Cast", [f"f{k}"], [f"i{k}"], to=6),
            helper.make_node("Reshape", [f"i{k}", "column"], [f"r{k}"]),
            helper.make_node("Add", [f"c{k}", f"r{k}"], [f"a{k}"]),
            helper.make_node("Cast", [f"a{k}"], [f"t{k}"], to=1),
            helper.make_node("Mul", [f"t{k}", f"m{k}"], [f"p{k}"]), helper.make_node("Relu", [f"p{k}"], [f"x{k}"]),
        ]  # fmt: skip
        value, channels = f"x{k}", out
    held.append(tensor("column", np.array([1, -1, 1, 1])))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, ["N", 3, 7, 6])],
        [helper.make_tensor_value_info(value, 1, None)], held,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    return model.SerializeToString(), (3, 7, 6)


@pytest.mark.parametrize("seed", range(6))
def test_ranges_of_their_own_are_found_and_used_to_the_bit(seed: int) -> None:
    data, size = dynamic(seed)
    graph = onnx_format.from_bytes(data)
    x = np.random.default_rng(seed).standard_normal((2, *size)).astype(np.float32) * 3 + (seed - 2)
    compiled = compile(graph, threads=1)
    for fed in (x, np.zeros_like(x), np.abs(x), -np.abs(x)):
        found, right = compiled.run(fed).outputs[0], run_reference(graph, fed).outputs[0]
        np.testing.assert_array_equal(found, right)
        peer = ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": fed})[0]
        np.testing.assert_allclose(found, peer, rtol=1e-5, atol=0.03 * max(1.0, float(np.abs(peer).max())))
    assert len(exact(compiled._settled)) == 2


def test_quantised_constants_that_are_joined_keep_their_type():
    """As exporters write the grid of a detector: QLinearConcat of two constants, computed beforehand."""
    u8 = lambda *values: np.array(values, "u1")  # noqa: E731
    arrays = {"s": np.float32(0.5), "z": np.uint8(7), "a": u8(1, 9, 250), "b": u8(4, 255), "s2": np.float32(0.25)}
    nodes = [
        helper.make_node(
            "QLinearConcat", ["s", "z", "a", "s", "z", "b", "s2", "z"], ["c"], axis=0, domain="com.microsoft"
        ),
        helper.make_node("DequantizeLinear", ["c", "s", "z"], ["d"]),
        helper.make_node("Add", ["x", "d"], ["y"]),
    ]
    info, kind = helper.make_tensor_value_info, helper.TensorProto.FLOAT
    numpy_helper = pytest.importorskip("onnx.numpy_helper")
    held = [numpy_helper.from_array(np.asarray(a), k) for k, a in arrays.items()]
    made = helper.make_graph(
        nodes, "g", [info("x", kind, ["n", 5])], [info("y", kind, None)],
held,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=8)
    x = np.zeros((2, 5), "f4")
    (wanted,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    assert len(np.unique(wanted)) > 3
    np.testing.assert_array_equal(compile(onnx_format.from_bytes(model.SerializeToString()))(x), wanted)
