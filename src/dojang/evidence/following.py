"""Where the channels of a layer end up: they are followed from the layer to all that reads them, and judged there.

A channel passes norms, activations, pools, resizing, reshapes, slices, concatenations, sums and products, on as many
paths as there are readers. It makes no difference where on every path it is 0, or one constant, or multiplied by
weights of 0, or read by nobody: each path is judged at the last place where that is so. Layers that share their weights
are judged by all of their uses.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dojang.arith.channels import ChannelMap
from dojang.arith.graph import Graph, Node
from dojang.arith.shapes import Shape, axis_of
from dojang.arith.ties import Track, selected
from dojang.evidence.readers import columns, reads_channels

Array = np.ndarray

ALIVE, UNREAD, ZERO, CONSTANT = range(4)
"""What is known of a channel at a place: nothing, nobody reads it, it is 0, it is one number. Where it is alive on no
path, the last of these that is so on one of them is said of it: it holds wherever the channel is read. (Norms that
take statistics over several channels read each of them; what is 0 or one number behind them is told of the layer.)"""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of each channel at one value, (c,): `states`; `sizes`, what was measured of it (how large a channel
    got that is 0, what part of its size a constant moves); `levels`, the number that a constant is.
    """

    states: Array
    sizes: Array
    levels: Array

    @classmethod
    def nothing(cls, size: int, state: int = ALIVE) -> Seen:
        """One state for all channels, nothing measured."""
        return cls(np.full(size, state), np.zeros(size), np.zeros(size))


Judge = Callable[[str], Seen | None]
"""`judge(value)`: what is known of each channel of a value; None: nothing."""

MIXED = frozenset(("softmax", "log_softmax", "lrn"))
"""Their channels answer to each other, so a channel ends there."""


