"""Names that an ONNX file cannot store: empty ones (they mean "absent") and unpaired surrogates (protobuf strings are
UTF-8). Such nodes are written with another name; the notes (`notes.py`) store the true one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dojang.arith.graph import Graph
from dojang.base.showing import encodable


def holdable(graph: Graph) -> tuple[Graph, dict[str, str]]:
    """The graph with node names that a file can store, and {name in the file: true name} of those that changed.

    Arrays keep their names; the writer changes those that need it.
    """
    taken = {node.name for node in graph.nodes}
    new: dict[str, str] = {}
    for node in graph.nodes:
        if not node.name or encodable(node.name) != node.name:
            name, count = encodable(node.name) or "node", 1
            while name in taken:
                name, count = f"{encodable(node.name) or 'node'}_{count}", count + 1
            taken.add(name)
            new[node.name] = name
    return (with_names(graph, new) if new else graph), {there: name for name, there in new.items()}


def with_names(graph: Graph, names: Mapping[str, str]) -> Graph:
    """The graph with nodes renamed and the same names of arrays. Raises `GraphError` if two names become one."""

    def called(name: str) -> str:
        return names.get(name, name)

    nodes = [
        replace(
            node,
            name=called(node.name),
            inputs=tuple(called(i) for i in node.inputs),
            arrays={
                role: node.array(role)
                for role in graph.node_params(node)
                if node.array(role) != f"{called(node.name)}.{role}"
            },
        )
        for node in graph.nodes
    ]
    return graph.replace(nodes=tuple(nodes), outputs=tuple(called(o) for o in graph.outputs))
