"""Remove channels from a network: the result is a new Graph with narrower layers and arrays sliced to match."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from dojang.arith.channels import ChannelMap, channels
from dojang.arith.graph import Graph, Node
from dojang.arith.ops import OPS
from dojang.arith.shapes import axis_of
from dojang.arith.table import Table, because
from dojang.arith.ties import Labels, Track, array_axes, selected, split
from dojang.base.errors import GraphError


def cut(graph: Graph, remove: Iterable[int], channel_map: ChannelMap | None = None) -> Graph:
    """The network without the channels of these classes. Works without weights too, for counting.

    Of arrays only `take(indices, axis=)`, `reshape(shape)` and `shape` are used. Raises
    `GraphError` for a class that is frozen and for removals that leave a value without channels or groups unequal;
    `ChannelMap.fit` gives those of the classes that can be removed.
    """
    tied = channel_map or channels(graph)
    gone = frozenset(remove)
    if not gone:
        return graph
    _refuse_invalid(tied, gone)
    nodes = tuple(_narrow(graph, tied, node, gone) for node in graph.nodes)
    weights = _slice_arrays(graph, tied, gone) if graph.weights else graph.weights
    narrow = graph.replace(nodes=nodes, weights=weights)
    if graph.weights:
        narrow.check_weights()
    else:
        _ = narrow.unit_shapes
    return narrow


def _refuse_invalid(tied: ChannelMap, gone: frozenset[int]) -> None:
    for c in sorted(gone):
        if c in tied.frozen:
            raise GraphError(f"channel class {c} cannot be removed: {tied.frozen[c]}")
        if not 0 <= c < tied.size:
            raise GraphError(f"channel class {c} is not one of the {tied.size} of this network")
    missing = gone - set(tied.fit(sorted(gone)))
    if missing:
        layers = ", ".join(tied.layers(missing))
        raise GraphError(
            f"{layers}: without these channels groups would be unequal or empty; choose with `ChannelMap.fit`"
        )


def _kept(track: Track | None, gone: Collection[int]) -> list[int] | None:
    """The positions along a value's channel axis that stay; None if its channels are not followed."""
    return [i for i, c in enumerate(track.classes) if c not in gone] if track is not None else None


@dataclass(frozen=True, slots=True)
class _Cut:
    """One node of which some channels are removed; the positions `places` along its channel axis stay."""

    graph: Graph
    tied: ChannelMap
    node: Node
    track: Track
    source: Track | None
    gone: frozenset[int]
    places: list[int]


def _narrow(graph: Graph, tied: ChannelMap, node: Node, gone: frozenset[int]) -> Node:
    """One node with its attributes changed for the channels that are gone."""
    track = tied.tracks[node.name]
    rule, places = ATTRIBUTES.find(node), _kept(track, gone)
    if rule is None or track is None or places is None:
        return node
    return rule(_Cut(graph, tied, node, track, tied.tracks[node.inputs[0]] if node.inputs else None, gone, places))


def _conv(c: _Cut) -> Node:
    return c.node.with_attrs(out=len(c.places), groups=_groups_left(c.tied, c.node, c.gone))


def _prelu(c: _Cut) -> Node:
    return c.node.with_attrs(num=len(c.places)) if c.node.attrs["num"] > 1 and c.track.axis == 1 else c.node


def _constant(c: _Cut) -> Node:
    shape = list(c.node.attrs["shape"])
    shape[c.track.axis] = len(c.places)
    return c.node.with_attrs(shape=tuple(shape))


def _standard(c: _Cut) -> Node:
    """The shape that the node states, without the batch."""
    shape = list(c.node.attrs["shape"])
    shape[c.track.axis - 1] = len(c.places)
    return c.node.with_attrs(shape=tuple(shape))


def _groups_left(tied: ChannelMap, node: Node, gone: frozenset[int]) -> int:
    groups = node.attrs["groups"]
    if groups == 1:
        return 1
    outs = tied.tracks[node.name]
    assert outs is not None  # what these give is always followed where channels go
    return sum(any(c not in gone for c in group) for group in split(outs.classes, groups))


def _reshape(c: _Cut) -> Node:
    """The wanted shape with the new number of channels; a size that is inferred stays so."""
    wanted: list[int] = list(c.node.attrs["shape"])
    full = c.graph.unit_shapes[c.node.name]
    if full is None or len(c.places) == len(c.track.classes):
        return c.node
    # a size that is copied (0) becomes a number: it must not copy channels that have moved to another axis
    shape = [full[i] if w == 0 and i > 0 else w for i, w in enumerate(wanted)]
    if shape[c.track.axis] != -1:
        shape[c.track.axis] = len(c.places)
    return c.node.with_attrs(shape=tuple(shape))


