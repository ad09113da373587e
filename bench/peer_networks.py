"""Four networks for slimming side by side, their data, one loop of training and one measure for every tool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dojang.app.samples import load_samples
from dojang.formats import checkpoint, zoo


def unit(ins: int, outs: int, stride: int = 1, kernel: int = 3, groups: int = 1, act: bool = True) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    conv = nn.Conv2d(ins, outs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outs), *([nn.ReLU()] if act else []))


class Plain(nn.Module):
    """Units one after the other, global average pooling, a dense head."""

    def __init__(self, body: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) to (n, classes)."""
        return self.head(self.body(x).mean((2, 3)))


class Inverted(nn.Module):
    """The inverted residual of MobileNetV2."""

    def __init__(self, ins: int, outs: int, stride: int, wider: int = 4) -> None:
        super().__init__()
        inner = wider * ins
        self.expand, self.depth = unit(ins, inner, kernel=1), unit(inner, inner, stride, groups=inner)
        self.project, self.same = unit(inner, outs, kernel=1, act=False), stride == 1 and ins == outs

    def forward(self, x: Tensor) -> Tensor:
        """The sum where shapes agree."""
        y = self.project(self.depth(self.expand(x)))
        return x + y if self.same else y


class Basic(nn.Module):
    """The residual block of ResNet-20: a shortcut that halves the size drops pixels and pads channels with zeros."""

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(ins, outs, 3, stride, 1, bias=False), nn.BatchNorm2d(outs)
        self.conv2, self.bn2 = nn.Conv2d(outs, outs, 3, 1, 1, bias=False), nn.BatchNorm2d(outs)
        self.halves, self.missing = stride == 2, (outs - ins) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(n, ins, h, w) to (n, outs, h / stride, w / stride)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.halves:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.missing, self.missing))
        return F.relu(x + y)


class ResNet20(nn.Module):
    """ResNet-20 for CIFAR-10, by the names of the given weights."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        for k, (ins, outs) in enumerate(((16, 16), (16, 32), (32, 64)), 1):
            first = Basic(ins, outs, 1 if k == 1 else 2)
            setattr(self, f"layer{k}", nn.Sequential(first, *(Basic(outs, outs, 1) for _ in range(2))))
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, 32, 32) to (n, classes)."""
        x = F.relu(self.bn1(self.conv1(x)))
        for k in (1, 2, 3):
            x = getattr(self, f"layer{k}")(x)
        return self.linear(x.mean((2, 3)))

    def streams(self) -> list[nn.Module]:
        """The layers that write what shortcuts add. Torch-Pruning does not follow the padding of channels, and leaves
        them alone."""
        return [self.conv1, *(part.conv2 for part in self.modules() if isinstance(part, Basic))]


def own_cnn(classes: int) -> nn.Module:
    """What someone writes first: five layers."""
    widths = ((3, 32, 1), (32, 32, 2), (32, 64, 1), (64, 64, 2), (64, 128, 2))
    return Plain(nn.Sequential(*(unit(*w) for w in widths)), 128, classes)


def vgg(classes: int) -> nn.Module:
    """VGG-11 with batch norms at a quarter of its width, for 32 px."""
    layers: list[nn.Module] = []
    ins = 3
    for width in (16, "M", 32, "M", 64, 64, "M", 128, 128, "M", 128, 128):
        layers.append(nn.MaxPool2d(2) if isinstance(width, str) else unit(ins, width))
        ins = ins if isinstance(width, str) else width
    return Plain(nn.Sequential(*layers), ins, classes)


def mobile(classes: int) -> nn.Module:
    """A small MobileNetV2 for 64 px."""
    rows = ((16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 32, 2), (32, 32, 1), (32, 48, 2), (48, 48, 1))
    return Plain(
        nn.Sequential(unit(3, 16, 2), *(Inverted(*row) for row in rows), unit(48, 128, kernel=1)), 128, classes
    )


@dataclass(frozen=True)
class Task:
    """A trained network and its parts of the data, (x, y) normalised: to tune with, to choose by, to test with."""

    name: str
    module: nn.Module
    train: tuple[Tensor, Tensor]
    select: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


