"""Convolutions and dense layers, with all that is fused to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from types import ModuleType

import numpy as np

from dojang.arith.conv import Conv
from dojang.arith.shapes import conv_problem
from dojang.engine.fuse import Group
from dojang.engine.kernels import task as t
from dojang.engine.kernels.conv import dense, fallback
from dojang.engine.kernels.other import matmul
from dojang.engine.kernels.other.matmul import MatTask
from dojang.engine.kernels.task import Task
from dojang.engine.plan.choose import Choice
from dojang.engine.plan.context import PlanContext
from dojang.engine.plan.shortcuts import READERS
from dojang.engine.plan.steps import KernelStep, Packing, Place
from dojang.engine.weights import Weights


def convolution(context: PlanContext, group: Group) -> bool:
    """A convolution, transposed or not."""
    node, x, like = group.node, context.places[group.inputs[0]], context.any_size(group)
    problem_of = lambda shape: conv_problem(node.attrs, [shape], node.op == "conv_transpose")  # noqa: E731
    return chosen(context, group, problem_of(x.shape), problem_of(like) if like else None)


def dense_layer(context: PlanContext, group: Group) -> bool:
    """A dense layer on vectors, or over the last of many axes."""
    x = context.places[group.inputs[0]]
    if len(x.shape) != 2:
        return dense_last(context, group)
    return chosen(context, group, Conv.of(x.channels, group.node.attrs["out"], (1,), 1, n=x.images))


def task_of(context: PlanContext, group: Group, problem: Conv, x_ld: int, residual_ld: int) -> Task:
    """What an algorithm is asked for: the problem, the distances of pixels, and what is fused."""
    reserved = context.reserved.get(group.value)
    y_ld = reserved.ld if reserved else context.shape(group.value)[1]
    conv = context.chosen_for(group, problem)
    return Task(
        conv, x_ld, y_ld, group.activation, residual_ld, "f32", context.strict or group.node.name in context.exact,
        resident_ratio=context.resident_ratio,
    )  # fmt: skip


def chosen(context: PlanContext, group: Group, problem: Conv, like_problem: Conv | None = None) -> bool:
    """Chooses an algorithm and adds its step; False where only the reference is left.

    `like_problem`: what it is chosen for, where the size of the image is open.
    """
    x = context.places[group.inputs[0]]
    shortcut = context.shortcuts.get(group.value)
    added = shortcut.source if shortcut else group.residual
    res = context.places[added] if added else None
    task = task_of(context, group, problem, x.ld, res.ld if res else 0)
    like = None if like_problem is None else replace(task, conv=replace(like_problem, n=task.conv.n))
    algorithm, seconds, refused = context.choose(like or task, like is not None)
    if like_problem is not None:
        seconds *= problem.macs * like_problem.n / max(1, like_problem.macs * problem.n)
    if algorithm is fallback:
        return False
    if shortcut and algorithm in READERS:
        task = replace(task, sparse=shortcut.sparse)
        group = replace(group, members=(*(m for g in shortcut.groups for m in g.members), *group.members))
    elif shortcut:
        context.groups(shortcut.groups)
        res = context.places[group.residual or ""]
        task = replace(task, residual_ld=res.ld)
    weighted(context, group, algorithm, task, seconds, refused, problem.macs, x, None, like, res)
    return True


def weighted(
    context: PlanContext, group: Group, algorithm: ModuleType, task: Task, seconds: float,
    refused: tuple[tuple[str, str], ...], macs: int, x: Place, y: Place | None = None, like: Task | None = None,
    res: Place | None = None,
) -> None:  # fmt: skip
    """Adds the step of a chosen algorithm, its weights packed as that wants them; to the value's target without `y`."""
    norm = group.norm.name if group.norm else ""  # the same layer may be needed with and without its norm
    packed_for, machine = like or task, context.machine
    key = f"{group.node.name} {norm} {algorithm.NAME} {packed_for}"

    def make(weights: Weights) -> Sequence[np.ndarray]:
        w, b = weights.folded(group)
        w = w.reshape(packed_for.conv.weight_shape) if group.node.op == "dense" and y is not None else w
        w, b = algorithm.pack(packed_for, machine, w, b)
        return (w if algorithm is dense else t.on_line(w)), t.on_line(b)  # dense: as they lie, never twice

    packing = Packing((f"{key} w", f"{key} b"), make, (group,))
    slots: dict[int, Place | str] = {
        t.X: x, t.Y: y or context.target(group.value), t.W: f"{key} w", t.B: f"{key} b"
    }  # fmt: skip
    if res:
        slots[t.R] = res
    predicted = seconds * x.images / context.threads
    choice = Choice(group.value, group.node.op, algorithm.NAME, group.members, refused, predicted, None, macs)
    context.add(KernelStep(choice, algorithm, task, x.images, slots, packing, like=like))


def dense_last(context: PlanContext, group: Group) -> bool:
    """A dense layer over the last axis of three or more: one product per place of the axes between."""
    node, x = group.node, context.places[group.inputs[0]]
    y = context.target(group.value)
    depth, rows = x.shape[-1], node.attrs["out"]

    def make(weights: Weights) -> Sequence[np.ndarray]:
        w, b = weights.folded(group)
        return np.ascontiguousarray(w, "f4").reshape(-1), t.pack_vector(b, 1, 1, rows, "f4")

    packing = Packing((f"{node.name} w", f"{node.name} b"), make, (group,))
    task = MatTask(prod(x.shape[2:-1]), rows, depth, x.channels, depth, x.ld, y.ld, True, group.activation)
    slots: dict[int, Place | str] = {t.X: x, t.Y: y, t.W: packing.keys[0], t.B: packing.keys[1]}
    return context.simple(group, matmul, task, x.images, slots, packing)
