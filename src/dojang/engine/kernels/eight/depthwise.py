"""Depthwise convolution of bytes: every channel on its own, lanes are channels.

A tile is `pixels` outputs of a row times one register of channels. Each input is widened to 32 bits once for all the
outputs of the row that look at it, and multiplied with the tap's weight. Padding is in a copy of the image, as in
`conv.py`, and so is what the zero point adds to the sums. Weights are packed [vector of channels][kd][kh][kw][lane] as
int32, whose upper halves the multiplication takes with the zeros above the values.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from dojang.engine.kernels import task as t
from dojang.engine.kernels.conv.direct import Nest, three
from dojang.engine.kernels.eight import copy
from dojang.engine.kernels.eight.conv import EightTask
from dojang.engine.kernels.eight.copy import Padded
from dojang.engine.kernels.eight.dot import Dot, spread_bytes, wide_product
from dojang.engine.kernels.eight.store import store
from dojang.engine.kernels.task import Code, Offer, Refusal, Step
from dojang.native.costs import COSTS
from dojang.native.emit import F32, I32, Value
from dojang.native.machine import Machine

NAME = "eight-depthwise"
AS_BYTES = Dot("bytes", 4, 1)
MOST_TAPS = 15  # of a row: they are unrolled


def offer(task: EightTask, machine: Machine) -> Offer | Refusal:
    """For one input and one output channel per group."""
    c = task.conv
    if not (c.ic == c.oc == c.groups and c.groups > 1) or c.transposed:
        return Refusal("not depthwise")
    if c.rank > 3:
        return Refusal("more than 3 dimensions")
    if c.kernel[-1] > MOST_TAPS:
        return Refusal(f"a row of {c.kernel[-1]} taps is too long to unroll")
    return Offer(seconds(task, machine))


def pixels_of(c: Nest, machine: Machine) -> int:
    """Outputs of a row computed together; the sums, a row of weights and two inputs fill the registers."""
    return max(1, min(c.out_size[2], machine.registers - 3 - c.kernel[2], 14))


def seconds(task: EightTask, machine: Machine) -> float:
    """Predicted seconds on one core for one image: a product and a part of a load for each tap, an end for each sum."""
    c, p = three(task.conv), machine.peaks
    vectors, taps = t.ceil_div(c.oc, machine.lanes(4)), prod(c.kernel)
    loads = 1 / min(c.kernel[2], max(1.0, c.kernel[2] / c.stride[2]))
    work = vectors * prod(c.out_size) * (taps * (1 + loads) + 6)
    rate = p.fma_gflops * 1e9 / 2 / machine.lanes(4)
    time = work / rate
    if padded_of(task).needed(AS_BYTES):
        time += 2 * padded_of(task).bytes_of(AS_BYTES) / (p.cache_gbs * 1e9) + COSTS.start_s
    return time + COSTS.start_s


def padded_of(task: EightTask) -> Padded:
    """The copy: all channels as one group."""
    return replace(copy.padded_for(three(task.conv), task.x_ld, task.zero), groups=1)


def pack(
    task: EightTask, machine: Machine, weight: np.ndarray, bias: np.ndarray | None, factor: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (c, 1, *kernel) in the order above; biases and factors as in `conv.pack`."""
    c, lanes = three(task.conv), machine.lanes(4)
    vectors, taps = t.ceil_div(c.oc, lanes), prod(c.kernel)
    w = np.zeros((vectors * lanes, taps), "i4")
    w[: c.oc] = np.asarray(weight).reshape(c.oc, taps)
    out = t.lined((vectors, taps, lanes), "i4")
    out[...] = w.reshape(vectors, lanes, taps).transpose(0, 2, 1)
    ends = t.lined((2, vectors * lanes), "i4")
    ends[...] = 0
    shift = (np.asarray(bias, np.int64) if bias is not None else 0) - task.zero * w[: c.oc].astype("i8").sum(1)
    ends[0, : c.oc] = shift.astype("i4")
    ends[1, : c.oc] = np.broadcast_to(np.asarray(factor, "f4"), c.oc).copy().view("i4")
    return out.reshape(-1), ends.reshape(-1)


def emit(task: EightTask, machine: Machine) -> Code:
    """One step, or one that copies the input and one that multiplies; a unit is some rows of one image."""
    task = replace(task, conv=replace(task.conv, n=1))
    c, padded = three(task.conv), padded_of(task)
    rows = prod(c.out_size[:2])
    per = rows_per_unit(c)
    chunks = t.ceil_div(rows, per)
    many = Step(f"{NAME} {task} {per}", lambda name: write(name, task, per, machine), lambda n: n * chunks)
    if not padded.needed(AS_BYTES):
        return Code((many,))
    return Code((copy.step(padded, AS_BYTES, machine), many), 0, lambda n: (n * padded.bytes_of(AS_BYTES), 0))


def rows_per_unit(c: Nest) -> int:
    """Rows that come to about 20 µs."""
    row = c.out_size[2] * c.oc * (prod(c.kernel) + 4) / 16
    return max(1, min(prod(c.out_size[:2]), round(60_000 / row)))


def write(symbol: str, task: EightTask, per: int, machine: Machine) -> str:
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
    vectors, pixels, width = t.ceil_div(c.oc, lanes), pixels_of(c, machine), c.out_size[2]
    kd, kh, kw = c.kernel

    def tile(xp: Value, yp: Value, wp: Value, ends: Value, start: Any, channels: int) -> None:
        """A tile from output `start` of a row on; `xp` is where the windows of its first output begin."""
        here = b.at(xp, b.mul(start, c.stride[2] * pixel))
        mask = b.mask(channels, lanes)
        bias = b.vload(ends, I32)

        def line(i: Any, j: Any, acc: list[Value]) -> list[Value]:
            acc = list(acc)
            at = b.at(here, b.mul(b.add(b.mul(i, c.dilation[0] * size[1]), b.mul(j, c.dilation[1])), size[2] * pixel))
            tap = b.at(wp, b.mul(b.add(b.mul(i, kh), j), kw * 4 * lanes))
            ws = [b.vload(b.at(tap, 4 * k * lanes), I32, align=4) for k in range(kw)]
            users: dict[int, list[tuple[int, int]]] = {}
            for p in range(pixels):
                for k in range(kw):
                    users.setdefault(p * c.stride[2] + k * c.dilation[2], []).append((p, k))
            for place in sorted(users):
                value = spread_bytes(b, b.at(at, place * pixel), lanes, mask)
                for p, k in users[place]:
                    acc[p] = wide_product(b, acc[p], value, ws[k])
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
            xv, yv = b.at(xr, b.mul(v, lanes)), b.at(yr, b.mul(v, lanes * item))
            wv, ends = (b.at(t.word(b, t.W), b.mul(v, taps * 4 * lanes)), b.at(t.word(b, t.B), b.mul(v, 4 * lanes)))
            b.loop(0, t.ceil_div(width, pixels), 1, lambda k, _: tile(
                xv, yv, wv, ends, b.imin(b.mul(k, pixels), width - pixels), channels
            ))  # fmt: skip

        whole = c.oc // lanes
        b.loop(0, whole, 1, lambda v, _: vector(v, lanes))
        if c.oc % lanes:
            vector(whole, c.oc % lanes)

    b.loop(first, last, 1, row)
    return b.finish()
