"""Where the error of a quantised network comes from: signal to noise of each layer's output against float32.

Two ratios for each layer, in decibels, 10 · log10(Σ exact² / Σ (exact − quantised)²): its *own* noise, when it alone is
quantised and reads exact numbers that are put on its grid, and the *whole* noise, with all layers before it quantised.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, log10
from typing import Any

import numpy as np

from dojang.arith.graph import Graph, Node
from dojang.engine.compiled import compile
from dojang.evidence.histograms import Fed
from dojang.slimming.quantising import Calibration, Quantised, layers_of, quantised
from dojang.slimming.result import LayerBits

LEAST_DB = 20.0
"""A layer whose own noise is nearer to its signal than this keeps its floats: at 20 dB the error is a tenth of the
output. 8 bits of a value that is spread evenly give about 48 dB, of one with a normal distribution about 40."""


@dataclass
class Noise:
    """Sums of squares of a value, and of its error."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, exact: np.ndarray, found: np.ndarray) -> None:
        """Adds the numbers of a batch."""
        wide = exact.astype(np.float64)
        self.signal += float(np.square(wide).sum())
        self.noise += float(np.square(found - wide).sum())

    @property
    def db(self) -> float:
        """Infinite without noise, and −inf for noise where there is no signal."""
        if not self.noise > 0:
            return inf if self.noise == 0 else -inf
        return 10 * log10(self.signal / self.noise) if self.signal > 0 else -inf


def finite(db: float) -> float | None:
    """As JSON has it."""
    return db if np.isfinite(db) else None


def noises(graph: Graph, made: Quantised, batches: Iterable[Fed]) -> tuple[dict[str, Noise], dict[str, Noise]]:
    """Own and whole noise of each layer that was quantised, by name, in one pass over batches of samples."""
    layers = [node for node in layers_of(graph) if node.name in made.layers]
    own, whole = ({node.name: Noise() for node in layers} for _ in range(2))
    alone = {node.name: compile(_alone(graph, made, node), threads=1) for node in layers}
    inputs = {node.name for node in graph.inputs}
    names = dict.fromkeys(name for node in layers for name in (node.name, node.inputs[0]) if name not in inputs)
    exact, small = compile(graph), compile(made.graph)
    for batch in batches:
        fed: Mapping[str, Any] = batch if isinstance(batch, Mapping) else {graph.inputs[0].name: np.asarray(batch)}
        right = dict(exact.run(batch, taps=list(names)).taps) | dict(fed)
        found = small.run(batch, taps=[node.name for node in layers]).taps
        for node in layers:
            value = np.asarray(right[node.name])
            whole[node.name].add(value, found[node.name])
            own[node.name].add(value, alone[node.name](np.asarray(right[node.inputs[0]], np.float32)))
    return own, whole


def _alone(graph: Graph, made: Quantised, node: Node) -> Graph:
    """One quantised layer as a network, its input on its grid."""
    reader = made.graph[node.name]
    source = made.graph[reader.inputs[0]]
    while source.op != "fake_quantize":
        source = made.graph[source.inputs[0]]
    shape: Any = graph.unit_shapes[node.inputs[0]]
    nodes = (
        Node.of("x", "input", shape=tuple(shape[1:])),
        Node.of("grid", "fake_quantize", "x", **source.attrs),
        Node.of(node.name, reader.op, "grid", arrays=reader.arrays, **reader.attrs),
    )
    held = {node.array(role) for role in graph.node_params(node)}
    weights = {name: made.graph.weights[name] for name in held}
    return Graph(nodes, (node.name,), weights=weights)


def measured(
    graph: Graph, known: Calibration, some: Sequence[Fed], floats: Mapping[str, str] | None = None, method: str = "mse",
    correct: bool = True,
) -> tuple[Quantised, tuple[LayerBits, ...]]:  # fmt: skip
    """A prepared network in 8 bits and one row for each layer, its noise measured on `some` samples.

    Layers in `floats` keep their real numbers for the reasons given there, and so do those whose own noise is nearer
    than `LEAST_DB` to their signal.
    """
    why = dict(floats or {})
    made = quantised(graph, known, method, correct, why)
    own, whole = noises(graph, made, some)
    bad = {name: noise.db for name, noise in own.items() if noise.db < LEAST_DB}
    if bad:
        why |= {
            name: "its weights or inputs in 8 bits leave no signal" if db == -inf else
            f"its own signal to noise is {db:.1f} dB, below the limit of {LEAST_DB:g} dB" for name, db in bad.items()
        }  # fmt: skip
        made = quantised(graph, known, method, correct, why)
        _, whole = noises(graph, made, some)
    return made, table(graph, made, own, whole, why)


def table(graph: Graph, made: Quantised, own: Mapping[str, Noise], whole: Mapping[str, Noise], why: Mapping[str, str]
          ) -> tuple[LayerBits, ...]:  # fmt: skip
    """One row for each layer in order; `why` says it of those that keep their floats."""
    rows: list[LayerBits] = []
    for node in graph.nodes:
        if node.op not in ("conv", "conv_transpose", "dense"):
            continue
        size = int(np.prod(graph.node_params(node)["weight"]))
        done = node.name in made.layers
        reason = "" if done else why.get(node.name, "its kind of layer is not quantised")
        a, b = own.get(node.name), whole.get(node.name)
        rows.append(
            LayerBits(node.name, node.op, size, 8 if done else 32, a and finite(a.db), b and finite(b.db), reason)
        )
    return tuple(rows)
