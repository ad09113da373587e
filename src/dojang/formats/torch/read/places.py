"""Places within a tensor: which of them an index names, and a value put there (`x[...] = v`, and writes through views).

An index is numbers, slices, `None`, `...`, lists, and real tensors of whole numbers or truth values. Numbers and slices
name a box, which is cut out and put back by joining pieces. Any other index is worked out for real: on the places'
numbers themselves, so that what comes out says where each place goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch

from dojang.arith.shapes import axis_of
from dojang.formats.torch.read import views
from dojang.formats.torch.read.memory import SCATTERS, ViewStep, is_box
from dojang.formats.torch.read.ops import lowers
from dojang.formats.torch.read.trace import Tracer
from dojang.formats.torch.read.traced import HANDLERS, Traced
from dojang.formats.torch.read.views import SPLIT_AXES, SPLITS, cut, expand, reshape, split_axis


def as_list(index: Any, rank: int) -> list[Any]:
    """The items of an index, one for each axis that it names; whole axes for `...`."""
    items = list(index) if isinstance(index, tuple) else [index]
    items = [int(i) if isinstance(i, torch.Tensor) and not isinstance(i, Traced) and i.dim() == 0
             and not i.dtype.is_floating_point and i.dtype != torch.bool else i for i in items]  # fmt: skip
    used = sum(i.dim() if isinstance(i, torch.Tensor) and i.dtype == torch.bool else i is not None and i is not Ellipsis
               for i in items)  # fmt: skip
    at = next((k for k, i in enumerate(items) if i is Ellipsis), len(items))
    items[at : at + 1] = [slice(None)] * (rank - used)
    return items


@lowers("setitem")
def setitem(t: Tracer, x: Traced, index: Any, value: Any) -> Any:
    """The tensor with other numbers at some places."""
    items = as_list(index, x.dim())
    if is_box(items):
        return put(t, x, items, value)
    picked = places_of(t, x, items)
    if picked is None:
        return NotImplemented
    rest = prod(x.sizes[1:])
    order = torch.arange(rest)
    order[picked.reshape(-1)] = rest + torch.arange(picked.numel())
    flat = reshape(t, x, x.sizes[0], rest)
    new = reshape(t, as_wide(t, value, (x.sizes[0], *picked.shape)), x.sizes[0], picked.numel())
    joined = t.emit("concat", flat, new, part="both", axis=1)
    mixed = t.emit("gather", joined, part="places", axis=1, indices=tuple(order.tolist()))
    return reshape(t, mixed, *x.sizes)


@lowers("getitem")
def getitem(t: Tracer, x: Any, index: Any) -> Any:
    """What an index names; of one that is no box, if it takes the first axis whole."""
    x = t.value(x)
    result = views.getitem(t, x, index)
    picked = places_of(t, x, as_list(index, x.dim())) if result is NotImplemented else None
    if picked is None:
        return result
    if not picked.numel():
        return NotImplemented
    flat = reshape(t, x, x.sizes[0], prod(x.sizes[1:]))
    chosen = t.emit("gather", flat, part="places", axis=1, indices=tuple(picked.reshape(-1).tolist()))
    return reshape(t, chosen, x.sizes[0], *picked.shape)


def places_of(t: Tracer, x: Traced, items: Sequence[Any]) -> torch.Tensor | None:
    """The numbers of the places that an index names behind the first axis, which it takes whole; None otherwise."""
    whole = bool(items) and isinstance(items[0], slice) and items[0] == slice(None)
    if not whole or any(isinstance(i, bool | Traced) or (isinstance(i, torch.Tensor) and i.device.type == "meta")
                        for i in items):  # fmt: skip
        return None
    with torch._C.DisableTorchFunction():
        real = tuple(i.cpu() if isinstance(i, torch.Tensor) else i for i in items[1:])
        return torch.arange(prod(x.sizes[1:])).reshape(x.sizes[1:])[real]


def as_wide(t: Tracer, value: Any, sizes: tuple[int, ...]) -> Traced:
    """A value of exactly these sizes."""
    if isinstance(value, bool | int | float):
        return t.fill(float(value), sizes)
    value = t.value(value)
    while value.dim() > len(sizes) and value.sizes[0] == 1:
        value = t.emit("squeeze", value, part="value", axes=(0,))
    result = expand(t, value, *sizes)
    if not isinstance(result, Traced):
        raise IndexError(f"{value.sizes} cannot be spread to {sizes}")
    return result


def put(t: Tracer, x: Traced, items: Sequence[Any], value: Any) -> Traced:
    """`x[items] = value` for a box."""
    ranges: list[range] = []
    shown: list[int] = []  # the sizes that the index shows
    kept: list[int] = []  # the same with axes that numbers name, without new ones
    axis = 0
    for item in [*items, *[slice(None)] * (x.dim() - sum(i is not None for i in items))]:
        if item is None:
            shown.append(1)
            continue
        size = x.sizes[axis]
        if isinstance(item, int):
            place = axis_of(item, size) if -size <= item < size else None
            if place is None:
                raise IndexError(f"index {item} is outside an axis of size {size}")
            ranges.append(range(place, place + 1))
        else:
            ranges.append(range(size)[item])
            shown.append(len(ranges[-1]))
        kept.append(len(ranges[-1]))
        axis += 1
    if any(not len(r) for r in ranges):
        return x
    part = as_wide(t, value, tuple(shown))
    part = part if part.sizes == tuple(kept) else reshape(t, part, *kept)
    return _put(t, x, part, ranges, 0)


def _put(t: Tracer, x: Traced, part: Traced, ranges: Sequence[range], axis: int) -> Traced:
    while axis < len(ranges) and ranges[axis] == range(x.sizes[axis]):
        axis += 1
    if axis == len(ranges):
        return part
    places, size = ranges[axis], x.sizes[axis]
    if any(ranges[a] != range(x.sizes[a]) for a in range(axis + 1, len(ranges))):
        inner = cut(t, x, axis, places.start, places.stop, places.step, part="inner")
        part = _put(t, inner, part, ranges, axis + 1)
    if places.step == 1:
        pieces = [cut(t, x, axis, 0, places.start, part="before")] if places.start else []
        pieces.append(part)
        pieces += [cut(t, x, axis, places.stop, None, part="after")] if places.stop < size else []
        return t.emit("concat", *pieces, axis=axis)
    order = list(range(size))
    for number, place in enumerate(places):
        order[place] = size + number
    joined = t.emit("concat", x, part, part="both", axis=axis)
    return t.emit("gather", joined, axis=axis, indices=tuple(order))


# -- parts put back into the whole that they are a view of ----------------------------------------------------------


def _reshaped(t: Tracer, whole: Traced, part: Traced, step: ViewStep) -> Traced:
    return reshape(t, part, *whole.sizes)


def _same(t: Tracer, whole: Traced, part: Traced, step: ViewStep) -> Traced:
    return part


def _permuted(t: Tracer, whole: Traced, part: Traced, step: ViewStep) -> Traced:
    """The axes back in their order, which a tensor without numbers tells by its strides."""
    with torch._C.DisableTorchFunction():
        plain = torch.empty((2,) * whole.dim(), device="meta")
        turned = getattr(torch.Tensor, step.name)
        turned = turned.__get__(plain) if isinstance(turned, property) or not callable(turned) else turned(
            plain, *step.args, **step.kwargs)  # fmt: skip
        assert isinstance(turned, torch.Tensor)
        order = [plain.stride().index(s) for s in turned.stride()]
    return HANDLERS["permute"](t, part, *(order.index(a) for a in range(whole.dim())))


def _cut_out(t: Tracer, whole: Traced, part: Traced, step: ViewStep) -> Traced:
    return put(t, whole, box_of(whole, step), part)


def box_of(whole: Traced, step: ViewStep) -> list[Any]:
    """The index of what a view cuts out."""
    words = ("index",) if step.name == "getitem" else ("dim", "index") if step.name == "select" else (
        ("dim", "start", "length") if step.name == "narrow" else ("dim", "start", "end", "step"))  # fmt: skip
    given = {**dict(zip(words, step.args, strict=False)), **step.kwargs}
    if step.name == "getitem":
        return as_list(given["index"], whole.dim())
    if step.name == "unbind":
        axis, item = axis_of((*step.args, step.kwargs.get("dim", 0))[0], whole.dim()), step.index
    elif step.name in SPLITS:
        dim = step.kwargs.get("dim", step.args[1] if len(step.args) > 1 else 0)
        axis = axis_of(split_axis(step.name, dim, whole.dim()), whole.dim())
        with torch._C.DisableTorchFunction():
            size = step.args[0] if step.args else next(v for k, v in step.kwargs.items() if k != "dim")
            line = torch.arange(whole.sizes[axis], device="meta")
            parts = getattr(torch.Tensor, "tensor_split" if step.name in SPLIT_AXES else step.name)(line, size)
        part = parts[step.index or 0]
        item = slice(part.storage_offset(), part.storage_offset() + len(part))
    elif step.name == "select":
        axis, item = axis_of(given["dim"], whole.dim()), given["index"]
    elif step.name == "narrow":
        axis = axis_of(given["dim"], whole.dim())
        item = slice(given["start"], given["start"] + given["length"])
    else:
        axis = axis_of(given.get("dim", 0), whole.dim())
        item = slice(given.get("start"), given.get("end"), given.get("step", 1))
    return [*[slice(None)] * axis, item]


SCATTERS.update(dict.fromkeys("view unsafe_view view_as unflatten squeeze unsqueeze".split(), _reshaped))
SCATTERS.update(dict.fromkeys("alias detach data dropout dropout2d".split(), _same))
SCATTERS.update(dict.fromkeys("permute transpose swapaxes swapdims t T mT H movedim moveaxis".split(), _permuted))
SCATTERS.update(dict.fromkeys("getitem select narrow slice unbind".split(), _cut_out))
SCATTERS.update(dict.fromkeys(SPLITS, _cut_out))
