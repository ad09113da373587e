"""Runs plans: border tables, scratch, machine code, bands of rows for every thread."""

from __future__ import annotations

import threading
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dojang.engine import jit
from dojang.engine.machine import Machine
from dojang.filters.borders import Border, index_map
from dojang.filters.codegen import PARAMS, emit
from dojang.filters.job import Job
from dojang.filters.plan import Plan
from dojang.filters.program import Program

_local = threading.local()


@lru_cache(maxsize=256)
def compiled(program: Program, machine: Machine):
    """The program's machine code."""
    return jit.load(emit(program, machine), machine).function("press", len(PARAMS))


@lru_cache(maxsize=64)
def row_map(size: int, before: int, after: int, border: Border) -> NDArray[np.int64]:
    """Source row of each padded row, −1 for the fill."""
    return np.ascontiguousarray(index_map(size, before, after, border))


@lru_cache(maxsize=64)
def element_map(size: int, before: int, after: int, more: int, border: Border, channels: int) -> NDArray[np.int64]:
    """Source element of each padded element, −1 for the fill; `more` pixels are added that nobody looks at."""
    pixels = index_map(size, before, after, border)
    pixels = np.concatenate([pixels, np.zeros(more, np.int64)])
    elements = pixels[:, None] * channels + np.arange(channels)
    elements[pixels < 0] = -1
    return np.ascontiguousarray(elements.ravel())


def scratch(size: int) -> int:
    """The address of this thread's own scratch memory, aligned to 64 bytes, of at least `size` bytes."""
    held = getattr(_local, "scratch", None)
    if held is None or held.nbytes < size + 64:
        held = _local.scratch = np.empty(size + 64, np.uint8)
    address = held.ctypes.data
    return address + (-address) % 64


def run(plan: Plan, job: Job, image: NDArray, out: NDArray, machine: Machine, threads: int = 1) -> None:
    """Writes the plan's results for `image` (h, w, c), rows at any pitch, into `out` (kernels, oh, ow, c)."""
    program = plan.way.program
    assert program is not None
    function = compiled(program, machine)
    (oh, ow), c, sx = job.out_size, job.channels, job.options.stride[1]
    chunk = program.chunk(machine)
    wide = (ow - 1) * sx + 1
    more = max(0, -(-chunk // c) - wide)
    target = out
    if more:
        wide += more
        target = np.empty((out.shape[0], oh, -(-wide // sx), c), out.dtype)
    rows = row_map(job.height, job.before[0], job.after[0], job.options.border)
    cols = element_map(job.width, job.before[1], job.after[1], more, job.options.border, c)
    taps = plan.way.taps
    fixed = (
        image.ctypes.data,
        image.strides[0],
        target.ctypes.data,
        target.strides[1],
        target.strides[0],
        rows.ctypes.data,
        rows.size,
        cols.ctypes.data,
        job.before[1] * c,
        job.width * c,
        wide * c,
    )
    size = program.scratch_bytes(machine)
    at = 0 if taps is None else taps.ctypes.data
    function(*fixed, 0, oh, scratch(size), at)
    if more:
        out[...] = target[:, :, :ow]
