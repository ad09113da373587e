"""Layers whose filters do not need each other: split into groups and fitted again, they compute nearly the same.

The question is answered by the measured loss of the split, held against what the same search finds in layers that
have no groups but the same spectrum, and in layers that have no groups but the same kernels. Untrained layers with
normal weights are drawn from the first of the two, so that they pass for grouped as rarely as the confidence says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import atan, cos, log, sin, sqrt
from typing import Any

import numpy as np

from dojang.arith.graph import Graph, Node
from dojang.evidence.evidence import Evidence
from dojang.evidence.finding import CONFIDENCE, Finding, NotJudged
from dojang.evidence.patches import WIDEST, Patches, width
from dojang.evidence.splits import (
    GROUP_COUNTS,
    ChannelSplit,
    SplitSearch,
    channel_variances,
    outputs_variance,
    permuted_inputs,
    random_split,
    relative_change,
    rotated,
)

Array = np.ndarray

RATIO = 0.5
"""A split must move the outputs at most this part of what splits of layers without groups move them."""

NULLS = 8
"""Layers without groups of each of the two sorts that a split is held against."""

RANDOM = 4
"""Random splits of the layer that stand beside the one that was found."""

NEGLIGIBLE = 1e-9
"""Parts of the variance below this are rounding: activations are float32."""


@dataclass(frozen=True)
class GroupSplit:
    """A layer in `groups` groups: `change`, how far its outputs move, as a part of their variance.

    `random_change`: the mean for random splits of the same layer. `chance_change`: the mean for the best splits found
    of layers without groups, of the sort where they move less. `chance`: how probable so small a change is for them.
    """

    groups: int
    change: float
    random_change: float
    chance_change: float
    chance: float
    split: ChannelSplit


@dataclass(frozen=True)
class LayerGrouping:
    """What was found of one layer: the splits that hold, the one with most groups last; none where there are none.

    `fit_samples`, `judge_samples`: how many samples fitted the grouped layer, and how many others judged it.
    """

    layer: str
    splits: tuple[GroupSplit, ...]
    fit_samples: int
    judge_samples: int


@dataclass(frozen=True)
class LayerGroupings:
    """All layers that were judged, and why others were not, by name."""

    judged: tuple[LayerGrouping, ...]
    left_out: dict[str, str]

    def not_judged(self) -> tuple[NotJudged, ...]:
        """What was not judged, and why."""
        return tuple(NotJudged(layer, "low-correlation", reason) for layer, reason in self.left_out.items())


def groupings(known: Evidence, told: Callable[[int, int], object] | None = None) -> LayerGroupings:
    """Every convolution of one group: whether it splits into groups, at `CONFIDENCE` over all of them together.

    `told`: is told after each layer which of how many it was.
    """
    graph, left_out, nodes = known.graph, dict[str, str](), list[Node]()
    for node in graph.nodes:
        reason = why_not_judged(graph, node)
        if reason:
            left_out[node.name] = reason
        elif reason is None:
            nodes.append(node)
    if any(node.rule.channels == "dense" for node in graph.nodes):
        left_out[""] = "dense layers are not split into groups"
    if not nodes:
        return LayerGroupings((), left_out)
    found = known.patches(node.name for node in nodes)
    short = {name: patches for name, patches in found.items() if patches.judge.samples < 1}
    left_out |= dict.fromkeys(short, "one sample cannot both fit and judge a split")
    judged = [node for node in nodes if node.name not in short]
    level = (1 - CONFIDENCE) / max(1, len(judged) * len(GROUP_COUNTS))
    done: list[LayerGrouping] = []
    for node in judged:
        done.append(_judged(known, node, found[node.name], level))
        if told is not None:
            told(len(done), len(judged))
    return LayerGroupings(tuple(done), left_out)


def why_not_judged(graph: Graph, node: Node) -> str | None:
    """Why a layer is not judged; "" for what is no layer of this kind or is grouped already, None where it is."""
    if node.op == "conv_transpose" and node.attrs["groups"] == 1:
        return "it is transposed"
    if node.op != "conv" or node.attrs["groups"] > 1:
        return ""
    shape = graph.unit_shapes[node.inputs[0]]
    if shape is None or len(shape) != 2 + len(node.attrs["kernel"]):
        return "its input has no known shape"
    if shape[1] % GROUP_COUNTS[0] or node.attrs["out"] % GROUP_COUNTS[0]:
        return (
            f"{shape[1]} input and {node.attrs['out']} output channels do not split into {GROUP_COUNTS[0]} equal groups"
        )
    if width(graph, node) > WIDEST:
        return f"{width(graph, node)} numbers in each patch are more than the {WIDEST} that are fitted"
    return None


def _judged(known: Evidence, node: Node, patches: Patches, level: float) -> LayerGrouping:
    kernel = np.asarray(known.graph.weights[node.array("weight")], np.float64)
    variance = channel_variances(patches.fit, kernel.shape[1])
    oc, ic = kernel.shape[:2]
    live = min(np.count_nonzero(variance), np.count_nonzero(np.abs(kernel).reshape(oc, -1).max(axis=1)))
    splits, before = list[GroupSplit](), ChannelSplit(1, np.zeros(ic, int), np.zeros(oc, int), 1.0)
    own = LayerToSplit(kernel, variance, patches, known.seed)
    others = ByChance(own, before)
    for groups in GROUP_COUNTS:
        if ic % groups or oc % groups or live < 2 * before.groups:
            break
        found = judge(own, others, groups, level)
        if found is not None:  # two of eight groups may be nothing new for filters that read few channels each
            splits.append(found)
            before = found.split
            others = ByChance(own, before)
    return LayerGrouping(node.name, tuple(splits), patches.fit.samples, patches.judge.samples)


class LayerToSplit:
    """A layer that may split into groups: how far its outputs move in the best split into so many."""

    def __init__(self, kernel: Array, variance: Array, patches: Patches, seed: int = 0) -> None:
        """`kernel` (oc, ic, *taps), `variance` (ic,) of what it reads."""
        self.kernel, self.variance, self.patches, self.seed = kernel, variance, patches, seed
        self.search = SplitSearch(kernel, variance, seed)

    @cached_property
    def whole(self) -> float:
        """The variance of its outputs."""
        return outputs_variance(self.kernel, self.patches)

    def change(self, split: ChannelSplit) -> float:
        """How far the outputs move, as a part of their variance."""
        return relative_change(self.kernel, split, self.patches, self.whole)


class ByChance:
    """Layers like another one but without groups, beyond those of `before`, a split that holds already. They are drawn
    once, and serve every number of groups.
    """

    def __init__(self, layer: LayerToSplit, before: ChannelSplit) -> None:
        """None is drawn yet."""
        self.layer, self.before = layer, before
        self.rng = np.random.default_rng((layer.seed, before.groups))
        self.made: list[LayerToSplit] = []

    def of(self, number: int) -> LayerToSplit:
        """One of them: those of even number have the same kernels, the others the same spectrum."""
        own = self.layer
        while len(self.made) <= number:
            permuted = len(self.made) % 2 == 0
            kernel = (permuted_inputs(own.kernel, self.before.rows, self.rng) if permuted
                      else rotated(own.kernel, self.before.columns, self.rng))  # fmt: skip
            self.made.append(LayerToSplit(kernel, own.variance, own.patches, own.seed))
        return self.made[number]


def judge(layer: LayerToSplit, others: ByChance, groups: int, level: float) -> GroupSplit | None:
    """The best split into `groups` that is found, if it holds: if it moves the outputs by at most `RATIO` of what
    layers without groups lose, and by so little with a probability of at most `level` by chance.

    Such layers keep the groups of a split that holds already: the question is whether there are more.
    """
    split = layer.search.best(groups)
    change = layer.change(split)
    by_chance: tuple[list[float], list[float]] = [], []
    for number in range(2 * NULLS):
        null = others.of(number)
        by_chance[number % 2].append(null.change(null.search.best(groups)))
        least = min(float(np.mean(own)) for own in by_chance if own)
        if change > RATIO * least and (number < 2 or number == 2 * NULLS - 1):
            return None
    chance = max(probability(change, own) for own in by_chance)
    if chance > level:
        return None
    rng = np.random.default_rng((layer.seed, groups))
    drawn = [layer.change(random_split(layer.kernel, layer.variance, groups, rng)) for _ in range(RANDOM)]
    least = min(float(np.mean(own)) for own in by_chance)
    return GroupSplit(groups, change, float(np.mean(drawn)), least, chance, split)


def probability(value: float, others: list[float]) -> float:
    """How probable a value as small as this is among values like the others: Student's t of their logarithms.

    With n others the tail of t = (mean − log value) / (deviation · √(1 + 1/n)) at n − 1 degrees of freedom.
    """
    logs = np.log(np.maximum(others, NEGLIGIBLE))
    spread = max(float(logs.std(ddof=1)), 1e-3) * sqrt(1 + 1 / len(logs))
    return student_tail((float(logs.mean()) - log(max(value, NEGLIGIBLE))) / spread, len(logs) - 1)


def student_tail(t: float, freedom: int) -> float:
    """P(T > t) for Student's t at a whole number of degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4).

    >>> round(student_tail(2.364624, 7), 4)
    0.025
    """
    angle = atan(t / sqrt(freedom))
    term = total = cos(angle) if freedom % 2 else 1.0
    for k in range(2 + freedom % 2, freedom - 1, 2):
        term *= (k - 1) / k * cos(angle) ** 2
        total += term
    inside = sin(angle) * total
    if freedom % 2:
        inside = 2 / np.pi * (angle + (inside if freedom > 1 else 0.0))
    return float(max(0.0, (1 - inside) / 2))


def low_correlation(found: LayerGroupings) -> list[Finding]:
    """Layers that split into groups, each with the most groups that hold."""
    findings: list[Finding] = []
    for layer in found.judged:
        if not layer.splits:
            continue
        best = layer.splits[-1]
        evidence = (
            f"split into {best.groups} groups and fitted again on {layer.fit_samples} samples, its outputs (before the "
            f"activation) move by {best.change:.2%} of their variance on {layer.judge_samples} others; random splits "
            f"move them by {best.random_change:.2%}, the best splits of layers of the same spectrum or kernels but "
            f"without such groups by {best.chance_change:.2%}; {CONFIDENCE:.0%} confidence over all "
            f"{len(found.judged)} convolutions judged"
        )
        details: dict[str, Any] = {
            "groups": best.groups,
            "output_change": best.change,
            "random_output_change": best.random_change,
            "chance_output_change": best.chance_change,
            "fit_samples": layer.fit_samples,
            "judge_samples": layer.judge_samples,
            "confidence": CONFIDENCE,
            "layers_judged": len(found.judged),
        }
        findings.append(
            Finding(
                layer.layer, "low-correlation", (), best.change, RATIO * best.chance_change, evidence,
                measure="part of the outputs' variance", judged_at=(layer.layer,),
                samples=layer.fit_samples + layer.judge_samples, confidence=CONFIDENCE, details=details,
            )
        )  # fmt: skip
    return findings
