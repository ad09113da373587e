"""What the shape of the network alone says: layers that see the whole input already."""

from __future__ import annotations

from dojang.arith.conv import by
from dojang.arith.field import contents, covered, image_size
from dojang.arith.graph import Graph
from dojang.evidence.finding import Finding


def coverage(graph: Graph) -> list[Finding]:
    """Convolutions larger than 1×1 whose input already sees the whole network input on every axis."""
    findings, found = list[Finding](), covered(graph)
    spans = contents(graph) if found else {}
    for node in found:
        whole, field = image_size(graph, graph.inputs[0]), spans[node.inputs[0]] or ()
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
