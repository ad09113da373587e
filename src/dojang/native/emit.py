"""Loop nests to LLVM IR: the builder that all kernels are written with.

A kernel is written by Python code that runs once per problem, with every size a Python int: loops that should be
unrolled are Python loops, loops that should remain are `Emit.loop`. The result is text (`Emit.finish`), which
`jit.load` turns into machine code.

>>> from dojang.native.machine import Machine
>>> import numpy as np
>>> b = Emit.begin("scale", {"x": PTR, "y": PTR, "n": I64}, Machine.host())
>>> lanes = b.lanes(F32)
>>> def some(i, _):                                     # y[i:i+lanes] = 2 x[i:i+lanes], the tail masked
...     mask = b.mask(b.sub(b.arg.n, i), lanes)
...     v = b.vload(b.at(b.arg.x, b.mul(i, 4)), F32, mask=mask)
...     b.vstore(b.fmul(v, b.const(F32, 2.0)), b.at(b.arg.y, b.mul(i, 4)), F32, mask=mask)
>>> _ = b.loop(0, b.arg.n, lanes, some)
>>> from dojang.native import jit
>>> scale = jit.load(b.finish(), Machine.host()).function("scale", 3)
>>> x = np.arange(21, dtype="f"); y = np.empty_like(x)
>>> scale(x.ctypes.data, y.ctypes.data, 21)
>>> bool((y == 2 * x).all())
True
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import llvmlite.ir as ir

from dojang.base.record import plain_repr
from dojang.native.machine import Machine

Value = Any  # an llvmlite IR value; Python ints stand for i64 constants where an index or an offset is meant
Carry = Sequence[Value]


@plain_repr
@dataclass(frozen=True, slots=True)
class ElementType:
    """An element type. LLVM integers have no sign, so this type has it."""

    name: str
    bytes: int
    floating: bool
    signed: bool

    @property
    def ir(self) -> ir.Type:
        """The LLVM scalar type."""
        if self.floating:
            return ir.FloatType() if self.bytes == 4 else ir.DoubleType()
        return ir.IntType(8 * self.bytes)

    @property
    def dtype(self) -> str:
        """The NumPy type string, native byte order: "f4", "u1" ..."""
        return ("f" if self.floating else "i" if self.signed else "u") + str(self.bytes)

    @property
    def low(self) -> int:
        """The smallest integer of the type."""
        return -(1 << (8 * self.bytes - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The largest integer of the type."""
        return (1 << (8 * self.bytes - self.signed)) - 1

    def vector(self, lanes: int) -> ir.Type:
        """The LLVM type of `lanes` elements; the scalar type for 0 lanes."""
        return ir.VectorType(self.ir, lanes) if lanes else self.ir


F32, F64 = ElementType("f32", 4, True, True), ElementType("f64", 8, True, True)
U8, U16, U32 = (
    ElementType("u8", 1, False, False),
    ElementType("u16", 2, False, False),
    ElementType("u32", 4, False, False),
)
I8, I16, I32, I64 = (ElementType(f"i{8 * n}", n, False, True) for n in (1, 2, 4, 8))
KINDS = {k.name: k for k in (F32, F64, U8, U16, U32, I8, I16, I32, I64)}
PTR = ir.PointerType()
_BYTE, _LONG, _INT, _BIT = ir.IntType(8), ir.IntType(64), ir.IntType(32), ir.IntType(1)
_VOID = ir.VoidType()


