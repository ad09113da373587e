"""The search: exact cuts first, then channels on the front of accuracy lost against time saved; only what pays stays.

`slim` knows neither data nor runtime. The caller gives callables: `measure` times networks in interleaved rounds on
the chosen runtime, `tune` fine-tunes one with the original as teacher, `evaluate` gives its accuracy on a selection
split. The test split is the caller's, for the final figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dojang.arith.channels import ChannelMap, channels
from dojang.arith.cost import count
from dojang.arith.cut import cut
from dojang.arith.errors import UsageError
from dojang.arith.graph import Graph
from dojang.slim.batchnorm import FOLD_BATCHNORM
from dojang.slim.constants import CONSTANTS
from dojang.slim.dead import DEAD
from dojang.slim.duplicates import DUPLICATES
from dojang.slim.identities import IDENTITIES
from dojang.slim.importance import importance, moments
from dojang.slim.linear import MERGE_LINEAR
from dojang.slim.narrow import remove, wish
from dojang.slim.result import Edit, Refused, SlimResult, figures
from dojang.slim.rewrite import Check, Context, Rewrite, perform, relative_difference
from dojang.slim.silent import NAME as SILENT
from dojang.slim.silent import remove_silent
from dojang.slim.structural import Candidate, candidates
from dojang.slim.timing import Saving, saving

Measure = Callable[[Sequence[Graph]], Sequence[Sequence[float]]]
"""Milliseconds of each network in each of several interleaved rounds: `times[network][round]`."""

Tune = Callable[[Graph, Graph], Graph]
"""`tune(graph, teacher)`: the same network with weights fine-tuned, the teacher being the network before the cut."""

Evaluate = Callable[[Graph], float]
"""Accuracy (a fraction) on the selection split."""

Progress = Callable[[str, int, int], object]
"""`progress(what, step, of)`; `of` is 0 where the number of steps is not known beforehand."""

EXACT: tuple[Rewrite, ...] = (IDENTITIES, FOLD_BATCHNORM, DEAD, CONSTANTS, DUPLICATES, MERGE_LINEAR)
"""Exact rewrites in the order in which they are tried; each makes more visible to the next."""

UNTUNABLE = frozenset({FOLD_BATCHNORM.name, MERGE_LINEAR.name})
"""Exact, but left to the end where fine-tuning follows: batch norms steady training, as do factors."""

CHANNELS = "remove-channels"

STEP = 0.3
"""Part of the multiplications that one lossy step tries to save before it tunes again."""

LEAST_STEP = 0.05
"""A step that had to be made smaller than this ends the search."""

SHARE = 0.25
"""Part of a bundle's channels that one candidate removes."""

IDLE = 0.01
"""A channel with less than this part of its bundle's mean importance hardly matters."""

FLOOR = 1e-3
"""A loss below a tenth of a point is not told apart on a selection split."""

STRUCTURES = 3
"""Replacements of layers that are tuned and judged at most."""

PATIENCE = 4
"""How often an undecided timing is repeated; the rounds are pooled."""


@dataclass(frozen=True)
class Trial:
    """Candidate removal of some channels of one bundle: what it saves, measured, and what it loses, estimated."""

    layers: tuple[str, ...]
    classes: tuple[int, ...]
    macs_saved: int
    saved: Saving
    loss: float


def slim(
    graph: Graph,
    *,
    measure: Measure | None = None,
    tune: Tune | None = None,
    evaluate: Evaluate | None = None,
    samples: Any = None,
    max_drop: float = 1.0,
    target_macs: float | None = None,
    lossless: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    input_range: Mapping[str, tuple[Any, Any]] | None = None,
    multiple: int = 1,
    rewrites: Sequence[Rewrite] = EXACT,
) -> SlimResult:
    """A cheaper network that computes the same (`lossless`), or nearly the same.

    `max_drop`: percentage points of selection accuracy that may be lost after tuning. `target_macs`: the fraction of
    the original multiplications to reach; the search stops there; without it, it goes as far as `max_drop` allows.
    `samples`: inputs without labels, for checks and fits. `input_range`: least and largest input value by input name,
    for proofs. `multiple`: channel counts of cut layers are multiples of it where they can be, as the runtime likes.
    Without `measure`, edits count as paying when they save multiplications or parameters, and say so.

    Never returns a network that is slower or worse than asked: then the best one found, with a note. Raises
    `UsageError` when lossy slimming lacks `evaluate`, or a target is out of range.
    """
    _check_arguments(evaluate, samples, max_drop, target_macs, lossless)
    graph.check_weights()
    context = Context(input_range or {}, samples, seed)
    run = _Search(graph, measure, tune, evaluate, context, progress, multiple, tuple(rewrites))
    exact = run.exact()
    if lossless:
        return run.finish(exact, None)
    return run.finish(exact, run.lossy(exact, max_drop / 100, target_macs))


