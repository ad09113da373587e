"""Runs plans: border tables, machine code, bands of rows for every thread."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dojang.arith.conv import by
from dojang.base.errors import ShapeError
from dojang.filters.borders import Border, index_map
from dojang.filters.code.box import Box, emit_box
from dojang.filters.code.columns import Columns, emit_columns
from dojang.filters.code.doubling import Doubling, emit_doubling
from dojang.filters.code.fourier import Fourier, FourierCode, emit_fourier
from dojang.filters.code.loops import LoopCode, Loops, emit_loops
from dojang.filters.code.pairs import Pairs, emit_pairs
from dojang.filters.code.program import RowProgram
from dojang.filters.code.rows import FIELDS, LINE, emit
from dojang.filters.code.straight import Straight, emit_straight
from dojang.filters.job import Job
from dojang.filters.memory import address_of
from dojang.filters.plan.choose import FilterPlan
from dojang.filters.plan.guard import Guard
from dojang.native import jit, runtime
from dojang.native.machine import Machine

# Less work is faster on one thread. A sleeping thread takes 50 µs to wake on an idle machine, and longer on a busy one;
# the caller works meanwhile, and loses only the cost of waking the thread.
ALONE_CYCLES = 150_000

# Larger results bypass the caches, from which they would be evicted before they are read. No difference at 32 MB, half
# the time at 100 MB (an Intel server with a far larger L3 cache, November 2026).
PAST_BYTES = 32 << 20
PAST, SRC_PLANE, DST_IMAGE, TAPS = (FIELDS.index(name) for name in ("past", "src_plane", "dst_image", "taps"))

KEPT_BYTES = 1 << 20  # of the results of pictures narrower than a vector, kept from call to call

MOST_SCRATCH = 1 << 30  # bytes of working memory of all threads

MOST_SHARED = 8 << 20  # bytes of working memory that is kept for other kernels on pictures of the same size
KEPT_SHARED = 16  # combinations of code, size and thread for which it is kept

AnyProgram = RowProgram | Box | Columns | Doubling | Straight | Fourier | Pairs | Loops


def compiled(program: AnyProgram, machine: Machine) -> jit.Native:
    """The program's machine code; its IR is built only if the code is not on disk."""
    return _compiled(code_of(program), machine)


def code_of(program: AnyProgram) -> Any:
    """What the code of a program depends on."""
    return program.code if isinstance(program, (Loops, Fourier)) else program


def write(code: Any, machine: Machine) -> str:
    """The IR text of `code_of` a program."""
    return next(emit for kind, emit in EMITTERS if isinstance(code, kind))(code, machine)


@lru_cache(maxsize=256)
def _compiled(code: Any, machine: Machine) -> jit.Native:
    def build() -> str:
        return write(code, machine)

    recipe = f"filters {code!r} {machine.l1} {machine.l2}"
    return jit.load_recipe(jit.Recipe(recipe, build, __name__, thorough=True), machine)


EMITTERS: tuple[tuple[type, Callable[[Any, Machine], str]], ...] = (
    (Box, emit_box),
    (Doubling, emit_doubling),
    (Columns, emit_columns),
    (Straight, emit_straight),
    (Pairs, emit_pairs),
    (FourierCode, emit_fourier),
    (LoopCode, emit_loops),
    (RowProgram, emit),
)
"""What writes the code of each type of program, or of what its code depends on."""


@lru_cache(maxsize=64)
def element_map(size: int, before: int, after: int, more: int, border: Border, channels: int) -> NDArray[np.int64]:
    """Source element of each padded element, −1 for the fill; `more` pixels are added whose values do not matter."""
    pixels = index_map(size, before, after, border)
    pixels = np.concatenate([pixels, np.zeros(more, np.int64)])
    elements = pixels[:, None] * channels + np.arange(channels)
    elements[pixels < 0] = -1
    return np.ascontiguousarray(elements.ravel())


