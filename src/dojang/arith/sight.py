"""Receptive fields of the layers of a network, computed for all layers when the first one is read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from dojang.arith.border import Border, borders
from dojang.arith.field import Field, fields, track
from dojang.arith.graph import Graph
from dojang.arith.symbol import Expr

Seen = tuple[Field | None, tuple[Border, ...] | None]
"""A receptive field, and per axis what padding clips of it; None if that is not known."""


class Sight:
    """The fields and borders of a network's nodes. It keeps the network without its arrays."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph.without_weights()

    @cached_property
    def _seen(self) -> Mapping[str, Seen]:
        graph = self._graph
        if any(isinstance(s, Expr) for node in graph.inputs for s in node.attrs["shape"]):
            return {name: (field, None) for name, field in fields(graph).items()}
        found = track(graph)
        clipped = borders(graph, found)
        return {name: (state.spans if state else None, clipped[name]) for name, state in found.items()}

    def __getitem__(self, name: str) -> Seen:
        """Field and borders of one node; with symbolic sizes only its field."""
        return self._seen[name]
