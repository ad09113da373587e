"""Depthwise convolution: every channel on its own, lanes are channels. The kernel of `grouped` without shuffles."""

from __future__ import annotations

from dojang.engine.kernels.conv import grouped
from dojang.engine.kernels.task import Task
from dojang.native.machine import Machine

NAME = "depthwise"
emit, pack, predict = grouped.emit, grouped.pack, grouped.predict


def why_not(task: Task, machine: Machine) -> str | None:
    """For one input and one output channel per group."""
    c = task.conv
    if not (c.ic == c.oc == c.groups and c.groups > 1):
        return "not depthwise"
    return grouped.why_not(task, machine)
