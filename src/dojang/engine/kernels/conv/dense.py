"""Dense layers, bound by memory: the weights are read once, as they lie, (out, in) row by row.

Few inputs meet one row of weights after the other, so that memory is one stream; four where rows are long, or stay in
the second cache. Of more inputs some rows are multiplied with some rows of weights at a time: each weight vector read
serves all of these inputs. No packing, so no second copy of the weights. Also 1×1 convolutions of 1×1 images.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from dojang.engine.kernels import task as t
from dojang.engine.kernels.activations import activate
from dojang.engine.kernels.task import Code, Offer, Refusal, Step, Task
from dojang.native.costs import COSTS
from dojang.native.emit import Emit, Value
from dojang.native.machine import Machine

NAME = "dense"
ROWS = 4  # rows of weights at a time, where they are not one
UNIT_BYTES = COSTS.unit_dense_bytes
AHEAD = 256
"""Bytes of a row that are fetched ahead, beyond its end those of the row that comes next. Of 128 to 4096 bytes this was
the fastest: 1280 to 1000 numbers came from memory at 28 GB/s a row at a time, at 15 four rows at a time, fetched 1024
bytes ahead within each row (one thread of a busy Zen 4, 2026)."""

SHORT_ROW = 8 << 10
"""Bytes of a row up to which few inputs meet one row after the other: with rows of 4096 numbers or more AlexNet took
1.1 times as long so (the same machine)."""


def offer(task: Task, machine: Machine) -> Offer | Refusal:
    """For one pixel and one group: the weights through memory, or the multiply-adds."""
    c = task.conv
    if prod(c.size) != 1 or prod(c.out_size) != 1 or not c.pointwise:
        return Refusal("more than one pixel")
    if any(before for before, _ in c.padding):
        return Refusal("the stride leaves padding as the only place")
    if c.groups != 1 or c.transposed:
        return Refusal("grouped or transposed")
    if task.residual_ld:
        return Refusal("adds a residual")
    p = machine.peaks
    return Offer(
        max(
            c.weight_bytes / (p.read_gbs * 1e9) / max(1, c.n), 2 * c.weights / (p.fma_gflops * (COSTS.rate_dense * 1e9))
        )
        + COSTS.start_s
    )


def pack(task: Task, machine: Machine, weight: np.ndarray, bias: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The weights themselves, and a bias for whole groups of rows."""
    dtype = task.element.dtype
    return np.ascontiguousarray(weight, dtype).reshape(-1), t.pack_vector(bias, 1, ROWS, task.conv.oc, dtype)


