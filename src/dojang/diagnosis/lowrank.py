"""Layers whose filters are linear combinations of fewer filters: their weights have a lower rank than their shape."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from dojang.arith.graph import Graph, Node
from dojang.evidence.activations import layers
from dojang.evidence.evidence import Evidence
from dojang.evidence.finding import Finding, NotJudged

Array = np.ndarray

DEPENDENT = 1e-6
"""The filters are scaled to length 1. A direction in which they reach no further than this part of the longest one
counts as rounding: sums of float32 filters are off by some 1e-7."""

WIDEST = 2048
"""Output channels of a layer whose rank is taken: the work grows with their number cubed."""


def proven(known: Evidence, found: Sequence[Finding], unjudged: list[NotJudged]) -> list[Finding]:
    """Layers whose filters, without those that are 0 or repeat another, depend linearly on fewer of them.

    With bias: what the layer computes before its activation lies in as many directions. `found`: channels that are
    named as dead, constant or duplicates are not counted once more.
    """
    graph, findings = known.graph, list[Finding]()
    for node in layers(graph):
        if node.attrs["out"] // node.attrs.get("groups", 1) > WIDEST:
            reason = f"the rank of more than {WIDEST} filters is not taken"
            unjudged.append(NotJudged(node.name, "low-rank", reason))
            continue
        out = {
            c for f in found if f.layer == node.name for c in (f.channels[1:] if f.kind == "duplicate" else f.channels)
        }
        for group, filters in enumerate(_filters(graph, node)):
            own = [c for c in range(len(filters)) if c + group * len(filters) not in out]
            found_here = _one(node, graph, group, filters[own], filters.shape[1])
            findings += [found_here] if found_here else []
    return findings


def _filters(graph: Graph, node: Node) -> Array:
    """(groups, filters of a group, weights and bias of a filter) in float64."""
    weight = np.asarray(graph.weights[node.array("weight")], np.float64)
    groups, out = node.attrs.get("groups", 1), node.attrs["out"]
    bias = np.asarray(graph.weights[node.array("bias")], np.float64) if node.attrs["bias"] else np.zeros(out)
    if node.op == "conv_transpose":
        weight = weight.reshape(groups, weight.shape[0] // groups, out // groups, -1).swapaxes(1, 2)
    rows = weight.reshape(groups, out // groups, -1)
    return np.concatenate([rows, bias.reshape(groups, out // groups, 1)], axis=2) if node.attrs["bias"] else rows


def _rank(rows: Array) -> int:
    small = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    lengths = np.sqrt(np.linalg.eigvalsh(small).clip(0))
    return int((lengths > DEPENDENT * lengths[-1]).sum())


def _one(node: Node, graph: Graph, group: int, filters: Array, width: int) -> Finding | None:
    sizes = np.linalg.norm(filters, axis=1)
    filters = filters[sizes > 0] / sizes[sizes > 0, None]
    most = min(len(filters), width)
    if most < 2:
        return None
    rank = _rank(filters)
    inputs = width - 1 if node.attrs["bias"] else width
    # More filters than inputs, which use all inputs: that their biases depend on the weights, or are 0, is no waste.
    if rank >= most or (len(filters) > inputs and rank >= inputs == _rank(filters[:, :inputs])):
        return None
    groups = node.attrs.get("groups", 1)
    place = f" of group {group}" if groups > 1 else ""
    cost = (
        prod(node.attrs.get("kernel", (1,)))
        * (graph.unit_shapes[node.inputs[0]] or (0, 0))[-1 if node.op == "dense" else 1]
    )
    out = node.attrs["out"]
    saves = groups == 1 and rank * (cost + out) < cost * out
    said = (
        f"as two layers with {rank} channels between it would compute the same with "
        f"{rank * (cost + out) / (cost * out):.0%} of the multiplications"
        if saves else "as two layers it would not be cheaper"
    )  # fmt: skip
    return Finding(
        node.name, "low-rank", (), float(rank), float(most),
        f"proved by the weights, within {DEPENDENT:g} of their size: its {len(filters)} different filters{place} are "
        f"linear combinations of {rank}, where {most} are possible; {said}",
        "info", True, "rank of the filters", (node.name,), "any finite input",
    )  # fmt: skip
