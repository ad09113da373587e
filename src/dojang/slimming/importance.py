"""How much a channel matters to what reads it, by weights, by batch norm scale, by activations, or by gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from dojang.arith.channels import ChannelMap
from dojang.arith.graph import Graph, Node
from dojang.arith.ties import array_axes
from dojang.evidence.activations import Statistics
from dojang.evidence.evidence import Evidence
from dojang.evidence.readers import columns, reads_channels

Array = np.ndarray
KINDS = ("activation", "weight", "batchnorm", "taylor")


def readers(graph: Graph, tied: ChannelMap) -> list[Node]:
    """The layers that mix the channels they read."""
    return [node for node in graph.nodes if reads_channels(graph, tied, node)]


def read_values(known: Evidence) -> list[str]:
    """The values whose statistics cuts with loss go by: what those layers read."""
    return list(dict.fromkeys(node.inputs[0] for node in readers(known.graph, known.channels)))


def read_statistics(known: Evidence) -> dict[str, Statistics]:
    """The statistics of what layers read, by value name."""
    return known.statistics(read_values(known))


def importance(
    graph: Graph,
    tied: ChannelMap,
    kind: str = "activation",
    stats: Mapping[str, Statistics] | None = None,
    gradients: Callable[[Graph], Mapping[str, Array]] | None = None,
) -> Array:
    """A score per class (size,), larger is more useful; comparable within a bundle.

    - activation: Σ over readers of |W column|² · variance of the channel: what the readers' sums lose when the channel
      is replaced by its mean.
    - weight: squared norm of everything that would be removed (group norm; Fang et al., DepGraph, CVPR 2023).
    - batchnorm: squared scale of the norms on the way (Liu et al., Network Slimming, ICCV 2017); channels without norm
      fall back on weight.
    - taylor: (Σ w · ∂L/∂w)² over everything that would be removed (Molchanov et al., CVPR 2019); needs `gradients`.
    """
    score = np.zeros(tied.size)
    if kind == "activation":
        for node in readers(graph, tied):
            track, found = tied.tracks[node.inputs[0]], (stats or {}).get(node.inputs[0])
            if track is None or found is None:
                continue
            energy = (np.asarray(columns(graph, node), np.float64) ** 2).sum(axis=1) * np.diag(found.covariance)
            np.add.at(score, list(track.classes), energy)
        return score
    slopes = gradients(graph) if kind == "taylor" and gradients is not None else {}
    scales = np.zeros(tied.size)
    done: set[str] = set()
    for node in graph.nodes:
        for role, axes in array_axes(node, tied.tracks).items():
            name = node.array(role)
            if name in done or role in node.rule.buffers:
                continue
            done.add(name)
            weight = np.asarray(graph.weights[name], np.float64)
            term = weight * np.asarray(slopes[name], np.float64) if kind == "taylor" else weight**2
            for axis, labels in enumerate(axes):
                if labels is None:
                    continue
                part = _per_class(term, axis, node, len(labels))
                np.add.at(score, list(labels), part)
                if node.op == "batchnorm" and role == "weight":
                    np.add.at(scales, list(labels), part)
    if kind == "batchnorm":
        return np.where(scales > 0, scales, score)
    return score**2 if kind == "taylor" else score


def _per_class(term: Array, axis: int, node: Node, size: int) -> Array:
    """Sums of an array over all axes but the one that carries classes; grouped layers carry all groups on it."""
    if term.shape[axis] == size:
        return np.moveaxis(term, axis, 0).reshape(size, -1).sum(axis=1)
    groups = node.attrs["groups"]  # axis 1 of a grouped layer: places within a group, one group after the other
    split = term.reshape(groups, term.shape[0] // groups, term.shape[1], -1)
    return split.sum(axis=(1, 3)).reshape(-1)
