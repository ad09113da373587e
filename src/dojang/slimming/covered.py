"""Convolutions whose input already sees the whole image, with a smaller kernel or at a coarser stride.

- smaller kernel: k×k becomes (k − 2)×(k − 2) in the same places.
- coarser stride: outputs are computed at every second place and repeated, so that all that follows keeps its size.

Such a layer need not gather from afar any more (`arith.field.covered`). The weights are those that come nearest to the
old outputs on the samples: least squares over all taps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dojang.arith.graph import Graph, Node
from dojang.evidence.moments import affine_fit
from dojang.slimming.grouping import Form

Array = np.ndarray

TAPS = 2048
"""Input channels times kernel taps of a fitted layer, at most: the fit solves a system of that size."""

PLACES = 8
"""Places per tap that a fit sees, at most."""


def smaller(graph: Graph, node: Node, seen: Mapping[str, Array]) -> Form | None:
    """The network with the kernel one ring smaller; None where it has none to give or its taps are too many.

    `seen`: what the layer reads and makes on some samples, by value name.
    """
    attrs = node.attrs
    padding = attrs["padding"]
    if isinstance(padding, str) or attrs["groups"] != 1:
        return None
    kernel = tuple(max(1, k - 2) if k > 2 else k for k in attrs["kernel"])
    inner = tuple(
        (low - d * (old > new), high - d * (old > new))
        for (low, high), d, old, new in zip(padding, attrs["dilation"], attrs["kernel"], kernel, strict=True)
    )
    if kernel == tuple(attrs["kernel"]) or min(p for pair in inner for p in pair) < 0:
        return None
    new = Node.of(node.name, "conv", *node.inputs, arrays=node.arrays,
                  **{**attrs, "kernel": kernel, "padding": inner, "bias": True})  # fmt: skip
    fitted = fit(new, seen[node.inputs[0]], seen[node.name])
    if fitted is None:
        return None
    said = f"{node.name} with a {_by(kernel)} kernel in place of {_by(attrs['kernel'])}: its input sees the whole image"
    return Form(graph.edited({node.name: new}, weights=_arrays(graph, node, new, *fitted)), said)


def coarser(graph: Graph, node: Node, seen: Mapping[str, Array]) -> Form | None:
    """The network with the layer computed at every second place of each axis, each output standing for its block."""
    shape = graph.unit_shapes[node.name]
    attrs = node.attrs
    name = f"{node.name}_coarse"
    if shape is None or isinstance(attrs["padding"], str) or attrs["groups"] != 1 or name in graph.by_name:
        return None
    size = tuple(shape[2:])
    if not size or min(size) < 2:
        return None
    new = Node.of(name, "conv", *node.inputs,
                  **{**attrs, "stride": tuple(2 * s for s in attrs["stride"]), "bias": True})  # fmt: skip
    back = Node.of(node.name, "resize", name, size=size)
    y = seen[node.name]
    for axis, whole in enumerate(size, start=2):
        y = _block_means(y, axis, np.arange(whole) * -(-whole // 2) // whole)
    fitted = fit(new, seen[node.inputs[0]], y)
    if fitted is None:
        return None
    said = f"{node.name} computed at every second place and repeated: its input sees the whole image"
    return Form(graph.edited({node.name: (new, back)}, weights=_arrays(graph, node, new, *fitted)), said)


def fit(layer: Node, x: Array, y: Array) -> tuple[Array, Array] | None:
    """(weight, bias) that bring the layer nearest to outputs `y` (n, oc, *places) on inputs `x` (n, ic, *size).

    None where its taps are too many.
    """
    attrs = layer.attrs
    taps = x.shape[1] * int(np.prod(attrs["kernel"]))
    if taps > TAPS:
        return None
    rows = _windows(x, attrs)
    wanted = np.moveaxis(y, 1, -1).reshape(len(rows), -1)
    step = max(1, len(rows) // (PLACES * taps))
    weight, bias = affine_fit(rows[::step].astype(np.float64), wanted[::step].astype(np.float64))
    return weight.reshape(len(weight), x.shape[1], *attrs["kernel"]), bias


def _windows(x: Array, attrs: Mapping[str, Any]) -> Array:
    """What each output place of a convolution reads, as rows (n · places, ic · taps)."""
    kernel, stride, dilation, padding = (attrs[k] for k in ("kernel", "stride", "dilation", "padding"))
    x = np.pad(x, ((0, 0), (0, 0), *padding))
    spans = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    rank = len(spans)
    view = np.lib.stride_tricks.sliding_window_view(x, spans, tuple(range(2, 2 + rank)))
    at = tuple(slice(None, None, s) for s in stride)
    taps = tuple(slice(None, None, d) for d in dilation)
    view = view[(slice(None), slice(None), *at, *taps)]
    rows = np.moveaxis(view, 1, 1 + rank)
    return rows.reshape(int(np.prod(rows.shape[: 1 + rank])), -1)


def _block_means(y: Array, axis: int, block: Array) -> Array:
    """Means along an axis over the places of each block; `block` rises and names them 0, 1, …"""
    starts = np.flatnonzero(np.diff(block, prepend=-1))
    counts = np.diff(np.append(starts, len(block)))
    shape = [1] * y.ndim
    shape[axis] = -1
    return np.add.reduceat(y.astype(np.float64), starts, axis) / counts.reshape(shape)


def _arrays(graph: Graph, old: Node, new: Node, weight: Array, bias: Array) -> dict[str, Array]:
    kind = np.asarray(graph.weights[old.array("weight")]).dtype
    return {
        new.array("weight"): np.ascontiguousarray(weight, kind),
        new.array("bias"): np.ascontiguousarray(bias, kind),
    }


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
