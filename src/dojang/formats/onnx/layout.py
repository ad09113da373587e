"""ONNX operators that move elements, in dojang's operators: reshape, slice, pad, resize, reduce and the like.

Rules as in `layers.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from dojang.arith.resizing import COORDS
from dojang.arith.shapes import Shape, axis_of, broadcast
from dojang.base.errors import GraphError
from dojang.formats.onnx.batch import BATCH, any_depends, depends, simplified, times
from dojang.formats.onnx.constants import Const, of_values
from dojang.formats.onnx.draft import Call, Draft, NotDone, Reader, Value, batch_axis
from dojang.formats.onnx.fold import axes_of, fold, slices

Rule = Callable[[Reader, Call], Any]

MOST_COPIES = 1024
"""The most outputs of a Split, and copies of a Tile."""

END = 10**9
"""Exporters write this number (tf2onnx) or a larger one for "to the end"; no axis is as long."""


def _axes(call: Call, place: int = 1) -> list[int] | None:
    """The axes of a node, which must not be computed in the network."""
    call.const(place)
    return axes_of([v if isinstance(v, Const) else None for v in call.inputs], call.attrs, place)


def concat(reader: Reader, call: Call) -> Value:
    """Concat."""
    values = [call.value(i) for i in range(len(call.inputs))]
    axis = call.attrs.get("axis", 1)
    batched = [v for v in values if v.shape and v.shape[0] == BATCH]
    if reader.batch == 1 and batched and axis != 0:
        # In a file for one image, values that are equal for all images have a batch of 1.
        values = [reader.per_picture(v) if v.shape and v.shape[0] == 1 else v for v in values]
    return reader.emit("concat", *values, axis=axis)


def flatten(reader: Reader, call: Call) -> Value:
    """Flatten to two axes; with one row per image it is dojang's flatten."""
    axis = call.attrs.get("axis", 1)
    if axis == 1:
        return reader.emit("flatten", call.value(0), axis=1)
    source = reader.draft(call.value(0))
    shape = reader.shape(source)
    axis += len(shape) if axis < 0 else 0
    if not 0 <= axis <= len(shape):
        raise GraphError(f"{call.name}: Flatten at axis {axis} of {len(shape)} axes")
    if axis == 1:
        return reader.emit("flatten", source, axis=1)
    rest = prod(shape[axis:])
    return reader.emit("reshape", source, shape=(-1, rest) if axis else (1, -1))


def reshape(reader: Reader, call: Call) -> Value:
    """Reshape; sizes that depend on the batch become 0 (copied) or -1 (inferred)."""
    source, target = reader.draft(call.value(0)), call.ints(1)
    if target is None:
        raise GraphError(f"{call.name}: Reshape lacks its shape")
    if call.attrs.get("allowzero") and 0 in target:
        raise NotDone("empty")
    return reader.emit("reshape", source, shape=relative(reader, target, source))


