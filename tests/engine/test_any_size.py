"""Networks whose image size is open: right at every size, with code that is compiled once."""

import copy
import os
import pickle
import subprocess
import sys
from math import prod

import numpy as np
import onnx
import pytest

import dojang
from dojang.arith.conv import Conv
from dojang.arith.graph import Graph, Node
from dojang.arith.open_sizes import is_open
from dojang.arith.symbol import symbol
from dojang.base.errors import ShapeError, UsageError
from dojang.engine import compiled
from dojang.engine.compiled import compile
from dojang.engine.kernels.activations import Activation
from dojang.engine.kernels.conv import depthwise, direct, grouped, pointwise, transposed, winograd
from dojang.engine.kernels.other import pool
from dojang.engine.kernels.other.pool import PoolTask
from dojang.engine.kernels.task import Offer, Task
from dojang.engine.reference.operators import run_reference
from dojang.native import jit
from dojang.native.machine import Machine
from kernels import guarded, kernel, oracle
from kernels import run as run_kernel

rng = np.random.default_rng(7)
HERE = Machine.host()


class Open:
    """An algorithm's code for any size, with weights packed for images of another size."""

    def __init__(self, algorithm, like):
        self.algorithm, self.like = algorithm, like

    def pack(self, task, machine, weight, bias):
        return self.algorithm.pack(self.like, machine, weight, bias)

    def emit(self, task, machine):
        return self.algorithm.emit_open(task, self.like, machine)


LAYERS = {
    "3x3": (direct, {"ic": 5, "oc": 21, "kernel": 3, "padding": 1}),
    "stem": (direct, {"ic": 3, "oc": 32, "kernel": 3, "stride": 2, "padding": 1}),
    "even padding": (direct, {"ic": 4, "oc": 9, "kernel": 4, "stride": 2, "padding": ((1, 2), (2, 1))}),
    "dilated": (direct, {"ic": 6, "oc": 40, "kernel": 3, "dilation": 2, "padding": 2}),
    "7x1": (direct, {"ic": 4, "oc": 16, "kernel": (7, 1), "padding": ((3, 3), (0, 0))}),
    "two groups": (direct, {"ic": 8, "oc": 48, "kernel": 3, "groups": 2, "padding": 1}),
    "1x1": (pointwise, {"ic": 12, "oc": 70, "kernel": 1}),
    "depthwise": (depthwise, {"ic": 19, "oc": 19, "kernel": 3, "groups": 19, "padding": 1}),
    "depthwise, stride 2": (depthwise, {"ic": 32, "oc": 32, "kernel": 5, "groups": 32, "stride": 2, "padding": 2}),
    "grouped": (grouped, {"ic": 32, "oc": 32, "kernel": 3, "groups": 8, "padding": 1}),
    "winograd": (winograd, {"ic": 16, "oc": 24, "kernel": 3, "padding": 1}),
    "winograd, many channels": (winograd, {"ic": 128, "oc": 128, "kernel": 3, "padding": 1}),
    "winograd, weights as they are": (winograd, {"ic": 32, "oc": 48, "kernel": 3, "padding": 1}),
    "enlarging": (transposed, {"ic": 10, "oc": 18, "kernel": 2, "stride": 2, "transposed": True}),
    "enlarging, 4x4": (transposed, {"ic": 8, "oc": 16, "kernel": 4, "stride": 2, "padding": 1, "transposed": True}),
}
SIZES = [(40, 56), (64, 64), (9, 70), (33, 31), (7, 7), (5, 12), (3, 3), (100, 17), (8, 130)]


def made(size, ic, oc, kernel, **rest):
    return Conv.of(ic, oc, size, kernel, **rest)


