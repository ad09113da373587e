"""Sorting, look-ups, writes, comparisons and choices by kernels: random files against ONNX Runtime, none in Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from dojang import load
from dojang.base.errors import DataError, DojangError, ShapeError
from dojang.engine.compiled import compile as compiled
from dojang.engine.plan.held import Known, asked

ort = pytest.importorskip("onnxruntime")
TYPES = {"f": TensorProto.FLOAT, "i": TensorProto.INT64, "b": TensorProto.BOOL}
Nodes = list[Any]
node = helper.make_node


def file_of(
    nodes: Nodes, inputs: dict[str, np.ndarray], outputs: str, arrays: dict[str, Any], opset: int = 18
) -> bytes:
    """An ONNX file; `outputs` as "a:f b:i"."""
    ins = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in inputs.items()
    ]
    outs = [
        helper.make_tensor_value_info(name, TYPES[kind], None)
        for name, _, kind in (o.partition(":") for o in outputs.split())
    ]
    held = [numpy_helper.from_array(np.asarray(v), k) for k, v in arrays.items()]
    graph = helper.make_graph(nodes, "g", ins, outs, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9
    return model.SerializeToString()


def check(nodes: Nodes, x: np.ndarray, outputs: str, arrays: dict[str, Any], opset: int = 18) -> None:
    """What the engine gives is what ONNX Runtime gives, in type and shape too, and no step is in Python."""
    data = file_of(nodes, {"x": x}, outputs, arrays, opset)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    wanted = ort.InferenceSession(data, options).run(None, {"x": x})
    net = compiled(load(data))
    for got, want in zip(net.run(x).outputs, wanted, strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert net.plan().in_python == ()


class Drawn:
    """A value v of some axes, made of an input x: as it lies, or with its axes in another order; numbers with ties in
    half of the cases.
    """

    def __init__(self, seed: int) -> None:
        self.rng = rng = np.random.default_rng(seed)
        rank = int(rng.integers(2, 5))
        shape = (1, *(int(v) for v in rng.integers(1, 20, rank - 1)))
        ties = rng.random() < 0.5
        self.x = (rng.integers(-4, 5, shape) if ties else rng.standard_normal(shape)).astype(np.float32)
        order = [0, *(int(a) for a in rng.permutation(np.arange(1, rank)))] if rng.random() < 0.5 else list(range(rank))
        self.before = [node("Neg", ["x"], ["w0"]), node("Transpose", ["w0"], ["v"], perm=order)]
        self.shape = tuple(shape[a] for a in order)
        self.axis = int(rng.integers(1, rank))
        self.k = int(rng.integers(1, self.shape[self.axis] + 1))

    def flag(self) -> int:
        """0 or 1."""
        return int(self.rng.integers(0, 2))

    def one_of(self, *names: str) -> str:
        """One of some words."""
        return names[int(self.rng.integers(0, len(names)))]


def top(d: Drawn, **more: Any) -> Any:
    """The first k of a line, and their places."""
    return node("TopK", ["v", "k"], ["a", "b"], axis=d.axis, **more)


def topk(d: Drawn) -> tuple[Nodes, str, dict[str, Any]]:
    return [top(d, largest=d.flag())], "a:f b:i", {"k": [d.k]}


def argument(d: Drawn) -> tuple[Nodes, str, dict[str, Any]]:
    what = d.one_of("ArgMax", "ArgMin")
    return [node(what, ["v"], ["a"], axis=d.axis, keepdims=d.flag(), select_last_index=d.flag())], "a:i", {}


def elements(d: Drawn) -> tuple[Nodes, str, dict[str, Any]]:
    made = [top(d), node("Abs", ["v"], ["w"]), node("GatherElements", ["w", "b"], ["o"], axis=d.axis)]
    return made, "o:f", {"k": [d.k]}


def entries(d: Drawn) -> tuple[Nodes, str, dict[str, Any]]:
    others = [a for a in range(len(d.shape)) if a != d.axis]
    made = [
        top(d),
        node("ReduceMin", ["b", "others"], ["i"], keepdims=0),
        node("Gather", ["v", "i"], ["o"], axis=d.axis),
    ]
    return made, "o:f", {"k": [d.k], "others": others}


def slices(d: Drawn) -> tuple[Nodes, str, dict[str, Any]]:
    d.axis, d.k = 1, min(d.k, d.shape[1])
    rest = list(range(2, len(d.shape)))
    first = node("ReduceMax", ["v", "rest"], ["m"], keepdims=0) if rest else node("Identity", ["v"], ["m"])
    made = [first, node("TopK", ["m", "k"], ["a", "b"], axis=1), node("Unsqueeze", ["b", "last"], ["u"]),
            node("GatherND", ["v", "u"], ["o"], batch_dims=1)]  # fmt: skip
    return made, "o:f", {"k": [d.k], "last": [-1], **({"rest": rest} if rest else {})}


def writes(d: Drawn) -> tuple[Nodes, str, dict[str, Any]]:
    how = d.one_of("none", "add", "mul", "max", "min")
    made = [top(d), node("Abs", ["v"], ["w"]), node("Sigmoid", ["a"], ["e"]),
            node("ScatterElements", ["w", "b", "e"], ["o"], axis=d.axis, reduction=how)]  # fmt: skip
    return made, "o:f", {"k": [d.k]}


def slice_writes(d: Drawn) -> tuple[Nodes, str, dict[str, Any]]:
    count = d.shape[1]
    made = [node("Transpose", ["v"], ["t"], perm=[1, 0, *range(2, len(d.shape))]),
            node("ReduceMax", ["t", "rest"], ["m"], keepdims=0), node("TopK", ["m", "k"], ["a", "b"], axis=0),
            node("Reshape", ["b", "column"], ["u"]), node("Gather", ["t", "first"], ["e"], axis=0),
            node("Neg", ["t"], ["w"]), node("ScatterND", ["w", "u", "e"], ["o"])]  # fmt: skip
    k = int(d.rng.integers(1, count + 1))
    rest = list(range(1, len(d.shape)))
    return made, "o:f", {"k": [k], "column": [k, 1], "first": np.arange(k), "rest": rest}


def so_far(d: Drawn) -> tuple[Nodes, str, dict[str, Any]]:
    return [node("CumSum", ["v", "a"], ["o"], exclusive=d.flag(), reverse=d.flag())], "o:f", {"a": np.array(d.axis)}


def beside(d: Drawn) -> np.ndarray:
    """A constant that the value broadcasts with."""
    shape = tuple(1 if d.rng.random() < 0.4 else s for s in d.shape)
    return d.rng.integers(-2, 3, shape).astype(np.float32)


def truths(d: Drawn) -> tuple[Nodes, str, dict[str, Any]]:
    made = [node(d.one_of("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"), ["v", "c"], ["p"]),
            node("Less", ["c", "v"], ["q"]), node(d.one_of("And", "Or", "Xor"), ["p", "q"], ["z"]),
            node("Not", ["z"], ["o"]), node("Cast", ["z"], ["f"], to=1)]  # fmt: skip
    return made, "o:b f:f", {"c": beside(d)}


def choice(d: Drawn) -> tuple[Nodes, str, dict[str, Any]]:
    return [node("Less", ["v", "c"], ["p"]), node("Where", ["p", "v", "c"], ["o"])], "o:f", {"c": beside(d)}


def arithmetic(d: Drawn) -> tuple[Nodes, str, dict[str, Any]]:
    """A place among all taken apart into row and column, and put together again."""
    size = int(np.prod(d.shape))
    width = int(d.rng.integers(1, size + 1))
    made = [node("Reshape", ["v", "flat"], ["f"]), node("TopK", ["f", "k"], ["a", "b"], axis=1),
            node("Div", ["b", "width"], ["row"]), node("Mod", ["b", "width"], ["column"]),
            node("Mul", ["row", "width"], ["start"]), node("Add", ["start", "column"], ["back"]),
            node("Cast", ["row"], ["r"], to=1), node("GatherElements", ["f", "b"], ["o"], axis=1)]  # fmt: skip
    arrays = {"flat": [1, size], "k": [int(d.rng.integers(1, size + 1))], "width": np.array(width)}
    return made, "back:i r:f o:f", arrays


RULES = [topk, argument, elements, entries, slices, writes, slice_writes, so_far, truths, choice, arithmetic]


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.__name__)
@pytest.mark.parametrize("seed", range(4))
def test_random_files(rule: Any, seed: int) -> None:
    d = Drawn(100 * seed + RULES.index(rule))
    nodes, outputs, arrays = rule(d)
    check([*d.before, *nodes], d.x, outputs, {k: np.asarray(v) for k, v in arrays.items()})


@pytest.mark.parametrize("seed", range(4))
def test_pooling_with_places(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(-3, 4, (2, int(rng.integers(1, 20)), *(int(v) for v in rng.integers(5, 12, 2)))).astype(np.float32)
    kernel = [int(v) for v in rng.integers(1, 4, 2)]
    pads = [int(rng.integers(0, k)) for k in (*kernel, *kernel)]
    pool = node(
        "MaxPool", ["v"], ["a", "b"], kernel_shape=kernel, strides=[int(v) for v in rng.integers(1, 3, 2)], pads=pads
    )
    check([node("Neg", ["x"], ["v"]), pool], x, "a:f b:i", {})


@pytest.mark.parametrize("channels", [9, 16, 33])
def test_pooling_with_places_to_one_column(channels: int) -> None:
    x = np.random.default_rng(channels).standard_normal((2, channels, 6, 3)).astype(np.float32)
    pool = node("MaxPool", ["v"], ["a", "b"], kernel_shape=[3, 3], strides=[3, 3])
    check([node("Neg", ["x"], ["v"]), pool], x, "a:f b:i", {})


def test_nan_is_the_largest() -> None:
    """As in NumPy and PyTorch; ONNX says nothing of it."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 40, 37)).astype(np.float32)
    x[0, rng.integers(0, 40, 9), rng.integers(0, 37, 9)] = np.nan
    for axis in (1, 2):
        nodes = [node("Neg", ["x"], ["v"]), node("TopK", ["v", "k"], ["a", "b"], axis=axis),
                 node("ArgMax", ["v"], ["m"], axis=axis, keepdims=0)]  # fmt: skip
        net = compiled(load(file_of(nodes, {"x": x}, "a:f b:i m:i", {"k": np.array([5])})))
        values, _, most = net.run(x).outputs
        np.testing.assert_array_equal(values, torch.topk(-torch.tensor(x), 5, axis)[0].numpy())
        np.testing.assert_array_equal(most, np.argmax(-x, axis))
        assert net.plan().in_python == ()


