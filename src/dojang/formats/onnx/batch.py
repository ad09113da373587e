"""The batch size while an ONNX file is read: the symbol N, exact in all arithmetic that the file does with its shapes.

Shapes of drafts, and the numbers that Shape returns, contain N in formulas (`arith/symbol.py`): 2·N, N - 1 and ⌊N/2⌋
stay exact through casts to float and back, which would round a large number in place of N. A question whose answer
depends on the batch size, such as whether N equals 1, raises `Undecided`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from functools import reduce
from math import lcm
from typing import Any, cast

from dojang.arith.symbol import Expr, at_least, symbol

BATCH: Any = symbol("N")
"""The size of the batch."""

MOST_TERMS = 16
"""The most terms of a formula with N; no shape has more."""


class Undecided(ArithmeticError):
    """The answer depends on the batch size."""


def depends(value: object) -> bool:
    """Whether a size or number depends on the batch."""
    return isinstance(value, Expr)


def any_depends(values: Iterable[object]) -> bool:
    """Whether one of the values depends on the batch, also inside tuples and lists."""
    for value in values:
        if isinstance(value, tuple | list):
            if any_depends(cast(Iterable[object], value)):
                return True
        elif isinstance(value, Expr):
            return True
    return False


def times(value: Any) -> int | None:
    """c if a size is c·N, else None.

    >>> times(3 * BATCH), times(BATCH + 1), times(6)
    (3, None, None)
    """
    if not isinstance(value, Expr) or set(value.terms) != {("N",)}:
        return None
    factor = value.terms[("N",)]
    return int(factor) if factor.denominator == 1 else None


def several(value: Any) -> bool:
    """Whether a size depends on the batch, but is not c·N: N·N, N + 1, ⌊N/2⌋."""
    return isinstance(value, Expr) and times(value) is None


def at(value: Any, batch: Any) -> Any:
    """A size for a batch, which may be a number or N itself."""
    if not isinstance(value, Expr) or isinstance(batch, Expr):
        return value
    return int(value.at({"N": batch}))


def simplified(value: Any) -> Any:
    """The same number; a formula without N becomes an int if it is whole, else a float."""
    if not isinstance(value, Expr):
        return value
    constant = value.constant
    if constant is None:
        degrees = (len(term) for term in value.terms)
        if len(value.terms) > MOST_TERMS or max(degrees) > MOST_TERMS:
            raise OverflowError("no size is this large")
        return value
    return int(constant) if constant.denominator == 1 else float(constant)


def whole(value: Any) -> Any:
    """A number truncated towards zero, as by a cast."""
    if not isinstance(value, Expr):
        return int(value)
    if all(factor.denominator == 1 for factor in value.terms.values()):
        return value
    if at_least(value, 0):
        return simplified(value // 1)
    if at_least(0, value):
        return simplified(-(-value // 1))
    raise Undecided(f"whether {value} is above 0")


def exact(value: Any) -> Any:
    """A float as the fraction of its shortest decimal, for arithmetic with formulas."""
    return Fraction(repr(value)) if isinstance(value, float) else int(value) if isinstance(value, bool) else value


def _grain(value: Expr) -> Fraction:
    """Two different values of a formula without floors differ by at least this."""
    return Fraction(1, lcm(*(factor.denominator for factor in value.terms.values())))


def above(a: Any, b: Any) -> bool:
    """a > b, for every batch size; raises `Undecided` if it depends on it."""
    if not (depends(a) or depends(b)):
        return a > b
    difference = exact(a) - exact(b)
    if at_least(difference, _grain(difference)):
        return True
    if at_least(0, difference):
        return False
    raise Undecided(f"whether {a} is above {b}")


def same(a: Any, b: Any) -> bool:
    """a == b, for every batch size; raises `Undecided` if it depends on it."""
    if not (depends(a) or depends(b)):
        return a == b
    difference = exact(a) - exact(b)
    if not difference.terms:
        return True
    grain = _grain(difference)
    if at_least(difference, grain) or at_least(-grain, difference):
        return False
    raise Undecided(f"whether {a} equals {b}")


def not_below(a: Any, b: Any) -> bool:
    """a >= b, for every batch size; raises `Undecided` if it depends on it."""
    return not above(b, a)


def highest(values: Sequence[Any]) -> Any:
    """The largest, for every batch size."""
    return reduce(lambda a, b: a if not_below(a, b) else b, values)


def lowest(values: Sequence[Any]) -> Any:
    """The smallest, for every batch size."""
    return reduce(lambda a, b: b if not_below(a, b) else a, values)


def divided(a: Any, b: Any) -> Any:
    """a / b, rounded towards zero if both are whole numbers: ONNX's Div."""
    if not (depends(a) or depends(b)):
        if isinstance(a, float) or isinstance(b, float):
            return a / b
        quotient = abs(a) // abs(b)
        return quotient if (a >= 0) == (b >= 0) else -quotient
    real = isinstance(a, float) or isinstance(b, float)
    a, b = exact(a), exact(b)
    if depends(b):
        return _quotient(a, b)
    if not b:
        raise ZeroDivisionError("a size divided by 0")
    parts = a * Fraction(1, b)
    return simplified(parts if real else whole(parts))


def _quotient(a: Any, b: Expr) -> Any:
    """a / b if b divides every term of a, so that nothing is rounded."""
    found = a // b
    if isinstance(found, Expr) and any(f.denominator != 1 for f in found.terms.values()):
        raise Undecided(f"what {a} / {b} rounds to")
    return simplified(found)


def rest(a: Any, b: Any) -> Any:
    """a modulo b with the sign of b: ONNX's Mod of whole numbers."""
    if not (depends(a) or depends(b)):
        return a % b
    if not depends(b) and isinstance(b, int) and b > 0 and not depends(left := simplified(a % b)):
        return left
    raise Undecided(f"the rest of {a} / {b}")


def rounded(function: Callable[[Any], Any], up: bool | None) -> Callable[[Any], Any]:
    """Floor (`up` False), Ceil (True) or Round (None) of a number with N; `function` of numbers without."""

    def rule(value: Any) -> Any:
        if not isinstance(value, Expr):
            return function(value)
        if all(factor.denominator == 1 for factor in value.terms.values()):
            return value
        if up is None:
            raise Undecided(f"what {value} rounds to")
        return simplified(-(-value // 1) if up else value // 1)

    return rule


def size_of(value: Any) -> Any:
    """abs(value)."""
    return value if not_below(value, 0) else -value
