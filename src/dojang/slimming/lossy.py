"""Cuts with loss: silent channels, then channels and cheaper forms of layers on the front of loss against time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, log

from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.base.errors import CheckFailed, DataError
from dojang.slimming.branches import BRANCHES
from dojang.slimming.budget import HALVING, SHORTEST, TimeBudget
from dojang.slimming.compose import Composition, Goal, compositions, varied
from dojang.slimming.front import CHANNELS, FLOOR, Front, front
from dojang.slimming.halving import RUNGS, UNTUNED, WHOLE, Contender, Rung, Schedule, Trainer, halved
from dojang.slimming.importance import read_values
from dojang.slimming.ledger import CLASS_LOST, Ledger, Proposal
from dojang.slimming.numbering import Numbering, channels_of
from dojang.slimming.rewrite import perform
from dojang.slimming.silent import ANSWERS as SILENT_ANSWERS
from dojang.slimming.silent import NAME as SILENT
from dojang.slimming.silent import remove_silent
from dojang.slimming.structural import Candidate, candidates, fitted_values
from dojang.slimming.timing import Saving

STEP = 0.5
"""Part of the multiplications that one lossy step tries to save before it tunes again; less, where that loses too much.
"""

FARTHEST = 0.7
"""Part that one step towards a target saves at most; a target farther away is shared out evenly over several."""

MARGIN = 1.02
"""Steps towards a time aim at so much more than is missing: a target missed by a hair costs another tuning."""

FIRST = 16
"""Candidates of a step that are tuned for a little, where tuning can be done in parts; else they are only scored."""

TIME_WORTH = 0.002
"""Accuracy that a candidate of a target may be behind another for each factor of e in its time: a tenth of that for a
tenth less time. Candidates that meet a target have met what was asked of their time."""

LEAST_LOSS = 0.005
"""Accuracy that every step is taken to lose at least where steps of different size are compared: half a point, the
standard error of 85 % on 5,000 samples."""

LEAST_STEP = 0.05
"""A step that had to be made smaller than this ends the search."""

STRUCTURES = 3
"""Forms of layers that candidates of one step are made from, at most, and steps that take one."""

STRUCTURE_SAVES = 0.03
"""A form must be predicted to save this part of the time: it makes two layers of one."""

PASSED_OVER = "not tried: other forms moved the outputs less for the time that they save, or the search had ended"

SCORED = 6
"""Replacements whose loss is estimated, at most: those predicted to save most."""


@dataclass(frozen=True)
class SearchTarget:
    """Where a search may stop: a fraction of the multiplications, a fraction of the time, or milliseconds."""

    macs: float | None = None
    time: float | None = None
    ms: float | None = None

    @property
    def both(self) -> bool:
        """Whether multiplications and time are asked for."""
        return self.macs is not None and not (self.time is None and self.ms is None)

    def __bool__(self) -> bool:
        """Whether anything is asked for."""
        return not (self.macs is None and self.time is None and self.ms is None)


class Lossy:
    """The lossy part of one search over a ledger; `untunable` names exact rewrites that wait until after tuning."""

    def __init__(self, ledger: Ledger, untunable: frozenset[str], target: SearchTarget, allowed: float) -> None:
        """Nothing is cut yet. `allowed`: the fraction of accuracy that may be lost."""
        self.ledger, self.untunable, self.target, self.allowed = ledger, untunable, target, allowed
        self.whole = count(ledger.graph).total.macs
        self.base = 0.0
        self.touched: set[str] = set()
        self.tried: set[tuple[str, tuple[str, ...]]] = set()
        self.passed_over: dict[tuple[str, tuple[str, ...]], Candidate] = {}
        self.attempts = 0
        self.time_so_far = 1.0
        self._timing: tuple[Graph, Saving | None] | None = None

    def run(self) -> Graph | None:
        """The best network found with loss, trainable (batch norms unfolded); None when nothing was accepted."""
        assert self.ledger.evaluate is not None  # checked on entry
        self.ledger.progress("accuracy of the original", 0, 1)
        self.base = self.ledger.accuracy_before = self.ledger.evaluate(self.ledger.graph)
        current = self.ledger.graph
        self.ledger.numbering = Numbering.of(current)
        for rewrite in self.ledger.taken:
            if rewrite.name not in self.untunable:
                done = perform(rewrite, self.ledger.evidence(current))
                if done is not None and done[1].ok:
                    current = done[0].graph
                    self.ledger.numbering = self.ledger.numbering.without(done[0].channels)
        accepted = self.silence(current)
        current = accepted or current
        step, steps_without_speedup = STEP, 0
        offers: Front | None = None
        replacements: list[Candidate] | None = None
        late = False
        while max(self.missing(current)) > 0:
            late = self.late()
            if late:
                break
            if offers is None:
                left = count(current).total.macs / self.whole
                self.ledger.progress(f"what can go: {left:.0%} of the multiplications left", len(self.ledger.edits), 0)
                known = self.ledger.evidence(current)
                if self.attempts < STRUCTURES:  # one pass over the samples for both kinds of cuts
                    known.gather((*read_values(known), *fitted_values(known)))
                offers = front(self.ledger, known, self.target.both)
                replacements = None
            if replacements is None:
                self.ledger.progress("looking for cheaper forms of layers", len(self.ledger.edits), 0)
                replacements = self.replacements(offers) if self.attempts < STRUCTURES else []
            over = step < LEAST_STEP or steps_without_speedup >= 3
            if over or not (offers.options or replacements):
                break
            found = self.proposals(offers, step, replacements)
            if not found:
                break
            verdict, tuned = self.race(current, found)
            if tuned is not None:
                current = accepted = tuned
                offers, steps_without_speedup = None, 0
            elif verdict == "slow":
                step, steps_without_speedup = min(0.7, step * 1.5), steps_without_speedup + 1
            elif verdict == "late":
                late = True
                break
            else:
                step /= 2
        for c in self.passed_over.values():
            if (c.rewrite, c.layers) not in self.tried and (c.rewrite, c.layers) not in self.ledger.refused:
                self.ledger.refuse(c.rewrite, c.layers, f"{PASSED_OVER} ({c.found})", c.answers)
        if self.target and max(self.missing(current)) > 0:
            self.ledger.notes.append(self.said_missed(current, late))
        return accepted

    def missing(self, current: Graph) -> tuple[float, float]:
        """The parts of the multiplications and of the time to save next: (1, 0) without a target, (0, 0) where met.

        A target far away is shared out evenly over the steps that it takes.
        """
        if not self.target:
            return 1.0, 0.0
        macs = time = 1.0
        if self.target.macs is not None:
            macs = self.target.macs * self.whole / count(current).total.macs
            if macs >= 1 / 1.0001:
                macs = 1.0
        if self.target.time is not None or self.target.ms is not None:
            if self._timing is None or self._timing[0] is not current:
                deployed = self.ledger.deploy(current)
                self._timing = (current, self.ledger.time(self.ledger.graph, deployed))
            saved = self._timing[1]
            now, before = (saved.after_ms, saved.before_ms) if saved is not None else (1.0, 1.0)
            if self.target.time is not None:
                time = min(time, self.target.time * before / now)
            if self.target.ms is not None:
                time = min(time, self.target.ms / now)
        if min(macs, time) >= 1:
            return 0.0, 0.0
        steps = ceil(log(min(macs, time)) / log(1 - FARTHEST) - 1e-6)
        share_macs, share_time = (1 - left ** (1 / steps) if left < 1 else 0.0 for left in (macs, time))
        return (share_macs, share_time) if max(share_macs, share_time) >= 0.02 else (0.02, 0.0)

    def proposals(self, offers: Front, step: float, forms: Sequence[Candidate]) -> list[Composition]:
        """What may be cut next: whole candidates that reach the step's goal, of many structures."""
        macs, time = self.missing(offers.graph)
        if self.target:
            step = max(step, FARTHEST) if step >= STEP else step
        goal = offers.macs * (1 - min(step, macs))
        if self.target.macs is not None and macs > 0:
            goal = max(goal, self.target.macs * self.whole)
        self.ledger.progress("making candidates", len(self.ledger.edits), 0)
        wanted = Goal(goal, MARGIN * min(step, time) * offers.ms, self.target.macs is not None)
        more = (lambda: True) if self.ledger.budget is None else self.ledger.budget.making()
        return varied(compositions(self.ledger, offers, wanted, self.promising(offers, forms), more), FIRST)

    def said_missed(self, current: Graph, late: bool) -> str:
        """The note on a target that was not reached. `late`: whether the time for choosing was over."""
        remedy = "that keeps within the accuracy asked and saves time; allow a larger drop, or tune longer"
        if late:
            remedy = "that there was time for; give more minutes"
        parts: list[str] = []
        left = count(current).total.macs / self.whole
        if self.target.macs is not None and left > self.target.macs * 1.0001:
            part = (
                f"the target of {100 * self.target.macs:.3g}% of the multiplications was not reached: {left:.0%} is the"
            )
            parts.append(f"{part} least {remedy}")
        saved = self._timing[1] if self._timing is not None else None
        if saved is not None:
            now, of = saved.after_ms, saved.after_ms / saved.before_ms
            if self.target.time is not None and of > self.target.time:
                parts.append(f"the target of {100 * self.target.time:.3g}% of the time was not reached: "
                             f"{of:.0%} is the least {remedy}")  # fmt: skip
            if self.target.ms is not None and now > self.target.ms:
                parts.append(f"the target of {self.target.ms:g} ms was not reached: {now:.3g} ms is the least {remedy}")
        return "; ".join(parts)

    def race(self, current: Graph, found: Sequence[Composition]) -> tuple[str, Graph | None]:
        """Candidates timed, tuned by successive halving and judged, the best one taken: ("taken", tuned), or why not
        ("slow", "lossy", "late" where the time is up) and None.
        """
        timed = [(one, self.saving(current, one.proposal)) for one in found]
        ready = [(one, saved) for one, saved in timed if not isinstance(saved, str)]
        if not ready:
            return "slow", None
        number, rungs = self.rungs(len(ready))
        if not number:
            return "late", None
        before, budget = self.ledger.schedule, self.ledger.budget
        if budget is not None:
            said = f"{number} candidates by {len(rungs)} rungs, {rungs[-1].share:.2g} of a tuning to the best"
            self.ledger.progress(f"{said}; {budget.said()} are over", len(self.ledger.edits), 0)
        contenders = [Contender(one.name, one.proposal.graph, one.structure, one.time) for one, _ in ready]
        savings = {id(runner): saved for (_, saved), runner in zip(ready, contenders, strict=True)}

        def price(runner: Contender[Graph]) -> tuple[float, float]:
            return self.price(runner, savings[id(runner)], current)

        halved(contenders[:number], rungs, self.trainer(before, price))
        for late in contenders[number:]:
            late.reason, late.failed = "there was no time to tune so many", True
        best: tuple[Proposal, Contender[Graph]] | None = None
        for (one, _), runner in zip(ready, contenders, strict=True):
            if runner.reason:
                self.passed(one.proposal, runner)
                continue
            runner.reason = self.too_lossy(runner)
            if runner.reason:
                self.ledger.reject(one.proposal, runner.reason)
            else:
                best = one.proposal, runner
        self.record(ready, contenders, best[1] if best else None)
        if best is None:
            return "lossy", None
        cut, runner = best
        check = {
            "accuracy_before": runner.curve[-1].control,
            "accuracy_after": runner.score,
            "split": "selection",
            "tuned": bool(runner.schedule),
            "schedule": runner.schedule,
        }
        tuned = runner.network
        old, new = self.ledger.deploy(current), self.ledger.deploy(tuned)
        said = "; ".join(filter(None, (cut.found, _removed(current, tuned))))
        self.ledger.accept(replace(cut, found=said), old, new, savings[id(runner)], check)
        if any(rewrite not in (CHANNELS, BRANCHES) for rewrite in cut.rewrite.split("+")):
            self.attempts += 1
            self.touched.update({n.name for n in tuned.nodes} - {n.name for n in current.nodes})
            self.touched.update(name for key, own in self.passed_over.items() for name in key[1]
                                if own.rewrite in cut.rewrite and name in cut.layers)  # fmt: skip
        return "taken", tuned

    def passed(self, cut: Proposal, runner: Contender[Graph]) -> None:
        """Records a candidate that another was better than. That says nothing of single channels, unless it failed."""
        if runner.failed:
            self.ledger.reject(cut, runner.reason)
        else:
            self.ledger.refuse(cut.rewrite, cut.layers, f"{runner.name}: {runner.reason}")

    def saving(self, current: Graph, cut: Proposal) -> Saving | str | None:
        """What an edit saves, in the form in which it would be used; why it is refused where that is too little."""
        old, new = self.ledger.deploy(current), self.ledger.deploy(cut.graph)
        saved = self.ledger.time_all(old, [new])[0]
        if saved is not None and not saved.real:
            saved = self.ledger.time(old, new)
        slow = self.ledger.too_little(saved)
        if slow is None:
            return saved
        self.ledger.reject(cut, slow)
        return slow

    def late(self) -> bool:
        """Whether a step was tuned already and the time for choosing is over: what is left is for the last tuning."""
        budget = self.ledger.budget
        return budget is not None and bool(self.ledger.schedule) and budget.left() < (1 - HALVING) * budget.seconds

    def rungs(self, number: int) -> tuple[int, Sequence[Rung]]:
        """How many of so many candidates are raced, and by which rungs."""
        ledger = self.ledger
        if ledger.tune is None and ledger.tune_part is None:
            return number, UNTUNED
        rungs = [rung for rung in RUNGS if rung.share >= ledger.least_part] if ledger.tune_part is not None else []
        rungs = rungs if len(rungs) > 1 else list(WHOLE)
        if ledger.budget is None or ledger.tune_part is None:
            return number, rungs
        self.speed(ledger.budget)
        if not ledger.budget.time_for(SHORTEST):
            return 0, rungs
        return ledger.budget.rungs(number, RUNGS)

    def speed(self, budget: TimeBudget) -> None:
        """Finds out how long trainings take, once, by two short ones of the original, which are thrown away."""
        if budget.took or self.ledger.tune_part is None:
            return
        self.ledger.progress("finding out how long tuning takes", 0, 1)
        for share in (SHORTEST, 4 * SHORTEST):
            try:
                budget.trained(share, lambda share=share: self.ledger.tuned(self.ledger.graph, share))
            except (DataError, CheckFailed):
                return
            if 40 * budget.took[-1][1] > budget.left():
                return

    def trainer(self, before: Schedule, price: Callable[[Contender[Graph]], tuple[float, float]]) -> Trainer[Graph]:
        """What rungs ask for, of networks that were trained by `before` already and are ranked by `price`."""
        ledger, budget = self.ledger, self.ledger.budget
        assert ledger.evaluate is not None

        def tune(graph: Graph, share: float) -> Graph:
            if budget is None:
                return ledger.tuned(graph, share)
            made: list[Graph] = []
            budget.trained(share, lambda: made.append(ledger.tuned(graph, share)))
            return made[0]

        def control(schedule: Schedule) -> float | None:
            return ledger.to_lose_from((*before, *schedule), self.base)

        def said(what: str) -> None:
            ledger.progress(what if budget is None else f"{what} ({budget.said()})", len(ledger.edits), 0)

        time_for = (lambda share: True) if budget is None else budget.time_for
        return Trainer(tune, ledger.evaluate, control, time_for, said, price=price)

    def too_lossy(self, runner: Contender[Graph]) -> str:
        """Why a candidate that was tuned loses too much; empty where it does not."""
        lost = _lost(runner)
        if lost <= self.allowed + 1e-12 or (self.target and self.ledger.judged_last):
            return ""
        left = count(runner.network).total.macs / self.whole
        return (
            f"{100 * lost:.2f} points lost after tuning at {left:.0%} of the multiplications, "
            f"more than {100 * self.allowed:.2f}"
        )

    def price(self, runner: Contender[Graph], saved: Saving | None, current: Graph) -> tuple[float, float]:
        """What decides between candidates that were tuned equally long, the least being best.

        Where a target is asked for, all of them meet the step's goal, and it is the accuracy lost against the control,
        a little of it given for time: those that lose nothing are ranked by time. Without a target it is the accuracy
        lost for what the step saves: the logarithms of how many times fewer multiplications and less time there are,
        added up. Candidates of equal price are ranked by their accuracy.
        """
        lost = max(_lost(runner), 0.0)
        faster = 0.0 if saved is None else log(max(saved.before_ms, 1e-12) / max(saved.after_ms, 1e-12))
        if self.target:
            return lost - TIME_WORTH * faster, -runner.score
        before, after = (count(graph).total.macs for graph in (current, runner.network))
        less = log(max(1, before) / max(1, after)) + faster
        return (lost + LEAST_LOSS) / max(less, 1e-9), -runner.score

    def record(
        self,
        ready: Sequence[tuple[Composition, Saving | None]],
        contenders: Sequence[Contender[Graph]],
        best: Contender[Graph] | None,
    ) -> None:
        """Every candidate as the result lists it, with its learning curve."""
        for (one, _), runner in zip(ready, contenders, strict=True):
            last = runner.curve[-1] if runner.curve else None
            self.ledger.candidates.append(
                {
                    "ranking": one.name,
                    "macs": count(one.proposal.graph).total.macs,
                    "time": one.time * self.time_so_far,
                    "outputs_moved": one.moved,
                    "measure": None if last is None else last.score,
                    "lost": None if last is None else _lost(runner),
                    "standard_error": None,
                    "tuned": bool(runner.schedule),
                    "taken": runner is best,
                    "curve": [[point.share, point.score, point.control] for point in runner.curve],
                    "why": runner.reason,
                }
            )
        if best is not None:
            self.time_so_far *= next(one.time for (one, _), r in zip(ready, contenders, strict=True) if r is best)

    def replacements(self, offers: Front) -> list[Candidate]:
        """Cheaper forms of layers that are predicted to save enough, those that save most first."""
        found = candidates(offers.known)
        whole = self.ledger.predict(offers.graph)
        worth: list[tuple[float, Candidate]] = []
        for c in found:
            saves = whole - self.ledger.predict(c.graph)
            if not self.touched.isdisjoint(c.layers):
                continue
            if not self.ledger.allowed(c.graph):
                self.ledger.refuse(c.rewrite, c.layers, f"{CLASS_LOST} ({c.found})", c.answers)
                continue
            if saves < STRUCTURE_SAVES * whole:
                predicted = (
                    f"a saving of {saves / whole:.1%}" if saves >= 0 else f"a run time {-saves / whole:.1%} longer"
                )
                share = f"the plan predicts {predicted}, and a saving of {STRUCTURE_SAVES:.0%} is asked for"
                said = f"no time saved that is worth a tuning: {share} ({c.found})"
                self.ledger.refuse(c.rewrite, c.layers, said, c.answers)
            else:
                self.passed_over[c.rewrite, c.layers] = c
                worth.append((saves, c))
        return [c for _, c in sorted(worth, key=lambda pair: -pair[0])[:SCORED]]

    def promising(self, offers: Front, forms: Sequence[Candidate]) -> list[Candidate]:
        """The forms that save most for how far they move the outputs, of every layer one."""
        whole = self.ledger.predict(offers.graph)
        ranked: list[tuple[float, int]] = []
        for place, c in enumerate(forms):
            saves = (whole - self.ledger.predict(c.graph)) * offers.ms_per_predicted
            ranked.append((saves / (offers.loss.of(c.graph) + FLOOR), place))
        found: dict[tuple[str, ...], Candidate] = {}
        for _, place in sorted(ranked, key=lambda pair: -pair[0]):
            found.setdefault(forms[place].layers, forms[place])
        chosen = list(found.values())[:STRUCTURES]
        self.tried |= {(c.rewrite, c.layers) for c in chosen}
        return chosen

    def silence(self, current: Graph) -> Graph | None:
        """The network without channels that were 0 on every sample, where that saves time; None when refused."""
        self.ledger.progress("channels that are 0 on every sample", 0, 1)
        known = self.ledger.evidence(current)
        done = remove_silent(known)
        if done is None:
            return None
        narrow, gone, check = done
        channels, names = channels_of(known.channels, gone), known.channels.layers(gone)
        cut = Proposal(SILENT, "bounded", names, narrow, _removed(current, narrow), SILENT_ANSWERS, channels)
        old, new = self.ledger.deploy(current), self.ledger.deploy(narrow)
        saved = self.ledger.time(old, new)
        slow = self.ledger.too_little(saved)
        if not check["ok"]:
            self.ledger.reject(cut, "its check failed: outputs on the samples changed")
        elif slow is not None:
            self.ledger.reject(cut, slow)
        else:
            self.ledger.accept(cut, old, new, saved, check)
            return narrow
        return None


def _lost(runner: Contender[Graph]) -> float:
    """What a candidate lost against the control that was tuned equally long."""
    last = runner.curve[-1]
    assert last.control is not None  # this search always has a control
    return last.control - last.score


def _removed(old: Graph, new: Graph) -> str:
    """Channels before and after, per layer that became narrower; layers that went with their branch."""
    changes = [f"{n.name} {n.attrs['out']} to {new[n.name].attrs['out']}" for n in old.nodes
               if n.rule.channels in ("conv", "dense") and n.name in new.by_name
               and new[n.name].attrs["out"] < n.attrs["out"]]  # fmt: skip
    gone = [n.name for n in old.nodes if n.rule.channels in ("conv", "dense") and n.name not in new.by_name]
    said = ["channels " + ", ".join(changes)] if changes else []
    return "; ".join([*said, *([f"gone: {', '.join(gone)}"] if gone else [])])
