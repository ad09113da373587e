"""Group, instance and layer norm on values that lie channels last: mean and variance, each in a pass of its own.

The second pass also takes the mean of x − mean, which is what rounding left of the mean, and corrects both by it: a
channel that hardly moves stays near zero, where 1 / sqrt(eps) would magnify the last digit of its mean.

*lanes*: every lane of a vector is a channel with a mean of its own, over the pixels of a row (instance norm; layer norm
over the last axis, where the pixels are what is normalised), or with one shared by some neighbours (narrow groups).
*groups*: the mean is that of all pixels and of a run of channels (group norm; layer norm of vectors).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.activations import Activation, activate
from dojang.engine.kernels.task import Code, Offer, Step
from dojang.native.costs import COSTS
from dojang.native.emit import F32, Emit, SizeValue, Value
from dojang.native.machine import Machine

NAME = "norm"
VECTORS = 4  # of channels in a unit of *lanes*, with four sums each in registers


@plain_repr
@dataclass(frozen=True, slots=True)
class NormTask:
    """(x − mean) / sqrt(variance + eps), times weight plus bias. An image is `rows` rows of `pixels` pixels.

    `groups` 0: *lanes*, one mean per row and `share` channels, a power of 2. Else one mean per group of channels, over
    the one row. `affine` says what weight and bias go by: "channel", "pixel", or "" where there are none.
    """

    channels: int
    rows: int
    pixels: Any  # a whole number, or a size that is known at run time
    groups: int
    x_ld: int
    y_ld: int
    eps: float
    affine: str
    share: int = 1
    activation: Activation | None = None


def offer(task: NormTask, machine: Machine) -> Offer:
    """Takes every task, by the bytes of three passes."""
    return Offer(4 * task.channels * task.rows * task.pixels * 4 / (machine.peaks.cache_gbs * 1e9) + COSTS.start_s)


def emit(task: NormTask, machine: Machine) -> Code:
    """One step; a unit is what has means of its own: a group, or some vectors of channels of a row."""
    parts = task.groups or t.ceil_div(task.channels, VECTORS * machine.lanes(4))
    form = replace(task, rows=0)  # the code does not depend on it

    def build(name: str) -> str:
        return Norm(t.begin(name, machine), form, machine).text()

    return Code((Step(f"{NAME} {form}", build, lambda n: n * task.rows * parts),))


def emit_open(task: NormTask, like: NormTask, machine: Machine) -> Code:
    """Like `emit`, with code for any number of pixels, where there is more than one."""
    if task.pixels < 2:
        return emit(task, machine)
    parts = task.groups or t.ceil_div(task.channels, VECTORS * machine.lanes(4))
    form = replace(task, rows=0, pixels=0)

    def build(name: str) -> str:
        b = t.begin(name, machine)
        (pixels,) = t.sizes(b, 1)
        return Norm(b, replace(form, pixels=pixels), machine).text()

    return Code((Step(f"{NAME} open {form}", build, lambda n: n * task.rows * parts, (task.pixels,)),))


class Norm:
    """The kernel of one norm while it is written."""

    def __init__(self, b: Emit, task: NormTask, machine: Machine) -> None:
        """`b` is the builder of a new function."""
        self.b, self.task, self.lanes = b, task, machine.lanes(4)

    def count(self, channels: int) -> Value:
        """How many numbers `channels` channels of all pixels are, in every lane."""
        b, numbers = self.b, self.task.pixels * channels
        if isinstance(numbers, SizeValue):
            return b.splat(b.sitofp(numbers.value, F32.ir), self.lanes)
        return b.const(F32, float(numbers))

    def text(self) -> str:
        """Decodes the unit."""
        b, task = self.b, self.task
        parts = task.groups or t.ceil_div(task.channels, VECTORS * self.lanes)
        part, row = b.urem(b.arg.unit, parts), b.udiv(b.arg.unit, parts)
        x = b.at(t.word(b, t.X), b.mul(row, 4 * task.pixels * task.x_ld))
        y = b.at(t.word(b, t.Y), b.mul(row, 4 * task.pixels * task.y_ld))
        if task.groups:
            wide = task.channels // task.groups
            self.group(b.mul(part, wide), wide, x, y)
            return b.finish()
        block = VECTORS * self.lanes
        whole, rest = divmod(task.channels, block)
        first = b.mul(part, block)
        if not rest:
            self.lane(first, block, x, y)
        elif not whole:
            self.lane(0, rest, x, y)
        else:
            b.choose(b.less(part, whole), lambda: self.lane(first, block, x, y), lambda: self.lane(first, rest, x, y))
        return b.finish()

    def scale(self, value: Value, place: Any, channel: Any, mask: Any) -> Value:
        """Weight and bias, activation."""
        b, task = self.b, self.task
        if task.affine == "channel":
            w, c = (b.vload(b.at(t.word(b, s), b.mul(channel, 4)), F32, self.lanes, mask=mask) for s in (t.W, t.B))
            value = b.fma(value, w, c)
        elif task.affine:
            w, c = (b.splat_load(b.at(t.word(b, s), b.mul(place, 4)), F32) for s in (t.W, t.B))
            value = b.fma(value, w, c)
        return activate(b, value, task.activation, F32)

    def spread(self, squares: Value, rest: Value) -> Value:
        """1 / sqrt(variance + eps), from the means of (x − mean)² and of x − mean (`rest`, which is rounding's)."""
        b = self.b
        variance = b.maximum(b.const(F32, 0.0), b.fsub(squares, b.fmul(rest, rest)))
        return b.fdiv(b.const(F32, 1.0), b.sqrt(b.fadd(variance, b.const(F32, self.task.eps))))

    def lane(self, first: Any, channels: int, x: Value, y: Value) -> None:
        """Some vectors of channels, each lane over the pixels of the row."""
        b, task, lanes = self.b, self.task, self.lanes
        vectors = [(v, b.mask(channels - v, lanes)) for v in range(0, channels, lanes)]
        x, y = b.at(x, b.mul(first, 4)), b.at(y, b.mul(first, 4))
        count = self.count(task.share)

        def shared(v: Value) -> Value:
            """The mean over the neighbours too: they exchange their sums."""
            step = 1
            while step < task.share:
                v, step = b.fadd(v, b.shuffle(v, None, [lane ^ step for lane in range(lanes)])), 2 * step
            return b.fdiv(v, count)

        def load(p: Any) -> list[Value]:
            at = b.at(x, b.mul(p, 4 * task.x_ld))
            return [b.vload(b.at(at, 4 * v), F32, lanes, mask=mask) for v, mask in vectors]

        nothing = [b.const(F32, 0.0)] * len(vectors)
        sums = b.loop(0, task.pixels, 1, lambda p, s: [b.fadd(a, v) for a, v in zip(s, load(p), strict=True)], nothing)
        means = [shared(s) for s in sums]

        def square(p: Any, s: list[Value]) -> list[Value]:
            apart = [b.fsub(v, m) for v, m in zip(load(p), means, strict=True)]
            sums, squares = s[: len(apart)], s[len(apart) :]
            return [
                *(b.fadd(a, d) for d, a in zip(apart, sums, strict=True)),
                *(b.fma(d, d, a) for d, a in zip(apart, squares, strict=True)),
            ]

        found = [shared(s) for s in b.loop(0, task.pixels, 1, square, nothing * 2)]
        rests, squares = found[: len(vectors)], found[len(vectors) :]
        rates = [self.spread(s, rest) for s, rest in zip(squares, rests, strict=True)]

        def write(p: Any, _: Any) -> None:
            out = b.at(y, b.mul(p, 4 * task.y_ld))
            for (v, mask), value, m, rest, rate in zip(vectors, load(p), means, rests, rates, strict=True):
                apart = b.fsub(b.fsub(value, m), rest)
                done = self.scale(b.fmul(apart, rate), p, b.add(first, v), mask)
                b.vstore(done, b.at(out, 4 * v), F32, mask=mask)

        b.loop(0, task.pixels, 1, write)

    def group(self, first: Any, wide: int, x: Value, y: Value) -> None:
        """All pixels of `wide` channels."""
        b, task, lanes = self.b, self.task, self.lanes
        x, y = b.at(x, b.mul(first, 4)), b.at(y, b.mul(first, 4))
        whole = wide // lanes * lanes
        tail = b.mask(wide - whole, lanes) if wide > whole else None
        count = self.count(wide)

        def every(vector: Any, state: list[Value]) -> list[Value]:
            """`vector(pixel, channel, state, mask)` on all vectors of the group; states of whole and last apart."""

            def pixel(p: Any, s: list[Value]) -> list[Value]:
                s = b.loop(0, whole, lanes, lambda o, s: vector(p, o, s, None), s)
                return list(vector(p, whole, s, tail) or s) if tail is not None else s

            return b.loop(0, task.pixels, 1, pixel, state)

        def load(p: Any, o: Any, mask: Any) -> Value:
            return b.vload(b.at(x, b.mul(p, 4 * task.x_ld), b.mul(o, 4)), F32, lanes, mask=mask)

        def total(v: Value) -> Value:
            return b.fdiv(b.splat(b.sum(v, F32), lanes), count)

        zero = [b.const(F32, 0.0)]
        (sums,) = every(lambda p, o, s, mask: [b.fadd(s[0], load(p, o, mask))], zero)
        mean = total(sums)

        def square(p: Any, o: Any, s: list[Value], mask: Any) -> list[Value]:
            d = b.fsub(load(p, o, mask), mean)
            if mask is not None:
                d = b.select(mask, d, b.const(F32, 0.0))
            return [b.fadd(s[0], d), b.fma(d, d, s[1])]

        rest, squares = (total(s) for s in every(square, zero * 2))
        rate = self.spread(squares, rest)

        def write(p: Any, o: Any, _: Any, mask: Any) -> None:
            apart = b.fsub(b.fsub(load(p, o, mask), mean), rest)
            done = self.scale(b.fmul(apart, rate), p, b.add(first, o), mask)
            b.vstore(done, b.at(y, b.mul(p, 4 * task.y_ld), b.mul(o, 4)), F32, mask=mask)

        every(write, [])
