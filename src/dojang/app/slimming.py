"""The main job: find the waste of a trained network, cut it, check and measure each cut, write the cheaper network."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import sqrt
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

from dojang.app.any_size import open_size
from dojang.app.code_pictures import NormaliseBy, normalised_by, settled
from dojang.app.diagnosing import SAMPLES, diagnosis_of, evidence_of, some_feed
from dojang.app.eight_bits import Judge, check_bits, check_samples, in_bits
from dojang.app.exporting import compare_answers, tolerance_of, write_checked
from dojang.app.feeding import fed
from dojang.app.networks import InputSize, is_module, load, names_code, require_weights, torch_format
from dojang.app.open_export import file_answers, module_answers, write_open
from dojang.app.own_files import OwnJob, Where, labelled, own_way, sample_size
from dojang.app.own_files import is_feed as _is_feed
from dojang.app.own_search import OwnRequest
from dojang.app.progress import ProgressDisplay, Silent
from dojang.app.record import record
from dojang.app.runtimes import RUNTIMES, has_onnxruntime, measurer, onnx_runner, predictor, version_of, whole_vectors
from dojang.app.samples import asked_of, load_inputs, load_samples
from dojang.app.together import Lead, Together, take_part, together
from dojang.app.training import Precision
from dojang.app.tuning import Control, Owned, TuningOptions, least_share, slopes, training, tuner
from dojang.arith import classes
from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.arith.outputs import output_numbers
from dojang.arith.preparation import stating, values_of
from dojang.base.errors import DataError, UsageError
from dojang.base.version import __version__
from dojang.base.writing import replace_text, writing_folder
from dojang.engine.compiled import Compiled
from dojang.engine.session import Session
from dojang.evidence.evidence import Evidence
from dojang.report.results import Diagnosis, Slimming
from dojang.slimming.budget import TimeBudget
from dojang.slimming.importance import read_values
from dojang.slimming.journal import FILE, Journal, key_of
from dojang.slimming.ledger import Evaluate
from dojang.slimming.result import SlimResult
from dojang.slimming.search import check_request
from dojang.slimming.search import slim as search
from dojang.training.asked import Asked, Layout, PerChannel, TaskFlag, Values
from dojang.training.data import Data, Split, content_hash
from dojang.training.guessing import guessing_accuracy, other_order
from dojang.training.record import METRICS

Runtime = Literal["dojang", "torch", "onnxruntime"]
Importance = Literal["activation", "weight", "batchnorm", "taylor"]

FILES = ("report.html", "model.onnx", "model.safetensors", "run.json")
"""What a slimming leaves in its folder."""

MODULE = "model.pt"
"""Where there is a module: its state dict, which `load_slim` puts into a fresh one of its class."""

FRONT = "front.svg"
"""Where candidates were measured: what each scored against its time, as a picture."""

UNFINISHED = "unfinished"
"""Folder within the output folder that keeps what an interrupted slimming has found out."""

EPOCHS = 10
"""Fine-tuning passes over the data after each cut, unless told otherwise."""

FINAL_ROUNDS = 31
"""Interleaved rounds of the final times; choices on the way are made with fewer."""

COMPARED = 1000
"""Test samples that the written ONNX file must answer as dojang does, at most."""

BATCH = 256
"""Samples run at once when a network is scored."""

TUNING_BITS = 0.15
"""Part of the time of a search that is kept for tuning in 8 bits, where they are asked for."""

SELECTION = 1000
"""Samples that choices are made on, where the data allow: of 1000, one point of accuracy is ten samples."""


def selection_share(samples: int) -> float:
    """Part of the train samples that is set apart for choices: `SELECTION` of them, but 10 % to 30 % of all."""
    return min(0.3, max(0.1, SELECTION / samples))


def allowed_drop(points: float, samples: int) -> float:
    """What may be lost on `samples` selection samples so that `points` are kept elsewhere: one standard error less.

    The standard error of a loss of p on n samples is √(p (1 − p) / n). Never below 0.

    >>> round(allowed_drop(1.0, 431), 2)
    0.52
    """
    p = min(max(points / 100, 0.0), 1.0)
    return max(0.0, points - 100 * sqrt(p * (1 - p) / samples))


@dataclass(frozen=True)
class SlimRequest:
    """What is asked of one slimming; see `slim`."""

    lossless: bool
    max_drop: float
    target_macs: float | None
    target_time: float | None
    target_ms: float | None
    epochs: int
    final_epochs: int
    train_samples: int | None
    runtime: str
    batch_size: int
    seed: int
    precision: str
    importance: str
    minutes: float | None = None
    bits: int | None = None


def slim(
    net: Any,
    data: Any = None,
    *,
    lossless: bool = False,
    max_drop: float | None = None,
    target_macs: float | None = None,
    target_time: float | None = None,
    target_ms: float | None = None,
    epochs: int = EPOCHS,
    final_epochs: int = 0,
    train_samples: int | None = None,
    runtime: Runtime = "dojang",
    batch_size: int = 1,
    seed: int = 0,
    device: str = "auto",
    precision: Precision = "float32",
    importance: Importance = "activation",
    output: str | Path | None = None,
    force: bool = False,
    resume: bool = False,
    weights: str | Path | None = None,
    input_size: InputSize | None = None,
    num_classes: int | None = None,
    val_data: str | Path | None = None,
    task: TaskFlag | None = None,
    values: Values | None = None,
    layout: Layout | None = None,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    progress: ProgressDisplay | None = None,
    tune: Callable[..., Any] | None = None,
    evaluate: Callable[[Any], Any] | None = None,
    keep: Sequence[str] = (),
    normalise: NormaliseBy | None = None,
    select: str | Path | None = None,
    minutes: float | None = None,
    bits: int | None = None,
    tuning: bool = True,
    control: bool = True,
) -> Slimming:
    """A cheaper network that answers the same (`lossless`), or loses at most `max_drop` percentage points.

    The train part of `data` is split again: one part tunes, the other (the selection) decides. The test part gives
    the final figures only. Every edit is timed on `runtime` with batches of `batch_size`, in interleaved rounds against
    the network before it; one that saves no time is refused. It goes as far as `max_drop` allows, or until the targets
    are met: fractions of the original multiplications and of its time, or milliseconds per batch. `train_samples`: use
    so many of the train part only, drawn by `seed`, for a first look.

    Each step makes up to a dozen candidates of several structures and prices. All are tuned for a little, with the
    original as teacher, the better ones for longer, the best one for `epochs` in all; what was found is tuned for
    `final_epochs` more, taught by the control, the original tuned as often and as long, where that is the better.
    `minutes`: the best network found in that time. How many candidates there are, how long they are tuned, and how long
    the last tuning is follow from it; `epochs` is then the unit of rungs, and `final_epochs`, where it is given, the
    most.

    `lossless` needs no labels, nor data at all: samples, if there are any, are for findings and for the certificate.

    `device`: where cut networks are fine-tuned ("auto", "cpu", "cuda", "cuda:1"); they are scored and timed on the CPU.
    `precision`: what fine-tuning computes in, "float32" or "bf16"; scores and times are those of float32.

    `importance`: how the channels of one layer are ranked: "activation" (what its readers lose), "weight", "batchnorm"
    (scales) or "taylor" (slopes of the loss).

    Under `torchrun` all processes tune and share the statistics for findings; process 0 alone searches, decides by its
    clock, and writes, so that no two can decide differently. All get the result.

    With `output`, a folder, writes `FILES` there. Until it is done, the folder `UNFINISHED` in it keeps every
    measurement and tuning; `resume` goes on from there, and ends as if nothing had interrupted it.

    A PyTorch module is fine-tuned in narrower copies of itself, with what it does in training mode, and the result has
    a `module` of the same class, where every edit allows it; a note says where a plain one was trained.

    **Somebody's own loop.** `tune(module)` or `tune(module, teacher)` trains a module in place, or returns it;
    `evaluate(module)` says how good it is on held-out data: a number (higher is better), (number, standard error), or
    one number per sample. With either of them `data` are samples as the module takes them (arrays, tensors, a tuple of
    them, a mapping, a data set, a DataLoader, any iterable of batches); labels in them are not looked at. Channels are
    cut by what moves the outputs least. What a cut loses is the difference to the control, the original tuned as often.
    Without both, and with samples that have no labels, the network is cut once to the target, repaired by least
    squares, and its batch norms are measured anew. `keep`: layers left alone, as patterns ("detect.*"). A target alone
    sets no limit to the loss; with `max_drop` the search keeps within it. `control=False`: with a target and without
    `max_drop` the control is not tuned, which saves a whole tuning of the original; the loss is then not known.

    `normalise`: how pictures are normalised for PyTorch code, which does not say it: "none" (0 … 1), "imagenet", "half"
    ((x − 0.5) / 0.5), "data" (mean and deviation of the train part); or `mean` and `std`. `select`: data that choices
    are made on, in place of a part of the train part, which the network may have been trained on.

    `bits=8`: what was found is put into whole numbers of 8 bits at last, calibrated on samples of the train part and
    judged on the selection; within `max_drop`, layers that lose too much keep their floats. `tuning=False`: only exact
    cuts and 8 bits, with nothing trained; the samples then need no labels, without which the answers are compared with
    those in float32. A result in 8 bits is no module.

    Raises what `load`, `load_samples` and `slimming.search.slim` raise; `MissingPart` where PyTorch or the runtime is
    not installed; `CheckFailed` when ONNX Runtime does not agree with the written file.

    >>> done = slim("digits-cnn", lossless=True)
    >>> done.before.params, done.edits
    (53002, ())
    """
    started = time.monotonic()
    told = progress or Silent()
    mean, std = normalised_by(normalise, mean, std)
    keep = (keep,) if isinstance(keep, str) else keep
    check_asked(tune, evaluate, runtime, batch_size, seed)
    if minutes is not None and not 0 < minutes < float("inf"):
        raise UsageError(f"minutes {minutes} must be a number above 0")
    target = not (target_macs is None and target_time is None and target_ms is None)
    by_hand = tune is not None or evaluate is not None
    check_bits(bits, lossless, tuning, runtime, data, by_hand or (tuning and _is_feed(net, data, target)))
    lossless = lossless or not tuning  # exact cuts alone, before the bits
    if not lossless and (by_hand or _is_feed(net, data, target)):
        request = OwnRequest(
            max_drop, target_macs, target_time, target_ms, tuple(keep), runtime, batch_size, seed, minutes, control
        )
        check_request(1.0 if max_drop is None else max_drop, target_macs, target_time, target_ms)
        if not control and request.allowed is not None:
            raise UsageError("what is lost is measured against the control; control=False needs a target, no max_drop")
        given = None if tune or evaluate else labelled(net, data)
        if given is None:
            where = Where(weights, input_size, num_classes, val_data)
            means = (task, values, layout, mean, std)
            return own_way(OwnJob(net, data, request, tune, evaluate, where, means, output, force, resume, told))
        data, values = given, "as-is"
        input_size = given[0].shape[1:] if input_size is None else input_size
        mean, std = (0.0, 1.0) if mean is None and std is None else (mean, std)
    if not control and not lossless:
        raise UsageError("control=False works with tune and evaluate; dojang's own loop always tunes the control")
    if keep:
        raise UsageError("keep works with tune, evaluate or samples without labels; here every layer may be cut")
    max_drop = 1.0 if max_drop is None else max_drop
    if epochs < 1:
        raise UsageError(f"epochs {epochs} must be at least 1")
    if final_epochs < 0:
        raise UsageError(f"final epochs {final_epochs} must be 0 (none) or more")
    check_request(max_drop, target_macs, target_time, target_ms)
    if not lossless:
        torch_format()  # fine-tuning needs it; better to say so now
        from dojang.training.numerics import require_precision
        from dojang.training.world import choose_device

        require_precision(precision, choose_device(device))
    input_size = sample_size(net, data, layout) if input_size is None else input_size
    if data is None and not lossless:
        raise UsageError("slimming with loss needs samples and labels to choose by; give --data, or --lossless")
    graph = require_weights(load(net, weights=weights, input_size=input_size, num_classes=num_classes), net).alone()
    means = asked_of(graph, task, values, layout, mean, std)
    read = (load_inputs if lossless else load_samples)(data, graph, val_data, means)
    means = settled(net, graph, read, means, normalise, lossless)
    samples = fed(graph, read, means)
    if bits is not None:
        check_samples(samples)
    held = None if select is None else held_out(select, graph, means)
    if train_samples is not None:
        samples = replace(samples, train=fewer(samples.train, train_samples, seed))
    open_file = not is_module(net) and not names_code(net) and open_size(net) is not None
    source = OpenSource(graph, lambda size: load(net, weights=weights, input_size=size)) if open_file else None
    targets = (target_macs, target_time, target_ms)
    tuned = (epochs, final_epochs, train_samples)
    asked = SlimRequest(lossless, max_drop, *targets, *tuned, runtime, batch_size, seed, precision, importance,
                        minutes, bits)  # fmt: skip
    if output is None and resume:
        raise UsageError("resume needs the output folder of the slimming that was interrupted")
    with together(device) as processes:
        lead = Lead(processes)
        options = TuningOptions(seed, device, precision, told, None, lead, None if lossless else owned(net, graph))

        def led() -> Slimming:
            if output is None:
                return in_torch(_work(graph, samples, held, asked, options, started, processes), net, graph)
            kept = Path(output) / UNFINISHED
            # The journal is there until every file has its place: what an interruption left half moved is replaced.
            # Without `resume` the journal says how to go on.
            unfinished = (kept / FILE).is_file()
            if resume and not unfinished and not force and all((Path(output) / name).is_file() for name in FILES):
                raise UsageError(
                    f"{output}: this slimming has ended, and all its files are in place; give --force to do it again"
                )
            with writing_folder(output, (*FILES, MODULE, FRONT), force or unfinished) as place:
                if force and not resume:
                    shutil.rmtree(kept, ignore_errors=True)
                about = {
                    **asdict(asked), "network": key_of("", [graph]), "data": samples.hash,
                    "normalised": asdict(samples.normalisation), "dojang": __version__,
                    "selection": None if held is None else content_hash((held,), ()),
                }  # fmt: skip
                journal = Journal(kept, about, resume)
                kept_options = replace(options, journal=journal)
                done = in_torch(_work(graph, samples, held, asked, kept_options, started, processes), net, graph)
                told.stage("writing and checking the files")
                settings = {"net": str(net), "data": samples.name, **asdict(asked), "weights": weights}
                done = write(done, samples, settings, place, Path(output), time.monotonic() - started, source)
            journal.remove()
            return done

        if not processes.rank:
            return lead.through(led, lambda done: replace(done, module=None))
        choice = chosen(samples, seed, held)
        found_out(graph, choice, asked, processes)
        done = take_part(processes, training(choice, replace(options, lead=None)))
    return in_torch(done, net, graph)


def check_asked(tune: Any, evaluate: Any, runtime: str, batch_size: int, seed: int) -> None:
    """Raises `UsageError`, before any work, for what is no function, no runtime or no number of samples."""
    for name, function in (("tune", tune), ("evaluate", evaluate)):
        if function is not None and not callable(function):
            raise UsageError(
                f"{name} is {type(function).__name__}, and has to be a function of a module: {name}=lambda module: ..."
            )
    if runtime not in RUNTIMES:
        raise UsageError(f"runtime {runtime!r} is not known; use {', '.join(RUNTIMES)}")
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size} must be at least 1")
    if not 0 <= seed < 1 << 63:
        raise UsageError(f"seed {seed} is no whole number from 0 to below 2^63")


def owned(net: Any, graph: Graph) -> Owned | None:
    """The module that a network was read from, where it is somebody's own."""
    if is_module(net):
        return Owned(net, graph)
    return Owned(torch_format().load_callable(net), graph) if names_code(net) else None


