"""Activations: functions of one number that kernels apply where they store results. NaN stays NaN.

Errors on float32 vectors against float64 are below 4e-7 times max(1, |result|); where a function is 0 at 0, its errors
there are small beside the result, however small that is, and −0 stays −0 (`pytest
tests/engine/kernels/test_functions.py` holds both). The piecewise linear ones, `sigmoid` and `silu` take float64
vectors too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from dojang.base.record import plain_repr
from dojang.native.emit import F32, F64, I32, ElementType, Emit, Value

ERFC = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
"""Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 7.1.26: erfc within 1.5e-7 for z >= 0."""

ERF = [2 / math.sqrt(math.pi) * (-1) ** k / math.factorial(k) / (2 * k + 1) for k in range(8)]
"""Of the series of erf, from v up to v¹⁵."""


@plain_repr
@dataclass(frozen=True, slots=True)
class Activation:
    """A function applied where results are stored. `a`, `b` and `c` are parameters (bounds, slope, scale); `then` is
    applied to what it gives.
    """

    name: str
    a: float = 0.0
    b: float = 0.0
    c: float = 0.0
    then: Activation | None = None


def activate(b: Emit, v: Value, act: Activation | None, kind: ElementType) -> Value:
    """The activation on a vector, and those after it; NaN stays NaN."""
    while act is not None:
        v, act = _applied(b, v, act, kind), act.then
    return v


def _applied(b: Emit, v: Value, act: Activation, kind: ElementType) -> Value:
    """One activation on a vector."""

    def con(c: float) -> Value:
        return b.const(kind, c, v.type.count)

    if act.name == "relu":
        return b.maximum(con(0), v)
    if act.name in ("times", "plus", "over"):
        return {"times": b.fmul, "plus": b.fadd, "over": b.fdiv}[act.name](v, con(act.a))
    if act.name == "clip":
        return b.minimum(con(act.b), b.maximum(con(act.a), v))
    if act.name == "leaky_relu":
        return b.select(b.fcmp_ordered("<", v, con(0)), b.fmul(v, con(act.a)), v)
    if act.name in ("hard_sigmoid", "hard_swish"):
        gate = b.minimum(con(1), b.maximum(con(0), b.fma(v, con(act.a), con(act.b))))
        return gate if act.name == "hard_sigmoid" else b.fmul(v, gate)
    if act.name in ("sigmoid", "silu"):
        s = b.fdiv(con(1), b.fadd(con(1), exp(b, b.fsub(con(0), v))))
        return s if act.name == "sigmoid" else b.fmul(v, s)
    return FUNCTIONS[act.name](b, v, act)


def exp(b: Emit, v: Value) -> Value:
    """eˣ on float32 vectors within 2 units in the last place; overflow to infinity, underflow to 0, NaN stays.

    x = n·ln 2 + r with |r| ≤ ln 2 / 2, Taylor to r⁷ (remainder below 2⁻²⁷), scaled by 2ⁿ in two halves.
    """
    lanes = v.type.count
    x = b.minimum(con(b, 89.0, v), b.maximum(con(b, -104.0, v), v))
    n = b.round(b.fmul(x, con(b, 1.4426950408889634, v)))
    r = b.fma(n, con(b, -0.693145751953125, v), x)
    r = b.fma(n, con(b, -1.428606765330187e-06, v), r)
    p = con(b, 1 / 5040, v)
    for c in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0):
        p = b.fma(p, r, con(b, c, v))
    i = b.fptosi(n, I32.vector(lanes))
    half = b.ashr(i, b.const(I32, 1, lanes))
    for part in (half, b.sub(i, half)):
        bits = b.shl(b.add(part, b.const(I32, 127, lanes)), b.const(I32, 23, lanes))
        p = b.fmul(p, b.bitcast(bits, F32.vector(lanes)))
    return p


def con(b: Emit, c: float, like: Value) -> Value:
    """A float32 vector of one constant, with as many lanes as `like`."""
    return b.const(F32, c, like.type.count)


def tail(b: Emit, z: Value) -> Value:
    """erfc(|z|), small where |z| is large: no difference of numbers near 1."""
    z = b.abs(z)
    t = b.fdiv(con(b, 1, z), b.fma(z, con(b, 0.3275911, z), con(b, 1, z)))
    p = con(b, ERFC[-1], z)
    for c in reversed(ERFC[:-1]):
        p = b.fma(p, t, con(b, c, z))
    return b.fmul(b.fmul(p, t), exp(b, b.fsub(con(b, 0, z), b.fmul(z, z))))


def series(b: Emit, x: Value, coefficients: Sequence[float]) -> Value:
    """A polynomial, the constant first."""
    p = con(b, coefficients[-1], x)
    for c in reversed(coefficients[:-1]):
        p = b.fma(p, x, con(b, c, x))
    return p


def erf(b: Emit, v: Value, act: Activation) -> Value:
    """1 − erfc |v|, with the sign of v; near 0, where that would cancel, 2/√π·(v − v³/3 + v⁵/10 − …)."""
    value = b.fsub(con(b, 1, v), tail(b, v))
    value = b.select(b.fcmp_ordered("<", v, con(b, 0, v)), b.fneg(value), value)
    near = b.fmul(v, series(b, b.fmul(v, v), ERF))
    return b.select(b.fcmp_ordered("<", b.abs(v), con(b, 0.5, v)), near, value)


def expm1(b: Emit, v: Value) -> Value:
    """eᵛ − 1, near 0, where that would cancel, by its series to v⁷."""
    near = b.fmul(v, series(b, v, [1 / math.factorial(k) for k in range(1, 8)]))
    return b.select(b.fcmp_ordered("<", b.abs(v), con(b, 0.35, v)), near, b.fsub(exp(b, v), con(b, 1, v)))


def tanh(b: Emit, v: Value, act: Activation) -> Value:
    """−m / (m + 2) with m = e^(−2|v|) − 1, with the sign of v; 0 keeps its own."""
    size = b.abs(v)
    m = expm1(b, b.fmul(size, con(b, -2, v)))
    value = b.fdiv(b.fneg(m), b.fadd(m, con(b, 2, v)))
    value = b.select(b.fcmp_ordered("<", v, con(b, 0, v)), b.fneg(value), value)
    return b.select(b.fcmp_ordered("==", v, con(b, 0, v)), v, value)


def gelu(b: Emit, v: Value, act: Activation) -> Value:
    """v·Φ(v)."""
    half = b.fmul(tail(b, b.fmul(v, con(b, math.sqrt(0.5), v))), con(b, 0.5, v))
    return b.fmul(v, b.select(b.fcmp_ordered("<", v, con(b, 0, v)), half, b.fsub(con(b, 1, v), half)))


def gelu_tanh(b: Emit, v: Value, act: Activation) -> Value:
    """v/2·(1 + tanh u) = v / (1 + e^(−2u)), u = √(2/π)·(v + 0.044715 v³)."""
    c = math.sqrt(8 / math.pi)
    u = b.fmul(v, b.fma(b.fmul(v, v), con(b, c * 0.044715, v), con(b, c, v)))
    return b.fdiv(v, b.fadd(con(b, 1, v), exp(b, b.fsub(con(b, 0, v), u))))


def elu(b: Emit, v: Value, act: Activation) -> Value:
    """b·v where positive, else a·b·(eᵛ − 1)."""
    minus = b.fmul(expm1(b, v), con(b, act.a * act.b, v))
    return b.select(b.fcmp_ordered(">", v, con(b, 0, v)), b.fmul(v, con(b, act.b, v)), minus)


def softplus(b: Emit, v: Value, act: Activation) -> Value:
    """max(v, 0) + log(1 + e^−|v|); log(1 + u) = 2 artanh(u / (2 + u)), a series in at most (1/3)²."""
    u = exp(b, b.fsub(con(b, 0, v), b.abs(v)))
    s = b.fdiv(u, b.fadd(u, con(b, 2, v)))
    s2 = b.fmul(s, s)
    p = con(b, 1 / 15, v)
    for k in (13, 11, 9, 7, 5, 3, 1):
        p = b.fma(p, s2, con(b, 1 / k, v))
    return b.fma(b.fadd(s, s), p, b.maximum(con(b, 0, v), v))


def mish(b: Emit, v: Value, act: Activation) -> Value:
    """v·tanh(log(1 + eᵛ)) = v·q / (q + 2), q = eᵛ(eᵛ + 2); from 20 up it is v."""
    e = exp(b, b.minimum(con(b, 20, v), v))
    q = b.fmul(e, b.fadd(e, con(b, 2, v)))
    return b.fmul(v, b.fdiv(q, b.fadd(q, con(b, 2, v))))


def softsign(b: Emit, v: Value, act: Activation) -> Value:
    """v / (1 + |v|)."""
    return b.fdiv(v, b.fadd(con(b, 1, v), b.abs(v)))


def ceil(b: Emit, v: Value, act: Activation) -> Value:
    """The least integer not below v."""
    return b.fneg(b.floor(b.fneg(v)))


def sign(b: Emit, v: Value, act: Activation) -> Value:
    """−1, 0 or 1; NaN stays."""
    plus = b.select(b.fcmp_ordered(">", v, con(b, 0, v)), con(b, 1, v), v)
    return b.select(b.fcmp_ordered("<", v, con(b, 0, v)), con(b, -1, v), plus)


def log(b: Emit, v: Value) -> Value:
    """The natural logarithm of normal positive numbers: e·ln 2 + 2 artanh((m − 1)/(m + 1)), m within √½ and √2."""
    lanes = v.type.count
    bits, half = b.bitcast(v, I32.vector(lanes)), b.const(I32, 0x3F3504F3, lanes)
    e = b.ashr(b.sub(bits, half), b.const(I32, 23, lanes))
    m = b.bitcast(b.sub(bits, b.shl(e, b.const(I32, 23, lanes))), F32.vector(lanes))
    s = b.fdiv(b.fsub(m, con(b, 1, v)), b.fadd(m, con(b, 1, v)))
    s2 = b.fmul(s, s)
    p = con(b, 2 / 9, v)
    for k in (7, 5, 3, 1):
        p = b.fma(p, s2, con(b, 2 / k, v))
    out = b.fma(b.sitofp(e, F32.vector(lanes)), con(b, math.log(2), v), b.fmul(s, p))
    return b.select(b.fcmp_unordered("uno", v, v), v, out)


def logarithm(b: Emit, v: Value, act: Activation) -> Value:
    """The natural logarithm of any number: −∞ of 0, NaN below, ∞ of ∞; denormal numbers by 2²⁴ of them."""
    small = b.fcmp_ordered("<", v, con(b, 2.0**-126, v))
    scaled = b.select(small, b.fmul(v, con(b, 2.0**24, v)), v)
    shift = b.select(small, con(b, 24 * math.log(2), v), con(b, 0, v))
    value = b.fsub(log(b, scaled), shift)
    value = b.select(b.fcmp_ordered("==", v, con(b, 0, v)), con(b, -math.inf, v), value)
    value = b.select(b.fcmp_ordered("<", v, con(b, 0, v)), con(b, math.nan, v), value)
    return b.select(b.fcmp_ordered("==", v, con(b, math.inf, v)), v, value)


HALF_PI = (1.5707963267948966, 6.123233995736766e-17)
"""π/2 as a sum of two float64 numbers."""
PI = Fraction("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899")
FAR = 30
"""Angles from 2³⁰ on are taken apart into a whole number of 24 bits and a power of 2, of which whole turns are left
out beforehand: the product is right to 2⁻²⁶."""


def wave(b: Emit, v: Value, quarter: int) -> Value:
    """sin(v + quarter · π/2). In float64 v less n·π/2, at most π/4 away from 0; there by the series of sine or cosine,
    as n says.
    """
    lanes = v.type.count
    wide = lambda c: b.const(F64, c, lanes)  # noqa: E731
    whole = lambda c: b.const(I32, c, lanes)  # noqa: E731
    bits = b.bitcast(b.abs(v), I32.vector(lanes))
    power, turns = b.ashr(bits, whole(23)), wide(0.0)
    for exponent in range(FAR, 128):
        rest = float(Fraction(2) ** (exponent - 23) % (2 * PI))
        turns = b.select(b.icmp_signed("==", power, whole(exponent + 127)), wide(rest), turns)
    digits = b.add(b.and_(bits, whole((1 << 23) - 1)), whole(1 << 23))
    far = b.fmul(b.sitofp(digits, F64.vector(lanes)), turns)
    far = b.select(b.fcmp_ordered("<", v, con(b, 0, v)), b.fneg(far), far)
    x = b.convert(v, F32, F64)
    x = b.select(b.icmp_signed("<", power, whole(FAR + 127)), x, far)
    n = b.round(b.fmul(x, wide(2 / math.pi)))
    r = b.fma(n, wide(-HALF_PI[0]), x)
    r = b.convert(b.fma(n, wide(-HALF_PI[1]), r), F64, F32)
    turn = b.add(b.convert(n, F64, I32), whole(quarter))
    square = b.fmul(r, r)
    sine = b.fmul(r, series(b, square, [(-1) ** k / math.factorial(2 * k + 1) for k in range(6)]))
    cosine = series(b, square, [(-1) ** k / math.factorial(2 * k) for k in range(6)])
    value = b.select(b.icmp_signed("!=", b.and_(turn, whole(1)), whole(0)), cosine, sine)
    value = b.select(b.icmp_signed("!=", b.and_(turn, whole(2)), whole(0)), b.fneg(value), value)
    if quarter == 0:
        value = b.select(b.fcmp_ordered("==", v, con(b, 0, v)), v, value)  # with its sign
    return b.select(b.fcmp_ordered("<", b.abs(v), con(b, math.inf, v)), value, con(b, math.nan, v))


def fake_quantize(b: Emit, v: Value, act: Activation) -> Value:
    """a · round(v / a), where the whole number is held within b and c; NaN becomes the least."""
    whole = b.round(b.fdiv(v, con(b, act.a, v)))
    whole = b.select(b.fcmp_ordered(">", whole, con(b, act.b, v)), whole, con(b, act.b, v))
    whole = b.select(b.fcmp_ordered("<", whole, con(b, act.c, v)), whole, con(b, act.c, v))
    return b.fmul(whole, con(b, act.a, v))


FUNCTIONS: Mapping[str, Callable[[Emit, Value, Activation], Value]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "elu": elu,
    "erf": erf,
    "tanh": tanh,
    "softplus": softplus,
    "mish": mish,
    "softsign": softsign,
    "exp": lambda b, v, act: exp(b, v),
    "log": logarithm,
    "sin": lambda b, v, act: wave(b, v, 0),
    "cos": lambda b, v, act: wave(b, v, 1),
    "abs": lambda b, v, act: b.abs(v),
    "neg": lambda b, v, act: b.fneg(v),
    "sqrt": lambda b, v, act: b.sqrt(v),
    "reciprocal": lambda b, v, act: b.fdiv(con(b, 1, v), v),
    "floor": lambda b, v, act: b.floor(v),
    "ceil": ceil,
    "round": lambda b, v, act: b.round(v),
    "sign": sign,
    "fake_quantize": fake_quantize,
}
"""By the name of the activation."""

NAMES = frozenset(FUNCTIONS) - {"gelu", "gelu_tanh", "elu", "fake_quantize"}
"""Those that are an operator without attributes."""
