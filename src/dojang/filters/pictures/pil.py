"""PIL images as NumPy arrays, and back."""

from __future__ import annotations

import ctypes
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dojang.base.errors import UnsupportedError
from dojang.filters.memory import empty
from dojang.filters.pictures.opening import DAMAGE, load
from dojang.filters.pictures.tiff import ORIENTATION


def from_pil(image: Image.Image) -> tuple[NDArray, bool]:
    """Pixels of a PIL image, and whether their last channel is alpha. Palettes and bits become colours and greys."""
    raw = raw_mode(image)
    plain = plain_mode(image)
    pixels, alpha = pixels_of(plain)
    keyed = keyed_alpha(pixels, image.info.get("transparency"), raw)
    return (pixels, alpha) if keyed is None else (keyed, True)


def to_pil(pixels: NDArray, like: Image.Image) -> Image.Image:
    """A PIL image of the pixels, with the other's `info` (profile, EXIF, resolution)."""
    mode = plain_mode(like).mode
    if pixels.ndim == 3 and pixels.shape[2] == 2:
        mode = "LA"
    image = image_of(pixels, mode)
    image.info = dict(like.info)
    for gone in ("transparency", "background"):
        image.info.pop(gone, None)
    return image


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of a PIL image (EXIF 2.32, tag 0x0112); 1 if it has none."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # Pillow warns about EXIF that it cannot read, which does not matter for the pixels
        try:
            value = image.getexif().get(ORIENTATION, 1)
            return int(value) if int(value) in range(1, 9) else 1
        except DAMAGE:
            return 1


def plain_mode(image: Image.Image) -> Image.Image:
    """The image in a mode that is filtered: palettes as colours, bits as greys. Raises `UnsupportedError`."""
    mode = image.mode
    transparent = "transparency" in image.info
    if mode in ("P", "PA"):
        return image.convert("RGBA" if transparent or mode == "PA" else "RGB")
    if mode == "1":
        return image.convert("L")
    if mode == "YCbCr":
        return image.convert("RGB")
    if transparent and mode == "RGB":
        return image.convert("RGBA")
    if mode in ("L", "LA", "RGB", "RGBA", "CMYK", "F") or mode.startswith("I;16"):
        return image
    if mode == "I" and image.format == "PNG":
        return image
    raise UnsupportedError(f'a picture of mode "{mode}" cannot be filtered; convert it to L, RGB or RGBA')


def raw_mode(image: Image.Image) -> str:
    """Pillow's name for the pixel format in the file until the pixels are decoded; "" afterwards."""
    tile = getattr(image, "tile", None)
    return str(tile[0].args) if tile else ""


def keyed_alpha(pixels: NDArray, key: Any, raw: str) -> NDArray | None:
    """Grey with one transparent value (PNG, tRNS) as grey with alpha, or None if there is no such value."""
    if not isinstance(key, int) or pixels.ndim != 2 or pixels.dtype.kind != "u":
        return None
    step = {"L;2": 85, "L;4": 17}.get(raw, 1)  # greys of fewer bits are scaled to 8 bits, but the key is not
    top = np.iinfo(pixels.dtype).max
    alpha = np.where(pixels == key * step, 0, top).astype(pixels.dtype)
    return np.stack([pixels, alpha], axis=-1)


def pixels_of(image: Image.Image) -> tuple[NDArray, bool]:
    """The pixels of an image in such a mode, and whether the last channel is alpha."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if image.mode == "I" and (values.min() < 0 or values.max() > 65535):
            raise UnsupportedError("a picture of mode I with values outside 0 to 65535; give numpy.asarray(image)")
        return values.astype(np.uint16), False
    if image.mode in ("RGB", "RGBA", "CMYK"):
        image.load()
        return unpacked(image, image.mode, len(image.mode)), image.mode == "RGBA"
    return np.asarray(image), image.mode == "LA"


def unpacked(image: Image.Image, raw: str, channels: int) -> NDArray[np.uint8]:
    """(h, w, channels) uint8, as from `image.tobytes("raw", raw)`, but by strips that stay in cache.

    Pillow joins a list of small pieces at the end, which for large pictures takes longer than decoding them.
    """
    result = empty((image.height, image.width, channels), np.dtype(np.uint8))
    flat, at = result.reshape(-1), 0
    encoder = Image._getencoder(image.mode, "raw", (raw,))
    encoder.setimage(image.im, (0, 0, *image.size))
    failed = 0
    while not failed:
        _, failed, data = encoder.encode(64 * image.width * channels)
        flat[at : at + len(data)] = np.frombuffer(data, np.uint8)
        at += len(data)
    if failed < 0 or at != flat.size:
        raise OSError(f"encoder error {failed} after {at} bytes")
    return result


def decoded(image: Image.Image) -> NDArray[np.uint8]:
    """(h, w, 4) uint8 of an RGB picture: Pillow's own memory, if it is in one piece."""
    load(image)
    try:
        return np.asarray(_Lent(image))
    except (AttributeError, ValueError, MemoryError):  # an older Pillow, or memory in several pieces
        return unpacked(image, "RGBX", 4)


class _Lent:
    """The memory of an RGB image as an array interface; the image lives as long as an array of it.

    Through the Arrow C data interface (arrow.apache.org/docs/format/CDataInterface.html): a list of 4 bytes for each
    pixel, whose bytes are the second buffer of the only child.
    """

    def __init__(self, image: Image.Image) -> None:
        _, self._array = image.__arrow_c_array__()  # type: ignore[attr-defined]
        address = ctypes.pythonapi.PyCapsule_GetPointer
        address.restype, address.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        array = _ArrowArray.from_address(address(self._array, b"arrow_array") or 0)
        if array.length != image.width * image.height or array.offset or array.n_children != 1:
            raise ValueError("not a list of pixels")
        data = array.children[0].contents.buffers[1]
        shape = (image.height, image.width, 4)
        self.__array_interface__ = {"data": (data, True), "shape": shape, "typestr": "|u1", "version": 3}


class _ArrowArray(ctypes.Structure):
    pass


_ArrowArray._fields_ = [
    *((name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
]


def image_of(pixels: NDArray, mode: str) -> Image.Image:
    """A PIL image of this mode."""
    if mode == "I" or mode.startswith("I;16"):
        mode = "I;16"
    height, width = pixels.shape[:2]
    data: Any = np.ascontiguousarray(pixels).data
    return Image.frombuffer(mode, (width, height), data, "raw", mode, 0, 1)
