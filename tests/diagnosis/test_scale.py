"""Scale of activations against NumPy, and planted layers that explode, vanish or are saturated."""

from __future__ import annotations

import numpy as np
import pytest

from dojang.arith.graph import Graph
from dojang.diagnosis import scale
from dojang.engine.reference.operators import run_reference
from dojang.evidence.evidence import Evidence
from nets import STRUCTURES, N, conv, feed, net, weighted


def seen(graph: Graph, x: object) -> tuple[scale.Scale, ...]:
    """The scales from a pass that other evidence takes."""
    known, watching = Evidence(graph, x), scale.Scales(graph)  # pyright: ignore[reportArgumentType]
    with known.watched_by([watching]):
        known.gather([node.name for node in graph.nodes if node.op != "input"])
    assert known.passes == 1
    return watching.joined(lambda how, array: array)


@pytest.mark.parametrize("name", STRUCTURES)
def test_scales_equal_numpy_on_every_structure(name: str) -> None:
    graph = weighted(STRUCTURES[name]())
    x = {k: v.astype(np.float32) for k, v in feed(graph, 70).items()}  # more than one batch
    rows = seen(graph, x)
    read = {row.layer: graph[row.layer].inputs[0] for row in rows}
    taps = {v for row in rows for v in (row.value, read[row.layer], *(s.value for s in row.stages))} - set(x)
    values = run_reference(graph, x, np.float64, tuple(taps)).taps
    for row in rows:
        y = values[row.value]
        assert row.samples == 70
        assert row.rms == pytest.approx(np.sqrt((y**2).mean()), rel=1e-4)
        assert (row.least, row.most) == pytest.approx((y.min(), y.max()), rel=1e-3, abs=1e-4)
        assert row.stages[0].value == row.layer
        for s in row.stages:
            own = values[s.value]
            assert (s.rms, s.size) == pytest.approx((np.sqrt((own**2).mean()), np.abs(own).max()), rel=1e-3)
        before = values.get(read[row.layer], x.get(read[row.layer]))
        assert row.input_rms == pytest.approx(np.sqrt((np.asarray(before, float) ** 2).mean()), rel=1e-3)
        if row.activation == "relu":
            assert row.zeros == pytest.approx((y <= 0).mean(), abs=1e-3)


def planted(op: str, factor: float, **attrs: object) -> Graph:
    """Four layers with activations `op`, the weights of the second multiplied."""
    nodes, last = [], "x"
    for i in range(4):
        nodes += [conv(f"c{i}", last, 6, bias=False), N(f"a{i}", op, f"c{i}", **attrs)]
        last = f"a{i}"
    graph = weighted(net(*nodes))
    return graph.replace(weights={**graph.weights, "c1.weight": factor * graph.weights["c1.weight"]})


def kinds(graph: Graph) -> set[tuple[str, str]]:
    x = feed(graph, 16)["x"].astype(np.float32)
    return {(f.layer, f.kind) for f in scale.findings(seen(graph, x))}


def test_planted_scales_are_found_and_ordinary_ones_are_not() -> None:
    assert not kinds(planted("relu", 1.0))
    assert ("c1", "exploding") in kinds(planted("relu", 1e6))
    assert ("c1", "vanishing") in kinds(planted("relu", 1e-6))
    assert {("c1", "vanishing"), ("c3", "vanishing")} <= kinds(planted("relu", 0.0))


@pytest.mark.parametrize(("order", "norm"), [(order, norm) for order in ("norm first", "activation first")
                                             for norm in ("batchnorm", "groupnorm", "instancenorm")])  # fmt: skip
