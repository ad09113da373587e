"""Kernels wider than the picture: SciPy's sums, every border."""

import numpy as np
import pytest
from scipy import ndimage

import dojang
from dojang.filters.folded import folds
from dojang.filters.job import Job, Options
from dojang.filters.kernels.parse import named

MODES = {"reflect": "mirror", "symmetric": "reflect", "replicate": "nearest", "circular": "wrap", "zero": "constant",
         "constant": "constant"}  # fmt: skip


@pytest.mark.parametrize("border", MODES)
@pytest.mark.parametrize("shape", [(20, 30), (9, 300), (290, 7, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
def test_scipy_agrees(border, shape, dtype):
    image = (np.random.default_rng(0).random(shape) * 255).astype(dtype)
    value = 9.0 if border == "constant" else 0.0
    job = Job.of(named("gaussian", sigma=40), (1, *shape[:2], 1), image.dtype, Options(border))
    assert any(folds(job))
    found = dojang.filter(image, "gaussian:sigma=40", border, value=value, offset=1.0)
    line = named("gaussian", sigma=40).pair[0]
    want = image.astype(float)
    for axis in (0, 1):
        want = ndimage.correlate1d(want, line, axis, mode=MODES[border], cval=value)
    want += 1.0
    if dtype[0] == "u":
        assert np.abs(found - want).max() <= 0.5 + 1 / 64
    else:
        assert np.abs(found - want).max() <= 255 * (2e-6 if dtype == "float32" else 1e-13)
    assert np.array_equal(dojang.filter(image, "gaussian:sigma=40", border, value=value, offset=1.0), found)


def test_stacks_and_dilation():
    stack = np.random.default_rng(1).random((3, 12, 15, 2))
    found = dojang.filter(stack, "gaussian:sigma=30", "symmetric", dilation=(1, 2))
    for one, result in zip(stack, found, strict=True):
        np.testing.assert_allclose(dojang.filter(one, "gaussian:sigma=30", "symmetric", dilation=(1, 2)), result)
    assert np.abs(found - stack.mean(axis=(1, 2), keepdims=True)).max() < 0.05
