"""Unfolded figures: each formula with its numbers, evaluated here by hand, gives the result that is printed."""

from __future__ import annotations

import math
import re

import pytest

from dojang.arith.cost import count
from dojang.arith.explain import explain
from dojang.arith.graph import Graph, Node
from dojang.base.errors import GraphError, ShapeError
from dojang.formats import zoo


def evaluate(numbers: str) -> float:
    """The printed arithmetic, calculated."""
    text = numbers.replace("·", "*").replace(",", "").replace(" - -", " + ").split(" jump")[0]
    text = text.replace("⌊", "math.floor(").replace("⌋", ")").replace("⌈", "math.ceil(").replace("⌉", ")")
    return eval(text, {"math": math})  # the text is what this project prints


@pytest.mark.parametrize("name", ["alexnet", "googlenet", "resnet20-cifar10", "mobilenet-v2"])
def test_what_is_printed_calculates_to_the_result(name):
    graph = zoo.load(name, weights=False)
    rows = {layer.name: layer for layer in count(graph).layers}
    for node in graph.nodes:
        if node.op not in ("conv", "dense", "maxpool"):
            continue
        for step in explain(graph, node.name):
            if step.figure != "output" and re.fullmatch(r"[\d\s·,()+/⌊⌋⌈⌉-]+(, jump \d+)?", step.numbers):
                assert evaluate(step.numbers) == int(step.result), (node.name, step)
        found = {step.figure: step.result for step in explain(graph, node.name)}
        if node.op != "maxpool":
            assert found["MACs"] == rows[node.name].cost.macs
            assert found["weights"] + found["biases"] == rows[node.name].cost.params


def test_alexnet_conv2():
    steps = {step.figure: step for step in explain(zoo.load("alexnet", weights=False), "conv2")}
    assert steps["weights"].numbers == "5·5·96·256 / 2"
    assert steps["weights"].result == 307_200
    assert steps["MACs"].numbers == "27·27 · 307,200"
    assert steps["MACs"].result == 223_948_800
    assert steps["output, axis 0"].numbers == "⌊(27 + 4 - 1·(5 - 1) - 1) / 1⌋ + 1"


def test_errors():
    with pytest.raises(GraphError, match="no node 'conv9'"):
        explain(zoo.load("alexnet", weights=False), "conv9")
    nodes = (
        Node.of("x", "input", shape=(3, 8, 8)),
        Node.of("u", "unknown", "x", kind="Foo"),
        Node.of("c", "conv", "u", out=1, kernel=(1, 1)),
    )
    with pytest.raises(ShapeError, match="not known"):
        explain(Graph(nodes, ("c",)), "c")
