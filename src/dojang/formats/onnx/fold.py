"""Arithmetic on small constants, so that shapes which an ONNX file computes become numbers. Standard library only.

Every function takes the node's constants and attributes and returns a `Const`, or None for cases that it does not
support; then the node stays in the graph.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

from dojang.arith.conv import by
from dojang.arith.precision import WHOLE
from dojang.arith.shapes import axis_of, broadcast
from dojang.base.errors import DataError, ShapeError
from dojang.formats.onnx.batch import (
    above,
    any_depends,
    depends,
    divided,
    exact,
    highest,
    lowest,
    not_below,
    rest,
    rounded,
    same,
    simplified,
    size_of,
    whole,
)
from dojang.formats.onnx.constants import FOLD_LIMIT, TYPES, Const, Grid, Sort, of_fill, of_values, strides

Attributes = Mapping[str, Any]
Inputs = Sequence[Const | None]
Fold = Callable[[Inputs, Attributes, int], Const | None]


def fold(op: str, inputs: Inputs, attrs: Attributes, opset: int) -> Const | None:
    """The constant that operator `op` computes from constants, or None."""
    rule = FOLDS.get(op)
    if rule is None:
        return None
    try:
        result = rule(inputs, attrs, opset)
    except (ArithmeticError, IndexError, KeyError, TypeError, ValueError, AttributeError, ShapeError, StopIteration):
        # Bad sizes, or a result that depends on the batch: the operator's own rule says what is wrong, or names
        # it as unknown.
        return None
    if result is None or op == "Identity":
        return result
    found = _traced(op, result, inputs)
    return None if op not in SIZES and found.sized and _is_grid(found) else found


MOST_SIZES = 10
"""Numbers of the largest table of sizes: two paddings for each of five axes. More that are computed from the size of an
input are places in an image."""


def _is_grid(const: Const) -> bool:
    """Whether a constant holds places, as the anchors of a detector, instead of sizes: more than one step along one
    axis. It is left to nodes that compute it, which are the same for every size of the input.
    """
    if const.fill is not None or const.batched or any_depends(const.shape) or const.size <= MOST_SIZES:
        return False
    values = const.values() if const.small else []
    return not values or max(const.shape) < const.size or not _even(values)


def _even(values: Sequence[Any]) -> bool:
    """Whether each number is as far from the one before it as the second from the first."""
    step = values[1] - values[0]
    return all(v == values[0] + i * step for i, v in enumerate(values))


MOVES = frozenset("Reshape Flatten Squeeze Unsqueeze Transpose Gather Slice Expand Cast DequantizeLinear".split())
"""Operators whose result has the numbers of their first input; the other inputs only say where they go."""

SIZES = frozenset(("Shape", "Size", "ConstantOfShape", "Range"))
"""Operators whose result has none of the numbers of their inputs."""


def _traced(op: str, result: Const, inputs: Inputs) -> Const:
    """The result, with the stored arrays from which it is computed. A parameter of one number does not make the result
    a parameter: grids are computed from ½ and sizes.
    """
    given = () if op in SIZES else inputs[:1] if op in MOVES else inputs
    consts = [c for c in given if c is not None]
    pieces = tuple({id(piece): piece for c in consts for piece in c.pieces}.values())
    learned = any(c.trained for c in consts) or op == "DequantizeLinear"
    trained = result.sort == "f" and learned and any(piece.size > 1 and piece.named for piece in pieces)
    like = inputs[1] if op == "Where" and len(inputs) > 1 else inputs[0] if inputs and op not in SIZES else None
    sized = any(c.sized for c in (inputs[:1] if op in MOVES else inputs) if c is not None)
    kind = result.dtype or (like.dtype if like else "")
    return replace(result, pieces=pieces, trained=trained, dtype=kind, sized=sized)


def axes_of(inputs: Inputs, attrs: Attributes, place: int = 1) -> list[int] | None:
    """The `axes` of a node: an attribute before opset 13 or 18, an input since."""
    if len(inputs) > place and (given := inputs[place]) is not None:
        return [int(v) for v in given.values()]
    return list(attrs["axes"]) if "axes" in attrs else None


def _small(inputs: Inputs) -> bool:
    return all(c is None or c.small for c in inputs)


def _elementwise(function: Callable[..., Any], sort: Sort | None = None) -> Fold:
    def rule(inputs: Inputs, attrs: Attributes, opset: int) -> Const | None:
        consts = [c for c in inputs if c is not None]
        shape = broadcast({}, [c.shape for c in consts])
        kinds = {c.sort for c in consts}
        kind: Sort = "f" if "f" in kinds else "i" if "i" in kinds else "b"
        if prod(shape) > 1 and all(c.size == 1 or (c.fill is not None and not c.trained) for c in consts):
            row = [c.fill if c.fill is not None else c.values()[0] for c in consts]
            return of_fill(simplified(function(*row)), shape, sort or kind)
        if not _small(consts) or prod(shape) > FOLD_LIMIT:
            return None
        columns = [spread(c.values(), c.shape, shape) for c in consts]
        trained = any(c.trained for c in consts)
        values = [simplified(function(*row)) for row in zip(*columns, strict=True)]
        if any(isinstance(v, int) and v.bit_length() > 128 for v in values):
            raise OverflowError("no size is this large")
        return of_values(values, shape, sort or kind, trained)

    return rule


def spread(values: Sequence[Any], shape: Sequence[int], wide: Sequence[int]) -> list[Any]:
    """`values` of `shape`, repeated to the broadcast shape `wide`."""
    full = (1,) * (len(wide) - len(shape)) + tuple(shape)
    steps = [0 if s == 1 else step for s, step in zip(full, strides(full), strict=True)]
    return [
        values[sum(i * s for i, s in zip(index, steps, strict=True))] for index in product(*(range(w) for w in wide))
    ]


def _exactly(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The same numbers; floats become fractions if the other number depends on the batch."""
    return lambda a, b: function(exact(a), exact(b)) if depends(a) or depends(b) else function(a, b)


