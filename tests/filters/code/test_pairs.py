"""Fixed-point kernels: the bound on their error at the worst pictures, and results against the float64 response."""

import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dojang.filters import plain
from dojang.filters.code.pairs import emit_pairs
from dojang.filters.job import Job, Options
from dojang.filters.kernels.fixed import fixed, fixed_passes
from dojang.filters.kernels.parse import Kernel, named
from dojang.filters.plan.choose import FilterPlan, make_plan
from dojang.filters.plan.methods import pairs, separable_pairs
from dojang.filters.plan.sums import TIE
from dojang.filters.run import Bound
from dojang.native import jit
from dojang.native.machine import Machine
from machines import RUNNABLE

pytestmark = pytest.mark.skipif(Machine.processor().isa not in ("avx2", "avx512"), reason="x86 with AVX2 only")


COUNT = int(os.environ.get("DOJANG_TEST_CASES", "1"))


def machines():
    """The processor, and as it would be with half the registers' width or without multiplying and adding in one."""
    host = Machine.processor()
    narrow = host.restrict("avx2") if host.isa in ("avx2", "avx512") else host
    found = [host, narrow]
    if "+avx512vnni" in host.features:
        found.append(replace(host, features=host.features.replace("+avx512vnni", "-avx512vnni")))
    if "+avxvnni" in host.features:
        found.append(replace(narrow, features="+avxvnni"))
    return found


def taps(seed, kh, kw, rank1, size):
    rng = np.random.default_rng(seed)
    if rank1:
        column, row = rng.standard_normal(kh), rng.standard_normal(kw)
        return np.outer(column, row) / np.abs(column).sum() / np.abs(row).sum() * size
    return rng.standard_normal((kh, kw)) / np.sqrt(kh * kw) * size


@given(seed=st.integers(0, 999), kh=st.integers(1, 9), kw=st.integers(1, 9), size=st.sampled_from([0.01, 1.0, 20.0]))
@settings(max_examples=40)
def test_the_error_at_the_worst_picture_is_within_the_bound(seed, kh, kw, size):
    matrix = taps(seed, kh, kw, False, size)
    found = fixed(matrix, 3.25, TIE)
    if found is None:
        return
    assert found.error <= TIE
    wrong = found.taps / 2.0**found.shift - matrix
    half = 1 << (found.shift - 1)
    for pixels in (np.where(wrong > 0, 255, 0), np.where(wrong > 0, 0, 255)):
        total = (found.taps * pixels).sum() + found.add - half
        assert abs(total / 2.0**found.shift - (matrix * pixels).sum() - 3.25) <= found.error + 1e-9


@given(seed=st.integers(0, 999), k=st.integers(2, 33), offset=st.sampled_from([0.0, -7.7]))
@settings(max_examples=40)
def test_two_passes_at_their_worst_are_within_the_bound(seed, k, offset):
    rng = np.random.default_rng(seed)
    matrix = taps(seed, k, k, True, rng.choice([0.5, 1.0, 3.0]))
    i, j = np.unravel_index(np.abs(matrix).argmax(), matrix.shape)
    column, row = matrix[:, j] / matrix[i, j], matrix[i]
    found = fixed_passes(column, row, offset, TIE)
    if found is None:
        return
    half = 1 << (found.shift - 1)
    for trial in range(8):
        signs = np.outer(rng.choice([-1, 1], k), rng.choice([-1, 1], k)) if trial > 1 else np.sign(matrix)
        pixels = np.where(signs > 0, 255, 0) if trial % 2 else np.where(signs > 0, 0, 255)
        middle = (found.column @ pixels + found.first).astype(np.int64) >> found.middle
        assert np.abs(middle).max() <= 32767
        total = int(middle @ found.row) + found.add - half
        assert abs(total + half) < 2**31
        assert abs(total / 2.0**found.shift - (matrix * pixels).sum() - offset) <= found.error + 1e-9


@given(
    h=st.integers(1, 40),
    w=st.integers(1, 150),
    c=st.integers(1, 5),
    kh=st.integers(1, 8),
    kw=st.integers(1, 8),
    dilation=st.integers(1, 3),
    border=st.sampled_from(["zero", "constant", "replicate", "reflect", "circular", "valid"]),
    passes=st.booleans(),
    threads=st.integers(1, 2),
    machine=st.sampled_from(machines()),
    seed=st.integers(0, 99),
)
@settings(max_examples=40 * COUNT)
def test_any_problem_is_the_float64_response(h, w, c, kh, kw, dilation, border, passes, threads, machine, seed):
    rng = np.random.default_rng(seed)
    anchor = (int(rng.integers(kh)), int(rng.integers(kw)))
    kernel = Kernel("any", (taps(seed, kh, kw, passes, rng.choice([0.9, 2.5])),), "linear", anchor)
    if border == "valid" and (kh > h or (kw - 1) * dilation + 1 > w):
        return
    options = Options.of(border, 1, (1, dilation), 9 * (border == "constant"), 2.5)
    image = rng.choice([0, 255, 7], (h, w, c)).astype(np.uint8) if seed % 2 else rng.integers(0, 256, (h, w, c), "u1")
    job = Job.of(kernel, (1, h, w, c), image.dtype, options)
    way = (separable_pairs if passes else pairs)(job, machine)
    if isinstance(way, str):
        return
    out = np.full((1, *job.out_size, c), 99, np.uint8)
    assert Bound(FilterPlan((job,), way, machine), job, machine, threads).run(image, out)
    exact = plain.respond(job, image, 0, job.out_size[0])
    expected = np.rint(exact).clip(0, 255)
    apart = np.abs(out[0] - expected)
    assert apart.max() <= 1
    assert (np.abs(exact - np.floor(exact) - 0.5)[apart > 0] <= TIE).all()


@pytest.mark.parametrize("machine", machines(), ids=lambda m: f"{m.isa} {'vnni' if 'vnni' in m.features else ''}")
def test_the_instructions_are_those_of_the_machine(machine):
    job = Job.of(Kernel("any", (taps(1, 3, 3, False, 0.9),)), (1, 9, 400, 3), np.dtype("u1"), Options())
    way = pairs(job, machine)
    assert not isinstance(way, str)
    text = jit.assembly(emit_pairs(way.program, machine), machine, thorough=True)
    fused = {"avx512": "+avx512vnni", "avx2": "+avxvnni"}[machine.isa] in machine.features.split(",")
    assert ("vpdpwssd" in text) == fused
    assert "vpackuswb" in text


def test_a_flat_picture_stays_flat_in_wide_tiles():
    """Every pixel value through kernels whose taps sum to 1, on rows of several tiles."""
    for sigma in (0.7, 3.0, 5.0):
        image = np.repeat(np.arange(256, dtype=np.uint8), 40)[:, None].repeat(3000, 1)[::40]
        job = Job.of(named("gaussian", sigma=sigma), (1, 1, 3000, 1), image.dtype, Options())
        for machine in RUNNABLE:
            (plan,) = make_plan([job], machine)
            assert ("pairs" in plan.way.name) == (machine.isa in ("avx2", "avx512"))
            bound = Bound(plan, job, machine, 1)
            for row in image:
                out = np.zeros((1, 1, 3000, 1), np.uint8)
                assert bound.run(row[None, :, None], out)
                assert np.array_equal(out[0, 0, :, 0], row)
