"""Conventions of counting: what each of them counts for some layers, and which printed numbers it gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from math import inf
from statistics import median
from typing import Literal

from dojang.arith.cost import Count
from dojang.arith.layer import Layer
from dojang.arith.ops import OPS
from dojang.arith.printed import Printed

NORMS = frozenset(op for op, rule in OPS.items() if "affine" in rule.attrs)
"""Normalisations; some papers do not count their parameters."""

Fit = Literal["exact", "rounded", "cut off", ""]


@dataclass(frozen=True, slots=True)
class Counting:
    """A convention of counting: K, what counts as a parameter, what an operation is, which layers count."""

    thousand: int = 1000
    bias: bool = True
    norm: bool = True
    flops: bool = False
    dense: bool = True
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
        words += ["dense layers left out"] if not self.dense else []
        return ", ".join(words)

    @property
    def habit(self) -> bool:
        """Whether papers are known to count like this. Some also use K = 1024 or leave out padding taps; but that
        changes every figure by a few percent and so fits a wrong number easily, so several cells must support it.
        """
        return self.thousand == 1000 and not self.inside

    def changes(self, other: Counting) -> int:
        """The number of fields in which it differs from another convention."""
        return sum(getattr(self, f.name) != getattr(other, f.name) for f in fields(self))


@dataclass(frozen=True, slots=True)
class CostParts:
    """What the layers of a row cost, in the parts that conventions add up differently; dense layers are separate."""

    weights: int = 0
    biases: int = 0
    norm: int = 0
    macs: int = 0
    inside: int = 0
    dense_weights: int = 0
    dense_biases: int = 0
    dense_macs: int = 0

    def __add__(self, other: CostParts) -> CostParts:
        """Part by part."""
        return CostParts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def under(self, column: str, how: Counting) -> int:
        """The figure of a column under a convention."""
        if column in ("weights", "params"):
            dense = self.dense_weights + how.bias * self.dense_biases if how.dense else 0
            return self.weights + how.bias * self.biases + how.norm * self.norm + dense
        return ((self.inside if how.inside else self.macs) + how.dense * self.dense_macs) * (2 if how.flops else 1)


def figures_of(layers: Sequence[Layer], inside: Count) -> CostParts:
    """The figures of some layers; `inside` is the count without taps on padding."""
    real = {layer.name: layer.cost.macs for layer in inside.layers}
    total = CostParts()
    for layer in layers:
        c = layer.cost
        if layer.op == "dense":
            total += CostParts(dense_weights=c.weights, dense_biases=c.biases, dense_macs=c.macs)
        elif layer.op in NORMS:
            total += CostParts(norm=c.params, macs=c.macs, inside=real[layer.name])
        else:
            total += CostParts(c.weights, c.biases, macs=c.macs, inside=real[layer.name])
    return total


def plain_counting(column: str) -> Counting:
    """What the name of a column says: weights exclude biases and norms, flops are twice the MACs."""
    return Counting(bias=column == "params", norm=column == "params", flops=column == "flops")


def conventions(column: str) -> tuple[Counting, ...]:
    """Every convention of a column, the plain one first, then by how much they change."""
    default = plain_counting(column)
    about = ("bias", "norm") if column in ("weights", "params") else ("flops", "inside")
    found: list[Counting] = []
    for thousand, dense, first, second in product((1000, 1024), (True, False), (False, True), (False, True)):
        changed = {name: getattr(default, name) != flip for name, flip in zip(about, (first, second), strict=True)}
        found.append(replace(default, thousand=thousand, dense=dense, **changed))
    return tuple(sorted(found, key=default.changes))


def habits(column: str) -> Iterator[Counting]:
    """The conventions that papers are known for."""
    return (how for how in conventions(column) if how.habit)


def fit(value: int, text: str, how: Counting) -> Fit:
    """Whether a printed number is the value: "exact", "rounded", "cut off", or "" if it is not."""
    printed = Printed.read(text)
    scaled = printed.scaled(value, how.thousand)
    unit = 10.0**-printed.decimals
    if abs(scaled - printed.value) < 1e-9 * max(1.0, scaled):
        return "exact"
    if abs(scaled - printed.value) <= unit / 2 * (1 + 1e-9):
        return "rounded"
    return "cut off" if 0 < scaled - printed.value < unit else ""


def error(value: int, text: str, how: Counting) -> float:
    """Relative difference of a value from a printed number."""
    printed = Printed.read(text)
    return abs(printed.scaled(value, how.thousand) / printed.value - 1) if printed.value else inf


def found_convention(column: str, cells: Sequence[tuple[CostParts, str]], near: float) -> Counting:
    """The convention of a column of (figures, printed): the plain meaning of its name, unless another is supported.

    A known habit is supported if the cells that it newly gives, printed with three digits or more, outnumber the cells
    that it no longer gives. Any other convention (K = 1024, taps on padding left out) must newly give at least two
    cells, and bring within `near` half of the cells that were not. Of the supported conventions the one that gives the
    most cells wins (exact cells count more than rounded ones), then the closest one, then the one that changes least.
    """
    default = plain_counting(column)
    plain = _given(column, cells, default, near)
    best, most = default, (0.0, 0, -inf)
    for how in conventions(column)[1:]:
        new = _given(column, cells, how, near)
        pairs = [*zip(plain, new, (text for _, text in cells), strict=True)]
        gained = [text for (old, _), (now, _), text in pairs if now and not old]
        lost = sum(bool(old) and not now for (old, _), (now, _), _ in pairs)
        closer = sum(now - old for (_, old), (_, now), _ in pairs)
        if how.habit:
            supported = sum(Printed.read(text).significant >= FIRM for text in gained) > lost
        else:
            far = sum(not old for _, old in plain)
            supported = len(gained) >= max(2, lost + 1) and 2 * closer >= far
        firmer = sum(WEIGHT[now] - WEIGHT[old] for (old, _), (now, _), _ in pairs)
        rank = (firmer, closer, -median(error(f.under(column, how), text, how) for f, text in cells))
        if supported and rank > most:
            best, most = how, rank
    return best


def _given(column: str, cells: Sequence[tuple[CostParts, str]], how: Counting, near: float) -> list[tuple[Fit, bool]]:
    """For each cell, whether a convention gives it, and whether it comes within `near` of it."""
    found: list[tuple[Fit, bool]] = []
    for figures, text in cells:
        value = figures.under(column, how)
        fits = fit(value, text, how)
        found.append((fits, bool(fits) or error(value, text, how) <= near))
    return found


WEIGHT: dict[Fit, float] = {"exact": 2, "rounded": 1, "cut off": 0.5, "": 0}
"""How much a cell supports a convention: the less likely such a fit is by chance, the more."""

FIRM = 3
"""One cell supports a known habit if it has at least so many significant digits: with two, one number in twenty fits.
"""
