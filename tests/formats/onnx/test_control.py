"""If and Loop in ONNX files, against ONNX Runtime where they run one way, and against each branch alone where not."""

from __future__ import annotations

import pickle

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from dojang.app import verbs
from dojang.arith.cost import count
from dojang.base.errors import GraphError, ShapeError
from dojang.engine.compiled import compile
from dojang.engine.session import Session
from dojang.formats.onnx import load, paths
from dojang.report.text_arith import compare_text
from dojang.report.text_memory import memory_text

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def array(name, *shape):
    values = np.random.default_rng(len(name)).integers(-2, 3, shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


def whole(name, value, kind=np.int64):
    return numpy_helper.from_array(np.array(value, kind), name)


def conv(x, weight, y):
    return helper.make_node("Conv", [x, weight], [y], pads=[1, 1, 1, 1] if weight.endswith("3") else None)


def value(name, kind=FLOAT, shape=None):
    return helper.make_tensor_value_info(name, kind, shape)


def body(name, nodes, outputs, inputs=(), initializer=()):
    return helper.make_graph(nodes, name, list(inputs), outputs, list(initializer))


def write(path, nodes, initializer, output="y", shape=("n", 2, 6, 6)):
    graph = helper.make_graph(
        nodes, "g", [value("x", FLOAT, ["n", 2, 6, 6])], [value(output, FLOAT, list(shape))], initializer
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=False)
    onnx.save(model, path)
    return path


def runs_the_same(path):
    graph = load(path)
    x = np.random.default_rng(3).integers(-3, 4, (2, 2, 6, 6)).astype(np.float32)
    wanted = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    np.testing.assert_array_equal(Session(graph)(x), wanted)
    return graph


BRANCHES = [
    helper.make_node(
        "If",
        ["cond"],
        ["y"],
        then_branch=body("then", [conv("x", "w3", "a")], [value("a")], (), [array("w3", 2, 2, 3, 3)]),
        else_branch=body("else", [conv("x", "w1", "b")], [value("b")], (), [array("w1", 2, 2, 1, 1)]),
    )
]


@pytest.mark.parametrize(("cond", "macs"), [(True, 36 * 36), (False, 36 * 4)])
def test_a_constant_says_the_branch(tmp_path, cond, macs):
    graph = runs_the_same(write(tmp_path / "n.onnx", BRANCHES, [whole("cond", cond, np.bool_)]))
    assert count(graph).total.macs == macs


def test_a_shape_says_the_branch(tmp_path):
    asked = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "three"], ["width"]),
        helper.make_node("Equal", ["width", "six"], ["cond"]),
    ]
    path = write(tmp_path / "n.onnx", asked + BRANCHES, [whole("three", 3), whole("six", 6)])
    assert count(runs_the_same(path)).total.macs == 36 * 36
    assert count(load(path, weights=False, input_size=(2, 8, 8))).total.macs == 64 * 4


def gated(path, gates=1):
    """A 1x1 convolution decides by the sum of its values which of two others follows."""
    nodes = [conv("x", "g1", "g"), helper.make_node("ReduceSum", ["g"], ["s"], keepdims=0)]
    nodes.append(helper.make_node("Greater", ["s", "zero"], ["cond"]))
    for i in range(gates):
        turn = helper.make_node("If", ["cond" if i == 0 else f"c{i}"], ["y" if i == gates - 1 else f"y{i}"],
                                then_branch=body(f"t{i}", [conv(f"y{i - 1}" if i else "x", "w3", f"a{i}")],
                                                 [value(f"a{i}")]),
                                else_branch=body(f"e{i}", [conv(f"y{i - 1}" if i else "x", "w1", f"b{i}")],
                                                 [value(f"b{i}")]))  # fmt: skip
        if i:
            nodes += [helper.make_node("Greater", ["s", f"z{i}"], [f"c{i}"])]
        nodes.append(turn)
    given = [array("g1", 5, 2, 1, 1), array("w3", 2, 2, 3, 3), array("w1", 2, 2, 1, 1), whole("zero", 0, np.float32)]
    given += [whole(f"z{i}", i, np.float32) for i in range(1, gates)]
    return write(path, nodes, given)


