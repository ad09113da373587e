"""A network for one batch size and one set of taps: all passes, from groups of nodes to machine code."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from dojang.arith.graph import Graph
from dojang.engine import verify
from dojang.engine.lower.network import Lowered, lower
from dojang.engine.pack import pack
from dojang.engine.plan.choose import Plan
from dojang.engine.plan.context import Chosen, Request
from dojang.engine.plan.network import fused_for, plan
from dojang.engine.verbose import show
from dojang.native import jit
from dojang.native.jit import Native, Recipe
from dojang.native.machine import Machine

CALL_BYTES = 8 << 10
"""Memory of Python's objects for one call of a program, by the resident memory of 128 batch sizes (CPython 3.11)."""
CODE_BYTES = 48 << 10
"""What the linker keeps beside the code of one kernel, likewise."""

Packed = dict[str, np.ndarray]


class Build:
    """A network ready for one batch size and one set of taps. Holds no memory for runs."""

    def __init__(
        self, lowered: Lowered, natives: Sequence[Sequence[Native]], packed: Mapping[str, np.ndarray], host: Packed,
        taps: AbstractSet[str],
    ) -> None:  # fmt: skip
        """The results of the passes. `host` are the values of constants."""
        self.lowered, self.natives, self.arrays, self.host = lowered, natives, packed, host
        self.planned = lowered.planned
        self.graph: Graph = self.planned.fused.graph
        self.machine: Machine = self.planned.machine
        self.plan: Plan = self.planned.public
        self.threads, self.run_bytes = self.planned.run_threads, lowered.run_bytes
        self.wanted = tuple(dict.fromkeys((*self.graph.outputs, *sorted(taps))))
        self.own_bytes = CALL_BYTES * (len(self.planned.steps) + sum(len(row) for row in natives))
        self.short = False  # whether a context found that all is one program and its output lies in the arena
        self.run_body: Any = None  # runs the networks of branches and loops; the owner's
        self.used = 0  # when, by the owner's count of runs

    @property
    def code(self) -> dict[str, int]:
        """Bytes of the kernels' code, by their keys."""
        return {n.key: n.size + CODE_BYTES for row in self.natives for n in row}


def build(
    graph: Graph,
    request: Request,
    chosen: Chosen,
    packed: Packed,
    release: bool,
    of_size: AbstractSet[str] = frozenset(),
) -> Build:
    """All passes in order. Each result is checked, and shown where DOJANG_VERBOSE names the pass.

    `of_size` are arrays of the graph that hold for this size of the image alone.
    """
    fused = fused_for(graph, request, chosen)
    fused = show("fuse", verify.fused(fused))
    planned = show("plan", verify.planned(plan(fused, request, chosen)))
    lowered = show("lower", verify.lowered(lower(planned)))
    own, constants = pack(planned, packed, release, request.batch, of_size)
    arrays = ChainMap(own, packed)
    show("pack", verify.packed(arrays, planned))
    recipes = show("emit", verify.emitted(emit(lowered), lowered))
    natives = show("native", native(recipes, request.machine))
    made = Build(lowered, natives, arrays, constants, request.keep)
    made.own_bytes += sum(array.nbytes for array in own.values())
    return made


def emit(lowered: Lowered) -> list[list[Recipe]]:
    """The recipes of each step's kernels: names that say all that the code depends on, and how its IR is written."""
    return [[step.kernel for step in code.steps] if code is not None else [] for code in lowered.codes]


def native(recipes: Sequence[Sequence[Recipe]], machine: Machine) -> list[list[Native]]:
    """Machine code, from memory or the cache; what is not there is written and compiled, and kept in the cache."""
    made = iter(jit.load_recipes([recipe for row in recipes for recipe in row], machine))
    return [[next(made) for _ in row] for row in recipes]


def held_bytes(builds: Sequence[Build]) -> int:
    """Bytes of all these, memory of runs and packed weights aside; kernels that several use count once."""
    code: dict[str, int] = {}
    for one in builds:
        code |= one.code
    return sum(code.values()) + sum(one.own_bytes for one in builds)
