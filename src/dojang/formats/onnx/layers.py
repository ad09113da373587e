"""ONNX operators that compute, in dojang's operators: layers with weights, pooling, activations, arithmetic.

One rule per operator: `rule(reader, call)` adds nodes and returns the output value, or raises `NotDone` with the
reason.
 Source: the operator pages of onnx.ai, all versions from opset 7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from dojang.arith.attrs import Attr
from dojang.arith.ops import OPS
from dojang.arith.shapes import einsum_pairs, einsum_spread
from dojang.arith.window import extent
from dojang.base.errors import GraphError
from dojang.formats.onnx.batch import any_depends
from dojang.formats.onnx.constants import TYPES, Const
from dojang.formats.onnx.draft import MADE, Call, Draft, NotDone, Reader, Value, single

Rule = Callable[[Reader, Call], Any]


def _window(call: Call, kernel: Sequence[int]) -> dict[str, Any]:
    """kernel, stride, dilation, padding in dojang's form."""
    rank = len(kernel)
    attrs = call.attrs
    auto = attrs.get("auto_pad", "NOTSET")
    words = {"SAME_UPPER": "same", "SAME_LOWER": "same-lower", "VALID": "valid"}
    if auto not in ("NOTSET", "", *words):
        raise GraphError(f"{call.name}: auto_pad {auto!r} is not known")
    pads = attrs.get("pads") or [0] * (2 * rank)
    if len(pads) != 2 * rank:
        raise GraphError(f"{call.name}: {len(pads)} pads for a {rank}-d kernel; it takes {2 * rank}")
    return {
        "kernel": tuple(kernel),
        "stride": attrs.get("strides") or [1] * rank,
        "dilation": attrs.get("dilations") or [1] * rank,
        "padding": words.get(auto) or list(zip(pads[:rank], pads[rank:], strict=True)),
    }


def _weight(call: Call, rank: int) -> Const:
    weight = call.needed(1)
    if len(weight.shape) < rank:
        raise GraphError(f"{call.name}: weights of {len(weight.shape)} axes; {call.op} takes {rank} or more")
    return weight


def dynamic_conv(reader: Reader, call: Call, weight: Draft) -> Draft:
    """Conv with weights that the file computes."""
    attrs, bias = _window(call, reader.shape(weight)[2:]), call.const(2)
    return reader.emit(
        "dynamic_conv", call.value(0), weight, roles={"bias": bias}, bias=bias is not None, **attrs
    )  # fmt: skip


def conv(reader: Reader, call: Call) -> Draft:
    """Conv, any rank; a bias that the file computes is added after it."""
    if isinstance(shift := call.inputs[2] if len(call.inputs) > 2 else None, Draft):
        value = conv(reader, replace(call, inputs=call.inputs[:2]))
        ones = [1] * (len(reader.shape(value)) - 2)
        return reader.emit("add", value, reader.emit("reshape", shift, shape=(-1, *ones), tag="bias"))
    if isinstance(computed := call.value(1), Draft):
        return dynamic_conv(reader, call, computed)
    weight, bias = _weight(call, 3), call.const(2)
    attrs = _window(call, weight.shape[2:])
    groups = call.attrs.get("group", 1)
    wanted = call.attrs.get("kernel_shape")
    if wanted and tuple(wanted) != weight.shape[2:]:
        raise GraphError(f"{call.name}: kernel_shape {wanted} does not fit weights of {weight.shape}")
    roles = {"weight": weight, "bias": bias}
    return reader.emit(
        "conv", call.value(0), roles=roles, out=weight.shape[0], groups=groups, bias=bias is not None, **attrs
    )


def deform_conv(reader: Reader, call: Call) -> Draft:
    """DeformConv: x, weights, offsets, then perhaps biases and a mask."""
    weight, bias = _weight(call, 3), call.const(3)
    attrs = _window(call, weight.shape[2:])
    own = call.attrs
    sources = [call.value(0), call.value(2)]
    if len(call.inputs) > 4 and call.inputs[4] is not None:
        sources.append(call.value(4))
    return reader.emit(
        "deform_conv", *sources, roles={"weight": weight, "bias": bias}, out=weight.shape[0],
        groups=own.get("group", 1), offset_groups=own.get("offset_group", 1), bias=bias is not None, **attrs,
    )  # fmt: skip


