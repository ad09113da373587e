"""The modules of a network as a tree, with what each costs, and the table folded to a depth.

`layer1.0.conv1` lies in `layer1.0`, and that in `layer1`. A module that holds one layer, or one module, is no level of
its own. Folded to depth N, modules at level N are one row each, and equal modules that follow one another are one row
together, so that ResNet-50 has 20 rows at depth 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dojang.arith.layer import Cost, Layer, total_of
from dojang.arith.shapes import Shape

ONE_SCREEN = 50
"""The most rows of a table that is folded by itself: what a large terminal shows without scrolling."""


@dataclass(frozen=True, slots=True)
class ModuleCost:
    """What the layers of one module cost together: each figure is the sum over them.

    `kind` is the module's class, "" if the source does not say. `in_shape` is the first input that comes from outside,
    `out_shape` the last output that is read outside; both without the batch, None if unknown.
    """

    name: str
    kind: str
    level: int
    layers: tuple[Layer, ...]
    in_shape: Shape | None
    out_shape: Shape | None

    @property
    def cost(self) -> Cost:
        """The sum over its layers."""
        return total_of(self.layers)

    @property
    def trainable(self) -> int | None:
        """Parameters that are not frozen; None if the source does not say."""
        return _trainable(self.layers)

    def to_dict(self) -> dict[str, Any]:
        """The row for JSON. `layers` is how many there are; `status` says whether all were counted."""
        cost = self.cost
        return {
            "name": self.name,
            "kind": self.kind or None,
            "level": self.level,
            "layers": len(self.layers),
            "in_shape": None if self.in_shape is None else list(self.in_shape),
            "out_shape": None if self.out_shape is None else list(self.out_shape),
            "params": cost.params,
            "weights": cost.weights,
            "biases": cost.biases,
            "trainable": self.trainable,
            "macs": cost.macs,
            "out_bytes": cost.out_bytes,
            "status": cost.status,
        }


@dataclass(frozen=True, slots=True)
class FoldedRow:
    """One row of a folded table: a layer, a module with its subtotal, or `times` equal modules together.

    `label` is the name as far as the row above does not say it; `level` is how far it is indented. `open` is a
    module whose parts follow in rows of their own: its figures are subtotals.
    """

    label: str
    level: int
    layers: tuple[Layer, ...]
    module: ModuleCost | None = None
    times: int = 1
    open: bool = False

    @property
    def layer(self) -> Layer | None:
        """The layer, if the row is one."""
        return self.layers[0] if self.module is None else None

    @property
    def cost(self) -> Cost:
        """The sum over its layers."""
        return total_of(self.layers)

    @property
    def trainable(self) -> int | None:
        """Parameters that are not frozen; None if the source does not say."""
        return _trainable(self.layers)

    @property
    def in_shapes(self) -> tuple[Shape | None, ...]:
        """What enters, without the batch."""
        if self.module is not None:
            return (self.module.in_shape,)
        return self.layers[0].in_shapes

    @property
    def out_shape(self) -> Shape | None:
        """What leaves, without the batch."""
        return self.module.out_shape if self.module is not None else self.layers[0].out_shape

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The types in which the arrays of its layers are stored."""
        return tuple(dict.fromkeys(dtype for layer in self.layers for dtype in layer.dtypes))


def _trainable(layers: Sequence[Layer]) -> int | None:
    known = [layer.trainable for layer in layers]
    return None if None in known else sum(n for n in known if n is not None)


@dataclass(frozen=True, slots=True)
class NestedPart:
    """One part of a network or of a module: a layer, or a module with its own parts.

    `label` is the name as far as the module around it does not say it. `repeats` says that it holds the same layers at
    the same cost as the part before it, and follows it by its number.
    """

    label: str
    layers: tuple[Layer, ...]
    module: ModuleCost | None = None
    parts: tuple[NestedPart, ...] = ()
    repeats: bool = False


@dataclass(eq=False, slots=True)
class _Branch:
    """A module while the tree is built: its parts in the order of their first layer."""

    path: tuple[str, ...]
    parts: dict[str, _Branch | Layer] = field(default_factory=dict["str", "_Branch | Layer"])
    layers: list[Layer] = field(default_factory=list["Layer"])


