"""Resizing along one axis: the pixels from which an output is interpolated, as in the runtime that the network is from.

The last bit of a float32 decides which pixel is the nearest, and runtimes differ in that bit. "onnx": position o of the
output lies at o / f, (o + ½) / f − ½ and so on of the input, where f is the factor as float32 and every operation is
rounded to float32 (ONNX Runtime 1.32, which takes what lies within 10⁻⁶ of a half as a half). "torch": o · k, rounded
to float32, where k is 1 / f, or input over output if only the size is given (PyTorch 2.13 for contiguous float32; for
some sizes it computes float64 and channels-last tensors by another kernel, which differs at few positions). The weights
of linear and cubic interpolation hardly depend on that bit, so they are computed exactly.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from math import ceil as round_up
from math import floor, isfinite

from dojang.arith.attrs import Attrs
from dojang.base.errors import ShapeError

COORDS = (
    "asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners", "half_pixel_symmetric", "tf_half_pixel_for_nn",
)  # fmt: skip
"""The mappings from output to input coordinates, by ONNX's names."""

ARITHMETICS = ("onnx", "torch")
"""The runtimes whose rounding decides which pixel is the nearest, and how large a resized image is."""

HALF = 1e-6  # ONNX Runtime takes what lies within this distance of a half as a half
NEAR = Fraction(1, 1 << 30)  # of a pixel: below the rounding of a float32 share

Mix = tuple[tuple[int, float], ...]
"""The (pixel, weight) pairs of an output; the weights sum to 1, and none is 0."""


def single(x: float) -> float:
    """A number rounded to float32.

    >>> single(0.1) == 0.1, single(0.5) == 0.5
    (False, True)
    """
    try:
        return struct.unpack("<f", struct.pack("<f", x))[0]  # "f" alone makes infinity of what is too large
    except OverflowError:
        raise ShapeError(f"{x} is too large for float32") from None


def resized(size: int, scale: float, arithmetic: str) -> int:
    """Pixels of an axis after resizing by a factor: ⌊size · scale⌋, of the product as the runtime rounds it.

    >>> resized(10, 0.7, "onnx"), resized(10, 0.7, "torch")
    (7, 7)
    """
    if not (isfinite(scale) and scale > 0):
        raise ShapeError(f"resize by {scale}: the factor must be positive and finite")
    try:
        return floor(scaled(size, scale, arithmetic))
    except OverflowError:
        raise ShapeError(f"resize by {scale}: {size} pixels become more than a float64 holds") from None


def scaled(size: int, scale: float, arithmetic: str) -> float:
    """size · scale as the runtime rounds it."""
    return single(size * single(scale)) if arithmetic == "onnx" else size * scale


def taps(attrs: Attrs, o: int, size: int, out: int, scale: float | None, short: bool = False) -> Mix:
    """The pixels from which output `o` of an axis is interpolated; some may lie outside the image.

    `attrs` are those of the operator `resize`. `scale` is None where only the sizes are given; `short` as `shortcuts`.
    """
    mode, coords, arithmetic = attrs["mode"], attrs["coords"], attrs["arithmetic"]
    if mode == "nearest":
        if arithmetic == "torch":
            return ((_by_torch(o, size, out, scale, coords, attrs["rounding"], short), 1.0),)
        return ((_rounded(_by_onnx(o, size, out, scale, coords), attrs["rounding"]), 1.0),)
    if (
        mode == "linear" and arithmetic == "torch" and size == out
    ):  # PyTorch copies along such an axis, except for cubic
        return ((o, 1.0),)
    place = source_place(o, size, out, scale, coords, arithmetic)
    base = floor(place)
    if 1 - (place - base) < NEAR:
        base, place = base + 1, Fraction(base + 1)
    elif place - base < NEAR:
        place = Fraction(base)
    offset = float(place - base)
    if not offset:
        return ((base, 1.0),)
    if mode == "linear":
        return ((base, 1 - offset), (base + 1, offset))
    shares = ((base + i, cubic(offset - i, attrs["cubic_a"])) for i in (-1, 0, 1, 2))
    return tuple((pixel, share) for pixel, share in shares if share)


def mixes(attrs: Attrs, sizes: Sequence[int], outs: Sequence[int]) -> list[tuple[Mix, ...]]:
    """For each axis and each output, the pixels from which it is interpolated; outside the image, those of the border.

    Pixels of weight 0 are left out, so that 0 · ∞ is never computed.
    """
    scales = factors(attrs, len(sizes))
    if attrs["arithmetic"] == "onnx" and tuple(sizes) == tuple(outs):  # ONNX Runtime copies, whatever the factors
        return [tuple(((o, 1.0),) for o in range(out)) for out in outs]
    key = (attrs["mode"], attrs["coords"], attrs["rounding"], attrs["arithmetic"], attrs["cubic_a"], shortcuts(outs))
    return [_axis(*key, size, out, scale) for size, out, scale in zip(sizes, outs, scales, strict=True)]


def shortcuts(outs: Sequence[int]) -> bool:
    """Whether PyTorch takes its kernel for small images, which treats equal and doubled sizes specially."""
    return len(outs) == 2 and sum(outs) <= 128


