from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from dojang import __version__
from dojang.app.values import whole

from .conftest import Command, check_golden


def test_table(dojang: Command) -> None:
    ran = dojang("count", "alexnet")
    assert (ran.code, ran.err) == (0, "")
    check_golden("count-alexnet.txt", ran.out)
    assert max(map(len, ran.out.splitlines())) <= 80


@pytest.mark.parametrize("net", ["googlenet", "resnet50", "mobilenet-v2", "vgg16", "resnet56-cifar10"])
def test_tables_keep_within_80_columns(dojang: Command, net: str) -> None:
    assert max(map(len, dojang("count", net).out.splitlines())) <= 80


def test_help(dojang: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ran = dojang("count", "--help")
    assert ran.code == 0
    check_golden("help-count.txt", ran.out)


def test_json(dojang: Command) -> None:
    ran = dojang("count", "alexnet", "--json")
    data = json.loads(ran.out)
    assert data["schema"] == "dojang.count/1"
    assert data["version"] == __version__
    assert data["inputs"]["net"] == "alexnet"
    assert data["convention"]["unit"] == "mac"
    totals = data["totals"]
    assert (totals["params"], totals["macs"], totals["status"]) == (60_965_224, 724_406_816, "exact")
    assert totals["weights"] + totals["biases"] == totals["params"]
    assert sum(layer["macs"] for layer in data["layers"]) == totals["macs"]
    fc6 = next(layer for layer in data["layers"] if layer["name"] == "fc6")
    assert (fc6["params"], fc6["macs"], fc6["out_shape"]) == (37_752_832, 37_748_736, [4096])
    wanted = {"name", "op", "inputs", "out_shape", "params", "weights", "biases", "macs", "out_bytes"}
    wanted |= {"module", "in_shapes", "arrays", "dtypes", "trainable"}
    assert wanted | {"receptive_field", "status"} == set(fc6)


def test_csv(dojang: Command) -> None:
    ran = dojang("count", "alexnet", "--csv")
    rows = list(csv.DictReader(io.StringIO(ran.out)))
    assert sum(int(row["macs"]) for row in rows) == 724_406_816
    conv2 = next(row for row in rows if row["name"] == "conv2")
    assert (conv2["out_shape"], conv2["weights"], conv2["field_size"]) == ("256x27x27", "307200", "51x51")


def test_no_bias_and_flop(dojang: Command) -> None:
    data = json.loads(dojang("count", "alexnet", "--no-bias", "--unit", "flop", "--json").out)
    assert data["totals"]["biases"] == 0
    assert data["totals"]["flops"] == 2 * data["totals"]["macs"] == 1_448_813_632
    text = dojang("count", "alexnet", "--unit", "flop").out
    assert "1,448,813,632" in text
    assert "FLOPs" in text


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (("--max-macs", "724406816"), 0, ""),
        (("--max-macs", "724406815"), 1, "724,406,816 MACs are over the budget of 724,406,815"),
        (("--max-macs", "1G", "--max-params", "60M"), 1, "60,965,224 parameters are over the budget of 60,000,000"),
    ],
)
def test_budget(dojang: Command, flags: tuple[str, ...], code: int, says: str) -> None:
    ran = dojang("count", "alexnet", *flags)
    assert ran.code == code
    assert says in ran.err
    assert len(ran.err.splitlines()) == (1 if code else 0)
    assert "724,406,816" in ran.out


def test_sizes(dojang: Command, small: Path) -> None:
    notes = json.loads(dojang("count", small, "--json").out)["layers"]
    assert notes[1]["out_shape"] == [4, 28, 28]
    assert notes[3]["weights"] == 1000
    larger = json.loads(dojang("count", small, "--input-size", "3,40,48", "--json").out)["layers"]
    assert larger[1]["out_shape"] == [4, 36, 44]
    assert json.loads(dojang("count", "alexnet", "--num-classes", "10", "--json").out)["layers"][-1]["out_shape"] == [
        10
    ]


