"""Exact rewrites: the claim holds in float64, twice changes nothing more, cost never rises, waste is really cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dojang.arith.channels import channels
from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.engine.reference.operators import run_reference
from dojang.evidence.evidence import Evidence
from dojang.slimming.rewrite import cast, numbers_stored, perform, relative_difference
from dojang.slimming.search import EXACT
from nets import STRUCTURES, N, conv, feed, net, weighted

BY_NAME = {r.name: r for r in EXACT}


def plant(graph: Graph, seed: int, part: float) -> Graph:
    """Some output rows of layers zero, with a bias that makes them dead, constant, or zero; some norm scales zero."""
    rng = np.random.default_rng(seed)
    weights = {k: np.array(v) for k, v in graph.weights.items()}
    for node in graph.nodes:
        if node.op in ("conv", "dense"):
            rows = rng.random(node.attrs["out"]) < part
            weights[node.array("weight")][rows] = 0
            if node.attrs["bias"]:
                weights[node.array("bias")][rows] = rng.choice([0, -0.5, 0.75], rows.sum())
        if node.op == "batchnorm":
            rows = rng.random(len(weights[node.array("weight")])) < part
            weights[node.array("weight")][rows] = 0
            weights[node.array("bias")][rows] = rng.choice([0, -0.5, 0.75], rows.sum())
    return graph.replace(weights=weights)


@pytest.mark.parametrize("rewrite", EXACT, ids=lambda r: r.name)
@pytest.mark.parametrize("name", STRUCTURES)
@settings(max_examples=6)
@given(seed=st.integers(0, 2**31), part=st.sampled_from([0, 0.3, 0.7]))
def test_the_claim_holds_and_a_second_time_changes_nothing(rewrite, name, seed, part):
    graph = plant(weighted(STRUCTURES[name](), seed), seed, part)
    wide = cast(graph, np.float64)
    applied = rewrite.apply(Evidence(wide))
    if applied is None:
        return
    x = feed(graph, 2, seed)
    assert relative_difference(wide, applied.graph, x) < 1e-11
    assert applied.layers
    before, after = count(wide).total, count(applied.graph).total
    assert after.macs <= before.macs
    assert numbers_stored(applied.graph) <= numbers_stored(wide)
    assert rewrite.apply(Evidence(applied.graph)) is None
    done = perform(rewrite, Evidence(graph, samples=x))
    assert done is not None
    assert done[1].ok, done[1].reason
    assert {v.dtype for v in done[0].graph.weights.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", STRUCTURES)
def test_all_together_on_planted_waste(name):
    graph = cast(plant(weighted(STRUCTURES[name](), 3), 3, 0.5), np.float64)
    new = graph
    for rewrite in EXACT * 2:
        done = rewrite.apply(Evidence(new))
        new = done.graph if done else new
    assert relative_difference(graph, new, feed(graph, 3)) < 1e-11
    assert count(new).total.params < count(graph).total.params


def test_groups_of_a_norm_that_are_all_dead_go_and_the_others_stay_as_they_are():
    """Dead groups, half dead groups, and PyTorch's group norm as the oracle."""
    graph = cast(weighted(net(conv("c", "x", 12), N("n", "groupnorm", "c", groups=4), N("r", "relu", "n"),
                              conv("y", "r", 2, 1))), np.float64)  # fmt: skip
    arrays = {name: np.array(value) for name, value in graph.weights.items()}
    arrays["n.weight"][[3, 4, 5, 6]] = 0  # the whole of group 1, and one of three channels of group 2
    arrays["n.bias"][[3, 4, 5, 6]] = 0, -0.5, -1, -0.25
    arrays["y.weight"][:, 9:12] = 0  # nobody reads group 3
    graph = graph.replace(weights=arrays)
    done = BY_NAME["remove-dead-channels"].apply(Evidence(graph))
    assert done is not None
    assert (done.graph["c"].attrs["out"], done.graph["n"].attrs["groups"]) == (6, 2)
    x = feed(graph, 2)
    t = {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}
    hidden = torch.conv2d(torch.from_numpy(x["x"]), t["c.weight"], t["c.bias"], padding=1)
    hidden = torch.nn.functional.group_norm(hidden, 4, t["n.weight"], t["n.bias"]).relu()
    wanted = torch.conv2d(hidden, t["y.weight"], t["y.bias"])
    np.testing.assert_allclose(run_reference(done.graph, x).outputs[0], wanted.numpy(), rtol=1e-9, atol=1e-11)


