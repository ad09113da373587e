"""The search of a slimming by somebody's own loop: step after step, several candidates each, judged by the control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil, log, sqrt
from typing import Any

from dojang.app.own_candidates import Candidates, varied
from dojang.app.own_findings import OwnFindings, look
from dojang.app.own_loop import LEAST_SIZE, OwnLoop, Score, loss
from dojang.app.own_timing import TIMED, OwnTimes
from dojang.app.progress import ProgressDisplay
from dojang.app.shortening import Own, Shortened, Shortener, again
from dojang.arith.cost import count
from dojang.slimming.branches import BRANCHES
from dojang.slimming.budget import HALVING, SHORTEST, TimeBudget
from dojang.slimming.front import CHANNELS
from dojang.slimming.halving import RUNGS, UNTUNED, WHOLE, Contender, Rung, Schedule, Trainer, halved
from dojang.slimming.lossy import TIME_WORTH
from dojang.slimming.numbering import Numbering, channels_of, removed
from dojang.slimming.oneshot import RANKINGS
from dojang.slimming.result import Edit, Refused

STEP = 0.5
"""Part of the multiplications that one step leaves at least, before the network is tuned again."""

FARTHEST = 0.25
"""Part that one step towards a target leaves at least; a target farther away is shared out evenly over several."""

LEAST_STEP = 0.94
"""A step that has to leave more than this part of the multiplications ends the search."""

FIRST = 12
"""Candidates of each step that are tuned for a little, where `tune` can be asked for a part of its work."""

SCORED = 6
"""Candidates of each step that are measured as they were repaired, where it cannot; two of them are tuned."""

TOLD_APART = 0.05
"""Predicted times are told apart by steps of about this part: nearer ones, the better score decides."""

ATTEMPTS = 8
"""Steps tried, at most."""


@dataclass(frozen=True)
class OwnRequest:
    """What is asked for; see `slimming.slim`."""

    max_drop: float | None = None
    target_macs: float | None = None
    target_time: float | None = None
    target_ms: float | None = None
    keep: tuple[str, ...] = ()
    runtime: str = "dojang"
    batch_size: int = 1
    seed: int = 0
    minutes: float | None = None
    control: bool = True

    @property
    def allowed(self) -> float | None:
        """Points that may be lost; None where a target alone says where to stop."""
        targets = (self.target_macs, self.target_time, self.target_ms)
        return self.max_drop if self.max_drop is not None else 1.0 if targets == (None, None, None) else None


@dataclass
class OwnState:
    """A network on the way: as it was cut and tuned so often."""

    own: Own
    score: Score | None
    numbering: Numbering
    schedule: Schedule = ()
    moved: float = 0.0
    plain: str = ""


@dataclass
class OwnSearch:
    """One search. `search` sets what it starts from: what was `found` of waste, the `maker` of candidates, the score
    `before`, and the multiplications of the `whole` original; `now` is the network that it has come to.
    """

    own: Own
    asked: OwnRequest
    loop: OwnLoop
    told: ProgressDisplay
    shortener: Shortener
    times: OwnTimes
    edits: list[Edit] = field(default_factory=list[Edit])
    refused: list[Refused] = field(default_factory=list[Refused])
    candidates: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    notes: list[str] = field(default_factory=list[str])
    budget: TimeBudget | None = None
    found: OwnFindings = field(init=False)
    maker: Candidates = field(init=False)
    before: Score | None = field(init=False)
    whole: int = field(init=False)
    now: OwnState = field(init=False)

    def search(self) -> None:
        """Step after step until the target is met, or no step loses little enough."""
        own, asked, loop = self.own, self.asked, self.loop
        self.found = look(own, CHANNELS, self.told)
        self.maker = Candidates(own, self.shortener, self.told)
        self.before = loop.begin()
        self.now = OwnState(own, self.before, Numbering.of(own.graph))
        self.whole = count(own.graph).total.macs
        step, attempts = STEP, 0
        while attempts < ATTEMPTS and step <= LEAST_STEP and not self.reached() and not self.late():
            attempts += 1
            taken, best = self.step(self.goal(step))
            if taken:
                step = max(STEP, step) if asked.allowed is None else step
                continue
            if best is None or self.late():
                break
            step = sqrt(step)
        late = self.late()
        self.last_tuning()
        if not self.reached(True):
            self.notes.append(self.missed(late))

    def late(self) -> bool:
        """Whether a step was tuned already and the time for choosing is over."""
        budget = self.budget
        return budget is not None and bool(budget.took) and budget.left() < (1 - HALVING) * budget.seconds

    def last_tuning(self) -> None:
        """Where there is time left: the result and the control tuned once more, as long as it allows."""
        budget, loop, now = self.budget, self.loop, self.now
        if budget is None or not loop.in_parts or not now.schedule or loop.evaluate is None:
            return
        share = budget.last()
        if not share:
            self.notes.append("there was no time left for a last tuning")
            return
        schedule = (*now.schedule, share)
        control = self.control_score(schedule)
        self.told.stage("the last tuning of the result")
        module = loop.tuned(now.own.module, self.own.module, share)
        score = loop.score(module)
        assert score is not None
        lost = self.points(loss(control, score, loop.noise)[0]) if control is not None else 0.0
        if self.asked.allowed is not None and lost > self.asked.allowed + 1e-9:
            self.notes.append(f"the last tuning was not kept: {lost:.3g} {self.unit()} lost against the control")
            return
        own = replace(now.own, module=module, graph=again(module, now.own.graph))
        from dojang.formats.torch.write.saved import save_slim

        self.now = replace(now, own=own, score=score, schedule=schedule)
        save_slim(module, loop.best, self.about())

    def goal(self, step: float) -> float:
        """Multiplications that the next step leaves."""
        now = count(self.now.own.graph).total.macs
        far = FARTHEST if step <= STEP else step
        if self.asked.target_macs is not None:
            target = self.asked.target_macs * self.whole
            steps = max(1, ceil(log(target / now) / log(far) - 1e-9)) if target < now else 1
            return max(target, now * (target / now) ** (1 / steps)) if target < now else now * step
        if self.asked.target_time is not None or self.asked.target_ms is not None:
            left = self.time_left()
            steps = max(1, ceil(log(left) / log(step) - 1e-9)) if left < 1 else 1
            return now * max(left ** (1 / steps), step)
        return now * step

    def reached(self, asked: bool = False) -> bool:
        """Whether the targets are met; without any, never, except where it is `asked` for the note."""
        macs = self.asked.target_macs
        met = macs is None or count(self.now.own.graph).total.macs <= macs * self.whole * 1.0001
        timed = self.asked.target_time is not None or self.asked.target_ms is not None
        if macs is None and not timed:
            return asked
        return met and (not timed or self.time_left() >= 1)

    def time_left(self) -> float:
        """The target of time over the time that the network takes now: 1 or more where it is met."""
        before, now = self.times.of([self.own, self.now.own], TIMED // 2)
        most = [] if self.asked.target_ms is None else [self.asked.target_ms]
        most += [] if self.asked.target_time is None else [self.asked.target_time * before]
        return min(most) / now

    def missed(self, late: bool) -> str:
        """The note on a target that was not reached. `late`: whether the time for choosing was over."""
        left = count(self.now.own.graph).total.macs / self.whole
        if late:
            why = "the time for choosing was up; give more minutes"
        elif self.asked.allowed is not None:
            why = "every further step lost too much"
        else:
            why = "no more channels can go"
        return f"the target was not reached: at {left:.0%} of the multiplications {why}"

    def step(self, macs: float) -> tuple[bool, float | None]:
        """One cut, tuned and judged: (whether it was taken, what the best candidate lost)."""
        asked, loop = self.asked, self.loop
        made = self.maker.made(self.now.own, macs)
        if not made:
            return False, None
        scored = loop.evaluate is not None and not made[0].plain
        number = FIRST if loop.in_parts else SCORED
        made = varied(made, number)
        runners = [
            Contender(
                one.name, one.module, " ".join(one.without), self.times.predicted(one.graph) or one.macs / self.whole
            )
            for one in (made if scored else made[:1])
        ]
        self.race(runners)
        judged = [(one, runner, *self.against_control(runner)) for one, runner in zip(made, runners, strict=False)]
        left = [j for j in judged if not j[1].reason]  # the one that the race left, or none where all failed
        best = left[0] if left else max(judged, key=lambda j: (len(j[1].curve), j[1].score))
        points = None if best[3] is None else self.points(best[3])
        enough = not best[1].failed and (asked.allowed is None or points is None or points <= asked.allowed + 1e-9)
        failed = best[1].reason if best[1].failed else ""
        if not enough and not failed:
            failed = f"{points:.3g} {self.unit()} lost against the control, more than {asked.allowed:g}"
            best[1].reason = best[1].reason or failed
        for one in made:
            own = next((j for j in judged if j[0] is one), None)
            self.candidates.append(self.said(one, own, one is best[0] and enough))
        if not enough:
            self.refuse(best[0], failed)
            return False, best[3]
        one, runner, score, lost, error = best
        self.take(one, runner.network, score, lost, error, (*self.now.schedule, *runner.schedule))
        return True, best[3]

    def race(self, runners: Sequence[Contender[Any]]) -> None:
        """Tunes the candidates by successive halving, as far as `tune` and `evaluate` allow, and the time."""
        loop, budget, before = self.loop, self.budget, self.now.schedule
        if loop.evaluate is None:
            if loop.tune is not None:
                runners[0].network = loop.tuned(runners[0].network, self.own.module)
                runners[0].schedule = (1.0,)
            return
        rungs: Sequence[Rung] = UNTUNED if loop.tune is None else RUNGS if loop.in_parts else WHOLE
        if budget is not None and loop.in_parts:
            if not budget.took:
                self.told.stage("finding out how long tuning takes")
                for share in (SHORTEST, 4 * SHORTEST):
                    budget.trained(share, lambda share=share: loop.tuned(loop.control(()), self.own.module, share))
            number, rungs = budget.rungs(len(runners), RUNGS)
            for late in runners[number:]:
                late.reason, late.failed = "there was no time to tune so many", True
            runners = runners[:number]

        def tune(module: Any, share: float) -> Any:
            if budget is None:
                return loop.tuned(module, self.own.module, share)
            kept: list[Any] = []
            budget.trained(share, lambda: kept.append(loop.tuned(module, self.own.module, share)))
            return kept[0]

        def score(module: Any) -> float:
            found = loop.score(module)
            assert found is not None
            return found.value

        def control(schedule: Schedule) -> float | None:
            found = self.control_score((*before, *schedule))
            return None if found is None else found.value

        time_for = (lambda share: True) if budget is None else budget.time_for

        def ahead(modules: Sequence[Any], schedule: Schedule) -> None:
            loop.ahead((*before, *schedule), modules, schedule[-1], self.asked.control)

        side_by_side = ahead if budget is None else None  # a budget asks what each tuning took
        trainer = Trainer(
            tune, score, control, time_for, self.told.stage, (), side_by_side, self.price
        )  # what `tune` raises is told
        halved(runners, rungs, trainer)

    def price(self, runner: Contender[Any]) -> tuple[float, float]:
        """What decides between candidates that were tuned equally long, the least being best: the score, and of equal
        scores the time. Where a time is asked for, some of the score is given for less of it (`TIME_WORTH`): what is
        lost against the control counts, and those that lose nothing are ranked by time.
        """
        if self.asked.target_time is None and self.asked.target_ms is None:
            return -runner.score, runner.time
        last = runner.curve[-1]
        assert self.before is not None
        beside = self.before.value if last.control is None else last.control
        lost = max(0.0, beside - last.score)
        size = 1.0 if self.fraction else max(abs(beside), LEAST_SIZE)
        slower = TOLD_APART * round(log(max(runner.time, 1e-12)) / TOLD_APART)
        return lost / size + TIME_WORTH * slower, -runner.score

    def control_score(self, schedule: Schedule) -> Score | None:
        """What the measure says of the original tuned by these trainings; None where no control was asked for."""
        return self.loop.score(self.loop.control(schedule)) if self.asked.control else None

    def against_control(self, runner: Contender[Any]) -> tuple[Score | None, float | None, float | None]:
        """(score, loss, its standard error) of a candidate against the original that was tuned alike, where there is
        one.
        """
        loop = self.loop
        if loop.evaluate is None or not runner.curve:
            return None, None, None
        score, control = loop.score(runner.network), self.control_score((*self.now.schedule, *runner.schedule))
        assert score is not None
        return (score, None, None) if control is None else (score, *loss(control, score, loop.noise))

    def points(self, lost: float) -> float:
        """A loss in percentage points where the measure lies in 0 … 1, else in its own unit."""
        return 100 * lost if self.fraction else lost

    @property
    def fraction(self) -> bool:
        """Whether the measure of the original lies in 0 … 1, so that its hundredths are points."""
        return self.before is not None and 0 <= self.before.value <= 1

    def unit(self) -> str:
        """What losses are said in."""
        return "points" if self.fraction else "(in the unit of evaluate)"

    def said(self, one: Shortened, own: Any, taken: bool) -> dict[str, Any]:
        """A candidate as JSON has it."""
        score, lost, error = (None, None, None) if own is None else own[2:]
        curve = [] if own is None else [[point.share, point.score, point.control] for point in own[1].curve]
        return {
            "ranking": one.name,
            "macs": one.macs,
            "time": self.times.predicted(one.graph),
            "outputs_moved": one.moved,
            "measure": None if score is None else score.value,
            "lost": lost,
            "standard_error": error,
            "tuned": own is not None and bool(own[1].schedule),
            "taken": taken,
            "curve": curve,
            "why": "moved the outputs more than others" if own is None else own[1].reason,
        }

    def take(self, one: Shortened, module: Any, score: Any, lost: Any, error: Any, schedule: Schedule) -> None:
        """One step more."""
        from dojang.formats.torch.write.saved import save_slim

        old = self.now.own.graph
        before, after = count(old).total, count(one.graph).total
        gone = removed(old, one.graph, channels_of(one.tied, one.gone))
        said = f"outputs move by {one.moved:.2%} of their spread before tuning"
        if lost is not None:
            what = f"± {self.points(error):.2g} " if error is not None else ""
            said += f"; {self.points(lost):+.2f} {what}{self.unit()} lost against the control"
        missing = [n.name for n in old.nodes if n.rule.channels in ("conv", "dense")
                   and n.name not in one.graph.by_name]  # fmt: skip
        names = tuple(dict.fromkeys((*one.tied.layers(one.gone), *missing)))
        narrower = ", ".join(
            f"{n.name} {n.attrs['out']} to {one.graph[n.name].attrs['out']}" for n in old.nodes
            if n.name in names and n.rule.channels in ("conv", "dense") and n.name in one.graph.by_name
            and one.graph[n.name].attrs["out"] < n.attrs["out"]
        )  # fmt: skip
        parts = [f"channels {narrower}"] if narrower else []
        found = "; ".join([*parts, *([f"gone: {', '.join(missing)}"] if missing else [])])
        check = {"says": said, "outputs_moved": one.moved, "lost": lost, "standard_error": error,
                 "tuned": self.loop.tune is not None, "schedule": schedule[len(self.now.schedule):]}  # fmt: skip
        original = self.now.numbering.original(gone)
        rewrite = "+".join([*([BRANCHES] if missing else []), *([CHANNELS] if one.gone else [])])
        saved = before.params - after.params, before.macs - after.macs
        edit = Edit(rewrite, "lossy", names, *saved, None, check, f"{found} ({RANKINGS[one.ranking]})", original)
        self.edits.append(self.found.of(edit))
        graph = again(module, one.graph)
        own = Own(module, graph, self.own.batches, self.own.plain or bool(one.plain))
        self.now = OwnState(
            own, score, self.now.numbering.without(gone), schedule, one.moved, one.plain or self.now.plain
        )
        save_slim(module, self.loop.best, self.about())

    def about(self) -> dict[str, Any]:
        """What a written state says beside its arrays."""
        return {"plain": type(self.own.module).__name__} if self.now.plain else {}

    def refuse(self, one: Shortened, reason: str) -> None:
        """A candidate that was not taken."""
        gone = self.now.numbering.original(removed(self.now.own.graph, one.graph, channels_of(one.tied, one.gone)))
        said = f"at {one.macs / self.whole:.0%} of the multiplications {reason}"
        self.refused.append(Refused(CHANNELS, tuple(one.tied.layers(one.gone)), said, gone))
