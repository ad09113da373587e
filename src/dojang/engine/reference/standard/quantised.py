"""Quantised operators of ONNX and of ONNX Runtime, exact in whole numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dojang.base.errors import DataError, UnsupportedError
from dojang.engine.reference.elements import sigmoid
from dojang.engine.reference.standard.call import Array, Function, OperatorCall, axis_in
from dojang.engine.reference.standard.types import BY_CODE
from dojang.engine.reference.standard.windows import convolve

RANGES: Mapping[str, tuple[int, int]] = {
    "int2": (-2, 1), "uint2": (0, 3), "int4": (-8, 7), "uint4": (0, 15), "int8": (-128, 127), "uint8": (0, 255),
    "int16": (-32768, 32767), "uint16": (0, 65535), "int32": (-(2**31), 2**31 - 1),
}  # fmt: skip
"""The least and largest whole number of each type that results of whole numbers have."""

QUANTISED = tuple(kind for kind in RANGES if kind != "int32")
"""The types that QuantizeLinear makes."""


def spread(values: Array, shape: tuple[int, ...], axis: int, block: int = 0) -> Array:
    """Scales or zero points, shaped to go with a tensor: one for all, one per place of an axis, or one per block."""
    if values.size == 1 and values.ndim <= 1:
        return values.reshape(())
    axis = axis_in(axis, len(shape))
    if values.ndim == 1 and not block and values.size != shape[axis]:
        raise DataError(
            f"{values.size} scales or zero points for {shape[axis]} places of axis {axis}; give one, or one for each"
        )
    if block:
        return np.take(values.repeat(block, axis), np.arange(shape[axis]), axis)
    wide = [1] * len(shape)
    wide[axis] = -1
    return values.reshape(wide) if values.ndim == 1 else values


def quantise(x: Array, scale: Any, zero: Array | int, wanted: str) -> Array:
    """round(x / scale) + zero, to the even neighbour, held within the type."""
    if wanted not in RANGES:
        raise UnsupportedError(f"numbers of type {wanted} are not computed with")
    low, high = RANGES[wanted]
    real = np.float64 if wanted == "int32" else x.dtype if x.dtype.kind == "f" else np.float32
    with np.errstate(all="ignore"):
        whole = np.rint(x / scale) + np.asarray(zero, real)
    kind = np.int8 if wanted in ("int4", "int2") else np.uint8 if wanted in ("uint4", "uint2") else np.dtype(wanted)
    return np.fmin(np.fmax(whole, low), high).astype(kind)


def quantize_linear(call: OperatorCall) -> tuple[Array, ...]:
    """Whole numbers from real ones."""
    x, axis, block = call[0], call.attr("axis", 1), call.attr("block_size", 0)
    scale, zero = spread(call[1], x.shape, axis, block), call.get(2)
    code = call.attr("output_dtype", 0)
    wanted = call.dtype if call.dtype != "float32" else BY_CODE.get(code, "uint8")
    if zero is not None and zero.dtype.kind not in "iu":
        raise DataError(
            f"its zero point is of type {zero.dtype}; a zero point has the type of the whole numbers, such as int8"
        )
    if wanted not in QUANTISED:
        raise UnsupportedError(f"it quantises to {wanted}; values are quantised to {', '.join(QUANTISED)}")
    shift = spread(zero, x.shape, axis, block).astype(np.int64) if zero is not None else 0
    return (quantise(x, scale, shift, wanted),)


def dequantize_linear(call: OperatorCall) -> tuple[Array, ...]:
    """Real numbers from whole ones."""
    x, axis, block = call[0], call.attr("axis", 1), call.attr("block_size", 0)
    scale, zero = spread(call[1], x.shape, axis, block), call.get(2)
    real = np.float64 if x.dtype.itemsize > 2 else np.float32
    centred = x.astype(real)
    if zero is not None:
        centred = centred - spread(zero, x.shape, axis, block).astype(real)
    return (centred.astype(np.float32) * scale,)


def dynamic_quantize(call: OperatorCall) -> tuple[Array, ...]:
    """uint8 over the range of this tensor, which includes 0; its scale and its zero point."""
    x = call[0]
    low, high = min(0.0, float(x.min(initial=0))), max(0.0, float(x.max(initial=0)))
    scale = np.float32((np.float32(high) - np.float32(low)) / np.float32(255))
    if scale == 0:
        scale = np.float32(1)
    zero = np.uint8(np.clip(np.rint(-np.float32(low) / scale), 0, 255))
    return quantise(x, scale, int(zero), "uint8"), np.asarray(scale), np.asarray(zero)


def _centred(x: Array, zero: Array | None, axis: int = 0) -> Array:
    """Whole numbers without their zero point, as float64, which is exact."""
    wide = x.astype(np.float64)
    if zero is None:
        return wide
    shape = (-1, *(1,) * (x.ndim - 1 - axis)) if zero.size > 1 else ()
    return wide - zero.astype(np.float64).reshape(shape)


def conv_integer(call: OperatorCall) -> tuple[Array, ...]:
    """Convolution of whole numbers."""
    x, w = _centred(call[0], call.get(2)), _centred(call[1], call.get(3))
    return (convolve(call, x, w, np.float64).astype(np.int32),)


def matmul_integer(call: OperatorCall) -> tuple[Array, ...]:
    """Matrix product of whole numbers."""
    return (np.matmul(_rows(call[0], call.get(2)), _columns(call[1], call.get(3))).astype(np.int32),)


def _rows(a: Array, zero: Array | None) -> Array:
    wide = a.astype(np.float64)
    if zero is None:
        return wide
    z = zero.astype(np.float64)
    return wide - (z[..., None] if z.ndim == 1 and z.size > 1 else z)


def _columns(b: Array, zero: Array | None) -> Array:
    wide = b.astype(np.float64)
    return wide if zero is None else wide - zero.astype(np.float64)


def requantise(total: Array, scale: Any, zero: Array | None, kind: str) -> Array:
    """Whole sums times a scale, rounded, with a zero point, held within the type."""
    low, high = RANGES[kind]
    y = np.rint((total.astype(np.float32) * np.float32(1)) * scale)
    return np.clip(y + (zero.astype(np.int64) if zero is not None else 0), low, high).astype(kind)


def qlinear_conv(call: OperatorCall) -> tuple[Array, ...]:
    """Convolution of quantised values, quantised again."""
    x, w = _centred(call[0], call.get(2)), _centred(call[3], call.get(5))
    total = convolve(call, x, w, np.float64)
    bias = call.get(8)
    ones = (-1, *(1,) * (total.ndim - 2))
    if bias is not None:
        total = total + bias.astype(np.float64).reshape(ones)
    scale = call[1].reshape(()) * call[4] / call[6].reshape(())
    scale = scale.reshape(ones) if scale.size > 1 else scale.reshape(())
    return (requantise(total, scale, call[7].reshape(()), call[7].dtype.name),)


def qlinear_matmul(call: OperatorCall) -> tuple[Array, ...]:
    """Matrix product of quantised values, quantised again."""
    total = np.matmul(_rows(call[0], call.get(2)), _columns(call[3], call.get(5)))
    left = call[1][..., None] if call[1].ndim == 1 and call[1].size > 1 else call[1]
    return (requantise(total, left * call[4] / call[6], call[7], call[7].dtype.name),)


def real(x: Array, scale: Array, zero: Array | None) -> Array:
    """The real numbers that whole ones stand for."""
    return (x.astype(np.float32) - (zero.astype(np.float32) if zero is not None else 0)) * scale


def qlinear_pair(function: Callable[[Array, Array], Array]) -> Function:
    """A function of two quantised tensors, quantised again."""

    def run(call: OperatorCall) -> tuple[Array, ...]:
        y = function(real(call[0], call[1], call.get(2)), real(call[3], call[4], call.get(5)))
        zero = call.get(7)
        return (quantise(y, call[6], zero.astype(np.int64) if zero is not None else 0, call[0].dtype.name),)

    return run


def qlinear_one(function: Callable[[Array, OperatorCall], Array]) -> Function:
    """A function of one quantised tensor, quantised again."""

    def run(call: OperatorCall) -> tuple[Array, ...]:
        y = function(real(call[0], call[1], call.get(2)), call)
        zero = call.get(4)
        return (quantise(y, call[3], zero.astype(np.int64) if zero is not None else 0, call[0].dtype.name),)

    return run


def _mean_pixels(x: Array, call: OperatorCall) -> Array:
    axes = (1, 2) if call.attr("channels_last") else tuple(range(2, x.ndim))
    return x.mean(axes, keepdims=True)


def _average(x: Array, call: OperatorCall) -> Array:
    from dojang.engine.reference.standard.windows import average_pool

    turn = bool(call.attr("channels_last"))
    moved = np.moveaxis(x, -1, 1) if turn else x
    y = average_pool(OperatorCall(call.kind, [moved], call.attrs, call.opset))[0]
    return np.moveaxis(y, 1, -1) if turn else y


def _leaky(x: Array, call: OperatorCall) -> Array:
    return np.where(x >= 0, x, call.attr("alpha", 0.01) * x)


def _softmax(x: Array, call: OperatorCall) -> Array:
    axis = call.attr("axis", -1)
    y = np.exp(x - x.max(axis, keepdims=True))
    return y / y.sum(axis, keepdims=True)


def qlinear_concat(call: OperatorCall) -> tuple[Array, ...]:
    """Quantised tensors one after the other, each with its own scale."""
    scale, zero = call[0], call[1]
    parts = [real(call[k], call[k + 1], call[k + 2]) for k in range(2, len(call.inputs), 3)]
    return (quantise(np.concatenate(parts, call.attrs["axis"]), scale, zero.astype(np.int64), zero.dtype.name),)


def qlinear_where(call: OperatorCall) -> tuple[Array, ...]:
    """Quantised values chosen by truth values."""
    y = np.where(call[0], real(call[1], call[2], call[3]), real(call[4], call[5], call[6]))
    return (quantise(y, call[7], call[8].astype(np.int64), call[8].dtype.name),)


def qgemm(call: OperatorCall) -> tuple[Array, ...]:
    """A dense layer of quantised values; real numbers come out if no scale of the output is given."""
    a, b = _centred(call[0], call.get(2)), _columns(call[3], call.get(5))
    if call.get(5) is not None and call[5].size > 1 and call.attr("transB"):
        b = call[3].astype(np.float64) - call[5].astype(np.float64)[:, None]
    a, b = (a.T if call.attr("transA") else a), (b.T if call.attr("transB") else b)
    total = a @ b
    scale = call.attr("alpha", 1.0) * call[1] * call[4]
    if call.get(6) is not None:
        total = total + call[6].astype(np.float64)
    if call.get(7) is None:
        return ((total * scale).astype(np.float32),)
    return (requantise(total, scale / call[7], call[8], call[8].dtype.name),)


def matmul_integer_to_float(call: OperatorCall) -> tuple[Array, ...]:
    """Matrix product of whole numbers, as real numbers."""
    total = np.matmul(_rows(call[0], call.get(4)), _columns(call[1], call.get(5)))
    y = total.astype(np.float32) * (call[2] * call[3])
    bias = call.get(6)
    return (y + bias if bias is not None else y,)


def dynamic_quantize_matmul(call: OperatorCall) -> tuple[Array, ...]:
    """Real numbers, quantised by their own range, times quantised weights."""
    x, scale, zero = dynamic_quantize(OperatorCall("", [call[0]], {}, 13))
    inputs = [x, call[1], scale, call[2], zero, call.get(3), call.get(4)]
    return matmul_integer_to_float(OperatorCall(call.kind, inputs, {}, 13))


FUNCTIONS: Mapping[str, Function] = {
    "QuantizeLinear": quantize_linear,
    "DequantizeLinear": dequantize_linear,
    "DynamicQuantizeLinear": dynamic_quantize,
    "ConvInteger": conv_integer,
    "MatMulInteger": matmul_integer,
    "QLinearConv": qlinear_conv,
    "QLinearMatMul": qlinear_matmul,
    "com.microsoft.QuantizeLinear": quantize_linear,
    "com.microsoft.DequantizeLinear": dequantize_linear,
    "com.microsoft.QLinearAdd": qlinear_pair(np.add),
    "com.microsoft.QLinearMul": qlinear_pair(np.multiply),
    "com.microsoft.QLinearSigmoid": qlinear_one(lambda x, call: sigmoid(x)),
    "com.microsoft.QLinearLeakyRelu": qlinear_one(_leaky),
    "com.microsoft.QLinearSoftmax": qlinear_one(_softmax),
    "com.microsoft.QLinearAveragePool": qlinear_one(_average),
    "com.microsoft.QLinearGlobalAveragePool": qlinear_one(_mean_pixels),
    "com.microsoft.QLinearConcat": qlinear_concat,
    "com.microsoft.QLinearWhere": qlinear_where,
    "com.microsoft.QGemm": qgemm,
    "com.microsoft.MatMulIntegerToFloat": matmul_integer_to_float,
    "com.microsoft.DynamicQuantizeMatMul": dynamic_quantize_matmul,
}
"""One function per operator."""
