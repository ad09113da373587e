"""The instruction that multiplies bytes with bytes and adds the products in int32, of each machine.

All are exact for unsigned values and signed weights. `vpdpbusd` (AVX-512 VNNI, AVX-VNNI) and `usdot` (AArch64 I8MM) add
four products to each lane. `sdot` (AArch64) takes signed bytes alone: values have 128 taken off, which the bias gives
back. Older x86 processors have `pmaddubsw`, which saturates sums of two products at 16 bits; it is not used. Values and
weights are widened to 16 bits beforehand, and `pmaddwd` adds two products of at most 2¹⁵ in size to an int32 of their
own, which cannot overflow.
"""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ir

from dojang.base.record import plain_repr
from dojang.native.emit import F32, I32, U8, Emit, Value
from dojang.native.families import is_arm
from dojang.native.machine import Machine


@plain_repr
@dataclass(frozen=True, slots=True)
class Dot:
    """`depth` products are added to each lane of int32. Numbers of both factors take `bytes`; `shift` is taken off each
    value before it is multiplied.
    """

    name: str
    depth: int
    bytes: int
    shift: int = 0

    def add(self, b: Emit, total: Value, x: Value, w: Value) -> Value:
        """total + Σ x·w, of vectors of int32 lanes whose bits are the factors."""
        lanes = total.type.count
        bits, four = 32 * lanes, I32.vector(lanes)
        if self.name == "vpdpbusd":
            return b.call(b._intrinsic(f"llvm.x86.avx512.vpdpbusd.{bits}", four, [four] * 3), [total, x, w])
        if self.name == "pmaddwd":
            name = {512: "avx512.pmaddw.d.512", 256: "avx2.pmadd.wd", 128: "sse2.pmadd.wd"}[bits]
            two = ir.VectorType(ir.IntType(16), 2 * lanes)
            found = b._intrinsic(f"llvm.x86.{name}", four, [two, two])
            return b.add(total, b.call(found, [b.bitcast(x, two), b.bitcast(w, two)]))
        one = ir.VectorType(ir.IntType(8), 4 * lanes)
        found = b._intrinsic(f"llvm.aarch64.neon.{self.name}.v4i32.v16i8", four, [four, one, one])
        return b.call(found, [total, b.bitcast(x, one), b.bitcast(w, one)])

    def value(self, b: Emit, ptr: Value, lanes: int) -> Value:
        """`depth` neighbouring values in every lane."""
        one = b.sload(ptr, I32)
        if self.shift:
            one = b.xor(one, ir.Constant(I32.ir, 0x80808080))
        return b.splat(one, lanes)


def dot_of(machine: Machine) -> Dot | None:
    """The fastest exact one that a machine has; None where it has none."""
    has = {name[1:] for name in machine.features.split(",") if name.startswith("+")}
    if is_arm(machine.triple):
        if "i8mm" in has:
            return Dot("usdot", 4, 1)
        return Dot("sdot", 4, 1, 128) if "dotprod" in has else None
    if (machine.isa == "avx512" and "avx512vnni" in has) or (machine.isa == "avx2" and "avxvnni" in has):
        return Dot("vpdpbusd", 4, 1)
    return Dot("pmaddwd", 2, 2)


def gains(machine: Machine) -> bool:
    """Whether layers are faster in bytes than in float32. Widened to 16 bits they are not: two instructions take the
    products of two multiply-adds, so such processors compute quantised layers in float32.
    """
    found = dot_of(machine)
    return found is not None and found.depth == 4


def nearest(b: Emit, v: Value) -> Value:
    """Float32 numbers as int32, halves to even. Beyond int32 the result is not defined."""
    lanes = v.type.count
    four = I32.vector(lanes)
    if is_arm(b.machine.triple) or lanes not in (4, 8, 16):
        return b.fptosi(b.round(v), four)
    if lanes == 16:
        mask, mode = ir.IntType(16), ir.IntType(32)
        found = b._intrinsic("llvm.x86.avx512.mask.cvtps2dq.512", four, [v.type, four, mask, mode])
        return b.call(found, [v, b.const(I32, 0, 16), ir.Constant(mask, -1), ir.Constant(mode, 4)])
    name = "llvm.x86.avx.cvt.ps2dq.256" if lanes == 8 else "llvm.x86.sse2.cvtps2dq"
    return b.call(b._intrinsic(name, four, [v.type]), [v])


def spread_bytes(b: Emit, ptr: Value, lanes: int, mask: Value | None = None) -> Value:
    """`lanes` bytes from memory as int32."""
    return b.zext(b.vload(ptr, U8, lanes, mask=mask), I32.vector(lanes))


def as_float(b: Emit, v: Value) -> Value:
    """int32 as float32, rounded."""
    return b.sitofp(v, F32.vector(v.type.count))


def wide_product(b: Emit, total: Value, x: Value, w: Value) -> Value:
    """total + x·w in int32 lanes, of values from 0 to 255 and weights from −128 to 127."""
    lanes, machine = total.type.count, b.machine
    if is_arm(machine.triple):
        return b.add(total, b.mul(x, w))
    if dot_of(machine) == Dot("vpdpbusd", 4, 1):
        four = I32.vector(lanes)
        return b.call(b._intrinsic(f"llvm.x86.avx512.vpdpwssd.{32 * lanes}", four, [four] * 3), [total, x, w])
    return Dot("pmaddwd", 2, 2).add(b, total, x, w)
