"""If and Loop by values: the network of the body that is taken is run, as often as values say."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from dojang.arith.graph import Graph, Node
from dojang.base.errors import DataError, ShapeError

Array = np.ndarray
RunBody = Callable[[Graph, Mapping[str, Array]], Sequence[Array]]
"""Runs a network: its outputs for arrays by the names of its inputs."""


@lru_cache(maxsize=256)
def _settings(text: str) -> Mapping[str, Any]:
    return json.loads(text)


@lru_cache(maxsize=256)
def _graph(text: str, body: str, network: str) -> Graph:
    """The network of a body, without weights."""
    said = _settings(text)[body]
    nodes = tuple(
        Node.of(n["name"], n["op"], *n["inputs"], arrays=n["arrays"], **n["attrs"]) for n in said["nodes"]
    )  # fmt: skip
    return Graph(nodes, tuple(said["outputs"]), name=network)


def run(node: Node, inputs: Sequence[Array], body: RunBody) -> tuple[Array, ...]:
    """All outputs of an If or a Loop."""
    text = node.attrs["settings"]
    if node.attrs["kind"] == "If":
        return tuple(_run(text, "then_branch" if truth(inputs[0]) else "else_branch", node.name, inputs, {}, body))
    settings = _settings(text)
    most, on = (inputs[p] if p is not None else None for p in settings["given"])
    names, carried = settings["names"], [inputs[p] for p in settings["carried"]]
    limit = int(np.asarray(most).reshape(-1)[0]) if most is not None else None
    going, turn = on is None or truth(on), 0
    collected: list[list[Array]] = [[] for _ in settings["body"]["outputs"][1 + len(carried) :]]
    while going and (limit is None or turn < limit):
        given = dict(zip(names, [np.array(turn, np.int64), np.array(True), *carried], strict=True))
        found = _run(text, "body", node.name, inputs, given, body)
        shapes = [a.shape for a in carried], [a.shape for a in found[1 : 1 + len(carried)]]
        if shapes[0] != shapes[1]:
            raise ShapeError(f"{node.name}: turn {turn + 1} changes the shape of what it carries to the next one")
        going, carried, turn = truth(found[0]), list(found[1 : 1 + len(carried)]), turn + 1
        for column, value in zip(collected, found[1 + len(carried) :], strict=True):
            column.append(np.asarray(value))
    return (*carried, *(np.stack(c) if c else np.zeros((0,), np.float32) for c in collected))


def truth(array: Array) -> bool:
    """A condition, which is one value."""
    if np.size(array) != 1:
        raise DataError(f"a condition is one truth value, got {np.size(array)}; run one sample at a time")
    return bool(np.asarray(array).reshape(-1)[0])


def _run(
    text: str, which: str, network: str, inputs: Sequence[Array], given: Mapping[str, Array], run_body: RunBody
) -> Sequence[Array]:
    """The outputs of a body: its own inputs are `given`, the others are inputs of the node."""
    said = _settings(text)[which]
    if "error" in said:
        raise ShapeError(f"the branch that values decide for does not take inputs of this size: {said['error']}")
    graph = _graph(text, which, network)
    fed = {name: given[p] if isinstance(p, str) else inputs[p] for name, p in said["inputs"].items()}
    weights = {name: inputs[p] for name, p in said["weights"].items()}
    return run_body(graph.replace(weights=weights) if weights else graph, fed)
