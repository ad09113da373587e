"""Operators of ONNX that dojang has no row of its own for, and that it runs as the standard defines them.

A node `standard` stands for one output of such an operator: `kind` names it, as in the standard ("TopK"), with its
domain if that is another one ("com.microsoft.QLinearAdd"). `engine/reference/standard` computes them in NumPy;
`formats/onnx/infer.py` says which shapes and types they have. Here stands what they cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from dojang.arith.attrs import Attrs

Shape = tuple[int, ...]
Given = Mapping[int, Shape]
"""Shapes of the inputs by their place in the operator's list; inputs that are left out are missing."""

TYPES = (
    "bool int2 uint2 int4 uint4 int8 uint8 int16 uint16 int32 uint32 int64 uint64 float16 bfloat16 float32 float64 "
    "float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn complex64 complex128 string"
).split()
"""Types of values."""

REAL = frozenset(("float16", "bfloat16", "float32", "float64"))
"""Types of real numbers."""

SINGLE = REAL - {"float64"}
"""Types that kernels compute, in float32, whatever a file stores; outputs have the type of the file."""


def given(attrs: Attrs, shapes: Sequence[Shape]) -> Given:
    """The shapes of a node's inputs by their places."""
    places = attrs["places"] or tuple(range(len(shapes)))
    return dict(zip(places, shapes, strict=False))


def macs(attrs: Attrs, shapes: Sequence[Shape]) -> int:
    """Multiply-accumulates of the operator: products with weights and of matrices, as for dojang's own operators.

    The first of the outputs that are read carries them; the others cost nothing.
    """
    rule = MACS.get(attrs["kind"].rpartition(".")[2])
    return rule(attrs, given(attrs, shapes)) if rule is not None and attrs["first"] else 0


def _recurrent(attrs: Attrs, shapes: Given) -> Any:
    """Per step and direction: gates × hidden × (inputs + hidden). X is (steps, n, inputs), W (directions, gates·hidden,
    inputs), R (directions, gates·hidden, hidden); peepholes and the products between gates are not counted.
    """
    x, w, r = shapes[0], shapes[1], shapes[2]
    return x[0] * x[1] * (prod(w) + prod(r))


def _product(attrs: Attrs, shapes: Given, a: int = 0, b: int = 1) -> Any:
    left, right = shapes[a], shapes[b]
    if len(left) < 2 or len(right) < 2:
        return max(prod(left), prod(right))
    lead = left[:-2] if prod(left[:-2]) >= prod(right[:-2]) else right[:-2]
    return prod(lead) * left[-2] * left[-1] * right[-1]


def _attention(attrs: Attrs, shapes: Given) -> Any:
    """Q·Kᵀ and the product with V, for every query and key, whatever the mask leaves out; K and V of the past count."""
    q, k, v = shapes[0], shapes[1], shapes[2]
    past = shapes[4][2] if 4 in shapes else 0
    if len(q) == 4:
        return q[0] * q[1] * q[2] * (k[2] + past) * (q[3] + v[3])
    heads = attrs_of(attrs).get("kv_num_heads") or 1
    each = v[2] // heads * (attrs_of(attrs).get("q_num_heads") or 1)
    return q[0] * q[1] * (k[1] + past) * (q[2] + each)


def _convolution(attrs: Attrs, shapes: Given, weight: int) -> Any:
    """Each output takes all weights of its filter; padding counts."""
    out = attrs["shape"]
    if out is None:
        return 0
    batch = shapes[0][0] if attrs["batch_axis"] >= 0 else 1
    return batch * prod(tuple(out)) * prod(shapes[weight][1:])


def attrs_of(attrs: Attrs) -> dict[str, Any]:
    """The attributes of the operator, as the file gives them."""
    import json

    return json.loads(attrs["settings"])


BY_ELEMENT = frozenset(
    (
        "And Or Xor Not Equal Less LessOrEqual Greater GreaterOrEqual Where Mod Add Sub Mul Div Pow Max Min Sum Mean "
        "BitShift BitwiseAnd BitwiseOr BitwiseXor BitwiseNot Clip Cast IsNaN IsInf Identity Neg Abs Sign Relu Floor "
        "Ceil Round Sqrt Exp Log Erf Reciprocal Sigmoid Tanh Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh "
        "Softplus Softsign Mish HardSwish HardSigmoid LeakyRelu Elu Selu Celu Gelu Swish ThresholdedRelu Shrink "
    ).split()
)
"""Operators whose elements depend on the elements at the same places of their inputs alone, which broadcast."""


def by_element(attrs: Attrs) -> bool:
    """Whether a node works element by element; an `axis`, as versions before 7 have it, says where a value begins."""
    return attrs["kind"] in BY_ELEMENT and attrs["batch_axis"] == 0 and "axis" not in attrs_of(attrs)


CONTROL = frozenset(("If", "Loop"))
"""Operators with networks in their settings, between which values decide: what they cost is not known beforehand."""


MACS: Mapping[str, Callable[[Attrs, Given], Any]] = {
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "MatMulInteger": _product,
    "QLinearMatMul": lambda a, s: _product(a, s, 0, 3),
    "Attention": _attention,
    "ConvInteger": lambda a, s: _convolution(a, s, 1),
    "QLinearConv": lambda a, s: _convolution(a, s, 3),
    "Conv": lambda a, s: _convolution(a, s, 1),
    "DeformConv": lambda a, s: _convolution(a, s, 1),
    "ConvTranspose": lambda a, s: prod(s[0]) * prod(s[1][1:]),
    "MatMul": _product,
    "Gemm": lambda a, s: prod(s[0]) * s[1][0 if attrs_of(a).get("transB") else 1],
    "QGemm": lambda a, s: prod(s[0]) * s[3][0 if attrs_of(a).get("transB") else 1],
    "MatMulIntegerToFloat": _product,
    "DynamicQuantizeMatMul": _product,
}
"""Operators with multiply-accumulates; all others have none, as pooling, sorting and arithmetic element by element."""
