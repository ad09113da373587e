"""Receptive fields: which pixels of the image each output depends on, through the whole graph.

For every axis of the image, the axis of each tensor that carries it is known, so that layers that permute or split axes
(channel shuffle, channels-last blocks, pixel shuffle) keep the field of the other axes. Source of the recurrence:
Araujo, Norris, Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019. Here, each phase of a
layer that enlarges is tracked on its own, and the fields of branches are united.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from math import gcd, prod
from typing import Any, cast

from dojang.arith.attrs import Attrs
from dojang.arith.conv import resolve_padding
from dojang.arith.graph import Graph, Node
from dojang.arith.resizing import factors, shortcuts, source_place, taps
from dojang.arith.shapes import Shape, Shapes, axis_of
from dojang.arith.span import PIXEL, Reads, Span, TooManyPlaces, bounded, through, union, walk
from dojang.arith.symbol import Expr

SIZES = (2048, 4096)
"""The fields of a network with symbolic sizes are computed at these two sizes, and reported if they agree."""

Field = tuple[Span, ...]
"""One `Span` per spatial axis of the network's input."""

AxisRead = tuple[int | None, Reads | None]
"""What becomes of an axis of an input: the axis of the output that carries it on (None: no axis does), and which of its
positions each output reads (None: all of them)."""

WHOLE: AxisRead = (None, None)


@dataclass(frozen=True, slots=True)
class Tracked:
    """The field of a node, and for each axis of the image the axis of its output that carries it, if one does."""

    spans: Field
    carriers: tuple[int | None, ...]


def fields(graph: Graph) -> dict[str, Field | None]:
    """The receptive field of every node; None if it is not known: behind unknown operators, for constants, and if
    layers that enlarge by odd factors would need a list of more than `span.MOST_PLACES` positions.

    Padding of any kind, and border pixels that resizing repeats, count as pixels before the first and behind the last.
    After global pooling or flattening no axis of the tensor carries the image's axis any more: every value then sees
    the whole axis, and its jump is 0.
    """
    if any(isinstance(s, Expr) for node in graph.inputs for s in node.attrs["shape"]):
        return _agreed(graph)
    return {name: state.spans if state else None for name, state in track(graph).items()}


def contents(graph: Graph) -> dict[str, Field | None]:
    """As `fields`, but of what a layer computes its features from: gates and statistics do not count.

    A squeeze-excite gate, or the mean that a normalisation subtracts, comes from the whole image and only scales or
    shifts; the features that it acts on have seen no more than before. Left out are the inputs of a product that are
    bounded (sigmoid, hard sigmoid, softmax) or stretched over all places, inputs of sums that are stretched, and what
    instance, group and layer normalisation gather over places; where that would leave nothing, nothing is left out.
    """
    return {name: state.spans if state else None for name, state in track(graph, features=True).items()}


GATES = frozenset(("sigmoid", "hard_sigmoid", "softmax", "tanh"))
"""What a factor comes from that only weighs another."""

STATISTICS = frozenset(("instancenorm", "groupnorm", "layernorm"))
"""Operators whose only look at other places is a mean and a variance."""

CARRIES_GATE = frozenset(("reshape", "unsqueeze", "squeeze", "resize", "flatten", "transpose", "identity", "dropout"))


def _features(graph: Graph, node: Node) -> tuple[int, ...]:
    """Which inputs of a node carry features: of sums and products those that neither are gates nor are stretched."""
    every = tuple(range(len(node.inputs)))
    out = graph.unit_shapes[node.name]
    if node.rule.channels != "join" or out is None or len(out) < 3:
        return every
    kept: list[int] = []
    for which in every:
        size = graph.unit_shapes[node.inputs[which]] or out
        space = size[2:] if len(size) == len(out) else size[-(len(out) - 2) :]
        stretched = prod(space) == 1 < prod(out[2:])
        if not (stretched or (node.op == "mul" and _is_gate(graph, node.inputs[which]))):
            kept.append(which)
    return tuple(kept) or every