def _power(a: Any, b: Any) -> Any:
    if abs(b) > 64:
        raise ValueError("no shape needs so high a power")
    if depends(a):
        if b != int(b) or not 0 <= b <= 4:
            raise ValueError("no shape needs a power of the batch")
        return prod([a] * int(b))
    return a**b if isinstance(a, float) else int(a**b)


def _modulo(inputs: Inputs, attrs: Attributes, opset: int) -> Const | None:
    return _elementwise(math.fmod if attrs.get("fmod") else rest)(inputs, attrs, opset)


def _where(test: Any, a: Any, b: Any) -> Any:
    return a if test else b


def _choose(inputs: Inputs, attrs: Attributes, opset: int) -> Const | None:
    last = inputs[1]
    return _elementwise(_where, last.sort if last is not None else None)(inputs, attrs, opset)


def _cast(inputs: Inputs, attrs: Attributes, opset: int) -> Const | None:
    (const,) = inputs
    if const is None or attrs.get("to") not in TYPES:
        return None
    sort = TYPES[attrs["to"]].sort
    name = TYPES[attrs["to"]].name
    if sort == "s" or const.sort == "s":
        return None
    if sort == "f" and const.sort == "f":
        return replace(const, dtype=name)
    if not const.small:
        return None
    if const.fill is not None:
        return of_fill(_as(sort, const.fill), const.shape, sort, dtype=name)
    return of_values([_as(sort, v) for v in const.values()], const.shape, sort, dtype=name)


def _as(sort: Sort, value: Any) -> Any:
    """A number of another type; formulas of the batch stay exact."""
    if sort == "b":
        return not same(value, 0)
    return whole(value) if sort == "i" else value if depends(value) else float(value)


def _identity(inputs: Inputs, attrs: Attributes, opset: int) -> Const | None:
    # Exporters write equal initialisers once, and the second one as an Identity. Arrays with one number everywhere
    # (ones and zeros of new normalisations) are equal by chance, and separate parameters; others are shared.
    const = inputs[0]
    if const is None:
        return None
    return const.fresh("") if const.trained and const.size > 1 and const.uniform else const


