"""How the filters of adjacent convolutions move together, and the orders in which that shows.

Each pixel is a sample: the smaller map is upsampled (nearest) to the larger, the mean is removed, the covariance is
X₁X₂ᵀ/(N − 1), normalised to correlation (Ioannou et al., "Deep Roots", CVPR 2017, section 4).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from dojang.arith.graph import Graph, Node
from dojang.evidence.activations import activated
from dojang.evidence.blocks import spectral
from dojang.evidence.evidence import Evidence

Array = np.ndarray


@dataclass(frozen=True)
class Correlation:
    """Correlation of every filter of `before` with every filter of `after`, (c₁, c₂), over `pixels` pixels.

    `row_order` and `column_order` sort the matrix so that structure shows (spectral co-clustering, Dhillon 2001).
    """

    before: str
    after: str
    matrix: Array
    row_order: tuple[int, ...]
    column_order: tuple[int, ...]
    pixels: int

    def to_dict(self) -> dict[str, Any]:
        """Matrix in the order that shows structure."""
        ordered = self.matrix[np.ix_(self.row_order, self.column_order)]
        return {
            "before": self.before,
            "after": self.after,
            "pixels": self.pixels,
            "row_order": list(self.row_order),
            "column_order": list(self.column_order),
            "matrix": np.round(ordered, 4).tolist(),
        }


def adjacent(graph: Graph) -> tuple[tuple[str, str], ...]:
    """Pairs of convolutions with no other layer between them; sums and concatenations have several before one."""
    pairs: list[tuple[str, str]] = []
    for node in graph.nodes:
        if node.op in ("conv", "conv_transpose"):
            pairs += [(name, node.name) for name in _sources(graph, node)]
    return tuple(pairs)


def _sources(graph: Graph, node: Node) -> list[str]:
    found: list[str] = []
    seen: set[str] = set()
    stack = list(node.inputs)
    while stack:
        source = graph[stack.pop(0)]
        if source.name in seen:
            continue
        seen.add(source.name)
        if source.op in ("conv", "conv_transpose"):
            found.append(source.name)
        elif source.rule.channels in ("keep", "spatial", "join", "concat"):
            stack += source.inputs
    return found


def watched_pairs(graph: Graph) -> dict[tuple[str, str], tuple[str, str]]:
    """For every adjacent pair of convolutions the values that are compared: both after their activations."""
    return {pair: (activated(graph, pair[0]), activated(graph, pair[1])) for pair in adjacent(graph)}


def pair_products(graph: Graph, pairs: Iterable[tuple[str, str]]) -> int:
    """The multiplications that the correlations of these pairs of values take for one sample."""
    total = 0
    for pair in dict.fromkeys(pairs):
        a, b = (graph.unit_shapes[value] or (1, 1) for value in pair)
        total += a[1] * b[1] * prod(max(p, q) for p, q in zip(a[2:], b[2:], strict=False))
    return total


def correlations(known: Evidence) -> tuple[Correlation, ...]:
    """The correlation of every adjacent pair of convolutions after their activations, on the samples."""
    pairs = watched_pairs(known.graph)
    found = known.products(pairs.values())
    out: list[Correlation] = []
    for (before, after), values in pairs.items():
        joined = found[values]
        matrix = joined.correlation()
        rows, columns = seriate(np.abs(matrix))
        out.append(Correlation(before, after, matrix, rows, columns, joined.rows))
    return tuple(out)


def seriate(strength: Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Orders of rows and columns in which what belongs together stands together.

    The second singular vectors of the matrix, scaled by the roots of its row and column sums (Dhillon, KDD 2001).
    """
    if min(strength.shape) < 2:
        return tuple(range(strength.shape[0])), tuple(range(strength.shape[1]))
    left, right = spectral(strength, 1)
    return tuple(np.argsort(left[:, 0], kind="stable").tolist()), tuple(np.argsort(right[:, 0], kind="stable").tolist())
