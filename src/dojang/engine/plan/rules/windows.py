"""Poolings as tasks of the pooling kernel."""

from __future__ import annotations

from dojang.arith.shapes import Shape
from dojang.engine.kernels.other import pool
from dojang.engine.kernels.other.pool import PoolTask
from dojang.engine.kernels.task import Offer
from dojang.engine.plan.context import PlanContext


def windows(
    context: PlanContext, what: str, shape: Shape, x_ld: int, out: Shape, kernel, stride, padding, dilation=None,
    count: bool = True,
) -> PoolTask | None:  # fmt: skip
    """A pooling of a value (n, channels, *size), or None where the kernel cannot do it."""
    channels, size = shape[1], shape[2:]
    dilation = dilation or (1,) * len(size)
    task = PoolTask(what, channels, size, kernel, stride, padding, dilation, out[2:], x_ld, channels, count)
    able = size and len(kernel) == len(size) and isinstance(pool.offer(task, context.machine), Offer)
    return task if able else None
