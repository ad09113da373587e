"""Small networks of one operator each, several for most: every operator is here, as `test_operators.py` checks.

Each can be written to ONNX. A new operator gets one line in `CASES`; the tests of every format then run it.
"""

from __future__ import annotations

import numpy as np

from dojang.arith.graph import Graph, Node
from dojang.arith.ops import UNARY
from dojang.arith.recurrent import ROLES
from dojang.arith.resizing import COORDS

X, FLAT, SEQ, LINE = (4, 6, 8), (12,), (5, 6), (4, 9)
IN = Node.of


def one(op: str, size: tuple[int, ...] = X, /, inputs: int = 1, **attrs) -> Graph:
    """A network of one operator; further inputs are convolutions, slices or copies of the first."""
    nodes = [Node.of("x", "input", shape=size)]
    nodes += [Node.of(f"other{i}", "tanh" if i % 2 else "sigmoid", "x") for i in range(1, inputs)]
    nodes.append(Node.of("y", op, *(["x"] + [f"other{i}" for i in range(1, inputs)]), **attrs))
    return Graph(tuple(nodes), ("y",), name=f"one-{op}")


def recurrent(cell: str, outputs: tuple[str, ...] = ("sequence",), states: int = 0, **attrs) -> Graph:
    """A recurrent layer over the rows of x, with states that x begins; one node for each of its outputs."""
    many = 2 if attrs.get("direction") == "both" else 1
    nodes = [IN("x", "input", shape=SEQ), IN("steps", "transpose", "x", perm=(1, 0, 2))]
    for k in range(states):
        part = [IN(f"part{k}", "slice", "steps", axis=0, start=k, stop=k + many)]
        nodes += [*part, IN(f"state{k}", "slice", f"part{k}", axis=2, start=0, stop=5)]
    given = ["steps", *(f"state{k}" for k in range(states))]
    names = [f"y{k}" if k else "y" for k in range(len(outputs))]
    ends, bias = ("", "_reverse")[:many], attrs.get("bias", True)
    roles = [role for role in ROLES if role.endswith(ends if many == 2 else "h") and (bias or "bias" not in role)]
    shared = {role: f"y.{role}" for role in roles}
    for k, (name, output) in enumerate(zip(names, outputs, strict=True)):
        own = {"cell": cell, "hidden": 5, "output": output, "first": not k, **attrs}
        nodes.append(IN(name, "recurrent", *given, arrays=shared if k else None, **own))
    return Graph(tuple(nodes), tuple(names), name=f"one-{cell}")


RECURRENT = [
    ("lstm", ("sequence",), {}),
    ("lstm", ("sequence", "hidden", "cell"), {"direction": "both", "states": 2}),
    ("lstm", ("hidden", "cell"), {"direction": "reverse", "bias": False}),
    ("gru", ("sequence", "hidden"), {"direction": "both", "states": 1}),
    ("gru", ("sequence",), {"direction": "reverse", "reset_after": False}),
    ("rnn_tanh", ("hidden",), {"states": 1}),
    ("rnn_relu", ("sequence",), {"direction": "both", "bias": False}),
]

