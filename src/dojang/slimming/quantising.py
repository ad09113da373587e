"""A network in whole numbers of 8 bits: values on grids after each layer, weights per output channel.

A grid spans the numbers that samples give, or fewer of them, chosen by one of `METHODS`. Batch norms are folded first.
Weights are symmetric, with a scale for each output channel; biases are whole numbers in the unit of the sums. Rounding
weights shifts the mean of a layer's outputs by the rounding errors times the mean inputs, which the bias takes back
(Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2).
The values and their scales are those that QuantizeLinear and DequantizeLinear of ONNX take (`formats/onnx`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from dojang.arith.graph import Graph, Node
from dojang.arith.precision import Precision
from dojang.engine.scalars import joined_to_layers
from dojang.evidence.evidence import Evidence
from dojang.evidence.histograms import Fed, Histogram, histograms
from dojang.evidence.second_moments import WIDEST, InputMoments, PatchProducts, width
from dojang.slimming import batchnorm
from dojang.slimming.rounding import rounded

LAYERS = ("conv", "dense")
ENDS = (*LAYERS, "add", "mul", "concat", "avgpool", "global_avgpool", "adaptive_avgpool", "reduce_mean")
FUNCTIONS = frozenset("relu clip sigmoid tanh silu hard_swish hard_sigmoid leaky_relu gelu elu mish".split())
MOVES = frozenset("maxpool flatten reshape identity dropout squeeze unsqueeze".split())
MOST_BIAS = 2.0**29
"""The largest whole number of a bias: sums of as many have room beside it in int32."""
LEAST_SCALE = 1e-30
"""Of weights that are all 0, and of values that are: their products are 0 whatever it is."""


def prepared(graph: Graph) -> Graph:
    """The network with batch norms folded into the layers before them, and what stands for one: products with and sums
    of constants.
    """
    graph = joined_to_layers(graph)
    found = batchnorm.apply(Evidence(graph))
    return graph if found is None else found.graph


def layers_of(graph: Graph) -> list[Node]:
    """The layers that are quantised: convolutions and dense layers of real numbers, with weights of their own."""
    found: list[Node] = []
    for node in graph.nodes:
        if node.op in LAYERS and graph.is_single(node.name) and graph.is_single(node.inputs[0]):
            shape = graph.unit_shapes[node.name]
            if shape is not None and (node.op == "conv" or len(shape) == 2):
                found.append(node)
    return found


def moves(node: Node) -> bool:
    """Whether a node's value has only numbers of its input, and 0."""
    if node.op != "pad":
        return node.op in MOVES
    return node.attrs["mode"] == "constant" and node.attrs["value"] == 0 and not any(map(any, node.attrs["pads"][1:]))


def function_of(graph: Graph, node: Node) -> str | None:
    """What a function of one number is applied to: an activation, or a product, sum or share with a constant number."""
    if node.op in FUNCTIONS:
        return node.inputs[0]
    if node.op not in ("mul", "add", "sub", "div") or len(node.inputs) != 2:
        return None
    for value, other in (node.inputs, node.inputs[::-1])[: 2 if node.op in ("mul", "add") else 1]:
        constant = graph[other]
        if constant.op == "constant" and np.prod(constant.attrs["shape"]) == 1 and value != other:
            return value if graph.unit_shapes[value] == graph.unit_shapes[node.name] else None
    return None


def grids_of(graph: Graph, floats: Collection[str] = ()) -> list[str]:
    """The values that are put on grids: what layers read (but for those named in `floats`), sources and sums between
    them; functions of one number take the place of the value before them where nobody else reads that.
    """
    wanted: dict[str, None] = {}
    pending = [node.inputs[0] for node in layers_of(graph) if node.name not in floats]
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        node = graph[name]
        if moves(node):
            pending.append(node.inputs[0])
            continue
        wanted[name] = None
        before = node
        while (read := function_of(graph, before)) is not None:
            source = graph[read]
            if len(graph.consumers[source.name]) > 1 or source.name in graph.outputs:
                pending.append(source.name)
                break
            before = source
        if before.op in ENDS and before.op not in LAYERS:
            pending += [i for i in before.inputs if graph[i].op != "constant"]
    return [node.name for node in graph.nodes if node.name in wanted and graph.is_single(node.name)]


# -- ranges ------------------------------------------------------------------------------------------------------------


def minmax(h: Histogram) -> tuple[float, float]:
    """All numbers."""
    return h.low, h.high


def percentile(h: Histogram) -> tuple[float, float]:
    """All but a ten-thousandth on each side."""
    return h.quantiles(1e-4)


def least_error(h: Histogram) -> tuple[float, float]:
    """The range whose grid has the least mean squared error, of 40 that shrink by equal steps."""
    return _best(h, _squared)


