"""Channels that the weights make positive multiples of others, merged: W_i += s · W_j in what reads them."""

from __future__ import annotations

from dojang.arith.channels import ChannelMap, channels
from dojang.arith.graph import Graph
from dojang.evidence.equal_channels import numbers
from dojang.evidence.intervals import ranges
from dojang.slimming.absorb import Move, absorb, group_of, owns_arrays, reads_channels, shared_arrays
from dojang.slimming.rewrite import Applied, Context, Rewrite

TOLERANCE = 1e-6
"""Multiples hold up to float32 rounding of the weights, 2^-22 of the largest in a row; outputs may differ by that."""


def apply(graph: Graph, context: Context) -> Applied | None:
    """Merges until no multiple is left: what reads two copies may then be a copy itself."""
    layers: dict[str, int] = {}
    new = graph
    while True:
        tied = channels(new)
        moves = duplicate_moves(new, tied)
        done = absorb(new, tied, ranges(new, context.input_range, tied), moves) if moves else None
        if done is None or not done.moved:
            break
        for name, _ in (pair for c in done.gone for pair in tied.members[c]):
            layers[name] = layers.get(name, 0) + 1
        new = done.graph
    if not layers:
        return None
    return Applied(
        new, tuple(layers), "multiples of other channels: " + ", ".join(f"{n} of {k}" for k, n in layers.items())
    )


def duplicate_moves(graph: Graph, tied: ChannelMap) -> list[Move]:
    """For every layer and group, each channel that is a multiple of another moves into the one that stays."""
    found, shared, moves = numbers(graph, tied), shared_arrays(graph), list[Move]()
    for node in graph.nodes:
        if not reads_channels(graph, tied, node) or not owns_arrays(graph, node, shared):
            continue
        own, track = found[node.inputs[0]], tied.tracks[node.inputs[0]]
        if own is None or track is None:
            continue
        alike: dict[tuple[int, int], list[int]] = {}
        for place, i in enumerate(own.ids):
            alike.setdefault((int(i), group_of(graph, node, place)), []).append(place)
        classes, factors = track.classes, own.factors
        for places in alike.values():
            keep = min((classes[p] not in tied.frozen, classes[p], p) for p in places)[2]
            moves += [
                Move(node.name, p, keep, float(factors[p] / factors[keep]))
                for p in places
                if classes[p] != classes[keep]
            ]
    return moves


DUPLICATES = Rewrite(
    "merge-duplicate-channels", "exact", "channels that are multiples of others are merged", apply, TOLERANCE
)
