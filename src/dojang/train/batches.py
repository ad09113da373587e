"""Which samples make up a step of training, and how each is varied: pure functions of (seed, epoch, step).

Nothing here keeps a state, so a run that is taken up again in the middle sees exactly the batches it would have seen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dojang.train.data import Augment, Split

# Tells the streams of random numbers apart that start from one seed.
_ORDER, _AUGMENT, _TORCH = 1, 2, 3


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """Batches in an epoch, each of at most `batch_size` samples and every sample in one: ceil(samples / batch_size).

    >>> steps_per_epoch(1438, 64)
    23
    """
    return -(-samples // batch_size)


def epoch_batches(samples: int, batch_size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Indices of each batch of an epoch: a random order, cut into parts that differ by one sample at most.

    Even parts, since a last batch of a few samples would have batch statistics of its own.

    >>> [len(b) for b in epoch_batches(10, 4, seed=0, epoch=0)]
    [4, 3, 3]
    """
    order = np.random.default_rng([seed, _ORDER, epoch]).permutation(samples)
    return np.array_split(order, steps_per_epoch(samples, batch_size))


def torch_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """Seed of PyTorch's own generator (dropout) for one step in one process."""
    return int(np.random.SeedSequence([seed, _TORCH, epoch, step, rank]).generate_state(1, np.uint64)[0] >> 1)


class Batcher:
    """Gives the samples of a step, varied. Holds the padded pictures once, channels last, for a fast gather."""

    def __init__(self, split: Split, augment: Augment, seed: int) -> None:
        """`augment` applies to samples (c, h, w); arrays of another rank can only be taken as they are."""
        self._seed = seed
        self._plain = augment == Augment() or split.x.ndim != 4
        self._x = split.x
        if self._plain:
            return
        self._pad, self._mirror = augment.crop, augment.mirror
        p = augment.crop
        padded = np.pad(split.x.transpose(0, 2, 3, 1), ((0, 0), (p, p), (p, p), (0, 0)))
        self._shape = padded.shape
        self._pixels = padded.reshape(-1, padded.shape[3])

    def batch(self, indices: NDArray[Any], epoch: int, step: int) -> NDArray[Any]:
        """Samples `indices` in the stored type, (n, c, h, w) in shape and, when varied, channels last in memory.

        Each has its own shift in 0 … 2·crop per axis (crop is the middle) and its own mirroring.
        """
        if self._plain:
            return self._x[indices]
        dy, dx, mirrored = self.variation(len(indices), epoch, step)
        _, ph, pw, c = self._shape
        h, w = ph - 2 * self._pad, pw - 2 * self._pad
        rows = dy[:, None] + np.arange(h)
        columns = np.where(mirrored[:, None], np.arange(w)[::-1], np.arange(w)) + dx[:, None]
        at = (indices[:, None] * ph + rows)[:, :, None] * pw + columns[:, None, :]
        return np.take(self._pixels, at.reshape(-1), axis=0).reshape(len(indices), h, w, c).transpose(0, 3, 1, 2)

    def variation(self, count: int, epoch: int, step: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """(row shift, column shift, mirrored) of each of the `count` samples of a step."""
        rng = np.random.default_rng([self._seed, _AUGMENT, epoch, step])
        dy, dx = rng.integers(0, 2 * self._pad + 1, (2, count))
        mirrored = rng.random(count) < 0.5 if self._mirror else np.zeros(count, bool)
        return dy, dx, mirrored
