"""Operators of ONNX that take values between pixels: Resize in all its forms, GridSample, AffineGrid."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from math import ceil, floor

import numpy as np

from dojang.base.errors import UnsupportedError
from dojang.engine.reference.standard.call import Array, Function, OperatorCall, axis_in


def resize(call: OperatorCall) -> tuple[Array, ...]:
    """Other sizes along axes, one axis after the other."""
    x = call[0]
    old = call.opset < 11 or call.kind == "Upsample"
    given = call.get(1) if old else call.get(2)
    scales = call.attr("scales") or (given.ravel().tolist() if given is not None and given.size else None)
    sizes = None if old else call.ints(3)
    axes = [axis_in(a, x.ndim) for a in call.attr("axes") or range(x.ndim)]
    shape = [x.shape[a] for a in axes]
    if sizes:
        policy = call.attr("keep_aspect_ratio_policy", "stretch")
        scales = [s / i for s, i in zip(sizes, shape, strict=True)]
        if policy != "stretch":
            one = min(scales) if policy == "not_larger" else max(scales)
            scales = [one] * len(axes)
            sizes = [floor(one * i + 0.5) for i in shape]
    elif scales:
        sizes = [floor(i * np.float32(s)) for i, s in zip(shape, scales, strict=True)]
    else:
        raise UnsupportedError("Resize takes either scales or sizes")
    assert scales is not None
    roi = call.get(1) if not old and call.attr("coordinate_transformation_mode") == "tf_crop_and_resize" else None
    y, outside = x.astype(np.float64) if x.dtype.kind != "f" else x, [np.zeros(0, bool)] * x.ndim
    for place, axis in enumerate(axes):
        part = (float(roi[place]), float(roi[place + len(axes)])) if roi is not None else None
        if part is None and sizes[place] == x.shape[axis] and scales[place] == 1:
            continue
        matrix, outside[axis] = _mixing(call, x.shape[axis], sizes[place], scales[place], part, old)
        y = np.moveaxis(np.tensordot(y, matrix.astype(y.dtype), (axis, 1)), -1, axis)
    if roi is not None:
        for axis, beyond in enumerate(outside):
            if beyond.any():
                cut = [slice(None)] * y.ndim
                y[tuple(beyond if a == axis else c for a, c in enumerate(cut))] = call.attr("extrapolation_value", 0.0)
    return ((np.rint(y) if x.dtype.kind in "iu" else y).astype(x.dtype),)


def _mixing(
    call: OperatorCall, size: int, out: int, scale: float, roi: tuple[float, float] | None, old: bool
) -> tuple[Array, Array]:
    """(out, size): the part of each pixel in each new one; and which new ones lie outside of the picture."""
    mode = str(call.attr("mode", "nearest")).replace("bilinear", "linear").replace("bicubic", "cubic")
    coords = "asymmetric" if old else call.attr("coordinate_transformation_mode", "half_pixel")
    places = np.arange(out, dtype=np.float64)
    where = _coordinates(places, size, out, scale, coords, roi)
    beyond = (where < 0) | (where > size - 1)
    matrix = np.zeros((out, size))
    near = "floor" if old else call.attr("nearest_mode", "round_prefer_floor")
    shrink = min(scale, 1.0) if call.attr("antialias") and mode != "nearest" else 1.0
    for row, at in enumerate(where):
        if mode == "nearest":
            matrix[row, min(max(_nearest(at, near), 0), size - 1)] = 1
            continue
        reach = 2 if mode == "cubic" else 1
        if shrink < 1:
            first, last = ceil(at - reach / shrink - 1e-9), floor(at + reach / shrink + 1e-9)
        else:
            first, last = floor(at) - reach + 1, floor(at) + reach
        taps = np.arange(first, last + 1)
        distance = np.abs(taps - at) * shrink
        parts = _cubic(distance, call.attr("cubic_coeff_a", -0.75)) if mode == "cubic" else np.maximum(1 - distance, 0)
        if call.attr("exclude_outside"):
            parts = np.where((taps >= 0) & (taps < size), parts, 0)
        if shrink < 1 or call.attr("exclude_outside"):
            parts = parts / parts.sum()
        np.add.at(matrix[row], taps.clip(0, size - 1), parts)
    return matrix, beyond


def _coordinates(
    places: Array, size: int, out: int, scale: float, coords: str, roi: tuple[float, float] | None
) -> Array:
    """Where new pixels lie in the old picture."""
    match coords:
        case "half_pixel":
            return (places + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            return (places + 0.5) / scale - 0.5 if out > 1 else places * 0
        case "half_pixel_symmetric":
            middle = size / 2 * (1 - out / (size * scale))
            return middle + (places + 0.5) / scale - 0.5
        case "align_corners":
            return places * (size - 1) / (out - 1) if out > 1 else places * 0
        case "asymmetric":
            return places / scale
        case "tf_half_pixel_for_nn":
            return (places + 0.5) / scale
        case "tf_crop_and_resize":
            first, last = roi or (0.0, 1.0)
            if out > 1:
                return first * (size - 1) + places * (last - first) * (size - 1) / (out - 1)
            return places * 0 + 0.5 * (first + last) * (size - 1)
    raise UnsupportedError(f"Resize in coordinates {coords!r}")


def _nearest(at: float, how: str) -> int:
    at = round(at, 6)  # a third times three is not quite one
    match how:
        case "round_prefer_floor":
            return ceil(at - 0.5)
        case "round_prefer_ceil":
            return floor(at + 0.5)
        case "floor":
            return floor(at)
    return ceil(at)


def _cubic(d: Array, a: float) -> Array:
    """Keys' kernel."""
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def grid_sample(call: OperatorCall) -> tuple[Array, ...]:
    """Values of a picture at places between −1 and 1."""
    x, grid = call[0], call[1]
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(call.attr("mode", "linear"), call.attr("mode", "linear"))
    border, corners = call.attr("padding_mode", "zeros"), bool(call.attr("align_corners"))
    sizes, rank = x.shape[2:], x.ndim - 2
    at = [_pixels(grid[..., rank - 1 - a], sizes[a], corners) for a in range(rank)]
    if mode == "nearest":
        return (_picked(x, [np.rint(p).astype(int) for p in at], border, corners),)
    reach = range(-1, 3) if mode == "cubic" else range(2)
    base = [np.floor(p).astype(int) for p in at]
    y = np.zeros((*x.shape[:2], *grid.shape[1:-1]), x.dtype)
    for steps in product(reach, repeat=rank):
        places = [b + s for b, s in zip(base, steps, strict=True)]
        part = np.ones(grid.shape[:-1])
        for place, p in zip(places, at, strict=True):
            distance = np.abs(p - place)
            part = part * (_cubic(distance, -0.75) if mode == "cubic" else np.maximum(1 - distance, 0))
        y += _picked(x, places, border, corners) * part[:, None].astype(x.dtype)
    return (y,)


