"""The chunks of a PNG file other than its pixels: read from one file and written to another. Source: PNG, third
edition, W3C."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MOST = 1 << 24  # the most bytes of one chunk, and of all chunks that are kept
# What a filtered picture says as well as the original: colours, places, words. pHYs is kept as it is written there.
KEPT = frozenset({b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"pHYs", b"tEXt", b"zTXt", b"iTXt", b"tIME"})
# Written again, or meaningless for the new pixels: palette, key, background, significant bits.
ANEW = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"bKGD", b"hIST", b"sPLT", b"sBIT", b"iCCP", b"eXIf",
                  b"acTL", b"fcTL", b"fdAT"})  # fmt: skip
_XMP = b"XML:com.adobe.xmp\0"


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk: its four letters and its content."""

    kind: bytes
    data: bytes

    @property
    def is_xmp(self) -> bool:
        """Whether it is a packet of XMP."""
        return self.kind == b"iTXt" and self.data.startswith(_XMP)

    @property
    def said(self) -> str:
        """Its name, for messages."""
        name = self.kind.decode("latin-1")
        if self.kind in (b"tEXt", b"zTXt", b"iTXt"):
            return f"{name} {self.data[:79].partition(bytes(1))[0].decode('latin-1')}"
        return name


def chunks_of(name: str) -> tuple[tuple[Chunk, ...], list[str]]:
    """The chunks of a file that are kept, and the names of those that are lost."""
    kept: list[Chunk] = []
    dropped: list[str] = []
    room = MOST
    with open(name, "rb") as file:
        if file.read(8) != SIGNATURE:
            return (), []
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"IEND":
                break
            if kind in KEPT and length <= room:
                data = file.read(length)
                check = file.read(4)
                if len(data) == length and check == struct.pack(">I", zlib.crc32(kind + data)):
                    kept.append(Chunk(kind, data))
                    room -= length
                else:
                    dropped.append(f"{kind.decode('latin-1')} (damaged)")
                continue
            if kind not in ANEW:
                dropped.append(kind.decode("latin-1"))
            file.seek(length + 4, 1)
    return tuple(kept), sorted(set(dropped))


def written(chunk: Chunk) -> bytes:
    """The bytes of a chunk in a file."""
    return (
        struct.pack(">I", len(chunk.data))
        + chunk.kind
        + chunk.data
        + struct.pack(">I", zlib.crc32(chunk.kind + chunk.data))
    )


@contextmanager
def with_chunks(file: BinaryIO, chunks: tuple[Chunk, ...]) -> Iterator[BinaryIO]:
    """A stream to write a PNG to; it is written to `file` with the chunks inserted after its first one."""
    inside = io.BytesIO()
    yield inside
    whole = inside.getbuffer()
    first = 8 + 25  # signature and IHDR
    file.write(whole[:first])
    for chunk in chunks:
        file.write(written(chunk))
    file.write(whole[first:])
