"""PyTorch functions as nodes: elementwise functions, layers, pooling, normalisation, resizing, attention.

One handler per function name, `f(tracer, *args, **kwargs)`, with PyTorch's own argument names; it returns the traced
result, or `NotImplemented` for a form it does not know, which then becomes an `unknown` node. Moving data about
(views, indexing, joining) is in `torch_views.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod, sqrt
from typing import Any

import torch
from torch import nn

from dojang.arith.errors import ShapeError
from dojang.arith.graph import Node
from dojang.arith.ops import UNARY
from dojang.arith.shapes import axis_of
from dojang.formats.torch_trace import HANDLERS, MODULES, Handler, Traced, Tracer

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
    values = tuple(int(v) for v in value)
    return values * rank if len(values) == 1 else values


# -- element by element --------------------------------------------------------------------------------------------

SAME = {
    "identity": "alias clone contiguous detach to float double half bfloat16 type type_as cpu cuda data lift "
    "lift_fresh lift_fresh_copy requires_grad to_copy positive pos real conj resolve_conj resolve_neg",
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


@lowers(*SAME["identity"].split())
def same(t: Tracer, x: Traced, *args: Any, **kwargs: Any) -> Any:
    """Copies and changes of layout, device or float precision: nothing to compute."""
    wanted = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.dtype)]
    if any(not d.is_floating_point for d in wanted) or not isinstance(x, Traced):
        return NotImplemented
    copy = Traced(x.node, x.sizes, wanted[0] if wanted else x.dtype, x.device)
    t.read(x)
    return copy


def binary(op: str, swapped: bool = False) -> Handler:
    """A handler for two operands that broadcast."""

    def handler(t: Tracer, a: Any, b: Any, *, alpha: float = 1, rounding_mode: str | None = None) -> Any:
        if rounding_mode not in (None, "floor"):
            return NotImplemented
        if swapped:
            a, b = b, a
        if op == "add" and isinstance(a, int | float):
            a, b = b, a
        if op == "mul" and isinstance(a, int | float):
            a, b = b, a
        if alpha != 1:
            b = (
                b * alpha
                if isinstance(b, int | float)
                else t.emit("mul", t.value(b), t.fill(alpha, (1,)), part="scale")
            )
        neutral = {"add": 0, "sub": 0, "mul": 1, "div": 1, "pow": 1}.get(op)
        if isinstance(b, int | float) and b == neutral and rounding_mode is None and isinstance(a, Traced):
            return same(t, a)
        result = t.emit(op, t.value(a), t.value(b))
        return t.emit("floor", result) if rounding_mode else result

    return handler


for _op, _names in {
    "add": "add iadd radd",
    "sub": "sub subtract isub",
    "mul": "mul multiply rmul imul",
    "div": "div divide true_divide truediv itruediv",
    "pow": "pow ipow float_power",
    "maximum": "maximum fmax",
    "minimum": "minimum fmin",
}.items():
    for _name in _names.split():
        HANDLERS[_name] = binary(_op)
for _op, _names in {"sub": "rsub", "div": "rdiv rtruediv", "pow": "rpow"}.items():
    for _name in _names.split():
        HANDLERS[_name] = binary(_op, swapped=True)


@lowers("floor_divide", "floordiv")
def floor_divide(t: Tracer, a: Any, b: Any) -> Any:
    """⌊a / b⌋."""
    return HANDLERS["div"](t, a, b, rounding_mode="floor")


@lowers("rfloordiv")
def floor_divide_swapped(t: Tracer, a: Any, b: Any) -> Any:
    """⌊b / a⌋."""
    return floor_divide(t, b, a)


@lowers("square")
def square(t: Tracer, x: Traced) -> Any:
    """x·x."""
    return t.emit("mul", x, x)


@lowers("rsqrt")
def rsqrt(t: Tracer, x: Traced) -> Any:
    """1/√x."""
    return t.emit("reciprocal", t.emit("sqrt", x, part="sqrt"))


@lowers("log1p")
def log1p(t: Tracer, x: Traced) -> Any:
    """log(1 + x)."""
    return t.emit("log", t.emit("add", x, t.fill(1.0, (1,)), part="add"))


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
    wide = t.emit("mul", x, t.fill(beta, (1,)), part="mul")
    return t.emit("div", t.emit("softplus", wide, part="softplus"), t.fill(beta, (1,)))


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
    inner = t.emit("elu", t.emit("div", x, t.fill(alpha, (1,)), part="div"), part="elu", alpha=1.0)
    return t.emit("mul", inner, t.fill(alpha, (1,)))


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


# -- layers with weights -------------------------------------------------------------------------------------------


def _weighted(t: Tracer, op: str, x: Traced, weight: Any, bias: Any, **attrs: Any) -> Any:
    """A layer that owns real weights, named after the module that owns them."""
    path, leaf = t.stack[-1]
    owner = t.owner(weight)
    name = t.fresh(name=owner if owner is not None and not (leaf and path and path not in t.used) else None)
    t.used.discard(name)
    arrays = t.roles(name, weight=weight, bias=bias)
    return t.emit(op, x, name=name, arrays=arrays, bias=bias is not None, **attrs)


def _conv(t: Tracer, rank: int, x: Any, weight: Any, bias: Any, transposed: bool, attrs: dict[str, Any]) -> Any:
    if isinstance(weight, Traced) or isinstance(bias, Traced) or not isinstance(x, Traced):
        return NotImplemented
    sizes, groups = tuple(weight.shape), attrs["groups"]
    single = x.dim() == rank + 1
    if single:
        x = t.emit("unsqueeze", x, part="batch", axes=(0,))
    out = sizes[1] * groups if transposed else sizes[0]
    ic = sizes[0] if transposed else sizes[1] * groups
    kernel = sizes[2:]
    pads = attrs.pop("padding")
    if isinstance(pads, str):
        spans = [d * (k - 1) if pads == "same" else 0 for d, k in zip(attrs["dilation"], kernel, strict=True)]
        padding = tuple((s // 2, s - s // 2) for s in spans)
    else:
        padding = tuple((p, p) for p in per_axis(pads, rank))
    if x.dim() == rank + 2 and x.sizes[1] != ic:
        raise ShapeError(f"{t.place}: its weights take {ic} channels, the input has {x.sizes[1]}")
    op = "conv_transpose" if transposed else "conv"
    result = _weighted(t, op, x, weight, bias, out=out, kernel=kernel, padding=padding, **attrs)
    return t.emit("squeeze", result, part="single", axes=(0,)) if single else result


def _conv_handler(rank: int) -> Handler:
    def conv(
        t: Tracer, input: Any, weight: Any, bias: Any = None, stride: Size = 1, padding: Any = 0, dilation: Size = 1,
        groups: int = 1,
    ) -> Any:  # fmt: skip
        attrs = {"stride": per_axis(stride, rank), "dilation": per_axis(dilation, rank), "groups": groups}
        return _conv(t, rank, input, weight, bias, False, {**attrs, "padding": padding})

    return conv


def _conv_transpose_handler(rank: int) -> Handler:
    def conv_transpose(
        t: Tracer, input: Any, weight: Any, bias: Any = None, stride: Size = 1, padding: Any = 0,
        output_padding: Size = 0, groups: int = 1, dilation: Size = 1,
    ) -> Any:  # fmt: skip
        attrs = {"stride": per_axis(stride, rank), "dilation": per_axis(dilation, rank), "groups": groups}
        attrs["output_padding"] = per_axis(output_padding, rank)
        return _conv(t, rank, input, weight, bias, True, {**attrs, "padding": padding})

    return conv_transpose


for _rank in (1, 2, 3):
    HANDLERS[f"conv{_rank}d"] = _conv_handler(_rank)
    HANDLERS[f"conv_transpose{_rank}d"] = _conv_transpose_handler(_rank)


@lowers("convolution")
def convolution(
    t: Tracer, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int, *rest: Any,
) -> Any:  # fmt: skip
    """ATen's one convolution."""
    rank = weight.dim() - 2
    attrs = {"stride": per_axis(stride, rank), "dilation": per_axis(dilation, rank), "groups": groups}
    extra = {"output_padding": per_axis(output_padding, rank)} if transposed else {}
    return _conv(t, rank, x, weight, bias, transposed, {**attrs, **extra, "padding": padding})


