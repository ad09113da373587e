"""Any order of axes, repetition, attention: against NumPy, PyTorch and ONNX Runtime; nothing left to Python."""

import io
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dojang.arith.graph import Graph, Node
from dojang.engine.compiled import compile
from dojang.engine.kernels import task as t
from dojang.engine.kernels.other import softmax, strided
from dojang.engine.plan.rules.strided import common
from dojang.native import jit
from dojang.native.machine import Machine
from kernels import guarded, kernel

N = Node.of
rng = np.random.default_rng(0)
HOST = Machine.host()
MACHINES = [
    HOST,
    *(HOST.restrict(isa) for isa in HOST.narrower()),
]
few = settings(max_examples=40)
sizes = st.lists(st.sampled_from([1, 2, 3, 5, 16, 19, 33]), min_size=1, max_size=3)


def computed(nodes, x, machine=None, weights=None):
    """The last node's value; nothing may be left to Python."""
    graph = Graph((N("x", "input", shape=x.shape[1:]), *nodes), (nodes[-1].name,), "some")
    run = compile(graph.replace(weights=weights or {}), threads=2, machine=machine)
    assert run.plan(len(x)).in_python == ()
    return run(x)


@few
@given(sizes, st.randoms(), st.booleans(), st.sampled_from(MACHINES))
def test_transpose(shape, random, images, machine):
    """Any order, also of the images; an addition before, so that the value lies as the engine wants it."""
    x = rng.standard_normal((2, *shape)).astype("f4")
    order = list(range(x.ndim)) if images else list(range(1, x.ndim))
    random.shuffle(order)
    order = order if images else [0, *order]
    found = computed([N("s", "relu", "x"), N("y", "transpose", "s", perm=tuple(order))], x, machine)
    assert np.array_equal(found, np.transpose(np.maximum(x, 0), order))


@few
@given(sizes, st.data())
def test_slice(shape, data):
    x = rng.standard_normal((3, *shape)).astype("f4")
    axis = data.draw(st.integers(1, x.ndim - 1))
    start, step = data.draw(st.integers(0, x.shape[axis] - 1)), data.draw(st.integers(1, 3))
    stop = data.draw(st.integers(start + 1, x.shape[axis]))
    found = computed([N("y", "slice", "x", axis=axis, start=start, stop=stop, step=step)], x)
    assert np.array_equal(found, x[(slice(None),) * axis + (slice(start, stop, step),)])


@pytest.mark.parametrize(("one", "two"), [((6, 35), (2, 3, 5, 7)), ((2, 3, 5), (30,)), ((4, 9), (2, 2, 9)),
                                          ((1, 8, 3), (8, 1, 3)), ((16, 5, 6), (80, 2, 3))])  # fmt: skip
def test_reshape(one, two):
    x = rng.standard_normal((2, *one)).astype("f4")
    for a, b in ((x.reshape(2, *one), two), (x.reshape(2, *two), one)):
        assert np.array_equal(computed([N("y", "reshape", "x", shape=(-1, *b))], a), a.reshape(2, *b))


def test_common_axes():
    assert common((2, 12), (2, 3, 4)) == ([2, 3, 4], [0, 1, 1], [0, 1, 2])
    assert common((4, 6), (6, 4)) is None
    assert common((1, 5, 1), (5,)) == ([5], [1], [0])


FUNCTIONS = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "maximum": np.maximum,
             "minimum": np.minimum}  # fmt: skip


@few
@given(sizes, st.data(), st.sampled_from(sorted(FUNCTIONS)), st.booleans(), st.sampled_from(MACHINES))
def test_repetition(shape, data, op, left, machine):
    """A constant of a shape that fits by repetition, on either side."""
    x = rng.standard_normal((2, *shape)).astype("f4")
    other = [1 if data.draw(st.booleans()) else s for s in shape][data.draw(st.integers(0, len(shape))) :]
    c = rng.uniform(0.5, 2, other).astype("f4")
    nodes = [
        N("c", "constant", shape=c.shape, trained=True, arrays={"value": "c"}),
        N("r", "relu", "x"),
        N("y", op, *(("c", "r") if left else ("r", "c"))),
    ]
    with np.errstate(divide="ignore"):
        pair = (c, np.maximum(x, 0)) if left else (np.maximum(x, 0), c)
        right = FUNCTIONS[op](*pair)
    assert np.array_equal(computed(nodes, x, machine, {"c": c}), right)


@few
@given(sizes, st.data(), st.sampled_from(["softmax", "log_softmax"]), st.sampled_from(MACHINES))
def test_softmax_along_any_axis(shape, data, op, machine):
    x = (4 * rng.standard_normal((2, *shape))).astype("f4")
    axis = data.draw(st.integers(1, x.ndim - 1))
    wide = x.astype("f8")
    right = wide - np.log(np.exp(wide).sum(axis, keepdims=True))
    right = np.exp(right) if op == "softmax" else right
    found = computed([N("y", op, "x", axis=axis)], x, machine)
    assert np.allclose(found, right, rtol=2e-6, atol=2e-6)


