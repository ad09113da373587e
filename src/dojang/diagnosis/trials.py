"""Trying a changed network out: how far its answers move, within a budget of multiplications."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.evidence.activations import at_once, batches, number_of, session_run

Array = np.ndarray

TRIAL_MACS = 30 * 10**9
"""Multiplications that each kind of trial may take by default: some seconds on one core."""

LEAST_SAMPLES = 16
"""With fewer samples the share of changed answers says nothing."""

MOST_SAMPLES = 256
"""More samples would hardly say more: with these a share has a standard error of at most 3 points."""


@dataclass(frozen=True)
class Change:
    """How far the first output moves. `output_change`: the root mean square of its change, divided by that of its
    deviation from its mean over the samples (1: as far as from sample to sample); None where a number is not finite.
    `answers_changed`: the share of samples whose largest score is another one, None where there is one score or none.
    `accuracy`: the share of samples answered right after the change; None without labels.
    """

    output_change: float | None
    answers_changed: float | None
    accuracy: float | None


class Trials:
    """The samples that changed networks are tried on, evenly from all, and the answers of the network itself."""

    def __init__(self, graph: Graph, x: Array, labels: Array | None, samples: int) -> None:
        """Runs the network once. `labels` are class numbers, or None."""
        # From the whole of them, because data are often sorted by class.
        places = np.unique(np.linspace(0, len(x) - 1, min(samples, len(x))).round().astype(np.int64))
        self.graph, self.x = graph, np.asarray(x)[places]
        self.labels = None if labels is None else labels[places]
        self.answers = self._outputs(graph)
        self.spread = float(np.sqrt(np.square(self.answers - self.answers.mean(axis=0)).mean()))

    @property
    def samples(self) -> int:
        """How many samples a network is tried on."""
        return len(self.x)

    @property
    def accuracy(self) -> float | None:
        """Share of the samples that the network itself answers right; None without labels."""
        return None if self.labels is None else float((self.answers.argmax(axis=1) == self.labels).mean())

    def change(self, graph: Graph) -> Change:
        """What another network answers to the samples, against this one."""
        answers = self._outputs(graph)
        if not np.isfinite(answers).all():
            return Change(None, None, None)
        moved = float(np.sqrt(np.square(answers - self.answers).mean()))
        classes = answers.shape[1] > 1
        chosen, before = answers.argmax(axis=1), self.answers.argmax(axis=1)
        return Change(
            moved / (self.spread or 1.0),
            float((chosen != before).mean()) if classes else None,
            None if self.labels is None else float((chosen == self.labels).mean()),
        )

    def _outputs(self, graph: Graph) -> Array:
        """The first output, (samples, numbers) in float64."""
        run, name = session_run(graph, self.x[:1]), graph.outputs[0]
        with np.errstate(over="ignore", invalid="ignore"):
            parts = [run(x, (name,))[name] for x in batches(self.x, at_once(graph))]
        return np.concatenate(parts).reshape(len(self.x), -1).astype(np.float64)


def samples_within(graph: Graph, x: Array, runs: int, budget: int) -> int:
    """On how many samples a network can be run `runs` times within a budget of multiplications; 0 where too few."""
    each = max(1, count(graph).total.macs) * max(1, runs)
    most = min(MOST_SAMPLES, number_of(x), budget // each)
    return most if most >= min(LEAST_SAMPLES, number_of(x)) else 0
