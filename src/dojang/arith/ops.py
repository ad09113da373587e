"""The table of operators: one row each, with its attributes and its rules.

A row has no defaults for what counting needs: a row without, say, its memory rule stops the import. What the other
packages do with each operator stands in their own tables (`arith/table.py`), which a test holds against this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Literal, get_args

from dojang.arith import recurrent, standard
from dojang.arith import shapes as shape_rules
from dojang.arith.attrs import Attr, Attrs, Kind
from dojang.arith.resizing import ARITHMETICS, COORDS
from dojang.arith.shapes import Rule, Shape, Shapes, conv_problem, dynamic_problem, einsum_sizes

ParamRule = Callable[[Attrs, Shapes], dict[str, Shape]]
MacRule = Callable[[Attrs, Shapes], int]

UNKNOWN = "unknown"
"""The operator of a node that a format could not name: its cost is not known, so totals become bounds; unless it is
`free`: known to have no multiply-accumulates, by the convention that counts none for activations, sorting and look-ups.
`shape`, without the batch, where the source tells it; else what follows is not known either. The batch is the axis
`batch_axis` beside those of `shape`; -1: there is none, `shape` is all of it."""

STANDARD = "standard"
"""The operator of a node that is one output of an operator of ONNX, run as the standard defines it (`standard.py`)."""


BYTES = 4
"""Bytes per element: costs are for float32."""

FieldKind = Literal[
    "input", "constant", "opaque", "pointwise", "window", "transposed", "dynamic", "adaptive", "resize", "global",
    "groups", "channels", "axis", "last", "reduce", "squeeze", "unsqueeze", "transpose", "reshape", "pad", "slice",
    "gather", "concat", "matmul", "einsum",
]  # fmt: skip
"""How an operator moves the receptive field; the rules are in `field.py`. Nothing is known beyond an opaque one."""

ChannelKind = Literal[
    "fresh", "conv", "dense", "keep", "spatial", "mix", "join", "concat", "reshape", "transpose", "pad", "slice",
    "gather", "reduce", "opaque",
]  # fmt: skip
"""How output channels follow from input channels; the rules are in `ties.py`.

"keep": element by element. "spatial": channel by channel, mixing the axes after axis 1. "mix": normalises over
channels, which then cannot be removed. "opaque": channels end here.
"""


def _nothing(attrs: Attrs, shape: Shape) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Held:
    """What an operator holds in memory, as PyTorch's autograd has it.

    `inputs`: which inputs training keeps for the way back: "none", "all", or "factors" (of a product each factor only
    where another one needs a gradient). `output`: whether it keeps its output. `more`: bytes that it keeps beside
    these, from attributes and output shape. `between`: whether of more than two inputs the values in between are kept,
    each of the size of the output. `view`: when its output is its input's own memory.
    """

    inputs: Literal["none", "all", "factors"]
    output: bool = False
    more: Callable[[Attrs, Shape], int] = _nothing
    between: bool = False
    view: Literal["never", "at inference", "in training", "always"] = "never"


NO_MEMORY, KEEPS_INPUT, KEEPS_OUTPUT, KEEPS_BOTH = Held("none"), Held("all"), Held("none", True), Held("all", True)
KEEPS_FACTORS, VIEW = Held("factors"), Held("none", view="always")
KEEPS_INDICES = Held("all", more=lambda a, s: 8 * prod(s))
"""Pooling by the largest: an int64 index per output."""
KEEPS_PICKS = Held("none", more=lambda a, s: 8 * len(a["indices"]))
KEEPS_MASK = Held("none", more=lambda a, s: BYTES * prod(s), view="at inference")
"""Dropout: its scaled mask."""


def _statistics(number: Callable[[Attrs, Shape], int]) -> Held:
    """Normalisations: the mean and the inverse deviation of each of so many sets of values."""
    return Held("all", more=lambda a, s: 2 * BYTES * number(a, s))


def _picked(attrs: Attrs, shape: Shape) -> int:
    """Padding that repeats pixels: an int64 index for each place of each axis that it pads."""
    axes = zip(shape[len(shape) - len(attrs["pads"]) :], attrs["pads"], strict=True)
    return 0 if attrs["mode"] == "constant" else sum(8 * size for size, pads in axes if any(pads))


@dataclass(frozen=True, slots=True)
class Op:
    """One operator. Every field that counting needs must be given; None says that there is nothing of the kind.

    `shape`: output shape from attributes and input shapes. `attrs`: its attributes. `params`: shape of each weight
    array by role (`weight`, `bias`, ...). `roles`: every role that it may have; those in `buffers` are not trained and
    not counted as parameters. `macs`: multiply-accumulates with padding taps counted; `macs_inside` without them where
    they differ. `field`, `channels`, `held`: receptive field, channels, memory. `inputs`: least and most number of
    inputs. `main`: attributes that the text notation writes without their names.
    """

    name: str
    shape: Rule
    attrs: Mapping[str, Attr]
    params: ParamRule | None
    roles: tuple[str, ...]
    macs: MacRule | None
    field: FieldKind
    channels: ChannelKind
    held: Held
    macs_inside: MacRule | None = None
    inputs: tuple[int, int] = (1, 1)
    buffers: frozenset[str] = frozenset()
    main: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises `ValueError` for a row that contradicts itself: a slip in this file stops the import."""
        if self.field not in get_args(FieldKind) or self.channels not in get_args(ChannelKind):
            raise ValueError(f"{self.name}: no rule is called {self.field!r} (field) or {self.channels!r} (channels)")
        if bool(self.params) != bool(self.roles) or not self.buffers <= set(self.roles):
            raise ValueError(f"{self.name}: give the roles of its arrays, buffers among them, where it has any")
        if any(name not in self.attrs for name in self.main):
            raise ValueError(f"{self.name}: `main` names attributes that it does not have")


