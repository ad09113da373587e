"""Costs: peak memory against a simulated allocator, totals, conventions, and what could not be counted."""

from __future__ import annotations

import pickle
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dojang.arith import sight
from dojang.arith.cost import VIEWS, count, peak_bytes
from dojang.arith.graph import Graph, Node
from dojang.arith.layer import Layer


@st.composite
def networks(draw: st.DrawFn) -> Graph:
    """Random graphs over sizes that matter: sums, joins, slices, views of views, constants, several outputs."""
    nodes = [Node.of("n0", "input", shape=(draw(st.integers(1, 4)), 4))]
    ops = st.sampled_from(["relu", "concat", "slice", "identity", "unsqueeze", "constant", "flatten"])
    for i in range(1, draw(st.integers(2, 14))):
        a, b = (f"n{draw(st.integers(0, i - 1))}" for _ in range(2))
        match draw(ops):
            case "constant":
                nodes.append(Node.of(f"n{i}", "constant", shape=(1, draw(st.integers(1, 5))), fill=0.0))
            case "concat":
                nodes.append(Node.of(f"flat{i}a", "flatten", a))
                nodes.append(Node.of(f"flat{i}b", "flatten", b))
                nodes.append(Node.of(f"n{i}", "concat", f"flat{i}a", f"flat{i}b"))
            case "slice":
                nodes.append(Node.of(f"n{i}", "slice", a, axis=1, stop=1))
            case "unsqueeze":
                nodes.append(Node.of(f"n{i}", "unsqueeze", a, axes=(-1,)))
            case op:
                nodes.append(Node.of(f"n{i}", op, a))
    names = [node.name for node in nodes]
    outputs = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    return Graph(tuple(nodes), tuple(outputs))


def simulated(graph: Graph) -> int:
    """Runs an allocator: after every node, look who can still be read, and release the buffers of all others."""
    shapes = graph.unit_shapes
    buffer_of: dict[str, str] = {}
    held: dict[str, int] = {}
    most = 0
    for place, node in enumerate(graph.nodes):
        if node.op in VIEWS:
            buffer_of[node.name] = buffer_of[node.inputs[0]]
        else:
            buffer_of[node.name] = node.name
            held[node.name] = 0 if node.op == "constant" else 4 * prod(shapes[node.name] or ())
        most = max(most, sum(held.values()))
        to_come = {i for later in graph.nodes[place + 1 :] for i in later.inputs} | set(graph.outputs)
        needed = {buffer_of[name] for name in to_come if name in buffer_of}
        held = {name: size for name, size in held.items() if name in needed}
    return most


@settings(max_examples=200)
@given(networks())
def test_peak_memory_is_what_an_allocator_needs(graph: Graph) -> None:
    assert peak_bytes(graph, graph.unit_shapes) == simulated(graph)


def test_peak_memory_by_hand() -> None:
    """input 400, a 400, b 400: the input is free when b is made, so a + b + sum = 1200 with the sum."""
    nodes = (
        Node.of("x", "input", shape=(1, 10, 10)),
        Node.of("a", "relu", "x"),
        Node.of("b", "neg", "a"),
        Node.of("s", "add", "a", "b"),
        Node.of("p", "global_maxpool", "s"),
    )
    assert count(Graph(nodes, ("p",))).peak_bytes == 1200
    assert count(Graph(nodes, ("p", "x"))).peak_bytes == 1600
    assert count(Graph(nodes, ("p",)), batch=3).peak_bytes == 3600


def small() -> Graph:
    nodes = (
        Node.of("x", "input", shape=(3, 8, 8)),
        Node.of("c", "conv", "x", out=4, kernel=(3, 3), padding=1),
        Node.of("b", "batchnorm", "c"),
        Node.of("up", "conv_transpose", "b", out=2, kernel=(2, 2), stride=2),
        Node.of("k", "constant", shape=(1, 2, 1, 1)),
        Node.of("kt", "constant", shape=(1, 2, 1, 1), trained=True),
        Node.of("m", "mul", "up", "k"),
        Node.of("m2", "mul", "m", "kt"),
        Node.of("q", "prelu", "m2", num=2),
        Node.of("f", "flatten", "q", axis=2),
        Node.of("mm", "einsum", "f", "f", equation="nck,nlk->ncl"),
        Node.of("d", "dense", "mm", out=5),
    )
    return Graph(nodes, ("d",), "small")


def test_layers_and_totals() -> None:
    costs = count(small())
    by_name = {layer.name: layer.cost for layer in costs.layers}
    assert (by_name["c"].weights, by_name["c"].biases, by_name["c"].macs) == (108, 4, 108 * 64)
    assert (by_name["b"].weights, by_name["b"].biases, by_name["b"].macs) == (4, 4, 0)  # running figures are buffers
    assert (by_name["up"].weights, by_name["up"].macs) == (4 * 2 * 4, 64 * 4 * 2 * 4)
    assert (by_name["k"].params, by_name["kt"].params, by_name["q"].params) == (0, 2, 2)
    assert by_name["mm"].macs == 2 * 2 * 256
    assert (by_name["d"].weights, by_name["d"].biases, by_name["d"].macs) == (10, 5, 2 * 2 * 5)
    assert by_name["d"].in_bytes == 4 * 4
    assert costs.total.params == sum(cost.params for cost in by_name.values())
    assert costs.total.macs == sum(cost.macs for cost in by_name.values())
    assert costs.total.status == "exact"


