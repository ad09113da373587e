"""A measured or proved fact about a trained network: where, what, value, threshold, evidence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

KINDS = ("dead-proven", "dead-observed", "constant", "duplicate", "low-correlation", "coverage", "hot-spot")
CHECK_KINDS = (
    *("constant-answers", "no-better-than-majority", "class-missed", "exploding", "vanishing", "saturated"),
    *("sensitive", "idle-block"),
)
"""Kinds that `diagnose` finds beside waste."""
CHANNEL_KINDS = KINDS[:4]
"""Kinds that name channels of a layer."""

SEVERITIES = ("info", "warning", "error")
"""Lowest first."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact. `value` is what was measured and `threshold` what it was held against, in the units that `evidence`
    names; `channels` are output channels of `layer` (empty: the layer as a whole). `proved`: it holds for every input
    in the stated range, or by the weights; else it was seen on samples, or counted.
    """

    layer: str
    kind: str
    channels: tuple[int, ...]
    value: float
    threshold: float
    evidence: str
    severity: str = "info"
    proved: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "layer": self.layer,
            "kind": self.kind,
            "channels": list(self.channels),
            "value": self.value,
            "threshold": self.threshold,
            "evidence": self.evidence,
            "severity": self.severity,
            "proved": self.proved,
        }


def worst(findings: Iterable[Finding]) -> str | None:
    """The highest severity among findings, None without any."""
    return max((f.severity for f in findings), key=SEVERITIES.index, default=None)
