"""What a network costs: parameters, MACs, bytes and peak memory, per layer and in total, and the convention used."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, NamedTuple, cast

from dojang.arith.border import Border
from dojang.arith.field import Field
from dojang.arith.graph import Graph, Node
from dojang.arith.ops import BYTES, OPS, STANDARD, UNKNOWN
from dojang.arith.parameters import NOTHING, Parameters, Read, parameters_of, reads_of
from dojang.arith.shapes import Shape
from dojang.arith.sight import Sight
from dojang.arith.standard import MACS
from dojang.arith.stored import Stored
from dojang.arith.symbol import Expr, largest
from dojang.base.result import Result

VIEWS = frozenset(op for op, rule in OPS.items() if rule.held.view in ("at inference", "always"))
"""Operators whose output shares the memory of their input at inference."""


@dataclass(frozen=True, slots=True)
class Convention:
    """How the figures were counted; printed with every table."""

    unit: str = "mac"
    batch: int = 1
    bias: bool = True
    exact_padding: bool = False

    def __str__(self) -> str:
        unit = "1 MAC = 1 multiply + 1 add" if self.unit == "mac" else "1 MAC = 2 FLOPs"
        taps = "taps on padding not counted" if self.exact_padding else "taps on padding counted"
        bias = "biases are parameters but not MACs" if self.bias else "biases left out"
        return (
            f"{unit}; {taps}; {bias}; pooling, activations and normalisation cost no MACs; float32, "
            f"batch {self.batch}; K = 1000"
        )

    def to_dict(self) -> dict[str, Any]:
        """All fields, and the same as a sentence."""
        own = {"unit": self.unit, "batch": self.batch, "bias": self.bias, "exact_padding": self.exact_padding}
        return {**own, "text": str(self)}


@dataclass(frozen=True, slots=True)
class Cost:
    """What a node or a whole network costs; costs can be added. `unknown` names operators that could not be counted."""

    weights: int = 0
    biases: int = 0
    macs: int = 0
    in_bytes: int = 0
    weight_bytes: int = 0
    out_bytes: int = 0
    unknown: tuple[str, ...] = ()

    @property
    def params(self) -> int:
        """weights + biases."""
        return self.weights + self.biases

    @property
    def status(self) -> str:
        """ "exact", or "lower-bound" when something could not be counted."""
        return "lower-bound" if self.unknown else "exact"

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.weights + other.weights,
            self.biases + other.biases,
            self.macs + other.macs,
            self.in_bytes + other.in_bytes,
            self.weight_bytes + other.weight_bytes,
            self.out_bytes + other.out_bytes,
            self.unknown + other.unknown,
        )


@dataclass(frozen=True, slots=True)
class Layer:
    """One row of the cost table. `shape` includes the batch, and is None if unknown. `shared` names the stored arrays
    that an earlier row has counted; `buffers` is how many numbers the layer stores that are not parameters.

    Receptive fields are computed when they are first read; equal rows have equal ones.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    shape: Shape | None
    cost: Cost
    sight: Sight = dataclasses.field(repr=False, compare=False)
    shared: tuple[str, ...] = ()
    buffers: int = 0

    @property
    def field(self) -> Field | None:
        """The receptive field, one span per axis of the input; None where it is not known."""
        return self.sight[self.name][0]

    @property
    def border(self) -> tuple[Border, ...] | None:
        """Per axis, how much of the field padding clips; None where that is not known."""
        return self.sight[self.name][1]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Layer):
            return NotImplemented
        same = (self.name, self.op, self.inputs, self.shape, self.cost, self.shared, self.buffers) == (
            other.name, other.op, other.inputs, other.shape, other.cost, other.shared, other.buffers
        )  # fmt: skip
        return same and self.sight[self.name] == other.sight[other.name]

    def to_dict(self) -> dict[str, Any]:
        """The row for JSON; what could not be counted is None, never 0.

        Of the receptive field, `size` is the largest over all positions and `jump` the mean step. Position o sees
        pixels o·jump + `start` to o·jump + `last`; both are None if no such formula holds for all positions. `phases`
        holds for every position (`Span.to_dict`). No position sees beyond o·jump + `bounds`.
        """
        known = not self.cost.unknown
        counted = known or bool(self.cost.params)  # the parameters that a file stores are known even if shapes are not
        spans = self.field or ()
        row = {
            "name": self.name,
            "op": self.op,
            "inputs": list(self.inputs),
            "out_shape": list(self.shape[1:]) if self.shape is not None else None,
            "params": self.cost.params if counted else None,
            "weights": self.cost.weights if counted else None,
            "biases": self.cost.biases if counted else None,
            **({"shared": list(self.shared)} if self.shared else {}),
            **({"buffers": self.buffers} if self.buffers else {}),
            "macs": self.cost.macs if known else None,
            "out_bytes": self.cost.out_bytes if self.shape is not None else None,
            "receptive_field": {
                "size": [s.size for s in spans],
                "jump": [_number(s.jump) for s in spans],
                "start": [_number(s.first) if s.line else None for s in spans],
                "last": [_number(s.last) if s.line else None for s in spans],
                "bounds": [[_number(s.first), _number(s.last)] for s in spans],
                "phases": [s.to_dict() for s in spans],
                "clipped": [[b.before, b.after] for b in self.border] if self.border is not None else None,
                "unclipped_places": [b.whole for b in self.border] if self.border is not None else None,
            }
            if self.field is not None
            else None,
            "status": self.cost.status,
        }
        return plain(row)


