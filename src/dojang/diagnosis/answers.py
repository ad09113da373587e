"""What a network answers to the samples: where it is wrong and how sure of it, and answers that never change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dojang.arith.graph import Graph
from dojang.evidence.activations import Reduced
from dojang.evidence.finding import Finding
from dojang.evidence.probabilities import probabilities

Array = np.ndarray

MOST_SCORES = 50_000_000
"""Numbers of scores that are kept, 400 MB."""

UNCHANGED = 1e-6
"""Answers whose spread over the samples is at most this part of their size do not depend on the input."""


@dataclass(frozen=True)
class Wrong:
    """A sample that is answered wrong: its `index` in its part of the data, label and answer by name, the
    `probability` of the answer, and the `file` that the sample comes from, None where it is no file of its own.
    """

    index: int
    label: str
    answer: str
    probability: float
    file: str | None = None


class ScoresSeen:
    """Watches the first output and keeps it, (samples, scores); this process sees the samples `mine` of `total`."""

    def __init__(self, graph: Graph, total: int, mine: Array) -> None:
        """Nothing was seen yet. Where there are more than `MOST_SCORES` numbers, nothing is kept."""
        self.graph, self.mine, self.seen = graph, mine, 0
        name = graph.outputs[0]
        size = int(np.prod((graph.unit_shapes[name] or (1, 0))[1:]))
        self.kept = 0 < size * total <= MOST_SCORES
        self.values: Sequence[str] = (name,) if self.kept else ()
        self._scores = np.zeros((total, size) if self.kept else (0, 0))

    def add(self, found: Mapping[str, Array]) -> None:
        """One batch."""
        if self.kept:
            scores = found[self.values[0]]
            self._scores[self.mine[self.seen : self.seen + len(scores)]] = scores.reshape(len(scores), -1)
            self.seen += len(scores)

    def joined(self, reduced: Reduced) -> Array | None:
        """The scores of all samples, (samples, scores); None where they are too many to keep."""
        return reduced("sum", self._scores) if self.kept else None


def wrong(
    graph: Graph,
    scores: Array,
    labels: Array,
    indices: Array,
    classes: Sequence[str],
    files: Sequence[str] | None = None,
) -> tuple[Wrong, ...]:
    """The samples that are answered wrong, the most confident wrong answer first. `files`: where they come from."""
    chances = probabilities(graph, scores)
    answers = scores.argmax(axis=1)
    sure = chances[np.arange(len(answers)), answers]
    places = np.flatnonzero(answers != labels)
    places = places[np.argsort(-sure[places], kind="stable")]
    rows = ((i, int(indices[i]), int(labels[i]), int(answers[i]), float(sure[i])) for i in map(int, places))
    return tuple(
        Wrong(index, classes[label], classes[answer], chance, None if files is None else files[i])
        for i, index, label, answer, chance in rows
    )


def constant_answers(graph: Graph, scores: Array | None) -> list[Finding]:
    """An error where a network of at least two samples gives all of them the same scores."""
    if scores is None or len(scores) < 2:
        return []
    spread = float((scores.max(axis=0) - scores.min(axis=0)).max())
    limit = UNCHANGED * float(np.abs(scores).max())
    if spread > limit:
        return []
    text = f"the network gives all {len(scores)} samples the same answer: its scores differ by at most {spread:.3g}"
    return [Finding(graph.outputs[0], "constant-answers", (), spread, limit, text, "error")]
