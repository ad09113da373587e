"""What the shape of the network alone says: layers that see the whole input already, and where the cost sits."""

from __future__ import annotations

from collections.abc import Mapping

from dojang.arith.conv import by
from dojang.arith.cost import count
from dojang.arith.field import fields
from dojang.arith.graph import Graph
from dojang.diagnose.finding import Finding

SHARE = 0.25
"""A layer that holds this part of a whole is a hot spot."""


def coverage(graph: Graph) -> list[Finding]:
    """Convolutions larger than 1×1 whose input already sees the whole network input on every axis."""
    spans, findings = fields(graph), list[Finding]()
    inputs = graph.inputs
    if len(inputs) != 1:
        return []  # with several inputs "the whole input" has no single size
    whole = inputs[0].attrs["shape"][1:]
    for node in graph.nodes:
        field = spans[node.inputs[0]] if node.op == "conv" else None
        if field is None or len(field) != len(whole) or not whole or max(node.attrs["kernel"]) == 1:
            continue
        seen = [min(1.0, span.size / size) for span, size in zip(field, whole, strict=True)]
        if min(seen) >= 1:
            after = spans[node.name]
            findings.append(
                Finding(
                    node.name, "coverage", (), float(min(s.size / w for s, w in zip(field, whole, strict=True))), 1.0,
                    f"its input sees {by([s.size for s in field])} pixels of {by(whole)} already; with its "
                    f"{by(node.attrs['kernel'])} kernel it sees {by([s.size for s in after or field])}", "info",
                )
            )  # fmt: skip
    return findings


def hot_spots(graph: Graph, layer_ms: Mapping[str, float] | None = None, share: float = SHARE) -> list[Finding]:
    """Layers that hold at least `share` of all parameters, MACs, or measured milliseconds."""
    table = count(graph)
    wholes = {
        "parameters": {row.name: row.cost.params for row in table.layers},
        "MACs": {row.name: row.cost.macs for row in table.layers},
        "measured time": dict(layer_ms or {}),
    }
    findings: list[Finding] = []
    for what, parts in wholes.items():
        total = sum(parts.values())
        for name, part in parts.items():
            if total and part >= share * total:
                amount = f"{part:.4f} of {total:.4f} ms" if what == "measured time" else f"{part:,} of {total:,}"
                findings.append(
                    Finding(name, "hot-spot", (), part / total, share, f"{part / total:.0%} of the {what}: {amount}")
                )
    return findings
