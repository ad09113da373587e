"""Weights in the bytes that a page carries: as they are, as float16, or as 8-bit integers with a scale for each row.

A stored array is read back as `scale · number`: float16 with one power of two for the whole array, so that its largest
number is near the largest of float16 and small numbers keep their digits; int8 with the largest of a row over 127.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import frexp
from typing import Any

import numpy as np

WEIGHTS = ("float32", "float16", "int8")
SMALL = 4 << 10
"""Arrays of at most so many bytes stay float32: biases, norms."""
MOST_DEFLATED = 4 << 20
_LARGEST = 14  # the largest number of a float16 array is below 2¹⁴; float16 ends at 2¹⁶


@dataclass(frozen=True)
class StoredArray:
    """An array in the bytes of a page. `at` is the place of its numbers; `scale_at` that of its scales (float32), one
    for each row of `row` numbers; −1 where there are none, and `scale` holds for all.
    """

    kind: str
    at: int
    count: int
    scale: float = 1.0
    row: int = 0
    scale_at: int = -1

    def to_dict(self) -> dict[str, Any]:
        """For the page."""
        return {
            "kind": self.kind,
            "at": self.at,
            "count": self.count,
            "scale": self.scale,
            "row": self.row,
            "scaleAt": self.scale_at,
        }


class PageWeights:
    """All bytes, one array after the other, each from a multiple of 8 on."""

    def __init__(self, weights: str) -> None:
        """`weights`: one of `WEIGHTS`."""
        self.weights = weights
        self.data = bytearray()

    def add(self, array: np.ndarray, rows: int = 0) -> StoredArray:
        """Stores weights in the chosen precision, or as they are where they are few; `rows` of them for int8."""
        array = np.ascontiguousarray(array)
        flat = np.asarray(array, np.float32).reshape(-1)
        whole = np.isfinite(flat).all()
        if self.weights == "float32" or flat.nbytes <= SMALL or not whole:
            return self.exact(flat)
        if self.weights == "int8" and rows:
            return self._int8(flat.reshape(rows, -1))
        scale = 2.0 ** (frexp(float(np.abs(flat).max(initial=0)))[1] - _LARGEST)
        return StoredArray("f2", self._put((flat / np.float32(scale)).astype("<f2").tobytes()), flat.size, scale)

    def exact(self, array: np.ndarray) -> StoredArray:
        """Stores numbers as they are: float32, or integers."""
        array = np.ascontiguousarray(array)
        kind = array.dtype.newbyteorder("<")
        return StoredArray(kind.str[1:], self._put(array.astype(kind).tobytes()), array.size)

    def _int8(self, rows: np.ndarray) -> StoredArray:
        largest = np.abs(rows).max(1, initial=0)
        scales = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype("<f4")
        numbers = np.rint(rows / scales[:, None]).clip(-127, 127).astype("i1")
        at = self._put(numbers.tobytes())
        return StoredArray("i1", at, rows.size, 1.0, rows.shape[1], self._put(scales.tobytes()))

    def _put(self, data: bytes) -> int:
        at = len(self.data)
        self.data += data
        self.data += bytes(-len(self.data) % 8)
        return at


def restored(data: bytes, stored: Mapping[str, Any] | StoredArray) -> np.ndarray:
    """The numbers of a stored array, as the page reads them."""
    s = stored.to_dict() if isinstance(stored, StoredArray) else stored
    found = np.frombuffer(data, f"<{s['kind']}", s["count"], s["at"])
    if s["scaleAt"] >= 0:
        scales = np.frombuffer(data, "<f4", s["count"] // s["row"], s["scaleAt"])
        return (found.reshape(-1, s["row"]) * scales[:, None]).reshape(-1).astype(np.float32)
    return found.astype(np.float32) * np.float32(s["scale"]) if s["kind"] == "f2" else found


def text(data: bytes) -> str:
    """Bytes as text that a page can hold (base64)."""
    return base64.b64encode(data).decode()


def deflated(data: bytes) -> bytes | None:
    """The bytes deflated, as browsers can inflate them (zlib, RFC 1950); None where that saves less than a twentieth,
    or where there are so many that it takes longer than it is worth.
    """
    if len(data) > MOST_DEFLATED:
        return None
    found = zlib.compress(data, 9)
    return found if len(found) < 0.95 * len(data) else None
