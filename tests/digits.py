"""The digits that scikit-learn ships, and a network on them that is fitted without a training framework."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from dojang.arith.graph import Graph
from dojang.engine.session import Session
from dojang.evidence.evidence import Evidence
from dojang.slimming import SlimResult, slim
from nets import N, conv, net
from runtimes import by_macs


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Pictures (1797, 1, 8, 8) in 0..1 and labels, in a fixed random order."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return (data.images / 16).astype(np.float32)[order, None], data.target[order]


TRAIN, SELECTION, TEST = slice(0, 1000), slice(1000, 1400), slice(1400, None)


def fitted(graph: Graph) -> Graph:
    """The network with its last layer, dense `y`, solved by ridge regression on the training part; the rest stays."""
    x, labels = digits()
    before = graph["y"].inputs[0]
    features = Session(graph).run(x[TRAIN], (before,)).taps[before].astype(np.float64)
    features = np.hstack([features, np.ones((len(features), 1))])
    gram = features.T @ features + 1e-2 * np.eye(features.shape[1])
    solved = np.linalg.solve(gram, features.T @ (np.eye(10)[labels[TRAIN]] * 2 - 1)).astype(np.float32)
    return graph.replace(weights={**graph.weights, "y.weight": solved[:-1].T.copy(), "y.bias": solved[-1]})


def accuracy(graph: Graph, part: slice = SELECTION) -> float:
    x, labels = digits()
    return float((Session(graph)(x[part]).argmax(axis=1) == labels[part]).mean())


def random_features(seed: int = 0, width: int = 24) -> Graph:
    """Random convolutions with batch norms and ReLU, then the fitted layer: 97 % on digits, with plenty to spare."""
    graph = net(
        conv("c1", "x", width), N("b1", "batchnorm", "c1"), N("r1", "relu", "b1"),
        N("p1", "maxpool", "r1", kernel=(2, 2)),
        conv("c2", "p1", 2 * width), N("r2", "relu", "c2"), N("f", "flatten", "r2"), N("y", "dense", "f", out=10),
        shape=(1, 8, 8), name="random features",
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in graph.param_shapes.items():
        scale = np.sqrt(2 / max(1, np.prod(shape[1:]))) if len(shape) > 1 else 0.3
        weights[name] = (rng.normal(size=shape) * scale).astype(np.float32)
    weights["b1.running_var"] = np.full(width, 0.5, np.float32)
    weights["b1.weight"] = np.ones(width, np.float32)
    return fitted(graph.with_weights(weights))


def tune(graph: Graph, teacher: Graph) -> Graph:
    """What stands for fine-tuning: the last layer is solved again; the teacher is not asked."""
    return fitted(graph)


def slimmed(graph: Graph, **how: Any) -> SlimResult:
    """`slim` on the training part, by multiplications, tuned by `tune`, judged on the selection part.

    `how`: what else is asked, or asked otherwise.
    """
    known = Evidence(graph, digits()[0][TRAIN])
    return slim(known, **{"measure": by_macs, "tune": tune, "evaluate": accuracy, **how})
