"""Transposed convolution without zeros between the inputs: one direct convolution per residue of the output place.

Output o takes tap k where o + p₀ − k·d is a multiple of the stride s. So all outputs with o mod s = r use the same
taps, and their sums are an ordinary convolution of stride 1 with that part of the kernel, read backwards. Each of the
∏s parts is a step that writes every s-th output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import gcd, prod
from typing import Any

import numpy as np

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.conv import direct
from dojang.engine.kernels.conv.direct import Direct, Nest, Tile
from dojang.engine.kernels.rows import open_row
from dojang.engine.kernels.task import Code, Offer, Refusal, Step, Task
from dojang.native.costs import COSTS
from dojang.native.machine import Machine

NAME = "transposed"


@plain_repr
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
    return steps_of(task, task, machine, False)


def emit_open(task: Task, like: Task, machine: Machine) -> Code:
    """Like `emit`, with code for images of any size where they are not too small, and the weights packed for `like`."""
    return steps_of(task, like, machine, True)


def steps_of(task: Task, like: Task, machine: Machine, any_size: bool) -> Code:
    """The steps of the parts that have outputs; weights lie as they are packed for `like`."""
    task = replace(task, conv=replace(task.conv, n=1))  # the code does not depend on the batch
    found = {part.first: part for part in parts(task)}
    size, lanes = task.element.bytes, machine.lanes(task.element.bytes)
    steps, at = [], 0
    for packed in parts(like):
        part, nest = found.get(packed.first), packed.nest
        tile = direct.tile_for(nest, size, machine)
        if part is not None:
            step = open_step(task, part, tile.vectors, at, machine) if any_size else None
            if step is None:
                only = tile.vectors if any_size else None
                step = fixed_step(task, part, direct.tile_for(part.nest, size, machine, only), at, machine)
            steps.append(step)
        whole = t.ceil_div(nest.oc // nest.groups, lanes) * lanes
        at += size * nest.groups * whole * (nest.ic // nest.groups) * prod(nest.kernel)
    return Code(tuple(steps))


def strides(task: Task) -> tuple[int, ...]:
    """The stride in three dimensions."""
    return (1,) * (3 - task.conv.rank) + task.conv.stride


def fixed_step(task: Task, part: Part, tile: Tile, at: int, machine: Machine) -> Step:
    """A part for images of one size, whose weights begin at byte `at`."""
    nest, stride, out = part.nest, strides(task), (1,) * (3 - task.conv.rank) + task.conv.out_size
    blocks = (
        nest.groups
        // tile.groups_per_unit
        * t.ceil_div(t.ceil_div(nest.oc // nest.groups, machine.lanes(task.element.bytes)), tile.vectors)
    )
    count = t.ceil_div(nest.out_size[0] * nest.out_size[1], tile.rows_per_unit) * blocks

    def build(name: str) -> str:
        kernel = Direct(name, task, nest, tile, machine)
        spread(kernel, part.first, stride, out, at)
        return kernel.text()

    return Step(f"{NAME} {task} {part.first} {tile} {at}", build, lambda n: n * count)


def open_step(task: Task, part: Part, vectors: int, at: int, machine: Machine) -> Step | None:
    """A part for images of any size; None where they are too small for that, or have three dimensions."""
    c, nest, size, stride = task.conv, part.nest, task.element.bytes, strides(task)
    if c.rank > 2 or nest.kernel[2] > direct.LARGE_KERNEL:
        return None
    most = min(machine.tile_rows(vectors), 28)
    row = open_row(nest.out_size[2], most, lambda start, count: direct.columns(nest, start, count))
    if row is None:
        return None
    rows, blocks = nest.out_size[1], direct.blocks_of(nest, vectors, size, machine)
    per_row = 2 * max(1, prod(nest.kernel)) * (c.ic // c.groups) * nest.out_size[2] * vectors * machine.lanes(size)
    some = direct.shared_out(rows, blocks, per_row, machine)
    form = replace(nest, size=(1, 0, 0), out_size=(1, 0, 0))

    def build(name: str) -> str:
        b = t.begin(name, machine)
        ih, iw, oh, ow, down, across, rows_per_unit = t.sizes(b, 7)
        here = replace(form, size=(1, ih, iw), out_size=(1, down, across))
        kernel = Direct(b, task, here, Tile(row.pixels, vectors, rows_per_unit), machine)
        kernel.cut_open = row
        spread(kernel, part.first, stride, (1, oh, ow), at)
        return kernel.text()

    out = ((1,) * (3 - c.rank) + c.out_size)[1:]
    recipe = f"{NAME} open {t.form(task)} {form} {part.first} {row} {vectors} {at}"
    sizes = (*nest.size[1:], *out, *nest.out_size[1:], some)
    return Step(recipe, build, lambda n: n * blocks * t.ceil_div(rows, some), sizes)


def spread(kernel: Direct, first: Sequence[int], stride: Sequence[int], out: Sequence[Any], at: int) -> None:
    """Lets a kernel write every so many pixels of outputs of the size `out`."""
    kernel.pixels = prod(out)
    kernel.steps = (stride[0] * out[1] * out[2], stride[1] * out[2], stride[2])
    kernel.origin = (first[0] * out[1] + first[1]) * out[2] + first[2]
    kernel.weights_at = at
