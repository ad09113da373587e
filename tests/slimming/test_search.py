"""The search on a real task: what it accepts pays and holds, what it refuses is said, targets are met or noted."""

from __future__ import annotations

import json

import numpy as np
import pytest

from digits import SELECTION, TEST, TRAIN, accuracy, digits, fitted, random_features, slimmed
from dojang.arith.channels import channels
from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.base.errors import GraphError, UsageError
from dojang.engine.session import Session
from dojang.evidence.evidence import Evidence
from dojang.slimming import slim
from dojang.slimming.front import front, numbers
from dojang.slimming.importance import read_statistics
from dojang.slimming.ledger import Ledger
from dojang.slimming.narrow import muted, remove
from dojang.slimming.rewrite import relative_difference
from dojang.slimming.timing import interleave
from nets import STRUCTURES, feed, weighted
from runtimes import by_layers, by_macs


def by_clock(graphs):
    x = digits()[0][:1]
    sessions = [Session(g) for g in graphs]
    return interleave([lambda s=s: s(x) for s in sessions], rounds=7)


@pytest.fixture(scope="module")
def original() -> Graph:
    return random_features(width=16)


@pytest.fixture(scope="module")
def lossy(original):
    return slimmed(original, max_drop=1.0, target_macs=0.5)


def test_the_target_is_reached_within_the_drop(original, lossy):
    assert accuracy(original, TEST) > 0.95
    assert lossy.after.macs <= 0.5 * lossy.before.macs
    assert lossy.before.accuracy - lossy.after.accuracy <= 0.01 + 1e-9
    assert lossy.after.accuracy == accuracy(lossy.graph, SELECTION)
    assert accuracy(original, TEST) - accuracy(lossy.graph, TEST) < 0.03
    assert not lossy.notes
    assert "b1" not in lossy.graph.by_name  # folded at the end, after tuning
    lossy.graph.check_weights()


def test_the_edits_add_up_to_the_difference(lossy):
    assert sum(e.macs_saved for e in lossy.edits) == lossy.before.macs - lossy.after.macs
    assert sum(e.params_saved for e in lossy.edits) == lossy.before.params - lossy.after.params
    assert {e.claim for e in lossy.edits} == {"exact", "bounded", "lossy"}
    assert all(e.ms_saved > 0 for e in lossy.edits)


def test_the_json_is_the_contract(lossy):
    made = json.loads(json.dumps(lossy.to_dict()))
    assert set(made["before"]) == {"params", "macs", "accuracy", "median_ms", "size_bytes"}
    assert {"rewrite", "claim", "layers", "params_saved", "macs_saved", "ms_saved", "check"} <= set(made["edits"][0])
    assert all(set(r) >= {"rewrite", "layers", "reason"} for r in made["refused"])


def test_the_same_seed_gives_the_same_network(original, lossy):
    again = slimmed(original, max_drop=1.0, target_macs=0.5)
    assert again.graph.nodes == lossy.graph.nodes
    assert all(np.array_equal(again.graph.weights[k], v) for k, v in lossy.graph.weights.items())
    assert again.to_dict() == lossy.to_dict()


def test_nothing_is_cut_on_a_runtime_that_gains_nothing():
    original = random_features(width=8)
    result = slimmed(original, measure=by_layers, max_drop=1.0)
    assert [e.rewrite for e in result.edits] == ["fold-batchnorm"]
    assert result.after.params < result.before.params
    assert result.refused
    assert all(
        "no faster" in r.reason or "slower by" in r.reason or "no time saved" in r.reason for r in result.refused
    )
    assert result.after.macs == result.before.macs


def test_a_drop_that_is_not_allowed_is_refused_and_noted():
    original = random_features(width=8)
    result = slimmed(original, tune=None, max_drop=0.0, target_macs=0.05)
    assert result.after.accuracy >= result.before.accuracy
    assert any("was not reached" in note for note in result.notes)
    assert any("points lost" in r.reason for r in result.refused)


def test_lossless_needs_no_labels_and_certifies(original):
    result = slim(Evidence(original, digits()[0][:8]), measure=by_macs, lossless=True)
    assert result.edits[0].rewrite == "fold-batchnorm"
    assert {e.claim for e in result.edits} == {"exact"}
    assert result.after.accuracy is None
    assert set(result.certificate) == {"random", "real"}
    for part in result.certificate.values():
        assert part["float64"] < 1e-5
        assert part["float32"] < 1e-4
    x = {"x": digits()[0][20:24].astype(np.float64)}
    assert relative_difference(original, result.graph, x) < 1e-5


