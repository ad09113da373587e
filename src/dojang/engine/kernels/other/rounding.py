"""Numbers rounded to 8 bits over their own range, 0 in it, and made real again: DynamicQuantizeLinear of ONNX, then
DequantizeLinear. ONNX Runtime rounds so what dynamically quantised layers read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.other.reduce import folded
from dojang.engine.kernels.task import Code, Offer, Step
from dojang.native.costs import COSTS
from dojang.native.emit import F32, Emit, Value
from dojang.native.machine import Machine

NAME = "rounding"
MOST = 255.0


@plain_repr
@dataclass(frozen=True, slots=True)
class RoundingTask:
    """`size` numbers X, one after the other, rounded together into Y."""

    size: int


def offer(task: RoundingTask, machine: Machine) -> Offer:
    """Takes every task, all images together, on one thread: the numbers are read twice."""
    return Offer(12 * task.size / (machine.peaks.cache_gbs * 1e9) + COSTS.start_s)


def emit(task: RoundingTask, machine: Machine) -> Code:
    """One step of one unit."""

    def build(name: str) -> str:
        b = t.begin(name, machine)
        (size,) = t.sizes(b, 1)
        write(b, t.word(b, t.X), t.word(b, t.Y), size, machine.lanes(4))
        return b.finish()

    return Code((Step(NAME, build, lambda n: 1, (task.size,)),), 0)


def write(b: Emit, x: Value, y: Value, size: Any, lanes: int) -> None:
    """Code that rounds `size` numbers from x on into y; x and y may be one place."""
    zero = b.const(F32, 0.0)

    def each(body: Callable[[Any, Any, list[Value]], list[Value]], carry: list[Value]) -> list[Value]:
        """`body` for each vector: its offset in bytes, the mask of the last one."""
        whole = b.mul(b.udiv(size, lanes), lanes)
        carry = b.loop(0, whole, lanes, lambda i, c: body(b.mul(i, 4), None, c), carry)
        if isinstance(size, int) and size % lanes == 0:
            return carry
        rest = b.mask(b.sub(size, whole), lanes)
        return b.choose(b.less(whole, size), lambda: body(b.mul(whole, 4), rest, carry), lambda: carry)

    def range_of(o: Any, mask: Any, carry: list[Value]) -> list[Value]:
        v = b.vload(b.at(x, o), F32, mask=mask)  # 0 where it is masked
        return [b.minimum(carry[0], v), b.maximum(carry[1], v)]

    low, high = each(range_of, [zero, zero])
    low, high = folded(b, low, b.minimum), folded(b, high, b.maximum)
    span = b.fsub(high, low)
    flat = b.fcmp_ordered("==", span, zero)
    scale = b.select(flat, b.const(F32, 1.0), b.fdiv(span, b.const(F32, MOST)))
    shift = b.minimum(b.round(b.fdiv(b.fsub(zero, low), scale)), b.const(F32, MOST))
    top = b.fsub(b.const(F32, MOST), shift)
    least = b.fsub(zero, shift)

    def rounded(o: Any, mask: Any, _: list[Value]) -> list[Value]:
        v = b.round(b.fdiv(b.vload(b.at(x, o), F32, mask=mask), scale))
        b.vstore(b.fmul(b.minimum(b.maximum(v, least), top), scale), b.at(y, o), F32, mask=mask)
        return []

    each(rounded, [])
