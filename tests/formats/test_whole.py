"""Weights as whole numbers in files: read from ONNX, written to ONNX and to checkpoints, against ONNX Runtime."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from dojang.arith.graph import Graph, Node
from dojang.arith.precision import Precision
from dojang.base.errors import FileError
from dojang.formats import checkpoint
from dojang.formats import onnx as onnx_format
from dojang.formats.whole import real_of, whole_of

onnx = pytest.importorskip("onnx")
evaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator
ort = pytest.importorskip("onnxruntime")
KINDS = {"int8": np.int8, "uint8": np.uint8, "int16": np.int16, "uint16": np.uint16, "int32": np.int32}


def drawn(seed: int) -> tuple[np.ndarray, Precision]:
    """Whole numbers of any type, with scales for all or along any axis."""
    rng = np.random.default_rng(seed)
    kind = list(KINDS)[seed % len(KINDS)]
    limits = np.iinfo(KINDS[kind])
    shape = tuple(rng.integers(1, 5, rng.integers(1, 5)))
    axis = int(rng.integers(len(shape))) if rng.integers(3) else None
    count = shape[axis] if axis is not None else 1
    least, most = (-1000, 1000) if kind == "int32" else (limits.min, limits.max + 1)
    zero = tuple(int(z) for z in rng.integers(least, most, count))
    scale = tuple(float(np.float32(s)) for s in np.exp(rng.uniform(-12, 3, count)))
    low, high = (-(1 << 20), 1 << 20) if kind == "int32" else (limits.min, limits.max)
    return rng.integers(low, high, shape, endpoint=True).astype(KINDS[kind]), Precision(kind, scale, zero, axis)


@pytest.mark.parametrize("seed", range(25))
def test_whole_numbers_come_back_and_are_real_as_onnx_says(seed: int) -> None:
    whole, precision = drawn(seed)
    real = real_of(whole, precision)
    count = () if precision.axis is None else (len(precision.scale),)
    node = onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=precision.axis or 0)
    code = onnx.helper.np_dtype_to_tensor_dtype
    graph = onnx.helper.make_graph(
        [node], "g", [onnx.helper.make_tensor_value_info("q", code(whole.dtype), whole.shape),
                      onnx.helper.make_tensor_value_info("s", 1, count),
                      onnx.helper.make_tensor_value_info("z", code(whole.dtype), count)],
        [onnx.helper.make_tensor_value_info("y", 1, whole.shape)],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    feeds = {"q": whole, "s": np.array(precision.scale, "f4").reshape(count),
             "z": np.array(precision.zero, whole.dtype).reshape(count)}  # fmt: skip
    right = evaluator(model).run(None, feeds)[0]
    np.testing.assert_array_equal(real, right)
    found = whole_of(real, precision)
    assert found is not None
    assert found.dtype == whole.dtype
    np.testing.assert_array_equal(found, whole)
    assert whole_of(real * np.float32(1.01) + np.float32(0.3 * precision.scale[0]), precision) is None


def network(seed: int) -> Graph:
    """A convolution and a dense layer whose weights are whole numbers, and one layer of real numbers."""
    rng = np.random.default_rng(seed)
    each = Precision("int8", tuple(float(np.float32(s)) for s in rng.uniform(0.01, 0.1, 6)), (0,) * 6, 0)
    one = Precision("uint8", (0.03125,), (131,))
    bias = Precision("int32", tuple(s * 0.5 for s in each.scale), (0,) * 6, 0)
    nodes = (
        Node.of("x", "input", shape=(4, 6, 6)),
        Node.of("c", "conv", "x", out=6, kernel=(3, 3)),
        Node.of("r", "relu", "c"),
        Node.of("e", "conv", "r", out=3, kernel=(2, 2)),
        Node.of("f", "flatten", "e"),
        Node.of("d", "dense", "f", out=5, bias=False),
    )
    weights = {
        "c.weight": real_of(rng.integers(-127, 128, (6, 4, 3, 3)).astype("i1"), each),
        "c.bias": real_of(rng.integers(-999, 999, 6).astype("i4"), bias),
        "e.weight": rng.normal(size=(3, 6, 2, 2)).astype("f4"), "e.bias": rng.normal(size=3).astype("f4"),
        "d.weight": real_of(rng.integers(0, 256, (5, 27)).astype("u1"), one),
    }  # fmt: skip
    return Graph(nodes, ("d",), weights=weights, precisions={"c.weight": each, "c.bias": bias, "d.weight": one})


def same(one: Graph, two: Graph) -> None:
    assert dict(one.precisions) == dict(two.precisions)
    for name, array in one.weights.items():
        np.testing.assert_array_equal(two.weights[name], array)


def test_a_checkpoint_keeps_whole_numbers_in_their_bytes(tmp_path: Path) -> None:
    graph = network(1)
    path = checkpoint.save(graph, tmp_path / "a.safetensors")
    header = checkpoint.read_header(path)
    assert {n: e.dtype for n, e in header.entries.items()} == {
        "c.weight": "I8", "c.bias": "I32", "e.weight": "F32", "e.bias": "F32", "d.weight": "U8"
    }  # fmt: skip
    same(graph, checkpoint.load(path))
    assert dict(checkpoint.load(path, weights=False).precisions) == dict(graph.precisions)


def test_weights_that_were_changed_are_saved_as_real_numbers(tmp_path: Path) -> None:
    graph = network(2)
    changed = {**graph.weights, "c.weight": graph.weights["c.weight"] + np.float32(0.001)}
    path = checkpoint.save(graph.replace(weights=changed), tmp_path / "a.safetensors")
    again = checkpoint.load(path)
    assert "c.weight" not in again.precisions
    assert "d.weight" in again.precisions
    np.testing.assert_array_equal(again.weights["c.weight"], changed["c.weight"])
    onnx_format.save(graph.replace(weights=changed), tmp_path / "a.onnx")
    read = onnx_format.load(tmp_path / "a.onnx")
    assert "c.weight" not in read.precisions
    np.testing.assert_array_equal(read.weights["c.weight"], changed["c.weight"])


@pytest.mark.parametrize(
    ("name", "told"),
    [("c.weight", 3), ("c.weight", {"kind": "int8", "scale": [0.0] * 6, "zero": [0] * 6, "axis": 0}),
     ("c.weight", {"kind": "int8", "scale": [1.0] * 5, "zero": [0] * 5, "axis": 0}), ("c.weight", {"kind": "float32"}),
     ("e.weight", {"kind": "int8", "scale": [1.0], "zero": [0], "axis": None}), ("nobody", {"kind": "float32"})],
)  # fmt: skip
def test_a_damaged_precision_is_one_line(tmp_path: Path, name: str, told: object) -> None:
    path = checkpoint.save(network(3), tmp_path / "a.safetensors")
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    kept = json.loads(header["__metadata__"]["dojang.precisions"])
    header["__metadata__"]["dojang.precisions"] = json.dumps({**kept, name: told})
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])
    with pytest.raises(FileError, match="save it again") as error:
        checkpoint.load(path)
    assert "\n" not in str(error.value)


def test_onnx_keeps_whole_numbers_and_its_runtime_reads_them(tmp_path: Path) -> None:
    graph = network(4)
    path = tmp_path / "a.onnx"
    onnx_format.save(graph, path)
    stored = {t.name: t.data_type for t in onnx.load(path).graph.initializer}
    assert sorted(stored.values()).count(onnx.TensorProto.INT8) >= 1
    assert onnx.TensorProto.UINT8 in stored.values()
    same(graph, onnx_format.load(path))
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 6)).astype("f4")
    session = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    from dojang.engine.reference.operators import run_reference

    right = run_reference(graph, x).outputs[0]
    np.testing.assert_allclose(session.run(None, {session.get_inputs()[0].name: x})[0], right, rtol=1e-4, atol=1e-3)


def test_the_scales_of_channels_follow_transposed_weights() -> None:
    rng = np.random.default_rng(5)
    scale = rng.uniform(0.01, 0.1, 7).astype("f4")
    weight = rng.integers(-127, 128, (5, 7)).astype("i1")  # (in, out): Gemm without transB
    made = onnx.helper.make_graph(
        [onnx.helper.make_node("DequantizeLinear", ["w", "s", "z"], ["v"], axis=1),
         onnx.helper.make_node("Gemm", ["x", "v"], ["y"])], "g",
        [onnx.helper.make_tensor_value_info("x", 1, ["N", 5])], [onnx.helper.make_tensor_value_info("y", 1, ["N", 7])],
        [onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(scale, "s"),
         onnx.numpy_helper.from_array(np.zeros(7, "i1"), "z")],
    )  # fmt: skip
    graph = onnx_format.from_bytes(onnx.helper.make_model(made).SerializeToString())
    (node,) = (n for n in graph.nodes if n.op == "dense")
    precision = graph.precisions[node.array("weight")]
    assert precision.axis == 0
    assert precision.scale == tuple(float(s) for s in scale)
    found = whole_of(np.asarray(graph.weights[node.array("weight")]), precision)
    assert found is not None
    np.testing.assert_array_equal(found, weight.T)
