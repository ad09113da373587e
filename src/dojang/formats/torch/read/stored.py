"""What a PyTorch module stores, by memory: parameters and buffers once each, and where a tensor's numbers come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from dojang.arith.stored import Stored
from dojang.formats.torch.read.trace import Derived


@dataclass(frozen=True, slots=True)
class Extent:
    """Where the numbers of a tensor lie: a piece of memory, and the first and last place in it."""

    memory: int
    start: int
    stop: int

    @classmethod
    def of(cls, value: torch.Tensor) -> Extent:
        """The extent of a tensor; of one that has no plain memory (sparse, quantised, wrapped) one of its own."""
        try:
            memory, steps = value.untyped_storage()._cdata, value.stride()
        except (RuntimeError, NotImplementedError, AttributeError):
            return cls(id(value), 0, max(1, value.numel()))
        start = int(value.storage_offset())
        spans = (int(step) * (size - 1) for step, size in zip(steps, value.shape, strict=True))
        return cls(memory, start, start + sum(spans) + 1 if value.numel() else start)

    def meets(self, other: Extent) -> bool:
        """Whether they have a place in common."""
        return self.memory == other.memory and self.start < other.stop and other.start < self.stop


@dataclass(frozen=True, slots=True)
class StoredArray:
    """One stored array: its name, what is said of it, and its extent."""

    name: str
    stored: Stored
    extent: Extent


class Store:
    """The stored arrays of a module: what shares memory is one array, under the name that comes first."""

    def __init__(self, named: Iterable[tuple[str, torch.Tensor]]) -> None:
        groups: dict[int, list[tuple[Extent, list[tuple[str, torch.Tensor]]]]] = {}
        for name, value in named:
            extent, members = Extent.of(value), [(name, value)]
            apart: list[tuple[Extent, list[tuple[str, torch.Tensor]]]] = []
            for other, others in groups.get(extent.memory, ()):
                if extent.meets(other) or any(value is v for _, v in others):
                    extent = Extent(extent.memory, min(extent.start, other.start), max(extent.stop, other.stop))
                    members = [*others, *members]
                else:
                    apart.append((other, others))
            groups[extent.memory] = [*apart, (extent, members)]
        held = [_held(extent, members) for group in groups.values() for extent, members in group]
        self.held: dict[int, list[StoredArray]] = {}
        for one in held:
            self.held.setdefault(one.extent.memory, []).append(one)
        self.stored: dict[str, Stored] = {one.name: one.stored for one in held}

    def at(self, value: torch.Tensor) -> list[str]:
        """Names of the stored arrays whose memory a tensor lies in."""
        extent = Extent.of(value)
        return [one.name for one in self.held.get(extent.memory, ()) if extent.meets(one.extent)]

    def sources(self, value: torch.Tensor, derived: Mapping[int, Derived]) -> tuple[str, ...]:
        """Names of the stored arrays that a tensor is, shows a part of, or was computed from, in `derived`'s record."""
        found: dict[str, None] = {}
        seen: set[int] = set()
        waiting = [value]
        while waiting:
            tensor = waiting.pop()
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            names = self.at(tensor)
            found |= dict.fromkeys(names)
            if not names and id(tensor) in derived:
                waiting += derived[id(tensor)].sources
        return tuple(name for name in self.stored if name in found)


def _held(extent: Extent, members: list[tuple[str, torch.Tensor]]) -> StoredArray:
    learned = [value for _, value in members if isinstance(value, nn.Parameter)]
    sizes = {Extent.of(value): value.numel() for _, value in members}
    # of parts that overlap as many numbers as the memory has between them
    size = max(sizes.values()) if len(sizes) == 1 else min(extent.stop - extent.start, sum(sizes.values()))
    kind = "parameter" if learned else "buffer"
    name = next(name for name, value in members if not learned or isinstance(value, nn.Parameter))
    return StoredArray(name, Stored(size, kind, any(value.requires_grad for value in learned)), extent)