def plain(value: Any) -> Any:
    """The same dicts and lists, with formulas as text, because JSON has no symbols."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in cast(dict[str, Any], value).items()}
    if isinstance(value, list):
        return [plain(v) for v in cast(list[Any], value)]
    if isinstance(value, Expr):
        return int(value.constant) if value.constant is not None else str(value)
    return value


def _number(value: Any) -> int | float:
    return int(value) if value == int(value) else float(value)


@dataclass(frozen=True)
class Count(Result):
    """The cost table of a network. An array that several nodes share is counted with the first node that reads it; the
    sum over the layers is `parameters.used` (`stored.Parameters` also has what is stored, trainable and unused).

    If the values of a tensor decide which path the network takes, this is the path with the most MACs, and `ways` has
    all paths, the cheapest first.
    """

    network: str
    layers: tuple[Layer, ...]
    peak_bytes: int
    convention: Convention
    ways: tuple[Count, ...] = ()
    parameters: Parameters = NOTHING

    @property
    def status(self) -> str:
        """ "exact"; "lower-bound" if something could not be counted; "range" if values decide between paths."""
        if any(path.total.unknown for path in self.ways) or self.total.unknown:
            return "lower-bound"
        return "range" if self.ways else "exact"

    @cached_property
    def total(self) -> Cost:
        """The sum over layers; each operator that could not be counted is named once."""
        costs = [layer.cost for layer in self.layers]
        return Cost(
            sum(c.weights for c in costs),
            sum(c.biases for c in costs),
            sum(c.macs for c in costs),
            sum(c.in_bytes for c in costs),
            sum(c.weight_bytes for c in costs),
            sum(c.out_bytes for c in costs),
            tuple(dict.fromkeys(name for c in costs for name in c.unknown)),
        )

    @property
    def params(self) -> int:
        """Parameters in total: weights and biases."""
        return self.total.params

    @property
    def weights(self) -> int:
        """Weights in total, without biases."""
        return self.total.weights

    @property
    def biases(self) -> int:
        """Biases in total."""
        return self.total.biases

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run of the batch. One MAC is two floating-point operations."""
        return self.total.macs

    @property
    def activation_bytes(self) -> int:
        """Bytes of all outputs together; `peak_bytes` is what is alive at once."""
        return self.total.out_bytes

    def to_dict(self) -> dict[str, Any]:
        """The convention, `totals` and `layers`; figures that are formulas are text."""
        total = self.total
        flops = {"flops": 2 * total.macs} if self.convention.unit == "flop" else {}
        table = {
            "convention": self.convention.to_dict(),
            "totals": {
                "params": total.params,
                "weights": total.weights,
                "biases": total.biases,
                **self.parameters.to_dict(),
                "macs": total.macs,
                **flops,
                "activation_bytes": total.out_bytes,
                "peak_bytes": self.peak_bytes,
                "status": self.status,
                "unknown": list(dict.fromkeys(u for path in (self, *self.ways) for u in path.total.unknown)),
                **self._range(),
            },
            "layers": [layer.to_dict() for layer in self.layers],
        }
        return plain(table)

    def _range(self) -> dict[str, Any]:
        """The least and the greatest value of each figure over the paths."""
        if not self.ways:
            return {}
        totals = [path.total for path in self.ways]
        return {
            "ways": len(totals),
            "macs_min": min(t.macs for t in totals), "macs_max": max(t.macs for t in totals),
            "params_min": min(t.params for t in totals), "params_max": max(t.params for t in totals),
        }  # fmt: skip


def of_paths(paths: Sequence[Count]) -> Count:
    """The count of a network that takes one of several paths: that with the most MACs, with all paths as `ways`."""
    ordered = tuple(sorted(paths, key=lambda path: (path.total.macs, path.total.params)))
    return ordered[0] if len(ordered) == 1 else replace(ordered[-1], ways=ordered)