def conv_transpose(reader: Reader, call: Call) -> Draft:
    """ConvTranspose; `output_shape` and auto_pad become numbers."""
    weight, bias = _weight(call, 3), call.const(2)
    groups = call.attrs.get("group", 1)
    attrs = _window(call, weight.shape[2:])
    rank = len(attrs["kernel"])
    extra = list(call.attrs.get("output_padding") or [0] * rank)
    auto = call.attrs.get("auto_pad", "NOTSET")
    target = call.attrs.get("output_shape")
    if auto in ("SAME_UPPER", "SAME_LOWER") or target:
        size = reader.shape(reader.draft(call.value(0)))[2:]
        target = list(target)[-rank:] if target else [i * s for i, s in zip(size, attrs["stride"], strict=True)]
        pads: list[tuple[int, int]] = []
        for axis in range(rank):
            span = extent(attrs["kernel"][axis], attrs["dilation"][axis])
            total = attrs["stride"][axis] * (size[axis] - 1) + extra[axis] + span - target[axis]
            if total < 0:
                extra[axis] -= total
                total = 0
            half = total // 2
            pads.append((half, total - half) if auto == "SAME_UPPER" else (total - half, half))
        attrs["padding"] = pads
    roles = {"weight": weight, "bias": bias}
    out = weight.shape[1] * groups
    return reader.emit(
        "conv_transpose",
        call.value(0),
        roles=roles,
        out=out,
        groups=groups,
        bias=bias is not None,
        output_padding=extra,
        **attrs,
    )


def max_pool(reader: Reader, call: Call) -> Draft:
    """MaxPool without its indices."""
    call.only(1, reader.used)
    attrs = _window(call, call.attrs["kernel_shape"])
    return reader.emit("maxpool", call.value(0), ceil=bool(call.attrs.get("ceil_mode")), **attrs)


def average_pool(reader: Reader, call: Call) -> Draft:
    """AveragePool; the mean excludes padding unless the file says otherwise."""
    attrs = _window(call, call.attrs["kernel_shape"])
    if any(d != 1 for d in attrs.pop("dilation")):
        raise NotDone("dilated")
    count = bool(call.attrs.get("count_include_pad"))
    return reader.emit("avgpool", call.value(0), ceil=bool(call.attrs.get("ceil_mode")), count_padding=count, **attrs)


def gemm(reader: Reader, call: Call) -> Value:
    """Gemm: a dense layer if the second matrix is constant."""
    attrs = call.attrs
    alpha, beta = attrs.get("alpha", 1.0), attrs.get("beta", 1.0)
    a, b = call.value(0), call.value(1)
    if attrs.get("transA"):
        a = reader.emit("transpose", a, perm=(1, 0), tag="transposed")
    bias = call.inputs[2] if len(call.inputs) > 2 else None
    if isinstance(b, Const) and len(b.shape) == 2 and isinstance(bias, Const | None):
        weight = b if attrs.get("transB") else b.transposed((1, 0))
        out = weight.shape[0]
        if alpha != 1:
            weight = weight.mapped(("times", alpha), weight.shape, lambda w: w * alpha)
        if bias is None or bias.shape in ((out,), (1, out), (1,), (), (1, 1)):
            if bias is not None:
                bias = _spread(bias, (out,))
                if beta != 1:
                    bias = bias.mapped(("times", beta), (out,), lambda c: c * beta)
            return reader.emit("dense", a, roles={"weight": weight, "bias": bias}, out=out, bias=bias is not None)
    if attrs.get("transB"):
        b = b.transposed((1, 0)) if isinstance(b, Const) else reader.emit("transpose", b, perm=(1, 0), tag="turned")
    steps = ["product"] + ["scaled"] * (alpha != 1) + ["bias"] * (bias is not None and beta != 1)
    value = reader.emit("matmul", a, b, tag="product" if len(steps) > 1 or bias is not None else "")
    if alpha != 1:
        value = reader.emit("mul", value, reader.fill(alpha), tag="scaled" if bias is not None else "")
    if bias is None:
        return value
    scaled = reader.emit("mul", bias, reader.fill(beta), tag="bias") if beta != 1 else bias
    return reader.emit("add", value, scaled)


def _spread(const: Const, shape: tuple[int, ...]) -> Const:
    """A constant broadcast to a shape; the same array if only axes of size 1 are removed."""
    if const.size == prod(shape):
        return const.reshaped(shape)

    def wide(array: Any) -> Any:
        import numpy as np

        return np.broadcast_to(array, shape)

    return const.mapped("spread", shape, wide)


