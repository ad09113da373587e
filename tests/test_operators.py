"""The table of operators and the tables of all that use it: every operator is in each, or the table says why not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from dojang.app import operators
from dojang.app.cli import main
from dojang.arith import field, ops
from dojang.arith.graph import Graph, Node
from dojang.arith.memory import saved_bytes
from dojang.arith.ops import OPS, UNKNOWN
from dojang.arith.standard import MACS
from dojang.base.errors import UnsupportedError
from dojang.engine.kernels.conv import fallback
from dojang.engine.plan.context import Request
from dojang.engine.plan.network import plan_of
from dojang.engine.reference.operators import run_reference
from dojang.engine.reference.standard.run import FUNCTIONS
from dojang.evidence.intervals import ranges
from dojang.formats import onnx as onnx_format
from dojang.formats.onnx.infer import OUTPUTS
from dojang.formats.onnx.read import RULES as ONNX_READERS
from dojang.formats.onnx.read import read_model
from dojang.formats.onnx.write import message
from machines import SERVER_AVX2
from operator_networks import CASES, SEQ, X, about, one, weighted

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from dojang.formats.torch import from_module, to_module  # noqa: E402
from dojang.formats.torch.read.traced import HANDLERS  # noqa: E402
from dojang.formats.torch.write.compute import COMPUTE, as_torch, own_mode  # noqa: E402
from saved_by_autograd import kept_by_torch  # noqa: E402

F = nn.functional
tables = pytest.mark.parametrize("name", operators.TABLES)
NAMES = sorted(set(OPS) - {UNKNOWN})


# ------------------------------------------------------------------------------------------------ all are listed


@tables
def test_every_operator_is_listed_or_a_reason_is(name: str) -> None:
    table = operators.load(name)
    assert table is not None
    assert table.gaps() == ()


@tables
def test_an_operator_that_is_left_out_is_named(name: str) -> None:
    table = operators.load(name)
    assert table is not None
    for op in OPS:
        holes = replace(
            table,
            entries={k: v for k, v in table.entries.items() if k != op},
            absent={k: v for k, v in table.absent.items() if k != op},
        )
        assert holes.gaps() == (f"{table.consumer} ({table.place}) neither has {op} nor says why not",)
        node = Node("there", op, attrs={"kind": "Warp"})
        with pytest.raises(UnsupportedError, match=f"^there: operator {'Warp' if op == UNKNOWN else op} cannot be "):
            holes.of(node)
        with pytest.raises(UnsupportedError, match=f"{table.place} does not list it$"):
            holes.find(node)
    strange = replace(table, absent={**table.absent, "sofmax": "a slip", "relu": ""})
    assert any("lists sofmax, which is not an operator" in gap for gap in strange.gaps())
    assert any("relu" in gap for gap in strange.gaps())


def test_a_row_that_leaves_something_out_stops_the_import() -> None:
    row = {name: getattr(OPS["batchnorm"], name) for name in ops.Op.__dataclass_fields__}
    ops.Op(**row)
    for name in ("shape", "attrs", "params", "roles", "macs", "field", "channels", "held"):
        with pytest.raises(TypeError, match=name):
            ops.Op(**{k: v for k, v in row.items() if k != name})
    for wrong in ({"field": "pointwsie"}, {"channels": "kept"}, {"roles": ()}, {"main": ("k",)}, {"params": None}):
        with pytest.raises(ValueError, match="batchnorm"):
            ops.Op(**row | wrong)


def test_every_kind_of_row_has_a_rule() -> None:
    assert {op.channels for op in OPS.values()} == set(get_args(ops.ChannelKind))
    assert {op.field for op in OPS.values()} == set(get_args(ops.FieldKind))
    assert set(field.RULES) == set(get_args(ops.FieldKind)) - {"input", "constant", "opaque"}


def test_every_operator_has_a_network() -> None:
    assert {node.op for graph in CASES for node in graph.nodes} == set(OPS) - {UNKNOWN}


def test_the_documentation_lists_every_operator() -> None:
    page = (Path(__file__).parent.parent / "docs" / "notation.md").read_text(encoding="utf-8")
    assert [op for op in OPS if f"\n| `{op}` |" not in page] == []


# ------------------------------------------------------------------------------------------------ the entries are true


@pytest.mark.parametrize("op", NAMES)
def test_arrays_have_the_roles_of_the_row(op: str) -> None:
    found = {role for graph in about(op) for node in graph.nodes if node.op == op for role in graph.node_params(node)}
    assert found == set(OPS[op].roles)


def behind_a_layer(graph: Graph) -> Graph:
    """The network behind a layer of its own, so that its input needs a gradient."""
    shape = graph.inputs[0].attrs["shape"]
    kernel = (1,) * (len(shape) - 1)
    attrs = {"kernel": kernel} if kernel else {}
    first = Node.of("first", "conv" if kernel else "dense", "x", out=shape[0], **attrs)
    moved = [replace(n, inputs=tuple("first" if i == "x" else i for i in n.inputs)) for n in graph.nodes]
    inputs = [n for n in moved if n.op == "input"]
    return Graph((*inputs, first, *(n for n in moved if n.op != "input")), graph.outputs, graph.name)


def made_by_hand(graph: Graph) -> str | None:
    """Why `to_module` holds other memory than PyTorch's own layer would; None where the two agree."""
    node = graph.nodes[-1]
    padding = node.attrs.get("padding", ())
    if node.op in ("conv", "maxpool") and (isinstance(padding, str) or any(a != b for a, b in padding)):
        return "pads one side more than the other"
    if node.op == "standard":
        return "is an operator of ONNX"
    if node.op == "recurrent":
        return "keeps what PyTorch's kernel of the machine keeps"
    if node.op in ("instancenorm", "deform_conv"):
        return "is made of several functions; instance norm has a test of its own"
    if node.op == "resize" and _torch_mode(node, graph) is None:
        return "is no resizing of PyTorch"
    if node.op == "slice" and node.attrs["step"] < 0:
        return "PyTorch has no negative steps"
    if node.op == "adaptive_avgpool" and set(node.attrs["out"]) == {1}:
        return "PyTorch takes the mean"
    return "does nothing" if node.op == "clip" and node.attrs["min"] is node.attrs["max"] is None else None


