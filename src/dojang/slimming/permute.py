"""Channels put in another order in all that makes, passes on or reads them, so that nothing moves at run time."""

from __future__ import annotations

from collections.abc import Sequence

from dojang.arith.channels import ChannelMap
from dojang.arith.graph import Graph
from dojang.arith.ties import array_axes
from dojang.evidence.activations import layers


def permuted(graph: Graph, tied: ChannelMap, value: str, order: Sequence[int]) -> Graph | None:
    """The same network with the channels of `value` in the order given (new place -> old place).

    None where that cannot be done by reordering weights: channels that are inputs or outputs of the network, that share
    a value with others, or that pass through slices, concatenations or grouped layers.
    """
    track = tied.tracks[value]
    if track is None or any(c in tied.frozen for c in track.classes) or len(set(track.classes)) != len(track.classes):
        return None
    whole = track.classes
    wanted = tuple(whole[i] for i in order)
    if wanted == whole:
        return graph
    members = set(whole)
    carriers = [name for name, t in tied.tracks.items() if t is not None and not members.isdisjoint(t.classes)]
    for name in carriers:
        own, node = tied.tracks[name], graph[name]
        readers = (node, *graph.consumers[name])
        in_groups = any(n.rule.channels == "conv" and 1 < n.attrs["groups"] != len(whole) for n in readers)
        if own is None or _repeat(own.classes, whole) is None or in_groups:
            return None
    weights = dict(graph.weights)
    done: set[str] = set()
    for node in graph.nodes:
        for role, axes in array_axes(node, tied.tracks).items():
            name = node.array(role)
            if name in done:
                continue
            done.add(name)
            for axis, labels in enumerate(axes):
                if labels is None or members.isdisjoint(labels) or weights[name].shape[axis] != len(labels):
                    continue  # the axis within a group of a depthwise layer holds one channel: nothing to order
                repeat = _repeat(labels, whole)
                if repeat is None:
                    return None
                weights[name] = weights[name].take([i * repeat + k for i in order for k in range(repeat)], axis=axis)
    return graph.replace(weights=weights)


def reordered_layers(tied: ChannelMap, value: str, order: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The new order of the output channels (new place -> old place) of every layer whose channels `permuted` moves."""
    track = tied.tracks[value]
    whole = track.classes if track is not None else ()
    found: dict[str, tuple[int, ...]] = {}
    for node in layers(tied.graph):
        own = tied.tracks[node.name]
        if own is not None and not set(whole).isdisjoint(own.classes):
            repeat = _repeat(own.classes, whole) or 1
            found[node.name] = tuple(i * repeat + k for i in order for k in range(repeat))
    return found


def _repeat(labels: Sequence[int], whole: Sequence[int]) -> int | None:
    """How often each class stands in a row when `labels` is `whole` with every class repeated equally; else None."""
    repeat, rest = divmod(len(labels), len(whole))
    if rest or tuple(labels) != tuple(c for c in whole for _ in range(repeat)):
        return None
    return repeat
