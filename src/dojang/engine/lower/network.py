"""The pass `lower`: what each step runs, and where every buffer lies in the memory of a run."""

from __future__ import annotations

from dataclasses import dataclass

from dojang.engine.kernels.task import Code
from dojang.engine.lower.memory import Areas, arrange
from dojang.engine.plan.steps import KernelStep, Planned
from dojang.native.runtime import scratch_room


@dataclass(frozen=True)
class Lowered:
    """A plan with its code, which is described and not yet written, and its memory.

    `codes` has one entry for each step, None for those in Python; `areas` says for each step which two buffers its
    threads share, and at which byte each buffer lies; threads' own memory begins at `scratch_at`.
    """

    planned: Planned
    codes: tuple[Code | None, ...]
    areas: Areas
    scratch_at: int
    run_bytes: int


def lower(planned: Planned) -> Lowered:
    """The steps' code, and places for all buffers: those that live at different times share memory."""
    codes = tuple(s.code(planned.machine) if isinstance(s, KernelStep) else None for s in planned.steps)
    areas = arrange(planned, codes)
    scratch = max((code.scratch for code in codes if code is not None), default=0)
    scratch_at = -(-areas.bytes // 64) * 64
    return Lowered(planned, codes, areas, scratch_at, scratch_at + scratch_room(scratch, planned.run_threads))
