"""What can be settled before a network runs: weights computed from its own arrays, strided slices in one."""

from __future__ import annotations

import numpy as np

from dojang.arith.field import constants
from dojang.arith.graph import Graph, Node, reachable
from dojang.arith.shapes import axis_of
from dojang.engine.reference.operators import apply


def settled(graph: Graph) -> Graph:
    """The network with `constant_kernels` and `strided_once`; one that has nothing of the kind as it is."""
    return strided_once(constant_kernels(graph))


def strided_once(graph: Graph) -> Graph:
    """The network with every s-th row and every t-th column taken in one pass: `x[:, :, ::s]`, then `[:, :, :, ::t]`.

    As a pooling of single places, which shortcuts of residual networks are. Slices that begin elsewhere than at 0, end
    before the end, or are read or asked for in between stay.
    """
    moved: dict[str, Node | tuple[Node, ...]] = {}
    for node in graph.nodes:
        first = graph[node.inputs[0]] if node.inputs and node.op == "slice" else None
        if first is None or first.op != "slice" or first.name in graph.outputs or first.name in moved:
            continue
        shape = graph.unit_shapes[first.inputs[0]]
        if shape is None or len(shape) != 4 or len(graph.consumers[first.name]) != 1:
            continue
        strides = {axis_of(n.attrs["axis"], 4): _step(n, graph.unit_shapes[n.inputs[0]] or ()) for n in (first, node)}
        if set(strides) != {2, 3} or None in strides.values():
            continue
        pool = Node.of(node.name, "maxpool", first.inputs[0], kernel=(1, 1), stride=(strides[2], strides[3]))
        moved |= {node.name: pool, first.name: ()}
    return graph.edited(moved) if moved else graph


def _step(node: Node, shape: tuple[int, ...]) -> int | None:
    """The step of a slice that takes every so many places of its axis from the first on; None for others."""
    a, size = node.attrs, shape[axis_of(node.attrs["axis"], len(shape))]
    taken = range(size)[slice(a["start"], a["stop"], a["step"])]
    return a["step"] if a["step"] >= 1 and taken == range(0, size, a["step"]) else None


def constant_kernels(graph: Graph) -> Graph:
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