class Bound:
    """A plan bound to a picture size, a number of pictures and of threads: everything that does not depend on the
    pixels.
    """

    def __init__(
        self,
        plan: FilterPlan,
        job: Job,
        machine: Machine,
        threads: int,
        part: tuple[int, int] | None = None,
        rows: NDArray[np.int64] | None = None,
        count: int = 1,
    ) -> None:
        """Compiles, makes the border tables and the scratch memory.

        With `part` = (y0, y1) only these result rows are made, and the image given to `run` holds the rows that
        `part_rows` lists, in that order. `rows` are the padded rows' indices in the image, if they are known. `count`
        is the number of pictures.
        """
        program = plan.way.program
        assert program is not None
        (oh, ow), c, sx = job.out_size, job.channels, job.options.stride[1]
        threads = threads_for(plan, job, threads, count)
        wide = (ow - 1) * sx + 1
        more = max(0, -(-program.chunk(machine) // c) - wide)
        wide += more
        self._wider = -(-wide // sx) if more else 0  # columns of a buffer for pictures narrower than a vector
        border = job.options.border
        scratch = program.scratch_bytes(machine, job.width * c)
        if scratch * threads > MOST_SCRATCH:
            raise ShapeError(
                f"kernel {job.kernel.name} spans {by(job.extent)} pixels of {c} channels, for which {threads} threads "
                f"need {scratch * threads >> 20:,} MiB of working memory, more than {MOST_SCRATCH >> 20:,}; use a "
                "smaller kernel, less dilation or fewer threads"
            )
        self._native = compiled(program, machine)
        if rows is not None:
            oh = rows.size - job.extent[0] + 1
        elif part is not None:
            rows = part_rows(job, *part)[1]
            oh = part[1] - part[0]
        else:
            rows = np.ascontiguousarray(index_map(job.height, job.before[0], job.after[0], border))
        self._shape = (len(plan.jobs), count, oh, ow, c)
        cols = element_map(job.width, job.before[1], job.after[1], more, border, c)
        taps = _taps_of(plan)
        self._keep = (rows, cols)
        # Of many pictures each is one unit.
        band = band_rows(oh, 1 if count >= 4 * threads else threads, program)
        bands = -(-oh // band)
        self._source_pitch = job.width * c * job.dtype.itemsize
        self._target_pitch = ow * c * job.out_dtype.itemsize
        self._planes = (job.height * self._source_pitch, oh * self._target_pitch)
        self._past = int(oh * self._target_pitch >= PAST_BYTES and self._target_pitch % LINE == 0)
        values = {
            "rows": rows.ctypes.data,
            "nrows": rows.size,
            "cols": cols.ctypes.data,
            "left": job.before[1] * c,
            "inner": job.width * c,
            "width": wide * c,
            "height": oh,
            "band": band,
            "past": self._past,
            "bands": bands,
            "src_plane": self._planes[0],
            "dst_image": self._planes[1],
        }
        call = runtime.NativeCall(
            self._native.address("press"), [values.get(name, 0) for name in FIELDS], count * bands
        )
        self._steps = runtime.Program([call], len(FIELDS), scratch, threads)
        # ctypes words: setting one takes a third of the time of setting a NumPy element.
        self._words = (ctypes.c_int64 * len(FIELDS)).from_address(self._steps.args[0].ctypes.data)
        self._lock = threading.Lock()
        self.scratch_bytes = scratch * threads
        if self._wider:
            self._wide_shape = (len(plan.jobs), count, oh, self._wider, c)
            small = int(np.prod(self._wide_shape)) * job.out_dtype.itemsize <= KEPT_BYTES
            self._buffer = np.empty(self._wide_shape, job.out_dtype) if small else None
            if self._buffer is not None:
                self._narrow = self._buffer[:, :, :, :ow]
                self._buffer_words = (self._buffer.ctypes.data, self._buffer.strides[2])
                self._buffer_plane = self._buffer.strides[1]
        self._rows = rows
        self._take(plan, job, machine, threads, taps)

    def _take(self, plan: FilterPlan, job: Job, machine: Machine, threads: int, taps: NDArray | None) -> None:
        """What depends on the taps, where these come from memory."""
        program = plan.way.program
        self._taps = taps
        self._taps_at = 0 if taps is None else taps.ctypes.data
        floats = isinstance(program, Fourier) and job.out_dtype.kind == "f"
        self._guard = Guard(program, job, self._rows) if isinstance(program, Fourier) and floats else None
        self._otherwise = (plan, job, machine, threads)

    def like(self, plan: FilterPlan, job: Job) -> Bound:
        """The same code, tables and memory for another kernel, whose taps come from memory; only one of the two can run
        at a time.
        """
        other = copy(self)
        _, _, machine, threads = self._otherwise
        other._take(plan, job, machine, threads, _taps_of(plan))
        return other

    def with_taps(self, taps: NDArray) -> Bound:
        """The same with another table of taps; only one of the two can run at a time."""
        other = copy(self)
        other._taps, other._taps_at = taps, taps.ctypes.data
        return other

    def run(self, image: NDArray, out: NDArray) -> bool:
        """Writes the results for `image` (h, w, c), rows at any pitch, into `out` (kernels, oh, ow, c), or for a stack
        (n, h, w, c), pictures and rows at any pitch, into (kernels, n, oh, ow, c).

        Returns False, without any work, if another thread is using this object.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if image.ndim == 3:
                image, out = image[None], out[:, None]
            target = out
            if self._wider:
                target = self._buffer if self._buffer is not None else np.empty(self._wide_shape, out.dtype)
            words = self._words
            words[0] = address_of(image)
            words[1] = image.strides[1]
            words[2] = address_of(target)
            words[3] = target.strides[2]
            words[4] = target.strides[0]
            words[PAST] = self._past if words[2] % target.itemsize == 0 else 0
            words[TAPS] = self._taps_at
            words[SRC_PLANE], words[DST_IMAGE] = image.strides[0], target.strides[1]
            direct = None if self._guard is None else [self._guard.blocks(one) for one in image]
            if direct is None or not all(blocks.all() for blocks in direct):
                self._steps.run()
            for i, blocks in enumerate(direct or ()):
                if blocks.any():
                    self._sum_directly(image[i], target[:, i], blocks)
            if self._wider:
                out[...] = target[:, :, :, : self._shape[3]]
        finally:
            self._lock.release()
        return True

    def quick(self, image: NDArray, out: NDArray, pitch: int = 0) -> bool:
        """Like `run` for one kernel, with `image` and `out` contiguous, with or without axes for the pictures and the
        channels; of one picture, the rows of `image` may be `pitch` bytes apart. False if `run` must do it.
        """
        if self._guard is not None or (self._wider and self._buffer is None):
            return False
        if not self._lock.acquire(blocking=False):
            return False
        try:
            words = self._words
            words[0] = address_of(image)
            words[1] = pitch or self._source_pitch
            words[SRC_PLANE] = self._planes[0]
            words[TAPS] = self._taps_at
            if self._wider:
                words[2:4] = self._buffer_words
                words[DST_IMAGE], words[PAST] = self._buffer_plane, 0
                self._steps.run()
                out.reshape(self._narrow.shape)[...] = self._narrow
                return True
            words[2] = address_of(out)
            words[3] = self._target_pitch
            words[PAST] = self._past
            words[DST_IMAGE] = self._planes[1]
            self._steps.run()
            return True
        finally:
            self._lock.release()

    def _sum_directly(self, image: NDArray, out: NDArray, blocks: NDArray[np.bool_]) -> None:
        """Computes the result rows of these blocks by the plan's other method, which is compiled only when it is
        needed.
        """
        plan, job, machine, threads = self._otherwise
        assert plan.instead is not None
        assert self._guard is not None
        guard, height = self._guard, self._shape[2]
        edges = np.flatnonzero(np.diff(np.concatenate([[False], blocks, [False]]).astype(np.int8)))
        for first, last in edges.reshape(-1, 2) * guard.grid:
            last = min(int(last), height)
            rows = np.ascontiguousarray(guard.rows[first : last + job.extent[0] - 1])
            part = Bound(replace(plan, way=plan.instead), job, machine, threads, rows=rows)
            part.run(image, out[:, first:last])


def threads_for(plan: FilterPlan, job: Job, threads: int, count: int) -> int:
    """1 where there is too little work for more."""
    (oh, ow), c = job.out_size, job.channels
    return 1 if plan.way.cycles * oh * ow * c * count < ALONE_CYCLES else threads


def _taps_of(plan: FilterPlan) -> NDArray | None:
    return plan.way.taps() if callable(plan.way.taps) else plan.way.taps


_shared: dict[tuple, Bound] = {}


def bind(plan: FilterPlan, job: Job, machine: Machine, threads: int, count: int) -> Bound:
    """The plan bound to a size. Where its taps come from memory, a new kernel of an earlier one's size takes over what
    was prepared for that, if this thread did so.
    """
    program = plan.way.program
    if not isinstance(program, (Loops, Fourier)):
        return Bound(plan, job, machine, threads, count=count)
    threads = threads_for(plan, job, threads, count)
    size = (job.height, job.width, job.channels, job.kernel.anchor, job.dtype, job.out_dtype, job.options)
    key = (program, *size, machine, threads, count, threading.get_ident())
    known = _shared.get(key)
    if known is not None:
        return known.like(plan, job)
    made = Bound(plan, job, machine, threads, count=count)
    if made.scratch_bytes <= MOST_SHARED:
        for old in list(_shared)[: max(0, len(_shared) + 1 - KEPT_SHARED)]:
            _shared.pop(old, None)
        _shared[key] = made
    return made


def band_rows(height: int, threads: int, program: AnyProgram) -> int:
    """Rows that a thread takes at a time: several bands per thread, but thick enough that loading rows twice costs
    little.
    """
    if isinstance(program, (Box, Doubling)):  # a band begins with sums over the whole box
        return -(-height // threads // program.grid) * program.grid
    if program.grid > 1:
        return program.grid
    if threads == 1:
        return height
    assert isinstance(program, (RowProgram, Columns, Straight, Pairs, Loops))
    least = max(program.rows, 4 * -(-program.keep // program.stride[0]))
    band = max(-(-height // (4 * threads)), min(least, -(-height // threads)))
    return -(-band // program.rows) * program.rows


def part_rows(job: Job, y0: int, y1: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The source rows, ascending, that result rows y0 to y1 need, and for each of their padded rows its index among
    these.
    """
    padded = index_map(job.height, job.before[0], job.after[0], job.options.border)
    sy = job.options.stride[0]
    wanted = padded[y0 * sy : (y1 - 1) * sy + job.extent[0]]
    needed = np.unique(wanted[wanted >= 0])
    places = np.searchsorted(needed, wanted)
    places[wanted < 0] = -1
    return needed, np.ascontiguousarray(places)