def _dequantized(inputs: Inputs, attrs: Attributes, opset: int) -> Const | None:
    """(x - zero point) * scale of a stored array, per tensor or along an axis; blocks are not supported."""
    const, scale, zero = (*inputs, None)[:3]
    if const is None or scale is None or attrs.get("block_size") or len(scale.shape) > 1:
        return None
    wide = [1] * len(const.shape)
    if scale.size > 1:
        axis = axis_of(attrs.get("axis", 1), len(const.shape))
        wide[axis] = const.shape[axis]

    def change(x: Any) -> Any:
        import numpy as np

        if scale.size not in (1, prod(wide)) or (zero is not None and zero.size not in (1, scale.size)):
            zeros = "" if zero is None else f" and {zero.size} zero points"
            said = f"{scale.size} scales{zeros} for {by(const.shape)} whole numbers"
            raise DataError(f"{said}; give one, or one for each place of an axis")
        with np.errstate(all="ignore"):
            centred = x if zero is None else x - zero.array().reshape(wide if zero.size > 1 else ())
            return centred * scale.array().reshape(wide if scale.size > 1 else ())

    what = ("dequantised", scale.key, zero.key if zero is not None else None, attrs.get("axis", 1))
    axis = axis_of(attrs.get("axis", 1), len(const.shape)) if scale.size > 1 else None
    grid = Grid(const.kind, scale, zero, axis) if const.sort == "i" and const.kind in WHOLE else None
    return replace(const.mapped(what, const.shape, change), sort="f", grid=grid)


def _reshape(inputs: Inputs, attrs: Attributes, opset: int) -> Const | None:
    const, target = inputs
    if const is None or target is None:
        return None
    shape = [whole(v) for v in target.values()]
    if not attrs.get("allowzero"):
        shape = [const.shape[i] if s == 0 else s for i, s in enumerate(shape)]
    if -1 in shape:
        shape[shape.index(-1)] = const.size // -prod(shape)
    return const.reshaped(shape) if prod(shape) == const.size and min(shape, default=0) >= 0 else None


def _flatten(inputs: Inputs, attrs: Attributes, opset: int) -> Const | None:
    const = inputs[0]
    if const is None:
        return None
    axis = attrs.get("axis", 1)
    axis += len(const.shape) if axis < 0 else 0
    return const.reshaped((prod(const.shape[:axis]), prod(const.shape[axis:])))


def _unsqueeze(inputs: Inputs, attrs: Attributes, opset: int) -> Const | None:
    const, axes = inputs[0], axes_of(inputs, attrs)
    if const is None or axes is None:
        return None
    rank = len(const.shape) + len(axes)
    new = {axis_of(a, rank) for a in axes}
    if len(new) < len(axes):
        return None
    rest = iter(const.shape)
    return const.reshaped([1 if i in new else next(rest) for i in range(rank)])


def _squeeze(inputs: Inputs, attrs: Attributes, opset: int) -> Const | None:
    const, axes = inputs[0], axes_of(inputs, attrs)
    if const is None:
        return None
    gone = {i for i, s in enumerate(const.shape) if s == 1} if axes is None else set()
    gone |= {axis_of(a, len(const.shape)) for a in axes or ()}
    if any(const.shape[i] != 1 for i in gone):
        return None
    return const.reshaped([s for i, s in enumerate(const.shape) if i not in gone])


def _transpose(inputs: Inputs, attrs: Attributes, opset: int) -> Const | None:
    const = inputs[0]
    if const is None:
        return None
    perm = attrs.get("perm") or list(reversed(range(len(const.shape))))
    return const.transposed(perm) if sorted(perm) == list(range(len(const.shape))) else None


def _pick(const: Const, ranges: Sequence[Sequence[int]], shape: Sequence[int]) -> Const:
    """The elements at every combination of indices, one sequence per axis."""
    values, steps = const.values(), strides(const.shape)
    picked = [values[sum(i * s for i, s in zip(index, steps, strict=True))] for index in product(*ranges)]
    return of_values(picked, shape, const.sort, const.trained)


def _gather(inputs: Inputs, attrs: Attributes, opset: int) -> Const | None:
    const, indices = inputs
    if const is None or indices is None or not _small(inputs) or const.size * indices.size > FOLD_LIMIT:
        return None
    axis = axis_of(attrs.get("axis", 0), len(const.shape))
    where = [int(i) + (const.shape[axis] if i < 0 else 0) for i in indices.values()]
    if any(not 0 <= i < const.shape[axis] for i in where):
        return None
    ranges = [range(s) for s in const.shape]
    return _pick(
        const,
        [*ranges[:axis], where, *ranges[axis + 1 :]],
        (*const.shape[:axis], *indices.shape, *const.shape[axis + 1 :]),
    )


