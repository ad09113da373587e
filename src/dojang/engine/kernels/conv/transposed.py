"""Transposed convolution without zeros between the inputs: one direct convolution per residue of the output place.

Output o takes tap k where o + p₀ − k·d is a multiple of the stride s. So all outputs with o mod s = r use the same
taps, and their sums are an ordinary convolution of stride 1 with that part of the kernel, read backwards. Each of the
∏s parts is a step that writes every s-th output.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import gcd, prod

import numpy as np

from dojang.engine.kernels import task as t
from dojang.engine.kernels.conv import direct
from dojang.engine.kernels.conv.direct import Direct, Nest
from dojang.engine.kernels.task import Code, Offer, Refusal, Step, Task
from dojang.native.costs import COSTS
from dojang.native.machine import Machine

NAME = "transposed"


@dataclass(frozen=True, slots=True)
class Part:
    """The outputs of one residue: the nest, the first output per axis, the taps of the kernel per axis."""

    nest: Nest
    first: tuple[int, ...]
    taps: tuple[tuple[int, ...], ...]


def offer(task: Task, machine: Machine) -> Offer | Refusal:
    """For transposed convolutions of up to three dimensions: multiply-adds at four fifths of the peak."""
    if not task.conv.transposed:
        return Refusal("not transposed")
    if task.conv.rank > 3:
        return Refusal("more than 3 dimensions")
    if prod(task.conv.stride) > 64:
        return Refusal("many parts for so large a stride")
    c, p = task.conv, machine.peaks
    compute = 2 * c.macs / max(1, c.n) / (p.fma_gflops * (COSTS.rate_transposed * 1e9))
    return Offer(max(compute, c.weight_bytes / (p.read_gbs * 1e9)) + COSTS.start_parts_s)


def parts(task: Task) -> list[Part]:
    """One part per residue that has outputs."""
    c = task.conv
    k3 = 3 - c.rank
    size, kernel, stride, dilation, out = ((1,) * k3 + v for v in (c.size, c.kernel, c.stride, c.dilation, c.out_size))
    before = (0,) * k3 + tuple(p for p, _ in c.padding)
    found = []
    for residues in product(*(range(min(s, o)) for s, o in zip(stride, out, strict=True))):
        taps, pads, places, steps = [], [], [], []
        for r, k, s, d, p, o in zip(residues, kernel, stride, dilation, before, out, strict=True):
            # Tap k reads input j + (r + p - k d)/s for output s j + r; from the last tap on the offsets grow.
            mine = tuple(i for i in reversed(range(k)) if (r + p - i * d) % s == 0)
            taps.append(mine)
            pads.append(-((r + p - mine[0] * d) // s) if mine else 0)
            places.append(t.ceil_div(o - r, s))
            steps.append(d // gcd(s, d))
        counts = tuple(len(m) for m in taps)
        nest = Nest(c.ic, c.oc, c.groups, size, counts, (1, 1, 1), tuple(pads), tuple(steps), tuple(places))
        found.append(Part(nest, residues, tuple(taps)))
    return found


def pack(task: Task, machine: Machine, weight: np.ndarray, bias: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Weights (ic, oc/groups, *kernel), part after part, each as the direct kernel packs its own."""
    c, lanes, dtype = task.conv, machine.lanes(task.element.bytes), task.element.dtype
    icg, ocg = c.ic // c.groups, c.oc // c.groups
    kernel = (1,) * (3 - c.rank) + c.kernel
    w = np.asarray(weight).reshape(c.groups, icg, ocg, *kernel).swapaxes(1, 2).reshape(c.oc, icg, *kernel)
    packed = []
    for part in parts(task):
        some = w[np.ix_(range(c.oc), range(icg), *part.taps)]
        tile = direct.tile_for(part.nest, task.element.bytes, machine)
        packed.append(direct.pack_weights(some, None, part.nest, lanes, tile.vectors, dtype)[0])
    return np.concatenate(packed), t.pack_vector(bias, c.groups, lanes, ocg, dtype)


def emit(task: Task, machine: Machine) -> Code:
    """One step per part."""
    task = replace(task, conv=replace(task.conv, n=1))  # the code does not depend on the batch
    c, size = task.conv, task.element.bytes
    lanes = machine.lanes(size)
    whole = t.ceil_div(c.oc // c.groups, lanes) * lanes
    stride = (1,) * (3 - c.rank) + c.stride
    out = (1,) * (3 - c.rank) + c.out_size
    steps, at = [], 0
    for part in parts(task):
        nest = part.nest
        tile = direct.tile_for(nest, size, machine)
        rows = nest.out_size[0] * nest.out_size[1]
        blocks = c.groups // tile.groups_per_unit * t.ceil_div(whole // lanes, tile.vectors)
        count = t.ceil_div(rows, tile.rows_per_unit) * blocks

        def build(name: str, part=part, tile=tile, at=at) -> str:
            kernel = Direct(name, task, part.nest, tile, machine)
            kernel.pixels = prod(out)
            kernel.steps = (stride[0] * out[1] * out[2], stride[1] * out[2], stride[2])
            kernel.origin = (part.first[0] * out[1] + part.first[1]) * out[2] + part.first[2]
            kernel.weights_at = at
            return kernel.text()

        steps.append(Step(f"{NAME} {task} {part.first} {tile}", build, lambda n, count=count: n * count))
        at += size * c.groups * whole * (c.ic // c.groups) * prod(nest.kernel)
    return Code(tuple(steps))
