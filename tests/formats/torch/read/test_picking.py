"""Functions of PyTorch that compare, choose, sort, look up and write: what is read gives PyTorch's own numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from dojang import load  # noqa: E402
from dojang.engine.compiled import compile as compiled  # noqa: E402

TABLE = torch.randn(11, 4, generator=torch.Generator().manual_seed(1))


class Behind(nn.Module):
    """A function behind a convolution."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 8, 3, padding=1), function

    def forward(self, x: Any) -> Any:
        return self.function(self.conv(x))


def detector(x: Any) -> Any:
    """The best places of each image, taken by the numbers of image and place."""
    many, pixels = x.shape[0], x.flatten(2).permute(0, 2, 1)
    best = torch.topk(pixels.max(-1).values, 4, dim=1).indices.view(-1)
    image = torch.arange(end=many, dtype=best.dtype).unsqueeze(-1).repeat(1, 4).view(-1)
    return pixels[image, best].view(many, 4, -1)


def unpooled(x: Any) -> Any:
    """Back to where the largest were."""
    values, places = F.max_pool2d(x, 2, 2, return_indices=True)
    return F.max_unpool2d(values, places, 2, 2), places


def peaks(x: Any) -> Any:
    """Rows and columns of the largest."""
    values, places = x.flatten(2).topk(5, -1)
    return values, places // 8, places % 8, places.float()


NATIVE = {
    "topk": lambda x: tuple(x.topk(3, 1)),
    "smallest": lambda x: tuple(torch.topk(x, 2, dim=-1, largest=False)),
    "sort": lambda x: tuple(torch.sort(x, dim=2, descending=True)),
    "argsort": lambda x: x.argsort(-1),
    "argmax": lambda x: x.argmax(1),
    "argmin": lambda x: torch.argmin(x, 2, keepdim=True),
    "classes": lambda x: x.flatten(1).argmax(1),
    "max": lambda x: tuple(x.max(1)),
    "min": lambda x: tuple(x.min(dim=3, keepdim=True)),
    "gather": lambda x: torch.gather(x, 1, x.argsort(1)),
    "take_along_dim": lambda x: torch.take_along_dim(x, x.argmax(1, keepdim=True), dim=1),
    "scatter": lambda x: torch.zeros_like(x).scatter(1, x.argmax(1, keepdim=True), 1.0),
    "scatter_": lambda x: torch.zeros_like(x).scatter_(1, x.topk(2, 1).indices, x.topk(2, 1).values),
    "scatter_add": lambda x: x.scatter_add(1, (x[:, :2] > 0).long(), x[:, :2]),
    "scatter_reduce": lambda x: x.scatter_reduce(1, (x[:, :2] > 0).long(), x[:, :2], "amax"),
    "cumsum": lambda x: (x.cumsum(1), torch.cumsum(x, -1)),
    "cumprod": lambda x: torch.cumprod(x, 2),
    "equal": lambda x: x.round() == 0,
    "compare": lambda x: ((x > 0) & (x < 1)) | ~(x <= 0.5),
    "different": lambda x: (x.round() != 1).float(),
    "logical": lambda x: (torch.logical_and(x > 0, x.abs() > 0.5), torch.logical_xor(x > 0, x > 1)),
    "centres": lambda x: x * (F.max_pool2d(x, 3, 1, 1) == x).float(),
    "where": lambda x: (torch.where(x > 0, x, x * 0.1), torch.where(x > 0, 1.0, 0.0)),
    "masked_fill": lambda x: x.masked_fill(x < 0, float("-inf")).softmax(1),
    "addcmul": lambda x: torch.addcmul(x, x.sigmoid(), x, value=0.5),
    "addcdiv": lambda x: torch.addcdiv(x, x, x.exp() + 1),
    "lerp": lambda x: torch.lerp(x, x.exp(), 0.3),
    "unpool": unpooled,
    "detector": detector,
    "peaks": peaks,
    "one_hot": lambda x: F.one_hot(x.argmax(1), 8).permute(0, 3, 1, 2).float(),
    "embedding": lambda x: (F.embedding(x.argmax(1), TABLE), TABLE[x.argmax(1)]),
    "index_select": lambda x: torch.index_select(TABLE, 0, x.mean((0, 1, 2)).topk(3).indices),
    "any and all": lambda x: ((x > 1).any(1), (x > -1).all(dim=1, keepdim=True)),
    "triangles": lambda x: (x.tril(), torch.triu(x, 1)),
    "nan_to_num": lambda x: torch.nan_to_num(torch.log(x)),
    "shrink": lambda x: (F.threshold(x, 0.1, 2.0), F.hardshrink(x), F.softshrink(x, 0.2)),
    "powers": lambda x: (torch.log2(x.exp() + 1), torch.exp2(x), torch.log10(x.abs() + 1), (x * 3).trunc()),
    "distances": lambda x: (F.cosine_similarity(x[:, :4], x[:, 4:], 1), torch.cdist(x[:, 0], x[:, 1])),
    "lengths": lambda x: (x.flatten(1).sum(1), x.flatten(1).norm(dim=1)),
    "var_mean": lambda x: tuple(torch.var_mean(x, 1, keepdim=True)),
    "einsum": lambda x: torch.einsum("bchw,bcw->bchw", x[:, :1], x.mean(2)),
    "finite": lambda x: torch.isfinite(torch.log(x)),
}
BY_NUMPY = {
    "remainder": lambda x: (torch.remainder(x, 0.7), torch.fmod(x, -0.7)),
    "angles": lambda x: (torch.atan2(x[:, :4], x[:, 4:]), torch.asin(x.tanh()), torch.sinh(x)),
    "prod": lambda x: x.prod(1),
}