def _torch_mode(node: Node, graph: Graph) -> str | None:
    before, after = graph.unit_shapes[node.inputs[0]][2:], graph.unit_shapes[node.name][2:]
    return own_mode(node.attrs, as_torch(node.attrs, len(before)), before, after)


@pytest.mark.parametrize("op", NAMES)
def test_training_keeps_what_autograd_keeps(op: str) -> None:
    held = 0
    for graph in about(op):
        if made_by_hand(graph) is not None:
            continue
        graph = weighted(behind_a_layer(graph))
        module = to_module(graph).train()
        x = torch.rand(3, *graph.inputs[0].attrs["shape"])
        assert saved_bytes(graph, 3) == kept_by_torch(module, x), graph.nodes[-1]
        held += 1
    assert held or op in ("instancenorm", "deform_conv", "recurrent", "standard")


def test_instance_norm_keeps_statistics_of_each_image() -> None:
    graph = behind_a_layer(one("instancenorm", affine=False))
    module = nn.Sequential(nn.Conv2d(4, 4, 1), nn.InstanceNorm2d(4))
    assert saved_bytes(graph, 3) == kept_by_torch(module, torch.rand(3, *X))


@pytest.mark.parametrize("op", NAMES)
def test_values_lie_within_their_bounds(op: str) -> None:
    rules = operators.load("bounded")
    assert rules is not None
    for graph in about(op):
        graph = weighted(graph)
        x = np.random.default_rng(3).uniform(-1, 1, (4, *graph.inputs[0].attrs["shape"]))
        found = ranges(graph, {node.name: (-1, 1) for node in graph.inputs})[graph.nodes[-1].name]
        with np.errstate(all="ignore"):
            y = run_reference(graph, x, taps=[graph.nodes[-1].name]).taps[graph.nodes[-1].name]
        if op not in rules and graph.nodes[-1].op == op:
            assert np.isinf(found.lo).all(), graph.nodes[-1]
            assert np.isinf(found.hi).all(), graph.nodes[-1]
        y = y[np.isfinite(y)]
        if y.size:
            assert found.lo.min() - 1e-9 <= y.min() <= y.max() <= found.hi.max() + 1e-9, graph.nodes[-1]


@pytest.mark.parametrize("op", NAMES)
def test_onnx_is_read_by_the_operators_that_are_listed(op: str) -> None:
    sources = operators.load("ONNX in")
    assert sources is not None
    known = {*ONNX_READERS, *OUTPUTS, "Equal", "Constant", "ConstantOfShape", "an input of the graph", "an initialiser"}
    assert set(sources.get(op, ())) <= known
    came_back = False
    for graph in about(op):
        model = message(weighted(graph))
        back = read_model(model, None, weights=False, input_size=None)
        written = {node["op_type"] for node in model["graph"]["node"]} | {"an input of the graph", "an initialiser"}
        came_back |= op in {node.op for node in back.nodes} and not written.isdisjoint(sources.get(op, ()))
    assert came_back == (op in sources)


