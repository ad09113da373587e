"""Operators of ONNX without a row of their own that kernels compute, against PyTorch in float64, drawn by a rule."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dojang.arith.graph import Graph, Node
from dojang.engine.compiled import compile

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("seed", range(8))
def test_values_at_places_of_a_grid(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, c, h, w, oh, ow = (int(v) for v in rng.integers(1, [4, 40, 9, 9, 8, 8]))
    mode, border, corners = ("linear", "nearest")[seed % 2], ("zeros", "border")[seed // 2 % 2], seed // 4 % 2
    said = json.dumps({"mode": mode, "padding_mode": border, "align_corners": corners})
    nodes = (
        Node.of("x", "input", shape=(c, h, w)), Node.of("at", "input", shape=(oh, ow, 2)),
        Node.of("y", "standard", "x", "at", kind="GridSample", shape=(c, oh, ow), settings=said),
    )  # fmt: skip
    x = rng.standard_normal((n, c, h, w)).astype(np.float32)
    at = rng.uniform(-1.6, 1.6, (n, oh, ow, 2)).astype(np.float32)
    network = compile(Graph(nodes, ("y",)), threads=1)
    right = torch.nn.functional.grid_sample(
        torch.from_numpy(x).double(), torch.from_numpy(at).double(), {"linear": "bilinear"}.get(mode, mode), border,
        bool(corners),
    )  # fmt: skip
    np.testing.assert_allclose(network.run({"x": x, "at": at}).outputs[0], right.numpy(), rtol=1e-5, atol=1e-5)
    assert network.plan(n).in_python == ()


def test_places_far_away_and_no_numbers_read_nothing_outside() -> None:
    nodes = (
        Node.of("x", "input", shape=(3, 4, 5)), Node.of("at", "input", shape=(1, 8, 2)),
        Node.of("y", "standard", "x", "at", kind="GridSample", shape=(3, 1, 8), settings="{}"),
    )  # fmt: skip
    at = np.zeros((1, 1, 8, 2), np.float32)
    at[0, 0, :, 0] = [np.inf, -np.inf, np.nan, 1e30, -1e30, 9e18, 3e9, 0]
    x = np.arange(1, 61, dtype=np.float32).reshape(1, 3, 4, 5)
    found = compile(Graph(nodes, ("y",)), threads=1).run({"x": x, "at": at}).outputs[0]
    assert not found[..., :7].any()
    np.testing.assert_allclose(found[0, :, 0, 7], x[0, :, 1:3, 2].mean(1))


def test_logarithms_of_every_kind_of_number() -> None:
    v = np.array([0, -0.0, 1e-40, 1e-45, 1, 2, np.inf, -1, np.nan, 3e38, 0.99999994, 1.0000001], np.float32)
    network = compile(Graph((Node.of("x", "input", shape=v.shape), Node.of("y", "log", "x")), ("y",)), threads=1)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(network(v[None])[0], np.log(v.astype(np.float64)), rtol=4e-7, atol=1e-7)
    assert network.plan(1).in_python == ()