@lowers("linear")
def linear(t: Tracer, x: Any, weight: Any, bias: Any = None) -> Any:
    """A dense layer; with computed weights a matrix product."""
    if isinstance(weight, Traced) or not isinstance(x, Traced) or isinstance(bias, Traced):
        product = matmul(t, t.value(x), HANDLERS["transpose"](t, t.value(weight), 0, 1))
        return product if bias is None else t.emit("add", product, t.value(bias))
    if x.sizes[-1] != weight.shape[1]:
        raise ShapeError(f"{t.place}: its weights take {weight.shape[1]} features, the input has {x.sizes[-1]}")
    single = x.dim() == 1
    if single:
        x = t.emit("unsqueeze", x, part="batch", axes=(0,))
    result = _weighted(t, "dense", x, weight, bias, out=weight.shape[0])
    return t.emit("squeeze", result, part="single", axes=(0,)) if single else result


@lowers("matmul", "mm", "bmm", "imatmul")
def matmul(t: Tracer, a: Any, b: Any) -> Any:
    """A matrix product; vectors are matrices for its time."""
    a, b = t.value(a), t.value(b)
    row, column = a.dim() == 1, b.dim() == 1
    a = t.emit("unsqueeze", a, part="row", axes=(0,)) if row else a
    b = t.emit("unsqueeze", b, part="column", axes=(1,)) if column else b
    if not row and not column:
        return t.emit("matmul", a, b)
    result = t.emit("matmul", a, b, part="product")
    rank = result.dim()
    gone = ([rank - 2] if row else []) + ([rank - 1] if column else [])
    return t.emit("squeeze", result, axes=tuple(gone))


