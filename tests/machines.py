"""Fixed machines, so that what a test sees of plans does not depend on the machine that it runs on.

`RUNNABLE` are those whose code can run here, widest vectors first; it is never empty, because every processor has 128
bits. A test about a plan gives one of these to `compile(graph, machine=...)`, or goes through all of them.
"""

from __future__ import annotations

from dojang.native.descriptions import SHIPPED
from dojang.native.machine import Machine, described

SERVER_AMX, SERVER_AVX512, SERVER_AVX2, LAPTOP, TINY = EVERY = tuple(described(name) for name in SHIPPED)
RUNNABLE: tuple[Machine, ...] = tuple(machine for machine in EVERY if machine.runs_here)


def name_of(machine: Machine) -> str:
    """For `ids` of parametrized tests."""
    return machine.name
