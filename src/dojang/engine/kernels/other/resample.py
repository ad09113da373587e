"""Pixels mixed from others by tables: resizing (nearest, linear, cubic) and padding of the image. Channels last."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.task import Code, Offer, Step
from dojang.native.costs import COSTS
from dojang.native.emit import F32, I64, Value
from dojang.native.machine import Machine

NAME = "resample"

Mix = tuple[tuple[int, float], ...]
Axis = tuple[tuple[int, Mix], ...]
"""For each place that is written along an axis: where it goes, and the (pixel, share) pairs that it is the sum of."""


@plain_repr
@dataclass(frozen=True, slots=True)
class SampleTask:
    """y[row, column] = Σ share · x over the pairs of the row times those of the column.

    `rows` and `columns` count what is written, `taps` the pairs of each; with one pair each, pixels are copied.
    """

    channels: int
    size: tuple[int, int]
    out_size: tuple[int, int]
    rows: int
    columns: int
    taps: tuple[int, int]
    x_ld: int
    y_ld: int


def of_axes(channels: int, size: Any, out: Any, rows: Axis, columns: Axis, x_ld: int, y_ld: int) -> SampleTask:
    """The task for two axes; every place of an axis has as many pairs."""
    taps = (len(rows[0][1]), len(columns[0][1]))
    return SampleTask(channels, tuple(size), tuple(out), len(rows), len(columns), taps, x_ld, y_ld)


def pack(task: SampleTask, rows: Axis, columns: Axis) -> tuple[np.ndarray, np.ndarray]:
    """Shares (float32), and byte offsets (int64): per place its own in y, then those of its pairs in x."""
    shares = [share for axis in (rows, columns) for _, mix in axis for _, share in mix]
    offsets: list[int] = []
    for axis, wide in ((rows, (task.size[1], task.out_size[1])), (columns, (1, 1))):
        for place, mix in axis:
            offsets.append(4 * place * wide[1] * task.y_ld)
            offsets += [4 * pixel * wide[0] * task.x_ld for pixel, _ in mix]
    return np.array(shares, np.float32), np.array(offsets, np.int64)


def offer(task: SampleTask, machine: Machine) -> Offer:
    """Takes every task, by the bytes moved."""
    moved = 4 * task.channels * task.rows * task.columns * (prod(task.taps) + 1)
    return Offer(moved / (machine.peaks.cache_gbs * 1e9) + COSTS.start_s)


def emit(task: SampleTask, machine: Machine) -> Code:
    """One step; a unit is a row of an image."""
    any_size = replace(task, size=(0, 0), out_size=(0, 0), rows=0, columns=0)
    sizes = (prod(task.size), prod(task.out_size), task.rows, task.columns)
    build = lambda name: write(name, any_size, machine)  # noqa: E731
    return Code((Step(f"{NAME} {any_size}", build, lambda n: n * task.rows, sizes),))


def write(symbol: str, task: SampleTask, machine: Machine) -> str:
    """The kernel as IR text, for images of any size."""
    b = t.begin(symbol, machine)
    lanes, (high, wide) = machine.lanes(4), task.taps
    size, out_size, rows, columns = t.sizes(b, 4)
    image, row = b.udiv(b.arg.unit, rows), b.urem(b.arg.unit, rows)
    x = b.at(t.word(b, t.X), b.mul(image, size * (4 * task.x_ld)))
    y = b.at(t.word(b, t.Y), b.mul(image, out_size * (4 * task.y_ld)))
    shares, table = t.word(b, t.W), t.word(b, t.B)
    mixed = high > 1 or wide > 1

    def entry(base: Any, index: Any, count: int) -> tuple[Value, list[Value]]:
        """Offsets of one place: in y, and in x for each pair."""
        at = b.at(table, b.mul(b.add(base, b.mul(index, 1 + count)), 8))
        values = [b.sload(b.at(at, 8 * k), I64) for k in range(1 + count)]
        return values[0], values[1:]

    def parts(base: Any, index: Any, count: int) -> list[Value]:
        """Shares of one place."""
        at = b.at(shares, b.mul(b.add(base, b.mul(index, count)), 4))
        return [b.splat_load(b.at(at, 4 * k), F32, lanes) for k in range(count)]

    y_row, x_rows = entry(0, row, high)
    by_row = parts(0, row, high) if mixed else []
    y = b.at(y, y_row)
    sources = [b.at(x, offset) for offset in x_rows]

    def pixel(column: Any, _: Any) -> None:
        y_place, x_places = entry(rows * (1 + high), column, wide)
        by_column = parts(rows * high, column, wide) if mixed else []
        out = b.at(y, y_place)
        pixels = [[b.at(source, place) for place in x_places] for source in sources]

        def vector(o: Any, mask: Any) -> None:
            at = b.mul(o, 4)
            values = [[b.vload(b.at(p, at), F32, lanes, mask=mask) for p in line] for line in pixels]
            if not mixed:
                b.vstore(values[0][0], b.at(out, at), F32, mask=mask)
                return
            total = None
            for line, share in zip(values, by_row, strict=True):
                inner = b.fmul(line[0], by_column[0])
                for v, w in zip(line[1:], by_column[1:], strict=True):
                    inner = b.fma(v, w, inner)
                total = b.fmul(inner, share) if total is None else b.fma(inner, share, total)
            b.vstore(total, b.at(out, at), F32, mask=mask)

        whole = task.channels // lanes * lanes
        b.loop(0, whole, lanes, lambda o, _: vector(o, None))
        if task.channels > whole:
            vector(whole, b.mask(task.channels - whole, lanes))

    b.loop(0, columns, 1, pixel)
    return b.finish()
