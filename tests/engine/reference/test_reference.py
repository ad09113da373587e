"""The reference against PyTorch and ONNX's own reference, operator by operator, in float64."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from dojang.arith.graph import Graph, Node
from dojang.arith.resizing import COORDS
from dojang.base.errors import DataError, DojangError, GraphError, ShapeError, UnsupportedError, UsageError
from dojang.engine.reference.operators import REFERENCE, run_reference

torch = pytest.importorskip("torch")
F = torch.nn.functional

few = settings(max_examples=60)
rng = np.random.default_rng(7)


def ours(op: str, *inputs: np.ndarray, arrays: dict[str, np.ndarray] | None = None, **attrs: Any) -> np.ndarray:
    """One operator; its result must have the dtype of its input and the shape that the shape rule gives."""
    node = Node.of("y", op, *(f"x{i}" for i in range(len(inputs))), **attrs)
    out = REFERENCE[op](node.attrs, inputs, arrays or {})
    assert out.dtype == inputs[0].dtype
    assert out.shape == node.infer([x.shape for x in inputs])
    for role, shape in node.param_shapes([x.shape for x in inputs]).items():
        assert (arrays or {})[role].shape == shape, role
    return out


def close(mine: np.ndarray, theirs: Any, rtol: float = 1e-11, atol: float = 1e-11) -> None:
    theirs = theirs.numpy() if hasattr(theirs, "numpy") else np.asarray(theirs)
    np.testing.assert_allclose(mine, theirs, rtol=rtol, atol=atol, strict=True)


def normal(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def t(x: np.ndarray) -> Any:
    return torch.from_numpy(np.ascontiguousarray(x))


# ---------------------------------------------------------------------------------------------- windows


@st.composite
def window(draw: st.DrawFn, dilated: bool = True) -> dict[str, Any]:
    rank = draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, dilation = each(1, 4), each(1, 2) if dilated else (1,) * rank
    padding = each(0, 3)
    size = tuple(
        draw(st.integers(max(1, (k - 1) * d + 1 - 2 * p), 9)) for k, d, p in zip(kernel, dilation, padding, strict=True)
    )
    return {"size": size, "kernel": kernel, "stride": each(1, 3), "padding": padding, "dilation": dilation}


CONV = (F.conv1d, F.conv2d, F.conv3d)
CONV_TRANSPOSE = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


@few
@given(window(), st.integers(1, 3), st.integers(1, 2), st.integers(1, 2), st.booleans(), st.integers(0, 2))
def test_conv(w: dict[str, Any], groups: int, a: int, b: int, bias: bool, n: int) -> None:
    size = w.pop("size")
    x, weight = normal(n, groups * a, *size), normal(groups * b, a, *w["kernel"])
    arrays = {"weight": weight} | ({"bias": normal(groups * b)} if bias else {})
    mine = ours("conv", x, arrays=arrays, out=groups * b, groups=groups, bias=bias, **w)
    theirs = CONV[len(size) - 1](
        t(x), t(weight), t(arrays["bias"]) if bias else None, w["stride"], w["padding"], w["dilation"], groups
    )
    close(mine, theirs)


def test_conv_with_padding_per_side_and_same() -> None:
    x, weight = normal(2, 3, 7, 8), normal(4, 3, 2, 3)
    arrays = {"weight": weight}
    mine = ours("conv", x, arrays=arrays, out=4, kernel=(2, 3), bias=False, padding=((1, 2), (0, 3)))
    close(mine, F.conv2d(F.pad(t(x), (0, 3, 1, 2)), t(weight)))
    for words in ("same", "valid"):
        mine = ours("conv", x, arrays=arrays, out=4, kernel=(2, 3), bias=False, padding=words, dilation=(2, 1))
        close(mine, F.conv2d(t(x), t(weight), padding=words, dilation=(2, 1)))
    lower = ours("conv", x, arrays=arrays, out=4, kernel=(2, 3), bias=False, padding="same-lower")
    close(lower, F.conv2d(F.pad(t(x), (1, 1, 1, 0)), t(weight)))


@few
@given(window(), st.integers(1, 3), st.integers(1, 2), st.integers(1, 2), st.booleans(), st.data())
def test_conv_transpose(w: dict[str, Any], groups: int, a: int, b: int, bias: bool, data: st.DataObject) -> None:
    size, rank = w.pop("size"), len(w["kernel"])
    extra = tuple(data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(w["stride"], w["dilation"], strict=True))
    axes = zip(size, w["kernel"], w["stride"], w["padding"], w["dilation"], extra, strict=True)
    if any((i - 1) * s - 2 * p + (k - 1) * d + 1 + e < 1 for i, k, s, p, d, e in axes):
        return
    x, weight = normal(2, groups * a, *size), normal(groups * a, b, *w["kernel"])
    arrays = {"weight": weight} | ({"bias": normal(groups * b)} if bias else {})
    mine = ours("conv_transpose", x, arrays=arrays, out=groups * b, groups=groups, bias=bias, output_padding=extra, **w)
    theirs = CONV_TRANSPOSE[rank - 1](
        t(x), t(weight), t(arrays["bias"]) if bias else None, w["stride"], w["padding"], extra, groups, w["dilation"]
    )
    close(mine, theirs)


def pool_padding(w: dict[str, Any]) -> dict[str, Any]:
    """PyTorch pads at most half a kernel and wants the window to fit."""
    w["padding"] = tuple(min(p, k // 2) for p, k in zip(w["padding"], w["kernel"], strict=True))
    axes = zip(w["size"], w["kernel"], w["padding"], w["dilation"], strict=True)
    w["size"] = tuple(max(i, (k - 1) * d + 1 - 2 * p) for i, k, p, d in axes)
    return w


@few
@given(window().map(pool_padding), st.booleans())
def test_maxpool(w: dict[str, Any], ceil: bool) -> None:
    x = normal(2, 3, *w.pop("size"))
    theirs = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[x.ndim - 3]
    close(
        ours("maxpool", x, ceil=ceil, **w),
        theirs(t(x), w["kernel"], w["stride"], w["padding"], w["dilation"], ceil_mode=ceil),
    )


@few
@given(window(dilated=False).map(pool_padding), st.booleans(), st.booleans())
def test_avgpool(w: dict[str, Any], ceil: bool, count: bool) -> None:
    x = normal(2, 3, *(max(i, k) for i, k in zip(w.pop("size"), w["kernel"], strict=True)))  # PyTorch's 3-d rule
    w.pop("dilation")
    theirs = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[x.ndim - 3]
    close(
        ours("avgpool", x, ceil=ceil, count_padding=count, **w),
        theirs(t(x), w["kernel"], w["stride"], w["padding"], ceil, count),
    )


def test_pool_stride_defaults_to_the_kernel() -> None:
    x = normal(1, 2, 7, 9)
    close(ours("maxpool", x, kernel=(2, 3)), F.max_pool2d(t(x), (2, 3)))


@few
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 12)), min_size=1, max_size=3))
def test_adaptive_and_global_pools(axes: list[tuple[int, int]]) -> None:
    x, out = normal(2, 3, *(i for i, _ in axes)), tuple(o for _, o in axes)
    rank = len(axes)
    mean = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[rank - 1]
    largest = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[rank - 1]
    close(ours("adaptive_avgpool", x, out=out), mean(t(x), out))
    close(ours("adaptive_maxpool", x, out=out), largest(t(x), out))
    close(ours("global_avgpool", x), mean(t(x), (1,) * rank))
    close(ours("global_maxpool", x), largest(t(x), (1,) * rank))


def test_average_of_no_place_is_zero() -> None:
    x = np.ones((1, 1, 3))
    out = ours("avgpool", x, kernel=(1,), stride=(1,), padding=((2, 2),), count_padding=False)
    close(out[0, 0], [0.0, 0, 1, 1, 1, 0, 0])


# ---------------------------------------------------------------------------------------------- element by element

UNARY = {
    "identity": lambda x: x,
    "relu": torch.relu,
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
    "not": lambda x: torch.logical_not(x).to(x.dtype),
    "dropout": lambda x: x,
}


@pytest.mark.parametrize("op", UNARY)
def test_unary(op: str) -> None:
    x = np.concatenate([3 * normal(400), [0.0, -0.0, 0.5, 1.5, 2.5, -0.5, -30.0, 30.0, 3.0, -3.0]])
    close(ours(op, x), UNARY[op](t(x)), atol=2e-9)  # PyTorch's softplus is x itself above 20: off by e^-20
    single = ours(op, x.astype(np.float32))
    assert single.dtype == np.float32


def test_activations_with_attributes() -> None:
    x = 2 * normal(2, 5, 4)
    close(ours("gelu", x), F.gelu(t(x)))
    close(ours("gelu", x, approximate="tanh"), F.gelu(t(x), approximate="tanh"))
    close(ours("leaky_relu", x, slope=0.2), F.leaky_relu(t(x), 0.2))
    close(ours("elu", x, alpha=0.7), F.elu(t(x), 0.7))
    close(ours("hard_sigmoid", x), F.hardsigmoid(t(x)))
    close(ours("clip", x, min=-1, max=0.5), torch.clamp(t(x), -1, 0.5))
    close(ours("clip", x, min=-1), torch.clamp(t(x), min=-1))
    close(ours("clip", x, max=0.5), torch.clamp(t(x), max=0.5))
    close(ours("clip", x), t(x))
    for slopes in (normal(1), normal(5)):
        close(ours("prelu", x, arrays={"weight": slopes}, num=slopes.size), F.prelu(t(x), t(slopes)))
    with pytest.raises(ShapeError, match="2 slopes for 5 channels"):
        REFERENCE["prelu"]({"num": 2}, [x], {"weight": normal(2)})


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax(axis: int) -> None:
    x = 500 * normal(3, 4, 5)
    close(ours("softmax", x, axis=axis), F.softmax(t(x), axis))
    close(ours("log_softmax", x, axis=axis), F.log_softmax(t(x), axis))


def test_infinities_and_nan_go_through_as_in_pytorch() -> None:
    x = np.array([[[np.nan, -np.inf, np.inf, -1.0, 2.0, np.nan, 0.0, 3.0]]])
    for op in ("relu", "sigmoid", "tanh", "exp", "log", "sqrt", "abs", "silu", "softplus", "hard_swish", "erf"):
        close(ours(op, x), UNARY[op](t(x)))
    close(ours("clip", x, min=-2, max=1), torch.clamp(t(x), -2, 1))
    close(ours("maxpool", x, kernel=(3,), stride=(1,), padding=1), F.max_pool1d(t(x), 3, 1, 1))
    close(ours("global_maxpool", x), F.adaptive_max_pool1d(t(x), 1))
    y = x[..., ::-1].copy()
    close(ours("maximum", x, y), torch.maximum(t(x), t(y)))
    close(ours("div", x, np.zeros_like(x)), t(x) / torch.zeros(1, 1, 8, dtype=torch.float64))
    weight = np.array([[[1.0, 0.0, 2.0]]])
    close(ours("conv", x, arrays={"weight": weight}, out=1, kernel=(3,), bias=False), F.conv1d(t(x), t(weight)))


BINARY = {
    "add": torch.add,
    "mul": torch.mul,
    "sub": torch.sub,
    "div": torch.div,
    "pow": torch.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
}


@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize(("a", "b"), [((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (3, 1)), ((1, 4), (2, 3, 1)), ((2, 1), ())])
def test_binary_with_broadcasting(op: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = np.abs(normal(*a)) + 0.1, normal(*b)
    close(ours(op, x, np.asarray(y)), BINARY[op](t(x), torch.tensor(y)))


@pytest.mark.parametrize("op", ["add", "mul", "maximum", "minimum"])
def test_joins_of_many(op: str) -> None:
    xs = [normal(2, 3, 4), normal(3, 1), normal(1, 4)]
    close(ours(op, *xs), BINARY[op](BINARY[op](t(xs[0]), t(xs[1])), t(xs[2])))


# ---------------------------------------------------------------------------------------------- normalisations


def scale_and_shift(*shape: int) -> dict[str, np.ndarray]:
    return {"weight": normal(*shape), "bias": normal(*shape)}


@pytest.mark.parametrize("size", [(), (5,), (4, 3), (2, 3, 2)])
@pytest.mark.parametrize("affine", [True, False])
def test_normalisations(size: tuple[int, ...], affine: bool) -> None:
    x = 3 * normal(2, 6, *size) + 1
    own = scale_and_shift(6) if affine else {}
    torched = [t(own["weight"]), t(own["bias"])] if affine else [None, None]
    stats = {"running_mean": normal(6), "running_var": np.abs(normal(6))}
    theirs = F.batch_norm(t(x), t(stats["running_mean"]), t(stats["running_var"]), *torched, eps=1e-3)
    close(ours("batchnorm", x, arrays=own | stats, eps=1e-3, affine=affine), theirs)
    if size:
        theirs = F.instance_norm(t(x), None, None, *torched, eps=1e-3)
        close(ours("instancenorm", x, arrays=own, eps=1e-3, affine=affine), theirs)
        close(ours("groupnorm", x, arrays=own, groups=3, affine=affine), F.group_norm(t(x), 3, *torched))
    last = (6, *size)[-2:]
    own = scale_and_shift(*last) if affine else {}
    torched = [t(own["weight"]), t(own["bias"])] if affine else [None, None]
    close(ours("layernorm", x, arrays=own, shape=last, affine=affine), F.layer_norm(t(x), last, *torched))


@pytest.mark.parametrize("size", [1, 3, 4, 5, 12])
def test_lrn(size: int) -> None:
    x = 10 * normal(2, 7, 3, 2)
    mine = ours("lrn", x, size=size, alpha=0.02, beta=0.6, k=2.0)
    close(mine, F.local_response_norm(t(x), size, 0.02, 0.6, 2.0))


# ---------------------------------------------------------------------------------------------- layout and sums


@few
@given(st.lists(st.integers(1, 4), min_size=2, max_size=5), st.data())
def test_layout(shape: list[int], data: st.DataObject) -> None:
    x = normal(*shape)
    rank = len(shape)
    axis = data.draw(st.integers(-rank, rank - 1))
    close(ours("flatten", x, axis=axis), t(x).reshape(*shape[: axis % rank], -1))
    perm = data.draw(st.permutations(range(rank)))
    close(ours("transpose", x, perm=perm), t(x).permute(perm))
    close(ours("reshape", x, shape=(0, -1)), t(x).reshape(shape[0], -1))
    close(ours("concat", x, x[..., :], axis=axis), torch.cat([t(x), t(x)], axis))
    places = sorted(data.draw(st.sets(st.integers(0, rank), min_size=1, max_size=2)))
    wide = ours("unsqueeze", x, axes=places)
    theirs = t(x)
    for place in places:
        theirs = theirs.unsqueeze(place)
    close(wide, theirs)
    close(ours("squeeze", wide, axes=places), t(x))
    size = shape[axis % rank]
    indices = data.draw(st.lists(st.integers(-size, size - 1), min_size=1, max_size=5))
    close(ours("gather", x, axis=axis, indices=indices), t(x).index_select(axis, torch.tensor(indices) % size))
    start, stop = (data.draw(st.none() | st.integers(-size - 1, size + 1)) for _ in range(2))
    step = data.draw(st.sampled_from([1, 2, 3, -1, -2]))
    if range(size)[start:stop:step]:
        wanted = [int(i) for i in range(size)[start:stop:step]]
        mine = ours("slice", x, axis=axis, start=start, stop=stop, step=step)
        close(mine, t(x).index_select(axis, torch.tensor(wanted)))
    axes = sorted(data.draw(st.sets(st.integers(0, rank - 1), min_size=1)))
    for keep in (True, False):
        for op, theirs in (("mean", torch.mean), ("sum", torch.sum), ("max", torch.amax), ("min", torch.amin)):
            close(ours(f"reduce_{op}", x, axes=axes, keepdims=keep), theirs(t(x), axes, keepdim=keep))


def test_reshape_of_an_empty_batch() -> None:
    assert ours("reshape", np.zeros((0, 4, 6)), shape=(0, -1)).shape == (0, 24)
    assert ours("reshape", np.zeros((0, 4, 6)), shape=(-1, 24)).shape == (0, 24)
    assert ours("reshape", np.zeros((0, 4, 6)), shape=(0, 2, -1, 6)).shape == (0, 2, 2, 6)


MODES = {"constant": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


@few
@given(
    st.sampled_from(list(MODES)),
    st.lists(st.tuples(st.integers(4, 7), st.integers(-1, 3), st.integers(-1, 3)), min_size=1, max_size=2),
)
def test_pad(mode: str, axes: list[tuple[int, int, int]]) -> None:
    x = normal(2, 3, *(i for i, _, _ in axes))
    pads = tuple((a, b) for _, a, b in axes)
    if mode != "constant":  # PyTorch defines cropping only for constant padding: crop its result instead
        grown = F.pad(t(x), [max(p, 0) for pair in reversed(pads) for p in pair], mode=MODES[mode])
        theirs = F.pad(grown, [min(p, 0) for pair in reversed(pads) for p in pair])
        close(ours("pad", x, pads=pads, mode=mode), theirs)
    else:
        theirs = F.pad(t(x), [p for pair in reversed(pads) for p in pair], value=0.7)
        close(ours("pad", x, pads=pads, mode=mode, value=0.7), theirs)


def test_channel_padding_as_in_option_a_shortcuts() -> None:
    x = normal(2, 3, 4, 4)
    close(ours("pad", x, pads=((1, 2), (0, 0), (0, 0))), F.pad(t(x), (0, 0, 0, 0, 1, 2)))


def test_products() -> None:
    a, b = normal(2, 1, 3, 4), normal(5, 4, 6)
    close(ours("matmul", a, b), t(a) @ t(b))
    x, weight, bias = normal(2, 3, 4), normal(5, 4), normal(5)
    close(ours("dense", x, arrays={"weight": weight, "bias": bias}, out=5), F.linear(t(x), t(weight), t(bias)))
    close(ours("dense", x, arrays={"weight": weight}, out=5, bias=False), F.linear(t(x), t(weight)))
    q, k = normal(2, 3, 4, 5), normal(2, 3, 6, 5)
    close(ours("einsum", q, k, equation="bhqd,bhkd->bhqk"), torch.einsum("bhqd,bhkd->bhqk", t(q), t(k)))
    close(ours("einsum", q, equation="abcd->dba"), torch.einsum("abcd->dba", t(q)))


@given(window(), st.integers(1, 2), st.booleans())
@few
def test_convolution_by_weights_that_come_in(w: dict[str, Any], groups: int, biased: bool) -> None:
    rank = len(w["kernel"])
    attrs = {"stride": w["stride"], "dilation": w["dilation"], "padding": tuple((p, p) for p in w["padding"])}
    x, weight, bias = normal(2, 2 * groups, *w["size"]), normal(3 * groups, 2, *w["kernel"]), normal(3 * groups)
    arrays = {"bias": bias} if biased else {}
    got = ours("dynamic_conv", x, weight, arrays=arrays, kernel=w["kernel"], bias=biased, **attrs)
    run = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    want = run(t(x), t(weight), t(bias) if biased else None, w["stride"], w["padding"], w["dilation"], groups)
    close(got, want, 1e-9, 1e-9)


@given(window(), st.integers(1, 2), st.booleans())
@settings(max_examples=60)
def test_deformable_convolution(w: dict[str, Any], parts: int, whole: bool) -> None:
    """Offsets of whole pixels move the taps of a plain convolution over the image; without any, it is one.

    The numbers between pixels are held against the standard's own cases in the tests of ONNX files.
    """
    rank, rng = len(w["kernel"]), np.random.default_rng(1)
    attrs = {"kernel": w["kernel"], "stride": w["stride"], "dilation": w["dilation"], "out": 3, "bias": False,
             "padding": tuple((p, p) for p in w["padding"])}  # fmt: skip
    x, weight = normal(2, 2 * parts, *w["size"]), normal(3, 2 * parts, *w["kernel"])
    plain = ours("conv", x, arrays={"weight": weight}, **attrs)
    places, taps = plain.shape[2:], int(np.prod(w["kernel"]))
    shape = (2, parts * taps * rank, *places)
    offsets = rng.integers(-2, 3, shape).astype(float) if whole else np.zeros(shape)
    mask = np.full((2, parts * taps, *places), 0.5)
    got = ours("deform_conv", x, offsets, mask, arrays={"weight": weight}, offset_groups=parts, **attrs)
    if not whole:
        close(got, 0.5 * plain)
        return
    want = np.zeros(plain.shape)
    moved = offsets.reshape(2, parts, *w["kernel"], rank, *places)
    for n, oc, *place in np.ndindex(*plain.shape):
        for ic, *tap in np.ndindex(2 * parts, *w["kernel"]):
            at = [
                o * s - p + t * d + int(moved[(n, ic // 2, *tap, axis, *place)])
                for axis, (o, s, p, t, d) in enumerate(
                    zip(place, w["stride"], w["padding"], tap, w["dilation"], strict=True)
                )
            ]
            if all(0 <= a < i for a, i in zip(at, w["size"], strict=True)):
                want[(n, oc, *place)] += 0.5 * weight[(oc, ic, *tap)] * x[(n, ic, *at)]
    close(got, want)


def test_constants() -> None:
    out = REFERENCE["constant"](Node.of("c", "constant", shape=(2, 3), fill=0.1).attrs, [], {})
    close(out, np.full((2, 3), 0.1))
    value = normal(4)
    close(REFERENCE["constant"](Node.of("c", "constant", shape=(4,)).attrs, [], {"value": value}), value)


# ---------------------------------------------------------------------------------------------- resize


def onnx_run(op: str, inputs: list[np.ndarray], **attrs: Any) -> np.ndarray:
    """One node by ONNX's own reference evaluator."""
    names = [f"x{i}" if x.size else "" for i, x in enumerate(inputs)]
    kinds = {"float64": TensorProto.DOUBLE, "float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    values = [
        helper.make_tensor_value_info(name, kinds[str(x.dtype)], x.shape)
        for name, x in zip(names, inputs, strict=True)
        if name
    ]
    out = helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)
    graph = helper.make_graph([helper.make_node(op, names, ["y"], **attrs)], "g", values, [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the evaluator's own casts
        return ReferenceEvaluator(model).run(None, {n: x for n, x in zip(names, inputs, strict=True) if n})[0]


ROUNDINGS = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")


@settings(max_examples=120)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 11)), min_size=1, max_size=2),
    st.sampled_from(["nearest", "linear", "cubic"]),
    st.sampled_from(COORDS[:-1]),  # the last one is of opset 10
    st.sampled_from(ROUNDINGS),
    st.booleans(),
)
def test_resize_as_onnx_defines_it(
    axes: list[tuple[int, int]], mode: str, coords: str, rounding: str, by_scale: bool
) -> None:
    x = normal(1, 2, *(i for i, _ in axes))
    attrs = {"mode": mode, "coordinate_transformation_mode": coords, "nearest_mode": rounding}
    none = np.zeros(0, np.float32)
    if by_scale:  # scales that float32 holds exactly, and results of at least one pixel
        scales = [max(o, 3) / 4 if i * max(o, 3) >= 4 else 1.0 for i, o in axes]
        if coords in ("align_corners", "pytorch_half_pixel"):  # the evaluator does not round the output size down
            scales = [f if f * i == int(f * i) else 1.0 for f, (i, _) in zip(scales, axes, strict=True)]
        given_scales = [none, np.array([1, 1, *scales], np.float32)]
        theirs = onnx_run("Resize", [x, *given_scales], cubic_coeff_a=-0.5, **attrs)
        mine = ours("resize", x, scale=scales, mode=mode, coords=coords, rounding=rounding, cubic_a=-0.5)
    else:
        out = [o for _, o in axes]
        sizes = [none, none, np.array([1, 2, *out], np.int64)]
        theirs = onnx_run("Resize", [x, *sizes], cubic_coeff_a=-0.5, **attrs)
        mine = ours("resize", x, size=out, mode=mode, coords=coords, rounding=rounding, cubic_a=-0.5)
    if mode == "nearest" and not by_scale and any(o % i and i % o for i, o in axes):
        return  # the evaluator rounds its coordinates in floating point; exact halves and wholes go either way
    if mine.shape == x.shape:
        return  # ONNX Runtime copies where no size changes, whatever the factors; the evaluator does not
    if coords == "pytorch_half_pixel" and 1 in mine.shape[2:]:
        return  # for one pixel the standard says place 0; the evaluator takes -0.5
    close(mine, theirs, rtol=1e-5, atol=1e-5)  # the evaluator's coefficients pass through float32


