"""To which module each layer of a network belongs, by its name.

`layer1.0.conv1` lies in module `layer1.0`. Exporters of ONNX write `/layer1/layer1.0/conv1/Conv`, where a part may
repeat the part before it, and TensorFlow `model/block1/Conv2D`. A source that knows more says it (`Graph.scopes`).
"""

from __future__ import annotations

from dojang.arith.graph import Graph

MOST_LEVELS = 32
"""The deepest that modules are followed; what lies deeper counts to the module of this depth."""

Scope = tuple[str, ...]


def scopes_of(graph: Graph) -> dict[str, Scope]:
    """For each node the path of its module, one part per level; () for a layer of the network itself.

    Where the source names its modules, no other part of a name is one. A node that is called as a module with other
    layers (`emb` beside `emb.weight`) belongs to it.
    """
    found: dict[str, Scope] = {}
    for node in graph.nodes:
        told = graph.scopes.get(node.name)
        scope = parts_of(node.name)[:-1] if told is None else tuple(told.split(".")) if told else ()
        scope = scope[:MOST_LEVELS]
        while scope and graph.modules and ".".join(scope) not in graph.modules:
            scope = scope[:-1]
        found[node.name] = scope
    held = {scope[:level] for scope in found.values() for level in range(1, len(scope) + 1)}
    for node in graph.nodes:
        if node.op != "input" and node.name not in graph.scopes and (path := parts_of(node.name)) in held:
            found[node.name] = path
    return found


def parts_of(name: str) -> Scope:
    """The levels of a name, its own last.

    >>> parts_of("layer1.0.conv1"), parts_of("/layer1/layer1.0/conv1/Conv"), parts_of("conv1")
    (('layer1', '0', 'conv1'), ('layer1', '0', 'conv1', 'Conv'), ('conv1',))
    """
    if "/" not in name:
        parts = name.split(".")
        return tuple(parts) if all(parts) else (name,)
    levels = [part for part in name.split("/") if part]
    found: list[str] = []
    before = ""
    for place, level in enumerate(levels):
        own = level
        if before and level.startswith(f"{before}."):
            own = level[len(before) + 1 :]
        last = place == len(levels) - 1
        pieces = own.split(".")
        found += [own] if (last and own == level) or not all(pieces) else pieces
        before = level
    return tuple(found) or (name,)