def in_torch(done: Slimming, net: Any, graph: Graph) -> Slimming:
    """The result with a module where `net` is one: the same class narrower where that can be, else a plain one."""
    if names_code(net):
        net = torch_format().load_callable(net)
    if not is_module(net) or done.graph.precisions:  # in 8 bits it is no module
        return done
    from dojang.formats.torch.write.narrow import narrowed

    module, why = narrowed(net, graph, done.graph)
    if module is not None:
        return replace(done, module=module)
    said = f"the module of the result is no {type(net).__name__} but a plain one: {why}"
    done = replace(done, module=torch_format().to_module(done.graph), about={"plain": type(net).__name__})
    if said in done.result.notes:  # by process 0
        return done
    return replace(done, result=replace(done.result, notes=(*done.result.notes, said)))


def held_out(select: Any, graph: Graph, asked: Asked) -> Split:
    """All samples of data that choices are to be made on."""
    found = fed(graph, load_samples(select, graph, None, asked), asked)
    parts = [part for part in (found.train, found.val, found.test) if part is not None and len(part)]
    x, y = (np.concatenate([np.asarray(getattr(part, name)) for part in parts]) for name in ("x", "y"))
    return Split(x, y, found.normalisation)


def chosen(data: Data, seed: int, held: Split | None = None) -> Data:
    """The train part split again: what tunes, and as its test part what choices are made on (`held`, if given)."""
    if held is not None:
        return replace(data, test=held)
    return data if data.task == "unlabelled" else data.selection(selection_share(len(data.train)), seed)


