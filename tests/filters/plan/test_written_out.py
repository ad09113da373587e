"""Kernels at the edges of what the methods take: long columns times rows with strides and dilations, and taps of 0."""

import numpy as np
import pytest
from scipy import ndimage

import dojang
from dojang import ShapeError, filter, sep_filter
from dojang.filters.kernels.parse import Kernel

DTYPES = ["uint8", "uint16", "float32", "float64"]


def picture(dtype, shape=(60, 70, 3)):
    return (np.random.default_rng(0).random(shape) * 200).astype(dtype)


def expected(image, kx, ky, stride=(1, 1), dilation=(1, 1)):
    """Two passes of SciPy in float64; taps of a dilated kernel lie apart, with zeros between."""
    wide = []
    for line, step in ((ky, dilation[0]), (kx, dilation[1])):
        apart = np.zeros((len(line) // 2 * 2) * step + 1)  # of odd length, its middle the anchor
        apart[::step][: len(line)] = line
        wide.append(apart)
    found = ndimage.correlate1d(image.astype(float), wide[0], axis=0, mode="mirror")
    return ndimage.correlate1d(found, wide[1], axis=1, mode="mirror")[:: stride[0], :: stride[1]]


def close(found, want, dtype):
    limit = {"float32": 200 * 2e-6, "float64": 200 * 1e-12}.get(dtype, 0.5 + 1 / 64)
    return np.abs(found - want).max() <= limit


@pytest.mark.parametrize(
    ("dtype", "stride", "dilation"),
    [("uint8", (2, 2), (1, 1)), ("float32", (1, 3), (1, 1)), ("float64", (1, 1), (2, 1)), ("uint16", (3, 1), (2, 2))],
)
@pytest.mark.parametrize("taps", [71, 161])  # with 161, more than are unrolled
def test_long_lines_with_strides_and_dilations(taps, dtype, stride, dilation):
    image = picture(dtype)
    bell = np.hanning(taps + 2)[1:-1]
    bell /= bell.sum()
    found = sep_filter(image, bell, bell, stride=stride, dilation=dilation)
    assert close(found, expected(image, bell, bell, stride, dilation), dtype)


@pytest.mark.parametrize("kernel", ["gaussian:sigma=13", "blur:size=99"])
def test_named_kernels_with_a_stride_are_the_pixels_of_those_without(kernel):
    for dtype, most in (("uint8", 0), ("float64", 1e-10)):
        image = picture(dtype)
        whole, found = filter(image, kernel), filter(image, kernel, stride=2)
        assert np.abs(found.astype(float) - whole[::2, ::2]).max() <= most + (dtype == "uint8")


@pytest.mark.parametrize(
    "kernel", ["sobel:size=151", Kernel("two", (np.eye(13) + 1, np.tri(13)), "magnitude")], ids=["named", "dense"]
)
def test_a_magnitude_of_too_many_taps_is_refused(kernel):
    for dtype in ("uint8", "float64"):
        with pytest.raises(ShapeError, match=r"(151x151|13x13) taps is not computed.*numpy.hypot"):
            filter(picture(dtype), kernel)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_long_lines_with_zeros_inside(dtype):
    """A windowed sinc: every fourth tap is 0."""
    image, at = picture(dtype), np.arange(-50, 51)
    line = np.where((at % 4 == 0) & (at != 0), 0.0, np.sinc(at / 4) / 4 * np.hanning(103)[1:-1])
    assert close(sep_filter(image, line, line), expected(image, line, line), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_long_line(dtype):
    image, line = picture(dtype, (20, 90)), np.random.default_rng(1).random(4501)
    line /= line.sum()
    assert close(sep_filter(image, line, [1]), expected(image, line, [1.0]), dtype)
    assert close(sep_filter(image, [1], line), expected(image, [1.0], line), dtype)


def test_more_than_a_matrix_can_hold_is_refused():
    line = np.hanning(2503)[1:-1]
    image = picture("uint8", (20, 30))
    assert sep_filter(image, line / line.sum(), line / line.sum()).shape == image.shape
    with pytest.raises(ShapeError, match="2501x2501 taps are more than 4,194,304"):
        sep_filter(image, line, line, stride=2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(1, 5), (3, 3), (13, 13), (90, 80)])
def test_taps_that_are_all_zero(size, dtype):
    image, (kh, kw) = picture(dtype, (30, 31, 2)), size
    for offset in (0.0, 4.0):
        for found in (
            filter(image, np.zeros(size), offset=offset),
            filter(image, [np.zeros(size)] * 2, offset=offset),
            filter(image, np.zeros(size), offset=offset, dtype="float64", dilation=2),
            sep_filter(image, np.zeros(kw), np.arange(1.0, kh + 1), offset=offset),
            sep_filter(image, np.arange(1.0, kw + 1), np.zeros(kh), offset=offset),
        ):
            assert (found == offset).all()


def test_a_plan_is_shown_for_every_named_kernel_with_a_stride():
    from dojang.filters.job import Job, Options
    from dojang.filters.kernels.parse import as_kernel
    from dojang.filters.plan.choose import make_plan
    from dojang.native.machine import Machine

    job = Job.of(as_kernel("gaussian:sigma=60"), (1, 99, 99, 3), np.dtype("u1"), Options.of(stride=2))
    (plan,) = make_plan((job,), Machine.host())
    assert "not passes: it takes no stride" in plan.explain()
    assert dojang.filter(np.full((9, 9), 7, "u1"), "gaussian:sigma=60", stride=2).tolist() == [[7] * 5] * 5


def test_a_constant_border_is_a_pixel_for_every_method():
    """0.1 is no float32; a response in float64 shows which one was summed. Also: the first use gives the same bits."""
    image = np.ones((20, 30), "f4")
    for seed, size in enumerate([(14, 14), (3, 3), (5, 1), (40, 40), (70, 70)]):
        rng = np.random.default_rng(seed)
        column, row = rng.random(size[0]), rng.random(size[1])
        wide = np.pad(image, [(n // 2, (n - 1) // 2) for n in size], constant_values=np.float32(0.1)).astype(float)
        windows = np.lib.stride_tricks.sliding_window_view(wide, size)
        want = np.einsum("yxij,i,j->yx", windows, column, row)
        for found in [filter(image, np.outer(column, row), "constant", value=0.1, dtype="float64") for _ in "ab"] + [
            sep_filter(image, row, column, "constant", value=0.1, dtype="float64")
        ]:
            assert np.abs(found / want - 1).max() < 1e-12
