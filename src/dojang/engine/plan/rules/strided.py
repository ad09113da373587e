"""What changes the order of axes or repeats along them: by copies between places of any strides."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from dojang.arith.shapes import Shape
from dojang.engine.fuse import Group
from dojang.engine.kernels import task as t
from dojang.engine.kernels.other import elementwise
from dojang.engine.kernels.other import strided as kernel
from dojang.engine.kernels.other.elementwise import MapTask
from dojang.engine.plan.context import PlanContext
from dojang.engine.plan.steps import Packing, Place


def strides(place: Place) -> tuple[int, ...]:
    """Elements from place to place along each axis of a value as it lies."""
    return place.strides


def rows(shape: Sequence[int]) -> tuple[int, ...]:
    """The same for an array whose last axis is fastest."""
    return tuple(prod(shape[k + 1 :]) for k in range(len(shape)))


def copy(context: PlanContext, group: Group | str, x: Place, steps: Sequence[int], y: Place, offset: int = 0,
         onto: Sequence[int] | None = None, shape: Sequence[int] | None = None) -> bool:  # fmt: skip
    """y ← x, read `steps` apart along the axes of `shape` (y's), written `onto` apart (as y lies)."""
    task = kernel.of_axes("copy", shape or y.shape, steps, onto or strides(y), x_offset=offset)
    return context.simple(group, kernel, task, 1, {t.X: x, t.Y: y})


def transpose(context: PlanContext, group: Group) -> bool:
    """Any order of axes."""
    x, shape = context.places[group.inputs[0]], context.shape(group.value)
    order = [a % len(shape) for a in group.node.attrs["perm"]]
    if len(order) != len(x.shape) or not prod(shape):
        return False
    steps = strides(x)
    y = context.fresh(shape)
    if not copy(context, group, x, [steps[a] for a in order], y):
        return False
    context.places[group.value] = y
    return True


def cut(context: PlanContext, group: Group) -> bool:
    """Some places of one axis, copied."""
    a, x, shape = group.node.attrs, context.places[group.inputs[0]], context.shape(group.value)
    axis = a["axis"] % len(x.shape)
    taken = range(x.shape[axis])[slice(a["start"], a["stop"], a["step"])]
    if not prod(shape) or taken.step < 1:
        return False
    steps = list(strides(x))
    offset = taken.start * steps[axis]
    steps[axis] *= taken.step
    y = context.fresh(shape)
    if not copy(context, group, x, steps, y, offset):
        return False
    context.places[group.value] = y
    return True


def common(one: Shape, two: Shape) -> tuple[list[int], list[int], list[int]] | None:
    """(sizes, axis of `one`, axis of `two`) of the finest axes that both shapes are made of; None where there are none.

    >>> common((2, 12), (2, 3, 4))
    ([2, 3, 4], [0, 1, 1], [0, 1, 2])
    """
    sizes, ones, twos = [], [], []
    left, right, i, j = 1, 1, -1, -1
    while True:
        while left == 1 and i + 1 < len(one):
            i, left = i + 1, one[i + 1]
        while right == 1 and j + 1 < len(two):
            j, right = j + 1, two[j + 1]
        if left == 1 and right == 1:
            return sizes, ones, twos
        part = min(left, right)
        if part == 1 or max(left, right) % part:
            return None
        sizes.append(part)
        ones.append(i)
        twos.append(j)
        left, right = left // part, right // part


def refined(steps: Sequence[int], sizes: Sequence[int], axes: Sequence[int]) -> list[int]:
    """Strides of the finest axes from those of the axes they make up."""
    found, inner = [0] * len(sizes), dict[int, int]()
    for k in reversed(range(len(sizes))):
        found[k] = steps[axes[k]] * inner.get(axes[k], 1)
        inner[axes[k]] = inner.get(axes[k], 1) * sizes[k]
    return found


def reshape(context: PlanContext, group: Group) -> bool:
    """The same numbers in the order of rows, copied from where one shape has them to where the other does."""
    x, shape = context.places[group.inputs[0]], context.shape(group.value)
    both = common(x.shape, shape) if prod(shape) else None
    if both is None:
        return False
    sizes, ones, twos = both
    y = context.fresh(shape)
    onto, steps = refined(strides(y), sizes, twos), refined(strides(x), sizes, ones)
    if not copy(context, group, x, steps, y, 0, onto, sizes):
        return False
    context.places[group.value] = y
    return True


def broadcast(context: PlanContext, group: Group) -> bool:
    """Two values, or a value and a constant, of shapes that fit by repetition."""
    shape = context.shape(group.value)
    if len(group.inputs) != 2 or not prod(shape) or group.residual is not None:
        return False
    made: list[Packing] = []
    operands: list[tuple[Place | str, list[int]]] = []
    for name in group.inputs:
        place = context.places.get(name)
        if place is not None and len(place.shape) == len(context.shape(name)):
            own, steps, what = place.shape, strides(place), place
        elif name in context.constants:
            made.append(constant(context, name))
            own = context.shape(name)
            steps, what = rows(own), made[-1].keys[0]
        else:
            return False
        missing = len(shape) - len(own)
        if missing < 0:
            return False
        fit = zip((1,) * missing + tuple(own), (0,) * missing + tuple(steps), shape, strict=True)
        operands.append((what, [0 if size == 1 else step for size, step, _ in fit]))
    (x, x_steps), (r, r_steps) = operands
    place = context.reserved.get(group.value) or context.fresh(shape)
    task = kernel.of_axes(group.node.op, shape, x_steps, strides(place), r_steps, activation=group.activation)
    context.places[group.value] = place
    packing = Packing(tuple(k for p in made for k in p.keys), lambda w: [a for p in made for a in p.make(w)])
    return context.simple(group, kernel, task, 1, {t.X: x, t.R: r, t.Y: place}, packing if made else None)


def constant(context: PlanContext, name: str) -> Packing:
    """The numbers of a constant, in rows."""
    node = context.graph[name]
    return Packing(
        (f"{name} constant",), lambda w: [t.on_line(np.ascontiguousarray(w.constant(node), np.float32).reshape(-1))]
    )


def pad(context: PlanContext, group: Group) -> bool:
    """Places of one value around, along any axes."""
    x, y = context.places[group.inputs[0]], context.fresh(context.shape(group.value))
    if not framed(context, group, x, y, strides(y)):
        return False
    context.places[group.value] = y
    return True


def framed(context: PlanContext, group: Group, x: Place, y: Place, onto: Sequence[int]) -> bool:
    """y filled with one value, x copied into it; y's axes lie `onto` apart."""
    a = group.node.attrs
    pads = ((0, 0),) * (len(x.shape) - len(a["pads"])) + tuple(a["pads"])
    if a["mode"] != "constant" or any(p < 0 for pair in pads for p in pair):
        return False
    fill = MapTask("fill", y.channels, y.pixels, y.ld, y.ld, k=a["value"])
    context.simple(group, elementwise, fill, y.images, {t.Y: y})
    start = sum(before * step for (before, _), step in zip(pads, onto, strict=True))
    here = Place(y.buffer, y.offset + start, y.ld, (1, 1))
    return copy(context, group, x, x.strides, here, 0, onto, x.shape)


def power(context: PlanContext, group: Group) -> bool:
    """x⁰ = 1, also of NaN, and x²."""
    x, value, shape = context.places.get(group.inputs[0]), context.number(group.inputs[1]), context.shape(group.value)
    if x is None or shape != x.shape or value not in (0.0, 2.0):
        return False
    y = context.target(group.value)
    if value == 0:
        context.simple(group, elementwise, MapTask("fill", y.channels, y.pixels, y.ld, y.ld, k=1.0), y.images, {t.Y: y})
    else:
        task = MapTask("mul", y.channels, y.pixels, x.ld, y.ld, x.ld)
        context.simple(group, elementwise, task, y.images, {t.X: x, t.R: x, t.Y: y})
    return True
