"""Replacements fitted on activations: exact where the rank is planted, optimal elsewhere, never invalid."""

from __future__ import annotations

import numpy as np
import pytest

from digits import TRAIN, accuracy, digits, random_features
from dojang.arith.channels import channels
from dojang.arith.cost import count
from dojang.engine.reference.operators import run_reference
from dojang.evidence.evidence import Evidence
from dojang.slimming.importance import importance, read_statistics
from dojang.slimming.narrow import least_useful, remove
from dojang.slimming.rewrite import relative_difference
from dojang.slimming.structural import bottleneck, candidates, pooled_head, separable
from nets import STRUCTURES, N, conv, feed, net, weighted


def planted(seed: int = 0):
    """b has outputs of rank 3, c a kernel that is a sum of two products of a column and a row."""
    graph = weighted(net(conv("a", "x", 12), N("r", "relu", "a"), conv("b", "r", 16, stride=2), N("r2", "relu", "b"),
                         conv("c", "r2", 8, stride=(2, 1)), N("y", "tanh", "c"), shape=(3, 12, 12)), seed)  # fmt: skip
    rng = np.random.default_rng(seed)
    weights = {k: np.array(v) for k, v in graph.weights.items()}
    weights["b.weight"] = np.tensordot(rng.normal(size=(16, 3)), rng.normal(size=(3, 12, 3, 3)), 1).astype(np.float32)
    weights["c.weight"] = sum(
        np.einsum("ih,ow->oihw", rng.normal(size=(16, 3)), rng.normal(size=(8, 3))) for _ in range(2)
    ).astype(np.float32)
    return graph.replace(weights=weights)


def test_a_planted_rank_is_found_and_nothing_is_lost():
    graph = planted()
    x = feed(graph, 16)["x"].astype(np.float32)
    found = {(c.rewrite, c.layers): c for c in candidates(Evidence(graph, x))}
    low = found["bottleneck", ("b",)]
    assert low.graph["b_reduce"].attrs["out"] <= 3
    flat = found["separable-kernels", ("c",)]
    assert flat.graph["c_upright"].attrs["out"] <= 2
    assert flat.graph["c_upright"].attrs["stride"] == (2, 1)
    assert relative_difference(graph, flat.graph, feed(graph, 3, 9)) < 0.2
    for c in found.values():
        assert count(c.graph).total.macs < count(graph).total.macs
        c.graph.check_weights()


def test_the_bottleneck_is_the_best_of_its_rank_on_the_samples():
    graph = weighted(net(conv("a", "x", 12), N("r", "relu", "a"), conv("y", "r", 10, 5), shape=(3, 8, 8)))
    rng = np.random.default_rng(0)
    mix = (rng.normal(size=(10, 10)) * 0.5 ** np.arange(10)).astype(np.float32)  # directions of falling energy
    mixed = np.tensordot(mix, graph.weights["y.weight"], 1)
    graph = graph.replace(weights={**graph.weights, "y.weight": mixed})
    x = feed(graph, 30)["x"].astype(np.float32)
    made = bottleneck(graph, graph["y"], Evidence(graph, x).statistics(["y"]))
    assert made is not None
    rank = made.graph["y_reduce"].attrs["out"]
    wanted, got = (run_reference(g, x.astype(np.float64), np.float64).outputs[0] for g in (graph, made.graph))
    rows = np.moveaxis(wanted, 1, -1).reshape(-1, 10)
    lost = ((got - wanted) ** 2).sum()
    spectrum = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2
    assert lost == pytest.approx(spectrum[rank:].sum(), rel=1e-3)
    assert lost <= 0.0101 * spectrum.sum()


def test_what_does_not_save_is_not_offered():
    graph = weighted(net(conv("a", "x", 4, 1), N("r", "relu", "a"), conv("y", "r", 4, 1)))
    x = feed(graph, 8)["x"].astype(np.float32)
    stats = Evidence(graph, x).statistics(["x", "a", "r", "y"])
    assert separable(graph, graph["a"], stats) is None
    assert bottleneck(graph, graph["y"], stats) is None


def test_a_pooled_head_still_classifies():
    graph = random_features(width=16)
    made = pooled_head(Evidence(graph, digits()[0][TRAIN]))
    assert made is not None
    assert made.graph.param_shapes["y.weight"] == (10, 32)
    assert count(made.graph).total.params < 0.6 * count(graph).total.params
    assert 0.5 < accuracy(made.graph) < accuracy(graph)  # positions are lost, and they matter for digits


def test_heads_that_are_no_heads_are_left_alone():
    for build in (STRUCTURES["residual_option_a"], STRUCTURES["many_ends"], STRUCTURES["mobile"]):
        graph = weighted(build())
        assert pooled_head(Evidence(graph, {k: v.astype(np.float32) for k, v in feed(graph, 4).items()})) is None


