"""Layer norms that exporters write out as nodes are one step, and right; what only looks like one stays as it is."""

import numpy as np
import pytest

from dojang.arith.graph import Graph, Node
from dojang.engine.compiled import compile
from dojang.engine.norms import layer_norms_joined

rng = np.random.default_rng(5)
N = Node.of


def written_out(axes=(-1,), square="pow", first=True, scaled=True, shape=(6, 20), factor=None, **changed):
    """The nodes of a layer norm over a dense layer's result; `changed` replaces nodes by name."""
    size = shape[len(shape) + min(axes) :] if min(axes) < 0 else shape[-len(axes) :]
    nodes = {
        "x": N("x", "input", shape=shape),
        "v": N("v", "dense", "x", out=shape[-1]),
        "mean": N("mean", "reduce_mean", "v", axes=axes, keepdims=True),
        "apart": N("apart", "sub", "v", "mean"),
        "two": N("two", "constant", shape=(), fill=2.0),
        "squares": N("squares", "pow", "apart", "two") if square == "pow" else N("squares", "mul", "apart", "apart"),
        "variance": N("variance", "reduce_mean", "squares", axes=axes, keepdims=True),
        "eps": N("eps", "constant", shape=(1,), fill=1e-3),
        "raised": N("raised", "add", *(("variance", "eps") if first else ("eps", "variance"))),
        "root": N("root", "sqrt", "raised"),
        "unit": N("unit", "div", "apart", "root"),
    }
    if scaled:
        nodes["w"] = N("w", "constant", arrays={"value": "w"}, shape=factor or size)
        nodes["b"] = N("b", "constant", arrays={"value": "b"}, shape=size)
        nodes["times"] = N("times", "mul", *(("unit", "w") if first else ("w", "unit")))
        nodes["y"] = N("y", "add", "times", "b")
    nodes["z"] = N("z", "relu", "y" if scaled else "unit")
    nodes |= changed
    graph = Graph(tuple(nodes.values()), ("z",), "written")
    weights = {k: rng.standard_normal(s).astype("f4") for k, s in graph.param_shapes.items()}
    return graph.replace(weights=weights)


def wanted(graph, x, axes):
    """The layer of the definition, in float64."""
    w = graph.weights
    v = x.astype("f8") @ w["v.weight"].astype("f8").T + w["v.bias"]
    y = (v - v.mean(axes, keepdims=True)) / np.sqrt(v.var(axes, keepdims=True) + 1e-3)
    return np.maximum(y * w["w"] + w["b"] if "w" in w else y, 0)


CASES = {
    "pow": {},
    "mul": {"square": "mul", "first": False},
    "no factors": {"scaled": False},
    "two axes": {"axes": (-2, -1), "shape": (3, 4, 10)},
    "axes from the front": {"axes": (3,), "shape": (3, 4, 10)},
    "factors with axes of one": {"factor": (1, 1, 20)},
}


@pytest.mark.parametrize("case", CASES)
def test_written_out_norms_are_one_step(case):
    given = CASES[case]
    graph = written_out(**given)
    joined = layer_norms_joined(graph)
    assert [n.op for n in joined.nodes if n.op not in ("input", "constant")] == ["dense", "layernorm", "relu"]
    x = rng.standard_normal((2, *graph.inputs[0].attrs["shape"])).astype("f4")
    run = compile(graph)
    np.testing.assert_allclose(run(x), wanted(graph, x, given.get("axes", (-1,))), atol=2e-5)
    assert [c.algorithm for c in run.plan(2).choices if c.op == "layernorm"] == ["norm"]
    assert np.shape(run.run(x, taps=["apart"]).taps["apart"]) == x.shape


STAYS = {
    "other axes": {"variance": N("variance", "reduce_mean", "squares", axes=(-2,), keepdims=True)},
    "not the last axis": {"axes": (1,)},
    "another power": {"two": N("two", "constant", shape=(), fill=4.0)},
    "the mean of something else": {"mean": N("mean", "reduce_mean", "x", axes=(-1,), keepdims=True)},
    "read elsewhere": {"z": N("z", "add", "y", "root")},
    "the middle is an answer": {"z": N("z", "add", "y", "apart")},
}


@pytest.mark.parametrize("case", STAYS)
def test_what_only_looks_like_a_norm_stays(case):
    graph = written_out(**STAYS[case])
    assert layer_norms_joined(graph) is graph


@pytest.mark.parametrize("factor", [(6, 1), (1, 1, 1, 20)], ids=["another size", "more axes"])
def test_factors_of_another_size_stay_behind_the_norm(factor):
    graph = written_out(factor=factor)
    assert {"layernorm", "mul", "add"} <= {n.op for n in layer_norms_joined(graph).nodes}
    x = rng.standard_normal((1, 6, 20)).astype("f4")
    right = wanted(graph, x, (-1,))
    found = compile(graph)(x)
    assert found.shape == right.shape
    np.testing.assert_allclose(found, right, atol=2e-5)


def test_float64_stays_float64():
    """A norm whose constants are float64 is as exact as its nodes."""
    constants = {k: N(k, "constant", arrays={"value": k}, shape=(20,), dtype="float64") for k in ("w", "b")}
    constants["eps"] = N("eps", "constant", shape=(1,), fill=1e-3, dtype="float64")
    graph = written_out(x=N("x", "input", shape=(6, 20), dtype="float64"), **constants)
    assert "layernorm" in {n.op for n in layer_norms_joined(graph).nodes}
    graph = graph.replace(weights={k: rng.standard_normal(a.shape) for k, a in graph.weights.items()})
    x = rng.standard_normal((2, 6, 20))
    np.testing.assert_allclose(compile(graph)(x), wanted(graph, x, (-1,)), atol=1e-13)
