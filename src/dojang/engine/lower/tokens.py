"""Lowering of norms, dense layers over the last of many axes, matrix products, and changes of the order of axes.

A value (n, c, *space) lies as n blocks [*space][c], so that the second axis is the fastest: for tokens (n, tokens,
features) these are [features][tokens], and lanes are tokens.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from dojang.engine.fuse import Group
from dojang.engine.kernels import task as t
from dojang.engine.kernels.other import layout, matmul, norm
from dojang.engine.kernels.other.layout import LayoutTask
from dojang.engine.kernels.other.matmul import MatTask
from dojang.engine.kernels.other.norm import NormTask
from dojang.engine.lower import strided as lower_strided
from dojang.engine.lower.calls import Place

if TYPE_CHECKING:
    from dojang.engine.lower.network import Lowering


def channel_norm(low: Lowering, group: Group, groups: int) -> bool:
    """Instance norm (`groups` 0) and group norm."""
    x = low.out.places[group.inputs[0]]
    share = x.channels // max(1, groups) if groups else 1
    if share <= low.machine.lanes(4) and share & (share - 1) == 0:  # whole groups in a vector: lanes exchange sums
        return _norm(low, group, 1, x.pixels, 0, "channel", share)
    return _norm(low, group, 1, x.pixels, groups, "channel")


def layernorm(low: Lowering, group: Group) -> bool:
    """Over the last axes if the second is not among them; of vectors; of all but the first without weights."""
    x, over = low.out.places[group.inputs[0]], len(group.node.attrs["shape"])
    rank = len(x.shape)
    if over <= rank - 2:
        cut = rank - over
        return _norm(low, group, prod(x.shape[2:cut]), prod(x.shape[cut:]), 0, "pixel")
    plain = rank == 2 or not low.graph.node_params(group.node)
    return over == rank - 1 and plain and _norm(low, group, 1, x.pixels, 1, "channel")


def _norm(low: Lowering, group: Group, rows: int, pixels: int, groups: int, affine: str, share: int = 1) -> bool:
    """Adds the call."""
    node, x = group.node, low.out.places[group.inputs[0]]
    if not x.channels * pixels:
        return False
    y = low.target(group.value)
    slots: dict[int, Place | str] = {t.X: x, t.Y: y}
    if low.graph.node_params(node):
        for slot, role in ((t.W, "weight"), (t.B, "bias")):
            slots[slot] = f"{node.name} {role}"
            low.packed.setdefault(f"{node.name} {role}", np.ascontiguousarray(low.array(node, role), "f4").reshape(-1))
    else:
        affine = ""
    task = NormTask(x.channels, rows, pixels, groups, x.ld, y.ld, node.attrs["eps"], affine, share)
    low.simple(group, norm, task, x.images, slots)
    return True


def dense(low: Lowering, group: Group) -> bool:
    """A dense layer over the last axis of three or more: one product per place of the axes between."""
    node, x = group.node, low.out.places[group.inputs[0]]
    y = low.target(group.value)
    depth, rows = x.shape[-1], node.attrs["out"]

    def pack(given: tuple[np.ndarray, np.ndarray | None]) -> tuple[np.ndarray, np.ndarray]:
        return np.ascontiguousarray(given[0], "f4").reshape(-1), t.pack_vector(given[1], 1, 1, rows, "f4")

    low.pack(node.name, (group,), pack)
    task = MatTask(prod(x.shape[2:-1]), rows, depth, x.channels, depth, x.ld, y.ld, True, group.activation)
    slots: dict[int, Place | str] = {t.X: x, t.Y: y, t.W: f"{node.name} w", t.B: f"{node.name} b"}
    low.simple(group, matmul, task, x.images, slots)
    return True


def product(low: Lowering, group: Group) -> bool:
    """(n, rows, depth) by (n, depth, columns): its columns are rows of the second value as it lies."""
    a, b = (low.out.places[i] for i in group.inputs)
    if len(a.shape) != 3 or len(b.shape) != 3 or a.images != b.images:
        return _products(low, group, a, b)
    y = low.target(group.value)
    task = MatTask(1, b.shape[2], b.channels, a.channels, b.ld, a.ld, y.ld, False)
    low.simple(group, matmul, task, y.images, {t.X: a, t.W: b, t.Y: y})
    return True


def _products(low: Lowering, group: Group, a: Place, b: Place) -> bool:
    """Products of more axes: both factors copied to rows, the result back to where its second axis is fastest."""
    shape = low.shape(group.value)
    (*lead, height, depth), width = a.shape, b.shape[-1]
    if len(lead) < 2 or b.shape[:-2] != tuple(lead) or not prod(shape) or not depth:
        return False
    flat = []
    for x in (a, b):
        y = low.fresh((1, prod(x.shape)))
        if not lower_strided.copy(low, f"{group.value} factor", x, lower_strided.strides(x), y, 0,
                                  lower_strided.rows(x.shape), x.shape):  # fmt: skip
            return False
        flat.append(y)
    found, y = low.fresh((1, prod(shape))), low.target(group.value)
    task = MatTask(1, height, depth, width, depth, width, width, False)
    low.simple(group, matmul, task, prod(lead), {t.W: flat[0], t.X: flat[1], t.Y: found})
    return lower_strided.copy(low, f"{group.value} product", found, lower_strided.rows(shape), y)


def transpose(low: Lowering, group: Group) -> bool:
    """The second axis to the end, or the last axis to the second place: a matrix transposed."""
    x, order = low.out.places[group.inputs[0]], tuple(a % len(low.shape(group.value)) for a in group.node.attrs["perm"])
    rank = len(x.shape)
    if rank < 3 or x.ld != x.channels:
        return False
    if order == (0, *range(2, rank), 1):
        wide = x.channels * prod(x.shape[3:])
        task = LayoutTask(wide, x.shape[2], wide, False)
    elif order == (0, rank - 1, *range(1, rank - 1)):
        task = LayoutTask(x.channels, x.pixels, x.ld, False)
    else:
        return False
    y = low.fresh(low.shape(group.value))
    low.out.places[group.value] = y
    low.simple(group, layout, task, x.images, {t.X: x, t.Y: y})
    return True


def same_channels(low: Lowering, group: Group) -> bool:
    """Another shape of the space, with images and channels as they are: the same memory."""
    x, shape = low.out.places[group.inputs[0]], low.shape(group.value)
    if x.shape[:2] != shape[:2] or prod(shape) != prod(x.shape):
        return False
    low.out.places[group.value] = replace(x, shape=shape)
    return True
