"""Where the largest value under each window of a maximum pooling lies (the second output of MaxPool), as float32.

Lanes are channels. A place is that within the whole tensor, channels first, as ONNX counts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.task import Code, Offer, Refusal, Step
from dojang.native.costs import COSTS
from dojang.native.emit import F32, Value
from dojang.native.machine import Machine

NAME = "pool_places"
MOST_TAPS = 49


@plain_repr
@dataclass(frozen=True, slots=True)
class PoolPlacesTask:
    """Windows of `kernel` taps, `dilation` apart, over an image of `size` whose first pixel has `padding` before it;
    `out` windows, `stride` apart. The first of equal values counts; NaN counts as the largest.
    """

    channels: int
    size: tuple[int, int]
    out: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    x_ld: int
    y_ld: int


def offer(task: PoolPlacesTask, machine: Machine) -> Offer | Refusal:
    """Takes windows of up to 49 taps, which are written out; of one image."""
    taps = task.kernel[0] * task.kernel[1]
    if taps > MOST_TAPS:
        return Refusal("windows of more than 49 taps")
    total = task.out[0] * task.out[1] * task.channels * taps
    return Offer(total * 4 / (machine.peaks.cache_gbs * 1e9) + COSTS.start_s)


def emit(task: PoolPlacesTask, machine: Machine) -> Code:
    """One step; a unit is a row of windows of one image."""
    rows = task.out[0]
    return Code((Step(f"{NAME} {task}", lambda name: write(name, task, machine), lambda n: n * rows),))


def write(symbol: str, task: PoolPlacesTask, machine: Machine) -> str:
    """The kernel as IR text."""
    b = t.begin(symbol, machine)
    lanes, (height, width), channels = machine.lanes(4), task.size, task.channels
    image, row = b.udiv(b.arg.unit, task.out[0]), b.urem(b.arg.unit, task.out[0])
    x = b.at(t.word(b, t.X), b.mul(image, 4 * height * width * task.x_ld))
    y = b.at(t.word(b, t.Y), b.mul(b.arg.unit, 4 * task.out[1] * task.y_ld))
    ramp = b.constants(F32, [k * height * width for k in range(lanes)])

    def window(column: Any, _: Any) -> None:
        def vector(o: Any, mask: Any) -> None:
            best, place = b.const(F32, -inf), b.const(F32, -1.0)
            for i in range(task.kernel[0]):
                for j in range(task.kernel[1]):
                    at = b.add(b.mul(row, task.stride[0]), i * task.dilation[0] - task.padding[0])
                    to = b.add(b.mul(column, task.stride[1]), j * task.dilation[1] - task.padding[1])
                    inside = b.and_(
                        b.and_(b.less(-1, at), b.less(at, height)), b.and_(b.less(-1, to), b.less(to, width))
                    )
                    pixel = b.add(b.mul(at, width), to)

                    def tap(pixel: Any = pixel, best: Value = best, place: Value = place) -> list[Value]:
                        v = b.vload(b.at(x, b.mul(pixel, 4 * task.x_ld), b.mul(o, 4)), F32, mask=mask)
                        lost, known = b.fcmp_unordered("uno", v, v), b.fcmp_ordered("ord", best, best)
                        take = b.or_(b.fcmp_ordered(">", v, best), b.and_(lost, known))
                        take = b.or_(take, b.fcmp_ordered("<", place, b.const(F32, 0.0)))
                        here = b.splat(b.sitofp(b.index(pixel), F32.ir), lanes)
                        return [b.select(take, v, best), b.select(take, here, place)]

                    best, place = b.choose(inside, tap, lambda best=best, place=place: [best, place])
            first = b.mul(b.add(b.mul(image, channels), o), height * width)
            place = b.fadd(b.fadd(place, ramp), b.splat(b.sitofp(b.index(first), F32.ir), lanes))
            b.vstore(place, b.at(y, b.mul(column, 4 * task.y_ld), b.mul(o, 4)), F32, mask=mask)

        whole = channels // lanes * lanes
        b.loop(0, whole, lanes, lambda o, _: vector(o, None))
        if channels > whole:
            vector(whole, b.mask(channels - whole, lanes))

    b.loop(0, task.out[1], 1, window)
    return b.finish()
