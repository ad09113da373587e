"""`convolve` by transforms: NumPy's and SciPy's sums, the stated error, exact whole numbers, large single values."""

import numpy as np
import pytest
from scipy import signal

from dojang import convolve
from dojang.engine import spectral


def test_random_sizes_within_the_stated_error():
    rng = np.random.default_rng(0)
    for _ in range(30):
        rank = int(rng.integers(1, 4))
        most = (3000, 60, 16)[rank - 1]
        f, g = (rng.standard_normal(rng.integers(1, most, rank)) for _ in range(2))
        want = signal.convolve(f, g, method="direct")
        error = np.abs(spectral.convolve_full(f, g) - want).max()
        assert error <= spectral.ERROR * np.linalg.norm(f) * np.linalg.norm(g), (f.shape, g.shape)


@pytest.mark.parametrize("mode", ["full", "same", "valid"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize(("n", "m"), [((30000,), (6000,)), ((110, 96), (40, 31))])
def test_modes(mode, dtype, n, m):
    rng = np.random.default_rng(1)
    f, g = (rng.standard_normal(s).astype(dtype) for s in (n, m))
    assert spectral.pays(n, m, dtype != "float32")
    found = convolve(f, g, mode)
    want = signal.convolve(f.astype("c16"), g, mode, "direct")
    assert found.dtype == dtype
    limit = np.linalg.norm(f) * np.linalg.norm(g) * (2.0**-24 if dtype == "float32" else spectral.ERROR)
    assert found.shape == convolve(f, g, mode, precision="strict").shape
    start = (want.shape[0] - found.shape[0]) // 2
    assert start == 0 or mode == "same"
    assert np.abs(found - want).max() <= limit


def test_whole_numbers_stay_exact():
    rng = np.random.default_rng(2)
    f, g = rng.integers(-255, 256, 8000), rng.integers(-255, 256, 3000)
    assert spectral.pays(f.shape, g.shape, True)
    found = convolve(f, g)
    assert found.dtype == np.int64
    assert np.array_equal(found, np.convolve(f, g))


@pytest.mark.parametrize("large", [1e30, np.inf, np.nan])
def test_a_number_that_stands_out_reaches_its_windows_only(large):
    rng = np.random.default_rng(3)
    f, g = rng.random(9000).astype("f4"), rng.random(700).astype("f4")
    f[4000] = large
    found, far = convolve(f, g), np.ones(9699, bool)
    far[4000:4700] = False
    f[4000] = 0
    want = np.convolve(f.astype("f8"), g)
    assert np.abs(found - want)[far].max() <= g.size * 2.0**-24 * want.max()


def test_one_of_a_million_moves_nothing_beyond_float32():
    f, g = np.full(9000, 0.01), np.full(700, 1 / 700)
    f[4000] = 1e6
    found = convolve(f, g)
    assert np.abs(found[700:4000] - 0.01).max() < 0.01 * 2.0**-24


def test_good_lengths():
    for n in range(1, 400):
        m = spectral.good_length(n)
        assert m >= n
        rest = m
        for p in (2, 3, 5):
            while rest % p == 0:
                rest //= p
        assert rest == 1
