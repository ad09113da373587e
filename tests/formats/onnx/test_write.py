"""What `onnx.to_bytes` writes: valid by onnx.checker, the same numbers in onnxruntime, and read back exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dojang.arith.graph import Graph, Node
from dojang.arith.ops import OPS, UNARY
from dojang.arith.resizing import COORDS
from dojang.base.errors import FileError, GraphError, UnsupportedError
from dojang.engine.reference.operators import run_reference
from dojang.formats import onnx as onnx_format
from dojang.formats import zoo
from dojang.formats.onnx.write import RULES

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

X, FLAT, SEQ, LINE = (4, 6, 8), (12,), (5, 6), (4, 9)
IN = Node.of


def one(op: str, size: tuple[int, ...] = X, /, inputs: int = 1, **attrs) -> Graph:
    """A network of one operator; further inputs are convolutions, slices or copies of the first."""
    nodes = [Node.of("x", "input", shape=size)]
    nodes += [Node.of(f"other{i}", "tanh" if i % 2 else "sigmoid", "x") for i in range(1, inputs)]
    nodes.append(Node.of("y", op, *(["x"] + [f"other{i}" for i in range(1, inputs)]), **attrs))
    return Graph(tuple(nodes), ("y",), name=f"one-{op}")


CASES = [
    one("conv", out=6, kernel=(3, 3), padding=((1, 0), (2, 1)), stride=(2, 1), dilation=(1, 2)),
    one("conv", out=8, kernel=(3, 1), groups=4, bias=False),
    one("conv", out=4, kernel=(3, 4), padding="same", stride=2),
    one("conv", out=4, kernel=(3, 4), padding="same-lower", stride=2),
    one("conv", LINE, out=5, kernel=(3,), padding=1),
    one("conv", (2, 4, 5, 6), out=3, kernel=(2, 3, 2)),
    one("conv_transpose", out=6, kernel=(3, 2), stride=2, padding=((1, 0), (0, 1)), output_padding=(1, 0), groups=2),
    one("conv_transpose", out=3, kernel=(3, 3), dilation=2, bias=False),
    one("dense", FLAT, out=5),
    one("dense", FLAT, out=5, bias=False),
    one("dense", SEQ, out=7),
    one("dense", SEQ, out=7, bias=False),
    one("maxpool", kernel=(3, 2), stride=2, padding=1),
    one("maxpool", kernel=(3, 3), stride=2, ceil=True),
    one("maxpool", kernel=(2, 2), dilation=2, stride=1),
    one("maxpool", kernel=(3, 3), stride=2, padding="same"),
    one("avgpool", kernel=(3, 2), stride=2, padding=1),
    one("avgpool", kernel=(3, 2), stride=2, padding=1, count_padding=False),
    one("avgpool", kernel=(2, 2), stride=2),
    one("adaptive_avgpool", out=(3, 2)),
    one("adaptive_avgpool", out=(1, 1)),
    one("adaptive_maxpool", out=(2, 4)),
    one("global_avgpool"),
    one("global_maxpool"),
    one("batchnorm"),
    one("batchnorm", affine=False, eps=1e-3),
    one("instancenorm"),
    one("instancenorm", affine=False),
    one("groupnorm", groups=2),
    one("groupnorm", groups=4, affine=False),
    one("layernorm", SEQ, shape=(6,)),
    one("layernorm", SEQ, shape=(5, 6), affine=False),
    one("lrn", size=3, alpha=0.01, beta=0.7, k=2.0),
    *(one(op) for op in UNARY),
    one("gelu"),
    one("gelu", approximate="tanh"),
    one("leaky_relu", slope=0.1),
    one("elu", alpha=0.7),
    one("hard_sigmoid"),
    one("hard_sigmoid", alpha=0.3, beta=0.4),
    one("clip", min=-0.5, max=0.5),
    one("clip", min=0.0),
    one("clip", max=6.0),
    one("clip"),
    one("prelu", num=1),
    one("prelu", num=4),
    one("prelu", FLAT, num=12),
    one("dropout", p=0.3),
    one("softmax"),
    one("softmax", axis=-1),
    one("log_softmax", FLAT),
    *(one(op, inputs=n) for op in ("add", "mul", "maximum", "minimum") for n in (2, 3)),
    *(one(op, inputs=2) for op in ("sub", "div")),
    one("concat", inputs=3),
    one("concat", inputs=2, axis=-1),
    one("flatten"),
    one("flatten", axis=2),
    one("flatten", axis=4),
    one("reshape", shape=(0, 2, -1, 8)),
    one("reshape", shape=(-1, 12)),
    one("transpose", perm=(0, 2, 3, 1)),
    one("squeeze", (1, 5, 1), axes=(1, 3)),
    one("unsqueeze", axes=(2, -1)),
    one("pad", pads=((1, 0), (2, 1))),
    one("pad", pads=((1, 0), (2, 1)), value=0.5),
    one("pad", pads=((0, 0), (-1, 2))),
    *(one("pad", pads=((1, 1), (2, 1)), mode=mode) for mode in ("reflect", "replicate", "circular")),
    one("slice", axis=1, start=1, stop=3),
    one("slice", axis=-1, step=2),
    one("slice", axis=2, start=0, stop=-1),
    one("slice", axis=3, start=-1, step=-2),
    one("slice", axis=2, start=-3),
    one("gather", axis=1, indices=(2, 0, 0, -1)),
    *(one("resize", scale=(2.0,), mode=m, coords=c) for m in ("nearest", "linear") for c in COORDS),
    one("resize", size=(9, 5), mode="linear", coords="half_pixel"),
    one("resize", size=(9, 5), mode="cubic", coords="half_pixel", cubic_a=-0.5),
    one("resize", size=(3, 5), mode="nearest", coords="half_pixel", rounding="round_prefer_ceil"),
    *(one(f"reduce_{k}", axes=(2, 3), keepdims=keep) for k in ("mean", "sum", "max", "min") for keep in (True, False)),
    Graph(
        (IN("x", "input", shape=SEQ), IN("t", "transpose", "x", perm=(0, 2, 1)), IN("y", "matmul", "x", "t")), ("y",)
    ),
    Graph((IN("x", "input", shape=SEQ), IN("y", "einsum", "x", "x", equation="bij,bkj->bik")), ("y",)),
    Graph((IN("x", "input", shape=SEQ), IN("a", "abs", "x"), IN("y", "pow", "a", "x")), ("y",)),
]
CASES += [
    Graph(
        (
            IN("x", "input", shape=(4, 6, 8)),
            IN("k", "constant", shape=(6, 2, 3, 3), trained=True),
            IN("w", "tanh", "k"),
            IN("y", "dynamic_conv", "x", "w", kernel=(3, 3), stride=2, padding=1, bias=bias),
        ),
        ("y",),
    )
    for bias in (False, True)
]
VALUES = [{"fill": 0.25, "shape": (1, 6)}, {"fill": 2.0, "shape": ()}, {"trained": True, "shape": (5, 1)}]
VALUES += [{"shape": (5, 6)}, {"shape": (1,)}, {"shape": (1,), "trained": True}, {"shape": (), "trained": True}]
CASES += [
    Graph(
        (
            IN("x", "input", shape=(4, 6, 8)),
            IN("o", "conv", "x", out=parts * 18, kernel=(3, 3), stride=2, padding=1, bias=False),
            *((IN("m", "conv", "x", out=parts * 9, kernel=(3, 3), stride=2, padding=1),) if masked else ()),
            IN(
                "y",
                "deform_conv",
                *("x", "o", "m")[: 2 + masked],
                out=6,
                kernel=(3, 3),
                stride=2,
                padding=1,
                groups=2,
                offset_groups=parts,
                bias=masked,
            ),
        ),
        ("y",),
    )
    for parts, masked in ((1, False), (2, True))
]
CASES += [
    Graph((IN("x", "input", shape=SEQ), IN("k", "constant", **v), IN("y", "add", "x", "k")), ("y",)) for v in VALUES
]
CASES += [
    Graph((IN("k", "constant", **v), IN("x", "input", shape=SEQ), IN("y", "mul", "k", "x")), ("y", "x"))
    for v in VALUES[:1]
]


def weighted(graph: Graph, seed: int = 0) -> Graph:
    rng = np.random.default_rng(seed)
    arrays = {k: rng.standard_normal(s).astype(np.float32) for k, s in graph.param_shapes.items()}
    arrays |= {k: np.abs(v) + 0.5 for k, v in arrays.items() if k.endswith("running_var")}
    return graph.with_weights(arrays)


def picture(graph: Graph, n: int = 2, seed: int = 1) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, *graph.inputs[0].attrs["shape"])).astype(np.float32)
    domain = {"log": 0.1, "sqrt": 0.1, "reciprocal": 0.5, "div": 0.5}
    low = next((v for op, v in domain.items() if any(node.op == op for node in graph.nodes)), None)
    return x if low is None else np.abs(x) + np.float32(low)


def test_every_operator_is_written() -> None:
    assert set(RULES) == set(OPS)
    assert {node.op for graph in CASES for node in graph.nodes} == set(OPS) - {"unknown"}


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
    with pytest.raises(UnsupportedError, match=r"^y: ONNX has no pooling from 6x8 to 4x3"):
        onnx_format.to_bytes(weighted(one("adaptive_avgpool", out=(4, 3))))
    unknown = Graph((IN("x", "input", shape=X), IN("y", "unknown", "x", kind="Warp")), ("y",))
    with pytest.raises(UnsupportedError, match=r"^y: operator Warp is not known"):
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
