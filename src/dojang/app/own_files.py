"""Slimming by somebody's own loop from the arguments of `slim` to its files; how pictures enter PyTorch code."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from dojang.app.code_pictures import how_to_normalise
from dojang.app.networks import InputSize, is_module, load, names_code, torch_format
from dojang.app.own import slim_own
from dojang.app.own_loop import ABOUT, OwnLoop
from dojang.app.own_search import OwnRequest
from dojang.app.progress import ProgressDisplay
from dojang.app.record import record
from dojang.app.samples import asked_of, load_inputs
from dojang.app.side_by_side import SideBySide, opened
from dojang.app.together import Lead, take_part, together
from dojang.base.errors import DojangError, UsageError
from dojang.base.writing import replace_text, writing_folder
from dojang.report.results import Slimming
from dojang.slimming.journal import Journal
from dojang.training.data import Data
from dojang.training.sources import npz_samples

OWN_FILES = ("report.html", "model.pt", "model.onnx", "model.safetensors", "run.json", "front.svg")
"""What slimming a module leaves in its folder; the ONNX file only where dojang knows every operator."""

UNFINISHED = "unfinished"


@dataclass(frozen=True)
class Where:
    """Arguments of `load`, and the test part of data that are read from files."""

    weights: str | Path | None = None
    input_size: InputSize | None = None
    num_classes: int | None = None
    val_data: str | Path | None = None


def is_feed(net: Any, data: Any, target: bool) -> bool:
    """Whether data are samples as a module takes them, or have no labels, and not labelled data that dojang reads.

    `target`: whether it is said how far to cut, without which samples in files must have labels to choose by.
    """
    if data is None or isinstance(data, Data):
        return False
    if isinstance(data, (str, Path)):
        path = Path(data)
        return target and (
            path.suffix == ".npy" or (path.suffix == ".npz" and path.is_file() and npz_samples(path) is not None)
        )
    if not (isinstance(data, tuple) and len(data) == 2 and all(_array_like(part) for part in data)):
        return True
    return is_module(net) and (np.ndim(data[1]) > 2 or takes(net) > 1)


def takes(module: Any) -> int:
    """How many arguments a module's forward needs."""
    from inspect import signature

    try:
        found = signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return 1
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in found)


def _array_like(value: Any) -> bool:
    return isinstance(value, (np.ndarray, list)) or type(value).__module__.partition(".")[0] == "torch"


def in_numpy(data: Any) -> Any:
    """Tensors of PyTorch as arrays, also in a tuple; everything else as it is."""
    if isinstance(data, tuple):
        return tuple(in_numpy(part) for part in data)
    return data.detach().cpu().numpy() if type(data).__module__ == "torch" and hasattr(data, "detach") else data


def sample_size(net: Any, data: Any, layout: Any = None) -> tuple[int, ...] | None:
    """The size of a sample of x or (x, y) where x holds real numbers as somebody's module takes them; None else."""
    if not (is_module(net) or names_code(net)) or layout is not None:
        return None
    given = data[0] if isinstance(data, tuple) and len(data) == 2 else data
    if not _array_like(given):
        return None
    x = np.asarray(given) if isinstance(given, list) else given
    shape = tuple(np.shape(x))
    return shape[1:] if "float" in str(getattr(x, "dtype", "")) and len(shape) > 1 else None


LABELLED, LABELLED_BYTES = 60_000, 1 << 31
"""Labelled samples of a loader that are kept in memory for dojang's own loop, and their bytes, at most."""


def labelled(net: Any, data: Any, most: int = LABELLED) -> tuple[np.ndarray, np.ndarray] | None:
    """Samples and labels as arrays, where each batch is one tensor of samples and one row of labels for each.

    None for everything else: samples without labels, several inputs, labels for each pixel.
    """
    if not is_module(net) or isinstance(data, np.ndarray) or hasattr(data, "dim") or hasattr(data, "__next__"):
        return None  # what can be read but once is not read for its labels
    from dojang.training.feeding import feed
    from dojang.training.modes import evaluating

    try:
        with evaluating(net):
            fed = feed(data, net, most, most_bytes=LABELLED_BYTES)
    except DojangError:
        return None  # whoever asks next says it
    if fed.rest is None:
        return None
    x, y = list[Any](), list[Any]()
    for (args, named), rest in zip(fed.batches, fed.rest, strict=True):
        if len(args) != 1 or named or not hasattr(args[0], "dim") or not hasattr(rest, "dim"):
            return None
        x.append(args[0].detach().cpu().numpy())
        y.append(rest.detach().cpu().numpy())
    if y[0].ndim not in (1, 2) or len({part.shape[1:] for part in (*x,)}) > 1 or len(x[0]) != len(y[0]):
        return None
    return np.concatenate(x), np.concatenate(y)


@dataclass(frozen=True)
class OwnJob:
    """One slimming by the owner's loop: what is slimmed, on which data, by which functions, and where files go.

    `means`: how samples from files are read and normalised, in the order of `asked_of`.
    """

    net: Any
    data: Any
    asked: OwnRequest
    tune: Callable[..., Any] | None
    evaluate: Callable[[Any], Any] | None
    where: Where
    means: tuple[Any, ...]
    output: str | Path | None
    force: bool
    resume: bool
    told: ProgressDisplay


