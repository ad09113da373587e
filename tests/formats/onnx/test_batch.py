"""The batch through the arithmetic that ONNX files do with their shapes, against onnxruntime at several batch sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from dojang.arith.cost import count
from dojang.engine.compiled import compile
from dojang.engine.reference.operators import run_reference
from dojang.formats import onnx as onnx_format
from dojang.formats.onnx.batch import BATCH, Undecided, above, divided, highest, lowest, same, whole

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402 - after the skip

RNG = np.random.default_rng(0)
F, I64, I32 = np.float32, np.int64, np.int32
CODES = {"i64": TensorProto.INT64, "i32": TensorProto.INT32, "f32": TensorProto.FLOAT, "f64": TensorProto.DOUBLE}


class Net:
    """A graph in the making: every call adds a node and gives the name of its output."""

    def __init__(self, shape=("N", 4, 6, 8)) -> None:
        self.nodes, self.arrays, self.shape = [], [], shape

    def __call__(self, op, *inputs, **attrs) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, [self.name(i) for i in inputs], [name], **attrs))
        return name

    def name(self, value) -> str:
        """An input; arrays become initialisers."""
        if isinstance(value, str):
            return value
        self.arrays.append(numpy_helper.from_array(np.asarray(value), f"a{len(self.arrays)}"))
        return self.arrays[-1].name

    def cast(self, value, kind) -> str:
        return self("Cast", value, to=CODES[kind])

    def bytes(self, y, opset=17) -> bytes:
        self.nodes[-1].output[0] = "y" if y == self.nodes[-1].output[0] else self.nodes[-1].output[0]
        graph = helper.make_graph(
            self.nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], self.arrays,
        )  # fmt: skip
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        return made.SerializeToString()


def agrees(data: bytes, shape, batches=(1, 3)):
    """The graph, after holding numbers and shapes against onnxruntime for each batch."""
    graph = onnx_format.from_bytes(data)
    assert not [n.attrs["kind"] for n in graph.nodes if n.op == "unknown"]
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    for batch in batches:
        x = RNG.standard_normal((batch, *shape)).astype(F)
        (right,) = session.run(None, {"x": x})
        y = run_reference(graph, x).outputs[0]
        assert graph.shapes(batch)[graph.outputs[0]] == right.shape
        np.testing.assert_allclose(y, right, rtol=1e-4, atol=1e-4)
    return graph


def array(*shape):
    return RNG.standard_normal(shape).astype(F)


def paddle(net):
    """A text-direction classifier as Paddle's exporter writes its head."""
    y = net("GlobalAveragePool", net("Relu", net("Conv", "x", array(200, 4, 3, 3))))
    first = net("Slice", net.cast(net("Shape", y), "i32"), [0], [1], [0])
    target = net("Concat", net.cast(first, "i64"), np.array([-1]), axis=0)
    return net("Softmax", net("MatMul", net("Reshape", y, target), array(200, 2)), axis=1)


def paddle_all_sizes(net):
    y = net("GlobalAveragePool", net("Conv", "x", array(10, 4, 1, 1)))
    first = net.cast(net("Slice", net.cast(net("Shape", y), "i32"), [0], [1], [0]), "i64")
    return net("Reshape", y, net("Concat", first, np.array([10]), axis=0))


def pytorch_view(net):
    n = net("Unsqueeze", net("Gather", net("Shape", "x"), I64(0), axis=0), [0])
    return net("Gemm", net("Reshape", "x", net("Concat", n, np.array([-1]), axis=0)), array(192, 5))


def tensorflow(net):
    """NHWC within, transposed at the ends, the flat size computed in int32 as tf2onnx writes it."""
    y = net("Transpose", net("Conv", "x", array(3, 4, 3, 3)), perm=[0, 2, 3, 1])
    shape = net.cast(net("Shape", y), "i32")
    n = net("Squeeze", net("Slice", shape, [0], [1]), [0])
    flat = net("ReduceProd", net("Slice", shape, [1], [4]), keepdims=0)
    target = net("Concat", net("Unsqueeze", n, [0]), net("Unsqueeze", flat, [0]), axis=0)
    return net("MatMul", net("Reshape", y, net.cast(target, "i64")), array(4 * 6 * 3, 7))


