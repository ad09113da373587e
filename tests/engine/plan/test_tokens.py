"""Norms, dense layers over the last axis, products of values and functions in the compiled engine."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dojang.arith.graph import Graph, Node
from dojang.engine.compiled import compile
from dojang.engine.kernels.activations import NAMES
from dojang.engine.kernels.other import matmul, norm
from dojang.engine.reference.operators import run_reference
from dojang.native.machine import Machine

N = Node.of
rng = np.random.default_rng(0)
few = settings(max_examples=15)


def check(nodes, shape, n=2, x=None, tol=4e-6, machine=None):
    """The network against float64; nothing may be left to Python."""
    graph = Graph((N("x", "input", shape=shape), *nodes), (nodes[-1].name,), "some")
    weights = {k: rng.standard_normal(s).astype("f4") for k, s in graph.param_shapes.items()}
    graph = graph.replace(weights=weights)
    x = rng.standard_normal((n, *shape)).astype("f4") if x is None else x
    run = compile(graph, threads=2, machine=machine)
    assert run.plan(len(x)).in_python == ()
    right = run_reference(graph, x, np.float64).outputs[0]
    found = run(x)
    assert found.shape == right.shape
    np.testing.assert_allclose(found, right, rtol=tol, atol=tol * max(1.0, float(np.nanmax(np.abs(right), initial=0))))


HOST = Machine.host()
MACHINES = [
    HOST,
    *(HOST.restrict(isa) for isa in HOST.narrower()),
]


@few
@given(
    st.integers(1, 75), st.lists(st.integers(1, 9), min_size=1, max_size=3), st.booleans(), st.sampled_from(MACHINES)
)
def test_instance_norm(channels, size, affine, machine):
    check([N("y", "instancenorm", "x", affine=affine, eps=1e-3)], (channels, *size), machine=machine)


WIDTHS = st.sampled_from([1, 2, 4, 8, 16, 32, 3, 5, 40])


@few
@given(st.integers(1, 20), WIDTHS, st.lists(st.integers(1, 9), max_size=2), st.booleans(),
       st.sampled_from(MACHINES))  # fmt: skip
def test_group_norm(groups, wide, size, affine, machine):
    node = N("y", "groupnorm", "x", groups=groups, affine=affine, eps=1e-3)
    check([node], (groups * wide, *size), machine=machine)


@few
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.data())
def test_layer_norm(shape, data):
    over = data.draw(st.integers(1, max(1, len(shape) - 1)))
    affine = data.draw(st.booleans())
    check([N("y", "layernorm", "x", shape=tuple(shape[-over:]), affine=affine, eps=1e-3)], tuple(shape))


def test_the_mean_is_taken_before_the_squares():
    """A mean far above the deviation: one pass over squares would lose all digits."""
    x = (1000 + rng.standard_normal((1, 24, 40, 40))).astype("f4")
    check([N("y", "groupnorm", "x", groups=4)], (24, 40, 40), x=x, tol=1e-5)
    check([N("y", "instancenorm", "x")], (24, 40, 40), x=x, tol=1e-5)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.isa)
def test_what_does_not_move_is_zero(machine):
    """A constant channel: the last digit of its mean is not magnified by 1 / sqrt(eps)."""
    x = np.broadcast_to(np.float32([1000.1, -2.7080503, 1e-3, 7.3]).repeat(6)[None, :, None, None], (1, 24, 13, 7))
    for node in (N("y", "instancenorm", "x"), N("y", "groupnorm", "x", groups=4)):
        graph = Graph((N("x", "input", shape=(24, 13, 7)), node), ("y",), "some")
        weights = {k: np.full(s, "weight" in k, "f4") for k, s in graph.param_shapes.items()}
        found = compile(graph.replace(weights=weights), threads=1, machine=machine)(np.ascontiguousarray(x))
        assert np.abs(found).max() < 1e-6


@few
@given(st.lists(st.integers(1, 70), min_size=2, max_size=3), st.integers(1, 50), st.booleans(),
       st.sampled_from(MACHINES))  # fmt: skip
def test_dense_over_the_last_axis(shape, out, relu, machine):
    nodes = [N("y", "dense", "x", out=out)] + [N("z", "relu", "y")] * relu
    check(nodes, tuple(shape), tol=1e-5, machine=machine)


@few
@given(*[st.integers(1, 70)] * 3, st.sampled_from(MACHINES))
def test_matrix_product(rows, depth, columns, machine):
    nodes = [
        N("a", "slice", "x", axis=2, start=0, stop=depth),
        N("w", "dense", "x", out=columns * 1),
        N("wt", "transpose", "w", perm=(0, 2, 1)),
        N("b", "matmul", "wt", "a"),
        N("c", "matmul", "a", "bt"),
    ]
    nodes.insert(4, N("bt", "transpose", "b", perm=(0, 2, 1)))
    check(nodes, (rows, depth), tol=2e-5, machine=machine)


def test_blocks_as_in_transformers_and_convnext():
    """Patches to tokens and back; norm over the features; residual sums."""
    nodes = [
        N("p", "conv", "x", out=48, kernel=(4, 4), stride=4),
        N("r", "reshape", "p", shape=(-1, 48, 35)),
        N("t", "transpose", "r", perm=(0, 2, 1)),
        N("n", "layernorm", "t", shape=(48,)),
        N("h", "dense", "n", out=96),
        N("g", "gelu", "h"),
        N("o", "dense", "g", out=48),
        N("s", "add", "o", "t"),
    ]
    check(nodes, (3, 20, 28), tol=2e-5)
    nodes = [
        N("d", "conv", "x", out=24, kernel=(7, 7), padding=3, groups=24),
        N("t", "transpose", "d", perm=(0, 2, 3, 1)),
        N("n", "layernorm", "t", shape=(24,)),
        N("h", "dense", "n", out=96),
        N("g", "gelu", "h", approximate="tanh"),
        N("o", "dense", "g", out=24),
        N("b", "transpose", "o", perm=(0, 3, 1, 2)),
        N("s", "add", "b", "x"),
    ]
    check(nodes, (24, 9, 13), tol=2e-5)


FAR = [-3e38, -200, -105, -90, -30, -20, -9, -4, -0.36, -0.34, -1e-3, -1e-30, 0, 1e-30, 1e-3, 0.5, 4, 9, 20, 88, 3e38]


@pytest.mark.parametrize("name", [*sorted(NAMES), "gelu", "gelu tanh", "elu", "selu"])
def test_functions(name):
    op, _, rest = name.partition(" ")
    attrs = {"approximate": rest} if rest else {"alpha": 0.7} if op == "elu" else {}
    x = np.concatenate([np.array(FAR, "f4"), rng.standard_normal(1000).astype("f4") * 3])[None, :, None]
    x = np.abs(x) if op == "sqrt" else x
    graph = Graph((N("x", "input", shape=x.shape[1:]), N("y", op, "x", arrays=None, **attrs)), ("y",), "one")
    run = compile(graph, threads=1)
    assert run.plan(1).in_python == ()
    with np.errstate(all="ignore"):
        right = run_reference(graph, x, np.float64).outputs[0].astype("f4")
    found = run(x)
    finite = np.isfinite(right)
    assert np.array_equal(found[~finite], right[~finite], equal_nan=True)
    assert np.all(np.abs(found[finite] - right[finite]) <= 4e-7 * np.maximum(1, np.abs(right[finite])))
    assert np.isnan(run(np.full_like(x, np.nan))).all()


@pytest.mark.parametrize("op", ["gelu", "elu", "softplus", "mish"])
def test_functions_behind_a_convolution_are_fused(op):
    check([N("c", "conv", "x", out=9, kernel=(3,), padding=1), N("y", op, "c")], (30, 7), tol=1e-5)
    graph = Graph((N("x", "input", shape=(30, 7)), N("c", "conv", "x", out=9, kernel=(3,)), N("y", op, "c")), ("y",))
    graph = graph.replace(weights={k: np.ones(s, "f4") for k, s in graph.param_shapes.items()})
    assert ("c", "y") in [choice.members for choice in compile(graph).plan(1).choices]


@pytest.mark.parametrize("shape", [(10,), (1000,), (7, 5, 3)])
def test_log_softmax(shape):
    x = (rng.standard_normal((3, *shape)) * 30).astype("f4")
    check([N("y", "log_softmax", "x", axis=1)], shape, x=x)
    x[0] = np.nan
    graph = Graph((N("x", "input", shape=shape), N("y", "log_softmax", "x", axis=1)), ("y",), "one")
    found = compile(graph)(x)
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1:]).all()


@pytest.mark.parametrize("isa", ["neon", "avx512", "avx2"])
def test_other_processors_are_written(isa):
    from dojang.native import jit

    machine = Machine.cross(isa)
    tasks = (
        (norm, norm.NormTask(37, 2, 9, 0, 37, 40, 1e-5, "pixel")),
        (norm, norm.NormTask(36, 1, 9, 3, 36, 36, 1e-5, "channel")),
        (matmul, matmul.MatTask(2, 30, 17, 21, 17, 21, 21, True)),
    )
    for module, task in tasks:
        (step,) = module.emit(task, machine).steps
        assert len(jit.compile_object(step.build("kernel"), machine, False)) > 500