@pytest.mark.parametrize("name", LAYERS)
def test_code_for_one_size_is_right_at_others(name, monkeypatch):
    algorithm, layer = LAYERS[name]
    if name.endswith("as they are"):
        monkeypatch.setattr(winograd, "MOST_TRANSFORMED", 0)
        monkeypatch.setattr(winograd, "MOST_FOR_MANY", 0)
        winograd.shape_of.cache_clear()
    act = Activation("relu")
    like = Task.of(made((56, 56), **layer), activation=act)
    assert isinstance(algorithm.offer(like, HERE), Offer)
    weight = rng.standard_normal(like.conv.weight_shape).astype("f4")
    bias = rng.standard_normal(like.conv.oc).astype("f4")
    recipes = {}
    sizes = [s for s in SIZES if s[0] > 2 and (prod(s) < 5000 or layer["ic"] < 64)]
    for at_end, size in enumerate(sizes):
        conv = made(size, **layer)
        task = Task.of(conv, activation=act, residual_ld=conv.oc, y_ld=conv.oc + 3, x_ld=conv.ic + 2)
        wide = Task.of(like.conv, activation=act, residual_ld=conv.oc, y_ld=conv.oc + 3, x_ld=conv.ic + 2)
        x = rng.standard_normal((2, conv.ic, *size)).astype("f4")
        res = rng.standard_normal((2, conv.oc, *conv.out_size)).astype("f4")
        y = run_kernel(Open(algorithm, wide), task, HERE, x, weight, bias, res, lambda a, e=at_end: guarded(a, e % 2))
        right = np.maximum(oracle(conv, x, weight, bias) + res, 0)
        found = np.moveaxis(y[..., : conv.oc], -1, 1)
        bound = 3e-6 * prod(conv.kernel) * conv.ic / conv.groups * (40 if algorithm is winograd else 1)
        assert np.abs(found - right).max() <= max(bound, 1e-5) * 4, size
        assert (y[..., conv.oc :] == 7).all(), size
        code = algorithm.emit_open(task, wide, HERE)
        recipes[size] = tuple(s.recipe for s in code.steps)
    large = [recipes[s] for s in sizes if min(s[1], made(s, **layer).out_size[1]) >= 32]
    assert len(large) >= 2
    assert len(set(large)) == 1
    texts = {}
    for conv in (made((40, 56), **layer), made((64, 64), **layer)):
        for step in algorithm.emit_open(Task.of(conv), Task.of(like.conv), HERE).steps:
            text = step.build("kernel")
            assert texts.setdefault(step.recipe, text) == text  # a recipe says all that the code depends on
    if algorithm is winograd:
        assert any("fresh" in recipe for recipe in texts) == name.endswith("as they are")
        winograd.shape_of.cache_clear()


@pytest.mark.parametrize("what", ["max", "avg", "avg, no padding", "global"])
def test_poolings_of_any_size(what):
    import torch

    recipes = set()
    for size in [(40, 56), (64, 70), (6, 9), (33, 33)]:
        x = rng.standard_normal((2, 21, *size)).astype("f4")
        tx = torch.from_numpy(x)
        if what == "global":
            window, stride, pads = size, size, ((0, 0), (0, 0))
            right = tx.mean((2, 3), keepdim=True)
        else:
            window, stride, pads = (3, 3), (2, 2), ((1, 1), (1, 1))
            count = what != "avg, no padding"
            right = torch.max_pool2d(tx, 3, 2, 1) if what == "max" else torch.nn.functional.avg_pool2d(
                tx, 3, 2, 1, count_include_pad=count)  # fmt: skip
        count = what != "avg, no padding"
        kind = "max" if what == "max" else "avg"
        task = PoolTask(kind, 21, size, window, stride, pads, (1, 1), tuple(right.shape[2:]), 21, 23, count)
        (step,) = pool.emit_open(task, task, HERE).steps
        recipes |= {step.recipe} if min(size) > 10 else set()
        y = _pooled(step, x, task)
        assert np.allclose(np.moveaxis(y[..., :21], -1, 1), right.numpy(), atol=1e-5)
        assert (y[..., 21:] == 7).all()
    assert len(recipes) <= (1 if what == "global" else 2)  # odd rows end in another border


def _pooled(step, x, task):
    from dojang.engine.kernels import task as t

    flat = guarded(np.ascontiguousarray(np.moveaxis(x, 1, -1)))
    y = guarded(np.full(len(x) * prod(task.out_size) * task.y_ld - 2, 7, "f4"))
    args = np.zeros(t.WORDS, np.int64)
    args[t.N], args[t.X], args[t.Y] = len(x), flat.ctypes.data, y.ctypes.data
    args[t.SIZES : t.SIZES + len(step.sizes)] = step.sizes
    function = kernel(step, HERE)
    for unit in range(step.units(len(x))):
        function(args.ctypes.data, unit, 0)
    return np.append(y, [7, 7]).reshape(len(x), *task.out_size, task.y_ld)