class ModuleTree:
    """The modules of a network, from its layers in order; `classes` are the classes of modules by path."""

    def __init__(self, layers: Sequence[Layer], classes: Mapping[str, str]) -> None:
        self._classes = classes
        self._readers: dict[str, list[str]] = {}
        self._scopes = {layer.name: layer.scope for layer in layers}
        self._shapes = {layer.name: layer.out_shape for layer in layers}
        for layer in layers:
            for name in layer.inputs:
                self._readers.setdefault(name, []).append(layer.name)
        self._root = self._grown(layers)

    @staticmethod
    def _grown(layers: Sequence[Layer]) -> _Branch:
        root = _Branch(())
        for layer in layers:
            branch = root
            root.layers.append(layer)
            for level, part in enumerate(layer.scope):
                inner = branch.parts.get(f"m{part}")
                if not isinstance(inner, _Branch):
                    inner = branch.parts[f"m{part}"] = _Branch(layer.scope[: level + 1])
                branch = inner
                branch.layers.append(layer)
            branch.parts[f"l{layer.name}"] = layer
        return root

    def modules(self) -> tuple[ModuleCost, ...]:
        """Every module with two layers or more, in the order of their first layer; what contains comes first."""
        return tuple(self._module(branch, level) for branch, level in _walk(self._root))

    @property
    def depth(self) -> int:
        """The depth at which every layer has a row of its own."""
        return max((level for _, level in _walk(self._root)), default=0) + 1

    def rows(self, depth: int | None = None) -> tuple[FoldedRow, ...]:
        """The table folded to a depth; without one to the greatest that keeps it within `ONE_SCREEN`."""
        if depth is not None:
            return tuple(self._rows(self._root, 0, depth))
        for deep in range(self.depth, 1, -1):
            found = tuple(self._rows(self._root, 0, deep))
            if len(found) <= ONE_SCREEN:
                return found
        return tuple(self._rows(self._root, 0, 1))

    def apart(self, depth: int) -> tuple[Layer | ModuleCost, ...]:
        """Layers, and whole modules at the depth: each layer of the network in one of them, so that figures add up."""
        found: list[Layer | ModuleCost] = []
        stack: list[tuple[_Branch | Layer, int]] = [(self._root, 0)]
        while stack:
            part, level = stack.pop()
            inner = _narrowed(part) if level else part
            if not isinstance(inner, _Branch):
                found.append(inner)
            elif level < depth:
                stack += [(inside, level + 1) for inside in reversed(inner.parts.values())]
            else:
                found.append(self._module(inner, level))
        return tuple(found)

    def nested(self) -> tuple[NestedPart, ...]:
        """The parts of the network, each module with its own parts inside: the table before it is folded."""
        return self._nested(self._root, 0)

    def _nested(self, branch: _Branch, level: int) -> tuple[NestedPart, ...]:
        """Parts of one module; no deeper than `scopes.MOST_LEVELS`, to which names are followed."""
        found: list[NestedPart] = []
        before: _Branch | None = None
        base = len(branch.path)
        for part in branch.parts.values():
            inner = _narrowed(part)
            if isinstance(inner, _Branch):
                alike = before is not None and self._alike(before, inner)
                label = ".".join(inner.path[base:])
                module = self._module(inner, level + 1)
                found.append(NestedPart(label, module.layers, module, self._nested(inner, level + 1), alike))
                before = inner
            else:
                found.append(NestedPart(_label(inner, branch.path), (inner,)))
                before = None
        return tuple(found)

    def _module(self, branch: _Branch, level: int) -> ModuleCost:
        path = branch.path
        size = len(path)
        own = {layer.name for layer in branch.layers}
        first = next((name for layer in branch.layers for name in layer.inputs if name not in own), None)
        last = branch.layers[-1]
        for layer in reversed(branch.layers):
            readers = self._readers.get(layer.name, ())
            if not readers or any(self._scopes[name][:size] != path for name in readers):
                last = layer
                break
        name = ".".join(path)
        shape = None if first is None else self._shapes[first]
        return ModuleCost(name, self._classes.get(name, ""), level, tuple(branch.layers), shape, last.out_shape)

    def _rows(self, branch: _Branch, level: int, depth: int) -> Iterator[FoldedRow]:
        stack = [(level, iter(self._folded(branch, level, depth)))]
        while stack:
            deep, waiting = stack[-1]
            found = next(waiting, None)
            if found is None:
                stack.pop()
                continue
            row, inner = found
            yield row
            if inner is not None:
                stack.append((deep + 1, iter(self._folded(inner, deep + 1, depth))))

    def _folded(self, branch: _Branch, level: int, depth: int) -> list[tuple[FoldedRow, _Branch | None]]:
        """The rows of the parts of one module, and with each open one its module."""
        found: list[tuple[FoldedRow, _Branch | None]] = []
        run: list[_Branch] = []
        base = len(branch.path)

        def close() -> None:
            if run:
                found.append((self._run(run, base, level), None))
                run.clear()

        for part in branch.parts.values():
            inner = _narrowed(part)
            if not isinstance(inner, _Branch):
                close()
                found.append((FoldedRow(_label(inner, branch.path), level, (inner,)), None))
            elif level + 1 < depth:
                close()
                module = self._module(inner, level + 1)
                row = FoldedRow(".".join(inner.path[base:]), level, tuple(inner.layers), module, open=True)
                found.append((row, inner))
            else:
                if run and not self._alike(run[-1], inner):
                    close()
                run.append(inner)
        close()
        return found

    def _run(self, run: Sequence[_Branch], base: int, level: int) -> FoldedRow:
        """One row for one module, or for several equal ones."""
        first = self._module(run[0], level + 1)
        label = ".".join(run[0].path[base:])
        if len(run) == 1:
            return FoldedRow(label, level, first.layers, first)
        last = _NUMBER.findall(run[-1].path[-1])[0]
        layers = tuple(layer for branch in run for layer in branch.layers)
        return FoldedRow(f"{label}-{last}", level, layers, first, len(run))

    def _alike(self, a: _Branch, b: _Branch) -> bool:
        """Whether b follows a by its number, and holds the same layers at the same cost."""
        *outer_a, name_a = a.path
        *outer_b, name_b = b.path
        number_a, number_b = _NUMBER.search(name_a), _NUMBER.search(name_b)
        if outer_a != outer_b or number_a is None or number_b is None or len(a.layers) != len(b.layers):
            return False
        if name_a[: number_a.start()] != name_b[: number_b.start()] or int(number_b[0]) != int(number_a[0]) + 1:
            return False
        return all(_same(x, y) for x, y in zip(a.layers, b.layers, strict=True))