def _check_arguments(
    evaluate: Evaluate | None, samples: Any, max_drop: float, target_macs: float | None, lossless: bool
) -> None:
    if not lossless and (evaluate is None or samples is None):
        raise UsageError("slimming with loss needs samples and labels to choose by; give --data, or --lossless")
    if not max_drop >= 0:
        raise UsageError(f"max-drop {max_drop} must be at least 0 percentage points")
    if target_macs is not None and not 0 < target_macs <= 1:
        raise UsageError(f"target-macs {target_macs} must be a fraction above 0 and at most 1")


class _Search:
    """The state of one search: what was accepted and refused so far."""

    def __init__(
        self,
        graph: Graph,
        measure: Measure | None,
        tune: Tune | None,
        evaluate: Evaluate | None,
        context: Context,
        progress: Progress | None,
        multiple: int,
        rewrites: tuple[Rewrite, ...],
    ) -> None:
        self.graph, self.context, self.rewrites = graph, context, rewrites
        self.measure, self.tune, self.evaluate = measure, tune, evaluate
        self.progress = progress or (lambda what, step, of: None)
        self.multiple = max(1, multiple)
        self.edits: list[Edit] = []
        self.refused: dict[tuple[str, tuple[str, ...]], Refused] = {}
        self.notes: list[str] = []
        self.taken: list[Rewrite] = []
        self.accuracy_before: float | None = None

    # exact

    def exact(self) -> Graph:
        """The network after every exact rewrite that is proved by its check and saves time."""
        current, waiting = self.graph, list[tuple[Rewrite, tuple[str, ...], Saving | None]]()
        for step, rewrite in enumerate(self.rewrites):
            self.progress(f"exact: {rewrite.summary}", step, len(self.rewrites))
            done = perform(rewrite, current, self.context)
            if done is None:
                continue
            applied, check = done
            if not check.ok:
                self.refuse(rewrite.name, applied.layers, f"its check failed: {check.reason}")
                continue
            saved = self.time(current, applied.graph)
            if saved is not None and not saved.real:
                waiting.append((rewrite, applied.layers, saved))
                continue
            self.accept(
                rewrite.name, rewrite.claim, applied.layers, current, applied.graph, saved, check, applied.found
            )
            self.taken.append(rewrite)
            current = applied.graph
        return self.together(current, waiting)

    def together(self, current: Graph, waiting: list[tuple[Rewrite, tuple[str, ...], Saving | None]]) -> Graph:
        """Edits whose saving drowned in noise one by one are tried once more all at once."""
        if len(waiting) > 1:
            joint, parts = current, list[tuple[Rewrite, Any, Check, Graph]]()
            for rewrite, _, _ in waiting:
                done = perform(rewrite, joint, self.context)
                if done is not None and done[1].ok:
                    parts.append((rewrite, done[0], done[1], joint))
                    joint = done[0].graph
            saved = self.time(current, joint)
            if parts and saved is not None and saved.real:
                names = "+".join(rewrite.name for rewrite, *_ in parts)
                layers = tuple(dict.fromkeys(name for _, applied, *_ in parts for name in applied.layers))
                found = "; ".join(applied.found for _, applied, *_ in parts)
                worst = max((check for _, _, check, _ in parts), key=lambda c: c.stored)
                self.accept(names, "exact", layers, current, joint, saved, worst, found)
                self.taken += [rewrite for rewrite, *_ in parts]
                return joint
        for rewrite, layers, saved in waiting:
            self.refuse(rewrite.name, layers, f"no time saved beyond noise: {saved}")
        return current

    def deploy(self, graph: Graph) -> Graph:
        """A network in the form in which it would be used: with the exact rewrites that were found to pay."""
        for rewrite in self.taken:
            done = rewrite.apply(graph, self.context)
            graph = done.graph if done is not None else graph
        return graph

    # lossy

    def lossy(self, exact: Graph, allowed: float, target: float | None) -> Graph | None:
        """The best network found with loss, trainable (batch norms unfolded); None when nothing was accepted."""
        assert self.evaluate is not None  # checked on entry
        self.progress("accuracy of the original", 0, 1)
        base = self.accuracy_before = self.evaluate(self.graph)
        whole = count(self.graph).total.macs
        current = self.graph
        for rewrite in self.taken:
            if rewrite.name not in UNTUNABLE:
                done = perform(rewrite, current, self.context)
                current = done[0].graph if done is not None and done[1].ok else current
        accepted = self.silence(current)
        current = accepted or current
        accepted = self.structures(current, base, allowed, target) or accepted
        current = accepted or current
        step, deaf = STEP, 0
        while step >= LEAST_STEP and deaf < 3:
            macs = count(current).total.macs
            if target is not None and macs <= target * whole:
                break
            goal = max(macs * (1 - step), (target or 0) * whole)
            self.progress(f"choosing channels: {macs / whole:.0%} of the multiplications left", len(self.edits), 0)
            candidate, used = self.compose(current, self.trials(current), goal)
            if candidate is None:
                break
            layers = tuple(dict.fromkeys(name for t in used for name in t.layers))
            verdict, tuned = self.attempt(CHANNELS, layers, current, candidate, base, allowed)
            if tuned is not None:
                current = accepted = tuned
                deaf = 0
            elif verdict == "slow":
                step, deaf = min(0.7, step * 1.5), deaf + 1
            else:
                step /= 2
        if target is not None and count(current).total.macs > target * whole * 1.0001:
            left = count(current).total.macs / whole
            self.notes.append(
                f"the target of {target:.0%} of the multiplications was not reached: {left:.0%} is the least "
                "that keeps within the accuracy asked and saves time; allow a larger drop, or tune longer"
            )
        return accepted

    def attempt(
        self, name: str, layers: tuple[str, ...], current: Graph, candidate: Graph, base: float, allowed: float,
        found: str = "",
    ) -> tuple[str, Graph | None]:  # fmt: skip
        """A lossy candidate timed, tuned and judged: ("taken", tuned), or why not ("slow", "lossy") and None.

        It is timed before tuning, which costs far more, in the form in which it would be used.
        """
        assert self.evaluate is not None
        old, whole = self.deploy(current), count(self.graph).total.macs
        saved = self.time(old, self.deploy(candidate))
        if saved is not None and not saved.real:
            self.refuse(name, layers, f"no time saved beyond noise: {saved}")
            return "slow", None
        self.progress(f"fine-tuning after {name}", len(self.edits), 0)
        tuned = self.tune(candidate, self.graph) if self.tune else candidate
        accuracy = self.evaluate(tuned)
        if not base - accuracy <= allowed + 1e-12:  # an accuracy of NaN is no accuracy
            left = count(candidate).total.macs / whole
            self.refuse(
                name, layers,
                f"{100 * (base - accuracy):.2f} points lost after tuning at {left:.0%} of the multiplications, "
                f"more than {100 * allowed:.2f}",
            )  # fmt: skip
            return "lossy", None
        check = {"accuracy_before": base, "accuracy_after": accuracy, "split": "selection", "tuned": bool(self.tune)}
        said = found or _removed(current, tuned)
        self.edits.append(_edit(name, "lossy", layers, old, self.deploy(tuned), saved, check, said))
        return "taken", tuned

    def structures(self, current: Graph, base: float, allowed: float, target: float | None) -> Graph | None:
        """Layers replaced by cheaper ones of another shape, the best of time saved to accuracy lost first.

        Each costs a tuning, so at most `STRUCTURES` are tried; what a layer has become is not replaced again.
        """
        assert self.evaluate is not None
        whole, accepted = count(self.graph).total.macs, None
        tried: set[tuple[str, tuple[str, ...]]] = set()
        touched: set[str] = set()
        for _ in range(STRUCTURES):
            if target is not None and count(current).total.macs <= target * whole:
                break
            self.progress("looking for cheaper forms of layers", len(self.edits), 0)
            options = [c for c in candidates(current, channels(current), self.context.samples)
                       if (c.rewrite, c.layers) not in tried and touched.isdisjoint(c.layers)]  # fmt: skip
            savings = self.time_all(self.deploy(current), [self.deploy(c.graph) for c in options])
            now = self.evaluate(current)
            ranked: list[tuple[float, Candidate]] = []
            for c, saved in zip(options, savings, strict=True):
                if saved is not None and saved.high <= 0:
                    self.refuse(c.rewrite, c.layers, f"no faster ({c.found}): {saved}")
                    tried.add((c.rewrite, c.layers))
                    continue
                gain = saved.ms if saved is not None else count(current).total.macs - count(c.graph).total.macs
                loss = max(0.0, now - self.evaluate(c.graph))
                if gain > 0:
                    ranked.append((gain / (loss + FLOOR), c))
            if not ranked:
                break
            best = max(ranked, key=lambda r: r[0])[1]
            tried.add((best.rewrite, best.layers))
            _, tuned = self.attempt(best.rewrite, best.layers, current, best.graph, base, allowed, best.found)
            if tuned is not None:
                current = accepted = tuned
                touched.update(best.layers)
        return accepted

    def silence(self, current: Graph) -> Graph | None:
        """The network without channels that no sample made speak, where that saves time; None when refused."""
        done = remove_silent(current, self.context.samples)
        if done is None:
            return None
        narrow, gone, tied, check = done
        layers, old, new = tied.layers(gone), self.deploy(current), self.deploy(narrow)
        saved = self.time(old, new)
        if not check["ok"]:
            self.refuse(SILENT, layers, "its check failed: outputs on the samples changed")
        elif saved is not None and not saved.real:
            self.refuse(SILENT, layers, f"no time saved beyond noise: {saved}")
        else:
            self.edits.append(_edit(SILENT, "bounded", layers, old, new, saved, check, _removed(current, narrow)))
            return narrow
        return None

    def trials(self, current: Graph) -> list[Trial]:
        """One candidate per bundle of channels: measured on the runtime, its loss estimated on the selection split."""
        assert self.evaluate is not None
        tied = channels(current)
        stats = moments(current, tied, self.context.samples)
        score = importance(current, tied, "activation", stats)
        macs = count(current).total.macs
        now = self.evaluate(current)
        graphs: list[Graph] = []
        chosen: list[tuple[tuple[str, ...], tuple[int, ...]]] = []
        for bundle in tied.bundles:
            number = self.snapped(bundle, score)
            classes = wish(tied, bundle, score, number) if number else ()
            layers = tied.layers(bundle)
            if not classes:
                self.refuse(CHANNELS, layers, "no channel can go: too few, or groups would become unequal")
                continue
            graphs.append(remove(current, tied, classes, stats))
            chosen.append((layers, classes))
        savings = self.time_all(self.deploy(current), [self.deploy(g) for g in graphs])
        trials: list[Trial] = []
        for narrow, (layers, classes), saved in zip(graphs, chosen, savings, strict=True):
            if saved is not None and saved.high <= 0:
                self.refuse(CHANNELS, layers, f"{len(classes)} channels less are no faster: {saved}")
                continue
            cheaper = macs - count(narrow).total.macs
            loss = max(0.0, now - self.evaluate(narrow))
            trials.append(Trial(layers, classes, cheaper, saved or saving([float(cheaper)], [0.0]), loss))
        return trials

    def snapped(self, bundle: Sequence[int], score: np.ndarray) -> int:
        """How many channels of a bundle a candidate removes: a quarter, or all that hardly matter if they are more.

        What stays is a multiple of `multiple` where that is possible.
        """
        size = len(bundle)
        own = score[list(bundle)]
        idle = int((own <= IDLE * own.mean()).sum())
        number = max(1, round(size * SHARE), idle)
        if size > self.multiple:
            left = (size - number) // self.multiple * self.multiple
            number = size - left if left else number
        return number if number < size else size - 1

    def compose(self, current: Graph, trials: list[Trial], goal: float) -> tuple[Graph | None, list[Trial]]:
        """Trials joined, best ratio of time saved to accuracy lost first, until the goal in multiplications is met."""
        tied = channels(current)
        stats = moments(current, tied, self.context.samples)
        order = sorted(trials, key=lambda t: -max(t.saved.ms, 1e-9) / (t.loss + FLOOR))
        used: list[Trial] = []
        gone: list[int] = []
        for trial in order:
            used.append(trial)
            gone += trial.classes
            if count(_cut_only(current, tied, gone)).total.macs <= goal:
                break
        fitting = tied.fit(gone)
        return (remove(current, tied, fitting, stats), used) if fitting else (None, [])

    # bookkeeping

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
        """The saving of each network against one, all timed in the same rounds."""
        if self.measure is None or not after:
            return [None] * len(after)
        times = self.measure([before, *after])
        return [saving(times[0], own) for own in times[1:]]

    def accept(
        self, name: str, claim: str, layers: tuple[str, ...], old: Graph, new: Graph, saved: Saving | None,
        check: Check, found: str,
    ) -> None:  # fmt: skip
        """Records an edit that was taken."""
        self.edits.append(_edit(name, claim, layers, old, new, saved, check.to_dict(), found))

    def refuse(self, name: str, layers: tuple[str, ...], reason: str) -> None:
        """Kept once per rewrite and layers: the last reason."""
        self.refused[(name, layers)] = Refused(name, layers, reason)

    def finish(self, exact: Graph, lossy: Graph | None) -> SlimResult:
        """The final network checked once more against the original, and the figures of both."""
        final = exact
        if lossy is not None:
            final = lossy
            for rewrite in self.taken:
                done = perform(rewrite, final, self.context)
                if done is not None and done[1].ok:
                    final = done[0].graph
        saved = self.time(self.graph, final) if final is not self.graph else None
        if saved is not None and saved.ms < 0 and not saved.real:
            self.notes.append(
                f"measured once more the result is no faster than the original ({saved}); the original stands"
            )
            final, self.edits = self.graph, []
        accuracy = self.evaluate(final) if self.evaluate is not None else None
        if self.accuracy_before is None and self.evaluate is not None:
            self.accuracy_before = self.evaluate(self.graph)
        if self.measure is None:
            self.notes.append(
                "time was not measured; edits were taken for the multiplications and parameters they save"
            )
        if not self.edits:
            self.notes.append("nothing was found that pays; the network is as it was")
        before_ms, after_ms = (saved.before_ms, saved.after_ms) if saved is not None else (None, None)
        certificate = self.certificate(final) if lossy is None else {}
        return SlimResult(
            final,
            figures(self.graph, self.accuracy_before, before_ms),
            figures(final, accuracy, before_ms if final is self.graph else after_ms),
            tuple(self.edits),
            tuple(self.refused.values()),
            self.context.seed,
            tuple(self.notes),
            certificate,
        )

    def certificate(self, final: Graph) -> dict[str, Any]:
        """Largest differences from the original network, relative to the largest output, in float64 and float32."""
        most = int(np.clip(2e9 / max(1, count(self.graph).total.macs), 1, 8))
        feeds = {"random": self.context.random(self.graph, most)}
        real = self.context.real(self.graph, most)
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


def _cut_only(graph: Graph, tied: ChannelMap, classes: Sequence[int]) -> Graph:
    """The shapes after a removal, for counting."""
    return cut(graph.replace(weights={}), tied.fit(classes))


def _removed(old: Graph, new: Graph) -> str:
    """Channels before and after, per layer that became narrower."""
    changes = [f"{n.name} {n.attrs['out']} to {new[n.name].attrs['out']}" for n in old.nodes
               if n.rule.channels in ("conv", "dense") and n.name in new.by_name
               and new[n.name].attrs["out"] < n.attrs["out"]]  # fmt: skip
    return "channels " + ", ".join(changes)


def _edit(
    name: str, claim: str, layers: tuple[str, ...], old: Graph, new: Graph, saved: Saving | None,
    check: Mapping[str, Any], found: str,
) -> Edit:  # fmt: skip
    before, after = count(old).total, count(new).total
    ms = saved.ms if saved is not None else None
    return Edit(name, claim, layers, before.params - after.params, before.macs - after.macs, ms, check, found)
