"""From a `Graph` to an ONNX model: one rule per operator, weights as initialisers, the batch left open.

Values are named as the nodes that make them, arrays as in the Graph; inner nodes get the node's name and a suffix.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from dojang.arith import shapes as shape_rules
from dojang.arith.conv import by, resolve_padding
from dojang.arith.graph import Graph, Node, with_batch
from dojang.arith.open_sizes import at_size, has_symbol, is_open, reference_values
from dojang.arith.ops import STANDARD, UNKNOWN
from dojang.arith.outputs import output_keys
from dojang.arith.preparation import preparations
from dojang.arith.resizing import factors, mixes, same_pixels
from dojang.arith.shapes import Shape, axis_of
from dojang.arith.standard import CONTROL
from dojang.arith.table import Table
from dojang.base.errors import UnsupportedError
from dojang.base.showing import encodable
from dojang.formats.onnx import notes as onnx_notes
from dojang.formats.onnx import recurrent as onnx_recurrent
from dojang.formats.onnx import spelled
from dojang.formats.onnx.batch import BATCH, any_depends, depends
from dojang.formats.onnx.constants import TYPES
from dojang.formats.onnx.draft import single
from dojang.formats.onnx.names import holdable
from dojang.formats.onnx.protobuf import Buffer, Message, pieces
from dojang.formats.onnx.read import read_model
from dojang.formats.onnx.schema import ATTRIBUTE_TYPES, MODEL
from dojang.formats.whole import whole_of

OPSET = 18
"""The operator set of written files, unless an operator needs a later one; onnxruntime reads it since 1.14."""

NEWER = {"deform_conv": 19, "gelu": 20, "groupnorm": 21}
IR_VERSIONS = {18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12, 25: 13, 26: 13, 27: 13, 28: 13}
MOST_BYTES = (1 << 31) - 1
"""A Protocol Buffers message cannot be larger."""

FLOAT, INT64, BOOL, BFLOAT16 = 1, 7, 9, 16
CODES = {kind.name: code for code, kind in TYPES.items()}
NO_BYTES = frozenset(code for code, kind in TYPES.items() if not kind.letter)
"""Types whose arrays are not written."""

CHANGED: Mapping[str, int] = {
    "Squeeze": 13, "Unsqueeze": 13, "ReduceSum": 13, "Split": 18, "Softmax": 13, "LogSoftmax": 13, "Hardmax": 13,
    "Pad": 11, "Clip": 11, "TopK": 11, "Slice": 10, "Dropout": 12, "Resize": 11, "Upsample": 99, "Scatter": 99,
    "GroupNormalization": 21, "BatchNormalization": 15, "DFT": 20, "RoiAlign": 16, "Tile": 6, "Cast": 6, "Reshape": 5,
    "GridSample": 20,
    **dict.fromkeys("Add Sub Mul Div Pow Equal Less Greater And Or Xor PRelu".split(), 7),
    **dict.fromkeys("ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare".split(), 18),
    **dict.fromkeys(("ReduceLogSum", "ReduceLogSumExp"), 18),
}  # fmt: skip
"""Operators whose form changed, and the first operator set with the form that is written."""
NEEDED = {"TopK": 2, "DynamicQuantizeLinear": 3}
"""How many outputs of an operator must have a name, whether they are read or not, where it is not one."""
FAR = (1 << 63) - 1
""""To the end" in Slice."""


class Writer:
    """Collects the nodes and initialisers of one graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.shapes: Mapping[str, Shape | None] = graph.shapes(BATCH)
        self.nodes: list[Message] = []
        self.tensors: dict[str, Message] = {}
        self.real: dict[str, str] = {}  # arrays kept as whole numbers: the value that is real again
        self.names = {node.name for node in graph.nodes}
        self.readers = Counter(node.array(role) for node in graph.nodes for role in graph.node_params(node))
        self.several: dict[Any, Message] = {}  # operators with several outputs, by what they compute

    def name(self, stem: str) -> str:
        """A value name that is not used yet."""
        name, count = stem, 2
        while name in self.names:
            name, count = f"{stem}_{count}", count + 1
        self.names.add(name)
        return name

    def op(self, kind: str, inputs: Sequence[str], output: str, **attrs: Any) -> str:
        """Adds an ONNX node and returns its output."""
        listed = [_attribute(key, value) for key, value in attrs.items() if value is not None]
        message = {"input": list(inputs), "output": [output], "name": output, "op_type": kind}
        self.nodes.append(message | ({"attribute": listed} if listed else {}))
        return output

    def constant(self, node: Node, what: str, tensor: Message) -> str:
        """A Constant node that belongs to `node`."""
        return self.op("Constant", (), self.name(f"{node.name}.{what}"), value=tensor)

    def ints(self, node: Node, what: str, values: Sequence[int]) -> str:
        """A list of whole numbers as an input."""
        raw = struct.pack(f"<{len(values)}q", *values)
        return self.constant(node, what, {"dims": [len(values)], "data_type": INT64, "raw_data": raw})

    def floats(self, node: Node, what: str, values: Sequence[float]) -> str:
        """A list of numbers as an input."""
        return self.constant(node, what, float_tensor(values, (len(values),)))

    def number(self, node: Node, what: str, value: float) -> str:
        """One number as an input."""
        return self.constant(node, what, float_tensor([value], ()))

    def full(self, node: Node, what: str, value: float, shape: Sequence[int]) -> str:
        """A constant of one value, made when the model is loaded."""
        sizes = self.ints(node, f"{what}.shape", shape)
        tensor = float_tensor([value], (1,))
        return self.op("ConstantOfShape", (sizes,), self.name(f"{node.name}.{what}"), value=tensor)

    def array(self, node: Node, role: str) -> str:
        """The initialiser of an array."""
        import numpy as np

        name = node.array(role)
        if name in self.graph.precisions and node.op != "constant" and (real := self.whole_array(name)):
            return real
        if name not in self.tensors:
            code = CODES[self.graph.types[node.name]] if node.op == "constant" else FLOAT
            if code in NO_BYTES:
                raise UnsupportedError(f"{node.name}: constants of type {self.graph.types[node.name]} are not written")
            kind = np.dtype("float32" if code == BFLOAT16 else TYPES[code].name).newbyteorder("<")
            array = np.asarray(self.graph.weights[name], kind, order="C")  # keeps the shape ()
            if code == BFLOAT16:
                array = (array.view("<u4") >> 16).astype("<u2")
            there = encodable(name) or "array"
            value = there if there == name and name not in self.graph.by_name else self.name(f"{there}.array")
            raw = array.reshape(-1).data.cast("B") if array.size else b""
            self.tensors[name] = {"name": value, "dims": list(array.shape), "data_type": code, "raw_data": raw}
        return self.tensors[name]["name"]

    def whole_array(self, name: str) -> str:
        """The real numbers of an array that is kept as whole ones: an initialiser of these, and a DequantizeLinear; ""
        where its numbers are no longer those of its precision, or ONNX has no such type.
        """
        import numpy as np

        if name in self.real:
            return self.real[name]
        precision = self.graph.precisions[name]
        array = np.asarray(self.graph.weights[name], np.float32)
        whole = whole_of(array, precision)
        if whole is None or precision.kind not in ("int8", "uint8", "int32"):
            return ""
        there = encodable(name) or "array"
        count = (len(precision.scale),) if precision.axis is not None else ()
        parts = {
            "quantised": {"dims": list(whole.shape), "data_type": CODES[precision.kind], "raw_data": whole.tobytes()},
            "scale": float_tensor(precision.scale, count),
        }
        if any(precision.zero) or precision.kind != "int32":
            parts["zero"] = tensor_of(precision.zero, count, precision.kind)
        names = [self.name(f"{there}.{part}") for part in parts]
        for part, value, tensor in zip(parts, names, parts.values(), strict=True):
            self.tensors[f"{name} {part}"] = {"name": value, **tensor}
        value = there if there == name and name not in self.names else self.name(f"{there}.real")
        self.names.add(value)
        self.real[name] = self.op("DequantizeLinear", names, value, axis=precision.axis)
        return value

    def initialiser(self, key: str, name: str, array: Any) -> None:
        """Adds an initialiser of float32 numbers."""
        raw = array.reshape(-1).data.cast("B")
        self.tensors[key] = {"name": name, "dims": list(array.shape), "data_type": FLOAT, "raw_data": raw}

    def shape(self, name: str) -> Shape:
        """The output shape of a node, `BATCH` for the batch."""
        shape = self.shapes[name]
        if shape is None:
            raise UnsupportedError(f"{name}: its size is not known, because an operator before it is not")
        return shape


