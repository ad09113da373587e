"""Reference of the operators that slide a window: convolution, its transpose, pooling. Sums over taps, nothing clever.

Arrays are (n, c, *spatial) of any rank; every function takes `(attrs, inputs, arrays)` as `reference.py` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from math import prod

import numpy as np

from dojang.arith import shapes as shape_rules
from dojang.arith.attrs import Attrs
from dojang.arith.conv import Pads, Sizes, resolve_padding
from dojang.arith.shapes import conv_problem, dynamic_problem

Array = np.ndarray
Inputs = Sequence[Array]
Arrays = Mapping[str, Array]


def taps(kernel: Sizes, stride: Sizes, dilation: Sizes, places: Sizes) -> list[tuple[Sizes, tuple[slice, ...]]]:
    """For every tap its index in the kernel and the slices of the padded image that it meets at all `places`."""
    found: list[tuple[Sizes, tuple[slice, ...]]] = []
    for tap in product(*(range(k) for k in kernel)):
        axes = zip(tap, stride, dilation, places, strict=True)
        found.append((tap, tuple(slice(t * d, t * d + (o - 1) * s + 1, s) for t, s, d, o in axes)))
    return found


def surround(x: Array, pads: Pads, value: float) -> Array:
    """`x` with `value` around its spatial axes."""
    return np.pad(x, ((0, 0), (0, 0), *pads), constant_values=value)


def add_bias(out: Array, arrays: Arrays) -> Array:
    """Adds the bias of each channel, if there is one."""
    return out + arrays["bias"].reshape(-1, *(1,) * (out.ndim - 2)) if "bias" in arrays else out


def conv(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """out[n, o, j] = bias[o] + sum over taps t, channels c of the group of weight[o, c, t] · x[n, c, j·s − p + t·d]."""
    x, weight = inputs[0], arrays["weight"]
    problem = conv_problem(attrs, [x.shape])
    n, g, size = problem.n, problem.groups, problem.out_size
    x = surround(x, problem.padding, 0)
    out = np.zeros((n, g, problem.oc // g, prod(size)), x.dtype)
    for tap, window in taps(problem.kernel, problem.stride, problem.dilation, size):
        seen = x[(..., *window)].reshape(n, g, problem.ic // g, prod(size))
        if problem.ic == g:  # a product of numbers, for which BLAS would be called once per channel
            out += weight[(..., *tap)].reshape(g, problem.oc // g, 1) * seen
            continue
        out += weight[(..., *tap)].reshape(g, problem.oc // g, problem.ic // g) @ seen
    return add_bias(out.reshape(problem.out_shape), arrays)


def conv_transpose(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """The adjoint of `conv`: each input pixel adds weight[c, o, t] · x[n, c, i] to the output at i·s − p + t·d."""
    x, weight = inputs[0], arrays["weight"]
    problem = conv_problem(attrs, [x.shape], transposed=True)
    n, g, size = problem.n, problem.groups, problem.out_size
    spread = tuple(o + before + after for o, (before, after) in zip(size, problem.padding, strict=True))
    reach = tuple(
        max(full, (i - 1) * s + (k - 1) * d + 1)
        for full, i, s, k, d in zip(spread, problem.size, problem.stride, problem.kernel, problem.dilation, strict=True)
    )
    canvas = np.zeros((n, problem.oc, *reach), x.dtype)
    flat = x.reshape(n, g, problem.ic // g, prod(problem.size))
    for tap, window in taps(problem.kernel, problem.stride, problem.dilation, problem.size):
        kernel = weight[(..., *tap)].reshape(g, problem.ic // g, problem.oc // g).swapaxes(1, 2)
        canvas[(..., *window)] += (kernel @ flat).reshape(n, problem.oc, *problem.size)
    crop = tuple(slice(before, before + o) for o, (before, _) in zip(size, problem.padding, strict=True))
    return add_bias(canvas[(..., *crop)], arrays)


def deform_conv(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """Like `conv`, but tap t of place j looks at j·s − p + t·d + offset[t, j], between pixels, times mask[t, j].

    Between pixels the value is interpolated linearly along every axis; what lies outside counts as 0. Offsets are
    (n, offset group × taps × axes, *places), masks (n, offset group × taps, *places), as in ONNX and torchvision.
    """
    x, weight = inputs[0], arrays["weight"]
    problem = conv_problem(attrs, [x.shape])
    n, g, size, rank = problem.n, problem.groups, problem.out_size, problem.rank
    parts = attrs["offset_groups"]
    given = [np.broadcast_to(a, (n, *a.shape[1:])) for a in inputs[1:]]
    offsets = given[0].reshape(n, parts, *problem.kernel, rank, *size)
    masks = given[1].reshape(n, parts, *problem.kernel, *size) if len(given) > 1 else None
    flat = x.reshape(n, parts, problem.ic // parts, prod(problem.size))
    out = np.zeros((n, g, problem.oc // g, prod(size)), x.dtype)
    for tap in product(*(range(k) for k in problem.kernel)):
        places: list[Array] = []
        for axis, (o, s, d, (p, _)) in enumerate(
            zip(size, problem.stride, problem.dilation, problem.padding, strict=True)
        ):
            grid = (np.arange(o) * s - p + tap[axis] * d).reshape(-1, *(1,) * (rank - 1 - axis))
            places.append(grid + offsets[(slice(None), slice(None), *tap, axis)])
        seen = interpolated(flat, places, problem.size).astype(x.dtype, copy=False)
        if masks is not None:
            seen = seen * masks[(slice(None), slice(None), *tap)].reshape(n, parts, 1, -1)
        grouped = seen.reshape(n, g, problem.ic // g, prod(size))
        out += weight[(..., *tap)].reshape(g, problem.oc // g, problem.ic // g) @ grouped
    return add_bias(out.reshape(problem.out_shape), arrays)


def dynamic_conv(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """`conv` by the weights that come in."""
    x, weight = inputs
    problem = dynamic_problem(attrs, [x.shape, weight.shape])
    return conv({**attrs, "out": problem.oc, "groups": problem.groups}, [x], {**arrays, "weight": weight})


def interpolated(flat: Array, places: Sequence[Array], size: Sizes) -> Array:
    """`flat` (n, parts, c, pixels) read at places given per axis (n, parts, *out), as (n, parts, c, out)."""
    n, parts = flat.shape[:2]
    total = np.zeros((*flat.shape[:3], prod(places[0].shape[2:])), flat.dtype)
    for corner in product((0, 1), repeat=len(size)):
        share, index = np.ones(places[0].shape, flat.dtype), np.zeros(places[0].shape, np.int64)
        for place, side, full in zip(places, corner, size, strict=True):
            pixel = np.floor(place) + side
            share = share * np.where((pixel >= 0) & (pixel < full), 1 - np.abs(place - pixel), 0)
            index = index * full + np.clip(np.nan_to_num(pixel), 0, full - 1).astype(np.int64)
        read = np.take_along_axis(flat, index.reshape(n, parts, 1, -1), axis=3)
        total += share.reshape(n, parts, 1, -1) * read
    return total


def pool_windows(attrs: Attrs, x: Array, value: float) -> tuple[Pads, list[Array]]:
    """The padding of a pool, and for every tap what it meets at all places; outside the image it meets `value`."""
    kernel, stride = attrs["kernel"], attrs["stride"]
    dilation = attrs.get("dilation", (1,) * len(kernel))
    size = x.shape[2:]
    pads = resolve_padding(attrs["padding"], size, kernel, stride, dilation)
    places = shape_rules.pool(attrs, [x.shape])[2:]
    # In ceil mode the last window may hang over the padding; in floor mode it may end before it.
    after = tuple(
        max(0, (o - 1) * s + (k - 1) * d + 1 - i - before)
        for o, s, k, d, i, (before, _) in zip(places, stride, kernel, dilation, size, pads, strict=True)
    )
    full = surround(x, tuple((before, a) for (before, _), a in zip(pads, after, strict=True)), value)
    return pads, [full[(..., *window)] for _, window in taps(kernel, stride, dilation, places)]


def maxpool(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """The largest value under each window; padding is never the largest; NaN wins."""
    _, seen = pool_windows(attrs, inputs[0], -np.inf)
    out = seen[0].copy()
    for values in seen[1:]:
        out = np.maximum(out, values)
    return out


def avgpool(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """The mean under each window: of all its places with `count_padding`, else of those on the image.

    What hangs over the padding in ceil mode never counts (PyTorch's rule). A window without a place to count gives 0.
    """
    x = inputs[0]
    pads, seen = pool_windows(attrs, x, 0)
    counted = np.ones((1, 1, *x.shape[2:]), x.dtype)
    if attrs["count_padding"]:
        counted = surround(counted, pads, 1)
        attrs = {**attrs, "padding": ((0, 0),) * len(pads)}
    _, here = pool_windows(attrs, counted, 0)
    total, count = sum(seen[1:], seen[0]), sum(here[1:], here[0])
    count = count[(..., *(slice(0, o) for o in total.shape[2:]))]
    return np.where(count > 0, total / np.maximum(count, 1), 0).astype(x.dtype)


def adaptive(reduce: Callable[..., Array]) -> Callable[[Attrs, Inputs, Arrays], Array]:
    """Pooling to o places per axis: place j covers the pixels from ⌊j·i/o⌋ to before ⌈(j+1)·i/o⌉."""

    def run(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
        x, out = inputs[0], attrs["out"]
        axes = list(zip(x.shape[2:], out, strict=True))
        result = np.empty((*x.shape[:2], *out), x.dtype)
        for place in product(*(range(o) for o in out)):
            box = tuple(slice(j * i // o, -(-(j + 1) * i // o)) for j, (i, o) in zip(place, axes, strict=True))
            result[(..., *place)] = reduce(x[(..., *box)], axis=tuple(range(2, x.ndim)))
        return result

    return run


def over_space(reduce: Callable[..., Array]) -> Callable[[Attrs, Inputs, Arrays], Array]:
    """Pooling of each channel to one value; the spatial axes stay, as 1."""

    def run(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
        x = inputs[0]
        return reduce(x, axis=tuple(range(2, x.ndim)), keepdims=True)

    return run


FUNCTIONS = {
    "conv": conv,
    "conv_transpose": conv_transpose,
    "deform_conv": deform_conv,
    "dynamic_conv": dynamic_conv,
    "maxpool": maxpool,
    "avgpool": avgpool,
    "adaptive_maxpool": adaptive(np.max),
    "adaptive_avgpool": adaptive(np.mean),
    "global_maxpool": over_space(np.max),
    "global_avgpool": over_space(np.mean),
}
"""The functions of this file by operator."""