def test_softmax_of_what_is_not_finite():
    """As PyTorch: NaN and +∞ make a row NaN, −∞ has no share, a row of −∞ is NaN."""
    import torch

    x = rng.standard_normal((1, 3, 5, 7)).astype("f4")
    x[0, 0, 0, 2], x[0, 1, 1, 3], x[0, 2, 2, 4], x[0, 0, 3] = np.nan, np.inf, -np.inf, -np.inf
    for axis in (2, 3):
        right = torch.softmax(torch.from_numpy(x), axis).numpy()
        found = computed([N("y", "softmax", "x", axis=axis)], x)
        assert np.allclose(found, right, rtol=1e-6, atol=1e-7, equal_nan=True)


@few
@given(*[st.integers(1, 20)] * 3, st.lists(st.integers(1, 4), min_size=1, max_size=2), st.sampled_from(MACHINES))
def test_products_of_many_axes(height, depth, width, lead, machine):
    x = rng.standard_normal((2, *lead, height, depth + width)).astype("f4")
    x = np.concatenate([x, rng.standard_normal((2, *lead, depth, depth + width)).astype("f4")], -2)
    rank = x.ndim
    nodes = [
        N("ra", "slice", "x", axis=rank - 2, start=0, stop=height),
        N("a", "slice", "ra", axis=rank - 1, start=0, stop=depth),
        N("rb", "slice", "x", axis=rank - 2, start=height),
        N("b", "slice", "rb", axis=rank - 1, start=depth),
        N("y", "matmul", "a", "b"),
    ]
    right = x[..., :height, :depth].astype("f8") @ x[..., height:, depth:]
    assert np.allclose(computed(nodes, x, machine), right, rtol=1e-5, atol=1e-5)


def vision_transformer(apart: bool):
    """Two blocks on patches: a class token, positions, three heads; `apart`: three layers for q, k and v."""
    import torch
    from torch import nn

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(24, 24) for _ in range(3))
            self.all, self.out = nn.Linear(24, 72), nn.Linear(24, 24)

        def forward(self, x):
            n, tokens, width = x.shape
            if apart:
                q, k, v = (f(x).reshape(n, tokens, 3, 8).transpose(1, 2) for f in (self.q, self.k, self.v))
            else:
                q, k, v = self.all(x).reshape(n, tokens, 3, 3, 8).permute(2, 0, 3, 1, 4).unbind(0)
            shares = (q @ k.transpose(-2, -1) * 8**-0.5).softmax(-1)
            return self.out((shares @ v).transpose(1, 2).reshape(n, tokens, width))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.attention = nn.LayerNorm(24), nn.LayerNorm(24), Attention()
            self.forth = nn.Sequential(nn.Linear(24, 96), nn.GELU(), nn.Linear(96, 24))

        def forward(self, x):
            x = x + self.attention(self.first(x))
            return x + self.forth(self.second(x))

    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.blocks = nn.Conv2d(3, 24, 8, 8), nn.Sequential(Block(), Block())
            self.token, self.places = nn.Parameter(torch.randn(1, 1, 24)), nn.Parameter(torch.randn(1, 17, 24))
            self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 10)

        def forward(self, x):
            x = self.patches(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
            return self.head(self.norm(self.blocks(x))[:, 0])

    torch.manual_seed(0)
    return Transformer().eval()


@pytest.mark.parametrize("apart", [True, False])
def test_a_vision_transformer_runs_without_python(apart):
    """As a module and from an ONNX file, against PyTorch and ONNX Runtime."""
    import onnxruntime
    import torch

    from dojang.app.running import compile as ready

    net, x = vision_transformer(apart), torch.randn(2, 3, 32, 32)
    right, file = net(x).detach().numpy(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter that writes one file
        torch.onnx.export(net, (x,), file, dynamo=False, opset_version=17, input_names=["x"], output_names=["y"],
                          dynamic_axes={"x": {0: "n"}})  # fmt: skip
    other = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"]).run(
        None, {"x": x.numpy()}
    )
    assert np.allclose(right, other[0], atol=1e-5)
    from dojang.formats import onnx

    for network in (net, onnx.from_bytes(file.getvalue())):
        run = ready(network, input_size=(3, 32, 32)) if network is net else ready(network)
        assert run.engine.plan(2).in_python == ()
        assert np.allclose(run(x.numpy()), right, atol=1e-5)


TASKS = {
    "turned": strided.of_axes("copy", (3, 37, 21), (1, 3 * 21, 3), (37 * 21, 21, 1)),
    "turned, small": strided.of_axes("copy", (2, 5, 4), (1, 8, 2), (20, 4, 1)),
    "gathered": strided.of_axes("copy", (7, 19), (38, 2), (19, 1)),
    "repeated": strided.of_axes("add", (4, 3, 18), (0, 18, 1), (54, 18, 1), (3, 1, 0)),
    "one": strided.of_axes("copy", (1, 1), (1, 1), (1, 1), x_offset=2),
}


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.isa)
@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("name", TASKS)
def test_nothing_outside_the_arrays_is_touched(name, machine, at_end):
    task = TASKS[name]
    assert task is not None
    length = lambda steps: 1 + sum((n - 1) * s for n, s in zip(task.shape, steps, strict=True))  # noqa: E731
    x = rng.standard_normal(task.x_offset + length(task.x)).astype("f4")
    r = rng.standard_normal(length(task.r or (0,) * len(task.shape))).astype("f4")
    arrays = {t.X: guarded(x, at_end), t.R: guarded(r, at_end), t.Y: guarded(np.full(length(task.y), 7, "f4"), at_end)}
    args = np.zeros(t.WORDS, np.int64)
    args[t.N] = 1
    for word, array in arrays.items():
        args[word] = array.ctypes.data
    (step,) = strided.emit(task, machine).steps
    args[t.SIZES : t.SIZES + len(step.sizes)] = step.sizes
    function = kernel(step, machine)
    for unit in range(step.units(1)):
        function(args.ctypes.data, unit, 0)
    as_box = lambda a, steps: np.lib.stride_tricks.as_strided(a, task.shape, [4 * s for s in steps])  # noqa: E731
    right = as_box(x[task.x_offset :], task.x)
    right = right + as_box(r, task.r) if task.r else right
    assert np.array_equal(as_box(arrays[t.Y], task.y), right)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.isa)
