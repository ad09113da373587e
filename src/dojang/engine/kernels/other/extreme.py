"""Where the largest or smallest element of each line lies (ArgMax, ArgMin): its number along the line, as float32.

Lanes are lines where these lie side by side, else parts of one line, which are compared at the end. NaN counts as
larger, and as smaller, than every number, as in NumPy and PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import Any

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.other.strided import by_rows, dot, in_order, in_vectors, read, spot
from dojang.engine.kernels.task import Code, Offer
from dojang.native.costs import COSTS
from dojang.native.emit import F32, Emit, Value
from dojang.native.machine import Machine

NAME = "extreme"
UNIT = 8192  # elements read: some 2 µs


@plain_repr
@dataclass(frozen=True, slots=True)
class ExtremeTask:
    """Over a box of `shape`, its last axis contiguous in y, the place of the largest (or smallest) of `size` elements,
    `step` apart in x; the first of equal ones, or the `last`. `x` and `y` are elements from place to place.
    """

    shape: tuple[int, ...]
    x: tuple[int, ...]
    y: tuple[int, ...]
    size: int
    step: int
    largest: bool
    last: bool


def of_axes(
    shape: Sequence[int], x: Sequence[int], y: Sequence[int], size: int, step: int, largest: bool, last: bool
) -> ExtremeTask:
    """The task with axes in the order of y.

    >>> of_axes((2, 3), (12, 1), (1, 2), 4, 3, True, False).shape
    (3, 2)
    """
    return ExtremeTask(*in_order(shape, x, y), size, step, largest, last)


def offer(task: ExtremeTask, machine: Machine) -> Offer:
    """Takes every task, of a whole batch, by the bytes read; four times as long where elements are gathered alone."""
    gathered = task.x[-1] > 1 and not along(task, machine)
    total = prod(task.shape) * task.size
    return Offer(total * (4.0 if gathered else 1.0) * 8 / (machine.peaks.cache_gbs * 1e9) + COSTS.start_s)


def along(task: ExtremeTask, machine: Machine) -> bool:
    """Whether the lanes are parts of one line."""
    return task.step == 1 and task.x[-1] != 1 and task.size >= machine.lanes(4) // 2


def rows_of(task: ExtremeTask, machine: Machine) -> tuple[int, int]:
    """(rows along the last axis of y, rows of a unit)."""
    total = prod(task.shape[:-1])
    some = max(1, UNIT // max(1, task.shape[-1] * task.size))
    return total, min(some, max(1, t.ceil_div(total, 2 * machine.cores)))


def emit(task: ExtremeTask, machine: Machine) -> Code:
    """One step; a unit is some rows along the last axis of y."""
    return by_rows(NAME, task, rows_of(task, machine), lambda name: write(name, task, machine))


def better(b: Emit, task: ExtremeTask, v: Value, best: Value) -> Value:
    """Whether v takes the place of a best one that lies before it."""
    lost = b.fcmp_unordered("uno", v, v)
    if task.last:
        return b.or_(b.fcmp_ordered(">=" if task.largest else "<=", v, best), lost)
    ahead = b.fcmp_ordered(">" if task.largest else "<", v, best)
    return b.or_(ahead, b.and_(lost, b.fcmp_ordered("ord", best, best)))


def write(symbol: str, task: ExtremeTask, machine: Machine) -> str:
    """The kernel as IR text."""
    b = t.begin(symbol, machine)
    lanes, last = machine.lanes(4), task.shape[-1]
    total, some = rows_of(task, machine)
    first = b.mul(b.arg.unit, some)
    x, y = t.word(b, t.X), t.word(b, t.Y)
    lie = along(task, machine)

    def counted(k: Any) -> Value:
        """A number of a place in every lane."""
        return b.const(F32, float(k)) if isinstance(k, int) else b.splat(b.sitofp(k, F32.ir), lanes)

    def side_by_side(xr: Value, yr: Value, j: Any, count: int) -> None:
        def step(k: Any, state: list[Value]) -> list[Value]:
            best, place = state
            v = read(b, b.at(xr, b.mul(k, 4 * task.step)), task.x[-1], j, count)
            take = better(b, task, v, best)
            return [b.select(take, v, best), b.select(take, counted(k), place)]

        start = [read(b, xr, task.x[-1], j, count), b.const(F32, 0.0)]
        place = b.loop(1, task.size, 1, step, start)[1]
        b.vstore(place, b.at(yr, b.mul(j, 4)), F32, mask=b.mask(count, lanes))

    ramp = b.constants(F32, range(lanes))
    whole = task.size // lanes * lanes
    nothing = b.const(F32, -inf if task.largest else inf)

    def one_line(base: Value) -> Value:
        def step(k: Any, state: list[Value]) -> list[Value]:
            best, place = state
            v = b.vload(b.at(base, b.mul(k, 4)), F32)
            take = better(b, task, v, best)
            return [b.select(take, v, best), b.select(take, b.fadd(counted(k), ramp), place)]

        if whole:
            best, place = b.loop(lanes, whole, lanes, step, [b.vload(base, F32), ramp])
        else:  # lanes beyond the line lose against everything in it
            best, place = nothing, b.const(F32, -1.0 if task.last else 3e38)
        if task.size > whole:
            mask = b.mask(task.size - whole, lanes)
            v = b.vload(b.at(base, 4 * whole), F32, mask=mask)
            take = b.and_(mask, better(b, task, v, best) if whole else b.fcmp_unordered("ueq", v, v))
            best = b.select(take, v, best)
            place = b.select(take, b.fadd(b.const(F32, float(whole)), ramp), place)
        apart = 1
        while apart < lanes:
            pick = [lane ^ apart for lane in range(lanes)]
            other, there = b.shuffle(best, None, pick), b.shuffle(place, None, pick)
            before = b.fcmp_ordered("<", there, place)
            # The one that lies further on is asked whether it takes the other's place.
            take = b.select(before, b.not_(better(b, task, best, other)), better(b, task, other, best))
            best, place, apart = b.select(take, other, best), b.select(take, there, place), 2 * apart
        return place

    def row(k: Any, _: Any) -> None:
        places = spot(b, k, task.shape[:-1])
        xr, yr = (b.at(p, b.mul(dot(b, places, steps), 4)) for p, steps in ((x, task.x), (y, task.y)))
        if lie:
            one = b.mask(1, lanes)
            b.loop(0, last, 1, lambda j, _: b.vstore(
                one_line(b.at(xr, b.mul(j, 4 * task.x[-1]))), b.at(yr, b.mul(j, 4)), F32, mask=one,
            ))  # fmt: skip
            return
        in_vectors(b, last, lambda j, count: side_by_side(xr, yr, j, count))

    b.loop(first, b.imin(b.add(first, some), total), 1, row)
    return b.finish()
