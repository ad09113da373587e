"""Explain the figures of one layer: for each its formula, the same with numbers, and the result.

Each equation is one object (`arith.equation`), which gives letters, numbers and result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from dojang.arith.conv import Conv, by, resolve_padding
from dojang.arith.cost import BYTES, count
from dojang.arith.equation import Named, Product, Quotient, Scaled, Size, Sum, Term, times, written
from dojang.arith.field import image_size
from dojang.arith.graph import Graph, Node
from dojang.arith.layer import plain
from dojang.arith.parameters import reads_of
from dojang.arith.shapes import Shape, axis_of, conv_problem, dynamic_problem, einsum_sizes
from dojang.arith.span import Span
from dojang.arith.symbol import symbolic
from dojang.arith.window import extent
from dojang.base.errors import ShapeError
from dojang.base.result import Result


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: what it is, then either an equation (formula, the same with numbers, the result) or `words`."""

    figure: str
    formula: str = ""
    numbers: str = ""
    result: Size | str = ""
    words: str = ""

    def __str__(self) -> str:
        """One line. Each side of an "=" has the same value; text that is no equation has no "=" in it."""
        if self.words:
            return f"{self.figure}: {self.words}"
        result = self.result if isinstance(self.result, str) else written(self.result)
        sides = [self.figure, self.formula, "" if self.numbers == result else self.numbers, result]
        return " = ".join(side for side in sides if side)

    def to_dict(self) -> dict[str, Any]:
        """Figure, formula, numbers and result, and the words."""
        return plain({"figure": self.figure, "formula": self.formula, "numbers": self.numbers, "result": self.result,
                      "words": self.words})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Explanation(Result):
    """How every figure of one layer is computed, one step per figure."""

    layer: str
    steps: tuple[Figure, ...]

    def to_dict(self) -> dict[str, Any]:
        """The layer and its steps."""
        return {"layer": self.layer, "steps": [step.to_dict() for step in self.steps]}


def explain(graph: Graph, name: str) -> tuple[Figure, ...]:
    """How the figures of one layer are computed, for batch 1 and with padding taps counted.

    Covers output size, weights, biases, MACs, bytes and the receptive field. Raises `GraphError` if no node has the
    name, and `ShapeError` if the input shape is not known because an operator before the layer is not.

    >>> from dojang.formats.text import parse
    >>> step = explain(parse("input 3x32x32\\nconv 4 5x5 bias=no"), "conv1")[2]
    >>> step.figure, step.formula, step.numbers, step.result
    ('weights', 'k·k·ic·oc', '5·5·3·4', 300)
    """
    node = graph[name]
    shapes = [graph.unit_shapes[i] for i in node.inputs]
    known = [s for s in shapes if s is not None]
    out = graph.unit_shapes[name]
    if len(known) < len(shapes) or out is None:
        raise ShapeError(f"{name}: its shape is not known, because an operator before it is not known")
    steps = [*_figures(graph, node, known, out), *_stored(graph, node)]
    sizes = [*zip(_axis_names(len(_shown(out))), _shown(out), strict=True)]
    steps.append(_step("output bytes", times(*sizes) * BYTES))
    return (*steps, *_field(graph, node))


def _stored(graph: Graph, node: Node) -> list[Figure]:
    """The parameters that this layer adds to the total, if its arrays are shared, part of others, computed from
    several, or not trained; empty if every array is simply the layer's own.
    """
    reads = reads_of(graph)
    own = reads.by_node.get(node.name, ())
    if all(read.names == (read.array,) for read in own):
        plain = all(reads.stored[r.array].kind == "parameter" or r.role in node.rule.buffers for r in own)
        earlier = graph.nodes[: graph.nodes.index(node)]
        before = {read.array for other in earlier for read in reads.by_node.get(other.name, ())}
        if plain and not any(read.array in before for read in own):
            return []
    layer = next(row for row in count(graph).layers if row.name == node.name)
    new = {name: reads.stored[name].size for read in own for name in read.names
           if reads.stored[name].kind == "parameter" and name not in layer.shared}  # fmt: skip
    if not new:
        return [
            Figure("parameters counted here", result=0, words="0: earlier layers have counted them, or none is trained")
        ]
    return [Figure("parameters counted here", " + ".join(new), " + ".join(map(str, new.values())), layer.cost.params)]


def paths_through(some: int, every: int) -> Figure:
    """How many of the paths between which values decide lead through a layer."""
    return Figure("paths through this layer", result=some,
                words=f"{some} of the {every} between which the values of a tensor decide")  # fmt: skip


def _step(figure: str, term: Term) -> Figure:
    letters, numbers = term.text(True), term.text(False)
    return Figure(figure, "" if letters == numbers else letters, numbers, term.value)


def _shown(shape: Shape) -> Shape:
    """A shape without its batch of 1; constants have none, and keep all their axes."""
    return shape[1:] if len(shape) > 1 and shape[0] == 1 else shape


