"""Readable formulas: each size that occurs again gets a name, and products of sizes stay products."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

from dojang.arith.cost import Count
from dojang.arith.layer import Layer
from dojang.arith.symbol import Expr

_PROBES = (8191, 12289, 40961, 65537, 786433)
"""A quotient is guessed by dividing at these values; whether it is right is then decided exactly."""


class Names:
    """Gives each size that is a formula a name, in order of appearance: ⌊(H + 1)/2⌋ becomes H1.

    >>> from dojang.arith.symbol import symbol
    >>> names = Names(("H",))
    >>> names.size((symbol("H") + 1) // 2), names.size(64), names.size(symbol("H")), names.size((symbol("H") + 1) // 2)
    ('H1', '64', 'H', 'H1')
    >>> {name: str(formula) for name, formula in names.named.items()}
    {'H1': '⌊(H + 1)/2⌋'}
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self.named: dict[str, Expr] = {}
        self._by_value: dict[Expr, str] = {}
        self._taken = set(taken)

    def size(self, value: int | Expr) -> str:
        """A number, a symbol, or the name of a formula."""
        if not isinstance(value, Expr) or value.constant is not None:
            return str(value)
        if str(value) in value.symbols:
            return str(value)
        if value not in self._by_value:
            stem = "".join(sorted(value.symbols))
            place = next(i for i in range(1, 1 << 30) if f"{stem}{i}" not in self._taken)
            name = f"{stem}{place}"
            self._taken.add(name)
            self._by_value[value], self.named[name] = name, value
        return self._by_value[value]

    def shape(self, shape: Sequence[int | Expr]) -> str:
        """Sizes joined by x."""
        return "x".join(self.size(s) for s in shape)


def symbols_of(count: Count) -> tuple[str, ...]:
    """The symbols in the shapes of a count, sorted; empty for a count with numbers."""
    found: set[str] = set()
    for layer in count.layers:
        for size in layer.shape or ():
            if isinstance(size, Expr):
                found |= size.symbols
    return tuple(sorted(found))


def factored(value: int | Expr, shapes: Sequence[Sequence[int | Expr]]) -> tuple[int, tuple[Expr, ...]] | None:
    """`value` as a number times all formulas of one of the shapes; None where it is no such product.

    >>> from dojang.arith.symbol import symbol
    >>> h = (symbol("H") - 4)
    >>> factored(12 * h * h, [(1, 3, h, h)])
    (12, (H - 4, H - 4))
    """
    if not isinstance(value, Expr):
        return int(value), ()
    if value.constant is not None:
        return int(value.constant), ()
    at = dict(zip(sorted(value.symbols), _PROBES, strict=False))
    if len(at) < len(value.symbols):
        return None
    for shape in shapes:
        sizes = tuple(s for s in shape if isinstance(s, Expr) and s.constant is None)
        if not sizes or any(s.symbols - set(at) for s in sizes):
            continue
        below = prod(s.at(at) for s in sizes)
        quotient = value.at(at) / below if below else None
        if quotient is not None and quotient.denominator == 1 and prod(sizes, start=Expr({}) + int(quotient)) == value:
            return int(quotient), sizes
    return None


def layer_product(layer: Layer, value: int | Expr, count: dict[str, Layer]) -> tuple[int, tuple[Expr, ...]] | None:
    """A figure of a layer as a number times sizes of its output or of an input."""
    shapes = [s for s in (layer.shape, *(count[i].shape for i in layer.inputs)) if s is not None]
    return factored(value, shapes)


def written(number: int, sizes: Sequence[Expr], names: Names) -> str:
    """A product with names for its sizes: 9,408·H1·W1."""
    parts = [names.size(s) for s in sizes]
    return "·".join([f"{number:,}", *parts] if number != 1 or not parts else parts)


def total(count: Count, names: Names, per_mac: int = 1) -> str:
    """The MACs of a network, `per_mac` times: one term per product of sizes, its number summed over the layers."""
    layers = {layer.name: layer for layer in count.layers}
    sums: dict[str, tuple[int, tuple[Expr, ...]]] = {}
    rest: int | Expr = 0
    for layer in count.layers:
        parts = layer_product(layer, per_mac * layer.cost.macs, layers)
        if parts is None:
            rest += per_mac * layer.cost.macs
            continue
        key = written(1, parts[1], names)
        sums[key] = (sums.get(key, (0, ()))[0] + parts[0], parts[1])
    terms = [written(number, sizes, names) for number, sizes in sums.values() if number]
    return " + ".join(terms + ([str(rest)] if rest != 0 else [])) or "0"
