"""PyTorch functions that layers with weights call: convolutions, products, pooling, normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dojang.arith.shapes import axis_of, einsum_pairs, einsum_spread
from dojang.base.errors import ShapeError
from dojang.formats.torch.read.ops import Size, lowers, per_axis
from dojang.formats.torch.read.trace import Tracer
from dojang.formats.torch.read.traced import HANDLERS, MODULES, Handler, Traced
from dojang.formats.torch.write.module import NodeModule


def _weighted(t: Tracer, op: str, x: Traced, weight: Any, bias: Any, **attrs: Any) -> Any:
    """A layer that owns real weights, named after the module that owns them."""
    path, leaf = t.stack[-1]
    owner = t.owner(weight)
    name = t.fresh(name=owner if owner is not None and not (leaf and path and path not in t.used) else None)
    t.used.discard(name)
    arrays = t.roles(name, weight=weight, bias=bias)
    return t.emit(op, x, name=name, arrays=arrays, bias=bias is not None, **attrs)


def _pads(pads: Any, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Padding before and after, from PyTorch's numbers or words."""
    if isinstance(pads, str):
        spans = [d * (k - 1) if pads == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        return tuple((s // 2, s - s // 2) for s in spans)
    return tuple([(p, p) for p in per_axis(pads, len(kernel))])


def _dynamic(t: Tracer, rank: int, x: Any, weight: Any, bias: Any, attrs: dict[str, Any]) -> Any:
    """A convolution with weights that the forward makes."""
    x, weight = t.value(x), t.value(weight)
    single = x.dim() == rank + 1
    if single:
        x = t.emit("unsqueeze", x, part="batch", axes=(0,))
    kernel = tuple(weight.sizes[2:])
    if x.sizes[1] != weight.sizes[1] * attrs["groups"]:
        raise ShapeError(
            f"{t.place}: its weights take {weight.sizes[1] * attrs['groups']} channels, the input has {x.sizes[1]}"
        )
    name = t.fresh(part="product" if single else None)
    t.used.discard(name)
    result = t.emit(
        "dynamic_conv", x, weight, name=name, arrays=t.roles(name, bias=bias), bias=bias is not None,
        kernel=kernel, padding=_pads(attrs["padding"], kernel, attrs["dilation"]), stride=attrs["stride"],
        dilation=attrs["dilation"],
    )  # fmt: skip
    return t.emit("squeeze", result, axes=(0,)) if single else result


def _conv(t: Tracer, rank: int, x: Any, weight: Any, bias: Any, transposed: bool, attrs: dict[str, Any]) -> Any:
    if isinstance(bias, Traced):
        plain = _conv(t, rank, x, weight, None, transposed, attrs)
        return plain if plain is NotImplemented else t.emit(
            "add", plain, t.emit("reshape", bias, part="bias", shape=(-1, *(1,) * rank))
        )  # fmt: skip
    if isinstance(weight, Traced) or not isinstance(x, Traced):
        return NotImplemented if transposed else _dynamic(t, rank, x, weight, bias, attrs)
    with torch._C.DisableTorchFunction():  # else asking for the shape would be followed, too
        sizes = tuple(weight.shape)
    groups = attrs["groups"]
    single = x.dim() == rank + 1
    if single:
        x = t.emit("unsqueeze", x, part="batch", axes=(0,))
    out = sizes[1] * groups if transposed else sizes[0]
    ic = sizes[0] if transposed else sizes[1] * groups
    kernel = sizes[2:]
    padding = _pads(attrs.pop("padding"), kernel, attrs["dilation"])
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


@lowers("deform_conv2d")
def deform_conv(
    t: Tracer, x: Any, weight: Any, offset: Any, mask: Any, bias: Any, stride_h: int, stride_w: int, pad_h: int,
    pad_w: int, dil_h: int, dil_w: int, groups: int, offset_groups: int, use_mask: bool,
) -> Any:  # fmt: skip
    """torchvision's operator."""
    if isinstance(weight, Traced) or isinstance(bias, Traced) or not isinstance(x, Traced):
        return NotImplemented
    path, leaf = t.stack[-1]
    owner = t.owner(weight)
    name = t.fresh(name=owner if owner is not None and not (leaf and path and path not in t.used) else None)
    t.used.discard(name)
    arrays = t.roles(name, weight=weight, bias=bias)
    sources = (x, t.value(offset), t.value(mask)) if use_mask else (x, t.value(offset))
    return t.emit(
        "deform_conv", *sources, name=name, arrays=arrays, out=weight.shape[0], kernel=tuple(weight.shape[2:]),
        stride=(stride_h, stride_w), padding=((pad_h, pad_h), (pad_w, pad_w)), dilation=(dil_h, dil_w), groups=groups,
        offset_groups=offset_groups, bias=bias is not None,
    )  # fmt: skip


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
    full, gone = einsum_spread(full_equation(equation, [v.dim() for v in values]), [v.sizes for v in values])
    values = [t.emit("squeeze", v, part="squeeze", axes=a) if a else v for v, a in zip(values, gone, strict=True)]
    *pairs, last = einsum_pairs(full)
    for pair in pairs:
        values[:2] = [t.emit("einsum", *values[:2], part="pair", equation=pair)]
    return t.emit("einsum", *values, equation=last)


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
        if (
            given.pop("return_indices", False)
            or x.dim() != rank + 2
            or (given.get("ceil_mode") and given.get("divisor_override"))
        ):
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
        divisor = given.get("divisor_override")
        if divisor:
            mean = t.emit("avgpool", x, part="mean", count_padding=True, **attrs)
            return t.emit("mul", mean, t.fill(prod(kernel) / divisor, (1,)))
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
    if running_mean is None or running_var is None:
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


# -- the most frequent modules as a whole: the way through PyTorch's own forward takes a sixth of a trace ------------


def _conv_module(func: Any) -> Handler:
    def module(t: Tracer, layer: Any, x: Any) -> Any:
        own = layer._parameters
        if not isinstance(x, Traced) or layer.padding_mode != "zeros" or not {"weight", "bias"} <= own.keys():
            return NotImplemented
        args = (x, own["weight"], own["bias"], layer.stride, layer.padding, layer.dilation, layer.groups)
        return t.apply(func, func.__name__, False, args, {})

    return module


def _norm_module(t: Tracer, layer: Any, x: Any) -> Any:
    own = {**layer._parameters, **layer._buffers}
    if not isinstance(x, Traced) or layer.training or len(own) < 5 or own["running_mean"] is None:
        return NotImplemented
    layer._check_input_dim(x)
    args = (x, own["running_mean"], own["running_var"], own["weight"], own["bias"], False, 0.0, layer.eps)
    return t.apply(F.batch_norm, "batch_norm", False, args, {})


def _relu_module(t: Tracer, layer: Any, x: Any) -> Any:
    return t.apply(F.relu, "relu", layer.inplace, (x,), {}) if isinstance(x, Traced) else NotImplemented


def _written_module(t: Tracer, layer: NodeModule, *inputs: Any) -> Any:
    """A `NodeModule` in a trace is its node, under its own name, over what it is applied to now."""
    node = layer.node
    arrays: dict[str, str] = {}
    for role, (holder, key) in layer.where.items():
        held = holder._parameters.get(key)
        arrays[role] = t.arrays[id(held if held is not None else holder._buffers[key])]
    values = [t.value(i) for i in inputs]
    name = node.name if node.name not in t.used else None
    return t.emit(node.op, *values, name=name, arrays=arrays, **node.attrs)


for _kind, _func in {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}.items():
    MODULES[_kind] = _conv_module(_func)
for _kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
    MODULES[_kind] = _norm_module
MODULES[nn.ReLU] = _relu_module
MODULES[NodeModule] = _written_module
