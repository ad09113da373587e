"""The front of loss against time: per set of tied channels how much to cut, whole branches of sums, the best first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from dojang.arith.cost import count
from dojang.arith.cut import cut
from dojang.arith.graph import Graph
from dojang.evidence.activations import Statistics
from dojang.evidence.evidence import Evidence
from dojang.evidence.finding import CHANNEL_KINDS
from dojang.slimming.branches import BRANCHES, Branch, branches, without
from dojang.slimming.estimate import OutputChange
from dojang.slimming.importance import importance, read_statistics
from dojang.slimming.ledger import CLASS_LOST, Ledger
from dojang.slimming.narrow import least_useful, muted, remove
from dojang.slimming.numbering import channels_of

CHANNELS = "remove-channels"

SHARES = (0.125, 0.25, 0.5, 0.75)
"""Parts of a bundle's channels that are tried."""

IDLE = 0.01
"""A channel with less than this part of its bundle's mean importance hardly matters."""

FLOOR = 1e-4
"""Losses are not told apart below this: a change of the outputs by 1 %."""


def cost(moved: float) -> float:
    """What a change of the outputs counts as, so that the costs of several cuts add up: m / (1 − m / 2).

    The change itself grows ever more slowly, and is 2 where the new outputs have nothing to do with the old: the last
    channels of one layer would seem to cost less than the first ones of another.

    >>> cost(0.0), cost(1.0)
    (0.0, 2.0)
    """
    return moved / max(1 - moved / 2, 0.05)


TIMED = 6
"""Options that are timed in one round, at most: each must be compiled."""

TIMED_MACS = 2e9
"""Small networks compile soon: as many options are timed as these multiplications make networks, at most `MOST_TIMED`.
Predictions are not good enough to choose by: for ResNet-20 on an AVX-512 machine (November 2026) they saw half of what
narrower layers save at 8×8 pixels, and savings at 32×32 that the clock did not."""

MOST_TIMED = 64


@dataclass(frozen=True)
class FrontOption:
    """Some classes of one bundle gone, or one branch of a sum: milliseconds saved (measured, or predicted and scaled),
    the change of the outputs, and multiplications saved. `sort`: layers of the same sort are of the same operators and
    kernels, whatever their widths and places.
    """

    layers: tuple[str, ...]
    classes: tuple[int, ...]
    ms: float
    loss: float
    macs: int = 0
    branch: Branch | None = None
    sort: str = ""


