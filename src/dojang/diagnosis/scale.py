"""How large the activations of each layer are, and how many of them are stuck: exploding, vanishing, saturated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dojang.arith.counting import NORMS
from dojang.arith.graph import Graph, Node
from dojang.evidence.activations import BEHIND, Reduced, activated, layers
from dojang.evidence.finding import Finding

Array = np.ndarray

APART = 1000.0
"""A layer that gives so many times more, or less, than it reads explodes or vanishes. What it reads is the measure, and
not the other layers: behind one that explodes they may all be large. A norm gives values of size 1 if it is left alone,
whatever the layer reads, so what comes out of it must be as far from 1 as well."""

LARGEST_FLOAT16, LEAST_FLOAT16 = 65504.0, 2.0**-14
"""The largest number of half precision, and the least one that has all its digits."""

STUCK = 0.5
"""A layer more than this part of whose activations is saturated hardly passes slopes back."""

FLAT = 0.04
"""An output of a sigmoid, tanh or softsign is saturated where the slope is below this part of the largest: sigmoid
below 0.01 or above 0.99, tanh beyond ±0.98, softsign beyond ±0.8."""


@dataclass(frozen=True)
class Stage:
    """One value on the way from a layer to the next: its root mean square `rms`, its largest `size`, and whether a norm
    stands between the layer and it.
    """

    value: str
    rms: float
    size: float
    normed: bool


@dataclass(frozen=True)
class Scale:
    """The activations of one layer (behind its batch norm and activation, at `value`) over all samples, places and
    channels.

    `rms`: root of the mean square; `least`, `most`: extremes; `zeros`: the part that is exactly 0. `saturated`: the
    part at an end of the range of its activation, None where that has no ends (`activation` names it, "" for none).
    `input_rms`: root mean square of what the layer reads. `stages`: what it gives itself, and what each norm and
    activation behind it makes of that, because one of them may hide what another does.
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
    input_rms: float
    stages: tuple[Stage, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


BLOCK = 1 << 16
"""Numbers that are squared at once."""


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


def stages(graph: Graph, layer: str) -> list[str]:
    """The layer and the norms and activations behind it, as long as each is all that reads the one before."""
    found = [layer]
    while found[-1] not in graph.outputs and len(graph.consumers[found[-1]]) == 1:
        reader = graph.consumers[found[-1]][0]
        if reader.op not in NORMS and BEHIND.find(reader) is None:
            break
        found.append(reader.name)
    return found


def _squares(part: Array) -> float:
    """The sum of squares; in float32, which is quicker, where that neither overflows nor loses small numbers."""
    with np.errstate(over="ignore", under="ignore"):
        found = float(part @ part)
    if part.dtype == np.float32 and SAFE < found < 1 / SAFE:
        return found
    wide = part.astype(np.float64)
    return float(wide @ wide)


SAFE = 1e-20
"""Sums of squares of float32 numbers from here to its reciprocal hold to a few parts in 1e5 at least."""


class Scales:
    """Watches the layers' activations and sums up their scale."""

    def __init__(self, graph: Graph) -> None:
        """Nothing was seen yet."""
        self.graph = graph
        self.layers = {node.name: activated(graph, node.name) for node in layers(graph)}
        self.stages = {layer: stages(graph, layer) for layer in self.layers}
        around = [v for layer, own in self.stages.items() for v in (graph[layer].inputs[0], *own)]
        self.values: Sequence[str] = tuple(dict.fromkeys((*self.layers.values(), *around)))
        self._ends = {value: _ends(graph[value]) for value in self.values}
        self._sums = {value: np.zeros(5) for value in self.values}  # samples, numbers, squares, zeros, saturated
        self._extremes = {value: np.array([np.inf, np.inf]) for value in self.values}  # least, minus most

    def add(self, found: Mapping[str, Array]) -> None:
        """One batch."""
        for value in self.values:
            y = found[value]
            ends, flat = self._ends[value], y.reshape(-1)
            stuck = np.count_nonzero(ends(y)) if ends is not None else 0
            squares = sum(_squares(flat[i : i + BLOCK]) for i in range(0, flat.size, BLOCK))
            self._sums[value] += [len(y), y.size, squares, y.size - np.count_nonzero(y), stuck]
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
            on_the_way, normed = list[Stage](), False
            for name in self.stages[layer]:
                normed = normed or self.graph[name].op in NORMS
                on_the_way.append(Stage(name, sizes[name], -min(extremes[name]), normed))
            rows.append(
                Scale(
                    layer, value, activation, sizes[value], least, -most, zeros / whole, saturated, int(samples),
                    sizes[self.graph[layer].inputs[0]], tuple(on_the_way),
                )
            )  # fmt: skip
        return tuple(rows)


def findings(scales: Sequence[Scale]) -> list[Finding]:
    """Layers that explode, vanish or are saturated."""
    found: list[Finding] = []
    for s in scales:
        far = _exploding(s) or _vanishing(s)
        found += [far] if far else []
        if s.saturated is not None and s.saturated > STUCK:
            text = (
                f"{s.saturated:.0%} of the outputs of its {s.activation} are at an end of the range, where its "
                f"slope is 0 or nearly so ({s.samples} samples)"
            )
            found.append(Finding(s.layer, "saturated", (), s.saturated, STUCK, text, "warning"))
    return found


def _exploding(s: Scale) -> Finding | None:
    largest = max(s.stages, key=lambda stage: stage.size)
    if largest.size > LARGEST_FLOAT16:
        text = f"reaches {largest.size:.3g}, more than half precision can hold ({LARGEST_FLOAT16:g})"
        said = _said(s, largest, text)
        return Finding(s.layer, "exploding", (), largest.size, LARGEST_FLOAT16, said, "warning")
    limits = {stage: APART * (max(1.0, s.input_rms) if stage.normed else s.input_rms) for stage in s.stages}
    over = [stage for stage, limit in limits.items() if limit and stage.rms > limit]
    if not over:
        return None
    most = max(over, key=lambda stage: stage.rms)
    text = f"has a root mean square of {most.rms:.3g}, {most.rms / s.input_rms:.3g} times {_read(s)}"
    return Finding(s.layer, "exploding", (), most.rms, limits[most], _said(s, most, text), "warning")


def _vanishing(s: Scale) -> Finding | None:
    limits = {
        stage: max(LEAST_FLOAT16, (min(1.0, s.input_rms) if stage.normed else s.input_rms) / APART)
        for stage in s.stages
    }
    under = [stage for stage, limit in limits.items() if stage.rms < limit]
    if not under:
        return None
    least = min(under, key=lambda stage: stage.rms)
    less = f"less than half precision holds with all its digits ({LEAST_FLOAT16:.2g})"
    if least.rms >= LEAST_FLOAT16:
        less = f"1/{s.input_rms / least.rms:.3g} of {_read(s)}"
    text = f"has a root mean square of {least.rms:.3g}, {less}"
    return Finding(s.layer, "vanishing", (), least.rms, limits[least], _said(s, least, text), "warning")


def _read(s: Scale) -> str:
    return f"that of what it reads, {s.input_rms:.3g}"


def _said(s: Scale, at: Stage, text: str) -> str:
    what = "what it gives" if at.value == s.layer else f"what {at.value} makes of what it gives"
    return f"{what} {text} ({s.samples} samples)"