class SizeValue:
    """A size that a kernel learns when it runs: a whole number of at least 0 that +, −, · and // work on as on an int.

    What is computed from such sizes alone is computed once, where the function begins. Comparing two raises
    `TypeError`, because the code must not depend on them; `==` is only true of the same object.
    """

    __slots__ = ("b", "value")

    def __init__(self, b: Emit, value: ir.Value) -> None:
        """`value` is computed in the first block of the function."""
        self.b, self.value = b, value

    def _with(self, op: str, left: Any, right: Any) -> Any:
        b = self.b
        key = (op, *(id(v.value) if isinstance(v, SizeValue) else v for v in (left, right)))
        found = b.of_sizes.get(key)
        if found is None:
            with b.goto_entry_block():
                made = getattr(b, op)(*(v.value if isinstance(v, SizeValue) else v for v in (left, right)))
            found = b.of_sizes[key] = made if isinstance(made, int) else SizeValue(b, made)
        return found

    def __add__(self, other: Any) -> Any:
        return self._with("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return self._with("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return self._with("sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._with("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return self._with("mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self._with("mul", other, self)

    def __floordiv__(self, other: Any) -> Any:
        return self._with("udiv", self, other)

    def __mod__(self, other: Any) -> Any:
        return self._with("urem", self, other)


def plain(v: Any) -> Any:
    """An IR value or an int; sizes that are known at run time as their values."""
    return v.value if isinstance(v, SizeValue) else v


def scalar_of(v: Value) -> ir.Type:
    """The element type of a vector value, the type itself of a scalar value."""
    return v.type.element if isinstance(v.type, ir.VectorType) else v.type


class Emit(ir.IRBuilder):
    """An LLVM IR builder with constant folding for indices, counted loops that carry values, and vectors.

    Made by `Emit.begin`. `b.arg.x` is the parameter x. Indices and byte offsets may be Python ints; `add`, `sub`,
    `mul`, `udiv` and `urem` fold them, so `b.add(3, 4)` is the int 7. Vectors are as
    wide as a register unless `lanes` is given.
    """

    machine: Machine
    arg: SimpleNamespace
    of_sizes: dict[Any, Any]  # what was computed of sizes that are known at run time (`SizeValue`)

    @classmethod
    def begin(
        cls,
        name: str,
        params: Mapping[str, ElementType | ir.PointerType],
        machine: Machine,
        module: ir.Module | None = None,
        noalias: Sequence[str] = (),
        result: ElementType | None = None,
        internal: bool = False,
    ) -> Emit:
        """A builder at the start of a new function; in `module` if given, so that `b.call(other.function, …)` works.

        `noalias` names pointers whose memory no other pointer of this function reaches; `internal` functions are not
        exported, and may disappear by inlining.
        """
        if module is None:
            module = ir.Module(name)
            module.triple = machine.triple
        types = [PTR if isinstance(k, ir.PointerType) else k.ir for k in params.values()]
        fn = ir.Function(module, ir.FunctionType(result.ir if result else _VOID, types), name)
        if internal:
            fn.linkage = "internal"
        for value, param in zip(fn.args, params, strict=True):
            value.name = param
            if param in noalias:
                value.add_attribute("noalias")
        b = cls(fn.append_basic_block("entry"))
        b.machine, b.of_sizes = machine, {}
        b.arg = SimpleNamespace(**dict(zip(params, fn.args, strict=True)))
        return b

    def finish(self, result: Value | None = None) -> str:
        """Ends the function (returning `result`) and gives the text of its module."""
        if result is None:
            self.ret_void()
        else:
            self.ret(result)
        return str(self.module)

    # -- indices and addresses --------------------------------------------------------------------------------------

    def index(self, v: Value | int) -> Value:
        """An i64 value of an int; other values are returned as they are."""
        return _constant(_LONG, v) if isinstance(v, int) else plain(v)

    def _fold(self, op: str, a: Value | int, b: Value | int, flags: Sequence[str] = ()) -> Any:
        a_, b_ = self._pair(a, b)
        return getattr(ir.IRBuilder, op)(self, a_, b_, flags=tuple(flags))

    def _pair(self, a: Value, b: Value) -> tuple[Value, Value]:
        """Both as values; an int takes the type of the other."""
        a, b = plain(a), plain(b)
        if isinstance(a, int):
            a = _constant(b.type, a) if not isinstance(b, int) else self.index(a)
        if isinstance(b, int):
            b = _constant(a.type, b)
        return a, b

    def add(self, lhs, rhs, name="", flags=()):  # type: ignore[override]
        """lhs + rhs for integers; ints fold."""
        lhs, rhs = plain(lhs), plain(rhs)
        if isinstance(lhs, int) and isinstance(rhs, int):
            return lhs + rhs
        if isinstance(rhs, int) and rhs == 0:
            return lhs
        if isinstance(lhs, int) and lhs == 0:
            return rhs
        return self._fold("add", lhs, rhs, flags)

    def sub(self, lhs, rhs, name="", flags=()):  # type: ignore[override]
        """lhs − rhs for integers; ints fold."""
        lhs, rhs = plain(lhs), plain(rhs)
        if isinstance(lhs, int) and isinstance(rhs, int):
            return lhs - rhs
        if isinstance(rhs, int) and rhs == 0:
            return lhs
        return self._fold("sub", lhs, rhs, flags)

    def mul(self, lhs, rhs, name="", flags=()):  # type: ignore[override]
        """lhs · rhs for integers; ints fold."""
        lhs, rhs = plain(lhs), plain(rhs)
        if isinstance(lhs, int) and isinstance(rhs, int):
            return lhs * rhs
        for one, other in ((lhs, rhs), (rhs, lhs)):
            if isinstance(one, int) and one in (0, 1):
                return other if one else 0
        return self._fold("mul", lhs, rhs, flags)

    def udiv(self, lhs, rhs, name="", flags=()):  # type: ignore[override]
        """⌊lhs / rhs⌋ for integers not below 0; ints fold."""
        lhs, rhs = plain(lhs), plain(rhs)
        if isinstance(lhs, int) and isinstance(rhs, int):
            return lhs // rhs
        if isinstance(rhs, int) and rhs == 1:
            return lhs
        return self._fold("udiv", lhs, rhs, flags)

    def urem(self, lhs, rhs, name="", flags=()):  # type: ignore[override]
        """lhs mod rhs for integers not below 0; ints fold."""
        lhs, rhs = plain(lhs), plain(rhs)
        if isinstance(lhs, int) and isinstance(rhs, int):
            return lhs % rhs
        if isinstance(rhs, int) and rhs == 1:
            return 0
        a, b = self._pair(lhs, rhs)
        return ir.IRBuilder.urem(self, a, b)

    def imin(self, a: Value | int, b: Value | int) -> Any:
        """The smaller of two signed integers; ints fold."""
        if isinstance(a, int) and isinstance(b, int):
            return min(a, b)
        a, b = self._pair(a, b)
        return self.select(self.icmp_signed("<", a, b), a, b)

    def imax(self, a: Value | int, b: Value | int) -> Any:
        """The larger of two signed integers; ints fold."""
        if isinstance(a, int) and isinstance(b, int):
            return max(a, b)
        a, b = self._pair(a, b)
        return self.select(self.icmp_signed(">", a, b), a, b)

    def at(self, base: Value, *offsets: Value | int) -> Value:
        """The pointer `base` moved by byte offsets."""
        fixed = 0
        for o in offsets:
            if isinstance(o, int):
                fixed += o
            else:
                base = self.gep(base, [plain(o)], source_etype=_BYTE)
        # Only of an offset that is said not to wrap round does LLVM make the offset of a load of WebAssembly.
        inbounds = fixed > 0 and self.machine.isa == "wasm"
        return self.gep(base, [self.index(fixed)], inbounds, source_etype=_BYTE) if fixed else base

    def local(self, type_: ir.Type, count: int) -> Value:
        """Memory for `count` values of a type, for as long as the function runs; at its start, not in a loop."""
        memory = self.alloca(ir.ArrayType(type_, count))
        memory.type = PTR  # llvmlite gives it the type of what it points to
        return memory

    def less(self, a: Value | int, b: Value | int) -> Value:
        """a < b, signed."""
        a, b = self._pair(a, b)
        return self.icmp_signed("<", a, b)

    # -- control ----------------------------------------------------------------------------------------------------

    def loop(
        self,
        lo: Value | int,
        hi: Value | int,
        step: int,
        body: Callable[[Any, list[Value]], Carry | None],
        carry: Carry = (),
        unroll: int = 1,
    ) -> list[Value]:
        """`for i in range(lo, hi, step): carry = body(i, carry)`; returns the last carry.

        `body` is called while the loop is emitted: once, or `unroll` times per iteration and once more for the
        remainder. With int bounds, a single iteration is emitted without a loop, and its `i` is an int.
        """
        if unroll > 1:
            return self._unrolled(lo, hi, step, body, carry, unroll)
        state = list(carry)
        if isinstance(lo, int) and isinstance(hi, int):
            turns = max(0, -(-(hi - lo) // step))
            if turns <= 1:
                return list(body(lo, state) or state) if turns else state
            return self._counted(lo, hi, step, body, state)
        inside, after = self.function.append_basic_block("body"), self.function.append_basic_block("after")
        before = self.block
        lo_, hi_ = self.index(lo), self.index(hi)
        self.cbranch(self.icmp_signed("<", lo_, hi_), inside, after)
        out, last = self._body(lo_, hi_, step, body, state, before, inside, after)
        joined = []
        for old, new in zip(state, out, strict=True):
            p = self.phi(old.type)
            p.add_incoming(old, before)
            p.add_incoming(new, last)
            joined.append(p)
        return joined

    def _counted(self, lo: int, hi: int, step: int, body: Callable, state: list[Value]) -> list[Value]:
        """A loop that runs at least once."""
        inside, after = self.function.append_basic_block("body"), self.function.append_basic_block("after")
        before = self.block
        self.branch(inside)
        return self._body(self.index(lo), self.index(hi), step, body, state, before, inside, after)[0]

    def _body(self, lo, hi, step, body, state, before, inside, after):
        self.position_at_end(inside)
        i = self.phi(_LONG)
        i.add_incoming(lo, before)
        phis = []
        for v in state:
            p = self.phi(v.type)
            p.add_incoming(v, before)
            phis.append(p)
        out = list(body(i, list(phis)) or phis)
        following = self.add(i, step)
        i.add_incoming(following, self.block)
        for p, o in zip(phis, out, strict=True):
            p.add_incoming(o, self.block)
        last = self.block
        self.cbranch(self.icmp_signed("<", following, hi), inside, after)
        self.position_at_end(after)
        return out, last

    def _unrolled(self, lo, hi, step, body, carry, unroll):
        wide = step * unroll

        def many(i, state):
            for k in range(unroll):
                state = list(body(self.add(i, k * step), state) or state)
            return state

        if isinstance(lo, int) and isinstance(hi, int):
            turns = max(0, -(-(hi - lo) // step))
            middle = lo + turns // unroll * wide
            state = self.loop(lo, middle, wide, many, carry)
            for i in range(middle, hi, step):
                state = list(body(i, state) or state)
            return state
        span = self.mul(self.udiv(self.imax(self.sub(hi, lo), 0), wide), wide)
        middle = self.add(lo, span)
        return self.loop(middle, hi, step, body, self.loop(lo, middle, wide, many, carry))

    def choose(
        self, condition: Value, yes: Callable[[], Carry | None], no: Callable[[], Carry | None] | None = None
    ) -> list[Value]:
        """`yes()` if the condition is true, else `no()`; both return equally many values, which are merged."""
        a, z = self.function.append_basic_block("yes"), self.function.append_basic_block("no")
        end = self.function.append_basic_block("end")
        self.cbranch(condition, a, z)
        results, ends = [], []
        for block, write in ((a, yes), (z, no)):
            self.position_at_end(block)
            results.append(list((write() if write else None) or ()))
            ends.append(self.block)
            self.branch(end)
        self.position_at_end(end)
        joined = []
        for one, two in zip(*results, strict=True):
            p = self.phi(one.type)
            p.add_incoming(one, ends[0])
            p.add_incoming(two, ends[1])
            joined.append(p)
        return joined

    # -- vectors ----------------------------------------------------------------------------------------------------

    def lanes(self, kind: ElementType) -> int:
        """How many elements of a type one register of this machine holds."""
        return self.machine.lanes(kind.bytes)

    def const(self, kind: ElementType, value: float, lanes: int | None = None) -> Value:
        """A vector of one constant (0 lanes: a scalar)."""
        return _constant(kind.vector(self.lanes(kind) if lanes is None else lanes), value)

    def constants(self, kind: ElementType, values: Sequence[float]) -> Value:
        """A vector of these constants."""
        number = float if kind.floating else int
        return ir.Constant(kind.vector(len(values)), [number(v) for v in values])

    def mask(self, count: Value | int, lanes: int) -> Value:
        """A mask whose first `count` lanes are on; counts below 0 mean 0. None if a constant turns all on."""
        count = plain(count)
        if isinstance(count, int):
            if count >= lanes:
                return None
            return ir.Constant(ir.VectorType(_BIT, lanes), [int(i < count) for i in range(lanes)])
        count = self.trunc(self.imin(count, lanes), _INT)
        iota = ir.Constant(ir.VectorType(_INT, lanes), list(range(lanes)))
        return self.icmp_signed("<", iota, self.splat(count, lanes))

    def vload(
        self,
        ptr: Value,
        kind: ElementType,
        lanes: int | None = None,
        mask: Value | None = None,
        align: int | None = None,
    ) -> Value:
        """A vector from memory; lanes that are off in `mask` are not read, and are 0. Aligned to one element by
        default.
        """
        lanes = self.lanes(kind) if lanes is None else lanes
        type_, align = kind.vector(lanes), align or kind.bytes
        if mask is None:
            return self.load(ptr, align=align, typ=type_)
        name = f"llvm.masked.load.v{lanes}{_suffix(kind)}.p0"
        fn = self._intrinsic(name, type_, [PTR, _INT, mask.type, type_])
        return self.call(fn, [ptr, ir.Constant(_INT, align), mask, _constant(type_, 0)])

    def vstore(
        self,
        v: Value,
        ptr: Value,
        kind: ElementType,
        mask: Value | None = None,
        align: int | None = None,
        past: bool = False,
    ) -> None:
        """Stores a vector (or scalar); lanes that are off in `mask` are not written.

        With `past` it bypasses the caches, for results that are not read soon; the address must be a multiple of the
        vector's size. Another thread may read them after an atomic operation of this one, as any of `runtime`'s.
        """
        align = align or kind.bytes
        if past:
            stored = self.store(v, ptr, align=v.type.count * kind.bytes)
            stored.set_metadata("nontemporal", self.module.add_metadata([ir.Constant(_INT, 1)]))
            return
        if mask is None:
            self.store(v, ptr, align=align)
            return
        name = f"llvm.masked.store.v{v.type.count}{_suffix(kind)}.p0"
        fn = self._intrinsic(name, _VOID, [v.type, PTR, _INT, mask.type])
        self.call(fn, [v, ptr, ir.Constant(_INT, align), mask])

    def sload(self, ptr: Value, kind: ElementType) -> Value:
        """One element from memory."""
        return self.load(ptr, align=kind.bytes, typ=kind.ir)

    def pload(self, ptr: Value) -> Value:
        """A pointer from memory."""
        return self.load(ptr, align=8, typ=PTR)

    def splat(self, x: Value, lanes: int) -> Value:
        """A scalar in every lane."""
        type_ = ir.VectorType(x.type, lanes)
        first = self.insert_element(ir.Constant(type_, ir.Undefined), x, ir.Constant(_INT, 0))
        return self.shuffle(first, None, [0] * lanes)

    def splat_load(self, ptr: Value, kind: ElementType, lanes: int | None = None) -> Value:
        """One element from memory in every lane."""
        return self.splat(self.sload(ptr, kind), self.lanes(kind) if lanes is None else lanes)

    def shuffle(self, a: Value, b: Value | None, pick: Sequence[int]) -> Value:
        """The lanes `pick` of a followed by b (-1: anything)."""
        b = ir.Constant(a.type, ir.Undefined) if b is None else b
        lanes = [ir.Undefined if p < 0 else ir.Constant(_INT, p) for p in pick]
        mask = ir.Constant(ir.VectorType(_INT, len(pick)), [0 if p is ir.Undefined else p for p in lanes])
        return self.shuffle_vector(a, b, mask)

    def insert(self, v: Value, x: Value, lane: int) -> Value:
        """The vector with one lane replaced."""
        return self.insert_element(v, x, ir.Constant(_INT, lane))

    def extract(self, v: Value, lane: int) -> Value:
        """One lane of a vector."""
        return self.extract_element(v, ir.Constant(_INT, lane))

    def concat(self, vectors: Sequence[Value]) -> Value:
        """Vectors of one type joined into a wider one; their number is a power of two."""
        vs = list(vectors)
        while len(vs) > 1:
            n = vs[0].type.count
            vs = [self.shuffle(vs[i], vs[i + 1], list(range(2 * n))) for i in range(0, len(vs), 2)]
        return vs[0]

    def transpose(self, rows: Sequence[Value]) -> list[Value]:
        """Transposes n vectors of n lanes (a power of two): result[i][j] = rows[j][i], in n·log₂n shuffles."""
        n = len(rows)
        vs, half = list(rows), n // 2
        while half:
            out = list(vs)
            for i in range(n):
                if i & half:
                    continue
                a, b = vs[i], vs[i | half]
                low = [k if not k & half else n + (k & ~half) for k in range(n)]
                high = [k | half if not k & half else n + k for k in range(n)]
                out[i], out[i | half] = self.shuffle(a, b, low), self.shuffle(a, b, high)
            vs, half = out, half // 2
        return vs

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a·b + c on floats; one rounding where the machine has the instruction, else two."""
        return self._same("llvm.fmuladd", a, b, c)

    def maximum(self, a: Value, b: Value) -> Value:
        """a > b ? a : b on floats; where either is NaN, b. One instruction on x86."""
        return self.select(self.fcmp_ordered(">", a, b), a, b)

    def minimum(self, a: Value, b: Value) -> Value:
        """a < b ? a : b on floats; where either is NaN, b. One instruction on x86."""
        return self.select(self.fcmp_ordered("<", a, b), a, b)

    def maximum_nan(self, a: Value, b: Value) -> Value:
        """The larger of two floats; NaN where either is. The inner choice is one instruction of x86."""
        larger = self.select(self.fcmp_ordered(">", a, b), a, b)
        return self.select(self.fcmp_unordered("uno", a, a), a, larger)

    def sqrt(self, a: Value) -> Value:
        """√a."""
        return self._same("llvm.sqrt", a)

    def abs(self, a: Value) -> Value:
        """|a| on floats."""
        return self._same("llvm.fabs", a)

    def round(self, a: Value) -> Value:
        """The nearest integer as a float, halves to even."""
        return self._same("llvm.rint", a)

    def floor(self, a: Value) -> Value:
        """⌊a⌋ as a float."""
        return self._same("llvm.floor", a)

    def convert(self, v: Value, source: ElementType, target: ElementType, saturate: bool = False) -> Value:
        """The elements converted to another type. Floats become integers by truncation; with `saturate` by rounding to
        the nearest (halves to even), clamped to the target's range, NaN to its lowest. Integers wrap, or clamp with
        `saturate`.
        """
        if source == target:
            return v
        lanes = v.type.count if isinstance(v.type, ir.VectorType) else 0
        to = target.vector(lanes)
        if source.floating:
            if target.floating:
                return self.fpext(v, to) if target.bytes > source.bytes else self.fptrunc(v, to)
            if not saturate:
                return self.fptosi(v, to) if target.signed else self.fptoui(v, to)
            v = self.maximum(v, _constant(v.type, target.low))
            v = self.round(self.minimum(v, _constant(v.type, _float_below(target.high, source))))
            if target.bytes < 4:  # through i32: one conversion and one narrowing instruction on every machine
                return self.trunc(self.fptosi(v, I32.vector(lanes)), to)
            return self.fptosi(v, to) if target.signed else self.fptoui(v, to)
        if target.floating:
            return self.sitofp(v, to) if source.signed else self.uitofp(v, to)
        if saturate:
            compare = self.icmp_signed if source.signed else self.icmp_unsigned
            for bound, op in ((target.low, "<"), (target.high, ">")):
                if source.low <= bound <= source.high:
                    edge = _constant(v.type, bound)
                    v = self.select(compare(op, v, edge), edge, v)
        if target.bytes > source.bytes:
            return self.sext(v, to) if source.signed else self.zext(v, to)
        return self.trunc(v, to) if target.bytes < source.bytes else v

    def sum(self, v: Value, kind: ElementType) -> Value:
        """The sum of a vector's lanes, floats in any order."""
        lanes = v.type.count
        if not kind.floating:
            name = f"llvm.vector.reduce.add.v{lanes}{_suffix(kind)}"
            return self.call(self._intrinsic(name, kind.ir, [v.type]), [v])
        while lanes > 1:
            half = lanes // 2
            low, high = (self.shuffle(v, None, range(s, s + half)) for s in (0, half))  # type: ignore[arg-type]
            v, lanes = self.fadd(low, high), half
        return self.extract_element(v, ir.Constant(_INT, 0))

    def prefetch(self, ptr: Value, write: bool = False, locality: int = 3) -> None:
        """Prefetches a cache line; locality 3 keeps it in every level. Never faults."""
        fn = self._intrinsic("llvm.prefetch.p0", _VOID, [PTR, _INT, _INT, _INT])
        self.call(fn, [ptr, *(ir.Constant(_INT, v) for v in (int(write), locality, 1))])

    def _same(self, name: str, *args: Value) -> Value:
        """A call of the overloaded intrinsic whose arguments and result have one type."""
        type_ = args[0].type
        kind = "f32" if isinstance(scalar_of(args[0]), ir.FloatType) else "f64"
        full = f"{name}.v{type_.count}{kind}" if isinstance(type_, ir.VectorType) else f"{name}.{kind}"
        return self.call(self._intrinsic(full, type_, [type_] * len(args)), args)

    def _intrinsic(self, name: str, result: ir.Type, args: Sequence[ir.Type]) -> Value:
        found = self.module.globals.get(name)
        return found if found is not None else ir.Function(self.module, ir.FunctionType(result, args), name)


def _suffix(kind: ElementType) -> str:
    return f"f{8 * kind.bytes}" if kind.floating else f"i{8 * kind.bytes}"


def _float_below(bound: int, kind: ElementType) -> float:
    """The largest float of a type that is not above `bound`, for clamping: 2³¹−1 is not a float32."""
    digits = 24 if kind.bytes == 4 else 53
    drop = max(0, bound.bit_length() - digits)
    return float(bound >> drop << drop)


class _Splat(ir.Constant):
    """A vector of one value, written as LLVM's `splat`, which takes a tenth of the text and is parsed faster."""

    def __init__(self, type_: ir.VectorType, scalar: ir.Constant) -> None:
        super().__init__(type_, [scalar] * type_.count)
        self._scalar = scalar

    def _get_reference(self) -> str:
        return f"splat ({self._scalar})"


def _constant(type_: ir.Type, value: float) -> Value:
    """A constant of a type. Equal constants are one object, so that its text is made once."""
    key = (str(type_), repr(value))
    found = _CONSTANTS.get(key)
    if found is None:
        element = type_.element if isinstance(type_, ir.VectorType) else type_
        scalar = ir.Constant(element, int(value) if isinstance(element, ir.IntType) else float(value))
        found = _Splat(type_, scalar) if isinstance(type_, ir.VectorType) else scalar
        if len(_CONSTANTS) < _MOST_CONSTANTS:
            _CONSTANTS[key] = found
    return found


_CONSTANTS: dict[tuple[str, str], Value] = {}
_MOST_CONSTANTS = 1 << 14
