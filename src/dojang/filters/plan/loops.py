"""Programs whose taps come from memory, and the one that gives the same bits as code with constants, uncompiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dojang.filters.code.columns import Columns
from dojang.filters.code.loops import NONE, ROWS, LoopCode, Loops
from dojang.filters.code.pairs import Pairs
from dojang.filters.code.program import Finish, RowProgram
from dojang.filters.code.straight import Straight
from dojang.filters.job import Job
from dojang.filters.kernels.named import Taps
from dojang.filters.plan.costs import FilterCosts
from dojang.native.machine import Machine

Found = tuple[Loops, Callable[[], NDArray]]
NAMES = {"uint8": "u8", "uint16": "u16", "float32": "f32", "float64": "f64"}


def dense_cycles(kh: int, kw: int, cost: FilterCosts) -> float:
    """Predicted cycles per vector of results of a dense kernel."""
    return (kh + (ROWS - 1) / ROWS) * (kw * cost.looped_tap + cost.loop_row / ROWS) + cost.loops


def passes_cycles(kh: int, kw: int, cost: FilterCosts) -> float:
    """Predicted cycles per vector of results of a column and a row."""
    return (kh + kw) * cost.loop_tap + cost.loops


def dense_loop(job: Job, work: str, form: str, matrix: Taps, machine: Machine, finish: Finish, **words: int) -> Found:
    """All taps of the matrix."""
    kh, kw = matrix.shape
    step = job.options.dilation[1] * job.channels
    code = LoopCode(NAMES[job.dtype.name], NAMES[job.out_dtype.name], work, form, job.fill)  # type: ignore[arg-type]
    program = Loops(code, job.channels, kh, kw, (kw - 1) * step)
    size = program.work_kind.bytes
    make = partial(program.table, machine, matrix, NONE, NONE, finish.scale, finish.offset, step=step * size, **words)
    return program, make


def row_passes(
    job: Job,
    work: str,
    column: Taps,
    row: Taps,
    machine: Machine,
    finish: Finish,
    form: str = "rows first",
    **words: int,
) -> Found:
    """Rows first or columns first; taps of the row that are 0 are left out."""
    places = np.flatnonzero(row)
    step = job.options.dilation[1] * job.channels
    code = LoopCode(NAMES[job.dtype.name], NAMES[job.out_dtype.name], work, form, job.fill)  # type: ignore[arg-type]
    program = Loops(code, job.channels, len(column), len(places), (len(row) - 1) * step)
    make = partial(program.table, machine, column, row[places], places * step, finish.scale, finish.offset, **words)
    return program, make


def without_compiling(job: Job, program: object, machine: Machine) -> Found | None:
    """The program that gives the same bits as one with constants, with its taps from memory; None if there is none."""
    options = job.options
    if options.stride != (1, 1) or options.dilation[0] != 1 or job.kernel.combine != "linear":
        return None
    if isinstance(program, Straight):
        return _dense(job, program.kind, [(i, j, t) for i, j, t in program.taps], machine, program.finish)
    if isinstance(program, RowProgram):
        return _rows(job, program, machine)
    if isinstance(program, Columns):
        return _columns(job, program, machine)
    if isinstance(program, Pairs):
        return _pairs(job, program, machine)
    return None


def _exact(job: Job, work: str, taps: list[float]) -> str | None:
    """The type in which loops add as `work` does: float32 holds the sums of 16-bit programs that do not wrap around."""
    if work != "i16":
        return work
    return "f32" if 255 * sum(abs(t) for t in taps) < 2**24 else None


def _dense(job: Job, work: str, taps: list[tuple[int, int, float]], machine: Machine, finish: Finish) -> Found | None:
    kind = _exact(job, work, [t for _, _, t in taps])
    matrix, step = np.zeros((job.extent[0], job.kernel.size[1])), job.options.dilation[1] * job.channels
    for i, j, tap in taps:
        matrix[i, j // step] = tap
    if kind is None or (job.dtype.kind == "f" and not matrix.all()):
        return None  # a tap that is left out adds nothing to an infinite pixel
    return dense_loop(job, kind, "dense", matrix, machine, Finish(finish.scale, finish.offset))


def _rows(job: Job, program: RowProgram, machine: Machine) -> Found | None:
    if program.dense or len(program.outputs) != 1 or len(program.outputs[0]) != 1 or len(program.segments) > 1:
        return None
    (taps,), finish = program.outputs[0], program.finishes[0]
    if not program.segments:
        return _dense(job, program.work, [(i, j, t) for i, _, j, t in taps], machine, finish)
    return _passes(
        job, program.work, [(i, t) for i, _, _, t in taps], list(program.segments[0]), machine, finish, "rows first"
    )


def _columns(job: Job, program: Columns, machine: Machine) -> Found | None:
    if program.fixed:
        code = LoopCode("u8", "u8", "i32", "fixed columns", job.fill)
        loops = Loops(code, job.channels, job.extent[0], len(program.along), program.reach)
        words = {"shift": 8, "add": int(program.finish.offset)}
        return loops, partial(loops.fixed_table, machine, program.down, program.along, **words)
    down, along = ([(i, t) for i, _, t in taps] for taps in (program.down, program.along))
    return _passes(job, program.work, down, along, machine, program.finish, "columns first")


def _passes(
    job: Job,
    work: str,
    down: list[tuple[int, float]],
    along: list[tuple[int, float]],
    machine: Machine,
    finish: Finish,
    form: str,
) -> Found | None:
    step = job.options.dilation[1] * job.channels
    column, row = np.zeros(job.extent[0]), np.zeros(job.kernel.size[1])
    for i, tap in down:
        column[i] = tap
    for j, tap in along:
        row[j // step] = tap
    kind = _exact(job, work, [float(np.abs(column).sum() * np.abs(row).sum())])
    if kind is None or (job.dtype.kind == "f" and not column.all()):
        return None
    return row_passes(job, kind, column, row, machine, Finish(finish.scale, finish.offset), form)


def _pairs(job: Job, program: Pairs, machine: Machine) -> Found | None:
    kh, kw = job.extent[0], job.kernel.size[1]
    step = job.options.dilation[1] * job.channels
    if program.along:
        column = np.zeros(kh)
        for i, _, tap in program.taps:
            column[i] += tap
        words = {"first": program.first, "middle": program.middle, "shift": program.shift, "add": program.add}
        row = np.array(program.along, float)
        return row_passes(job, "i32", column, row, machine, Finish(), "columns first", **words)
    matrix = np.zeros((kh, kw))
    for i, j, tap in program.taps:
        matrix[i, j // step] += tap
    return dense_loop(job, "i32", "dense", matrix, machine, Finish(), shift=program.shift, add=program.add)
