"""Which whole numbers and truth values kernels can hold as float32: those that are known to stay below 2²⁴ in size.

Truth values are 0 and 1. Of whole numbers it is known where they come from: places along an axis (TopK, ArgMax),
constants, types of up to 16 bits, and what is computed of these. Whatever is not known stays with NumPy in its own
type.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from math import ceil, floor, isfinite, prod
from typing import Any

import numpy as np

from dojang.arith.graph import Graph, Node
from dojang.arith.ops import STANDARD
from dojang.arith.shapes import Shape
from dojang.arith.standard import REAL

Bounds = tuple[float, float]

MOST = 1 << 24
"""Whole numbers below it in size are float32 numbers, each of them."""

RANGES: Mapping[str, Bounds] = {
    "bool": (0, 1), "int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "uint16": (0, 65535),
    "int32": (-MOST + 1, MOST - 1), "uint32": (0, MOST - 1), "int64": (-MOST + 1, MOST - 1), "uint64": (0, MOST - 1),
}  # fmt: skip
"""By type, the numbers that can be held."""


def held(graph: Graph, shapes: Mapping[str, Shape | None]) -> Mapping[str, Bounds]:
    """What the numbers of values lie between, where that is known: whole numbers and truth values that have an entry
    can be held by kernels. Empty for a network of real numbers alone.

    Inputs of the network that are looked up with, and nothing else, have the bounds that the look-ups ask for
    (`asked`): whoever runs the network has to see to it.
    """
    if all(kind in REAL for kind in graph.types.values()):
        return {}
    return Known(graph, shapes).bounds


def asked(graph: Graph, shapes: Mapping[str, Shape | None]) -> Mapping[str, Bounds]:
    """The inputs of long whole numbers that are places along axes and nothing else, and which places there are."""
    found: dict[str, Bounds] = {}
    for node in graph.inputs:
        kind = graph.types[node.name]
        size = _least(graph, shapes, node.name) if kind in RANGES and small(kind) is None else None
        if size is not None and 0 < size < MOST:
            found[node.name] = (-size, size - 1)
    return found


def _least(graph: Graph, shapes: Mapping[str, Shape | None], name: str) -> int | None:
    """The places of the shortest axis that a value is looked up with; None where it is also something else."""
    least: int | None = None
    for reader in graph.consumers[name]:
        kind = reader.attrs["kind"] if reader.op == STANDARD else ""
        if reader.op in ("reshape", "flatten", "squeeze", "unsqueeze", "transpose", "slice", "identity") or (
            kind == "Cast" and graph.types[reader.name] in ("int32", "int64")
        ):
            size = _least(graph, shapes, reader.name) if reader.name not in graph.outputs else None
        elif kind in ("Gather", "GatherElements") and reader.inputs[1] == name != reader.inputs[0]:
            shape = shapes[reader.inputs[0]]
            size = shape[settings(reader).get("axis", 0) % len(shape)] if shape else None
        else:
            size = None
        if size is None:
            return None
        least = size if least is None else min(least, size)
    return least if name not in graph.outputs else None


class Known:
    """The bounds of values, node after node."""

    def __init__(self, graph: Graph, shapes: Mapping[str, Shape | None]) -> None:
        """`shapes` for the batch in question."""
        self.graph, self.shapes, self.types = graph, shapes, graph.types
        self.bounds: dict[str, Bounds] = {}
        self.asked = asked(graph, shapes)
        for node in graph.nodes:
            found = self.of(node)
            if found is None:
                continue
            kind = self.types[node.name]
            low, high = RANGES.get(kind, (float("-inf"), float("inf")))
            if (kind in RANGES or kind in REAL) and low <= found[0] <= found[1] <= high:
                self.bounds[node.name] = found

    def of(self, node: Node) -> Bounds | None:
        """What the numbers of a node lie between; None where that is not known."""
        if node.op == "input":
            return self.asked.get(node.name) or small(self.types[node.name])
        if node.op == "constant":
            return self.constant(node)
        if node.op == STANDARD:
            rule = KINDS.get(node.attrs["kind"])
            return rule(self, node) if rule is not None else small(self.types[node.name])
        if self.types[node.name] == "bool" and node.op not in (*MOVES, "not"):
            return None  # arithmetic of truth values is another one
        rule = OPERATORS.get(node.op)
        return rule(self, node) if rule is not None else None

    def constant(self, node: Node) -> Bounds | None:
        """Of a constant whose numbers are there."""
        fill = node.attrs["fill"]
        if fill is not None:
            return float(fill), float(fill)
        arrays = [node.array(role) for role in self.graph.node_params(node)]
        if any(name not in self.graph.weights for name in arrays):
            return None
        value = np.asarray(self.graph.weights[arrays[0]])
        if value.dtype.kind not in "biuf" or not value.size:
            return None
        low, high = float(value.min()), float(value.max())
        return (low, high) if isfinite(low) and isfinite(high) else None

    def all(self, names: Sequence[str]) -> list[Bounds] | None:
        """The bounds of some values; None if one has none."""
        found = [self.bounds.get(name) for name in names]
        return [f for f in found if f is not None] if None not in found else None

    def places(self, name: str, axis: int) -> int | None:
        """The places of an axis of a value."""
        shape = self.shapes[name]
        return shape[axis % len(shape)] if shape else None


def small(kind: str) -> Bounds | None:
    """The bounds that a type has by itself."""
    return RANGES[kind] if kind in RANGES and kind not in ("int32", "uint32", "int64", "uint64") else None


def hull(found: Sequence[Bounds] | None) -> Bounds | None:
    """The bounds of any of some values."""
    return (min(f[0] for f in found), max(f[1] for f in found)) if found else None


def moved(k: Known, node: Node) -> Bounds | None:
    """Of an operator that gives numbers of its inputs."""
    return hull(k.all(node.inputs))


def padded(k: Known, node: Node) -> Bounds | None:
    """The same, and what is put around."""
    found, value = moved(k, node), float(node.attrs["value"])
    return hull([found, (value, value)]) if found is not None else None


def each(function: Callable[[float], float]) -> Callable[[Known, Node], Bounds | None]:
    """Of a function that does not fall."""

    def rule(k: Known, node: Node) -> Bounds | None:
        found = k.bounds.get(node.inputs[0])
        return None if found is None else (function(found[0]), function(found[1]))

    return rule


def corners(function: Callable[[float, float], float]) -> Callable[[Known, Node], Bounds | None]:
    """Of a function of two values that is extreme where both are; of more than two, one after the other."""

    def rule(k: Known, node: Node) -> Bounds | None:
        found = k.all(node.inputs)
        if not found:
            return None
        so_far = found[0]
        for other in found[1:]:
            ends = [function(a, b) for a, b in product(so_far, other)]
            so_far = min(ends), max(ends)
        return so_far

    return rule


def clipped(k: Known, node: Node) -> Bounds | None:
    """Between two numbers; where the input may be NaN so may the result, which is nothing between them."""
    found, low, high = k.bounds.get(node.inputs[0]), node.attrs["min"], node.attrs["max"]
    if found is None:
        return None
    ends = [min(max(f, low if low is not None else f), high if high is not None else float("inf")) for f in found]
    return ends[0], ends[1]


def absolute(k: Known, node: Node) -> Bounds | None:
    """|x|."""
    found = k.bounds.get(node.inputs[0])
    return None if found is None else (0.0, max(abs(found[0]), abs(found[1])))


def negative(k: Known, node: Node) -> Bounds | None:
    """−x."""
    found = k.bounds.get(node.inputs[0])
    return None if found is None else (-found[1], -found[0])


def quotient(k: Known, node: Node) -> Bounds | None:
    """a / b where b keeps away from 0."""
    found = k.all(node.inputs)
    if not found or len(found) != 2 or found[1][0] <= 0 <= found[1][1]:
        return None
    ends = [a / b for a, b in product(*found)]
    return min(ends), max(ends)


def real_quotient(k: Known, node: Node) -> Bounds | None:
    """A quotient of real numbers; of whole ones it would be another."""
    return quotient(k, node) if k.types[node.name] in REAL else None


def whole_quotient(k: Known, node: Node) -> Bounds | None:
    """The same without the part behind the point, for whole numbers."""
    found = quotient(k, node)
    return None if found is None else (float(int(found[0])), float(int(found[1])))


def total(k: Known, node: Node) -> Bounds | None:
    """A sum over axes."""
    found, shape = k.bounds.get(node.inputs[0]), k.shapes[node.inputs[0]]
    if found is None or shape is None:
        return None
    count = prod(shape[a % len(shape)] for a in node.attrs["axes"])
    return min(0.0, count * found[0]), max(0.0, count * found[1])


def summed(k: Known, node: Node) -> Bounds | None:
    """A sum over some axes, at most over all."""
    found, shape = k.bounds.get(node.inputs[0]), k.shapes[node.inputs[0]]
    if found is None or shape is None:
        return None
    return min(0.0, prod(shape) * found[0]), max(0.0, prod(shape) * found[1])


def so_far(k: Known, node: Node) -> Bounds | None:
    """Sums of all elements so far, along the axis that a constant names."""
    found, shape = k.bounds.get(node.inputs[0]), k.shapes[node.inputs[0]]
    if found is None or shape is None:
        return None
    longest = max(shape, default=1)
    return min(0.0, longest * found[0]), max(0.0, longest * found[1])


def settings(node: Node) -> dict[str, Any]:
    """The attributes of an operator of ONNX."""
    return json.loads(node.attrs["settings"])


def argument(k: Known, node: Node) -> Bounds | None:
    """Places along an axis."""
    size = k.places(node.inputs[0], settings(node).get("axis", 0))
    return (0, size - 1) if size else None


def top(k: Known, node: Node) -> Bounds | None:
    """Values, or their places along the axis."""
    if node.attrs["output"] == 0:
        return k.bounds.get(node.inputs[0])
    size = k.places(node.inputs[0], settings(node).get("axis", -1))
    return (0, size - 1) if size else None


def first(k: Known, node: Node) -> Bounds | None:
    """Numbers of the first input."""
    return k.bounds.get(node.inputs[0])


def chosen(k: Known, node: Node) -> Bounds | None:
    """Numbers of the second or third input."""
    return hull(k.all(node.inputs[1:]))


def written(k: Known, node: Node) -> Bounds | None:
    """Numbers of the first or third input, where they replace each other or the larger or smaller one stays."""
    if settings(node).get("reduction", "none") not in ("none", "max", "min"):
        return None
    return hull(k.all((node.inputs[0], node.inputs[2])))


def truth(k: Known, node: Node) -> Bounds | None:
    """0 or 1."""
    return 0, 1


def cast(k: Known, node: Node) -> Bounds | None:
    """The number, without what is behind the point."""
    kind = k.types[node.name]
    if kind == "bool":
        return 0, 1
    found = k.bounds.get(node.inputs[0])
    if found is None:
        return None
    return found if kind in REAL else (float(int(found[0])), float(int(found[1])))


def remainder(k: Known, node: Node) -> Bounds | None:
    """Less than a divisor above 0 in size."""
    found = k.bounds.get(node.inputs[1])
    if found is None or found[0] <= 0 or k.bounds.get(node.inputs[0]) is None:
        return None
    if k.types[node.name] in REAL:
        return None
    return (0 if not settings(node).get("fmod") else 1 - found[1]), found[1] - 1


def pool_places(k: Known, node: Node) -> Bounds | None:
    """Values of a pooling, or their places within the whole tensor."""
    shape = k.shapes[node.inputs[0]]
    if node.attrs["output"] == 0:
        return k.bounds.get(node.inputs[0])
    return (0, prod(shape) - 1) if shape else None


Rule = Callable[[Known, Node], Bounds | None]

MOVES = (
    "transpose", "reshape", "flatten", "squeeze", "unsqueeze", "slice", "gather", "concat", "identity", "dropout",
    "reduce_max", "reduce_min",
)  # fmt: skip
"""Operators that give numbers of their inputs."""

OPERATORS: Mapping[str, Rule] = {
    **dict.fromkeys(MOVES, moved),
    "pad": padded,
    "not": truth,
    "relu": each(lambda v: max(v, 0.0)),
    "floor": each(floor),
    "ceil": each(ceil),
    "round": each(round),
    "clip": clipped,
    "abs": absolute,
    "neg": negative,
    "sign": each(lambda v: float(np.sign(v))),
    "add": corners(lambda a, b: a + b),
    "sub": corners(lambda a, b: a - b),
    "mul": corners(lambda a, b: a * b),
    "maximum": corners(max),
    "minimum": corners(min),
    "div": real_quotient,
    "reduce_sum": total,
}
"""By dojang's own operators; real numbers too, where whole ones are made of them."""

KINDS: Mapping[str, Rule] = {
    **dict.fromkeys(
        ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Xor", "Not", "IsNaN", "IsInf"),
        truth,
    ),
    "Cast": cast,
    "Where": chosen,
    "ArgMax": argument,
    "ArgMin": argument,
    "TopK": top,
    "Expand": first,
    "Gather": first,
    "GatherElements": first,
    "GatherND": first,
    "ScatterElements": written,
    "Scatter": written,
    "ScatterND": written,
    "CumSum": so_far,
    "ReduceMax": first,
    "ReduceMin": first,
    "ReduceSum": summed,
    "CumProd": lambda k, node: None,
    "MaxPool": pool_places,
    "Mod": remainder,
    "Div": whole_quotient,
    "Add": corners(lambda a, b: a + b),
    "Sub": corners(lambda a, b: a - b),
    "Mul": corners(lambda a, b: a * b),
    "Max": corners(max),
    "Min": corners(min),
    "Abs": absolute,
    "Neg": negative,
}
"""By the operator of ONNX: those that kernels compute. Of others, which NumPy computes, a small type says enough."""
