"""Quantised files whose scales or zero points are unusual or wrong: the numbers of ONNX Runtime, or a line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dojang.base.errors import DojangError
from dojang.engine.compiled import compile
from dojang.formats import onnx as onnx_format

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
helper = onnx.helper

RNG = np.random.default_rng(0)
X = RNG.normal(size=(1, 3, 8, 8)).astype("f4")
WEIGHT = RNG.integers(-127, 128, (4, 3, 3, 3)).astype("i1")
BIAS = RNG.integers(-2000, 2000, 4).astype("i4")
NAN, INF = float("nan"), float("inf")
USUAL: Mapping[str, Any] = {
    "xs": 0.02, "xz": np.uint8(128), "w": WEIGHT, "ws": [0.01] * 4, "wz": np.zeros(4, "i1"), "ys": 0.05,
    "yz": np.uint8(120), "b": BIAS, "bs": [0.0002] * 4,
}  # fmt: skip


def pairs(path: Path, axis: int = 0, **changed: Any) -> Path:
    """A file in which QuantizeLinear and DequantizeLinear stand around a convolution; None leaves an array out."""
    arrays = {**USUAL, **changed}

    def both(source: str, tag: str) -> list[Any]:
        by = [f"{tag}s", f"{tag}z"] if arrays[f"{tag}z"] is not None else [f"{tag}s"]
        return [node("QuantizeLinear", [source, *by], f"{tag}q"), node("DequantizeLinear", [f"{tag}q", *by], f"{tag}d")]

    by = ["ws", "wz"] if arrays["wz"] is not None else ["ws"]
    nodes = [*both("x", "x"), node("DequantizeLinear", ["w", *by], "wd", axis=axis)]
    nodes += [node("DequantizeLinear", ["b", "bs"], "bd", axis=0)]
    nodes += [node("Conv", ["xd", "wd", "bd"], "y", pads=[1] * 4), *both("y", "y")]
    return written(path, nodes, arrays, "yd")


def whole(path: Path, **changed: Any) -> Path:
    """A file with QLinearConv between a QuantizeLinear and a DequantizeLinear."""
    arrays = {**USUAL, **changed}
    nodes = [
        node("QuantizeLinear", ["x", "xs", "xz"], "q"),
        node("QLinearConv", ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"], "c", pads=[1] * 4),
        node("DequantizeLinear", ["c", "ys", "yz"], "yd"),
    ]
    return written(path, nodes, arrays, "yd")


def node(op: str, inputs: list[str], output: str, **attrs: Any) -> Any:
    return helper.make_node(op, inputs, [output], name=output, **attrs)


def written(path: Path, nodes: list[Any], arrays: Mapping[str, Any], output: str) -> Path:
    read = {name for n in nodes for name in n.input}
    stored = [
        onnx.numpy_helper.from_array(np.asarray(a, "f4") if isinstance(a, (float, list)) else np.asarray(a), name)
        for name, a in arrays.items()
        if name in read
    ]
    shapes = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in (("x", X.shape), (output, None))]
    graph = helper.make_graph(nodes, "g", shapes[:1], shapes[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def theirs(path: Path) -> np.ndarray:
    """What ONNX Runtime computes where it changes nothing before."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]


SAME: Mapping[str, Mapping[str, Any]] = {
    "usual": {},
    "scale of values 0": {"xs": 0.0},
    "negative scale of values": {"xs": -0.02},
    "infinite scale of values": {"xs": INF},
    "denormal scale of values": {"xs": 1e-40},
    "scale of the result 0": {"ys": 0.0},
    "negative scale of the result": {"ys": -0.05},
    "denormal scale of the result": {"ys": 1e-40},
    "huge scale of the result": {"ys": 1e38},
    "a scale of weights 0": {"ws": [0.0, 0.01, 0.01, 0.01]},
    "all scales of weights 0": {"ws": [0.0] * 4},
    "a negative scale of weights": {"ws": [-0.01, 0.01, 0.01, 0.01]},
    "zero point at the end": {"xz": np.uint8(255)},
    "zero points of weights": {"wz": np.array([3, -5, 0, 1], "i1")},
    "zero points at both ends": {"wz": np.array([127, -128, 0, 1], "i1")},
    "bias up to the end of int32": {"b": np.array([2**31 - 1, -(2**31), 0, 7], "i4")},
}
PAIRS_ALONE: Mapping[str, Mapping[str, Any]] = {
    "huge scale of values": {"xs": 1e38},
    "scale of values that is no number": {"xs": NAN},
    "infinite scale of weights": {"ws": [INF, 0.01, 0.01, 0.01]},
    "no zero point of values": {"xz": None},
    "no zero points of weights": {"wz": None},
    "one scale for all weights": {"ws": 0.01, "wz": np.int8(0)},
    "scales along the input channels": {"ws": [0.01, 0.02, 0.03], "wz": np.zeros(3, "i1"), "axis": 1},
    "axis from the end": {"axis": -4},
    "scales for each channel of values": {"xs": [0.01, 0.02, 0.03], "xz": np.full(3, 128, "u1")},
    "signed values": {"xz": np.int8(-128)},
    "values from an int8 to a uint8": {"xz": np.int8(-3), "yz": np.uint8(0)},
    "unsigned weights": {"w": (WEIGHT.astype(int) + 128).astype("u1"), "wz": np.full(4, 128, "u1")},
    "unsigned weights about 0": {"w": (WEIGHT.astype(int) + 128).astype("u1"), "wz": np.zeros(4, "u1")},
    "a bias in a unit of its own": {"bs": [0.5, 1e-5, 0.3, 0.02]},
    "a bias whose scale is 0": {"bs": [0.0, 0.0002, 0.0002, 0.0002]},
    "a bias beyond the sums": {"bs": [1e10, 0.1, 0.1, 0.1]},
}