def relative(reader: Reader, target: Sequence[int], source: Draft) -> list[int]:
    """The target shape for any batch size, from the one for the batch size of the file.

    Reshaping keeps the memory order, so the product of the sizes before the batch stays the same; if sizes of 1 leave a
    choice, the batch stays on its axis, or goes to an axis of its own. A target that is right for any batch size stays
    as it is.
    """
    shape = source.shape
    if shape is None:
        open_ = sum(t == -1 or bool(times(t)) for t in target)  # of several, the first may be a batch that stays
        return [0 if t == BATCH and i == 0 and open_ > 1 else -1 if times(t) else t for i, t in enumerate(target)]
    total, seen = prod(shape), reader.visible(shape)
    if times(total) is None or any(t == 0 and i >= len(shape) for i, t in enumerate(target)):
        return list(target)
    full = [seen[i] if t == 0 else t for i, t in enumerate(target)]
    if full.count(-1) == 1 and prod(full) < 0:
        full[full.index(-1)] = simplified(prod(seen) // -prod(full))
    if prod(full) != prod(seen) or min(full) < 1:
        return list(target)  # the shape rule says what does not fit
    places = _places(full, reader.batch, source.before)
    if not places:
        raise NotDone("a size that mixes the batch with others")
    kept = [i for i in places if i < len(shape) and shape[i] == full[i] // reader.batch * BATCH]
    alone = [i for i in places if full[i] == reader.batch]
    at = batch_axis(shape) or 0
    tail = [i for i in places if tuple(full[i + 1 :]) == shape[at + 1 :]]  # merged with the axes before it
    head = [i for i in places if tuple(full[:i]) == shape[:at]]  # merged with the axes after it
    if len(full) == 2:
        head = []  # of a matrix the batch belongs to the rows
    place = ([i for i in alone if i in kept] or alone or kept or tail or head or places)[0]
    if target[place] == -1 or (place in kept and target[place] == 0):
        return list(target)
    return [(0 if place in kept else -1) if i == place else s for i, s in enumerate(full)]


def _places(full: Sequence[int], batch: Any, before: int | None) -> list[int]:
    """Axes that can contain the batch, where `before` is the product of the sizes before it."""
    if depends(batch):
        return [i for i, size in enumerate(full) if times(size) is not None]
    if before is None:
        return []
    places: list[int] = []
    outside = 1
    for place, size in enumerate(full):
        if before % outside == 0 and size % (before // outside * batch) == 0:
            places.append(place)
        outside *= size
    return places


def transpose(reader: Reader, call: Call) -> Value:
    """Transpose; all axes reversed where no order is given."""
    source = reader.draft(call.value(0))
    perm = call.attrs.get("perm") or tuple(reversed(range(len(reader.shape(source)))))
    return reader.emit("transpose", source, perm=perm)


def squeeze(reader: Reader, call: Call) -> Value:
    """Squeeze; without axes all of size 1 but the batch."""
    source, axes = reader.draft(call.value(0)), _axes(call)
    if axes is None:
        axes = [i for i, s in enumerate(reader.shape(source)) if s == 1]
    if source.shape is not None:
        rank = len(source.shape)
        if any(source.shape[axis_of(a, rank)] == BATCH for a in axes) and reader.batch == 1:
            raise NotDone("drops the batch")
    return reader.emit("squeeze", source, axes=axes) if axes else source


def unsqueeze(reader: Reader, call: Call) -> Value:
    """Unsqueeze."""
    axes = _axes(call)
    if axes is None:
        raise GraphError(f"{call.name}: Unsqueeze lacks its axes")
    return reader.emit("unsqueeze", call.value(0), axes=axes)


def slice_(reader: Reader, call: Call) -> Value:
    """Slice, one node per sliced axis."""
    source = reader.draft(call.value(0))
    for place in range(1, len(call.inputs)):
        call.const(place)
    shape = reader.shape(source)
    cuts = slices([v if isinstance(v, Const) else None for v in call.inputs], call.attrs, len(shape))
    if cuts is None:
        raise GraphError(f"{call.name}: Slice lacks where it starts or ends")
    real: list[dict[str, Any]] = []
    for axis, start, stop, step in cuts:
        size = shape[axis]
        if depends(size):
            whole = stop == size or (not depends(stop) and stop >= (END if depends(reader.batch) else reader.batch))
            if not (start == 0 and step == 1 and whole):
                raise NotDone("cuts the batch")
            continue
        if depends(start) or depends(stop):
            raise NotDone("ends at the size of the batch")
        first = None if (start == 0 and step > 0) or (step < 0 and start >= END) else start
        last = None if (stop >= END and step > 0) or (step < 0 and stop <= -END) else stop
        if step == 1 and first is None and (last is None or last >= size):
            continue
        if not range(size)[first:last:step]:
            raise NotDone("an empty part")
        real.append({"axis": axis, "start": first, "stop": last, "step": step})
    if not real:
        return reader.emit("identity", source)
    value: Draft = source
    for place, cut in enumerate(real):
        value = reader.emit("slice", value, tag="" if place == len(real) - 1 else str(place), **cut)
    return value


def split(reader: Reader, call: Call) -> list[Value]:
    """Split: one slice per output; of numbers that the file computes, such as sizes, numbers."""
    given = call.value(0)
    shape = reader.shape(given)
    parts = _parts(reader, call, given, shape) if isinstance(given, Const) and given.small else None
    if parts is not None:
        return parts
    source = reader.draft(given)
    axis, count = axis_of(call.attrs.get("axis", 0), len(shape)), len(call.outputs)
    if count == 1 and reader.used[call.outputs[0]]:
        return [reader.emit("identity", source)]
    if depends(shape[axis]):
        raise NotDone("splits the batch")
    if count > MOST_COPIES:
        raise NotDone(f"{count} outputs")
    sizes = call.attrs.get("split") or call.ints(1)
    if sizes is None:
        each = -(-shape[axis] // count)
        sizes = [each] * (count - 1) + [shape[axis] - each * (count - 1)]
    if sum(sizes) != shape[axis] or len(sizes) != count or min(sizes) < 0:
        raise GraphError(f"{call.name}: parts {sizes} do not make up the {shape[axis]} of axis {axis}")
    if min(sizes) == 0:
        raise NotDone("an empty part")
    out: list[Value] = []
    at = 0
    for place, size in enumerate(sizes):
        part = reader.emit("slice", source, tag=str(place) if count > 1 else "", axis=axis, start=at, stop=at + size)
        out.append(part)
        at += size
    return out


def _parts(reader: Reader, call: Call, given: Const, shape: Shape) -> list[Value] | None:
    """The parts of a constant that is no parameter, as constants; None for others, and for sizes that do not fit."""
    axis, count = axis_of(call.attrs.get("axis", 0), len(shape)), len(call.outputs)
    if given.trained or depends(shape[axis]):
        return None
    each = -(-shape[axis] // count)
    sizes = call.attrs.get("split") or call.ints(1) or [each] * (count - 1) + [shape[axis] - each * (count - 1)]
    if sum(sizes) != shape[axis] or len(sizes) != count or min(sizes) < 1:
        return None
    out: list[Value] = []
    for place, size in enumerate(sizes):
        at = sum(sizes[:place])
        ends = [of_values([v], (1,), "i") for v in (at, at + size, axis)]
        part = fold("Slice", [given, *ends], {}, max(reader.opset, 13))
        if part is None:
            return None
        out.append(part)
    return out


def gather(reader: Reader, call: Call) -> Value:
    """Gather at constant indices."""
    source, indices = reader.draft(call.value(0)), call.needed(1)
    shape = reader.shape(source)
    axis = axis_of(call.attrs.get("axis", 0), len(shape))
    if depends(shape[axis]):
        raise NotDone("picks from the batch")
    if not indices.small or not indices.size:
        raise NotDone(f"{indices.size} indices")
    picks = [int(v) for v in indices.values()]
    if not indices.shape:
        stop = picks[0] + 1 if picks[0] != -1 else None
        part = reader.emit("slice", source, axis=axis, start=picks[0], stop=stop, tag="picked")
        return reader.emit("squeeze", part, axes=(axis,))
    if len(indices.shape) == 1:
        return reader.emit("gather", source, axis=axis, indices=picks)
    part = reader.emit("gather", source, axis=axis, indices=picks, tag="picked")
    return _fold(reader, part, [*shape[:axis], *indices.shape, *shape[axis + 1 :]])


def _fold(reader: Reader, source: Draft, shape: Sequence[int], tag: str = "") -> Draft:
    """A reshape to sizes, one of which may be the batch."""
    batched = [i for i, s in enumerate(shape) if depends(s)]
    if len(batched) > 1:
        raise NotDone("the batch in two places")
    return reader.emit("reshape", source, shape=[-1 if i in batched else s for i, s in enumerate(shape)], tag=tag)


def pad(reader: Reader, call: Call) -> Value:
    """Pad, of the axes from the first padded one on."""
    source = reader.draft(call.value(0))
    rank = len(reader.shape(source))
    given = call.attrs["pads"] if "pads" in call.attrs else call.ints(1)
    if given is None:
        raise GraphError(f"{call.name}: Pad lacks its pads")
    axes = call.ints(3)
    axes = [axis_of(a, rank) for a in axes] if axes is not None else list(range(rank))
    if len(given) != 2 * len(axes):
        raise GraphError(f"{call.name}: {len(given)} pads for {len(axes)} axes; it takes two per axis")
    pairs = [(0, 0)] * rank
    for place, axis in enumerate(axes):
        pairs[axis] = (given[place], given[place + len(axes)])
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    mode = call.attrs.get("mode", "constant")
    if mode not in modes:
        raise GraphError(f"{call.name}: pad mode {mode!r} is not known")
    const = call.const(2)
    value = call.attrs.get("value", 0.0)
    if const is not None:
        value = const.fill if const.fill is not None else const.values()[0]
    first = next((i for i, p in enumerate(pairs) if p != (0, 0)), rank)
    if first == 0:
        raise NotDone("pads the batch")
    if first == rank:
        return reader.emit("identity", source)
    return reader.emit("pad", source, pads=pairs[first:], mode=modes[mode], value=float(value))


def resize(reader: Reader, call: Call) -> Value:
    """Resize and Upsample of the spatial axes."""
    source, attrs = reader.draft(call.value(0)), call.attrs
    shape = reader.shape(source)
    rank = len(shape)
    sizes: list[int] | None = None
    if call.op == "Upsample" or reader.opset < 11:
        scales = list(attrs["scales"]) if "scales" in attrs else call.needed(1).values()
        coords, rounding = "asymmetric", "floor"
    else:
        const = call.const(2)
        scales = list(const.values()) if const is not None and const.size else None
        sizes = call.ints(3)
        coords = attrs.get("coordinate_transformation_mode", "half_pixel")
        rounding = attrs.get("nearest_mode", "round_prefer_floor")
    if (scales is None) == (sizes is None or not sizes):
        raise GraphError(f"{call.name}: Resize takes either scales or sizes")
    mode = str(attrs.get("mode", "nearest")).replace("bilinear", "linear").replace("bicubic", "cubic")
    for key in ("antialias", "exclude_outside"):
        if attrs.get(key):
            raise NotDone(key)
    axes = [axis_of(a, rank) for a in attrs["axes"]] if attrs.get("axes") else list(range(rank))
    if len(axes) != len(sizes or scales or ()):
        raise GraphError(f"{call.name}: Resize has {len(sizes or scales or ())} sizes for {len(axes)} axes")
    policy = attrs.get("keep_aspect_ratio_policy", "stretch")
    if sizes is not None and policy != "stretch":
        if any_depends(shape[a] for a in axes):
            raise NotDone("batch or channels")
        ratios = [s / shape[a] for s, a in zip(sizes, axes, strict=True)]
        one = min(ratios) if policy == "not_larger" else max(ratios)
        sizes = [int(one * shape[a] + 0.5) for a in axes]
    seen = reader.visible(shape)
    factors = dict(zip(axes, scales, strict=True)) if scales is not None else {}
    wanted = dict(zip(axes, sizes, strict=True)) if sizes is not None else {}
    for axis in (0, 1):
        if factors.get(axis, 1.0) != 1.0 or wanted.get(axis, seen[axis]) != seen[axis]:
            raise NotDone("batch or channels")
    if any_depends(shape[2:]):
        raise NotDone("batch or channels")
    if coords not in COORDS:
        raise NotDone(str(coords))
    if rank < 3:
        raise NotDone("no spatial axes")
    own: dict[str, Any] = {"mode": mode, "coords": coords, "rounding": rounding}
    own["cubic_a"] = attrs.get("cubic_coeff_a", -0.75)
    if sizes is not None:
        return reader.emit("resize", source, size=[wanted.get(a, shape[a]) for a in range(2, rank)], **own)
    scale = [factors.get(a, 1.0) for a in range(2, rank)]
    if mode == "nearest" and reader.opset == 10 and call.op == "Resize" and min(scale) < 1:
        # In that version ONNX Runtime takes the next pixel when it shrinks an axis; enlarged axes come first.
        larger = [max(f, 1.0) for f in scale]
        if max(scale) > 1:
            source = reader.emit("resize", source, scale=larger, tag="enlarged", **own)
        return reader.emit("resize", source, scale=[min(f, 1.0) for f in scale], **{**own, "rounding": "ceil"})
    return reader.emit("resize", source, scale=scale, **own)


def _reduce_axes(reader: Reader, call: Call, source: Draft) -> list[int] | None:
    """Axes to reduce; None if there is nothing to reduce."""
    axes = _axes(call)
    if axes:
        return axes
    if call.attrs.get("noop_with_empty_axes"):
        return None
    return list(range(len(reader.shape(source))))


def reduce(op: str) -> Rule:
    """ReduceMean, ReduceSum, ReduceMax, ReduceMin."""

    def rule(reader: Reader, call: Call) -> Value:
        source = reader.draft(call.value(0))
        if op == "reduce_mean" and source.sort != "f":
            raise NotDone("whole numbers")
        axes = _reduce_axes(reader, call, source)
        if axes is None:
            return reader.emit("identity", source)
        return reader.emit(op, source, axes=axes, keepdims=bool(call.attrs.get("keepdims", 1)))

    return rule


def reduce_norm(before: str, after: str) -> Rule:
    """ReduceL1, L2, SumSquare, LogSum: an operator before the sum, one after it."""

    def rule(reader: Reader, call: Call) -> Value:
        source = reader.draft(call.value(0))
        axes = _reduce_axes(reader, call, source)
        if axes is None:
            raise NotDone("no axes")
        value: Draft = source
        if before == "square":
            value = reader.emit("mul", source, source, tag="squared")
        elif before:
            value = reader.emit(before, source, tag=before)
        keepdims = bool(call.attrs.get("keepdims", 1))
        value = reader.emit("reduce_sum", value, axes=axes, keepdims=keepdims, tag="sum" if after else "")
        return reader.emit(after, value) if after else value

    return rule


def log_sum_exp(reader: Reader, call: Call) -> Value:
    """ReduceLogSumExp; the largest value is subtracted first, so that nothing overflows."""
    source = reader.draft(call.value(0))
    axes = _reduce_axes(reader, call, source)
    if axes is None:
        return reader.emit("identity", source)
    keepdims = bool(call.attrs.get("keepdims", 1))
    top = reader.emit("reduce_max", source, axes=axes, keepdims=True, tag="top")
    powers = reader.emit("exp", reader.emit("sub", source, top, tag="below"), tag="exp")
    total = reader.emit("reduce_sum", powers, axes=axes, keepdims=True, tag="sum")
    value = reader.emit("add", reader.emit("log", total, tag="log"), top, tag="" if keepdims else "kept")
    if keepdims:
        return value
    rank = len(reader.shape(source))
    return reader.emit("squeeze", value, axes=sorted({axis_of(a, rank) for a in axes}))


def expand(reader: Reader, call: Call) -> Value:
    """Expand; where it stretches, it becomes a multiplication by ones."""
    source, target = reader.draft(call.value(0)), call.ints(1)
    if target is None:
        raise GraphError(f"{call.name}: Expand lacks its shape")
    shape = reader.shape(source)
    wide = broadcast({}, [reader.visible(shape), tuple(target)])
    full = (1,) * (len(wide) - len(shape)) + shape
    if wide == reader.visible(full):
        return reader.emit("identity", source) if len(full) == len(shape) else _fold(reader, source, full)
    ones = [1 if f == w or depends(f) else w for w, f in zip(wide, full, strict=True)]
    if not any_depends(ones):
        return reader.emit("mul", source, reader.fill(1.0, *ones))
    if ones[0] != BATCH or full[0] != 1 or any_depends(ones[1:]):
        raise NotDone("to the batch")
    first = source if len(shape) == len(full) else _fold(reader, source, full, tag="axes")
    value = reader.per_picture(first, tag="" if all(o == 1 for o in ones[1:]) else "pictures")
    return reader.emit("mul", value, reader.fill(1.0, 1, *ones[1:])) if any(o != 1 for o in ones[1:]) else value


def tile(reader: Reader, call: Call) -> Value:
    """Tile: a concat of copies per axis."""
    value, repeats = reader.draft(call.value(0)), call.ints(1)
    shape = reader.shape(value)
    if repeats is None or len(repeats) != len(shape):
        raise GraphError(f"{call.name}: Tile takes one repeat per axis")
    if repeats[0] == BATCH and shape[0] == 1:
        value, repeats = (
            reader.per_picture(value, tag="" if max(repeats[1:], default=1) == 1 else "pictures"),
            [1, *repeats[1:]],
        )
        if all(r == 1 for r in repeats):
            return value
    if (
        any_depends(repeats)
        or min(repeats) < 1
        or prod(repeats) > MOST_COPIES
        or (depends(shape[0]) and repeats[0] != 1)
    ):
        raise NotDone(f"repeats {repeats}")
    work = [axis for axis, r in enumerate(repeats) if r != 1]
    for axis in work:
        value = reader.emit("concat", *[value] * repeats[axis], axis=axis, tag="" if axis == work[-1] else str(axis))
    return value if work else reader.emit("identity", value)


def depth_to_space(reader: Reader, call: Call) -> Value:
    """DepthToSpace: reshape, transpose, reshape."""
    source, b = reader.draft(call.value(0)), call.attrs["blocksize"]
    n, c, h, w = _four(reader, call, source)
    if b < 1 or c % (b * b):
        raise GraphError(f"{call.name}: {c} channels do not hold blocks of {b}x{b}")
    if call.attrs.get("mode", "DCR") == "DCR":
        shape, perm = (n, b, b, c // (b * b), h, w), (0, 3, 4, 1, 5, 2)
    else:
        shape, perm = (n, c // (b * b), b, b, h, w), (0, 1, 4, 2, 5, 3)
    turned = reader.emit("transpose", _fold(reader, source, shape, tag="blocks"), perm=perm, tag="turned")
    return _fold(reader, turned, (n, c // (b * b), h * b, w * b))


def space_to_depth(reader: Reader, call: Call) -> Value:
    """SpaceToDepth: reshape, transpose, reshape."""
    source, b = reader.draft(call.value(0)), call.attrs["blocksize"]
    n, c, h, w = _four(reader, call, source)
    if b < 1 or h % b or w % b:
        raise GraphError(f"{call.name}: {h}x{w} does not divide into blocks of {b}x{b}")
    blocks = _fold(reader, source, (n, c, h // b, b, w // b, b), tag="blocks")
    perm = (0, 3, 5, 1, 2, 4) if call.attrs.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    turned = reader.emit("transpose", blocks, perm=perm, tag="turned")
    return _fold(reader, turned, (n, c * b * b, h // b, w // b))


def _four(reader: Reader, call: Call, source: Draft) -> tuple[int, int, int, int]:
    shape = reader.shape(source)
    if len(shape) != 4:
        raise GraphError(f"{call.name}: {call.op} takes 4 axes, got {len(shape)}")
    return shape[0], shape[1], shape[2], shape[3]


def size(reader: Reader, call: Call) -> Value:
    """Size, a number."""
    shape = reader.shape(reader.draft(call.value(0)))
    return of_values([prod(reader.visible(shape))], (), "i")


RULES: Mapping[str, Rule] = {
    "Concat": concat,
    "Flatten": flatten,
    "Reshape": reshape,
    "Transpose": transpose,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Slice": slice_,
    "Split": split,
    "Gather": gather,
    "Pad": pad,
    "Resize": resize,
    "Upsample": resize,
    "ReduceMean": reduce("reduce_mean"),
    "ReduceSum": reduce("reduce_sum"),
    "ReduceMax": reduce("reduce_max"),
    "ReduceMin": reduce("reduce_min"),
    "ReduceL1": reduce_norm("abs", ""),
    "ReduceL2": reduce_norm("square", "sqrt"),
    "ReduceSumSquare": reduce_norm("square", ""),
    "ReduceLogSum": reduce_norm("", "log"),
    "ReduceLogSumExp": log_sum_exp,
    "Expand": expand,
    "Tile": tile,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Size": size,
}
