"""What `onnx.to_bytes` writes: valid by onnx.checker, the same numbers in onnxruntime, and read back exactly."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from dojang.arith.graph import Graph, Node
from dojang.base.errors import FileError, GraphError, UnsupportedError
from dojang.engine.reference.operators import run_reference
from dojang.formats import onnx as onnx_format
from dojang.formats import zoo
from operator_networks import CASES, IN, X, one, picture, weighted

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("graph", CASES, ids=lambda g: f"{g.nodes[-1].op}")
def test_onnxruntime_reads_it_and_computes_the_same_and_it_comes_back(graph: Graph) -> None:
    graph = weighted(graph)
    data = onnx_format.to_bytes(graph)
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    for n in (1, 3):
        x = picture(graph, n)
        wanted = run_reference(graph, x).outputs
        for y, right in zip(session.run(None, {"x": x}), wanted, strict=True):
            assert y.shape == right.shape
            np.testing.assert_allclose(y, right, rtol=2e-4, atol=2e-5)
    back = onnx_format.from_bytes(data)
    assert back == graph
    assert set(back.weights) == set(graph.weights)
    assert all(np.array_equal(back.weights[k], v) for k, v in graph.weights.items())
    assert onnx_format.from_bytes(data, weights=False) == graph


def test_scales_of_a_resize_are_said_for_every_axis() -> None:
    graph = one("resize", scale=(2.0,), mode="nearest", coords="asymmetric")
    model = onnx.load_from_string(onnx_format.to_bytes(weighted(graph)))
    (node,) = (n for n in model.graph.node if n.op_type == "Resize")
    # ONNX Runtime 1.32 takes a scale for each axis of a quantised network, whatever `axes` says, and fails
    assert "axes" not in {a.name for a in node.attribute}


@pytest.mark.parametrize("name", ["lenet5", "alexnet", "resnet20-cifar10", "digits-cnn"])
def test_zoo_networks_come_back_with_what_onnx_cannot_say(name: str) -> None:
    graph = weighted(zoo.load(name))
    entry = graph.inputs[0]
    channels = entry.attrs["shape"][0]
    marked = entry.with_attrs(mean=(0.1,) * channels, std=(1 / 3,) * channels)
    graph = graph.edited(nodes={entry.name: marked}).replace(meta={"classes": "a,b,ü", "source": "here"})
    back = onnx_format.from_bytes(onnx_format.to_bytes(graph))
    assert back == graph
    assert back.meta == graph.meta
    assert all(np.array_equal(back.weights[k], v) for k, v in graph.weights.items())


def test_shared_layers_stay_shared() -> None:
    nodes = (
        IN("x", "input", shape=(4, 6, 6)),
        IN("a", "conv", "x", out=4, kernel=(3, 3), padding=1, arrays={"weight": "common"}),
        IN("b", "conv", "a", out=4, kernel=(3, 3), padding=1, arrays={"weight": "common", "bias": "a.bias"}),
        IN("t", "transpose", "b", perm=(0, 2, 3, 1)),
        IN("d", "dense", "t", out=4),
        IN("y", "dense", "d", out=4, arrays={"weight": "d.weight"}),
    )
    graph = weighted(Graph(nodes, ("y",)))
    data = onnx_format.to_bytes(graph)
    assert sum(t.name == "common" for t in onnx.load_from_string(data).graph.initializer) == 1
    assert onnx_format.from_bytes(data) == graph
    assert set(onnx_format.from_bytes(data).weights) == set(graph.weights)


def spelled(op: str, **settings: Any) -> Node:
    return IN("y", "standard", *settings.pop("inputs", "x"), kind=op, settings=json.dumps(settings), shape=X,
              opset=26 if op == "CumProd" else 18)  # fmt: skip


SPELLED = {
    "adaptive mean": (IN("y", "adaptive_avgpool", "x", out=(4, 3)),),
    "adaptive, one axis": (IN("y", "adaptive_avgpool", "x", out=(6, 3)),),
    "adaptive, more than there are": (IN("y", "adaptive_avgpool", "x", out=(9, 3)),),
    "adaptive largest": (IN("y", "adaptive_maxpool", "x", out=(4, 5)),),
    "even response": (IN("y", "lrn", "x", size=4, alpha=0.3, beta=0.6, k=1.5),),
    "running product": (
        IN("a", "constant", shape=(), fill=3.0, dtype="int64"), spelled("CumProd", inputs=("x", "a")),
    ),
    "places only": (
        IN("k", "constant", shape=(1,), fill=2.0, dtype="int64"),
        IN("y", "standard", "x", "k", kind="TopK", settings='{"axis": 1}', shape=(2, 6, 8), output=1, dtype="int64",
           opset=18),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLED)
def test_what_onnx_has_no_form_of_is_written_by_others(name: str) -> None:
    """Valid files; ONNX Runtime, and the network that is read back, compute the same for one image and for three."""
    graph = Graph((IN("x", "input", shape=X), *SPELLED[name]), ("y",))
    data = onnx_format.to_bytes(graph)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    for n in (1, 3):
        x = picture(graph, n)
        (wanted,) = run_reference(graph, x).outputs
        for found in (session.run(None, {"x": x})[0], run_reference(onnx_format.from_bytes(data), x).outputs[0]):
            assert found.shape == wanted.shape
            np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5)


def test_a_note_that_no_longer_fits_is_left_out() -> None:
    graph = weighted(one("adaptive_avgpool", out=(3, 2)))
    model = onnx.load_from_string(onnx_format.to_bytes(graph))
    pool = next(node for node in model.graph.node if node.op_type == "AveragePool")
    next(a for a in pool.attribute if a.name == "kernel_shape").ints[:] = [1, 1]
    changed = onnx_format.from_bytes(model.SerializeToString())
    assert changed["y"].op == "avgpool"
    model.metadata_props[0].value = "{not json"
    assert onnx_format.from_bytes(model.SerializeToString())["y"].op == "avgpool"


def test_what_onnx_cannot_express_is_refused_by_name() -> None:
    unknown = Graph((IN("x", "input", shape=X), IN("y", "unknown", "x", kind="Warp")), ("y",))
    with pytest.raises(
        UnsupportedError, match=r"^y: operator Warp cannot be written to ONNX; what it computes is not known"
    ):
        onnx_format.to_bytes(unknown)
    with pytest.raises(GraphError, match=r"no weights for y\.weight"):
        onnx_format.to_bytes(one("conv", out=2, kernel=(3, 3)))


def test_more_than_two_gigabytes_are_refused_before_anything_is_copied() -> None:
    graph = Graph((IN("x", "input", shape=(30_000,)), IN("y", "dense", "x", out=20_000, bias=False)), ("y",))
    huge = np.broadcast_to(np.float32(0), graph.param_shapes["y.weight"])
    with pytest.raises(UnsupportedError, match=r"2\.4 GB of weights; an ONNX file holds 2 GB"):
        onnx_format.to_bytes(graph.with_weights({"y.weight": huge}))


def test_a_file_is_written_whole_or_not_at_all(tmp_path) -> None:
    graph = weighted(one("conv", out=2, kernel=(3, 3)))
    onnx_format.save(graph, tmp_path / "net.onnx")
    assert onnx_format.load(tmp_path / "net.onnx") == graph
    with pytest.raises(FileError, match=r"cannot be written"):
        onnx_format.save(graph, tmp_path / "missing" / "net.onnx")
    (tmp_path / "taken").mkdir()
    with pytest.raises(FileError):
        onnx_format.save(graph, tmp_path / "taken")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "taken"]


def test_float_attributes_come_back_exactly() -> None:
    graph = weighted(one("leaky_relu", slope=math.pi))
    assert onnx_format.from_bytes(onnx_format.to_bytes(graph))["y"].attrs["slope"] == math.pi