def matmul(reader: Reader, call: Call) -> Value:
    """MatMul: a dense layer if the second matrix is constant; vectors get an axis as in NumPy."""
    a, b = call.value(0), call.value(1)
    ranks = [len(reader.shape(v)) if isinstance(v, Draft) else len(v.shape) for v in (a, b) if v.shape is not None]
    if isinstance(b, Const) and len(b.shape) == 2 and ranks[0] != 1:
        weight = b.transposed((1, 0))
        return reader.emit("dense", a, roles={"weight": weight}, out=b.shape[1], bias=False)
    if len(ranks) < 2 or min(ranks) > 1:
        return reader.emit("matmul", a, b)
    left = reader.emit("unsqueeze", a, axes=(0,), tag="row") if ranks[0] == 1 else a
    right = reader.emit("unsqueeze", b, axes=(1,), tag="column") if ranks[1] == 1 else b
    value = reader.emit("matmul", left, right, tag="product")
    gone = [-2] * (ranks[0] == 1) + [-1] * (ranks[1] == 1)
    return reader.emit("squeeze", value, axes=gone)


def _uniform(const: Const, value: float) -> bool:
    """A constant that is `value` everywhere, and not a parameter."""
    if const.trained and not MADE.fullmatch(const.name):
        return False
    if const.fill is not None:
        return const.fill == value
    return const.small and all(v == value for v in const.values())


def _affine(scale: Const, shift: Const) -> dict[str, Any]:
    """Scale and shift of a normalisation; none if they are ones and zeros that are not parameters."""
    if _uniform(scale, 1.0) and _uniform(shift, 0.0):
        return {"affine": False}
    return {"affine": True, "roles": {"weight": scale, "bias": shift}}


def batch_norm(reader: Reader, call: Call) -> Draft:
    """BatchNormalization with its recorded statistics."""
    call.only(1, reader.used)
    if call.attrs.get("training_mode"):
        raise NotDone("training mode")
    if call.attrs.get("spatial", 1) != 1:
        raise NotDone("not spatial")
    own = _affine(call.needed(1), call.needed(2))
    roles = {**own.pop("roles", {}), "running_mean": call.needed(3), "running_var": call.needed(4)}
    return reader.emit("batchnorm", call.value(0), eps=call.attrs.get("epsilon", 1e-5), roles=roles, **own)


def instance_norm(reader: Reader, call: Call) -> Draft:
    """InstanceNormalization."""
    own = _affine(call.needed(1), call.needed(2))
    return reader.emit("instancenorm", call.value(0), eps=call.attrs.get("epsilon", 1e-5), **own)


def group_norm(reader: Reader, call: Call) -> Draft:
    """GroupNormalization; before opset 21 scale and bias have one value per group."""
    groups, scale, shift = call.attrs["num_groups"], call.needed(1), call.needed(2)
    source = reader.draft(call.value(0))
    own = _affine(scale, shift)
    if own["affine"] and reader.opset < 21:
        channels = reader.shape(source)[1]
        if groups < 1 or channels % groups:
            raise GraphError(f"{call.name}: {channels} channels do not divide into {groups} groups")
        each = channels // groups
        for role, const in own["roles"].items():
            own["roles"][role] = const.mapped(("each", each), (channels,), lambda a: a.repeat(each))
    return reader.emit("groupnorm", source, groups=groups, eps=call.attrs.get("epsilon", 1e-5), **own)


def layer_norm(reader: Reader, call: Call) -> Value:
    """LayerNormalization; a scale without a bias becomes a multiplication after it."""
    call.only(1, reader.used)
    source = reader.draft(call.value(0))
    shape = reader.shape(source)
    axis = call.attrs.get("axis", -1)
    size = shape[axis if axis >= 0 else len(shape) + axis :]
    if not size or any_depends(size):
        raise NotDone("over the batch")
    eps = call.attrs.get("epsilon", 1e-5)
    scale, shift = call.needed(1), call.const(2)
    if scale.shape == size and shift is not None and shift.shape == size:
        return reader.emit("layernorm", source, shape=size, eps=eps, **_affine(scale, shift))
    plain = _uniform(scale, 1.0) and shift is None
    value = reader.emit("layernorm", source, shape=size, eps=eps, affine=False, tag="" if plain else "normalised")
    if plain:
        return value
    value = reader.emit("mul", value, scale, tag="scaled" if shift is not None else "")
    return reader.emit("add", value, shift) if shift is not None else value