@lowers("rmatmul")
def rmatmul(t: Tracer, a: Any, b: Any) -> Any:
    """b @ a."""
    return matmul(t, b, a)


@lowers("addmm", "addbmm", "baddbmm", "addmv")
def addmm(t: Tracer, bias: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """bias + a @ b."""
    if beta != 1 or alpha != 1 or t.func == "addbmm":
        return NotImplemented
    return t.emit("add", matmul(t, a, b), t.value(bias))


@lowers("einsum")
def einsum(t: Tracer, equation: str, *operands: Any, path: Any = None) -> Any:
    """Einstein's sum, written in full."""
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    if not isinstance(equation, str):
        return NotImplemented
    values = [t.value(o) for o in operands]
    return t.emit("einsum", *values, equation=full_equation(equation, [v.dim() for v in values]))


def full_equation(equation: str, ranks: Sequence[int]) -> str:
    """An einsum equation without ellipsis and with its output written.

    >>> full_equation("...ij,...jk", [3, 3])
    'aij,ajk->aik'
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    free = [c for c in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
    dots = max((r - len(term.replace("...", "")) for term, r in zip(terms, ranks, strict=True) if "..." in term),
               default=0)  # fmt: skip
    wide = "".join(free[:dots])
    full = [
        term.replace("...", wide[dots - (r - len(term) + 3) :]) if "..." in term else term
        for term, r in zip(terms, ranks, strict=True)
    ]
    if not arrow:
        letters = "".join(terms).replace(".", "")
        right = ("..." if dots else "") + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    return f"{','.join(full)}->{right.replace('...', wide)}"


# -- pooling and normalisation -------------------------------------------------------------------------------------


def _pool(rank: int, kind: str) -> Handler:
    def pool(
        t: Tracer, x: Traced, kernel_size: Size, stride: Any = None, padding: Size = 0, *rest: Any, **more: Any
    ) -> Any:
        words = ("dilation", "ceil_mode", "return_indices") if kind == "max" else (
            "ceil_mode", "count_include_pad", "divisor_override")  # fmt: skip
        given = {**dict(zip(words, rest, strict=False)), **more}
        if given.pop("return_indices", False) or x.dim() != rank + 2 or given.pop("divisor_override", None):
            return NotImplemented
        kernel = per_axis(kernel_size, rank)
        attrs: dict[str, Any] = {
            "kernel": kernel,
            "stride": kernel if stride is None or stride == [] else per_axis(stride, rank),
            "padding": tuple((p, p) for p in per_axis(padding, rank)),
            "ceil": bool(given.get("ceil_mode", False)),
        }
        if kind == "max":
            return t.emit("maxpool", x, dilation=per_axis(given.get("dilation", 1), rank), **attrs)
        return t.emit("avgpool", x, count_padding=bool(given.get("count_include_pad", True)), **attrs)

    return pool


def _adaptive(rank: int, kind: str) -> Handler:
    def pool(t: Tracer, x: Traced, output_size: Any, return_indices: bool = False) -> Any:
        if return_indices or x.dim() != rank + 2:
            return NotImplemented
        wanted = output_size if isinstance(output_size, list | tuple) else (output_size,) * rank
        out = tuple(s if o is None else int(o) for o, s in zip(wanted, x.sizes[2:], strict=True))
        if all(o == 1 for o in out):
            return t.emit(f"global_{kind}pool", x)
        return t.emit(f"adaptive_{kind}pool", x, out=out)

    return pool


for _rank in (1, 2, 3):
    HANDLERS[f"max_pool{_rank}d"] = HANDLERS[f"max_pool{_rank}d_with_indices"] = _pool(_rank, "max")
    HANDLERS[f"avg_pool{_rank}d"] = _pool(_rank, "avg")
    HANDLERS[f"adaptive_avg_pool{_rank}d"] = _adaptive(_rank, "avg")
    HANDLERS[f"adaptive_max_pool{_rank}d"] = _adaptive(_rank, "max")
    HANDLERS[f"adaptive_max_pool{_rank}d_with_indices"] = _adaptive(_rank, "max")


def _norm(
    t: Tracer, op: str, x: Traced, weight: Any, bias: Any, along: tuple[int, ...], buffers: dict[str, Any], **attrs: Any
) -> Any:
    """A normalisation with its scale and shift as arrays; one without the other is a separate product or sum."""
    if isinstance(weight, Traced) or isinstance(bias, Traced):
        return NotImplemented
    both = weight is not None and bias is not None
    owner = t.owner(weight) if both else None
    path, leaf = t.stack[-1]
    name = t.fresh(name=owner if owner is not None and not (leaf and path and path not in t.used) else None)
    t.used.discard(name)
    arrays = t.roles(name, **({"weight": weight, "bias": bias} if both else {}), **buffers)
    result = t.emit(op, x, name=name, arrays=arrays, affine=both, **attrs)
    if not both:
        for part, kind, value in (("scale", "mul", weight), ("shift", "add", bias)):
            if value is not None:
                shaped = HANDLERS["reshape"](t, t.value(value), along)
                result = t.emit(kind, result, shaped, part=part)
    return result


def _per_channel(x: Traced) -> tuple[int, ...]:
    return (x.sizes[1], *(1 for _ in x.sizes[2:]))


@lowers("batch_norm")
def batch_norm(
    t: Tracer, x: Traced, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5, cudnn_enabled: bool = True,
) -> Any:  # fmt: skip
    """By running statistics; by those of the batch it is not a fixed function of its input, so not known here."""
    if "weight" in (running_mean, running_var) or running_mean is None or running_var is None:
        return NotImplemented
    if isinstance(weight, Traced) and isinstance(running_mean, Traced):
        return NotImplemented
    buffers = {"running_mean": running_mean, "running_var": running_var}
    return _norm(t, "batchnorm", x, weight, bias, _per_channel(x), buffers, eps=eps)


@lowers("native_batch_norm_legit_no_training", "_native_batch_norm_legit_no_training")
def batch_norm_core(t: Tracer, x: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float) -> Any:
    """ATen's core form, which returns three values."""
    return (batch_norm(t, x, mean, var, weight, bias, eps=eps), None, None)


@lowers("instance_norm")
def instance_norm(
    t: Tracer, x: Traced, running_mean: Any = None, running_var: Any = None, weight: Any = None, bias: Any = None,
    use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5, cudnn_enabled: bool = True,
) -> Any:  # fmt: skip
    """By the input's own statistics; with running statistics it is a batch norm."""
    if not use_input_stats:
        return batch_norm(t, x, running_mean, running_var, weight, bias, eps=eps)
    return _norm(t, "instancenorm", x, weight, bias, _per_channel(x), {}, eps=eps)


@lowers("group_norm")
def group_norm(
    t: Tracer, x: Traced, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:  # fmt: skip
    """Over groups of channels."""
    return _norm(t, "groupnorm", x, weight, bias, _per_channel(x), {}, groups=num_groups, eps=eps)


@lowers("layer_norm")
def layer_norm(
    t: Tracer, x: Traced, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Any:  # fmt: skip
    """Over the last axes."""
    shape = per_axis(normalized_shape, 1)
    return _norm(t, "layernorm", x, weight, bias, shape, {}, shape=shape, eps=eps)


@lowers("rms_norm")
def rms_norm(t: Tracer, x: Traced, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    """x / √(mean(x²) + ε), times a weight."""
    rank = len(per_axis(normalized_shape, 1))
    squares = t.emit("mul", x, x, part="square")
    mean = t.emit("reduce_mean", squares, part="mean", axes=tuple(range(-rank, 0)), keepdims=True)
    small = t.fill(eps if eps is not None else torch.finfo(t.dtype).eps, (1,))
    root = t.emit("sqrt", t.emit("add", mean, small, part="add"), part="sqrt")
    result = t.emit("div", x, root)
    return result if weight is None else t.emit("mul", result, t.value(weight), part="scale")


@lowers("local_response_norm")
def local_response_norm(
    t: Tracer, x: Traced, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Any:
    """AlexNet's normalisation across channels."""
    return t.emit("lrn", x, size=size, alpha=alpha, beta=beta, k=k)


@lowers("normalize")
def normalize(t: Tracer, x: Traced, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Any:
    """x over its norm along an axis, at least ε."""
    if p != 2:
        return NotImplemented
    return t.emit("div", x, t.emit("clip", _norm2(t, x, (dim,), True), part="clip", min=eps))


def _norm2(t: Tracer, x: Traced, axes: tuple[int, ...], keepdims: bool) -> Traced:
    squares = t.emit("mul", x, x, part="square")
    axes = tuple(axis_of(a, x.dim()) for a in axes)
    return t.emit("sqrt", t.emit("reduce_sum", squares, part="sum", axes=axes, keepdims=keepdims), part="sqrt")


@lowers("norm", "vector_norm", "linalg_vector_norm")
def norm(
    t: Tracer, x: Traced, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None, ord: Any = None
) -> Any:
    """The Euclidean norm."""
    if (ord if ord is not None else p) not in (2, 2.0, "fro") or dim is None:
        return NotImplemented
    return _norm2(t, x, per_axis(dim, 1), keepdim)


# -- reductions and resizing ---------------------------------------------------------------------------------------


def _reduce(kind: str) -> Handler:
    def handler(t: Tracer, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
        x = t.value(x)
        axes = range(x.dim()) if dim is None or dim in ((), []) else per_axis(dim, 1)
        return t.emit(f"reduce_{kind}", x, axes=tuple(axis_of(a, x.dim()) for a in axes), keepdims=bool(keepdim))

    return handler


HANDLERS["mean"], HANDLERS["sum"] = _reduce("mean"), _reduce("sum")
HANDLERS["amax"], HANDLERS["amin"] = _reduce("max"), _reduce("min")


@lowers("max", "min")
def extreme(t: Tracer, x: Traced, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """The largest values along an axis; their indices are unknown. With a second tensor: element by element."""
    kind = t.func
    if isinstance(dim, torch.Tensor) or other is not None:
        return t.emit(f"{kind}imum", x, t.value(dim if other is None else other))
    if dim is None:
        return HANDLERS[f"a{kind}"](t, x)
    values = HANDLERS[f"a{kind}"](t, x, dim, keepdim)
    indices = t.emit("unknown", x, part="indices", kind=f"arg{kind}")
    made = t.made(indices.node, values.sizes, torch.int64)
    return getattr(torch.return_types, kind)((values, made))


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
        result = t.emit("mul", result, t.fill(count / (count - correction), (1,)), part="unbiased")
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
    if mode not in MODES or antialias:
        return NotImplemented
    coords = "asymmetric" if mode == "nearest" else "align_corners" if align_corners else "half_pixel"
    rounding = "round_prefer_ceil" if mode == "nearest-exact" else "floor"
    attrs = {"mode": MODES[mode], "coords": coords, "rounding": rounding}
    if size is not None:
        return t.emit("resize", x, size=per_axis(size, rank), **attrs)
    scale = scale_factor if isinstance(scale_factor, list | tuple) else (scale_factor,) * rank
    scale = tuple(float(s) for s in scale)
    if recompute_scale_factor:
        return t.emit("resize", x, size=tuple(int(s * f) for s, f in zip(x.sizes[2:], scale, strict=True)), **attrs)
    return t.emit("resize", x, scale=scale, **attrs)


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


# -- attention -----------------------------------------------------------------------------------------------------

FAR = -1e30
"""Added to scores that a mask forbids: exp() of it is 0 in every float format, and it is no infinity."""


def _mask(t: Tracer, mask: Any) -> Any:
    """A real mask as numbers to add; True means 'may look' as in scaled_dot_product_attention."""
    if isinstance(mask, Traced):
        return mask if mask.dtype.is_floating_point else None
    if mask.dtype == torch.bool:
        return t.value(torch.zeros(mask.shape).masked_fill(~mask.cpu(), FAR) if mask.device.type != "meta" else mask)
    return t.value(mask.clamp(min=FAR) if mask.device.type != "meta" else mask)


@lowers("scaled_dot_product_attention")
def attention(
    t: Tracer, query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """softmax(q kᵀ · scale + mask) v."""
    query, key, value = t.value(query), t.value(key), t.value(value)
    if enable_gqa and query.sizes[-3] != key.sizes[-3]:
        return NotImplemented
    return _attend(t, query, key, value, attn_mask, is_causal, scale)[0]


def _attend(t: Tracer, q: Traced, k: Traced, v: Traced, mask: Any, causal: bool, scale: float | None) -> Any:
    factor = scale if scale is not None else 1 / sqrt(q.sizes[-1])
    scaled = t.emit("mul", q, t.fill(factor, (1,)), part="scale")
    perm = (*range(k.dim() - 2), k.dim() - 1, k.dim() - 2)
    scores = t.emit("matmul", scaled, t.emit("transpose", k, part="key", perm=perm), part="scores")
    if causal:
        mask = torch.ones(q.sizes[-2], k.sizes[-2], dtype=torch.bool).tril()
    if mask is not None:
        added = _mask(t, mask)
        if added is None:
            return NotImplemented
        scores = t.emit("add", scores, added, part="mask")
    weights = t.emit("softmax", scores, part="softmax", axis=scores.dim() - 1)
    return t.emit("matmul", weights, v), weights


def multihead(
    t: Tracer, m: nn.MultiheadAttention, query: Any, key: Any, value: Any, key_padding_mask: Any = None,
    need_weights: bool = True, attn_mask: Any = None, average_attn_weights: bool = True, is_causal: bool = False,
) -> Any:  # fmt: skip
    """Attention with heads: dense layers for queries, keys and values, the attention, a dense layer out."""
    path = t.stack[-1][0]
    plain = m.bias_k is None and m.bias_v is None and not m.add_zero_attn and key_padding_mask is None
    if not plain or not all(isinstance(v, Traced) for v in (query, key, value)):
        return _opaque_multihead(t, m, query, key, value)
    if query.dim() == 2:
        return NotImplemented
    same_input = query.node == key.node == value.node
    if not m.batch_first:
        query, key, value = (t.emit("transpose", v, part="batch_first", perm=(1, 0, 2)) for v in (query, key, value))
    _n, _rows, width = query.sizes
    heads = m.num_heads
    t.func = ""
    if same_input and m.in_proj_weight is not None:
        name = f"{path}.in_proj" if path else "in_proj"
        arrays = t.roles(name, weight=m.in_proj_weight, bias=m.in_proj_bias)
        bias = m.in_proj_bias is not None
        joint = t.emit("dense", query, name=name, arrays=arrays, out=3 * width, bias=bias)
        parts = [t.emit("slice", joint, part=f"in_proj.{c}", axis=2, start=i * width, stop=(i + 1) * width)
                 for i, c in enumerate("qkv")]  # fmt: skip
    else:
        parts = [_project(t, m, x, i) for i, x in enumerate((query, key, value))]
    split = [_heads(t, x, heads, c) for x, c in zip(parts, "qkv", strict=True)]
    mask = attn_mask
    if mask is not None and not isinstance(mask, Traced):
        mask = ~mask if mask.dtype == torch.bool else mask
        if mask.dim() == 3:
            return _opaque_multihead(t, m, query, key, value)
    with_part = t.stack[-1]
    t.stack[-1] = (f"{path}.attention" if path else "attention", True)
    mixed, weights = _attend(t, *split, mask, False, None)
    t.stack[-1] = with_part
    joined = t.emit("transpose", mixed, part="join", perm=(0, 2, 1, 3))
    flat = t.emit("reshape", joined, part="merge", shape=(0, 0, width))
    name = f"{path}.out_proj" if path else "out_proj"
    arrays = t.roles(name, weight=m.out_proj.weight, bias=m.out_proj.bias)
    out = t.emit("dense", flat, name=name, arrays=arrays, out=width, bias=m.out_proj.bias is not None)
    if not m.batch_first:
        out = t.emit("transpose", out, part="batch_second", perm=(1, 0, 2))
    if not need_weights:
        return out, None
    seen = (
        t.emit("reduce_mean", weights, part="weights", axes=(1,), keepdims=False) if average_attn_weights else weights
    )
    return out, seen


def _project(t: Tracer, m: nn.MultiheadAttention, x: Traced, i: int) -> Traced:
    """Queries, keys or values of different inputs: their rows of the one weight matrix."""
    width, part = m.embed_dim, f"{'qkv'[i]}_proj"
    if m.in_proj_weight is None:
        weight = t.value((m.q_proj_weight, m.k_proj_weight, m.v_proj_weight)[i])
    else:
        whole = t.value(m.in_proj_weight)
        weight = t.emit("slice", whole, part=f"{part}.rows", axis=0, start=i * width, stop=(i + 1) * width)
    turned = t.emit("transpose", weight, part=f"{part}.transpose", perm=(1, 0))
    out = t.emit("matmul", x, turned, part=part)
    if m.in_proj_bias is None:
        return out
    bias = t.emit("slice", t.value(m.in_proj_bias), part=f"{part}.bias", axis=0, start=i * width, stop=(i + 1) * width)
    return t.emit("add", out, bias, part=f"{part}.add")


def _heads(t: Tracer, x: Traced, heads: int, part: str) -> Traced:
    split = t.emit("reshape", x, part=f"{part}.split", shape=(0, 0, heads, x.sizes[-1] // heads))
    return t.emit("transpose", split, part=f"{part}.heads", perm=(0, 2, 1, 3))


def _opaque_multihead(t: Tracer, m: nn.MultiheadAttention, query: Traced, key: Any, value: Any) -> Any:
    """Forms that are not decomposed: unknown, with their parameters counted."""
    given = [v for v in (query, key, value) if isinstance(v, Traced)]
    inputs = dict.fromkeys(t.read(v) for v in [*given, *(t.value(p) for p in m.parameters())])
    name = t.fresh()
    t.nodes.append(Node.of(name, "unknown", *inputs, kind="MultiheadAttention"))
    return t.made(name, (*query.sizes[:-1], m.embed_dim)), None


MODULES[nn.MultiheadAttention] = multihead


@lowers("embedding")
def embedding(t: Tracer, x: Any, weight: Any, *args: Any, **kwargs: Any) -> Any:
    """A look-up by computed indices has no operator; its parameters are counted."""
    x, weight = t.value(x), t.value(weight)
    name = t.fresh()
    t.nodes.append(Node.of(name, "unknown", t.read(x), t.read(weight), kind="embedding"))
    return t.made(name, (*x.sizes, weight.sizes[-1]))
