"""Quantised layers of ONNX and ONNX Runtime, as the convolutions and dense layers that they are, in whole numbers.

x and w without their zero points go into a layer whose values are int32; its sums are exact. What is quantised again
is multiplied by a scale as real numbers, rounded and held within its type. Layers whose weights are computed stay
`standard` nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from typing import Any

from dojang.formats.onnx.constants import Const, of_values
from dojang.formats.onnx.draft import Call, Draft, NotDone, Reader, Value
from dojang.formats.onnx.layers import conv
from dojang.formats.onnx.recurrent import layer

Rule = Callable[[Reader, Call], Any]


def centred(reader: Reader, value: Value, zero: Value | None, tag: str) -> Draft:
    """A quantised value as int32, without its zero point, which may be computed."""
    if not isinstance(value, Draft):
        raise NotDone("of a constant")
    if zero is not None and (zero.shape is None or prod(zero.shape) != 1):
        raise NotDone("a zero point for each row")
    wide = reader.standard("Cast", value, dtype="int32", tag=f"{tag}.wide", to=6)
    if isinstance(zero, Draft):
        point = reader.standard("Cast", zero, dtype="int32", tag=f"{tag}.zero", to=6)
        return reader.standard("Sub", wide, point, dtype="int32", tag=f"{tag}.centred")
    if zero is None or zero.values()[0] == 0:
        return wide
    shift = of_values(zero.values(), (), "i", dtype="int32")
    return reader.standard("Sub", wide, shift, dtype="int32", tag=f"{tag}.centred")


def without_zero(weight: Const, zero: Const | None, axis: int) -> Const:
    """Weights without their zero points, one for all or one per place of an axis."""
    if zero is None or (zero.small and not any(zero.values())):
        return weight
    wide = [1] * len(weight.shape)
    if zero.size > 1:
        wide[axis] = weight.shape[axis]

    def change(w: Any) -> Any:
        return w - zero.array().reshape(wide if zero.size > 1 else ())

    return replace(weight.mapped(("without", zero.key), weight.shape, change), dtype="int32")


def quantised_again(
    reader: Reader, total: Draft, factors: tuple[Const, ...], over: Const, zero: Const, axis: int
) -> Draft:
    """round(total · product of factors / over) + zero, held within the type of `zero`."""
    real = reader.standard("Cast", total, dtype="float32", tag="real", to=1)
    scaled = reader.emit("mul", real, scale_of(reader, real, factors, over, axis), tag="scaled")
    return reader.standard("QuantizeLinear", scaled, reader.fill(1.0), zero, dtype=zero.kind)


def scale_of(reader: Reader, real: Draft, factors: tuple[Const, ...], over: Const | None, axis: int) -> Const:
    """The product of scales, for each place of an axis where one of them is."""
    size = max(f.size for f in factors)
    rank = len(reader.shape(real))
    shape = tuple(size if a == axis % rank else 1 for a in range(rank)) if size > 1 else ()

    def load() -> Any:
        import numpy as np

        made = np.float32(1)
        for factor in factors:
            made = made * factor.array().reshape(-1)
        with np.errstate(all="ignore"):  # a scale of 0 gives infinite numbers, which are held within the type
            return (made / (over.array().reshape(-1) if over is not None else np.float32(1))).reshape(shape)

    if any(f.shape and f.size not in (1, size) for f in factors):
        raise NotDone("scales of different sizes")
    return Const(shape, "f", lambda: load().ravel().tolist(), load, source=object())


def convolved(reader: Reader, call: Call, x: int, w: int, zeros: tuple[int, int], bias: Const | None) -> Draft:
    """The convolution of whole numbers, in int32."""
    weight = without_zero(call.needed(w), call.const(zeros[1]), 0)
    source = centred(reader, call.value(x), _given(call, zeros[0]), "x")
    inner = replace(call, op="Conv", inputs=(source, weight, bias), sources=("", "", ""))
    return conv(reader, inner)


def conv_integer(reader: Reader, call: Call) -> Draft:
    """ConvInteger."""
    return convolved(reader, call, 0, 1, (2, 3), None)


def qlinear_conv(reader: Reader, call: Call) -> Draft:
    """QLinearConv."""
    scales = call.needed(1), call.needed(4)
    label, over, zero = reader.label, call.needed(6), call.needed(7)
    total = convolved(reader, call, 0, 3, (2, 5), call.const(8))
    reader.label = tuple(f"{name}.quantised" for name in label)
    result = quantised_again(reader, total, scales, over, zero, 1)
    reader.label = label
    return result


def _given(call: Call, place: int) -> Value | None:
    return call.inputs[place] if place < len(call.inputs) else None


def multiplied(reader: Reader, call: Call, a: Value, b: Const, zeros: tuple[Value | None, Const | None],
               turned: bool = False, bias: Const | None = None) -> Draft:  # fmt: skip
    """The dense layer of whole numbers, in int32."""
    if len(b.shape) != 2:
        raise NotDone("weights that are no matrix")
    weight = without_zero(b, zeros[1], 0 if turned else 1)
    weight = weight if turned else weight.transposed((1, 0))
    source = centred(reader, a, zeros[0], "a")
    roles = {"weight": weight, "bias": bias}
    return reader.emit("dense", source, roles=roles, out=weight.shape[0], bias=bias is not None)


def matmul_integer(reader: Reader, call: Call) -> Draft:
    """MatMulInteger with constant weights."""
    return multiplied(reader, call, call.value(0), call.needed(1), (_given(call, 2), call.const(3)))


def qlinear_matmul(reader: Reader, call: Call) -> Draft:
    """QLinearMatMul with constant weights."""
    scales = call.needed(1), call.needed(4)
    if scales[0].size != 1:
        raise NotDone("a scale for each row")
    label, over, zero = reader.label, call.needed(6), call.needed(7)
    total = multiplied(reader, call, call.value(0), call.needed(3), (_given(call, 2), call.const(5)))
    reader.label = tuple(f"{name}.quantised" for name in label)
    result = quantised_again(reader, total, scales, over, zero, -1)
    reader.label = label
    return result


def qgemm(reader: Reader, call: Call) -> Draft:
    """QGemm of ONNX Runtime; without a scale of the output its result is real."""
    if call.attrs.get("transA") or call.attrs.get("alpha", 1.0) != 1.0:
        raise NotDone("alpha, or the first matrix transposed")
    scales = call.needed(1), call.needed(4)
    label, over, zero = reader.label, call.const(7), call.const(8)
    turned, bias = bool(call.attrs.get("transB")), call.const(6)
    bias = bias.reshaped((bias.size,)) if bias is not None else None
    zeros = _given(call, 2), call.const(5)
    total = multiplied(reader, call, call.value(0), call.needed(3), zeros, turned, bias)
    reader.label = tuple(f"{name}.quantised" for name in label)
    if over is None or zero is None:
        real = reader.standard("Cast", total, dtype="float32", tag="real", to=1)
        result = reader.emit("mul", real, scale_of(reader, real, scales, None, -1))
    else:
        result = quantised_again(reader, total, scales, over, zero, -1)
    reader.label = label
    return result


def matmul_to_float(reader: Reader, call: Call) -> Draft:
    """MatMulIntegerToFloat of ONNX Runtime; the scale of the first matrix may be computed, as it is when dynamic."""
    return _real(reader, call, call.value(0), call.value(2), call.inputs[4], call.needed(1), call.needed(3), 5, 6)


def dynamic_matmul(reader: Reader, call: Call) -> Draft:
    """DynamicQuantizeMatMul of ONNX Runtime: x is quantised by its own range."""
    x = reader.draft(call.value(0))
    parts = [
        reader.standard("DynamicQuantizeLinear", x, dtype=kind, shape=shape, output=k, first=k == 0, tag=f"part{k}")
        for k, (kind, shape) in enumerate((("uint8", x.shape), ("float32", ()), ("uint8", ())))
    ]
    return _real(reader, call, parts[0], parts[1], parts[2], call.needed(1), call.needed(2), 3, 4)


def _real(reader: Reader, call: Call, a: Value, a_scale: Value, a_zero: Value | None, b: Const, b_scale: Const,
          zero: int, bias: int) -> Draft:  # fmt: skip
    label = reader.label
    wide = centred(reader, a, a_zero, "a")
    weight = without_zero(b, call.const(zero), 1).transposed((1, 0))
    total = reader.emit("dense", wide, roles={"weight": weight}, out=weight.shape[0], bias=False)
    reader.label = tuple(f"{name}.real" for name in label)
    real = reader.standard("Cast", total, dtype="float32", tag="sum", to=1)
    shift = call.inputs[bias] if bias < len(call.inputs) else None
    scale = scale_of(reader, real, (b_scale,), None, -1)
    if isinstance(a_scale, Const):
        scale = scale_of(reader, real, (a_scale, b_scale), None, -1)
        value = reader.emit("mul", real, scale, tag="scaled" if shift is not None else "")
    else:
        value = reader.emit("mul", reader.emit("mul", real, a_scale, tag="turn"), scale, tag="scaled" if shift else "")
    result = reader.emit("add", value, shift) if shift is not None else value
    reader.label = label
    return result


LIMITS: Mapping[str, tuple[int, int]] = {
    "int4": (-8, 7), "uint4": (0, 15), "int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767),
    "uint16": (0, 65535),
}  # fmt: skip
"""The least and largest number of the types that values are quantised to."""


def dequantize(reader: Reader, call: Call) -> Draft:
    """DequantizeLinear behind a QuantizeLinear with the same scale and zero point: `fake_quantize`, in real numbers."""
    source = call.value(0)
    if (
        not isinstance(source, Draft)
        or source.op != "standard"
        or source.node.attrs["kind"] != call.kind.replace("Deq", "Q")
    ):
        raise NotDone("of whole numbers")
    scale, zero = call.needed(1), call.const(2)
    if scale.size != 1 or (zero is not None and zero.size != 1) or scale.sort != "f" or source.dtype not in LIMITS:
        raise NotDone("a scale for each channel")
    x, *given = source.inputs
    same = len(given) == (1 if zero is None else 2) and x.sort == "f" and x.dtype == "float32"
    for value, const in zip(given, (scale, zero), strict=False):
        known = reader.constants.get(const.key) if const is not None else None
        same &= value is known or (const is not None and value.node.attrs.get("fill") == const.values()[0])
    if not same:
        raise NotDone("another scale")
    shift = int(zero.values()[0]) if zero is not None else 0
    low, high = LIMITS[source.dtype]
    name = call.sources[0]
    reader.used[name] -= 1
    if not reader.used[name]:  # nobody else reads the whole numbers
        reader.drafts.remove(source)
        for value in given:
            if not any(value in d.inputs for d in reader.drafts):
                reader.drafts.remove(value)
                reader.constants = {key: d for key, d in reader.constants.items() if d is not value}
    return reader.emit("fake_quantize", x, scale=float(scale.values()[0]), low=low - shift, high=high - shift)


def dynamic_lstm(reader: Reader, call: Call) -> list[Value]:
    """DynamicQuantizeLSTM of ONNX Runtime: its weights made real, inputs and states rounded to 8 bits."""
    weights = [_real_rows(call.needed(k), call.needed(k + 7 + (k == 2)), call.const(k + 8 + (k == 2))) for k in (1, 2)]
    inputs = (call.value(0), *weights, *call.inputs[3:8])
    return layer(reader, replace(call, op="LSTM", inputs=inputs, sources=("",) * len(inputs)), rounded=True)


def _real_rows(weight: Const, scale: Const, zero: Const | None) -> Const:
    """(directions, inputs, rows) less the zero point, times a scale for each direction or row, as (…, rows, inputs)."""
    count, inputs, rows = weight.shape

    def change(w: Any) -> Any:
        found = w - zero.array().reshape(count, 1, -1) if zero is not None else w
        return (found * scale.array().reshape(count, 1, -1)).transpose(0, 2, 1)

    what = ("real", scale.key, zero.key if zero is not None else None)
    return replace(weight.mapped(what, (count, rows, inputs), change), sort="f", dtype="")


RULES: Mapping[str, Rule] = {
    "DequantizeLinear": dequantize,
    "com.microsoft.DequantizeLinear": dequantize,
    "ConvInteger": conv_integer,
    "QLinearConv": qlinear_conv,
    "MatMulInteger": matmul_integer,
    "QLinearMatMul": qlinear_matmul,
    "com.microsoft.QGemm": qgemm,
    "com.microsoft.MatMulIntegerToFloat": matmul_to_float,
    "com.microsoft.DynamicQuantizeMatMul": dynamic_matmul,
    "com.microsoft.DynamicQuantizeLSTM": dynamic_lstm,
}
"""One rule per operator."""
