"""Where channels are judged, and with which evidence: planted waste, found where it is and nowhere else."""

from __future__ import annotations

import html
import json

import numpy as np
import pytest

from dojang.app.diagnosing import diagnose as diagnose_verb
from dojang.arith.field import contents, covered, fields
from dojang.diagnosis import diagnose
from dojang.diagnosis.findings import judge
from dojang.engine.compiled import Compiled
from dojang.engine.reference.operators import run_reference
from dojang.engine.session import Session
from dojang.evidence.evidence import Evidence
from dojang.evidence.intervals import ranges
from dojang.report.html_slim import not_judged_table
from dojang.report.text_slim import diagnosis_text
from nets import STRUCTURES, N, conv, feed, net, weighted


def arrays(graph):
    return {k: np.array(v) for k, v in graph.weights.items()}


def found(graph, weights, kind, x=None, samples=40, **how):
    x = {k: v.astype(np.float32) for k, v in feed(graph, samples).items()} if x is None else x
    findings = diagnose(Evidence(graph.with_weights(weights), x, **how))
    return {f.layer: f.channels for f in findings if f.kind == kind}


def several_readers():
    """A sum, a scale behind an activation, and a layer that two activations read."""
    return weighted(
        net(conv("a", "x", 6), conv("b", "x", 6), N("s", "add", "a", "b"), N("r", "relu", "s"), conv("c", "r", 5),
            N("rc", "relu", "c"), N("n", "batchnorm", "rc"), conv("d", "n", 4), N("r1", "relu", "d"),
            N("r2", "clip", "d", min=0, max=6), conv("e", "r1", 3, 1), conv("f", "r2", 3, 1), N("y", "add", "e", "f"))
    )  # fmt: skip


def test_channels_are_followed_through_sums_norms_and_to_every_reader():
    graph = several_readers()
    w = arrays(graph)
    w["a.weight"][[2, 3]], w["a.bias"][[2, 3]] = 0, 1
    w["b.weight"][[2, 3]], w["b.bias"][[2, 3]] = 0, (-2, -0.5)  # channel 2 of the sum is dead, 3 is 0.5
    w["n.weight"][[1, 2]], w["n.bias"][[1, 2]] = 0, (0, 0.7)
    w["d.weight"][1], w["d.bias"][1] = 0, -1
    w["e.weight"][:, 3] = 0  # one reader of d does not want channel 3, the other one does
    w["e.weight"][:, 2], w["f.weight"][:, 2] = 0, 0
    w["a.weight"][:, 1], w["b.weight"][:, 1] = 0, 0
    assert found(graph, w, "dead-proven") == {"a": (2,), "b": (2,), "c": (1,), "d": (1,)}
    assert found(graph, w, "constant") == {"a": (3,), "b": (3,), "c": (2,)}
    assert found(graph, w, "unread") == {"d": (2,), "x": (1,)}
    w["n.weight"][1], w["n.bias"][1] = 1, 0
    w["e.weight"][:, 2] = 1
    assert found(graph, w, "unread") == {"x": (1,)}
    assert found(graph, w, "dead-proven") == {"a": (2,), "b": (2,), "d": (1,)}


def test_a_sum_that_is_dead_on_every_sample_is_told_of_both_sides():
    graph = several_readers()
    w = arrays(graph)
    w["a.weight"][4], w["a.bias"][4] = -w["b.weight"][4], -w["b.bias"][4] - 1
    assert found(graph, w, "dead-observed").get("a") == (4,)
    assert found(graph, w, "dead-observed").get("b") == (4,)


@pytest.mark.parametrize("norm", ["groupnorm", "instancenorm", "batchnorm"])
@pytest.mark.parametrize("pool", ["maxpool", "avgpool"])
def test_norms_and_pools_between_layer_and_activation(norm, pool):
    attrs = {"groups": 2} if norm == "groupnorm" else {}
    graph = weighted(net(conv("a", "x", 8), N("p", pool, "a", kernel=(2, 2)), N("n", norm, "p", **attrs),
                         N("r", "relu", "n"), conv("y", "r", 3, 1)))  # fmt: skip
    w = arrays(graph)
    w["n.weight"][:], w["n.bias"][:] = 1, 0.5
    if norm == "batchnorm":
        w["n.running_mean"][:], w["n.running_var"][:] = 0, 1
        w["n.bias"][:] = 1
    w["n.weight"][5], w["n.bias"][5] = 0, -1
    w["n.bias"][2] = -100
    assert found(graph, w, "dead-proven") == {"a": (5,)}
    assert found(graph, w, "dead-observed")["a"] == (2,)


