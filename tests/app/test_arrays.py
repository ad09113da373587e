from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch
import torch.nn.functional as F

from dojang import conv, conv_transpose, convolve
from dojang.base.errors import DojangError


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), [(1, 0, 1, 1), (2, 1, 1, 2), (1, 2, 2, 4)])
def test_conv_is_that_of_pytorch(rank: int, stride: int, padding: int, dilation: int, groups: int) -> None:
    rng = np.random.default_rng(rank)
    x, w = rng.normal(size=(2, 4, *(9, 8, 7)[:rank])), rng.normal(size=(8, 4 // groups, *(3, 2, 3)[:rank]))
    b = rng.normal(size=8)
    function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    wanted = function(*map(torch.from_numpy, (x, w, b)), stride, padding, dilation, groups).numpy()
    np.testing.assert_allclose(conv(x, w, b, stride, padding, dilation, groups), wanted, atol=1e-12)


def test_conv_transpose_is_that_of_pytorch() -> None:
    rng = np.random.default_rng(0)
    x, w, b = rng.normal(size=(2, 4, 5, 6)), rng.normal(size=(4, 3, 3, 2)), rng.normal(size=6)
    wanted = F.conv_transpose2d(*map(torch.from_numpy, (x, w, b)), 2, 1, 1, 2).numpy()
    np.testing.assert_allclose(conv_transpose(x, w, b, 2, 1, 1, groups=2), wanted, atol=1e-12)


def test_precision_is_kept() -> None:
    x, w = np.ones((1, 1, 4), np.float32), np.ones((1, 1, 2), np.float32)
    assert conv(x, w).dtype == np.float32
    assert conv(x, w.astype(np.float64)).dtype == np.float64
    assert conv(x.astype(np.uint8), w).dtype == np.float64


@pytest.mark.parametrize("mode", ["full", "same", "valid"])
@pytest.mark.parametrize(("f", "g"), [((7,), (3,)), ((8,), (4,)), ((6, 9), (3, 2)), ((4, 5, 6), (2, 3, 1))])
def test_convolve_is_that_of_scipy(mode: Any, f: tuple[int, ...], g: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=f), rng.normal(size=g)
    np.testing.assert_allclose(convolve(a, b, mode), scipy.signal.convolve(a, b, mode), atol=1e-12)


def test_convolve_approximates_the_integral() -> None:
    dx = 0.01
    t = np.arange(-800, 801) * dx
    bell = np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)
    both = convolve(bell, bell, "same", dx)
    # two normal distributions of variance 1 give one of variance 2
    np.testing.assert_allclose(both, np.exp(-(t**2) / 4) / np.sqrt(4 * np.pi), atol=1e-6)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: conv(np.ones((1, 3, 8, 8)), np.ones((4, 2, 3, 3))),
            "weight",
        ),
        (lambda: conv(np.ones((1, 5, 8, 8)), np.ones((4, 2, 3, 3)), groups=2), "do not divide"),
        (lambda: conv(np.ones((8, 8)), np.ones((4, 2, 3, 3))), "2-d|2 spatial|rank|8x8"),
        (lambda: conv(np.ones((1, 2, 8, 8)), np.ones((4, 2, 3, 3)), np.ones(3)), "bias"),
        (lambda: conv(np.ones((1, 2, 2, 2)), np.ones((4, 2, 3, 3))), "shrinks below 1"),
        (lambda: conv(np.ones((1, 2, 4)) * 1j, np.ones((4, 2, 3))), "real numbers"),
        (lambda: convolve([1, 2], [[1]]), "one rank"),
        (lambda: convolve([1, 2], [1], "all"), "mode"),
    ],
)
def test_errors(call: Callable[[], object], says: str) -> None:
    with pytest.raises(DojangError, match=says):
        call()
