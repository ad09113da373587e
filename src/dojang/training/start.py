"""A module to train: with a network's weights, or with fresh ones drawn by seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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


WORTH_THREADS = 500e6
"""Multiplications of one step's forward pass from which on more than one thread pays. On 2 cores of an AVX-512 machine
(November 2026) a step of 44 million took 32 ms on two threads and 36 ms on one, and on two threads five times as long
as soon as another process ran beside it."""


@contextmanager
def fitting_threads(macs_per_step: float) -> Iterator[None]:
    """Within it PyTorch uses one thread for steps too small to share out; afterwards as many as before."""
    before = torch.get_num_threads()
    if macs_per_step < WORTH_THREADS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
