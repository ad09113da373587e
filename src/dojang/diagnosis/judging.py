"""Which layers are judged, at which values, and how many statements about the samples have to hold together.

Layers that share their weights are judged together, by all of their uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from dojang.evidence.activations import layers
from dojang.evidence.evidence import Evidence
from dojang.evidence.following import Verdict, together

WIDEST = 4096
"""Pairs of channels of a layer with more channels than this are not compared: their number grows with the square."""


@dataclass(frozen=True)
class Judging:
    """The layers of one network as they are judged; layers that share their weights are judged together."""

    known: Evidence

    @cached_property
    def uses(self) -> dict[str, tuple[str, ...]]:
        """By the first of the layers that share a weight all of them, by a layer with weights of its own itself."""
        found: dict[str, list[str]] = {}
        for node in layers(self.known.graph):
            if self.known.channels.tracks[node.name] is not None:
                found.setdefault(node.array("weight"), []).append(node.name)
        return {names[0]: tuple(names) for names in found.values()}

    @cached_property
    def ends(self) -> dict[str, tuple[str, ...]]:
        """For each layer the values where its channels are read or joined, of all its uses."""
        ends = self.known.following.ends
        return {name: tuple(e for use in own for e in ends(use)) for name, own in self.uses.items()}

    @cached_property
    def compared(self) -> dict[str, tuple[str, ...]]:
        """As `ends`, of the layers that are not too wide for their channels to be compared with each other."""
        return {name: own for name, own in self.ends.items() if (self.known.following.size(name) or 0) <= WIDEST}

    @cached_property
    def statements(self) -> int:
        """How many things could be said of the samples: of each channel that it is 0, or constant, and of each pair of
        a layer's channels that they move together. All that are said hold at once with the confidence that is stated.
        """
        sizes = {name: self.known.following.size(name) or 0 for name in self.ends}
        return sum(2 * c for c in sizes.values()) + sum(sizes[n] * (sizes[n] - 1) // 2 for n in self.compared)

    def verdicts(self, found: Mapping[str, Verdict | None]) -> dict[str, Verdict]:
        """By layer what becomes of its channels, in all of its uses; `found` is what `Following.judged` gives."""
        return {
            name: together([v for use in own if (v := found[use]) is not None])
            for name, own in self.uses.items()
        }  # fmt: skip

    def said_uses(self, name: str) -> str:
        """For layers that share their weights: that all of them were looked at."""
        own = self.uses[name]
        return f" (in all {len(own)} uses of the layer: {', '.join(own)})" if len(own) > 1 else ""

    def said_norms(self, name: str, places: Sequence[str]) -> str:
        """For channels that are judged behind a norm with statistics over several: that these need the channels."""
        norms = dict.fromkeys(n for use in self.uses[name] for n in self.known.following.mixed(use, places))
        if not norms:
            return ""
        return f"; before that they enter the statistics of {', '.join(norms)}, and so the other channels there"
