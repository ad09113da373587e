"""The compiled ways on narrower instruction sets, for other processors (compiled only), and from many threads."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from dojang.filters.filter import filter
from dojang.filters.job import Job, Options
from dojang.filters.kernels.factor import factors, rounded_division, whole_factors, whole_form
from dojang.filters.kernels.parse import Kernel, as_kernel
from dojang.filters.plain import respond
from dojang.filters.plan.choose import make_plan
from dojang.filters.plan.methods import box, direct, doubling, fourier, looped, separable
from dojang.filters.run import Bound, code_of, write
from dojang.native import jit
from dojang.native.machine import Machine

from .test_filter import agrees, picture

HOST = Machine.host()
MACHINES = [HOST] + [HOST.restrict(isa) for isa in HOST.narrower()]
DENSE = Kernel("dense", (np.random.default_rng(0).standard_normal((6, 5)) / 5,))
CASES = [
    (direct, "sharpen", "uint8"),
    (direct, "sobel", "uint8"),
    (direct, DENSE, "uint8"),
    (direct, DENSE, "uint16"),
    (direct, DENSE, "float64"),
    (separable, "blur", "uint8"),
    (separable, "gaussian", "float32"),
    (separable, Kernel("rank 2", (np.outer([1, 2, 3.5], range(9)) + np.outer([2, -1, 1], np.ones(9)),)), "float32"),
    (looped, DENSE, "float32"),
    (looped, DENSE, "uint16"),
    (box, "blur:size=7", "uint8"),
    (doubling, "blur:size=7", "float32"),
    (fourier, DENSE, "uint8"),
    (fourier, DENSE, "float32"),
]


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.isa)
@pytest.mark.parametrize(("find", "kernel", "dtype"), CASES)
@pytest.mark.parametrize("shape", [(37, 150, 1), (40, 61, 3), (5, 2, 3)])
def test_every_way_on_every_instruction_set(machine, find, kernel, dtype, shape):
    image = picture(shape, dtype)
    job = Job.of(as_kernel(kernel), (1, *shape), image.dtype, Options("circular"))
    (plan,) = make_plan((job,), machine)
    way = find(job, machine)
    assert not isinstance(way, str), way
    out = np.empty((1, *job.out_size, shape[2]), job.out_dtype)
    assert Bound(replace(plan, way=way), job, machine, 2).run(image, out)
    weight = sum(np.abs(p).sum() for p in job.kernel.parts)
    agrees(out[0], respond(job, image, 0, shape[0]), weight * np.abs(image).max())


@pytest.mark.parametrize(("find", "kernel", "dtype"), CASES)
def test_other_processors_compile(find, kernel, dtype):
    machine = Machine.cross("neon")
    job = Job.of(as_kernel(kernel), (1, 50, 50, 2), np.dtype(dtype), Options())
    way = find(job, machine)
    assert len(jit.compile_object(write(code_of(way.program), machine), machine)) > 500


def test_many_threads_at_once():
    images = [picture((90, 100, 3), "uint8", seed) for seed in range(24)]
    expected = [filter(i, "gaussian:sigma=2") for i in images]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(5):
            for got, want in zip(pool.map(lambda i: filter(i, "gaussian:sigma=2"), images), expected, strict=True):
                assert np.array_equal(got, want)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("kernel", ["sharpen", "gaussian:sigma=3", "blur:size=41", "blur:size=3"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_threads_do_not_change_a_bit(threads, kernel, dtype):
    image = picture((700, 800), dtype)
    assert np.array_equal(filter(image, kernel, threads=threads), filter(image, kernel, threads=4))


def test_whole_numbers():
    assert whole_form((np.full((3, 3), 1 / 9),)).unit == 1 / 9
    binomial = whole_form((np.outer([1, 2, 1], [1, 2, 1]) / 16,))
    assert binomial.parts[0].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    assert whole_form((np.random.default_rng(0).random((3, 3)),)) is None
    column, row = whole_factors(np.outer([2.0, 4.0, -6.0], [3.0, 0.0, 6.0]))
    assert np.outer(column, row).tolist() == [[6, 0, 12], [12, 0, 24], [-18, 0, -36]]
    assert whole_factors(np.array([[1.0, 2.0], [3.0, 4.0]])) is None


def test_factors_leave_no_more_than_asked():
    rng = np.random.default_rng(1)
    matrix = sum(np.outer(rng.random(9), rng.random(11)) * 10.0**-i for i in range(5))
    for tolerance in (1e-1, 1e-2, 1e-3, 1e-9):
        pairs = factors(matrix, tolerance, 5)
        assert np.abs(sum(np.outer(c, r) for c, r in pairs) - matrix).sum() <= tolerance
    assert len(factors(matrix, 1e-1, 5)) < 5
    assert factors(rng.random((9, 9)), 1e-6, 4) is None


@pytest.mark.parametrize("divisor", [3, 9, 25, 49, 81, 121, 225])
def test_rounded_division_is_exact(divisor):
    add, multiply, shift = rounded_division(divisor, 255 * divisor)
    sums = np.arange(255 * divisor + 1)
    assert np.array_equal((sums + add) * multiply >> (16 + shift), np.rint(sums / divisor))
    assert rounded_division(4, 1020) is None


@pytest.mark.parametrize("channels", [1, 3, 40])
def test_rows_of_several_tiles(channels):
    """Every column is right, also where one tile ends and the next begins."""
    taps = np.random.default_rng(1).standard_normal((5, 5))
    kernel = Kernel("five", (taps,))
    job = Job.of(kernel, (1, 9, 9, channels), np.dtype("float32"), Options())
    program = direct(job, HOST).program
    tile = program.tile_width(HOST) // channels
    for width in (tile, tile + 1, 2 * tile - 1, 2 * tile + 3, 7 * tile // 2):
        image = picture((9, width, channels), "float32")
        padded = np.pad(image.astype(np.float64), ((2, 2), (2, 2), (0, 0)))
        exact = sum(taps[i, j] * padded[i : i + 9, j : j + width] for i in range(5) for j in range(5))
        for stride in (1, 3):
            result = filter(image, kernel, "zero", (1, stride))
            assert np.allclose(result, exact[:, ::stride], atol=1e-4 * np.abs(image).max()), (width, stride)
