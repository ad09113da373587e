"""A window that slides along one axis: the arithmetic that convolution and pooling share."""

from __future__ import annotations

from dojang.base.errors import ShapeError

MOST_TAPS = 1 << 16
"""The most taps of a kernel if a size is a formula, because they are then counted one by one."""


def extent(kernel: int, dilation: int) -> int:
    """Pixels from the first tap of a kernel to its last: (k − 1)·d + 1.

    >>> extent(3, 2)
    5
    """
    return (kernel - 1) * dilation + 1


def out_size(size: int, kernel: int, stride: int, before: int, after: int, dilation: int, ceil: bool = False) -> int:
    """The number of window positions: ⌊(i + p₀ + p₁ − extent)/s⌋ + 1, below 1 if the window does not fit.

    With `ceil` the last window may reach beyond the end, but must start on the input or on the padding before it
    (the rule of PyTorch, Caffe and ONNX since opset 19): ⌈(i + p₀ + p₁ − extent)/s⌉ + 1, minus 1 if the last window
    would start later. Whether it would depends on the sizes only if p₁ < extent < s + p₁; then one window starts at
    each multiple of s below i + p₀. So no size is compared, and formulas hold for all sizes.

    >>> out_size(7, 3, 2, 0, 0, 1)
    3
    """
    free = size + before + after - extent(kernel, dilation)
    if not ceil:
        return free // stride + 1
    over = extent(kernel, dilation) - after  # how far a window reaches beyond the padding after the input
    if 0 < over < stride:
        return (size + before + stride - 1) // stride
    return (free + stride - 1) // stride + (1 if over > 0 else 0)


def same_padding(size: int, kernel: int, stride: int, dilation: int, lower: bool = False) -> tuple[int, int]:
    """Padding before and after that gives ⌈size/stride⌉ positions; an odd pixel goes after (before, if `lower`).

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
    """Pairs (position, tap) that fall on the input, not on padding; at most out · kernel.

    A formula, so a kernel of 10^12 takes no longer than one of 3. With a symbolic size, tap by tap: for tap k the
    positions o with 0 ≤ o·s − p + k·d < size form an interval. Give the padding behind as `after` if `out` follows from
    it: then the last position of a tap is a single quotient, not the smaller of two, and formulas hold for every size.

    >>> taps_inside(5, 5, 3, 1, 1, 1)
    13
    """
    if not all(type(v) is int for v in (size, out, kernel, stride, before, dilation)):
        if kernel > MOST_TAPS:
            raise ShapeError(
                f"a kernel of {kernel} needs a size in numbers; over a symbol at most {MOST_TAPS} taps are counted"
            )
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
    """Pairs (o, k) with 0 ≤ o < out, 0 ≤ k < kernel and o·s + k·d < end, by a formula.

    >>> pairs_below(3, 2, 2, 1, 4)
    4
    """
    if end < 1 or out < 1 or kernel < 1:
        return 0
    reach = end - 1  # o·s + k·d ≤ reach
    full = min(out, max(0, (reach - (kernel - 1) * dilation) // stride + 1))  # positions with every tap
    some = min(out, reach // stride + 1)  # positions with at least one
    # position o has ⌊(reach − o·s)/d⌋ + 1 taps; counted from the last such position on, the numerator grows
    count = some - full
    last = reach - (some - 1) * stride
    return full * kernel + (count + floor_sum(count, dilation, stride, last) if count > 0 else 0)


def floor_sum(n: int, m: int, a: int, b: int) -> int:
    """Σ ⌊(a·i + b)/m⌋ for i from 0 to before n, with a, b ≥ 0, in as many steps as Euclid's algorithm.

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
