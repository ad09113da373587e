"""Groups in a row that one kernel can compute band by band (`kernels/bands.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dojang.engine.fuse import Fused, Group

POOLS = ("maxpool", "avgpool")


@dataclass(frozen=True)
class Chain:
    """Up to three groups, each the only reader of the one before it."""

    front: Group | None
    middle: Group
    back: Group | None

    @property
    def groups(self) -> tuple[Group, ...]:
        """Those that are there, in order."""
        return tuple(g for g in (self.front, self.middle, self.back) if g is not None)


class Chains:
    """Candidates by the value of their first group."""

    def __init__(self, fused: Fused) -> None:
        """All groups of a network."""
        self.fused = fused
        self.by_node = {g.node.name: g for g in fused.groups}

    def after(self, group: Group) -> Group | None:
        """The group that alone reads a group's value, as its only input."""
        if not self.fused.read_once(group.value):
            return None
        found = self.by_node.get(self.fused.readers[group.value][0].name)
        return found if found is not None and found.inputs == (group.value,) else None

    def starting(self, group: Group) -> Iterator[Chain]:
        """Chains whose first group this is, the longest first."""
        nxt = self.after(group)
        if nxt is None:
            return
        if plain(group) and group.residual is None:
            last = self.after(nxt) if depthwise(nxt) and nxt.residual is None else None
            if last is not None and pointwise(last):
                yield Chain(group, nxt, last)
            if (depthwise(nxt) and nxt.residual is None) or nxt.node.op in POOLS:
                yield Chain(group, nxt, None)
        if depthwise(group) and group.residual is None and pointwise(nxt):
            yield Chain(None, group, nxt)


def plain(group: Group) -> bool:
    """A convolution without groups."""
    return group.node.op == "conv" and group.node.attrs["groups"] == 1


def depthwise(group: Group) -> bool:
    """A convolution of each channel by itself."""
    a = group.node.attrs
    return group.node.op == "conv" and a["groups"] == a["out"] > 1


def pointwise(group: Group) -> bool:
    """A convolution of one tap without groups, stride or padding."""
    a = group.node.attrs
    return plain(group) and max(a["kernel"]) == 1 and max(a["stride"]) == 1
