"""How many parameters a network has, counted by the arrays that its source stores.

A network may hold an array in several shapes: transposed for a second layer, cut into the parts of a split, normalised
before it is used. Its numbers are stored once, and counted once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from dojang.arith.graph import Graph, Node
from dojang.arith.stored import ROLES, Shape, Stored


@dataclass(frozen=True, slots=True)
class Parameters:
    """How many numbers a network has. Each stored array counts once, however often and in whatever shape it is used.

    - `stored`: all parameters that the source holds, used or not: in PyTorch the sum of `p.numel()` over `parameters()`
      (memory that two of them share counts once), in a file its weights.
    - `used`: those that the network reads: the sum over layers, where each array counts with its first reader.
    - `trainable`: those of `stored` that are not frozen (`requires_grad`); None if the source does not say.
    - `folded`: what is left of `used` after everything that depends on parameters only has been computed: a weight
      computed from several arrays (`weight_norm`, a sum of two matrices) counts by the size of the result; transposes
      and parts count as the array from which they are taken.
    - `buffers`: numbers in arrays that are used and never trained: running statistics of normalisations (`running` of
      them), kernels and tables that a module keeps as buffers. They are not parameters, and not in the figures above.
    - `unused`: names of the parameters that no path reads.

    Without a source that says more (a text, a checkpoint, an edited network) every array of the network is stored.
    """

    stored: int = 0
    used: int = 0
    trainable: int | None = 0
    folded: int = 0
    buffers: int = 0
    running: int = 0
    unused: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The figures; `unused` are names."""
        return {
            "stored": self.stored,
            "used": self.used,
            "trainable": self.trainable,
            "folded": self.folded,
            "buffers": self.buffers,
            "running": self.running,
            "unused": list(self.unused),
        }


NOTHING = Parameters()


class Read(NamedTuple):
    """An array that a node reads in a role, its shape, and the names of the stored arrays that it is made of."""

    role: str
    array: str
    shape: Shape
    names: tuple[str, ...]


class ArrayReads(NamedTuple):
    """By the name of each node that can have arrays, what it reads; the stored arrays that are read; and which of these
    are running statistics of a node.
    """

    by_node: Mapping[str, Sequence[Read]]
    stored: Mapping[str, Stored]
    running: Set[str]


def reads_of(graph: Graph) -> ArrayReads:
    """What the nodes of a network read. If the source does not say more, an array counts as stored by itself. If one
    layer trains an array and another does not, the first layer that reads it decides.
    """
    by_node: dict[str, list[Read]] = {}
    used: dict[str, Stored] = {}
    running: set[str] = set()
    for node in graph.nodes:
        if node.rule.params is None:
            continue
        own: list[Read] = []
        by_node[node.name] = own
        buffers = node.rule.buffers
        untrained = node.op == "constant" and not node.attrs["trained"]
        for role, shape in _arrays_of(graph, node).items():
            array = node.array(role)
            origin = graph.origins.get(array)
            if origin is not None and origin.shape == shape:
                names = origin.names
                for name in names:
                    if name not in used:
                        used[name] = graph.stored[name]
            else:
                names = (array,)
                if array not in used:
                    fixed = untrained or role in buffers
                    used[array] = Stored(prod(shape), "buffer" if fixed else "parameter", not fixed)
            own.append(Read(role, array, shape, names))
            if role in buffers:
                running.update(names)
    return ArrayReads(by_node, used, running)


def _arrays_of(graph: Graph, node: Node) -> Mapping[str, Shape]:
    """Shapes of a node's arrays by role; those of the source if the shape of its input is not known."""
    found = graph.node_params(node)
    if found or not graph.origins:
        return found
    if any(graph.unit_shapes[i] is None for i in node.inputs):
        origins = ((role, graph.origins.get(node.array(role))) for role in ROLES)
        return {role: origin.shape for role, origin in origins if origin is not None}
    return found


def parameters_of(graph: Graph, reads: ArrayReads) -> Parameters:
    """The figures of a whole network, from what its nodes read (`reads_of`)."""
    stored = used = trainable = buffers = running = 0
    known, unused = True, list[str]()
    for name, (size, kind, trains, _) in {**graph.stored, **reads.stored}.items():
        read = name in reads.stored
        if kind == "parameter":
            stored += size
            known = known and trains is not None
            if trains:
                trainable += size
            if read:
                used += size
            else:
                unused.append(name)
        elif read:
            buffers += size
            if name in reads.running:
                running += size
    folded = _folded(reads)
    return Parameters(stored, used, trainable if known else None, folded, buffers, running, tuple(unused))


def _folded(reads: ArrayReads) -> int:
    """The size of all arrays once computed; those that are taken from one stored array count at most its size."""
    single: dict[str, int] = {}
    total = 0
    seen: set[str] = set()
    for own in reads.by_node.values():
        for _, array, shape, names in own:
            if array in seen:
                continue
            seen.add(array)
            learned = [name for name in names if reads.stored[name].kind == "parameter"]
            if len(learned) == 1:
                single[learned[0]] = single.get(learned[0], 0) + prod(shape)
            elif learned:
                total += prod(shape)
    return total + sum([_least(size, reads.stored[name].size) for name, size in single.items()])


def _least(a: Any, b: int) -> Any:
    """The smaller one; a symbolic size is returned as it is (only networks without a source have those)."""
    return a if not isinstance(a, int) else min(a, b)
