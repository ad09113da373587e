"""Files as people have them: what stands between layers hides nothing; what counting does not need is not asked for.

The oracle is arithmetic by hand for counts, and ONNX Runtime for numbers.
"""

from __future__ import annotations

import warnings
from math import prod
from typing import Any

import numpy as np
import pytest

from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.base.errors import FileError
from dojang.engine.compiled import compile
from dojang.engine.reference.operators import run_reference
from dojang.formats import onnx as onnx_format

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

F, I64 = np.float32, np.int64
RNG = np.random.default_rng(7)


def array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(F)


def model(
    nodes: list[Any], arrays: dict[str, Any], inputs: dict[str, Any], outputs: tuple[str, ...] = ("y",),
    opset: int = 18, **more: Any,
) -> Any:  # fmt: skip
    """A ModelProto; an input is a shape, or a pair of a shape and a type."""
    values = []
    for name, shape in inputs.items():
        own, kind = shape if isinstance(shape, tuple) and shape and isinstance(shape[0], tuple) else (shape, 1)
        values.append(helper.make_tensor_value_info(name, kind, own))
    outs = [onnx.ValueInfoProto(name=o) for o in outputs]
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()]
    graph = helper.make_graph(nodes, "g", values, outs, tensors)
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=8, **more)


def same_as_onnxruntime(made: Any, feeds: dict[str, Any], atol: float = 1e-5) -> Graph:
    """The graph of a model whose answers, by reference and engine, are those of ONNX Runtime, in type and number."""
    data = made.SerializeToString()
    inferred = onnx.shape_inference.infer_shapes(made)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    for out, known in zip(made.graph.output, inferred.graph.output, strict=True):
        if known.type.tensor_type.elem_type and not out.type.tensor_type.elem_type:
            out.type.tensor_type.elem_type = known.type.tensor_type.elem_type
    session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    wanted = session.run(None, feeds)
    graph = onnx_format.from_bytes(data)
    for run in (run_reference, lambda g, x: compile(g, threads=1).run(x)):
        for found, right in zip(run(graph, feeds).outputs, wanted, strict=True):
            assert found.shape == right.shape
            assert found.dtype == right.dtype
            np.testing.assert_allclose(found.astype("f8"), right.astype("f8"), rtol=1e-4, atol=atol)
    return graph


# ------------------------------------------------------------------------------------------------ nothing is hidden

BETWEEN = {
    "Celu": helper.make_node("Celu", ["a"], ["b"]),
    "ThresholdedRelu": helper.make_node("ThresholdedRelu", ["a"], ["b"]),
    "Shrink": helper.make_node("Shrink", ["a"], ["b"]),
    "Hardmax": helper.make_node("Hardmax", ["a"], ["b"], axis=1),
    "CumSum": helper.make_node("CumSum", ["a", "one"], ["b"]),
    "LpNormalization": helper.make_node("LpNormalization", ["a"], ["b"], axis=1),
    "MeanVarianceNormalization": helper.make_node("MeanVarianceNormalization", ["a"], ["b"], axes=[2, 3]),
    "LpPool": helper.make_node("LpPool", ["a"], ["b"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "AveragePool, dilated": helper.make_node(
        "AveragePool", ["a"], ["b"], kernel_shape=[2, 2], dilations=[2, 2], pads=[1, 1, 1, 1]
    ),
    "Resize, antialias": helper.make_node("Resize", ["a", "", "scales"], ["b"], mode="linear", antialias=1),
    "TopK": helper.make_node("TopK", ["a", "eight"], ["b", "places"], axis=1),
    "Mod": helper.make_node("Mod", ["a", "half"], ["b"], fmod=1),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_an_operator_between_convolutions_hides_nothing_and_runs(name: str) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 1, 1]),
        BETWEEN[name],
        helper.make_node("Conv", ["b", "w1"], ["y"], pads=[1, 1, 1, 1]),
    ]
    arrays = {
        "w0": array(8, 3, 3, 3), "w1": array(8, 8, 3, 3), "one": I64(1), "half": F(0.5), "eight": np.array([8]),
        "scales": np.array([1, 1, 1, 1], F),
    }  # fmt: skip
    opset = 19 if "dilated" in name else 18
    for batch in ("N", 2):
        made = model(nodes, arrays, {"x": (batch, 3, 8, 8)}, opset=opset)
        graph = same_as_onnxruntime(made, {"x": array(2, 3, 8, 8)}, atol=1e-4)
        total = count(graph).total
        assert (total.params, total.macs, total.status) == (792, 64 * (216 + 576), "exact")