def _is_gate(graph: Graph, name: str) -> bool:
    node = graph[name]
    while node.op in CARRIES_GATE:
        node = graph[node.inputs[0]]
    return node.op in GATES


def covered(graph: Graph) -> tuple[Node, ...]:
    """Convolutions with more than one tap whose input's features already see the whole network input on every axis.

    Gates and statistics do not make features see more (`contents`). Empty if there are several inputs, because "the
    whole input" then has no single size.
    """
    if len(graph.inputs) != 1 or any(isinstance(s, Expr) for s in graph.inputs[0].attrs["shape"]):
        return ()
    whole, spans, found = image_size(graph, graph.inputs[0]), contents(graph), list[Node]()
    for node in graph.nodes:
        field = spans[node.inputs[0]] if node.op == "conv" else None
        if field is None or len(field) != len(whole) or not whole or max(node.attrs["kernel"]) == 1:
            continue
        if all(span.size >= size for span, size in zip(field, whole, strict=True)):
            found.append(node)
    return tuple(found)


def image_size(graph: Graph, source: Node) -> tuple[int, ...]:
    """The sizes of the axes of an input behind the batch and the channels."""
    return (graph.unit_shapes[source.name] or ())[2:]


def _agreed(graph: Graph) -> dict[str, Field | None]:
    """The fields of a network with symbolic sizes: those that are the same at two sizes; None if they depend on the
    size.
    """
    one, other = (fields(_sized(graph, size)) for size in SIZES)
    return {name: field if field == other[name] else None for name, field in one.items()}


