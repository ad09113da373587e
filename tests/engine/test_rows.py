"""Values in rows: random forwards over tokens and channels-last pictures, sums of products, narrow transposed layers.

The oracle is PyTorch in float64.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from dojang.engine.compiled import compile
from dojang.formats.torch import from_module


def held(module: nn.Module, *sizes: tuple[int, ...], near: float = 1e-5) -> list[str]:
    """Which kernels computed a module, whose answers for two images are PyTorch's own; none of them in Python."""
    make = torch.Generator().manual_seed(0)
    network = compile(from_module(module.eval(), sizes if len(sizes) > 1 else sizes[0]), threads=1)
    given = [torch.randn(2, *size, generator=make) for size in sizes]
    with torch.no_grad():
        right = module.double()(*[x.double() for x in given])
    inputs = {node.name: x.numpy() for node, x in zip(network.graph.inputs, given, strict=True)}
    found = network.run(inputs).outputs
    right = list(right) if isinstance(right, tuple) else [right]
    assert len(found) == len(right)
    for one, other in zip(found, right, strict=True):
        assert one.shape == tuple(other.shape)
        scale = max(1.0, float(other.abs().max()))
        np.testing.assert_allclose(one, other.numpy(), rtol=0, atol=near * scale)
    plan = network.plan(batch=2)
    assert plan.in_python == ()
    return [choice.algorithm for choice in plan.choices]


class Tokens(nn.Module):
    """A forward drawn from a seed, from what networks over tokens and channels-last pictures are made of."""

    def __init__(self, seed: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        rng = random.Random(seed)
        torch.manual_seed(seed)
        self.parts = nn.ParameterList()
        self.layers = nn.ModuleList()
        self.steps: list = []
        x = torch.zeros(2, *shape)
        for _ in range(9):
            step = self.drawn(rng, x)
            new = step(x)
            if new.dim() < 3 or new.numel() > 20000:
                continue
            self.steps.append(step)
            x = new

    def drawn(self, rng: random.Random, x: torch.Tensor):
        """One step, for a value of this shape."""
        rank, last = x.dim(), x.shape[-1]
        axis = rng.randrange(1, rank)
        kind = rng.choice(
            ("linear", "linear", "norm", "permute", "permute", "split", "merge", "slice", "bias", "gate", "softmax",
             "product", "cat", "mean", "roll", "act", "residual", "take", "pad")
        )  # fmt: skip
        if kind in ("linear", "norm"):
            out = rng.choice((1, 3, 8, 16, 33))
            layer = nn.Linear(last, out, bias=rng.random() < 0.8) if kind == "linear" else nn.LayerNorm(last)
            for p in layer.parameters():
                nn.init.normal_(p, std=0.5)
            self.layers.append(layer)
            return layer
        if kind == "permute":
            order = (0, *rng.sample(range(1, rank), rank - 1))
            return lambda x: x.permute(order)
        if kind == "split":
            parts = next((d for d in (2, 3, 5) if x.shape[axis] % d == 0), 1)
            shape = (*x.shape[1:axis], parts, x.shape[axis] // parts, *x.shape[axis + 1 :])
            return (lambda x: x.reshape(-1, *shape)) if rank < 6 else lambda x: x
        if kind == "merge":
            if rank < 4:
                return lambda x: x
            axis = rng.randrange(1, rank - 1)
            return lambda x: x.flatten(axis, axis + 1)
        if kind in ("slice", "take"):
            size = x.shape[axis]
            start = rng.randrange(size)
            stop = rng.randrange(start, size) + 1
            picks = [rng.randrange(size) for _ in range(rng.randint(1, 4))]
            if kind == "take":
                return lambda x: x.index_select(axis, torch.tensor(picks))
            step = rng.choice((1, 1, 2))
            return lambda x: x[(slice(None),) * axis + (slice(start, stop, step),)]
        if kind in ("bias", "gate"):
            shape = [s if rng.random() < 0.6 else 1 for s in x.shape[1:]]
            self.parts.append(nn.Parameter(torch.randn(shape[rng.randrange(rank - 1) :])))
            index = len(self.parts) - 1
            return lambda x: x + self.parts[index] if kind == "bias" else x * self.parts[index]
        if kind == "softmax":
            return lambda x: torch.softmax(x, rng_axis) if (rng_axis := axis) else x
        if kind == "product":
            return lambda x: x @ x.transpose(-1, -2) * 0.1 if rank > 2 else x
        if kind == "cat":
            self.parts.append(nn.Parameter(torch.randn(1, *[1 if a == axis else s for a, s in enumerate(x.shape)][1:])))
            index = len(self.parts) - 1
            return lambda x: torch.cat((self.parts[index].expand(x.shape[0], *self.parts[index].shape[1:]), x, x), axis)
        if kind == "pad":
            pads = [rng.choice((0, 0, 1, 2)) for _ in range(2 * rng.randrange(1, rank))]
            return lambda x: nn.functional.pad(x, pads, value=0.5)
        if kind == "mean":
            return lambda x: x - x.mean(axis, keepdim=True)
        if kind == "roll":
            return lambda x: torch.roll(x, 1, axis)
        if kind == "residual":
            return lambda x: x + torch.tanh(x)
        return rng.choice((nn.functional.gelu, torch.relu, torch.sigmoid))

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return x


SHAPES = ((7, 12), (6, 4, 20), (3, 4, 5, 8), (17, 16))


@pytest.mark.parametrize("seed", range(12))
def test_random_forwards_over_tokens(seed):
    held(Tokens(seed, SHAPES[seed % 4]), SHAPES[seed % 4])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12, 120))
