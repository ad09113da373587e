"""Which groups of a network are computed in bytes, and which values lie as bytes.

A value is *on a grid* where every number of it is scale · (q − zero) for a byte q: what `fake_quantize` made, and what
moves such numbers. A convolution or dense layer that reads a value on a grid, with weights that are whole numbers of 8
bits, is computed in whole numbers, and so are the poolings, sums, products, functions and concatenations between grids
around it. A value lies as bytes if a group in bytes reads it; it is made real once, when something else needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, prod
from typing import Protocol

import numpy as np

from dojang.arith.graph import Graph, Node
from dojang.arith.precision import Precision, fits, grid_of
from dojang.arith.shapes import Shape, axis_of, conv_problem
from dojang.engine.kernels.activations import Activation
from dojang.engine.kernels.eight.conv import LONGEST

LAYERS = ("conv", "dense")
MEANS = ("avgpool", "global_avgpool", "adaptive_avgpool", "reduce_mean")
VIEWS = ("flatten", "reshape", "squeeze", "unsqueeze")
MOST_SUM = 1 << 31
UNFIT = "its weights are not whole numbers of 8 bits, with a scale above 0 for all or for each output channel"
MOST_CHAINED = 8
"""Functions of one number behind a layer that are looked at."""


@dataclass(frozen=True)
class EightPart:
    """What a group in bytes does: "quantise", "layer", "pool", "mean", "join", "table", "concat", "widened" (with
    channels of zeros) or "same" (the same bytes under another name).

    `grids` are those of its inputs, `out` that of its value (None: real numbers). `factor` is the constant that the
    sums of a layer are multiplied with, `nodes` are what a table applies, `activation` what a layer applies between its
    sums and the grid, where that is more than bounds; `low` and `high` are the bounds of the bytes of the result.
    """

    what: str
    grids: tuple[Precision, ...]
    out: Precision | None
    low: int = 0
    high: int = 255
    factor: str | None = None
    nodes: tuple[Node, ...] = ()
    activation: Activation | None = None
    scale: float = 1.0
    """What a value is divided by before it is quantised, where the network divides it first."""


def with_exact_weights(graph: Graph) -> Graph:
    """The network with the precisions of those weights alone that kernels of bytes can take: whole numbers from −128 to
    127 once their zero points are taken off, and sums that fit int32 whatever the values are. Weights that were changed
    since, and are no longer on their grid, lose theirs.
    """
    if not graph.precisions:
        return graph
    kept: dict[str, Precision] = {}
    for node in graph.nodes:
        array = node.array("weight") if node.op in LAYERS else ""
        precision = graph.precisions.get(array)
        if precision is None or not byte_weights(precision, graph.param_shapes[array]):
            continue
        if array not in graph.weights or centred(np.asarray(graph.weights[array]), precision) is not None:
            kept[array] = precision
    return graph.replace(precisions=kept)


def byte_weights(precision: Precision, shape: Shape) -> bool:
    """Whether a kernel can take weights of a precision: 8 bits at most, scales for all or by output channel."""
    return precision.whole and precision.bits <= 8 and precision.axis in (None, 0) and fits(precision, shape)


def centred(array: np.ndarray, precision: Precision) -> np.ndarray | None:
    """The whole numbers of weights without their zero points, as int8; None where they are none, or have 9 bits."""
    wide = (-1, *(1,) * (array.ndim - 1)) if precision.axis is not None else ()
    scale = np.asarray(precision.scale, np.float32).reshape(wide)
    with np.errstate(all="ignore"):
        whole = np.rint(array.astype(np.float64) / scale)
    if not np.all((whole >= -128) & (whole <= 127)):  # NaN is not
        return None
    found = whole.astype(np.int8)
    return found if np.array_equal(found.astype(np.float32) * scale, array) else None


def scales_of(precision: Precision, channels: int) -> np.ndarray:
    """A scale for each output channel, in float32."""
    return np.broadcast_to(np.asarray(precision.scale, np.float32), channels)


def bias_fits(graph: Graph, node: Node, grid: Precision) -> bool:
    """Whether the sums of a layer fit int32 with its bias in their unit; True where there are no weights to see."""
    if not node.attrs["bias"] or node.array("bias") not in graph.weights:
        return True
    bias = np.asarray(graph.weights[node.array("bias")], np.float64)
    unit = np.float64(grid.scale[0]) * scales_of(graph.precisions[node.array("weight")], len(bias))
    products = prod(graph.node_params(node)["weight"][1:]) * 255 * 128
    with np.errstate(all="ignore"):
        return bool(np.all(np.abs(bias) / unit < MOST_SUM - 2 * products - 1))


BIAS_PART = 1 / 16
"""Of the step of a result, by which a bias may be off once it is rounded to the unit of the sums."""


def bias_error(graph: Graph, node: Node, grid: Precision) -> float:
    """By how much rounding to the unit of the sums moves a bias at most; 0 where there are no weights to see."""
    if not node.attrs["bias"] or node.array("bias") not in graph.weights:
        return 0.0
    bias = np.asarray(graph.weights[node.array("bias")], np.float64)
    unit = np.float64(grid.scale[0]) * scales_of(graph.precisions[node.array("weight")], len(bias))
    return float(np.abs(bias - np.rint(bias / unit) * unit).max(initial=0.0))


class Ungrouped(Protocol):
    """A network whose nodes are not in groups yet (`fuse.Fusion`)."""

    graph: Graph
    nodes: list[Node]
    shapes: Mapping[str, Shape | None]
    taken: set[str]

    def source(self, name: str) -> str:
        """The value that a name stands for, through nodes that change nothing."""
        ...

    def only_reader(self, name: str) -> Node | None:
        """The one node that reads a value, if nothing else needs it and it is in no group."""
        ...

    def activation_of(self, node: Node) -> Activation | None:
        """The function of one number that a node is, if kernels can apply it."""
        ...

    def with_number(self, node: Node, value: str) -> Activation | None:
        """The product of a value with one number that a node is, or the sum, or the share."""
        ...


class EightFusion:
    """Finds the groups in bytes of a network whose other groups are not made yet."""

    def __init__(self, fusion: Ungrouped, floats: Mapping[str, str]) -> None:
        """Finds the values on grids first. `floats`: layers that are computed in real numbers nevertheless, and why.
        `real` has all of which `groups` finds that.
        """
        self.real = dict(floats)
        self.f, self.graph, self.shapes = fusion, fusion.graph, fusion.shapes
        self.grids: dict[str, Precision] = {}
        for node in fusion.nodes:
            grid = self.grid(node)
            if grid is not None:
                self.grids[node.name] = grid
        self.wanted: set[str] = set()  # values that groups in bytes read

    # -- values ------------------------------------------------------------------------------------------------------

    def of(self, name: str) -> Precision | None:
        """The grid of a value."""
        return self.grids.get(self.f.source(name))

    def places(self, name: str) -> Shape | None:
        """The shape of a value that can lie as bytes: real numbers with a batch and channels."""
        shape = self.shapes[name]
        good = shape is not None and len(shape) >= 2 and prod(shape[1:]) and self.graph.types[name] == "float32"
        return shape if good else None

    def grid(self, node: Node) -> Precision | None:
        """The grid of a node's value."""
        if self.places(node.name) is None:
            return None
        if node.op == "fake_quantize":
            found = grid_of(node.attrs["low"], node.attrs["high"], node.attrs["scale"])
            return found if found is not None and found.kind == "uint8" else None
        given = [self.of(name) for name in node.inputs]
        first = given[0] if given else None
        if node.op in ("maxpool", *VIEWS, "relu"):
            return first if first is not None and self.moves(node) else None
        if node.op == "pad":
            return first if first is not None and self.widens(node) else None
        if node.op == "concat":
            return first if self.joins(node) and all(g == first for g in given) else None
        if node.op in ("mul", "add", "sub") and len(node.inputs) == 2:
            return self.shifted(node)
        return None

    def moves(self, node: Node) -> bool:
        """Whether a kernel of bytes, or none at all, moves the numbers as this node does."""
        before, after = self.shapes[self.f.source(node.inputs[0])], self.shapes[node.name]
        if before is None or after is None:
            return False
        if node.op in VIEWS:  # channels first and last are the same where there is one place
            return before[:2] == after[:2] and prod(before[2:]) == prod(after[2:]) == 1
        return node.op == "relu" or (not isinstance(node.attrs["padding"], str) and 3 <= len(before) <= 4)

    def widens(self, node: Node) -> bool:
        """Whether a node only adds channels of zeros."""
        a, shape = node.attrs, self.shapes[node.name] or ()
        pads = ((0, 0),) * (len(shape) - len(a["pads"])) + tuple(a["pads"])
        elsewhere = any(p for axis, pair in enumerate(pads) for p in pair if axis != 1)
        zeros = a["mode"] == "constant" and a["value"] == 0
        return zeros and len(a["pads"]) >= len(shape) - 1 and not elsewhere and min(pads[1]) >= 0

    def joins(self, node: Node) -> bool:
        """Whether a concatenation is one of channels, of values that have a place."""
        shapes = [self.shapes[self.f.source(name)] for name in node.inputs]
        if any(s is None or self.places(self.f.source(n)) is None for s, n in zip(shapes, node.inputs, strict=True)):
            return False
        return axis_of(node.attrs["axis"], len(shapes[0] or ())) == 1

    def shifted(self, node: Node) -> Precision | None:
        """The grid of whole numbers times a constant, or plus one: the same bytes."""
        pair = [self.f.source(name) for name in node.inputs]
        numbers = [self.number(name) for name in pair]
        place = 0 if numbers[1] is not None else 1
        grid, number = self.grids.get(pair[place]), numbers[1 - place]
        if grid is None or number is None or grid.scale != (1.0,) or (node.op == "sub" and place):
            return None
        if self.shapes[node.name] != self.shapes[pair[place]]:
            return None
        if node.op == "mul":
            return Precision("uint8", (number,), grid.zero) if isfinite(number) and number > 0 else None
        zero = grid.zero[0] + (number if node.op == "sub" else -number)
        return Precision("uint8", (1.0,), (int(zero),)) if zero == int(zero) and 0 <= zero <= 255 else None

    def number(self, name: str) -> float | None:
        """The value of a constant of one number."""
        node = self.graph[name]
        if node.op != "constant" or prod(self.shapes[name] or (0,)) != 1 or node.attrs["fill"] is None:
            return None
        return float(np.float32(node.attrs["fill"]))

    # -- groups ------------------------------------------------------------------------------------------------------

    def groups(self) -> list[tuple[Node, str, tuple[str, ...], tuple[str, ...], EightPart]]:
        """(node, value, inputs, members, part) of each group in bytes; none if no layer is computed so."""
        found = [made for node in self.f.nodes if node.op in LAYERS and (made := self.layer(node)) is not None]
        if not found:
            return []
        for node in self.f.nodes:
            if node.name not in self.f.taken:
                made = self.between(node)
                found += [made] if made is not None else []
        for node in reversed(self.f.nodes):
            if node.name in self.wanted and node.name not in self.f.taken:
                made = self.asked(node)
                found += [made] if made is not None else []
        return found

    def take(self, node: Node, members: list[Node], inputs: tuple[str, ...], part: EightPart):
        """Notes a group."""
        names = tuple(dict.fromkeys(n.name for n in members))
        self.f.taken.update(names)
        sources = tuple(self.f.source(name) for name in inputs)
        if part.what != "quantise":
            self.wanted.update(sources)
        return node, members[-1].name, sources, names, part

    def chain(self, node: Node) -> tuple[list[tuple[Node, Activation]], Node | None]:
        """The functions of one number behind a node that nobody else reads, and the grid that ends them."""
        acts: list[tuple[Node, Activation]] = []
        value = node.name
        while len(acts) < MOST_CHAINED:
            reader = self.f.only_reader(value)
            if reader is None:
                return acts, None
            if reader.op == "fake_quantize":
                return acts, reader if reader.name in self.grids else None
            act = self.f.activation_of(reader) or self.f.with_number(reader, value)
            if act is None:
                return acts, None
            acts.append((reader, act))
            value = reader.name
        return acts, None

    def bounded(self, acts: list[tuple[Node, Activation]], grid: Precision) -> tuple[int, int] | None:
        """The bytes that bounds alone leave of a grid; None where a function is more than bounds."""
        (scale,), (zero,) = grid.scale, grid.zero
        low, high = 0, 255
        for _, act in acts:
            if act.name not in ("relu", "clip"):
                return None
            least, most = (0.0, float("inf")) if act.name == "relu" else (act.a, act.b)
            edges = [np.rint(np.float32(edge) / np.float32(scale)) + zero for edge in (least, most)]
            low, high = int(np.clip(edges[0], low, high)), int(np.clip(edges[1], low, high))
        return low, high

    def layer(self, node: Node):
        """A convolution or a dense layer of whole numbers, with the grid behind it, if there is one."""
        view = self.flattened(node)
        inputs = node.inputs if view is None else view.inputs
        grid, quantised = self.of(inputs[0]), node.array("weight") in self.graph.precisions
        if node.name in self.real or (grid is None and not quantised):
            return None
        if grid is None:
            self.real[node.name] = "what it reads is not on a grid of 8 bits with one scale"
            return None
        if (why := self.refusal(node, grid) if quantised else UNFIT) is not None:
            self.real[node.name] = why
            return None
        members, last, factor = [node] if view is None else [view, node], node, None
        reader = self.f.only_reader(node.name)
        if reader is not None and (factor := self.factor(reader, node.name)) is not None:
            members, last = [*members, reader], reader
        acts, end = self.chain(last)
        if end is None:
            part = EightPart("layer", (grid,), None, factor=factor, activation=in_a_row(acts))
            return self.take(node, [*members, *(n for n, _ in acts)], inputs, part)
        out = self.grids[end.name]
        if bias_error(self.graph, node, grid) > BIAS_PART * out.scale[0]:
            self.real[node.name] = "its bias is much finer than its sums, and so is the result"
            return None
        bounds = self.bounded(acts, out)
        activation = in_a_row(acts) if bounds is None else None
        low, high = bounds or (0, 255)
        part = EightPart("layer", (grid,), out, low, min(high, span(end)), factor, activation=activation)
        return self.take(node, [*members, *(n for n, _ in acts), end], inputs, part)

    def flattened(self, node: Node) -> Node | None:
        """What makes a row of an image that a dense layer alone reads: the layer is then a convolution whose kernel is
        as large as the image.
        """
        if node.op != "dense" or self.of(node.inputs[0]) is not None:
            return None
        view = self.graph[self.f.source(node.inputs[0])]
        if view.op not in VIEWS or self.f.only_reader(view.name) is not node:
            return None
        before, after = self.shapes[self.f.source(view.inputs[0])], self.shapes[view.name]
        if before is None or after is None or not 3 <= len(before) <= 4 or len(after) != 2 or before[0] != after[0]:
            return None
        return view

    def refusal(self, node: Node, grid: Precision) -> str | None:
        """Why a layer with quantised weights that reads a value on a grid cannot be computed in bytes."""
        shape = self.shapes[self.f.source(node.inputs[0])]
        if shape is None or self.places(node.name) is None:
            return "its value is not an image of real numbers"
        if node.op == "dense":
            if len(shape) != 2:
                return "it is a product of matrices, which has no kernel in bytes"
            length = shape[1]
        else:
            problem = conv_problem(node.attrs, [shape])
            if problem.rank > 3:
                return "it has more than 3 dimensions"
            length = problem.ic // problem.groups * prod(problem.kernel)
        if length >= LONGEST or not bias_fits(self.graph, node, grid):
            return "its sums may not fit 32 bits"
        return None

    def factor(self, node: Node, value: str) -> str | None:
        """The constant that a product multiplies a layer's sums with: one number, or one for each output channel."""
        if node.op != "mul" or len(node.inputs) != 2 or self.shapes[node.name] != self.shapes[value]:
            return None
        pair = [self.f.source(name) for name in node.inputs]
        other = pair[1] if pair[0] == value else pair[0]
        if other == value or self.graph[other].op != "constant":
            return None
        shape: Shape = self.shapes[other] or ()
        whole = list(self.shapes[value] or ())
        wide = [1] * (len(whole) - len(shape)) + list(shape)
        if len(wide) != len(whole) or len(wide) < 2:
            return None
        return other if prod(wide) in (1, wide[1]) and wide[1] in (1, whole[1]) else None

    def between(self, node: Node):
        """A sum, a product, a mean, a function or a concatenation from grids to a grid."""
        grids = tuple(self.of(name) for name in node.inputs)
        if not grids or any(g is None for g in grids) or self.places(node.name) is None or node.name in self.grids:
            return None
        known = tuple(g for g in grids if g is not None)
        acts, end = self.chain(node)
        if end is None:
            return None
        out = self.grids[end.name]
        behind = [n for n, _ in acts]
        members = [node, *behind, end]
        if self.f.activation_of(node) is not None:
            part = EightPart("table", known, out, nodes=(node, *behind, end))
            return self.take(node, members, node.inputs, part)
        bounds = self.bounded(acts, out)
        if bounds is None:
            return None
        low, high = bounds[0], min(bounds[1], span(end))
        if node.op in ("add", "mul") and len(node.inputs) == 2:
            one, two = (self.shapes[self.f.source(name)] or () for name in node.inputs)
            same = one == two == self.shapes[node.name]
            gated = node.op == "mul" and one == self.shapes[node.name] and two[:2] == one[:2] and prod(two[2:]) == 1
            if not same and not gated:
                return None
            return self.take(node, members, node.inputs, EightPart("join", known, out, low, high))
        if acts:
            return None
        if node.op in MEANS and self.mean(node):
            return self.take(node, members, node.inputs, EightPart("mean", known, out, low, high))
        if node.op == "concat" and self.joins(node):
            return self.take(node, members, node.inputs, EightPart("concat", known, out, low, high))
        return None

    def mean(self, node: Node) -> bool:
        """Whether a node is the mean under windows, or over all of space, of images of one or two dimensions."""
        before, after = self.shapes[self.f.source(node.inputs[0])] or (), self.shapes[node.name] or ()
        if not 3 <= len(before) <= 4:
            return False
        if node.op == "avgpool":
            return not isinstance(node.attrs["padding"], str)
        if node.op == "reduce_mean":
            rank = len(before)
            return sorted(axis_of(a, rank) for a in node.attrs["axes"]) == list(range(2, rank))
        return prod(after[2:]) == 1

    def asked(self, node: Node):
        """What makes the bytes of a value that a group in bytes reads."""
        if node.name not in self.grids:
            return None
        out = self.grids[node.name]
        given = [self.of(name) for name in node.inputs]
        first = given[0]
        if node.op == "fake_quantize" and first is None:
            return self.quantised(node, out)
        known = tuple(g for g in given if g is not None)
        if node.op == "fake_quantize":
            if first == out and span(node) == 255:
                return self.take(node, [node], node.inputs, EightPart("same", known, out))
            return self.take(node, [node], node.inputs, EightPart("table", known, out, nodes=(node,)))
        if node.op == "relu":
            return self.take(node, [node], node.inputs, EightPart("table", known, out, nodes=(node,)))
        if node.op == "concat":
            return self.take(node, [node], node.inputs, EightPart("concat", known, out))
        if node.op in ("maxpool", "pad"):
            what = "pool" if node.op == "maxpool" else "widened"
            return self.take(node, [node], node.inputs, EightPart(what, known, out))
        values = [n for n in node.inputs if self.of(n) is not None]
        return self.take(node, [node], tuple(values), EightPart("same", known, out))

    def quantised(self, node: Node, out: Precision):
        """Real numbers to bytes, with the quotient before that whole-number operators of a file stand for."""
        part = EightPart("quantise", (), out, 0, span(node))
        before = self.f.source(node.inputs[0])
        divided = self.graph[before]
        if divided.op == "div" and out.scale == (1.0,) and self.f.only_reader(before) is node:
            number = self.number(self.f.source(divided.inputs[1]))
            if number is not None and isfinite(number) and number > 0 and divided.name not in self.f.taken:
                scaled = EightPart("quantise", (), out, 0, span(node), scale=number)
                return self.take(node, [divided, node], (divided.inputs[0],), scaled)
        return self.take(node, [node], node.inputs, part)


def in_a_row(acts: Sequence[tuple[Node, Activation]]) -> Activation | None:
    """Functions one after the other."""
    whole: Activation | None = None
    for _, act in reversed(acts):
        whole = replace(act, then=whole)
    return whole


def span(node: Node) -> int:
    """The largest byte of a `fake_quantize`."""
    return node.attrs["high"] - node.attrs["low"]