def flattened_with_channels(net):
    """N·C pictures of one channel, and back."""
    shape = net("Shape", "x")
    n, c = (net("Slice", shape, [i], [i + 1]) for i in (0, 1))
    y = net("Reshape", "x", net("Concat", net("Mul", n, c), np.array([1, 6, 8]), axis=0))
    y = net("Conv", y, array(2, 1, 3, 3), pads=[1, 1, 1, 1])
    return net("Reshape", y, net("Concat", n, net("Mul", c, np.array([2])), np.array([6, 8]), axis=0))


def through_floats(net):
    """floor(2·N / 2 + 0.5 - 0.5) in float32, which cannot hold large numbers."""
    n = net.cast(net("Slice", net("Shape", "x"), [0], [1]), "f32")
    n = net("Div", net("Mul", n, array(1) * 0 + 2), array(1) * 0 + 2)
    n = net("Floor", net("Sub", net("Add", n, array(1) * 0 + 0.5), array(1) * 0 + 0.5))
    return net("Reshape", "x", net("Concat", net.cast(n, "i64"), np.array([192]), axis=0))


def where_minus_one(net):
    """PyTorch's expand: sizes of -1 become 1."""
    shape = net("Concat", net("Slice", net("Shape", "x"), [0], [1]), np.array([-1, 6, 8]), axis=0)
    ones = net("ConstantOfShape", np.array([4]), value=numpy_helper.from_array(np.array([1])))
    target = net("Where", net("Equal", shape, net("Mul", ones, np.array([-1]))), ones, shape)
    return net("Add", "x", net("Expand", array(1, 4, 6, 8), target))


def zeros_of_the_batch(net):
    n = net("Slice", net("Shape", "x"), [0], [1])
    zeros = net("ConstantOfShape", net("Concat", n, np.array([2, 6, 8]), axis=0))
    return net("Concat", "x", zeros, axis=1)


def token(net):
    """A learned token before the others, expanded to the batch."""
    y = net("Transpose", net("Reshape", "x", np.array([0, 4, 48])), perm=[0, 2, 1])
    n = net("Slice", net("Shape", y), [0], [1])
    return net("Concat", net("Expand", array(1, 1, 4), net("Concat", n, np.array([1, 1]), axis=0)), y, axis=1)


def token_tiled(net):
    n = net("Slice", net("Shape", "x"), [0], [1])
    tiled = net("Tile", array(1, 1, 6, 8), net("Concat", n, np.array([1, 1, 1]), axis=0))
    return net("Concat", tiled, "x", axis=1)


def resized(net):
    """Sizes of a Resize from the shape, batch and channels with them."""
    shape = net("Shape", "x")
    spatial = net.cast(net("Mul", net.cast(net("Slice", shape, [2], [4]), "f32"), np.array([2, 1.5], F)), "i64")
    sizes = net("Concat", net("Slice", shape, [0], [2]), spatial, axis=0)
    return net("Resize", "x", "", "", sizes, mode="nearest", coordinate_transformation_mode="asymmetric",
               nearest_mode="floor")  # fmt: skip


def slice_to_the_batch(net):
    n = net("Slice", net("Shape", "x"), [0], [1])
    return net("Relu", net("Slice", "x", np.array([0]), n, np.array([0])))


def split_of_one(net):
    n = net("Slice", net("Shape", "x"), [0], [1])
    return net("Relu", net("Split", "x", n, axis=0))


def bounded(net):
    n = net("Max", net("Slice", net("Shape", "x"), [0], [1]), np.array([1]))
    n = net("Abs", net("Neg", net("Min", n, net("Mul", n, np.array([3])))))
    return net("Reshape", "x", net("Concat", n, np.array([24, 8]), axis=0))


def ranged(net):
    """Range over the axes of a shape that has the batch in it."""
    rank = net("Squeeze", net("Shape", net("Shape", "x")), [0])
    shape = net("Gather", net("Shape", "x"), net("Range", I64(0), rank, I64(1)), axis=0)
    return net("Relu", net("Reshape", "x", shape))


def ceiled(net):
    """Halves of the sizes, rounded up; the batch is left out by a slice after it."""
    half = net("Ceil", net("Div", net.cast(net("Shape", "x"), "f64"), np.array([2.0])))
    sizes = net("Slice", net.cast(half, "i64"), [2], [4])
    area = net("ReduceProd", net("Mul", sizes, np.array([2])), keepdims=1)
    return net("Reshape", "x", net("Concat", np.array([-1, 4]), area, axis=0))


