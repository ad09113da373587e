"""The probabilities that the scores of a network mean."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dojang.arith.graph import Graph
from dojang.arith.outputs import output_numbers


def probabilities(graph: Graph, scores: NDArray[Any]) -> NDArray[np.float64]:
    """The probability of each class from the network's first output (n, classes), as `PROBABILITY` says it.

    A row adds up to 1, unless each class has a probability of its own.
    """
    wide = np.asarray(scores, np.float64)
    match output_numbers(graph):
        case "softmax" | "sigmoid":
            return wide
        case "log_softmax":
            return np.exp(wide)
        case "logits":
            return 0.5 * (1 + np.tanh(wide / 2))  # the logistic function, which does not overflow
        case "scores":
            powers = np.exp(wide - wide.max(axis=1, keepdims=True))
            return powers / powers.sum(axis=1, keepdims=True)
