"""PyTorch functions that cut pictures into patches and lay patches over each other: unfold and fold."""

from __future__ import annotations

from typing import Any

from dojang.arith.shapes import axis_of
from dojang.formats.torch.read.ops import Size, lowers, per_axis
from dojang.formats.torch.read.trace import Tracer
from dojang.formats.torch.read.traced import HANDLERS, Traced


@lowers("unfold")
def unfold(t: Tracer, x: Traced, *args: Any, **kwargs: Any) -> Any:
    """`F.unfold`, which PyTorch hands on with its options named, or a tensor's own `unfold` along one axis."""
    if "dilation" in kwargs:
        return _columns(t, x, *args, **kwargs)
    words = dict(zip(("dimension", "size", "step"), args, strict=False)) | kwargs
    return _windows(t, x, words["dimension"], words["size"], words["step"])


def _windows(t: Tracer, x: Traced, dimension: int, size: int, step: int) -> Any:
    """Windows of `size` places of one axis, `step` apart; their places become a last axis."""
    axis, rank = axis_of(dimension, x.dim()), x.dim()
    if x.sizes[axis] % t.batch == 0 and t.batch > 1:
        return NotImplemented
    count = (x.sizes[axis] - size) // step + 1
    picks = tuple(o * step + k for o in range(count) for k in range(size))
    picked = t.emit("gather", x, part="places", axis=axis, indices=picks)
    split = HANDLERS["reshape"](t, picked, *x.sizes[:axis], count, size, *x.sizes[axis + 1 :])
    return t.emit("transpose", split, perm=(*range(axis + 1), *range(axis + 2, rank + 1), axis + 1))


def _columns(t: Tracer, x: Traced, kernel_size: Size, *, dilation: Size, padding: Size, stride: Size) -> Any:
    """im2col: (n, c, h, w) to (n, c·taps, places)."""
    if x.dim() != 4:
        return NotImplemented
    kernel, apart, pads, step = (per_axis(v, 2) for v in (kernel_size, dilation, padding, stride))
    if any(pads):
        x = t.emit("pad", x, part="pad", pads=tuple((p, p) for p in pads))
    places: list[int] = []
    for axis in (2, 3):
        k, d, s = kernel[axis - 2], apart[axis - 2], step[axis - 2]
        places.append((x.sizes[axis] - d * (k - 1) - 1) // s + 1)
    channels = x.sizes[1]
    for axis in (2, 3):
        k, d, s = kernel[axis - 2], apart[axis - 2], step[axis - 2]
        picks = tuple(tap * d + o * s for tap in range(k) for o in range(places[axis - 2]))
        x = t.emit("gather", x, part="rows" if axis == 2 else "columns", axis=axis, indices=picks)
    split = t.emit("reshape", x, part="split", shape=(0, channels, kernel[0], places[0], kernel[1], places[1]))
    turned = t.emit("transpose", split, part="order", perm=(0, 1, 2, 4, 3, 5))
    return t.emit("reshape", turned, shape=(0, channels * kernel[0] * kernel[1], places[0] * places[1]))


@lowers("fold")
def fold(
    t: Tracer, x: Traced, output_size: Size, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1
) -> Any:
    """col2im: patches added where they overlap. Known for patches that touch but do not overlap, and for steps of 1."""
    size, kernel, apart, pads, step = (per_axis(v, 2) for v in (output_size, kernel_size, dilation, padding, stride))
    if x.dim() != 3:
        return NotImplemented
    channels = x.sizes[1] // (kernel[0] * kernel[1])
    wide = tuple(o + 2 * p for o, p in zip(size, pads, strict=True))
    places = tuple((w - d * (k - 1) - 1) // s + 1 for w, d, k, s in zip(wide, apart, kernel, step, strict=True))
    split = t.emit("reshape", x, part="split", shape=(0, channels, *kernel, *places))
    if step == kernel and apart == (1, 1) and all(o * s == w for o, s, w in zip(places, step, wide, strict=True)):
        turned = t.emit("transpose", split, part="order", perm=(0, 1, 4, 2, 5, 3))
        whole = t.emit("reshape", turned, part="whole", shape=(0, channels, *wide))
    elif step == (1, 1):
        taps: list[Traced] = []
        for a in range(kernel[0]):
            row = t.emit("gather", split, part=f"row{a}", axis=2, indices=(a,))
            for b in range(kernel[1]):
                tap = t.emit("gather", row, part=f"tap{a}.{b}", axis=3, indices=(b,))
                tap = t.emit("squeeze", tap, part=f"plane{a}.{b}", axes=(2, 3))
                before = (a * apart[0], b * apart[1])
                around = tuple((f, w - o - f) for f, w, o in zip(before, wide, places, strict=True))
                taps.append(t.emit("pad", tap, part=f"moved{a}.{b}", pads=around))
        whole = t.emit("add", *taps, part="sum") if len(taps) > 1 else taps[0]
    else:
        return NotImplemented
    return t.emit("pad", whole, pads=tuple((-p, -p) for p in pads))