@pytest.mark.parametrize("name", STRUCTURES)
def test_candidates_are_valid_on_every_structure(name):
    graph = weighted(STRUCTURES[name]())
    x = {k: v.astype(np.float32) for k, v in feed(graph, 8).items()}
    before = [o.shape for o in run_reference(graph, x).outputs]
    for c in candidates(Evidence(graph, x)):
        assert [o.shape for o in run_reference(c.graph, x).outputs] == before


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("kind", ["activation", "weight", "batchnorm", "taylor"])
def test_any_importance_narrows_every_structure_validly(name, kind):
    graph = weighted(STRUCTURES[name]())
    x = {k: v.astype(np.float32) for k, v in feed(graph, 8).items()}
    tied = channels(graph)
    stats = read_statistics(Evidence(graph, x))
    score = importance(graph, tied, kind, stats, lambda g: {k: np.ones_like(v) for k, v in g.weights.items()})
    assert (score >= 0).all()
    cuts = 0
    for bundle in tied.bundles:
        gone = least_useful(tied, bundle, score, max(1, len(bundle) // 2))
        narrow = remove(graph, tied, gone, stats) if gone else graph
        cuts += bool(gone)
        shapes = [o.shape for o in run_reference(narrow, x).outputs]
        assert shapes == [o.shape for o in run_reference(graph, x).outputs]
    assert cuts


def test_compensation_loses_less_than_plain_removal():
    graph = random_features(width=16)
    x, tied = digits()[0][TRAIN], channels(graph)
    stats = read_statistics(Evidence(graph, x))
    score = importance(graph, tied, "activation", stats)
    bundle = next(b for b in tied.bundles if tied.layers(b) == ("c2",))
    gone = least_useful(tied, bundle, score, 16)
    wanted = run_reference(graph, x[:100]).outputs[0]
    plain, fitted = (np.abs(run_reference(remove(graph, tied, gone, s), x[:100]).outputs[0] - wanted).mean()
                     for s in (None, stats))  # fmt: skip
    assert fitted < 0.5 * plain


def test_a_channel_that_is_a_sum_of_others_is_given_to_them_exactly():
    graph = weighted(net(conv("a", "x", 6, 1), conv("y", "a", 4, 1)))
    weights = {k: np.array(v) for k, v in graph.weights.items()}
    for role in ("weight", "bias"):
        weights[f"a.{role}"][5] = weights[f"a.{role}"][0] - 2 * weights[f"a.{role}"][3]
    graph = graph.replace(weights=weights)
    x, tied = feed(graph, 40)["x"].astype(np.float32), channels(graph)
    narrow = remove(graph, tied, [tied.tracks["a"].classes[5]], read_statistics(Evidence(graph, x)))
    assert relative_difference(graph, narrow, feed(graph, 4, 5)) < 0.02  # the ridge holds back a little


def test_activation_importance_is_what_the_readers_lose():
    graph = weighted(net(conv("a", "x", 5, 1), N("r", "relu", "a"), conv("y", "r", 4, 1)))
    x, tied = feed(graph, 40)["x"].astype(np.float32), channels(graph)
    score = importance(graph, tied, "activation", read_statistics(Evidence(graph, x)))
    taps = run_reference(graph, x.astype(np.float64), np.float64, ("r", "y")).taps
    for i, label in enumerate(tied.tracks["a"].classes):
        value = taps["r"].copy()
        value[:, i] = value[:, i].mean()
        moved = np.einsum("oc,nchw->nohw", graph.weights["y.weight"][:, :, 0, 0], value - taps["r"])
        assert score[label] == pytest.approx((moved**2).sum(axis=1).mean(), rel=1e-4)


def test_a_planted_depthwise_separable_layer_is_found_and_nothing_is_lost():
    graph = weighted(net(conv("a", "x", 12), N("r", "relu", "a"), conv("b", "r", 16, stride=2), N("y", "tanh", "b"),
                         shape=(3, 12, 12)))  # fmt: skip
    rng = np.random.default_rng(0)
    own = np.einsum("oi,ihw->oihw", rng.normal(size=(16, 12)), rng.normal(size=(12, 3, 3))).astype(np.float32)
    graph = graph.replace(weights={**graph.weights, "b.weight": own})
    x = feed(graph, 32)["x"].astype(np.float32)
    found = {(c.rewrite, c.layers): c for c in candidates(Evidence(graph, x))}
    made = found["depthwise-separable", ("b",)]
    assert made.graph["b_depthwise"].attrs["groups"] == 12
    assert made.graph["b_depthwise"].attrs["stride"] == (2, 2)
    assert relative_difference(graph, made.graph, feed(graph, 3, 9)) < 0.05  # the ridge of the fit takes 2 %
    assert "100%" in made.found
    assert count(made.graph).total.macs < count(graph).total.macs
