"""What a cut would lose and save, estimated: so that only the few best are timed, and fewer still are tuned."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.engine.compiled import Compiled
from dojang.engine.session import Session
from dojang.slimming.norm_statistics import with_measured_norms

Array = np.ndarray

Predict = Callable[[Graph], float]
"""Predicted milliseconds of one run; only ratios between networks are used."""

SCORED = 128
"""Samples that a loss is estimated on, at most."""

SCORED_MACS = 2e10
"""Multiplications that one estimate may spend, but 16 samples at least."""

COMPILED = 2e9
"""From so many multiplications on, compiling the network pays."""


def by_macs(graph: Graph) -> float:
    """A prediction where there is no better one: time as multiplications, with a layer worth ten thousand of them."""
    return (count(graph).total.macs + 1e4 * len(graph.nodes)) * 1e-6


def shape_key(graph: Graph) -> str:
    """Equal for networks that differ in their weights and names only, which take the same time.

    So a network without its first of two equal blocks and the one without its second are timed once.
    """
    place = {node.name: at for at, node in enumerate(graph.nodes)}
    told = repr([
        (n.op, [place[i] for i in n.inputs], sorted(n.attrs.items(), key=lambda kv: kv[0])) for n in graph.nodes
    ])  # fmt: skip
    return hashlib.sha256(f"{told} {[place[o] for o in graph.outputs]}".encode()).hexdigest()


class OutputChange:
    """How far a network's outputs move from those of one network, on the same few samples.

    Relative squared change Σ (y' - y)² / Σ (y - ȳ)², ȳ the mean over samples: 0 when nothing changes, about 1 when the
    outputs say nothing any more. Unlike an accuracy it tells small changes apart. No labels are needed.

    Both networks answer with the batch norm statistics of these samples: with those of the network before the cut, a
    branch that is gone seems to cost up to 2.7 times as much (ResNet-20), and channels would always be cut first.
    """

    def __init__(self, graph: Graph, samples: Any) -> None:
        """Runs `graph`, the one to compare with."""
        macs = max(1, count(graph).total.macs)
        most = int(np.clip(SCORED_MACS / macs, 16, SCORED))
        self.x: Any = {k: v[:most] for k, v in samples.items()} if isinstance(samples, Mapping) else samples[:most]
        self.norms = any(node.op == "batchnorm" for node in graph.nodes)
        self.compiled = macs * most > COMPILED
        self.wanted = self._run(graph)
        spread = sum(float(np.square(o - o.mean(axis=0)).sum(dtype=np.float64)) for o in self.wanted)
        self.scale = spread or sum(float(np.square(o).sum(dtype=np.float64)) for o in self.wanted) or 1.0

    def of(self, graph: Graph) -> float:
        """The change that another network of the same inputs and outputs makes."""
        moved = zip(self._run(graph), self.wanted, strict=True)
        return sum(float(np.square(a - b).sum(dtype=np.float64)) for a, b in moved) / self.scale

    def _run(self, graph: Graph) -> list[Array]:
        if self.norms:
            return with_measured_norms(graph, self.x)[1]
        # strict: weights are packed as they are, which is quicker here than to transform and run fewer multiplications
        run = Compiled(graph, precision="strict").run if self.compiled else Session(graph).run
        return [np.asarray(o, np.float32) for o in run(self.x).outputs]
