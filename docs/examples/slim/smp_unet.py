"""Slim a U-Net of segmentation-models-pytorch with its own loss and its own measure.

Synthetic pictures of discs, under a minute; needs `pip install segmentation-models-pytorch`:
python docs/examples/slim/smp_unet.py
"""

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import dojang

LOSS = smp.losses.DiceLoss("binary")


def discs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy pictures (count, 3, 64, 64) and which pixels are in a disc, (count, 1, 64, 64)."""
    rng = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    middle, radius = torch.rand(count, 2, 1, 1, generator=rng) * 32 + 16, torch.rand(count, 1, 1, generator=rng) * 8 + 8
    inside = ((y - middle[:, 0]) ** 2 + (x - middle[:, 1]) ** 2 < radius**2)[:, None]
    return inside * 1.0 + 0.5 * torch.randn(count, 3, 64, 64, generator=rng), inside.long()


def train(module: nn.Module, loader: DataLoader, epochs: int) -> None:
    module.train()
    optimiser = torch.optim.Adam(module.parameters(), 1e-3)
    for _ in range(epochs):
        for x, y in loader:
            optimiser.zero_grad()
            LOSS(module(x), y).backward()
            optimiser.step()


@torch.no_grad()
def overlap(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Intersection over union of every picture."""
    counts = smp.metrics.get_stats((module(x) > 0).long(), y, mode="binary")
    return smp.metrics.iou_score(*counts, reduction=None).flatten()


def main() -> None:
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(*discs(64, 0)), batch_size=16)
    held = discs(32, 1)
    module = smp.Unet("resnet18", encoder_weights=None, decoder_channels=(64, 32, 16, 16, 8))
    train(module, loader, epochs=4)
    result = dojang.slim(
        module.eval(),
        loader,
        tune=lambda net: train(net, loader, epochs=1),
        evaluate=lambda net: overlap(net, *held),
        target_macs=0.6,
    )
    print(result)
    assert isinstance(result.module, smp.Unet)
    assert result.after.macs <= 0.6 * result.before.macs


if __name__ == "__main__":
    main()
