"""Random ONNX networks over the operators that dojang reads, each held against ONNX Runtime.

`network(seed)` draws a model of 3 to 12 nodes: every attribute of every operator is drawn, padding per side included.
`disagreement(model)` says how dojang's reading differs, `shrunk(model)` finds the shortest part that still does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from dojang.base.errors import DojangError
from dojang.engine.compiled import compile
from dojang.engine.reference.operators import run_reference
from dojang.formats import onnx as onnx_format

Shape = tuple[int, ...]
BATCH = 2
OPSET = 20
MOST = 20_000
"""Elements of one sample of a value, so that a network stays quick."""


@dataclass
class Draw:
    """One network while it is drawn: values with their shapes (batch first), nodes, initialisers."""

    rng: random.Random
    values: list[tuple[str, Shape]] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def value(self, fits: Callable[[Shape], bool]) -> tuple[str, Shape] | None:
        """A value to go on from, the newest most often."""
        found = [v for v in self.values if fits(v[1])]
        return None if not found else found[-1] if self.rng.random() < 0.7 else self.rng.choice(found)

    def array(self, array: np.ndarray) -> str:
        """An initialiser."""
        name = f"w{len(self.arrays)}"
        self.arrays[name] = array
        return name

    def normal(self, *shape: int, scale: float = 1.0) -> str:
        """An initialiser of float32 normal numbers."""
        numbers = np.random.default_rng(self.rng.getrandbits(32)).normal(size=shape) * scale
        return self.array(numbers.astype(np.float32))

    def ints(self, *numbers: int) -> str:
        """An initialiser of int64."""
        return self.array(np.array(numbers, np.int64))

    def maybe(self, chance: float = 0.5) -> bool:
        """A coin."""
        return self.rng.random() < chance


Made = tuple[str, list[str], dict[str, Any], str] | None
"""Operator, inputs, attributes, and the name of the value that shapes follow from; None where nothing fits."""


def _rank(low: int, high: int = 5) -> Callable[[Shape], bool]:
    return lambda shape: low <= len(shape) <= high


def _window(d: Draw, size: Sequence[int], kernel: Sequence[int], dilated: bool, strided: bool = True) -> dict[str, Any]:
    """Strides, dilations and padding (per side, or by rule) of a window."""
    attrs: dict[str, Any] = {}
    if strided and d.maybe():
        attrs["strides"] = [d.rng.randint(1, 3) for _ in size]
    if dilated and d.maybe(0.3):
        attrs["dilations"] = [d.rng.randint(1, 2) for _ in size]
    if d.maybe(0.15):
        attrs["auto_pad"] = d.rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])
        if attrs["auto_pad"] != "VALID":
            attrs.pop("dilations", None)
            # Of kernels shorter than their stride the standard's formula gives negative padding, which ONNX Runtime
            # 1.32 takes for convolutions (not always alike) and refuses for pools.
            strides = attrs.get("strides", [1] * len(size))
            attrs["strides"] = [min(s, k) for s, k in zip(strides, kernel, strict=True)]
    elif d.maybe(0.7):
        attrs["pads"] = [d.rng.randint(0, k - 1) for k in (*kernel, *kernel)]
    return attrs


def conv(d: Draw) -> Made:
    found = d.value(_rank(3))
    if found is None:
        return None
    x, shape = found
    channels, size = shape[1], shape[2:]
    groups = d.rng.choice([g for g in (1, 1, 2, 3, channels) if channels % g == 0])
    out = groups * d.rng.randint(1, 4)
    kernel = [d.rng.randint(1, 4) for _ in size]
    inputs = [x, d.normal(out, channels // groups, *kernel, scale=(channels // groups * prod(kernel)) ** -0.5)]
    inputs += [d.normal(out)] if d.maybe() else []
    return "Conv", inputs, {"group": groups, **_window(d, size, kernel, True)}, x


def conv_transpose(d: Draw) -> Made:
    found = d.value(lambda s: 3 <= len(s) <= 5 and prod(s[1:]) < 2000)
    if found is None:
        return None
    x, shape = found
    channels, size = shape[1], shape[2:]
    groups = d.rng.choice([g for g in (1, 1, 2, channels) if channels % g == 0])
    each = d.rng.randint(1, 3)
    kernel = [d.rng.randint(1, 4) for _ in size]
    inputs = [x, d.normal(channels, each, *kernel, scale=channels**-0.5)]
    inputs += [d.normal(each * groups)] if d.maybe() else []
    attrs = {"group": groups, **_window(d, size, kernel, True)}
    attrs.pop("auto_pad", None)
    strides = attrs.get("strides", [1] * len(size))
    if d.maybe(0.3):
        attrs["output_padding"] = [d.rng.randint(0, s - 1) for s in strides]
    return "ConvTranspose", inputs, attrs, x


def pool(d: Draw) -> Made:
    found = d.value(_rank(3))
    if found is None:
        return None
    x, shape = found
    kind = d.rng.choice(["MaxPool", "AveragePool"])
    kernel = [d.rng.randint(1, 4) for _ in shape[2:]]
    attrs = {"kernel_shape": kernel, **_window(d, shape[2:], kernel, kind == "MaxPool")}
    if d.maybe(0.4) and "auto_pad" not in attrs:
        attrs["ceil_mode"] = 1
    if kind == "AveragePool" and d.maybe():
        attrs["count_include_pad"] = 1
    return kind, [x], attrs, x


def whole_pool(d: Draw) -> Made:
    found = d.value(_rank(3))
    return found and (d.rng.choice(["GlobalAveragePool", "GlobalMaxPool"]), [found[0]], {}, found[0])


def norm(d: Draw) -> Made:
    found = d.value(_rank(3))
    if found is None:
        return None
    x, shape = found
    channels = shape[1]
    kind = d.rng.choice(["BatchNormalization", "InstanceNormalization", "LayerNormalization", "LRN"])
    if kind == "LRN":
        size = d.rng.choice([1, 3, 5])
        return kind, [x], {"size": size, "alpha": d.rng.uniform(1e-4, 1), "beta": 0.75, "bias": d.rng.uniform(1, 2)}, x
    eps = d.rng.choice([1e-5, 1e-3, 0.1])
    if kind == "LayerNormalization":
        axis = d.rng.randint(1, len(shape) - 1)
        last = shape[axis:]
        inputs = [x, d.normal(*last)] + ([d.normal(*last)] if d.maybe() else [])
        return kind, inputs, {"axis": axis if d.maybe() else axis - len(shape), "epsilon": eps}, x
    inputs = [x, d.normal(channels), d.normal(channels)]
    if kind == "BatchNormalization":
        variance = np.random.default_rng(d.rng.getrandbits(32)).uniform(0.5, 2, channels).astype(np.float32)
        inputs += [d.normal(channels), d.array(variance)]
    return kind, inputs, {"epsilon": eps}, x


SMOOTH: dict[str, Callable[[random.Random], dict[str, Any]]] = {
    **{k: lambda r: {} for k in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Abs", "Neg", "Erf", "Sin", "Cos",
                                 "HardSwish", "Mish", "Identity")},
    "LeakyRelu": lambda r: {"alpha": r.uniform(-0.5, 0.9)},
    "Elu": lambda r: {"alpha": r.uniform(0.1, 2)},
    "Selu": lambda r: {"alpha": r.uniform(0.5, 2), "gamma": r.uniform(0.5, 2)} if r.random() < 0.5 else {},
    "HardSigmoid": lambda r: {"alpha": r.uniform(0.1, 0.4), "beta": r.uniform(0.1, 0.9)},
    "Gelu": lambda r: {"approximate": r.choice(["none", "tanh"])},
}  # fmt: skip


def unary(d: Draw) -> Made:
    found = d.value(_rank(1))
    kind = d.rng.choice(list(SMOOTH))
    return found and (kind, [found[0]], SMOOTH[kind](d.rng), found[0])


def stepwise(d: Draw) -> Made:
    """Functions with jumps, on the input itself: elsewhere a last bit decides."""
    kind = d.rng.choice(["Ceil", "Floor", "Round", "Sign"])
    return kind, ["x"], {}, "x"


def clip(d: Draw) -> Made:
    found = d.value(_rank(1))
    if found is None:
        return None
    low = d.array(np.float32(d.rng.uniform(-2, 0))) if d.maybe(0.7) else ""
    high = d.array(np.float32(d.rng.uniform(0.1, 2))) if d.maybe(0.7) else ""
    return "Clip", [found[0], low, high], {}, found[0]


def prelu(d: Draw) -> Made:
    found = d.value(_rank(3))
    if found is None:
        return None
    shape = (found[1][1], *(1,) * (len(found[1]) - 2)) if d.maybe(0.7) else (1,) * (len(found[1]) - 1)
    return "PRelu", [found[0], d.normal(*shape)], {}, found[0]


def soft(d: Draw) -> Made:
    found = d.value(_rank(2))
    if found is None:
        return None
    axis = d.rng.randint(1, len(found[1]) - 1)
    axis = axis if d.maybe() else axis - len(found[1])
    return d.rng.choice(["Softmax", "LogSoftmax"]), [found[0]], {"axis": axis}, found[0]


def positive(d: Draw) -> Made:
    """Functions of positive numbers, behind a value made positive; exponentials behind one made small."""
    found = d.value(_rank(1))
    if found is None:
        return None
    n = len(d.values)
    if d.maybe(0.3):
        d.nodes.append(helper.make_node("Tanh", [found[0]], [f"v{n}p"]))
        return "Exp", [f"v{n}p"], {}, found[0]
    d.nodes.append(helper.make_node("Abs", [found[0]], [f"v{n}a"]))
    d.nodes.append(helper.make_node("Add", [f"v{n}a", d.array(np.float32(0.5))], [f"v{n}p"]))
    kind = d.rng.choice(["Log", "Sqrt", "Reciprocal", "Pow"])
    inputs = [f"v{n}p"]
    if kind == "Pow":
        inputs.append(d.array(np.float32(d.rng.choice([2.0, 3.0, 0.5, -1.0, 1.5]))))
    return kind, inputs, {}, found[0]


def _other(d: Draw, shape: Shape) -> str:
    """Something that broadcasts with a shape: a value like it, or a constant with some axes of size 1 or left out."""
    same = [v for v, s in d.values if s == shape]
    if same and d.maybe():
        return d.rng.choice(same)
    sizes = [1, *(s if d.maybe(0.6) else 1 for s in shape[1:])]
    while len(sizes) > 0 and sizes[0] == 1 and d.maybe(0.6):
        sizes = sizes[1:]
    return d.normal(*sizes)


def binary(d: Draw) -> Made:
    found = d.value(_rank(2))
    if found is None:
        return None
    kind = d.rng.choice(["Add", "Sub", "Mul", "Max", "Min", "Div", "Sum", "Mean"])
    if kind == "Div":
        return kind, [found[0], d.array(np.float32(d.rng.choice([2.0, -0.7, 3.0])))], {}, found[0]
    inputs = [found[0], _other(d, found[1])]
    if kind in ("Sub", "Add", "Mul") and d.maybe(0.3):
        inputs.reverse()
    if kind in ("Max", "Min", "Sum", "Mean") and d.maybe(0.3):
        inputs.append(_other(d, found[1]))
    return kind, inputs, {}, found[0]


def concat(d: Draw) -> Made:
    found = d.value(_rank(2))
    if found is None:
        return None
    x, shape = found
    axis = d.rng.randint(1, len(shape) - 1)
    rest = shape[:axis] + shape[axis + 1 :]
    fits = [v for v, s in d.values if len(s) == len(shape) and s[:axis] + s[axis + 1 :] == rest]
    inputs = [d.rng.choice(fits) for _ in range(d.rng.randint(1, 2))] + [x]
    return "Concat", inputs, {"axis": axis if d.maybe() else axis - len(shape)}, x


def slice_(d: Draw) -> Made:
    found = d.value(_rank(2))
    if found is None:
        return None
    x, shape = found
    axes = d.rng.sample(range(1, len(shape)), d.rng.randint(1, len(shape) - 1))
    starts, ends, steps = [], [], []
    for axis in axes:
        n, step = shape[axis], d.rng.choice([1, 1, 2, 3, -1, -2])
        a, b = sorted((d.rng.randint(0, n - 1), d.rng.randint(1, n)))
        b = max(b, a + 1)
        start, end = (a, b) if step > 0 else (b - 1, a - 1)
        if d.maybe(0.3) and step > 0:
            start -= n
        starts.append(start)
        ends.append(end if step > 0 or end >= 0 else -n - 1)
        steps.append(step)
    return "Slice", [x, d.ints(*starts), d.ints(*ends), d.ints(*axes), d.ints(*steps)], {}, x


def gather(d: Draw) -> Made:
    found = d.value(_rank(2, 4))
    if found is None:
        return None
    axis = d.rng.randint(1, len(found[1]) - 1)
    n = found[1][axis]
    index = [d.rng.randint(-n, n - 1) for _ in range(d.rng.randint(1, 4))]
    return "Gather", [found[0], d.ints(*index)], {"axis": axis}, found[0]


def pad(d: Draw) -> Made:
    found = d.value(_rank(2))
    if found is None:
        return None
    x, shape = found
    mode = d.rng.choice(["constant", "reflect", "edge", "wrap"])
    low = -1 if mode == "constant" else 0
    sides = [0, *(d.rng.randint(low if n > 2 else 0, min(3, n - 1)) for n in shape[1:])]
    ends = [0, *(d.rng.randint(low if n > 2 else 0, min(3, n - 1)) for n in shape[1:])]
    inputs = [x, d.ints(*sides, *ends)]
    if mode == "constant" and d.maybe():
        inputs.append(d.array(np.float32(d.rng.uniform(-1, 1))))
    return "Pad", inputs, {"mode": mode}, x


def transpose(d: Draw) -> Made:
    found = d.value(_rank(3))
    if found is None:
        return None
    order = list(range(1, len(found[1])))
    d.rng.shuffle(order)
    return "Transpose", [found[0]], {"perm": [0, *order]}, found[0]


def reshape(d: Draw) -> Made:
    found = d.value(_rank(2))
    if found is None:
        return None
    x, shape = found
    count = prod(shape[1:])
    kind = d.rng.random()
    if kind < 0.3:
        return "Flatten", [x], {"axis": 1}, x
    first = d.rng.choice([n for n in range(1, count + 1) if count % n == 0][:8])
    second = d.rng.choice([n for n in range(1, count // first + 1) if count // first % n == 0][:8])
    target = [first, second, count // first // second]
    if d.maybe():
        target[d.rng.randrange(3)] = -1
        return "Reshape", [x, d.ints(0, *target)], {}, x
    return "Reshape", [x, d.ints(-1, *target)], {}, x


def squeeze(d: Draw) -> Made:
    found = d.value(_rank(2, 4))
    if found is None:
        return None
    ones = [i for i, n in enumerate(found[1]) if i and n == 1]
    if ones and d.maybe():
        return "Squeeze", [found[0], d.ints(d.rng.choice(ones))], {}, found[0]
    return "Unsqueeze", [found[0], d.ints(d.rng.randint(1, len(found[1])))], {}, found[0]


def spread(d: Draw) -> Made:
    found = d.value(_rank(2, 4))
    if found is None:
        return None
    if d.maybe():
        return "Tile", [found[0], d.ints(1, *(d.rng.randint(1, 2) for _ in found[1][1:]))], {}, found[0]
    wide = [1, *(n if n > 1 else d.rng.randint(1, 3) for n in found[1][1:])]
    return "Expand", [found[0], d.ints(*wide)], {}, found[0]


def blocks(d: Draw) -> Made:
    found = d.value(lambda s: len(s) == 4 and s[1] % 4 == 0)
    if found is not None and d.maybe(0.6):
        return "DepthToSpace", [found[0]], {"blocksize": 2, "mode": d.rng.choice(["DCR", "CRD"])}, found[0]
    found = d.value(lambda s: len(s) == 4 and s[2] % 2 == 0 and s[3] % 2 == 0)
    return found and ("SpaceToDepth", [found[0]], {"blocksize": 2}, found[0])


def resize(d: Draw) -> Made:
    found = d.value(lambda s: 3 <= len(s) <= 5 and prod(s[1:]) < 3000)
    if found is None:
        return None
    x, shape = found
    mode = d.rng.choice(["nearest", "linear", "cubic"] if len(shape) == 4 else ["nearest", "linear"])
    coordinates = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
    attrs = {"mode": mode, "coordinate_transformation_mode": d.rng.choice(coordinates)}
    if mode == "nearest":
        attrs["nearest_mode"] = d.rng.choice(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
    if mode == "cubic":
        attrs["cubic_coeff_a"] = d.rng.choice([-0.75, -0.5])
        if d.maybe(0.3):
            attrs["exclude_outside"] = 1
    if d.maybe():
        scales = [1.0, 1.0, *(d.rng.choice([0.3, 0.5, 0.7, 1.0, 1.3, 1.5, 2.0, 2.6]) for _ in shape[2:])]
        return "Resize", [x, "", d.array(np.array(scales, np.float32))], attrs, x
    attrs["axes"] = list(range(2, len(shape)))
    return "Resize", [x, "", "", d.ints(*(d.rng.randint(1, 2 * n) for n in shape[2:]))], attrs, x


def reduce(d: Draw) -> Made:
    found = d.value(_rank(2))
    if found is None:
        return None
    x, shape = found
    kind = d.rng.choice(["Mean", "Sum", "Max", "Min", "L1", "L2", "SumSquare", "LogSumExp"])
    axes = d.rng.sample(range(1, len(shape)), d.rng.randint(1, len(shape) - 1))
    attrs = {"keepdims": int(d.maybe())}
    if kind in ("Sum",):  # axes are an input since opset 13, those of the others since 18
        return "ReduceSum", [x, d.ints(*axes)], attrs, x
    return f"Reduce{kind}", [x, d.ints(*axes)], attrs, x


def product(d: Draw) -> Made:
    found = d.value(_rank(2, 4))
    if found is None:
        return None
    x, shape = found
    n, out = shape[-1], d.rng.randint(1, 6)
    if len(shape) == 2 and d.maybe():
        turned = d.maybe()
        attrs = {"transB": int(turned), "alpha": d.rng.choice([1.0, 0.5]), "beta": d.rng.choice([1.0, 2.0])}
        weight = d.normal(out, n, scale=n**-0.5) if turned else d.normal(n, out, scale=n**-0.5)
        return "Gemm", [x, weight, *([d.normal(out)] if d.maybe() else [])], attrs, x
    if len(shape) > 2 and d.maybe(0.4):
        turned = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
        d.nodes.append(helper.make_node("Transpose", [x], [f"v{len(d.values)}t"], perm=turned))
        return "MatMul", [x, f"v{len(d.values)}t"], {}, x
    return "MatMul", [x, d.normal(n, out, scale=n**-0.5)], {}, x


def split(d: Draw) -> Made:
    found = d.value(lambda s: len(s) >= 2 and max(s[1:]) > 1)
    if found is None:
        return None
    axis = d.rng.choice([i for i, n in enumerate(found[1]) if i and n > 1])
    first = d.rng.randint(1, found[1][axis] - 1)
    return "Split", [found[0], d.ints(first, found[1][axis] - first)], {"axis": axis}, found[0]


def dropout(d: Draw) -> Made:
    found = d.value(_rank(1))
    return found and ("Dropout", [found[0], d.array(np.float32(0.3))], {}, found[0])


MAKERS = (
    conv, conv, conv, conv_transpose, pool, pool, whole_pool, norm, norm, unary, unary, stepwise, clip, prelu, soft,
    positive, binary, binary, concat, concat, slice_, gather, pad, transpose, reshape, squeeze, spread, blocks, resize,
    resize, reduce, product, split, dropout,
)  # fmt: skip


def model_of(d: Draw, output: str) -> onnx.ModelProto:
    """The nodes and initialisers that an output needs, with a free batch."""
    needed, nodes = {output}, []
    for node in reversed(d.nodes):
        if needed & set(node.output):
            needed |= set(node.input)
            nodes.insert(0, node)
    arrays = [numpy_helper.from_array(a, name) for name, a in d.arrays.items() if name in needed]
    shape = d.values[0][1]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape[1:]])
    y = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "random", [x], [y], arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


def network(seed: int) -> onnx.ModelProto:
    """The network of a seed."""
    rng = random.Random(seed)
    d = Draw(rng)
    rank = rng.choice([3, 4, 4, 4, 4, 5])
    size = [rng.randint(1, {3: 40, 4: 14, 5: 6}[rank]) for _ in range(rank - 2)]
    d.values.append(("x", (BATCH, rng.randint(1, 9), *size)))
    wanted = rng.randint(3, 12)
    for _ in range(20 * wanted):
        if len(d.values) > wanted:
            break
        before = len(d.nodes), dict(d.arrays)
        made = rng.choice(MAKERS)(d)
        shape = _added(d, made) if made else None
        if shape is None or 0 in shape or prod(shape[1:]) > MOST:
            del d.nodes[before[0] :]
            d.arrays = before[1]
            continue
        d.values.append((f"v{len(d.values)}", shape))
    return model_of(d, d.values[-1][0])


def _added(d: Draw, made: tuple[str, list[str], dict[str, Any], str]) -> Shape | None:
    """Adds a node; the shape of its value by ONNX Runtime, None where ONNX Runtime refuses the node."""
    kind, inputs, attrs, _ = made
    name = f"v{len(d.values)}"
    outputs = [name] if kind != "Split" else d.rng.sample([name, f"{name}rest"], 2)
    d.nodes.append(helper.make_node(kind, inputs, outputs, **attrs))
    model = model_of(d, name)
    try:
        out = session(model).run([name], {"x": sample(model)})[0]
    except Exception:  # ONNX Runtime has no class of its own for models that it refuses
        return None
    return tuple(out.shape) if np.isfinite(out).all() and out.ndim and out.shape[0] == BATCH else None


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """ONNX Runtime without rewriting, which computes node by node as the file says."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def sample(model: onnx.ModelProto, batch: int = BATCH) -> np.ndarray:
    """Numbers with few digits, so that functions with jumps have no close calls."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    shape = (batch, *(d.dim_value for d in dims[1:]))
    return (np.random.default_rng(5).integers(-24, 25, shape) / 8 + 0.03125).astype(np.float32)


def disagreement(model: onnx.ModelProto, native: bool = True) -> str:
    """What dojang answers otherwise than ONNX Runtime, "" for nothing. Raises `DojangError` where it refuses.

    The tolerance is that of float32 sums plus ten times what a change of the input in its last digit does: networks
    with a layer norm over equal numbers are as sensitive as that.
    """
    theirs = session(model)
    x = sample(model)
    name = model.graph.output[0].name
    right = theirs.run([name], {"x": x})[0].astype(np.float64)
    moved = theirs.run([name], {"x": x * np.float32(1 + 3e-7)})[0]
    tolerance = 1e-4 * max(0.1, float(np.abs(right).max())) + 10 * float(np.abs(moved - right).max())
    graph = onnx_format.from_bytes(model.SerializeToString())
    answers = {"the reference in float64": run_reference(graph, x, np.float64).outputs[0]}
    if native:
        for precision in ("fast", "strict"):
            answers[f"compiled ({precision})"] = compile(graph, threads=1, precision=precision)(x)
    for oracle in ("ONNX Runtime", "ONNX's own evaluator in float64"):
        said = _differing(answers, right, tolerance, oracle)
        if not said or (other := by_the_standard(model, x)) is None:
            return said
        right = other
    return said


def _differing(answers: dict[str, np.ndarray], right: np.ndarray, tolerance: float, oracle: str) -> str:
    """The first answer that is not right, "" for none."""
    for who, mine in answers.items():
        if mine.shape != right.shape:
            return f"{who} gives {mine.shape}, {oracle} {right.shape}"
        off = float(np.abs(mine - right).max())
        if not off <= tolerance:
            return f"{who} differs from {oracle} by {off:.3g} where {tolerance:.3g} is allowed"
    return ""


def by_the_standard(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray | None:
    """What the evaluator of the onnx package computes in float64; None where it cannot.

    It settles what ONNX Runtime's own float32 rounding leaves open: an instance norm over equal numbers has variance 0,
    and so multiplies the rounding of their mean by one over the root of epsilon, some 300.
    """
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for array in wide.graph.initializer:
        if array.data_type == TensorProto.FLOAT:
            array.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(array).astype(np.float64), array.name))
    for value in (*wide.graph.input, *wide.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    try:
        return np.asarray(ReferenceEvaluator(wide).run(None, {"x": x.astype(np.float64)})[0])
    except Exception:  # the evaluator raises whatever NumPy does where an operator does not take float64
        return None


def shrunk(model: onnx.ModelProto) -> onnx.ModelProto:
    """The part of a failing network that ends at the first value that differs."""
    d = Draw(random.Random(0), nodes=list(model.graph.node))
    d.arrays = {a.name: numpy_helper.to_array(a) for a in model.graph.initializer}
    dims = model.graph.input[0].type.tensor_type.shape.dim
    d.values = [("x", (BATCH, *(dim.dim_value for dim in dims[1:])))]
    for node in d.nodes:
        part = model_of(d, node.output[0])
        try:
            if disagreement(part):
                return part
        except DojangError:
            continue
    return model