def _axis_names(rank: int) -> tuple[str, ...]:
    """Letters for the axes after the batch."""
    known = {1: ("features",), 2: ("c", "w"), 3: ("c", "h", "w"), 4: ("c", "d", "h", "w")}
    return known.get(rank, tuple(f"n{axis}" for axis in range(1, rank + 1)))


def _figures(graph: Graph, node: Node, shapes: Sequence[Shape], out: Shape) -> list[Figure]:
    match node.op:
        case "conv" | "conv_transpose":
            return _conv(conv_problem(node.attrs, shapes, node.op == "conv_transpose"))
        case "deform_conv":
            return _conv(conv_problem(node.attrs, shapes), deformable=True)
        case "dynamic_conv":
            return _conv(dynamic_problem(node.attrs, shapes), stored=False)
        case "dense":
            return _dense(node, shapes[0], out)
        case "matmul":
            return [_output(node, shapes, out), _step("MACs", times(*_numbered("o", out), ("k", shapes[0][-1])))]
        case "einsum":
            sizes, _ = einsum_sizes(node.attrs["equation"], shapes)
            none = Figure("MACs", result=0, words="0: one input is summed and nothing is multiplied")
            return [_output(node, shapes, out), _step("MACs", times(*sizes.items())) if len(shapes) > 1 else none]
        case _:
            pass
    steps: list[Figure] = []
    if "kernel" in node.attrs:
        steps += _pooled(node, shapes[0][2:])
    elif node.op == "concat":
        axis = axis_of(node.attrs["axis"], len(out))
        steps.append(_output(node, shapes, out))
        steps.append(_step(f"output, axis {axis} of all", Sum(tuple((1, Named(f"input {i}", s[axis]))
                                                                  for i, s in enumerate(shapes, 1)))))  # fmt: skip
    elif node.op == "resize" and node.attrs["scale"] is not None:
        steps += _resized(node, shapes[0][2:])
    else:
        steps.append(_output(node, shapes, out))
    for role, shape in graph.node_params(node).items():
        note = ", a buffer, not a parameter" if role in node.rule.buffers else ""
        steps.append(_step(f"{role}{note}", Product(tuple(Named(written(s), s) for s in shape))))
    if node.rule.macs:  # an operator that has no formula in this file
        macs = next(row for row in count(graph).layers if row.name == node.name).cost.macs
        steps.append(Figure("MACs", result=macs, words=f"{written(macs)}, by the rule of {node.op}"))
    return steps


def _output(node: Node, shapes: Sequence[Shape], out: Shape) -> Figure:
    """The output shape, for operators without a formula per axis."""
    sources, made = " and ".join(by(_shown(s)) for s in shapes), by(_shown(out))
    became = f"{sources} becomes {made}" if sources else made
    return Figure("output", result=made, words=f"{became}, by the rule of {node.op}")


def _numbered(letter: str, sizes: Sequence[Size]) -> list[tuple[str, Size]]:
    return [(f"{letter}{i}", s) for i, s in enumerate(sizes, 1)]


def _dense(node: Node, source: Shape, out: Shape) -> list[Figure]:
    made: Size = node.attrs["out"]
    places = [("n" if axis == 0 else f"n{axis}", s) for axis, s in enumerate(source[:-1])]
    return [
        _output(node, [source], out),
        _step("weights", times(("in", source[-1]), ("out", made))),
        _biases("out", made, node.attrs["bias"]),
        _step("MACs", times(*places, ("in", source[-1]), ("out", made))),
    ]


def _biases(letter: str, size: Size, there: bool) -> Figure:
    return _step("biases", Named(letter, size)) if there else Figure("biases", result=0, words="0: the layer has none")


def _pooled(node: Node, source: Shape) -> list[Figure]:
    """The output sizes of a pooling layer, by the three cases of `window.out_size`."""
    attrs = node.attrs
    kernel, stride = attrs["kernel"], attrs["stride"]
    dilation = attrs.get("dilation", (1,) * len(kernel))
    pads = resolve_padding(attrs["padding"], source, kernel, stride, dilation)
    steps: list[Figure] = []
    for axis, (i, k, s, d, (p0, p1)) in enumerate(zip(source, kernel, stride, dilation, pads, strict=True)):
        over = extent(k, d) - p1
        figure = f"output, axis {axis}"
        if not attrs["ceil"]:
            steps.append(_step(figure, _places(i, k, s, p0 + p1, d) + 1))
        elif 0 < over < s:
            steps.append(_step(figure, Quotient(Named("i", i) + Named("p before", p0), Named("s", s), "up")))
            why = "a window must start on the image or the padding before it, and one starts at each step there"
            steps.append(Figure(f"rounded up, axis {axis}", words=why))
        else:
            last = _places(i, k, s, p0 + p1, d, up=True)
            steps.append(_step(figure, last + 1 if over > 0 else last))
            if over <= 0:
                why = "the window that would start behind the image is left out"
                steps.append(Figure(f"rounded up, axis {axis}", words=why))
    return steps


