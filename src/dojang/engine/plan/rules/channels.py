"""Channels side by side, some of them, more of them: concatenations, slices, padding; and values in another shape."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from dojang.engine.fuse import Group, activation_of
from dojang.engine.kernels import task as t
from dojang.engine.kernels.other import elementwise, layout
from dojang.engine.kernels.other.elementwise import MapTask
from dojang.engine.kernels.other.layout import LayoutTask
from dojang.engine.plan.context import PlanContext
from dojang.engine.plan.rules import axes, images, strided, tokens
from dojang.engine.plan.rules.elements import pairs
from dojang.engine.plan.rules.pools import pooling
from dojang.engine.plan.rules.windows import windows
from dojang.engine.plan.steps import Place

PAIRS = ("add", "sub", "mul", "div", "maximum", "minimum")
WRITERS = ("conv", "conv_transpose", "maxpool", "avgpool", "batchnorm", "lrn", "resize")


def reserve(context: PlanContext) -> None:
    """Gives the inputs of concatenations their slices; outer concatenations first."""
    groups = context.fused.groups
    makers = {g.value: g for g in groups}
    for group in reversed(groups):
        if group.eight is not None or not context.kernels_can(group) or not joins(context, group):
            continue
        whole = context.reserved.get(group.value) or context.fresh(context.shape(group.value))
        context.reserved[group.value] = whole
        offset = whole.offset
        for name in group.inputs:
            part = context.shape(name)
            maker = makers.get(name)
            if maker is not None and name not in context.reserved and writes_anywhere(context, maker):
                context.reserved[name] = Place(whole.buffer, offset, whole.ld, part)
            offset += part[1]


def joins(context: PlanContext, group: Group) -> bool:
    """Whether a group is a concatenation of channels."""
    node = group.node
    rank = len(context.shape(node.name))
    return node.op == "concat" and rank >= 2 and node.attrs["axis"] in (1, 1 - rank)


def writes_anywhere(context: PlanContext, group: Group) -> bool:
    """Whether the value is made by a kernel that can write with gaps (not a view of another value)."""
    op = group.node.op
    if op in WRITERS or joins(context, group):
        return True
    return activation_of(group.node) is not None or (op in PAIRS and pairs(context, group))


def concat(context: PlanContext, group: Group) -> bool:
    """Channels side by side; parts that were not written in place are copied."""
    if not joins(context, group):
        return axes.concat(context, group)
    whole = context.target(group.value)
    offset = whole.offset
    for name in group.inputs:
        part = context.places[name]
        here = Place(whole.buffer, offset, whole.ld, part.shape)
        if part != here:
            task = MapTask("copy", part.channels, part.pixels, part.ld, here.ld)
            context.simple(group, elementwise, task, part.images, {t.X: part, t.Y: here})
        offset += part.channels
    return True


def some(context: PlanContext, group: Group) -> bool:
    """Some channels in a row are a view; every s-th row or column is a pooling of single pixels."""
    a, x = group.node.attrs, context.places[group.inputs[0]]
    axis, step = a["axis"] % len(x.shape), a["step"]
    taken = range(x.shape[axis])[slice(a["start"], a["stop"], step)]
    if step < 1 or not len(taken):
        return False
    if axis == 0:
        return strided.cut(context, group)
    if axis == 1:
        if step != 1 or x.buffer < 0:
            return strided.cut(context, group)
        context.places[group.value] = Place(x.buffer, x.offset + taken.start, x.ld, context.shape(group.value))
        return True
    ones, none = (1,) * (len(x.shape) - 2), ((0, 0),) * (len(x.shape) - 2)
    at = axis - 2
    stride = (*ones[:at], step, *ones[at + 1 :])
    pads = (*none[:at], (-taken.start, 0), *none[at + 1 :])
    task = windows(context, "max", x.shape, x.ld, context.shape(group.value), ones, stride, pads)
    return pooling(context, group, task) or strided.cut(context, group)


def pad(context: PlanContext, group: Group) -> bool:
    """Channels of zeros (or another value) before and after."""
    a, x = group.node.attrs, context.places[group.inputs[0]]
    pads = ((0, 0),) * (len(x.shape) - len(a["pads"])) + a["pads"]  # the last axes
    if a["mode"] != "constant" or any(p for i, pair in enumerate(pads) for p in pair if i != 1):
        return images.pad(context, group) or strided.pad(context, group)
    if any(p < 0 for p in pads[1]):
        return False
    y = context.target(group.value)
    before, after = pads[1]
    task = MapTask("frame", x.channels, x.pixels, x.ld, y.ld, k=a["value"], before=before, after=after)
    return context.simple(group, elementwise, task, x.images, {t.X: x, t.Y: y})


def transpose(context: PlanContext, group: Group) -> bool:
    """Another order of axes."""
    return tokens.transpose(context, group) or strided.transpose(context, group)


def reshape(context: PlanContext, group: Group) -> bool:
    """Another shape of the same numbers: (images, all) of one pixel is a view, else through channels first."""
    x, shape = context.places[group.inputs[0]], context.shape(group.value)
    if not shape or shape[0] != x.images or prod(shape[2:]) != 1:
        return tokens.same_channels(context, group) or strided.reshape(context, group)
    if x.pixels == 1:
        context.places[group.value] = replace(x, shape=shape)
    elif x.alike:
        context.places[group.value] = replace(x, ld=shape[1], shape=shape)
    else:
        y = context.fresh(shape)
        context.places[group.value] = y
        task = LayoutTask(x.channels, x.pixels, x.ld, False)
        context.simple(group, layout, task, x.images, {t.X: x, t.Y: y})
    return True
