"""Channels that the weights make positive multiples of others, merged: W_i += s · W_j in what reads them."""

from __future__ import annotations

from dojang.evidence.evidence import Evidence
from dojang.evidence.readers import reads_channels
from dojang.slimming.absorb import Move, absorb_all, group_of, owns_arrays, shared_arrays
from dojang.slimming.rewrite import Applied, Rewrite

TOLERANCE = 1e-6
"""Multiples hold up to float32 rounding of the weights, 2^-22 of the largest in a row; outputs may differ by that."""


def apply(known: Evidence) -> Applied | None:
    """Merges until no multiple is left: what reads two copies may then be a copy itself."""
    return absorb_all(known, "multiples of other channels", duplicate_moves)


def duplicate_moves(known: Evidence) -> list[Move]:
    """For every layer and group, each channel that is a multiple of another moves into the one that stays."""
    graph, tied, found = known.graph, known.channels, known.equal
    shared, moves = shared_arrays(graph), list[Move]()
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
    "merge-duplicate-channels",
    "exact",
    "channels that are multiples of others are merged",
    apply,
    TOLERANCE,
    ("duplicate", "repeated"),
)
