"""Convolution of arrays: `dojang.conv`, `dojang.conv_transpose` and the mathematical `dojang.convolve`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from dojang.arith.conv import Conv, Padding, by
from dojang.arith.errors import ShapeError, UsageError
from dojang.arith.graph import Node
from dojang.engine.reference import REFERENCE

Array = np.ndarray
Axes = int | Sequence[int]
Mode = Literal["full", "same", "valid"]


def conv(
    x: Any, weight: Any, bias: Any = None, stride: Axes = 1, padding: Padding = 0, dilation: Axes = 1, groups: int = 1
) -> Array:
    """Convolution as the field uses the word (correlation: the kernel is not flipped), in the rank of `weight`.

    `x` (n, ic, *size), `weight` (oc, ic/groups, *kernel), `bias` (oc,) → (n, oc, *out size). Float32 stays float32,
    everything else becomes float64. `padding` is a number, one per axis, (before, after) per axis, "same" or "valid".
    Raises `ShapeError` for sizes that do not fit.

    >>> conv(np.ones((1, 3, 32, 32)), np.ones((4, 3, 5, 5))).shape
    (1, 4, 28, 28)
    """
    return _conv(x, weight, bias, False, stride=stride, padding=padding, dilation=dilation, groups=groups)


def conv_transpose(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Axes = 1,
    padding: Padding = 0,
    output_padding: Axes = 0,
    dilation: Axes = 1,
    groups: int = 1,
) -> Array:
    """The adjoint of `conv`: spreads each input pixel over the output.

    `x` (n, ic, *size), `weight` (ic, oc/groups, *kernel) → (n, oc, *size), size (i−1)s − p₀ − p₁ + d(k−1) + 1 + extra.

    >>> conv_transpose(np.ones((1, 64, 16, 16)), np.ones((64, 32, 2, 2)), stride=2).shape
    (1, 32, 32, 32)
    """
    more = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return _conv(x, weight, bias, True, output_padding=output_padding, **more)


def convolve(f: Any, g: Any, mode: Mode = "full", dx: float = 1.0) -> Array:
    """The mathematical convolution (f ∗ g)[t] = dx · Σ f[s] · g[t − s] of two real arrays of one rank: `g` is flipped.

    `mode`: "full" (every overlap, f + g − 1), "same" (the size of `f`, centred), "valid" (full overlaps only). With
    `dx`, the product of the sampling steps, it approximates the integral of two sampled functions. For large arrays
    the sum over the smaller array is direct, not a fast Fourier transform.

    >>> convolve([1, 2, 3], [0, 1, 0.5]).tolist()
    [0.0, 1.0, 2.5, 4.0, 1.5]
    """
    a, b = _floats(f, g)
    if a.ndim != b.ndim or a.ndim == 0 or 0 in (a.size, b.size):
        raise ShapeError(
            f"arrays of shapes {by(a.shape)} and {by(b.shape)} cannot be convolved; give one rank, not empty"
        )
    if mode not in ("full", "same", "valid"):
        raise UsageError(f'mode "{mode}" is not known; use full, same or valid')
    kernel = np.flip(b)
    if mode == "valid":
        if any(k > i for i, k in zip(a.shape, b.shape, strict=True)):
            raise ShapeError(f"{by(b.shape)} does not lie within {by(a.shape)} anywhere; use mode full or same")
        pads = tuple((0, 0) for _ in b.shape)
    elif mode == "full":
        pads = tuple((k - 1, k - 1) for k in b.shape)
    else:
        pads = tuple((k - 1 - (k - 1) // 2, (k - 1) // 2) for k in b.shape)
    y = conv(a[None, None], kernel[None, None], padding=pads)[0, 0]
    return y if dx == 1.0 else y * np.asarray(dx, y.dtype)


def _floats(*arrays: Any) -> list[Array]:
    """The arrays in one precision: float32 if all are, else float64."""
    made = [np.asarray(a) for a in arrays]
    for array in made:
        if array.dtype.kind not in "buif":
            raise UsageError(f"arrays of type {array.dtype} cannot be convolved; use real numbers")
    kind = np.float32 if all(a.dtype == np.float32 for a in made) else np.float64
    return [a.astype(kind, copy=False) for a in made]


def _conv(x: Any, weight: Any, bias: Any, transposed: bool, groups: int, **attrs: Any) -> Array:
    array, taps, *more = _floats(x, weight, *(() if bias is None else (bias,)))
    if taps.ndim < 3:
        raise ShapeError(f"weights of shape {by(taps.shape)} have no kernel axes; give (oc, ic/groups, *kernel)")
    if array.ndim != taps.ndim:
        raise ShapeError(
            f"an input of shape {by(array.shape)} does not fit {taps.ndim - 2}-d weights; give (n, c, *size)"
        )
    kernel = taps.shape[2:]
    oc = taps.shape[1] * groups if transposed else taps.shape[0]
    problem = Conv.of(
        array.shape[1], oc, array.shape[2:], kernel, groups=groups, transposed=transposed, n=len(array), **attrs
    )
    if taps.shape != problem.weight_shape:
        raise ShapeError(f"weights are {by(taps.shape)}, {array.shape[1]} channels in {groups} groups need "
                         f"{by(problem.weight_shape)}")  # fmt: skip
    if more and more[0].shape != (oc,):
        raise ShapeError(f"the bias has shape {by(more[0].shape)}, {oc} output channels need ({oc},)")
    filled: dict[str, Any] = {
        "out": oc,
        "kernel": kernel,
        "stride": problem.stride,
        "padding": problem.padding,
        "dilation": problem.dilation,
        "groups": groups,
        "bias": bool(more),
    }
    if transposed:
        filled["output_padding"] = problem.output_padding
    node = Node.of("conv", "conv_transpose" if transposed else "conv", "x", **filled)
    arrays = {"weight": taps} | ({"bias": more[0]} if more else {})
    return REFERENCE[node.op](node.attrs, [array], arrays)