def count(graph: Graph, batch: int = 1, bias: bool = True, exact_padding: bool = False, unit: str = "mac") -> Count:
    """What every layer of a network costs, without running it.

    Counted: multiply-accumulates of convolutions, dense layers and matrix products; weights and biases (each array
    that the source stores once, also where layers read it transposed or in parts); bytes of every output; peak bytes of
    activations alive at once. Not counted as MACs: bias additions, activations, pooling, normalisation, element-wise
    sums. An unknown operator makes the totals a lower bound.
    """
    shapes = graph.unit_shapes if batch == 1 else graph.shapes(batch)
    sight = Sight(graph)
    reads = reads_of(graph)
    counted: set[str] = set()
    moved: set[str] = set()
    layers: list[Layer] = []
    for node in graph.nodes:
        own = NO_ARRAYS
        if node.name in reads.by_node:
            own = _own_params(node, reads.by_node[node.name], reads.stored, counted, moved)
        cost = _cost(graph, node, shapes, own, bias, exact_padding)
        kind = node.attrs["kind"] if node.op == STANDARD else node.op
        layers.append(Layer(node.name, kind, node.inputs, shapes[node.name], cost, sight, own.shared, own.buffers))
    convention = Convention(unit, batch, bias, exact_padding)
    parameters = parameters_of(graph, reads)
    return Count(graph.name, tuple(layers), peak_bytes(graph, shapes), convention, parameters=parameters)


def _cost(
    graph: Graph, node: Node, shapes: Mapping[str, Shape | None], own: _Own, bias: bool, exact_padding: bool
) -> Cost:
    out = shapes[node.name]
    sources = [shapes[i] for i in node.inputs]
    known = [s for s in sources if s is not None]
    if node.op == UNKNOWN:
        moved = BYTES * sum(map(prod, known)), 0, BYTES * prod(out) if out is not None else 0
        return Cost(0, 0, 0, *moved, unknown=(f"{node.name} ({node.attrs['kind']})",))
    if out is None or len(known) < len(sources):
        costs = node.op != STANDARD or node.attrs["kind"].rpartition(".")[2] in MACS
        strange = (node.rule.macs and costs) or (node.rule.params and not graph.origins)
        return Cost(own.weights, own.biases if bias else 0, unknown=(node.name,) if strange else ())
    rule = node.rule
    macs = 0
    if rule.macs:
        macs = (rule.macs_inside if exact_padding and rule.macs_inside else rule.macs)(node.attrs, known)
    return Cost(
        own.weights,
        own.biases if bias else 0,
        macs,
        BYTES * sum(map(prod, known)),
        own.bytes,
        BYTES * prod(out),
    )


class _Own(NamedTuple):
    """What a node adds to the arrays of earlier nodes, and the names of the arrays that it shares."""

    weights: int
    biases: int
    bytes: int
    shared: tuple[str, ...]
    buffers: int


NO_ARRAYS = _Own(0, 0, 0, (), 0)


def _own_params(
    node: Node, reads: Sequence[Read], stored: Mapping[str, Stored], counted: set[str], moved: set[str]
) -> _Own:
    """Parameters among the stored arrays that no earlier node has counted."""
    weights = biases = array_bytes = buffers = 0
    shared: list[str] = []
    running = node.rule.buffers
    moves = node.op != "constant" or node.attrs["trained"]
    for role, array, shape, names in reads:
        for name in names:
            size, kind, _ = stored[name]
            if name in counted:
                shared += [name] if kind == "parameter" else []
                continue
            counted.add(name)
            if kind == "buffer":
                buffers += size
            elif role == "bias":
                biases += size
            else:
                weights += size
        if moves and array not in moved and role not in running:
            moved.add(array)
            array_bytes += BYTES * prod(shape)
    return _Own(weights, biases, array_bytes, tuple(shared), buffers)


def peak_bytes(graph: Graph, shapes: Mapping[str, Shape | None]) -> int:
    """The most bytes of activations alive at once, if nodes run in order and each output lives until its last reader.

    Views (`VIEWS`) share their input's memory; no other operator works in place; network outputs live to the end. Not
    counted: weights, constants and the scratch memory of algorithms.
    """
    root: dict[str, str] = {}
    for node in graph.nodes:
        root[node.name] = root[node.inputs[0]] if node.op in VIEWS else node.name
    last: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        for name in (node.name, *node.inputs):
            last[root[name]] = index
    for out in graph.outputs:
        last[root[out]] = len(graph.nodes)
    ends: dict[int, list[str]] = {}
    for name, index in last.items():
        ends.setdefault(index, []).append(name)
    sizes = {name: _output_bytes(graph.by_name[name], shapes[name]) for name in last}
    live: int = 0
    moments: list[int] = [0]
    for index, node in enumerate(graph.nodes):
        if root[node.name] == node.name:
            live += sizes[node.name]
        moments.append(live)
        for name in ends.get(index, ()):
            live -= sizes[name]
    return cast(int, largest(moments))


def _output_bytes(node: Node, shape: Shape | None) -> int:
    """Bytes of an output; 0 for constants, which count as weights, and for outputs of unknown shape."""
    return BYTES * prod(shape) if shape is not None and node.op != "constant" else 0
