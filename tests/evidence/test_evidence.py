"""Evidence: every fact is computed once, in one pass over the samples; by brute force it is the same."""

from __future__ import annotations

import numpy as np
import pytest

from digits import TRAIN, digits, random_features
from dojang.base.errors import DataError
from dojang.diagnosis import correlations, diagnose, spectra
from dojang.diagnosis.findings import watched
from dojang.diagnosis.spectrum import watched_values
from dojang.engine.reference.operators import run_reference
from dojang.engine.session import Session
from dojang.evidence import activations, evidence
from dojang.evidence.evidence import Evidence
from dojang.evidence.intervals import ranges
from dojang.slimming import slim
from dojang.slimming.importance import read_values
from dojang.slimming.ledger import Ledger
from dojang.slimming.silent import silent
from nets import STRUCTURES, feed, weighted


@pytest.fixture
def counted(monkeypatch):
    """How often each proof is made, and samples run through a session."""
    counts: dict[str, int] = {"ranges": 0, "numbers": 0, "channels": 0, "samples": 0}
    for name in ("ranges", "numbers", "channels"):
        whole = getattr(evidence, name)

        def one(*args, name=name, whole=whole):
            counts[name] += 1
            return whole(*args)

        monkeypatch.setattr(evidence, name, one)
    run = Session.run

    def watched_run(self, x, taps=()):
        if taps:
            counts["samples"] += len(x)
        return run(self, x, taps)

    monkeypatch.setattr(Session, "run", watched_run)
    return counts


def test_findings_and_cuts_stand_on_one_pass_and_one_proof(counted):
    """One pass for all statistics, and one for what convolutions read, on which grouped ones are fitted and judged."""
    graph = random_features(width=8)
    x = digits()[0][TRAIN][:200]
    counted["samples"] = 0  # those by which the network was made
    known = Evidence(graph, x)
    values, pairs, more = watched(known)
    known.gather((*values, *read_values(known), *watched_values(known)), pairs, **more)
    assert counted["samples"] == 200
    findings = diagnose(known)
    correlations(known)
    spectra(known)
    ledger = Ledger(known, None, None, None, None, 1)
    assert ledger.evidence(graph) is known
    silent(ledger.evidence(graph))
    assert counted == {"ranges": 1, "numbers": 1, "channels": 1, "samples": 400}
    assert known.passes == 1
    slim(known, lossless=True, findings=findings, rewrites=())
    assert counted == {"ranges": 1, "numbers": 1, "channels": 1, "samples": 400}


def test_an_edited_network_has_an_evidence_of_its_own_on_the_same_samples():
    graph = random_features(width=8)
    known = Evidence(graph, digits()[0][TRAIN][:70], {"x": (0, 1)}, seed=3, threshold=0.5)
    assert known.on(graph) is known
    other = known.on(random_features(seed=1, width=8))
    assert (other.samples is known.samples, other.input_range, other.seed, other.threshold) == (
        True,
        {"x": (0, 1)},
        3,
        0.5,
    )
    assert other.ranges["r1"].hi.tolist() != known.ranges["r1"].hi.tolist()
    assert other.statistics(["r1"])["r1"].mean.tolist() != known.statistics(["r1"])["r1"].mean.tolist()


@pytest.mark.parametrize("name", STRUCTURES)
def test_what_is_proved_holds_for_the_weights_in_float64(name):
    """`stored_as` passes the proofs on; made anew on float64 weights they are the same numbers."""
    graph = weighted(STRUCTURES[name]())
    wide = Evidence(graph).stored_as(np.float64)
    assert {v.dtype for v in wide.graph.weights.values()} == {np.dtype(np.float64)}
    for value, found in ranges(wide.graph).items():
        for field in ("lo", "hi", "err"):
            np.testing.assert_array_equal(getattr(wide.ranges[value], field), getattr(found, field))


@pytest.mark.parametrize("most", [activations.MOST_ROWS, 1500])
def test_statistics_of_some_places_are_near_those_of_all_and_extremes_exact(most, monkeypatch):
    monkeypatch.setattr(activations, "MOST_ROWS", most)
    graph = random_features(width=8)
    x = digits()[0][TRAIN][:150]
    found = Evidence(graph, x).statistics(["r1"])["r1"]
    value = run_reference(graph, x.astype(np.float64), np.float64, ("r1",)).taps["r1"]
    flat = np.moveaxis(value, 1, 0).reshape(8, -1)
    assert (found.samples, found.places) == (150, flat.shape[1])
    assert found.rows == (flat.shape[1] if most > flat.shape[1] else 1500)
    np.testing.assert_allclose(found.most, flat.max(axis=1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.least, flat.min(axis=1), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.fired, (value > 0).any(axis=(2, 3)).sum(axis=0))
    loose = 1e-4 if most > flat.shape[1] else 0.35
    scale = flat.std(axis=1).max()
    np.testing.assert_allclose(found.mean, flat.mean(axis=1), atol=loose * scale)
    np.testing.assert_allclose(found.covariance, np.cov(flat, bias=True), atol=loose * scale**2)


def test_samples_are_looked_at_before_they_are_used():
    graph = random_features(width=8)
    for bad, words in (
        (np.full((2, 1, 8, 8), np.nan, np.float32), "NaN"),
        (np.zeros((0, 1, 8, 8), np.float32), "no samples"),
    ):
        with pytest.raises(DataError, match=words):
            Evidence(graph, bad).statistics(["r1"])
    with pytest.raises(DataError, match="no samples"):
        Evidence(graph).statistics(["r1"])


def test_several_inputs_are_gathered_by_name():
    graph = weighted(STRUCTURES["many_ends"]())
    x = {k: v.astype(np.float32) for k, v in feed(graph, 70).items()}
    known = Evidence(graph, x)
    found = known.statistics(["mid", "rc"])
    wanted = run_reference(graph, x, np.float32, ("mid",)).taps["mid"]
    np.testing.assert_allclose(found["mid"].most, wanted.max(axis=(0, 2, 3)), rtol=1e-4)
    assert known.passes == 1
    known.statistics(["rc", "mid"])
    assert known.passes == 1
