"""Sorting, places of the largest, look-ups and writes by computed places, sums so far; pooling with places."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch

from dojang.arith.shapes import axis_of
from dojang.formats.torch.read import layers as torch_layers
from dojang.formats.torch.read import places as torch_places
from dojang.formats.torch.read.kinds import picks, places, real, whole_number, wide
from dojang.formats.torch.read.logic import compare
from dojang.formats.torch.read.ops import Handler, per_axis
from dojang.formats.torch.read.trace import ImagesCounted, Tracer
from dojang.formats.torch.read.traced import HANDLERS, Traced


def best(t: Tracer, x: Any, k: int, dim: int, largest: bool) -> tuple[Traced, Traced]:
    """The first k by size along an axis, and their places."""
    x = real(t, x)
    axis = axis_of(dim, x.dim())
    shape = tuple(int(k) if a == axis else s for a, s in enumerate(x.sizes))
    if t.batch > 1 and k % t.batch == 0:  # as many as there are
        if k != x.sizes[axis]:
            raise ImagesCounted(f"{t.place}: takes a number that depends on the number of images")
        count = t.standard("Shape", (x,), (1,), torch.int64, part="count", start=axis, end=axis + 1)
    else:
        count = whole_number(t, int(k), (1,))
    settings: dict[str, Any] = {"axis": axis, "largest": int(largest)}
    values = t.standard("TopK", (x, count), shape, part="values", **settings)
    found = t.standard("TopK", (x, count), shape, torch.int64, 1, part="places", **settings)
    return values, found


@picks("topk")
def topk(t: Tracer, x: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """The largest, and where they are; in order, as PyTorch gives them unless told otherwise."""
    return torch.return_types.topk(best(t, x, k, dim, bool(largest)))


@picks("sort", "msort")
def sort(t: Tracer, x: Any, dim: int = -1, descending: bool = False, *, stable: bool = False) -> Any:
    """All of an axis in order; equal ones in the order of their places."""
    if t.func == "msort":
        return best(t, x, x.sizes[0], 0, False)[0]
    return torch.return_types.sort(best(t, x, x.sizes[axis_of(dim, x.dim())], dim, bool(descending)))


@picks("argsort")
def argsort(t: Tracer, x: Any, dim: int = -1, descending: bool = False, *, stable: bool = False) -> Any:
    """The places of all of an axis in order."""
    return best(t, x, x.sizes[axis_of(dim, x.dim())], dim, bool(descending))[1]


def place(t: Tracer, kind: str, x: Traced, dim: int, keepdim: bool, part: str | None = None) -> Traced:
    """Where the largest or smallest along an axis is."""
    x = real(t, x)
    axis = axis_of(dim, x.dim())
    shape = tuple(1 if a == axis else s for a, s in enumerate(x.sizes) if keepdim or a != axis)
    return t.standard(kind, (x,), shape, torch.int64, part=part, axis=axis, keepdims=int(keepdim))


def _place(kind: str) -> Handler:
    def handler(t: Tracer, x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
        if dim is None:
            return NotImplemented if keepdim else place(t, kind, HANDLERS["reshape"](t, x, -1), 0, False)
        return place(t, kind, x, dim, bool(keepdim))

    return handler


picks("argmax")(_place("ArgMax"))
picks("argmin")(_place("ArgMin"))


def along(t: Tracer, x: Any, dim: int, index: Any) -> Traced:
    """Of each line the elements at some places."""
    x, index = t.value(x), places(t, index)
    return t.standard(
        "GatherElements", (x, index), index.sizes, x.dtype if t.read(x) in t.whole else None, axis=axis_of(dim, x.dim())
    )


@picks("gather")
def gather(t: Tracer, x: Any, dim: int, index: Any, *, sparse_grad: bool = False) -> Any:
    """Elements of lines at computed places."""
    return along(t, x, dim, index)


@picks("take_along_dim")
def take_along_dim(t: Tracer, x: Any, indices: Any, dim: int | None = None) -> Any:
    """The same, of values that broadcast."""
    if dim is None:
        return NotImplemented
    x, index = t.value(x), t.value(indices)
    axis = axis_of(dim, x.dim())
    both = wide(*(tuple(1 if a == axis else s for a, s in enumerate(v.sizes)) for v in (x, index)))
    x, index = (
        HANDLERS["expand"](t, v, *(v.sizes[a] if a == axis else s for a, s in enumerate(both))) for v in (x, index)
    )
    return along(t, x, axis, index)


@picks("index_select")
def index_select(t: Tracer, x: Any, dim: int, index: Any) -> Any:
    """Entries of an axis by computed numbers."""
    if not isinstance(index, Traced):
        return NotImplemented if isinstance(dim, list | tuple) else HANDLERS["getitem"](
            t, x, (slice(None),) * axis_of(dim, t.value(x).dim()) + (index,)
        )  # fmt: skip
    return entries(t, t.value(x), axis_of(dim, t.value(x).dim()), index)


def entries(t: Tracer, x: Traced, axis: int, index: Traced) -> Traced:
    """Entries of an axis, in the shape of their numbers."""
    shape = (*x.sizes[:axis], *index.sizes, *x.sizes[axis + 1 :])
    kind = x.dtype if t.read(x) in t.whole else None
    return t.standard("Gather", (x, places(t, index)), shape, kind, axis=axis)


def by_index(t: Tracer, x: Any, index: Any) -> Any:
    """`x[:, i]` by one value of computed places, all other axes whole; `x[b, i]` with b the number of the image."""
    x = t.value(x)
    items = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in items):
        return NotImplemented
    if any(i is Ellipsis for i in items):
        at = next(k for k, i in enumerate(items) if i is Ellipsis)
        items[at : at + 1] = [slice(None)] * (x.dim() - len(items) + 1)
    computed = [k for k, i in enumerate(items) if isinstance(i, torch.Tensor)]
    if any(i != slice(None) for k, i in enumerate(items) if k not in computed):
        return NotImplemented
    if len(computed) == 1:
        return entries(t, x, computed[0], items[computed[0]])
    if computed != [0, 1]:
        return NotImplemented
    return of_images(t, x, items[0], items[1])


def of_images(t: Tracer, x: Traced, image: Any, index: Any) -> Any:
    """`x[arange(n).view(n, 1), i]`: of each image the entries at places of its own."""
    if t.batch == 1 or isinstance(image, Traced) or image.numel() % t.batch:
        return NotImplemented
    with torch._C.DisableTorchFunction():
        counted = torch.arange(t.batch).repeat_interleave(image.numel() // t.batch)
        if not torch.equal(image.reshape(-1).long(), counted):
            return NotImplemented
    index = t.value(index)
    shape = wide(image.shape, index.sizes)
    many = prod(shape) // t.batch
    flat = HANDLERS["reshape"](t, HANDLERS["expand"](t, index, *shape), t.batch, many)
    rest = x.sizes[2:]
    lines = HANDLERS["reshape"](t, flat, t.batch, many, *(1,) * len(rest))
    lines = HANDLERS["expand"](t, lines, t.batch, many, *rest) if rest else lines
    return HANDLERS["reshape"](t, along(t, x, 1, lines), *shape, *rest)


assert torch_layers is not None  # it has rules that come first, and so has the next one
assert torch_places is not None
_cut = HANDLERS["getitem"]


@picks("getitem")
def getitem(t: Tracer, x: Any, index: Any) -> Any:
    """Boxes and real indices first; then computed places."""
    items = index if isinstance(index, tuple) else (index,)
    if not any(isinstance(i, Traced) for i in items):
        return _cut(t, x, index)
    return by_index(t, x, index)


# -- writes --------------------------------------------------------------------------------------------------------

REDUCES = {"sum": "add", "add": "add", "prod": "mul", "multiply": "mul", "amax": "max", "amin": "min"}


def put(t: Tracer, x: Any, dim: int, index: Any, source: Any, reduction: str = "none") -> Traced:
    """Elements of lines at computed places replaced by others, or combined with them."""
    x, index = real(t, x), places(t, index)
    if isinstance(source, torch.Tensor) and source.dim():
        source = real(t, source)
        for axis, (have, want) in enumerate(zip(source.sizes, index.sizes, strict=True)):
            if have != want:
                source = HANDLERS["narrow"](t, source, axis, 0, want)
    else:
        source = t.fill(float(source), index.sizes)
    return t.standard("ScatterElements", (x, index, source), x.sizes, axis=axis_of(dim, x.dim()), reduction=reduction)


@picks("scatter")
def scatter(t: Tracer, x: Any, dim: int, index: Any, src: Any = None, *, value: Any = None, reduce: Any = None) -> Any:
    """Elements of lines replaced."""
    return put(t, x, dim, index, value if src is None else src, REDUCES[reduce] if reduce else "none")


@picks("scatter_add")
def scatter_add(t: Tracer, x: Any, dim: int, index: Any, src: Any) -> Any:
    """Elements of lines added to."""
    return put(t, x, dim, index, src, "add")


@picks("scatter_reduce")
def scatter_reduce(t: Tracer, x: Any, dim: int, index: Any, src: Any, reduce: str, *, include_self: bool = True) -> Any:
    """Elements of lines combined with others."""
    return put(t, x, dim, index, src, REDUCES[reduce]) if include_self and reduce in REDUCES else NotImplemented


@picks("one_hot")
def one_hot(t: Tracer, x: Any, num_classes: int = -1) -> Any:
    """1 at the place that a number says, else 0."""
    if num_classes < 1:
        return NotImplemented
    lifted = HANDLERS["unsqueeze"](t, x, x.dim())
    numbers = torch.arange(num_classes, dtype=torch.float32)
    return t.cast(compare(t, "Equal", real(t, lifted), numbers, part="equal"), torch.int64)


# -- along lines ---------------------------------------------------------------------------------------------------


def _so_far(kind: str) -> Handler:
    def handler(t: Tracer, x: Any, dim: int, *, dtype: Any = None) -> Any:
        x = real(t, x)
        return t.standard(kind, (x, whole_number(t, axis_of(dim, x.dim()))), x.sizes)

    return handler


picks("cumsum")(_so_far("CumSum"))
picks("cumprod")(_so_far("CumProd"))


@picks("prod")
def product(t: Tracer, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The product along an axis, or of all."""
    x = real(t, x)
    axes = [axis_of(a, x.dim()) for a in (range(x.dim()) if dim is None else per_axis(dim, 1))]
    shape = tuple(1 if a in axes else s for a, s in enumerate(x.sizes) if keepdim or a not in axes)
    return t.standard("ReduceProd", (x,), shape, axes=axes, keepdims=int(keepdim))