WEIGHT_BIAS = ("weight", "bias")
NO_ATTRS: Mapping[str, Attr] = MappingProxyType({})


MANY = 1 << 12
"""Inputs without a limit that anyone would reach. The rules look at all inputs for each of them."""


def _required(kind: Kind) -> Attr:
    return Attr(kind, required=True)


def _window(dilation: bool = True) -> dict[str, Attr]:
    attrs = {"kernel": _required(Kind.SIZE), "stride": Attr(Kind.AXES, (1,)), "padding": Attr(Kind.PADS, ((0, 0),))}
    return attrs | ({"dilation": Attr(Kind.AXES, (1,))} if dilation else {})


def _conv_attrs() -> dict[str, Attr]:
    return {"out": _required(Kind.INT)} | _window() | {"groups": Attr(Kind.INT, 1), "bias": Attr(Kind.BOOL, True)}


def _pool_attrs() -> dict[str, Attr]:
    return _window() | {"stride": Attr(Kind.AXES), "ceil": Attr(Kind.BOOL, False)}


def _conv_params(transposed: bool) -> ParamRule:
    def rule(attrs: Attrs, shapes: Shapes) -> dict[str, Shape]:
        weight = {"weight": conv_problem(attrs, shapes, transposed).weight_shape}
        return weight | ({"bias": (attrs["out"],)} if attrs["bias"] else {})

    return rule


def _dense_params(attrs: Attrs, shapes: Shapes) -> dict[str, Shape]:
    weight = {"weight": (attrs["out"], shapes[0][-1])}
    return weight | ({"bias": (attrs["out"],)} if attrs["bias"] else {})


def _affine(attrs: Attrs, size: Shape) -> dict[str, Shape]:
    return {"weight": size, "bias": size} if attrs["affine"] else {}


def _batchnorm_params(attrs: Attrs, shapes: Shapes) -> dict[str, Shape]:
    size = (shapes[0][1],)
    return _affine(attrs, size) | {"running_mean": size, "running_var": size}


def _matmul_macs(attrs: Attrs, shapes: Shapes) -> int:
    return prod(shape_rules.matmul(attrs, shapes)) * shapes[0][-1]


def _einsum_macs(attrs: Attrs, shapes: Shapes) -> int:
    return prod(einsum_sizes(attrs["equation"], shapes)[0].values()) if len(shapes) > 1 else 0


def _input_shape(attrs: Attrs, shapes: Shapes) -> Shape:
    raise AssertionError("Graph gives inputs their shape, batch first")


