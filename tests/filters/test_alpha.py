"""Blurs of pictures with alpha: colours under transparent pixels do not show. Oracle: SciPy in float64."""

import dask.array as da
import numpy as np
import pytest
import tifffile
from PIL import Image

from dojang.base.errors import ShapeError
from dojang.filters.alpha import weighs
from dojang.filters.files import filter_files
from dojang.filters.filter import filter
from dojang.filters.kernels.named import NAMED
from dojang.filters.kernels.parse import as_kernel
from weighted import check_weighted

GAUSS = np.outer(*[[1, 4, 6, 4, 1]] * 2) / 256
UNEVEN = np.array([[0, 1, 2, 5], [3, 1, 0, 1], [2, 2, 9, 1]]) / 10


def sticker(size=60):
    """Opaque red on transparent black."""
    picture = np.zeros((size, size, 4), np.uint8)
    picture[size // 3 : 2 * size // 3, size // 3 : 2 * size // 3] = (255, 0, 0, 255)
    return picture


def drawn(seed, kind, size=(33, 47), channels=4):
    """Any colours; alpha of all values, with opaque and with transparent areas larger than a window."""
    rng = np.random.default_rng(seed)
    values = rng.random((*size, channels))
    values[..., -1] *= rng.random(size) > 0.5
    values[10:25, 5:20, -1], values[26:, 30:, -1] = 1, 0
    return (values * np.iinfo(kind).max).astype(kind) if np.dtype(kind).kind == "u" else values.astype(kind)


@pytest.mark.parametrize("kernel", ["gaussian:sigma=4", "blur:size=9", "motion:size=11,angle=30"])
def test_a_sticker_gets_no_dark_rim(tmp_path, kernel):
    picture = sticker()
    Image.fromarray(picture).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", picture, photometric="rgb", extrasamples=["unassalpha"])
    results = [filter(picture, kernel, alpha=True), np.asarray(filter(Image.fromarray(picture), kernel))]
    for name, bands in (("a.png", 1 << 60), ("a.tif", 1 << 60), ("a.tif", 1)):
        filter_files([tmp_path / name], kernel, tmp_path / f"b-{name}", band_pixels=bands, force=True)
        read = tifffile.imread if name.endswith("tif") else lambda path: np.asarray(Image.open(path))
        results.append(read(tmp_path / f"b-{name}"))
    for result in results:
        assert np.array_equal(result, results[0])
        assert (result[picture[..., 3] == 255] == (255, 0, 0, 255)).all()
        assert np.array_equal(result[..., 3], picture[..., 3])
    assert filter(picture, kernel)[20, 20, 0] < 128  # by default an array has no alpha


@pytest.mark.parametrize("kind", ["u1", "u2", "f4", "f8"])
@pytest.mark.parametrize("border", ["reflect", "zero", "replicate", "circular", "valid"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("taps", [GAUSS, UNEVEN])
def test_colours_are_weighted(kind, border, stride, taps):
    for channels in (2, 4):
        picture = drawn(1, kind, channels=channels)
        result = filter(picture, taps, border, stride, alpha=True)
        first = tuple(n // 2 for n in taps.shape) if border == "valid" else (0, 0)
        check_weighted(result, picture, taps, border, first=first, stride=stride)
        lazy = filter(da.from_array(picture, chunks=(9, 13, 2)), taps, border, stride, alpha=True)
        if stride == 1 or kind[0] == "u":
            assert np.array_equal(lazy.compute(), result)
        else:  # sums in another order
            np.testing.assert_allclose(lazy.compute(), result, atol=3e-6 if kind == "f4" else 1e-14, rtol=0)
        both = filter(np.stack([picture, picture[::-1]]), taps, border, stride, alpha=True)
        assert np.array_equal(both[0], result)


def test_an_opaque_picture_is_filtered_as_without_alpha():
    for kind in ("u1", "u2", "f4", "f8"):
        picture = drawn(2, kind)
        picture[..., 3] = np.iinfo(kind).max if kind[0] == "u" else 1
        plain = filter(np.ascontiguousarray(picture[..., :3]), GAUSS, "constant", value=1)
        assert np.array_equal(filter(picture, GAUSS, "constant", value=1, alpha=True)[..., :3], plain)
        hole = picture.copy()
        hole[5, 5, 3] = 0  # what is opaque around it stays as it is
        assert np.array_equal(filter(hole, GAUSS, "constant", value=1, alpha=True)[8:, :, :3], plain[8:])


def test_an_offset_goes_to_the_colours_only():
    picture = drawn(3, "u1")
    check_weighted(filter(picture, GAUSS, offset=20, alpha=True), picture, GAUSS, offset=20)
    response = filter(picture, GAUSS * 3, dtype="float64", alpha=True)
    scaled = picture / np.array([1, 1, 1, 255.0])
    check_weighted(response / [1, 1, 1, 255], scaled, GAUSS * 3)


def test_an_infinite_colour_under_a_transparent_pixel_does_not_show():
    picture = drawn(4, "f4")
    picture[12, 9] = (np.inf, np.nan, 1e30, 0)
    result = filter(picture, GAUSS, alpha=True)
    assert np.isfinite(result[11:14, 8:11]).all()
    assert result[11:14, 8:11, :3].max() <= 1


def test_only_blurs_weigh():
    blurs = {name for name in NAMED if weighs(as_kernel(name))}
    assert blurs == {"blur", "gaussian", "motion"}
    picture = drawn(5, "u1")
    for kernel in ("identity", "sharpen", "sobel", "emboss"):
        result = filter(picture, kernel, alpha=True)
        assert np.array_equal(result[..., :3], filter(picture, kernel)[..., :3])
        assert np.array_equal(result[..., 3], picture[..., 3])


def test_alpha_needs_channels():
    for shape in ((9, 9), (9, 9, 1)):
        with pytest.raises(ShapeError, match="alpha=True"):
            filter(np.zeros(shape, "u1"), "blur", alpha=True)
