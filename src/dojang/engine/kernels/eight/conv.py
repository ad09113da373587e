"""Convolution and dense layers of bytes: any kernel, stride, dilation, padding, groups, 1 to 3 dimensions.

A tile is `pixels` outputs, neighbours in the order of the image whatever row they are in, times `vectors` registers of
output channels. A step loads `vectors` registers of weights, brings the next four channels of each pixel to all lanes,
and multiplies: one instruction for 64 products (`dot.py`). Where an image is padded, or the instruction takes 16 bits,
a step before copies it with its border (the zero point) in the order that the tiles read. What the zero point of the
values adds to every sum is in the bias: a sum over x − zero is one over x less zero times the sum of the weights.
Weights are packed [group][block of output channels][kd][kh][kw][input channels / depth][vector][lane][depth].
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from math import prod
from typing import Any

import numpy as np

from dojang.arith.conv import Conv
from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.conv.direct import Nest, shared_out, three
from dojang.engine.kernels.eight import copy
from dojang.engine.kernels.eight.copy import Padded
from dojang.engine.kernels.eight.dot import Dot, dot_of
from dojang.engine.kernels.eight.store import Requantised, packed_order, packs, store
from dojang.engine.kernels.task import Code, Offer, Refusal, Step
from dojang.native.costs import COSTS
from dojang.native.emit import F32, I32, Emit, Value
from dojang.native.machine import Machine

NAME = "eight"
MOST_PIXELS = 24
LONGEST = 1 << 16
"""Products of a sum: more of them may go beyond int32 (255 · 128 · 2¹⁶ < 2³¹ holds for fewer)."""


@plain_repr
@dataclass(frozen=True, slots=True)
class EightTask:
    """y = finish(conv(x − zero) + bias) of bytes. `x_ld` and `y_ld` count bytes and results from pixel to pixel."""

    conv: Conv
    x_ld: int
    y_ld: int
    zero: int = 0
    finish: Requantised = field(default_factory=Requantised)

    @property
    def padded(self) -> Padded:
        """The input as a tile reads it, if it has to be copied."""
        return copy.padded_for(three(self.conv), self.x_ld, self.zero)


@plain_repr
@dataclass(frozen=True, slots=True)
class EightTile:
    """Pixels and vectors of a tile, and tiles of a unit."""

    pixels: int
    vectors: int
    tiles: int


def offer(task: EightTask, machine: Machine) -> Offer | Refusal:
    """For all but transposed convolutions, where the machine has an exact instruction."""
    c = task.conv
    if c.transposed:
        return Refusal("transposed")
    if c.rank > 3:
        return Refusal("more than 3 dimensions")
    if dot_of(machine) is None:
        return Refusal("the processor has no products of bytes")
    if c.ic // c.groups * prod(c.kernel) >= LONGEST:
        return Refusal("its sums may not fit 32 bits")
    return Offer(seconds(task, machine))


def dot(machine: Machine) -> Dot:
    """The machine's instruction."""
    found = dot_of(machine)
    assert found is not None
    return found


