"""A window that slides along one axis: the arithmetic that convolution and pooling share."""

from __future__ import annotations


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

    For tap k the places o with 0 ≤ o·s − p + k·d < size form an interval, so the count is closed per tap. `after` is
    the padding behind, where `out` follows from it: then the last place of a tap is one quotient, not the lesser of
    two, and formulas hold whatever a division leaves over.

    >>> taps_inside(5, 5, 3, 1, 1, 1)
    13
    """
    total = 0
    for k in range(kernel):
        shift = k * dilation - before
        first = max(0, -(shift // stride))
        if after is None:
            last = min(out - 1, (size - 1 - shift) // stride)
        else:
            last = (size + before + min(after - extent(kernel, dilation), -1 - k * dilation)) // stride
        total += max(0, last - first + 1)
    return total
