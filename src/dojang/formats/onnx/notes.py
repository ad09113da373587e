"""Facts about a Graph that ONNX cannot express: stored in the file's metadata_props, and restored if they still fit.

The graph's `meta` are separate entries. The entry "dojang" is JSON:

- `inputs`: mean and std of an input (for people and other programs the entry "normalisation" says it in words);
- `nodes`: for a node that ONNX expresses differently (an adaptive pool as a plain one, 1/6 in float32), the node that
  is read (`read`) and the original (`was`);
- `arrays`: names of arrays that reading would choose differently; `order`: the order of nodes, if reading changes it;
- `names`, `graph`, `meta`: nodes, the name of the network and entries of its `meta` that the file cannot store
  unchanged (`names.py`).

A note that does not fit the graph that is read, because another program changed the file, is ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from dojang.arith.graph import Graph, Node
from dojang.arith.preparation import preparations
from dojang.base.errors import DojangError, GraphError
from dojang.base.showing import encodable
from dojang.formats.onnx.names import with_names

KEY = "dojang"
SPOKEN = "normalisation"
"""Metadata entry that says how samples are normalised before they enter, as does the `doc_string` of the model."""
MOST = 1 << 24
"""The most characters of notes; those of a network of 20,000 layers have about two million."""


def said(node: Node) -> dict[str, Any]:
    """A node's operator and attributes for JSON."""
    return json.loads(json.dumps({"op": node.op, "attrs": dict(node.attrs)}))


def write(graph: Graph, read: Graph, names: Mapping[str, str]) -> dict[str, str]:
    """The metadata of a graph, where reading its ONNX file without notes gives `read`; `names` is from `holdable`."""
    notes: dict[str, Any] = {"inputs": {}, "nodes": {}, "arrays": {}, "names": dict(names)}
    if graph.name != read.name:
        notes["graph"] = graph.name
    notes["meta"] = {k: v for k, v in graph.meta.items() if encodable(k + v) != k + v}
    for node in graph.nodes:
        other = read.by_name.get(node.name)
        own = {k: list(node.attrs[k]) for k in ("mean", "std") if node.attrs.get(k) is not None}
        if node.op == "input" and own:
            notes["inputs"][node.name] = own
        elif other is not None and other.inputs == node.inputs and node.op != "input":
            if (other.op, other.attrs) != (node.op, node.attrs):
                notes["nodes"][node.name] = {"read": said(other), "was": said(node)}
            for role in graph.node_params(node):
                if other.array(role) != node.array(role):
                    notes["arrays"][other.array(role)] = node.array(role)
    order = [node.name for node in graph.nodes]
    if [node.name for node in read.nodes] != order:
        notes["order"] = order
    notes = {key: value for key, value in notes.items() if value or key == "graph"}
    props = {k: v for k, v in graph.meta.items() if k not in (KEY, SPOKEN, *notes.get("meta", ()))}
    props |= {SPOKEN: spoken} if (spoken := in_words(graph)) else {}
    return props | ({KEY: json.dumps(notes, separators=(",", ":"))} if notes else {})


def in_words(graph: Graph) -> str:
    """How samples are normalised before they enter, a sentence for each input that states it."""
    return " ".join(encodable(how.stated) for how in preparations(graph) if how.stated)


def apply(graph: Graph, props: Mapping[str, str]) -> tuple[Graph, dict[str, str]]:
    """The graph with the facts from the metadata, and the new names of the arrays that it renames."""
    graph = graph.replace(meta={k: v for k, v in props.items() if k not in (KEY, SPOKEN)})
    text = props.get(KEY, "{}")
    try:
        notes = json.loads(text if len(text) <= MOST else "{}")
        inputs, nodes, arrays = (dict(notes.get(key, {})) for key in ("inputs", "nodes", "arrays"))
        order = {str(name): place for place, name in enumerate(notes.get("order", ()))}
        names = {str(k): str(v) for k, v in notes.get("names", {}).items()}
        meta = {str(k): str(v) for k, v in notes.get("meta", {}).items()}
        name = str(notes.get("graph", graph.name))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return graph, {}  # an entry of another program with the same name
    if not notes:
        return graph, {}
    graph = graph.replace(name=name, meta={**graph.meta, **meta})
    renamed = _renamed(graph, arrays)
    new: list[Node] = []
    for node in graph.nodes:
        with suppress(DojangError, TypeError, ValueError, KeyError, AttributeError):
            node = _noted(graph, node, inputs.get(node.name), nodes.get(node.name))
        if renamed:
            called = {role: renamed.get(node.array(role), node.array(role)) for role in graph.node_params(node)}
            own = {role: name for role, name in called.items() if name != f"{node.name}.{role}"}
            node = replace(node, arrays=own)
        new.append(node)
    if set(order) == {node.name for node in new}:
        with suppress(GraphError):  # an order that the network does not have (any more)
            graph, new = graph.replace(nodes=tuple(sorted(new, key=lambda n: order[n.name]))), []
    graph = graph.replace(nodes=tuple(new)) if new else graph
    if names.keys() <= {node.name for node in graph.nodes}:
        with suppress(GraphError):
            graph = with_names(graph, names)
    return graph, renamed


def _renamed(graph: Graph, arrays: Mapping[Any, Any]) -> dict[str, str]:
    """The renaming if it is one to one and every array exists, else an empty one."""
    if not arrays:
        return {}
    there = set(graph.param_shapes)
    kept = there - arrays.keys()
    new = [v for v in arrays.values() if isinstance(v, str) and v not in kept]
    fits = arrays.keys() <= there and len(set(new)) == len(arrays)
    return {str(k): str(v) for k, v in arrays.items()} if fits else {}


def _noted(graph: Graph, node: Node, own: Any, note: Any) -> Node:
    """The node of its note, or the given node if no note fits."""
    if node.op == "input":
        return node.with_attrs(**{k: v for k, v in own.items() if k in ("mean", "std")}) if own else node
    if note is None or note["read"] != said(node):
        return node
    new = Node.of(node.name, note["was"]["op"], *node.inputs, arrays=node.arrays, **note["was"]["attrs"])
    shapes = [graph.unit_shapes[i] for i in node.inputs]
    sizes = [s for s in shapes if s is not None]
    if len(sizes) < len(shapes) or new.infer(sizes) != graph.unit_shapes[node.name]:
        return node
    return new if new.param_shapes(sizes) == node.param_shapes(sizes) else node
