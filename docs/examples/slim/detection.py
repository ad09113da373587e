"""Slim a detector of the kind of YOLOv8: blocks that halve their channels, three outputs, a head that is left alone.

Synthetic pictures with one bright square: python docs/examples/slim/detection.py
With ultralytics it is the same call on `YOLO("yolov8n.yaml").model`, with its own trainer in `tune` and `val()` in
`evaluate`; see docs/slim.md.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss

import dojang


class Conv(nn.Sequential):
    def __init__(self, ins: int, outs: int, size: int = 3, stride: int = 1) -> None:
        layer = nn.Conv2d(ins, outs, size, stride, size // 2, bias=False)
        super().__init__(layer, nn.BatchNorm2d(outs), nn.SiLU(inplace=True))


class C2f(nn.Module):
    """Halves go their own ways and are joined; the code halves whatever number of channels there is."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.first, self.inner, self.last = Conv(channels, channels, 1), Conv(half, half), Conv(3 * half, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).chunk(2, 1))
        parts.append(parts[-1] + self.inner(parts[-1]))
        return self.last(torch.cat(parts, 1))


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(Conv(1, 16, stride=2), Conv(16, 32, stride=2), C2f(32))
        self.detect = nn.ModuleDict({"there": nn.Conv2d(32, 1, 1), "place": nn.Conv2d(32, 2, 1)})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.body(x)
        return {name: layer(y) for name, layer in self.detect.items()}


def squares(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures (count, 1, 32, 32) with a bright 4x4 square, and where its corner is."""
    rng = torch.Generator().manual_seed(seed)
    place = torch.randint(0, 28, (count, 2), generator=rng)
    x = 0.3 * torch.randn(count, 1, 32, 32, generator=rng)
    for picture, (row, column) in zip(x, place.tolist(), strict=True):
        picture[:, row : row + 4, column : column + 4] += 2
    return x, place


def train(module: nn.Module, x: Tensor, place: Tensor, epochs: int) -> None:
    module.train()
    optimiser = torch.optim.Adam(module.parameters(), 5e-3)
    cell, within = place // 4, place % 4 / 4
    for epoch in range(epochs):
        for part in torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).split(16):
            found = module(x[part])
            wanted = torch.zeros(len(part), 8, 8)
            rows, columns, own = cell[part, 0], cell[part, 1], torch.arange(len(part))
            wanted[own, rows, columns] = 1
            loss = binary_cross_entropy_with_logits(found["there"][:, 0], wanted, pos_weight=torch.tensor(20.0))
            loss = loss + l1_loss(found["place"][own, :, rows, columns], within[part])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


@torch.no_grad()
def found_right(module: nn.Module, x: Tensor, place: Tensor) -> Tensor:
    """1 for every picture whose likeliest cell is that of the square."""
    best = module(x)["there"][:, 0].flatten(1).argmax(1)
    return (best == place[:, 0] // 4 * 8 + place[:, 1] // 4).float()


def main() -> None:
    torch.manual_seed(0)
    data, held = squares(128, 0), squares(64, 1)
    module = Detector()
    train(module, *data, epochs=6)
    result = dojang.slim(
        module,
        data[0],
        tune=lambda net: train(net, *data, epochs=3),
        evaluate=lambda net: found_right(net, *held),
        target_macs=0.6,
        keep=("detect.*",),
    )
    print(result)
    assert isinstance(result.module, Detector)
    assert result.module.detect["there"].in_channels == 32  # left alone, and with it what it reads


if __name__ == "__main__":
    main()
