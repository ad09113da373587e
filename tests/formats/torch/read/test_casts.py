"""Casts, views and arithmetic of parameters, buffers and constants: read by following the forward, right in value."""

import copy

import numpy as np
import pytest

import dojang
from dojang.base.errors import UnsupportedError
from dojang.formats.torch.read import module as reader

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.c, self.p = nn.Conv2d(3, 8, 3), nn.Parameter(torch.randn(8))
        self.g = nn.Parameter(torch.randn(8, 8, 1, 1))
        self.register_buffer("b", torch.randn(8))

    def forward(self, x):
        return self.body(self.c(x))


CASES = {
    "to_dtype": lambda s, y: y * s.p.view(1, -1, 1, 1).to(y.dtype),
    "to_same": lambda s, y: y * s.p.to(torch.float32).view(1, -1, 1, 1),
    "type_as": lambda s, y: y * s.p.view(1, -1, 1, 1).type_as(y),
    "to_other": lambda s, y: y * s.p.view(1, -1, 1, 1).to(y),
    "type": lambda s, y: y * s.p.type(torch.float32).view(1, -1, 1, 1),
    "type_str": lambda s, y: y * s.p.type("torch.FloatTensor").view(1, -1, 1, 1),
    "type_y": lambda s, y: y * s.p.type(y.type()).view(1, -1, 1, 1),
    "float": lambda s, y: y * s.p.float().view(1, -1, 1, 1),
    "half": lambda s, y: y * s.p.half().float().view(1, -1, 1, 1),
    "half2": lambda s, y: y * s.p.view(1, -1, 1, 1).half().to(y.dtype),
    "bf16b": lambda s, y: y * s.b.bfloat16().view(1, -1, 1, 1).to(y.dtype),
    "double": lambda s, y: y * s.p.double().exp().float().view(1, -1, 1, 1),
    "int": lambda s, y: y * s.p.int().float().view(1, -1, 1, 1),
    "long": lambda s, y: y + s.b.long().view(1, -1, 1, 1),
    "round": lambda s, y: y * (s.p * 3).round().to(torch.int64).to(y.dtype).view(1, -1, 1, 1),
    "bool": lambda s, y: y * (s.p > 0).to(y.dtype).view(1, -1, 1, 1),
    "boolf": lambda s, y: y * (s.p > 0).float().view(1, -1, 1, 1),
    "contig": lambda s, y: y * s.p.contiguous().contiguous().view(1, -1, 1, 1).contiguous(),
    "detach": lambda s, y: y * s.p.detach().data.view(1, -1, 1, 1),
    "clone": lambda s, y: y * s.p.clone().view(1, -1, 1, 1).expand(1, 8, 1, 1).to(y.device),
    "conv_to": lambda s, y: F.conv2d(y, s.g.to(y.dtype)),
    "conv_typeas": lambda s, y: F.conv2d(y, s.g.type_as(y), s.b.to(y)),
    "conv_half": lambda s, y: F.conv2d(y, s.g.half().float()),
    "lin": lambda s, y: F.linear(y.mean((2, 3)), s.g.flatten(1).to(y.dtype), s.p.to(y.dtype)),
    "bn": lambda s, y: F.batch_norm(y, s.b.to(y.dtype), s.p.abs().to(y.dtype), s.p.to(y.dtype), s.b.to(y.dtype)),
    "arith": lambda s, y: y * ((s.p * 2 + s.b) / 3 - 1).view(1, -1, 1, 1).to(y.dtype),
    "arith2": lambda s, y: y + (torch.arange(8).to(y.dtype) * s.p).view(1, -1, 1, 1),
    "arange": lambda s, y: y + torch.arange(8).type_as(y).view(1, -1, 1, 1),
    "arange2": lambda s, y: y + torch.arange(8).to(y).view(1, -1, 1, 1),
    "new_tensor": lambda s, y: y + y.new_tensor([1.0, 2, 3, 4, 5, 6, 7, 8]).view(1, -1, 1, 1),
    "inplace": lambda s, y: y * (s.p * 2).add_(1).mul_(3).view(1, -1, 1, 1),
    "inplace_view": lambda s, y: y * (lambda w: (w.view(-1).mul_(2), w)[1])(s.p * 1).view(1, -1, 1, 1),
    "setitem": lambda s, y: y * (lambda w: (w.__setitem__(slice(0, 3), 7.0), w)[1])(s.p.clone()).view(1, -1, 1, 1),
    "view_as": lambda s, y: y * s.p.view_as(torch.zeros(1, 8, 1, 1)),
    "expand_as": lambda s, y: y * s.p.view(1, -1, 1, 1).expand_as(y),
    "repeat": lambda s, y: y * s.p.repeat(1).to(y).view(1, -1, 1, 1),
    "where": lambda s, y: y * torch.where(s.p > 0, s.p, s.b).view(1, -1, 1, 1).to(y.dtype),
    "reqgrad": lambda s, y: y * s.p.detach().requires_grad_().view(1, -1, 1, 1),
    "selfref": lambda s, y: y * s.p.view(-1).view(8).reshape(8).view(1, -1, 1, 1).to(y.dtype).to(y.dtype),
    "squeeze": lambda s, y: y * s.g.squeeze().to(y.dtype).diagonal().view(1, -1, 1, 1),
    "sub": lambda s, y: y - s.p[None, :, None, None].to(y),
    "softmax": lambda s, y: y * torch.softmax(s.p.to(y.dtype), 0).view(1, -1, 1, 1),
    "chunk": lambda s, y: y * torch.cat([v.to(y.dtype) for v in s.p.chunk(2)]).view(1, -1, 1, 1),
    "max": lambda s, y: torch.maximum(s.p.view(1, -1, 1, 1).to(y), y),
    "matmul": lambda s, y: s.g.flatten(1).to(y.dtype) @ y.flatten(2),
    "real_half": lambda s, y: s.g.flatten(1).half().to(y.dtype) @ y.flatten(2),
    "tofloat_kw": lambda s, y: y * s.p.view(1, -1, 1, 1).to(dtype=y.dtype, device=y.device, copy=True),
    "mulp": lambda s, y: (y * s.p.view(1, -1, 1, 1)).to(torch.float64).float(),
    "param_list": lambda s, y: y * torch.stack([s.p, s.b]).sum(0).to(y.dtype).view(1, -1, 1, 1),
    "setbuf": lambda s, y: (s.b.add_(1), y * s.b.view(1, -1, 1, 1))[1],
    "usethenmut": lambda s, y: (lambda a: (s.b.add_(1), a * s.b.view(1, -1, 1, 1))[1])(y * s.b.view(1, -1, 1, 1)),
    "datamask": lambda s, y: (s.p.data.mul_(s.b > 0), y * s.p.view(1, -1, 1, 1))[1],
    "div": lambda s, y: y / s.p.norm().to(y.dtype),
    "item": lambda s, y: y * float(s.p.sum()),
}


@pytest.mark.parametrize("name", CASES)
def test_read_by_following_and_right_in_value(name, monkeypatch):
    monkeypatch.setattr(reader, "_by_export", lambda m, s, w, error: pytest.fail(f"left to torch.export: {error}"))
    torch.manual_seed(0)
    m = type("M", (Base,), {"body": CASES[name]})().eval()
    x, held = torch.randn(2, 3, 6, 6), copy.deepcopy(m.state_dict())
    found = dojang.compile(dojang.load(m, input_size=(3, 6, 6)))(x.numpy())
    assert all(torch.equal(v, held[k]) for k, v in m.state_dict().items())
    with torch.no_grad():
        try:
            right = copy.deepcopy(m).double()(x.double())
        except RuntimeError:  # a cast to float32 in the middle
            right = m(x).double()
    np.testing.assert_allclose(found, right.numpy(), rtol=2e-5, atol=2e-5 * max(1.0, float(right.abs().max())))


def test_recursion_is_still_told():
    class Endless(nn.Module):
        def forward(self, x):
            return self(x)

    with pytest.raises(UnsupportedError, match="without end"):
        dojang.load(Endless(), input_size=(3, 4, 4))
