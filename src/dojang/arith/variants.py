"""Variants of a layer: what it costs if the author of a table had counted a slightly different layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from dojang.arith.conv import Conv, by
from dojang.arith.graph import Graph, Node
from dojang.arith.shapes import conv_problem

POOLS = ("maxpool", "avgpool", "adaptive_maxpool", "adaptive_avgpool", "global_maxpool", "global_avgpool")
PASSING = ("pointwise", "reshape", "squeeze", "unsqueeze", "transpose")
MULTIPLIERS = (1, 2, 4, 8, 16)
KERNELS = (1, 3, 5, 7, 9, 11)
POOL_LEFT_OUT = "pool left out"


@dataclass(frozen=True, slots=True)
class Variant:
    """One layer counted differently: the type of change, the change in words, and its figures without biases."""

    layer: str
    kind: str
    change: str
    weights: int
    macs: int


def variants(graph: Graph, node: Node) -> Iterator[Variant]:
    """Every variant of a conv or dense node, likely mistakes first.

    A pooling layer before it is left out; groups ignored or added; a depthwise-separable or spatially separable
    convolution in its place; another kernel size with the same output.
    """
    shape = graph.unit_shapes[node.inputs[0]] if node.inputs else None
    if shape is None:
        return
    if node.op == "dense":
        yield from _dense(graph, node)
    elif node.op in ("conv", "conv_transpose"):
        yield from _unpooled_conv(graph, node)
        yield from _conv(node.name, conv_problem(node.attrs, [shape], node.op == "conv_transpose"))


def _pools_before(graph: Graph, node: Node) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The pooling layers directly before a node (through views and activations), and the input shape of each."""
    source = graph[node.inputs[0]]
    names: list[str] = []
    while len(source.inputs) == 1 and (source.op in POOLS or source.rule.field in PASSING):
        if source.op in POOLS:
            shape = graph.unit_shapes[source.inputs[0]]
            if shape is None:
                return
            names.append(source.name)
            yield " and ".join(names), shape
        source = graph[source.inputs[0]]


def _dense(graph: Graph, node: Node) -> Iterator[Variant]:
    out = node.attrs["out"]
    for names, shape in _pools_before(graph, node):
        features = prod(shape[1:])
        sizes = "·".join(str(s) for s in (*shape[2:], shape[1]))
        yield Variant(
            node.name,
            POOL_LEFT_OUT,
            f"{sizes}·{out} = {features * out:,}: {names} was left out",
            features * out,
            features * out,
        )


def _unpooled_conv(graph: Graph, node: Node) -> Iterator[Variant]:
    for names, shape in _pools_before(graph, node):
        conv = conv_problem(node.attrs, [shape], node.op == "conv_transpose")
        yield Variant(node.name, POOL_LEFT_OUT, f"on {by(conv.size)}: {names} was left out", conv.weights, conv.macs)


def _conv(name: str, c: Conv) -> Iterator[Variant]:
    if c.transposed:
        return
    area, taps = prod(c.out_size), prod(c.kernel)
    if c.groups > 1:
        whole = taps * c.ic * c.oc
        yield Variant(
            name,
            "groups ignored",
            f"{by(c.kernel)}, {c.ic} to {c.oc} without its {c.groups} groups",
            whole,
            area * whole,
        )
    elif c.ic % 2 == 0 and c.oc % 2 == 0:
        half = taps * c.ic * c.oc // 2
        yield Variant(name, "groups", f"{by(c.kernel)}, {c.ic} to {c.oc} in 2 groups", half, area * half)
    if taps > 1 and c.groups == 1:
        for m in MULTIPLIERS:
            deep, mix = taps * c.ic * m, c.ic * m * c.oc
            what = f"{'·'.join(str(k) for k in c.kernel)}·{c.ic}·{m} + {c.ic * m}·{c.oc} = {deep + mix:,}"
            yield Variant(name, "separable", f"separable, {what}", deep + mix, area * (deep + mix))
        for middle in (c.oc, c.ic):
            split = c.kernel[0] * c.ic * middle + taps // c.kernel[0] * middle * c.oc
            what = f"{c.kernel[0]}x1 then 1x{taps // c.kernel[0]} through {middle} channels"
            yield Variant(name, "spatially separable", f"spatially separable, {what}", split, area * split)
    for k in KERNELS:
        if (k,) * c.rank != c.kernel and taps > 1:
            weights = k**c.rank * c.ic // c.groups * c.oc
            yield Variant(
                name, f"kernel {k}", f"{by((k,) * c.rank)} in place of {by(c.kernel)}", weights, area * weights
            )