def test_values_give_a_range_with_the_cost_of_the_decision(tmp_path):
    path = gated(tmp_path / "n.onnx")
    counted = verbs.count(path)
    gate, dear, cheap = 36 * 10, 36 * 36, 36 * 4
    assert counted.status == "range"
    assert [way.total.macs for way in counted.ways] == [gate + cheap, gate + dear]
    assert [way.total.params for way in counted.ways] == [10 + 4, 10 + 36]
    totals = counted.to_dict()["totals"]
    assert (totals["macs_min"], totals["macs_max"], totals["unknown"]) == (gate + cheap, gate + dear, [])
    [strange] = [n for n in load(path, weights=False).nodes if n.attrs.get("kind", "").startswith("If")]
    assert strange.attrs["kind"] == "If (values decide which branch)"


def test_ways_multiply_and_the_same_decision_is_one(tmp_path):
    assert len(paths(gated(tmp_path / "three.onnx", 3))) == 8
    twice = BRANCHES[0].__class__()
    twice.CopyFrom(BRANCHES[0])
    twice.output[0] = "first"
    second = helper.make_node(
        "If", ["cond"], ["y"],
        then_branch=body("t", [helper.make_node("Relu", ["first"], ["r"])], [value("r")]),
        else_branch=body("e", [helper.make_node("Neg", ["first"], ["q"])], [value("q")]),
    )  # fmt: skip
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["cond"]),
    ]
    path = write(tmp_path / "n.onnx", [*nodes, twice, second], [whole("zero", 0, np.float32)])
    assert [[n.op for n in way.nodes] for way in paths(path)] == [["input", "conv", "relu"], ["input", "conv", "neg"]]


def turning(trips, nodes, stays="on"):
    inputs = [value("i", INT, []), value("on", BOOL, []), value("h", FLOAT, ["n", 2, 6, 6])]
    inner = body("turn", nodes, [value(stays, BOOL, []), value("k", FLOAT, ["n", 2, 6, 6])], inputs)
    return helper.make_node("Loop", [trips, "", "x"], ["y"], body=inner)


def kept():
    return helper.make_node("Identity", ["on"], ["still"])


@pytest.mark.parametrize("turns", [0, 1, 4])
def test_a_constant_number_of_turns(tmp_path, turns):
    loop = turning("trips", [kept(), conv("h", "w3", "k")], "still")
    loop.attribute[0].g.initializer.append(array("w3", 2, 2, 3, 3))
    path = write(tmp_path / "n.onnx", [loop], [whole("trips", turns)])
    total = count(runs_the_same(path)).total
    assert (total.macs, total.params, total.unknown) == (turns * 36 * 36, 36 if turns else 0, ())


def test_a_loop_that_stops_by_its_counter(tmp_path):
    nodes = [helper.make_node("Less", ["i", "last"], ["still"]), conv("h", "w1", "k")]
    path = write(tmp_path / "n.onnx", [turning("trips", nodes, "still")],
                 [whole("trips", 9), whole("last", 2), array("w1", 2, 2, 1, 1)])  # fmt: skip
    assert count(runs_the_same(path)).total.macs == 3 * 36 * 4


def test_values_that_decide_how_often_make_a_lower_bound(tmp_path):
    nodes = [
        helper.make_node("ReduceMax", ["h"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["still"]),
        conv("h", "w1", "k"),
    ]
    path = write(tmp_path / "n.onnx", [turning("trips", nodes, "still")],
                 [whole("trips", 9), whole("zero", 0, np.float32), array("w1", 2, 2, 1, 1)])  # fmt: skip
    counted = verbs.count(path)
    assert counted.status == "lower-bound"
    assert counted.total.unknown == ("y (Loop (values decide how often))",)


def test_endless_turns_end(tmp_path):
    inner = turning("trips", [kept(), conv("h", "w1", "k")], "still")
    for _ in range(3):
        outer = [value("i", INT, []), value("on", BOOL, []), value("h", FLOAT, ["n", 2, 6, 6])]
        inner.input[2], inner.output[0] = "h", "k"
        nest = body("turn", [kept(), inner], [value("still", BOOL, []), value("k", FLOAT)], outer)
        inner = helper.make_node("Loop", ["trips", "", "x"], ["y"], body=nest)
    graph = helper.make_graph([inner], "g", [value("x", FLOAT, ["n", 2, 6, 6])], [value("y")],
                              [whole("trips", 1 << 40), array("w1", 2, 2, 1, 1)])  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "n.onnx")
    with pytest.raises(GraphError, match="made twice"):  # names within must not hide those around
        load(tmp_path / "n.onnx")
    flat = write(tmp_path / "m.onnx", [turning("trips", [kept(), conv("h", "w1", "k")], "still")],
                 [whole("trips", 1 << 40), array("w1", 2, 2, 1, 1)])  # fmt: skip
    assert verbs.count(flat).total.unknown == ("y (Loop (too many iterations to follow))",)


