"""The k largest or smallest of each line in order, and where they were (TopK, Sort).

A line goes through a heap of k entries. An entry is 64 bits: a key whose order, as a whole number without sign, is the
order that is asked for, and the place; so equal elements stand in the order of their places, and no two entries are
equal. −0 and 0 are equal; NaN counts as the largest of all, as in NumPy and PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2, prod
from typing import Any

from llvmlite import ir

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.other.strided import dot, spot
from dojang.engine.kernels.task import Code, Offer, Refusal, Step
from dojang.native.costs import COSTS
from dojang.native.emit import F32, I32, I64, Emit, Value
from dojang.native.machine import Machine

NAME = "ordered"
PLACES = 1 << 24
"""Places of a line that float32 tells apart."""


@plain_repr
@dataclass(frozen=True, slots=True)
class OrderedTask:
    """Of each line of `size` elements, `step` apart in x, the first `k` by size. Lines lie over a box of `shape`; `x`,
    `values` and `places` are elements from place to place along its axes, and `apart` along the k results in each of
    the two.
    """

    shape: tuple[int, ...]
    x: tuple[int, ...]
    values: tuple[int, ...]
    places: tuple[int, ...]
    size: int
    step: int
    k: int
    apart: tuple[int, int]
    largest: bool


def offer(task: OrderedTask, machine: Machine) -> Offer | Refusal:
    """Takes lines of up to 2²⁴ elements: a comparison for each, and the heap's depth for those that enter it."""
    if task.size > PLACES:
        return Refusal("a line whose places float32 does not tell apart")
    depth = log2(task.k + 1)
    entered = task.k * (1 + log2(max(1, task.size / task.k)))
    return Offer(prod(task.shape) * (task.size * 1e-9 + (entered + task.k) * depth * 1.5e-9) + COSTS.start_s)


def emit(task: OrderedTask, machine: Machine) -> Code:
    """One step; a unit is one line."""
    units = prod(task.shape)
    step = Step(f"{NAME} {task}", lambda name: write(name, task, machine), lambda n: n * units)
    return Code((step,), 8 * task.k)


def key_of(b: Emit, v: Value, largest: bool) -> Value:
    """A number as 64 bits whose upper half is in the order that is asked for, the first one least."""
    word = ir.IntType(32)
    v = b.fadd(v, b.const(F32, 0.0, 0))  # −0 becomes 0
    bits = b.bitcast(v, word)
    bits = b.select(b.fcmp_unordered("uno", v, v), ir.Constant(word, 0x7FFFFFFF), bits)
    flip = b.or_(b.ashr(bits, ir.Constant(word, 31)), ir.Constant(word, 1 << 31))
    ordered = b.xor(bits, flip)
    if largest:
        ordered = b.not_(ordered)
    return b.shl(b.zext(ordered, I64.ir), ir.Constant(I64.ir, 32))


def sift(b: Emit, heap: Value, start: Any, size: Any, entry: Value) -> None:
    """Puts an entry into the hole at `start` of a heap of `size` entries, the greatest on top: greater ones below it
    move up.
    """
    size = b.index(size)
    before = b.block
    head, body, move, done = (b.function.append_basic_block(n) for n in ("sift", "child", "move", "put"))
    first = b.index(start)
    b.branch(head)
    b.position_at_end(head)
    hole = b.phi(I64.ir)
    hole.add_incoming(first, before)
    child = b.add(b.mul(hole, 2), 1)
    b.cbranch(b.less(child, size), body, done)
    b.position_at_end(body)
    right = b.imin(b.add(child, 1), b.sub(size, 1))
    one, two = (b.sload(b.at(heap, b.mul(c, 8)), I64) for c in (child, right))
    larger = b.icmp_unsigned(">", two, one)
    child, value = b.select(larger, right, child), b.select(larger, two, one)
    b.cbranch(b.icmp_unsigned(">", value, entry), move, done)
    b.position_at_end(move)
    b.vstore(value, b.at(heap, b.mul(hole, 8)), I64)
    hole.add_incoming(child, move)
    b.branch(head)
    b.position_at_end(done)
    b.vstore(entry, b.at(heap, b.mul(hole, 8)), I64)


def write(symbol: str, task: OrderedTask, machine: Machine) -> str:
    """The kernel as IR text."""
    b = t.begin(symbol, machine)
    heap, k = b.arg.scratch, task.k
    places = spot(b, b.arg.unit, task.shape)
    base = b.at(t.word(b, t.X), b.mul(dot(b, places, task.x), 4))

    def entry(j: Any) -> Value:
        v = b.sload(b.at(base, b.mul(j, 4 * task.step)), F32)
        return b.or_(key_of(b, v, task.largest), b.index(j))

    b.loop(0, k, 1, lambda j, _: b.vstore(entry(j), b.at(heap, b.mul(j, 8)), I64))

    def settle(j: Any, _: Any) -> None:
        hole = b.sub(k // 2 - 1, j)
        sift(b, heap, hole, k, b.sload(b.at(heap, b.mul(hole, 8)), I64))

    b.loop(0, k // 2, 1, settle)

    def offered(j: Any, _: Any) -> None:
        new = entry(j)
        enters = b.icmp_unsigned("<", new, b.sload(heap, I64))
        b.choose(enters, lambda: sift(b, heap, 0, k, new))

    b.loop(k, task.size, 1, offered)

    def taken(j: Any, _: Any) -> None:
        last = b.sub(k - 1, j)
        end = b.at(heap, b.mul(last, 8))
        entry_, top = b.sload(end, I64), b.sload(heap, I64)
        sift(b, heap, 0, last, entry_)
        b.vstore(top, end, I64)

    b.loop(0, k - 1, 1, taken)
    values = b.at(t.word(b, t.Y), b.mul(dot(b, places, task.values), 4))
    numbers = b.at(t.word(b, t.S0), b.mul(dot(b, places, task.places), 4))

    def put(j: Any, _: Any) -> None:
        place = b.zext(b.trunc(b.sload(b.at(heap, b.mul(j, 8)), I64), I32.ir), I64.ir)
        v = b.sload(b.at(base, b.mul(place, 4 * task.step)), F32)
        b.vstore(v, b.at(values, b.mul(j, 4 * task.apart[0])), F32)
        b.vstore(b.sitofp(place, F32.ir), b.at(numbers, b.mul(j, 4 * task.apart[1])), F32)

    b.loop(0, k, 1, put)
    return b.finish()


def of_axes(
    shape: Sequence[int], x: Sequence[int], values: Sequence[int], places: Sequence[int], size: int, step: int,
    k: int, apart: tuple[int, int], largest: bool,
) -> OrderedTask:  # fmt: skip
    """The task without axes of one place.

    >>> of_axes((1, 3), (30, 1), (6, 1), (6, 1), 10, 3, 2, (3, 3), True).shape
    (3,)
    """
    order = [a for a in range(len(shape)) if shape[a] != 1]
    sizes, xs, ys, ps = (tuple(v[a] for a in order) for v in (shape, x, values, places))
    return OrderedTask(sizes, xs, ys, ps, size, step, k, apart, largest)
