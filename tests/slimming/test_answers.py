"""Every channel that a finding names is cut, or there is a reason: planted waste in networks of many structures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.diagnosis import diagnose
from dojang.engine.reference.operators import run_reference
from dojang.evidence.evidence import Evidence
from dojang.evidence.finding import CHANNEL_KINDS
from dojang.slimming import SlimResult, slim
from dojang.slimming.answers import ONLY_SEEN, WITHOUT_LOSS
from dojang.slimming.estimate import OutputChange
from dojang.slimming.numbering import Numbering
from dojang.slimming.structural import candidates
from nets import STRUCTURES, N, conv, feed, net, random_network, weighted
from planted_groups import planted
from runtimes import by_macs


def never(graphs):
    """A runtime on which nothing saves time."""
    return [[1.0] for _ in graphs]


def wasteful(graph: Graph, seed: int) -> Graph:
    """Channels of every layer dead, constant, equal, and dead on the samples only (a bias that no sample overcomes)."""
    rng, weights = np.random.default_rng(seed), {k: np.array(v) for k, v in graph.weights.items()}
    for node in graph.nodes:
        if node.op not in ("conv", "dense") or not node.attrs["bias"] or node.attrs["out"] < 5:
            continue
        weight, bias = weights[node.array("weight")], weights[node.array("bias")]
        dead, constant, twin, first, silent = rng.permutation(node.attrs["out"])[:5]
        weight[dead], bias[dead] = 0, -1
        weight[constant], bias[constant] = 0, 0.75
        weight[twin], bias[twin] = 2 * weight[first], 2 * bias[first]
        bias[silent] = -1e4
    return graph.with_weights(weights)


def found_and_cut(graph: Graph, samples: int = 12, **how) -> SlimResult:
    x = {k: v.astype(np.float32) for k, v in feed(graph, samples).items()}
    known = Evidence(graph, x)
    loss = OutputChange(graph, x)
    if not how.get("lossless"):
        how = {"evaluate": lambda g: max(0.0, 1 - loss.of(g)), "max_drop": 20, "target_macs": 0.8, **how}
    return slim(known, findings=diagnose(known), **{"measure": by_macs, **how})


def answered_for(result: SlimResult) -> int:
    """Asserts that every channel of every finding is cut or refused with a reason; how many were named."""
    named = 0
    for answer in result.answers:
        finding = answer.finding
        if finding.kind not in CHANNEL_KINDS:
            assert answer.informs or answer.edits or answer.refused, finding
            continue
        edits, refused = [result.edits[i] for i in answer.edits], [result.refused[i] for i in answer.refused]
        cut = {c for e in edits for c in e.channels.get(finding.layer, ())}
        reasons = {c: r.reason for r in refused for c in r.channels.get(finding.layer, ())}
        left = [c for c in finding.channels if c not in cut and not reasons.get(c)]
        named += len(finding.channels)
        assert len(left) <= (finding.kind == "duplicate"), (finding, left)  # of channels that are alike one stays
        assert len(left) < len(finding.channels), finding
        assert all(finding in one.findings for one in (*edits, *refused))
    return named


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_channel_that_is_found_is_cut_or_has_a_reason(name):
    graph = wasteful(weighted(STRUCTURES[name]()), 1)
    assert answered_for(found_and_cut(graph, lossless=True))
    if len(graph.inputs) == 1:
        answered_for(found_and_cut(graph))


@settings(max_examples=12)
@given(seed=st.integers(0, 2**31), lossless=st.booleans(), clock=st.sampled_from([by_macs, never]))
def test_the_same_on_random_networks(seed, lossless, clock):
    graph = wasteful(weighted(random_network(seed), seed), seed)
    answered_for(found_and_cut(graph, lossless=lossless, measure=clock))


def chain(padding: int = 1) -> Graph:
    graph = weighted(
        net(conv("a", "x", 8), N("r", "relu", "a"), conv("b", "r", 8, padding=padding), N("q", "relu", "b"),
            conv("y", "q", 3, 1))
    )  # fmt: skip
    weights = {k: np.array(v) for k, v in graph.weights.items()}
    weights["a.weight"][[1, 4]], weights["a.bias"][[1, 4]] = 0, -1  # dead, proved
    weights["a.weight"][2], weights["a.bias"][2] = 0, 0.5  # constant, proved
    weights["a.weight"][6], weights["a.bias"][6] = 3 * weights["a.weight"][5], 3 * weights["a.bias"][5]  # a multiple
    weights["b.bias"][[0, 7]] = -1e4  # dead on every sample
    return graph.with_weights(weights)


def of(result: SlimResult, layer: str, kind: str):
    return next(a for a in result.answers if (a.finding.layer, a.finding.kind) == (layer, kind))


def names(result: SlimResult, layer: str, kind: str) -> list[str]:
    return [result.edits[i].rewrite for i in of(result, layer, kind).edits]


def test_each_kind_is_answered_by_the_cut_that_is_made_for_it():
    result = found_and_cut(chain(padding=0))
    assert names(result, "a", "dead-proven")[0] == "remove-dead-channels"
    assert names(result, "a", "constant") == ["absorb-constant-channels"]
    assert names(result, "a", "duplicate") == ["merge-duplicate-channels"]
    assert names(result, "b", "dead-observed")[0] == "remove-silent-channels"
    dead = result.edits[of(result, "a", "dead-proven").edits[0]]
    assert dead.channels["a"] == (1, 4)
    merged = result.edits[of(result, "a", "duplicate").edits[0]]
    assert merged.channels["a"] in ((5,), (6,))  # in the numbers of the original, though three channels went before
    assert all(set(one.channels.get("b", ())) >= {0, 7} for one in result.edits if one.claim == "bounded")


def test_reasons_are_those_of_the_channel():
    lossless = found_and_cut(chain(), lossless=True)
    assert [lossless.refused[i].reason for i in of(lossless, "b", "dead-observed").refused] == [ONLY_SEEN]
    constant = of(lossless, "a", "constant")
    assert constant.verdict == "refused"
    assert "b pads with zeros" in lossless.refused[constant.refused[0]].reason
    slow = found_and_cut(chain(), measure=never)
    assert not slow.edits
    told = [slow.refused[i].reason for i in of(slow, "a", "dead-proven").refused]
    assert any("no time saved" in reason for reason in told)
    frozen = weighted(net(conv("a", "x", 6), N("r", "relu", "a"), conv("y", "a", 2), outputs=("r", "y")))
    weights = {k: np.array(v) for k, v in frozen.weights.items()}
    weights["a.weight"][3], weights["a.bias"][3] = 0, -1
    kept = found_and_cut(frozen.with_weights(weights), lossless=True)
    for answer in kept.answers:
        assert answer.verdict != "cut"
        assert all(kept.refused[i].reason for i in answer.refused)


def test_the_reason_names_what_a_channel_is_tied_to():
    """A channel that is dead in one branch of a sum, and alive in the other: neither exact nor bounded cuts take it."""
    graph = weighted(net(conv("a", "x", 6), N("r", "relu", "a"), conv("b", "x", 6), N("s", "add", "r", "b"),
                         conv("y", "s", 3, 1)))  # fmt: skip
    weights = {k: np.array(v) for k, v in graph.weights.items()}
    weights["a.weight"][1], weights["a.bias"][1] = 0, -1
    weights["a.bias"][4] = -1e4
    result = found_and_cut(graph.with_weights(weights), max_drop=0, target_macs=0.99)
    proved, seen = of(result, "a", "dead-proven"), of(result, "a", "dead-observed")
    assert [result.refused[i].reason for i in proved.refused] == [
        "it is joined with channel 1 of b, and y needs the result"
    ]
    assert [result.refused[i].reason for i in seen.refused] == [
        "y reads it joined with channel 4 of b, which were not 0 on the samples"
    ]


def test_a_result_that_is_no_faster_takes_its_answers_back():
    """The clock changes its mind: each cut saves time, all together do not."""
    graph = chain(0)
    whole = count(graph).total.macs

    def fickle(graphs):
        first = count(graphs[0]).total.macs
        if len(graphs) == 2 and first == whole and count(graphs[1]).total.macs < 0.7 * whole:
            return [[1.0], [2.0]]
        return by_macs(graphs)

    result = found_and_cut(graph, lossless=True, measure=fickle)
    assert any("the original stands" in note for note in result.notes)
    assert not result.edits
    told = [result.refused[i].reason for i in of(result, "a", "dead-proven").refused]
    assert any("measured once more" in reason for reason in told)
    answered_for(result)


def test_findings_that_nobody_answers_inform():
    result = found_and_cut(chain())
    spots = [a for a in result.answers if a.finding.kind == "hot-spot"]
    assert spots
    assert {a.verdict for a in spots} == {"informs"}
    covered = [a for a in result.answers if a.finding.kind == "coverage"]
    assert all(a.verdict in ("cut", "refused") for a in covered)


def test_groups_that_are_found_are_cut_in_the_same_groups():
    drawn = next(
        d
        for d in (planted(seed, 4, 64) for seed in range(99))
        if "plain, 16 to 32" in d.said or "plain, 32 to 16" in d.said
    )
    known = Evidence(drawn.graph, drawn.x)
    findings = diagnose(known)
    (low,) = (f for f in findings if f.kind == "low-correlation")
    assert (low.layer, low.details["groups"]) == ("b", 4)
    loss = OutputChange(drawn.graph, drawn.x)
    options = candidates(known)
    four = next(c for c in options if c.rewrite == "grouped-kernels" and "in 4 groups" in c.found)
    others = [c for c in options if c.layers == ("b",) and c.rewrite == "grouped-kernels" and c is not four]
    assert four.answers == ("low-correlation",)
    assert loss.of(four.graph) < 0.5 * min(loss.of(c.graph) for c in others if "2 groups" not in c.found)
    how = {"evaluate": lambda g: max(0.0, 1 - loss.of(g)), "max_drop": 20, "target_macs": 0.8, "measure": by_macs}
    result = slim(known, findings=findings, **how)
    (answer,) = (a for a in result.answers if a.finding == low)
    assert answer.verdict in ("cut", "refused")
    assert answer.edits or answer.refused


def test_json_points_from_edits_to_findings_and_back():
    made = found_and_cut(chain()).to_dict()
    assert len(made["answers"]) == len(made["findings"])
    for place, answer in enumerate(made["answers"]):
        finding = made["findings"][place]
        assert answer["finding"] == {"index": place, **{k: finding[k] for k in ("layer", "kind", "channels")}}
        for kind in ("edits", "refused"):
            for i in answer[kind]:
                assert place in [one["index"] for one in made[kind][i]["findings"]]
    assert any(edit["findings"] for edit in made["edits"])


def test_original_numbers_follow_cuts_and_orders():
    left = Numbering({"a": (0, 1, 2, 3, 4)}).without({"a": (1, 3)})
    assert left.original({"a": (0, 1, 2), "new": (0,)}) == {"a": (0, 2, 4)}
    assert left.reordered({"a": (2, 0, 1)}).original({"a": (0,)}) == {"a": (4,)}


def test_channels_that_are_said_to_be_removed_are_those_that_are():
    """Every other channel computes what it did: the result on the original's numbers, by brute force."""
    graph = chain(0)
    x = feed(graph, 5)
    result = found_and_cut(graph, lossless=True)
    gone = {c for edit in result.edits for c in edit.channels.get("a", ())}
    left = [c for c in range(8) if c not in gone]
    before = run_reference(graph, x, np.float64, ("r",)).taps["r"][:, left]
    after = run_reference(result.graph, x, np.float64, ("r",)).taps["r"]
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_unread_repeated_and_negative_channels_are_cut():
    """Channels that no reader wants, a branch that is there twice, and a multiple of −2 that no activation bends."""
    graph = weighted(net(conv("a", "x", 6), N("ra", "relu", "a"), conv("b", "x", 6), N("rb", "relu", "b"),
                         N("t", "concat", "ra", "rb"), conv("c", "t", 6), N("p", "avgpool", "c", kernel=(2, 2)),
                         conv("y", "p", 3, 1)))  # fmt: skip
    weights = {k: np.array(v) for k, v in graph.weights.items()}
    for role in ("weight", "bias"):
        weights[f"b.{role}"][:3] = 2 * weights[f"a.{role}"][:3]
        weights[f"c.{role}"][4] = -2 * weights[f"c.{role}"][1]
    weights["c.weight"][:, 5] = 0
    graph = graph.with_weights(weights)
    result = found_and_cut(graph, lossless=True)
    assert names(result, "a", "unread") == ["remove-dead-channels"]
    assert names(result, "b", "repeated") == ["merge-duplicate-channels"]
    assert names(result, "c", "duplicate") == ["merge-duplicate-channels"]
    answered_for(result)
    assert [result.graph.param_shapes[f"{n}.weight"][0] for n in "abc"] == [5, 3, 5]
    x = {k: v.astype(np.float64) for k, v in feed(graph, 4).items()}
    before, after = (run_reference(g, x, np.float64).outputs[0] for g in (graph, result.graph))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_a_layer_of_low_rank_becomes_two_or_has_a_reason():
    graph = weighted(net(conv("a", "x", 8), N("r", "relu", "a"), conv("b", "r", 16), N("q", "tanh", "b"),
                         conv("y", "q", 3, 1)))  # fmt: skip
    weights = {k: np.array(v) for k, v in graph.weights.items()}
    mix = np.random.default_rng(0).normal(size=(14, 2)).astype(np.float32)
    for role in ("weight", "bias"):
        weights[f"b.{role}"][2:] = np.tensordot(mix, weights[f"b.{role}"][:2], 1)
    graph = graph.with_weights(weights)
    assert names(found_and_cut(graph, max_drop=5, target_macs=0.5), "b", "low-rank") == ["bottleneck"]
    kept = found_and_cut(graph, lossless=True)
    assert [kept.refused[i].reason for i in of(kept, "b", "low-rank").refused] == [WITHOUT_LOSS]
