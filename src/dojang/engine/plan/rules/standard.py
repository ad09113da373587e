"""Operators of ONNX without a row of their own that kernels compute, by their kind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod

from dojang.engine.fuse import Group
from dojang.engine.kernels import task as t
from dojang.engine.kernels.other import grid
from dojang.engine.kernels.other.grid import GridTask
from dojang.engine.plan.context import PlanContext, Rule
from dojang.engine.plan.rules import picking
from dojang.engine.plan.rules.strided import strides


def operator(context: PlanContext, group: Group) -> bool:
    """A node `standard`, where its kind has a kernel."""
    rule = KINDS.get(group.node.attrs["kind"])
    return rule is not None and rule(context, group)


def grid_sample(context: PlanContext, group: Group) -> bool:
    """GridSample of images, linear or nearest, with 0 or the nearest pixel outside."""
    said = json.loads(group.node.attrs["settings"])
    if any(name not in context.places for name in group.inputs):
        return False
    x, places = (context.places[name] for name in group.inputs)
    mode, border = said.get("mode", "linear"), said.get("padding_mode", "zeros")
    if mode not in ("linear", "bilinear", "nearest") or border not in ("zeros", "border"):
        return False
    shape = context.shape(group.value)
    if len(x.shape) != 4 or not prod(shape) or not prod(x.shape):
        return False
    y = context.target(group.value)
    steps = strides(places)
    task = GridTask(
        x.channels, (x.shape[2], x.shape[3]), (shape[2], shape[3]), x.ld, y.ld,
        (steps[0], steps[1], steps[2], steps[3]), mode == "nearest", border == "zeros",
        bool(said.get("align_corners")),
    )  # fmt: skip
    return context.simple(group, grid, task, x.images, {t.X: x, t.R: places, t.Y: y})


KINDS: Mapping[str, Rule] = {"GridSample": grid_sample, **picking.RULES}
"""By the operator of ONNX."""
