"""Reductions, look-ups, joins and products along any axes, constants among them: against float64; nothing in Python."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dojang.arith.graph import Graph, Node
from dojang.engine.compiled import compile
from dojang.engine.settle import settled
from dojang.native.machine import Machine

N = Node.of
few = settings(max_examples=8)
rng = np.random.default_rng(0)
HOST = Machine.host()
machines = st.sampled_from([HOST, *(HOST.restrict(isa) for isa in HOST.narrower())])
sizes = st.lists(st.sampled_from([1, 2, 3, 5, 16, 19, 33]), min_size=2, max_size=3)


def computed(nodes, x, machine=None, weights=None):
    """The last node's value; nothing may be left to Python."""
    graph = Graph((N("x", "input", shape=x.shape[1:]), *nodes), (nodes[-1].name,), "some")
    run = compile(graph.replace(weights=weights or {}), threads=2, machine=machine)
    assert run.plan(len(x)).in_python == ()
    return run(x)


def random(*shape):
    return rng.standard_normal(shape).astype("f4")


@few
@given(sizes, st.data(), machines)
def test_reductions(shape, data, machine):
    x = random(3, *shape)
    what = data.draw(st.sampled_from(["sum", "mean", "max", "min"]))
    axes = tuple(data.draw(st.sets(st.integers(0, x.ndim - 1), min_size=1, max_size=x.ndim - 2)))
    keep = data.draw(st.booleans())
    found = computed([N("s", "tanh", "x"), N("y", f"reduce_{what}", "s", axes=axes, keepdims=keep)], x, machine)
    wanted = getattr(np.tanh(x.astype("f8")), what)(axis=axes, keepdims=keep)
    assert found.shape == wanted.shape
    assert np.allclose(found, wanted, atol=2e-6 * np.prod([x.shape[a] for a in axes]) ** 0.5)


def test_reductions_of_nan_and_infinity():
    x = random(2, 5, 40)
    x[0, 1, 3], x[1, 2, :], x[1, 0, 0] = np.nan, -np.inf, np.inf
    for what in ("max", "min", "sum"):
        found = computed([N("s", "neg", "x"), N("t", "neg", "s"),
                          N("y", f"reduce_{what}", "t", axes=(1,), keepdims=False)], x)  # fmt: skip
        with np.errstate(invalid="ignore"):
            assert np.allclose(found, getattr(x, what)(axis=1), equal_nan=True, atol=1e-5)


@few
@given(sizes, st.data(), machines)
def test_look_ups(shape, data, machine):
    """Repeated, backwards, in steps, of any axis."""
    x = random(3, *shape)
    axis = data.draw(st.integers(0, x.ndim - 1))
    picks = tuple(data.draw(st.lists(st.integers(-x.shape[axis], x.shape[axis] - 1), min_size=1, max_size=40)))
    if axis:
        found = computed([N("s", "relu", "x"), N("y", "gather", "s", axis=axis, indices=picks)], x, machine)
        assert np.array_equal(found, np.take(np.maximum(x, 0), picks, axis))
    step = tuple(range(0, x.shape[-1], 2))
    found = computed([N("s", "relu", "x"), N("y", "gather", "s", axis=-1, indices=step)], x, machine)
    assert np.array_equal(found, np.maximum(x, 0)[..., ::2])


@few
@given(sizes, st.data(), machines)
def test_joins(shape, data, machine):
    """Along any axis, one value twice."""
    x = random(3, *shape)
    axis = data.draw(st.integers(1, x.ndim - 1))
    nodes = [N("s", "relu", "x"), N("t", "neg", "x"), N("y", "concat", "s", "t", "x", "s", axis=axis)]
    found = computed(nodes, x, machine)
    assert np.array_equal(found, np.concatenate([np.maximum(x, 0), -x, x, np.maximum(x, 0)], axis))