def detector():
    """A small network with what detectors have: strides, depthwise layers, gates, images enlarged and added."""
    h, w = 4 * symbol("H"), 4 * symbol("W")
    nodes = [
        Node.of("x", "input", shape=(3, h, w)),
        Node.of("c1", "conv", "x", out=16, kernel=(3, 3), stride=(2, 2), padding=1),
        Node.of("b1", "batchnorm", "c1"),
        Node.of("r1", "hard_swish", "b1"),
        Node.of("d1", "conv", "r1", out=16, kernel=(3, 3), padding=1, groups=16),
        Node.of("p1", "conv", "d1", out=24, kernel=(1, 1)),
        Node.of("g1", "global_avgpool", "p1"),
        Node.of("s1", "conv", "g1", out=24, kernel=(1, 1)),
        Node.of("q1", "sigmoid", "s1"),
        Node.of("m1", "mul", "p1", "q1"),
        Node.of("c2", "conv", "m1", out=24, kernel=(3, 3), stride=(2, 2), padding=1),
        Node.of("c3", "conv", "c2", out=24, kernel=(3, 3), padding=1),
        Node.of("up", "resize", "c3", scale=(2.0, 2.0), mode="nearest"),
        Node.of("a1", "add", "m1", "up"),
        Node.of("mp", "maxpool", "a1", kernel=(3, 3), stride=(1, 1), padding=1),
        Node.of("cat", "concat", "a1", "mp", axis=1),
        Node.of("t1", "conv_transpose", "cat", out=8, kernel=(2, 2), stride=(2, 2)),
        Node.of("r2", "relu", "t1"),
        Node.of("out", "conv", "r2", out=1, kernel=(1, 1)),
        Node.of("prob", "sigmoid", "out"),
    ]
    graph = Graph(tuple(nodes), ("prob",), "detector")
    weights = {}
    for name, shape in graph.param_shapes.items():
        weights[name] = rng.uniform(0.5, 1.5, shape) if name.endswith("var") else 0.3 * rng.standard_normal(shape)
    return graph.replace(weights={k: v.astype("f4") for k, v in weights.items()})


@pytest.fixture(scope="module")
def network():
    return detector()


def right_at(graph, x):
    from dojang.arith.open_sizes import at_size, values_for

    fixed = at_size(graph, values_for(graph, {"x": x.shape[1:]}))
    return run_reference(fixed, {"x": x}, np.float64).outputs[0]


def test_a_network_answers_at_any_size_and_compiles_no_more(network, monkeypatch):
    assert is_open(network)
    run = compile(network, threads=2)
    made = []
    monkeypatch.setattr(jit, "compile_object", lambda *a, kept=jit.compile_object, **k: made.append(1) or kept(*a, **k))
    at_once = jit._compile_at_once
    monkeypatch.setattr(jit, "_compile_at_once", lambda *a: made.append(1) or at_once(*a))
    counts = []
    for n, h, w in [(1, 96, 160), (1, 256, 192), (2, 128, 224), (1, 192, 132), (1, 4, 4), (3, 20, 8), (1, 96, 160)]:
        before = len(made)
        x = rng.standard_normal((n, 3, h, w)).astype("f4")
        assert np.abs(run(x) - right_at(network, x)).max() < 1e-4
        counts.append(len(made) - before)
    assert sum(counts[1:4]) <= 4  # rows of other lengths may take tiles of another width
    assert counts[-1] == 0
    with pytest.raises(ShapeError, match="axis 2 is 98, which is no multiple of 4"):
        run(np.zeros((1, 3, 98, 96), "f4"))
    with pytest.raises(ShapeError, match=r"takes \(batch\)x3x4·Hx4·W"):
        run(np.zeros((1, 3, 98), "f4"))


def test_an_answer_does_not_depend_on_the_sizes_before(network):
    x, other = (rng.standard_normal((1, 3, h, w)).astype("f4") for h, w in ((64, 96), (160, 132)))
    first, second = compile(network, threads=1), compile(network, threads=1, release=True)
    second(other)
    assert np.array_equal(first(x), second(x))


