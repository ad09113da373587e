"""A network that normalises its own input: mean, deviation and the scale of pixels become its first two nodes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dojang.arith.graph import Graph, Node
from dojang.arith.preparation import preparations, takes_floats, unprepared
from dojang.base.errors import UsageError
from dojang.training.data import Normalisation


def normalising_inside(graph: Graph) -> Graph:
    """The network that takes pixels from 0 to 255 (or the values of the data) and normalises them itself.

    For each input x · a + b with one a and one b per channel, the float32 numbers that `dojang run` uses, so that the
    layers see the same bits. They are not folded into the first layer: its padding stands for values of 0 after
    normalisation, which are other values before it. Inputs that need nothing stay as they are. Raises UsageError where
    an input states no mean and deviation.
    """
    how = {found.input: found for found in preparations(graph)}
    silent = next((name for name, found in how.items() if found.where == "not stated"), None)
    if silent is not None:
        raise UsageError(
            f"{graph.name}: input {silent!r} states no mean and deviation, so they cannot go inside; export the model "
            "that `dojang train` wrote, or state mean= and std= at the input of a .net file"
        )
    floats = takes_floats(graph)
    taken = {node.name for node in graph.nodes} | set(graph.param_shapes)
    nodes: list[Node] = []
    weights = dict(graph.weights)
    instead: dict[str, str] = {}
    for node in graph.nodes:
        found = how.get(node.name)
        if node.op != "input" or found is None or found.where == "inside":
            nodes.append(replace(node, inputs=tuple(instead.get(i, i) for i in node.inputs)))
            continue
        factors = Normalisation(found.mean, found.std).factors(np.dtype(np.float32 if floats else np.uint8))
        value = node.name
        nodes.append(unprepared(node, floats))
        shape = (1, len(found.mean), *(1,) * (len(node.attrs["shape"]) - 1))
        for op, what, numbers in zip(("mul", "add"), ("scaled", "normalised"), factors, strict=True):
            constant = Node.of(_fresh(f"{node.name}.{what}.by", taken), "constant", shape=shape)
            step = Node.of(_fresh(f"{node.name}.{what}", taken), op, value, constant.name)
            nodes += [constant, step]
            weights[constant.array("value")] = numbers.reshape(shape)
            value = step.name
        instead[node.name] = value
    outputs = tuple(instead.get(name, name) for name in graph.outputs)
    return Graph(tuple(nodes), outputs, graph.name, weights, graph.meta)


def _fresh(stem: str, taken: set[str]) -> str:
    """A name that no node has yet."""
    name, count = stem, 2
    while name in taken:
        name, count = f"{stem}{count}", count + 1
    taken.add(name)
    return name
