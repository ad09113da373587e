"""Parameters of ONNX files: each array that the file stores once, whatever lies between it and those who read it."""

from __future__ import annotations

import io
import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from dojang.arith.cost import count
from dojang.engine.reference.operators import run_reference
from dojang.formats import onnx as onnx_format

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402 - after the skip

RNG = np.random.default_rng(0)
F, I64 = np.float32, np.int64


def array(*shape):
    return RNG.standard_normal(shape).astype(F)


def file(nodes, arrays=(), shape=("N", 6), opset=17) -> bytes:
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in dict(arrays).items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return made.SerializeToString()


def node(op, inputs, y="y", **attrs):
    return helper.make_node(op, inputs.split(), [y], name=y, **attrs)


def constant(name, value):
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value)))


def figures(data, shape=(6,), runs=True):
    """The count of a file, after holding its numbers against onnxruntime."""
    graph = onnx_format.from_bytes(data)
    if runs:
        x = RNG.standard_normal((2, *shape)).astype(F)
        right = ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        np.testing.assert_allclose(run_reference(graph, x).outputs[0], right, rtol=1e-3, atol=1e-4)
    result = count(graph)
    assert result.parameters.used == result.total.params == sum(layer.cost.params for layer in result.layers)
    assert result.parameters.used <= result.parameters.stored
    return result


W = {"w": array(6, 6)}
BETWEEN = {
    "twice": [node("MatMul", "x w", "a"), node("MatMul", "a w")],
    "Transpose": [node("MatMul", "x w", "a"), node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "a t")],
    "transB": [node("Gemm", "x w", "a"), node("Gemm", "a w", transB=1)],
    "transB and Transpose": [
        node("Gemm", "x w", "a", transB=1), node("Transpose", "w", "t"), node("Gemm", "a t", transB=1)],
    "Reshape": [node("MatMul", "x w", "a"), node("Reshape", "w s", "r"), node("Reshape", "r q", "b"),
                node("MatMul", "a b")],
    "Cast": [node("MatMul", "x w", "a"), node("Cast", "w", "d", to=TensorProto.FLOAT), node("MatMul", "a d")],
    "Identity": [node("Identity", "w", "v"), node("MatMul", "x w", "a"), node("MatMul", "a v")],
    "scaled": [node("MatMul", "x w", "a"), node("Mul", "w half", "v"), node("MatMul", "a v")],
    "Slice and Concat": [node("MatMul", "x w", "a"), node("Slice", "w zero two zero", "u"),
                         node("Slice", "w two six zero", "v"), node("Concat", "u v", "both", axis=0),
                         node("MatMul", "a both")],
    "Add": [node("MatMul", "x w", "a"), node("Gather", "w first", "row", axis=0), node("Add", "a row")],
    "convolution": [node("Unsqueeze", "w one", "k"), node("Unsqueeze", "x one", "p"), node("MatMul", "x w", "a"),
                    node("Conv", "p k", "c", pads=[3, 2]), node("ReduceMean", "c", "m", axes=[1], keepdims=0),
                    node("Add", "a m")],
}  # fmt: skip
MORE = {
    "s": np.array([4, 9]), "q": np.array([6, 6]), "half": F(0.5), "zero": np.array([0]), "two": np.array([2]),
    "six": np.array([6]), "first": I64(0), "one": np.array([1]),
}  # fmt: skip


@pytest.mark.parametrize("stored_in", ["initialiser", "Constant"])
@pytest.mark.parametrize("name", BETWEEN)
def test_an_array_counts_once_whatever_lies_between(name, stored_in) -> None:
    nodes, arrays = BETWEEN[name], {**W, **MORE}
    if stored_in == "Constant":
        nodes = [constant("w", arrays.pop("w")), *nodes]
    read = {i for n in nodes for i in n.input}
    nodes = [helper.make_node(n.op_type, n.input, n.output, n.name, **{a.name: helper.get_attribute_value(a)
                              for a in n.attribute}) for n in nodes]  # fmt: skip
    result = figures(file(nodes, {k: v for k, v in arrays.items() if k in read}))
    assert (result.parameters.stored, result.total.params, result.status) == (36, 36, "exact")


def test_dequantised_weights_count_once_and_without_their_scales() -> None:
    arrays = {
        "w": RNG.integers(-9, 9, (6, 6)).astype(np.int8), "scale": np.abs(array(6)), "zero": np.zeros(6, np.int8),
        "b": RNG.integers(-9, 9, 6).astype(np.int32), "one": F(0.25),
    }  # fmt: skip
    nodes = [
        node("DequantizeLinear", "w scale zero", "d", axis=0), node("Transpose", "d", "t"),
        node("DequantizeLinear", "b one", "bias"), node("Gemm", "x t bias", "a"), node("Gemm", "a d bias", transB=1),
    ]  # fmt: skip
    result = figures(file(nodes, arrays))
    assert (result.total.weights, result.total.biases) == (36, 6)
    assert result.parameters.stored == 42


