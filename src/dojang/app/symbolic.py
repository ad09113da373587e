"""A network with symbols for sizes, from a source that only knows numbers: read at three sizes and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, cast

from dojang.arith.graph import Graph, Node, with_batch
from dojang.arith.ops import STANDARD, UNKNOWN
from dojang.arith.shapes import Shape
from dojang.arith.symbol import Expr
from dojang.base.errors import DojangError, UsageError

STARTS = (224, 416, 608)
"""Sizes at which a source is read, for its first symbol; the others are larger by 32 each."""


OpenSize = tuple[Any, ...]
"""The size of one input: numbers, and symbols for what is open."""
OpenSizes = OpenSize | dict[str, OpenSize]
"""That of the one input, or those of several by their names."""


def in_numbers(size: OpenSizes, value: Callable[[Any], int]) -> Any:
    """The same sizes with numbers in place of symbols."""
    if isinstance(size, dict):
        return {name: tuple(map(value, one)) for name, one in size.items()}
    return tuple(map(value, size))


def symbolised(make: Callable[[Any], Graph], size: OpenSizes, name: str) -> Graph:
    """The network of `make` with symbols in the size of its input, or in those of several by their names.

    It is read at three sizes. A number that differs between them (a reshape to height times width) is looked for among
    the sizes of what the layer reads, their products, quotients and sums; what the formulas then give for every layer
    must be what is there at all three. Raises `UsageError` where it is not.
    """
    every = list(size.values()) if isinstance(size, dict) else [size]
    times = {n: _value(s, {n: 1}) for one in every for s in one if isinstance(s, Expr) for n in sorted(s.symbols)}
    values = [{n: -(-(start + 32 * i) // times[n]) for i, n in enumerate(sorted(times))} for start in STARTS]

    def at(shape: Shape | None) -> list[Shape | None]:
        return [None if shape is None else tuple(_value(s, numbers) for s in shape) for numbers in values]

    one = set(times.values()) == {1} and len(every) == 1
    many = ",".join(f"32{s}" if isinstance(s, Expr) else str(s) for s in every[0]) if one else ""
    fixed = (
        f"{name}: its layers are made for numbers, not for a symbolic size; give the size in numbers"
        f"{f', or where it must divide as {many}' if many else ''}"
    )
    read = [_untold(make(in_numbers(size, lambda s, at=numbers: _value(s, at)))) for numbers in values]
    if any([(n.name, n.op, n.inputs) for n in graph.nodes] != [(n.name, n.op, n.inputs) for n in read[0].nodes]
           for graph in read):  # fmt: skip
        raise UsageError(fixed)
    if len(read[0].inputs) != 1 and not isinstance(size, dict):
        raise UsageError(f"{name}: has {len(read[0].inputs)} inputs; give the size of each by its name")
    nodes: list[Node] = []
    shapes: dict[str, Shape | None] = {}
    try:
        for row in zip(*(graph.nodes for graph in read), strict=True):
            sources = [shapes[i] for i in row[0].inputs]
            known = [s for s in sources if s is not None]
            if row[0].op == "input" and isinstance(size, dict):
                node = _general(row, [size.get(row[0].name, ())], values)
            else:
                node = _general(row, [*every, *known], values)
            nodes.append(node)
            if node.op in ("input", STANDARD):
                shapes[node.name] = with_batch(node.attrs, 1)
            else:
                inferred = node.op != UNKNOWN and len(known) == len(sources)
                shapes[node.name] = node.infer(known) if inferred else None
            if at(shapes[node.name]) != [graph.unit_shapes[node.name] for graph in read]:
                raise UsageError(fixed)
    except (DojangError, ArithmeticError):
        raise UsageError(fixed) from None
    return read[0].replace(nodes=tuple(nodes))


def _untold(graph: Graph) -> Graph:
    """Unknown operators without the shapes that their source told: those hold for one input size."""
    nodes = (node.with_attrs(shape=None) if node.op == UNKNOWN else node for node in graph.nodes)
    return graph.replace(nodes=tuple(nodes))


def _value(size: Any, numbers: dict[str, int]) -> int:
    return int(size.at(numbers)) if isinstance(size, Expr) else size


def _general(row: Sequence[Node], shapes: Sequence[Shape], values: list[dict[str, int]]) -> Node:
    """The node that is each of `row` at its size."""
    changed = {key: _merged([node.attrs[key] for node in row], shapes, values)
               for key in row[0].attrs if any(node.attrs[key] != row[0].attrs[key] for node in row)}  # fmt: skip
    return row[0].with_attrs(**changed) if changed else row[0]


def _merged(found: Sequence[Any], shapes: Sequence[Shape], values: list[dict[str, int]]) -> Any:
    """One value for the three: a formula where they are whole numbers, place by place where they are tuples."""
    if all(value == found[0] for value in found):
        return found[0]
    if all(isinstance(value, tuple) for value in found):
        rows = cast(Sequence[tuple[Any, ...]], found)
        if len({len(value) for value in rows}) > 1:
            raise ArithmeticError("of different lengths")
        return tuple(_merged(column, shapes, values) for column in zip(*rows, strict=True))
    if not all(type(value) is int for value in found):
        raise ArithmeticError("not whole numbers")
    for formula in _formulas(found[0], shapes, values[0]):
        if [_value(formula, numbers) for numbers in values] == list(found):
            return formula
    raise ArithmeticError("no formula")


def _formulas(value: int, shapes: Sequence[Shape], numbers: dict[str, int]) -> Iterator[Any]:
    """What might be `value` at the first size: sizes, products of neighbouring sizes, parts and multiples, sums."""
    parts = [shape[i:j] for shape in shapes for i in range(len(shape)) for j in range(i + 1, len(shape) + 1)]
    products = [prod(part) for part in parts]
    products = [p for p in dict.fromkeys(products) if isinstance(p, Expr)]
    yield from products
    for product in products:
        here = _value(product, numbers)
        if value > 0 and here % value == 0:
            yield product // (here // value)
        if value > 0 and here and value % here == 0:
            yield product * (value // here)
        yield product + (value - here)
