"""Whole branches of residual sums dropped: y = skip + branch(x) becomes y = skip. Lossy.

A narrower layer may leave vectors half full; a layer that is not there costs nothing on any machine. Networks with
identity paths lose little by some of their branches (Veit, Wilber and Belongie, NeurIPS 2016, section 4.1).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dojang.arith.graph import Graph, Node
from dojang.slimming.identities import does_nothing

BRANCHES = "remove-branches"


@dataclass(frozen=True)
class Branch:
    """One input of a sum that can go: `add` then computes what `stays` does, and `layers` (with weights) are gone."""

    add: str
    stays: str
    layers: tuple[str, ...]


def branches(graph: Graph) -> list[Branch]:
    """Every input of a sum of two equal shapes whose layers nothing else reads; sums that are outputs stay."""
    found: list[Branch] = []
    for node in graph.nodes:
        if node.op != "add" or len(node.inputs) != 2 or node.name in graph.outputs or node.inputs[0] == node.inputs[1]:
            continue
        for stays, goes in (node.inputs, node.inputs[::-1]):
            if graph.unit_shapes[stays] is None or graph.unit_shapes[stays] != graph.unit_shapes[goes]:
                continue
            gone = alone(graph, node, goes, stays)
            layers = tuple(n.name for n in graph.nodes if n.name in gone and n.rule.channels in ("conv", "dense"))
            if layers:
                found.append(Branch(node.name, stays, layers))
    return found


def alone(graph: Graph, add: Node, goes: str, stays: str) -> set[str]:
    """The nodes that only the input `goes` of `add` needs, found backwards from it."""
    gone, stack = set[str](), [goes]
    while stack:
        name = stack.pop()
        needed = any(r.name not in gone and r is not add for r in graph.consumers[name])
        if needed or name in gone or name == stays or name in graph.outputs:
            continue
        gone.add(name)
        stack += graph[name].inputs  # met again from its last reader where it has several
    return gone


def without(graph: Graph, dropped: Iterable[Branch]) -> Graph:
    """The network in which each of these sums is what stays of it, less activations that have nothing left to do.

    A ReLU after a sum whose other input had a ReLU already is a pass over the map for nothing once the branch is gone.
    """
    nodes = {branch.add: () for branch in dropped}
    if not nodes:
        return graph
    after = [reader.name for add in nodes for reader in graph.consumers[add] if reader.op in ("relu", "clip")]
    graph = graph.edited(nodes, {branch.add: branch.stays for branch in dropped})
    for name in after:
        if name in graph.by_name and name not in graph.outputs and does_nothing(graph, graph[name]):
            graph = graph.edited({name: ()}, {name: graph[name].inputs[0]})
    return graph
