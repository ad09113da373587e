"""What a PyTorch module stores, by memory: parameters and buffers once each, and where a tensor's numbers come from."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import torch

from dojang.arith.stored import Stored
from dojang.formats.torch.read.trace import Derived


class Extent(NamedTuple):
    """Where the numbers of a tensor lie: a piece of memory, and the first and last place in it."""

    memory: int
    start: int
    stop: int

    @classmethod
    def of(cls, value: torch.Tensor) -> Extent:
        """The extent of a tensor; of one that has no plain memory (sparse, quantised, wrapped) one of its own."""
        try:
            memory, start = value.untyped_storage()._cdata, int(value.storage_offset())
            if value.is_contiguous():
                return cls(memory, start, start + value.numel())
            steps = value.stride()
        except (RuntimeError, NotImplementedError, AttributeError):
            return cls(id(value), 0, max(1, value.numel()))
        spans = (int(step) * (size - 1) for step, size in zip(steps, value.shape, strict=True))
        return cls(memory, start, start + sum(spans) + 1)  # one without numbers is contiguous


Named = tuple[str, torch.Tensor, Extent, bool]
"""A name of a tensor that the module holds, the tensor, its extent, and whether it is a parameter."""


class Store:
    """The stored arrays of a module: what shares memory is one array, under the name that comes first."""

    def __init__(self, named: Sequence[tuple[str, torch.Tensor, bool]]) -> None:
        """From every name of every parameter (True) and buffer (False), in the module's order."""
        self.stored: dict[str, Stored] = {}
        self.own: dict[int, str] = {}
        """The array of each tensor that the module holds, by the tensor's id."""
        self.extents: dict[str, Extent] = {}
        """Where each array is; no two meet."""
        memories: dict[int, list[Named]] = {}
        for name, value, learned in named:
            extent = Extent.of(value)
            memories.setdefault(extent.memory, []).append((name, value, extent, learned))
        for inside in memories.values():
            if len(inside) == 1:  # as almost every array
                name, value, extent, learned = inside[0]
                kind = "parameter" if learned else "buffer"
                self.stored[name] = Stored(value.numel(), kind, learned and value.requires_grad, _dtype(value))
                self.own[id(value)] = name
                self.extents[name] = extent
                continue
            for extent, members in _apart(inside):
                name, stored = _together(members, extent)
                self.stored[name], self.extents[name] = stored, extent
                self.own.update({id(value): name for _, value, _, _ in members})
        if len(memories) < len(named):
            self.stored = {name: self.stored[name] for name, _, _ in named if name in self.stored}

    @cached_property
    def places(self) -> dict[int, list[tuple[Extent, str]]]:
        """Per memory the arrays in it, in order."""
        found: dict[int, list[tuple[Extent, str]]] = {}
        for name, extent in self.extents.items():
            found.setdefault(extent.memory, []).append((extent, name))
        for inside in found.values():
            inside.sort()
        return found

    def at(self, value: torch.Tensor) -> list[str]:
        """Names of the stored arrays whose memory a tensor lies in."""
        extent = Extent.of(value)
        inside = self.places.get(extent.memory, [])
        place = bisect_right(inside, extent.start, key=lambda part: part[0].stop)
        found: list[str] = []
        while place < len(inside) and inside[place][0].start < extent.stop:
            found.append(inside[place][1])
            place += 1
        return found

    def sources(self, value: torch.Tensor, derived: Mapping[int, Derived]) -> tuple[str, ...]:
        """Names of the stored arrays that a tensor is, shows a part of, or was computed from, in `derived`'s record."""
        own = self.own.get(id(value))
        if own is not None:
            return (own,)
        found: set[str] = set()
        seen: set[int] = set()
        waiting = [value]
        while waiting:
            tensor = waiting.pop()
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            names = self.at(tensor)
            found.update(names)
            if not names and id(tensor) in derived:
                waiting += derived[id(tensor)].sources
        return tuple(name for name in self.stored if name in found) if len(found) > 1 else tuple(found)


def _apart(inside: Sequence[Named]) -> list[tuple[Extent, list[Named]]]:
    """The pieces of one memory that its tensors share, by their place, and whose each is."""
    found: list[tuple[Extent, list[int]]] = []
    for place in sorted(range(len(inside)), key=lambda place: (inside[place][2], id(inside[place][1]))):
        _, value, (memory, start, stop), _ = inside[place]
        if found:
            (_, first, last), members = found[-1]
            if (start < last and first < stop) or value is inside[members[-1]][1]:
                members.append(place)
                found[-1] = Extent(memory, first, max(last, stop)), members
                continue
        found.append((Extent(memory, start, stop), [place]))
    return [(extent, [inside[place] for place in sorted(members)]) for extent, members in found]


def _together(members: Sequence[Named], extent: Extent) -> tuple[str, Stored]:
    """The name of the array that some tensors are together, and what is said of it."""
    learned = [(name, value) for name, value, _, parameter in members if parameter]
    sizes = {own: value.numel() for _, value, own, _ in members}
    # of parts that overlap as many numbers as the memory has between them
    size = max(sizes.values()) if len(sizes) == 1 else min(extent.stop - extent.start, sum(sizes.values()))
    if not learned:
        return members[0][0], Stored(size, "buffer", False, _dtype(members[0][1]))
    trained = any(value.requires_grad for _, value in learned)
    return learned[0][0], Stored(size, "parameter", trained, _dtype(learned[0][1]))


def _dtype(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
