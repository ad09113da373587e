"""What the channels of each value do on a sample of data: extremes, how often they fire, how they move together."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np

from dojang.arith.cost import count
from dojang.arith.graph import Graph, Node
from dojang.arith.ops import OPS
from dojang.arith.table import Table, because
from dojang.engine.compiled import Compiled
from dojang.engine.session import Session
from dojang.evidence.moments import JointMoments, NotFiniteError, Products, require_finite

Array = np.ndarray
Samples = Array | Mapping[str, Array]
"""Inputs without labels: an array (n, *shape) for the one input, or arrays by input name."""

Run = Callable[[Any, Sequence[str]], Mapping[str, Array]]
"""`run(x, taps)`: activations by node name for a batch."""

Reduced = Callable[[str, Array], Array]
"""`reduced("sum" | "min" | "max", array)`: elementwise over all processes that look at samples, the same in each."""

Pair = tuple[str, str]
"""Two values whose channels are held against each other."""

BATCH, BATCH_BYTES = 64, 1 << 28
"""So many samples are run at once, or as many of them as have activations of so many bytes together."""

JOINT_BYTES = 1 << 25
"""Bytes of a map, in float64, up to which samples are taken together where two maps are held against each other."""

COMPILED = 2e9
"""From so many multiplications on, compiling the network (about a second) pays."""

MOST_ROWS, WIDE_ROWS = 50_000, 16_384
"""Samples times places that means and covariances are taken over, about, and where there are more than `WIDE`
channels; extremes are taken over all places."""

WIDE = 256
"""A covariance of more channels takes minutes over `MOST_ROWS` places of many layers."""

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
        "abs neg exp log sqrt erf reciprocal sin cos floor ceil round sign not fake_quantize",
    ),
)
"""What an operator behind a layer is: its activation, or something that may stand between the two."""


@dataclass(frozen=True)
class Statistics:
    """What the channels (c,) of one value did over all `samples` and all `places` (samples times pixels).

    `fired`: on how many samples a channel was anywhere above the threshold in size. `mean` (c,) and `covariance`
    (c, c), empty where only extremes were asked for, are taken over `rows` of the places: all of them, or about
    `MOST_ROWS` at fixed pixels of every sample.
    """

    value: str
    samples: int
    places: int
    rows: int
    least: Array
    most: Array
    fired: Array
    mean: Array
    covariance: Array

    @property
    def peak(self) -> Array:
        """The largest size of each channel, (c,)."""
        return np.maximum(np.abs(self.least), np.abs(self.most))


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


def number_of(samples: Samples) -> int:
    """How many samples there are."""
    return len(next(iter(samples.values())) if isinstance(samples, Mapping) else samples)


def first(samples: Samples, most: int) -> Samples:
    """At most so many of the samples, the first ones."""
    return {k: v[:most] for k, v in samples.items()} if isinstance(samples, Mapping) else samples[:most]


def at_once(graph: Graph) -> int:
    """How many samples are run at once, by the bytes of all activations of one sample in float32."""
    numbers = sum(prod(shape) for shape in graph.unit_shapes.values() if shape is not None)
    return max(1, min(BATCH, BATCH_BYTES // max(1, 4 * numbers)))


def batches(samples: Samples, most: int) -> Iterator[Any]:
    """Samples in batches of at most so many."""
    for start in range(0, number_of(samples), most):
        part = slice(start, start + most)
        yield {k: v[part] for k, v in samples.items()} if isinstance(samples, Mapping) else samples[part]


def session_run(graph: Graph, samples: Samples) -> Run:
    """A `Run` by dojang's own engine, compiled where work on several samples pays for it."""
    total = number_of(samples)
    pays = total > 1 and count(graph).total.macs * total > COMPILED
    session = Compiled(graph, precision="strict", batch_size=min(total, at_once(graph))) if pays else Session(graph)
    return lambda x, taps: session.run(x, taps).taps


