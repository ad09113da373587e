"""A last layer that starts anew, where a trained network is to tell other classes apart."""

from __future__ import annotations

import numpy as np

from dojang.arith.graph import Graph, Node
from dojang.base.errors import UnsupportedError

DEVIATION = 0.01
"""Of the first weights of a new last layer: small, so that its first answers do not shake the layers before it."""

_THROUGH = ("softmax", "log_softmax", "flatten", "reshape", "dropout", "identity", "global_avgpool", "avgpool",
            "adaptive_avgpool", "relu", "squeeze")  # fmt: skip


def head_of(graph: Graph) -> Node:
    """The layer that gives one number per class: the last dense layer or convolution before the output.

    Raises UnsupportedError where something else stands there.
    """
    if len(graph.outputs) != 1:
        raise UnsupportedError(f"{graph.name}: has {len(graph.outputs)} outputs; a new last layer needs one")
    node = graph.by_name[graph.outputs[0]]
    while node.op not in ("dense", "conv"):
        if node.op not in _THROUGH or len(node.inputs) != 1:
            raise UnsupportedError(
                f"{graph.name}: its last layer {node.name} ({node.op}) cannot be replaced; a dense layer or a "
                "convolution can; give a network with as many outputs as the data have"
            )
        node = graph.by_name[node.inputs[0]]
    shared = [
        n.name
        for n in graph.nodes
        if n is not node and {n.array(r) for r in graph.node_params(n)} & arrays_of(node, graph)
    ]
    if shared or node.attrs.get("groups", 1) != 1:
        why = f"shares its weights with {shared[0]}" if shared else "is grouped"
        raise UnsupportedError(f"{graph.name}: its last layer {node.name} {why} and cannot be replaced")
    return node


def arrays_of(node: Node, graph: Graph) -> set[str]:
    """The names of a node's arrays."""
    return {node.array(role) for role in graph.node_params(node)}


def resized(graph: Graph, outputs: int) -> Graph:
    """The network with so many outputs, without weights."""
    head = head_of(graph)
    nodes = tuple(n.with_attrs(out=outputs) if n is head else n for n in graph.nodes)
    return graph.replace(nodes=nodes, weights={})


def with_new_head(graph: Graph, outputs: int, seed: int) -> tuple[Graph, tuple[str, ...]]:
    """The network with a last layer that gives so many numbers and starts anew, and the names of its arrays.

    Weights are normal with deviation `DEVIATION`, biases 0; the other layers keep theirs.
    """
    head = head_of(graph)
    new = resized(graph, outputs)
    fresh = arrays_of(head, graph)
    rng = np.random.default_rng([seed, 0x4EAD])
    weights = {name: array for name, array in graph.weights.items() if name not in fresh}
    for name in sorted(fresh):
        shape = new.param_shapes[name]
        values = rng.normal(0, DEVIATION, shape) if len(shape) > 1 else np.zeros(shape)
        weights[name] = values.astype(np.float32)
    meta = {key: value for key, value in new.meta.items() if key != "classes"}
    return new.replace(weights=weights, meta=meta), tuple(sorted(fresh))
