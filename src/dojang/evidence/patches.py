"""What convolutions read: means and covariances of their patches on two halves of the samples.

A layer is linear in its patches, so these figures say what any other weights for the same patches would change: one
half of the samples fits them, the other judges them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from typing import Any

import numpy as np

from dojang.arith.graph import Graph, Node
from dojang.arith.shapes import conv_problem
from dojang.evidence.moments import Products

Array = np.ndarray

WIDEST = 2500
"""Numbers in a patch (input channels times taps) from which on a layer is left out: its covariance holds their
square."""

LEAST_ROWS = 8192
"""Patches that are looked at, at least, where there are so many."""

ROWS_PER_NUMBER = 8
"""Patches for every number in a patch: half of them fit at most half of the numbers."""


@dataclass(frozen=True)
class Half:
    """Over `rows` patches of `samples` samples: the mean (ic · taps,) and the covariance, channel by channel."""

    samples: int
    rows: int
    mean: Array
    covariance: Array


@dataclass(frozen=True)
class Patches:
    """The patches of one layer on the samples that fit and on those that judge; no sample is in both."""

    layer: str
    fit: Half
    judge: Half


def width(graph: Graph, node: Node) -> int:
    """The numbers in a patch of a convolution without groups."""
    shape = graph.unit_shapes[node.inputs[0]] or (1, 1)
    return shape[1] * prod(node.attrs["kernel"])


def gathered(
    graph: Graph, nodes: Sequence[Node], total: int, activations: Callable[[list[str]], Iterator[Mapping[str, Array]]]
) -> dict[str, Patches]:
    """The patches of these convolutions of one group, by name, in one pass over `total` samples.

    Every second sample judges. Of large maps some places are drawn, the same ones of every sample.
    """
    readers = [_PatchSums(graph, node, total) for node in nodes]
    start = 0
    for taps in activations(list(dict.fromkeys(node.inputs[0] for node in nodes))):
        for reader in readers:
            reader.add(taps[reader.source], start)
        start += len(next(iter(taps.values())))
    return {reader.name: reader.done() for reader in readers}


class _PatchSums:
    """The running figures of one layer."""

    def __init__(self, graph: Graph, node: Node, total: int) -> None:
        shape: Any = graph.unit_shapes[node.inputs[0]]
        problem = conv_problem(node.attrs, [shape])
        self.name, self.source, self.padding = node.name, node.inputs[0], problem.padding
        places = np.array(list(product(*(range(size) for size in problem.out_shape[2:]))))
        numbers = width(graph, node)
        wanted = ceil(max(LEAST_ROWS, ROWS_PER_NUMBER * numbers) / max(1, total))
        if wanted < len(places):
            places = places[np.sort(np.random.default_rng(0).permutation(len(places))[:wanted])]
        taps = np.array(list(product(*(range(size) for size in problem.kernel))))
        at = places[:, None] * problem.stride + taps * np.array(problem.dilation)  # (places, taps, axes)
        self.index = tuple(at[..., axis] for axis in range(at.shape[-1]))
        self.halves = Products(numbers, numbers), Products(numbers, numbers)
        self.samples = [0, 0]

    def add(self, value: Array, start: int) -> None:
        """Adds the samples (n, ic, *space), of which `start` is the number of the first."""
        padded: Any = np.pad(value, ((0, 0), (0, 0), *self.padding))
        rows = padded[(slice(None), slice(None), *self.index)]  # (n, ic, places, taps)
        rows = np.moveaxis(rows, 2, 1).reshape(len(value), self.index[0].shape[0], -1)
        for half in (0, 1):
            own = rows[(start + half) % 2 :: 2]
            self.samples[half] += len(own)
            self.halves[half].add(own.reshape(-1, rows.shape[2]).astype(np.float32, copy=False))

    def done(self) -> Patches:
        """The figures of both halves."""
        made = [own.joined() for own in self.halves]
        fit, judge = (Half(n, m.rows, m.mean, m.covariance) for n, m in zip(self.samples, made, strict=True))
        return Patches(self.name, fit, judge)
