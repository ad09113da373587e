"""Between channels first (what people pass in) and channels last (how kernels work), by blocks in registers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dojang.engine.kernels import task as t
from dojang.engine.kernels.task import Code, Offer, Step
from dojang.native.costs import COSTS
from dojang.native.emit import F32, F64
from dojang.native.machine import Machine

NAME = "layout"


@dataclass(frozen=True, slots=True)
class LayoutTask:
    """(n, channels, pixels) to (n, pixels, ld) when `last`, else back; `ld` is that of the channels-last side."""

    channels: int
    pixels: int
    ld: int
    last: bool
    kind: str = "f32"


def offer(task: LayoutTask, machine: Machine) -> Offer:
    """Takes every task, by the bytes moved."""
    return Offer(4 * task.channels * task.pixels * 4 / (machine.peaks.cache_gbs * 1e9) + COSTS.start_s)


def chunk(task: LayoutTask, lanes: int) -> int:
    """Pixels of a unit, whole blocks."""
    total = 4 * task.pixels * task.channels
    goal = min(64 << 10, max(8 << 10, total // 8))
    return t.ceil_div(max(1, goal // (4 * task.channels)), lanes) * lanes


def emit(task: LayoutTask, machine: Machine) -> Code:
    """One step; a unit is some pixels of one image."""
    parts = t.ceil_div(task.pixels, chunk(task, machine.lanes(8 if task.kind == "f64" else 4)))
    return Code((Step(f"{NAME} {task}", lambda name: write(name, task, machine), lambda n: n * parts),))


def write(symbol: str, task: LayoutTask, machine: Machine) -> str:
    """The kernel as IR text."""
    b = t.begin(symbol, machine)
    kind = F64 if task.kind == "f64" else F32
    size, lanes = kind.bytes, machine.lanes(kind.bytes)
    per = chunk(task, lanes)
    parts = t.ceil_div(task.pixels, per)
    image, part = b.udiv(b.arg.unit, parts), b.urem(b.arg.unit, parts)
    first = b.mul(part, per)
    last = b.imin(b.add(first, per), task.pixels)
    x, y = t.word(b, t.X), t.word(b, t.Y)
    planes, rows = (x, y) if task.last else (y, x)  # channels first, channels last
    planes = b.at(planes, b.mul(image, size * task.channels * task.pixels))
    rows = b.at(rows, b.mul(image, size * task.pixels * task.ld))

    def block(p: Any, c: Any, pixels: int, channels: int) -> None:
        """`pixels` × `channels`, each at most a vector."""
        pm, cm = b.mask(pixels, lanes), b.mask(channels, lanes)
        plane = lambda k: b.at(planes, b.mul(b.add(b.mul(b.add(c, k), task.pixels), p), size))  # noqa: E731
        row = lambda k: b.at(rows, b.mul(b.add(b.mul(b.add(p, k), task.ld), c), size))  # noqa: E731
        nothing = b.const(kind, 0.0)
        if task.last:
            vs = [b.vload(plane(k), kind, mask=pm) if k < channels else nothing for k in range(lanes)]
            for k, v in enumerate(b.transpose(vs)[:pixels]):
                b.vstore(v, row(k), kind, mask=cm)
        else:
            vs = [b.vload(row(k), kind, mask=cm) if k < pixels else nothing for k in range(lanes)]
            for k, v in enumerate(b.transpose(vs)[:channels]):
                b.vstore(v, plane(k), kind, mask=pm)

    def pixels(p: Any, count: int) -> None:
        whole = task.channels // lanes * lanes
        b.loop(0, whole, lanes, lambda c, _: block(p, c, count, lanes))
        if task.channels > whole:
            block(p, whole, count, task.channels - whole)

    whole = task.pixels // lanes * lanes
    b.loop(first, b.imin(last, whole), lanes, lambda p, _: pixels(p, lanes))
    if task.pixels > whole:
        b.choose(b.less(whole, last), lambda: pixels(whole, task.pixels - whole))
    return b.finish()
