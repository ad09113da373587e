"""Pooling of bytes: the largest under a window, or the mean, quantised again. Outside of the image nothing counts.

A mean is round(Σ (x − zero) · ratio / count) + zero of the result, in float32, halves to even; `ratio` is the scale of
the values by that of the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.eight.dot import as_float, nearest, spread_bytes
from dojang.engine.kernels.eight.store import put
from dojang.engine.kernels.other.pool import PoolTask
from dojang.engine.kernels.task import Code, Offer, Refusal, Step
from dojang.native.costs import COSTS
from dojang.native.emit import F32, I32, U8, Emit, Value
from dojang.native.machine import Machine

NAME = "eight-pool"
UNIT = 64 << 10  # values under windows


@plain_repr
@dataclass(frozen=True, slots=True)
class EightPool:
    """A `pool` (its distances between pixels in bytes) of values with zero point `x_zero`. Means are scaled by `ratio`,
    `zero` is added, and the result held within `low` and `high`.
    """

    pool: PoolTask
    x_zero: int = 0
    ratio: float = 1.0
    zero: int = 0
    low: int = 0
    high: int = 255


def offer(task: EightPool, machine: Machine) -> Offer | Refusal:
    """For images of one or two dimensions."""
    p = task.pool
    if len(p.size) > 2:
        return Refusal("more than 2 dimensions")
    if p.what not in ("max", "avg"):
        return Refusal(f"{p.what} of bytes")
    moved = prod(p.out_size) * p.channels * prod(p.kernel) * (1 if p.what == "max" else 4)
    return Offer(moved / (machine.peaks.cache_gbs * 1e9) + COSTS.start_s)


def emit(task: EightPool, machine: Machine) -> Code:
    """One step; a unit is some output pixels of one image, or, of one pixel, some channels."""
    p = task.pool
    total = prod(p.out_size)
    per = max(1, min(total, UNIT // max(1, p.channels * prod(p.kernel))))
    chunks = t.ceil_div(total, per)

    def build(name: str) -> str:
        return write(name, task, per, machine)

    return Code((Step(f"{NAME} {task} {per}", build, lambda n: n * chunks),))


def write(symbol: str, task: EightPool, per: int, machine: Machine) -> str:
    """The kernel as IR text."""
    b, p = t.begin(symbol, machine), task.pool
    missing = (1,) * (2 - len(p.size))
    (ih, iw), (oh, ow), (kh, kw), stride, dilation = (
        missing + tuple(v) for v in (p.size, p.out_size, p.kernel, p.stride, p.dilation)
    )
    before = tuple(0 for _ in missing) + tuple(pair[0] for pair in p.padding)
    behind = tuple(0 for _ in missing) + tuple(pair[1] for pair in p.padding)
    total = oh * ow
    chunks = t.ceil_div(total, per)
    image, chunk = b.udiv(b.arg.unit, chunks), b.urem(b.arg.unit, chunks)
    first = b.mul(chunk, per)
    last = b.imin(b.add(first, per), total)
    x = b.at(t.word(b, t.X), b.mul(image, ih * iw * p.x_ld))
    y = b.at(t.word(b, t.Y), b.mul(image, total * p.y_ld))
    largest = p.what == "max"
    lanes = machine.vector_bytes if largest else machine.lanes(4)

    def pixel(o: Any, _: Any) -> None:
        row, column = b.udiv(o, ow), b.urem(o, ow)
        top, r0, r1 = t.tap_range(b, row, stride[0], before[0], dilation[0], kh, ih)
        left, c0, c1 = t.tap_range(b, column, stride[1], before[1], dilation[1], kw, iw)
        to = b.at(y, b.mul(o, p.y_ld))
        count: Any = None
        if not largest:
            count = b.mul(b.sub(r1, r0), b.sub(c1, c0))
            taken = count
            if p.count_padding:  # padding counts, as far as it reaches; beyond that is where an image was rounded up
                down = b.imin(kh, b.sub(ih + behind[0], top))
                over = b.imin(kw, b.sub(iw + behind[1], left))
                count = b.mul(down, over)

        def channels(v: Any, width: int) -> None:
            source = b.at(x, v)
            mask = b.mask(width, lanes)

            def tap(i: Any, j: Any, acc: list[Value]) -> list[Value]:
                line, place = b.add(top, b.mul(i, dilation[0])), b.add(left, b.mul(j, dilation[1]))
                at = b.at(source, b.mul(b.add(b.mul(line, iw), place), p.x_ld))
                if largest:
                    new = b.vload(at, U8, lanes, mask=mask)
                    return [b.select(b.icmp_unsigned(">", new, acc[0]), new, acc[0])]
                return [b.add(acc[0], spread_bytes(b, at, lanes, mask))]

            begin = b.const(U8, 0, lanes) if largest else b.const(I32, 0, lanes)
            (acc,) = b.loop(r0, r1, 1, lambda i, acc: b.loop(c0, c1, 1, lambda j, acc: tap(i, j, acc), acc), [begin])
            if not largest:
                acc = mean(b, task, acc, taken, count)
            put(b, acc, b.at(to, v), width)

        whole = p.channels // lanes * lanes
        b.loop(0, whole, lanes, lambda v, _: channels(v, lanes))
        if p.channels > whole:
            channels(whole, p.channels - whole)

    b.loop(first, last, 1, pixel)
    return b.finish()


def mean(b: Emit, task: EightPool, total: Value, taken: Any, count: Any) -> Value:
    """Sums of `taken` values as bytes of the mean over `count`."""
    lanes = total.type.count
    if task.x_zero:
        zeros = b.trunc(b.index(b.mul(taken, task.x_zero)), I32.ir)
        total = b.sub(total, b.splat(zeros, lanes))
    many = b.splat(b.sitofp(b.index(count), F32.ir), lanes)
    v = b.fdiv(b.fmul(as_float(b, total), b.const(F32, task.ratio, lanes)), many)
    v = b.maximum(v, b.const(F32, float(task.low - task.zero), lanes))
    v = b.minimum(v, b.const(F32, float(task.high - task.zero), lanes))
    return b.trunc(b.add(nearest(b, v), b.const(I32, task.zero, lanes)), U8.vector(lanes))
