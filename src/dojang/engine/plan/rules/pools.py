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


def pooling(context: PlanContext, group: Group, task: PoolTask | None) -> bool:
    """Adds the step of any pooling with fixed windows."""
    if task is None:
        return False
    x, y = context.places[group.inputs[0]], context.target(group.value)
    return context.simple(group, pool, replace(task, y_ld=y.ld), y.images, {t.X: x, t.Y: y})


def windows(
    context: PlanContext, what: str, shape: Shape, x_ld: int, out: Shape, kernel, stride, padding, dilation=None,
    count: bool = True,
) -> PoolTask | None:  # fmt: skip
    """A pooling of a value (n, channels, *size), or None where the kernel cannot do it."""
    channels, size = shape[1], shape[2:]
    dilation = dilation or (1,) * len(size)
    task = PoolTask(what, channels, size, kernel, stride, padding, dilation, out[2:], x_ld, channels, count)
    able = size and len(kernel) == len(size) and isinstance(pool.offer(task, context.machine), Offer)
    return task if able else None


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
    """Maximum to a given size that divides the input's."""
    return adaptive(context, group, "max")


def mean_to_size(context: PlanContext, group: Group) -> bool:
    """Mean to a given size that divides the input's."""
    return adaptive(context, group, "avg")


def adaptive(context: PlanContext, group: Group, what: str) -> bool:
    """Windows that divide the image evenly."""
    shape = context.shape(group.value)
    size, out = context.shape(group.inputs[0])[2:], shape[2:]
    if len(size) != len(out) or any(i % o for i, o in zip(size, out, strict=True)):
        return False
    kernel, x = tuple(i // o for i, o in zip(size, out, strict=True)), context.places[group.inputs[0]]
    none = ((0, 0),) * len(size)
    return pooling(context, group, windows(context, what, x.shape, x.ld, shape, kernel, kernel, none))


def mean(context: PlanContext, group: Group) -> bool:
    """The mean over all of space is a pooling."""
    x = context.places[group.inputs[0]]
    rank = len(x.shape)
    if sorted(a % rank for a in group.node.attrs["axes"]) != list(range(2, rank)) or rank < 3:
        return False
    size, value = x.shape[2:], context.shape(group.value)
    ones = (1,) * len(size)
    task = PoolTask("avg", x.channels, size, size, size, ((0, 0),) * len(size), ones, ones, x.ld, x.channels)
    if not isinstance(pool.offer(task, context.machine), Offer):
        return False
    y = context.fresh(value)
    context.places[group.value] = y
    return context.simple(group, pool, task, x.images, {t.X: x, t.Y: y})