def test_layers_that_share_weights_are_judged_by_all_their_uses():
    graph = weighted(STRUCTURES["shared"]())
    w = arrays(graph)
    w["k.weight"][1], w["k.bias"][1] = 0, -1  # dead in both
    w["k.weight"][3] = -np.abs(w["k.weight"][3])
    w["k.bias"][3] = -0.01  # dead behind a ReLU, whose values are not below 0, and alive for signed values
    w["a.bias"][:] = -50  # the first use sees nothing but 0
    dead = found(graph, w, "dead-proven")
    assert dead["k"] == (1,)
    assert "k2" not in dead
    w["a.bias"][:] = 0
    w["a.weight"][:] = np.abs(w["a.weight"])
    x = {"x": -np.abs(feed(graph, 20)["x"]).astype(np.float32)}
    taps = run_reference(graph.with_weights(w), x, np.float32, ("r1", "r2")).taps
    alive = [taps[v].max(axis=(0, 2, 3)) > 0 for v in ("r1", "r2")]
    seen = set(found(graph, w, "dead-observed", x).get("k", ())) | {1}
    assert seen == set(np.flatnonzero(~(alive[0] | alive[1])).tolist())


def test_constants_are_judged_by_their_own_size():
    graph = weighted(net(N("y", "dense", "x", out=3), shape=(10,)))
    w = arrays(graph)
    w["y.weight"][0] *= 1e7
    x = np.random.default_rng(0).normal(size=(100, 10)).astype(np.float32)
    assert not found(graph, w, "constant", x)
    w["y.weight"][1], w["y.bias"][1] = w["y.weight"][1] * 1e-9, 3
    assert found(graph, w, "constant", x) == {"y": (1,)}
    w["y.weight"][2], w["y.bias"][2] = 0, 5
    assert found(graph, w, "constant", x) == {"y": (1,)} or found(graph, w, "constant", x) == {"y": (2,)}
    assert not found(graph, w, "duplicate", x)


def test_noise_about_large_means_is_no_duplicate():
    graph = weighted(net(N("y", "dense", "x", out=3), shape=(10,)))
    w = arrays(graph)
    w["y.bias"][:] = 1e4
    assert not found(graph, w, "duplicate", np.random.default_rng(0).normal(size=(100, 10)).astype(np.float32))


def gates(seed, samples):
    graph = weighted(net(N("y", "dense", "x", out=8), N("r", "clip", "y", min=0, max=1), N("z", "dense", "r", out=2),
                         shape=(8,)), seed)  # fmt: skip
    w = arrays(graph) | {"y.weight": np.eye(8, dtype=np.float32) * 1e4, "y.bias": np.zeros(8, np.float32)}
    return graph.with_weights(w), np.random.default_rng(seed).normal(size=(samples, 8)).astype(np.float32)


def test_independent_gates_are_no_duplicates_on_any_number_of_samples():
    for samples in (2, 8, 16, 32):
        for seed in range(12):
            graph, x = gates(seed, samples)
            done = judge(Evidence(graph, x))
            assert not [f for f in done.findings if f.kind == "duplicate"], (samples, seed)


def test_two_units_that_fire_together_once_are_not_judged():
    graph, _ = gates(0, 2)
    x = -np.abs(np.random.default_rng(0).normal(size=(100, 8))).astype(np.float32)
    x[:, 2:] *= np.random.default_rng(1).choice([-1, 1], size=(100, 6))
    x[5, :2] = 1
    done = judge(Evidence(graph, x))
    assert not [f for f in done.findings if f.kind == "duplicate"]
    assert any(n.kind == "duplicate" and "on 1 of 100 samples" in n.reason for n in done.unjudged)


def test_multiples_of_either_sign_and_their_offsets_where_nothing_bends_them():
    graph = weighted(net(conv("a", "x", 6), N("p", "avgpool", "a", kernel=(2, 2)), conv("y", "p", 3, 1)))
    w = arrays(graph)
    w["a.weight"][4], w["a.bias"][4] = -2 * w["a.weight"][1], -2 * w["a.bias"][1]
    assert found(graph, w, "duplicate") == {"a": (1, 4)}
    w["a.bias"][4] += 0.3  # no multiple any more, but channel 1 still says all
    x = {k: v.astype(np.float32) for k, v in feed(graph, 40).items()}
    (one,) = [f for f in diagnose(Evidence(graph.with_weights(w), x)) if f.kind == "duplicate"]
    assert (one.channels, one.proved, one.samples, one.confidence) == ((1, 4), False, 40, 0.95)
    assert "-2 (and +0.3) times channel 1" in one.evidence


