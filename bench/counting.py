"""How fast counting is, with torchinfo, fvcore, ptflops and PyTorch's FlopCounterMode in the same run.

    python bench/counting.py [--rounds 15] [--out bench/results/counting.txt]

1. ResNet-50 as a PyTorch module, beyond import and construction: all counters in turns; "+ fields" also works out the
   receptive field of every layer, which no peer does.
2. From ONNX and from the zoo: the whole process, wall time and largest resident memory.
3. Graphs of 5,000 to 40,000 layers: time per layer, which linear time keeps constant.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from differential import PEERS, silent
from dojang.arith.cost import count
from dojang.formats import text, zoo
from dojang.formats.torch.read import module as torch_format
from record import head


class Bottleneck(nn.Module):
    """The block of ResNet-50, as torchvision writes it."""

    def __init__(self, ic: int, width: int, stride: int, down: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(ic, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        shortcut = (nn.Conv2d(ic, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))
        self.downsample = nn.Sequential(*shortcut) if down else None

    def forward(self, x: Tensor) -> Tensor:
        """Three convolutions and a shortcut."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet50(nn.Module):
    """ResNet-50."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        ic, stages = 64, []
        for i, (width, blocks) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True)):
            stages.append([Bottleneck(ic if b == 0 else 4 * width, width, 2 if b == 0 and i else 1, b == 0)
                           for b in range(blocks)])  # fmt: skip
            ic = 4 * width
        self.layer1, self.layer2, self.layer3, self.layer4 = (nn.Sequential(*blocks) for blocks in stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2048, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def modules(rounds: int) -> list[str]:
    """ResNet-50 as a module: every counter once per round, in turns."""
    net = ResNet50().eval()
    shape = (1, 3, 224, 224)

    def ours(layer: nn.Module, shape: tuple[int, ...]) -> int:
        total = count(torch_format.from_module(layer, shape[1:], weights=False)).total
        return total.macs

    def seen(layer: nn.Module, shape: tuple[int, ...]) -> int:
        table = count(torch_format.from_module(layer, shape[1:], weights=False))
        assert table.layers[-1].field is not None
        return table.total.macs

    counters: dict[str, Callable[[nn.Module, tuple[int, ...]], int]] = {"dojang": ours, "dojang + fields": seen}
    counters |= PEERS
    times: dict[str, list[float]] = {name: [] for name in counters}
    printed: dict[str, int] = {}
    for number in range(rounds + 1):  # the first round warms up: lazy imports
        for name, counter in counters.items():
            start = time.perf_counter()
            with silent():
                printed[name] = counter(net, shape)
            if number:
                times[name].append(time.perf_counter() - start)
    median = {name: statistics.median(t) for name, t in times.items()}
    best = min(median[name] for name in PEERS)
    lines = ["ResNet-50 as a PyTorch module, beyond import and construction (true MACs 4,089,184,256):"]
    lines += [
        f"  {name:16} {1000 * median[name]:8.1f} ms  (spread {1000 * (max(t) - min(t)):6.1f})  says {printed[name]:,}"
        for name, t in times.items()
    ]
    share = median["dojang"] / best
    return [
        *lines,
        f"  dojang / fastest peer = {share:.3f} (goal: at most 0.25): {'met' if share <= 0.25 else 'MISSED'}",
    ]


RUN = "import sys; from dojang.app.cli import main; code = main(sys.argv[1:]); "
RUN += "line = next(x for x in open('/proc/self/status') if x.startswith('VmHWM')); sys.stderr.write(line.split()[1])"


def process(arguments: list[str], rounds: int) -> tuple[float, float]:
    """Median wall time in seconds and largest memory in MB of `dojang ...` in a process of its own."""
    times, memory = [], 0.0
    for _ in range(rounds):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - start)
        memory = max(memory, int(done.stderr.split()[-1]) / 1000)
        assert json.loads(done.stdout)["totals"]["macs"] == 4_089_184_256
    return statistics.median(times), memory


def processes(rounds: int) -> list[str]:
    """The whole process, from the zoo and from an ONNX file with its weights."""
    import warnings

    lines = ["Whole process, `dojang count`:"]
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "resnet50.onnx")
        with warnings.catch_warnings(), silent():
            torch.onnx.export(ResNet50().eval(), (torch.zeros(1, 3, 224, 224),), file, dynamo=False)
        for what, name in (("zoo", "resnet50"), (f"ONNX, {os.path.getsize(file) / 1e6:.0f} MB", file)):
            seconds, megabytes = process(["count", name, "--json"], rounds)
            verdict = "met" if seconds < 0.4 and megabytes < 80 else "MISSED"
            lines.append(f"  ResNet-50 from {what:13} {seconds:.3f} s, {megabytes:.0f} MB "
                         f"(goal: 0.4 s, 80 MB): {verdict}")  # fmt: skip
    return lines


def long_graphs() -> list[str]:
    """Text, graph, count: seconds and microseconds per layer."""
    lines = ["Long networks (text read, shapes, costs, receptive fields, peak memory):"]
    rates = []
    for layers in (5_000, 10_000, 20_000, 40_000):
        body = "".join(f"c{i}: conv 8 3x3 pad=1\nr{i}: relu\n" for i in range(layers // 2))
        start = time.perf_counter()
        table = count(text.parse(f"input 8x32x32\n{body}"))
        assert table.layers[-1].field is not None
        seconds = time.perf_counter() - start
        assert table.total.macs == layers // 2 * 8 * 8 * 9 * 32 * 32
        rates.append(1e6 * seconds / layers)
        lines.append(f"  {layers:6,} layers {seconds:6.2f} s  {rates[-1]:6.1f} µs per layer")
    return [*lines, f"  slowest / fastest rate = {max(rates) / min(rates):.2f} (linear time: near 1)"]


def main() -> None:
    """Runs all three and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="turns of the counters")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(2)
    lines = [head("src/dojang/arith", "src/dojang/formats", extra=("torchinfo", "fvcore", "ptflops"))]
    assert count(zoo.load("resnet50", weights=False)).total.macs == 4_089_184_256
    for part in (modules(args.rounds), processes(5), long_graphs()):
        lines += [*part, ""]
    text_out = "\n".join(lines)
    print(text_out)
    if args.out:
        args.out.write_text(text_out)


if __name__ == "__main__":
    main()
