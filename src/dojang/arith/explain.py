"""Every number unfolded: for one layer the formula of each figure, the numbers put in, the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from dojang.arith.conv import Conv, by
from dojang.arith.cost import BYTES, count
from dojang.arith.graph import Graph, Node
from dojang.arith.shapes import Shape, conv_problem, dynamic_problem
from dojang.arith.stored import arrays_of, parts_of
from dojang.base.errors import ShapeError


@dataclass(frozen=True, slots=True)
class Step:
    """One figure: what it is, its formula, the formula with numbers, the result."""

    figure: str
    formula: str
    numbers: str
    result: int | str

    def to_dict(self) -> dict[str, Any]:
        """The four parts."""
        return {"figure": self.figure, "formula": self.formula, "numbers": self.numbers, "result": self.result}


def explain(graph: Graph, name: str) -> tuple[Step, ...]:
    """How the figures of one layer come about, for batch 1 and with padding taps counted.

    Covers output size, weights, biases, MACs, bytes and the receptive field. Raises `GraphError` for a name that is no
    node, `ShapeError` where an unknown operator before the layer hides its input shape.

    >>> from dojang.formats.text import parse
    >>> step = explain(parse("input 3x32x32\\nconv 4 5x5 bias=no"), "conv1")[2]
    >>> step.figure, step.numbers, step.result
    ('weights', '5·5·3·4', 300)
    """
    node = graph[name]
    shapes = [graph.unit_shapes[i] for i in node.inputs]
    known = [s for s in shapes if s is not None]
    out = graph.unit_shapes[name]
    if len(known) < len(shapes) or out is None:
        raise ShapeError(f"{name}: its shape is not known, because an operator before it is not")
    steps = [*_figures(graph, node, known, out), *_stored(graph, node)]
    steps.append(Step("output bytes", f"elements · {BYTES}", f"{_times(*out[1:])}·{BYTES}", BYTES * prod(out[1:])))
    return (*steps, *_field(graph, node))


def _stored(graph: Graph, node: Node) -> list[Step]:
    """Parameters that count here, where they are not the layer's arrays as they stand: shared, cut from others,
    computed from several, or not trained.
    """
    parts = {role: parts_of(graph, node, role, shape) for role, shape in arrays_of(graph, node).items()}
    if all(len(own) == 1 and own[0].name == node.array(role) for role, own in parts.items()):
        plain = all(own[0].stored.kind == "parameter" or role in node.rule.buffers for role, own in parts.items())
        earlier = graph.nodes[: graph.nodes.index(node)]
        read = {node.array(role) for role in parts}
        if plain and not any(read & {other.array(role) for role in arrays_of(graph, other)} for other in earlier):
            return []
    layer = next(row for row in count(graph).layers if row.name == node.name)
    new = {p.name: p.stored.size for own in parts.values() for p in own
           if p.stored.kind == "parameter" and p.name not in layer.shared}  # fmt: skip
    formula = " + ".join(new) or "none that no layer before it has counted"
    return [Step("parameters counted here", formula, " + ".join(map(str, new.values())) or "0", layer.cost.params)]


def ways_through(some: int, every: int) -> Step:
    """On how many of the ways that values decide between a layer lies."""
    return Step("ways through this layer", "ways that have it, of those that values decide between",
                f"{some} of {every}", some)  # fmt: skip


def _figures(graph: Graph, node: Node, shapes: Sequence[Shape], out: Shape) -> list[Step]:
    if node.op in ("conv", "conv_transpose"):
        return _conv(conv_problem(node.attrs, shapes, node.op == "conv_transpose"))
    if node.op == "deform_conv":
        samples = prod(out[2:]) * prod(node.attrs["kernel"]) * shapes[0][1]
        between = Step("values read between pixels", "not counted as MACs: taps · ic · oh·ow", "", samples)
        steps = _conv(conv_problem(node.attrs, shapes))
        return [*(s for s in steps if s.figure != "MACs on pixels only"), between]
    if node.op == "dynamic_conv":
        steps = _conv(dynamic_problem(node.attrs, shapes))
        return [*(replace(s, figure="weights, computed") if s.figure == "weights" else s for s in steps)]
    layer = next(row for row in count(graph).layers if row.name == node.name)
    steps = [Step("output", "by the rule of " + node.op, " and ".join(by(s[1:]) for s in shapes), by(out[1:]))]
    if node.op == "dense":
        features = shapes[0][-1]
        steps.append(Step("weights", "in · out", f"{features}·{node.attrs['out']}", features * node.attrs["out"]))
        steps.append(Step("biases", "out, or 0", str(layer.cost.biases), layer.cost.biases))
        steps.append(Step("MACs", "places · in · out", f"{_times(*shapes[0])}·{node.attrs['out']}", layer.cost.macs))
        return steps
    if "kernel" in node.attrs:
        steps = _sizes(node.attrs["kernel"], shapes[0][2:], out[2:], node)
    for role, shape in graph.node_params(node).items():
        kind = "buffer, not a parameter" if role in node.rule.buffers else "parameters"
        steps.append(Step(role, kind, _times(*shape), prod(shape)))
    if node.rule.macs:
        steps.append(
            Step("MACs", "product of all sizes that take part", " and ".join(by(s) for s in shapes), layer.cost.macs)
        )
    return steps


def _times(*sizes: int) -> str:
    return "·".join(str(s) for s in sizes) or "1"


def _sizes(kernel: Shape, source: Shape, out: Shape, node: Node) -> list[Step]:
    attrs = node.attrs
    up = "⌈" if attrs.get("ceil") else "⌊"
    formula = f"{up}(i + p - k) / s{'⌉' if up == '⌈' else '⌋'} + 1"
    pads = attrs["padding"]
    steps: list[Step] = []
    for axis, (i, k, s) in enumerate(zip(source, kernel, attrs["stride"], strict=True)):
        pad = pads if isinstance(pads, str) else sum(pads[axis])
        numbers = f"{up}({i} + {pad} - {k}) / {s}{'⌉' if up == '⌈' else '⌋'} + 1"
        steps.append(Step(f"output, axis {axis}", formula, numbers, out[axis]))
    return steps


def _conv(c: Conv) -> list[Step]:
    steps: list[Step] = []
    for axis in range(c.rank):
        i, k, s, d = c.size[axis], c.kernel[axis], c.stride[axis], c.dilation[axis]
        p = sum(c.padding[axis])
        if c.transposed:
            formula = "(i - 1)·s - p + d·(k - 1) + 1 + extra"
            numbers = f"({i} - 1)·{s} - {p} + {d}·({k} - 1) + 1 + {c.output_padding[axis]}"
        else:
            formula = "⌊(i + p - d·(k - 1) - 1) / s⌋ + 1"
            numbers = f"⌊({i} + {p} - {d}·({k} - 1) - 1) / {s}⌋ + 1"
        steps.append(Step(f"output, axis {axis}", formula, numbers, c.out_size[axis]))
    grouped = c.groups > 1
    taps = _times(*c.kernel)
    weights = f"{taps}·{c.ic}·{c.oc}" + (f" / {c.groups}" if grouped else "")
    steps.append(Step("weights", "k·k·ic·oc" + (" / groups" if grouped else ""), weights, c.weights))
    steps.append(Step("biases", "oc, or 0", str(c.biases), c.biases))
    places, where = (c.size, "ih·iw") if c.transposed else (c.out_size, "oh·ow")
    steps.append(Step("MACs", f"{where} · weights", f"{_times(*places)} · {c.weights:,}", c.macs))
    inside = "the same, less the taps that fall on padding"
    steps.append(Step("MACs on pixels only", inside, f"{c.macs:,} - {c.macs - c.macs_inside:,}", c.macs_inside))
    return steps


def _field(graph: Graph, node: Node) -> list[Step]:
    row = next(layer for layer in count(graph).layers if layer.name == node.name)
    if row.field is None:
        return []
    steps = [
        Step(
            f"receptive field, axis {axis}",
            "last pixel - first pixel + 1, as seen by the first output",
            f"{float(span.last):g} - {float(span.first):g} + 1, jump {float(span.jump):g}",
            span.size,
        )
        for axis, span in enumerate(row.field)
    ]
    image = next((n.attrs["shape"][1:] for n in graph.inputs), ())
    for axis, (b, span, size) in enumerate(zip(row.border or (), row.field, image, strict=False)):
        low, high = span.at(0), span.at(b.places - 1)
        if low is None or high is None:
            continue
        steps.append(
            Step(
                f"clipped by padding, axis {axis}",
                "pixels before 0 of the first field, pixels from i on of the last; places that see the image only",
                f"first field {low[0]}..{low[1]}, last {high[0]}..{high[1]}, i = {size}",
                f"{b.before} before, {b.after} behind; {b.whole:,} of {b.places:,} places see the image only",
            )
        )
    return steps
