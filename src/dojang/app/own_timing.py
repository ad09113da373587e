"""How long somebody's network and its cut copies take: on the runtime that was asked for, or as the module runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from dojang.app.runtimes import measurer, predictor
from dojang.app.shortening import Own, entering_arrays, first
from dojang.arith.graph import Graph
from dojang.base.errors import DojangError
from dojang.slimming.journal import Journal
from dojang.slimming.timing import interleave

TIMED = 21
"""Interleaved rounds of final times."""

UNSTEADY = 0.25
"""Times whose middle half spreads over more than this part of the median are told to be unreliable."""


@dataclass
class OwnTimes:
    """Times of networks made from one original, on one sample batch of it, kept in a journal. `spread`: of the last
    times, the largest middle half as a part of its median.
    """

    own: Own
    runtime: str
    batch_size: int
    journal: Journal
    spread: float = 0.0

    def of(self, networks: Sequence[Own], rounds: int) -> list[float]:
        """Median milliseconds of each, in the same rounds. Networks with operators that only the module's own code runs
        are timed in PyTorch.
        """
        where = f"{self.runtime} {self.batch_size}"
        measured = self.journal.measured([own.graph for own in networks], lambda: self._clock(networks, rounds), where)
        self.spread = max((_spread(times) for times in measured), default=0.0)
        return [median(times) for times in measured]

    def _clock(self, networks: Sequence[Own], rounds: int) -> list[list[float]]:
        """Milliseconds of each in each round."""
        batch = first(self.own.batches[0], self.batch_size)
        if all(own.runnable for own in networks):
            arrays = entering_arrays(self.own.graph, batch)
            names = [node.name for node in self.own.graph.inputs]
            feed: Any = arrays[0] if len(arrays) == 1 else dict(zip(names, arrays, strict=True))
            return measurer(self.runtime, feed, rounds)([own.graph for own in networks])
        from dojang.training.observed import answers

        return interleave([lambda own=own: answers(own.module, [batch]) for own in networks], rounds)

    def predicted(self, graph: Graph) -> float | None:
        """The part of the original's time that the plan predicts for a network; None where nothing predicts."""
        predict = predictor(self.runtime, self.batch_size)
        if predict is None or not self.own.runnable:
            return None
        try:
            return predict(graph) / max(predict(self.own.graph), 1e-12)
        except DojangError:
            return None


def _spread(times: Sequence[float]) -> float:
    """The middle half of some times, as a part of their median."""
    if len(times) < 4:
        return 0.0
    low, _, high = quantiles(times, n=4)
    return (high - low) / max(median(times), 1e-12)
