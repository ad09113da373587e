"""Constants that exporters write out as nodes, put where kernels apply them: x·s + b as a norm, hard swishes whole."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite, prod

import numpy as np

from dojang.arith.graph import Graph, Node

EPS = 1e-5
CONVS = ("conv", "conv_transpose")


def scalars_joined(graph: Graph) -> Graph:
    """The network with a hard swish where its five nodes are, and with a batch norm in place of products with and sums
    of one number, or one per channel. A convolution before it takes it into its weights; alone it is one step.

    Numbers are taken from the weights, so a network without weights is given back as it is. The norm is computed in
    float64 and rounded once, where the nodes round twice.
    """
    if not graph.weights:
        return graph
    return _norms(_hard_swishes(graph), bool(graph.precisions))


def joined_to_layers(graph: Graph) -> Graph:
    """The same, with norms behind convolutions alone, and one number beside other values left as it is."""
    return _norms(_hard_swishes(graph), True) if graph.weights else graph


def _hard_swishes(graph: Graph) -> Graph:
    """x · clip(x + 3, 0, 6) / 6."""
    found = {node.name: swish for node in graph.nodes if (swish := _hard_swish(graph, node)) is not None}
    return graph.edited(found) if found else graph


def _hard_swish(graph: Graph, node: Node) -> Node | None:
    """The hard swish that a node is the last one of; the middle of it is read by nothing else."""
    by_six = {"div": 6.0, "mul": 1 / 6}.get(node.op)
    inner = _other(graph, node, by_six) if by_six else None
    if inner is None or inner.op != "mul" or not alone(graph, inner):
        return None
    for x, gate in (inner.inputs, inner.inputs[::-1]) if len(inner.inputs) == 2 else ():
        clip = graph[gate]
        if clip.op != "clip" or (clip.attrs["min"], clip.attrs["max"]) != (0.0, 6.0) or not alone(graph, clip):
            continue
        moved = graph[clip.inputs[0]]
        source = _other(graph, moved, 3.0) if moved.op == "add" else None
        if source is not None and source.name == x and alone(graph, moved):
            return Node.of(node.name, "hard_swish", x)
    return None


def _other(graph: Graph, node: Node, number: float) -> Node | None:
    """The operand beside a constant of one number; the constant is the second one of a quotient."""
    if len(node.inputs) != 2:
        return None
    for value, constant in (node.inputs, node.inputs[::-1])[: 1 if node.op == "div" else 2]:
        held = numbers_of(graph, constant)
        if held is not None and held.size == 1 and np.isclose(float(held.reshape(-1)[0]), number, rtol=1e-6, atol=0):
            return graph[value]
    return None


def alone(graph: Graph, node: Node) -> bool:
    """Whether one node reads a value, and nobody else needs it."""
    return len(graph.consumers[node.name]) == 1 and node.name not in graph.outputs


def numbers_of(graph: Graph, name: str) -> np.ndarray | None:
    """The numbers of a constant; None for other nodes, and where they are many."""
    node = graph[name]
    if node.op != "constant" or prod(node.attrs["shape"]) > 1 << 14:
        return None
    if node.attrs["fill"] is not None:
        return np.full(node.attrs["shape"], node.attrs["fill"], np.float64)
    arrays = [node.array(role) for role in graph.node_params(node)]
    if len(arrays) != 1 or arrays[0] not in graph.weights:
        return None
    return np.asarray(graph.weights[arrays[0]], np.float64).reshape(node.attrs["shape"])


def _norms(graph: Graph, quantised: bool) -> Graph:
    """Batch norms for chains of products and sums with constants; each ends where something else reads its middle.

    `quantised`: functions of one number stay behind what is no convolution, as they are applied before a value is put
    on its grid.
    """
    nodes: dict[str, Node] = {}
    weights: dict[str, np.ndarray] = {}
    done: set[str] = set()
    for node in graph.nodes:
        step = None if node.name in done else _affine(graph, node, None)
        if step is None:
            continue
        first, scale, shift = step
        last = node
        while alone(graph, last) and (step := _affine(graph, graph.consumers[last.name][0], last.name)) is not None:
            last = graph.consumers[last.name][0]
            scale, shift = np.multiply(scale, step[1]), np.add(np.multiply(shift, step[1]), step[2])
            done.add(last.name)
        one_number = quantised and graph[first].op not in CONVS and np.ndim(scale) == np.ndim(shift) == 0
        if one_number or not _worth(graph, first, node, last):
            continue
        channels = _channels(graph, first)
        assert channels is not None
        norm = Node.of(last.name, "batchnorm", first, eps=EPS)
        made: Mapping[str, float | np.ndarray] = {
            "weight": scale, "bias": shift, "running_mean": 0.0, "running_var": 1.0 - EPS,
        }  # fmt: skip
        arrays = {norm.array(role): np.broadcast_to(np.float64(v), (channels,)).copy() for role, v in made.items()}
        if any(name in graph.weights for name in arrays) or not all(np.isfinite(a).all() for a in arrays.values()):
            continue
        nodes[last.name] = norm
        weights |= arrays
    return graph.edited(nodes, weights=weights) if nodes else graph


def _worth(graph: Graph, source: str, first: Node, last: Node) -> bool:
    """A convolution's weights take the norm if nothing else reads it; else two steps become one."""
    before = graph[source]
    return (before.op in CONVS and alone(graph, before)) or first is not last


def _channels(graph: Graph, name: str) -> int | None:
    """The channels of a value of images."""
    shape = graph.unit_shapes[name]
    return shape[1] if shape is not None and len(shape) >= 3 and isinstance(shape[1], int) else None


def _affine(graph: Graph, node: Node, source: str | None) -> tuple[str, float | np.ndarray, float | np.ndarray] | None:
    """(value, factor, summand) of a product with or sum of one number or one per channel; None for other nodes.

    `source` is the value that it has to read.
    """
    if node.op not in ("mul", "add", "sub", "div") or len(node.inputs) != 2:
        return None
    for value, constant in (node.inputs, node.inputs[::-1])[: 2 if node.op in ("mul", "add") else 1]:
        held = numbers_of(graph, constant)
        channels = _channels(graph, value)
        if held is None or channels is None or (source is not None and value != source) or value == constant:
            continue
        rank = len(graph.unit_shapes[value] or ())
        per_channel = (1,) * (rank - held.ndim) + held.shape
        if held.ndim > rank or (held.size != 1 and per_channel != (1, channels, *(1,) * (rank - 2))):
            continue
        number = held.reshape(-1) if held.size > 1 else float(held.reshape(-1)[0])
        if held.size == 1 and not isfinite(float(held.reshape(-1)[0])):
            return None
        if node.op == "mul":
            return value, number, 0.0
        if node.op == "div":
            return (value, 1.0 / number, 0.0) if np.all(number != 0.0) else None
        return value, 1.0, number if node.op == "add" else -number
    return None
