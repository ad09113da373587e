"""What a forward writes in place: through indices and views, into tensors that it made; the answers are PyTorch's."""

import numpy as np
import pytest
import torch
from torch import nn

from dojang.base.errors import DojangError
from dojang.engine.reference.operators import run_reference
from dojang.formats.torch import from_module
from dojang.formats.torch.tensors import tensors_in


class Forward(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.register_buffer("table", torch.arange(36.0).reshape(6, 6))

    def forward(self, x):
        return self.function(self, x)


def same_answers(function, size=(4, 6, 6)):
    """The graph of a function, whose answers for three images are held against PyTorch's."""
    module = Forward(function).eval()
    graph = from_module(module, size)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((3, *size), np.float32))
    with torch.no_grad():
        wanted = [v.numpy() for v in tensors_in(module(x.clone()))]
    got = run_reference(graph, x.numpy()).outputs
    assert [g.shape for g in got] == [w.shape for w in wanted]
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    return graph


def strided(m, x):
    y = x.clone()
    y[:, 0::2] = y[:, 0::2].sigmoid()
    y[:, 1::2] = (y[:, 1::2] * 2.0 + m.table[0]) * 8
    return y


def through_a_view(m, x):
    y = x * 1.5
    v = y.view(y.shape[0], -1)
    v[:, 3] = 0
    return y + 1, v


def through_parts(m, x):
    y = x + 1
    a, b = y.chunk(2, 1)
    a.mul_(2)
    b.add_(a)
    parts = y.split([1, 3], dim=1)
    parts[1].neg_()
    y.tensor_split([1], dim=1)[1].add_(2)
    y.hsplit(2)[1].mul_(3)
    y.unbind(2)[1].zero_()
    y.narrow(3, 1, 2).fill_(5.0)
    y.select(1, 3).sub_(1)
    return y, a, parts[0]


def turned(m, x):
    y = x.permute(0, 2, 3, 1) + 0
    y.transpose(1, 2)[:, 1].add_(1)
    y.movedim(3, 1).squeeze().unsqueeze(2).mul_(0.5)
    y.mT.view(*y.mT.shape)[:, :, 2:4, ::3] = -1
    return y


def views_of_views(m, x):
    y = x + 0
    inner = y[:, 1:3].transpose(2, 3)[..., 2:5]
    again = inner[:, 0]
    inner.copy_(inner * 3)
    again += 1
    y[:, 1] *= 2
    return y, inner, again


def a_mask_of_shapes_only(m, x):
    mask = x.new_zeros(6, 6)
    mask[:3] = 1
    mask[2:, ::2] = 2
    apart = mask.unsqueeze(0) - mask.unsqueeze(1)
    return x + apart[1].masked_fill(apart[1] != 0, -100.0).masked_fill(apart[1] == 0, 0.0)


def into_a_tensor_it_made(m, x):
    out = torch.zeros(x.shape[0], 4, 6, 6)
    out[:, :, 1:5, 2:4] = x[:, :, 1:5, 2:4]
    plain = torch.zeros(4, 6, 6)
    plain[1] = 1
    plain[0] = x.mean(0)[2]
    return out + plain


def any_index(m, x):
    y = x.clone()
    y[:, [0, 2]] = 0.5
    y[:, :, torch.arange(3), torch.arange(3)] = 7
    y[..., None, :1] = 2
    y[:, torch.tensor([False, True, False, True])] += 1
    two = torch.tensor([[0, 1], [2, 3]])
    return y, x[:, two], x[:, :, two, two.flip(0)], x[:, torch.tensor([True, False, True, True])]


def shapes_only(m, x):
    h, w = x.shape[-2:]
    gy, gx = torch.meshgrid(torch.arange(h).type_as(x), torch.arange(w).to(x), indexing="ij")
    place = torch.ones(h, w).cumsum(0) + torch.arange(6).float() + x.new_tensor([1.0] * 6) + x.new_full((6,), 2)
    return x * (gx + gy) + place + torch.zeros(6).type_as(x)


CASES = (strided, through_a_view, through_parts, turned, views_of_views, a_mask_of_shapes_only,
         into_a_tensor_it_made, any_index, shapes_only)  # fmt: skip


@pytest.mark.parametrize("function", CASES, ids=lambda f: f.__name__)
def test_writes_are_read_as_pytorch_computes_them(function, monkeypatch):
    monkeypatch.setattr("dojang.formats.torch.read.module.exported", None)  # by following the forward, not by export
    same_answers(function)


def test_a_write_that_may_reach_another_tensor_is_left_to_export():
    """Whether `reshape` gives a view depends on strides, which are not followed."""

    def unsure(m, x):
        y = x + 1
        z = y.reshape(y.shape[0], -1)
        y.mul_(2)
        return z

    same_answers(unsure)


def test_what_does_not_fit_is_an_error():
    def wrong(m, x):
        y = x + 1
        y[:, :2] = torch.zeros(5)
        return y

    with pytest.raises(DojangError, match="5"):
        from_module(Forward(wrong), (4, 6, 6))


def position_by_mask(m, x):
    """The sine positions of DETR: sums along the axes of a mask that is the same for every image."""
    keep = ~torch.zeros((x.shape[0], 6, 6)).to(device=x.device, dtype=torch.bool)
    down, right = keep.cumsum(1, dtype=torch.float32), keep.cumsum(2, dtype=torch.float32)
    down = down / (down[:, -1:, :] + 1e-6) * 6.28
    rate = 10000 ** (2 * torch.div(torch.arange(4, dtype=torch.float32), 2, rounding_mode="floor") / 4)
    angle = right[:, :, :, None] / rate
    wave = torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=4).flatten(3)
    hidden = x.new_zeros(x.shape[0], 6).bool()
    hidden[:, 2] = True
    if bool(hidden.any(1)[0] if False else keep[:1, 0, 0].all()) is False:
        return x
    return x + wave.permute(0, 3, 1, 2) + down[:, None], x.masked_fill(hidden[:, None, None], 0.0)


CASES_OF_SHAPES = (position_by_mask,)


@pytest.mark.parametrize("function", CASES_OF_SHAPES, ids=lambda f: f.__name__)
def test_what_depends_on_shapes_only_is_computed(function, monkeypatch):
    monkeypatch.setattr("dojang.formats.torch.read.module.exported", None)
    same_answers(function)
