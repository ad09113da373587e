"""Blocks left out and weights rounded, against the same done by hand and by PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dojang.arith.graph import Graph
from dojang.diagnosis import answers, bypass, sensitivity
from dojang.diagnosis.trials import Trials, samples_within
from dojang.engine.reference.operators import run_reference
from nets import STRUCTURES, N, conv, feed, net, weighted


def residual(scale: float = 1.0) -> Graph:
    """Two residual blocks and a head; the branch of the second is multiplied."""
    graph = weighted(net(
        conv("stem", "x", 8), N("r", "relu", "stem"),
        conv("a1", "r", 8), N("a2", "relu", "a1"), conv("a3", "a2", 8), N("a", "add", "a3", "r"), N("ar", "relu", "a"),
        conv("b1", "ar", 8), N("b2", "relu", "b1"), conv("b3", "b2", 8), N("b", "add", "b3", "ar"),
        N("br", "relu", "b"), N("g", "global_avgpool", "br"), N("f", "flatten", "g"), N("y", "dense", "f", out=5),
    ))  # fmt: skip
    weights = {**graph.weights, "b3.weight": scale * graph.weights["b3.weight"], "b3.bias": np.zeros(8, np.float32)}
    return graph.replace(weights=weights)


def trials(graph: Graph, labels: bool = True) -> Trials:
    x = feed(graph, 40)["x"].astype(np.float32)
    return Trials(graph, x, np.random.default_rng(5).integers(0, 5, 40) if labels else None, 40)


def test_a_block_left_out_is_the_network_whose_branch_gives_nothing() -> None:
    graph = residual()
    own = trials(graph)
    row = next(r for r in bypass.bypasses(bypass.blocks(graph), own) if r.at == "b" and r.kind == "branch")
    assert row.layers == ("b1", "b3")
    assert row.params == 2 * (8 * 8 * 9 + 8)
    nothing = graph.replace(weights={**graph.weights, "b3.weight": 0 * graph.weights["b3.weight"]})
    before, after = (run_reference(g, own.x, np.float64).outputs[0] for g in (graph, nothing))
    assert row.output_change == pytest.approx(
        np.sqrt(((after - before) ** 2).mean()) / np.sqrt(((before - before.mean(0)) ** 2).mean()), rel=1e-3
    )
    assert row.answers_changed == (after.argmax(1) != before.argmax(1)).mean()
    assert (row.accuracy_before, row.accuracy) == tuple(
        float((y.argmax(1) == own.labels).mean()) for y in (before, after)
    )


def test_a_planted_idle_block_is_found_and_a_busy_one_is_not() -> None:
    for scale, idle in ((1e-5, True), (3.0, False)):
        graph = residual(scale)
        rows = bypass.bypasses(bypass.blocks(graph), trials(graph))
        found = {f.layer for f in bypass.findings(rows) if f.kind == "idle-block"}
        assert ("b" in found) == idle
        assert "a" not in found


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_block_of_every_structure_keeps_the_outputs(name: str) -> None:
    graph = weighted(STRUCTURES[name]())
    for block in bypass.blocks(graph):
        before, after = ([g.unit_shapes[o] for o in g.outputs] for g in (graph, block.graph))
        assert before == after
        left = {node.name for node in block.graph.nodes}
        assert block.layers
        assert not left & set(block.layers)


def test_formats_round_as_pytorch_does() -> None:
    rng = np.random.default_rng(0)
    weight = (rng.normal(size=(6, 3, 3, 3)) * 10.0 ** rng.integers(-6, 4, (6, 1, 1, 1))).astype(np.float32)
    for name, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        expected = torch.from_numpy(weight).to(dtype).to(torch.float32).numpy()
        assert np.array_equal(sensitivity.FORMATS[name](weight, 6), expected)
    steps = np.abs(weight).max(axis=(1, 2, 3)) / 127
    scales, zeros = torch.from_numpy(steps.astype(np.float32)), torch.zeros(6, dtype=torch.int64)
    quantised = torch.fake_quantize_per_channel_affine(
        torch.from_numpy(weight), scales, zeros.to(torch.int32), 0, -127, 127
    )
    assert np.allclose(sensitivity.int8(weight, 6), quantised.numpy(), rtol=1e-6)
    assert not sensitivity.int8(np.zeros((2, 3)), 2).any()


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_have_a_scale_for_each_output_channel(groups: int) -> None:
    node = N("t", "conv_transpose", "x", out=4, kernel=(2, 2), stride=2, groups=groups)
    graph = weighted(Graph((N("x", "input", shape=(6, 4, 4)), node), ("t",)))
    weight = graph.weights["t.weight"] * 10.0 ** np.arange(4 // groups).reshape(1, -1, 1, 1)
    graph = graph.replace(weights={**graph.weights, "t.weight": weight.astype(np.float32)})
    made = sensitivity.rounded(graph, graph["t"], "int8")
    for group in range(groups):
        part = slice(group * 6 // groups, (group + 1) * 6 // groups)
        for channel in range(4 // groups):
            own = graph.weights["t.weight"][part, channel]
            step = np.abs(own).max() / 127
            assert np.allclose(made[part, channel], np.rint(own / step) * step, rtol=1e-5)


def test_a_planted_sensitive_layer_is_found() -> None:
    """One huge weight in a channel takes all steps of int8, so that its other weights become 0."""
    graph = residual()
    weight = np.array(graph.weights["y.weight"])
    calm = {f.layer for f in sensitivity.findings(sensitivity.sensitivities(trials(graph)))}
    assert "y" not in calm
    wide = np.concatenate([weight, np.zeros((5, 1), np.float32)], axis=1)
    wide[:, -1] = 1e4
    nodes = [n for n in graph.nodes if n.name != "y"]
    shut = [N("s", "slice", "f", axis=1, stop=1), N("z", "sub", "s", "s"), N("t", "concat", "f", "z")]
    planted = Graph((*nodes, *shut, N("y", "dense", "t", out=5)), ("y",)).with_weights(
        {**graph.weights, "y.weight": wide}
    )
    rows = sensitivity.sensitivities(trials(planted))
    found = {(f.layer, f.severity) for f in sensitivity.findings(rows)}
    assert ("y", "info") in found
    assert ("y", "warning") not in found  # 16 bits keep each weight's own exponent


def test_weights_that_half_precision_cannot_hold_are_a_warning() -> None:
    graph = residual()
    graph = graph.replace(weights={**graph.weights, "a1.weight": 1e6 * graph.weights["a1.weight"]})
    rows = sensitivity.sensitivities(trials(graph, labels=False))
    found = [f for f in sensitivity.findings(rows) if f.layer == "a1" and f.severity == "warning"]
    assert ["not finite" in f.evidence for f in found] == [True]
    assert all(row.accuracy is None for row in rows)


def test_samples_fit_the_budget() -> None:
    graph = residual()
    x = feed(graph, 40)["x"]
    from dojang.arith.cost import count

    macs = count(graph).total.macs
    assert samples_within(graph, x, 10, 10 * macs * 20) == 20
    assert samples_within(graph, x, 10, 10 * macs * 15) == 0  # too few to say anything
    assert samples_within(graph, x, 10, 10**15) == 40


def test_one_changed_answer_is_no_evidence() -> None:
    def kinds(samples: int, changed: int) -> list[str]:
        row = sensitivity.Sensitivity("y", "int8", 0.01, 0.0, changed / samples, None, None, samples)
        return [f.kind for f in sensitivity.findings((row,))]

    assert kinds(40, 1) == []  # 2.5 % of the answers, but it is one sample
    assert kinds(40, 2) == ["sensitive"]
    assert kinds(1000, 10) == []  # 1 % is not more than 1 %
    assert kinds(1000, 11) == ["sensitive"]


@pytest.mark.parametrize(("spread", "constant"), [(0.0, True), (1e-7, True), (1e-5, False)])
def test_answers_are_constant_up_to_rounding(spread: float, constant: bool) -> None:
    graph = residual()
    scores = np.full((20, 5), 3.0)
    scores[7, 2] += 3.0 * spread
    assert bool(answers.constant_answers(graph, scores)) == constant
    assert not answers.constant_answers(graph, scores[:1])
    assert not answers.constant_answers(graph, None)
