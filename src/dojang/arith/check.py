"""A published table against the truth: each cell judged, the convention behind it found, mismatches explained."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import inf
from statistics import median
from typing import Any

from dojang.arith.conv import by
from dojang.arith.cost import Count, Layer, count
from dojang.arith.graph import Graph
from dojang.arith.variants import Variant, variants
from dojang.base.errors import DataError

TOLERANCE = 0.01
"""Relative difference up to which a cell that no rounding gives still counts as rounded; the explanation says so."""

COLUMNS = ("weights", "params", "macs", "flops", "out_shape")
_NUMBER = re.compile(r"^[~≈]?\s*(\d[\d,_]*)(?:\.(\d+))?\s*([kKmMgGbBtT]?)$")
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "b": 3, "t": 4}


@dataclass(frozen=True, slots=True)
class Row:
    """One printed row: its label, the layers that it stands for (names or globs), the printed cells by column."""

    label: str
    layers: tuple[str, ...]
    cells: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Table:
    """A published table with its citation."""

    name: str
    title: str
    source: str
    network: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Printed:
    """A printed number: digits, decimals, power of K (0 none, 1 K, 2 M, 3 G)."""

    value: float
    decimals: int
    power: int

    @classmethod
    def read(cls, text: str) -> Printed:
        """From text such as "2.7K", "≈ 35k", "60,965,224"; raises `DataError`."""
        match = _NUMBER.match(text.strip())
        if not match:
            raise DataError(f"{text!r} is not a number such as 34M, 2.7K or 60,965,224")
        digits, decimals, unit = match.groups()
        number = float(digits.replace(",", "").replace("_", "") + "." + (decimals or "0"))
        return cls(number, len(decimals or ""), _POWER[unit.lower()])


@dataclass(frozen=True, slots=True)
class Counting:
    """A convention of counting: K, what counts as a parameter, what an operation is."""

    thousand: int = 1000
    bias: bool = True
    norm: bool = True
    flops: bool = False
    inside: bool = False

    def says(self, column: str, default: Counting) -> str:
        """What differs from the column's plain meaning, in words."""
        words = [f"K = {self.thousand}"] if self.thousand != default.thousand else []
        if column in ("params", "weights"):
            words += [f"{'with' if self.bias else 'without'} biases"] if self.bias != default.bias else []
            words += [f"{'with' if self.norm else 'without'} batch norm"] if self.norm != default.norm else []
        else:
            words += ["1 MAC = 2 FLOPs" if self.flops else "1 FLOP = 1 MAC"] if self.flops != default.flops else []
            words += ["taps on padding left out"] if self.inside else []
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Figures:
    """What the layers of a row cost, in the parts that conventions put together differently."""

    weights: int = 0
    biases: int = 0
    norm: int = 0
    macs: int = 0
    inside: int = 0

    def __add__(self, other: Figures) -> Figures:
        """Part by part."""
        return Figures(
            self.weights + other.weights, self.biases + other.biases, self.norm + other.norm,
            self.macs + other.macs, self.inside + other.inside,
        )  # fmt: skip

    def under(self, column: str, how: Counting) -> int:
        """The figure of a column under a convention."""
        if column in ("weights", "params"):
            return self.weights + how.bias * self.biases + how.norm * self.norm
        return (self.inside if how.inside else self.macs) * (2 if how.flops else 1)


