"""Memory of a run: buffers that live at different times lie in the same place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dojang.engine.kernels.task import Code
from dojang.engine.plan.steps import HostStep, KernelStep, Place, Planned


@dataclass(frozen=True)
class Areas:
    """Where buffers lie: `offsets` in bytes, for those of the plan and behind them those that threads share.

    `shared` has for each step the numbers of two shared buffers, -1 for none. `sizes` and `lives` (first and last step,
    None for buffers that nothing touches) say why: where lives meet, bytes do not.
    """

    shared: tuple[tuple[int, int], ...]
    offsets: tuple[int, ...]
    bytes: int
    sizes: tuple[int, ...]
    lives: tuple[tuple[int, int] | None, ...]


def arrange(planned: Planned, codes: Sequence[Code | None]) -> Areas:
    """Places by liveness: the largest buffers first, each at the lowest offset where it meets no other that lives at
    the same time. A buffer lives from the first to the last step that touches it.
    """
    sizes = list(planned.buffers)
    first: dict[int, int] = {}
    last: dict[int, int] = {}

    def touch(buffer: int, when: int) -> None:
        if buffer >= 0:
            first.setdefault(buffer, when)
            last[buffer] = when

    shared: list[tuple[int, int]] = []
    for when, (step, code) in enumerate(zip(planned.steps, codes, strict=True)):
        areas = (-1, -1)
        if isinstance(step, KernelStep) and code is not None:
            for what in step.slots.values():
                if isinstance(what, Place):
                    touch(what.buffer, when)
            need = code.shared(step.images)
            if any(need):
                areas = (len(sizes), len(sizes) + 1)
                sizes += need
                for area in areas:
                    touch(area, when)
        elif isinstance(step, HostStep):
            for name in (*step.inputs, step.group.residual, step.group.value):
                if name is not None and name in planned.places:
                    touch(planned.places[name].buffer, when)
        shared.append(areas)
    for name in planned.copied:
        last[planned.places[name].buffer] = len(planned.steps)
    offsets = [0] * len(sizes)
    done: list[int] = []
    total = 0
    for b in sorted(first, key=lambda b: -sizes[b]):
        at = 0
        clashes = sorted(
            (offsets[o], offsets[o] + sizes[o]) for o in done if first[o] <= last[b] and first[b] <= last[o]
        )
        for low, high in clashes:
            if at + sizes[b] <= low:
                break
            at = max(at, -(-high // 64) * 64)
        offsets[b] = at
        done.append(b)
        total = max(total, at + sizes[b])
    lives = tuple((first[b], last[b]) if b in first else None for b in range(len(sizes)))
    return Areas(tuple(shared), tuple(offsets), total, tuple(sizes), lives)