def found_out(
    graph: Graph, choice: Data, asked: SlimRequest, processes: Together, progress: ProgressDisplay | None = None
) -> tuple[Evidence, Diagnosis]:
    """What is known of the network on samples that tune, and the findings that follow from it.

    The search goes on with the same evidence: what cuts with loss go by is taken in the same pass over the samples.
    """
    known = evidence_of(graph, choice, SAMPLES, 0.0, asked.seed)
    more = () if asked.lossless else read_values(known)
    return known, diagnosis_of(known, choice, processes, more=more, correlate=False, progress=progress)


def believable(graph: Graph, part: Split, data: Data, max_drop: float, progress: ProgressDisplay) -> float | None:
    """How good the network is as it came, on the samples that choices are made on; said before anything else.

    Raises `DataError` where it answers no better than by always giving the same best answer (the most frequent class,
    of several classes to a sample for each of them, the mean of amounts), and where it would be far better if its
    outputs stood for the classes in another order, unless all accuracy may be lost.
    """
    task = data.task
    if task == "unlabelled" or not len(part):
        return None
    outputs = answers(graph, part)
    found = part.accuracy(outputs, output_numbers(graph))
    progress.stage(f"as it came the network scores {found:.2%} ({METRICS[task]}) on {len(part)} selection samples")
    share = guessing_accuracy(part)
    if task != "classification":
        if max_drop < 100 and len(part) >= FEW and found <= share:
            how = "R² is" if task == "regression" else "the part of labels that are right is"
            raise DataError(
                f"{graph.name}: {how} {found:.3g} on {len(part)} selection samples, and {share:.3g} by always giving "
                "the same answer: no cut can be judged by that. Look at how samples are normalised (--mean, --std, or "
                "--normalise), at the order of the labels, at their unit and at the weights; from Python, "
                "evaluate=FUNCTION judges by a measure of your own"
            )
        return found
    if max_drop < 100 and len(part) >= FEW and found < KNOWN:
        better, order = other_order(outputs.argmax(axis=1), part)
        wrong = next((label for label, output in order.items() if output != label), None)
        if wrong is not None and better > max(2 * found, share, KNOWN):
            raise DataError(
                f"{graph.name} answers {found:.1%} of {len(part)} selection samples right, and would answer "
                f"{better:.1%} if its outputs stood for the classes in another order: output {order[wrong]} is largest "
                f"for many samples of {data.classes[wrong]!r}, which is class {wrong} here. Classes are in the order "
                "of their names, or as the data state them; rename the folders so that they sort as the network was "
                "trained (00_cat, 01_dog)"
            )
    if max_drop < 100 and len(part) >= FEW and found <= share + sqrt(share * (1 - share) / len(part)):
        raise DataError(
            f"{graph.name} answers {found:.1%} of {len(part)} selection samples right, and always naming the most "
            f"frequent class {share:.1%}: no cut can be judged by that. Look at how samples are normalised (--mean and "
            "--std, or --normalise), at the order of the classes and at the weights"
        )
    return found


