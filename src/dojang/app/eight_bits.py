"""The last edit of a slimming with `bits=8`: the network in whole numbers of 8 bits, judged on the selection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from dojang.app.progress import ProgressDisplay
from dojang.arith.graph import Graph
from dojang.base.errors import CheckFailed, DataError, UsageError
from dojang.engine.compiled import compile
from dojang.slimming import quantising
from dojang.slimming.equalising import equalised
from dojang.slimming.layer_noise import Noise, measured
from dojang.slimming.quantising import Quantised
from dojang.slimming.result import Edit, LayerBits, Refused, SlimResult
from dojang.slimming.search import NOTHING
from dojang.training.data import Data, Split

NAME = "eight-bits"
CALIBRATION, LOOKED_AT, COMPARED = 256, 64, 1000
"""At most so many samples calibrate, so many of them measure the noise of layers, and on so many answers are compared.
Ranges of activations settle within a few hundred samples."""
BATCH = 16
MADE_FOR = ("dojang", "onnxruntime")
"""Runtimes that compute in bytes."""


@dataclass(frozen=True)
class Judge:
    """How networks are judged: `score` on the selection samples (None: they have no labels), which is not to fall below
    `least`; `before` is what the network has in float32; `measure` times networks. `tune` trains one in 8 bits, with
    another as its teacher; where it is None, `untuned` says why.
    """

    score: Callable[[Graph], float] | None
    before: float | None
    least: float
    measure: Callable[[Sequence[Graph]], list[list[float]]]
    tune: Callable[[Graph, Graph], Graph] | None = None
    untuned: str = ""


def check_bits(bits: int | None, lossless: bool, tuning: bool, runtime: str, data: Any, own: bool) -> None:
    """Raises `UsageError` for requests that make no sense together."""
    if bits is None:
        if not tuning:
            raise UsageError("no tuning is a request about 8 bits; give --bits 8 with it, or --lossless for exact cuts")
        return
    if bits != 8:
        raise UsageError(f"bits {bits} are not made; use 8")
    if lossless:
        raise UsageError("8 bits change answers, and lossless allows no change; leave out --lossless or --bits")
    if data is None:
        raise UsageError("8 bits are calibrated on samples; give --data (labels are not needed with --no-tuning)")
    if runtime not in MADE_FOR:
        raise UsageError(f"{runtime} gains nothing by networks in 8 bits; use the runtime {' or '.join(MADE_FOR)}")
    if own:
        raise UsageError(
            "bits works with data that dojang reads, not with tune, evaluate or a target alone; quantise the .graph of "
            "that result with dojang.quantize, which takes tune, too"
        )


def check_samples(data: Data) -> None:
    """Raises `DataError` where there is nothing to calibrate on."""
    if not len(data.train):
        raise DataError(f"{data.name}: there is no sample to calibrate 8 bits with; give some like those of later use")


def in_bits(result: SlimResult, data: Data, seed: int, judge: Judge, progress: ProgressDisplay) -> SlimResult:
    """The result with its network in 8 bits, as a further edit; as it was, with a refusal, where too much was lost.

    Layers whose own noise is too large keep their floats. If the others lose anything on the selection, the network is
    tuned as it computes in 8 bits, with itself in float32 as its teacher, and what scores better stays. If it then
    loses more than is allowed, the layers with the largest noise keep their floats too: one, two, four … of them, until
    it does not.
    """
    before = result.graph
    graph = quantising.prepared(before)
    if not quantising.layers_of(graph):
        return _refused(result, "there is no convolution and no dense layer of images")
    progress.stage("calibrating 8 bits")
    drawn = np.sort(np.random.default_rng(seed).permutation(len(data.train))[:CALIBRATION])
    part = data.train.take(drawn)
    batches = [part.inputs(i, i + BATCH) for i in range(0, len(part), BATCH)]
    graph, scaled = equalised(graph, quantising.layers_of(graph))
    known = quantising.calibrated(graph, batches)
    some = batches[: LOOKED_AT // BATCH]
    made, rows = measured(graph, known, some)
    score, tuned = None, Tuned(None, "")
    if made.layers and judge.score is not None:
        progress.stage("judging 8 bits")
        score = judge.score(made.graph)
        tuned = _tuned(graph, known, made, score, judge, progress)
        if tuned.graph is not None:
            graph, known = tuned.graph, quantising.Calibration(known.values)  # what layers read has changed
            made, rows = measured(graph, known, some, {row.layer: row.why for row in rows if row.why}, correct=False)
            score = judge.score(made.graph)
        made, rows, score = _within(graph, known, some, made, rows, score, judge, correct=tuned.graph is None)
    if not made.layers:
        why = "; ".join(dict.fromkeys(row.why for row in rows if row.why))
        return replace(_refused(result, f"no layer is left in 8 bits: {why}"), bits=rows)
    old, new = (median(times) for times in judge.measure([before, made.graph]))
    says = _agreement(before, made.graph, data.test, data.task)
    check: dict[str, Any] = {"says": says}
    if judge.before is not None:
        check = {
            "accuracy_before": judge.before,
            "accuracy_after": score,
            "tuned": tuned.graph is not None,
            "also": says,
        }
    floats = sum(row.bits != 8 for row in rows)
    said = f"{len(made.layers)} of {len(made.layers) + floats} layers keep their weights in 8 bits"
    if scaled:
        said += f"; {len(scaled)} were equalised before, which changes nothing"
    if tuned.said:
        said += f"; {tuned.said}"
    notes = tuple(note for note in result.notes if note != NOTHING)
    if new >= old:
        notes = (*notes, f"8 bits save no time here: {new:.4g} ms, not {old:.4g}, on this machine and runtime")
    edit = Edit(NAME, "lossy", made.layers, 0, 0, old - new, check, said)
    return replace(result, graph=made.graph, edits=(*result.edits, edit), bits=rows, certificate={}, notes=notes)


def _refused(result: SlimResult, why: str) -> SlimResult:
    return replace(result, refused=(*result.refused, Refused(NAME, (), why)))


@dataclass(frozen=True)
class Tuned:
    """A network that was tuned in 8 bits, its weights as real numbers, where that scores better; `said`: what was
    tried, and what came of it.
    """

    graph: Graph | None
    said: str


def _tuned(
    graph: Graph, known: quantising.Calibration, made: Quantised, score: float, judge: Judge, progress: ProgressDisplay
) -> Tuned:
    """Tuning in 8 bits: values and weights are rounded on the way forward, and slopes go straight through."""
    assert judge.score is not None
    assert judge.before is not None
    if score >= judge.before:
        return Tuned(
            None, "nothing was lost on the selection samples, so it was not tuned in 8 bits" if judge.tune else ""
        )
    if judge.tune is None:
        return Tuned(None, judge.untuned)
    progress.stage("tuning in 8 bits")
    rounds = made.graph.replace(weights=graph.weights)
    try:
        after = judge.tune(rounds, graph)
    except (DataError, CheckFailed) as error:
        return Tuned(None, f"tuning it in 8 bits failed: {error}")
    found = graph.with_weights({name: after.weights[name] for name in graph.weights})
    floats = {node.name for node in quantising.layers_of(graph)} - set(made.layers)
    plain = quantising.quantised(found, quantising.Calibration(known.values), correct=False, floats=floats)
    better = judge.score(plain.graph)
    said = f"tuned in 8 bits, it scores {better:.2%} on the selection samples, and {score:.2%} without"
    return Tuned(found, said) if better > score else Tuned(None, f"{said}, which stays")


def _within(
    graph: Graph, known: quantising.Calibration, some: Sequence[Any], made: Quantised, rows: tuple[LayerBits, ...],
    score: float, judge: Judge, correct: bool,
) -> tuple[Quantised, tuple[LayerBits, ...], float]:  # fmt: skip
    """The network with so many layers in floats that the score is not below the least one; `score` is what it has."""
    assert judge.score is not None
    noisy = sorted((row for row in rows if row.bits == 8), key=lambda row: _worst_first(row.own_db))
    why = {row.layer: row.why for row in rows if row.why}
    first, more = score, 1
    while score < judge.least and made.layers:
        reason = f"with it in 8 bits the selection scores {first:.2%}, below the {judge.least:.2%} that are allowed"
        floats = why | {row.layer: reason for row in noisy[:more]}
        made, rows = measured(graph, known, some, floats, correct=correct)
        score, more = judge.score(made.graph), 2 * more
    return made, rows, score


def _worst_first(db: float | None) -> float:
    return float("inf") if db is None else db


def _agreement(before: Graph, after: Graph, part: Split, task: str) -> str:
    """How far the answers are from those in float32, in words."""
    old, new, noise = compile(before), compile(after), Noise()
    same = count = 0
    classes = False
    for i in range(0, min(len(part), COMPARED), BATCH):
        x = part.inputs(i, min(i + BATCH, COMPARED))
        a, b = (np.asarray(run.run(x).outputs[0]) for run in (old, new))
        noise.add(a, b)
        same += int((a.reshape(len(x), -1).argmax(1) == b.reshape(len(x), -1).argmax(1)).sum())
        count += len(x)
        classes = a.ndim == 2 and a.shape[1] > 1 and task in ("classification", "unlabelled")
    told = f"the same class for {same} of {count} samples, " if classes else f"on {count} samples "
    return f"{told}signal to noise of the outputs {noise.db:.1f} dB, against the network in float32"
