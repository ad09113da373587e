"""What the channels of each layer do on a sample of data: extremes, how often they fire, how they move together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dojang.arith.channels import ChannelMap
from dojang.arith.cost import count
from dojang.arith.graph import Graph, Node
from dojang.arith.ops import OPS
from dojang.arith.table import Table, because
from dojang.engine.compiled import Compiled
from dojang.engine.session import Session
from dojang.evidence.moments import Products, require_finite

Array = np.ndarray
Run = Callable[[Any, Sequence[str]], Mapping[str, Array]]
"""`run(x, taps)`: activations by node name for a batch."""

Reduced = Callable[[str, Array], Array]
"""`reduced("sum" | "min" | "max", array)`: elementwise over all processes that look at samples, the same in each."""

BATCH = 64
"""Samples run at once."""

COMPILED = 2e9
"""From so many multiplications on, compiling the network (about a second) pays."""

BEHIND: Table[Literal["passes on", "activation"]] = Table(
    "activations",
    "told from an activation",
    __name__,
    {
        **dict.fromkeys(("batchnorm", "dropout", "identity"), "passes on"),
        **dict.fromkeys("relu clip sigmoid tanh softplus softsign silu hard_swish mish selu".split(), "activation"),
        **dict.fromkeys("elu gelu leaky_relu hard_sigmoid prelu".split(), "activation"),
    },
    {op: "it does more than change each number" for op, rule in OPS.items() if rule.channels != "keep"}
    | because(
        "it is no usual activation: the layer is looked at before it",
        "abs neg exp log sqrt erf reciprocal sin cos floor ceil round sign not",
    ),
)
"""What an operator behind a layer is: its activation, or something that may stand between the two."""


@dataclass(frozen=True)
class Response:
    """What one layer's channels (c,) did after the activation, over `samples` samples and all places.

    `fired`: on how many samples a channel was anywhere above the threshold in size. `covariance` (c, c) over places.
    """

    layer: str
    value: str
    samples: int
    places: int
    least: Array
    most: Array
    fired: Array
    mean: Array
    covariance: Array


def layers(graph: Graph) -> tuple[Node, ...]:
    """Convolutions and dense layers, in order."""
    return tuple(node for node in graph.nodes if node.rule.channels in ("conv", "dense"))


def activated(graph: Graph, layer: str) -> str:
    """The value that a layer's channels have after its batch norm and activation: the last node that only it feeds."""
    name = layer
    while name not in graph.outputs and len(graph.consumers[name]) == 1:
        reader = graph.consumers[name][0]
        kind = BEHIND.find(reader)
        name = reader.name if kind else name
        if kind != "passes on":
            break
    return name


def batches(samples: Any) -> Iterator[tuple[Any, int]]:
    """Samples (an array, or arrays by input name) in batches, with the number in each."""
    total = len(next(iter(samples.values())) if isinstance(samples, Mapping) else samples)
    for start in range(0, total, BATCH):
        part = slice(start, start + BATCH)
        x = {k: v[part] for k, v in samples.items()} if isinstance(samples, Mapping) else samples[part]
        yield x, min(BATCH, total - start)


def session_run(graph: Graph, samples: Any) -> Run:
    """A `Run` by dojang's own engine, compiled where so many samples pay for it."""
    total = sum(n for _, n in batches(samples))
    work = count(graph).total.macs * total
    session = Compiled(graph, precision="strict") if work > COMPILED and total >= BATCH else Session(graph)
    return lambda x, taps: session.run(x, taps).taps


def responses(
    graph: Graph,
    tied: ChannelMap,
    samples: Any,
    run: Run | None = None,
    threshold: float = 0.0,
    reduced: Reduced | None = None,
) -> dict[str, Response]:
    """How every conv and dense layer responds, by layer name, in one pass over the samples.

    With `reduced` each process gives its share of the samples, and gets the responses to all of them. Raises
    `DataError` where an activation is NaN or infinite.
    """
    reduced = reduced or alone
    run = run or session_run(graph, samples)
    values = {node.name: activated(graph, node.name) for node in layers(graph)}
    taps = list(dict.fromkeys(values.values()))
    sums: dict[str, dict[str, Any]] = {}
    products: dict[str, Products] = {}
    total = 0
    for x, n in batches(samples):
        found = run(x, taps)
        require_finite(found, taps)
        total += n
        for name in taps:
            track = tied.tracks[name]
            if track is not None:
                value = np.moveaxis(found[name], track.axis, 1)
                if name not in sums:
                    sums[name], products[name] = {}, Products(value.shape[1], value.shape[1])
                _add(sums[name], products[name], value, threshold)
    total = int(reduced("sum", np.array(total)))
    sums = {name: {k: reduced(HOW.get(k, "sum"), np.asarray(v)) for k, v in s.items()} for name, s in sums.items()}
    joined = {name: p.joined(reduced) for name, p in products.items()}
    out: dict[str, Response] = {}
    for layer, value in values.items():
        s = sums.get(value)
        if s is None:
            continue
        j = joined[value]
        out[layer] = Response(layer, value, total, j.rows, s["least"], s["most"], s["fired"], j.mean, j.covariance)
    return out


HOW = {"least": "min", "most": "max"}
"""How the running figures of a layer join; the others are sums."""


def alone(how: str, array: Array) -> Array:
    """What `Reduced` is in one process: the array."""
    del how
    return array


def _add(sums: dict[str, Any], products: Products, value: Array, threshold: float) -> None:
    """Adds one batch (n, c, ...) to the running sums; products in float64."""
    n, c = value.shape[:2]
    by_sample = value.reshape(n, c, -1)
    products.add(np.moveaxis(by_sample, 1, 2).reshape(-1, c).astype(np.float64))
    least, most = by_sample.min(axis=(0, 2)), by_sample.max(axis=(0, 2))
    fired = (np.abs(by_sample).max(axis=2) > threshold).sum(axis=0)
    if not sums:
        sums.update(least=least, most=most, fired=fired)
        return
    sums["least"], sums["most"] = np.minimum(sums["least"], least), np.maximum(sums["most"], most)
    sums["fired"] = sums["fired"] + fired
