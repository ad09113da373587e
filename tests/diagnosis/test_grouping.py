"""Low correlation against networks whose groups are known, and its figures against NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dojang.arith.graph import Graph
from dojang.diagnosis import diagnose
from dojang.diagnosis.grouping import groupings, low_correlation, probability, student_tail
from dojang.engine.reference.operators import run_reference
from dojang.evidence.blocks import balanced
from dojang.evidence.evidence import Evidence
from dojang.evidence.patches import WIDEST
from dojang.evidence.splits import (
    best_split,
    channel_variances,
    permuted_inputs,
    random_split,
    relative_change,
    rotated,
)
from nets import N, conv, feed, net, weighted
from planted_groups import Drawn, grouped_already, planted, untrained


def told(drawn: Drawn) -> dict[str, int]:
    """Numbers of groups by layer."""
    found = low_correlation(groupings(Evidence(drawn.graph, drawn.x)))
    return {finding.layer: finding.details["groups"] for finding in found}


def test_untrained_networks_are_not_called_groupable():
    flagged = [drawn.said for seed in range(6) if told(drawn := untrained(seed, 64))]
    assert len(flagged) <= 1, flagged  # 5 % each: two of six have a chance of 3 %


@pytest.mark.parametrize("groups", [2, 4, 8])
def test_planted_groups_are_found_with_their_number(groups):
    for seed in range(2):
        drawn = planted(seed, groups, 64)
        assert told(drawn) == {"b": groups}, drawn.said


def test_grouped_layers_are_not_called_groupable():
    for groups in (2, 4, 8):
        assert "b" not in told(grouped_already(0, groups, 64))


def test_the_finding_says_its_figures():
    drawn = planted(0, 4, 64)
    (found,) = (f for f in diagnose(Evidence(drawn.graph, drawn.x)) if f.kind == "low-correlation")
    details = found.details
    assert details["groups"] == 4
    assert details["output_change"] == found.value <= found.threshold < details["random_output_change"]
    assert (details["fit_samples"], details["judge_samples"]) == (32, 32)
    assert details["confidence"] == 0.95
    assert "32 others" in found.evidence
    assert f"all {details['layers_judged']} convolutions" in found.evidence
    assert found.to_dict()["details"] == details


def patches_by_numpy(graph: Graph, x: np.ndarray) -> np.ndarray:
    """All patches (n, places, ic · 9) of layer `b`: 3x3, padded by 1, stride 1."""
    value = run_reference(graph, x, np.float64, (graph["b"].inputs[0],)).taps[graph["b"].inputs[0]]
    padded = np.pad(value, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))  # (n, ic, h, w, 3, 3)
    return np.moveaxis(windows, 1, 3).reshape(len(x), -1, value.shape[1] * 9)


def small() -> tuple[Graph, np.ndarray]:
    graph = weighted(net(conv("a", "x", 6), N("r", "relu", "a"), conv("b", "r", 4)))
    return graph, feed(graph, 70)["x"].astype(np.float32)


def test_patches_are_those_of_numpy_on_two_halves():
    graph, x = small()
    found = Evidence(graph, x).patches(["b"])["b"]
    whole = patches_by_numpy(graph, x)
    for half, own in ((found.fit, whole[::2]), (found.judge, whole[1::2])):
        rows = own.reshape(-1, whole.shape[2])
        assert (half.samples, half.rows) == (35, 35 * 64)
        np.testing.assert_allclose(half.mean, rows.mean(axis=0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(half.covariance, np.cov(rows.T, bias=True), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("attrs", [{"stride": 2, "padding": ((0, 1), (2, 0))}, {"dilation": 2}, {"padding": 0}])
def test_patches_times_weights_are_the_layer(attrs):
    graph = weighted(net(conv("a", "x", 6), conv("b", "a", 4, **attrs)))
    x = feed(graph, 10)["x"].astype(np.float32)
    found = Evidence(graph, x).patches(["b"])["b"]
    y = run_reference(graph, x, np.float64, ("b",)).taps["b"]
    flat = np.asarray(graph.weights["b.weight"], np.float64).reshape(4, -1)
    for half, own in ((found.fit, y[::2]), (found.judge, y[1::2])):
        rows = np.moveaxis(own, 1, -1).reshape(-1, 4)
        np.testing.assert_allclose(flat @ half.mean + graph.weights["b.bias"], rows.mean(axis=0), atol=1e-4)
        np.testing.assert_allclose(flat @ half.covariance @ flat.T, np.cov(rows.T, bias=True), rtol=1e-3, atol=1e-4)


def test_the_change_of_the_outputs_is_that_of_least_squares_by_numpy():
    graph, x = small()
    kernel = np.asarray(graph.weights["b.weight"], np.float64)
    patches = Evidence(graph, x).patches(["b"])["b"]
    split = best_split(kernel, channel_variances(patches.fit, 6), 2)
    fit, judge = (own.reshape(-1, 54) for own in (patches_by_numpy(graph, x)[::2], patches_by_numpy(graph, x)[1::2]))
    flat, lost, whole = kernel.reshape(4, -1), 0.0, 0.0
    for output in range(4):
        read = np.repeat(split.rows == split.columns[output], 9)
        solved = np.linalg.lstsq(np.c_[fit[:, read], np.ones(len(fit))], fit @ flat[output], rcond=None)[0]
        y = judge @ flat[output]
        lost += np.square(y - np.c_[judge[:, read], np.ones(len(judge))] @ solved).mean()
        whole += y.var()
    assert relative_change(kernel, split, patches) == pytest.approx(lost / whole, rel=0.05)  # the fit has a ridge
    assert lost / whole > 0.05


def test_layers_without_groups_keep_the_spectrum_or_the_kernels():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(8, 6, 3, 3)) * rng.uniform(0.1, 3, (8, 1, 1, 1))
    turned = rotated(kernel, np.zeros(8, int), rng).reshape(8, -1)
    flat = kernel.reshape(8, -1)
    np.testing.assert_allclose(turned.T @ turned, flat.T @ flat, atol=1e-10)
    assert not np.allclose(turned, flat)
    mixed = permuted_inputs(kernel, np.arange(6) % 2, rng)
    for output in range(8):
        for group in range(2):
            ours, theirs = (sorted(k[output, group::2].sum(axis=(1, 2))) for k in (mixed, kernel))
            np.testing.assert_allclose(ours, theirs)
    assert not np.allclose(mixed, kernel)


def test_dead_channels_are_shared_out_and_groups_stay_equal():
    rng = np.random.default_rng(0)
    kernel, variance = rng.normal(size=(16, 12, 3, 3)), np.ones(12)
    kernel[::2], variance[1::2] = 0, 0
    for split in (best_split(kernel, variance, 4), random_split(kernel, variance, 4, rng)):
        assert np.bincount(split.rows).tolist() == [3] * 4
        assert np.bincount(split.columns).tolist() == [4] * 4
        assert sorted(np.bincount(split.columns[1::2]).tolist()) == [2] * 4
        assert sorted(np.bincount(split.rows[::2]).tolist()) == [1, 1, 2, 2]
    assert sorted(np.bincount(balanced(rng.random((10, 4)))).tolist()) == [2, 2, 3, 3]


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 10, 15])
def test_the_tail_is_students(freedom):
    for t in (-3.0, -0.2, 0.0, 0.5, 2.0, 6.0):
        assert student_tail(t, freedom) == pytest.approx(stats.t.sf(t, freedom), abs=1e-12)


def test_the_probability_is_that_of_a_new_draw():
    """Values drawn like the others are below the level as often as it says."""
    rng = np.random.default_rng(0)
    draws = np.exp(rng.normal(size=(2000, 9)))
    below = np.mean([probability(own[0], own[1:].tolist()) < 0.05 for own in draws])
    assert below == pytest.approx(0.05, abs=0.02)
    assert stats.ttest_ind([np.log(0.01)], np.log(draws[0, 1:]), alternative="less").pvalue == pytest.approx(
        probability(0.01, draws[0, 1:].tolist())
    )


def test_what_is_not_judged_is_told():
    wide = 2 * (WIDEST // 18 + 1)
    graph = weighted(net(conv("a", "x", wide), conv("b", "a", 4), N("t", "conv_transpose", "b", out=4, kernel=(2, 2))))
    found = groupings(Evidence(graph, feed(graph, 4)["x"].astype(np.float32)))
    assert set(found.left_out) == {"a", "b", "t"}  # of a: the input has 3 channels
    assert not found.judged
    assert any(one.layer == "b" and one.reason.startswith(f"{9 * wide} numbers") for one in found.not_judged())
    one = weighted(net(conv("a", "x", 4), conv("b", "a", 4)))
    assert "one sample" in groupings(Evidence(one, feed(one, 1)["x"].astype(np.float32))).left_out["b"]