def test_filters_that_are_sums_of_others_lower_the_rank():
    graph = weighted(net(conv("a", "x", 6), N("r", "relu", "a"), conv("y", "r", 3, 1)))
    w = arrays(graph)
    assert not found(graph, w, "low-rank")
    mix = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    for role in ("weight", "bias"):
        w[f"a.{role}"][3:] = np.tensordot(mix, w[f"a.{role}"][:3], 1)
    x = {k: v.astype(np.float32) for k, v in feed(graph, 40).items()}
    (low,) = [f for f in diagnose(Evidence(graph.with_weights(w), x)) if f.kind == "low-rank"]
    rows = np.hstack([w["a.weight"].reshape(6, -1), w["a.bias"][:, None]])
    assert (low.value, low.threshold) == (np.linalg.matrix_rank(rows, tol=1e-5), 6)


@pytest.mark.parametrize("factor", [1, 2])
def test_identical_branches_are_told_of_the_second(factor):
    graph = weighted(net(
        conv("a", "x", 4), N("ra", "relu", "a"), conv("a2", "ra", 4), N("qa", "relu", "a2"), conv("b", "x", 4),
        N("rb", "relu", "b"), conv("b2", "rb", 4), N("qb", "relu", "b2"), N("t", "concat", "qa", "qb"),
        conv("y", "t", 3, 1)))  # fmt: skip
    w = arrays(graph)
    assert not found(graph, w, "repeated")
    for role in ("weight", "bias"):
        w[f"b.{role}"], w[f"b2.{role}"] = w[f"a.{role}"].copy(), factor * w[f"a2.{role}"]
    assert found(graph, w, "repeated") == {"b": (0, 1, 2, 3), "b2": (0, 1, 2, 3)}
    w["b2.weight"][2, 0, 0, 0] += 0.1
    assert found(graph, w, "repeated") == {"b": (0, 1, 2, 3), "b2": (0, 1, 3)}


def test_what_is_not_finite_is_the_first_finding_and_ends_the_others():
    graph = weighted(STRUCTURES["plain"]())
    x = feed(graph, 8)["x"].astype(np.float32)
    w = arrays(graph)
    w["c2.weight"][3, 0, 0, 0] = np.nan
    done = judge(Evidence(graph.with_weights(w), x))
    first = done.findings[0]
    assert (first.kind, first.layer, first.channels, first.severity) == ("not-finite", "c2", (3,), "error")
    assert {f.kind for f in done.findings[1:]} <= {"hot-spot", "coverage"}
    assert any(n.kind == "duplicate" and "c2 is not finite" in n.reason for n in done.unjudged)
    huge = {k: v * np.float32(1e25) if k.endswith("weight") else v for k, v in graph.weights.items()}
    done = diagnose_verb(graph.with_weights(huge), x, samples=8)
    assert done.findings[0].kind == "not-finite"
    assert [f.kind for f in done.at_least("error")] == ["not-finite"]
    json.loads(json.dumps(done.to_dict(), allow_nan=False))


def test_what_is_said_of_samples_holds_for_the_whole_list():
    """Channels that fire on 1 input in 200, seen on 300 samples: how often does a list hold a wrong bound?"""
    channels, samples, wrong = 64, 300, 0
    graph = weighted(net(N("y", "dense", "x", out=channels), N("r", "relu", "y"), N("z", "dense", "r", out=2),
                         shape=(channels,)))  # fmt: skip
    w = arrays(graph) | {"y.weight": np.eye(channels, dtype=np.float32), "y.bias": np.zeros(channels, np.float32)}
    for seed in range(10):
        rng = np.random.default_rng(seed)
        rate = rng.uniform(0.001, 0.03, channels)
        x = np.where(rng.random((samples, channels)) < rate, 1.0, -1.0).astype(np.float32)
        for f in diagnose(Evidence(graph.with_weights(w), x)):
            if f.kind == "dead-observed" and f.layer == "y":
                bound = float(f.evidence.split("fewer than ")[1].split("%")[0]) / 100
                wrong += bool((rate[list(f.channels)] >= bound).any())
    assert wrong == 0


def test_gates_and_statistics_do_not_make_features_cover_the_image():
    gate = [N("g", "global_avgpool", "r"), conv("d", "g", 4, 1), N("s", "sigmoid", "d"), N("m", "mul", "r", "s")]
    for between in (gate, [N("m", "instancenorm", "r")], [N("m", "groupnorm", "r", groups=2)]):
        graph = net(conv("a", "x", 4), N("r", "relu", "a"), *between, conv("b", "m", 4))
        assert not covered(graph)
        assert [s.size for s in contents(graph)["b"] or ()] == [5, 5]
        assert min(s.size for s in fields(graph)["b"] or ()) >= 8
    pooled = net(conv("a", "x", 4), N("g", "global_avgpool", "a"), N("u", "resize", "g", scale=(8.0,)),
                 N("t", "add", "u", "a"), conv("b", "u", 4))  # fmt: skip
    assert [n.name for n in covered(pooled)] == ["b"]


