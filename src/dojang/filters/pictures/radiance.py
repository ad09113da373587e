"""Radiance pictures (.hdr): colours of any brightness, three mantissas of 8 bits with one exponent for each pixel.

Value = mantissa · 2^(exponent − 136), as in OpenCV. Rows from top to bottom, plain or in run lengths of 1991; other
orders and XYZ are refused by name. Source: Ward, Real Pixels, Graphics Gems II, 1991; Radiance's description of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dojang.base.errors import FileError, UnsupportedError
from dojang.base.reading import opened

HEAD = b"#?"
MOST_HEADER = 1 << 16
_WRITTEN = (b"FORMAT=",)  # lines of the header that are written anew


def read(name: str, check: Callable[[int, int, int], None]) -> tuple[NDArray[np.float32], tuple[bytes, ...]]:
    """Pixels (h, w, 3) and the other lines of the header. `check(width, height, bytes)` may refuse the size before it
    is decoded. Raises `FileError` and `UnsupportedError`.
    """
    with opened(name, "a picture") as file:
        head = file.read(MOST_HEADER)
        found = re.match(rb"(#\?[^\n]*\n(?:[^\n]*\n)*?)\n([^\n]{1,99})\n", head)
        if found is None:
            raise FileError(f"{name}: damaged or truncated picture (its Radiance header has no end)")
        lines = tuple(line for line in found[1].split(b"\n")[1:] if line)
        form = next((line[7:].strip() for line in lines if line.startswith(b"FORMAT=")), b"32-bit_rle_rgbe")
        if form != b"32-bit_rle_rgbe":
            raise UnsupportedError(f"{name}: Radiance pixels of {form[:40].decode('latin-1')}; convert it to RGBE")
        size = re.fullmatch(rb"-Y +(\d{1,9}) +\+X +(\d{1,9}) *", found[2])
        if size is None:
            said = found[2][:40].decode("latin-1")
            raise UnsupportedError(f"{name}: Radiance rows in the order {said!r}; store them as -Y height +X width")
        height, width = int(size[1]), int(size[2])
        if not height or not width:
            raise FileError(f"{name}: damaged or truncated picture ({width}x{height} pixels)")
        check(width, height, width * height * 12)
        file.seek(found.end())
        data = file.read(5 * width * height + 4 * height)  # run lengths are at most 1/64 longer than the pixels
    raw = np.empty((height, width, 4), np.uint8)
    at = 0
    for y in range(height):
        if 8 <= width < 1 << 15 and data[at : at + 2] == b"\2\2" and at + 3 < len(data) and data[at + 2] < 128:
            at = _row(name, data, at + 4, width, raw[y])
            continue
        row = data[at : at + 4 * width]
        if len(row) < 4 * width:
            raise FileError(f"{name}: damaged or truncated picture (row {y} of {height} is cut off)")
        raw[y] = np.frombuffer(row, np.uint8).reshape(width, 4)
        if (raw[y, :, :3] == 1).all(axis=-1).any():
            raise UnsupportedError(f"{name}: Radiance run lengths from before 1991; save it again with another program")
        at += 4 * width
    exponent = raw[..., 3:].astype(np.int32) - 136
    pixels = np.ldexp(raw[..., :3].astype(np.float32), exponent)
    pixels[raw[..., 3] == 0] = 0
    return pixels, tuple(line for line in lines if not line.startswith(_WRITTEN))


def _row(name: str, data: bytes, at: int, width: int, row: NDArray[np.uint8]) -> int:
    """Decodes the four run-length coded channels of a row; returns where the next row begins."""
    for channel in range(4):
        parts, have = [], 0
        while have < width:
            count = data[at] if at < len(data) else 0
            if count > 128:
                count -= 128
                part = data[at + 1 : at + 2] * count
                at += 2
            else:
                part = data[at + 1 : at + 1 + count]
                at += 1 + count
            have += count
            if not count or len(part) < count or have > width:
                raise FileError(f"{name}: damaged or truncated picture (its run lengths do not fit)")
            parts.append(part)
        row[:, channel] = np.frombuffer(b"".join(parts), np.uint8)
    return at


def coded(pixels: NDArray, lines: tuple[bytes, ...] = ()) -> tuple[bytes, tuple[str, ...]]:
    """A file of pixels (h, w, 3), rows not compressed, and the names of what it cannot hold: values below 0 and NaN
    become 0, values above 2^126 become that.
    """
    height, width, _ = pixels.shape
    lost = []
    if np.isnan(pixels).any():
        lost.append("values that are no numbers")
    if (pixels < 0).any():
        lost.append("negative values")
    held = np.where(pixels > 0, np.minimum(pixels, 2.0**126), 0).astype(np.float64)
    mantissa, exponent = np.frexp(held.max(axis=-1, keepdims=True))
    scaled = np.rint(np.ldexp(held, 8 - exponent))
    over = scaled.max(axis=-1, keepdims=True) > 255  # rounded up to the next power of two
    exponent = exponent + over
    scaled = np.where(over, np.rint(np.ldexp(held, 8 - exponent)), scaled)
    raw = np.concatenate([scaled, exponent + 128.0], axis=-1)
    raw[(exponent[..., 0] < -127) | (mantissa[..., 0] == 0)] = 0
    head = b"#?RADIANCE\n" + b"".join(line + b"\n" for line in lines) + b"FORMAT=32-bit_rle_rgbe\n\n"
    return head + b"-Y %d +X %d\n" % (height, width) + raw.astype(np.uint8).tobytes(), tuple(lost)