def own_way(job: OwnJob) -> Slimming:
    """Slimming by the owner's loop, or at once, with its files where a folder is named.

    Under `torchrun` process 0 searches and writes, and all tune; the others get the result without its module.
    """
    if job.output is None and job.resume:
        raise UsageError("resume needs the output folder of the slimming that was interrupted")
    module = _module(job.net, job.where)
    by_owner = opened()
    with together() as processes:
        if processes.size == 1:
            return _led(job, module)
        beside, lead = SideBySide(processes, by_owner), Lead(processes)
        if not processes.rank:
            return lead.through(lambda: _led(job, module, lead, beside), lambda done: replace(done, module=None))
        with TemporaryDirectory() as nothing:
            loop = OwnLoop(module, job.tune, job.evaluate, Journal(nothing, ABOUT))
            return take_part(processes, beside.work(loop.tune_once))


def _led(job: OwnJob, module: Any, lead: Lead | None = None, beside: SideBySide | None = None) -> Slimming:
    """What process 0 does, or the only one."""
    samples, notes = _samples(module, job.data, job.where, job.means)

    def slimmed(folder: Path | None) -> Slimming:
        return slim_own(module, samples, job.asked, job.tune, job.evaluate, folder, job.told, notes, lead, beside)

    if job.output is None:
        return slimmed(None)
    kept = Path(job.output) / UNFINISHED
    unfinished = kept.is_dir()
    if unfinished and not job.resume and not job.force:
        raise UsageError(f"{kept}: holds an unfinished slimming; go on with resume, or begin anew with force")
    with writing_folder(job.output, OWN_FILES, job.force or unfinished) as place:
        if job.force and not job.resume:
            shutil.rmtree(kept, ignore_errors=True)
        done = slimmed(kept)
        job.told.stage("writing and checking the files")
        done = write_own(done, {"net": _name(job.net), **asdict(job.asked)}, place, Path(job.output))
    shutil.rmtree(kept, ignore_errors=True)
    return done


def _module(net: Any, where: Where) -> Any:
    """The module that is meant: given or made by code, with weights from a file; or a network of dojang."""
    if is_module(net) or names_code(net):
        from dojang.formats.torch.write.saved import read_weights

        module = torch_format().load_callable(net) if names_code(net) else net
        return module if where.weights is None else read_weights(module, where.weights)
    return load(net, weights=where.weights, input_size=where.input_size, num_classes=where.num_classes)


def _samples(module: Any, data: Any, where: Where, means: tuple[Any, ...]) -> tuple[Any, tuple[str, ...]]:
    """Samples as the module takes them. What dojang reads itself is normalised as asked."""
    if data is None:
        raise UsageError(
            "slimming with loss needs samples to go by; give an array, a DataLoader or any iterable of batches"
        )
    mean, std = means[3:]
    if isinstance(data, np.ndarray) and data.dtype == np.uint8 and mean is None and std is None:
        raise UsageError(
            "samples are whole bytes, and the module does not say how it takes them; give floats as it takes them, or "
            "mean and std, or normalise (none, imagenet, half)"
        )
    read_here = isinstance(data, (str, Path, Data))
    if not read_here and not (isinstance(data, np.ndarray) and (mean is not None or std is not None)):
        return data, ()
    graph = load(module, input_size=where.input_size)
    asked = asked_of(graph, *means)
    found = load_inputs(data, graph, where.val_data, asked)
    code = is_module(module) and mean is None and std is None
    if code and not graph.inputs[0].attrs["mean"] and found.train.x.dtype == np.uint8:
        raise UsageError(how_to_normalise(found.name))
    from dojang.app.feeding import fed

    found = fed(graph, found, asked)
    return found.train.inputs(), found.notes


def _name(net: Any) -> str:
    return net if isinstance(net, str) else type(net).__name__


def write_own(done: Slimming, settings: Mapping[str, Any], place: Path, target: Path) -> Slimming:
    """Writes the files into `place`, which becomes `target`."""
    from dojang.app.exporting import write_checked
    from dojang.app.open_export import module_answers, write_open
    from dojang.formats.torch.write.saved import save_slim
    from dojang.report.front_chart import front_chart, standing_alone
    from dojang.report.html_slim import slim_html
    from dojang.report.json import dumps

    names = ["report.html", "model.pt", "run.json"]
    save_slim(done.module, place / "model.pt", done.about)
    said = ""
    try:
        write_checked(done.graph, "safetensors", place / "model.safetensors")
        names.append("model.safetensors")
        said = write_open(module_answers(done.module), done.graph, place / "model.onnx") or write_checked(
            done.graph, "onnx", place / "model.onnx"
        )
        names.append("model.onnx")
    except DojangError as error:
        note = f"no ONNX file was written: {error}"
        done = replace(done, result=replace(done.result, notes=(*done.result.notes, note)))
    drawn = front_chart(done.result)
    if drawn:
        replace_text(place / "front.svg", standing_alone(drawn))
        names.append("front.svg")
    done = replace(done, same_answers=said, files=tuple(str(target / name) for name in sorted(names)))
    replace_text(place / "report.html", slim_html(done))
    replace_text(place / "run.json", dumps(record("slim", dict(settings), "", done.to_dict())))
    return done


def load_slim(path: str | Path, module: Any) -> Any:
    """The owner's PyTorch module with the narrower layers of a file that slimming wrote, in `eval` mode.

    `module`: a module of the class as it was before slimming (its layers become narrower), a function that makes one,
    or its place in code ("file.py:callable").

    Raises `FileError` where the file is no state dict of a slimming, `UsageError` where the class or its layers differ.
    """
    formats = torch_format()
    from dojang.formats.torch.write.saved import load_slim as load_state

    if isinstance(module, str):
        module = formats.load_callable(module)
    elif not is_module(module):
        if not callable(module):
            raise UsageError("load_slim needs a module of the class that was slimmed, or a function that makes one")
        module = module()
    return load_state(path, module)
