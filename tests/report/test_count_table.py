"""The printed cost table: which columns there are, what modules and lower bounds say, and the same in CSV and HTML."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

import dojang
from dojang.app.cli import main
from dojang.arith.graph import Graph, Node
from dojang.report.count_rows import NAMED
from dojang.report.csv_count import count_csv, devices_csv
from dojang.report.html import count_html
from dojang.report.text_count import count_text


@pytest.mark.parametrize("width", [60, 80, 100, 130, 200])
@pytest.mark.parametrize("net", ["alexnet", "resnet50", "googlenet", "mobilenet-v2"])
def test_as_many_columns_as_fit(net: str, width: int) -> None:
    said = count_text(dojang.count(net), width)
    assert max(map(len, said.splitlines()[1:])) <= width
    heads = said.splitlines()[2]
    assert all(name in heads for name in ("layer", "op", "output", "params", "MACs"))
    missing = next((line for line in said.splitlines() if line.startswith("More columns")), "")
    if width >= 80:
        assert "kernel" in heads or net == "mobilenet-v2"  # whose convolutions are all inside of folded modules
        assert "% MACs" in heads
    if width == 200:
        assert "96x3x11x11" in said or net != "alexnet"
        assert not missing


def test_columns_that_are_asked_for() -> None:
    found = dojang.count("alexnet")
    lines = count_text(found, 80, columns=("layer", "kernel", "weights", "macs-share")).splitlines()
    assert lines[2].split() == ["layer", "kernel", "weights", "%", "MACs"]
    conv2 = next(line.split() for line in lines if line.startswith("conv2"))
    assert conv2 == ["conv2", "5x5", "p2", "g2", "256x48x5x5", "30.9"]
    every = count_text(found, 80, columns=tuple(NAMED)).splitlines()[2]
    assert all(column.title in every for column in NAMED.values())


def test_shares_add_up_and_the_depth_is_said() -> None:
    found = dojang.count("resnet50", depth=1)
    said = str(found)
    rows = said.split("\n\n")[1].splitlines()[1:-2]
    assert len(rows) == 12
    shares = [line.split()[-2] for line in rows]
    assert abs(sum(float(share) for share in shares if share[0].isdigit()) - 100) < 0.3
    assert "176 layers, folded to depth 1; --depth 4 shows each" in " ".join(said.split())
    assert found._repr_html_().count("layer4") == 1


def test_what_is_frozen_is_shown() -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 3), torch.nn.Conv2d(8, 2, 1)).eval()
    net[0].requires_grad_(False)
    net[1].weight.requires_grad_(False)
    found = dojang.count(net, input_size=(3, 9, 9))
    assert [layer.trainable for layer in found.layers[1:]] == [0, 8, 18]
    assert [layer.frozen for layer in found.layers] == [None, True, False, False]
    said = str(found)
    for mark in ("frozen", "1 %", "yes"):
        assert mark in said
    net.requires_grad_(True)
    assert "trained" not in str(dojang.count(net, input_size=(3, 9, 9))).split("Convention")[0].split("More columns")[0]


def test_stored_types_of_files_and_modules(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    weights = np.zeros((4, 3, 3, 3), np.float16)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], "c", pads=[1, 1, 1, 1])], "main_graph",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT16, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT16, ["N", 4, 8, 8])],
        [numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    path = tmp_path / "half.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    found = dojang.count(path)
    assert found.network == "half"  # not what exporters call every graph
    assert found.layers[-1].dtypes == ("float16",)
    torch = pytest.importorskip("torch")
    assert dojang.count(torch.nn.Conv2d(3, 4, 3), input_size=(3, 8, 8)).layers[-1].dtypes == ("float32",)


def test_a_lower_bound_says_how_much_is_missing() -> None:
    nodes = (
        Node.of("x", "input", shape=(3, 8, 8)),
        Node.of("a", "conv", "x", out=4, kernel=(3, 3)),
        Node.of("t", "constant", shape=(10,), trained=True),
        Node.of("u", "unknown", "a", "t", kind="Strange (of its kind)"),
        Node.of("v", "unknown", "a", kind="Strange"),
        Node.of("d", "dense", "u", out=5),
    )
    found = dojang.count(Graph(nodes, ("d", "v")))
    assert found.uncounted is not None
    assert found.uncounted.to_dict() == {"operators": {"Strange": 2}, "hidden": 1, "rows": 6, "params": 10}
    said = " ".join(str(found).split())
    assert "These are 3 of 6 layers (operators: Strange (2); 1 whose input size is not known)" in said
    assert f"they read 10 parameters, {100 * 10 / (4 * 27 + 4 + 10):.1f} % of those used" in said
    assert found.to_dict()["totals"]["uncounted"]["hidden"] == 1
    assert "uncounted" not in dojang.count("lenet5").to_dict()["totals"]


def test_csv_by_module_adds_up() -> None:
    for depth in (None, 1, 2, 3):
        found = dojang.count("resnet18", depth=depth)
        rows = list(csv.DictReader(io.StringIO(count_csv(found))))
        assert sum(int(row["params"]) for row in rows) == found.params
        assert sum(int(row["macs"]) for row in rows) == found.macs
        assert abs(sum(float(row["macs_share"]) for row in rows) - 1) < 1e-4
    conv = next(
        row for row in csv.DictReader(io.StringIO(count_csv(dojang.count("resnet18")))) if row["name"] == "conv1"
    )
    wanted = {"kernel": "7x7", "stride": "2x2", "padding": "3x3", "groups": "1", "weight_shape": "64x3x7x7",
              "in_shapes": "3x224x224", "module": "", "trainable": "9408"}  # fmt: skip
    assert {key: conv[key] for key in wanted} == wanted


def test_the_page_has_modules_layers_and_devices() -> None:
    page = count_html(dojang.count("resnet50"), dojang.over_devices("resnet50", 2))
    assert "<h2>By module</h2>" in page
    assert "5 x 10 layers" in page
    assert "<summary>All 176 layers</summary>" in page
    assert "Over 2 devices" in page
    assert page.count("<svg") >= 2


def test_devices_as_csv() -> None:
    placed = dojang.over_devices("alexnet", 2)
    rows = list(csv.DictReader(io.StringIO(devices_csv(placed))))
    assert sum(int(row["params"]) for row in rows if row["device"] == "1") == 30_482_612
    fc7 = next(row for row in rows if row["name"] == "fc7")
    assert (fc7["out_shape"], fc7["received_bytes"], fc7["sources"]) == ("2048", "8192", "drop6")


def test_json_has_every_layer_whatever_the_depth(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["count", "resnet18", "--depth", "1", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said["layers"]) == 70
    layer1 = next(row for row in said["modules"] if row["name"] == "layer1")
    held = [row for row in said["layers"] if row["module"].startswith("layer1.")]
    assert layer1["params"] == sum(row["params"] for row in held)
    assert layer1["macs"] == sum(row["macs"] for row in held)
    assert layer1["layers"] == len(held)
