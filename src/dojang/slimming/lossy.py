"""Cuts with loss: silent channels, then channels and cheaper forms of layers on the front of loss against time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, log

from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.base.errors import CheckFailed, DataError
from dojang.slimming.front import FLOOR, Front, FrontOption, front
from dojang.slimming.importance import read_values
from dojang.slimming.ledger import CLASS_LOST, Ledger, Proposal
from dojang.slimming.numbering import Numbering, channels_of, removed
from dojang.slimming.rewrite import perform
from dojang.slimming.silent import ANSWERS as SILENT_ANSWERS
from dojang.slimming.silent import NAME as SILENT
from dojang.slimming.silent import remove_silent
from dojang.slimming.structural import Candidate, candidates, fitted_values
from dojang.slimming.timing import Saving

STEP = 0.5
"""Part of the multiplications that one lossy step tries to save before it tunes again; less, where that loses too much.
"""

MARGIN = 1.02
"""Steps towards a time aim at so much more than is missing: a target missed by a hair costs another tuning."""

CLOCKED = (0.5, 1.0, 1.5, 2.0)
"""Prices of time, multiplications having what is left to 1, that are tried where both are wanted. Above 1 a cut that
saves multiplications without time costs: they would be short for the cuts that save both."""

LOOKS = 4
"""Networks that are timed as a whole to find the one that saves what is missing: what options save one by one is not
what they save together."""

LEAST_LOSS = 0.005
"""Accuracy that every step is taken to lose at least where steps of different size are compared: half a point, the
standard error of 85 % on 5,000 samples."""

LEAST_STEP = 0.05
"""A step that had to be made smaller than this ends the search."""

STRUCTURES = 3
"""Replacements of layers that are tuned and judged at most."""

STRUCTURE_SAVES = 0.03
"""A replacement must be predicted to save this part of the time: it costs a tuning, and makes two layers of one."""

STEP_SAVES = 0.5
"""One that takes the place of a step must save this part of what the step would: each costs the same tuning."""

PASSED_OVER = "not tried: other cuts moved the outputs less for the time that they save, or the search had ended"

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


@dataclass(frozen=True)
class Trial:
    """A candidate that passed: tuned, its accuracy on the selection split and the control's, the time it saves."""

    cut: Proposal
    tuned: Graph
    accuracy: float
    control: float
    saved: Saving | None


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
        while (short := max(self.missing(current))) > 0:
            if offers is None:
                left = count(current).total.macs / self.whole
                self.ledger.progress(f"what can go: {left:.0%} of the multiplications left", len(self.ledger.edits), 0)
                known = self.ledger.evidence(current)
                if self.attempts < STRUCTURES:  # one pass over the samples for both kinds of cuts
                    known.gather((*read_values(known), *fitted_values(known)))
                offers = front(self.ledger, known, self.target.both)
                replacements = None
            over = step < LEAST_STEP or steps_without_speedup >= 3 or not offers.options
            if self.attempts < STRUCTURES:
                if replacements is None:
                    self.ledger.progress("looking for cheaper forms of layers", len(self.ledger.edits), 0)
                    replacements = self.replacements(offers)
                better = self.better(offers, replacements, 0.0 if over else STEP_SAVES * min(step, short), over)
                if better is not None:
                    _, tuned = self.replace(better, current)
                    if tuned is not None:
                        current = accepted = tuned
                        offers, step, steps_without_speedup = None, max(step, 2 * LEAST_STEP), 0
                    elif over:
                        break
                    continue
            if over:
                break
            proposals = self.proposals(offers, step)
            if not proposals:
                break
            verdict, tuned = self.race(current, proposals)
            if tuned is not None:
                current = accepted = tuned
                offers, steps_without_speedup = None, 0
            elif verdict == "slow":
                step, steps_without_speedup = min(0.7, step * 1.5), steps_without_speedup + 1
            else:
                step /= 2
        for c in self.passed_over.values():
            if (c.rewrite, c.layers) not in self.tried and (c.rewrite, c.layers) not in self.ledger.refused:
                self.ledger.refuse(c.rewrite, c.layers, f"{PASSED_OVER} ({c.found})", c.answers)
        if self.target and max(self.missing(current)) > 0:
            self.ledger.notes.append(self.said_missed(current))
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
        steps = ceil(log(min(macs, time)) / log(1 - STEP) - 1e-6)
        share_macs, share_time = (1 - left ** (1 / steps) if left < 1 else 0.0 for left in (macs, time))
        return (share_macs, share_time) if max(share_macs, share_time) >= 0.02 else (0.02, 0.0)

    def proposals(self, offers: Front, step: float) -> list[Proposal]:
        """What may be cut next: along the front, and, where sums have branches to spare, whole branches first.

        How far outputs move without tuning holds channels against channels well enough, but not channels against
        branches: what is left of a layer is fitted to the samples, what is left of a sum is not. Of ResNet-20 branches
        lost less, tuned, than channels that moved the outputs as far. So both are tuned, and the better one is taken.
        """
        macs, time = self.missing(offers.graph)
        goal = offers.macs * (1 - min(step, macs))
        if self.target.macs is not None and macs > 0:
            goal = max(goal, self.target.macs * self.whole)
        proposals: list[Proposal] = []
        before: list[FrontOption] = []
        for branches in (False, True):
            candidate, used = self.whole_saving(offers, goal, MARGIN * min(step, time) * offers.ms, branches)
            if candidate is not None and used != before:
                proposals.append(offers.proposal(used, candidate))
            before = used
        return proposals

    def whole_saving(
        self, offers: Front, macs: float, ms: float, branches: bool
    ) -> tuple[Graph | None, list[FrontOption]]:
        """The network with at most `macs` multiplications that saves `ms` when it is timed as a whole, what was used.

        The sum of what options save is corrected by what the network with all of them saves, until the least cut is
        found that does, or nothing more can go. Where multiplications and time are both wanted, several prices of the
        one in terms of the other are tried: at the right one neither falls further than it has to. Then it is enough
        where the time falls by as much more than wanted as the multiplications do. Of all networks that save enough
        the one is taken whose outputs move least; else the one that saves most time for its multiplications.
        """
        found = list[tuple[bool, float, Graph, list[FrontOption]]]()
        seen: list[list[FrontOption]] = []
        both = self.target.macs is not None
        for clocked in (1.0,) if not both else (0.5,) if ms <= 0 else CLOCKED:
            asked = ms
            for _ in range(LOOKS):
                graph, used = offers.to(macs, asked, clocked, branches)
                if graph is None or used in seen:
                    break
                seen.append(used)
                saved = self.ledger.time_all(self.ledger.deploy(offers.graph), [self.ledger.deploy(graph)])[0]
                if ms <= 0 or saved is None:
                    return graph, used
                left = count(graph).total.macs
                further = min(1.0, left / macs) if both and left and macs < offers.macs else 1.0
                most = (1 - ms / offers.ms) * further * saved.before_ms
                enough = saved.after_ms <= most
                rank = -offers.loss.of(graph) if enough else most / saved.after_ms
                found.append((enough, rank, graph, used))
                promised = sum(option.ms for option in used)
                if saved.ms <= 0 or promised <= 0:
                    break
                asked = ms * promised / saved.ms
        if not found:
            return None, []
        *_, graph, used = max(found, key=lambda one: one[:2])
        return graph, used

    def said_missed(self, current: Graph) -> str:
        """The note on a target that was not reached."""
        remedy = "that keeps within the accuracy asked and saves time; allow a larger drop, or tune longer"
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

    def race(self, current: Graph, proposals: Sequence[Proposal]) -> tuple[str, Graph | None]:
        """Several edits timed, tuned and judged, the best by `price` taken: ("taken", tuned), or why not ("slow",
        "lossy") and None.
        """
        tried = [self.trial(cut, current) for cut in proposals]
        good = [trial for trial in tried if isinstance(trial, Trial)]
        if not good:
            return ("slow" if "slow" in tried else "lossy"), None
        best = min(good, key=lambda trial: (self.price(trial, current), -trial.accuracy))
        for trial in good:
            if trial is not best:
                shares = [f"{t.accuracy:.2%} at {count(t.tuned).total.macs / self.whole:.0%}" for t in (trial, best)]
                said = (
                    f"tuned alike, {best.cut.rewrite} keeps more for what it saves: {shares[0]} of the multiplications "
                    f"against {shares[1]}"
                )
                self.ledger.reject(trial.cut, said)
        check = {
            "accuracy_before": best.control,
            "accuracy_after": best.accuracy,
            "split": "selection",
            "tuned": bool(self.ledger.tune),
        }
        cut, tuned = best.cut, best.tuned
        old, new = self.ledger.deploy(current), self.ledger.deploy(tuned)
        self.ledger.accept(replace(cut, found=cut.found or _removed(current, tuned)), old, new, best.saved, check)
        return "taken", tuned

    def price(self, trial: Trial, current: Graph) -> float:
        """Accuracy lost so far for what this step saves.

        What is saved are the logarithms of how many times fewer multiplications and less time there are, added up:
        a step that saves little is more accurate for that reason alone.
        """
        before, after = (count(graph).total.macs for graph in (current, trial.tuned))
        saved = log(max(1, before) / max(1, after))
        if trial.saved is not None:
            saved += log(trial.saved.before_ms / trial.saved.after_ms)
        return (max(trial.control - trial.accuracy, 0.0) + LEAST_LOSS) / max(saved, 1e-9)

    def trial(self, cut: Proposal, current: Graph) -> Trial | str:
        """An edit timed, tuned and judged, or why it is refused: "slow" or "lossy".

        It is timed before tuning, which costs far more, in the form in which it would be used.
        """
        assert self.ledger.evaluate is not None
        saved = self.ledger.time(self.ledger.deploy(current), self.ledger.deploy(cut.graph))
        slow = self.ledger.too_little(saved)
        if slow is not None:
            self.ledger.reject(cut, slow)
            return "slow"
        self.ledger.progress(f"fine-tuning after {cut.rewrite}", len(self.ledger.edits), 0)
        try:
            tuned = self.ledger.tune(cut.graph, self.ledger.graph) if self.ledger.tune else cut.graph
            accuracy = self.ledger.evaluate(tuned)
            tunings = self.ledger.tunings + (self.ledger.tune is not None)
            base = self.ledger.to_lose_from(tunings, False, self.base)
        except (DataError, CheckFailed) as error:  # NaN on the way: what was accepted before still stands
            self.ledger.reject(cut, f"fine-tuning failed: {error}")
            return "lossy"
        if not base - accuracy <= self.allowed + 1e-12:  # an accuracy of NaN is no accuracy
            left = count(cut.graph).total.macs / self.whole
            self.ledger.reject(
                cut,
                f"{100 * (base - accuracy):.2f} points lost after tuning at {left:.0%} of the multiplications, "
                f"more than {100 * self.allowed:.2f}",
            )  # fmt: skip
            return "lossy"
        return Trial(cut, tuned, accuracy, base, saved)

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

    def better(self, offers: Front, replacements: list[Candidate], least: float, over: bool) -> Candidate | None:
        """The best replacement not tried yet, if narrowing that saves as much would change the outputs more.

        `least`: the part of the time that it must save. `over`: narrowing has come to its end, so that the best one
        is tried anyway.
        """
        whole = self.ledger.predict(offers.graph)
        ranked: list[tuple[float, float, float, Candidate]] = []
        for c in replacements:
            if (c.rewrite, c.layers) in self.tried:
                continue
            saves = (whole - self.ledger.predict(c.graph)) * offers.ms_per_predicted
            if saves < least * whole * offers.ms_per_predicted:
                continue
            loss = offers.loss.of(c.graph)
            ranked.append((saves / (loss + FLOOR), saves, loss, c))
        if not ranked:
            return None
        _, saves, loss, best = max(ranked, key=lambda r: r[0])
        if over:
            return best
        rival = offers.saving(saves)
        return best if rival is None or loss < offers.loss.of(rival) else None

    def replace(self, c: Candidate, current: Graph) -> tuple[str, Graph | None]:
        """One replacement timed, tuned and judged; what a layer has become is not replaced again."""
        self.tried.add((c.rewrite, c.layers))
        gone = removed(current, c.graph, {})
        cut = Proposal(c.rewrite, "lossy", c.layers, c.graph, c.found, c.answers, gone, c.orders)
        verdict, tuned = self.race(current, [cut])
        if verdict != "slow":
            self.attempts += 1
        if tuned is not None:
            self.touched.update(c.layers, {n.name for n in tuned.nodes} - {n.name for n in current.nodes})
        return verdict, tuned

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


def _removed(old: Graph, new: Graph) -> str:
    """Channels before and after, per layer that became narrower; layers that went with their branch."""
    changes = [f"{n.name} {n.attrs['out']} to {new[n.name].attrs['out']}" for n in old.nodes
               if n.rule.channels in ("conv", "dense") and n.name in new.by_name
               and new[n.name].attrs["out"] < n.attrs["out"]]  # fmt: skip
    gone = [n.name for n in old.nodes if n.rule.channels in ("conv", "dense") and n.name not in new.by_name]
    said = ["channels " + ", ".join(changes)] if changes else []
    return "; ".join([*said, *([f"gone: {', '.join(gone)}"] if gone else [])])
