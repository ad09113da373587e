"""What the page is told of a network before anything is computed: rows, layers with their figures, receptive fields."""

from __future__ import annotations

from typing import Any

from dojang.arith.cost import Count
from dojang.arith.graph import Graph
from dojang.arith.layer import Layer
from dojang.report.show.flow import FlowBlock, FlowRow, flow_of

LEARNT = {"conv": "conv", "conv_transpose": "conv", "deform_conv": "conv", "dynamic_conv": "conv", "dense": "dense"}
"""Types that have a colour of their own, the same on every page; all others are grey."""


def overview(count: Count, graph: Graph) -> dict[str, Any]:
    """Names, figures and drawing of a counted network, as JSON. Figures that could not be counted are None."""
    total = count.total
    return {
        "network": count.network,
        "params": total.params,
        "macs": total.macs,
        "bound": total.status == "lower-bound",
        "convention": str(count.convention),
        "layers": [layer_row(layer, graph) for layer in count.layers],
        "flow": block_row(flow_of(count)),
    }


def layer_row(layer: Layer, graph: Graph) -> dict[str, Any]:
    """One layer: what it is, what enters and leaves, what it costs, and what each of its places sees."""
    known = not layer.cost.unknown
    spans = layer.field if layer.op != "constant" else None
    return {
        "name": layer.name,
        "op": layer.kind or layer.op,
        "type": LEARNT.get(layer.op, "other"),
        "inputs": list(layer.inputs),
        "in_shapes": [None if s is None else list(s) for s in layer.in_shapes],
        "shape": None if layer.out_shape is None else list(layer.out_shape),
        "params": layer.cost.params if known or layer.cost.params else None,
        "macs": layer.cost.macs if known else None,
        "window": None if layer.geometry is None else window_row(layer, graph),
        "field": None if spans is None else [{"size": s.size, **s.to_dict()} for s in spans],
    }


def window_row(layer: Layer, graph: Graph) -> dict[str, Any]:
    """The window of a layer, one number per axis; padding as pairs, None where it is not known."""
    one = layer.geometry
    assert one is not None
    return {
        "said": str(one),
        "kernel": list(one.kernel),
        "stride": list(one.stride),
        "padding": None if one.padding is None else [list(pair) for pair in one.padding],
        "dilation": list(one.dilation),
        "groups": one.groups,
        "extra": list(one.output_padding),
        "transposed": layer.op == "conv_transpose",
        "count_padding": bool(graph[layer.name].attrs.get("count_padding", True)),
    }


def block_row(block: FlowBlock) -> dict[str, Any]:
    """A drawing as JSON."""
    return {
        "lanes": block.lanes,
        "gaps": [[list(line) for line in gap] for gap in block.gaps],
        "rows": [_row(row) for row in block.rows],
    }


def _row(row: FlowRow) -> dict[str, Any]:
    return {
        "label": row.label,
        "layers": list(row.layers),
        "lane": row.lane,
        "times": row.times,
        "kind": row.kind,
        "inner": None if row.inner is None else block_row(row.inner),
        "unfolded": row.unfolded,
    }
