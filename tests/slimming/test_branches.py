"""Branches of sums that can go, what is left then, and that the search takes them where they pay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from digits import TRAIN, accuracy, digits, fitted, slimmed
from dojang.arith.cost import count
from dojang.arith.cut import cut
from dojang.arith.graph import Graph
from dojang.engine.session import Session
from dojang.evidence.evidence import Evidence
from dojang.slimming.branches import branches, without
from dojang.slimming.compose import INSIDE, Goal, compositions, varied, whole_saving
from dojang.slimming.front import TIMED, front
from dojang.slimming.ledger import Ledger
from nets import STRUCTURES, N, conv, feed, net, weighted
from runtimes import by_layers, by_macs

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


def test_an_activation_that_has_nothing_left_to_do_goes_with_the_branch():
    """relu(relu(x) + branch) is relu(x) without the branch; a clip to other bounds, or an output, stays."""
    graph = weighted(net(
        conv("a", "x", 4), N("r", "relu", "a"), conv("b", "r", 4), N("s", "add", "r", "b"), N("t", "relu", "s"),
        conv("c", "t", 4), N("u", "add", "c", "t"), N("v", "clip", "u", min=0.0, max=1.0), conv("d", "v", 4),
        N("w", "add", "d", "v"), N("y", "relu", "w"), outputs=("y",),
    ))  # fmt: skip
    x = feed(graph, 3)
    kept = {branch.add: set(without(graph, [branch]).by_name) for branch in branches(graph)}
    assert {add: {"t", "v", "y"} - names for add, names in kept.items()} == {"s": {"t"}, "u": set(), "w": set()}
    shorter = without(graph, branches(graph))
    assert [n.name for n in shorter.nodes] == ["x", "a", "r", "v", "y"]
    arrays = {"b.weight", "b.bias", "c.weight", "c.bias", "d.weight", "d.bias"}
    zeros = graph.replace(weights={k: v * 0 if k in arrays else v for k, v in graph.weights.items()})
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


def test_the_search_drops_the_branch_that_says_least():
    result = slimmed(residual(), measure=by_layers, max_drop=2.0, target_macs=0.6)
    assert [(e.rewrite, e.layers) for e in result.edits] == [("remove-branches", ("c3", "c4"))]
    assert result.edits[0].found == "gone: c3, c4"
    assert {"c3", "c4"}.isdisjoint(result.graph.by_name)
    assert result.after.accuracy >= result.before.accuracy - 0.02
    assert result.after.macs <= 0.6 * result.before.macs


def test_two_structures_are_tuned_and_the_more_accurate_is_taken():
    """Where tuning cannot be done in parts, all candidates are scored and two of different structure are tuned."""
    tuned = []

    def kept(graph: Graph, teacher: Graph) -> Graph:
        tuned.append(fitted(graph))
        return tuned[-1]

    graph = residual()
    loud = fitted(graph.replace(weights={k: v * 100 if k[:2] == "c4" else v for k, v in graph.weights.items()}))
    result = slimmed(loud, tune=kept, max_drop=30.0, target_macs=0.4)
    assert len(tuned) == 2
    assert len([e for e in result.edits if e.claim == "lossy"]) == 1
    made = [one for one in result.candidates if one["tuned"]]
    assert len(made) == 2
    assert made[0]["ranking"].split(", then")[0] != made[1]["ranking"].split(", then")[0]
    scores = [accuracy(graph) for graph in tuned]
    assert scores[0] != scores[1]
    assert result.after.accuracy == max(scores) == max(one["measure"] for one in made)
    assert [one["taken"] for one in made] == [one["measure"] == max(scores) for one in made]
    assert all(one["why"] for one in result.candidates if not one["taken"])
    assert all(one["macs"] <= 0.4 * count(loud).total.macs for one in result.candidates)


@pytest.mark.parametrize("small", [True, False])
def test_savings_are_those_of_the_clock_where_they_are_timed(small, monkeypatch):
    """The plan says that nothing saves anything; the clock counts multiplications and layers."""
    if not small:
        monkeypatch.setattr("dojang.slimming.front.TIMED_MACS", 0.0)
    asked = []

    def measure(graphs):
        asked.append(len(graphs) - 1)
        return by_macs(graphs)

    graph, samples = residual(), digits()[0][TRAIN]
    ledger = Ledger(Evidence(graph, samples), measure, None, None, None, 1, predict=lambda g: 1.0)
    found = front(ledger, ledger.evidence(graph))
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


def halves(graphs):
    """A runtime on which two cuts together save less than each promises alone: time is the root of multiplications."""
    return [[(count(g).total.macs * 1e-6) ** 0.5] for g in graphs]


def doubles(graphs):
    """A runtime on which two cuts together save more than each promises alone."""
    return [[(count(g).total.macs * 1e-6) ** 2] for g in graphs]


@pytest.mark.parametrize("runtime", [halves, doubles])
@pytest.mark.parametrize("by_sort", [True, False])
def test_the_time_of_the_whole_decides_how_much_goes(runtime, by_sort):
    """Whether parts promise too little or too much, the network saves what is wanted, and not twice of it."""
    graph = residual()
    ledger = Ledger(Evidence(graph, digits()[0][TRAIN]), runtime, None, accuracy, None, 1)
    offers = front(ledger, ledger.evidence(graph))
    whole = runtime([graph])[0][0]
    wanted = 0.3 * whole
    goal = Goal(count(graph).total.macs, wanted, False)
    found, used = whole_saving(ledger, offers, offers, goal, by_sort)
    assert found is not None
    saved = whole - runtime([found])[0][0]
    assert saved >= wanted
    least = min(option.ms for option in used)
    assert saved < 2 * wanted or saved - wanted < 2 * least


def test_multiplications_and_time_are_met_without_waste():
    """Layers cost time, channels multiplications: at the right price both targets are met and neither is passed far."""
    graph = residual()

    def runtime(graphs):
        return [[count(g).total.macs * 1e-6 + 0.15 * len([n for n in g.nodes if n.op == "conv"])] for g in graphs]

    ledger = Ledger(Evidence(graph, digits()[0][TRAIN]), runtime, None, accuracy, None, 1)
    offers = front(ledger, ledger.evidence(graph), True)
    assert all(option.ms > 0 for own in offers.options for option in own)
    whole, macs = runtime([graph])[0][0], count(graph).total.macs
    found, _ = whole_saving(ledger, offers, offers, Goal(0.5 * macs, 0.3 * whole, True))
    assert found is not None
    assert count(found).total.macs <= 0.5 * macs
    assert whole - runtime([found])[0][0] >= 0.3 * whole
    alone, _ = offers.to(lambda g: count(g).total.macs <= 0.5 * macs and runtime([g])[0][0] <= 0.7 * whole)
    assert offers.loss.of(found) <= offers.loss.of(alone) + 1e-9


def test_channels_inside_of_blocks_leave_what_is_added_up_whole_and_take_turns_with_others():
    graph = residual()
    ledger = Ledger(Evidence(graph, digits()[0][TRAIN]), by_macs, None, accuracy, None, 1)
    offers = front(ledger, ledger.evidence(graph))
    found = compositions(ledger, offers, Goal(0.4 * count(graph).total.macs, 0.0, False))
    inside = [one for one in found if one.sort == INSIDE]
    assert inside
    summed = {name for node in graph.nodes if node.op == "add" for name in node.inputs}
    for one in inside:
        narrow = one.proposal.graph
        assert any(narrow[n.name].attrs["out"] < n.attrs["out"] for n in graph.nodes
                   if n.op == "conv" and n.name in narrow.by_name)  # fmt: skip
        for name in summed & set(narrow.by_name):
            assert narrow.unit_shapes[name] == graph.unit_shapes[name]
    moved_most = [replace(one, moved=9.0) for one in inside]  # as untuned outputs rank them: behind all others
    others = [one for one in found if one.sort != INSIDE]
    assert len(others) > 1
    assert {one.sort for one in varied([*others, *moved_most], 2)} == {others[0].sort, INSIDE}
