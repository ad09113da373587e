"""The parameters among the arrays of an ONNX file, and those from which each array of the network is made.

A file does not say which arrays were trained; that follows from the operators that read them. The weights of layers are
parameters, whatever their names. An array that is combined with computed values element by element is a parameter if it
has more than one real number and a name that its author gave; grids that an exporter computed and numbered are not.
Weights that a file makes from one number (ConstantOfShape) count with all their elements.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dojang.arith.graph import Graph, Node
from dojang.arith.stored import ROLES, Kind, Origin, Stored
from dojang.formats.onnx.constants import Const, Piece
from dojang.formats.onnx.draft import Reader


def with_stored(graph: Graph, arrays: Mapping[str, Const], reader: Reader) -> Graph:
    """The graph with the arrays that its file stores; `arrays` are its constants by the names of its arrays."""
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
            name += "'"  # bodies of an If may use the names of outer arrays
        names[key] = name
        stored[name] = Stored(piece.size, kinds[key], dtype=piece.dtype)
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
    """The role of a stored array for a node that reads it, alone or with others, as this constant."""
    if role in node.rule.buffers:
        return "buffer"
    if node.op == "constant" and not node.attrs["trained"]:
        return None
    alone = len(const.pieces) < 2
    return "parameter" if alone or (piece.size > 1 and (piece.sort == "f" or const.sort == "f")) else None
