"""Quantised values in the kernels of real numbers: whole numbers below 2²⁴ in size are exact in float32.

Steps of whole numbers become steps of real ones that give the same: a sum of products is exact in any order where the
sizes of all its terms add up to less than 2²⁴, which is checked against the weights and the type of the inputs; such
layers are computed without Winograd and Fourier. What cannot be shown exact stays as it is, in NumPy.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dojang.arith.graph import Graph, Node
from dojang.arith.ops import STANDARD
from dojang.arith.standard import SINGLE
from dojang.engine.reference.standard.quantised import RANGES

EXACT = "engine: exact"
"""Key of `Graph.meta` within the engine: names of layers, one a line, whose sums must be those of the definition."""

MOST = 1 << 24
WHOLE = frozenset(("int2", "uint2", "int4", "uint4", "int8", "uint8", "int16", "uint16", "int32"))
MOVES = frozenset(
    "transpose reshape flatten squeeze unsqueeze slice gather concat maxpool identity dropout relu".split()
)
"""Operators that give numbers of their inputs, or 0."""
CODES = {"int8": 3, "uint8": 2, "uint16": 4, "int16": 5, "int32": 6, "int4": 22, "uint4": 21, "int2": 26, "uint2": 25}

Bounds = tuple[int, int]
Made = list[Node] | None


def exact(graph: Graph) -> frozenset[str]:
    """The layers whose sums must be those of the definition."""
    return frozenset(graph.meta.get(EXACT, "").split("\n")) - {""}


def whole_numbers(graph: Graph) -> Graph:
    """The network with its quantised steps in real numbers wherever these are exact; others are given back as they
    are, and so are networks without weights.
    """
    if not graph.weights or all(kind in SINGLE for kind in graph.types.values()):
        return graph
    made = Conversion(graph)
    return made.result() if made.exact else graph


class Conversion:
    """The nodes so far. `real` are whole values that now are real numbers, with their bounds."""

    def __init__(self, graph: Graph) -> None:
        """Goes through all nodes in order."""
        self.graph, self.types = graph, graph.types
        self.nodes: list[Node] = []
        self.weights = dict(graph.weights)
        self.real: dict[str, Bounds] = {}
        self.axes: dict[str, int] = {}
        self.alias: dict[str, str] = {}  # values that are not what the network calls so in every bit
        self.wide: dict[str, str] = {}  # one number for a whole tensor: the same with as many axes as that has
        self.dynamic: dict[str, tuple[str, str, str]] = {}  # x: whole numbers, scale, zero point (the last two wide)
        self.before_zero: dict[str, tuple[str, float]] = {}  # value + zero point: the value, the zero point
        self.names = set(graph.by_name)
        self.exact: set[str] = set()
        self.constants: dict[str, np.ndarray] = {}
        many = [2, 3] if graph.has_batch else [1, 1]
        self.shapes = [graph.shapes(n) for n in many]
        self.cast: dict[tuple[str, str], str] = {}
        for node in graph.nodes:
            made = None if node.name in graph.outputs and self.types[node.name] in WHOLE else self.converted(node)
            if made is None:
                made = [self.as_it_was(node)]
            self.nodes += made

    def result(self) -> Graph:
        """The network."""
        meta = {**self.graph.meta, EXACT: "\n".join(sorted(self.exact))}
        return self.graph.replace(nodes=tuple(self.nodes), weights=self.weights, meta=meta)

    # -- values ------------------------------------------------------------------------------------------------------

    def fresh(self, name: str) -> str:
        """A name that is not used yet."""
        while name in self.names:
            name += "'"
        self.names.add(name)
        return name

    def rounds(self, name: str) -> bool:
        """Whether a value of real numbers is made by rounding, or moved after that."""
        node = self.graph[name]
        while node.op in ("reshape", "unsqueeze", "squeeze", "transpose", "identity"):
            node = self.graph[node.inputs[0]]
        return node.op in ("floor", "ceil", "round")

    def moves_to_add(self, node: Node) -> bool:
        """Whether a node hands numbers on to sums alone."""
        if node.op == STANDARD:
            return node.attrs["kind"] == "Add"
        moved = node.op in ("reshape", "unsqueeze", "squeeze", "transpose", "identity")
        return moved and all(self.moves_to_add(r) for r in self.graph.consumers[node.name])

    def number(self, name: str) -> np.ndarray | None:
        """The numbers of a constant; None for other values."""
        node = self.graph[name]
        if node.op != "constant":
            return None
        if name not in self.constants:
            if node.attrs["fill"] is not None:
                value = np.full(node.attrs["shape"], node.attrs["fill"], np.float64)
            else:
                value = np.asarray(self.graph.weights[node.array("value")], np.float64).reshape(node.attrs["shape"])
            self.constants[name] = value
        return self.constants[name]

    def constant(self, stem: str, value: Any) -> str:
        """A new constant of real numbers."""
        array = np.asarray(value, np.float32)
        name = self.fresh(stem)
        if array.ndim == 0:
            self.nodes.append(Node.of(name, "constant", shape=(), fill=float(array)))
        else:
            self.nodes.append(Node.of(name, "constant", shape=array.shape, arrays={"value": f"{name}.value"}))
            self.weights[f"{name}.value"] = array
        return name

    def as_real(self, name: str) -> tuple[str, Bounds] | None:
        """A whole value as real numbers, and its bounds; None where it cannot be one."""
        if name in self.real:
            return self.alias.get(name, name), self.real[name]
        kind = self.types[name]
        if kind not in RANGES or kind == "int32" or self.number(name) is not None:
            return None
        made = self.casted(name, "float32", 1)
        return None if made is None else (made, RANGES[kind])

    def casted(self, name: str, kind: str, code: int) -> str | None:
        """A value in another type, by a step in NumPy."""
        key = name, kind
        if key not in self.cast:
            a, b = (shapes[name] for shapes in self.shapes)
            if a is None or b is None or len(a) != len(b):
                return None
            axes = [k for k, (p, q) in enumerate(zip(a, b, strict=True)) if p != q]
            if len(axes) > 1 or any(a[k] != 2 for k in axes):
                return None
            axis = axes[0] if axes else -1
            shape = tuple(s for k, s in enumerate(a) if k != axis)
            title = self.fresh(f"{name} as {kind}")
            settings = json.dumps({"to": code})
            self.nodes.append(
                Node.of(title, STANDARD, name, kind="Cast", settings=settings, dtype=kind, shape=shape, batch_axis=axis)
            )
            self.cast[key] = title
        return self.cast[key]

    def as_it_was(self, node: Node) -> Node:
        """A node that stays, its whole inputs whole again."""
        changed = {name: self.casted(name, self.types[name], CODES[self.types[name]])
                   for name in node.inputs if name in self.real}  # fmt: skip
        if not changed or node.op == "input":
            return node
        inputs = tuple(changed.get(name) or name for name in node.inputs)
        return Node.of(node.name, node.op, *inputs, arrays=node.arrays, **node.attrs)

    # -- operators ---------------------------------------------------------------------------------------------------

    def converted(self, node: Node) -> Made:
        """A node in real numbers; None where it stays."""
        kind, whole = self.types[node.name], [name for name in node.inputs if self.types[name] in WHOLE]
        if node.op == STANDARD:
            rule = RULES.get(node.attrs["kind"])
            return rule(self, node) if rule is not None else None
        if node.op in ("mul", "add", "sub", "div") and any(name in self.wide for name in node.inputs):
            return self.with_wide(node)
        if kind not in WHOLE or not whole or node.op in ("input", "constant"):
            return None
        if node.op in ("conv", "dense", "conv_transpose"):
            return self.layer(node)
        if node.op in MOVES and len(whole) == len(node.inputs):
            found = [self.as_real(name) for name in node.inputs]
            if any(f is None for f in found):
                return None
            sources, bounds = [f[0] for f in found if f], [f[1] for f in found if f]
            self.real[node.name] = min(0, *(b[0] for b in bounds)), max(0, *(b[1] for b in bounds))
            return [Node.of(node.name, node.op, *sources, arrays=node.arrays, **node.attrs)]
        return None

    def with_wide(self, node: Node) -> Made:
        """A product or a sum with one number for a whole tensor, which is read with all its axes."""
        if len(node.inputs) != 2 or kinds_differ(self.types, node):
            return None
        ranks = [len(self.shapes[0][name] or ()) for name in node.inputs]
        inputs = tuple(self.wide.get(name, name) for name in node.inputs)
        if max(ranks) > 0:
            fits = all(len(self.wide_shape(n)) == max(ranks) for n in node.inputs if n in self.wide)
            return [Node.of(node.name, node.op, *inputs)] if fits else None
        made = Node.of(self.fresh(f"{node.name} wide"), node.op, *inputs)
        self.wide[node.name], self.axes[node.name] = made.name, max(self.axes.get(n, 0) for n in node.inputs)
        return [made, Node.of(node.name, "reshape", made.name, shape=())]

    def wide_shape(self, name: str) -> tuple[int, ...]:
        """The shape of a wide number."""
        return (1,) * self.axes[name]

    def layer(self, node: Node) -> Made:
        """A convolution or a dense layer whose sums are exact."""
        found = self.as_real(node.inputs[0])
        arrays = {role: node.array(role) for role in self.graph.node_params(node)}
        if found is None or len(node.inputs) != 1 or any(name not in self.graph.weights for name in arrays.values()):
            return None
        weight = np.asarray(self.graph.weights[arrays["weight"]], np.float64)
        largest = max(abs(found[1][0]), abs(found[1][1]))
        if node.op == "conv_transpose":  # every weight of an output channel and group, at most
            terms = np.abs(weight).sum()
        else:
            terms = np.abs(weight).reshape(len(weight), -1).sum(1).max(initial=0)
        bias = np.asarray(self.graph.weights[arrays["bias"]], np.float64) if "bias" in arrays else np.zeros(1)
        most = largest * terms + np.abs(bias).max(initial=0)
        if most >= MOST or not np.array_equal(weight, np.rint(weight)) or not np.array_equal(bias, np.rint(bias)):
            return None
        for name in arrays.values():
            self.weights[name] = np.asarray(self.graph.weights[name], np.float32)
        self.exact.add(node.name)
        self.real[node.name] = -int(most), int(most)
        return [Node.of(node.name, node.op, found[0], arrays=node.arrays, **node.attrs)]

    def quantised(self, name: str, x: str, scale: np.ndarray, zero: float, kind: str) -> Made:
        """round(x / scale) + zero, held within a type."""
        low, high = RANGES[kind]
        nodes: list[Node] = []
        if not np.array_equal(scale, 1.0):
            over = self.constant(f"{name} scale", scale)
            nodes.append(Node.of(self.fresh(f"{name} share"), "div", x, over))
            x = nodes[-1].name
        rounded = {"scale": 1.0, "low": int(low - zero), "high": int(high - zero)}
        self.real[name] = low, high
        if not zero:
            return [*nodes, Node.of(name, "fake_quantize", x, **rounded)]
        point = self.constant(f"{name} zero", zero)
        nodes.append(Node.of(self.fresh(f"{name} round"), "fake_quantize", x, **rounded))
        self.before_zero[name] = nodes[-1].name, zero
        return [*nodes, Node.of(name, "add", nodes[-1].name, point)]

    def centred(self, name: str, zero: float) -> tuple[list[Node], str, Bounds] | None:
        """A whole value less its zero point."""
        found = self.as_real(name)
        if found is None:
            return None
        value, (low, high) = found
        bounds = int(low - zero), int(high - zero)
        if not zero:
            return [], value, bounds
        if name in self.before_zero and self.before_zero[name][1] == zero:
            return [], self.before_zero[name][0], bounds
        node = Node.of(self.fresh(f"{name} centred"), "sub", value, self.constant(f"{name} point", zero))
        return [node], node.name, bounds

    def scale_of(self, node: Node, name: str, like: str) -> np.ndarray | None:
        """A scale: one number, or one for each place of an axis, shaped to go with a value."""
        value, shape = self.number(name), self.shapes[0][like]
        if value is None or shape is None:
            return None
        settings = json.loads(node.attrs["settings"])
        if value.size == 1:
            return value.reshape(()).astype(np.float32)
        axis = settings.get("axis", 1) % len(shape)
        if settings.get("block_size") or value.ndim != 1 or value.size != shape[axis]:
            return None
        return value.reshape([-1 if k == axis else 1 for k in range(len(shape))]).astype(np.float32)

    def single(self, name: str | None) -> float | None:
        """A zero point that is one number; 0 where it is left out."""
        if name is None:
            return 0.0
        value = self.number(name)
        return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None

    def given(self, node: Node) -> dict[int, str]:
        """The inputs of a node by their places."""
        return dict(zip(node.attrs["places"] or range(len(node.inputs)), node.inputs, strict=True))


def kinds_differ(types: Mapping[str, str], node: Node) -> bool:
    """Whether a node reads something else than float32."""
    return any(types[name] != "float32" for name in node.inputs)


LARGE = (-(1 << 40), 1 << 40)
"""Bounds of sums that are rounded as a cast to float32 rounds them, so that only such a cast may read them."""


def _dynamic(c: Conversion, node: Node) -> Made:
    """uint8 over the range of the whole tensor, which includes 0."""
    x, place = node.inputs[0], node.attrs["output"]
    shape = c.shapes[0][x]
    if c.types[x] != "float32" or shape is None or len(shape) < 2 or 0 in shape or node.name in c.graph.outputs:
        return None
    nodes: list[Node] = []

    def add(what: str, op: str, *inputs: str, **attrs: Any) -> str:
        nodes.append(Node.of(c.fresh(f"{x} {what}"), op, *inputs, **attrs))
        return nodes[-1].name

    if x not in c.dynamic:
        zero, axes = c.constant(f"{x} nothing", 0.0), tuple(range(len(shape)))
        high = add("high", "maximum", add("most", "reduce_max", x, axes=axes, keepdims=True), zero)
        low = add("low", "minimum", add("least", "reduce_min", x, axes=axes, keepdims=True), zero)
        share = add("step", "div", add("span", "sub", high, low), c.constant(f"{x} 255", 255.0))
        # 1 where all is 0: the share and 1 less its sign
        none = add("none", "sub", c.constant(f"{x} one", 1.0), add("some", "sign", share))
        scale = add("scale", "add", share, none)
        point = add(
            "point", "fake_quantize", add("start", "div", add("below", "neg", low), scale), scale=1.0, low=0, high=255
        )
        rounded = add("rounded", "round", add("parts", "div", x, scale))
        c.dynamic[x] = add("whole", "clip", add("moved", "add", rounded, point), min=0.0, max=255.0), scale, point
    value, scale, point = c.dynamic[x]
    if place:
        c.wide[node.name], c.axes[node.name] = (scale, point)[place - 1], len(shape)
    if place != 1:
        c.real[node.name] = (0, 255)
    return [*nodes, Node.of(node.name, "reshape", c.wide[node.name], shape=()) if place else
            Node.of(node.name, "identity", value)]  # fmt: skip


def _add(c: Conversion, node: Node) -> Made:
    """A sum of whole numbers that only casts to float32 read: it is rounded once, as they round."""
    readers = c.graph.consumers[node.name]
    cast = all(r.op == STANDARD and r.attrs["kind"] == "Cast" and c.types[r.name] == "float32" for r in readers)
    found = [c.as_real(name) for name in node.inputs]
    if not cast or not readers or any(f is None or (f[1][1] >= MOST and f[1] != WRITTEN) for f in found):
        return None
    c.real[node.name], c.alias[node.name] = LARGE, c.fresh(f"{node.name} rounded")
    return [Node.of(c.alias[node.name], "add", *(f[0] for f in found if f))]


WRITTEN = (-(1 << 41), 1 << 41)
"""Bounds of whole numbers of any size that float32 numbers are."""


def _cast(c: Conversion, node: Node) -> Made:
    source = node.inputs[0]
    kind = c.types[node.name]
    if c.types[source] == "float32" and kind == "int32" and c.rounds(source):
        readers = c.graph.consumers[node.name]
        if not all(c.moves_to_add(r) for r in readers):
            return None
        c.real[node.name] = WRITTEN
        return [Node.of(node.name, "identity", source)]
    if source in c.wide:
        c.wide[node.name], c.axes[node.name] = c.wide[source], c.axes[source]
    if c.types[source] not in WHOLE or (kind not in WHOLE and kind != "float32"):
        return None
    found = c.as_real(source)
    if found is None:
        return None
    if kind in WHOLE:
        low, high = RANGES[kind]
        if not low <= found[1][0] <= found[1][1] <= high:
            return None
        c.real[node.name] = found[1]
        if source in c.before_zero:
            c.before_zero[node.name] = c.before_zero[source]
    return [Node.of(node.name, "identity", found[0])]


def _sub(c: Conversion, node: Node) -> Made:
    if node.inputs[1] in c.wide and c.types[node.name] in WHOLE:
        found, point = c.as_real(node.inputs[0]), c.wide[node.inputs[1]]
        shape = c.shapes[0][node.inputs[0]]
        if found is None or shape is None or len(shape) != c.axes[node.inputs[1]]:
            return None
        c.real[node.name] = found[1][0] - 255, found[1][1]
        return [Node.of(node.name, "sub", found[0], point)]
    zero = c.single(node.inputs[1]) if c.types[node.name] in WHOLE else None
    found = c.centred(node.inputs[0], zero) if zero is not None else None
    if found is None or abs(found[2][0]) >= MOST or abs(found[2][1]) >= MOST:
        return None
    nodes, value, c.real[node.name] = found
    return [*nodes, Node.of(node.name, "identity", value)]


def _quantize(c: Conversion, node: Node) -> Made:
    given, kind = c.given(node), c.types[node.name]
    scale = c.scale_of(node, given[1], given[0]) if 1 in given else None
    zero = c.single(given.get(2))
    if c.types[given[0]] != "float32" or scale is None or zero is None or kind not in CODES or kind == "int32":
        return None
    return c.quantised(node.name, given[0], scale, zero, kind)


def _dequantize(c: Conversion, node: Node) -> Made:
    given = c.given(node)
    scale, zero = c.scale_of(node, given[1], given[0]), c.single(given.get(2))
    if scale is None or zero is None or c.types[given[0]] in ("int32", "float32") or c.types[node.name] != "float32":
        return None
    found = c.centred(given[0], zero)
    if found is None:
        return None
    return [*found[0], Node.of(node.name, "mul", found[1], c.constant(f"{node.name} scale", scale))]


def _pair(op: str) -> Callable[[Conversion, Node], Made]:
    """A function of two quantised values, quantised again."""

    def rule(c: Conversion, node: Node) -> Made:
        given, kind = c.given(node), c.types[node.name]
        scales = [c.scale_of(node, given[k], given[0]) if k in given else None for k in (1, 4, 6)]
        zeros = [c.single(given.get(k)) for k in (2, 5, 7)]
        if any(s is None or s.size != 1 for s in scales) or None in zeros or kind not in CODES or kind == "int32":
            return None
        one, two = c.centred(given[0], zeros[0] or 0.0), c.centred(given[3], zeros[1] or 0.0)
        if one is None or two is None:
            return None
        nodes, parts = [*one[0], *two[0]], list[str]()
        for found, scale in zip((one, two), scales, strict=False):
            factor = c.constant(f"{node.name} factor", scale)
            nodes.append(Node.of(c.fresh(f"{node.name} part"), "mul", found[1], factor))
            parts.append(nodes[-1].name)
        nodes.append(Node.of(c.fresh(f"{node.name} value"), op, *parts))
        last = scales[2]
        assert last is not None
        return [*nodes, *(c.quantised(node.name, nodes[-1].name, last, zeros[2] or 0.0, kind) or [])]

    return rule


def _max_pool(c: Conversion, node: Node) -> Made:
    said, found = json.loads(node.attrs["settings"]), c.as_real(node.inputs[0])
    if found is None or node.attrs["output"] or said.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    rank = len(said["kernel_shape"])
    pads, ones = said.get("pads") or [0] * (2 * rank), [1] * rank
    c.real[node.name] = found[1]
    return [
        Node.of(
            node.name, "maxpool", found[0], kernel=said["kernel_shape"], stride=said.get("strides") or ones,
            padding=list(zip(pads[:rank], pads[rank:], strict=True)), dilation=said.get("dilations") or ones,
            ceil=bool(said.get("ceil_mode")),
        )
    ]  # fmt: skip


RULES: Mapping[str, Callable[[Conversion, Node], Made]] = {
    "Cast": _cast,
    "Sub": _sub,
    "Add": _add,
    "DynamicQuantizeLinear": _dynamic,
    "MaxPool": _max_pool,
    "QuantizeLinear": _quantize,
    "com.microsoft.QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "com.microsoft.DequantizeLinear": _dequantize,
    "com.microsoft.QLinearAdd": _pair("add"),
    "com.microsoft.QLinearMul": _pair("mul"),
}
"""By the operator of ONNX."""

__all__: Sequence[str] = ("EXACT", "exact", "whole_numbers")