def test_masks_and_choices_between_convolutions() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Greater", ["a", "zero"], ["above"]),
        helper.make_node("LessOrEqual", ["a", "one"], ["below"]),
        helper.make_node("And", ["above", "below"], ["both"]),
        helper.make_node("Where", ["both", "a", "one"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("ArgMax", ["y"], ["best"], axis=1, keepdims=0),
        helper.make_node("Cast", ["both"], ["mask"], to=TensorProto.UINT8),
    ]
    arrays = {"w0": array(8, 3, 3, 3), "w1": array(8, 8, 3, 3), "zero": F(0), "one": F(1)}
    made = model(nodes, arrays, {"x": ("N", 3, 8, 8)}, ("y", "best", "mask", "both"))
    graph = same_as_onnxruntime(made, {"x": array(2, 3, 8, 8)}, atol=1e-4)
    assert [graph.types[o] for o in graph.outputs] == ["float32", "int64", "uint8", "bool"]
    assert count(graph).total.macs == 64 * (216 + 576)


def test_kernels_that_the_file_computes_behind_a_size_that_values_decide() -> None:
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["s"], keepdims=0),
        helper.make_node("NonZero", ["s"], ["z"]),
        helper.make_node("Squeeze", ["z", "first"], ["i"]),
        helper.make_node("Gather", ["x", "i"], ["p"], axis=2),
        helper.make_node("Sigmoid", ["w"], ["v"]),
        helper.make_node("Conv", ["p", "v"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c", "k"], ["d"]),
        helper.make_node("Pow", ["d", "three"], ["y"]),  # a product, by an edit that keeps the kernels
        helper.make_node("Pow", ["x", "three"], ["cube"]),
    ]
    arrays = {
        "axes": np.array([0, 1, 2]), "first": np.array([0]), "w": array(5, 4, 3, 3), "k": array(2, 5, 1, 1),
        "three": np.array(3.0, F),
    }  # fmt: skip
    x = array(1, 4, 8, 8)
    x[..., [1, 4]] = 0
    same_as_onnxruntime(model(nodes, arrays, {"x": [1, 4, 8, 8]}, ("y", "cube")), {"x": x}, atol=1e-3)


def test_sizes_that_are_split_and_joined_stay_numbers() -> None:
    """As converted TensorFlow graphs pad: the pads pass a Split and a Concat."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Split", ["s", "halves"], ["front", "back"]),
        helper.make_node("Sub", ["back", "least"], ["more"]),
        helper.make_node("Concat", ["none", "more", "none", "none"], ["pads"], axis=0),
        helper.make_node("Pad", ["x", "pads"], ["p"]),
        helper.make_node("Conv", ["p", "w"], ["y"]),
    ]
    arrays = {
        "halves": np.array([2, 2]), "least": np.array([6, 7]), "none": np.array([0, 0]), "w": array(3, 2, 3, 3),
    }  # fmt: skip
    graph = same_as_onnxruntime(model(nodes, arrays, {"x": ["n", 2, 8, 8]}), {"x": array(1, 2, 8, 8)}, atol=1e-4)
    assert count(graph).total.macs == 54 * (10 - 2) * (9 - 2)


def test_boxes_that_values_choose_are_picked() -> None:
    """As detectors end: scores above a threshold, their places, their boxes, the best of them."""
    nodes = [
        helper.make_node("Greater", ["scores", "least"], ["kept"]),
        helper.make_node("NonZero", ["kept"], ["places"]),
        helper.make_node("Transpose", ["places"], ["rows"], perm=[1, 0]),
        helper.make_node("GatherND", ["boxes", "rows"], ["chosen"]),
        helper.make_node("GatherND", ["scores", "rows"], ["sure"]),
        helper.make_node("TopK", ["sure", "two"], ["best", "which"]),
        helper.make_node("Gather", ["chosen", "which"], ["y"]),
    ]
    arrays = {"least": F(0.5), "two": np.array([2])}
    made = model(nodes, arrays, {"scores": (9,), "boxes": (9, 4)}, ("y", "best", "which", "places"))
    scores = np.linspace(0, 1, 9, dtype=F)[np.array([3, 8, 1, 6, 0, 5, 7, 2, 4])]
    graph = same_as_onnxruntime(made, {"scores": scores, "boxes": array(9, 4)})
    assert count(graph).total.status == "exact"


# ------------------------------------------------------------------------------------------------ recurrent layers


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_recurrent_layers_count_and_run(kind: str, direction: str) -> None:
    gates, both = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], 2 if direction == "bidirectional" else 1
    steps, inputs, hidden = 5, 3, 4
    arrays = {"w": array(both, gates * hidden, inputs), "r": array(both, gates * hidden, hidden),
              "b": array(both, 2 * gates * hidden)}  # fmt: skip
    states = ["h"] + (["c"] if kind == "LSTM" else [])
    node = helper.make_node(
        kind, ["x", "w", "r", "b", "", *states], ["y", "yh", *(["yc"] if kind == "LSTM" else [])], hidden_size=hidden,
        direction=direction, **({"linear_before_reset": 1} if kind == "GRU" and both == 2 else {}),
    )  # fmt: skip
    shapes = {"x": (steps, 2, inputs)} | dict.fromkeys(states, (both, 2, hidden))
    made = model([node], arrays, shapes, tuple(o for o in node.output))
    graph = same_as_onnxruntime(made, {name: array(*shape) for name, shape in shapes.items()})
    total = count(graph).total
    weights = both * gates * hidden * (inputs + hidden)
    assert (total.params, total.macs, total.status) == (
        weights + both * 2 * gates * hidden, steps * 2 * weights, "exact",
    )  # fmt: skip


def test_a_state_has_the_batch_in_another_axis() -> None:
    node = helper.make_node("RNN", ["x", "w", "r", "", "", "h"], ["y", "yh"], hidden_size=4)
    arrays = {"w": array(1, 4, 3), "r": array(1, 4, 4)}
    turned = helper.make_node("Transpose", ["audio"], ["x"], perm=[1, 0, 2])
    made = model([turned, node], arrays, {"audio": ("batch", 6, 3), "h": (1, "batch", 4)}, ("y", "yh"))
    graph = onnx_format.from_bytes(made.SerializeToString())
    assert [n.attrs["batch_axis"] for n in graph.inputs] == [0, 1]
    for n in (1, 3):
        same_as_onnxruntime(made, {"audio": array(n, 6, 3), "h": array(1, n, 4)})


# ------------------------------------------------------------------------------------------------ quantised files


def quantised(weight: np.ndarray, **more: Any) -> dict[str, Any]:
    scale = np.abs(weight).max() / 127
    return {"w": np.rint(weight / scale).astype(np.int8), "ws": F(scale), "wz": np.int8(0), **more}


def test_quantised_convolutions_are_counted_and_run_as_convolutions() -> None:
    arrays = quantised(
        array(6, 3, 3, 3), xs=F(0.03), xz=np.uint8(120), ys=F(0.2), yz=np.uint8(99),
        b=RNG.integers(-500, 500, 6).astype(np.int32), s=np.linspace(0.01, 0.02, 6, dtype=F), z=np.zeros(6, np.int8),
    )  # fmt: skip
    for scale, zero in (("ws", "wz"), ("s", "z")):
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
            helper.make_node(
                "QLinearConv", ["q", "xs", "xz", "w", scale, zero, "ys", "yz", "b"], ["c"], strides=[2, 2]
            ),
            helper.make_node("DequantizeLinear", ["c", "ys", "yz"], ["y"]),
        ]
        made = model(nodes, arrays, {"x": ("N", 3, 9, 9)}, ("y", "c"))
        graph = same_as_onnxruntime(made, {"x": array(2, 3, 9, 9)}, atol=0)
        total = count(graph).total
        assert (total.params, total.macs, total.status) == (168, 162 * 16, "exact")
        assert "conv" in {node.op for node in graph.nodes}


def test_integer_convolutions_and_products_are_exact() -> None:
    """Sums of 2,304 products of 8 bits, which float32 rounds."""
    w = np.full((2, 256, 3, 3), 127, np.int8)
    w[1, ::2] = -128
    nodes = [
        helper.make_node("ConvInteger", ["x", "w", "xz"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("MatMulInteger", ["a", "m", "xz"], ["p"]),
    ]
    arrays = {"w": w, "xz": np.uint8(3), "m": RNG.integers(-128, 128, (700, 5)).astype(np.int8)}
    made = model(nodes, arrays, {"x": (("N", 256, 4, 4), 2), "a": (("N", 700), 2)}, ("c", "p"))
    feeds = {"x": RNG.integers(200, 256, (1, 256, 4, 4)).astype(np.uint8),
             "a": RNG.integers(0, 256, (1, 700)).astype(np.uint8)}  # fmt: skip
    graph = onnx_format.from_bytes(made.SerializeToString())
    padded = np.pad(feeds["x"].astype(I64) - 3, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    wanted = (
        np.einsum("nchwij,ocij->nohw", windows, w.astype(I64)),
        (feeds["a"].astype(I64) - 3) @ arrays["m"].astype(I64),
    )
    assert np.abs(wanted[0]).max() > 1 << 24
    for run in (run_reference, lambda g, x: compile(g, threads=1).run(x)):
        for found, right in zip(run(graph, feeds).outputs, wanted, strict=True):
            assert found.dtype == np.int32
            np.testing.assert_array_equal(found, right)
    assert count(graph).total.macs == 2 * 2304 * 16 + 700 * 5


def test_dynamically_quantised_layers_count_their_weights() -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("ConvInteger", ["q", "w", "zero", "wz"], ["c"]),
        helper.make_node("Cast", ["c"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["scale", "ws"], ["s"]),
        helper.make_node("Mul", ["f", "s"], ["y"]),
    ]
    made = model(nodes, quantised(array(6, 3, 3, 3)), {"x": ("N", 3, 8, 8)})
    graph = same_as_onnxruntime(made, {"x": array(1, 3, 8, 8)}, atol=1e-4)
    assert (count(graph).total.params, count(graph).total.macs) == (162, 162 * 36)


def test_what_the_optimiser_of_onnxruntime_fuses_is_counted_and_runs() -> None:
    nodes = [
        helper.make_node(
            "FusedConv", ["x", "w", "b", "z"], ["a"], domain="com.microsoft", activation="Relu", pads=[1, 1, 1, 1]
        ),
        helper.make_node(
            "FusedConv", ["a", "v"], ["c"], domain="com.microsoft", activation="LeakyRelu", activation_params=[0.1]
        ),
        helper.make_node("Reshape", ["c", "shape"], ["r"]),
        helper.make_node("BiasGelu", ["r", "bias"], ["g"], domain="com.microsoft"),
        helper.make_node("FusedMatMul", ["g", "m"], ["y"], domain="com.microsoft", alpha=0.5, transB=1),
    ]
    arrays = {"w": array(4, 3, 3, 3), "b": array(4), "v": array(4, 4, 3, 3), "shape": np.array([0, 4, 36]),
              "bias": array(36), "m": array(5, 36)}  # fmt: skip
    made = model(nodes, arrays, {"x": ("N", 3, 8, 8), "z": ("N", 4, 8, 8)})
    graph = same_as_onnxruntime(made, {"x": array(2, 3, 8, 8), "z": array(2, 4, 8, 8)}, atol=1e-4)
    total = count(graph).total
    assert (total.params, total.macs, total.status) == (
        108 + 4 + 144 + 36 + 180,
        108 * 64 + 144 * 36 + 4 * 180,
        "exact",
    )


# ------------------------------------------------------------------------------------------------ whole files

CONV = [helper.make_node("Conv", ["x", "w"], ["y"])]


def conv_file(**more: Any) -> Any:
    return model(CONV, {"w": array(4, 3, 3, 3)}, {"x": ("N", 3, 8, 8)}, **more)


def test_initialisers_of_any_type_stand_beside_layers() -> None:
    made = conv_file()
    made.graph.initializer.append(helper.make_tensor("names", TensorProto.STRING, [2], [b"cat", b"dog"]))
    made.graph.initializer.append(helper.make_tensor("small", TensorProto.INT4, [3], [1, -2, 3]))
    made.graph.initializer.append(helper.make_tensor("tiny", TensorProto.FLOAT8E5M2, [2], [1.0, 2.0]))
    total = count(onnx_format.from_bytes(made.SerializeToString())).total
    assert (total.params, total.macs) == (108, 108 * 36)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("kind", ["INT4", "UINT4"])
def test_weights_of_four_bits_are_counted_and_unpacked(kind: str, raw: bool) -> None:
    values = RNG.integers(0 if kind == "UINT4" else -8, 8, (5, 3))
    packed = helper.make_tensor("q", getattr(TensorProto, kind), values.shape, values.ravel())
    if raw:
        packed = numpy_helper.from_array(numpy_helper.to_array(packed), "q")
    nodes = [helper.make_node("DequantizeLinear", ["q", "s"], ["m"]), helper.make_node("MatMul", ["x", "m"], ["y"])]
    made = model(nodes, {"s": F(0.5)}, {"x": ("N", 5)}, opset=21)
    made.graph.initializer.append(packed)
    graph = onnx_format.from_bytes(made.SerializeToString())
    x = array(2, 5)
    np.testing.assert_allclose(run_reference(graph, x).outputs[0], x @ (values * F(0.5)), rtol=1e-5, atol=1e-6)
    assert count(graph).total.params == 15


def test_counting_needs_no_data_of_other_files(tmp_path) -> None:
    made = conv_file()
    onnx.save(made, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").unlink()
    assert count(onnx_format.load(tmp_path / "m.onnx", weights=False)).total.params == 108
    with pytest.raises(FileError, match=r"its data file 'm.data' is not in the model's folder"):
        onnx_format.load(tmp_path / "m.onnx")


@pytest.mark.parametrize("opset", [1, 3, 6, 7, 9, 13, 21, 24])
def test_operator_sets_from_the_first_on(opset: int) -> None:
    nodes = [*CONV[:0], helper.make_node("Conv", ["x", "w"], ["c"])]
    if opset < 7:
        nodes += [
            helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"], is_test=1,
                             **({"consumed_inputs": [0, 0, 0, 1, 1]} if opset < 6 else {})),
            helper.make_node("Add", ["n", "b"], ["y"], broadcast=1, axis=1),
        ]  # fmt: skip
    else:
        nodes += [
            helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
            helper.make_node("Add", ["n", "b3"], ["y"]),
        ]
    own = {k: np.abs(array(4)) + F(0.5) for k in ("s", "b", "m", "v")}
    arrays = {"w": array(4, 3, 3, 3), **own, "b3": own["b"].reshape(4, 1, 1)}
    graph = onnx_format.from_bytes(model(nodes, arrays, {"x": ("N", 3, 8, 8)}, opset=opset).SerializeToString())
    newest = model(
        [nodes[0], helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
         helper.make_node("Add", ["n", "b3"], ["y"])], arrays, {"x": ("N", 3, 8, 8)},
    )  # fmt: skip
    x = array(2, 3, 8, 8)
    wanted = ort.InferenceSession(newest.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    np.testing.assert_allclose(compile(graph, threads=1)(x), wanted, rtol=1e-4, atol=1e-4)


def test_a_file_without_operator_sets_is_read_by_the_newest_that_fits() -> None:
    made = conv_file()
    del made.opset_import[:]
    assert count(onnx_format.from_bytes(made.SerializeToString())).total.params == 108
    old = model([helper.make_node("Squeeze", ["x"], ["y"], axes=[2])], {}, {"x": ("N", 3, 1)})
    del old.opset_import[:]
    assert onnx_format.from_bytes(old.SerializeToString()).unit_shapes["y"] == (1, 3)


def test_functions_of_the_file_are_written_out() -> None:
    body = [
        helper.make_node("Conv", ["a", "k"], ["t"], pads=[1, 1, 1, 1]),
        helper.make_node("LeakyRelu", ["t"], ["r"]),
    ]
    body[1].attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    inner = helper.make_function("own", "Layer", ["a", "k"], ["r"], body, [helper.make_opsetid("", 18)], ["slope"])
    twice = helper.make_function(
        "own", "Twice", ["a", "k"], ["o"],
        [helper.make_node("Layer", ["a", "k"], ["t"], domain="own", slope=0.1),
         helper.make_node("Layer", ["t", "k"], ["o"], domain="own", slope=0.3)],
        [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)],
    )  # fmt: skip
    nodes = [helper.make_node("Twice", ["x", "w"], ["y"], domain="own")]
    made = model(nodes, {"w": array(3, 3, 3, 3)}, {"x": ("N", 3, 8, 8)}, functions=[inner, twice])
    graph = same_as_onnxruntime(made, {"x": array(2, 3, 8, 8)}, atol=1e-4)
    total = count(graph).total
    assert (total.params, total.macs, total.status) == (81, 2 * 81 * 64, "exact")


def test_a_function_that_uses_itself_is_refused() -> None:
    own = helper.make_function(
        "own",
        "Loop",
        ["a"],
        ["b"],
        [helper.make_node("Loop", ["a"], ["b"], domain="own")],
        [helper.make_opsetid("own", 1)],
    )
    made = model([helper.make_node("Loop", ["x"], ["y"], domain="own")], {}, {"x": ("N", 3)}, functions=[own])
    with pytest.raises(Exception, match="uses itself"):
        onnx_format.from_bytes(made.SerializeToString())


def test_inputs_that_differ_in_axis_0_and_single_numbers() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Mul", ["c", "gain"], ["d"]),
        helper.make_node("Add", ["d", "shift"], ["y"]),
    ]
    made = model(nodes, {"w": array(4, 3, 3, 3)}, {"x": (1, 3, 8, 8), "gain": (), "shift": (4, 1, 1)})
    graph = same_as_onnxruntime(
        made, {"x": array(1, 3, 8, 8), "gain": np.array(2.5, F), "shift": array(4, 1, 1)}, atol=1e-4
    )
    assert count(graph).total.macs == 108 * 36
    sound = model([helper.make_node("Abs", ["x"], ["y"])], {}, {"x": (160,)})
    assert same_as_onnxruntime(sound, {"x": array(160)}).unit_shapes["x"] == (160,)


def test_single_numbers_do_not_move_the_batch_of_other_inputs() -> None:
    """A signal [1, samples] beside scalar settings: axis 0 is the batch, and the length may be given."""
    nodes = [
        helper.make_node("Unsqueeze", ["x", "axis"], ["u"]),
        helper.make_node("Conv", ["u", "w"], ["c"], strides=[4]),
        helper.make_node("Clip", ["c", "low", "high"], ["y"]),
    ]
    arrays = {"axis": np.array([1]), "w": array(2, 1, 8)}
    made = model(nodes, arrays, {"x": [1, "samples"], "low": [], "high": []})
    graph = onnx_format.from_bytes(made.SerializeToString(), input_size={"x": (64,)})
    assert count(graph).total.macs == 2 * 8 * 15
    feeds = {"x": array(1, 64), "low": np.array(-0.5, F), "high": np.array(0.5, F)}
    (right,) = ort.InferenceSession(made.SerializeToString()).run(None, feeds)
    np.testing.assert_allclose(compile(graph, threads=1).run(feeds).outputs[0], right, rtol=1e-5, atol=1e-6)


def test_a_state_for_one_sample_beside_an_open_batch() -> None:
    """The state has a batch of 1, the data an open one: the network is read for one sample."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("GRU", ["t", "w", "r", "", "", "h0"], ["", "h"], hidden_size=4, linear_before_reset=1),
        helper.make_node("Concat", ["h", "h0"], ["y"], axis=0),
    ]
    arrays = {"w": array(1, 12, 6), "r": array(1, 12, 4)}
    made = model(nodes, arrays, {"x": ["batch", 5, 6], "h0": [1, 1, 4]})
    graph = same_as_onnxruntime(made, {"x": array(1, 5, 6), "h0": array(1, 1, 4)})
    assert count(graph).total.macs == 5 * 12 * (6 + 4)


