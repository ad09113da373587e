"""Functions that are read as what they are made of, each against PyTorch itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from dojang.arith.cost import count
from dojang.engine.compiled import compile
from dojang.engine.reference.operators import run_reference
from dojang.formats.torch import from_module

FUNCTIONS = {
    "places": """
        torch.rot90(y, 1, (2, 3)); torch.rot90(y, 2, (1, 2)); torch.rot90(y, -1, (2, 3)); y.fliplr()
        y.index_add(2, torch.tensor([3, 1]), y[:, :, :2], alpha=.5); y.index_copy(1, torch.tensor([3, 1]), y[:, :2] * 2)
        y.index_fill(1, torch.tensor([3, 1]), 7.); torch.bucketize(y, torch.linspace(-1, 1, 5))
        torch.bucketize(y, torch.linspace(-1, 1, 5), right=True); torch.searchsorted(torch.linspace(-1, 1, 5), y)
        torch.bucketize(y.log(), torch.linspace(-1, 1, 5)); torch.bucketize(y.log(), torch.ones(2), right=True)
        torch.diagonal(y, dim1=2, dim2=3); torch.diagonal(y, 1, 2, 3); torch.diag_embed(y[..., 0])
        torch.diag_embed(y[..., 0], -1); torch.hsplit(y, 2)[0]; torch.dsplit(y, 2)[1]; torch.hstack([y, y])
        torch.dstack([y, y]); torch.atleast_3d(y[..., 0, 0]); torch.broadcast_tensors(y, torch.ones(1, 1, 6, 1))[1] * y
    """,
    "order": """
        y.median(1).values; y.median(2, keepdim=True)[0]; y.kthvalue(2, dim=1)[1]; y.cummax(2).values
        y.cummax(2).indices; y.cummin(3)[0]; torch.logcumsumexp(y, 2); torch.diff(y, n=2, dim=2)
        torch.quantile(y, .3, dim=1); torch.quantile(y, torch.tensor([.25, .75]), dim=2); torch.gradient(y, dim=3)[0]
        torch.trapezoid(y, dim=3); torch.aminmax(y, dim=1)[0]; torch.count_nonzero(y > 0, dim=1); torch.nansum(y, 1)
        torch.nanmean(torch.where(y > 0, y.log(), y.log()), 1)
    """,
    "elements": """
        torch.logaddexp(y, y * 2); torch.heaviside(y, torch.tensor(.5)); torch.copysign(y, -y); torch.sinc(y)
        torch.xlogy(y, y.abs() + 1); torch.expm1(y * 1e-3); torch.deg2rad(y); torch.sgn(y); torch.signbit(y)
        torch.isclose(y, y + 1e-9); torch.clip(y, torch.tensor(-.5), y.abs()); y.round(decimals=1)
        torch.div(y, .3, rounding_mode="trunc"); F.softplus(y, 2, 3); F.softmin(y, 1); torch.special.entr(y.abs())
        (y * 10).int() & 7; (y * 10).int() | 3; (y * 10).long() ^ 5; (y * 10).int() >> 1; (y * 10).int() << 2
        ~(y * 10).int(); (y > 0) | 2; (y > 0) & (y * 10).int(); (y * 10).int() & (y * 20).long(); (y > 0) ^ True
    """,
    "products": """
        torch.baddbmm(y[:, 0], y[:, 1], y[:, 2], beta=.5, alpha=2)
        torch.addmm(torch.ones(5), y[:, :, 0, 0], torch.ones(8, 5), alpha=.5)
        torch.tensordot(y, torch.ones(8, 3), dims=([1], [0])); torch.inner(y, torch.ones(4, 6))
        torch.cross(y[:, :3], y[:, 3:6], dim=1); torch.linalg.cross(y[:, :3, :, :3], y[:, 3:6, :, 3:])
        F.bilinear(y[..., 0, 0], y[..., 1, 1], torch.ones(3, 8, 8))
        torch.linalg.vector_norm(y, 1, dim=(2, 3)); torch.linalg.norm(y, dim=1); torch.linalg.matrix_norm(y)
        torch.linalg.norm(y, 1, dim=(2, 3)); torch.linalg.norm(y, float("inf"), dim=(3, 1))
        torch.norm(y, 1, dim=(2, 3))
        torch.linalg.matrix_norm(y, 1); F.normalize(y, 1, 1); y.renorm(2, 0, 1.)
        F.lp_pool2d(y, 3., (2, 3), ceil_mode=True)
        F.lp_pool1d(y[..., 0].abs(), 2, 4)
    """,
}


class Answers(nn.Module):
    """What some expressions of y give."""

    def __init__(self, text: str) -> None:
        super().__init__()
        lines = [part.strip() for part in text.replace("\n", ";").split(";")]
        self.said = [line for line in lines if line]
        self.calls = [eval(f"lambda y: {line}", {"torch": torch, "F": functional}) for line in self.said]

    def forward(self, y: torch.Tensor) -> list[torch.Tensor]:
        return [call(y) for call in self.calls]


@pytest.mark.parametrize("group", FUNCTIONS)
def test_functions_made_of_others_are_those_of_pytorch(group: str) -> None:
    module = Answers(FUNCTIONS[group])
    y = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    graph = from_module(module, (8, 6, 6))
    assert count(graph).total.status == "exact"
    for said, found, right in zip(module.said, run_reference(graph, y.numpy()).outputs, module(y), strict=True):
        assert found.shape == tuple(right.shape), said
        np.testing.assert_allclose(found, right.numpy(), rtol=2e-5, atol=2e-6, err_msg=said)


class Cells(nn.Module):
    """Recurrent cells in a loop over the columns, and a bag of embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.rnn = nn.LSTMCell(8, 5), nn.GRUCell(8, 5), nn.RNNCell(8, 5, nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = c = g = r = x.new_zeros(x.shape[0], 5)
        for column in x.permute(2, 0, 1):
            h, c = self.lstm(column, (h, c))
            g, r = self.gru(column, g), self.rnn(column, r)
        return torch.cat((h, c, g, r), 1)


def test_recurrent_cells_in_a_loop_count_and_run() -> None:
    module = Cells().eval()
    graph = from_module(module, (8, 3))
    total = count(graph)
    assert total.total.status == "exact"
    assert total.total.macs == 3 * (8 + 5) * 5 * (4 + 3 + 1)
    assert total.params == sum(p.numel() for p in module.parameters())
    x = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        right = module(x).numpy()
    np.testing.assert_allclose(compile(graph, threads=1).run(x.numpy()).outputs[0], right, rtol=1e-5, atol=1e-6)


class Written(nn.Module):
    """Values below 0, and a diagonal, are written over."""

    def __init__(self, diagonal: bool) -> None:
        super().__init__()
        self.diagonal = diagonal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        if self.diagonal:
            y.diagonal(dim1=2, dim2=3).fill_(0.5)
        y[y < 0] = 0.25
        return y


@pytest.mark.parametrize("diagonal", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_is_written_by_a_mask_or_into_a_diagonal_shows(diagonal: bool) -> None:
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    graph = from_module(Written(diagonal), (3, 4, 4))
    np.testing.assert_array_equal(run_reference(graph, x.numpy()).outputs[0], Written(diagonal)(x).numpy())


def test_a_sum_of_three_inputs_counts_as_pytorch_takes_it() -> None:
    """Two at a time from the left: 2 · 6 · 6 · 8 products of n, m and c, and again with d."""

    class Three(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.einsum("bcn,bcm,bdm->bdn", x, x, x)

    graph = from_module(Three(), (8, 6))
    assert count(graph).total.macs == 2 * 6 * 6 * 8
    x = torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(run_reference(graph, x.numpy()).outputs[0], Three()(x).numpy(), rtol=1e-5, atol=1e-5)


def test_infinity_and_nan_come_through_functions_made_of_others_as_in_pytorch() -> None:
    module = Answers("torch.logsumexp(y, 1); torch.logsumexp(y, 1, keepdim=True); torch.quantile(y, .3, dim=1)")
    y = torch.tensor([[float("inf"), 0, 3], [-float("inf")] * 3, [1, -float("inf"), 2], [float("nan"), 1, -2]])
    found = run_reference(from_module(module, (3,)), y.numpy()).outputs
    for said, one, right in zip(module.said, found, module(y), strict=True):
        np.testing.assert_allclose(one, right.numpy(), rtol=1e-6, err_msg=said)
