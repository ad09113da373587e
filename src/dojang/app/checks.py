"""What an engineer asks beside waste: where a network is wrong, how large its activations are, what it can spare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dojang.app.together import Together, by_main_process
from dojang.arith.graph import Graph
from dojang.arith.outputs import PROBABILITY, output_numbers
from dojang.diagnosis import answers, bypass, scale, sensitivity
from dojang.diagnosis.trials import MOST_SAMPLES, Trials, samples_within
from dojang.evidence.finding import Finding
from dojang.report.checks import Answers, Checks
from dojang.training.confusion import confusion

Array = np.ndarray

FEW = 5
"""Nothing is concluded from the recall of a class with fewer samples than this."""


@dataclass(frozen=True)
class LookedAt:
    """The samples that are looked at: `x`, their labels (None: no classes), their places in the `part` of the data, and
    the files that they come from (None: they are no files of their own).
    """

    x: Array
    labels: Array | None
    indices: Array
    part: str
    classes: tuple[str, ...]
    files: Sequence[str] | None = None


class Watching:
    """Looks at activations and answers in the pass over the samples that the findings take."""

    def __init__(self, graph: Graph, asked: LookedAt, processes: Together) -> None:
        """Nothing was seen yet."""
        self.graph, self.asked, self.processes = graph, asked, processes
        self.scales = scale.Scales(graph)
        self.scores = answers.ScoresSeen(graph, len(asked.x), processes.share(np.arange(len(asked.x))))
        self.watchers = (self.scales, self.scores)

    def done(self, trial_macs: int) -> tuple[Checks, list[Finding], tuple[str, ...]]:
        """The checks after the pass, the findings among them, and notes on what was not tried."""
        scales = self.scales.joined(self.processes.reduced)
        scores = self.scores.joined(self.processes.reduced)
        found = scale.findings(scales) + answers.constant_answers(self.graph, scores)
        answered, more = self._answers(scores)
        blocks, rounded, notes = by_main_process(self.processes, lambda: tried(self.graph, self.asked, trial_macs))
        found += more + bypass.findings(blocks) + sensitivity.findings(rounded)
        return Checks(answered, scales, blocks, rounded), found, notes

    def _answers(self, scores: Array | None) -> tuple[Answers | None, list[Finding]]:
        asked = self.asked
        if scores is None or asked.labels is None:
            return None, []
        matrix = confusion(scores.argmax(axis=1), asked.labels, asked.classes)
        wrong = answers.wrong(self.graph, scores, asked.labels, asked.indices, asked.classes, asked.files)
        meaning = PROBABILITY[output_numbers(self.graph)]
        return Answers(asked.part, matrix, wrong, meaning), class_findings(self.graph.outputs[0], matrix)


def class_findings(layer: str, matrix: Any) -> list[Finding]:
    """An error where always answering the largest class is right as often; a warning for each class never answered."""
    found: list[Finding] = []
    share, accuracy = matrix.majority_share, matrix.accuracy
    if share is not None and accuracy is not None and accuracy <= share and matrix.samples >= FEW:
        text = (
            f"{accuracy:.1%} of {matrix.samples} samples are answered right; always answering {matrix.majority} is "
            f"right on {share:.1%}"
        )
        found.append(Finding(layer, "no-better-than-majority", (), accuracy, share, text, "error"))
    for place, (name, support, recall) in enumerate(zip(matrix.classes, matrix.support, matrix.recall, strict=True)):
        if support >= FEW and recall == 0:
            text = f"none of the {support} samples of class {name} is answered right"
            found.append(Finding(layer, "class-missed", (place,), 0.0, 0.0, text, "warning"))
    return found


def tried(graph: Graph, asked: LookedAt, budget: int) -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[str, ...]]:
    """Blocks left out and layers rounded, each within a budget of multiplications; notes say what was not tried."""
    notes: list[str] = []
    blocks = bypass.blocks(graph)
    rounded = sensitivity.rounded_layers(graph)
    runs = {
        f"leaving out each of {len(blocks)} blocks": len(blocks) + 1 if blocks else 0,
        f"rounding the weights of each of {len(rounded)} layers": len(sensitivity.FORMATS) * (len(rounded) + 1) + 1,
    }
    trials: list[Trials | None] = []
    for what, times in runs.items():
        samples = samples_within(graph, asked.x, times, budget) if times else 0
        trials.append(Trials(graph, asked.x, asked.labels, samples) if samples else None)
        if times and not samples:
            notes.append(f"{what} was not tried: it takes more than {budget:,} MACs; raise --trial-macs to try it")
        elif times and samples < min(MOST_SAMPLES, len(asked.x)):
            notes.append(f"{what} was tried on {samples} of {len(asked.x)} samples, within {budget:,} MACs")
    first, second = trials
    return (
        bypass.bypasses(blocks, first) if first is not None else (),
        sensitivity.sensitivities(second) if second is not None else (),
        tuple(notes),
    )
