"""Limits for picture files: the formats that are opened, by content, and the most pixels. Standard library only.

Pillow would try every format that it knows, and some of them start other programs (Ghostscript for EPS) or use decoders
that have not been reviewed. So every reader of pictures gives `FORMATS` to `PIL.Image.open`.
"""

from __future__ import annotations

import os

from dojang.base.budget import unpacked_limit
from dojang.base.errors import UsageError

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM")
"""Pillow's names of the formats that are read. A JPEG of several pictures ("MPO") counts as JPEG."""

READ = "JPEG, PNG, TIFF, WebP, BMP, GIF or PPM"
"""The same for messages."""

ENVIRONMENT = "DOJANG_MAX_PIXELS"
MAX_PIXELS = 2 * 89_478_485
"""The most pixels of a picture that is decoded, unless `ENVIRONMENT` says otherwise: twice Pillow's warning limit, at
which Pillow raises an error."""
BYTES = 1 << 30
"""The pixels of a filtered picture may take so many bytes (1 GiB), or as many as its file has. The user has named this
picture, so it may be larger than those in a folder of data. `base.budget.ENVIRONMENT` replaces both limits."""

# The first bytes of a file, and the name of its format, for messages about refused files.
_SIGNATURES = (
    (b"%!PS", "EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"%PDF", "PDF"),
    (b"8BPS", "PSD"),
    (b"DDS ", "DDS"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"\x00\x00\x02\x00", "CUR or TGA"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"icns", "ICNS"),
    (b"\x01\xda", "SGI"),
    (b"qoif", "QOI"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\x93NUMPY", "NumPy"),
    (b"PK\x03\x04", "zip"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML or SVG"),
    (b"SIMPLE  =", "FITS"),
    (b"BLP", "BLP"),
    (b"\xd7\xcd\xc6\x9a", "WMF"),
    (b"\x01\x00\x00\x00", "EMF"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
)


def said_format(head: bytes) -> str:
    """The format of a file that begins with `head`, for a message; "" if it is not known.

    >>> said_format(b"%!PS-Adobe-3.0 EPSF-3.0"), said_format(b"hello")
    ('EPS', '')
    """
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return "AVIF" if brand in (b"avif", b"avis") else "HEIC" if brand[:3] in (b"hei", b"mif", b"hev") else "MP4"
    return next((name for start, name in _SIGNATURES if head.startswith(start)), "")


def pixel_limit() -> int:
    """The most pixels of a picture: `MAX_PIXELS`, or what the environment says. Raises `UsageError`."""
    said = os.environ.get(ENVIRONMENT)
    if not said:
        return MAX_PIXELS
    if not (said.isascii() and said.isdigit() and len(said) < 20 and int(said)):
        raise UsageError(f"{ENVIRONMENT}={said[:40]}: give a number of pixels, such as {MAX_PIXELS}")
    return int(said)


def byte_limit(name: str) -> int:
    """The most bytes that the pixels of the picture in the file `name` may take."""
    return unpacked_limit(os.path.getsize(name), times=1, least=BYTES)
