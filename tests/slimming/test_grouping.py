"""A trained layer in groups: planted blocks are found again, orders are absorbed, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dojang.arith.channels import channels
from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.engine.reference.operators import run_reference
from dojang.evidence.evidence import Evidence
from dojang.slimming.grouping import grouped, options, wants_mixer
from dojang.slimming.importance import read_statistics
from dojang.slimming.permute import permuted
from dojang.slimming.rewrite import cast, relative_difference
from nets import STRUCTURES, N, conv, feed, net, weighted


@pytest.mark.parametrize("name", STRUCTURES)
@settings(max_examples=6)
@given(seed=st.integers(0, 2**31))
def test_a_permutation_changes_nothing_or_is_refused(name, seed):
    graph = cast(weighted(STRUCTURES[name](), seed), np.float64)
    tied, rng = channels(graph), np.random.default_rng(seed)
    for node in graph.nodes:
        track = tied.tracks[node.name]
        if track is None:
            continue
        new = permuted(graph, tied, node.name, rng.permutation(len(track.classes)).tolist())
        if new is not None:
            assert new.nodes == graph.nodes
            assert relative_difference(graph, new, feed(graph, 2, seed)) < 1e-12, node.name


def test_what_can_be_permuted_is():
    plain = weighted(STRUCTURES["plain"]())
    tied = channels(plain)
    for name in ("c1", "p1", "c2", "d1"):
        size = len(tied.tracks[name].classes)
        assert permuted(plain, tied, name, list(range(size))[::-1]) is not None
    for name in ("x", "d2"):
        size = len(tied.tracks[name].classes)
        assert permuted(plain, tied, name, list(range(size))[::-1]) is None
    option_a = weighted(STRUCTURES["residual_option_a"]())
    tied = channels(option_a)
    assert permuted(option_a, tied, "c1", [3, 2, 1, 0]) is not None
    assert permuted(option_a, tied, "c0", [3, 2, 1, 0]) is None  # shares a value with channels of padding


def seen(graph: Graph, x: np.ndarray) -> dict[str, np.ndarray]:
    return dict(run_reference(graph, x, taps=[n.name for n in graph.nodes]).taps)


def planted(groups: int, width: int = 16, mixer: bool = True) -> Graph:
    after = conv("y", "r2", 3, 3 if mixer else 1)
    graph = weighted(
        net(conv("a", "x", width), N("r", "relu", "a"), conv("b", "r", width), N("r2", "relu", "b"), after)
    )
    rng = np.random.default_rng(groups)
    rows, columns = (rng.permutation(width) % groups for _ in range(2))
    weights = {k: np.array(v) for k, v in graph.weights.items()}
    weights["b.weight"][rows[:, None] != columns] = 0
    weights["a.bias"][:] = 0.5  # every channel fires
    return graph.replace(weights=weights)


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("mixer", [True, False])
def test_planted_groups_are_found_and_nothing_is_lost(groups, mixer):
    graph = planted(groups, mixer=mixer)
    assert wants_mixer(graph, graph["b"]) == mixer
    x = feed(graph, 40)["x"].astype(np.float32)
    tied = channels(graph)
    made = grouped(graph, tied, graph["b"], groups, read_statistics(Evidence(graph, x)), seen(graph, x), mixer)
    assert made is not None
    new = made.graph
    assert "100%" in made.found
    layer = new["b_groups" if mixer else "b"]
    assert layer.attrs["groups"] == groups
    assert ("gather" in {n.op for n in new.nodes}) is False  # nothing is shuffled at run time
    assert relative_difference(graph, new, feed(graph, 3, 7)) < (0.03 if mixer else 1e-5)  # the mixer's ridge
    assert count(new).total.macs < count(graph).total.macs


def test_a_dense_layer_in_groups_keeps_more_than_the_naive_split():
    graph = weighted(
        net(conv("a", "x", 16), N("r", "relu", "a"), conv("b", "r", 16), N("r2", "relu", "b"), conv("y", "r2", 3))
    )
    x = feed(graph, 40)["x"].astype(np.float32)
    stats = read_statistics(Evidence(graph, x))
    taps = run_reference(graph, x, taps=("b",)).taps["b"]
    naive = np.array(graph.weights["b.weight"])
    naive[(np.arange(16) // 4)[:, None] != np.arange(16) // 4] = 0
    plain = run_reference(graph.replace(weights={**graph.weights, "b.weight": naive}), x, taps=("b",)).taps["b"]
    worst = np.abs(plain - taps).mean()
    made = options(graph, channels(graph), graph["b"], stats, seen(graph, x))
    four = next(form.graph for form in made if "4 groups" in form.found)
    assert np.abs(run_reference(four, x, taps=("b",)).taps["b"] - taps).mean() < worst


def test_layers_that_cannot_be_grouped_are_left():
    graph = weighted(STRUCTURES["plain"]())
    x = feed(graph, 8)["x"].astype(np.float32)
    stats = read_statistics(Evidence(graph, x))
    assert (
        options(graph, channels(graph), graph["c1"], stats, seen(graph, x)) == []
    )  # three pictures in: no order of theirs can change
