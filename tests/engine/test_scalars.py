"""Constants that exporters write out as nodes are joined with layers, and nothing else is."""

from collections import Counter

import numpy as np
import pytest

from dojang.arith.graph import Graph, Node
from dojang.engine.compiled import compile
from dojang.engine.reference.operators import run_reference
from dojang.engine.scalars import scalars_joined

rng = np.random.default_rng(3)


def constant(name, *shape, fill=None):
    return Node.of(name, "constant", shape=shape, fill=fill)


def network(nodes, outputs):
    graph = Graph(tuple(nodes), outputs)
    weights = {name: rng.standard_normal(shape).astype("f4") for name, shape in graph.param_shapes.items()}
    return graph.replace(weights=weights)


def swish(name, x, three=3.0, low=0.0, six=6.0):
    """x · clip(x + 3, low, 6) / 6 as exporters write it."""
    return [
        constant(f"{name}3", fill=three), constant(f"{name}6", 1, fill=six),
        Node.of(f"{name}a", "add", x, f"{name}3"), Node.of(f"{name}c", "clip", f"{name}a", min=low, max=6.0),
        Node.of(f"{name}m", "mul", x, f"{name}c"), Node.of(name, "div", f"{name}m", f"{name}6"),
    ]  # fmt: skip


X = Node.of("x", "input", shape=(3, 9, 10))
CONV = Node.of("c", "conv", "x", out=5, kernel=(3, 3), padding=1)
CASES = {
    "affine": (
        [CONV, constant("s", 5, 1, 1), constant("b", 1, fill=0.5), Node.of("m", "mul", "s", "c"),
         Node.of("y", "add", "m", "b")], ("y",), {"batchnorm": 1, "mul": 0, "add": 0},
    ),
    "quotient and difference": (
        [CONV, constant("s", fill=4.0), constant("b", 1, 5, 1, 1), Node.of("m", "div", "c", "s"),
         Node.of("y", "sub", "m", "b"), Node.of("z", "relu", "y")], ("z",), {"batchnorm": 1, "div": 0, "sub": 0},
    ),
    "read twice": (
        [CONV, constant("s", fill=2.0), Node.of("m", "mul", "c", "s"), Node.of("y", "add", "m", "c")], ("y",),
        {"batchnorm": 0, "mul": 1, "add": 1},
    ),
    "the middle is an output": (
        [CONV, constant("s", fill=2.0), constant("b", fill=1.0), Node.of("m", "mul", "c", "s"),
         Node.of("y", "add", "m", "b")], ("m", "y"), {"batchnorm": 1, "mul": 0, "add": 1},
    ),
    "a constant less a value": (
        [CONV, constant("s", fill=2.0), Node.of("y", "sub", "s", "c")], ("y",), {"batchnorm": 0, "sub": 1},
    ),
    "one per row": (
        [CONV, constant("s", 1, 1, 9, 1), Node.of("y", "mul", "c", "s")], ("y",), {"batchnorm": 0, "mul": 1},
    ),
    "hard swish": ([CONV, *swish("h", "c")], ("h",), {"hard_swish": 1, "clip": 0, "div": 0}),
    "no hard swish": ([CONV, *swish("h", "c", three=2.0)], ("h",), {"hard_swish": 0, "clip": 1}),
    "another divisor": ([CONV, *swish("h", "c", six=5.0)], ("h",), {"hard_swish": 0, "clip": 1}),
    "another clip": ([CONV, *swish("h", "c", low=-1.0)], ("h",), {"hard_swish": 0, "clip": 1}),
    "hard swish whose gate is read": (
        [CONV, *swish("h", "c"), Node.of("o", "add", "h", "hc")], ("o",), {"hard_swish": 0, "clip": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_joined_computes_the_same(name):
    nodes, outputs, counts = CASES[name]
    graph = network([X, *nodes], outputs)
    joined = scalars_joined(graph)
    found = Counter(n.op for n in joined.nodes)
    assert {op: found[op] for op in counts} == counts
    x = rng.standard_normal((2, 3, 9, 10)).astype("f4")
    right = run_reference(graph, {"x": x}, np.float64).outputs
    for release in (False, True):
        run = compile(graph.replace(weights=dict(graph.weights)), threads=1, release=release)
        for y, exact in zip(run.run(x).outputs, right, strict=True):
            assert np.allclose(y, exact, rtol=1e-5, atol=1e-5)


def test_values_that_were_joined_can_be_tapped():
    nodes, outputs, _ = CASES["affine"]
    graph = network([X, *nodes], outputs)
    x = rng.standard_normal((1, 3, 9, 10)).astype("f4")
    exact = run_reference(graph, {"x": x}, np.float64, taps=("m",)).taps["m"]
    run = compile(graph, threads=1)
    run(x)
    assert np.allclose(run.run(x, taps=("m",)).taps["m"], exact, rtol=1e-5, atol=1e-5)


def test_a_network_without_weights_stays():
    graph = network([X, *CASES["affine"][0]], ("y",)).without_weights()
    assert scalars_joined(graph) is graph
