"""Which channels of a network depend on each other: which ones must be removed together, and which cannot be removed.

Every element along the channel axis of every value belongs to a class; all elements of a class are removed together.
Convolutions and dense layers make new classes; element-wise operators keep them; sums and products merge the classes of
their inputs; concatenation, slices, padding and reshapes move, repeat and add elements. Some operators mix channels, so
that removing one would change the others (normalisation over channels, softmax, matrix products of activations): they
freeze the classes of their inputs and give the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from dojang.arith.graph import Graph, Node
from dojang.arith.ops import OPS
from dojang.arith.ties import ChannelTracer, Labels, Track, split

MAKERS = frozenset(
    op for op, rule in OPS.items() if rule.channels in ("fresh", "conv", "dense", "pad") or rule.field == "constant"
)
"""Operators whose output has channels that no input had."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """A grouped convolution: the classes of each group's inputs (None if they are not followed) and outputs.

    A removal is valid if it removes whole groups, and the other groups keep equal numbers of inputs and of outputs.
    """

    node: str
    ins: tuple[Labels, ...] | None
    outs: tuple[Labels, ...]


@dataclass(frozen=True)
class ChannelMap:
    """The coupled channels of a network. Classes are numbered from 0 in order of first appearance.

    `tracks` has the classes of every value, or None if its channels are not followed. `frozen` says for a class why it
    cannot be removed, and names the node. `groupings` are the grouped convolutions, whose groups must stay equal.
    """

    graph: Graph
    tracks: Mapping[str, Track | None]
    size: int
    frozen: Mapping[int, str]
    groupings: tuple[Grouping, ...]

    @cached_property
    def members(self) -> Mapping[int, tuple[tuple[str, int], ...]]:
        """For each class, the (node, channel) pairs that compute its values: conv, dense, pad, constant and input.

        Nodes that only pass channels on are not listed; `carriers` has those, too.
        """
        found: dict[int, list[tuple[str, int]]] = {c: [] for c in range(self.size)}
        for node in self.graph.nodes:
            track = self.tracks[node.name]
            if track is None or node.op not in MAKERS:
                continue
            passed = set(self._entering(node)) if node.op == "pad" else ()
            for place, label in enumerate(track.classes):
                if label not in passed:
                    found[label].append((node.name, place))
        return {c: tuple(pairs) for c, pairs in found.items()}

    def _entering(self, node: Node) -> Labels:
        track = self.tracks[node.inputs[0]]
        return track.classes if track else ()

    @cached_property
    def carriers(self) -> Mapping[int, tuple[tuple[str, int], ...]]:
        """For each class every (node, position along its channel axis) that carries it."""
        found: dict[int, list[tuple[str, int]]] = {c: [] for c in range(self.size)}
        for name, track in self.tracks.items():
            for place, label in enumerate(track.classes if track else ()):
                found[label].append((name, place))
        return {c: tuple(pairs) for c, pairs in found.items()}

    @cached_property
    def removable(self) -> tuple[int, ...]:
        """Classes that are not frozen."""
        return tuple(c for c in range(self.size) if c not in self.frozen)

    @cached_property
    def bundles(self) -> tuple[Labels, ...]:
        """The removable classes, grouped by the layers that compute them; those of one group can be compared."""
        found: dict[tuple[str, ...], list[int]] = {}
        for label in self.removable:
            makers = tuple(dict.fromkeys(name for name, _ in self.members[label]))
            found.setdefault(makers, []).append(label)
        return tuple(tuple(classes) for classes in found.values())

    def layers(self, classes: Iterable[int]) -> tuple[str, ...]:
        """Names of the layers that make these classes, in order."""
        wanted = {name for c in classes for name, _ in self.members[c]}
        return tuple(node.name for node in self.graph.nodes if node.name in wanted)

    def fit(self, remove: Iterable[int]) -> Labels:
        """The classes among `remove` that can be removed together. Give the most important ones first: the last are
        dropped.

        Frozen classes stay, no value loses all its channels, and grouped convolutions keep equal groups or lose whole
        ones.
        """
        order = [c for c in dict.fromkeys(remove) if c not in self.frozen]
        rank = {c: place for place, c in enumerate(order)}
        gone = set(order)
        changed = bool(gone)
        while changed:
            changed = False
            for classes in self._values:
                if classes <= gone:
                    gone.discard(max(classes, key=lambda c: rank[c]))
                    changed = True
            for grouping in self.groupings:
                back = _unequal(grouping, gone, rank)
                gone -= back
                changed = changed or bool(back)
        return tuple(c for c in order if c in gone)

    @cached_property
    def _values(self) -> tuple[frozenset[int], ...]:
        return tuple(dict.fromkeys(frozenset(t.classes) for t in self.tracks.values() if t is not None and t.classes))


def _unequal(grouping: Grouping, gone: set[int], rank: Mapping[int, int]) -> set[int]:
    """Classes that must stay after all, so that the groups of one convolution are equal; empty if they already are."""
    sides = [grouping.outs] if grouping.ins is None else [grouping.ins, grouping.outs]
    empty = [all(c in gone for side in sides for c in side[j]) for j in range(len(grouping.outs))]
    if grouping.ins is None:
        empty = [False] * len(grouping.outs)
    back: set[int] = set()
    for side in sides:
        left = [sum(c not in gone for c in group) for group in side]
        most = max([1, *(n for n, whole in zip(left, empty, strict=True) if not whole)])
        for group, n, whole in zip(side, left, empty, strict=True):
            if not whole and n < most:
                candidates = sorted({c for c in group if c in gone}, key=lambda c: -rank[c])
                back.update(candidates[: most - n])
    return back


def channels(graph: Graph, *, even: bool = False) -> ChannelMap:
    """The channel map of a network; needs no weights.

    `even`: the parts of a value that slices divide evenly (`chunk(2)`) lose the same places, so that code which halves
    it again finds the same halves.

    >>> from dojang.arith.graph import Graph, Node
    >>> nodes = (Node.of("x", "input", shape=(3, 8, 8)), Node.of("a", "conv", "x", out=4, kernel=(3, 3), padding=1),
    ...          Node.of("b", "conv", "a", out=4, kernel=(3, 3), padding=1), Node.of("s", "add", "a", "b"),
    ...          Node.of("y", "conv", "s", out=2, kernel=(1, 1)))
    >>> m = channels(Graph(nodes, ("y",)))
    >>> m.members[m.tracks["a"].classes[0]]
    (('a', 0), ('b', 0))
    """
    tracks, size, frozen = ChannelTracer(graph, even).result()
    groupings = tuple(_grouping(node, tracks) for node in graph.nodes
                      if node.rule.channels == "conv" and node.attrs["groups"] > 1 and tracks[node.name])  # fmt: skip
    return ChannelMap(graph, tracks, size, frozen, groupings)


def _grouping(node: Node, tracks: Mapping[str, Track | None]) -> Grouping:
    groups, outs, source = node.attrs["groups"], tracks[node.name], tracks[node.inputs[0]]
    ins = split(source.classes, groups) if source and source.axis == 1 else None
    return Grouping(node.name, ins, split(outs.classes, groups) if outs else ())
