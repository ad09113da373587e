"""Lowering of what moves or weighs pixels: resizing, padding of the image, softmax over channels."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from dojang.arith.resizing import mixes
from dojang.engine.fuse import Group
from dojang.engine.kernels import task as t
from dojang.engine.kernels.other import elementwise, pool, resample, softmax
from dojang.engine.kernels.other.elementwise import MapTask
from dojang.engine.kernels.other.resample import Axis
from dojang.engine.kernels.other.softmax import SoftmaxTask
from dojang.engine.lower.calls import Place
from dojang.engine.reference.layout import evened

if TYPE_CHECKING:
    from dojang.engine.lower.network import Lowering

MODES: dict[str, Any] = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
"""NumPy's names of the ways to go on beyond the border."""


def samples(low: Lowering, group: Group, x: Place, y: Place, axes: list[Axis]) -> None:
    """Adds the call for one or two axes."""
    size, out = x.shape[2:], y.shape[2:]
    if len(axes) == 1:
        axes, size, out = [((0, ((0, 1.0),)),), axes[0]], (1, *size), (1, *out)
    task = resample.of_axes(x.channels, size, out, axes[0], axes[1], x.ld, y.ld)
    shares, offsets = resample.pack(task, axes[0], axes[1])
    key = f"{group.node.name} {task}"
    low.packed.setdefault(f"{key} w", shares)
    low.packed.setdefault(f"{key} b", offsets)
    low.simple(group, resample, task, y.images, {t.X: x, t.Y: y, t.W: f"{key} w", t.B: f"{key} b"})


def resize(low: Lowering, group: Group) -> bool:
    """One or two axes in any mode, from the tables of the definition."""
    x, a = low.out.places[group.inputs[0]], group.node.attrs
    size, out = x.shape[2:], low.shape(group.value)[2:]
    if not 1 <= len(size) <= 2:
        return False
    axes: list[Axis] = [tuple(enumerate(evened(mixes_))) for mixes_ in mixes(a, size, out)]
    samples(low, group, x, low.target(group.value), axes)
    return True


def pad(low: Lowering, group: Group) -> bool:
    """Padding or cropping of one or two axes of the image, in every mode; not of channels."""
    x, a = low.out.places[group.inputs[0]], group.node.attrs
    rank = len(x.shape)
    pads = ((0, 0),) * (rank - len(a["pads"])) + tuple(a["pads"])
    if not 3 <= rank <= 4 or any(p for pair in pads[:2] for p in pair):
        return False
    constant = a["mode"] == "constant"
    axes: list[Axis] = []
    for pixels, (before, after) in zip(x.shape[2:], pads[2:], strict=True):
        if constant:
            kept = range(max(0, -before), min(pixels, pixels + after))
            axes.append(tuple((p + before, ((p, 1.0),)) for p in kept))
        elif before < 0 or after < 0:
            return False
        else:
            places = np.pad(np.arange(pixels), (before, after), MODES[a["mode"]]).tolist()
            axes.append(tuple((o, ((p, 1.0),)) for o, p in enumerate(places)))
    if not all(axes):
        return False
    y = low.target(group.value)
    if constant and any(p > 0 for pair in pads for p in pair):
        task = MapTask("fill", y.channels, y.pixels, y.ld, y.ld, k=a["value"])
        low.simple(group, elementwise, task, y.images, {t.Y: y})
    samples(low, group, x, y, axes)
    return True


def largest(low: Lowering, group: Group) -> bool:
    """The maximum over all axes of space, or over all but the first: a pooling, and one over the channels."""
    x, shape = low.out.places[group.inputs[0]], low.shape(group.value)
    rank = len(x.shape)
    axes = sorted(a % rank for a in group.node.attrs["axes"])
    if rank < 3 or axes not in (list(range(1, rank)), list(range(2, rank))) or len(shape) < 2:
        return False
    out = (x.images, x.channels, *(1,) * (rank - 2))
    none = ((0, 0),) * (rank - 2)
    first = low.windows("max", x.shape, x.ld, out, x.shape[2:], x.shape[2:], none)
    second = low.windows("max", (x.images, 1, x.channels), 1, (x.images, 1, 1), (x.channels,), (x.channels,), ((0, 0),))
    if first is None or second is None:
        return False
    y = low.fresh(out)
    low.simple(group, pool, first, x.images, {t.X: x, t.Y: y})
    if axes[0] == 1:
        rest = low.fresh((x.images, 1, 1))
        low.simple(group, pool, second, x.images, {t.X: y, t.Y: rest})
        y = rest
    low.out.places[group.value] = replace(y, ld=shape[1], shape=shape)
    return True


def probabilities(low: Lowering, group: Group) -> bool:
    """Softmax over any axis but the first."""
    x, logarithm = low.out.places[group.inputs[0]], group.node.op == "log_softmax"
    axis = group.node.attrs["axis"] % len(x.shape)
    inner = prod(x.shape[axis + 1 :])
    if axis == 0 or not prod(x.shape) or (axis > 1 and inner > 1 and x.ld != x.channels):
        return False
    y = low.target(group.value)
    if axis == 1:
        task = SoftmaxTask(x.channels, x.pixels, x.ld, y.ld, logarithm)
    else:
        lanes = x.channels if inner == 1 else inner * x.channels
        task = SoftmaxTask(lanes, x.shape[axis], inner * x.ld, inner * y.ld, logarithm, prod(x.shape[2:axis]))
    low.simple(group, softmax, task, x.images, {t.X: x, t.Y: replace(y)})
    return True
