"""Batch norms measured anew after a cut: PyTorch's training mode is the oracle."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from dojang.arith.graph import Graph
from dojang.engine.session import Session
from dojang.formats.torch import to_module
from dojang.slimming.branches import branches, without
from dojang.slimming.estimate import OutputChange
from dojang.slimming.norm_statistics import with_measured_norms
from nets import N, conv, net, weighted


def normed() -> Graph:
    """A residual block with batch norms whose statistics are far from what they see, and one after a dense layer."""
    graph = net(
        conv("c0", "x", 6), N("b0", "batchnorm", "c0"), N("r0", "relu", "b0"),
        conv("c1", "r0", 6), N("b1", "batchnorm", "c1", affine=False), N("s", "add", "b1", "r0"),
        N("f", "flatten", "s"), N("d", "dense", "f", out=5), N("b2", "batchnorm", "d"),
        N("y", "dense", "b2", out=3), shape=(2, 5, 4),
    )  # fmt: skip
    return weighted(graph)


def test_statistics_and_outputs_are_those_of_pytorch_in_training_mode():
    graph = normed()
    x = np.random.default_rng(0).normal(1.5, 2, size=(37, 2, 5, 4)).astype(np.float32)
    module = to_module(graph).train()
    norms = {name: m for name, m in module.named_modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))}
    seen = {name: 37 * (1 if isinstance(m, nn.BatchNorm1d) else 20) for name, m in norms.items()}
    for norm in norms.values():
        norm.momentum = 1.0
    with torch.no_grad():
        wanted = module(torch.from_numpy(x)).numpy()
    made, outputs = with_measured_norms(graph, x)
    assert len(norms) == 3
    np.testing.assert_allclose(outputs[0], wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(Session(made)(x), wanted, rtol=1e-4, atol=1e-4)
    for name, norm in norms.items():
        mean, var = (made.weights[f"{name}.{role}"] for role in ("running_mean", "running_var"))
        biased = norm.running_var.numpy() * (seen[name] - 1) / seen[name]  # PyTorch keeps the unbiased variance
        np.testing.assert_allclose(mean, norm.running_mean.numpy(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(var, biased, rtol=1e-4, atol=1e-5)
    assert made.nodes == graph.nodes
    again, same = with_measured_norms(made, x)
    np.testing.assert_allclose(same[0], outputs[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(again.weights["b1.running_var"], made.weights["b1.running_var"], rtol=1e-5)


def test_without_norms_nothing_changes():
    graph = weighted(net(conv("c", "x", 4), N("r", "relu", "c"), N("f", "flatten", "r"), N("y", "dense", "f", out=3)))
    x = np.random.default_rng(1).normal(size=(5, *graph.inputs[0].attrs["shape"])).astype(np.float32)
    made, outputs = with_measured_norms(graph, x)
    assert all(np.array_equal(made.weights[k], v) for k, v in graph.weights.items())
    np.testing.assert_array_equal(outputs[0], Session(graph)(x))


def test_the_loss_of_a_cut_does_not_count_norms_that_would_settle():
    """A branch that adds the same to every sample and place is worth nothing once the norm behind it has settled."""
    graph = weighted(net(
        conv("c0", "x", 6), N("r0", "relu", "c0"), conv("c1", "r0", 6), N("s", "add", "c1", "r0"),
        conv("c2", "s", 6, 1), N("b2", "batchnorm", "c2"), N("r2", "relu", "b2"),
        N("f", "flatten", "r2"), N("y", "dense", "f", out=3), shape=(2, 5, 4),
    ))  # fmt: skip
    arrays = {**graph.weights, "c1.weight": graph.weights["c1.weight"] * 0, "c1.bias": np.full(6, 9.0, np.float32)}
    graph = graph.replace(weights=arrays)
    x = np.random.default_rng(2).normal(size=(64, 2, 5, 4)).astype(np.float32)
    shorter = without(graph, [b for b in branches(graph) if b.layers == ("c1",)])
    a, b = (Session(g)(x) for g in (graph, shorter))
    assert np.square(a - b).sum() > 0.1 * np.square(a - a.mean(axis=0)).sum()
    assert OutputChange(graph, x).of(shorter) < 1e-6
