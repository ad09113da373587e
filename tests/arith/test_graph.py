"""Graph: what it refuses and how it says so, order, edits, sharing, and size without quadratic work."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dojang.arith.attrs import convert
from dojang.arith.cost import count
from dojang.arith.field import fields
from dojang.arith.graph import Graph, Node, reachable, topological
from dojang.arith.ops import OPS
from dojang.base.errors import DojangError, GraphError, ShapeError

X = Node.of("x", "input", shape=(4, 8, 8))


class Array:
    """All that arith may know of a weight array: its shape."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape


def refused(kind: type[DojangError], message: str, make: Any) -> None:
    with pytest.raises(kind) as caught:
        make()
    assert message in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------- nodes


def test_attributes_are_complete_and_in_normal_form() -> None:
    node = Node.of("c", "conv", "x", out=8, kernel=[3, 5], padding=[1, (2, 3)], stride=2)
    assert node.attrs == {
        "out": 8, "kernel": (3, 5), "stride": (2, 2), "padding": ((1, 1), (2, 3)), "dilation": (1, 1), "groups": 1,
        "bias": True,
    }  # fmt: skip
    assert Node.of("c", "conv", "x", out=8, kernel=(3, 3), padding="valid").attrs["padding"] == ((0, 0), (0, 0))
    assert Node.of("c", "conv", "x", out=8, kernel=(3, 3), padding="same").attrs["padding"] == "same"
    assert Node.of("p", "maxpool", "x", kernel=(2, 3)).attrs["stride"] == (2, 3)
    assert Node.of("d", "dropout", "x", p=1).attrs["p"] == 1.0
    again = Node.of("c", "conv", "x", **node.attrs)
    assert again == node
    assert node.with_attrs(out=16).attrs["out"] == 16


@pytest.mark.parametrize(
    ("op", "attrs", "message"),
    [
        ("convolution", {}, "n: operator 'convolution' is not known"),
        ("conv", {"out": 8}, "n: conv needs kernel: sizes joined by x, such as 3x3"),
        ("relu", {"slope": 1}, "n: relu has no attribute 'slope'; its attributes: none"),
        (
            "conv",
            {"out": 8, "kernel": (3, 3), "group": 2},
            "conv has no attribute 'group'; its attributes: out, kernel",
        ),
        ("conv", {"out": 8.5, "kernel": (3, 3)}, "conv out=8.5 is not a whole number"),
        ("conv", {"out": True, "kernel": (3, 3)}, "conv out=True is not a whole number"),
        ("conv", {"out": "8", "kernel": (3, 3)}, "conv out='8' is not a whole number"),
        (
            "conv",
            {"out": 8, "kernel": (3, 3), "stride": (1, 1, 1)},
            "stride has 3 values for a 2-d kernel; give 1 or 2",
        ),
        ("conv", {"out": 8, "kernel": (3, 3), "padding": "most"}, 'padding=most is not known; use numbers, "same"'),
        ("conv", {"out": 8, "kernel": (3, 3), "padding": -1}, "must not be negative"),
        ("conv", {"out": 8, "kernel": (3, 0)}, "kernel 3x0 must be at least 1"),
        ("conv", {"out": 8, "kernel": (3, 3), "bias": "no"}, "conv bias='no' is not yes or no"),
        ("gelu", {"approximate": "most"}, "gelu approximate=most is not known; use one of none, tanh"),
        ("clip", {"min": "low"}, "clip min='low' is not a number"),
    ],
)
def test_attributes_that_do_not_fit(op: str, attrs: dict[str, Any], message: str) -> None:
    refused(DojangError, message, lambda: Node.of("n", op, "x", **attrs))


def test_arrays_have_the_name_of_the_node_unless_shared() -> None:
    node = Node.of("c", "dense", "x", out=3, arrays={"weight": "first.weight", "bias": "c.bias"})
    assert (node.array("weight"), node.array("bias")) == ("first.weight", "c.bias")
    assert node.arrays == {"weight": "first.weight"}


# ---------------------------------------------------------------------------------------------- validation


