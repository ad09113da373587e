"""What happens to sums of products before they are stored: quantised again, or made real.

A sum s (int32, with its bias) becomes the byte clamp(round(s · factor) + zero, low, high), halves to even, in float32,
as QLinearConv of ONNX Runtime: the factor of a channel is the scale of the values times that of the weights by that of
the result. With a function between, it is round(f(s · factor) / scale) + zero. Real results are f(s · factor).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import llvmlite.ir as ir

from dojang.base.record import plain_repr
from dojang.engine.kernels.activations import Activation, activate
from dojang.engine.kernels.eight.dot import as_float, nearest
from dojang.native.emit import F32, I32, U8, Emit, Value

LARGEST = 1 << 23
"""Sizes of rounded numbers above which they are clamped before they become int32."""


@plain_repr
@dataclass(frozen=True, slots=True)
class Requantised:
    """How sums are stored. `real`: as float32. Else as bytes: `zero` is added, and the result held within `low` and
    `high`. `large`: sums times factors may be beyond int32. `scale` divides what `activation` gives (1 where there is
    none, as the factors then have it).
    """

    real: bool = False
    zero: int = 0
    low: int = 0
    high: int = 255
    large: bool = False
    activation: Activation | None = None
    scale: float = 1.0

    @property
    def item(self) -> int:
        """Bytes of a result."""
        return 4 if self.real else 1


def packs(b: Emit, finish: Requantised, vectors: int) -> bool:
    """Whether four vectors of results are narrowed to one in three instructions, their lanes in `packed_order`."""
    return not finish.real and vectors == 4 and b.machine.isa in ("avx512", "avx2")


def packed_order(lanes: int) -> list[int]:
    """For each lane of four vectors in turn the channel that it holds, where results are packed.

    The instructions join the 128-bit parts of two vectors part by part: part j of vector v gets to bytes 16·j + 4·v.
    """
    return [lane // 4 * 16 + 4 * v + lane % 4 for v in range(4) for lane in range(lanes)]


def whole(b: Emit, finish: Requantised, total: Value, factor: Value) -> Value:
    """One vector of sums as rounded int32, zero not added."""
    v: Value = b.fmul(as_float(b, total), factor)
    if finish.activation is not None:
        v = b.fdiv(activate(b, v, finish.activation, F32), b.const(F32, finish.scale, v.type.count))
    if finish.large or finish.activation is not None:
        most = float(LARGEST)
        v = b.maximum(b.const(F32, -most, v.type.count), b.minimum(b.const(F32, most, v.type.count), v))
    return nearest(b, v)


def store(
    b: Emit, finish: Requantised, totals: Sequence[Value], factors: Sequence[Value], y: Value, channels: int
) -> None:
    """The sums of one pixel, in vectors, from address `y` on; `channels` of them are there."""
    lanes = totals[0].type.count
    if finish.real:
        for v, (total, factor) in enumerate(zip(totals, factors, strict=True)):
            value = activate(b, b.fmul(as_float(b, total), factor), finish.activation, F32)
            b.vstore(value, b.at(y, 4 * v * lanes), F32, mask=b.mask(channels - v * lanes, lanes))
        return
    rounded = [whole(b, finish, total, factor) for total, factor in zip(totals, factors, strict=True)]
    if packs(b, finish, len(totals)):
        out = narrowed(b, finish, rounded)
        b.vstore(out, y, U8, mask=b.mask(channels, 4 * lanes))
        return
    for v, one in enumerate(rounded):
        one = b.add(one, b.const(I32, finish.zero, lanes))
        for bound, op in ((finish.low, ">"), (finish.high, "<")):
            edge = b.const(I32, bound, lanes)
            one = b.select(b.icmp_signed(op, one, edge), one, edge)
        put(b, b.trunc(one, U8.vector(lanes)), b.at(y, v * lanes), channels - v * lanes)


def put(b: Emit, narrow: Value, y: Value, count: int) -> None:
    """The first `count` bytes of a vector.

    LLVM 22 stores four bytes for one, where a vector is narrowed and its first lane alone is stored under a mask.
    """
    if count == 1:
        b.vstore(b.extract(narrow, 0), y, U8)
        return
    b.vstore(narrow, y, U8, mask=b.mask(count, narrow.type.count))


def narrowed(b: Emit, finish: Requantised, rounded: Sequence[Value]) -> Value:
    """Four vectors of int32 as one of bytes: both saturate, the zero point is added to 16 bits between."""
    lanes = rounded[0].type.count
    four, two, one = I32.vector(lanes), ir.VectorType(ir.IntType(16), 2 * lanes), U8.vector(4 * lanes)
    name = "llvm.x86.avx512.{}.512" if lanes == 16 else "llvm.x86.avx2.{}"
    short = b._intrinsic(name.format("packssdw"), two, [four, four])
    byte = b._intrinsic(name.format("packuswb"), one, [two, two])
    halves = [b.call(short, list(rounded[k : k + 2])) for k in (0, 2)]
    if finish.zero:
        add = b._intrinsic(f"llvm.sadd.sat.v{2 * lanes}i16", two, [two, two])
        edge = ir.Constant(two, [finish.zero] * (2 * lanes))
        halves = [b.call(add, [half, edge]) for half in halves]
    out = b.call(byte, halves)
    for bound, op, idle in ((finish.low, ">", 0), (finish.high, "<", 255)):
        if bound != idle:
            edge = b.const(U8, bound, 4 * lanes)
            out = b.select(b.icmp_unsigned(op, out, edge), out, edge)
    return out
