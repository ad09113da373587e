"""All findings about a trained network and a sample of data, most severe first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dojang.arith.conv import by
from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.diagnosis import dead, duplicates, structure
from dojang.diagnosis.correlation import watched_pairs
from dojang.diagnosis.effective import BLOCKS, SAMPLES, Effective, effective_fields
from dojang.diagnosis.grouping import LayerGroupings, groupings, low_correlation
from dojang.evidence.activations import activated, layers
from dojang.evidence.evidence import Evidence
from dojang.evidence.finding import SEVERITIES, Finding
from dojang.evidence.moments import require_finite_weights

TRIED_MACS = 1e11
"""Multiplications that trying out effective receptive fields may take."""


def watched(known: Evidence) -> tuple[list[str], list[tuple[str, str]]]:
    """The values and the pairs of values that `diagnose` needs of the samples, for `Evidence.gather`."""
    graph = known.graph
    return [activated(graph, node.name) for node in layers(graph)], list(watched_pairs(graph).values())


def diagnose(
    known: Evidence,
    *,
    layer_ms: Mapping[str, float] | None = None,
    peaks: tuple[float, float] | None = None,
    batch: int = 1,
    grouped: LayerGroupings | None = None,
    effective: tuple[Effective, ...] | None = None,
) -> tuple[Finding, ...]:
    """What is wasted in a trained network; where `known` has no samples, only what needs none is found.

    `layer_ms`: measured milliseconds per layer for a batch of `batch`, `peaks` the machine's GFLOP/s and GB/s to hold
    them against. `grouped`, `effective`: what `groupings` and `tried_fields` found already.

    Raises `DataError` when there are no samples, or a sample, a weight or an activation is NaN or infinite.
    """
    graph = known.graph
    require_finite_weights(graph)
    findings = dead.proven(known) + duplicates.proven(known)
    if known.samples is not None:
        known.gather(*watched(known))
        findings += dead.observed(known, findings)
        findings += duplicates.observed(known, findings)
        findings += low_correlation(groupings(known) if grouped is None else grouped)
    covered = structure.coverage(graph)
    if covered and effective is None:
        effective = tried_fields(graph, known.samples)
    findings += _with_effect(covered, effective or ()) + structure.hot_spots(graph, layer_ms)
    if layer_ms and peaks is not None:
        findings += structure.far_below(graph, layer_ms, *peaks, batch)
    place = {node.name: i for i, node in enumerate(graph.nodes)}
    return tuple(sorted(findings, key=lambda f: (-SEVERITIES.index(f.severity), place[f.layer])))


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
    sizes = {e.layer: by([round(s) for s in e.size]) for e in effective}
    return [replace(f, evidence=f"{f.evidence}; most of what changes its middle place lies within {sizes[f.layer]}")
            if f.layer in sizes else f for f in covered]  # fmt: skip
