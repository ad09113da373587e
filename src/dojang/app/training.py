"""Training and fine-tuning: network and data in, a checkpoint and the record of the run out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dojang.app.beginning import Beginning, Wanted, beginning
from dojang.app.exporting import write_checked
from dojang.app.networks import InputSize, torch_format
from dojang.app.record import record
from dojang.app.together import together
from dojang.arith import classes
from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.arith.preparation import stating
from dojang.base.errors import UsageError
from dojang.base.writing import naming, replace_text, writing
from dojang.report.html import trained_html
from dojang.report.json import dumps
from dojang.report.results import Trained
from dojang.training.asked import Layout, PerChannel, TaskFlag, Values
from dojang.training.config import Mode, Optimiser, TrainConfig
from dojang.training.data import Augment, Data
from dojang.training.guessing import guessing_accuracy
from dojang.training.log import EVENTS, LOG_FILE, TensorBoard
from dojang.training.record import Progress, Start
from dojang.training.understood import paragraph, varied, weights_of

Precision = Literal["float32", "bf16"]

FILES = ("model.safetensors", "run.json", "report.html", LOG_FILE)
"""What a training leaves in its folder, beside the state that `--resume` takes up."""

BEST = "best.safetensors"
"""The network of the best epoch by the selection part, beside the last one, where one was chosen."""


def train(
    net: Any,
    data: Any,
    *,
    epochs: int = 30,
    batch_size: int = 128,
    lr: float | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: Precision = "float32",
    label_smoothing: float = 0.0,
    resume: bool = False,
    output: str | Path | None = None,
    force: bool = False,
    weights: str | Path | None = None,
    input_size: InputSize | None = None,
    num_classes: int | None = None,
    val_data: str | Path | None = None,
    task: TaskFlag | None = None,
    values: Values | None = None,
    layout: Layout | None = None,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    augment: str | Augment | None = None,
    mirror: bool = True,
    class_weights: str | Sequence[float] | None = None,
    tensorboard: TensorBoard = "auto",
    mode: Mode = "auto",
    optimiser: Optimiser = "auto",
    freeze: Sequence[str] | str | None = None,
    select: float | None = None,
    patience: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    told: Callable[[str], None] | None = None,
) -> Trained:
    """Trains a network on the train part of `data` and records the accuracy on both parts.

    The result has the trained network (`graph`), the record of the run (`history`) and the files that were written.
    `data` is "digits", a folder or .zip of class folders, an .npz or .zarr with x and y, IDX files, CIFAR files, or
    arrays (x, y); without a test part of its own one is split off. `val_data` names the test part. `lr` is the peak
    learning rate (by default one that suits the network and the batch); `device` is "auto", "cpu", "cuda" or "cuda:1".
    What the data mean is told by rules; `task`, `values` and `layout` say what these cannot tell. `augment` is "none",
    or "crop=4,mirror" and the like; `mirror=False` mirrors nothing. `class_weights` is "balanced" (each class weighs
    the same in the loss), or one number per class. `told` is called once, before the first step, with a paragraph that
    says how all this was understood.
    `progress` is called after each step with a `training.Progress`. A network given as text (a zoo name or .net file)
    starts with fresh weights drawn by `seed`, any other with the weights it has; `weights` (a file) makes it a
    fine-tuning in either case. `output` is a folder (default out/NAME-trained) that gets the checkpoint, run.json,
    report.html, log.csv (a row per epoch) and the state that `resume` takes up. `tensorboard` "on" also writes events
    for TensorBoard, "auto" does so where the package is installed. `precision` "bf16" multiplies in bfloat16; what is
    kept and recorded is float32, and scored as that. A `torch.nn.Module` is itself trained, with what it does in
    training mode, its frozen parameters and its hooks, and is left trained in evaluation mode.

    In a fine-tuning the learning rate is a small share of the one from scratch, the accuracy before the first step is
    in the record, and a share of the train part (`select`, by default a tenth of at most 500 samples, a fortieth of at
    least 2,000) is set aside to choose the best epoch by, which is written to best.safetensors beside the last one;
    `patience` ends the run after so many epochs without a better one. Data of other classes than the network's get a
    new last layer. `mode` says whether it is a fine-tuning ("auto": with trained weights), `freeze` names layers that
    stay as they are, by patterns such as "conv*".

    Raises what `load` raises, `DataError` for data that cannot be used, `UsageError` for numbers that make no sense
    and files that exist, `CheckFailed` when the loss is no longer finite, `MissingPart` without PyTorch.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     trained = train("digits-cnn", "digits", epochs=1, output=folder)
    >>> len(trained.history["curve"]), len(trained.graph.weights)
    (1, 8)
    """
    torch_format()
    from dojang.training.loop import fit
    from dojang.training.start import fitting_threads

    config = TrainConfig(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        precision=precision,
        device=device,
        label_smoothing=label_smoothing,
        optimiser=optimiser,
        freeze=(freeze,) if isinstance(freeze, str) else tuple(freeze or ()),
        select=select,
        patience=patience,
    )
    begun = beginning(
        Wanted(net, data, val_data, weights, input_size, num_classes, task, values, layout, mean, std, seed)
    )
    samples = varied(begun.samples, augment, mirror)
    graph, fresh, module = begun.graph, begun.fresh, begun.module
    config = replace(
        config,
        mode=begun.mode if mode == "auto" else mode,
        augment=None if augment is None and mirror else samples.augment,
        class_weights=weights_of(class_weights, samples),
    )
    folder = Path(output) if output is not None else Path("out") / f"{graph.name}-trained"
    _may_write(folder, force or resume)
    understood = list[str]()

    def started(start: Start) -> None:
        understood.append(
            paragraph(
                graph, samples, replace(config, augment=start.augment), " ".join(sentences_of(begun, start, samples))
            )
        )
        if told is not None:
            told(understood[-1])

    made = [place for place in (folder, *folder.parents) if not place.exists()]
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with together(device) as processes, fitting_threads(count(graph).total.macs * batch_size):
            history = fit(
                module,
                samples,
                config,
                directory=folder,
                resume=resume,
                overwrite=force,
                progress=progress,
                tensorboard=tensorboard,
                started=started,
                anew=begun.anew,
                about=begun.about(),
                replaces=[folder / name for name in (*FILES, BEST)],
            )
    except BaseException:
        with suppress(OSError):  # a folder that holds something stays
            for place in made:
                place.rmdir()
        raise
    trained = described(begun.read(), samples, config)
    chosen = history.best_weights is not None and history.best is not None
    events = (EVENTS,) if tensorboard != "off" and (folder / EVENTS).is_dir() else ()
    files = tuple(str(folder / name) for name in (*FILES, *((BEST,) if chosen else ()), *events))
    constant = guessing_accuracy(samples.test) if samples.task == "multilabel" else None
    result = Trained(graph.name, history.to_dict(), files, fresh, trained, "".join(understood), constant)
    if processes.rank:
        return result
    with writing(folder / FILES[0], force=True) as temporary:
        write_checked(trained, "safetensors", temporary)
    if chosen:
        best = described(begun.read(history.best_weights), samples, config)
        with writing(folder / BEST, force=True) as temporary:
            write_checked(best, "safetensors", temporary)
    configuration = {"net": str(net), "data": samples.name, "weights": weights, **config.to_dict()}
    replace_text(folder / FILES[1], dumps(record("train", configuration, samples.hash, result.to_dict())))
    replace_text(folder / FILES[2], trained_html(result))
    return result


def sentences_of(begun: Beginning, start: Start, samples: Data) -> tuple[str, ...]:
    """The sentences about rate, start and frozen layers for the paragraph before the first step."""
    return (*begun.remarks, *start.sentences("r2" if samples.task == "regression" else "accuracy"))


def described(graph: Graph, data: Data, config: TrainConfig) -> Graph:
    """The trained network with what it must say to be used: normalisation of its input, classes, how it was trained."""
    how = data.normalisation
    if not graph.inputs[0].attrs["mean"]:
        graph = stating(graph, how.mean, how.std, pixels=data.train.x.dtype == np.uint8)
    if data.task != "classification":
        graph = graph.replace(meta={**graph.meta, "task": data.task})
    said = f"{data.name}, {config.epochs} epochs, batch {config.batch_size}, seed {config.seed}"
    meta = {**graph.meta, "trained": said}
    return graph.replace(meta=meta | ({"classes": classes.as_text(data.classes)} if data.classes else {}))


def _may_write(folder: Path, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; -o names a folder")
    taken = [name for name in FILES if (folder / name).exists()]
    if taken and not force:
        raise UsageError(
            f"{folder / taken[0]}: exists already; give --force to start anew, --resume to go on, or another folder"
        )
