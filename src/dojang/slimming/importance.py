"""How much a channel matters to what reads it, by weights, by batch norm scale, by activations, or by gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dojang.arith.channels import ChannelMap
from dojang.arith.cost import count
from dojang.arith.graph import Graph, Node
from dojang.arith.ties import array_axes
from dojang.engine.compiled import Compiled
from dojang.engine.session import Session
from dojang.evidence.moments import Products, require_finite
from dojang.slimming.absorb import columns, reads_channels

Array = np.ndarray
KINDS = ("activation", "weight", "batchnorm", "taylor")

BATCH = 64
"""Samples run at once when activations are gathered."""

COMPILED = 2e9
"""From so many multiplications on, compiling the network (about a second) pays."""


@dataclass(frozen=True)
class Moments:
    """Mean (c,) and covariance (c, c) over samples and places of what a layer reads, along its channel axis.

    `peak` (c,): the largest size over all samples and all places; `samples`: how many there were.
    """

    mean: Array
    covariance: Array
    peak: Array
    samples: int


def readers(graph: Graph, tied: ChannelMap) -> list[Node]:
    """The layers that mix the channels they read."""
    return [node for node in graph.nodes if reads_channels(graph, tied, node)]


def moments(graph: Graph, tied: ChannelMap, samples: Any, most_places: int = 50_000) -> dict[str, Moments]:
    """Moments of every value that a layer reads, by value name; see `moments_of`."""
    return moments_of(graph, tied, list(dict.fromkeys(n.inputs[0] for n in readers(graph, tied))), samples, most_places)


def gathered(graph: Graph, names: Sequence[str], samples: Any) -> Iterator[Mapping[str, Array]]:
    """Activations of the named nodes on the samples (an array, or arrays by input name), batch by batch.

    Raises `DataError` where one is not finite: no fit, and no judgement of a channel, could be made of it.
    """
    total = number_of(samples)
    work = count(graph).total.macs * total
    session = Compiled(graph, precision="strict") if work > COMPILED and total >= BATCH else Session(graph)
    for start in range(0, total, BATCH):
        part = slice(start, start + BATCH)
        x = {k: v[part] for k, v in samples.items()} if isinstance(samples, Mapping) else samples[part]
        taps = session.run(x, names).taps
        require_finite(taps, names)
        yield taps


def number_of(samples: Any) -> int:
    """How many samples there are."""
    return len(next(iter(samples.values())) if isinstance(samples, Mapping) else samples)


def moments_of(
    graph: Graph, tied: ChannelMap, names: Sequence[str], samples: Any, most_places: int = 50_000
) -> dict[str, Moments]:
    """Moments of the named values (those whose channels are followed), in float64 over all samples.

    At most `most_places` places (samples × pixels) are used per value; pixels are then taken at a regular step, except
    for `peak`, which sees them all.
    """
    axes = {n: t.axis for n in names if (t := tied.tracks[n]) is not None}
    sums: dict[str, Products] = {}
    peaks: dict[str, Array] = {}
    total = number_of(samples)
    for taps in gathered(graph, list(axes), samples):
        for name, axis in axes.items():
            rows = np.moveaxis(taps[name], axis, -1).reshape(-1, taps[name].shape[axis])
            places = len(rows) // max(1, len(taps[name])) * total
            peak = np.abs(rows).max(axis=0)
            rows = rows[:: max(1, -(-places // most_places))].astype(np.float64)
            if name not in sums:
                sums[name], peaks[name] = Products(len(peak), len(peak)), peak
            sums[name].add(rows)
            peaks[name] = np.maximum(peaks[name], peak)
    joined = {name: products.joined() for name, products in sums.items()}
    return {name: Moments(j.mean, j.covariance, peaks[name], total) for name, j in joined.items()}


def importance(
    graph: Graph,
    tied: ChannelMap,
    kind: str = "activation",
    stats: Mapping[str, Moments] | None = None,
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
