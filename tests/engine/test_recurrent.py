"""Recurrent layers: the engine and the reader against PyTorch in float64 and ONNX Runtime, drawn by a rule."""

from __future__ import annotations

import numpy as np
import pytest

from dojang.arith.cost import count
from dojang.arith.graph import Graph, Node
from dojang.engine.compiled import compile
from dojang.engine.kernels.other import recurrent as kernel
from dojang.engine.kernels.other.recurrent import RecurrentTask
from dojang.engine.kernels.task import Refusal
from dojang.formats import onnx as onnx_format
from machines import SERVER_AVX2

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
helper = pytest.importorskip("onnx.helper")
ort = pytest.importorskip("onnxruntime")

from torch import nn  # noqa: E402

from dojang.formats.torch import from_module, to_module  # noqa: E402

MODULES = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn_tanh": nn.RNN, "rnn_relu": nn.RNN}


def drawn(seed: int) -> tuple[np.random.Generator, str, dict, tuple[int, int, int, int]]:
    """A cell, its options, and (steps, n, inputs, hidden); sizes around whole vectors are likely."""
    rng = np.random.default_rng(seed)
    cell = list(MODULES)[seed % 4]
    options = {
        "bidirectional": bool(rng.integers(2)), "bias": bool(rng.integers(2)), "num_layers": int(rng.integers(1, 3)),
        "batch_first": bool(rng.integers(2)),
    }  # fmt: skip
    hidden = int(rng.choice([1, 7, 8, 15, 16, 17, 33, int(rng.integers(1, 80))]))
    return rng, cell, options, (int(rng.integers(1, 9)), int(rng.integers(1, 12)), int(rng.integers(1, 40)), hidden)


