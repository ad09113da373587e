"""What each operator computes, in PyTorch: `f(layer, attrs, inputs, arrays) -> tensor`.

Used where PyTorch has no layer of exactly that meaning (and for layers that share weights). Differentiable, and plain
enough for `torch.export` and the ONNX exporter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from itertools import product
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dojang.arith import shapes as shape_rules
from dojang.arith.attrs import Attrs
from dojang.arith.conv import resolve_padding
from dojang.arith.ops import STANDARD, UNKNOWN
from dojang.arith.recurrent import ROLES
from dojang.arith.resizing import Mix, factors, mixes, same_pixels, single
from dojang.arith.shapes import axis_of
from dojang.arith.table import Table
from dojang.formats.torch.write import standard

Arrays = Mapping[str, Tensor]
Function = Callable[[nn.Module, Attrs, Sequence[Tensor], Arrays], Tensor]


def torch_pads(pads: Sequence[tuple[int, int]]) -> list[int]:
    """Padding as `F.pad` takes it, from the last axis backwards."""
    return [p for pair in reversed(pads) for p in pair]


def even(pads: Any) -> bool:
    """Whether padding is numbers, and the same before and after."""
    return not isinstance(pads, str) and all(a == b for a, b in pads)


def conv(layer: nn.Module, attrs: Attrs, inputs: Sequence[Tensor], arrays: Arrays) -> Tensor:
    """Convolution, any padding."""
    x, kernel, stride, dilation = inputs[0], attrs["kernel"], attrs["stride"], attrs["dilation"]
    pads = resolve_padding(attrs["padding"], tuple(x.shape[2:]), kernel, stride, dilation)
    run = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1]
    if not even(pads):
        x, pads = F.pad(x, torch_pads(pads)), ((0, 0),) * len(kernel)
    return run(x, arrays["weight"], arrays.get("bias"), stride, [p for p, _ in pads], dilation, attrs["groups"])


def dynamic_conv(layer: nn.Module, attrs: Attrs, inputs: Sequence[Tensor], arrays: Arrays) -> Tensor:
    """Convolution by weights that come in."""
    x, weight = inputs
    own = {**attrs, "groups": x.shape[1] // weight.shape[1]}
    return conv(layer, own, (x,), {**arrays, "weight": weight})


def deform_conv(layer: nn.Module, attrs: Attrs, inputs: Sequence[Tensor], arrays: Arrays) -> Tensor:
    """Deformable convolution of any rank: every tap reads between pixels, linearly; outside is 0."""
    x, weight, kernel, parts = inputs[0], arrays["weight"], attrs["kernel"], attrs["offset_groups"]
    size, rank, g = tuple(x.shape[2:]), len(kernel), attrs["groups"]
    pads = resolve_padding(attrs["padding"], size, kernel, attrs["stride"], attrs["dilation"])
    out = tuple(inputs[1].shape[2:])
    n, ic, count = x.shape[0], x.shape[1], prod(out)
    offsets, *masks = (a.expand(n, *a.shape[1:]) for a in inputs[1:])
    offsets = offsets.reshape(n, parts, -1, rank, *out)
    flat = x.reshape(n, parts, ic // parts, -1)
    total = x.new_zeros(n, g, weight.shape[0] // g, count)
    for number, tap in enumerate(product(*(range(k) for k in kernel))):
        places = []
        for axis, (o, s, d, (p, _)) in enumerate(zip(out, attrs["stride"], attrs["dilation"], pads, strict=True)):
            grid = torch.arange(o, dtype=x.dtype, device=x.device) * s - p + tap[axis] * d
            places.append(grid.reshape(-1, *(1,) * (rank - 1 - axis)) + offsets[:, :, number, axis])
        seen = x.new_zeros(n, parts, ic // parts, count)
        for corner in product((0, 1), repeat=rank):
            share, index = torch.ones_like(places[0]), torch.zeros_like(places[0], dtype=torch.long)
            for place, side, full in zip(places, corner, size, strict=True):
                pixel = place.detach().floor() + side
                inside = (pixel >= 0) & (pixel < full)
                share = share * torch.where(inside, 1 - (place - pixel).abs(), 0)
                index = index * full + pixel.clamp(0, full - 1).long()
            read = flat.gather(3, index.reshape(n, parts, 1, count).expand(-1, -1, ic // parts, -1))
            seen = seen + share.reshape(n, parts, 1, count) * read
        if masks:
            seen = seen * masks[0].reshape(n, parts, -1, count)[:, :, number, None]
        own = weight[(slice(None), slice(None), *tap)].reshape(g, -1, ic // g)
        total = total + own @ seen.reshape(n, g, ic // g, count)
    result = total.reshape(n, -1, *out)
    return result + arrays["bias"].reshape(-1, *(1,) * rank) if "bias" in arrays else result


def conv_transpose(layer: nn.Module, attrs: Attrs, inputs: Sequence[Tensor], arrays: Arrays) -> Tensor:
    """Transposed convolution; uneven padding crops the result of none."""
    kernel, pads, extra = attrs["kernel"], attrs["padding"], attrs["output_padding"]
    run = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(kernel) - 1]
    rest = attrs["groups"], attrs["dilation"]
    if even(pads):
        sides = [p for p, _ in pads]
        return run(inputs[0], arrays["weight"], arrays.get("bias"), attrs["stride"], sides, extra, *rest)
    least = [min(pair) for pair in pads]
    out = run(inputs[0], arrays["weight"], arrays.get("bias"), attrs["stride"], least, extra, *rest)
    return F.pad(out, torch_pads([(m - a, m - b) for m, (a, b) in zip(least, pads, strict=True)]))


def recurrent(layer: nn.Module, attrs: Attrs, inputs: Sequence[Tensor], arrays: Arrays) -> Tensor:
    """One level of PyTorch's LSTM, GRU or RNN; a reset before the product step by step."""
    x, cell, both = inputs[0], attrs["cell"], attrs["direction"] == "both"
    back = attrs["direction"] == "reverse"
    ends = (2 if both else 1, x.shape[1], attrs["hidden"])
    states = [*inputs[1:], *(x.new_zeros(ends) for _ in range(2 if cell == "lstm" else 1))][
        : 2 if cell == "lstm" else 1
    ]
    if attrs["rounded"]:
        return _rounded_lstm(x, states, attrs, arrays)
    if cell == "gru" and not attrs["reset_after"]:
        parts = [_early_gru(x, states[0][k], arrays, "_reverse" if k else "", back or k == 1) for k in range(ends[0])]
        y, last = torch.stack([p[0] for p in parts], 1), torch.stack([p[1] for p in parts])
        return y if attrs["output"] == "sequence" else last
    flat = [arrays[role] for role in ROLES if role in arrays]
    run = {"lstm": torch.lstm, "gru": torch.gru, "rnn_tanh": torch.rnn_tanh, "rnn_relu": torch.rnn_relu}[cell]
    given: Any = states if cell == "lstm" else states[0]
    y, *last = run(x.flip(0) if back else x, given, flat, attrs["bias"], 1, 0.0, False, both, False)
    if attrs["output"] != "sequence":
        return last[attrs["output"] == "cell"]
    y = y.unflatten(2, (ends[0], ends[2])).transpose(1, 2)
    return y.flip(0) if back else y


