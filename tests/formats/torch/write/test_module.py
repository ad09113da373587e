"""Every operator as a PyTorch layer against the NumPy reference; wiring, names, training and export of the module."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from dojang.arith.graph import Graph, Node  # noqa: E402
from dojang.arith.ops import OPS, UNARY, UNKNOWN  # noqa: E402
from dojang.base.errors import GraphError, UnsupportedError  # noqa: E402
from dojang.engine.reference.operators import run_reference  # noqa: E402
from dojang.formats.text import parse  # noqa: E402
from dojang.formats.torch import from_module, to_module, weights_of  # noqa: E402
from operator_networks import about  # noqa: E402

N = Node.of
IMAGE = (6, 9, 8)


def with_random(graph: Graph, seed: int = 0) -> Graph:
    """The graph with random weights; variances and scales positive."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in graph.param_shapes.items():
        positive = name.endswith(("running_var", "norm.weight"))
        weights[name] = (rng.uniform(0.5, 2, shape) if positive else rng.normal(0, 1, shape)).astype(np.float32)
    return graph.replace(weights=weights)


def one(op: str, *shapes: tuple[int, ...], **attrs) -> Graph:
    """A network of one operator over inputs of these shapes."""
    names = [f"x{i}" for i in range(len(shapes))]
    inputs = tuple(N(n, "input", shape=s) for n, s in zip(names, shapes, strict=True))
    return with_random(Graph((*inputs, N("y", op, *names, **attrs)), ("y",)))


