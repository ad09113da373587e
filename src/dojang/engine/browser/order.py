"""Where kernels want each weight: found by packing the numbers of the weights in place of the weights.

A page carries each array of weights once, as the network has it, (out, in / groups, taps); the order of a kernel takes
more room (padding to whole vectors, four times as much for Winograd). The page packs when it starts, by this rule, for
output o, input i and position p, with `class` c of output o:

    packed[base[o] + inputs[c][i] + positions[p]] = Σ over taps t of matrix[p][t] · weight[o][i][t]

`matrix` is left out where positions are taps. For orders that differ from tap to tap (the parts of a transposed
convolution) `base` has a number for each output and tap instead, −1 for taps that no kernel reads, and `positions` is
left out. An order that is not of this form is not found, and the packed array is carried as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from types import ModuleType
from typing import Any

import numpy as np

from dojang.engine.kernels.conv import dense, winograd
from dojang.engine.kernels.conv.interpolate import matrices
from dojang.engine.kernels.conv.winograd_stages import sides
from dojang.engine.kernels.task import Task
from dojang.native.machine import Machine

Array = np.ndarray
MOST = 1 << 24
"""More weights than float32 can count."""


@dataclass(frozen=True)
class Order:
    """The rule above. `shape` is (outputs, inputs of a group, taps); `size` the numbers that are packed."""

    shape: tuple[int, int, int]
    size: int
    base: Array
    classes: Array
    inputs: tuple[Array, ...]
    positions: Array | None = None
    matrix: Array | None = None

    def packed(self, weight: Array) -> Array:
        """Weights (out, in / groups, taps) in the order of the kernel."""
        out = np.zeros(self.size, np.float32)
        w = np.asarray(weight, np.float64).reshape(self.shape)
        if self.matrix is not None:
            w = w @ self.matrix.T
        for o in range(self.shape[0]):
            place = self.base[o] if self.positions is None else self.base[o] + self.positions
            if self.positions is None:
                for t, c in enumerate(self.classes[o]):
                    if place[t] >= 0:
                        out[place[t] + self.inputs[c]] = w[o, :, t]
            else:
                out[place[None, :] + self.inputs[self.classes[o]][:, None]] = w[o]
        return out

    def to_dict(self) -> dict[str, Any]:
        """For the page. Inputs that are equally far apart are said by that distance."""
        steps = [_step(i) for i in self.inputs]
        found: dict[str, Any] = {
            "shape": self.shape, "size": self.size, "base": self.base.tolist(), "classes": self.classes.tolist(),
            "inputs": [s if s is not None else i.tolist() for s, i in zip(steps, self.inputs, strict=True)],
        }  # fmt: skip
        if not self.classes.any():
            found["classes"] = None
        if self.positions is not None:
            found["positions"] = self.positions.tolist()
        if self.matrix is not None:
            found["matrix"] = self.matrix.tolist()
        return found


def _step(places: Array) -> int | None:
    """The distance of neighbours, where it is one for all and the first place is 0."""
    step = int(places[1]) if len(places) > 1 else 0
    return step if np.array_equal(places, np.arange(len(places)) * step) else None


def order_of(algorithm: ModuleType, task: Task, machine: Machine) -> Order | None:
    """How an algorithm packs the weights of a task; None where that is not of the form above."""
    c = task.conv
    rows, inputs, taps = c.oc, c.ic // c.groups, prod(c.kernel)
    if algorithm is dense:
        return Order((rows, inputs, taps), rows * inputs * taps, np.arange(rows) * inputs * taps, np.zeros(rows, int),
                     (np.arange(inputs) * taps,), np.arange(taps))  # fmt: skip
    if rows * inputs * taps >= MOST:
        return None
    if algorithm is winograd and not winograd.shape_of(task, machine).chunk:
        return _transformed(task, machine)
    numbers = np.arange(1, rows * inputs * taps + 1, dtype=np.float32).reshape(rows, inputs, taps)
    packed = algorithm.pack(task, machine, as_given(numbers, task), None)[0]
    places = _places(packed, numbers.size)
    if places is None:
        return None
    return _found(places.reshape(rows, inputs, taps), packed.size)


def as_given(weight: Array, task: Task) -> Array:
    """Weights (out, in / groups, taps) in the shape that a network has them: those of transposed convolutions lie
    (in, out / groups, *kernel).
    """
    c = task.conv
    if not c.transposed:
        return weight.reshape(c.oc, c.ic // c.groups, *c.kernel)
    parts = weight.reshape(c.groups, c.oc // c.groups, c.ic // c.groups, *c.kernel).swapaxes(1, 2)
    return parts.reshape(c.ic, c.oc // c.groups, *c.kernel)


def by_output(weight: Array, task: Task) -> Array:
    """The inverse of `as_given`."""
    c = task.conv
    if not c.transposed:
        return weight.reshape(c.oc, c.ic // c.groups, -1)
    parts = weight.reshape(c.groups, c.ic // c.groups, c.oc // c.groups, -1).swapaxes(1, 2)
    return parts.reshape(c.oc, c.ic // c.groups, -1)


def _transformed(task: Task, machine: Machine) -> Order | None:
    """Of Winograd's positions: where the kernels of each pair of channels lie, by a first tap alone."""
    two = winograd.two(task)
    c, s = two.conv, winograd.shape_of(task, machine)
    down, across = (np.array(matrices(m, r)[1], "f8") for (m, _), r in zip(sides(two, s.m), c.kernel, strict=True))
    matrix = np.kron(down, across)
    rows, inputs, taps = c.oc, c.ic // c.groups, prod(c.kernel)
    first = int(np.abs(matrix[:, 0]).argmax())
    numbers = np.zeros((rows, inputs, taps), np.float64)
    numbers[:, :, 0] = np.arange(1, rows * inputs + 1).reshape(rows, inputs) / matrix[first, 0]
    packed = winograd.pack(task, machine, as_given(numbers, task), None)[0].reshape(len(matrix), -1)
    places = _places(np.rint(packed[first]), rows * inputs)
    if places is None:
        return None
    found = _found(places.reshape(rows, inputs, 1), packed.size)
    if found is None or found.positions is None:
        return None
    positions = np.arange(len(matrix)) * packed.shape[1]
    return Order((rows, inputs, taps), packed.size, found.base, found.classes, found.inputs, positions, matrix)


def _places(packed: Array, count: int) -> Array | None:
    """For each of the numbers 1 … count where it lies, −1 where it is missing; None where one is there twice."""
    at = np.flatnonzero(packed)
    places = np.full(count, -1)
    places[packed[at].astype(int) - 1] = at
    return places if (places >= 0).sum() == len(at) else None


def _found(places: Array, size: int) -> Order | None:
    """The rule that gives these places (outputs, inputs, taps); None where a tap is missing for some channels only."""
    shape: Any = places.shape
    unused = (places < 0).all((0, 1))
    if (places[:, :, ~unused] < 0).any():
        return None
    inputs = places - places[:, :1, :]
    kinds, which = np.unique(inputs.swapaxes(1, 2).reshape(-1, shape[1]), axis=0, return_inverse=True)
    classes = which.reshape(shape[0], shape[2])
    base = places[:, 0, :]
    positions = base[0] - base[0, :1]
    if (classes == classes[:, :1]).all() and (base == base[:, :1] + positions).all():
        return Order(shape, size, base[:, 0], classes[:, 0], tuple(kinds), positions)
    return Order(shape, size, base, classes, tuple(kinds))
