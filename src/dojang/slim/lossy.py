"""Cuts with loss: silent channels, layers in cheaper forms, then channels on the front of loss against time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dojang.arith.channels import ChannelMap, channels
from dojang.arith.cost import count
from dojang.arith.cut import cut
from dojang.arith.errors import DataError
from dojang.arith.graph import Graph
from dojang.engine.session import Session
from dojang.slim.importance import Moments, importance, moments
from dojang.slim.ledger import Ledger, edit_of
from dojang.slim.narrow import remove, wish
from dojang.slim.rewrite import perform
from dojang.slim.silent import NAME as SILENT
from dojang.slim.silent import remove_silent
from dojang.slim.structural import Candidate, candidates
from dojang.slim.timing import Saving, saving

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

TIMED = 8
"""Replacements that are timed in one round, at most: each must be compiled."""

STRUCTURES = 3
"""Replacements of layers that are tuned and judged at most."""


@dataclass(frozen=True)
class Trial:
    """Candidate removal of some channels of one bundle: what it saves, measured, and what it loses, estimated."""

    layers: tuple[str, ...]
    classes: tuple[int, ...]
    macs_saved: int
    saved: Saving
    loss: float


class Lossy:
    """The lossy part of one search over a ledger; `untunable` names exact rewrites that wait until after tuning."""

    def __init__(self, ledger: Ledger, untunable: frozenset[str]) -> None:
        """Nothing is cut yet."""
        self.ledger, self.untunable = ledger, untunable

    def run(self, allowed: float, target: float | None) -> Graph | None:
        """The best network found with loss, trainable (batch norms unfolded); None when nothing was accepted."""
        assert self.ledger.evaluate is not None  # checked on entry
        self.ledger.progress("accuracy of the original", 0, 1)
        base = self.ledger.accuracy_before = self.ledger.evaluate(self.ledger.graph)
        whole = count(self.ledger.graph).total.macs
        current = self.ledger.graph
        for rewrite in self.ledger.taken:
            if rewrite.name not in self.untunable:
                done = perform(rewrite, current, self.ledger.context)
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
            self.ledger.progress(
                f"choosing channels: {macs / whole:.0%} of the multiplications left", len(self.ledger.edits), 0
            )
            tied = channels(current)
            stats = moments(current, tied, self.ledger.context.samples)
            candidate, used = self.compose(current, tied, stats, self.trials(current, tied, stats), goal)
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
            self.ledger.notes.append(
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
        assert self.ledger.evaluate is not None
        old, whole = self.ledger.deploy(current), count(self.ledger.graph).total.macs
        saved = self.ledger.time(old, self.ledger.deploy(candidate))
        if saved is not None and not saved.real:
            self.ledger.refuse(name, layers, f"no time saved beyond noise: {saved}")
            return "slow", None
        self.ledger.progress(f"fine-tuning after {name}", len(self.ledger.edits), 0)
        try:
            tuned = self.ledger.tune(candidate, self.ledger.graph) if self.ledger.tune else candidate
            accuracy = self.ledger.evaluate(tuned)
        except DataError as error:  # NaN on the way: what was accepted before still stands
            self.ledger.refuse(name, layers, f"fine-tuning failed: {error}")
            return "lossy", None
        if not base - accuracy <= allowed + 1e-12:  # an accuracy of NaN is no accuracy
            left = count(candidate).total.macs / whole
            self.ledger.refuse(
                name, layers,
                f"{100 * (base - accuracy):.2f} points lost after tuning at {left:.0%} of the multiplications, "
                f"more than {100 * allowed:.2f}",
            )  # fmt: skip
            return "lossy", None
        check = {
            "accuracy_before": base,
            "accuracy_after": accuracy,
            "split": "selection",
            "tuned": bool(self.ledger.tune),
        }
        said = found or _removed(current, tuned)
        self.ledger.edits.append(edit_of(name, "lossy", layers, old, self.ledger.deploy(tuned), saved, check, said))
        return "taken", tuned

    def structures(self, current: Graph, base: float, allowed: float, target: float | None) -> Graph | None:
        """Layers replaced by cheaper ones of another shape, the best of time saved to accuracy lost first.

        Each costs a tuning, so at most `STRUCTURES` are tried; what a layer has become is not replaced again.
        """
        assert self.ledger.evaluate is not None
        whole, accepted = count(self.ledger.graph).total.macs, None
        tried: set[tuple[str, tuple[str, ...], str]] = set()
        touched: set[str] = set()
        for _ in range(STRUCTURES):
            if target is not None and count(current).total.macs <= target * whole:
                break
            self.ledger.progress("looking for cheaper forms of layers", len(self.ledger.edits), 0)
            options = [c for c in candidates(current, channels(current), self.ledger.context.samples)
                       if (c.rewrite, c.layers, c.found) not in tried and touched.isdisjoint(c.layers)]  # fmt: skip
            options = self.promising(current, options)
            savings = self.ledger.time_all(self.ledger.deploy(current), [self.ledger.deploy(c.graph) for c in options])
            now = self.ledger.evaluate(current)
            ranked: list[tuple[float, Candidate]] = []
            for c, saved in zip(options, savings, strict=True):
                if saved is not None and saved.high <= 0:
                    self.ledger.refuse(c.rewrite, c.layers, f"no faster ({c.found}): {saved}")
                    tried.add((c.rewrite, c.layers, c.found))
                    continue
                gain = saved.ms if saved is not None else count(current).total.macs - count(c.graph).total.macs
                loss = max(0.0, now - self.ledger.evaluate(c.graph))
                if gain > 0:
                    ranked.append((gain / (loss + FLOOR), c))
            if not ranked:
                break
            best = max(ranked, key=lambda r: r[0])[1]
            tried.add((best.rewrite, best.layers, best.found))
            _, tuned = self.attempt(best.rewrite, best.layers, current, best.graph, base, allowed, best.found)
            if tuned is not None:
                touched.update(best.layers, {n.name for n in tuned.nodes} - {n.name for n in current.nodes})
                current = accepted = tuned
        return accepted

    def promising(self, current: Graph, options: list[Candidate]) -> list[Candidate]:
        """The few that are worth timing: most multiplications saved for the change of outputs on some samples."""
        if len(options) <= TIMED:
            return options
        samples = self.ledger.context.samples
        assert samples is not None  # checked on entry
        x = {k: v[:64] for k, v in samples.items()} if isinstance(samples, Mapping) else samples[:64]
        wanted = Session(current).run(x).outputs
        whole = count(current).total.macs
        size = sum(float(np.abs(o).mean()) for o in wanted) or 1.0

        def worth(c: Candidate) -> float:
            change = sum(
                float(np.abs(a - b).mean()) for a, b in zip(wanted, Session(c.graph).run(x).outputs, strict=True)
            )
            return (whole - count(c.graph).total.macs) / whole / (change / size + 0.05)

        return sorted(options, key=worth, reverse=True)[:TIMED]

    def silence(self, current: Graph) -> Graph | None:
        """The network without channels that no sample made speak, where that saves time; None when refused."""
        done = remove_silent(current, self.ledger.context.samples)
        if done is None:
            return None
        narrow, gone, tied, check = done
        layers, old, new = tied.layers(gone), self.ledger.deploy(current), self.ledger.deploy(narrow)
        saved = self.ledger.time(old, new)
        if not check["ok"]:
            self.ledger.refuse(SILENT, layers, "its check failed: outputs on the samples changed")
        elif saved is not None and not saved.real:
            self.ledger.refuse(SILENT, layers, f"no time saved beyond noise: {saved}")
        else:
            self.ledger.edits.append(
                edit_of(SILENT, "bounded", layers, old, new, saved, check, _removed(current, narrow))
            )
            return narrow
        return None

    def trials(self, current: Graph, tied: ChannelMap, stats: Mapping[str, Moments]) -> list[Trial]:
        """One candidate per bundle of channels: measured on the runtime, its loss estimated on the selection split."""
        assert self.ledger.evaluate is not None
        score = importance(current, tied, "activation", stats)
        macs = count(current).total.macs
        now = self.ledger.evaluate(current)
        graphs: list[Graph] = []
        chosen: list[tuple[tuple[str, ...], tuple[int, ...]]] = []
        for bundle in tied.bundles:
            number = self.snapped(bundle, score)
            classes = wish(tied, bundle, score, number) if number else ()
            layers = tied.layers(bundle)
            if not classes:
                self.ledger.refuse(CHANNELS, layers, "no channel can go: too few, or groups would become unequal")
                continue
            graphs.append(remove(current, tied, classes, stats))
            chosen.append((layers, classes))
        savings = self.ledger.time_all(self.ledger.deploy(current), [self.ledger.deploy(g) for g in graphs])
        trials: list[Trial] = []
        for narrow, (layers, classes), saved in zip(graphs, chosen, savings, strict=True):
            if saved is not None and saved.high <= 0:
                self.ledger.refuse(CHANNELS, layers, f"{len(classes)} channels less are no faster: {saved}")
                continue
            cheaper = macs - count(narrow).total.macs
            loss = max(0.0, now - self.ledger.evaluate(narrow))
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
        if size > self.ledger.multiple:
            left = (size - number) // self.ledger.multiple * self.ledger.multiple
            number = size - left if left else number
        return number if number < size else size - 1

    def compose(
        self, current: Graph, tied: ChannelMap, stats: Mapping[str, Moments], trials: list[Trial], goal: float
    ) -> tuple[Graph | None, list[Trial]]:
        """Trials joined, best ratio of time saved to accuracy lost first, until the goal in multiplications is met."""
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


def _cut_only(graph: Graph, tied: ChannelMap, classes: Sequence[int]) -> Graph:
    """The shapes after a removal, for counting."""
    return cut(graph.replace(weights={}), tied.fit(classes))


def _removed(old: Graph, new: Graph) -> str:
    """Channels before and after, per layer that became narrower."""
    changes = [f"{n.name} {n.attrs['out']} to {new[n.name].attrs['out']}" for n in old.nodes
               if n.rule.channels in ("conv", "dense") and n.name in new.by_name
               and new[n.name].attrs["out"] < n.attrs["out"]]  # fmt: skip
    return "channels " + ", ".join(changes)
