"""The JSON of every command against the schemas that docs/schemas publishes: real output, and no key left over."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from jsonschema import Draft202012Validator
from PIL import Image

import dojang
from dojang.app.cli import main
from dojang.app.options import COMMANDS
from dojang.formats.torch import to_module
from dojang.formats.zoo import load as zoo
from dojang.report.documents import DOCUMENTS
from dojang.report.json import plain
from dojang.report.schema import schemas

ROOT = Path(__file__).parents[2]
OPEN, CLOSED = schemas(), schemas(closed=True)

COUNTS = [
    ["resnet18", "--memory", "--machine", "150,12"],
    ["resnet18", "--unit", "flop", "--exact-padding", "--no-bias"],
    ["lenet5", "--input-size", "1,H,W"],
    ["resnet18", "--batch-size", "N"],
    ["alexnet", "--devices", "2"],
    ["alexnet", "--explain", "conv2"],
    ["resnet18", "--input-size", "3,H,W", "--explain", "conv1"],
]
OTHERS = [
    ["solve", "--in", "32x32x3", "--out", "16x16x8"],
    ["solve", "--in", "16x16x3", "--out", "32x32x8", "--transposed", "--kernel", "4", "--stride", "2"],
    ["check", "alexnet-lecture"],
    ["check", "googlenet-table1"],
    ["compare", "digits-cnn", "resnet18"],
    ["bench", "digits-cnn", "--rounds", "2", "--peers"],
    ["diagnose", "digits-cnn"],
    ["diagnose", "digits-cnn", "--data", "digits", "--samples", "50"],
    *(["list", what] for what in ("networks", "tables", "kernels", "kinds", "algorithms")),
    ["env"],
]

Printed = Callable[..., dict[str, Any]]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    """The object that a command prints; exit code 1 is a check that has not passed."""

    def run(*words: str | Path) -> dict[str, Any]:
        capsys.readouterr()
        assert main([*map(str, words), "--json"]) in (0, 1)
        return json.loads(capsys.readouterr().out)

    return run


def check(document: dict[str, Any]) -> None:
    """Holds a document against its schema: as published, and with no key beyond those that it lists."""
    name = document["schema"].removeprefix("dojang.").removesuffix("/1")
    for schema in (OPEN[name], CLOSED[name]):
        faults = [
            f"{list(e.absolute_path)}: {e.message[:300]}" for e in deepest(Draft202012Validator(schema), document)
        ]
        assert faults == []
    if name != "run-record":
        assert document["convention"]


def deepest(validator: Any, document: Any) -> list[Any]:
    """Errors, and for one of several kinds those of the kind that comes nearest."""
    found = []
    for error in validator.iter_errors(document):
        found += error.context or [error]
    return found


def test_every_command_has_a_schema() -> None:
    assert set(DOCUMENTS) == set(COMMANDS)
    for schema in (*OPEN.values(), *CLOSED.values()):
        Draft202012Validator.check_schema(schema)
    there = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in (ROOT / "docs" / "schemas").glob("*.json")}
    assert there == OPEN


@pytest.mark.parametrize("words", COUNTS, ids=" ".join)
def test_count(printed: Printed, words: list[str]) -> None:
    check(printed("count", *words))


@pytest.mark.parametrize("words", OTHERS, ids=" ".join)
def test_commands(printed: Printed, words: list[str]) -> None:
    check(printed(*words))


def test_networks_whose_values_decide_and_unknown_operators(printed: Printed, tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text(
        "import torch\nfrom torch import nn\n\nclass Gate(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.a = nn.Conv2d(3, 4, 3)\n\n    def forward(self, x):\n"
        "        if x.sum() > 0:\n            return self.a(x)\n        return x\n\ndef net():\n    return Gate()\n"
    )
    found = printed("count", f"{code}:net", "--input-size", "3,8,8", "--memory")
    assert found["totals"]["status"] == "range"
    check(found)
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Strange", ["x"], ["y"], domain="made.up")
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, [1, 3, 8, 8])], [value("y", 1, None)])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "strange.onnx")
    found = printed("count", tmp_path / "strange.onnx")
    assert found["totals"]["status"] == "lower-bound"
    check(found)


def test_commands_that_write(printed: Printed, tmp_path: Path) -> None:
    Image.new("RGB", (9, 8), (1, 2, 3)).save(tmp_path / "a.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    np.save(tmp_path / "x.npy", np.zeros((2, 1, 8, 8), np.float32))
    check(printed("filter", tmp_path / "a.png", "--kernel", "blur", "--plan"))
    check(printed("filter", tmp_path / "a.png", "--kernel", "blur", "--kernel", "sharpen"))
    check(printed("run", "digits-cnn", tmp_path / "x.npy", "--plan", "-o", tmp_path / "y.npy"))
    check(printed("export", "digits-cnn", "-o", tmp_path / "d.onnx"))
    check(printed("train", "digits-cnn", "--data", "digits", "--epochs", "1", "-o", tmp_path / "t"))
    check(json.loads((tmp_path / "t" / "run.json").read_text(encoding="utf-8")))


def test_filter_with_a_picture_that_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Image.new("RGB", (9, 8), (1, 2, 3)).save(tmp_path / "a.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    pictures = [str(tmp_path / name) for name in ("a.png", "bad.png")]
    assert main(["filter", *pictures, "--kernel", "blur", "-o", str(tmp_path / "out"), "--json"]) == 4
    document = json.loads(capsys.readouterr().out)
    assert len(document["failed"]) == 1
    check(document)


@pytest.mark.parametrize("lossless", [True, False])
def test_slim(printed: Printed, tmp_path: Path, lossless: bool) -> None:
    how = ["--lossless"] if lossless else ["--epochs", "1", "--final-epochs", "1", "--max-drop", "5"]
    more = [] if lossless else ["--target-macs", "0.6"]
    out = tmp_path / "s"
    found = printed("slim", "digits-cnn", "--data", "digits", *how, *more, "-o", out)
    check(found)
    check(json.loads((out / "run.json").read_text(encoding="utf-8")))


def test_an_unknown_key_and_a_missing_one_are_seen(printed: Printed) -> None:
    document = printed("env")
    with pytest.raises(AssertionError, match="Additional properties"):
        check({**document, "new": 1})
    del document["cache"]
    with pytest.raises(AssertionError, match="'cache' is a required property"):
        check(document)


def test_results_in_python_have_the_same_content() -> None:
    """`to_dict` holds what a document holds beside its head."""
    made = {
        "count": dojang.count("lenet5"),
        "solve": dojang.solve((3, 32, 32), (8, 32, 32)),
        "run": dojang.run(to_module(zoo("digits-cnn")), np.zeros((1, 8, 8), np.float32), input_size=(1, 8, 8)),
    }
    for command, result in made.items():
        head = {"schema": f"dojang.{command}/1", "version": "", "inputs": {}, "convention": "-"}
        check(plain({**head, **result.to_dict()}))