def test_a_loop_in_a_loop_has_its_weights_once(tmp_path):
    inner = helper.make_node("Loop", ["trips", "", "h"], ["k"], body=body(
        "inner", [helper.make_node("Identity", ["on2"], ["still2"]), conv("h2", "w1", "k2")],
        [value("still2", BOOL, []), value("k2", FLOAT, ["n", 2, 6, 6])],
        [value("i2", INT, []), value("on2", BOOL, []), value("h2", FLOAT, ["n", 2, 6, 6])], [array("w1", 2, 2, 1, 1)],
    ))  # fmt: skip
    path = write(tmp_path / "n.onnx", [turning("trips", [kept(), inner], "still")], [whole("trips", 3)])
    total = count(runs_the_same(path)).total
    assert (total.macs, total.params) == (9 * 36 * 4, 4)


def collecting(trips, nodes, collected="c"):
    """A Loop that gives the last value of `h` and, of every turn, `collected`."""
    inputs = [value("i", INT, []), value("on", BOOL, []), value("h", FLOAT, ["n", 2, 6, 6])]
    inner = body("turn", [kept(), *nodes],
                 [value("still", BOOL, []), value("k", FLOAT), value(collected, FLOAT)], inputs)  # fmt: skip
    return helper.make_node("Loop", [trips, "", "x"], ["last", "all"], body=inner)


@pytest.mark.parametrize("turns", [1, 3])
def test_what_a_loop_collects(tmp_path, turns):
    loop = collecting("trips", [conv("h", "w1", "k"), helper.make_node("Neg", ["k"], ["c"])])
    last = helper.make_node("Add", ["last", "all"], ["y"])  # (n, 2, 6, 6) and (turns, n, 2, 6, 6)
    path = write(tmp_path / "n.onnx", [loop, last], [whole("trips", turns), array("w1", 2, 2, 1, 1)],
                 shape=(turns, "n", 2, 6, 6))  # fmt: skip
    total = count(runs_the_same(path)).total
    assert (total.macs, total.params, total.status) == (turns * 36 * 4, 4, "exact")


def test_numbers_that_a_loop_collects_stay_numbers(tmp_path):
    twice = helper.make_node("Mul", ["i", "two"], ["c"])
    inputs = [value("i", INT, []), value("on", BOOL, []), value("h", FLOAT, ["n", 2, 6, 6])]
    inner = body("turn", [kept(), helper.make_node("Identity", ["h"], ["k"]), twice],
                 [value("still", BOOL, []), value("k", FLOAT), value("c", INT)], inputs)  # fmt: skip
    loop = helper.make_node("Loop", ["trips", "", "x"], ["last", "places"], body=inner)  # 0, 2, 4
    path = write(tmp_path / "n.onnx", [loop, helper.make_node("Gather", ["last", "places"], ["y"], axis=3)],
                 [whole("trips", 3), whole("two", 2)], shape=("n", 2, 6, 3))  # fmt: skip
    assert [n.attrs["indices"] for n in runs_the_same(path).nodes if n.op == "gather"] == [(0, 2, 4)]
    none = write(tmp_path / "none.onnx", [loop, helper.make_node("Gather", ["last", "places"], ["y"], axis=3)],
                 [whole("trips", 0), whole("two", 2)], shape=("n", 2, 6, 0))  # fmt: skip
    assert verbs.count(none).total.unknown[0] == "last (Loop (no iteration, whose outputs are read))"


def test_a_loop_without_a_limit_that_its_counter_stops(tmp_path):
    nodes = [helper.make_node("Less", ["i", "last"], ["still"]), conv("h", "w1", "k")]
    path = write(tmp_path / "n.onnx", [turning("", nodes, "still")], [whole("last", 4), array("w1", 2, 2, 1, 1)])
    assert count(runs_the_same(path)).total.macs == 5 * 36 * 4
    endless = write(tmp_path / "m.onnx", [turning("", [kept(), conv("h", "w1", "k")], "still")],
                    [array("w1", 2, 2, 1, 1)])  # fmt: skip
    assert verbs.count(endless).total.unknown == ("y (Loop (too many iterations to follow))",)


