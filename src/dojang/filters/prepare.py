"""Everything in filtering that does not depend on the pixels, prepared once and kept for equal pictures."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dojang.base.errors import ShapeError, UsageError
from dojang.filters.job import Job, Options, check_dtype
from dojang.filters.kernels.parse import Kernel
from dojang.filters.plan.choose import FilterPlan, make_plan
from dojang.filters.run import Bound
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
    ) -> None:
        """Raises `DojangError` if kernels, shape or options do not fit."""
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
        self.plans: tuple[FilterPlan, ...] = tuple(make_plan(self.jobs, machine))
        self._threads = threads or default_threads()
        self._machine = machine
        self._single = shape[0] == 1
        self._bound = [self._bind(i) for i in range(len(self.plans))]

    def _bind(self, i: int) -> Bound:
        plan = self.plans[i]
        job = self.jobs[self._first(i)].like(plan.jobs[0].kernel)
        return Bound(plan, job, self._machine, self._threads)

    def _first(self, i: int) -> int:
        return sum(len(plan.jobs) for plan in self.plans[:i])

    @property
    def quick(self) -> Bound | None:
        """The bound plan of a single kernel on a single picture, if that is the problem; else None."""
        alone = len(self.jobs) == 1 and self._single
        return self._bound[0] if alone else None

    def run(self, stack: NDArray, results: NDArray, alpha: bool = False) -> None:
        """Fills `results` (kernels, n, oh, ow, c) from `stack` (n, h, w, c), both contiguous and of the right dtypes.

        With `alpha` the last channel is copied from the picture, at the pixels of the result.
        """
        first = 0
        for i, plan in enumerate(self.plans):
            last = first + len(plan.jobs)
            for k, picture in enumerate(stack):
                out = results[first:last, k]
                if not self._bound[i].run(picture, out):
                    # In use, or left in use by an interrupt: replace it by a new one.
                    fresh = self._bind(i)
                    fresh.run(picture, out)
                    self._bound[i] = fresh
            first = last
        if alpha:
            for job, result in zip(self.jobs, results, strict=True):
                keep_alpha(job, stack, result)


def keep_alpha(job: Job, stack: NDArray, result: NDArray) -> None:
    """Copies the last channel of the pictures into the result."""
    (y0, x0), (sy, sx), (oh, ow) = job.origin, job.options.stride, job.out_size
    result[..., -1] = stack[:, y0::sy, x0::sx, -1][:, :oh, :ow]


@lru_cache(maxsize=32)
def prepare(
    kernels: tuple[Kernel, ...], shape: tuple[int, ...], dtype: np.dtype, options: Options, threads: int | None
) -> Prepared:
    """`Prepared`, cached for the last 32 combinations."""
    return Prepared(kernels, shape, dtype, options, threads)
