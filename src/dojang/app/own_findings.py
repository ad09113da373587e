"""What slimming by somebody's own loop finds of waste, and what its cuts made of each finding.

Findings are those of `dojang diagnose` that name channels: only channels are cut here. Larger networks are not looked
at: slimming at once takes seconds, and findings of those take minutes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dojang.app.progress import ProgressDisplay
from dojang.app.shortening import LARGE, Own, entering_arrays
from dojang.arith.cost import count
from dojang.base.errors import DojangError
from dojang.diagnosis.findings import judge
from dojang.diagnosis.grouping import LayerGroupings
from dojang.evidence.evidence import Evidence
from dojang.evidence.finding import CHANNEL_KINDS
from dojang.report.results import NOT_LOOKED, Diagnosis
from dojang.slimming.answers import answered, answers
from dojang.slimming.numbering import all_channels
from dojang.slimming.result import Edit, Outcome, Refused

Array = np.ndarray

MOST_PARAMS = 3e7
"""Parameters above which findings are not looked for: spectra of wide dense layers take minutes."""

SAMPLES = 256
"""Samples that are looked at, at most."""

NOT_CHOSEN = "the cuts went where they moved the outputs less for what they saved, or the target was met without it"


@dataclass(frozen=True)
class OwnFindings:
    """What was found, and what a cut did about it."""

    diagnosis: Diagnosis
    cut: str

    @property
    def made_for(self) -> Mapping[str, str]:
        """The edit that is made for each kind of finding; others only inform."""
        return dict.fromkeys(CHANNEL_KINDS, self.cut)

    def of(self, edit: Edit) -> Edit:
        """An edit with the findings that it answers."""
        return replace(edit, findings=answered(self.diagnosis.findings, (), edit.layers, edit.channels))

    def of_refused(self, own: Own, refused: Sequence[Refused]) -> list[Refused]:
        """Refusals with the findings that they speak of; those of whole layers name all channels of them."""
        every = all_channels(own.graph)
        made: list[Refused] = []
        for one in refused:
            channels = one.channels or {name: every[name] for name in one.layers if name in every}
            made.append(replace(one, findings=answered(self.diagnosis.findings, (), one.layers, channels)))
        return made

    def rest(self, edits: Sequence[Edit], refused: Sequence[Refused]) -> list[Refused]:
        """A refusal for what findings name and neither an edit nor a refusal speaks of."""
        more: list[Refused] = []
        for finding in self.diagnosis.findings:
            if finding.kind not in self.made_for or any(finding in one.findings for one in refused):
                continue
            gone = {c for e in edits if finding in e.findings for c in e.channels.get(finding.layer, ())}
            left = tuple(c for c in finding.channels if c not in gone)
            if len(left) > (finding.kind == "duplicate"):  # of channels that are alike, one stays
                more.append(Refused(self.cut, (finding.layer,), NOT_CHOSEN, {finding.layer: left}, (finding,)))
        return more

    def outcomes(self, edits: Sequence[Edit], refused: Sequence[Refused]) -> tuple[Outcome, ...]:
        """What became of every finding."""
        return answers(self.diagnosis.findings, edits, refused, self.made_for)


def look(own: Own, cut: str, told: ProgressDisplay) -> OwnFindings:
    """The findings about somebody's network on their samples. `cut`: the name of the edit that answers findings."""
    graph = own.graph
    total = count(graph).total
    name = graph.name
    if total.macs > LARGE or total.params > MOST_PARAMS:
        size = f"{total.macs / 1e9:.3g} GMACs and {total.params / 1e6:.3g} M parameters"
        why = f"findings about a network of {size} take minutes; dojang diagnose looks for them"
        return OwnFindings(Diagnosis(name, (), 0, None, 0.0, notes=(NOT_LOOKED, why)), cut)
    told.stage("looking for waste")
    samples = feed_of(own) if own.runnable else None
    known = Evidence(graph, samples)
    try:
        done = judge(known, grouped=LayerGroupings((), {"": "only channels are cut here"}), effective=())
    except DojangError as error:
        return OwnFindings(Diagnosis(name, (), 0, None, 0.0, notes=(NOT_LOOKED, str(error))), cut)
    findings = tuple(f for f in done.findings if f.kind in CHANNEL_KINDS)
    number = 0 if samples is None else len(next(iter(samples.values())) if isinstance(samples, dict) else samples)
    notes = () if own.runnable else ("some operators run in the network's own code only: findings go by weights",)
    return OwnFindings(
        Diagnosis(name, findings, number, None, known.threshold, notes=notes, not_judged=done.unjudged), cut
    )


def feed_of(own: Own) -> Array | dict[str, Array] | None:
    """At most `SAMPLES` of the samples as arrays, by input where there are several; those of one size."""
    parts: list[list[Any]] = []
    seen = 0
    for batch in own.batches:
        arrays = entering_arrays(own.graph, batch)
        if parts and [a.shape[1:] for a in arrays] != [a.shape[1:] for a in parts[0]]:
            continue
        parts.append(arrays)
        seen += len(arrays[0]) if arrays else 0
        if seen >= SAMPLES:
            break
    names = [node.name for node in own.graph.inputs]
    if not parts or len(parts[0]) != len(names):
        return None
    whole = [np.concatenate([part[i] for part in parts])[:SAMPLES] for i in range(len(names))]
    return whole[0] if len(names) == 1 else dict(zip(names, whole, strict=True))
