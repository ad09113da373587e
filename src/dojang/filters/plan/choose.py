"""Chooses the method that filters a picture, and says why the others were refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf
from typing import Any

import numpy as np

from dojang.arith.conv import by
from dojang.base.errors import ShapeError
from dojang.base.wording import counted
from dojang.filters.code.fourier import Fourier
from dojang.filters.code.program import Finish
from dojang.filters.job import Job
from dojang.filters.kernels.named import LARGE, MOST_TAPS
from dojang.filters.kernels.parse import Kernel
from dojang.filters.plan.bounds import LEAST
from dojang.filters.plan.costs import costs_of
from dojang.filters.plan.loops import dense_cycles, passes_cycles, without_compiling
from dojang.filters.plan.method import Method
from dojang.filters.plan.methods import METHODS, looped, program_of, separable, tap_list
from dojang.filters.plan.sums import UNROLLED, Sums, lanes_of, said, sums_of
from dojang.filters.plan.transforms import fitted, least_cycles
from dojang.native.machine import Machine

# A bank may have a predicted cost so many times that of its kernels one by one: it reads the picture only once, which
# the costs, measured in cache, do not include. An estimate, not measured.
ONE_PASS = 1.35


@dataclass(frozen=True, slots=True)
class FilterPlan:
    """The method chosen for kernels of one geometry, and the refused ones with the reasons."""

    jobs: tuple[Job, ...]
    way: Method
    machine: Machine
    apart: float | None = None  # of a bank: cycles per element of its kernels one by one
    other: Method | None = None  # what `instead` is, unless it is to be the cheapest that is no transform

    @property
    def refused(self) -> tuple[tuple[str, str], ...]:
        """The other methods, and why they were not chosen."""
        if self.apart is not None:
            return (("apart", f"{self.apart:.2f} cycles per element"),)
        methods, refused = _all(self.jobs[0].unsized, self.machine)
        return (*refused, *((w.name, f"{w.cycles:.2f} cycles per element predicted; {w.detail}") for w in methods[1:]))

    @property
    def instead(self) -> Method | None:
        """The method for rows on which `way` is not exact enough: transforms of floats."""
        if self.other is not None:
            return self.other
        methods, _ = _all(self.jobs[0].unsized, self.machine)
        return next((w for w in methods if not isinstance(w.program, Fourier)), None)

    @property
    def first(self) -> Method | None:
        """The method that gives the same bits as `way` by taps from memory, where `way` must be compiled."""
        return _first(self.jobs[0], self.way, self.machine) if self.apart is None else None

    @property
    def grid(self) -> int:
        """Result rows are equal, bit for bit, if they are computed in parts that begin at multiples of this."""
        program = self.way.program
        return 1 if program is None else program.grid * getattr(program, "together", 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "kernel": [job.kernel.name for job in self.jobs],
            "size": list(self.jobs[0].kernel.size),
            "algorithm": self.way.name,
            "detail": self.way.detail,
            "cycles_per_element": self.way.cycles,
            "refused": [{"algorithm": name, "reason": reason} for name, reason in self.refused],
        }

    def explain(self) -> str:
        """A few lines for people."""
        job = self.jobs[0]
        names = ", ".join(j.kernel.name for j in self.jobs)
        kh, kw = job.kernel.size
        lines = [
            f"{names}: {kh}x{kw} taps on {counted(job.channels, 'channel')} of {job.dtype}, result {job.out_dtype}"
        ]
        lines.append(f"  {self.way.name}: {self.way.detail} ({self.way.cycles:.2f} cycles per element predicted)")
        lines += [f"  not {name}: {reason}" for name, reason in self.refused]
        return "\n".join(lines)


def make_plan(jobs: Sequence[Job], machine: Machine) -> list[FilterPlan]:
    """Plans for jobs that differ only in their kernels. A small bank is one program.

    The algorithm does not depend on the picture's height and width, so that tiles of a picture give the same pixels;
    only the lengths of transforms do, which no tiles use.
    """
    key = tuple(job.unsized for job in jobs)
    return [_fitted(plan, jobs[0], machine) for plan in _make_plan(key, machine)]


def _fitted(plan: FilterPlan, job: Job, machine: Machine) -> FilterPlan:
    """The plan with transforms whose lengths suit the picture."""
    if not isinstance(plan.way.program, Fourier):
        return plan
    return replace(plan, way=fitted(replace(plan.jobs[0], height=job.height, width=job.width), machine))


@lru_cache(maxsize=256)
def _make_plan(jobs: tuple[Job, ...], machine: Machine) -> tuple[FilterPlan, ...]:
    if len(jobs) > 1:
        together = _bank(jobs, machine)
        if together is not None:
            return (together,)
    return tuple(_one(job, machine) for job in jobs)


def _one(job: Job, machine: Machine) -> FilterPlan:
    """The cheapest of the possible methods; tried are those only that may be cheaper than the best one so far."""
    large = _is_large(job)
    offers = sorted(
        (LEAST[name](job, machine), i) for i, (name, _) in enumerate(METHODS) if not large or name in FOR_LARGE
    )
    best: tuple[float, int, Method] | None = None
    for least, i in offers:
        if least == inf or (best is not None and least > best[0]):
            break
        found = METHODS[i][1](job, machine)
        if isinstance(found, Method) and (best is None or (found.cycles, i) < best[:2]):
            best = found.cycles, i, found
    return FilterPlan((job,), best[2] if best else _written_out(job, machine), machine)


@lru_cache(maxsize=32)
def _all(job: Job, machine: Machine) -> tuple[tuple[Method, ...], tuple[tuple[str, str], ...]]:
    """All methods that are possible, the cheapest first, and why the others refuse."""
    methods: list[Method] = []
    refused: list[tuple[str, str]] = []
    for name, find in METHODS:
        if _is_large(job) and name not in FOR_LARGE:
            kh, kw = job.kernel.size
            found: Method | str = f"{kh} times {kw} taps are too many to write out"
        elif name == "fourier" and methods and min(w.cycles for w in methods) < (least := least_cycles(job, machine)):
            found = f"any transform takes {least:.2f} cycles per element or more"
        else:
            found = find(job, machine)
        if isinstance(found, str):
            refused.append((name, found))
        else:
            methods.append(found)
    if not methods:
        methods.append(_written_out(job, machine))
    methods.sort(key=lambda w: w.cycles)
    return tuple(methods), tuple(refused)


def _is_large(job: Job) -> bool:
    kh, kw = job.kernel.size
    return job.kernel.pair is not None and kh * kw > LARGE


FOR_LARGE = ("running sums", "doubling", "passes")
"""The methods that need a column and a row only."""


def _written_out(job: Job, machine: Machine) -> Method:
    """A method for a large column times a row with a stride or a dilation, which those of `FOR_LARGE` do not take.

    Raises `ShapeError` for a kernel whose matrix would be too large, and for two matrices whose taps are too many to be
    constants.
    """
    found = separable(job, machine)
    if isinstance(found, str):
        kh, kw = job.kernel.size
        if job.kernel.combine != "linear":
            raise ShapeError(
                f"kernel {job.kernel.name}: the magnitude of two matrices of {by((kh, kw))} taps is not computed, "
                "because they are too many to be constants of the code; use smaller matrices, or filter by each of "
                "them and join the results with numpy.hypot"
            )
        if kh * kw > MOST_TAPS:
            raise ShapeError(
                f"kernel {job.kernel.name}: with a stride or dilation {by((kh, kw))} taps are more than {MOST_TAPS:,}; "
                "use a smaller kernel"
            )
        found = looped(job, machine)
    assert not isinstance(found, str), found
    return found


def _first(job: Job, best: Method, machine: Machine) -> Method | None:
    """The method for the first use of a kernel, if the best one must be compiled for it."""
    found = without_compiling(job, best.program, machine)
    if found is None:
        return None
    cost, (kh, kw) = costs_of(machine), job.kernel.size
    dense = "dense" in found[0].code.form
    cycles = dense_cycles(kh, kw, cost) if dense else passes_cycles(kh, found[0].along, cost)
    detail = f"{best.detail}, read from memory"
    return Method(best.name, cycles / machine.lanes(found[0].work_kind.bytes), *found, detail)


def _bank(jobs: tuple[Job, ...], machine: Machine) -> FilterPlan | None:
    """One program for small kernels of one size and one type of sums, which loads each pixel once."""
    if any(job.kernel.size != jobs[0].kernel.size or job.kernel.anchor != jobs[0].kernel.anchor for job in jobs):
        grown = _grown(jobs)
        if grown is None:
            return None
        jobs = grown
    sums = [sums_of(job) for job in jobs]
    same = len({(s.work, s.unsigned) for s in sums}) == 1
    if not same:  # float32 represents all 16-bit sums
        if {s.work for s in sums} - {"i16", "f32"}:
            return None
        sums = [Sums("f32", False, s.parts, Finish(s.finish.scale, s.finish.offset), s.whole) for s in sums]
    outputs = tuple(tuple(tap_list(job, p) for p in s.parts) for job, s in zip(jobs, sums, strict=True))
    count = sum(len(p) for parts in outputs for p in parts)
    if count > 3 * UNROLLED:
        return None
    program = program_of(jobs[0], sums[0], machine, (), outputs, finishes=tuple(s.finish for s in sums))
    lanes, cost = lanes_of(sums[0], machine), costs_of(machine)
    together = (count * cost.tap + cost.load + cost.store * len(jobs)) / lanes
    apart = sum(_one(job, machine).way.cycles for job in jobs)
    if together > ONE_PASS * apart:
        return None
    detail = f"one pass over the picture for {len(jobs)} kernels, {count} taps as constants, {said(sums[0])}"
    return FilterPlan(jobs, Method("bank", together, program, None, detail), machine, apart)


def _grown(jobs: tuple[Job, ...]) -> tuple[Job, ...] | None:
    """Kernels of different sizes, padded with rows and columns of zeros to one size and anchor."""
    if jobs[0].options.border == "valid":
        return None
    before = [max(j.kernel.anchor[a] for j in jobs) for a in (0, 1)]
    after = [max(j.kernel.size[a] - 1 - j.kernel.anchor[a] for j in jobs) for a in (0, 1)]
    grown = []
    for job in jobs:
        (ay, ax), (kh, kw) = job.kernel.anchor, job.kernel.size
        parts = []
        for part in job.kernel.parts:
            wide = np.zeros((before[0] + 1 + after[0], before[1] + 1 + after[1]))
            wide[before[0] - ay : before[0] - ay + kh, before[1] - ax : before[1] - ax + kw] = part
            parts.append(wide)
        kernel = Kernel(job.kernel.name, tuple(parts), job.kernel.combine, (before[0], before[1]), job.kernel.source)
        grown.append(job.like(kernel))
    return tuple(grown)
