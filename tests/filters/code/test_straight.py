"""Straight from the picture: against SciPy in float64, and the bound of 16-bit products at the worst pictures."""

import os

import numpy as np
import scipy.ndimage as ndi
from hypothesis import given, settings
from hypothesis import strategies as st

from dojang.filters.job import Job, Options
from dojang.filters.kernels.fixed import fixed_columns
from dojang.filters.kernels.parse import Kernel, named
from dojang.filters.plan.choose import FilterPlan, make_plan
from dojang.filters.plan.methods import columns, straight
from dojang.filters.plan.methods import fixed_columns as fixed_way
from dojang.filters.plan.sums import TIE
from dojang.filters.run import Bound
from dojang.native.machine import Machine
from machines import RUNNABLE

MODES = {"zero": "constant", "constant": "constant", "replicate": "nearest", "reflect": "mirror", "circular": "wrap"}

COUNT = int(os.environ.get("DOJANG_TEST_CASES", "1"))


def response(image, matrix, anchor, border, dilation, value):
    """The float64 response by SciPy, each channel for itself."""
    (kh, kw), (dy, dx) = matrix.shape, dilation
    spread = np.zeros(((kh - 1) * dy + 1, (kw - 1) * dx + 1))
    spread[::dy, ::dx] = matrix
    # The tap that stands on the output pixel is size // 2 with SciPy: that far apart are the two results.
    shift = [s // 2 - a * d for s, a, d in zip(spread.shape, anchor, dilation, strict=True)]
    mode, fill = MODES[border], value if border == "constant" else 0
    padded = np.pad(image.astype(float), ((100, 100), (100, 100), (0, 0)), **_padding(border, fill))
    found = [ndi.correlate(padded[..., c], spread, mode=mode, cval=fill) for c in range(image.shape[2])]
    y, x = 100 + shift[0], 100 + shift[1]
    return np.stack(found, -1)[y : y + image.shape[0], x : x + image.shape[1]]


def _padding(border, fill):
    modes = {"replicate": "edge", "reflect": "reflect", "circular": "wrap"}
    return {"mode": modes[border]} if border in modes else {"mode": "constant", "constant_values": fill}


def kernel_of(kind, kh, kw, rng):
    if kind == "smooth":
        column, row = rng.random(kh // 2 + 1), rng.random(kw // 2 + 1)
        column, row = (np.concatenate([v, v[: n - len(v)][::-1]]) for v, n in ((column, kh), (row, kw)))
        return np.outer(column / column.sum(), row / row.sum())
    if kind == "whole":
        return np.outer(rng.integers(-3, 4, kh), rng.integers(-3, 4, kw)).astype(float)
    if kind == "dense":
        return rng.standard_normal((kh, kw)) * (rng.random((kh, kw)) < 0.8)
    return np.outer(rng.standard_normal(kh), rng.standard_normal(kw)) / (kh * kw)


@given(
    h=st.integers(1, 30),
    w=st.one_of(st.integers(1, 150), st.sampled_from([1027, 1700])),
    c=st.integers(1, 4),
    kh=st.integers(1, 8),
    kw=st.integers(1, 8),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    border=st.sampled_from(sorted(MODES)),
    dtype=st.sampled_from(["uint8", "uint16", "float32", "float64"]),
    kind=st.sampled_from(["smooth", "whole", "any", "dense"]),
    threads=st.integers(1, 2),
    seed=st.integers(0, 99),
)
@settings(max_examples=40 * COUNT)
def test_any_problem_is_the_float64_response(h, w, c, kh, kw, dilation, border, dtype, kind, threads, seed):
    rng = np.random.default_rng(seed)
    matrix = kernel_of(kind, kh, kw, rng)
    if not matrix.any():
        return
    dtype = np.dtype(dtype)
    top = np.iinfo(dtype).max if dtype.kind == "u" else 255
    image = rng.choice([0, top, 7], (h, w, c)) if seed % 2 else rng.integers(0, top + 1, (h, w, c))
    image = image.astype(dtype)
    anchor = (int(rng.integers(kh)), int(rng.integers(kw)))
    job = Job.of(
        Kernel("any", (matrix,), "linear", anchor),
        (1, h, w, c),
        dtype,
        Options.of(border, 1, dilation, 9 * (border == "constant")),
    )
    exact = response(image, matrix, anchor, border, dilation, 9)
    for find in (columns, fixed_way, straight):
        way = find(job, Machine.host())
        if isinstance(way, str):
            continue
        out = np.full((1, h, w, c), 99, dtype)
        assert Bound(FilterPlan((job,), way, Machine.host()), job, Machine.host(), threads).run(image, out)
        if dtype.kind == "f":
            step = 2.0**-21 if dtype == np.float32 else 2.0**-50
            assert np.abs(out[0] - exact).max() <= step * 255 * np.abs(matrix).sum()
            continue
        apart = np.abs(out[0].astype(float) - np.rint(exact).clip(0, top))
        assert apart.max() <= 1
        assert (np.abs(exact - np.floor(exact) - 0.5)[apart > 0] <= TIE).all()


@given(seed=st.integers(0, 999), kh=st.integers(2, 6), kw=st.integers(2, 6), even=st.booleans())
@settings(max_examples=60)
def test_products_of_16_bits_are_within_their_bound(seed, kh, kw, even):
    """The sums as written in the docstring, in whole numbers, on random, flat and hill-climbed pictures."""
    rng = np.random.default_rng(seed)
    matrix = kernel_of("smooth", kh, kw, rng) if even else np.outer(rng.random(kh), rng.random(kw))
    column, row = matrix.sum(1), matrix.sum(0) / matrix.sum()
    found = fixed_columns(column / max(1.0, matrix.sum()), row, 1.0)
    if found is None:
        return
    column = column / max(1.0, matrix.sum())
    flat = np.arange(256)[:, None, None] * np.ones((1, kh, kw), int)
    pictures = np.concatenate([rng.integers(0, 256, (2000, kh, kw)), rng.choice([0, 255], (2000, kh, kw)), flat])
    for _ in range(6):
        middle = 0
        for i, j, tap in found.down:
            middle = middle + (((pictures[:, i] + pictures[:, j if j >= 0 else i]) << 7) * tap >> 16)
        assert middle.max() <= 0xFFFF
        total = 0
        for i, j, tap in found.along:
            both = middle[:, i] if j < 0 else (middle[:, i] + middle[:, j] + 1) >> 1
            total = total + (both * tap >> 16)
        assert total.max() + found.add <= 0xFFFF
        off = (total + found.add - 128) / 256 - np.einsum("i,nij,j->n", column, pictures, row)
        assert np.abs(off).max() <= found.error + 1e-9
        worst = pictures[np.abs(off).argsort()[-40:]]  # steps from the worst ones
        pictures = np.clip(worst.repeat(50, 0) + rng.integers(-2, 3, (2000, kh, kw)), 0, 255)


def test_a_flat_picture_stays_flat():
    for dtype, sigma in (("uint8", 0.6), ("uint8", 0.9), ("float32", 0.9)):
        job = Job.of(named("gaussian", sigma=sigma, size=5), (1, 8, 3000, 1), np.dtype(dtype), Options())
        for machine in RUNNABLE:
            (plan,) = make_plan([job], machine)
            assert plan.way.name.startswith("columns first"), f"{machine.name}: {plan.explain()}"
            bound = Bound(plan, job, machine, 1)
            for value in range(0, 256, 5):
                out = np.zeros((1, 8, 3000, 1), dtype)
                assert bound.run(np.full((8, 3000, 1), value, dtype), out)
                assert np.abs(out - value).max() <= (0 if dtype == "uint8" else 1e-4)
