"""Transforms down the columns: as exact as a direct sum, for every border, length and layout."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from dojang.filters.code.fourier import RADICES, Fourier, order, radices
from dojang.filters.job import Job, Options
from dojang.filters.kernels.parse import Kernel
from dojang.filters.plain import respond
from dojang.filters.plan.choose import make_plan
from dojang.filters.plan.method import Method
from dojang.filters.plan.methods import looped
from dojang.filters.plan.transforms import LENGTHS, fits, fourier, least_cycles, program_of
from dojang.filters.run import Bound
from dojang.native.machine import Machine
from machines import EVERY, name_of

from ..test_filter import agrees, picture

HOST = Machine.host()


def by(find, image, kernel, options, threads=1):
    """The result of one way, whatever the planner would choose, and the exact response."""
    job = Job.of(kernel, (1, *image.shape), image.dtype, options)
    (plan,) = make_plan((job,), HOST)
    way = find(job, HOST)
    assert isinstance(way, Method), way
    out = np.empty((1, *job.out_size, image.shape[2]), job.out_dtype)
    assert Bound(replace(plan, way=way), job, HOST, threads).run(image, out)
    return out[0], respond(job, image, 0, job.out_size[0])


def dense(kh, kw, seed=0):
    return Kernel("dense", (np.random.default_rng(seed).standard_normal((kh, kw)) / np.sqrt(kh * kw),))


@pytest.mark.parametrize("registers", [16, 32])
@pytest.mark.parametrize("length", LENGTHS)
def test_order_is_a_permutation_that_transforms(length, registers):
    assert sorted(order(length, registers)) == list(range(length))
    assert np.prod(radices(length, registers)) == length
    assert set(radices(length, registers)) <= set(RADICES)


@pytest.mark.parametrize("seed", range(40))
def test_transforms_of_any_lengths(seed):
    """Kernel, picture, lengths and form are drawn, and every form that takes the kernel is forced in turn."""
    rng = np.random.default_rng([19, seed])
    kh, kw = rng.integers(1, 60, 2)
    channels, dtype = int(rng.integers(1, 6)), str(rng.choice(["uint8", "uint16", "float32", "float64"]))
    border = str(rng.choice(["reflect", "constant", "circular", "replicate", "valid", "symmetric"]))
    image = picture((*rng.integers(60, 260, 2), channels), dtype, seed)
    dilation = tuple(int(d) for d in rng.integers(1, 3, 2)) if dtype[0] == "u" and border != "valid" else (1, 1)
    options = Options(border, value=7.0 if border == "constant" else 0.0, dilation=dilation)
    kernel = dense(kh, kw, seed)
    job = Job.of(kernel, (1, *image.shape), image.dtype, options)
    first = fourier(job, HOST)
    assert isinstance(first, Method)
    length, wide = rng.choice(fits(job.extent[0])), rng.choice([0, *fits(job.extent[1])])
    program = program_of(job, first.program.work, first.program.finish, int(length), int(wide))
    print(kernel.size, image.shape, dtype, program)

    def find(job, machine):
        spread = np.zeros((job.extent[0], kw))
        spread[:: dilation[0]] = kernel.parts[0] / program.finish.scale
        return Method("fourier", first.cycles, program, program.table(machine, spread))

    result, exact = by(find, image, kernel, options, threads=int(rng.integers(1, 3)))
    agrees(result, exact, float(np.abs(image).max()))


@pytest.mark.parametrize("border", ["reflect", "constant", "circular", "replicate", "valid"])
@pytest.mark.parametrize(("kh", "kw"), [(3, 3), (15, 20), (31, 2), (47, 33), (150, 5)])
@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 3), ("float32", 1), ("float32", 4)])
def test_transforms_are_the_definition(border, kh, kw, dtype, channels):
    image = picture((163, 110, channels), dtype, kh)
    options = Options(border, value=5.0 if border == "constant" else 0.0)
    result, exact = by(fourier, image, dense(kh, kw), options)
    agrees(result, exact, float(np.abs(image).max()))


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("size", [15, 31, 63])
def test_error_is_at_most_twice_that_of_a_direct_sum(size, both):
    image = picture((200, 210, 1), "float32")
    kernel = dense(size, size, size)
    result, exact = by(partial(fourier, both=both), image, kernel, Options())
    direct, _ = by(looped, image, kernel, Options())
    assert np.abs(result - exact).max() <= 2 * np.abs(direct - exact).max() + 1e-6


def test_dilation_wide_rows_and_threads():
    image = picture((300, 700, 3), "uint8")
    kernel = dense(9, 11)
    result, exact = by(fourier, image, kernel, Options(dilation=(3, 2)))
    agrees(result, exact)
    assert np.array_equal(result, by(fourier, image, kernel, Options(dilation=(3, 2)), threads=3)[0])


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_windows(bad, both):
    image = picture((150, 70, 1), "float32")
    image[60, 30] = bad
    result, exact = by(partial(fourier, both=both), image, dense(21, 21), Options())
    assert np.array_equal(np.isfinite(result), np.isfinite(exact))
    assert np.allclose(result[np.isfinite(exact)], exact[np.isfinite(exact)], atol=1e-5)


@pytest.mark.parametrize("machine", EVERY, ids=name_of)
def test_large_dense_kernels_are_planned_so(machine):
    job = Job.of(dense(63, 63), (1, 600, 600, 1), np.dtype("float32"), Options())
    (plan,) = make_plan((job,), machine)
    assert isinstance(plan.way.program, Fourier)
    assert plan.instead is not None
    assert plan.instead.name == "looped"
    (plan,) = make_plan((replace(job, kernel=dense(5, 5)),), machine)
    assert plan.way.name == "straight"


@pytest.mark.parametrize("machine", [HOST, *EVERY], ids=name_of)
def test_lengths_suit_the_picture(machine):
    """The algorithm is the same for every size; a small picture is one tile, not a small part of one."""
    job = Job.of(dense(127, 127), (1, 512, 512, 1), np.dtype("float32"), Options())
    found = {}
    for size in (256, 512, 1 << 14):
        (plan,) = make_plan((replace(job, height=size, width=size),), machine)
        assert plan.way.name == "fourier"
        found[size] = plan.way.program.length, plan.way.program.half
    assert found[256][0] < found[512][0]
    assert np.prod(found[256]) < np.prod(found[512])
    assert found[1 << 14] == max(found.values(), key=np.prod)


@pytest.mark.parametrize("machine", EVERY, ids=name_of)
def test_no_transform_takes_less_than_the_bound_below_which_none_is_tried(machine):
    for dtype in ("uint8", "uint16", "float32", "float64"):
        for side in (1, 2, 3, 5, 8, 13):
            job = Job.of(dense(side, side), (1, 1 << 20, 1 << 20, 3), np.dtype(dtype), Options())
            found = fourier(job, machine)
            assert isinstance(found, Method)
            assert found.cycles >= least_cycles(job, machine)
