"""Compare two networks: their layers are aligned like the lines of a diff, with their costs beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from dojang.arith.cost import Count
from dojang.arith.layer import Layer
from dojang.base.result import Result


@dataclass(frozen=True, slots=True)
class Pair:
    """One aligned row. Change: same, renamed, narrowed, widened, changed, removed (not in b), inserted (not in a)."""

    a: Layer | None
    b: Layer | None
    change: str

    def to_dict(self) -> dict[str, Any]:
        """Both layers as in `count`, and the change."""
        return {
            "a": self.a.to_dict() if self.a else None,
            "b": self.b.to_dict() if self.b else None,
            "change": self.change,
        }


@dataclass(frozen=True, slots=True)
class Comparison(Result):
    """Two cost tables, aligned."""

    a: Count
    b: Count
    pairs: tuple[Pair, ...]

    def to_dict(self) -> dict[str, Any]:
        """Totals of both, their ratio b/a, and the aligned layers."""
        totals = {side: count.to_dict()["totals"] for side, count in (("a", self.a), ("b", self.b))}
        old, new = self.a.total, self.b.total
        return {
            "a": self.a.network,
            "b": self.b.network,
            "convention": self.a.to_dict()["convention"],
            "totals": totals,
            "ratio": {
                "params": new.params / old.params if old.params else None,
                "macs": new.macs / old.macs if old.macs else None,
                "peak_bytes": self.b.peak_bytes / self.a.peak_bytes if self.a.peak_bytes else None,
            },
            "layers": [pair.to_dict() for pair in self.pairs],
        }


def compare(a: Count, b: Count) -> Comparison:
    """Align two cost tables, each in its order, so that the pairs are alike as far as possible together.

    Only layers with the same operator become a pair. Layers of the same shape and cost are preferred, whatever they are
    called; then the same shape; then the same name. Layers with parameters or MACs count more than others. What has no
    partner was removed or inserted. (Needleman, Wunsch 1970: the best of all alignments, in time |a|·|b|; networks of
    more than `MOST_CELLS` pairs are first split at layers that are the same in both.)
    """
    return Comparison(a, b, tuple(_aligned(a.layers, b.layers)))


MOST_CELLS = 4_000_000
"""The most pairs of layers that are weighed against each other: 2,000 layers on each side, a few seconds."""


def _aligned(left: Sequence[Layer], right: Sequence[Layer]) -> list[Pair]:
    """The rows of the best alignment; equal ends are taken off first."""
    start = 0
    while start < min(len(left), len(right)) and _known(left[start]) == _known(right[start]):
        start += 1
    end = 0
    while end < min(len(left), len(right)) - start and _known(left[-1 - end]) == _known(right[-1 - end]):
        end += 1
    inner_left, inner_right = left[start : len(left) - end], right[start : len(right) - end]
    rows = [_pair(x, y) for x, y in zip(left[:start], right[:start], strict=True)]
    if len(inner_left) * len(inner_right) <= MOST_CELLS:
        rows += _best(inner_left, inner_right)
    else:
        rows += _split(inner_left, inner_right)
    if end:
        rows += [_pair(x, y) for x, y in zip(left[-end:], right[-end:], strict=True)]
    return rows


def _split(left: Sequence[Layer], right: Sequence[Layer]) -> list[Pair]:
    """Large networks: runs of layers with the same shape and cost are kept together, what is between is aligned."""
    rows: list[Pair] = []
    same = SequenceMatcher(None, [_work(x) for x in left], [_work(x) for x in right], autojunk=False)
    for tag, a0, a1, b0, b1 in same.get_opcodes():
        if tag == "equal":
            rows += [_pair(x, y) for x, y in zip(left[a0:a1], right[b0:b1], strict=True)]
        elif (a1 - a0) * (b1 - b0) <= MOST_CELLS:
            rows += _best(left[a0:a1], right[b0:b1])
        else:
            rows += [Pair(x, None, "removed") for x in left[a0:a1]] + [Pair(None, y, "inserted") for y in right[b0:b1]]
    return rows


def _best(left: Sequence[Layer], right: Sequence[Layer]) -> list[Pair]:
    """The alignment whose pairs have the highest sum of `_alike`, by dynamic programming from the end."""
    ours, theirs = [_Sides.of(x) for x in left], [_Sides.of(y) for y in right]
    wide = len(right) + 1
    below = [0] * wide
    steps = [bytearray(wide) for _ in left]
    for i in range(len(left) - 1, -1, -1):
        row, step, own = [0] * wide, steps[i], ours[i]
        for j in range(len(right) - 1, -1, -1):
            best, move = below[j], 1  # the layer of a is removed
            if row[j + 1] > best:
                best, move = row[j + 1], 2  # the layer of b is inserted
            other = theirs[j]
            if own.op == other.op:
                together = below[j + 1] + _alike(own, other)
                if together >= best:
                    best, move = together, 3
            row[j], step[j] = best, move
        below = row
    rows: list[Pair] = []
    i = j = 0
    while i < len(left) or j < len(right):
        move = 1 if j == len(right) else 2 if i == len(left) else steps[i][j]
        if move == 3:
            rows.append(_pair(left[i], right[j]))
        else:
            rows.append(Pair(left[i], None, "removed") if move == 1 else Pair(None, right[j], "inserted"))
        i, j = i + (move != 2), j + (move != 1)
    return rows


@dataclass(frozen=True, slots=True)
class _Sides:
    """What of a layer is compared."""

    op: str
    name: str
    shape: Any
    macs: Any
    work: tuple[Any, ...]
    heavy: bool

    @classmethod
    def of(cls, layer: Layer) -> _Sides:
        """From a layer."""
        cost = layer.cost
        return cls(layer.op, layer.name, layer.shape, cost.macs, _work(layer), bool(cost.macs or cost.params))


def _alike(a: _Sides, b: _Sides) -> int:
    """How much two layers of the same operator speak for being the same: shape and cost 8; shape and MACs 6; shape 4;
    neither 1. The same name within a module adds 2, or 4 where shapes differ; names such as `conv1` or `Conv_12` add
    nothing, because they count layers. All three times for layers with parameters or MACs.
    """
    same = a.name == b.name and ("." in a.name or "/" in a.name.strip("/"))
    if a.work == b.work:
        points = 8 + 2 * same
    elif a.shape == b.shape:
        points = (6 if a.macs == b.macs else 4) + 2 * same
    else:
        points = 1 + 4 * same
    return 3 * points if a.heavy or b.heavy else points


def _known(layer: Layer) -> tuple[Any, ...]:
    return layer.name, *_work(layer)


def _work(layer: Layer) -> tuple[Any, ...]:
    return layer.op, layer.shape, layer.cost.weights, layer.cost.biases, layer.cost.macs


def _pair(a: Layer, b: Layer) -> Pair:
    if _work(a) == _work(b):
        return Pair(a, b, "same" if a.name == b.name else "renamed")
    old, new = a.shape, b.shape
    if old and new and len(old) == len(new) > 1 and (old[0], old[2:]) == (new[0], new[2:]) and old[1] != new[1]:
        return Pair(a, b, "narrowed" if new[1] < old[1] else "widened")
    return Pair(a, b, "changed")
