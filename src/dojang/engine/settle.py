"""What is settled before a network runs: all that is computed from its own arrays, strided slices in one, powers."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from dojang.arith.field import constants
from dojang.arith.graph import Graph, Node, reachable
from dojang.arith.shapes import axis_of
from dojang.engine.reference.operators import apply


def settled(graph: Graph) -> Graph:
    """The network with `constant_kernels`, `summed_products`, `constants_once`, `products` and `strided_once`; one that
    has nothing of the kind as it is.
    """
    return strided_once(products(constants_once(summed_products(constant_kernels(graph)))))


MOST_FOLDED = 1 << 24
"""Numbers that one constant may have after folding: 64 MiB."""


def constants_once(graph: Graph) -> Graph:
    """The network with what depends on no input computed once, in float64: reshaped tables, embeddings, masks.

    A value that is larger than `MOST_FOLDED` is left as it is, and so is an output of the network.
    """
    fixed = constants(graph)
    inner = {n.name for n in graph.nodes if n.name in fixed and n.op != "constant"}
    if not inner:
        return graph
    ends = {n.name for n in graph.nodes if n.name in inner and n.name not in graph.outputs
            and any(c.name not in fixed for c in graph.consumers[n.name])
            and prod(graph.unit_shapes[n.name] or ()) <= MOST_FOLDED}  # fmt: skip
    values = computed(graph, ends)
    moved: dict[str, Node | tuple[Node, ...]] = {}
    weights: dict[str, np.ndarray] = {}
    for name in ends:
        array = f"{name}.value"
        while array in graph.weights:
            array += "_"
        value = values[name].astype("f4")
        moved[name] = Node.of(name, "constant", arrays={"value": array}, shape=value.shape)
        weights[array] = value
    return graph.edited(moved, weights=weights) if moved else graph


def computed(graph: Graph, wanted: set[str]) -> dict[str, np.ndarray]:
    """Values that depend on no input, in float64."""
    values: dict[str, np.ndarray] = {}
    needed = reachable(graph.nodes, list(wanted))
    for node in graph.nodes:
        if node.name in needed:
            arrays = {role: np.asarray(graph.weights[node.array(role)], "f8") for role in graph.node_params(node)}
            values[node.name] = np.asarray(apply(node, [values[i] for i in node.inputs], arrays), "f8")
    return values


def products(graph: Graph) -> Graph:
    """The network with x³, x⁴ and x⁻¹ as products and a quotient."""
    moved: dict[str, Node | tuple[Node, ...]] = {}
    for node in graph.nodes:
        power = graph[node.inputs[1]] if node.op == "pow" else None
        if power is None or power.op != "constant" or prod(graph.unit_shapes[power.name] or ()) != 1:
            continue
        if graph.unit_shapes[node.name] != graph.unit_shapes[node.inputs[0]]:
            continue
        value = computed(graph, {power.name})[power.name].item()
        x = node.inputs[0]
        if value in (3.0, 4.0):
            square = f"{node.name}.square"
            if square not in graph.by_name:
                rest = x if value == 3 else square
                moved[node.name] = (Node.of(square, "mul", x, x), Node.of(node.name, "mul", square, rest))
        elif value == -1.0:
            moved[node.name] = Node.of(node.name, "reciprocal", x)
    return graph.edited(moved) if moved else graph


def summed_products(graph: Graph) -> Graph:
    """The network with every `einsum` of two values as a product of matrices, between changes of the order of axes.

    Indices of both values and the result number the matrices, those of both and not the result are summed over, the
    others are rows and columns. Sums of three and more values, over an index of one value, or over a diagonal stay.
    """
    sums = [node for node in graph.nodes if node.op == "einsum" and len(node.inputs) == 2]
    fixed = constants(graph) if sums else set[str]()
    moved: dict[str, Node | tuple[Node, ...]] = {
        node.name: made for node in sums if (made := _product(graph, node, fixed))
    }
    return graph.edited(moved) if moved else graph


def _product(graph: Graph, node: Node, fixed: set[str]) -> tuple[Node, ...]:
    """The nodes of one einsum; none where it is no product of matrices. No input reaches the values in `fixed`."""
    left, _, right = node.attrs["equation"].replace(" ", "").partition("->")
    one, two = left.split(",")
    shapes = [graph.unit_shapes[i] for i in node.inputs]
    if any(len(set(term)) < len(term) for term in (one, two, right)) or None in shapes:
        return ()
    shared = [c for c in one if c in two and c in right]
    summed = [c for c in one if c in two and c not in right]
    rows, columns = [c for c in one if c not in two], [c for c in two if c not in one]
    if any(c not in right for c in (*rows, *columns)):
        return ()
    if not summed:
        return _outer(node, (one, two), right)
    sizes = {
        c: size
        for term, shape in zip((one, two), shapes, strict=True)
        for c, size in zip(term, shape or (), strict=True)
    }
    # The first axis of a value may be the batch, whose number is not known here: at most one index of each group.
    open_ = {term[0] for term, name in zip((one, two), node.inputs, strict=True) if name not in fixed}

    def merged(group: Sequence[str]) -> list[int]:
        """The sizes of a group of axes as one, -1 where the batch is among them."""
        return [-1 if any(c in open_ for c in group) else prod(sizes[c] for c in group)]

    made: list[Node] = []
    factors: list[str] = []
    for k, (term, name, order) in enumerate(
        ((one, node.inputs[0], (shared, rows, summed)), (two, node.inputs[1], (shared, summed, columns)))
    ):
        wanted = [c for group in order for c in group]
        last = name
        if wanted != list(term):
            last = f"{node.name}.order{k}"
            made.append(Node.of(last, "transpose", name, perm=tuple(term.index(c) for c in wanted)))
        shape = [s for group in order for s in merged(group)]
        if shape.count(-1) > 1:
            return ()
        factors.append(f"{node.name}.factor{k}")
        made.append(Node.of(factors[-1], "reshape", last, shape=tuple(shape)))
    product = [c for group in (shared, rows, columns) for c in group]
    whole = [-1 if c in open_ else sizes[c] for c in product]
    if whole.count(-1) > 1:
        return ()
    turned = product != list(right)
    names = (f"{node.name}.product", f"{node.name}.apart" if turned else node.name)
    made.append(Node.of(names[0], "matmul", *factors))
    made.append(Node.of(names[1], "reshape", names[0], shape=tuple(whole)))
    if turned:
        made.append(Node.of(node.name, "transpose", names[1], perm=tuple(product.index(c) for c in right)))
    return tuple(made) if not {n.name for n in made[:-1]} & set(graph.by_name) else ()


def _outer(node: Node, terms: Sequence[str], right: str) -> tuple[Node, ...]:
    """An einsum that sums over nothing: both values with the axes of the result, multiplied."""
    made: list[Node] = []
    factors: list[str] = []
    for k, (term, name) in enumerate(zip(terms, node.inputs, strict=True)):
        wanted = [c for c in right if c in term]
        last = name
        if wanted != list(term):
            last = f"{node.name}.order{k}"
            made.append(Node.of(last, "transpose", name, perm=tuple(term.index(c) for c in wanted)))
        missing = tuple(i for i, c in enumerate(right) if c not in term)
        if missing:
            made.append(Node.of(f"{node.name}.factor{k}", "unsqueeze", last, axes=missing))
            last = made[-1].name
        factors.append(last)
    return (*made, Node.of(node.name, "mul", *factors))


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
    values = computed(graph, {node.inputs[1] for node in found})
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