def entropy(h: Histogram) -> tuple[float, float]:
    """The range whose grid keeps the distribution best: the least divergence of Kullback and Leibler, of 40."""
    return _best(h, _divergence)


def _best(h: Histogram, cost: Callable[[Histogram, float, float], float]) -> tuple[float, float]:
    if not h.width:
        return h.low, h.high
    ranges = [(h.low * share, h.high * share) for share in np.linspace(1, 0.22, 40)]
    return min(ranges, key=lambda r: cost(h, min(0.0, r[0]), max(0.0, r[1])))


def _squared(h: Histogram, low: float, high: float) -> float:
    scale = (high - low) / 255 or 1.0
    x = h.centres
    zero = np.rint(-low / scale)
    q = np.clip(np.rint(x / scale), -zero, 255 - zero) * scale
    inside = h.width**2 / 12  # what lies within a bin of the histogram
    return float((h.counts * ((x - q) ** 2 + inside)).sum())


def _divergence(h: Histogram, low: float, high: float) -> float:
    scale = (high - low) / 255 or 1.0
    zero = np.rint(-low / scale)
    place = (np.clip(np.rint(h.centres / scale), -zero, 255 - zero) + zero).astype(int)
    some = h.counts > 0
    total = np.bincount(place, h.counts, 256)
    bins = np.bincount(place[some], minlength=256)
    inside = (h.centres >= low - scale) & (h.centres <= high + scale)
    p = h.counts / h.counts.sum()
    q = np.where(some & inside, total[place] / np.maximum(bins[place], 1), 0.0)
    q = q / max(q.sum(), 1e-30)
    return float((p[some] * np.log(p[some] / np.maximum(q[some], 1e-12))).sum())


METHODS: Mapping[str, Callable[[Histogram], tuple[float, float]]] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": least_error,
    "entropy": entropy,
}
"""How the range of a grid is chosen, by name."""


def grid(bounds: tuple[float, float]) -> tuple[float, int]:
    """The scale and the zero point of 256 numbers over a range, which is widened to have 0.

    >>> grid((0.0, 255.0)), grid((3.0, 3.0)), grid((0.0, 0.0))
    ((1.0, 0), (0.0117647061124444, 0), (1.0, 0))
    """
    low, high = min(0.0, bounds[0]), max(0.0, bounds[1])
    scale = float(np.float32((high - low) / 255))
    if not scale > LEAST_SCALE:
        return 1.0, 0
    return scale, int(np.clip(np.rint(-low / scale), 0, 255))


# -- the network -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calibration:
    """What samples gave: the numbers of each value that is put on a grid, and what layers read (those alone whose
    weights are to be rounded by it).
    """

    values: Mapping[str, Histogram]
    reads: Mapping[str, InputMoments] = field(default_factory=dict[str, InputMoments])


def calibrated(graph: Graph, batches: Iterable[Fed], adapt: bool = True) -> Calibration:
    """Of a prepared network, in one pass over the samples. `adapt`: also what layers read, for rounding their weights.

    Raises `DataError` where there is no sample, or one that leads to numbers that are none.
    """
    readers = {n.name: PatchProducts(graph, n) for n in layers_of(graph) if adapt and width(graph, n) <= WIDEST}
    values = histograms(graph, batches, grids_of(graph), tuple(readers.values()))
    return Calibration(values, {name: reader.done() for name, reader in readers.items()})


@dataclass(frozen=True)
class Quantised:
    """A quantised network, and what was decided: the scale and the zero point of each value on a grid."""

    graph: Graph
    grids: Mapping[str, tuple[float, int]]
    layers: tuple[str, ...]


