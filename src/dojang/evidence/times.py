"""Measured times by layer: each step of a plan counts once, for one layer, so that all of them add up to one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.engine.plan.choose import Plan


@dataclass(frozen=True)
class LayerTime:
    """Milliseconds of the steps that compute `members` (nodes of the network), told for `layer`, the one of them with
    most multiplications. `macs` are those of all members, for the whole batch.
    """

    layer: str
    members: tuple[str, ...]
    ms: float
    macs: int


@dataclass(frozen=True)
class CallTimes:
    """Where the time of one call of dojang's engine goes: `layers`, `layout_ms` (bringing the input to the engine's
    order of channels and the answers back) and `outside_ms` (Python: checks, copying answers) add up to `call_ms`,
    which was measured apart.

    All are milliseconds of a batch of `batch` on `threads` threads, whose peaks together are `peak_gflops` and
    `read_gbs`. `doubt` says why the times are not to be relied on: then nothing is concluded from them.
    """

    layers: tuple[LayerTime, ...]
    layout_ms: float
    outside_ms: float
    call_ms: float
    batch: int
    threads: int
    peak_gflops: float
    read_gbs: float
    doubt: str | None = None

    @property
    def sum_ms(self) -> float:
        """Layers, layout and what is outside of them, together."""
        return sum(row.ms for row in self.layers) + self.layout_ms + self.outside_ms

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"layers": [asdict(row) for row in self.layers], "sum_ms": self.sum_ms}


def call_times(graph: Graph, plan: Plan, peaks: tuple[float, float]) -> CallTimes | None:
    """The measured times of a plan by layer; None where it was not measured. `peaks`: GFLOP/s and GB/s of one core."""
    if plan.call is None:
        return None
    macs = {row.name: row.cost.macs for row in count(graph).layers}
    spent: dict[str, tuple[set[str], float]] = {}
    layout = 0.0
    for choice in plan.choices:
        members = [name for name in dict.fromkeys((*choice.members, choice.value)) if name in macs]
        if not choice.members or not members:
            layout += 1e3 * (choice.measured_s or 0.0)
            continue
        layer = max(members, key=lambda name: (macs[name], name == choice.value))
        before, ms = spent.get(layer, (set[str](), 0.0))
        spent[layer] = before | set(members), ms + 1e3 * (choice.measured_s or 0.0)
    place = {node.name: i for i, node in enumerate(graph.nodes)}
    rows = tuple(
        LayerTime(layer, tuple(sorted(members, key=place.__getitem__)), ms, plan.batch * sum(macs[m] for m in members))
        for layer, (members, ms) in spent.items()
    )
    gflops, gbs = (plan.run_threads * peak for peak in peaks)
    return CallTimes(
        rows, layout, 1e3 * plan.call.outside_s, 1e3 * plan.call.call_s, plan.batch, plan.run_threads, gflops, gbs,
        plan.doubt,
    )  # fmt: skip


def reliable_rows(times: CallTimes | None) -> Mapping[str, LayerTime]:
    """The rows by layer; none where there are no times, or they are in doubt."""
    return {} if times is None or times.doubt else {row.layer: row for row in times.layers}
