"""Shapes and types of the outputs of operators that become `standard` nodes, and whether they keep images apart.

`OUTPUTS` has one rule per operator: `rule(seen) -> [(shape, type), ...]`, where `seen` gives shapes, types and
constants of the inputs. A shape is None where values decide it, or where an input has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import floor, prod
from typing import Any

from dojang.arith.shapes import Shape, axis_of, broadcast
from dojang.arith.window import extent
from dojang.base.errors import DojangError
from dojang.formats.onnx.batch import depends
from dojang.formats.onnx.constants import TYPES, Const

Made = list[tuple[Shape | None, str]]


@dataclass(frozen=True)
class Operands:
    """What is known of one use of an operator; `shapes` and `types` by place, None for inputs that are left out."""

    kind: str
    inputs: Sequence[Any]
    attrs: Mapping[str, Any]
    opset: int
    count: int

    def shape(self, place: int) -> Shape | None:
        """The shape of an input, None if it is not known or left out."""
        given = self.inputs[place] if place < len(self.inputs) else None
        return None if given is None else given.shape

    def type(self, place: int) -> str:
        """The type of an input."""
        given = self.inputs[place] if place < len(self.inputs) else None
        return "float32" if given is None else given.kind if isinstance(given, Const) else given.dtype

    def has(self, place: int) -> bool:
        """Whether an input is given."""
        return place < len(self.inputs) and self.inputs[place] is not None

    def ints(self, place: int, name: str = "") -> list[Any] | None:
        """Whole numbers from an attribute or a constant; None where they are computed or left out."""
        if name and name in self.attrs:
            value = self.attrs[name]
            return list(value) if isinstance(value, list) else [value]
        given = self.inputs[place] if place < len(self.inputs) else None
        return list(given.values()) if isinstance(given, Const) and given.small else None


Rule = Callable[[Operands], Made]


def same(s: Operands) -> Made:
    """The shape and type of the first input."""
    return [(s.shape(0), s.type(0))]


def of_type(kind: str) -> Rule:
    """The shape of the first input, in another type."""
    return lambda s: [(s.shape(0), kind)]


def aligned(kind: str = "", first: int = 0) -> Rule:
    """The shape that the inputs broadcast to."""

    def rule(s: Operands) -> Made:
        return [(common(s, range(len(s.inputs))), kind or s.type(first))]

    return rule


def common(s: Operands, places: Sequence[int]) -> Shape | None:
    """The shape that some inputs broadcast to; None if one of them has none."""
    shapes = [s.shape(p) for p in places if s.has(p)]
    if None in shapes:
        return None
    try:
        return broadcast({}, [x for x in shapes if x is not None])
    except (DojangError, ArithmeticError):
        return None


def _axis(s: Operands, shape: Shape, default: int) -> int:
    return axis_of(int(s.attrs.get("axis", default)), len(shape))


def _cast(s: Operands) -> Made:
    code = s.attrs.get("to")
    if isinstance(code, str):  # before version 6
        code = {"FLOAT": 1, "DOUBLE": 11, "INT32": 6, "INT64": 7, "BOOL": 9, "FLOAT16": 10, "UINT8": 2, "INT8": 3}.get(
            code
        )
    return [(s.shape(0), TYPES[code].name if code in TYPES else "float32")]


def _reduced(s: Operands) -> Made:
    shape = s.shape(0)
    if shape is None:
        return [(None, s.type(0))]
    axes = s.ints(1, "axes")
    if axes is None and s.has(1):
        return [(None, s.type(0))]
    if not axes and s.attrs.get("noop_with_empty_axes"):
        return [(shape, s.type(0))]
    gone = {axis_of(int(a), len(shape)) for a in axes} if axes else set(range(len(shape)))
    return [(_without(shape, gone, s.attrs.get("keepdims", 1)), s.type(0))]


def _without(shape: Shape, gone: set[int], keep: object) -> Shape:
    if keep:
        return tuple(1 if i in gone else size for i, size in enumerate(shape))
    return tuple(size for i, size in enumerate(shape) if i not in gone)


def _argument(s: Operands) -> Made:
    shape = s.shape(0)
    return [(_without(shape, {_axis(s, shape, 0)}, s.attrs.get("keepdims", 1)) if shape else None, "int64")]


def _top_k(s: Operands) -> Made:
    shape, k = s.shape(0), s.ints(1, "k")
    if shape is None or k is None:
        return [(None, s.type(0)), (None, "int64")]
    axis = _axis(s, shape, -1)
    out = (*shape[:axis], k[0], *shape[axis + 1 :])
    return [(out, s.type(0)), (out, "int64")]


def _gather(s: Operands) -> Made:
    shape, where = s.shape(0), s.shape(1)
    if shape is None or where is None:
        return [(None, s.type(0))]
    axis = _axis(s, shape, 0)
    return [((*shape[:axis], *where, *shape[axis + 1 :]), s.type(0))]


def _gather_nd(s: Operands) -> Made:
    shape, where = s.shape(0), s.shape(1)
    if shape is None or not where or depends(where[-1]):
        return [(None, s.type(0))]
    lead = int(s.attrs.get("batch_dims", 0))
    return [((*where[:-1], *shape[lead + where[-1] :]), s.type(0))]


def _one_hot(s: Operands) -> Made:
    shape, depth = s.shape(0), s.ints(1)
    if shape is None or depth is None:
        return [(None, s.type(2))]
    axis = axis_of(int(s.attrs.get("axis", -1)), len(shape) + 1)
    return [((*shape[:axis], int(depth[0]), *shape[axis:]), s.type(2))]


def _expand(s: Operands) -> Made:
    shape, target = s.shape(0), s.ints(1)
    if shape is None or target is None:
        return [(None, s.type(0))]
    try:
        return [(broadcast({}, [shape, tuple(int(t) if not depends(t) else t for t in target)]), s.type(0))]
    except (DojangError, ArithmeticError):
        return [(None, s.type(0))]


def _tile(s: Operands) -> Made:
    shape, times = s.shape(0), s.ints(1)
    if shape is None or times is None or len(times) != len(shape):
        return [(None, s.type(0))]
    return [(tuple(a * t for a, t in zip(shape, times, strict=True)), s.type(0))]


def _reshape(s: Operands) -> Made:
    shape, target = s.shape(0), s.ints(1, "shape")
    if shape is None or target is None:
        return [(None, s.type(0))]
    if not s.attrs.get("allowzero"):
        target = [shape[i] if not depends(t) and t == 0 else t for i, t in enumerate(target)]
    rest = [t for t in target if depends(t) or t != -1]
    if len(rest) < len(target):
        whole, part = prod(shape), prod(rest)
        if depends(part) and depends(whole):
            return [(None, s.type(0))]
        try:
            target = [whole // part if not depends(t) and t == -1 else t for t in target]
        except (ArithmeticError, TypeError):
            return [(None, s.type(0))]
    return [(tuple(target), s.type(0))]


def _flatten(s: Operands) -> Made:
    shape = s.shape(0)
    if shape is None:
        return [(None, s.type(0))]
    axis = int(s.attrs.get("axis", 1))
    axis += len(shape) if axis < 0 else 0
    return [((prod(shape[:axis]), prod(shape[axis:])), s.type(0))]


def _squeeze(s: Operands) -> Made:
    shape, axes = s.shape(0), s.ints(1, "axes")
    if shape is None or (axes is None and s.has(1)):
        return [(None, s.type(0))]
    gone = {axis_of(int(a), len(shape)) for a in axes} if axes is not None else {
        i for i, size in enumerate(shape) if not depends(size) and size == 1
    }  # fmt: skip
    return [(_without(shape, gone, False), s.type(0))]


def _unsqueeze(s: Operands) -> Made:
    shape, axes = s.shape(0), s.ints(1, "axes")
    if shape is None or axes is None:
        return [(None, s.type(0))]
    new = {axis_of(int(a), len(shape) + len(axes)) for a in axes}
    rest = iter(shape)
    return [(tuple(1 if i in new else next(rest) for i in range(len(shape) + len(axes))), s.type(0))]


def _transpose(s: Operands) -> Made:
    shape = s.shape(0)
    perm = s.attrs.get("perm") or tuple(reversed(range(len(shape or ()))))
    return [(tuple(shape[p] for p in perm) if shape is not None else None, s.type(0))]


def _concat(s: Operands) -> Made:
    shapes = [s.shape(p) for p in range(len(s.inputs))]
    if None in shapes or not shapes or not shapes[0]:
        return [(None, s.type(0))]
    axis = _axis(s, shapes[0], 1)
    return [((*shapes[0][:axis], sum(x[axis] for x in shapes if x), *shapes[0][axis + 1 :]), s.type(0))]


def _split(s: Operands) -> Made:
    shape, sizes = s.shape(0), s.ints(1, "split")
    if shape is None or (sizes is None and s.has(1)):
        return [(None, s.type(0))] * s.count
    axis = _axis(s, shape, 0)
    if sizes is None:
        if depends(shape[axis]):
            return [(None, s.type(0))] * s.count
        each = -(-shape[axis] // s.count)
        sizes = [each] * (s.count - 1) + [shape[axis] - each * (s.count - 1)]
    return [((*shape[:axis], int(size), *shape[axis + 1 :]), s.type(0)) for size in sizes]


def _slice(s: Operands) -> Made:
    shape = s.shape(0)
    starts, ends = s.ints(1, "starts"), s.ints(2, "ends")
    axes, steps = s.ints(3, "axes"), s.ints(4)
    if shape is None or starts is None or ends is None or (s.has(3) and axes is None) or (s.has(4) and steps is None):
        return [(None, s.type(0))]
    out = list(shape)
    axes = axes if axes is not None else list(range(len(starts)))
    for axis, start, end, step in zip(axes, starts, ends, steps or [1] * len(axes), strict=True):
        axis = axis_of(int(axis), len(shape))
        if any(map(depends, (shape[axis], start, end))):
            return [(None, s.type(0))]
        end = None if step < 0 and end < -shape[axis] else int(end)
        out[axis] = len(range(shape[axis])[int(start) : end : int(step)])
    return [(tuple(out), s.type(0))]


def _pad(s: Operands) -> Made:
    shape, pads, axes = s.shape(0), s.ints(1, "pads" if "pads" in s.attrs else "paddings"), s.ints(3)
    if shape is None or pads is None or (s.has(3) and axes is None):
        return [(None, s.type(0))]
    out = list(shape)
    axes = [axis_of(int(a), len(shape)) for a in axes] if axes is not None else list(range(len(shape)))
    for place, axis in enumerate(axes):
        out[axis] = out[axis] + int(pads[place]) + int(pads[place + len(axes)])
    return [(tuple(out), s.type(0))]


def _windowed(s: Operands, kernel: Sequence[int], shape: Shape, channels: Any) -> Shape | None:
    rank = len(kernel)
    strides, dilations = s.attrs.get("strides") or [1] * rank, s.attrs.get("dilations") or [1] * rank
    pads, auto = s.attrs.get("pads") or [0] * (2 * rank), s.attrs.get("auto_pad", "NOTSET")
    out: list[Any] = []
    for a in range(rank):
        size, span = shape[2 + a], extent(kernel[a], dilations[a])
        if str(auto).startswith("SAME"):
            out.append(-(-size // strides[a]))
            continue
        before, after = (0, 0) if auto == "VALID" else (pads[a], pads[a + rank])
        room = size + before + after - span
        if not s.attrs.get("ceil_mode") or depends(room):
            out.append(room // strides[a] + 1)
            continue
        steps = -(-room // strides[a])
        out.append(steps + (0 if steps * strides[a] >= size + before else 1))
    return (shape[0], channels, *out)


def _pooled(s: Operands) -> Made:
    shape = s.shape(0)
    made = _windowed(s, s.attrs["kernel_shape"], shape, shape[1]) if shape else None
    return [(made, s.type(0)), (made, "int64")]


def _convolved(data: int, weight: int, kind: str = "") -> Rule:
    def rule(s: Operands) -> Made:
        shape, w = s.shape(data), s.shape(weight)
        made = _windowed(s, w[2:], shape, w[0]) if shape and w else None
        return [(made, kind or s.type(7 if s.kind == "QLinearConv" else data))]

    return rule


def _transposed(s: Operands) -> Made:
    shape, w = s.shape(0), s.shape(1)
    if shape is None or w is None:
        return [(None, s.type(0))]
    rank = len(shape) - 2
    strides, dilations = s.attrs.get("strides") or [1] * rank, s.attrs.get("dilations") or [1] * rank
    pads, extra = s.attrs.get("pads") or [0] * (2 * rank), s.attrs.get("output_padding") or [0] * rank
    target = s.attrs.get("output_shape")
    if target:
        out = list(target)[-rank:]
    elif str(s.attrs.get("auto_pad", "")).startswith("SAME"):
        out = [i * k for i, k in zip(shape[2:], strides, strict=True)]
    else:
        out = [
            strides[a] * (shape[2 + a] - 1) + extra[a] + extent(w[2 + a], dilations[a]) - pads[a] - pads[a + rank]
            for a in range(rank)
        ]
    return [((shape[0], w[1] * s.attrs.get("group", 1), *out), s.type(0))]


def _unpooled(s: Operands) -> Made:
    shape, target = s.shape(0), s.ints(2)
    if s.has(2):
        return [(tuple(int(t) for t in target) if target is not None else None, s.type(0))]
    if shape is None:
        return [(None, s.type(0))]
    kernel, rank = s.attrs["kernel_shape"], len(shape) - 2
    strides, pads = s.attrs.get("strides") or [1] * rank, s.attrs.get("pads") or [0] * (2 * rank)
    out = [(shape[2 + a] - 1) * strides[a] + kernel[a] - pads[a] - pads[a + rank] for a in range(rank)]
    return [((*shape[:2], *out), s.type(0))]


def _pixels_gone(s: Operands) -> Made:
    shape = s.shape(0)
    return [((*shape[:2], *(1 for _ in shape[2:])) if shape else None, s.type(0))]


def _resized(s: Operands) -> Made:
    shape = s.shape(0)
    old = s.opset < 11 or s.kind == "Upsample"
    scales = s.attrs.get("scales") or s.ints(1 if old else 2)
    sizes = None if old else s.ints(3)
    if shape is None or not (scales or sizes):
        return [(None, s.type(0))]
    axes = [axis_of(int(a), len(shape)) for a in s.attrs.get("axes") or range(len(shape))]
    out = list(shape)
    policy = s.attrs.get("keep_aspect_ratio_policy", "stretch")
    if sizes and policy != "stretch":
        if any(depends(shape[a]) for a in axes):
            return [(None, s.type(0))]
        ratios = [size / shape[a] for size, a in zip(sizes, axes, strict=True)]
        one = min(ratios) if policy == "not_larger" else max(ratios)
        sizes = [floor(one * shape[a] + 0.5) for a in axes]
    for place, axis in enumerate(axes):
        if sizes:
            out[axis] = sizes[place]
        elif scales and scales[place] != 1:
            if depends(shape[axis]):
                return [(None, s.type(0))]
            out[axis] = floor(shape[axis] * scales[place])
    return [(tuple(out), s.type(0))]


def _grid_sampled(s: Operands) -> Made:
    shape, grid = s.shape(0), s.shape(1)
    return [((*shape[:2], *grid[1:-1]) if shape and grid else None, s.type(0))]


def _affine_grid(s: Operands) -> Made:
    size = s.ints(1)
    return [((size[0], *(int(v) for v in size[2:]), len(size) - 2) if size else None, s.type(0))]


def _recurrent(s: Operands) -> Made:
    x, r, kind = s.shape(0), s.shape(2), s.type(0)
    if x is None or r is None:
        return [(None, kind)] * 3
    late = s.attrs.get("layout", 0)
    steps, n = (x[1], x[0]) if late else (x[0], x[1])
    directions, hidden = r[0], r[2]
    y = (n, steps, directions, hidden) if late else (steps, directions, n, hidden)
    end = (n, directions, hidden) if late else (directions, n, hidden)
    return [(y, kind), (end, kind), (end, kind)]


def _product(a: int, b: int, kind: str = "", like: int = 0) -> Rule:
    def rule(s: Operands) -> Made:
        left, right = s.shape(a), s.shape(b)
        made = kind or s.type(like)
        if not left or not right:
            return [(None, made)]
        rows, columns = left[-2:-1], right[-1:] if len(right) > 1 else ()
        try:
            lead = broadcast({}, [left[:-2], right[:-2]])
        except (DojangError, ArithmeticError):
            return [(None, made)]
        return [((*lead, *rows, *columns), made)]

    return rule


def _gemm(b: int, like: int = 0) -> Rule:
    def rule(s: Operands) -> Made:
        left, right = s.shape(0), s.shape(b)
        if left is None or right is None:
            return [(None, s.type(like))]
        rows = left[1] if s.attrs.get("transA") else left[0]
        return [((rows, right[0] if s.attrs.get("transB") else right[1]), s.type(like) if s.has(like) else "float32")]

    return rule


def _attention(s: Operands) -> Made:
    q, k, v, past = s.shape(0), s.shape(1), s.shape(2), s.shape(4)
    kinds = [s.type(0), s.type(1), s.type(2), s.type(0)]
    if q is None or k is None or v is None or (s.has(4) and past is None):
        return [(None, kind) for kind in kinds]
    before = past[2] if past else 0
    if len(q) == 4:
        heads, rows, out = q[1], q[2], (*q[:3], v[3])
        keys, values = (*k[:2], k[2] + before, k[3]), (*v[:2], v[2] + before, v[3])
    else:
        heads, less, rows = s.attrs["q_num_heads"], s.attrs["kv_num_heads"], q[1]
        keys, values = ((x[0], less, x[1] + before, x[2] // less) for x in (k, v))
        out = (q[0], rows, heads * values[3])
    return list(zip([out, keys, values, (q[0], heads, rows, keys[2])], kinds, strict=True))


def _quantized(s: Operands) -> Made:
    code = s.attrs.get("output_dtype", 0)
    kind = s.type(2) if s.has(2) else TYPES[code].name if code in TYPES else "uint8"
    return [(s.shape(0), kind)]


def _lp_like(s: Operands) -> Made:
    return [(s.shape(0), s.type(0))]


def _layer_norm(s: Operands) -> Made:
    shape = s.shape(0)
    if shape is None:
        return [(None, s.type(0)), (None, "float32"), (None, "float32")]
    axis = _axis(s, shape, -1)
    less = (*shape[:axis], *(1 for _ in shape[axis:]))
    return [(shape, s.type(0)), (less, "float32"), (less, "float32")]


def _batch_norm(s: Operands) -> Made:
    return [(s.shape(0), s.type(0)), (s.shape(3), s.type(3)), (s.shape(4), s.type(4))]


def _dropout(s: Operands) -> Made:
    return [(s.shape(0), s.type(0)), (s.shape(0), "bool")]


def _dynamic_quantized(s: Operands) -> Made:
    return [(s.shape(0), "uint8"), ((), "float32"), ((), "uint8")]


def _depth(s: Operands) -> Made:
    shape = s.shape(0)
    if shape is None or len(shape) != 4:
        return [(None, s.type(0))]
    n, c, h, w = shape
    b = s.attrs["blocksize"]
    if s.kind == "DepthToSpace":
        return [((n, c // (b * b), h * b, w * b), s.type(0))]
    return [((n, c * b * b, h // b, w // b), s.type(0))]


def _centre(s: Operands) -> Made:
    shape, sizes = s.shape(0), s.ints(1)
    if shape is None or sizes is None:
        return [(None, s.type(0))]
    out = list(shape)
    for axis, size in zip(s.attrs.get("axes") or range(len(shape)), sizes, strict=True):
        out[axis_of(int(axis), len(shape))] = int(size)
    return [(tuple(out), s.type(0))]


def _col2im(s: Operands) -> Made:
    shape, size, block = s.shape(0), s.ints(1), s.ints(2)
    if shape is None or size is None or block is None:
        return [(None, s.type(0))]
    return [((shape[0], shape[1] // prod(block), *(int(v) for v in size)), s.type(0))]


def _roi_align(s: Operands) -> Made:
    x, regions = s.shape(0), s.shape(1)
    size = s.attrs.get("pooled_shape") or (s.attrs.get("output_height", 1), s.attrs.get("output_width", 1))
    return [((regions[0], x[1], *size) if x and regions else None, s.type(0))]


def _unknown(kind: str = "", outputs: int = 1) -> Rule:
    """Values decide the shape."""
    return lambda s: [(None, kind or s.type(0))] * outputs


def _non_zero(s: Operands) -> Made:
    return [(None, "int64")]


def _eye(s: Operands) -> Made:
    code = s.attrs.get("dtype")
    return [(s.shape(0), TYPES[code].name if code in TYPES else s.type(0))]


def _shape(s: Operands) -> Made:
    shape = s.shape(0)
    if shape is None:
        return [(None, "int64")]
    return [((len(shape[s.attrs.get("start", 0) : s.attrs.get("end", len(shape))]),), "int64")]


def _filled(s: Operands) -> Made:
    shape, value = s.ints(0), s.attrs.get("value")
    kind = value.kind if value is not None else "float32"
    return [(tuple(shape) if shape is not None else None, kind)]


def _einsum(s: Operands) -> Made:
    return [(None, s.type(0))]


def _dft(s: Operands) -> Made:
    shape, length, axis = s.shape(0), s.ints(1), s.ints(2)
    if shape is None or (s.has(1) and length is None) or (s.has(2) and axis is None):
        return [(None, s.type(0))]
    place = axis_of(int(axis[0]) if axis else s.attrs.get("axis", 1 if s.opset < 20 else -2), len(shape))
    size = int(length[0]) if length else shape[place]
    half, inverse = s.attrs.get("onesided"), s.attrs.get("inverse")
    if half and inverse:
        size = int(length[0]) if length else 2 * (shape[place] - 1)
    elif half:
        size = size // 2 + 1
    out = [*shape[:-1], 1 if half and inverse else 2]
    out[place] = size
    return [(tuple(out), s.type(0))]


def _stft(s: Operands) -> Made:
    shape, step, length = s.shape(0), s.ints(1), s.ints(3)
    window = s.shape(2)
    size = int(length[0]) if length else window[0] if window else None
    if shape is None or not step or size is None or depends(shape[1]):
        return [(None, s.type(0))]
    bins = size // 2 + 1 if s.attrs.get("onesided", 1) else size
    return [((shape[0], (shape[1] - size) // int(step[0]) + 1, bins, 2), s.type(0))]


def _window(s: Operands) -> Made:
    size, code = s.ints(0), s.attrs.get("output_datatype", 1)
    return [((int(size[0]),) if size else None, TYPES[code].name if code in TYPES else "float32")]


def _mel(s: Operands) -> Made:
    bins, length, code = s.ints(0), s.ints(1), s.attrs.get("output_datatype", 1)
    made = (int(length[0]) // 2 + 1, int(bins[0])) if bins and length else None
    return [(made, TYPES[code].name if code in TYPES else "float32")]


def _range(s: Operands) -> Made:
    return [(None, s.type(0))]


def _causal_conv(s: Operands) -> Made:
    x, w = s.shape(0), s.shape(1)
    return [(x, s.type(0)), ((*x[:2], w[-1] - 1) if x and w else None, s.type(0))]


def _loss(s: Operands) -> Made:
    each = s.attrs.get("reduction", "mean") == "none"
    return [(s.shape(1) if each else (), s.type(0)), (s.shape(0), s.type(0))]


def _qlinear_concat(s: Operands) -> Made:
    shapes = [s.shape(p) for p in range(2, len(s.inputs), 3)]
    if None in shapes or not shapes or not shapes[0]:
        return [(None, s.type(1))]
    axis = axis_of(int(s.attrs["axis"]), len(shapes[0]))
    return [((*shapes[0][:axis], sum(x[axis] for x in shapes if x), *shapes[0][axis + 1 :]), s.type(1))]


def _qlinear_pixels(s: Operands) -> Made:
    shape = s.shape(0)
    if shape is None:
        return [(None, s.type(0))]
    last = s.attrs.get("channels_last")
    return [(tuple(size if i in (0, len(shape) - 1 if last else 1) else 1 for i, size in enumerate(shape)), s.type(0))]


def _qlinear_pooled(s: Operands) -> Made:
    shape = s.shape(0)
    if shape is None:
        return [(None, s.type(0))]
    turn = s.attrs.get("channels_last")
    moved = (shape[0], shape[-1], *shape[1:-1]) if turn else shape
    made = _windowed(s, s.attrs["kernel_shape"], moved, moved[1])
    if turn and made is not None:
        made = (made[0], *made[2:], made[1])
    return [(made, s.type(0))]


SAME = (
    "Identity Neg Abs Sign Relu Floor Ceil Round Sqrt Exp Log Erf Reciprocal Sigmoid Tanh Sin Cos Tan Asin Acos Atan "
    "Sinh Cosh Asinh Acosh Atanh Softplus Softsign Mish HardSwish HardSigmoid LeakyRelu Elu Selu Celu Gelu Swish "
    "ThresholdedRelu Shrink PRelu Hardmax Softmax LogSoftmax RMSNormalization MeanVarianceNormalization "
    "LpNormalization InstanceNormalization GroupNormalization LRN CumSum CumProd Trilu Clip Scatter ScatterElements "
    "ScatterND TensorScatter ReverseSequence RotaryEmbedding BitwiseNot com.microsoft.QuickGelu "
    "com.microsoft.QLinearSigmoid com.microsoft.QLinearLeakyRelu com.microsoft.QLinearSoftmax"
).split()
"""Operators whose output has the shape and the type of their first input."""

OUTPUTS: Mapping[str, Rule] = {
    **dict.fromkeys(SAME, same),
    **dict.fromkeys(
        "Add Sub Mul Div Mod Pow Max Min Sum Mean BitShift BitwiseAnd BitwiseOr BitwiseXor".split(), aligned()
    ),
    **dict.fromkeys("Equal Less LessOrEqual Greater GreaterOrEqual And Or Xor".split(), aligned("bool")),
    **dict.fromkeys(("Not", "IsNaN", "IsInf"), of_type("bool")),
    "Where": aligned("", 1),
    "Cast": _cast,
    "CastLike": lambda s: [(s.shape(0), s.type(1))],
    **dict.fromkeys(
        "ReduceSum ReduceMean ReduceProd ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum "
        "ReduceLogSumExp".split(),
        _reduced,
    ),
    **dict.fromkeys(("ArgMax", "ArgMin"), _argument),
    "TopK": _top_k,
    "Gather": _gather,
    "GatherElements": lambda s: [(s.shape(1), s.type(0))],
    "GatherND": _gather_nd,
    "OneHot": _one_hot,
    "Expand": _expand,
    "Tile": _tile,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
    "NonZero": _non_zero,
    "Compress": _unknown(),
    "Unique": lambda s: [(None, s.type(0)), *[(None, "int64")] * 3],
    "NonMaxSuppression": _non_zero,
    "EyeLike": _eye,
    "Shape": _shape,
    "Size": lambda s: [((), "int64")],
    "ConstantOfShape": _filled,
    "Range": _range,
    "DepthToSpace": _depth,
    "SpaceToDepth": _depth,
    "CenterCropPad": _centre,
    "Conv": _convolved(0, 1),
    "ConvTranspose": _transposed,
    "DeformConv": _convolved(0, 1),
    "MaxPool": _pooled,
    "AveragePool": _pooled,
    "LpPool": _pooled,
    "MaxUnpool": _unpooled,
    "GlobalMaxPool": _pixels_gone,
    "GlobalAveragePool": _pixels_gone,
    "GlobalLpPool": _pixels_gone,
    "Col2Im": _col2im,
    "Resize": _resized,
    "Upsample": _resized,
    "GridSample": _grid_sampled,
    "AffineGrid": _affine_grid,
    "RoiAlign": _roi_align,
    "MaxRoiPool": _roi_align,
    **dict.fromkeys(("RNN", "GRU", "LSTM"), _recurrent),
    "MatMul": _product(0, 1),
    "Gemm": _gemm(1),
    "Einsum": _einsum,
    "Det": lambda s: [(shape[:-2] if (shape := s.shape(0)) else None, s.type(0))],
    "Attention": _attention,
    "CausalConvWithState": _causal_conv,
    "LayerNormalization": _layer_norm,
    "BatchNormalization": _batch_norm,
    "Dropout": _dropout,
    "QuantizeLinear": _quantized,
    "DequantizeLinear": lambda s: [(s.shape(0), s.type(1))],
    "DynamicQuantizeLinear": _dynamic_quantized,
    "ConvInteger": _convolved(0, 1, "int32"),
    "MatMulInteger": _product(0, 1, "int32"),
    "QLinearConv": _convolved(0, 3),
    "QLinearMatMul": _product(0, 3, like=7),
    "SwiGLU": same,
    "BitCast": _cast,
    **dict.fromkeys(("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"), _loss),
    "DFT": _dft,
    "STFT": _stft,
    **dict.fromkeys(("HannWindow", "HammingWindow", "BlackmanWindow"), _window),
    "MelWeightMatrix": _mel,
    "dojang.Sizes": lambda s: [(tuple(s.attrs["sizes"]), "int64")],
    "com.microsoft.QuantizeLinear": _quantized,
    "com.microsoft.DequantizeLinear": lambda s: [(s.shape(0), s.type(1))],
    **dict.fromkeys(
        ("com.microsoft.QLinearAdd", "com.microsoft.QLinearMul"), lambda s: [(common(s, (0, 3)), s.type(0))]
    ),
    "com.microsoft.QLinearAveragePool": _qlinear_pooled,
    "com.microsoft.QLinearGlobalAveragePool": _qlinear_pixels,
    "com.microsoft.QLinearConcat": _qlinear_concat,
    "com.microsoft.QLinearWhere": lambda s: [(common(s, (0, 1, 4)), s.type(1))],
    "com.microsoft.QGemm": _gemm(3, 8),
    "com.microsoft.MatMulIntegerToFloat": _product(0, 1, "float32"),
    "com.microsoft.DynamicQuantizeMatMul": _product(0, 1, "float32"),
}
"""One rule per operator; `engine/reference/standard/run.py` has the same operators."""

ALONG: Mapping[str, int] = {
    "TopK": -1, "ArgMax": 0, "ArgMin": 0, "Softmax": -1, "LogSoftmax": -1, "Hardmax": -1, "GatherElements": 0,
    "ScatterElements": 0, "Gather": 0, "Concat": 1, "Split": 0, "LpNormalization": -1,
}  # fmt: skip
"""Operators that work along one axis, and which it is by default."""

BY_IMAGE = frozenset(
    "Conv ConvTranspose DeformConv MaxPool AveragePool LpPool GlobalMaxPool GlobalAveragePool GlobalLpPool Resize "
    "Upsample GridSample DepthToSpace SpaceToDepth InstanceNormalization GroupNormalization LRN ConvInteger "
    "QLinearConv Attention com.microsoft.QLinearAveragePool com.microsoft.QLinearGlobalAveragePool".split()
)
"""Operators that take each image by itself if the batch is the first axis of what they read."""

DATA = frozenset(
    "Resize Upsample QuantizeLinear DequantizeLinear OneHot Pad Clip NonMaxSuppression GridSample ScatterElements "
    "ScatterND".split()
)
"""Operators of which only the first input may be a parameter; the others say how, as scales and bounds do."""

BY_ELEMENT = frozenset(
    [name for name, rule in OUTPUTS.items() if rule is same and name not in (
        "CumSum CumProd Trilu Scatter ScatterElements ScatterND TensorScatter ReverseSequence RotaryEmbedding LRN "
        "Softmax LogSoftmax Hardmax LpNormalization MeanVarianceNormalization RMSNormalization InstanceNormalization "
        "GroupNormalization com.microsoft.QLinearSoftmax").split()]
) | frozenset(
    "Add Sub Mul Div Mod Pow Max Min Sum Mean BitShift BitwiseAnd BitwiseOr BitwiseXor Equal Less LessOrEqual Greater "
    "GreaterOrEqual And Or Xor Not IsNaN IsInf Where Cast CastLike QuantizeLinear DequantizeLinear Dropout "
    "com.microsoft.QuantizeLinear com.microsoft.DequantizeLinear com.microsoft.QLinearAdd com.microsoft.QLinearMul "
    "com.microsoft.QLinearWhere".split()
)  # fmt: skip
"""Operators that work element by element."""


def apart(s: Operands) -> bool:
    """Whether an operator computes each image of a batch from that image alone, wherever the batch lies."""
    where = {
        p: [i for i, size in enumerate(shape) if depends(size)] for p in range(len(s.inputs)) if (shape := s.shape(p))
    }
    if any(len(axes) > 1 for axes in where.values()):
        return False
    at = {p: axes[0] for p, axes in where.items() if axes}
    if not at:
        return True
    if s.kind in BY_ELEMENT:
        return True
    if s.kind in BY_IMAGE:
        return set(at.values()) == {0}
    first = s.shape(0)
    if first is None or 0 not in at:
        return False
    if s.kind in ALONG and len(set(at.values())) == 1:
        return (s.opset >= 13 or "Soft" not in s.kind) and _axis(s, first, ALONG[s.kind]) != at[0]
    if s.kind.startswith("Reduce"):
        axes = s.ints(1, "axes")
        return bool(axes) and at[0] not in {axis_of(int(a), len(first)) for a in axes or ()}
    if s.kind in ("CumSum", "CumProd"):
        axes = s.ints(1)
        return bool(axes) and axis_of(int((axes or [0])[0]), len(first)) != at[0]
    if s.kind in ("RNN", "GRU", "LSTM"):
        return at[0] == (0 if s.attrs.get("layout") else 1)
    if s.kind == "MeanVarianceNormalization":
        return at[0] not in {axis_of(int(a), len(first)) for a in s.attrs.get("axes", (0, 2, 3))}
    if s.kind in ("LayerNormalization", "RMSNormalization"):
        return _axis(s, first, -1) > at[0]
    if s.kind in ("MatMulInteger", "MatMul", "QLinearMatMul"):
        return set(at) == {0} and at[0] < len(first) - 1
    return False
