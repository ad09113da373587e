"""All findings about a trained network and a sample of data, most severe first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dojang.arith.channels import channels
from dojang.arith.conv import by
from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.base.errors import DataError
from dojang.diagnosis import dead, duplicates, structure
from dojang.diagnosis.correlation import Correlation, correlations, low_correlation
from dojang.diagnosis.effective import BLOCKS, SAMPLES, Effective, effective_fields
from dojang.evidence.activations import Reduced, Run, batches, responses
from dojang.evidence.finding import SEVERITIES, Finding
from dojang.evidence.intervals import ranges
from dojang.evidence.moments import require_finite_weights

TRIED_MACS = 1e11
"""Multiplications that trying out effective receptive fields may take."""


def diagnose(
    graph: Graph,
    x: Any = None,
    *,
    run: Run | None = None,
    threshold: float = 0.0,
    input_range: Mapping[str, tuple[Any, Any]] | None = None,
    layer_ms: Mapping[str, float] | None = None,
    peaks: tuple[float, float] | None = None,
    batch: int = 1,
    correlate: bool | tuple[Correlation, ...] = True,
    seed: int = 0,
    reduced: Reduced | None = None,
    effective: tuple[Effective, ...] | None = None,
) -> tuple[Finding, ...]:
    """What is wasted in a trained network.

    `x`: samples (n, *shape), or arrays by input name; without them only what needs no data is found. `run(x, taps)`
    gives activations (default: dojang's engine). `threshold`: a channel that never exceeds it counts as dead.
    `input_range`: least and largest value by input name, for proofs (default: pictures in 0..1 where the input says
    how they are normalised, else none). `layer_ms`: measured milliseconds per layer for a batch of
    `batch`, `peaks` the machine's GFLOP/s and GB/s to hold them against. `correlate`: also look for layers that would
    split into groups, with `seed` for the shuffles, or what `correlations` found already. With `reduced` each process
    gives its share of the samples as `x` and gets the findings on all of them. `effective`: what `tried_fields` found
    already.

    Raises `DataError` when there are no samples in `x`, or a sample, a weight or an activation is NaN or infinite.
    """
    require_finite_weights(graph)
    tied = channels(graph)
    bound = ranges(graph, input_range, tied)
    findings = dead.proven(graph, tied, bound) + duplicates.proven(graph, tied, bound)
    if x is not None:
        require_samples(x)
        found = responses(graph, tied, x, run, threshold, reduced)
        findings += dead.observed(graph, found, findings, threshold)
        findings += duplicates.observed(found, findings)
        if correlate:
            known = correlations(graph, x, run, seed, reduced=reduced) if correlate is True else correlate
            findings += low_correlation(known)
    covered = structure.coverage(graph)
    if covered and effective is None:
        effective = tried_fields(graph, x)
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
    return [replace(f, evidence=f"{f.evidence}; most of what moves its middle is within {sizes[f.layer]}")
            if f.layer in sizes else f for f in covered]  # fmt: skip


def require_samples(x: Any) -> None:
    """Raise `DataError` when there are no samples, or one holds NaN or infinity."""
    seen = 0
    for part, n in batches(x):
        seen += n
        for array in part.values() if isinstance(part, Mapping) else (part,):
            if not np.isfinite(array).all():
                what = "NaN" if not (array == array).all() else "infinity"
                raise DataError(f"a sample holds {what}; leave it out, or repair the data")
    if not seen:
        raise DataError("there are no samples to diagnose on; give at least one")
