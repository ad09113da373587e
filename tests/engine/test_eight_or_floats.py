"""Whether quantised layers are computed in bytes or in float32: the less time as predicted, and both offers said."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest

import dojang
from dojang.arith.graph import Graph, Node
from dojang.engine.compiled import compile
from dojang.engine.kernels.eight import conv
from dojang.engine.plan.choose import Choice
from dojang.engine.plan.context import Request
from dojang.engine.plan.network import plan_of
from dojang.engine.plan.rules import eights
from dojang.engine.reference.operators import run_reference
from dojang.native.machine import Machine

BYTES = Machine.cross("avx512")
BYTES = replace(BYTES, features=f"{BYTES.features},+avx512vnni")


def network() -> Graph:
    nodes = (
        Node.of("x", "input", shape=(3, 14, 14)),
        Node.of("c1", "conv", "x", out=16, kernel=(3, 3), padding=1),
        Node.of("r1", "relu", "c1"),
        Node.of("c2", "conv", "r1", out=32, kernel=(1, 1)),
        Node.of("r2", "relu", "c2"),
        Node.of("c3", "conv", "r2", out=32, kernel=(3, 3), padding=1, groups=32),
        Node.of("g", "global_avgpool", "c3"),
        Node.of("f", "flatten", "g"),
        Node.of("y", "dense", "f", out=7),
    )
    graph, rng = Graph(nodes, ("y",)), np.random.default_rng(0)
    weights = {n: rng.normal(scale=0.2, size=s).astype("f4") for n, s in graph.param_shapes.items()}
    return dojang.quantize(graph.replace(weights=weights), samples(16))


def samples(n: int) -> np.ndarray:
    return np.random.default_rng(n).normal(size=(n, 3, 14, 14)).astype("f4")


LAYERS = ("c1", "c2", "c3", "y")


def choices(graph: Graph) -> dict[str, Choice]:
    found = plan_of(graph, Request(1, BYTES, 1, eight=True)).public.choices
    return {name: c for c in found for name in c.members if name in LAYERS}


def test_the_plan_has_the_offers_of_both() -> None:
    found = choices(network())
    assert set(found) == set(LAYERS)
    for choice in found.values():
        in_bytes = choice.algorithm.startswith("eight")
        ((_, why),) = [r for r in choice.refused if (r[0].endswith("in float32") if in_bytes else r[0] == "bytes")]
        numbers = [float(word) for word in why.replace(",", "").split() if word.replace(".", "").isdigit()]
        assert len([n for n in numbers if n]) >= 2, why


def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes layers of one tap slow in bytes."""
    real = conv.seconds
    monkeypatch.setattr(conv, "seconds", lambda task, m: 1.0 if prod(task.conv.kernel) == 1 else real(task, m))


def test_a_layer_that_is_slow_in_bytes_is_computed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network()
    before = choices(graph)
    assert before["c2"].algorithm.startswith("eight")
    slow(monkeypatch)
    found = choices(graph)
    for name in ("c2", "y"):
        assert not found[name].algorithm.startswith("eight")
        assert any(r[0] == "bytes" and "conversions included" in r[1] for r in found[name].refused)
    for name in ("c1", "c3"):
        assert found[name].algorithm == before[name].algorithm


def test_what_is_hardly_faster_in_float32_stays_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network()
    for share, stays in ((0.95, True), (0.8, False)):
        with monkeypatch.context() as patch:
            patch.setattr(eights, "in_floats", lambda *_, share=share: eights.InFloats("direct", share, 1.0))
            assert choices(graph)["c2"].algorithm.startswith("eight") == stays


def test_answers_stay_those_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch)
    graph, x = network(), samples(4)
    right = run_reference(graph, x).outputs[0]
    found = compile(graph, threads=1)(x)
    assert np.abs(found - right).max() <= 0.02 * np.abs(right).max()
