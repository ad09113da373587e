"""Channels with one constant value everywhere, moved into what reads them and cut.

Where the reader has no padding, a constant a moves into its bias: b += a · Σ W. Where it pads with zeros that would be
wrong at the border; there k constant channels a₁…aₖ equal one all-ones channel with the kernel Σ aᵢWᵢ, so they become
one: the channel that stays, of value a, reads with Σ (aᵢ/a) Wᵢ.
"""

from __future__ import annotations

from collections.abc import Mapping

from dojang.arith.channels import ChannelMap
from dojang.arith.graph import Graph, Node
from dojang.evidence.evidence import Evidence
from dojang.evidence.intervals import Range
from dojang.evidence.readers import reads_channels
from dojang.slimming.absorb import Move, absorb_all, group_of, needed, owns_arrays, shared_arrays
from dojang.slimming.absorb import stands_on_padding as padded
from dojang.slimming.rewrite import Applied, Rewrite


def apply(known: Evidence) -> Applied | None:
    """Moves and cuts until nothing more is constant."""
    return absorb_all(known, "constant channels moved into their readers", constant_moves)


def constant_moves(known: Evidence) -> list[Move]:
    """Every constant that a reader could take into its bias, or into another constant channel of the same group."""
    graph, tied, bound = known.graph, known.channels, known.ranges
    shared = shared_arrays(graph)
    held = needed(graph, tied, bound, [m for n in graph.nodes for m in _into_bias(graph, tied, bound, n, shared)])
    moves: list[Move] = []
    for node in graph.nodes:
        moves += _into_bias(graph, tied, bound, node, shared) or _into_one(graph, tied, bound, node, shared, held)
    return moves


def _places(
    graph: Graph, tied: ChannelMap, bound: Mapping[str, Range], node: Node, shared: frozenset[str]
) -> list[int]:
    """Places of a layer's input that hold a constant other than zero; empty for layers that cannot take one in."""
    if not reads_channels(graph, tied, node) or not owns_arrays(graph, node, shared):
        return []
    value = bound[node.inputs[0]]
    return [
        i for i, (constant, zero) in enumerate(zip(value.constant, value.zero, strict=True)) if constant and not zero
    ]


def _into_bias(
    graph: Graph, tied: ChannelMap, bound: Mapping[str, Range], node: Node, shared: frozenset[str]
) -> list[Move]:
    places = _places(graph, tied, bound, node, shared)
    if not places or padded(graph, node):
        return []
    return [Move(node.name, i, None, float(bound[node.inputs[0]].lo[i])) for i in places]


def _into_one(
    graph: Graph, tied: ChannelMap, bound: Mapping[str, Range], node: Node, shared: frozenset[str], held: set[int]
) -> list[Move]:
    """In each group the constants go into one of them: one that stays anyway, else the first class."""
    places = _places(graph, tied, bound, node, shared)
    track = tied.tracks[node.inputs[0]] if node.inputs else None
    if track is None or len(places) < 2 or not padded(graph, node):
        return []
    value, moves = bound[node.inputs[0]].lo, list[Move]()
    others = set(tied.frozen)
    for group in dict.fromkeys(group_of(graph, node, i) for i in places):
        own = [i for i in places if group_of(graph, node, i) == group and value[i] != 0]
        if len(own) < 2:
            continue
        keep = min(own, key=lambda i: (track.classes[i] not in others, track.classes[i] not in held, track.classes[i]))
        moves += [Move(node.name, i, keep, float(value[i] / value[keep])) for i in own if i != keep]
    return moves


CONSTANTS = Rewrite(
    "absorb-constant-channels",
    "exact",
    "constant channels move into what reads them",
    apply,
    answers=("constant",),
)
