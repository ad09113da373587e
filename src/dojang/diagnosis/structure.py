"""What the shape of the network alone says: layers that see the whole input already, and where the cost sits."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from dojang.arith.conv import by
from dojang.arith.cost import count
from dojang.arith.field import contents, covered
from dojang.arith.graph import Graph
from dojang.evidence.finding import Finding

SHARE = 0.25
"""A layer that holds this part of a whole is a hot spot."""

SLOW = 0.25
"""A layer that reaches less than this part of the peak is far below it."""

TIME_SHARE = 0.1
"""Layers that take less than this part of the time are not asked for reasons."""

SHORT_MS = 0.02
"""In a layer as short as this start-up and hand-over dominate: threads meet, caches fill (some µs each)."""


def coverage(graph: Graph) -> list[Finding]:
    """Convolutions larger than 1×1 whose input already sees the whole network input on every axis."""
    findings, found = list[Finding](), covered(graph)
    spans = contents(graph) if found else {}
    for node in found:
        whole, field = graph.inputs[0].attrs["shape"][1:], spans[node.inputs[0]] or ()
        findings.append(
            Finding(
                node.name, "coverage", (), float(min(s.size / w for s, w in zip(field, whole, strict=True))), 1.0,
                f"the receptive field of its input is {by([s.size for s in field])} pixels, which covers the whole "
                f"{by(whole)} image; its {by(node.attrs['kernel'])} kernel enlarges the field to "
                f"{by([s.size for s in spans[node.name] or field])}", "info",
                False, "field / image on its smaller axis", (node.inputs[0],),
            )
        )  # fmt: skip
    return findings


def far_below(
    graph: Graph, layer_ms: Mapping[str, float], peak_gflops: float, read_gbs: float, batch: int = 1
) -> list[Finding]:
    """Layers that take a tenth of the time or more and reach less than `SLOW` of the machine's peak, with the reason.

    `layer_ms`: measured milliseconds per layer for a batch; `peak_gflops`, `read_gbs`: of all threads that ran it.
    The reason is what the layer's own figures say: its weights alone take that long to read; or it has too little work
    to start, too few channels to fill vectors, or a few multiplications for each number that it reads and writes.
    """
    table = {row.name: row for row in count(graph).layers}
    total, findings = sum(layer_ms.values()), list[Finding]()
    for name, ms in layer_ms.items():
        macs, node = table[name].cost.macs * batch, graph[name]
        if not macs or ms < TIME_SHARE * total:
            continue
        reached = 2 * macs / (ms * 1e6) / peak_gflops
        if reached >= SLOW:
            continue
        moved = 4 * batch * sum(prod(graph.unit_shapes[v] or ()) for v in (node.inputs[0], name))
        weights = 4 * table[name].cost.params
        reading = (moved + weights) / (read_gbs * 1e6)
        per_number = 4 * macs / max(1, moved + weights)
        if 0.5 * ms < reading < 2 * ms:  # what takes less time than memory needs has come from the caches
            why = f"to read and write its {(moved + weights) / 1e6:.3g} MB alone takes {reading:.3g} ms"
        elif ms < SHORT_MS:
            why = f"{ms * 1e3:.3g} µs is too short to reach the peak: start-up and hand-over dominate"
        elif node.attrs.get("groups", 1) > 1:
            each = node.attrs["out"] // node.attrs["groups"]
            why = f"each of its groups has {each} output channels, so each number that it reads is used little"
        elif per_number < 16:
            why = f"it makes only {per_number:.3g} multiplications for each number that it reads or writes"
        else:
            why = "its shape does not explain this; `dojang run --plan` shows which algorithm computes it"
        evidence = (
            f"it takes {ms:.4g} of {total:.4g} ms and reaches {reached:.0%} of the machine's peak of "
            f"{peak_gflops:.3g} GFLOP/s: {why}"
        )
        findings.append(Finding(name, "hot-spot", (), reached, SLOW, evidence, measure="part of the peak"))
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
                    Finding(
                        name,
                        "hot-spot",
                        (),
                        part / total,
                        share,
                        f"it holds {part / total:.0%} of the {what}: {amount}",
                        measure=f"part of the {what}",
                    )
                )
    return findings
