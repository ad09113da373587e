"""Networks whose input size is open: symbols in place of numbers, and the same network at a size in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from dojang.arith.conv import by
from dojang.arith.graph import Graph, Node
from dojang.arith.symbol import Expr
from dojang.base.errors import ShapeError


def is_open(graph: Graph) -> bool:
    """Whether an input has a symbol for a size."""
    return any(isinstance(s, Expr) for node in graph.inputs for s in node.attrs["shape"])


def at_size(graph: Graph, values: Mapping[str, int]) -> Graph:
    """The network with numbers in place of symbols."""
    nodes = tuple(node.with_attrs(**changed) if (changed := _numbers(node, values)) else node for node in graph.nodes)
    return graph.replace(nodes=nodes)


def _numbers(node: Node, values: Mapping[str, int]) -> dict[str, Any]:
    """The attributes of a node that have symbols, without them."""
    return {key: _at(value, values) for key, value in node.attrs.items() if has_symbol(value)}


def has_symbol(value: Any) -> bool:
    """Whether a value, or a part of a tuple, is a formula of symbols."""
    if isinstance(value, tuple):
        return any(map(has_symbol, cast(tuple[Any, ...], value)))
    return isinstance(value, Expr)


def _at(value: Any, values: Mapping[str, int]) -> Any:
    if isinstance(value, tuple):
        return tuple(_at(v, values) for v in cast(tuple[Any, ...], value))
    return int(value.at(values)) if isinstance(value, Expr) else value


def values_for(graph: Graph, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """The symbols' values for inputs of these shapes (without the batch), by name.

    Raises `ShapeError` for shapes that fit no values: other numbers of axes, sizes that do not divide.
    """
    found: dict[str, int] = {}
    for node in graph.inputs:
        wanted, given = node.attrs["shape"], tuple(shapes[node.name])
        if len(wanted) != len(given):
            raise ShapeError(f"{node.name}: the input is (batch)x{by(given)}; the network takes (batch)x{by(wanted)}")
        for axis, (size, number) in enumerate(zip(wanted, given, strict=True)):
            if not isinstance(size, Expr):
                continue
            value, why = _solved(size, number)
            for name in size.symbols:
                if value is None or found.setdefault(name, value) != value:
                    raise ShapeError(
                        f"{node.name}: the input is (batch)x{by(given)}; the network takes (batch)x{by(wanted)}: "
                        f"axis {axis + 1} is {number}, which {why or f'is not the {size} of another axis'}"
                    )
    return found


def _solved(size: Expr, number: int) -> tuple[int | None, str]:
    """The value of the one symbol that makes a formula this number, or why there is none."""
    (name,) = size.symbols
    zero = int(size.at({name: 0}))
    step = int(size.at({name: 1})) - zero
    value, rest = divmod(number - zero, step)
    if rest:
        return None, f"is no multiple of {step}" if not zero else f"is not {size} for any whole number"
    return (value, "") if value >= 1 else (None, "is too small")


def reference_values(graph: Graph, goal: int) -> dict[str, int]:
    """Values of all symbols that make their axes about `goal` long; the first input that has a symbol decides."""
    found: dict[str, int] = {}
    for node in graph.inputs:
        for size in node.attrs["shape"]:
            if isinstance(size, Expr):
                (name,) = size.symbols
                found.setdefault(name, max(1, round((goal - int(size.at({name: 0}))) / _step(size, name))))
    return found


def nearest(wanted: Sequence[Any], given: Sequence[int]) -> tuple[int, ...]:
    """The size nearest to a given one that fits one with symbols, axis by axis.

    >>> from dojang.arith.symbol import symbol
    >>> nearest((3, 32 * symbol("H"), symbol("W")), (3, 250, 333))
    (3, 256, 333)
    """
    found: list[int] = []
    for size, number in zip(wanted, given, strict=True):
        if isinstance(size, Expr):
            (name,) = size.symbols
            zero = int(size.at({name: 0}))
            number = zero + _step(size, name) * max(1, round((number - zero) / _step(size, name)))
        found.append(number)
    return tuple(found)


def _step(size: Expr, name: str) -> int:
    return max(1, int(size.at({name: 1})) - int(size.at({name: 0})))
