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
    """Align two cost tables: first layers with the same name and operator, in order; between those, layers with the
    same shape and cost (renamed); then layers with the same operator (narrowed, widened, changed). The others were
    removed or inserted.
    """
    rows: list[Pair] = []
    named = SequenceMatcher(
        None, [(x.name, x.op) for x in a.layers], [(x.name, x.op) for x in b.layers], autojunk=False
    )
    for tag, a0, a1, b0, b1 in named.get_opcodes():
        if tag == "equal":
            rows += [_pair(x, y) for x, y in zip(a.layers[a0:a1], b.layers[b0:b1], strict=True)]
        else:
            rows += _renamed(a.layers[a0:a1], b.layers[b0:b1])
    return Comparison(a, b, tuple(rows))


def _renamed(left: Sequence[Layer], right: Sequence[Layer]) -> list[Pair]:
    """The second step, between layers with the same name: align layers with the same shape and cost."""
    rows: list[Pair] = []
    same = SequenceMatcher(None, [_work(x) for x in left], [_work(x) for x in right], autojunk=False)
    for tag, a0, a1, b0, b1 in same.get_opcodes():
        if tag == "equal":
            rows += [_pair(x, y) for x, y in zip(left[a0:a1], right[b0:b1], strict=True)]
        else:
            rows += _changed(left[a0:a1], right[b0:b1])
    return rows


def _changed(left: Sequence[Layer], right: Sequence[Layer]) -> list[Pair]:
    """The third step: align layers with the same operator, in order; the others were removed or inserted."""
    rows: list[Pair] = []
    alike = SequenceMatcher(None, [x.op for x in left], [x.op for x in right], autojunk=False)
    for tag, a0, a1, b0, b1 in alike.get_opcodes():
        if tag == "equal":
            rows += [_pair(x, y) for x, y in zip(left[a0:a1], right[b0:b1], strict=True)]
        else:
            rows += [Pair(x, None, "removed") for x in left[a0:a1]] + [Pair(None, y, "inserted") for y in right[b0:b1]]
    return rows


def _work(layer: Layer) -> tuple[Any, ...]:
    return layer.op, layer.shape, layer.cost.weights, layer.cost.biases, layer.cost.macs


def _pair(a: Layer, b: Layer) -> Pair:
    if _work(a) == _work(b):
        return Pair(a, b, "same" if a.name == b.name else "renamed")
    old, new = a.shape, b.shape
    if old and new and len(old) == len(new) > 1 and (old[0], old[2:]) == (new[0], new[2:]) and old[1] != new[1]:
        return Pair(a, b, "narrowed" if new[1] < old[1] else "widened")
    return Pair(a, b, "changed")
