"""Slim a small U-Net by one's own loss (Dice and cross-entropy) and one's own measure (mean intersection over union).

Synthetic pictures of discs, so that it runs anywhere in some seconds: python docs/examples/slim/segmentation.py
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torch.utils.data import DataLoader, TensorDataset

import dojang


def block(ins: int, outs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(ins, outs, 3, padding=1, bias=False), nn.BatchNorm2d(outs), nn.ReLU(inplace=True))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.bottom = block(3, 16), block(16, 32)
        self.up, self.head = block(48, 16), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down(x)
        coarse = self.bottom(nn.functional.max_pool2d(fine, 2))
        return self.head(self.up(torch.cat([fine, interpolate(coarse, scale_factor=2)], 1)))


def discs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy pictures (count, 3, 24, 24) and which pixels are in a disc."""
    rng = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    middle, radius = torch.rand(count, 2, 1, 1, generator=rng) * 12 + 6, torch.rand(count, 1, 1, generator=rng) * 3 + 3
    inside = (y - middle[:, 0]) ** 2 + (x - middle[:, 1]) ** 2 < radius**2
    return inside[:, None] * 1.0 + 0.5 * torch.randn(count, 3, 24, 24, generator=rng), inside.long()


def train(module: nn.Module, loader: DataLoader, epochs: int) -> None:
    module.train()
    optimiser = torch.optim.Adam(module.parameters(), 5e-3)
    for _ in range(epochs):
        for x, y in loader:
            found = module(x)
            inside = found.softmax(1)[:, 1]
            dice = 1 - (2 * (inside * y).sum() + 1) / (inside.sum() + y.sum() + 1)
            optimiser.zero_grad()
            (cross_entropy(found, y) + dice).backward()
            optimiser.step()


@torch.no_grad()
def overlap(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Intersection over union of every picture: dojang takes their mean, and the standard error of differences."""
    found = module(x).argmax(1)
    return (found & y).sum((1, 2)) / (found | y).sum((1, 2)).clamp(min=1)


def main() -> None:
    torch.manual_seed(0)
    loader, held = DataLoader(TensorDataset(*discs(96, 0)), batch_size=16), discs(48, 1)
    module = UNet()
    train(module, loader, 4)
    result = dojang.slim(
        module,
        loader,  # labels in it are passed over: the module gets the first part of each batch
        tune=lambda net: train(net, loader, 2),
        evaluate=lambda net: overlap(net, *held),
        target_macs=0.5,
    )
    print(result)
    assert isinstance(result.module, UNet)
    print(f"IoU {result.before.accuracy:.3f} before, {result.after.accuracy:.3f} after")


if __name__ == "__main__":
    main()
