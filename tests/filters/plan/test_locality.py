"""One pixel far larger than the rest, NaN or infinite, moves nothing outside its window: every way, forced.

The oracle is `scipy.ndimage.correlate` in float64; the bound that of a direct sum of the result's own precision over
the window alone.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy import ndimage

from dojang import filter
from dojang.filters.job import Job, Options
from dojang.filters.kernels.parse import Kernel, as_kernel
from dojang.filters.plan.choose import make_plan
from dojang.filters.plan.methods import METHODS
from dojang.filters.plan.transforms import fourier
from dojang.filters.run import Bound
from dojang.native.machine import Machine

HOST = Machine.host()
MODES = {"reflect": "mirror", "replicate": "nearest", "circular": "wrap", "zero": "constant"}
METHODS = (*METHODS, *((f"fourier of {1 + both}", partial(fourier, both=both)) for both in (False, True)))
SIZE, SPOT = (150, 140), (70, 66)


def dense(kh, kw, seed=0):
    taps = np.random.default_rng(seed).random((kh, kw))
    return Kernel(f"dense {kh}x{kw}", (taps / taps.sum(),))


def signed(kh, kw, seed=1):
    return Kernel(f"signed {kh}x{kw}", (np.random.default_rng(seed).standard_normal((kh, kw)),))


KERNELS = [as_kernel(k) for k in ("blur", "blur:size=16", "blur:size=31", "gaussian:sigma=5", "log:sigma=2", "sharpen")]
KERNELS += [dense(7, 7), dense(31, 31), dense(48, 9), signed(12, 20)]


def forced(name, find, image, kernel, options, dtype=None):
    """The result of one way, or None where it is not for such a job."""
    job = Job.of(kernel, (1, *image.shape, 1), image.dtype, replace(options, dtype=dtype))
    way = find(job, HOST)
    if isinstance(way, str):
        return None
    (plan,) = make_plan((job,), HOST)
    if plan.instead is None or plan.instead.name == name:
        plan = replace(plan, other=next(w for w in (f(job, HOST) for _, f in METHODS[::-1]) if not isinstance(w, str)))
    out = np.empty((1, *job.out_size, 1), job.out_dtype)
    assert Bound(replace(plan, way=way), job, HOST, 1).run(image[..., None], out)
    return out[0, ..., 0]


def exact(image, taps, border):
    """The response, and Σ |tap · pixel| of each window."""
    image, mode, taps = image.astype(float), MODES[border], taps * 2.0**200  # SciPy leaves out taps below 2^-52
    sums = ndimage.correlate(image, taps, mode=mode), ndimage.correlate(np.abs(image), np.abs(taps), mode=mode)
    return sums[0] * 2.0**-200, sums[1] * 2.0**-200


def outside(kernel):
    """The pixels whose windows do not hold the spot."""
    kh, kw = kernel.size
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    ay, ax = kernel.anchor
    return ~((y - ay <= SPOT[0]) & (SPOT[0] <= y - ay + kh - 1) & (x - ax <= SPOT[1]) & (SPOT[1] <= x - ax + kw - 1))


@pytest.mark.parametrize("border", ["reflect", "zero"])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
@pytest.mark.parametrize("name", [name for name, _ in METHODS])
def test_a_large_pixel_stays_in_its_window(name, kernel, border):
    find, far = dict(METHODS)[name], outside(kernel)
    tried = 0
    for dtype, eps in (("float32", 2.0**-24), ("float64", 2.0**-53)):
        for ground, spot in ((0.01, 1e6), (0.0, 1e6), (0.01, 1e30), (1.0, np.nan), (1.0, np.inf)):
            image = np.full(SIZE, ground, dtype)
            image[SPOT] = spot
            result = forced(name, find, image, kernel, Options(border))
            if result is None:
                continue
            tried += 1
            want, bound = exact(np.full(SIZE, ground, dtype), kernel.parts[0], border)
            error = np.abs(result - want)[far]
            assert np.isfinite(error).all(), (dtype, ground, spot)
            # Sums that only grow lose as many roundings as they have terms; in float64 the oracle's do, too.
            kh, kw = kernel.size
            slack = (kh * kw if dtype == "float64" else kh + kw) + 8
            assert (error <= slack * eps * bound[far]).all(), (dtype, ground, spot)
    if not tried:
        pytest.skip("the way takes no such kernel on floats")


@pytest.mark.parametrize(
    "kernel",
    ["log:sigma=2", "log:sigma=4", "gabor:angle=30", "unsharp:sigma=2", "outline:size=9", dense(9, 7), signed(12, 20)],
    ids=str,
)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_inside_its_window_a_large_pixel_counts_by_its_own_tap(kernel, stride, dtype):
    """Factors of a kernel are off by a part of its largest tap, which a pixel of 10^6 at a small tap multiplies."""
    kernel = as_kernel(kernel)
    image = np.full(SIZE, 0.01, dtype)
    image[SPOT] = 1e6
    result = filter(image, kernel, stride=stride)
    want, bound = (x[::stride, ::stride] for x in exact(image, kernel.parts[0], "reflect"))
    count = np.count_nonzero(kernel.parts[0]) + 8
    assert (np.abs(result - want) <= count * (2.0**-24 if dtype == "float32" else 2.0**-52) * bound).all()


@pytest.mark.parametrize("border", ["circular", "zero"])
@pytest.mark.parametrize("name", [name for name, _ in METHODS])
@pytest.mark.parametrize("kernel", [k for k in KERNELS if min(p.min() for p in k.parts) >= 0], ids=lambda k: k.name)
def test_what_is_not_negative_stays_so(name, kernel, border):
    rng = np.random.default_rng(5)
    image = (rng.random(SIZE) * 10.0 ** rng.integers(-3, 9, SIZE)).astype("f4")
    image[40:90, 30:100] = 0
    for dtype in ("float32", "float64"):
        result = forced(name, dict(METHODS)[name], image.astype(dtype), kernel, Options(border))
        if result is None:
            continue
        assert result.min() >= 0
        want, bound = exact(image, kernel.parts[0], border)
        assert (np.abs(result - want) <= (sum(kernel.size) + 8) * 2.0**-24 * bound).all()
        assert (result[bound == 0] == 0).all()


@pytest.mark.parametrize("kernel", [dense(15, 15), dense(31, 31), dense(63, 40), signed(31, 31)], ids=lambda k: k.name)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("border", MODES)
@pytest.mark.parametrize("both", [False, True])
def test_transforms_are_as_close_as_a_direct_sum(kernel, dtype, border, both):
    """On a picture without such pixels the transforms themselves run, and floats are better than float32 sums."""
    rng = np.random.default_rng(2)
    image = (rng.random(SIZE) * (1 if dtype == "float32" else np.iinfo(dtype).max)).astype(dtype)
    job = Job.of(kernel, (1, *SIZE, 1), image.dtype, replace(Options(border), dtype=np.dtype("f4")))
    way = fourier(job, HOST, both)
    assert not isinstance(way, str), way
    (plan,) = make_plan((job,), HOST)
    out = np.empty((1, *SIZE, 1), "f4")
    bound = Bound(replace(plan, way=way), job, HOST, 1)
    assert not bound._guard.blocks(image[..., None]).any()
    bound.run(image[..., None], out)
    want, total = exact(image, kernel.parts[0], border)
    assert (np.abs(out[0, ..., 0] - want) <= 2 * 2.0**-24 * total).all()


def test_bands_of_transforms_decide_alike(tmp_path):
    """A picture with a few pixels that stand out: in bands and whole the same bits."""
    from dojang.filters.large import filter_large

    image = np.random.default_rng(1).random((900, 60)).astype("f4")
    image[450, 20], image[700, 5] = 1e7, np.nan
    image[100:160] = 0
    np.save(tmp_path / "a.npy", image)
    filter_large(tmp_path / "a.npy", tmp_path / "b.npy", dense(31, 31), Options(), band_bytes=1000)
    assert np.array_equal(np.load(tmp_path / "b.npy"), filter(image, dense(31, 31)), equal_nan=True)


def test_the_example_of_the_docs():
    a = np.full((200, 200), 0.01, "f4")
    a[100, 100] = 1e6
    taps = np.random.default_rng(0).random((7, 7))
    taps /= taps.sum()
    y, x = np.mgrid[:200, :200]
    far = (abs(y - 100) > 3) | (abs(x - 100) > 3)
    want = ndimage.correlate(a.astype("f8"), taps, mode="mirror")
    assert (abs(filter(a, taps) - want) / want)[far].max() < 3e-7
