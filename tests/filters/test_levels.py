"""Which level stands for 0, and how much lies beyond the levels; oracle: SciPy in float64 on every pixel."""

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from dojang.filters.files import filter_files, plan_file
from dojang.filters.filter import filter
from dojang.filters.kernels.named import NAMED
from dojang.filters.kernels.parse import as_kernel
from dojang.filters.levels import signed

RNG = np.random.default_rng(5)
SIGNED = {"sobel-x", "sobel-y", "scharr-x", "scharr-y", "prewitt-x", "prewitt-y", "laplacian", "log", "gabor"}


def waves(shape, kind="u1"):
    """A picture whose slopes are mild, so that most responses lie within the levels."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    planes = [np.sin(y / a) * np.cos(x / b) for a, b in RNG.uniform(5, 30, (int(np.prod(shape[2:])), 2))]
    return ((np.stack(planes, -1) + 1) / 2 * np.iinfo(kind).max).astype(kind).reshape(shape)


def response(image, kernel, offset):
    taps = as_kernel(kernel).matrix
    planes = image.reshape(*image.shape[:2], -1).astype(float)
    found = [ndimage.correlate(planes[..., c], taps, mode="mirror") for c in range(planes.shape[2])]
    return (np.stack(found, -1) + offset).reshape(image.shape)


def test_signed_kernels_are_those_of_both_signs_around_0():
    assert {name for name in NAMED if signed(as_kernel(name))} == SIGNED
    assert signed(as_kernel("-1 0 1"))
    assert signed(as_kernel("1 1 1; 1 -8 1; 1 1 1"))
    for other in ("1 -1 1", "0 0; 0 0", "1 2 1", "0 -1 0; -1 5 -1; 0 -1 0"):
        assert not signed(as_kernel(other))


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("kernel", ["sobel-x", "laplacian:neighbours=8", "gabor", "-1 0 1"])
@pytest.mark.parametrize("bands", [False, True])
def test_negative_values_show_in_files(tmp_path, kind, kernel, bands):
    image = waves((90, 70, 3), kind)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb")
    middle = {"u1": 128, "u2": 32768}[kind]
    how = {"band_pixels": 1 if bands else 1 << 60, "force": True}
    (done,) = filter_files([tmp_path / "a.tif"], kernel, tmp_path / "b.tif", **how).done
    expected = response(image, kernel, middle)
    beyond = (expected < -0.5) | (expected > np.iinfo(kind).max + 0.5)
    assert done.offset == middle
    assert done.saturated == pytest.approx(beyond.mean(), abs=0.02)
    result = tifffile.imread(tmp_path / "b.tif")
    assert np.abs(result - expected.clip(0, np.iinfo(kind).max)).max() <= 0.5 + 1 / 64
    assert ((result < middle) == (expected.round() < middle)).mean() > 0.99
    assert (result < middle).any()  # which was lost
    (done,) = filter_files([tmp_path / "a.tif"], kernel, tmp_path / "c.tif", offset=0, **how).done
    assert done.offset == 0
    assert np.array_equal(tifffile.imread(tmp_path / "c.tif"), filter(image, kernel))
    (done,) = filter_files([tmp_path / "a.tif"], kernel, tmp_path / "d.tif", dtype="float32", **how).done
    assert (done.offset, done.dtype, done.saturated) == (0, "float32", 0)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "d.tif"), filter(image, kernel, dtype="float32"))


def test_kernels_of_one_call_have_an_offset_each(tmp_path):
    Image.fromarray(waves((40, 50, 3))).save(tmp_path / "a.png")
    kernels = ["sobel-x", "blur", "outline", "sobel", "log"]
    done = filter_files([tmp_path / "a.png"], kernels, tmp_path / "out").done
    assert [one.kernel for one in done] == kernels
    assert [one.offset for one in done] == [128, 0, 0, 0, 128]
    for one in done:
        expected = filter(np.asarray(Image.open(tmp_path / "a.png")), one.kernel, offset=one.offset)
        assert np.array_equal(np.asarray(Image.open(one.target)), expected)
    plans = plan_file(tmp_path / "a.png", kernels).plans
    assert {job.kernel.name: job.options.offset for plan in plans for job in plan.jobs} == {
        one.kernel: one.offset for one in done
    }


def test_alpha_gets_no_offset(tmp_path):
    image = waves((40, 50, 4))
    Image.fromarray(image).save(tmp_path / "a.png")
    filter_files([tmp_path / "a.png"], "sobel-x", tmp_path / "b.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b.png"))[..., 3], image[..., 3])


@pytest.mark.parametrize(
    ("kernel", "offset", "says"),
    [
        ("1 2 1; 2 4 2; 1 2 1", 0, "add up to 16; divide them by 16"),
        ("-1 -1; -1 -1", 0, "add up to -4; add to the values with --offset"),
        ("blur", 0, ""), ("sharpen", 0, ""), ("emboss", 0, ""), ("sobel-x", None, ""), ("outline", None, ""),
        ("1 2 1; 2 4 2; 1 2 1", -2000, ""),
    ],
)  # fmt: skip
def test_a_kernel_that_makes_white_or_black_pictures(tmp_path, kernel, offset, says):
    image = RNG.integers(0, 256, (60, 50, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    (done,) = filter_files([tmp_path / "a.png"], kernel, tmp_path / "b.png", offset=offset).done
    assert says in done.warning
    assert bool(says) == bool(done.warning)
    expected = response(image, kernel, done.offset)
    assert done.saturated == pytest.approx(((expected < -0.5) | (expected > 255.5)).mean(), abs=1e-9)  # every row