def test_conventions() -> None:
    plain, exact = count(small()), count(small(), exact_padding=True)
    inside = 3 * 4 * (3 * 8 - 2) ** 2
    assert plain.layers[1].cost.macs - exact.layers[1].cost.macs == 108 * 64 - inside
    assert count(small(), bias=False).total.biases == 0
    assert count(small(), batch=7).total.macs == 7 * plain.total.macs
    assert count(small(), batch=7).total.params == plain.total.params
    assert "flops" not in plain.to_dict()["totals"]
    assert count(small(), unit="flop").to_dict()["totals"]["flops"] == 2 * plain.total.macs
    assert "1 MAC = 1 multiply + 1 add; taps on padding counted; biases are parameters but not MACs" in str(
        plain.convention
    )
    assert "taps on padding not counted" in str(exact.convention)
    assert "biases left out" in str(count(small(), bias=False).convention)


def test_unknown_operators_make_a_lower_bound() -> None:
    nodes = (
        Node.of("x", "input", shape=(3, 8, 8)),
        Node.of("c", "conv", "x", out=4, kernel=(1, 1)),
        Node.of("u", "unknown", "c", kind="acme.Twist"),
        Node.of("u2", "unknown", "u", kind="acme.Turn"),
        Node.of("r", "relu", "u2"),
        Node.of("d", "dense", "r", out=5),
    )
    costs = count(Graph(nodes, ("d",)))
    assert costs.total.unknown == ("u (acme.Twist)", "u2 (acme.Turn)", "d")
    assert costs.total.status == "lower-bound"
    assert costs.total.weights == 12
    shown = costs.to_dict()
    assert shown["totals"]["status"] == "lower-bound"
    assert shown["totals"]["unknown"] == ["u (acme.Twist)", "u2 (acme.Turn)", "d"]
    by_name = {layer["name"]: layer for layer in shown["layers"]}
    assert by_name["u"]["out_shape"] is None
    assert by_name["u"]["out_bytes"] is None
    assert by_name["u"]["receptive_field"] is None
    assert by_name["u"]["status"] == by_name["d"]["status"] == "lower-bound"
    assert by_name["c"]["status"] == "exact"
    for name in ("u", "d"):  # not known is not zero
        assert {by_name[name][key] for key in ("params", "weights", "biases", "macs")} == {None}
    told = Graph((*nodes[:2], nodes[2].with_attrs(shape=(7, 3)), *nodes[3:]), ("d",))
    assert told.shapes(5)["u"] == (5, 7, 3)
    shown = count(told).to_dict()
    assert [shown["layers"][2][key] for key in ("out_shape", "out_bytes", "macs")] == [[7, 3], 84, None]


PHASES = {"period": 2, "advance": 1, "ends": False, "seen": [[-1, 1], [-1, 1]]}


def test_rows_as_scripts_read_them() -> None:
    (row,) = [layer for layer in count(small(), batch=2).to_dict()["layers"] if layer["name"] == "up"]
    assert row == {
        "name": "up", "op": "conv_transpose", "module": "", "inputs": ["b"], "in_shapes": [[4, 8, 8]],
        "out_shape": [2, 16, 16], "kernel": [2, 2], "stride": [2, 2], "padding": [0, 0], "dilation": [1, 1],
        "groups": 1, "output_padding": None, "arrays": {"weight": [4, 2, 2, 2], "bias": [2]}, "dtypes": [],
        "params": 34, "weights": 32, "biases": 2, "trainable": 34, "macs": 4096, "out_bytes": 2 * 4 * 2 * 256,
        "receptive_field": {"size": [3, 3], "jump": [0.5, 0.5], "start": [None, None], "last": [None, None],
                            "bounds": [[-1.5, 1], [-1.5, 1]], "phases": [PHASES, PHASES],
                            "clipped": [[1, 1], [1, 1]], "unclipped_places": [12, 12]}, "status": "exact",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ic", "oc", "groups", "macs"),
    [(64, 32, 1, 2_097_152), (64, 64, 64, 65_536), (64, 32, 8, 262_144)],
)
def test_transposed_layers_that_peers_get_wrong(ic: int, oc: int, groups: int, macs: int) -> None:
    nodes = (
        Node.of("x", "input", shape=(ic, 16, 16)),
        Node.of("t", "conv_transpose", "x", out=oc, kernel=(2, 2), stride=2, groups=groups),
    )
    assert count(Graph(nodes, ("t",))).total.macs == macs


def test_fields_are_worked_out_when_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = sight.track
    monkeypatch.setattr(sight, "track", lambda graph: (asked.append(graph.name), real(graph))[1])
    counted = count(small().replace(weights={"a.weight": object()}))
    assert counted.total.macs
    assert not asked
    assert [layer.field for layer in counted.layers[:2]] == [layer.field for layer in count(small()).layers[:2]]
    assert counted.layers[1].border is not None
    assert len(asked) == 2  # once for each of the two tables
    assert not counted.layers[0].sight._graph.weights  # a table does not keep arrays alive


def test_rows_that_see_something_else_are_not_equal() -> None:
    def row(dilation: int) -> Layer:
        nodes = (
            Node.of("x", "input", shape=(1, 9, 9)),
            Node.of("c", "conv", "x", out=1, kernel=(3, 3), dilation=dilation, padding=dilation),
        )
        return count(Graph(nodes, ("c",))).layers[-1]

    assert row(1).cost == row(2).cost
    assert row(1) == row(1) != row(2)
    assert len({row(1), row(1)}) == 1
    assert pickle.loads(pickle.dumps(row(2))) == row(2)
