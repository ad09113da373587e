"""Slimming somebody's module by their own loop and measure, or, without them, by one cut that moves outputs least."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, log, sqrt
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

from dojang.app.blocks import DroppableBlock, dropped, paths
from dojang.app.networks import is_module, load, names_code, torch_format
from dojang.app.own_findings import look
from dojang.app.own_loop import OwnLoop, Score, TuningStore, loss
from dojang.app.progress import ProgressDisplay, Silent
from dojang.app.runtimes import measurer, predictor, version_of, whole_vectors
from dojang.app.shortening import (
    LARGE,
    NORMED,
    WATCHED_MACS,
    Norms,
    Own,
    Shortened,
    Shortener,
    again,
    compared,
    entering,
    first,
    kept_layers,
    read,
    some,
    wanted,
)
from dojang.app.side_by_side import SideBySide
from dojang.app.together import Lead
from dojang.arith.channels import channels
from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.base.errors import DojangError, UnsupportedError, UsageError
from dojang.base.writing import remove_tree
from dojang.report.results import Slimming
from dojang.slimming.branches import BRANCHES
from dojang.slimming.budget import HALVING, SHORTEST, TimeBudget
from dojang.slimming.front import CHANNELS
from dojang.slimming.halving import RUNGS, UNTUNED, WHOLE, Contender, Rung, Schedule, Trainer, halved
from dojang.slimming.numbering import Numbering, channels_of, removed
from dojang.slimming.oneshot import RANKINGS, Ranking
from dojang.slimming.result import Edit, Refused, SlimResult, figures
from dojang.slimming.timing import interleave

SAMPLES = 1024
"""Samples that are kept of whatever holds some; fewer are watched where the network is large."""

STEP = 0.5
"""Part of the multiplications that one step leaves at least, before the network is tuned again."""

FARTHEST = 0.3
"""Part that one step towards a target leaves at least; a target farther away is shared out evenly over several."""

LEAST_STEP = 0.94
"""A step that has to leave more than this part of the multiplications ends the search."""

FIRST = 12
"""Candidates of each step that are tuned for a little, where `tune` can be asked for a part of its work."""

SCORED = 6
"""Candidates of each step that are measured as they were repaired, where it cannot; two of them are tuned."""

BASES = 4
"""Networks without blocks from which channels go, at most, beside the one with all blocks."""

ORDERED = 128
"""Samples on which batch norms are measured while blocks are held against each other."""

ATTEMPTS = 8
"""Steps tried, at most."""

TIMED = 21
"""Interleaved rounds of final times."""

LOOKS = 5
"""Times that a network is cut anew until it meets a target of time."""

UNSTEADY = 0.25
"""Times whose middle half spreads over more than this part of the median are told to be unreliable."""

FAR_MOVED = 1.0
"""Outputs that moved by more than this part of their spread have lost what they said."""


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

    @property
    def allowed(self) -> float | None:
        """Points that may be lost; None where a target alone says where to stop."""
        targets = (self.target_macs, self.target_time, self.target_ms)
        return self.max_drop if self.max_drop is not None else 1.0 if targets == (None, None, None) else None


def slim_own(
    net: Any,
    samples: Any,
    asked: OwnRequest,
    tune: Callable[..., Any] | None,
    evaluate: Callable[[Any], Any] | None,
    folder: Path | None = None,
    progress: ProgressDisplay | None = None,
    notes: Sequence[str] = (),
    lead: Lead | None = None,
    beside: SideBySide | None = None,
) -> Slimming:
    """The module with fewer channels: of the same class wherever its code allows it.

    Each step cuts by what moves the outputs least on the samples, whole residual blocks and channels, in several ways.
    Candidates are tuned by successive halving where `tune(module, share=...)` can do a part of its work; else they are
    measured as they were repaired, and the best two of different structure are tuned. With `lead` and `beside` several
    processes tune them side by side. The one that `evaluate` prefers is taken. What a cut loses is the difference to
    the control, the original tuned alike. Without `tune` nothing is tuned; without `evaluate` candidates are judged by
    how far their outputs moved.

    Raises `UsageError`, `DataError` for what `own_loop` and `training.feeding` refuse, `UnsupportedError` for a module
    that cannot be followed.
    """
    started = time.monotonic()
    told = progress or Silent()
    own, more = owned(net, samples, asked.seed, told)
    kept_layers(own.graph, asked.keep)
    if asked.allowed is not None and evaluate is None and asked.max_drop is not None:
        raise UsageError("max_drop needs `evaluate`, a function that says how good a module is; pass one, or a target")
    if evaluate is None and (asked.target_macs, asked.target_time, asked.target_ms) == (None, None, None):
        raise UsageError("without `evaluate` say how far to cut: target_macs, target_time or target_ms")
    store = TuningStore(folder or Path(tempfile.mkdtemp(prefix="dojang-slim-")))  # stays where something goes wrong
    loop = OwnLoop(own.module, tune, evaluate, store, told)
    if lead is not None and beside is not None and tune is not None:
        loop.several = lambda modules, share: beside.many(lead, loop.tune_once, modules, share)
    run = _OwnSearch(own, asked, loop, told, Shortener(asked.keep, whole_vectors(), told, asked.seed))
    if asked.minutes is not None:
        run.budget = TimeBudget(60 * asked.minutes, store.clocked(lambda: time.monotonic() - started))
    run.search()
    done = run.result(started, (*notes, *more))
    if folder is None:
        remove_tree(store.folder)
    return done


def owned(net: Any, samples: Any, seed: int, told: ProgressDisplay) -> tuple[Own, list[str]]:
    """The module that is meant, with its graph, and samples as it takes them."""
    from dojang.training.feeding import feed, samples_in

    torch_format()
    plain = False
    if is_module(net):
        module = net
    elif names_code(net):
        module = torch_format().load_callable(net)
    else:
        module, plain = torch_format().to_module(load(net)).eval(), True
    told.stage("reading the samples")
    mode = module.training
    module.eval()
    try:
        graphs: list[Graph] = []

        def enough(batch: Any) -> int:
            graphs.append(_followed(module, batch))
            return wanted(graphs[0])

        fed = feed(samples, module, SAMPLES, seed=seed, enough=enough)
    finally:
        module.train(mode)
    graph = graphs[0]
    notes = [fed.said] if fed.said else []
    total = samples_in(samples)
    if total is not None and fed.samples < total:
        macs = count(graph).total.macs
        notes.append(
            f"{fed.samples} of the {total} samples were looked at: at {macs / 1e9:.3g} GMACs a sample more take time "
            "and would hardly change the means and covariances that cuts go by"
        )
    return Own(module, graph, fed.batches, plain), notes


def _followed(module: Any, batch: Any) -> Graph:
    """The graph of a module. Raises `UnsupportedError` for one that cannot be followed."""
    try:
        return read(module, batch).alone()
    except DojangError as error:
        raise UnsupportedError(
            f"{type(module).__name__} cannot be followed, so none of its channels can go: {error}"
        ) from None


@dataclass
class _OwnState:
    """A network on the way: as it was cut and tuned so often."""

    own: Own
    score: Score | None
    numbering: Numbering
    schedule: Schedule = ()
    moved: float = 0.0
    plain: str = ""


@dataclass
class _OwnSearch:
    """One search."""

    own: Own
    asked: OwnRequest
    loop: OwnLoop
    told: ProgressDisplay
    shortener: Shortener
    edits: list[Edit] = field(default_factory=list[Edit])
    refused: list[Refused] = field(default_factory=list[Refused])
    candidates: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    notes: list[str] = field(default_factory=list[str])
    budget: TimeBudget | None = None

    def search(self) -> None:
        """Step after step until the target is met, or no step loses little enough."""
        own, asked, loop = self.own, self.asked, self.loop
        mode = own.module.training
        own.module.eval()
        try:
            self.found = look(own, CHANNELS, self.told)
            self.reference = self._answers(own)
            self.before = loop.begin()
            self.now = _OwnState(own, self.before, Numbering.of(own.graph))
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
        finally:
            own.module.train(mode)

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
        control = loop.score(loop.control(schedule))
        self.told.stage("the last tuning of the result")
        module = loop.tuned(now.own.module, self.own.module, share)
        score = loop.score(module)
        assert control is not None
        assert score is not None
        lost = self.points(loss(control, score, loop.noise)[0])
        if self.asked.allowed is not None and lost > self.asked.allowed + 1e-9:
            self.notes.append(f"the last tuning was not kept: {lost:.3g} {self.unit()} lost against the control")
            return
        own = replace(now.own, module=module, graph=again(module, now.own.graph))
        from dojang.formats.torch.write.saved import save_slim

        self.now = replace(now, own=own, score=score, schedule=schedule)
        save_slim(module, loop.store.best, self.about())

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
        before, now = self.times([self.own, self.now.own], TIMED // 2)
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
        made = self.made(macs)
        if not made:
            return False, None
        scored = loop.evaluate is not None and not made[0].plain
        number = FIRST if loop.in_parts else SCORED
        made = _varied(made, number)
        runners = [
            Contender(one.name, one.module, " ".join(one.without), self.part_of_time(one) or one.macs / self.whole)
            for one in (made if scored else made[:1])
        ]
        self.race(runners)
        judged = [(one, runner, *self.against_control(runner)) for one, runner in zip(made, runners, strict=False)]
        left = [j for j in judged if not j[1].reason]  # the one that the race left, or none where all failed
        best = left[0] if left else max(judged, key=lambda j: (len(j[1].curve), j[1].score))
        points = None if best[3] is None else self.points(best[3])
        enough = not best[1].failed and (asked.allowed is None or points is None or points <= asked.allowed + 1e-9)
        for one in made:
            own = next((j for j in judged if j[0] is one), None)
            self.candidates.append(self.said(one, own, one is best[0] and enough))
        if not enough:
            said = f"{points:.3g} {self.unit()} lost against the control, more than {asked.allowed:g}"
            self.refuse(best[0], best[1].reason if best[1].failed else said)
            return False, best[3]
        one, runner, score, lost, error = best
        self.take(one, runner.network, score, lost, error, (*self.now.schedule, *runner.schedule))
        return True, best[3]

    def made(self, macs: float) -> list[Shortened]:
        """Candidates of at most so many multiplications, those that move the outputs least first."""
        now = self.now.own
        rankings: list[Ranking] = list(RANKINGS)[: 2 if self.whole > LARGE else None]
        found = self.shortener.to(now, macs, rankings, self.reference)
        for gone, base in self.bases(macs):
            without = tuple(block.branch.layers[0] for block in gone)
            if count(base.graph).total.macs <= macs:
                moved = self.moved_by(base)
                tied = channels(base.graph, even=not base.plain)
                found.append(Shortened(base.module, base.graph, base.graph, tied, (), "outputs", moved, "", without))
                continue
            more = self.shortener.to(base, macs, rankings[:2], self.reference)
            found += [replace(one, without=without) for one in more]
        within = [one for one in found if one.macs <= macs * 1.0001] or found
        return sorted(within, key=lambda one: one.moved)

    def moved_by(self, one: Own) -> float:
        """How far the outputs of a module are from the original's."""
        from dojang.training.observed import change

        return change(self.reference, answers_of(one))

    def bases(self, macs: float) -> list[tuple[tuple[DroppableBlock, ...], Own]]:
        """The module without some of its residual blocks, in several numbers, norms set."""
        now = self.now.own
        if now.plain and not self.own.plain:
            return []
        batches = some(now, WATCHED_MACS / 24, ORDERED)
        norms = Norms(now, batches)

        def moved(base: Own) -> float:
            return self.moved_by(norms.without_blocks(base, batches))

        self.told.stage("residual blocks that can go")
        kept = tuple(kept_layers(now.graph, self.shortener.keep))
        sets = paths(now, macs, moved, kept)
        if len(sets) > BASES:
            sets = [sets[round(i * (len(sets) - 1) / (BASES - 1))] for i in range(BASES)]
        every = some(now, WATCHED_MACS / 6, NORMED)
        whole = Norms(now, every) if sets else norms
        return [(gone, whole.without_blocks(dropped(now, gone), every)) for gone in sets]

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
            return score(loop.control((*before, *schedule)))

        time_for = (lambda share: True) if budget is None else budget.time_for

        def ahead(modules: Sequence[Any], schedule: Schedule) -> None:
            loop.ahead((*before, *schedule), modules, schedule[-1])

        side_by_side = ahead if budget is None else None  # a budget asks what each tuning took
        trainer = Trainer(
            tune, score, control, time_for, self.told.stage, (), side_by_side
        )  # what `tune` raises is told
        halved(runners, rungs, trainer)

    def against_control(self, runner: Contender[Any]) -> tuple[Score | None, float | None, float | None]:
        """(score, loss, its standard error) of a candidate against the original that was tuned alike."""
        loop = self.loop
        if loop.evaluate is None or not runner.curve:
            return None, None, None
        score, control = loop.score(runner.network), loop.score(loop.control((*self.now.schedule, *runner.schedule)))
        assert score is not None
        assert control is not None
        return (score, *loss(control, score, loop.noise))

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
            "time": self.part_of_time(one),
            "outputs_moved": one.moved,
            "measure": None if score is None else score.value,
            "lost": lost,
            "standard_error": error,
            "tuned": own is not None and bool(own[1].schedule),
            "taken": taken,
            "curve": curve,
            "why": "moved the outputs more than others" if own is None else own[1].reason,
        }

    def part_of_time(self, one: Shortened) -> float | None:
        """The part of the original's time that the plan predicts for a candidate; None where nothing predicts."""
        predict = predictor(self.asked.runtime, self.asked.batch_size)
        if predict is None or not self.own.runnable:
            return None
        try:
            return predict(one.graph) / max(predict(self.own.graph), 1e-12)
        except DojangError:
            return None

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
        self.now = _OwnState(
            own, score, self.now.numbering.without(gone), schedule, one.moved, one.plain or self.now.plain
        )
        save_slim(module, self.loop.store.best, self.about())

    def about(self) -> dict[str, Any]:
        """What a written state says beside its arrays."""
        return {"plain": type(self.own.module).__name__} if self.now.plain else {}

    def refuse(self, one: Shortened, reason: str) -> None:
        """A candidate that was not taken."""
        gone = self.now.numbering.original(removed(self.now.own.graph, one.graph, channels_of(one.tied, one.gone)))
        said = f"at {one.macs / self.whole:.0%} of the multiplications {reason}"
        self.refused.append(Refused(CHANNELS, tuple(one.tied.layers(one.gone)), said, gone))

    def times(self, networks: Sequence[Own], rounds: int) -> list[float]:
        """Median milliseconds of each, in the same rounds; a note where they vary too much to be trusted."""
        first_batch = first(self.own.batches[0], self.asked.batch_size)
        if all(own.runnable for own in networks):
            arrays = [t.detach().cpu().numpy() for t in entering(first_batch)]
            names = [node.name for node in self.own.graph.inputs]
            feed: Any = arrays[0] if len(arrays) == 1 else dict(zip(names, arrays, strict=True))
            measured = measurer(self.asked.runtime, feed, rounds)([own.graph for own in networks])
        else:
            from dojang.training.observed import answers

            runs = [lambda own=own: answers(own.module, [first_batch]) for own in networks]
            measured = interleave(runs, rounds)
        self.unsteady = max((_spread(times) for times in measured), default=0.0)
        return [median(times) for times in measured]

    def _answers(self, own: Own) -> list[np.ndarray]:
        return answers_of(own)

    def result(self, started: float, notes: Sequence[str]) -> Slimming:
        """Everything that is known at the end."""
        self.told.stage("final figures")
        own, now = self.own, self.now
        try:
            before_ms, after_ms = self.times([own, now.own], TIMED)
        except DojangError as error:
            before_ms = after_ms = None
            self.notes.append(f"time was not measured: {error}")
        if before_ms is not None and self.unsteady > UNSTEADY:
            self.notes.append(
                f"the machine was busy: the middle half of the times spreads over {self.unsteady:.0%} of their median, "
                "so they say little; measure again with dojang bench"
            )
        control = self.loop.score(self.loop.control(now.schedule)) if self.loop.evaluate is not None else None
        figure = figures(own.graph, None if self.before is None else self.before.value, before_ms)
        after = figures(now.own.graph, None if now.score is None else now.score.value, after_ms)
        about: dict[str, Any] | None = None
        if control is not None:
            lost, error = loss(control, now.score or control, self.loop.noise)
            about = {"accuracy": control.value, "tunings": len(now.schedule), "epochs": None, "lost": lost,
                     "standard_error": error}  # fmt: skip
        if not self.edits:
            self.notes.append("nothing was cut; the network is as it was")
        if not own.runnable:
            self.notes.append("the network has operators that only its own code runs: times are those of PyTorch")
        if self.loop.tune is None and now.moved >= FAR_MOVED:
            self.notes.append(
                f"the outputs moved by {now.moved:.3g} times their spread over the samples: as it is the network says "
                "nothing any more; tune it, or cut less"
            )
        if now.plain:
            self.notes.append(
                f"the module of the result is no {type(own.module).__name__} but a plain one: {now.plain}"
            )
        graph = now.own.graph
        refused = self.found.of_refused(own, (*self.refused, *self.left()))
        refused += self.found.rest(self.edits, refused)
        result = SlimResult(
            graph.replace(meta={**own.graph.meta, "slimmed": f"from {own.graph.name}"}),
            figure,
            after,
            tuple(self.edits),
            tuple(refused),
            self.asked.seed,
            tuple(dict.fromkeys((*notes, *self.shortener.notes, *self.loop.notes, *self.notes))),
            control=about,
            findings=self.found.diagnosis.findings,
            answers=self.found.outcomes(self.edits, refused),
            candidates=tuple(self.candidates),
        )
        samples = sum(map(_size, own.batches))
        module = now.own.module
        module.train(own.module.training)
        runtime = self.asked.runtime if own.runnable else "torch"
        return Slimming(
            own.graph.name,
            result,
            self.found.diagnosis,
            (count(own.graph), count(graph)),
            {"name": "samples", "task": "unlabelled", "train_samples": samples, "test_samples": 0},
            "none" if self.loop.evaluate is None else "evaluate",
            runtime,
            version_of(runtime),
            self.asked.batch_size,
            TIMED,
            time.monotonic() - started,
            module=module,
            about=self.about(),
        )

    def left(self) -> list[Refused]:
        """The layers that could not become narrower, and why."""
        from dojang.arith.channels import channels

        tied = self.shortener.without_fixed(self.shortener.last or channels(self.own.graph))
        reasons: dict[str, list[str]] = {}
        graph = tied.graph
        for node in graph.nodes:
            track = tied.tracks[node.name]
            if node.rule.channels not in ("conv", "dense") or track is None:
                continue
            why = {tied.frozen.get(label) for label in track.classes}
            if None not in why:
                reasons.setdefault(str(next(iter(why))), []).append(node.name)
        return [Refused(CHANNELS, tuple(names), why) for why, names in reasons.items()]


def _size(batch: Any) -> int:
    from dojang.app.shortening import size

    return size(batch)


def _spread(times: Sequence[float]) -> float:
    """The middle half of some times, as a part of their median."""
    if len(times) < 4:
        return 0.0
    low, _, high = quantiles(times, n=4)
    return (high - low) / max(median(times), 1e-12)


def answers_of(own: Own) -> list[np.ndarray]:
    """What a module answers on the samples that candidates are compared on."""
    from dojang.training.observed import answers

    return answers(own.module, compared(own))


def _varied(made: Sequence[Shortened], number: int) -> list[Shortened]:
    """At most so many: the best of every structure, then the second of each, and so on."""
    turns: dict[tuple[str, ...], int] = {}
    ranked: list[tuple[int, int, Shortened]] = []
    for place, one in enumerate(made):
        turns[one.without] = turns.get(one.without, 0) + 1
        ranked.append((turns[one.without], place, one))
    return [one for *_, one in sorted(ranked, key=lambda r: r[:2])[:number]]
