"""Matrices as heat maps: a PNG inside the page, written with the standard library."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from dojang.report.markup import escape

LEAST_SIDE = 256
"""Pixels: small matrices are drawn with larger squares, so that a page shows them without blur."""

COLOURS = ((0, (13, 17, 43)), (64, (87, 16, 110)), (128, (188, 55, 84)), (192, (249, 142, 9)), (255, (252, 255, 164)))
"""Strength 0 … 255 to red, green, blue: dark to light in even steps of lightness, and distinct in grey, too."""

STYLE = (
    "<style>.maps{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:1.2rem}"
    ".maps figure{margin:0}.maps img{width:100%;height:auto;display:block;image-rendering:pixelated}"
    ".maps img.strip{display:inline-block;width:8rem;height:.7rem;vertical-align:middle}</style>"
)


def heat_map(matrix: Sequence[Sequence[float]] | Any, top: float = 1.0) -> bytes:
    """A PNG with one square per entry of a matrix (rows, columns): black at 0, light at `top` and above, by |entry|."""
    rows, columns = len(matrix), len(matrix[0])
    zoom = max(1, -(-LEAST_SIDE // max(rows, columns)))
    scale = 255 / top
    lines = bytearray()
    for row in matrix:
        line = bytes(min(255, int(abs(v) * scale + 0.5)) for v in row for _ in range(zoom))
        lines += (b"\0" + line) * zoom
    palette = b"".join(bytes(_colour(i)) for i in range(256))
    header = struct.pack(">IIBBBBB", columns * zoom, rows * zoom, 8, 3, 0, 0, 0)
    chunks = (b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(bytes(lines), 9)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def heat_figure(matrix: Sequence[Sequence[float]] | Any, title: str, said: str) -> str:
    """The map as a figure of a page, with its title and a description."""
    picture = base64.b64encode(heat_map(matrix)).decode()
    size = f"{len(matrix)} rows, {len(matrix[0])} columns"
    return (
        f'<figure><img alt="{escape(f"{title}: {size}. {said}")}" src="data:image/png;base64,{picture}">'
        f"<figcaption><b>{escape(title)}</b><br>{escape(said)} {size}.<br>{_scale()}</figcaption></figure>"
    )


def _scale() -> str:
    """The colours from 0 to 1, with their numbers."""
    strip = base64.b64encode(heat_map([[i / 63 for i in range(64)]])).decode()
    return f'0 <img class="strip" alt="dark is 0, light is 1" src="data:image/png;base64,{strip}"> 1'


def maps(figures: Sequence[str]) -> str:
    """Figures beside each other, as many in a row as fit."""
    return f'{STYLE}<div class="maps">{"".join(figures)}</div>' if figures else ""


def _colour(strength: int) -> tuple[int, ...]:
    """Between the two nearest of `COLOURS`, in a straight line."""
    (a, low), (b, high) = next(pair for pair in pairwise(COLOURS) if pair[1][0] >= strength)
    share = (strength - a) / (b - a)
    return tuple(round(p + share * (q - p)) for p, q in zip(low, high, strict=True))
