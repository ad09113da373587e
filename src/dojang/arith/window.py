"""A window that slides along one axis: the arithmetic that convolution and pooling share."""

from __future__ import annotations

from fractions import Fraction
from math import ceil as round_up
from math import floor

from dojang.base.errors import ShapeError

MOST_TAPS = 1 << 16
"""Taps that are walked one by one where a size is a formula."""


def extent(kernel: int, dilation: int) -> int:
    """Pixels from the first tap of a kernel to its last: (k − 1)·d + 1.

    >>> extent(3, 2)
    5
    """
    return (kernel - 1) * dilation + 1


def out_size(size: int, kernel: int, stride: int, before: int, after: int, dilation: int, ceil: bool = False) -> int:
    """Number of places where the window stands: ⌊(i + p₀ + p₁ − extent)/s⌋ + 1, below 1 when it does not fit.

    With `ceil` the last window may hang over the end, but must start on the input or on the padding before it
    (the rule of PyTorch, Caffe and ONNX since opset 19).

    >>> out_size(7, 3, 2, 0, 0, 1)
    3
    """
    room = size + before + after - extent(kernel, dilation)
    if not ceil:
        return room // stride + 1
    out = (room + stride - 1) // stride + 1
    return out - 1 if (out - 1) * stride >= size + before else out


def same_padding(size: int, kernel: int, stride: int, dilation: int, lower: bool = False) -> tuple[int, int]:
    """Padding before and after that gives ⌈size/stride⌉ places; an odd pixel goes after (before, if `lower`).

    >>> same_padding(32, 5, 1, 1)
    (2, 2)
    """
    out = (size + stride - 1) // stride
    total = max((out - 1) * stride + extent(kernel, dilation) - size, 0)
    small, large = total // 2, total - total // 2
    return (large, small) if lower else (small, large)


def taps_inside(size: int, out: int, kernel: int, stride: int, before: int, dilation: int) -> int:
    """Pairs (place, tap) that fall on the input, not on padding; at most out · kernel.

    In closed form, so a kernel of 10^12 takes no longer than one of 3; with a symbolic size tap by tap: for tap k the
    places o with 0 ≤ o·s − p + k·d < size form an interval.

    >>> taps_inside(5, 5, 3, 1, 1, 1)
    13
    """
    if not all(type(v) is int for v in (size, out, kernel, stride, before, dilation)):
        if kernel > MOST_TAPS:
            raise ShapeError(f"a kernel of {kernel} over a symbolic size: give the size in numbers")
        return sum(
            max(0, min(out - 1, (size - 1 - shift) // stride) - max(0, -(shift // stride)) + 1)
            for shift in range(-before, kernel * dilation - before, dilation)
        )
    return pairs_below(out, kernel, stride, dilation, size + before) - pairs_below(
        out, kernel, stride, dilation, before
    )


def pairs_below(out: int, kernel: int, stride: int, dilation: int, end: int) -> int:
    """Pairs (o, k) with 0 ≤ o < out, 0 ≤ k < kernel and o·s + k·d < end, by a closed form.

    >>> pairs_below(3, 2, 2, 1, 4)
    4
    """
    if end < 1 or out < 1 or kernel < 1:
        return 0
    reach = end - 1  # o·s + k·d ≤ reach
    full = min(out, max(0, (reach - (kernel - 1) * dilation) // stride + 1))  # places with every tap
    some = min(out, reach // stride + 1)  # places with at least one
    # place o has ⌊(reach − o·s)/d⌋ + 1 taps; counted from the last such place the numerator grows
    count = some - full
    last = reach - (some - 1) * stride
    return full * kernel + (count + floor_sum(count, dilation, stride, last) if count > 0 else 0)


def floor_sum(n: int, m: int, a: int, b: int) -> int:
    """Σ ⌊(a·i + b)/m⌋ for i from 0 to before n, with a, b ≥ 0, in as many steps as Euclid's algorithm takes.

    Graham, Knuth, Patashnik, "Concrete Mathematics", section 3.5: lattice points below a line, its axes exchanged.

    >>> floor_sum(5, 3, 2, 1) == sum((2 * i + 1) // 3 for i in range(5))
    True
    """
    total = 0
    while True:
        total += a // m * (n * (n - 1) // 2) + b // m * n
        a, b = a % m, b % m
        top = a * n + b
        if top < m:
            return total
        n, b = divmod(top, m)
        m, a = a, m


def source_place(o: int, size: int, out: int, scale: float | None, coords: str) -> Fraction:
    """Where on an axis of `size` pixels output `o` of a resize comes from, exactly; `coords` by ONNX's names.

    The factor is `scale`, or `out`/`size` where only the sizes are given.

    >>> source_place(1, 4, 8, None, "half_pixel")
    Fraction(1, 4)
    """
    if coords == "align_corners":
        return Fraction(o * (size - 1), out - 1) if out > 1 else Fraction(0)
    if coords == "pytorch_half_pixel" and out == 1:
        return Fraction(0)
    factor = Fraction(out, size) if scale is None else Fraction(scale)
    return o / factor if coords == "asymmetric" else (o + Fraction(1, 2)) / factor - Fraction(1, 2)


def nearest_pixel(place: Fraction, rounding: str) -> int:
    """The pixel nearest to a place between pixels; `rounding` is floor, ceil, or which way a half goes."""
    match rounding:
        case "floor":
            return floor(place)
        case "ceil":
            return round_up(place)
        case "round_prefer_floor":
            return round_up(place - Fraction(1, 2))
        case _:
            return floor(place + Fraction(1, 2))
