"""All findings about a trained network and a sample of data, most severe first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dojang.arith.conv import by
from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.diagnosis import dead, duplicates, lowrank, notjudged, structure
from dojang.diagnosis.correlation import watched_pairs
from dojang.diagnosis.effective import BLOCKS, SAMPLES, Effective, effective_fields
from dojang.diagnosis.grouping import LayerGroupings, groupings, low_correlation
from dojang.diagnosis.hot_spots import far_below, hot_spots
from dojang.diagnosis.judging import Judging
from dojang.evidence.activations import layers
from dojang.evidence.evidence import Evidence
from dojang.evidence.finding import CHANNEL_KINDS, SEVERITIES, Finding, NotJudged
from dojang.evidence.moments import NotFiniteError, broken_weights
from dojang.evidence.times import CallTimes

TRIED_MACS = 1e11
"""Multiplications that trying out effective receptive fields may take."""


def watched(known: Evidence) -> tuple[list[str], list[tuple[str, str]], dict[str, tuple[str, ...]]]:
    """What `diagnose` needs of the samples, for `Evidence.gather`: values, pairs of values, and by name those that are
    looked at for their extremes, and for numbers that are not finite.
    """
    graph, judging = known.graph, Judging(known)
    ends = list(dict.fromkeys(e for own in judging.compared.values() for e in own))
    finite = tuple(dict.fromkeys((*(node.name for node in layers(graph)), *graph.outputs)))
    more = {"extremes": known.following.watched(), "finite": finite}
    return ends, list(watched_pairs(graph).values()), more


def gather(known: Evidence) -> None:
    """One pass over the samples for all that findings need; correlations of neighbouring layers are no findings."""
    values, _, more = watched(known)
    known.gather(values, extremes=more["extremes"], finite=more["finite"])


@dataclass(frozen=True)
class Judgement:
    """What was found, most severe first, and what was not looked at."""

    findings: tuple[Finding, ...]
    unjudged: tuple[NotJudged, ...]


def diagnose(
    known: Evidence,
    *,
    times: CallTimes | None = None,
    grouped: LayerGroupings | None = None,
    effective: tuple[Effective, ...] | None = None,
) -> tuple[Finding, ...]:
    """The findings of `judge`, which takes the same and raises the same."""
    return judge(known, times=times, grouped=grouped, effective=effective).findings


def judge(
    known: Evidence,
    *,
    times: CallTimes | None = None,
    grouped: LayerGroupings | None = None,
    effective: tuple[Effective, ...] | None = None,
    broken: Sequence[NotFiniteError] | None = None,
) -> Judgement:
    """What is wasted in a trained network, and what was not judged; without samples, only what needs none is found.

    `times`: what the layers took, measured. `grouped`, `effective`: what `groupings` and `tried_fields` found
    already; `broken`: numbers that are not finite, where they were met already.

    Weights or activations that are NaN or infinite are findings of their own; what needs finite numbers is then not
    judged. Raises `DataError` when there are no samples, or a sample is NaN or infinite.
    """
    graph = known.graph
    judging, unjudged = Judging(known), list[NotJudged]()
    findings = not_finite(known, broken)
    if findings:
        why = f"{findings[0].judged_at[0]} is not finite"
        unjudged += [NotJudged("", kind, why) for kind in (*CHANNEL_KINDS, "low-rank", "low-correlation")]
    else:
        findings = dead.proven(known, judging)
        findings += duplicates.proven(known, findings, judging)
        findings += lowrank.proven(known, findings, unjudged)
        unjudged += notjudged.proofs(known, judging)
        if known.samples is not None:
            findings += dead.observed(known, findings, judging)
            findings += duplicates.observed(known, findings, judging=judging, unjudged=unjudged)
            grouped = groupings(known) if grouped is None else grouped
            findings += low_correlation(grouped)
            unjudged += grouped.not_judged()
        unjudged += notjudged.samples(known, judging)
    covered = structure.coverage(graph)
    if covered and effective is None and not any(f.kind == "not-finite" for f in findings):
        effective = tried_fields(graph, known.samples)
    findings += _with_effect(covered, effective or ()) + hot_spots(graph, times)
    findings += far_below(graph, times)
    unjudged += notjudged.shapes(graph, times)
    return Judgement(in_order(graph, findings), tuple(dict.fromkeys(unjudged)))


def in_order(graph: Graph, findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings, most severe first, those of one severity in the order of the network."""
    place = {node.name: i for i, node in enumerate(graph.nodes)}
    return tuple(sorted(findings, key=lambda f: (-SEVERITIES.index(f.severity), place[f.layer])))


def not_finite(known: Evidence, errors: Sequence[NotFiniteError] | None = None) -> list[Finding]:
    """Layers whose weights are NaN or infinite, else the first value that is on some sample; errors, each by itself."""
    errors = errors or broken_weights(known.graph)
    if not errors and known.samples is not None:
        try:
            gather(known)
        except NotFiniteError as error:
            errors = [error]
    return [
        Finding(
            e.where, "not-finite", e.channels, float(e.numbers), 0.0, str(e), "error", not e.samples,
            "numbers that are NaN or infinite", (e.where,), "", e.samples,
        )
        for e in errors
    ]  # fmt: skip


def tried_fields(graph: Graph, x: Any) -> tuple[Effective, ...]:
    """The effective receptive fields on the first of the samples; none where that is too much to try out, or has no
    meaning: several inputs, samples without space.
    """
    fitting = isinstance(x, np.ndarray) and x.ndim > 2 and len(graph.inputs) == 1
    if not fitting or count(graph).total.macs * SAMPLES * BLOCKS**2 > TRIED_MACS:
        return ()
    return effective_fields(graph, x)


def _with_effect(covered: list[Finding], effective: tuple[Effective, ...]) -> list[Finding]:
    """Coverage findings that also say how much of the input really matters, where that is known."""
    sizes = {e.layer: f"{by([round(s) for s in e.size])} (in blocks of {by(e.block)} pixels)" for e in effective}
    return [replace(f, evidence=f"{f.evidence}; most of what changes its middle place lies within {sizes[f.layer]}")
            if f.layer in sizes else f for f in covered]  # fmt: skip
