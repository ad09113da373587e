"""Removal against an independent oracle: the original network in which every reader ignores the channels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dojang.arith.channels import ChannelMap, channels
from dojang.arith.cost import count
from dojang.arith.cut import cut
from dojang.arith.graph import Graph
from dojang.base.errors import GraphError
from dojang.engine.reference.operators import run_reference
from nets import STRUCTURES, N, conv, feed, net, weighted


def ignoring(graph: Graph, tied: ChannelMap, gone: set[int]) -> Graph:
    """The network with the columns zeroed by which conv and dense layers read the channels of `gone`."""
    weights = {k: np.array(v) for k, v in graph.weights.items()}
    for node in graph.nodes:
        if node.op not in ("conv", "conv_transpose", "dense"):
            continue
        track, weight = tied.tracks[node.inputs[0]], weights[node.array("weight")]
        for place, label in enumerate(track.classes if track else ()):
            if label not in gone:
                continue
            if node.op == "conv_transpose":
                weight[place] = 0
            elif node.op == "dense" or node.attrs["groups"] == 1:
                weight[:, place] = 0
            else:
                size = weight.shape[1]
                rows = weight.shape[0] // node.attrs["groups"]
                weight[place // size * rows : (place // size + 1) * rows, place % size] = 0
    return graph.replace(weights=weights)


def assert_cut_right(graph: Graph, tied: ChannelMap, gone: tuple[int, ...]) -> Graph:
    narrow = cut(graph, gone, tied)
    x = feed(graph)
    wanted = run_reference(ignoring(graph, tied, set(gone)), x, np.float64).outputs
    got = run_reference(narrow, x, np.float64).outputs
    for a, b in zip(wanted, got, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)
    before, after = count(graph).total, count(narrow).total
    assert after.params <= before.params
    assert after.macs <= before.macs
    if gone:
        assert after.params < before.params
    bare = cut(graph.replace(weights={}), gone)
    assert bare.nodes == narrow.nodes
    return narrow


@pytest.mark.parametrize("name", STRUCTURES)
@settings(max_examples=12)
@given(data=st.data())
def test_any_fitting_removal_equals_the_network_that_ignores_the_channels(name, data):
    graph = weighted(STRUCTURES[name]())
    tied = channels(graph)
    wish = data.draw(st.lists(st.sampled_from(tied.removable), unique=True))
    gone = tied.fit(wish)
    assert set(gone) <= set(wish)
    assert_cut_right(graph, tied, gone)


@pytest.mark.parametrize("name", STRUCTURES)
def test_wishing_everything_away_leaves_a_valid_network(name):
    graph = weighted(STRUCTURES[name]())
    tied = channels(graph)
    gone = tied.fit(tied.removable)
    assert gone
    narrow = assert_cut_right(graph, tied, gone)
    for _ in range(3):  # a narrower network can be freer: a depthwise layer of one group ties nothing any more
        again = channels(narrow)
        more = again.fit(again.removable)
        if not more:
            break
        narrow = assert_cut_right(narrow, again, more)
    assert more == ()


def test_each_single_class_alone_where_groups_allow():
    for build in STRUCTURES.values():
        graph = weighted(build())
        tied = channels(graph)
        for label in tied.removable:
            if tied.fit([label]):
                assert_cut_right(graph, tied, (label,))


def test_option_a_ties_the_trunk_and_frees_what_the_padding_adds():
    tied = channels(STRUCTURES["residual_option_a"]())
    assert tied.members[tied.tracks["c0"].classes[1]] == (("c0", 1), ("c2", 1), ("c4", 3))
    assert tied.members[tied.tracks["c4"].classes[0]] == (("c4", 0), ("z", 0))
    graph = cut(tied.graph, [tied.tracks["c4"].classes[0], tied.tracks["c0"].classes[1]], tied)
    assert graph["z"].attrs["pads"] == ((1, 2), (0, 0), (0, 0))


def test_grouped_layers_lose_whole_groups_or_equally_many_from_each():
    tied = channels(STRUCTURES["grouped"]())
    first = tied.tracks["g1"].classes
    assert tied.fit([first[0]]) == ()  # one output of one group of g1
    one_each = [first[0], first[4], first[7], first[9]]
    kept = tied.fit(one_each)
    assert sorted(kept) == sorted(one_each)
    assert cut(tied.graph, kept, tied)["g1"].attrs["groups"] == 4


def test_a_group_whose_inputs_and_outputs_all_go_is_dropped():
    graph = net(conv("a", "x", 6), conv("g", "a", 6, groups=3), conv("y", "g", 2, 1))
    tied = channels(graph)
    whole = [*tied.tracks["a"].classes[2:4], *tied.tracks["g"].classes[2:4]]
    narrow = cut(graph, whole, tied)
    assert narrow["g"].attrs["groups"] == 2
    assert narrow.param_shapes["g.weight"] == (4, 2, 3, 3)


def test_a_slice_that_loses_its_rhythm_becomes_a_gather():
    tied = channels(STRUCTURES["sliced"]())
    a = tied.tracks["a"].classes
    narrow = cut(tied.graph, tied.fit([a[2], a[8]]), tied)  # places 1 and 4 of "even"
    assert narrow["even"].op == "gather"


def test_frozen_classes_name_the_node():
    tied = channels(STRUCTURES["constants"]())
    assert "ln: normalises over neighbouring channels" in tied.frozen[tied.tracks["b"].classes[0]]
    assert "y: is an output" in tied.frozen[tied.tracks["y"].classes[0]]
    assert "x: is an input" in tied.frozen[tied.tracks["x"].classes[0]]
    with pytest.raises(GraphError, match="normalises over neighbouring channels"):
        cut(tied.graph, [tied.tracks["b"].classes[0]], tied)


def test_what_cannot_be_followed_is_frozen_and_the_rest_still_goes():
    graph = net(
        conv("a", "x", 4), N("u", "unknown", "a", kind="Strange"), conv("b", "x", 4), N("r", "relu", "b"),
        conv("y", "r", 2), outputs=("u", "y"),
    )  # fmt: skip
    tied = channels(graph)
    assert set(tied.tracks["a"].classes) <= set(tied.frozen)
    assert tied.fit(tied.tracks["b"].classes[:2]) == tied.tracks["b"].classes[:2]


def test_shared_arrays_used_in_unlike_ways_are_frozen():
    nodes = (
        N("x", "input", shape=(4, 5, 5)), conv("a", "x", 2, 1), conv("g", "x", 4, 1, groups=2),
        N("d", "conv", "a", out=4, kernel=(1, 1), arrays={"weight": "g.weight", "bias": "g.bias"}),
        N("s", "add", "g", "d"), conv("y", "s", 2),
    )  # fmt: skip
    graph = Graph(nodes, ("y",))
    tied = channels(graph)
    assert all("differently" in tied.frozen[c] for c in tied.tracks["a"].classes)


def test_invalid_removals_are_refused():
    graph = STRUCTURES["grouped"]()
    tied = channels(graph)
    with pytest.raises(GraphError, match="unequal or empty"):
        cut(graph, [tied.tracks["g1"].classes[0]], tied)
    with pytest.raises(GraphError, match="unequal or empty"):
        cut(graph, tied.tracks["a"].classes, tied)
    with pytest.raises(GraphError, match="not one of"):
        cut(graph, [10_000], tied)


def test_bundles_hold_comparable_classes():
    tied = channels(STRUCTURES["residual_option_a"]())
    sizes = sorted(len(b) for b in tied.bundles)
    assert sizes == [4, 4, 4, 8]  # trunk, padding-born, c1, c3
