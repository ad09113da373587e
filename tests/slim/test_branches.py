"""Branches of sums that can go, what is left then, and that the search takes them where they pay."""

from __future__ import annotations

import numpy as np
import pytest

from digits import TRAIN, accuracy, digits, fitted
from dojang.arith.channels import channels
from dojang.arith.cost import count
from dojang.arith.cut import cut
from dojang.arith.graph import Graph
from dojang.engine.session import Session
from dojang.slim import slim
from dojang.slim.branches import branches, without
from dojang.slim.front import TIMED, front
from dojang.slim.ledger import Ledger
from dojang.slim.rewrite import Context
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


def by_macs(graphs):
    """A runtime whose time is its multiplications and layers, without noise."""
    return [[count(g).total.macs * 1e-6 + len(g.nodes) * 1e-3] for g in graphs]


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


def test_two_ways_are_tuned_and_the_more_accurate_is_taken():
    tuned = []

    def tune(graph: Graph, teacher: Graph) -> Graph:
        tuned.append(fitted(graph))
        return tuned[-1]

    graph = residual()
    loud = fitted(graph.replace(weights={k: v * 100 if k[:2] == "c4" else v for k, v in graph.weights.items()}))
    result = slim(
        loud, measure=by_macs, tune=tune, evaluate=accuracy, samples=digits()[0][TRAIN], max_drop=30.0, target_macs=0.4
    )
    assert len(tuned) == 2
    assert len([e for e in result.edits if e.claim == "lossy"]) == 1
    gone = [{"c1", "c3"} - set(graph.by_name) for graph in tuned]
    assert gone[0] != gone[1]  # the second way drops a branch that the first keeps, or more of them
    scores = [accuracy(graph) for graph in tuned]
    assert scores[0] != scores[1]
    assert result.after.accuracy == max(scores)
    lost = [r for r in result.refused if "tuned alike" in r.reason]
    assert len(lost) == 1
    assert f"{min(scores):.2%}" in lost[0].reason
    assert f"{max(scores):.2%}" in lost[0].reason


@pytest.mark.parametrize("small", [True, False])
def test_savings_are_those_of_the_clock_where_they_are_timed(small, monkeypatch):
    """The plan says that nothing saves anything; the clock counts multiplications and layers."""
    if not small:
        monkeypatch.setattr("dojang.slim.front.TIMED_MACS", 0.0)
    asked = []

    def measure(graphs):
        asked.append(len(graphs) - 1)
        return by_macs(graphs)

    graph, samples = residual(), digits()[0][TRAIN]
    ledger = Ledger(graph, measure, None, None, Context(samples=samples), None, 1, predict=lambda g: 1.0)
    tied = channels(graph)
    found = front(ledger, graph, tied, ledger.moments(graph, tied))
    options = [option for own in found.options for option in own]
    if not small:
        assert asked == [TIMED]
        return
    assert asked == [len(options)]
    assert len(options) > TIMED
    for option in options:
        less = without(cut(graph, option.classes), [option.branch] if option.branch else [])
        assert option.ms == pytest.approx(by_macs([graph])[0][0] - by_macs([less])[0][0])
        assert option.macs == count(graph).total.macs - count(less).total.macs
    assert found.ms == by_macs([graph])[0][0]


def test_branches_go_first_as_long_as_there_is_room():
    graph, samples = residual(), digits()[0][TRAIN]
    ledger = Ledger(graph, by_macs, None, None, Context(samples=samples), None, 1)
    tied = channels(graph)
    found = front(ledger, graph, tied, ledger.moments(graph, tied))
    whole = count(graph).total.macs
    one = max(option.macs for own in found.options for option in own if option.branch)
    kept, used = found.to(whole - one, by_macs=True, branches=True)
    assert [option.branch is not None for option in used] == [True]
    assert count(kept).total.macs <= whole - one
    kept, used = found.to(whole - one / 2, by_macs=True, branches=True)  # a branch is more than is asked for
    assert all(option.branch is None for option in used) or len(used) > 1
    assert count(kept).total.macs <= whole - one / 2
    _, used = found.to(whole, ms=0.9 * by_macs([graph])[0][0], by_macs=True)
    assert sum(option.ms for option in used) >= 0.9 * by_macs([graph])[0][0] or len(used) == len(found.options)