def _constant_shape(attrs: Attrs, shapes: Shapes) -> Shape:
    return attrs["shape"]


def _plain(
    name: str,
    attrs: Mapping[str, Attr],
    held: Held,
    field: FieldKind = "pointwise",
    channels: ChannelKind = "keep",
    shape: Rule = shape_rules.same,
    inputs: tuple[int, int] = (1, 1),
    main: tuple[str, ...] = (),
) -> Op:
    """An operator without arrays and without multiply-accumulates; by itself one that works element by element."""
    return Op(name, shape, attrs, None, (), None, field, channels, held, inputs=inputs, main=main)


def _layers() -> list[Op]:
    """Convolutions, dense layers and products: what has multiply-accumulates."""
    kernel = ("out", "kernel")
    return [
        Op(
            "conv", shape_rules.conv, _conv_attrs(), _conv_params(False), WEIGHT_BIAS,
            lambda a, s: conv_problem(a, s).macs, "window", "conv", KEEPS_INPUT,
            lambda a, s: conv_problem(a, s).macs_inside, main=kernel,
        ),
        Op(
            "conv_transpose", shape_rules.conv_transpose, _conv_attrs() | {"output_padding": Attr(Kind.AXES, (0,))},
            _conv_params(True), WEIGHT_BIAS, lambda a, s: conv_problem(a, s, True).macs, "transposed", "conv",
            KEEPS_INPUT, lambda a, s: conv_problem(a, s, True).macs_inside, main=kernel,
        ),
        # Inputs x, offsets, and a mask if there are three (Dai et al. 2017, Zhu et al. 2019). Counted: products with
        # the weights. Not counted: interpolation between pixels and the products with the mask.
        Op(
            "deform_conv", shape_rules.deform_conv, _conv_attrs() | {"offset_groups": Attr(Kind.INT, 1)},
            _conv_params(False), WEIGHT_BIAS, lambda a, s: conv_problem(a, s).macs, "opaque", "opaque", KEEPS_INPUT,
            inputs=(2, 3), main=kernel,
        ),
        # Inputs x and weights (oc, ic/groups, *kernel), which the network computes (Jia et al. 2016).
        Op(
            "dynamic_conv", shape_rules.dynamic_conv, _window() | {"bias": Attr(Kind.BOOL, True)},
            lambda a, s: {"bias": (s[1][0],)} if a["bias"] else {}, ("bias",), lambda a, s: dynamic_problem(a, s).macs,
            "dynamic", "opaque", KEEPS_FACTORS, lambda a, s: dynamic_problem(a, s).macs_inside, inputs=(2, 2),
            main=("kernel",),
        ),
        Op(
            "dense", shape_rules.dense, {"out": _required(Kind.INT), "bias": Attr(Kind.BOOL, True)}, _dense_params,
            WEIGHT_BIAS, lambda a, s: prod(s[0]) * a["out"], "last", "dense", KEEPS_INPUT, main=("out",),
        ),
        Op(
            "matmul", shape_rules.matmul, NO_ATTRS, None, (), _matmul_macs, "matmul", "opaque", KEEPS_FACTORS,
            inputs=(2, 2),
        ),
        Op(
            "einsum", shape_rules.einsum, {"equation": _required(Kind.TEXT)}, None, (), _einsum_macs, "einsum",
            "opaque", KEEPS_FACTORS, inputs=(1, MANY),
        ),
        # Inputs x and the initial states, 0 where they are left out (`recurrent.py`). Memory: gates and states.
        Op(
            "recurrent", recurrent.shape, {
                "cell": Attr(Kind.TEXT, required=True, words=tuple(recurrent.GATES)), "hidden": _required(Kind.INT),
                "direction": Attr(Kind.TEXT, "forward", words=("forward", "reverse", "both")),
                "bias": Attr(Kind.BOOL, True), "reset_after": Attr(Kind.BOOL, True),
                "output": Attr(Kind.TEXT, "sequence", words=("sequence", "hidden", "cell")),
                "first": Attr(Kind.BOOL, True), "rounded": Attr(Kind.BOOL, False),
            },
            recurrent.params, recurrent.ROLES, recurrent.macs, "opaque", "opaque",
            Held("all", True, lambda a, s: BYTES * prod(s) * recurrent.GATES[a["cell"]]), inputs=(1, 3),
            main=("cell", "hidden"),
        ),
    ]  # fmt: skip


