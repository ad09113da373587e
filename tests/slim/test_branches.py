"""Branches of sums that can go, what is left then, and that the search takes them where they pay."""

from __future__ import annotations

import numpy as np
import pytest

from digits import TRAIN, accuracy, digits, fitted
from dojang.arith.graph import Graph
from dojang.engine.session import Session
from dojang.slim import slim
from dojang.slim.branches import branches, without
from nets import STRUCTURES, N, conv, feed, net, weighted

FOUND = {
    "residual_option_a": {("s1", ("c1", "c2")), ("s2", ("c3", "c4"))},
    "mobile": {("s", ("e2", "dw2", "p2"))},
    "plain": set(),
    "squeeze_excite": set(),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_can_go(name):
    graph = weighted(STRUCTURES[name]())
    assert {(b.add, b.layers) for b in branches(graph)} == FOUND[name]


@pytest.mark.parametrize("name", ["residual_option_a", "mobile"])
def test_without_a_branch_is_a_branch_of_zeros(name):
    graph = weighted(STRUCTURES[name]())
    x = feed(graph, 3)
    for branch in branches(graph):
        arrays = {graph[layer].array(role) for layer in branch.layers for role in ("weight", "bias")}
        zeros = graph.replace(weights={k: v * 0 if k in arrays else v for k, v in graph.weights.items()})
        shorter = without(graph, [branch])
        assert not set(branch.layers) & set(shorter.by_name)
        assert not arrays & set(shorter.weights)
        for a, b in zip(Session(shorter).run(x).outputs, Session(zeros).run(x).outputs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_what_is_needed_elsewhere_stays():
    """A branch that is read twice, one that is an output, a sum that is an output, and x + x."""
    graph = net(
        conv("a", "x", 4), conv("b", "a", 4), N("s", "add", "a", "b"), conv("c", "s", 4), N("t", "add", "c", "b"),
        conv("d", "t", 4), N("u", "add", "d", "t"), N("v", "add", "u", "u"), conv("e", "v", 4),
        N("y", "add", "e", "v"), outputs=("y", "d"),
    )  # fmt: skip
    assert {(b.add, b.stays, b.layers) for b in branches(graph)} == {("t", "b", ("c",))}


def residual() -> Graph:
    """Two residual blocks on digits; the second adds next to nothing."""
    graph = net(
        conv("c0", "x", 16), N("r0", "relu", "c0"), N("p", "maxpool", "r0", kernel=(2, 2)),
        conv("c1", "p", 16), N("r1", "relu", "c1"), conv("c2", "r1", 16), N("s1", "add", "c2", "p"),
        N("r2", "relu", "s1"), conv("c3", "r2", 16), N("r3", "relu", "c3"), conv("c4", "r3", 16),
        N("s2", "add", "r2", "c4"), N("r4", "relu", "s2"), N("f", "flatten", "r4"), N("y", "dense", "f", out=10),
        shape=(1, 8, 8), name="residual",
    )  # fmt: skip
    graph = weighted(graph)
    return fitted(graph.replace(weights={k: v * 1e-2 if k[:2] == "c4" else v for k, v in graph.weights.items()}))


def layers(graphs):
    """A runtime whose time is its number of layers, so that narrower ones gain nothing."""
    return [[float(len(g.nodes))] for g in graphs]


def test_the_search_drops_the_branch_that_says_least():
    result = slim(
        residual(), measure=layers, tune=lambda graph, teacher: fitted(graph), evaluate=accuracy,
        samples=digits()[0][TRAIN], max_drop=2.0, target_macs=0.6,
    )  # fmt: skip
    assert [(e.rewrite, e.layers) for e in result.edits] == [("remove-branches", ("c3", "c4"))]
    assert result.edits[0].found == "gone: c3, c4"
    assert {"c3", "c4"}.isdisjoint(result.graph.by_name)
    assert result.after.accuracy >= result.before.accuracy - 0.02
    assert result.after.macs <= 0.6 * result.before.macs
