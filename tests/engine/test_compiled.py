"""Whole networks: equal to the NumPy session, for every structure that changes how values are stored or fused."""

import gc
import itertools
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest

from dojang.arith.conv import Conv
from dojang.arith.graph import Graph, Node
from dojang.base.errors import DojangError, GraphError, ShapeError, UnsupportedError, UsageError
from dojang.engine.compiled import Compiled, compile
from dojang.engine.kernels.conv import direct, streamed, winograd
from dojang.engine.kernels.task import Task
from dojang.engine.plan.context import resident_ratio
from dojang.engine.reference.operators import run_reference
from dojang.engine.settle import settled
from dojang.engine.weights import Weights
from dojang.formats import zoo
from dojang.native.machine import Machine
from machines import EVERY, RUNNABLE, TINY, name_of

N = Node.of


def filled(graph, seed=0):
    """The network with random weights."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in graph.param_shapes.items():
        if name.endswith("running_var"):
            weights[name] = rng.uniform(0.5, 2, shape).astype("f4")
        else:
            weights[name] = (rng.standard_normal(shape) / max(1, np.prod(shape[1:])) ** 0.5).astype("f4")
    return graph.replace(weights=weights)


def pictures(graph, n, seed=1):
    rng = np.random.default_rng(seed)
    return {i.name: rng.standard_normal((n, *i.attrs["shape"])).astype("f4") for i in graph.inputs}


def check(graph, batches=(1, 3), taps=(), python=(), threads=2, precision="fast", machine=None):
    graph = filled(graph) if not graph.weights else graph
    run = compile(graph, threads=threads, precision=precision, machine=machine)
    for n in batches:
        x = pictures(graph, n)
        exact = run_reference(graph, x, np.float64, taps)
        for _ in range(2):
            got = run.run(x, taps)
            for a, b in zip(got.outputs, exact.outputs, strict=True):
                assert a.shape == b.shape
                assert a.dtype == np.float32
                assert np.abs(a - b).max(initial=0) <= 2e-5 * max(1.0, np.abs(b).max(initial=0))
            for name in taps:
                assert np.abs(got.taps[name] - exact.taps[name]).max(initial=0) <= 1e-4
    assert run.plan(batches[0], taps).in_python == tuple(python)
    return run


def image(*shape):
    return N("x", "input", shape=shape)


def graph(*nodes, out=None):
    return Graph(tuple(nodes), (out or nodes[-1].name,) if isinstance(out, str | None) else out)


def residual_net():
    return graph(
        image(5, 14, 13),
        N("c1", "conv", "x", out=24, kernel=(3, 3), padding=1, bias=False),
        N("b1", "batchnorm", "c1"),
        N("r1", "relu", "b1"),
        N("c2", "conv", "r1", out=24, kernel=(3, 3), padding=1),
        N("b2", "batchnorm", "c2"),
        N("a", "add", "b2", "r1"),
        N("r2", "relu", "a"),
        N("c3", "conv", "r2", out=16, kernel=(1, 1)),
        N("s", "conv", "r1", out=16, kernel=(1, 1)),
        N("a2", "add", "s", "c3"),
        N("p", "global_avgpool", "a2"),
        N("f", "flatten", "p"),
        N("d", "dense", "f", out=7),
    )


def test_a_tap_between_convolution_and_norm_after_a_run_without():
    g = filled(graph(image(5, 9, 8), N("c", "conv", "x", out=16, kernel=(3, 3), bias=False), N("b", "batchnorm", "c")))
    run = compile(g, threads=1)
    x = pictures(g, 2)
    exact = run_reference(g, x, np.float64, ("c",))
    for taps in ((), ("c",), ()):
        got = run.run(x, taps)
        assert np.allclose(got.outputs[0], exact.outputs[0], atol=1e-4)
        assert all(np.allclose(got.taps[t], exact.taps[t], atol=1e-4) for t in taps)


def test_released_weights_are_gone_and_not_needed_for_other_batches():
    g = filled(residual_net())
    weights = dict(g.weights)
    run = compile(g.replace(weights=weights), threads=2, release=True)
    for n in (2, 1, 5):
        x = pictures(g, n)
        assert np.allclose(run(x), run_reference(g, x, np.float64).outputs[0], atol=1e-4)
    assert not [k for k in run.graph.weights if k in ("c1.weight", "c2.weight", "c3.weight", "s.weight", "d.weight")]
    watched = weakref.ref(weights.pop("c2.weight"))
    del g, weights
    gc.collect()
    assert watched() is None
    with pytest.raises(UsageError, match="c1: its weights were released"):
        run.run(x, ("c1",))


def test_a_layer_over_a_sequence_whose_pixels_are_the_batch_takes_any_after_any_and_others_go():
    g = filled(graph(
        image(6, 3),
        N("t", "transpose", "x", perm=(2, 0, 1)),  # (steps, batch, features): one pixel where the batch is 1
        N("d", "dense", "t", out=5),
        N("back", "transpose", "d", perm=(1, 2, 0)),
        N("c", "conv", "back", out=4, kernel=(3,), padding=1),
    ))  # fmt: skip
    for order in ((2, 1, 3), (1, 2, 1)):
        run = compile(g.replace(weights=dict(g.weights)), threads=1, release=True)
        for n in order:
            x = pictures(g, n)
            assert np.allclose(run(x), run_reference(g, x, np.float64).outputs[0], atol=1e-4)
        assert "c.weight" not in run.graph.weights


def test_each_weight_goes_when_it_is_packed(monkeypatch):
    g = filled(residual_net())
    watched = [weakref.ref(array) for array in g.weights.values() if array.ndim == 4]
    assert len(watched) == 4
    x = pictures(g, 2)
    right = run_reference(g, x, np.float64).outputs[0]
    run = compile(g, threads=2, release=True)
    del g
    left, real = [], Weights.folded

    def folded(self, group):
        left.append(sum(ref() is not None for ref in watched))
        return real(self, group)

    monkeypatch.setattr(Weights, "folded", folded)
    assert np.allclose(run(x), right, atol=1e-4)
    assert left == [4, 3, 2, 1, 0]  # before each layer is packed


def test_a_layer_used_twice_keeps_its_weights_until_the_second():
    own = {"weight": "c1.weight", "bias": "c1.bias"}
    g = filled(graph(
        image(16, 9, 9),
        N("c1", "conv", "x", out=16, kernel=(3, 3), padding=1),
        N("r", "relu", "c1"),
        N("c2", "conv", "r", arrays=own, out=16, kernel=(3, 3), padding=1),
        N("u", "conv_transpose", "c2", arrays=own, out=16, kernel=(3, 3)),
    ))  # fmt: skip
    run = compile(g, threads=2, release=True)
    for n in (1, 3):
        x = pictures(g, n)
        assert np.allclose(run(x), run_reference(g, x, np.float64).outputs[0], atol=1e-4)
    assert "c1.weight" not in run.graph.weights


def test_measuring_writes_into_no_freed_memory():
    """An output of 8 MB has pages of its own, which are unmapped when it is freed."""
    g = filled(graph(image(3, 250, 256), N("c", "conv", "x", out=32, kernel=(1, 1))))
    plan = compile(g, threads=1).measured(1, 0.01)
    assert [c.value for c in plan.choices] == ["x", "c", "c"]
    assert all(c.measured_s for c in plan.choices)


def test_another_shape_of_an_input_is_seen_by_python():
    """(1, 4, 6) and (24,) are the same memory; what follows has no kernel."""
    for shape, new in (((1, 4, 6), (-1, 1, 24)), ((24,), (-1, 24, 1))):
        g = graph(image(*shape), N("r", "reshape", "x", shape=new), N("s", "einsum", "r", equation="abc->abc"))
        run, x = compile(g), pictures(g, 2)
        assert run.plan(2).in_python == ("s",)
        assert np.allclose(run(x), run_reference(g, x, np.float64).outputs[0], atol=1e-6)


def test_residual_and_batchnorm_are_fused():
    run = check(residual_net(), (1, 2, 5))
    values = [c.value for c in run.plan().choices if c.op != "layout"]
    assert values == ["r1", "r2", "c3", "a2", "p", "d"]
    assert run.plan().choices[1].members == ("c1", "b1", "r1")


def test_taps_are_seen_before_and_after_fusion():
    run = check(residual_net(), (2,), taps=("c1", "b1", "a", "x", "r2", "p"))
    assert [c.value for c in run.plan(2).choices] != [c.value for c in run.plan(2, ("c1", "b1")).choices]


def test_concatenation_without_copies():
    g = graph(
        image(3, 9, 9),
        N("a", "conv", "x", out=5, kernel=(3, 3), padding=1),
        N("b", "conv", "x", out=17, kernel=(1, 1)),
        N("rb", "relu", "b"),
        N("p", "maxpool", "a", kernel=(3, 3), stride=(1, 1), padding=1),
        N("inner", "concat", "a", "rb"),
        N("outer", "concat", "p", "inner"),
        N("z", "conv", "outer", out=8, kernel=(3, 3)),
    )
    run = check(g)
    assert "concat" not in [c.op for c in run.plan().choices]


def test_concatenation_with_copies():
    g = graph(
        image(3, 6, 6),
        N("a", "conv", "x", out=4, kernel=(1, 1)),
        N("twice", "concat", "a", "a", "x"),
        N("again", "concat", "twice", "a"),
        N("z", "conv", "again", out=8, kernel=(3, 3)),
    )
    check(g)


@pytest.mark.parametrize(("start", "stop"), [(0, 4), (3, 9), (-4, None), (1, 2)])
def test_slices_of_channels_are_views(start, stop):
    g = graph(
        image(3, 6, 7),
        N("c", "conv", "x", out=10, kernel=(3, 3)),
        N("s", "slice", "c", axis=1, start=start, stop=stop),
        N("d", "conv", "s", out=4, kernel=(1, 1)),
        N("m", "maxpool", "s", kernel=(2, 2)),
        N("e", "conv", "m", out=4, kernel=(1, 1)),
        N("f", "flatten", "s"),
        out=("d", "e", "f", "s"),
    )
    check(g)


def test_shortcuts_that_subsample_and_pad():
    g = graph(
        image(3, 11, 12),
        N("c", "conv", "x", out=8, kernel=(3, 3), padding=1),
        N("rows", "slice", "c", axis=2, step=2),
        N("cols", "slice", "rows", axis=3, start=1, stop=11, step=3),
        N("wide", "pad", "cols", pads=((0, 0), (4, 5), (0, 0), (0, 0)), value=0.5),
        N("d", "conv", "wide", out=17, kernel=(3, 3), padding=1),
        N("s", "add", "d", "wide"),
    )
    check(g)


def test_every_pooling():
    g = graph(
        image(5, 13, 11),
        N("m1", "maxpool", "x", kernel=(3, 3), stride=(2, 2), padding=1),
        N("m2", "maxpool", "x", kernel=(3, 2), stride=(2, 2), ceil=True),
        N("a1", "avgpool", "x", kernel=(3, 3), stride=(2, 2), padding=1, ceil=True),
        N("a2", "avgpool", "x", kernel=(3, 3), stride=(2, 1), padding=1, count_padding=False),
        N("g1", "global_maxpool", "x"),
        N("g2", "adaptive_avgpool", "x", out=(1, 1)),
        N("g3", "adaptive_avgpool", "m1", out=(3, 2)),
        N("r", "reduce_mean", "x", axes=(2, 3), keepdims=False),
        out=("m1", "m2", "a1", "a2", "g1", "g2", "g3", "r"),
    )
    check(g)


def test_elementwise_and_gates():
    g = graph(
        image(6, 5, 7),
        N("c", "conv", "x", out=6, kernel=(3, 3), padding=1),
        N("p", "global_avgpool", "c"),
        N("e", "conv", "p", out=6, kernel=(1, 1)),
        N("h", "hard_sigmoid", "e"),
        N("gate", "mul", "c", "h"),
        N("t", "tanh", "gate"),
        N("s", "sub", "t", "x"),
        N("three", "add", "s", "x", "t"),
        N("q", "silu", "three"),
        N("mx", "maximum", "q", "x"),
        N("n", "batchnorm", "mx"),
        N("cl", "clip", "n", min=-0.5, max=1.0),
        N("l", "lrn", "cl", size=3),
    )
    check(g)


def test_what_has_no_kernel_runs_in_python_and_the_plan_says_so():
    g = graph(
        image(4, 6, 8),
        N("c", "conv", "x", out=8, kernel=(3, 3), padding=1),
        N("u", "resize", "c", scale=(2.0, 2.0)),
        N("k", "constant", shape=(1, 8, 1, 1), fill=0.5),
        N("m", "mul", "u", "k"),
        N("t", "einsum", "m", equation="abcd->abcd"),
        N("d", "conv", "t", out=4, kernel=(3, 3)),
        N("f", "flatten", "d"),
        N("s", "einsum", "f", equation="ab->ab"),
    )
    check(g, python=("t", "s"))


def test_transposed_grouped_depthwise_one_dimension():
    g = graph(
        image(6, 21),
        N("c", "conv", "x", out=12, kernel=(5,), padding=2, groups=3),
        N("b", "batchnorm", "c"),
        N("dw", "conv", "b", out=12, kernel=(3,), stride=2, padding=1, groups=12),
        N("t", "conv_transpose", "dw", out=8, kernel=(4,), stride=2, padding=1, groups=2),
        N("tb", "batchnorm", "t"),
        N("r", "leaky_relu", "tb"),
    )
    check(g)
    g = graph(image(2, 5, 6, 7), N("c", "conv", "x", out=5, kernel=(3, 3, 3), padding=1), N("r", "relu", "c"))
    check(g)


def test_outputs_that_are_inputs_or_aliases():
    g = graph(
        image(3, 4, 4),
        N("i", "identity", "x"),
        N("c", "conv", "i", out=3, kernel=(1, 1)),
        N("d", "dropout", "c"),
        out=("x", "i", "d", "c"),
    )
    run = check(g, taps=("i", "d"))
    first = run(pictures(g, 1))
    first[...] = 0
    assert (run(pictures(g, 1)) != 0).any()


def test_two_inputs_and_shared_weights():
    g = graph(
        N("x", "input", shape=(3, 8, 8)),
        N("y", "input", shape=(3, 8, 8)),
        N("a", "conv", "x", out=4, kernel=(3, 3)),
        N("b", "conv", "y", out=4, kernel=(3, 3), arrays={"weight": "a.weight", "bias": "a.bias"}),
        N("s", "add", "a", "b"),
        N("f", "flatten", "s"),
        N("d", "dense", "f", out=3),
    )
    check(g)


def test_empty_batch_and_small_images():
    run = check(residual_net(), (0, 1))
    assert run(np.zeros((0, 5, 14, 13), "f4")).shape == (0, 7)
    check(graph(image(1, 1, 1), N("c", "conv", "x", out=1, kernel=(3, 3), padding=1)), (0, 1, 2))


@pytest.mark.parametrize("machine", RUNNABLE, ids=name_of)
def test_strict_uses_direct_kernels_only(machine):
    g = graph(image(32, 24, 24), N("c", "conv", "x", out=32, kernel=(3, 3), padding=1))
    assert "winograd" in [c.algorithm for c in check(g, machine=machine).plan().choices]
    strict = check(g, precision="strict", machine=machine).plan()
    (choice,) = [c for c in strict.choices if c.op == "conv"]
    assert choice.algorithm == "direct"
    assert ("winograd", "precision is strict") in choice.refused


@pytest.mark.parametrize("isa", ["avx2", "generic"])
def test_narrower_machines(isa):
    if Machine.host().isa not in ("avx512", "avx2"):
        pytest.skip("this machine cannot be restricted")
    g = filled(residual_net())
    x = pictures(g, 2)
    narrow = Compiled(g, machine=Machine.host().restrict(isa)).run(x).outputs[0]
    assert np.allclose(narrow, run_reference(g, x).outputs[0], atol=1e-5)


def test_many_threads_share_one():
    g = filled(residual_net())
    run = compile(g, threads=2)
    x = [pictures(g, 1, seed) for seed in range(4)]
    expected = [run(v) for v in x]
    wrong = []

    def work(k):
        wrong.extend(k for _ in range(50) if not (run(x[k]) == expected[k]).all())

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_choosing_by_measuring(tmp_path, monkeypatch):
    monkeypatch.setenv("DOJANG_CACHE_DIR", str(tmp_path))
    g = filled(graph(image(32, 20, 20), N("c", "conv", "x", out=32, kernel=(3, 3), padding=1)))
    plan = compile(g, tune=True, machine=TINY).plan()
    assert plan.tuned
    (choice,) = [c for c in plan.choices if c.op == "conv"]
    reasons = dict(choice.refused)
    measured = {choice.algorithm, *(name for name, why in reasons.items() if "measured" in why)}
    assert {"winograd", "direct"} <= measured <= {"winograd", "direct", "amx", "streamed"}
    times = sorted((tmp_path / "times").iterdir())
    written = [p.read_bytes() for p in times]
    assert len(times) == len(measured)
    assert compile(g, tune=True, machine=TINY).plan() == plan
    assert not compile(g, machine=TINY).plan().tuned
    assert [p.read_bytes() for p in sorted((tmp_path / "times").iterdir())] == written, "nothing was measured again"


def test_measured_times_are_in_the_plan():
    plan = compile(filled(residual_net())).measured(1, seconds=0.02)
    assert all(c.measured_s > 0 for c in plan.choices)
    assert plan.choices[1].percent_of_peak(100.0) > 0
    assert plan.to_dict()["choices"][1]["value"] == "r1"


@pytest.mark.parametrize("name", ["digits-cnn", "lenet5", "resnet20-cifar10"])
def test_published_networks(name):
    """Error against float64 at most 10 times that of the strict (direct) run, plus a floor."""
    g = filled(zoo.load(name))
    x = pictures(g, 1)
    exact = run_reference(g, x, np.float64).outputs[0]
    errors = [np.abs(compile(g, precision=p)(x) - exact).max() for p in ("fast", "strict")]
    assert errors[0] <= 10 * errors[1] + 1e-6 * np.abs(exact).max()
    assert errors[1] <= 1e-5 * np.abs(exact).max()
    assert compile(g).plan().in_python == ()


def test_errors():
    g = filled(residual_net())
    run = compile(g)
    with pytest.raises(ShapeError, match="takes"):
        run(np.zeros((1, 5, 14, 14), "f4"))
    with pytest.raises(UsageError, match="float32"):
        run(np.zeros((1, 5, 14, 13), "u1"))
    with pytest.raises(GraphError, match="no node"):
        run.run(pictures(g, 1), taps=("nothing",))
    with pytest.raises(UsageError, match="precision"):
        compile(g, precision="sloppy")
    with pytest.raises(UsageError, match="threads"):
        compile(g, threads=0)
    with pytest.raises(DojangError, match="no weights"):
        compile(residual_net())
    with pytest.raises(UnsupportedError, match="cannot be run"):
        compile(graph(image(1, 2, 2), N("u", "unknown", "x", kind="Mystery")))


def test_weights_that_no_input_reaches_are_computed_once() -> None:
    rng = np.random.default_rng(5)
    arrays = {"k.value": (4, 3, 3, 3), "c.bias": (4,), "c.weight": (1,)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in arrays.items()}
    nodes = (
        N("x", "input", shape=(6, 9, 8)),
        N("k", "constant", shape=(4, 3, 3, 3), trained=True),
        N("w", "tanh", "k"),
        N("c", "dynamic_conv", "x", "w", kernel=(3, 3), padding=1),
        N("other", "constant", shape=(1,), trained=True, arrays={"value": "c.weight"}),
        N("y", "mul", "c", "other"),
    )
    graph = Graph(nodes, ("y",), weights=weights)
    x = rng.normal(size=(2, 6, 9, 8)).astype(np.float32)
    wanted = run_reference(graph, x, taps=("w", "c"))
    for release in (False, True):
        net = compile(graph, threads=1, release=release)
        np.testing.assert_allclose(net(x), wanted.outputs[0], rtol=1e-4, atol=1e-4)
    assert [node.op for node in settled(graph).nodes] == ["input", "conv", "constant", "mul"]
    tapped = compile(graph, threads=1).run(x, taps=("w", "c")).taps
    for name, value in tapped.items():
        np.testing.assert_allclose(value, wanted.taps[name], rtol=1e-4, atol=1e-4)
    assert settled(settled(graph)) == settled(graph)


def halved(rows, columns, channels=16):
    """A shortcut of option A: rows, columns, zeros for new channels; then a convolution added."""
    return Graph(
        (
            image(channels, 9, 12),
            N("rows", "slice", "x", **rows),
            N("columns", "slice", "rows", **columns),
            N("wide", "pad", "columns", pads=((3, 5), (0, 0), (0, 0)), value=0.5),
            N("c", "conv", "x", out=channels + 8, kernel=(3, 3), stride=2, padding=1),
            N("y", "add", "c", "wide"),
        ),
        ("y",),
    )


def test_every_second_row_and_column_are_one_step() -> None:
    graph = halved({"axis": 2, "step": 2}, {"axis": -1, "step": 2})
    run = check(graph, taps=("wide",))
    steps = [(step.value, step.algorithm) for step in run.plan(1).choices]
    assert [s for s in steps if s[0] in ("rows", "columns", "wide")] == [("columns", "pool"), ("wide", "elementwise")]
    check(graph, taps=("rows", "columns"))


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        ({"axis": 2, "step": 2}, {"axis": 3, "start": 1, "step": 2}),
        ({"axis": 2, "step": 2}, {"axis": 3, "stop": 7, "step": 1}),
        ({"axis": 2, "step": 3}, {"axis": 2, "step": 2}),
    ],
)
def test_other_slices_are_two_steps(rows, columns) -> None:
    graph = halved(rows, columns)
    nodes = tuple(n for n in graph.nodes if n.name not in ("c", "y"))
    graph = Graph(nodes, ("wide",))
    assert settled(graph) is graph
    check(graph)


def test_the_short_way_gives_the_same():
    """Arrays like one that was seen before skip the checks; others do not; results are the caller's own."""
    rng = np.random.default_rng(0)
    net = Graph(
        (
            Node.of("x", "input", shape=(3, 9, 9)),
            Node.of("c", "conv", "x", out=8, kernel=(3, 3)),
            Node.of("p", "global_avgpool", "c"),
            Node.of("f", "flatten", "p"),
        ),
        ("f",),
        "some",
    )
    net = net.replace(weights={k: rng.standard_normal(s).astype("f4") for k, s in net.param_shapes.items()})
    run, xs = compile(net), rng.standard_normal((4, 2, 3, 9, 9)).astype("f4")
    right = [run.run(x).outputs[0] for x in xs]
    found = [run(x) for x in xs]
    assert all(np.array_equal(a, b) for a, b in zip(found, right, strict=True))
    fixed = xs[0].copy()
    fixed.flags.writeable = False
    for x in (fixed, xs[0].astype("f8"), np.asfortranarray(xs[0]), xs[0][:, :, ::-1][:, :, ::-1], xs[0].astype(">f4")):
        assert np.array_equal(run(x), right[0])
    assert run(xs[0][:0]).shape == run(xs[0][:0]).shape == (0, 8)
    with pytest.raises(ShapeError, match="takes"):
        run(xs[0][:, :2])
    with pytest.raises(UsageError, match="give float32"):
        run(xs[0].astype("i4"))


def test_weights_that_stay_in_the_cache_cost_less():
    """Predictions: none wait where all fit, all of them where twice as many are read in turn."""
    task = Task.of(Conv.of(64, 64, (8, 8), 3, padding=1))
    for algorithm, machine in itertools.product((direct, streamed, winograd), EVERY):
        machine = replace(machine, cores=2)  # of more, some go idle in the last round of so small a layer
        tasks = [replace(task, resident_ratio=ratio) for ratio in (8.0, 1.0, 0.25)]
        fits, half, none = (algorithm.offer(some, machine).seconds for some in tasks)
        assert fits <= half <= none
        assert fits < algorithm.offer(task, machine).seconds
    rooms = [
        resident_ratio(zoo.load(name, weights=False).param_shapes, replace(Machine.cross("avx512"), l2=2 << 20))
        for name in ("resnet20-cifar10", "resnet18")
    ]
    assert 1 < rooms[0] < 2
    assert rooms[1] == 0
