"""A trained convolution split into groups: the blocks found in its weights and activations, the rest given up.

Inputs and outputs are put into equal groups by the search that the finding `low-correlation` stands on
(`evidence.splits`); the order of inputs is absorbed by what makes them. A 1×1 layer after it (the "root module" of
Ioannou et al., "Deep Roots", CVPR 2017) mixes the groups again; it is fitted by least squares to the outputs of the old
layer, so it also undoes the order of outputs. Where a 1×1 convolution reads the layer alone, no mixer is added: there
the outputs are reordered too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dojang.arith.channels import ChannelMap
from dojang.arith.graph import Graph, Node
from dojang.engine.session import Session
from dojang.evidence.activations import Statistics
from dojang.evidence.moments import affine_fit, singular
from dojang.evidence.splits import GROUP_COUNTS, ChannelSplit, best_split, split_change
from dojang.slimming.permute import permuted, reordered_layers

Array = np.ndarray

PLACES = 20_000
"""Pixels that a mixer is fitted on, at most."""


@dataclass(frozen=True)
class Form:
    """A network with a layer in another form, and one line on it. `orders`: in which order output channels of layers
    were put on the way, one mapping after the other (layer -> old place of each new one).
    """

    graph: Graph
    found: str
    orders: tuple[Mapping[str, tuple[int, ...]], ...] = ()


def grouped(
    graph: Graph,
    tied: ChannelMap,
    node: Node,
    groups: int,
    stats: Mapping[str, Statistics],
    seen: Mapping[str, Array],
    mixer: bool,
) -> Form | None:
    """The network with one convolution in groups; None where it cannot be done.

    `seen`: what the layer reads and makes on some samples, by value name.
    """
    source, attrs = stats.get(node.inputs[0]), node.attrs
    kernel = np.asarray(graph.weights[node.array("weight")], np.float64)
    oc, ic = kernel.shape[:2]
    if source is None or attrs["groups"] != 1 or oc % groups or ic % groups or max(attrs["kernel"]) == 1:
        return None
    split = best_split(kernel, np.diag(source.covariance), groups)
    inputs, outputs = split.channels()
    ordered = permuted(graph, tied, node.inputs[0], inputs.tolist())
    if ordered is None:
        return None
    orders = [reordered_layers(tied, node.inputs[0], inputs.tolist())]
    if not mixer:
        ordered = permuted(ordered, tied, node.name, outputs.tolist())
        orders.append(reordered_layers(tied, node.name, outputs.tolist()))
        if ordered is None:
            return None
    weight, bias = _blocks(kernel, node, graph, source, split)
    kind = np.asarray(graph.weights[node.array("weight")]).dtype
    said = (
        f"{node.name} in {groups} groups, inside which {split.kept:.0%} of its energy stays (an arbitrary split keeps "
        f"{1 / groups:.0%})"
    )
    if not mixer:
        narrow = Node.of(
            node.name, "conv", *node.inputs, arrays=node.arrays, **{**attrs, "groups": groups, "bias": True}
        )
        arrays = {node.array("weight"): weight.astype(kind), node.array("bias"): bias.astype(kind)}
        return Form(ordered.edited({node.name: narrow}, weights=arrays), said, tuple(orders))
    first = Node.of(f"{node.name}_groups", "conv", *node.inputs, **{**attrs, "groups": groups, "bias": False})
    if first.name in graph.by_name:
        return None
    mixed = _mixer(first, weight.astype(kind), seen[node.inputs[0]][:, inputs], seen[node.name])
    ones = (1,) * len(attrs["kernel"])
    second = Node.of(node.name, "conv", first.name, arrays=node.arrays, out=oc, kernel=ones)
    arrays = {
        f"{first.name}.weight": weight.astype(kind),
        second.array("weight"): mixed[0].reshape(oc, oc, *ones).astype(kind),
        second.array("bias"): mixed[1].astype(kind),
    }
    new = ordered.edited({node.name: (first, second)}, weights=arrays)
    return Form(new, f"{said}, then a 1x1 layer that mixes the groups", tuple(orders))


def _blocks(kernel: Array, node: Node, graph: Graph, source: Statistics, split: ChannelSplit) -> tuple[Array, Array]:
    """Weights of the grouped layer in the new order, (oc, ic/g, *k), and its bias in that order.

    What a group no longer reads is predicted from what it does, channel by channel: with the same factors at each tap.
    """
    oc, ic = kernel.shape[:2]
    inputs, outputs = split.channels()
    flat = np.moveaxis(kernel.reshape(oc, ic, -1), 1, 2).reshape(-1, ic)
    change = split_change(
        flat, split.rows, np.repeat(split.columns, flat.shape[0] // oc), split.groups, source.covariance
    )
    fitted = np.moveaxis((flat - change).reshape(oc, -1, ic), 1, 2).reshape(kernel.shape)
    size, rows = ic // split.groups, oc // split.groups
    weight = [
        fitted[np.ix_(outputs[j * rows : (j + 1) * rows], inputs[j * size : (j + 1) * size])]
        for j in range(split.groups)
    ]
    bias = np.asarray(graph.weights[node.array("bias")], np.float64) if node.attrs["bias"] else np.zeros(oc)
    bias = bias + (change @ source.mean).reshape(oc, -1).sum(axis=1)
    return np.concatenate(weight), bias[outputs]


def _mixer(first: Node, weight: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """M (oc, oc) and b with M z + b nearest to the old outputs `y`, z what the grouped layer makes of its input `x`."""
    layer = Node.of(first.name, "conv", "x", **first.attrs)
    alone = Graph(
        (Node.of("x", "input", shape=x.shape[1:]), layer), (layer.name,), weights={f"{layer.name}.weight": weight}
    )
    z = np.moveaxis(Session(alone)(x), 1, -1).reshape(-1, first.attrs["out"])
    y = np.moveaxis(y, 1, -1).reshape(len(z), -1)
    step = max(1, len(z) // PLACES)
    return affine_fit(z[::step].astype(np.float64), y[::step].astype(np.float64))


def depthwise(graph: Graph, node: Node, seen: Mapping[str, Array]) -> Form | None:
    """The network with one convolution as depthwise, then 1×1; None where that is not it.

    Each input channel's kernels (oc, kh·kw) keep their leading singular vector; the 1×1 layer is fitted by least
    squares to the old outputs, so it gives what can be given of the rest.
    """
    kernel, attrs = np.asarray(graph.weights[node.array("weight")], np.float64), node.attrs
    oc, ic = kernel.shape[:2]
    name = f"{node.name}_depthwise"
    if attrs["groups"] != 1 or max(attrs["kernel"]) == 1 or name in graph.by_name:
        return None
    flat = np.moveaxis(kernel, 1, 0).reshape(ic, oc, -1)
    _, sizes, right = singular(flat)
    largest = float(sizes.max(initial=0.0)) or 1.0
    energy = (sizes / largest) ** 2
    kept = float(energy[:, 0].sum() / max(energy.sum(), 1e-30))
    kind = np.asarray(graph.weights[node.array("weight")]).dtype
    weight = right[:, 0].reshape(ic, 1, *kernel.shape[2:]).astype(kind)
    first = Node.of(name, "conv", *node.inputs, **{**attrs, "out": ic, "groups": ic, "bias": False})
    mixed = _mixer(first, weight, seen[node.inputs[0]], seen[node.name])
    ones = (1,) * len(attrs["kernel"])
    second = Node.of(node.name, "conv", name, arrays=node.arrays, out=oc, kernel=ones)
    arrays = {
        f"{name}.weight": weight,
        second.array("weight"): mixed[0].reshape(oc, ic, *ones).astype(kind),
        second.array("bias"): mixed[1].astype(kind),
    }
    said = f"{node.name} as depthwise, then 1x1; one kernel per input channel keeps {kept:.0%} of the kernels' energy"
    return Form(graph.edited({node.name: (first, second)}, weights=arrays), said)


def wants_mixer(graph: Graph, node: Node) -> bool:
    """Whether the groups stay apart after a layer: no 1×1 convolution of one group is all that comes next."""
    name = node.name
    while name not in graph.outputs and len(graph.consumers[name]) == 1:
        reader = graph.consumers[name][0]
        if reader.op == "conv":
            return max(reader.attrs["kernel"]) > 1 or reader.attrs["groups"] > 1
        if reader.rule.channels not in ("keep", "spatial"):
            return True
        name = reader.name
    return True


def options(
    graph: Graph, tied: ChannelMap, node: Node, stats: Mapping[str, Statistics], seen: Mapping[str, Array]
) -> list[Form]:
    """The layer in each number of groups that divides its channels; see `grouped`."""
    mixer = wants_mixer(graph, node)
    made = (grouped(graph, tied, node, parts, stats, seen, mixer) for parts in GROUP_COUNTS)
    return [m for m in made if m is not None]