KNOWN = 0.5
"""A network that names at least so many samples right, in some order of its classes, knows them."""
FEW = 50
"""Of fewer samples nothing is concluded about a network that answers most of them wrong."""


def _work(
    graph: Graph,
    data: Data,
    held: Split | None,
    asked: SlimRequest,
    options: TuningOptions,
    started: float,
    processes: Together,
) -> Slimming:
    """Everything but the files."""
    progress, journal = options.progress, options.journal
    lossless, max_drop, runtime, seed = asked.lossless, asked.max_drop, asked.runtime, asked.seed
    batch_size = asked.batch_size
    choice = chosen(data, seed, held)
    as_came = None if lossless and not asked.bits else believable(graph, choice.test, data, max_drop, progress)
    progress.stage("looking for waste")
    known, diagnosis = found_out(graph, choice, asked, processes, progress)
    for broken in diagnosis.at_least("error"):
        if broken.kind == "not-finite":
            raise DataError(broken.evidence)
    x = some_feed(graph, data, batch_size, seed)
    # the standard error of a count of right answers; for R² there is no such simple one, and none is taken off
    allowed = allowed_drop(max_drop, len(choice.test)) if data.task == "classification" else max_drop

    def evaluate(network: Graph) -> float:
        return accuracy(network, choice.test)

    beside = None if lossless else control(graph, choice, asked, options)
    budget = None
    if asked.minutes is not None and not lossless:

        def clock() -> float:
            return time.monotonic() - started

        seconds = 60 * asked.minutes * (1 - TUNING_BITS if asked.bits else 1)
        budget = TimeBudget(seconds, clock if journal is None else journal.clocked(clock))
    result = search(
        known,
        measure=measurer(runtime, x),
        predict=predictor(runtime, batch_size),
        tune_part=None if beside is None else beside.tune,
        least_part=least_share(choice, asked.epochs),
        last_share=asked.final_epochs / asked.epochs or None,
        budget=budget,
        evaluate=None if lossless else evaluate,
        finish=None if beside is None else beside.finish(evaluate),
        control=None if beside is None else beside.tuned,
        fits=None if options.owned is None else options.owned.fits,
        importance=asked.importance,
        gradients=slopes(choice, seed) if asked.importance == "taylor" and not lossless else None,
        findings=diagnosis.findings,
        max_drop=allowed,
        target_macs=asked.target_macs,
        target_time=asked.target_time,
        target_ms=asked.target_ms,
        journal=journal,
        lossless=lossless,
        progress=lambda what, step, of: progress.stage(what),
        multiple=whole_vectors(),
    )
    if beside is not None:
        result = with_control(result, beside, lambda network: accuracy(network, data.test))
    if asked.bits:
        result = in_bits(
            result, choice, seed, _judge(graph, choice, allowed, beside, result, evaluate, asked, x, budget), progress
        )
    result = measured_by(result, METRICS[data.task])
    progress.stage("final figures")
    result = replace(result, graph=named(result.graph, graph, data))
    test = data.test if data.task != "unlabelled" else None
    result = final_figures(graph, result, test, measurer(runtime, x, FINAL_ROUNDS))
    notes = (
        () if lossless and not asked.bits else drop_notes(result, max_drop, allowed, len(choice.test), len(data.test))
    )
    if as_came is not None and held is None:
        notes = (*notes, *selection_note(as_came, result.before.accuracy, len(choice.test), len(data.test), data.task))
    as_plain = () if options.owned is None else options.owned.notes
    result = replace(result, notes=(*data.notes, *notes, *as_plain, *result.notes))
    return Slimming(
        graph.name,
        result,
        diagnosis,
        (count(graph), count(result.graph)),
        data.to_dict(),
        METRICS[data.task],
        runtime,
        version_of(runtime),
        batch_size,
        FINAL_ROUNDS,
        time.monotonic() - started,
    )


