"""A search within so many minutes: how many candidates, how long each is tuned, and what is left for the end.

The clock is an answer like any other (`Journal.clocked`): a search that is taken up again sees the times that it saw,
and decides as it did.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dojang.slimming.halving import Rung, cost

HALVING = 0.4
"""Part of the time that is left which choosing among candidates may take; the rest is for the last tuning of the best
one, and of the control."""

MAKING = 0.15
"""Part of all the time that making candidates may take: each is fitted, and timed as a whole."""

TIMING = 0.08
"""Part of all the time that timing what can go one by one may take."""

RESERVED = 0.07
"""Part of all the time that is kept for final figures and files, and for what takes longer than was foreseen."""

LONGEST = 4.0
"""Whole tunings that a rung or the last tuning is stretched to, at most, where there is time."""

SHORTEST = 1 / 256
"""Part of a tuning below which a first rung says nothing."""


@dataclass
class TimeBudget:
    """So many seconds in all, `clock` giving those that have passed.

    What a training of a part s of a tuning takes is fixed + per_tuning · s; both are found out by `trained`.
    """

    seconds: float
    clock: Callable[[], float]
    took: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])

    def left(self) -> float:
        """Seconds that are left, the reserve taken off."""
        return self.seconds * (1 - RESERVED) - self.clock()

    def trained(self, share: float, work: Callable[[], object]) -> None:
        """Runs a training and remembers how long it took."""
        before = self.clock()
        work()
        self.took.append((share, max(self.clock() - before, 0.0)))

    @property
    def fixed(self) -> float:
        """Seconds that a training takes however short it is: the least that is compatible with what was seen."""
        if len(self.took) < 2:
            return 0.0
        shares, times = [s for s, _ in self.took], [t for _, t in self.took]
        short, long = min(zip(shares, times, strict=True)), max(zip(shares, times, strict=True))
        if long[0] <= short[0]:
            return 0.0
        rate = (long[1] - short[1]) / (long[0] - short[0])
        return min(max(short[1] - rate * short[0], 0.0), short[1])

    @property
    def per_tuning(self) -> float:
        """Seconds of one whole tuning beyond `fixed`, by the longest trainings that were seen."""
        if not self.took:
            return 0.0
        longest = max(share for share, _ in self.took)
        near = [(share, t) for share, t in self.took if share >= longest / 2]
        return sum(max(t - self.fixed, 0.0) / share for share, t in near) / len(near)

    def seconds_for(self, share: float) -> float:
        """Of one training of a part of a tuning."""
        return self.fixed + self.per_tuning * share

    def time_for(self, share: float) -> bool:
        """Whether a training of such a part ends in time, and one of the control beside it."""
        return 2 * self.seconds_for(share) <= self.left()

    def rungs(self, number: int, rungs: Sequence[Rung]) -> tuple[int, tuple[Rung, ...]]:
        """How many of `number` candidates there is time for, and the rungs stretched or shortened to the time."""
        available, per = HALVING * self.left(), max(self.per_tuning, 1e-9)
        for some in range(number, 1, -1):
            trainings, shares = cost(some, rungs)
            scale = min((available - trainings * self.fixed) / (shares * per), LONGEST)
            if rungs[0].share * scale >= SHORTEST:
                return some, tuple(Rung(rung.share * scale, rung.keep) for rung in rungs)
        share = (available / 2 - self.fixed) / per  # one alone, and the control
        return 1, (Rung(min(max(share, SHORTEST), LONGEST), 1),)

    def last(self, most: float = LONGEST) -> float:
        """The part of a tuning that there is time for at the end, twice: of the result, then of the control."""
        share = (self.left() / 2 - self.fixed) / max(self.per_tuning, 1e-9)
        return min(share, most) if share >= SHORTEST else 0.0

    def making(self) -> Callable[[], bool]:
        """Whether there is time to make one more candidate, from now on."""
        until = self.clock() + min(MAKING * self.seconds, HALVING * max(self.left(), 0.0))
        return lambda: self.clock() < until

    def timings(self, two: Callable[[], object], least: int, most: int) -> int:
        """How many networks may be timed at once in `TIMING` of all the time. `two`: times two networks."""
        before = self.clock()
        two()
        each = max(self.clock() - before, 1e-6) / 2
        return int(min(max(TIMING * self.seconds / each, least), most))

    def said(self) -> str:
        """How much of the time is over."""
        return f"{self.clock() / 60:.0f} of {self.seconds / 60:g} minutes"