def test_a_real_clock_never_yields_more_work(original):
    result = slim(Evidence(original, digits()[0][TRAIN]), measure=by_clock, lossless=True)
    assert result.after.macs <= result.before.macs
    assert result.edits or result.refused


@pytest.mark.parametrize("name", STRUCTURES)
def test_lossless_runs_on_every_structure_without_a_clock(name):
    graph = weighted(STRUCTURES[name]())
    result = slim(Evidence(graph), lossless=True)
    assert any("not measured" in note for note in result.notes)
    assert all(part["float64"] < 1e-5 for part in result.certificate.values())


def test_silent_channels_are_cut_with_their_bound(original):
    weights = {k: np.array(v) for k, v in original.weights.items()}
    weights["c2.bias"][[3, 5, 8]] = -50  # never fires on pictures in 0..1, but nothing proves it without a range
    graph = original.replace(weights=weights)
    result = slimmed(graph, tune=None, max_drop=0.0, target_macs=0.9)
    edit = next(e for e in result.edits if e.claim == "bounded")
    assert "c2" in edit.layers
    assert edit.check["samples"] == 1000
    statements = 48  # that each of the channels of c1 and c2 is never active: all hold at once with 95 % confidence
    assert edit.check["bound"] == pytest.approx(1 - (0.05 / statements) ** (1 / 1000))
    assert edit.check["ok"]


def test_small_savings_are_not_worth_a_loss():
    original = random_features(width=8)

    def hardly(graphs):  # a network without multiplications would still take 99.9 % of the time
        return [[1000.0 + count(g).total.macs / count(original).total.macs] for g in graphs]

    strict = slimmed(original, measure=hardly, target_macs=0.5)
    assert not [e for e in strict.edits if e.claim == "lossy"]
    assert any("less than 0.5%" in r.reason for r in strict.refused)
    lax = slimmed(original, measure=hardly, least_saving=0.0, target_macs=0.5)
    assert [e for e in lax.edits if e.claim == "lossy"]
    assert lax.after.macs < 0.8 * lax.before.macs


def test_a_target_time_is_met_or_the_miss_is_said():
    original = random_features(width=8)
    whole = by_macs([original])[0][0]
    half = slimmed(original, target_time=0.6, max_drop=5.0)
    assert half.after.median_ms <= 0.6 * whole
    assert not any("target" in note for note in half.notes)
    in_ms = slimmed(original, target_ms=0.6 * whole, max_drop=5.0)
    assert in_ms.graph.nodes == half.graph.nodes
    missed = slimmed(original, target_ms=1e-3 * whole, max_drop=0.0)
    assert missed.after.median_ms <= whole
    assert missed.after.accuracy >= missed.before.accuracy
    assert any("the target of" in note and "ms was not reached" in note for note in missed.notes)


def test_predictions_only_rank(original):
    """A predictor that is wrong by a factor, and wrong about the order, changes what is tried, not what holds."""
    result = slimmed(original, predict=lambda g: 1e3 / (1 + count(g).total.params), target_macs=0.8)
    assert all(e.ms_saved > 0 for e in result.edits)
    assert result.before.accuracy - result.after.accuracy <= 0.01 + 1e-9


def test_few_tunings_reach_a_target(original):
    calls = []

    def counted(graph, teacher):
        calls.append(count(graph).total.macs)
        return fitted(graph)

    result = slimmed(original, tune=counted, max_drop=5.0, target_macs=0.5)
    assert result.after.macs <= 0.5 * result.before.macs
    assert len(calls) <= 3


def test_timings_are_remembered_by_shape(original):
    ledger = Ledger(Evidence(original, digits()[0][TRAIN]), by_macs, None, None, None, 1)
    asked = []
    ledger.measure = lambda graphs: asked.append(len(graphs)) or by_macs(graphs)
    narrow = random_features(width=8)
    other = narrow.replace(weights={k: v + 1 for k, v in narrow.weights.items()})
    first = ledger.time_all(original, [narrow, other])
    assert asked == [2]
    assert ledger.time_all(original, [other]) == first[1:]
    assert asked == [2]
    assert ledger.time_all(original, []) == []


