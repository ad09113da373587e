"""Whether an edit saves time: paired rounds, so that what slows the machine for a while slows both alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb
from statistics import median
from time import perf_counter

LEAST_ROUND_MS = 2.0
"""Networks quicker than this run several times in a round: so short a run is easily disturbed."""

MOST_REPEATS = 50

DISTURBED = 1.1
"""A round that took so many times the least of all rounds of that network was disturbed, and is taken again."""

SECOND_LOOKS = 5
"""How often, at most: on a busy machine calm rounds come late, on a machine with an uneven clock never."""

LOOKED_SECONDS = 10.0
"""Seconds of timing after which no more rounds are taken again."""


@dataclass(frozen=True, slots=True)
class Saving:
    """Milliseconds saved per run: the median over paired rounds, with the bounds that hold in 95 % of cases."""

    ms: float
    low: float
    high: float
    before_ms: float
    after_ms: float

    @property
    def real(self) -> bool:
        """Whether more than noise: the lower bound is above zero."""
        return self.low > 0

    @property
    def slower(self) -> bool:
        """Whether time was lost, more than noise: the upper bound is below zero."""
        return self.high < 0

    @property
    def refusal(self) -> str:
        """What is said of an edit whose saving is not real: that it is slower, or that no saving could be shown."""
        return str(self) if self.slower else f"no time saved beyond noise: {self}"

    def __str__(self) -> str:
        """The saving (or how much slower it is) and its bounds, in µs for networks of less than a millisecond."""
        factor, unit, digits = (1e3, "µs", 2) if self.before_ms < 1 else (1, "ms", 3)
        if self.slower:
            lost, least, most, whole = (
                f"{v * factor:.{digits}f}" for v in (-self.ms, -self.high, -self.low, self.before_ms)
            )
            return f"slower by {lost} {unit} of {whole} {unit} (95 %: {least} to {most})"
        ms, low, high, before = (f"{v * factor:+.{digits}f}" for v in (self.ms, self.low, self.high, self.before_ms))
        return f"{ms} {unit} of {before[1:]} (95 %: {low} to {high})"


def saving(before: Sequence[float], after: Sequence[float]) -> Saving:
    """The saving from the times of two networks in the same rounds.

    The bounds are order statistics of the differences (the sign test turned round), so they assume no distribution.
    Fewer than six rounds cannot say anything at 95 %: the bounds are then infinite unless one round only is given
    for each, which is taken as exact (a count, say, in place of a clock).

    >>> saving([5, 5, 6, 5, 5, 5, 7], [4, 4, 4, 4, 4, 4, 4]).real
    True
    """
    differences = sorted(a - b for a, b in zip(before, after, strict=True))
    middle = median(differences)
    if len(differences) == 1:
        low = high = middle
    else:
        edge = sign_test_rank(len(differences))
        low = differences[edge] if edge is not None else float("-inf")
        high = differences[-1 - edge] if edge is not None else float("inf")
    return Saving(middle, low, high, median(before), median(after))


def sign_test_rank(n: int) -> int | None:
    """The largest k so that the k-th smallest of n differences lies below their median in at least 97.5 % of cases."""
    total, best = 0.0, None
    for k in range(n // 2):
        total += comb(n, k) / 2**n
        if total > 0.025:
            break
        best = k
    return best


def interleave(
    runs: Sequence[Callable[[], object]],
    rounds: int = 21,
    warm_up: int = 2,
    clock: Callable[[], float] = perf_counter,
) -> list[list[float]]:
    """Milliseconds per run of each function in each round: all run in every round, in turning order.

    Within a round each runs as often as the quickest needs to fill `LEAST_ROUND_MS`, and the least disturbed of its
    runs counts; the number is the same for all, so that none gets more chances than another. Rounds in which something
    else had the processor (`DISTURBED`) are taken again, those of all networks in turning order, so that a busy machine
    does not decide: what is compared is the time that each takes when it is let alone. Of slow networks fewer are taken
    again (`LOOKED_SECONDS`).
    """
    quickest = float("inf")
    for run in runs:
        for _ in range(warm_up):
            run()
        start = clock()
        run()
        quickest = min(quickest, (clock() - start) * 1e3)
    repeats = min(MOST_REPEATS, max(1, round(LEAST_ROUND_MS / max(quickest, 1e-4))))

    def burst(run: Callable[[], object]) -> float:
        least = float("inf")
        for _ in range(repeats):
            start = clock()
            run()
            least = min(least, clock() - start)
        return least * 1e3

    began = clock()
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(rounds):
        for place in range(len(runs)):
            i = (place + turn) % len(runs)
            times[i].append(burst(runs[i]))
    for _ in range(SECOND_LOOKS):
        calm = [DISTURBED * min(own) for own in times]
        again = [
            (i, turn)
            for turn in range(rounds)
            for place in range(len(runs))
            if times[i := (place + turn) % len(runs)][turn] > calm[i]
        ]
        for i, turn in again:
            times[i][turn] = min(times[i][turn], burst(runs[i]))
        if not again or clock() - began > LOOKED_SECONDS:
            break
    return times
