"""Layers that do nothing at inference, removed; zero padding written into the convolution that follows."""

from __future__ import annotations

from dojang.arith.graph import Graph, Node
from dojang.arith.shapes import conv_problem
from dojang.evidence.evidence import Evidence
from dojang.slimming.rewrite import Applied, Rewrite

NOT_NEGATIVE = frozenset(("relu", "sigmoid", "softmax", "abs", "exp", "sqrt", "softplus"))
"""Operators whose output ReLU does not change."""


def apply(known: Evidence) -> Applied | None:
    """Removes identities, useless pads, repeated activations, and nodes that no output needs."""
    graph = known.graph
    names = {node.name for node in graph.nodes}
    new = graph.edited()
    while True:
        for node in new.nodes:
            if does_nothing(new, node) and node.name not in new.outputs:
                new = new.edited({node.name: ()}, {node.name: node.inputs[0]})
                break
            merged = _padding_into_conv(new, node)
            if merged is not None:
                new = merged
                break
        else:
            break
    gone = [node.name for node in graph.nodes if node.name in names - {n.name for n in new.nodes}]
    return Applied(new, tuple(gone), f"{len(gone)} layers that change nothing") if gone else None


def does_nothing(graph: Graph, node: Node) -> bool:
    """Whether a node's output is its first input, whatever that holds."""
    if not node.inputs:
        return False
    before, after = graph.unit_shapes[node.inputs[0]], graph.unit_shapes[node.name]
    if before is None or before != after:
        return False
    attrs, source = node.attrs, graph[node.inputs[0]]
    match node.op:
        case "identity" | "dropout" | "flatten" | "reshape" | "squeeze" | "unsqueeze":
            return True
        case "pad":
            return not any(p for pair in attrs["pads"] for p in pair)
        case "concat":
            return len(node.inputs) == 1
        case "transpose":
            return attrs["perm"] == tuple(range(len(before)))
        case "slice":
            return attrs["step"] == 1
        case "gather":
            return attrs["indices"] == tuple(range(len(attrs["indices"])))
        case "maxpool" | "avgpool":
            return all(k == 1 for k in attrs["kernel"]) and all(s == 1 for s in attrs["stride"])
        case "adaptive_maxpool" | "adaptive_avgpool" | "global_maxpool" | "global_avgpool":
            return True
        case "relu":
            return source.op in NOT_NEGATIVE or (source.op == "clip" and (source.attrs["min"] or -1) >= 0)
        case "clip":
            return source.op == "clip" and dict(source.attrs) == dict(attrs)
        case "resize":
            return attrs["mode"] == "nearest" and attrs["coords"] == "asymmetric"
        case _:
            return False


def _padding_into_conv(graph: Graph, node: Node) -> Graph | None:
    """A convolution that reads an explicit zero padding of space alone pads itself instead."""
    if node.op != "conv" or graph[node.inputs[0]].op != "pad":
        return None
    pad = graph[node.inputs[0]]
    shape = graph.unit_shapes[pad.inputs[0]]
    attrs = pad.attrs
    rank = len(node.attrs["kernel"])
    full = ((0, 0),) * (rank + 2 - len(attrs["pads"])) + attrs["pads"]
    if shape is None or attrs["mode"] != "constant" or attrs["value"] != 0 or len(graph.consumers[pad.name]) > 1:
        return None
    if (
        pad.name in graph.outputs
        or any(p < 0 for pair in full for p in pair)
        or any(p for pair in full[:2] for p in pair)
    ):
        return None
    own = conv_problem(node.attrs, [graph.unit_shapes[pad.name] or ()]).padding
    total = tuple((a + c, b + d) for (a, b), (c, d) in zip(full[2:], own, strict=True))
    conv = Node.of(node.name, "conv", pad.inputs[0], arrays=node.arrays, **{**node.attrs, "padding": total})
    return graph.edited({node.name: conv, pad.name: ()})


IDENTITIES = Rewrite("remove-identities", "exact", "layers that change nothing, and unread ones, are removed", apply)