def _judge(
    graph: Graph, choice: Data, allowed: float, beside: Control | None, result: SlimResult, evaluate: Evaluate,
    asked: SlimRequest, x: Any, budget: TimeBudget | None,
) -> Judge:  # fmt: skip
    """How 8 bits are judged: against the control, or against the original where nothing was tuned; and what tunes them,
    for as long as the result was tuned after an edit, or as there is time for.
    """
    measure = measurer(asked.runtime, x)
    if choice.task == "unlabelled" or not len(choice.test):
        return Judge(None, None, 0.0, measure)
    found = None if beside is None else beside.figures(result.schedule, evaluate)
    base = None if found is None else found["accuracy"]
    base = evaluate(graph) if base is None else base
    tune, untuned, share = None, "", 1.0
    if beside is not None:
        if budget is not None:
            assert asked.minutes is not None
            share = replace(budget, seconds=60 * asked.minutes).last(1.0)
            untuned = "" if share else "there was no time left to tune it in 8 bits"
        trained = beside.tune

        def tune_bits(network: Graph, teacher: Graph) -> Graph:
            return trained(network, teacher, share)

        tune = tune_bits if share else None
    return Judge(evaluate, evaluate(result.graph), base - allowed / 100, measure, tune, untuned)


def control(graph: Graph, choice: Data, asked: SlimRequest, options: TuningOptions) -> Control:
    """The control of one slimming, whose trainings are journalled in turn with those of the search."""
    tune = tuner(choice, asked.epochs, options)
    if options.journal is not None:
        tune = options.journal.tuned_in_parts(tune)
    return Control(graph, tune, asked.epochs, asked.final_epochs, options.progress)


