"""Everything in filtering that does not depend on the pixels, prepared once and kept for equal pictures."""

from __future__ import annotations

import threading
from copy import copy
from dataclasses import replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from dojang.base.errors import ShapeError, UsageError
from dojang.filters.folded import Folded, folds
from dojang.filters.job import Job, Options, check_dtype
from dojang.filters.kernels.parse import Kernel
from dojang.filters.plan.alike import likeness, table_for
from dojang.filters.plan.choose import FilterPlan, make_plan
from dojang.filters.plan.method import Method
from dojang.filters.run import Bound, bind
from dojang.native.machine import Machine
from dojang.native.threads import default_threads


class Prepared:
    """Kernels planned and compiled for stacks of one shape and dtype. Safe to use from several threads."""

    def __init__(
        self,
        kernels: tuple[Kernel, ...],
        shape: tuple[int, ...],
        dtype: np.dtype,
        options: Options,
        threads: int | None,
        anywhere: bool = False,
        first: bool = False,
    ) -> None:
        """Raises `DojangError` if kernels, shape or options do not fit. With `first` the kernels are used for the first
        time: code that would have to be compiled for them, and would not pay for that at once, is not used yet.
        """
        if threads is not None and not (isinstance(threads, (int, np.integer)) and threads >= 1):
            raise UsageError(f"threads {threads!r} must be a whole number, at least 1")
        machine = Machine.host()
        self.dtype = check_dtype(dtype)
        self.jobs = tuple(Job.of(kernel, shape, self.dtype, options, anywhere) for kernel in kernels)
        sizes = {job.out_size for job in self.jobs}
        if len(sizes) > 1:
            raise ShapeError(
                f'with border "valid" kernels of a bank give different sizes: {sorted(sizes)}; filter one by one'
            )
        self.out_size = self.jobs[0].out_size
        self.out_dtype = self.jobs[0].out_dtype
        self._threads = threads or default_threads()
        self._machine, self._first_use = machine, first
        self.shape, self._count = shape, shape[0]
        self.waits = 0.0  # cycles that each call would take less with better code, which is not compiled yet
        wide = self.plans[0].way.name == "passes" and len(self.jobs) == 1 and any(folds(self.jobs[0]))
        self._folded = Folded(self.jobs[0], self._press) if wide else None
        self._results = [len(plan.jobs) for plan in self.plans]
        self._bound = [] if wide else [self._bind(i) for i in range(len(self.plans))]

    @cached_property
    def plans(self) -> tuple[FilterPlan, ...]:
        """The plan of each kernel, or of several together."""
        return tuple(make_plan(self.jobs, self._machine))

    def alike(self, kernel: Kernel) -> Prepared | None:
        """The same for another kernel of the same likeness, which is not planned; None if its taps are constants."""
        table = None if self._folded is not None else table_for(self._method, kernel)
        if table is None:
            return None
        other = copy(self)
        other.jobs = (self.jobs[0].alike(kernel),)
        other._bound = [self._bound[0].with_taps(table)]
        del other.plans  # found when they are asked for
        return other

    def _bind(self, i: int, alone: bool = False) -> Bound:
        """The i-th plan, bound; with `alone` it shares nothing with others, which may be in use."""
        plan = self.plans[i]
        first = self._first_of(i)
        if first is not None:
            self.waits += max(self._saved(i, first), 1.0)
            plan = replace(plan, way=first)
        job = self.jobs[self._first(i)].like(plan.jobs[0].kernel)
        self._method = plan.way  # of a single kernel, the one that is used
        make = Bound if alone else bind
        return make(plan, job, self._machine, self._threads, count=self._count)

    def _first_of(self, i: int) -> Method | None:
        """The method of the i-th plan as long as its kernels are new and do not pay for code; else None."""
        first = self.plans[i].first if self._first_use else None
        return first if first is not None and self._saved(i, first) < COMPILE_CYCLES else None

    def _saved(self, i: int, first: Method) -> float:
        """Cycles that each call would take less with code of its own."""
        (oh, ow), plan = self.out_size, self.plans[i]
        return (first.cycles - plan.way.cycles) * self._count * oh * ow * plan.jobs[0].channels

    def _press(self, stack: NDArray, kernel: Kernel, options: Options) -> NDArray:
        """The stack filtered by a part of the kernel."""
        ready = Prepared((kernel,), stack.shape, stack.dtype, options, self._threads, first=self._first_use)
        out = np.empty((1, *stack.shape), stack.dtype)
        ready.run(np.ascontiguousarray(stack), out)
        return out[0]

    def _first(self, i: int) -> int:
        return sum(len(plan.jobs) for plan in self.plans[:i])

    @property
    def quick(self) -> Bound | None:
        """The bound plan of a single kernel; None for several, and for one that is not bound."""
        return self._bound[0] if len(self._bound) == len(self.jobs) == 1 else None

    def run(self, stack: NDArray, results: NDArray, alpha: bool = False) -> None:
        """Fills `results` (kernels, n, oh, ow, c) from `stack` (n, h, w, c), both of the right dtypes and with whole
        rows in one piece.

        With `alpha` the last channel is copied from the picture, at the pixels of the result.
        """
        first = 0
        if self._folded is not None:
            self._folded.run(stack, results[0])
        for i, count in enumerate(self._results if self._folded is None else ()):
            last = first + count
            out = results[first:last]
            if not self._bound[i].run(stack, out):
                # In use, or left in use by an interrupt: replace it by a new one.
                fresh = self._bind(i, alone=True)
                fresh.run(stack, out)
                self._bound[i] = fresh
            first = last
        if alpha:
            for job, result in zip(self.jobs, results, strict=True):
                keep_alpha(job, stack, result)


