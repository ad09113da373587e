"""Subtotals of modules against PyTorch: its own parameters, and its own counter of operations, module by module."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

import dojang  # noqa: E402
from dojang.arith.cost import count  # noqa: E402
from dojang.arith.scopes import parts_of  # noqa: E402
from dojang.formats import text  # noqa: E402


class Block(nn.Module):
    """Two convolutions with a sum around them; a draw says their widths, groups and whether the first is frozen."""

    def __init__(self, channels: int, draw: random.Random) -> None:
        super().__init__()
        groups = draw.choice([1, 2, channels])
        kernel = draw.choice([1, 3, 5])
        self.conv1 = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=groups, bias=draw.random() < 0.5)
        self.bn1 = nn.BatchNorm2d(channels)
        self.down = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.ReLU())
        self.conv1.weight.requires_grad_(draw.random() < 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn1(self.conv1(x)) + self.down(x))


class Drawn(nn.Module):
    """Stages of blocks, some of them equal, behind a stem, before a dense layer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.stages = nn.ModuleList()
        for _ in range(draw.randint(1, 3)):
            same, times = draw.randrange(10**6), draw.randint(1, 4)
            self.stages.append(nn.Sequential(*(Block(4, random.Random(same)) for _ in range(times))))
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("seed", range(6))
def test_subtotals_are_those_of_pytorch(seed: int) -> None:
    net = Drawn(seed).eval()
    found = dojang.count(net, input_size=(3, 12, 10))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 3, 12, 10))
    flops = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    modules = dict(net.named_modules())
    assert found.tree.modules()
    for module in found.tree.modules():
        own = modules[module.name]
        assert module.cost.params == sum(p.numel() for p in own.parameters())
        assert module.trainable == sum(p.numel() for p in own.parameters() if p.requires_grad)
        path = f"Drawn.{module.name}"  # PyTorch counts for what is called; a list of modules is not
        inside = [flops.get(f"{path}.{name}", 0) for name, _ in own.named_children()]
        assert 2 * module.cost.macs == (sum(inside) if isinstance(own, nn.ModuleList) else flops[path])
        assert module.kind == type(own).__name__


@pytest.mark.parametrize("seed", range(4))
def test_each_folding_holds_every_layer_once(seed: int) -> None:
    found = dojang.count(Drawn(seed).eval(), input_size=(3, 12, 10))
    for depth in (*range(1, found.tree.depth + 2), None):
        rows = found.tree.rows(depth)
        held = [layer.name for row in rows if not row.open for layer in row.layers]
        assert sorted(held) == sorted(layer.name for layer in found.layers)
        assert all(row.level < (depth or 99) for row in rows)
    for depth in range(1, found.tree.depth + 1):
        parts = found.tree.apart(depth)
        assert sum(part.cost.params for part in parts) == found.params
        assert sum(part.cost.macs for part in parts) == found.macs
    assert len(found.tree.rows(found.tree.depth)) == len(found.layers) + len(found.tree.modules())


def test_equal_blocks_fold_and_others_do_not() -> None:
    def stage(*kernels: int) -> nn.Sequential:
        return nn.Sequential(
            *(nn.Sequential(nn.Conv2d(4, 4, k, padding=k // 2), nn.ReLU(), nn.Conv2d(4, 4, 1)) for k in kernels)
        )

    net = nn.Sequential(stage(3, 3, 3), stage(3, 1, 3), stage(3, 3))
    net.get_parameter("2.0.0.weight").requires_grad_(False)  # a frozen layer makes a block another one
    rows = dojang.count(net, input_size=(4, 8, 8)).tree.rows(2)
    assert [(row.label, row.times) for row in rows if row.module and not row.open] == [
        ("0-2", 3), ("0", 1), ("1", 1), ("2", 1), ("0", 1), ("1", 1),
    ]  # fmt: skip
    first = next(row for row in rows if row.times == 3)
    assert first.cost.params == 3 * (4 * 4 * 9 + 4 + 4 * 4 + 4)
    assert first.cost.macs == 3 * 64 * (4 * 4 * 9 + 4 * 4)


def test_resnet50_folds_to_twenty_rows() -> None:
    found = dojang.count("resnet50")
    rows = found.tree.rows(2)
    assert len(rows) == 20 == len(found.tree.rows())  # what is shown without a depth
    assert [(row.label, row.times) for row in rows if row.level] == [
        ("0", 1), ("1-2", 2), ("0", 1), ("1-3", 3), ("0", 1), ("1-5", 5), ("0", 1), ("1-2", 2),
    ]  # fmt: skip
    layer3 = next(row for row in rows if row.label == "layer3")
    assert (layer3.in_shapes, layer3.out_shape) == (((512, 28, 28),), (1024, 14, 14))
    assert sum(row.cost.macs for row in rows if not row.open) == 4_089_184_256


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.b.c", ("a", "b", "c")),
        ("/d1/d1.0/Conv", ("d1", "0", "Conv")),
        ("/features/features.0/features.0.1/Conv", ("features", "0", "1", "Conv")),
        ("/enc/layers.0/self_attn/Add", ("enc", "layers", "0", "self_attn", "Add")),
        ("model/block1/conv/BiasAdd:0", ("model", "block1", "conv", "BiasAdd:0")),
        ("a..b", ("a..b",)),
        (".", (".",)),
        ("/", ("/",)),
        ("", ("",)),
    ],
)
def test_names_are_taken_apart(name: str, parts: tuple[str, ...]) -> None:
    assert parts_of(name) == parts


def test_very_deep_and_very_many_modules_stay_quick() -> None:
    lines = ["input 3x8x8", *(f"{'m.' * n}c: conv 3 3x3 pad=1" for n in range(1, 400))]
    found = count(text.parse("\n".join(lines)))
    assert len(found.tree.rows(10**6)) >= 400
    assert len(str(found).splitlines()) < 70  # by itself it folds to a screen


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_exported_file_keeps_its_modules(tmp_path: Path) -> None:
    """PyTorch's exporter tells the module of each node."""
    pytest.importorskip("onnxscript")
    net = Drawn(1).eval()
    said = {m.name: m.cost.macs for m in dojang.count(net, input_size=(3, 12, 10)).tree.modules()}
    torch.onnx.export(net, (torch.zeros(1, 3, 12, 10),), tmp_path / "new.onnx", dynamo=True, verbose=False)
    new = dojang.count(str(tmp_path / "new.onnx"))
    assert new.network == "new"
    told = {m.name: (m.cost.macs, m.kind) for m in new.tree.modules()}
    blocks = {name for name, module in net.named_modules() if isinstance(module, Block)}
    assert blocks <= told.keys()
    assert all(told[name] == (said[name], "Block") for name in blocks)
