"""Slimming with loss goes through where channels are constant, equal, zero, huge or tiny; U-Nets from end to end."""

from __future__ import annotations

import numpy as np
import pytest

from dojang.arith.graph import Graph, Node
from dojang.base.errors import DataError
from dojang.diagnosis import correlations, diagnose, spectra
from dojang.engine.reference.operators import run_reference
from dojang.evidence.evidence import Evidence
from dojang.slimming import slim
from dojang.slimming.estimate import OutputChange
from dojang.slimming.importance import read_statistics
from dojang.slimming.structural import candidates
from nets import N, conv, net, weighted
from runtimes import by_macs


def u_net(seed: int) -> Graph:
    """A random U of two or three levels: joined or added, resized or transposed, with and without batch norm."""
    rng = np.random.default_rng(seed)
    nodes: list[Node] = []
    at, skips, width = "x", [], int(rng.choice([8, 12]))

    def block(source: str, name: str, out: int) -> str:
        nodes.append(conv(name, source, out))
        last = name
        if rng.integers(2):
            nodes.append(N(f"{name}_n", "batchnorm", last))
            last = f"{name}_n"
        nodes.append(N(f"{name}_r", str(rng.choice(["relu", "leaky_relu", "silu"])), last))
        return f"{name}_r"

    levels = int(rng.integers(2, 4))
    for level in range(levels):
        at = block(at, f"down{level}", width << level)
        skips.append((at, width << level))
        nodes.append(N(f"pool{level}", str(rng.choice(["maxpool", "avgpool"])), at, kernel=(2, 2)))
        at = f"pool{level}"
    at = block(at, "middle", width << levels)
    for level in reversed(range(levels)):
        skip, wide = skips.pop()
        if rng.integers(2):
            nodes.append(N(f"up{level}", "conv_transpose", at, out=wide, kernel=(2, 2), stride=2))
        else:
            nodes.append(N(f"big{level}", "resize", at, scale=(2.0,)))
            nodes.append(conv(f"up{level}", f"big{level}", wide, 1))
        joined = str(rng.choice(["concat", "add"]))
        nodes.append(N(f"join{level}", joined, f"up{level}", skip))
        at = block(f"join{level}", f"back{level}", wide)
    nodes.append(conv("y", at, 2, 1))
    return weighted(net(*nodes, shape=(3, 16, 16), name=f"U {seed}"), seed)


def spoiled(graph: Graph, seed: int) -> Graph:
    """Channels of every convolution made constant (no weights, a bias), equal, zero, huge and tiny."""
    rng, weights = np.random.default_rng(seed), dict(graph.weights)
    for node in graph.nodes:
        if node.op != "conv" or node.name == "y":
            continue
        weight, bias = (np.array(weights[node.array(role)]) for role in ("weight", "bias"))
        weight[0], bias[0] = 0, rng.normal()
        weight[1], bias[1] = weight[2], bias[2]
        weight[3], bias[3] = 0, 0
        weight[4], bias[4] = weight[4] * 1e4, bias[4] * 1e4
        weight[5], bias[5] = weight[5] * 1e-30, bias[5] * 1e-30
        weights[node.array("weight")], weights[node.array("bias")] = weight, bias
    return graph.with_weights(weights)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_u_net_is_slimmed_on_few_samples(seed):
    graph = u_net(seed) if seed % 2 else spoiled(u_net(seed), seed)
    x = np.random.default_rng(seed).normal(size=(6, 3, 16, 16)).astype(np.float32)
    loss = OutputChange(graph, x)
    made = slim(
        Evidence(graph, x), measure=by_macs, evaluate=lambda g: max(0.0, 1 - loss.of(g)), max_drop=20, target_macs=0.7
    )
    made.graph.check_weights()
    assert made.after.macs <= made.before.macs
    assert all(np.isfinite(a).all() for a in made.graph.weights.values())
    y = run_reference(made.graph, {"x": x.astype(np.float64)}, np.float64).outputs[0]
    assert y.shape == (6, 2, 16, 16)
    assert np.isfinite(y).all()


def spoiled_pair() -> Graph:
    return spoiled(weighted(net(conv("a", "x", 16), N("r", "relu", "a"), conv("b", "r", 16), N("q", "relu", "b"),
                                conv("y", "q", 4))), 5)  # fmt: skip


def test_every_form_of_a_layer_is_offered_where_channels_do_not_move():
    graph = spoiled_pair()
    x = np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32)
    assert all(np.diag(m.covariance).min() >= 0 for m in read_statistics(Evidence(graph, x)).values())
    offered = candidates(Evidence(graph, x))
    assert {"bottleneck", "separable-kernels", "grouped-kernels"} <= {c.rewrite for c in offered}
    for candidate in offered:
        assert all(np.isfinite(a).all() for a in candidate.graph.weights.values()), candidate.found


def test_diagnosis_goes_through_where_channels_do_not_move():
    graph = spoiled_pair()
    x = np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32)
    assert {f.kind for f in diagnose(Evidence(graph, x))} >= {"dead-proven", "duplicate"}
    for c in correlations(Evidence(graph, x)):
        assert np.isfinite(c.matrix).all()
    for s in spectra(Evidence(graph, x)):
        assert all(np.isfinite(s.outputs)), s.layer
        assert s.outputs[-1] == pytest.approx(1)


def test_a_tiny_channel_beside_large_ones_keeps_its_correlation():
    """Two channels of 1e-12 that move together, beside some of 1e4: their correlation is 1, as NumPy has it."""
    graph = weighted(net(conv("a", "x", 4, 1, bias=False), conv("b", "a", 4, 1, bias=False), shape=(4, 8, 8)))
    scales = np.array([1e-12, 1.0, 1e4, 1e4], np.float32)
    graph = graph.with_weights({"a.weight": np.diag(scales)[:, :, None, None],
                                "b.weight": np.diag(scales / scales)[:, :, None, None]})  # fmt: skip
    x = np.random.default_rng(1).normal(size=(6, 4, 8, 8)).astype(np.float32)
    (found,) = correlations(Evidence(graph, x))
    rows = np.moveaxis(x.astype(np.float64), 1, 0).reshape(4, -1)
    np.testing.assert_allclose(found.matrix, np.corrcoef(rows), atol=1e-5)


def test_weights_and_activations_that_are_not_finite_are_said_first():
    graph = spoiled_pair()
    x = np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32)
    burst = graph.with_weights({k: v * np.float32(1e25) for k, v in graph.weights.items()})
    broken = graph.with_weights(dict(graph.weights) | {"b.bias": np.full(16, np.nan, np.float32)})
    for bad, words in ((burst, "its output is"), (broken, "b: its bias holds nan")):
        found = diagnose(Evidence(bad, x))
        assert (found[0].kind, found[0].severity) == ("not-finite", "error")
        assert words in found[0].evidence
        assert {f.kind for f in found[1:]} <= {"hot-spot"}
        with np.errstate(all="ignore"), pytest.raises(DataError, match=words):
            slim(Evidence(bad, x), measure=by_macs, evaluate=lambda h: 1.0)
    with pytest.raises(DataError, match="infinity"):
        diagnose(Evidence(graph, np.full((2, 3, 8, 8), np.inf, np.float32)))
