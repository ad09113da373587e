"""How far the answers change if the weights of each layer are stored in 8 or 16 bits: rounded, and measured again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dojang.arith.graph import Graph, Node
from dojang.diagnosis.trials import Trials
from dojang.evidence.activations import layers
from dojang.evidence.finding import Finding

Array = np.ndarray

MOST_CHANGED = 0.01
"""A layer is sensitive if rounding its weights changes the answers to more than this part of the samples, or moves the
output by more than this part of its deviation where there are no classes."""


LEAST_CHANGED = 1.5
"""One changed answer among few samples is no evidence: that sample may lie between two classes."""


@dataclass(frozen=True)
class Sensitivity:
    """The weights of one layer (of all layers where `layer` is "") rounded to `format`, biases and activations left.

    `weight_error`: root mean square of the rounding, relative to that of the weights. The other figures are those of
    `trials.Change` on `samples` samples.
    """

    layer: str
    format: str
    weight_error: float | None
    output_change: float | None
    answers_changed: float | None
    accuracy_before: float | None
    accuracy: float | None
    samples: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def int8(weight: Array, channels: int) -> Array:
    """Rounded to −127 … 127 steps, a step being 1/127 of the largest size in its channel; `weight` (channels, …).

    Symmetric, one scale for each output channel, as ONNX Runtime and TensorRT quantise weights (Nagel et al., "A white
    paper on neural network quantization", 2021, section 2.4).

    >>> int8(np.array([[1.0, 0.5, -0.26]]), 1).round(4).tolist()
    [[1.0, 0.5039, -0.2598]]
    """
    flat = np.asarray(weight, np.float64).reshape(channels, -1)
    step = np.abs(flat).max(axis=1, initial=0.0, keepdims=True) / 127
    step[step == 0] = 1
    return (np.rint(flat / step) * step).reshape(weight.shape)


def bfloat16(weight: Array, channels: int) -> Array:
    """Rounded to the nearest number with 8 significant bits and the exponents of float32, ties to even.

    >>> bfloat16(np.array([1.00390625, 1.01]), 2).tolist()
    [1.0, 1.0078125]
    """
    del channels
    bits = np.asarray(weight, np.float32).view(np.uint32).astype(np.uint64)
    even = (bits >> 16) & 1
    return (((bits + 0x7FFF + even) >> 16) << 16).astype(np.uint32).view(np.float32)


def float16(weight: Array, channels: int) -> Array:
    """Rounded to half precision; infinite above 65,504."""
    del channels
    with np.errstate(over="ignore"):
        return np.asarray(weight, np.float32).astype(np.float16).astype(np.float32)


FORMATS: Mapping[str, Callable[[Array, int], Array]] = {"int8": int8, "bfloat16": bfloat16, "float16": float16}


def rounded(graph: Graph, node: Node, name: str) -> Array:
    """The weight of a layer in a format; the scales of int8 are those of the output channels."""
    weight = np.asarray(graph.weights[node.array("weight")])
    if node.op == "conv_transpose":  # (ic, oc / groups, …): the channels of each group lie on the second axis
        groups, ic, each = node.attrs["groups"], weight.shape[0], weight.shape[1]
        turned = np.moveaxis(weight.reshape(groups, ic // groups, each, -1), 1, 2)
        made = FORMATS[name](np.ascontiguousarray(turned), groups * each)
        return np.moveaxis(made.reshape(turned.shape), 2, 1).reshape(weight.shape).astype(np.float32)
    return FORMATS[name](weight, len(weight)).astype(np.float32)


def rounded_layers(graph: Graph) -> list[Node]:
    """The layers whose weights can be rounded, each array once."""
    found: dict[str, Node] = {}
    for node in layers(graph):
        found.setdefault(node.array("weight"), node)
    return list(found.values())


def sensitivities(trials: Trials) -> tuple[Sensitivity, ...]:
    """Each layer by itself in each format, in the order of the network; then all layers together."""
    graph, nodes = trials.graph, rounded_layers(trials.graph)
    if not nodes:
        return ()
    rows: list[Sensitivity] = []
    everything: dict[str, dict[str, Array]] = {name: {} for name in FORMATS}
    for node in nodes:
        for name in FORMATS:
            array = node.array("weight")
            everything[name][array] = rounded(graph, node, name)
            rows.append(_tried(trials, node.name, name, {array: everything[name][array]}))
    return (*rows, *(_tried(trials, "", name, arrays) for name, arrays in everything.items()))


def _tried(trials: Trials, layer: str, name: str, arrays: Mapping[str, Array]) -> Sensitivity:
    graph = trials.graph
    old = np.concatenate([np.asarray(graph.weights[key], np.float64).reshape(-1) for key in arrays])
    new = np.concatenate([array.reshape(-1).astype(np.float64) for array in arrays.values()])
    if not np.isfinite(new).all():
        return Sensitivity(layer, name, None, None, None, trials.accuracy, None, trials.samples)
    size = float(np.sqrt(np.square(old).mean())) or 1.0
    error = float(np.sqrt(np.square(new - old).mean())) / size
    change = trials.change(graph.replace(weights={**graph.weights, **arrays}))
    return Sensitivity(
        layer, name, error, change.output_change, change.answers_changed, trials.accuracy, change.accuracy,
        trials.samples,
    )  # fmt: skip


def findings(rows: tuple[Sensitivity, ...]) -> list[Finding]:
    """Layers that are sensitive: to 8 bits a note, to 16 bits a warning."""
    found: list[Finding] = []
    for row in rows:
        if not row.layer:
            continue
        severity = "info" if row.format == "int8" else "warning"
        if row.output_change is None:
            text = f"its weights in {row.format} make numbers that are not finite"
            found.append(Finding(row.layer, "sensitive", (), 1.0, MOST_CHANGED, text, severity))
            continue
        value = row.output_change if row.answers_changed is None else row.answers_changed
        if value <= MOST_CHANGED or (row.answers_changed is not None and value * row.samples < LEAST_CHANGED):
            continue
        text = f"its weights in {row.format} "
        if row.answers_changed is not None:
            text += f"change {row.answers_changed:.1%} of the answers to {row.samples} samples"
        else:
            text += f"move the output by {value:.1%} of its deviation over {row.samples} samples"
        found.append(Finding(row.layer, "sensitive", (), value, MOST_CHANGED, text, severity))
    return found