@dataclass(frozen=True)
class Front:
    """What one network offers: per bundle, options in growing size, and per branch one. `ms_per_predicted` scales
    predictions; `macs` and `ms`: what the network takes as it is.
    """

    known: Evidence
    options: tuple[tuple[FrontOption, ...], ...]
    loss: OutputChange
    ms_per_predicted: float
    macs: int
    ms: float

    @property
    def graph(self) -> Graph:
        """The network."""
        return self.known.graph

    @property
    def stats(self) -> Mapping[str, Statistics]:
        """What its layers read, on the samples."""
        return read_statistics(self.known)

    def along(self, macs: float = 0.0, clocked: float = 1.0, by_sort: bool = False) -> Iterator[list[FrontOption]]:
        """Choices of one option per bundle, each saving more: the next is what saves most for what it loses.

        What it saves is the part of the time times `clocked`, and the part of the multiplications times what is left to
        1, while more than `macs` of these remain; then it is time. `by_sort`: layers are held against layers of their
        own sort only, and of every sort the same part goes (isomorphic pruning; Fang et al., ECCV 2024, section 3.2).
        """
        level, left = [-1] * len(self.options), float(self.macs)
        while True:
            share = clocked if left > macs else 1.0
            steps = [(self._gain(own, at, n, share), b, n)
                     for b, (own, at) in enumerate(zip(self.options, level, strict=True))
                     for n in range(at + 1, len(own))]  # fmt: skip
            if not steps:
                return
            if by_sort:
                gone = self._gone_by_sort(level)
                least = min(gone[self.options[b][0].sort] for _, b, _ in steps)
                steps = [step for step in steps if gone[self.options[step[1]][0].sort] <= least]
            _, b, n = max(steps, key=lambda s: (s[0], -s[1], -s[2]))
            level[b] = n
            chosen = [own[at] for own, at in zip(self.options, level, strict=True) if at >= 0]
            left = self.macs - sum(option.macs for option in chosen)
            yield chosen

    def _gone_by_sort(self, level: Sequence[int]) -> dict[str, float]:
        """The part of the steps that has been taken of each sort of layers."""
        taken: dict[str, list[float]] = {}
        for own, at in zip(self.options, level, strict=True):
            taken.setdefault(own[0].sort, []).append((at + 1) / len(own))
        return {sort: sum(parts) / len(parts) for sort, parts in taken.items()}

    def _gain(self, own: Sequence[FrontOption], at: int, n: int, clocked: float = 1.0) -> float:
        ms, loss, macs = (own[at].ms, own[at].loss, own[at].macs) if at >= 0 else (0.0, 0.0, 0)
        saved = clocked * (own[n].ms - ms) / (self.ms or 1.0)
        saved += (1 - clocked) * (own[n].macs - macs) / max(1, self.macs)
        return max(saved, 1e-12) / (max(cost(own[n].loss) - cost(loss), 0.0) + FLOOR)

    def to(
        self, fits: Callable[[Graph], bool], macs: float = 0.0, clocked: float = 1.0, by_sort: bool = False
    ) -> tuple[Graph | None, list[FrontOption]]:
        """The first network along the way that `fits`, less what it can do without, or the least that options give;
        and what was used. `macs`, `clocked`, `by_sort`: as `along` has them. `fits` is asked about networks without
        weights, and is taken to be true of whatever is narrower than one of which it is.
        """
        path = list(self.along(macs, clocked, by_sort))
        if not path:
            return None, []
        low, high = 0, len(path) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(self._bare(path[middle])) else (middle + 1, high)
        used = path[low]
        if fits(self._bare(used)):
            used = self._trimmed(used, fits)
        return self._made(used), used

    def _bare(self, used: Sequence[FrontOption]) -> Graph:
        """The shapes that these options leave."""
        bare, fitting = self.graph.replace(weights={}), self.known.channels.fit(_classes(used))
        return without(cut(bare, fitting) if fitting else bare, _branches(used))

    def _trimmed(self, chosen: list[FrontOption], fits: Callable[[Graph], bool]) -> list[FrontOption]:
        """The choice with less of it where it fits still: the last step may have gone too far.

        What lost most for what it saves is given back first, as far as it can be.
        """
        ladders = {id(option): own for own in self.options for option in own}
        kept = list(chosen)
        for option in sorted(chosen, key=lambda o: self._gain([o], -1, 0)):
            own = ladders[id(option)]
            for less in ((), *((one,) for one in own[: own.index(option)])):
                tried = [one for kept_one in kept for one in (less if kept_one is option else (kept_one,))]
                if fits(self._bare(tried)):
                    kept = tried
                    break
        return kept

    def _made(self, used: Sequence[FrontOption]) -> Graph | None:
        tied = self.known.channels
        fitting, gone = tied.fit(_classes(used)), _branches(used)
        if not fitting and not gone:
            return None
        narrow = remove(self.graph, tied, fitting, self.stats) if fitting else self.graph
        return without(narrow, gone)


def name_of(used: Sequence[FrontOption]) -> str:
    """What an edit made of these options is called."""
    kinds = dict.fromkeys(CHANNELS if option.branch is None else BRANCHES for option in used)
    return "+".join(sorted(kinds, reverse=True))


def _branches(options: Sequence[FrontOption]) -> list[Branch]:
    return [option.branch for option in options if option.branch is not None]


def _classes(options: Sequence[FrontOption]) -> list[int]:
    return [c for option in options for c in option.classes]


def front(ledger: Ledger, known: Evidence, proved: bool = False) -> Front:
    """Every bundle's and branch's options: loss estimated on samples, saving predicted, the most promising timed.

    The smallest options are timed first, then the larger ones. One that is no faster is left out, with the reason; a
    timed one sets the scale for the larger ones of its bundle that were not timed. `proved`: those that may be faster
    are left out as well, for searches that want both multiplications and time to fall.
    """
    loss = OutputChange(known.graph, known.finite_samples)
    guess, makers = _guessed(ledger, known, loss)
    return _timed(ledger, guess, makers, proved)


Makers = Sequence[Sequence[Callable[[], Graph]]]


