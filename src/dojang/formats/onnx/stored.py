"""Which arrays of an ONNX file are parameters, and which of them each array of the network is made of.

A file does not say what was trained; it follows from who reads an array. The weights of layers are parameters whatever
they are called and wherever they stand. What meets computed values element by element is one if it holds more than one
real number under a name that its author gave; grids that an exporter worked out and numbered are not. Weights that a
file makes of one number (ConstantOfShape) count as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dojang.arith.graph import Graph, Node
from dojang.arith.stored import ROLES, Kind, Origin, Stored
from dojang.formats.onnx.constants import Const, Piece
from dojang.formats.onnx.draft import Reader


def told(graph: Graph, arrays: Mapping[str, Const], reader: Reader) -> Graph:
    """The graph with what its file stores; `arrays` are its constants by the names of its arrays."""
    kinds: dict[int, Kind] = {}
    pieces: dict[int, Piece] = {}
    made = {name: const.pieces or (Piece(name, const.size, const.sort),) for name, const in arrays.items()}
    for node in graph.nodes:
        for role, const in _read(node, arrays):
            for piece in made[node.array(role)]:
                kind = _kind(node, role, const, piece)
                if kind is not None and kinds.get(id(piece)) != "parameter":
                    kinds[id(piece)] = kind
                    pieces[id(piece)] = piece
    for piece in reader.pieces:
        idle = not reader.used[piece.name] and piece.sort == "f" and piece.size > 1 and piece.named
        if id(piece) not in kinds and idle:
            kinds[id(piece)], pieces[id(piece)] = "parameter", piece
    names: dict[int, str] = {}
    stored: dict[str, Stored] = {}
    for key, piece in pieces.items():
        name = piece.name or "array"
        while name in stored:
            name += "'"  # bodies of an If may call their arrays as those around them
        names[key] = name
        stored[name] = Stored(piece.size, kinds[key])
    origins = {
        name: Origin(const.shape, tuple(names[id(p)] for p in made[name] if id(p) in names))
        for name, const in arrays.items()
    }
    return graph.replace(stored=stored, origins=origins)


def _read(node: Node, arrays: Mapping[str, Const]) -> Iterator[tuple[str, Const]]:
    """The arrays of a node by role."""
    for role in ROLES if node.rule.params else ():
        const = arrays.get(node.array(role))
        if const is not None:
            yield role, const


def _kind(node: Node, role: str, const: Const, piece: Piece) -> Kind | None:
    """What a stored array is to a node that reads it, perhaps with others, as this constant."""
    if role in node.rule.buffers:
        return "buffer"
    if node.op == "constant" and not node.attrs["trained"]:
        return None
    alone = len(const.pieces) < 2
    return "parameter" if alone or (piece.size > 1 and (piece.sort == "f" or const.sort == "f")) else None
