"""Functions that an ONNX file defines itself: each use is replaced by the nodes of the function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dojang.base.errors import GraphError
from dojang.formats.onnx.protobuf import Message, decode, encode
from dojang.formats.onnx.schema import GRAPH

MOST_NODES = 100_000
"""The most nodes of a file with all functions written out; functions that use functions grow fast."""
MOST_DEPTH = 32


def inlined(model: Message, graph: Message) -> tuple[Message, Message]:
    """The model and its graph without functions of its own. Raises `GraphError` for functions that use themselves."""
    functions = {_key(f.get("domain", ""), f.get("name", "")): f for f in model.get("functions", ())}
    if not functions:
        return model, graph
    nodes = _written_out(graph.get("node", ()), functions, 0, [0])
    new = {**graph, "node": nodes}
    return {**model, "graph": new}, new


def _key(domain: str, name: str) -> tuple[str, str]:
    return "" if domain == "ai.onnx" else domain, name


def _written_out(
    nodes: Sequence[Message], functions: Mapping[tuple[str, str], Message], depth: int, made: list[int]
) -> list[Message]:
    out: list[Message] = []
    for node in nodes:
        function = functions.get(_key(node.get("domain", ""), node.get("op_type", "")))
        made[0] += 1
        if made[0] > MOST_NODES:
            raise GraphError(f"more than {MOST_NODES:,} nodes with all functions of the file written out")
        if function is None:
            out.append(node)
            continue
        if depth >= MOST_DEPTH:
            raise GraphError(f"the function {function.get('name', '')!r} uses itself, or functions nest too deep")
        out += _written_out(_body(node, function, made[0]), functions, depth + 1, made)
    return out


def _body(node: Message, function: Message, number: int) -> list[Message]:
    """The nodes of one use: names of inputs and outputs are those of the use, other names are made unique."""
    name = node.get("name") or next((o for o in node.get("output", ()) if o), "") or function.get("name", "")
    place = f"{name}/{number}" if not node.get("name") else name
    names: dict[str, str] = {"": ""}
    for theirs, ours in (("input", "input"), ("output", "output")):
        given = list(node.get(ours, ()))
        for k, inner in enumerate(function.get(theirs, ())):
            outer = given[k] if k < len(given) else ""
            if theirs == "input" or outer:
                names[inner] = outer
    refs = {a.get("name", ""): a for a in function.get("attribute_proto", ())}
    refs |= {a.get("name", ""): a for a in node.get("attribute", ())}
    return [_renamed(inner, names, f"{place}/{number}", refs) for inner in function.get("node", ())]


def _renamed(node: Message, names: dict[str, str], place: str, refs: Mapping[str, Message]) -> Message:
    def of(name: str) -> str:
        return names.get(name, f"{place}/{name}")

    attributes: list[Message] = []
    for attr in node.get("attribute", ()):
        ref = attr.get("ref_attr_name")
        if ref:
            if ref in refs:
                attributes.append({**refs[ref], "name": attr.get("name", "")})
        elif "g" in attr:
            attributes.append({**attr, "g": _graph(attr["g"], of, refs)})
        else:
            attributes.append(attr)
    new = {**node, "input": [of(i) for i in node.get("input", ())], "output": [of(o) for o in node.get("output", ())]}
    new["attribute"] = attributes
    if node.get("name"):
        new["name"] = f"{place}/{node['name']}"
    return new


def _graph(data: Any, of: Any, refs: Mapping[str, Message]) -> bytes:
    """A body of If, Loop or Scan within a function, in which all names are renamed."""
    body = decode(GRAPH, data)
    nodes = [_renamed_in(node, of, refs) for node in body.get("node", ())]
    named = [{**v, "name": of(v.get("name", ""))} for v in body.get("output", ())]
    inputs = [{**v, "name": of(v.get("name", ""))} for v in body.get("input", ())]
    held = [{**t, "name": of(t.get("name", ""))} for t in body.get("initializer", ())]
    return encode(GRAPH, {**body, "node": nodes, "output": named, "input": inputs, "initializer": held})


def _renamed_in(node: Message, of: Any, refs: Mapping[str, Message]) -> Message:
    attributes: list[Message] = []
    for attr in node.get("attribute", ()):
        ref = attr.get("ref_attr_name")
        if ref:
            if ref in refs:
                attributes.append({**refs[ref], "name": attr.get("name", "")})
        else:
            attributes.append({**attr, "g": _graph(attr["g"], of, refs)} if "g" in attr else attr)
    new = {**node, "input": [of(i) if i else "" for i in node.get("input", ())]}
    return {**new, "output": [of(o) if o else "" for o in node.get("output", ())], "attribute": attributes}
