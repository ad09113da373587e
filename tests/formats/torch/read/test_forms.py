"""Forms of PyTorch's functions that a forward may have, and numbers that are no numbers, against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import dojang  # noqa: E402
from dojang.arith.cost import count  # noqa: E402
from dojang.base.errors import UnsupportedError  # noqa: E402
from dojang.engine.compiled import compile  # noqa: E402
from dojang.formats.torch import from_module  # noqa: E402

Forward = Callable[[Any, torch.Tensor], torch.Tensor]


class Behind(nn.Module):
    """What a function makes of the output of a convolution, and of layers with weights."""

    def __init__(self, does: Forward) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.does = nn.Conv2d(3, 8, 3, padding=1), does
        self.heads = nn.MultiheadAttention(8, 2, batch_first=True)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.does(self, self.conv(x))


def rows(y: torch.Tensor) -> torch.Tensor:
    """Pixels as tokens."""
    return y.flatten(2).transpose(1, 2)


def late(size: int) -> torch.Tensor:
    """True where a query may not look: at what comes after it."""
    return torch.ones(size, size).triu(1).bool()


def closed(y: torch.Tensor) -> torch.Tensor:
    """Truth values of tokens, some true in every image."""
    return rows(y).sum(-1) > 0


SQUARE = nn.Transformer.generate_square_subsequent_mask(64)
FORMS: dict[str, Forward] = {
    "where, the method": lambda m, y: y.where(y > 0.2, y * 2),
    "where with a number": lambda m, y: y.where(y > 0.2, torch.tensor(0.0)),
    "where by names": lambda m, y: torch.where(condition=y > 0, input=y, other=-y),
    "mask of padding": lambda m, y: m.heads(rows(y), rows(y), rows(y), key_padding_mask=closed(y), need_weights=False)[
        0
    ],
    "weights under padding": lambda m, y: m.heads(rows(y), rows(y), rows(y), key_padding_mask=closed(y))[1],
    "all is padding": lambda m, y: m.heads(
        rows(y), rows(y), rows(y), key_padding_mask=rows(y).sum(-1) > -99, need_weights=False
    )[0],
    "two masks": lambda m, y: m.heads(
        rows(y), rows(y), rows(y), key_padding_mask=closed(y), attn_mask=late(64), need_weights=False
    )[0],
    "two masks, one of numbers": lambda m, y: m.heads(
        rows(y), rows(y), rows(y), key_padding_mask=closed(y), attn_mask=SQUARE, need_weights=False
    )[0],
    "a query that sees nothing": lambda m, y: F.scaled_dot_product_attention(
        rows(y), rows(y), rows(y), attn_mask=torch.arange(64)[:, None].expand(64, 64) > 2
    ),
    "a computed mask": lambda m, y: F.scaled_dot_product_attention(
        rows(y), rows(y), rows(y), attn_mask=closed(y)[:, None, :]
    ),
    "a block under padding": lambda m, y: m.block(
        rows(y), src_key_padding_mask=torch.zeros(y.shape[0], 64).bool(), src_mask=SQUARE, is_causal=True
    ),
    "a mean over what is covered": lambda m, y: F.interpolate(y, size=(5, 3), mode="bilinear", antialias=True),
    "the same, cubic, by factors": lambda m, y: F.interpolate(
        y, scale_factor=(1.7, 0.6), mode="bicubic", antialias=True
    ),
    "whole numbers": lambda m, y: (y * 5).long() * 2 + (y * 3).long(),
    "bytes": lambda m, y: (y.abs() * 9).to(torch.uint8) + 3,
    "how many": lambda m, y: (y > 0).sum((2, 3)),
    "between which": lambda m, y: torch.bucketize(y, torch.tensor([-0.2, 0.0, 0.3])),
    "halves of whole numbers": lambda m, y: (y * 9).long() // 2,
}


@pytest.mark.filterwarnings("ignore:Support for mismatched")  # masks of two types, which PyTorch still takes
@pytest.mark.parametrize("name", FORMS)
def test_as_pytorch(name: str) -> None:
    """Numbers, shapes and types, for two numbers of images."""
    module = Behind(FORMS[name]).eval()
    net = compile(from_module(module, (3, 8, 8)), threads=1)
    for images in (2, 3):
        x = torch.randn(images, 3, 8, 8, generator=torch.Generator().manual_seed(images))
        found, right = net(x.numpy()), module(x).detach().numpy()
        assert found.shape == right.shape
        assert found.dtype == right.dtype
        np.testing.assert_allclose(found, right, atol=2e-5)


IMAGES: dict[str, Forward] = {
    "times": lambda m, y: y * y.shape[0],
    "over": lambda m, y: y.sum() / y.size(0),
    "elements": lambda m, y: y / y.numel(),
    "length": lambda m, y: y * len(y),
    "root": lambda m, y: y / y.shape[0] ** 0.5,
    "variance": lambda m, y: y / (y.shape[0] - 1),
    "tensor": lambda m, y: y / torch.tensor(y.shape[0]),
}


@pytest.mark.parametrize("name", IMAGES)
def test_the_number_of_images_is_no_number(name: str) -> None:
    """It stays open: what computes with it is counted, and is not run with a number that the trace happened to have."""
    graph = from_module(Behind(IMAGES[name]).eval(), (3, 8, 8))
    assert count(graph).total.macs == 8 * 27 * 64
    with pytest.raises(UnsupportedError, match="with the number of images"):
        compile(graph)


def test_a_number_that_only_looks_like_it() -> None:
    """1009 and its multiples stand for the batch while a forward is followed; as its own numbers they are kept."""
    module = Behind(lambda m, y: (y * 2018 + 1008) / 1009).eval()
    x = torch.randn(2, 3, 8, 8)
    found = compile(from_module(module, (3, 8, 8)), threads=1)(x.numpy())
    np.testing.assert_allclose(found, module(x).detach().numpy(), rtol=1e-5, atol=1e-5)


VALUES = torch.tensor(
    [float("nan"), float("-inf"), float("inf"), -3.5, -1, -0.5, -0.0, 0, 0.25, 1, 2.5, 100, 0.1, 0.3, 0.7]
)
PAIRS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "//": lambda x, y: x // y,
    "1 // y": lambda x, y: 1 // y + 0 * torch.sign(x),
    "x // 0.1": lambda x, y: x // 0.1 + 0 * torch.sign(y),
    "x // -0.3": lambda x, y: x // -0.3 + 0 * torch.sign(y),
    "x // 0.5": lambda x, y: x // 0.5 + 0 * torch.sign(y),
    "floor": lambda x, y: torch.div(x, y, rounding_mode="floor"),
    "trunc": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
    "fmax": torch.fmax,
    "fmin": torch.fmin,
    "%": lambda x, y: x % y,
    "fmod": torch.fmod,
}


class Of(nn.Module):
    """A function of two inputs."""

    def __init__(self, does: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.does = does

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.does(x, y)


@pytest.mark.parametrize("name", PAIRS)
def test_numbers_that_are_none(name: str) -> None:
    """All pairs of NaN, infinities, zeros and numbers whose quotients lie within rounding of a whole one."""
    x, y = torch.meshgrid(VALUES, VALUES, indexing="ij")
    net = compile(from_module(Of(PAIRS[name]).eval(), ((15,), (15,))), threads=1)
    found = net.run({"x": x.numpy(), "y": y.numpy()}).outputs[0]
    np.testing.assert_array_equal(found, PAIRS[name](x, y).numpy())


def test_a_program_whose_batch_is_open_or_fixed(tmp_path) -> None:
    """Exported programs: the number of images is refused where it is open, and a number where it is fixed; a number
    of the forward that looks like it is kept.
    """
    x = torch.randn(5, 3, 8, 8)
    cases: dict[str, Forward] = {
        "looks": lambda m, y: (y * 2018 + 1008) / 1009,
        "counts": lambda m, y: y * y.shape[0],
        "twice five": lambda m, y: y / 10,
    }
    for name, does in cases.items():
        module = Behind(does).eval()
        for open_ in (False, True):
            shapes = {"x": {0: torch.export.Dim("n", min=2, max=64)}} if open_ else None
            path = tmp_path / f"{name}{open_}.pt2"
            torch.export.save(torch.export.export(module, (x,), dynamic_shapes=shapes), path)
            graph = dojang.load(path)
            if name == "counts" and open_:
                with pytest.raises(UnsupportedError, match="with the number of images"):
                    compile(graph)
                continue
            np.testing.assert_allclose(
                compile(graph, threads=1)(x.numpy()), module(x).detach().numpy(), rtol=1e-5, atol=1e-5
            )


def test_a_compiled_module_divides_by_numbers_of_its_own() -> None:
    """`torch.compile`: a fixed batch of 8 images, and a division by 8."""
    module = Behind(lambda m, y: y / 8 + y * 0.125).eval()
    x = torch.randn(8, 3, 8, 8)
    with torch.no_grad():
        found = torch.compile(module, backend="dojang", dynamic=False)(x)
        np.testing.assert_allclose(found.numpy(), module(x).numpy(), rtol=1e-5, atol=1e-5)
