"""The front of loss against time: per set of tied channels how much to cut, whole branches of sums, the best first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dojang.arith.channels import ChannelMap
from dojang.arith.cost import count
from dojang.arith.cut import cut
from dojang.arith.graph import Graph
from dojang.slim.branches import BRANCHES, Branch, branches, without
from dojang.slim.estimate import Loss
from dojang.slim.importance import Moments, importance
from dojang.slim.ledger import Ledger
from dojang.slim.narrow import muted, remove, wish

CHANNELS = "remove-channels"

SHARES = (0.125, 0.25, 0.5)
"""Parts of a bundle's channels that are tried."""

IDLE = 0.01
"""A channel with less than this part of its bundle's mean importance hardly matters."""

FLOOR = 1e-4
"""Losses are not told apart below this: a change of the outputs by 1 %."""

TIMED = 6
"""Options that are timed in one round, at most: each must be compiled."""


@dataclass(frozen=True)
class Option:
    """Some classes of one bundle gone, or one branch of a sum: milliseconds saved (measured, or predicted and scaled)
    and the change of the outputs.
    """

    layers: tuple[str, ...]
    classes: tuple[int, ...]
    ms: float
    loss: float
    branch: Branch | None = None


@dataclass(frozen=True)
class Front:
    """What one network offers: per bundle, options in growing size, and per branch one. `ms_per_predicted` scales
    predictions.
    """

    graph: Graph
    tied: ChannelMap
    stats: Mapping[str, Moments]
    options: tuple[tuple[Option, ...], ...]
    loss: Loss
    ms_per_predicted: float

    def along(self) -> Iterator[list[Option]]:
        """Choices of one option per bundle, each saving more: the next is what saves most for what it loses."""
        level = [-1] * len(self.options)
        while True:
            steps = [(self._gain(own, at, n), b, n) for b, (own, at) in enumerate(zip(self.options, level, strict=True))
                     for n in range(at + 1, len(own))]  # fmt: skip
            if not steps:
                return
            _, b, n = max(steps, key=lambda s: (s[0], -s[1], -s[2]))
            level[b] = n
            yield [own[at] for own, at in zip(self.options, level, strict=True) if at >= 0]

    @staticmethod
    def _gain(own: Sequence[Option], at: int, n: int) -> float:
        ms, loss = (own[at].ms, own[at].loss) if at >= 0 else (0.0, 0.0)
        return max(own[n].ms - ms, 1e-12) / (max(own[n].loss - loss, 0.0) + FLOOR)

    def to_macs(self, goal: float) -> tuple[Graph | None, list[Option]]:
        """The narrower network with at most `goal` multiplications, or the least that options give; what was used."""
        used: list[Option] = []
        bare = self.graph.replace(weights={})
        for chosen in self.along():
            used = chosen
            narrow = cut(bare, self.tied.fit(_classes(chosen)))
            if count(without(narrow, _branches(chosen))).total.macs <= goal:
                break
        return self._made(used), used

    def saving(self, ms: float) -> Graph | None:
        """The narrower network that is to save so many milliseconds; None where options do not give as much."""
        for chosen in self.along():
            if sum(o.ms for o in chosen) >= ms:
                return self._made(chosen)
        return None

    def _made(self, used: Sequence[Option]) -> Graph | None:
        fitting, gone = self.tied.fit(_classes(used)), _branches(used)
        if not fitting and not gone:
            return None
        narrow = remove(self.graph, self.tied, fitting, self.stats) if fitting else self.graph
        return without(narrow, gone)


def name_of(used: Sequence[Option]) -> str:
    """What an edit made of these options is called."""
    kinds = dict.fromkeys(CHANNELS if option.branch is None else BRANCHES for option in used)
    return "+".join(sorted(kinds, reverse=True))


def _branches(options: Sequence[Option]) -> list[Branch]:
    return [option.branch for option in options if option.branch is not None]


def _classes(options: Sequence[Option]) -> list[int]:
    return [c for option in options for c in option.classes]


def front(ledger: Ledger, graph: Graph, tied: ChannelMap, stats: Mapping[str, Moments]) -> Front:
    """Every bundle's and branch's options: loss estimated on samples, saving predicted, the most promising timed.

    One whose timed option is no faster is left out, with the reason; a timed one sets the scale for its others.
    """
    loss = Loss(graph, ledger.context.samples)
    score = importance(graph, tied, "activation", stats)
    whole = ledger.predict(graph)
    offered: list[tuple[Option, ...]] = []
    graphs: list[Graph] = []
    for bundle in tied.bundles:
        own: list[Option] = []
        for number in numbers(bundle, score, ledger.multiple):
            classes = wish(tied, bundle, score, number)
            if not classes or (own and len(classes) <= len(own[-1].classes)):
                continue
            narrow = remove(graph, tied, classes, stats)
            if not own:
                graphs.append(narrow)
            own.append(Option(tied.layers(bundle), classes, whole - ledger.predict(narrow),
                              loss.of(muted(graph, tied, classes, stats))))  # fmt: skip
        if own:
            offered.append(tuple(own))
        else:
            reason = "no channel can go: too few, or groups would become unequal"
            ledger.refuse(CHANNELS, tied.layers(bundle), reason)
    for branch in branches(graph):
        shorter = without(graph, (branch,))
        graphs.append(shorter)
        offered.append((Option(branch.layers, (), whole - ledger.predict(shorter), loss.of(shorter), branch),))
    offered, scale = _timed(ledger, graph, graphs, offered, whole)
    return Front(graph, tied, stats, tuple(offered), loss, scale)


def _timed(
    ledger: Ledger, graph: Graph, graphs: Sequence[Graph], offered: list[tuple[Option, ...]], whole: float
) -> tuple[list[tuple[Option, ...]], float]:
    """The options with savings in milliseconds as measured, and milliseconds per predicted millisecond."""
    order = sorted(range(len(offered)), key=lambda b: -Front._gain(offered[b], -1, 0))[:TIMED]
    savings = ledger.time_all(ledger.deploy(graph), [ledger.deploy(graphs[b]) for b in order])
    found = dict(zip(order, savings, strict=True))
    scale = next((s.before_ms / whole for s in savings if s is not None and whole > 0), 1.0)
    out: list[tuple[Option, ...]] = []
    for b, own in enumerate(offered):
        saved = found.get(b)
        if saved is not None and saved.high <= 0:
            less = "this branch less is" if own[0].branch else f"{len(own[0].classes)} channels less are"
            ledger.refuse(name_of(own), own[0].layers, f"{less} no faster: {saved}")
            continue
        factor = scale
        if saved is not None and saved.real and own[0].ms > 0:
            factor = float(np.clip(saved.ms / own[0].ms, scale / 4, scale * 4))
        out.append(tuple(replace(option, ms=option.ms * factor) for option in own))
    return out, scale


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
