"""Dead and constant channels: proved for every input in the range, apart from observed on the samples given."""

from __future__ import annotations

from collections.abc import Sequence

from dojang.evidence.activations import activated, layers
from dojang.evidence.evidence import Evidence
from dojang.evidence.finding import Finding

CONFIDENCE = "at 95 % confidence"


def bound_after_none(samples: int) -> float:
    """The part of inputs on which a channel may still be active that was on none of `samples`: 3/N (Hanley, JAMA 1983).

    At 95 % confidence: (1 − p)^N = 0.05 gives p ≈ 3.0/N.

    >>> bound_after_none(300)
    0.01
    """
    return min(1.0, 3 / samples) if samples else 1.0


def proven(known: Evidence) -> list[Finding]:
    """Channels whose interval after the activation is [0, 0] (dead) or one other number (constant)."""
    findings: list[Finding] = []
    for node in layers(known.graph):
        value = activated(known.graph, node.name)
        if known.channels.tracks[value] is None:
            continue
        bound = known.ranges[value]
        dead = tuple(i for i, z in enumerate(bound.zero) if z)
        if dead:
            findings.append(
                Finding(
                    node.name, "dead-proven", dead, len(dead) / len(bound.lo), 0.0,
                    f"proved by interval bounds: {value} is 0 in these channels for every input in the stated range",
                    "warning", proved=True,
                )
            )  # fmt: skip
        same = bound.constant & ~bound.zero
        for level in sorted({float(v) for v in bound.lo[same]}):
            channels = tuple(i for i, v in enumerate(bound.lo) if same[i] and v == level)
            findings.append(
                Finding(
                    node.name, "constant", channels, level, 0.0,
                    f"proved by interval bounds: {value} is {level:.6g} in these channels for every input in the "
                    "stated range", "warning", proved=True,
                )
            )  # fmt: skip
    return findings


def observed(known: Evidence, proved: Sequence[Finding]) -> list[Finding]:
    """Channels that no sample raised above the threshold, and channels that never moved; the proved ones left out."""
    named = {(f.layer, c) for f in proved for c in f.channels}
    findings: list[Finding] = []
    values = {node.name: activated(known.graph, node.name) for node in layers(known.graph)}
    statistics = known.statistics(values.values())
    for layer, value in values.items():
        r = statistics.get(value)
        if r is None:
            continue
        limit = bound_after_none(r.samples)
        dead = tuple(i for i, n in enumerate(r.fired) if n == 0 and (layer, i) not in named)
        if dead:
            level = "0" if known.threshold == 0 else f"0 by more than {known.threshold:g}"
            findings.append(
                Finding(
                    layer, "dead-observed", dead, float(r.peak[list(dead)].max()), known.threshold,
                    f"the output of {value} in these channels did not differ from {level} on any of {r.samples} "
                    f"samples; each of them is active on fewer than {limit:.2%} of such inputs ({CONFIDENCE})", "info",
                )
            )  # fmt: skip
        scale = max(float(r.peak.max()), 1e-30)
        spread = r.most - r.least
        still = tuple(
            i for i, s in enumerate(spread) if s <= 1e-6 * scale and i not in dead and (layer, i) not in named
        )
        if still:
            findings.append(
                Finding(
                    layer, "constant", still, float(spread[list(still)].max()), 1e-6 * scale,
                    f"the output of {value} in these channels was the same on all {r.samples} samples ({r.places} "
                    f"places); each of them changes on fewer than {limit:.2%} of such inputs ({CONFIDENCE})", "info",
                )
            )  # fmt: skip
    return findings
