"""The gallery: every kernel, decodable, deterministic, small, and doing something."""

import io

import numpy as np
from PIL import Image

from dojang.filters.gallery import gallery, sample
from dojang.filters.kernels.named import NAMED


def test_every_kernel_is_shown():
    shown = gallery()
    assert [s.name for s in shown] == list(NAMED)
    pictures = {s.name: np.asarray(Image.open(io.BytesIO(s.png))) for s in shown}
    assert np.array_equal(pictures["identity"], sample())
    for name, pixels in pictures.items():
        assert pixels.shape[:2] == (120, 180)
        assert pixels.std() > 5, name
        if name != "identity":
            assert not np.array_equal(pixels, pictures["identity"]), name
    assert sum(len(s.png) for s in shown) < 900_000


def test_the_sample_is_a_picture():
    one = sample()
    assert np.array_equal(one, sample())
    assert one.dtype == np.uint8
    assert len(np.unique(one)) > 200