def test_weights_in_constant_nodes_count() -> None:
    """As Paddle's exporter writes a convolution, a normalisation and a bias that is added."""
    nodes = [
        constant("conv.w", array(4, 3, 3, 3)), node("Conv", "x conv.w", "c"),
        *(constant(k, np.abs(array(4))) for k in ("scale", "shift", "mean", "var")),
        node("BatchNormalization", "c scale shift mean var", "n"),
        constant("added", array(1, 4, 1, 1)), node("Add", "n added"),
    ]  # fmt: skip
    result = figures(file(nodes, shape=("N", 3, 8, 8)), (3, 8, 8))
    assert (result.total.params, result.parameters.buffers, result.status) == (108 + 8 + 4, 8, "exact")


def detector(size, stored=True) -> bytes:
    """A head as in detectors: a grid of places from the size of its map, in a graph or numbered by an exporter."""
    nodes = [
        node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
        node("Shape", "c", "shape"), node("Slice", "shape two three", "h"), node("Squeeze", "h", "rows"),
        node("Range", "zero rows one", "places"), node("Cast", "places", "real", to=TensorProto.FLOAT),
        node("Add", "real half", "centres"), node("Mul", "centres strides", "scaled"),
        node("Unsqueeze", "scaled last", "column"), node("Expand", "column map", "grid"),
        node("Add", "c grid", "moved"),
        *([constant("/head/Constant_7_output_0", array(1, 4, size, size))] if stored else []),
        node("Add", "moved /head/Constant_7_output_0" if stored else "moved half"),
    ]  # fmt: skip
    arrays = {
        "w": array(4, 3, 3, 3), "two": np.array([2]), "three": np.array([3]), "zero": I64(0), "one": I64(1),
        "half": F(0.5), "strides": F(8), "last": np.array([1]), "map": np.array([size, size]),
    }  # fmt: skip
    return file(nodes, arrays, ("N", 3, size, size))


@pytest.mark.parametrize("stored", [True, False])
def test_grids_are_no_parameters_and_totals_do_not_change_with_the_input(stored) -> None:
    for size in (8, 20, 40, 80):
        assert figures(detector(size, stored), (3, size, size)).total.params == 108


def test_weights_behind_an_unknown_operator_count() -> None:
    nodes = [
        node("Conv", "x a", "c"), helper.make_node("Twist", ["c"], ["t"], domain="com.acme"),
        node("Conv", "t b bias", "d"), node("BatchNormalization", "d s s s s", "n"), node("Gemm", "n w", "y"),
    ]  # fmt: skip
    arrays = {"a": array(8, 3, 3, 3), "b": array(8, 8, 3, 3), "bias": array(8), "s": array(8), "w": array(8, 5)}
    result = figures(file(nodes, arrays, ("N", 3, 9, 9)), runs=False)
    assert result.total.params == 216 + 576 + 8 + 8 + 40
    assert result.status == "lower-bound"
    row = {layer["name"]: layer for layer in result.to_dict()["layers"]}["d"]
    assert (row["params"], row["macs"], row["status"]) == (584, None, "lower-bound")


@pytest.mark.parametrize("told", ["rule", "file", "nothing"])
@pytest.mark.parametrize("batch", ["N", 1, 4])
def test_shapes_that_a_file_or_a_rule_gives_are_known_behind_an_unknown_operator(told, batch) -> None:
    op = helper.make_node("Celu", ["c"], ["t"]) if told == "rule" else helper.make_node(
        "Twist", ["c"], ["t", "", "spare"], domain="com.acme")  # fmt: skip
    nodes = [node("Conv", "x a", "c"), op, node("Conv", "t b", "y")]
    data = onnx.load_from_string(file(nodes, {"a": array(8, 3, 3, 3), "b": array(8, 8, 3, 3)}, (batch, 3, 20, 20)))
    if told == "file":
        data.graph.value_info.append(helper.make_tensor_value_info("t", TensorProto.FLOAT, (batch, 8, 18, 18)))
    result = figures(data.SerializeToString(), runs=False)
    behind = 0 if told == "nothing" else 576 * 16 * 16
    status = "exact" if told == "rule" else "lower-bound"
    assert (result.total.params, result.total.macs, result.status) == (792, 216 * 18 * 18 + behind, status)
    if told == "file":  # of another input size the file says nothing
        small = count(onnx_format.from_bytes(data.SerializeToString(), input_size=(3, 9, 9)))
        assert (small.total.params, small.total.macs) == (792, 216 * 7 * 7)


def test_quantised_operators_store_weights_not_scales() -> None:
    nodes = [node("QLinearConv", "x xs xz w ws wz ys yz b", "y")]
    arrays = {
        "xs": F(0.1), "xz": np.uint8(3), "w": RNG.integers(-9, 9, (4, 3, 3, 3)).astype(np.int8), "ws": np.abs(array(4)),
        "wz": np.zeros(4, np.int8), "ys": F(0.2), "yz": np.uint8(1), "b": np.arange(4, dtype=np.int32),
    }  # fmt: skip
    assert figures(file(nodes, arrays, ("N", 3, 8, 8)), runs=False).total.params == 108 + 4


