"""Effective receptive fields against known kernels, and never beyond what arithmetic allows."""

from __future__ import annotations

import numpy as np
import pytest

from dojang.base.errors import ShapeError
from dojang.diagnosis import diagnose, effective_fields
from dojang.evidence.evidence import Evidence
from nets import N, conv, feed, net, weighted


def test_a_kernel_of_one_tap_sees_one_pixel():
    graph = weighted(net(N("a", "conv", "x", out=2, kernel=(5, 5), padding=((2, 2), (2, 2)))))
    weights = {k: np.zeros_like(v) for k, v in graph.weights.items()}
    weights["a.weight"][:, :, 2, 2] = 1
    x = feed(graph, 3)["x"]
    (found,) = effective_fields(graph.replace(weights=weights), x)
    assert found.field == (5, 5)
    assert found.size == (1.0, 1.0)
    assert found.inside == 1
    weights["a.weight"][:, :, 2, :] = 1  # a row: as wide as arithmetic allows, one pixel high
    (found,) = effective_fields(graph.replace(weights=weights), x)
    assert found.size[0] == 1
    assert 4 < found.size[1] <= 5


def test_nothing_comes_from_beyond_the_field():
    nodes = [conv("a", "x", 4), N("r", "relu", "a"), N("p", "maxpool", "r", kernel=(2, 2), stride=(2, 2)),
             conv("b", "p", 4), N("r2", "relu", "b"), conv("c", "r2", 4)]  # fmt: skip
    graph = weighted(net(*nodes))
    found = effective_fields(graph, feed(graph, 4)["x"])
    assert [e.layer for e in found] == ["a", "b", "c"]
    for e in found:
        assert e.inside == pytest.approx(1, abs=1e-6)
        assert all(0 < s <= f for s, f in zip(e.size, e.field, strict=True))
    assert found[0].size < found[1].size


def test_coverage_says_how_much_matters():
    nodes = [
        N("a", "conv", "x", out=4, kernel=(9, 9), padding=((4, 4), (4, 4))),
        N("r", "relu", "a"),
        conv("b", "r", 4),
    ]
    graph = weighted(net(*nodes))
    covered = [f for f in diagnose(Evidence(graph, feed(graph, 4)["x"].astype("f"))) if f.kind == "coverage"]
    assert [f.layer for f in covered] == ["b"]
    assert "most of what changes its middle place lies within" in covered[0].evidence


def test_samples_need_space():
    graph = weighted(net(conv("a", "x", 4)))
    with pytest.raises(ShapeError, match="with space"):
        effective_fields(graph, np.zeros((4, 3)))
