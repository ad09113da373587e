"""The cache of object code is keyed by recipes. Equal recipes must mean equal code, whatever the machine's caches,
cores and peaks are: else one description's kernel would run in another's program, with too little scratch memory.
"""

import os
from dataclasses import replace
from math import prod

import pytest

from dojang.arith.conv import Conv
from dojang.engine.kernels.activations import Activation
from dojang.engine.kernels.conv import ALGORITHMS, fallback
from dojang.engine.kernels.task import Offer, Task
from machines import EVERY
from random_convs import problems

COUNT, SEED = int(os.environ.get("DOJANG_TEST_CASES", "1")), int(os.environ.get("DOJANG_TEST_SEED", "0"))
RELU = Activation("relu")
PLANNED = [
    Task.of(Conv.of(264, 264, (14, 14), 3, padding=1, groups=33)),  # the second cache decides whether it gathers
    Task.of(Conv.of(128, 128, (14, 14), 3, padding=1), activation=RELU),
    Task.of(Conv.of(192, 96, (7, 7), 1), activation=RELU),
]


def variants(machine):
    """The same instruction set with other caches and cores."""
    yield machine
    for other in EVERY[1:]:
        yield replace(machine, cores=other.cores, l1=other.l1, l2=other.l2, l3=other.l3)
    yield from (replace(machine, l1=8 << 10), replace(machine, l2=4 << 10), replace(machine, l3=4 << 10))
    yield from (replace(machine, cores=1), replace(machine, cores=64))


@pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS if a is not fallback], ids=lambda a: a.NAME)
def test_equal_recipes_write_equal_code(algorithm):
    drawn = [Task.of(c, activation=RELU) for c in problems(60 * COUNT, SEED) if prod(c.out_size) and c.macs < 1 << 22]
    for isa in ("avx512", "avx2"):
        base = next(m for m in EVERY if m.isa == isa)  # with matrix tiles, where there are any
        planned, others = (
            [t for t in tasks if isinstance(algorithm.offer(t, base), Offer)] for tasks in (PLANNED, drawn)
        )
        for task in (*planned[:2], *others[:COUNT]):
            written = {}
            for machine in variants(base):
                code = algorithm.emit(task, machine)
                for step in code.steps:
                    facts = (step.build("kernel"), code.scratch if len(code.steps) == 1 else None)
                    found = written.setdefault(step.recipe, facts)
                    assert found == facts, f"DOJANG_TEST_SEED={SEED}: {algorithm.NAME} {task}: {step.recipe}"
