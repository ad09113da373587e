"""Training a network as it computes in 8 bits: numbers are rounded on the way forward, and slopes go straight through.

`fake_quantize` nodes round values already. Here the weights that `Graph.precisions` names are rounded, too, each time
they are read: to whole numbers from −127 to 127 with a scale for each output channel, the largest weight of it / 127,
as `slimming/quantising.py` does at last. What is trained are the real numbers behind them; their slope is that of the
rounded ones (Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons", section 4; Jacob et
al. 2018, "Quantization and Training of Neural Networks", section 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dojang.arith.graph import Graph

MOST = 127
LEAST_SCALE = 1e-30
"""Of weights that are all 0."""


class RoundedWeight(nn.Module):
    """Weights (oc, …) as the whole numbers that they become, times their scale."""

    def forward(self, weight: Tensor) -> Tensor:
        """The rounded weights."""
        most = weight.detach().reshape(len(weight), -1).abs().amax(1)
        scale = torch.where(most > MOST * LEAST_SCALE, most / MOST, 1.0)
        zero = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -MOST, MOST)


@contextmanager
def rounded_weights(module: nn.Module, graph: Graph) -> Iterator[None]:
    """Within it the module reads its weights rounded, where the graph keeps them in 8 bits; afterwards it has the real
    numbers that they were trained to.
    """
    places: list[tuple[nn.Module, str]] = []
    try:
        for name, precision in graph.precisions.items():
            path, _, key = name.rpartition(".")
            if precision.kind == "int8" and precision.axis == 0:
                layer = module.get_submodule(path)
                parametrize.register_parametrization(layer, key, RoundedWeight(), unsafe=True)
                places.append((layer, key))
        yield
    finally:
        for layer, key in places:
            parametrize.remove_parametrizations(layer, key, leave_parametrized=False)
