"""Sizes that stay symbols: polynomials with integer coefficients over symbols and floors, in a normal form.

Shapes, parameters and MACs come out as formulas when an input size is a symbol (`--input-size 3,H,W`), because every
rule of this package uses only +, -, ·, floor division and comparison. Substituting numbers gives exactly what counting
with these numbers gives, as long as they are large enough that no size falls below the comparisons that were decided
(`LARGE`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import floor, gcd

LARGE = 2 * 2 * 3 * 5 * 7 * 2**20
"""The value of every symbol in comparisons: formulas hold for sizes that are large enough."""


@dataclass(frozen=True, slots=True)
class Floor:
    """⌊numerator / divisor⌋, when it cannot be simplified further."""

    numerator: Expr
    divisor: int

    def __str__(self) -> str:
        return f"⌊{_bracket(str(self.numerator))}/{self.divisor}⌋"


@dataclass(frozen=True, slots=True)
class Max:
    """The largest of several expressions, when it depends on the symbols which one that is."""

    options: tuple[Expr, ...]

    def __str__(self) -> str:
        return f"max({', '.join(str(o) for o in self.options)})"


Atom = str | Floor | Max
Term = tuple[Atom, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Expr:
    """A sum of terms: a coefficient for each product of atoms. Build with `symbol` and arithmetic.

    `<`, `<=`, `>` and `>=` compare the values for symbols of size `LARGE`; `==` compares the normal forms.

    >>> h = symbol("H")
    >>> print((h + 2 * 3 - 7) // 2 + 1)
    ⌊(H + 1)/2⌋
    """

    terms: Mapping[Term, Fraction]

    def __add__(self, other: object) -> Expr:
        right = _expr(other)
        if right is None:
            return NotImplemented
        total = dict(self.terms)
        for term, factor in right.terms.items():
            total[term] = total.get(term, Fraction(0)) + factor
        return Expr({t: f for t, f in total.items() if f})

    __radd__ = __add__

    def __neg__(self) -> Expr:
        return self * -1

    def __sub__(self, other: object) -> Expr:
        right = _expr(other)
        return NotImplemented if right is None else self + -right

    def __rsub__(self, other: object) -> Expr:
        return -self + other

    def __mul__(self, other: object) -> Expr:
        right = _expr(other)
        if right is None:
            return NotImplemented
        total: dict[Term, Fraction] = {}
        for a, fa in self.terms.items():
            for b, fb in right.terms.items():
                term = tuple(sorted((*a, *b), key=str))
                total[term] = total.get(term, Fraction(0)) + fa * fb
        return Expr({t: f for t, f in total.items() if f})

    __rmul__ = __mul__

    def __floordiv__(self, other: object) -> Expr:
        if isinstance(other, Expr) and other.constant is not None:
            other = int(other.constant)
        if not isinstance(other, int) or other == 0:
            return self._exact_quotient(other)
        return _floor(self, other)

    def __rfloordiv__(self, other: object) -> Expr:
        left = _expr(other)
        return NotImplemented if left is None else left._exact_quotient(self)

    def _exact_quotient(self, other: object) -> Expr:
        """self / other, if other is one term that divides every term of self; reshape needs it for -1."""
        right = _expr(other)
        if right is None or len(right.terms) != 1:
            raise ArithmeticError(f"{self} cannot be divided by {other} symbolically")
        ((below, factor),) = right.terms.items()
        out: dict[Term, Fraction] = {}
        for term, coefficient in self.terms.items():
            left = list(term)
            for atom in below:
                if atom not in left:
                    raise ArithmeticError(f"{self} cannot be divided by {other} symbolically")
                left.remove(atom)
            out[tuple(left)] = coefficient / factor
        return Expr(out)

    def __mod__(self, other: int) -> Expr:
        return self - (self // other) * other

    def __floor__(self) -> Expr:
        return _floor(self, 1)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int):  # most sizes are compared with 1
            return self.constant == other
        right = _expr(other)
        return right is not None and self.terms == right.terms

    def __hash__(self) -> int:
        return hash(self.constant) if self.constant is not None else hash(frozenset(self.terms))

    def __lt__(self, other: object) -> bool:
        return self._sign(other) < 0

    def __le__(self, other: object) -> bool:
        return self._sign(other) <= 0

    def __gt__(self, other: object) -> bool:
        return self._sign(other) > 0

    def __ge__(self, other: object) -> bool:
        return self._sign(other) >= 0

    def _sign(self, other: object) -> Fraction:
        right = _expr(other)
        if right is None:
            raise TypeError(f"cannot compare {self} with {other!r}")
        difference = self - right
        return difference.at(dict.fromkeys(difference.symbols, LARGE))

    @property
    def constant(self) -> Fraction | None:
        """The value when no symbol is in it, else None."""
        if not self.terms:
            return Fraction(0)
        return self.terms.get(()) if len(self.terms) == 1 else None

    @property
    def largest_option(self) -> Expr:
        """Of a `max(...)` the option that is the largest for large sizes; any other expression is returned as it is."""
        for term in self.terms:
            if len(term) == 1 and isinstance(term[0], Max):
                return max(term[0].options)
        return self

    @property
    def symbols(self) -> frozenset[str]:
        """Names of the symbols in it."""
        found: set[str] = set()
        for term in self.terms:
            for atom in term:
                if isinstance(atom, str):
                    found.add(atom)
                else:
                    for part in atom.options if isinstance(atom, Max) else (atom.numerator,):
                        found |= part.symbols
        return frozenset(found)

    def at(self, values: Mapping[str, int]) -> Fraction:
        """The value with numbers in place of symbols; every symbol must be given."""
        total = Fraction(0)
        for term, factor in self.terms.items():
            product = factor
            for atom in term:
                product *= _atom_at(atom, values)
            total += product
        return total

    def __str__(self) -> str:
        if not self.terms:
            return "0"
        ordered = sorted(self.terms.items(), key=lambda item: (-len(item[0]), [str(a) for a in item[0]]))
        text = ""
        for term, factor in ordered:
            sign = " - " if factor < 0 else " + "
            text += (sign if text else "-" if factor < 0 else "") + _product(term, abs(factor))
        return text

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return format(str(self), spec.replace(",", "") if spec.endswith(",") else spec)


def symbol(name: str) -> Expr:
    """A symbol for a size that is not known; it is at least 1."""
    return Expr({(name,): Fraction(1)})


def symbolic(value: object) -> bool:
    """Whether a size is a formula. Shape rules call sizes `int`, which is what they are outside this module."""
    return isinstance(value, Expr)


def scaled(size: int, factor: float) -> int:
    """⌊size · factor⌋; for a formula, the factor is taken as a fraction."""
    return floor(size * (Fraction(factor).limit_denominator(4096) if symbolic(size) else factor))


def largest(values: Iterable[int | Expr]) -> int | Expr:
    """The largest of sizes: a number, an expression that is never below the others, or their `max(...)`.

    >>> h = symbol("H")
    >>> print(largest([5, 4 * h, h + 3, h]), largest([3 * h, 10 * h // 3]), largest([2 * h, 100]))
    max(5, 4·H) 3·H + ⌊H/3⌋ max(2·H, 100)
    """
    given = list(values)
    numbers = [value for value in given if isinstance(value, int)]
    if len(numbers) == len(given):
        return max(numbers)
    kept: list[Expr] = []
    for value in dict.fromkeys(given):
        new = _expr(value)
        if new is None:
            raise TypeError(f"{value!r} is not a size")
        if not any(_never_below(old, new) for old in kept):
            kept = [old for old in kept if not _never_below(new, old)] + [new]
    if len(kept) > 1:
        return Expr({(Max(tuple(kept)),): Fraction(1)})
    only = kept[0].constant
    return kept[0] if only is None else int(only)


def at_least(a: object, b: object) -> bool:
    """Whether a >= b is sure for all symbols of at least 1; False also if it cannot be decided.

    >>> n = symbol("N")
    >>> at_least(n + 1, 2), at_least(n, 2), at_least(2 * n, n)
    (True, False, True)
    """
    left, right = _expr(a), _expr(b)
    if left is None or right is None:
        raise TypeError(f"cannot compare {a!r} with {b!r}")
    return _never_below(left, right)


def _never_below(a: Expr, b: Expr) -> bool:
    """Whether a >= b is sure for all symbols of at least 1.

    Each floor with a positive coefficient in a - b is replaced by a lower bound (its fraction minus the most that
    rounding takes, or 0), each other one by an upper bound (its fraction). If no term of the result is negative, a >=
    b.
    """
    terms = (a - b).terms
    if any(isinstance(atom, Max) for term in terms for atom in term):
        return False
    for zero in (False, True):
        bound = Expr({})
        for term, factor in terms.items():
            product = Expr({(): factor})
            for atom in term:
                if isinstance(atom, str):
                    product *= symbol(atom) + 1
                elif isinstance(atom, Floor):
                    product *= 0 if zero and factor > 0 else _bounded(atom, below=factor > 0)
            bound += product
        if all(factor >= 0 for factor in bound.terms.values()):
            return True
    return False


def _bounded(atom: Floor, below: bool) -> Expr:
    """An upper or (`below`) lower bound of a floor without rounding, with symbol + 1 in place of each symbol."""
    total = Expr({(): Fraction(1 - atom.divisor if below else 0, atom.divisor)})
    for term, factor in atom.numerator.terms.items():
        product = Expr({(): factor / atom.divisor})
        for inner in term:
            product *= symbol(inner) + 1 if isinstance(inner, str) else Expr({(inner,): Fraction(1)})
        total += product
    return total


def _atom_at(atom: Atom, values: Mapping[str, int]) -> Fraction | int:
    if isinstance(atom, str):
        return values[atom]
    if isinstance(atom, Max):
        return max(option.at(values) for option in atom.options)
    return atom.numerator.at(values) // atom.divisor


def _expr(value: object) -> Expr | None:
    if isinstance(value, Expr):
        return value
    if isinstance(value, int | Fraction):
        return Expr({(): Fraction(value)} if value else {})
    return None


def _product(term: Term, factor: Fraction) -> str:
    powers: dict[str, int] = {}
    for atom in term:
        powers[str(atom)] = powers.get(str(atom), 0) + 1
    parts = [name + ("" if power == 1 else "^" + str(power)) for name, power in powers.items()]
    if factor != 1 or not parts:
        parts.insert(0, f"{factor.numerator:,}" if factor.denominator == 1 else f"({factor})")
    return "·".join(parts)


def _bracket(text: str) -> str:
    return f"({text})" if " " in text else text


def _floor(value: Expr, divisor: int) -> Expr:
    """⌊value / divisor⌋ in normal form.

    Terms that the divisor divides are taken out; a floor inside a floor becomes one: ⌊(⌊x/a⌋ + b)/c⌋ = ⌊(x + ab)/(ac)⌋;
    common factors of numerator and divisor are cancelled, because the rest of the numerator is an integer.
    """
    if divisor < 0:
        return _floor(-value, -divisor)
    denominator = 1
    for factor in value.terms.values():
        denominator = denominator * factor.denominator // gcd(denominator, factor.denominator)
    value, divisor = value * denominator, divisor * denominator
    out = Expr({})
    rest: dict[Term, Fraction] = {}
    for term, factor in value.terms.items():
        whole = factor.numerator // divisor
        if whole:
            out += Expr({term: Fraction(whole)})
        if factor - whole * divisor:
            rest[term] = factor - whole * divisor
    inside = Expr(rest)
    if inside.constant is not None:
        return out
    symbols = [term for term in rest if term]
    if len(symbols) == 1 and len(symbols[0]) == 1 and isinstance(symbols[0][0], Floor) and rest[symbols[0]] == 1:
        inner = symbols[0][0]
        moved = inner.numerator + inner.divisor * rest.get((), Fraction(0))
        return out + _floor(moved, inner.divisor * divisor)
    common = divisor
    for term, factor in rest.items():
        if term:
            common = gcd(common, factor.numerator)
    if common > 1:
        constant = rest.get((), Fraction(0)).numerator // common
        reduced = {t: f / common for t, f in rest.items() if t} | ({(): Fraction(constant)} if constant else {})
        return out + _floor(Expr(reduced), divisor // common)
    return out + Expr({(Floor(inside, divisor),): Fraction(1)})
