"""The rules by which operators couple channels: one walk over the graph, with union-find over labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from dojang.arith.graph import Graph, Node
from dojang.arith.ops import OPS, STANDARD
from dojang.arith.shapes import Shape, axis_of
from dojang.arith.standard import by_element
from dojang.arith.table import Table, because

Labels = tuple[int, ...]

MIXES = {"groupnorm": "normalises over all channels", "lrn": "normalises over neighbouring channels"}
"""Why an operator with the rule "mix" freezes its channels, if not because it "normalises over channels"."""


@dataclass(frozen=True, slots=True)
class Track:
    """The axis of a value that carries channels (batch is axis 0) and the class of each element along it."""

    axis: int
    classes: Labels


class ChannelTracer:
    """Walks the graph once, with a union-find over labels."""

    def __init__(self, graph: Graph, even: bool = False) -> None:
        """Nothing is tied yet; `result` does the walk. `even`: see `tie_chunks`."""
        self.graph, self.even = graph, even
        self.shapes = graph.unit_shapes
        self.parent: list[int] = []
        self.reason: dict[int, str] = {}
        self.tracks: dict[str, Track | None] = {}

    def result(self) -> tuple[dict[str, Track | None], int, dict[int, str]]:
        """Tracks with classes numbered in order of first appearance, how many there are, and why some are frozen."""
        for node in self.graph.nodes:
            self.tracks[node.name] = self.visit(node)
        for out in self.graph.outputs:
            self.freeze(self.tracks[out], f"{out}: is an output of the network")
        self.tie_shared()
        if self.even:
            self.tie_chunks()
        number: dict[int, int] = {}

        def final(labels: Iterable[int]) -> Labels:
            return tuple(number.setdefault(self.find(label), len(number)) for label in labels)

        tracks = {name: Track(t.axis, final(t.classes)) if t else None for name, t in self.tracks.items()}
        frozen = {number[self.find(label)]: why for label, why in self.reason.items() if self.find(label) in number}
        return tracks, len(number), dict(sorted(frozen.items()))

    # union-find

    def fresh(self, count: int) -> Labels:
        """New labels, tied to nothing."""
        first = len(self.parent)
        self.parent += range(first, first + count)
        return tuple(range(first, first + count))

    def find(self, label: int) -> int:
        """The label that stands for a class."""
        while self.parent[label] != label:
            self.parent[label] = self.parent[self.parent[label]]
            label = self.parent[label]
        return label

    def tie(self, a: int, b: int) -> None:
        """Makes two classes one; frozen if either is."""
        a, b = self.find(a), self.find(b)
        if a == b:
            return
        low, high = min(a, b), max(a, b)
        self.parent[high] = low
        if high in self.reason:
            self.reason.setdefault(low, self.reason[high])

    def freeze(self, track: Track | None, why: str) -> None:
        """Marks the classes of a value as not removable; the first reason stays."""
        for label in track.classes if track else ():
            self.reason.setdefault(self.find(label), why)

    @staticmethod
    def on_axis(track: Track | None, axis: int) -> Track | None:
        """The track if it lies on this axis."""
        return track if track is not None and track.axis == axis else None

    # one rule per `Op.channels`

    def visit(self, node: Node) -> Track | None:
        """The track of a node's output; inputs have theirs already."""
        shape = self.shapes[node.name]
        sources = [self.shapes[i] for i in node.inputs]
        tracks = [self.tracks[i] for i in node.inputs]
        known = [s for s in sources if s is not None]
        if shape is None or len(known) < len(sources):
            return self.opaque(node, tracks, "is not known")
        match node.rule.channels:
            case "fresh":
                track = Track(1, self.fresh(shape[1])) if len(shape) > 1 else None
                self.freeze(track, f"{node.name}: is an input of the network")
                return track
            case "conv":
                return self.conv(node, tracks[0], known[0])
            case "dense":
                if tracks[0] is not None and tracks[0].axis != len(known[0]) - 1:
                    self.freeze(tracks[0], f"{node.name}: a dense layer computes along another axis")
                return Track(len(shape) - 1, self.fresh(shape[-1]))
            case "keep":
                return tracks[0]
            case "spatial":
                return self.spatial(node, tracks[0])
            case "mix":
                if node.op == "groupnorm" and self.group_norm(node, tracks[0]):
                    return tracks[0]
                self.opaque(node, tracks, MIXES.get(node.op, "normalises over channels"))
                return tracks[0]  # the channels keep their axis, and all of them stay
            case "join":
                return self.join(node, tracks, known, shape)
            case "concat":
                return self.concat(node, tracks, known)
            case "reshape":
                return self.reshape(node, tracks[0], known[0], shape)
            case "transpose":
                return tracks[0] and Track(node.attrs["perm"].index(tracks[0].axis), tracks[0].classes)
            case "pad":
                return self.pad(node, tracks[0], known[0])
            case "slice" | "gather":
                return self.select(node, tracks[0], known[0])
            case "reduce":
                return self.reduce(node, tracks[0], known[0])
            case "opaque" if node.op == STANDARD and by_element(node.attrs):
                return self.join(node, tracks, known, shape)
            case _:
                return self.opaque(node, tracks, f"is {node.op}, whose channels are not followed")

    def opaque(self, node: Node, tracks: Sequence[Track | None], why: str) -> None:
        """Freezes the channels of all inputs; those of the output are not known."""
        for track in tracks:
            self.freeze(track, f"{node.name}: {why}")

    def conv(self, node: Node, track: Track | None, source: Shape) -> Track:
        """New classes; in a depthwise convolution each output is tied to its input."""
        outs = self.fresh(node.attrs["out"])
        if track is not None and track.axis != 1:
            self.freeze(track, f"{node.name}: a convolution slides over the axis that carries them")
        groups = node.attrs["groups"]
        ins = self.on_axis(track, 1)
        if ins is not None and groups == source[1] and groups > 1:  # depthwise: each input with its own outputs
            for label, own in zip(ins.classes, split(outs, groups), strict=True):
                for out in own:
                    self.tie(label, out)
        return Track(1, outs)

    def group_norm(self, node: Node, track: Track | None) -> bool:
        """Ties the channels of each group, and says whether there are several: whole groups go, so that mean and
        variance of the others stay as they are. With one channel less in every group they would change even if that
        channel were zero.
        """
        groups = node.attrs["groups"]
        if groups == 1 or track is None or track.axis != 1:
            return False
        for group in split(track.classes, groups):
            for label in group[1:]:
                self.tie(group[0], label)
        return True

    def spatial(self, node: Node, track: Track | None) -> Track | None:
        """Channel by channel where channels lie on axis 1."""
        if track is not None and track.axis != 1:
            return self.opaque(node, [track], f"{node.op} mixes along the axis that carries them")
        return track

    def join(self, node: Node, tracks: Sequence[Track | None], sources: Sequence[Shape], shape: Shape) -> Track | None:
        """Sums and products tie the channels of their inputs, except of inputs that are stretched from size 1."""
        ends = {t.axis - len(s) for t, s, i in zip(tracks, sources, node.inputs, strict=True)
                if t is not None and s[t.axis] > 1 and self.graph[i].op != "constant"}  # fmt: skip
        if not ends:
            ends = {t.axis - len(s) for t, s in zip(tracks, sources, strict=True) if t is not None}
        if len(ends) != 1:
            return self.opaque(node, tracks, "joins values whose channels lie on different axes")
        end = ends.pop()
        wide: list[Track] = []
        lost = False
        for name, track, source in zip(node.inputs, tracks, sources, strict=True):
            size = source[end] if len(source) >= -end else 1
            if size == 1 and shape[end] > 1:
                continue  # stretched over all channels, so it belongs to none of them
            own = self.constant_track(name, source, len(source) + end) if self.graph[name].op == "constant" else track
            if own is None or own.axis - len(source) != end:
                lost = lost or size > 1
                self.freeze(own, f"{node.name}: joins them with channels on another axis")
            else:
                wide.append(own)
        for track in wide[1:]:
            for a, b in zip(wide[0].classes, track.classes, strict=True):
                self.tie(a, b)
        if lost:
            for track in (*wide, *tracks):
                self.freeze(track, f"{node.name}: joins them with a value whose channels are not followed")
        return Track(len(shape) + end, wide[0].classes) if wide else None

    def constant_track(self, name: str, source: Shape, axis: int) -> Track | None:
        """The channels of a constant, on the axis on which its first reader needs them."""
        if any(reader.rule.channels != "join" for reader in self.graph.consumers[name]):
            return None
        if self.tracks[name] is None and axis >= 0:
            self.tracks[name] = Track(axis, self.fresh(source[axis]))
        return self.tracks[name]

    def concat(self, node: Node, tracks: Sequence[Track | None], sources: Sequence[Shape]) -> Track | None:
        """Along channels one after the other (one tensor twice repeats its classes); along another axis all agree."""
        axis = axis_of(node.attrs["axis"], len(sources[0]))
        followed = [t for t in tracks if t is not None]
        along = [t for t in followed if t.axis == axis]
        if along:
            for track in followed:
                if track.axis != axis:
                    self.freeze(track, f"{node.name}: concatenates along another axis")
            labels: list[int] = []
            for track, source in zip(tracks, sources, strict=True):
                own = self.on_axis(track, axis)
                if own is None:
                    own = Track(axis, self.fresh(source[axis]))
                    self.freeze(own, f"{node.name}: joins a value whose channels are not followed")
                labels += own.classes
            return Track(axis, tuple(labels))
        if len(followed) < len(tracks) or len({t.axis for t in followed}) != 1:
            return self.opaque(node, tracks, "joins values whose channels are not followed")
        for track in followed[1:]:
            for a, b in zip(followed[0].classes, track.classes, strict=True):
                self.tie(a, b)
        return followed[0]

    def reshape(self, node: Node, track: Track | None, source: Shape, shape: Shape) -> Track | None:
        """Channels that are merged with another axis repeat. If the axis is split, channels along the other parts are
        tied.
        """
        if track is None:
            return None
        size = source[track.axis]
        outer, inner = prod(source[: track.axis]), prod(source[track.axis + 1 :])
        places = [(b, prod(shape[:b]), prod(shape[b + 1 :])) for b in range(1, len(shape))]
        if shape[0] == source[0]:
            holds = [(b, outer // o, inner // i) for b, o, i in places
                     if outer % o == 0 and inner % i == 0 and shape[b] == outer // o * size * (inner // i)]  # fmt: skip
            if holds:
                axis, before, after = min(holds, key=lambda h: (h[0] != track.axis, h[0]))
                block = tuple(label for label in track.classes for _ in range(after))
                return Track(axis, block * before)
            parts = [(b, o // outer, i // inner) for b, o, i in places
                     if o % outer == 0 and i % inner == 0 and o // outer * shape[b] * (i // inner) == size]  # fmt: skip
            if parts:
                # the axis is split: channels live on its largest part, tied over the other parts
                axis, before, after = max(parts, key=lambda p: shape[p[0]])
                count = shape[axis]
                for place, label in enumerate(track.classes):
                    self.tie(label, track.classes[place // after % count * after])
                return Track(axis, tuple(track.classes[j * after] for j in range(count)))
        return self.opaque(node, [track], "mixes channels with other axes")

    def pad(self, node: Node, track: Track | None, source: Shape) -> Track | None:
        """New classes for channels that padding adds; channels that it crops have no class in the output."""
        if track is None:
            return None
        pads = ((0, 0),) * (len(source) - len(node.attrs["pads"])) + node.attrs["pads"]
        before, after = pads[track.axis]
        if (before > 0 or after > 0) and node.attrs["mode"] != "constant":
            return self.opaque(node, [track], f"{node.attrs['mode']} padding repeats channels")
        inner = track.classes[max(-before, 0) : len(track.classes) - max(-after, 0)]
        return Track(track.axis, self.fresh(max(before, 0)) + inner + self.fresh(max(after, 0)))

    def select(self, node: Node, track: Track | None, source: Shape) -> Track | None:
        """Slices and gathers select classes."""
        if track is None or axis_of(node.attrs["axis"], len(source)) != track.axis:
            return track
        return Track(track.axis, tuple(track.classes[i] for i in selected(node, len(track.classes))))

    def reduce(self, node: Node, track: Track | None, source: Shape) -> Track | None:
        """A sum over channels reads them like a layer does; a mean or an extreme over channels freezes them."""
        if track is None:
            return None
        axes = {axis_of(a, len(source)) for a in node.attrs["axes"]}
        if track.axis in axes:
            if node.op != "reduce_sum":
                self.freeze(track, f"{node.name}: {node.op} runs over channels")
            return None
        return track if node.attrs["keepdims"] else Track(track.axis - sum(a < track.axis for a in axes), track.classes)

    # code that halves a value again

    def tie_chunks(self) -> None:
        """Ties the i-th elements of all parts of a value that slices divide into equal parts along its channels."""
        for node in self.graph.nodes:
            track, shape = self.tracks[node.name], self.shapes[node.name]
            if track is None or shape is None:
                continue
            size = len(track.classes)
            runs: set[tuple[int, int]] = set()
            for reader in self.graph.consumers[node.name]:
                if reader.op != "slice" or axis_of(reader.attrs["axis"], len(shape)) != track.axis:
                    continue
                places = selected(reader, size)
                if places and places == list(range(places[0], places[-1] + 1)):
                    runs.add((places[0], len(places)))
            if len(runs) < 2 or len({length for _, length in runs}) > 1:
                continue
            (length,) = {length for _, length in runs}
            if sorted(start for start, _ in runs) != list(range(0, size, length)):
                continue
            for start in range(length, size, length):
                for i in range(length):
                    self.tie(track.classes[i], track.classes[start + i])

    # layers that share arrays

    def tie_shared(self) -> None:
        """Ties the channels of all nodes that use one array: they must keep the same elements of it."""
        first: dict[str, tuple[Node, tuple[Labels | None, ...], int]] = {}
        for node in self.graph.nodes:
            for role, axes in array_axes(node, self.tracks).items():
                array, groups = node.array(role), node.attrs.get("groups", 1)
                if array not in first:
                    first[array] = (node, axes, groups)
                    continue
                other, theirs, their_groups = first[array]
                alike = groups == their_groups and len(axes) == len(theirs)
                for mine, other_labels in zip(axes, theirs, strict=False):
                    if alike and mine and other_labels and len(mine) == len(other_labels):
                        for a, b in zip(mine, other_labels, strict=True):
                            self.tie(a, b)
                    elif not alike or mine or other_labels:
                        why = f"{node.name}: shares {array} with {other.name}, which uses it differently"
                        self.freeze(Track(1, (mine or ()) + (other_labels or ())), why)


def selected(node: Node, size: int) -> list[int]:
    """The positions along its axis that a slice or gather reads, from the size of that axis."""
    if node.op == "slice":
        return list(range(*slice(node.attrs["start"], node.attrs["stop"], node.attrs["step"]).indices(size)))
    return [i % size for i in node.attrs["indices"]]


def split(labels: Labels, parts: int) -> tuple[Labels, ...]:
    """Labels in `parts` runs of equal length."""
    size = len(labels) // parts
    return tuple(labels[j * size : (j + 1) * size] for j in range(parts))


Axes = dict[str, tuple[Labels | None, ...]]
"""For each role, along the leading axes of the array, the classes of its elements; None if they are not followed."""


def _layer_axes(node: Node, out: Track | None, source: Track | None) -> Axes:
    """Of a convolution (oc, ic/g, ...) or transposed one (ic, oc/g, ...): channels lie on axis 1."""
    outs = out.classes if out else None
    ins = source.classes if source and source.axis == 1 else None
    weight = (outs, ins) if node.op == "conv" else (ins, outs)
    return {"weight": weight} | ({"bias": (outs,)} if node.attrs["bias"] else {})


def _dense_axes(node: Node, out: Track | None, source: Track | None) -> Axes:
    """Of a dense layer (out, in): its output lies on the last axis, and so does the input that it reads."""
    outs = out.classes if out else None
    ins = source.classes if source and out and source.axis == out.axis else None
    return {"weight": (outs, ins)} | ({"bias": (outs,)} if node.attrs["bias"] else {})


def _norm_axes(node: Node, out: Track | None, source: Track | None) -> Axes:
    labels = out.classes if out and out.axis == 1 else None
    roles = node.rule.roles if node.attrs["affine"] else tuple(r for r in node.rule.roles if r in node.rule.buffers)
    return dict.fromkeys(roles, (labels,))


def _slope_axes(node: Node, out: Track | None, source: Track | None) -> Axes:
    return {"weight": (out.classes if out and out.axis == 1 and node.attrs["num"] > 1 else None,)}


def _value_axes(node: Node, out: Track | None, source: Track | None) -> Axes:
    if node.attrs["fill"] is not None:
        return {}
    return {"value": tuple(out.classes if out and a == out.axis else None for a in range(len(node.attrs["shape"])))}


ARRAYS: Table[Callable[[Node, Track | None, Track | None], Axes]] = Table(
    "channels of arrays",
    "cut, because no rule says which axes of its arrays carry channels",
    __name__,
    {
        "conv": _layer_axes,
        "conv_transpose": _layer_axes,
        "dense": _dense_axes,
        "batchnorm": _norm_axes,
        "instancenorm": _norm_axes,
        "groupnorm": _norm_axes,
        "prelu": _slope_axes,
        "constant": _value_axes,
    },
    {op: "it has no arrays" for op, rule in OPS.items() if not rule.params}
    | because(
        "the channels that it reads and makes are never removed",
        "deform_conv dynamic_conv layernorm recurrent",
    ),
)
"""Which channels the elements of a layer's arrays belong to."""


def array_axes(node: Node, tracks: Mapping[str, Track | None]) -> Axes:
    """For each weight array of a node, per leading array axis, the classes of its elements; None: not followed.

    For grouped convolutions the axis within a group lists the classes of all groups, one group after the other.
    """
    rule = ARRAYS.find(node)
    return rule(node, tracks[node.name], tracks[node.inputs[0]] if node.inputs else None) if rule else {}
