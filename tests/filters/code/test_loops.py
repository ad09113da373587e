"""Taps from memory: the same bits as code with constants, nothing compiled for a new kernel, any size."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from dojang.filters import run as running
from dojang.filters.filter import filter
from dojang.filters.job import Job, Options
from dojang.filters.kernels.parse import Kernel, named
from dojang.filters.plan.choose import make_plan
from dojang.filters.plan.loops import without_compiling
from dojang.filters.plan.method import Method
from dojang.filters.plan.methods import METHODS
from dojang.filters.prepare import Prepared
from dojang.filters.run import Bound
from dojang.native.machine import Machine

HOST = Machine.host()
RNG = np.random.default_rng(0)
KERNELS = [
    *(named("gaussian", sigma=s) for s in (0.6, 0.9, 2.3)),
    Kernel("dense 5x4", (RNG.standard_normal((5, 4)),)),
    Kernel("dense 7x7", (RNG.random((7, 7)) / 49,)),
    Kernel("row", (RNG.random((1, 9)),)),
    Kernel("whole", (np.outer([1, 2, 1], [1, 4, 6, 4, 1]),)),
    Kernel("rank 1", (np.outer([0.3, 0.4], [0.2, 0.0, 0.1]),)),
]


def pressed(method, job, image):
    out = np.empty((1, *job.out_size, job.channels), job.out_dtype)
    (plan,) = make_plan((job,), HOST)
    assert Bound(replace(plan, way=method), job, HOST, 1).run(image, out)
    return out


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: f"{k.name} {k.size}")
def test_the_same_bits_as_constants(kernel, dtype):
    image = (np.random.default_rng(1).random((37, 41, 3)) * 200 - 50 * (dtype[0] == "f")).astype(dtype)
    job = Job.of(kernel, (1, *image.shape), image.dtype, Options("replicate", offset=0.5))
    tried = []
    for name, find in METHODS:
        method = find(job, HOST)
        if name in ("looped", "passes", "fourier") or isinstance(method, str):
            continue
        found = without_compiling(job, method.program, HOST)
        if found is not None:
            tried.append(name)
            again = pressed(Method(name, 1.0, *found), job, image)
            assert again.tobytes() == pressed(method, job, image).tobytes(), name
    assert tried


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_nothing_is_compiled_for_a_new_sigma(dtype):
    image = (np.random.default_rng(2).random((40, 50, 3)) * 255).astype(dtype)
    more = 1e-3 * (dtype == "float32")  # a kernel that was used is not new
    for sigma in (0.55, 1.5, 7.0):
        filter(image, f"gaussian:sigma={sigma}")
    before = running._compiled.cache_info().misses
    for sigma in (0.5512, 0.8765, 1.2345, 2.3456, 5.4321, 6.7891, 21.123):
        filter(image, f"gaussian:sigma={sigma + more}")
    forms = {"fixed columns", "columns first", "rows first", "dense"}  # each needs its own code once
    assert running._compiled.cache_info().misses - before <= len(forms)
    narrow = np.tile(image, (4, 1, 1))[:, :30]  # its rows are shorter than half of the wide kernel
    filter(narrow, "gaussian:sigma=12")
    before = running._compiled.cache_info().misses
    for sigma in (0.5613, 0.9765, 1.3345, 2.4456, 5.5321, 6.8891, 23.123):
        filter(image, f"gaussian:sigma={sigma + more}")
    for sigma in (12.123, 11.876):
        filter(narrow, f"gaussian:sigma={sigma + more}")
    assert running._compiled.cache_info().misses == before


@pytest.mark.parametrize("kernel", ["gaussian:sigma=1.17", "gaussian:sigma=0.61", np.arange(35.0).reshape(5, 7) / 600])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_every_use_gives_the_same_bits(kernel, dtype):
    image = (np.random.default_rng(3).random((60, 70)) * 255).astype(dtype)
    first = filter(image, kernel)
    for threads in (1, 2, None):
        assert filter(image, kernel, threads=threads).tobytes() == first.tobytes()


def test_every_use_of_a_folded_kernel_gives_the_same_bits():
    image = (np.random.default_rng(4).random((120, 30)) * 255).astype("u1")
    assert filter(image, "gaussian:sigma=12.0625").tobytes() == filter(image, "gaussian:sigma=12.0625").tobytes()


@pytest.mark.parametrize(("sigma", "shape"), [(12, (50, 64)), (40, (90, 70)), (60, (33, 400, 3))])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
def test_wide_gaussians(sigma, shape, dtype):
    """Wider than the picture, and than what is unrolled."""
    image = (np.random.default_rng(4).random(shape) * 200).astype(dtype)
    found = filter(image, f"gaussian:sigma={sigma}", "symmetric")
    radius = int(np.ceil(3 * sigma))
    spread = (sigma, sigma, 0)[: len(shape)]
    want = ndimage.gaussian_filter(
        image.astype(float), spread, mode="reflect", radius=(radius, radius, 0)[: len(shape)]
    )
    if dtype[0] == "u":
        assert np.abs(found - want).max() < 0.5 + 1 / 64
    else:
        assert np.abs(found - want).max() < 200 * (1e-6 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint16"])
def test_large_dense_kernels(dtype):
    taps = np.random.default_rng(5).random((40, 33)) / 1320
    image = (np.random.default_rng(6).random((64, 70)) * 60000).astype(dtype)
    want = ndimage.correlate(image.astype(float), taps, mode="mirror")
    job = Job.of(Kernel("dense", (taps,)), (1, 64, 70, 1), image.dtype, Options())
    found = pressed(dict(METHODS)["looped"](job, HOST), job, image[..., None])[0, ..., 0]
    bound = {"float32": 60000 * 4e-7, "float64": 60000 * 1e-14, "uint16": 0.5 + 1 / 64}[dtype]
    assert np.abs(found - want).max() < bound
    assert np.abs(filter(image, taps) - want).max() < bound


def of_scipy(image, kernel):
    return ndimage.correlate(image.astype(float), kernel.parts[0][..., None], mode="mirror")


@pytest.mark.parametrize("size", [(5, 5), (40, 40)])
def test_kernels_of_one_size_share_memory_and_keep_their_taps(size):
    """Prepared in turns, used in turns, and by several threads at once, each with its own kernel."""
    rng = np.random.default_rng(3)
    images = [rng.random((61, 70, 3)) for _ in range(2)]
    kernels = [Kernel(f"kernel {i}", (rng.random(size) / np.prod(size),)) for i in range(6)]
    ready = [Prepared((k,), (1, *images[0].shape), np.dtype("f8"), Options(), 1, first=True) for k in kernels]
    assert len({id(one.quick._steps) for one in ready}) == 1
    want = [[of_scipy(image, kernel) for image in images] for kernel in kernels]

    def check(i):
        for turn in range(8):
            out = np.empty((1, 1, *images[0].shape))
            ready[i].run(images[turn % 2][None], out)
            np.testing.assert_allclose(out[0, 0], want[i][turn % 2], atol=1e-14)

    for i in (0, 1, 0, 5):
        check(i)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(check, range(6)))
