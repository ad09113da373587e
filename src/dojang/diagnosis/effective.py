"""The effective receptive field: which part of the input really moves a layer's middle place, by perturbation.

The field that arithmetic gives is the largest possible; what matters falls off from the middle much like a Gaussian
(Luo et al., "Understanding the effective receptive field in deep convolutional neural networks", NIPS 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from math import ceil
from typing import Any

import numpy as np

from dojang.arith.field import fields
from dojang.arith.graph import Graph
from dojang.base.errors import ShapeError
from dojang.evidence.activations import Run, layers, session_run

Array = np.ndarray

BLOCKS = 16
"""Blocks per axis that are moved one after the other, at most."""

SAMPLES = 4


@dataclass(frozen=True)
class Effective:
    """Per axis in pixels: `size`, the width that holds 95 % of the effect on the layer's middle place if it falls off
    like a Gaussian (four standard deviations), and `field`, what arithmetic allows, cut to the input. A `size` is at
    least a block of `block` pixels, the finest that is told apart, or the whole field where that is smaller.

    `inside`: the part of the effect that comes from within the arithmetic field, which is all of it.
    """

    layer: str
    size: tuple[float, ...]
    field: tuple[int, ...]
    inside: float
    block: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def effective_fields(
    graph: Graph, x: Array, run: Run | None = None, samples: int = SAMPLES, seed: int = 0
) -> tuple[Effective, ...]:
    """For every convolution whose place is known. `x` (n, c, *space): samples; noise of their spread is added, block
    by block, and the squared change of the middle place is summed over channels and samples.

    Raises `ShapeError` for networks of several inputs and samples without space.
    """
    if len(graph.inputs) != 1 or x.ndim < 3:
        raise ShapeError(f"{graph.name}: effective fields need one input with space, samples (n, c, ...)")
    x = np.asarray(x[:samples], np.float32)
    space = x.shape[2:]
    sides = [ceil(s / BLOCKS) for s in space]
    spans = fields(graph)
    names = [n.name for n in layers(graph) if n.op == "conv" and spans[n.name] is not None]
    noise = np.random.default_rng(seed).normal(scale=float(x.std()) or 1.0, size=x.shape).astype(np.float32)
    places = list(product(*(range(0, s, side) for s, side in zip(space, sides, strict=True))))
    run = run or session_run(graph, np.broadcast_to(x[:1], (len(places) * len(x), *x.shape[1:])))
    still = run(x, names)
    effect = {name: np.zeros([ceil(s / side) for s, side in zip(space, sides, strict=True)]) for name in names}
    for start in places:
        box = (..., *(slice(a, a + side) for a, side in zip(start, sides, strict=True)))
        moved = x.copy()
        moved[box] += noise[box]
        after = run(moved, names)
        at = tuple(a // side for a, side in zip(start, sides, strict=True))
        for name in names:
            middle = (..., *(s // 2 for s in still[name].shape[2:]))
            change = after[name][middle].astype(np.float64) - still[name][middle]
            effect[name][at] = np.square(change).sum()
    return tuple(_effective(name, effect[name], sides, spans[name] or (), still[name].shape[2:], space)
                 for name in names)  # fmt: skip


def _effective(
    name: str, effect: Array, sides: Sequence[int], spans: Any, places: Sequence[int], space: Sequence[int]
) -> Effective:
    total, sizes, allowed = float(effect.sum()), list[float](), list[int]()
    mask = np.ones(effect.shape, bool)
    for axis, (side, span, count, whole) in enumerate(zip(sides, spans, places, space, strict=True)):
        seen = span.at(count // 2) or (0, -1)
        low, high = max(0, seen[0]), min(whole - 1, seen[1])
        allowed.append(max(0, high - low + 1))
        line = effect.sum(axis=tuple(a for a in range(effect.ndim) if a != axis))
        centre = np.minimum((np.arange(len(line)) + 0.5) * side, whole)
        reach = (np.arange(len(line)) * side <= high) & ((np.arange(len(line)) + 1) * side > low)
        mask &= np.expand_dims(reach, tuple(a for a in range(effect.ndim) if a != axis))
        mean = float((line * centre).sum() / total) if total else 0.0
        deviation = float(np.sqrt((line * (centre - mean) ** 2).sum() / total)) if total else 0.0
        sizes.append(min(float(allowed[-1]), max(float(side), 4 * deviation)))
    return Effective(
        name, tuple(sizes), tuple(allowed), float(effect[mask].sum() / total) if total else 1.0, tuple(sides)
    )
