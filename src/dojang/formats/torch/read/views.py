"""PyTorch functions that move data about: views, order of axes, indexing, cutting, joining, padding."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch

from dojang.arith.shapes import axis_of
from dojang.base.errors import ShapeError
from dojang.formats.torch.read.ops import lowers, per_axis, same
from dojang.formats.torch.read.trace import Tracer
from dojang.formats.torch.read.traced import HANDLERS, VIEWS, DataDependent, Stale, Traced


def _sizes(given: tuple[Any, ...]) -> tuple[int, ...]:
    """Sizes given one by one or as one sequence."""
    if len(given) == 1 and isinstance(given[0], list | tuple):
        given = tuple(given[0])
    return tuple(int(s) for s in given)


@lowers("reshape", "view", "unsafe_view", "_unsafe_view")
def reshape(t: Tracer, x: Traced, *shape: Any, **kwargs: Any) -> Any:
    """Other sizes for the same elements. The batch is copied from the input where it stays in place, or inferred."""
    if "dtype" in kwargs or (shape and isinstance(shape[0], torch.dtype)):
        return same(t, x, *shape, **kwargs)
    wanted = _sizes(shape or tuple(kwargs.values()))
    full = _complete(wanted, x)
    if full == x.sizes:
        return same(t, x)
    if x.dim() > 1 and len(full) > 0 and full == (*x.sizes[: len(full) - 1], prod(x.sizes[len(full) - 1 :])):
        return t.emit("flatten", x, axis=len(full) - 1)
    return t.emit("reshape", x, shape=_reshape_attr(t, full, x))


def _complete(wanted: Sequence[int], x: Traced) -> tuple[int, ...]:
    total, known = prod(x.sizes), prod(w for w in wanted if w != -1)
    full = tuple(total // known if w == -1 and known else w for w in wanted)
    if prod(full) != total:
        raise ShapeError(f"reshape: {total} elements do not fit into {wanted}")
    return full


def _reshape_attr(t: Tracer, full: Sequence[int], x: Traced) -> tuple[int, ...]:
    out: list[int] = []
    for i, size in enumerate(full):
        batched = size % t.batch == 0 if t.batch > 1 else i == 0
        if batched and i < x.dim() and x.sizes[i] == size:
            out.append(0)
        elif batched and t.batch > 1 and -1 not in out:
            out.append(-1)
        else:
            out.append(size)
    if t.batch > 1 and any(w > 0 and w % t.batch == 0 for w in out):
        raise Stale(f"reshape to {tuple(full)} has the batch in two places")
    return tuple(out)


@lowers("view_as", "reshape_as")
def view_as(t: Tracer, x: Any, other: Any) -> Any:
    """The shape of another tensor."""
    return reshape(t, t.value(x), *other.shape)


@lowers("flatten")
def flatten(t: Tracer, x: Traced, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Some axes as one."""
    start, end = axis_of(start_dim, x.dim()), axis_of(end_dim, x.dim())
    if end == x.dim() - 1 and start > 0:
        return t.emit("flatten", x, axis=start)
    return reshape(t, x, *x.sizes[:start], prod(x.sizes[start : end + 1]), *x.sizes[end + 1 :])


