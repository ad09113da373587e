"""A measured or proved fact about a trained network: where, what, value, threshold, evidence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

KINDS = ("dead-proven", "dead-observed", "constant", "duplicate", "low-correlation", "coverage", "hot-spot")
CHANNEL_KINDS = KINDS[:4]
"""Kinds that name channels of a layer."""

SEVERITIES = ("info", "warning", "error")
"""Lowest first."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact. `value` is what was measured and `threshold` what it was held against, in the units that `evidence`
    names; `channels` are output channels of `layer` (empty: the layer as a whole). `proved`: it holds for every input
    in the stated range, or by the weights; else it was seen on samples, or counted. `details`: figures of the evidence
    by name, where it has several.
    """

    layer: str
    kind: str
    channels: tuple[int, ...]
    value: float
    threshold: float
    evidence: str
    severity: str = "info"
    proved: bool = False
    details: Mapping[str, Any] = field(default_factory=dict[str, Any], compare=False)

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
            "details": dict(self.details),
        }


def worst(findings: Iterable[Finding]) -> str | None:
    """The highest severity among findings, None without any."""
    return max((f.severity for f in findings), key=SEVERITIES.index, default=None)
