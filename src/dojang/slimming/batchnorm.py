"""Batch normalisation folded into the convolution or dense layer before it.

y = (W·x + b − μ) · γ/√(σ² + ε) + β = (sW)·x + s(b − μ) + β with s = γ/√(σ² + ε); no reader of W·x but the norm.
"""

from __future__ import annotations

import numpy as np

from dojang.arith.graph import Graph, Node
from dojang.evidence.evidence import Evidence
from dojang.slimming.absorb import owns_arrays, shared_arrays
from dojang.slimming.rewrite import Applied, Rewrite


def apply(known: Evidence) -> Applied | None:
    """Folds every batch norm that has a layer of its own before it."""
    graph, folded = known.graph, list[str]()
    while True:
        pair = _next(graph)
        if pair is None:
            break
        layer, norm = pair
        folded.append(norm.name)
        graph = _fold(graph, layer, norm)
    return Applied(graph, tuple(folded), f"{len(folded)} batch norms") if folded else None


def _next(graph: Graph) -> tuple[Node, Node] | None:
    shared = shared_arrays(graph)
    for norm in graph.nodes:
        if norm.op != "batchnorm":
            continue
        layer, shape = graph[norm.inputs[0]], graph.unit_shapes[norm.inputs[0]]
        if layer.op not in ("conv", "conv_transpose", "dense") or shape is None:
            continue
        alone = len(graph.consumers[layer.name]) == 1 and layer.name not in graph.outputs
        features_last = layer.op == "dense" and len(shape) != 2  # then the norm's channels are not the layer's
        if alone and not features_last and owns_arrays(graph, layer, shared) and owns_arrays(graph, norm, shared):
            return layer, norm
    return None


def scale_and_shift(graph: Graph, norm: Node) -> tuple[np.ndarray, np.ndarray]:
    """s and t of the norm written as s·x + t, in float64."""
    mean, var = (np.asarray(graph.weights[norm.array(r)], np.float64) for r in ("running_mean", "running_var"))
    scale = 1 / np.sqrt(var + norm.attrs["eps"])
    if norm.attrs["affine"]:
        weight, bias = (np.asarray(graph.weights[norm.array(r)], np.float64) for r in ("weight", "bias"))
        return scale * weight, bias - mean * scale * weight
    return scale, -mean * scale


def _fold(graph: Graph, layer: Node, norm: Node) -> Graph:
    scale, shift = scale_and_shift(graph, norm)
    weight = np.asarray(graph.weights[layer.array("weight")])
    if layer.op == "conv_transpose":  # (ic, oc/g, *k): output channels run over groups, then within
        groups = layer.attrs["groups"]
        rows = weight.shape[1]
        by_group = scale.reshape(groups, 1, rows, *([1] * (weight.ndim - 2)))
        scaled = (weight.reshape(groups, -1, *weight.shape[1:]) * by_group).reshape(weight.shape)
    else:
        scaled = weight * scale.reshape(-1, *([1] * (weight.ndim - 1)))
    bias = np.asarray(graph.weights[layer.array("bias")]) * scale if layer.attrs["bias"] else 0.0
    arrays = {
        layer.array("weight"): scaled.astype(weight.dtype),
        layer.array("bias"): (bias + shift).astype(weight.dtype),
    }
    return graph.edited({layer.name: layer.with_attrs(bias=True), norm.name: ()}, {norm.name: layer.name}, arrays)


FOLD_BATCHNORM = Rewrite("fold-batchnorm", "exact", "batch norms folded into the layers before them", apply)
