"""What slimming gave: the network, figures before and after, edits with their checks, refusals with their reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from dojang.arith.cost import count
from dojang.arith.graph import Graph


@dataclass(frozen=True, slots=True)
class Figures:
    """One side of before/after. `accuracy` is a fraction, None where not evaluated; `size_bytes` counts all arrays."""

    params: int
    macs: int
    accuracy: float | None
    median_ms: float | None
    size_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def figures(graph: Graph, accuracy: float | None = None, median_ms: float | None = None) -> Figures:
    """Counted figures of a network, with what was measured elsewhere."""
    total = count(graph).total
    size = sum(int(np.asarray(v).nbytes) for v in graph.weights.values())
    return Figures(total.params, total.macs, accuracy, median_ms, size)


@dataclass(frozen=True, slots=True)
class Edit:
    """One accepted edit. `ms_saved` is None where time was not measured."""

    rewrite: str
    claim: str
    layers: tuple[str, ...]
    params_saved: int
    macs_saved: int
    ms_saved: float | None
    check: Mapping[str, Any]
    found: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "layers": list(self.layers), "check": dict(self.check)}


@dataclass(frozen=True, slots=True)
class Refused:
    """An edit that was tried and not taken."""

    rewrite: str
    layers: tuple[str, ...]
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "layers": list(self.layers)}


@dataclass(frozen=True)
class SlimResult:
    """The outcome of a slimming. `notes` say where the result is not what was asked; `seed` repeats it.

    `control`: the original fine-tuned as often and as long as the result was ({accuracy, tunings, epochs}), None where
    nothing was tuned: what tuning alone would have given. `finish`: the last tuning of the result ({accuracy_before,
    accuracy_after} on the selection split, kept), None without one.
    """

    graph: Graph
    before: Figures
    after: Figures
    edits: tuple[Edit, ...]
    refused: tuple[Refused, ...]
    seed: int
    notes: tuple[str, ...] = ()
    certificate: Mapping[str, Any] = field(default_factory=dict[str, Any])
    control: Mapping[str, Any] | None = None
    finish: Mapping[str, Any] | None = None

    @property
    def tunings(self) -> int:
        """How often the result was fine-tuned on the way, the last tuning not counted."""
        return sum(bool(edit.check.get("tuned")) for edit in self.edits)

    def with_figures(self, before: Figures | None = None, after: Figures | None = None, **more: Any) -> SlimResult:
        """The result with final figures (test accuracy, file sizes) in place of those of the search."""
        return replace(self, before=before or self.before, after=after or self.after, **more)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "edits": [e.to_dict() for e in self.edits],
            "refused": [r.to_dict() for r in self.refused],
            "notes": list(self.notes),
            "certificate": dict(self.certificate),
            "control": dict(self.control) if self.control is not None else None,
            "finish": dict(self.finish) if self.finish is not None else None,
            "seed": self.seed,
        }
