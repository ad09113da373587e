"""Opens and decodes picture files with Pillow alone, so that a new process can decode while it imports NumPy."""

from __future__ import annotations

import contextlib
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fspath

from PIL import Image, UnidentifiedImageError

from dojang.base.errors import DojangError, FileError, UnsupportedError
from dojang.base.pictures import ENVIRONMENT, FORMATS, READ, pixel_limit, said_format
from dojang.base.reading import check_regular
from dojang.base.showing import first_line

BLOCK = 1 << 24  # how many bytes of a file are decoded at a time
DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, AttributeError, OverflowError,
    ZeroDivisionError, AssertionError, RuntimeError, struct.error, zlib.error, MemoryError,
)  # fmt: skip
"""The exceptions of Pillow for damaged files, missing codecs, and too little memory."""
_lock = threading.Lock()  # Pillow's pixel limit and block size are global variables


def opened(name: str, max_pixels: int | None = None) -> Image.Image:
    """The picture in a file, not decoded yet, if its content is one of `base.pictures.FORMATS`. Raises `FileError`.

    `max_pixels` defaults to `base.pictures.pixel_limit()`.
    """
    most = pixel_limit() if max_pixels is None else max_pixels
    check_regular(name, "a picture")
    try:
        with _lock, warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # about sizes, which are checked here, and about damage, which is an error anyway
            kept, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                image = Image.open(name, formats=FORMATS)
            finally:
                Image.MAX_IMAGE_PIXELS = kept
    except UnidentifiedImageError:
        raise _unknown(name) from None
    except DAMAGE as error:
        raise damaged(name, error) from None
    if hasattr(image, "decodermaxblock"):
        # Between two blocks, of 64 KB as Pillow would have it, the interpreter's lock is taken again: where other
        # threads are busy, decoding then waits for them a hundred times.
        image.decodermaxblock = BLOCK
    if image.width * image.height > most:
        size = f"{image.width}x{image.height}"
        image.close()
        raise FileError(
            f"{name}: {size} pixels are more than {most:,}: a decompression bomb? if you trust the file, raise the "
            f"limit with {ENVIRONMENT} or --max-pixels (max_pixels in Python)"
        )
    return image


def _unknown(name: str) -> FileError:
    with open(name, "rb") as file:
        head = file.read(32)
    found = said_format(head)
    if found:
        return FileError(f"{name}: is {found}, which is not opened; use {READ}")
    return FileError(f"{name}: not a picture that can be read; use {READ}")


def shortened(error: Exception) -> str:
    """At most 160 characters of an exception's message, from its first line."""
    return first_line(error)[:160]


def damaged(name: str, error: Exception) -> DojangError:
    """The error for a file whose decoding raised one of `DAMAGE`: damage, memory, a missing codec, a form that is not
    decoded, or the system.
    """
    said = shortened(error)
    if isinstance(error, MemoryError) or "out of memory" in said or "memory error" in said:
        return FileError(f"{name}: there is not enough memory to decode the picture; use a machine with more, or .npy")
    if isinstance(error, OSError) and error.strerror:
        return FileError(f"{name}: {error.strerror}")
    if "decoder" in said and "not available" in said:
        return FileError(f"{name}: this Pillow was built without a decoder for it ({said}); install another Pillow")
    if said.startswith("Unsupported "):
        return UnsupportedError(f"{name}: a form of its format that Pillow does not decode ({said}); convert it")
    return FileError(f"{name}: damaged or truncated picture ({said})")


def begun(path: str | PathLike[str], max_pixels: int | None = None) -> Image.Image | None:
    """The picture in a file, opened; an RGB JPEG is already decoded. None for one that Pillow does not decode. Raises
    `FileError`.
    """
    name = fspath(path)
    check_regular(name, "a picture")
    with contextlib.suppress(OSError), open(name, "rb") as file:
        if file.read(2) in (b"#?", b"PF"):
            return None
    image = opened(name, max_pixels)
    try:
        if image.format == "JPEG" and image.mode == "RGB":
            load(image)
    except DAMAGE as error:
        image.close()
        raise damaged(name, error) from None
    return image


def load(image: Image.Image) -> None:
    """Decodes an RGB picture into one piece of memory, if this version of Pillow can share it.

    By default Pillow allocates large pictures in pieces; copying them takes as long as filtering.
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


@contextmanager
def encoding(name: str) -> Iterator[None]:
    """Turns exceptions of an encoder into a one-line error, except errors of the system and dojang's own."""
    try:
        yield
    except DojangError:
        raise
    except OSError as error:
        if error.errno:
            raise
        raise FileError(f"{name}: not written: the encoder failed ({shortened(error)})") from None
    except DAMAGE as error:
        raise FileError(f"{name}: not written: the encoder failed ({shortened(error)})") from None
