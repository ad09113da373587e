"""Comparisons, truth values and choices of computed values, and functions of one number that are made of them."""

from __future__ import annotations

from functools import reduce
from math import frexp, log, pi
from typing import Any

import torch

from dojang.arith.shapes import axis_of
from dojang.formats.torch.read import views as torch_views
from dojang.formats.torch.read.kinds import alike, is_whole, picks, places, real, truths, whole_number, wide
from dojang.formats.torch.read.ops import Handler, per_axis
from dojang.formats.torch.read.trace import Tracer
from dojang.formats.torch.read.traced import HANDLERS, Traced

COMPARED = {
    "Equal": "eq", "Less": "lt less", "LessOrEqual": "le less_equal", "Greater": "gt greater",
    "GreaterOrEqual": "ge greater_equal",
}  # fmt: skip
MOST = torch.finfo(torch.float32).max
SWAPPED = {"Less": "Greater", "LessOrEqual": "GreaterOrEqual", "Greater": "Less", "GreaterOrEqual": "LessOrEqual"}


def compare(t: Tracer, kind: str, a: Any, b: Any, part: str | None = None) -> Traced:
    """Truth values of a comparison of two values of any types."""
    if not isinstance(a, torch.Tensor):
        a, b, kind = b, a, SWAPPED.get(kind, kind)
    one, two = alike(t, a, b)
    return t.standard(kind, (one, two), wide(one.sizes, two.sizes), torch.bool, part=part)


def _compared(kind: str) -> Handler:
    return lambda t, a, b: compare(t, kind, a, b)


for _kind, _names in COMPARED.items():
    picks(*_names.split())(_compared(_kind))


def negated(t: Tracer, x: Traced, part: str | None = None) -> Traced:
    """The other truth value."""
    return t.standard("Not", (truths(t, x),), x.sizes, torch.bool, part=part)


@picks("ne", "not_equal")
def different(t: Tracer, a: Any, b: Any) -> Any:
    """Not equal; NaN differs from itself."""
    return negated(t, compare(t, "Equal", a, b, part="equal"))


def _joined(kind: str, bits: bool) -> Handler:
    def handler(t: Tracer, a: Any, b: Any) -> Any:
        if bits and any(
            v.dtype != torch.bool if isinstance(v, torch.Tensor) else not isinstance(v, bool) for v in (a, b)
        ):
            return NotImplemented  # of whole numbers, bit by bit
        one, two = truths(t, a), truths(t, b)
        return t.standard(kind, (one, two), wide(one.sizes, two.sizes), torch.bool)

    return handler


for _kind, _word in {"And": "and", "Or": "or", "Xor": "xor"}.items():
    picks(f"logical_{_word}")(_joined(_kind, False))
    picks(f"bitwise_{_word}", _word, f"r{_word}", f"i{_word}")(_joined(_kind, True))


@picks("bitwise_not", "invert")
def inverted(t: Tracer, x: Traced) -> Any:
    """The other truth value; of whole numbers bit by bit, which is another thing."""
    return negated(t, x) if x.dtype == torch.bool else NotImplemented


def _asked(kind: str, **settings: int) -> Handler:
    return lambda t, x: t.standard(kind, (real(t, x),), x.sizes, torch.bool, **settings)


picks("isnan")(_asked("IsNaN"))
picks("isinf")(_asked("IsInf"))
picks("isposinf")(_asked("IsInf", detect_negative=0))
picks("isneginf")(_asked("IsInf", detect_positive=0))


@picks("isfinite")
def finite(t: Tracer, x: Traced) -> Any:
    """Neither NaN nor infinite."""
    lost = t.standard("IsNaN", (real(t, x),), x.sizes, torch.bool, part="nan")
    far = t.standard("IsInf", (real(t, x),), x.sizes, torch.bool, part="infinite")
    return negated(t, t.standard("Or", (lost, far), x.sizes, torch.bool, part="or"))


def _over(kind: str) -> Handler:
    def handler(t: Tracer, x: Traced, dim: Any = None, keepdim: bool = False) -> Any:
        axes = tuple(axis_of(a, x.dim()) for a in (range(x.dim()) if dim is None else per_axis(dim, 1)))
        numbers = t.cast(truths(t, x), torch.float32)
        found = t.emit(f"reduce_{kind}", numbers, part="reduce", axes=axes, keepdims=bool(keepdim))
        return t.cast(found, torch.bool)

    return handler


picks("any")(_over("max"))
picks("all")(_over("min"))


def choose(t: Tracer, condition: Any, a: Any, b: Any, part: str | None = None) -> Traced:
    """The one where a condition is true, else the other."""
    one, two = alike(t, a, b)
    asked = truths(t, condition)
    shape = wide(asked.sizes, one.sizes, two.sizes)
    kind = one.dtype if is_whole(t, one) else None
    return t.standard("Where", (asked, one, two), shape, kind, part=part)