UNARY = (
    "relu sigmoid tanh softplus softsign silu hard_swish mish selu gelu exp erf abs neg sin cos floor ceil round sign"
).split()


@pytest.mark.parametrize(
    ("op", "attrs"),
    [*((op, {}) for op in UNARY), ("gelu", {"approximate": "tanh"}), ("elu", {"alpha": 1.3}), ("sqrt", {}),
     ("leaky_relu", {"slope": 0.1}), ("hard_sigmoid", {}), ("hard_sigmoid", {"alpha": 0.2}), ("log", {}),
     ("clip", {"min": 0.1, "max": 0.7})],
)  # fmt: skip
def test_bounds_of_constants_hold_in_the_engine(op, attrs):
    """The function of 256 constants, and the same with the constant taken off again behind a ReLU."""
    rng, n = np.random.default_rng(len(op)), 256
    bias = np.concatenate([rng.normal(size=96), 5 * rng.normal(size=48), rng.uniform(-3.1, -2.9, size=48),
                           10.0 ** rng.uniform(-38, 1, size=64) * rng.choice([-1, 1], size=64)])  # fmt: skip
    bias = np.abs(bias) if op in ("sqrt", "log") else bias
    graph = weighted(net(conv("c", "x", n, 1), N("t", op, "c", **attrs), conv("d", "t", n, 1, groups=n),
                         N("r", "relu", "d"), shape=(2, 2, 2)))  # fmt: skip
    w = {k: np.zeros_like(v) for k, v in graph.weights.items()}
    w["c.bias"], w["d.weight"][:] = bias.astype(np.float32), 1
    x = np.zeros((1, 2, 2, 2), np.float32)
    value = run_reference(graph.with_weights(w), x.astype(np.float64), np.float64, ("t",)).taps["t"][0, :, 0, 0]
    w["d.bias"] = (-value).astype(np.float32)
    graph = graph.with_weights(w)
    bound = ranges(graph)
    for engine in (Session(graph), Compiled(graph)):
        taps = engine.run(x, ("t", "r")).taps
        for name in ("t", "r"):
            seen, r = taps[name].astype(np.float64)[0].reshape(n, -1), bound[name]
            assert (seen.min(axis=1) >= r.lo - r.err).all(), name
            assert (seen.max(axis=1) <= r.hi + r.err).all(), name
            assert (seen[r.zero] == 0).all(), name


def test_the_range_that_a_proof_assumes_is_stated():
    graph = weighted(net(conv("a", "x", 4), N("r", "relu", "a"), conv("y", "r", 2, 1)))
    w = arrays(graph)
    w["a.bias"][1] = -1000
    x = feed(graph, 4)["x"].astype(np.float32).clip(-1, 1)
    (dead,) = [f for f in diagnose(Evidence(graph.with_weights(w), x, {"x": (-1, 1)})) if f.kind == "dead-proven"]
    assert (dead.channels, dead.assumes) == ((1,), "x in -1 … 1")
    assert "for every input with x in -1 … 1" in dead.evidence
    assert "any finite x" in Evidence(graph).assumes


def test_what_was_not_judged_is_in_text_json_and_page():
    done = diagnose_verb(weighted(STRUCTURES["grouped"]()))
    said = {(n.layer, n.kind) for n in done.not_judged}
    assert ("up", "coverage") in said
    text = diagnosis_text(done, 400)
    for one in done.not_judged:
        assert one.reason in text
        assert html.escape(one.reason) in not_judged_table(done)
    assert [set(n) for n in done.to_dict()["not_judged"]] == [{"layer", "kind", "reason"}] * len(done.not_judged)
    assert any("there are no samples" in n["reason"] for n in done.to_dict()["not_judged"])


def test_dense_layers_on_tokens_have_tokens_for_places():
    graph = weighted(net(conv("a", "x", 4), N("v", "reshape", "a", shape=(0, 4, 64)),
                         N("t", "transpose", "v", perm=(0, 2, 1)), N("d", "dense", "t", out=6)))  # fmt: skip
    from dojang.diagnosis import equivariance

    found = {e.layer: e.places for e in equivariance(graph, feed(graph, 2)["x"].astype(np.float32))}
    assert found == {"a": 64, "d": 64}
