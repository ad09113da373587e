"""The inverse arithmetic of convolution: which layers lead from one shape to another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

from dojang.arith.conv import Conv, Pads, Sizes, by, divide_message, per_axis
from dojang.arith.window import extent
from dojang.base.errors import ShapeError, UsageError
from dojang.base.result import Result

KERNELS = (1, 3, 5, 7, 2, 4, 9, 11, 6, 8, 10)
"""Kernel sizes that are tried if none is given, in addition to those that fit a stride (`_kernels`)."""

SEARCHED = "kernels of 1 to 11, of the stride, of twice the stride and one less, and of the whole input (or output)"
"""The kernels that are tried, in words."""

MOST = 50
"""The most solutions that are kept, the simplest first."""


@dataclass(frozen=True, slots=True)
class Solution:
    """One layer that fits, as a `Conv` of batch 1."""

    conv: Conv

    @property
    def departures(self) -> tuple[Any, ...]:
        """What makes the layer less simple, the most important first; solutions are sorted by it.

        Uneven padding, different values per axis, output padding, dilation, a stride that is not the ratio of the
        sizes, windows that leave pixels out, padding that is neither 0 nor keeps the size at stride 1, even kernels at
        stride 1, then stride, kernel, padding. Transposed layers enlarge by their stride: for them, padding is usual if
        it is 0 or makes the factor exact, and the kernel comes before the stride.
        """
        c = self.conv
        uneven = any(a != b for a, b in c.padding)
        axes = len(set(c.kernel)) + len(set(c.stride)) + len(set(c.padding)) + len(set(c.dilation))
        reach = [extent(k, d) // 2 for k, d in zip(c.kernel, c.dilation, strict=True)]
        usual = all(p != q or p in (0, r) for (p, q), r in zip(c.padding, reach, strict=True))
        axes_sizes = zip(c.size, c.out_size, c.stride, strict=True)
        off = any(o > 1 and i % o == 0 and s != i // o for i, o, s in axes_sizes)
        even = any(k % 2 == 0 and k != s for k, s in zip(c.kernel, c.stride, strict=True))
        skips = any(k < s for k, s in zip(c.kernel, c.stride, strict=True))
        if c.transposed:
            exact = zip(c.padding, c.kernel, c.stride, c.dilation, strict=True)
            usual = all(p == 0 or 2 * p == extent(k, d) - s for (p, _), k, s, d in exact)
            return (
                uneven, axes, sum(c.output_padding), max(c.dilation), not usual, skips,
                max(c.kernel), max(c.stride), sum(map(sum, c.padding)), c.padding,
            )  # fmt: skip
        return (
            uneven, axes, sum(c.output_padding), max(c.dilation), off, skips, not usual, even,
            max(c.stride), max(c.kernel), sum(map(sum, c.padding)), c.padding,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """The layer for JSON; shapes without the batch, channels first."""
        c = self.conv
        pads = [a if a == b else [a, b] for a, b in c.padding]
        extra = {"output_padding": list(c.output_padding)} if c.transposed else {}
        return {
            "kernel": list(c.kernel),
            "stride": list(c.stride),
            "padding": pads,
            "dilation": list(c.dilation),
            "groups": c.groups,
            "filters": c.oc,
            "transposed": c.transposed,
            **extra,
            "in_shape": list(c.in_shape[1:]),
            "out_shape": list(c.out_shape[1:]),
            "params": c.params,
            "weights": c.weights,
            "biases": c.biases,
            "macs": c.macs,
        }


@dataclass(frozen=True, slots=True)
class Solutions(Result):
    """The layers that fit among those that were tried, the simplest first (at most `MOST`), or why none does.

    `searched` says what was tried, "" if nothing was free; `found` is how many fit, of which `solutions` are the first.
    """

    solutions: tuple[Solution, ...]
    reason: str = ""
    searched: str = ""
    found: int = 0

    def to_dict(self) -> dict[str, Any]:
        """`solutions`, what was searched, and the `reason` if there is no solution."""
        return {
            "solutions": [s.to_dict() for s in self.solutions],
            "reason": self.reason or None,
            "searched": self.searched or None,
            "found": max(self.found, len(self.solutions)),
        }


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is given: per-axis values or None where free."""

    kernel: Sizes | None
    stride: Sizes | None
    padding: Pads | None
    dilation: Sizes
    transposed: bool


@dataclass(frozen=True, slots=True)
class _Given(_Wanted):
    """A whole layer: nothing is free."""

    kernel: Sizes
    stride: Sizes
    padding: Pads