@dataclass(frozen=True)
class Verdict:
    """Of each channel of a layer what becomes of it, and for each channel the values at which that shows."""

    seen: Seen
    places: tuple[frozenset[str], ...]

    def where(self, channels: Sequence[int]) -> tuple[str, ...]:
        """The values at which these channels were judged, sorted."""
        return tuple(sorted(frozenset[str]().union(*(self.places[c] for c in channels))))

    def of(self, state: int, but: Container[int] = ()) -> tuple[int, ...]:
        """The channels in this state, those in `but` left out."""
        return tuple(c for c in np.flatnonzero(self.seen.states == state).tolist() if c not in but)


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict on several paths, or on layers that share their weights: it holds on all of them."""
    if len(verdicts) == 1:
        return verdicts[0]
    states = np.array([v.seen.states for v in verdicts])
    joint = np.where((states == ALIVE).any(axis=0), ALIVE, states.max(axis=0))
    sizes = np.max([v.seen.sizes for v in verdicts], axis=0)
    levels = np.array([v.seen.levels for v in verdicts])[np.argmax(states == CONSTANT, axis=0), np.arange(len(joint))]
    places = tuple(frozenset[str]().union(*(v.places[c] for v in verdicts)) for c in range(len(joint)))
    return Verdict(Seen(joint, sizes, levels), places)


class Following:
    """Which channels of a value are which channels of what reads it."""

    def __init__(self, graph: Graph, tied: ChannelMap) -> None:
        """Nothing is followed yet."""
        self.graph, self.tied = graph, tied

    def size(self, value: str) -> int | None:
        """How many channels of a value are followed; None where they are not."""
        track = self.tied.tracks[value]
        return None if track is None else len(track.classes)

    def carried(self, value: str, reader: Node) -> Array | None:
        """For each channel of `reader` the channel of `value` that it is, −1 for none; None: it carries none on."""
        graph, shape, after = self.graph, self.graph.unit_shapes[value], self.graph.unit_shapes[reader.name]
        own, track = self.tied.tracks[value], self.tied.tracks[reader.name]
        if own is None or track is None or shape is None or after is None:
            return None
        size, wide = len(own.classes), len(track.classes)
        match reader.rule.channels:
            case "keep" | "spatial" | "mix" | "transpose" | "reduce":
                return np.arange(size) if size == wide and reader.op not in MIXED else None
            case "join":
                if own.axis - len(shape) != track.axis - len(after):
                    return None
                return np.arange(size) if size == wide else np.zeros(wide, int) if size == 1 else None
            case "pad":
                pads = ((0, 0),) * (len(shape) - len(reader.attrs["pads"])) + reader.attrs["pads"]
                before, behind = pads[own.axis]
                kept = np.arange(max(-before, 0), size - max(-behind, 0))
                fill = [np.full(max(n, 0), -1) for n in (before, behind)]
                return np.concatenate([fill[0], kept, fill[1]]) if reader.attrs["mode"] == "constant" else None
            case "slice" | "gather":
                if axis_of(reader.attrs["axis"], len(shape)) != own.axis:
                    return np.arange(size)
                return np.array(selected(reader, size), int)
            case "concat":
                return self.joined(value, reader, own, track, graph.unit_shapes)
            case "reshape":
                return _merged(own, track, shape, after)
            case _:
                return None

    def mixing(self, value: str, reader: Node) -> bool:
        """Whether a reader takes statistics over several channels of a value: each of them then moves the others."""
        own, shape = self.tied.tracks[value], self.graph.unit_shapes[value]
        if own is None or shape is None or len(own.classes) < 2:
            return False
        if reader.op == "groupnorm":
            return reader.attrs["groups"] < len(own.classes)
        return reader.op == "layernorm" and own.axis % len(shape) >= len(shape) - len(reader.attrs["shape"])

    def mixed(self, value: str, places: Container[str]) -> tuple[str, ...]:
        """The norms that take statistics over several channels and stand between a value and these places."""
        found: list[str] = []
        queue = [value]
        for name in queue:
            if name in places and name != value:
                continue
            for reader in self.graph.consumers[name]:
                if reader.name in queue or self.carried(name, reader) is None:
                    continue
                queue.append(reader.name)
                found += [reader.name] if self.mixing(name, reader) else []
        return tuple(found)

    @staticmethod
    def joined(value: str, reader: Node, own: Track, track: Track, shapes: Mapping[str, Shape | None]) -> Array | None:
        """Concatenation: where one value stands, everywhere if it stands there twice."""
        after = shapes[reader.name]
        if after is None or own.axis != track.axis:
            return None
        if axis_of(reader.attrs["axis"], len(after)) != track.axis:
            return np.arange(len(own.classes))
        parts = [
            np.arange(len(own.classes)) if name == value else np.full((shapes[name] or ())[track.axis], -1)
            for name in reader.inputs
        ]
        return np.concatenate(parts)

    def judged(self, judge: Judge) -> dict[str, Verdict | None]:
        """The verdict on every value, None where its channels are not followed."""
        found: dict[str, Verdict | None] = {}
        for node in reversed(self.graph.nodes):
            size = self.size(node.name)
            found[node.name] = None if size is None else self._verdict(node, size, judge(node.name), found)
        return found

    def _verdict(self, node: Node, size: int, own: Seen | None, found: dict[str, Verdict | None]) -> Verdict:
        here = own or Seen.nothing(size)
        readers = {reader.name: reader for reader in self.graph.consumers[node.name]}.values()
        places = (frozenset((node.name,)),) * size
        if node.name in self.graph.outputs:
            return Verdict(here, places)
        if not readers:
            return Verdict(Seen.nothing(size, UNREAD), places)
        return together([self._path(node.name, size, here, reader, found) for reader in readers])

    def _path(self, name: str, size: int, here: Seen, reader: Node, found: dict[str, Verdict | None]) -> Verdict:
        """What one reader makes of the channels: what is found behind it, else what holds here."""
        states, sizes, levels = here.states.copy(), here.sizes.copy(), here.levels.copy()
        places = [frozenset((name,))] * size
        made = Seen(states, sizes, levels)
        if reads_channels(self.graph, self.tied, reader):
            for c in np.flatnonzero(~(columns(self.graph, reader) != 0).any(axis=1)).tolist():
                if states[c] != ZERO:
                    states[c], sizes[c], places[c] = UNREAD, 0, frozenset((reader.name,))
            return Verdict(made, tuple(places))
        carried, behind = self.carried(name, reader), found[reader.name]
        if carried is None or behind is None:
            return Verdict(made, tuple(places))
        least = ZERO if self.mixing(name, reader) else UNREAD  # what nobody reads still moves the statistics
        met: list[list[int]] = [[] for _ in range(size)]
        for place, channel in enumerate(carried.tolist()):
            if channel >= 0:
                met[channel].append(place)
        for c, own in enumerate(met):
            later = behind.seen.states[own]
            if states[c] == ZERO and not (own and (later == ZERO).all()):
                continue
            if not own:
                states[c], sizes[c], places[c] = UNREAD, 0, frozenset((reader.name,))
            elif (later >= least).all():
                last = own[int(np.argmax(later))]
                states[c], sizes[c] = later.max(), behind.seen.sizes[own].max()
                levels[c] = behind.seen.levels[last]
                places[c] = frozenset[str]().union(*(behind.places[p] for p in own))
        return Verdict(made, tuple(places))

    def watched(self) -> tuple[str, ...]:
        """The values at which `judged` asks what was measured: where channels are read, or are joined with others."""
        moved = ("reshape", "slice", "gather", "concat", "pad", "fresh")
        return tuple(
            node.name for node in self.graph.nodes
            if self.size(node.name) is not None and node.rule.channels not in moved and node.inputs
            and node.name in self.ends(node.name)[:1]
        )  # fmt: skip

    def ends(self, value: str) -> tuple[str, ...]:
        """Where the channels of a value are read: the values, behind it, that a layer, a join or the user reads.

        Up to there each channel was treated by itself, and stands where it stood.
        """
        found: list[str] = []
        queue = [value]
        while queue:
            name = queue.pop(0)
            readers = self.graph.consumers[name]
            onward = [r.name for r in readers if self.alone(name, r)]
            queue += [n for n in onward if n not in queue]
            if name in self.graph.outputs or len(onward) < len(readers) or not readers:
                found.append(name)
        return tuple(dict.fromkeys(found))

    def alone(self, value: str, reader: Node) -> bool:
        """Whether a reader treats each channel by itself, in the same order, and nothing is joined with it."""
        if reader.rule.channels not in ("keep", "spatial", "mix", "transpose", "reduce") or len(reader.inputs) > 1:
            return False
        carried = self.carried(value, reader)
        return carried is not None and np.array_equal(carried, np.arange(self.size(value) or 0))


def _merged(own: Track, track: Track, before: Shape, after: Shape) -> Array | None:
    """Reshapes: the channel that comes to lie at each new place; None where several meet at one."""
    line = [1] * len(before)
    line[own.axis] = before[own.axis]
    places = np.broadcast_to(np.arange(before[own.axis]).reshape(line), before).reshape(after)
    places = np.moveaxis(places, track.axis, 0).reshape(after[track.axis], -1)
    return places[:, 0] if (places == places[:, :1]).all() else None
