"""Operators that ONNX has no form of, written as nodes of others; `w` is the `Writer` of `write.py`."""

from __future__ import annotations

import json
from math import prod
from typing import Any

from dojang.arith.graph import Node
from dojang.arith.shapes import axis_of
from dojang.base.errors import UnsupportedError


def bins(size: int, out: int) -> list[tuple[int, int]]:
    """Where each window of an adaptive pool begins and ends."""
    return [(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]


def adaptive_pool(w: Any, node: Node, kind: str) -> None:
    """Windows that do not divide: axis by axis the mean or the largest of each, and these one after the other. The mean
    over a window is the mean over its rows of the means over their columns.
    """
    value, size, out = node.inputs[0], w.shape(node.inputs[0])[2:], node.attrs["out"]
    steps = [axis for axis, (s, o) in enumerate(zip(size, out, strict=True)) if s != o]
    for axis in steps:
        parts = []
        for begin, end in bins(int(size[axis]), out[axis]):
            cut = [w.ints(node, what, [n]) for what, n in (("begin", begin), ("end", end), ("axis", axis + 2))]
            part = w.op("Slice", (value, *cut), w.name(f"{node.name}.part"))
            over = w.ints(node, "over", [axis + 2])
            parts.append(w.op(kind, (part, over), w.name(f"{node.name}.pooled"), keepdims=1))
        last = axis == steps[-1]
        value = w.op("Concat", parts, node.name if last else w.name(f"{node.name}.along{axis}"), axis=axis + 2)


def lrn(w: Any, node: Node) -> None:
    """x / (k + α · mean of squares over `size` channels)^β, for an even size: one channel more lies before."""
    x, a, size = node.inputs[0], node.attrs, node.attrs["size"]
    rest = [int(s) for s in w.shape(x)[2:]]
    square = w.op("Mul", (x, x), w.name(f"{node.name}.square"))
    # the channels as rows of pictures of one channel
    rows = w.op("Reshape", (square, w.ints(node, "rows", [0, 1, -1, prod(rest)])), w.name(f"{node.name}.rows"))
    mean = w.op(
        "AveragePool", (rows,), w.name(f"{node.name}.mean"), kernel_shape=[size, 1], strides=[1, 1],
        pads=[size // 2, 0, (size - 1) // 2, 0], count_include_pad=1,
    )  # fmt: skip
    scaled = w.op("Mul", (mean, w.number(node, "alpha", a["alpha"])), w.name(f"{node.name}.scaled"))
    moved = w.op("Add", (scaled, w.number(node, "k", a["k"])), w.name(f"{node.name}.moved"))
    power = w.op("Pow", (moved, w.number(node, "beta", a["beta"])), w.name(f"{node.name}.power"))
    back = w.op("Reshape", (power, w.ints(node, "shape", [0, -1, *rest])), w.name(f"{node.name}.back"))
    w.op("Div", (x, back), node.name)


def running_product(w: Any, node: Node, axis: int | None) -> None:
    """Products of all elements so far, in steps that double: each element by what ends 1, 2, 4, … places before."""
    x, settings = node.inputs[0], json.loads(node.attrs["settings"])
    if axis is None or settings.get("exclusive") or settings.get("reverse"):
        raise UnsupportedError(f"{node.name}: CumProd of this form is not written; few programs know it")
    shape = w.shape(x)
    axis = axis_of(axis, len(shape))
    size, value, step = int(shape[axis]), x, 1
    while step < size:
        pads = [n if a == axis else 0 for n in (step, -step) for a in range(len(shape))]
        given = value, w.ints(node, "pads", pads), w.number(node, "one", 1.0)
        moved = w.op("Pad", given, w.name(f"{node.name}.moved"))
        step *= 2
        value = w.op("Mul", (value, moved), node.name if step >= size else w.name(f"{node.name}.times"))
    if value == x:
        w.op("Identity", (x,), node.name)