def steps_of(c: Nest, d: Dot) -> int:
    """Steps of one tap: so many lots of `depth` channels."""
    return t.ceil_div(c.ic // c.groups, d.depth)


@cache
def tile_of(task: EightTask, machine: Machine) -> EightTile:
    """The tile with the least estimated cycles for all pixels of an image."""
    c, d = three(task.conv), dot(machine)
    lanes, total = machine.lanes(4), prod(c.out_size)
    whole = t.ceil_div(c.oc // c.groups, lanes)
    steps = steps_of(c, d) * max(1, prod(c.kernel))
    best: tuple[float, int, int] | None = None
    for v in range(1, min(4, whole) + 1):
        # A value, and a constant that the compiler keeps; spilled sums made layers two to four times slower.
        spare = 3 if d.name == "pmaddwd" else 2 + (machine.registers >= 32)
        for p in range(1, min((machine.registers - spare - v) // v, MOST_PIXELS, total) + 1):
            full, rest = divmod(whole, v)
            cost = full * cycles(p, v, steps, d) + (cycles(p, rest, steps, d) if rest else 0)
            cost *= t.ceil_div(total, p)
            if best is None or cost < best[0] - 1e-9:
                best = (cost, p, v)
    assert best is not None
    _, pixels, vectors = best
    tiles, blocks = t.ceil_div(total, pixels), c.groups * t.ceil_div(whole, vectors)
    work = pixels * vectors * lanes * steps * d.depth * 2
    return EightTile(pixels, vectors, shared_out(tiles, blocks, max(1, work // 3), machine))


def cycles(pixels: int, vectors: int, steps: int, d: Dot) -> float:
    """Estimated cycles of a tile: one product a cycle (two instructions where it is not one), two loads; and its end.

    The product takes 4 to 5 cycles, so few sums wait for each other.
    """
    product = pixels * vectors * (2.0 if d.name == "pmaddwd" else 1.0)
    loads = (pixels + vectors) / 2 + (pixels / 2 if pixels > 8 else 0)  # many pixels: their addresses are loaded too
    return steps * (max(product, loads, 5.0) + 0.3) + 20 + pixels * vectors * 4


def seconds(task: EightTask, machine: Machine) -> float:
    """Predicted seconds on one core for one image."""
    c, d, tile, p = three(task.conv), dot(machine), tile_of(task, machine), machine.peaks
    whole, total = t.ceil_div(c.oc // c.groups, machine.lanes(4)), prod(c.out_size)
    steps = steps_of(c, d) * max(1, prod(c.kernel))
    full, rest = divmod(whole, tile.vectors)
    one = full * cycles(tile.pixels, tile.vectors, steps, d) + (cycles(tile.pixels, rest, steps, d) if rest else 0)
    work = c.groups * one * t.ceil_div(total, tile.pixels)
    rate = p.fma_gflops * 1e9 / 2 / machine.lanes(4)  # cycles a second, by units that take one vector a cycle
    weight_bytes = c.oc * steps * d.depth * d.bytes
    time = work / rate + COSTS.exposed * weight_bytes / (p.cache_gbs * 1e9) / max(1, task.conv.n)
    if copied(task, machine):
        time += 2 * task.padded.bytes_of(d) / (p.cache_gbs * 1e9) + COSTS.start_s
    return time + COSTS.start_s


def copied(task: EightTask, machine: Machine) -> bool:
    """Whether the input is copied first."""
    return task.padded.needed(dot(machine))


# -- weights -----------------------------------------------------------------------------------------------------------


def order_of(task: EightTask, machine: Machine) -> np.ndarray:
    """The channel of its group that each lane of each vector holds; whole vectors, also of channels that are none."""
    c, tile, lanes = three(task.conv), tile_of(task, machine), machine.lanes(4)
    whole = t.ceil_div(c.oc // c.groups, lanes)
    b = Emit.begin("order", {}, machine)
    order: list[int] = []
    for first in range(0, whole, tile.vectors):
        count = min(tile.vectors, whole - first)
        own = packed_order(lanes) if packs(b, task.finish, count) else range(count * lanes)
        order += [first * lanes + k for k in own]
    return np.array(order)


def pack(
    task: EightTask, machine: Machine, weight: np.ndarray, bias: np.ndarray | None, factor: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (oc, ic/groups, *kernel) of whole numbers from −128 to 127, in the order above; and for each output
    channel the bias in units of the sums (whole numbers), its factor behind: int32, then float32, in one array.
    """
    c, d, tile, lanes = three(task.conv), dot(machine), tile_of(task, machine), machine.lanes(4)
    g, taps, steps = c.groups, prod(c.kernel), steps_of(c, d)
    ocg, icg = c.oc // g, c.ic // g
    order = order_of(task, machine)
    w = np.zeros((g, len(order), taps, steps * d.depth), "i1" if d.bytes == 1 else "i2")
    w[:, :ocg, :, :icg] = np.asarray(weight).reshape(g, ocg, icg, taps).transpose(0, 1, 3, 2)
    w = w[:, order].reshape(g, -1, lanes, taps * steps, d.depth)  # [group][vector][lane][step][depth]
    whole = w.shape[1]
    out = t.lined((g, whole * lanes * taps * steps * d.depth), w.dtype.str)
    at = 0
    for first in range(0, whole, tile.vectors):
        part = w[:, first : first + tile.vectors].transpose(0, 3, 1, 2, 4)
        size = part[0].size
        out[:, at : at + size] = part.reshape(g, size)
        at += size
    sums = np.asarray(weight, np.int64).reshape(c.oc, -1).sum(1)
    shift = (np.asarray(bias, np.int64) if bias is not None else 0) - (task.zero - d.shift) * sums
    ends = t.lined((2, g, len(order)), "i4")
    ends[...] = 0
    one = np.zeros((2, g, len(order)), "i4")
    one[0, :, :ocg] = shift.astype(np.int32).reshape(g, ocg)
    one[1, :, :ocg] = np.broadcast_to(np.asarray(factor, "f4"), c.oc).reshape(g, ocg).view("i4")
    ends[...] = one[:, :, order]
    return out.reshape(-1), ends.reshape(-1)


# -- code --------------------------------------------------------------------------------------------------------------


def emit(task: EightTask, machine: Machine) -> Code:
    """One step, or one that copies the input and one that multiplies."""
    task = replace(task, conv=replace(task.conv, n=1))
    c, d, tile = three(task.conv), dot(machine), tile_of(task, machine)
    whole = t.ceil_div(c.oc // c.groups, machine.lanes(4))
    blocks = c.groups * t.ceil_div(whole, tile.vectors)
    chunks = t.ceil_div(t.ceil_div(prod(c.out_size), tile.pixels), tile.tiles)
    recipe = f"{NAME} {task} {tile} {d}"
    many = Step(recipe, lambda name: ByteProducts(name, task, machine).text(), lambda n: n * blocks * chunks)
    if not copied(task, machine):
        return Code((many,))
    padded = task.padded
    return Code((copy.step(padded, d, machine), many), 0, lambda n: (n * padded.bytes_of(d), 0))


class ByteProducts:
    """The products of one layer while they are written."""

    def __init__(self, symbol: str, task: EightTask, machine: Machine) -> None:
        """Sizes as Python ints."""
        self.b: Emit = t.begin(symbol, machine)
        self.task, self.machine, self.dot = task, machine, dot(machine)
        self.c, self.tile = three(task.conv), tile_of(task, machine)
        self.lanes = machine.lanes(4)
        self.copied = copied(task, machine)
        padded, d = task.padded, self.dot
        # The input that tiles read: places along each axis, bytes from place to place, and of a group.
        self.size = padded.size if self.copied else self.c.size
        self.pixel = padded.pixel(d) if self.copied else task.x_ld
        self.group = padded.group(d) if self.copied else self.c.ic // self.c.groups
        self.steps = steps_of(self.c, d)
        self.whole = t.ceil_div(self.c.oc // self.c.groups, self.lanes)

    def text(self) -> str:
        """Decodes the unit and writes the blocks. Blocks of weights are the slow index."""
        b, c, tile = self.b, self.c, self.tile
        total = prod(c.out_size)
        tiles = t.ceil_div(total, tile.pixels)
        chunks = t.ceil_div(tiles, tile.tiles)
        images = t.word(b, t.N, pointer=False)
        chunk, rest = b.urem(b.arg.unit, chunks), b.udiv(b.arg.unit, chunks)
        image, block = b.urem(rest, images), b.udiv(rest, images)
        per = t.ceil_div(self.whole, tile.vectors)
        group, inner = (0, block) if c.groups == 1 else (b.udiv(block, per), b.urem(block, per))
        x = t.word(b, t.S0 if self.copied else t.X)
        x = b.at(x, b.mul(image, prod(self.size) * self.pixel), b.mul(group, self.group))
        first = b.mul(chunk, tile.tiles)
        last = b.imin(b.add(first, tile.tiles), tiles)
        taps, d = prod(c.kernel), self.dot
        each = taps * self.steps * self.machine.vector_bytes  # bytes of one vector's weights
        w = b.at(t.word(b, t.W), b.mul(group, self.whole * each), b.mul(inner, tile.vectors * each))
        lane = b.add(b.mul(group, self.whole * self.lanes), b.mul(inner, tile.vectors * self.lanes))
        ends = b.at(t.word(b, t.B), b.mul(lane, 4))
        ocg, item = c.oc // c.groups, self.task.finish.item
        out = b.add(b.mul(group, ocg), b.mul(inner, tile.vectors * self.lanes))
        y = b.at(t.word(b, t.Y), b.mul(image, total * self.task.y_ld * item), b.mul(out, item))
        assert d.depth * d.bytes == 4

        def some(vectors: int, channels: int) -> None:
            b.loop(first, last, 1, lambda k, _: self.one(k, x, w, ends, y, vectors, channels))

        rest_of = self.whole % tile.vectors
        tail = ocg - (per - 1) * tile.vectors * self.lanes
        if per == 1:
            some(self.whole, ocg)
        elif tail == tile.vectors * self.lanes:
            some(tile.vectors, tail)
        else:
            b.choose(
                b.less(inner, per - 1),
                lambda: some(tile.vectors, tile.vectors * self.lanes),
                lambda: some(rest_of or tile.vectors, tail),
            )
        return b.finish()

    def offset(self, o: Any) -> Any:
        """The byte of the input at which the window of output `o` begins."""
        c, b = self.c, self.b
        oh, ow = c.out_size[1:]
        step = [s * self.pixel * prod(self.size[k + 1 :]) for k, s in enumerate(c.stride)]
        if all(c.out_size[k] == self.size[k] and c.stride[k] == 1 for k in (1, 2)) and c.stride[0] == 1:
            return b.mul(o, self.pixel)  # as many places in as out: windows follow each other
        row, column = (0, o) if oh == 1 and c.out_size[0] == 1 else (b.udiv(o, ow), b.urem(o, ow))
        plane, line = (0, row) if c.out_size[0] == 1 else (b.udiv(row, oh), b.urem(row, oh))
        return b.add(b.add(b.mul(plane, step[0]), b.mul(line, step[1])), b.mul(column, step[2]))

    def one(self, k: Any, x: Value, w: Value, ends: Value, y: Value, vectors: int, channels: int) -> None:
        """A tile; the last begins early enough to be whole."""
        b, c, d, tile, lanes = self.b, self.c, self.dot, self.tile, self.lanes
        total, block = prod(c.out_size), vectors * self.machine.vector_bytes
        start = b.index(b.imin(b.mul(k, tile.pixels), total - tile.pixels))
        xs = [b.at(x, self.offset(b.add(start, p))) for p in range(tile.pixels)]
        bias = [b.vload(b.at(ends, 4 * v * lanes), I32) for v in range(vectors)]
        acc = [bias[v] for _ in range(tile.pixels) for v in range(vectors)]

        def run(place: Any, at: Any, length: int, acc: list[Value]) -> list[Value]:
            """So many steps in a row, from a byte of each pixel's window and a step of the weights on."""
            wp = b.at(w, b.mul(at, block))

            def step(i: Any, acc: list[Value]) -> list[Value]:
                acc = list(acc)
                here = b.at(wp, b.mul(i, block))
                ws = [b.vload(b.at(here, 4 * v * lanes), I32, align=4) for v in range(vectors)]
                for p in range(tile.pixels):
                    value = d.value(b, b.at(xs[p], place, b.mul(i, 4)), lanes)
                    for v in range(vectors):
                        j = p * vectors + v
                        acc[j] = d.add(b, acc[j], value, ws[v])
                return acc

            few = length * tile.pixels * vectors <= (256 if vectors > 1 else 96)
            tight = tile.pixels * vectors + 2 * vectors + 2 >= b.machine.registers  # two turns' weights spill sums
            return b.loop(0, length, 1, step, acc, unroll=length if few and not tight else 1 if tight else 2)

        lines = [s * self.pixel * prod(self.size[i + 1 :]) for i, s in enumerate(c.dilation)]
        steps, (kd, kh, kw) = self.steps, c.kernel
        row = kw * steps if self.pixel == 4 * steps and c.dilation[2] == 1 else 0

        def plane(i: Any, acc: list[Value]) -> list[Value]:
            def line(j: Any, acc: list[Value]) -> list[Value]:
                tap = b.mul(b.add(b.mul(i, kh), j), kw * steps)
                place = b.add(b.mul(i, lines[0]), b.mul(j, lines[1]))
                if row:
                    return run(place, tap, row, acc)
                return b.loop(
                    0, kw, 1, lambda m, acc: run(
                        b.add(place, b.mul(m, lines[2])), b.add(tap, b.mul(m, steps)), steps, acc
                    ), acc,
                )  # fmt: skip

            return b.loop(0, kh, 1, line, acc)

        acc = b.loop(0, kd, 1, plane, acc)
        behind = 4 * c.groups * self.whole * lanes
        factors = [b.vload(b.at(ends, behind + 4 * v * lanes), F32) for v in range(vectors)]
        item = self.task.finish.item
        for p in range(tile.pixels):
            at = b.at(y, b.mul(b.add(start, p), self.task.y_ld * item))
            store(b, self.task.finish, acc[p * vectors : (p + 1) * vectors], factors, at, channels)
