"""Reading ONNX: older operator sets against onnxruntime, PyTorch's exporters, folded shapes, sizes, names, types."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.base.errors import DataError, GraphError, ShapeError, UnsupportedError, UsageError
from dojang.engine.reference.operators import run_reference
from dojang.formats import onnx as onnx_format

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402 - after the skip

RNG = np.random.default_rng(0)


def model(nodes, shape=("N", 4, 6, 8), opset=17, out=None, arrays=(), **more) -> bytes:
    """A model of one input x and one output y; `arrays` are initialisers by name."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in dict(arrays).items()],
    )
    ir = {7: 3, 9: 4, 10: 5, 11: 6, 13: 7}.get(opset, 8)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir, **more)
    return made.SerializeToString()


def node(op, *inputs, y="y", **attrs):
    return helper.make_node(op, list(inputs), [y], name=f"{op.lower()}_{y}" if y != "y" else op.lower(), **attrs)


def agrees(data: bytes, x: np.ndarray) -> Graph:
    """The graph of a model, after holding its numbers against onnxruntime."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (right,) = session.run(None, {"x": x})
    graph = onnx_format.from_bytes(data)
    assert not [n for n in graph.nodes if n.op == "unknown"]
    y = run_reference(graph, x).outputs[0]
    assert y.shape == right.shape
    np.testing.assert_allclose(y, right, rtol=1e-4, atol=1e-5)
    return graph


F, I64 = np.float32, np.int64
BN = {k: np.abs(RNG.standard_normal(4)).astype(F) for k in ("scale", "shift", "mean", "var")}
OLD = [
    (7, [node("Pad", "x", pads=[0, 0, 1, 0, 0, 0, 2, 1], value=0.5)], {}),
    (11, [node("Pad", "x", "p", "v")], {"p": np.array([0, 0, 1, 0, 0, 0, 2, 1]), "v": F(0.5)}),
    (7, [node("Slice", "x", starts=[1, -4], ends=[3, 99], axes=[1, 3])], {}),
    (10, [node("Slice", "x", "s", "e", "a", "t")], {k: np.array([v]) for k, v in zip("seat", (5, -99, 2, -2))}),  # noqa: B905
    (7, [node("Clip", "x", min=-0.2, max=0.4)], {}),
    (7, [node("Upsample", "x", mode="nearest", scales=[1.0, 1.0, 2.0, 3.0])], {}),
    (9, [node("Upsample", "x", "s", mode="linear")], {"s": np.array([1, 1, 2, 2], F)}),
    (10, [node("Resize", "x", "s", mode="linear")], {"s": np.array([1, 1, 2, 0.5], F)}),
    (7, [node("Unsqueeze", "x", y="u", axes=[2]), node("Squeeze", "u", axes=[2])], {}),
    (7, [node("Dropout", "x", ratio=0.3)], {}),
    (11, [node("ReduceSum", "x", axes=[1, -1], keepdims=0)], {}),
    (7, [node("ReduceMean", "x", axes=[2, 3])], {}),
    (7, [node("BatchNormalization", "x", *BN)], BN),
    (11, [node("Softmax", "x")], {}),
    (11, [node("Softmax", "x", axis=3)], {}),
    (11, [node("LogSoftmax", "x", axis=2)], {}),
    (13, [node("Softmax", "x", axis=1)], {}),
    (11, [node("Flatten", "x", axis=3)], {}),
    (11, [node("Flatten", "x", y="f"), node("Gemm", "f", "w", "c", alpha=0.5, beta=2.0)],
     {"w": RNG.standard_normal((192, 5)).astype(F), "c": RNG.standard_normal((1, 5)).astype(F)}),
    (11, [helper.make_node("Split", ["x"], ["a", "b"], axis=1, split=[1, 3]), node("Mul", "a", "b")], {}),
    (13, [helper.make_node("Split", ["x", "s"], ["a", "b"], axis=1), node("Sub", "a", "b")], {"s": np.array([1, 3])}),
    (18, [helper.make_node("Split", ["x"], ["a", "b"], axis=3, num_outputs=2), node("Sub", "b", "a")], {}),
    (17, [node("Conv", "x", "w", auto_pad="SAME_LOWER", strides=[2, 2])],
     {"w": RNG.standard_normal((3, 4, 3, 4)).astype(F)}),
    (17, [node("ConvTranspose", "x", "w", output_shape=[13, 17], strides=[2, 2])],
     {"w": RNG.standard_normal((4, 3, 3, 3)).astype(F)}),
    (17, [node("ConvTranspose", "x", "w", auto_pad="SAME_UPPER", strides=[2, 2])],
     {"w": RNG.standard_normal((4, 3, 3, 3)).astype(F)}),
    (17, [node("MatMul", "x", "w", y="m"), node("Add", "m", "c")],
     {"w": RNG.standard_normal((8, 3)).astype(F), "c": RNG.standard_normal(3).astype(F)}),
    (17, [node("MatMul", "w", "x")], {"w": RNG.standard_normal((5, 6)).astype(F)}),
    (17, [node("Gather", "x", "i", axis=3)], {"i": np.array([[0, -1], [2, 3]])}),
    (17, [node("Gather", "x", "i", axis=1)], {"i": I64(-1)}),
    (17, [node("Tile", "x", "r")], {"r": np.array([1, 2, 1, 3])}),
    (17, [node("Expand", "x", "s")], {"s": np.array([1, 1, 1, 1, 1])}),
    (17, [node("DepthToSpace", "x", blocksize=2, mode="CRD")], {}),
    (17, [node("SpaceToDepth", "x", blocksize=2)], {}),
    (17, [node("PRelu", "x", "s")], {"s": RNG.standard_normal((4, 1, 1)).astype(F)}),
    (17, [node("PRelu", "x", "s")], {"s": RNG.standard_normal((6, 8)).astype(F)}),
    (17, [node("Mean", "x", "x", "s")], {"s": F(2)}),
    (17, [node("ReduceL2", "x", axes=[1])], {}),
    (17, [node("ReduceLogSumExp", "x", axes=[1, 2], keepdims=0)], {}),
    (17, [node("LayerNormalization", "x", "s", axis=-1)], {"s": RNG.standard_normal(8).astype(F)}),
    (17, [node("Shape", "x", y="s"), node("ConstantOfShape", "s", y="o"), node("Add", "x", "o")], {}),
]  # fmt: skip


@pytest.mark.parametrize(("opset", "nodes", "arrays"), OLD, ids=lambda v: v[-1].op_type if isinstance(v, list) else "")
def test_operators_of_every_age_compute_as_in_onnxruntime(opset, nodes, arrays) -> None:
    agrees(model(nodes, opset=opset, arrays=arrays), RNG.standard_normal((3, 4, 6, 8)).astype(F))


def test_shapes_that_the_file_computes_are_folded_for_any_batch() -> None:
    nodes = [
        node("Shape", "x", y="shape"),
        node("Gather", "shape", "zero", y="n"),
        node("Unsqueeze", "n", "axis", y="n1"),
        node("Slice", "shape", "one", "four", y="rest"),
        node("ReduceProd", "rest", y="all", keepdims=1),
        node("Concat", "n1", "all", y="target", axis=0),
        node("Cast", "target", y="as_float", to=TensorProto.FLOAT),
        node("Cast", "target", y="as_int", to=TensorProto.INT64),
        node("Range", "zero", "two", "step", y="range"),
        node("Gather", "as_int", "range", y="again"),
        node("Reshape", "x", "again"),
    ]
    arrays = {"zero": I64(0), "axis": np.array([0]), "one": np.array([1]), "four": np.array([4]), "two": I64(2)}
    graph = agrees(model(nodes, arrays={**arrays, "step": I64(1)}), RNG.standard_normal((5, 4, 6, 8)).astype(F))
    assert [n.op for n in graph.nodes] == ["input", "reshape"]
    assert graph["reshape"].attrs["shape"] == (0, 192)


@pytest.mark.parametrize("target", [(1, -1), (-1, 192), (1, 192), (0, -1), (1, 4, 48), (1, 2, 2, 6, 8)])
def test_a_file_for_one_picture_works_for_several(target) -> None:
    data = model([node("Reshape", "x", "t")], shape=(1, 4, 6, 8), arrays={"t": np.array(target)})
    y = run_reference(onnx_format.from_bytes(data), RNG.standard_normal((3, 4, 6, 8)).astype(F)).outputs[0]
    assert len(y) == 3
    assert y.shape[1:] == ((192,) if len(target) == 2 else target[1:])


def test_where_the_batch_cannot_be_told_sizes_stay_as_the_file_fixes_them() -> None:
    nodes = [node("Reshape", "x", "t", y="flat"), node("Softmax", "flat", axis=0)]
    graph = onnx_format.from_bytes(model([*nodes], shape=(1, 4, 6, 8), arrays={"t": np.array([192])}))
    assert count(graph).total.status == "exact"
    x = np.random.default_rng(0).standard_normal((1, 4, 6, 8), F)
    (y,) = run_reference(graph, x).outputs
    np.testing.assert_allclose(y, np.exp(x.ravel()) / np.exp(x).sum(), rtol=1e-5)
    with pytest.raises(ShapeError, match="the network takes 1x4x6x8"):
        run_reference(graph, np.concatenate([x, x]))
    with pytest.raises(GraphError, match="none is a batch"):
        count(graph, batch=2)


def test_open_sizes_need_an_input_size() -> None:
    data = model([node("Relu", "x")], shape=("N", 3, "H", "W"))
    with pytest.raises(UsageError, match=r"input 'x': the file says 3x\?x\? about its size; give it with --input-size"):
        onnx_format.from_bytes(data)
    assert onnx_format.from_bytes(data, input_size=(3, 5, 7)).unit_shapes["relu"] == (1, 3, 5, 7)
    assert onnx_format.from_bytes(data, input_size={"x": (3, 9, 9)}).unit_shapes["relu"] == (1, 3, 9, 9)
    with pytest.raises(UsageError, match="has 3 axes after the batch"):
        onnx_format.from_bytes(data, input_size=(5, 7))
    for batch in (0, None):  # exporters that write 0, or nothing, for an open batch
        assert onnx_format.from_bytes(model([node("Relu", "x")], shape=(batch, 3, 4))).inputs[0].attrs["shape"] == (
            3,
            4,
        )


def test_names_come_from_weights_then_nodes_then_outputs() -> None:
    w = RNG.standard_normal((4, 4, 1, 1)).astype(F)
    nodes = [
        helper.make_node("Conv", ["x", "block.0.weight", "block.0.bias"], ["a"], name="/block/Conv"),
        helper.make_node("Conv", ["a", "block.0.weight"], ["b"], name="again"),
        helper.make_node("Relu", ["b"], ["c"], name="again"),
        helper.make_node("Relu", ["c"], ["act"]),
        helper.make_node("Sum", ["act"], ["y"]),
    ]
    graph = onnx_format.from_bytes(model(nodes, arrays={"block.0.weight": w, "block.0.bias": w[:, 0, 0, 0]}))
    assert [n.name for n in graph.nodes] == ["x", "block.0", "again", "again_2", "act", "y"]
    assert graph["again"].array("weight") == "block.0.weight"
    assert count(graph).total.params == 20
    assert count(graph).total.macs == 2 * 16 * 48


def test_equal_weights_that_an_exporter_wrote_once_count_apart() -> None:
    nodes = [
        node("Identity", "a.weight", y="b.weight"),
        node("Conv", "x", "a.weight", y="a"),
        node("Conv", "a", "b.weight"),
    ]
    graph = onnx_format.from_bytes(model(nodes, arrays={"a.weight": np.ones((4, 4, 1, 1), F)}))
    assert count(graph).total.params == 32
    assert list(graph.weights) == ["a.weight", "b.weight"]


@pytest.mark.parametrize(
    "kind", ["float16", "float64", "bfloat16", "int8", "uint8", "int32", "int64", "uint32", "bool"]
)
@pytest.mark.parametrize("raw", [True, False])
def test_weights_of_any_type_become_float32(kind: str, raw: bool) -> None:
    values = np.array([0, 1, 2, 3, 1, 1]).reshape(3, 2) % (2 if kind == "bool" else 9)
    code = {"float64": "DOUBLE"}.get(kind, kind.upper())
    if raw:
        tensor = helper.make_tensor("k", getattr(TensorProto, code), values.shape, values.ravel())
        tensor = numpy_helper.from_array(numpy_helper.to_array(tensor), "k")
    else:
        tensor = helper.make_tensor("k", getattr(TensorProto, code), values.shape, values.ravel())
    made = onnx.load_from_string(model([node("MatMul", "x", "k")], shape=("N", 2, 3)))
    made.graph.initializer.append(tensor)
    (array,) = onnx_format.from_bytes(made.SerializeToString()).weights.values()
    assert array.dtype == np.float32
    assert array.flags.writeable
    np.testing.assert_array_equal(array, values.T)


def test_what_an_unknown_operator_has_learned_is_counted() -> None:
    nodes = [helper.make_node("Wobble", ["x", "w", "scale", "which"], ["y"], domain="com.acme")]
    arrays = {"w": np.ones((5, 4, 3, 3), F), "scale": F(2), "which": np.arange(7, dtype=I64)}
    total = count(onnx_format.from_bytes(model(nodes, arrays=arrays))).total
    assert (total.params, total.status) == (5 * 4 * 9, "lower-bound")  # neither one number nor places


def test_an_unknown_operator_makes_a_lower_bound_and_cannot_run() -> None:
    nodes = [
        node("Conv", "x", "w", y="a"),
        node("Wobble", "a", "w", y="b", domain="com.acme"),
        node("Conv", "b", "w", y="c"),
        node("TopK", "c", "w", y="d"),
        node("Relu", "d"),
    ]
    graph = onnx_format.from_bytes(model(nodes, arrays={"w": np.ones((4, 4, 1, 1), F)}))
    total = count(graph).total
    assert total.status == "lower-bound"
    assert set(total.unknown) == {"wobble_b (com.acme.Wobble)", "conv_c"}
    assert total.macs == 16 * 48
    with pytest.raises(UnsupportedError, match=r"com\.acme\.Wobble"):
        run_reference(graph, np.zeros((1, 4, 6, 8), F))


def test_computed_weights_that_do_not_fit_are_an_error() -> None:
    nodes = [node("ReduceMean", "x", y="m"), node("Conv", "x", "m")]  # one input channel for a picture of four
    with pytest.raises(ShapeError, match="conv: 1 output channels do not divide into 4 groups"):
        onnx_format.from_bytes(model(nodes))


def test_nan_in_weights_is_an_error_that_names_them() -> None:
    w = np.full((4, 4, 1, 1), np.nan, F)
    data = model([node("Conv", "x", "c.weight")], arrays={"c.weight": w})
    with pytest.raises(DataError, match=r"c\.weight: 16 of 16 weights are NaN"):
        onnx_format.from_bytes(data)
    assert onnx_format.from_bytes(data, weights=False)["c"].op == "conv"


def test_weights_that_do_not_fit_are_an_error() -> None:
    data = model([node("Conv", "x", "c.weight")], arrays={"c.weight": np.ones((4, 3, 1, 1), F)})
    with pytest.raises(GraphError, match="its weight is 4x3x1x1, the layer needs 4x4x1x1"):
        onnx_format.from_bytes(data)


LIGHT = {
    "bvlc_alexnet": 60_965_224,
    "inception_v1": 6_998_552,
    "resnet50": 25_557_032,
    "squeezenet": 1_235_496,
    "vgg19": 143_667_240,
}


@pytest.mark.parametrize(("name", "params"), LIGHT.items())
def test_published_networks_have_their_published_parameters(name: str, params: int) -> None:
    path = Path(onnx.__file__).parent / "backend/test/data/light" / f"light_{name}.onnx"
    if not path.exists():
        pytest.skip("this release of onnx ships no light models")
    total = count(onnx_format.load(path, weights=False)).total
    assert (total.params, total.status) == (params, "exact")


def test_counting_loads_neither_numpy_nor_weights(tmp_path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(model([node("Conv", "x", "w")], arrays={"w": np.ones((4, 4, 1, 1), F)}))
    code = (
        "import sys; from dojang.formats import onnx; from dojang.arith.cost import count;"
        f"print(count(onnx.load({str(path)!r}, weights=False)).total.params, *(m for m in ('numpy', 'torch', 'onnx') "
        "if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["16"]


def export(module, x, dynamo: bool, free: bool, **options) -> bytes:
    """PyTorch's ONNX of a module, quietly."""
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not dynamo:
            out = io.BytesIO()
            axes = {"x": {0: "batch"}} if free else None
            torch.onnx.export(module, (x,), out, dynamo=False, input_names=["x"], dynamic_axes=axes, **options)
            return out.getvalue()
        pytest.importorskip("onnxscript")
        shapes = ({0: torch.export.Dim("batch")},) if free else None
        program = torch.onnx.export(module, (x,), dynamo=True, dynamic_shapes=shapes, verbose=False)
        return program.model_proto.SerializeToString()


