"""The pass `pack`: weights in the order in which kernels read them.

The original of each layer may go as soon as that layer is packed, so that memory holds the weights once. What is packed
stays, whatever fails later. Packing comes before LLVM, whose memory would otherwise be added to that of a layer while
it is packed: 17 MB at the peak of ResNet-50.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Set as AbstractSet

import numpy as np

from dojang.arith.graph import Graph
from dojang.base.errors import DojangError
from dojang.engine.plan.steps import KernelStep, Planned
from dojang.engine.weights import Weights

Arrays = dict[str, np.ndarray]


def pack(
    planned: Planned, packed: Arrays, release: bool, batch: int = 1, of_size: AbstractSet[str] = frozenset()
) -> tuple[Arrays, Arrays]:
    """Adds the arrays that are not in `packed` yet; gives those that hold for this size of the image alone, and the
    values of the constants by name. Constants whose arrays are in `of_size` hold for this size too.

    With `release` weights are removed from the graph's mapping when the last convolution that reads them has been
    packed; those stay whose form another batch than `batch` may change. An interrupt leaves each array either there or
    packed, so that the next call goes on from it.
    """
    graph = planned.fused.graph
    weights = Weights(graph)
    own: Arrays = {}
    here = {f"{n.name} constant" for n in graph.nodes if n.op == "constant" and n.array("value") in of_size}
    readers = Counter(n.array(r) for n in planned.fused.nodes for r in graph.node_params(n))
    stay = shaped_by_batch(graph, batch) if release else frozenset[str]()
    for step in planned.steps:
        packing = step.packing if isinstance(step, KernelStep) else None
        if packing is None:
            continue
        at = packed if not packing.of_size and here.isdisjoint(packing.keys) else own
        if any(key not in at for key in packing.keys):
            at |= dict(zip(packing.keys, packing.make(weights), strict=True))
        for group in packing.groups if release else ():
            if stay.isdisjoint((group.value, *group.inputs)):
                let_go(graph.weights, group.node.array("weight"), readers)
    return own, {name: weights.constant(graph[name]) for name in planned.constants}


def shaped_by_batch(graph: Graph, batch: int) -> AbstractSet[str]:
    """The values whose shape changes with the batch elsewhere than in axis 0, as in sequences (steps, batch, features).

    What an algorithm sees as pixels then depends on the batch: one in the one, some in the other.
    """
    try:
        other = graph.shapes(batch + 1)
    except DojangError:  # it takes no other batch
        return frozenset()
    shapes = graph.shapes(batch)
    return {name for name, shape in shapes.items() if (shape or ())[1:] != (other[name] or ())[1:]}


def let_go(weights: object, array: str, readers: Counter[str]) -> None:
    """Forgets an array whose last reader has taken it."""
    readers[array] -= 1
    if readers[array] == 0:
        assert isinstance(weights, dict)  # the network's own mapping
        weights.pop(array, None)