def test_memory_stays_bounded_over_sizes(network, monkeypatch):
    run = compile(network, threads=1)
    run(np.zeros((1, 3, 100, 64), "f4"))
    monkeypatch.setattr(compiled, "KEPT_BYTES", run.held_bytes + (1 << 20))
    packed = len(run._packed)
    for h in range(64, 140, 4):
        run(np.zeros((1, 3, h, 64), "f4"))
    assert len(run._packed) == packed
    assert len(run._builds) < 10


def test_compiled_networks_are_pickled_and_copied(network, tmp_path):
    x = rng.standard_normal((1, 3, 48, 64)).astype("f4")
    run = compile(network.replace(weights=dict(network.weights)), threads=1, release=True)
    y = run(x)  # its weights are let go: the copies have them as they are packed
    assert not any(k.endswith("c1.weight") for k in run.graph.weights)
    for other in (pickle.loads(pickle.dumps(run)), copy.copy(run), copy.deepcopy(run)):
        assert np.array_equal(other(x), y)
    (tmp_path / "run.pickle").write_bytes(pickle.dumps(run))
    np.save(tmp_path / "x.npy", x)
    code = (
        "import pickle, sys, numpy as np; run = pickle.load(open(sys.argv[1] + '/run.pickle', 'rb'));"
        "np.save(sys.argv[1] + '/y.npy', run(np.load(sys.argv[1] + '/x.npy')))"
    )
    paths = os.pathsep.join(p for p in sys.path if p)
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env={**os.environ, "PYTHONPATH": paths})
    assert np.array_equal(np.load(tmp_path / "y.npy"), y)


def test_a_file_that_leaves_open_what_its_layers_do_not_asks_for_the_size():
    """A recogniser of text lines: height and width are open in the file, but its layers fit one height."""
    node = onnx.helper.make_node
    inputs = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, "h", "w"])]
    outputs = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)]
    lines = [node("MaxPool", ["x"], ["p"], kernel_shape=[4, 4], strides=[4, 4]), node("Squeeze", ["p", "axes"], ["y"])]
    axes = onnx.numpy_helper.from_array(np.array([2]), "axes")
    model = onnx.helper.make_model(onnx.helper.make_graph(lines, "g", inputs, outputs, [axes]))
    with pytest.raises(UsageError, match="the file says 3x.x. about its size; give it"):
        dojang.load(model)
    assert dojang.load(model, input_size=(3, 4, 20)).unit_shapes["y"] == (1, 3, 5)


def opened(nodes, arrays, shape, outputs=("y",), kind=onnx.TensorProto.FLOAT):
    """An ONNX model of some nodes over one input `x`, some of whose sizes are open."""
    inputs = [onnx.helper.make_tensor_value_info("x", kind, shape)]
    values = [onnx.helper.make_tensor_value_info(y, onnx.TensorProto.FLOAT, None) for y in outputs]
    held = [onnx.numpy_helper.from_array(np.asarray(a), k) for k, a in arrays.items()]
    made = onnx.helper.make_graph(
        [onnx.helper.make_node(op, i, o, **a) for op, i, o, a in nodes], "g", inputs, values, held
    )
    return onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)


def as_onnxruntime(model, *xs):
    """Both runtimes on each input in turn."""
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    run = dojang.compile(model)
    for x in xs:
        (wanted,) = session.run(None, {"x": x})
        np.testing.assert_allclose(run(x), wanted, rtol=1e-4, atol=1e-5)


def test_a_recogniser_whose_state_has_the_batch_in_its_shape_keeps_its_width_open():
    """As PyTorch exports an LSTM for any batch: its first state is 0, spread to (directions, batch, hidden)."""
    nodes = [
        ("Transpose", ["x"], ["t"], {"perm": [2, 0, 1]}),
        ("Shape", ["x"], ["s"], {"end": 1}),
        ("Concat", ["one", "s", "five"], ["hs"], {"axis": 0}),
        ("Expand", ["zero", "hs"], ["h"], {}),
        ("LSTM", ["t", "w", "r", "", "", "h", "h"], ["l"], {"hidden_size": 5}),
        ("Squeeze", ["l", "one"], ["y"], {}),
    ]
    w, r = (rng.standard_normal((1, 20, k)).astype("f4") for k in (4, 5))
    arrays = {"one": np.array([1]), "five": np.array([5]), "zero": np.float32(0), "w": w, "r": r}
    model = opened(nodes, arrays, ["n", 4, "w"])
    as_onnxruntime(model, *(rng.standard_normal(s).astype("f4") for s in [(2, 4, 9), (1, 4, 9), (1, 4, 13), (3, 4, 9)]))