def solve(
    in_shape: Sequence[int] | None = None,
    out_shape: Sequence[int] | None = None,
    kernel: int | Sequence[int] | None = None,
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int | tuple[int, int]] | None = None,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    filters: int | None = None,
    bias: bool = True,
    transposed: bool = False,
) -> Solutions:
    """The layers that lead from `in_shape` to `out_shape` (channels first: (c, *spatial)), simplest first.

    Two of input shape, output shape and layer (kernel, stride, padding) are enough; the others are found: without
    `out_shape` the layer is applied to the input (with `filters` filters), without `in_shape` all inputs that give the
    output are found (with `filters` as input channels). `padding` is the same on both sides of an axis, or a pair
    (before, after). What is not given is tried: `Solutions.searched` says which kernels, strides and paddings. Raises
    `UsageError` if too little is given, and `ShapeError` for impossible values.

    >>> best = solve((3, 32, 32), (8, 32, 32), kernel=5).solutions[0].conv
    >>> best.padding, best.params
    (((2, 2), (2, 2)), 608)
    >>> patches = solve((3, 224, 224), (768, 14, 14)).solutions[0].conv
    >>> patches.kernel, patches.stride
    ((16, 16), (16, 16))
    """
    known = in_shape if in_shape is not None else out_shape
    if known is None:
        raise UsageError("give an input shape, an output shape, or both")
    rank = len(known) - 1
    if rank < 1 or (in_shape is not None and out_shape is not None and len(in_shape) != len(out_shape)):
        raise UsageError(
            "shapes need a size for each spatial axis and the channels, as 32x32x3 or (7 values of one channel) 7x1; "
            "the input and the output need equally many sizes"
        )
    if any(s < 1 for s in (*(in_shape or ()), *(out_shape or ()))):
        raise ShapeError("every size and channel count must be at least 1")
    pads = None if padding is None else _pads(padding, rank)
    wanted = _Wanted(
        None if kernel is None else per_axis(kernel, rank, "kernel"),
        None if stride is None else per_axis(stride, rank, "stride"),
        pads,
        per_axis(dilation, rank, "dilation"),
        transposed,
    )
    if any(v < 1 for v in (*(wanted.kernel or ()), *(wanted.stride or ()), *wanted.dilation)):
        raise ShapeError("kernel, stride and dilation must be at least 1")
    if any(p < 0 for pair in pads or () for p in pair):
        raise ShapeError("padding must not be negative")
    if in_shape is not None and out_shape is not None:
        return _between(tuple(in_shape), tuple(out_shape), wanted, groups, bias)
    if wanted.kernel is None:
        raise UsageError("with only one shape, give the kernel size, too")
    layer = _Given(wanted.kernel, wanted.stride or (1,) * rank, pads or ((0, 0),) * rank, wanted.dilation, transposed)
    if in_shape is not None:
        return _forward(tuple(in_shape), layer, filters or in_shape[0], groups, bias)
    return _backward(tuple(out_shape or ()), layer, filters or known[0], groups, bias)


def _pads(padding: int | Sequence[int | tuple[int, int]], rank: int) -> Pads:
    """Padding before and after for each axis; one value stands for all axes."""
    each = [padding] if isinstance(padding, int) else [*padding]
    if len(each) == 1:
        each *= rank
    if len(each) != rank:
        raise ShapeError(f"padding has {len(each)} values, the shapes have {rank} axes; give one, or one for each axis")
    return tuple((p, p) if isinstance(p, int) else (p[0], p[1]) for p in each)


def _forward(shape: Sizes, layer: _Given, filters: int, groups: int, bias: bool) -> Solutions:
    """The one output of a given layer."""
    try:
        conv = Conv(
            1, shape[0], filters, shape[1:], layer.kernel, layer.stride, layer.padding, layer.dilation, groups, bias,
            layer.transposed,
        )  # fmt: skip
    except ShapeError as error:
        return Solutions((), str(error))
    return Solutions((Solution(conv),))