def test_a_table_is_looked_up_by_an_input() -> None:
    """Whole numbers that come in are held where they only say places, and are checked."""
    table = np.arange(55, dtype=np.float32).reshape(11, 5)
    nodes = [node("Gather", ["t", "x"], ["g"]), node("Neg", ["g"], ["o"])]
    x = np.array([[0, 10, -11], [-1, 3, 3]])
    check(nodes, x, "o:f", {"t": table})
    net = load(file_of(nodes, {"x": x}, "o:f", {"t": table}))
    assert asked(net, net.unit_shapes) == {"x": (-11, 10)}
    with pytest.raises(DataError, match="x: an index is 11, the axis has 11 places"):
        compiled(net).run(np.array([[0, 11, -1], [0, 0, 0]]))


def test_what_is_not_known_to_be_small_stays_whole() -> None:
    """2²⁴ + 1 is no float32."""
    x = np.array([[1, 3]])
    nodes = [node("Add", ["x", "c"], ["o"]), node("Cast", ["o"], ["f"], to=11)]
    data = file_of(nodes, {"x": x}, "o:i", {"c": np.array((1 << 24) + 1)})
    net = load(data)
    assert not any(net.types[name] == "int64" for name in Known(net, net.unit_shapes).bounds if name != "c")
    assert compiled(net).run(x).outputs[0].tolist() == [[(1 << 24) + 2, (1 << 24) + 4]]


