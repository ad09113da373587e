"""Masks and NaN: astropy's rule written out (`convolve(..., nan_treatment="interpolate")`), pixel by pixel."""

import numpy as np
import pytest

import dojang
from dojang.base.errors import ShapeError, UsageError
from dojang.filters.borders import pad

TAPS = np.array([[1.0, 2.0, 0.5], [3.0, 5.0, 1.0], [0.0, 2.0, 4.0], [1.0, 1.0, 1.0]]) / 10


def interpolated(image, taps, border, value=0.0):
    """Σ tap · pixel / Σ tap over the pixels that are not NaN, as astropy computes it for a kernel of sum 1, times the
    kernel's sum; NaN where there are none.
    """
    (kh, kw), (h, w) = taps.shape, image.shape
    padded = pad(image, (kh // 2, kh - 1 - kh // 2), (kw // 2, kw - 1 - kw // 2), border, value)
    out = np.full(image.shape, np.nan)
    for y in range(h):
        for x in range(w):
            window = padded[y : y + kh, x : x + kw]
            there = ~np.isnan(window)
            bottom = taps[there].sum()
            if bottom > 0:
                out[y, x] = (taps[there] * window[there]).sum() / bottom * taps.sum()
    return out


def holes(seed=0, share=0.3):
    rng = np.random.default_rng(seed)
    image = rng.random((20, 23)) * 100
    image[rng.random(image.shape) < share] = np.nan
    image[3:10, 4:11] = np.nan  # windows without any pixel
    return image


@pytest.mark.parametrize("border", ["reflect", "symmetric", "replicate", "circular", "zero", "constant"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_is_left_out(border, dtype):
    image, value = holes(), 7.0 if border == "constant" else 0.0
    found = dojang.filter(image.astype(dtype), TAPS, border, value=value, nan="ignore")
    want = interpolated(image, TAPS, border, value)
    assert found.dtype == dtype
    assert np.isnan(want).any()
    np.testing.assert_allclose(found, want, 3e-6 if dtype == "float32" else 1e-13)


def test_a_mask_leaves_out_as_nan_does():
    image = np.nan_to_num(holes(), nan=1e9)
    mask = np.isnan(holes())
    np.testing.assert_allclose(dojang.filter(image, TAPS, mask=mask), interpolated(holes(), TAPS, "reflect"), 1e-13)
    color = np.stack([image, 2 * image, image], -1)
    found = dojang.filter(color, "gaussian:sigma=1", mask=mask)
    np.testing.assert_allclose(found[..., 1], 2 * found[..., 0])
    each = np.stack([mask, np.zeros_like(mask), mask], -1)
    assert not np.isnan(dojang.filter(color, "gaussian:sigma=1", mask=each)[..., 1]).any()


def test_integers_and_banks_and_out():
    image = np.random.default_rng(1).integers(0, 256, (20, 23), dtype=np.uint8)
    mask = np.isnan(holes())
    want = interpolated(np.where(mask, np.nan, image), np.full((3, 3), 1 / 9), "reflect")
    found = dojang.filter(image, "blur", mask=mask)
    assert found.dtype == np.uint8
    assert np.abs(found - np.nan_to_num(want)).max() < 0.5 + 1 / 64
    out = np.zeros_like(image)
    assert dojang.filter(image, "blur", mask=mask, out=out) is out
    assert np.array_equal(out, found)
    bank = dojang.filter(image, ["blur", "gaussian:sigma=1"], mask=mask)
    assert np.array_equal(bank[0], found)
    assert np.array_equal(dojang.filter(image, "blur", mask=np.zeros_like(mask)), dojang.filter(image, "blur"))


def test_an_infinite_pixel_that_is_left_out_spreads_nowhere():
    image = np.ones((9, 9))
    image[4, 4] = np.inf
    assert np.array_equal(dojang.filter(image, "blur", mask=np.isinf(image)), np.ones((9, 9)))


def test_what_cannot_be_weighed():
    image = np.ones((9, 9))
    with pytest.raises(UsageError, match="add up to"):
        dojang.filter(image, "sobel-x", nan="ignore")
    with pytest.raises(UsageError, match="joins two responses"):
        dojang.filter(image, "sobel", nan="ignore")
    with pytest.raises(ShapeError, match="mask= is 3x3"):
        dojang.filter(image, "blur", mask=np.zeros((3, 3), bool))
    with pytest.raises(UsageError, match="truth values"):
        dojang.filter(image, "blur", mask=image)
    with pytest.raises(UsageError, match="not known"):
        dojang.filter(image, "blur", nan="drop")
