"""What reads the channels of a value with weights: which layers, and with which weights."""

from __future__ import annotations

import numpy as np

from dojang.arith.channels import ChannelMap
from dojang.arith.graph import Graph, Node

Array = np.ndarray


def reads_channels(graph: Graph, tied: ChannelMap, node: Node) -> bool:
    """Whether a node mixes the channels it reads by weights: conv, conv_transpose or dense on the channel axis."""
    if node.rule.channels not in ("conv", "dense"):
        return False
    track, shape = tied.tracks[node.inputs[0]], graph.unit_shapes[node.inputs[0]]
    if track is None or shape is None:
        return False
    return track.axis == (len(shape) - 1 if node.op == "dense" else 1)


def columns(graph: Graph, node: Node) -> Array:
    """The weights by input channel: (ic, everything that reads it)."""
    weight = np.asarray(graph.weights[node.array("weight")])
    if node.op == "conv_transpose":
        return weight.reshape(weight.shape[0], -1)
    if node.op == "dense":
        return weight.T
    groups = node.attrs["groups"]
    rows = weight.shape[0] // groups
    split = weight.reshape(groups, rows, weight.shape[1], -1)
    return np.moveaxis(split, 2, 1).reshape(groups * weight.shape[1], -1)