@pytest.mark.parametrize(
    ("nodes", "outputs", "message"),
    [
        ([X, X], ["x"], "x: two nodes have this name; give each its own"),
        ([X, Node.of("r", "relu")], ["r"], "r: relu takes 1 inputs, got 0"),
        ([X, Node.of("r", "relu", "x", "x")], ["r"], "r: relu takes 1 inputs, got 2"),
        ([X, Node.of("a", "add", "x")], ["a"], "a: add takes 2 or more inputs, got 1"),
        ([X, Node.of("r", "relu", "y")], ["r"], "r: its input 'y' is not a node before it"),
        ([Node.of("r", "relu", "x"), X], ["r"], "r: its input 'x' is not a node before it"),
        ([X, Node.of("r", "relu", "r")], ["r"], "r: its input 'r' is not a node before it"),
        ([X], [], "net: the network has no output"),
        ([X], ["y"], "output 'y' is not a node of the network"),
    ],
)
def test_graphs_that_do_not_hang_together(nodes: list[Node], outputs: list[str], message: str) -> None:
    refused(GraphError, message, lambda: Graph(tuple(nodes), tuple(outputs), "net"))


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (Node.of("n", "conv", "x", out=8, kernel=(3,)), "n: a 1-d convolution needs an input (n, c, 1 sizes), got 1x4"),
        (Node.of("n", "conv", "x", out=8, kernel=(3, 3), groups=3), "n: 4 input channels do not divide into 3 groups"),
        (Node.of("n", "conv", "x", out=8, kernel=(9, 9)), "n: the output shrinks below 1: kernel 9x9 spans 9"),
        (Node.of("n", "conv_transpose", "x", out=8, kernel=(3, 3), padding="same"), "n: a transposed convolution"),
        (Node.of("n", "maxpool", "x", kernel=(9, 9)), "n: the output shrinks below 1"),
        (Node.of("n", "maxpool", "x", kernel=(2,)), "n: a 1-d pooling needs"),
        (Node.of("n", "adaptive_avgpool", "x", out=(2,)), "n: a 1-d adaptive pooling needs"),
        (Node.of("n", "groupnorm", "x", groups=3), "n: 4 channels do not divide into 3 groups"),
        (Node.of("n", "layernorm", "x", shape=(7,)), "n: normalises over 7, but the input is 1x4x8x8"),
        (Node.of("n", "concat", "x", "x", axis=4), "n: axis 4 is outside a shape of 4 axes"),
        (Node.of("n", "reshape", "x", shape=(0, 5, -1)), "1x4x8x8 has 256 elements, which do not fill 0x5x-1"),
        (Node.of("n", "reshape", "x", shape=(-1, -1)), "n: reshape to -1x-1: at most one size may be -1"),
        (Node.of("n", "reshape", "x", shape=(1, 256, 1, 1, 0)), "0 copies a size that 1x4x8x8 does not have"),
        (Node.of("n", "transpose", "x", perm=(0, 1, 2)), "n: perm (0, 1, 2) is not an order of the 4 axes of 1x4x8x8"),
        (Node.of("n", "squeeze", "x", axes=(1,)), "n: cannot squeeze axes [1] of 1x4x8x8: not all are 1"),
        (Node.of("n", "pad", "x", pads=((-4, -4),)), "n: padding ((-4, -4),) shrinks 1x4x8x8 below 1"),
        (Node.of("n", "pad", "x", pads=((8, 0),), mode="reflect"), "n: reflect padding 8 is too much for a size of 8"),
        (Node.of("n", "pad", "x", pads=((0, 9),), mode="circular"), "n: circular padding 9 is too much for a size"),
        (Node.of("n", "pad", "x", pads=(1, 1, 1, 1, 1)), "n: 5 pairs of padding for an input of 4 axes"),
        (Node.of("n", "slice", "x", axis=1, start=4), "n: the slice of axis 1 of 1x4x8x8 is empty"),
        (Node.of("n", "slice", "x", axis=1, step=0), "n: a slice needs a step other than 0"),
        (Node.of("n", "gather", "x", axis=1, indices=(0, 4)), "n: index 4 is outside axis 1 of 1x4x8x8"),
        (Node.of("n", "resize", "x"), "n: resize needs one of size and scale, not both"),
        (Node.of("n", "resize", "x", scale=0.1), "n: resize by (0.1, 0.1) shrinks 1x4x8x8 below 1"),
        (Node.of("n", "matmul", "x", "c"), "n: matrices 1x4x8x8 and 3x5 cannot be multiplied"),
        (Node.of("n", "add", "x", "c"), "n: shapes 1x4x8x8 and 3x5 do not fit element by element"),
        (Node.of("n", "einsum", "x", equation="nchw"), "n: einsum 'nchw': write every index"),
        (Node.of("n", "einsum", "x", equation="nch->n"), "nch does not name the 4 axes of 1x4x8x8"),
        (Node.of("n", "einsum", "x", equation="nchc->n"), "index c is 4 and 8"),
        (Node.of("n", "einsum", "x", equation="nchw->k"), "the output has an index that no input has"),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit(node: Node, message: str) -> None:
    graph = Graph((X, Node.of("c", "constant", shape=(3, 5)), node), ("n",))
    refused(ShapeError, message, lambda: graph.unit_shapes)


def test_an_input_without_extent() -> None:
    graph = Graph((Node.of("x", "input", shape=(3, 0, 8)),), ("x",))
    refused(GraphError, "x: input size 3x0x8 must be at least 1 everywhere", lambda: graph.unit_shapes)