def _pools() -> list[Op]:
    """Pooling, which takes each channel by itself. avgpool counts padding in the mean unless count_padding=no."""
    mean = {k: v for k, v in _pool_attrs().items() if k != "dilation"} | {"count_padding": Attr(Kind.BOOL, True)}
    out = {"out": _required(Kind.SIZE)}
    return [
        _plain("maxpool", _pool_attrs(), KEEPS_INDICES, "window", "spatial", shape_rules.pool, main=("kernel",)),
        _plain("avgpool", mean, KEEPS_INPUT, "window", "spatial", shape_rules.pool, main=("kernel",)),
        _plain("adaptive_maxpool", out, KEEPS_INDICES, "adaptive", "spatial", shape_rules.adaptive_pool, main=("out",)),
        _plain("adaptive_avgpool", out, KEEPS_INPUT, "adaptive", "spatial", shape_rules.adaptive_pool, main=("out",)),
        _plain("global_maxpool", NO_ATTRS, KEEPS_BOTH, "global", "spatial", shape_rules.global_pool),
        _plain("global_avgpool", NO_ATTRS, NO_MEMORY, "global", "spatial", shape_rules.global_pool),
    ]


def _norms() -> list[Op]:
    """Normalisations and softmax."""
    affine = {"eps": Attr(Kind.FLOAT, 1e-5), "affine": Attr(Kind.BOOL, True)}
    statistics = ("running_mean", "running_var")
    # y = x / (k + alpha/size * sum of squares over `size` channels)^beta   (Krizhevsky et al. 2012, 3.3)
    lrn = {
        "size": _required(Kind.INT),
        "alpha": Attr(Kind.FLOAT, 1e-4),
        "beta": Attr(Kind.FLOAT, 0.75),
        "k": Attr(Kind.FLOAT, 1.0),
    }
    return [
        Op(
            "batchnorm", shape_rules.channelwise, affine, _batchnorm_params, (*WEIGHT_BIAS, *statistics), None,
            "pointwise", "keep", _statistics(lambda a, s: s[1]), buffers=frozenset(statistics),
        ),
        Op(
            "instancenorm", shape_rules.channelwise, affine, lambda a, s: _affine(a, (s[0][1],)), WEIGHT_BIAS, None,
            "global", "spatial", _statistics(lambda a, s: s[0] * s[1]),
        ),
        Op(
            "groupnorm", shape_rules.channelwise, {"groups": _required(Kind.INT)} | affine,
            lambda a, s: _affine(a, (s[0][1],)), WEIGHT_BIAS, None, "groups", "mix",
            _statistics(lambda a, s: s[0] * a["groups"]), main=("groups",),
        ),
        Op(
            "layernorm", shape_rules.layer_norm, {"shape": _required(Kind.INTS)} | affine,
            lambda a, s: _affine(a, a["shape"]), WEIGHT_BIAS, None, "last", "mix",
            _statistics(lambda a, s: prod(s[: len(s) - len(a["shape"])])),
        ),
        _plain("lrn", lrn, KEEPS_POWERS, "channels", "mix", shape_rules.channelwise, main=("size",)),
        *(
            _plain(name, {"axis": Attr(Kind.INT, 1)}, KEEPS_OUTPUT, "axis", "mix")
            for name in ("softmax", "log_softmax")
        ),
    ]  # fmt: skip


