"""Successive halving: many candidates are tuned for a little, fewer for longer, the best one to the end.

A candidate that is behind after a sixteenth of the tuning is seldom the best at its end, and to find that out costs a
sixteenth (Jamieson and Talwalkar, "Non-stochastic best arm identification", AISTATS 2016, algorithm 1). Each rung goes
on from the weights of the one before, so the best one has been tuned once as a whole; the original, tuned by the same
parts, is the control that every point of a learning curve is held against.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Generic, TypeVar

from dojang.base.errors import CheckFailed, DataError

Network = TypeVar("Network")
Ranked = TypeVar("Ranked")

Schedule = tuple[float, ...]
"""The trainings of a network one after the other, each as a part of one whole tuning."""


@dataclass(frozen=True)
class Rung:
    """All that are left are tuned until `share` of one whole tuning; the `keep` best go on, of a few a third.

    >>> [Rung(1 / 16, 4).going_on(number) for number in (12, 6, 4, 2, 1)]
    [4, 2, 2, 2, 1]
    """

    share: float
    keep: int

    def going_on(self, number: int) -> int:
        """How many of so many candidates go on. Of a few more than a third would take longer than what it tells is
        worth; two at least, as one rung's order is not sure.
        """
        return min(number, self.keep, max(2, ceil(number / 3)))


RUNGS = (Rung(1 / 16, 4), Rung(1 / 4, 1), Rung(1.0, 1))
"""Where tuning can be done in parts. Twelve candidates cost 12/16 + 4 · 3/16 + 3/4 = 2.25 tunings."""

WHOLE = (Rung(0.0, 2), Rung(1.0, 1))
"""Where it cannot: all are judged as they were repaired, two are tuned."""

UNTUNED = (Rung(0.0, 1),)
"""Where nothing is tuned."""


@dataclass(frozen=True)
class CurvePoint:
    """One point of a learning curve: the part of a tuning that was done, the score then, and the control's."""

    share: float
    score: float
    control: float | None = None


@dataclass
class Contender(Generic[Network]):
    """One candidate on its way through the rungs. `reason`: why it went no further; empty for the best.

    `structure`: candidates of one structure differ in their channels only. `time`: what it takes, which decides between
    equal scores. `failed`: tuning failed, or there was no time to judge it, so that it has no score of that rung.
    """

    name: str
    network: Network
    structure: str = ""
    time: float = 1.0
    schedule: Schedule = ()
    curve: list[CurvePoint] = field(default_factory=list[CurvePoint])
    reason: str = ""
    failed: bool = False

    @property
    def score(self) -> float:
        """The last one."""
        return self.curve[-1].score if self.curve else float("-inf")


@dataclass(frozen=True)
class Trainer(Generic[Network]):
    """What the rungs ask for. `tune(network, share)`: tuned for so much more of a whole tuning. `score`: higher is
    better. `control(schedule)`: the score of the original after these trainings, None where there is none. `time_for`:
    whether there is time to tune for such a part. `said`: told before each training. `survived`: what a training may
    raise so that the others go on. `ahead(networks, schedule)`: told all networks that the next rung tunes, and the
    trainings that they will have had after it, so that they can be tuned side by side. `price`: ranks those that have
    a score, the least first; without it the higher score, and of equal scores the one that takes less time.
    """

    tune: Callable[[Network, float], Network]
    score: Callable[[Network], float]
    control: Callable[[Schedule], float | None]
    time_for: Callable[[float], bool] = lambda share: True
    said: Callable[[str], object] = lambda what: None
    survived: tuple[type[Exception], ...] = (DataError, CheckFailed)
    ahead: Callable[[Sequence[Network], Schedule], object] | None = None
    price: Callable[[Contender[Network]], tuple[float, float]] = lambda one: (-one.score, one.time)


