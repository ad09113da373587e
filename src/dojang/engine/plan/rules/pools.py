"""Poolings, and what is computed as one: means over all of space."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dojang.arith.shapes import Shape
from dojang.engine.fuse import Group
from dojang.engine.kernels import task as t
from dojang.engine.kernels.other import pool
from dojang.engine.kernels.other.pool import PoolTask
from dojang.engine.kernels.task import Offer
from dojang.engine.plan.context import PlanContext
from dojang.engine.plan.rules import axes, images
from dojang.engine.plan.rules.windows import windows
from dojang.engine.reference.layout import evened


def pooling(context: PlanContext, group: Group, task: PoolTask | None) -> bool:
    """Adds the step of any pooling with fixed windows."""
    if task is None:
        return False
    x, y = context.places[group.inputs[0]], context.target(group.value)
    return context.simple(group, pool, replace(task, y_ld=y.ld), y.images, {t.X: x, t.Y: y})


def pool_task(context: PlanContext, group: Group, shape: Shape, x_ld: int) -> PoolTask | None:
    """A maxpool or avgpool on a value of this shape."""
    a: Any = group.node.attrs
    if isinstance(a["padding"], str):  # numbers are needed
        return None
    rest = {"dilation": a["dilation"]} if group.node.op == "maxpool" else {"count": a["count_padding"]}
    what, out = group.node.op[:3], context.shape(group.value)
    return windows(context, what, shape, x_ld, out, a["kernel"], a["stride"], a["padding"], **rest)


def windowed(context: PlanContext, group: Group) -> bool:
    """Maximum or mean under windows."""
    x = context.places[group.inputs[0]]
    return pooling(context, group, pool_task(context, group, x.shape, x.ld))


def largest_to_size(context: PlanContext, group: Group) -> bool:
    """Maximum to a given size that divides the input's; `settle.even_windows` makes others so."""
    return adaptive(context, group, "max")


def mean_to_size(context: PlanContext, group: Group) -> bool:
    """Mean to a given size that divides the input's."""
    return adaptive(context, group, "avg")


def adaptive(context: PlanContext, group: Group, what: str) -> bool:
    """Windows that divide the image evenly."""
    shape = context.shape(group.value)
    size, out = context.shape(group.inputs[0])[2:], shape[2:]
    if len(size) != len(out):
        return False
    if any(i % o for i, o in zip(size, out, strict=True)):
        return what == "avg" and uneven(context, group)
    kernel, x = tuple(i // o for i, o in zip(size, out, strict=True)), context.places[group.inputs[0]]
    none = ((0, 0),) * len(size)
    return pooling(context, group, windows(context, what, x.shape, x.ld, shape, kernel, kernel, none))


def uneven(context: PlanContext, group: Group) -> bool:
    """Windows from ⌊o·i/n⌋ to ⌈(o + 1)·i/n⌉, of two sizes: a resampling by a table of weights, one or two axes."""
    x = context.places[group.inputs[0]]
    size, out = x.shape[2:], context.shape(group.value)[2:]
    if not 1 <= len(size) <= 2:
        return False
    tables: list[images.Axis] = []
    for n, m in zip(size, out, strict=True):
        windows_of = [range(o * n // m, -(-(o + 1) * n // m)) for o in range(m)]
        tables.append(tuple(enumerate(evened([tuple((p, 1.0 / len(w)) for p in w) for w in windows_of]))))
    images.samples(context, group, x, context.target(group.value), tables)
    return True


def mean(context: PlanContext, group: Group) -> bool:
    """The mean over all of space is a pooling; that over other axes is not."""
    x = context.places[group.inputs[0]]
    rank = len(x.shape)
    if sorted(a % rank for a in group.node.attrs["axes"]) != list(range(2, rank)) or rank < 3:
        return axes.reduction(context, group)
    size, value = x.shape[2:], context.shape(group.value)
    ones = (1,) * len(size)
    task = PoolTask("avg", x.channels, size, size, size, ((0, 0),) * len(size), ones, ones, x.ld, x.channels)
    if not isinstance(pool.offer(task, context.machine), Offer):
        return axes.reduction(context, group)
    y = context.fresh(value)
    context.places[group.value] = y
    return context.simple(group, pool, task, x.images, {t.X: x, t.Y: y})
