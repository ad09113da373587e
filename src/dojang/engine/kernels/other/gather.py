"""Places of one axis in any order, from a table: y[..., j, ...] = x[..., table[j], ...], values lying in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.other.strided import by_rows, dot, in_vectors, read, spot
from dojang.engine.kernels.task import Code, Offer
from dojang.native.costs import COSTS
from dojang.native.emit import F32, I64
from dojang.native.machine import Machine

NAME = "gather"
UNIT = 4096  # elements: some 2 µs


@plain_repr
@dataclass(frozen=True, slots=True)
class GatherTask:
    """A copy over a box of `shape`, its last axis contiguous in y. Along `axis` the element of x is read from the
    table (int64, elements from the first); `x` and `y` are elements from place to place along the other axes.
    """

    shape: tuple[int, ...]
    x: tuple[int, ...]
    y: tuple[int, ...]
    axis: int


def of_axes(shape: Sequence[int], x: Sequence[int], y: Sequence[int], axis: int) -> GatherTask | None:
    """The task with axes in the order of y; None where y is not contiguous along any axis.

    >>> of_axes((2, 3, 4), (20, 1, 5), (12, 1, 3), 2)
    GatherTask(shape=(2, 4, 3), x=(20, 0, 1), y=(12, 3, 1), axis=1)
    """
    order = sorted((a for a in range(len(shape)) if shape[a] != 1 or a == axis), key=lambda a: (-y[a], a == axis))
    contiguous = [a for a in order if y[a] == 1]
    if not contiguous:
        return None
    return GatherTask(
        tuple(shape[a] for a in order), tuple(0 if a == axis else x[a] for a in order), tuple(y[a] for a in order),
        order.index(axis),
    )  # fmt: skip


def offer(task: GatherTask, machine: Machine) -> Offer:
    """Takes every task, of a whole batch: the bytes moved, four times as long where elements are gathered alone."""
    alone = task.axis == len(task.shape) - 1 or task.x[-1] != 1
    return Offer(prod(task.shape) * (4.0 if alone else 1.0) * 12 / (machine.peaks.cache_gbs * 1e9) + COSTS.start_s)


def rows_of(task: GatherTask, machine: Machine) -> tuple[int, int]:
    """(rows along the last axis, rows of a unit)."""
    total = prod(task.shape[:-1])
    return total, max(1, min(UNIT // task.shape[-1], t.ceil_div(total, 2 * machine.cores)))


def emit(task: GatherTask, machine: Machine) -> Code:
    """One step; a unit is some rows along the last axis."""
    return by_rows(NAME, task, rows_of(task, machine), lambda name: write(name, task, machine))


def write(symbol: str, task: GatherTask, machine: Machine) -> str:
    """The kernel as IR text."""
    b = t.begin(symbol, machine)
    lanes, last = machine.lanes(4), task.shape[-1]
    total, some = rows_of(task, machine)
    first = b.mul(b.arg.unit, some)
    x, y, table = t.word(b, t.X), t.word(b, t.Y), t.word(b, t.R)
    apart = task.axis == len(task.shape) - 1

    def entry(j: Any) -> Any:
        return b.sload(b.at(table, b.mul(j, 8)), I64)

    def row(k: Any, _: Any) -> None:
        places = spot(b, k, task.shape[:-1])
        from_table = 0 if apart else entry(places[task.axis])
        xr = b.at(x, b.mul(b.add(dot(b, places, task.x), from_table), 4))
        yr = b.at(y, b.mul(dot(b, places, task.y), 4))

        def some_of(j: Any, count: int) -> None:
            if apart:
                v = b.const(F32, 0)
                for i in range(count):
                    v = b.insert(v, b.sload(b.at(xr, b.mul(entry(b.add(j, i)), 4)), F32), i)
            else:
                v = read(b, xr, task.x[-1], j, count)
            b.vstore(v, b.at(yr, b.mul(j, 4)), F32, mask=b.mask(count, lanes))

        in_vectors(b, last, some_of)

    b.loop(first, b.imin(b.add(first, some), total), 1, row)
    return b.finish()