@pytest.mark.parametrize("at_end", [True, False])
def test_softmax_along_pixels_touches_nothing_else(machine, at_end):
    for channels, pixels, gap in ((1, 3, 0), (21, 5, 2), (32, 2, 0)):
        task = softmax.SoftmaxTask(channels, pixels, channels + gap, channels + gap, False, 2)
        x = rng.standard_normal((3 * 2, pixels, channels)).astype("f4")
        wide = np.full((3 * 2, pixels, channels + gap), 7, "f4")
        wide[..., :channels] = x
        flat = guarded(wide.reshape(-1)[: wide.size - gap], at_end)
        out = guarded(np.full(flat.size, 7, "f4"), at_end)
        args = np.zeros(t.WORDS, np.int64)
        args[t.N], args[t.X], args[t.Y] = 3, flat.ctypes.data, out.ctypes.data
        (step,) = softmax.emit(task, machine).steps
        args[t.SIZES : t.SIZES + len(step.sizes)] = step.sizes
        function = kernel(step, machine)
        for unit in range(step.units(3)):
            function(args.ctypes.data, unit, 0)
        powers = np.exp(x.astype("f8"))
        found = np.append(out, [7] * gap).reshape(wide.shape)
        assert np.allclose(found[..., :channels], powers / powers.sum(1, keepdims=True), rtol=1e-6)
        assert (found[..., channels:] == 7).all()


@pytest.mark.parametrize("isa", ["neon", "avx512", "avx2"])
def test_other_processors_are_written(isa):
    for name in ("turned", "gathered", "repeated"):
        task = TASKS[name]
        assert task is not None
        (step,) = strided.emit(task, Machine.cross(isa)).steps
        assert len(jit.compile_object(step.build("kernel"), Machine.cross(isa), False)) > 500


def test_powers():
    x = rng.standard_normal((2, 5, 3)).astype("f4")
    x[0, 0, 0] = np.nan
    for exponent, right in ((0.0, np.ones_like(x)), (2.0, x * x)):
        nodes = [N("c", "constant", shape=(1,), fill=exponent), N("y", "pow", "x", "c")]
        assert np.array_equal(computed(nodes, x), right, equal_nan=True)


def test_the_largest_of_each_image():
    x = rng.standard_normal((2, 5, 4, 3)).astype("f4")
    for axes in ((1, 2, 3), (2, 3)):
        for keep in (True, False):
            if axes == (1, 2, 3) and not keep:
                continue  # one axis is left: NumPy's
            found = computed([N("y", "reduce_max", "x", axes=axes, keepdims=keep)], x)
            assert np.array_equal(found, x.max(axes, keepdims=keep))


def test_a_power_of_no_simple_exponent_stays_with_numpy():
    x = rng.uniform(0.5, 2, (2, 5)).astype("f4")
    graph = Graph(
        (N("x", "input", shape=(5,)), N("c", "constant", shape=(1,), fill=1.7), N("y", "pow", "x", "c")), ("y",)
    )
    run = compile(graph.replace(weights={}))
    assert run.plan(2).in_python == ("y",)
    assert np.allclose(run(x), x**1.7, rtol=1e-6)
