"""What layers read, for rounding their weights: mean and mean products of the numbers of a patch, from one pass.

A layer is linear in its patches, so that these figures say how far any error of its weights moves its outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import Any

import numpy as np

from dojang.arith.graph import Graph, Node
from dojang.arith.shapes import conv_problem

Array = np.ndarray

WIDEST = 4608
"""Numbers in a patch (input channels of a group times taps) up to which a layer is looked at: their products take the
square, 85 MB for the widest. 3×3 taps of 512 channels are within."""

LEAST_ROWS, ROWS_PER_NUMBER, SAMPLES = 8192, 8, 64
"""Of large maps so many places are drawn that `SAMPLES` samples give this many patches, and for each number of a patch
eight."""


@dataclass(frozen=True)
class InputMoments:
    """Of one layer, by filter group: the mean (groups, f) and the covariance (groups, f, f) of its patches, where f is
    the number of input channels of a group times taps, in the order of the weights.
    """

    mean: Array
    covariance: Array
    rows: int

    @property
    def products(self) -> Array:
        """The mean products: the covariance is what a bias cannot take back of them."""
        return self.covariance + self.mean[:, :, None] * self.mean[:, None, :]


def width(graph: Graph, node: Node) -> int:
    """The numbers that one output of a convolution or dense layer is the sum of."""
    return int(np.prod(graph.node_params(node)["weight"][1:]))


class PatchProducts:
    """The running sums of one layer, which is a convolution that is not transposed, or a dense one."""

    def __init__(self, graph: Graph, node: Node) -> None:
        """Nothing was seen yet; the places that are looked at are drawn, the same ones of every sample."""
        self.source, self.groups, self.rows = node.inputs[0], node.attrs.get("groups", 1), 0
        f = width(graph, node)
        self.about: Array | None = None  # near the mean, so that float32 products keep small covariances
        self.sums = np.zeros((self.groups, f))
        self.products = np.zeros((self.groups, f, f), np.float32)
        self.padding: tuple[tuple[int, int], ...] = ()
        self.index: tuple[Array, ...] = ()
        if node.op != "conv":
            return
        shape: Any = graph.unit_shapes[node.inputs[0]]
        problem = conv_problem(node.attrs, [shape])
        places = np.array(list(product(*(range(size) for size in problem.out_shape[2:]))))
        wanted = ceil(max(LEAST_ROWS, ROWS_PER_NUMBER * f) / SAMPLES)
        if wanted < len(places):
            places = places[np.sort(np.random.default_rng(0).permutation(len(places))[:wanted])]
        taps = np.array(list(product(*(range(size) for size in problem.kernel))))
        at = places[:, None] * problem.stride + taps * np.array(problem.dilation)  # (places, taps, axes)
        self.padding = problem.padding
        self.index = tuple(at[..., axis] for axis in range(at.shape[-1]))

    def add(self, value: Array) -> None:
        """Adds what the layer reads of some samples: (n, ic, *space), or (n, features)."""
        if self.index:
            padded: Any = np.pad(value, ((0, 0), (0, 0), *self.padding))
            rows = padded[(slice(None), slice(None), *self.index)]  # (n, ic, places, taps)
            rows = np.moveaxis(rows, 2, 1).reshape(-1, *rows.shape[1:2], rows.shape[3])
        else:
            rows = value
        rows = rows.reshape(len(rows), self.groups, -1).transpose(1, 0, 2).astype(np.float32)
        about = rows.mean(1, dtype=np.float64).astype(np.float32) if self.about is None else self.about
        self.about = about
        rows = rows - about[:, None, :]
        self.sums += rows.sum(1, dtype=np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            self.products += rows.transpose(0, 2, 1) @ rows
        self.rows += rows.shape[1]

    def done(self) -> InputMoments:
        """The mean and the covariance of all that was seen, which must be something. A covariance that float32 cannot
        hold is infinite or NaN.
        """
        assert self.about is not None
        mean = self.sums / self.rows
        covariance = self.products / np.float32(self.rows)
        with np.errstate(over="ignore", invalid="ignore"):
            covariance -= (mean[:, :, None] * mean[:, None, :]).astype(np.float32)
        return InputMoments(self.about + mean, covariance, self.rows)