NETWORKS: dict[str, tuple[Callable[[int], nn.Module], int, int]] = {
    "own-cnn": (own_cnn, 3, 32),
    "resnet20": (ResNet20, 10, 32),
    "vgg": (vgg, 10, 32),
    "mobile-64": (mobile, 10, 64),
}
"""Name: what makes it, classes, pixels. ResNet-20 has the given weights."""


def task(name: str, args: Any) -> Task:
    """A network trained once (its weights are kept in `args.out`) with its data."""
    make, classes, pixels = NETWORKS[name]
    graph = zoo.load("resnet20-cifar10")
    data = load_samples(args.train, graph, args.test)
    per_class = 500 if classes == 3 else args.train_samples // classes
    parts = [_tensors(part, graph, classes, most, pixels, args.seed)
             for part, most in ((data.train, per_class), (data.test, args.test_samples // classes))]  # fmt: skip
    train, test = parts
    held = len(train[1]) // 5
    inner = (train[0][held:], train[1][held:])
    torch.manual_seed(args.seed)
    module = make(classes)
    if isinstance(module, ResNet20):
        arrays = {key: torch.from_numpy(value) for key, value in checkpoint.read_arrays(args.weights).items()}
        module.load_state_dict(arrays)
    else:
        kept = Path(args.out) / f"{name}.pt"
        if kept.is_file():
            module.load_state_dict(torch.load(kept, weights_only=True))
        else:
            tune(module, inner, args.first_epochs, seed=args.seed, lr=0.1)
            torch.save(module.state_dict(), kept)
    return Task(name, module.eval(), inner, (train[0][:held], train[1][:held]), test)


def _tensors(part: Any, graph: Any, classes: int, most: int, pixels: int, seed: int) -> tuple[Tensor, Tensor]:
    """So many pictures of each class in a random order, normalised, at a size."""
    rng = np.random.default_rng(seed)
    places = np.concatenate([rng.permutation(np.flatnonzero(part.y == c))[:most] for c in range(classes)])
    places = rng.permutation(places)
    own = graph.inputs[0].attrs
    mean, std = (np.array(own[key], np.float32).reshape(1, -1, 1, 1) for key in ("mean", "std"))
    x = torch.from_numpy((part.x[places].astype(np.float32) / 255 - mean) / std)
    if pixels != x.shape[-1]:
        x = F.interpolate(x, (pixels, pixels), mode="bilinear")
    return x, torch.from_numpy(part.y[places].astype(np.int64))


def tune(
    module: nn.Module, part: tuple[Tensor, Tensor], epochs: float, teacher: nn.Module | None = None, seed: int = 0,
    lr: float = 0.02,
) -> None:  # fmt: skip
    """The one loop of all tools: SGD, rate falling by a cosine, pictures mirrored and shifted, the teacher if any."""
    torch.manual_seed(seed)
    x, y = part
    steps = max(1, round(epochs * len(y) / 64))
    module.train().to(memory_format=torch.channels_last)
    if teacher is not None:
        teacher.to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(module.parameters(), lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    order = torch.randperm(len(y))
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * 0.5 * (1 + cos(pi * step / steps)) * min(1.0, (step + 1) / (0.05 * steps + 1))
        at = step * 64 % max(1, len(y) - 63)
        if at < 64:
            order = torch.randperm(len(y))
        own = order[at : at + 64]
        some = F.pad(x[own], (4, 4, 4, 4))
        i, j = (int(v) for v in torch.randint(0, 9, (2,)))
        some = some[:, :, i : i + x.shape[2], j : j + x.shape[3]]
        some = some.flip(3) if torch.rand(()) < 0.5 else some
        out = module(some)
        loss = F.cross_entropy(out, y[own])
        if teacher is not None:
            with torch.no_grad():
                wanted = (teacher(some) / 4).softmax(1)
            loss = 0.3 * loss + 0.7 * 16 * F.kl_div((out / 4).log_softmax(1), wanted, reduction="batchmean")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    module.eval().to(memory_format=torch.contiguous_format)


@torch.no_grad()
def right(module: nn.Module, part: tuple[Tensor, Tensor]) -> Tensor:
    """1 for each sample that is answered right, else 0."""
    module.eval()
    x, y = part
    parts = [(module(x[i : i + 256]).argmax(1) == y[i : i + 256]) for i in range(0, len(y), 256)]
    return torch.cat(parts).float()
