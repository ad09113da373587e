"""Check a published table: find the convention of each column, judge each cell, and explain the mismatches."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import inf
from typing import Any

from dojang.arith.conv import by
from dojang.arith.cost import Count, count
from dojang.arith.counting import FIRM, CostParts, Counting, figures_of, fit, found_convention, habits, plain_counting
from dojang.arith.counting import error as relative_error
from dojang.arith.graph import Graph
from dojang.arith.layer import Layer
from dojang.arith.printed import Printed
from dojang.arith.stories import SEVERAL, Judged, stories
from dojang.base.errors import DataError
from dojang.base.result import Result

TOLERANCE = 0.01
"""A cell that no rounding gives still counts as rounded up to this relative difference; its explanation says so."""

COLUMNS = ("weights", "params", "macs", "flops", "out_shape")


@dataclass(frozen=True, slots=True)
class Row:
    """One printed row: its label, the layers that it covers (names or patterns such as `block1.*`), its cells by
    column.
    """

    label: str
    layers: tuple[str, ...]
    cells: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """A published table with its citation."""

    name: str
    title: str
    source: str
    network: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """One judged cell. Verdict: exact, rounded, convention (fits, but only under another one) or mismatch.

    `close` marks a cell that counts as rounded only because it is within `TOLERANCE`, though no rounding gives it.
    """

    row: str
    column: str
    printed: str
    computed: int | str
    verdict: str
    explanation: str
    close: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The cell as JSON has it."""
        return {
            "row": self.row, "column": self.column, "printed": self.printed, "computed": self.computed,
            "verdict": self.verdict, "explanation": self.explanation, "close": self.close,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Check(Result):
    """A judged table: the cells, the convention found per column, the totals of the network.

    If the values of a tensor decide between several paths through the network (`ways` of them), the table was compared
    with the path with the most MACs.
    """

    table: PublishedTable
    cells: tuple[Cell, ...]
    conventions: Mapping[str, str]
    totals: Mapping[str, int]
    ways: int = 1

    @property
    def close(self) -> tuple[Cell, ...]:
        """The cells that lie within the tolerance, though no rounding gives them."""
        return tuple(cell for cell in self.cells if cell.close)

    @property
    def mismatches(self) -> tuple[Cell, ...]:
        """The cells that no convention explains."""
        return tuple(cell for cell in self.cells if cell.verdict == "mismatch")

    def to_dict(self) -> dict[str, Any]:
        """The cells, the convention of each column, and totals."""
        several = {"ways": self.ways} if self.ways > 1 else {}
        return {
            "table": self.table.name,
            "title": self.table.title,
            "source": self.table.source,
            "convention": dict(self.conventions),
            "cells": [cell.to_dict() for cell in self.cells],
            "totals": {**self.totals, "cells": len(self.cells), "mismatches": len(self.mismatches), **several},
        }


def check(table: PublishedTable, graph: Graph) -> Check:
    """Judges every cell of a table against the cost of a network.

    The convention of each column is found first (`counting.found_convention`). A cell is *exact*, or *rounded*: to the
    nearest printed digit, cut off after it, or within `TOLERANCE` of the value, which its explanation then says. It is
    *convention* if it fits only under another convention that papers use, else *mismatch*. A mismatch is explained by a
    known habit, or by a change that more than one cell supports (`stories`); otherwise the text says that it is not
    explained. Raises `DataError` for rows that name no layer and cells that are not numbers.
    """
    counted, inside = count(graph), count(graph, exact_padding=True)
    named = {row.layers: _match(row, counted) for row in table.rows}
    summed = {names: figures_of(layers, inside) for names, layers in named.items()}
    matched, figures = [named[row.layers] for row in table.rows], [summed[row.layers] for row in table.rows]
    found: dict[str, Counting] = {}
    for column in table.columns:
        if column != "out_shape":
            printed = [
                (f, row.cells[column]) for row, f in zip(table.rows, figures, strict=True) if column in row.cells
            ]
            found[column] = found_convention(column, printed, TOLERANCE)
    judged = [_judged(row, matched[at], figures[at], found) for at, row in enumerate(table.rows)]
    rows = [_row(row, matched[at], figures[at], judged[at]) for at, row in enumerate(table.rows)]
    why, untried = stories(rows, found, graph, TOLERANCE)
    cells: list[Cell] = []
    for at, row in enumerate(judged):
        for column, cell in row.items():
            if cell.verdict == "mismatch" and column != "out_shape":
                reason = why.get((at, column)) or _slip(cell.printed, cell.computed) + UNTRIED * (at in untried)
                cell = replace(cell, explanation=f"{cell.explanation}; {reason}")
            cells.append(cell)
    total = counted.total
    whole = {"params": total.params, "weights": total.weights, "biases": total.biases, "macs": total.macs}
    says = {column: how.says(column, plain_counting(column)) or "as named" for column, how in found.items()}
    return Check(table, tuple(cells), says, whole)


UNTRIED = " (too many rows are wrong to try variants of its layers)"


def _judged(row: Row, layers: tuple[Layer, ...], figures: CostParts, found: Mapping[str, Counting]) -> dict[str, Cell]:
    """The cells of a row by column."""
    return {
        column: _judge_shape(row, text, layers) if column == "out_shape" else
        _judge(row.label, column, text, figures, found[column])
        for column, text in row.cells.items()
    }  # fmt: skip


def _row(row: Row, layers: tuple[Layer, ...], figures: CostParts, judged: Mapping[str, Cell]) -> Judged:
    cells = {column: text for column, text in row.cells.items() if column != "out_shape"}
    return Judged(layers, figures, cells, frozenset(c for c in cells if judged[c].verdict == "mismatch"))


def _match(row: Row, counted: Count) -> tuple[Layer, ...]:
    layers = tuple(layer for layer in counted.layers if any(fnmatchcase(layer.name, p) for p in row.layers))
    if not layers:
        raise DataError(f"row {row.label!r}: no layer of {counted.network} is called {' or '.join(row.layers)}")
    return layers


MISPRINT = 5
"""A number with at least so many digits, one of them wrong, is called a misprint. Shorter ones differ by chance."""


def _slip(printed: str, computed: int | str) -> str:
    """The explanation of a value that no convention explains: whether one digit is wrong or two are swapped.

    >>> _slip("76,728", 73728)
    'not explained, but one digit differs from 73,728: a misprint?'
    """
    number, nothing = Printed.read(printed), "not explained"
    digits = re.sub(r"\D", "", printed)
    whole = number.power == number.ten == number.decimals == 0
    if isinstance(computed, int) and whole and len(digits) == len(str(computed)) >= MISPRINT:
        differ = [i for i, (a, b) in enumerate(zip(digits, str(computed), strict=True)) if a != b]
        if len(differ) == 1:
            return f"{nothing}, but one digit differs from {computed:,}: a misprint?"
        a, b = differ[0], differ[-1]
        if len(differ) == 2 and b == a + 1 and digits[a] + digits[b] == str(computed)[b] + str(computed)[a]:
            return f"{nothing}, but two digits are swapped in {computed:,}: a misprint?"
    return nothing


def _judge(label: str, column: str, text: str, figures: CostParts, found: Counting) -> Cell:
    default = plain_counting(column)
    for how in (default, found):
        well = fit(figures.under(column, how), text, how)
        if well:
            value = figures.under(column, how)
            said = how.says(column, default)
            verdict = "convention" if said else "exact" if well == "exact" else "rounded"
            words = {"exact": "exactly", "rounded": "rounded", "cut off": "cut off, not rounded"}[well]
            return Cell(
                label, column, text, value, verdict, f"{said + ': ' if said else ''}{_said(value, text, how)}, {words}"
            )
    firm = Printed.read(text).significant > FIRM
    elsewhere = _habit(label, column, text, figures, ("exact", "rounded") if firm else ("exact",))
    if elsewhere:
        return elsewhere
    value, off_by = figures.under(column, found), relative_error(figures.under(column, found), text, found)
    said = found.says(column, default)
    off = f"{said + ': ' if said else ''}{_said(value, text, found)}, {_off(off_by, value, text, found)}"
    if off_by <= TOLERANCE:
        words = f"{off}: not a rounding of it, but within {TOLERANCE:.0%}"
        return Cell(label, column, text, value, "rounded", words, close=True)
    return _habit(label, column, text, figures, ("rounded",)) or Cell(label, column, text, value, "mismatch", off)


def _habit(label: str, column: str, text: str, figures: CostParts, fits: Sequence[str]) -> Cell | None:
    """The cell, judged by the first known habit under which it fits, instead of the convention of its column. None if
    there is none, or if the cell has too few digits to decide.
    """
    digits, plain = Printed.read(text).significant, figures.under(column, plain_counting(column))
    for how in habits(column):
        value = figures.under(column, how)
        far = (
            value > 0 and plain > 0 and not 1 / SEVERAL < value / plain < SEVERAL
        )  # no other mistake changes it so much
        if value and digits >= (FIRM - 1 if far else FIRM) and fit(value, text, how) in fits:
            only = f"only here {how.says(column, plain_counting(column))}: {_said(value, text, how)}"
            return Cell(label, column, text, value, "convention", only)
    return None


def _said(value: int, text: str, how: Counting) -> str:
    """The true value in the unit of the printed one, with one decimal more."""
    printed = Printed.read(text)
    if not printed.unit:
        return f"{value:,}"
    return f"{value:,} = {printed.scaled(value, how.thousand):,.{printed.decimals + 1}f}{printed.unit}"


def _off(off_by: float, value: int, text: str, how: Counting) -> str:
    printed = Printed.read(text)
    ratio = printed.value / printed.scaled(value, how.thousand) if value else inf
    return f"printed {ratio:.1f} times that" if ratio > 2 or ratio < 0.5 else f"printed {off_by:.1%} off"


def _judge_shape(row: Row, text: str, layers: Sequence[Layer]) -> Cell:
    shape = layers[-1].shape
    parts = re.split(r"\s*[x×]\s*", text.strip())
    if not all(part.isdecimal() for part in parts):
        raise DataError(f"row {row.label!r}: {text!r} is not a shape such as 112x112x64")
    printed = tuple(int(part) for part in parts)
    if shape is None:
        return Cell(row.label, "out_shape", text, "unknown", "mismatch", "an unknown operator hides the shape")
    true = shape[1:]
    last = (*true[1:], true[0])
    computed = by(last)
    if _trim(printed) == _trim(last):
        return Cell(row.label, "out_shape", text, computed, "exact", "height x width x channels")
    if _trim(printed) == _trim(true):
        return Cell(row.label, "out_shape", text, by(true), "convention", "channels first")
    return Cell(row.label, "out_shape", text, computed, "mismatch", f"{layers[-1].name} gives {computed}")


def _trim(sizes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(s for s in sizes if s != 1)
