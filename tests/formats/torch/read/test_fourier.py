"""Fourier transforms in modules: PyTorch's own numbers, no multiply-accumulates, parameters counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from dojang import count, load  # noqa: E402
from dojang.engine.compiled import compile as compiled  # noqa: E402


class Filters(nn.Module):
    """Global filters (GFNet, Rao et al. 2021): a product with learned complex numbers between two transforms."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Conv2d(3, 8, 1)
        self.weight = nn.Parameter(torch.randn(8, 6, 5, 2))

    def forward(self, x: Any) -> Any:
        y = torch.fft.rfft2(self.front(x), norm="ortho") * torch.view_as_complex(self.weight)
        return torch.fft.irfft2(y, s=x.shape[-2:], norm="ortho")


class Only(nn.Module):
    """A function of the input."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


FORMS = {
    "mixing": lambda x: torch.fft.fft2(x, dim=(-1, -2)).real,
    "amplitude": lambda x: torch.fft.rfft(x, dim=2).abs(),
    "cut": lambda x: torch.fft.irfft(torch.fft.rfft(x, n=6, norm="forward"), n=7, norm="forward"),
    "back": lambda x: torch.fft.ifftn(torch.fft.fftn(x, dim=(1, 2)), dim=(1, 2)).imag,
    "numbers": lambda x: torch.view_as_real((torch.fft.fft(x) * 2 + torch.fft.fft(x * x)) / 3),
    "order": lambda x: torch.fft.rfft(x).permute(0, 3, 1, 2).reshape(x.shape[0], -1).conj().imag,
    "frames": lambda x: torch.view_as_real(
        torch.stft(x.flatten(1), 16, 4, window=torch.hann_window(16), return_complex=True)
    ),
}


@pytest.mark.parametrize("name", ["filters", *FORMS])
def test_as_pytorch_computes_it(name: str) -> None:
    torch.manual_seed(0)
    module = (Filters() if name == "filters" else Only(FORMS[name])).eval()
    net = load(module, input_size=(3, 6, 8))
    assert [n.op for n in net.nodes if n.op == "unknown"] == []
    run = compiled(net)
    for images in (2, 1):
        x = torch.randn(images, 3, 6, 8)
        with torch.no_grad():
            wanted = module(x).resolve_neg().numpy()
        np.testing.assert_allclose(run(x.numpy()), wanted, rtol=1e-4, atol=1e-5)
    total = count(net).total
    assert total.params == sum(p.numel() for p in module.parameters())
    assert total.macs == (3 * 8 * 48 if name == "filters" else 0)


def test_what_is_not_listed_is_unknown() -> None:
    """The angle of complex numbers: counted as unknown, not as the angle of their real parts."""
    net = load(Only(lambda x: torch.fft.fft(x).angle()), input_size=(3, 6, 8))
    assert [n.attrs["kind"] for n in net.nodes if n.op == "unknown"] == ["angle"]
