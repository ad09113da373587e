"""Counting with symbols for sizes: every figure, with numbers put in, is what counting with numbers gives."""

from __future__ import annotations

import json

import pytest

from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.arith.symbol import Expr, symbol
from dojang.formats import zoo
from dojang.formats.text import parse

H, W, N = symbol("H"), symbol("W"), symbol("N")


def sized(graph: Graph, *size: object) -> Graph:
    node = graph.inputs[0]
    return graph.edited({node.name: node.with_attrs(shape=(node.attrs["shape"][0], *size))})


def at(value, values):
    return value.at(values) if isinstance(value, Expr) else value


@pytest.mark.parametrize("name", [n for n in zoo.names() if n not in ("resnet32-cifar10", "resnet44-cifar10")])
def test_formulas_substitute_to_the_exact_numbers(name):
    graph = zoo.load(name, weights=False)
    symbolic = count(sized(graph, H, W), batch=N, exact_padding=False)
    h, w = graph.inputs[0].attrs["shape"][1:]
    for more in (0, 1, 37):
        size = {"H": h + more, "W": w + 2 * more, "N": 3}
        real = count(sized(graph, size["H"], size["W"]), batch=3)
        assert at(symbolic.peak_bytes, size) == real.peak_bytes
        for field in ("weights", "biases", "macs", "in_bytes", "out_bytes"):
            assert at(getattr(symbolic.total, field), size) == getattr(real.total, field), field
        for formula, number in zip(symbolic.layers, real.layers, strict=True):
            assert tuple(at(s, size) for s in formula.shape) == number.shape
            assert at(formula.cost.macs, size) == number.cost.macs


def test_taps_inside_substitute_too():
    graph = zoo.load("resnet18", weights=False)
    symbolic = count(sized(graph, H, W), exact_padding=True).total.macs
    assert at(symbolic, {"H": 224, "W": 224}) == count(graph, exact_padding=True).total.macs


def test_a_person_sees_how_cost_grows():
    graph = sized(zoo.load("resnet18", weights=False), H, W)
    result = count(graph)
    assert result.total.params == 11_689_512
    assert str(next(x for x in result.layers if x.name == "conv1").cost.macs) == "9,408·⌊(H + 1)/2⌋·⌊(W + 1)/2⌋"
    assert [s.size for s in next(x for x in result.layers if x.name == "layer1.0.conv1").field] == [19, 19]
    assert result.layers[-1].field is None  # the whole image: how much that is depends on its size
    assert json.loads(json.dumps(result.to_dict()))["layers"][1]["out_shape"] == [64, "⌊(H + 1)/2⌋", "⌊(W + 1)/2⌋"]


def test_slices_pads_and_resizing():
    graph = parse(
        "input 4x20x20\nslice axis=2 start=1 step=2\nslice axis=3 stop=-3\npad 1:2,0\n"
        "resize scale=2,1.5\nreshape shape=0,2,-1"
    )
    symbolic = sized(graph, H, W).unit_shapes
    for name, shape in graph.unit_shapes.items():
        assert tuple(at(s, {"H": 20, "W": 20}) for s in symbolic[name]) == shape
