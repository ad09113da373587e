"""A rewrite: Graph -> Graph with a claim, and the check that proves the claim."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.arith.layer import Cost
from dojang.arith.preparation import takes_floats
from dojang.base.errors import DojangError
from dojang.engine.reference.operators import run_reference
from dojang.evidence.activations import first
from dojang.evidence.evidence import Evidence
from dojang.slimming.numbering import removed
from dojang.slimming.result import Channels

Array = np.ndarray
Claim = Literal["exact", "bounded", "lossy"]

TOLERANCE = 1e-9
"""Largest float64 difference of an exact rewrite done in float64, relative to the largest output.

An algebraic identity over sums of up to 10^5 terms rounds to about 10^5 · 2^-53 ≈ 1e-11 per layer.
"""

STORED = 2e-5
"""The same after the new weights are stored as float32: some layers of relative roundings of 2^-24, with a margin."""

CHECK_MACS = 2e9
"""Multiplications that one check may spend on the reference, which decides how many inputs it compares."""


def real_inputs(known: Evidence, most: int) -> dict[str, Array] | None:
    """The first samples by input name, or None where there are none."""
    if known.samples is None:
        return None
    some = first(known.samples, most)
    by_name = some if isinstance(some, Mapping) else {known.graph.inputs[0].name: some}
    return {name: np.asarray(x) for name, x in by_name.items()}


def random_inputs(known: Evidence, most: int) -> dict[str, Array]:
    """Random inputs within the stated range (else normal), float64."""
    rng = np.random.default_rng(known.seed)
    made: dict[str, Array] = {}
    for node in known.graph.inputs:
        shape = (most, *node.attrs["shape"])
        limits = known.input_range.get(node.name)
        mean, std = node.attrs["mean"], node.attrs["std"]
        if limits is None and mean is not None and std is not None and not takes_floats(known.graph):
            limits = ((0 - np.asarray(mean)) / std, (1 - np.asarray(mean)) / std)
        if limits is None:
            made[node.name] = rng.normal(size=shape)
        else:
            lo, hi = (np.asarray(v, np.float64) for v in limits)
            line = (1, -1, *([1] * (len(shape) - 2)))
            lo, hi = (v.reshape(line) if v.ndim else v for v in (lo, hi))
            made[node.name] = lo + (hi - lo) * rng.random(shape)
    return made


@dataclass(frozen=True)
class Applied:
    """What a rewrite did: the new network, the layers it changed, and one line on what was found.

    `channels`: the output channels that it removed, by layer, in the numbers of the network that it was given.
    """

    graph: Graph
    layers: tuple[str, ...]
    found: str = ""
    channels: Channels = field(default_factory=dict[str, tuple[int, ...]])


@dataclass(frozen=True)
class Rewrite:
    """`apply` gives the new network, or None when there is nothing to do. Exact ones never raise the cost.

    `answers`: the kinds of findings that it is made for. Which layers and channels of them it answered in a network,
    `Applied` says.
    """

    name: str
    claim: Claim
    summary: str
    apply: Callable[[Evidence], Applied | None]
    tolerance: float = TOLERANCE
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class RewriteCheck:
    """The largest difference between two networks' outputs, absolute and relative to the largest output.

    `difference`: in float64 with the rewrite done in float64; `stored`: with the new weights rounded to the old type.
    """

    ok: bool
    inputs: str
    difference: float
    stored: float
    tolerance: float
    stored_tolerance: float
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The check as JSON has it."""
        return {
            "ok": self.ok,
            "inputs": self.inputs,
            "largest_difference_float64": self.difference,
            "largest_difference_stored": self.stored,
            "relative_to": "largest output",
            "tolerance_float64": self.tolerance,
            "tolerance_stored": self.stored_tolerance,
            **({"reason": self.reason} if self.reason else {}),
        }


def perform(rewrite: Rewrite, known: Evidence) -> tuple[Applied, RewriteCheck] | None:
    """An exact or bounded rewrite done in float64, stored in the old types, and checked; None when nothing to do."""
    wide = known.stored_as(np.float64)
    applied = rewrite.apply(wide)
    if applied is None:
        return None
    stored = restore(applied.graph, known.graph)
    check = verify(wide, applied.graph, stored, rewrite.tolerance)
    return Applied(stored, applied.layers, applied.found, removed(known.graph, stored, applied.channels)), check


def cast(graph: Graph, dtype: Any) -> Graph:
    """The network with all weights of another type."""
    return graph.replace(weights={k: np.asarray(v, dtype) for k, v in graph.weights.items()})


def restore(new: Graph, old: Graph) -> Graph:
    """The new network's weights in the types of the old one's: untouched arrays as they were, new ones rounded once."""
    kinds = {np.asarray(v).dtype for v in old.weights.values()} or {np.dtype(np.float32)}
    common = kinds.pop() if len(kinds) == 1 else np.dtype(np.float32)
    weights = {k: np.asarray(v, np.asarray(old.weights[k]).dtype if k in old.weights else common)
               for k, v in new.weights.items()}  # fmt: skip
    return new.replace(weights=weights)


def verify(known: Evidence, after: Graph, stored: Graph, tolerance: float = TOLERANCE) -> RewriteCheck:
    """Compares outputs through the reference in float64 on random and real inputs, output shapes, and costs."""
    before = known.graph
    old, new = count(before).total, count(after).total
    most = int(np.clip(CHECK_MACS / max(1, old.macs), 1, 8))
    real = real_inputs(known, most)
    feeds = [random_inputs(known, most)] + ([real] if real is not None else [])
    said = f"{most} random" + (f" and {len(next(iter(real.values())))} real" if real else "") + " inputs"
    try:
        difference = max(relative_difference(before, after, x) for x in feeds)
        kept = max(relative_difference(before, stored, x) for x in feeds)
    except DojangError as error:
        return RewriteCheck(False, said, float("nan"), float("nan"), tolerance, STORED, str(error))
    reason = ""
    if not difference <= tolerance:
        reason = f"outputs differ by {difference:.2g} of the largest, more than {tolerance:.0e}"
    elif not kept <= STORED:
        reason = f"stored as float32 the outputs differ by {kept:.2g} of the largest, more than {STORED:.0e}"
    elif costs_more(old, new, before, after):
        reason = f"the cost rose: {old.macs} to {new.macs} MACs, {old.params} to {new.params} parameters"
    return RewriteCheck(not reason, said, difference, kept, tolerance, STORED, reason)


def total_cost(graph: Graph) -> Cost:
    """What the network costs."""
    return count(graph).total


def costs_more(old: Cost, new: Cost, before: Graph, after: Graph) -> bool:
    """More MACs, or more numbers to store (buffers such as running means included)."""
    return new.macs > old.macs or numbers_stored(after) > numbers_stored(before)


def numbers_stored(graph: Graph) -> int:
    """Elements of all arrays of the network, buffers included."""
    return sum(int(np.prod(shape)) for shape in graph.param_shapes.values())


def relative_difference(before: Graph, after: Graph, x: Mapping[str, Array], dtype: Any = np.float64) -> float:
    """Largest |difference| of any output computed in `dtype`, over the largest |output|; inf when shapes differ."""
    feeds = {k: np.asarray(v, dtype) for k, v in x.items()}
    wanted = run_reference(before, feeds, dtype).outputs
    got = run_reference(after, feeds, dtype).outputs
    worst = 0.0
    for a, b in zip(wanted, got, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if a.size:
            scale = float(np.abs(a).max()) or 1.0
            worst = max(worst, float(np.abs(a - b).max()) / scale)
    return worst