def rows_per_unit(task: Task) -> int:
    """Rows of weights in a unit, a multiple of `ROWS`."""
    c = task.conv
    rows = max(1, UNIT_BYTES // (task.element.bytes * c.ic))
    if c.weight_bytes < 8 * UNIT_BYTES:
        rows = min(rows, t.ceil_div(c.oc, 8 if c.weight_bytes > 64 << 10 else 1))
    return t.ceil_div(rows, ROWS) * ROWS


def emit(task: Task, machine: Machine) -> Code:
    """One step; a unit is some rows of weights, for all images."""
    task = replace(task, conv=replace(task.conv, n=1))
    parts = t.ceil_div(task.conv.oc, rows_per_unit(task))
    return Code((Step(f"{NAME} {task}", lambda name: Dense(name, task, machine).text(), lambda n: parts if n else 0),))


class Dense:
    """The kernel of one dense layer while it is written."""

    def __init__(self, symbol: str, task: Task, machine: Machine) -> None:
        """Sizes in elements, as Python ints."""
        self.task, self.c = task, task.conv
        self.b: Emit = t.begin(symbol, machine)
        self.kind, self.size = task.element, task.element.bytes
        self.lanes = machine.lanes(self.size)
        self.most = 4 if machine.registers >= 32 else 2  # images at a time

    def text(self) -> str:
        """Loops over groups of rows and groups of images."""
        b, c = self.b, self.c
        per = rows_per_unit(self.task)
        first = b.mul(b.arg.unit, per)
        last = b.imin(b.add(first, per), c.oc)
        images = t.word(b, t.N, pointer=False)
        whole = c.oc // ROWS * ROWS

        def rows(o, count: int) -> None:
            many = b.mul(b.udiv(images, self.most), self.most)
            b.loop(0, many, self.most, lambda i, _: self.block(o, count, i, self.most))
            b.loop(many, images, 1, lambda i, _: self.block(o, count, i, 1))

        def several() -> None:
            b.loop(first, b.imin(last, whole), ROWS, lambda o, _: rows(o, ROWS))
            if c.oc % ROWS:
                b.choose(b.less(whole, last), lambda: rows(whole, c.oc % ROWS))

        def one() -> None:
            b.loop(first, last, 1, lambda o, _: every_image(o))

        def every_image(o: Value) -> None:
            b.loop(0, images, 1, lambda i, _: self.block(o, 1, i, 1))

        if self.task.resident_ratio or c.ic * self.size > SHORT_ROW:
            several()
        else:
            b.choose(b.less(images, self.most), one, several)
        return b.finish()

    def block(self, o: Value, rows: int, image: Value, images: int) -> None:
        """`rows` outputs of `images` images."""
        b, c, task, lanes = self.b, self.c, self.task, self.lanes
        w = b.at(t.word(b, t.W), b.mul(o, c.ic * self.size))
        x = b.at(t.word(b, t.X), b.mul(image, task.x_ld * self.size))
        chains = 4 if images == 1 else 1  # one image alone: more sums, to cover the latency of additions

        def k_step(k, acc, ahead, mask=None, part=0):
            acc = list(acc)
            at = b.mul(k, self.size)
            xs = [b.vload(b.at(x, at, i * task.x_ld * self.size), self.kind, mask=mask) for i in range(images)]
            for r in range(rows):
                wr = b.at(w, at, r * c.ic * self.size)
                b.prefetch(b.at(wr, ahead))
                wv = b.vload(wr, self.kind, mask=mask)
                for i in range(images):
                    j = (r * images + i) * chains + part
                    acc[j] = b.fma(wv, xs[i], acc[j])
            return acc

        def several(k, acc, ahead):
            for part in range(chains):
                acc = k_step(b.add(k, part * lanes), acc, ahead, part=part)
            return acc

        acc = [b.const(self.kind, 0.0)] * (rows * images * chains)
        wide, row = lanes * chains, c.ic * self.size
        near = min(AHEAD, row)
        turn, end = (row - near) // self.size // wide * wide, c.ic // wide * wide
        far = near + (rows - 1) * row
        acc = b.loop(0, turn, wide, lambda k, acc: several(k, acc, near), acc)
        acc = b.loop(turn, end, wide, lambda k, acc: several(k, acc, far), acc)
        for part, k in enumerate(range(end, c.ic, lanes)):
            acc = k_step(k, acc, far, b.mask(c.ic - k, lanes), part=part)
        count = ROWS if rows > 1 else 1
        for i in range(images):
            total = b.vload(b.at(t.word(b, t.B), b.mul(o, self.size)), self.kind, count)
            sums = []
            for r in range(rows):
                mine = acc[(r * images + i) * chains : (r * images + i + 1) * chains]
                while len(mine) > 1:
                    mine = [b.fadd(mine[j], mine[j + 1]) for j in range(0, len(mine), 2)]
                sums.append(b.sum(mine[0], self.kind))
            vector = b.const(self.kind, 0.0, count)
            for r, s in enumerate(sums):
                vector = b.insert(vector, s, r)
            value = activate(b, b.fadd(total, vector), task.activation, self.kind)
            y = b.at(t.word(b, t.Y), b.mul(b.add(image, i), task.y_ld * self.size), b.mul(o, self.size))
            b.vstore(value, y, self.kind, mask=b.mask(rows, count))