@pytest.mark.parametrize("name", [*SAME, *PAIRS_ALONE])
def test_what_a_file_says_is_computed(tmp_path: Path, name: str) -> None:
    changed = {**SAME, **PAIRS_ALONE}[name]
    for write in (pairs, whole) if name in SAME else (pairs,):
        path = write(tmp_path / f"{write.__name__}.onnx", **changed)
        right, found = theirs(path), compile(onnx_format.load(path), threads=1)(X)
        step = abs(float(np.float32(changed.get("ys", 0.05))))
        far = np.abs(found - right)
        assert far.max() <= 1.001 * step
        assert (far > 0).mean() < 0.02  # a sum halfway between two whole numbers


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ws": [NAN, 0.01, 0.01, 0.01]}, "c.*27 of 108 weights are NaN|27 of 108 weights are NaN"),
        ({"bs": [NAN, 0.1, 0.1, 0.1]}, "1 of 4 weights are NaN"),
        ({"ws": [0.01] * 3, "wz": np.zeros(3, "i1")}, "3 scales and 3 zero points for 4x3x3x3 whole numbers"),
        ({"ws": [0.01] * 5, "wz": None}, "5 scales for 4x3x3x3 whole numbers"),
        ({"wz": np.zeros(3, "i1")}, "4 scales and 3 zero points"),
        ({"axis": 7}, "axis 7 of a tensor of 4 axes"),
        ({"xz": np.int32(300)}, "quantises to int32"),
        ({"xz": np.float32(3)}, "its zero point is of type float32"),
        ({"xz": np.array([1, 2], "u1")}, "2 scales or zero points for 3 places of axis 1"),
        ({"xs": []}, "0 scales"),
    ],
)
def test_what_cannot_be_meant_is_said_in_a_line(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    path = pairs(tmp_path / "bad.onnx", **changed)
    with pytest.raises(DojangError, match=said) as error:
        compile(onnx_format.load(path), threads=1)(X)
    assert "\n" not in str(error.value)


def test_mixed_files_are_computed_layer_by_layer(tmp_path: Path) -> None:
    real = RNG.normal(scale=0.1, size=(5, 4, 1, 1)).astype("f4")
    arrays = {**USUAL, "v": RNG.integers(-127, 128, (5, 4, 1, 1)).astype("i1"), "vs": np.float32(0.02), "vf": real,
              "ts": np.float32(0.04), "tz": np.uint8(100)}  # fmt: skip
    first = [
        node("QuantizeLinear", ["x", "xs", "xz"], "q"), node("DequantizeLinear", ["q", "xs", "xz"], "xd"),
        node("DequantizeLinear", ["w", "ws", "wz"], "wd", axis=0), node("Conv", ["xd", "wd"], "c", pads=[1] * 4),
    ]  # fmt: skip
    vd = node("DequantizeLinear", ["v", "vs"], "vd")
    again = [node("QuantizeLinear", ["c", "ys", "yz"], "p"), node("DequantizeLinear", ["p", "ys", "yz"], "pd")]
    other = [node("DequantizeLinear", ["q", "ts", "tz"], "td"), node("Conv", ["td", "wd"], "e", pads=[1] * 4)]
    cases = {
        "real weights behind whole ones": [*first, node("Conv", ["c", "vf"], "y")],
        "whole weights, real values": [*first, vd, node("Conv", ["c", "vd"], "y")],
        "real weights, whole values": [*first, *again, node("Conv", ["pd", "vf"], "y")],
        "two scales of one value": [*first, *other, node("Add", ["c", "e"], "y")],
    }
    for k, (name, nodes) in enumerate(cases.items()):
        path = written(tmp_path / f"{k}.onnx", nodes, arrays, "y")
        right, found = theirs(path), compile(onnx_format.load(path), threads=1)(X)
        assert np.abs(found - right).max() <= 2e-5 * np.abs(right).max(), name
