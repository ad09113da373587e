"""Operators of ONNX that work element by element, and normalisations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import reduce

import numpy as np

from dojang.base.errors import UnsupportedError
from dojang.engine.reference.elements import erf, sigmoid, softplus
from dojang.engine.reference.standard.call import Array, Function, OperatorCall, axis_in
from dojang.engine.reference.standard.types import type_of


def unary(function: Callable[[Array], Array]) -> Function:
    """A function of one array."""
    return lambda call: (np.asarray(function(call[0])),)


def pair(function: Callable[[Array, Array], Array]) -> Function:
    """A function of two arrays that broadcast; before version 7 the second has its place given by `axis`."""

    def run(call: OperatorCall) -> tuple[Array, ...]:
        a, b = call[0], call[1]
        if call.opset < 7 and "axis" in call.attrs and b.ndim < a.ndim:
            axis = axis_in(call.attrs["axis"], a.ndim)
            b = b.reshape(*b.shape, *(1,) * (a.ndim - axis - b.ndim))
        return (np.asarray(function(a, b)),)

    return run


def several(function: Callable[[Array, Array], Array]) -> Function:
    """A function of two arrays, over all inputs from left to right."""
    return lambda call: (np.asarray(reduce(function, call.present())),)


def divide(a: Array, b: Array) -> Array:
    """Whole numbers are rounded towards zero."""
    if a.dtype.kind not in "iu":
        return a / b
    safe = np.where(b == 0, 1, b).astype(b.dtype)
    quotient = a // safe
    return (quotient + ((a % safe != 0) & ((a < 0) != (safe < 0)))).astype(a.dtype)


def mod(call: OperatorCall) -> tuple[Array, ...]:
    """The rest: with the sign of the divisor, or with `fmod` that of the dividend."""
    return ((np.fmod if call.attr("fmod") else np.mod)(call[0], call[1]),)


def power(call: OperatorCall) -> tuple[Array, ...]:
    """a to the power b, in the type of a."""
    a, b = call[0], call[1]
    if a.dtype.kind in "iu" and b.dtype.kind in "iu":
        return (np.power(a, np.maximum(b, 0).astype(a.dtype)),)
    return (np.power(a.astype("f8") if a.dtype.kind in "iu" else a, b).astype(a.dtype),)


def shift(call: OperatorCall) -> tuple[Array, ...]:
    """Bits moved to the left or right."""
    return ((np.left_shift if call.attr("direction") == "LEFT" else np.right_shift)(call[0], call[1]),)


def clip(call: OperatorCall) -> tuple[Array, ...]:
    """Values held within two bounds, either of which may be left out."""
    x = call[0]
    for place, name, hold in ((1, "min", np.maximum), (2, "max", np.minimum)):
        bound = call.attrs.get(name, call.get(place))
        x = x if bound is None else hold(x, np.asarray(bound, x.dtype))
    return (x,)


def celu(call: OperatorCall) -> tuple[Array, ...]:
    """max(0, x) + min(0, α·(e^(x/α) − 1))."""
    x, alpha = call[0], call.attr("alpha", 1.0)
    return (np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(x / alpha)),)


def shrink(call: OperatorCall) -> tuple[Array, ...]:
    """x moved towards 0 by `bias`, 0 within `lambd`."""
    x, near, bias = call[0], call.attr("lambd", 0.5), call.attr("bias", 0.0)
    return (np.where(x < -near, x + bias, np.where(x > near, x - bias, 0)).astype(x.dtype),)


def prelu(call: OperatorCall) -> tuple[Array, ...]:
    """x where positive, else slope·x; before version 7 a slope per channel."""
    x, slope = call[0], call[1]
    if call.opset < 7 and slope.ndim == 1 and x.ndim > 2:
        slope = slope.reshape(-1, *(1,) * (x.ndim - 2))
    return (np.where(x > 0, x, x * slope).astype(x.dtype),)


def elu(call: OperatorCall) -> tuple[Array, ...]:
    """x where positive, else α·(e^x − 1)."""
    x = call[0]
    return (np.where(x > 0, x, call.attr("alpha", 1.0) * np.expm1(x)),)


def selu(call: OperatorCall) -> tuple[Array, ...]:
    """γ·elu(x, α)."""
    x, alpha, gamma = call[0], call.attr("alpha", 1.67326319217681884765625), call.attr("gamma", 1.05070102214813232)
    return (np.where(x > 0, gamma * x, gamma * alpha * np.expm1(x)),)


def gelu(call: OperatorCall) -> tuple[Array, ...]:
    """x·Φ(x), exactly or by tanh."""
    x = call[0]
    if call.attr("approximate", "none") == "tanh":
        return (0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),)
    return (0.5 * x * (1 + erf(x * math.sqrt(0.5))),)


def isinf(call: OperatorCall) -> tuple[Array, ...]:
    """Infinities of the asked signs."""
    x = call[0]
    found = np.zeros(x.shape, bool)
    if call.attr("detect_positive", 1):
        found |= x == np.inf
    if call.attr("detect_negative", 1):
        found |= x == -np.inf
    return (found,)


def cast(call: OperatorCall) -> tuple[Array, ...]:
    """Another type. Real numbers are cut towards zero; what does not fit wraps around."""
    return (as_type(call[0], type_of(call.attrs["to"])),)


def cast_like(call: OperatorCall) -> tuple[Array, ...]:
    """The type of the second input."""
    return (as_type(call[0], call.dtype),)


def as_type(x: Array, wanted: str) -> Array:
    """An array in another type."""
    if wanted == "string" or x.dtype.kind in "OSU":
        if x.dtype.kind in "OSU" and wanted != "string":
            return np.array([float(v) for v in x.ravel()], "f8").reshape(x.shape).astype(wanted)
        raise UnsupportedError("a cast to text is not supported")
    if wanted.startswith(("float8", "float4")):
        raise UnsupportedError(f"numbers of type {wanted} are not computed with")
    if wanted == "bool":
        return x != 0
    if wanted in ("float16", "bfloat16"):
        return rounded(x.astype(np.float32), wanted)
    if wanted in ("float32", "float64"):
        return x.astype(wanted)
    bits = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2}.get(wanted)
    if bits is None:
        if x.dtype.kind == "f" and wanted.startswith(("u", "int8", "int16")):
            return x.astype(np.int64).astype(wanted)
        return x.astype(wanted)
    whole = x.astype(np.int64) & ((1 << bits) - 1)
    if wanted.startswith("u"):
        return whole.astype(np.uint8)
    return np.where(whole >= 1 << (bits - 1), whole - (1 << bits), whole).astype(np.int8)


def rounded(x: Array, wanted: str) -> Array:
    """float32 numbers, rounded to those that a shorter type has."""
    if wanted == "float16":
        return x.astype(np.float16).astype(np.float32)
    bits = np.ascontiguousarray(x).view(np.uint32)
    even = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), x, even.astype(np.uint32).view(np.float32))


def hardmax(call: OperatorCall) -> tuple[Array, ...]:
    """1 at the first of the largest values along an axis, else 0; before version 13 over all axes from it on."""
    x, shape = call[0], call[0].shape
    axis = call.attr("axis", -1 if call.opset >= 13 else 1)
    axis = axis % x.ndim
    if call.opset < 13:
        x, axis = x.reshape(int(np.prod(shape[:axis])), -1), 1
    out = np.zeros_like(x)
    np.put_along_axis(out, np.expand_dims(x.argmax(axis), axis), 1, axis)
    return (out.reshape(shape),)


def softmax(log: bool) -> Function:
    """Probabilities along an axis, or their logarithms; before version 13 over all axes from it on."""

    def run(call: OperatorCall) -> tuple[Array, ...]:
        x, shape = call[0], call[0].shape
        axis = call.attr("axis", -1 if call.opset >= 13 else 1)
        if call.opset < 13:
            axis = axis % max(1, x.ndim)
            x, axis = x.reshape(int(np.prod(shape[:axis])), -1), 1
        less = x - x.max(axis, keepdims=True, initial=-np.inf)
        whole = np.exp(less).sum(axis, keepdims=True)
        return ((less - np.log(whole) if log else np.exp(less) / whole).reshape(shape),)

    return run


def layer_norm(call: OperatorCall) -> tuple[Array, ...]:
    """Values of the axes from `axis` on, brought to mean 0 and variance 1; then the mean and 1/deviation themselves."""
    x = call[0].astype(np.float32) if call[0].dtype.itemsize < 4 else call[0]
    axes = tuple(range(axis_in(call.attr("axis", -1), x.ndim), x.ndim))
    mean = x.mean(axes, keepdims=True)
    inverse = 1 / np.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + call.attr("epsilon", 1e-5))
    y = (x - mean) * inverse
    y = y * call.inputs[1] if call.get(1) is not None else y
    y = y + call.inputs[2] if call.get(2) is not None else y
    return y, mean, inverse


def rms_norm(call: OperatorCall) -> tuple[Array, ...]:
    """x / √(mean of squares over the axes from `axis` on), times a scale."""
    x = call[0]
    axes = tuple(range(axis_in(call.attr("axis", -1), x.ndim), x.ndim))
    scale = call.get(1)
    y = x / np.sqrt((x * x).mean(axes, keepdims=True) + call.attr("epsilon", 1e-5))
    return (y * scale if scale is not None else y,)


def mean_variance(call: OperatorCall) -> tuple[Array, ...]:
    """x brought to mean 0 and variance 1 over axes."""
    x, axes = call[0], tuple(call.attr("axes", [0, 2, 3]))
    return ((x - x.mean(axes, keepdims=True)) / (x.std(axes, keepdims=True) + 1e-9),)


def lp_normalisation(call: OperatorCall) -> tuple[Array, ...]:
    """x / its norm along an axis; 0 where that is 0."""
    x, axis = call[0], call.attr("axis", -1)
    norm = np.abs(x).sum(axis, keepdims=True) if call.attr("p", 2) == 1 else np.sqrt((x * x).sum(axis, keepdims=True))
    return (np.divide(x, norm, out=np.zeros_like(x), where=norm != 0),)


def batch_norm(call: OperatorCall) -> tuple[Array, ...]:
    """Scale and shift by recorded statistics, or in training mode by those of this batch, which then come out too."""
    x, scale, bias, mean, var = (call[i] for i in range(5))
    ones = (-1, *(1,) * (x.ndim - 2)) if x.ndim > 1 else (-1,)
    if not call.attr("training_mode"):
        outputs: tuple[Array, ...] = ()
    else:
        axes = (0, *range(2, x.ndim))
        part, now, here = call.attr("momentum", 0.9), x.mean(axes), x.var(axes)
        outputs = (mean * part + now * (1 - part), var * part + here * (1 - part))
        mean, var = now, here
    y = (x - mean.reshape(ones)) / np.sqrt(var.reshape(ones) + call.attr("epsilon", 1e-5))
    return (y * scale.reshape(ones) + bias.reshape(ones), *outputs)


def instance_norm(call: OperatorCall) -> tuple[Array, ...]:
    """Each channel of each image brought to mean 0 and variance 1, then scaled and shifted."""
    x, ones = call[0], (-1, *(1,) * (call[0].ndim - 2))
    axes = tuple(range(2, x.ndim))
    y = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + call.attr("epsilon", 1e-5))
    return (y * call[1].reshape(ones) + call[2].reshape(ones),)


def group_norm(call: OperatorCall) -> tuple[Array, ...]:
    """Groups of channels brought to mean 0 and variance 1; before version 21 with a scale per group."""
    x, groups = call[0], call.attrs["num_groups"]
    parts = x.reshape(x.shape[0], groups, -1)
    parts = (parts - parts.mean(2, keepdims=True)) / np.sqrt(parts.var(2, keepdims=True) + call.attr("epsilon", 1e-5))
    scale, bias = call[1], call[2]
    if call.opset < 21:
        scale, bias = (v.repeat(x.shape[1] // groups) for v in (scale, bias))
    ones = (-1, *(1,) * (x.ndim - 2))
    return (parts.reshape(x.shape) * scale.reshape(ones) + bias.reshape(ones),)


def lrn(call: OperatorCall) -> tuple[Array, ...]:
    """x / (bias + α/size · sum of squares over `size` channels)^β; of an even size one channel more comes after."""
    x, size = call[0], call.attrs["size"]
    squares, before = x * x, (size - 1) // 2
    padded = np.pad(squares, [(0, 0), (before, size - 1 - before)] + [(0, 0)] * (x.ndim - 2))
    total = sum(padded[:, k : k + x.shape[1]] for k in range(size))
    return (x / (call.attr("bias", 1.0) + call.attr("alpha", 1e-4) / size * total) ** call.attr("beta", 0.75),)


def dropout(call: OperatorCall) -> tuple[Array, ...]:
    """The input, and a mask that lets everything through."""
    ratio, train = call.get(1), call.get(2)
    if train is not None and bool(train) and (ratio is None or float(ratio) != 0):
        raise UnsupportedError("dropout in training mode is random")
    return call[0], np.ones(call[0].shape, bool)


def mean(call: OperatorCall) -> tuple[Array, ...]:
    """The mean of all inputs."""
    return (reduce(np.add, call.present()) / len(call.present()),)


def quick_gelu(call: OperatorCall) -> tuple[Array, ...]:
    """x·σ(α·x)."""
    return (call[0] * sigmoid(call.attr("alpha", 1.702) * call[0]),)


def swish(call: OperatorCall) -> tuple[Array, ...]:
    """x·σ(α·x)."""
    return (call[0] * sigmoid(call.attr("alpha", 1.0) * call[0]),)


def swiglu(call: OperatorCall) -> tuple[Array, ...]:
    """a·σ(α·a)·b (Shazeer 2020)."""
    return (call[0] * sigmoid(call.attr("alpha", 1.0) * call[0]) * call[1],)


def bit_cast(call: OperatorCall) -> tuple[Array, ...]:
    """The same bits as another type of the same size; shorter real numbers are held as float32 and have others."""
    wanted = type_of(call.attrs["to"])
    if "float16" in wanted or "int2" in wanted or "int4" in wanted:
        raise UnsupportedError(f"the bits of {wanted} are not held as such")
    return (call[0].reshape(-1).view(wanted).reshape(call[0].shape),)


def nll_loss(call: OperatorCall) -> tuple[Array, ...]:
    """−log p of the right class, with a weight per class; the mean over all places, their sum, or each of them."""
    return (_loss(call, call[0], call[1], call.get(2)),)


def cross_entropy(call: OperatorCall) -> tuple[Array, ...]:
    """The same of the softmax along axis 1; and its logarithm."""
    x = call[0]
    less = x - x.max(1, keepdims=True)
    logs = less - np.log(np.exp(less).sum(1, keepdims=True))
    return _loss(call, logs, call[1], call.get(2)), logs


def _loss(call: OperatorCall, logs: Array, target: Array, weight: Array | None) -> Array:
    ignored, label = call.attr("ignore_index"), target.astype(np.int64)
    kept = label != ignored if ignored is not None else np.ones(label.shape, bool)
    label = np.where(kept, label, 0)
    each = -np.take_along_axis(logs, label[:, None], 1)[:, 0]
    part = np.where(kept, weight[label] if weight is not None else 1, 0).astype(logs.dtype)
    how = call.attr("reduction", "mean")
    if how == "none":
        return each * part
    total = (each * part).sum()
    return np.asarray(total / part.sum() if how == "mean" else total, logs.dtype)


def thresholded(call: OperatorCall) -> tuple[Array, ...]:
    """x where it is above α, else 0."""
    return (np.where(call[0] > call.attr("alpha", 1.0), call[0], 0).astype(call[0].dtype),)


def where(call: OperatorCall) -> tuple[Array, ...]:
    """The second input where the first is true, else the third."""
    return (np.where(call[0], call[1], call[2]),)


def leaky(call: OperatorCall) -> tuple[Array, ...]:
    """x where positive, else α·x."""
    return (np.where(call[0] > 0, call[0], call.attr("alpha", 0.01) * call[0]),)


def hard_sigmoid(call: OperatorCall) -> tuple[Array, ...]:
    """α·x + β, held within 0 and 1."""
    return (np.clip(call.attr("alpha", 0.2) * call[0] + call.attr("beta", 0.5), 0, 1),)


FUNCTIONS: Mapping[str, Function] = {
    "And": pair(np.logical_and),
    "Or": pair(np.logical_or),
    "Xor": pair(np.logical_xor),
    "Not": unary(np.logical_not),
    "Equal": pair(lambda a, b: np.asarray(a == b)),
    "Less": pair(np.less),
    "LessOrEqual": pair(np.less_equal),
    "Greater": pair(np.greater),
    "GreaterOrEqual": pair(np.greater_equal),
    "Where": where,
    "Add": pair(np.add),
    "Sub": pair(np.subtract),
    "Mul": pair(np.multiply),
    "Div": pair(divide),
    "Mod": mod,
    "Pow": power,
    "Max": several(np.maximum),
    "Min": several(np.minimum),
    "Sum": several(np.add),
    "Mean": mean,
    "BitShift": shift,
    "BitwiseAnd": pair(np.bitwise_and),
    "BitwiseOr": pair(np.bitwise_or),
    "BitwiseXor": pair(np.bitwise_xor),
    "BitwiseNot": unary(np.bitwise_not),
    "Clip": clip,
    "Cast": cast,
    "CastLike": cast_like,
    "IsNaN": unary(np.isnan),
    "IsInf": isinf,
    "Identity": unary(lambda x: x),
    "Neg": unary(np.negative),
    "Abs": unary(np.abs),
    "Sign": unary(np.sign),
    "Relu": unary(lambda x: np.maximum(x, 0)),
    "Floor": unary(np.floor),
    "Ceil": unary(np.ceil),
    "Round": unary(np.rint),
    "Sqrt": unary(np.sqrt),
    "Exp": unary(np.exp),
    "Log": unary(np.log),
    "Erf": unary(erf),
    "Reciprocal": unary(lambda x: 1 / x),
    "Sigmoid": unary(sigmoid),
    "Tanh": unary(np.tanh),
    "Sin": unary(np.sin),
    "Cos": unary(np.cos),
    "Tan": unary(np.tan),
    "Asin": unary(np.arcsin),
    "Acos": unary(np.arccos),
    "Atan": unary(np.arctan),
    "Sinh": unary(np.sinh),
    "Cosh": unary(np.cosh),
    "Asinh": unary(np.arcsinh),
    "Acosh": unary(np.arccosh),
    "Atanh": unary(np.arctanh),
    "Softplus": unary(softplus),
    "Softsign": unary(lambda x: x / (1 + np.abs(x))),
    "Mish": unary(lambda x: x * np.tanh(softplus(x))),
    "HardSwish": unary(lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "HardSigmoid": hard_sigmoid,
    "LeakyRelu": leaky,
    "Elu": elu,
    "Selu": selu,
    "Celu": celu,
    "Gelu": gelu,
    "Swish": swish,
    "ThresholdedRelu": thresholded,
    "Shrink": shrink,
    "PRelu": prelu,
    "Hardmax": hardmax,
    "Softmax": softmax(False),
    "LogSoftmax": softmax(True),
    "LayerNormalization": layer_norm,
    "RMSNormalization": rms_norm,
    "MeanVarianceNormalization": mean_variance,
    "LpNormalization": lp_normalisation,
    "BatchNormalization": batch_norm,
    "InstanceNormalization": instance_norm,
    "GroupNormalization": group_norm,
    "LRN": lrn,
    "Dropout": dropout,
    "SwiGLU": swiglu,
    "BitCast": bit_cast,
    "NegativeLogLikelihoodLoss": nll_loss,
    "SoftmaxCrossEntropyLoss": cross_entropy,
    "com.microsoft.QuickGelu": quick_gelu,
}
"""One function per operator."""
