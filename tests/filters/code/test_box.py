"""Box sums: equal to the definition for integers, close for floats, and safe from NaN."""

import numpy as np
import pytest

from dojang.filters.job import Job, Options
from dojang.filters.kernels.parse import Kernel, named
from dojang.filters.plain import respond
from dojang.filters.plan.choose import make_plan
from dojang.filters.run import Bound
from dojang.native.machine import Machine
from machines import EVERY, name_of

from ..test_filter import agrees, picture


def running(image, kernel, options, threads=1):
    """The result of running sums, by doubling for floats, whatever the planner would choose."""
    stack = image[None]
    job = Job.of(kernel, stack.shape, image.dtype, options)
    (plan,) = make_plan((job,), Machine.host())
    from dataclasses import replace

    from dojang.filters.plan.methods import box, doubling

    way = (doubling if image.dtype.kind == "f" else box)(job, Machine.host())
    assert not isinstance(way, str), way
    out = np.empty((1, *job.out_size, image.shape[2]), job.out_dtype)
    assert Bound(replace(plan, way=way), job, Machine.host(), threads).run(image, out)
    return out[0], respond(job, image, 0, job.out_size[0])


DTYPES = ["uint8", "uint16", "float32", "float64"]
CHANNELS = [1, 2, 3, 4, 7]
SIZES = [(3, 3), (1, 6), (15, 2), (40, 33)]
BORDERS = ["reflect", "constant", "circular", "replicate", "valid"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("turn", [0, 2])
def test_running_sums_are_the_definition(dtype, channels, size, turn):
    """Two of the five borders for each, so that each border meets each of the others."""
    border = BORDERS[(DTYPES.index(dtype) + CHANNELS.index(channels) + SIZES.index(size) + turn) % len(BORDERS)]
    if dtype.startswith("uint") and channels > Machine.host().lanes(4):
        pytest.skip("a pixel does not fit a register here, and the planner says so")
    image = picture((41, 37, channels), dtype, channels)
    kernel = Kernel("box", (np.full(size, 1 / (size[0] * size[1])),))
    result, exact = running(image, kernel, Options(border, value=9.0 if border == "constant" else 0.0))
    agrees(result, exact, np.abs(image).max())


@pytest.mark.parametrize(("size", "bits"), [((181, 181), 32), ((255, 256), 32), ((257, 257), 64), ((3, 40000), 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_sums_beyond_31_bits(size, bits, channels):
    """Bright pixels of 16 bits: the sums do not wrap, and stay running sums."""
    rng = np.random.default_rng(4)
    image = rng.integers(65000, 65536, (60, 70, channels)).astype("u2")
    kernel = Kernel("box", (np.full(size, 1 / (size[0] * size[1])),))
    job = Job.of(kernel, (1, *image.shape), image.dtype, Options("replicate"))
    (plan,) = make_plan((job,), Machine.host())
    assert plan.way.name == "running sums"
    assert f"{bits}-bit" in plan.way.detail
    result, exact = running(image, kernel, Options("replicate"))
    agrees(result, exact, 65535.0)


def test_threads_and_wide_rows():
    image = picture((300, 500, 3), "uint8")
    one, exact = running(image, named("blur", size=21), Options())
    agrees(one, exact)
    assert np.array_equal(one, running(image, named("blur", size=21), Options(), threads=4)[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_windows(bad):
    image = picture((60, 70, 1), "float32")
    image[20, 30] = bad
    result, exact = running(image, named("blur", size=9), Options())
    assert np.array_equal(np.isfinite(result), np.isfinite(exact))
    assert np.count_nonzero(~np.isfinite(result)) == 81
    good = np.isfinite(exact)
    assert np.allclose(result[good], exact[good], atol=1e-6)


@pytest.mark.parametrize("machine", EVERY, ids=name_of)
def test_large_boxes_are_planned_so(machine):
    large, strided = (
        Job.of(named("blur", size=31), (1, 600, 600, 3), np.dtype("uint8"), options)
        for options in (Options(), Options(stride=(2, 2)))
    )
    (plan,) = make_plan((large,), machine)
    assert plan.way.name == "running sums"
    (plan,) = make_plan((strided,), machine)
    assert plan.way.name != "running sums"
    assert "stride" in dict(plan.refused)["running sums"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [(2, 1), (1, 2), (3, 7), (8, 9), (63, 64), (5, 130)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 3)])
def test_doubling_with_taps_apart_and_threads(dtype, size, dilation):
    image = picture((150, 141, 2), dtype, 3)
    kernel = Kernel("box", (np.full(size, 0.25),))
    one, exact = running(image, kernel, Options(dilation=dilation, offset=3.0))
    agrees(one, exact, size[0] * size[1] * float(np.abs(image).max()))
    assert np.array_equal(one, running(image, kernel, Options(dilation=dilation, offset=3.0), threads=4)[0])


@pytest.mark.parametrize("size", [(16, 5), (31, 31), (33, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_blocks_of_rows_in_bands_and_whole(tmp_path, dtype, size):
    """Bands and threads give the bits of the whole picture, and a large pixel leaves no trace."""
    from dojang import filter
    from dojang.filters.large import filter_large

    kernel = Kernel("box", (np.full(size, 1 / (size[0] * size[1])),))
    image = picture((237, 60, 3), dtype, 5)
    image[100, 20] = 1e30 if dtype == "float32" else 1e300
    job = Job.of(kernel, (1, *image.shape), image.dtype, Options())
    (plan,) = make_plan((job,), Machine.host())
    assert plan.way.program.blocks
    assert plan.grid == size[0]
    whole = filter(image, kernel)
    clean = image.copy()
    clean[100, 20] = 0
    far = np.abs(np.arange(237) - 100) > size[0]
    assert np.array_equal(whole[far], filter(clean, kernel)[far])
    assert np.array_equal(whole, filter(image, kernel, threads=3))
    np.save(tmp_path / "a.npy", image)
    filter_large(tmp_path / "a.npy", tmp_path / "b.npy", kernel, Options(), band_bytes=1000)
    assert np.array_equal(np.load(tmp_path / "b.npy"), whole)
