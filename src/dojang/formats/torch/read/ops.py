"""PyTorch functions as nodes: element by element, reductions, resizing.

One handler per function name, `f(tracer, *args, **kwargs)`, with PyTorch's own argument names; it returns the traced
result, or `NotImplemented` for a form it does not know, which then becomes an `unknown` node. Layers are in
`layers.py`, attention in `attention.py`, moving data about in `views.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch

from dojang.arith.ops import UNARY
from dojang.arith.shapes import axis_of
from dojang.formats.torch.read.trace import ONNX_TYPES, Tracer
from dojang.formats.torch.read.traced import HANDLERS, Handler, Traced

Size = int | Sequence[int]


def lowers(*names: str) -> Callable[[Handler], Handler]:
    """Registers a handler under the names PyTorch, Tensor and ATen use for the function."""

    def register(handler: Handler) -> Handler:
        for name in names:
            HANDLERS[name] = handler
        return handler

    return register


def per_axis(value: Size, rank: int) -> tuple[int, ...]:
    """One value per axis."""
    if isinstance(value, int):
        return (value,) * rank
    values = tuple([int(v) for v in value])
    return values * rank if len(values) == 1 else values


# -- element by element --------------------------------------------------------------------------------------------

SAME = {
    "identity": "alias clone contiguous detach to float double half bfloat16 long int bool type type_as cpu cuda data "
    "lift lift_fresh lift_fresh_copy requires_grad to_copy positive pos real conj resolve_conj resolve_neg",
    "neg": "neg negative",
    "hard_swish": "hardswish",
    "silu": "silu",
    "not": "logical_not",
}
"""Other names of the functions that `arith` has without attributes; `identity` is left out of the Graph."""


def _unary(op: str) -> Handler:
    def handler(t: Tracer, x: Any) -> Any:
        return t.emit(op, t.value(x))

    return handler


for _op in UNARY:
    HANDLERS[_op] = _unary(_op)
for _op, _names in SAME.items():
    for _name in _names.split():
        HANDLERS[_name] = _unary(_op)
HANDLERS["absolute"] = HANDLERS["abs"]
del HANDLERS["softplus"], HANDLERS["identity"]


TYPES = {torch.float32: "Float", torch.float64: "Double", torch.float16: "Half", torch.bfloat16: "BFloat16"}
"""The classes of the numbers, as `tensor.type()` names them."""


@lowers("new_tensor")
def new_tensor(t: Tracer, x: Traced, data: Any, *, dtype: Any = None, device: Any = None, **kwargs: Any) -> Any:
    """Numbers in the precision of a traced tensor."""
    if isinstance(data, Traced):
        return same(t, data)
    return torch.tensor(data, dtype=dtype or x.dtype, device=device or x.device)


@lowers(*SAME["identity"].split())
def same(t: Tracer, x: Traced, *args: Any, **kwargs: Any) -> Any:
    """Copies and changes of layout, device or float precision: nothing to compute. A real tensor may take its type from
    a traced one.
    """
    if not isinstance(x, Traced):
        like = next((v for v in (*args, *kwargs.values()) if isinstance(v, Traced)), None)
        if t.func not in ("to", "type_as") or like is None or not isinstance(x, torch.Tensor):
            return NotImplemented
        return t.real(torch.Tensor.to, "to", (x,), {"dtype": like.dtype, "device": like.device})
    if t.func == "type" and not args and not kwargs:
        return f"torch.{TYPES[x.dtype]}Tensor" if x.dtype in TYPES and x.device.type == "cpu" else NotImplemented
    wanted = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.dtype)]
    named = {"long": torch.int64, "int": torch.int32, "bool": torch.bool}.get(t.func)
    target = named or (wanted[0] if wanted else None)
    if target is not None and not target.is_floating_point and x.dtype != target:
        return t.cast(x, target) if target in ONNX_TYPES else NotImplemented
    if (
        t.read(x) in t.whole
        and x.dtype != target
        and (target is not None or t.func in ("float", "double", "half", "bfloat16"))
    ):
        x = t.cast(x, torch.float32)
    copy = Traced(x.node, x.sizes, wanted[0] if wanted else x.dtype, x.device)
    t.read(x)
    return copy


def binary(op: str, swapped: bool = False) -> Handler:
    """A handler for two operands that broadcast."""

    def handler(t: Tracer, a: Any, b: Any, *, alpha: float = 1, rounding_mode: str | None = None) -> Any:
        if rounding_mode is not None:
            return HANDLERS["floor_divide"](t, a, b) if rounding_mode == "floor" else NotImplemented
        if swapped:
            a, b = b, a
        if op == "add" and isinstance(a, int | float):
            a, b = b, a
        if op == "mul" and isinstance(a, int | float):
            a, b = b, a
        if alpha != 1:
            b = b * alpha if isinstance(b, int | float) else t.emit("mul", t.value(b), t.number(alpha, b), part="scale")
        neutral = {"add": 0, "sub": 0, "mul": 1, "div": 1, "pow": 1}.get(op)
        if isinstance(b, int | float) and b == neutral and isinstance(a, Traced):
            return same(t, a)
        a, b = (t.number(v, a, b) if isinstance(v, int | float) else t.value(v) for v in (a, b))
        return t.emit(op, a, b)

    return handler


for _op, _names in {
    "add": "add iadd radd",
    "sub": "sub subtract isub",
    "mul": "mul multiply rmul imul",
    "div": "div divide true_divide truediv itruediv",
    "pow": "pow ipow float_power",
    "maximum": "maximum",
    "minimum": "minimum",
}.items():
    for _name in _names.split():
        HANDLERS[_name] = binary(_op)
for _op, _names in {"sub": "rsub", "div": "rdiv rtruediv", "pow": "rpow"}.items():
    for _name in _names.split():
        HANDLERS[_name] = binary(_op, swapped=True)


@lowers("square")
def square(t: Tracer, x: Traced) -> Any:
    """x·x."""
    return t.emit("mul", x, x)


@lowers("rsqrt")
def rsqrt(t: Tracer, x: Traced) -> Any:
    """1/√x."""
    return t.emit("reciprocal", t.emit("sqrt", x, part="sqrt"))


TINY = 2.0**-30  # below the least 1 + x in float32 that is not 0


@lowers("log1p")
def log1p(t: Tracer, x: Traced) -> Any:
    """log u + (x − (u − 1)) / u with u = 1 + x: what rounding takes from u is added again, to first order.

    Only for x up to 1, whose u is where the loss counts; and never by 0, so that −∞ and +∞ stay what they are.
    """
    one = t.number(1.0, x)
    low = t.emit("minimum", x, one, part="low")
    near = t.emit("add", low, one, part="near")
    lost = t.emit("sub", low, t.emit("sub", near, one, part="kept"), part="lost")
    share = t.emit("div", lost, t.emit("maximum", near, t.number(TINY, x), part="over"), part="share")
    return t.emit("add", t.emit("log", t.emit("add", x, one, part="add"), part="log"), share)


@lowers("logsigmoid", "log_sigmoid")
def log_sigmoid(t: Tracer, x: Traced) -> Any:
    """-softplus(-x)."""
    return t.emit("neg", t.emit("softplus", t.emit("neg", x, part="neg"), part="softplus"))


@lowers("softplus")
def softplus(t: Tracer, x: Traced, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """log(1 + exp(βx))/β; PyTorch's threshold changes it by less than float32 can show."""
    if threshold < 15:
        return NotImplemented
    if beta == 1:
        return t.emit("softplus", x)
    wide = t.emit("mul", x, t.number(beta, x), part="mul")
    return t.emit("div", t.emit("softplus", wide, part="softplus"), t.number(beta, x))