def halved(contenders: Sequence[Contender[Network]], rungs: Sequence[Rung], by: Trainer[Network]) -> None:
    """Tunes the contenders rung by rung in place, until one is left that has had the whole; says why others stopped.

    What fails to be tuned drops out. Where the time is up in the middle of a rung, those that were not reached drop
    out, and the best of those that were is the last one; at least one is tuned whatever the time.
    """
    alive, done = list(contenders), 0.0
    for place, rung in enumerate(rungs):
        part = rung.share - done
        if place and len(alive) == 1 and part <= 0:
            break
        judged: list[Contender[Network]] = []
        if part > 0 and by.ahead is not None:
            by.ahead([one.network for one in alive], (*alive[0].schedule, part))
        for number, one in enumerate(alive, 1):
            if part > 0 and (judged or place) and not by.time_for(part):
                if not judged:  # nobody has come so far: the rung before decides
                    return _stop(alive, by)
                one.reason, one.failed = f"the time was up before it was tuned for {_share(rung.share)}", True
                continue
            try:
                if part > 0:
                    by.said(f"candidate {number} of {len(alive)}, {one.name}: tuned until {_share(rung.share)}")
                    one.network = by.tune(one.network, part)
                    one.schedule = (*one.schedule, part)
                score = by.score(one.network)
            except by.survived as error:  # NaN on the way: the others still stand
                one.reason, one.failed = f"fine-tuning failed: {error}", True
                continue
            if score != score:
                one.reason, one.failed = "fine-tuning failed: its score is NaN", True
                continue
            one.curve.append(CurvePoint(rung.share, score, by.control(one.schedule)))
            judged.append(one)
        judged.sort(key=by.price)
        if not rung.share:
            # scores before tuning do not hold a branch against channels
            judged = by_turns(judged, lambda one: one.structure)
        going_on = rung.going_on(len(judged))
        alive, done = judged[:going_on], max(done, rung.share)
        for one in judged[going_on:]:
            what = f"after {_share(rung.share)}" if rung.share else "before tuning"
            one.reason = f"{what} it scores {one.score:.4g}, and {_beside(alive[0], one)}"
        if not alive:
            return None
    return None


def by_turns(ranked: Iterable[Ranked], of: Callable[[Ranked], Hashable]) -> list[Ranked]:
    """The best of each group, as they were ranked, then the second of each, and so on. `of`: the group of one.

    >>> by_turns(["b1", "b2", "a1", "b3", "a2"], lambda one: one[0])
    ['b1', 'a1', 'b2', 'a2', 'b3']
    """
    turns: Counter[Hashable] = Counter()
    places: list[tuple[int, Ranked]] = []
    for one in ranked:
        turns[of(one)] += 1
        places.append((turns[of(one)], one))
    return [one for _, one in sorted(places, key=lambda place: place[0])]


def _stop(alive: Sequence[Contender[Network]], by: Trainer[Network]) -> None:
    best = min(alive, key=by.price)
    for one in alive:
        if one is not best:
            one.reason = f"the time was up; until then it scored {one.score:.4g}, and {_beside(best, one)}"


def _beside(best: Contender[Network], one: Contender[Network]) -> str:
    """The score of the best one; where another scores as high or higher, what else decided."""
    if best.score < one.score:
        return f"{best.name!r} {best.score:.4g}, which loses no more than its saving is worth"
    if best.score == one.score:
        return f"{best.name!r} as much{' in less time' if best.time < one.time else ''}"
    return f"{best.name!r} {best.score:.4g}"


def _share(share: float) -> str:
    """A part of a tuning in words."""
    return "the whole tuning" if abs(share - 1) < 1e-9 else f"{share:.2g} of a tuning"


def cost(number: int, rungs: Sequence[Rung]) -> tuple[int, float]:
    """(trainings, whole tunings that they come to) of so many contenders and the control.

    >>> cost(12, RUNGS)
    (20, 3.25)
    """
    trainings, shares, done = 0, 0.0, 0.0
    for rung in rungs:
        part = rung.share - done
        if part > 0:
            trainings += number + 1
            shares += (number + 1) * part
        number, done = rung.going_on(number), max(done, rung.share)
    return trainings, shares
