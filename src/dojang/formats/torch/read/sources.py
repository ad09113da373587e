"""By which functions of PyTorch each operator is read; `trace.HANDLERS` holds the rules, by PyTorch's names."""

from __future__ import annotations

from dojang.arith.ops import STANDARD, UNKNOWN
from dojang.arith.table import Table

SAME_NAME = (
    "relu sigmoid tanh softplus softsign silu mish selu abs neg exp log sqrt erf reciprocal sin cos floor ceil round "
    "sign gelu leaky_relu elu prelu dropout softmax log_softmax add sub mul div pow maximum minimum flatten reshape "
    "squeeze unsqueeze pad matmul einsum"
).split()
"""Operators that PyTorch names as we do."""

RANKS = (2, 1, 3)

SOURCES: Table[tuple[str, ...]] = Table(
    "reading PyTorch",
    "read from PyTorch",
    __name__,
    {
        "input": ("an argument of forward",),
        "constant": ("a parameter, a buffer or a number", "full"),
        **{op: (op,) for op in SAME_NAME},
        "conv": tuple(f"conv{rank}d" for rank in RANKS),
        "conv_transpose": tuple(f"conv_transpose{rank}d" for rank in RANKS),
        "deform_conv": ("deform_conv2d",),
        "dynamic_conv": tuple(f"conv{rank}d" for rank in RANKS),
        "dense": ("linear",),
        "maxpool": tuple(f"max_pool{rank}d" for rank in RANKS),
        "avgpool": tuple(f"avg_pool{rank}d" for rank in RANKS),
        "adaptive_maxpool": tuple(f"adaptive_max_pool{rank}d" for rank in RANKS),
        "adaptive_avgpool": tuple(f"adaptive_avg_pool{rank}d" for rank in RANKS),
        "global_maxpool": tuple(f"adaptive_max_pool{rank}d" for rank in RANKS),
        "global_avgpool": tuple(f"adaptive_avg_pool{rank}d" for rank in RANKS),
        "batchnorm": ("batch_norm",),
        "instancenorm": ("instance_norm",),
        "groupnorm": ("group_norm",),
        "layernorm": ("layer_norm",),
        "lrn": ("local_response_norm",),
        "recurrent": ("lstm", "gru", "rnn_tanh", "rnn_relu"),
        "hard_swish": ("hardswish",),
        "hard_sigmoid": ("hardsigmoid",),
        "clip": ("clamp", "clip", "hardtanh", "relu6"),
        "not": ("logical_not",),
        "concat": ("cat", "stack"),
        "transpose": ("permute", "transpose"),
        "slice": ("getitem", "narrow", "chunk", "split", "tensor_split"),
        "gather": ("index_select", "getitem"),
        "resize": ("interpolate",),
        "reduce_mean": ("mean",),
        "reduce_sum": ("sum",),
        "reduce_max": ("amax",),
        "reduce_min": ("amin",),
        STANDARD: tuple(
            (
                "lstm gru rnn_tanh rnn_relu embedding grid_sample long int bool eq ne lt le gt ge logical_and "
                "logical_or logical_xor bitwise_and bitwise_or bitwise_xor bitwise_not isnan isinf isfinite any all "
                "where masked_fill tril triu nan_to_num remainder fmod threshold hardshrink tan asin acos "
                "atan sinh cosh asinh acosh atanh atan2 topk sort argsort argmax argmin gather take_along_dim "
                "index_select getitem scatter scatter_add scatter_reduce one_hot cumsum cumprod prod max_unpool2d"
            ).split()
        ),
    },
    {
        "identity": "copies and nn.Identity compute nothing and are left out of the network",
        "fake_quantize": "it is read from ONNX files only, where quantised values are made real again",
        UNKNOWN: "it stands for every function of PyTorch that has no rule",
    },
)
"""The functions of PyTorch that an operator is read from, the usual one first."""