def lrn(reader: Reader, call: Call) -> Draft:
    """LRN across channels.

    For even sizes the standard has one channel more after the centre, PyTorch and `lrn` before it; ONNX Runtime refuses
    them.
    """
    a = call.attrs
    if a["size"] % 2 == 0:
        raise NotDone(f"an even size, {a['size']}")
    return reader.emit(
        "lrn", call.value(0), size=a["size"], alpha=a.get("alpha", 1e-4), beta=a.get("beta", 0.75), k=a.get("bias", 1.0)
    )


def prelu(reader: Reader, call: Call) -> Value:
    """PRelu with one slope or one per channel; other slopes by max(x, 0) + slope * min(x, 0)."""
    source, slope = reader.draft(call.value(0)), call.needed(1)
    shape = reader.shape(source)
    full = (1,) * (len(shape) - len(slope.shape)) + slope.shape
    per_channel = len(full) > 1 and all(s == 1 for i, s in enumerate(full) if i != 1) and full[1] == shape[1]
    if slope.size == 1 or per_channel:
        weight = slope.reshaped((slope.size,))
        return reader.emit("prelu", source, num=slope.size, roles={"weight": weight})
    above = reader.emit("relu", source, tag="above")
    below = reader.emit("minimum", source, reader.fill(0.0), tag="below")
    return reader.emit("add", above, reader.emit("mul", below, slope, tag="sloped"))


def _bound(call: Call, place: int, key: str) -> float | None:
    if key in call.attrs:
        value = call.attrs[key]
    else:
        const = call.const(place)
        if const is None:
            return None
        if const.size != 1:
            raise GraphError(f"{call.name}: Clip takes single numbers as bounds, got {const.shape}")
        value = const.fill if const.fill is not None else const.values()[0]
    # The defaults of opset 6 are the ends of float32: no bound.
    return None if abs(value) >= single(3.4028234e38) else float(value)


def clip(reader: Reader, call: Call) -> Value:
    """Clip; bounds computed in the network become maximum and minimum."""
    source = call.value(0)
    if any(isinstance(v, Draft) for v in call.inputs[1:]):
        low, high = (*call.inputs[1:], None, None)[:2]
        if low is not None:
            source = reader.emit("maximum", source, low, tag="low" if high is not None else "")
        return reader.emit("minimum", source, high) if high is not None else source
    return reader.emit("clip", source, min=_bound(call, 1, "min"), max=_bound(call, 2, "max"))


def add(reader: Reader, call: Call) -> Value:
    """Add; after a dense layer without a bias it is the bias."""
    a, b = call.value(0), call.value(1)
    for x, c, name in ((a, b, call.sources[0]), (b, a, call.sources[1])):
        if not isinstance(x, Draft) or not isinstance(c, Const) or x.op != "dense" or x.node.attrs["bias"]:
            continue
        if reader.used[name] == 1 and c.shape == (x.node.attrs["out"],) and (c.trained or c.fill is None):
            x.node = x.node.with_attrs(bias=True)
            x.roles["bias"] = c
            layer = [n for n in (x.roles["weight"], c) if n.name.endswith((".weight", ".bias"))]
            own = tuple(n.name.rpartition(".")[0] for n in layer[:1])
            x.labels = (*own, *reader.label)
            return x
    return reader.emit("add", a, b)


def mul(reader: Reader, call: Call) -> Value:
    """Mul; x * sigmoid(x) is one operator, silu."""
    a, b = call.value(0), call.value(1)
    for x, gate, name in ((a, b, call.sources[1]), (b, a, call.sources[0])):
        if isinstance(gate, Draft) and gate.op == "sigmoid" and gate.inputs[0] is x and reader.used[name] == 1:
            gate.node = type(gate.node).of(call.name, "silu", "")
            gate.labels = reader.label
            return gate
    last = reader.drafts[-1] if reader.drafts else None
    part = f"{reader.label[0]}.{len(last.inputs) - 1}" if last is not None else ""
    if (
        last is not None
        and a is last
        and last.op == "mul"
        and last.labels[0] == part
        and reader.used[call.sources[0]] == 1
    ):
        reader.drafts.pop()  # this is how dojang writes a product of several
        return reader.emit("mul", *last.inputs, b)
    return reader.emit("mul", a, b)


