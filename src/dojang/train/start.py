"""A module to train: with a network's weights, or with fresh ones drawn by seed."""

from __future__ import annotations

import torch
from torch import nn

from dojang.arith.graph import Graph
from dojang.formats.torch import to_module

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


def module_of(graph: Graph, seed: int = 0) -> nn.Module:
    """The network as a trainable module.

    Without weights in the graph, convolutions and dense layers start with normal weights of variance 2 / inputs and
    zero biases (He et al., "Delving deep into rectifiers", ICCV 2015, eq. 10), the rest as PyTorch does. The same
    seed gives the same weights; the caller's random generator is left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = to_module(graph)
        if not graph.weights:
            for layer in module.modules():
                if isinstance(layer, LAYERS):
                    nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)
    return module