def keep_alpha(job: Job, stack: NDArray, result: NDArray) -> None:
    """Copies the last channel of the pictures into the result."""
    (y0, x0), (sy, sx), (oh, ow) = job.origin, job.options.stride, job.out_size
    result[..., -1] = stack[:, y0::sy, x0::sx, -1][:, :oh, :ow]


COMPILE_CYCLES = 3e8  # what compiling takes, about a tenth of a second
MANY_USES = 8
"""Uses of a kernel from which on it is compiled in any case. A picture and its mask, blurred by one random sigma, do
not pay for code, and a kernel of many calls soon does.
"""
SOON = 1 / 8
"""Of what compiling takes: what the uses so far would have saved, from which on the kernel is compiled."""


def prepare(
    kernels: tuple[Kernel, ...], shape: tuple[int, ...], dtype: np.dtype, options: Options, threads: int | None
) -> Prepared:
    """`Prepared`, kept for the last 32 combinations; another one, compiled, when the kernels were used often enough."""
    uses = _uses(kernels)
    if uses < MANY_USES:
        early = _prepare(kernels, shape, dtype, options, threads, True)
        if uses * early.waits < SOON * COMPILE_CYCLES:
            return early  # also where there is nothing better to compile
    return _prepare(kernels, shape, dtype, options, threads, False)


@lru_cache(maxsize=32)
def _prepare(
    kernels: tuple[Kernel, ...], shape: tuple[int, ...], dtype: np.dtype, options: Options, threads: int | None,
    first: bool,
) -> Prepared:  # fmt: skip
    out_dtype = dtype if options.dtype is None else options.dtype
    kind = likeness(kernels[0], dtype, out_dtype, options.offset) if first and len(kernels) == 1 else None
    if kind is None:
        return Prepared(kernels, shape, dtype, options, threads, first=first)
    key = (kind, shape, dtype, options, threads, threading.get_ident())
    model = _models.get(key)
    if model is not None and (ready := model.alike(kernels[0])) is not None:
        return ready
    ready = Prepared(kernels, shape, dtype, options, threads, first=first)
    for old in list(_models)[: max(0, len(_models) + 1 - MOST_MODELS)]:
        _models.pop(old, None)
    _models[key] = ready
    return ready


_models: dict[tuple, Prepared] = {}
"""What was prepared for a kernel of each likeness, on pictures of each shape, by each thread."""
MOST_MODELS = 16
_used: dict[int, int] = {}  # how often kernels were used, by their hashes, the last new ones last
MOST_USED = 1024


def _uses(kernels: tuple[Kernel, ...]) -> int:
    """How often the kernel was used that was used least, this time included; at most about `MANY_USES`."""
    marks = [hash(kernel) for kernel in kernels]
    least = min(_used.get(mark, 0) for mark in marks) + 1
    if least <= MANY_USES:
        for mark in marks:
            _used[mark] = _used.get(mark, 0) + 1
        if len(_used) > MOST_USED:
            for mark in list(_used)[: MOST_USED // 2]:
                _used.pop(mark, None)
    return least