def test_constants_that_are_computed_from_the_size_follow_it():
    """Positions that are resized to the image, as vision transformers do, and turned."""
    nodes = [
        ("Shape", ["x"], ["s"], {"start": 2}),
        ("Concat", ["head", "s"], ["full"], {"axis": 0}),
        ("Transpose", ["p"], ["turned"], {"perm": [0, 3, 1, 2]}),
        ("Resize", ["turned", "", "", "full"], ["r"], {"mode": "linear"}),
        ("Neg", ["r"], ["m"], {}),
        ("Add", ["x", "m"], ["y"], {}),
    ]
    model = opened(
        nodes, {"head": np.array([1, 3]), "p": rng.standard_normal((1, 4, 4, 3)).astype("f4")}, ["n", 3, "h", "w"]
    )
    sizes = [(1, 3, 4, 4), (2, 3, 5, 8), (1, 3, 8, 5), (1, 3, 4, 4)]
    as_onnxruntime(model, *(rng.standard_normal(s).astype("f4") for s in sizes))


def test_a_constant_of_an_expression_is_there_at_every_size():
    nodes = [("Transpose", ["c"], ["t"], {"perm": [1, 0]}), ("MatMul", ["t", "e"], ["v"], {}),
             ("Einsum", ["x", "v"], ["y"], {"equation": "nchw,cd->ndhw"})]  # fmt: skip
    arrays = {"c": rng.standard_normal((2, 3)).astype("f4"), "e": rng.standard_normal((2, 4)).astype("f4")}
    model = opened(nodes, arrays, ["n", 3, "h", "w"])
    as_onnxruntime(model, *(rng.standard_normal(s).astype("f4") for s in [(1, 3, 4, 6), (2, 3, 5, 8), (1, 3, 4, 6)]))


def test_a_file_that_fixes_its_batch_may_leave_the_width_open():
    nodes = [("Conv", ["x", "k"], ["c"], {"pads": [1, 1, 1, 1]}), ("ReduceMean", ["c", "axes"], ["y"], {"keepdims": 0})]
    arrays = {"k": rng.standard_normal((4, 1, 3, 3)).astype("f4"), "axes": np.array([0])}
    model = opened(nodes, arrays, [1, 1, 6, "w"])
    net = dojang.load(model)
    assert is_open(net)
    assert not net.has_batch
    as_onnxruntime(model, *(rng.standard_normal((1, 1, 6, w)).astype("f4") for w in (9, 14, 9)))
    with pytest.raises(ShapeError):
        dojang.compile(net)(np.zeros((1, 6, 9), "f4"))


def cells(p, stride, real):
    """Nodes of a detector's level, named from p on: a convolution, and to its outputs the centres of its cells added,
    computed from its size as exporters of YOLOv8 write them: Shape, Range, + ½, Reshape, Expand, Concat.
    """
    lines = []
    for name, axis in (("h", "two"), ("w", "three")):
        lines.append(("Gather", [p + "shape", axis], [p + name], {"axis": 0}))
        lines.append(("Unsqueeze", [p + name, "first"], [p + name + "1"], {}))
        cast = ("Cast", [p + name], [p + name + " real"], {"to": 1}) if real else None
        limits = ["zero", p + name + " real", "one"] if real else ["zero int", p + name, "one int"]
        lines += [cast] if cast else []
        lines.append(("Range", limits, [p + name + " range"], {}))
        lines.append(("Cast", [p + name + " range"], [p + name + " places"], {"to": 1}))
        lines.append(("Add", [p + name + " places", "half"], [p + name + " mid"], {}))
    return [
        ("Conv", ["x", f"k{stride}"], [p + "y"], {"strides": [stride, stride]}),
        ("Shape", [p + "y"], [p + "shape"], {}),
        *lines,
        ("Concat", [p + "h1", p + "w1"], [p + "hw"], {"axis": 0}),
        ("Reshape", [p + "h mid", "column"], [p + "rows"], {}),
        ("Reshape", [p + "w mid", "row"], [p + "columns"], {}),
        ("Expand", [p + "rows", p + "hw"], [p + "all rows"], {}),
        ("Expand", [p + "columns", p + "hw"], [p + "all columns"], {}),
        ("Reshape", [p + "all columns", "flat"], [p + "xs"], {}),
        ("Reshape", [p + "all rows", "flat"], [p + "ys"], {}),
        ("Concat", [p + "xs", p + "ys"], [p + "centres"], {"axis": 2}),
        ("Transpose", [p + "centres"], [p + "turned"], {"perm": [0, 2, 1]}),
        ("Mul", [p + "turned", f"stride{stride}"], [p + "anchors"], {}),
        ("Reshape", [p + "y", "tokens"], [p + "tokens"], {}),
        ("Add", [p + "tokens", p + "anchors"], [p + "boxes"], {}),
    ]


