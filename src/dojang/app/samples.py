"""From what a person names as data to samples that fit a network."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from dojang.arith import classes
from dojang.arith.conv import by
from dojang.arith.graph import Graph, Node
from dojang.base.errors import DataError, ShapeError, UsageError
from dojang.training.asked import Asked, PerChannel
from dojang.training.data import Data, Normalisation, from_arrays, unlabelled
from dojang.training.labels import renumbered
from dojang.training.load import load as load_data
from dojang.training.sources import npz_samples

KINDS = (
    "digits, a folder or .zip of class folders, an .npz or .zarr with x and y, IDX files, CIFAR files, or arrays (x, y)"
)


def one_input(graph: Graph) -> Node:
    """The network's only input; `UsageError` when it has several."""
    if len(graph.inputs) != 1:
        raise UsageError(
            f"{graph.name}: has {len(graph.inputs)} inputs, data feed networks with one; slim --lossless without data "
            "takes any"
        )
    return graph.inputs[0]


SPLIT_SEED = 0
"""Data without a test part of their own are split with this seed always. Were it the seed of the run, slimming with
another seed than training would report on samples that the network was trained on."""


def asked_of(
    graph: Graph,
    task: str | None = None,
    values: str | None = None,
    layout: str | None = None,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
) -> Asked:
    """What a person says of the data, and what the network tells: the shape of a sample, and how many numbers it gives.

    Raises `UsageError` for words that are not known.
    """
    shape = tuple(one_input(graph).attrs["shape"]) if len(graph.inputs) == 1 else None
    return Asked(shape, outputs_of(graph), task, values, layout, mean, std)


def outputs_of(graph: Graph) -> int | None:
    """How many numbers the network gives for a sample; None where that is not known."""
    shape = graph.unit_shapes[graph.outputs[0]]
    return None if shape is None else prod(shape[1:])


def load_samples(data: Any, graph: Graph, val: str | Path | None = None, asked: Asked | None = None) -> Data:
    """The data set that `data` names (`KINDS`, or a `Data`), resized to the network's input, normalised as it says.

    Raises `ShapeError` when samples do not fit the input, `DataError` and `FileError` for bad data.
    """
    shape = tuple(one_input(graph).attrs["shape"])
    asked = asked_of(graph) if asked is None else asked
    if isinstance(data, Data):
        found = data
    elif isinstance(data, (str, Path)) and Path(data).suffix.lower() == ".npy":
        raise DataError(
            f"{data}: an .npy holds samples without labels, which diagnose and slim --lossless take; here labels are "
            "needed: give an .npz with x and y"
        )
    elif isinstance(data, (str, Path)):
        found = load_data(data, size=shape if len(shape) == 3 else None, val=val, seed=SPLIT_SEED, asked=asked)
    elif isinstance(data, tuple) and len(data) == 2:
        found = from_arrays(data[0], data[1], seed=SPLIT_SEED, asked=asked)
    else:
        raise UsageError(f"data are {KINDS}; got {type(data).__name__}")
    return _fitting(found, graph)


def load_inputs(data: Any, graph: Graph, val: str | Path | None = None, asked: Asked | None = None) -> Data:
    """What diagnosis and a slimming without loss look at: data as `load_samples` takes them, samples without labels (an
    array, an .npy, an .npz with x alone), or nothing (None): then there are no samples in it, and the network may have
    several inputs.

    Raises what `load_samples` raises.
    """
    asked = asked_of(graph) if asked is None else asked
    if data is None:
        return unlabelled(np.empty((0, *graph.inputs[0].attrs["shape"])), "no data")
    if isinstance(data, np.ndarray):
        return _fitting(unlabelled(data, "array", asked), graph)
    if isinstance(data, (str, Path)) and Path(data).suffix.lower() in (".npy", ".npz"):
        x = npz_samples(Path(data))
        if x is not None:
            return _fitting(unlabelled(x, Path(data).name, asked), graph)
    return load_samples(data, graph, val, asked)


def _fitting(found: Data, graph: Graph) -> Data:
    """The data, normalised as the network says; raises `ShapeError` where samples are not what it takes, and
    `DataError` where their values are not in the unit in which it normalises.
    """
    node = one_input(graph)
    shape = tuple(node.attrs["shape"])
    if found.sample_shape != shape:
        raise ShapeError(
            f"{found.name}: samples are {by(found.sample_shape)}, {graph.name} takes {by(shape)}; use --input-size"
        )
    mean, std = node.attrs["mean"], node.attrs["std"]
    if not mean or not std:
        return found
    if found.values == "normalised":
        return found.normalised(Normalisation.none(shape[0]))
    how = Normalisation(tuple(mean), tuple(std))
    if found.values is None and len(found.train) and found.train.x.dtype != np.uint8:
        _check_unit(found, how, graph.name)
    return found.normalised(how)