def _sized(graph: Graph, size: int) -> Graph:
    """The network with numbers instead of symbols: inputs have about that size, even an input of 32H."""
    given = [s for node in graph.inputs for s in node.attrs["shape"] if isinstance(s, Expr)]
    values = {n: size // max(1, int(s.at(dict.fromkeys(s.symbols, 1)))) for s in given for n in s.symbols}

    def numbers(value: Any) -> Any:
        if isinstance(value, Expr):
            return int(value.at(values))
        return tuple(numbers(v) for v in cast(tuple[Any, ...], value)) if isinstance(value, tuple) else value

    nodes = dict[str, Node]()
    for node in graph.nodes:
        attrs = {key: numbers(value) for key, value in node.attrs.items()}
        if attrs != node.attrs:
            nodes[node.name] = node.with_attrs(**attrs)
    return graph.edited(nodes)


def track(graph: Graph, features: bool = False) -> dict[str, Tracked | None]:
    """Like `fields`, with the axes of each output that carry the axes of the image; `features`: like `contents`."""
    shapes = graph.unit_shapes
    fixed = constants(graph)
    found: dict[str, Tracked | None] = {}
    with bounded():
        for node in graph.nodes:
            found[node.name] = None
            with suppress(TooManyPlaces):
                read = _features(graph, node) if features else None
                found[node.name] = None if node.name in fixed else tracked(node, found, shapes, fixed, read)
    return found


def constants(graph: Graph) -> set[str]:
    """Names of the nodes that see no input at all."""
    found: set[str] = set()
    for node in graph.nodes:
        if node.rule.field == "constant" or (node.inputs and all(i in found for i in node.inputs)):
            found.add(node.name)
    return found


def tracked(
    node: Node,
    found: Mapping[str, Tracked | None],
    shapes: Mapping[str, Shape | None],
    fixed: set[str],
    read: Sequence[int] | None = None,
) -> Tracked | None:
    """The field after one node, united over its inputs; with `read` over the features in these inputs."""
    if node.rule.field == "input":
        rank = max(0, len(shapes[node.name] or ()) - 2)  # behind the axes of the batch and the channels
        return Tracked((PIXEL,) * rank, tuple(range(2, rank + 2)))
    sizes = [s for s in (shapes[i] for i in node.inputs) if s is not None]
    out = shapes[node.name]
    if out is None or len(sizes) < len(node.inputs) or node.rule.field not in RULES:
        return None
    arriving: list[Tracked] = []
    rule = pointwise if read is not None and node.op in STATISTICS else RULES[node.rule.field]
    for which, name in enumerate(node.inputs):
        if name not in fixed and (read is None or which in read):
            source = found[name]
            if source is None:
                return None
            arriving.append(moved(source, rule(node, which, sizes, out), sizes[which], out))
    if len({len(state.spans) for state in arriving}) != 1:
        return None
    total = arriving[0]
    for state in arriving[1:]:
        total = united(total, state, out)
    return total


def moved(before: Tracked, axis_reads: Sequence[AxisRead], shape: Shape, out: Shape) -> Tracked:
    """The field after a node that reads the axes of an input as `axis_reads` says."""
    spans: list[Span] = []
    carriers: list[int | None] = []
    for span, carrier in zip(before.spans, before.carriers, strict=True):
        target, reads = axis_reads[carrier] if carrier is not None else WHOLE
        if carrier is not None and (target is None or reads is None):
            span, target = span.whole(shape[carrier]), None
        elif target is not None and reads is not None and reads is not KEEP:
            span = through(span, reads, out[target])
        spans.append(span)
        carriers.append(target if span.advance else None)
    return Tracked(tuple(spans), tuple(carriers))


def united(a: Tracked, b: Tracked, out: Shape) -> Tracked:
    """What two inputs of a node see together. An axis that they carry on different axes is seen whole."""
    spans: list[Span] = []
    carriers: list[int | None] = []
    for one, other, left, right in zip(a.spans, b.spans, a.carriers, b.carriers, strict=True):
        if left is not None and left == right:
            spans.append(union(one, other, out[left]))
            carriers.append(left if spans[-1].advance else None)
        else:
            one = one if left is None else one.whole(out[left])
            other = other if right is None else other.whole(out[right])
            spans.append(union(one, other, 1))
            carriers.append(None)
    return Tracked(tuple(spans), tuple(carriers))


# ---------------------------------------------------------------------------------------------- what layers read


KEEP = Reads(1, 1, lambda o: (o,))
"""Each output reads the position of the same number."""


def shifted(by: int) -> Reads:
    """Output o reads position o + by."""
    return Reads(1, 1, lambda o: (o + by,))


def stepped(start: int, step: int) -> Reads:
    """Output o reads position start + o·step."""
    return Reads(1, step, lambda o: (start + o * step,))


def window(kernel: int, stride: int, before: int, dilation: int) -> Reads:
    """Output o reads o·s − p + k·d for every tap k."""
    return Reads(1, stride, lambda o: range(o * stride - before, o * stride - before + kernel * dilation, dilation))


def spread(kernel: int, stride: int, before: int, dilation: int) -> Reads:
    """Transposed: output o reads the inputs i with i·s − p + k·d = o for some tap k."""

    common = gcd(stride, dilation)
    every, step = (
        stride // common,
        dilation // common,
    )  # of the taps k, only each `every`-th reads an input, `step` before the last one

    inverse = pow(step, -1, every)

    def places(o: int) -> Sequence[int]:
        turns, rest = divmod(o + before, common)
        k = turns * inverse % every  # the first tap k with k·d ≡ o + p modulo s
        if rest or k >= kernel:
            return ()
        first = (o + before - k * dilation) // stride
        return range(first, first - step * ((kernel - 1 - k) // every + 1), -step)

    return Reads(stride, 1, places)


def adaptive(size: int, out: int) -> Reads:
    """Output o reads from ⌊o·i/out⌋ to before ⌈(o+1)·i/out⌉."""
    common = gcd(size, out)
    return Reads(out // common, size // common, lambda o: range(o * size // out, -(-(o + 1) * size // out)))


def resized(attrs: Attrs, size: int, out: int, scale: float | None, short: bool) -> Reads | None:
    """Output o reads the pixels that it is interpolated from; None if the axis had only one position.

    The pattern repeats with the denominator of the factor as a fraction. If a runtime's rounding breaks the pattern
    anywhere on the axis, every output is listed.
    """
    if out == 1 or size == 1:
        return None
    walk(out)
    read = [tuple(pixel for pixel, _ in taps(attrs, o, size, out, scale, short)) for o in range(out)]
    coords, arithmetic = attrs["coords"], attrs["arithmetic"]
    places = [source_place(o, size, out, scale, coords, arithmetic) for o in (0, 1)]
    step = (places[1] - places[0]).limit_denominator(4096)
    if not step:
        return None
    period, advance = step.denominator, step.numerator

    def at(o: int) -> Sequence[int]:
        turns, phase = divmod(o, period)
        return [pixel + turns * advance for pixel in read[phase]]

    if period <= out and all(tuple(at(o)) == pixels for o, pixels in enumerate(read)):
        return Reads(period, advance, lambda o: read[o])
    return Reads(out, size, lambda o: read[o])


# ---------------------------------------------------------------------------------------------- rules per operator

Rule = Callable[[Node, int, Shapes, Shape], Sequence[AxisRead]]
"""What becomes of each axis of one input: (node, number of the input, shapes of all inputs, shape of the output)."""


def same_axes(shape: Shape) -> list[AxisRead]:
    """Every axis stays as it is."""
    return [(axis, KEEP) for axis in range(len(shape))]


def aligned(shape: Shape, out: Shape) -> list[AxisRead]:
    """Axes aligned at the last one, as in broadcasting; an axis of size 1 that is stretched is seen whole."""
    lead = len(out) - len(shape)
    return [(axis + lead, KEEP) if size == out[axis + lead] else WHOLE for axis, size in enumerate(shape)]


def pointwise(node: Node, which: int, shapes: Shapes, out: Shape) -> list[AxisRead]:
    """Element by element, with broadcasting."""
    return aligned(shapes[which], out)


def sliding(node: Node, which: int, shapes: Shapes, out: Shape) -> list[AxisRead]:
    """Convolution, its transpose and pooling over the axes after the channels; convolution mixes channels."""
    attrs, shape = node.attrs, shapes[0]
    kernel, stride = attrs["kernel"], attrs["stride"]
    dilation = attrs.get("dilation", (1,) * len(kernel))
    pads = resolve_padding(attrs["padding"], shape[2:], kernel, stride, dilation)
    reads = spread if node.rule.field == "transposed" else window
    channels: AxisRead = (1, KEEP) if node.rule.macs is None else WHOLE
    axes = zip(kernel, stride, pads, dilation, strict=True)
    return [(0, KEEP), channels, *((a, reads(k, s, p, d)) for a, (k, s, (p, _), d) in enumerate(axes, start=2))]


def sliding_with(node: Node, which: int, shapes: Shapes, out: Shape) -> list[AxisRead]:
    """Convolution with computed weights: each position sees all of them."""
    return sliding(node, which, shapes, out) if which == 0 else [WHOLE for _ in shapes[which]]


def adaptive_axes(node: Node, which: int, shapes: Shapes, out: Shape) -> list[AxisRead]:
    """Adaptive pooling."""
    axes = zip(shapes[0][2:], out[2:], strict=True)
    return [(0, KEEP), (1, KEEP), *((a, adaptive(i, o)) for a, (i, o) in enumerate(axes, start=2))]


def resized_axes(node: Node, which: int, shapes: Shapes, out: Shape) -> list[AxisRead]:
    """Resizing of the spatial axes."""
    rank = len(out) - 2
    if node.attrs["arithmetic"] == "onnx" and shapes[0][2:] == out[2:]:  # copied
        return same_axes(out)
    axes = zip(shapes[0][2:], out[2:], factors(node.attrs, rank), strict=True)
    short = shortcuts(out[2:])
    spread = (resized(node.attrs, i, o, f, short) for i, o, f in axes)
    return [(0, KEEP), (1, KEEP), *enumerate(spread, start=2)]


def whole_axes(axes: Callable[[Attrs, int], Sequence[int]]) -> Rule:
    """Every value sees the whole of the named axes; the others stay."""

    def rule(node: Node, which: int, shapes: Shapes, out: Shape) -> list[AxisRead]:
        rank = len(shapes[0])
        gone = {axis_of(axis, rank) for axis in axes(node.attrs, rank)}
        return [WHOLE if axis in gone else (axis, KEEP) for axis in range(rank)]

    return rule


def reduced(node: Node, which: int, shapes: Shapes, out: Shape) -> list[AxisRead]:
    """Axes summed away: kept with size 1, or dropped."""
    rank = len(shapes[0])
    gone = {axis_of(axis, rank) for axis in node.attrs["axes"]}
    left = iter(range(len(out)))
    if node.attrs["keepdims"]:
        return [WHOLE if axis in gone else (axis, KEEP) for axis in range(rank)]
    return [WHOLE if axis in gone else (next(left), KEEP) for axis in range(rank)]


def squeezed(node: Node, which: int, shapes: Shapes, out: Shape) -> list[AxisRead]:
    """Axes of size 1 dropped."""
    gone = {axis_of(axis, len(shapes[0])) for axis in node.attrs["axes"]}
    left = iter(range(len(out)))
    return [WHOLE if axis in gone else (next(left), KEEP) for axis in range(len(shapes[0]))]


def unsqueezed(node: Node, which: int, shapes: Shapes, out: Shape) -> list[AxisRead]:
    """Axes of size 1 inserted."""
    new = {axis_of(axis, len(out)) for axis in node.attrs["axes"]}
    return [(axis, KEEP) for axis in range(len(out)) if axis not in new]


def transposed_axes(node: Node, which: int, shapes: Shapes, out: Shape) -> list[AxisRead]:
    """Axes in another order."""
    return [(node.attrs["perm"].index(axis), KEEP) for axis in range(len(out))]


def reshaped(node: Node, which: int, shapes: Shapes, out: Shape) -> list[AxisRead]:
    """Axes split or merged: an axis is carried on by the output axis with the same product of its size and stride.

    On an axis of `size` positions whose stride in memory is `line` elements, element f has position (f // line) mod
    size. The output axis with the same size·line counts the same elements; there, m old positions merge into one, or
    one old position becomes m new ones. The inner part of a split axis is not followed: its positions are seen
    together.
    """
    shape = shapes[0]
    ends = {size * prod(out[axis + 1 :]): axis for axis, size in enumerate(out) if size > 1}
    axis_reads: list[AxisRead] = []
    for axis, size in enumerate(shape):
        line = prod(shape[axis + 1 :])
        target = ends.get(size * line) if size > 1 else None
        new = prod(out[target + 1 :]) if target is not None else 0
        if target is None or (line % new and new % line):
            axis_reads.append(WHOLE)
        elif new == line:
            axis_reads.append((target, KEEP))
        else:
            axis_reads.append((target, divided(line // new) if new < line else grouped(new // line)))
    return axis_reads


def divided(parts: int) -> Reads:
    """Output o reads position o // parts."""
    return Reads(parts, 1, lambda o: (o // parts,))


def grouped(parts: int) -> Reads:
    """Output o reads `parts` positions from o·parts on."""
    return Reads(1, parts, lambda o: range(o * parts, (o + 1) * parts))


def padded(node: Node, which: int, shapes: Shapes, out: Shape) -> list[AxisRead]:
    """Positions added or cropped around the last axes; added ones that repeat the image see what they repeat."""
    pads = ((0, 0),) * (len(out) - len(node.attrs["pads"])) + node.attrs["pads"]
    mode = node.attrs["mode"]
    return [(axis, shifted(-pair[0]) if mode == "constant" or pair == (0, 0) else
             repeated(mode, shapes[which][axis], out[axis], pair[0])) for axis, pair in enumerate(pads)]  # fmt: skip


def repeated(mode: str, size: int, out: int, before: int) -> Reads:
    """Output o reads position o − before, folded back into the `size` positions (reflect, replicate or circular)."""

    def places(o: int) -> Sequence[int]:
        at = o - before
        if mode == "circular":
            return (at % size,)
        if mode == "replicate":
            return (min(max(at, 0), size - 1),)
        turn = max(1, 2 * (size - 1))
        return (min(at % turn, turn - at % turn) if size > 1 else 0,)

    return Reads(out, out, places, ends=True)


def sliced(node: Node, which: int, shapes: Shapes, out: Shape) -> list[AxisRead]:
    """Every step-th position of one axis."""
    axis = axis_of(node.attrs["axis"], len(out))
    start, _, step = slice(node.attrs["start"], node.attrs["stop"], node.attrs["step"]).indices(shapes[0][axis])
    axis_reads = same_axes(out)
    axis_reads[axis] = (axis, stepped(start, step))
    return axis_reads


def gathered(node: Node, which: int, shapes: Shapes, out: Shape) -> list[AxisRead]:
    """Chosen positions of one axis."""
    axis, indices = axis_of(node.attrs["axis"], len(out)), node.attrs["indices"]
    size = shapes[0][axis]
    axis_reads = same_axes(out)
    places = [index % size for index in indices]
    steps = {b - a for a, b in pairwise(places)}
    if len(steps) <= 1 and 0 not in steps:  # a constant step, as in a flip: a formula instead of a table
        axis_reads[axis] = (axis, stepped(places[0], steps.pop() if steps else 1))
    else:
        axis_reads[axis] = (axis, Reads(len(indices), size, lambda o: (places[o],), ends=True))
    return axis_reads


def joined(node: Node, which: int, shapes: Shapes, out: Shape) -> list[AxisRead]:
    """Inputs joined along an axis: each is read only in its own part of the output."""
    axis = axis_of(node.attrs["axis"], len(out))
    offset, size = sum(s[axis] for s in shapes[:which]), shapes[which][axis]
    axis_reads = same_axes(out)
    part = Reads(out[axis], out[axis], lambda o: (o - offset,) if 0 <= o - offset < size else (), ends=True)
    axis_reads[axis] = (axis, part)
    return axis_reads


def multiplied(node: Node, which: int, shapes: Shapes, out: Shape) -> list[AxisRead]:
    """Matrix product: rows of the first, columns of the second, the axes before broadcast."""
    before = aligned(shapes[which][:-2], out[:-2])
    row, column = ((len(out) - 2, KEEP), WHOLE) if which == 0 else (WHOLE, (len(out) - 1, KEEP))
    return [*before, row, column]


def contracted(node: Node, which: int, shapes: Shapes, out: Shape) -> list[AxisRead]:
    """Named indices: those of the output stay, the others are summed over."""
    left, _, right = node.attrs["equation"].replace(" ", "").partition("->")
    return [(right.index(index), KEEP) if index in right else WHOLE for index in left.split(",")[which]]


def spatial_axes(attrs: Attrs, rank: int) -> Sequence[int]:
    """The axes after the channels."""
    return range(2, rank)


RULES: Mapping[str, Rule] = {
    "pointwise": pointwise,
    "window": sliding,
    "transposed": sliding,
    "dynamic": sliding_with,
    "adaptive": adaptive_axes,
    "resize": resized_axes,
    "global": whole_axes(spatial_axes),
    "groups": whole_axes(lambda attrs, rank: range(1, rank)),
    "channels": whole_axes(lambda attrs, rank: (1,)),
    "axis": whole_axes(lambda attrs, rank: (attrs["axis"],)),
    "last": whole_axes(lambda attrs, rank: range(rank - len(attrs.get("shape", (0,))), rank)),
    "reduce": reduced,
    "squeeze": squeezed,
    "unsqueeze": unsqueezed,
    "transpose": transposed_axes,
    "reshape": reshaped,
    "pad": padded,
    "slice": sliced,
    "gather": gathered,
    "concat": joined,
    "matmul": multiplied,
    "einsum": contracted,
}
"""The rule of each operator, by the column `field` of `OPS`; "input", "constant" and "opaque" have none."""
