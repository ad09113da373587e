"""Findings against planted and natural facts, each checked by brute force."""

from __future__ import annotations

import json

import numpy as np
import pytest

from digits import TRAIN, digits, random_features
from dojang.arith.cost import count
from dojang.base.errors import DataError
from dojang.diagnosis import Finding, diagnose, worst
from dojang.diagnosis.hot_spots import far_below, hot_spots
from dojang.engine.reference.operators import run_reference
from dojang.evidence.activations import activated, layers
from dojang.evidence.evidence import Evidence
from dojang.evidence.finding import KINDS, SEVERITIES, bound_after_none
from dojang.evidence.times import CallTimes, LayerTime
from nets import STRUCTURES, N, conv, feed, net, weighted


def of(findings, kind):
    return [f for f in findings if f.kind == kind]


@pytest.fixture
def planted():
    graph = weighted(net(conv("a", "x", 8), N("b", "batchnorm", "a"), N("r", "relu", "b"), conv("c", "r", 6),
                         N("r2", "relu", "c"), N("g", "global_avgpool", "r2"), N("f", "flatten", "g"),
                         N("y", "dense", "f", out=3)))  # fmt: skip
    weights = {k: np.array(v) for k, v in graph.weights.items()}
    weights["b.weight"][1], weights["b.bias"][1] = 0, -0.5  # dead: proved
    weights["b.weight"][2], weights["b.bias"][2] = 0, 0.5  # constant: proved
    weights["b.bias"][3] = -1000  # dead on any sample, but no range proves it
    weights["a.weight"][5] = 2.5 * weights["a.weight"][4]  # a multiple, through norm and relu
    weights["a.bias"][4:6] = 0
    for role, value in {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}.items():
        weights[f"b.{role}"][4:6] = value
    return graph.replace(weights=weights)


def test_proved_and_observed_are_kept_apart(planted):
    x = feed(planted, 32)["x"].astype(np.float32)
    findings = diagnose(Evidence(planted, x))
    assert [f.channels for f in of(findings, "dead-proven") if f.layer == "a"] == [(1,)]
    constant = [f for f in of(findings, "constant") if f.layer == "a"]
    assert [(f.channels, f.value) for f in constant] == [((2,), 0.0)]
    assert "r is 0.5 in these channels" in constant[0].evidence
    assert constant[0].proved
    observed = next(f for f in of(findings, "dead-observed") if f.layer == "a")
    assert observed.channels == (3,)
    assert "32 samples" in observed.evidence
    # two statements about each of 17 channels, and one about each pair of a layer's
    statements = 2 * 17 + 8 * 7 // 2 + 6 * 5 // 2 + 3
    p = 1 - (0.05 / statements) ** (1 / 32)
    assert f"{p:.2%}" in observed.evidence
    assert (observed.samples, observed.confidence, observed.judged_at) == (32, 0.95, ("r",))


def test_a_range_turns_observation_into_proof(planted):
    x = feed(planted, 8)["x"].astype(np.float32).clip(-1, 1)
    findings = diagnose(Evidence(planted, x, input_range={"x": (-1, 1)}))
    assert [f.channels for f in of(findings, "dead-proven") if f.layer == "a"] == [(1, 3)]
    assert not [f for f in of(findings, "dead-observed") if f.layer == "a" and 3 in f.channels]


def test_multiples_are_proved_or_observed_and_others_are_not(planted):
    x = feed(planted, 32)["x"].astype(np.float32)
    found = [f for f in of(diagnose(Evidence(planted, x)), "duplicate") if f.layer == "a"]
    assert [f.channels for f in found] == [(4, 5)]
    assert found[0].proved
    assert "2.5 times channel 4" in found[0].evidence
    weights = {k: np.array(v) for k, v in planted.weights.items()}
    weights["a.weight"][5] *= 1 + 1e-6 * np.random.default_rng(0).normal(size=(3, 3, 3)).astype(np.float32)
    found = [f for f in of(diagnose(Evidence(planted.replace(weights=weights), x)), "duplicate") if f.layer == "a"]
    assert [f.channels for f in found] == [(4, 5)]  # no longer by the weights, but the samples still show it
    assert not found[0].proved
    assert 0 < found[0].value <= found[0].threshold


