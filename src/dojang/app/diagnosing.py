"""Finding what a trained network wastes, on data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dojang.app.checks import LookedAt, Watching
from dojang.app.code_pictures import NormaliseBy, normalised_by, settled
from dojang.app.feeding import fed
from dojang.app.networks import InputSize, load, require_weights
from dojang.app.own_files import in_numpy, sample_size
from dojang.app.progress import ProgressDisplay, Silent
from dojang.app.samples import asked_of, input_range, load_inputs
from dojang.app.together import Alone, Together, by_main_process, together
from dojang.arith.graph import Graph
from dojang.base.errors import UnsupportedError, UsageError
from dojang.diagnosis.correlation import correlations as correlations_of
from dojang.diagnosis.correlation import pair_products
from dojang.diagnosis.equivariance import equivariance
from dojang.diagnosis.findings import in_order, judge, tried_fields, watched
from dojang.diagnosis.grouping import groupings
from dojang.diagnosis.spectrum import spectra, watched_values
from dojang.diagnosis.trials import TRIAL_MACS
from dojang.engine.compiled import Compiled
from dojang.evidence.activations import at_once
from dojang.evidence.evidence import Evidence
from dojang.evidence.moments import NotFiniteError, require_finite_weights
from dojang.evidence.times import CallTimes, call_times
from dojang.report.results import Diagnosis
from dojang.training.asked import Layout, PerChannel, TaskFlag, Values
from dojang.training.data import Data
from dojang.training.sources import MIRROR_RULE

SHIFTED = 16
"""Samples that are shifted to see how responses move; each gives one number for every place and channel."""

DATA_PARTS = ("train", "test")
"""Parts of the data that can be looked at."""

SAMPLES = 512
"""Samples looked at by default. A single channel that is 0 on all of them is active on fewer than 3/512 = 0.6 % of
inputs (95 % confidence); over a whole list of findings the bound is that of `bound_after_none`."""


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
    task: TaskFlag | None = None,
    values: Values | None = None,
    layout: Layout | None = None,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    part: Literal["train", "test"] = "train",
    trial_macs: int = TRIAL_MACS,
    normalise: NormaliseBy | None = None,
    correlations: bool = False,
    progress: ProgressDisplay | None = None,
) -> Diagnosis:
    """Findings about a trained network: dead and constant channels, duplicates, coverage, hot spots; and its answers by
    class, the scale of its activations, what leaving out blocks and rounding weights changes.

    `samples` of the `part` are looked at, drawn by `seed`: by default of the train part, and the test part is left
    alone. Leaving out blocks, and rounding weights, may take `trial_macs` multiplications each. Without `data` only
    what needs no samples is found; `data` may have no labels (an array, an .npy, an .npz with x alone). Under
    `torchrun` each process looks at its share of the samples, and all get the same findings, within rounding those of
    one process.

    PyTorch code does not say how it takes pictures: `normalise` does ("none", 0 … 1; "imagenet"; "half", (x − 0.5) /
    0.5; "data", mean and deviation of the train part), or `mean` and `std`. `correlations`: measure those of all
    filters of neighbouring layers, which a page draws, also where they take more than `CORRELATED` products.

    Raises what `load` raises, and `DataError` for data that cannot be used.

    >>> {finding.kind for finding in diagnose("digits-cnn").findings}
    {'hot-spot'}
    """
    if samples < 1:
        raise UsageError(f"samples {samples} must be at least 1")
    if not 0 <= threshold < float("inf"):
        raise UsageError(f"threshold {threshold} is not a number of 0 or more")
    if not 0 <= seed < 1 << 63:
        raise UsageError(f"seed {seed} is no whole number from 0 to below 2^63")
    if part not in DATA_PARTS:
        raise UsageError(f"part {part!r} is not known; use one of {', '.join(DATA_PARTS)}")
    if trial_macs < 0:
        raise UsageError(f"trial_macs {trial_macs} must be at least 0")
    mean, std = normalised_by(normalise, mean, std)
    told = progress or Silent()
    told.stage("reading network and data")
    data = in_numpy(data)
    input_size = sample_size(net, data, layout) if input_size is None else input_size
    graph = load(net, weights=weights, input_size=input_size, num_classes=num_classes)
    require_weights(graph, graph.name)
    found = None
    if data is not None:
        asked_for = asked_of(graph, task, values, layout, mean, std)
        read = load_inputs(data, graph, val_data, asked_for)
        asked_for = settled(net, graph, read, asked_for, normalise)
        found = fed(graph, read, asked_for)
        found = replace(found, train=found.test) if part == "test" else found
    with together() as processes:
        known = evidence_of(graph, found, samples, threshold, seed)
        asked = None if found is None or known.samples is None else looked_at(found, known.samples, samples, seed, part)
        done = diagnosis_of(
            known, found, processes, asked=asked, trial_macs=trial_macs, correlate=correlations or None, progress=told
        )
    if found is None:
        return done
    said = (note for note in found.notes if note != MIRROR_RULE)  # nothing is mirrored here
    return replace(done, notes=(*said, *done.notes))


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
    asked: LookedAt | None = None,
    more: Iterable[str] = (),
    trial_macs: int = 0,
    correlate: bool | None = None,
    progress: ProgressDisplay | None = None,
) -> Diagnosis:
    """The findings on the samples; without any, what needs none. Process 0 does the timing.

    `asked`, the samples with their labels: also what each layer uses of its channels and of the input, how it answers
    to a shift, and the checks of `checks.py`. `more`: values whose statistics somebody needs later; they are taken in
    the same pass over the samples. `correlate`: also the correlations of neighbouring layers in their best order, which
    only a page shows; None: where they take few products.
    """
    processes, progress = processes or Alone(), progress or Silent()
    graph = known.graph
    progress.stage("timing the layers")
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found on the samples, and told
        times, notes = by_main_process(processes, lambda: timing(graph))
    if known.samples is None or data is None:
        done = judge(known, times=times)
        return Diagnosis(
            graph.name, done.findings, 0, None, known.threshold, notes=notes, not_judged=done.unjudged, times=times
        )
    x = known.finite_samples
    assert isinstance(x, np.ndarray)  # as `some_inputs` made it
    if len(x) < processes.size:
        raise UsageError(
            f"{len(x)} samples cannot be shared by {processes.size} processes; look at more, or start fewer"
        )
    values, pairs, others = watched(known)
    if correlate is None and pair_products(graph, pairs) * len(x) > CORRELATED:
        correlate = False
        notes = (*notes, "correlations of neighbouring layers were not measured, for time; --correlations does")
    pairs = pairs if correlate in (None, True) else []
    values += [*more, *(watched_values(known) if asked is not None else ())]
    watching = None if asked is None else Watching(graph, asked, processes)
    try:
        require_finite_weights(graph)
        progress.stage(f"looking at every layer on {len(x)} samples", -(-len(processes.share(x)) // at_once(graph)))
        counting = BatchesTold(progress)
        with known.watched_by((*(watching.watchers if watching is not None else ()), counting)):
            known.gather(values, pairs, processes.share(x), processes.reduced, **others)
    except NotFiniteError as error:
        judged = judge(known, broken=(error,) if error.samples else None, times=times)
        return Diagnosis(
            graph.name, judged.findings, len(x), data.to_dict(), known.threshold, notes=notes,
            not_judged=judged.unjudged, times=times,
        )  # fmt: skip
    found = () if correlate is False else correlations_of(known)
    progress.stage("trying out receptive fields")
    effective = tried_fields(graph, x)
    progress.stage("looking for layers that split into groups", -(-len(x) // at_once(graph)))
    with known.watched_by((BatchesTold(progress),)):
        grouped = groupings(known, progress.step)
    progress.stage("judging")
    judged = judge(known, grouped=grouped, effective=effective, times=times)
    done = Diagnosis(
        graph.name, judged.findings, len(x), data.to_dict(), known.threshold, found, grouped.judged, notes=notes,
        not_judged=judged.unjudged, times=times,
    )  # fmt: skip
    if watching is None:
        return done
    progress.stage("trying out shifts, blocks left out and rounded weights")
    shifted = equivariance(graph, x[:SHIFTED]) if x.ndim > 2 else ()
    checks, more_findings, untried = watching.done(trial_macs)
    return replace(
        done, findings=in_order(graph, (*done.findings, *more_findings)), spectra=spectra(known), effective=effective,
        equivariance=shifted, checks=checks, notes=(*notes, *untried),
    )  # fmt: skip


CORRELATED = 1e11
"""Products that correlations of neighbouring layers may take where nobody asked for them: about five seconds."""


class BatchesTold:
    """A watcher that only tells how many batches were looked at."""

    values: Sequence[str] = ()

    def __init__(self, progress: ProgressDisplay) -> None:
        """None yet."""
        self.progress, self.batches = progress, 0

    def add(self, found: Mapping[str, np.ndarray]) -> None:
        """One batch."""
        self.batches += 1
        self.progress.step(self.batches, None, "batches")


TIMED = 3
"""So often times are measured anew at most, where the machine was busy meanwhile."""


def timing(graph: Graph) -> tuple[CallTimes | None, tuple[str, ...]]:
    """What each layer takes for one input on dojang's engine. Where it cannot run the network here, None; and notes.

    A note says why no layer was timed, or why nothing is concluded from the times: they did not add up to one call, or
    other work had the machine, in each of `TIMED` tries.
    """
    try:
        engine = Compiled(graph)
        engine.machine.require_here()
        plans = [engine.measured()]
        while plans[-1].doubt and len(plans) < TIMED:
            plans.append(engine.measured())
    except UnsupportedError as error:
        return None, (f"no layer was timed: {error}",)
    peaks = engine.machine.peaks
    times = call_times(graph, plans[-1], (peaks.fma_gflops, peaks.read_gbs))
    if times is not None and times.doubt:
        return times, (f"nothing is concluded from the times of layers, measured {len(plans)} times: {times.doubt}",)
    return times, ()


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
    return data.train.take(chosen(data, samples, seed)).inputs()


def chosen(data: Data, samples: int, seed: int) -> np.ndarray:
    """The places of at most `samples` samples of the train part, drawn by seed, in their order."""
    count = min(samples, len(data.train))
    return np.sort(np.random.default_rng(seed).permutation(len(data.train))[:count])


def looked_at(data: Data, x: Any, samples: int, seed: int, part: str) -> LookedAt:
    """The samples `x` that `some_inputs` drew, with their labels where they are classes, and their places."""
    places = chosen(data, samples, seed)
    labels = data.train.y[places] if data.task == "classification" else None
    files = None if data.train.files is None else data.train.files[places].tolist()
    return LookedAt(x, labels, places, part, data.classes, files)
