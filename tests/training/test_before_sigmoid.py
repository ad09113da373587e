"""Several classes to a sample, and a network that ends in sigmoid: judged and tuned as the one that gives scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dojang.app.slimming import accuracy
from dojang.app.tuning import TuningOptions, slopes, training
from dojang.arith.graph import Graph, Node
from dojang.base.errors import ShapeError
from dojang.formats.torch import from_module
from dojang.training.config import TrainConfig
from dojang.training.data import Data, from_arrays
from dojang.training.loop import fit


def ending_in_sigmoid(graph: Graph) -> Graph:
    node = Node.of("probability", "sigmoid", graph.outputs[0])
    return Graph((*graph.nodes, node), (node.name,), graph.name, graph.weights, graph.meta)


@pytest.fixture(scope="module")
def both() -> tuple[Graph, Graph, Data]:
    """A network that gives scores, the same with a sigmoid behind it, and samples of which each has several classes."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                           nn.Linear(8, 3))  # fmt: skip
    rng = np.random.default_rng(0)
    x = rng.standard_normal((160, 2, 6, 6), np.float32)
    y = x[:, :, :3].mean((2, 3)) @ rng.standard_normal((2, 3)) > 0
    graph = from_module(module, (2, 6, 6))
    return graph, ending_in_sigmoid(graph), from_arrays(x[:128], y[:128], x[128:], y[128:])


def test_probabilities_are_judged_as_the_scores_are(both: tuple[Graph, Graph, Data]) -> None:
    scores, probabilities, data = both
    right = accuracy(scores, data.test)
    assert data.test.y.mean() < right < 1  # an output above 0 is no yes: all probabilities are
    assert accuracy(probabilities, data.test) == right


def test_tuning_goes_by_the_scores(both: tuple[Graph, Graph, Data]) -> None:
    scores, probabilities, data = both
    for result in (lambda graph: training(data, TuningOptions())(graph, graph, 3, None).weights,
                   lambda graph: slopes(data, 0)(graph)):  # fmt: skip
        wanted, found = result(scores), result(probabilities)
        assert wanted.keys() == found.keys()
        for name, array in wanted.items():
            assert not np.array_equal(array, scores.weights[name])
            np.testing.assert_allclose(found[name], array, atol=1e-4 * np.abs(array).max())


def test_training_refuses_what_would_be_a_sigmoid_of_a_sigmoid(both: tuple[Graph, Graph, Data]) -> None:
    data = both[2]
    plain = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    again = nn.Sequential(nn.Flatten(), nn.Linear(72, 3), nn.Sigmoid())
    for module, teacher, who in ((again, None, "the network"), (plain, again, "the teacher")):
        with pytest.raises(ShapeError, match=f"{who} ends in sigmoid; the loss applies it"):
            fit(module, data, TrainConfig(epochs=1), teacher=teacher)