FAR = 4.0
"""Samples are taken to be in the unit of the network if their mean is at most this many stated deviations from the
stated mean, and their deviation at most this many times the stated one.
Pictures of 0…255 in place of 0…1 are about 255 deviations wide, and pictures that were normalised before about 4.5."""

LOOKED_AT = 256
"""Samples whose mean and deviation tell the unit."""


def _check_unit(found: Data, how: Normalisation, network: str) -> None:
    own = Normalisation.of(found.train.x[:LOOKED_AT])
    mean, std = (np.asarray(v, float) for v in (how.mean, how.std))
    away = float(np.abs((np.asarray(own.mean) - mean) / std).max())
    wide = float((np.asarray(own.std) / std).max())
    if away <= FAR and wide <= FAR:
        return
    raise DataError(
        f"{found.name}: values of mean {own.mean[0]:.3g} and deviation {own.std[0]:.3g} are not in the unit of "
        f"{network}, which takes off {mean[0]:.3g} and divides by {std[0]:.3g}; say --values 0-255 "
        "for pictures of 0 to 255, normalised if that was done before, or as-is"
    )


def match_classes(graph: Graph, data: Data) -> Data:
    """The data with their classes numbered as the network numbers them: by name, where both have names.

    Classes of the network that have no samples stay in the list. Raises `DataError` for classes that the network does
    not have, and unless it gives one number per class (or per target of a regression).
    """
    if data.task == "unlabelled":
        return data
    names = classes.from_text(graph.meta.get("classes", ""))
    outputs = outputs_of(graph)
    if names and graph.weights and data.classes and len(names) == outputs and names != data.classes:
        data = _by_name(data, names, graph.name)
    if outputs is not None and outputs != data.outputs:
        what = "targets" if data.task == "regression" else "classes"
        more = ""
        if data.task == "classification":
            what += f" (labels reach {data.outputs - 1})" if data.outputs > outputs else ""
            numbers = all(name.lstrip("-").isdigit() for name in data.classes)
            more = ", or --task regression if the labels are amounts" if numbers else ""
        raise DataError(
            f"{data.name}: has {data.outputs} {what}, {graph.name} gives {outputs} outputs; use a network "
            f"with {data.outputs} (zoo names and .net texts take --num-classes {data.outputs}), or other data{more}"
        )
    return data


def numbers_only(names: tuple[str, ...], data: Data) -> bool:
    """Whether a network has numbers for its classes, as many as the data have classes, of which none is called so."""
    return (
        all(name.isdecimal() for name in names)
        and len(names) == len(data.classes)
        and not set(data.classes) & set(names)
    )


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (" …" if len(names) > 4 else "")


def _by_name(data: Data, names: tuple[str, ...], network: str) -> Data:
    """The data with their labels numbered as `names`."""
    if not data.named and len(data.classes) <= len(names) and not set(data.classes) <= set(names):
        note = f"labels are numbers without names: {network} calls class 0 {names[0]!r}, class 1 {names[1]!r} and so on"
        if data.task == "multilabel" and len(data.classes) != len(names):
            return data
        return replace(data, classes=names, named=True, notes=(*data.notes, note))
    if numbers_only(names, data):
        pairs = ", ".join(f"{a} is {b!r}" for a, b in zip(names[:3], data.classes, strict=False))
        more = " and so on" if len(names) > 3 else ""
        return replace(data, notes=(*data.notes, f"{network} knows its classes by number, in order: {pairs}{more}"))
    missing = [name for name in data.classes if name not in names]
    if missing and len(missing) == len(data.classes):
        raise DataError(
            f"{data.name}: its classes are {_some(data.classes)}, the network was trained on {_some(names)}; "
            "use data of the same classes"
        )
    whose = f"the classes that {network} was trained on"
    changed = data.each(lambda p: replace(p, y=renumbered(p.y, data.classes, names, data.name, whose)))
    same = set(names) == set(data.classes)
    note = f"classes are numbered by name, as {network} numbers them"
    if not same:
        note += f"; {len(set(names) - set(data.classes))} of its {len(names)} classes have no samples"
    return replace(changed, classes=names, notes=(*data.notes, note))


def input_range(graph: Graph, data: Data) -> dict[str, tuple[Any, Any]]:
    """Least and largest value per channel that enters the network, for proofs: pictures (uint8) are bounded by type.

    Empty where the network itself says how pictures enter (then that is the range) and for float samples, which have
    no bound.
    """
    if data.train.x.dtype != np.uint8:
        return {}
    node = one_input(graph)
    if node.attrs["mean"]:
        return {}
    shape = (1, data.train.x.shape[1], *(1,) * (data.train.x.ndim - 2))
    low, high = (data.normalisation.apply(np.full(shape, value, np.uint8)).reshape(-1) for value in (0, 255))
    return {node.name: (low, high)}
