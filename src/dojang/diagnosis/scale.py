"""How large the activations of each layer are, and how many of them are stuck: exploding, vanishing, saturated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dojang.arith.graph import Graph, Node
from dojang.evidence.activations import Reduced, activated, layers
from dojang.evidence.finding import Finding

Array = np.ndarray

APART = 1000.0
"""A layer that gives so many times more, or less, than it reads explodes or vanishes. What it reads is the measure, and
not the other layers: behind one that explodes they may all be large."""

LARGEST_FLOAT16, LEAST_FLOAT16 = 65504.0, 2.0**-14
"""The largest number of half precision, and the least one that has all its digits."""

STUCK = 0.5
"""A layer more than this part of whose activations is saturated hardly passes slopes back."""

FLAT = 0.04
"""An output of a sigmoid, tanh or softsign is saturated where the slope is below this part of the largest: sigmoid
below 0.01 or above 0.99, tanh beyond ±0.98, softsign beyond ±0.8."""


@dataclass(frozen=True)
class Scale:
    """The activations of one layer (behind its norm and activation, at `value`) over all samples, places and channels.

    `rms`: root of the mean square; `least`, `most`: extremes; `zeros`: the part that is exactly 0. `saturated`: the
    part at an end of the range of its activation, None where that has no ends (`activation` names it, "" for none).
    `own_rms`, `own_size`: root mean square and largest size of what the layer itself gives, before a norm that would
    hide it; `input_rms` is that of what it reads.
    """

    layer: str
    value: str
    activation: str
    rms: float
    least: float
    most: float
    zeros: float
    saturated: float | None
    samples: int
    own_rms: float
    own_size: float
    input_rms: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def _ends(node: Node) -> Callable[[Array], Array] | None:
    """Which values of an activation are at an end of its range where its slope is 0 or nearly so."""
    match node.op:
        case "sigmoid":
            return lambda y: y * (1 - y) < FLAT / 4
        case "tanh":
            return lambda y: 1 - y * y < FLAT
        case "softsign":
            return lambda y: np.square(1 - np.abs(y)) < FLAT
        case "hard_sigmoid":
            return lambda y: (y <= 0) | (y >= 1)
        case "clip":
            low, high = node.attrs["min"], node.attrs["max"]
            if high is None or not np.isfinite(high):
                return None
            if low == 0:  # a ReLU with a top: its zeros are told as zeros
                return lambda y: y >= high
            return lambda y: (y >= high) | ((y <= low) if low is not None else False)
    return None


class Scales:
    """Watches the layers' activations and sums up their scale."""

    def __init__(self, graph: Graph) -> None:
        """Nothing was seen yet."""
        self.graph = graph
        self.layers = {node.name: activated(graph, node.name) for node in layers(graph)}
        around = [v for layer in self.layers for v in (graph[layer].inputs[0], layer)]
        self.values: Sequence[str] = tuple(dict.fromkeys((*self.layers.values(), *around)))
        self._ends = {value: _ends(graph[value]) for value in self.values}
        self._sums = {value: np.zeros(5) for value in self.values}  # samples, numbers, squares, zeros, saturated
        self._extremes = {value: np.array([np.inf, np.inf]) for value in self.values}  # least, minus most

    def add(self, found: Mapping[str, Array]) -> None:
        """One batch; squares are summed in float64."""
        for value in self.values:
            y = found[value]
            ends, flat = self._ends[value], y.reshape(-1).astype(np.float64)
            stuck = np.count_nonzero(ends(y)) if ends is not None else 0
            self._sums[value] += [len(y), y.size, flat @ flat, y.size - np.count_nonzero(y), stuck]
            if y.size:
                self._extremes[value] = np.minimum(self._extremes[value], [y.min(), -y.max()])

    def joined(self, reduced: Reduced) -> tuple[Scale, ...]:
        """The scale of every layer over the samples of all processes."""
        rows: list[Scale] = []
        sums = {value: reduced("sum", self._sums[value]).tolist() for value in self.values}
        extremes = {value: reduced("min", self._extremes[value]).tolist() for value in self.values}
        sizes = {
            value: float(np.sqrt(squares / max(1.0, numbers))) for value, (_, numbers, squares, *_) in sums.items()
        }
        for layer, value in self.layers.items():
            samples, numbers, _, zeros, stuck = sums[value]
            least, most = extremes[value]
            node, whole = self.graph[value], max(1.0, numbers)
            saturated = None if self._ends[value] is None else stuck / whole
            activation = "" if value == layer or node.op == "batchnorm" else node.op
            own = max(-extremes[layer][0], -extremes[layer][1])
            rows.append(
                Scale(
                    layer, value, activation, sizes[value], least, -most, zeros / whole, saturated, int(samples),
                    sizes[layer], own, sizes[self.graph[layer].inputs[0]],
                )
            )  # fmt: skip
        return tuple(rows)


def findings(scales: Sequence[Scale]) -> list[Finding]:
    """Layers that explode, vanish or are saturated."""
    found: list[Finding] = []
    for s in scales:
        largest, seen = max(abs(s.least), abs(s.most), s.own_size), f" ({s.samples} samples)"
        most, least = max(s.own_rms, s.rms), min(s.own_rms, s.rms)
        beside = f"that of what it reads, {s.input_rms:.3g}"
        if largest > LARGEST_FLOAT16:
            text = f"what it gives reaches {largest:.3g}, more than half precision can hold ({LARGEST_FLOAT16:g}){seen}"
            found.append(Finding(s.layer, "exploding", (), largest, LARGEST_FLOAT16, text, "warning"))
        elif s.input_rms and most > APART * s.input_rms:
            text = f"what it gives has a root mean square of {most:.3g}, {most / s.input_rms:.3g} times {beside}{seen}"
            found.append(Finding(s.layer, "exploding", (), most, APART * s.input_rms, text, "warning"))
        elif least < max(LEAST_FLOAT16, s.input_rms / APART):
            less = f"less than half precision holds with all its digits ({LEAST_FLOAT16:.2g})"
            if least >= LEAST_FLOAT16:
                less = f"1/{s.input_rms / least:.3g} of {beside}"
            limit = max(LEAST_FLOAT16, s.input_rms / APART)
            text = f"what it gives has a root mean square of {least:.3g}, {less}{seen}"
            found.append(Finding(s.layer, "vanishing", (), least, limit, text, "warning"))
        if s.saturated is not None and s.saturated > STUCK:
            text = (
                f"{s.saturated:.0%} of the outputs of its {s.activation} are at an end of the range, where its "
                f"slope is 0 or nearly so{seen}"
            )
            found.append(Finding(s.layer, "saturated", (), s.saturated, STUCK, text, "warning"))
    return found
