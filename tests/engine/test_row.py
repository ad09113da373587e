"""Sums along one row of numbers against SciPy's in float64: lengths, modes, types, NaN and infinity, threads."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import signal

from dojang import convolve
from dojang.engine import functional, row

TYPES = ["float32", "float64", "float16", "int32", "uint8", "bool", "complex64"]


def drawn(rng: np.random.Generator, n: int, dtype: str) -> np.ndarray:
    x = rng.standard_normal(n) * 20
    return (x + 1j * rng.standard_normal(n)).astype(dtype) if dtype == "complex64" else x.astype(dtype)


@given(
    st.integers(1, 3000),
    st.integers(1, 700),
    st.sampled_from(TYPES),
    st.sampled_from(["full", "same", "valid"]),
    st.sampled_from(["auto", "strict", "fast"]),
    st.integers(0, 9),
)
def test_against_scipy(n, k, dtype, mode, precision, seed):
    rng = np.random.default_rng(seed)
    f, g = drawn(rng, n, dtype), drawn(rng, k, dtype)
    found = convolve(f, g, mode, precision=precision)
    want = signal.convolve(f.astype("c16"), g.astype("c16"), method="direct")
    if mode == "same":
        want = want[(k - 1) // 2 : (k - 1) // 2 + n]
    elif mode == "valid":
        want = want[min(n, k) - 1 : max(n, k)]
    assert found.shape == want.shape
    if dtype in ("int32", "uint8", "bool"):
        assert np.array_equal(found, np.rint(want.real))
        return
    limit = 2.0**-20 if dtype in ("float32", "complex64") else 2.0**-42
    norms = np.linalg.norm(f.astype("c16")) * np.linalg.norm(g.astype("c16"))
    assert np.abs(found - want).max() <= limit * norms


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_length_around_a_chunk(dtype, threads, monkeypatch):
    monkeypatch.setattr(row, "default_threads", lambda: threads)
    monkeypatch.setattr(row, "SMALL_PRODUCTS", 0)
    rng = np.random.default_rng(1)
    kernel = row._kernel("f32" if dtype == "float32" else "f64", threads)
    chunk = row.chunk_of(kernel.kind, kernel.machine)
    for results in [1, chunk - 1, chunk, chunk + 1, 2 * chunk + 3, 70 * chunk + 5]:
        for k in [1, 2, row.PIECE - 1, row.PIECE, row.PIECE + 1, 3 * row.PIECE]:
            x, taps = (rng.integers(-9, 10, m).astype(dtype) for m in (results, k))
            before = int(rng.integers(0, k))
            padded = np.pad(x, (before, k - 1 - before))
            assert np.array_equal(row.correlate(x, taps, before, results), np.correlate(padded, taps, "valid"))


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_reaches_its_windows_only(odd):
    rng = np.random.default_rng(2)
    f, g = rng.standard_normal(5000), rng.standard_normal(90)
    f[2000] = odd
    found = convolve(f, g)
    assert np.array_equal(np.flatnonzero(~np.isfinite(found)), np.arange(2000, 2090))
    f[2000], g[40] = 1, odd
    found, want = convolve(f, g), np.convolve(f, g)
    assert np.array_equal(np.isfinite(found), np.isfinite(want))


def test_a_long_sum_rounds_like_its_pieces():
    """Ones add up to a number that single float32 sums of ones cannot pass."""
    many = (1 << 24) + (1 << 20)
    found = row.correlate(np.ones(many, "f4"), np.ones(many, "f4"), 0, 1)
    assert found[0] == many


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_does_not_wait_for_a_call_of_its_parent():
    """The parent's kernel is in use when the child begins."""
    f, g = np.ones(2000), np.ones(90)
    want = convolve(f, g)
    kernel = row._kernel("f64", 1)
    with kernel.lock:
        child = os.fork()
        if child == 0:
            try:
                os._exit(0 if np.array_equal(convolve(f, g), want) else 1)
            except BaseException:
                os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("n", "k", "dtype", "few"),
    [(5, 5, "f8", True), (40, 100, "f8", True), (2900, 11, "f4", True), (100_000, 4, "f8", True), (60, 80, "f8", False),
     (3000, 11, "f4", False), (200_000, 4, "f8", False), (1000, 30, "f4", False)],
)  # fmt: skip
def test_few_products_are_left_to_numpy(n, k, dtype, few):
    f, g = np.ones(n, dtype), np.ones(k, dtype)
    assert functional._few(f, g) == functional._few(g, f) == few
    assert np.array_equal(convolve(f, g), np.convolve(f, g))