@pytest.mark.parametrize("name", [*NATIVE, *BY_NUMPY])
def test_as_pytorch_computes_it(name: str) -> None:
    torch.manual_seed(0)
    module = Behind({**NATIVE, **BY_NUMPY}[name]).eval()
    net = load(module, input_size=(3, 6, 8))
    run = compiled(net)
    for images in (2, 1):
        x = torch.randn(images, 3, 6, 8)
        with torch.no_grad():
            wanted = module(x)
        given = run.run(x.numpy()).outputs
        for want, got in zip(wanted if isinstance(wanted, tuple) else (wanted,), given, strict=True):
            assert got.shape == tuple(want.shape)
            np.testing.assert_allclose(np.asarray(got, "f8"), want.double().numpy(), rtol=1e-5, atol=1e-5)
    assert name in BY_NUMPY or run.plan(2).in_python == ()


def test_a_form_that_is_not_taken_leaves_nothing_behind() -> None:
    """The largest of the whole batch, kept as axes: unknown, as before, and no node of a try remains."""
    net = load(Behind(lambda x: x.argmax(keepdim=True)), input_size=(3, 6, 8))
    assert [n.op for n in net.nodes] == ["input", "conv", "unknown"]


NUMBERS = torch.tensor([float("nan"), float("-inf"), float("inf"), -3.5, -1, -0.5, -0.0, 0, 0.25, 1, 2.5, 100])
EXTREME: dict[str, Callable[[Any], Any]] = {
    "threshold": lambda x: F.threshold(x, 0.1, 5.0),
    "hardshrink": F.hardshrink,
    "softshrink": lambda x: F.softshrink(x, 0.3),
    "where": lambda x: torch.where(x > 0, x, -x),
    "masked_fill": lambda x: x.masked_fill(x < 0, 9.0),
    "topk": lambda x: tuple(x.topk(5, -1)),
    "sort": lambda x: tuple(x.sort(-1)),
    "argmax": lambda x: (x.argmax(-1), x.argmin(-1)),
    "max": lambda x: (*x.max(-1), *x.min(-1)),
    "cumsum": lambda x: (x.cumsum(-1), x.cumprod(-1), x.prod(-1)),
    "nan_to_num": lambda x: torch.nan_to_num(x),
    "asked": lambda x: (torch.isnan(x), torch.isfinite(x), x == x, x != x, (x > 1).any(-1), (x > -5).all(-1)),
    "remainder": lambda x: (torch.remainder(x, 0.75), torch.remainder(x, -0.75), torch.fmod(x, 0.75)),
    "parts": lambda x: (torch.trunc(x), torch.frac(x)),
    "atan2": lambda x: (torch.atan2(x, x.flip(-1)), torch.atan2(x[..., 5:], -x[..., :7])),
    "pooled": lambda x: F.max_pool2d(x[..., None], (3, 1), return_indices=True),
}


@pytest.mark.parametrize("name", EXTREME)
def test_nan_infinity_and_zeros_of_both_signs(name: str) -> None:
    class Only(nn.Module):
        def forward(self, x: Any) -> Any:
            return EXTREME[name](x)

    x = NUMBERS.reshape(1, 1, 12)
    wanted = Only()(x)
    found = compiled(load(Only().eval(), input_size=(1, 12))).run(x.numpy()).outputs
    for want, got in zip(wanted if isinstance(wanted, tuple) else (wanted,), found, strict=True):
        apart = want.numpy()
        if name == "atan2":  # -pi and pi are one angle
            apart, got = (np.exp(1j * np.asarray(v, np.float64)) for v in (apart, got))
        np.testing.assert_allclose(np.asarray(got, apart.dtype), apart, rtol=1e-5, atol=1e-6)
