"""The session against the reference: equal on small whole numbers, close on random networks, whole under threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dojang.arith.graph import Graph, Node
from dojang.base.errors import DataError, DojangError, GraphError, ShapeError, UnsupportedError, UsageError
from dojang.engine import session as session_module
from dojang.engine.reference.operators import REFERENCE, run_reference
from dojang.engine.session import Session

few = settings(max_examples=80)


def whole_numbers(graph: Graph, seed: int = 0, top: int = 3) -> Graph:
    """Small whole weights, so that every sum is exact in float32 in any order (below 2^24)."""
    rng = np.random.default_rng(seed)
    return graph.with_weights({k: rng.integers(-top, top + 1, s).astype("f4") for k, s in graph.param_shapes.items()})


def gaussian(graph: Graph, seed: int = 0) -> Graph:
    rng = np.random.default_rng(seed)
    arrays = {k: rng.normal(size=s).astype("f4") for k, s in graph.param_shapes.items()}
    return graph.with_weights({k: abs(v) + 0.1 if k.endswith("running_var") else v for k, v in arrays.items()})


@st.composite
def conv_graphs(draw: st.DrawFn) -> Graph:
    rank = draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    groups, a, b = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel, stride, dilation = each(1, 4), each(1, 3), each(1, 2)
    if draw(st.booleans()):
        stride = (1,) * rank
    padding: Any = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(rank))
    size = tuple(
        draw(st.integers(max(1, (k - 1) * d + 1 - p - q), 10))
        for k, d, (p, q) in zip(kernel, dilation, padding, strict=True)
    )
    padding = draw(st.sampled_from([padding, "same"]))
    nodes = (
        Node.of("x", "input", shape=(groups * a, *size)),
        Node.of("c", "conv", "x", out=groups * b, kernel=kernel, stride=stride, padding=padding, dilation=dilation,
                groups=groups, bias=draw(st.booleans())),
    )  # fmt: skip
    return Graph(nodes, ("c",))


@few
@given(conv_graphs(), st.integers(0, 5), st.sampled_from([1, 2000, 6000, session_module.SCRATCH_BYTES]))
def test_convolutions_are_equal_on_whole_numbers(graph: Graph, n: int, scratch: int) -> None:
    graph = whole_numbers(graph)
    x = np.random.default_rng(1).integers(-4, 5, (n, *graph["x"].attrs["shape"])).astype("f4")
    with pytest.MonkeyPatch.context() as patch:  # with little scratch memory every tile is cut
        patch.setattr(session_module, "SCRATCH_BYTES", scratch)
        out = Session(graph)(x)
    np.testing.assert_array_equal(out, run_reference(graph, x, dtype=np.float64).outputs[0].astype("f4"), strict=True)


def branches() -> Graph:
    """Residual, concat, depthwise, grouped, pools, batch norms, two outputs, one of them a view."""
    nodes = (
        Node.of("x", "input", shape=(3, 12, 10)),
        Node.of("c1", "conv", "x", out=8, kernel=(3, 3), padding=1, bias=False),
        Node.of("b1", "batchnorm", "c1"),
        Node.of("r1", "relu", "b1"),
        Node.of("dw", "conv", "r1", out=8, kernel=(3, 3), padding=1, groups=8),
        Node.of("pw", "conv", "dw", out=8, kernel=(1, 1)),
        Node.of("sum", "add", "pw", "r1"),
        Node.of("g", "conv", "sum", out=12, kernel=(3, 2), stride=2, groups=4),
        Node.of("b2", "batchnorm", "g", affine=False),
        Node.of("sq", "global_avgpool", "b2"),
        Node.of("sc", "sigmoid", "sq"),
        Node.of("se", "mul", "b2", "sc"),
        Node.of("half", "slice", "se", axis=1, start=0, stop=None, step=2),
        Node.of("cat", "concat", "se", "half"),
        Node.of("mp", "maxpool", "cat", kernel=(2, 2), ceil=True),
        Node.of("up", "conv_transpose", "mp", out=4, kernel=(2, 2), stride=2),
        Node.of("gelu", "gelu", "up"),
        Node.of("f", "flatten", "gelu"),
        Node.of("d", "dense", "f", out=7),
        Node.of("dead", "exp", "d"),
    )
    return Graph(nodes, ("d", "half"), "branches")


@pytest.mark.parametrize("n", [0, 1, 2, 9])
def test_a_network_of_branches(n: int) -> None:
    graph = gaussian(branches())
    x = np.random.default_rng(3).normal(size=(n, 3, 12, 10)).astype("f4")
    taps = ("r1", "x", "cat")
    mine, theirs = Session(graph).run(x, taps), run_reference(graph, x, np.float64, taps)
    for a, b in zip((*mine.outputs, *mine.taps.values()), (*theirs.outputs, *theirs.taps.values()), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(1, np.abs(b).max(initial=0)))
    assert list(mine.taps) == list(taps)
    if n == 1:
        assert mine.outputs[0].shape == graph.unit_shapes["d"]


def test_every_operator_of_the_table_runs() -> None:
    """The session has no gaps: what has no fast way goes to the reference."""
    assert set(session_module.FAST) < set(REFERENCE)


def test_results_belong_to_the_caller() -> None:
    nodes = (
        Node.of("x", "input", shape=(4,)),
        Node.of("same", "identity", "x"),
        Node.of("k", "constant", shape=(4,)),
        Node.of("sum", "add", "x", "k"),
        Node.of("part", "slice", "sum", axis=1, start=1),
    )
    graph = whole_numbers(Graph(nodes, ("same", "k", "part")))
    before = {k: v.copy() for k, v in graph.weights.items()}
    session, x = Session(graph), np.arange(8, dtype="f4").reshape(2, 4)
    result = session.run(x, taps=("x",))
    first = [out.copy() for out in result.outputs]
    for out in (*result.outputs, *result.taps.values()):
        assert out.flags.c_contiguous
        out[...] = -99
    np.testing.assert_array_equal(x, np.arange(8).reshape(2, 4))
    np.testing.assert_array_equal(graph.weights["k.value"], before["k.value"])
    for a, b in zip(session.run(x).outputs, first, strict=True):
        np.testing.assert_array_equal(a, b)


def test_threads_share_one_session() -> None:
    graph = gaussian(branches())
    session = Session(graph)
    inputs = [np.random.default_rng(i).normal(size=(i % 4 + 1, 3, 12, 10)).astype("f4") for i in range(16)]
    alone = [session(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(session, inputs))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_wider_floats_are_taken_and_computed_in_float32() -> None:
    graph = gaussian(branches())
    x = np.random.default_rng(3).normal(size=(2, 3, 12, 10))
    np.testing.assert_array_equal(Session(graph)(x), Session(graph)(x.astype("f4")))


def test_activations_are_released_after_their_last_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain of many layers never holds more than three of its activations at once."""
    depth, alive, most = 30, set[int](), 0

    class Counted(np.ndarray):
        def __del__(self) -> None:
            alive.discard(id(self))

    def step(inputs: Any) -> np.ndarray:
        nonlocal most
        out = (np.asarray(inputs[0]) + 1).view(Counted)
        alive.add(id(out))
        most = max(most, len(alive))
        return out

    nodes = [Node.of("n0", "input", shape=(4,))]
    nodes += [Node.of(f"n{i}", "relu", f"n{i - 1}") for i in range(1, depth)]
    session = Session(Graph(tuple(nodes), (f"n{depth - 1}",)))
    monkeypatch.setattr(session, "_steps", dict.fromkeys((n.name for n in nodes[1:]), step))
    np.testing.assert_array_equal(session(np.zeros((1, 4), "f4")), np.full((1, 4), depth - 1))
    assert most <= 3