def tensor_of(values: Sequence[Any], shape: Sequence[int], kind: str) -> Message:
    """A TensorProto of one of the types that `struct` knows."""
    code = CODES[kind]
    own, letter = TYPES[code], TYPES[code].letter
    if not letter or code == BFLOAT16:
        raise UnsupportedError(f"constants of type {kind} are not written")
    numbers = [v if own.sort == "f" else bool(v) if own.sort == "b" else int(v) for v in values]
    return {"dims": list(shape), "data_type": code, "raw_data": struct.pack(f"<{len(values)}{letter}", *numbers)}


def float_tensor(values: Sequence[float], shape: Sequence[int]) -> Message:
    """A float32 TensorProto."""
    return {"dims": list(shape), "data_type": FLOAT, "raw_data": struct.pack(f"<{len(values)}f", *values)}


def _attribute(name: str, value: Any) -> Message:
    if isinstance(value, dict):
        key = "t"
    elif isinstance(value, str):
        key, value = "s", value.encode()
    elif isinstance(value, float):
        key, value = "f", single(value)
    elif isinstance(value, int):
        key, value = "i", int(value)
    elif value and isinstance(value[0], str):
        key, value = "strings", [v.encode() for v in value]
    elif value and isinstance(value[0], float):
        key, value = "floats", [single(v) for v in value]
    else:
        key, value = "ints", [int(v) for v in value]
    return {"name": name, key: value, "type": ATTRIBUTE_TYPES[key]}


