"""The rules by operator: `RULES[op] = rule(context, group)` adds the steps of a group and says whether it could.

An operator without a row, and a group that its rule declines, is computed by the reference function.
"""

from __future__ import annotations

from types import MappingProxyType

from dojang.engine.kernels.activations import NAMES
from dojang.engine.plan.context import Rules
from dojang.engine.plan.rules import channels, convs, elements, images, pools, strided, tokens

ACTIVATIONS = ("relu sigmoid tanh silu gelu elu selu leaky_relu hard_swish hard_sigmoid clip").split()

RULES = MappingProxyType(
    {
        "conv": convs.convolution,
        "conv_transpose": convs.convolution,
        "dense": convs.dense_layer,
        "batchnorm": elements.batchnorm,
        "lrn": elements.local_response,
        **dict.fromkeys((*ACTIVATIONS, *sorted(NAMES)), elements.unary),
        **dict.fromkeys(channels.PAIRS, elements.binary),
        "maxpool": pools.windowed,
        "avgpool": pools.windowed,
        "adaptive_maxpool": pools.largest_to_size,
        "adaptive_avgpool": pools.mean_to_size,
        "global_maxpool": pools.largest_to_size,
        "global_avgpool": pools.mean_to_size,
        "reduce_mean": pools.mean,
        "reduce_max": images.largest,
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
    }
)
"""Where every input is a value that has a place."""

WITH_CONSTANTS = MappingProxyType({**dict.fromkeys(channels.PAIRS, strided.broadcast), "pow": strided.power})
"""Where an input is a constant, or the rule above declined."""

ALL = Rules(RULES, WITH_CONSTANTS)
