"""Multiples and linear pairs merged: through everything that keeps a factor, and through nothing that does not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dojang.arith.channels import channels
from dojang.arith.graph import Graph
from dojang.engine.reference.operators import run_reference
from dojang.evidence.equal_channels import numbers
from dojang.evidence.evidence import Evidence
from dojang.slimming.duplicates import DUPLICATES
from dojang.slimming.linear import MERGE_LINEAR
from dojang.slimming.rewrite import cast, perform, relative_difference
from nets import STRUCTURES, N, conv, feed, net, weighted


def copy_rows(graph: Graph, layer: str, pairs: dict[int, tuple[int, float]]) -> Graph:
    """Rows of a layer replaced by multiples of others of its rows."""
    weights = {k: np.array(v) for k, v in graph.weights.items()}
    for target, (source, factor) in pairs.items():
        for role in ("weight", "bias"):
            name = f"{layer}.{role}"
            if name in weights:
                weights[name][target] = weights[name][source] * np.float32(factor)
    return graph.replace(weights=weights)


@pytest.mark.parametrize("name", STRUCTURES)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**31), part=st.sampled_from([0, 0.4]), factor=st.sampled_from([1.0, 2.5, -1.0]))
def test_equal_numbers_are_equal_functions(name, seed, part, factor):
    rng = np.random.default_rng(seed)
    graph = weighted(STRUCTURES[name](), seed)
    for node in graph.nodes:
        if node.op in ("conv", "dense") and node.attrs["out"] > 1:
            rows = {int(i): (int(rng.integers(node.attrs["out"])), factor)
                    for i in np.flatnonzero(rng.random(node.attrs["out"]) < part)}  # fmt: skip
            graph = copy_rows(graph, node.name, rows) if not node.arrays else graph
    tied = channels(graph)
    found = numbers(graph, tied)
    names = [n.name for n in graph.nodes]
    taps = run_reference(graph, feed(graph, 2, seed), np.float64, names).taps
    for n in names:
        own, track = found[n], tied.tracks[n]
        if own is None or track is None:
            continue
        flat = np.moveaxis(taps[n], track.axis, 0).reshape(len(own.ids), -1) / own.factors[:, None]
        scale = max(1e-9, np.abs(flat).max())
        for i in np.unique(own.ids):
            same = flat[own.ids == i]
            assert np.abs(same - same[0]).max() <= 3e-6 * scale, n
    applied = DUPLICATES.apply(Evidence(cast(graph, np.float64)))
    if applied is not None:
        assert relative_difference(graph, applied.graph, feed(graph, 2, seed)) < 1e-6
        assert DUPLICATES.apply(Evidence(applied.graph)) is None
    elif part == 0:
        assert applied is None


@pytest.mark.parametrize("between", ["relu", "leaky_relu", "identity", "sigmoid", "tanh"])
@pytest.mark.parametrize("factor", [1.0, 3.7, -1.0])
def test_multiples_pass_where_the_function_lets_them(between, factor):
    graph = weighted(
        net(conv("a", "x", 6), N("r", between, "a"), N("p", "maxpool", "r", kernel=(2, 2)), conv("y", "p", 3))
    )
    graph = copy_rows(graph, "a", {4: (1, factor), 5: (1, factor)})
    done = perform(DUPLICATES, Evidence(graph))
    left = done[0].graph["a"].attrs["out"] if done else 6
    factors_pass = between in ("relu", "leaky_relu", "identity") and factor > 0
    assert left == (4 if factors_pass or factor == 1 else 5)  # 4 and 5 equal each other in any case
    if done:
        assert done[1].ok, done[1].reason


def test_multiples_merge_through_flatten_and_residuals():
    graph = weighted(STRUCTURES["residual_option_a"]())
    for layer in ("c0", "c2"):
        graph = copy_rows(graph, layer, {3: (0, 1.0)})
    weights = {k: np.array(v) for k, v in graph.weights.items()}
    for role in ("weight", "bias", "running_mean", "running_var"):
        weights[f"b0.{role}"][3] = weights[f"b0.{role}"][0]
    graph = graph.replace(weights=weights)
    assert DUPLICATES.apply(Evidence(graph)) is None  # channel 3 also feeds c4's sum, where it has no twin
    weights["c4.weight"][2 + 3] = weights["c4.weight"][2]
    weights["c4.bias"][2 + 3] = weights["c4.bias"][2]
    done = perform(DUPLICATES, Evidence(graph.replace(weights=weights)))
    assert done is not None
    assert done[1].ok
    assert done[0].graph["c0"].attrs["out"] == 3
    assert done[0].graph["c4"].attrs["out"] == 7


def test_constants_of_one_sign_merge_over_padded_borders():
    graph = weighted(net(conv("a", "x", 6), N("r", "relu", "a"), conv("y", "r", 3)))
    weights = {k: np.array(v) for k, v in graph.weights.items()}
    weights["a.weight"][:3] = 0
    weights["a.bias"][:3] = [0.5, 1.25, 3]
    done = perform(DUPLICATES, Evidence(graph.replace(weights=weights)))
    assert done is not None
    assert done[1].ok
    assert done[0].graph["a"].attrs["out"] == 4


def test_a_narrow_pair_merges_and_a_bottleneck_stays():
    wide = weighted(net(conv("a", "x", 32), conv("b", "a", 4, 1, stride=2), N("r", "relu", "b"), conv("y", "r", 2)))
    done = perform(MERGE_LINEAR, Evidence(wide))
    assert done is not None
    assert done[1].ok
    assert [n.name for n in done[0].graph.nodes] == ["x", "b", "r", "y"]
    assert done[0].graph["b"].attrs["stride"] == (2, 2)
    assert MERGE_LINEAR.apply(Evidence(done[0].graph)) is None
    tight = weighted(net(conv("a", "x", 1), conv("b", "a", 16, 1), N("r", "relu", "b"), conv("y", "r", 2)))
    assert MERGE_LINEAR.apply(Evidence(tight)) is None


def test_dense_pairs_and_what_lies_between():
    pair = weighted(net(N("a", "dense", "x", out=9), N("y", "dense", "a", out=4, bias=False), shape=(5,)))
    done = perform(MERGE_LINEAR, Evidence(pair))
    assert done is not None
    assert done[1].ok
    assert done[0].graph.param_shapes == {"y.weight": (4, 5), "y.bias": (4,)}
    read_twice = weighted(net(conv("a", "x", 8), conv("b", "a", 2, 1), conv("c", "a", 2, 1), N("y", "add", "b", "c")))
    assert MERGE_LINEAR.apply(Evidence(read_twice)) is None
