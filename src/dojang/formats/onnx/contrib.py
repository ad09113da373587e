"""Operators of ONNX Runtime's own domain, which its optimiser writes, in dojang's operators.

Source: the page "ContribOperators" of ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dojang.formats.onnx.draft import Call, Draft, NotDone, Reader, Value
from dojang.formats.onnx.layers import conv, gemm, layer_norm, matmul

Rule = Callable[[Reader, Call], Any]


def activated(reader: Reader, value: Value, name: str, params: Sequence[float]) -> Value:
    """A value behind one of the activations that are fused into layers."""
    p = list(params)
    match name:
        case "":
            return value
        case "Relu" | "Sigmoid" | "Tanh" | "Softplus" | "Softsign":
            return reader.emit(name.lower(), value)
        case "LeakyRelu":
            return reader.emit("leaky_relu", value, slope=p[0] if p else 0.01)
        case "Clip":
            low, high = [*p, None, None][:2]
            return reader.emit("clip", value, min=low, max=high)
        case "HardSigmoid":
            alpha, beta = p if len(p) == 2 else (0.2, 0.5)
            return reader.emit("hard_sigmoid", value, alpha=alpha, beta=beta)
        case "Elu":
            return reader.emit("elu", value, alpha=p[0] if p else 1.0)
        case "HardSwish":
            return reader.emit("hard_swish", value)
    raise NotDone(f"the activation {name!r}")


def fused_conv(reader: Reader, call: Call) -> Value:
    """FusedConv: a convolution, then perhaps a sum, then an activation."""
    name, label = str(call.attrs.get("activation", "")), reader.label
    added = call.inputs[3] if len(call.inputs) > 3 else None
    value: Value = conv(reader, replace(call, inputs=call.inputs[:3]))
    if added is not None:
        reader.label = tuple(f"{w}.sum" for w in label)
        value = reader.emit("add", value, added)
    reader.label = tuple(f"{w}.{name.lower()}" for w in label)
    value = activated(reader, value, name, call.attrs.get("activation_params", ()))
    reader.label = label
    return value


def fused_gemm(reader: Reader, call: Call) -> Value:
    """FusedGemm: Gemm, then an activation."""
    a, label = call.attrs, reader.label
    name = str(a.get("activation", ""))
    value = gemm(reader, call)
    params = [a[key] for key in ("activation_alpha", "activation_beta", "activation_gamma") if key in a]
    reader.label = tuple(f"{w}.{name.lower()}" for w in label)
    value = activated(reader, value, name, params)
    reader.label = label
    return value


def fused_matmul(reader: Reader, call: Call) -> Value:
    """FusedMatMul: a product of matrices that may be transposed, times alpha."""
    a = call.attrs
    if a.get("transBatchA") or a.get("transBatchB"):
        raise NotDone("batches transposed")
    values: list[Value] = []
    for place, name in ((0, "transA"), (1, "transB")):
        value = call.value(place)
        if a.get(name):
            rank = len(reader.shape(value))
            perm = (*range(rank - 2), rank - 1, rank - 2)
            turned = value.transposed(perm) if not isinstance(value, Draft) else None
            value = turned or reader.emit("transpose", value, perm=perm, tag=f"turned{place}")
        values.append(value)
    label, alpha = reader.label, a.get("alpha", 1.0)
    value = matmul(reader, replace(call, inputs=tuple(values)))
    if alpha == 1.0:
        return value
    reader.label = tuple(f"{w}.scaled" for w in label)
    value = reader.emit("mul", value, reader.fill(alpha))
    reader.label = label
    return value


def bias_gelu(approximate: str) -> Rule:
    """BiasGelu and FastGelu: gelu of a sum; the second has no bias by itself."""

    def rule(reader: Reader, call: Call) -> Value:
        value = call.value(0)
        if len(call.inputs) > 1 and call.inputs[1] is not None:
            value = reader.emit("add", value, call.value(1), tag="sum")
        return reader.emit("gelu", value, approximate=approximate)

    return rule


def skip_layer_norm(reader: Reader, call: Call) -> list[Value]:
    """SkipLayerNormalization: a sum, then its layer norm; the sum itself is the fourth output."""
    total: Value = reader.emit("add", call.value(0), call.value(1), tag="sum")
    if len(call.inputs) > 4 and call.inputs[4] is not None:
        total = reader.emit("add", total, call.value(4), tag="biased")
    shift = call.inputs[3] if len(call.inputs) > 3 else None
    inner = replace(call, inputs=(total, call.value(2), shift), outputs=call.outputs[:1])
    attrs = {"epsilon": call.attrs.get("epsilon", 1e-5), "axis": -1}
    value = layer_norm(reader, replace(inner, attrs=attrs))
    if any(o and reader.used[o] for o in call.outputs[1:3]):
        raise NotDone("mean and deviation are read")
    return [value, reader.fill(0.0), reader.fill(0.0), total]


def simplified_layer_norm(reader: Reader, call: Call) -> Value:
    """SimplifiedLayerNormalization: the standard's RMSNormalization."""
    source = reader.draft(call.value(0))
    attrs = {"axis": call.attrs.get("axis", -1), "epsilon": call.attrs.get("epsilon", 1e-5)}
    return reader.standard("RMSNormalization", source, call.value(1), dtype=source.dtype, **attrs)


def bias_add(reader: Reader, call: Call) -> Value:
    """BiasAdd: x + bias + skip."""
    return reader.emit("add", *(v for v in call.inputs if v is not None))


RULES: Mapping[str, Rule] = {
    "com.microsoft.FusedConv": fused_conv,
    "com.microsoft.FusedGemm": fused_gemm,
    "com.microsoft.FusedMatMul": fused_matmul,
    "com.microsoft.TransposeMatMul": fused_matmul,
    "com.microsoft.BiasGelu": bias_gelu("none"),
    "com.microsoft.Gelu": bias_gelu("none"),
    "com.microsoft.FastGelu": bias_gelu("tanh"),
    "com.microsoft.SkipLayerNormalization": skip_layer_norm,
    "com.microsoft.BiasAdd": bias_add,
    "SimplifiedLayerNormalization": simplified_layer_norm,
}
"""One rule per operator."""
