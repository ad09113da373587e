"""What is settled before a network runs: all that is computed from its own arrays, strided slices in one, powers."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from dojang.arith.field import constants
from dojang.arith.graph import Graph, Node, reachable
from dojang.arith.shapes import axis_of
from dojang.arith.standard import REAL
from dojang.engine.reference.operators import apply, arrays_of, typed


def settled(graph: Graph) -> Graph:
    """The network with `constant_kernels`, `summed_products`, `constants_once`, `products`, `strided_once`,
    `even_windows`, `narrow_transposed` and `shuffled_once`; one that has nothing of the kind as it is.
    """
    known = products(constants_once(summed_products(constant_kernels(graph))))
    return shuffled_once(narrow_transposed(even_windows(strided_once(known))))


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
        own = graph.types[name]
        value = values[name].astype("f4") if own in REAL else values[name]
        kind = {} if own in REAL else {"dtype": own}
        moved[name] = Node.of(name, "constant", arrays={"value": array}, shape=value.shape, **kind)
        weights[array] = value
    return graph.edited(moved, weights=weights) if moved else graph


def computed(graph: Graph, wanted: set[str]) -> dict[str, np.ndarray]:
    """Values that depend on no input: real numbers in float64, others in their types."""
    values: dict[str, np.ndarray] = {}
    needed = reachable(graph.nodes, list(wanted))
    for node in graph.nodes:
        if node.name in needed:
            arrays = arrays_of(graph, node, np.float64)
            found = apply(node, [values[i] for i in node.inputs], arrays)
            values[node.name] = typed(graph, node.name, found, np.float64)
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


def even_windows(graph: Graph) -> Graph:
    """The network with every `adaptive_maxpool` on windows of one length: o of m windows over n places goes from
    ⌊o·n/m⌋ to ⌈(o + 1)·n/m⌉, and where m does not divide n the last place of the shorter ones is looked up twice.
    """
    moved: dict[str, Node | tuple[Node, ...]] = {}
    for node in graph.nodes:
        shapes = [graph.unit_shapes[n] for n in (*node.inputs, node.name)] if node.op == "adaptive_maxpool" else []
        if not shapes or None in shapes or any(f"{node.name}.even{a}" in graph.by_name for a in range(9)):
            continue
        source, last = shapes[0] or (), node.inputs[0]
        made: list[Node] = []
        for axis, (n, m) in enumerate(zip(source[2:], (shapes[-1] or ())[2:], strict=True), 2):
            if n % m:
                windows = [range(o * n // m, -(-(o + 1) * n // m)) for o in range(m)]
                longest = max(map(len, windows))
                places = tuple(w[min(i, len(w) - 1)] for w in windows for i in range(longest))
                made.append(Node.of(f"{node.name}.even{axis}", "gather", last, axis=axis, indices=places))
                last = made[-1].name
        if made:
            moved[node.name] = (*made, Node.of(node.name, "adaptive_maxpool", last, **node.attrs))
    return graph.edited(moved) if moved else graph


def _step(node: Node, shape: tuple[int, ...]) -> int | None:
    """The step of a slice that takes every so many places of its axis from the first on; None for others."""
    a, size = node.attrs, shape[axis_of(node.attrs["axis"], len(shape))]
    taken = range(size)[slice(a["start"], a["stop"], a["step"])]
    return a["step"] if a["step"] >= 1 and taken == range(0, size, a["step"]) else None


def constant_kernels(graph: Graph) -> Graph:
    """The network with plain convolutions where no input reaches the weights of a `dynamic_conv`.

    What led to the weights alone is dropped; computed in float64, as is folding of batch norms. Layers whose input
    size is decided by values keep their form. Other networks are given back as they are.
    """
    fixed = constants(graph) if any(node.op == "dynamic_conv" for node in graph.nodes) else set[str]()
    found = [
        n for n in graph.nodes
        if n.op == "dynamic_conv" and n.inputs[1] in fixed and n.name not in fixed
        and graph.unit_shapes[n.inputs[0]] is not None
    ]  # fmt: skip
    if not found:
        return graph
    values = computed(graph, {node.inputs[1] for node in found})
    nodes = {node.name: _plain(graph, node, values[node.inputs[1]].shape) for node in found}
    weights = {nodes[n.name].array("weight"): values[n.inputs[1]].astype("f4") for n in found}
    return graph.edited(nodes, weights=weights)


def _plain(graph: Graph, node: Node, weight: tuple[int, ...]) -> Node:
    """The convolution that reads its weights from an array, under a name that no array has."""
    source = graph.unit_shapes[node.inputs[0]]
    assert source is not None
    array = f"{node.name}.weight"
    while array in graph.weights:
        array += "_"
    arrays = {**node.arrays, "weight": array}
    groups = source[1] // weight[1]
    return Node.of(node.name, "conv", node.inputs[0], arrays=arrays, out=weight[0], groups=groups, **node.attrs)


def shuffled_once(graph: Graph) -> Graph:
    """The network with channels shuffled in one pass, by a look-up: where they are split into two axes, these change
    places, and become one again. What is read or asked for in between stays.
    """
    moved: dict[str, Node | tuple[Node, ...]] = {}
    for node in graph.nodes:
        turned = graph[node.inputs[0]] if node.op in ("reshape", "flatten") else None
        split = graph[turned.inputs[0]] if turned is not None and turned.op == "transpose" else None
        if turned is None or split is None or split.op != "reshape":
            continue
        if any(len(graph.consumers[n.name]) != 1 or n.name in graph.outputs for n in (turned, split)):
            continue
        shape, apart = graph.unit_shapes[split.inputs[0]], graph.unit_shapes[split.name]
        if shape is None or apart is None or graph.unit_shapes[node.name] != shape or len(apart) != len(shape) + 1:
            continue
        order = tuple(a % len(apart) for a in turned.attrs["perm"])
        if apart[3:] != shape[2:] or apart[0] != shape[0] or order != (0, 2, 1, *range(3, len(apart))):
            continue
        if any(type(s) is not int for s in apart):
            continue
        places = np.arange(shape[1]).reshape(apart[1:3]).T.reshape(-1)
        picks = tuple(int(p) for p in places)
        moved[node.name] = Node.of(node.name, "gather", split.inputs[0], axis=1, indices=picks)
        moved |= {turned.name: (), split.name: ()}
    return graph.edited(moved) if moved else graph


NARROW = 8
"""Output channels from which on the residues of a transposed convolution fill vectors on their own."""


def narrow_transposed(graph: Graph) -> Graph:
    """The network with transposed convolutions to few channels as plain ones whose channels are those of every residue
    of the output place, then moved to their places: vectors of channels would be almost empty (upsampling to an image).

    Output o = s·q + r takes x[q + c − j] w[ρ + s·j], where o + padding = s·(q + c) + ρ: of one window for all r.
    """
    moved: dict[str, Node | tuple[Node, ...]] = {}
    weights: dict[str, np.ndarray] = {}
    for node in graph.nodes:
        a = node.attrs
        if node.op != "conv_transpose" or a["groups"] != 1 or a["out"] >= NARROW or max(a["stride"]) == 1:
            continue
        found = _by_residues(graph, node)
        if found is not None:
            moved[node.name], more = found
            weights |= more
    return graph.edited(moved, weights=weights) if moved else graph


def _by_residues(graph: Graph, node: Node) -> tuple[tuple[Node, ...], dict[str, np.ndarray]] | None:
    """The nodes and arrays of one transposed convolution in two dimensions; None where it is not one of them."""
    a, shape = node.attrs, graph.unit_shapes[node.inputs[0]]
    full = graph.unit_shapes[node.name]
    if shape is None or full is None or len(shape) != 4 or any(type(s) is not int for s in (*shape, *full)):
        return None
    readers = graph.consumers[node.name]
    if node.array("weight") not in graph.weights or any(r.op in ("batchnorm", "add") for r in readers):
        return None  # these are part of the convolution as it stands
    kernel, strides = (tuple(v) * 2 if len(v) == 1 else tuple(v) for v in (a["kernel"], a["stride"]))
    pads = tuple(a["padding"]) * 2 if len(a["padding"]) == 1 else tuple(a["padding"])
    if any(d != 1 for d in a["dilation"]):
        return None
    axes = [_window(k, s, p[0], i, o) for k, s, p, i, o in zip(kernel, strides, pads, shape[2:], full[2:], strict=True)]
    if any(before < 0 or after < 0 for _, before, after, _ in axes):
        return None
    weight = np.asarray(graph.weights[node.array("weight")])  # (inputs, outputs, height, width)
    rows, columns = axes[0][0], axes[1][0]
    wide = np.zeros((*weight.shape[:2], kernel[0] + 1, kernel[1] + 1), weight.dtype)
    wide[:, :, :-1, :-1] = weight  # the last row and column are those of no tap
    picked = wide[:, :, rows][:, :, :, :, columns]  # (inputs, outputs, residue, taps, residue, taps)
    turned = picked.transpose(1, 2, 4, 0, 3, 5)
    new = np.ascontiguousarray(turned.reshape(-1, *turned.shape[3:]))
    names: dict[str, str] = {}
    arrays: dict[str, np.ndarray] = {}
    for role in ("weight", "bias") if a["bias"] else ("weight",):
        names[role] = f"{node.name}.residues.{role}"
        while names[role] in graph.weights:
            names[role] += "_"
    arrays[names["weight"]] = new
    each = strides[0] * strides[1]
    if a["bias"]:
        arrays[names["bias"]] = np.repeat(np.asarray(graph.weights[node.array("bias")]), each)
    high, broad = axes[0][3], axes[1][3]
    residues, apart, order = (f"{node.name}.{part}" for part in ("residues", "apart", "order"))
    whole = (high * strides[0], broad * strides[1])
    cut = [axis for axis in (2, 3) if full[axis] != whole[axis - 2]]
    names_of = [*[f"{node.name}.together", f"{node.name}.rows"][: len(cut)], node.name]
    if {residues, apart, order, *names_of[:-1]} & set(graph.by_name):
        return None
    made = [
        Node.of(residues, "conv", node.inputs[0], arrays=names, out=a["out"] * each, kernel=new.shape[2:],
                padding=tuple((before, after) for _, before, after, _ in axes), bias=a["bias"]),
        Node.of(apart, "reshape", residues, shape=(-1, a["out"], *strides, high, broad)),
        Node.of(order, "transpose", apart, perm=(0, 1, 4, 2, 5, 3)),
        Node.of(names_of[0], "reshape", order, shape=(-1, a["out"], *whole)),
    ]  # fmt: skip
    for axis, source, name in zip(cut, names_of[:-1], names_of[1:], strict=True):
        made.append(Node.of(name, "slice", source, axis=axis, start=None, stop=full[axis]))
    return tuple(made), arrays


def _window(kernel: int, stride: int, pad: int, size: int, out: int) -> tuple[np.ndarray, int, int, int]:
    """Along one axis: (tap of each residue and place of the window, `kernel` for none; padding before and behind; steps
    of the output)."""
    starts = [divmod(r + pad, stride) for r in range(stride)]
    taps = [range(-(-(kernel - rho) // stride)) for _, rho in starts]
    offsets = [c - j for (c, _), some in zip(starts, taps, strict=True) for j in some]
    low, high = min(offsets), max(offsets)
    found = np.full((stride, high - low + 1), kernel)
    for r, ((c, rho), some) in enumerate(zip(starts, taps, strict=True)):
        for j in some:
            found[r, c - j - low] = rho + stride * j
    steps = -(-out // stride)
    return found, -low, steps - size + high, steps