Rule = Callable[[Writer, Node], Any]


def _window(node: Node) -> dict[str, Any]:
    attrs = node.attrs
    out: dict[str, Any] = {"kernel_shape": attrs["kernel"], "strides": attrs["stride"]}
    if "dilation" in attrs:
        out["dilations"] = attrs["dilation"]
    padding = attrs["padding"]
    if isinstance(padding, str):
        return out | {"auto_pad": {"same": "SAME_UPPER", "same-lower": "SAME_LOWER"}[padding]}
    return out | {"pads": [p for p, _ in padding] + [p for _, p in padding]}


def _conv(kind: str) -> Rule:
    def rule(w: Writer, node: Node) -> None:
        attrs = _window(node) | {"group": node.attrs["groups"]}
        if "output_padding" in node.attrs and any(node.attrs["output_padding"]):
            attrs["output_padding"] = node.attrs["output_padding"]
        roles = ("weight", "bias") if node.attrs["bias"] else ("weight",)
        w.op(kind, (node.inputs[0], *(w.array(node, r) for r in roles)), node.name, **attrs)

    return rule


def _deform_conv(w: Writer, node: Node) -> None:
    a = node.attrs
    batch, _, *sizes = w.shape(node.inputs[0])
    for name in node.inputs[1:]:
        if w.shape(name)[0] != batch:
            raise UnsupportedError(
                f"{node.name}: ONNX needs offsets per image, {name} has the same for all; repeat them along the batch"
            )
    pads = resolve_padding(a["padding"], tuple(sizes), a["kernel"], a["stride"], a["dilation"])
    attrs = _window(node.with_attrs(padding=pads)) | {"group": a["groups"], "offset_group": a["offset_groups"]}
    given = [node.inputs[0], w.array(node, "weight"), node.inputs[1]]
    given.append(w.array(node, "bias") if a["bias"] else "")
    given += node.inputs[2:]
    w.op("DeformConv", given if given[-1] else given[:-1], node.name, **attrs)


def _dynamic_conv(w: Writer, node: Node) -> None:
    source, weight = (w.shape(name) for name in node.inputs)
    if any_depends((source[1], *weight)):
        raise UnsupportedError(f"{node.name}: has a kernel per image; ONNX needs a fixed number of groups")
    groups = source[1] // weight[1]
    bias = (w.array(node, "bias"),) if node.attrs["bias"] else ()
    w.op("Conv", (*node.inputs, *bias), node.name, **_window(node), group=groups)


def _dense(w: Writer, node: Node) -> None:
    source, weight = node.inputs[0], w.array(node, "weight")
    if len(w.shape(source)) == 2:
        bias = (w.array(node, "bias"),) if node.attrs["bias"] else ()
        w.op("Gemm", (source, weight, *bias), node.name, transB=1)
        return
    turned = w.op("Transpose", (weight,), w.name(f"{node.name}.turned"), perm=(1, 0))
    if not node.attrs["bias"]:
        w.op("MatMul", (source, turned), node.name)
        return
    product = w.op("MatMul", (source, turned), w.name(f"{node.name}.product"))
    w.op("Add", (product, w.array(node, "bias")), node.name)


def _pool(kind: str) -> Rule:
    def rule(w: Writer, node: Node) -> None:
        attrs = _window(node) | {"ceil_mode": int(node.attrs["ceil"])}
        if "count_padding" in node.attrs:
            attrs["count_include_pad"] = int(node.attrs["count_padding"])
        w.op(kind, node.inputs, node.name, **attrs)

    return rule


