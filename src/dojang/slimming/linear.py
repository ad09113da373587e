"""Two linear layers in a row, with nothing between them, made one where that costs less.

A 1×1 convolution B after a convolution A: kernel Σ_m B[o,m]·A[m,i,·], bias B·b_A + b_B, exact for any padding of A, for
B has none. Two dense layers alike. B's stride multiplies A's.
"""

from __future__ import annotations

import numpy as np

from dojang.arith.graph import Graph, Node
from dojang.evidence.evidence import Evidence
from dojang.slimming.absorb import owns_arrays, shared_arrays, stands_on_padding
from dojang.slimming.rewrite import Applied, Rewrite, costs_more, total_cost


def apply(known: Evidence) -> Applied | None:
    """Merges pairs until none pays."""
    graph, merged = known.graph, list[str]()
    while True:
        for second in graph.nodes:
            new = _merge(graph, second)
            if new is not None and not costs_more(total_cost(graph), total_cost(new), graph, new):
                merged += [second.inputs[0], second.name]
                graph = new
                break
        else:
            break
    return Applied(graph, tuple(dict.fromkeys(merged)), f"{len(merged) // 2} pairs of layers") if merged else None


def _merge(graph: Graph, second: Node) -> Graph | None:
    """The network with a layer and the one before it made one; None where that is not exact."""
    if second.op not in ("conv", "dense"):
        return None
    first = graph[second.inputs[0]]
    shared = shared_arrays(graph)
    alone = len(graph.consumers[first.name]) == 1 and first.name not in graph.outputs
    if first.op != second.op or not alone or not all(owns_arrays(graph, n, shared) for n in (first, second)):
        return None
    if second.op == "conv" and not _pointwise(graph, second):
        return None
    a, b = (np.asarray(graph.weights[n.array("weight")]) for n in (first, second))
    flat = b.reshape(b.shape[0], -1)
    if first.attrs.get("groups", 1) != 1:
        return None
    weight = np.tensordot(flat.astype(np.float64), a.astype(np.float64), 1)
    bias = np.zeros(second.attrs["out"])
    if first.attrs["bias"]:
        bias = bias + flat @ np.asarray(graph.weights[first.array("bias")], np.float64)
    if second.attrs["bias"]:
        bias = bias + np.asarray(graph.weights[second.array("bias")], np.float64)
    has_bias = first.attrs["bias"] or second.attrs["bias"]
    attrs = {**first.attrs, "out": second.attrs["out"], "bias": has_bias}
    if second.op == "conv":
        attrs["stride"] = tuple(s * t for s, t in zip(first.attrs["stride"], second.attrs["stride"], strict=True))
    node = Node.of(second.name, second.op, *first.inputs, arrays=second.arrays, **attrs)
    arrays = {node.array("weight"): weight.astype(a.dtype)}
    if has_bias:
        arrays[node.array("bias")] = bias.astype(a.dtype)
    return graph.edited({second.name: node, first.name: ()}, weights=arrays)


def _pointwise(graph: Graph, node: Node) -> bool:
    """1×1, one group, no padding."""
    return max(node.attrs["kernel"]) == 1 and node.attrs["groups"] == 1 and not stands_on_padding(graph, node)


MERGE_LINEAR = Rewrite(
    "merge-linear-layers", "exact", "consecutive linear layers become one where that is cheaper", apply
)