def _guessed(ledger: Ledger, known: Evidence, loss: OutputChange) -> tuple[Front, Makers]:
    """The front of a network with times as they are predicted, and what makes the network of each option.

    Losses are measured after the short repair: least squares, and batch norms measured anew.
    """
    graph, tied, stats = known.graph, known.channels, read_statistics(known)
    score = importance(graph, tied, ledger.importance, stats, ledger.gradients)
    whole, macs = ledger.predict(graph), count(graph).total.macs
    offered: list[tuple[FrontOption, ...]] = []
    makers: list[list[Callable[[], Graph]]] = []
    for bundle in tied.bundles:
        own, made = list[FrontOption](), list[Callable[[], Graph]]()
        for number in numbers(bundle, score, ledger.multiple):
            classes = least_useful(tied, bundle, score, number)
            if not classes or (own and len(classes) <= len(own[-1].classes)):
                continue
            made.append(partial(cut, graph, classes))
            narrow = cut(graph, classes)
            moved = loss.of(muted(graph, tied, classes, stats))
            less, layers = macs - count(narrow).total.macs, tied.layers(bundle)
            own.append(FrontOption(layers, classes, whole - ledger.predict(narrow), moved, less,
                                   sort=sort_of(graph, layers)))  # fmt: skip
        if own:
            offered.append(tuple(own))
            makers.append(made)
        else:
            reason = "no channel can go: there are too few, or groups would become unequal"
            ledger.refuse(CHANNELS, tied.layers(bundle), reason, CHANNEL_KINDS, channels_of(tied, bundle))
    for branch in branches(graph):
        shorter = without(graph, (branch,))
        if not ledger.allowed(shorter):
            ledger.refuse(BRANCHES, branch.layers, CLASS_LOST)
            continue
        makers.append([partial(without, graph, (branch,))])
        moved, less = loss.of(shorter), macs - count(shorter).total.macs
        sort = f"branch {sort_of(graph, branch.layers)}"
        option = FrontOption(branch.layers, (), whole - ledger.predict(shorter), moved, less, branch, sort)
        offered.append((option,))
    return Front(known, tuple(offered), loss, 1.0, macs, whole), makers


def sort_of(graph: Graph, layers: Sequence[str]) -> str:
    """Operators and kernels of some layers: those of the same sort are isomorphic.

    >>> from dojang.formats import zoo
    >>> sort_of(zoo.load("resnet20-cifar10"), ["layer1.0.conv1"])
    'conv 3x3'
    """
    kernels = ["x".join(map(str, graph[name].attrs.get("kernel", ()))) for name in layers]
    own = [f"{graph[name].op} {kernel}".strip() for name, kernel in zip(layers, kernels, strict=True)]
    return ", ".join(sorted(own))


def _timed(ledger: Ledger, guess: Front, makers: Makers, proved: bool) -> Front:
    """A front with savings in milliseconds as measured in place of predictions."""
    whole, offered = guess.ms, guess.options
    most = int(np.clip(TIMED_MACS / max(1, guess.macs), TIMED, MOST_TIMED))
    if ledger.budget is not None and ledger.measure is not None:
        measure = ledger.measure
        most = ledger.budget.timings(lambda: measure([guess.graph, guess.graph]), TIMED, most)
    places = [(b, n) for b, own in enumerate(offered) for n in range(len(own))]
    order = sorted(places, key=lambda p: (p[1] > 0, -guess._gain(offered[p[0]], -1, p[1])))[:most]
    savings = ledger.time_all(ledger.deploy(guess.graph), [ledger.deploy(makers[b][n]()) for b, n in order])
    found = {place: saved for place, saved in zip(order, savings, strict=True) if saved is not None}
    now = next((s.before_ms for s in found.values()), whole)
    scale = now / whole if whole > 0 else 1.0
    out: list[tuple[FrontOption, ...]] = []
    for b, own in enumerate(offered):
        kept: list[FrontOption] = []
        factor = scale
        for n, option in enumerate(own):
            saved = found.get((b, n))
            if saved is None:
                kept.append(replace(option, ms=option.ms * factor))
            elif saved.real or (saved.high > 0 and not proved):
                if saved.real and option.ms > 0:
                    factor = float(np.clip(saved.ms / option.ms, scale / 4, scale * 4))
                kept.append(replace(option, ms=max(saved.ms, 0.0)))
            else:
                less = "this branch" if option.branch else f"{len(option.classes)} of its channels"
                what = str(saved) if saved.slower else f"no faster beyond noise; time saved: {saved}"
                channels = channels_of(guess.known.channels, option.classes)
                reason = f"without {less} the network is {what}"
                ledger.refuse(name_of(own), option.layers, reason, CHANNEL_KINDS, channels)
        if kept:
            out.append(tuple(kept))
    return replace(guess, options=tuple(out), ms_per_predicted=scale, ms=now)


def numbers(bundle: Sequence[int], score: np.ndarray, multiple: int) -> list[int]:
    """How many channels of a bundle to try to remove: `SHARES` of them, and all that hardly matter.

    What stays is a multiple of `multiple` where that is possible, and at least one channel.
    """
    size = len(bundle)
    own = score[list(bundle)]
    idle = int((own <= IDLE * own.mean()).sum())
    found: set[int] = set()
    for number in (*(max(1, round(size * share)) for share in SHARES), idle):
        if size > multiple and (left := (size - number) // multiple * multiple):
            number = size - left
        found.add(min(number, size - 1))
    return sorted(n for n in found if n > 0)
