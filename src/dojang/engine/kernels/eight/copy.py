"""A copy of an image of bytes with its border, in the order in which tiles of products read it.

Each place has the channels of each group in whole lots of the instruction's depth, as bytes or, for instructions that
take 16 bits, widened. The border is the zero point, which stands for 0. Places that no output looks at are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.conv.direct import Nest
from dojang.engine.kernels.eight.dot import Dot
from dojang.engine.kernels.task import Step
from dojang.native.emit import I16, I32, U8, Emit, Value
from dojang.native.machine import Machine

UNIT_BYTES = 16 << 10


@plain_repr
@dataclass(frozen=True, slots=True)
class Padded:
    """`size` places, of which place i is place i − `before` of an image of `inner` places, `x_ld` bytes from one to the
    next; what is outside is `zero`.
    """

    inner: tuple[int, ...]
    before: tuple[int, ...]
    size: tuple[int, ...]
    ic: int
    groups: int
    x_ld: int
    zero: int

    def group(self, d: Dot) -> int:
        """Bytes of a group's channels at one place."""
        return 4 * t.ceil_div(self.ic // self.groups, d.depth)

    def pixel(self, d: Dot) -> int:
        """Bytes of one place."""
        return self.groups * self.group(d)

    def bytes_of(self, d: Dot) -> int:
        """Bytes of an image, whole cache lines."""
        return t.ceil_div(prod(self.size) * self.pixel(d), 64) * 64

    def image(self, d: Dot) -> int:
        """Bytes from image to image."""
        return prod(self.size) * self.pixel(d)

    def needed(self, d: Dot) -> bool:
        """Whether tiles cannot read the image as it lies."""
        outside = any(self.before) or any(s > i for s, i in zip(self.size, self.inner, strict=True))
        ragged = self.groups > 1 and self.ic // self.groups % 4 != 0
        return outside or ragged or d.bytes != 1


def padded_for(c: Nest, x_ld: int, zero: int) -> Padded:
    """The copy for a convolution."""
    size = tuple(
        (o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(c.out_size, c.stride, c.kernel, c.dilation, strict=True)
    )
    return Padded(c.size, c.padding, size, c.ic, c.groups, x_ld, zero)


def step(padded: Padded, d: Dot, machine: Machine) -> Step:
    """The step that copies; a unit is some rows of one image."""
    rows = prod(padded.size[:2])
    per = max(1, min(rows, UNIT_BYTES // max(1, padded.size[2] * padded.pixel(d))))
    chunks = t.ceil_div(rows, per)
    recipe = f"copied bytes {padded} {d} {per}"
    return Step(recipe, lambda name: write(name, padded, d, per, machine), lambda n: n * chunks)


def write(symbol: str, padded: Padded, d: Dot, per: int, machine: Machine) -> str:
    """The kernel as IR text."""
    b = t.begin(symbol, machine)
    rows = prod(padded.size[:2])
    chunks = t.ceil_div(rows, per)
    image, chunk = b.udiv(b.arg.unit, chunks), b.urem(b.arg.unit, chunks)
    first = b.mul(chunk, per)
    last = b.imin(b.add(first, per), rows)
    x = b.at(t.word(b, t.X), b.mul(image, prod(padded.inner) * padded.x_ld))
    y = b.at(t.word(b, t.S0), b.mul(image, padded.image(d)))
    pixel, width = padded.pixel(d), padded.size[2]
    left = min(padded.before[2], width)
    middle = max(0, min(width - left, padded.inner[2]))

    def row(r: Any, _: Any) -> None:
        plane, line = b.udiv(r, padded.size[1]), b.urem(r, padded.size[1])
        i, j = b.sub(plane, padded.before[0]), b.sub(line, padded.before[1])
        to = b.at(y, b.mul(r, width * pixel))
        inside = b.and_(
            b.icmp_unsigned("<", b.index(i), b.index(padded.inner[0])),
            b.icmp_unsigned("<", b.index(j), b.index(padded.inner[1])),
        )

        def there() -> None:
            source = b.at(x, b.mul(b.add(b.mul(i, padded.inner[1]), j), padded.inner[2] * padded.x_ld))
            fill(b, to, left * pixel, padded.zero, d)
            move(b, source, b.at(to, left * pixel), middle, padded, d)
            fill(b, b.at(to, (left + middle) * pixel), (width - left - middle) * pixel, padded.zero, d)

        b.choose(inside, there, lambda: fill(b, to, width * pixel, padded.zero, d))

    b.loop(first, last, 1, row)
    return b.finish()


def fill(b: Emit, to: Value, size: int, zero: int, d: Dot) -> None:
    """`size` bytes, a multiple of 4, of the zero point."""
    lanes = b.lanes(I32)
    word = zero * (0x01010101 if d.bytes == 1 else 0x00010001)
    value = b.const(I32, word - (1 << 32) if word >= 1 << 31 else word)
    span = size // 4 // lanes * lanes
    b.loop(0, span, lanes, lambda k, _: b.vstore(value, b.at(to, b.mul(k, 4)), I32))
    if size // 4 > span:
        b.vstore(value, b.at(to, 4 * span), I32, mask=b.mask(size // 4 - span, lanes))


def move(b: Emit, source: Value, to: Value, pixels: int, padded: Padded, d: Dot) -> None:
    """So many places of a row."""
    if not pixels:
        return
    icg, pixel = padded.ic // padded.groups, padded.pixel(d)
    if icg % 4 and padded.groups > 1:
        b.loop(0, pixels, 1, lambda p, _: by_byte(
            b, b.at(source, b.mul(p, padded.x_ld)), b.at(to, b.mul(p, pixel)), padded, d
        ))  # fmt: skip
        return
    channels = t.ceil_div(padded.ic, 4) * 4  # what lies behind the last channel is read, and meets weights of 0
    if padded.x_ld * d.bytes == pixel:
        run(b, source, to, pixels * padded.x_ld, d)
        return
    b.loop(0, pixels, 1, lambda p, _: run(
        b, b.at(source, b.mul(p, padded.x_ld)), b.at(to, b.mul(p, pixel)), min(channels, pixel // d.bytes), d
    ))  # fmt: skip


def run(b: Emit, source: Value, to: Value, count: int, d: Dot) -> None:
    """`count` bytes, an even number, as they are or widened."""
    if d.bytes == 1:
        lanes = b.lanes(I32)
        words = count // 4
        span = words // lanes * lanes

        def some(k: Any, _: Any) -> None:
            b.vstore(b.vload(b.at(source, b.mul(k, 4)), I32, align=1), b.at(to, b.mul(k, 4)), I32, align=1)

        b.loop(0, span, lanes, some)
        if words > span:
            mask = b.mask(words - span, lanes)
            b.vstore(b.vload(b.at(source, 4 * span), I32, mask=mask, align=1), b.at(to, 4 * span), I32, mask=mask)
        return
    at = 0
    for lanes in (b.lanes(I16), 2):  # two channels: a lot of the instruction
        if lanes > b.lanes(I16):
            continue
        span = (count - at) // lanes * lanes

        def wide(k: Any, _: Any, lanes: int = lanes) -> None:
            v = b.zext(b.vload(b.at(source, k), U8, lanes), I16.vector(lanes))
            b.vstore(v, b.at(to, b.mul(k, 2)), I16)

        b.loop(at, at + span, lanes, wide)
        at += span


def by_byte(b: Emit, source: Value, to: Value, padded: Padded, d: Dot) -> None:
    """One place whose groups do not begin at multiples of 4 bytes."""
    icg, kind = padded.ic // padded.groups, U8 if d.bytes == 1 else I16
    held = padded.group(d) // d.bytes

    def group(g: Any, _: Any) -> None:
        for i in range(held):
            value = b.sload(b.at(source, b.mul(g, icg), i), U8) if i < icg else b.const(U8, 0, 0)
            value = b.zext(value, I16.ir) if d.bytes == 2 else value
            b.vstore(value, b.at(to, b.mul(g, padded.group(d)), i * d.bytes), kind)

    b.loop(0, padded.groups, 1, group)
