"""Netpbm pictures that Pillow would truncate to 8 bits or refuse: PGM and PPM of up to 16 bits, and PFM (floats).

Whole numbers up to `maxval` are spread over 16 bits: v · 65535 / maxval, rounded. PFM keeps its values; its rows are
stored from the bottom. Sources: the manual pages pgm(5) and ppm(5); Debevec, the PFM format.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dojang.base.errors import FileError
from dojang.base.reading import opened

_GAP = rb"(?:[ \t\r\n\v\f]|#[^\n]{0,4096}\n)+"
_DEEP = re.compile(rb"P([2356])" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})(?:#[^\n]*\n)?\s")
_FLOAT = re.compile(rb"P([Ff])\s+(\d{1,9})\s+(\d{1,9})\s+([-+]?[0-9.eE+-]{1,40})\r?\n")


def is_deep(head: bytes) -> bool:
    """Whether a file that begins so is a Netpbm picture of more than 8 bits."""
    found = _DEEP.match(head)
    return (found is not None and int(found[4]) > 255) or _FLOAT.match(head) is not None


def read(name: str, check: Callable[[int, int, int], None]) -> NDArray:
    """Pixels (h, w) or (h, w, 3), uint16 or float32. `check` as in `radiance.read`. Raises `FileError`."""
    with opened(name, "a picture") as file:
        head = file.read(1 << 16)
        found = _FLOAT.match(head) or _DEEP.match(head)
        assert found is not None  # `is_deep`
        kind, width, height = found[1], int(found[2]), int(found[3])
        channels = 3 if kind in b"36F" else 1
        count = width * height * channels
        if not count:
            raise FileError(f"{name}: damaged or truncated picture ({width}x{height} pixels)")
        real = kind in b"Ff"
        check(width, height, count * (4 if real else 2))
        file.seek(found.end())
        if kind in b"23":
            words = file.read(16 * count).split(None, count)[:count]
            values = np.array([int(w) if w.isdigit() and len(w) < 6 else -1 for w in words], np.int64)
        else:
            size = 4 if real else 2
            data = file.read(size * count)
            order = "<" if real and found[4].startswith(b"-") else ">"
            values = np.frombuffer(data[: len(data) // size * size], f"{order}{'f4' if real else 'u2'}")
    if values.size < count:
        raise FileError(f"{name}: damaged or truncated picture ({values.size:,} of {count:,} values)")
    shape = (height, width, channels) if channels > 1 else (height, width)
    if real:
        return np.ascontiguousarray(values.reshape(shape)[::-1].astype(np.float32))
    top = int(found[4])
    if top > 65535 or values.min() < 0 or values.max() > top:
        raise FileError(f"{name}: damaged picture (values outside 0 to {min(top, 65535)})")
    spread = values if top == 65535 else (values.astype(np.int64) * 131070 + top) // (2 * top)
    return spread.reshape(shape).astype(np.uint16)
