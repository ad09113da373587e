"""1×1 convolutions as matrix products: pixels in a row, cut where register tiles fit best, then the direct kernel."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import prod

import numpy as np

from dojang.arith.conv import Conv
from dojang.engine.kernels.conv import direct
from dojang.engine.kernels.task import Code, Offer, Refusal, Task
from dojang.native.machine import Machine

NAME = "pointwise"


def offer(task: Task, machine: Machine) -> Offer | Refusal:
    """For kernels of one tap, stride 1, without padding: a little below the direct kernel, as there are no borders."""
    c = task.conv
    if c.transposed or not c.pointwise:
        return Refusal("the kernel has more than one tap")
    if any(s != 1 for s in c.stride) or any(p for pair in c.padding for p in pair):
        return Refusal("strided or padded")
    if prod(c.size) == 1 and c.groups == 1 and not task.residual_ld:
        return Refusal("one pixel: each weight is used once per image")
    return Offer(0.99 * direct.seconds(flattened(task), machine))


@cache
def flattened(task: Task) -> Task:
    """The same products with the pixels cut into rows that tile well."""
    c = task.conv
    places = prod(c.size)
    width = best_width(places)
    return replace(task, conv=Conv.of(c.ic, c.oc, (places // width, width), 1, groups=c.groups, bias=c.bias, n=c.n))


def best_width(places: int) -> int:
    """The row length that cuts `places` best: a divisor near 56 (many rows to share out, tiles of up to 14)."""
    if places <= 14:
        return places
    fits = [w for w in range(1, min(places, 256) + 1) if places % w == 0]
    return max(fits, key=lambda w: (round(w / (-(-w // 14) * 14), 2), -abs(w - 56)))


def pack(task: Task, machine: Machine, weight: np.ndarray, bias: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """As the direct kernel packs them."""
    return direct.pack(flattened(task), machine, weight, bias)


def emit_open(task: Task, like: Task, machine: Machine) -> Code:
    """The direct kernel on tiles of pixels, however many there are."""
    vectors = direct.tile_of(flattened(like), machine).vectors
    found = direct.open_places(NAME, task, prod(task.conv.size), vectors, machine)
    if found is not None:
        return found
    flat = flattened(task)
    nest = direct.three(flat.conv)
    tile = direct.tile_for(nest, task.element.bytes, machine, vectors)
    return direct.fixed_steps(direct.NAME, flat, nest, tile, machine)


def emit(task: Task, machine: Machine) -> Code:
    """The direct kernel on the new rows."""
    return direct.emit(flattened(task), machine)