def _places(i: Size, k: int, s: int, p: Size, d: int, up: bool = False) -> Quotient:
    """(i + p - d·(k - 1) - 1) / s, rounded: how many steps the window can move."""
    free = Named("i", i) + Named("p", p) - Named("d", d) * (Named("k", k) - 1) - 1
    return Quotient(free, Named("s", s), "up" if up else "down")


def _resized(node: Node, source: Shape) -> list[Figure]:
    """The output sizes of a resizing by factors."""
    scale = node.attrs["scale"] * len(source) if len(node.attrs["scale"]) == 1 else node.attrs["scale"]
    steps: list[Figure] = []
    for axis, (size, factor) in enumerate(zip(source, scale, strict=True)):
        if symbolic(size):  # the same fraction as in `symbol.scaled`
            exact = Fraction(factor).limit_denominator(4096)
            term: Term = Quotient(Named("i", size) * exact.numerator, Named("n", exact.denominator), "down")
        else:
            term = Scaled(size, factor, node.attrs["arithmetic"])
        steps.append(_step(f"output, axis {axis}", term))
    return steps


def _conv(c: Conv, stored: bool = True, deformable: bool = False) -> list[Figure]:
    """A convolution. `stored`: its weights are parameters; `deformable`: its taps lie between pixels."""
    steps: list[Figure] = []
    for axis in range(c.rank):
        i, k, s, d = c.size[axis], c.kernel[axis], c.stride[axis], c.dilation[axis]
        p = sum(c.padding[axis])
        if c.transposed:
            spread = (Named("i", i) - 1) * Named("s", s)
            term: Term = spread - Named("p", p) + Named("d", d) * (Named("k", k) - 1) + 1
            term += Named("extra", c.output_padding[axis])
        else:
            term = _places(i, k, s, p, d) + 1
        steps.append(_step(f"output, axis {axis}", term))
    taps = [("k", k) for k in c.kernel]
    channels = [("ic", c.ic), ("oc", c.oc)]
    weights = _grouped(times(*taps, *channels), c.groups)
    steps.append(_step("weights" if stored else "weights, computed", weights))
    steps.append(_biases("oc", c.oc, c.bias))
    side = "i" if c.transposed else "o"
    names = {1: "w", 2: "hw", 3: "dhw"}.get(c.rank, "")
    small = c.size if c.transposed else c.out_size
    places = [(side + (names[axis] if names else str(axis + 1)), size) for axis, size in enumerate(small)]
    steps.append(_step("MACs", times(*places, ("weights", weights.value))))
    if deformable:
        samples = times(*places, *taps, ("ic", c.ic))
        return [*steps, _step("values interpolated between pixels, not MACs", samples)]
    pairs: list[tuple[str, Size]] = [(f"pairs {axis}", c.pairs_inside(axis)) for axis in range(c.rank)]
    steps.append(_step("MACs on pixels only", _grouped(times(*pairs, *channels), c.groups)))
    where = "cropped output" if c.transposed else "padding"
    said = " and ".join(f"{written(size)} on {name.removeprefix('pairs ')}" for name, size in pairs)
    steps.append(Figure("pairs of position and tap by axis", words=f"{said}; those that fall on {where} are left out"))
    return steps


def _grouped(whole: Product, groups: int) -> Term:
    return Quotient(whole, Named("groups", groups), "exact") if groups > 1 else whole


def _field(graph: Graph, node: Node) -> list[Figure]:
    row = next(layer for layer in count(graph).layers if layer.name == node.name)
    if row.field is None:
        return []
    steps: list[Figure] = []
    for axis, span in enumerate(row.field):
        place, hull = _widest(span)
        if hull is None:
            steps.append(Figure(f"receptive field, axis {axis}", words="no position sees a pixel"))
            continue
        size = Named("last", hull[1]) - Named("first", hull[0]) + 1
        steps.append(_step(f"receptive field, axis {axis}", size))
        which = "" if span.line or not span.advance else f"; position {place} sees the most"
        steps.append(Figure(f"seen on axis {axis}", words=f"{span}{which}"))
    image = next((image_size(graph, n) for n in graph.inputs), ())
    for axis, (b, span, size) in enumerate(zip(row.border or (), row.field, image, strict=False)):
        low, high = span.at(0), span.at(b.places - 1)
        if low is None or high is None:
            continue
        result = f"{b.before} before, {b.after} behind; {b.whole:,} of {b.places:,} positions see the image only"
        words = f"{result}; the first sees {low[0]} to {low[1]}, the last {high[0]} to {high[1]} of 0 to {size - 1}"
        steps.append(Figure(f"clipped by padding, axis {axis}", result=result, words=words))
    return steps


def _widest(span: Span) -> tuple[int, tuple[int, int] | None]:
    """The first of the positions that see the most pixels, and the pixels that it sees."""
    for place, hull in enumerate(span.hulls):
        if hull is not None and hull[1] - hull[0] + 1 == span.size:
            return place, hull
    return 0, None
