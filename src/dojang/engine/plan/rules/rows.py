"""Values in rows, their last axis fastest: dense layers, norms and products over tokens and pixels, channels last.

A dense layer over the last axis of many is a 1×1 convolution of what lies in rows, and a norm or softmax over that axis
reads whole rows. So these bring what they read into rows and leave what they make there; what follows stays in rows as
long as its rule can. Turning the second axis to the end, or the last one back, then moves nothing, nor does any other
shape of the same rows. Who needs channels last gets a copy (`brought`), once.

Rows of a value (n, a, …, z) are the place (n, z, a, …) of the value whose axes are turned so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from dojang.arith.conv import Conv
from dojang.arith.graph import Node
from dojang.arith.shapes import Shape
from dojang.engine.fuse import ACTIVATIONS, Group, activation_of
from dojang.engine.kernels import task as t
from dojang.engine.kernels.conv import fallback
from dojang.engine.kernels.other import elementwise, matmul, norm, softmax
from dojang.engine.kernels.other import strided as kernel
from dojang.engine.kernels.other.elementwise import MapTask
from dojang.engine.kernels.other.matmul import MatTask
from dojang.engine.kernels.other.norm import NormTask
from dojang.engine.kernels.other.softmax import SoftmaxTask
from dojang.engine.kernels.task import Task
from dojang.engine.plan.context import PlanContext, Rule
from dojang.engine.plan.rules import axes, convs, strided
from dojang.engine.plan.steps import Packing, Place


def turned(shape: Sequence[int]) -> Shape:
    """The last axis as channels."""
    return (shape[0], shape[-1], *shape[1:-1])


def logical(context: PlanContext, name: str) -> Place:
    """The rows of a value, with its own shape."""
    return replace(context.places.rows[name], shape=context.shape(name), in_rows=True)


def fresh(context: PlanContext, group: Group) -> Place:
    """Rows for the value of a group, as kernels know them."""
    place = context.fresh(turned(context.shape(group.value)))
    return keep(context, group.value, place)


def keep(context: PlanContext, name: str, place: Place) -> Place:
    """Notes where a value lies in rows; with two axes that is channels last as well."""
    if len(place.shape) == 2:
        context.places[name] = place
    else:
        context.places.rows[name] = place
    return place


def lies(context: PlanContext, name: str) -> Place | None:
    """Where a value lies, as it is; None for constants and what Python holds."""
    if name in context.places.rows:
        return logical(context, name)
    return context.places.get(name)


def brought(context: PlanContext, name: str) -> Place:
    """A copy of a value, channels last."""
    x, y = logical(context, name), context.fresh(context.shape(name))
    alike = [(s, a, b) for s, a, b in zip(x.shape, x.strides, y.strides, strict=True) if s > 1]
    if x.buffer >= 0 and all(a == b for _, a, b in alike):
        return replace(x, ld=y.ld, in_rows=False)
    if not strided.copy(context, f"{name} channels last", x, x.strides, y):
        raise AssertionError(f"{name}: {x} cannot be copied to {y}")  # y runs along its channels
    return y


def in_rows(context: PlanContext, name: str) -> Place | None:
    """The rows of a value as kernels know them, copied if it does not lie so; None for constants."""
    if name in context.places.rows:
        return context.places.rows[name]
    if name not in context.places:
        return None
    x = context.places[name]
    shape = context.shape(name)
    if len(shape) == 2:
        return x if x.shape == shape else None
    if x.shape != shape:
        return None
    y = context.fresh(turned(shape))
    onto = replace(y, shape=shape, in_rows=True).strides
    if x.buffer >= 0 and all(a == b for s, a, b in zip(shape, x.strides, onto, strict=True) if s > 1):
        y = replace(y, buffer=x.buffer, offset=x.offset)
    elif not strided.copy(context, f"{name} in rows", x, x.strides, y, 0, onto, shape):
        return None
    context.places.rows[name] = y
    return y


def follows(context: PlanContext, group: Group) -> bool:
    """Whether what a group reads lies in rows, and not channels last too, and whether its value can."""
    shape = context.shape(group.value)
    return len(shape) >= 2 and bool(prod(shape)) and any(context.places.only_rows(i) for i in group.inputs)


# -- products ------------------------------------------------------------------------------------------------------


def dense(context: PlanContext, group: Group) -> bool:
    """A dense layer over the last of three axes or more: a 1×1 convolution of its rows."""
    shape = context.shape(group.inputs[0])
    if len(shape) < 3 or group.norm is not None or not prod(shape):
        return False
    x = in_rows(context, group.inputs[0])
    if x is None:
        return False
    out, open_ = group.node.attrs["out"], context.any_size(group)

    def problem_of(shape: Sequence[int]) -> Conv:
        return Conv.of(shape[-1], out, (1, prod(shape[1:-1])), 1, n=shape[0])

    conv = problem_of(shape)
    task = Task(
        context.chosen_for(group, conv),
        x.ld,
        out,
        group.activation,
        0,
        "f32",
        context.strict,
        resident_ratio=context.resident_ratio,
    )
    like = None if open_ is None else replace(task, conv=replace(problem_of(open_), n=task.conv.n))
    algorithm, seconds, refused = context.choose(like or task, like is not None)
    if algorithm is fallback:
        return False
    if like is not None:
        seconds *= conv.macs * like.conv.n / max(1, like.conv.macs * conv.n)
    whole = context.fresh(turned(context.shape(group.value)))
    keep(context, group.value, whole)
    convs.weighted(context, group, algorithm, task, seconds, refused, conv.macs, x, whole, like)
    return True


def product(context: PlanContext, group: Group) -> bool:
    """Matrices by matrices, all in rows; what is the same for several products is copied as often as it is used."""
    shape = context.shape(group.value)
    sizes = [context.shape(i) for i in group.inputs]
    if len(shape) < 2 or any(len(s) < 2 for s in sizes) or not prod(shape) or not sizes[0][-1]:
        return False
    *lead, height, width = shape
    depth = sizes[0][-1]
    shared = prod(sizes[1][:-2]) == 1  # one right matrix: all rows of the left are those of one matrix
    packing: list[Packing] = []
    factors: list[Place | str] = []
    for k, (name, size) in enumerate(zip(group.inputs, sizes, strict=True)):
        wanted = size if prod(size[:-2]) == prod(lead) or (k == 1 and shared) else (*lead, *size[-2:])
        found = _factor(context, group, name, size, wanted, packing)
        if found is None:
            return False
        factors.append(found)
    y = fresh(context, group)
    count = 1 if shared else prod(lead)
    task = MatTask(1, prod(lead) * height // count, depth, width, depth, width, width, False)
    keys = Packing(tuple(k for p in packing for k in p.keys), lambda w: [a for p in packing for a in p.make(w)])
    slots: dict[int, Place | str] = {t.W: factors[0], t.X: factors[1], t.Y: y}
    return context.simple(group, matmul, task, count, slots, keys if packing else None)


def _factor(
    context: PlanContext, group: Group, name: str, size: Shape, wanted: Sequence[int], packing: list[Packing]
) -> Place | str | None:
    """A factor of a product, one matrix of rows behind the other; repeated where `wanted` has more of them."""
    width = size[-1]
    if name in context.constants:
        packing.append(strided.constant(context, name))
        if tuple(wanted) == tuple(size):
            return packing[-1].keys[0]
        source: Place | str = packing[-1].keys[0]
        steps = strided.rows(size)
    else:
        place = lies(context, name)
        if place is None or len(place.shape) != len(size):
            return None
        if tuple(wanted) == tuple(size):
            place = in_rows(context, name) if len(size) > 2 else place
            if place is not None and place.ld == width and (len(size) > 2 or place.strides[1] == 1):
                return place
            place = lies(context, name)
            assert place is not None
        source, steps = place, place.strides
    missing = len(wanted) - len(size)
    fit = zip((1,) * missing + tuple(size), (0,) * missing + tuple(steps), wanted, strict=True)
    found = context.fresh((1, prod(wanted)))
    onto = [0 if s == 1 and w > 1 else step for s, step, w in fit]
    task = kernel.of_axes("copy", wanted, onto, strided.rows(wanted))
    keys = packing.pop() if isinstance(source, str) else None
    done = context.simple(f"{group.value} factor", kernel, task, 1, {t.X: source, t.Y: found}, keys)
    return found if done else None


# -- along the last axis -------------------------------------------------------------------------------------------


def layernorm(context: PlanContext, group: Group) -> bool:
    """Over the last of three axes or more."""
    node, shape = group.node, context.shape(group.value)
    x = in_rows(context, group.inputs[0]) if len(node.attrs["shape"]) == 1 and len(shape) > 2 else None
    if x is None or not prod(shape):
        return False
    y = fresh(context, group)
    slots: dict[int, Place | str] = {t.X: x, t.Y: y}
    packing, affine = None, ""
    if context.graph.node_params(node):
        packing = norm_packing(node)
        slots |= {t.W: packing.keys[0], t.B: packing.keys[1]}
        affine = "channel"
    task = NormTask(x.channels, x.pixels, 1, 1, x.ld, y.ld, node.attrs["eps"], affine)
    return context.simple(group, norm, task, x.images, slots, packing)


def probabilities(context: PlanContext, group: Group) -> bool:
    """Softmax and its logarithm along the last axis, or the one before it."""
    shape = context.shape(group.value)
    axis = group.node.attrs["axis"] % len(shape)
    if not follows(context, group) or len(shape) < 3 or axis < len(shape) - 2 or axis == 0:
        return False
    x, y = context.places.rows[group.inputs[0]], fresh(context, group)
    log = group.node.op == "log_softmax"
    if axis == len(shape) - 1:
        return context.simple(group, softmax, SoftmaxTask(x.channels, x.pixels, x.ld, y.ld, log), x.images,
                              {t.X: x, t.Y: y})  # fmt: skip
    task = SoftmaxTask(x.channels, shape[-2], x.ld, y.ld, log, prod(shape[1:-2]))
    return context.simple(group, softmax, task, x.images, {t.X: x, t.Y: y})


def reduction(context: PlanContext, group: Group) -> bool:
    """The sum, mean, largest or least value along any axes."""
    name = group.inputs[0]
    return follows(context, group) and axes.reduction(context, group, logical(context, name))


# -- element by element --------------------------------------------------------------------------------------------


def unary(context: PlanContext, group: Group) -> bool:
    """A function of each number."""
    if not follows(context, group):
        return False
    x, y = context.places.rows[group.inputs[0]], fresh(context, group)
    task = MapTask("copy", x.channels, x.pixels, x.ld, y.ld, activation=activation_of(group.node))
    return context.simple(group, elementwise, task, x.images, {t.X: x, t.Y: y})


def binary(context: PlanContext, group: Group) -> bool:
    """Two values, or a value and a constant, of shapes that fit by repetition."""
    shape = context.shape(group.value)
    if not follows(context, group) or len(group.inputs) != 2 or group.residual is not None or len(shape) < 3:
        return False
    made: list[Packing] = []
    operands: list[tuple[Place | str, list[int]]] = []
    for name in group.inputs:
        own = context.shape(name)
        if name in context.constants:
            made.append(strided.constant(context, name))
            steps: Sequence[int] = strided.rows(own)
            what: Place | str = made[-1].keys[0]
        else:
            if own == shape:
                in_rows(context, name)
            place = lies(context, name)
            if place is None or len(place.shape) != len(own):
                return False
            what, steps = place, place.strides
        missing = len(shape) - len(own)
        fit = zip((1,) * missing + tuple(own), (0,) * missing + tuple(steps), shape, strict=True)
        operands.append((what, [0 if size == 1 else step for size, step, _ in fit]))
    y = fresh(context, group)
    (x, x_steps), (r, r_steps) = operands
    onto = replace(y, shape=shape, in_rows=True).strides
    task = kernel.of_axes(group.node.op, shape, x_steps, onto, r_steps, activation=group.activation)
    packing = Packing(tuple(k for p in made for k in p.keys), lambda w: [a for p in made for a in p.make(w)])
    return context.simple(group, kernel, task, 1, {t.X: x, t.R: r, t.Y: y}, packing if made else None)


# -- shapes and places ---------------------------------------------------------------------------------------------


def reshape(context: PlanContext, group: Group) -> bool:
    """The same rows in another shape."""
    shape, name = context.shape(group.value), group.inputs[0]
    if not follows(context, group):
        return False
    x = context.places.rows[name]
    if x.buffer < 0:
        return False
    if x.ld != x.channels and shape[-1] != x.channels:  # rows with gaps
        own, source = context.shape(name), logical(context, name)
        x = context.fresh(turned(own))
        onto = replace(x, shape=own, in_rows=True).strides
        if not strided.copy(context, f"{name} together", source, source.strides, x, 0, onto, own):
            return False
    ld = x.ld if shape[-1] == x.channels else shape[-1]
    keep(context, group.value, Place(x.buffer, x.offset, ld, turned(shape)))
    return True


def transpose(context: PlanContext, group: Group) -> bool:
    """Another order of axes: none that moves, or a copy to rows."""
    name, shape = group.inputs[0], context.shape(group.value)
    rank, source = len(shape), context.shape(name)
    order = tuple(a % rank for a in group.node.attrs["perm"])
    if rank < 3 or not prod(shape):
        return False
    if order == (0, *range(2, rank), 1) and name in context.places and not context.places.only_rows(name):
        x = context.places[name]
        if x.shape == source and x.buffer >= 0:
            context.places.rows[group.value] = x
            return True
    if not follows(context, group):
        return False
    x = context.places.rows[name]
    if order == (0, rank - 1, *range(1, rank - 1)) and x.buffer >= 0:
        context.places[group.value] = x
        return True
    lying = logical(context, name)
    y = fresh(context, group)
    onto = replace(y, shape=shape, in_rows=True).strides
    return strided.copy(context, group, lying, [lying.strides[a] for a in order], y, 0, onto, shape)


def some(context: PlanContext, group: Group) -> bool:
    """Some places of one axis: a view where what is left lies as rows do, else a copy."""
    if not follows(context, group):
        return False
    a, name, shape = group.node.attrs, group.inputs[0], context.shape(group.value)
    x, source = context.places.rows[name], context.shape(name)
    axis = a["axis"] % len(source)
    taken = range(source[axis])[slice(a["start"], a["stop"], a["step"])]
    steps = list(logical(context, name).strides)
    offset = taken.start * steps[axis]
    outer = prod(source[:axis]) == 1
    if taken.step == 1 and x.buffer >= 0 and (outer or axis == len(source) - 1):
        keep(context, group.value, Place(x.buffer, x.offset + offset, x.ld, turned(shape)))
        return True
    steps[axis] *= taken.step
    y = fresh(context, group)
    onto = replace(y, shape=shape, in_rows=True).strides
    return strided.copy(context, group, x, steps, y, offset, onto, shape)


def gather(context: PlanContext, group: Group) -> bool:
    """Some places of one axis, in any order and number."""
    shape = context.shape(group.value)
    if not follows(context, group) or len(shape) != len(context.shape(group.inputs[0])):
        return False
    x, y = logical(context, group.inputs[0]), fresh(context, group)
    return axes.picked(context, group, x, y, replace(y, shape=shape, in_rows=True).strides)


def pad(context: PlanContext, group: Group) -> bool:
    """Places of one value around, along any axes."""
    if not follows(context, group):
        return False
    x, y = logical(context, group.inputs[0]), fresh(context, group)
    return strided.framed(context, group, x, y, replace(y, shape=context.shape(group.value), in_rows=True).strides)


def concat(context: PlanContext, group: Group) -> bool:
    """Values behind each other along any axis, each copied to its place in the rows."""
    shape = context.shape(group.value)
    if not follows(context, group) or len(shape) < 3 or any(i in context.reserved for i in group.inputs):
        return False
    own = context.reserved.get(group.value)
    if own is not None and own.ld != shape[1]:  # within another concatenation
        return False
    axis = group.node.attrs["axis"] % len(shape)
    sizes = [context.shape(i) for i in group.inputs]
    if any(i not in context.constants and (lies(context, i) is None or len(s) != len(shape))
           for i, s in zip(group.inputs, sizes, strict=True)):  # fmt: skip
        return False
    y = fresh(context, group)
    whole = replace(y, shape=shape, in_rows=True)
    start = 0
    for name, size in zip(group.inputs, sizes, strict=True):
        if prod(size):
            here = Place(y.buffer, y.offset + start * whole.strides[axis], y.ld, turned(size))
            constant = strided.constant(context, name) if name in context.constants else None
            place = lies(context, name) if constant is None else None
            steps = place.strides if place is not None else strided.rows(size)
            task = kernel.of_axes("copy", size, steps, whole.strides)
            source: Place | str = place if place is not None else constant.keys[0] if constant else ""
            context.simple(group, kernel, task, 1, {t.X: source, t.Y: here}, constant)
        start += size[axis]
    return True


def norm_packing(node: Node) -> Packing:
    """Scale and shift of a norm."""
    keys = f"{node.name} weight", f"{node.name} bias"
    roles = ("weight", "bias")
    return Packing(keys, lambda w: [np.ascontiguousarray(w.array(node, r), "f4").reshape(-1) for r in roles])


RULES: Mapping[str, Rule] = {
    "dense": dense,
    "matmul": product,
    "layernorm": layernorm,
    **dict.fromkeys(("softmax", "log_softmax"), probabilities),
    **dict.fromkeys(ACTIVATIONS, unary),
    **dict.fromkeys(("add", "sub", "mul", "div", "maximum", "minimum"), binary),
    **dict.fromkeys(("flatten", "reshape", "squeeze", "unsqueeze"), reshape),
    **dict.fromkeys(("reduce_mean", "reduce_sum", "reduce_max", "reduce_min"), reduction),
    "gather": gather,
    "pad": pad,
    "transpose": transpose,
    "slice": some,
    "concat": concat,
}
"""Where an input lies in rows, or the operator is faster there."""