@lowers("tanhshrink")
def tanhshrink(t: Tracer, x: Traced) -> Any:
    """x - tanh(x)."""
    return t.emit("sub", x, t.emit("tanh", x, part="tanh"))


@lowers("glu")
def glu(t: Tracer, x: Traced, dim: int = -1) -> Any:
    """First half times the sigmoid of the second."""
    first, second = HANDLERS["chunk"](t, x, 2, dim)
    return t.emit("mul", first, t.emit("sigmoid", second, part="sigmoid"))


@lowers("clamp", "clip", "hardtanh", "clamp_min", "clamp_max")
def clamp(t: Tracer, x: Traced, *args: Any, **kwargs: Any) -> Any:
    """min and max by number."""
    low, high = {"hardtanh": (-1.0, 1.0)}.get(t.func, (None, None))
    words = {"clamp_max": ("max",)}.get(t.func, ("min", "max"))
    given = {k.removesuffix("_val"): v for k, v in {**dict(zip(words, args, strict=False)), **kwargs}.items()}
    low, high = given.get("min", low), given.get("max", high)
    if not all(v is None or isinstance(v, int | float) for v in (low, high)):
        return NotImplemented
    return t.emit("clip", x, min=low, max=high)


@lowers("relu6")
def relu6(t: Tracer, x: Traced) -> Any:
    """Between 0 and 6."""
    return t.emit("clip", x, min=0.0, max=6.0)


@lowers("hardsigmoid")
def hardsigmoid(t: Tracer, x: Traced) -> Any:
    """x/6 + 1/2 between 0 and 1."""
    return t.emit("hard_sigmoid", x, alpha=1 / 6, beta=0.5)


@lowers("gelu")
def gelu(t: Tracer, x: Traced, approximate: str = "none") -> Any:
    """GELU, exact or by tanh."""
    return t.emit("gelu", x, approximate=approximate)


