"""Batches and their variation, against loops that do it pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dojang.training.batches import Batcher, epoch_batches, steps_per_epoch, torch_seed
from dojang.training.data import Augment, Normalisation, Split

RNG = np.random.default_rng(11)


def split(x: np.ndarray) -> Split:
    return Split(x, np.zeros(len(x), np.int64), Normalisation.none(x.shape[1]))


@given(st.integers(1, 300), st.integers(1, 70), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_visits_every_sample_once_in_even_batches(n: int, batch: int, seed: int, epoch: int) -> None:
    batches = epoch_batches(n, batch, seed, epoch)
    assert len(batches) == steps_per_epoch(n, batch)
    sizes = {len(b) for b in batches}
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 1
    assert sorted(np.concatenate(batches).tolist()) == list(range(n))


def test_orders_differ_by_epoch_and_seed_and_repeat() -> None:
    orders = [np.concatenate(epoch_batches(50, 7, seed, epoch)).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert orders[3] == np.concatenate(epoch_batches(50, 7, 1, 1)).tolist()
    assert len({torch_seed(s, e, t, r) for s in (0, 1) for e in (0, 1) for t in (0, 1) for r in (0, 1)}) == 16


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("augment", [Augment(2, True), Augment(3, False), Augment(0, True)])
@pytest.mark.parametrize("shape", [(3, 6, 5), (1, 4, 4)])
def test_crop_and_mirror_pixel_by_pixel(dtype: type, augment: Augment, shape: tuple[int, int, int]) -> None:
    c, h, w = shape
    x = RNG.integers(1, 256, (9, *shape)).astype(dtype)
    batcher = Batcher(split(x), augment, seed=3)
    indices = np.array([4, 0, 8, 4, 1, 2, 7])
    out = batcher.batch(indices, epoch=2, step=5)
    dy, dx, mirrored = batcher.variation(len(indices), 2, 5)
    assert out.shape == (7, *shape)
    assert out.dtype == dtype
    for i, sample in enumerate(indices):
        for k in range(c):
            for row in range(h):
                for column in range(w):
                    seen = w - 1 - column if mirrored[i] else column
                    at_row, at_column = row + dy[i] - augment.crop, seen + dx[i] - augment.crop
                    inside = 0 <= at_row < h and 0 <= at_column < w
                    assert out[i, k, row, column] == (x[sample, k, at_row, at_column] if inside else 0)


def test_variation_covers_every_shift_evenly_and_mirrors_half() -> None:
    batcher = Batcher(split(np.zeros((1, 1, 8, 8), np.uint8)), Augment(2, True), seed=0)
    dy, dx, mirrored = batcher.variation(20000, 0, 0)
    for shifts in (dy, dx):
        # Each of 5 shifts has 4000 expected with a deviation of 57; five of those bound it.
        assert np.abs(np.bincount(shifts, minlength=5) - 4000).max() < 285
    assert abs(int(mirrored.sum()) - 10000) < 5 * 71
    again = batcher.variation(20000, 0, 0)
    assert all(np.array_equal(a, b) for a, b in zip((dy, dx, mirrored), again, strict=True))
    assert not np.array_equal(dy, batcher.variation(20000, 0, 1)[0])
    assert not np.array_equal(dy, batcher.variation(20000, 1, 0)[0])


def test_without_variation_or_rank_4_samples_come_as_they_are() -> None:
    x = RNG.normal(size=(9, 2, 6)).astype(np.float32)
    assert np.array_equal(Batcher(split(x), Augment(2, True), 0).batch(np.array([3, 1]), 0, 0), x[[3, 1]])
    x = RNG.normal(size=(9, 2, 6, 6)).astype(np.float32)
    assert np.array_equal(Batcher(split(x), Augment(), 0).batch(np.array([3, 1]), 0, 0), x[[3, 1]])
