"""Rounding weights together and equalising layers: planted truths, brute force, and what must not change."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from dojang.arith.graph import Graph, Node
from dojang.engine.reference.operators import run_reference
from dojang.evidence.evidence import Evidence
from dojang.evidence.histograms import histograms
from dojang.evidence.second_moments import PatchProducts
from dojang.slimming import equalising, quantising
from dojang.slimming.rounding import cost, rounded


@pytest.mark.parametrize("seed", range(6))
def test_rounding_comes_near_to_the_best_of_all_roundings(seed: int) -> None:
    rng = np.random.default_rng(seed)
    f = int(rng.integers(3, 8))
    x = rng.normal(size=(200, f)) @ rng.normal(size=(f, f)) + rng.normal(size=f)
    products = x.T @ x / len(x)
    weight, scale = rng.uniform(-9, 9, (20, f)), rng.uniform(0.5, 2, 20)
    whole = weight / scale[:, None]
    found = cost(rounded(weight, scale, products) - whole, products)
    nearest = cost(np.rint(whole) - whole, products)
    every = np.array([cost(np.floor(whole) + up - whole, products) for up in map(np.array, product((0, 1), repeat=f))])
    best = every.min(0)
    assert np.all(found <= nearest + 1e-9)
    assert found.sum() - best.sum() <= 0.5 * (nearest.sum() - best.sum())


def test_the_error_of_equal_inputs_is_shared() -> None:
    found = rounded(np.full((1, 10), 0.3), np.ones(1), np.ones((10, 10)))
    assert found.sum() == 3  # each by itself is 0


def test_weights_whose_inputs_never_move_are_rounded_to_the_nearest_and_none_leaves_the_range() -> None:
    weight = np.array([[126.6, -200.0, 0.4]])
    np.testing.assert_array_equal(rounded(weight, np.ones(1), np.zeros((3, 3))), [[127, -127, 0]])
    found = rounded(weight, np.ones(1), np.diag([1.0, 1.0, 0.0]))
    np.testing.assert_array_equal(found, [[127, -127, 0]])


LAYERS: tuple[tuple[tuple[int, ...], dict[str, Any]], ...] = (
    ((6, 5, 4), {"kernel": (3, 2), "padding": ((1, 0), (2, 1)), "groups": 1}),
    ((6, 7, 6), {"kernel": (3, 3), "stride": 2, "padding": 1, "groups": 3}),
    ((6, 9), {"kernel": (3,), "dilation": 2, "groups": 6}),
)


@pytest.mark.parametrize(("shape", "attrs"), LAYERS)
def test_what_a_layer_reads_says_how_errors_move_it(shape: tuple[int, ...], attrs: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    node = Node.of("c", "conv", "x", out=12, bias=False, **attrs)
    graph = Graph((Node.of("x", "input", shape=shape), node), ("c",))
    weight = rng.normal(size=graph.param_shapes["c.weight"])
    x = (rng.normal(size=(10, *shape)) + 0.5).astype("f4")
    reader = PatchProducts(graph, node)
    for part in (x[:4], x[4:]):
        reader.add(part)
    read = reader.done()
    y = run_reference(graph.replace(weights={"c.weight": weight}), {"x": x}, np.float64).outputs[0]
    right = np.moveaxis(y, 1, 0).reshape(12, -1)
    errors = weight.reshape(attrs["groups"], 12 // attrs["groups"], -1)
    squares = np.concatenate([cost(own, held) for own, held in zip(errors, read.products, strict=True)])
    np.testing.assert_allclose(squares, np.square(right).mean(1), rtol=1e-4)
    np.testing.assert_allclose(quantising.means_of(weight, read), right.mean(1), rtol=1e-4, atol=1e-5)
    spread = np.concatenate([cost(own, held) for own, held in zip(errors, read.covariance, strict=True)])
    np.testing.assert_allclose(spread, right.var(1), rtol=1e-3)


def chain(seed: int, function: str = "relu", groups: int = 1) -> Graph:
    """Layers with channels of very different ranges between them, which cancel."""
    nodes = (
        Node.of("x", "input", shape=(3, 8, 8)),
        Node.of("c1", "conv", "x", out=8, kernel=(3, 3), padding=1),
        Node.of("r1", function, "c1"),
        Node.of("p1", "maxpool", "r1", kernel=(2, 2), stride=2),
        Node.of("c2", "conv", "p1", out=8, kernel=(3, 3), padding=1, groups=groups),
        Node.of("r2", function, "c2"),
        Node.of("g", "global_avgpool", "r2"),
        Node.of("f", "flatten", "g"),
        Node.of("y", "dense", "f", out=5),
    )
    graph, rng = Graph(nodes, ("y",)), np.random.default_rng(seed)
    weights = {
        name: rng.normal(scale=np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.1, size=shape).astype("f4")
        for name, shape in graph.param_shapes.items()
    }
    factors = np.exp2(rng.integers(-7, 8, 8)).astype("f4")
    weights["c1.weight"] *= factors[:, None, None, None]
    weights["c1.bias"] *= factors
    weights["c2.weight"] = equalising.scaled(weights["c2.weight"], 1 / factors, groups)
    return graph.replace(weights=weights)


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("function", ["relu", "leaky_relu"])
def test_equalising_changes_no_bit_and_finds_what_was_planted(function: str, groups: int) -> None:
    graph = chain(groups, function, groups)
    found = equalising.apply(Evidence(graph))
    assert found is not None
    assert {"c1", "c2"} <= set(found.layers)
    x = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype("f4")
    a, b = (run_reference(g, x).outputs[0] for g in (graph, found.graph))
    np.testing.assert_array_equal(a, b)
    ranges = np.abs(found.graph.weights["c1.weight"]).reshape(8, -1).max(1)
    behind = np.abs(equalising.by_input(found.graph.weights["c2.weight"], groups)).max(1)
    assert np.abs(np.log2(ranges / behind)).max() <= 1 + 1e-6  # a power of two each way, so a factor of 2 at most
    # quantised, the network in equal ranges loses less: 7 powers of two of difference are 7 bits
    left = []
    for g in (graph, found.graph):
        names = quantising.grids_of(g)
        small = quantising.quantised(g, quantising.Calibration(histograms(g, [x], names))).graph
        left.append(np.square(run_reference(small, x).outputs[0] - a).sum())
    assert left[1] < 0.5 * left[0]


@pytest.mark.parametrize("function", ["silu", "sigmoid", "relu6"])
def test_layers_are_left_alone_where_scaling_does_not_pass(function: str) -> None:
    node = Node.of("r1", "clip", "c1", min=0.0, max=6.0) if function == "relu6" else Node.of("r1", function, "c1")
    graph = chain(0)
    nodes = tuple(node if n.name == "r1" else n for n in graph.nodes)
    graph = Graph(nodes, graph.outputs, weights=graph.weights)
    found = equalising.apply(Evidence(graph))
    assert found is None or "c1" not in found.layers


def test_a_value_that_somebody_else_reads_is_not_scaled() -> None:
    graph = chain(0)
    graph = Graph((*graph.nodes, Node.of("z", "relu", "p1")), ("y", "z"), weights=graph.weights)
    found = equalising.apply(Evidence(graph))
    assert found is None or "c1" not in found.layers