@lowers("leaky_relu")
def leaky_relu(t: Tracer, x: Traced, negative_slope: float = 0.01) -> Any:
    """A slope below 0."""
    return t.emit("leaky_relu", x, slope=negative_slope)


@lowers("rrelu")
def rrelu(t: Tracer, x: Traced, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False) -> Any:
    """At inference a leaky ReLU of the mean slope."""
    return t.emit("leaky_relu", x, slope=(lower + upper) / 2)


@lowers("elu")
def elu(t: Tracer, x: Traced, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Any:
    """α(exp(x) - 1) below 0."""
    return t.emit("elu", x, alpha=alpha) if scale == input_scale == 1 else NotImplemented


@lowers("celu")
def celu(t: Tracer, x: Traced, alpha: float = 1.0) -> Any:
    """α(exp(x/α) - 1) below 0: the ELU of x/α, times α."""
    if alpha == 1:
        return t.emit("elu", x, alpha=1.0)
    inner = t.emit("elu", t.emit("div", x, t.number(alpha, x), part="div"), part="elu", alpha=1.0)
    return t.emit("mul", inner, t.number(alpha, x))


@lowers("prelu")
def prelu(t: Tracer, x: Traced, weight: Any) -> Any:
    """A learned slope below 0."""
    if isinstance(weight, Traced):
        return NotImplemented
    name = t.fresh(name=t.owner(weight))
    t.used.discard(name)
    return t.emit("prelu", x, name=name, num=weight.numel(), arrays=t.roles(name, weight=weight))


@lowers("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "dropout1d", "dropout2d", "dropout3d")
def dropout(t: Tracer, x: Traced, p: float = 0.5, training: bool = False, train: bool = False) -> Any:
    """Nothing at inference; the rate is kept."""
    return t.emit("dropout", x, p=p)


@lowers("softmax", "log_softmax")
def softmax(t: Tracer, x: Traced, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    """Softmax along one axis; PyTorch's old default is axis 0 for 1 or 3 axes, else 1."""
    axis = dim if dim is not None else (0 if x.dim() in (0, 1, 3) else 1)
    return t.emit(t.func if t.func in ("softmax", "log_softmax") else "softmax", x, axis=axis_of(axis, x.dim()))


# -- reductions and resizing ---------------------------------------------------------------------------------------


def _reduce(kind: str) -> Handler:
    def handler(t: Tracer, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
        x = t.value(x)
        axes = range(x.dim()) if dim is None or dim in ((), []) else per_axis(dim, 1)
        return t.emit(f"reduce_{kind}", x, axes=tuple(axis_of(a, x.dim()) for a in axes), keepdims=bool(keepdim))

    return handler


HANDLERS["mean"], HANDLERS["sum"] = _reduce("mean"), _reduce("sum")
HANDLERS["amax"], HANDLERS["amin"] = _reduce("max"), _reduce("min")


@lowers("logsumexp")
def logsumexp(t: Tracer, x: Traced, dim: Any, keepdim: bool = False) -> Any:
    """log Σ exp(x), shifted by the largest value so that nothing overflows; by a finite one where that is infinite."""
    axes = tuple(axis_of(a, x.dim()) for a in per_axis(dim, 1))
    largest, bound = t.emit("reduce_max", x, part="max", axes=axes, keepdims=True), torch.finfo(torch.float32).max
    most = t.emit("clip", largest, part="finite", min=-bound, max=bound)
    powers = t.emit("exp", t.emit("sub", x, most, part="sub"), part="exp")
    total = t.emit("log", t.emit("reduce_sum", powers, part="sum", axes=axes, keepdims=True), part="log")
    if keepdim:
        return t.emit("add", total, most)
    return t.emit("squeeze", t.emit("add", total, most, part="add"), axes=axes)


@lowers("max", "min")
def extreme(t: Tracer, x: Traced, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """The largest values along an axis, and where they are. With a second tensor: element by element."""
    kind = t.func
    if isinstance(dim, torch.Tensor) or other is not None:
        return t.emit(f"{kind}imum", x, t.value(dim if other is None else other))
    if dim is None:
        return HANDLERS[f"a{kind}"](t, x)
    values = HANDLERS[f"a{kind}"](t, x, dim, keepdim)
    arg = HANDLERS[f"arg{kind}"](t, x, dim, keepdim)
    indices = arg if arg is not NotImplemented else t.opaque(
        f"arg{kind}", (x,), values.sizes, torch.int64, True, t.fresh("indices")
    )  # fmt: skip
    return getattr(torch.return_types, kind)((values, indices))


@lowers("var", "std")
def var(t: Tracer, x: Traced, dim: Any = None, *args: Any, **kwargs: Any) -> Any:
    """The mean square distance from the mean, over n - correction."""
    kind, correction, keepdim = t.func, 1, bool(kwargs.get("keepdim", False))
    if isinstance(dim, bool):
        dim, correction = None, int(dim)
    if args:
        correction, keepdim = int(args[0]), bool(args[1]) if len(args) > 1 else keepdim
    correction = int(kwargs.get("unbiased", kwargs.get("correction", correction)))
    axes = tuple(axis_of(a, x.dim()) for a in (range(x.dim()) if dim is None else per_axis(dim, 1)))
    count = prod(x.sizes[a] for a in axes)
    if correction and 0 in axes and x.sizes[0] % t.batch == 0:
        return NotImplemented
    mean = t.emit("reduce_mean", x, part="mean", axes=axes, keepdims=True)
    apart = t.emit("sub", x, mean, part="sub")
    squares = t.emit("mul", apart, apart, part="square")
    result = t.emit("reduce_mean", squares, part="variance", axes=axes, keepdims=keepdim)
    if correction:
        result = t.emit("mul", result, t.number(count / (count - correction), result), part="unbiased")
    return t.emit("sqrt", result) if kind == "std" else result


MODES = {"nearest": "nearest", "nearest-exact": "nearest", "linear": "linear", "bilinear": "linear",
         "trilinear": "linear", "bicubic": "cubic"}  # fmt: skip


@lowers("interpolate", "upsample")
def interpolate(
    t: Tracer, x: Traced, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: bool | None = None, recompute_scale_factor: bool | None = None, antialias: bool = False,
) -> Any:  # fmt: skip
    """Resizing; nearest takes the pixel at or before, "nearest-exact" the closest centre."""
    rank = x.dim() - 2
    if mode == "area" and size is not None:
        return HANDLERS[f"adaptive_avg_pool{rank}d"](t, x, size)
    if antialias and rank == 2 and mode in ("bilinear", "bicubic") and not align_corners:
        return NotImplemented if recompute_scale_factor else _antialiased(t, x, size, scale_factor, mode)
    if mode not in MODES or antialias:
        return NotImplemented
    coords = "asymmetric" if mode == "nearest" else "align_corners" if align_corners else "half_pixel"
    rounding = "round_prefer_ceil" if mode == "nearest-exact" else "floor"
    attrs: dict[str, Any] = {"mode": MODES[mode], "coords": coords, "rounding": rounding, "arithmetic": "torch"}
    if size is not None:
        return t.emit("resize", x, size=per_axis(size, rank), **attrs)
    scale = scale_factor if isinstance(scale_factor, list | tuple) else (scale_factor,) * rank
    scale = tuple(float(s) for s in scale)
    if recompute_scale_factor:
        return t.emit("resize", x, size=tuple(int(s * f) for s, f in zip(x.sizes[2:], scale, strict=True)), **attrs)
    return t.emit("resize", x, scale=scale, **attrs)


def _antialiased(t: Tracer, x: Traced, size: Any, scale: Any, mode: str) -> Traced:
    """Resizing in which every pixel of the result is a mean over what it covers, as ONNX's Resize has it."""
    if size is not None:
        given, place = per_axis(size, 2), 3
        out, sides = given, t.cast(t.value(torch.tensor(given, dtype=torch.float32)), torch.int64)
    else:
        given, place = scale if isinstance(scale, list | tuple) else (scale, scale), 2
        out = tuple(int(s * f) for s, f in zip(x.sizes[2:], given, strict=True))
        sides = t.value(torch.tensor([float(f) for f in given]))
    sources = (x, None, None, sides) if place == 3 else (x, None, sides)
    return t.standard(
        "Resize", sources, (*x.sizes[:2], *out), mode=MODES[mode], antialias=1, exclude_outside=1, cubic_coeff_a=-0.5,
        axes=[2, 3],
    )  # fmt: skip


def _upsample(mode: str, corners: bool) -> Handler:
    def handler(t: Tracer, x: Traced, size: Any, *rest: Any, scale_factors: Any = None) -> Any:
        align = bool(rest[0]) if corners and rest else False
        factors = scale_factors or next((r for r in rest[int(corners) :] if isinstance(r, list | tuple)), None)
        return interpolate(t, x, None if factors else size, factors, mode, align)

    return handler


for _name, _mode in {"linear1d": "linear", "bilinear2d": "bilinear", "trilinear3d": "trilinear",
                     "bicubic2d": "bicubic"}.items():  # fmt: skip
    HANDLERS[f"upsample_{_name}"] = _upsample(_mode, corners=True)
for _rank in (1, 2, 3):
    HANDLERS[f"upsample_nearest{_rank}d"] = _upsample("nearest", corners=False)
    HANDLERS[f"upsample_nearest_exact{_rank}d"] = _upsample("nearest-exact", corners=False)