def _early_gru(x: Tensor, h: Tensor, arrays: Arrays, end: str, back: bool) -> tuple[Tensor, Tensor]:
    """A GRU that resets the state before the product with it (Cho et al. 2014): all states, and the last one."""
    w, r = arrays[f"weight_ih{end}"], arrays[f"weight_hh{end}"]
    bias = arrays[f"bias_ih{end}"] + arrays[f"bias_hh{end}"] if f"bias_ih{end}" in arrays else None
    size, made = h.shape[1], {}
    for step in range(len(x) - 1, -1, -1) if back else range(len(x)):
        gates = F.linear(x[step], w, bias)
        reset, update = torch.sigmoid(gates[:, : 2 * size] + F.linear(h, r[: 2 * size])).chunk(2, 1)
        new = torch.tanh(gates[:, 2 * size :] + F.linear(reset * h, r[2 * size :]))
        h = made[step] = (1 - update) * new + update * h
    return torch.stack([made[step] for step in range(len(x))]), h


def _rounded_lstm(x: Tensor, states: Sequence[Tensor], attrs: Attrs, arrays: Arrays) -> Tensor:
    """An LSTM whose weights multiply inputs and states that are rounded to 8 bits; gradients pass the rounding."""
    sequence, last = [], []
    for d, end in enumerate(("", "_reverse")[: len(states[0])]):
        back, h, c = attrs["direction"] == "reverse" or d == 1, states[0][d], states[1][d]
        bias = arrays[f"bias_ih{end}"] + arrays[f"bias_hh{end}"] if attrs["bias"] else None
        products = F.linear(_to_8_bits(x), arrays[f"weight_ih{end}"], bias)
        made: dict[int, Tensor] = {}
        for step in range(len(x) - 1, -1, -1) if back else range(len(x)):
            sums = products[step] + F.linear(_to_8_bits(h), arrays[f"weight_hh{end}"])
            i, f, g, o = sums.chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = made[step] = torch.sigmoid(o) * torch.tanh(c)
        sequence.append(torch.stack([made[step] for step in range(len(x))]))
        last.append((h, c))
    if attrs["output"] == "sequence":
        return torch.stack(sequence, 1)
    return torch.stack([pair[attrs["output"] == "cell"] for pair in last])