def networks():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    functional = nn.functional

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.bn = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
            self.dw, self.act = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.SiLU()
            self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid())
            self.gn, self.up, self.ct = nn.GroupNorm(2, 8), nn.Upsample(scale_factor=2), nn.ConvTranspose2d(8, 6, 2, 2)
            self.head, self.ln, self.slope = nn.Linear(6, 5), nn.LayerNorm(5), nn.PReLU(6)

        def forward(self, x):
            x = self.act(self.bn(self.stem(x)))
            x = functional.gelu(x + self.dw(x) * self.gate(x))
            a, b = self.gn(x).chunk(2, 1)
            x = torch.cat([b, a], 1)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
            x = functional.pad(self.slope(self.ct(self.up(x))), (1, 0, 1, 0))
            x = functional.interpolate(functional.hardswish(functional.avg_pool2d(x, 2)), size=(8, 4), mode="bilinear")
            return self.ln(self.head(x.flatten(2).transpose(1, 2))).mean(1).view(x.size(0), -1)

    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.token = nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.randn(1, 1, 16))
            self.place = nn.Parameter(torch.randn(1, 17, 16))
            self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
            self.head = nn.Linear(16, 3)

        def forward(self, x):
            x = self.embed(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(x.size(0), -1, -1), x], 1) + self.place
            return self.head(self.layer(x)[:, 0])

    torch.manual_seed(0)
    return {"mixed": Mixed().eval(), "patches": Patches().eval()}


