"""What a page needs to show how one number of a layer came about: its window, its weights, what was added."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dojang.arith.attrs import Attrs
from dojang.arith.shapes import Shape, conv_problem
from dojang.engine.fuse import CONVS, Fused, Group

POOLS = ("maxpool", "avgpool")


def described(fused: Fused, group: Group, weights: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A group as data: what it reads, what it computes, its window and weights where it has some.

    `weights` has the stored weights and bias of convolutions and dense layers, by the name of their node.
    """
    node = group.node
    found: dict[str, Any] = {
        "value": group.value, "node": node.name, "op": node.op, "members": group.members, "inputs": group.inputs,
        "residual": group.residual, "activation": asdict(group.activation) if group.activation else None,
        "norm": group.norm.name if group.norm else None,
    }  # fmt: skip
    shape = fused.shapes[group.inputs[0]] if group.inputs else None
    if shape is None:
        return found
    if node.op in CONVS:
        found["window"] = _conv_window(group, shape)
        found |= weights.get(node.name, {})
    elif node.op in POOLS:
        found["window"] = _pool_window(shape, node.attrs)
    return found


def _conv_window(group: Group, shape: Shape) -> dict[str, Any] | None:
    """Of a convolution; a dense layer on vectors is one of one pixel."""
    node = group.node
    if node.op == "dense":
        none = {"kernel": (), "stride": (), "padding": (), "dilation": (), "groups": 1, "transposed": False}
        return none if len(shape) == 2 else None
    c = conv_problem(node.attrs, [shape], node.op == "conv_transpose")
    padding = tuple(before for before, _ in c.padding)
    return {"kernel": c.kernel, "stride": c.stride, "padding": padding, "dilation": c.dilation, "groups": c.groups,
                "transposed": c.transposed}  # fmt: skip


def _pool_window(shape: Shape, a: Attrs) -> dict[str, Any]:
    """Of a pooling; each channel is a group of its own."""
    dilation = a["dilation"] if "dilation" in a else (1,) * len(a["kernel"])
    padding = () if isinstance(a["padding"], str) else tuple(before for before, _ in a["padding"])
    return {"kernel": a["kernel"], "stride": a["stride"], "padding": padding, "dilation": dilation, "groups": shape[1],
                "transposed": False, "counts": bool(a["count_padding"]) if "count_padding" in a else False}  # fmt: skip
