"""Operators of ONNX in PyTorch, for nodes `standard`: `f(call) -> tensors`, differentiable where PyTorch is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, reduce
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dojang.arith.attrs import Attrs
from dojang.arith.operator_call import OperatorCall
from dojang.arith.shapes import axis_of
from dojang.base.errors import UnsupportedError

TYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool,
    10: torch.float16, 11: torch.float64, 16: torch.bfloat16,
}  # fmt: skip
"""Types by ONNX's numbers of them."""

SHORT = (torch.float16, torch.bfloat16)
"""Types that are rounded to and held as float32."""


TensorCall = OperatorCall[Tensor]


def axis_in(call: TensorCall, default: int) -> int:
    """The axis of an operator, counted from the front."""
    return axis_of(call.attr("axis", default), call[0].dim())


Function = Callable[[TensorCall], Sequence[Tensor]]


@lru_cache(maxsize=4096)
def _settings(text: str) -> Mapping[str, Any]:
    return json.loads(text)


def run(layer: nn.Module, attrs: Attrs, inputs: Sequence[Tensor], arrays: Mapping[str, Tensor]) -> Tensor:
    """The output that a node stands for."""
    places = attrs["places"] or tuple(range(len(inputs)))
    given: list[Tensor | None] = [None] * (max(places, default=-1) + 1)
    for place, value in zip(places, inputs, strict=True):
        given[place] = value
    made = function_of(attrs)(TensorCall(attrs["kind"], given, _settings(attrs["settings"]), attrs["opset"]))
    if attrs["output"] >= len(made):
        raise UnsupportedError(f"output {attrs['output'] + 1} of {attrs['kind']} cannot be run by PyTorch")
    return _as_stated(attrs, made[attrs["output"]])


def function_of(attrs: Attrs) -> Function:
    """The function of an operator. Raises `UnsupportedError` for one that there is none for."""
    found = FUNCTIONS.get(attrs["kind"])
    if found is None:
        raise UnsupportedError(
            f"operator {attrs['kind']} of ONNX cannot be run by PyTorch; cut the network before it, "
            "or run it with dojang"
        )
    return found


