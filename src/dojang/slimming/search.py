"""The search: exact cuts first, then channels on the front of accuracy lost against time saved; only what pays stays.

`slim` knows neither data nor runtime. The caller gives callables: `measure` times networks in interleaved rounds on
the chosen runtime, `tune` fine-tunes one with the original as teacher, `evaluate` gives its accuracy on a selection
split. The test split is the caller's, for the final figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.base.errors import CheckFailed, DataError, UsageError
from dojang.evidence.evidence import Evidence
from dojang.evidence.finding import Finding
from dojang.evidence.moments import require_finite_weights
from dojang.slimming.answers import answers, unanswered
from dojang.slimming.batchnorm import FOLD_BATCHNORM
from dojang.slimming.budget import LONGEST, TimeBudget
from dojang.slimming.constants import CONSTANTS
from dojang.slimming.dead import DEAD
from dojang.slimming.duplicates import DUPLICATES
from dojang.slimming.estimate import Predict
from dojang.slimming.halving import Schedule
from dojang.slimming.identities import IDENTITIES
from dojang.slimming.importance import KINDS
from dojang.slimming.journal import Journal
from dojang.slimming.ledger import (
    CLASS_LOST,
    LEAST_SAVING,
    Evaluate,
    Finish,
    Gradients,
    Ledger,
    Measure,
    PartTune,
    Progress,
    Proposal,
    Tune,
)
from dojang.slimming.linear import MERGE_LINEAR
from dojang.slimming.lossy import Lossy, SearchTarget
from dojang.slimming.numbering import Numbering
from dojang.slimming.result import Refused, SlimResult, figures
from dojang.slimming.rewrite import (
    Applied,
    Rewrite,
    RewriteCheck,
    perform,
    random_inputs,
    real_inputs,
    relative_difference,
)
from dojang.slimming.silent import ANSWERS as SILENT_ANSWERS
from dojang.slimming.silent import NAME as SILENT
from dojang.slimming.structural import ANSWERS as FORM_ANSWERS
from dojang.slimming.timing import Saving

NOTHING = "nothing was found that pays; the network is as it was"
"""A note of a result without edits."""

EXACT: tuple[Rewrite, ...] = (IDENTITIES, FOLD_BATCHNORM, DEAD, CONSTANTS, DUPLICATES, MERGE_LINEAR)
"""Exact rewrites in the order in which they are tried; each makes more visible to the next."""

MADE_FOR: Mapping[str, str] = {
    kind: name
    for name, kinds in [*FORM_ANSWERS.items(), (SILENT, SILENT_ANSWERS), *((r.name, r.answers) for r in EXACT)]
    for kind in kinds
}
"""The rewrite that is made for each kind of finding. A kind that is not in it has none: such findings only inform."""

UNTUNABLE = frozenset({FOLD_BATCHNORM.name, MERGE_LINEAR.name})
"""Exact, but left to the end where fine-tuning follows: batch norms steady training, as do factors."""


def slim(
    known: Evidence,
    *,
    measure: Measure | None = None,
    tune: Tune | None = None,
    evaluate: Evaluate | None = None,
    findings: Sequence[Finding] = (),
    max_drop: float = 1.0,
    target_macs: float | None = None,
    target_time: float | None = None,
    target_ms: float | None = None,
    least_saving: float = LEAST_SAVING,
    lossless: bool = False,
    progress: Progress | None = None,
    multiple: int = 1,
    predict: Predict | None = None,
    journal: Journal | None = None,
    finish: Finish | None = None,
    control: Callable[[Schedule], Graph] | None = None,
    tune_part: PartTune | None = None,
    least_part: float = 0.0,
    last_share: float | None = None,
    budget: TimeBudget | None = None,
    fits: Callable[[Graph], bool] | None = None,
    importance: str = "activation",
    gradients: Gradients | None = None,
    rewrites: Sequence[Rewrite] = EXACT,
) -> SlimResult:
    """A cheaper network that computes the same (`lossless`), or nearly the same.

    `known`: the network, the samples (inputs without labels) for checks and fits, the range of its inputs for proofs,
    and the seed; what was found out about it before is used as it is. `findings`: what is to be answered, each by an
    edit or by a reason why not (see `SlimResult.answers`).
    `max_drop`: percentage points of selection accuracy that may be lost after tuning. `target_macs`: the fraction of
    the original multiplications to reach; `target_time`: the fraction of its measured time; `target_ms`: milliseconds.
    The search stops where all are met; without any, it goes as far as `max_drop` allows. `least_saving`: the part of
    the run time that a cut with loss must save. `predict(graph)`: milliseconds as the runtime's plan has them, by which
    candidates are ranked before the best are timed (default: by multiplications).
    `multiple`: channel counts of cut layers are multiples of it where they can be, as the runtime likes.
    Without `measure`, edits count as paying when they save multiplications or parameters, and say so. `journal`: keeps
    what the callables answered, so that an interrupted search is taken up where it was. `finish`: tunes what was found
    a last time, longer than is worth it after each cut; kept unless more than `max_drop` is then lost. It keeps its own
    journal.

    `fits(graph)`: whether a network can be had in this form, as where somebody's module has to stay of its class.
    `control(schedule)`: the original after the trainings that the network on the way had. What a cut
    loses is the difference to it, not to the original as it came: tuning may gain or lose by itself.

    `tune_part(graph, teacher, share)`: trains for a part of one whole tuning, so that many candidates can be tuned for
    a little (`halving`); `least_part`: the least part that tells them apart. `last_share`: how long `finish` trains,
    None for none. `budget`: the time that there is; the number of candidates, how long they are tuned, and the length
    of the last tuning follow from it.

    `importance`: how channels of one set are ranked, one of `slimming.importance.KINDS`; "taylor" needs `gradients`.

    Never returns a network that is slower or worse than asked: then the best one found, with a note. Raises
    `UsageError` when lossy slimming lacks `evaluate`, or a target is out of range; `DataError` where weights or
    activations are NaN or infinite.
    """
    target = SearchTarget(target_macs, target_time, target_ms)
    check_request(max_drop, target_macs, target_time, target_ms)
    if not lossless and (evaluate is None or known.samples is None):
        raise UsageError("slimming with loss needs samples and labels to choose by; give --data, or --lossless")
    if measure is None and not (target_time is None and target_ms is None):
        raise UsageError(
            "target-time and target-ms need `measure`, a function that times networks; pass one, or use target-macs"
        )
    if not 0 <= least_saving < 1:
        raise UsageError(f"least saving {least_saving} must be a fraction of the run time, from 0 to below 1")
    if importance not in KINDS:
        raise UsageError(f"importance {importance!r} is not known; use {', '.join(KINDS)}")
    if importance == "taylor" and gradients is None and not lossless:
        raise UsageError(
            "taylor importance needs `gradients`, a function that gives the slopes of the loss; pass one, or use "
            f"another importance ({', '.join(k for k in KINDS if k != 'taylor')})"
        )
    known.graph.check_weights()
    require_finite_weights(known.graph)
    known = known.on(known.graph.alone())  # edits change what was read; from here on every array counts as it is
    if journal is not None:
        measure, tune, evaluate = journal.over(measure, tune, evaluate)
    run = _Search(known, measure, tune, evaluate, progress, multiple, predict, least_saving, findings)
    run.rewrites, run.lossless = tuple(rewrites), lossless
    run.importance, run.gradients, run.control = importance, gradients, control
    run.tune_part, run.least_part, run.budget = tune_part, least_part, budget
    run.fits, run.judged_last = fits, budget is not None and finish is not None
    exact = run.exact()
    if lossless:
        return run.finish(exact, None)
    found = Lossy(run, UNTUNABLE, target, max_drop / 100).run()
    if found is not None and finish is not None:
        found = run.tuned_last(found, finish, last_share, max_drop / 100)
    if found is not None and run.judged_last:
        found = run.kept_within(found, max_drop / 100)
    return run.finish(exact, found, target)


def check_request(
    max_drop: float, target_macs: float | None, target_time: float | None, target_ms: float | None
) -> None:
    """Raises `UsageError` for a drop or a target that makes no sense; for callers who ask before the work begins."""
    asked = {"max-drop": max_drop, "target-macs": target_macs, "target-time": target_time, "target-ms": target_ms}
    for name, value in asked.items():
        if value is not None and not isinstance(value, (int, float, np.integer, np.floating)):
            raise UsageError(f"{name} {value!r} is no number")
    if not max_drop >= 0:
        raise UsageError(f"max-drop {max_drop} must be at least 0 percentage points")
    for name, value in (("target-macs", target_macs), ("target-time", target_time)):
        if value is not None and not 0 < value <= 1:
            raise UsageError(f"{name} {value} must be a fraction above 0 and at most 1")
    if target_ms is not None and not 0 < target_ms < float("inf"):
        raise UsageError(f"target-ms {target_ms} must be a number of milliseconds above 0")


def proposed(rewrite: Rewrite, done: Applied) -> Proposal:
    """An exact edit before it is timed."""
    return Proposal(rewrite.name, rewrite.claim, done.layers, done.graph, done.found, rewrite.answers, done.channels)


class _Search(Ledger):
    """One search from the exact rewrites to the final figures."""

    rewrites: tuple[Rewrite, ...] = EXACT
    finished: dict[str, Any] | None = None
    lossless: bool = False

    def exact(self) -> Graph:
        """The network after every exact rewrite that is proved by its check and saves time."""
        current, waiting = self.graph, list[tuple[Rewrite, Proposal, Saving]]()
        for step, rewrite in enumerate(self.rewrites):
            self.progress(f"exact: {rewrite.summary}", step, len(self.rewrites))
            done = perform(rewrite, self.evidence(current))
            if done is None:
                continue
            cut, check = proposed(rewrite, done[0]), done[1]
            if not check.ok:
                self.reject(cut, f"its check failed: {check.reason}")
                continue
            if not self.allowed(cut.graph):
                self.reject(cut, CLASS_LOST)
                continue
            saved = self.time(current, cut.graph)
            if saved is not None and not saved.real:
                waiting.append((rewrite, cut, saved))
                continue
            self.accept(cut, current, cut.graph, saved, check.to_dict())
            self.taken.append(rewrite)
            current = cut.graph
        return self.together(current, waiting)

    def together(self, current: Graph, waiting: list[tuple[Rewrite, Proposal, Saving]]) -> Graph:
        """Edits whose saving drowned in noise one by one are tried once more all at once."""
        if len(waiting) > 1:
            joint, parts = current, list[tuple[Rewrite, Proposal, RewriteCheck]]()
            numbering = Numbering.of(current)
            gone: dict[str, tuple[int, ...]] = {}
            for rewrite, _, _ in waiting:
                done = perform(rewrite, self.evidence(joint))
                if done is not None and done[1].ok:
                    parts.append((rewrite, proposed(rewrite, done[0]), done[1]))
                    joint = done[0].graph
                    for name, own in numbering.original(done[0].channels).items():
                        gone[name] = (*gone.get(name, ()), *own)
                    numbering = numbering.without(done[0].channels)
            saved = self.time(current, joint)
            if parts and saved is not None and saved.real:
                cut = Proposal(
                    "+".join(rewrite.name for rewrite, *_ in parts),
                    "exact",
                    tuple(dict.fromkeys(name for _, part, _ in parts for name in part.layers)),
                    joint,
                    "; ".join(part.found for _, part, _ in parts),
                    tuple(kind for _, part, _ in parts for kind in part.answers),
                    gone,
                )
                worst = max((check for *_, check in parts), key=lambda c: c.stored)
                self.accept(cut, current, joint, saved, worst.to_dict())
                self.taken += [rewrite for rewrite, *_ in parts]
                return joint
        for _, cut, saved in waiting:
            self.reject(cut, saved.refusal)
        return current

    def tuned_last(self, found: Graph, finish: Finish, share: float | None, allowed: float) -> Graph:
        """What the search found after its last fine-tuning; as it was, where that fails or loses too much."""
        assert self.evaluate is not None  # checked on entry
        schedule = self.schedule
        if self.budget is not None:
            share = self.budget.last(share or LONGEST)
            if schedule and not share:
                self.notes.append("there was no time left for a last fine-tuning")
        if not schedule or not share:  # nothing but exact and bounded edits, or nothing asked for
            return found
        self.progress("the last fine-tuning", 0, 1)
        before = self.evaluate(found)
        try:
            tuned = finish(found, schedule, share)
            after = self.evaluate(tuned)
        except (DataError, CheckFailed) as error:
            self.notes.append(f"the last fine-tuning failed, the network before it stands: {error}")
            return found
        original = self.accuracy_before if self.accuracy_before is not None else before
        base = self.to_lose_from((*schedule, share), original)
        kept = base - after <= allowed + 1e-12
        self.finished = {"accuracy_before": before, "accuracy_after": after, "split": "selection", "kept": kept,
                         "share": share}  # fmt: skip
        if not kept:
            lost = f"{100 * (base - after):.2f} points lost on the selection samples, more than {100 * allowed:.2f}"
            self.notes.append(f"the last fine-tuning was not kept: {lost}")
        return tuned if kept else found

    def kept_within(self, found: Graph, allowed: float) -> Graph | None:
        """What was found, or None where it has lost too much in the end; for searches that ask for it only then."""
        if self.finished is not None and self.finished["kept"]:
            return found
        assert self.evaluate is not None  # checked on entry
        now = self.evaluate(found)
        lost = self.to_lose_from(self.schedule, self.accuracy_before or now) - now
        if lost <= allowed + 1e-12:
            return found
        said = f"{100 * lost:.2f} points were lost in the time there was, more than {100 * allowed:.2f}"
        self.notes.append(f"{said}; the original stands. Give more minutes, a larger drop or a nearer target")
        self.undo(said, ("exact",))
        return None

    def finish(self, exact: Graph, lossy: Graph | None, target: SearchTarget | None = None) -> SlimResult:
        """The final network checked once more against the original, and the figures of both."""
        final = exact
        if lossy is not None:
            final = lossy
            for rewrite in self.taken:
                done = perform(rewrite, self.evidence(final))
                if done is not None and done[1].ok:
                    final = done[0].graph
        saved = self.time(self.graph, final) if final is not self.graph else None
        if saved is not None and saved.ms < 0 and not saved.real:
            self.notes.append(
                f"measured once more the result is no faster than the original ({saved}); the original stands"
            )
            self.undo(f"measured once more, all edits together save no time: {saved}")
            final = self.graph
        if (
            saved is not None
            and lossy is not None
            and target is not None
            and not any("target of" in note for note in self.notes)
        ):
            most = min(target.ms or float("inf"), (target.time or float("inf")) * saved.before_ms)
            if saved.after_ms > most:
                said = f"measured once more the result takes {saved.after_ms:.4g} ms, more than the {most:.4g} ms asked"
                self.notes.append(f"{said}, though it met them while searching: clocks vary; ask for a little less")
        accuracy = self.evaluate(final) if self.evaluate is not None else None
        if self.accuracy_before is None and self.evaluate is not None:
            self.accuracy_before = self.evaluate(self.graph)
        if self.measure is None:
            self.notes.append(
                "time was not measured; edits were taken for the multiplications and parameters they save"
            )
        if not self.edits:
            self.notes.append(NOTHING)
        before_ms, after_ms = (saved.before_ms, saved.after_ms) if saved is not None else (None, None)
        certificate = self.certificate(final) if lossy is None else {}
        refused = list(self.refused.values())
        refused += unanswered(self.known, self.findings, self.edits, refused, MADE_FOR, self.lossless)
        return SlimResult(
            final,
            figures(self.graph, self.accuracy_before, before_ms),
            figures(final, accuracy, before_ms if final is self.graph else after_ms),
            tuple(self.edits),
            tuple(refused),
            self.known.seed,
            tuple(self.notes),
            certificate,
            finish=self.finished,
            candidates=tuple(self.candidates),
            findings=self.findings,
            answers=answers(self.findings, self.edits, refused, MADE_FOR),
        )

    def undo(self, reason: str, but: Sequence[str] = ()) -> None:
        """No edit is left but those of these claims: each becomes a refusal, with this reason."""
        for place, edit in enumerate(self.edits):
            if edit.claim in but:
                continue
            refused = Refused(edit.rewrite, edit.layers, reason, edit.channels, edit.findings)
            self.refused[f"edit {place}", edit.layers] = refused
        self.edits = [edit for edit in self.edits if edit.claim in but]

    def certificate(self, final: Graph) -> dict[str, Any]:
        """Largest differences from the original network, relative to the largest output, in float64 and float32."""
        most = int(np.clip(2e9 / max(1, count(self.graph).total.macs), 1, 8))
        feeds = {"random": random_inputs(self.known, most)}
        real = real_inputs(self.known, most)
        if real is not None:
            feeds["real"] = real
        return {
            name: {
                "inputs": len(next(iter(x.values()))),
                "float64": relative_difference(self.graph, final, x),
                "float32": relative_difference(self.graph, final, x, np.float32),
            }
            for name, x in feeds.items()
        }