@lowers("unflatten")
def unflatten(t: Tracer, x: Traced, dim: int, sizes: Any) -> Any:
    """One axis as several."""
    axis = axis_of(dim, x.dim())
    inner, known = tuple(sizes), prod(s for s in sizes if s != -1)
    inner = tuple(x.sizes[axis] // known if s == -1 else s for s in inner)
    return reshape(t, x, *x.sizes[:axis], *inner, *x.sizes[axis + 1 :])


@lowers("permute")
def permute(t: Tracer, x: Any, *dims: Any, **kwargs: Any) -> Any:
    """Axes in a given order."""
    x = t.value(x)
    perm = tuple(axis_of(d, x.dim()) for d in _sizes(dims or tuple(kwargs.values())))
    return same(t, x) if perm == tuple(range(x.dim())) else t.emit("transpose", x, perm=perm)


@lowers("transpose", "swapaxes", "swapdims")
def transpose(t: Tracer, x: Any, dim0: int, dim1: int) -> Any:
    """Two axes exchanged."""
    x = t.value(x)
    perm = list(range(x.dim()))
    a, b = axis_of(dim0, x.dim()), axis_of(dim1, x.dim())
    perm[a], perm[b] = b, a
    return permute(t, x, *perm)


@lowers("t", "T", "mT", "H", "adjoint", "numpy_T", "matrix_H")
def turned(t: Tracer, x: Any) -> Any:
    """The last two axes exchanged, or for T all axes reversed."""
    x = t.value(x)
    if x.dim() < 2:
        return same(t, x)
    return permute(t, x, *reversed(range(x.dim()))) if t.func == "T" else transpose(t, x, -2, -1)


@lowers("movedim", "moveaxis")
def movedim(t: Tracer, x: Traced, source: Any, destination: Any) -> Any:
    """Axes moved to given places."""
    sources = [axis_of(a, x.dim()) for a in per_axis(source, 1)]
    targets = [axis_of(a, x.dim()) for a in per_axis(destination, 1)]
    rest = iter(a for a in range(x.dim()) if a not in sources)
    at = dict(zip(targets, sources, strict=True))
    return permute(t, x, *(at[i] if i in at else next(rest) for i in range(x.dim())))


@lowers("squeeze")
def squeeze(t: Tracer, x: Traced, dim: Any = None) -> Any:
    """Axes of size 1 dropped; others are left."""
    dims = range(x.dim()) if dim is None else per_axis(dim, 1)
    axes = tuple(a for a in sorted(axis_of(d, x.dim()) for d in dims) if x.sizes[a] == 1)
    return t.emit("squeeze", x, axes=axes) if axes else same(t, x)


@lowers("unsqueeze")
def unsqueeze(t: Tracer, x: Any, dim: int) -> Any:
    """An axis of size 1 put in."""
    x = t.value(x)
    return t.emit("unsqueeze", x, axes=(axis_of(dim, x.dim() + 1),))


# -- cutting -------------------------------------------------------------------------------------------------------


def cut(t: Tracer, x: Traced, axis: int, start: Any, stop: Any, step: int = 1, part: str | None = None) -> Any:
    """A slice along one axis; the whole axis is no slice. Ends at or past the end are left open."""
    size = x.sizes[axis]
    begin, end, _ = slice(start, stop, step).indices(size)
    if step == 1 and begin == 0 and end >= size:
        return x
    if t.batch > 1 and size % t.batch == 0 and size > t.batch and step == 1 and begin % t.batch == end % t.batch == 0:
        # several batches behind each other, as joined along axis 0: whole ones of them
        lead, rest = x.sizes[:axis], x.sizes[axis + 1 :]
        apart = t.emit("reshape", x, part="batches", shape=(*lead, size // t.batch, -1, *rest))
        some = t.emit("slice", apart, part=part, axis=axis, start=begin // t.batch or None, stop=end // t.batch, step=1)
        return t.emit("reshape", some, part="together", shape=(*lead, -1, *rest))
    if not range(begin, end, step):  # no node says nothing: a tensor without numbers, which joins leave out
        return torch.zeros(tuple(0 if a == axis else s for a, s in enumerate(x.sizes)), dtype=x.dtype, device=t.device)
    attrs = {"start": begin or None, "stop": None if end >= size else end, "step": step}
    return t.emit("slice", x, part=part, axis=axis, **attrs)


def getitem(t: Tracer, x: Any, index: Any) -> Any:
    """Indexing by numbers, slices, None, Ellipsis, and one list or tensor of real indices; `places.py` has others."""
    x = t.value(x)
    items = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(i, bool | Traced) for i in items):
        return NotImplemented
    if any(i is Ellipsis for i in items):
        at = next(k for k, i in enumerate(items) if i is Ellipsis)
        used = sum(1 for i in items if i is not None and i is not Ellipsis)
        items[at : at + 1] = [slice(None)] * (x.dim() - used)
    axis, value = 0, x
    squeezed: list[int] = []
    added: list[int] = []
    out_axis, fancy = 0, 0
    for item in items:
        if item is None:
            added.append(out_axis)
            out_axis += 1
            continue
        if isinstance(item, torch.Tensor) and item.dim() == 0 and not item.dtype.is_floating_point:
            item = int(item)
        if isinstance(item, int):
            place = axis_of(item, x.sizes[axis]) if -x.sizes[axis] <= item < x.sizes[axis] else None
            if place is None:
                raise IndexError(f"index {item} is outside an axis of size {x.sizes[axis]}")
            value = cut(t, value, axis, place, place + 1)
            squeezed.append(axis)
        elif isinstance(item, slice):
            if any(isinstance(v, torch.Tensor) for v in (item.start, item.stop, item.step)):
                return NotImplemented
            value = cut(t, value, axis, item.start, item.stop, item.step or 1)
            if not isinstance(value, Traced):  # without numbers, whatever the other axes keep
                return torch.zeros((), dtype=x.dtype, device=t.device).expand(tuple(x.sizes))[tuple(items)]
            out_axis += 1
        elif isinstance(item, list | torch.Tensor):
            picks = torch.as_tensor(item)
            fancy += 1
            if picks.dtype == torch.bool or fancy > 1 or squeezed or added or picks.device.type == "meta":
                return NotImplemented
            value = t.emit("gather", value, axis=axis, indices=tuple(int(i) for i in picks.reshape(-1)))
            if picks.dim() != 1:
                value = reshape(t, value, *value.sizes[:axis], *picks.shape, *value.sizes[axis + 1 :])
                if len(items) > axis + 1:
                    return NotImplemented
            out_axis += 1
        else:
            return NotImplemented
        axis += 1
    if squeezed:
        value = t.emit("squeeze", value, axes=tuple(squeezed))
    if added:
        value = t.emit("unsqueeze", value, axes=tuple(added))
    return same(t, x) if value is x else value


@lowers("index", "index_select")
def index_select(t: Tracer, x: Any, dim: Any, index: Any = None) -> Any:
    """Picks along one axis; ATen's form is a list with one tensor per axis."""
    if isinstance(dim, list | tuple):
        return HANDLERS["getitem"](t, x, tuple(slice(None) if i is None else i for i in dim))
    return getitem(t, x, (slice(None),) * axis_of(dim, t.value(x).dim()) + (index,))


@lowers("select")
def select(t: Tracer, x: Any, dim: int, index: int) -> Any:
    """One place along an axis."""
    return getitem(t, x, (slice(None),) * axis_of(dim, t.value(x).dim()) + (int(index),))


@lowers("narrow")
def narrow(t: Tracer, x: Any, dim: int, start: int, length: int) -> Any:
    """`length` places from `start`."""
    return getitem(t, x, (slice(None),) * axis_of(dim, t.value(x).dim()) + (slice(start, start + length),))


@lowers("slice")
def slice_aten(t: Tracer, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    """ATen's slice."""
    return getitem(t, x, (slice(None),) * axis_of(dim, t.value(x).dim()) + (slice(start, end, step),))


@lowers("slice_scatter")
def slice_scatter(
    t: Tracer, x: Traced, src: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    """A copy in which one slice is replaced."""
    axis = axis_of(dim, x.dim())
    begin, stop, _ = slice(start, end, step).indices(x.sizes[axis])
    if step != 1:
        return NotImplemented
    pieces = [cut(t, x, axis, 0, begin, part="before")] if begin else []
    pieces.append(t.value(src))
    if stop < x.sizes[axis]:
        pieces.append(cut(t, x, axis, stop, None, part="after"))
    return t.emit("concat", *pieces, axis=axis) if len(pieces) > 1 else pieces[0]


@lowers("select_scatter")
def select_scatter(t: Tracer, x: Traced, src: Any, dim: int, index: int) -> Any:
    """A copy in which one place along an axis is replaced."""
    axis = axis_of(dim, x.dim())
    begin = axis_of(index, x.sizes[axis])
    return slice_scatter(t, x, unsqueeze(t, src, axis), axis, begin, begin + 1)


SPLIT_AXES = {"hsplit": 1, "vsplit": 0, "dsplit": 2}
"""Splits along an axis that their names say; of one axis, along that."""
SPLITS = ("split", "split_with_sizes", "chunk", "tensor_split", *SPLIT_AXES)
"""Functions whose results are consecutive slices that share memory with the whole."""


def split_axis(name: str, dim: int, rank: int) -> int:
    """The axis along which a function of `SPLITS` cuts."""
    return min(SPLIT_AXES[name], rank - 1) if name in SPLIT_AXES else dim


@lowers("split", "split_with_sizes", "unsafe_split")
def split(t: Tracer, x: Traced, split_size_or_sections: Any = None, dim: int = 0, *, split_size: Any = None,
          split_sizes: Any = None) -> Any:  # fmt: skip
    """Consecutive slices of one size, or of given sizes."""
    wanted = next(v for v in (split_size_or_sections, split_size, split_sizes) if v is not None)
    axis = axis_of(dim, x.dim())
    size = x.sizes[axis]
    sizes = [min(wanted, size - i) for i in range(0, size, wanted)] if isinstance(wanted, int) else list(wanted)
    if sum(sizes) != size:
        raise ShapeError(f"{t.place}: split into {sizes} does not make up {size}")
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(t_copy(t, cut(t, x, axis, s, s + n), x) for s, n in zip(starts, sizes, strict=True))


@lowers("tensor_split", "hsplit", "vsplit", "dsplit")
def tensor_split(t: Tracer, x: Any, indices_or_sections: Any = None, dim: int = 0, *, indices: Any = None,
                 sections: Any = None, tensor_indices_or_sections: Any = None) -> Any:  # fmt: skip
    """So many slices, the first ones longer by one; or slices that end where `indices` say, as Python's slices do."""
    x = t.value(x)
    given = (indices_or_sections, indices, sections, tensor_indices_or_sections)
    wanted = next(v for v in given if v is not None)
    if isinstance(wanted, torch.Tensor):
        wanted = wanted.tolist()
    axis = axis_of(split_axis(t.func, dim, x.dim()), x.dim())
    size = x.sizes[axis]
    if isinstance(wanted, int):
        if t.func in SPLIT_AXES and size % wanted:
            raise ShapeError(f"{t.place}: {size} places cannot be split into {wanted} equal parts")
        ends = [i * (size // wanted) + min(i, size % wanted) for i in range(1, wanted)]
    else:
        ends = [int(i) for i in wanted]
    return tuple(
        t_copy(t, cut(t, x, axis, start, stop), x) for start, stop in zip([None, *ends], [*ends, None], strict=True)
    )


def t_copy(t: Tracer, value: Traced, source: Traced) -> Traced:
    """A value of its own where a cut was the whole."""
    return same(t, value) if value is source else value


@lowers("chunk", "unsafe_chunk")
def chunk(t: Tracer, x: Traced, chunks: int, dim: int = 0) -> Any:
    """At most `chunks` slices of equal size, the last one smaller."""
    return split(t, x, -(-x.sizes[axis_of(dim, x.dim())] // chunks), dim)


@lowers("unbind")
def unbind(t: Tracer, x: Any, dim: int = 0) -> Any:
    """Every place along an axis."""
    x = t.value(x)
    axis = axis_of(dim, x.dim())
    if t.batch > 1 and x.sizes[axis] % t.batch == 0:
        raise DataDependent(f"{t.place}: loops over the batch, which stays open here; work on the whole batch")
    return tuple(select(t, x, axis, i) for i in range(x.sizes[axis]))


@lowers("iter")
def iterate(t: Tracer, x: Traced) -> Any:
    """A loop over the first axis."""
    return iter(unbind(t, x, 0))


# -- joining and widening ------------------------------------------------------------------------------------------


@lowers("cat", "concat", "concatenate")
def cat(t: Tracer, tensors: Any, dim: int = 0) -> Any:
    """Joined along an axis; tensors without numbers are left out."""
    values = [t.value(v) for v in tensors if isinstance(v, Traced) or v.numel()]
    if not values:
        return NotImplemented
    if len(values) == 1:
        return values[0] if isinstance(values[0], Traced) else NotImplemented
    return t.emit("concat", *values, axis=axis_of(dim, values[0].dim()))


@lowers("stack")
def stack(t: Tracer, tensors: Any, dim: int = 0) -> Any:
    """Joined along a new axis."""
    values = [t.value(v) for v in tensors]
    axis = axis_of(dim, values[0].dim() + 1)
    wide = [t.emit("unsqueeze", v, part="unsqueeze", axes=(axis,)) for v in values]
    return t.emit("concat", *wide, axis=axis)


@lowers("expand", "broadcast_to")
def expand(t: Tracer, x: Any, *sizes: Any, implicit: bool = False, size: Any = None) -> Any:
    """Axes of size 1 repeated, by a product with ones; ones along the batch come from an input to the power 0."""
    x = t.value(x)
    wanted = _sizes(sizes or (size,))
    new = len(wanted) - x.dim()
    full = tuple(x.sizes[i - new] if s == -1 else s for i, s in enumerate(wanted))
    if full == x.sizes:
        return same(t, x)
    batched = [i for i, s in enumerate(full) if s % t.batch == 0 and t.batch > 1 and
               not (i >= new and x.sizes[i - new] == s)]  # fmt: skip
    if len(batched) > 1 or any(full[i] != t.batch for i in batched):
        return NotImplemented
    grown = (1,) * new + x.sizes
    rest = tuple(1 if i in batched or a == s else s for i, (a, s) in enumerate(zip(grown, full, strict=True)))
    if any(s != 1 for s in rest) or new:
        x = t.emit("mul", x, t.emit("constant", part="ones", shape=rest, fill=1.0), part="widen")
    return t.emit("mul", x, batch_ones(t, len(full), batched[0]), part="batch") if batched else x


def batch_ones(t: Tracer, rank: int, axis: int = 0) -> Traced:
    """Ones of shape (1, ..., batch, ..., 1), exactly, whatever the input holds: x⁰ = 1."""
    value = t.images[0]
    for other in range(1, value.dim()):
        value = cut(t, value, other, 0, 1, part="one")
    if value.dim() != rank or axis:
        value = t.emit("reshape", value, part="ones", shape=tuple(-1 if a == axis else 1 for a in range(rank)))
    return t.emit("pow", value, t.emit("constant", part="zero", shape=(1,), fill=0.0), part="ones")


@lowers("expand_as")
def expand_as(t: Tracer, x: Any, other: Any) -> Any:
    """As wide as another."""
    return expand(t, x, *other.shape)


@lowers("copy")
def copy(t: Tracer, x: Traced, source: Any, non_blocking: bool = False) -> Any:
    """The source, as wide as what it replaces."""
    return expand(t, source, *x.shape)


@lowers("repeat", "tile")
def repeat(t: Tracer, x: Any, *counts: Any) -> Any:
    """Axes joined to themselves."""
    x, times = t.value(x), _sizes(counts)
    if t.func == "tile" and len(times) < x.dim():
        times = (1,) * (x.dim() - len(times)) + times
    for _ in range(len(times) - x.dim()):
        x = t.emit("unsqueeze", x, part="unsqueeze", axes=(0,))
    for axis, count in enumerate(times):
        if count > 1 and x.sizes[axis] == 1:
            x = expand(t, x, *(count if i == axis else -1 for i in range(x.dim())))
        elif count > 1 and count % t.batch:
            x = t.emit("concat", *[x] * count, part="repeat", axis=axis)
        elif count != 1:
            return NotImplemented
    return x


@lowers("repeat_interleave")
def repeat_interleave(t: Tracer, x: Traced, repeats: Any, dim: Any = None, *, output_size: Any = None) -> Any:
    """Each place of an axis several times."""
    if not isinstance(repeats, int) or dim is None:
        return NotImplemented
    axis = axis_of(dim, x.dim())
    if t.batch > 1 and x.sizes[axis] % t.batch == 0:  # the batch has no number: an axis of copies behind it
        lead, rest = x.sizes[: axis + 1], x.sizes[axis + 1 :]
        wide = expand(t, t.emit("unsqueeze", x, part="copies", axes=(axis + 1,)), *lead, repeats, *rest)
        return reshape(t, wide, *lead[:-1], lead[-1] * repeats, *rest)
    return t.emit("gather", x, axis=axis, indices=tuple(i // repeats for i in range(x.sizes[axis] * repeats)))


@lowers("flip")
def flip(t: Tracer, x: Traced, *dims: Any) -> Any:
    """Axes backwards."""
    for axis in _sizes(dims):
        x = t.emit("gather", x, axis=axis_of(axis, x.dim()), indices=tuple(reversed(range(x.sizes[axis]))))
    return x


@lowers("roll")
def roll(t: Tracer, x: Traced, shifts: Any, dims: Any = None) -> Any:
    """Axes turned round by some places."""
    if dims is None:
        return NotImplemented
    for shift, dim in zip(per_axis(shifts, 1), per_axis(dims, 1), strict=True):
        axis = axis_of(dim, x.dim())
        size = x.sizes[axis]
        if shift % size:
            last = cut(t, x, axis, size - shift % size, None, part="end")
            x = t.emit("concat", last, cut(t, x, axis, 0, size - shift % size, part="start"), axis=axis)
    return x


@lowers("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
        "replication_pad1d", "replication_pad2d", "replication_pad3d")  # fmt: skip
def pad(t: Tracer, x: Traced, pad: Any, mode: Any = "constant", value: Any = None) -> Any:
    """Padding, given from the last axis backwards; negative crops."""
    if t.func == "constant_pad_nd" and not isinstance(mode, str):
        mode, value = "constant", mode
    elif t.func.startswith(("reflection", "replication")):
        mode = "reflect" if t.func.startswith("reflection") else "replicate"
    flat = _sizes((pad,))
    pairs = tuple(reversed([(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)]))
    if not any(a or b for a, b in pairs):
        return same(t, x)
    path, leaf = t.stack[-1]
    inside = leaf and "pad" not in type_name(t, path)
    return t.emit("pad", x, part="pad" if inside else None, pads=pairs, mode=mode, value=float(value or 0.0))


def type_name(t: Tracer, path: str) -> str:
    """The class of the module at a path, in small letters."""
    return next((type(m).__name__.lower() for m in t.modules if t.paths[id(m)] == path), "")


@lowers("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty")
def filled(t: Tracer, *args: Any, **kwargs: Any) -> Any:
    """A constant of the batch's size; without the batch a real tensor, in the precision of the one that asks for it."""
    sizes, kind = list(args), t.func.removeprefix("new_")
    if t.func.startswith("new_"):
        if not t.wants(kind, args[1:], kwargs):
            like = {"dtype": args[0].dtype, "device": args[0].device}
            return t.real(getattr(torch, kind), kind, args[1:], {**like, **kwargs})
        sizes = sizes[1:]
    size = kwargs.get("size")
    if kind == "full":
        value = kwargs.get("fill_value", sizes[-1] if sizes else 0)
        size = size if size is not None else sizes[0]
    else:
        value = 1.0 if kind == "ones" else 0.0
        size = size if size is not None else sizes
    return t.fill(float(value), _sizes(tuple(size) if isinstance(size, list | tuple) else (size,)))


@lowers("zeros_like", "ones_like", "full_like", "empty_like")
def filled_like(t: Tracer, x: Any, fill_value: Any = None, **kwargs: Any) -> Any:
    """A constant of another's shape."""
    return t.fill(float(fill_value if fill_value is not None else t.func == "ones_like"), tuple(x.shape))


@lowers("zero", "fill")
def refilled(t: Tracer, x: Traced, value: Any = 0.0) -> Any:
    """One number everywhere."""
    if isinstance(value, torch.Tensor):
        return expand(t, value, *x.sizes)
    return t.fill(float(value), x.sizes)


LARGE = torch.finfo(torch.float32).max
"""Stands for infinity, which weights may not hold."""


@lowers("masked_fill")
def masked_fill(t: Tracer, x: Any, mask: Any, value: Any) -> Any:
    """One number where a real mask is true: the values held between limits that there are both that number."""
    mask = t.mask(mask)
    if isinstance(mask, Traced) or mask.dtype != torch.bool or mask.device.type == "meta":
        return NotImplemented
    if isinstance(value, torch.Tensor):
        if isinstance(value, Traced) or value.numel() != 1 or value.device.type == "meta":
            return NotImplemented
        value = float(value)
    x, number = t.value(x), min(max(float(value), -LARGE), LARGE)
    open_ = torch.zeros(mask.shape)
    if number > -LARGE:
        x = t.emit("maximum", x, t.value((open_ - LARGE).masked_fill(mask.cpu(), number)), part="least")
    if number < LARGE:
        x = t.emit("minimum", x, t.value((open_ + LARGE).masked_fill(mask.cpu(), number)))
    return x


@lowers("where")
def where(t: Tracer, condition: Any, x: Any = None, other: Any = None) -> Any:
    """A choice by a real mask between a value and a number."""
    condition = t.mask(condition)
    if isinstance(condition, Traced) or x is None or other is None:
        return NotImplemented
    if isinstance(x, Traced) and not isinstance(other, Traced):
        return masked_fill(t, x, ~condition, other) if _single(other) else NotImplemented
    return masked_fill(t, other, condition, x) if _single(x) else NotImplemented


def _single(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, torch.Tensor) and value.numel() == 1)


@lowers("pixel_shuffle")
def pixel_shuffle(t: Tracer, x: Traced, upscale_factor: int) -> Any:
    """Channels to space."""
    r, (_n, c, h, w) = upscale_factor, x.sizes
    wide = t.emit("reshape", x, part="split", shape=(0, c // r**2, r, r, h, w))
    turned = t.emit("transpose", wide, part="order", perm=(0, 1, 4, 2, 5, 3))
    return t.emit("reshape", turned, shape=(0, c // r**2, h * r, w * r))


@lowers("pixel_unshuffle")
def pixel_unshuffle(t: Tracer, x: Traced, downscale_factor: int) -> Any:
    """Space to channels."""
    r, (_n, c, h, w) = downscale_factor, x.sizes
    wide = t.emit("reshape", x, part="split", shape=(0, c, h // r, r, w // r, r))
    turned = t.emit("transpose", wide, part="order", perm=(0, 1, 3, 5, 2, 4))
    return t.emit("reshape", turned, shape=(0, c * r**2, h // r, w // r))


@lowers("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(t: Tracer, x: Traced, groups: int) -> Any:
    """Groups of channels dealt out in turn."""
    _n, c, *rest = x.sizes
    wide = t.emit("reshape", x, part="split", shape=(0, groups, c // groups, *rest))
    turned = t.emit("transpose", wide, part="order", perm=(0, 2, 1, *range(3, 3 + len(rest))))
    return t.emit("reshape", turned, shape=(0, c, *rest))


@lowers("sym_size")
def sym_size(t: Tracer, x: Any, dim: int | None = None) -> Any:
    """A size, as a number."""
    return tuple(x.shape) if dim is None else x.shape[dim]


VIEWS |= set(
    "alias detach view reshape unsafe_view view_as reshape_as flatten unflatten permute transpose swapaxes swapdims t "
    "T mT H movedim moveaxis squeeze unsqueeze getitem select narrow slice unbind expand expand_as broadcast_to "
    "contiguous to float data dropout dropout2d pad type type_as".split()
)
VIEWS |= set(SPLITS)
HANDLERS["__iter__"] = HANDLERS["iter"]
