"""A measured fact about a trained network: where, what was measured, value, threshold, evidence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

KINDS = ("dead-proven", "dead-observed", "constant", "duplicate", "low-correlation", "coverage", "hot-spot")
SEVERITIES = ("info", "warning", "error")
"""Lowest first."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact. `value` is what was measured and `threshold` what it was held against, in the units that `evidence`
    names; `channels` are output channels of `layer` (empty: the layer as a whole).
    """

    layer: str
    kind: str
    channels: tuple[int, ...]
    value: float
    threshold: float
    evidence: str
    severity: str = "info"

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
        }


def worst(findings: Iterable[Finding]) -> str | None:
    """The highest severity among findings, None without any."""
    return max((f.severity for f in findings), key=SEVERITIES.index, default=None)
