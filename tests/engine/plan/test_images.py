"""Resizing, padding of the image and softmax in the compiled engine, against their definitions."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dojang.arith.graph import Graph, Node
from dojang.base.errors import DojangError
from dojang.engine.compiled import compile
from dojang.engine.reference.operators import run_reference

N = Node.of
rng = np.random.default_rng(0)
few = settings(max_examples=25)


def check(node, shape, n=2, x=None, tol=3e-6):
    graph = Graph((N("x", "input", shape=shape), node), (node.name,), "one")
    x = rng.standard_normal((n, *shape)).astype("f4") if x is None else x
    run = compile(graph, threads=1)
    assert run.plan(len(x)).in_python == ()
    right = run_reference(graph, x, np.float64).outputs[0]
    found = run(x)
    assert found.shape == right.shape
    np.testing.assert_allclose(found, right, rtol=tol, atol=tol)


@few
@given(st.integers(1, 20), st.lists(st.integers(1, 9), min_size=1, max_size=2), st.data())
def test_resize(channels, size, data):
    attrs = {"mode": data.draw(st.sampled_from(["nearest", "linear", "cubic"])),
             "coords": data.draw(st.sampled_from(["half_pixel", "asymmetric", "align_corners"])),
             "rounding": data.draw(st.sampled_from(["floor", "round_prefer_floor", "round_prefer_ceil"]))}  # fmt: skip
    out = tuple(data.draw(st.integers(1, 17)) for _ in size)
    try:
        node = N("r", "resize", "x", size=out, **attrs)
    except DojangError:
        assume(False)
    check(node, (channels, *size))


@pytest.mark.parametrize("scale", [(2.0, 2.0), (1.7, 0.6)])
def test_resize_by_scale_into_a_concatenation(scale):
    nodes = (
        N("x", "input", shape=(5, 6, 7)),
        N("c", "conv", "x", out=19, kernel=(3, 3), padding=1),
        N("u", "resize", "c", scale=scale, mode="linear"),
        N("v", "resize", "x", scale=scale),
        N("j", "concat", "u", "v"),
        N("d", "conv", "j", out=4, kernel=(1, 1)),
    )
    graph = Graph(nodes, ("d", "u"), "up")
    graph = graph.replace(weights={k: rng.standard_normal(s).astype("f4") for k, s in graph.param_shapes.items()})
    x = rng.standard_normal((2, 5, 6, 7)).astype("f4")
    run = compile(graph, threads=2)
    assert run.plan(2).in_python == ()
    assert "concat" not in [c.op for c in run.plan(2).choices]
    for a, b in zip(run.run(x).outputs, run_reference(graph, x, np.float64).outputs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@few
@given(st.integers(1, 20), st.lists(st.integers(2, 8), min_size=1, max_size=2), st.data())
def test_pad(channels, size, data):
    mode = data.draw(st.sampled_from(["constant", "constant", "reflect", "replicate", "circular"]))
    most = min(size) - 1
    low = -1 if mode == "constant" else 0
    pads = tuple((data.draw(st.integers(low, most)), data.draw(st.integers(0, most))) for _ in size)
    assume(any(p for pair in pads for p in pair))
    x = rng.standard_normal((2, channels, *size)).astype("f4")
    x.flat[0] = np.nan
    check(N("p", "pad", "x", pads=pads, mode=mode, value=0.25), (channels, *size), x=x, tol=0)


@pytest.mark.parametrize("shape", [(10,), (1,), (1000,), (16, 3, 5), (37, 8), (3, 2, 2, 2)])
def test_softmax(shape):
    x = (20 * rng.standard_normal((3, *shape))).astype("f4")
    x.reshape(3, -1)[0, 0] = 200
    check(N("s", "softmax", "x", axis=1), shape, x=x)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_softmax_of_what_is_not_finite(bad):
    x = rng.standard_normal((2, 21, 2)).astype("f4")
    x[0, 20, 1] = bad
    check(N("s", "softmax", "x", axis=1), (21, 2), x=x)
