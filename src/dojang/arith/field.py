"""Receptive fields: which input pixels an output pixel can see, by interval arithmetic over the whole graph."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor

from dojang.arith.conv import resolve_padding
from dojang.arith.graph import Graph, Node
from dojang.arith.shapes import Shape, axis_of
from dojang.arith.window import extent


@dataclass(frozen=True, slots=True)
class Span:
    """Along one axis, output o sees input pixels `o·jump + first` to `o·jump + last`; jump 0: one value sees it all."""

    jump: Fraction
    first: Fraction
    last: Fraction

    @property
    def size(self) -> int:
        """Pixels from the first to the last that one output sees, padding included."""
        return floor(self.last - self.first) + 1

    def whole(self, size: int) -> Span:
        """What all `size` places together see."""
        return Span(Fraction(0), self.first, self.last + (size - 1) * self.jump)

    def through(self, jump: Fraction, first: Fraction, last: Fraction) -> Span:
        """After a layer whose output o reads places o·jump + first … o·jump + last of this one."""
        return Span(self.jump * jump, self.first + first * self.jump, self.last + last * self.jump)

    def union(self, other: Span) -> Span:
        """What two branches see together."""
        return Span(self.jump or other.jump, min(self.first, other.first), max(self.last, other.last))


Field = tuple[Span, ...]
"""One Span per spatial axis of the network's input."""


def fields(graph: Graph) -> dict[str, Field | None]:
    """The receptive field of every node; None where it is not known or there are no spatial axes.

    `first` counts from the first input pixel and is negative where the field begins in padding. Branches are united;
    through transposed and resizing layers the size is the largest over the phases. Source of the recurrence:
    Araujo, Norris, Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019.
    """
    shapes, found = graph.unit_shapes, dict[str, Field | None]()
    for node in graph.nodes:
        sources = [found[i] for i in node.inputs if graph[i].rule.field != "constant"]
        known = [f for f in sources if f is not None]
        if node.rule.field == "input":
            found[node.name] = tuple(Span(Fraction(1), Fraction(0), Fraction(0)) for _ in node.attrs["shape"][1:])
        elif not known or len(known) < len(sources) or node.rule.field in ("opaque", "constant"):
            found[node.name] = None
        else:
            shape = shapes[node.inputs[0]]
            united = unite(known)
            found[node.name] = step(node, united, shape, shapes[node.name]) if united and shape else None
    return found


def unite(known: list[Field]) -> Field | None:
    """The fields of several inputs as one; None when their ranks differ."""
    if len({len(f) for f in known}) > 1:
        return None
    return tuple(_union_all(spans) for spans in zip(*known, strict=True))


def _union_all(spans: tuple[Span, ...]) -> Span:
    total = spans[0]
    for span in spans[1:]:
        total = total.union(span)
    return total


def step(node: Node, before: Field, shape: Shape, out: Shape | None) -> Field | None:
    """The field after one node, from the field and shape of its input."""
    rule = node.rule.field
    sizes = shape[2:]
    spatial = len(sizes) == len(before)
    if rule == "pointwise":
        return before
    if rule in ("window", "transposed") and spatial:
        return tuple(_window_span(node, span, axis, sizes) for axis, span in enumerate(before))
    if rule == "adaptive" and spatial and out is not None:
        axes = zip(before, sizes, out[2:], strict=True)
        return tuple(span.through(Fraction(i, o), Fraction(0), Fraction(-(-i // o) - (i % o == 0 or i < o))) if o > 1
                     else span.whole(i) for span, i, o in axes)  # fmt: skip
    if rule == "resize" and spatial and out is not None:
        reach = {"nearest": 0, "linear": 1, "cubic": 3}[node.attrs["mode"]]
        axes = zip(before, sizes, out[2:], strict=True)
        return tuple(
            span.through(Fraction(i, o), Fraction(-(reach // 2)), Fraction((reach + 1) // 2)) for span, i, o in axes
        )
    if rule == "pad" and spatial:
        pads = ((0, 0),) * (len(shape) - len(node.attrs["pads"])) + node.attrs["pads"]
        return tuple(
            span.through(Fraction(1), Fraction(-p), Fraction(-p)) for span, (p, _) in zip(before, pads[2:], strict=True)
        )
    if rule == "slice" and spatial:
        axis = axis_of(node.attrs["axis"], len(shape)) - 2
        start, _, stride = slice(node.attrs["start"], node.attrs["stop"], node.attrs["step"]).indices(shape[axis + 2])
        moved = Fraction(stride), Fraction(start), Fraction(start)
        return tuple(span.through(*moved) if a == axis else span for a, span in enumerate(before))
    if rule == "reduce" and spatial:
        axes = {axis_of(a, len(shape)) - 2 for a in node.attrs["axes"]}
        return tuple(span.whole(sizes[a]) if a in axes else span for a, span in enumerate(before))
    if rule == "features" and spatial and node.op != "dense":
        return before
    if spatial:
        return tuple(span.whole(size) for span, size in zip(before, sizes, strict=True))
    return tuple(Span(Fraction(0), span.first, span.last) for span in before)


def _window_span(node: Node, span: Span, axis: int, sizes: Shape) -> Span:
    attrs = node.attrs
    kernel, stride = attrs["kernel"], attrs["stride"]
    dilation = attrs.get("dilation", (1,) * len(kernel))
    reach = extent(kernel[axis], dilation[axis]) - 1
    pads = resolve_padding(attrs["padding"], sizes, kernel, stride, dilation)
    before = pads[axis][0]
    if node.rule.field == "transposed":
        # output o reads inputs i with i·s = o + p − k·d, so i lies in [(o + p − reach)/s, (o + p)/s]
        s = stride[axis]
        return span.through(Fraction(1, s), Fraction(before - reach, s), Fraction(before, s))
    return span.through(Fraction(stride[axis]), Fraction(-before), Fraction(reach - before))
