"""Cross-layer equalisation: channels between two layers scaled so that the weights on both sides have equal ranges.

Between the layers stand only functions with f(s · x) = s · f(x) for s > 0, channel by channel (ReLU, poolings), so that
a channel can be made 1/s as large before them and s times as large behind them (Nagel et al. 2019, "Data-Free
Quantization Through Weight Equalization and Bias Correction", section 4.1). Here s is a power of two: sums and products
of binary floating-point numbers round alike under it, and the outputs stay the same bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dojang.arith.graph import Graph, Node
from dojang.evidence.evidence import Evidence
from dojang.slimming.quantising import layers_of
from dojang.slimming.rewrite import Applied, Rewrite

HOMOGENEOUS = frozenset(
    "relu leaky_relu maxpool avgpool global_avgpool adaptive_avgpool dropout identity flatten".split()
)
SWEEPS, MOST_POWER = 20, 24


@dataclass(frozen=True)
class Between:
    """Two layers with channels between them that can be scaled."""

    first: Node
    second: Node


def pairs(graph: Graph, layers: list[Node]) -> list[Between]:
    """The layers whose outputs only one other layer reads, through functions that scaling passes."""
    names = {node.name for node in layers}
    readers: dict[str, int] = {}
    for node in graph.nodes:
        for role in graph.node_params(node):
            readers[node.array(role)] = readers.get(node.array(role), 0) + 1
    alone = {n.name for n in layers if all(readers[n.array(role)] == 1 for role in graph.node_params(n))}
    found: list[Between] = []
    for first in layers:
        node = first
        while True:
            after = graph.consumers[node.name]
            if len(after) != 1 or node.name in graph.outputs:
                break
            node = after[0]
            if node.name in names:
                channels = graph.node_params(first)["weight"][0]
                if {first.name, node.name} <= alone and _inputs(graph, node) == channels:
                    found.append(Between(first, node))
                break
            if node.op not in HOMOGENEOUS or (node.op == "leaky_relu" and not node.attrs.get("slope", 0.0) >= 0):
                break
    return found


def _inputs(graph: Graph, node: Node) -> int:
    """Input channels of a layer; of a dense layer behind a flattening those whose places are one number."""
    return graph.node_params(node)["weight"][1] * node.attrs.get("groups", 1)


def by_input(weight: np.ndarray, groups: int) -> np.ndarray:
    """Weights (oc, ic / groups, …) as (ic, whatever reads that channel): a view of the same numbers."""
    oc, per = weight.shape[:2]
    apart = weight.reshape(groups, oc // groups, per, -1)
    return apart.transpose(0, 2, 1, 3).reshape(groups * per, -1)


def scaled(weight: np.ndarray, factor: np.ndarray, groups: int) -> np.ndarray:
    """Weights with each input channel multiplied by its factor (ic,)."""
    oc, per = weight.shape[:2]
    own = factor.reshape(groups, 1, per, 1)
    return (weight.reshape(groups, oc // groups, per, -1) * own).reshape(weight.shape)


def factors(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The power of two for each channel by which the layer before is divided and the one behind multiplied, from the
    largest weights of both.

    >>> factors(np.array([8.0, 1.0, 0.0]), np.array([0.5, 1.0, 2.0]))
    array([4., 1., 1.])
    """
    usable = (first > 0) & (second > 0) & np.isfinite(first) & np.isfinite(second)
    ratio = np.where(usable, first, 1.0) / np.where(usable, second, 1.0)
    return np.exp2(np.clip(np.rint(np.log2(ratio) / 2), -MOST_POWER, MOST_POWER))


def equalised(graph: Graph, layers: list[Node]) -> tuple[Graph, tuple[str, ...]]:
    """The network with its pairs of layers equalised until nothing changes, and the layers that were changed."""
    arrays: dict[str, Any] = dict(graph.weights)
    changed: dict[str, None] = {}
    every = pairs(graph, layers)
    for _ in range(SWEEPS):
        moved = False
        for pair in every:
            first, second = pair.first, pair.second
            groups = second.attrs.get("groups", 1)
            before, behind = (np.asarray(arrays[n.array("weight")]) for n in (first, second))
            own = np.abs(before.reshape(len(before), -1)).max(1, initial=0).astype(np.float64)
            s = factors(own, np.abs(by_input(behind, groups)).max(1, initial=0).astype(np.float64))
            if np.all(s == 1):
                continue
            moved = True
            changed |= {first.name: None, second.name: None}
            s = s.astype(before.dtype)
            arrays[first.array("weight")] = before / s.reshape(-1, *(1,) * (before.ndim - 1))
            if first.attrs["bias"]:
                arrays[first.array("bias")] = np.asarray(arrays[first.array("bias")]) / s
            arrays[second.array("weight")] = scaled(behind, s, groups)
        if not moved:
            break
    return graph.replace(weights=arrays), tuple(n.name for n in graph.nodes if n.name in changed)


def apply(known: Evidence) -> Applied | None:
    """The rewrite, over all convolutions and dense layers; None where nothing is to be equalised."""
    graph, changed = equalised(known.graph, layers_of(known.graph))
    return (
        Applied(graph, changed, f"{len(changed)} layers have equal ranges of weights by channel") if changed else None
    )


EQUALISE = Rewrite(
    "equalise-layers",
    "exact",
    "channels between layers scaled so that the weights on both sides have equal ranges",
    apply,
)