def _to_8_bits(x: Tensor) -> Tensor:
    """The numbers rounded to 8 bits over their range, 0 in it, and made real again."""
    with torch.no_grad():
        zero = x.new_zeros(())
        low, high = torch.minimum(x.amin(), zero), torch.maximum(x.amax(), zero)
        scale = torch.where(high > low, (high - low) / 255, torch.ones_like(low))
        shift = torch.clamp(torch.round(-low / scale), max=255)
        rounded = torch.clamp(torch.round(x / scale), -shift, 255 - shift) * scale
    return x + (rounded - x).detach()


def _pads(attrs: Attrs, x: Tensor) -> tuple[tuple[int, int], ...]:
    kernel, stride = attrs["kernel"], attrs["stride"]
    dilation = attrs.get("dilation", (1,) * len(kernel))
    pads = resolve_padding(attrs["padding"], tuple(x.shape[2:]), kernel, stride, dilation)
    out = shape_rules.pool(attrs, [tuple(x.shape)])[2:]
    # what hangs over the end, in ceil mode, becomes padding after
    return tuple(
        (a, max(b, (o - 1) * s + (k - 1) * d + 1 - i - a))
        for (a, b), o, s, k, d, i in zip(pads, out, stride, kernel, dilation, x.shape[2:], strict=True)
    )


def _sized(out: Tensor, attrs: Attrs, x: Tensor) -> Tensor:
    sizes = shape_rules.pool(attrs, [tuple(x.shape)])[2:]
    return out[(..., *(slice(0, s) for s in sizes))]


def maxpool(layer: nn.Module, attrs: Attrs, inputs: Sequence[Tensor], arrays: Arrays) -> Tensor:
    """Max pooling over an explicit border of -inf."""
    x = inputs[0]
    wide = F.pad(x, torch_pads(_pads(attrs, x)), value=-torch.inf)
    run = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(attrs["kernel"]) - 1]
    return _sized(run(wide, attrs["kernel"], attrs["stride"], 0, attrs["dilation"]), attrs, x)


def avgpool(layer: nn.Module, attrs: Attrs, inputs: Sequence[Tensor], arrays: Arrays) -> Tensor:
    """Average pooling: sums over an explicit border of zeros, divided by how many places count."""
    x, kernel, stride = inputs[0], attrs["kernel"], attrs["stride"]
    pads = _pads(attrs, x)
    run = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel) - 1]
    ones = torch.ones_like(x[:1, :1])
    if attrs["count_padding"]:
        given = resolve_padding(attrs["padding"], tuple(x.shape[2:]), kernel, stride, (1,) * len(kernel))
        ones = F.pad(ones, torch_pads(given), value=1.0)
        rest = [(0, max(0, b - given[i][1])) for i, (_, b) in enumerate(pads)]
        ones = F.pad(ones, torch_pads(rest))
    else:
        ones = F.pad(ones, torch_pads(pads))
    size = prod(kernel)
    total, counted = (run(v, kernel, stride) * size for v in (F.pad(x, torch_pads(pads)), ones))
    return _sized(total / counted.clamp(min=1), attrs, x)