@pytest.mark.parametrize("real", [True, False])
def test_a_detector_whose_anchors_are_computed_from_the_size_answers_at_any(real):
    arrays = {
        **{f"k{k}": rng.standard_normal((2, 3, k, k)).astype("f4") / (2 * k) for k in (8, 16)},
        "two": np.int64(2), "three": np.int64(3), "zero": np.float32(0), "one": np.float32(1), "half": np.float32(0.5),
        "zero int": np.int64(0), "one int": np.int64(1), "first": np.array([0]), "column": np.array([-1, 1]),
        "row": np.array([1, -1]), "flat": np.array([1, -1, 1]), "tokens": np.array([0, 2, -1]),
        "stride8": np.float32(8), "stride16": np.float32(16),
    }  # fmt: skip
    nodes = [*cells("a ", 8, real), *cells("b ", 16, real), ("Concat", ["a boxes", "b boxes"], ["y"], {"axis": 2})]
    model = opened(nodes, arrays, ["n", 3, "h", "w"])
    assert is_open(dojang.load(model))
    sizes = [(1, 64, 128), (2, 320, 96), (1, 640, 416)]
    as_onnxruntime(model, *(rng.standard_normal((n, 3, h, w)).astype("f4") for n, h, w in sizes))
    small, large = (dojang.load(model, input_size=(3, h, w)) for _, h, w in (sizes[0], sizes[2]))
    assert [n.op for n in small.nodes] == [n.op for n in large.nodes]
    assert dojang.count(small).total.params == dojang.count(large).total.params == 2 * 3 * (64 + 256)


def test_a_value_that_is_spread_over_the_image_is_so_at_every_size():
    nodes = [
        ("ReduceMean", ["x", "last"], ["m"], {"keepdims": 1}),
        ("Shape", ["x"], ["s"], {}),
        ("Expand", ["m", "s"], ["e"], {}),
        ("Concat", ["x", "e"], ["y"], {"axis": 1}),
    ]
    model = opened(nodes, {"last": np.array([2])}, ["n", 4, "w"])
    as_onnxruntime(model, *(rng.standard_normal(s).astype("f4") for s in [(1, 4, 1), (1, 4, 20), (2, 4, 7)]))


def several(nodes, arrays, inputs, outputs):
    """An ONNX model of some nodes over several inputs with their shapes."""
    real = onnx.TensorProto.FLOAT
    entries = [onnx.helper.make_tensor_value_info(name, real, shape) for name, shape in inputs.items()]
    values = [onnx.helper.make_tensor_value_info(y, real, None) for y in outputs]
    held = [onnx.numpy_helper.from_array(np.asarray(a), k) for k, a in arrays.items()]
    lines = [onnx.helper.make_node(op, i, o, **a) for op, i, o, a in nodes]
    made = onnx.helper.make_graph(lines, "g", entries, values, held)
    return onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)