def with_control(result: SlimResult, beside: Control, score: Evaluate) -> SlimResult:
    """The result with what the control came to, and how the last tuning was done."""
    result = replace(result, control=beside.figures(result.schedule, score))
    if result.finish is None:
        return result
    epochs = beside.epochs_of((result.finish["share"],))
    return replace(result, finish={**result.finish, "epochs": epochs, "teacher": beside.teacher})


def measured_by(result: SlimResult, metric: str) -> SlimResult:
    """The result whose checks say what they measured, where that is no accuracy."""
    if metric == "accuracy":
        return result
    edits = tuple(replace(e, check={**e.check, "metric": metric}) if "accuracy_after" in e.check else e
                  for e in result.edits)  # fmt: skip
    finish = None if result.finish is None else {**result.finish, "metric": metric}
    return replace(result, edits=edits, finish=finish)


def drop_notes(result: SlimResult, max_drop: float, allowed: float, chosen_on: int, tested_on: int) -> tuple[str, ...]:
    """How the allowed drop was kept: what choices were judged on, and whether the test part confirms it."""
    said: tuple[str, ...] = ()
    if allowed < max_drop:
        said = (
            f"of the {max_drop:.2f} points that may be lost, choices allowed {allowed:.2f} on {chosen_on} selection "
            "samples: one standard error less",
        )
    before, after = result.before.accuracy, result.after.accuracy
    if result.control is not None and result.control["accuracy"] is not None:
        before = result.control["accuracy"]
    if before is None or after is None or 100 * (before - after) <= max_drop + 1e-9:
        return said
    lost = (
        f"on the {tested_on} test samples {100 * (before - after):.2f} points were lost against the original tuned as "
        f"long, more than the {max_drop:.2f} "
    )
    return (*said, f"{lost}allowed: the selection did not show it; ask for a smaller drop, or give more data")