def refused(kind: type[DojangError], message: str, call: Any) -> None:
    with pytest.raises(kind, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_errors() -> None:
    graph = gaussian(branches())
    session = Session(graph)
    refused(ShapeError, "x: the input is 1x3x10x12", lambda: session(np.zeros((1, 3, 10, 12), "f4")))
    refused(UsageError, "x: the input is int64; give float32", lambda: session(np.zeros((1, 3, 12, 10), int)))
    refused(GraphError, "no node 'r9'", lambda: session.run(np.zeros((1, 3, 12, 10), "f4"), taps=("r9",)))
    refused(GraphError, "no weights for c1.weight 8x3x3x3", lambda: Session(branches()))
    spoiled = {**graph.weights, "pw.bias": np.full(8, np.nan, "f4")}
    refused(DataError, "pw.bias: 8 of 8 weights are NaN", lambda: Session(graph.replace(weights=spoiled)))
    odd = (Node.of("x", "input", shape=(3,)), Node.of("odd", "unknown", "x", kind="Twist"))
    refused(UnsupportedError, "odd: operator Twist cannot be run", lambda: Session(Graph(odd, ("odd",))))


def test_a_fixed_reshape_is_refused_for_other_batches() -> None:
    nodes = (
        Node.of("x", "input", shape=(2, 3)),
        Node.of("r", "reshape", "x", shape=(1, -1)),
        Node.of("d", "dense", "r", out=2, bias=False),
    )
    session = Session(whole_numbers(Graph(nodes, ("d",))))
    session(np.zeros((1, 2, 3), "f4"))
    refused(ShapeError, "d: with a batch of 2", lambda: session(np.zeros((2, 2, 3), "f4")))
