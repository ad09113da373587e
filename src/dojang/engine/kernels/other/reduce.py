"""Sums, means, largest and least values along any axes of a value that lies in any order.

Vectors run along the axis that is contiguous in the result; where that axis is far apart in the source, and the source
is contiguous along an axis that is reduced, along that one, and the lanes are combined at the end. Every loop over an
axis has a sum of its own, so that rounding grows with the number of axes and the longest of them, not with all places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import inf, prod
from typing import Any

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.other.elementwise import combine
from dojang.engine.kernels.other.strided import by_rows, dot, in_vectors, read, spot
from dojang.engine.kernels.task import Code, Offer, Step
from dojang.native.costs import COSTS
from dojang.native.emit import F32, Emit, SizeValue, Value
from dojang.native.machine import Machine

NAME = "reduce"
UNIT = 8192  # elements read: some 2 µs
COMBINES = {"sum": "add", "mean": "add", "max": "maximum", "min": "minimum"}
STARTS = {"sum": 0.0, "mean": 0.0, "max": -inf, "min": inf}


@plain_repr
@dataclass(frozen=True, slots=True)
class ReduceTask:
    """y over a box of `shape`, its last axis contiguous; each place from a box `over` of x. `x`, `y` and `inner` are
    elements from place to place along the axes of y in x, in y, and along the reduced axes in x.
    """

    what: str
    shape: tuple[int, ...]
    x: tuple[int, ...]
    y: tuple[int, ...]
    over: tuple[int, ...]
    inner: tuple[int, ...]


def of_axes(
    what: str, shape: Sequence[int], x: Sequence[int], y: Sequence[int], over: Sequence[int], inner: Sequence[int]
) -> ReduceTask | None:
    """The task with axes in the order of y and of x, those that run on merged; None where y has no contiguous axis.

    >>> of_axes("sum", (2, 3), (12, 1), (3, 1), (2, 2), (6, 3))
    ReduceTask(what='sum', shape=(2, 3), x=(12, 1), y=(3, 1), over=(4,), inner=(3,))
    """
    kept = sorted(((n, b, a) for n, a, b in zip(shape, x, y, strict=True) if n != 1), key=lambda axis: -axis[1])
    kept = kept or [(1, 1, 0)]
    if kept[-1][1] != 1:
        return None
    merged: list[tuple[int, int]] = []
    for size, step in sorted(((n, s) for n, s in zip(over, inner, strict=True) if n != 1), key=lambda axis: -axis[1]):
        if merged and merged[-1][1] == size * step:
            merged[-1] = (merged[-1][0] * size, step)
        else:
            merged.append((size, step))
    sizes, ys, xs = (tuple(column) for column in zip(*kept, strict=True))
    inside, steps = zip(*merged, strict=True) if merged else ((), ())
    return ReduceTask(what, sizes, xs, ys, tuple(inside), tuple(steps))


def offer(task: ReduceTask, machine: Machine) -> Offer:
    """Takes every task, of a whole batch, by the bytes read; four times as long where elements are gathered alone."""
    alone = task.x[-1] > 1 and not across(task, machine)
    total = prod(task.shape) * prod(task.over)
    return Offer(total * (4.0 if alone else 1.0) * 4 / (machine.peaks.cache_gbs * 1e9) + COSTS.start_s)


def across(task: ReduceTask, machine: Machine) -> bool:
    """Whether vectors run along the last reduced axis."""
    return task.x[-1] != 1 and bool(task.inner) and task.inner[-1] == 1 and task.over[-1] >= machine.lanes(4) // 2


def rows_of(task: ReduceTask, machine: Machine) -> tuple[int, int]:
    """(rows along the last axis of y, rows of a unit)."""
    total = prod(task.shape[:-1])
    some = max(1, UNIT // max(1, task.shape[-1] * prod(task.over)))
    return total, min(some, max(1, t.ceil_div(total, 2 * machine.cores)))


def emit(task: ReduceTask, machine: Machine) -> Code:
    """One step; a unit is some rows along the last axis of y."""
    return by_rows(NAME, task, rows_of(task, machine), lambda name: write(name, task, machine))


def emit_open(task: ReduceTask, like: ReduceTask, machine: Machine) -> Code:
    """Like `emit`; code for one result of a line of numbers serves lines of any length."""
    if task.shape != (1,) or task.inner != (1,):
        return emit(task, machine)

    def build(name: str) -> str:
        b = t.begin(name, machine)
        (length,) = t.sizes(b, 1)
        return line(b, task.what, length, machine)

    return Code((Step(f"{NAME} open {task.what} of a line", build, lambda n: 1, task.over),))


LANES_OF_A_LINE = 4
"""Vectors that are combined apart, since each waits for the one before it."""


def line(b: Emit, what: str, length: SizeValue, machine: Machine) -> str:
    """All of a line combined, some vectors apart and then these."""
    lanes, x, start = machine.lanes(4), t.word(b, t.X), b.const(F32, STARTS[what])
    wide = LANES_OF_A_LINE * lanes

    def both(a: Value, v: Value) -> Value:
        return combine(b, COMBINES[what], a, v)

    def at(k: Any, mask: Value | None = None) -> Value:
        return b.vload(b.at(x, b.mul(k, 4)), F32, mask=mask)

    most, whole = length // wide * wide, length // lanes * lanes
    apart = b.loop(
        0, most, wide, lambda k, s: [both(v, at(b.add(k, i * lanes))) for i, v in enumerate(s)],
        [start] * LANES_OF_A_LINE,
    )  # fmt: skip
    found = b.loop(most, whole, lanes, lambda k, s: [both(s[0], at(k))], [reduce(both, apart)])[0]

    def last() -> list[Value]:
        mask = b.mask(length - whole, lanes)
        return [both(found, b.select(mask, at(whole, mask), start))]

    (found,) = b.choose(b.less(whole, length), last, lambda: [found])
    found = folded(b, found, both)
    if what == "mean":
        found = b.fdiv(found, b.splat(b.sitofp(length.value, F32.ir), lanes))
    b.vstore(found, t.word(b, t.Y), F32, mask=b.mask(1, lanes))
    return b.finish()


def write(symbol: str, task: ReduceTask, machine: Machine) -> str:
    """The kernel as IR text."""
    b = t.begin(symbol, machine)
    lanes, last = machine.lanes(4), task.shape[-1]
    total, some = rows_of(task, machine)
    first = b.mul(b.arg.unit, some)
    x, y = t.word(b, t.X), t.word(b, t.Y)
    start = b.const(F32, STARTS[task.what])
    lie = across(task, machine)

    def both(a: Value, v: Value) -> Value:
        return combine(b, COMBINES[task.what], a, v)

    def scaled(v: Value) -> Value:
        return b.fdiv(v, b.const(F32, float(prod(task.over)))) if task.what == "mean" else v

    def over(base: Value, depth: int, leaf: Any) -> Value:
        """All places of the reduced axes from `depth` on, each axis with a result of its own."""
        if depth == len(task.over) - int(lie):
            return leaf(base)
        step = 4 * task.inner[depth]
        return b.loop(
            0,
            task.over[depth],
            1,
            lambda k, s: [both(s[0], over(b.at(base, b.mul(k, step)), depth + 1, leaf))],
            [start],
        )[0]

    def along(base: Value) -> Value:
        """The last reduced axis, in vectors."""
        size = task.over[-1]
        whole = size // lanes * lanes
        found = b.loop(0, whole, lanes, lambda k, s: [both(s[0], b.vload(b.at(base, b.mul(k, 4)), F32))], [start])[0]
        if size > whole:
            mask = b.mask(size - whole, lanes)
            tail = b.vload(b.at(base, 4 * whole), F32, mask=mask)
            found = both(found, b.select(mask, tail, start))
        return found

    def row(k: Any, _: Any) -> None:
        places = spot(b, k, task.shape[:-1])
        xr, yr = (b.at(p, b.mul(dot(b, places, steps), 4)) for p, steps in ((x, task.x), (y, task.y)))
        if lie:
            one = b.mask(1, lanes)
            b.loop(0, last, 1, lambda j, _: b.vstore(
                scaled(folded(b, over(b.at(xr, b.mul(j, 4 * task.x[-1])), 0, along), both)),
                b.at(yr, b.mul(j, 4)), F32, mask=one,
            ))  # fmt: skip
            return

        def some_of(j: Any, count: int) -> None:
            found = over(xr, 0, lambda base: read(b, base, task.x[-1], j, count))
            b.vstore(scaled(found), b.at(yr, b.mul(j, 4)), F32, mask=b.mask(count, lanes))

        in_vectors(b, last, some_of)

    b.loop(first, b.imin(b.add(first, some), total), 1, row)
    return b.finish()


def folded(b: Emit, v: Value, both: Any) -> Value:
    """All lanes combined, in every lane."""
    lanes, step = v.type.count, 1
    while step < lanes:
        v, step = both(v, b.shuffle(v, None, [lane ^ step for lane in range(lanes)])), 2 * step
    return v
