"""Finding what a trained network wastes, on data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dojang.app.networks import InputSize, load, require_weights
from dojang.app.samples import check_classes, input_range, load_inputs
from dojang.app.together import Alone, Together, by_main_process, together
from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.base.errors import UnsupportedError, UsageError
from dojang.diagnosis.correlation import correlations
from dojang.diagnosis.equivariance import equivariance
from dojang.diagnosis.findings import judge, tried_fields, watched
from dojang.diagnosis.spectrum import spectra, watched_values
from dojang.engine.compiled import Compiled
from dojang.evidence.evidence import Evidence
from dojang.evidence.moments import NotFiniteError, require_finite_weights
from dojang.report.results import Diagnosis
from dojang.training.data import Data

SHIFTED = 16
"""Samples that are shifted to see how responses move; each gives one number for every place and channel."""

SAMPLES = 512
"""Samples looked at by default: a channel that is 0 on all of them is active on at most 3/512 = 0.6 % of inputs."""


def diagnose(
    net: Any,
    data: Any = None,
    *,
    samples: int = SAMPLES,
    threshold: float = 0.0,
    seed: int = 0,
    weights: str | Path | None = None,
    input_size: InputSize | None = None,
    num_classes: int | None = None,
    val_data: str | Path | None = None,
) -> Diagnosis:
    """Findings about a trained network: dead and constant channels, duplicates, coverage, hot spots.

    `samples` of the train part are looked at, drawn by `seed`; the test part is left alone. Without `data` only what
    needs no samples is found; `data` may have no labels (an array, an .npy, an .npz with x alone). Under `torchrun`
    each process looks at its share of the samples, and all get the same findings, within rounding those of one process.
    Raises what `load` raises, and `DataError` for data that cannot be used.

    >>> {finding.kind for finding in diagnose("digits-cnn").findings}
    {'hot-spot'}
    """
    if samples < 1:
        raise UsageError(f"samples {samples} must be at least 1")
    graph = load(net, weights=weights, input_size=input_size, num_classes=num_classes)
    require_weights(graph, graph.name)
    found = None if data is None else load_inputs(data, graph, val_data)
    if found is not None:
        check_classes(graph, found)
    with together() as processes:
        known = evidence_of(graph, found, samples, threshold, seed)
        return diagnosis_of(known, found, processes, every_layer=True)


def evidence_of(graph: Graph, data: Data | None, samples: int, threshold: float, seed: int) -> Evidence:
    """What findings and cuts stand on: the network, some samples of the train part (if there are any), their range."""
    if data is None or not len(data.train):
        return Evidence(graph, None, {} if data is None else input_range(graph, data), seed=seed, threshold=threshold)
    x = some_inputs(data, samples, seed)
    return Evidence(graph, x, input_range(graph, data), seed=seed, threshold=threshold)


def diagnosis_of(
    known: Evidence,
    data: Data | None,
    processes: Together | None = None,
    every_layer: bool = False,
    more: Iterable[str] = (),
) -> Diagnosis:
    """The findings on the samples; without any, what needs none. Process 0 does the timing.

    `every_layer`: also what each layer uses of its channels and of the input, and how it answers to a shift. `more`:
    values whose statistics somebody needs later; they are taken in the same pass over the samples.
    """
    processes = processes or Alone()
    graph = known.graph
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found on the samples, and told
        timed, notes = by_main_process(processes, lambda: timing(graph))
    if known.samples is None or data is None:
        done = judge(known, **timed)
        return Diagnosis(graph.name, done.findings, 0, None, known.threshold, notes=notes, not_judged=done.unjudged)
    x = known.finite_samples
    assert isinstance(x, np.ndarray)  # as `some_inputs` made it
    if len(x) < processes.size:
        raise UsageError(
            f"{len(x)} samples cannot be shared by {processes.size} processes; look at more, or start fewer"
        )
    values, pairs, others = watched(known)
    values += [*more, *(watched_values(known) if every_layer else ())]
    try:
        require_finite_weights(graph)
        known.gather(values, pairs, processes.share(x), processes.reduced, **others)
    except NotFiniteError as error:
        judged = judge(known, broken=(error,) if error.samples else None, **timed)
        return Diagnosis(
            graph.name,
            judged.findings,
            len(x),
            data.to_dict(),
            known.threshold,
            notes=notes,
            not_judged=judged.unjudged,
        )
    found, effective = correlations(known), tried_fields(graph, x)
    judged = judge(known, correlated=found, effective=effective, **timed)
    done = Diagnosis(
        graph.name, judged.findings, len(x), data.to_dict(), known.threshold, found, notes=notes,
        not_judged=judged.unjudged,
    )  # fmt: skip
    if not every_layer:
        return done
    shifted = equivariance(graph, x[:SHIFTED]) if x.ndim > 2 else ()
    return replace(done, spectra=spectra(known), effective=effective, equivariance=shifted)


def timing(graph: Graph) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Measured milliseconds per layer for one input on dojang's engine, and the peaks of as many threads.

    A step that computes several nodes counts for the one of them with most multiplications. Where the engine cannot
    run the network here, nothing, and a note that says why.
    """
    try:
        engine = Compiled(graph)
        engine.machine.require_here()
        plan = engine.measured()
    except UnsupportedError as error:
        return {}, (f"no layer was timed: {error}",)
    macs = {row.name: row.cost.macs for row in count(graph).layers}
    spent: dict[str, float] = {}
    for choice in plan.choices:
        nodes = [name for name in (*choice.members, choice.value) if name in macs]
        if choice.measured_s and nodes:
            layer = max(nodes, key=lambda name: macs[name])
            spent[layer] = spent.get(layer, 0.0) + 1e3 * choice.measured_s
    one = engine.machine.peaks
    found = {"layer_ms": spent, "peaks": (one.fma_gflops * plan.run_threads, one.read_gbs * plan.run_threads)}
    return found, ()


def some_feed(graph: Graph, data: Data, samples: int, seed: int) -> np.ndarray | dict[str, np.ndarray]:
    """What `some_inputs` gives; for a network with several inputs (and no data) random numbers for each, by name."""
    if len(graph.inputs) == 1:
        return some_inputs(data, samples, seed)
    rng = np.random.default_rng(seed)
    return {i.name: rng.standard_normal((samples, *i.attrs["shape"]), np.float32) for i in graph.inputs}


def some_inputs(data: Data, samples: int, seed: int) -> np.ndarray:
    """At most `samples` samples of the train part as the network sees them, drawn by seed, in their order.

    Normal random numbers where there are no samples.
    """
    if not len(data.train):
        return np.random.default_rng(seed).standard_normal((samples, *data.sample_shape), np.float32)
    count = min(samples, len(data.train))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(data.train))[:count])
    return data.train.take(chosen).inputs()
