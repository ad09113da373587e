"""The operators of ONNX from which each operator of dojang is read; `read.RULES` has the rules, by ONNX's names."""

from __future__ import annotations

from dojang.arith.ops import STANDARD, UNKNOWN
from dojang.arith.table import Table, because
from dojang.formats.onnx.infer import OUTPUTS

SAME_NAME = (
    "identity relu sigmoid tanh softplus softsign mish selu abs neg exp log sqrt erf reciprocal sin cos floor ceil "
    "round sign gelu elu clip dropout softmax add mul sub div pow concat flatten reshape transpose squeeze unsqueeze "
    "pad slice gather resize einsum"
).split()
"""Operators with the same name in ONNX, except for the capital."""

SOURCES: Table[tuple[str, ...]] = Table(
    "reading ONNX",
    "read from ONNX",
    __name__,
    {
        STANDARD: tuple(sorted(OUTPUTS)),
        "input": ("an input of the graph",),
        "constant": ("an initialiser", "Constant", "ConstantOfShape"),
        **{op: (op.capitalize(),) for op in SAME_NAME},
        "conv": ("Conv",),
        "conv_transpose": ("ConvTranspose",),
        "deform_conv": ("DeformConv",),
        "dynamic_conv": ("Conv",),
        "dense": ("Gemm", "MatMul"),
        "matmul": ("MatMul", "Gemm"),
        "maxpool": ("MaxPool",),
        "avgpool": ("AveragePool",),
        "global_maxpool": ("GlobalMaxPool",),
        "global_avgpool": ("GlobalAveragePool",),
        "batchnorm": ("BatchNormalization",),
        "instancenorm": ("InstanceNormalization",),
        "groupnorm": ("GroupNormalization",),
        "layernorm": ("LayerNormalization",),
        "lrn": ("LRN",),
        "prelu": ("PRelu",),
        "fake_quantize": ("DequantizeLinear",),
        "leaky_relu": ("LeakyRelu",),
        "hard_sigmoid": ("HardSigmoid",),
        "hard_swish": ("HardSwish",),
        "silu": ("Mul", "Swish"),
        "not": ("Equal",),
        "log_softmax": ("LogSoftmax",),
        "recurrent": ("LSTM", "GRU", "RNN"),
        "maximum": ("Max",),
        "minimum": ("Min",),
        "reduce_mean": ("ReduceMean",),
        "reduce_sum": ("ReduceSum",),
        "reduce_max": ("ReduceMax",),
        "reduce_min": ("ReduceMin",),
    },
    because(
        "ONNX has no such pool: it is read as a plain or a global one, unless a note of dojang in the file says more",
        "adaptive_maxpool adaptive_avgpool",
    )
    | {UNKNOWN: "it stands for every operator of ONNX that has no rule"},
)
"""The operators of ONNX that an operator is read from, the usual one first."""