def selection_note(chosen_on: float, tested: float | None, n: int, m: int, task: str) -> tuple[str, ...]:
    """Whether the samples that choices are made on may have been trained on, for whom it concerns."""
    if tested is None or task != "classification" or not n or not m:
        return ()
    apart, error = chosen_on - tested, sqrt(sum(p * (1 - p) / k for p, k in ((chosen_on, n), (tested, m))))
    if apart <= 3 * error:
        return ()
    return (
        f"the original answers {chosen_on:.1%} of the {n} selection samples right and {tested:.1%} of the {m} test "
        "samples: it has probably been trained on the selection. Cuts were judged against the original tuned as long, "
        "which sees the same; --select DATA names samples that it has not seen",
    )


def fewer(part: Split, most: int, seed: int) -> Split:
    """At most so many samples of a part, drawn by seed, in their order."""
    if most < 1:
        raise UsageError(f"train samples {most} must be at least 1")
    if most >= len(part):
        return part
    return part.take(np.sort(np.random.default_rng(seed).permutation(len(part))[:most]))


WORTH_COMPILING = 5e9
"""Multiplications from which on compiling (some 0.1 s per layer) pays against NumPy's matrix products."""


def scorer(graph: Graph, samples: int) -> Callable[[np.ndarray], np.ndarray]:
    """The network ready to be scored on so many samples: compiled where that pays."""
    return Compiled(graph) if count(graph).total.macs * samples > WORTH_COMPILING else Session(graph)


