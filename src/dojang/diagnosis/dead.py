"""Dead and constant channels: proved for every input in the range, apart from observed on the samples given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dojang.arith.channels import ChannelMap
from dojang.arith.graph import Graph
from dojang.evidence.activations import Response, activated, layers
from dojang.evidence.finding import Finding
from dojang.evidence.intervals import Range

CONFIDENCE = "95 % confidence"


def bound_after_none(samples: int) -> float:
    """What fraction of inputs may still wake a channel that none of `samples` woke: 3/N (Hanley, JAMA 1983).

    At 95 % confidence: (1 − p)^N = 0.05 gives p ≈ 3.0/N.

    >>> bound_after_none(300)
    0.01
    """
    return min(1.0, 3 / samples) if samples else 1.0


def proven(graph: Graph, tied: ChannelMap, bound: Mapping[str, Range]) -> list[Finding]:
    """Channels whose interval after the activation is [0, 0] (dead) or one other number (constant)."""
    findings: list[Finding] = []
    for node in layers(graph):
        value = activated(graph, node.name)
        if tied.tracks[value] is None:
            continue
        dead = tuple(i for i, z in enumerate(bound[value].zero) if z)
        if dead:
            findings.append(
                Finding(
                    node.name, "dead-proven", dead, len(dead) / len(bound[value].lo), 0.0,
                    f"proved: {value} is 0 in these channels for every input in the range, by interval bounds",
                    "warning",
                )
            )  # fmt: skip
        same = bound[value].constant & ~bound[value].zero
        for level in sorted({float(v) for v in bound[value].lo[same]}):
            channels = tuple(i for i, v in enumerate(bound[value].lo) if same[i] and v == level)
            findings.append(
                Finding(
                    node.name, "constant", channels, level, 0.0,
                    f"proved: {value} is {level:.6g} in these channels for every input in the range", "warning",
                )
            )  # fmt: skip
    return findings


def observed(
    graph: Graph, found: Mapping[str, Response], known: Sequence[Finding], threshold: float = 0.0
) -> list[Finding]:
    """Channels that no sample raised above the threshold, and channels that never moved; the proved ones left out."""
    proved = {(f.layer, c) for f in known for c in f.channels}
    findings: list[Finding] = []
    for layer, r in found.items():
        limit = bound_after_none(r.samples)
        dead = tuple(i for i, n in enumerate(r.fired) if n == 0 and (layer, i) not in proved)
        if dead:
            size = max(float(max(abs(r.least[i]), abs(r.most[i]))) for i in dead)
            findings.append(
                Finding(
                    layer, "dead-observed", dead, size, threshold,
                    f"never above {threshold:g} in {r.value} on {r.samples} samples; "
                    f"fewer than {limit:.2%} of such inputs wake it ({CONFIDENCE})", "info",
                )
            )  # fmt: skip
        scale = max(float(abs(r.most).max()), float(abs(r.least).max()), 1e-30)
        spread = r.most - r.least
        still = tuple(
            i for i, s in enumerate(spread) if s <= 1e-6 * scale and i not in dead and (layer, i) not in proved
        )
        if still:
            findings.append(
                Finding(
                    layer, "constant", still, float(spread[list(still)].max()), 1e-6 * scale,
                    f"observed: {r.value} does not move in these channels on {r.samples} samples "
                    f"({r.places} places); fewer than {limit:.2%} of such inputs move it ({CONFIDENCE})", "info",
                )
            )  # fmt: skip
    return findings
