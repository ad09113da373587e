"""Where the cost sits: layers with much of the parameters, multiplications or time, and layers far below the peak."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.evidence.finding import Finding
from dojang.evidence.times import CallTimes, LayerTime, reliable_rows

SHARE = 0.25
"""A layer that holds this part of a whole is a hot spot."""

SLOW = 0.25
"""A layer that reaches less than this part of the peak is far below it."""

TIME_SHARE = 0.1
"""No reason is looked for why a layer is slow if it takes less than this part of the time."""

SHORT_MS = 0.02
"""In a layer as short as this start-up and hand-over dominate: threads meet, caches fill (some µs each)."""


def hot_spots(graph: Graph, times: CallTimes | None = None, share: float = SHARE) -> list[Finding]:
    """Layers that hold at least `share` of all parameters, MACs, or of the measured time of one call."""
    table = count(graph)
    wholes = {
        "parameters": {row.name: row.cost.params for row in table.layers},
        "MACs": {row.name: row.cost.macs for row in table.layers},
    }
    findings: list[Finding] = []
    for what, parts in wholes.items():
        total = sum(parts.values())
        findings += [
            _hot(name, part / total, share, what, f"{part:,} of {total:,}")
            for name, part in parts.items()
            if total and part >= share * total
        ]
    for name, row in reliable_rows(times).items():
        assert times is not None  # or it would have no rows
        if row.ms >= share * times.call_ms:
            said = f"{row.ms:.4f} of {times.call_ms:.4f} ms{_together(row)}"
            findings.append(_hot(name, row.ms / times.call_ms, share, "measured time", said))
    return findings


def _hot(layer: str, part: float, share: float, what: str, said: str) -> Finding:
    evidence = f"it holds {part:.0%} of the {what}: {said}"
    return Finding(layer, "hot-spot", (), part, share, evidence, measure=f"part of the {what}")


def _together(row: LayerTime) -> str:
    """Which other layers the time is of as well; "" where it is of one."""
    others = [name for name in row.members if name != row.layer]
    return f" (computed in one step with {', '.join(others)})" if others else ""


def far_below(graph: Graph, times: CallTimes | None) -> list[Finding]:
    """Layers that take a tenth of the time or more and reach less than `SLOW` of the machine's peak, with the reason.

    None where there are no times, or they are in doubt: a reason for a wrong time would be invented. The reason is
    what the layer's own figures say: its weights alone take that long to read; or it has too little work to start, too
    few channels to fill vectors, or a few multiplications for each number that it reads and writes.
    """
    findings = list[Finding]()
    for name, row in reliable_rows(times).items():
        assert times is not None  # or it would have no rows
        if not row.macs or row.ms < TIME_SHARE * times.call_ms:
            continue
        reached = 2 * row.macs / (row.ms * 1e6) / times.peak_gflops
        if reached >= SLOW:
            continue
        evidence = (
            f"it takes {row.ms:.4g} of {times.call_ms:.4g} ms and reaches {reached:.0%} of the machine's peak of "
            f"{times.peak_gflops:.3g} GFLOP/s: {_reason(graph, row, times)}{_together(row)}"
        )
        findings.append(Finding(name, "hot-spot", (), reached, SLOW, evidence, measure="part of the peak"))
    return findings


def _reason(graph: Graph, row: LayerTime, times: CallTimes) -> str:
    """Why a layer is far below the peak, by its own figures."""
    node, params = graph[row.layer], {layer.name: layer.cost.params for layer in count(graph).layers}
    moved = 4 * times.batch * sum(prod(graph.unit_shapes[v] or ()) for v in _outside(graph, row.members))
    total = moved + 4 * sum(params[name] for name in row.members)
    reading = total / (times.read_gbs * 1e6)
    per_number = 4 * row.macs / max(1, total)
    if 0.5 * row.ms < reading < 2 * row.ms:  # what takes less time than memory needs has come from the caches
        return f"to read and write its {total / 1e6:.3g} MB alone takes {reading:.3g} ms"
    if row.ms < SHORT_MS:
        return f"{row.ms * 1e3:.3g} µs is too short to reach the peak: start-up and hand-over dominate"
    if node.attrs.get("groups", 1) > 1:
        each = node.attrs["out"] // node.attrs["groups"]
        return f"each of its groups has {each} output channels, so each number that it reads is used little"
    if per_number < 16:
        return f"it makes only {per_number:.3g} multiplications for each number that it reads or writes"
    return "its shape does not explain this; `dojang run --plan` shows which algorithm computes it"


def _outside(graph: Graph, members: Sequence[str]) -> list[str]:
    """The values that a step reads, and those that are read behind it."""
    own = set(members)
    read = dict.fromkeys(v for name in members for v in graph[name].inputs if v not in own)
    made = [m for m in members if m in graph.outputs or any(r.name not in own for r in graph.consumers[m])]
    return [*read, *made]