def test_operators_of_the_standard_have_a_shape_and_a_function() -> None:
    assert set(OUTPUTS) == set(FUNCTIONS)
    assert {kind.rpartition(".")[2] for kind in MACS} <= {kind.rpartition(".")[2] for kind in OUTPUTS}


class Functions(nn.Module):
    """A network as plain calls of PyTorch's functions, as a person writes a forward."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        for name, array in graph.weights.items():
            self.register_parameter(name.replace(".", "_"), nn.Parameter(torch.tensor(array)))

    def forward(self, x):
        values = {"x": x}
        for node in self.graph.nodes:
            arrays = {role: getattr(self, node.array(role).replace(".", "_")) for role in self.graph.node_params(node)}
            if node.op == "constant" and not arrays:
                values[node.name] = torch.full(node.attrs["shape"], node.attrs["fill"])
            elif node.op != "input":
                inputs = [values[i] for i in node.inputs]
                values[node.name] = COMPUTE.of(node)(self, node.attrs, inputs, arrays)
        return values[self.graph.outputs[0]]


BY_HAND = {
    "global_avgpool": lambda x: F.adaptive_avg_pool2d(x, 1),
    "global_maxpool": lambda x: F.adaptive_max_pool2d(x, 1),
    "instancenorm": lambda x: F.instance_norm(x),
    "not": lambda x: torch.logical_not(x).float(),
    "hard_sigmoid": lambda x: F.hardsigmoid(x),
    "dynamic_conv": lambda x: F.conv2d(x, x.mean((0, 2, 3)).reshape(1, 4, 1, 1)),
}
"""Where `COMPUTE` puts several functions together."""


class ByHand(nn.Module):
    """One function."""

    def __init__(self, op: str) -> None:
        super().__init__()
        self.op = op

    def forward(self, x):
        return BY_HAND[self.op](x)


@pytest.mark.parametrize("op", NAMES)
def test_pytorch_is_read_by_the_functions_that_are_listed(op: str) -> None:
    sources = operators.load("torch in")
    assert sources is not None
    assert set(sources.get(op, ())) <= {*HANDLERS, "an argument of forward", "a parameter, a buffer or a number"}
    if op in ("deform_conv", "standard", "fake_quantize"):
        return  # the first is torchvision's, in `tests/formats/torch/test_torch.py`; the others are ONNX's
    graphs = [weighted(graph) for graph in about(op)]
    modules = [(ByHand(op), X)] if op in BY_HAND else [(Functions(g), g.inputs[0].attrs["shape"]) for g in graphs]
    read = [from_module(module.eval(), size) for module, size in modules]
    assert any(op in {node.op for node in graph.nodes} for graph in read) == (op in sources)


@pytest.mark.parametrize("op", NAMES)
def test_kernels_compute_what_is_listed(op: str) -> None:
    rules = operators.load("native")
    assert rules is not None
    on_host = []
    for graph in about(op):
        plan = plan_of(weighted(graph), Request(1, SERVER_AVX2, 1)).public
        on_host.append(any(choice.algorithm == fallback.NAME for choice in plan.choices if choice.op == op))
    if rules.why_not(op) == "nothing is computed":
        assert not any(on_host)
    else:
        assert all(on_host) == (op not in rules), rules.why_not(op)


# ------------------------------------------------------------------------------------------------ the list


def test_the_list_says_what_is_supported_and_why_not(capsys) -> None:
    assert main(["list", "operators", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["operators"]}
    assert set(rows) == set(OPS)
    assert all(rows["conv"][name] == "yes" for name in ("count", *operators.SHOWN))
    assert rows["adaptive_maxpool"]["ONNX in"] == "no"
    assert rows["adaptive_maxpool"]["why"]["ONNX in"].startswith("ONNX has no such pool")
    assert main(["list", "operators"]) == 0
    printed = capsys.readouterr().out
    assert "conv_transpose" in printed


def test_a_network_of_unlisted_operators_is_refused_by_name(monkeypatch) -> None:
    """As it would be for a person who adds an operator and forgets a place."""
    from dojang.formats.onnx import write

    cut = replace(write.RULES, entries={k: v for k, v in write.RULES.entries.items() if k != "mish"})
    monkeypatch.setattr(write, "RULES", cut)
    with pytest.raises(UnsupportedError, match=r"^y: operator mish cannot be written to ONNX; dojang\.formats\.onnx"):
        onnx_format.to_bytes(one("mish", SEQ))
