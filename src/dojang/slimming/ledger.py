"""What a search keeps: edits taken, edits refused, the clock, and the form in which a network would be used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.base.errors import CheckFailed, DataError
from dojang.evidence.evidence import Evidence
from dojang.evidence.finding import Finding
from dojang.slimming.answers import answered
from dojang.slimming.budget import TimeBudget
from dojang.slimming.estimate import Predict, by_macs, shape_key
from dojang.slimming.halving import Schedule
from dojang.slimming.numbering import Numbering
from dojang.slimming.result import Channels, Edit, Refused, schedule_of
from dojang.slimming.rewrite import Claim, Rewrite
from dojang.slimming.timing import Saving, saving

Measure = Callable[[Sequence[Graph]], Sequence[Sequence[float]]]
"""Milliseconds of each network in each of several interleaved rounds: `times[network][round]`."""

Tune = Callable[[Graph, Graph], Graph]
"""`tune(graph, teacher)`: the same network with weights fine-tuned, the teacher being the network before the cut."""

Evaluate = Callable[[Graph], float]
"""Accuracy (a fraction) on the selection split."""

PartTune = Callable[[Graph, Graph, float], Graph]
"""`tune(graph, teacher, share)`: the same for a part of one whole tuning."""

Finish = Callable[[Graph, Schedule, float], Graph]
"""`finish(graph, schedule, share)`: the network that the search found, trained by `schedule` on the way, fine-tuned a
last time, for `share` of a whole tuning."""

Gradients = Callable[[Graph], Mapping[str, Any]]
"""Slope of the loss by every weight array, by name, over some labelled samples."""

Progress = Callable[[str, int, int], object]
"""`progress(what, step, of)`; `of` is 0 where the number of steps is not known beforehand."""

LEAST_SAVING = 0.005
"""Part of the run time that a cut with loss must save: accuracy is not spent on savings that chance may have made."""

CLASS_LOST = "the module could not stay of its class: its code has no place for the layers that this would leave"

NONE: Channels = {}

PATIENCE = 4
"""How often an undecided timing is repeated; the rounds are pooled."""


class Ledger:
    """The state of one search: what was accepted and refused so far, and the callables that judge.

    `numbering`: the original numbers of the channels that the network of today still has. `importance`, `gradients`:
    how channels are ranked within a bundle; see `slimming.importance`. `judged_last`: a long tuning follows on the
    search, and it is after that that no more may be lost than is allowed.
    """

    importance: str
    gradients: Gradients | None

    def __init__(
        self,
        known: Evidence,
        measure: Measure | None,
        tune: Tune | None,
        evaluate: Evaluate | None,
        progress: Progress | None,
        multiple: int,
        predict: Predict | None = None,
        least_saving: float = LEAST_SAVING,
        findings: Sequence[Finding] = (),
    ) -> None:
        """Nothing is taken yet."""
        self.importance, self.gradients = "activation", None
        self.control: Callable[[Schedule], Graph] | None = None
        self.tune_part: PartTune | None = None
        self.least_part = 0.0
        self.budget: TimeBudget | None = None
        self.judged_last = False
        self.candidates: list[dict[str, Any]] = []
        self.fits: Callable[[Graph], bool] | None = None
        self._predict, self._predicted = predict or by_macs, dict[str, float]()
        self.least_saving = least_saving
        self.timed: dict[tuple[str, str], Saving] = {}
        self.known, self.graph = known, known.graph
        self._latest = known
        self.findings, self.numbering = tuple(findings), Numbering.of(known.graph)
        self.measure, self.tune, self.evaluate = measure, tune, evaluate
        self.progress = progress or (lambda what, step, of: None)
        self.multiple = max(1, multiple)
        self.edits: list[Edit] = []
        self.refused: dict[tuple[str, tuple[str, ...]], Refused] = {}
        self.notes: list[str] = []
        self.taken: list[Rewrite] = []
        self.accuracy_before: float | None = None

    def predict(self, graph: Graph) -> float:
        """Milliseconds as the plan expects them; what was predicted once is remembered."""
        key = shape_key(graph)
        if key not in self._predicted:
            self._predicted[key] = self._predict(graph)
        return self._predicted[key]

    def evidence(self, graph: Graph) -> Evidence:
        """What is known of a network on the samples; that of the original and of the last one asked for are kept."""
        if graph is self.graph:
            return self.known
        self._latest = self._latest.on(graph)
        return self._latest

    def deploy(self, graph: Graph) -> Graph:
        """A network in the form in which it would be used: with the exact rewrites that were found to pay."""
        for rewrite in self.taken:
            done = rewrite.apply(self.known.on(graph))
            graph = done.graph if done is not None else graph
        return graph

    def time(self, before: Graph, after: Graph) -> Saving | None:
        """The measured saving, or None without a clock; measured longer while it cannot be told from noise."""
        if self.measure is None:
            return None
        old, new = list[float](), list[float]()
        found = None
        for _ in range(PATIENCE):
            times = self.measure([before, after])
            old += times[0]
            new += times[1]
            found = saving(old, new)
            if found.real or found.high <= 0 or len(old) == 1:
                break
        return found

    def time_all(self, before: Graph, after: Sequence[Graph]) -> list[Saving | None]:
        """The saving of each network against one, timed in the same rounds; what was timed once is remembered."""
        if self.measure is None or not after:
            return [None] * len(after)
        keys = [(shape_key(before), shape_key(graph)) for graph in after]
        new = {key: graph for key, graph in zip(keys, after, strict=True) if key not in self.timed}
        if new:
            times = self.measure([before, *new.values()])
            self.timed.update((key, saving(times[0], own)) for key, own in zip(new, times[1:], strict=True))
        return [self.timed[key] for key in keys]

    def allowed(self, graph: Graph) -> bool:
        """Whether whoever owns the network can take it in this form."""
        return self.fits is None or self.fits(graph)

    @property
    def schedule(self) -> Schedule:
        """The trainings of the network of today, as parts of a whole tuning."""
        return schedule_of(self.edits)

    def tuned(self, graph: Graph, share: float) -> Graph:
        """A network trained for a part of a whole tuning, taught by the original; as it is where nothing tunes."""
        if self.tune_part is not None:
            return self.tune_part(graph, self.graph, share)
        return graph if self.tune is None else self.tune(graph, self.graph)

    def to_lose_from(self, schedule: Schedule, base: float) -> float:
        """The accuracy of the control after these trainings; `base`, that of the original, without one or where its
        training failed.
        """
        if self.control is None or self.evaluate is None or not schedule:
            return base
        try:
            return self.evaluate(self.control(schedule))
        except (DataError, CheckFailed) as error:
            said = f"the control failed ({error}); losses are those against the original as it came"
            if said not in self.notes:
                self.notes.append(said)
            return base

    def too_little(self, saved: Saving | None) -> str | None:
        """Why a saving is not worth any accuracy; None where it is, or where nothing was timed."""
        if saved is None:
            return None
        if not saved.real:
            return saved.refusal
        if saved.ms < self.least_saving * saved.before_ms:
            return f"no time saved worth a loss: less than {self.least_saving:.1%}: {saved}"
        return None

    def accept(self, cut: Proposal, old: Graph, new: Graph, saved: Saving | None, check: Mapping[str, Any]) -> None:
        """Records an edit that was taken, with what it saves between two networks in the form of use."""
        before, after = count(old).total, count(new).total
        channels = self.numbering.original(cut.channels)
        for order in cut.orders:
            self.numbering = self.numbering.reordered(order)
        self.numbering = self.numbering.without(cut.channels)
        self.edits.append(
            Edit(
                cut.rewrite,
                cut.claim,
                cut.layers,
                before.params - after.params,
                before.macs - after.macs,
                saved.ms if saved is not None else None,
                check,
                cut.found,
                channels,
                answered(self.findings, cut.answers, cut.layers, channels),
            )
        )

    def refuse(
        self, name: str, layers: tuple[str, ...], reason: str, answers: Sequence[str] = (), channels: Channels = NONE
    ) -> None:
        """Kept once per rewrite and layers: the last reason. `channels`: in the numbers of the network of today."""
        gone = self.numbering.original(channels)
        found = answered(self.findings, answers, layers, gone)
        self.refused[(name, layers)] = Refused(name, layers, reason, gone, found)

    def reject(self, cut: Proposal, reason: str) -> None:
        """Records why an edit was not taken."""
        self.refuse(cut.rewrite, cut.layers, reason, cut.answers, cut.channels)


@dataclass(frozen=True)
class Proposal:
    """An edit before it is judged: what it is called, what it claims, the layers it touches, the network with it.

    `found`: one line on it. `answers`: the kinds of findings that it is made for. `channels`: those that it removes,
    by layer, in the numbers of the network that it is made for; `orders`: see `grouping.Form`.
    """

    rewrite: str
    claim: Claim
    layers: tuple[str, ...]
    graph: Graph
    found: str = ""
    answers: tuple[str, ...] = ()
    channels: Channels = field(default_factory=dict[str, tuple[int, ...]])
    orders: tuple[Channels, ...] = ()
