"""A window that slides along one axis: the arithmetic that convolution and pooling share."""

from __future__ import annotations

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
    (the rule of PyTorch, Caffe and ONNX since opset 19): ⌈(i + p₀ + p₁ − extent)/s⌉ + 1, less 1 where the last window
    would start behind. That depends on the sizes only where p₁ < extent < s + p₁, and then the windows are those that
    start on multiples of s below i + p₀: no size is compared, so formulas hold for all sizes.

    >>> out_size(7, 3, 2, 0, 0, 1)
    3
    """
    room = size + before + after - extent(kernel, dilation)
    if not ceil:
        return room // stride + 1
    over = extent(kernel, dilation) - after  # pixels of a window that do not fit on the padding behind
    if 0 < over < stride:
        return (size + before + stride - 1) // stride
    return (room + stride - 1) // stride + (1 if over > 0 else 0)


def same_padding(size: int, kernel: int, stride: int, dilation: int, lower: bool = False) -> tuple[int, int]:
    """Padding before and after that gives ⌈size/stride⌉ places; an odd pixel goes after (before, if `lower`).

    >>> same_padding(32, 5, 1, 1)
    (2, 2)
    """
    out = (size + stride - 1) // stride
    total = max((out - 1) * stride + extent(kernel, dilation) - size, 0)
    small, large = total // 2, total - total // 2
    return (large, small) if lower else (small, large)


def taps_inside(
    size: int, out: int, kernel: int, stride: int, before: int, dilation: int, after: int | None = None
) -> int:
    """Pairs (place, tap) that fall on the input, not on padding; at most out · kernel.

    In closed form, so a kernel of 10^12 takes no longer than one of 3; with a symbolic size tap by tap: for tap k the
    places o with 0 ≤ o·s − p + k·d < size form an interval. `after` is the padding behind, where `out` follows from it:
    then the last place of a tap is one quotient, not the lesser of two, and formulas hold whatever a division leaves.

    >>> taps_inside(5, 5, 3, 1, 1, 1)
    13
    """
    if not all(type(v) is int for v in (size, out, kernel, stride, before, dilation)):
        if kernel > MOST_TAPS:
            raise ShapeError(f"a kernel of {kernel} over a symbolic size: give the size in numbers")
        total = 0
        for shift in range(-before, kernel * dilation - before, dilation):
            if after is None:
                last = min(out - 1, (size - 1 - shift) // stride)
            else:
                last = (size + before + min(after - extent(kernel, dilation), -1 - shift - before)) // stride
            total += max(0, last - max(0, -(shift // stride)) + 1)
        return total
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
