"""Samples that are larger than memory: an array whose rows are read when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BLOCK_BYTES = 1 << 22
"""Bytes of stored samples that are looked at together, where a look at all of them would copy the data."""

RESIDENT = 0.25
"""Share of the machine's memory up to which samples are kept in memory. They are there twice while a batch is made."""


class StreamedSamples:
    """Samples (n, c, …) that stay where they are stored: as much of an array as training needs.

    `x[slice or indices]` reads these rows into memory; `view` is another one of some rows and reads nothing.
    """

    def __init__(
        self,
        read: Callable[[Array], Array],
        shape: Sequence[int],
        dtype: Any,
        digest: Callable[[Array], bytes] | None = None,
        rows: Array | None = None,
    ) -> None:
        """`read` gives the samples at some rows, in their order; `digest` the hash of what is stored there."""
        self._read, self._digest = read, digest
        self._rows = np.arange(shape[0]) if rows is None else rows
        self.shape, self.dtype = (len(self._rows), *shape[1:]), np.dtype(dtype)

    def __len__(self) -> int:
        """Number of samples."""
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Number of axes, that of the samples among them."""
        return len(self.shape)

    def __getitem__(self, at: Any) -> Array:
        """The samples at a slice or at indices, in memory."""
        return self._read(self._rows[at])

    def view(self, at: Any) -> StreamedSamples:
        """The samples at a slice or at indices, not read."""
        return StreamedSamples(self._read, self.shape, self.dtype, self._digest, self._rows[at])

    def digest(self) -> bytes:
        """A hash of the samples' content, in their order."""
        if self._digest is not None:
            return self._digest(self._rows)
        found = sha256()
        for block in blocks_of(self):
            found.update(np.ascontiguousarray(block).data)
        return found.digest()


def some_of(x: Any, at: Any) -> Any:
    """The samples at a slice or at indices; of a `StreamedSamples` array nothing is read."""
    return x.view(at) if isinstance(x, StreamedSamples) else x[at]


def blocks_of(x: Any) -> Iterator[Array]:
    """The samples in blocks of about `BLOCK_BYTES`."""
    rows = max(1, BLOCK_BYTES // max(1, prod(x.shape[1:]) * x.dtype.itemsize))
    for start in range(0, len(x), rows):
        yield x[start : start + rows]


def fits(sample_bytes: int, samples: int) -> bool:
    """Whether so many samples may be kept in memory: see `RESIDENT`."""
    return sample_bytes * samples <= RESIDENT * memory_bytes()


def memory_bytes() -> int:
    """Memory of this machine, or of the part of it that this process may use; 16 GiB where it is not known."""
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 34
    for place in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(place) as file:
                have = min(have, int(file.read()))
        except (OSError, ValueError):
            continue
    return have