def test_a_file_for_one_sample_that_mixes_axis_0_counts_with_its_receptive_fields() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Concat", ["c", "c"], ["z"], axis=0),
        helper.make_node("ReduceMean", ["z"], ["y"], axes=[0], keepdims=1),
    ]
    made = model(nodes, {"w": array(4, 3, 3, 3)}, {"x": [1, 3, 32, 32]}, opset=13)
    graph = same_as_onnxruntime(made, {"x": array(1, 3, 32, 32)})
    (layer,) = [row for row in count(graph).layers if row.op == "conv"]
    assert layer.cost.macs == 16 * 16 * 4 * 27
    assert [span.size for span in layer.field or ()] == [3, 3]
    assert [b.before for b in layer.border or ()] == [1, 1]


@pytest.mark.parametrize("kind", ["float16", "float64"])
def test_files_of_other_precisions_keep_their_types(kind: str) -> None:
    code = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]
    arrays = {"w": array(4, 3, 3, 3).astype(kind), "b": array(4).astype(kind)}
    made = model(nodes, arrays, {"x": (("N", 3, 8, 8), code)})
    x = array(2, 3, 8, 8).astype(kind)
    graph = onnx_format.from_bytes(made.SerializeToString())
    windows = np.lib.stride_tricks.sliding_window_view(x.astype("f8"), (3, 3), (2, 3))
    right = np.einsum("nchwij,ocij->nohw", windows, arrays["w"].astype("f8")) + arrays["b"].astype("f8")[:, None, None]
    for run in (run_reference, lambda g, v: compile(g, threads=1).run(v)):
        (found,) = run(graph, {"x": x}).outputs
        assert found.dtype == kind
        np.testing.assert_allclose(
            found.astype("f8"), np.maximum(right, 0), rtol=2e-3, atol=2e-3 if kind == "float16" else 1e-5
        )
    assert count(graph).total.params == 112