CASES: dict[str, list[Graph]] = {
    **{op: [one(op, IMAGE)] for op in UNARY},
    "constant": [
        with_random(Graph((N("x", "input", shape=(4,)), N("c", "constant", shape=(4,), **a), N("y", "add", "x", "c")),
                          ("y",)))
        for a in ({"fill": 2.5}, {"trained": True}, {})
    ],
    "conv": [
        one("conv", IMAGE, out=8, kernel=(3, 3), padding=1),
        one("conv", IMAGE, out=4, kernel=(3, 2), stride=(2, 1), padding=((1, 0), (2, 1)), groups=2, bias=False),
        one("conv", IMAGE, out=4, kernel=(3, 3), stride=2, padding="same"),
        one("conv", IMAGE, out=4, kernel=(2, 4), padding="same-lower", dilation=2),
        one("conv", (4, 11), out=4, kernel=(3,), dilation=(2,), groups=4),
        one("conv", (2, 5, 6, 4), out=3, kernel=(3, 3, 2), stride=(2, 1, 1), padding=1),
    ],
    "recurrent": [with_random(graph.replace(outputs=(o,))) for graph in about("recurrent") for o in graph.outputs],
    "deform_conv": [
        one("deform_conv", IMAGE, (36, 5, 8), (18, 5, 8), out=4, kernel=(3, 3), stride=(2, 1), padding=1, groups=2,
            offset_groups=2),
        one("deform_conv", IMAGE, (12, 7, 9), out=5, kernel=(3, 2), padding=((0, 0), (2, 0)), bias=False),
        one("deform_conv", (4, 11), (3, 7), out=4, kernel=(3,), dilation=(2,), groups=4),
    ],
    "dynamic_conv": [
        with_random(
            Graph(
                (N("x", "input", shape=IMAGE), N("k", "constant", shape=(4, 3, 3, 2), trained=True),
                 N("w", "tanh", "k"), N("y", "dynamic_conv", "x", "w", **a)),
                ("y",),
            )
        )
        for a in (
            {"kernel": (3, 2), "stride": (2, 1), "padding": ((1, 0), (2, 1))},
            {"kernel": (3, 2), "padding": "same", "dilation": 2, "bias": False},
        )
    ],
    "conv_transpose": [
        one("conv_transpose", IMAGE, out=4, kernel=(3, 3), stride=2, padding=1, output_padding=1, groups=2),
        one("conv_transpose", IMAGE, out=4, kernel=(4, 3), stride=(2, 3), padding=((1, 0), (0, 2)), dilation=(1, 2)),
        one("conv_transpose", (4, 7), out=4, kernel=(2,), stride=(2,), bias=False),
    ],
    "dense": [one("dense", (7,), out=5), one("dense", (3, 7), out=5, bias=False)],
    "maxpool": [
        one("maxpool", IMAGE, kernel=(3, 3), stride=2, padding=1, ceil=True),
        one("maxpool", IMAGE, kernel=(2, 3), padding=((0, 1), (1, 2)), stride=2),
        one("maxpool", (3, 9), kernel=(3,), dilation=2, ceil=True, stride=2),
        one("maxpool", IMAGE, kernel=(3, 3), stride=2, padding=((0, 1), (0, 1)), ceil=True),
        one("maxpool", IMAGE, kernel=(3, 3), stride=2, padding="same"),
    ],
    "avgpool": [
        one("avgpool", IMAGE, kernel=(3, 3), stride=2, padding=1, ceil=ceil, count_padding=counted)
        for ceil in (False, True)
        for counted in (False, True)
    ]
    + [
        one("avgpool", IMAGE, kernel=(3, 3), stride=2, padding=((0, 1), (1, 0)), ceil=ceil, count_padding=counted)
        for ceil in (False, True)
        for counted in (False, True)
    ],
    "adaptive_maxpool": [one("adaptive_maxpool", IMAGE, out=(4, 3)), one("adaptive_maxpool", (3, 9), out=(4,))],
    "adaptive_avgpool": [one("adaptive_avgpool", IMAGE, out=(4, 3)), one("adaptive_avgpool", IMAGE, out=(1, 1))],
    "global_maxpool": [one("global_maxpool", IMAGE), one("global_maxpool", (3, 4))],
    "global_avgpool": [one("global_avgpool", IMAGE), one("global_avgpool", (3, 4, 2, 2))],
    "batchnorm": [one("batchnorm", IMAGE, eps=1e-3), one("batchnorm", (5,), affine=False), one("batchnorm", (4, 3))],
    "instancenorm": [one("instancenorm", IMAGE), one("instancenorm", (4, 1, 1)),
                     one("instancenorm", IMAGE, affine=False)],
    "groupnorm": [one("groupnorm", IMAGE, groups=3), one("groupnorm", (4, 5), groups=2, affine=False)],
    "layernorm": [one("layernorm", IMAGE, shape=(8,)), one("layernorm", IMAGE, shape=(9, 8), affine=False)],
    "lrn": [one("lrn", IMAGE, size=5, alpha=0.1), one("lrn", IMAGE, size=4, beta=0.5, k=2.0)],
    "gelu": [one("gelu", IMAGE), one("gelu", IMAGE, approximate="tanh")],
    "leaky_relu": [one("leaky_relu", IMAGE, slope=0.3)],
    "elu": [one("elu", IMAGE, alpha=0.7)],
    "hard_sigmoid": [one("hard_sigmoid", IMAGE), one("hard_sigmoid", IMAGE, alpha=0.2, beta=0.4)],
    "clip": [one("clip", IMAGE, min=0, max=6), one("clip", IMAGE, max=0.5), one("clip", IMAGE)],
    "prelu": [one("prelu", IMAGE), one("prelu", IMAGE, num=6)],
    "dropout": [one("dropout", IMAGE)],
    "softmax": [one("softmax", IMAGE), one("softmax", IMAGE, axis=-1)],
    "log_softmax": [one("log_softmax", IMAGE, axis=2)],
    "add": [one("add", IMAGE, IMAGE), one("add", IMAGE, (6, 1, 1), (1, 9, 8))],
    "mul": [one("mul", IMAGE, (6, 1, 1))],
    "sub": [one("sub", IMAGE, IMAGE)],
    "div": [one("div", IMAGE, IMAGE)],
    "pow": [one("pow", IMAGE, IMAGE)],
    "maximum": [one("maximum", IMAGE, IMAGE, IMAGE)],
    "minimum": [one("minimum", IMAGE, (1, 9, 8))],
    "concat": [one("concat", IMAGE, (2, 9, 8)), one("concat", IMAGE, IMAGE, axis=-1)],
    "flatten": [one("flatten", IMAGE), one("flatten", IMAGE, axis=2), one("flatten", (5,))],
    "reshape": [one("reshape", IMAGE, shape=(0, 3, 2, -1)), one("reshape", IMAGE, shape=(-1, 9))],
    "transpose": [one("transpose", IMAGE, perm=(0, 2, 3, 1))],
    "squeeze": [one("squeeze", (6, 1, 8, 1), axes=(2, -1))],
    "unsqueeze": [one("unsqueeze", IMAGE, axes=(1, -1))],
    "pad": [
        one("pad", IMAGE, pads=((1, 2), (0, 1), (-1, 3)), value=1.5),
        one("pad", IMAGE, pads=((2, 1), (3, 2)), mode="reflect"),
        one("pad", IMAGE, pads=((2, 1), (3, 2), (1, 0)), mode="replicate"),
        one("pad", IMAGE, pads=((2, 1), (3, 2)), mode="circular"),
    ],
    "slice": [
        one("slice", IMAGE, axis=1, start=1, stop=-1, step=2),
        one("slice", IMAGE, axis=-1, start=-2, stop=None, step=-3),
    ],
    "gather": [one("gather", IMAGE, axis=1, indices=(3, 0, -1, 3))],
    "resize": [
        one("resize", IMAGE, scale=(2.0,)),
        one("resize", IMAGE, size=(5, 11), mode="nearest", coords="half_pixel", rounding="round_prefer_ceil"),
        one("resize", IMAGE, size=(5, 11), mode="linear", coords="half_pixel"),
        one("resize", IMAGE, scale=(1.7, 2.0), mode="linear", coords="half_pixel"),
        one("resize", IMAGE, size=(13, 4), mode="linear", coords="align_corners"),
        one("resize", IMAGE, size=(13, 4), mode="cubic", coords="half_pixel"),
        one("resize", IMAGE, size=(13, 4), mode="cubic", coords="asymmetric", cubic_a=-0.5),
        one("resize", (3, 7), scale=(2.5,), mode="linear", coords="pytorch_half_pixel"),
    ],
    **{f"reduce_{k}": [one(f"reduce_{k}", IMAGE, axes=(2, 3)), one(f"reduce_{k}", IMAGE, axes=(-1,), keepdims=False)]
       for k in ("mean", "sum", "max", "min")},
    "matmul": [one("matmul", (2, 3, 4), (2, 4, 5))],
    "einsum": [one("einsum", (3, 4), (3, 5), equation="bhq,bhk->bqk")],
}  # fmt: skip