@pytest.mark.parametrize("backward", [0, 1])
@pytest.mark.parametrize("out_axis", [0, 1, -1])
def test_scan_is_counted_along_its_axis(tmp_path, backward, out_axis):
    """A recurrent layer along the rows of a picture: state' = conv(state + row), collected."""
    inner = body(
        "turn",
        [helper.make_node("Add", ["h", "row"], ["sum"]), helper.make_node("Conv", ["sum", "w1"], ["k"]),
         helper.make_node("Neg", ["k"], ["c"])],
        [value("k", FLOAT), value("c", FLOAT)],
        [value("h", FLOAT, ["n", 2, 6]), value("row", FLOAT, ["n", 2, 6])],
    )  # fmt: skip
    nodes = [
        helper.make_node("ReduceSum", ["x", "rows"], ["start"], keepdims=0),
        helper.make_node("Scan", ["start", "x"], ["last", "y"], body=inner, num_scan_inputs=1, scan_input_axes=[2],
                         scan_input_directions=[backward], scan_output_axes=[out_axis],
                         scan_output_directions=[backward]),
    ]  # fmt: skip
    shape = ["n", 2, 6]
    shape.insert(out_axis % 4, 6)
    path = write(tmp_path / "n.onnx", nodes, [whole("rows", [2]), array("w1", 2, 2, 1)], shape=shape)
    total = count(runs_the_same(path)).total
    assert (total.macs, total.params, total.status) == (6 * 6 * 4, 4, "exact")


def test_scans_that_are_not_followed_are_named(tmp_path):
    inner = body("turn", [helper.make_node("Neg", ["one"], ["c"])], [value("c", FLOAT)], [value("one", FLOAT)])

    def written(**attrs):
        scan = helper.make_node("Scan", ["x"], ["y"], body=inner, num_scan_inputs=1, **attrs)
        return write(tmp_path / "n.onnx", [scan], [])

    assert verbs.count(written()).total.unknown == ("y (Scan (turns along the batch))",)
    assert verbs.count(written(scan_input_axes=[1], scan_output_axes=[1])).total.unknown == ()
    with pytest.raises(GraphError, match="scan_input_axes has 2 values for 1"):
        load(written(scan_input_axes=[1, 2]))
    with pytest.raises(ShapeError, match="y: axis 7 is outside"):
        load(written(scan_input_axes=[7]))


def test_more_decisions_than_are_followed(tmp_path):
    counted = verbs.count(gated(tmp_path / "n.onnx", 8))
    assert len(counted.ways) == 64
    assert counted.status == "lower-bound"
    assert [name for name in counted.total.unknown if "(If" in name] == [
        "y6 (If (values decide which branch, after 6 other decisions))",
        "y (If (values decide which branch, after 6 other decisions))",
    ]
    gate, dear, cheap = 36 * 10, 36 * 36, 36 * 4
    totals = counted.to_dict()["totals"]
    assert (totals["macs_min"], totals["macs_max"]) == (gate + 6 * cheap, gate + 6 * dear)


def test_memory_explanations_and_comparisons_speak_of_the_ways(tmp_path):
    path = gated(tmp_path / "n.onnx")
    held = verbs.memory(path)
    assert (held.status, len(held.ways)) == ("range", 2)
    told = held.to_dict()["memory"]
    assert (told["ways"], told["weight_bytes_min"], told["weight_bytes_max"]) == (2, 4 * 14, 4 * 46)
    assert told["weight_bytes"] == 4 * 46
    assert "56 B to 184 B" in memory_text(held)
    names = [{layer.name for layer in way.layers} for way in verbs.count(path).ways]
    [only_cheap], [only_dear] = names[0] - names[1], names[1] - names[0]
    for layer, result in ((only_cheap, 36 * 4), (only_dear, 36 * 36)):
        steps = {step.figure: step.result for step in verbs.explain(path, layer).steps}
        assert (steps["MACs"], steps["paths through this layer"]) == (result, 1)
    assert verbs.explain(path, "x").steps[-1].result == 2
    with pytest.raises(GraphError, match="has no node 'nobody'"):
        verbs.explain(path, "nobody")
    said = " ".join(compare_text(verbs.compare(path, path)).split())
    assert "takes: 2 paths, 504 to 1,656 MACs. The path with the most MACs is compared." in said
    assert "could not be counted" not in said
    lost = " ".join(compare_text(verbs.compare(path, gated(tmp_path / "m.onnx", 8))).split())
    assert "y6 (If (values decide which branch, after 6 other decisions))" in lost


# ----------------------------------------------------------------------------------------- decided when it runs