def test_more_random_forwards_over_tokens(seed):
    held(Tokens(seed, SHAPES[seed % 4]), SHAPES[seed % 4])


class Block(nn.Module):
    """A ConvNeXt block: channels first, last, and first again."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.LayerNorm(8)
        self.wide, self.back, self.scale = nn.Linear(8, 32), nn.Linear(32, 8), nn.Parameter(torch.randn(8))

    def forward(self, x):
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        y = self.scale * self.back(nn.functional.gelu(self.wide(y)))
        return x + y.permute(0, 3, 1, 2)


def test_turning_channels_to_the_end_and_back_moves_nothing():
    used = held(nn.Sequential(Block(), Block(), nn.Conv2d(8, 4, 1)), (8, 9, 10))
    assert "strided" not in used[: used.index("norm")]
    assert "matmul" not in used
    assert used.count("layout") == 2  # the picture when it comes, the answer when it goes


class Sum(nn.Module):
    """An einsum of two inputs, or of one and a parameter."""

    def __init__(self, equation, weight=None):
        super().__init__()
        self.equation, self.weight = equation, None if weight is None else nn.Parameter(weight)

    def forward(self, x, *y):
        return torch.einsum(self.equation, x, self.weight if self.weight is not None else y[0])


@pytest.mark.parametrize("seed", range(12))
def test_sums_of_products_are_products_of_matrices(seed):
    rng = random.Random(seed)
    sizes = {c: rng.randint(1, 5) for c in "abcd"}
    where = {c: rng.choice(("both", "sum", "left", "right")) for c in "abcd"[: rng.randint(2, 4)]} | {"a": "both"}
    left, right, out = ([c for c, w in where.items() if w in kinds] for kinds in (
        ("both", "sum", "left"), ("both", "sum", "right"), ("both", "left", "right")))  # fmt: skip
    for some in (left, right, out):
        rng.shuffle(some)
    fixed = rng.random() < 0.5
    equation = f"n{''.join(left)},{'' if fixed else 'n'}{''.join(right)}->n{''.join(out)}"
    sides = [tuple(sizes[c] for c in some) for some in (left, right)]
    if fixed:
        held(Sum(equation, torch.randn(sides[1])), sides[0])
    else:
        held(Sum(equation), *sides)


@pytest.mark.parametrize("seed", range(14))
def test_transposed_convolutions_to_few_channels(seed):
    rng = random.Random(seed)
    while True:
        kernel, stride = ((rng.randint(1, 9), rng.randint(1, 9)), (rng.randint(1, 4), rng.randint(1, 4)))
        padding = tuple(rng.randrange(k) for k in kernel)
        more = tuple(rng.randrange(s) for s in stride)
        size = (rng.randint(1, 5), rng.randint(1, 7), rng.randint(1, 7))
        ends = [
            (i - 1) * s - 2 * p + k + m for i, s, p, k, m in zip(size[1:], stride, padding, kernel, more, strict=True)
        ]
        if min(ends) > 0:
            break
    layer = nn.ConvTranspose2d(size[0], rng.randint(1, 7), kernel, stride, padding, more, bias=bool(seed % 2))
    held(nn.Sequential(layer, nn.ReLU()), size)


def test_upsampling_to_an_image_fills_vectors():
    network = compile(from_module(nn.ConvTranspose2d(16, 1, 9, 2, 4, 1), (16, 12, 12)), threads=1)
    assert [c.op for c in network.plan(1).choices if c.macs] == ["conv"]