CASES = [
    one("conv", out=6, kernel=(3, 3), padding=((1, 0), (2, 1)), stride=(2, 1), dilation=(1, 2)),
    one("conv", out=8, kernel=(3, 1), groups=4, bias=False),
    one("conv", out=4, kernel=(3, 4), padding="same", stride=2),
    one("conv", out=4, kernel=(3, 4), padding="same-lower", stride=2),
    one("conv", LINE, out=5, kernel=(3,), padding=1),
    one("conv", (2, 4, 5, 6), out=3, kernel=(2, 3, 2)),
    one("conv_transpose", out=6, kernel=(3, 2), stride=2, padding=((1, 0), (0, 1)), output_padding=(1, 0), groups=2),
    one("conv_transpose", out=3, kernel=(3, 3), dilation=2, bias=False),
    one("dense", FLAT, out=5),
    one("dense", FLAT, out=5, bias=False),
    one("dense", SEQ, out=7),
    one("dense", SEQ, out=7, bias=False),
    one("maxpool", kernel=(3, 2), stride=2, padding=1),
    one("maxpool", kernel=(3, 3), stride=2, ceil=True),
    one("maxpool", kernel=(2, 2), dilation=2, stride=1),
    one("maxpool", kernel=(3, 3), stride=2, padding="same"),
    one("avgpool", kernel=(3, 2), stride=2, padding=1),
    one("avgpool", kernel=(3, 2), stride=2, padding=1, count_padding=False),
    one("avgpool", kernel=(2, 2), stride=2),
    one("adaptive_avgpool", out=(3, 2)),
    one("adaptive_avgpool", out=(1, 1)),
    one("adaptive_maxpool", out=(2, 4)),
    one("global_avgpool"),
    one("global_maxpool"),
    one("batchnorm"),
    one("batchnorm", affine=False, eps=1e-3),
    one("instancenorm"),
    one("instancenorm", affine=False),
    one("groupnorm", groups=2),
    one("groupnorm", groups=4, affine=False),
    one("layernorm", SEQ, shape=(6,)),
    one("layernorm", SEQ, shape=(5, 6), affine=False),
    one("lrn", size=3, alpha=0.01, beta=0.7, k=2.0),
    one("lrn", size=5),
    *(one(op) for op in UNARY),
    one("gelu"),
    one("gelu", approximate="tanh"),
    one("leaky_relu", slope=0.1),
    one("elu", alpha=0.7),
    one("hard_sigmoid"),
    one("hard_sigmoid", alpha=0.3, beta=0.4),
    one("clip", min=-0.5, max=0.5),
    one("clip", min=0.0),
    one("clip", max=6.0),
    one("clip"),
    one("prelu", num=1),
    one("prelu", num=4),
    one("prelu", FLAT, num=12),
    one("dropout", p=0.3),
    one("softmax"),
    one("softmax", axis=-1),
    one("log_softmax", FLAT),
    *(one(op, inputs=n) for op in ("add", "mul", "maximum", "minimum") for n in (2, 3)),
    *(one(op, inputs=2) for op in ("sub", "div")),
    one("concat", inputs=3),
    one("concat", inputs=2, axis=-1),
    one("flatten"),
    one("flatten", axis=2),
    one("flatten", axis=4),
    one("reshape", shape=(0, 2, -1, 8)),
    one("reshape", shape=(-1, 12)),
    one("transpose", perm=(0, 2, 3, 1)),
    one("squeeze", (1, 5, 1), axes=(1, 3)),
    one("unsqueeze", axes=(2, -1)),
    one("pad", pads=((1, 0), (2, 1))),
    one("pad", pads=((1, 0), (2, 1)), value=0.5),
    one("pad", pads=((0, 0), (-1, 2))),
    *(one("pad", pads=((1, 1), (2, 1)), mode=mode) for mode in ("reflect", "replicate", "circular")),
    one("slice", axis=1, start=1, stop=3),
    one("slice", axis=-1, step=2),
    one("slice", axis=2, start=0, stop=-1),
    one("slice", axis=3, start=-1, step=-2),
    one("slice", axis=2, start=-3),
    one("gather", axis=1, indices=(2, 0, 0, -1)),
    *(one("resize", scale=(2.0,), mode=m, coords=c) for m in ("nearest", "linear") for c in COORDS),
    one("resize", size=(9, 5), mode="linear", coords="half_pixel"),
    one("resize", size=(9, 5), mode="cubic", coords="half_pixel", cubic_a=-0.5),
    one("resize", size=(3, 5), mode="nearest", coords="half_pixel", rounding="round_prefer_ceil"),
    *(one(f"reduce_{k}", axes=(2, 3), keepdims=keep) for k in ("mean", "sum", "max", "min") for keep in (True, False)),
    Graph(
        (IN("x", "input", shape=SEQ), IN("t", "transpose", "x", perm=(0, 2, 1)), IN("y", "matmul", "x", "t")), ("y",)
    ),
    Graph((IN("x", "input", shape=SEQ), IN("y", "einsum", "x", "x", equation="bij,bkj->bik")), ("y",)),
    Graph((IN("x", "input", shape=SEQ), IN("a", "abs", "x"), IN("y", "pow", "a", "x")), ("y",)),
    *(recurrent(cell, outputs=outputs, **attrs) for cell, outputs, attrs in RECURRENT),
    one("fake_quantize", scale=0.05, low=-120, high=135),
    one("standard", kind="Celu", settings='{"alpha": 0.7}', shape=X),
    one("standard", FLAT, kind="Trilu", shape=FLAT),
    *(
        Graph(
            (
                IN("x", "input", shape=X),
                IN("part", "slice", "x", axis=3, start=1, stop=3),
                IN("y", "standard", "x", "part", kind="GridSample", shape=(4, 4, 6), opset=20, settings=settings),
            ),
            ("y",),
        )
        for settings in ('{"mode": "linear"}', '{"mode": "nearest", "padding_mode": "border"}')
    ),
    one("standard", inputs=2, kind="Less", dtype="bool", shape=X),
]
CASES += [
    Graph(
        (
            IN("x", "input", shape=(4, 6, 8)),
            IN("k", "constant", shape=(6, 2, 3, 3), trained=True),
            IN("w", "tanh", "k"),
            IN("y", "dynamic_conv", "x", "w", kernel=(3, 3), stride=2, padding=1, bias=bias),
        ),
        ("y",),
    )
    for bias in (False, True)
]
VALUES = [{"fill": 0.25, "shape": (1, 6)}, {"fill": 2.0, "shape": ()}, {"trained": True, "shape": (5, 1)}]
VALUES += [{"shape": (5, 6)}, {"shape": (1,)}, {"shape": (1,), "trained": True}, {"shape": (), "trained": True}]
CASES += [
    Graph(
        (
            IN("x", "input", shape=(4, 6, 8)),
            IN("o", "conv", "x", out=parts * 18, kernel=(3, 3), stride=2, padding=1, bias=False),
            *((IN("m", "conv", "x", out=parts * 9, kernel=(3, 3), stride=2, padding=1),) if masked else ()),
            IN(
                "y",
                "deform_conv",
                *("x", "o", "m")[: 2 + masked],
                out=6,
                kernel=(3, 3),
                stride=2,
                padding=1,
                groups=2,
                offset_groups=parts,
                bias=masked,
            ),
        ),
        ("y",),
    )
    for parts, masked in ((1, False), (2, True))
]
CASES += [
    Graph((IN("x", "input", shape=SEQ), IN("k", "constant", **v), IN("y", "add", "x", "k")), ("y",)) for v in VALUES
]
CASES += [
    Graph((IN("k", "constant", **v), IN("x", "input", shape=SEQ), IN("y", "mul", "k", "x")), ("y", "x"))
    for v in VALUES[:1]
]


def weighted(graph: Graph, seed: int = 0) -> Graph:
    rng = np.random.default_rng(seed)
    arrays = {k: rng.standard_normal(s).astype(np.float32) for k, s in graph.param_shapes.items()}
    arrays |= {k: np.abs(v) + 0.5 for k, v in arrays.items() if k.endswith("running_var")}
    return graph.with_weights(arrays)


def picture(graph: Graph, n: int = 2, seed: int = 1) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, *graph.inputs[0].attrs["shape"])).astype(np.float32)
    domain = {"log": 0.1, "sqrt": 0.1, "reciprocal": 0.5, "div": 0.5}
    low = next((v for op, v in domain.items() if any(node.op == op for node in graph.nodes)), None)
    return x if low is None else np.abs(x) + np.float32(low)


def about(op: str) -> list[Graph]:
    """The networks whose last node is this operator, or else some that have one in them."""
    return [g for g in CASES if g.nodes[-1].op == op] or [g for g in CASES if any(n.op == op for n in g.nodes)][:9]
