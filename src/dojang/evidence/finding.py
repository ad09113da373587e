"""A measured or proved fact about a trained network: where, what, value, threshold, evidence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

KINDS = (
    *("dead-proven", "dead-observed", "constant", "duplicate", "repeated", "unread"),
    *("not-finite", "low-rank", "low-correlation", "coverage", "hot-spot"),
)
CHANNEL_KINDS = KINDS[:6]
"""Kinds that name channels of a layer, which a cut may remove."""
CHECK_KINDS = (
    *("constant-answers", "no-better-than-majority", "class-missed", "exploding", "vanishing", "saturated"),
    *("sensitive", "idle-block"),
)
"""Kinds that `diagnose` finds beside waste."""

SEVERITIES = ("info", "warning", "error")
"""Lowest first."""

CONFIDENCE = 0.95
"""With this confidence everything that a diagnosis says of its samples holds at once, for the inputs they come from."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact. `value` is what was measured, in the unit that `measure` names, and `threshold` what it was held
    against, in the same unit; `channels` are output channels of `layer` (empty: the layer as a whole). `proved`: it
    holds for every input that `assumes` describes, or by the weights; else it was seen on samples, or counted.

    `judged_at`: the values at which the channels were judged. `samples`: on how many samples it was seen (0: proved, or
    counted); `confidence`: how sure the statement is, over all that the diagnosis says of its samples together.
    `details`: figures of the evidence by name, where it has several.
    """

    layer: str
    kind: str
    channels: tuple[int, ...]
    value: float
    threshold: float
    evidence: str
    severity: str = "info"
    proved: bool = False
    measure: str = ""
    judged_at: tuple[str, ...] = ()
    assumes: str = ""
    samples: int = 0
    confidence: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict[str, Any], compare=False)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"channels": list(self.channels), "judged_at": list(self.judged_at)}


@dataclass(frozen=True, slots=True)
class NotJudged:
    """What was not looked at: a layer (empty: the whole network), a kind of finding, and why."""

    layer: str
    kind: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def worst(findings: Iterable[Finding]) -> str | None:
    """The highest severity among findings, None without any."""
    return max((f.severity for f in findings), key=SEVERITIES.index, default=None)


def bound_after_none(samples: int, statements: int = 1, confidence: float = CONFIDENCE) -> float:
    """The largest part p of inputs on which something may happen that happened on none of `samples`.

    (1 − p)^samples = (1 − confidence) / statements: by Bonferroni's inequality all of the statements hold together with
    that confidence. For one statement it is about 3 / samples (Hanley, Lippman-Hand, JAMA 1983).

    >>> round(bound_after_none(300), 3), round(bound_after_none(300, 1000), 3)
    (0.01, 0.032)
    """
    return 1 - ((1 - confidence) / max(1, statements)) ** (1 / samples) if samples else 1.0
