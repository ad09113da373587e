"""The page's source of numbers that computes in the browser: the same values, filters and answers as the reference."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

import nets
from children import finished
from dojang.app.running import answers
from dojang.arith.graph import Graph, Node
from dojang.arith.outputs import output_numbers
from dojang.engine.browser.program import browser_program
from dojang.engine.reference.operators import run_reference
from under_node import NODE, needs_node

N = Node.of
SCRIPT = Path(__file__).parent.parent / "browser_source.mjs"


def network(*last: Node) -> Graph:
    return nets.weighted(Graph((
        N("x", "input", shape=(3, 8, 9)), N("c", "conv", "x", out=6, kernel=(3, 2), groups=3),
        N("bn", "batchnorm", "c"), N("r", "relu", "bn"),
        N("t", "conv_transpose", "r", out=4, kernel=(3, 3), stride=2, groups=2),
        N("p", "global_avgpool", "t"), N("f", "flatten", "p"), N("d", "dense", "f", out=7), *last,
    ), (last[-1].name if last else "d",), name="page"))  # fmt: skip


def told(graph: Graph, x: np.ndarray, folder: Path, **more: object) -> dict:
    given = {"program": browser_program(graph, weights="float32").to_dict(), "input": x.ravel().tolist(),
             "scores": output_numbers(graph), "classes": [], "layers": ["c"], "filters": [], **more}  # fmt: skip
    path = folder / "given.json"
    path.write_text(json.dumps(given))
    assert NODE is not None
    process = subprocess.Popen(
        [NODE, str(SCRIPT), str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    out, err = finished(process)
    assert process.returncode == 0, err
    return json.loads(out)


@needs_node
def test_values_and_filters_are_those_of_the_network(tmp_path: Path) -> None:
    graph = network()
    x = nets.feed(graph, 1)["x"]
    layers = ["c", "bn", "r", "t", "p", "d"]
    filters = [("c", 4), ("t", 3), ("d", 6), ("r", 0), ("c", 6)]
    found = told(graph, x, tmp_path, layers=[*layers, "nothing"], filters=filters)
    exact = run_reference(graph, x, np.float64, layers).taps
    for name, v in zip(layers, found["values"], strict=False):
        right = exact[name][0]
        assert [v["c"], v["h"], v["w"]] == [*right.shape, 1, 1][:3]
        assert np.abs(np.array(v["data"]) - right.ravel()).max() <= 2e-5 * max(1, np.abs(right).max())
    assert found["values"][-1]["error"].startswith("nothing is computed together with a layer beside it, and this file")
    conv, transposed, dense, none, beyond = found["taps"]
    w = {k: np.asarray(v) for k, v in graph.weights.items()}
    assert np.allclose(conv["data"], w["c.weight"][4].ravel())
    assert (conv["c"], conv["h"], conv["w"]) == (1, 3, 2)
    assert conv["bias"] == pytest.approx(w["c.bias"][4])
    assert np.allclose(transposed["data"], w["t.weight"][3:6, 1].ravel())  # channel 3 is the second of the second group
    assert np.allclose(dense["data"], w["d.weight"][6])
    assert none["error"].startswith("this file holds no filter of r;")
    assert beyond["error"] == "c has no channel 6; there are 6"
    assert found["maps"] == {"shape": [6, 6, 8], "first": 2, "most": 7}
    assert found["time"] > 0
    assert (found["picture"], found["rounded"]) == ("p", "")


@needs_node
@pytest.mark.parametrize("last", [(), (N("s", "softmax", "d", axis=1),), (N("s", "sigmoid", "d"),),
                                  (N("s", "log_softmax", "d", axis=1),)])  # fmt: skip
def test_the_answer_is_that_of_the_command(last: tuple[Node, ...], tmp_path: Path) -> None:
    graph = network(*last)
    x = nets.feed(graph, 1)["x"]
    output = run_reference(graph, x, np.float64).outputs[0]
    names = [f"name {k}" for k in range(7)]
    found = told(graph, x, tmp_path, classes=names)["answer"]
    right = answers(graph, output, 5)[0]
    assert [g["index"] for g in found] == [g.index for g in right]
    assert [g["name"] for g in found] == [names[g.index] for g in right]
    assert np.allclose([g["score"] for g in found], [g.score for g in right], atol=1e-4)
    assert np.allclose([g["probability"] for g in found], [g.probability for g in right], atol=1e-4)
