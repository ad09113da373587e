"""Large batches run in slices, so that the memory of a run does not grow with the batch."""

from __future__ import annotations

from math import prod

from dojang.arith.graph import Graph
from dojang.arith.shapes import Shape
from dojang.base.errors import DojangError

SLICE_BYTES = 48 << 20
"""Of activations that live at once: a slice has at least that, and four times the weights, which it reads."""
LEAST_IMAGES = 16
_ALONE = frozenset(
    "input conv conv_transpose dense batchnorm lrn relu sigmoid tanh silu gelu elu selu clip leaky_relu hard_sigmoid "
    "hard_swish identity dropout flatten maxpool avgpool global_avgpool global_maxpool adaptive_avgpool "
    "adaptive_maxpool resize instancenorm groupnorm".split()
)
"""Operators that compute each image of a batch from that image alone, whatever their attributes."""
_TOGETHER = frozenset("add sub mul div maximum minimum".split())  # where all values have an image for each
_BY_AXIS = frozenset("concat softmax log_softmax".split())  # along another axis than that of the images


def slice_images(graph: Graph) -> int | None:
    """Images of a slice, a multiple of 4; None for a network that may mix the images of a batch.

    A multiple of 4, because dense layers take four images at a time: an answer is the same in slices or at once.
    """
    try:
        two, three = graph.shapes(2), graph.shapes(3)
    except DojangError:  # the network takes batches of some sizes only
        return None
    most = 0
    for node in graph.nodes:
        values = [node.name, *node.inputs]
        shapes: list[Shape] = []
        for name in values:
            a, b = two[name], three[name]
            if a is None or b is None or not a or a[0] != 2 or b != (3, *a[1:]):
                return None
            shapes.append(a)
        able = node.op in _ALONE or (node.op in _TOGETHER and len({len(s) for s in shapes}) == 1)
        if node.op in _BY_AXIS:
            able = node.attrs["axis"] % len(shapes[0]) != 0
        if not able:
            return None
        most = max(most, 4 * sum(prod(s[1:]) for s in shapes))
    weights = 4 * sum(prod(s) for s in graph.param_shapes.values())
    images = max(LEAST_IMAGES, -(-max(SLICE_BYTES, 4 * weights) // max(1, most)))
    return -(-images // 4) * 4


def slices(batch: int, images: int | None) -> list[tuple[int, int]]:
    """(first, end) of each slice of a batch; the last takes what is left over, so that none is small.

    >>> slices(100, 32), slices(63, 32)
    ([(0, 32), (32, 64), (64, 100)], [(0, 63)])
    """
    if images is None or batch < 2 * images:
        return [(0, batch)]
    firsts = [k * images for k in range(batch // images)]
    return list(zip(firsts, [*firsts[1:], batch], strict=True))