def slices(inputs: Inputs, attrs: Attributes, rank: int) -> list[tuple[int, int, int, int]] | None:
    """(axis, start, stop, step) per sliced axis: attributes before opset 10, inputs since.

    Starts and ends may depend on the batch.
    """
    if "starts" in attrs and "ends" in attrs:
        parts: list[Sequence[Any]] = [attrs["starts"], attrs["ends"]]
        axes, steps = attrs.get("axes"), None
    else:
        given = [c.values() if c is not None else None for c in inputs[1:]] + [None] * 4
        if given[0] is None or given[1] is None:
            return None
        parts = [given[0], given[1]]
        axes, steps = given[2], given[3]
    axes = [axis_of(int(a), rank) for a in axes] if axes is not None else list(range(len(parts[0])))
    rows = zip(axes, parts[0], parts[1], steps if steps is not None else [1] * len(axes), strict=True)
    return [(int(a), whole(b), whole(c), int(d)) for a, b, c, d in rows]


def _slice(inputs: Inputs, attrs: Attributes, opset: int) -> Const | None:
    const = inputs[0]
    if const is None or not (const.small or const.sort == "f"):
        return None
    cuts = slices(inputs, attrs, len(const.shape))
    if cuts is None:
        return None
    ranges = [range(s) for s in const.shape]
    for axis, start, stop, step in cuts:
        ranges[axis] = range(const.shape[axis])[start:stop:step]
        if step < 0 and stop < -const.shape[axis]:
            ranges[axis] = range(const.shape[axis])[start::step]
    if not const.small:
        places = tuple((r.start, r.stop if r.stop >= 0 else None, r.step) for r in ranges)
        cut = tuple(slice(*place) for place in places)
        return const.mapped(("slice", places), [len(r) for r in ranges], lambda array: array[cut])
    return _pick(const, ranges, [len(r) for r in ranges])


def _concat(inputs: Inputs, attrs: Attributes, opset: int) -> Const | None:
    consts = [c for c in inputs if c is not None]
    if len(consts) != len(inputs):
        return None
    axis = axis_of(attrs["axis"], len(consts[0].shape))
    shape = list(consts[0].shape)
    shape[axis] = sum(c.shape[axis] for c in consts)
    if prod(shape) > FOLD_LIMIT:
        return _joined(consts, axis, shape) if all(c.sort == "f" and not c.batched for c in consts) else None
    runs = [(iter(c.values()), prod(c.shape[axis:])) for c in consts]
    values = [next(it) for _ in range(prod(shape[:axis])) for it, length in runs for _ in range(length)]
    return of_values(values, shape, consts[0].sort, any(c.trained for c in consts))


def _joined(consts: Sequence[Const], axis: int, shape: Sequence[int]) -> Const | None:
    """Large constants along an axis, joined when they are read."""
    rest = {(*c.shape[:axis], *c.shape[axis + 1 :]) for c in consts}
    if len(rest) > 1:
        return None

    def change(first: Any) -> Any:
        import numpy as np

        return np.concatenate([first, *(c.array() for c in consts[1:])], axis)

    return consts[0].mapped(("concat", axis, *(c.key for c in consts[1:])), shape, change)


def _range(inputs: Inputs, attrs: Attributes, opset: int) -> Const | None:
    start, stop, step = (c.values()[0] for c in inputs if c is not None)
    count = max(0, math.ceil((stop - start) / step))
    if count > FOLD_LIMIT:
        return None
    sort: Sort = "f" if isinstance(start, float) else "i"
    return of_values([start + i * step for i in range(count)], (count,), sort)


def _constant_of_shape(inputs: Inputs, attrs: Attributes, opset: int) -> Const | None:
    if inputs[0] is None:
        return None
    value = attrs.get("value")
    fill, sort = (value.values()[0], value.sort) if value is not None else (0.0, "f")
    kind = value.kind if value is not None else ""
    return of_fill(fill, [whole(v) for v in inputs[0].values()], sort, dtype=kind)


