"""Recurrent layers, look-ups, sampling by a grid, and what a forward computes from parameters, held to PyTorch."""

import itertools
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dojang.arith.cost import count
from dojang.engine.reference.operators import run_reference
from dojang.formats.torch import from_module
from dojang.formats.torch.tensors import tensors_in
from forwards import Forward


def held(module, size, x=None, near=1e-5):
    """The graph of a module; its answers for three images are the module's own."""
    module.eval()
    graph = from_module(module, size)
    x = torch.randn(3, *size, generator=torch.Generator().manual_seed(1)) if x is None else x
    with torch.no_grad():
        wanted = [v.numpy() for v in tensors_in(module(x))]
    got = run_reference(graph, x.numpy().astype("f4")).outputs
    for one, other in zip(got, wanted, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=0, atol=near)
    return graph


KINDS = ((nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1))


@pytest.mark.parametrize("seed", range(16))
def test_recurrent_layers_compute_and_cost_what_pytorchs_do(seed):
    rng = random.Random(seed)
    kind, gates = KINDS[seed % 3]
    wide, hidden, layers, steps = rng.randint(1, 6), rng.randint(1, 5), rng.randint(1, 3), rng.randint(1, 6)
    both, first, bias = (bool(rng.getrandbits(1)) for _ in range(3))
    more = {"nonlinearity": rng.choice(("tanh", "relu"))} if kind is nn.RNN else {}
    torch.manual_seed(seed)
    layer = kind(wide, hidden, layers, bias=bias, bidirectional=both, batch_first=first, **more)

    def forward(m, x):
        if first:
            return m.layer(x)
        out, last = m.layer(x.permute(1, 0, 2))
        return out.permute(1, 0, 2), last

    total = count(held(Forward(forward, layer=layer), (steps, wide))).total
    sides = 2 if both else 1
    inputs = [wide] + [sides * hidden] * (layers - 1)
    assert total.macs == steps * sides * gates * hidden * sum(i + hidden for i in inputs)
    assert total.params == sum(p.numel() for p in layer.parameters())
    assert not total.unknown


def test_states_that_the_forward_computes_go_in():
    module = Forward(
        lambda m, x: m.layer(
            x, tuple(f(m.start(x[:, 0])).reshape(-1, 2, 4).permute(1, 0, 2) for f in (torch.tanh, abs))
        ),
        layer=nn.LSTM(5, 4, 2, batch_first=True), start=nn.Linear(5, 8),
    )  # fmt: skip
    held(module, (7, 5))


@pytest.mark.parametrize("cast", [torch.Tensor.long, torch.Tensor.int, lambda x: x.to(torch.int64), lambda x: x])
def test_embeddings_are_looked_up_and_cost_nothing(cast):
    module = Forward(lambda m, x: m.layer(m.table(cast(x)))[0], table=nn.Embedding(10, 4), layer=nn.GRU(4, 3))
    if cast(torch.zeros(1)).is_floating_point():
        graph = held(module, (6,), torch.randint(0, 10, (3, 6)))
    else:
        graph = held(module, (6,), torch.rand(3, 6) * 9.99)
    total = count(graph).total
    assert total.macs == 6 * 3 * 3 * (4 + 3)
    assert total.params == sum(p.numel() for p in module.parameters())


def test_whole_numbers_beside_real_ones_become_real():
    held(Forward(lambda m, x: x.int() * 0.5 + x.bool() * x), (4, 5), 5 * torch.randn(3, 4, 5))
    held(Forward(lambda m, x: x.long().float() / 3), (4, 5), 5 * torch.randn(3, 4, 5))


@pytest.mark.parametrize(
    ("corners", "border", "mode"),
    list(itertools.product((True, False), ("zeros", "border", "reflection"), ("bilinear", "nearest", "bicubic"))),
)
def test_sampling_by_a_moved_grid(corners, border, mode):
    def forward(m, x):
        grid = F.affine_grid(m.move(x.flatten(1)).view(-1, 2, 3), x.size(), align_corners=corners)
        return F.grid_sample(x, grid, mode=mode, padding_mode=border, align_corners=corners)

    torch.manual_seed(3)
    total = count(held(Forward(forward, move=nn.Linear(90, 6)), (3, 5, 6), near=2e-5)).total
    assert (total.macs, total.unknown) == (90 * 6 + 5 * 6 * 2 * 3, ())


def test_sampling_where_the_batch_is_part_of_an_axis():
    def forward(m, x):
        apart = x.reshape(-1, 1, 4, 5)
        grid = torch.tanh(m.move(apart.flatten(1))).view(-1, 2, 2, 2)
        return F.grid_sample(apart, grid, align_corners=True).reshape(-1, 3, 2, 2)

    held(Forward(forward, move=nn.Linear(20, 8)), (3, 4, 5))


class Bias(nn.Module):
    """A table that a small network makes of coordinates, used several times."""

    def __init__(self, inplace, uses):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 16), nn.ReLU(inplace=inplace), nn.Linear(16, 4, bias=False))
        self.register_buffer("coordinates", torch.randn(9, 2))
        self.uses = uses

    def forward(self, x):
        table = torch.sigmoid(self.net(self.coordinates)).mul_(16).t().reshape(4, 3, 3)
        for _ in range(self.uses):
            x = x + table
        return x


@pytest.mark.parametrize(("inplace", "uses"), list(itertools.product((True, False), (1, 2))))
def test_products_of_parameters_are_counted_once_however_they_are_written(inplace, uses):
    module = Bias(inplace, uses)
    graph = held(module, (4, 3, 3))
    with FlopCounterMode(display=False) as flops:
        module(torch.zeros(1, 4, 3, 3))
    assert count(graph).total.macs == flops.get_total_flops() // 2 == 9 * (2 * 16 + 16 * 4)
    assert count(graph).total.params == sum(p.numel() for p in module.parameters())


class Views(nn.Module):
    """Numbers computed from a parameter, changed through a view of them, read through both."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))

    def forward(self, x):
        double = self.weight * 2
        row = double[1]
        before = x + double.sum(0)
        row.clamp_(0, 0.5)
        double.relu_()
        return before, x + double.sum(0), x + row, x * (double + 1)[0]


def test_writes_through_views_of_computed_parameters():
    held(Views(), (3,))


@pytest.mark.parametrize("prefix", [0, 2])
def test_an_empty_slice_joins_nothing(prefix):
    def forward(m, x):
        return torch.cat((x[:, :prefix], m.layer(x[:, prefix:]) * 2, x[:, 5:5]), 1)

    held(Forward(forward, layer=nn.Linear(4, 4)), (5, 4))
