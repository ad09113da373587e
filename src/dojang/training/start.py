"""A module to train: with a network's weights, or with fresh ones drawn by seed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from dojang.arith.conv import by
from dojang.arith.graph import Graph
from dojang.base.errors import GraphError
from dojang.formats.checkpoint import IGNORED, without_prefix
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


def take_arrays(module: nn.Module, arrays: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Puts arrays into the module by name; gives the names of those whose size is another.

    Only the last layer may differ. Raises `GraphError` for arrays that are missing or that the module does not have.
    """
    given = without_prefix(arrays)
    own = module.state_dict()
    missing = [n for n in own if n not in given and n.rsplit(".", 1)[-1] not in IGNORED]
    extra = [n for n in given if n not in own and n.rsplit(".", 1)[-1] not in IGNORED]
    if missing or extra:
        what = f"has no array {missing[0]}" if missing else f"has {extra[0]}, which the module does not have"
        raise GraphError(f"{where}: {what}; use weights of this module, or rename them there")
    other = [n for n in own if n in given and tuple(given[n].shape) != tuple(own[n].shape)]
    layers = {n.rpartition(".")[0] for n in other}
    last = [n.rpartition(".")[0] for n, _ in module.named_parameters()][-1]
    if other and (layers != {last} or any(given[n].shape[1:] != own[n].shape[1:] for n in other)):
        bad = next((n for n in other if n.rpartition(".")[0] != last), other[0])
        raise GraphError(f"{where}: {bad} is {by(given[bad].shape)}, the module has {by(own[bad].shape)}")
    with torch.no_grad():
        for name, value in own.items():
            if name in given and name not in other:
                value.copy_(torch.from_numpy(np.array(given[name])))
    return tuple(other)


WORTH_THREADS = 500e6
"""Multiplications of one step's forward pass from which on more than one thread pays. On 2 cores of an AVX-512 machine
(November 2026) a step of 44 million took 32 ms on two threads and 36 ms on one, and on two threads five times as long
as soon as another process ran beside it."""


THREADS_GAIN = 0.9
"""Part of the time of one thread that several may take at most. Threads wait for each other after every layer, so on a
machine that does something else as well they are slower than one: with five other processes on 2 cores a step of
ResNet-20 on 64 pictures took 3.5 s, in place of 0.15 s (AVX-512, November 2026)."""


@contextmanager
def fitting_threads(macs_per_step: float, measured: bool = False) -> Iterator[None]:
    """Within it PyTorch uses one thread for steps too small to share out; afterwards as many as before.

    `measured`: one also where several are no quicker at this moment, because other processes have the cores. Two runs
    may then train on different numbers of threads, whose sums are rounded differently: where results have to be the
    same to the bit, let PyTorch have one thread.
    """
    before = torch.get_num_threads()
    if macs_per_step < WORTH_THREADS or (measured and not several_are_quicker(probed_seconds)):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def several_are_quicker(seconds: Callable[[int], float]) -> bool:
    """Whether the threads that PyTorch has now are quicker than one. `seconds(threads)`: of some work on so many."""
    most = torch.get_num_threads()
    if most == 1:
        return False
    took = {1: 0.0, most: 0.0}
    try:
        for _ in range(4):  # in turns; sums, since it is the waiting that counts
            for threads in took:
                took[threads] += seconds(threads)
    finally:
        torch.set_num_threads(most)
    return took[most] <= THREADS_GAIN * took[1]


def probed_seconds(threads: int) -> float:
    """Of ten layers on 64 maps of 16 channels and 32 by 32 pixels, 1.5 billion multiplications: 20 ms or so."""
    torch.set_num_threads(threads)
    x = torch.ones(64, 16, 32, 32).contiguous(memory_format=torch.channels_last)
    weight = torch.full((16, 16, 3, 3), 0.01).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        nn.functional.conv2d(x, weight, padding=1)
        began = time.perf_counter()
        for _ in range(10):
            x = nn.functional.conv2d(x, weight, padding=1).relu_()
    return time.perf_counter() - began
