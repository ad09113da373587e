"""Which algorithm computes each part of a network, and why not another. The only place that chooses."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from types import ModuleType
from typing import Any

from dojang.engine.algorithms import ALGORITHMS
from dojang.engine.algorithms.task import Task
from dojang.engine.machine import Machine


@dataclass(frozen=True, slots=True)
class Choice:
    """One step of a plan. `members` are the nodes it computes; `refused` are (algorithm, reason) pairs; times are
    seconds for the whole batch, predicted for all threads, measured where a run was timed.
    """

    value: str
    op: str
    algorithm: str
    members: tuple[str, ...]
    refused: tuple[tuple[str, str], ...] = ()
    predicted_s: float | None = None
    measured_s: float | None = None
    macs: int = 0

    def percent_of_peak(self, peak_gflops: float) -> float | None:
        """Multiply-adds per measured second against a peak; above 100 where an algorithm saves multiplications."""
        if not self.measured_s or not self.macs:
            return None
        return 100 * 2 * self.macs / self.measured_s / (peak_gflops * 1e9)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a network is run for one batch size. Frozen; made when that batch size is first seen."""

    network: str
    batch: int
    threads: int
    isa: str
    precision: str
    choices: tuple[Choice, ...]

    @property
    def predicted_s(self) -> float:
        """Predicted seconds of one run; steps without a prediction count as nothing, so a lower bound."""
        return sum(c.predicted_s or 0.0 for c in self.choices)

    @property
    def in_python(self) -> tuple[str, ...]:
        """Values that have no native kernel and are computed by their reference function."""
        return tuple(c.value for c in self.choices if c.algorithm == "reference")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def with_times(self, seconds: dict[str, float]) -> Plan:
        """The plan with measured times, by value."""
        return replace(self, choices=tuple(replace(c, measured_s=seconds.get(c.value)) for c in self.choices))


def choose(task: Task, machine: Machine) -> tuple[ModuleType, float, tuple[tuple[str, str], ...]]:
    """(algorithm, predicted seconds per image on one core, refusals) for a convolution.

    >>> from dojang.arith.conv import Conv
    >>> task = Task.of(Conv.of(32, 32, (56, 56), 3, padding=1, groups=32))
    >>> choose(task, Machine.host())[0].NAME
    'depthwise'
    """
    best: tuple[ModuleType, float] | None = None
    refused: list[tuple[str, str]] = []
    slower: list[tuple[ModuleType, float]] = []
    for algorithm in ALGORITHMS:
        reason = algorithm.why_not(task, machine)
        if reason is not None:
            refused.append((algorithm.NAME, reason))
            continue
        seconds = algorithm.predict(task, machine)
        if best is None or seconds < best[1]:
            if best is not None:
                slower.append(best)
            best = (algorithm, seconds)
        else:
            slower.append((algorithm, seconds))
    assert best is not None, "the last algorithm never refuses"
    for algorithm, seconds in slower:
        refused.append((algorithm.NAME, f"slower: {seconds * 1e6:.3g} µs predicted, not {best[1] * 1e6:.3g}"))
    return best[0], best[1], tuple(refused)
