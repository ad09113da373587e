"""Norms, matrix products, and changes of the order of axes.

A value (n, c, *space) lies as n blocks [*space][c], so that the second axis is the fastest: for tokens (n, tokens,
features) these are [features][tokens], and lanes are tokens.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from dojang.engine.fuse import Group
from dojang.engine.kernels import task as t
from dojang.engine.kernels.other import layout, matmul, norm
from dojang.engine.kernels.other.layout import LayoutTask
from dojang.engine.kernels.other.matmul import MatTask
from dojang.engine.kernels.other.norm import NormTask
from dojang.engine.plan.context import PlanContext
from dojang.engine.plan.rules.strided import copy, rows, strides
from dojang.engine.plan.steps import Packing, Place


def instancenorm(context: PlanContext, group: Group) -> bool:
    """Each channel of each image by its own mean and variance."""
    return channel_norm(context, group, 0)


def groupnorm(context: PlanContext, group: Group) -> bool:
    """Each group of channels of each image by its own mean and variance."""
    return channel_norm(context, group, group.node.attrs["groups"])


def channel_norm(context: PlanContext, group: Group, groups: int) -> bool:
    """Instance norm (`groups` 0) and group norm."""
    x = context.places[group.inputs[0]]
    share = x.channels // max(1, groups) if groups else 1
    if share <= context.machine.lanes(4) and share & (share - 1) == 0:  # whole groups in a vector: lanes exchange sums
        return _norm(context, group, 1, x.pixels, 0, "channel", share)
    return _norm(context, group, 1, x.pixels, groups, "channel")


def layernorm(context: PlanContext, group: Group) -> bool:
    """Over the last axes if the second is not among them; of vectors; of all but the first without weights."""
    x, over = context.places[group.inputs[0]], len(group.node.attrs["shape"])
    rank = len(x.shape)
    if over <= rank - 2:
        cut = rank - over
        return _norm(context, group, prod(x.shape[2:cut]), prod(x.shape[cut:]), 0, "pixel")
    plain = rank == 2 or not context.graph.node_params(group.node)
    return over == rank - 1 and plain and _norm(context, group, 1, x.pixels, 1, "channel")


def _norm(context: PlanContext, group: Group, rows: int, pixels: int, groups: int, affine: str, share: int = 1) -> bool:
    """Adds the call."""
    node, x = group.node, context.places[group.inputs[0]]
    if not x.channels * pixels:
        return False
    y = context.target(group.value)
    slots: dict[int, Place | str] = {t.X: x, t.Y: y}
    packing, roles = None, ("weight", "bias")
    if context.graph.node_params(node):
        keys = f"{node.name} weight", f"{node.name} bias"
        packing = Packing(keys, lambda w: [np.ascontiguousarray(w.array(node, r), "f4").reshape(-1) for r in roles])
        slots |= {t.W: keys[0], t.B: keys[1]}
    else:
        affine = ""
    task = NormTask(x.channels, rows, pixels, groups, x.ld, y.ld, node.attrs["eps"], affine, share)
    return context.simple(group, norm, task, x.images, slots, packing)


def product(context: PlanContext, group: Group) -> bool:
    """(n, rows, depth) by (n, depth, columns): its columns are rows of the second value as it lies."""
    a, b = (context.places[i] for i in group.inputs)
    if len(a.shape) != 3 or len(b.shape) != 3 or a.images != b.images:
        return _products(context, group, a, b)
    y = context.target(group.value)
    task = MatTask(1, b.shape[2], b.channels, a.channels, b.ld, a.ld, y.ld, False)
    context.simple(group, matmul, task, y.images, {t.X: a, t.W: b, t.Y: y})
    return True


def _products(context: PlanContext, group: Group, a: Place, b: Place) -> bool:
    """Products of any axes: both factors copied to rows, what is the same for several of them as often as it is used;
    the result back to where its second axis is fastest.
    """
    shape = context.shape(group.value)
    *lead, height, width = shape
    depth = a.shape[-1]
    if not prod(shape) or not depth:
        return False
    flat = []
    for x in (a, b):
        whole = (*lead, *x.shape[-2:])
        missing = len(whole) - len(x.shape)
        fit = zip((1,) * missing + tuple(x.shape), (0,) * missing + strides(x), whole, strict=True)
        steps = [0 if size == 1 and wide > 1 else step for size, step, wide in fit]
        y = context.fresh((1, prod(whole)))
        if not copy(context, f"{group.value} factor", x, steps, y, 0, rows(whole), whole):
            return False
        flat.append(y)
    found, y = context.fresh((1, prod(shape))), context.target(group.value)
    task = MatTask(1, height, depth, width, depth, width, width, False)
    context.simple(group, matmul, task, prod(lead), {t.W: flat[0], t.X: flat[1], t.Y: found})
    return copy(context, f"{group.value} product", found, rows(shape), y)


def transpose(context: PlanContext, group: Group) -> bool:
    """The second axis to the end, or the last axis to the second place: a matrix transposed."""
    x, axes = context.places[group.inputs[0]], len(context.shape(group.value))
    rank, order = len(x.shape), tuple(a % axes for a in group.node.attrs["perm"])
    if rank < 3 or x.ld != x.channels:
        return False
    if order == (0, *range(2, rank), 1):
        wide = x.channels * prod(x.shape[3:])
        task = LayoutTask(wide, x.shape[2], wide, False)
    elif order == (0, rank - 1, *range(1, rank - 1)):
        task = LayoutTask(x.channels, x.pixels, x.ld, False)
    else:
        return False
    y = context.fresh(context.shape(group.value))
    context.places[group.value] = y
    context.simple(group, layout, task, x.images, {t.X: x, t.Y: y})
    return True


def same_channels(context: PlanContext, group: Group) -> bool:
    """Another shape of the space, with images and channels as they are: the same memory."""
    x, shape = context.places[group.inputs[0]], context.shape(group.value)
    if x.shape[:2] != shape[:2] or prod(shape) != prod(x.shape):
        return False
    context.places[group.value] = replace(x, shape=shape)
    return True
