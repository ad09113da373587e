"""Elements at places that another value says: look-ups (Gather and its kin) and writes (Scatter and its kin).

Places are whole numbers held as float32. A place below 0 counts from the end of its axis. The plan takes a look-up
only where it can show that every place lies within its axis; all the same a place is held within it before memory is
touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.other.elementwise import combine
from dojang.engine.kernels.other.strided import by_rows, dot, in_vectors, read, spot
from dojang.engine.kernels.task import Code, Offer
from dojang.native.costs import COSTS
from dojang.native.emit import F32, I64, Emit, Value
from dojang.native.machine import Machine

NAME = "lookup"
UNIT = 2048  # elements: some 2 µs
ALONE = 3e-9
"""Seconds for one element that is looked up by itself (Zen 4, November 2026)."""

Combine = Literal["none", "add", "mul", "max", "min"]


@plain_repr
@dataclass(frozen=True, slots=True)
class Index:
    """One index of an element: it lies `offset` elements from the first index, `steps` from place to place along the
    axes of the box; the axis it numbers has `size` places, `apart` elements from one to the next.
    """

    steps: tuple[int, ...]
    offset: int
    size: int
    apart: int


@plain_repr
@dataclass(frozen=True, slots=True)
class LookupTask:
    """Over a box of `shape`: y[…] = x[… + Σ index · apart]; as a write, y[… + Σ index · apart] ∘= x[…], in the order of
    the box.

    `x` and `y` are elements from place to place along the axes of the box. A look-up has the axis that is contiguous in
    y last.
    """

    shape: tuple[int, ...]
    x: tuple[int, ...]
    y: tuple[int, ...]
    indices: tuple[Index, ...]
    write: Combine | None = None


def look_up(shape: Sequence[int], x: Sequence[int], y: Sequence[int], indices: Sequence[Index]) -> LookupTask:
    """The look-up with axes in the order of y.

    >>> look_up((2, 5), (0, 1), (1, 2), [Index((1, 0), 0, 9, 5)]).shape
    (5, 2)
    """
    order = sorted((a for a in range(len(shape)) if shape[a] != 1), key=lambda a: -y[a])
    found = LookupTask(*(tuple(v[a] for a in order) for v in (shape, x, y)), tuple(  # type: ignore[arg-type]
        replace(i, steps=tuple(i.steps[a] for a in order)) for i in indices
    ))  # fmt: skip
    if found.shape and found.y[-1] == 1:
        return found
    return LookupTask((*found.shape, 1), (*found.x, 0), (*found.y, 1), tuple(
        replace(i, steps=(*i.steps, 0)) for i in found.indices
    ))  # fmt: skip


def alone(task: LookupTask) -> bool:
    """Whether each element along the last axis has a place of its own."""
    return task.write is not None or any(i.steps[-1] for i in task.indices)


def offer(task: LookupTask, machine: Machine) -> Offer:
    """Takes every task, of a whole batch. Writes are one core's, because two may meet in one place."""
    total = prod(task.shape)
    if task.write is not None:
        return Offer(total * ALONE * machine.cores + COSTS.start_s)
    if alone(task):
        return Offer(total * ALONE + COSTS.start_s)
    gathered = 4.0 if task.x[-1] > 1 else 1.0
    return Offer(total * gathered * 12 / (machine.peaks.cache_gbs * 1e9) + COSTS.start_s)


def rows_of(task: LookupTask, machine: Machine) -> tuple[int, int]:
    """(rows along the last axis, rows of a unit)."""
    total = prod(task.shape[:-1])
    if task.write is not None:
        return total, total
    return total, max(1, min(UNIT // task.shape[-1], t.ceil_div(total, 2 * machine.cores)))


def emit(task: LookupTask, machine: Machine) -> Code:
    """One step; a unit is some rows along the last axis, for writes all of them."""
    return by_rows(NAME, task, rows_of(task, machine), lambda name: write(name, task, machine))


def place_of(b: Emit, index: Index, base: Value, places: Sequence[Any]) -> Value:
    """The elements that an index of a place moves by."""
    held = b.sload(b.at(base, b.mul(b.add(dot(b, places, index.steps), index.offset), 4)), F32)
    # Held within the axis as a number, NaN too, so that it is a whole number of a place.
    near = b.minimum(b.maximum(held, b.const(F32, -index.size, 0)), b.const(F32, index.size - 1, 0))
    place = b.fptosi(near, I64.ir)
    place = b.select(b.less(place, 0), b.add(place, index.size), place)
    return b.mul(place, index.apart)


def write(symbol: str, task: LookupTask, machine: Machine) -> str:
    """The kernel as IR text."""
    b = t.begin(symbol, machine)
    lanes, last = machine.lanes(4), task.shape[-1]
    total, some = rows_of(task, machine)
    first = b.mul(b.arg.unit, some)
    x, y, table = t.word(b, t.X), t.word(b, t.Y), t.word(b, t.R)

    def moved(places: Sequence[Any], indices: Sequence[Index]) -> Any:
        found: Any = 0
        for index in indices:
            found = b.add(found, place_of(b, index, table, places))
        return found

    def row(k: Any, _: Any) -> None:
        places = spot(b, k, task.shape[:-1])
        still = [i for i in task.indices if not i.steps[-1]]
        away = [i for i in task.indices if i.steps[-1]]
        here = moved([*places, 0], still)
        xs, ys = dot(b, places, task.x), dot(b, places, task.y)
        if task.write is not None:
            ys = b.add(ys, here)
        else:
            xs = b.add(xs, here)
        xr, yr = b.at(x, b.mul(xs, 4)), b.at(y, b.mul(ys, 4))

        def one(j: Any, _: Any) -> None:
            more = moved([*places, j], away)
            xj, yj = b.mul(j, task.x[-1]), b.mul(j, task.y[-1])
            if task.write is None:
                b.vstore(b.sload(b.at(xr, b.mul(b.add(xj, more), 4)), F32), b.at(yr, b.mul(yj, 4)), F32)
                return
            to = b.at(yr, b.mul(b.add(yj, more), 4))
            v = b.sload(b.at(xr, b.mul(xj, 4)), F32)
            if task.write != "none":
                v = combine(b, {"max": "maximum", "min": "minimum"}.get(task.write, task.write), b.sload(to, F32), v)
            b.vstore(v, to, F32)

        def some_of(j: Any, count: int) -> None:
            v = read(b, xr, task.x[-1], j, count)
            b.vstore(v, b.at(yr, b.mul(j, 4)), F32, mask=b.mask(count, lanes))

        if alone(task):
            b.loop(0, last, 1, one)
            return
        in_vectors(b, last, some_of)

    b.loop(first, b.imin(b.add(first, some), total), 1, row)
    return b.finish()
