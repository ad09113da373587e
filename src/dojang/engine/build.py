"""A network for one batch size: calls lowered, kernels loaded, and where each value lies in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

from dojang.arith.graph import Graph
from dojang.engine.lower.calls import KernelCall, Lowered, Place
from dojang.engine.lower.network import Lowering
from dojang.engine.plan.choose import Plan
from dojang.native import jit
from dojang.native.machine import Machine
from dojang.native.runtime import scratch_room

SMALL_S = 60e-6  # predicted seconds below which helpers cost more than they give; measured on 2 cores, 2026
CALL_BYTES = 8 << 10
"""Memory of Python's objects for one call of a program, by the resident memory of 128 batch sizes (CPython 3.11)."""
CODE_BYTES = 48 << 10
"""What the linker keeps beside the code of one kernel, likewise."""


class Build:
    """A network lowered and compiled for one batch size and one set of taps. Holds no memory for runs."""

    def __init__(
        self, lowering: Lowering, graph: Graph, machine: Machine, threads: int, workers: int, taps: AbstractSet[str],
        planned: Callable[[Lowered], Plan],
    ) -> None:  # fmt: skip
        """Lowers, compiles, plans the memory. Planned for `threads`, run by `workers`."""
        self.graph, self.machine = graph, machine
        self.lowered: Lowered = lowering.run()
        calls = self.lowered.calls
        self.plan = planned(self.lowered)
        self.threads = 1 if self.plan.predicted_s * threads < SMALL_S else workers
        steps = [s.kernel for c in calls if isinstance(c, KernelCall) for s in c.code.steps]
        made = iter(jit.load_recipes(steps, machine))
        self.natives = [[next(made) for _ in c.code.steps] if isinstance(c, KernelCall) else [] for c in calls]
        self.shared, self.offsets, arena = memory(self.lowered)
        scratch = max((c.code.scratch for c in calls if isinstance(c, KernelCall)), default=0)
        self.scratch_at = -(-arena // 64) * 64
        self.run_bytes = self.scratch_at + scratch_room(scratch, self.threads)
        self.wanted = tuple(dict.fromkeys((*graph.outputs, *sorted(taps))))
        self.own_bytes = CALL_BYTES * (len(calls) + len(steps))
        self.short = False  # whether a context found that all is one program and its output lies in the arena
        self.used = 0  # when, by the owner's count of runs

    @property
    def code(self) -> dict[str, int]:
        """Bytes of the kernels' code, by their keys."""
        return {n.key: n.size + CODE_BYTES for row in self.natives for n in row}


def held_bytes(builds: Sequence[Build]) -> int:
    """Bytes of all these, memory of runs and packed weights aside; kernels that several use count once."""
    code: dict[str, int] = {}
    for build in builds:
        code |= build.code
    return sum(code.values()) + sum(build.own_bytes for build in builds)


def memory(lowered: Lowered) -> tuple[list[tuple[int, int]], list[int], int]:
    """Offsets in the arena by liveness: (shared areas per call as buffer numbers, offset per buffer, bytes in all).

    A buffer lives from the first to the last call that touches it; the largest are placed first, each at the lowest
    offset where it meets no other that lives at the same time.
    """
    sizes = list(lowered.buffers)
    first: dict[int, int] = {}
    last: dict[int, int] = {}

    def touch(buffer: int, when: int) -> None:
        if buffer >= 0:
            first.setdefault(buffer, when)
            last[buffer] = when

    shared: list[tuple[int, int]] = []
    for when, call in enumerate(lowered.calls):
        areas = (-1, -1)
        if isinstance(call, KernelCall):
            for what in call.slots.values():
                if isinstance(what, Place):
                    touch(what.buffer, when)
            need = call.code.shared(call.images)
            if any(need):
                areas = (len(sizes), len(sizes) + 1)
                sizes += need
                for area in areas:
                    touch(area, when)
        else:
            for name in (*call.inputs, call.group.residual, call.group.value):
                if name in lowered.places:
                    touch(lowered.places[name].buffer, when)
        shared.append(areas)
    for name in lowered.copied:
        last[lowered.places[name].buffer] = len(lowered.calls)
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
    return shared, offsets, total
