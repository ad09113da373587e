"""What the commands of the arithmetic print beyond plain numbers: formulas, ranges, memory, kinds."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from dojang.app import verbs
from dojang.arith.kinds import kinds
from dojang.arith.symbol import symbolic
from dojang.base.errors import UsageError

from .conftest import Command, check_golden

BRANCHES = """
import torch
from torch import nn


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.small = nn.Conv2d(3, 8, 1)
        self.large = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        return self.large(x) if x.mean() > 0 else self.small(x)


class Endless(nn.Module):
    def forward(self, x):
        while x.sum() > 0:
            x = x - 1
        return x


class Fixed(nn.Module):
    def forward(self, x):
        return x.reshape(-1, 3, x.shape[2] * x.shape[3] // 4, 4)[:, :, : 100 if x.shape[2] < 300 else 50]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)

    def forward(self, x):
        return self.conv(x).flatten(1)
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    path = tmp_path / "code.py"
    path.write_text(BRANCHES)
    return path


def test_formulas(dojang: Command) -> None:
    ran = dojang("count", "nin-cifar10", "--input-size", "3,H,W", "--batch-size", "N")
    assert (ran.code, ran.err) == (0, "")
    check_golden("count-formulas.txt", ran.out)
    assert max(map(len, ran.out.splitlines())) <= 80
    data = json.loads(dojang("count", "resnet18", "--input-size", "3,H,W", "--json").out)
    assert data["inputs"]["input_size"] == [3, "H", "W"]
    assert data["layers"][1]["macs"] == "9,408·⌊(H + 1)/2⌋·⌊(W + 1)/2⌋"
    assert data["totals"]["params"] == 11_689_512


def test_formulas_of_every_source(dojang: Command, code: Path, tmp_path: Path) -> None:
    """A text, a PyTorch module and ONNX files from it give one and the same formula."""
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.ReLU())
    one, free = tmp_path / "one.onnx", tmp_path / "free.onnx"
    x = torch.zeros(1, 3, 32, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the older exporter says that it is old
        for path, axes in ((one, {}), (free, {"x": {0: "N", 2: "H", 3: "W"}})):
            torch.onnx.export(net, (x,), str(path), input_names=["x"], dynamic_axes=axes, dynamo=False)
    text = tmp_path / "net.net"
    text.write_text("input 3x9x9\nconv 8 3x3/2\nflatten\n")
    for source in (one, free, text, f"{code}:Net"):
        data = json.loads(dojang("count", source, "--input-size", "3,H,W", "--json").out)
        # 216·(⌊(H + 1)/2⌋ - 1)·(⌊(W + 1)/2⌋ - 1), multiplied out
        wanted = "216·⌊(H + 1)/2⌋·⌊(W + 1)/2⌋ - 216·⌊(H + 1)/2⌋ - 216·⌊(W + 1)/2⌋ + 216"
        assert data["totals"]["macs"] == wanted, source
    assert json.loads(dojang("count", free, "--input-size", "3,33,65", "--json").out)["totals"]["macs"] == 216 * 16 * 32


class Turning(nn.Module):
    """Sizes that the forward computes: shuffled channels, attention over all pixels, windows of 4, a padded U."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.up = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 8, 4, 2, 1), nn.ConvTranspose2d(8, 12, 2, 2)

    def forward(self, x):
        x = self.a(x)
        b, c, h, w = x.shape
        y = x.view(b, 3, c // 3, h, w).transpose(1, 2).reshape(b, c, h, w)
        z = self.up(self.b(y))
        z = nn.functional.pad(z, [0, w - z.shape[3], 0, h - z.shape[2]]) + y
        tall = z.view(b, c, h // 4, 4, w).mean(3).flatten(2)
        return torch.einsum("bci,bcj->bij", tall, tall)


def test_sizes_that_the_forward_computes() -> None:
    counted = verbs.count(Turning(), input_size=(3, "8H", "8W"))
    for h, w in ((5, 9), (30, 12)):
        exact = verbs.count(Turning(), input_size=(3, 8 * h, 8 * w))
        assert counted.total.macs.at({"H": h, "W": w}) == exact.total.macs
        for one, other in zip(counted.layers, exact.layers, strict=True):
            shape = tuple(int(s.at({"H": h, "W": w})) if symbolic(s) else s for s in one.shape)
            assert (one.name, shape) == (other.name, other.shape)
    with pytest.raises(UsageError, match="where it must divide as 3,32H,32W"):
        verbs.count(Turning(), input_size=(3, "H", "W"))
    with pytest.raises(UsageError, match="a multiple of one such as 32H"):
        verbs.count(Turning(), input_size=(3, "0H", "W"))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("count", "alexnet", "--input-size", "3,H,W", "--max-macs", "1G"), "needs numbers"),
        (("count", "alexnet", "--input-size", "3,H,W", "--memory"), "in numbers"),
        (("count", "alexnet", "--batch-size", "N", "--machine", "h200"), "in numbers"),
        (("count", "alexnet", "--input-size", "3,H-1,W"), "is no size"),
        (("count", "alexnet", "--machine", "toaster"), "--machine toaster"),
        (("count", "alexnet", "--machine", "0,5"), "--machine 0,5"),
        (("count", "alexnet", "--optimiser", "adam"), "belongs to --memory"),
        (("count", "alexnet", "--memory", "--csv"), "one line per layer"),
        (("run", "digits-cnn", "x.npy", "--input-size", "1,H,8"), "is no size"),
    ],
)
def test_bad_usage(dojang: Command, args: tuple[str, ...], says: str) -> None:
    ran = dojang(*args)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err


def test_a_forward_that_computes_with_its_sizes(dojang: Command, code: Path) -> None:
    ran = dojang("count", f"{code}:Fixed", "--input-size", "3,H,W")
    assert ran.code == 2
    assert "give the size in numbers" in ran.err


def test_symbols_only_count() -> None:
    with pytest.raises(UsageError, match="only counting"):
        verbs.load("digits-cnn", input_size=(1, "H", 8))


def test_values_that_decide_give_a_range(dojang: Command, code: Path) -> None:
    ran = dojang("count", f"{code}:Gate", "--input-size", "3,16,16")
    assert ran.code == 0
    cheap, dear = 16 * 16 * 3 * 8, 16 * 16 * 3 * 8 * 9
    assert f"{cheap:,} to {dear:,} MACs" in ran.out
    assert "2 paths" in ran.out
    totals = json.loads(dojang("count", f"{code}:Gate", "--input-size", "3,16,16", "--json").out)["totals"]
    assert (totals["status"], totals["macs_min"], totals["macs_max"], totals["ways"]) == ("range", cheap, dear, 2)
    assert (totals["params_min"], totals["params_max"], totals["macs"]) == (32, 224, dear)
    over = dojang("count", f"{code}:Gate", "--input-size", "3,16,16", "--max-macs", str(dear - 1))
    assert over.code == 1
    ran = dojang("count", f"{code}:Endless", "--input-size", "3,16,16")
    assert ran.code == 0
    assert "rest (what follows an `if`" in ran.out
    assert "64 paths were followed" in ran.out
    ran = dojang("count", f"{code}:Endless", "--input-size", "3,16,16", "--max-params", "5")
    assert (ran.code, "is not known" in ran.err) == (1, True)


def test_a_table_is_compared_with_the_costliest_path(dojang: Command, code: Path) -> None:
    table = code.with_name("gate.csv")
    table.write_text(
        f"# title: Gate\n# source: a note\n# network: {code}:Gate\nrow,layers,params,macs\n"
        f"large,large,224,{16 * 16 * 3 * 8 * 9}\n"
    )
    ran = dojang("check", str(table), f"{code}:Gate", "--input-size", "3,16,16")
    assert (ran.code, ran.err) == (0, "")
    assert "Values decide which of 2 paths the network takes; the table was compared with" in ran.out
    ran = dojang("check", str(table), f"{code}:Gate", "--input-size", "3,16,16", "--json")
    assert json.loads(ran.out)["totals"]["ways"] == 2


def test_memory(dojang: Command) -> None:
    ran = dojang("count", "lenet5", "--memory", "--machine", "150,12", "--optimiser", "adam")
    check_golden("count-memory.txt", ran.out)
    assert max(map(len, ran.out.splitlines())) <= 80
    data = json.loads(dojang("count", "lenet5", "--memory", "--batch-size", "4", "--json").out)
    assert data["memory"]["optimiser_bytes"] == 4 * 61_706
    assert data["memory"]["inference_bytes"] == data["totals"]["peak_bytes"]
    assert "roofline" not in data
    c1 = data["traffic"][0]
    moved = 4 * (4 * 32 * 32 + 4 * 6 * 28 * 28 + 156)
    assert (c1["name"], c1["moved_bytes"], c1["intensity"]) == ("c1", moved, 2 * 4 * 117_600 / moved)
    timed = json.loads(dojang("count", "lenet5", "--machine", "h200", "--json").out)
    assert timed["roofline"]["machine"]["gbytes"] == 4800
    assert 0 < timed["roofline"]["least_ms"] < timed["roofline"]["most_ms"]


def test_time_here(dojang: Command) -> None:
    found = json.loads(dojang("count", "lenet5", "--machine", "here", "--json").out)["roofline"]
    assert found["machine"]["gflops"] > 0.1
    assert found["least_ms"] < found["most_ms"]


def test_kinds(dojang: Command) -> None:
    ran = dojang("list", "kinds")
    check_golden("list-kinds.txt", ran.out)
    assert max(map(len, ran.out.splitlines())) <= 80
    data = json.loads(dojang("list", "kinds", "--json").out)
    assert [row["kind"] for row in data["kinds"]] == [kind.name for kind in kinds()]
    assert data["field_trade"][1] == {"kernel": 3, "dilation": 1, "layers": 3, "weights": 110_592, "field": 7}


def test_what_padding_clips_is_unfolded(dojang: Command) -> None:
    steps = json.loads(dojang("count", "alexnet", "--explain", "conv2", "--json").out)["steps"]
    step = next(s for s in steps if s["figure"] == "clipped by padding, axis 0")
    assert step["result"] == "16 before, 16 behind; 23 of 27 positions see the image only"


def test_weights_are_held_against_what_is_counted(dojang: Command, tmp_path: Path) -> None:
    file = tmp_path / "digits.safetensors"
    assert dojang("export", "digits-cnn", "-o", file).code == 0
    assert dojang("count", "digits-cnn", "--weights", file).out == dojang("count", "digits-cnn").out
    ran = dojang("count", "lenet5", "--weights", file)
    assert (ran.code, ran.out) == (2, "")
    assert "digits.safetensors" in ran.err


def test_growing_asks_for_a_transposed_layer(dojang: Command) -> None:
    hint = "--transposed lists"
    assert hint in " ".join(dojang("solve", "--in", "10x10x3", "--out", "20x20x3").out.split())
    assert hint not in dojang("solve", "--in", "10x10x3", "--out", "20x20x3", "--transposed").out
    assert hint not in dojang("solve", "--in", "10x10x3", "--out", "10x10x3").out
