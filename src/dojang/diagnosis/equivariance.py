"""Convolution against dense, measured: shift the input, and see whether the response moves along or changes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np

from dojang.arith.cost import count
from dojang.arith.field import fields
from dojang.arith.graph import Graph
from dojang.evidence.activations import Run, layers, session_run

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
    old, new = run(x, names), run(x[..., places], names)
    out: list[Equivariance] = []
    for name in names:
        a, b = old[name].astype(np.float64), new[name].astype(np.float64)
        scale = float(np.sqrt((a**2).mean())) or 1.0
        still = float(np.sqrt(((a - b) ** 2).mean())) / scale
        spatial = a.ndim == x.ndim and name in jumps and jumps[name]
        step = shift / jumps[name] if spatial else None
        moved = _moved(a, b, step, spans[name], x.shape[-1], shift) if step else None
        along = _along(a, b, step) if step else None
        space = (
            a.shape[1:-1] if graph[name].op == "dense" else a.shape[2:]
        )  # dense layers have channels on the last axis
        out.append(Equivariance(name, shift, moved, along, still, table[name], prod(space)))
    return tuple(out)


def _along(a: Array, b: Array, step: Any) -> float | None:
    """Relative difference between b and a moved by `step` places, over all places that both have."""
    if step != int(step) or abs(step) >= a.shape[-1]:
        return None
    if step < 0:  # behind a flip it moves the other way
        return _along(a[..., ::-1], b[..., ::-1], -step)
    return _difference(b[..., int(step) :], a[..., : a.shape[-1] - int(step)])


def _difference(mine: Array, other: Array) -> float:
    scale = float(np.sqrt((other**2).mean())) or 1.0
    return float(np.sqrt(((mine - other) ** 2).mean())) / scale


def _moved(a: Array, b: Array, step: Any, field: Any, width: int, shift: int) -> float | None:
    """Relative difference between b and a moved by `step` places, over places that see neither border nor fill."""
    if step != int(step):
        return None
    step, span = int(step), field[-1]
    seen = [span.at(o) for o in range(a.shape[-1])]
    inside = [o for o in range(max(step, 0), len(seen) + min(step, 0))
              if (new := seen[o]) is not None and (old := seen[o - step]) is not None
              and new[0] >= shift and new[1] < width and old[0] >= 0]  # fmt: skip
    if not inside:
        return None
    return _difference(b[..., inside], a[..., [o - step for o in inside]])
