"""What works along any axis, wherever values lie: reductions, look-ups, joins; constants brought to a place."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from dojang.engine.fuse import Group
from dojang.engine.kernels import task as t
from dojang.engine.kernels.other import gather as gathering
from dojang.engine.kernels.other import reduce
from dojang.engine.plan.context import PlanContext
from dojang.engine.plan.rules import strided
from dojang.engine.plan.steps import Packing, Place


def reduction(context: PlanContext, group: Group, lying: Place | None = None) -> bool:
    """The sum, mean, largest or least value along any axes; of `lying` where that is not channels last."""
    x, shape = lying or context.places[group.inputs[0]], context.shape(group.value)
    rank = len(x.shape)
    axes = sorted({a % rank for a in group.node.attrs["axes"]})
    if not prod(x.shape):
        return False
    y = context.fresh(shape)
    kept = [a for a in range(rank) if a not in axes]
    steps, onto = strided.strides(x), strided.strides(y)
    if group.node.attrs["keepdims"]:
        onto = tuple(onto[a] for a in kept)
    task = reduce.of_axes(
        group.node.op.removeprefix("reduce_"), [x.shape[a] for a in kept], [steps[a] for a in kept], onto,
        [x.shape[a] for a in axes], [steps[a] for a in axes],
    )  # fmt: skip
    if task is None:
        return False
    context.places[group.value] = y
    return context.simple(group, reduce, task, 1, {t.X: x, t.Y: y})


def gather(context: PlanContext, group: Group) -> bool:
    """Some places of one axis, in any order and number."""
    x, shape = context.places[group.inputs[0]], context.shape(group.value)
    if not prod(shape) or len(shape) != len(x.shape):
        return False
    y = context.fresh(shape)
    if not picked(context, group, x, y, strided.strides(y)):
        return False
    context.places[group.value] = y
    return True


def picked(context: PlanContext, group: Group, x: Place, y: Place, onto: Sequence[int]) -> bool:
    """Adds the step that brings what a look-up takes from x, as that lies, to y, whose axes lie `onto` apart."""
    a, shape = group.node.attrs, context.shape(group.value)
    axis, size = a["axis"] % len(x.shape), x.shape[a["axis"] % len(x.shape)]
    steps = strided.strides(x)
    places = [i % size for i in a["indices"]]
    apart = places[1] - places[0] if len(places) > 1 else 1
    if apart > 0 and places == list(range(places[0], places[0] + apart * len(places), apart)):
        onward = [s * apart if k == axis else s for k, s in enumerate(steps)]
        return strided.copy(context, group, x, onward, y, places[0] * steps[axis], onto, shape)
    task = gathering.of_axes(shape, steps, onto, axis)
    if task is None:
        return False
    key, step = f"{group.value} places", steps[axis]
    packing = Packing((key,), lambda w: [t.on_line(np.array(places, np.int64) * step)])
    return context.simple(group, gathering, task, 1, {t.X: x, t.Y: y, t.R: key}, packing)


def concat(context: PlanContext, group: Group) -> bool:
    """Values behind each other along any axis, each copied to its place."""
    shape = context.shape(group.value)
    axis = group.node.attrs["axis"] % len(shape)
    whole = context.reserved.get(group.value) or context.fresh(shape)
    onto, start = strided.strides(whole), 0
    for name in group.inputs:
        part = context.places[name]
        if len(part.shape) != len(shape):
            return False
        if prod(part.shape):
            here = Place(whole.buffer, whole.offset + start * onto[axis], whole.ld, part.shape)
            if not strided.copy(context, group, part, strided.strides(part), here, 0, onto, part.shape):
                return False
        start += part.shape[axis]
    context.places[group.value] = whole
    return True


def placed(context: PlanContext, name: str) -> bool:
    """Copies a constant to a place, as any value lies."""
    shape = context.shape(name)
    if len(shape) < 2 or not prod(shape):
        return False
    packing, y = strided.constant(context, name), context.fresh(shape)
    task = strided.kernel.of_axes("copy", shape, strided.rows(shape), strided.strides(y))
    if not context.simple(name, strided.kernel, task, 1, {t.X: packing.keys[0], t.Y: y}, packing):
        return False
    context.places[name] = y
    return True