def quantised(
    graph: Graph, known: Calibration, method: str = "mse", correct: bool = True, floats: Collection[str] = ()
) -> Quantised:
    """A prepared network with its layers in 8 bits, but for those named in `floats`, which keep their real numbers.

    `correct`: biases take back what rounding the weights shifts. Weights are rounded together where it is known what
    their layer reads, else each to the nearest.
    """
    values = known.values
    grids = {name: grid(METHODS[method](values[name])) for name in grids_of(graph, floats)}
    names = {node.name for node in graph.nodes}
    moved: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        inputs = tuple(moved.get(name, name) for name in node.inputs)
        nodes.append(Node.of(node.name, node.op, *inputs, arrays=node.arrays, **node.attrs))
        if node.name in grids and node.name not in graph.outputs:
            name = f"{node.name}.grid"
            while name in names:
                name += "_"
            names.add(name)
            scale, zero = grids[node.name]
            moved[node.name] = name
            nodes.append(Node.of(name, "fake_quantize", node.name, scale=scale, low=-zero, high=255 - zero))
    arrays = dict(graph.weights)
    precisions: dict[str, Precision] = {}
    done: list[str] = []
    readers: dict[str, int] = {}
    for node in graph.nodes:
        for role in graph.node_params(node):
            readers[node.array(role)] = readers.get(node.array(role), 0) + 1
    for node in layers_of(graph):
        source = _source(graph, node.inputs[0])
        if (
            node.name in floats
            or source not in grids
            or any(readers[node.array(r)] > 1 for r in graph.node_params(node))
        ):
            continue
        weight = np.asarray(graph.weights[node.array("weight")], np.float32)
        read = known.reads.get(node.name)
        least = np.zeros(len(weight))
        if node.attrs["bias"]:
            least = np.abs(np.asarray(graph.weights[node.array("bias")], np.float64)) / grids[source][0] / MOST_BIAS
        precision, real = weights_of(weight, read, correct and node.attrs["bias"], least)
        arrays[node.array("weight")], precisions[node.array("weight")] = real, precision
        done.append(node.name)
        if node.attrs["bias"]:
            bias = np.asarray(graph.weights[node.array("bias")], np.float64)
            if correct:
                error = weight.astype(np.float64) - real
                bias = bias + (means_of(error, read) if read else -shift(error, values[source].means, node))
            name = node.array("bias")
            arrays[name], held = bias_of(bias, grids[source][0], precision)
            if held is not None:
                precisions[name] = held
    made = Graph(
        tuple(nodes), graph.outputs, graph.name, arrays, graph.meta, modules=graph.modules, scopes=graph.scopes,
        precisions=precisions,
    )  # fmt: skip
    return Quantised(made, grids, tuple(done))


def _source(graph: Graph, name: str) -> str:
    """The value on a grid whose numbers a value has."""
    while moves(graph[name]):
        name = graph[name].inputs[0]
    return name


def weights_of(
    weight: np.ndarray, read: InputMoments | None = None, corrected: bool = False, least: np.ndarray | float = 0.0
) -> tuple[Precision, np.ndarray]:
    """The precision by output channel of weights as whole numbers from −127 to 127, and the real numbers they are.

    `read`: what the layer reads; its weights are rounded so that its outputs move least, about their mean where a bias
    is `corrected`. Without it each is rounded to the nearest. `least`: the least scale of each channel, so that a bias
    fits int32 beside weights that are tiny.
    """
    flat = weight.reshape(len(weight), -1)
    most = np.abs(flat).max(1, initial=0.0)
    scale = np.where(most > 127 * LEAST_SCALE, np.maximum(most / 127, least), 1.0).astype(np.float32)
    precision = Precision("int8", tuple(float(s) for s in scale), (0,) * len(scale), 0)
    if read is None:
        whole = np.clip(np.rint(flat / scale[:, None]), -127, 127)
    else:
        groups = len(read.mean)
        products = read.covariance if corrected else read.products
        parts = zip(np.split(flat, groups), np.split(scale, groups), products, strict=True)
        whole = np.concatenate([rounded(own.astype(np.float64), unit, held) for own, unit, held in parts])
    return precision, (whole.astype(np.float32) * scale[:, None]).reshape(weight.shape)


def means_of(error: np.ndarray, read: InputMoments) -> np.ndarray:
    """What errors of weights (exact less rounded) take away from the mean of each output, padding included."""
    groups, f = read.mean.shape
    return (error.reshape(groups, -1, f) @ read.mean[:, :, None]).reshape(-1)


def bias_of(bias: np.ndarray, x_scale: float, precision: Precision) -> tuple[np.ndarray, Precision | None]:
    """A bias as whole numbers in the unit of the sums; as it is where they would not fit int32."""
    unit = np.float32(x_scale) * np.asarray(precision.scale, np.float32)
    with np.errstate(all="ignore"):
        whole = np.rint(bias / unit.astype(np.float64))
    if not np.all(np.abs(whole) < 1 << 30) or not np.all(unit > 0):
        return bias.astype(np.float32), None
    held = Precision("int32", tuple(float(u) for u in unit), (0,) * len(unit), 0)
    return whole.astype(np.float32) * unit, held


def shift(error: np.ndarray, means: np.ndarray, node: Node) -> np.ndarray:
    """What is taken off a bias for errors of the weights (exact less rounded): the mean of each output that they take
    away, negated.

    Padding is not looked at: at the border fewer taps see the mean.
    """
    groups = node.attrs.get("groups", 1)
    oc, per = error.shape[0], error.shape[1]
    taps = error.reshape(oc, per, -1).sum(2)
    if len(means) * max(1, per // max(1, len(means) // groups)) != per * groups:
        return np.zeros(oc)
    inputs = np.repeat(means, per * groups // len(means))  # flattened images: each channel for all its places
    own = inputs.reshape(groups, 1, per)
    return -(taps.reshape(groups, oc // groups, per) * own).sum(2).reshape(oc)