def test_unknown_shapes_stay_unknown() -> None:
    nodes = (X, Node.of("u", "unknown", "x", kind="Twist"), Node.of("r", "relu", "u"), Node.of("s", "relu", "x"))
    graph = Graph(nodes, ("r", "s"))
    assert graph.unit_shapes == {"x": (1, 4, 8, 8), "u": None, "r": None, "s": (1, 4, 8, 8)}
    assert graph.shapes(7)["s"] == (7, 4, 8, 8)


# ---------------------------------------------------------------------------------------------- weights


def shared() -> Graph:
    return Graph(
        (
            X,
            Node.of("a", "conv", "x", out=4, kernel=(3, 3), padding=1, bias=False),
            Node.of("b", "conv", "a", out=4, kernel=(3, 3), padding=1, bias=False, arrays={"weight": "a.weight"}),
        ),
        ("b",),
    )


def test_shared_weights_stand_once() -> None:
    graph = shared()
    assert graph.param_shapes == {"a.weight": (4, 4, 3, 3)}
    costs = count(graph)
    assert [layer.cost.weights for layer in costs.layers] == [0, 144, 0]
    assert [layer.cost.macs for layer in costs.layers] == [0, 144 * 64, 144 * 64]
    wrong = Node.of("b", "conv", "a", out=8, kernel=(3, 3), bias=False, arrays={"weight": "a.weight"})
    graph = Graph((*graph.nodes[:2], wrong), ("b",))
    refused(GraphError, "b: shares a.weight, which is 4x4x3x3, but needs 8x4x3x3", lambda: graph.param_shapes)


def test_check_weights() -> None:
    graph = shared()
    refused(
        GraphError, "network: no weights for a.weight 4x4x3x3; give a checkpoint with --weights", graph.check_weights
    )
    misfit = graph.replace(weights={"a.weight": Array(4, 4, 5, 5)})
    refused(GraphError, "a.weight: the weights are 4x4x5x5, the layer needs 4x4x3x3", misfit.check_weights)
    right = {"a.weight": Array(4, 4, 3, 3)}
    graph.replace(weights=right).check_weights()
    assert graph.with_weights({**right, "z.weight": Array(1)}).weights == right


def test_weights_take_no_part_in_equality() -> None:
    assert shared() == shared().replace(weights={"a.weight": Array(1)})


# ---------------------------------------------------------------------------------------------- order and edits


@st.composite
def dags(draw: st.DrawFn) -> list[Node]:
    nodes = [Node.of("n0", "input", shape=(1,))]
    for i in range(1, draw(st.integers(1, 12))):
        sources = draw(st.lists(st.integers(0, i - 1), min_size=1, max_size=3))
        nodes.append(Node.of(f"n{i}", "concat", *(f"n{s}" for s in sources)))
    return nodes


@settings(max_examples=100)
@given(dags(), st.randoms(use_true_random=False))
def test_topological_puts_inputs_first_and_keeps_a_right_order(nodes: list[Node], random: Any) -> None:
    assert topological(nodes) == tuple(nodes)
    mixed = list(nodes)
    random.shuffle(mixed)
    order = topological(mixed)
    place = {node.name: i for i, node in enumerate(order)}
    assert sorted(place) == sorted(node.name for node in nodes)
    assert all(place[i] < place[node.name] for node in order for i in node.inputs)
    assert Graph(order, (order[-1].name,)).nodes == order


@settings(max_examples=100)
@given(dags(), st.data())
def test_cycles_are_found(nodes: list[Node], data: st.DataObject) -> None:
    nodes = [node for node in nodes if node.op != "input"]
    if not nodes:
        return
    inputs = {node.name: node.inputs for node in nodes}
    late = data.draw(st.sampled_from(nodes))
    below = reachable(nodes, [late.name]) & set(inputs)
    early = data.draw(st.sampled_from(sorted(below)))
    looped = [
        Node.of(n.name, "concat", *n.inputs, late.name) if n.name == early else n for n in nodes
    ]  # late depends on early, and now early on late
    refused(GraphError, "a network has no cycles", lambda: topological(looped))


def chain() -> Graph:
    nodes = (
        X,
        Node.of("c", "conv", "x", out=4, kernel=(1, 1)),
        Node.of("b", "batchnorm", "c"),
        Node.of("r", "relu", "b"),
        Node.of("s", "add", "r", "x"),
    )
    graph = Graph(nodes, ("s",))
    return graph.replace(weights={k: Array(*shape) for k, shape in graph.param_shapes.items()})


