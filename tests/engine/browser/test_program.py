"""Whole networks as a page runs them, under node: answers, values, windows, precisions, what is missing."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from itertools import product
from math import prod
from pathlib import Path

import numpy as np
import pytest

import nets
from children import finished
from dojang.arith.graph import Graph, Node
from dojang.arith.symbol import symbol
from dojang.base.errors import GraphError, ShapeError, UsageError
from dojang.engine.browser.program import VERSION, browser_program
from dojang.engine.browser.store import PageWeights, restored
from dojang.engine.plan.context import Request
from dojang.engine.plan.network import plan_of
from dojang.engine.reference.operators import run_reference
from dojang.formats import zoo
from dojang.native.machine import Machine
from operator_networks import CASES, picture, weighted
from under_node import Ask, needs_node, run

N = Node.of
ROOT = Path(__file__).parents[3]
WEB = ROOT / "src/dojang/report/web"
RUNTIME = WEB / "compute.mjs"
HALF = CASES[::2], CASES[1::2]


def near(y: np.ndarray, exact: np.ndarray, bound: float = 2e-5) -> bool:
    exact = np.asarray(exact)
    return y.shape == exact.shape and np.abs(y - exact).max(initial=0) <= bound * max(1.0, np.abs(exact).max(initial=0))


# ------------------------------------------------------------------------------------------------ operators, networks


@needs_node
@pytest.mark.slow
@pytest.mark.parametrize("half", [0, 1])
def test_every_operator_gives_the_reference_s_numbers_or_is_named(half: int) -> None:
    graphs = [weighted(g) for g in HALF[half]]
    programs = [browser_program(g, weights="float32") for g in graphs]
    xs = [picture(g, 1) for g in graphs]
    asks = [Ask(p, {g.inputs[0].name: x[0]}, p.taps) for g, p, x in zip(graphs, programs, xs, strict=True)]
    computed = 0
    for graph, program, x, told in zip(graphs, programs, xs, run(asks), strict=True):
        kept = [name for name in program.taps if name in graph.by_name]
        exact = run_reference(graph, x, np.float64, kept)
        missing = program.table["missing"]
        for name, y, z in zip(graph.outputs, told.outputs, exact.outputs, strict=True):
            assert (y is None) == (name in missing), (graph.by_name[name], missing)
            assert y is None or near(y, z[0] if z.ndim else z), graph.by_name[name]
            computed += y is not None
        for name in kept:
            assert near(told.taps[name], exact.taps[name][0]), (name, graph.nodes[-1])
        # The browser lacks what the engine computes in Python, and nothing else.
        request = Request(1, replace(Machine.cross("avx2"), cores=1), 1, keep=frozenset(g for g in graph.outputs))
        in_python = plan_of(graph, request).public.in_python
        assert {value for value, _ in program.missing} <= set(in_python), graph.nodes[-1]
    assert computed > 0.9 * len(graphs)


@pytest.mark.parametrize("name", zoo.names())
def test_every_network_of_the_zoo_has_all_kernels(name: str) -> None:
    graph = zoo.load(name)
    request = Request(1, Machine.cross("wasm"), 1, keep=frozenset(graph.outputs))
    assert plan_of(graph, request).public.in_python == ()


@needs_node
@pytest.mark.slow
def test_networks_with_branches_give_the_reference_s_numbers_and_keep_every_value() -> None:
    made = [nets.residual_option_a(), nets.cat_twice(), nets.mobile(), nets.grouped(), nets.squeeze_excite(),
            nets.decoder(), nets.shuffle(), nets.every_segment(), nets.many_ends(), *map(nets.random_network, range(4)),
            nets.weighted(zoo.load("resnet20-cifar10"))]  # fmt: skip
    graphs = [g if g.weights else nets.weighted(g) for g in made]
    asks, exact = [], []
    for graph in graphs:
        x = nets.feed(graph, 1)
        for taps in (None, ()):
            program = browser_program(graph, weights="float32", taps=taps)
            looked_at = program.taps if taps is None else ()
            asks.append(Ask(program, {k: v[0] for k, v in x.items()}, looked_at))
            known = [name for name in looked_at if name in graph.by_name]
            exact.append((graph, known, run_reference(graph, x, np.float64, known)))
    for ask, (graph, known, truth), told in zip(asks, exact, run(asks), strict=True):
        assert len(told.outputs) == len(truth.outputs)
        for name, y, z in zip(graph.outputs, told.outputs, truth.outputs, strict=True):
            assert (y is None) == (name in ask.program.table["missing"]), (graph.name, name)
            assert y is None or near(y, z[0], 1e-4), graph.name
        for name in known:
            assert near(told.taps[name], truth.taps[name][0], 1e-4), (graph.name, name)
    assert sum(len(known) for _, known, _ in exact) > 100


@needs_node
@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet-v2", "resnet18"])
def test_networks_for_imagenet_give_the_reference_s_numbers(name: str) -> None:
    graph = nets.weighted(zoo.load(name))
    x = nets.feed(graph, 1)
    program = browser_program(graph, weights="float32", taps=(), most_bytes=1 << 30)
    told = run([Ask(program, {k: v[0] for k, v in x.items()})])[0]
    assert near(told.outputs[0], run_reference(graph, x).outputs[0][0], 1e-4)


@needs_node
def test_fused_multiply_adds_are_used_behind_a_test_with_the_plain_module_beside_them() -> None:
    graph = nets.weighted(nets.plain())
    x = nets.feed(graph, 1)
    given = {k: v[0] for k, v in x.items()}
    both, plain = (browser_program(graph, weights="float32", fused=fused) for fused in (True, False))
    assert not browser_program(graph).fused  # too little work
    assert not plain.fused
    assert both.module == plain.module
    if not both.fused:
        pytest.skip("this LLVM has no relaxed multiply-adds")
    quick, exact, alone = run([Ask(both, given), Ask(both, given, fused=False), Ask(plain, given)])
    assert not exact.fused
    assert not alone.fused
    assert np.array_equal(exact.outputs[0], alone.outputs[0])
    truth = run_reference(graph, x, np.float64).outputs[0][0]
    assert near(quick.outputs[0], truth)
    if not quick.fused:
        pytest.skip("this node has no relaxed multiply-adds")
    instructions = [code.count(bytes((253, 133, 2))) for code in (both.module, both.fused)]  # f32x4.relaxed_madd
    assert instructions[0] == 0
    assert instructions[1] > 10


# ------------------------------------------------------------------------------------------------ weights


def test_weights_are_read_back_within_their_precision() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((7, 3000)) * 10.0 ** rng.integers(-6, 6, (7, 1))).astype("f4")
    for weights, relative in (("float32", 0.0), ("int8", 0.5 / 127)):
        store = PageWeights(weights)
        store.add(np.ones(3, "f4"))
        stored = store.add(rows, rows=7)
        found = restored(bytes(store.data), stored).reshape(rows.shape)
        assert (np.abs(found - rows) <= relative * np.abs(rows).max(1, keepdims=True) * (1 + 1e-5)).all()
    for scale in (1e-30, 1e-6, 1.0, 1e9):  # beyond what float16 holds, in both directions
        store = PageWeights("float16")
        one = (rng.standard_normal(5000) * scale).astype("f4")
        stored = store.add(one)
        found = restored(bytes(store.data), stored)
        assert (np.abs(found - one) <= 2.0**-11 * np.abs(one) + 2.0**-38 * np.abs(one).max()).all()
        assert stored.kind == "f2"
    zeros = PageWeights("int8")
    stored = zeros.add(np.zeros((4, 2000), "f4"), rows=4)
    assert not restored(bytes(zeros.data), stored).any()


@needs_node
def test_answers_are_those_of_the_weights_that_the_page_carries() -> None:
    graph = nets.weighted(Graph((
        N("x", "input", shape=(16, 9, 9)),
        N("c1", "conv", "x", out=40, kernel=(3, 3), padding=1), N("bn", "batchnorm", "c1"), N("r", "relu", "bn"),
        N("c2", "conv", "r", out=24, kernel=(3, 3), stride=2, bias=False), N("f", "flatten", "c2"),
        N("d", "dense", "f", out=70),
    ), ("d",), name="net"))  # fmt: skip
    x = nets.feed(graph, 1)
    asks, exact = [], []
    for weights in ("float32", "float16", "int8"):
        program = browser_program(graph, weights=weights, taps=())
        assert program.weights == weights
        asks.append(Ask(program, {"x": x["x"][0]}))
        carried = {}
        for layer in program.table["layers"]:
            if "weight" in layer:
                node = graph[layer["node"]]
                shape = graph.param_shapes[node.array("weight")]
                carried[node.name] = restored(program.data, layer["weight"]).reshape(shape)
        assert set(carried) == {"c1", "c2", "d"}
        # The norm is in the weights of c1.
        affine = {
            k: np.asarray(graph.weights[f"bn.{k}"], "f8") for k in ("weight", "bias", "running_mean", "running_var")
        }
        scale = affine["weight"] / np.sqrt(affine["running_var"] + graph["bn"].attrs["eps"])
        arrays = dict(graph.weights)
        arrays["c1.weight"] = carried["c1"].astype("f8") / scale.reshape(-1, 1, 1, 1)
        arrays |= {"c2.weight": carried["c2"], "d.weight": carried["d"]}
        exact.append(run_reference(graph.replace(weights=arrays), x, np.float64).outputs[0])
    told = run(asks)
    for y, z in zip(told, exact, strict=True):
        assert near(y.outputs[0], z[0])
    assert not near(told[2].outputs[0], exact[0][0], 1e-4)  # int8 is another network


def test_a_network_too_large_for_a_page_says_what_fits() -> None:
    graph = nets.weighted(Graph((N("x", "input", shape=(4000,)), N("y", "dense", "x", out=1000)), ("y",), name="big"))
    assert browser_program(graph, most_bytes=9_000_000).weights == "float16"
    assert browser_program(graph, most_bytes=5_000_000).weights == "int8"
    with pytest.raises(UsageError, match=r"big has 4,001,000 weights, 16 MB as float32; a page carries at most 5 MB: "
                                         r"weights='int8' takes 4 MB"):  # fmt: skip
        browser_program(graph, weights="float32", most_bytes=5_000_000)
    with pytest.raises(UsageError, match=r"4 MB as int8; a page carries at most 1 MB: raise most_bytes, or use the s"):
        browser_program(graph, most_bytes=1_000_000)


def test_a_network_that_takes_more_memory_than_browsers_give_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = nets.weighted(nets.plain())
    taken = browser_program(graph).table["memory"]
    assert browser_program(graph, taps=()).table["memory"] < taken
    monkeypatch.setattr("dojang.engine.browser.program.MOST_MEMORY", taken - 1)
    with pytest.raises(UsageError, match=r"net takes .* GB in a browser, .* look at fewer values \(taps=\(\)\)"):
        browser_program(graph)


# ------------------------------------------------------------------------------------------------ looking at values


def stamp_network() -> Graph:
    """Windows of every sort: padding, groups, dilation, transposed, a residual, dense layers, both poolings."""
    return nets.weighted(Graph((
        N("x", "input", shape=(6, 9, 8)),
        N("c", "conv", "x", out=8, kernel=(3, 3), padding=((1, 1), (2, 0)), stride=(2, 1)),
        N("g", "conv", "c", out=8, kernel=(3, 1), padding=((2, 2), (0, 0)), dilation=(2, 1), groups=4, bias=False),
        N("s", "add", "g", "c"), N("r", "relu", "s"),
        N("t", "conv_transpose", "r", out=6, kernel=(3, 2), stride=2, padding=((1, 0), (0, 1)),
          output_padding=(1, 0), groups=2),
        N("m", "maxpool", "t", kernel=(3, 3), stride=(2, 2), padding=((1, 1), (1, 1))),
        N("a", "avgpool", "m", kernel=(2, 2), stride=(1, 1), padding=((1, 0), (0, 1)), count_padding=False),
        N("f", "flatten", "a"), N("d", "dense", "f", out=5),
    ), ("d",), name="stamps"))  # fmt: skip


@needs_node
def test_the_window_of_any_number_explains_it() -> None:
    graph = stamp_network()
    x = nets.feed(graph, 1)
    names = ("c", "r", "t", "m", "a", "d")
    exact = run_reference(graph, x, np.float64, [*names, "f", "s", "x"]).taps
    # With some values kept, the residual and the activation are added by the convolution before them.
    program = browser_program(graph, weights="float32", taps=["c", "t"])
    rng = np.random.default_rng(0)
    asked = []
    for name in names:
        shape = exact[name].shape[1:]
        corners = list(product(*([0, s - 1] for s in shape)))
        asked += [(name, [int(v) for v in p]) for p in corners]
        asked += [(name, [int(rng.integers(s)) for s in shape]) for _ in range(5)]
    asked += [("s", [3, 1, 1]), ("x", [0, 0, 0]), ("c", [99, 0, 0])]
    told = run([Ask(program, {"x": x["x"][0]}, windows=asked)])[0]
    *found, within, none, outside = told.windows
    for (name, place), w in zip(asked, found, strict=False):
        assert "error" not in w, (name, w)
        values, weights = (np.array(w[k]).reshape(len(w["channels"]), w["taps"]) for k in ("values", "weights"))
        inside = np.array(w["inside"], bool)
        places = np.array(w["places"]).reshape(w["taps"], -1)
        source = exact[w["input"]][0]
        for t in range(w["taps"]):
            index = tuple(places[t]) if len(w["kernel"]) else ()
            shown = source[(w["channels"], *index)] if inside[t] else np.zeros(len(w["channels"]))
            assert np.allclose(values[:, t], shown, atol=1e-4), (name, place)
        assert np.allclose(w["products"], (values * weights).reshape(-1), atol=1e-5)
        right = exact[name][0][tuple(place)]
        before = exact["s"][0][tuple(place)] if name == "r" else right
        assert abs(w["value"] - right) <= 1e-4 * max(1, abs(right)), (name, place)
        assert abs(w["before"] - before) <= 1e-4 * max(1, abs(before)), (name, place)
        if name not in ("m", "a"):
            assert abs(w["sum"] - (values * weights).sum()) <= 1e-4
            assert w["before"] == pytest.approx(w["sum"] + w["bias"] + w["residual"], abs=1e-5)
    assert within["value"] == pytest.approx(
        max(0, within["before"]), abs=1e-5
    )  # the sum is within the work of the activation
    assert none["error"] == "x has no window"
    assert outside["error"].startswith("c has no place 99, 0, 0; it is 8 ×")


@needs_node
def test_values_within_a_kernel_s_work_are_named_and_can_be_asked_for() -> None:
    graph = nets.weighted(nets.plain())
    conv, act = next((n.inputs[0], n.name) for n in graph.nodes if n.op == "relu")
    x = nets.feed(graph, 1)
    given = {k: v[0] for k, v in x.items()}
    joined, asked, every = (browser_program(graph, weights="float32", taps=taps) for taps in ([act], [conv], None))
    first, second, third = run(
        [Ask(joined, given, [conv, act, "nothing"]), Ask(asked, given, [conv]), Ask(every, given, [conv, act])]
    )
    assert first.taps[conv] == f"{conv} cannot be looked at: it is within the work of {act}"
    assert first.taps["nothing"] == "nothing cannot be looked at: it is not kept"
    exact = run_reference(graph, x, np.float64, [conv, act]).taps
    assert near(first.taps[act], exact[act][0])
    for found in (second.taps, third.taps):
        assert near(found[conv], exact[conv][0])
    assert near(third.taps[act], exact[act][0])
    with pytest.raises(GraphError, match="nonesuch"):
        browser_program(graph, taps=["nonesuch"])


@needs_node
def test_what_has_no_kernel_is_named_and_the_rest_works() -> None:
    graph = nets.weighted(Graph((
        N("x", "input", shape=(4, 6, 8)), N("c", "conv", "x", out=4, kernel=(3, 3)),
        N("odd", "pow", "c", "c"),
        N("after", "conv", "odd", out=3, kernel=(1, 1)), N("beside", "global_avgpool", "c"),
    ), ("after", "beside"), name="odd"))  # fmt: skip
    program = browser_program(graph, weights="float32")
    assert program.missing == (("odd", "pow"),)
    x = nets.feed(graph, 1)
    told = run([Ask(program, {"x": x["x"][0]}, ["c", "odd", "after"])])[0]
    exact = run_reference(graph, x, np.float64, ["c"])
    assert told.outputs[0] is None
    assert near(told.outputs[1], exact.outputs[1][0])
    assert near(told.taps["c"], exact.taps["c"][0])
    assert told.taps["odd"] == "odd cannot be looked at: pow has no kernel in the browser"
    assert told.taps["after"] == "after cannot be looked at: it depends on odd"


@needs_node
def test_a_picture_of_another_size_is_refused() -> None:
    program = browser_program(nets.weighted(nets.plain()))
    name, shape = program.table["inputs"][0]["name"], program.table["inputs"][0]["shape"]
    told = run([Ask(program, {name: np.zeros(7)}), Ask(program, {})])
    said = f"{name} takes {prod(shape)} numbers ({' × '.join(map(str, shape))}), got "
    assert [t.outputs for t in told] == [said + "7 numbers", said + "nothing"]


@needs_node
def test_a_network_of_any_size_is_written_for_one() -> None:
    conv = N("c", "conv", "x", out=5, kernel=(3, 3), padding=1)
    open_ = N("x", "input", shape=(3, symbol("H"), symbol("W")))
    graph = Graph((open_, conv, N("g", "global_avgpool", "c")), ("g",))
    graph = graph.with_weights({"c.weight": np.ones((5, 3, 3, 3), "f4"), "c.bias": np.zeros(5, "f4")})
    with pytest.raises(UsageError, match="any size; give input_shape"):
        browser_program(graph)
    program = browser_program(graph, (3, 7, 10))
    x = np.random.default_rng(0).standard_normal((3, 7, 10)).astype("f4")
    told = run([Ask(program, {"x": x}, ["c"])])[0]
    assert told.taps["c"].shape == (5, 7, 10)
    fixed = nets.weighted(nets.plain())
    with pytest.raises(UsageError, match="leave input_shape out"):
        browser_program(fixed, (3, 7, 10))
    with pytest.raises((ShapeError, UsageError)):
        browser_program(graph, (3, 7))


@pytest.mark.parametrize("given", [{"weights": "float8"}, {"precision": "exact"}])
def test_words_that_are_not_known_are_refused_with_those_that_are(given: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"not known; use one of (float32, float16, int8|fast, strict)"):
        browser_program(nets.weighted(nets.plain()), **given)


# ------------------------------------------------------------------------------------------------ the page


def test_the_page_s_parts_are_small() -> None:
    """The file form of digits-cnn stays below 400 KB, of which 250 KB are for the code of the page."""
    program = browser_program(zoo.load("digits-cnn"))
    assert len(json.dumps(program.to_dict())) <= 155_000
    assert RUNTIME.stat().st_size <= 30_000
    assert program.table["version"] == VERSION


def test_the_runtime_asks_for_nothing_outside() -> None:
    text = RUNTIME.read_text()
    for word in ("fetch(", "XMLHttpRequest", "import(", "eval(", "new Function", "http://", "https://", "Worker("):
        assert word not in text


TSC = shutil.which("tsc") or next(map(str, ROOT.glob("node_modules/.bin/tsc")), None)


@pytest.mark.skipif(TSC is None, reason="no tsc: the types of compute.mjs and computing.mjs are not checked")
def test_the_types_of_the_runtime_hold() -> None:
    assert TSC is not None
    command = [TSC, "--allowJs", "--checkJs", "--noEmit", "--strict", "--target", "es2022", "--lib", "es2022,dom",
               "--module", "es2022", str(WEB / "computing.mjs")]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    out, _ = finished(process)
    assert process.returncode == 0, out