@pytest.mark.parametrize(("size", "out"), [((5, 7), (10, 14)), ((5, 7), (8, 3)), ((1, 4), (3, 1)), ((6, 6), (3, 2))])
def test_resize_as_pytorch_does_it(size: tuple[int, int], out: tuple[int, int]) -> None:
    x = normal(2, 3, *size)
    for mode, name in (("linear", "bilinear"), ("cubic", "bicubic")):
        mine = ours("resize", x, size=out, mode=mode, coords="half_pixel")
        close(mine, F.interpolate(t(x), out, mode=name, align_corners=False), rtol=1e-9, atol=1e-9)
        mine = ours("resize", x, size=out, mode=mode, coords="align_corners")
        close(mine, F.interpolate(t(x), out, mode=name, align_corners=True), rtol=1e-9, atol=1e-9)
    close(ours("resize", x, size=out), F.interpolate(t(x), out, mode="nearest"))
    mine = ours("resize", x, size=out, coords="half_pixel", rounding="round_prefer_ceil")
    close(mine, F.interpolate(t(x), out, mode="nearest-exact"))
    close(ours("resize", x, scale=(1.5,)), F.interpolate(t(x), scale_factor=1.5, mode="nearest"))


# ---------------------------------------------------------------------------------------------- whole networks


