"""The table of operators: one row each, with its attributes and its rules.

A new operator is one row here, one function in `engine/reference/operators.py`, and one row in each format. A test
asserts that these tables agree or names the gap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod

from dojang.arith import shapes as shape_rules
from dojang.arith.attrs import Attr, Attrs, Kind
from dojang.arith.resizing import ARITHMETICS, COORDS
from dojang.arith.shapes import Rule, Shape, Shapes, conv_problem, dynamic_problem, einsum_sizes

ParamRule = Callable[[Attrs, Shapes], dict[str, Shape]]
MacRule = Callable[[Attrs, Shapes], int]

UNKNOWN = "unknown"
"""The operator of a node that a format could not name: its cost is not known, so totals become bounds. `shape`, without
the batch, where the source tells it; else what follows is not known either."""


@dataclass(frozen=True, slots=True)
class Op:
    """One operator.

    `shape`: output shape from attributes and input shapes. `params`: shape of each weight array by role (`weight`,
    `bias`, ...). `macs`: multiply-accumulates with padding taps counted; `macs_inside` without them where they differ.
    `field`: how it moves the receptive field (rules in `field.py`). `channels`: how output channels follow from input
    channels (rules in `channels.py`). `inputs`: least and most number of inputs. `buffers`: roles that are not
    trained and not counted as parameters. `main`: attributes that the text notation writes without their names.
    """

    name: str
    shape: Rule
    attrs: Mapping[str, Attr] = field(default_factory=dict[str, Attr])
    params: ParamRule | None = None
    macs: MacRule | None = None
    macs_inside: MacRule | None = None
    field: str = "pointwise"
    channels: str = "keep"
    inputs: tuple[int, int] = (1, 1)
    buffers: frozenset[str] = frozenset()
    main: tuple[str, ...] = ()


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


def _rows() -> list[Op]:
    affine = {"eps": Attr(Kind.FLOAT, 1e-5), "affine": Attr(Kind.BOOL, True)}
    return [
        # mean and std say how pictures scaled to 0..1 are normalised before they enter; they cost nothing.
        Op(
            "input",
            _input_shape,
            {"shape": _required(Kind.SIZE), "mean": Attr(Kind.FLOATS), "std": Attr(Kind.FLOATS)},
            field="input",
            channels="fresh",
            inputs=(0, 0),
            main=("shape",),
        ),
        # Without `fill` its content is the array of role "value"; a buffer unless it is trained.
        Op(
            "constant",
            _constant_shape,
            {"shape": _required(Kind.INTS), "fill": Attr(Kind.FLOAT), "trained": Attr(Kind.BOOL, False)},
            params=lambda a, s: {} if a["fill"] is not None else {"value": a["shape"]},
            field="constant",
            channels="opaque",
            inputs=(0, 0),
        ),
        Op(
            "conv",
            shape_rules.conv,
            _conv_attrs(),
            _conv_params(False),
            lambda a, s: conv_problem(a, s).macs,
            lambda a, s: conv_problem(a, s).macs_inside,
            "window",
            "conv",
            main=("out", "kernel"),
        ),
        Op(
            "conv_transpose",
            shape_rules.conv_transpose,
            _conv_attrs() | {"output_padding": Attr(Kind.AXES, (0,))},
            _conv_params(True),
            lambda a, s: conv_problem(a, s, True).macs,
            lambda a, s: conv_problem(a, s, True).macs_inside,
            "transposed",
            "conv",
            main=("out", "kernel"),
        ),
        # Inputs x, offsets, and a mask if there are three (Dai et al. 2017, Zhu et al. 2019). Counted: products with
        # the weights. Not counted: interpolation between pixels and the products with the mask.
        Op(
            "deform_conv",
            shape_rules.deform_conv,
            _conv_attrs() | {"offset_groups": Attr(Kind.INT, 1)},
            _conv_params(False),
            lambda a, s: conv_problem(a, s).macs,
            field="opaque",
            channels="opaque",
            inputs=(2, 3),
            main=("out", "kernel"),
        ),
        # Inputs x and weights (oc, ic/groups, *kernel), which the network computes (Jia et al. 2016).
        Op(
            "dynamic_conv",
            shape_rules.dynamic_conv,
            _window() | {"bias": Attr(Kind.BOOL, True)},
            lambda a, s: {"bias": (s[1][0],)} if a["bias"] else {},
            lambda a, s: dynamic_problem(a, s).macs,
            lambda a, s: dynamic_problem(a, s).macs_inside,
            "dynamic",
            "opaque",
            inputs=(2, 2),
            main=("kernel",),
        ),
        Op(
            "dense",
            shape_rules.dense,
            {"out": _required(Kind.INT), "bias": Attr(Kind.BOOL, True)},
            _dense_params,
            lambda a, s: prod(s[0]) * a["out"],
            field="last",
            channels="dense",
            main=("out",),
        ),
        Op("maxpool", shape_rules.pool, _pool_attrs(), field="window", main=("kernel",)),
        # Padding counts in the mean unless count_padding=no (PyTorch's count_include_pad).
        Op(
            "avgpool",
            shape_rules.pool,
            {k: v for k, v in _pool_attrs().items() if k != "dilation"} | {"count_padding": Attr(Kind.BOOL, True)},
            field="window",
            main=("kernel",),
        ),
        *(
            Op(
                f"adaptive_{kind}pool",
                shape_rules.adaptive_pool,
                {"out": _required(Kind.SIZE)},
                field="adaptive",
                main=("out",),
            )
            for kind in ("max", "avg")
        ),
        *(Op(f"global_{kind}pool", shape_rules.global_pool, field="global") for kind in ("max", "avg")),
        Op(
            "batchnorm",
            shape_rules.channelwise,
            affine,
            _batchnorm_params,
            buffers=frozenset({"running_mean", "running_var"}),
        ),
        Op("instancenorm", shape_rules.channelwise, affine, lambda a, s: _affine(a, (s[0][1],)), field="global"),
        Op(
            "groupnorm",
            shape_rules.channelwise,
            {"groups": _required(Kind.INT)} | affine,
            lambda a, s: _affine(a, (s[0][1],)),
            field="groups",
            channels="opaque",
            main=("groups",),
        ),
        Op(
            "layernorm",
            shape_rules.layer_norm,
            {"shape": _required(Kind.INTS)} | affine,
            lambda a, s: _affine(a, a["shape"]),
            field="last",
            channels="opaque",
        ),
        # y = x / (k + alpha/size * sum of squares over `size` channels)^beta   (Krizhevsky et al. 2012, 3.3)
        Op(
            "lrn",
            shape_rules.channelwise,
            {
                "size": _required(Kind.INT),
                "alpha": Attr(Kind.FLOAT, 1e-4),
                "beta": Attr(Kind.FLOAT, 0.75),
                "k": Attr(Kind.FLOAT, 1.0),
            },
            field="channels",
            channels="opaque",
            main=("size",),
        ),
        *(Op(name, shape_rules.same) for name in UNARY),
        Op("gelu", shape_rules.same, {"approximate": Attr(Kind.TEXT, "none", words=("none", "tanh"))}),
        Op("leaky_relu", shape_rules.same, {"slope": Attr(Kind.FLOAT, 0.01)}),
        Op("elu", shape_rules.same, {"alpha": Attr(Kind.FLOAT, 1.0)}),
        Op("hard_sigmoid", shape_rules.same, {"alpha": Attr(Kind.FLOAT, 1 / 6), "beta": Attr(Kind.FLOAT, 0.5)}),
        Op("clip", shape_rules.same, {"min": Attr(Kind.FLOAT), "max": Attr(Kind.FLOAT)}),
        Op("prelu", shape_rules.same, {"num": Attr(Kind.INT, 1)}, lambda a, s: {"weight": (a["num"],)}),
        Op("dropout", shape_rules.same, {"p": Attr(Kind.FLOAT, 0.5)}),
        *(
            Op(name, shape_rules.same, {"axis": Attr(Kind.INT, 1)}, field="axis", channels="opaque")
            for name in ("softmax", "log_softmax")
        ),
        *(
            Op(name, shape_rules.broadcast, channels="join", inputs=(2, MANY))
            for name in ("add", "mul", "maximum", "minimum")
        ),
        *(Op(name, shape_rules.broadcast, channels="join", inputs=(2, 2)) for name in ("sub", "div", "pow")),
        Op(
            "concat",
            shape_rules.concat,
            {"axis": Attr(Kind.INT, 1)},
            field="concat",
            channels="concat",
            inputs=(1, MANY),
        ),
        Op("flatten", shape_rules.flatten, {"axis": Attr(Kind.INT, 1)}, field="reshape", channels="reshape"),
        Op("reshape", shape_rules.reshape, {"shape": _required(Kind.INTS)}, field="reshape", channels="reshape"),
        Op("transpose", shape_rules.transpose, {"perm": _required(Kind.INTS)}, field="transpose", channels="transpose"),
        Op("squeeze", shape_rules.squeeze, {"axes": _required(Kind.INTS)}, field="squeeze", channels="reshape"),
        Op("unsqueeze", shape_rules.unsqueeze, {"axes": _required(Kind.INTS)}, field="unsqueeze", channels="reshape"),
        Op(
            "pad",
            shape_rules.pad,
            {
                "pads": _required(Kind.PADS),
                "mode": Attr(Kind.TEXT, "constant", words=("constant", "reflect", "replicate", "circular")),
                "value": Attr(Kind.FLOAT, 0.0),
            },
            field="pad",
            channels="pad",
            main=("pads",),
        ),
        Op(
            "slice",
            shape_rules.slice_,
            {"axis": _required(Kind.INT), "start": Attr(Kind.INT), "stop": Attr(Kind.INT), "step": Attr(Kind.INT, 1)},
            field="slice",
            channels="slice",
        ),
        Op(
            "gather",
            shape_rules.gather,
            {"axis": _required(Kind.INT), "indices": _required(Kind.INTS)},
            field="gather",
            channels="gather",
        ),
        Op(
            "resize",
            shape_rules.resize,
            {
                "size": Attr(Kind.SIZE),
                "scale": Attr(Kind.FLOATS),
                "mode": Attr(Kind.TEXT, "nearest", words=("nearest", "linear", "cubic")),
                "coords": Attr(Kind.TEXT, "asymmetric", words=COORDS),
                "rounding": Attr(
                    Kind.TEXT, "floor", words=("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
                ),
                "arithmetic": Attr(Kind.TEXT, "onnx", words=ARITHMETICS),
                "cubic_a": Attr(Kind.FLOAT, -0.75),
            },
            field="resize",
        ),
        *(
            Op(
                f"reduce_{kind}",
                shape_rules.reduce,
                {"axes": _required(Kind.INTS), "keepdims": Attr(Kind.BOOL, True)},
                field="reduce",
                channels="reduce",
            )
            for kind in ("mean", "sum", "max", "min")
        ),
        Op("matmul", shape_rules.matmul, {}, macs=_matmul_macs, field="matmul", channels="opaque", inputs=(2, 2)),
        Op(
            "einsum",
            shape_rules.einsum,
            {"equation": _required(Kind.TEXT)},
            macs=_einsum_macs,
            field="einsum",
            channels="opaque",
            inputs=(1, MANY),
        ),
        Op(
            UNKNOWN,
            shape_rules.same,
            {"kind": _required(Kind.TEXT), "shape": Attr(Kind.SIZE)},
            field="opaque",
            channels="opaque",
            inputs=(0, MANY),
        ),
    ]


UNARY = (
    "identity relu sigmoid tanh softplus softsign silu hard_swish mish selu "
    "abs neg exp log sqrt erf reciprocal sin cos floor ceil round sign not"
).split()
"""Element by element, without attributes."""

OPS: Mapping[str, Op] = {op.name: op for op in _rows()}
"""Every operator by name."""
