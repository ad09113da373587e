"""Operators of ONNX that compare, choose, look up, sort or sum along a line: rules for nodes `standard`.

What they read and write lies in any order; where an input lies in rows, so does the result. Whole numbers and truth
values are held as float32 (`plan/held.py`); a look-up is taken only where all its places are known to lie on their
axis.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from dojang.arith.graph import Node
from dojang.arith.shapes import Shape
from dojang.arith.standard import REAL
from dojang.engine.fuse import Group
from dojang.engine.kernels import task as t
from dojang.engine.kernels.other import extreme, lookup, ordered, pointwise, pool_places, reduce, running
from dojang.engine.kernels.other import strided as kernel
from dojang.engine.kernels.other.lookup import Index
from dojang.engine.kernels.other.pool_places import PoolPlacesTask
from dojang.engine.plan.context import PlanContext, Rule
from dojang.engine.plan.held import MOST
from dojang.engine.plan.rules import rows, strided
from dojang.engine.plan.rules.pools import pooling
from dojang.engine.plan.rules.windows import windows
from dojang.engine.plan.steps import Packing, Place
from dojang.engine.weights import Weights


@dataclass(frozen=True)
class Operand:
    """Where a kernel reads a value: its place or the key of a packed constant, and elements from place to place."""

    what: Place | str
    steps: tuple[int, ...]
    shape: Shape
    packing: Packing | None = None

    def spread(self, shape: Shape) -> tuple[int, ...]:
        """Elements from place to place along the axes of a shape that this one broadcasts to."""
        missing = len(shape) - len(self.shape)
        fit = zip((1,) * missing + self.shape, (0,) * missing + self.steps, shape, strict=True)
        return tuple(0 if size == 1 and wanted != 1 else step for size, step, wanted in fit)


def operand(context: PlanContext, name: str) -> Operand | None:
    """A value as it lies, or a constant in rows; None for what Python holds."""
    shape = context.shape(name)
    if name in context.constants:
        packing = strided.constant(context, name)
        return Operand(packing.keys[0], strided.rows(shape), shape, packing)
    place = rows.lies(context, name)
    if place is None or (len(place.shape) != len(shape) and len(shape) > 1):
        return None
    return Operand(place, place.strides[: len(shape)], shape)


def operands(context: PlanContext, group: Group) -> list[Operand] | None:
    """All inputs of a group; None where Python holds one of them."""
    found = [operand(context, name) for name in group.inputs]
    return [f for f in found if f is not None] if None not in found else None


def packed(given: Sequence[Operand]) -> Packing | None:
    """The constants among some operands, packed for one step."""
    made = {p.keys[0]: p for o in given if (p := o.packing) is not None}
    if not made:
        return None
    return Packing(tuple(made), lambda w: [a for p in made.values() for a in p.make(w)])


def result(context: PlanContext, name: str, inputs: Sequence[str]) -> tuple[Place, tuple[int, ...], bool]:
    """Where a value goes, elements from place to place along its axes, and whether it lies in rows."""
    shape = context.shape(name)
    in_rows = len(shape) > 2 and name not in context.reserved and any(map(context.places.only_rows, inputs))
    y = context.fresh(rows.turned(shape)) if in_rows else context.reserved.get(name) or context.fresh(shape)
    return y, replace(y, shape=shape, in_rows=True).strides if in_rows else y.strides, in_rows


def keep(context: PlanContext, name: str, place: Place, in_rows: bool) -> bool:
    """Notes where a value now lies."""
    if in_rows:
        rows.keep(context, name, place)
    else:
        context.places[name] = place
    return True


def said(node: Node) -> dict[str, Any]:
    """The attributes, as the file gives them."""
    return json.loads(node.attrs["settings"])


def given(context: PlanContext, group: Group, fewest: int) -> list[Operand] | None:
    """The operands of a group whose inputs are the first ones of the operator, at least so many, nothing left out."""
    places = group.node.attrs.get("places", ())
    if len(group.inputs) < fewest or tuple(places) not in ((), tuple(range(len(group.inputs)))):
        return None
    if any(least(context.shape(name)) < 1 for name in (group.value, *group.inputs)):
        return None
    return operands(context, group)


def least(shape: Shape) -> int:
    """The shortest axis. Files can ask for axes of less than nothing, as a window larger than its image does."""
    return min(shape, default=1)


def axis_in(axis: int, x: Operand) -> int | None:
    """An axis counted from the beginning; None for one that a value does not have, of which NumPy says so."""
    rank = len(x.shape)
    return axis % rank if -rank <= axis < rank else None


def common(found: Sequence[Operand]) -> Shape:
    """The shape that some operands broadcast to."""
    return tuple(np.broadcast_shapes(*(o.shape for o in found)))


# -- element by element --------------------------------------------------------------------------------------------


def pointed(context: PlanContext, group: Group, op: str, numbers: Sequence[float] = ()) -> bool:
    """A function of `pointwise`."""
    found, shape = given(context, group, 1), context.shape(group.value)
    if found is None or common(found) != shape:
        return False
    y, onto, in_rows = result(context, group.value, group.inputs)
    task = pointwise.of_axes(op, shape, onto, [o.spread(shape) for o in found], numbers)
    slots: dict[int, Place | str] = {slot: o.what for slot, o in zip(pointwise.SLOTS, found, strict=False)}
    if not context.simple(group, pointwise, task, 1, {**slots, t.Y: y}, packed(found)):
        return False
    return keep(context, group.value, y, in_rows)


def plain(op: str) -> Rule:
    """The rule of a function without numbers."""
    return lambda context, group: pointed(context, group, op)


def copied(context: PlanContext, group: Group) -> bool:
    """The same numbers."""
    found, shape = given(context, group, 1), context.shape(group.value)
    if found is None or found[0].shape != shape:
        return False
    y, onto, in_rows = result(context, group.value, group.inputs)
    task = kernel.of_axes("copy", shape, found[0].spread(shape), onto)
    if not context.simple(group, kernel, task, 1, {t.X: found[0].what, t.Y: y}, packed(found)):
        return False
    return keep(context, group.value, y, in_rows)


def spread(context: PlanContext, group: Group) -> bool:
    """The same numbers, repeated along axes of one place."""
    found, shape = operand(context, group.inputs[0]), context.shape(group.value)
    if found is None or least(shape) < 1 or tuple(np.broadcast_shapes(found.shape, shape)) != shape:
        return False
    y, onto, in_rows = result(context, group.value, group.inputs[:1])
    task = kernel.of_axes("copy", shape, found.spread(shape), onto)
    if not context.simple(group, kernel, task, 1, {t.X: found.what, t.Y: y}, packed([found])):
        return False
    return keep(context, group.value, y, in_rows)


def combined(op: str) -> Rule:
    """Sums, differences and the like of two whole numbers."""

    def rule(context: PlanContext, group: Group) -> bool:
        found, shape = given(context, group, 2), context.shape(group.value)
        if found is None or len(found) != 2 or common(found) != shape:
            return False
        y, onto, in_rows = result(context, group.value, group.inputs)
        task = kernel.of_axes(op, shape, found[0].spread(shape), onto, found[1].spread(shape))
        if not context.simple(group, kernel, task, 1, {t.X: found[0].what, t.R: found[1].what, t.Y: y}, packed(found)):
            return False
        return keep(context, group.value, y, in_rows)

    return rule


def cast(context: PlanContext, group: Group) -> bool:
    """Another type: whole numbers lose what is behind the point, truth values are what is not 0."""
    source, kind = context.graph.types[group.inputs[0]], context.graph.types[group.value]
    if kind == "bool" and source != "bool":
        return pointed(context, group, "truth")
    if kind not in REAL and source in REAL:
        return pointed(context, group, "whole")
    return copied(context, group)


def infinite(context: PlanContext, group: Group) -> bool:
    """Infinity of either sign, or of one."""
    a = said(group.node)
    return pointed(context, group, "infinite", (a.get("detect_negative", 1), a.get("detect_positive", 1)))


def remainder(context: PlanContext, group: Group) -> bool:
    """Of whole numbers; that of real ones is not exact in one division."""
    if context.graph.types[group.value] in REAL:
        return False
    return pointed(context, group, "fmod" if said(group.node).get("fmod") else "modulo")


def divided(context: PlanContext, group: Group) -> bool:
    """Of whole numbers."""
    return context.graph.types[group.value] not in REAL and pointed(context, group, "divided")


def celu(context: PlanContext, group: Group) -> bool:
    """α · elu(x / α)."""
    return pointed(context, group, "celu", (said(group.node).get("alpha", 1.0),))


def thresholded(context: PlanContext, group: Group) -> bool:
    """x above α, else 0."""
    return pointed(context, group, "thresholded", (said(group.node).get("alpha", 1.0),))


def shrink(context: PlanContext, group: Group) -> bool:
    """Towards 0 by a number."""
    a = said(group.node)
    return pointed(context, group, "shrink", (a.get("lambd", 0.5), a.get("bias", 0.0)))


# -- look-ups ------------------------------------------------------------------------------------------------------


def on_axis(context: PlanContext, name: str, size: int) -> bool:
    """Whether all numbers of a value are known to be places of an axis, from its beginning or its end."""
    found = context.bounds.get(name)
    return found is not None and -size <= found[0] and found[1] < size < MOST


def lines_fit(index: Shape, x: Shape, axis: int) -> bool:
    """Whether an array of places along an axis has no line that x lacks. Kernels do not look again: where it has one,
    NumPy runs the node and says what is wrong.
    """
    return len(index) == len(x) and all(i <= n for a, (i, n) in enumerate(zip(index, x, strict=True)) if a != axis)


def looked_up(context: PlanContext, group: Group, found: Sequence[Operand], x: Sequence[int],
              indices: Sequence[Index]) -> bool:  # fmt: skip
    """Adds the step of a look-up, x read `x` apart along the axes of the result.

    Where the node states an axis as two, the batch and its part of the axis, so are the steps.
    """
    shape = context.shape(group.value)
    if len(shape) == len(x) + 1:
        at = group.node.attrs["batch_axis"]

        def split(steps: tuple[int, ...]) -> tuple[int, ...]:
            return *steps[:at], steps[at] * shape[at + 1], *steps[at:]

        x, indices = split(tuple(x)), [replace(i, steps=split(i.steps)) for i in indices]
    if len(shape) != len(x):
        return False
    y, onto, in_rows = result(context, group.value, group.inputs[:1])
    task = lookup.look_up(shape, x, onto, indices)
    slots = {t.X: found[0].what, t.R: found[1].what, t.Y: y}
    if not context.simple(group, lookup, task, 1, slots, packed(found)):
        return False
    return keep(context, group.value, y, in_rows)


def gather(context: PlanContext, group: Group) -> bool:
    """Entries of an axis by computed numbers."""
    found = given(context, group, 2)
    if found is None or not found[0].shape:
        return False
    x, index = found
    axis = axis_in(said(group.node).get("axis", 0), x)
    if axis is None or not on_axis(context, group.inputs[1], x.shape[axis]):
        return False
    wide = len(index.shape)
    steps = (*x.steps[:axis], *(0,) * wide, *x.steps[axis + 1 :])
    places = (*(0,) * axis, *index.steps, *(0,) * (len(x.shape) - axis - 1))
    return looked_up(context, group, found, steps, [Index(places, 0, x.shape[axis], x.steps[axis])])


def gather_elements(context: PlanContext, group: Group) -> bool:
    """Of each line along an axis the elements with these numbers."""
    found = given(context, group, 2)
    if found is None or not found[0].shape:
        return False
    x, index = found
    axis = axis_in(said(group.node).get("axis", 0), x)
    if axis is None or not on_axis(context, group.inputs[1], x.shape[axis]):
        return False
    if not lines_fit(index.shape, x.shape, axis):
        return False
    steps = tuple(0 if a == axis else s for a, s in enumerate(x.steps))
    return looked_up(context, group, found, steps, [Index(index.steps, 0, x.shape[axis], x.steps[axis])])


def gather_nd(context: PlanContext, group: Group) -> bool:
    """Slices by rows of indices; the first `batch_dims` axes of both run together."""
    found = given(context, group, 2)
    if found is None or not found[0].shape or not found[1].shape:
        return False
    x, index = found
    lead, depth = said(group.node).get("batch_dims", 0), index.shape[-1]
    sizes = x.shape[lead : lead + depth]
    if not depth or len(sizes) != depth or index.shape[:-1][:lead] != x.shape[:lead]:
        return False
    if not all(on_axis(context, group.inputs[1], size) for size in sizes):
        return False
    inner = len(x.shape) - lead - depth
    steps = (*x.steps[:lead], *(0,) * (len(index.shape) - 1 - lead), *x.steps[lead + depth :])
    places = (*index.steps[:-1], *(0,) * inner)
    indices = [Index(places, k * index.steps[-1], size, x.steps[lead + k]) for k, size in enumerate(sizes)]
    return looked_up(context, group, found, steps, indices)


def written(context: PlanContext, group: Group, found: Sequence[Operand], reduction: str, along: Sequence[int | None],
            indices: Sequence[tuple[tuple[int, ...], int, int]]) -> bool:  # fmt: skip
    """Adds the steps of a write: a copy, and what replaces parts of it. `along`: for each axis of the updates the axis
    of the result that it runs along. `indices`: steps and offset of each index, and the axis that it numbers.
    """
    x, _, updates = found
    shape = context.shape(group.value)
    y, onto, in_rows = result(context, group.value, group.inputs[:1])
    start = kernel.of_axes("copy", shape, x.spread(shape), onto)
    if x.shape != shape:
        return False
    if not context.simple(f"{group.value} before", kernel, start, 1, {t.X: x.what, t.Y: y}, packed(found[:1])):
        return False
    task = lookup.LookupTask(
        updates.shape, updates.steps, tuple(0 if a is None else onto[a] for a in along),
        tuple(Index(steps, offset, shape[axis], onto[axis]) for steps, offset, axis in indices),
        {"none": "none", "add": "add", "mul": "mul", "max": "max", "min": "min"}[reduction],  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    slots = {t.X: updates.what, t.R: found[1].what, t.Y: y}
    if not context.simple(group, lookup, task, 1, slots, packed(found[1:])):
        return False
    return keep(context, group.value, y, in_rows)


def scatter_elements(context: PlanContext, group: Group) -> bool:
    """Elements of lines along an axis replaced, or combined with what is there."""
    found, a = given(context, group, 3), said(group.node)
    if found is None or not found[0].shape:
        return False
    axis = axis_in(a.get("axis", 0), found[0])
    if axis is None or not on_axis(context, group.inputs[1], found[0].shape[axis]) or found[2].shape != found[1].shape:
        return False
    if not lines_fit(found[1].shape, found[0].shape, axis):
        return False
    along = [None if k == axis else k for k in range(len(found[0].shape))]
    return written(context, group, found, a.get("reduction", "none"), along, [(found[1].steps, 0, axis)])


def scatter_nd(context: PlanContext, group: Group) -> bool:
    """Slices at rows of indices replaced, or combined with what is there."""
    found, a = given(context, group, 3), said(group.node)
    if found is None or not found[0].shape or not found[1].shape:
        return False
    x, index, updates = found
    depth, outer = index.shape[-1], len(index.shape) - 1
    if not depth or not all(on_axis(context, group.inputs[1], size) for size in x.shape[:depth]):
        return False
    if depth > len(x.shape) or updates.shape != (*index.shape[:-1], *x.shape[depth:]):
        return False
    along = [*(None,) * outer, *range(depth, len(x.shape))]
    steps = (*index.steps[:-1], *(0,) * (len(x.shape) - depth))
    indices = [(steps, k * index.steps[-1], k) for k in range(depth)]
    return written(context, group, found, a.get("reduction", "none"), along, indices)


# -- along lines ---------------------------------------------------------------------------------------------------


def without(values: Sequence[int], axis: int) -> tuple[int, ...]:
    """All but those of one axis."""
    return (*values[:axis], *values[axis + 1 :])


def argument(context: PlanContext, group: Group) -> bool:
    """Where the largest or smallest of each line lies."""
    found, a = given(context, group, 1), said(group.node)
    if found is None or not found[0].shape:
        return False
    x = found[0]
    axis = axis_in(a.get("axis", 0), x)
    if axis is None or x.shape[axis] >= MOST or prod(context.shape(group.value)) * x.shape[axis] != prod(x.shape):
        return False
    if len(context.shape(group.value)) != len(x.shape) - (not a.get("keepdims", 1)):
        return False
    y, onto, in_rows = result(context, group.value, group.inputs)
    onto = without(onto, axis) if a.get("keepdims", 1) else onto
    task = extreme.of_axes(
        without(x.shape, axis), without(x.steps, axis), onto, x.shape[axis], x.steps[axis],
        group.node.attrs["kind"] == "ArgMax", bool(a.get("select_last_index")),
    )  # fmt: skip
    if not context.simple(group, extreme, task, 1, {t.X: x.what, t.Y: y}, packed(found)):
        return False
    return keep(context, group.value, y, in_rows)


def reduced(context: PlanContext, group: Group) -> bool:
    """The largest, least or sum of whole numbers along axes."""
    found, a = given(context, group, 1), said(group.node)
    if found is None or not found[0].shape:
        return False
    x, axes = found[0], a.get("axes")
    if axes is None and len(group.inputs) == 2 and group.inputs[1] in context.constants:
        axes = [int(v) for v in Weights(context.graph).constant(context.graph[group.inputs[1]]).reshape(-1)]
    if axes is None and len(group.inputs) == 1 and not a.get("noop_with_empty_axes"):
        axes = range(len(x.shape))
    if axes is None:
        return False
    gone = {place for axis in axes if (place := axis_in(axis, x)) is not None}
    if len(gone) != len(axes):  # one that is not there, or is named twice
        return False
    kept = [axis for axis in range(len(x.shape)) if axis not in gone]
    if len(context.shape(group.value)) != (len(x.shape) if a.get("keepdims", 1) else len(kept)):
        return False
    y, onto, in_rows = result(context, group.value, group.inputs[:1])
    what = group.node.attrs["kind"].removeprefix("Reduce").lower()
    task = reduce.of_axes(
        what, [x.shape[k] for k in kept], [x.steps[k] for k in kept],
        [onto[k] for k in kept] if a.get("keepdims", 1) else onto,
        [x.shape[k] for k in gone], [x.steps[k] for k in gone],
    )  # fmt: skip
    if task is None or not context.simple(group, reduce, task, 1, {t.X: x.what, t.Y: y}, packed(found[:1])):
        return False
    return keep(context, group.value, y, in_rows)


def top(context: PlanContext, group: Group) -> bool:
    """The largest or smallest of each line, or their places; the first of both that is needed computes both."""
    node, a = group.node, said(group.node)
    key = ("TopK", group.inputs, node.attrs["settings"])
    made = context.made.get(key)
    if made is None:
        x, shape = operand(context, group.inputs[0]), context.shape(group.value)
        if x is None or min(least(shape), least(x.shape)) < 1 or len(shape) != len(x.shape) or not shape:
            return False
        axis = axis_in(a.get("axis", -1), x)
        if axis is None or shape[axis] > x.shape[axis]:  # NumPy runs the node, and says so
            return False
        in_rows = len(shape) > 2 and context.places.only_rows(group.inputs[0])
        y, places = (context.fresh(rows.turned(shape) if in_rows else shape) for _ in range(2))
        onto = replace(y, shape=shape, in_rows=True).strides if in_rows else y.strides
        lines, steps = without(onto, axis), without(x.steps, axis)
        k: Any = shape[axis]
        task = ordered.of_axes(
            without(x.shape, axis), steps, lines, lines, x.shape[axis], x.steps[axis], k,
            (onto[axis], onto[axis]), bool(a.get("largest", 1)),
        )  # fmt: skip
        slots = {t.X: x.what, t.Y: y, t.S0: places}
        if not context.simple(group, ordered, task, 1, slots, packed([x])):
            return False
        made = context.made[key] = (y, places, in_rows)
    values, places, in_rows = made
    return keep(context, group.value, places if node.attrs["output"] else values, in_rows)


def so_far(context: PlanContext, group: Group) -> bool:
    """Sums or products of all elements so far, along the axis that a constant names."""
    found, a = given(context, group, 2), said(group.node)
    number = context.number(group.inputs[1]) if found is not None else None
    if found is None or number is None or not found[0].shape or found[0].shape != context.shape(group.value):
        return False
    x = found[0]
    axis = axis_in(int(number), x)
    if axis is None:
        return False
    y, onto, in_rows = result(context, group.value, group.inputs[:1])
    task = running.of_axes(
        without(x.shape, axis), without(x.steps, axis), without(onto, axis), x.shape[axis], (x.steps[axis], onto[axis]),
        group.node.attrs["kind"] == "CumProd", bool(a.get("exclusive")), bool(a.get("reverse")),
    )  # fmt: skip
    if not context.simple(group, running, task, 1, {t.X: x.what, t.Y: y}, packed(found[:1])):
        return False
    return keep(context, group.value, y, in_rows)


def pooled(context: PlanContext, group: Group) -> bool:
    """The largest value under each window, or where it lies; of one or two dimensions."""
    a, shape = said(group.node), context.shape(group.value)
    name = group.inputs[0]
    if a.get("storage_order") or a.get("auto_pad", "NOTSET") != "NOTSET":
        return False
    if len(shape) not in (3, 4) or least(shape) < 1 or name not in context.places:
        return False
    x, rank = context.places[name], len(shape) - 2
    ones, pads = [1] * rank, a.get("pads") or [0] * 2 * rank
    stride, dilation = a.get("strides") or ones, a.get("dilations") or ones
    if not group.node.attrs["output"]:
        ends = tuple(zip(pads[:rank], pads[rank:], strict=True))
        kernel_, stride, dilation = (tuple(v) for v in (a["kernel_shape"], stride, dilation))
        task = windows(context, "max", x.shape, x.ld, shape, kernel_, stride, ends, dilation=dilation)
        return pooling(context, group, task)

    def wide(v: Sequence[int], one: int) -> tuple[int, int]:
        """Of two dimensions; `one` for the one that is not there."""
        return (one, v[0]) if rank == 1 else (v[0], v[1])

    task = PoolPlacesTask(
        x.channels, wide(x.shape[2:], 1), wide(shape[2:], 1), wide(a["kernel_shape"], 1), wide(stride, 1),
        wide(pads[:rank], 0), wide(dilation, 1), x.ld, shape[1],
    )  # fmt: skip
    y = context.fresh(shape)
    if not context.simple(group, pool_places, task, x.images, {t.X: x, t.Y: y}):
        return False
    return keep(context, group.value, y, False)


RULES: Mapping[str, Rule] = {
    "Equal": plain("equal"),
    "Less": plain("less"),
    "LessOrEqual": plain("less_or_equal"),
    "Greater": plain("greater"),
    "GreaterOrEqual": plain("greater_or_equal"),
    "And": plain("and"),
    "Or": plain("or"),
    "Xor": plain("xor"),
    "Not": plain("not"),
    "IsNaN": plain("nan"),
    "Where": plain("where"),
    "IsInf": infinite,
    "Cast": cast,
    "Mod": remainder,
    "Div": divided,
    "Add": combined("add"),
    "Sub": combined("sub"),
    "Mul": combined("mul"),
    "Max": combined("maximum"),
    "Min": combined("minimum"),
    "Expand": spread,
    "Celu": celu,
    "ThresholdedRelu": thresholded,
    "Shrink": shrink,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "ScatterElements": scatter_elements,
    "Scatter": scatter_elements,
    "ScatterND": scatter_nd,
    "ArgMax": argument,
    "ArgMin": argument,
    "TopK": top,
    **dict.fromkeys(("ReduceMax", "ReduceMin", "ReduceSum"), reduced),
    "CumSum": so_far,
    "CumProd": so_far,
    "MaxPool": pooled,
}
"""By the operator of ONNX."""