def test_edited_removes_what_nobody_needs_and_its_weights() -> None:
    graph = chain().edited(rewire={"b": "c"})
    assert [node.name for node in graph.nodes] == ["x", "c", "r", "s"]
    assert graph["r"].inputs == ("c",)
    assert set(graph.weights) == {"c.weight", "c.bias"}
    graph = chain().edited(rewire={"s": "b"})
    assert graph.outputs == ("b",)
    assert [node.name for node in graph.nodes] == ["x", "c", "b"]
    graph = chain().edited(rewire={"r": "b", "b": "x"})  # r → b → x
    assert [node.name for node in graph.nodes] == ["x", "s"]
    assert graph["s"].inputs == ("x", "x")


def test_edited_puts_nodes_in_place_and_orders_them() -> None:
    two = [Node.of("b2", "relu", "b1"), Node.of("b1", "neg", "c")]
    graph = chain().edited(nodes={"b": two}, rewire={"b": "b2"}, weights={"c.bias": Array(4), "stray": Array(1)})
    assert [node.name for node in graph.nodes] == ["x", "c", "b1", "b2", "r", "s"]
    assert set(graph.weights) == {"c.weight", "c.bias"}
    wider = chain().edited(nodes={"c": chain()["c"].with_attrs(bias=False)})
    assert set(wider.weights) >= {"c.weight", "b.running_mean"}
    assert "c.bias" not in wider.weights
    assert chain().edited(nodes={"s": [], "r": []}, rewire={"s": "b"}).outputs == ("b",)


def test_edited_refuses_loops_and_names_that_are_not_there() -> None:
    refused(GraphError, "is rewired to itself", lambda: chain().edited(rewire={"b": "c", "c": "b"}))
    refused(GraphError, "r: its input 'gone' is not a node before it", lambda: chain().edited(rewire={"b": "gone"}))
    refused(
        GraphError,
        "a network has no cycles",
        lambda: chain().edited(nodes={"c": Node.of("c", "conv", "r", out=4, kernel=(1, 1))}),
    )


def test_inputs_survive_edits() -> None:
    graph = Graph((X, Node.of("y", "input", shape=(2,)), Node.of("r", "relu", "x")), ("r",)).edited()
    assert [node.name for node in graph.inputs] == ["x", "y"]


def test_looking_up() -> None:
    graph = chain()
    assert graph["b"].op == "batchnorm"
    assert [n.name for n in graph.consumers["x"]] == ["c", "s"]
    assert graph.consumers["s"] == ()
    refused(GraphError, "network has no node 'z'", lambda: graph["z"])


# ---------------------------------------------------------------------------------------------- large graphs


def test_twenty_thousand_nodes() -> None:
    """Everything here walks the graph once: a quadratic step would take minutes, a recursive one would overflow."""
    size = 20_000
    nodes = [Node.of("n0", "input", shape=(2, 8))]
    for i in range(1, size):
        if i % 3:
            nodes.append(Node.of(f"n{i}", "relu", f"n{i - 1}"))
        else:
            nodes.append(Node.of(f"n{i}", "add", f"n{i - 1}", f"n{max(0, i - 3)}"))
    last = f"n{size - 1}"
    graph = Graph(tuple(nodes), (last,))
    assert topological(list(reversed(nodes))) == tuple(nodes)
    assert count(graph).total.out_bytes == size * 64
    assert len(fields(graph)) == size
    # every relu taken out at once: rewiring follows chains of any length
    relus = {node.name: node.inputs[0] for node in nodes if node.op == "relu"}
    assert len(graph.edited(rewire=relus).nodes) == 1 + (size - 1) // 3
    everything = {f"n{i}": f"n{i - 1}" for i in range(1, size)}
    assert graph.edited(rewire=everything).outputs == ("n0",)


def test_work_per_node_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shape inferences are counted: each node's once, and once more for its parameters' shapes."""
    calls = 0
    infer = Node.infer

    def counted(self: Node, shapes: Any) -> Any:
        nonlocal calls
        calls += 1
        return infer(self, shapes)

    monkeypatch.setattr(Node, "infer", counted)
    nodes = [Node.of("n0", "input", shape=(2,))] + [Node.of(f"n{i}", "relu", f"n{i - 1}") for i in range(1, 500)]
    graph = Graph(tuple(nodes), ("n499",))
    count(graph)
    count(graph)
    assert calls <= 3 * 499


def test_every_operator_has_a_row_that_is_whole() -> None:
    for name, op in OPS.items():
        assert op.name == name
        assert set(op.main) <= set(op.attrs), name
        assert op.inputs[0] <= op.inputs[1], name
        assert bool(op.macs_inside) <= bool(op.macs), name
        for attr, spec in op.attrs.items():  # taken as they stand where nothing is given
            assert repr(convert(name, attr, spec, spec.default)) == repr(spec.default), (name, attr)