def observe(
    run: Run,
    samples: Samples,
    axes: Mapping[str, int],
    pairs: Sequence[Pair],
    threshold: float,
    reduced: Reduced | None = None,
    finite: Sequence[str] = (),
    extremes: Container[str] = (),
    most: int = BATCH,
) -> tuple[dict[str, Statistics], dict[Pair, JointMoments]]:
    """One pass over the samples: statistics of the values in `axes`, by name, and the joint figures of each pair.

    `axes`: the axis of each value that carries its channels; those of a pair are on axis 1, and the smaller of its maps
    is upsampled to the larger. With `reduced` each process gives its share of the samples, and gets the figures of
    all of them. Raises `NotFiniteError`, in every process, where an activation of these values or of those in `finite`
    is NaN or infinite; it names the first of them in this order: `finite`, then the others. Of values in `extremes` no
    means and covariances are taken. `most`: samples run at once.
    """
    reduced = reduced or _alone
    total = int(reduced("sum", np.array(number_of(samples))))
    taps = list(dict.fromkeys((*finite, *axes, *(value for pair in pairs for value in pair))))
    sums: dict[str, _Sums] = {}
    products: dict[Pair, Products] = {}
    broken: NotFiniteError | None = None
    for x in batches(samples, most):
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is said below
            found = run(x, taps)
        try:
            require_finite(found, taps)
        except NotFiniteError as error:
            broken = error
            break
        for name, axis in axes.items():
            value = np.moveaxis(found[name], axis, -1)
            value = value.reshape(len(value), -1, value.shape[-1])
            if name not in sums:
                sums[name] = _Sums(value.shape[1], value.shape[2], total, threshold, name not in extremes)
            sums[name].add(value)
        for before, after in pairs:
            if (before, after) not in products:
                products[before, after] = Products(found[before].shape[1], found[after].shape[1])
            for a, b in aligned(found[before], found[after]):
                products[before, after].add(a.T, b.T)
    _all_finite(broken, taps, reduced)
    statistics = {name: own.joined(name, reduced) for name, own in sums.items()}
    return statistics, {pair: own.joined(reduced) for pair, own in products.items()}


def _all_finite(broken: NotFiniteError | None, taps: Sequence[str], reduced: Reduced) -> None:
    """Raises the error of the first value that is not finite in any process; no process goes on without the others."""
    first = int(reduced("min", np.array(taps.index(broken.where) if broken else len(taps))))
    if first == len(taps):
        return
    if broken is None or broken.where != taps[first]:
        broken = NotFiniteError(f"{taps[first]}: its output is NaN or infinite on a sample", taps[first], 1, samples=1)
    raise broken


class _Sums:
    """The running figures of one value of `channels` channels at `pixels` places of each of `total` samples."""

    def __init__(self, pixels: int, channels: int, total: int, threshold: float, moments: bool) -> None:
        self.total, self.places, self.threshold = total, total * pixels, threshold
        used = min(pixels, max(1, (MOST_ROWS if channels <= WIDE else WIDE_ROWS) // max(1, total)))
        self.used = np.sort(np.random.default_rng(0).permutation(pixels)[:used]) if used < pixels else slice(None)
        self.least, self.most = np.full(channels, np.inf, np.float32), np.full(channels, -np.inf, np.float32)
        self.fired = np.zeros(channels, np.int64)
        self.moments = moments
        self.products = Products(channels, channels) if moments else Products(0, 0)

    def add(self, value: Array) -> None:
        """Adds one batch (n, pixels, channels); products are summed in float64."""
        self.least, self.most = (np.minimum(self.least, value.min(axis=(0, 1))),
                                 np.maximum(self.most, value.max(axis=(0, 1))))  # fmt: skip
        self.fired = self.fired + (np.abs(value).max(axis=1) > self.threshold).sum(axis=0)
        if self.moments:
            self.products.add(value[:, self.used].reshape(-1, value.shape[2]).astype(np.float64))

    def joined(self, name: str, reduced: Reduced) -> Statistics:
        """The figures over the samples of all processes."""
        ends = reduced("min", self.least), reduced("max", self.most), reduced("sum", self.fired)
        own = self.products.joined(reduced)
        return Statistics(name, self.total, self.places, own.rows, *ends, own.mean, own.covariance)


def _alone(how: str, array: Array) -> Array:
    """What `Reduced` is in one process: the array."""
    del how
    return array


def aligned(a: Array, b: Array) -> Iterator[tuple[Array, Array]]:
    """Two maps (n, c, *size) as (c, pixels) in float64, the smaller upsampled by nearest to the larger, in parts of a
    few samples.
    """
    size = tuple(max(p, q) for p, q in zip(a.shape[2:], b.shape[2:], strict=True))
    some = max(1, JOINT_BYTES // max(1, 8 * max(a.shape[1], b.shape[1]) * prod(size)))
    for start in range(0, len(a), some):
        yield _upsampled(a[start : start + some], size), _upsampled(b[start : start + some], size)


def _upsampled(value: Array, size: tuple[int, ...]) -> Array:
    for axis, (have, want) in enumerate(zip(value.shape[2:], size, strict=True)):
        if have != want:
            value = value.take(np.arange(want) * have // want, axis=axis + 2)
    return np.moveaxis(value, 1, 0).reshape(value.shape[1], -1).astype(np.float64)
