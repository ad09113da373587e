"""The predicted cost of a picture grows smoothly with sigma and with the size of a kernel, on every machine."""

import numpy as np
import pytest
from tests.machines import EVERY

from dojang.filters.job import Job, Options
from dojang.filters.kernels.parse import Kernel, named
from dojang.filters.plan.choose import make_plan

MOST = 1.5  # times the cost of the neighbour
FLOOR = 1.0  # cycles per element that a jump is allowed in any case: below, memory decides
EXCEPTIONS = {
    # Sums of 16-bit numbers end where their rounding exceeds 1/64 of a level, near 31 taps; float32 takes longer.
    ("gaussian", "uint8", "later uses"): (range(31, 34), 2.2),
    # Beyond 10x10 transforms are taken at once. Sums of 16-bit numbers, up to there, cost more at their first use.
    ("dense", "uint8", "first use"): (range(11, 12), 1.7),
}
"""By kernel, dtype and use: the sizes at which a jump may be larger, and how large."""
SIGMAS = 0.5 * 1.05 ** np.arange(123)  # to 200
SIDES = (*range(3, 33), *(int(33 * 1.06**i) for i in range(36)))  # to 253


def cost(kernel, dtype, machine, first):
    """Cycles per element, of a kernel's first use or of later ones."""
    (plan,) = make_plan((Job.of(kernel, (1, 2000, 2000, 1), np.dtype(dtype), Options()),), machine)
    return (plan.first if first and plan.first else plan.way).cycles


def dense(n):
    taps = np.random.default_rng(n).random((n, n))
    return Kernel("dense", (taps / taps.sum(),))


def jumps(kernels, dtype, machine, use):
    costs = [cost(kernel, dtype, machine, use == "first use") for kernel in kernels]
    sizes, limit = EXCEPTIONS.get((kernels[0].name.partition(":")[0], dtype, use), ((), MOST))
    return [
        (round(a, 2), round(b, 2), kernel.size)
        for a, b, kernel in zip(costs, costs[1:], kernels[1:], strict=False)
        if max(a, b) > (limit if max(kernel.size) in sizes else MOST) * min(a, b) + FLOOR
    ]


@pytest.mark.parametrize("machine", EVERY, ids=lambda m: m.family)
@pytest.mark.parametrize("use", ["first use", "later uses"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
def test_no_cliffs(dtype, use, machine):
    assert not jumps([named("gaussian", sigma=s) for s in SIGMAS], dtype, machine, use)
    assert not jumps([dense(n) for n in SIDES], dtype, machine, use)


def test_no_new_sigma_costs_more_than_its_wider_neighbours():
    """Ten times the sigma costs at most twelve times as much, at any sigma."""
    machine = EVERY[0]
    for dtype in ("uint8", "float32"):
        for sigma in (1.0, 3.0, 10.0, 20.0):
            wide = cost(named("gaussian", sigma=10 * sigma), dtype, machine, True)
            assert wide < 12 * cost(named("gaussian", sigma=sigma), dtype, machine, True)
