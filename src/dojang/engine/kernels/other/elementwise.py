"""What works element by element or along the channels of a pixel: activations, sums, scales, copies, response norm."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.activations import Activation, activate
from dojang.engine.kernels.task import Code, Offer, Step
from dojang.native.costs import COSTS
from dojang.native.emit import F32, Emit, Value
from dojang.native.machine import Machine

NAME = "elementwise"
ALONE = ("copy", "fill", "frame", "affine", "prelu", "lrn")
"""Operators without a second operand."""


@plain_repr
@dataclass(frozen=True, slots=True)
class MapTask:
    """y = activation(x ∘ r) on `pixels` pixels per image.

    `op` "copy" has no second operand; "fill" is the value `k` everywhere; "frame" is a copy with `before` channels of
    `k` in front of each pixel's and `after` behind them, all of them in y; "affine" is x·w + bias per channel; "prelu"
    is x·w where x < 0; "lrn" divides by the norm over `size` channels. `r_ld` is 0 where the second operand has one
    pixel per image.
    """

    op: str
    channels: int
    pixels: int
    x_ld: int
    y_ld: int
    r_ld: int = 0
    activation: Activation | None = None
    size: int = 0
    alpha: float = 0.0
    k: float = 0.0
    before: int = 0
    after: int = 0


def offer(task: MapTask, machine: Machine) -> Offer:
    """Takes every task, by the bytes moved."""
    return Offer(4 * task.channels * task.pixels * 3 / (machine.peaks.cache_gbs * 1e9) + COSTS.start_s)


def emit(task: MapTask, machine: Machine) -> Code:
    """One step; a unit is some pixels of one image."""
    per = chunk(task)
    parts = t.ceil_div(task.pixels, per)
    any_size = replace(task, pixels=0)
    build = lambda name: write(name, any_size, machine)  # noqa: E731
    return Code((Step(f"{NAME} {any_size}", build, lambda n: n * parts, (task.pixels, per, parts)),))


def chunk(task: MapTask) -> int:
    """Pixels of a unit: about 64 kB, less in small layers."""
    total = 4 * task.pixels * task.channels
    goal = min(64 << 10, max(8 << 10, total // 8))
    return max(1, min(task.pixels, goal // (4 * task.channels)))


def write(symbol: str, task: MapTask, machine: Machine) -> str:
    """The kernel as IR text, for any number of pixels."""
    b = t.begin(symbol, machine)
    lanes, c = machine.lanes(4), task.channels
    count, per, parts = t.sizes(b, 3)
    image, part = b.udiv(b.arg.unit, parts), b.urem(b.arg.unit, parts)
    first = b.mul(part, per)
    last = b.imin(b.add(first, per), count)
    x = b.at(t.word(b, t.X), b.mul(image, count * (4 * task.x_ld)))
    y = b.at(t.word(b, t.Y), b.mul(image, count * (4 * task.y_ld)))
    second = task.op not in ALONE
    r = b.at(t.word(b, t.R), b.mul(image, count * (4 * task.r_ld) if task.r_ld else 4 * c)) if second else None
    flat = second_flat(task) and task.x_ld == c and task.y_ld == c

    def vector(px: Value, py: Value, pr: Any, o: Any, mask: Any) -> None:
        if task.op == "fill":
            b.vstore(b.const(F32, task.k), b.at(py, b.mul(o, 4)), F32, mask=mask)
            return
        v = b.vload(b.at(px, b.mul(o, 4)), F32, mask=mask)
        if task.op == "affine":
            w, shift = (b.vload(b.at(t.word(b, s), b.mul(o, 4)), F32, mask=mask) for s in (t.W, t.B))
            v = b.fma(v, w, shift)
        elif task.op == "prelu":
            slope = b.vload(b.at(t.word(b, t.W), b.mul(o, 4)), F32, mask=mask)
            v = b.select(b.fcmp_ordered("<", v, b.const(F32, 0.0)), b.fmul(v, slope), v)
        elif task.op == "lrn":
            v = lrn(b, task, px, o, v)
        elif pr is not None:
            v = combine(b, task.op, v, b.vload(b.at(pr, b.mul(o, 4)), F32, mask=mask))
        b.vstore(activate(b, v, task.activation, F32), b.at(py, b.mul(o, 4)), F32, mask=mask)

    def across(px: Value, py: Value, pr: Any, lo: Any, hi: Any, fixed: int | None) -> None:
        """Channels (or flat elements) lo..hi."""
        if fixed is not None:
            whole = fixed // lanes * lanes
            b.loop(0, whole, lanes, lambda o, _: vector(px, py, pr, o, None), unroll=4 if task.op != "lrn" else 1)
            if fixed > whole:
                vector(px, py, pr, whole, b.mask(fixed - whole, lanes))
            return
        span = b.mul(b.udiv(b.sub(hi, lo), lanes), lanes)
        end = b.add(lo, span)
        b.loop(lo, end, lanes, lambda o, _: vector(px, py, pr, o, None), unroll=4)
        b.choose(b.less(end, hi), lambda: vector(px, py, pr, end, b.mask(b.sub(hi, end), lanes)))

    def frame(px: Value, py: Value) -> None:
        """One pixel of a frame."""
        value = b.const(F32, task.k)
        for first, size in ((0, task.before), (task.before + c, task.after)):
            start = b.at(py, 4 * first)
            for o in range(0, size, lanes):
                b.vstore(value, b.at(start, 4 * o), F32, mask=b.mask(size - o, lanes) if size - o < lanes else None)
        across(px, b.at(py, 4 * task.before), None, 0, c, c)

    if task.op == "frame":
        b.loop(first, last, 1, lambda p, _: frame(
            b.at(x, b.mul(p, 4 * task.x_ld)), b.at(y, b.mul(p, 4 * task.y_ld))
        ))  # fmt: skip
    elif flat:
        across(x, y, r, b.mul(first, c), b.mul(last, c), None)
    else:
        b.loop(first, last, 1, lambda p, _: across(
            b.at(x, b.mul(p, 4 * task.x_ld)), b.at(y, b.mul(p, 4 * task.y_ld)),
            b.at(r, b.mul(p, 4 * task.r_ld)) if r is not None else None, 0, c, c,
        ))  # fmt: skip
    return b.finish()


def second_flat(task: MapTask) -> bool:
    """Whether nothing depends on the channel, so that pixels can be run over without end."""
    if task.op in ("affine", "prelu", "lrn", "frame"):
        return False
    return task.op in ALONE or task.r_ld == task.channels


def combine(b: Emit, op: str, x: Value, r: Value) -> Value:
    """x ∘ r."""
    if op == "maximum":
        return b.maximum_nan(x, r)
    if op == "minimum":
        return b.select(b.or_(b.fcmp_ordered("<", x, r), b.fcmp_unordered("uno", x, x)), x, r)
    return {"add": b.fadd, "sub": b.fsub, "mul": b.fmul, "div": b.fdiv}[op](x, r)


def lrn(b: Emit, task: MapTask, px: Value, o: Any, v: Value) -> Value:
    """x / (k + alpha/size Σx²)^0.75, the sum over `size` channels about each; the power as √·√√.

    An even size has one more channel before than after, as in the reference.
    """
    lanes, c = v.type.count, task.channels
    total = b.const(F32, 0.0)
    before = task.size // 2
    for shift in range(-before, task.size - before):
        # Channels o + shift .. o + shift + lanes, those outside 0..c masked.
        lo = b.add(o, shift)
        at = b.at(px, b.mul(lo, 4))
        high = b.mask(b.sub(c, lo), lanes)
        mask = high
        if shift < 0:
            below = b.mask(b.imin(b.imax(b.sub(0, lo), 0), lanes), lanes)
            if below is None:
                continue  # every lane would read before the first channel
            mask = b.not_(below) if high is None else b.and_(b.not_(below), high)
        n = b.vload(at, F32, lanes, mask=mask)
        total = b.fma(n, n, total)
    base = b.fma(total, b.const(F32, task.alpha / task.size), b.const(F32, task.k))
    root = b.sqrt(base)
    return b.fdiv(v, b.fmul(root, b.sqrt(root)))