def small_network(**meta: Any) -> Graph:
    nodes = (
        Node.of("image", "input", shape=(3, 8, 8)),
        Node.of("c", "conv", "image", out=4, kernel=(3, 3), padding=1),
        Node.of("r", "relu", "c"),
        Node.of("k", "constant", shape=(1, 4, 1, 1), fill=0.1),
        Node.of("m", "mul", "r", "k"),
        Node.of("f", "flatten", "m"),
        Node.of("d", "dense", "f", out=5),
    )
    graph = Graph(nodes, ("d",), "small")
    generator = np.random.default_rng(0)
    return graph.with_weights({k: generator.normal(size=s).astype("f4") for k, s in graph.param_shapes.items()})


@pytest.mark.parametrize("n", [0, 1, 3])
def test_run_against_pytorch(n: int) -> None:
    graph = small_network()
    x = normal(n, 3, 8, 8)
    w = {k: t(np.asarray(v, np.float64)) for k, v in graph.weights.items()}
    hidden = torch.relu(F.conv2d(t(x), w["c.weight"], w["c.bias"], padding=1))
    result = run_reference(graph, x, taps=["r"])
    close(result.taps["r"], hidden)
    close(result.outputs[0], F.linear((hidden * 0.1).flatten(1), w["d.weight"], w["d.bias"]))
    assert result.outputs[0].dtype == np.float64
    assert run_reference(graph, x.astype(np.float32)).outputs[0].dtype == np.float32
    assert run_reference(graph, x.astype(np.float32), dtype=np.float64).outputs[0].dtype == np.float64


