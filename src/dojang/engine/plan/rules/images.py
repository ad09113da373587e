"""What moves or weighs pixels: resizing, padding of the image, softmax over channels."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from dojang.arith.resizing import mixes
from dojang.engine.fuse import Group
from dojang.engine.kernels import task as t
from dojang.engine.kernels.other import elementwise, pool, resample, softmax
from dojang.engine.kernels.other.elementwise import MapTask
from dojang.engine.kernels.other.resample import Axis
from dojang.engine.kernels.other.softmax import SoftmaxTask
from dojang.engine.plan.context import PlanContext
from dojang.engine.plan.rules.axes import reduction
from dojang.engine.plan.rules.windows import windows
from dojang.engine.plan.steps import Packing, Place
from dojang.engine.reference.layout import evened

MODES: dict[str, Any] = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
"""NumPy's names of the ways to go on beyond the border."""


def samples(context: PlanContext, group: Group, x: Place, y: Place, axes: list[Axis]) -> None:
    """Adds the call for one or two axes."""
    size, out = x.shape[2:], y.shape[2:]
    if len(axes) == 1:
        axes, size, out = [((0, ((0, 1.0),)),), axes[0]], (1, *size), (1, *out)
    down, across = axes
    task = resample.of_axes(x.channels, size, out, down, across, x.ld, y.ld)
    key = f"{group.node.name} {task}"
    packing = Packing((f"{key} w", f"{key} b"), lambda weights: resample.pack(task, down, across), of_size=True)
    context.simple(group, resample, task, y.images, {t.X: x, t.Y: y, t.W: f"{key} w", t.B: f"{key} b"}, packing)


def resize(context: PlanContext, group: Group) -> bool:
    """One to three axes in any mode, from the tables of the definition."""
    x, a = context.places[group.inputs[0]], group.node.attrs
    size, out = x.shape[2:], context.shape(group.value)[2:]
    if not 1 <= len(size) <= 3:
        return False
    axes: list[Axis] = [tuple(enumerate(evened(mixes_))) for mixes_ in mixes(a, size, out)]
    if len(size) < 3:
        samples(context, group, x, context.target(group.value), axes)
        return True
    if x.ld != x.channels:
        return False
    # slices as images of their own; then from slice to slice, a whole slice as one pixel
    flat = replace(x, shape=(x.images * size[0], x.channels, *size[1:]))
    wide = context.fresh((x.images * size[0], x.channels, *out[1:]))
    samples(context, group, flat, wide, axes[1:])
    y, row = context.fresh(context.shape(group.value)), x.channels * prod(out[1:])
    context.places[group.value] = y
    one, other = (replace(p, shape=(x.images, row, n), ld=row) for p, n in ((wide, size[0]), (y, out[0])))
    samples(context, group, one, other, axes[:1])
    return True


def pad(context: PlanContext, group: Group) -> bool:
    """Padding or cropping of one or two axes of the image, in every mode; not of channels."""
    x, a = context.places[group.inputs[0]], group.node.attrs
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
    y = context.target(group.value)
    if constant and any(p > 0 for pair in pads for p in pair):
        task = MapTask("fill", y.channels, y.pixels, y.ld, y.ld, k=a["value"])
        context.simple(group, elementwise, task, y.images, {t.Y: y})
    samples(context, group, x, y, axes)
    return True


def largest(context: PlanContext, group: Group) -> bool:
    """The maximum over all axes of space, or over all but the first: a pooling, and one over the channels."""
    x, shape = context.places[group.inputs[0]], context.shape(group.value)
    rank = len(x.shape)
    axes = sorted(a % rank for a in group.node.attrs["axes"])
    if rank < 3 or axes not in (list(range(1, rank)), list(range(2, rank))) or len(shape) < 2:
        return reduction(context, group)
    out = (x.images, x.channels, *(1,) * (rank - 2))
    none = ((0, 0),) * (rank - 2)
    first = windows(context, "max", x.shape, x.ld, out, x.shape[2:], x.shape[2:], none)
    across = (x.channels,)
    second = windows(context, "max", (x.images, 1, *across), 1, (x.images, 1, 1), across, across, ((0, 0),))
    if first is None or second is None:
        return reduction(context, group)
    y = context.fresh(out)
    context.simple(group, pool, first, x.images, {t.X: x, t.Y: y})
    if axes[0] == 1:
        rest = context.fresh((x.images, 1, 1))
        context.simple(group, pool, second, x.images, {t.X: y, t.Y: rest})
        y = rest
    context.places[group.value] = replace(y, ld=shape[1], shape=shape)
    return True


def probabilities(context: PlanContext, group: Group) -> bool:
    """Softmax over any axis but the first."""
    x, logarithm = context.places[group.inputs[0]], group.node.op == "log_softmax"
    axis = group.node.attrs["axis"] % len(x.shape)
    inner = prod(x.shape[axis + 1 :])
    if axis == 0 or not prod(x.shape):
        return False
    if axis > 1 and inner > 1 and x.ld != x.channels:  # pixels with gaps
        y = context.fresh(x.shape)
        task = MapTask("copy", x.channels, x.pixels, x.ld, y.ld)
        context.simple(f"{group.value} together", elementwise, task, x.images, {t.X: x, t.Y: y})
        x = y
    y = context.target(group.value)
    if axis == 1:
        task = SoftmaxTask(x.channels, x.pixels, x.ld, y.ld, logarithm)
    else:
        lanes = x.channels if inner == 1 else inner * x.channels
        task = SoftmaxTask(lanes, x.shape[axis], inner * x.ld, inner * y.ld, logarithm, prod(x.shape[2:axis]))
    context.simple(group, softmax, task, x.images, {t.X: x, t.Y: replace(y)})
    return True
