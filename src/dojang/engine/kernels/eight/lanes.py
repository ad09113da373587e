"""Convolutions of bytes whose lanes are output channels, each of few input channels: depthwise, and narrow groups.

A tile is `pixels` outputs of a row times one register of channels. What a register needs of a place is made once for
all the outputs of the row that look at it, and multiplied with the weights of their taps. Padding is in a copy of the
image, as in `conv.py`, and so is what the zero point adds to the sums.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.conv.direct import Nest, three
from dojang.engine.kernels.eight import copy
from dojang.engine.kernels.eight.conv import EightTask
from dojang.engine.kernels.eight.copy import Padded
from dojang.engine.kernels.eight.dot import Dot
from dojang.engine.kernels.eight.store import store
from dojang.engine.kernels.task import Code, Step
from dojang.native.costs import COSTS
from dojang.native.emit import F32, I32, Emit, Value
from dojang.native.machine import Machine

AS_BYTES = Dot("bytes", 4, 1)
MOST_TAPS = 15  # of a row: they are unrolled


@plain_repr
@dataclass(frozen=True, slots=True)
class ChannelForm:
    """How one register of channels is computed: `steps` registers of weights for each tap, `reads` bytes of a place
    for a register; `values(b, address, mask)` gives a factor for each step, and `add` the sum with a product.
    """

    name: str
    steps: int
    reads: int
    values: Callable[[Emit, Value, Value], list[Value]]
    add: Callable[[Emit, Value, Value, Value], Value]


def pixels_of(c: Nest, machine: Machine, steps: int = 1) -> int:
    """Outputs of a row computed together; the sums, a row of weights and two inputs fill the registers."""
    return max(1, min(c.out_size[2], machine.registers - 3 - c.kernel[2] * steps, 14))


def padded_of(task: EightTask) -> Padded:
    """The copy: all channels as one group."""
    return replace(copy.padded_for(three(task.conv), task.x_ld, task.zero), groups=1)


def seconds(task: EightTask, machine: Machine, steps: int, makes: float) -> float:
    """Predicted seconds on one core for one image: products, a part of the `makes` cycles that a place takes for each
    tap, an end for each sum.
    """
    c, p = three(task.conv), machine.peaks
    vectors, taps = t.ceil_div(c.oc, machine.lanes(4)), prod(c.kernel)
    shared = min(c.kernel[2], max(1.0, c.kernel[2] / c.stride[2]))
    work = vectors * prod(c.out_size) * (taps * (steps + makes / shared) + 6)
    rate = p.fma_gflops * 1e9 / 2 / machine.lanes(4)
    time = work / rate
    if padded_of(task).needed(AS_BYTES):
        time += 2 * padded_of(task).bytes_of(AS_BYTES) / (p.cache_gbs * 1e9) + COSTS.start_s
    return time + COSTS.start_s


def ends_of(
    c: Nest, machine: Machine, zero: int, sums: np.ndarray, bias: np.ndarray | None, factor: np.ndarray
) -> np.ndarray:
    """Biases and factors as in `conv.pack`; `sums` are those of the weights of each output channel."""
    ends = t.lined((2, t.ceil_div(c.oc, machine.lanes(4)) * machine.lanes(4)), "i4")
    ends[...] = 0
    ends[0, : c.oc] = ((np.asarray(bias, np.int64) if bias is not None else 0) - zero * sums).astype("i4")
    ends[1, : c.oc] = np.broadcast_to(np.asarray(factor, "f4"), c.oc).copy().view("i4")
    return ends.reshape(-1)


def emit(task: EightTask, machine: Machine, form: ChannelForm) -> Code:
    """One step, or one that copies the input and one that multiplies; a unit is some rows of one image."""
    task = replace(task, conv=replace(task.conv, n=1))
    c, padded = three(task.conv), padded_of(task)
    rows = prod(c.out_size[:2])
    per = rows_per_unit(c)
    chunks = t.ceil_div(rows, per)
    many = Step(f"{form.name} {task} {per}", lambda name: write(name, task, per, machine, form), lambda n: n * chunks)
    if not padded.needed(AS_BYTES):
        return Code((many,))
    return Code((copy.step(padded, AS_BYTES, machine), many), 0, lambda n: (n * padded.bytes_of(AS_BYTES), 0))


def rows_per_unit(c: Nest) -> int:
    """Rows that come to about 20 µs."""
    row = c.out_size[2] * c.oc * (prod(c.kernel) + 4) / 16
    return max(1, min(prod(c.out_size[:2]), round(60_000 / row)))


def write(symbol: str, task: EightTask, per: int, machine: Machine, form: ChannelForm) -> str:
    """The kernel as IR text."""
    b = t.begin(symbol, machine)
    c, lanes, padded = three(task.conv), machine.lanes(4), padded_of(task)
    copied = padded.needed(AS_BYTES)
    size, pixel = (padded.size, padded.pixel(AS_BYTES)) if copied else (c.size, task.x_ld)
    rows, item, taps = prod(c.out_size[:2]), task.finish.item, prod(c.kernel)
    chunks = t.ceil_div(rows, per)
    image, chunk = b.udiv(b.arg.unit, chunks), b.urem(b.arg.unit, chunks)
    first = b.mul(chunk, per)
    last = b.imin(b.add(first, per), rows)
    x = b.at(t.word(b, t.S0 if copied else t.X), b.mul(image, prod(size) * pixel))
    y = b.at(t.word(b, t.Y), b.mul(image, prod(c.out_size) * task.y_ld * item))
    vectors, pixels, width = t.ceil_div(c.oc, lanes), pixels_of(c, machine, form.steps), c.out_size[2]
    kd, kh, kw = c.kernel
    each = 4 * lanes * form.steps  # bytes of a tap's weights

    def tile(xp: Value, yp: Value, wp: Value, ends: Value, start: Any, channels: int) -> None:
        """A tile from output `start` of a row on; `xp` is where the windows of its first output begin."""
        here = b.at(xp, b.mul(start, c.stride[2] * pixel))
        mask = b.mask(channels, lanes)
        bias = b.vload(ends, I32)

        def line(i: Any, j: Any, acc: list[Value]) -> list[Value]:
            acc = list(acc)
            at = b.at(here, b.mul(b.add(b.mul(i, c.dilation[0] * size[1]), b.mul(j, c.dilation[1])), size[2] * pixel))
            tap = b.at(wp, b.mul(b.add(b.mul(i, kh), j), kw * each))
            ws = [[b.vload(b.at(tap, k * each, 4 * s * lanes), I32, align=4) for s in range(form.steps)]
                  for k in range(kw)]  # fmt: skip
            users: dict[int, list[tuple[int, int]]] = {}
            for p in range(pixels):
                for k in range(kw):
                    users.setdefault(p * c.stride[2] + k * c.dilation[2], []).append((p, k))
            for place in sorted(users):
                for s, value in enumerate(form.values(b, b.at(at, place * pixel), mask)):
                    for p, k in users[place]:
                        acc[p] = form.add(b, acc[p], value, ws[k][s])
            return acc

        acc = b.loop(0, kd, 1, lambda i, acc: b.loop(0, kh, 1, lambda j, acc: line(i, j, acc), acc), [bias] * pixels)
        factor = b.vload(b.at(ends, 4 * vectors * lanes), F32)
        for p in range(pixels):
            at = b.at(yp, b.mul(b.add(start, p), task.y_ld * item))
            store(b, task.finish, [acc[p]], [factor], at, channels)

    def row(r: Any, _: Any) -> None:
        plane, line = b.udiv(r, c.out_size[1]), b.urem(r, c.out_size[1])
        from_line = b.add(b.mul(plane, c.stride[0] * size[1]), b.mul(line, c.stride[1]))
        xr, yr = b.at(x, b.mul(from_line, size[2] * pixel)), b.at(y, b.mul(r, width * task.y_ld * item))

        def vector(v: Any, channels: int) -> None:
            xv, yv = b.at(xr, b.mul(v, form.reads)), b.at(yr, b.mul(v, lanes * item))
            wv, ends = (b.at(t.word(b, t.W), b.mul(v, taps * each)), b.at(t.word(b, t.B), b.mul(v, 4 * lanes)))
            b.loop(0, t.ceil_div(width, pixels), 1, lambda k, _: tile(
                xv, yv, wv, ends, b.imin(b.mul(k, pixels), width - pixels), channels
            ))  # fmt: skip

        whole = c.oc // lanes
        b.loop(0, whole, 1, lambda v, _: vector(v, lanes))
        if c.oc % lanes:
            vector(whole, c.oc % lanes)

    b.loop(first, last, 1, row)
    return b.finish()