def _backward(shape: Sizes, layer: _Given, channels: int, groups: int, bias: bool) -> Solutions:
    """The inputs that a layer turns into `shape`; with stride s there are up to s per axis."""
    axes: list[list[int]] = []
    for o, k, s, (p0, p1), d in zip(shape[1:], layer.kernel, layer.stride, layer.padding, layer.dilation, strict=True):
        if layer.transposed:
            free = o + p0 + p1 - extent(k, d)
            axes.append([free // s + 1] if free >= 0 and free % s == 0 else [])
        else:
            least = (o - 1) * s + extent(k, d) - p0 - p1
            axes.append(list(range(max(1, least), least + s)))
    found = [
        solution
        for size in islice(product(*axes), MOST)
        for solution in _forward((channels, *size), layer, shape[0], groups, bias).solutions
    ]
    reason = (
        "" if found else f"no input gives {by(shape[1:])} with kernel {by(layer.kernel)}, stride {by(layer.stride)}"
    )
    return Solutions(tuple(found), reason)


def _between(source: Sizes, target: Sizes, wanted: _Wanted, groups: int, bias: bool) -> Solutions:
    for what, channels in (("input", source[0]), ("output", target[0])):
        if groups < 1 or channels % groups:
            return Solutions((), divide_message(channels, max(groups, 1), what))
    rank = len(source) - 1
    uniform = list(_uniform(source[1:], target[1:], wanted))
    if not uniform:
        each = [
            sorted(_axis(source[1 + a], target[1 + a], wanted, a), key=lambda t: (t[4], t[3][0] != t[3][1], t[1], t[0]))
            for a in range(rank)
        ]
        uniform = [tuple(zip(*combination, strict=True)) for combination in islice(product(*(e[:4] for e in each)), 64)]
    found: list[Solution] = []
    for kernel, stride, dilation, pads, extra in uniform:
        conv = Conv(
            1, source[0], target[0], source[1:], kernel, stride, pads, dilation, groups, bias, wanted.transposed,
            extra if wanted.transposed else (),
        )  # fmt: skip
        found.append(Solution(conv))
    found.sort(key=lambda s: s.departures)
    reason = "" if found else _reason(source[1:], target[1:], wanted)
    return Solutions(tuple(found[:MOST]), reason, _searched(wanted), len(found))


def _searched(wanted: _Wanted) -> str:
    """What was tried for each value that was not given."""
    parts = [SEARCHED] if wanted.kernel is None else []
    parts += [f"all strides that fit (at most {MOST} a kernel)"] if wanted.stride is None else []
    if wanted.padding is None:
        parts.append("the padding that keeps the size at stride 1, else the least even one, and the least uneven ones")
    if parts and len(wanted.dilation) > 1:
        parts.append("different values per axis only where equal ones give nothing")
    return "; ".join(parts)


_Axis = tuple[int, int, int, tuple[int, int], int]
"""Kernel, stride, dilation, padding, output padding on one axis."""


def _axis(i: int, o: int, wanted: _Wanted, axis: int) -> Iterator[_Axis]:
    """The layers from size i to size o on one axis, for each kernel and stride with the paddings of `_paddings`."""
    d = wanted.dilation[axis]
    for k, s in _windows(i, o, wanted, axis):
        for extra in range(max(s, d)) if wanted.transposed else (0,):
            least, most = _padding_range(i, o, k, s, d, extra, wanted.transposed)
            pads = _paddings(least, most, extent(k, d), wanted.padding[axis] if wanted.padding else None)
            yield from ((k, s, d, pad, extra) for pad in pads)
            if any(a == b for a, b in pads):
                break


def _windows(i: int, o: int, wanted: _Wanted, axis: int) -> Iterator[tuple[int, int]]:
    """Kernel and stride on one axis: as given, else what is tried."""
    d = wanted.dilation[axis]
    kernels = (wanted.kernel[axis],) if wanted.kernel else _kernels(i, o, wanted)
    for k in kernels:
        strides = (wanted.stride[axis],) if wanted.stride else _strides(i, o, extent(k, d), d - 1, wanted.transposed)
        for s in strides:
            yield k, s


def _kernels(i: int, o: int, wanted: _Wanted) -> tuple[int, ...]:
    """Kernels that are tried: `KERNELS`; those as wide as a stride between the two sizes, twice as wide, or one less
    than that (odd, and they overlap); the whole of one side if the other is a single place.
    """
    small, large = (i, o) if wanted.transposed else (o, i)
    if small == 1:
        return tuple(dict.fromkeys((*KERNELS, large)))
    strides = dict.fromkeys(s for s in (large // small, -(-large // small), (large - 1) // (small - 1)) if s > 1)
    return tuple(dict.fromkeys((*KERNELS, *(k for s in strides for k in (s, 2 * s - 1, 2 * s) if k <= large))))


def _strides(i: int, o: int, reach: int, slack: int, transposed: bool) -> range:
    """Strides for which some padding below the kernel's reach gives o; at most `MOST` of them, the smallest.

    From 0 <= P <= 2(e - 1) in `_padding_range`; a single position (o = 1, transposed i = 1) needs only the least.
    """
    if transposed:
        low = -(-(o - reach - slack) // max(i - 1, 1))
        high = (o + reach - 2) // max(i - 1, 1) if i > 1 else low
    else:
        low = -(-(i + 1 - reach) // o)
        high = (i + reach - 2) // (o - 1) if o > 1 else low
    low = max(low, 1)
    return range(low, min(max(high, low if min(i, o) == 1 else 0), low + MOST) + 1)


def _padding_range(i: int, o: int, k: int, s: int, d: int, extra: int, transposed: bool) -> tuple[int, int]:
    """Least and most total padding that give o: from o = ⌊(i + P − e)/s⌋ + 1, or (i − 1)s − P + e + extra."""
    e = extent(k, d)
    if transposed:
        total = (i - 1) * s + e + extra - o
        return total, total
    least = (o - 1) * s + e - i
    return least, least + s - 1


def _paddings(least: int, most: int, reach: int, given: tuple[int, int] | None) -> list[tuple[int, int]]:
    """The paddings in the range: as given; else the one that keeps the size at stride 1, or the least even one; and the
    least one if it is odd, with the larger side after (as "same" padding has it) and before.
    """
    if given is not None:
        return [given] if least <= sum(given) <= most else []
    low = max(least, 0)
    if low > most or low > 2 * (reach - 1):
        return []
    usual = 2 * (reach // 2) if reach % 2 else low
    found: list[tuple[int, int]] = []
    even = usual if low <= usual <= most else low + low % 2
    if even % 2 == 0 and even <= most and even <= 2 * (reach - 1):
        found.append((even // 2, even // 2))
    if low % 2:
        found += [(low // 2, low - low // 2), (low - low // 2, low // 2)]
    return found


def _uniform(source: Sizes, target: Sizes, wanted: _Wanted) -> Iterator[tuple[Any, ...]]:
    """Solutions with the same kernel, stride and padding on every axis, where the given values are the same."""
    rank = len(source)
    given = (wanted.kernel, wanted.stride, wanted.padding, wanted.dilation)
    if any(v is not None and len(set(v)) > 1 for v in given):
        return
    d = wanted.dilation[0]
    for k, s in _windows(source[0], target[0], wanted, 0):
        for extra in range(max(s, d)) if wanted.transposed else (0,):
            ranges = [
                _padding_range(i, o, k, s, d, extra, wanted.transposed) for i, o in zip(source, target, strict=True)
            ]
            least, most = max(r[0] for r in ranges), min(r[1] for r in ranges)
            pads = _paddings(least, most, extent(k, d), wanted.padding[0] if wanted.padding else None)
            for pad in pads:
                yield (k,) * rank, (s,) * rank, (d,) * rank, (pad,) * rank, (extra,) * rank
            if any(a == b for a, b in pads):
                break


def _reason(source: Sizes, target: Sizes, wanted: _Wanted) -> str:
    """Why nothing fits: the first axis without a solution, and what the given values would need there."""
    for axis, (i, o) in enumerate(zip(source, target, strict=True)):
        if any(True for _ in _axis(i, o, wanted, axis)):
            continue
        k = wanted.kernel[axis] if wanted.kernel else None
        s = wanted.stride[axis] if wanted.stride else None
        p = wanted.padding[axis] if wanted.padding else None
        said = ", ".join(
            f"{name} {value}"
            for name, value in (
                ("kernel", k),
                ("stride", s),
                ("padding", p and p[0]),
                ("dilation", wanted.dilation[axis]),
            )
            if value is not None
        )
        if k is not None and s is not None:
            least, most = _padding_range(i, o, k, s, wanted.dilation[axis], 0, wanted.transposed)
            need = f"{least}" if least == most else f"{least} to {most}"
            tail = "which is cropping" if most < 0 else "more than the kernel allows" if p is None else f"not {sum(p)}"
            return f"axis {axis}: {i} to {o} with {said} needs a total padding of {need}, {tail}"
        grow = "; a transposed layer can enlarge (--transposed)" if o > i and not wanted.transposed else ""
        return f"axis {axis}: no layer leads from {i} to {o} with {said}{grow}"
    return "each axis has a solution by itself, but no layer fits on all axes"
