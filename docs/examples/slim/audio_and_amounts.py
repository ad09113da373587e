"""Slim networks for sound (1-d, two inputs), for amounts (regression) and for several labels to a sample.

The loop and the measure are one's own, so the task makes no difference: python docs/examples/slim/audio_and_amounts.py
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

import dojang

Loss = Callable[[Tensor, Tensor], Tensor]


class Sound(nn.Module):
    """A waveform and a row of facts about the recording go in; layers are weight-normed, as is usual for sound."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.body = nn.Sequential(
            norm(nn.Conv1d(1, 24, 9, 4, 4)), nn.ReLU(), norm(nn.Conv1d(24, 24, 9, 4, 4)), nn.ReLU()
        )
        self.facts, self.head = nn.Linear(3, 24), nn.Linear(24, outputs)

    def forward(self, wave: Tensor, facts: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(wave).mean(2) + self.facts(facts)))


def tones(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Waves (count, 1, 256), facts (count, 3), which of three tones are in each (whole numbers 0 and 1), loudness."""
    rng = torch.Generator().manual_seed(seed)
    there = torch.randint(0, 2, (count, 3), generator=rng)
    loud = torch.rand(count, 1, generator=rng) + 0.5
    steps = torch.arange(256) * torch.tensor([[0.1], [0.4], [1.1]])
    wave = loud * (there.float() @ steps.sin()) + 0.2 * torch.randn(count, 256, generator=rng)
    return wave[:, None], torch.randn(count, 3, generator=rng), there, loud


def train(module: nn.Module, wave: Tensor, facts: Tensor, wanted: Tensor, loss: Loss, epochs: int) -> None:
    module.train()
    optimiser = torch.optim.Adam(module.parameters(), 5e-3)
    for epoch in range(epochs):
        for part in torch.randperm(len(wave), generator=torch.Generator().manual_seed(epoch)).split(32):
            optimiser.zero_grad()
            loss(module(wave[part], facts[part]), wanted[part].float()).backward()
            optimiser.step()


def slimmed(outputs: int, which: int, loss: Loss, good: Loss) -> None:
    """Trains a network on one of the targets, slims it, and prints what came of it."""
    torch.manual_seed(0)
    data, held = tones(160, 0), tones(80, 1)
    module = Sound(outputs)
    train(module, data[0], data[1], data[which], loss, 8)

    @torch.no_grad()
    def evaluate(net: nn.Module) -> Tensor:
        return good(net(held[0], held[1]), held[which].float())

    result = dojang.slim(
        module,
        {"wave": data[0], "facts": data[1]},  # by the names of the forward's arguments
        tune=lambda net: train(net, data[0], data[1], data[which], loss, 3),
        evaluate=evaluate,
        target_macs=0.5,
    )
    print(result)
    assert isinstance(result.module, Sound)
    assert "body.0.parametrizations.weight.original0" in result.module.state_dict()


def main() -> None:
    slimmed(3, 2, binary_cross_entropy_with_logits, lambda found, wanted: ((found > 0) == (wanted > 0)).float().mean(1))
    slimmed(1, 3, mse_loss, lambda found, wanted: -(found - wanted).square()[:, 0])


if __name__ == "__main__":
    main()
