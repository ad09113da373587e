"""Sums and products of all elements of a line so far (CumSum, CumProd), summed up in float64 and rounded once each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.other.strided import by_rows, dot, in_order, in_vectors, read, spot
from dojang.engine.kernels.task import Code, Offer
from dojang.native.costs import COSTS
from dojang.native.emit import F32, F64, Value
from dojang.native.machine import Machine

NAME = "running"
UNIT = 4096  # elements: some 4 µs


@plain_repr
@dataclass(frozen=True, slots=True)
class RunningTask:
    """For each line of `size` elements, `step[0]` apart in x and `step[1]` in y: sums so far (or products), the own
    element left out where `exclusive`, from the end where `reverse`. Lines lie over a box of `shape`; `x` and `y` are
    elements from place to place along its axes. Where the last of these is contiguous in y, lanes are lines.
    """

    shape: tuple[int, ...]
    x: tuple[int, ...]
    y: tuple[int, ...]
    size: int
    step: tuple[int, int]
    product: bool
    exclusive: bool
    reverse: bool


def of_axes(
    shape: Sequence[int], x: Sequence[int], y: Sequence[int], size: int, step: tuple[int, int], product: bool,
    exclusive: bool, reverse: bool,
) -> RunningTask:  # fmt: skip
    """The task with the axes of the lines in the order of y.

    >>> of_axes((2, 3), (12, 1), (1, 2), 4, (3, 6), False, False, False).shape
    (3, 2)
    """
    return RunningTask(*in_order(shape, x, y), size, step, product, exclusive, reverse)


def offer(task: RunningTask, machine: Machine) -> Offer:
    """Takes every task, of a whole batch: an addition waits for the one before it, lanes or not."""
    lanes = min(task.shape[-1], machine.lanes(4))
    return Offer(prod(task.shape) * task.size * 2e-9 / lanes + COSTS.start_s)


def rows_of(task: RunningTask, machine: Machine) -> tuple[int, int]:
    """(rows of lines, rows of a unit)."""
    total = prod(task.shape[:-1])
    some = max(1, UNIT // max(1, task.shape[-1] * task.size))
    return total, min(some, max(1, t.ceil_div(total, 2 * machine.cores)))


def emit(task: RunningTask, machine: Machine) -> Code:
    """One step; a unit is some rows of lines."""
    return by_rows(NAME, task, rows_of(task, machine), lambda name: write(name, task, machine))


def write(symbol: str, task: RunningTask, machine: Machine) -> str:
    """The kernel as IR text."""
    b = t.begin(symbol, machine)
    lanes, last = machine.lanes(4), task.shape[-1]
    total, some = rows_of(task, machine)
    first = b.mul(b.arg.unit, some)
    x, y = t.word(b, t.X), t.word(b, t.Y)

    def lines(xr: Value, yr: Value, j: Any, count: int) -> None:
        mask = b.mask(count, lanes)

        def step(k: Any, state: list[Value]) -> list[Value]:
            at = b.sub(task.size - 1, k) if task.reverse else k
            v = b.convert(read(b, b.at(xr, b.mul(at, 4 * task.step[0])), task.x[-1], j, count), F32, F64)
            so_far = (b.fmul if task.product else b.fadd)(state[0], v)
            kept = b.convert(state[0] if task.exclusive else so_far, F64, F32)
            b.vstore(kept, b.at(yr, b.mul(at, 4 * task.step[1]), b.mul(j, 4)), F32, mask=mask)
            return [so_far]

        b.loop(0, task.size, 1, step, [b.const(F64, 1.0 if task.product else 0.0, lanes)])

    def row(k: Any, _: Any) -> None:
        places = spot(b, k, task.shape[:-1])
        xr, yr = (b.at(p, b.mul(dot(b, places, steps), 4)) for p, steps in ((x, task.x), (y, task.y)))
        in_vectors(b, last, lambda j, count: lines(xr, yr, j, count))

    b.loop(first, b.imin(b.add(first, some), total), 1, row)
    return b.finish()
