"""Copies and operations between values that lie in any order: general transposes, slices, reshapes, broadcasting.

Every operand has its own distance from place to place along each axis (0 where it is the same for all). Where the
source runs along another axis than the result, squares of lanes × lanes are transposed in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from dojang.arith.shapes import Shape
from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.activations import Activation, activate
from dojang.engine.kernels.other.elementwise import combine
from dojang.engine.kernels.task import Code, Offer, Step
from dojang.native.costs import COSTS
from dojang.native.emit import F32, Emit, SizeValue, Value
from dojang.native.machine import Machine

NAME = "strided"
UNIT = 4096  # elements: some 2 µs


@plain_repr
@dataclass(frozen=True, slots=True)
class StridedTask:
    """y = activation(x ∘ r) over a box of `shape`, the last axis contiguous in y; `op` "copy" has no r.

    `x`, `r` and `y` are elements from place to place along each axis, `x_offset` the first element of x.
    """

    op: str
    shape: tuple[int, ...]
    x: tuple[int, ...]
    y: tuple[int, ...]
    r: tuple[int, ...] = ()
    x_offset: int = 0
    activation: Activation | None = None


def of_axes(
    op: str,
    shape: Sequence[int],
    x: Sequence[int],
    y: Sequence[int],
    r: Sequence[int] = (),
    x_offset: int = 0,
    activation: Activation | None = None,
) -> StridedTask:
    """The task with axes in the order of y, those that run on merged.

    >>> of_axes("copy", (2, 3, 4), (12, 4, 1), (12, 4, 1)).shape
    (24,)
    """  # fmt: skip
    second = r or (0,) * len(shape)
    axes = [a for a in zip(shape, y, x, second, strict=True) if a[0] != 1]
    axes.sort(key=lambda a: -a[1])
    merged: list[tuple[int, ...]] = []
    for axis in axes:
        size, *steps = axis
        if merged and all(m == s * size for m, s in zip(merged[-1][1:], steps, strict=True)):
            merged[-1] = (merged[-1][0] * size, *steps)
        else:
            merged.append(axis)
    if not merged or merged[-1][1] != 1:  # y runs along no axis: number by number
        merged.append((1, 1, 0, 0))
    sizes, ys, xs, rs = (tuple(column) for column in zip(*merged, strict=True))
    return StridedTask(op, sizes, xs, ys, rs if op != "copy" else (), x_offset, activation)


def offer(task: StridedTask, machine: Machine) -> Offer:
    """Takes every task, of a whole batch: the bytes moved, four times as long where elements are gathered alone."""
    gathered = any(s and s[-1] > 1 for s in (task.x, task.r)) and turned(task, machine) is None
    return Offer(prod(task.shape) * (4.0 if gathered else 1.0) * 12 / (machine.peaks.cache_gbs * 1e9) + COSTS.start_s)


def turned(task: StridedTask, machine: Machine) -> int | None:
    """The axis along which x runs, where squares are transposed."""
    if task.op != "copy" or task.x[-1] <= 1:
        return None
    few = machine.lanes(4) // 4
    found = [i for i, (n, s) in enumerate(zip(task.shape[:-1], task.x, strict=False)) if s == 1 and n >= few]
    return found[0] if found else None


def rows_of(task: StridedTask, machine: Machine) -> tuple[int, int]:
    """(rows of the inner loops, rows of a unit)."""
    axis, inner, total = turned(task, machine), task.shape[-1], prod(task.shape[:-1])
    if axis is not None:
        lanes = machine.lanes(4)
        total, inner = total // task.shape[axis] * t.ceil_div(task.shape[axis], lanes), inner * lanes
    return total, max(1, min(UNIT // inner, t.ceil_div(total, 2 * machine.cores)))


def emit(task: StridedTask, machine: Machine) -> Code:
    """One step; a unit is some rows along the last axis."""
    total, some = rows_of(task, machine)
    form = form_of(task, machine)
    sizes = (total, some, task.x_offset, *task.shape, *task.x, *task.y, *task.r)
    if t.SIZES + len(sizes) > t.WORDS:  # more axes than the argument table has words for: numbers in the code
        form, sizes = replace(form, task=task, open=False), (total, some)
    build = lambda name: write(name, form, machine)  # noqa: E731
    return Code((Step(f"{NAME} {form}", build, lambda n: n * t.ceil_div(total, some), sizes),))


@plain_repr
@dataclass(frozen=True, slots=True)
class StridedForm:
    """What the code of a task depends on: `task` has the numbers 0, 1 and 2 (any other) where it does not matter.

    `turned`: the axis along which squares are transposed.
    """

    task: StridedTask
    turned: int | None
    open: bool = True


def form_of(task: StridedTask, machine: Machine) -> StridedForm:
    """The form that a task shares with those of other sizes."""
    few = lambda steps: tuple(min(s, 2) for s in steps)  # noqa: E731
    sizes = (2,) * len(task.shape)
    return StridedForm(StridedTask(task.op, sizes, few(task.x), few(task.y), few(task.r), 0, task.activation),
                turned(task, machine))  # fmt: skip


def numbers(b: Emit, form: StridedForm) -> tuple[StridedTask, Any, Any]:
    """The task with sizes that are known at run time, rows of the inner loops, rows of a unit."""
    task = form.task
    if not form.open:
        total, some = t.sizes(b, 2)
        return task, total, some
    rank = len(task.shape)
    total, some, offset, *rest = t.sizes(b, 3 + rank * (4 if task.r else 3))
    shape, *steps = (rest[k * rank : (k + 1) * rank] for k in range(4 if task.r else 3))
    # Distances of 0 and 1 are in the code, as they decide how it reads.
    known = [tuple(s if s < 2 else run for s, run in zip(fixed, runs, strict=True))
             for fixed, runs in zip((task.x, task.y, task.r), (*steps, ()), strict=False)]  # fmt: skip
    return replace(task, shape=tuple(shape), x=known[0], y=known[1], r=known[2], x_offset=offset), total, some


def write(symbol: str, form: StridedForm, machine: Machine) -> str:
    """The kernel as IR text."""
    b = t.begin(symbol, machine)
    task, total, some = numbers(b, form)
    lanes, inner, axis = machine.lanes(4), task.shape[-1], form.turned
    first = b.mul(b.arg.unit, some)
    x, y = b.at(t.word(b, t.X), task.x_offset * 4), t.word(b, t.Y)
    r = t.word(b, t.R) if task.r else None

    def row(k: Any, _: Any) -> None:
        places = spot(b, k, task.shape[:-1])
        start = lambda base, steps: b.at(base, b.mul(dot(b, places, steps), 4))  # noqa: E731
        xr, yr = start(x, task.x), start(y, task.y)
        rr = start(r, task.r) if r is not None else None

        def some_of(j: Any, count: Any) -> None:
            mask = b.mask(count, lanes)
            v = read(b, xr, task.x[-1], j, count)
            if rr is not None:
                v = combine(b, task.op, v, read(b, rr, task.r[-1], j, count))
            b.vstore(activate(b, v, task.activation, F32), b.at(yr, b.mul(j, 4)), F32, mask=mask)

        in_vectors(b, inner, some_of)

    def square(axis: int, k: Any) -> None:
        blocks = t.ceil_div(task.shape[axis], lanes)
        sizes = [blocks if i == axis else n for i, n in enumerate(task.shape[:-1])]
        places = spot(b, k, sizes)
        places[axis] = b.mul(places[axis], lanes)
        xr, yr = b.at(x, b.mul(dot(b, places, task.x), 4)), b.at(y, b.mul(dot(b, places, task.y), 4))
        left = b.sub(task.shape[axis], places[axis])
        along = b.mask(left, lanes)

        def block(j: Any, count: Any) -> None:
            def line(i: int) -> Value:
                if not isinstance(count, int):
                    here = b.mask(b.mul(b.imax(b.sub(count, i), 0), lanes), lanes)
                    return b.vload(b.at(xr, b.mul(b.add(j, i), task.x[-1] * 4)), F32, mask=b.and_(along, here))
                if i >= count:
                    return b.const(F32, 0)
                return b.vload(b.at(xr, b.mul(b.add(j, i), task.x[-1] * 4)), F32, mask=along)

            rows = [line(i) for i in range(lanes)]
            mask = b.mask(count, lanes)
            for i, v in enumerate(b.transpose(rows)):
                at = b.at(yr, task.y[axis] * (4 * i), b.mul(j, 4))
                value = activate(b, v, task.activation, F32)
                b.choose(b.less(i, left), lambda v=value, p=at: b.vstore(v, p, F32, mask=mask))

        in_vectors(b, inner, block)

    b.loop(first, b.imin(b.add(first, some), total), 1, row if axis is None else lambda k, _: square(axis, k))
    return b.finish()


def by_rows(name: str, task: Any, rows: tuple[int, int], build: Callable[[str], str]) -> Code:
    """One step for all rows of a task; a unit is some of them. `rows`: (rows in all, rows of a unit).

    `build` has to be written in the module of the kernel, because the cache of object code goes by it (`Step.kernel`).
    """
    total, some = rows
    return Code((Step(f"{name} {task} {some}", build, lambda n: n * t.ceil_div(total, some)),))


def in_order(shape: Sequence[int], x: Sequence[int], y: Sequence[int]) -> tuple[Shape, Shape, Shape]:
    """Sizes, and steps in x and in y, of the axes in the order of y, axes of one place left out. The last one is
    contiguous in y: where none is, it has one place.

    >>> in_order((2, 3), (12, 1), (1, 2))
    ((3, 2), (1, 12), (2, 1))
    >>> in_order((3,), (1,), (2,))
    ((3, 1), (1, 0), (2, 1))
    """
    order = sorted((a for a in range(len(shape)) if shape[a] != 1), key=lambda a: -y[a])
    sizes, xs, ys = (tuple(v[a] for a in order) for v in (shape, x, y))
    if not ys or ys[-1] != 1:
        sizes, xs, ys = (*sizes, 1), (*xs, 0), (*ys, 1)
    return sizes, xs, ys


def in_vectors(b: Emit, size: Any, body: Callable[[Any, Any], None]) -> None:
    """`body(first, count)` for each whole vector of `size` elements of float32, and for what is left behind them."""
    lanes = b.lanes(F32)
    whole = size // lanes * lanes
    b.loop(0, whole, lanes, lambda j, _: body(j, lanes))
    if isinstance(size, SizeValue):
        b.choose(b.less(whole, size), lambda: body(whole, size - whole))
    elif size > whole:
        body(whole, size - whole)


def spot(b: Emit, k: Value, sizes: Sequence[int]) -> list[Any]:
    """The place along each axis of number k in their order."""
    found: list[Any] = []
    for n in reversed(sizes):
        found.append(b.urem(k, n))
        k = b.udiv(k, n)
    return found[::-1]


def dot(b: Emit, places: Sequence[Any], steps: Sequence[int]) -> Any:
    """The element of a place."""
    total: Any = 0
    for place, step in zip(places, steps, strict=False):
        total = b.add(total, b.mul(place, step))
    return total


def read(b: Emit, base: Value, step: Any, j: Any, count: Any) -> Value:
    """`count` elements from number j on, `step` apart; what is beyond them is 0 or anything."""
    lanes = b.lanes(F32)
    if step == 0:
        return b.splat_load(base, F32)
    if step == 1:
        return b.vload(b.at(base, b.mul(j, 4)), F32, mask=b.mask(count, lanes))
    v = b.const(F32, 0)
    for i in range(lanes):  # of the last elements, those beyond them are the last one again
        if isinstance(count, int) and i >= count:
            break
        k = i if isinstance(count, int) else b.imin(i, b.sub(count, 1))
        v = b.insert(v, b.sload(b.at(base, b.mul(b.add(j, k), step * 4)), F32), i)
    return v
