"""What the page shows of waste: channels that do nothing on samples, and how the channels of layers go together."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, final

import numpy as np

from dojang.app.diagnosing import diagnosis_of, evidence_of
from dojang.app.feeding import fed
from dojang.app.looking import Array, PictureInside
from dojang.app.samples import asked_of, load_inputs
from dojang.app.shown_inputs import pixels_of
from dojang.evidence.activations import layers
from dojang.evidence.blocks import co_cluster, random_groups
from dojang.evidence.finding import CHANNEL_KINDS, Finding
from dojang.report.results import Diagnosis

SAMPLES = 256
"""Samples that are looked at."""

SEEN = 12
"""Samples whose maps are shown of a channel."""

GROUPS = (1, 2, 4, 8, 16)

WIDEST = 256
"""Layers with more channels have no correlation matrix on the page: there are more of them than pixels."""

MOST_PAIRS = 24
RANDOM = 16
"""Random splits that are drawn beside the one that was found."""

STATES = {"dead-proven": "dead", "dead-observed": "dead", "constant": "constant", "duplicate": "duplicate",
          "repeated": "duplicate", "unread": "silent"}  # fmt: skip
"""What a finding about channels is called on the page."""


@final
class WasteOnData:
    """The evidence of a network on data; looked at when it is first asked for, which takes as long as `diagnose`."""

    def __init__(self, inside: PictureInside, data: str | Path | Any, before: PictureInside | None = None) -> None:
        """Reads the data. Raises what `load_inputs` raises."""
        graph = inside.graph
        asked = asked_of(graph)
        self._inside, self._before = inside, before
        self._data = fed(graph, load_inputs(data, graph, None, asked), asked)
        self._known = evidence_of(graph, self._data, SAMPLES, 0.0, 0)
        self._told: dict[str, Any] | None = None

    def told(self) -> dict[str, Any]:
        """Findings, the state of each channel, correlation matrices with their best splits, as JSON."""
        if self._told is None:
            done = diagnosis_of(self._known, self._data)
            states = _states(self._inside, done.findings)
            self._told = {
                "samples": done.samples,
                "layers": [{"layer": layer, "states": each} for layer, each in states.items()],
                "marks": {layer: n for layer, each in states.items() if (n := sum(s != "used" for s in each))},
                "findings": [_finding(one) for one in done.findings],
                "pairs": [_pair(one) for one in done.correlations if max(one.matrix.shape) <= WIDEST][:MOST_PAIRS],
                "measured": _measured(done),
                "changed": self._changed(),
            }
        return self._told

    def maps(self, layer: str, channel: int) -> tuple[Array, Array]:
        """Maps of a channel on some samples, (n, h, w), and the samples as pictures."""
        samples, pictures = self.seen()
        return self._inside.values_on(samples, layer)[:, channel], pictures

    def seen(self) -> tuple[Array, Array]:
        """The samples whose maps are shown, as the network reads them and as pictures (n, h, w, 3)."""
        samples = self._samples()[:SEEN]
        node = self._inside.graph.inputs[0]
        return samples, np.stack([pixels_of(x, node) for x in samples])

    def _samples(self) -> Array:
        samples = self._known.samples
        return samples if isinstance(samples, np.ndarray) else np.zeros((0, *self._inside.x.shape[1:]), np.float32)

    def _changed(self) -> dict[str, Any] | None:
        """On how many samples the network before gives another class, and which those are."""
        if self._before is None or self._before.why_not is not None:
            return None
        samples = self._samples()
        ours, theirs = (
            one.outputs_on(samples).reshape(len(samples), -1).argmax(axis=1) for one in (self._inside, self._before)
        )
        which = np.flatnonzero(ours != theirs)
        node = self._inside.graph.inputs[0]
        shown = [
            {"before": int(theirs[i]), "after": int(ours[i]), **_coded(pixels_of(samples[i], node))}
            for i in which[:SEEN]
        ]
        return {"changed": len(which), "samples": len(samples), "shown": shown}


def _coded(pixels: Array) -> dict[str, Any]:
    return {"h": pixels.shape[0], "w": pixels.shape[1], "rgb": base64.b64encode(pixels.tobytes()).decode()}


def _states(inside: PictureInside, findings: tuple[Finding, ...]) -> dict[str, list[str]]:
    """What every output channel of every layer is: "used", or what was found of it; the worst first."""
    graph = inside.graph
    found: dict[str, list[str]] = {}
    for node in layers(graph):
        shape = graph.unit_shapes[node.name]
        if shape is not None:
            found[node.name] = ["used"] * shape[1 if node.rule.channels == "conv" else -1]
    for one in sorted(findings, key=lambda f: f.kind in CHANNEL_KINDS and -CHANNEL_KINDS.index(f.kind)):
        for channel in one.channels if one.kind in CHANNEL_KINDS else ():
            if one.layer in found and channel < len(found[one.layer]):
                found[one.layer][channel] = STATES[one.kind]
    return found


def _finding(one: Finding) -> dict[str, Any]:
    return {"layer": one.layer, "kind": one.kind, "severity": one.severity, "evidence": one.evidence}


def _pair(one: Any) -> dict[str, Any]:
    """A correlation matrix, and the best split into each number of groups with what arbitrary splits keep."""
    energy = np.square(np.nan_to_num(one.matrix))
    total = float(energy.sum()) or 1.0
    rng = np.random.default_rng(0)
    splits = []
    for groups in GROUPS:
        if groups > min(energy.shape):
            continue
        rows, columns, inside = co_cluster(energy, groups, rng)
        arbitrary = [_inside(energy, groups, rng) for _ in range(RANDOM)]
        ordered = [_order(each, best) for each, best in ((rows, one.row_order), (columns, one.column_order))]
        splits.append(
            {"groups": groups, "inside": inside, "chance": float(np.mean(arbitrary)) / total,
             "rows": ordered[0], "columns": ordered[1],
             "ends": [np.bincount(each, minlength=groups).cumsum().tolist() for each in (rows, columns)]}
        )  # fmt: skip
    small = np.rint(np.nan_to_num(one.matrix).clip(-1, 1) * 127).astype(np.int8)
    return {"before": one.before, "after": one.after, "h": small.shape[0], "w": small.shape[1], "pixels": one.pixels,
            "matrix": base64.b64encode(small.tobytes()).decode(), "splits": splits}  # fmt: skip


def _inside(energy: Array, groups: int, rng: np.random.Generator) -> float:
    """What an arbitrary split keeps inside its groups."""
    rows, columns = (random_groups(count, groups, rng) for count in energy.shape)
    return float(energy[rows[:, None] == columns].sum())


def _order(groups: Array, best: tuple[int, ...]) -> list[int]:
    """Channels group by group, in each as the whole matrix is best ordered."""
    place = {channel: i for i, channel in enumerate(best)}
    return sorted(range(len(groups)), key=lambda c: (int(groups[c]), place[c]))


def _measured(done: Diagnosis) -> dict[str, list[dict[str, float]]]:
    """Splits of layers that were measured to hold: how far the outputs move, and by a random split."""
    return {
        one.layer: [{"groups": s.groups, "change": s.change, "random": s.random_change} for s in one.splits]
        for one in done.groupings
        if one.splits
    }
