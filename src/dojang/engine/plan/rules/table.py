"""The rules by operator: `RULES[op] = rule(context, group)` adds the steps of a group and says whether it could.

An operator without a row, and a group that its rule declines, is computed by the reference function.
"""

from __future__ import annotations

from types import MappingProxyType

from dojang.arith.ops import UNKNOWN
from dojang.arith.table import Table, because
from dojang.engine.fuse import ACTIVATIONS
from dojang.engine.plan.context import Rule, Rules
from dojang.engine.plan.rules import (
    axes,
    channels,
    convs,
    eights,
    elements,
    images,
    picking,
    pools,
    recurrent,
    rows,
    standard,
    strided,
    tokens,
)

RULES: Table[Rule] = Table(
    "kernels",
    "computed by a kernel",
    __name__,
    {
        "conv": convs.convolution,
        "conv_transpose": convs.convolution,
        "dense": convs.dense_layer,
        "batchnorm": elements.batchnorm,
        "lrn": elements.local_response,
        **dict.fromkeys(ACTIVATIONS, elements.unary),
        **dict.fromkeys(channels.PAIRS, elements.binary),
        "maxpool": pools.windowed,
        "avgpool": pools.windowed,
        "adaptive_maxpool": pools.largest_to_size,
        "adaptive_avgpool": pools.mean_to_size,
        "global_maxpool": pools.largest_to_size,
        "global_avgpool": pools.mean_to_size,
        "reduce_mean": pools.mean,
        "reduce_max": images.largest,
        "reduce_sum": axes.reduction,
        "reduce_min": axes.reduction,
        "gather": axes.gather,
        "prelu": elements.prelu,
        "concat": channels.concat,
        "slice": channels.some,
        "pad": channels.pad,
        **dict.fromkeys(("flatten", "reshape", "squeeze", "unsqueeze"), channels.reshape),
        "transpose": channels.transpose,
        "resize": images.resize,
        "softmax": images.probabilities,
        "log_softmax": images.probabilities,
        "instancenorm": tokens.instancenorm,
        "groupnorm": tokens.groupnorm,
        "layernorm": tokens.layernorm,
        "matmul": tokens.product,
        "recurrent": recurrent.layer,
        "standard": standard.operator,
        "not": picking.plain("not"),
    },
    because("nothing is computed", "input constant identity dropout")
    | because("there is no kernel; the reference computes it", "deform_conv dynamic_conv einsum")
    | {"pow": "there is a kernel for powers of one constant only; the reference computes the others"}
    | {UNKNOWN: "what it computes is not known"},
)
"""Where every input is a value that has a place."""

WITH_CONSTANTS = MappingProxyType({
    **dict.fromkeys(channels.PAIRS, strided.broadcast), "pow": strided.power, "standard": standard.operator,
})  # fmt: skip
"""Where an input is a constant, or the rule above declined."""

FLAT = frozenset((
    *ACTIVATIONS, "not", "standard", "reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "flatten", "reshape",
    "squeeze", "unsqueeze",
))  # fmt: skip
"""Operators whose rules take values of no axis and of one axis, too."""

ALL = Rules(rows.RULES, RULES, WITH_CONSTANTS, axes.placed, rows.brought, eights.group, eights.real, FLAT)
