"""Layer norms that exporters write out as nodes: means, squares, a root and a quotient, as one node again."""

from __future__ import annotations

import numpy as np

from dojang.arith.graph import Graph, Node
from dojang.engine.scalars import alone, numbers_of


def layer_norms_joined(graph: Graph) -> Graph:
    """The network with a layer norm where its nodes are: d / sqrt(mean(d²) + eps) with d = x − mean(x), the means over
    the last axes, times a constant and plus another one where they follow.

    PyTorch's exporter writes it so below opset 17, Paddle's always. The norm's kernel corrects what rounding leaves of
    the mean. Numbers are taken from the weights, so a network without weights is given back as it is.
    """
    if not graph.weights:
        return graph
    nodes: dict[str, Node] = {}
    weights: dict[str, np.ndarray] = {}
    for node in graph.nodes:
        found = _norm(graph, node)
        if found is None:
            continue
        source, size, eps = found
        scaled = _scaled(graph, node, size)
        if scaled is None:
            nodes[node.name] = Node.of(node.name, "layernorm", source, shape=size, eps=eps, affine=False)
            continue
        last, weight, bias = scaled
        norm = Node.of(last.name, "layernorm", source, shape=size, eps=eps)
        if any(norm.array(role) in graph.weights for role in ("weight", "bias")):
            continue
        nodes[last.name] = norm
        weights |= {norm.array("weight"): weight, norm.array("bias"): bias}
    return graph.edited(nodes, weights=weights) if nodes else graph


def _norm(graph: Graph, node: Node) -> tuple[str, tuple[int, ...], float] | None:
    """(value, its last axes, eps) of the quotient that ends a norm without factors; None for other nodes."""
    if node.op != "div" or len(node.inputs) != 2:
        return None
    apart, root = (graph[i] for i in node.inputs)
    if apart.op != "sub" or root.op != "sqrt" or not alone(graph, root) or apart.name in graph.outputs:
        return None
    raised = graph[root.inputs[0]]
    if raised.op != "add" or not alone(graph, raised):
        return None
    for mean, eps in (raised.inputs, raised.inputs[::-1]):
        number = numbers_of(graph, eps)
        variance = graph[mean]
        if number is None or number.size != 1 or variance.op != "reduce_mean" or not alone(graph, variance):
            continue
        squares = graph[variance.inputs[0]]
        if not _is_square(graph, squares, apart.name) or not alone(graph, squares):
            continue
        if {reader.name for reader in graph.consumers[apart.name]} != {squares.name, node.name}:
            continue
        source = _centred(graph, apart, variance)
        size = source and _last_axes(graph, source, variance)
        if source and size:
            return source, size, float(number.reshape(-1)[0])
    return None


def _is_square(graph: Graph, node: Node, name: str) -> bool:
    """Whether a node is the square of a value."""
    if node.op == "mul":
        return node.inputs == (name, name)
    exponent = numbers_of(graph, node.inputs[1]) if node.op == "pow" and node.inputs[0] == name else None
    return exponent is not None and exponent.size == 1 and float(exponent.reshape(-1)[0]) == 2.0


def _centred(graph: Graph, node: Node, variance: Node) -> str | None:
    """The value whose mean over the axes of `variance` a difference takes away; None for other differences."""
    source, mean = node.inputs[0], graph[node.inputs[1]]
    fits = mean.op == "reduce_mean" and mean.inputs == (source,) and mean.attrs == variance.attrs
    return source if fits and alone(graph, mean) else None


def _last_axes(graph: Graph, source: str, mean: Node) -> tuple[int, ...] | None:
    """The sizes of the axes of a mean that keeps them, where they are the last ones and no size is open."""
    shape, axes = graph.unit_shapes[source], mean.attrs["axes"]
    if shape is None or not mean.attrs["keepdims"] or not axes:
        return None
    over = sorted(a % len(shape) for a in axes)
    size = shape[over[0] :]
    whole = over == list(range(over[0], len(shape))) and over[0] > 0
    return size if whole and all(isinstance(s, int) for s in size) else None


def _scaled(graph: Graph, node: Node, size: tuple[int, ...]) -> tuple[Node, np.ndarray, np.ndarray] | None:
    """(the sum, factors, summands) of a product with and a sum of constants of this size behind a node, in that order;
    None where there are none, or the middle is read elsewhere."""
    found: list[np.ndarray] = []
    for op in ("mul", "add"):
        if not alone(graph, node):
            return None
        reader = graph.consumers[node.name][0]
        if reader.op != op or len(reader.inputs) != 2:
            return None
        held = numbers_of(graph, next((i for i in reader.inputs if i != node.name), node.name))
        if held is None or held.shape[held.ndim - len(size) :] != size or held.size != np.prod(size):
            return None
        if graph.unit_shapes[reader.name] != graph.unit_shapes[node.name]:  # a constant of more axes adds some
            return None
        found.append(held.reshape(size).astype("f8" if graph.types[reader.name] == "float64" else "f4"))
        node = reader
    return node, found[0], found[1]
