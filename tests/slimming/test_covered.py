"""Smaller kernels and coarser strides where the image is seen already: exact where planted, else least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dojang.arith.cost import count
from dojang.arith.field import covered
from dojang.engine.reference.operators import run_reference
from dojang.evidence.evidence import Evidence
from dojang.slimming.covered import coarser, fit, smaller
from dojang.slimming.rewrite import relative_difference
from dojang.slimming.structural import candidates, some_values
from nets import N, conv, feed, net, weighted


def sees_all(stride: int = 1, size: int = 12):
    """The second layer's input sees all of an image of that size; the first layer's does not."""
    return weighted(
        net(
            conv("a", "x", 6, 3), N("r", "relu", "a"), conv("m", "r", 6, 2 * size - 1),
            conv("b", "m", 8, 3, stride=stride), N("s", "tanh", "b"), N("g", "global_avgpool", "s"),
            N("f", "flatten", "g"), N("y", "dense", "f", out=4), shape=(3, size, size),
        )
    )  # fmt: skip


def seen(graph, samples: int = 32):
    return some_values(Evidence(graph, feed(graph, samples)["x"].astype(np.float32)), ["m", "b"])


def test_only_layers_that_see_the_whole_image_are_offered():
    graph = sees_all()
    assert [node.name for node in covered(graph)] == ["b"]
    found = {c.rewrite: c for c in candidates(Evidence(graph, feed(graph, 32)["x"].astype(np.float32)))
             if c.rewrite in ("smaller-kernel", "coarser-stride")}  # fmt: skip
    assert set(found) == {"smaller-kernel", "coarser-stride"}
    assert all(c.layers == ("b",) for c in found.values())
    macs = {row.name: row.cost.macs for row in count(graph).layers}["b"]
    for rewrite, part in (("smaller-kernel", 9), ("coarser-stride", 4)):
        rows = {row.name: row.cost.macs for row in count(found[rewrite].graph).layers}
        assert rows["b"] + rows.get("b_coarse", 0) == macs // part
        assert found[rewrite].graph.unit_shapes == graph.unit_shapes | {
            k: v for k, v in found[rewrite].graph.unit_shapes.items() if k == "b_coarse"
        }
        found[rewrite].graph.check_weights()


@pytest.mark.parametrize("stride", [1, 2])
def test_a_kernel_with_an_empty_ring_loses_nothing(stride: int):
    graph = sees_all(stride)
    weight = np.zeros_like(graph.weights["b.weight"])
    weight[:, :, 1, 1] = graph.weights["b.weight"][:, :, 1, 1]
    graph = graph.replace(weights={**graph.weights, "b.weight": weight})
    form = smaller(graph, graph["b"], seen(graph))
    less, said = form.graph, form.found
    assert less["b"].attrs["kernel"] == (1, 1)
    assert "1x1 kernel in place of 3x3" in said
    assert relative_difference(graph, less, feed(graph, 4, 9)) < 5e-3  # the ridge of the fit


@pytest.mark.parametrize("size", [11, 12])
def test_coarse_outputs_stand_for_their_blocks(size: int):
    graph = sees_all(size=size)
    less = coarser(graph, graph["b"], seen(graph)).graph
    x = feed(graph, 2)["x"]
    got = run_reference(less, x, np.float64, ("b", "b_coarse")).taps
    half = -(-size // 2)
    assert got["b_coarse"].shape[2:] == (half, half)
    wanted = F.interpolate(torch.from_numpy(got["b_coarse"]), size=(size, size), mode="nearest").numpy()
    np.testing.assert_array_equal(got["b"], wanted)


def test_the_fit_is_least_squares_over_all_taps():
    rng = np.random.default_rng(0)
    x, truth = rng.normal(size=(8, 4, 9, 9)), rng.normal(size=(5, 4, 3, 2))
    attrs = {"out": 5, "kernel": (3, 2), "stride": (2, 1), "padding": ((1, 0), (0, 2)), "dilation": (1, 2)}
    padded = F.pad(torch.from_numpy(x), (0, 2, 1, 0))
    shift = torch.arange(5.0, dtype=torch.float64)
    y = F.conv2d(padded, torch.from_numpy(truth), shift, stride=(2, 1), dilation=(1, 2)).numpy()
    weight, bias = fit(N("c", "conv", "x", **attrs), x, y)
    np.testing.assert_allclose(weight, truth, atol=0.02)
    np.testing.assert_allclose(bias, np.arange(5), atol=0.02)


def test_what_has_no_ring_to_give_is_left():
    graph = sees_all()
    assert smaller(graph, graph["a"].with_attrs(padding=0), seen(graph)) is None
    one = weighted(net(conv("b", "x", 4, 1), N("y", "relu", "b"), shape=(3, 1, 1)))
    values = {"x": feed(one, 4)["x"], "b": np.zeros((4, 4, 1, 1))}
    assert smaller(one, one["b"], values) is None
    assert coarser(one, one["b"], values) is None
