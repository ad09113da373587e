"""Bounds spare the planner work and change no plan: it chooses what trying every method would choose."""

import numpy as np
from tests.machines import EVERY

from dojang.filters.job import Job, Options
from dojang.filters.kernels.named import Outer
from dojang.filters.kernels.parse import Kernel, named
from dojang.filters.plan.bounds import LEAST
from dojang.filters.plan.choose import FOR_LARGE, make_plan
from dojang.filters.plan.methods import METHODS

NAMES = ("sobel-x", "sobel", "laplacian", "sharpen", "emboss", "log", "gabor", "blur", "outline", "identity", "unsharp")
CASES = 250


def drawn(rng):
    """A kernel of any structure that the planner tells apart: rank 1 and 2, whole numbers, zeros, equal taps."""
    kh, kw = (int(np.exp(rng.uniform(0, np.log(60)))) for _ in range(2))
    column, row = rng.random(kh) / kh, rng.random(kw) / kw
    signed = rng.standard_normal((kh, kw))
    spot = -np.outer(column, row)
    spot[kh // 2, kw // 2] += 2
    faint = np.outer(rng.integers(1, 4, kh), rng.integers(1, 4, kw)).astype(float)
    faint[kh // 2] = 0  # but for taps as cos(pi / 2) gives them, which a factored kernel may leave out
    faint[kh // 2, kw // 3] = rng.choice([6e-17, 1e-9, 1e-6])
    kernels = (
        lambda: named("gaussian", sigma=float(np.exp(rng.uniform(-0.7, 4)))),
        lambda: Kernel("signed", (signed,)),
        lambda: Kernel("mean", (np.abs(signed) / np.abs(signed).sum(),)),
        lambda: Kernel("whole", (rng.integers(-3, 4, (kh, kw)).astype(float),)),
        lambda: named(NAMES[rng.integers(len(NAMES))]),
        lambda: named("blur", size=kh),
        lambda: Kernel("known product", Outer(column, row)),
        lambda: Kernel("product", (np.outer(column, row),)),
        lambda: Kernel("sparse", (signed * (rng.random((kh, kw)) < 0.5),)),
        lambda: Kernel("sum of two", (np.outer(column, row) + np.outer(column[::-1], row**2),)),
        lambda: Kernel("spot", (spot,)),
        lambda: Kernel("faint row", (faint,)),
        lambda: Kernel("faint row of a mean", (faint / faint.sum(),)),
        lambda: Kernel("edge", Outer(column, rng.integers(-2, 3, kw).astype(float))),
    )
    return kernels[rng.integers(len(kernels))]()


def drawn_job(rng):
    dtype, wanted = (np.dtype(str(rng.choice(["u1", "u2", "f4", "f8"]))) for _ in range(2))
    steps = [1 if rng.random() < 0.8 else tuple(int(v) for v in rng.integers(1, 3, 2)) for _ in range(2)]
    offset = 0.0 if rng.random() < 0.7 else 3.5
    result = wanted if wanted.kind == "f" and rng.random() < 0.4 else None
    options = Options.of(str(rng.choice(["reflect", "zero"])), *steps, 0.0, offset, result)
    channels = int(rng.choice([1, 3, 4, 7]))
    return Job.of(drawn(rng), (1, 300, 280, channels), dtype, options, anywhere=bool(rng.random() < 0.15)).unsized


def test_every_method_has_a_bound():
    assert list(LEAST) == [name for name, _ in METHODS]


def test_the_plan_is_the_best_of_all():
    """And no bound exceeds what its method predicts, nor is infinite where that does not refuse."""
    chosen = set()
    for i in range(CASES):
        rng = np.random.default_rng([7, i])
        machine, job = EVERY[i % len(EVERY)], drawn_job(rng)
        (plan,) = make_plan((job,), machine)
        large = job.kernel.pair is not None and np.prod(job.kernel.size) > 4096
        tried = {name: find(job, machine) for name, find in METHODS if not large or name in FOR_LARGE}
        methods = {name: found for name, found in tried.items() if not isinstance(found, str)}
        for name, found in methods.items():
            assert LEAST[name](job, machine) <= found.cycles, (i, name, found.cycles)
        if methods:
            best = min(methods.values(), key=lambda found: found.cycles)
            assert (plan.way.name, plan.way.program) == (best.name, best.program), i
        chosen.add(plan.way.name)
    assert chosen >= {"direct", "straight", "separable", "columns first", "running sums", "fourier", "passes", "looped"}
