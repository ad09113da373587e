"""Memory for large results, which is used again after a result is deleted.

The system zeroes the pages of new memory when they are first touched, which for a large picture takes as long as
filtering it. The C library keeps small blocks for the next call, but returns blocks above 32 MiB to the system at once.
This module keeps the last one or two of those, at most `MOST_BYTES`. While they wait, they are marked with `MADV_FREE`,
so that a system that runs short of memory can take their pages.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
from math import prod

import numpy as np
from numpy.typing import NDArray

LEAST_BYTES = 32 << 20  # the largest block that glibc may keep
MOST_BYTES = 512 << 20  # of all waiting blocks

# Shared memory, the default of `mmap`, has neither huge pages nor MADV_FREE.
_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}

_waiting: list[mmap.mmap] = []


def address_of(array: NDArray) -> int:
    """The address of an array's first element, read where every C extension reads it: `data` is the first field of
    `PyArrayObject_fields`, part of NumPy's ABI. `__array_interface__` takes 1 microsecond, this a fifth of that.
    """
    return _word.from_address(id(array) + _HEAD).value


def _by_interface(array: NDArray) -> int:
    return array.__array_interface__["data"][0]


_word, _HEAD = ctypes.c_size_t, object.__basicsize__
_probe = np.zeros(3, np.uint8)
if sys.implementation.name != "cpython" or any(address_of(a) != _by_interface(a) for a in (_probe, _probe[1:])):
    address_of = _by_interface


class _Lease:
    """Memory of one array and its views; after the last of them is deleted, it waits for the next array."""

    def __init__(self, memory: mmap.mmap, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._memory = memory
        address = np.frombuffer(memory, np.uint8).ctypes.data
        self.__array_interface__ = {"data": (address, False), "shape": shape, "typestr": dtype.str, "version": 3}

    def __del__(self) -> None:
        if not sys.is_finalizing():
            give_back(self._memory)


def empty(shape: tuple[int, ...], dtype: np.dtype) -> NDArray:
    """An uninitialised array, like `numpy.empty`; a large one does not own its memory (`flags.owndata`)."""
    count = prod(shape) * dtype.itemsize
    if not LEAST_BYTES < count <= MOST_BYTES:
        return np.empty(shape, dtype)
    memory = None
    for i, old in enumerate(_waiting):
        if count <= len(old) <= 2 * count:
            # Another thread may have taken it: then this one allocates new memory.
            with contextlib.suppress(IndexError):
                memory = _waiting.pop(i)
            break
    if memory is None or len(memory) < count:
        memory = mmap.mmap(-1, count, **_PRIVATE)
        _advise(memory, "MADV_HUGEPAGE")
    return np.asarray(_Lease(memory, shape, dtype))


def give_back(memory: mmap.mmap) -> None:
    """Keeps memory for later; releases the oldest blocks if there are too many."""
    _advise(memory, "MADV_FREE")
    _waiting.append(memory)
    while len(_waiting) > 2 or sum(map(len, _waiting)) > MOST_BYTES:
        _waiting.pop(0)


def _advise(memory: mmap.mmap, what: str) -> None:
    advice = getattr(mmap, what, None)
    if advice is not None and hasattr(memory, "madvise"):
        with contextlib.suppress(OSError):  # a kernel that does not support it
            memory.madvise(advice)
