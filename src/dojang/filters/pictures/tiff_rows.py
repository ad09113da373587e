"""The rows of a TIFF, read by tifffile in bands, so that a large picture needs no memory for the whole."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dojang.base.budget import ENVIRONMENT
from dojang.base.errors import FileError, MissingPart, UnsupportedError
from dojang.base.pictures import byte_limit
from dojang.filters.pictures.opening import shortened
from dojang.filters.pictures.strips import DeflatedStrip, samples
from dojang.filters.pictures.tiff import Layout
from dojang.filters.pictures.tiff_codecs import missing_codec, tifffile_package

STREAMED_BYTES = 1 << 26
"""Files of one deflated strip (or one for each plane) that unpack to more are unpacked row by row."""
# For tifffile's own decoders: the module and its incremental decoder, and the largest factor by which a strip can grow.
_UNPACKERS = {
    8: ("zlib", "decompressobj", 1032),
    32946: ("zlib", "decompressobj", 1032),
    34925: ("lzma", "LZMADecompressor", 1 << 13),
    50000: ("compression.zstd", "ZstdDecompressor", 1 << 15),
}


class Rows:
    """The rows of a TIFF's only page, by tifffile: memory-mapped if they are not compressed, else by strips or tiles.

    `read(first, last)` gives pixels. The last decoded strips are kept, so that they are not decoded for each band.
    """

    def __init__(self, name: str, layout: Layout) -> None:
        """Opens the file. Raises `FileError`, `MissingPart` and `UnsupportedError`."""
        try:
            self._tifffile = tifffile_package()
        except ImportError:
            raise MissingPart(f"TIFF of {said(layout)} needs tifffile; pip install tifffile") from None
        self.name, self.layout = name, layout
        with _Reading(name, self._tifffile):
            self._file = self._tifffile.TiffFile(name)
            try:
                self._prepare()
            except BaseException:
                self._file.close()
                raise

    def _prepare(self) -> None:
        page = self._page = self._file.pages[0]
        missing = missing_codec(self._tifffile, int(page.compression), int(page.predictor))
        if missing:
            raise MissingPart(f"{self.name}: {missing} needs imagecodecs; pip install imagecodecs")
        planes, depth, height, width, together = page.shaped
        if depth != 1 or (height, width) != (self.layout.height, self.layout.width):
            raise UnsupportedError(f"{self.name}: a volume or a page whose sizes disagree; store it as .npy")
        self._planes, self._together = planes, together
        ends = [a + n for a, n in zip(page.dataoffsets, page.databytecounts, strict=False)]
        if not ends or max(ends) > self._file.filehandle.size:
            raise ValueError("pixels are missing at its end")
        self._rows = page.tilelength if page.is_tiled else min(page.rowsperstrip, height)
        self._columns = page.tilewidth if page.is_tiled else width
        self._across, self._down = -(-width // self._columns), -(-height // self._rows)
        if len(page.dataoffsets) < self._across * self._down * planes:
            raise ValueError("pixels are missing at its end")
        self._map: NDArray | None = None
        dtype = np.dtype(page.dtype).newbyteorder(self._file.byteorder)
        in_order = all(a == b for a, b in zip(ends, page.dataoffsets[1:], strict=False))
        plain = page.compression == 1 and not page.is_tiled and page.fillorder == 1 and page.predictor == 1
        whole = planes * height * width * together * dtype.itemsize
        if plain and in_order and self.layout.bits >= 8 and sum(page.databytecounts) >= whole:
            shape = (planes, height, width, together)
            self._map = np.memmap(self.name, dtype, "r", page.dataoffsets[0], shape)
            self._strips = []
            return
        need = self._rows * self._across * self._columns * planes * together * dtype.itemsize
        if need > byte_limit(self.name):
            raise FileError(
                f"{self.name}: its strips are unpacked whole, and one of them takes {need:,} bytes; store it in tiles "
                f"or smaller strips, or raise the limit with {ENVIRONMENT}"
            )
        self._held: tuple[int, NDArray] | None = None
        deflated = page.compression in (8, 32946) and page.predictor in (1, 2) and page.fillorder == 1
        self._strips: list[DeflatedStrip] = []
        if deflated and not page.is_tiled and self._rows == height and need > STREAMED_BYTES:
            row_bytes = width * together * dtype.itemsize
            places = zip(page.dataoffsets[:planes], page.databytecounts[:planes], strict=True)
            self._strips = [DeflatedStrip(self._file.filehandle, at, length, row_bytes) for at, length in places]

    def _streamed(self, first: int, last: int) -> NDArray:
        """Rows of large deflated strips, one for each plane: (planes, rows, w, samples together)."""
        dtype = np.dtype(self._page.dtype).newbyteorder(self._file.byteorder)
        shape = (last - first, self.layout.width, self._together)
        return np.stack([samples(s.rows(first, last), shape, dtype, self.layout.predictor) for s in self._strips])

    def read(self, first: int, last: int) -> NDArray:
        """Rows `first` to `last` as pixels, in the stored orientation."""
        with _Reading(self.name, self._tifffile):
            if self._map is not None:
                raw = np.asarray(self._map[:, first:last])
            elif self._strips:
                raw = self._streamed(first, last)
            else:
                raw = np.empty(
                    (self._planes, last - first, self.layout.width, self._together), np.dtype(self._page.dtype)
                )
                for line in range(first // self._rows, -(-last // self._rows)):
                    rows, at = self._line(line), line * self._rows
                    top, end = max(first, at), min(last, at + rows.shape[1])
                    raw[:, top - first : end - first] = rows[:, top - at : end - at]
        joined = raw[0] if self._planes == 1 else np.ascontiguousarray(np.moveaxis(raw[..., 0], 0, -1))
        return self.layout.meant(joined)

    def _line(self, line: int) -> NDArray:
        """All strips or tiles of one height, decoded: (planes, rows, w, samples together)."""
        if self._held is not None and self._held[0] == line:
            return self._held[1]
        self._held = None
        page, height, width = self._page, self.layout.height, self.layout.width
        rows = min(self._rows, height - line * self._rows)
        found = np.zeros((self._planes, rows, width, self._together), np.dtype(page.dtype))
        for plane in range(self._planes):
            for column in range(self._across):
                index = (plane * self._down + line) * self._across + column
                length = page.databytecounts[index]
                if not length:
                    continue
                self._file.filehandle.seek(page.dataoffsets[index])
                data = self._file.filehandle.read(length)
                self._check_unpacked(data)
                piece, _, _ = page.decode(data, index, jpegtables=page.jpegtables)
                if piece is None:
                    continue
                at = column * self._columns
                piece = piece[0, :rows, : width - at]
                found[plane, : piece.shape[0], at : at + piece.shape[1]] = piece
        self._held = (line, found)
        return found

    def _check_unpacked(self, data: bytes) -> None:
        """Raises `FileError` if a strip or tile unpacks to more than the limit, whatever its header says.

        The decoders of imagecodecs stop at the expected size; those of tifffile, used without imagecodecs, do not.
        Strips that cannot grow so far are not checked.
        """
        codec = self._page.compression
        if codec not in _UNPACKERS or self._tifffile.TIFF.DECOMPRESSORS[codec].__module__ != "tifffile._imagecodecs":
            return
        module, name, times = _UNPACKERS[codec]
        most = byte_limit(self.name)
        if len(data) * times <= most:
            return
        make = getattr(importlib.import_module(module), name)
        if _unpacked(make, data, most, module != "zlib") > most:
            raise FileError(
                f"{self.name}: one of its strips or tiles unpacks to more than {most:,} bytes; store it in smaller "
                f"ones, or raise the limit with {ENVIRONMENT}"
            )

    def close(self) -> None:
        """Closes the file."""
        self._map = self._held = None
        self._strips = []
        self._file.close()


def _unpacked(make: Callable[[], Any], data: bytes, most: int, several: bool) -> int:
    """How many bytes `data` unpacks to, counted until there are more than `most`, or to where it is damaged.

    `several` streams may follow each other, as decoders of LZMA and Zstandard take them.
    """
    unpacker, taken = make(), 0
    for at in range(0, len(data), 1024):
        part = data[at : at + 1024]
        while part and taken <= most:
            if unpacker.eof:
                if not several:
                    return taken
                unpacker = make()
            try:
                taken += len(unpacker.decompress(part))
            except Exception:  # libraries raise various exceptions; the decoder will find the same damage and report it
                return taken
            part = unpacker.unused_data if unpacker.eof else b""
        if taken > most:
            break
    return taken


class _Reading:
    """Turns exceptions of tifffile and its codecs into a `FileError`, except dojang's own errors."""

    def __init__(self, name: str, tifffile: Any) -> None:
        self.name, self.tifffile = name, tifffile

    def __enter__(self) -> None:
        """Nothing to begin."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Raises a `FileError` for a decoder's exception."""
        if isinstance(error, MemoryError):
            raise FileError(f"{self.name}: there is not enough memory to decode it; store it in tiles or strips")
        if isinstance(error, OSError) and error.strerror:
            raise FileError(f"{self.name}: {error.strerror}") from None
        if isinstance(error, Exception) and not isinstance(error, (FileError, MissingPart, UnsupportedError)):
            raise FileError(f"{self.name}: damaged or truncated picture ({shortened(error)})") from None


def said(layout: Layout) -> str:
    """The layout in a few words, for messages."""
    kind = {"u": "uint", "f": "float"}.get(layout.kind, layout.kind)
    return f"{layout.samples} samples of {kind}{layout.bits}"
