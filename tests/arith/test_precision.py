"""Precisions: what they refuse, what a network keeps in which."""

from __future__ import annotations

import math

import pytest

from dojang.arith.bits import shares, value_precisions
from dojang.arith.cost import count
from dojang.arith.graph import Graph, Node
from dojang.arith.precision import BITS, WHOLE, Precision, fits, grid_of
from dojang.base.errors import DataError


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (("int8", (0.0,), (0,)), "a scale of 0;"),
        (("int8", (-0.5,), (0,)), "a scale of -0.5"),
        (("int8", (math.nan,), (0,)), "a scale of nan"),
        (("int8", (math.inf,), (0,)), "a scale of inf"),
        (("uint8", (1.0,), (-1,)), "a zero point of -1; it is from 0 to 255"),
        (("int8", (1.0,), (128,)), "a zero point of 128; it is from -128 to 127"),
        (("int8", (), ()), "0 scales and 0 zero points"),
        (("int8", (1.0, 2.0), (0,), 0), "2 scales and 1 zero points"),
        (("int8", (1.0, 2.0), (0, 0)), "no axis"),
        (("float32", (1.0,), (0,)), "no scale"),
        (("int9", (1.0,), (0,)), "'int9' is not known"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(told: tuple, said: str) -> None:
    with pytest.raises(DataError, match=said) as error:
        Precision(*told)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", BITS)
def test_a_precision_comes_back_from_its_plain_data(kind: str) -> None:
    given = Precision(kind, (0.25, 3.0), (1, 0), 1) if kind in WHOLE else Precision(kind)
    assert Precision.of_dict(given.to_dict()) == given
    assert given.bits == int("".join(c for c in kind if c.isdigit()))
    assert given.bytes_of(5) == math.ceil(5 * given.bits / 8)


@pytest.mark.parametrize("told", [None, 3, {}, {"kind": 8}, {"kind": "int8", "scale": "1", "zero": [0]},
                                  {"kind": "int8", "scale": [1.0], "zero": [0.5]}, {"kind": "int8", "scale": [1.0],
                                  "zero": [0], "axis": "0"}])  # fmt: skip
def test_damaged_plain_data_is_refused(told: object) -> None:
    with pytest.raises(DataError):
        Precision.of_dict(told)


def test_a_precision_fits_the_channels_of_its_axis() -> None:
    each = Precision("int8", (1.0, 2.0, 3.0), (0, 0, 0), 1)
    assert fits(each, (5, 3, 2))
    assert not fits(each, (3, 5))
    assert not fits(each, (3,))
    assert fits(Precision("int8", (1.0,), (0,)), ())


def test_the_grid_of_a_range_counts_from_its_least() -> None:
    assert grid_of(-128, 127, 0.5) == Precision("uint8", (0.5,), (128,))
    assert grid_of(0, 255, 0.5) == Precision("uint8", (0.5,), (0,))
    assert grid_of(-300, 300, 0.5) == Precision("uint16", (0.5,), (300,))
    for low, high, scale in ((1, 5, 0.5), (-5, -1, 0.5), (0, 70000, 0.5), (0, 255, 0.0), (0, 255, math.nan)):
        assert grid_of(low, high, scale) is None


def test_macs_weights_and_bytes_are_counted_by_precision() -> None:
    nodes = (
        Node.of("x", "input", shape=(3, 8, 8)),
        Node.of("q", "fake_quantize", "x", scale=0.1, low=-128, high=127),
        Node.of("c", "conv", "q", out=4, kernel=(3, 3), padding=1),
        Node.of("p", "maxpool", "q", kernel=(2, 2), stride=2),
        Node.of("d", "conv", "p", out=2, kernel=(1, 1), bias=False),
        Node.of("e", "conv", "c", out=5, kernel=(1, 1), bias=False),
    )
    graph = Graph(nodes, ("d", "e"))
    eight = Precision("int8", (0.1,), (0,))
    graph = graph.replace(
        precisions={"c.weight": eight, "c.bias": Precision("int32", (0.01,), (0,)), "d.weight": eight}
    )
    assert {n: p.kind for n, p in value_precisions(graph).items()} == {"q": "uint8", "p": "uint8"}
    found = {s.kind: s for s in shares(graph, {layer.name: layer.cost.macs for layer in count(graph).layers})}
    assert found["int8"].weights == found["int8"].weight_bytes == 4 * 3 * 9 + 2 * 3
    assert found["int8"].macs == 4 * 3 * 9 * 64 + 2 * 3 * 16
    assert found["int8"].values == ("uint8",)
    assert (found["int32"].weights, found["int32"].weight_bytes, found["int32"].macs) == (4, 16, 0)
    assert (found["float32"].weight_bytes, found["float32"].macs) == (4 * 5 * 4, 5 * 4 * 64)
    assert found["float32"].values == ("float32",)
    assert [row["kind"] for row in count(graph).to_dict()["totals"]["precisions"]] == ["int8", "float32", "int32"]
    plain = Graph((nodes[0], Node.of("k", "conv", "x", out=2, kernel=(1, 1))), ("k",))
    assert shares(plain, {}) == ()
    assert "precisions" not in count(plain).to_dict()["totals"]


def test_an_edit_of_an_array_forgets_its_precision() -> None:
    np = pytest.importorskip("numpy")
    nodes = (Node.of("x", "input", shape=(3, 4, 4)), Node.of("c", "conv", "x", out=2, kernel=(1, 1)))
    arrays = {"c.weight": np.ones((2, 3, 1, 1), "f4"), "c.bias": np.zeros(2, "f4")}
    eight = Precision("int8", (1.0,), (0,))
    graph = Graph(nodes, ("c",), weights=arrays, precisions={"c.weight": eight, "c.bias": eight})
    assert set(graph.edited(weights={"c.weight": arrays["c.weight"] + 0.5}).precisions) == {"c.bias"}
