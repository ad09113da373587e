"""Reference of the operators that move elements, and of those that sum over whole axes.

Every function takes `(attrs, inputs, arrays)` as `reference.py` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dojang.arith import shapes as shape_rules
from dojang.arith.attrs import Attrs
from dojang.arith.resizing import Mix, mixes
from dojang.arith.shapes import axis_of

Array = np.ndarray
Inputs = Sequence[Array]
Arrays = Mapping[str, Array]
Function = Callable[[Attrs, Inputs, Arrays], Array]


def constant(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """One value everywhere (float64: the run brings it to its own precision), or the array "value"."""
    return np.full(attrs["shape"], attrs["fill"]) if attrs["fill"] is not None else arrays["value"]


def dense(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """x·weightᵀ + bias over the last axis."""
    out = inputs[0] @ arrays["weight"].T
    return out + arrays["bias"] if "bias" in arrays else out


def concat(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """The inputs one after the other along an axis."""
    return np.concatenate(inputs, attrs["axis"])


def reshaped(rule: shape_rules.Rule) -> Function:
    """The same elements in the same order, in the shape that the shape rule gives."""
    return lambda attrs, inputs, arrays: inputs[0].reshape(rule(attrs, [inputs[0].shape]))


def transpose(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """Axes in another order."""
    return inputs[0].transpose(attrs["perm"])


def pad(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """Elements added around the last axes; negative numbers crop, after the adding."""
    x = inputs[0]
    shape_rules.pad(attrs, [x.shape])  # raises for what does not fit
    pads = ((0, 0),) * (x.ndim - len(attrs["pads"])) + attrs["pads"]
    grow = [(max(a, 0), max(b, 0)) for a, b in pads]
    match attrs["mode"]:
        case "constant":
            full = np.pad(x, grow, constant_values=attrs["value"])
        case "reflect":
            full = np.pad(x, grow, mode="reflect")
        case "replicate":
            full = np.pad(x, grow, mode="edge")
        case _:
            full = np.pad(x, grow, mode="wrap")
    return full[tuple(slice(max(-a, 0), size - max(-b, 0)) for (a, b), size in zip(pads, full.shape, strict=True))]


def slice_(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """Every `step`-th element from `start` to before `stop` along one axis."""
    axis = axis_of(attrs["axis"], inputs[0].ndim)
    return inputs[0][(slice(None),) * axis + (slice(attrs["start"], attrs["stop"], attrs["step"]),)]


def gather(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """The elements at `indices` along one axis."""
    return np.take(inputs[0], np.array(attrs["indices"], int), attrs["axis"])


def resize(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """Spatial axes resampled one after the other: each output is a mix of the pixels around the place it comes from.

    Pixels beyond the border take the value of the border. A pixel without a share is not read.
    """
    x = inputs[0]
    out = shape_rules.resize(attrs, [x.shape])[2:]
    for axis, mixes_ in enumerate(mixes(attrs, x.shape[2:], out), start=2):
        x = mixed(x, axis, mixes_)
    return x


def mixed(x: Array, axis: int, mixes_: Sequence[Mix]) -> Array:
    """`x` with outputs along an axis that are each mixed from some of its pixels."""
    total: Array | None = None
    for pairs in zip(*evened(mixes_), strict=True):
        pixels = np.take(x, [pixel for pixel, _ in pairs], axis)
        if any(share != 1 for _, share in pairs):
            pixels = pixels * np.array([share for _, share in pairs], x.dtype).reshape(-1, *(1,) * (x.ndim - axis - 1))
        total = pixels if total is None else total + pixels
    return x if total is None else total


def evened(mixes_: Sequence[Mix]) -> list[Mix]:
    """The same mixes with as many pairs each: the last pair of a shorter one is halved, and its half again.

    The parts sum to it exactly, and no share is 0, which would make NaN of infinity.
    """
    most = max((len(mix) for mix in mixes_), default=1)
    out: list[Mix] = []
    for mix in mixes_:
        pixel, share = mix[-1]
        parts = most - len(mix) + 1
        halves = [share / 2**k for k in range(1, parts)]
        out.append((*mix[:-1], *((pixel, part) for part in (*halves, share / 2 ** max(0, parts - 1)))))
    return out


def reduced(function: Callable[..., Array]) -> Function:
    """Axes taken together by `function`, kept as 1 with `keepdims`."""
    return lambda attrs, inputs, arrays: np.asarray(
        function(inputs[0], tuple(attrs["axes"]), keepdims=attrs["keepdims"])
    )


def matmul(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """Matrix product over the last two axes."""
    return inputs[0] @ inputs[1]


def einsum(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """Sum of products over named indices."""
    shape_rules.einsum(attrs, [x.shape for x in inputs])  # raises for what does not fit
    return np.asarray(np.einsum(attrs["equation"], *inputs))


FUNCTIONS: Mapping[str, Function] = {
    "constant": constant,
    "dense": dense,
    "concat": concat,
    "flatten": reshaped(shape_rules.flatten),
    "reshape": reshaped(shape_rules.reshape),
    "transpose": transpose,
    "squeeze": reshaped(shape_rules.squeeze),
    "unsqueeze": reshaped(shape_rules.unsqueeze),
    "pad": pad,
    "slice": slice_,
    "gather": gather,
    "resize": resize,
    "reduce_mean": reduced(np.mean),
    "reduce_sum": reduced(np.sum),
    "reduce_max": reduced(np.max),
    "reduce_min": reduced(np.min),
    "matmul": matmul,
    "einsum": einsum,
}
"""The functions of this file by operator."""
