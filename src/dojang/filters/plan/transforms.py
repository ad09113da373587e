"""Which transforms filter a picture by a large kernel: their lengths, and whether rows are transformed, too."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dojang.filters.code.fourier import Fourier, radices
from dojang.filters.code.program import Finish
from dojang.filters.job import Job
from dojang.filters.plan.costs import FilterCosts, costs_of
from dojang.filters.plan.method import Method, kind_of
from dojang.filters.plan.sums import TIE, source_top, sums_of
from dojang.native.machine import Machine

HALF = 256  # elements of half a tile of transforms; two halves are one row of a small picture
LENGTHS = (32, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024)
"""Lengths of transforms, multiples of the lanes of a register; the kernel may fill three quarters of one."""


def fourier(job: Job, machine: Machine, both: bool | None = None) -> Method | str:
    """Transforms down the columns, and taps or transforms along the rows, with the cheapest lengths for the picture.

    `both` leaves no choice between those: True is transforms of both axes.
    """
    if job.kernel.combine != "linear":
        return "two parts are joined"
    if job.options.stride != (1, 1):
        return "a transform makes every row; a stride drops most of them"
    if job.anywhere:
        return "its rounding would depend on the first row of a tile"
    floats = job.out_dtype.kind == "f"
    if floats and job.options.dilation != (1, 1):
        return "with dilation on floats, its rounding error could not be bounded"
    sums = sums_of(job)
    matrix, finish = sums.parts[0], Finish(sums.finish.scale, sums.finish.offset)
    weight = source_top(job) * float(np.abs(matrix).sum()) * abs(finish.scale)
    work = "f64" if floats or 2.0**-24 * 16 * weight > TIE else "f32"
    if not floats and 2.0**-53 * 16 * weight > TIE:
        return "transforms would round differently"
    if job.extent[0] > LENGTHS[-1] * 3 // 4:  # checked before memory is allocated: rows far apart may need terabytes
        return f"{job.extent[0]} rows are longer than its longest transform"
    programs = [p for p in _programs(job, work, finish) if both is None or both == (p.wide > 0)]
    if not programs:
        return f"{job.extent[1]} columns are too few or too many for transforms along the rows"
    costs = costs_of(machine)
    found = [(tile_cycles(p, machine, costs) * tiles(p, job), i) for i, p in enumerate(programs)]
    total, i = min(found)
    program = programs[i]
    cycles = total / (job.out_size[0] * job.out_size[1] * job.channels) + (costs.guard if work == "f64" else 0.0)
    said_work = (
        "float64, for blocks without a pixel so large that its rounding error would reach others"
        if floats
        else {"f32": "float32", "f64": "float64"}[work]
    )
    rows = f"of {program.length} rows and {program.wide} columns" if program.wide else f"of {program.length} rows"
    taps_along = "" if program.wide else f", {program.kw} taps along the rows of their frequencies"

    def taps() -> NDArray:
        spread = np.zeros((job.extent[0], program.kw))
        spread[:: job.options.dilation[0]] = matrix
        return program.table(machine, spread)

    return Method("fourier", cycles, program, taps, f"transforms {rows}{taps_along}, {said_work}")


@lru_cache(maxsize=64)
def fitted(job: Job, machine: Machine) -> Method:
    """`fourier` for a picture of the job's own size, for which it was chosen without looking at the size."""
    found = fourier(job, machine)
    assert isinstance(found, Method)
    return found


def _programs(job: Job, work: str, finish: Finish) -> Iterator[Fourier]:
    """All lengths that the kernel may fill."""
    kw, extent, c = job.kernel.size[1], job.extent[0], job.channels
    reach = job.extent[1] - 1
    given = (kind_of(job.dtype), kind_of(job.out_dtype), c, extent, kw, job.options.dilation[1] * c)
    for length in LENGTHS:
        if extent > length * 3 // 4:
            continue
        half = HALF // 2 if work == "f64" else HALF
        yield Fourier(*given, length, half, finish, job.fill, work)
        for wide in LENGTHS:
            if reach + 1 <= wide * 3 // 4:
                yield Fourier(*given, length, (wide - reach) * c, finish, job.fill, work, wide)


def tiles(program: Fourier, job: Job) -> int:
    """How many tiles a picture has."""
    (oh, ow), c = job.out_size, job.channels
    return -(-oh // program.grid) * -(-ow * c // (2 * program.half))


def tile_cycles(program: Fourier, machine: Machine, cost: FilterCosts) -> float:
    """Predicted cycles of a tile, from those of a butterfly and of a tap, as measured."""
    n, half, columns = program.length, program.half, program.columns(machine)
    lanes = machine.lanes(program.work_kind.bytes)

    def transform(length: int) -> float:
        """Of one vector of signals."""
        butterflies = sum(length / r * cost.butterflies[r] for r in radices(length, machine.registers))
        return butterflies * (cost.longest if length > cost.near_rows else 1.0)

    if program.wide:
        along = n / lanes * (2 * program.channels * transform(program.wide) + columns * (6.0 + cost.turn))
    else:
        along = n * half / lanes * program.kw * 4 * cost.tap
    moves = 2 * n * columns / lanes * cost.load + 2 * program.grid * half / lanes * cost.store
    down = transform(n) * (columns + half) / lanes
    cycles = (along + down + moves) * (cost.short if n <= 64 else cost.long)
    if not program.wide:
        return cycles
    far = cost.far_tile if 2 * n * columns * program.work_kind.bytes > machine.l2 else 0.0
    return cost.both_axes * cycles + far * n * columns / lanes