def factors(attrs: Attrs, rank: int) -> tuple[float | None, ...]:
    """The factor of each axis; None where only the sizes are given."""
    scale = attrs["scale"] or (None,)
    return tuple(scale) * rank if len(scale) == 1 else tuple(scale)


@lru_cache(maxsize=64)
def _axis(
    mode: str,
    coords: str,
    rounding: str,
    arithmetic: str,
    cubic_a: float,
    short: bool,
    size: int,
    out: int,
    scale: float | None,
) -> tuple[Mix, ...]:
    attrs = {"mode": mode, "coords": coords, "rounding": rounding, "arithmetic": arithmetic, "cubic_a": cubic_a}
    found: list[Mix] = []
    for o in range(out):
        shares: dict[int, float] = {}
        for pixel, share in taps(attrs, o, size, out, scale, short):
            inside = min(max(pixel, 0), size - 1)
            shares[inside] = shares.get(inside, 0.0) + share
        found.append(tuple(shares.items()) if len(shares) > 1 else tuple((pixel, 1.0) for pixel in shares))
    return tuple(found)


def same_pixels(attrs: Attrs, other: Attrs, sizes: Sequence[int], outs: Sequence[int]) -> bool:
    """Whether two sets of attributes interpolate from the same pixels, with weights equal within float32's rounding."""
    for one, two in zip(mixes(attrs, sizes, outs), mixes(other, sizes, outs), strict=True):
        for a, b in zip(one, two, strict=True):
            first, second = dict(a), dict(b)
            if any(
                abs(first.get(p, 0.0) - second.get(p, 0.0)) > 1e-6 * max(1, p) for p in first.keys() | second.keys()
            ):
                return False
    return True


def source_place(o: int, size: int, out: int, scale: float | None, coords: str, arithmetic: str = "onnx") -> Fraction:
    """Where on an axis of `size` pixels output `o` of a resize comes from, exactly; `coords` by ONNX's names.

    The factor is `scale` (as float32 for "onnx", its inverse as float64 for "torch"), or `out`/`size` where only the
    sizes are given.

    >>> source_place(1, 4, 8, None, "half_pixel")
    Fraction(1, 4)
    """
    if coords == "align_corners":
        return Fraction(o * (size - 1), out - 1) if out > 1 else Fraction(0)
    if coords == "pytorch_half_pixel" and out == 1:
        return Fraction(0)
    if scale is None:
        step = Fraction(size, out)
    else:
        step = 1 / Fraction(single(scale)) if arithmetic == "onnx" else Fraction(1 / scale)
    if coords == "asymmetric":
        return o * step
    centre = (o + Fraction(1, 2)) * step
    if coords == "tf_half_pixel_for_nn":
        return centre
    if coords == "half_pixel_symmetric":  # the centre stays where it is, although the size was rounded down
        centre += Fraction(size, 2) * (1 - out * step / size)
    return centre - Fraction(1, 2)


def cubic(distance: float, a: float) -> float:
    """Keys' cubic convolution kernel (1981) at a distance from the pixel."""
    t = abs(distance)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def _by_onnx(o: int, size: int, out: int, scale: float | None, coords: str) -> float:
    """The position in float32, operation by operation."""
    f = single(single(out) / single(size)) if scale is None else single(scale)
    if f == 1:
        return float(o)
    match coords:
        case "asymmetric":
            return single(o / f)
        case "align_corners":
            return single(single(single(o) * single(size - 1)) / single(out - 1)) if out > 1 else 0.0
        case "tf_half_pixel_for_nn":
            return single(single(o + 0.5) / f)
        case "half_pixel_symmetric":  # ONNX Runtime computes the last sum in float64
            short = single(1 - single(single(out) / single(f * size)))
            return single(single(single(size / 2) * short) + (o + 0.5) / f - 0.5)
        case _:
            if coords == "pytorch_half_pixel" and out == 1:
                return 0.0
            return single(single(single(o + 0.5) / f) - 0.5)


def _rounded(place: float, rounding: str) -> int:
    """The pixel nearest to a position in float32; `rounding` is floor, ceil, or to which side a half is rounded."""
    base = floor(place)
    if rounding == "floor":
        return base
    if rounding == "ceil":
        return round_up(place)
    if abs(place - base - 0.5) < HALF:
        return base if rounding == "round_prefer_floor" else base + 1
    return floor(place + 0.5)


def _by_torch(o: int, size: int, out: int, scale: float | None, coords: str, rounding: str, short: bool) -> int:
    """The pixel of mode "nearest" (asymmetric, floor) and "nearest-exact" (half pixels, halves rounded up)."""
    k = single(single(size) / single(out)) if scale is None else single(1 / scale)
    match coords, rounding:
        case "asymmetric", "floor":
            if short and out in (size, 2 * size):
                return o if out == size else o // 2
            return min(floor(single(single(o) * k)), size - 1)
        case "half_pixel", "round_prefer_ceil":
            return min(floor(single((o + 0.5) * k)), size - 1)
        case _:  # PyTorch has no such mode
            return _rounded(float(source_place(o, size, out, scale, coords, "torch")), rounding)
