"""What bypassing each block costs: residual branches, gates and single layers left out, the answers measured again.

Networks with identity paths lose little by some of their blocks (Veit, Wilber and Belongie, "Residual networks behave
like ensembles of relatively shallow networks", NeurIPS 2016, section 4.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.diagnosis.trials import Change, Trials
from dojang.evidence.activations import activated, layers
from dojang.evidence.finding import Finding

IDLE = 0.01
"""A block is idle if the answers to at most this part of the samples change without it and the output moves by at most
`MOVED` of its deviation; where there are no classes, if the output moves by at most this part of it."""

MOVED = 0.1
"""An output that moves further has changed, even if no sample has come near to another class."""


@dataclass(frozen=True)
class BypassedBlock:
    """A part that can be left out with all shapes kept: readers of `at` then read `stays`, and `layers` are gone.

    `kind`: a "branch" of a sum, a "gate" that scales channels, or a "layer" of the same shape before and behind it.
    """

    kind: str
    at: str
    stays: str
    layers: tuple[str, ...]
    graph: Graph


@dataclass(frozen=True)
class Bypass:
    """One block left out on `samples` samples: what that saves, and what it changes, without any new training.

    `accuracy_before` and `accuracy` are shares of these samples that are answered right, None without labels; the other
    figures are those of `trials.Change`.
    """

    kind: str
    at: str
    layers: tuple[str, ...]
    params: int
    macs: int
    output_change: float | None
    answers_changed: float | None
    accuracy_before: float | None
    accuracy: float | None
    samples: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"layers": list(self.layers)}


def blocks(graph: Graph) -> list[BypassedBlock]:
    """Every branch of a sum of equal shapes, every gate, every layer that keeps its shape; those with layers only."""
    found: dict[tuple[str, ...], BypassedBlock] = {}
    for kind, at, stays in _candidates(graph):
        shapes = graph.unit_shapes
        if shapes[at] is None or shapes[at] != shapes[stays] or at in graph.outputs:
            continue
        without = graph.edited({at: ()}, {at: stays})
        left = {node.name for node in layers(without)}
        gone = tuple(node.name for node in layers(graph) if node.name not in left)
        if gone and left and any(i.name in _needed(without) for i in without.inputs):
            found.setdefault(gone, BypassedBlock(kind, at, stays, gone, without))
    return list(found.values())


def _candidates(graph: Graph) -> Iterator[tuple[str, str, str]]:
    for node in graph.nodes:
        if node.op in ("add", "mul") and len(node.inputs) == 2 and node.inputs[0] != node.inputs[1]:
            for stays in node.inputs:
                yield ("branch" if node.op == "add" else "gate"), node.name, stays
    for node in layers(graph):
        yield "layer", activated(graph, node.name), node.inputs[0]


def _needed(graph: Graph) -> set[str]:
    """The values that the outputs need."""
    found, stack = set[str](), list(graph.outputs)
    while stack:
        name = stack.pop()
        if name not in found:
            found.add(name)
            stack += graph[name].inputs
    return found


def bypasses(found: list[BypassedBlock], trials: Trials) -> tuple[Bypass, ...]:
    """Each block left out by itself, in the order of the network."""
    graph = trials.graph
    place = {node.name: i for i, node in enumerate(graph.nodes)}
    whole = count(graph).total
    rows: list[Bypass] = []
    for block in sorted(found, key=lambda b: place[b.at]):
        change: Change = trials.change(block.graph)
        left = count(block.graph).total
        rows.append(
            Bypass(
                block.kind, block.at, block.layers, whole.params - left.params, whole.macs - left.macs,
                change.output_change, change.answers_changed, trials.accuracy, change.accuracy, trials.samples,
            )
        )  # fmt: skip
    return tuple(rows)


def findings(rows: tuple[Bypass, ...]) -> list[Finding]:
    """Blocks without which hardly any answer changes."""
    found: list[Finding] = []
    for row in rows:
        value = row.output_change if row.answers_changed is None else row.answers_changed
        if value is None or value > IDLE or (row.output_change or 0.0) > MOVED:
            continue
        what = f"the {row.kind} with {', '.join(row.layers)}" if row.kind != "layer" else "this layer"
        said = f"without {what} "
        if row.answers_changed is not None:
            said += f"{row.answers_changed:.1%} of the answers to {row.samples} samples change"
        else:
            said += f"the output moves by {value:.1%} of its deviation over {row.samples} samples"
        if row.accuracy is not None and row.accuracy_before is not None:
            said += f" (accuracy {row.accuracy_before:.1%} before, {row.accuracy:.1%} after)"
        said += f"; it holds {row.params:,} parameters and {row.macs:,} MACs"
        found.append(Finding(row.at, "idle-block", (), value, IDLE, said, "info"))
    return found
