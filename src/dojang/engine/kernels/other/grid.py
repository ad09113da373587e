"""Values of an image at places that another value says (GridSample): linear between four pixels, or the nearest one.

Lanes are channels; places are computed once for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.task import Code, Offer, Step
from dojang.native.costs import COSTS
from dojang.native.emit import F32, I64, Emit, Value
from dojang.native.machine import Machine

NAME = "grid"
UNIT = 2048  # elements: some 2 µs


@plain_repr
@dataclass(frozen=True, slots=True)
class GridTask:
    """`out` pixels of an image of `size`. `grid` are elements from place to place along (n, rows, columns, x and y).

    `nearest`: one pixel; `zeros`: 0 outside of the image, else its nearest pixel; `corners`: −1 and 1 are the centres
    of the outermost pixels, else the edges of the image.
    """

    channels: int
    size: tuple[int, int]
    out: tuple[int, int]
    x_ld: int
    y_ld: int
    grid: tuple[int, int, int, int]
    nearest: bool
    zeros: bool
    corners: bool


def offer(task: GridTask, machine: Machine) -> Offer:
    """Takes every task, of one image: the bytes of four pixels for each one, and some 40 operations for its place."""
    pixels = task.out[0] * task.out[1]
    p = machine.peaks
    return Offer(pixels * (20 * task.channels / (p.cache_gbs * 1e9) + 40 / (p.fma_gflops * 1e9)) + COSTS.start_s)


def pixels_of(task: GridTask) -> int:
    """Pixels of a unit."""
    return max(1, min(task.out[0] * task.out[1], UNIT // task.channels))


def emit(task: GridTask, machine: Machine) -> Code:
    """One step; a unit is some pixels of one image."""
    parts = t.ceil_div(task.out[0] * task.out[1], pixels_of(task))
    return Code((Step(f"{NAME} {task}", lambda name: write(name, task, machine), lambda n: n * parts),))


def write(symbol: str, task: GridTask, machine: Machine) -> str:
    """The kernel as IR text."""
    b = t.begin(symbol, machine)
    lanes, (height, width), total = machine.lanes(4), task.size, task.out[0] * task.out[1]
    some = pixels_of(task)
    parts = t.ceil_div(total, some)
    image, part = b.udiv(b.arg.unit, parts), b.urem(b.arg.unit, parts)
    first = b.mul(part, some)
    x = b.at(t.word(b, t.X), b.mul(image, 4 * height * width * task.x_ld))
    y = b.at(t.word(b, t.Y), b.mul(image, 4 * total * task.y_ld))
    grid = b.at(t.word(b, t.R), b.mul(image, 4 * task.grid[0]))
    _, down, right, apart = task.grid

    def pixel(p: Any, _: Any) -> None:
        row, column = b.udiv(p, task.out[1]), b.urem(p, task.out[1])
        here = b.at(grid, b.mul(b.add(b.mul(row, down), b.mul(column, right)), 4))
        across = taps(b, task, b.sload(here, F32), width)
        along = taps(b, task, b.sload(b.at(here, 4 * apart), F32), height)
        read = [
            (b.at(x, b.mul(b.add(b.mul(i, width), j), 4 * task.x_ld)), b.splat(b.fmul(u, v), lanes))
            for i, u in along for j, v in across
        ]  # fmt: skip
        to = b.at(y, b.mul(p, 4 * task.y_ld))

        def vector(o: Any, mask: Any) -> None:
            value = b.const(F32, 0.0)
            for base, weight in read:
                value = b.fma(b.vload(b.at(base, b.mul(o, 4)), F32, mask=mask), weight, value)
            b.vstore(value, b.at(to, b.mul(o, 4)), F32, mask=mask)

        whole = task.channels // lanes * lanes
        b.loop(0, whole, lanes, lambda o, _: vector(o, None))
        if task.channels > whole:
            vector(whole, b.mask(task.channels - whole, lanes))

    b.loop(first, b.imin(b.add(first, some), total), 1, pixel)
    return b.finish()


def taps(b: Emit, task: GridTask, place: Value, size: int) -> list[tuple[Value, Value]]:
    """(pixel, weight) along one axis of a place between −1 and 1; pixels lie within the image."""
    con = lambda v: b.const(F32, v, 0)  # noqa: E731
    moved = b.fadd(place, con(1))
    if task.corners:
        at = b.fmul(b.fdiv(moved, con(2)), con(size - 1))
    else:
        at = b.fdiv(b.fsub(b.fmul(moved, con(size)), con(1)), con(2))
    base = b.round(at) if task.nearest else b.floor(at)
    share = b.fsub(at, base)
    # Held near the image as a number, NaN too, so that it is a whole number of a pixel.
    near = b.minimum(b.maximum(base, con(-2)), con(size + 1))
    low = b.fptosi(near, I64.ir)
    weights = [con(1)] if task.nearest else [b.fsub(con(1), share), share]
    found: list[tuple[Value, Value]] = []
    for k, weight in enumerate(weights):
        pixel = b.add(low, k)
        inside = b.and_(b.less(-1, pixel), b.less(pixel, size))
        if task.zeros:
            weight = b.select(inside, weight, con(0))
        else:  # far outside, where the share says nothing, the two pixels are the same one
            weight = b.select(b.fcmp_ordered("==", near, base), weight, con(1 - k))
        found.append((b.imin(b.imax(pixel, 0), size - 1), weight))
    return found
