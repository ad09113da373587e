"""Memory held against what PyTorch really keeps and allocates."""

from __future__ import annotations

import pytest
import torch

from dojang.arith.cost import count
from dojang.arith.memory import MachinePeaks, memory, saved_bytes, total_ms, traffic
from dojang.formats import zoo
from dojang.formats.torch import to_module
from saved_by_autograd import kept_by_torch


@pytest.mark.parametrize(
    "name", ["lenet5", "digits-cnn", "alexnet", "googlenet", "resnet18", "resnet20-cifar10", "mobilenet-v2"]
)
def test_saved_tensors_are_what_autograd_keeps(name):
    graph = zoo.load(name, weights=False)
    x = torch.zeros(2, *graph.inputs[0].attrs["shape"])
    assert saved_bytes(graph, 2) == kept_by_torch(to_module(graph).train(), x)


def peak_of_torch(module: torch.nn.Module, x: torch.Tensor) -> int:
    """Most bytes of activations and scratch that PyTorch's allocator has handed out at once in one forward pass."""
    module.eval()
    with torch.inference_mode():
        module(x)
        with torch.profiler.profile(profile_memory=True) as profile:
            module(x)
    live = peak = x.nbytes
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


@pytest.mark.parametrize("name", ["resnet18", "nin-cifar10-root4", "googlenet"])
def test_inference_peak_is_a_lower_bound(name):
    """PyTorch adds scratch memory: repacked inputs, for response normalisation the padded squares: 1 to 1.6 times."""
    graph = zoo.load(name, weights=False)
    x = torch.zeros(4, *graph.inputs[0].attrs["shape"])
    assert 1 <= peak_of_torch(to_module(graph), x) / count(graph, 4).peak_bytes <= 2


def test_training_adds_up():
    graph = zoo.load("resnet18", weights=False)
    found = memory(graph, 8, "adam")
    params = 4 * 11_689_512
    assert found.gradient_bytes == params
    assert found.optimiser_bytes == 2 * params
    assert found.weight_bytes > params  # running statistics
    assert found.training_bytes == found.weight_bytes + 3 * params + saved_bytes(graph, 8)
    assert saved_bytes(graph, 8) == 8 * saved_bytes(graph, 1) - 7 * statistics(graph)


def statistics(graph):
    return sum(8 * graph.unit_shapes[n.name][1] for n in graph.nodes if n.op == "batchnorm")


def test_roofline_is_an_interval():
    graph = zoo.load("alexnet", weights=False)
    machine = MachinePeaks("a named machine", gflops=200, gbytes=20)
    rows = {row.name: row for row in traffic(graph, machine)}
    assert all(0 <= row.least_ms <= row.most_ms for row in rows.values())
    # a dense layer is bound by its weights, a convolution by arithmetic
    assert rows["fc6"].least_ms == pytest.approx(4 * 37_752_832 / 20e6)
    assert rows["conv3"].least_ms == pytest.approx(2 * 149_520_384 / 200e6)
    assert rows["conv3"].intensity > 50 > rows["fc6"].intensity
    least, most = total_ms(tuple(rows.values()))
    assert least == pytest.approx(sum(row.least_ms for row in rows.values()))
    assert most > least
