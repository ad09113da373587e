"""Bytes element by element: made of real numbers, made real again, by a table, and two values joined.

All are what the operators of ONNX say, in float32, halves to even: QuantizeLinear, DequantizeLinear, and QLinearAdd
and QLinearMul of ONNX Runtime as (a·scale + b·scale) / scale of the result. A function of one number is a table of 256
bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.eight.dot import as_float, nearest, spread_bytes
from dojang.engine.kernels.eight.store import put
from dojang.engine.kernels.task import Code, Offer, Refusal, Step
from dojang.native.costs import COSTS
from dojang.native.emit import F32, I32, U8, Emit, Value
from dojang.native.machine import Machine

NAME = "eight-elements"
UNIT = 16 << 10  # elements


@plain_repr
@dataclass(frozen=True, slots=True)
class EightMap:
    """`op` of every element of `pixels` pixels per image: "quantise" (float32 to bytes), "planes" (the same of images
    whose channels, four at most, lie one after the other), "real" (bytes to float32), "table" (bytes to bytes), "fill"
    (`zero` everywhere), "add" and "mul" (of two values of bytes). Distances between pixels are in elements; `r_ld` is 0
    where the second value has one pixel per image.

    x stands for x_scale · (x − x_zero), r likewise; the result is within `low` and `high`, `zero` added.
    """

    op: str
    channels: int
    pixels: int
    x_ld: int
    y_ld: int
    r_ld: int = 0
    x_scale: float = 1.0
    x_zero: int = 0
    r_scale: float = 1.0
    r_zero: int = 0
    scale: float = 1.0
    zero: int = 0
    low: int = 0
    high: int = 255


MOST_PLANES = 4


def offer(task: EightMap, machine: Machine) -> Offer | Refusal:
    """By the bytes moved; divisions and tables take longer."""
    if task.op == "planes" and (task.channels > MOST_PLANES or task.y_ld != MOST_PLANES):
        return Refusal("more channels than a word has bytes")
    moved = (
        {"quantise": 5, "planes": 5, "real": 5, "table": 4, "fill": 1, "add": 5, "mul": 5}[task.op]
        * task.channels
        * task.pixels
    )
    return Offer(moved / (machine.peaks.cache_gbs * 1e9) + COSTS.start_s)


def emit(task: EightMap, machine: Machine) -> Code:
    """One step; a unit is some pixels of one image."""
    per = max(1, min(task.pixels, UNIT // max(1, task.channels)))
    parts = t.ceil_div(task.pixels, per)
    any_size = replace(task, pixels=0)

    def build(name: str) -> str:
        return write(name, any_size, machine)

    return Code((Step(f"{NAME} {any_size}", build, lambda n: n * parts, (task.pixels, per, parts)),))


def write(symbol: str, task: EightMap, machine: Machine) -> str:
    """The kernel as IR text, for any number of pixels."""
    b = t.begin(symbol, machine)
    lanes, c = machine.lanes(4), task.channels
    count, per, parts = t.sizes(b, 3)
    image, part = b.udiv(b.arg.unit, parts), b.urem(b.arg.unit, parts)
    first = b.mul(part, per)
    last = b.imin(b.add(first, per), count)
    if task.op == "planes":
        return planes(b, task, count, image, first, last)
    ix, iy = 4 if task.op == "quantise" else 1, 4 if task.op == "real" else 1
    x = b.at(t.word(b, t.X), b.mul(image, count * (ix * task.x_ld)))
    y = b.at(t.word(b, t.Y), b.mul(image, count * (iy * task.y_ld)))
    two = task.op in ("add", "mul")
    r = b.at(t.word(b, t.R), b.mul(image, count * task.r_ld if task.r_ld else t.ceil_div(c, 4) * 4)) if two else None
    flat = task.x_ld == task.y_ld == c and (not two or task.r_ld == c)
    wide = task.op == "table" and looks_up(machine)
    step = 64 if wide else 1 if task.op == "table" else lanes

    def some(px: Value, py: Value, pr: Any, o: Any, channels: int) -> None:
        if task.op == "fill":
            put(b, b.const(U8, task.zero, lanes), b.at(py, o), channels)
            return
        if wide:
            q = b.vload(b.at(px, o), U8, 64, mask=b.mask(channels, 64))
            put(b, looked_up(b, t.word(b, t.W), q), b.at(py, o), channels)
            return
        if task.op == "table":
            place = b.zext(b.sload(b.at(px, o), U8), b.index(0).type)
            b.vstore(b.sload(b.at(t.word(b, t.W), place), U8), b.at(py, o), U8)
            return
        mask = b.mask(channels, lanes)
        if task.op == "quantise":
            v = b.vload(b.at(px, b.mul(o, 4)), F32, mask=mask)
        else:
            v = real(b, b.at(px, o), task.x_scale, task.x_zero, lanes, mask)
        if task.op == "real":
            b.vstore(v, b.at(py, b.mul(o, 4)), F32, mask=mask)
            return
        if two:
            other = real(b, b.at(pr, o), task.r_scale, task.r_zero, lanes, mask)
            v = b.fadd(v, other) if task.op == "add" else b.fmul(v, other)
        put(b, quantised(b, task, v), b.at(py, o), channels)

    def across(px: Value, py: Value, pr: Any, size: int) -> None:
        whole = size // step * step
        b.loop(0, whole, step, lambda o, _: some(px, py, pr, o, step), unroll=4)
        if size > whole:
            some(px, py, pr, whole, size - whole)

    if flat:
        lo, hi = b.mul(first, c), b.mul(last, c)
        span = b.add(lo, b.mul(b.udiv(b.sub(hi, lo), step), step))
        b.loop(lo, span, step, lambda o, _: some(x, y, r, o, step), unroll=4)
        if step > 1:  # what is left, one by one
            b.loop(span, hi, 1, lambda o, _: some(x, y, r, o, 1))
    else:
        b.loop(first, last, 1, lambda p, _: across(
            b.at(x, b.mul(p, ix * task.x_ld)), b.at(y, b.mul(p, iy * task.y_ld)),
            b.at(r, b.mul(p, task.r_ld)) if r is not None else None, c,
        ))  # fmt: skip
    return b.finish()


def looks_up(machine: Machine) -> bool:
    """Whether one instruction looks up 64 bytes in a table of 128."""
    return machine.isa == "avx512" and "+avx512vbmi" in machine.features.split(",")


def looked_up(b: Emit, table: Value, q: Value) -> Value:
    """64 bytes of a table of 256: both halves by the lower seven bits, one of them by the eighth."""
    kind = U8.vector(64)
    parts = [b.vload(b.at(table, 64 * k), U8, 64) for k in range(4)]
    found = b._intrinsic("llvm.x86.avx512.vpermi2var.qi.512", kind, [kind] * 3)
    low, high = (b.call(found, [parts[k], q, parts[k + 1]]) for k in (0, 2))
    return b.select(b.icmp_unsigned("<", q, b.const(U8, 128, 64)), low, high)


def planes(b: Emit, task: EightMap, count: Any, image: Value, first: Value, last: Value) -> str:
    """Four bytes of a pixel as one word; those of channels that are none are 0."""
    lanes = b.lanes(I32)
    x = b.at(t.word(b, t.X), b.mul(image, count * (4 * task.channels)))
    y = b.at(t.word(b, t.Y), b.mul(image, count * 4))

    def some(p: Any, _: Any) -> None:
        mask = b.mask(b.sub(last, p), lanes)
        word = b.const(I32, 0, lanes)
        for c in range(task.channels):
            v = b.vload(b.at(x, count * (4 * c), b.mul(p, 4)), F32, mask=mask)
            q = b.zext(quantised(b, task, v), I32.vector(lanes))
            word = b.or_(word, b.shl(q, b.const(I32, 8 * c, lanes)))
        b.vstore(word, b.at(y, b.mul(p, 4)), I32, mask=mask)

    b.loop(first, last, lanes, some)
    return b.finish()


def real(b: Emit, ptr: Value, scale: float, zero: int, lanes: int, mask: Value | None) -> Value:
    """scale · (q − zero)."""
    q = spread_bytes(b, ptr, lanes, mask)
    if zero:
        q = b.sub(q, b.const(I32, zero, lanes))
    v = as_float(b, q)
    return b.fmul(v, b.const(F32, scale, lanes)) if scale != 1 else v


def quantised(b: Emit, task: EightMap, v: Value) -> Value:
    """round(v / scale) + zero, held within low and high; NaN becomes the least."""
    lanes = v.type.count
    if task.scale != 1:
        v = b.fdiv(v, b.const(F32, task.scale, lanes))
    v = b.maximum(v, b.const(F32, float(task.low - task.zero), lanes))
    v = b.minimum(v, b.const(F32, float(task.high - task.zero), lanes))
    return b.trunc(b.add(nearest(b, v), b.const(I32, task.zero, lanes)), U8.vector(lanes))