@dataclass(frozen=True, slots=True)
class Cell:
    """One judged cell. Verdict: exact, rounded, convention (fits, but only under another one) or mismatch.

    `close` marks a cell that counts as rounded only because it lies within `TOLERANCE`: no rounding gives it.
    """

    row: str
    column: str
    printed: str
    computed: int | str
    verdict: str
    explanation: str
    close: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As `CONTRACT.md` shapes it."""
        return {
            "row": self.row, "column": self.column, "printed": self.printed, "computed": self.computed,
            "verdict": self.verdict, "explanation": self.explanation, "close": self.close,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Check:
    """A judged table: the cells, the convention found per column, the totals of the network.

    Where values decide between several `ways` through the network, it was held against the dearest.
    """

    table: Table
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
        """As `CONTRACT.md` shapes it."""
        several = {"ways": self.ways} if self.ways > 1 else {}
        return {
            "table": self.table.name,
            "title": self.table.title,
            "source": self.table.source,
            "convention": dict(self.conventions),
            "cells": [cell.to_dict() for cell in self.cells],
            "totals": {**self.totals, "cells": len(self.cells), "mismatches": len(self.mismatches), **several},
        }


def check(table: Table, graph: Graph) -> Check:
    """Judges every cell of a table against the cost of a network.

    Per column the convention with the least median relative error over its cells is found first; the plain meaning of
    the column's name stands unless another is better by half of `TOLERANCE`. A cell is *exact* or *rounded* (to
    nearest, or cut off, at the printed precision, or else within `TOLERANCE`, which is then said), *convention* when it
    fits only under another convention, else *mismatch*; for that, nearby configurations are searched, and those that
    explain the whole row come first. Raises `DataError` for
    rows that name no layer and cells that are no number.
    """
    counted, inside = count(graph), count(graph, exact_padding=True)
    matched = {row.label: _match(row, counted) for row in table.rows}
    figures = {label: _figures(layers, inside) for label, layers in matched.items()}
    found = {column: _convention(column, table, figures) for column in table.columns if column != "out_shape"}
    cells: list[Cell] = []
    for row in table.rows:
        explanations = _explain(row, matched[row.label], figures[row.label], found, graph)
        for column, printed in row.cells.items():
            if column == "out_shape":
                cells.append(_judge_shape(row, printed, matched[row.label]))
            else:
                cell = _judge(row.label, column, printed, figures[row.label], found[column])
                if cell.verdict == "mismatch":
                    why = explanations.get(column) or _slip(printed, cell.computed)
                    cell = replace(cell, explanation=f"{cell.explanation}; {why}")
                cells.append(cell)
    total = counted.total
    whole = {"params": total.params, "weights": total.weights, "biases": total.biases, "macs": total.macs}
    says = {column: how.says(column, _default(column)) or "as named" for column, how in found.items()}
    return Check(table, tuple(cells), says, whole)


def _default(column: str) -> Counting:
    """What the name of a column says: weights exclude biases and norms, flops are twice the MACs."""
    return Counting(bias=column == "params", norm=column == "params", flops=column == "flops")


def _conventions(column: str) -> Iterator[Counting]:
    """Every convention of a column, the plain one first, then by how much they change."""
    default = _default(column)
    for thousand in (1000, 1024):
        for first in (False, True):
            for second in (False, True):
                if column in ("weights", "params"):
                    yield replace(default, thousand=thousand, bias=default.bias != first, norm=default.norm != second)
                else:
                    yield replace(default, thousand=thousand, flops=default.flops != first, inside=second)


def _match(row: Row, counted: Count) -> tuple[Layer, ...]:
    layers = tuple(layer for layer in counted.layers if any(fnmatchcase(layer.name, p) for p in row.layers))
    if not layers:
        raise DataError(f"row {row.label!r}: no layer of {counted.network} is called {' or '.join(row.layers)}")
    return layers


def _figures(layers: Sequence[Layer], inside: Count) -> Figures:
    real = {layer.name: layer.cost.macs for layer in inside.layers}
    total = Figures()
    for layer in layers:
        c = layer.cost
        norm = layer.op in ("batchnorm", "groupnorm", "layernorm", "instancenorm")
        own = Figures(0, 0, c.params) if norm else Figures(c.weights, c.biases)
        total += replace(own, macs=c.macs, inside=real[layer.name])
    return total


def _scaled(value: int, printed: Printed, how: Counting) -> float:
    return value / how.thousand**printed.power


def _fit(value: int, text: str, how: Counting) -> str:
    """How a printed number comes from a value: "exact", "rounded", "cut off", or "" when it does not."""
    printed = Printed.read(text)
    scaled = _scaled(value, printed, how)
    unit = 10.0**-printed.decimals
    if abs(scaled - printed.value) < 1e-9 * max(1.0, scaled):
        return "exact"
    if abs(scaled - printed.value) <= unit / 2 * (1 + 1e-9):
        return "rounded"
    return "cut off" if 0 < scaled - printed.value < unit else ""


def _error(value: int, text: str, how: Counting) -> float:
    printed = Printed.read(text)
    return abs(_scaled(value, printed, how) / printed.value - 1) if printed.value else inf


def _convention(column: str, table: Table, figures: Mapping[str, Figures]) -> Counting:
    cells = [(figures[row.label], row.cells[column]) for row in table.rows if column in row.cells]
    if not cells:
        return _default(column)

    def misfit(how: Counting) -> float:
        return median(_error(f.under(column, how), text, how) for f, text in cells)

    best, default = min(_conventions(column), key=misfit), _default(column)
    return default if misfit(default) <= misfit(best) + TOLERANCE / 2 else best


def _slip(printed: str, computed: int | str) -> str:
    """What is left to say when no configuration gives a printed value: whether it is a slip of one digit.

    >>> _slip("76,728", 73728)
    'no nearby configuration gives the printed value, but one digit differs from 73,728: a misprint?'
    """
    digits = re.sub(r"\D", "", printed)
    nothing = "no nearby configuration gives the printed value"
    if isinstance(computed, int) and len(digits) == len(str(computed)) > 2 and Printed.read(printed).power == 0:
        differ = [i for i, (a, b) in enumerate(zip(digits, str(computed), strict=True)) if a != b]
        if len(differ) == 1:
            return f"{nothing}, but one digit differs from {computed:,}: a misprint?"
        a, b = differ[0], differ[-1]
        if len(differ) == 2 and b == a + 1 and digits[a] + digits[b] == str(computed)[b] + str(computed)[a]:
            return f"{nothing}, but two digits are swapped in {computed:,}: a misprint?"
    return nothing


def _judge(label: str, column: str, text: str, figures: Figures, found: Counting) -> Cell:
    default = _default(column)
    value = figures.under(column, found)
    for how in (default, found):
        fit = _fit(figures.under(column, how), text, how)
        if fit:
            value = figures.under(column, how)
            said = how.says(column, default)
            verdict = "convention" if said else "exact" if fit == "exact" else "rounded"
            words = {"exact": "exactly", "rounded": "rounded", "cut off": "cut off, not rounded"}[fit]
            return Cell(
                label, column, text, value, verdict, f"{said + ': ' if said else ''}{_said(value, text, how)}, {words}"
            )
    elsewhere = _under_another(label, column, text, figures, ("exact",))
    if elsewhere:
        return elsewhere
    value, error = figures.under(column, found), _error(figures.under(column, found), text, found)
    said = found.says(column, default)
    off = f"{said + ': ' if said else ''}{_said(value, text, found)}, {_off(error, value, text, found)}"
    if error <= TOLERANCE:
        words = f"{off}: no rounding of it, but within {TOLERANCE:.0%}"
        return Cell(label, column, text, value, "rounded", words, close=True)
    rounded = _under_another(label, column, text, figures, ("rounded",))
    return rounded or Cell(label, column, text, value, "mismatch", off)


def _under_another(label: str, column: str, text: str, figures: Figures, fits: Sequence[str]) -> Cell | None:
    """The cell judged by the first convention, not that of its column, under which it fits; None when there is none."""
    for how in _conventions(column):
        value = figures.under(column, how)
        if _fit(value, text, how) in fits:
            only = f"only here {how.says(column, _default(column))}: {_said(value, text, how)}"
            return Cell(label, column, text, value, "convention", only)
    return None


def _said(value: int, text: str, how: Counting) -> str:
    """The true value in the unit of the printed one, with one decimal more."""
    printed = Printed.read(text)
    if not printed.power:
        return f"{value:,}"
    unit = {1: "K", 2: "M", 3: "G", 4: "T"}[printed.power]
    return f"{value:,} = {_scaled(value, printed, how):,.{printed.decimals + 1}f}{unit}"


def _off(error: float, value: int, text: str, how: Counting) -> str:
    printed = Printed.read(text)
    ratio = printed.value / _scaled(value, printed, how) if value else inf
    return f"printed {ratio:.1f} times that" if ratio > 2 or ratio < 0.5 else f"printed {error:.1%} off"


def _judge_shape(row: Row, text: str, layers: Sequence[Layer]) -> Cell:
    shape = layers[-1].shape
    parts = re.split(r"\s*[x×]\s*", text.strip())
    if not all(part.isdigit() for part in parts):
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


def _explain(
    row: Row, layers: Sequence[Layer], true: Figures, found: Mapping[str, Counting], graph: Graph
) -> dict[str, str]:
    """For each mismatched column of a row the nearby configuration that gives the printed value.

    A configuration counts only if it leaves the cells of the row that were right within reach; one that explains every
    wrong cell of the row comes before one that explains a part.
    """
    cells = {column: text for column, text in row.cells.items() if column in found}
    wrong = {c for c, t in cells.items() if _judge(row.label, c, t, true, found[c]).verdict == "mismatch"}
    best: dict[str, tuple[tuple[bool, int], str]] = {}
    for order, (variant, figures) in enumerate(_nearby(layers, true, graph) if wrong else ()):
        how = {column: _fitting(figures, column, text, found[column]) for column, text in cells.items()}
        if any(
            how[c] is None and _error(figures.under(c, found[c]), cells[c], found[c]) > TOLERANCE
            for c in cells
            if c not in wrong
        ):
            continue
        explained = {c: h for c, h in how.items() if c in wrong and h is not None}
        for column, convention in explained.items():
            said = convention.says(column, _default(column))
            words = f"it is {variant.layer} as {variant.change}" + (f" ({said})" if said else "")
            rank = (len(explained) < len(wrong), order)
            if column not in best or rank < best[column][0]:
                best[column] = (rank, words)
    return {column: words for column, (_, words) in best.items()}


def _fitting(figures: Figures, column: str, text: str, found: Counting) -> Counting | None:
    """The convention under which a variant gives the printed value to the nearest printed digit, likely ones first."""
    default = _default(column)
    for how in (default, found, replace(default, bias=False), replace(found, bias=False)):
        if _fit(figures.under(column, how), text, how) in ("exact", "rounded"):
            return how
    return None


def _nearby(layers: Sequence[Layer], true: Figures, graph: Graph) -> Iterator[tuple[Variant, Figures]]:
    for layer in layers:
        for variant in variants(graph, graph[layer.name]):
            dw, dm = variant.weights - layer.cost.weights, variant.macs - layer.cost.macs
            yield variant, replace(true, weights=true.weights + dw, macs=true.macs + dm, inside=true.inside + dm)