CASES = [
    paddle, paddle_all_sizes, pytorch_view, tensorflow, flattened_with_channels, through_floats, where_minus_one,
    zeros_of_the_batch, token, token_tiled, resized, slice_to_the_batch, split_of_one, bounded, ranged, ceiled,
]  # fmt: skip


@pytest.mark.parametrize("make", CASES, ids=lambda f: f.__name__)
def test_the_batch_follows_through_the_arithmetic_of_shapes(make) -> None:
    net = Net()
    graph = agrees(net.bytes(make(net)), (4, 6, 8))
    one, three = (count(graph, batch=b).total for b in (1, 3))
    assert three.macs == 3 * one.macs
    assert one.status == "exact"


@pytest.mark.parametrize("make", [paddle, pytorch_view, tensorflow, flattened_with_channels, token, resized])
def test_a_file_for_one_picture_follows_the_batch_too(make) -> None:
    """The same networks with axis 0 fixed to 1: onnxruntime takes one picture only, so each alone is the oracle."""
    net = Net((1, 4, 6, 8))
    data = net.bytes(make(net))
    graph = agrees(data, (4, 6, 8), batches=(1,))
    x = RNG.standard_normal((3, 4, 6, 8)).astype(F)
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    right = np.concatenate([session.run(None, {"x": x[i : i + 1]})[0] for i in range(3)])
    np.testing.assert_allclose(run_reference(graph, x).outputs[0], right, rtol=1e-4, atol=1e-4)


def test_what_holds_for_some_batches_only_has_no_shape_and_runs() -> None:
    """An equation that is true for one picture, a batch cut to five: no shape is claimed, and the numbers are right."""
    for op, other in (("Equal", 1), ("Min", 5), ("Mod", 2)):
        net = Net()
        n = net("Slice", net("Shape", "x"), [0], [1])
        value = net.cast(net(op, n, np.array([other])), "i64")
        y = net("Reshape", "x", net("Concat", value, np.array([-1]), axis=0))
        data = net.bytes(y)
        graph = onnx_format.from_bytes(data)
        assert graph.unit_shapes[graph.outputs[0]] is None, op
        session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
        for size in (1, 2, 5):
            x = RNG.standard_normal((size, 4, 6, 8)).astype(F)
            np.testing.assert_array_equal(run_reference(graph, x).outputs[0], session.run(None, {"x": x})[0])


def test_the_size_of_the_batch_is_no_number_of_the_network() -> None:
    """A mean over the batch, written as a sum by the size: no constant can stand for it."""
    net = Net()
    n = net.cast(net("Gather", net("Shape", "x"), I64(0)), "f32")
    graph = onnx_format.from_bytes(net.bytes(net("Div", "x", n)))
    assert count(graph).total.status == "exact"
    for size in (2, 3):
        x = np.random.default_rng(size).standard_normal((size, 4, 6, 8), F)
        np.testing.assert_allclose(run_reference(graph, x).outputs[0], x / size, rtol=1e-6)


NUMBERS = {
    "shape": lambda net: net("Shape", "x"),
    "size": lambda net: net("Size", "x"),
    "axis": lambda net: net("Gather", net("Shape", "x"), I64(0)),
    "counted": lambda net: net("Range", I64(0), net("Gather", net("Shape", "x"), I64(0)), I64(1)),
}


@pytest.mark.parametrize("make", NUMBERS.values(), ids=NUMBERS)
def test_a_network_may_put_out_the_size_of_the_batch(make) -> None:
    """onnxruntime gives other numbers for another batch, so no constant can stand for them."""
    net = Net()
    data = net.bytes(make(net))
    read = onnx_format.from_bytes(data)
    model = onnx.load_from_string(data)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64  # onnxruntime wants what is put out
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    right = [session.run(None, {"x": np.zeros((n, 4, 6, 8), F)})[0] for n in (2, 3)]
    assert right[0].shape != right[1].shape or (right[0] != right[1]).any()
    assert count(read).total.status == "exact"
    for n, wanted in zip((2, 3), right, strict=True):
        found = run_reference(read, np.zeros((n, 4, 6, 8), F)).outputs[0]
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