@pytest.mark.parametrize("name", STRUCTURES)
def test_muted_channels_compute_what_removed_ones_do(name):
    graph = weighted(STRUCTURES[name]())
    tied = channels(graph)
    x = feed(graph, 6)
    stats = read_statistics(Evidence(graph, x))
    for bundle in tied.bundles:
        gone = tied.fit(bundle[: len(bundle) // 2])
        if not gone:
            continue
        cut, quiet = (Session(f(graph, tied, gone, stats)).run(x).outputs for f in (remove, muted))
        for a, b in zip(cut, quiet, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3 * np.abs(a).max())


def test_bad_arguments():
    with pytest.raises(UsageError, match="fraction of the run time"):
        slim(Evidence(weighted(STRUCTURES["plain"]())), lossless=True, least_saving=1.0)
    with pytest.raises(UsageError, match="milliseconds"):
        slim(Evidence(weighted(STRUCTURES["plain"]())), lossless=True, target_ms=float("nan"))
    with pytest.raises(UsageError, match="activation, weight, batchnorm, taylor"):
        slim(Evidence(weighted(STRUCTURES["plain"]())), lossless=True, importance="size")
    with pytest.raises(UsageError, match="needs `gradients`"):
        slim(Evidence(random_features(width=8), digits()[0][TRAIN]), evaluate=accuracy, importance="taylor")
    with pytest.raises(UsageError, match="a function that times networks"):
        slim(Evidence(weighted(STRUCTURES["plain"]())), lossless=True, target_time=0.5)

    graph = weighted(STRUCTURES["plain"]())
    with pytest.raises(UsageError, match="--lossless"):
        slim(Evidence(graph))
    with pytest.raises(UsageError, match="fraction"):
        slim(Evidence(graph), lossless=True, target_macs=2)
    with pytest.raises(UsageError, match="percentage points"):
        slim(Evidence(graph), lossless=True, max_drop=float("nan"))
    with pytest.raises(GraphError, match="no weights"):
        slim(Evidence(graph.replace(weights={})), lossless=True)


def test_nan_in_tuning_keeps_what_was_good():
    original = random_features(width=8)

    def explodes(graph: Graph, teacher: Graph) -> Graph:
        return graph.replace(weights={**graph.weights, "y.bias": np.full(10, np.nan, np.float32)})

    result = slimmed(original, tune=explodes)
    assert any("fine-tuning failed" in r.reason and "NaN" in r.reason for r in result.refused)
    assert result.after.accuracy == pytest.approx(result.before.accuracy, abs=0.005)


def test_progress_is_told(original):
    said = []
    slim(Evidence(original, digits()[0][TRAIN]), lossless=True, progress=lambda *a: said.append(a))
    assert all(0 <= step <= of or of == 0 for _, step, of in said)
    assert any("batch norm" in what for what, _, _ in said)


def test_channels_go_in_the_order_that_was_asked():
    """The slopes say that only the first channels of the second layer matter; nothing else does."""
    original = random_features(width=16)

    def gradients(graph: Graph):
        made = {k: np.zeros_like(v) for k, v in graph.weights.items()}
        made["c2.weight"][:8] = 1
        return made

    ledger = Ledger(Evidence(original, digits()[0][TRAIN]), by_macs, None, None, None, 1)
    tied = channels(original)
    gone: dict[str, set[int]] = {}
    for kind in ("taylor", "activation"):
        ledger.importance, ledger.gradients = kind, gradients
        found = front(ledger, ledger.evidence(original))
        largest = max((o for own in found.options for o in own if "c2" in o.layers), key=lambda o: len(o.classes))
        gone[kind] = {place for c in largest.classes for name, place in tied.carriers[c] if name == "c2"}
    assert len(gone["taylor"] - set(range(8))) == 24  # all that do not matter, and one that does at most
    assert len(gone["taylor"]) <= 25
    assert len(gone["activation"] & set(range(8))) > 1


def test_what_stays_is_whole_vectors():
    even = np.ones(64)
    assert numbers(range(64), even, 8) == [8, 16, 32, 48]
    assert numbers(range(30), even, 8) == [6, 14, 22]  # 24, 16, 8 stay; a quarter is less than a vector
    assert numbers(range(8), even, 8) == [1, 2, 4, 6]  # no wider than a vector: nothing to keep whole
    idle = np.where(np.arange(64) < 3, 0.0, 1.0)
    assert numbers(range(64), idle, 16) == [16, 32, 48]
    assert numbers(range(64), idle, 1) == [3, 8, 16, 32, 48]
