"""The keys of a network's outputs, where the program that it was read from names them: an entry of its `meta`. And what
the numbers of the first output are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import log
from typing import Any, Literal, cast

from dojang.arith.graph import Graph

KEY = "outputs"


def as_text(keys: Sequence[str]) -> str:
    """The keys in the order of the outputs, as the text that `meta` keeps.

    >>> as_text(["logits", "boxes.0"])
    '["logits", "boxes.0"]'
    """
    return json.dumps(list(keys))


def output_keys(graph: Graph) -> tuple[str, ...]:
    """A name for each output: its key where the network has keys, else the name of the node that makes it.

    Keys count only where there is one for each output and none stands twice, as another program may have changed them.
    """
    try:
        found: Any = json.loads(graph.meta.get(KEY, "[]"))
    except (ValueError, RecursionError):
        return graph.outputs
    keys = cast(list[Any], found) if isinstance(found, list) else []
    names = tuple(key for key in keys if isinstance(key, str))
    return names if len(keys) == len(names) == len(set(names)) == len(graph.outputs) else graph.outputs


Numbers = Literal["scores", "softmax", "log_softmax", "sigmoid", "logits"]
"""What an output's numbers are: scores whose softmax are probabilities, those probabilities or their logarithms, one
probability for each class, or one score for each class ("logits") whose logistic function is its probability."""

_SHAPED = frozenset(("flatten", "reshape", "transpose", "identity", "dropout"))


def output_numbers(graph: Graph) -> Numbers:
    """What the numbers of the first output are, by the operator that computes them and by the task of the training."""
    node = graph[graph.outputs[0]]
    while node.op in _SHAPED and len(node.inputs) == 1:
        node = graph[node.inputs[0]]
    if node.op == "softmax" or node.op == "log_softmax" or node.op == "sigmoid":
        return node.op
    return "logits" if graph.meta.get("task") == "multilabel" else "scores"


def yes_above(numbers: Numbers) -> float:
    """The number above which an output says that a sample has a class, where a sample may have several: a probability
    of one half.

    >>> yes_above("logits"), yes_above("sigmoid")
    (0.0, 0.5)
    """
    match numbers:
        case "sigmoid" | "softmax":
            return 0.5
        case "log_softmax":
            return log(0.5)
        case "logits" | "scores":
            return 0.0


PROBABILITY: dict[Numbers, str] = {
    "scores": "the softmax of the scores",
    "softmax": "what the network gives, because it ends in softmax",
    "log_softmax": "the exponential of what the network gives, because it ends in log-softmax",
    "sigmoid": "what the network gives for each class by itself, because it ends in sigmoid",
    "logits": "the logistic function of each class's own score",
}
"""What a probability is, in words."""
