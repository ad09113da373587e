"""Operators in the form of operator sets 1 to 8, brought to the form that the rules know; and those that ended there.

Source: the page "Changelog" of the ONNX standard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from dojang.arith.shapes import axis_of
from dojang.formats.onnx.constants import TYPES, Const, of_values
from dojang.formats.onnx.draft import Call, Draft, NotDone, Reader, Value

Rule = Callable[[Reader, Call], Any]

PAIRS = frozenset("Add Sub Mul Div Pow And Or Xor Equal Less Greater PRelu".split())
"""Operators whose second input has its place given by `axis` before version 7."""


def newer(reader: Reader, call: Call) -> Call:
    """The same use of an operator in a newer form."""
    attrs, inputs = dict(call.attrs), call.inputs
    if call.op in PAIRS and reader.opset < 7 and ("axis" in attrs or call.op == "PRelu"):
        return replace(call, inputs=_broadcast(reader, call))
    if call.op == "Reshape" and "shape" in attrs and len(inputs) == 1:
        target = of_values(attrs["shape"], (len(attrs["shape"]),), "i")
        return replace(call, inputs=(*inputs, target), sources=(*call.sources, ""))
    if call.op == "Cast" and isinstance(attrs.get("to"), str):
        names = {"FLOAT": "FLOAT32", "DOUBLE": "FLOAT64"}
        said = str(attrs["to"]).upper()
        wanted = names.get(said, said).lower()
        attrs["to"] = next((code for code, kind in TYPES.items() if kind.name == wanted), 0)
    if call.op == "Pad" and "paddings" in attrs:
        attrs["pads"] = attrs.pop("paddings")
    if call.op == "Upsample" and "height_scale" in attrs:
        attrs["scales"] = [1.0, 1.0, attrs.pop("height_scale"), attrs.pop("width_scale", 1.0)]
    if call.op == "Tile" and reader.opset < 6 and len(inputs) == 3:
        times, axis = call.ints(1), call.ints(2)
        if times and axis:
            rank = len(reader.shape(call.value(0)))
            repeats = of_values([times[0] if i == axis[0] else 1 for i in range(rank)], (rank,), "i")
            return replace(call, inputs=(inputs[0], repeats), sources=(*call.sources[:1], ""))
    return replace(call, attrs=attrs)


def _broadcast(reader: Reader, call: Call) -> tuple[Value | None, ...]:
    """The inputs, the second with axes of size 1 behind it."""
    a, b = call.value(0), call.value(1)
    if a.shape is None or b.shape is None or len(b.shape) >= len(a.shape):
        return call.inputs
    first = axis_of(int(call.attrs.get("axis", 1 if call.op == "PRelu" else -len(b.shape))), len(a.shape))
    behind = len(a.shape) - first - len(b.shape)
    if behind <= 0:
        return call.inputs
    if isinstance(b, Const):
        return (a, b.reshaped((*b.shape, *(1,) * behind)))
    axes = tuple(range(len(b.shape), len(b.shape) + behind))
    return (a, reader.emit("unsqueeze", b, axes=axes, tag="placed"))


def affine(reader: Reader, call: Call) -> Value:
    """Affine: alpha · x + beta."""
    value = reader.emit("mul", call.value(0), reader.fill(call.attrs.get("alpha", 1.0)), tag="scaled")
    return reader.emit("add", value, reader.fill(call.attrs.get("beta", 0.0)))


def image_scaler(reader: Reader, call: Call) -> Value:
    """ImageScaler: scale · x + a bias per channel."""
    bias = list(call.attrs.get("bias", [0.0]))
    rank = len(reader.shape(call.value(0)))
    shift = of_values(bias, (len(bias), *(1,) * (rank - 2)), "f")
    value = reader.emit("mul", call.value(0), reader.fill(call.attrs.get("scale", 1.0)), tag="scaled")
    return reader.emit("add", value, shift)


def scaled_tanh(reader: Reader, call: Call) -> Value:
    """ScaledTanh: alpha · tanh(beta · x)."""
    inner = reader.emit("mul", call.value(0), reader.fill(call.attrs.get("beta", 1.0)), tag="inner")
    return reader.emit("mul", reader.emit("tanh", inner, tag="tanh"), reader.fill(call.attrs.get("alpha", 1.0)))


def parametric_softplus(reader: Reader, call: Call) -> Value:
    """ParametricSoftplus: alpha · log(1 + e^(beta · x))."""
    inner = reader.emit("mul", call.value(0), reader.fill(call.attrs.get("beta", 1.0)), tag="inner")
    return reader.emit("mul", reader.emit("softplus", inner, tag="softplus"), reader.fill(call.attrs.get("alpha", 1.0)))


def crop(reader: Reader, call: Call) -> Value:
    """Crop: left, top, right and bottom pixels cut off, or a size from the left and the top on."""
    source = reader.draft(call.value(0))
    border, size = list(call.attrs.get("border", [0, 0, 0, 0])), call.attrs.get("scale")
    shape = reader.shape(source)
    if len(shape) != 4 or len(border) != 4:
        raise NotDone("of other than images")
    left, top, right, bottom = border
    ends = (top + size[0], left + size[1]) if size else (shape[2] - bottom, shape[3] - right)
    value: Draft = reader.emit("slice", source, axis=2, start=top, stop=ends[0], tag="rows")
    return reader.emit("slice", value, axis=3, start=left, stop=ends[1])


RULES: Mapping[str, Rule] = {
    "Affine": affine,
    "ImageScaler": image_scaler,
    "ScaledTanh": scaled_tanh,
    "ParametricSoftplus": parametric_softplus,
    "Crop": crop,
}
"""Operators of early versions that the standard has no more."""
