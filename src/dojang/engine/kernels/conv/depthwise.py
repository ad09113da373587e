"""Depthwise convolution: every channel on its own, lanes are channels. The kernel of `grouped` without shuffles."""

from __future__ import annotations

from dojang.engine.kernels.conv import grouped
from dojang.engine.kernels.task import Offer, Refusal, Task
from dojang.native.machine import Machine

NAME = "depthwise"
emit, emit_open, pack = grouped.emit, grouped.emit_open, grouped.pack


def offer(task: Task, machine: Machine) -> Offer | Refusal:
    """For one input and one output channel per group."""
    c = task.conv
    if not (c.ic == c.oc == c.groups and c.groups > 1):
        return Refusal("not depthwise")
    return grouped.offer(task, machine)
