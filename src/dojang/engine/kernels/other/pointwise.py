"""Comparisons, truth values, choices and remainders, element by element, on values that lie in any order and broadcast.

Truth values are 1.0 and 0.0, whole numbers the float32 that is equal to them (`plan/held.py` says which values can be
held so). A number that is not 0 counts as true, NaN too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.activations import Activation, activate
from dojang.engine.kernels.other.strided import by_rows, dot, in_vectors, read, spot
from dojang.engine.kernels.task import Code, Offer
from dojang.native.costs import COSTS
from dojang.native.emit import F32, Emit, Value
from dojang.native.machine import Machine

NAME = "pointwise"
UNIT = 4096  # elements: some 2 µs
SLOTS = (t.X, t.R, t.S0)
"""The words of the argument table that hold the operands."""


@plain_repr
@dataclass(frozen=True, slots=True)
class PointTask:
    """y = f(operands) over a box of `shape`, the last axis contiguous in y. `y` and each of `operands` are elements
    from place to place along the axes, 0 where it is the same for all; `numbers` are parameters of the function.
    """

    op: str
    shape: tuple[int, ...]
    y: tuple[int, ...]
    operands: tuple[tuple[int, ...], ...]
    numbers: tuple[float, ...] = ()


def of_axes(
    op: str, shape: Sequence[int], y: Sequence[int], operands: Sequence[Sequence[int]], numbers: Sequence[float] = ()
) -> PointTask:
    """The task with axes in the order of y, those that run on merged.

    >>> of_axes("less", (2, 3), (3, 1), [(3, 1), (0, 0)])
    PointTask(op='less', shape=(6,), y=(1,), operands=((1,), (0,)), numbers=())
    >>> of_axes("not", (2, 3), (3, 1), [(3, 1)])
    PointTask(op='not', shape=(6,), y=(1,), operands=((1,),), numbers=())
    """
    axes = [a for a in zip(shape, y, *operands, strict=True) if a[0] != 1]
    axes.sort(key=lambda a: -a[1])
    merged: list[tuple[int, ...]] = []
    for size, *steps in axes:
        if merged and all(m == s * size for m, s in zip(merged[-1][1:], steps, strict=True)):
            merged[-1] = (merged[-1][0] * size, *steps)
        else:
            merged.append((size, *steps))
    if not merged or merged[-1][1] != 1:  # y runs along no axis: number by number
        merged.append((1, 1, *(0 for _ in operands)))
    sizes, ys, *rest = (tuple(column) for column in zip(*merged, strict=True))
    return PointTask(op, sizes, ys, tuple(rest), tuple(float(n) for n in numbers))


def offer(task: PointTask, machine: Machine) -> Offer:
    """Takes every task, of a whole batch: the bytes moved, four times as long where elements are gathered alone."""
    gathered = any(steps[-1] > 1 for steps in task.operands)
    each = 4 * (1 + len(task.operands)) * (4.0 if gathered else 1.0)
    return Offer(prod(task.shape) * each / (machine.peaks.cache_gbs * 1e9) + COSTS.start_s)


def rows_of(task: PointTask, machine: Machine) -> tuple[int, int]:
    """(rows along the last axis, rows of a unit)."""
    total = prod(task.shape[:-1])
    return total, max(1, min(UNIT // task.shape[-1], t.ceil_div(total, 2 * machine.cores)))


def emit(task: PointTask, machine: Machine) -> Code:
    """One step; a unit is some rows along the last axis."""
    return by_rows(NAME, task, rows_of(task, machine), lambda name: write(name, task, machine))


def write(symbol: str, task: PointTask, machine: Machine) -> str:
    """The kernel as IR text."""
    b = t.begin(symbol, machine)
    lanes, last = machine.lanes(4), task.shape[-1]
    total, some = rows_of(task, machine)
    first = b.mul(b.arg.unit, some)
    y = t.word(b, t.Y)
    sources = [t.word(b, slot) for slot in SLOTS[: len(task.operands)]]
    function = FUNCTIONS[task.op]

    def row(k: Any, _: Any) -> None:
        places = spot(b, k, task.shape[:-1])
        yr = b.at(y, b.mul(dot(b, places, task.y), 4))
        bases = [
            b.at(base, b.mul(dot(b, places, steps), 4)) for base, steps in zip(sources, task.operands, strict=True)
        ]

        def some_of(j: Any, count: int) -> None:
            given = [read(b, base, steps[-1], j, count) for base, steps in zip(bases, task.operands, strict=True)]
            b.vstore(function(b, given, task.numbers), b.at(yr, b.mul(j, 4)), F32, mask=b.mask(count, lanes))

        in_vectors(b, last, some_of)

    b.loop(first, b.imin(b.add(first, some), total), 1, row)
    return b.finish()


# -- functions -----------------------------------------------------------------------------------------------------

Function = Callable[[Emit, Sequence[Value], Sequence[float]], Value]


def held(b: Emit, truth: Value) -> Value:
    """A truth value of each lane as a number."""
    return b.select(truth, b.const(F32, 1.0), b.const(F32, 0.0))


def true(b: Emit, v: Value) -> Value:
    """Whether a number counts as true."""
    return b.fcmp_unordered("!=", v, b.const(F32, 0.0))


def compared(sign: str, ordered: bool = True) -> Function:
    """A comparison; with NaN false, or true where it is not `ordered`."""
    return lambda b, v, _: held(b, (b.fcmp_ordered if ordered else b.fcmp_unordered)(sign, v[0], v[1]))


def joined(name: str) -> Function:
    """Two truth values."""
    return lambda b, v, _: held(b, getattr(b, name)(true(b, v[0]), true(b, v[1])))


def truncated(b: Emit, v: Value) -> Value:
    """Without the part behind the point, towards 0."""
    down = b.floor(b.abs(v))
    return b.select(b.fcmp_ordered("<", v, b.const(F32, 0.0)), b.fneg(down), down)


def fmod(b: Emit, given: Sequence[Value], _: Sequence[float]) -> Value:
    """The remainder of whole numbers, with the sign of the first; exact below 2²⁴."""
    a, n = given
    return b.fsub(a, b.fmul(truncated(b, b.fdiv(a, n)), n))


def modulo(b: Emit, given: Sequence[Value], _: Sequence[float]) -> Value:
    """The remainder of whole numbers, with the sign of the second; exact below 2²⁴."""
    a, n = given
    return b.fsub(a, b.fmul(b.floor(b.fdiv(a, n)), n))


def celu(b: Emit, given: Sequence[Value], numbers: Sequence[float]) -> Value:
    """α · elu(x / α)."""
    alpha = b.const(F32, numbers[0])
    return b.fmul(alpha, activate(b, b.fdiv(given[0], alpha), Activation("elu", 1.0, 1.0), F32))


def thresholded(b: Emit, given: Sequence[Value], numbers: Sequence[float]) -> Value:
    """x above a limit, else another number (0 if none is given)."""
    low = b.const(F32, numbers[1] if len(numbers) > 1 else 0.0)
    return b.select(b.fcmp_ordered(">", given[0], b.const(F32, numbers[0])), given[0], low)


def shrink(b: Emit, given: Sequence[Value], numbers: Sequence[float]) -> Value:
    """x + bias below −λ, x − bias above λ, else 0; NaN gives 0, as the definition's comparisons do."""
    x, (lambd, bias) = given[0], numbers
    above = b.select(b.fcmp_ordered(">", x, b.const(F32, lambd)), b.fsub(x, b.const(F32, bias)), b.const(F32, 0.0))
    return b.select(b.fcmp_ordered("<", x, b.const(F32, -lambd)), b.fadd(x, b.const(F32, bias)), above)