def test_scales_behind_a_norm_are_seen_on_either_side_of_the_activation(order: str, norm: str) -> None:
    """The norm of the second layer multiplies by a factor; the norms behind hide what comes of it."""
    attrs = {"groups": 2} if norm == "groupnorm" else {}
    nodes, last = [], "x"
    for i in range(4):
        nodes.append(conv(f"c{i}", last, 6))
        ops = [N(f"n{i}", norm, "", **attrs), N(f"a{i}", "relu", "")]
        for node in ops if order == "norm first" else reversed(ops):
            nodes.append(N(node.name, node.op, nodes[-1].name, **node.attrs))
        last = nodes[-1].name
    graph = weighted(net(*nodes))
    first = seen(graph, feed(graph, 4)["x"].astype(np.float32))[0]
    assert [s.value for s in first.stages] == ["c0", *(["n0", "a0"] if order == "norm first" else ["a0", "n0"])]
    assert [s.normed for s in first.stages] == [False, order == "norm first", True]
    plain = {f"n{i}.weight": np.ones(6, np.float32) for i in range(4)}
    for factor, told in ((1.0, set[tuple[str, str]]()), (1e4, {("c1", "exploding")}), (1e-5, {("c1", "vanishing")})):
        scaled = {k: np.full(6, factor, np.float32) for k in ("n1.weight",)}
        shifts = {f"n{i}.bias": np.full(6, 0.1 if i != 1 else 0.1 * factor, np.float32) for i in range(4)}
        edited = graph.replace(weights={**graph.weights, **plain, **scaled, **shifts})
        assert {(layer, kind) for layer, kind in kinds(edited) if layer == "c1"} == told
        if norm != "batchnorm":  # their own statistics bring what follows back to size 1
            assert not {layer for layer, _ in kinds(edited)} & {"c0", "c3"}


@pytest.mark.parametrize(
    ("read", "given", "normed", "told"),
    [
        (5e3, 5e3, 1.0, None),  # a norm that does its work behind large values
        (2e-4, 2e-4, 1.0, None),  # and behind small ones
        (1.0, 1.0, 5e3, "exploding"),
        (1.0, 1.0, 5e-4, "vanishing"),
        (5e3, 5e3, 5e-4, "vanishing"),
        (1e-3, 2.0, 1.0, "exploding"),  # by what the layer itself gives
    ],
)
def test_behind_a_norm_a_size_counts_where_it_is_far_from_1_as_well(
    read: float, given: float, normed: float, told: str | None
) -> None:
    stages = (scale.Stage("c", given, 3 * given, False), scale.Stage("n", normed, 3 * normed, True))
    row = scale.Scale("c", "n", "", normed, 0.0, 3 * normed, 0.0, None, 10, read, stages)
    assert [f.kind for f in scale.findings([row])] == ([told] if told else [])


@pytest.mark.parametrize("op", ["sigmoid", "tanh", "softsign", "hard_sigmoid"])
def test_saturation_is_told_by_the_slope(op: str) -> None:
    """The slope is measured by differences: it is small on exactly the outputs that are called saturated."""
    graph = planted(op, 2000.0)
    x = feed(graph, 16)["x"].astype(np.float32)
    row = next(r for r in seen(graph, x) if r.layer == "c1")
    before = run_reference(graph, x, np.float64, ("c1",)).taps["c1"]
    one = Graph((N("x", "input", shape=before.shape[1:]), N("y", op, "x")), ("y",))
    h = 1e-6
    y = [run_reference(one, before + d, np.float64).outputs[0] for d in (-h, h)]
    slope = np.abs(y[1] - y[0]) / (2 * h)
    top = {"sigmoid": 0.25, "tanh": 1.0, "softsign": 1.0, "hard_sigmoid": 1 / 6}[op]
    assert row.saturated == pytest.approx((slope < 0.04 * top).mean(), abs=0.005)
    assert row.saturated is not None
    assert (("c1", "saturated") in kinds(graph)) == (row.saturated > 0.5)
    assert ("c1", "saturated") in kinds(planted(op, 1e6))
    assert ("c1", "saturated") not in kinds(planted(op, 1.0))


def test_a_relu_with_a_top_is_saturated_at_the_top_only() -> None:
    graph = planted("clip", 1.0, min=0.0, max=0.1)
    x = feed(graph, 16)["x"].astype(np.float32)
    row = next(r for r in seen(graph, x) if r.layer == "c0")
    y = run_reference(graph, x, np.float64, ("a0",)).taps["a0"]
    assert row.saturated == pytest.approx((y >= 0.1).mean(), abs=1e-3)
