"""What slimming gave: the network, figures before and after, edits with their checks, refusals with their reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np

from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.evidence.finding import Finding


@dataclass(frozen=True, slots=True)
class NetworkFigures:
    """One side of before/after. `accuracy` is a fraction, None where not evaluated; `size_bytes` counts all arrays."""

    params: int
    macs: int
    accuracy: float | None
    median_ms: float | None
    size_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def figures(graph: Graph, accuracy: float | None = None, median_ms: float | None = None) -> NetworkFigures:
    """Counted figures of a network, with what was measured elsewhere."""
    total = count(graph).total
    size = sum(int(np.asarray(v).nbytes) for v in graph.weights.values())
    return NetworkFigures(total.params, total.macs, accuracy, median_ms, size)


Channels = Mapping[str, tuple[int, ...]]
"""Output channels by layer."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One accepted edit. `ms_saved` is None where time was not measured.

    `channels`: those that it removed, by layer, in the numbers of the original network. `findings`: those that it
    answers.
    """

    rewrite: str
    claim: str
    layers: tuple[str, ...]
    params_saved: int
    macs_saved: int
    ms_saved: float | None
    check: Mapping[str, Any]
    found: str = ""
    channels: Channels = field(default_factory=dict[str, tuple[int, ...]])
    findings: tuple[Finding, ...] = ()

    def to_dict(self, findings: Sequence[Finding] = ()) -> dict[str, Any]:
        """As JSON has it; what it answers by its place in `findings`."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**own, "layers": list(self.layers), "check": dict(self.check), "channels": _listed(self.channels),
                "findings": references(self.findings, findings)}  # fmt: skip


def schedule_of(edits: Sequence[Edit]) -> tuple[float, ...]:
    """The trainings that followed these edits, each as a part of one whole tuning."""
    return tuple(share for edit in edits for share in edit.check.get("schedule", ()))


@dataclass(frozen=True, slots=True)
class Refused:
    """An edit that was not made, and why. `channels`: those that it would have removed; `findings`: see `Edit`."""

    rewrite: str
    layers: tuple[str, ...]
    reason: str
    channels: Channels = field(default_factory=dict[str, tuple[int, ...]])
    findings: tuple[Finding, ...] = ()

    def to_dict(self, findings: Sequence[Finding] = ()) -> dict[str, Any]:
        """As JSON has it; what it speaks of by its place in `findings`."""
        return {"rewrite": self.rewrite, "layers": list(self.layers), "reason": self.reason,
                "channels": _listed(self.channels), "findings": references(self.findings, findings)}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one finding: the edits that answered it, and the refusals that say why the rest of it was not cut,
    by their places in the result's lists. `informs`: no rewrite is made for this kind of finding; it only informs.
    """

    finding: Finding
    edits: tuple[int, ...]
    refused: tuple[int, ...]
    informs: bool = False

    @property
    def verdict(self) -> str:
        """ "cut" where an edit answered it, else "refused", or "informs" where nothing was to be answered."""
        return "cut" if self.edits else "refused" if self.refused or not self.informs else "informs"

    def to_dict(self, findings: Sequence[Finding]) -> dict[str, Any]:
        """As JSON has it."""
        own = references((self.finding,), findings)[0]
        return {"finding": own, "outcome": self.verdict, "edits": list(self.edits), "refused": list(self.refused)}


def references(own: Sequence[Finding], findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Findings as JSON points at them: the place in the list of findings, and layer, kind and channels beside it."""
    return [{"index": findings.index(f) if f in findings else None, "layer": f.layer, "kind": f.kind,
             "channels": list(f.channels)} for f in own]  # fmt: skip


def _listed(channels: Channels) -> dict[str, list[int]]:
    return {name: list(own) for name, own in channels.items()}


@dataclass(frozen=True, slots=True)
class LayerBits:
    """How one layer keeps its weights: in `bits` bits, and what it reads too, where they are 8. `own_db` and `whole_db`
    are the signal to noise of its output in decibels, when it alone is in 8 bits and when all layers are (None where
    there was no noise, or it was not measured). `why` it keeps its floats ("" in 8 bits).
    """

    layer: str
    op: str
    weights: int
    bits: int
    own_db: float | None
    whole_db: float | None
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class SlimResult:
    """The outcome of a slimming. `notes` say where the result is not what was asked; `seed` repeats it.

    `control`: the original fine-tuned as often and as long as the result was ({accuracy, tunings, epochs}), None where
    nothing was tuned: what tuning alone would have given. `finish`: the last tuning of the result ({accuracy_before,
    accuracy_after} on the selection split, kept), None without one. `findings`: those that the search was given;
    `answers`: what became of each. `candidates`: every network that was tried, where the search keeps a list of them
    ({ranking, macs, time, outputs_moved, measure, lost, standard_error, tuned, taken, curve, why}; `time`: its part of
    the time of the original where it was timed; `curve`: [part of a tuning, measure, the control's] for every rung).
    """

    graph: Graph
    before: NetworkFigures
    after: NetworkFigures
    edits: tuple[Edit, ...]
    refused: tuple[Refused, ...]
    seed: int
    notes: tuple[str, ...] = ()
    certificate: Mapping[str, Any] = field(default_factory=dict[str, Any])
    control: Mapping[str, Any] | None = None
    finish: Mapping[str, Any] | None = None
    findings: tuple[Finding, ...] = ()
    answers: tuple[Outcome, ...] = ()
    candidates: tuple[Mapping[str, Any], ...] = ()
    bits: tuple[LayerBits, ...] = ()

    @property
    def schedule(self) -> tuple[float, ...]:
        """The trainings of the result, each as a part of one whole tuning, the last one where it was kept."""
        last = (self.finish["share"],) if self.finish is not None and self.finish["kept"] else ()
        return (*schedule_of(self.edits), *last)

    @property
    def tunings(self) -> int:
        """How often the result was fine-tuned on the way, the last tuning not counted."""
        return len(schedule_of(self.edits))

    def with_figures(
        self, before: NetworkFigures | None = None, after: NetworkFigures | None = None, **more: Any
    ) -> SlimResult:
        """The result with final figures (test accuracy, file sizes) in place of those of the search."""
        return replace(self, before=before or self.before, after=after or self.after, **more)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "findings": [f.to_dict() for f in self.findings],
            "answers": [a.to_dict(self.findings) for a in self.answers],
            "edits": [e.to_dict(self.findings) for e in self.edits],
            "refused": [r.to_dict(self.findings) for r in self.refused],
            "notes": list(self.notes),
            "bits": [row.to_dict() for row in self.bits],
            "certificate": dict(self.certificate),
            "control": dict(self.control) if self.control is not None else None,
            "finish": dict(self.finish) if self.finish is not None else None,
            "candidates": [dict(one) for one in self.candidates],
            "seed": self.seed,
        }