def infinite(b: Emit, given: Sequence[Value], numbers: Sequence[float]) -> Value:
    """Whether x is −∞ (where the first number says so) or +∞ (the second)."""
    ends = [v for v, on in zip((float("-inf"), float("inf")), numbers, strict=True) if on]
    found = b.const(F32, 0.0)
    for end in ends:
        found = b.select(b.fcmp_ordered("==", given[0], b.const(F32, end)), b.const(F32, 1.0), found)
    return found


FUNCTIONS: Mapping[str, Function] = {
    "equal": compared("=="),
    "not_equal": compared("!=", ordered=False),
    "less": compared("<"),
    "less_or_equal": compared("<="),
    "greater": compared(">"),
    "greater_or_equal": compared(">="),
    "and": joined("and_"),
    "or": joined("or_"),
    "xor": joined("xor"),
    "not": lambda b, v, _: b.fsub(b.const(F32, 1.0), held(b, true(b, v[0]))),
    "truth": lambda b, v, _: held(b, true(b, v[0])),
    "whole": lambda b, v, _: truncated(b, v[0]),
    "divided": lambda b, v, _: truncated(b, b.fdiv(v[0], v[1])),
    "fmod": fmod,
    "modulo": modulo,
    "where": lambda b, v, _: b.select(true(b, v[0]), v[1], v[2]),
    "nan": lambda b, v, _: held(b, b.fcmp_unordered("uno", v[0], v[0])),
    "infinite": infinite,
    "celu": celu,
    "thresholded": thresholded,
    "shrink": shrink,
}
"""What can be computed, by name."""
