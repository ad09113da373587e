"""What a plan consists of: places of values in buffers, and steps that fill them. No weights, no code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from types import ModuleType
from typing import Any

import numpy as np

from dojang.arith.shapes import Shape
from dojang.engine.fuse import Fused, Group
from dojang.engine.kernels.task import Code
from dojang.engine.plan.choose import Choice, Plan
from dojang.engine.weights import Weights
from dojang.native.machine import Machine


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
    in_rows: bool = False
    """Whether the last axis is the fastest, not the second one: a value that only views and Python read so."""
    item: int = 4
    """Bytes of an element."""

    @property
    def turned(self) -> Place:
        """The place of a value that lies in rows as kernels know it: its last axis as channels."""
        return replace(self, shape=(self.shape[0], self.shape[-1], *self.shape[1:-1]), in_rows=False)

    @property
    def strides(self) -> tuple[int, ...]:
        """Elements from place to place along each axis."""
        if self.in_rows:
            images, last, *middle = self.turned.strides
            return (images, *middle, last)
        if len(self.shape) < 2:
            return (self.ld,) * len(self.shape)
        inside = [self.ld * prod(self.shape[k + 1 :]) for k in range(2, len(self.shape))]
        return (self.ld * self.pixels, 1, *inside)

    @property
    def images(self) -> int:
        """First axis."""
        return self.shape[0] if self.shape else 1

    @property
    def channels(self) -> int:
        """Second axis."""
        return self.shape[1] if len(self.shape) > 1 else 1

    @property
    def pixels(self) -> int:
        """All other axes."""
        return prod(self.shape[2:])

    @property
    def alike(self) -> bool:
        """Whether channels first and channels last are the same memory."""
        return self.ld == self.channels and (self.channels == 1 or self.pixels == 1)


@dataclass(frozen=True)
class Packing:
    """Arrays that a step reads beside values, by key. `make` gives them, in the order of `keys`, when weights are
    packed; the weights of `groups` are then not needed any more. `of_size`: they hold for one size of the image.
    """

    keys: tuple[str, ...]
    make: Callable[[Weights], Sequence[np.ndarray]]
    groups: tuple[Group, ...] = ()
    of_size: bool = False


@dataclass(frozen=True)
class KernelStep:
    """A task for a kernel. `slots` maps words of the argument table to places, keys of packed arrays, or nothing.

    `like` is there where the code shall serve images of any size: the task that its weights are packed for.
    """

    choice: Choice
    kernel: ModuleType
    task: Any
    images: int
    slots: Mapping[int, Place | str]
    packing: Packing | None = None
    export: str | None = None  # the value is written to memory of the caller
    like: Any = None

    def code(self, machine: Machine) -> Code:
        """What the kernel emits."""
        if self.like is None:
            return self.kernel.emit(self.task, machine)
        return self.kernel.emit_open(self.task, self.like, machine)


@dataclass(frozen=True)
class HostStep:
    """A group computed by the reference functions of its nodes."""

    choice: Choice
    group: Group
    inputs: tuple[str, ...]
    place: Place | None  # None: the result stays a NumPy array


@dataclass(frozen=True)
class Planned:
    """The result of the pass `plan`: steps in order, the bytes of each buffer, where values lie.

    `public` is what users see of it. `machine` has no more cores than there are threads to cut work for, `run_threads`
    is how many run it; `constants` are values that packing computes, `copied` those that NumPy copies out at the end,
    `eights` says where the bytes of values lie that are computed so.
    """

    public: Plan
    fused: Fused
    machine: Machine
    run_threads: int
    steps: tuple[KernelStep | HostStep, ...]
    buffers: tuple[int, ...]
    places: Mapping[str, Place]
    constants: tuple[str, ...]
    copied: tuple[str, ...]
    eights: Mapping[str, Place]