def _adaptive(kind: str) -> Rule:
    def rule(w: Writer, node: Node) -> None:
        size, out = w.shape(node.inputs[0])[2:], node.attrs["out"]
        if all(o == 1 for o in out):
            w.op(f"Global{kind}", node.inputs, node.name)
            return
        if any(s % o for s, o in zip(size, out, strict=True)):
            spelled.adaptive_pool(w, node, {"AveragePool": "ReduceMean", "MaxPool": "ReduceMax"}[kind])
            return
        kernel = [s // o for s, o in zip(size, out, strict=True)]
        w.op(kind, node.inputs, node.name, kernel_shape=kernel, strides=kernel)

    return rule


def _affine(w: Writer, node: Node, channels: Sequence[int]) -> tuple[str, str]:
    if node.attrs["affine"]:
        return w.array(node, "weight"), w.array(node, "bias")
    return w.full(node, "ones", 1.0, channels), w.full(node, "zeros", 0.0, channels)


def _norm(kind: str, *more: str) -> Rule:
    def rule(w: Writer, node: Node) -> None:
        own = _affine(w, node, w.shape(node.inputs[0])[1:2])
        attrs = {"num_groups": node.attrs["groups"]} if "groups" in node.attrs else {}
        arrays = (w.array(node, role) for role in more)
        w.op(kind, (*node.inputs, *own, *arrays), node.name, epsilon=node.attrs["eps"], **attrs)

    return rule


def _layernorm(w: Writer, node: Node) -> None:
    own = _affine(w, node, node.attrs["shape"])
    axis = -len(node.attrs["shape"])
    w.op("LayerNormalization", (*node.inputs, *own), node.name, axis=axis, epsilon=node.attrs["eps"])


def _lrn(w: Writer, node: Node) -> None:
    if node.attrs["size"] % 2 == 0:
        spelled.lrn(w, node)  # of an even size ONNX means other channels, and ONNX Runtime refuses it
        return
    _plain("LRN", size="size", alpha="alpha", beta="beta", k="bias")(w, node)


def _plain(kind: str, **names: str) -> Rule:
    def rule(w: Writer, node: Node) -> None:
        w.op(kind, node.inputs, node.name, **{theirs: node.attrs[ours] for ours, theirs in names.items()})

    return rule


def _constant(w: Writer, node: Node) -> None:
    shape, fill = node.attrs["shape"], node.attrs["fill"]
    if fill is not None:
        if prod(shape) == 1:
            w.op("Constant", (), node.name, value=tensor_of([fill], shape, node.attrs["dtype"]))
        else:
            sizes = w.ints(node, "shape", shape)
            w.op("ConstantOfShape", (sizes,), node.name, value=tensor_of([fill], (1,), node.attrs["dtype"]))
        return
    w.array(node, "value")
    if not node.attrs["trained"] and prod(shape) > 1 and w.readers[node.array("value")] == 1:
        tensor = w.tensors.pop(node.array("value"))
        w.op("Constant", (), node.name, value={k: v for k, v in tensor.items() if k != "name"})
    # Otherwise the node is its initialiser, which its readers name (`message`).


def _fake_quantize(w: Writer, node: Node) -> None:
    """QuantizeLinear and DequantizeLinear, unsigned, whose zero point is that of the least number."""
    low, high, scale = node.attrs["low"], node.attrs["high"], node.attrs["scale"]
    kind = {255: "uint8", 65535: "uint16"}.get(high - low)
    if kind is None or not 0 <= -low <= high - low:
        raise UnsupportedError(f"{node.name}: ONNX has no type of the whole numbers {low} to {high}")
    by = (w.number(node, "scale", scale), w.constant(node, "zero", tensor_of([-low], (), kind)))
    whole = w.op("QuantizeLinear", (node.inputs[0], *by), w.name(f"{node.name}.quantised"))
    w.op("DequantizeLinear", (whole, *by), node.name)


def _standard(w: Writer, node: Node) -> None:
    """An operator as the file had it; of several outputs the first node that stands for one writes all."""
    a = node.attrs
    domain, _, op = a["kind"].rpartition(".")
    if op in CONTROL:
        raise UnsupportedError(f"{node.name}: {op} by values is not written; keep the file that it was read from")
    if domain == "dojang":
        raise UnsupportedError(f"{node.name}: numbers that depend on the size of the batch are not written")
    if a["opset"] < CHANGED.get(op, 0):
        raise UnsupportedError(
            f"{node.name}: {op} has the form of operator set {a['opset']}, which newer files do not have; convert the "
            "file with onnx.version_converter first"
        )
    if op == "CumProd":  # new in operator set 26
        axis = w.graph.by_name[node.inputs[1]]
        fill = axis.attrs["fill"] if axis.op == "constant" else None
        spelled.running_product(w, node, None if fill is None else int(fill))
        return
    key = (a["kind"], a["settings"], a["places"], node.inputs)
    known = w.several.get(key)
    if known is not None:
        outputs: list[str] = known["output"]
        outputs += [""] * (a["output"] + 1 - len(outputs))
        if not outputs[a["output"]]:
            outputs[a["output"]] = node.name
            return
    places = a["places"] or tuple(range(len(node.inputs)))
    inputs = [""] * (max(places, default=-1) + 1)
    for place, name in zip(places, node.inputs, strict=True):
        inputs[place] = name
    settings = json.loads(a["settings"])
    count = settings.pop("outputs", None)
    if op == "Split" and len(inputs) < 2 and count:
        settings["num_outputs"] = count
    attrs = {
        k: tensor_of(v["values"], v["shape"], v["dtype"]) if isinstance(v, dict) else v for k, v in settings.items()
    }
    w.op(op, inputs, node.name, **attrs)
    message = w.nodes[-1]
    message["output"] = [""] * a["output"] + [node.name]
    if domain:
        message["domain"] = domain
    w.several[key] = message


def _clip(w: Writer, node: Node) -> None:
    low, high = node.attrs["min"], node.attrs["max"]
    bounds = [w.number(node, "min", low) if low is not None else ""]
    if high is not None:
        bounds.append(w.number(node, "max", high))
    w.op("Clip", (*node.inputs, *bounds), node.name)


def _prelu(w: Writer, node: Node) -> None:
    slope, rank = w.array(node, "weight"), len(w.shape(node.inputs[0]))
    if node.attrs["num"] > 1 and rank > 2:
        axes = w.ints(node, "axes", range(1, rank - 1))
        slope = w.op("Unsqueeze", (slope, axes), w.name(f"{node.name}.slope"))
    w.op("PRelu", (*node.inputs, slope), node.name)


def _silu(w: Writer, node: Node) -> None:
    gate = w.op("Sigmoid", node.inputs, w.name(f"{node.name}.gate"))
    w.op("Mul", (node.inputs[0], gate), node.name)


def _not(w: Writer, node: Node) -> None:
    equal = w.op("Equal", (*node.inputs, w.number(node, "zero", 0.0)), w.name(f"{node.name}.equal"))
    w.op("Cast", (equal,), node.name, to=FLOAT)


def _dropout(w: Writer, node: Node) -> None:
    w.op("Dropout", (*node.inputs, w.number(node, "p", node.attrs["p"])), node.name)


def _chain(kind: str) -> Rule:
    """An operator that has only two inputs in ONNX."""

    def rule(w: Writer, node: Node) -> None:
        value = node.inputs[0]
        for place, other in enumerate(node.inputs[1:], 1):
            last = place == len(node.inputs) - 1
            value = w.op(kind, (value, other), node.name if last else w.name(f"{node.name}.{place}"))

    return rule


def _add(w: Writer, node: Node) -> None:
    w.op("Add" if len(node.inputs) == 2 else "Sum", node.inputs, node.name)


def _flatten(w: Writer, node: Node) -> None:
    axis = axis_of(node.attrs["axis"], len(w.shape(node.inputs[0])) + 1)
    if axis == 1:
        w.op("Flatten", node.inputs, node.name, axis=1)
    elif axis == len(w.shape(node.inputs[0])):
        w.op("Unsqueeze", (*node.inputs, w.ints(node, "axes", [axis])), node.name)
    else:
        w.op("Reshape", (*node.inputs, w.ints(node, "shape", [0] * axis + [-1])), node.name)


def _reshape(w: Writer, node: Node) -> None:
    w.op("Reshape", (*node.inputs, w.ints(node, "shape", node.attrs["shape"])), node.name)


def _with_axes(kind: str) -> Rule:
    def rule(w: Writer, node: Node) -> None:
        axes = w.ints(node, "axes", node.attrs["axes"])
        keep = {"keepdims": int(node.attrs["keepdims"])} if "keepdims" in node.attrs else {}
        w.op(kind, (*node.inputs, axes), node.name, **keep)

    return rule


def _pad(w: Writer, node: Node) -> None:
    rank, pads = len(w.shape(node.inputs[0])), node.attrs["pads"]
    full = [(0, 0)] * (rank - len(pads)) + list(pads)
    mode = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[node.attrs["mode"]]
    values = [p for p, _ in full] + [p for _, p in full]
    given = (w.number(node, "value", node.attrs["value"]),) if node.attrs["mode"] == "constant" else ()
    w.op("Pad", (*node.inputs, w.ints(node, "pads", values), *given), node.name, mode=mode)


def _slice(w: Writer, node: Node) -> None:
    step, start, stop = node.attrs["step"], node.attrs["start"], node.attrs["stop"]
    first = start if start is not None else (0 if step > 0 else FAR)
    last = stop if stop is not None else (FAR if step > 0 else -FAR)
    rows = (("starts", first), ("ends", last), ("axes", node.attrs["axis"]), ("steps", step))
    w.op("Slice", (*node.inputs, *(w.ints(node, what, [value]) for what, value in rows)), node.name)


def _gather(w: Writer, node: Node) -> None:
    w.op("Gather", (*node.inputs, w.ints(node, "indices", node.attrs["indices"])), node.name, axis=node.attrs["axis"])


def _resized_as(node: Node, shape: Shape, out: Shape) -> dict[str, Any] | None:
    """The attributes by which ONNX Runtime resizes to the same pixels: by factors or by sizes; None where neither does.

    Raises `UnsupportedError` where pixels have to be mixed that it mixes otherwise, and, of networks of any size, for
    all but whole factors, which all runtimes take alike.
    """
    attrs = node.attrs
    by_factor = {**attrs, "arithmetic": "onnx"}
    sizes = tuple(shape[2:])
    if has_symbol(sizes):
        steps = factors(by_factor, len(shape) - 2)
        if (
            attrs["size"] is None
            and attrs["coords"] != "align_corners"
            and all(float(f or 1).is_integer() for f in steps)
        ):
            return by_factor
        raise UnsupportedError(f"{node.name}: depends on the size of the input; give the size in numbers")
    for own in (by_factor, {**by_factor, "scale": None, "size": out[2:]}):
        if shape_rules.resize(own, [shape])[2:] == out[2:] and same_pixels(attrs, own, sizes, out[2:]):
            return own
    if attrs["mode"] != "nearest":
        raise UnsupportedError(
            f"{node.name}: ONNX Runtime resizes {by(sizes)} by {attrs['scale']} to another size than "
            f"{by(out[2:])}; give the size instead of the factor"
        )
    return None


def _resize(w: Writer, node: Node) -> None:
    shape, attrs = w.shape(node.inputs[0]), node.attrs
    rank, out = len(shape), tuple(w.shape(node.name))
    sizes = tuple(shape[2:])
    own = _resized_as(node, shape, out)
    if own is None:  # Nearest pixels or sizes of another runtime, which ONNX Runtime rounds otherwise: one by one.
        source = node.inputs[0]
        for axis, mixes_ in enumerate(mixes(attrs, sizes, out[2:]), start=2):
            name = node.name if axis == rank - 1 else f"{node.name}.{axis}"
            indices = w.ints(node, f"indices{axis}", [mix[0][0] for mix in mixes_])
            w.op("Gather", (source, indices), name, axis=axis)
            source = name
        return
    # Scales have a number for each axis: ONNX Runtime puts channels last around quantised layers, and then takes a
    # number of `axes` for each axis. Sizes cannot, as the batch is open.
    some: dict[str, Any] = {}
    if own["size"] is not None:
        given, some = ("", "", w.ints(node, "sizes", own["size"])), {"axes": list(range(2, rank))}
    else:
        given = ("", w.floats(node, "scales", [1.0, 1.0, *(f or 1.0 for f in factors(own, rank - 2))]))
    more: dict[str, Any] = {"nearest_mode": attrs["rounding"]} if attrs["mode"] == "nearest" else {}
    if attrs["mode"] == "cubic":
        more["cubic_coeff_a"] = attrs["cubic_a"]
    w.op(
        "Resize",
        (*node.inputs, *given),
        node.name,
        **some,
        mode=attrs["mode"],
        coordinate_transformation_mode=attrs["coords"],
        **more,
    )


UNARY = ["identity", "relu", "sigmoid", "tanh", "softplus", "softsign", "mish", "selu", "abs", "neg", "exp", "log"]
UNARY += ["sqrt", "erf", "reciprocal", "sin", "cos", "floor", "ceil", "round", "sign"]
"""Operators of one input without attributes, with ONNX's names in small letters."""

_RULES: Mapping[str, Rule] = {
    "input": lambda w, node: None,
    STANDARD: _standard,
    "fake_quantize": _fake_quantize,
    "constant": _constant,
    "conv": _conv("Conv"),
    "conv_transpose": _conv("ConvTranspose"),
    "deform_conv": _deform_conv,
    "dynamic_conv": _dynamic_conv,
    "dense": _dense,
    "maxpool": _pool("MaxPool"),
    "avgpool": _pool("AveragePool"),
    "adaptive_maxpool": _adaptive("MaxPool"),
    "adaptive_avgpool": _adaptive("AveragePool"),
    "global_maxpool": _plain("GlobalMaxPool"),
    "global_avgpool": _plain("GlobalAveragePool"),
    "batchnorm": _norm("BatchNormalization", "running_mean", "running_var"),
    "instancenorm": _norm("InstanceNormalization"),
    "groupnorm": _norm("GroupNormalization"),
    "layernorm": _layernorm,
    "lrn": _lrn,
    "gelu": _plain("Gelu", approximate="approximate"),
    "leaky_relu": _plain("LeakyRelu", slope="alpha"),
    "elu": _plain("Elu", alpha="alpha"),
    "hard_sigmoid": _plain("HardSigmoid", alpha="alpha", beta="beta"),
    "hard_swish": _plain("HardSwish"),
    "clip": _clip,
    "prelu": _prelu,
    "dropout": _dropout,
    "softmax": _plain("Softmax", axis="axis"),
    "log_softmax": _plain("LogSoftmax", axis="axis"),
    "silu": _silu,
    "not": _not,
    "add": _add,
    "mul": _chain("Mul"),
    "maximum": _plain("Max"),
    "minimum": _plain("Min"),
    "sub": _plain("Sub"),
    "div": _plain("Div"),
    "pow": _plain("Pow"),
    "concat": _plain("Concat", axis="axis"),
    "flatten": _flatten,
    "reshape": _reshape,
    "transpose": _plain("Transpose", perm="perm"),
    "squeeze": _with_axes("Squeeze"),
    "unsqueeze": _with_axes("Unsqueeze"),
    "pad": _pad,
    "slice": _slice,
    "gather": _gather,
    "resize": _resize,
    "reduce_mean": _with_axes("ReduceMean"),
    "reduce_sum": _with_axes("ReduceSum"),
    "reduce_max": _with_axes("ReduceMax"),
    "reduce_min": _with_axes("ReduceMin"),
    "matmul": _plain("MatMul"),
    "recurrent": onnx_recurrent.write,
    "einsum": _plain("Einsum", equation="equation"),
    **{name: _plain(name.capitalize()) for name in UNARY},
}

RULES = Table("writing ONNX", "written to ONNX", __name__, _RULES, {UNKNOWN: "what it computes is not known"})
"""How each operator is written."""


def parts(graph: Graph) -> list[Buffer]:
    """The bytes of the model in parts, weights as views; raises as `onnx.to_bytes`."""
    graph.check_weights()
    for node in graph.nodes:
        RULES.of(node)  # raises before anything is copied
    weight_bytes = 4 * sum(prod(s) for s in graph.param_shapes.values())
    if weight_bytes > MOST_BYTES:
        raise UnsupportedError(
            f"{graph.name}: {weight_bytes / 1e9:.1f} GB of weights; an ONNX file holds 2 GB; write .safetensors instead"
        )
    safe, names = holdable(graph)
    model = message(safe)
    closed = _closed(safe) if is_open(safe) else safe
    sizes = {node.name: node.attrs["shape"] for node in closed.inputs} if is_open(safe) else None
    notes = onnx_notes.write(closed, read_model(model, None, weights=False, input_size=sizes), names)
    model["metadata_props"] = [{"key": k, "value": v} for k, v in notes.items()]
    total, out = pieces(MODEL, model)
    if total > MOST_BYTES:
        raise UnsupportedError(
            f"{graph.name}: {total / 1e9:.1f} GB; an ONNX file holds 2 GB; write .safetensors instead"
        )
    return out


REFERENCE = 64
"""Size at which a network of any size is read back."""


def _closed(graph: Graph) -> Graph:
    """A network of any size at one size. Raises `UnsupportedError` where a layer depends on the size."""
    for node in graph.nodes:
        if node.op != "input" and has_symbol(tuple(node.attrs.values())):
            raise UnsupportedError(f"{node.name}: depends on the size of the input; give the size in numbers")
    return at_size(graph, reference_values(graph, REFERENCE))


def message(graph: Graph) -> Message:
    """The ModelProto of a graph, without notes."""
    w = Writer(graph)
    for node in graph.nodes:
        RULES.of(node)(w, node)
    for item in w.several.values():
        needed, made = NEEDED.get(item["op_type"], 1), item["output"]
        made += [""] * (needed - len(made))
        made[:needed] = [name or w.name(f"{item['name']}.output{place}") for place, name in enumerate(made[:needed])]
    opset = max([OPSET, *(_needs(node) for node in graph.nodes)])
    domains = sorted({item["domain"] for item in w.nodes if item.get("domain")})
    aliases = {node.name: w.tensors[node.array("value")]["name"] for node in graph.nodes if _is_initialiser(w, node)}
    for item in w.nodes:
        item["input"] = [aliases.get(i, i) for i in item["input"]]
    values = _outputs_by_key(w, aliases)
    types = [CODES[graph.types[name]] for name in graph.outputs]
    outputs = [
        _value(value, w.shapes[name], kind) for value, name, kind in zip(values, graph.outputs, types, strict=True)
    ]
    return {
        "ir_version": IR_VERSIONS[opset],
        "producer_name": "dojang",
        "opset_import": [{"domain": "", "version": opset}, *({"domain": d, "version": 1} for d in domains)],
        **_spoken(onnx_notes.in_words(graph)),
        "graph": {
            "name": encodable(graph.name) or "network",
            "node": w.nodes,
            "initializer": list(w.tensors.values()),
            "input": [
                _value(node.name, with_batch(node.attrs, BATCH), CODES[node.attrs["dtype"]]) | _spoken(how.stated)
                for node, how in zip(graph.inputs, preparations(graph), strict=True)
            ],
            "output": outputs,
            "value_info": _between(w, values),
        },
    }


def _between(w: Writer, outputs: Sequence[str]) -> list[Message]:
    """The shapes of the values between inputs and outputs, for programs that show or check a file. Values that a rule
    writes in several steps are described where they are the output of a node of the network.
    """
    known = {node.name: w.shapes[node.name] for node in w.graph.nodes if node.op != "input"}
    made = [name for item in w.nodes for name in item["output"] if name in known and name not in outputs]
    return [_value(name, known[name], CODES[w.graph.types[name]]) for name in made]


def _outputs_by_key(w: Writer, aliases: Mapping[str, str]) -> list[str]:
    """The names of the model's outputs. A value that is an output is called by its key, as other programs ask for it.

    The node that makes it keeps its own name. Another node's value of that name is renamed; where an input or an
    initialiser has it, the output is called by its node.
    """
    made = {name for item in w.nodes for name in item["output"]}
    pairs = [(aliases.get(n, n), encodable(k)) for n, k in zip(w.graph.outputs, output_keys(w.graph), strict=True)]
    blocked = {"", *(node.name for node in w.graph.inputs), *(tensor["name"] for tensor in w.tensors.values())}
    called: dict[str, str] = {}
    copies: list[tuple[str, str]] = []  # an input, a constant, or a second key of the same value
    for value, key in pairs:
        if key not in blocked and key != value:
            if value in made and value not in called:
                called[value] = key
            else:
                copies.append((value, key))
    for key in {*called.values(), *(key for _, key in copies)} & (made - called.keys()):
        called[key] = w.name(key)
    for item in w.nodes:
        item["input"] = [called.get(value, value) for value in item["input"]]
        item["output"] = [called.get(value, value) for value in item["output"]]
    for value, key in copies:
        w.op("Identity", (called.get(value, value),), key)
    return [key if (value, key) in copies else called.get(value, value) for value, key in pairs]


def _spoken(text: str) -> Message:
    """The field `doc_string` of a model or of an input, where there is something to say."""
    return {"doc_string": encodable(text)} if text else {}


def _is_initialiser(w: Writer, node: Node) -> bool:
    return node.op == "constant" and node.attrs["fill"] is None and node.array("value") in w.tensors


def _needs(node: Node) -> int:
    if node.op == "pad" and node.attrs["mode"] == "circular":
        return 19
    if node.op == STANDARD and "." not in node.attrs["kind"]:
        return node.attrs["opset"]
    if node.op == "fake_quantize" and node.attrs["high"] - node.attrs["low"] > 255:
        return 21
    return NEWER.get(node.op, OPSET)


def _value(name: str, shape: Sequence[int] | None, kind: int = FLOAT) -> Message:
    """A ValueInfo; the batch is the symbol N; its multiples have no size, and a shape that is not known is left out."""
    if shape is None:
        return {"name": name, "type": {"tensor_type": {"elem_type": kind}}}
    dims = [{"dim_param": str(s).replace("·", "*")} if depends(s) else {"dim_value": int(s)} for s in shape]
    return {"name": name, "type": {"tensor_type": {"elem_type": kind, "shape": {"dim": dims}}}}
