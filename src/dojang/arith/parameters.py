"""How many parameters a network has, counted by the arrays that its source stores.

A network may hold an array in several shapes: transposed for a second layer, cut into the parts of a split, normalised
before it is used. Its numbers are stored once, and counted once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from dojang.arith.graph import Graph, Node
from dojang.arith.stored import ROLES, Shape, Stored


@dataclass(frozen=True, slots=True)
class Parameters:
    """How many numbers a network has, counted by stored array, however often and in whatever shape each is used.

    - `stored`: all parameters that the source holds, used or not: PyTorch's sum of `p.numel()` over `parameters()`,
      memory that two of them share counted once; a file's weights.
    - `used`: those that the network reads. The sum over layers, each stored array with its first reader.
    - `trainable`: those of `stored` that are not frozen (`requires_grad`); None where the source does not say.
    - `folded`: numbers that are left of `used` once everything that parameters alone determine is computed: a weight
      that is computed from several (`weight_norm`, a sum of two matrices) counts by its result; transposes and parts
      count as what they are taken from.
    - `buffers`: numbers in arrays that are used and never trained: running statistics of normalisations (`running` of
      them), kernels and tables that a module keeps as buffers. They are no parameters and in none of the above.
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


@dataclass(frozen=True, slots=True)
class NamedStored:
    """A stored array that a node reads, with its name."""

    name: str
    stored: Stored


def arrays_of(graph: Graph, node: Node) -> dict[str, Shape]:
    """Shapes of a node's arrays by role; where its input's shape is not known, as the source has them."""
    if node.rule.params is None:
        return {}
    found = graph.node_params(node)
    if found or not graph.origins:
        return found
    if any(graph.unit_shapes[i] is None for i in node.inputs):
        origins = ((role, graph.origins.get(node.array(role))) for role in ROLES)
        return {role: origin.shape for role, origin in origins if origin is not None}
    return found


def parts_of(graph: Graph, node: Node, role: str, shape: Shape) -> tuple[NamedStored, ...]:
    """The stored arrays that an array of a node is made of; itself where the source does not say."""
    array = node.array(role)
    origin = graph.origins.get(array)
    if origin is not None and origin.shape == shape:
        return tuple(NamedStored(name, graph.stored[name]) for name in origin.names)
    fixed = role in node.rule.buffers or (node.op == "constant" and not node.attrs["trained"])
    return (NamedStored(array, Stored(prod(shape), "buffer" if fixed else "parameter", not fixed)),)


def parameters_of(graph: Graph) -> Parameters:
    """The figures of a whole network."""
    used: dict[str, Stored] = {}
    running: set[str] = set()
    made: dict[str, tuple[tuple[str, ...], int]] = {}
    for node in graph.nodes:
        for role, shape in arrays_of(graph, node).items():
            parts = parts_of(graph, node, role, shape)
            used.update((part.name, part.stored) for part in parts)
            running |= {part.name for part in parts if role in node.rule.buffers}
            learned = tuple(part.name for part in parts if part.stored.kind == "parameter")
            if learned:
                made[node.array(role)] = learned, prod(shape)
    stored = {**graph.stored, **used}
    trainable = [s.trainable for s in _learned(stored)]
    return Parameters(
        _sum(_learned(stored)),
        _sum(_learned(used)),
        None if None in trainable else sum(s.size for s in _learned(stored) if s.trainable),
        _folded(made, used),
        sum(s.size for s in used.values() if s.kind == "buffer"),
        sum(s.size for name, s in used.items() if s.kind == "buffer" and name in running),
        tuple(name for name, s in graph.stored.items() if s.kind == "parameter" and name not in used),
    )


def _folded(made: Mapping[str, tuple[tuple[str, ...], int]], used: Mapping[str, Stored]) -> int:
    """Numbers of the arrays as they are once computed; all that is taken from one stored array at most as that one."""
    single: dict[str, int] = {}
    total = 0
    for names, size in made.values():
        if len(names) == 1:
            single[names[0]] = single.get(names[0], 0) + size
        else:
            total += size
    return total + sum(_least(size, used[name].size) for name, size in single.items())


def _least(a: Any, b: int) -> Any:
    """The smaller; a symbolic size, of a network without a source that says more, is its own array's."""
    return a if not isinstance(a, int) else min(a, b)


def _learned(arrays: Mapping[str, Stored]) -> list[Stored]:
    return [s for s in arrays.values() if s.kind == "parameter"]


def _sum(arrays: Iterable[Stored]) -> int:
    return sum(s.size for s in arrays)