def _pad(c: _Cut) -> Node:
    """The padding of the channel axis, counted again: how many of the added and cropped channels are left."""
    node, track, source, gone = c.node, c.track, c.source, c.gone
    if source is None:
        return node
    shape = c.graph.unit_shapes[node.name]
    pads = list(node.attrs["pads"])
    place = track.axis - (len(shape or ()) - len(pads))
    if place < 0:
        return node
    before, after = pads[place]

    def left(labels: Labels) -> int:
        return sum(c not in gone for c in labels)

    size = len(track.classes)
    first = left(track.classes[:before]) if before > 0 else -left(source.classes[:-before])
    last = left(track.classes[size - after :]) if after > 0 else -left(source.classes[len(source.classes) + after :])
    pads[place] = (first, last)
    return node.with_attrs(pads=tuple(pads))


def _select(c: _Cut) -> Node:
    """A slice or gather of the channel axis with new indices. A slice whose step is no longer constant becomes a
    gather.
    """
    node, source, gone = c.node, c.source, c.gone
    shape = c.graph.unit_shapes[node.inputs[0]]
    if (
        source is None
        or shape is None
        or axis_of(node.attrs["axis"], len(shape)) != source.axis
        or gone.isdisjoint(source.classes)
    ):
        return node
    new = {old: place for place, old in enumerate(_kept(source, gone) or [])}
    picks = [new[i] for i in selected(node, len(source.classes)) if i in new]
    if node.op == "gather":
        return node.with_attrs(indices=tuple(picks))
    steps = {b - a for a, b in pairwise(picks)}
    if len(steps) > 1:
        return Node.of(node.name, "gather", *node.inputs, axis=node.attrs["axis"], indices=tuple(picks))
    step = steps.pop() if steps else 1
    stop = picks[-1] + (1 if step > 0 else -1)
    return node.with_attrs(start=picks[0], stop=stop if stop >= 0 else None, step=step)


ATTRIBUTES: Table[Callable[[_Cut], Node]] = Table(
    "cutting channels",
    "cut, because no rule says which of its attributes count channels",
    __name__,
    {
        "conv": _conv,
        "conv_transpose": _conv,
        "groupnorm": lambda c: c.node.with_attrs(groups=_groups_left(c.tied, c.node, c.gone)),
        "dense": lambda c: c.node.with_attrs(out=len(c.places)),
        "prelu": _prelu,
        "constant": _constant,
        "reshape": _reshape,
        "pad": _pad,
        "slice": _select,
        "gather": _select,
        "standard": _standard,
    },
    {op: "it has no attributes" for op, rule in OPS.items() if not rule.attrs}
    | because(
        "its channels are never removed",
        "input unknown deform_conv dynamic_conv matmul einsum layernorm lrn softmax log_softmax recurrent",
    )
    | because(
        "none of its attributes counts channels",
        "maxpool avgpool adaptive_maxpool adaptive_avgpool resize batchnorm instancenorm gelu leaky_relu elu "
        "fake_quantize "
        "hard_sigmoid clip dropout concat flatten transpose squeeze unsqueeze reduce_mean reduce_sum reduce_max "
        "reduce_min",
    ),
)
"""How an operator's attributes change when channels are removed."""


def _slice_arrays(graph: Graph, tied: ChannelMap, gone: frozenset[int]) -> Mapping[str, Any]:
    """Every array of the network without the elements that belong to channels that are gone."""
    new: dict[str, Any] = dict(graph.weights)
    done: set[str] = set()
    for node in graph.nodes:
        for role, axes in array_axes(node, tied.tracks).items():
            name = node.array(role)
            if name in done or name not in graph.weights:
                continue
            done.add(name)
            array = graph.weights[name]
            if role == "weight" and node.rule.channels == "conv" and node.attrs["groups"] > 1:
                new[name] = _slice_grouped(array, node, axes, gone)
                continue
            for axis, labels in enumerate(axes):
                if labels is not None and any(c in gone for c in labels):
                    array = array.take([i for i, c in enumerate(labels) if c not in gone], axis=axis)
            new[name] = array
    return new


def _slice_grouped(array: Any, node: Node, axes: Sequence[Labels | None], gone: frozenset[int]) -> Any:
    """The weights of a grouped convolution. Each group keeps its own positions, so rows and columns are picked
    together.

    Layout (oc, ic/g, ...) or transposed (ic, oc/g, ...): axis 0 runs over all groups, axis 1 within one.
    """
    groups = node.attrs["groups"]
    rows, columns = int(array.shape[0]), int(array.shape[1])
    first, second = axes
    row_groups = split(first, groups) if first else ((-1,) * (rows // groups),) * groups
    column_groups = split(second, groups) if second else ((-1,) * columns,) * groups
    picks: list[int] = []
    rows_left = 0
    for j in range(groups):
        across = [k for k, c in enumerate(column_groups[j]) if c not in gone]
        for i, c in enumerate(row_groups[j]):
            if c not in gone and across:
                rows_left += 1
                picks += [(j * (rows // groups) + i) * columns + k for k in across]
    rest = tuple(array.shape[2:])
    flat = array.reshape((rows * columns, *rest)).take(picks, axis=0)
    return flat.reshape((rows_left, len(picks) // rows_left, *rest))
