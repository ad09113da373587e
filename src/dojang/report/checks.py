"""What `diagnose` found beside waste, as one part of its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dojang.diagnosis.answers import Wrong
    from dojang.diagnosis.bypass import Bypass
    from dojang.diagnosis.scale import Scale
    from dojang.diagnosis.sensitivity import Sensitivity
    from dojang.training.confusion import Confusion

MOST_WRONG = 200
"""Samples answered wrong that a document lists; `wrong_samples` is the number of all."""


@dataclass(frozen=True)
class Answers:
    """The answers to samples of the `part` ("train" or "test") of the data, and those that are wrong. `probability`:
    how the probability of an answer is computed.
    """

    part: str
    confusion: Confusion
    wrong: tuple[Wrong, ...]
    probability: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "part": self.part,
            "accuracy": self.confusion.accuracy,
            "confusion": self.confusion.to_dict(),
            "probability": self.probability,
            "wrong_samples": len(self.wrong),
            "wrong": [vars(one) for one in self.wrong[:MOST_WRONG]],
        }


@dataclass(frozen=True)
class Checks:
    """Answers (None without classes), the scale of each layer's activations, blocks left out, layers rounded."""

    answers: Answers | None = None
    scales: tuple[Scale, ...] = ()
    bypasses: tuple[Bypass, ...] = ()
    sensitivities: tuple[Sensitivity, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "answers": self.answers.to_dict() if self.answers is not None else None,
            "scales": [row.to_dict() for row in self.scales],
            "bypasses": [row.to_dict() for row in self.bypasses],
            "sensitivities": [row.to_dict() for row in self.sensitivities],
        }
