"""Bounds hold for every input within the range, in float64 and float32, and are tight where weights make them so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dojang.arith.channels import channels
from dojang.engine.reference.operators import run_reference
from dojang.evidence.intervals import ranges
from nets import STRUCTURES, N, conv, feed, net, weighted


def along(value: np.ndarray, axis: int | None) -> np.ndarray:
    """(channels, everything else)."""
    return value.reshape(1, -1) if axis is None else np.moveaxis(value, axis, 0).reshape(value.shape[axis], -1)


@pytest.mark.parametrize("name", STRUCTURES)
@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), width=st.floats(0, 3), shift=st.floats(-2, 2), zeros=st.floats(0, 0.9))
def test_values_stay_within_their_ranges(name, seed, width, shift, zeros):
    graph = weighted(STRUCTURES[name](), seed)
    rng = np.random.default_rng(seed)
    weights = {}
    for k, v in graph.weights.items():  # whole rows zero, so that constants and dead channels arise
        rows = rng.random(v.shape[0]) < zeros
        weights[k] = np.where(rows.reshape(-1, *([1] * (v.ndim - 1))) & (not k.endswith("var")), 0, v).astype(v.dtype)
    graph = graph.replace(weights=weights)
    x = {k: np.clip(v * width + shift, shift - width, shift + width) for k, v in feed(graph, 3, seed).items()}
    bound = ranges(graph, dict.fromkeys(x, (shift - width, shift + width)))
    tied, names = channels(graph), [n.name for n in graph.nodes]
    for dtype in (np.float64, np.float32):
        inputs = {k: v.astype(dtype).clip(np.float32(shift - width), np.float32(shift + width)) for k, v in x.items()}
        taps = run_reference(graph, inputs, dtype, names).taps
        for n in names:
            track, r = tied.tracks[n], bound[n]
            values = along(taps[n].astype(np.float64), track.axis if track else None)
            slack = r.err if dtype == np.float32 else 0
            slack = slack + 1e-6 * np.maximum(1, np.abs(values).max(1))
            assert (values.min(1) >= r.lo - slack).all(), n
            assert (values.max(1) <= r.hi + slack).all(), n
            assert (values[r.zero] == 0).all(), n
            if dtype == np.float64:
                spread = values.max(1) - values.min(1)
                assert (spread[r.constant] <= 1e-9).all(), n


def test_without_a_range_zero_rows_are_still_proved():
    graph = weighted(net(conv("a", "x", 4), N("r", "relu", "a"), conv("b", "r", 3), N("s", "sigmoid", "b")))
    weights = {k: v.copy() for k, v in graph.weights.items()}
    weights["a.weight"][1], weights["a.bias"][1] = 0, -0.25  # dead after relu
    weights["a.weight"][2], weights["a.bias"][2] = 0, 0.5  # constant
    weights["b.weight"][0, [0, 3]] = 0  # reads only the dead and the constant one
    found = ranges(graph.replace(weights=weights))
    assert found["r"].zero.tolist() == [False, True, False, False]
    assert found["r"].constant.tolist() == [False, True, True, False]
    assert found["b"].constant.tolist() == [False, False, False]  # zero padding makes the border differ
    assert np.isfinite([found["b"].lo[0], found["b"].hi[0]]).all()
    assert not np.isfinite(found["b"].hi[1])
    assert ((found["s"].lo >= 0) & (found["s"].hi <= 1 + 1e-6)).all()


def test_pictures_are_taken_as_zero_to_one():
    graph = weighted(net(conv("a", "x", 2, 1), N("r", "relu", "a")))
    nodes = (N("x", "input", shape=(3, 8, 8), mean=(0.5,), std=(0.25,)), *graph.nodes[1:])
    weights = {"a.weight": np.full((2, 3, 1, 1), 0.1, np.float32), "a.bias": np.array([-0.7, -0.5], np.float32)}
    found = ranges(graph.replace(nodes=nodes, weights=weights))
    np.testing.assert_allclose(found["a"].hi, [-0.1, 0.1], atol=1e-7)  # 3 · 0.1 · 2 = 0.6
    assert found["r"].zero.tolist() == [True, False]


def test_a_bound_within_rounding_of_zero_proves_nothing():
    graph = weighted(net(conv("a", "x", 1, 1), N("r", "relu", "a")))
    weights = {"a.weight": np.full((1, 3, 1, 1), 1.0, np.float32), "a.bias": np.array([-3.0], np.float32)}
    found = ranges(graph.replace(weights=weights), {"x": (0.0, 1.0)})
    assert found["a"].hi[0] == 0
    assert not found["r"].zero[0]