STEPS = ["mul", "div", "add", "sub", "i32", "i64", "f32", "f64", "floor", "ceil", "neg", "concat", "reduce", "where"]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(1, 6)), max_size=8))
def test_random_arithmetic_ends_where_onnxruntime_does(steps) -> None:
    """Random steps from N, each undone later: the target must be N again, whatever types lie between."""
    note(f"steps = {steps}")
    net, kind = Net(), "i64"
    n = net("Slice", net("Shape", "x"), [0], [1])
    undo: list[tuple[str, int]] = []

    def number(value):
        return np.array([value], {"i64": I64, "i32": I32, "f32": F, "f64": np.float64}[kind])

    for step, k in steps:
        if step in CODES:
            n, kind = net.cast(n, step), step
        elif step in ("floor", "ceil"):
            if kind[0] == "f":
                n = net(step.capitalize(), n)
        elif step == "concat":
            n = net("Slice", net("Concat", number(k), n, axis=0), [1], [2])
        elif step == "reduce":
            n = net("ReduceProd", net("Concat", number(1), n, axis=0), axes=[0], keepdims=1)
        elif step == "where":
            n = net("Where", net("Greater", net("Add", n, number(k)), n), n, number(k))
        elif step == "neg":
            n = net("Neg", n)
            undo.append(("neg", 0))
        elif step == "div":
            n = net("Div", net("Mul", n, number(k)), number(k))
        else:
            n = net(step.capitalize(), n, number(k))
            undo.append(({"mul": "div", "add": "sub", "sub": "add"}[step], k))
    for step, k in reversed(undo):
        n = net("Neg", n) if step == "neg" else net(step.capitalize(), n, number(k))
    y = net("Reshape", "x", net("Concat", net.cast(n, "i64"), np.array([4, 48]), axis=0))
    agrees(net.bytes(y), (4, 6, 8), batches=(1, 3, 5))


@settings(max_examples=300)
@given(st.integers(-6, 6), st.integers(-6, 6), st.integers(1, 5), st.integers(-6, 6))
def test_what_is_decided_holds_for_every_batch(a, b, c, d) -> None:
    """Formulas (a·N + b) / c against brute force over 40 batches."""
    note(f"a, b, c, d = {a}, {b}, {c}, {d}")
    formula = divided(a * BATCH + b, float(c))
    true = [(a * n + b) / c for n in range(1, 41)]

    def is_at(found, n):
        return float(found.at({"N": n})) if hasattr(found, "at") else float(found)

    for function, plain in ((above, lambda v: v > d), (same, lambda v: v == d)):
        try:
            found = function(formula, d)
        except Undecided:
            continue
        assert [plain(v) for v in true] == [found] * 40
    for function, pick in ((highest, max), (lowest, min)):
        try:
            found = function([formula, d])
        except Undecided:
            continue
        assert [pick(v, d) for v in true] == pytest.approx([is_at(found, n) for n in range(1, 41)])
    try:
        found = whole(formula)
    except Undecided:
        return
    assert [int(np.trunc(round(v, 9))) for v in true] == [is_at(found, n) for n in range(1, 41)]


@pytest.mark.parametrize("shape", [("N", 4, 6, 8), ("N", 4, 6), ("N", 4)])
def test_what_is_not_finite_stays_in_its_picture_and_place(shape):
    """What takes its batch from an input takes nothing else: a plane of coordinates stays finite beside a NaN."""
    net = Net(shape)
    sizes = net("Shape", "x")
    plane = net("Expand", np.arange(np.prod(shape[1:]), dtype=F).reshape(1, *shape[1:]), sizes)
    data = net.bytes(net("Concat", "x", plane, axis=1))
    x = RNG.standard_normal((3, *shape[1:])).astype(F)
    x[0].flat[5 % x[0].size] = x[0].flat[0] = np.nan
    x[1].flat[3], x[2].flat[0] = np.inf, -np.inf
    y = ort.InferenceSession(data).run(None, {"x": x})[0]
    graph = onnx_format.from_bytes(data)
    np.testing.assert_array_equal(run_reference(graph, {"x": x}).outputs[0], y)
    np.testing.assert_array_equal(compile(graph)(x), y)