def refused(kind: type[DojangError], message: str, graph: Graph, x: Any, **more: Any) -> None:
    with pytest.raises(kind, match=message) as caught:
        run_reference(graph, x, **more)
    assert "\n" not in str(caught.value)


def test_errors_say_what_and_where() -> None:
    graph, x = small_network(), normal(2, 3, 8, 8)
    refused(ShapeError, r"image: the input is 2x3x8x9; the network takes \(batch\)x3x8x8", graph, normal(2, 3, 8, 9))
    refused(ShapeError, "image: the input is 3x8x8", graph, normal(3, 8, 8))
    refused(UsageError, "image: the input is uint8; give float32", graph, np.zeros((1, 3, 8, 8), np.uint8))
    refused(UsageError, "small has no input 'picture'; its inputs are image", graph, {"picture": x})
    refused(UsageError, "small needs the input 'image'", graph, {})
    refused(GraphError, "no node 'nowhere'", graph, x, taps=["nowhere"])
    without = graph.replace(weights={k: v for k, v in graph.weights.items() if k != "d.bias"})
    refused(GraphError, "no weights for d.bias 5", without, x)
    misfit = graph.replace(weights={**graph.weights, "d.bias": np.zeros(6, "f4")})
    refused(GraphError, "d.bias: the weights are 6, the layer needs 5", misfit, x)
    spoiled = {**graph.weights, "c.bias": np.array([0, np.nan, 0, np.nan], "f4")}
    refused(DataError, "c.bias: 2 of 4 weights are NaN", graph.replace(weights=spoiled), x)


