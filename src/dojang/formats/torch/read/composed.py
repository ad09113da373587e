"""PyTorch functions that are read as what they are made of: written with other functions, which have rules.

Each function here takes PyTorch's arguments and calls PyTorch on the stand-ins; what it calls comes back to the tracer.
It answers for all forms, or, where a function has a rule in another file, for those that the rule does not take.
`NotImplemented`: a form that is not known. Sums over the whole batch are left out: they mix images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from dojang.formats.torch.read import layers, logic, ops, picking, places, recurrent, views
from dojang.formats.torch.read.kinds import picks, wide
from dojang.formats.torch.read.ops import per_axis
from dojang.formats.torch.read.trace import Tracer
from dojang.formats.torch.read.traced import HANDLERS, Traced

_FIRST = (layers, logic, ops, picking, places, recurrent, views)
"""Imported so that their rules stand before those of this file are put behind them."""

Composed = Callable[..., Any]


def composed(*names: str) -> Callable[[Composed], Composed]:
    """Registers a function under the names that PyTorch has for it; after the rule that there is, if there is one."""

    def register(function: Composed) -> Composed:
        for name in names:
            first = HANDLERS.get(name)

            def handler(t: Tracer, *args: Any, first: Any = first, **kwargs: Any) -> Any:
                try:
                    found = first(t, *args, **kwargs) if first is not None else NotImplemented
                except TypeError:  # a form that the rule does not know
                    found = NotImplemented
                return function(*args, **kwargs) if found is NotImplemented else found

            picks(name)(handler)
        return function

    return register


def batched(x: torch.Tensor, dim: int) -> bool:
    """Whether an axis is the first one, which is the batch."""
    return dim % x.dim() == 0


# -- places --------------------------------------------------------------------------------------------------------


@composed("rot90")
def rot90(x: Any, k: int = 1, dims: Sequence[int] = (0, 1)) -> Any:
    """Turned by quarters, from the first axis towards the second."""
    a, b = dims
    turned = {0: lambda: x.clone(), 1: lambda: x.flip(b).transpose(a, b), 2: lambda: x.flip(a, b)}
    return turned.get(k % 4, lambda: x.flip(a).transpose(a, b))()


@composed("fliplr")
def fliplr(x: Any) -> Any:
    """Axis 1 backwards."""
    return x.flip(1)


def _along(index: Any, x: Any, dim: int) -> Any:
    """Places along one axis, as wide as a tensor."""
    return index.reshape([-1 if a == dim % x.dim() else 1 for a in range(x.dim())]).expand_as(x)


@composed("index_add")
def index_add(x: Any, dim: int, index: Any, source: Any, *, alpha: float = 1) -> Any:
    """Slices added at places of one axis."""
    return x.scatter_add(dim, _along(index, source, dim), source if alpha == 1 else source * alpha)


@composed("index_copy")
def index_copy(x: Any, dim: int, index: Any, source: Any) -> Any:
    """Slices put at places of one axis."""
    return x.scatter(dim, _along(index, source, dim), source)


@composed("index_fill")
def index_fill(x: Any, dim: int, index: Any, value: Any) -> Any:
    """One number at places of one axis."""
    if isinstance(index, Traced) or batched(x, dim):
        return NotImplemented
    mask = torch.zeros(x.shape[dim], dtype=torch.bool)
    mask[index] = True
    return x.masked_fill(mask.reshape([-1 if a == dim % x.dim() else 1 for a in range(x.dim())]), value)


@composed("setitem", "index_put")
def put_by_mask(x: Any, index: Any, value: Any, accumulate: bool = False) -> Any:
    """One number, or a value for each channel of what the mask leaves, where a computed mask is true."""
    (mask,) = index if isinstance(index, tuple | list) else (index,)
    single = not isinstance(value, torch.Tensor) or value.dim() == 0
    if accumulate or not single or not isinstance(mask, Traced) or mask.dtype != torch.bool:
        return NotImplemented
    return torch.where(mask.reshape([*mask.shape, *[1] * (x.dim() - mask.dim())]), value, x)


@composed("bucketize")
def bucketize(x: Any, boundaries: Any, *, out_int32: bool = False, right: bool = False) -> Any:
    """How many boundaries lie below (with `right`: at or below) each number; all of them for NaN."""
    rows = x.unsqueeze(-1)
    found = (~(rows < boundaries if right else rows <= boundaries)).sum(-1)
    return found.int() if out_int32 else found


@composed("searchsorted")
def searchsorted(
    places: Any, x: Any, *, out_int32: bool = False, right: bool = False, side: str | None = None, sorter: Any = None
) -> Any:
    """Where a number would stand in a sorted row, row by row where there are several."""
    if sorter is not None:
        return NotImplemented
    rows = places if places.dim() == 1 else places.unsqueeze(-2)
    return bucketize(x, rows, out_int32=out_int32, right=right or side == "right")


@composed("diagonal")
def diagonal(x: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """The diagonal of two axes, as a last axis. A copy: what is written into it would be lost, and is refused."""
    if batched(x, dim1) or batched(x, dim2):
        return NotImplemented
    height, width = x.shape[dim1], x.shape[dim2]
    places = torch.arange(height * width).reshape(height, width).diagonal(offset)
    made = x.movedim((dim1, dim2), (-2, -1)).flatten(-2).index_select(-1, places)
    made.memory.copied = True
    return made


@composed("diag_embed")
def diag_embed(x: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    """The last axis as the diagonal of two axes."""
    size, above = x.shape[-1] + abs(offset), max(-offset, 0)
    rows = functional.pad(x, (above, size - x.shape[-1] - above)) if offset else x
    diagonal = torch.zeros(size, size, dtype=torch.bool)
    diagonal.diagonal(offset)[:] = True
    made = torch.where(diagonal, rows.unsqueeze(-1), 0.0)
    return made if (dim1, dim2) == (-2, -1) else made.movedim((-2, -1), (dim1, dim2))


@composed("diagonal_scatter")
def diagonal_scatter(x: Any, values: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """With other numbers on the diagonal of two axes of one size."""
    size = x.shape[dim1]
    if batched(x, dim1) or batched(x, dim2) or size != x.shape[dim2]:
        return NotImplemented
    places = torch.zeros(size, size, dtype=torch.bool)
    places.diagonal(offset)[:] = True
    moved = torch.where(places, diag_embed(values, offset), x.movedim((dim1, dim2), (-2, -1)))
    return moved.movedim((-2, -1), (dim1, dim2))


@composed("hstack")
def hstack(tensors: Any) -> Any:
    """Side by side: along axis 1."""
    return torch.cat(tuple(tensors), 1)


@composed("dstack")
def dstack(tensors: Any) -> Any:
    """Behind each other: along axis 2."""
    return torch.cat([x if x.dim() > 2 else x.unsqueeze(2) for x in tensors], 2)


for _rank in (1, 2, 3):

    @composed(f"atleast_{_rank}d")
    def at_least(x: Any, rank: int = _rank) -> Any:
        """With as many axes as asked for; a value that has them is itself."""
        if not isinstance(x, torch.Tensor) or x.dim() < min(rank, 2):
            return NotImplemented
        return x if x.dim() >= rank else x.unsqueeze(-1)


@composed("ravel")
def ravel(x: Any) -> Any:
    """In one row."""
    return x.reshape(-1)


@composed("broadcast_tensors")
def broadcast_tensors(*tensors: Any) -> Any:
    """All of the size that they have together."""
    shape = wide(*(x.shape for x in tensors))
    return tuple(x.expand(shape) for x in tensors)


# -- order and sums so far -----------------------------------------------------------------------------------------


@composed("kthvalue")
def kthvalue(x: Any, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """The k-th smallest along an axis, and its place."""
    values, places = (v.narrow(dim, k - 1, 1) for v in x.sort(dim=dim))
    found = (values, places) if keepdim else (values.squeeze(dim), places.squeeze(dim))
    return torch.return_types.kthvalue(found)


@composed("median")
def median(x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The middle number along an axis, the lower one of two, and its place."""
    if dim is None:
        return NotImplemented
    return torch.return_types.median(tuple(kthvalue(x, (x.shape[dim] + 1) // 2, dim, keepdim)))


@composed("quantile")
def quantile(x: Any, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear") -> Any:
    """Numbers that parts of an axis lie below, between two where they fall between."""
    if dim is None or isinstance(q, Traced) or interpolation != "linear":
        return NotImplemented
    axis, wanted = int(dim) % x.dim(), torch.as_tensor(q, dtype=torch.float32)
    ordered, at = x.sort(dim=axis)[0], wanted.reshape(-1) * (x.shape[axis] - 1)
    low = ordered.index_select(axis, at.floor().long())
    high = ordered.index_select(axis, at.ceil().long())
    share = (at - at.floor()).reshape([-1 if a == axis else 1 for a in range(x.dim())])
    apart = high - low
    between = torch.where(share < 0.5, low + share * apart, high - (1 - share) * apart)  # the nearer may be infinite
    last = ordered.narrow(axis, x.shape[axis] - 1, 1)
    found = torch.where(last.isnan(), last, between)  # NaN is last in order
    if wanted.dim() == 0:
        return found if keepdim else found.squeeze(axis)
    return found.movedim(axis, 0).unsqueeze(axis + 1) if keepdim else found.movedim(axis, 0)


def _so_far(x: Any, dim: int, joined: Composed) -> Any:
    """What all places up to each give together, in ⌈log₂ n⌉ passes: each doubles how many are joined."""
    reach, size = 1, x.shape[dim]
    while reach < size:
        later = joined(x.narrow(dim, reach, size - reach), x.narrow(dim, 0, size - reach))
        x = torch.cat((x.narrow(dim, 0, reach), later), dim)
        reach *= 2
    return x


def _extreme(joined: Composed, kind: Any) -> Composed:
    def function(x: Any, dim: int) -> Any:
        found = _so_far(x, dim, joined)
        order = torch.arange(x.shape[dim]).reshape([-1 if a == dim % x.dim() else 1 for a in range(x.dim())])
        where = _so_far(torch.where(x == found, order.float(), 0.0), dim, torch.maximum)
        return kind((found, where.long()))

    return function


composed("cummax")(_extreme(torch.maximum, torch.return_types.cummax))
composed("cummin")(_extreme(torch.minimum, torch.return_types.cummin))


@composed("logcumsumexp")
def logcumsumexp(x: Any, dim: int) -> Any:
    """The logarithm of the sum of exponentials so far."""
    return _so_far(x, dim, torch.logaddexp)


@composed("diff")
def diff(x: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    """Differences of neighbours along an axis, n times."""
    around = [v for v in (prepend, x, append) if v is not None]
    x = torch.cat(around, dim) if len(around) > 1 else x
    for _ in range(n):
        x = x.narrow(dim, 1, x.shape[dim] - 1) - x.narrow(dim, 0, x.shape[dim] - 1)
    return x


@composed("gradient")
def gradient(x: Any, *, spacing: Any = 1, dim: Any = None, edge_order: int = 1) -> Any:
    """Central differences along axes, one-sided at both ends."""
    if dim is None or not isinstance(spacing, int | float) or edge_order != 1:
        return NotImplemented
    found: list[Any] = []
    for axis in per_axis(dim, 1):
        size = x.shape[axis]
        inside = (x.narrow(axis, 2, size - 2) - x.narrow(axis, 0, size - 2)) / (2 * spacing)
        ends = [(x.narrow(axis, a + 1, 1) - x.narrow(axis, a, 1)) / spacing for a in (0, size - 2)]
        found.append(torch.cat((ends[0], inside, ends[1]), axis))
    return tuple(found)


@composed("trapezoid", "trapz")
def trapezoid(y: Any, x: Any = None, *, dx: float = 1, dim: int = -1) -> Any:
    """The area under values one step apart, by trapezoids."""
    if x is not None:
        return NotImplemented
    size = y.shape[dim]
    return (y.narrow(dim, 1, size - 1) + y.narrow(dim, 0, size - 1)).sum(dim) * (dx / 2)


@composed("aminmax")
def aminmax(x: Any, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """The smallest and the largest along an axis."""
    if dim is None:
        return NotImplemented
    return torch.return_types.aminmax((x.amin(dim, keepdim=keepdim), x.amax(dim, keepdim=keepdim)))


@composed("count_nonzero")
def count_nonzero(x: Any, dim: Any = None) -> Any:
    """How many are not 0."""
    return NotImplemented if dim is None else (x != 0).sum(dim)


@composed("nansum")
def nansum(x: Any, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
    """The sum without NaN."""
    return torch.where(x.isnan(), 0.0, x).sum(dim, keepdim=keepdim, **kwargs)


@composed("nanmean")
def nanmean(x: Any, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
    """The mean without NaN."""
    return nansum(x, dim, keepdim, **kwargs) / (~x.isnan()).float().sum(dim, keepdim=keepdim)
