"""Batch norms set to what they see: running means and variances measured anew after a cut.

What a cut leaves still has the statistics of the network before it, and its outputs drift for that reason alone, the
more the deeper the cut. Measured anew on samples, without labels or gradients, they tell how good a cut network will be
once it is tuned (Li et al., "EagleEye", ECCV 2020, section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dojang.arith.graph import Graph
from dojang.engine.reference.operators import check_inputs, last_readers
from dojang.engine.session import prepared

Array = np.ndarray


def with_measured_norms(graph: Graph, samples: Any) -> tuple[Graph, list[Array]]:
    """The network with batch norm statistics of these samples, and its outputs on them.

    Every norm sees what the part before it gives with its new statistics, as in one step of training. A norm whose
    arrays another node shares keeps them. Mean and variance (over samples and places, in float64) are those of the
    samples: give as many as the memory allows for the largest layer.
    """
    users: dict[str, int] = {}
    for node in graph.nodes:
        for role in graph.node_params(node):
            users[node.array(role)] = users.get(node.array(role), 0) + 1
    fed, values, arrays = check_inputs(graph, samples), dict[str, Array](), dict[str, Array]()
    last = last_readers(graph, ())
    for place, node in enumerate(graph.nodes):
        if node.op == "input":
            values[node.name] = np.asarray(fed[node.name], np.float32)
        else:
            inputs, own = [values[i] for i in node.inputs], graph
            names = [node.array(role) for role in node.rule.buffers]
            if node.op == "batchnorm" and all(users[name] == 1 for name in names):
                x = inputs[0].reshape(*inputs[0].shape[:2], -1)
                mean = x.mean(axis=(0, 2), dtype=np.float64)
                variance = np.square(x - mean[:, None]).mean(axis=(0, 2), dtype=np.float64)
                found = {node.array("running_mean"): mean, node.array("running_var"): variance}
                arrays |= {k: v.astype(np.asarray(graph.weights[k]).dtype) for k, v in found.items()}
                own = graph.replace(weights={**graph.weights, **arrays})
            values[node.name] = prepared(own, node)(inputs)
        for name in last.get(place, ()):
            values.pop(name, None)
    outputs = [np.array(values[name]) for name in graph.outputs]
    return graph.replace(weights={**graph.weights, **arrays}), outputs


class MeasuredNorms:
    """Batch norms of cut networks set to what a cut did to their statistics on some samples.

    mean = old mean + that of the cut network − that of the network before, both measured on the samples; variances by
    their ratio. Few samples, or samples of another kind than the network was trained on, change nothing by themselves,
    and a network that was not cut stays as it is.
    """

    def __init__(self, graph: Graph, samples: Any) -> None:
        """Measures the network before any cut."""
        self.graph, self.samples = graph, samples
        self.any = any(node.op == "batchnorm" for node in graph.nodes)
        self.seen = with_measured_norms(graph, samples)[0] if self.any else graph

    def of(self, cut: Graph, shaped: Callable[[Graph], Graph] = lambda graph: graph) -> Graph:
        """A cut network with its norms set. `shaped`: the same cut without any repair, which brings the statistics of
        the network before into the shapes of the cut one.
        """
        if not self.any:
            return cut
        now = with_measured_norms(cut, self.samples)[0].weights
        old, seen = shaped(self.graph).weights, shaped(self.seen).weights
        arrays: dict[str, Array] = {}
        for node in cut.nodes:
            names = [node.array(role) for role in node.rule.buffers] if node.op == "batchnorm" else []
            if not names or any(n not in seen or np.shape(seen[n]) != np.shape(now[n]) for n in names):
                continue  # a norm that a new form has put in has been fitted with it
            mean, variance = node.array("running_mean"), node.array("running_var")
            kind = np.asarray(cut.weights[mean]).dtype
            own = {n: [np.asarray(side[n], np.float64) for side in (old, now, seen)] for n in (mean, variance)}
            was, is_, before = own[mean]
            arrays[mean] = (was + is_ - before).astype(kind)
            was, is_, before = own[variance]
            arrays[variance] = (was * (is_ + TINY) / (before + TINY)).astype(kind)
        return cut.replace(weights={**cut.weights, **arrays})


TINY = 1e-12