def test_without_waste_only_folding_and_identities_find_anything():
    for build in STRUCTURES.values():
        graph = weighted(build())
        if build.__name__ == "sliced":
            continue  # its slices leave channels unread by construction
        assert BY_NAME["remove-dead-channels"].apply(Evidence(graph)) is None, build.__name__
        assert BY_NAME["absorb-constant-channels"].apply(Evidence(graph)) is None, build.__name__


def test_every_channel_that_is_dead_is_cut():
    graph = weighted(STRUCTURES["plain"]())
    weights = {k: np.array(v) for k, v in graph.weights.items()}
    weights["b1.weight"][[0, 4]] = 0
    weights["b1.bias"][[0, 4]] = [-1, 0]  # dead after relu
    weights["c2.weight"][3] = 0
    weights["b2.weight"][3], weights["b2.bias"][3] = 1, -2
    weights["b2.running_mean"][3] = 0
    weights["d1.weight"][7], weights["d1.bias"][7] = 0, -1
    applied = BY_NAME["remove-dead-channels"].apply(Evidence(graph.replace(weights=weights)))
    assert applied is not None
    new = applied.graph
    assert [new[n].attrs["out"] for n in ("c1", "c2", "d1")] == [4, 7, 9]
    assert new.param_shapes["d1.weight"] == (9, 7 * 4)
    assert applied.layers == ("c1", "c2", "d1")


def test_unread_columns_count_as_dead_only_when_all_readers_ignore_them():
    graph = weighted(STRUCTURES["cat_twice"]())
    weights = {k: np.array(v) for k, v in graph.weights.items()}
    weights["c.weight"][:, 1] = 0  # r, channel 1, first place; still read at place 7 + 1 and by b
    dead = BY_NAME["remove-dead-channels"]
    assert dead.apply(Evidence(graph.replace(weights=weights))) is None
    weights["c.weight"][:, 8] = 0
    weights["b.weight"][:, 1] = 0
    applied = dead.apply(Evidence(graph.replace(weights=weights)))
    assert applied is not None
    assert applied.graph["a"].attrs["out"] == 3


def constant_net(padding: int, values: list[float], groups: int = 1) -> Graph:
    graph = weighted(net(conv("a", "x", 6), N("r", "relu", "a"), conv("b", "r", 4, groups=groups, padding=padding, bias=False), conv("y", "b", 3, 1)))  # fmt: skip  # noqa: E501
    weights = {k: np.array(v) for k, v in graph.weights.items()}
    for i, value in enumerate(values):
        weights["a.weight"][i], weights["a.bias"][i] = 0, value
    return graph.replace(weights=weights)


@pytest.mark.parametrize(
    ("padding", "values", "left"),
    [
        (0, [0.5], 5),  # into the bias
        (0, [0.5, 2.0, 0.25], 3),
        (1, [0.5], 6),  # a border: one constant channel cannot go
        (1, [0.5, 2.0, 0.25], 4),  # three become one
        (1, [0.5, -1.0], 5),  # the negative one is dead after relu, the other stays
    ],
)
def test_constants_are_exact_at_padded_borders(padding, values, left):
    graph = cast(constant_net(padding, values), np.float64)
    new = graph
    for rewrite in EXACT:
        done = rewrite.apply(Evidence(new))
        new = done.graph if done else new
    assert new["a"].attrs["out"] == left
    assert relative_difference(graph, new, feed(graph)) < 1e-12


def test_moving_a_constant_into_the_bias_across_padding_would_be_wrong():
    """The trap itself, so that the test above cannot pass by accident."""
    graph = cast(constant_net(1, [0.5]), np.float64)
    weights = {k: np.array(v) for k, v in graph.weights.items()}
    naive = weights["b.weight"][:, 0].sum(axis=(1, 2)) * 0.5
    weights["b.weight"][:, 0] = 0
    nodes = tuple(n.with_attrs(bias=True) if n.name == "b" else n for n in graph.nodes)
    assert (
        relative_difference(graph, graph.replace(nodes=nodes, weights={**weights, "b.bias": naive}), feed(graph)) > 0.01
    )


