"""Networks with and without groups of filters, drawn by a rule, for the finding `low-correlation`; its oracle is how
they were made. `bench/low_correlation.py` draws many, the tests a few.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from digits import digits
from dojang.arith.graph import Graph, Node
from nets import N, conv, net

WIDTHS = (8, 16, 32, 64)
INPUTS = ("digits", "normal", "white noise", "smooth")
SHAPES = ("plain", "norms", "residual", "pooled", "pointwise")


@dataclass(frozen=True)
class Drawn:
    """A network, samples for it, and how both came to be. `groups`: of the layer `b`, 1 where none were planted."""

    graph: Graph
    x: np.ndarray
    said: str
    groups: int = 1


def samples(kind: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` inputs (n, c, h, w): digits, white noise of one channel, normal numbers of three, or smooth pictures."""
    if kind == "digits":
        x = digits()[0]
        return x[rng.permutation(len(x))[:count]]
    shape = (count, 1 if kind == "white noise" else 3, 8, 8)
    x = rng.normal(size=shape).astype(np.float32)
    if kind == "smooth":
        for axis in (2, 3):
            x = (x + np.roll(x, 1, axis) + np.roll(x, 2, axis)) / np.sqrt(3).astype(np.float32)
    return x


def built(shape: str, width: int, channels: int, wide: int) -> Graph:
    """A small network of the shape; its layer `b` has `width` channels in and `wide` out."""
    k = 1 if shape == "pointwise" else 3
    nodes: list[Node] = [conv("a", "x", width), N("ra", "relu", "a")]
    last = "ra"
    if shape == "norms":
        nodes[1:] = [N("na", "batchnorm", "a"), N("ra", "relu", "na")]
    if shape == "pooled":
        nodes.append(N("p", "maxpool", last, kernel=(2, 2)))
        last = "p"
    nodes += [conv("b", last, wide, k), N("rb", "relu", "b")]
    last = "rb"
    if shape == "residual" and width == wide:
        nodes += [conv("r", last, wide), N("s", "add", "r", "ra"), N("rs", "relu", "s")]
        last = "rs"
    nodes += [conv("c", last, width), N("rc", "relu", "c"), N("g", "global_avgpool", "rc"), N("f", "flatten", "g"),
              N("y", "dense", "f", out=10)]  # fmt: skip
    return net(*nodes, shape=(channels, 8, 8))


def initialised(graph: Graph, rng: np.random.Generator, uniform: bool = False) -> Graph:
    """He initialisation: deviation √(2 / fan-in), normal or uniform; no bias; batch norms of 1 and 0."""
    weights = {}
    for name, shape in graph.param_shapes.items():
        if len(shape) == 1:
            ones = name.startswith("n") and name.endswith(("weight", "running_var"))
            weights[name] = np.full(shape, float(ones), np.float32)
            continue
        scale = np.sqrt(2 / np.prod(shape[1:]))
        value = rng.uniform(-np.sqrt(3), np.sqrt(3), shape) if uniform else rng.normal(size=shape)
        weights[name] = (scale * value).astype(np.float32)
    return graph.with_weights(weights)


def untrained(seed: int, count: int = 256) -> Drawn:
    """A network that nobody trained; in one of four, half the channels of its first and second layer are dead."""
    rng = np.random.default_rng((1, seed))
    width, wide = rng.choice(WIDTHS, 2).tolist()
    kind, shape, uniform = str(rng.choice(INPUTS)), str(rng.choice(SHAPES)), bool(rng.random() < 0.25)
    x = samples(kind, count, rng)
    graph = initialised(built(shape, width, x.shape[1], wide), rng, uniform)
    dead = bool(rng.random() < 0.25)
    if dead:
        weights = {k: np.array(v) for k, v in graph.weights.items()}
        for layer in "ab":
            gone = rng.permutation(len(weights[f"{layer}.weight"]))[::2]
            weights[f"{layer}.weight"][gone] = 0
            weights[f"{layer}.bias"][gone] = -1
        graph = graph.replace(weights=weights)
    said = f"{shape}, {width} to {wide} channels, {kind}{', uniform' if uniform else ''}{', half dead' if dead else ''}"
    return Drawn(graph, x, said)


def planted(seed: int, groups: int, count: int = 256) -> Drawn:
    """Layer `b` in groups, its channels in random orders, with noise of up to a tenth of the weights everywhere."""
    rng = np.random.default_rng((2, groups, seed))
    width, wide = rng.choice([w for w in WIDTHS if w >= 2 * groups], 2).tolist()
    kind, shape, noise = str(rng.choice(INPUTS)), str(rng.choice(SHAPES)), float(rng.uniform(0, 0.1))
    x = samples(kind, count, rng)
    graph = initialised(built(shape, width, x.shape[1], wide), rng)
    weights = {k: np.array(v) for k, v in graph.weights.items()}
    rows, columns = rng.permutation(width) % groups, rng.permutation(wide) % groups
    weights["b.weight"][columns[:, None] != rows] *= noise
    said = f"{groups} groups, {shape}, {width} to {wide} channels, {kind}, noise {noise:.3f}"
    return Drawn(graph.replace(weights=weights), x, said, groups)


def grouped_already(seed: int, groups: int, count: int = 256) -> Drawn:
    """Layer `b` is a grouped one."""
    rng = np.random.default_rng((3, groups, seed))
    width, wide = rng.choice([w for w in WIDTHS if w >= 2 * groups], 2).tolist()
    kind, shape = str(rng.choice(INPUTS)), str(rng.choice(SHAPES))
    x = samples(kind, count, rng)
    plain = built(shape, width, x.shape[1], wide)
    graph = initialised(plain.edited({"b": plain["b"].with_attrs(groups=groups)}), rng)
    return Drawn(graph, x, f"{groups} groups already, {shape}, {width} to {wide} channels, {kind}", groups)
