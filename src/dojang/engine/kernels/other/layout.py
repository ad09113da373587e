"""Between channels first (what people pass in) and channels last (how kernels work), by blocks in registers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.task import Code, Offer, Step
from dojang.native.costs import COSTS
from dojang.native.emit import F32, F64, SizeValue
from dojang.native.machine import Machine

NAME = "layout"


@plain_repr
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
    per = chunk(task, machine.lanes(8 if task.kind == "f64" else 4))
    parts, any_size = t.ceil_div(task.pixels, per), replace(task, pixels=0)
    build = lambda name: write(name, any_size, machine)  # noqa: E731
    return Code((Step(f"{NAME} {any_size}", build, lambda n: n * parts, (task.pixels, per, parts)),))


def write(symbol: str, task: LayoutTask, machine: Machine) -> str:
    """The kernel as IR text, for any number of pixels."""
    b = t.begin(symbol, machine)
    kind = F64 if task.kind == "f64" else F32
    size, lanes = kind.bytes, machine.lanes(kind.bytes)
    count, per, parts = t.sizes(b, 3)
    image, part = b.udiv(b.arg.unit, parts), b.urem(b.arg.unit, parts)
    first = b.mul(part, per)
    last = b.imin(b.add(first, per), count)
    x, y = t.word(b, t.X), t.word(b, t.Y)
    planes, rows = (x, y) if task.last else (y, x)  # channels first, channels last
    planes = b.at(planes, b.mul(image, count * (size * task.channels)))
    rows = b.at(rows, b.mul(image, count * (size * task.ld)))

    def block(p: Any, c: Any, pixels: Any, channels: int) -> None:
        """`pixels` × `channels`, each at most a vector."""
        some = isinstance(pixels, SizeValue)  # the last ones
        pm, cm = b.mask(pixels, lanes), b.mask(channels, lanes)
        plane = lambda k: b.at(planes, b.mul(b.add(b.mul(b.add(c, k), count), p), size))  # noqa: E731
        row = lambda k: b.at(rows, b.mul(b.add(b.mul(b.add(p, k), task.ld), c), size))  # noqa: E731
        nothing = b.const(kind, 0.0)
        if task.last:
            vs = [b.vload(plane(k), kind, mask=pm) if k < channels else nothing for k in range(lanes)]
            for k, v in enumerate(b.transpose(vs)):
                if some:
                    b.choose(b.less(k, pixels), lambda v=v, k=k: b.vstore(v, row(k), kind, mask=cm))
                else:
                    b.vstore(v, row(k), kind, mask=cm)
        else:
            within = lambda k: b.mask(b.imin(b.imax(b.mul(b.sub(pixels, k), lanes), 0), channels), lanes)  # noqa: E731
            vs = [b.vload(row(k), kind, mask=within(k) if some else cm) for k in range(lanes)]
            for k, v in enumerate(b.transpose(vs)[:channels]):
                b.vstore(v, plane(k), kind, mask=pm)

    def pixels(p: Any, some: Any) -> None:
        whole = task.channels // lanes * lanes
        b.loop(0, whole, lanes, lambda c, _: block(p, c, some, lanes))
        if task.channels > whole:
            block(p, whole, some, task.channels - whole)

    whole = count // lanes * lanes
    b.loop(first, b.imin(last, whole), lanes, lambda p, _: pixels(p, lanes))
    b.choose(b.less(whole, last), lambda: pixels(whole, count - whole))
    return b.finish()
