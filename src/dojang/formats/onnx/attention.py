"""Attention of ONNX, and of ONNX Runtime's own domain, in dojang's operators: products, a softmax, changes of shape.

Taken are the plain forms: no keys of the past, no lengths, as many heads of keys as of queries, a mask of numbers that
is added. Others stay what they were: computed as the standard defines them, or unknown.
Source: the standard's operator Attention, and the page "ContribOperators" of ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import sqrt
from typing import Any

from dojang.base.errors import DojangError
from dojang.formats.onnx.constants import Const
from dojang.formats.onnx.draft import Call, NotDone, Reader, Value
from dojang.formats.onnx.layers import matmul

Rule = Callable[[Reader, Call], Any]


def given(call: Call, place: int) -> Value | None:
    """The input at a place, None if it is left out."""
    return call.inputs[place] if place < len(call.inputs) else None


def plain(reader: Reader, call: Call, *left_out: int) -> None:
    """Raises `NotDone` where one of these inputs is given, or an output after the first is read."""
    for place in left_out:
        if given(call, place) is not None:
            raise NotDone(f"its input {place + 1} is given")
    call.only(1, reader.used)


def is_real(value: Value) -> bool:
    """Whether a value has float32 numbers."""
    return (value.kind if isinstance(value, Const) else value.dtype) == "float32"


def apart(reader: Reader, value: Value, heads: int, tag: str) -> Value:
    """(n, tokens, heads · width) as (n, heads, tokens, width)."""
    shape = reader.shape(value)
    if len(shape) == 4:
        return value
    split = reader.emit("reshape", value, shape=(0, 0, heads, int(shape[2]) // heads), tag=f"{tag}.split")
    return reader.emit("transpose", split, perm=(0, 2, 1, 3), tag=f"{tag}.heads")


def attend(
    reader: Reader, values: tuple[Value, Value, Value], heads: int, scale: float | None, mask: Value | None
) -> Value:
    """softmax(q kᵀ · scale + mask) v, in the shape that the queries have."""
    shapes = [reader.shape(v) for v in values]
    if len({len(s) for s in shapes}) != 1 or len(shapes[0]) not in (3, 4) or not all(map(is_real, values)):
        raise NotDone("its inputs have other numbers of axes, or types")
    if len(shapes[0]) == 3 and any(not heads or int(s[2]) % heads for s in shapes):
        raise NotDone("its heads do not divide its width")
    if len(shapes[0]) == 4 and any(s[1] != shapes[0][1] for s in shapes):
        raise NotDone("groups of heads share keys")
    keys = shapes[1][-2] if len(shapes[1]) == 4 else shapes[1][1]
    if mask is not None and (not is_real(mask) or reader.shape(mask)[-1:] != (keys,)):
        raise NotDone("a mask of truth values, or for fewer keys")
    width = int(shapes[0][-1]) // (heads if len(shapes[0]) == 3 else 1)
    label = reader.label
    q, k, v = (apart(reader, value, heads, name) for value, name in zip(values, "qkv", strict=True))
    scaled = reader.emit("mul", q, reader.fill(scale or 1 / sqrt(width)), tag="scale")
    turned = reader.emit("transpose", k, perm=(0, 1, 3, 2), tag="key")
    scores = reader.emit("matmul", scaled, turned, tag="scores")
    if mask is not None:
        scores = reader.emit("add", scores, mask, tag="mask")
    shares = reader.emit("softmax", scores, axis=3, tag="softmax")
    if len(shapes[0]) == 4:
        return reader.emit("matmul", shares, v)
    mixed = reader.emit("matmul", shares, v, tag="mixed")
    joined = reader.emit("transpose", mixed, perm=(0, 2, 1, 3), tag="join")
    reader.label = label
    return reader.emit("reshape", joined, shape=(0, 0, int(shapes[2][2])))


MOST_MASK = 1 << 22
"""Numbers of a mask that are looked at while a file is read."""


def finite(mask: Const) -> bool:
    """Whether no number of a mask is infinite; it is not known where its data is missing."""
    import numpy as np

    try:
        return bool(np.isfinite(mask.array()).all())
    except DojangError:
        return False


def attention(reader: Reader, call: Call) -> Value:
    """Attention of the standard."""
    a = call.attrs
    plain(reader, call, 4, 5, 6)
    windows = [a.get(f"{side}_window_size", -1) for side in ("left", "right")]
    if a.get("is_causal") or a.get("softcap") or max(windows) >= 0:
        raise NotDone("what may be looked at is said by an attribute")
    if a.get("q_num_heads", 0) != a.get("kv_num_heads", 0):
        raise NotDone("groups of heads share keys")
    mask = given(call, 3)
    if mask is not None and not (isinstance(mask, Const) and mask.size <= MOST_MASK and finite(mask)):
        raise NotDone("a mask that may forbid whole rows")
    values = (call.value(0), call.value(1), call.value(2))
    return attend(reader, values, a.get("q_num_heads", 0), a.get("scale"), mask)


def multi_head(reader: Reader, call: Call) -> Value:
    """MultiHeadAttention of ONNX Runtime: queries, keys, values, perhaps one bias for the three, and a mask."""
    plain(reader, call, 4, 6, 7)
    if call.attrs.get("unidirectional") or given(call, 1) is None or given(call, 2) is None:
        raise NotDone("packed, or causal")
    values = [call.value(0), call.value(1), call.value(2)]
    if any(len(reader.shape(v)) != 3 for v in values):
        raise NotDone("heads that are apart already")
    bias = given(call, 3)
    if bias is not None:
        start = 0
        for place, value in enumerate(values):
            width = int(reader.shape(value)[2])
            part = reader.emit("slice", bias, axis=0, start=start, stop=start + width, tag=f"{'qkv'[place]}.bias")
            values[place] = reader.emit("add", value, part, tag=f"{'qkv'[place]}.sum")
            start += width
    q, k, v = values
    return attend(reader, (q, k, v), call.attrs["num_heads"], call.attrs.get("scale"), given(call, 5))


def projected(reader: Reader, call: Call) -> Value:
    """Attention of ONNX Runtime: one product for queries, keys and values first."""
    plain(reader, call, 3, 4, 6)
    a, weights, bias = call.attrs, call.value(1), given(call, 2)
    shape = reader.shape(weights)
    sizes = [int(s) for s in a.get("qkv_hidden_sizes") or [int(shape[1]) // 3] * 3]
    if a.get("unidirectional") or a.get("do_rotary") or len(reader.shape(call.value(0))) != 3:
        raise NotDone("causal, or turned by its place")
    label = reader.label
    reader.label = tuple(f"{w}.qkv" for w in label)
    both: Value = matmul(reader, replace(call, inputs=(call.value(0), weights)))
    reader.label = label
    if bias is not None:
        both = reader.emit("add", both, bias, tag="bias")
    ends = [sum(sizes[: k + 1]) for k in range(3)]
    q, k, v = (
        reader.emit("slice", both, axis=2, start=end - size, stop=end, tag=name)
        for end, size, name in zip(ends, sizes, "qkv", strict=True)
    )
    return attend(reader, (q, k, v), a["num_heads"], a.get("scale"), given(call, 5))


RULES: Mapping[str, Rule] = {
    "Attention": attention,
    "com.microsoft.MultiHeadAttention": multi_head,
    "com.microsoft.Attention": projected,
}
"""One rule per operator."""