# -- pooling with places -------------------------------------------------------------------------------------------


def _with_places(rank: int) -> Handler:
    first = HANDLERS[f"max_pool{rank}d"]
    words = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")

    def handler(t: Tracer, x: Traced, *args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(words, args, strict=False)), **kwargs}
        wanted = given.pop("return_indices", False) or t.func.endswith("with_indices")
        values = t.within(f"max_pool{rank}d", first, x, **given)
        if values is NotImplemented or not wanted:
            return values
        kernel = per_axis(given["kernel_size"], rank)
        stride = per_axis(given.get("stride") or kernel, rank)
        pads = per_axis(given.get("padding", 0), rank)
        settings = {
            "kernel_shape": kernel, "strides": stride, "pads": (*pads, *pads),
            "ceil_mode": int(given.get("ceil_mode", 0)), "dilations": per_axis(given.get("dilation", 1), rank),
        }  # fmt: skip
        # ONNX counts places within the whole tensor, PyTorch within the channel of an image.
        found = t.standard("MaxPool", (x,), values.sizes, torch.int64, 1, part="places", **settings)
        plane = whole_number(t, prod(x.sizes[2:]))
        return values, t.standard("Mod", (found, plane), found.sizes, torch.int64, part="indices")

    return handler


for _rank in (1, 2, 3):
    picks(f"max_pool{_rank}d", f"max_pool{_rank}d_with_indices")(_with_places(_rank))


def _unpooled(rank: int) -> Handler:
    def handler(
        t: Tracer, x: Any, indices: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
    ) -> Any:
        kernel, pads = per_axis(kernel_size, rank), per_axis(padding, rank)
        steps = per_axis(stride or kernel, rank)
        sizes = [(s - 1) * step - 2 * p + k for s, step, p, k in zip(x.sizes[2:], steps, pads, kernel, strict=True)]
        out = sizes if output_size is None else [int(s) for s in output_size][-rank:]
        return unpool(t, x, indices, out)

    return handler


def unpool(t: Tracer, x: Any, indices: Any, out: Sequence[int]) -> Any:
    """Values put back to where they came from, 0 elsewhere."""
    lead = x.sizes[:2]
    flat, index = (HANDLERS["reshape"](t, v, *lead, prod(x.sizes[2:])) for v in (t.value(x), places(t, indices)))
    empty = t.fill(0.0, (*lead, prod(out)))
    return HANDLERS["reshape"](t, put(t, empty, 2, index, flat), *lead, *out)


for _rank in (1, 2, 3):
    picks(f"max_unpool{_rank}d")(_unpooled(_rank))
