"""Channels that nobody needs, and the readers' weights moved so that more are not needed: the core of exact cuts.

A channel class is needed where a convolution, a dense layer or a sum over channels reads it with a weight that is not
zero and its value is not proved zero. What is needed nowhere and not frozen goes, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dojang.arith.channels import ChannelMap
from dojang.arith.cut import cut
from dojang.arith.graph import Graph, Node
from dojang.arith.shapes import axis_of, conv_problem
from dojang.evidence.evidence import Evidence
from dojang.evidence.intervals import Range
from dojang.evidence.readers import columns, reads_channels
from dojang.slimming.numbering import Numbering, channels_of
from dojang.slimming.rewrite import Applied

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Move:
    """What `reader` reads at `place` equals `factor` times what it reads at `into`; or, `into` None, is `factor`."""

    reader: str
    place: int
    into: int | None
    factor: float


@dataclass(frozen=True)
class Absorbed:
    """The narrower network, the classes that went, and how many weight columns were moved."""

    graph: Graph
    gone: tuple[int, ...]
    moved: int


def needed(graph: Graph, tied: ChannelMap, ranges: Mapping[str, Range], moves: Sequence[Move] = ()) -> set[int]:
    """Classes that some reader needs; a move frees the place it moves from and holds the one it moves to."""
    freed = {(m.reader, m.place) for m in moves}
    classes: set[int] = set()
    for node in graph.nodes:
        track = tied.tracks[node.inputs[0]] if node.inputs else None
        if track is None:
            continue
        if reads_channels(graph, tied, node):
            used = np.abs(columns(graph, node)).max(axis=1) > 0
            live = used & ~ranges[node.inputs[0]].zero
            classes |= {c for i, c in enumerate(track.classes) if live[i] and (node.name, i) not in freed}
        elif node.op == "reduce_sum":
            shape = graph.unit_shapes[node.inputs[0]] or ()
            if track.axis in {axis_of(a, len(shape)) for a in node.attrs["axes"]}:
                zero = ranges[node.inputs[0]].zero
                classes |= {c for i, c in enumerate(track.classes) if not zero[i]}
    for move in moves:
        track = tied.tracks[graph[move.reader].inputs[0]]
        if move.into is not None and track is not None:
            classes.add(track.classes[move.into])
    return classes


def absorb(graph: Graph, tied: ChannelMap, ranges: Mapping[str, Range], moves: Sequence[Move] = ()) -> Absorbed | None:
    """The network without the channels that nobody needs once the moves are made; None when none can go.

    Only moves that free a channel which goes are made, so weights never change without a saving.
    """
    held = needed(graph, tied, ranges, moves)
    gone = tied.fit(c for c in tied.removable if c not in held)
    if not gone:
        return None
    made = [m for m in moves if _class_of(graph, tied, m) in gone]
    return Absorbed(cut(move_weights(graph, made), gone), gone, len(made))


def absorb_all(known: Evidence, found: str, moves_of: Callable[[Evidence], list[Move]] | None = None) -> Applied | None:
    """Absorbs until nothing more goes: a layer that loses inputs may leave its own channels unread, equal or constant.

    `moves_of`: the moves that a network allows; a round without any ends it. `found`: what the channels are called.
    """
    counts: dict[str, int] = {}
    gone: dict[str, tuple[int, ...]] = {}
    numbering = Numbering.of(known.graph)
    while True:
        moves = moves_of(known) if moves_of is not None else []
        if moves_of is not None and not moves:
            break
        done = absorb(known.graph, known.channels, known.ranges, moves)
        if done is None or (moves_of is not None and not done.moved):
            break
        for name, _ in (pair for c in done.gone for pair in known.channels.members[c]):
            counts[name] = counts.get(name, 0) + 1
        own = channels_of(known.channels, done.gone)
        gone |= {name: (*gone.get(name, ()), *more) for name, more in numbering.original(own).items()}
        numbering = numbering.without(own)
        known = known.on(done.graph)
    if not counts:
        return None
    said = ", ".join(f"{n} of {name}" for name, n in counts.items())
    return Applied(known.graph, tuple(counts), f"{found}: {said}", gone)


def _class_of(graph: Graph, tied: ChannelMap, move: Move) -> int:
    track = tied.tracks[graph[move.reader].inputs[0]]
    assert track is not None  # moves are only made for readers whose input is followed
    return track.classes[move.place]


def move_weights(graph: Graph, moves: Iterable[Move]) -> Graph:
    """The network with columns added to others or to the bias, and cleared; computed in the arrays' own type."""
    by_reader: dict[str, list[Move]] = {}
    for move in moves:
        by_reader.setdefault(move.reader, []).append(move)
    nodes: dict[str, Node] = {}
    arrays: dict[str, Array] = {}
    for name, own in by_reader.items():
        node = graph[name]
        weight = np.array(graph.weights[node.array("weight")])
        bias = (
            np.array(graph.weights[node.array("bias")])
            if node.attrs["bias"]
            else np.zeros(node.attrs["out"], weight.dtype)
        )
        for move in own:
            source = column(weight, node, move.place)
            if move.into is None:
                first, size = bias_rows(weight, node, move.place)
                bias[first : first + size] += (move.factor * source.reshape(size, -1).sum(axis=1)).astype(bias.dtype)
            else:
                column(weight, node, move.into)[...] += move.factor * source
            source[...] = 0
        arrays[node.array("weight")] = weight
        if node.attrs["bias"] or any(m.into is None for m in own):
            arrays[node.array("bias")] = bias
            nodes[name] = node.with_attrs(bias=True)
    replaced = tuple(nodes.get(node.name, node) for node in graph.nodes)
    return graph.replace(nodes=replaced, weights={**graph.weights, **arrays})


