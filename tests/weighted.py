"""Blurs weighted by alpha, in float64 by SciPy: the oracle of the tests of alpha."""

import numpy as np
from scipy import ndimage

MODES = {"reflect": "mirror", "replicate": "nearest", "circular": "wrap", "zero": "constant", "valid": "mirror"}


def check_weighted(found, pixels, taps, border="reflect", offset=0.0, first=(0, 0), stride=1):
    """Holds a result against offset + S · Σ w·α·c / Σ w·α of `pixels` (h, w, c), S = Σ w, and alpha as it is.

    Where no pixel of a window is seen, offset + Σ w·c. Beyond a zero border pixels are black and opaque. Integers are
    rounded and saturated; they may differ by 1 within 1/64 of a tie. `first` is the place of the first result pixel.
    """
    taps = np.asarray(taps, float)
    kind = pixels.dtype
    top = float(np.iinfo(kind).max) if kind.kind == "u" else 1.0
    colours, alpha = pixels[..., :-1].astype(float), pixels[..., -1:].astype(float)

    def summed(planes, beyond):
        each = (ndimage.correlate(p, taps, mode=MODES[border], cval=beyond) for p in np.moveaxis(planes, -1, 0))
        return np.stack(list(each), axis=-1)

    with np.errstate(invalid="ignore", divide="ignore"):
        seen = summed(colours * alpha, 0.0) / summed(alpha, top) * taps.sum()
    expected = offset + np.where(summed(alpha, top) > 0, seen, summed(colours, 0.0))
    height, width = found.shape[:2]
    places = (slice(first[0], None, stride), slice(first[1], None, stride))
    expected, kept = expected[places][:height, :width], pixels[places][:height, :width, -1]
    np.testing.assert_array_equal(found[..., -1], kept)
    if found.dtype.kind == "u":
        assert np.abs(found[..., :-1] - expected.clip(0, top)).max() <= 0.5 + 1 / 64
    else:
        rounding = {"float32": 3e-6, "float64": 1e-13}[found.dtype.name]
        np.testing.assert_allclose(found[..., :-1], expected, atol=rounding * max(1, np.abs(expected).max()), rtol=0)
