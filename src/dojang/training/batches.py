"""Which samples make up a step of training, and how each is varied: pure functions of (seed, epoch, step).

Nothing here keeps a state, so a run that is taken up again in the middle sees exactly the batches it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dojang.training.data import Augment, Split
from dojang.training.streams import StreamedSamples

Share = Callable[[NDArray[Any]], NDArray[Any]]
"""Which items of a batch a process takes."""

# Tells the streams of random numbers apart that start from one seed.
_ORDER, _AUGMENT, _TORCH = 1, 2, 3


def whole(items: NDArray[Any]) -> NDArray[Any]:
    """The share of a process that is alone: all."""
    return items


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
    """Gives the samples of a step, varied: a function of what it was made from, epoch and step.

    Of samples that are larger than memory the next batch may be read `ahead`, while the network computes.
    """

    def __init__(self, split: Split, augment: Augment, seed: int) -> None:
        """`augment` applies to samples (c, h, w); arrays of another rank can only be taken as they are."""
        self._x, self._augment, self._seed = split.x, augment, seed
        self._reader = ThreadPoolExecutor(1) if isinstance(split.x, StreamedSamples) else None
        self._next: tuple[tuple[int, int], Future[NDArray[Any]]] | None = None

    def ahead(self, indices: NDArray[Any], epoch: int, step: int, share: Share = whole) -> None:
        """Begin to read a batch that will be asked for next; samples in memory need no reading."""
        if self._reader is not None:
            self._next = (epoch, step), self._reader.submit(self._made, indices, epoch, step, share)

    def batch(self, indices: NDArray[Any], epoch: int, step: int, share: Share = whole) -> NDArray[Any]:
        """Samples `indices` in the stored type, (n, c, h, w) in shape and, when varied, channels last in memory.

        Each has its own shift in 0 … 2·crop per axis (crop is the middle) and its own mirroring. `share` picks those
        that this process needs; the variation is that of the whole batch.
        """
        ready, self._next = self._next, None
        if ready is not None and ready[0] == (epoch, step):
            return ready[1].result()
        return self._made(indices, epoch, step, share)

    def _made(self, indices: NDArray[Any], epoch: int, step: int, share: Share) -> NDArray[Any]:
        mine = share(np.arange(len(indices)))
        plain = self._x[indices[mine]]
        if self._augment == Augment() or plain.ndim != 4:
            return plain
        dy, dx, mirrored = (each[mine] for each in self.variation(len(indices), epoch, step))
        n, c, h, w = plain.shape
        p = self._augment.crop
        ph, pw = h + 2 * p, w + 2 * p
        padded = np.zeros((n, ph, pw, c), plain.dtype)
        padded[:, p : p + h, p : p + w] = plain.transpose(0, 2, 3, 1)
        rows = dy[:, None] + np.arange(h)
        columns = np.where(mirrored[:, None], np.arange(w)[::-1], np.arange(w)) + dx[:, None]
        at = ((np.arange(n) * ph)[:, None] + rows)[:, :, None] * pw + columns[:, None, :]
        return np.take(padded.reshape(-1, c), at.reshape(-1), axis=0).reshape(n, h, w, c).transpose(0, 3, 1, 2)

    def variation(self, count: int, epoch: int, step: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """(row shift, column shift, mirrored) of each of the `count` samples of a step."""
        rng = np.random.default_rng([self._seed, _AUGMENT, epoch, step])
        dy, dx = rng.integers(0, 2 * self._augment.crop + 1, (2, count))
        mirrored = rng.random(count) < 0.5 if self._augment.mirror else np.zeros(count, bool)
        return dy, dx, mirrored
