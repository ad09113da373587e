"""Functions of one number in kernels: errors beside the result, tiny numbers, zeros with their sign, infinity, NaN.

The oracle is PyTorch in float64: in float32 its own GELU of 3e38 is infinite.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import dojang
from dojang.arith.graph import Graph, Node
from dojang.engine.compiled import compile
from dojang.engine.reference.operators import run_reference

FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tanh": torch.tanh,
    "erf": torch.erf,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "elu": F.elu,
    "selu": F.selu,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "mish": F.mish,
    "hard_swish": F.hardswish,
    "exp": torch.exp,
}
ZERO_AT_ZERO = ("tanh", "erf", "silu", "gelu", "elu", "selu", "softsign", "mish", "hard_swish")
SPECIAL = ("tanh", "erf", "sigmoid", "elu", "selu", "softplus", "exp")
"""Functions with limits at infinity; the others are −∞ · 0 at one of its ends."""


def run(name: str, x: np.ndarray) -> np.ndarray:
    """The function as a layer of a compiled network."""
    graph = Graph((Node.of("x", "input", shape=(x.size,)), Node.of("f", name, "x")), ("f",), "one")
    network = compile(graph, threads=1)
    assert not network.plan(1).in_python
    return network(x.reshape(1, -1))[0]


def numbers() -> np.ndarray:
    """Every magnitude of float32 from the least denormal up, both signs."""
    powers = 2.0 ** np.arange(-149, 7, dtype="f8")
    rng = np.random.default_rng(0)
    some = np.concatenate([powers, powers * (1 + rng.random(powers.size)), np.linspace(0.01, 12, 2000)])
    return np.concatenate([some, -some]).astype("f4")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_errors(name: str) -> None:
    """Everywhere below 4e-7 of max(1, |result|)."""
    x = numbers()
    x = x[np.abs(x) < 80]
    right = FUNCTIONS[name](torch.from_numpy(x).double()).numpy()
    assert (np.abs(run(name, x) - right) <= 4e-7 * np.maximum(1, np.abs(right))).all()


@pytest.mark.parametrize("name", ZERO_AT_ZERO)
def test_small_numbers(name: str) -> None:
    """Near 0 errors are below 1e-6 of the result (and a denormal), not of 1; −0 stays −0."""
    x = numbers()
    x = x[np.abs(x) < 1]
    right = FUNCTIONS[name](torch.from_numpy(x).double()).numpy()
    found = run(name, x)
    assert (np.abs(found - right) <= 1e-6 * np.abs(right) + 2.0**-149).all()
    assert (found[np.abs(x) > 1e-40] != 0).all()
    zeros = run(name, np.array([0.0, -0.0], "f4"))
    assert (zeros == 0).all()
    assert np.signbit(zeros).tolist() == [False, True]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_not_finite(name: str) -> None:
    assert np.isnan(run(name, np.array([np.nan], "f4"))).all()
    x = np.array([np.inf, -np.inf, 3e38, -3e38], "f4") if name in SPECIAL else np.array([3e38], "f4")
    with np.errstate(over="ignore"):
        right = FUNCTIONS[name](torch.from_numpy(x).double()).numpy().astype("f4")
    assert np.array_equal(run(name, x), right)
    if name not in SPECIAL and name != "softsign":
        assert np.isposinf(run(name, np.array([np.inf], "f4")))[0]


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_angles(name: str) -> None:
    """Of every magnitude, and near multiples of π/2; −0 stays −0."""
    rng = np.random.default_rng(0)
    near = (np.arange(-400, 400) * (np.pi / 2)).astype("f4")
    some = np.concatenate(
        [numbers(), near, np.nextafter(near, np.float32(np.inf)), (10 ** rng.uniform(0, 38.5, 9000)).astype("f4")]
    )
    right = getattr(np, name)(some.astype("f8"))
    found = run(name, some)
    assert (np.abs(found - right) <= 2e-7).all()
    if name == "sin":
        near = np.abs(some) < 2.0**30
        assert (np.abs(found - right) <= 1e-6 * np.abs(right) + 2.0**-149)[near].all()
        assert np.signbit(run(name, np.array([0.0, -0.0], "f4"))).tolist() == [False, True]
    assert np.isnan(run(name, np.array([np.nan, np.inf, -np.inf], "f4"))).all()


def test_logarithms() -> None:
    x = np.abs(numbers())
    x = np.concatenate([x[x > 0], (1 + np.linspace(-1e-3, 1e-3, 400)).astype("f4"), np.array([1, 3e38], "f4")])
    right = np.log(x.astype("f8"))
    assert (np.abs(run("log", x) - right) <= 4e-7 * np.maximum(np.abs(right), 0.1)).all()
    found = run("log", np.array([0, -0.0, np.inf, -1, -np.inf, np.nan], "f4"))
    assert found[:3].tolist() == [-np.inf, -np.inf, np.inf]
    assert np.isnan(found[3:]).all()


class Log1p(torch.nn.Module):
    """What has no operator of its own: read from PyTorch as several."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log1p(x)


def test_log1p_of_small_numbers() -> None:
    """log(1 + x) would be 0 below 6e-8."""
    x = numbers()
    x = np.concatenate([x, np.array([-1, -0.99999994, -2, np.inf, -np.inf, np.nan, 3e38], "f4")])[None]
    with np.errstate(invalid="ignore", divide="ignore"):
        right = np.log1p(x.astype("f8"))
    graph = dojang.load(Log1p(), input_size=(x.size,))
    for found in (compile(graph, threads=1)(x), run_reference(graph, x).outputs[0]):
        np.testing.assert_allclose(found, right, rtol=4e-7, atol=2.0**-149)
