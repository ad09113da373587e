"""Channels of the network of today in the numbers of the network as it was read, in which findings name them.

Every edit renumbers the channels of the layers that it narrows; so the search keeps, for each layer, the original
numbers of the channels that are left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dojang.arith.channels import ChannelMap
from dojang.arith.graph import Graph
from dojang.evidence.activations import layers
from dojang.slimming.result import Channels


def channels_of(tied: ChannelMap, classes: Iterable[int]) -> dict[str, tuple[int, ...]]:
    """The output channels of layers that go with these classes, by layer."""
    wanted = {node.name for node in layers(tied.graph)}
    found: dict[str, set[int]] = {}
    for c in classes:
        for name, channel in tied.members[c]:
            if name in wanted:
                found.setdefault(name, set()).add(channel)
    return {name: tuple(sorted(own)) for name, own in found.items()}


def all_channels(graph: Graph, names: Iterable[str] | None = None) -> dict[str, tuple[int, ...]]:
    """Every output channel of these layers (of all), by layer."""
    wanted = None if names is None else set(names)
    return {n.name: tuple(range(n.attrs["out"])) for n in layers(graph) if wanted is None or n.name in wanted}


def removed(old: Graph, new: Graph, channels: Channels) -> dict[str, tuple[int, ...]]:
    """These channels, and all channels of layers that are not in the new network any more."""
    return {**channels, **all_channels(old, {n.name for n in old.nodes} - {n.name for n in new.nodes})}


class Numbering:
    """The original numbers of the channels that each layer still has. Layers that edits have put in are not in it."""

    def __init__(self, left: Mapping[str, tuple[int, ...]]) -> None:
        """`left`: by layer, in the order of its output channels."""
        self.left = dict(left)

    @classmethod
    def of(cls, graph: Graph) -> Numbering:
        """That of the network as it was read."""
        return cls(all_channels(graph))

    def original(self, channels: Channels) -> dict[str, tuple[int, ...]]:
        """Channels of the network of today in the numbers of the original; none for layers that it did not have."""
        return {name: tuple(self.left[name][i] for i in own) for name, own in channels.items() if name in self.left}

    def without(self, channels: Channels) -> Numbering:
        """After these channels (of the network of today) are gone."""
        return Numbering({name: tuple(c for i, c in enumerate(own) if i not in set(channels.get(name, ())))
                          for name, own in self.left.items()})  # fmt: skip

    def reordered(self, order: Channels) -> Numbering:
        """After the channels of these layers were put in another order (new place -> old place)."""
        moved = {name: tuple(self.left[name][i] for i in own) for name, own in order.items() if name in self.left}
        return Numbering({**self.left, **moved})