def _elements() -> list[Op]:
    """Operators that work element by element, on one value or on several that broadcast."""
    return [
        *(_plain(name, NO_ATTRS, held) for name, held in _UNARY.items()),
        _plain("gelu", {"approximate": Attr(Kind.TEXT, "none", words=("none", "tanh"))}, KEEPS_INPUT),
        _plain("leaky_relu", {"slope": Attr(Kind.FLOAT, 0.01)}, KEEPS_INPUT),
        # Quantised and made real again: scale · round(x / scale), the whole number held within low and high.
        _plain(
            "fake_quantize",
            {"scale": _required(Kind.FLOAT), "low": _required(Kind.INT), "high": _required(Kind.INT)},
            Held("none", more=lambda a, s: prod(s)),  # a mask of one byte each
        ),
        _plain("elu", {"alpha": Attr(Kind.FLOAT, 1.0)}, KEEPS_INPUT),
        _plain("hard_sigmoid", {"alpha": Attr(Kind.FLOAT, 1 / 6), "beta": Attr(Kind.FLOAT, 0.5)}, KEEPS_INPUT),
        _plain("clip", {"min": Attr(Kind.FLOAT), "max": Attr(Kind.FLOAT)}, KEEPS_INPUT),
        Op(
            "prelu", shape_rules.same, {"num": Attr(Kind.INT, 1)}, lambda a, s: {"weight": (a["num"],)}, ("weight",),
            None, "pointwise", "keep", KEEPS_INPUT,
        ),
        _plain("dropout", {"p": Attr(Kind.FLOAT, 0.5)}, KEEPS_MASK),
        *(_join(name, held, MANY) for name, held in (("add", NO_MEMORY), ("mul", Held("factors", between=True)))),
        *(_join(name, Held("all", between=True), MANY) for name in ("maximum", "minimum")),
        *(_join(name, held, 2) for name, held in (("sub", NO_MEMORY), ("div", KEEPS_FACTORS), ("pow", KEEPS_BOTH))),
    ]  # fmt: skip


def _join(name: str, held: Held, most: int) -> Op:
    return _plain(name, NO_ATTRS, held, "pointwise", "join", shape_rules.broadcast, (2, most))


def _layout() -> list[Op]:
    """Operators that move elements, resize, or reduce axes."""
    axes, axis = {"axes": _required(Kind.INTS)}, {"axis": Attr(Kind.INT, 1)}
    pad = {
        "pads": _required(Kind.PADS),
        "mode": Attr(Kind.TEXT, "constant", words=("constant", "reflect", "replicate", "circular")),
        "value": Attr(Kind.FLOAT, 0.0),
    }
    cut = {"axis": _required(Kind.INT), "start": Attr(Kind.INT), "stop": Attr(Kind.INT), "step": Attr(Kind.INT, 1)}
    resize = {
        "size": Attr(Kind.SIZE),
        "scale": Attr(Kind.FLOATS),
        "mode": Attr(Kind.TEXT, "nearest", words=("nearest", "linear", "cubic")),
        "coords": Attr(Kind.TEXT, "asymmetric", words=COORDS),
        "rounding": Attr(Kind.TEXT, "floor", words=("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")),
        "arithmetic": Attr(Kind.TEXT, "onnx", words=ARITHMETICS),
        "cubic_a": Attr(Kind.FLOAT, -0.75),
    }
    whole = {"shape": _required(Kind.INTS)}
    order = {"perm": _required(Kind.INTS)}
    picks = {"axis": _required(Kind.INT), "indices": _required(Kind.INTS)}
    reduced = axes | {"keepdims": Attr(Kind.BOOL, True)}
    held = {"mean": NO_MEMORY, "sum": NO_MEMORY, "max": KEEPS_BOTH, "min": KEEPS_BOTH}
    return [
        _plain("concat", axis, NO_MEMORY, "concat", "concat", shape_rules.concat, (1, MANY)),
        _plain("flatten", axis, VIEW, "reshape", "reshape", shape_rules.flatten),
        _plain("reshape", whole, VIEW, "reshape", "reshape", shape_rules.reshape),
        _plain("transpose", order, Held("none", view="in training"), "transpose", "transpose", shape_rules.transpose),
        _plain("squeeze", axes, VIEW, "squeeze", "reshape", shape_rules.squeeze),
        _plain("unsqueeze", axes, VIEW, "unsqueeze", "reshape", shape_rules.unsqueeze),
        _plain("pad", pad, Held("none", more=_picked), "pad", "pad", shape_rules.pad, main=("pads",)),
        _plain("slice", cut, Held("none", view="in training"), "slice", "slice", shape_rules.slice_),
        _plain(
            "gather",
            picks,
            Held("none", more=lambda a, s: 8 * len(a["indices"])),
            "gather",
            "gather",
            shape_rules.gather,
        ),
        _plain("resize", resize, NO_MEMORY, "resize", "spatial", shape_rules.resize),
        *(_plain(f"reduce_{k}", reduced, h, "reduce", "reduce", shape_rules.reduce) for k, h in held.items()),
    ]


