"""How the filters of adjacent convolutions move together, and how well a layer would split into groups.

Each pixel is a sample: the smaller map is upsampled (nearest) to the larger, the mean is removed, the covariance is
X₁X₂ᵀ/(N − 1), normalised to correlation (Ioannou et al., "Deep Roots", CVPR 2017, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dojang.arith.graph import Graph, Node
from dojang.evidence.activations import activated
from dojang.evidence.blocks import co_cluster, spectral
from dojang.evidence.evidence import Evidence
from dojang.evidence.finding import Finding

Array = np.ndarray

PARTS = (2, 4, 8, 16)
"""Numbers of groups that are tried."""

SHUFFLES = 5
"""Shuffled matrices that say what chance alone would give."""


@dataclass(frozen=True)
class GroupSplit:
    """A layer split into `groups` equal groups: the part of the squared correlation that stays inside them.

    `rows` and `columns` give the group of each channel. `chance` and `chance_spread`: mean and standard deviation of
    the same search on the same matrix with its entries shuffled; without any search it would be 1/groups.
    """

    groups: int
    kept: float
    chance: float
    chance_spread: float
    rows: tuple[int, ...]
    columns: tuple[int, ...]


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
    splits: tuple[GroupSplit, ...]
    pixels: int

    def to_dict(self) -> dict[str, Any]:
        """Matrix in the order that shows structure, and the splits."""
        ordered = self.matrix[np.ix_(self.row_order, self.column_order)]
        return {
            "before": self.before,
            "after": self.after,
            "pixels": self.pixels,
            "row_order": list(self.row_order),
            "column_order": list(self.column_order),
            "matrix": np.round(ordered, 4).tolist(),
            "splits": [
                {"groups": s.groups, "kept": s.kept, "chance": s.chance, "chance_spread": s.chance_spread}
                for s in self.splits
            ],
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


def correlations(known: Evidence, parts: tuple[int, ...] = PARTS) -> tuple[Correlation, ...]:
    """The correlation of every adjacent pair of convolutions after their activations, on the samples."""
    pairs = watched_pairs(known.graph)
    found = known.products(pairs.values())
    out: list[Correlation] = []
    for (before, after), values in pairs.items():
        joined = found[values]
        matrix = joined.correlation()
        rows, columns = seriate(np.abs(matrix))
        splits = tuple(
            best_split(matrix**2, g, known.seed) for g in parts if not (matrix.shape[0] % g or matrix.shape[1] % g)
        )
        out.append(Correlation(before, after, matrix, rows, columns, splits, joined.rows))
    return tuple(out)


def seriate(strength: Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Orders of rows and columns in which what belongs together stands together.

    The second singular vectors of the matrix, scaled by the roots of its row and column sums (Dhillon, KDD 2001).
    """
    if min(strength.shape) < 2:
        return tuple(range(strength.shape[0])), tuple(range(strength.shape[1]))
    left, right = spectral(strength, 1)
    return tuple(np.argsort(left[:, 0], kind="stable").tolist()), tuple(np.argsort(right[:, 0], kind="stable").tolist())


def best_split(energy: Array, groups: int, seed: int = 0, shuffles: int = SHUFFLES) -> GroupSplit:
    """The best equal groups found for a matrix of energies ≥ 0, and what the same search finds by chance."""
    rng = np.random.default_rng(seed)
    rows, columns, kept = co_cluster(energy, groups, rng)
    by_chance = [
        co_cluster(rng.permutation(energy.ravel()).reshape(energy.shape), groups, rng)[2] for _ in range(shuffles)
    ]
    return GroupSplit(groups, kept, float(np.mean(by_chance)), float(np.std(by_chance)),
                 tuple(rows.tolist()), tuple(columns.tolist()))  # fmt: skip


def low_correlation(found: tuple[Correlation, ...]) -> list[Finding]:
    """Layers in which some grouping keeps clearly more correlation than chance: five spreads above the shuffled ones.

    Such a layer connects many filters that hardly move together. It is reported with the most groups for which that
    holds.
    """
    findings: list[Finding] = []
    for c in found:
        for s in reversed(c.splits):
            limit = s.chance + 5 * max(s.chance_spread, 0.01)
            if s.kept > limit:
                findings.append(
                    Finding(
                        c.after, "low-correlation", (), s.kept, limit,
                        f"split into {s.groups} groups together with {c.before}, {s.kept:.0%} of the squared "
                        f"correlation stays inside the groups; shuffled correlations give {s.chance:.0%}, an arbitrary "
                        f"split {1 / s.groups:.0%}",
                    )
                )  # fmt: skip
                break
    return findings
