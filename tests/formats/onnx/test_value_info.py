"""Exported files state the shape of every value between inputs and outputs, as ONNX's own inference finds it."""

from __future__ import annotations

from typing import Any

import pytest

from dojang.arith.graph import Graph
from dojang.formats import onnx as onnx_format
from dojang.formats import zoo
from operator_networks import CASES, weighted

onnx = pytest.importorskip("onnx")


def stated(values: Any) -> dict[str, list[int | str]]:
    """Sizes by name: numbers, or the symbol of a size."""
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


@pytest.mark.parametrize("graph", [*CASES, zoo.load("lenet5")], ids=lambda g: f"{g.nodes[-1].op}")
def test_shapes_are_those_of_onnx(graph: Graph) -> None:
    model = onnx.load_from_string(onnx_format.to_bytes(weighted(graph)))
    said = stated(model.graph.value_info)
    outputs = {v.name for v in model.graph.output}
    made = {name for node in model.graph.node for name in node.output}
    nodes = {node.name for node in graph.nodes if node.op != "input"}
    assert said.keys() >= (made & nodes) - outputs
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    for name, sizes in stated(inferred.graph.value_info).items():
        if name in said:
            assert types[name] == onnx.TensorProto.FLOAT
            assert len(said[name]) == len(sizes)
            numbers = [(a, b) for a, b in zip(said[name], sizes, strict=True) if isinstance(b, int) and b]
            assert all(a == b or isinstance(a, str) for a, b in numbers), name