def accuracy(graph: Graph, part: Split) -> float:
    """What the network scores on a part, see `Split.accuracy`."""
    return part.accuracy(answers(graph, part), output_numbers(graph))


def answers(graph: Graph, part: Split) -> np.ndarray:
    """What the network gives for each sample of a part, (n, numbers)."""
    run = scorer(graph, len(part))
    return np.concatenate([
        run(part.inputs(i, i + BATCH)).reshape(min(BATCH, len(part) - i), -1) for i in range(0, len(part), BATCH)
    ])  # fmt: skip


def final_figures(
    graph: Graph, result: SlimResult, test: Split | None, measure: Callable[[Sequence[Graph]], list[list[float]]]
) -> SlimResult:
    """The result with test accuracy (None without labels), times in the same rounds, and sizes of the ONNX files."""
    from dojang.formats import onnx

    first, second = (median(times) for times in measure([graph, result.graph]))
    sides = []
    for side, network, milliseconds in ((result.before, graph, first), (result.after, result.graph, second)):
        score = None if test is None else accuracy(network, test)
        size = len(onnx.to_bytes(network))
        sides.append(replace(side, accuracy=score, median_ms=milliseconds, size_bytes=size))
    return result.with_figures(sides[0], sides[1])


def named(graph: Graph, before: Graph, data: Data) -> Graph:
    """The cheaper network with what it must say to be used: how its input is normalised, its classes."""
    if data.task != "unlabelled":
        own = data.normalisation
        graph = stating(graph, own.mean, own.std, pixels=data.train.x.dtype == np.uint8)
    known = values_of(graph) | ({"classes": classes.as_text(data.classes)} if data.classes else {})
    return graph.replace(meta={**before.meta, **known, "slimmed": f"from {before.name} on {data.name}"})


@dataclass(frozen=True)
class OpenSource:
    """A file that takes pictures of any size: the network at the size that was asked for, and at others."""

    graph: Graph
    at: Callable[[tuple[int, ...]], Graph]


def write(
    done: Slimming, data: Data, settings: dict[str, Any], place: Path, target: Path, seconds: float,
    source: OpenSource | None = None,
) -> Slimming:  # fmt: skip
    """Writes the four files into `place`, which becomes `target`, and checks the networks in them."""
    from dojang.report.front_chart import front_chart, standing_alone
    from dojang.report.html_slim import slim_html
    from dojang.report.json import dumps

    write_checked(done.graph, "safetensors", place / "model.safetensors")
    file = place / "model.onnx"
    opened = None
    if done.module is not None:
        opened = write_open(module_answers(done.module), done.graph, file)
    elif source is not None:
        opened = write_open(file_answers(source.at), source.graph, file, done.graph)
        note = "the file that was read takes pictures of any size, what was written only those of the size given"
        done = done if opened else replace(done, result=replace(done.result, notes=(*done.result.notes, note)))
    said = opened or write_checked(done.graph, "onnx", place / "model.onnx")
    if has_onnxruntime():
        import onnxruntime

        x = data.test.inputs(0, COMPARED) if len(data.test) else some_feed(done.graph, data, SAMPLES, 0)
        theirs = onnx_runner(onnxruntime, str(place / "model.onnx"))(x)
        ours = Compiled(done.graph)(x)
        said = compare_answers(ours, theirs, tolerance_of(done.graph))
        if data.task == "classification" and isinstance(x, np.ndarray):
            same = int((ours.reshape(len(x), -1).argmax(1) == theirs.reshape(len(x), -1).argmax(1)).sum())
            said += f", and the same class for {same} of {len(x)} test samples"
    done = replace(done, same_answers=said, files=tuple(str(target / name) for name in FILES), seconds=seconds)
    if done.module is not None:
        done.save(place / MODULE)
        done = replace(done, files=(*done.files, str(target / MODULE)))
    drawn = front_chart(done.result)
    if drawn:
        replace_text(place / FRONT, standing_alone(drawn))
        done = replace(done, files=(*done.files, str(target / FRONT)))
    replace_text(place / "report.html", slim_html(done))
    facts = record("slim", settings, data.hash, done.to_dict())
    replace_text(place / "run.json", dumps(facts))
    return done
