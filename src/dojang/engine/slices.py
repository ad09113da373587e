"""Large batches run in slices, so that the memory of a run does not grow with the batch, and small ones do where that
is faster.
"""

from __future__ import annotations

from math import prod
from typing import Literal

from dojang.arith.graph import Graph
from dojang.arith.shapes import Shape
from dojang.arith.table import Table, because
from dojang.base.errors import DojangError

SLICE_BYTES = 48 << 20
"""Of activations that live at once: a slice has at least that, and four times the weights, which it reads."""
LEAST_IMAGES = 16
NEAR_WEIGHTS, NEAR_BYTES, LEAST_NEAR = 16 << 20, 24 << 20, 4
"""Weights of so many bytes stay in a shared cache, so that reading them again for a small slice costs little and
activations stay there too: MobileNetV2 took 6.6 ms an image in slices of 4, 7.4 in one of 8 (one thread of Zen 4).
"""
SLICED: Table[Literal["alone", "together", "by axis"]] = Table(
    "batches in slices",
    "run in slices of a batch",
    __name__,
    {
        **dict.fromkeys("input conv conv_transpose dense batchnorm instancenorm groupnorm lrn resize".split(), "alone"),
        **dict.fromkeys("maxpool avgpool adaptive_maxpool adaptive_avgpool".split(), "alone"),
        **dict.fromkeys("global_maxpool global_avgpool flatten identity dropout".split(), "alone"),
        **dict.fromkeys(
            "relu sigmoid tanh silu gelu elu selu clip leaky_relu hard_sigmoid fake_quantize".split(), "alone"
        ),
        **dict.fromkeys("softplus softsign mish prelu abs neg exp log sqrt erf reciprocal".split(), "alone"),
        **dict.fromkeys("hard_swish sin cos floor ceil round sign not".split(), "alone"),
        **dict.fromkeys("add sub mul div maximum minimum pow".split(), "together"),
        **dict.fromkeys(("concat", "softmax", "log_softmax"), "by axis"),
    },
    because(
        "it may mix the images of a batch",
        "constant deform_conv dynamic_conv layernorm reshape transpose squeeze unsqueeze pad slice gather reduce_mean "
        "reduce_sum reduce_max reduce_min matmul einsum recurrent unknown standard",
    ),
)
"""Whether an operator computes each image of a batch from that image alone: "alone" whatever its attributes,
"together" where all values have an image for each, "by axis" along another axis than that of the images."""


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
        how = SLICED.find(node)
        same_rank = len({len(s) for s in shapes}) == 1
        by_axis = how == "by axis" and node.attrs["axis"] % len(shapes[0]) != 0
        if not (how == "alone" or (how == "together" and same_rank) or by_axis):
            return None
        most = max(most, 4 * sum(prod(s[1:]) for s in shapes))
    weights = 4 * sum(prod(s) for s in graph.param_shapes.values())
    if weights <= NEAR_WEIGHTS:
        images = max(LEAST_NEAR, -(-NEAR_BYTES // max(1, most)))
    else:
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
