"""`dojang.quantize`: a network in 8 bits, calibrated on samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from dojang.app.networks import load, require_weights, torch_format
from dojang.app.own_loop import trained_by
from dojang.arith.graph import Graph
from dojang.base.errors import DataError, UsageError
from dojang.base.wording import did_you_mean
from dojang.slimming import quantising
from dojang.slimming.equalising import equalised

BATCH = 16


def quantize(
    net: Any, samples: Any, *, method: str = "mse", correct: bool = True, adapt: bool = True, equalise: bool = True,
    weights: Any = None, tune: Callable[..., Any] | None = None,
) -> Graph:  # fmt: skip
    """The network with layers, sums and poolings in whole numbers of 8 bits, calibrated on samples in one pass.

    `samples` is an array (n, *input) as the network takes it, or an iterable of such batches; a network with several
    inputs takes mappings by their names. No labels are needed, a few hundred samples are enough. `method` chooses the
    range of each value: "minmax" (all numbers), "percentile" (all but 0.01 % on each side), "mse" (the least mean
    squared error), "entropy" (the least divergence). Weights have a scale for each output channel. `correct`: biases
    take back the mean error of rounded weights. `adapt`: weights are rounded so that outputs move least, not each
    to the nearest. `equalise`: channels are scaled first so that weights on both sides of ReLU have equal ranges, which
    changes no answer. `net` and `weights` are as in `load`.

    `tune(module)` or `tune(module, teacher)` is your own training loop. It gets the calibrated network as a PyTorch
    module that rounds its values and weights as the result will, while slopes go straight through, and trains it in
    place, or returns it; `teacher` is the network in real numbers. Batch norms are folded by then, so learning rates
    are small (a fiftieth of that of training from scratch does). The trained weights are rounded to the nearest.

    The result is a network like others: it is counted, run, saved as a checkpoint, and exported to ONNX with
    QuantizeLinear and DequantizeLinear, which ONNX Runtime, OpenVINO and TensorRT read. Values of the network that
    layers do not read, and its outputs, stay real numbers. Answers change; compare them on samples of your own.

    Raises `DataError` for no samples, for samples that are NaN, or lead to numbers that are none, and where `tune`
    raises or leaves NaN; `ShapeError` for samples of another shape; what `load` raises.

    >>> rng = np.random.default_rng(0)
    >>> small = quantize("digits-cnn", rng.uniform(0, 1, (64, 1, 8, 8)).astype("f4"))
    >>> {p.kind for p in small.precisions.values()} == {"int8", "int32"}
    True
    """
    if method not in quantising.METHODS:
        hint = did_you_mean(method, quantising.METHODS, f"use one of {', '.join(quantising.METHODS)}", most=1)
        raise UsageError(f"calibration method {method!r} is not known; {hint}")
    graph = load(net, weights=weights)
    graph = quantising.prepared(require_weights(graph, graph.name))
    if not quantising.layers_of(graph):
        raise UsageError(f"{graph.name}: has no convolution and no dense layer of images that could be quantised")
    if equalise:
        graph, _ = equalised(graph, quantising.layers_of(graph))
    found = quantising.calibrated(graph, batches(samples), adapt)
    small = quantising.quantised(graph, found, method, correct).graph
    if tune is None:
        return small
    graph = graph.with_weights(tuned_weights(small, graph, tune))
    return quantising.quantised(graph, quantising.Calibration(found.values), method, False).graph


def tuned_weights(small: Graph, graph: Graph, tune: Callable[..., Any]) -> Mapping[str, Any]:
    """The real weights of a network after somebody's loop has trained it as `small` computes it, in 8 bits."""
    to_module, weights_of = torch_format().to_module, torch_format().weights_of
    from dojang.training.straight_through import rounded_weights

    module, teacher = to_module(small.replace(weights=graph.weights)), to_module(graph).eval()
    with rounded_weights(module, small):
        found = trained_by(tune, module, teacher)
        if found is not module:
            module.load_state_dict(found.state_dict())
    return weights_of(module, graph).weights


def batches(samples: Any) -> Iterator[Any]:
    """Samples in batches of a few. Raises `DataError` for what is no array of numbers."""
    if isinstance(samples, (str, bytes)) or samples is None:
        raise DataError(f"samples are an array, or batches of arrays, not {samples!r:.60}; read them first")
    if isinstance(samples, Mapping) or hasattr(samples, "__array__"):
        yield from _cut(samples)
        return
    if not isinstance(samples, Iterable):
        raise DataError(f"samples are an array, or batches of arrays, not {type(samples).__name__}")
    for one in samples:
        yield from _cut(one)


def _cut(batch: Any) -> Iterator[Any]:
    given = batch if isinstance(batch, Mapping) else {"": batch}
    arrays = {name: np.asarray(a) for name, a in given.items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu" or not array.ndim:
            raise DataError(f"samples{f' of {name}' if name else ''} are {array.dtype}, not arrays of numbers")
    arrays = {name: a.astype(np.float32) for name, a in arrays.items()}
    count = min(len(a) for a in arrays.values())
    for first in range(0, count, BATCH):
        part = {name: a[first : first + BATCH] for name, a in arrays.items()}
        yield part if isinstance(batch, Mapping) else part[""]