@pytest.mark.parametrize(
    ("text", "value"), [("1G", 10**9), ("1.5M", 1_500_000), ("12", 12), ("3k", 3000), ("1_000", 1000)]
)
def test_whole(text: str, value: int) -> None:
    assert whole(text) == value


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("count",), 2, "NET"),
        (("count", "alexnett"), 2, "did you mean alexnet"),
        (("count", "resnet34"), 2, "write torchvision.models:resnet34 and its size, as --input-size 3,224,224"),
        (("count", "resnet18", "--input-size", "224"), 2, "three numbers, C,H,W, such as 3,224,224"),
        (("count", "resnet18", "--input-size", "1,96"), 2, "three numbers, C,H,W, such as 1,96,96"),
        (("count", "resnet18", "--input-size", "200,96"), 2, "three numbers, C,H,W, such as 3,200,96"),
        (("count", "resnet18", "--input-size", "224x200x3"), 2, "height, width, channels: give 3,224,200"),
        (("count", "alexnet", "--columns", "dtpe"), 2, "did you mean dtype"),
        (("count", "alexnet", "--columns", "op", "--json"), 2, "--columns chooses columns of the printed table"),
        (("count", "alexnet", "--devices", "2", "--memory"), 2, "--devices has a table of its own"),
        (("count", "alexnet", "--devices", "2", "--unit", "flop"), 2, "--devices counts MACs"),
        (("count", "alexnet", "--depth", "0"), 2, "at least 1"),
        (("count", "alexnet", "--input-size", "x=3,227,227;3"), 2, "give every input once, by name"),
        (("count", "no/such/net.onnx"), 4, "no/such/net.onnx: no such file"),
        (("count", "missing.net"), 4, "missing.net: no such file"),
        (("count", "alexnet", "--input-size", "3,x"), 2, "is no size"),
        (("count", "alexnet", "--input-size", "3,0,9"), 2, "at least 1"),
        (("count", "alexnet", "--input-size", "3,32,32"), 2, "shrinks below 1"),
        (("count", "alexnet", "--batch-size", "0"), 2, "at least 1"),
        (("count", "alexnet", "--json", "--csv"), 2, "choose one"),
        (("count", "alexnet", "--max-macs", "lots"), 2, "no whole number"),
        (("count", "weights.pt"), 2, "--weights"),
        (("count", "net.py"), 2, "net.py:callable"),
        (("cuont", "alexnet"), 2, "COMMAND 'cuont' is not known; did you mean count?"),
        (("list", "operatrs"), 2, "'operatrs' is not known; did you mean operators? (see dojang list --help)"),
        (("list",), 2, "networks,tables,kernels,kinds,algorithms,operators"),
        (("count", "alexnet", "--unit", "flip"), 2, "--unit 'flip' is not known; did you mean flop?"),
        (
            ("count", "alexnet", "--inputsize", "3,2,2"),
            2,
            "there is no flag --inputsize; did you mean --input-size? (see dojang count --help)",
        ),
        (("count", "alexnet", "-q"), 2, "unrecognized arguments: -q (see dojang count --help)"),
        (("slim", "--losless"), 2, "there is no flag --losless; did you mean --lossless?"),
        (("count", "alexnet", "--explain", "conv22"), 2, "no node 'conv22'; did you mean conv2 or conv"),
        (("count", "alexnet", "--explain", "zzz"), 2, "`dojang count alexnet` shows their names"),
    ],
)
def test_bad_usage_is_one_line(dojang: Command, args: tuple[str, ...], code: int, says: str) -> None:
    ran = dojang(*args)
    assert ran.code == code
    assert ran.out == ""
    assert says in ran.err
    assert ran.err.startswith("dojang: ")
    assert len(ran.err.splitlines()) == 1
    assert "fault in dojang" not in ran.err
