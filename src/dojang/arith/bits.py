"""What a network keeps in which precision: of each value, and in total."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from dojang.arith.graph import Graph
from dojang.arith.precision import BITS, FLOAT32, WHOLE, Precision, grid_of

MOVES = frozenset("maxpool reshape flatten squeeze unsqueeze transpose slice identity dropout".split())
"""Operators whose result has only numbers of their input (a maximum that is padded leaves padding out)."""


def value_precisions(graph: Graph) -> dict[str, Precision]:
    """The precision of every value that is not float32: what `fake_quantize` made, what moves its numbers, and the
    values of other types.
    """
    found: dict[str, Precision] = {}
    for node in graph.nodes:
        grid = None
        if node.op == "fake_quantize":
            grid = grid_of(node.attrs["low"], node.attrs["high"], node.attrs["scale"])
        elif node.op in MOVES and node.inputs:
            grid = found.get(node.inputs[0])
        elif graph.types[node.name] in BITS and graph.types[node.name] != "float32":
            kind = graph.types[node.name]
            grid = Precision(kind, (1.0,), (0,)) if kind in WHOLE else Precision(kind)
        if grid is not None:
            found[node.name] = grid
    return found


@dataclass(frozen=True, slots=True)
class PrecisionShare:
    """What a network keeps and multiplies in one precision: weights (each array once), their bytes, and the MACs of the
    layers that have these weights. `values` are the types of the values that these layers read.
    """

    kind: str
    weights: int
    weight_bytes: int
    macs: int
    values: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "kind": self.kind, "weights": self.weights, "weight_bytes": self.weight_bytes, "macs": self.macs,
            "values": list(self.values),
        }  # fmt: skip


def shares(graph: Graph, macs: Mapping[str, Any]) -> tuple[PrecisionShare, ...]:
    """The parts of a network by precision, that with the most MACs first; `macs` are those of its nodes.

    Empty where all is float32. Biases and other arrays count with their own type; an array of which nothing is said is
    float32. MACs without weights (products of two values) count with the type of the first value.
    """
    values = value_precisions(graph)
    if not graph.precisions and not values:
        return ()
    weights: dict[str, tuple[int, int]] = {}
    work: dict[str, Any] = {}
    read: dict[str, dict[str, None]] = {}
    counted: set[str] = set()
    for node in graph.nodes:
        main = values.get(node.inputs[0], FLOAT32).kind if node.inputs else "float32"
        kind = main
        for role, shape in graph.node_params(node).items():
            array = node.array(role)
            own = graph.precisions.get(array, FLOAT32)
            if role == "weight":
                kind = own.kind
            if array not in counted:
                counted.add(array)
                number, size = weights.get(own.kind, (0, 0))
                weights[own.kind] = number + prod(shape), size + own.bytes_of(prod(shape))
        if macs.get(node.name):
            work[kind] = work.get(kind, 0) + macs[node.name]
            read.setdefault(kind, {})[main] = None
    kinds = sorted({*weights, *work}, key=lambda k: (-_plain(work.get(k, 0)), k))
    return tuple(
        PrecisionShare(k, *weights.get(k, (0, 0)), work.get(k, 0), tuple(sorted(read.get(k, ())))) for k in kinds
    )


def _plain(macs: Any) -> int:
    """MACs to sort by; a formula counts as most."""
    return macs if isinstance(macs, int) else 1 << 62