_NUMBER = re.compile(r"(?<!\d)\d{1,9}$", re.ASCII)
"""The number at the end of a module's name."""


def _walk(root: _Branch) -> Iterator[tuple[_Branch, int]]:
    """Every module with two layers or more, and its level from 1; the tree may be as deep as names are long."""
    stack = [(inner, 1) for part in reversed(root.parts.values()) if isinstance(inner := _narrowed(part), _Branch)]
    while stack:
        branch, level = stack.pop()
        yield branch, level
        parts = reversed(branch.parts.values())
        stack += [(inner, level + 1) for part in parts if isinstance(inner := _narrowed(part), _Branch)]


def _narrowed(part: _Branch | Layer) -> _Branch | Layer:
    """A module that holds one layer is that layer; one that holds one module is that module."""
    while isinstance(part, _Branch) and len(part.parts) == 1:
        part = next(iter(part.parts.values()))
    return part


def _label(layer: Layer, path: tuple[str, ...]) -> str:
    """The name of a layer without the path of the module above it, if its name begins with it."""
    before = ".".join(path)
    return layer.name[len(before) + 1 :] if path and layer.name.startswith(f"{before}.") else layer.name


def _same(a: Layer, b: Layer) -> bool:
    """Whether two layers of equal modules are equal: the operator, its window, sizes, costs, and what is frozen."""
    return (a.op, a.shape, a.in_shapes, a.geometry, a.cost, a.trainable, bool(a.shared), a.dtypes) == (
        b.op, b.shape, b.in_shapes, b.geometry, b.cost, b.trainable, bool(b.shared), b.dtypes,
    )  # fmt: skip
