"""Memory for large results, used again when a result is gone.

Memory that the system has just handed out is zeroed page by page at the first touch, which for a large picture takes
as long as filtering it. The C library keeps small blocks for the next call; blocks above 32 MiB it gives back at once.
Those are kept here: the last one or two, at most `MOST_BYTES`. While they wait they are marked as free to take
(`MADV_FREE`): a system that runs short of memory takes the pages without asking.
"""

from __future__ import annotations

import contextlib
import mmap
import sys
from math import prod

import numpy as np
from numpy.typing import NDArray

LEAST_BYTES = 32 << 20  # glibc's largest threshold for memory that it does not keep
MOST_BYTES = 512 << 20  # waiting, in all

# Shared memory, which `mmap` makes unless told otherwise, has neither huge pages nor MADV_FREE.
_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}

_waiting: list[mmap.mmap] = []


class _Lease:
    """Memory lent to one array and its views; when the last of them is gone, it waits for the next."""

    def __init__(self, memory: mmap.mmap, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._memory = memory
        address = np.frombuffer(memory, np.uint8).ctypes.data
        self.__array_interface__ = {"data": (address, False), "shape": shape, "typestr": dtype.str, "version": 3}

    def __del__(self) -> None:
        if not sys.is_finalizing():
            give_back(self._memory)


def empty(shape: tuple[int, ...], dtype: np.dtype) -> NDArray:
    """An array of any content, like `numpy.empty`; a large one does not own its memory (`flags.owndata`)."""
    count = prod(shape) * dtype.itemsize
    if not LEAST_BYTES < count <= MOST_BYTES:
        return np.empty(shape, dtype)
    memory = None
    for i, old in enumerate(_waiting):
        if count <= len(old) <= 2 * count:
            # Another thread may have been quicker: then this one makes its own.
            with contextlib.suppress(IndexError):
                memory = _waiting.pop(i)
            break
    if memory is None or len(memory) < count:
        memory = mmap.mmap(-1, count, **_PRIVATE)
        _advise(memory, "MADV_HUGEPAGE")
    return np.asarray(_Lease(memory, shape, dtype))


def give_back(memory: mmap.mmap) -> None:
    """Lets memory wait; what is too much is released, the oldest first."""
    _advise(memory, "MADV_FREE")
    _waiting.append(memory)
    while len(_waiting) > 2 or sum(map(len, _waiting)) > MOST_BYTES:
        _waiting.pop(0)


def _advise(memory: mmap.mmap, what: str) -> None:
    advice = getattr(mmap, what, None)
    if advice is not None and hasattr(memory, "madvise"):
        with contextlib.suppress(OSError):  # a kernel without it
            memory.madvise(advice)
