"""Operators of ONNX that slide windows: convolutions with computed weights, pooling in all its forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

from dojang.engine.reference.standard.call import Array, Function, OperatorCall


def geometry(call: OperatorCall, size: Sequence[int], kernel: Sequence[int], ceil: bool = False) -> tuple[Any, ...]:
    """(strides, dilations, pads before, pads after, sizes of the output)."""
    rank = len(kernel)
    strides = call.attr("strides") or [1] * rank
    dilations = call.attr("dilations") or [1] * rank
    pads = call.attr("pads") or [0] * (2 * rank)
    before, after = list(pads[:rank]), list(pads[rank:])
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    auto = call.attr("auto_pad", "NOTSET")
    if auto.startswith("SAME"):
        for a in range(rank):
            total = max(0, (-(-size[a] // strides[a]) - 1) * strides[a] + spans[a] - size[a])
            before[a] = total // 2 if auto == "SAME_UPPER" else total - total // 2
            after[a] = total - before[a]
    elif auto == "VALID":
        before, after = [0] * rank, [0] * rank
    out: list[int] = []
    for a in range(rank):
        room = size[a] + before[a] + after[a] - spans[a]
        steps = -(-room // strides[a]) if ceil else room // strides[a]
        if ceil and steps * strides[a] >= size[a] + before[a]:
            steps -= 1  # a window that would begin in the padding after the end
        out.append(steps + 1)
    return strides, dilations, before, after, out


def taps(x: Array, kernel: Sequence[int], shape: tuple[Any, ...], fill: Any) -> Array:
    """(n, c, taps, *out): what each tap of a window reads, `fill` outside."""
    strides, dilations, before, _, out = shape
    ends = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(out, strides, kernel, dilations, strict=True)]
    pads = [(b, max(0, e - b - i)) for b, e, i in zip(before, ends, x.shape[2:], strict=True)]
    padded = np.pad(x, [(0, 0), (0, 0), *pads], constant_values=fill)
    parts: list[Array] = []
    for tap in product(*map(range, kernel)):
        first = [t * d for t, d in zip(tap, dilations, strict=True)]
        axes = zip(first, out, strides, strict=True)
        cut = tuple(slice(f, f + (o - 1) * s + 1, s) for f, o, s in axes)
        parts.append(padded[(slice(None), slice(None), *cut)])
    return np.stack(parts, 2)


def convolve(call: OperatorCall, x: Array, weight: Array, kind: Any = None) -> Array:
    """The convolution of x with weights, in the type `kind`: float64 is exact for whole numbers below 2⁵³."""
    groups = call.attr("group", 1)
    kernel = weight.shape[2:]
    shape = geometry(call, x.shape[2:], kernel)
    kind = kind or x.dtype
    columns = taps(np.asarray(x, kind), kernel, shape, 0)
    n, out = x.shape[0], shape[-1]
    columns = columns.reshape(n, groups, -1, prod(out))
    rows = np.asarray(weight, kind).reshape(groups, weight.shape[0] // groups, -1)
    return np.matmul(rows, columns).reshape(n, weight.shape[0], *out)


def conv(call: OperatorCall) -> tuple[Array, ...]:
    """Convolution."""
    y = convolve(call, call[0], call[1])
    bias = call.get(2)
    return (y + bias.reshape(-1, *(1,) * (y.ndim - 2)) if bias is not None else y,)


def conv_transpose(call: OperatorCall) -> tuple[Array, ...]:
    """Transposed convolution: each pixel adds its weights to the output."""
    x, w, bias = call[0], call[1], call.get(2)
    rank, groups = x.ndim - 2, call.attr("group", 1)
    size, kernel = x.shape[2:], w.shape[2:]
    strides, dilations = call.attr("strides") or [1] * rank, call.attr("dilations") or [1] * rank
    extra, pads = list(call.attr("output_padding") or [0] * rank), call.attr("pads") or [0] * (2 * rank)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    full = [s * (i - 1) + span + e for s, i, span, e in zip(strides, size, spans, extra, strict=True)]
    auto, target = call.attr("auto_pad", "NOTSET"), call.attr("output_shape")
    begin = list(pads[:rank])
    out = [f - pads[a] - pads[a + rank] for a, f in enumerate(full)]
    if target or auto.startswith("SAME"):
        out = list(target)[-rank:] if target else [i * s for i, s in zip(size, strides, strict=True)]
        for a in range(rank):
            total = max(0, full[a] - out[a])
            begin[a] = total // 2 if auto == "SAME_UPPER" else total - total // 2
    outs = w.shape[1] * groups
    n = x.shape[0]
    longest = [max(f, b + o) for f, b, o in zip(full, begin, out, strict=True)]
    y = np.zeros((n, outs, *longest), x.dtype)
    rows = w.reshape(groups, w.shape[0] // groups, w.shape[1], *kernel)
    parts = x.reshape(n, groups, -1, prod(size))
    for tap in product(*map(range, kernel)):
        weights = rows[(..., *tap)]  # (groups, inputs, outputs)
        made = np.matmul(weights.transpose(0, 2, 1), parts).reshape(n, outs, *size)
        cut = [
            slice(t * d, t * d + s * (i - 1) + 1, s) for t, d, s, i in zip(tap, dilations, strides, size, strict=True)
        ]
        y[(slice(None), slice(None), *cut)] += made
    y = y[(slice(None), slice(None), *(slice(b, b + o) for b, o in zip(begin, out, strict=True)))]
    return (y + bias.reshape(-1, *(1,) * rank) if bias is not None else y,)


def lowest(x: Array) -> Any:
    """What no value of the type of x is below."""
    return -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min


def max_pool(call: OperatorCall) -> tuple[Array, ...]:
    """The largest of each window, and its place in the flat tensor (in column-major order with `storage_order` 1)."""
    x, kernel = call[0], call.attrs["kernel_shape"]
    shape = geometry(call, x.shape[2:], kernel, bool(call.attr("ceil_mode")))
    values = taps(x, kernel, shape, lowest(x))
    inside = taps(np.ones((1, 1, *x.shape[2:]), bool), kernel, shape, False)
    best = np.where(inside, values, lowest(x)).argmax(2)
    best = np.where(inside.any(2), best, 0)
    size = x.shape[2:]
    order = "F" if call.attr("storage_order") else "C"
    number = np.arange(prod(size), dtype=np.int64).reshape(size, order=order)
    where = taps(number[None, None], kernel, shape, 0)
    spots = np.take_along_axis(np.broadcast_to(where, values.shape), best[:, :, None], 2)[:, :, 0]
    planes = np.arange(x.shape[0] * x.shape[1], dtype=np.int64).reshape(*x.shape[:2], *(1,) * len(size)) * prod(size)
    return np.take_along_axis(values, best[:, :, None], 2)[:, :, 0], spots + planes


def average_pool(call: OperatorCall) -> tuple[Array, ...]:
    """The mean of each window; padding counts with `count_include_pad`, what lies behind it never does."""
    x, kernel = call[0], call.attrs["kernel_shape"]
    shape = geometry(call, x.shape[2:], kernel, bool(call.attr("ceil_mode")))
    ones = np.ones((1, 1, *x.shape[2:]), x.dtype)
    if call.attr("count_include_pad"):
        strides, dilations, before, after, out = shape
        ones = np.pad(ones, [(0, 0), (0, 0), *zip(before, after, strict=True)], constant_values=1)
        counted = taps(ones, kernel, (strides, dilations, [0] * len(before), [0] * len(before), out), 0)
    else:
        counted = taps(ones, kernel, shape, 0)
    return (taps(x, kernel, shape, 0).sum(2) / counted.sum(2),)


def lp_pool(call: OperatorCall) -> tuple[Array, ...]:
    """The p-norm of each window."""
    x, kernel, p = call[0], call.attrs["kernel_shape"], call.attr("p", 2)
    shape = geometry(call, x.shape[2:], kernel, bool(call.attr("ceil_mode")))
    return ((np.abs(taps(x, kernel, shape, 0)) ** p).sum(2) ** (1 / p),)


def max_unpool(call: OperatorCall) -> tuple[Array, ...]:
    """Each value back at the place that it was the largest of; 0 elsewhere."""
    x, places = call[0], call[1].astype(np.int64)
    kernel, rank = call.attrs["kernel_shape"], x.ndim - 2
    strides, pads = call.attr("strides") or [1] * rank, call.attr("pads") or [0] * (2 * rank)
    made = [(x.shape[2 + a] - 1) * strides[a] + kernel[a] - pads[a] - pads[a + rank] for a in range(rank)]
    flat = np.zeros(prod(x.shape[:2]) * prod(made), x.dtype)
    flat[places.ravel()] = x.ravel()
    y = flat.reshape(*x.shape[:2], *made)
    wanted = call.get(2)
    if wanted is None:
        return (y,)
    out = np.zeros([int(v) for v in wanted], x.dtype)
    out[tuple(slice(0, s) for s in y.shape)] = y
    return (out,)


def over_all(function: Callable[[Array, tuple[int, ...]], Array]) -> Function:
    """A reduction over all pixels of each channel."""
    return lambda call: (function(call[0], tuple(range(2, call[0].ndim))),)


def global_lp(call: OperatorCall) -> tuple[Array, ...]:
    """The p-norm of each channel."""
    p, axes = call.attr("p", 2), tuple(range(2, call[0].ndim))
    return ((np.abs(call[0]) ** p).sum(axes, keepdims=True) ** (1 / p),)


def col2im(call: OperatorCall) -> tuple[Array, ...]:
    """Columns added back to the picture that they were cut from."""
    x, size, block = call[0], call.ints(1) or [], call.ints(2) or []
    rank = len(block)
    strides, dilations = call.attr("strides") or [1] * rank, call.attr("dilations") or [1] * rank
    pads = call.attr("pads") or [0] * (2 * rank)
    padded = [s + pads[a] + pads[a + rank] for a, s in enumerate(size)]
    steps = [(p - d * (k - 1) - 1) // s + 1 for p, d, k, s in zip(padded, dilations, block, strides, strict=True)]
    n, channels = x.shape[0], x.shape[1] // prod(block)
    columns = x.reshape(n, channels, prod(block), *steps)
    y = np.zeros((n, channels, *padded), x.dtype)
    for k, tap in enumerate(product(*map(range, block))):
        axes = zip(tap, dilations, strides, steps, strict=True)
        cut = tuple(slice(t * d, t * d + s * (o - 1) + 1, s) for t, d, s, o in axes)
        y[(slice(None), slice(None), *cut)] += columns[:, :, k]
    return (y[(slice(None), slice(None), *(slice(pads[a], pads[a] + s) for a, s in enumerate(size)))],)


def deform_conv(call: OperatorCall) -> tuple[Array, ...]:
    """Convolution at places moved by offsets, between pixels by bilinear interpolation, 0 outside; 2-d."""
    x, w, offset, bias, mask = call[0], call[1], call[2], call.get(3), call.get(4)
    groups, parts = call.attr("group", 1), call.attr("offset_group", 1)
    kernel = w.shape[2:]
    strides, dilations, before, _, out = geometry(call, x.shape[2:], kernel)
    n, channels, height, width = x.shape
    count = prod(kernel)
    moves = offset.reshape(n, parts, count, 2, *out)
    columns = np.zeros((n, channels, count, *out), x.dtype)
    each = channels // parts
    for k, (i, j) in enumerate(product(*map(range, kernel))):
        rows = (np.arange(out[0]) * strides[0] - before[0] + i * dilations[0])[:, None] + moves[:, :, k, 0]
        cols = (np.arange(out[1]) * strides[1] - before[1] + j * dilations[1])[None] + moves[:, :, k, 1]
        value = np.zeros((n, channels, *out), x.dtype)
        top, left = np.floor(rows).astype(int), np.floor(cols).astype(int)
        for a, b in product((0, 1), (0, 1)):
            r, c = top + a, left + b
            part = (1 - np.abs(rows - r)) * (1 - np.abs(cols - c))
            part = part * ((r >= 0) & (r < height) & (c >= 0) & (c < width))
            r, c = r.clip(0, height - 1), c.clip(0, width - 1)
            picture = np.arange(n)[:, None, None, None, None]
            channel = np.arange(channels).reshape(1, parts, each, 1, 1)
            picked = x[picture, channel, r[:, :, None], c[:, :, None]]
            value += (picked * part[:, :, None]).reshape(n, channels, *out).astype(x.dtype)
        if mask is not None:
            value *= mask.reshape(n, parts, count, *out)[:, :, k].repeat(each, 1)
        columns[:, :, k] = value
    rows_of = w.reshape(groups, w.shape[0] // groups, -1)
    y = np.matmul(rows_of, columns.reshape(n, groups, -1, prod(out))).reshape(n, w.shape[0], *out)
    return (y + bias.reshape(-1, 1, 1) if bias is not None else y,)


FUNCTIONS: Mapping[str, Function] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "DeformConv": deform_conv,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "LpPool": lp_pool,
    "MaxUnpool": max_unpool,
    "GlobalMaxPool": over_all(lambda x, axes: x.max(axes, keepdims=True)),
    "GlobalAveragePool": over_all(lambda x, axes: x.mean(axes, keepdims=True)),
    "GlobalLpPool": global_lp,
    "Col2Im": col2im,
}
"""One function per operator."""
