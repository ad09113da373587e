"""Rows of a large deflated strip, unpacked as they are asked for, so that a TIFF of one strip needs no more memory than
its bands. Going back to earlier rows unpacks the strip again from its beginning.
"""

from __future__ import annotations

import zlib
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 20  # bytes that are read, and at most unpacked, at a time


class DeflatedStrip:
    """The rows of one strip at `offset`, `length` bytes long; each row is `row_bytes` long when it is unpacked."""

    def __init__(self, file: BinaryIO, offset: int, length: int, row_bytes: int) -> None:
        """Nothing is read yet."""
        self._file, self._offset, self._length, self.row_bytes = file, offset, length, row_bytes
        self._restart()

    def _restart(self) -> None:
        self._unpacker = zlib.decompressobj()
        self._taken = 0  # bytes of the strip that were read
        self._first = 0  # where in the unpacked strip the buffer begins
        self._buffer = bytearray()

    def rows(self, first: int, last: int) -> bytes:
        """The unpacked rows `first` to `last`. Raises `ValueError` and `zlib.error` for damage."""
        begin, end = first * self.row_bytes, last * self.row_bytes
        if begin < self._first:
            self._restart()
        self._forget(begin)
        while self._first + len(self._buffer) < end:
            waiting = self._unpacker.unconsumed_tail
            if not waiting:
                count = min(BLOCK, self._length - self._taken)
                self._file.seek(self._offset + self._taken)
                waiting = self._file.read(count)
                self._taken += len(waiting)
            more = self._unpacker.decompress(waiting, BLOCK)
            if not more and (self._unpacker.eof or not waiting):
                raise ValueError("pixels are missing at its end")
            self._buffer += more
            self._forget(begin)
        return bytes(self._buffer[: end - begin])

    def _forget(self, begin: int) -> None:
        """Drops what lies before `begin`, as far as it is unpacked."""
        gone = min(begin - self._first, len(self._buffer))
        if gone > 0:
            del self._buffer[:gone]
            self._first += gone


def samples(raw: bytes, shape: tuple[int, ...], dtype: np.dtype, predictor: int) -> NDArray:
    """The samples (rows, w, together) of unpacked rows, in this machine's byte order; predictor 2 is undone (TIFF 6.0,
    section 14: each sample is stored as the difference to that of the pixel on its left).
    """
    values = np.frombuffer(raw, dtype).reshape(shape).astype(dtype.newbyteorder("="))
    if predictor == 2:
        whole = values.view(f"u{dtype.itemsize}")
        np.cumsum(whole, axis=1, dtype=whole.dtype, out=whole)
    return values
