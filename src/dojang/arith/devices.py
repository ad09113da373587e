"""A network over several devices, cut by the filters of its layers: what each holds, computes and receives.

Krizhevsky et al. (2012) cut AlexNet over two GPUs like this, because one had too little memory: each GPU computes half
of the filters of every layer. A layer with two filter groups then finds its inputs on its own GPU; only layers that
read all channels (conv3 and the dense layers) exchange activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from dojang.arith.channels import channels
from dojang.arith.cost import Count, count, liveness
from dojang.arith.graph import Graph, Node
from dojang.arith.ops import BYTES, UNKNOWN
from dojang.arith.shapes import Shape, axis_of
from dojang.arith.symbol import symbolic
from dojang.arith.ties import Track
from dojang.base.errors import UsageError
from dojang.base.result import Result

MOST_DEVICES = 1024

Places = tuple[int, ...]
"""Positions along the channel axis of a value."""

EVERYWHERE = -1
"""The owner of channels that every device has: those of an input, and what padding adds."""


@dataclass(frozen=True, slots=True)
class PlacedLayer:
    """What the devices do for one layer; each tuple has one entry per device.

    `own` are the output channels that a device computes; `axis` is where they lie, None if a layer has no channels that
    can be followed: then every device computes the whole output (`repeated`). `received` are, for each input, the
    channels that a device gets from the others before it computes; what it got for an earlier layer it keeps.
    """

    name: str
    op: str
    shape: Shape | None
    axis: int | None
    own: tuple[Places, ...]
    params: tuple[int, ...]
    macs: tuple[int, ...]
    out_bytes: tuple[int, ...]
    received: Mapping[str, tuple[Places, ...]]
    received_bytes: tuple[int, ...]

    @property
    def repeated(self) -> bool:
        """Whether every device computes the whole of it."""
        return self.axis is None

    def out_shape(self, device: int) -> Shape | None:
        """The part of the output that a device computes, without the batch."""
        if self.shape is None:
            return None
        sizes = list(self.shape)
        if self.axis is not None:
            sizes[self.axis] = len(self.own[device])
        return tuple(sizes if self.op == "constant" else sizes[1:])

    def to_dict(self) -> dict[str, Any]:
        """The row for JSON: shapes and figures per device, and from which layers it receives."""
        devices = range(len(self.own))
        shapes = [self.out_shape(device) for device in devices]
        return {
            "name": self.name,
            "op": self.op,
            "out_shapes": [None if shape is None else list(shape) for shape in shapes],
            "repeated": self.repeated,
            "params": list(self.params),
            "macs": list(self.macs),
            "out_bytes": list(self.out_bytes),
            "received_bytes": list(self.received_bytes),
            "sources": list(self.received),
        }


@dataclass(frozen=True)
class Placement(Result):
    """A network over devices. `peak_bytes` are the most bytes of activations alive at once on each device, with what it
    received. `whole` is the count of the network on one device.
    """

    network: str
    devices: int
    layers: tuple[PlacedLayer, ...]
    peak_bytes: tuple[int, ...]
    whole: Count

    @property
    def params(self) -> tuple[int, ...]:
        """Parameters that each device holds."""
        return self._sums([layer.params for layer in self.layers])

    @property
    def macs(self) -> tuple[int, ...]:
        """Multiply-accumulates that each device computes."""
        return self._sums([layer.macs for layer in self.layers])

    @property
    def activation_bytes(self) -> tuple[int, ...]:
        """Bytes of all outputs that each device computes."""
        return self._sums([layer.out_bytes for layer in self.layers])

    @property
    def received_bytes(self) -> tuple[int, ...]:
        """Bytes of activations that each device receives from the others."""
        return self._sums([layer.received_bytes for layer in self.layers])

    @property
    def exchanges(self) -> tuple[PlacedLayer, ...]:
        """The layers before which activations are exchanged."""
        return tuple(layer for layer in self.layers if any(layer.received_bytes))

    def _sums(self, rows: Sequence[Sequence[int]]) -> tuple[int, ...]:
        return tuple(sum(row[device] for row in rows) for device in range(self.devices))

    @property
    def convention(self) -> str:
        """What is counted, and what is not."""
        return (
            f"each device computes a part of the filters of every layer, in order; {self.whole.convention}; "
            "received: activations read by a device and computed by another, once each; weights are not moved; the "
            "output stays in parts"
        )

    def to_dict(self) -> dict[str, Any]:
        """Totals per device, and every layer."""
        total = self.whole.total
        return {
            "devices": self.devices,
            "convention": self.convention,
            "totals": {
                "params": list(self.params),
                "macs": list(self.macs),
                "activation_bytes": list(self.activation_bytes),
                "peak_bytes": list(self.peak_bytes),
                "received_bytes": list(self.received_bytes),
                "exchanged_bytes": sum(self.received_bytes),
                "repeated_params": sum(self.params) - total.params,
                "repeated_macs": sum(self.macs) - total.macs,
                "status": self.whole.status,
            },
            "layers": [layer.to_dict() for layer in self.layers],
        }


def place(graph: Graph, devices: int, batch: int = 1) -> Placement:
    """A network cut over devices: equal runs of the filters of each layer go to the devices in order.

    Channels that must lie together (both sides of a sum, a depthwise layer and its input) go to the device that
    computes them first. An array that several layers share is counted on each device by its first reader. Raises `UsageError`
    for a number of devices below 1, and for sizes that are names.

    >>> from dojang.formats.zoo import load
    >>> found = place(load("alexnet"), 2)
    >>> [layer.name for layer in found.exchanges]
    ['norm1', 'norm2', 'conv3', 'fc6', 'fc7', 'fc8']
    """
    if not 1 <= devices <= MOST_DEVICES:
        raise UsageError(f"devices {devices}: give a number from 1 to {MOST_DEVICES}")
    whole = count(graph, batch)
    if symbolic(whole.peak_bytes) or symbolic(whole.macs):
        raise UsageError("over devices sizes must be numbers; formulas are for one device")
    return _Placing(graph, devices, whole).placement()


class _Placing:
    """One walk over the nodes, in order."""

    def __init__(self, graph: Graph, devices: int, whole: Count) -> None:
        self.graph, self.devices, self.whole = graph, devices, whole
        self.tracks = channels(graph).tracks
        self.shapes = {layer.name: layer.shape for layer in whole.layers}
        self.owner = self._owners()
        self.kept: dict[tuple[str, int], set[int]] = {}
        """What a device has received of a value so far."""

    def placement(self) -> Placement:
        """All layers, and the peak of each device."""
        rows = tuple(
            self._placed(self.graph.by_name[layer.name], place) for place, layer in enumerate(self.whole.layers)
        )
        peaks: list[int] = []
        for device in range(self.devices):
            sizes: dict[str, int] = {}
            for row in rows:
                held = self.kept.get((row.name, device), ())
                more = len(held) * self._channel_bytes(row.name) if row.op != "constant" else 0
                sizes[row.name] = (row.out_bytes[device] if row.op != "constant" else 0) + more
            peaks.append(liveness(self.graph, sizes))
        return Placement(self.graph.name, self.devices, rows, tuple(peaks), self.whole)

    def _owners(self) -> dict[int, int]:
        """The device of each class of channels; classes that no layer with filters makes are everywhere."""
        owner: dict[int, int] = {}
        for node in self.graph.nodes:
            track = self.tracks[node.name]
            if track is None or node.rule.channels not in ("conv", "dense"):
                continue
            new = [c for c in dict.fromkeys(track.classes) if c not in owner]
            owner.update({c: place * self.devices // len(new) for place, c in enumerate(new)})
        return owner

    def _has(self, track: Track, device: int) -> list[int]:
        """The channels of a value that a device computes itself."""
        mine = (device, EVERYWHERE)
        return [place for place, c in enumerate(track.classes) if self.owner.get(c, EVERYWHERE) in mine]

    def _placed(self, node: Node, place: int) -> PlacedLayer:
        layer = self.whole.layers[place]
        track = self.tracks[node.name] if node.op not in ("input", UNKNOWN) else None
        own: list[Places] = []
        received: dict[str, list[Places]] = {}
        got = [0] * self.devices
        for device in range(self.devices):
            mine = None if track is None else self._has(track, device)
            own.append(tuple(mine or ()))
            if mine == []:
                continue
            for number, source in enumerate(node.inputs):
                missing = self._missing(node, number, source, mine, device)
                if missing:
                    every = received.setdefault(source, [()] * self.devices)
                    every[device] = tuple(sorted({*every[device], *missing}))
                    got[device] += len(missing) * self._channel_bytes(source)
        total = len(track.classes) if track is not None else 1
        counts = [len(part) for part in own] if track is not None else [1] * self.devices
        by_part = track is not None and self._in_parts(node, track)
        weights = counts if by_part else [total if n else 0 for n in counts]

        def shared(value: int, parts: Sequence[int]) -> tuple[int, ...]:
            return tuple(value * n // total for n in parts)

        cost = layer.cost
        outputs = shared(cost.out_bytes, counts)
        macs = shared(cost.macs, counts)
        parts = {source: tuple(every) for source, every in received.items()}
        return PlacedLayer(
            node.name, node.op, layer.shape, None if track is None else track.axis, tuple(own),
            shared(cost.params, weights), macs, outputs, parts, tuple(got),
        )  # fmt: skip

    def _in_parts(self, node: Node, track: Track) -> bool:
        """Whether the arrays of a node are cut with its channels; else each device that computes it has them whole."""
        match node.rule.channels:
            case "conv" | "dense":
                return True
            case _:
                axis, shapes = track.axis, self.graph.node_params(node).values()
                full = self.graph.unit_shapes[node.name]
                if node.op == "constant":
                    return True
                if node.op == "layernorm" and full is not None:
                    return axis >= len(full) - len(node.attrs["shape"])
                return axis == 1 and all(shape == (len(track.classes),) for shape in shapes)

    def _missing(self, node: Node, number: int, source: str, mine: list[int] | None, device: int) -> list[int]:
        """The channels of an input that a device reads and neither computes nor has received; they count as received."""
        track = self.tracks[source]
        if track is None or self.graph.by_name[source].op in ("input", "constant", UNKNOWN):
            return []  # every device has the whole of it
        needed = self._needed(node, number, track, mine, self.shapes[source])
        if needed is None:
            return []
        kept = self.kept.setdefault((source, device), set())
        missing = sorted({*needed} - {*self._has(track, device)} - kept)
        kept.update(missing)
        return missing

    def _needed(
        self, node: Node, number: int, track: Track, mine: list[int] | None, shape: Shape | None
    ) -> Sequence[int] | None:
        """The channels of an input from which a device computes its part; None if these are the ones that it has."""
        every = range(len(track.classes))
        out = self.tracks[node.name]
        if mine is None or out is None or shape is None:
            return every
        match node.rule.channels:
            case "conv":
                groups = node.attrs["groups"]
                if number or track.axis != 1 or groups == 1:
                    return every
                filters, inside = len(out.classes) // groups, len(every) // groups
                touched = {place // filters for place in mine}
                return [place for group in sorted(touched) for place in range(group * inside, (group + 1) * inside)]
            case "dense":
                return every
            case "mix":
                return self._mixed(node, track, mine, len(shape))
            case "concat":
                return None if track.axis == out.axis else every
            case "join":
                full = self.shapes[node.name]
                aligned = full is not None and track.axis - len(shape) == out.axis - len(full)
                return None if aligned and len(every) == len(out.classes) else every
            case _:
                return None  # channel by channel, so that the classes of the output are those of the input

    def _mixed(self, node: Node, track: Track, mine: list[int], rank: int) -> Sequence[int] | None:
        """What a normalisation or softmax reads for these of its channels."""
        every = range(len(track.classes))
        match node.op:
            case "lrn":
                before, after = node.attrs["size"] // 2, (node.attrs["size"] - 1) // 2
                return sorted({p for c in mine for p in range(max(0, c - before), min(len(every), c + after + 1))})
            case "groupnorm":
                inside = len(every) // node.attrs["groups"]
                touched = sorted({c // inside for c in mine})
                return [p for group in touched for p in range(group * inside, (group + 1) * inside)]
            case "layernorm":
                return every if track.axis >= rank - len(node.attrs["shape"]) else None
            case "softmax" | "log_softmax":
                return every if axis_of(node.attrs["axis"], rank) == track.axis else None
            case _:
                return every

    def _channel_bytes(self, name: str) -> int:
        """Bytes of one channel of a value."""
        track, shape = self.tracks[name], self.shapes[name]
        return BYTES * prod(shape) // len(track.classes) if track is not None and shape is not None else 0
