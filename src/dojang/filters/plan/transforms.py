"""Which transforms filter a picture by a large kernel: their lengths, and whether rows are transformed, too."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dojang.filters.code.fourier import Fourier, radices
from dojang.filters.code.program import Finish
from dojang.filters.job import Job
from dojang.filters.plan.costs import costs_of
from dojang.filters.plan.method import Method, kind_of
from dojang.filters.plan.sums import TIE, source_top, sums_of
from dojang.native.emit import KINDS
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
    work = "f64" if floats else work_for(weight)
    if work is None:
        return "transforms would round differently"
    if job.extent[0] > LENGTHS[-1] * 3 // 4:  # checked before memory is allocated: rows far apart may need terabytes
        return f"{job.extent[0]} rows are longer than its longest transform"
    found = _cheapest(job.extent, job.out_size, job.channels, job.kernel.size[1], work, machine, both)
    if found is None:
        return f"{job.extent[1]} columns are too few or too many for transforms along the rows"
    cycles, length, wide = found
    program = program_of(job, work, finish, length, wide)
    cycles += costs_of(machine).guard if work == "f64" else 0.0
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


def work_for(weight: float) -> str | None:
    """The type of transforms whose results are whole numbers, so large at most; None if none is exact enough."""
    return next((work for work, bits in (("f32", 24), ("f64", 53)) if 2.0**-bits * 16 * weight <= TIE), None)


def least_cycles(job: Job, machine: Machine) -> float:
    """A lower bound of what transforms take per element, found without trying lengths: on floats their picture is
    examined; otherwise the shortest transform there and back, of two signals at once.
    """
    cost = costs_of(machine)
    return cost.guard if job.out_dtype.kind == "f" else float(_transforms(machine)[0]) / LENGTHS[0] / machine.lanes(4)


@lru_cache(maxsize=64)
def fitted(job: Job, machine: Machine) -> Method:
    """`fourier` for a picture of the job's own size, for which it was chosen without looking at the size."""
    found = fourier(job, machine)
    assert isinstance(found, Method)
    return found


def program_of(job: Job, work: str, finish: Finish, length: int, wide: int) -> Fourier:
    """The program with transforms of these lengths."""
    kw, c = job.kernel.size[1], job.channels
    half = (wide - job.extent[1] + 1) * c if wide else _half(work)
    step = job.options.dilation[1] * c
    kinds = kind_of(job.dtype), kind_of(job.out_dtype)
    return Fourier(*kinds, c, job.extent[0], kw, step, length, half, finish, job.fill, work, wide)


def fits(extent: int) -> NDArray[np.int64]:
    """The lengths that so many taps may fill."""
    return _LENGTHS[extent <= _LENGTHS * 3 // 4]


def _half(work: str) -> int:
    return HALF // 2 if work == "f64" else HALF


_LENGTHS = np.array(LENGTHS)


@lru_cache(maxsize=256)
def _cheapest(
    extent: tuple[int, int], out_size: tuple[int, int], c: int, kw: int, work: str, machine: Machine, both: bool | None
) -> tuple[float, int, int] | None:
    """Predicted cycles per element, and the lengths down and along (0: taps) with the fewest of those."""
    lanes, cost = machine.lanes(KINDS[work].bytes), costs_of(machine)
    (oh, ow), reach = out_size, extent[1] - 1
    lengths, all_widths = fits(extent[0])[:, None], fits(reach + 1)[None]
    transforms = _transforms(machine)
    each = transforms[-lengths.size :, None]
    grid = lengths - extent[0] + 1
    best = None
    for wide in (False, True):
        if (both is not None and both != wide) or (wide and not all_widths.size):
            continue
        widths = all_widths if wide else np.zeros((1, 1))
        half = (widths - reach) * c if wide else np.full((1, 1), _half(work))
        columns = -(-(half + reach * c) // lanes) * lanes
        if wide:
            along = lengths / lanes * (2 * c * transforms[-widths.size :][None] + columns * (6.0 + cost.turn))
        else:
            along = lengths * half / lanes * kw * 4 * cost.tap
        moves = 2 * lengths * columns / lanes * cost.load + 2 * grid * half / lanes * cost.store
        cycles = (along + moves + each * (columns + half) / lanes) * np.where(lengths <= 64, cost.short, cost.long)
        if wide:
            far = 2 * lengths * columns * KINDS[work].bytes > machine.l2
            cycles = cost.both_axes * cycles + far * cost.far_tile * lengths * columns / lanes
        total = cycles * -(-oh // grid) * -(-ow * c // (2 * half))
        i, j = np.unravel_index(int(total.argmin()), total.shape)
        found = float(total[i, j]) / (oh * ow * c), int(lengths[i, 0]), int(widths[0, j])
        best = found if best is None else min(best, found)
    return best


@lru_cache(maxsize=8)
def _transforms(machine: Machine) -> NDArray[np.float64]:
    """Predicted cycles of a transform of each length, of one vector of signals."""
    cost = costs_of(machine)
    return np.array([
        sum(n / r * cost.butterflies[r] for r in radices(n, machine.registers))
        * (cost.longest if n > cost.near_rows else 1.0)
        for n in LENGTHS
    ])  # fmt: skip