@few
@given(st.data(), machines)
def test_products_that_broadcast(data, machine):
    """Matrices of any number of axes, each axis in front there or of size 1; one of them a constant."""
    draw = lambda: data.draw(st.sampled_from([1, 2, 5, 17]))  # noqa: E731
    rows, depth, columns = draw(), draw(), draw()
    lead = [draw() for _ in range(data.draw(st.integers(0, 2)))]
    other = [data.draw(st.sampled_from([1, n])) for n in lead][data.draw(st.integers(0, len(lead))) :]
    x, fixed = random(2, *lead, rows, depth), random(*other, depth, columns)
    if data.draw(st.booleans()):
        found = computed([N("s", "relu", "x"), N("k", "constant", shape=fixed.shape), N("y", "matmul", "s", "k")],
                         x, machine, {"k.value": fixed})  # fmt: skip
        wanted = np.maximum(x, 0).astype("f8") @ fixed
    else:
        fixed = fixed.swapaxes(-1, -2).copy()
        turned = (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2)
        nodes = [
            N("s", "transpose", "x", perm=turned),
            N("k", "constant", shape=fixed.shape),
            N("y", "matmul", "k", "s"),
        ]
        found = computed(nodes, x, machine, {"k.value": fixed})
        wanted = fixed.astype("f8") @ x.swapaxes(-1, -2)
    assert np.allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize(("size", "out"), [((7, 9), (3, 4)), ((5,), (3,)), ((4, 6), (7, 6)), ((13, 8), (2, 5))])
def test_adaptive_means_of_sizes_that_do_not_divide(size, out):
    x = random(2, 5, *size)
    found = computed([N("y", "adaptive_avgpool", "x", out=out)], x)
    wanted = getattr(F, f"adaptive_avg_pool{len(size)}d")(torch.from_numpy(x).double(), out)
    assert np.allclose(found, wanted.numpy(), atol=1e-6)


@pytest.mark.parametrize("num", [1, 19])
@pytest.mark.parametrize("shape", [(19,), (19, 7), (19, 5, 6)])
def test_prelu(num, shape):
    x, slope = random(2, *shape), random(num)
    x[0, 0] = np.nan
    found = computed([N("y", "prelu", "x", num=num)], x, weights={"y.weight": slope})
    assert np.array_equal(found, F.prelu(torch.from_numpy(x), torch.from_numpy(slope)).numpy(), equal_nan=True)


@pytest.mark.parametrize(("mode", "align"), [("nearest", None), ("trilinear", False), ("trilinear", True)])
def test_resizing_of_volumes(mode, align):
    x = random(2, 3, 2, 5, 7)
    coords = {None: "asymmetric", False: "half_pixel", True: "align_corners"}[align]
    node = N("y", "resize", "s", size=(5, 6, 9), mode="nearest" if align is None else "linear", coords=coords)
    found = computed([N("s", "relu", "x"), node], x)
    wanted = F.interpolate(torch.from_numpy(x).relu().double(), (5, 6, 9), mode=mode, align_corners=align).numpy()
    assert np.allclose(found, wanted, atol=1e-6)


def test_constants_are_computed_once():
    """A table, reshaped and turned; a mean of it; a sum of an image and a constant in a convolution."""
    table, weight = random(6, 35), random(5, 3, 3)
    nodes = [
        N("k", "constant", shape=(6, 35)), N("r", "reshape", "k", shape=(6, 5, 7)),
        N("t", "transpose", "r", perm=(1, 2, 0)), N("m", "reduce_mean", "t", axes=(2,), keepdims=False),
        N("c", "conv", "x", out=5, kernel=(3,), padding=((1, 1),)),
        N("y", "add", "c", "m"),
    ]  # fmt: skip
    x = random(2, 3, 7)
    weights = {"k.value": table, "c.weight": weight, "c.bias": np.zeros(5, "f4")}
    found = computed(nodes, x, weights=weights)
    kept = table.reshape(6, 5, 7).astype("f8").mean(0)
    wanted = F.conv1d(torch.from_numpy(x).double(), torch.from_numpy(weight).double(), padding=1).numpy() + kept
    assert np.allclose(found, wanted, atol=1e-5)
    graph = Graph((N("x", "input", shape=(3, 7)), *nodes), ("y",), "some").replace(weights=weights)
    assert [n.op for n in settled(graph).nodes] == ["input", "constant", "conv", "add"]


@pytest.mark.parametrize("power", [-1.0, 2.0, 3.0, 4.0])
def test_powers(power):
    x = random(2, 5, 7)
    found = computed([N("k", "constant", shape=(1,), fill=power), N("y", "pow", "x", "k")], x)
    assert np.allclose(found, x.astype("f8") ** power, rtol=1e-6)


@pytest.mark.parametrize(("size", "out"), [((9, 13), (3, 5)), ((7, 8), (5, 4)), ((11,), (7,)), ((3, 5, 4), (2, 3, 3))])
def test_largest_under_uneven_windows(size, out):
    x = random(2, 5, *size)
    x[0, 0, 1] = np.nan
    y = computed([N("y", "adaptive_maxpool", "x", out=out)], x)
    wanted = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[len(size) - 1](
        torch.from_numpy(x), out
    )
    assert np.array_equal(y, wanted.numpy(), equal_nan=True)
