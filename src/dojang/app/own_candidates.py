"""Candidates of one step of a slimming by somebody's own loop: the module without blocks and with fewer channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dojang.app.blocks import DroppableBlock, dropped, followed, paths
from dojang.app.progress import ProgressDisplay
from dojang.app.shortening import (
    LARGE,
    NORMED,
    WATCHED_MACS,
    Norms,
    Own,
    Shortened,
    Shortener,
    compared,
    kept_layers,
    some,
)
from dojang.arith.channels import channels
from dojang.arith.cost import count
from dojang.slimming.halving import by_turns
from dojang.slimming.oneshot import RANKINGS, Ranking

BASES = 4
"""Networks without blocks from which channels go, at most, beside the one with all blocks."""

ORDERED = 128
"""Samples on which batch norms are measured while blocks are held against each other."""


@dataclass
class Candidates:
    """Makes candidates of one original. `reference`: its answers on the samples that candidates are compared on."""

    original: Own
    shortener: Shortener
    told: ProgressDisplay
    reference: list[np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        self.reference = answers_of(self.original)

    def made(self, now: Own, macs: float) -> list[Shortened]:
        """Candidates of at most so many multiplications, those that move the outputs least first."""
        large = count(self.original.graph).total.macs > LARGE
        rankings: list[Ranking] = list(RANKINGS)[: 2 if large else None]
        found = self.shortener.to(now, macs, rankings, self.reference)
        for gone, base in self.bases(now, macs):
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

    def bases(self, now: Own, macs: float) -> list[tuple[tuple[DroppableBlock, ...], Own]]:
        """The module without some of its residual blocks, in several numbers, norms set."""
        if now.plain and not self.original.plain:
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
        return [(gone, whole.without_blocks(followed(dropped(now, gone)), every)) for gone in sets]


def answers_of(own: Own) -> list[np.ndarray]:
    """What a module answers on the samples that candidates are compared on."""
    from dojang.training.observed import answers

    return answers(own.module, compared(own))


def varied(made: Sequence[Shortened], number: int) -> list[Shortened]:
    """At most so many: the best of every structure, then the second of each, and so on."""
    return by_turns(made, lambda one: one.without)[:number]
