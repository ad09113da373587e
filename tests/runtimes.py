"""Runtimes for tests of slimming: their times follow from the network, so that no test reads a clock."""

from __future__ import annotations

from collections.abc import Sequence

from dojang.arith.cost import count
from dojang.arith.graph import Graph


def by_macs(graphs: Sequence[Graph]) -> list[list[float]]:
    """A runtime whose time is its multiplications and layers, without noise: one round, taken as exact."""
    return [[count(g).total.macs * 1e-6 + len(g.nodes) * 1e-3] for g in graphs]


def by_layers(graphs: Sequence[Graph]) -> list[list[float]]:
    """A runtime whose time is its number of layers, so that it gains nothing from fewer channels."""
    return [[float(len(g.nodes))] for g in graphs]