def batchnorm(layer: nn.Module, attrs: Attrs, inputs: Sequence[Tensor], arrays: Arrays) -> Tensor:
    """Batch norm; in training by the batch's statistics, which it also keeps."""
    mean, var, weight, bias = (arrays.get(r) for r in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(inputs[0], mean, var, weight, bias, layer.training, 0.1, attrs["eps"])


def instancenorm(layer: nn.Module, attrs: Attrs, inputs: Sequence[Tensor], arrays: Arrays) -> Tensor:
    """Each channel of each image standardised; also for one pixel, which gives the bias."""
    x = inputs[0]
    axes = tuple(range(2, x.dim()))
    apart = x - x.mean(axes, keepdim=True)
    out = apart / (apart.square().mean(axes, keepdim=True) + attrs["eps"]).sqrt()
    if not attrs["affine"]:
        return out
    shape = (-1, *(1,) * len(axes))
    return out * arrays["weight"].reshape(shape) + arrays["bias"].reshape(shape)


def pad(layer: nn.Module, attrs: Attrs, inputs: Sequence[Tensor], arrays: Arrays) -> Tensor:
    """Padding of any axes; `F.pad` repeats and mirrors only the last three, so other axes are picked by index."""
    x, pads = inputs[0], attrs["pads"]
    if attrs["mode"] == "constant":
        return F.pad(x, torch_pads(pads), value=attrs["value"])
    for axis, (before, after) in zip(range(x.dim() - len(pads), x.dim()), pads, strict=True):
        if before or after:
            picks = [_mirror(i, x.shape[axis], attrs["mode"]) for i in range(-before, x.shape[axis] + after)]
            x = x.index_select(axis, torch.tensor(picks, device=x.device))
    return x


def _mirror(i: int, size: int, mode: str) -> int:
    if mode == "circular":
        return i % size
    if mode == "replicate":
        return min(max(i, 0), size - 1)
    return abs(i) if i < size else 2 * (size - 1) - i


def slice_(layer: nn.Module, attrs: Attrs, inputs: Sequence[Tensor], arrays: Arrays) -> Tensor:
    """A slice; PyTorch has no negative steps, so these pick by index."""
    x, step = inputs[0], attrs["step"]
    axis = axis_of(attrs["axis"], x.dim())
    if step < 0:
        picks = list(range(*slice(attrs["start"], attrs["stop"], step).indices(x.shape[axis])))
        return x.index_select(axis, torch.tensor(picks, device=x.device))
    return x[(slice(None),) * axis + (slice(attrs["start"], attrs["stop"], step),)]


def gather(layer: nn.Module, attrs: Attrs, inputs: Sequence[Tensor], arrays: Arrays) -> Tensor:
    """Picks along an axis."""
    x = inputs[0]
    axis = axis_of(attrs["axis"], x.dim())
    picks = [i % x.shape[axis] for i in attrs["indices"]]
    return x.index_select(axis, torch.tensor(picks, device=x.device))


def reshape(layer: nn.Module, attrs: Attrs, inputs: Sequence[Tensor], arrays: Arrays) -> Tensor:
    """Other sizes; 0 copies."""
    x = inputs[0]
    return x.reshape([x.shape[i] if s == 0 else s for i, s in enumerate(attrs["shape"])])


def squeeze(layer: nn.Module, attrs: Attrs, inputs: Sequence[Tensor], arrays: Arrays) -> Tensor:
    """Axes of 1 dropped."""
    return inputs[0].squeeze(tuple(axis_of(a, inputs[0].dim()) for a in attrs["axes"]))


def unsqueeze(layer: nn.Module, attrs: Attrs, inputs: Sequence[Tensor], arrays: Arrays) -> Tensor:
    """Axes of 1 put in."""
    x = inputs[0]
    rank = x.dim() + len(attrs["axes"])
    for axis in sorted(axis_of(a, rank) for a in attrs["axes"]):
        x = x.unsqueeze(axis)
    return x


TORCH_MODES = {("linear", 1): "linear", ("linear", 2): "bilinear", ("linear", 3): "trilinear", ("cubic", 2): "bicubic"}


def resize(layer: nn.Module, attrs: Attrs, inputs: Sequence[Tensor], arrays: Arrays) -> Tensor:
    """Resizing: PyTorch's own where it mixes the same pixels, else a mix of neighbours axis by axis."""
    x = inputs[0]
    rank = x.dim() - 2
    out = shape_rules.resize(attrs, [tuple(x.shape)])[2:]
    theirs = as_torch(attrs, rank)
    mode = own_mode(attrs, theirs, tuple(x.shape[2:]), out)
    if mode is not None:
        scale = theirs["scale"]
        given: dict[str, Any] = {"size": list(out)} if scale is None else {"scale_factor": list(scale)}
        corners = {} if mode.startswith("nearest") else {"align_corners": attrs["coords"] == "align_corners"}
        return F.interpolate(x, mode=mode, **given, **corners)
    for axis, mixes_ in enumerate(mixes(attrs, tuple(x.shape[2:]), out), start=2):
        x = _resize_axis(x, axis, mixes_)
    return x


def as_torch(attrs: Attrs, rank: int) -> dict[str, Any]:
    """The same resizing with PyTorch's arithmetic; ONNX's factors are those of float32."""
    exact = single if attrs["arithmetic"] == "onnx" else float
    scale = attrs["scale"] and tuple(exact(f or 1.0) for f in factors(attrs, rank))
    return {**attrs, "arithmetic": "torch", "scale": scale}


def own_mode(attrs: Attrs, theirs: Attrs, sizes: tuple[int, ...], out: tuple[int, ...]) -> str | None:
    """The mode of `F.interpolate` that resizes as `attrs` say; None where there is none. `theirs`: `as_torch`."""
    rank, kind = len(sizes), (attrs["coords"], attrs["rounding"])
    if attrs["mode"] == "nearest":
        mode = {("asymmetric", "floor"): "nearest", ("half_pixel", "round_prefer_ceil"): "nearest-exact"}.get(kind)
    else:
        mode = TORCH_MODES.get((attrs["mode"], rank)) if kind[0] in ("half_pixel", "align_corners") else None
        if mode == "bicubic" and attrs["cubic_a"] != -0.75:
            mode = None
    if mode is None or rank > 3:
        return None
    same = shape_rules.resize(theirs, [(1, 1, *sizes)])[2:] == out and same_pixels(attrs, theirs, sizes, out)
    return mode if same else None


def _resize_axis(x: Tensor, axis: int, mixes_: Sequence[Mix]) -> Tensor:
    most = max(len(mix) for mix in mixes_)
    total = None
    for turn in range(most):
        places = [o for o, mix in enumerate(mixes_) if turn < len(mix)]
        pairs = [mixes_[o][turn] for o in places]
        picked = x.index_select(axis, torch.tensor([p for p, _ in pairs], device=x.device))
        if most > 1:
            shares = torch.tensor([s for _, s in pairs], dtype=x.dtype, device=x.device)
            picked = picked * shares.reshape(-1, *(1,) * (x.dim() - axis - 1))
        total = picked if total is None else total.index_add(axis, torch.tensor(places, device=x.device), picked)
    assert total is not None
    return total


def prelu(layer: nn.Module, attrs: Attrs, inputs: Sequence[Tensor], arrays: Arrays) -> Tensor:
    """A learned slope."""
    return F.prelu(inputs[0], arrays["weight"])


def clip(layer: nn.Module, attrs: Attrs, inputs: Sequence[Tensor], arrays: Arrays) -> Tensor:
    """Between min and max."""
    x = inputs[0]
    return x if attrs["min"] is attrs["max"] is None else x.clamp(attrs["min"], attrs["max"])


def reduction(run: Callable[..., Tensor]) -> Function:
    """A reduction over axes."""
    return lambda layer, attrs, inputs, arrays: run(inputs[0], list(attrs["axes"]), keepdim=attrs["keepdims"])


def joined(run: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """A function of two over all inputs from left to right."""
    return lambda layer, attrs, inputs, arrays: reduce(run, inputs)


def unary(run: Callable[[Tensor], Tensor]) -> Function:
    """A function of one."""
    return lambda layer, attrs, inputs, arrays: run(inputs[0])


def _global(run: Callable[..., Tensor]) -> Function:
    return lambda layer, attrs, inputs, arrays: run(inputs[0], list(range(2, inputs[0].dim())), keepdim=True)


def _adaptive(kind: str) -> Function:
    runs = [getattr(F, f"adaptive_{kind}_pool{rank}d") for rank in (1, 2, 3)]
    return lambda layer, attrs, inputs, arrays: runs[len(attrs["out"]) - 1](inputs[0], attrs["out"])


def constant(layer: nn.Module, attrs: Attrs, inputs: Sequence[Tensor], arrays: Arrays) -> Tensor:
    """The array, or what the layer was filled with."""
    return arrays["value"] if attrs["fill"] is None else layer.get_buffer("filled")


UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "silu": F.silu,
    "hard_swish": F.hardswish,
    "mish": F.mish,
    "selu": F.selu,
    "abs": torch.abs,
    "neg": torch.neg,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "erf": torch.erf,
    "reciprocal": torch.reciprocal,
    "sin": torch.sin,
    "cos": torch.cos,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "sign": torch.sign,
    "not": lambda x: (x == 0).to(x.dtype),
}

_COMPUTE: Mapping[str, Function] = {
    **{name: unary(run) for name, run in UNARY.items()},
    "constant": constant,
    "conv": conv,
    "conv_transpose": conv_transpose,
    "deform_conv": deform_conv,
    "dynamic_conv": dynamic_conv,
    "dense": lambda layer, attrs, inputs, arrays: F.linear(inputs[0], arrays["weight"], arrays.get("bias")),
    "maxpool": maxpool,
    "avgpool": avgpool,
    "adaptive_maxpool": _adaptive("max"),
    "adaptive_avgpool": _adaptive("avg"),
    "global_maxpool": _global(torch.amax),
    "global_avgpool": _global(torch.mean),
    "batchnorm": batchnorm,
    "instancenorm": instancenorm,
    "groupnorm": lambda layer, attrs, inputs, arrays: F.group_norm(
        inputs[0], attrs["groups"], arrays.get("weight"), arrays.get("bias"), attrs["eps"]
    ),
    "layernorm": lambda layer, attrs, inputs, arrays: F.layer_norm(
        inputs[0], attrs["shape"], arrays.get("weight"), arrays.get("bias"), attrs["eps"]
    ),
    "lrn": lambda layer, attrs, inputs, arrays: F.local_response_norm(
        inputs[0], attrs["size"], attrs["alpha"], attrs["beta"], attrs["k"]
    ),
    "gelu": lambda layer, attrs, inputs, arrays: F.gelu(inputs[0], approximate=attrs["approximate"]),
    "fake_quantize": lambda layer, attrs, inputs, arrays: torch.fake_quantize_per_tensor_affine(
        inputs[0], attrs["scale"], 0, attrs["low"], attrs["high"]
    ),
    "leaky_relu": lambda layer, attrs, inputs, arrays: F.leaky_relu(inputs[0], attrs["slope"]),
    "elu": lambda layer, attrs, inputs, arrays: F.elu(inputs[0], attrs["alpha"]),
    "hard_sigmoid": lambda layer, attrs, inputs, arrays: (inputs[0] * attrs["alpha"] + attrs["beta"]).clamp(0, 1),
    "clip": clip,
    "prelu": prelu,
    "dropout": lambda layer, attrs, inputs, arrays: F.dropout(inputs[0], attrs["p"], layer.training),
    "softmax": lambda layer, attrs, inputs, arrays: torch.softmax(inputs[0], attrs["axis"]),
    "log_softmax": lambda layer, attrs, inputs, arrays: torch.log_softmax(inputs[0], attrs["axis"]),
    "add": joined(torch.add),
    "mul": joined(torch.mul),
    "maximum": joined(torch.maximum),
    "minimum": joined(torch.minimum),
    "sub": joined(torch.sub),
    "div": joined(torch.div),
    "pow": joined(torch.pow),
    "concat": lambda layer, attrs, inputs, arrays: torch.cat(list(inputs), attrs["axis"]),
    "flatten": lambda layer, attrs, inputs, arrays: inputs[0].reshape(
        *inputs[0].shape[: axis_of(attrs["axis"], inputs[0].dim() + 1)],
        prod(inputs[0].shape[axis_of(attrs["axis"], inputs[0].dim() + 1) :]),
    ),
    "reshape": reshape,
    "transpose": lambda layer, attrs, inputs, arrays: inputs[0].permute(attrs["perm"]),
    "squeeze": squeeze,
    "unsqueeze": unsqueeze,
    "pad": pad,
    "slice": slice_,
    "gather": gather,
    "resize": resize,
    "reduce_mean": reduction(torch.mean),
    "reduce_sum": reduction(torch.sum),
    "reduce_max": reduction(torch.amax),
    "reduce_min": reduction(torch.amin),
    "matmul": lambda layer, attrs, inputs, arrays: torch.matmul(inputs[0], inputs[1]),
    "einsum": lambda layer, attrs, inputs, arrays: torch.einsum(attrs["equation"], *inputs),
    "recurrent": recurrent,
    STANDARD: standard.run,
}

COMPUTE: Table[Function] = Table(
    "writing PyTorch",
    "run by PyTorch",
    __name__,
    _COMPUTE,
    {
        "input": "it is given to the module",
        UNKNOWN: "replace it by known operators or cut the network before it",
    },
)
"""One function per operator."""
