"""Which nodes of a network are computed by one kernel: convolution + batch norm + addition + activation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from math import prod
from types import MappingProxyType

import numpy as np

from dojang.arith.attrs import Attrs
from dojang.arith.graph import Graph, Node, reachable
from dojang.arith.ops import OPS
from dojang.arith.shapes import Shape
from dojang.arith.table import Table, because
from dojang.engine.eight import EightFusion, EightPart
from dojang.engine.kernels.activations import NAMES, Activation
from dojang.engine.reference.elements import SELU_ALPHA, SELU_SCALE
from dojang.engine.whole import exact

CONVS = ("conv", "conv_transpose", "dense")
ALIASES = ("identity", "dropout")
JOINS = ("add", "sub", "mul", "div")
MOST_CHAINED = 8
"""Functions of one number that one step of a quantised network applies."""


NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Group:
    """Nodes that become one step. `node` computes, `norm` is folded into its weights, `residual` is added, then
    `activation` is applied; `value` is the node whose value this is. Inputs are values of other groups.
    """

    node: Node
    value: str
    inputs: tuple[str, ...]
    norm: Node | None = None
    residual: str | None = None
    activation: Activation | None = None
    members: tuple[str, ...] = ()
    eight: EightPart | None = None
    """What the group does in bytes, if it is computed so (`eight.py`)."""


@dataclass(frozen=True)
class Fused:
    """The groups of a network, in an order in which they can be computed, and who reads which value.

    `nodes` are those that something needs; `alias` says which value a node that changes nothing stands for; `shown` are
    the values that stay visible: outputs, and what was asked for. `real` says of quantised layers that are computed in
    real numbers why.
    """

    graph: Graph
    shapes: Mapping[str, Shape | None]
    groups: tuple[Group, ...]
    nodes: tuple[Node, ...]
    alias: Mapping[str, str]
    readers: Mapping[str, Sequence[Node]]
    shown: Set[str]
    real: Mapping[str, str] = field(default_factory=dict[str, str])

    def source(self, name: str) -> str:
        """The value that a name stands for, through nodes that change nothing."""
        return self.alias.get(name, name)

    def read_once(self, value: str) -> bool:
        """Whether one node reads a value, and nobody asked for it."""
        return value not in self.shown and len(self.readers.get(value, ())) == 1


def fuse(
    graph: Graph, shapes: Mapping[str, Shape | None], keep: Set[str], eight: bool = False,
    floats: Mapping[str, str] = NONE,
) -> Fused:  # fmt: skip
    """Groups of nodes that become one kernel each; values in `keep` and outputs stay visible. `eight`: whether
    quantised layers are computed in bytes, but for those in `floats`, which says why.
    """
    f = Fusion(graph, shapes, keep)
    groups = tuple(f.groups(eight, floats))
    return Fused(graph, shapes, groups, tuple(f.nodes), f.alias, f.readers, frozenset(f.shown), f.real)


def _clip(a: Attrs) -> Activation:
    low = float("-inf") if a["min"] is None else a["min"]
    high = float("inf") if a["max"] is None else a["max"]
    return Activation("clip", low, high)


def _named(name: str) -> Callable[[Attrs], Activation]:
    return lambda a: Activation(name)


ACTIVATIONS: Table[Callable[[Attrs], Activation]] = Table(
    "fusing",
    "applied by the kernel before it",
    __name__,
    {
        **{name: _named(name) for name in ("relu", "sigmoid", "silu", *sorted(NAMES))},
        "gelu": lambda a: Activation("gelu_tanh" if a["approximate"] == "tanh" else "gelu"),
        "elu": lambda a: Activation("elu", a["alpha"], 1.0),
        "selu": lambda a: Activation("elu", SELU_ALPHA, SELU_SCALE),
        "leaky_relu": lambda a: Activation("leaky_relu", a["slope"]),
        "hard_swish": lambda a: Activation("hard_swish", 1 / 6, 0.5),
        "hard_sigmoid": lambda a: Activation("hard_sigmoid", a["alpha"], a["beta"]),
        "clip": _clip,
        "fake_quantize": lambda a: Activation("fake_quantize", a["scale"], a["low"], a["high"]),
    },
    {op: "it is more than a function of one number" for op, rule in OPS.items() if rule.channels != "keep"}
    | because("it changes nothing: what reads it reads what it reads", "identity dropout")
    | because("it has values for each channel; a batch norm goes into the weights before it", "batchnorm prelu")
    | because("it is of truth values, which no kernel computes; the reference does", "not"),
)
"""The activations that kernels apply where they store results, from the attributes of the operator."""


def activation_of(node: Node) -> Activation | None:
    """The activation that a node is, if kernels can apply it."""
    rule = ACTIVATIONS.find(node)
    return rule(node.attrs) if rule else None


class Fusion:
    """Finds the groups of a network; values in `keep` and outputs stay visible."""

    def __init__(self, graph: Graph, shapes: Mapping[str, Shape | None], keep: Set[str]) -> None:
        """`shapes` for the batch in question."""
        self.graph, self.shapes = graph, shapes
        self.wanted = {*graph.outputs, *keep}
        self.alias: dict[str, str] = {}
        live = reachable(graph.nodes, self.wanted)
        self.nodes = [n for n in graph.nodes if n.name in live]
        for node in self.nodes:
            if node.op in ALIASES:
                self.alias[node.name] = self.source(node.inputs[0])
        self.readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            if node.op not in ALIASES:
                for name in dict.fromkeys(self.source(i) for i in node.inputs):
                    self.readers.setdefault(name, []).append(node)
        self.shown = {self.source(name) for name in self.wanted}
        self.taken: set[str] = set()
        self.exact = exact(graph)
        self.real: Mapping[str, str] = {}

    def source(self, name: str) -> str:
        """The value that a name stands for, through nodes that change nothing."""
        return self.alias.get(name, name)

    def activation_of(self, node: Node) -> Activation | None:
        """As `activation_of`."""
        return activation_of(node)

    def only_reader(self, name: str) -> Node | None:
        """The one node that reads a value, if nothing else needs it and it is not spoken for."""
        readers = self.readers.get(name, [])
        if len(readers) != 1 or name in self.shown or readers[0].name in self.taken:
            return None
        return readers[0]

    def groups(self, eight: bool = False, floats: Mapping[str, str] = NONE) -> list[Group]:
        """All groups, in an order in which they can be computed."""
        by_value: dict[str, Group] = {}
        if eight:
            in_bytes = EightFusion(self, floats)
            for node, value, inputs, members, part in in_bytes.groups():
                by_value[value] = Group(node, value, inputs, members=members, eight=part)
            self.real = in_bytes.real
        # Later convolutions claim additions first: what they add has then been computed before.
        for node in reversed(self.nodes):
            if node.op in CONVS and node.name not in self.taken:
                self.keep(by_value, self.convolution(node))
        for node in self.nodes:
            if node.op not in (*CONVS, *ALIASES, "input") and node.name not in self.taken:
                self.keep(by_value, self.other(node))
        return [by_value[node.name] for node in self.nodes if node.name in by_value]

    def keep(self, by_value: dict[str, Group], group: Group) -> None:
        """Notes a group and the nodes it takes."""
        by_value[group.value] = group
        self.taken.update(group.members)

    def convolution(self, node: Node) -> Group:
        """A convolution with what can be fused behind it."""
        group = Group(node, node.name, tuple(self.source(i) for i in node.inputs), members=(node.name,))
        nxt = self.only_reader(group.value)
        if nxt is not None and nxt.op == "batchnorm" and node.op != "dense" and node.name not in self.exact:
            group = replace(group, norm=nxt, value=nxt.name, members=(*group.members, nxt.name))
            nxt = self.only_reader(group.value)
        if nxt is not None and nxt.op == "add" and node.op != "dense" and len(nxt.inputs) == 2:
            pair = [self.source(i) for i in nxt.inputs]
            other = pair[0] if pair[1] == group.value else pair[1]
            same = self.shapes[other] == self.shapes[group.value]
            if pair[0] != pair[1] and same:
                group = replace(group, residual=other, value=nxt.name, members=(*group.members, nxt.name))
        return self.activated(group)

    def other(self, node: Node) -> Group:
        """Any other node; sums, products and batch norms take an activation behind them."""
        group = Group(node, node.name, tuple(self.source(i) for i in node.inputs), members=(node.name,))
        if node.op in ("batchnorm", "add", "sub", "mul", "div", "maximum", "minimum"):
            return self.activated(group)
        return group

    def activated(self, group: Group) -> Group:
        """The group with the activation that follows it, if any."""
        chained = group.node.name in self.exact or (bool(self.exact) and group.node.op in JOINS)
        found: list[Activation] = []
        while len(found) < (MOST_CHAINED if chained else 1):
            nxt = self.only_reader(group.value)
            act = activation_of(nxt) if nxt is not None else None
            if act is None and chained and nxt is not None:
                act = self.with_number(nxt, group.value)
            if nxt is None or act is None:
                break
            found.append(act)
            group = replace(group, value=nxt.name, members=(*group.members, nxt.name))
        whole: Activation | None = None
        for act in reversed(found):
            whole = replace(act, then=whole)
        return replace(group, activation=whole)

    def with_number(self, node: Node, value: str) -> Activation | None:
        """A product with, a sum of, or a share by one number, in a quantised network."""
        name = {"mul": "times", "add": "plus", "sub": "plus", "div": "over"}.get(node.op)
        if name is None or len(node.inputs) != 2 or self.shapes[node.name] != self.shapes[value]:
            return None
        pair = [self.source(i) for i in node.inputs]
        other = pair[1] if pair[0] == value else pair[0] if node.op in ("mul", "add") else None
        constant = self.graph[other] if other is not None and other != value else None
        if constant is None or constant.op != "constant" or prod(constant.attrs["shape"]) != 1:
            return None
        number = constant.attrs["fill"]
        if number is None and constant.array("value") in self.graph.weights:
            number = float(np.reshape(self.graph.weights[constant.array("value")], ()))
        if number is None:
            return None
        return Activation(name, -number if node.op == "sub" else number)