def test_outputs_without_names_make_no_rows() -> None:
    node = helper.make_node("LSTM", ["x", "w", "r"], ["", "", "y"], hidden_size=4)
    made = model([node], {"w": array(1, 16, 3), "r": array(1, 16, 4)}, {"x": (5, 2, 3)})
    graph = same_as_onnxruntime(made, {"x": array(5, 2, 3)})
    assert [node.op for node in graph.nodes] == ["input", "recurrent"]
    assert count(graph).total.macs == 5 * 2 * (prod((16, 3)) + prod((16, 4)))


def test_what_is_read_is_written_and_read_again() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("TopK", ["a", "k"], ["best", "where"], axis=1),
        helper.make_node("Greater", ["best", "zero"], ["above"]),
        helper.make_node("Where", ["above", "best", "zero"], ["y"]),
    ]
    made = model(
        nodes, {"w": array(4, 3, 3, 3), "k": np.array([2]), "zero": F(0)}, {"x": ("N", 3, 8, 8)}, ("y", "where")
    )
    graph = onnx_format.from_bytes(made.SerializeToString())
    x = array(2, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = onnx_format.to_bytes(graph)
    assert onnx_format.from_bytes(data).nodes == graph.nodes
    wanted = run_reference(graph, x).outputs
    found = ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