def test_a_place_outside_of_the_axis_is_an_error_not_a_look_into_memory() -> None:
    """Places that are not known to lie on their axis stay with NumPy, which checks them."""
    nodes = [node("TopK", ["x", "k"], ["a", "b"], axis=1), node("Add", ["b", "one"], ["i"]),
             node("GatherElements", ["x", "i"], ["o"], axis=1)]  # fmt: skip
    x = np.array([[1, 2, 3]], np.float32)
    net = compiled(load(file_of(nodes, {"x": x}, "o:f", {"k": np.array([1]), "one": np.array(1)})))
    with pytest.raises(DataError, match="GatherElements"):
        net.run(x)


def test_zeros_of_both_signs_are_equal() -> None:
    """They keep the order of their places."""
    x = np.array([[0.0, -0.0, 1.0, -0.0, 0.0, -1.0]], np.float32)
    nodes = [node("Identity", ["x"], ["v"]), node("TopK", ["v", "k"], ["a", "b"], axis=1)]
    net = compiled(load(file_of(nodes, {"x": x}, "a:f b:i", {"k": np.array([6])})))
    assert net.run(x).outputs[1].tolist() == [[2, 0, 1, 3, 4, 5]]
    assert net.plan().in_python == ()


PLACES = np.zeros((9, 2), np.int64)
NO_FIT: dict[str, tuple[Any, dict[str, Any]]] = {
    "more of a line than it has": (node("TopK", ["v", "k"], ["a", "b"], axis=1), {"k": np.array([5])}),
    "lines that the input lacks": (node("GatherElements", ["v", "i"], ["a"], axis=1), {"i": PLACES}),
    "writes to lines that the input lacks": (
        node("ScatterElements", ["v", "i", "u"], ["a"], axis=1), {"i": PLACES, "u": np.ones((9, 2), np.float32)},
    ),
    "more indices than axes": (node("GatherND", ["v", "i"], ["a"]), {"i": np.zeros((4, 3), np.int64)}),
    "slices longer than the input's": (
        node("ScatterND", ["v", "i", "u"], ["a"]), {"i": PLACES[:1, :1], "u": np.ones((1, 50), np.float32)},
    ),
    "more slices than places": (
        node("ScatterND", ["v", "i", "u"], ["a"]), {"i": PLACES[:2, :1], "u": np.ones((9, 3), np.float32)},
    ),
    "more places than slices": (
        node("ScatterND", ["v", "i", "u"], ["a"]), {"i": PLACES[:, :1], "u": np.ones((2, 3), np.float32)},
    ),
}  # fmt: skip
"""Files whose shapes the standard forbids, and of which a kernel would read or write memory that is not theirs."""


