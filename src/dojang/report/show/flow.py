"""The drawing of a network as rows with lanes beside them, as version histories are drawn: one row for each step of the
computation from top to bottom, one lane for each value that is still to be read.

A module is one row that holds a drawing of its own parts; so a module can be unfolded without moving what is around it.
Repeated modules are one row together. A convolution or dense layer and the element-wise operators behind it that alone
read it (normalisation, activation, dropout) are one row.

>>> from dojang.arith.cost import count
>>> from dojang.formats import zoo
>>> print("\\n".join(f"{row.label} {row.times}" for row in flow_of(count(zoo.load("resnet18", weights=False))).rows))
input 1
conv1 1
maxpool 1
layer1.0–1 2
layer2 1
layer3 1
layer4 1
avgpool 1
flatten1 1
fc 1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush

from dojang.arith.cost import Count
from dojang.arith.layer import Layer
from dojang.arith.modules import NestedPart

HEADS = frozenset(("conv", "conv_transpose", "deform_conv", "dynamic_conv", "dense", "matmul", "add"))
"""Operators that begin a row with others behind them."""

TAILS = frozenset(
    "batchnorm lrn relu sigmoid tanh softsign softplus silu hard_swish mish selu gelu leaky_relu elu hard_sigmoid clip "
    "prelu dropout identity softmax log_softmax".split()
)
"""Operators that stand in the row of the layer that they follow, if they alone read it."""

MOST_LANES = 12
"""Values that are alive at once and drawn beside each other; what is more shares the last lane."""

FIT = 26
"""Rows that fit on one screen: modules are unfolded as long as the drawing has no more."""


@dataclass(frozen=True, slots=True)
class FlowRow:
    """One row: a step (layers that are computed together), a module, or `times` equal modules that follow each other.

    `lane` is where its result leaves. `inner` is the drawing of what it holds, None for a step.
    """

    label: str
    layers: tuple[str, ...]
    lane: int
    times: int = 1
    kind: str = ""
    inner: FlowBlock | None = None
    unfolded: bool = False


@dataclass(frozen=True, slots=True)
class FlowBlock:
    """Rows from top to bottom. `gaps[i]` are the lines (lane above, lane below) before row i; the last entry of `gaps`
    are those behind the last row. `lanes` is how many lanes there are.
    """

    rows: tuple[FlowRow, ...]
    gaps: tuple[tuple[tuple[int, int], ...], ...]
    lanes: int


@dataclass(slots=True)
class _Item:
    """A row before it has a lane."""

    label: str
    layers: tuple[Layer, ...]
    times: int = 1
    kind: str = ""
    inner: tuple[NestedPart, ...] = ()


def flow_of(count: Count) -> FlowBlock:
    """The drawing of a counted network."""
    parts = count.tree.nested()
    readers: dict[str, list[str]] = {}
    for layer in count.layers:
        for source in layer.inputs:
            readers.setdefault(source, []).append(layer.name)
    hidden = {layer.name for layer in count.layers if layer.op == "constant"}
    last = count.layers[-1].name if count.layers else ""
    order = {layer.name: place for place, layer in enumerate(count.layers)}
    drawing = _Drawing(readers, hidden, last, order, count.layers)
    return drawing.block(drawing.in_order(parts), FIT)


def _topological(reads: Sequence[set[int]], first: Sequence[int]) -> list[int]:
    """The numbers so that each stands behind those that it reads, else by `first`; a cycle is broken at its first."""
    left = [set(one) for one in reads]
    readers: dict[int, list[int]] = {}
    for number, sources in enumerate(reads):
        for source in sources:
            readers.setdefault(source, []).append(number)
    ready = [(first[number], number) for number, sources in enumerate(left) if not sources]
    heapify(ready)
    waiting = sorted((number for number, sources in enumerate(left) if sources), key=lambda number: first[number])
    done: set[int] = set()
    ordered: list[int] = []
    while len(ordered) < len(reads):
        number = heappop(ready)[1] if ready else next(one for one in waiting if one not in done)
        if number in done:
            continue
        done.add(number)
        ordered.append(number)
        for reader in readers.get(number, ()):
            left[reader].discard(number)
            if not left[reader] and reader not in done:
                heappush(ready, (first[reader], reader))
    return ordered


@dataclass(frozen=True, slots=True)
class _Drawing:
    readers: dict[str, list[str]]
    hidden: set[str]
    last: str
    order: dict[str, int]
    layers: Sequence[Layer]

    def in_order(self, parts: Sequence[NestedPart]) -> tuple[NestedPart, ...]:
        """The parts so that each stands behind what it reads.

        A module that values leave and enter again (as where names are those of operators, `Conv.0`, `Conv.1`) is no
        step of the computation: its own parts stand in its place.
        """
        found: list[NestedPart] = []
        for part in parts:
            inner = self.in_order(part.parts)
            if part.module is not None and self._left_and_entered(part):
                found += [replace(one, label=f"{part.label}.{one.label}", repeats=False) for one in inner]
            else:
                found.append(replace(part, parts=inner))
        owner = {layer.name: number for number, part in enumerate(found) for layer in part.layers}
        reads = [
            {owner[source] for layer in part.layers for source in layer.inputs if owner.get(source, number) != number}
            for number, part in enumerate(found)
        ]
        ordered = _topological(reads, [self.order[part.layers[0].name] for part in found])
        return tuple(
            replace(found[number], repeats=found[number].repeats and place > 0 and ordered[place - 1] == number - 1)
            for place, number in enumerate(ordered)
        )

    def _left_and_entered(self, part: NestedPart) -> bool:
        """Whether a value leaves a module and comes back through layers outside of it."""
        own = {layer.name for layer in part.layers}
        places = [self.order[name] for name in own]
        outside: set[str] = set()  # layers that depend on the module
        for layer in self.layers[min(places) : max(places) + 1]:
            if layer.name in own:
                if not outside.isdisjoint(layer.inputs):
                    return True
            elif any(source in own or source in outside for source in layer.inputs):
                outside.add(layer.name)
        return False

    def block(self, parts: Sequence[NestedPart], room: int) -> FlowBlock:
        """The drawing of some parts; those that make it clearer without needing more than `room` rows are unfolded, and
        a module that is nearly the whole network.
        """
        items = self._items(parts)
        lanes, gaps, most = self._lanes(items)
        left = room - len(items)
        rows: list[FlowRow] = []
        for item, lane in zip(items, lanes, strict=True):
            inner, unfolded = None, False
            if item.inner:
                inner = self.block(item.inner, 0)
                if len(inner.rows) == 1 and inner.rows[0].times > 1:  # a module of nothing but repeated modules
                    only = inner.rows[0]
                    item.label, item.times, item.kind = f"{item.label}.{only.label}", only.times, only.kind
                    inner = only.inner or inner
                nearly_all = len(items) <= 3 and 2 * len(item.layers) > len(self.layers)
                unfolded = bool(room) and len(inner.rows) > 1 and (len(inner.rows) <= left or nearly_all)
                left -= len(inner.rows) if unfolded else 0
            names = tuple(layer.name for layer in item.layers)
            rows.append(FlowRow(item.label, names, lane, item.times, item.kind, inner, unfolded))
        return FlowBlock(tuple(rows), gaps, most)

    def _items(self, parts: Sequence[NestedPart]) -> list[_Item]:
        found: list[_Item] = []
        place = 0
        parts = [part for part in parts if any(layer.name not in self.hidden for layer in part.layers)]
        while place < len(parts):
            part = parts[place]
            run = [part]
            while place + len(run) < len(parts) and parts[place + len(run)].repeats:
                run.append(parts[place + len(run)])
            place += len(run)
            if part.module is None:
                self._add(found, part)
            elif len(run) == 1:
                found.append(_Item(part.label, part.layers, 1, part.module.kind, part.parts))
            else:
                layers = tuple(layer for one in run for layer in one.layers)
                ends = run[-1].label.rpartition(".")[2]
                singles = tuple(NestedPart(p.label, p.layers, p.module, p.parts) for p in run)
                found.append(_Item(f"{part.label}–{ends}", layers, len(run), part.module.kind, singles))
        return found

    def _add(self, found: list[_Item], part: NestedPart) -> None:
        """A layer: a row of its own, or a part of the row before it."""
        (layer,) = part.layers
        if layer.name in self.hidden:
            return
        if layer.op in TAILS and found and not found[-1].inner:
            before = found[-1].layers[-1]
            alone = self.readers.get(before.name) == [layer.name]
            if alone and found[-1].layers[0].op in HEADS:
                found[-1].layers = (*found[-1].layers, layer)
                return
        found.append(_Item(part.label, part.layers))

    def _lanes(self, items: Sequence[_Item]) -> tuple[list[int], tuple[tuple[tuple[int, int], ...], ...], int]:
        """The lane of each row, the lines between the rows, and how many lanes there are."""
        place = {layer.name: number for number, item in enumerate(items) for layer in item.layers}
        end = len(items)
        left: dict[int, int] = {}  # the last row that reads the result of a row; -1 is what enters the drawing
        reads: list[set[int]] = [set() for _ in range(end + 1)]
        for number, item in enumerate(items):
            for layer in item.layers:
                for source in layer.inputs:
                    if source not in self.hidden and place.get(source, -1) < number:
                        reads[number].add(place.get(source, -1))
                outside = any(place.get(name, end) == end for name in self.readers.get(layer.name, ()))
                if outside or layer.name == self.last:
                    reads[end].add(number)
        for number, sources in enumerate(reads):
            for source in sources:
                left[source] = number
        alive = {-1: 0} if -1 in left else {}
        lanes: list[int] = []
        gaps: list[tuple[tuple[int, int], ...]] = []
        for number in range(end + 1):
            freed = sorted(alive[s] for s in reads[number] if s in alive and left[s] == number)
            taken = {lane for source, lane in alive.items() if left[source] > number}
            free = next((lane for lane in freed if lane not in taken), None)
            if free is None:
                free = next(lane for lane in range(len(taken) + 1) if lane not in taken)
            own = min(free, MOST_LANES - 1) if number < end else 0
            lines = [(alive[s], own) for s in sorted(reads[number]) if s in alive]
            lines += [(lane, lane) for s, lane in alive.items() if left[s] > number]
            gaps.append(tuple(dict.fromkeys(lines)))
            alive = {s: lane for s, lane in alive.items() if left[s] > number}
            if number < end:
                lanes.append(own)
                if number in left:
                    alive[number] = own
        most = 1 + max((lane for gap in gaps for line in gap for lane in line), default=0)
        return lanes, tuple(gaps), max(most, 1 + max(lanes, default=0))