@pytest.mark.parametrize("name", ["mixed", "patches"])
@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("dynamo", [True, False])
def test_what_pytorch_exports_computes_the_same(name: str, dynamo: bool, free: bool) -> None:
    torch = pytest.importorskip("torch")
    module = networks()[name]
    for p in module.parameters():  # no zeros and ones that an optimiser of the exporter would fold away
        p.data += 0.01 * torch.randn_like(p)
    x = torch.randn(3, 3, 16, 16)
    data = export(module, x if free else x[:1], dynamo, free, **({} if dynamo else {"opset_version": 17}))
    graph = onnx_format.from_bytes(data)
    with torch.no_grad():
        wanted = module(x).numpy()
    np.testing.assert_allclose(run_reference(graph, x.numpy()).outputs[0], wanted, rtol=1e-4, atol=1e-5)
    total = count(graph).total
    assert total.status == "exact"
    folded = 8 if name == "mixed" else 0  # batch norm into the convolution: 16 go, a bias of 8 comes
    assert total.params == sum(p.numel() for p in module.parameters()) - folded
    assert {"head", "dw" if name == "mixed" else "embed"} <= {n.name for n in graph.nodes}


def test_convolutions_by_weights_that_the_file_computes() -> None:
    """As PyTorch's older exporter writes standardised weights with a gain; a kernel and a bias made from them."""
    arrays = {"w": (6, 4, 3, 3), "b": (6,), "gain": (6, 1, 1, 1), "thin": (6, 2, 1, 1)}
    arrays = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in arrays.items()}
    nodes = [
        node("ReduceMean", "w", y="mean", axes=[1, 2, 3], keepdims=1),
        node("Sub", "w", "mean", y="apart"),
        node("Mul", "apart", "gain", y="scaled"),
        node("Conv", "x", "scaled", "b", y="first", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 1]),
        node("Tanh", "thin", y="kernel"),
        node("ReduceMean", "scaled", y="shift", axes=[1, 2, 3], keepdims=0),
        node("Conv", "first", "kernel", "shift", group=3),
    ]
    graph = agrees(model(nodes, opset=13, arrays=arrays), RNG.normal(size=(2, 4, 6, 8)).astype(np.float32))
    total = count(graph).total
    (_, *out) = graph.unit_shapes[graph.outputs[0]]
    assert (total.params, total.status) == (sum(a.size for a in arrays.values()), "exact")
    assert total.macs == np.prod(out) * (4 * 9 + 2)