@pytest.mark.parametrize("what", NO_FIT)
def test_shapes_that_do_not_fit_are_errors_not_looks_into_memory(what: str) -> None:
    one, arrays = NO_FIT[what]
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    data = file_of([node("Neg", ["x"], ["v"]), one], {"x": x}, "a:f", arrays)
    with pytest.raises(Exception, match="ONNXRuntimeError"):  # the oracle refuses the same
        ort.InferenceSession(data).run(None, {"x": x})
    net = compiled(load(data))
    assert net.plan().in_python == ("a",)
    with pytest.raises(DataError, match=f"a: {one.op_type}"):
        net.run(x)


@pytest.mark.parametrize(
    ("one", "arrays"),
    [
        (node("CumSum", ["v", "s"], ["a"]), {"s": np.array(5)}),
        (node("GatherElements", ["v", "i"], ["a"], axis=3), {"i": np.zeros((2, 3), np.int64)}),
        (node("ScatterElements", ["v", "i", "v"], ["a"], axis=3), {"i": np.zeros((2, 3), np.int64)}),
    ],
)
def test_an_axis_that_is_not_there_is_an_error_not_another_axis(one: Any, arrays: dict[str, Any]) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    net = compiled(load(file_of([node("Neg", ["x"], ["v"]), one], {"x": x}, "a:f", arrays)))
    with pytest.raises(ShapeError, match="a: axis . of a tensor of 2 axes"):
        net.run(x)


def test_sizes_below_0_are_errors_not_memory() -> None:
    """Fewer than none of a line, and a window larger than its image, whose product of sizes is above 0."""
    for one, shape in (
        (node("TopK", ["v", "k"], ["a", "b"], axis=1), (2, 3)),
        (node("MaxPool", ["v"], ["a", "b"], kernel_shape=[7, 7]), (1, 1, 4, 4)),
    ):
        x = np.zeros(shape, np.float32)
        data = file_of([node("Neg", ["x"], ["v"]), one], {"x": x}, "a:f b:i", {"k": np.array([-1])})
        with pytest.raises(DojangError):
            compiled(load(data)).run(x)
