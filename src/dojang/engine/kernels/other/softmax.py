"""Softmax along the channels of each pixel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.activations import exp, log
from dojang.engine.kernels.task import Code, Offer, Step
from dojang.native.costs import COSTS
from dojang.native.emit import F32, Emit, SizeValue, Value
from dojang.native.machine import Machine

NAME = "softmax"


@plain_repr
@dataclass(frozen=True, slots=True)
class SoftmaxTask:
    """e^x over its sum along `channels`, for each of `pixels` pixels per image; with `log` the logarithm of that.

    Where `rows` is not 0, along `pixels` instead, for each channel of each of `rows` rows of pixels per image.
    """

    channels: Any  # whole numbers, or sizes that are known at run time
    pixels: Any
    x_ld: Any
    y_ld: Any
    log: bool = False
    rows: int = 0


def offer(task: SoftmaxTask, machine: Machine) -> Offer:
    """Takes every task: about 30 operations per element, and its bytes three times."""
    elements = task.channels * task.pixels * max(1, task.rows)
    p = machine.peaks
    return Offer(elements * (COSTS.softmax_flops / (p.fma_gflops * 1e9) + 24 / (p.cache_gbs * 1e9)) + COSTS.start_s)


def emit(task: SoftmaxTask, machine: Machine) -> Code:
    """One step; a unit is some pixels of one image."""
    parts = task.rows or t.ceil_div(task.pixels, chunk(task))

    def build(name: str) -> str:
        return write(t.begin(name, machine), task, chunk(task), machine)

    return Code((Step(f"{NAME} {task}", build, lambda n: n * parts),))


def emit_open(task: SoftmaxTask, like: SoftmaxTask, machine: Machine) -> Code:
    """Like `emit`, with code for any number of channels and pixels."""
    parts = task.rows or t.ceil_div(task.pixels, chunk(task))
    form = SoftmaxTask(0, 0, 0, 0, task.log, min(1, task.rows))

    def build(name: str) -> str:
        b = t.begin(name, machine)
        channels, pixels, x_ld, y_ld, per = t.sizes(b, 5)
        sized = replace(form, channels=channels, pixels=pixels, x_ld=x_ld, y_ld=y_ld)
        return write(b, sized, per, machine)

    sizes = (task.channels, task.pixels, task.x_ld, task.y_ld, chunk(task))
    return Code((Step(f"{NAME} open {form}", build, lambda n: n * parts, sizes),))


def chunk(task: SoftmaxTask) -> int:
    """Pixels of a unit: about 16 kB."""
    return max(1, min(task.pixels, (16 << 10) // (4 * task.channels)))


def vectors(b: Emit, count: Any, lanes: int, state: list[Value], vector: Any) -> list[Value]:
    """`vector(first, state, mask)` on `count` channels, `lanes` at a time; the last ones with a mask."""
    whole = count // lanes * lanes
    state = b.loop(0, whole, lanes, lambda o, s: vector(o, s, None), state)

    def last() -> list[Value]:
        return list(vector(whole, state, b.mask(count - whole, lanes)) or state)

    if isinstance(count, SizeValue):
        return b.choose(b.less(whole, count), last, lambda: state)
    return last() if count > whole else state


def write(b: Emit, task: SoftmaxTask, per: Any, machine: Machine) -> str:
    """The kernel as IR text; `per` pixels are a unit."""
    if task.rows:
        return down(b, task, machine)
    lanes, c = machine.lanes(4), task.channels
    parts = t.ceil_div(task.pixels, per)
    image, part = b.udiv(b.arg.unit, parts), b.urem(b.arg.unit, parts)
    first = b.mul(part, per)
    last = b.imin(b.add(first, per), task.pixels)
    x = b.at(t.word(b, t.X), b.mul(image, 4 * task.pixels * task.x_ld))
    y = b.at(t.word(b, t.Y), b.mul(image, 4 * task.pixels * task.y_ld))

    def across(state: list[Value], vector: Any) -> list[Value]:
        """`vector` on all channels of a pixel."""
        return vectors(b, c, lanes, state, vector)

    def pixel(p: Any, _: Any) -> None:
        px, py = b.at(x, b.mul(p, 4 * task.x_ld)), b.at(y, b.mul(p, 4 * task.y_ld))

        def largest(o: Any, s: list[Value], mask: Any) -> list[Value]:
            v = b.vload(b.at(px, b.mul(o, 4)), F32, lanes, mask=mask)
            if mask is not None:
                v = b.select(mask, v, b.const(F32, float("-inf"), lanes))
            return [b.maximum(s[0], v)]

        (most,) = across([b.const(F32, float("-inf"), lanes)], largest)
        most = b.splat(highest(b, most), lanes)

        def power(o: Any, s: list[Value], mask: Any) -> list[Value]:
            v = b.fsub(b.vload(b.at(px, b.mul(o, 4)), F32, lanes, mask=mask), most)
            if task.log:
                b.vstore(v, b.at(py, b.mul(o, 4)), F32, mask=mask)
            v = exp(b, v)
            if not task.log:
                b.vstore(v, b.at(py, b.mul(o, 4)), F32, mask=mask)
            if mask is not None:
                v = b.select(mask, v, b.const(F32, 0.0, lanes))
            return [b.fadd(s[0], v)]

        (total,) = across([b.const(F32, 0.0, lanes)], power)
        total = b.splat(b.sum(total, F32), lanes)
        if task.log:
            total = log(b, total)

        def share(o: Any, s: list[Value], mask: Any) -> None:
            at = b.at(py, b.mul(o, 4))
            v = b.vload(at, F32, lanes, mask=mask)
            b.vstore(b.fsub(v, total) if task.log else b.fdiv(v, total), at, F32, mask=mask)

        across([], share)

    b.loop(first, last, 1, pixel)
    return b.finish()


def down(b: Emit, task: SoftmaxTask, machine: Machine) -> str:
    """The kernel along pixels: a unit is one row of them, lanes are channels."""
    lanes, c = machine.lanes(4), task.channels
    x = b.at(t.word(b, t.X), b.mul(b.arg.unit, 4 * task.pixels * task.x_ld))
    y = b.at(t.word(b, t.Y), b.mul(b.arg.unit, 4 * task.pixels * task.y_ld))

    def vector(o: Any, mask: Any) -> None:
        px, py = (lambda p, base=base, ld=ld: b.at(base, b.mul(o, 4), b.mul(p, 4 * ld))
                  for base, ld in ((x, task.x_ld), (y, task.y_ld)))  # fmt: skip
        read = lambda at: b.vload(at, F32, mask=mask)  # noqa: E731
        (most,) = b.loop(0, task.pixels, 1, lambda p, s: [b.maximum(s[0], read(px(p)))], [b.const(F32, float("-inf"))])

        def power(p: Any, s: list[Value]) -> list[Value]:
            v = b.fsub(read(px(p)), most)
            e = exp(b, v)
            b.vstore(v if task.log else e, py(p), F32, mask=mask)
            return [b.fadd(s[0], e)]

        (total,) = b.loop(0, task.pixels, 1, power, [b.const(F32, 0.0)])
        total = log(b, total) if task.log else total

        def share(p: Any, _: Any) -> None:
            v = read(py(p))
            b.vstore(b.fsub(v, total) if task.log else b.fdiv(v, total), py(p), F32, mask=mask)

        b.loop(0, task.pixels, 1, share)

    vectors(b, c, lanes, [], lambda o, _, mask: vector(o, mask))
    return b.finish()


def highest(b: Emit, v: Value) -> Value:
    """The largest lane of a vector."""
    lanes = v.type.count
    while lanes > 1:
        lanes //= 2
        v = b.maximum(b.shuffle(v, None, range(lanes)), b.shuffle(v, None, range(lanes, 2 * lanes)))
    return b.extract(v, 0)