def column(weight: Array, node: Node, place: int) -> Array:
    """The view of a layer's weights that reads input channel `place`: (rows that read it, *kernel)."""
    if node.op == "conv_transpose":
        return weight[place]
    if node.op == "dense":
        return weight[:, place]
    size, rows = weight.shape[1], weight.shape[0] // node.attrs["groups"]
    group = place // size
    return weight[group * rows : (group + 1) * rows, place % size]


def bias_rows(weight: Array, node: Node, place: int) -> tuple[int, int]:
    """First output channel that reads input channel `place`, and how many do."""
    if node.op == "dense":
        return 0, weight.shape[0]
    groups = node.attrs["groups"]
    rows = node.attrs["out"] // groups
    inputs = (weight.shape[0] if node.op == "conv_transpose" else weight.shape[1] * groups) // groups
    return place // inputs * rows, rows


def group_of(graph: Graph, node: Node, place: int) -> int:
    """The group of a layer that reads input channel `place`."""
    groups = node.attrs.get("groups", 1)
    shape = graph.unit_shapes[node.inputs[0]]
    return 0 if groups == 1 or shape is None else place // (shape[1] // groups)


def stands_on_padding(graph: Graph, node: Node) -> bool:
    """Whether some taps of a layer fall on padding (or, transposed, on nothing), so that constants leave borders."""
    if node.op == "dense":
        return False
    if node.op == "conv_transpose":
        return True
    shape = graph.unit_shapes[node.inputs[0]]
    return shape is None or any(p for pair in conv_problem(node.attrs, [shape]).padding for p in pair)


def shared_arrays(graph: Graph) -> frozenset[str]:
    """Names of arrays that more than one node uses."""
    seen: set[str] = set()
    twice: set[str] = set()
    for node in graph.nodes:
        for role in graph.node_params(node):
            name = node.array(role)
            (twice if name in seen else seen).add(name)
    return frozenset(twice)


def owns_arrays(graph: Graph, node: Node, shared: frozenset[str]) -> bool:
    """Whether no other node uses this node's arrays."""
    return not any(node.array(role) in shared for role in graph.node_params(node))