def _expand(inputs: Inputs, attrs: Attributes, opset: int) -> Const | None:
    const, target = inputs
    if const is None or target is None:
        return None
    shape = broadcast({}, [const.shape, tuple(whole(v) for v in target.values())])
    if const.fill is not None:
        return of_fill(const.fill, shape, const.sort)
    if not const.small or prod(shape) > FOLD_LIMIT:
        return None
    return of_values(spread(const.values(), const.shape, shape), shape, const.sort, const.trained)


def _reduce(function: Callable[[Sequence[Any]], Any]) -> Fold:
    def rule(inputs: Inputs, attrs: Attributes, opset: int) -> Const | None:
        const = inputs[0]
        if const is None or not const.small:
            return None
        axes = axes_of(inputs, attrs)
        if not axes and attrs.get("noop_with_empty_axes"):
            return const
        rank = len(const.shape)
        gone = {axis_of(a, rank) for a in axes} if axes else set(range(rank))
        values, steps = [exact(v) for v in const.values()] if const.batched else const.values(), strides(const.shape)
        kept = [range(1) if i in gone else range(s) for i, s in enumerate(const.shape)]
        summed = [range(s) if i in gone else range(1) for i, s in enumerate(const.shape)]
        offsets = [sum(i * s for i, s in zip(index, steps, strict=True)) for index in product(*summed)]
        starts = [sum(i * s for i, s in zip(index, steps, strict=True)) for index in product(*kept)]
        shape = [1 if i in gone else s for i, s in enumerate(const.shape)]
        if not attrs.get("keepdims", 1):
            shape = [s for i, s in enumerate(const.shape) if i not in gone]
        return of_values([simplified(function([values[a + b] for b in offsets])) for a in starts], shape, const.sort)

    return rule


def _size(inputs: Inputs, attrs: Attributes, opset: int) -> Const | None:
    return of_values([inputs[0].size], (), "i") if inputs[0] is not None else None


def _shape(inputs: Inputs, attrs: Attributes, opset: int) -> Const | None:
    return shape_values(inputs[0].shape, attrs) if inputs[0] is not None else None


def shape_values(shape: Sequence[int], attrs: Attributes) -> Const:
    """The result of Shape, with the `start` and `end` of opset 15."""
    part = shape[attrs.get("start", 0) : attrs.get("end", len(shape))]
    return replace(of_values(part, (len(part),), "i"), sized=True)


FOLDS: Mapping[str, Fold] = {
    "Add": _elementwise(_exactly(operator.add)),
    "Sub": _elementwise(_exactly(operator.sub)),
    "Mul": _elementwise(_exactly(operator.mul)),
    "Div": _elementwise(divided),
    "Pow": _elementwise(_power),
    "Mod": _modulo,
    "Min": _elementwise(lambda *values: lowest(values)),
    "Max": _elementwise(lambda *values: highest(values)),
    "Neg": _elementwise(operator.neg),
    "Abs": _elementwise(size_of),
    "Sqrt": _elementwise(math.sqrt),
    "Reciprocal": _elementwise(lambda a: 1 / a),
    "Floor": _elementwise(rounded(lambda a: float(math.floor(a)), up=False)),
    "Ceil": _elementwise(rounded(lambda a: float(math.ceil(a)), up=True)),
    "Round": _elementwise(rounded(lambda a: float(round(a)), up=None)),
    "Equal": _elementwise(same, "b"),
    "Greater": _elementwise(above, "b"),
    "GreaterOrEqual": _elementwise(not_below, "b"),
    "Less": _elementwise(lambda a, b: above(b, a), "b"),
    "LessOrEqual": _elementwise(lambda a, b: not_below(b, a), "b"),
    "And": _elementwise(lambda a, b: bool(a and b), "b"),
    "Or": _elementwise(lambda a, b: bool(a or b), "b"),
    "Not": _elementwise(operator.not_, "b"),
    "Where": _choose,
    "Cast": _cast,
    "Identity": _identity,
    "DequantizeLinear": _dequantized,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Range": _range,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Shape": _shape,
    "Size": _size,
    "ReduceProd": _reduce(prod),
    "ReduceSum": _reduce(sum),
    "ReduceMax": _reduce(highest),
    "ReduceMin": _reduce(lowest),
}
