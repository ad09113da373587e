"""What is computed element by element: functions, sums and products, batch norms alone, local response norm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dojang.engine.fuse import Group, activation_of
from dojang.engine.kernels import task as t
from dojang.engine.kernels.other import elementwise
from dojang.engine.kernels.other.elementwise import MapTask
from dojang.engine.plan.context import PlanContext
from dojang.engine.plan.steps import Packing
from dojang.engine.weights import Weights


def batchnorm(context: PlanContext, group: Group) -> bool:
    """A batch norm with no convolution before it: scale and shift."""
    x, y, node = context.places[group.inputs[0]], context.target(group.value), group.node
    keys = f"{node.name} w", f"{node.name} b"

    def make(weights: Weights) -> Sequence[np.ndarray]:
        return [a.astype("f4") for a in weights.affine(node)]

    task = MapTask("affine", y.channels, y.pixels, x.ld, y.ld, activation=group.activation)
    slots = {t.X: x, t.Y: y, t.W: keys[0], t.B: keys[1]}
    return context.simple(group, elementwise, task, y.images, slots, Packing(keys, make))


def prelu(context: PlanContext, group: Group) -> bool:
    """A slope below 0 for each channel."""
    x, y, node = context.places[group.inputs[0]], context.target(group.value), group.node
    key = f"{node.name} w"

    def make(weights: Weights) -> Sequence[np.ndarray]:
        return [t.on_line(np.broadcast_to(weights.array(node, "weight"), (y.channels,)).astype("f4"))]

    task = MapTask("prelu", y.channels, y.pixels, x.ld, y.ld, activation=group.activation)
    return context.simple(group, elementwise, task, y.images, {t.X: x, t.Y: y, t.W: key}, Packing((key,), make))


def unary(context: PlanContext, group: Group) -> bool:
    """An activation on its own."""
    x, y = context.places[group.inputs[0]], context.target(group.value)
    task = MapTask("copy", y.channels, y.pixels, x.ld, y.ld, activation=activation_of(group.node))
    return context.simple(group, elementwise, task, y.images, {t.X: x, t.Y: y})


def binary(context: PlanContext, group: Group) -> bool:
    """Two or more values element by element, or with one value per channel and image."""
    if not pairs(context, group):
        return False
    left = context.places[group.inputs[0]]
    rest = [context.places[i] for i in group.inputs[1:]]
    if any(r.pixels != left.pixels and r.ld != r.channels for r in rest):
        return False
    y = context.target(group.value)
    for i, right in enumerate(rest):
        r_ld = right.ld if right.pixels == y.pixels else 0
        act = group.activation if i == len(rest) - 1 else None
        task = MapTask(group.node.op, y.channels, y.pixels, left.ld, y.ld, r_ld, act)
        context.simple(group, elementwise, task, y.images, {t.X: left, t.Y: y, t.R: right})
        left = y
    return True


def pairs(context: PlanContext, group: Group) -> bool:
    """Whether an operation on two or more values is element by element, or with one pixel per image."""
    shape = context.shape(group.node.name)
    if len(shape) < 2 or context.shape(group.inputs[0]) != shape:
        return False
    one = (*shape[:2], *(1,) * (len(shape) - 2))
    others = [context.shape(i) for i in group.inputs[1:]]
    constants = [i for i in group.inputs if context.graph[i].op == "constant"]
    return not constants and all(s in (shape, one) for s in others)


def local_response(context: PlanContext, group: Group) -> bool:
    """Local response norm with the usual power."""
    a = group.node.attrs
    if a["beta"] != 0.75 or a["k"] <= 0 or a["alpha"] < 0:
        return False
    x, y = context.places[group.inputs[0]], context.target(group.value)
    task = MapTask("lrn", y.channels, y.pixels, x.ld, y.ld, 0, None, a["size"], a["alpha"], a["k"])
    return context.simple(group, elementwise, task, y.images, {t.X: x, t.Y: y})