def test_unknown_operators_are_refused_by_node_and_kind() -> None:
    nodes = (Node.of("x", "input", shape=(3,)), Node.of("odd", "unknown", "x", kind="com.acme.Twist"))
    refused(UnsupportedError, "odd: operator com.acme.Twist cannot be run", Graph(nodes, ("odd",)), normal(1, 3))


def test_a_reshape_with_the_batch_written_in_is_refused_for_other_batches() -> None:
    nodes = (
        Node.of("x", "input", shape=(2, 3)),
        Node.of("r", "reshape", "x", shape=(1, -1)),
        Node.of("d", "dense", "r", out=2, bias=False),
    )
    graph = Graph(nodes, ("d",), weights={"d.weight": np.ones((2, 6), "f4")})
    assert run_reference(graph, normal(1, 2, 3)).outputs[0].shape == (1, 2)
    refused(ShapeError, "d: with a batch of 2 its weight would have to be 2x12, it is 2x6", graph, normal(2, 2, 3))


def test_two_inputs_need_names_and_one_batch_size() -> None:
    nodes = (Node.of("a", "input", shape=(3,)), Node.of("b", "input", shape=(3,)), Node.of("s", "add", "a", "b"))
    graph = Graph(nodes, ("s", "a"))
    refused(UsageError, r"has 2 inputs \(a, b\); give an array for each name", graph, normal(1, 3))
    refused(ShapeError, "different batch sizes: a 1, b 2", graph, {"a": normal(1, 3), "b": normal(2, 3)})
    a, b = normal(2, 3), normal(2, 3)
    total, first = run_reference(graph, {"a": a, "b": b}).outputs
    close(total, a + b)
    close(first, a)
