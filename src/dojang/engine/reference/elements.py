"""Reference of the operators that keep the shape: activations, normalisations, softmax, sums and products.

Every function takes `(attrs, inputs, arrays)` as `reference.py` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce

import numpy as np

from dojang.arith.attrs import Attrs
from dojang.base.errors import ShapeError

Array = np.ndarray
Inputs = Sequence[Array]
Arrays = Mapping[str, Array]
Function = Callable[[Attrs, Inputs, Arrays], Array]

_erf = np.frompyfunc(math.erf, 1, 1)

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
"""Klambauer et al. 2017, equation 14."""


def erf(x: Array) -> Array:
    """The error function, exact to double precision."""
    return np.asarray(_erf(x), x.dtype)


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^−x)."""
    return 1 / (1 + np.exp(-x))


def softplus(x: Array) -> Array:
    """log(1 + e^x), without overflow."""
    return np.logaddexp(x.dtype.type(0), x)


def elu(x: Array, alpha: float) -> Array:
    """x where positive, else alpha·(e^x − 1)."""
    return np.where(x > 0, x, alpha * np.expm1(x))


UNARY: Mapping[str, Callable[[Array], Array]] = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "softplus": softplus,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "silu": lambda x: x * sigmoid(x),
    "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "mish": lambda x: x * np.tanh(softplus(x)),
    "selu": lambda x: SELU_SCALE * elu(x, SELU_ALPHA),
    "abs": np.abs,
    "neg": np.negative,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "erf": erf,
    "reciprocal": lambda x: 1 / x,
    "sin": np.sin,
    "cos": np.cos,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "sign": np.sign,
    "not": lambda x: (x == 0).astype(x.dtype),
}
"""Element by element, without attributes; `round` goes to the even neighbour, `not` gives 1 for 0 and else 0."""


def unary(function: Callable[[Array], Array]) -> Function:
    """A function of one array as an operator."""
    return lambda attrs, inputs, arrays: function(inputs[0])


def joined(function: Callable[[Array, Array], Array]) -> Function:
    """A function of two arrays as an operator over all its inputs from left to right, with broadcasting."""
    return lambda attrs, inputs, arrays: reduce(function, inputs)


def per_channel(values: Array, rank: int) -> Array:
    """One value per channel, shaped to broadcast over (n, c, ...)."""
    return values.reshape(-1, *(1,) * (rank - 2))


def gelu(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """x·Φ(x), Φ by the error function or by its tanh approximation (Hendrycks and Gimpel 2016)."""
    x = inputs[0]
    if attrs["approximate"] == "tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))


def leaky_relu(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """x where positive, else slope·x."""
    x = inputs[0]
    return np.where(x > 0, x, attrs["slope"] * x)


def hard_sigmoid(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """alpha·x + beta, held within 0 and 1."""
    return np.clip(attrs["alpha"] * inputs[0] + attrs["beta"], 0, 1)


def clip(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """Values held within min and max, either of which may be absent; NaN stays."""
    x = inputs[0]
    if attrs["min"] is not None:
        x = np.maximum(x, attrs["min"])
    return np.minimum(x, attrs["max"]) if attrs["max"] is not None else x


def fake_quantize(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """scale · round(x / scale), to the even neighbour, where the whole number is held within low and high.

    With a zero point z a quantised value lies within low + z and high + z (Jacob et al. 2018, equation 1).
    """
    scale = inputs[0].dtype.type(attrs["scale"])
    return np.fmin(np.fmax(np.rint(inputs[0] / scale), attrs["low"]), attrs["high"]) * scale


def prelu(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """x where positive, else slope·x with one learned slope, or one per channel."""
    x, slope = inputs[0], arrays["weight"]
    if slope.size not in (1, x.shape[1] if x.ndim > 1 else 1):
        raise ShapeError(f"{slope.size} slopes for {x.shape[1]} channels; give 1 or one per channel")
    return np.where(x > 0, x, (per_channel(slope, x.ndim) if slope.size > 1 else slope[0]) * x)


def affine(x: Array, arrays: Arrays, rank: int | None = None) -> Array:
    """x·weight + bias where the layer has them; per channel, or over the last axes if `rank` is None."""
    if "weight" not in arrays:
        return x
    weight, bias = arrays["weight"], arrays["bias"]
    return x * per_channel(weight, rank) + per_channel(bias, rank) if rank else x * weight + bias


def standardised(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    """(x − mean) / sqrt(variance + eps) over `axes`; the variance is that of the sample itself (divided by N)."""
    mean = x.mean(axes, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + eps)


def batchnorm(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """(x − running mean) / sqrt(running variance + eps) · weight + bias, per channel: as at inference."""
    x = inputs[0]
    mean, var = (per_channel(arrays[role], x.ndim) for role in ("running_mean", "running_var"))
    return affine((x - mean) / np.sqrt(var + attrs["eps"]), arrays, x.ndim)


def instancenorm(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """Each channel of each image standardised over its pixels."""
    x = inputs[0]
    return affine(standardised(x, tuple(range(2, x.ndim)), attrs["eps"]), arrays, x.ndim)


def groupnorm(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """Each group of channels of each image standardised (Wu and He 2018)."""
    x, groups = inputs[0], attrs["groups"]
    grouped = x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    return affine(standardised(grouped, tuple(range(2, grouped.ndim)), attrs["eps"]).reshape(x.shape), arrays, x.ndim)


def layernorm(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """Standardised over the last axes (Ba et al. 2016)."""
    x = inputs[0]
    return affine(standardised(x, tuple(range(x.ndim - len(attrs["shape"]), x.ndim)), attrs["eps"]), arrays)


def lrn(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """x / (k + alpha/size · sum of squares over `size` neighbouring channels)^beta (Krizhevsky et al. 2012, 3.3).

    An even size has one neighbour more before than after, as in PyTorch.
    """
    x, size = inputs[0], attrs["size"]
    total = np.zeros_like(x)
    for c in range(x.shape[1]):
        near = x[:, max(0, c - size // 2) : c + (size - 1) // 2 + 1]
        total[:, c] = (near**2).sum(1)
    return x / (attrs["k"] + attrs["alpha"] / size * total) ** attrs["beta"]


def softmax(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """e^x over its sum along one axis, shifted by the largest value so that nothing overflows."""
    x, axis = inputs[0], attrs["axis"]
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def log_softmax(attrs: Attrs, inputs: Inputs, arrays: Arrays) -> Array:
    """The logarithm of `softmax`, computed without its rounding."""
    x, axis = inputs[0], attrs["axis"]
    shifted = x - x.max(axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))


FUNCTIONS: Mapping[str, Function] = {
    **{name: unary(function) for name, function in UNARY.items()},
    "gelu": gelu,
    "leaky_relu": leaky_relu,
    "fake_quantize": fake_quantize,
    "elu": lambda attrs, inputs, arrays: elu(inputs[0], attrs["alpha"]),
    "hard_sigmoid": hard_sigmoid,
    "clip": clip,
    "prelu": prelu,
    "dropout": unary(UNARY["identity"]),  # at inference nothing is dropped
    "batchnorm": batchnorm,
    "instancenorm": instancenorm,
    "groupnorm": groupnorm,
    "layernorm": layernorm,
    "lrn": lrn,
    "softmax": softmax,
    "log_softmax": log_softmax,
    "add": joined(np.add),
    "mul": joined(np.multiply),
    "maximum": joined(np.maximum),
    "minimum": joined(np.minimum),
    "sub": joined(np.subtract),
    "div": joined(np.divide),
    "pow": joined(np.power),
}
"""The functions of this file by operator."""