def div(reader: Reader, call: Call) -> Value:
    """Div of real numbers; for whole numbers it rounds, for which dojang has no operator."""
    a, b = call.value(0), call.value(1)
    if a.sort != "f" and b.sort != "f":
        raise NotDone("whole numbers")
    return reader.emit("div", a, b)


def _join(op: str) -> Rule:
    def rule(reader: Reader, call: Call) -> Value:
        values = [call.value(i) for i in range(len(call.inputs))]
        return reader.emit(op, *values) if len(values) > 1 else reader.emit("identity", *values)

    return rule


def mean(reader: Reader, call: Call) -> Value:
    """Mean of several inputs."""
    values = [call.value(i) for i in range(len(call.inputs))]
    if len(values) == 1:
        return reader.emit("identity", *values)
    return reader.emit("div", reader.emit("add", *values, tag="sum"), reader.fill(float(len(values))))


def dropout(reader: Reader, call: Call) -> Value:
    """Dropout, which does nothing at inference."""
    call.only(1, reader.used)
    mode = call.const(2)
    if mode is not None and any(mode.values()):
        raise NotDone("training mode")
    ratio = call.const(1)
    p = call.attrs.get("ratio", 0.5) if ratio is None else ratio.fill if ratio.fill is not None else ratio.values()[0]
    return reader.emit("dropout", call.value(0), p=p)


def softmax(op: str) -> Rule:
    """Softmax or LogSoftmax; before opset 13 over all axes from `axis` on, flattened."""

    def rule(reader: Reader, call: Call) -> Value:
        source = reader.draft(call.value(0))
        if reader.opset >= 13:
            return reader.emit(op, source, axis=call.attrs.get("axis", -1))
        shape = reader.shape(source)
        axis = call.attrs.get("axis", 1)
        axis += len(shape) if axis < 0 else 0
        wide = [i for i in range(axis, len(shape)) if shape[i] != 1]
        if len(wide) <= 1:
            return reader.emit(op, source, axis=wide[0] if wide else axis)
        if axis == 0:
            raise NotDone("over the batch")
        flat = reader.emit("flatten", source, axis=axis, tag="flat")
        value = reader.emit(op, flat, axis=-1, tag="soft")
        return reader.emit("reshape", value, shape=(*(0 for _ in range(axis)), *shape[axis:]))

    return rule


def selu(reader: Reader, call: Call) -> Value:
    """Selu; with other constants it becomes gamma * elu(x, alpha)."""
    alpha, gamma = call.attrs.get("alpha", 1.6732632), call.attrs.get("gamma", 1.050701)
    if abs(alpha - 1.6732632) < 1e-6 and abs(gamma - 1.050701) < 1e-6:
        return reader.emit("selu", call.value(0))
    return reader.emit("mul", reader.emit("elu", call.value(0), alpha=alpha, tag="elu"), reader.fill(gamma))


def gelu(reader: Reader, call: Call) -> Value:
    """Gelu, exact or by tanh."""
    return reader.emit("gelu", call.value(0), approximate=call.attrs.get("approximate", "none"))


def swish(reader: Reader, call: Call) -> Value:
    """Swish with alpha 1: silu."""
    if call.attrs.get("alpha", 1.0) != 1.0:
        raise NotDone("alpha other than 1")
    return reader.emit("silu", call.value(0))


DOUBLE = 11


def cast(reader: Reader, call: Call) -> Value:
    """Cast between real numbers of up to 32 bits changes nothing, as all are float32; Equal to 0 becomes `not`."""
    source, to = call.value(0), call.attrs.get("to", 1)
    sort = TYPES[to].sort if to in TYPES else None
    if sort == "f" and source.sort == "f":
        was = source.kind if isinstance(source, Const) else source.dtype
        if (was == "float64") != (to == DOUBLE):
            raise NotDone("another precision")
        return source
    if sort == "f" and isinstance(source, Draft) and reader.used[call.sources[0]] == 1 and _is_zero(source):
        zero = source.inputs[1]
        if not any(zero in d.inputs for d in reader.drafts if d is not source):
            reader.drafts.remove(zero)
            reader.constants = {key: d for key, d in reader.constants.items() if d is not zero}
        source.node = type(source.node).of(call.name, "not", "")
        source.inputs, source.dtype, source.labels = source.inputs[:1], "float32", reader.label
        return source
    raise NotDone("to whole numbers")


