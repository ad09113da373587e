"""What a network costs: parameters, MACs, bytes and peak memory, per layer and in total, and the convention used."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, NamedTuple, cast

from dojang.arith.bits import PrecisionShare, shares
from dojang.arith.geometry import geometry_of
from dojang.arith.graph import Graph, Node
from dojang.arith.layer import Cost, Layer, Uncounted, plain, total_of, uncounted_of
from dojang.arith.modules import ModuleTree
from dojang.arith.ops import BYTES, OPS, STANDARD, UNKNOWN
from dojang.arith.parameters import NOTHING, Parameters, Read, parameters_of, reads_of
from dojang.arith.scopes import scopes_of
from dojang.arith.shapes import Shape
from dojang.arith.sight import Sight
from dojang.arith.standard import CONTROL, MACS
from dojang.arith.stored import Stored
from dojang.arith.symbol import largest
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


@dataclass(frozen=True)
class Count(Result):
    """The cost table of a network. An array that several nodes share is counted with the first node that reads it; the
    sum over the layers is `parameters.used` (`stored.Parameters` also has what is stored, trainable and unused).

    If the values of a tensor decide which path the network takes, this is the path with the most MACs, and `ways` has
    all paths, the cheapest first. `classes` are the classes of modules by path, where the source says them. `depth` is
    how deep modules are shown when the table is printed; None: as deep as one screen holds. `precisions` has the parts
    of the network by precision, where not all is float32; the bytes of all other figures are those of float32.
    """

    network: str
    layers: tuple[Layer, ...]
    peak_bytes: int
    convention: Convention
    ways: tuple[Count, ...] = ()
    parameters: Parameters = NOTHING
    classes: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str], repr=False, compare=False)
    depth: int | None = dataclasses.field(default=None, compare=False)
    precisions: tuple[PrecisionShare, ...] = ()

    @property
    def status(self) -> str:
        """ "exact"; "lower-bound" if something could not be counted; "range" if values decide between paths."""
        if any(path.total.unknown for path in self.ways) or self.total.unknown:
            return "lower-bound"
        return "range" if self.ways else "exact"

    @cached_property
    def total(self) -> Cost:
        """The sum over layers; each operator that could not be counted is named once."""
        return total_of(self.layers)

    @cached_property
    def tree(self) -> ModuleTree:
        """The modules that hold the layers, with subtotals; `tree.rows(depth)` is the table folded to a depth."""
        return ModuleTree(self.layers, self.classes)

    @cached_property
    def uncounted(self) -> Uncounted | None:
        """How much a lower bound leaves out; None if everything was counted."""
        return uncounted_of(self.layers) if self.total.unknown else None

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
                **({} if self.uncounted is None else {"uncounted": self.uncounted.to_dict()}),
                **({} if not self.precisions else {"precisions": [share.to_dict() for share in self.precisions]}),
                **self._range(),
            },
            "modules": [module.to_dict() for module in self.tree.modules()],
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
    scopes = scopes_of(graph)
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
        sources = [shapes[i] for i in node.inputs]
        entering = tuple([_alone(graph.by_name[i], shapes[i]) for i in node.inputs])
        layers.append(
            Layer(
                node.name, kind, node.inputs, shapes[node.name], cost, sight, own.shared, own.buffers,
                _alone(node, shapes[node.name]), entering,
                geometry_of(node.attrs, sources), own.arrays, own.dtypes, own.trainable, scopes[node.name],
                str(node.attrs.get("kind", "")),
            )
        )  # fmt: skip
    convention = Convention(unit, batch, bias, exact_padding)
    parameters = parameters_of(graph, reads)
    peak = peak_bytes(graph, shapes)
    parts = shares(graph, {layer.name: layer.cost.macs for layer in layers})
    return Count(
        graph.name, tuple(layers), peak, convention, parameters=parameters, classes=graph.modules, precisions=parts
    )


def _cost(
    graph: Graph, node: Node, shapes: Mapping[str, Shape | None], own: _Own, bias: bool, exact_padding: bool
) -> Cost:
    out = shapes[node.name]
    sources = [shapes[i] for i in node.inputs]
    known = [s for s in sources if s is not None]
    if node.op == UNKNOWN:
        moved = BYTES * sum(map(prod, known)), 0, BYTES * prod(out) if out is not None else 0
        return Cost(0, 0, 0, *moved, unknown=() if node.attrs["free"] else (f"{node.name} ({node.attrs['kind']})",))
    if node.op == STANDARD and node.attrs["kind"] in CONTROL:
        decide = {"If": "which branch", "Loop": "how often"}[node.attrs["kind"]]
        said = f"{node.name} ({node.attrs['kind']} (values decide {decide}))"
        return Cost(0, 0, 0, BYTES * sum(map(prod, known)), 0, BYTES * prod(out or ()), unknown=(said,))
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


def _alone(node: Node, shape: Shape | None) -> Shape | None:
    """The shape of what a node gives for one sample: without the batch, which constants do not have, and which a node
    that says so has on another axis, or not at all (-1).
    """
    axis = -1 if node.op == "constant" else node.attrs.get("batch_axis", 0)
    return shape if shape is None or axis < 0 else (*shape[:axis], *shape[axis + 1 :])


class _Own(NamedTuple):
    """What a node adds to the arrays of earlier nodes, and the names of the arrays that it shares."""

    weights: int
    biases: int
    bytes: int
    shared: tuple[str, ...]
    buffers: int
    trainable: int | None
    arrays: Mapping[str, Shape]
    dtypes: tuple[str, ...]


NO_ARRAYS = _Own(0, 0, 0, (), 0, 0, {}, ())


def _own_params(
    node: Node, reads: Sequence[Read], stored: Mapping[str, Stored], counted: set[str], moved: set[str]
) -> _Own:
    """Parameters among the stored arrays that no earlier node has counted."""
    weights = biases = array_bytes = buffers = trainable = 0
    known = True
    shared: list[str] = []
    dtypes: dict[str, None] = {}
    running = node.rule.buffers
    moves = node.op != "constant" or node.attrs["trained"]
    for role, array, shape, names in reads:
        for name in names:
            size, kind, trains, dtype = stored[name]
            if dtype:
                dtypes[dtype] = None
            if name in counted:
                shared += [name] if kind == "parameter" else []
                continue
            counted.add(name)
            if kind == "parameter":
                known = known and trains is not None
                trainable += size if trains else 0
            if kind == "buffer":
                buffers += size
            elif role == "bias":
                biases += size
            else:
                weights += size
        if moves and array not in moved and role not in running:
            moved.add(array)
            array_bytes += BYTES * prod(shape)
    arrays = {role: shape for role, _, shape, _ in reads}
    return _Own(
        weights, biases, array_bytes, tuple(shared), buffers, trainable if known else None, arrays, tuple(dtypes)
    )


def peak_bytes(graph: Graph, shapes: Mapping[str, Shape | None]) -> int:
    """The most bytes of activations alive at once, if nodes run in order and each output lives until its last reader.

    Views (`VIEWS`) share their input's memory; no other operator works in place; network outputs live to the end. Not
    counted: weights, constants and the scratch memory of algorithms.
    """
    return liveness(graph, {node.name: _output_bytes(node, shapes[node.name]) for node in graph.nodes})


def liveness(graph: Graph, sizes: Mapping[str, int]) -> int:
    """The most bytes alive at once, as in `peak_bytes`, for outputs of these sizes."""
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
