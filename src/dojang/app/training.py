"""Training and fine-tuning: network and data in, a checkpoint and the record of the run out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dojang.app.exporting import write_checked
from dojang.app.networks import InputSize, load, torch_format
from dojang.app.record import record
from dojang.app.samples import asked_of, load_samples, match_classes
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
from dojang.training.asked import Layout, TaskFlag, Values
from dojang.training.config import TrainConfig
from dojang.training.data import Augment, Data
from dojang.training.log import EVENTS, LOG_FILE, TensorBoard
from dojang.training.record import Progress
from dojang.training.understood import paragraph, varied, weights_of

Precision = Literal["float32", "bf16"]

FILES = ("model.safetensors", "run.json", "report.html", LOG_FILE)
"""What a training leaves in its folder, beside the state that `--resume` takes up."""


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
    augment: str | Augment | None = None,
    mirror: bool = True,
    class_weights: str | Sequence[float] | None = None,
    tensorboard: TensorBoard = "auto",
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
    kept and recorded is float32, and scored as that.

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
    from dojang.training.recipe import said_of_training
    from dojang.training.start import fitting_threads, module_of

    config = TrainConfig(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        precision=precision,
        device=device,
        label_smoothing=label_smoothing,
    )
    fresh = weights is None and starts_fresh(net)
    graph = load(net, weights=weights, input_size=input_size, num_classes=num_classes, arrays=not fresh)
    graph = graph.replace(weights={}) if fresh else graph
    samples = load_samples(data, graph, val_data, asked_of(graph, task, values, layout))
    samples = varied(match_classes(graph, samples), augment, mirror)
    config = replace(config, augment=samples.augment, class_weights=weights_of(class_weights, samples))
    folder = Path(output) if output is not None else Path("out") / f"{graph.name}-trained"
    _may_write(folder, force or resume)
    module = module_of(graph, seed)
    understood = paragraph(graph, samples, config, said_of_training(module, config))
    if told is not None:
        told(understood)
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with together(device) as processes, fitting_threads(count(graph).total.macs * batch_size):
            history = fit(module, samples, config, directory=folder, resume=resume, overwrite=force, progress=progress,
                          tensorboard=tensorboard)  # fmt: skip
    except BaseException:
        with suppress(OSError):  # a folder that holds something stays
            for place in made:
                place.rmdir()
        raise
    trained = described(torch_format().weights_of(module, graph), samples, config)
    events = (EVENTS,) if tensorboard != "off" and (folder / EVENTS).is_dir() else ()
    files = tuple(str(folder / name) for name in (*FILES, *events))
    result = Trained(graph.name, history.to_dict(), files, fresh, trained, understood)
    if processes.rank:
        return result
    with writing(folder / FILES[0], force=True) as temporary:
        write_checked(trained, "safetensors", temporary)
    configuration = {"net": str(net), "data": samples.name, "weights": weights, **config.to_dict()}
    replace_text(folder / FILES[1], dumps(record("train", configuration, samples.hash, result.to_dict())))
    replace_text(folder / FILES[2], trained_html(result))
    return result


def starts_fresh(net: Any) -> bool:
    """Whether the network is text, which names layers but no weights of its own: a zoo name or a .net file."""
    if isinstance(net, Graph):
        return not net.weights
    return (
        isinstance(net, (str, Path))
        and Path(net).suffix.lower() not in (".onnx", ".safetensors")
        and ":" not in str(net)
    )


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
