"""Convolution against dense, measured: shift the input, and see whether the response moves along or changes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product
from math import prod, sqrt
from typing import Any

import numpy as np

from dojang.arith.cost import count
from dojang.arith.field import fields
from dojang.arith.graph import Graph
from dojang.evidence.activations import Run, at_once, batches, layers, session_run

Array = np.ndarray


@dataclass(frozen=True)
class Equivariance:
    """How one layer responds when the input moves by `shift` pixels along its last axis.

    `moved`: relative difference (0: the same) between the new response and the old one moved along by shift/jump
    places, away from borders; None where places do not fit or there are none. `along`: the same over all places that
    both have, so that what padding and the image's edge change is in it. `still`: the same without moving it, so 0
    means the layer does not notice. `params` are shared over `places`; a dense layer has one place and owns its own.
    """

    layer: str
    shift: int
    moved: float | None
    along: float | None
    still: float
    params: int
    places: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def equivariance(graph: Graph, x: Array, shift: int | None = None, run: Run | None = None) -> tuple[Equivariance, ...]:
    """Measured on samples `x` (n, c, ..., w) of a network with one input; the pixels that enter are those at the edge.

    `shift` is by default the largest step that a place of some layer makes (its jump), so that every response can move
    along. Borders that the shift, or padding, can reach are left out of `moved`.
    """
    run = run or session_run(graph, x)
    spans, table = fields(graph), {row.name: row.cost.params for row in count(graph).layers}
    names = [n.name for n in layers(graph)]
    jumps = {n: f[-1].jump for n in names if (f := spans[n]) is not None and f}
    if shift is None:
        shift = int(max([1, *(j for j in jumps.values() if j)]))
    places = np.clip(np.arange(x.shape[-1]) - shift, 0, None)
    sums = {name: _ShiftSums() for name in names}
    for some in batches(x, max(1, at_once(graph) // 2)):
        old, new = run(some, names), run(some[..., places], names)
        for name, i in product(names, range(len(some))):
            a, b = (y[name][i : i + 1].astype(np.float64) for y in (old, new))
            own = sums[name]
            own.shape = a.shape
            own.still.add(b, a)
            if a.ndim == x.ndim and name in jumps and jumps[name]:
                step = shift / jumps[name]
                _add_moved(own.moved, a, b, step, spans[name], x.shape[-1], shift)
                _add_along(own.along, a, b, step)
        del old, new
    out: list[Equivariance] = []
    for name in names:
        own = sums[name]
        # dense layers have channels on the last axis
        space = own.shape[1:-1] if graph[name].op == "dense" else own.shape[2:]
        still = own.still.relative or 0.0
        out.append(Equivariance(name, shift, own.moved.relative, own.along.relative, still, table[name], prod(space)))
    return tuple(out)


class _Difference:
    """The running difference of two responses, relative to the second."""

    def __init__(self) -> None:
        self.squares, self.size, self.count = 0.0, 0.0, 0

    def add(self, mine: Array, other: Array) -> None:
        """Adds some samples."""
        self.squares += float(np.square(mine - other).sum())
        self.size += float(np.square(other).sum())
        self.count += other.size

    @property
    def relative(self) -> float | None:
        """√(Σ difference² / Σ other²), where the other is 0 the difference itself; None where nothing was added."""
        return None if not self.count else sqrt(self.squares / (self.size or self.count))


class _ShiftSums:
    """The differences of one layer's responses, and their shape."""

    def __init__(self) -> None:
        self.still, self.moved, self.along = _Difference(), _Difference(), _Difference()
        self.shape: tuple[int, ...] = ()


def _add_along(sums: _Difference, a: Array, b: Array, step: Any) -> None:
    """Adds b against a moved by `step` places, over all places that both have."""
    if step != int(step) or abs(step) >= a.shape[-1]:
        return
    if step < 0:  # behind a flip it moves the other way
        a, b, step = a[..., ::-1], b[..., ::-1], -step
    sums.add(b[..., int(step) :], a[..., : a.shape[-1] - int(step)])


def _add_moved(sums: _Difference, a: Array, b: Array, step: Any, field: Any, width: int, shift: int) -> None:
    """Adds b against a moved by `step` places, over places that see neither border nor fill."""
    if step != int(step):
        return
    step, span = int(step), field[-1]
    seen = [span.at(o) for o in range(a.shape[-1])]
    inside = [o for o in range(max(step, 0), len(seen) + min(step, 0))
              if (new := seen[o]) is not None and (old := seen[o - step]) is not None
              and new[0] >= shift and new[1] < width and old[0] >= 0]  # fmt: skip
    if inside:
        sums.add(b[..., inside], a[..., [o - step for o in inside]])