def _pixels(place: Array, size: int, corners: bool) -> Array:
    """Pixels from places between −1 and 1."""
    return (place + 1) / 2 * (size - 1) if corners else ((place + 1) * size - 1) / 2


def _picked(x: Array, places: list[Array], border: str, corners: bool) -> Array:
    """(n, c, *places): the pixels at whole places, by the rule for those outside."""
    inside = np.ones(places[0].shape, bool)
    found: list[Array] = []
    for place, size in zip(places, x.shape[2:], strict=True):
        if border == "reflection":
            place = _reflected(place, size, corners)
        inside &= (place >= 0) & (place < size)
        found.append(np.clip(place, 0, size - 1))
    n = np.arange(x.shape[0]).reshape(-1, *(1,) * (places[0].ndim - 1))
    y = np.moveaxis(x, 1, -1)[(n, *found)]
    y = np.where(inside[..., None], y, 0) if border == "zeros" else y
    return np.moveaxis(y, -1, 1)


def _reflected(place: Array, size: int, corners: bool) -> Array:
    if size == 1:
        return place * 0
    low, span = (0.0, size - 1.0) if corners else (-0.5, float(size))
    away = np.abs(place - low)
    turns, rest = np.floor(away / span), np.fmod(away, span)
    return np.where(turns % 2 == 0, rest + low, span - rest + low).round().astype(int)


def affine_grid(call: OperatorCall) -> tuple[Array, ...]:
    """Places between −1 and 1 of every pixel, moved by a matrix."""
    theta, size = call[0], [int(v) for v in call[1]]
    axes: list[Array] = []
    for s in size[2:]:
        steps = np.linspace(-1, 1, s) if call.attr("align_corners") else (np.arange(s) * 2 + 1) / s - 1
        axes.append(steps)
    grid = np.stack([*reversed(np.meshgrid(*axes, indexing="ij")), np.ones(size[2:])], -1)
    return (np.einsum("...k,njk->n...j", grid, theta).astype(theta.dtype),)


FUNCTIONS: Mapping[str, Function] = {
    "Resize": resize,
    "Upsample": resize,
    "GridSample": grid_sample,
    "AffineGrid": affine_grid,
}
"""One function per operator."""
