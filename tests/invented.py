"""Tables that nobody printed, which nothing should explain; and published figures with their known explanations."""

from __future__ import annotations

import random
from collections.abc import Iterator
from fnmatch import fnmatchcase

from dojang.arith.check import Cell, Check, check
from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.formats import tables, zoo

NETWORKS = ("vgg16", "resnet50", "resnet18", "alexnet", "googlenet", "mobilenet-v2", "resnext50-32x4d",
            "resnet20-cifar10", "nin-cifar10", "lenet5")  # fmt: skip


def as_printed(value: float, digits: int) -> str:
    """A number as tables print it: so many digits and K, M or G; all of them from seven digits on."""
    if digits >= 7:
        return f'"{round(value):,}"'
    power = min(3, max(0, len(str(round(value))) - 1) // 3)
    scaled = value / 1000**power
    return f"{scaled:.{max(0, digits - len(str(int(scaled))))}f}{('', 'K', 'M', 'G')[power]}"


def off(rng: random.Random, value: int) -> float:
    """A number 1.5 to 12 % off."""
    return value * (1 + rng.choice((-1, 1)) * rng.uniform(0.015, 0.12))


def invented(seed: int, graphs: dict[str, Graph]) -> tuple[str, str, int]:
    """A network, a table of it (CSV) and how many cells are wrong: a total, or some of its rows among right ones."""
    rng = random.Random(seed)
    name = rng.choice(NETWORKS)
    graph = graphs.setdefault(name, zoo.load(name, weights=False))
    layers = {layer.name: layer.cost for layer in count(graph).layers}
    columns = rng.choice((["macs"], ["macs"], ["params"], ["params", "macs"]))
    digits = rng.choice((2, 3, 3, 4, 9))
    lines = [f"row,layers,{','.join(columns)}"]
    figure = {c: lambda pattern, c=c: sum(getattr(cost, c) for n, cost in layers.items() if fnmatchcase(n, pattern))
              for c in columns}  # fmt: skip
    if rng.random() < 0.6:
        lines.append("total,*," + ",".join(as_printed(off(rng, figure[c]("*")), digits) for c in columns))
        return name, "\n".join(lines), len(columns)
    some = [n for n, c in layers.items() if c.macs]
    chosen = rng.sample(some, min(len(some), rng.randint(4, 10)))
    wrong = rng.sample(chosen, rng.randint(2, 3))
    for layer in chosen:
        cells = [off(rng, figure[c](layer)) if layer in wrong else figure[c](layer) for c in columns]
        lines.append(f"{layer},{layer}," + ",".join(as_printed(v, digits) for v in cells))
    return name, "\n".join(lines), len(columns) * len(wrong)


def all_wrong(seed: int, graphs: dict[str, Graph]) -> tuple[str, str]:
    """A network and a table of eight layers, one column, in which every cell is 1.5 to 12 % (or severalfold) off."""
    rng = random.Random(seed)
    name = rng.choice(NETWORKS)
    graph = graphs.setdefault(name, zoo.load(name, weights=False))
    layers = [layer for layer in count(graph).layers if layer.cost.macs]
    digits, times = rng.choice((2, 3, 4)), rng.choice((1, 1, 2.7))
    lines = [f"{x.name},{x.name},{as_printed(times * off(rng, x.cost.macs), digits)}"
             for x in rng.sample(layers, min(8, len(layers)))]  # fmt: skip
    return name, "\n".join(["row,layers,macs", *lines])


def storied(result: Check) -> list[Cell]:
    """Cells with an explanation other than that they are right, close, or not explained."""
    return [c for c in result.cells if c.verdict == "convention" or
            (c.verdict == "mismatch" and not c.explanation.endswith("not explained"))]  # fmt: skip


def told(seeds: range) -> Iterator[tuple[int, str, str, list[Cell]]]:
    """(seed, network, table, cells with a story) of invented tables."""
    graphs: dict[str, Graph] = {}
    for seed in seeds:
        name, text, _ = invented(seed, graphs)
        yield seed, name, text, storied(check(tables.parse(text), graphs[name]))


PUBLISHED: tuple[tuple[str, str, str, str, str, str], ...] = (
    # network, column, layers, printed, verdict, words of the explanation; where it is printed is in the comment
    ("resnet50", "macs", "*", "3.8G", "mismatch", "the stride on the 1x1 convolutions"),  # He et al. 2016, table 1
    (
        "resnet50",
        "macs",
        "*",
        "3.8×10^9",
        "mismatch",
        "the stride on the 1x1 convolutions",
    ),  # the same, as it stands there
    ("resnet50", "macs", "*", "3.86G", "mismatch", "the stride on the 1x1 convolutions"),  # Caffe model, netscope
    ("resnet50", "macs", "*", "4.1 billion", "rounded", "rounded"),  # torchvision's variant, as most repositories say
    ("resnet50", "macs", "*", "8.2 GFLOPs", "convention", "1 MAC = 2 FLOPs"),  # FLOPs that are twice the MACs
    ("resnet50", "params", "*", "25.6M", "rounded", "rounded"),  # torchvision
    ("resnet50", "params", "*", "25.5M", "rounded", "cut off"),  # digits cut off, in many tables
    ("resnet50", "params", "*", '"25,503,912"', "convention", "without batch norm"),  # convolution and dense only
    ("resnet50", "params", "*", "23.5M", "convention", "dense layers left out"),  # backbone alone
    ("resnet18", "macs", "*", "1.8e9", "rounded", "rounded"),  # He et al. 2016, table 1: 1.8×10^9
    ("resnet18", "macs", "*", "3.63G", "convention", "1 MAC = 2 FLOPs"),  # doubled
    ("resnet18", "params", "*", "11.7M", "rounded", "rounded"),  # torchvision
    ("resnet18", "params", "*", "11.2M", "convention", "dense layers left out"),  # backbone alone
    ("vgg16", "macs", "*", "15.3B", "convention", "dense layers left out"),  # He et al. 2016: VGG-16 has 15.3 billion
    ("vgg16", "macs", "*", "15.3 billion", "convention", "dense layers left out"),  # the same in words
    ("vgg16", "macs", "*", '"15,346,630,656"', "convention", "dense layers left out"),  # convolutions alone
    ("vgg16", "macs", "*", "15.5G", "rounded", "rounded"),  # everything
    ("vgg16", "macs", "*", "30.9 GFLOPs", "convention", "1 MAC = 2 FLOPs"),  # doubled
    ("vgg16", "macs", "*", "30.7G", "convention", "dense layers left out"),  # doubled, convolutions alone
    ("vgg16", "params", "*", "138M", "rounded", "rounded"),  # Simonyan, Zisserman 2015, table 2
    ("vgg16", "params", "*", "14.7M", "convention", "dense layers left out"),  # include_top=False
    ("vgg16", "weights", "*", '"138,357,544"', "convention", "with biases"),  # biases counted under "weights"
    ("alexnet", "params", "*", "60M", "rounded", "cut off"),  # Krizhevsky et al. 2012: 60 million (60,965,224)
    ("alexnet", "params", "*", "61M", "rounded", "rounded"),  # most tables
    ("alexnet", "macs", "*", "724M", "rounded", "rounded"),  # Caffe, netscope; Sze et al. 2017, table II
    ("alexnet", "macs", "*", "666M", "convention", "dense layers left out"),  # convolutions: Sze et al. 2017, table II
    ("alexnet", "macs", "*", "1.45G", "convention", "1 MAC = 2 FLOPs"),  # doubled
    ("googlenet", "macs", "*", "1.5 billion", "rounded", "cut off"),  # Szegedy et al. 2015: 1.5 billion multiply-adds
    ("googlenet", "params", "*", "7.0M", "rounded", "rounded"),  # Sze et al. 2017, table II
    ("googlenet", "macs", "*", "1.58G", "rounded", "rounded"),  # netscope
    ("mobilenet-v2", "macs", "*", "300M", "rounded", "cut off"),  # Sandler et al. 2018, table 4: 300M multiply-adds
    ("mobilenet-v2", "params", "*", "3.4M", "mismatch", "not explained"),  # Sandler et al. 2018; nobody knows why
    ("mobilenet-v2", "params", "*", "3.5M", "rounded", "rounded"),  # torchvision
    ("mobilenet-v2", "macs", "*", "0.60 GFLOPs", "convention", "1 MAC = 2 FLOPs"),  # doubled
    ("resnext50-32x4d", "macs", "*", "4.2G", "rounded", "rounded"),  # Xie et al. 2017, table 1: 4.2×10^9
    ("resnext50-32x4d", "params", "*", "25.0M", "rounded", "rounded"),  # Xie et al. 2017, table 1: 25.0×10^6
    ("resnet20-cifar10", "params", "*", "0.27M", "rounded", "rounded"),  # He et al. 2016, table 6
    ("lenet5", "params", "*", "60K", "mismatch", "not explained"),  # LeCun et al. 1998: C3 sees some of its inputs only
)


def published(network: str, column: str, layers: str, printed: str, graphs: dict[str, Graph]) -> Cell:
    """One published figure, judged."""
    graph = graphs.setdefault(network, zoo.load(network, weights=False))
    return check(tables.parse(f"row,layers,{column}\ntotal,{layers},{printed}"), graph).cells[0]
