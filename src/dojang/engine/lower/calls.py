"""What a lowered network consists of: places of values in buffers, and calls that fill them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from dojang.arith.shapes import Shape
from dojang.engine.fuse import Group
from dojang.engine.kernels.task import Code
from dojang.engine.plan.choose import Choice


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value lies: in buffer `buffer`, from element `offset`, `ld` elements from pixel to pixel.

    `shape` is the logical shape (images, channels, *space). Buffer numbers below 0 are memory of the caller: input k
    is buffer −1 − k.
    """

    buffer: int
    offset: int
    ld: int
    shape: Shape

    @property
    def images(self) -> int:
        """First axis."""
        return self.shape[0]

    @property
    def channels(self) -> int:
        """Second axis."""
        return self.shape[1]

    @property
    def pixels(self) -> int:
        """All other axes."""
        return prod(self.shape[2:])

    @property
    def alike(self) -> bool:
        """Whether channels first and channels last are the same memory."""
        return self.ld == self.channels and (self.channels == 1 or self.pixels == 1)


@dataclass(frozen=True)
class KernelCall:
    """Native steps. `slots` maps words of the argument table to places, weight keys, or nothing."""

    choice: Choice
    code: Code
    images: int
    slots: Mapping[int, Place | str]
    export: str | None = None  # the value is written to memory of the caller


@dataclass(frozen=True)
class HostCall:
    """A node computed by its reference function."""

    choice: Choice
    group: Group
    inputs: tuple[str, ...]
    place: Place | None  # None: the result stays a NumPy array


@dataclass
class Lowered:
    """The calls in order, the bytes of each buffer, where values lie, and what was computed beforehand."""

    calls: list[KernelCall | HostCall] = field(default_factory=list)
    buffers: list[int] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)
    shapes: Mapping[str, Any] = field(default_factory=dict)  # logical shapes by value
    host: dict[str, np.ndarray] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    alias: dict[str, str] = field(default_factory=dict)
    copied: list[str] = field(default_factory=list)  # values that NumPy copies out of the arena at the end