def _ends() -> list[Op]:
    """Where values begin, and what has no row of its own."""
    dtype = Attr(Kind.TEXT, "float32", words=tuple(standard.TYPES))
    return [
        # mean and std say how pictures scaled to 0..1 are normalised before they enter; they cost nothing.
        # The batch is the axis `batch_axis` beside those of `shape`; -1: there is none, `shape` is all of it.
        _plain(
            "input", {
                "shape": _required(Kind.SIZE), "mean": Attr(Kind.FLOATS), "std": Attr(Kind.FLOATS),
                "batch_axis": Attr(Kind.INT, 0), "dtype": dtype,
            },
            NO_MEMORY, "input", "fresh", _input_shape, (0, 0), ("shape",),
        ),
        # Without `fill` its content is the array of role "value"; a buffer unless it is trained.
        Op(
            "constant", _constant_shape,
            {
                "shape": _required(Kind.INTS), "fill": Attr(Kind.FLOAT), "trained": Attr(Kind.BOOL, False),
                "dtype": dtype,
            },
            lambda a, s: {} if a["fill"] is not None else {"value": a["shape"]}, ("value",), None, "constant", "opaque",
            NO_MEMORY, inputs=(0, 0),
        ),
        _plain(
            UNKNOWN, {
                "kind": _required(Kind.TEXT), "shape": Attr(Kind.SIZE), "batch_axis": Attr(Kind.INT, 0),
                "free": Attr(Kind.BOOL, False),
            },
            NO_MEMORY, "opaque", "opaque", inputs=(0, MANY),
        ),
        # One output of an operator of ONNX (`standard.py`). `settings` are its attributes, as JSON; `places` say which
        # of its inputs are given; `output` is which of its outputs this is, `first` whether it carries the cost.
        # `shape` without the batch, which is the axis `batch_axis` (-1: none); left out if values decide it.
        Op(
            STANDARD, shape_rules.same, {
                "kind": _required(Kind.TEXT), "settings": Attr(Kind.TEXT, "{}"), "places": Attr(Kind.INTS, ()),
                "output": Attr(Kind.INT, 0), "first": Attr(Kind.BOOL, True), "opset": Attr(Kind.INT, 21),
                "shape": Attr(Kind.SIZE), "batch_axis": Attr(Kind.INT, 0), "dtype": dtype,
            },
            None, (), standard.macs, "opaque", "opaque", NO_MEMORY, inputs=(0, MANY), main=("kind",),
        ),
    ]  # fmt: skip


def _powers(attrs: Attrs, shape: Shape) -> int:
    """Of a response normalisation the padded squares, the sum before the power, and the power itself."""
    return BYTES * (prod(shape) // shape[1]) * (3 * shape[1] + attrs["size"] - 1)


KEEPS_POWERS = Held("all", more=_powers)

_UNARY: Mapping[str, Held] = {
    "identity": VIEW,
    **dict.fromkeys(("relu", "sigmoid", "tanh", "exp", "sqrt", "reciprocal"), KEEPS_OUTPUT),
    "softsign": Held("all", more=lambda a, s: BYTES * prod(s)),  # 1 + |x|
    **dict.fromkeys(("softplus", "silu", "hard_swish", "mish", "selu", "abs", "log"), KEEPS_INPUT),
    **dict.fromkeys(("erf", "sin", "cos"), KEEPS_INPUT),
    **dict.fromkeys(("neg", "floor", "ceil", "round", "sign", "not"), NO_MEMORY),
}

UNARY = tuple(_UNARY)
"""Element by element, without attributes."""

OPS: Mapping[str, Op] = {op.name: op for op in (*_ends(), *_layers(), *_pools(), *_norms(), *_elements(), *_layout())}
"""Every operator by name."""
