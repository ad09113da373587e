"""Weights that a network computes from its own arrays, computed once, before it runs."""

from __future__ import annotations

import numpy as np

from dojang.arith.field import constants
from dojang.arith.graph import Graph, Node, reachable
from dojang.engine.reference import apply


def settled(graph: Graph) -> Graph:
    """The network with plain convolutions where no input reaches the weights of a `dynamic_conv`.

    What led to the weights alone is dropped; computed in float64, as is folding of batch norms. Other networks are
    given back as they are.
    """
    fixed = constants(graph) if any(node.op == "dynamic_conv" for node in graph.nodes) else set[str]()
    found = [n for n in graph.nodes if n.op == "dynamic_conv" and n.inputs[1] in fixed and n.name not in fixed]
    if not found:
        return graph
    values: dict[str, np.ndarray] = {}
    needed = reachable(graph.nodes, [node.inputs[1] for node in found])
    for node in graph.nodes:
        if node.name in needed:
            arrays = {role: np.asarray(graph.weights[node.array(role)], "f8") for role in graph.node_params(node)}
            values[node.name] = np.asarray(apply(node, [values[i] for i in node.inputs], arrays), "f8")
    nodes = {node.name: _plain(graph, node, values[node.inputs[1]].shape) for node in found}
    weights = {nodes[n.name].array("weight"): values[n.inputs[1]].astype("f4") for n in found}
    return graph.edited(nodes, weights=weights)


def _plain(graph: Graph, node: Node, weight: tuple[int, ...]) -> Node:
    """The convolution that reads its weights from an array, under a name that no array has."""
    source = graph.unit_shapes[node.inputs[0]]
    assert source is not None  # networks that run have no unknown operators
    array = f"{node.name}.weight"
    while array in graph.weights:
        array += "_"
    arrays = {**node.arrays, "weight": array}
    groups = source[1] // weight[1]
    return Node.of(node.name, "conv", node.inputs[0], arrays=arrays, out=weight[0], groups=groups, **node.attrs)