def test_arrays_that_nobody_reads_are_stored_and_named() -> None:
    result = figures(file([node("MatMul", "x w")], {**W, "old": array(7, 2)}))
    assert (result.parameters.stored, result.parameters.used, result.parameters.unused) == (50, 36, ("old",))


def weights_in(data) -> int:
    """Real numbers in arrays of more than one that a file stores, less running statistics, by the official package."""
    graph = onnx.load_from_string(data).graph
    tensors = {t.name: t for t in graph.initializer}
    tensors |= {n.output[0]: n.attribute[0].t for n in graph.node if n.op_type == "Constant"}
    running = {i for n in graph.node if n.op_type == "BatchNormalization" for i in n.input[3:]}
    shapes = [numpy_helper.to_array(t) for name, t in tensors.items() if name not in running]
    return sum(a.size for a in shapes if a.dtype == F and a.size > 1)


def exported(module, shape, dynamo) -> bytes:
    torch = pytest.importorskip("torch")
    if dynamo:
        pytest.importorskip("onnxscript")
    for p in module.parameters():  # no arrays that are equal by chance, which an exporter would write once
        torch.nn.init.normal_(p)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not dynamo:
            stream = io.BytesIO()
            torch.onnx.export(module.eval(), (torch.zeros(2, *shape),), stream, dynamo=False, input_names=["x"],
                              dynamic_axes={"x": {0: "batch"}})  # fmt: skip
            return stream.getvalue()
        dims = ({0: torch.export.Dim("batch")},)
        program = torch.onnx.export(module.eval(), (torch.zeros(2, *shape),), dynamo=True, input_names=["x"],
                                    dynamic_shapes=dims, verbose=False)  # fmt: skip
        return program.model_proto.SerializeToString()


def modules():
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(32, 64))

        def forward(self, x):
            return nn.functional.linear(nn.functional.linear(x, self.w), self.w.t())

    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.where = nn.Conv2d(3, 4, 3), nn.Parameter(torch.randn(1, 4, 6, 6))
            self.norm, self.gain = nn.BatchNorm2d(4), nn.Parameter(torch.randn(4))

        def forward(self, x):
            return (self.norm(torch.relu(self.conv(x) + self.where))) * self.gain[:, None, None]

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x):
            return self.fc(torch.relu(self.fc(x)))

    return {"tied": (Tied(), (64,)), "positions": (Positions(), (3, 8, 8)), "shared": (Shared(), (6,))}


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("name", ["tied", "positions", "shared"])
def test_what_pytorch_exports_has_the_parameters_of_the_module(name, dynamo) -> None:
    module, shape = modules()[name]
    data = exported(module, shape, dynamo)
    result = figures(data, shape)
    assert result.parameters.stored == result.parameters.used == weights_in(data)
    if name != "tied":  # the exporters write a transposed copy beside the array: that file stores it twice
        assert result.parameters.stored == sum(p.numel() for p in module.parameters())


STEPS = ["MatMul", "transB", "Transpose", "Identity", "Reshape", "bias", "gain", "Constant", "idle", "wobble"]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 3)), min_size=1, max_size=8))
def test_random_files_store_what_their_arrays_hold(steps) -> None:
    note(f"steps = {steps}")
    arrays, nodes, x = {"w0": array(6, 6)}, [], "x"
    nodes.append(node("MatMul", "x w0", "first"))
    x = "first"
    for place, (step, pick) in enumerate(steps):
        new, w = f"v{place}", f"w{pick}"
        if step in ("bias", "gain"):
            arrays[f"{step}{pick}"] = arrays.get(f"{step}{pick}", array(6))
            nodes.append(node("Add" if step == "bias" else "Mul", f"{x} {step}{pick}", new))
        elif step == "idle":
            arrays[f"idle{pick}"] = array(3, pick + 1)
            continue
        elif step == "Constant":
            nodes += [constant(f"c{place}", array(6, 6)), node("MatMul", f"{x} c{place}", new)]
        else:
            arrays[w] = arrays.get(w, array(6, 6))
            if step == "transB":
                nodes.append(node("Gemm", f"{x} {w}", new, transB=1))
            elif step == "MatMul":
                nodes.append(node("MatMul", f"{x} {w}", new))
            elif step == "wobble":
                nodes.append(helper.make_node("Wobble", [x, w], [new], domain="com.acme"))
            else:
                given_ = {"Reshape": f"{w} size"}.get(step, w)
                nodes += [node(step, given_, f"t{place}"), node("MatMul", f"{x} t{place}", new)]
        x = new
    nodes.append(node("Relu", x))
    used = Counter(i for n in nodes for i in n.input)
    arrays["size"] = np.array([6, 6])
    data = file(nodes, {k: v for k, v in arrays.items() if k != "size" or used[k]})
    result = figures(data, runs=False)
    assert result.parameters.stored == weights_in(data)
    idle = sum(a.size for k, a in arrays.items() if not used[k] and a.dtype == F)
    assert result.parameters.used == weights_in(data) - idle