def _is_zero(draft: Draft) -> bool:
    """Whether a draft compares real numbers with 0."""
    if draft.op != "standard" or draft.node.attrs["kind"] != "Equal" or draft.inputs[0].sort != "f":
        return False
    other = draft.inputs[1].node
    return other.op == "constant" and other.attrs["fill"] == 0.0 and draft.shape == draft.inputs[0].shape


def einsum(reader: Reader, call: Call) -> Value:
    """Einsum, every index and the output written out."""
    values = [reader.draft(call.value(i)) for i in range(len(call.inputs))]
    text = str(call.attrs.get("equation", "")).replace(" ", "")
    if len(text) > 1000:
        raise GraphError(f"{call.name}: an einsum equation of {len(text)} signs")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(values):
        raise GraphError(f"{call.name}: einsum {text!r} has {len(terms)} terms for {len(values)} inputs")
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        right = ("..." if "..." in left else "") + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    if "..." in left:
        free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" if c not in text]
        hidden = [len(reader.shape(v)) - len(t.replace("...", "")) for t, v in zip(terms, values, strict=True)]
        rank = max([h for h, t in zip(hidden, terms, strict=True) if "..." in t], default=0)
        if rank > len(free):
            raise NotDone("too many axes")
        names = "".join(free[:rank])
        pairs = zip(terms, hidden, strict=True)
        terms = [t.replace("...", names[rank - h :] if h > 0 else "") for t, h in pairs]
        right = right.replace("...", names)
    shapes = [reader.shape(v) for v in values]
    equation = f"{','.join(terms)}->{right}"
    if any(len(term) != len(shape) for term, shape in zip(terms, shapes, strict=True)):
        return reader.emit("einsum", *values, equation=equation)  # which says what does not fit
    equation, gone = einsum_spread(equation, shapes)
    values = [reader.emit("squeeze", v, axes=axes) if axes else v for v, axes in zip(values, gone, strict=True)]
    *pairs, last = einsum_pairs(equation)
    for number, pair in enumerate(pairs):
        values[:2] = [reader.emit("einsum", *values[:2], tag=f"pair{number}", equation=pair)]
    return reader.emit("einsum", *values, equation=last)


def plain(op: str, **renamed: tuple[str, float]) -> Rule:
    """An operator of one input whose attributes only change their names: dojang name=(ONNX name, ONNX default)."""
    specs: Mapping[str, Attr] = OPS[op].attrs
    assert all(name in specs for name in renamed)

    def rule(reader: Reader, call: Call) -> Value:
        attrs = {ours: call.attrs.get(theirs, default) for ours, (theirs, default) in renamed.items()}
        return reader.emit(op, call.value(0), **attrs)

    return rule


UNARY = ["Identity", "Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Mish", "Abs", "Neg", "Exp", "Log", "Sqrt"]
UNARY += ["Erf", "Reciprocal", "Sin", "Cos", "Floor", "Ceil", "Round", "Sign"]
"""Operators of one input without attributes, with dojang's names in capitals."""

RULES: Mapping[str, Rule] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "DeformConv": deform_conv,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": plain("global_avgpool"),
    "GlobalMaxPool": plain("global_maxpool"),
    "Gemm": gemm,
    "MatMul": matmul,
    "BatchNormalization": batch_norm,
    "InstanceNormalization": instance_norm,
    "GroupNormalization": group_norm,
    "LayerNormalization": layer_norm,
    "LRN": lrn,
    "PRelu": prelu,
    "Clip": clip,
    "Add": add,
    "Mul": mul,
    "Div": div,
    "Sub": _join("sub"),
    "Pow": _join("pow"),
    "Sum": _join("add"),
    "Max": _join("maximum"),
    "Min": _join("minimum"),
    "Mean": mean,
    "Dropout": dropout,
    "Softmax": softmax("softmax"),
    "LogSoftmax": softmax("log_softmax"),
    "Selu": selu,
    "Gelu": gelu,
    "Swish": swish,
    "Cast": cast,
    "Einsum": einsum,
    "LeakyRelu": plain("leaky_relu", slope=("alpha", 0.01)),
    "Elu": plain("elu", alpha=("alpha", 1.0)),
    "HardSigmoid": plain("hard_sigmoid", alpha=("alpha", 0.2), beta=("beta", 0.5)),
    "HardSwish": plain("hard_swish"),
    **{name: plain(name.lower()) for name in UNARY},
}