def _fallback(name: str, more: Handler) -> None:
    """A rule for the forms that the rule that there is does not take."""
    first = HANDLERS[name]

    def handler(t: Tracer, *args: Any, **kwargs: Any) -> Any:
        found = first(t, *args, **kwargs)
        return more(t, *args, **kwargs) if found is NotImplemented else found

    picks(name)(handler)


def _where(t: Tracer, condition: Any, x: Any = None, other: Any = None) -> Any:
    """A choice by computed truth values."""
    return NotImplemented if x is None or other is None else choose(t, condition, x, other)


def _filled(t: Tracer, x: Any, mask: Any, value: Any) -> Any:
    """One number where a computed mask is true."""
    return choose(t, mask, value, x)


assert torch_views is not None  # has the rules that come first
_fallback("where", _where)
_fallback("masked_fill", _filled)


def _triangle(kind: str) -> Handler:
    def handler(t: Tracer, x: Traced, diagonal: int = 0) -> Any:
        with torch._C.DisableTorchFunction():
            kept = getattr(torch, kind)(torch.ones(x.sizes[-2:], dtype=torch.bool), diagonal)
        return choose(t, kept, x, 0.0)

    return handler


picks("tril")(_triangle("tril"))
picks("triu")(_triangle("triu"))


@picks("nan_to_num")
def numbers_only(
    t: Tracer, x: Traced, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Any:
    """Numbers in place of NaN and of infinity."""
    for kind, number, settings in (
        ("IsNaN", 0.0 if nan is None else nan, {}),
        ("IsInf", MOST if posinf is None else posinf, {"detect_negative": 0}),
        ("IsInf", -MOST if neginf is None else neginf, {"detect_positive": 0}),
    ):
        found = t.standard(kind, (real(t, x),), x.sizes, torch.bool, part="found", **settings)
        x = choose(t, found, float(number), x, part="number")
    return x


@picks("remainder", "mod")
def remainder(t: Tracer, a: Any, b: Any) -> Any:
    """What is left of a division, with the sign of the divisor."""
    if all(not v.dtype.is_floating_point if isinstance(v, torch.Tensor) else isinstance(v, int) for v in (a, b)):
        one, two = (whole_number(t, v) if isinstance(v, int) else places(t, v) for v in (a, b))
        return t.standard("Mod", (one, two), wide(one.sizes, two.sizes), torch.int64)
    left, two = HANDLERS["fmod"](t, a, b), real(t, b)
    opposed = compare(t, "Less", t.emit("mul", t.emit("sign", left, part="sign"), t.emit("sign", two, part="sign"),
                                        part="signs"), 0.0, part="opposed")  # fmt: skip
    return choose(t, opposed, t.emit("add", left, two, part="moved"), left)


@picks("rmod")
def remainder_swapped(t: Tracer, a: Any, b: Any) -> Any:
    """The same, of b by a."""
    return remainder(t, b, a)


@picks("fmod")
def fmod(t: Tracer, a: Any, b: Any) -> Any:
    """What is left of a division, with the sign of what is divided."""
    one, two = real(t, a), real(t, b)
    return t.standard("Mod", (one, two), wide(one.sizes, two.sizes), fmod=1)


@picks("floor_divide", "floordiv")
def floor_divide(t: Tracer, a: Any, b: Any) -> Any:
    """⌊a / b⌋ as PyTorch has it: what is left over is taken away before the division, so that 1 // 0.1 is 9."""
    one, two = real(t, a, b), real(t, b, a)
    types = [v.dtype for v in (a, b) if isinstance(v, torch.Tensor)]
    if not any(d.is_floating_point for d in types) and not any(isinstance(v, float) for v in (a, b)):
        down = t.emit("floor", t.emit("div", one, two, part="quotient"), part="floor")
        return t.cast(down, reduce(torch.promote_types, types))
    if isinstance(b, int | float) and frexp(b)[0] in (0.5, -0.5):  # by a power of two the quotient is exact
        down = t.emit("floor", t.emit("div", one, two, part="quotient"), part="floor")
        return t.emit("add", down, t.emit("sub", one, one, part="finite"))  # NaN for infinities
    left = t.standard("Mod", (one, two), wide(one.sizes, two.sizes), part="left", fmod=1)
    whole = t.emit("div", t.emit("sub", one, left, part="rest"), two, part="quotient")
    sides = t.emit("mul", t.emit("sign", left, part="sign"), t.emit("sign", two, part="sign"), part="signs")
    less = t.emit("sub", whole, t.number(1.0, whole), part="one_less")
    whole = choose(t, compare(t, "Less", sides, 0.0, part="opposed"), less, whole, part="less")
    down = t.emit("floor", whole, part="floor")
    up = compare(t, "Greater", t.emit("sub", whole, down, part="lost"), 0.5, part="up")
    found = choose(t, up, t.emit("add", down, t.number(1.0, down), part="one_more"), down)
    if isinstance(b, int | float) and b:
        return found
    return choose(t, compare(t, "Equal", two, 0.0, part="zero"), t.emit("div", one, two, part="pole"), found)


@picks("rfloordiv")
def floor_divide_swapped(t: Tracer, a: Any, b: Any) -> Any:
    """⌊b / a⌋."""
    return floor_divide(t, b, a)


def _of_numbers(op: str) -> Handler:
    def handler(t: Tracer, a: Any, b: Any) -> Any:
        one, two = real(t, a), real(t, b)
        both = t.emit(op, one, two, part=op)
        lost = [t.standard("IsNaN", (v,), v.sizes, torch.bool, part="nan") for v in (one, two)]
        return choose(t, lost[0], two, choose(t, lost[1], one, both, part="other"))

    return handler


picks("fmax")(_of_numbers("maximum"))
picks("fmin")(_of_numbers("minimum"))


@picks("sign")
def sign(t: Tracer, x: Traced) -> Any:
    """-1, 0 or 1; 0 for NaN."""
    if not x.dtype.is_floating_point:
        return t.emit("sign", x)
    lost = t.standard("IsNaN", (x,), x.sizes, torch.bool, part="nan")
    return choose(t, lost, 0.0, t.emit("sign", x, part="sign"))


# -- made of others ------------------------------------------------------------------------------------------------


def _times(op: str) -> Handler:
    def handler(t: Tracer, x: Any, a: Any, b: Any, *, value: float = 1) -> Any:
        both = t.emit(op, real(t, a), real(t, b), part=op)
        if value != 1:
            both = t.emit("mul", both, t.number(float(value), both), part="scale")
        return t.emit("add", real(t, x), both)

    return handler


picks("addcmul")(_times("mul"))
picks("addcdiv")(_times("div"))


@picks("lerp")
def lerp(t: Tracer, a: Any, b: Any, weight: Any) -> Any:
    """a + weight · (b − a)."""
    apart = t.emit("sub", real(t, b), real(t, a), part="apart")
    return t.emit("add", real(t, a), t.emit("mul", apart, real(t, weight, apart), part="part"))


@picks("threshold")
def threshold(t: Tracer, x: Traced, threshold: float, value: float) -> Any:
    """x above a limit, else a number; NaN stays."""
    return choose(t, compare(t, "LessOrEqual", x, float(threshold), part="below"), float(value), x)


@picks("hardshrink")
def hardshrink(t: Tracer, x: Traced, lambd: float = 0.5) -> Any:
    """x outside of ±λ, else 0; NaN stays."""
    inside = compare(t, "LessOrEqual", t.emit("abs", x, part="abs"), float(lambd), part="inside")
    return choose(t, inside, 0.0, x)


@picks("softshrink")
def softshrink(t: Tracer, x: Traced, lambd: float = 0.5) -> Any:
    """x towards 0 by λ: x less what lies within ±λ, so that NaN stays, which Shrink of ONNX makes 0."""
    return t.emit("sub", x, t.emit("clip", x, part="within", min=-float(lambd), max=float(lambd)))


def _by_number(op: str, number: float, last: str = "mul") -> Handler:
    def handler(t: Tracer, x: Any) -> Any:
        x = real(t, x)
        if op == "exp":
            return t.emit("exp", t.emit("mul", x, t.number(number, x), part="mul"))
        return t.emit(last, t.emit(op, x, part=op), t.number(number, x))

    return handler


picks("log2")(_by_number("log", 1 / log(2)))
picks("log10")(_by_number("log", 1 / log(10)))
picks("exp2", "special_exp2")(_by_number("exp", log(2)))

for _name, _kind in {
    "tan": "Tan", "asin": "Asin", "arcsin": "Asin", "acos": "Acos", "arccos": "Acos", "atan": "Atan", "arctan": "Atan",
    "sinh": "Sinh", "cosh": "Cosh", "asinh": "Asinh", "acosh": "Acosh", "atanh": "Atanh",
}.items():  # fmt: skip
    picks(_name)(lambda t, x, kind=_kind: t.standard(kind, (real(t, x),), x.sizes))


@picks("trunc", "fix")
def trunc(t: Tracer, x: Traced) -> Any:
    """Without the part behind the point."""
    down = t.emit("floor", t.emit("abs", x, part="abs"), part="floor")
    return t.emit("mul", down, t.emit("sign", x, part="sign"))


@picks("frac")
def frac(t: Tracer, x: Traced) -> Any:
    """The part behind the point."""
    return t.emit("sub", x, trunc(t, x))


@picks("erfc", "special_erfc")
def erfc(t: Tracer, x: Traced) -> Any:
    """1 − erf(x)."""
    return t.emit("sub", t.number(1.0, x), t.emit("erf", x, part="erf"))


@picks("logit", "special_logit")
def logit(t: Tracer, x: Traced, eps: float | None = None) -> Any:
    """log(x / (1 − x))."""
    x = t.emit("clip", x, part="clip", min=float(eps), max=1 - float(eps)) if eps is not None else x
    return t.emit("log", t.emit("div", x, t.emit("sub", t.number(1.0, x), x, part="rest"), part="share"))


@picks("hypot")
def hypot(t: Tracer, a: Traced, b: Traced) -> Any:
    """√(a² + b²)."""
    squares = [t.emit("mul", v, v, part="square") for v in (real(t, a), real(t, b))]
    return t.emit("sqrt", t.emit("add", *squares, part="sum"))


@picks("atan2", "arctan2")
def atan2(t: Tracer, y: Any, x: Any) -> Any:
    """The angle of a point in all four quarters; −π is π where y is −0. Infinity counts as the largest number."""
    y, x = (t.emit("clip", real(t, v), part=name, min=-MOST, max=MOST) for v, name in ((y, "y"), (x, "x")))
    angle = t.standard("Atan", (t.emit("div", y, x, part="share"),), wide(y.sizes, x.sizes), part="angle")
    below = compare(t, "Less", y, 0.0, part="below")
    turned = t.emit("add", angle, choose(t, below, -pi, pi, part="half"), part="turned")
    found = choose(t, compare(t, "Less", x, 0.0, part="left"), turned, angle, part="quarters")
    # Where x is 0 the share says nothing: it is infinite with the sign of that 0, or 0 / 0.
    upright = t.emit("mul", t.emit("sign", y, part="side"), t.number(pi / 2, y), part="upright")
    return choose(t, compare(t, "Equal", x, 0.0, part="mid"), upright, found)


@picks("cosine_similarity")
def cosine_similarity(t: Tracer, x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    """The products over the lengths, each at least ε."""
    a, b = real(t, x1), real(t, x2)
    axes = (axis_of(dim, max(a.dim(), b.dim())),)
    made = [
        t.emit("reduce_sum", t.emit("mul", v, w, part=f"{what}.product"), part=what, axes=axes, keepdims=False)
        for what, v, w in (("both", a, b), ("first", a, a), ("second", b, b))
    ]
    least = t.number(float(eps), made[1])
    sizes = [t.emit("maximum", t.emit("sqrt", v, part="size"), least, part="least") for v in made[1:]]
    return t.emit("div", made[0], t.emit("mul", *sizes, part="sizes"))


@picks("pairwise_distance")
def pairwise_distance(t: Tracer, x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Any:
    """The length of x1 − x2 + ε."""
    apart = t.emit("sub", real(t, x1), real(t, x2), part="apart")
    moved = t.emit("add", apart, t.number(float(eps), apart), part="moved")
    axes = (moved.dim() - 1,)
    if p == 1:
        return t.emit("reduce_sum", t.emit("abs", moved, part="abs"), axes=axes, keepdims=bool(keepdim))
    if p != 2:
        return NotImplemented
    square = t.emit("mul", moved, moved, part="square")
    return t.emit("sqrt", t.emit("reduce_sum", square, part="sum", axes=axes, keepdims=bool(keepdim)))


@picks("cdist")
def cdist(t: Tracer, x1: Any, x2: Any, p: float = 2.0, compute_mode: Any = None) -> Any:
    """The distances of all pairs of rows."""
    a, b = real(t, x1), real(t, x2)
    rank = a.dim()
    apart = t.emit("sub", t.emit("unsqueeze", a, part="rows", axes=(rank - 1,)),
                   t.emit("unsqueeze", b, part="columns", axes=(rank - 2,)), part="apart")  # fmt: skip
    if p == 1:
        return t.emit("reduce_sum", t.emit("abs", apart, part="abs"), axes=(rank,), keepdims=False)
    if p != 2:
        return NotImplemented
    total = t.emit("reduce_sum", t.emit("mul", apart, apart, part="square"), part="sum", axes=(rank,), keepdims=False)
    return t.emit("sqrt", total)


def _both(kind: str) -> Handler:
    def handler(t: Tracer, x: Traced, dim: Any = None, *args: Any, **kwargs: Any) -> Any:
        keep = {"keepdim": bool(kwargs.get("keepdim", False))}
        spread = t.within(kind, HANDLERS[kind], x, dim, *args, **kwargs)
        mean = t.within("mean", HANDLERS["mean"], x, None if isinstance(dim, bool) else dim, **keep)
        return spread, mean

    return handler


picks("var_mean")(_both("var"))
picks("std_mean")(_both("std"))
