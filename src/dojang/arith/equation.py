"""Equations that are printed and computed from one object, so that formula, numbers and value always agree.

What `numbers` prints evaluates to `value`, with · for products, / for exact division, ⌊ ⌋ and ⌈ ⌉ for rounding down and
up, commas between thousands, and negative numbers in brackets. Sizes may be formulas (`symbol.Expr`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from math import floor, prod
from typing import Literal

from dojang.arith.resizing import resized, scaled
from dojang.arith.symbol import Expr

Size = int | Expr


class Term(ABC):
    """A part of an equation."""

    @property
    @abstractmethod
    def value(self) -> Size:
        """Its value."""

    @abstractmethod
    def text(self, letters: bool) -> str:
        """The written term, with the letters of its quantities or with their numbers."""

    @property
    def tight(self) -> bool:
        """Whether it needs no brackets as a factor or after a minus."""
        return True

    def bracketed(self, letters: bool) -> str:
        """The written term inside a product."""
        return self.text(letters) if self.tight else f"({self.text(letters)})"

    def __add__(self, other: Term | int) -> Sum:
        return Sum(((1, self), (1, of(other))))

    def __sub__(self, other: Term | int) -> Sum:
        return Sum(((1, self), (-1, of(other))))

    def __mul__(self, other: Term | int) -> Product:
        return Product((self, of(other)))


@dataclass(frozen=True, slots=True)
class Named(Term):
    """A quantity with its letter.

    >>> (Named("i", 32) - 1).text(True), (Named("i", 32) - 1).text(False), (Named("i", 32) - 1).value
    ('i - 1', '32 - 1', 31)
    """

    name: str
    size: Size

    @property
    def value(self) -> Size:
        """Its number."""
        return self.size

    def text(self, letters: bool) -> str:
        """The letter or the number."""
        if letters:
            return self.name
        text = written(self.size)
        return f"({text})" if " " in text or text.startswith("-") else text


def of(value: Term | int) -> Term:
    """A term from a number; a term is returned as it is."""
    return value if isinstance(value, Term) else Named(written(value), value)


def written(value: Size) -> str:
    """A number with commas between thousands, or a formula."""
    return f"{value:,}" if isinstance(value, int) else str(value)


@dataclass(frozen=True, slots=True)
class Sum(Term):
    """Terms added (sign 1) or taken away (sign -1), the first one added."""

    parts: tuple[tuple[int, Term], ...]

    @property
    def value(self) -> Size:
        """The sum."""
        return sum((sign * part.value for sign, part in self.parts), start=0)

    @property
    def tight(self) -> bool:
        """A sum of one is its term."""
        return len(self.parts) == 1 and self.parts[0][1].tight

    def text(self, letters: bool) -> str:
        """The terms with their signs; a sum that is subtracted stands in brackets."""
        first, *rest = self.parts
        text = first[1].text(letters)
        for sign, part in rest:
            text += f" + {part.text(letters)}" if sign > 0 else f" - {part.bracketed(letters)}"
        return text

    def __add__(self, other: Term | int) -> Sum:
        return Sum((*self.parts, (1, of(other))))

    def __sub__(self, other: Term | int) -> Sum:
        return Sum((*self.parts, (-1, of(other))))


@dataclass(frozen=True, slots=True)
class Product(Term):
    """Terms multiplied; a product of none is 1."""

    factors: tuple[Term, ...]

    @property
    def value(self) -> Size:
        """The product."""
        return prod((factor.value for factor in self.factors), start=1)

    def text(self, letters: bool) -> str:
        """Factors with · between."""
        return "·".join(factor.bracketed(letters) for factor in self.factors) or "1"

    def __mul__(self, other: Term | int) -> Product:
        return Product((*self.factors, of(other)))


@dataclass(frozen=True, slots=True)
class Quotient(Term):
    """A division that is exact, or rounded down or up.

    >>> q = Quotient(Named("i", 7) - 3, Named("s", 2), "up")
    >>> q.text(True), q.text(False), q.value
    ('⌈(i - 3) / s⌉', '⌈(7 - 3) / 2⌉', 2)
    """

    above: Term
    below: Term
    rounding: Literal["exact", "down", "up"]

    @property
    def value(self) -> Size:
        """The quotient; floor division keeps formulas in their normal form."""
        above, below = self.above.value, self.below.value
        return (above + below - 1) // below if self.rounding == "up" else above // below

    @property
    def tight(self) -> bool:
        """A rounded quotient stands in brackets of its own."""
        return self.rounding != "exact"

    def text(self, letters: bool) -> str:
        """Above / below, in the brackets of its rounding."""
        inside = f"{self.above.bracketed(letters)} / {self.below.bracketed(letters)}"
        left, right = {"exact": ("", ""), "down": ("⌊", "⌋"), "up": ("⌈", "⌉")}[self.rounding]
        return f"{left}{inside}{right}"


@dataclass(frozen=True, slots=True)
class Scaled(Term):
    """⌊size · factor⌋, with the product as the runtime rounds it (`resizing.ARITHMETICS`).

    Where the decimal number that stands for the factor would give another size, the product itself is written:

    >>> Scaled(100, 0.29, "torch").text(False), Scaled(100, 0.29, "onnx").text(False)
    ('⌊28.999999999999996⌋', '⌊100·0.29⌋')
    """

    size: int
    factor: float
    arithmetic: str

    @property
    def value(self) -> Size:
        """The size after resizing."""
        return resized(self.size, self.factor, self.arithmetic)

    @property
    def _product(self) -> float:
        return scaled(self.size, self.factor, self.arithmetic)

    def text(self, letters: bool) -> str:
        """Size and factor, or their product."""
        if letters:
            return "⌊i·scale⌋"
        said = floor(self.size * Fraction(repr(self.factor))) == self.value
        return f"⌊{self.size:,}·{self.factor!r}⌋" if said else f"⌊{self._product!r}⌋"


def times(*quantities: tuple[str, Size]) -> Product:
    """A product of named quantities."""
    return Product(tuple(Named(name, size) for name, size in quantities))