CASES |= {op: [with_random(g) for g in about(op)] for op in OPS if op not in (*CASES, "input", "standard", UNKNOWN)}


@pytest.mark.parametrize("op", CASES)
def test_computes_what_the_reference_computes(op):
    for graph in CASES[op]:
        rng = np.random.default_rng(1)
        fed = {n.name: rng.uniform(0.1, 2, (3, *n.attrs["shape"])) for n in graph.inputs}
        if op not in ("log", "sqrt", "pow"):
            fed = {k: (v - 1) * 3 for k, v in fed.items()}
        fed = {k: v.astype(np.float32).astype(np.float64) for k, v in fed.items()}
        wanted = run_reference(graph, fed).outputs[0]
        module = to_module(graph).double().eval()
        with torch.no_grad():
            got = module(*(torch.from_numpy(v) for v in fed.values()))
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-6, atol=1e-8, err_msg=str(graph.nodes[-1]))


@pytest.mark.parametrize(
    "op", [op for op in CASES if op != "recurrent"]
)  # of PyTorch's layer it has the steps as one axis
def test_graph_to_module_to_graph_is_exact(op):
    for graph in CASES[op]:
        sizes = [n.attrs["shape"] for n in graph.inputs]
        again = from_module(to_module(graph), sizes)
        if graph.nodes[-1].attrs.get("out") == (1, 1):
            continue  # pooling to 1x1 is read as global pooling
        assert again.nodes == graph.nodes or _normal(again) == _normal(graph)
        assert {k: v.tolist() for k, v in again.weights.items()} == {k: v.tolist() for k, v in graph.weights.items()}


def _normal(graph: Graph) -> list:
    """Nodes with axes counted from the front, as PyTorch's layers are read."""
    found = []
    for node in graph.nodes:
        attrs = dict(node.attrs)
        if "axis" in attrs and attrs["axis"] < 0:
            attrs["axis"] += len(graph.unit_shapes[node.inputs[0]])
        found.append((node.name, node.op, node.inputs, attrs))
    return found


TEXT = """
network tiny
input 3x12x12 mean=0.5,0.5,0.5 std=0.2,0.2,0.2
stem.conv: conv 8 3x3 pad=1 bias=no
stem.bn: batchnorm
a: relu
a.side: conv 8 1x1 <- a
again: conv 8 1x1 share=a.side <- a.side
sum: add <- again, a
pool: global_avgpool
flat: flatten
fc: dense 4
"""