def ran(path, feeds):
    """The outputs of the compiled network, of the session in NumPy, and of ONNX Runtime are the same for each input."""
    graph = load(path)
    oracle = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    compiled, session = compile(graph, threads=1), Session(graph)
    for feed in feeds:
        right = oracle.run(None, feed)
        for run in (compiled, session):
            for got, wanted in zip(run.run(feed).outputs, right, strict=True):
                assert got.dtype == wanted.dtype
                np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6 * max(1, np.abs(wanted).max()))
    return graph


def image(seed, sign=1):
    return {"x": sign * np.abs(np.random.default_rng(seed).standard_normal((2, 2, 6, 6))).astype(np.float32)}


def test_the_branch_that_values_decide_for_is_run(tmp_path):
    path = gated(tmp_path / "n.onnx", 3)
    graph = ran(path, [image(seed, sign) for seed in range(3) for sign in (1, -1)])
    assert [n.attrs["kind"] for n in graph.nodes if n.op == "standard"].count("If") == 3
    total = count(graph).total
    assert (total.params, total.status) == (10 + 36 + 4, "lower-bound")  # every branch has its weights
    again = pickle.loads(pickle.dumps(compile(graph, threads=1)))
    x = image(1)["x"]
    np.testing.assert_array_equal(again(x), compile(graph, threads=1)(x))


def test_a_branch_in_a_branch_reads_what_is_around_both(tmp_path):
    inner = helper.make_node(
        "If", ["c2"], ["k"],
        then_branch=body("t", [helper.make_node("Add", ["g", "x"], ["p"])], [value("p")]),
        else_branch=body("e", [helper.make_node("Sub", ["g", "x"], ["q"])], [value("q")]),
    )  # fmt: skip
    nodes = [
        conv("x", "w1", "g"), helper.make_node("ReduceMax", ["g"], ["most"], keepdims=0),
        helper.make_node("ReduceMin", ["g"], ["least"], keepdims=0),
        helper.make_node("Greater", ["most", "two"], ["c1"]), helper.make_node("Less", ["least", "two"], ["c2"]),
        helper.make_node("If", ["c1"], ["y"], then_branch=body("t1", [inner], [value("k")]),
                         else_branch=body("e1", [conv("x", "w3", "r")], [value("r")])),
    ]  # fmt: skip
    path = write(
        tmp_path / "n.onnx", nodes, [array("w1", 2, 2, 1, 1), array("w3", 2, 2, 3, 3), whole("two", 2, np.float32)]
    )
    ran(path, [{"x": image(seed)["x"] * scale} for seed in range(2) for scale in (-5, 0.01, 5)])


def test_branches_of_different_shapes_have_none(tmp_path):
    flat = helper.make_node("Flatten", ["x"], ["f"])
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0), helper.make_node("Greater", ["s", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=body("t", [flat], [value("f")]),
                         else_branch=body("e", [helper.make_node("Neg", ["x"], ["m"])], [value("m")])),
    ]  # fmt: skip
    path = write(tmp_path / "n.onnx", nodes, [whole("zero", 0, np.float32)], shape=())
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    ran(path, [image(0), image(0, -1)])


def test_a_loop_runs_as_often_as_values_say(tmp_path):
    nodes = [
        helper.make_node("ReduceMax", ["h"], ["m"], keepdims=0), helper.make_node("Greater", ["m", "one"], ["still"]),
        helper.make_node("Mul", ["h", "half"], ["k"]),
    ]  # fmt: skip
    path = write(tmp_path / "n.onnx", [turning("trips", nodes, "still")],
                 [whole("trips", 9), whole("one", 1, np.float32), whole("half", 0.5, np.float32)])  # fmt: skip
    graph = ran(path, [{"x": image(0)["x"] * scale} for scale in (0.1, 3, 40, 1e6)])
    assert [n.attrs["kind"] for n in graph.nodes if n.op == "standard"][-1] == "Loop"


def test_a_branch_for_another_size_is_an_error_when_it_is_taken(tmp_path):
    large = helper.make_node("MaxPool", ["x"], ["v"], kernel_shape=[9, 9])
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0), helper.make_node("Greater", ["s", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=body("t", [large], [value("v")]),
                         else_branch=body("e", [helper.make_node("Neg", ["x"], ["m"])], [value("m")])),
    ]  # fmt: skip
    path = write(tmp_path / "n.onnx", nodes, [whole("zero", 0, np.float32)])
    network = compile(load(path), threads=1)
    np.testing.assert_array_equal(network(image(0, -1)["x"]), -image(0, -1)["x"])
    with pytest.raises(ShapeError, match="y: the branch that values decide for does not take inputs of this size"):
        network(image(0)["x"])