def all_as_onnxruntime(model, *fed):
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    run = compile(dojang.load(model))
    for one in fed:
        for found, wanted in zip(run.run(one).outputs, session.run(None, one), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_recurrent_network_with_its_state_beside_it_takes_any_number_of_steps():
    nodes = [("Transpose", ["x"], ["t"], {"perm": [1, 0, 2]}),
             ("LSTM", ["t", "w", "r", "", "", "h", "c"], ["l", "h1", "c1"], {"hidden_size": 5}),
             ("Squeeze", ["l", "one"], ["y"], {})]  # fmt: skip
    w, r = (rng.standard_normal((1, 20, k)).astype("f4") for k in (4, 5))
    inputs = {"x": ["batch", "time", 4], "h": [1, "batch", 5], "c": [1, "batch", 5]}
    model = several(nodes, {"w": w, "r": r, "one": np.array([1])}, inputs, ("y", "h1", "c1"))

    def fed(n, steps):
        shapes = {"x": (n, steps, 4), "h": (1, n, 5), "c": (1, n, 5)}
        return {name: rng.standard_normal(shape).astype("f4") for name, shape in shapes.items()}

    all_as_onnxruntime(model, fed(1, 1), fed(1, 20), fed(3, 7))


@pytest.mark.parametrize("names", [("h", "w", "h", "w"), (None, None, None, None), ("a", "b", "c", "d")])
def test_two_images_of_any_size_that_must_be_alike(names):
    """Their sizes have the same names in the file, none, or others although the layers add them."""
    nodes = [("Conv", ["a", "k"], ["c"], {}), ("Conv", ["b", "k"], ["d"], {}), ("Sub", ["c", "d"], ["y"], {})]
    arrays = {"k": rng.standard_normal((4, 3, 3, 3)).astype("f4")}
    model = several(nodes, arrays, {"a": ["n", 3, *names[:2]], "b": ["n", 3, *names[2:]]}, ("y",))
    shapes = [(1, 3, 9, 12), (2, 3, 20, 7), (1, 3, 33, 40)]
    all_as_onnxruntime(model, *({x: rng.standard_normal(s).astype("f4") for x in "ab"} for s in shapes))
    with pytest.raises(ShapeError):
        dojang.compile(model)(*(rng.standard_normal((1, 3, 9, w)).astype("f4") for w in (9, 12)))


def test_two_images_of_sizes_of_their_own():
    nodes = [("Conv", ["a", "k"], ["c"], {}), ("Conv", ["b", "k"], ["d"], {}), ("GlobalMaxPool", ["d"], ["e"], {}),
             ("Mul", ["c", "e"], ["y"], {})]  # fmt: skip
    arrays = {"k": rng.standard_normal((4, 3, 3, 3)).astype("f4")}
    model = several(nodes, arrays, {"a": ["n", 3, None, None], "b": ["n", 3, None, None]}, ("y",))
    shapes = [((1, 3, 9, 12), (1, 3, 5, 5)), ((2, 3, 20, 7), (2, 3, 9, 8)), ((1, 3, 12, 12), (1, 3, 40, 33))]
    draw = lambda s: rng.standard_normal(s).astype("f4")  # noqa: E731
    all_as_onnxruntime(model, *({"a": draw(a), "b": draw(b)} for a, b in shapes))


def test_an_image_with_its_channels_last_has_any_size():
    nodes = [("Transpose", ["x"], ["t"], {"perm": [0, 3, 1, 2]}), ("Conv", ["t", "k"], ["c"], {"strides": [2, 2]}),
             ("Relu", ["c"], ["r"], {}), ("Transpose", ["r"], ["y"], {"perm": [0, 2, 3, 1]})]  # fmt: skip
    model = opened(nodes, {"k": rng.standard_normal((8, 3, 3, 3)).astype("f4")}, ["n", None, None, 3])
    as_onnxruntime(
        model, *(rng.standard_normal(s).astype("f4") for s in [(1, 9, 12, 3), (2, 40, 33, 3), (1, 9, 13, 3)])
    )


@pytest.mark.parametrize("name", ["?", "dynamic"])
def test_height_and_width_of_one_name_need_not_be_equal(name):
    """Some exporters write the same text for every size that is open; ONNX Runtime takes different ones."""
    nodes = [("Conv", ["x", "k"], ["y"], {})]
    model = opened(nodes, {"k": rng.standard_normal((4, 3, 3, 3)).astype("f4")}, ["n", 3, name, name])
    as_onnxruntime(model, *(rng.standard_normal(s).astype("f4") for s in [(1, 3, 9, 14), (2, 3, 20, 7)]))
