"""Operators of ONNX that move, pick, sort or reduce elements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np

from dojang.base.errors import DataError
from dojang.engine.reference.standard.call import Array, Function, OperatorCall, axis_in
from dojang.engine.reference.standard.types import type_of


def reshape(call: OperatorCall) -> tuple[Array, ...]:
    """The same elements in another shape; 0 copies a size, −1 is what is left."""
    x, shape = call[0], call.ints(1, "shape") or []
    if not call.attr("allowzero"):
        shape = [x.shape[i] if s == 0 else s for i, s in enumerate(shape)]
    return (x.reshape(shape),)


def flatten(call: OperatorCall) -> tuple[Array, ...]:
    """A matrix of the axes before `axis`, and of those from it on."""
    x, axis = call[0], call.attr("axis", 1)
    axis += x.ndim if axis < 0 else 0
    return (x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:])),)


def squeeze(call: OperatorCall) -> tuple[Array, ...]:
    """Without axes of size 1."""
    axes = call.ints(1, "axes")
    return (np.squeeze(call[0], tuple(axes) if axes is not None else None),)


def unsqueeze(call: OperatorCall) -> tuple[Array, ...]:
    """With new axes of size 1."""
    return (np.expand_dims(call[0], tuple(call.ints(1, "axes") or ())),)


def transpose(call: OperatorCall) -> tuple[Array, ...]:
    """Axes in another order."""
    return (call[0].transpose(call.attr("perm")),)


def concat(call: OperatorCall) -> tuple[Array, ...]:
    """The inputs one after the other."""
    return (np.concatenate(call.present(), call.attr("axis", 1)),)


def split(call: OperatorCall) -> tuple[Array, ...]:
    """Parts of an axis."""
    x = call[0]
    axis = axis_in(call.attr("axis", 0), x.ndim)
    sizes = call.ints(1, "split")
    if sizes is None:
        count = call.attr("num_outputs") or call.attr("outputs", 1)
        each = -(-x.shape[axis] // count)
        sizes = [each] * (count - 1) + [x.shape[axis] - each * (count - 1)]
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis))


def slice_(call: OperatorCall) -> tuple[Array, ...]:
    """Parts of axes, by start, end and step."""
    x = call[0]
    starts, ends = call.ints(1, "starts") or [], call.ints(2, "ends") or []
    axes = call.ints(3, "axes") or list(range(len(starts)))
    steps = call.ints(4) or [1] * len(starts)
    cuts = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis = axis_in(axis, x.ndim)
        size = x.shape[axis]
        if step < 0 and end < -size:
            cuts[axis] = slice(start, None, step)
        else:
            cuts[axis] = slice(start, end, step)
    return (x[tuple(cuts)],)


def gather(call: OperatorCall) -> tuple[Array, ...]:
    """Entries of an axis by their numbers."""
    x, indices = call[0], call[1].astype(np.int64)
    axis = axis_in(call.attr("axis", 0), x.ndim)
    _within(indices, x.shape[axis], call.kind)
    return (np.take(x, indices, axis),)


def _within(indices: Array, size: int, kind: str) -> None:
    if indices.size and not (-size <= indices.min() and indices.max() < size):
        wrong = indices.max() if indices.max() >= size else indices.min()
        raise DataError(f"{kind}: an index is {wrong}, the axis has {size} places")


def gather_elements(call: OperatorCall) -> tuple[Array, ...]:
    """Of each line along an axis the elements with these numbers."""
    x, indices = call[0], call[1].astype(np.int64)
    axis = axis_in(call.attr("axis", 0), x.ndim)
    _within(indices, x.shape[axis], call.kind)
    places: list[Array] = list(np.indices(indices.shape, sparse=True))
    places[axis] = indices
    return (x[tuple(places)],)


def gather_nd(call: OperatorCall) -> tuple[Array, ...]:
    """Slices by rows of indices; the first `batch_dims` axes of both run together."""
    x, indices, lead = call[0], call[1].astype(np.int64), call.attr("batch_dims", 0)
    depth = indices.shape[-1]
    if not lead:
        return (
            x[tuple(np.moveaxis(indices, -1, 0))] if depth else np.broadcast_to(x, (*indices.shape[:-1], *x.shape)),
        )
    batch = x.shape[:lead]
    flat, rows = x.reshape(-1, *x.shape[lead:]), indices.reshape(prod(batch), *indices.shape[lead:])
    parts = [one[tuple(np.moveaxis(row, -1, 0))] for one, row in zip(flat, rows, strict=True)]
    return (np.stack(parts).reshape(*batch, *parts[0].shape),)


REDUCTIONS: Mapping[str, np.ufunc] = {
    "add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum,
}  # fmt: skip


def scatter_elements(call: OperatorCall) -> tuple[Array, ...]:
    """Elements of lines along an axis replaced, or combined with what is there."""
    x, indices, updates = call[0].copy(), call[1].astype(np.int64), call[2]
    axis = axis_in(call.attr("axis", 0), x.ndim)
    _within(indices, x.shape[axis], call.kind)
    places: list[Any] = list(np.indices(indices.shape))
    places[axis] = np.where(indices < 0, indices + x.shape[axis], indices)
    _put(x, tuple(places), updates, call.attr("reduction", "none"))
    return (x,)


def _put(x: Array, places: tuple[Array, ...], updates: Array, how: str) -> None:
    if how == "none":
        x[places] = updates
    else:
        REDUCTIONS[how].at(x, places, updates)


def scatter_nd(call: OperatorCall) -> tuple[Array, ...]:
    """Slices at rows of indices replaced, or combined with what is there."""
    x, indices, updates = call[0].copy(), call[1].astype(np.int64), call[2]
    _put(x, tuple(np.moveaxis(indices, -1, 0)), updates, call.attr("reduction", "none"))
    return (x,)


def tensor_scatter(call: OperatorCall) -> tuple[Array, ...]:
    """Places of an axis overwritten from a position of each row on, as a cache of keys and values is."""
    past, update, start = call[0].copy(), call[1], call.get(2)
    axis = axis_in(call.attr("axis", -2), past.ndim)
    for row in range(past.shape[0]):
        at = int(start[row]) if start is not None else 0
        places = np.arange(at, at + update.shape[axis])
        if call.attr("mode", "linear") == "circular":
            places = places % past.shape[axis]
        cut: list[slice | Array] = [slice(None)] * (past.ndim - 1)
        cut[axis - 1] = places
        past[row][tuple(cut)] = update[row]
    return (past,)


def expand(call: OperatorCall) -> tuple[Array, ...]:
    """Repeated along axes of size 1, to a shape that both broadcast to."""
    x, shape = call[0], call.ints(1) or []
    return (np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape))),)


def tile(call: OperatorCall) -> tuple[Array, ...]:
    """Repeated along axes; in version 1 along one axis."""
    if call.opset < 6:
        x = call[0]
        times = [1] * x.ndim
        times[int(call[2])] = int(call[1])
        return (np.tile(x, times),)
    return (np.tile(call[0], call.ints(1) or [1]),)


def pad(call: OperatorCall) -> tuple[Array, ...]:
    """Elements added around axes, or cut off where a number is below 0."""
    x = call[0]
    given = call.ints(1, "pads" if "pads" in call.attrs else "paddings") or []
    axes = [axis_in(a, x.ndim) for a in call.ints(3) or range(x.ndim)]
    pairs = [(0, 0)] * x.ndim
    for place, axis in enumerate(axes):
        pairs[axis] = (given[place], given[place + len(axes)])
    cut = tuple(slice(max(0, -a), s - max(0, -b)) for (a, b), s in zip(pairs, x.shape, strict=True))
    grow = [(max(a, 0), max(b, 0)) for a, b in pairs]
    mode: Any = call.attr("mode", "constant")
    if mode != "constant":
        return (np.pad(x[cut], grow, mode=mode),)
    value = call.get(2)
    fill = call.attr("value", 0) if value is None else value.ravel()[0]
    return (np.pad(x[cut], grow, constant_values=fill),)


def top_k(call: OperatorCall) -> tuple[Array, ...]:
    """The k largest or smallest of each line, and where they are; equal ones in the order of their places."""
    x, k = call[0], (call.ints(1, "k") or [1])[0]
    axis = axis_in(call.attr("axis", -1), x.ndim)
    if not 0 <= k <= x.shape[axis]:
        raise DataError(f"TopK: k is {k}, and axis {axis} has only {x.shape[axis]} places")
    if call.attr("largest", 1):
        order = np.flip(x.shape[axis] - 1 - np.argsort(np.flip(x, axis), axis, kind="stable"), axis)
    else:
        order = np.argsort(x, axis, kind="stable")
    order = np.take(order, np.arange(k), axis)
    return np.take_along_axis(x, order, axis), order.astype(np.int64)


def argument(best: Callable[..., Array]) -> Function:
    """Where the largest or smallest of each line is; the first of equal ones, or the last."""

    def run(call: OperatorCall) -> tuple[Array, ...]:
        x = call[0]
        axis = axis_in(call.attr("axis", 0), x.ndim)
        last = bool(call.attr("select_last_index"))
        found = x.shape[axis] - 1 - best(np.flip(x, axis), axis) if last else best(x, axis)
        found = np.asarray(found, np.int64)
        return (np.expand_dims(found, axis) if call.attr("keepdims", 1) else found,)

    return run


def cum_sum(call: OperatorCall) -> tuple[Array, ...]:
    """Sums of all elements so far; from the other end, without the own one."""
    x, axis = call[0], axis_in(int(call[1].ravel()[0]), call[0].ndim)
    x = np.flip(x, axis) if call.attr("reverse") else x
    y = (np.cumprod if call.kind == "CumProd" else np.cumsum)(x, axis, dtype=x.dtype)
    if call.attr("exclusive"):
        start = np.full_like(np.take(x, [0], axis), 1 if call.kind == "CumProd" else 0)
        y = np.concatenate([start, np.take(y, np.arange(x.shape[axis] - 1), axis)], axis)
    return (np.flip(y, axis) if call.attr("reverse") else y,)


def non_zero(call: OperatorCall) -> tuple[Array, ...]:
    """The places of all elements that are not 0, a row per axis."""
    return (np.array(np.nonzero(np.atleast_1d(call[0])), np.int64).reshape(max(call[0].ndim, 0), -1),)


def compress(call: OperatorCall) -> tuple[Array, ...]:
    """The entries for which the second input is true."""
    axis = call.attr("axis")
    return (np.compress(call[1], call[0] if axis is not None else call[0].ravel(), axis or 0),)


def unique(call: OperatorCall) -> tuple[Array, ...]:
    """Different values, where each is first, which one each element is, and how often."""
    axis = call.attr("axis")
    x = call[0] if axis is not None else call[0].ravel()
    y, first, back, count = np.unique(
        x, return_index=True, return_inverse=True, return_counts=True, axis=axis if axis is not None else 0
    )
    back = back.ravel()
    if not call.attr("sorted", 1):
        order = np.argsort(first, kind="stable")
        y, first, count = np.take(y, order, axis or 0), first[order], count[order]
        back = np.argsort(order, kind="stable")[back]
    return y, first.astype(np.int64), back.astype(np.int64), count.astype(np.int64)


def reverse_sequence(call: OperatorCall) -> tuple[Array, ...]:
    """The first so many places of each line turned round."""
    x, lengths = call[0], call[1]
    time, batch = call.attr("time_axis", 0), call.attr("batch_axis", 1)
    moved = np.moveaxis(x.copy(), (batch, time), (0, 1))
    for row, length in enumerate(lengths):
        moved[row, : int(length)] = moved[row, : int(length)][::-1].copy()
    return (np.moveaxis(moved, (0, 1), (batch, time)),)


def one_hot(call: OperatorCall) -> tuple[Array, ...]:
    """A new axis that is "on" at the place with each number, else "off"."""
    indices, depth, values = call[0].astype(np.int64), int(call[1].ravel()[0]), call[2]
    axis = axis_in(call.attr("axis", -1), indices.ndim + 1)
    wrapped = np.where(indices < 0, indices + depth, indices)
    wide = (depth, *(1,) * (indices.ndim - axis))
    hit = np.expand_dims(wrapped, axis) == np.arange(depth).reshape(wide)
    return (np.where(hit, values[1], values[0]).astype(values.dtype),)


def eye_like(call: OperatorCall) -> tuple[Array, ...]:
    """Ones on a diagonal."""
    x, code = call[0], call.attr("dtype")
    kind = x.dtype if code is None else type_of(code)
    return (np.eye(*x.shape, k=call.attr("k", 0), dtype=np.float32 if kind == "bfloat16" else kind),)


def trilu(call: OperatorCall) -> tuple[Array, ...]:
    """The upper or lower triangle; 0 elsewhere."""
    k = call.get(1)
    return ((np.triu if call.attr("upper", 1) else np.tril)(call[0], int(k.ravel()[0]) if k is not None else 0),)


def shape(call: OperatorCall) -> tuple[Array, ...]:
    """The sizes of the axes."""
    sizes = call[0].shape
    return (np.array(sizes[call.attr("start", 0) : call.attr("end", len(sizes))], np.int64),)


def sizes(call: OperatorCall) -> tuple[Array, ...]:
    """Polynomials in the size of an axis, which is the batch."""
    n = call[0].shape[call.attrs["axis"]]
    values = [sum(Fraction(a, b) * n**power for power, a, b in terms) for terms in call.attrs["numbers"]]
    whole = call.dtype.startswith(("int", "uint"))
    kind = "float32" if call.dtype in ("bfloat16", "float16") else call.dtype
    return (np.array([int(v) if whole else float(v) for v in values], kind).reshape(call.attrs["sizes"]),)


def constant_of_shape(call: OperatorCall) -> tuple[Array, ...]:
    """One value everywhere."""
    value = call.attr("value", {"values": [0.0], "dtype": "float32"})
    kind = "float32" if value["dtype"] == "bfloat16" else value["dtype"]
    return (np.full([int(v) for v in call[0]], value["values"][0], kind),)


def range_(call: OperatorCall) -> tuple[Array, ...]:
    """Numbers from one to another in steps."""
    start, stop, step = (x.ravel()[0] for x in (call[0], call[1], call[2]))
    count = max(0, int(np.ceil((stop - start) / step)))
    return ((start + np.arange(count) * step).astype(call[0].dtype),)


def depth_to_space(call: OperatorCall) -> tuple[Array, ...]:
    """Blocks of channels laid out as blocks of pixels."""
    x, b = call[0], call.attrs["blocksize"]
    n, c, h, w = x.shape
    if call.attr("mode", "DCR") == "DCR":
        y = x.reshape(n, b, b, c // (b * b), h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        y = x.reshape(n, c // (b * b), b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    return (y.reshape(n, c // (b * b), h * b, w * b),)


def space_to_depth(call: OperatorCall) -> tuple[Array, ...]:
    """Blocks of pixels laid out as channels."""
    x, b = call[0], call.attrs["blocksize"]
    n, c, h, w = x.shape
    perm = (0, 3, 5, 1, 2, 4) if call.attr("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return (x.reshape(n, c, h // b, b, w // b, b).transpose(perm).reshape(n, c * b * b, h // b, w // b),)


def centre_crop_pad(call: OperatorCall) -> tuple[Array, ...]:
    """Cut or padded around the centre to given sizes."""
    x, sizes = call[0], call.ints(1) or []
    axes = call.attr("axes") or list(range(x.ndim))
    for axis, size in zip(axes, sizes, strict=True):
        axis = axis_in(axis, x.ndim)
        have = x.shape[axis]
        if have > size:
            start = (have - size) // 2
            x = np.take(x, np.arange(start, start + size), axis)
        elif have < size:
            before = (size - have) // 2
            x = np.pad(x, [(before, size - have - before) if a == axis else (0, 0) for a in range(x.ndim)])
    return (x,)


def reduced(function: Callable[..., Array]) -> Function:
    """A reduction over axes, over all if none are given."""

    def run(call: OperatorCall) -> tuple[Array, ...]:
        x, axes = call[0], call.ints(1, "axes")
        if not axes and call.attr("noop_with_empty_axes"):
            return (np.asarray(function(np.expand_dims(x, 0), (0,), False)),) if call.kind in _CHANGES else (x,)
        over = tuple(axis_in(a, x.ndim) for a in axes) if axes else tuple(range(x.ndim))
        y = np.asarray(function(x, over, bool(call.attr("keepdims", 1))))
        return (y.astype(x.dtype),)

    return run


_CHANGES = ("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp")
"""Reductions that change a value of a single element too."""


def _extreme(best: Callable[..., Array], least: bool) -> Callable[..., Array]:
    def run(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
        if x.dtype.kind == "b":
            return (np.all if least else np.any)(x, axes, keepdims=keep)
        if x.dtype.kind == "f":
            first = np.inf if least else -np.inf
        else:
            first = np.iinfo(x.dtype).max if least else np.iinfo(x.dtype).min
        return best(x, axes, keepdims=keep, initial=first)

    return run


def _log_sum_exp(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    top = x.max(axes, keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, 0)
    found = np.log(np.exp(x - top).sum(axes, keepdims=True)) + top
    return found if keep else np.squeeze(found, axes)


FUNCTIONS: Mapping[str, Function] = {
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "TensorScatter": tensor_scatter,
    "Expand": expand,
    "Tile": tile,
    "Pad": pad,
    "TopK": top_k,
    "ArgMax": argument(np.argmax),
    "ArgMin": argument(np.argmin),
    "CumSum": cum_sum,
    "CumProd": cum_sum,
    "NonZero": non_zero,
    "Compress": compress,
    "Unique": unique,
    "ReverseSequence": reverse_sequence,
    "OneHot": one_hot,
    "EyeLike": eye_like,
    "Trilu": trilu,
    "Shape": shape,
    "Size": lambda call: (np.array(call[0].size, np.int64),),
    "ConstantOfShape": constant_of_shape,
    "dojang.Sizes": sizes,
    "Range": range_,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "CenterCropPad": centre_crop_pad,
    "ReduceSum": reduced(lambda x, axes, keep: x.sum(axes, keepdims=keep)),
    "ReduceMean": reduced(lambda x, axes, keep: x.mean(axes, keepdims=keep)),
    "ReduceProd": reduced(lambda x, axes, keep: x.prod(axes, keepdims=keep)),
    "ReduceMax": reduced(_extreme(np.max, False)),
    "ReduceMin": reduced(_extreme(np.min, True)),
    "ReduceL1": reduced(lambda x, axes, keep: np.abs(x).sum(axes, keepdims=keep)),
    "ReduceL2": reduced(lambda x, axes, keep: np.sqrt((x * x).sum(axes, keepdims=keep))),
    "ReduceSumSquare": reduced(lambda x, axes, keep: (x * x).sum(axes, keepdims=keep)),
    "ReduceLogSum": reduced(lambda x, axes, keep: np.log(x.sum(axes, keepdims=keep))),
    "ReduceLogSumExp": reduced(_log_sum_exp),
}
"""One function per operator."""
