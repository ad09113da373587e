"""A kernel that is planned alike gets the method, the cost and the bits that planning for it would give."""

import numpy as np
import pytest

from dojang.filters import prepare as preparing
from dojang.filters.filter import filter
from dojang.filters.job import Job, Options
from dojang.filters.kernels.named import Outer
from dojang.filters.kernels.parse import Kernel, named
from dojang.filters.plan.alike import likeness
from dojang.filters.plan.choose import make_plan
from dojang.filters.prepare import Prepared
from dojang.native.machine import Machine

TYPES = [("float32", None), ("float64", None), ("uint16", None), ("uint16", "float32"), ("uint8", "float32")]
TYPES += [("float32", "float64"), ("uint8", "float64")]


def drawn(rng, form, size):
    """A kernel of this size: a gaussian, a column times a row, or a dense matrix of taps of both signs."""
    kh, kw = size
    if form == "gaussian":
        lines = [np.exp(-((np.arange(n) - n // 2) ** 2) / (2 * rng.uniform(0.2, 0.4) ** 2 * n**2)) for n in size]
        return Kernel("g", Outer(*(line / line.sum() for line in lines)))
    if form == "lines":
        return Kernel("l", Outer(rng.standard_normal(kh), rng.standard_normal(kw)))
    return Kernel("d", (rng.standard_normal(size) / kh,))


@pytest.mark.parametrize(("dtype", "out"), TYPES)
@pytest.mark.parametrize("form", ["gaussian", "lines", "dense"])
def test_as_planned(form, dtype, out):
    rng = np.random.default_rng([3, len(form), TYPES.index((dtype, out))])
    options = Options.of("symmetric", offset=2.0, dtype=out)
    taken = 0
    for _ in range(12):
        size = tuple(int(n) for n in np.exp(rng.uniform(np.log(2), np.log(40), 2)))
        shape = (1, int(rng.integers(20, 70)), int(rng.integers(20, 70)), int(rng.integers(1, 5)))
        one, other = drawn(rng, form, size), drawn(rng, form, size)
        native = np.dtype(dtype)
        real = Job.of(one, shape, native, options).out_dtype
        if likeness(one, native, real, 2.0) is None or likeness(one, native, real, 2.0) != likeness(
            other, native, real, 2.0
        ):
            continue
        top = 60000 if dtype == "uint16" else 250
        image = (rng.random(shape) * top).astype(dtype)
        planned = Prepared((other,), shape, native, options, 1, first=True)
        ready = Prepared((one,), shape, native, options, 1, first=True).alike(other)
        methods = [make_plan((Job.of(k, shape, native, options),), Machine.host())[0].way for k in (one, other)]
        assert [m.name for m in methods[:1]] == [m.name for m in methods[1:]], size
        assert methods[0].cycles == methods[1].cycles, size
        if ready is None:
            continue
        taken += 1
        results = []
        for prepared in (ready, planned):
            out_array = np.empty((1, 1, *prepared.out_size, shape[3]), prepared.out_dtype)
            prepared.run(image, out_array)
            results.append(out_array.tobytes())
        assert results[0] == results[1], (size, shape)
        assert ready.waits == planned.waits
        assert ready.jobs == planned.jobs
        assert ready.plans == planned.plans
    assert taken >= 3


def test_not_alike():
    """Kernels whose taps decide: equal ones, zeros, whole numbers, rank 1 in a matrix, extreme taps, uint8."""
    f4, u1, u2 = np.dtype("f4"), np.dtype("u1"), np.dtype("u2")
    rng = np.random.default_rng(0)
    dense, gaussian = Kernel("d", (rng.random((5, 5)),)), named("gaussian", sigma=1.7)
    holed = dense.parts[0].copy()
    holed[1, 2] = 0
    whole = Kernel("w", (np.arange(1.0, 26).reshape(5, 5) % 7 + np.eye(5),))
    assert likeness(dense, f4, f4, 0.0) is not None
    assert likeness(gaussian, f4, f4, 0.0) is not None
    assert likeness(dense, f4, f4, 0.0) != likeness(gaussian, f4, f4, 0.0)
    for kernel in (
        named("blur"), Kernel("h", (holed,)), Kernel("r", (np.outer(rng.random(5), rng.random(5)),)),
        Kernel("e", (dense.parts[0] * 1e-20,)), named("sobel"),
    ):  # fmt: skip
        assert likeness(kernel, f4, f4, 0.0) is None, kernel.name
    assert likeness(whole, u2, u2, 0.0) is None
    assert likeness(gaussian, u1, u1, 0.0) is None


def test_a_new_sigma_is_not_planned(monkeypatch):
    image = np.random.default_rng(1).random((40, 50, 3)).astype("f4")
    filter(image, "gaussian:sigma=2.013")
    plans = []
    real = preparing.make_plan
    monkeypatch.setattr(preparing, "make_plan", lambda *given: plans.append(given) or real(*given))
    for sigma in (2.017, 2.021, 2.029):
        found = filter(image, f"gaussian:sigma={sigma}")
        assert not plans
        assert np.abs(found - filter(image.astype("f8"), f"gaussian:sigma={sigma}")).max() < 1e-6
        plans.clear()
