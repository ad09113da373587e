"""Operators of ONNX for detectors: boxes that overlap, regions of interest."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from math import ceil

import numpy as np

from dojang.engine.reference.standard.call import Array, Function, OperatorCall


def non_max_suppression(call: OperatorCall) -> tuple[Array, ...]:
    """(image, class, box) of the boxes that are kept: by falling score, without those that overlap a kept one."""
    boxes, scores = call[0], call[1]
    most = _number(call, 2, 0) or 0
    overlap, least = _number(call, 3, 0.0), _number(call, 4, None)
    kept: list[tuple[int, int, int]] = []
    for image in range(boxes.shape[0]):
        y1, x1, y2, x2 = _corners(boxes[image], call.attr("center_point_box", 0))
        area = (y2 - y1) * (x2 - x1)
        for group in range(scores.shape[1]):
            score = scores[image, group]
            order = np.argsort(-score, kind="stable")
            order = order[score[order] > least] if least is not None else order
            found = 0
            while order.size and found < most:
                best, order = int(order[0]), order[1:]
                kept.append((image, group, best))
                found += 1
                height = np.minimum(y2[best], y2[order]) - np.maximum(y1[best], y1[order])
                width = np.minimum(x2[best], x2[order]) - np.maximum(x1[best], x1[order])
                common = np.maximum(height, 0) * np.maximum(width, 0)
                whole = area[best] + area[order] - common
                ratio = np.divide(common, whole, out=np.zeros_like(common), where=whole > 0)
                order = order[~(ratio > overlap)]
    return (np.array(kept, np.int64).reshape(-1, 3),)


def _number(call: OperatorCall, place: int, default: float | None) -> float | None:
    given = call.get(place)
    return default if given is None else given.ravel()[0].item()


def _corners(boxes: Array, centre: int) -> tuple[Array, Array, Array, Array]:
    a, b, c, d = boxes.T
    if centre:  # x, y, width, height
        return b - d / 2, a - c / 2, b + d / 2, a + c / 2
    return np.minimum(a, c), np.minimum(b, d), np.maximum(a, c), np.maximum(b, d)


def roi_align(call: OperatorCall) -> tuple[Array, ...]:
    """Regions of a picture brought to one size: the mean, or the largest, of values at a grid of places."""
    x, regions, pictures = call[0], call[1], call[2].astype(int)
    height, width = call.attr("output_height", 1), call.attr("output_width", 1)
    scale, ratio = call.attr("spatial_scale", 1.0), call.attr("sampling_ratio", 0)
    half = (
        0.5
        if call.attr("coordinate_transformation_mode", "half_pixel" if call.opset >= 16 else "") == "half_pixel"
        else 0
    )
    y = np.zeros((len(regions), x.shape[1], height, width), x.dtype)
    for k, (region, picture) in enumerate(zip(regions, pictures, strict=True)):
        x1, y1, x2, y2 = (float(v) * scale - half for v in region)
        tall, wide = y2 - y1, x2 - x1
        if not half:
            tall, wide = max(tall, 1.0), max(wide, 1.0)
        down = ratio if ratio > 0 else ceil(tall / height)
        across = ratio if ratio > 0 else ceil(wide / width)
        for i, j in product(range(height), range(width)):
            values: list[Array] = []
            for a, b in product(range(down), range(across)):
                at = y1 + (i + (a + 0.5) / down) * tall / height
                to = x1 + (j + (b + 0.5) / across) * wide / width
                values.append(_between(x[picture], at, to, call.attr("mode", "avg") == "max"))
            if call.attr("mode", "avg") == "max":
                y[k, :, i, j] = np.max([v.max(0) for v in values], 0)
            elif values:
                y[k, :, i, j] = np.mean([v.sum(0) for v in values], 0)
    return (y,)


def _between(picture: Array, at: float, to: float, largest: bool) -> Array:
    """(4, c): the parts of the four pixels around a place."""
    _, height, width = picture.shape
    if at < -1 or at > height or to < -1 or to > width:
        return np.zeros((4, picture.shape[0]), picture.dtype)
    at, to = max(at, 0.0), max(to, 0.0)
    top, left = min(int(at), height - 1), min(int(to), width - 1)
    below, right = min(top + 1, height - 1), min(left + 1, width - 1)
    at, to = (top if top == height - 1 else at), (left if left == width - 1 else to)
    a, b = at - top, to - left
    spots = (
        (top, left, (1 - a) * (1 - b)),
        (top, right, (1 - a) * b),
        (below, left, a * (1 - b)),
        (below, right, a * b),
    )
    return np.stack([picture[:, r, c] * part for r, c, part in spots])


def max_roi_pool(call: OperatorCall) -> tuple[Array, ...]:
    """The largest value in each part of each region."""
    x, regions = call[0], call[1]
    height, width = call.attrs["pooled_shape"]
    scale = call.attr("spatial_scale", 1.0)
    y = np.zeros((len(regions), x.shape[1], height, width), x.dtype)
    for k, (picture, *region) in enumerate(regions):
        x1, y1, x2, y2 = (int(np.floor(v * scale + 0.5)) for v in region)
        tall, wide = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
        for i, j in product(range(height), range(width)):
            top, below = (int(np.floor(i * tall / height)) + y1, ceil((i + 1) * tall / height) + y1)
            left, right = (int(np.floor(j * wide / width)) + x1, ceil((j + 1) * wide / width) + x1)
            part = x[int(picture), :, max(top, 0) : max(below, 0), max(left, 0) : max(right, 0)]
            if part.size:
                y[k, :, i, j] = part.max((1, 2))
    return (y,)


FUNCTIONS: Mapping[str, Function] = {
    "NonMaxSuppression": non_max_suppression,
    "RoiAlign": roi_align,
    "MaxRoiPool": max_roi_pool,
}
"""One function per operator."""