def _as_stated(attrs: Attrs, value: Tensor) -> Tensor:
    """The output in the shape that its node states: where the batch is part of an axis, that is an axis of its own."""
    shape, axis = attrs["shape"], attrs["batch_axis"]
    if shape is None or axis < 0 or value.dim() != len(shape) or not value.numel():
        return value
    whole, own = tuple(value.shape), tuple(shape)
    if whole[:axis] != own[:axis] or whole[axis + 1 :] != own[axis + 1 :] or whole[axis] % own[axis]:
        return value
    return value.reshape(*own[:axis], whole[axis] // own[axis], *own[axis:])


def unary(function: Callable[[Tensor], Tensor]) -> Function:
    """A function of one tensor."""
    return lambda call: (function(call[0]),)


def pair(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """A function of two tensors that broadcast."""
    return lambda call: (function(call[0], call[1]),)


def several(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """A function of two over all inputs from left to right."""
    return lambda call: (reduce(function, call.present()),)


def divide(a: Tensor, b: Tensor) -> Tensor:
    """Whole numbers are rounded towards zero."""
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def mod(call: TensorCall) -> tuple[Tensor]:
    """The rest: with the sign of the divisor, or with `fmod` that of the dividend."""
    return ((torch.fmod if call.attr("fmod") else torch.remainder)(call[0], call[1]),)


def clip(call: TensorCall) -> tuple[Tensor]:
    """Values held within two bounds, either of which may be left out."""
    x = call[0]
    for place, name, hold in ((1, "min", torch.maximum), (2, "max", torch.minimum)):
        bound = call.attrs.get(name, call.get(place))
        x = x if bound is None else hold(x, torch.as_tensor(bound, dtype=x.dtype, device=x.device))
    return (x,)


def cast(call: TensorCall) -> tuple[Tensor]:
    """Another type; of a short one only the rounding."""
    kind = TYPES.get(call.attrs["to"])
    if kind is None:
        raise UnsupportedError(f"a cast to type {call.attrs['to']} of ONNX cannot be run by PyTorch")
    if kind in SHORT:
        return (call[0].to(kind).float(),)
    if kind == torch.bool:
        return (call[0] != 0,)
    return (call[0].to(kind),)


def isinf(call: TensorCall) -> tuple[Tensor]:
    """Infinities of the asked signs."""
    x = call[0]
    wanted = [
        inf for inf, name in ((torch.inf, "positive"), (-torch.inf, "negative")) if call.attr(f"detect_{name}", 1)
    ]
    return (reduce(torch.logical_or, (x == inf for inf in wanted), torch.zeros_like(x, dtype=torch.bool)),)


def softmax(run: Callable[..., Tensor]) -> Function:
    """Probabilities along an axis, or their logarithms; before version 13 over all axes from it on."""

    def function(call: TensorCall) -> tuple[Tensor]:
        x = call[0]
        axis = call.attr("axis", -1 if call.opset >= 13 else 1)
        if call.opset >= 13:
            return (run(x, axis),)
        axis = axis % max(1, x.dim())
        return (run(x.reshape(prod(x.shape[:axis]), -1), 1).reshape(x.shape),)

    return function


def gather(call: TensorCall) -> tuple[Tensor]:
    """Entries of an axis by their numbers."""
    x, indices, axis = call[0], call[1].long(), axis_in(call, 0)
    picked = x.index_select(axis, torch.where(indices < 0, indices + x.shape[axis], indices).reshape(-1))
    return (picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]),)


def _places(x: Tensor, indices: Tensor, axis: int) -> list[Any]:
    """For each index the places of its element along all axes."""
    found: list[Any] = []
    for a, size in enumerate(indices.shape):
        line = torch.arange(size, device=x.device).reshape(*(-1 if b == a else 1 for b in range(x.dim())))
        found.append(torch.where(indices < 0, indices + x.shape[axis], indices) if a == axis else line)
    return found


def gather_elements(call: TensorCall) -> tuple[Tensor]:
    """Of each line along an axis the elements with these numbers."""
    x, indices, axis = call[0], call[1].long(), axis_in(call, 0)
    return (x[tuple(_places(x, indices, axis))],)


REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def scatter_elements(call: TensorCall) -> tuple[Tensor]:
    """Elements of lines along an axis replaced, or combined with what is there."""
    x, indices, updates, axis = call[0], call[1].long(), call[2], axis_in(call, 0)
    how = call.attr("reduction", "none")
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    if how == "none":
        return (x.scatter(axis, indices, updates),)
    return (x.scatter_reduce(axis, indices, updates, REDUCTIONS[how]),)


def gather_nd(call: TensorCall) -> tuple[Tensor]:
    """Slices by rows of indices."""
    x, indices = call[0], call[1].long()
    if call.attr("batch_dims", 0):
        raise UnsupportedError("GatherND with batch_dims cannot be run by PyTorch")
    return (x[tuple(indices.movedim(-1, 0))],)


def scatter_nd(call: TensorCall) -> tuple[Tensor]:
    """Slices at rows of indices replaced, or added to."""
    x, indices, updates, how = call[0], call[1].long(), call[2], call.attr("reduction", "none")
    if how not in ("none", "add"):
        raise UnsupportedError(f"ScatterND by {how} cannot be run by PyTorch")
    return (x.index_put(tuple(indices.movedim(-1, 0)), updates, accumulate=how == "add"),)


def top_k(call: TensorCall) -> tuple[Tensor, ...]:
    """The k largest or smallest of each line, and where they are; equal ones in the order of their places."""
    x, k, axis = call[0], (call.ints(1, "k") or [1])[0], axis_in(call, -1)
    values, places = torch.sort(x, dim=axis, descending=bool(call.attr("largest", 1)), stable=True)
    return values.narrow(axis, 0, k), places.narrow(axis, 0, k)


def argument(largest: bool) -> Function:
    """Where the largest or smallest of each line is; the first of equal ones, or the last."""

    def function(call: TensorCall) -> tuple[Tensor]:
        x, axis = call[0], axis_in(call, 0)
        last = bool(call.attr("select_last_index"))
        x = x.flip(axis) if last else x
        found = torch.sort(x, dim=axis, descending=largest, stable=True)[1].narrow(axis, 0, 1)
        found = x.shape[axis] - 1 - found if last else found
        return (found if call.attr("keepdims", 1) else found.squeeze(axis),)

    return function


def running(run: Callable[..., Tensor], first: float) -> Function:
    """Sums or products of all elements so far; from the other end, without the own one."""

    def function(call: TensorCall) -> tuple[Tensor]:
        x, axis = call[0], axis_of((call.ints(1) or [0])[0], call[0].dim())
        x = x.flip(axis) if call.attr("reverse") else x
        y = run(x, axis, dtype=x.dtype)
        if call.attr("exclusive"):
            start = torch.full_like(y.narrow(axis, 0, 1), first)
            y = torch.cat([start, y.narrow(axis, 0, x.shape[axis] - 1)], axis)
        return (y.flip(axis) if call.attr("reverse") else y,)

    return function


def reduced(run: Callable[[Tensor, list[int], bool], Tensor], whole: bool = False) -> Function:
    """A reduction over axes, over all if none are given. `whole`: one that changes a single element too."""

    def function(call: TensorCall) -> tuple[Tensor]:
        x, axes = call[0], call.ints(1, "axes")
        if not axes and call.attr("noop_with_empty_axes"):
            return (run(x.unsqueeze(0), [0], False) if whole else x,)
        over = [axis_of(a, x.dim()) for a in axes] if axes else list(range(x.dim()))
        return (run(x, over, bool(call.attr("keepdims", 1))).to(x.dtype),)

    return function


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def one_hot(call: TensorCall) -> tuple[Tensor]:
    """A new axis that is "on" at the place with each number, else "off"."""
    indices, depth, values = call[0].long(), (call.ints(1) or [1])[0], call[2]
    axis = axis_of(call.attr("axis", -1), indices.dim() + 1)
    wrapped = torch.where(indices < 0, indices + depth, indices).unsqueeze(axis)
    lines = torch.arange(depth, device=values.device).reshape(-1, *(1,) * (indices.dim() - axis))
    return (torch.where(wrapped == lines, values[1], values[0]),)


def trilu(call: TensorCall) -> tuple[Tensor]:
    """The upper or lower triangle; 0 elsewhere."""
    return ((torch.triu if call.attr("upper", 1) else torch.tril)(call[0], (call.ints(1) or [0])[0]),)


def reshape(call: TensorCall) -> tuple[Tensor]:
    """The same elements in another shape; 0 copies a size, −1 is what is left."""
    x, shape = call[0], call.ints(1, "shape") or []
    return (x.reshape([x.shape[i] if s == 0 and not call.attr("allowzero") else s for i, s in enumerate(shape)]),)


def unsqueeze(call: TensorCall) -> tuple[Tensor]:
    """With new axes of size 1."""
    x, axes = call[0], call.ints(1, "axes") or []
    for axis in sorted(axis_of(a, x.dim() + len(axes)) for a in axes):
        x = x.unsqueeze(axis)
    return (x,)


def squeeze(call: TensorCall) -> tuple[Tensor]:
    """Without axes of size 1."""
    axes = call.ints(1, "axes")
    return (call[0].squeeze() if axes is None else call[0].squeeze(tuple(axes)),)


def slice_(call: TensorCall) -> tuple[Tensor]:
    """Parts of axes, by start, end and step."""
    x = call[0]
    starts, ends = call.ints(1, "starts") or [], call.ints(2, "ends") or []
    axes, steps = call.ints(3, "axes") or list(range(len(starts))), call.ints(4) or [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = x.shape[axis]
        stop = None if step < 0 and end < -size else end
        picks = list(range(*slice(start, stop, step).indices(size)))
        x = x.index_select(axis_of(axis, x.dim()), torch.tensor(picks, dtype=torch.long, device=x.device))
    return (x,)


def split(call: TensorCall) -> tuple[Tensor, ...]:
    """Parts of an axis."""
    x, axis, sizes = call[0], axis_in(call, 0), call.ints(1, "split")
    if sizes is None:
        count = call.attr("num_outputs") or call.attr("outputs", 1)
        each = -(-x.shape[axis] // count)
        sizes = [each] * (count - 1) + [x.shape[axis] - each * (count - 1)]
    return tuple(x.split(sizes, axis))


def expand(call: TensorCall) -> tuple[Tensor]:
    """Repeated along axes of size 1, to a shape that both broadcast to."""
    return (call[0].expand(torch.broadcast_shapes(call[0].shape, tuple(call.ints(1) or ()))),)


def tile(call: TensorCall) -> tuple[Tensor]:
    """Repeated along axes."""
    return (call[0].repeat(*(call.ints(1) or [1])),)


def range_(call: TensorCall) -> tuple[Tensor]:
    """Numbers from one to another in steps."""
    start, stop, step = (x.reshape(()).item() for x in (call[0], call[1], call[2]))
    return (torch.arange(start, stop, step, dtype=call[0].dtype, device=call[0].device),)


def max_pool(call: TensorCall) -> tuple[Tensor, ...]:
    """The largest of each window, and its place in the whole tensor."""
    x, kernel = call[0], call.attrs["kernel_shape"]
    rank, pads = len(kernel), call.attr("pads", [0] * (2 * len(kernel)))
    if pads[:rank] != pads[rank:] or call.attr("auto_pad", "NOTSET") != "NOTSET" or call.attr("storage_order"):
        raise UnsupportedError("MaxPool with places and with uneven padding cannot be run by PyTorch")
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
    values, places = pool(
        x, kernel, call.attr("strides", [1] * rank), pads[:rank], call.attr("dilations", [1] * rank),
        ceil_mode=bool(call.attr("ceil_mode")), return_indices=True,
    )  # fmt: skip
    size = prod(x.shape[2:])
    first = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape(*x.shape[:2], *(1,) * rank)
    return values, places + size * first


def grid_sample(call: TensorCall) -> tuple[Tensor]:
    """Pixels read at computed places."""
    mode = str(call.attr("mode", "linear"))
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    return (
        F.grid_sample(call[0], call[1], mode, call.attr("padding_mode", "zeros"), bool(call.attr("align_corners"))),
    )


def resize(call: TensorCall) -> tuple[Tensor]:
    """Means over what each pixel covers; other forms of Resize are operators of dojang."""
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(call.attr("mode", "nearest"))
    form = call.attr("antialias"), call.attr("exclude_outside"), call.attr("cubic_coeff_a", -0.5), call.attr("axes")
    if (
        mode is None
        or form != (1, 1, -0.5, [2, 3])
        or call.attr("coordinate_transformation_mode", "half_pixel") != "half_pixel"
    ):
        raise UnsupportedError("Resize of this form cannot be run by PyTorch")
    scale = call.get(2)
    given: dict[str, Any] = {"size": call.ints(3)} if scale is None else {"scale_factor": scale.tolist()}
    return (F.interpolate(call[0], mode=mode, antialias=True, **given),)


def layer_norm(call: TensorCall) -> tuple[Tensor, ...]:
    """Values of the axes from `axis` on, brought to mean 0 and variance 1, scaled and shifted; then the mean and
    1/deviation.
    """
    x, axes = call[0], list(range(axis_in(call, -1), call[0].dim()))
    mean = x.mean(axes, keepdim=True)
    inverse = ((x - mean).square().mean(axes, keepdim=True) + call.attr("epsilon", 1e-5)).rsqrt()
    y = F.layer_norm(x, x.shape[axes[0] :], None, None, call.attr("epsilon", 1e-5))
    y = y if call.get(1) is None else y * call[1]
    return y if call.get(2) is None else y + call[2], mean, inverse


def rms_norm(call: TensorCall) -> tuple[Tensor]:
    """x / √(mean of squares over the axes from `axis` on), times a scale."""
    x, axes = call[0], list(range(axis_in(call, -1), call[0].dim()))
    y = x / ((x * x).mean(axes, keepdim=True) + call.attr("epsilon", 1e-5)).sqrt()
    return (y if call.get(1) is None else y * call[1],)


def shrink(call: TensorCall) -> tuple[Tensor]:
    """x moved towards 0 by `bias`, 0 within `lambd`."""
    x, near, bias = call[0], call.attr("lambd", 0.5), call.attr("bias", 0.0)
    return (torch.where(x < -near, x + bias, torch.where(x > near, x - bias, torch.zeros_like(x))),)


def dft(call: TensorCall) -> tuple[Tensor]:
    """The discrete Fourier transform along an axis; the last axis has real and imaginary parts."""
    x, length = call[0], (call.ints(1) or [None])[0]
    axis = axis_of((call.ints(2) or [call.attr("axis", -2 if call.opset >= 20 else 1)])[0], x.dim())
    numbers = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x.squeeze(-1)
    half, back = bool(call.attr("onesided")), bool(call.attr("inverse"))
    if half and back:
        return (torch.fft.irfft(numbers, length, axis).unsqueeze(-1),)
    run = torch.fft.rfft if half else torch.fft.ifft if back else torch.fft.fft
    return (torch.view_as_real(run(numbers, length, axis)),)


def shape(call: TensorCall) -> tuple[Tensor]:
    """The sizes of the axes."""
    sizes = list(call[0].shape)
    return (torch.tensor(sizes[call.attr("start", 0) : call.attr("end", len(sizes))]),)


FUNCTIONS: Mapping[str, Function] = {
    "And": pair(torch.logical_and),
    "Or": pair(torch.logical_or),
    "Xor": pair(torch.logical_xor),
    "Not": unary(torch.logical_not),
    "Equal": pair(torch.eq),
    "Less": pair(torch.lt),
    "LessOrEqual": pair(torch.le),
    "Greater": pair(torch.gt),
    "GreaterOrEqual": pair(torch.ge),
    "Where": lambda call: (torch.where(call[0], call[1], call[2]),),
    "Add": pair(torch.add),
    "Sub": pair(torch.sub),
    "Mul": pair(torch.mul),
    "Div": pair(divide),
    "Mod": mod,
    "Pow": lambda call: (torch.pow(call[0], call[1]).to(call[0].dtype),),
    "Max": several(torch.maximum),
    "Min": several(torch.minimum),
    "Sum": several(torch.add),
    "Mean": lambda call: (reduce(torch.add, call.present()) / len(call.present()),),
    "BitwiseAnd": pair(torch.bitwise_and),
    "BitwiseOr": pair(torch.bitwise_or),
    "BitwiseXor": pair(torch.bitwise_xor),
    "BitwiseNot": unary(torch.bitwise_not),
    "Clip": clip,
    "Cast": cast,
    "IsNaN": unary(torch.isnan),
    "IsInf": isinf,
    "Identity": unary(lambda x: x),
    "Neg": unary(torch.neg),
    "Abs": unary(torch.abs),
    "Sign": unary(torch.sign),
    "Relu": unary(torch.relu),
    "Floor": unary(torch.floor),
    "Ceil": unary(torch.ceil),
    "Round": unary(torch.round),
    "Sqrt": unary(torch.sqrt),
    "Exp": unary(torch.exp),
    "Log": unary(torch.log),
    "Erf": unary(torch.erf),
    "Reciprocal": unary(torch.reciprocal),
    "Sigmoid": unary(torch.sigmoid),
    "Tanh": unary(torch.tanh),
    "Sin": unary(torch.sin),
    "Cos": unary(torch.cos),
    "Tan": unary(torch.tan),
    "Asin": unary(torch.asin),
    "Acos": unary(torch.acos),
    "Atan": unary(torch.atan),
    "Sinh": unary(torch.sinh),
    "Cosh": unary(torch.cosh),
    "Asinh": unary(torch.asinh),
    "Acosh": unary(torch.acosh),
    "Atanh": unary(torch.atanh),
    "Softplus": unary(F.softplus),
    "Softsign": unary(F.softsign),
    "Mish": unary(F.mish),
    "HardSwish": unary(F.hardswish),
    "HardSigmoid": lambda call: ((call[0] * call.attr("alpha", 0.2) + call.attr("beta", 0.5)).clamp(0, 1),),
    "LeakyRelu": lambda call: (F.leaky_relu(call[0], call.attr("alpha", 0.01)),),
    "Elu": lambda call: (F.elu(call[0], call.attr("alpha", 1.0)),),
    "Selu": unary(F.selu),
    "Celu": lambda call: (F.celu(call[0], call.attr("alpha", 1.0)),),
    "Gelu": lambda call: (F.gelu(call[0], approximate=call.attr("approximate", "none")),),
    "Swish": lambda call: (call[0] * torch.sigmoid(call.attr("alpha", 1.0) * call[0]),),
    "ThresholdedRelu": lambda call: (F.threshold(call[0], call.attr("alpha", 1.0), 0.0),),
    "Shrink": shrink,
    "PRelu": lambda call: (torch.where(call[0] > 0, call[0], call[0] * call[1]),),
    "Softmax": softmax(torch.softmax),
    "LogSoftmax": softmax(torch.log_softmax),
    "LayerNormalization": layer_norm,
    "RMSNormalization": rms_norm,
    "Reshape": reshape,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": lambda call: (call[0].permute(call.attr("perm") or list(range(call[0].dim()))[::-1]),),
    "Concat": lambda call: (torch.cat(call.present(), call.attr("axis", 1)),),
    "Split": split,
    "Slice": slice_,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "Expand": expand,
    "Tile": tile,
    "TopK": top_k,
    "ArgMax": argument(True),
    "ArgMin": argument(False),
    "CumSum": running(torch.cumsum, 0),
    "CumProd": running(torch.cumprod, 1),
    "OneHot": one_hot,
    "Trilu": trilu,
    "Shape": shape,
    "Size": lambda call: (torch.tensor(call[0].numel()),),
    "Range": range_,
    "ReduceSum": reduced(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "ReduceMean": reduced(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceMax": reduced(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "ReduceMin": reduced(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "ReduceProd": reduced(_product),
    "ReduceL1": reduced(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep), True),
    "ReduceL2": reduced(lambda x, axes, keep: (x * x).sum(axes, keepdim=keep).sqrt(), True),
    "ReduceSumSquare": reduced(lambda x, axes, keep: (x * x).sum(axes, keepdim=keep), True),
    "ReduceLogSum": reduced(lambda x, axes, keep: x.sum(axes, keepdim=keep).log(), True),
    "ReduceLogSumExp": reduced(lambda x, axes, keep: x.logsumexp(axes, keepdim=keep), True),
    "MatMul": pair(torch.matmul),
    "Einsum": lambda call: (torch.einsum(call.attrs["equation"], *call.present()),),
    "MaxPool": max_pool,
    "GridSample": grid_sample,
    "Resize": resize,
    "DFT": dft,
}
"""One function per operator, by its name in the standard."""
