"""Why a printed number differs. An explanation needs the support of more than one cell, or of a habit known from
papers.

Some of the hundreds of networks that differ slightly from a network fit nearly every number. So a configuration that
gives a single printed cell explains nothing. These explanations are accepted:

- a known habit: the stride on the 1×1 convolution of a bottleneck, as in the first ResNet paper, or on the k×k one; a
  pool left out before one layer, which changes a figure severalfold (other habits are conventions, see `counting`);
- one configuration that gives the parameters *and* the operations of a row, or one type of change that gives cells of
  several rows, if the probability of that by chance is below one in `CHANCE`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb, log, prod

from dojang.arith.counting import FIRM, CostParts, Counting, fit, habits, plain_counting
from dojang.arith.counting import error as relative_error
from dojang.arith.graph import Graph, Node
from dojang.arith.layer import Layer
from dojang.arith.printed import Printed
from dojang.arith.shapes import conv_problem
from dojang.arith.variants import PASSING, POOL_LEFT_OUT, Variant, variants

CHANCE = 1000
"""A configuration is accepted if chance would explain fewer than one of so many wrong tables like that."""

NEAR = 0.05
"""For probabilities, printed numbers are taken to spread at least so far around the true value (natural logarithm)."""

SEVERAL = 1.5
"""A pool that was left out may explain a single cell if it is off by at least this factor."""

MOST_TRIED = 60_000
"""The most configurations of all rows of a table: rows that are wrong, times 15 for each of their layers."""

PARAMETERS = ("weights", "params")


@dataclass(frozen=True)
class Judged:
    """A row with judged cells: its layers and their figures, the cells, and which columns are wrong."""

    layers: tuple[Layer, ...]
    figures: CostParts
    cells: Mapping[str, str]
    wrong: frozenset[str]


@dataclass(frozen=True)
class Found:
    """A configuration of one row and the wrong cells that it gives, with the convention and the chance of each."""

    row: int
    variant: Variant
    given: Mapping[str, tuple[Counting, float]]

    def said(self, column: str) -> str:
        """The explanation in words."""
        words = self.given[column][0].says(column, plain_counting(column))
        return f"it is {self.variant.layer} as {self.variant.change}" + (f" ({words})" if words else "")


def stories(
    rows: Sequence[Judged], found: Mapping[str, Counting], graph: Graph, right: float
) -> tuple[dict[tuple[int, str], str], frozenset[int]]:
    """The explanation of each wrong cell (row, column) that has one, and the wrong rows of which no configurations were
    tried because earlier ones took `MOST_TRIED`. `right`: the error that still counts as right.
    """
    reasons: dict[tuple[int, str], str] = {}
    moved = _moved_strides(graph)
    for at, row in enumerate(rows):
        for column in row.wrong:
            why = _stride(row, column, moved, found[column])
            if why:
                reasons[at, column] = why
    offered, untried, left = list[Found](), set[int](), MOST_TRIED
    for at, row in enumerate(rows):
        if row.wrong:
            left -= _number_tried(row)
            if left < 0:
                untried.add(at)
            else:
                offered += _fitting(at, row, found, graph, right)
    for offer in (*_by_row(rows, offered), *_by_kind(rows, offered), *_left_out(rows, offered)):
        for column in offer.given:
            reasons.setdefault((offer.row, column), offer.said(column))
    return reasons, frozenset(untried)


def _stride(row: Judged, column: str, moved: Mapping[str, tuple[int, str]], found: Counting) -> str:
    """The explanation that the strides are at other layers of the blocks; "" if it does not fit. Two digits suffice."""
    own = [layer for layer in row.layers if layer.name in moved]
    if not own or column in PARAMETERS:
        return ""
    change = sum(moved[layer.name][0] - layer.cost.macs for layer in own)
    figures = replace(row.figures, macs=row.figures.macs + change)
    for how in dict.fromkeys((plain_counting(column), found, *habits(column))):
        value = figures.under(column, how)
        how_well = fit(value, row.cells[column], how) if Printed.read(row.cells[column]).significant >= 2 else ""
        if how_well and not how.inside:
            words = how.says(column, plain_counting(column))
            given = {"exact": "exactly", "rounded": "rounded", "cut off": "cut off"}[how_well]
            layers = f"{own[0].name} and {len(own) - 1} more" if len(own) > 1 else own[0].name
            return f"it is the network with {moved[own[0].name][1]} ({layers}): {value:,}, {given}" + (
                f" ({words})" if words else ""
            )
    return ""


def _moved_strides(graph: Graph) -> dict[str, tuple[int, str]]:
    """For every 1×1 convolution directly before a k×k one, one of which has a stride: its MACs if the other had it."""
    found: dict[str, tuple[int, str]] = {}
    for node in graph.nodes:
        first = _convolution_before(graph, node) if node.op == "conv" and max(node.attrs["kernel"]) > 1 else None
        if first is None or max(first.attrs["kernel"]) > 1:
            continue
        shapes = [graph.unit_shapes[n] for n in (first.inputs[0], first.name, node.name)]
        if any(s is None for s in shapes):
            continue
        source, between, out = (s for s in shapes if s is not None)
        here, there = max(first.attrs["stride"]), max(node.attrs["stride"])
        problem = conv_problem(first.attrs, [source])
        if here == 1 and there > 1:
            found[first.name] = (prod(out[2:]) * problem.weights, "the stride on the 1x1 convolutions")
        elif here > 1 and there == 1 and between[2:] == out[2:]:
            found[first.name] = (prod(source[2:]) * problem.weights, "the stride behind the 1x1 convolutions")
    return found


def _convolution_before(graph: Graph, node: Node) -> Node | None:
    """The convolution whose output, through norms and activations, is the only input of a node."""
    source = graph[node.inputs[0]]
    while source.op != "conv":
        if len(source.inputs) != 1 or source.rule.field not in PASSING or len(graph.consumers[source.name]) != 1:
            return None
        source = graph[source.inputs[0]]
    return source if len(graph.consumers[source.name]) == 1 else None


def _fitting(at: int, row: Judged, found: Mapping[str, Counting], graph: Graph, right: float) -> Iterator[Found]:
    """The configurations that give a wrong cell of a row and keep its right cells near enough.

    The probability that a cell fits by chance is one unit of its last digit, divided by the range around the true value
    in which such numbers lie.
    """
    for variant, figures in _nearby(row, graph):
        given: dict[str, tuple[Counting, float]] = {}
        for column, text in row.cells.items():
            how = _counted(figures, column, text, found[column])
            if column not in row.wrong:
                if how is None and relative_error(figures.under(column, found[column]), text, found[column]) > right:
                    break
            elif how is not None and Printed.read(text).significant >= 2:
                printed, true = Printed.read(text), row.figures.under(column, found[column])
                scaled = printed.scaled(true, found[column].thousand)
                away = max(NEAR, abs(log(printed.value / scaled))) if printed.value > 0 and scaled > 0 else 1.0
                given[column] = (how, min(1.0, printed.step / (4 * away)))
        else:
            if given:
                yield Found(at, variant, given)


def _counted(figures: CostParts, column: str, text: str, found: Counting) -> Counting | None:
    """The convention under which a variant gives the printed value to the nearest printed digit; likely ones first."""
    default = plain_counting(column)
    for how in (default, found, replace(default, bias=False), replace(found, bias=False)):
        if fit(figures.under(column, how), text, how) in ("exact", "rounded"):
            return how
    return None


def _nearby(row: Judged, graph: Graph) -> Iterator[tuple[Variant, CostParts]]:
    true = row.figures
    for layer in row.layers:
        for variant in variants(graph, graph[layer.name]):
            dw, dm = variant.weights - layer.cost.weights, variant.macs - layer.cost.macs
            if layer.op == "dense":
                new = replace(true, dense_weights=true.dense_weights + dw, dense_macs=true.dense_macs + dm)
            else:
                new = replace(true, weights=true.weights + dw, macs=true.macs + dm, inside=true.inside + dm)
            yield variant, new


def _number_tried(row: Judged) -> int:
    """How many configurations a row has: about 15 per layer, so that long rows need more digits."""
    return 15 * max(1, sum(layer.op in ("conv", "conv_transpose", "dense") for layer in row.layers))


def _by_row(rows: Sequence[Judged], offered: Sequence[Found]) -> list[Found]:
    """Configurations that give parameters and operations of one row; those that explain the most cells come first."""
    good: list[Found] = []
    for offer in offered:
        sides = {column in PARAMETERS: chance for column, (_, chance) in offer.given.items()}
        if len(sides) == 2 and _number_tried(rows[offer.row]) * prod(sides.values()) * CHANCE < 1:
            good.append(offer)
    return sorted(good, key=lambda offer: -len(offer.given))


def _by_kind(rows: Sequence[Judged], offered: Sequence[Found]) -> list[Found]:
    """Changes of one type that give cells of several rows."""
    kinds: defaultdict[str, dict[int, Found]] = defaultdict(dict)
    for offer in offered:
        kinds[offer.variant.kind].setdefault(offer.row, offer)
    wrong, good = sum(bool(row.wrong) for row in rows), list[Found]()
    for by_row in kinds.values():
        alone = [offer for offer in by_row.values() if len(rows[offer.row].layers) <= FEW]
        chances = [max(c for _, c in offer.given.values()) for offer in alone]
        choices = comb(wrong, len(alone)) * len(kinds)
        if len(alone) > 1 and choices * prod(chances) * CHANCE < 1:
            good += alone
    return good


FEW = 3
"""A row of more layers is a block. `_by_kind` considers rows of fewer layers only."""


def _left_out(rows: Sequence[Judged], offered: Sequence[Found]) -> list[Found]:
    """Rows of one layer before which a pool was left out."""
    good: list[Found] = []
    for offer in offered:
        if offer.variant.kind != POOL_LEFT_OUT or len(rows[offer.row].layers) > 1:
            continue
        texts = {column: rows[offer.row].cells[column] for column in offer.given}
        firm = all(Printed.read(text).significant >= FIRM for text in texts.values())
        if firm and _severalfold(rows[offer.row], offer):
            good.append(offer)
    return good


def _severalfold(row: Judged, offer: Found) -> bool:
    """Whether the printed cells are so far from the true values that no other mistake explains them."""
    for column, (how, _) in offer.given.items():
        printed = Printed.read(row.cells[column])
        scaled = printed.scaled(row.figures.under(column, how), how.thousand)
        if not printed.value or not scaled or abs(log(printed.value / scaled)) < log(SEVERAL):
            return False
    return True