def test_negative_multiples_do_not_count_through_relu(planted):
    weights = {k: np.array(v) for k, v in planted.weights.items()}
    weights["a.weight"][5] = -weights["a.weight"][4]
    x = feed(planted, 32)["x"].astype(np.float32)
    assert not [f for f in of(diagnose(Evidence(planted.replace(weights=weights), x)), "duplicate") if f.layer == "a"]


def test_natural_death_on_digits_against_brute_force():
    graph = random_features(width=24)
    x = digits()[0][TRAIN][:500]
    findings = of(diagnose(Evidence(graph, x)), "dead-observed")
    values = run_reference(graph, x, np.float32, ("r1", "r2")).taps
    for layer, value in (("c1", "r1"), ("c2", "r2")):
        dead = tuple(int(i) for i in np.flatnonzero(values[value].max(axis=(0, 2, 3)) <= 0))
        assert dead == next((f.channels for f in findings if f.layer == layer), ())
    assert findings


@pytest.mark.parametrize("name", STRUCTURES)
def test_statistics_equal_brute_force_on_every_structure(name):
    graph = weighted(STRUCTURES[name]())
    x = {k: v.astype(np.float32) for k, v in feed(graph, 70).items()}  # more than one batch
    known = Evidence(graph, x)
    tied = known.channels
    for r in known.statistics(activated(graph, node.name) for node in layers(graph)).values():
        value = run_reference(graph, {k: v.astype(np.float64) for k, v in x.items()}, np.float64, (r.value,)).taps[
            r.value
        ]
        value = np.moveaxis(value, tied.tracks[r.value].axis, 0)
        flat = value.reshape(len(value), -1)
        np.testing.assert_allclose(r.mean, flat.mean(axis=1), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(
            r.covariance, np.cov(flat, bias=True).reshape(r.covariance.shape), rtol=2e-3, atol=1e-3
        )
        np.testing.assert_allclose(r.most, flat.max(axis=1), rtol=1e-3, atol=1e-4)
        assert r.samples == 70


def test_activated_goes_through_norm_to_the_activation_and_stops_where_others_read():
    assert activated(STRUCTURES["plain"](), "c1") == "r1"
    assert activated(STRUCTURES["residual_option_a"](), "c2") == "c2"
    assert activated(STRUCTURES["many_ends"](), "out1") == "out1"


def test_coverage_names_layers_whose_input_sees_all_already():
    small = weighted(net(conv("a", "x", 4, 5), conv("b", "a", 4, 5), conv("c", "b", 4, 3), conv("d", "c", 4, 1)))
    found = of(diagnose(Evidence(small)), "coverage")
    assert [f.layer for f in found] == ["c"]  # after a and b a pixel sees 9 of 8; 1x1 sees no more
    assert found[0].value == pytest.approx(9 / 8)


def test_hot_spots_hold_a_quarter_or_more():
    graph = weighted(STRUCTURES["plain"]())
    times = CallTimes((LayerTime("c1", ("c1",), 3.0, 0), LayerTime("c2", ("c2",), 1.0, 0)), 0, 0, 4.0, 1, 1, 100, 10)
    found = of(diagnose(Evidence(graph), times=times), "hot-spot")
    assert {(f.layer, f.evidence.split(" of the ")[1].split(":")[0]) for f in found} >= {
        ("c1", "measured time"), ("c2", "measured time"), ("c2", "MACs"),
    }  # fmt: skip
    assert all(f.value >= 0.25 for f in found)


def test_findings_are_sorted_and_serialise(planted):
    findings = diagnose(Evidence(planted, feed(planted, 8)["x"].astype(np.float32)))
    ranks = [SEVERITIES.index(f.severity) for f in findings]
    assert ranks == sorted(ranks, reverse=True)
    assert worst(findings) == "warning"
    assert worst([]) is None
    for f in findings:
        made = json.loads(json.dumps(f.to_dict()))
        assert made["kind"] in KINDS
        assert set(made) >= {"layer", "kind", "channels", "value", "threshold", "evidence"}


def test_bad_samples_are_refused(planted):
    x = feed(planted, 4)["x"].astype(np.float32)
    x[2, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="NaN"):
        diagnose(Evidence(planted, x))
    with pytest.raises(DataError, match="no samples"):
        diagnose(Evidence(planted, x[:0]))


def test_the_bound_is_the_rule_of_three():
    for n in (10, 100, 1000):
        p = bound_after_none(n)
        assert (1 - p) ** n == pytest.approx(0.05)
        assert p == pytest.approx(3 / n, rel=0.15)
    assert bound_after_none(0) == 1


def test_a_finding_is_frozen():
    f = Finding("a", "dead-proven", (1,), 1, 0, "x")
    with pytest.raises(AttributeError):
        f.layer = "b"  # pyright: ignore[reportAttributeAccessIssue]


def test_deep_networks_have_no_multiples_by_chance():
    """Factors shrink from layer to layer where weights are small; a bias must not hide the rows beside it."""
    nodes, last = [], "x"
    for i in range(6):
        nodes += [conv(f"c{i}", last, 8), N(f"b{i}", "batchnorm", f"c{i}"), N(f"r{i}", "relu", f"b{i}")]
        last = f"r{i}"
    graph = weighted(net(*nodes, N("g", "global_avgpool", last), N("f", "flatten", "g"), N("y", "dense", "f", out=4)))
    weights = {k: np.array(v) for k, v in graph.weights.items()}
    for i in range(6):
        weights[f"b{i}.weight"] = weights[f"b{i}.weight"] * 1e-3
        weights[f"c{i}.bias"] = np.zeros(8, np.float32)
    weights["y.bias"] = np.arange(1, 5).astype(np.float32)
    assert not of(diagnose(Evidence(graph.replace(weights=weights))), "duplicate")


def test_layers_far_below_the_peak_are_named_with_the_reason():
    graph = weighted(net(conv("a", "x", 8), N("f", "flatten", "a"), N("y", "dense", "f", out=64)))
    macs = {row.name: row.cost.macs for row in count(graph).layers}
    bytes_read = 4 * (graph.param_shapes["y.weight"][0] * (graph.param_shapes["y.weight"][1] + 1))
    moved = bytes_read + 4 * (graph.param_shapes["y.weight"][1] + 64)
    ms = {"a": 2 * macs["a"] / 100e6, "y": moved / 10e6}  # at the peak of 100 GFLOP/s; at the speed of memory

    def took(ms, gflops, gbs, doubt=None):
        rows = tuple(LayerTime(name, (name,), value, macs[name]) for name, value in ms.items())
        return CallTimes(rows, 0.0, 0.0, sum(ms.values()), 1, 1, gflops, gbs, doubt)

    found = far_below(graph, took(ms, 100.0, 10.0))
    assert [f.layer for f in found] == ["y"]
    assert found[0].value == pytest.approx(2 * macs["y"] / (ms["y"] * 1e6) / 100)
    assert "alone takes" in found[0].evidence
    assert not far_below(graph, took(ms, 100.0, 10.0, "the machine was busy"))  # no reason is invented
    by_time = [
        [f.layer for f in hot_spots(graph, took(ms, 100.0, 10.0, doubt)) if "measured time" in f.evidence]
        for doubt in (None, "the machine was busy")
    ]
    assert by_time == [["y"], []]
    short = far_below(graph, took({"a": 0.01, "y": 0.0005}, 1e6, 1e6))
    assert "too short" in short[0].evidence
    assert not far_below(graph, took({"a": 100.0, "y": 1.0}, 1e-3, 1e-3))  # nothing is below so low a peak