class WithStates(nn.Module):
    """All outputs of a layer, its initial states given."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x, *states):
        y, last = self.layer(x, *([states if len(states) > 1 else states[0]] if states else []))
        return (y, *last) if isinstance(last, tuple) else (y, last)


@pytest.mark.parametrize("seed", range(12))
def test_layers_of_pytorch_as_pytorch_computes_them_in_float64(seed: int) -> None:
    rng, cell, options, (steps, n, inputs, hidden) = drawn(seed)
    more = {"nonlinearity": cell.partition("_")[2]} if "_" in cell else {}
    torch.manual_seed(seed)
    module = WithStates(MODULES[cell](inputs, hidden, **options, **more)).eval()
    first = options["batch_first"]
    x = rng.standard_normal((n, steps, inputs)).astype(np.float32)
    if not first:  # the first axis is the batch of the network, so the steps are counted by it
        module.layer.batch_first = True
    graph = from_module(module, [(steps, inputs)])
    found = compile(graph, threads=1 + seed % 2).run(x).outputs
    with torch.no_grad():
        right = module.double()(torch.from_numpy(x).double())
    assert len(found) == len(right) == (3 if cell == "lstm" else 2)
    for got, wanted in zip(found, right, strict=True):
        np.testing.assert_allclose(got, wanted.numpy(), rtol=2e-5, atol=4e-6)
    total = count(graph).total
    assert total.params == sum(p.numel() for p in module.parameters())
    levels, ways = options["num_layers"], 2 if options["bidirectional"] else 1
    gates = {"lstm": 4, "gru": 3}.get(cell, 1)
    width = [inputs] + [ways * hidden] * (levels - 1)
    assert total.macs == steps * sum(ways * gates * hidden * (w + hidden) for w in width)
    assert compile(graph, threads=1).plan(n).in_python == ()


def onnx_model(rng: np.random.Generator, cell: str, sizes: tuple[int, ...], **more):
    """One operator of ONNX with the weights in the file; all outputs; whatever `more` says."""
    steps, n, inputs, hidden = sizes
    op, gates = cell.partition("_")[0].upper(), {"lstm": 4, "gru": 3}.get(cell, 1)
    both = more.get("direction") == "bidirectional"
    ways = 2 if both else 1
    shapes = {"w": (ways, gates * hidden, inputs), "r": (ways, gates * hidden, hidden), "b": (ways, 2 * gates * hidden)}
    held = {k: (rng.standard_normal(s) / np.sqrt(hidden)).astype(np.float32) for k, s in shapes.items()}
    states = (
        dict.fromkeys(("h", "c")[: 2 if cell == "lstm" else 1], (ways, n, hidden)) if more.pop("states", True) else {}
    )
    names = ["x", "w", "r", "b", "", *states]
    if more.pop("lengths", False):
        held["lengths"] = rng.integers(1, steps + 1, n).astype(np.int32)
        names[4] = "lengths"
    if more.pop("peepholes", False):
        names += [""] * (7 - len(names)) + ["p"]
        held["p"] = rng.standard_normal((ways, 3 * hidden)).astype(np.float32)
    if cell == "rnn_relu":
        more["activations"] = ["Relu"] * ways
    outputs = ["y", "yh", "yc"][: 3 if cell == "lstm" else 2]
    node = helper.make_node(op, names, outputs, hidden_size=hidden, **more)
    value = lambda k, s: helper.make_tensor_value_info(k, 1, s)  # noqa: E731
    fed = {"x": (steps, n, inputs), **states}
    code = lambda v: 6 if v.dtype.kind == "i" else 1  # noqa: E731
    tensors = [helper.make_tensor(k, code(v), v.shape, v.tobytes(), raw=True) for k, v in held.items()]
    graph = helper.make_graph(
        [node], "g", [value(k, [s[0], "N", s[2]]) for k, s in fed.items()], [value(k, None) for k in outputs],
        tensors,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    return model.SerializeToString(), {k: rng.standard_normal(s).astype(np.float32) for k, s in fed.items()}


def against_onnxruntime(data: bytes, fed: dict[str, np.ndarray]) -> Graph:
    graph = onnx_format.from_bytes(data)
    right = ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, fed)
    for got, wanted in zip(compile(graph, threads=1).run(fed).outputs, right, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=5e-5, atol=1e-5)
    return graph


@pytest.mark.parametrize("seed", range(12))
def test_operators_of_onnx_as_onnxruntime_computes_them(seed: int) -> None:
    rng, cell, options, sizes = drawn(seed + 100)
    direction = "bidirectional" if options["bidirectional"] else ("reverse", "forward")[seed // 4 % 2]
    more = {"linear_before_reset": seed // 4 % 2} if cell == "gru" else {}
    data, fed = onnx_model(rng, cell, sizes, direction=direction, states=options["bias"], **more)
    graph = against_onnxruntime(data, fed)
    assert onnx_format.from_bytes(onnx_format.to_bytes(graph)) == graph
    assert {node.op for node in graph.nodes} == {"input", "recurrent"}
    native = not (cell == "gru" and not more["linear_before_reset"])
    assert (compile(graph, threads=1).plan(3).in_python == ()) is native


@pytest.mark.parametrize("more", [{"lengths": True}, {"peepholes": True}], ids=lambda m: next(iter(m)))
def test_what_a_layer_cannot_say_is_run_as_the_standard_defines_it(more: dict) -> None:
    data, fed = onnx_model(np.random.default_rng(5), "lstm", (6, 3, 4, 9), direction="bidirectional", **more)
    assert "standard" in {node.op for node in against_onnxruntime(data, fed).nodes}


def test_every_thread_count_and_every_part_of_a_batch_give_the_same_bits() -> None:
    rng = np.random.default_rng(3)
    nodes = (
        Node.of("x", "input", shape=(5, 9), batch_axis=1),
        Node.of("y", "recurrent", "x", cell="lstm", hidden=21, direction="both"),
    )
    graph = Graph(nodes, ("y",))
    graph = graph.with_weights({k: rng.standard_normal(s).astype("f4") for k, s in graph.param_shapes.items()})
    x = rng.standard_normal((5, 13, 9)).astype(np.float32)
    whole = compile(graph, threads=1).run(x).outputs[0]
    for threads in (1, 2):
        network = compile(graph, threads=threads)
        for few in (1, 2, 6, 13):
            assert np.array_equal(network.run(x[:, :few].copy()).outputs[0], whole[:, :, :few])


def test_a_layer_of_large_weights_is_predicted_by_their_bytes() -> None:
    """A row more costs nothing where the weights of the state come from the cache anyway."""
    few, more = (RecurrentTask("lstm", 512, 20, n, (False,), (False, False)) for n in (1, 2))
    one, two = (kernel.offer(task, SERVER_AVX2) for task in (few, more))
    assert one.seconds < two.seconds * 1.01


def rounded_file(steps: int, n: int, inputs: int, hidden: int, many: int, kind: type, seed: int) -> bytes:
    """A file of one DynamicQuantizeLSTM with drawn weights."""
    rng = np.random.default_rng(seed)
    least, most = np.iinfo(kind).min, np.iinfo(kind).max
    arrays = {
        "w": rng.integers(least, most + 1, (many, inputs, 4 * hidden)).astype(kind),
        "r": rng.integers(least, most + 1, (many, hidden, 4 * hidden)).astype(kind),
        "b": (rng.standard_normal((many, 8 * hidden)) / 10).astype("f4"),
        "w_scale": rng.uniform(0.001, 0.004, many).astype("f4"), "w_zero": rng.integers(0, 9, many).astype(kind),
        "r_scale": rng.uniform(0.001, 0.004, many).astype("f4"), "r_zero": rng.integers(0, 9, many).astype(kind),
    }  # fmt: skip
    given = ["x", "w", "r", "b", "", "", "", "", "w_scale", "w_zero", "r_scale", "r_zero"]
    outputs = ["y", "h", "c"]
    direction = "bidirectional" if many == 2 else ("forward", "reverse")[seed % 2]
    node = helper.make_node(
        "DynamicQuantizeLSTM", given, outputs, domain="com.microsoft", hidden_size=hidden, direction=direction
    )
    values = [helper.make_tensor_value_info("x", 1, (steps, n, inputs))]
    results = [helper.make_tensor_value_info(name, 1, None) for name in outputs]
    stored = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "rounded", values, results, stored)
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


@pytest.mark.parametrize("seed", range(8))
def test_states_rounded_to_8_bits_as_in_onnxruntime(seed: int) -> None:
    """All three outputs; batches that fit one unit in a kernel, larger ones in NumPy; and the written module."""
    rng = np.random.default_rng(seed)
    steps, n, inputs, hidden = (int(rng.integers(1, most)) for most in (9, 12, 40, 40))
    data = rounded_file(steps, n, inputs, hidden, 1 + seed % 2, (np.uint8, np.int8)[seed // 2 % 2], seed)
    x = rng.standard_normal((steps, n, inputs)).astype("f4")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    want = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    graph = onnx_format.from_bytes(data)
    found = compile(graph).run(x).outputs
    with torch.no_grad():
        module = to_module(graph)(torch.from_numpy(x))
    for a, b, c in zip(want, found, module, strict=True):
        assert np.abs(a - b).max() < 1e-5
        assert np.abs(a - c.numpy()).max() < 1e-5


def test_rounded_states_of_many_rows_are_refused_by_the_kernel() -> None:
    task = RecurrentTask("lstm", 16, 3, 40, (False,), (False, False), rounded=True)
    found = kernel.offer(task, SERVER_AVX2)
    assert isinstance(found, Refusal)
    assert "rows" in found.reason
