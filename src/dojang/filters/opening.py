"""Picture files opened and decoded by Pillow alone: a new process decodes while NumPy and the rest still load."""

from __future__ import annotations

import struct
import threading
import warnings
import zlib
from os import PathLike, fspath

from PIL import Image, UnidentifiedImageError

from dojang.base.errors import FileError

MAX_PIXELS = 2 * 89_478_485  # twice Pillow's warning limit: where Pillow itself refuses to go on
BLOCK = 1 << 24  # bytes of a file that are decoded at a time
DAMAGE = (OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, struct.error, zlib.error)
"""What Pillow may raise for a file that is damaged."""
_lock = threading.Lock()  # Pillow's pixel limit and its block size are one global number each


def opened(name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in a file, not decoded yet. Raises `FileError`."""
    try:
        with _lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, seen to here, and of damage, an error anyway
            kept, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                image = Image.open(name)
            finally:
                Image.MAX_IMAGE_PIXELS = kept
    except UnidentifiedImageError:
        raise FileError(f"{name}: no picture that can be read; use JPEG, PNG, TIFF or WebP") from None
    except DAMAGE as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else None
        raise (FileError(f"{name}: {why}") if why else damaged(name, error)) from None
    if hasattr(image, "decodermaxblock"):
        # Between two blocks, of 64 KB as Pillow would have it, the interpreter's lock is taken again: where other
        # threads are busy, decoding then waits for them a hundred times.
        image.decodermaxblock = BLOCK
    if image.width * image.height > max_pixels:
        size = f"{image.width}x{image.height}"
        image.close()
        raise FileError(f"{name}: {size} pixels are more than {max_pixels:,}: a decompression bomb? raise max_pixels")
    return image


def first_line(error: BaseException) -> str:
    """What an exception says, short."""
    return str(error).partition("\n")[0][:160] or type(error).__name__


def damaged(name: str, error: BaseException) -> FileError:
    """What to raise for a file whose decoding raised one of `DAMAGE`."""
    return FileError(f"{name}: damaged or truncated picture ({first_line(error)})")


def begun(path: str | PathLike[str]) -> Image.Image:
    """The picture in a file, opened, and decoded already if it is an RGB JPEG. Raises `FileError`."""
    name = fspath(path)
    image = opened(name)
    try:
        if image.format == "JPEG" and image.mode == "RGB":
            load(image)
    except DAMAGE as error:
        image.close()
        raise damaged(name, error) from None
    return image


def load(image: Image.Image) -> None:
    """Decodes an RGB picture into one piece of memory, where this Pillow can lend it out.

    Pillow allocates large pictures in pieces unless told otherwise; a copy of them takes as long as filtering.
    """
    size = image.width * image.height * 4
    if hasattr(image, "__arrow_c_array__") and getattr(image, "_im", 0) is None and size < 1 << 31:
        with _lock:
            kept = Image.core.get_block_size()
            try:
                Image.core.set_block_size(max(kept, -(-size // 4096) * 4096))
                image.im = Image.core.new(image.mode, image.size)
            finally:
                Image.core.set_block_size(kept)
    image.load()
