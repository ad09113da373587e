"""From what a person names as data to samples that fit a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dojang.arith import classes
from dojang.arith.conv import by
from dojang.arith.graph import Graph, Node
from dojang.base.errors import DataError, ShapeError, UsageError
from dojang.training.data import Data, Normalisation, from_arrays, unlabelled
from dojang.training.load import load as load_data
from dojang.training.sources import npz_samples

KINDS = "digits, a folder or .zip of class folders, an .npz with x and y, IDX files, CIFAR-10 batches, or arrays (x, y)"


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


def load_samples(data: Any, graph: Graph, val: str | Path | None = None) -> Data:
    """The data set that `data` names (`KINDS`, or a `Data`), resized to the network's input, normalised as it says.

    Raises `ShapeError` when samples do not fit the input, `DataError` and `FileError` for bad data.
    """
    shape = tuple(one_input(graph).attrs["shape"])
    if isinstance(data, Data):
        found = data
    elif isinstance(data, (str, Path)) and Path(data).suffix.lower() == ".npy":
        raise DataError(
            f"{data}: an .npy holds samples without labels, which diagnose and slim --lossless take; here labels are "
            "needed: give an .npz with x and y"
        )
    elif isinstance(data, (str, Path)):
        found = load_data(data, size=shape if len(shape) == 3 else None, val=val, seed=SPLIT_SEED)
    elif isinstance(data, tuple) and len(data) == 2:
        found = from_arrays(data[0], data[1], seed=SPLIT_SEED)
    else:
        raise UsageError(f"data are {KINDS}; got {type(data).__name__}")
    return _fitting(found, graph)


def load_inputs(data: Any, graph: Graph, val: str | Path | None = None) -> Data:
    """What diagnosis and a slimming without loss look at: data as `load_samples` takes them, samples without labels (an
    array, an .npy, an .npz with x alone), or nothing (None): then there are no samples in it, and the network may have
    several inputs.

    Raises what `load_samples` raises.
    """
    if data is None:
        return unlabelled(np.empty((0, *graph.inputs[0].attrs["shape"])), "no data")
    if isinstance(data, np.ndarray):
        return _fitting(unlabelled(data, "array"), graph)
    if isinstance(data, (str, Path)) and Path(data).suffix.lower() in (".npy", ".npz"):
        x = npz_samples(Path(data))
        if x is not None:
            return _fitting(unlabelled(x, Path(data).name), graph)
    return load_samples(data, graph, val)


def _fitting(found: Data, graph: Graph) -> Data:
    """The data, normalised as the network says; raises `ShapeError` where samples are not what it takes."""
    node = one_input(graph)
    shape = tuple(node.attrs["shape"])
    if found.sample_shape != shape:
        raise ShapeError(
            f"{found.name}: samples are {by(found.sample_shape)}, {graph.name} takes {by(shape)}; use --input-size"
        )
    mean, std = node.attrs["mean"], node.attrs["std"]
    return found.normalised(Normalisation(tuple(mean), tuple(std))) if mean and std else found


def check_classes(graph: Graph, data: Data) -> None:
    """Raises `DataError` unless the network has one output per class of the data (or per target of a regression)."""
    if data.task == "unlabelled":
        return
    shape = graph.unit_shapes[graph.outputs[0]]
    if shape is None:
        return
    outputs = 1
    for size in shape[1:]:
        outputs *= size
    if outputs != data.outputs:
        what = "classes" if data.task == "classification" else "targets"
        if data.task == "classification" and data.outputs > outputs:
            what += f" (labels reach {data.outputs - 1})"
        raise DataError(
            f"{data.name}: has {data.outputs} {what}, {graph.name} gives {outputs} outputs; use --num-classes "
            f"{data.outputs}, or other data"
        )
    names = classes.from_text(graph.meta.get("classes", ""))
    if names and data.classes and graph.weights and len(names) == len(data.classes) and set(names) != set(data.classes):
        raise DataError(
            f"{data.name}: its classes are {', '.join(data.classes[:4])} …, the network was trained on "
            f"{', '.join(names[:4])} …; use data of the same classes"
        )


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