def test_constants_of_different_groups_do_not_mix():
    graph = cast(constant_net(1, [0.5, 0, 0, 2.0], groups=2), np.float64)
    weights = {k: np.array(v) for k, v in graph.weights.items()}
    graph = graph.replace(weights=weights)
    done = BY_NAME["absorb-constant-channels"].apply(Evidence(graph))
    assert done is None or relative_difference(graph, done.graph, feed(graph)) < 1e-12


def test_proofs_use_the_range_of_the_input():
    graph = weighted(net(conv("a", "x", 3, 1), N("r", "relu", "a"), conv("y", "r", 2, 1)))
    weights = {k: np.array(v) for k, v in graph.weights.items()}
    weights["a.weight"][:] = 0.1
    weights["a.bias"][:] = [-0.5, -0.1, 0.1]  # 3 · 0.1 · 1 - 0.5 < 0
    graph = graph.replace(weights=weights)
    dead = BY_NAME["remove-dead-channels"]
    assert dead.apply(Evidence(graph)) is None
    done = perform(dead, Evidence(graph, input_range={"x": (0, 1)}))
    assert done is not None
    assert done[0].graph["a"].attrs["out"] == 2
    assert done[1].ok


def test_a_wrong_rewrite_fails_its_check():
    from dojang.slimming.rewrite import Applied, Rewrite

    graph = weighted(STRUCTURES["plain"]())

    def wrong(known):
        graph = known.graph
        weights = {k: np.array(v) for k, v in graph.weights.items()}
        weights["d2.weight"][0, 0] += 0.01
        return Applied(graph.replace(weights=weights), ("d2",))

    done = perform(Rewrite("wrong", "exact", "", wrong), Evidence(graph))
    assert done is not None
    assert not done[1].ok
    assert "differ" in done[1].reason


def test_padding_is_written_into_the_convolution():
    nodes = (
        N("p", "pad", "x", pads=((2, 1), (0, 1))), conv("c", "p", 4, padding=1), N("i", "identity", "c"),
        N("d", "dropout", "i"), N("r", "relu", "d"), N("r2", "relu", "r"), conv("y", "r2", 2),
    )  # fmt: skip
    graph = weighted(net(*nodes))
    applied = BY_NAME["remove-identities"].apply(Evidence(graph))
    assert applied is not None
    assert [n.name for n in applied.graph.nodes] == ["x", "c", "r", "y"]
    assert applied.graph["c"].attrs["padding"] == ((3, 2), (1, 2))
    assert relative_difference(cast(graph, np.float64), cast(applied.graph, np.float64), feed(graph)) < 1e-12


def test_layers_that_no_output_needs_are_dropped():
    graph = weighted(net(conv("a", "x", 4), conv("lost", "a", 4), conv("y", "a", 2), outputs=("y",)))
    applied = BY_NAME["remove-identities"].apply(Evidence(graph))
    assert applied is not None
    assert "lost" not in applied.graph.by_name
    assert "lost.weight" not in applied.graph.weights


def test_norms_that_must_stay_are_left_alone():
    own = {r: f"b.{r}" for r in ("weight", "bias", "running_mean", "running_var")}
    graph = weighted(net(
        conv("a", "x", 4), N("b", "batchnorm", "a"), conv("c", "b", 4), N("b2", "batchnorm", "c", arrays=own),
        conv("d", "b2", 4), N("b3", "batchnorm", "d"), N("s", "add", "b3", "d"), conv("y", "s", 2),
    ))  # fmt: skip
    assert BY_NAME["fold-batchnorm"].apply(Evidence(graph)) is None


def test_outputs_keep_their_shape_and_names():
    graph = plant(weighted(STRUCTURES["many_ends"]()), 1, 0.5)
    new = graph
    for rewrite in EXACT:
        done = rewrite.apply(Evidence(new))
        new = done.graph if done else new
    assert new.outputs == graph.outputs
    shapes = [o.shape for o in run_reference(new, feed(new)).outputs]
    assert shapes == [o.shape for o in run_reference(graph, feed(graph)).outputs]
    assert set(channels(new).tracks) == {n.name for n in new.nodes}