def test_state_dict_has_the_names_of_the_graph():
    graph = with_random(parse(TEXT))
    module = to_module(graph)
    assert set(module.state_dict()) == set(graph.param_shapes)
    assert isinstance(module.stem.conv, nn.Conv2d)
    assert isinstance(module.stem.bn, nn.BatchNorm2d)
    assert sum(p.numel() for p in module.parameters()) == 216 + 16 + 72 + 36
    again = from_module(module, (3, 12, 12))
    assert again.nodes == graph.nodes
    assert again["input"].attrs["mean"] == (0.5, 0.5, 0.5)


def test_trains_and_gives_its_weights_back():
    torch.manual_seed(0)
    graph = parse(TEXT)
    module = to_module(graph)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    step = torch.optim.SGD(module.parameters(), lr=0.1)
    x, y = torch.randn(8, 3, 12, 12), torch.randint(0, 4, (8,))
    for _ in range(3):
        step.zero_grad()
        torch.nn.functional.cross_entropy(module(x), y).backward()
        step.step()
    changed = [k for k, v in module.state_dict().items() if not torch.equal(v, before[k])]
    assert set(changed) == set(before)  # weights, and the statistics of the batch norm
    trained = weights_of(module, graph)
    trained.check_weights()
    with torch.no_grad():
        wanted = module.eval()(x).double()
    got = run_reference(trained, x.double().numpy()).outputs[0]
    np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-4, atol=1e-5)
    next(iter(module.parameters())).data.zero_()
    assert np.abs(trained.weights["stem.conv.weight"]).sum() > 0  # a copy


def test_copies_share_nothing_and_keep_their_sharing():
    module = to_module(with_random(parse(TEXT))).eval()
    x = torch.randn(1, 3, 12, 12)
    wanted = module(x)
    other = copy.deepcopy(module)
    with torch.no_grad():
        other.a.side.weight.zero_()
        assert torch.equal(module(x), wanted)
        assert not torch.equal(other(x), wanted)
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    fresh = to_module(parse(TEXT)).eval()
    fresh.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    assert torch.equal(fresh(x), wanted)


def test_channels_last_and_double_follow():
    module = to_module(with_random(parse(TEXT))).eval()
    x = torch.randn(2, 3, 12, 12)
    wanted = module(x)
    got = module.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert module.double()(x.double()).dtype == torch.float64


def test_torch_export_and_script_trace_take_it():
    module = to_module(with_random(parse(TEXT))).eval()
    x = torch.randn(2, 3, 12, 12)
    program = torch.export.export(module, (x,), strict=False)
    torch.testing.assert_close(program.module()(x), module(x))


@pytest.mark.filterwarnings("ignore")
def test_onnx_export_runs_in_onnxruntime():
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module = to_module(with_random(parse(TEXT))).eval()
    x = torch.randn(2, 3, 12, 12)
    program = torch.onnx.export(module, (x,), dynamo=True, verbose=False)
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    got = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    np.testing.assert_allclose(got, module(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_awkward_names_work():
    names = ["forward", "eval", "weight", "0", "a.forward", "a"]
    nodes = [N("x", "input", shape=(4, 5, 5))]
    for name in names:
        nodes.append(N(name, "conv", nodes[-1].name, out=4, kernel=(1, 1)))
    graph = with_random(Graph(tuple(nodes), ("a",)))
    module = to_module(graph).eval()
    assert set(module.state_dict()) == set(graph.param_shapes)
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 5))
    with torch.no_grad():
        got = module.double()(torch.from_numpy(x))
    np.testing.assert_allclose(got.numpy(), run_reference(graph, x).outputs[0], rtol=1e-6, atol=1e-8)


def test_refuses_what_it_cannot_run():
    x = N("x", "input", shape=(3, 4, 4))
    with pytest.raises(UnsupportedError, match=r"odd: operator Strange cannot be run by PyTorch; replace it"):
        to_module(Graph((x, N("odd", UNKNOWN, "x", kind="Strange")), ("odd",)))
    with pytest.raises(UnsupportedError, match="rename the layer"):
        to_module(Graph((x, N("training", "relu", "x")), ("training",)))
    graph = Graph((x, N("c", "conv", "x", out=2, kernel=(1, 1))), ("c",), weights={"c.weight": np.zeros((2, 3, 1, 1))})
    with pytest.raises(GraphError, match=r"no weights for c\.bias"):
        to_module(graph)
    with pytest.raises(GraphError, match=r"takes 1 inputs"):
        to_module(with_random(graph))(torch.zeros(1, 3, 4, 4), torch.zeros(1))
