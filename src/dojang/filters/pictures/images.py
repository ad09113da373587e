"""Picture files by Pillow: pixels as NumPy arrays; the other parts of a file are kept for writing, or named as lost.

The formats of `base.pictures` are read; JPEG, PNG (8 and 16 bit), TIFF and WebP are written. Colour PNGs of 16
bits are read by Pillow's decoder in two passes, for the high and the low bytes, because Pillow has no such pixel type.
`tiff.py` interprets the samples of a TIFF; those that Pillow would truncate or misread are read by tifffile (optional).
"""

from __future__ import annotations

import ctypes
import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, TiffImagePlugin, TiffTags

from dojang.base.budget import ENVIRONMENT as MOST_UNPACKED
from dojang.base.budget import Budget
from dojang.base.errors import FileError, MissingPart, UnsupportedError
from dojang.base.pictures import ENVIRONMENT, byte_limit, pixel_limit
from dojang.base.reading import opened as regular
from dojang.filters.memory import empty
from dojang.filters.pictures import netpbm, radiance
from dojang.filters.pictures.atomic import writing
from dojang.filters.pictures.opening import DAMAGE, damaged, encoding, load, opened
from dojang.filters.pictures.png import Chunk, chunks_of, with_chunks, written
from dojang.filters.pictures.tiff import (
    ORIENTATION,
    UNIT,
    X_RESOLUTION,
    XMP,
    Y_RESOLUTION,
    Layout,
    Tag,
    kept_tags,
    names_of,
)
from dojang.filters.pictures.tiff_rows import Rows
from dojang.filters.pictures.tiff_writing import TiffDetails, write_rows

EXIF_HEAD = b"Exif\0\0"
MOST_EXIF = 65_533
"""The most bytes of EXIF in a JPEG."""
OF_PIXELS = {*range(254, 260), 262, 266, 273, *range(277, 280), 282, 283, 284, 296, 317, *range(320, 326), 330, 338,
             339, 347, 513, 514, *range(529, 533), XMP, 34377, 34675}  # fmt: skip
"""Tags of a TIFF that say how its own pixels are stored, or that the picture has in another field."""
FIELD_TYPES = {
    **dict.fromkeys((269, 270, 271, 272, 285, 305, 306, 315, 316, 33432), (2,)), X_RESOLUTION: (5,), Y_RESOLUTION: (5,),
    UNIT: (3,), XMP: (1, 7),
}  # fmt: skip
"""Types of the values of tags, as TIFF 6.0 has them."""
MOST_DPI = 65_535
"""The most dots per inch that every format can say."""
TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".hdr": "HDR",
}
HOLD_FLOATS = frozenset({"TIFF", "HDR"})
ONLY_READ = (".bmp", ".dib", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm")
"""Suffixes of formats that are read and not written."""


@dataclass(frozen=True)
class Picture:
    """Pixels (h, w) or (h, w, c), uint8, uint16, float32 or float64, and the other parts of the file.

    In mode "RGBX" the fourth channel is unused, and `channels` does not count it. In mode "DATA" the channels are those
    of a TIFF's `layout`. `lost` names what of the file could not be kept.
    """

    pixels: NDArray
    alpha: bool = False
    mode: str = "RGB"
    orientation: int = 1
    format: str = "PNG"
    icc: bytes | None = None
    exif: bytes | None = None
    save: dict[str, Any] = field(default_factory=dict)
    xmp: bytes | None = None
    chunks: tuple[Chunk, ...] = ()
    tags: tuple[Tag, ...] = ()
    layout: Layout | None = None
    lost: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """The number of channels without an unused one."""
        return 3 if self.mode == "RGBX" else self.pixels.shape[2] if self.pixels.ndim == 3 else 1

    def upright(self) -> Picture:
        """The picture with its pixels rotated as EXIF says, and the tag set to 1."""
        if self.orientation == 1:
            return self
        pixels = np.ascontiguousarray(turn(self.pixels, self.orientation))
        raw, lost = self.exif, self.lost
        if raw:
            exif = _parsed(raw)
            if exif is None:
                raw, lost = None, (*lost, "EXIF (damaged)")
            else:
                exif[ORIENTATION] = 1
                raw = exif.tobytes()
        return replace(self, pixels=pixels, orientation=1, exif=raw, lost=lost)


def _parsed(raw: bytes) -> Image.Exif | None:
    """EXIF that can be read and written again, or None."""
    exif = Image.Exif()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exif.load(raw)
            exif.tobytes()
        except DAMAGE:
            return None
    return exif


def turn(pixels: NDArray, orientation: int) -> NDArray:
    """The pixels as displayed, a view. Source: EXIF 2.32, tag 0x0112."""
    flips = {
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: p.swapaxes(0, 1)[:, ::-1],
        7: lambda p: p.swapaxes(0, 1)[::-1, ::-1],
        8: lambda p: p.swapaxes(0, 1)[::-1],
    }
    return flips[orientation](pixels) if orientation in flips else pixels


def from_pil(image: Image.Image) -> tuple[NDArray, bool]:
    """Pixels of a PIL image, and whether their last channel is alpha. Palettes and bits become colours and greys."""
    raw = _raw_mode(image)
    plain = _plain_mode(image)
    pixels, alpha = _pixels(plain)
    keyed = _keyed(pixels, image.info.get("transparency"), raw)
    return (pixels, alpha) if keyed is None else (keyed, True)


def to_pil(pixels: NDArray, like: Image.Image) -> Image.Image:
    """A PIL image of the pixels, with the other's `info` (profile, EXIF, resolution)."""
    mode = _plain_mode(like).mode
    if pixels.ndim == 3 and pixels.shape[2] == 2:
        mode = "LA"
    image = _image(pixels, mode)
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


def _plain_mode(image: Image.Image) -> Image.Image:
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


def _raw_mode(image: Image.Image) -> str:
    """Pillow's name for the pixel format in the file until the pixels are decoded; "" afterwards."""
    tile = getattr(image, "tile", None)
    return str(tile[0].args) if tile else ""


def _keyed(pixels: NDArray, key: Any, raw: str) -> NDArray | None:
    """Grey with one transparent value (PNG, tRNS) as grey with alpha, or None if there is no such value."""
    if not isinstance(key, int) or pixels.ndim != 2 or pixels.dtype.kind != "u":
        return None
    step = {"L;2": 85, "L;4": 17}.get(raw, 1)  # greys of fewer bits are scaled to 8 bits, but the key is not
    top = np.iinfo(pixels.dtype).max
    alpha = np.where(pixels == key * step, 0, top).astype(pixels.dtype)
    return np.stack([pixels, alpha], axis=-1)


def _pixels(image: Image.Image) -> tuple[NDArray, bool]:
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


def _image(pixels: NDArray, mode: str) -> Image.Image:
    if mode == "I" or mode.startswith("I;16"):
        mode = "I;16"
    height, width = pixels.shape[:2]
    data: Any = np.ascontiguousarray(pixels).data
    return Image.frombuffer(mode, (width, height), data, "raw", mode, 0, 1)


def read_picture(
    path: str | PathLike[str],
    max_pixels: int | None = None,
    image: Image.Image | None = None,
    reals: bool = False,
) -> Picture:
    """The picture in a file, which may be open already (`opening.begun`).

    Raises `FileError` for a file that cannot be read, is no picture, is damaged, or has more than `max_pixels`
    pixels (`base.pictures.pixel_limit()` by default) or more bytes than `base.pictures.byte_limit()`;
    `UnsupportedError` for several frames and for pixel types that cannot be filtered. `reals` as in `Layout.of`.
    """
    name = fspath(path)
    try:
        if image is None or image.format in ("TIFF", "PPM"):
            if image is not None:
                image.close()
            with regular(name, "a picture") as file:
                head = file.read(1 << 13)
            if head.startswith(TIFF_HEADS):
                return _read_tiff(name, max_pixels, reals)
            if head.startswith(radiance.HEAD) or netpbm.is_deep(head):
                return _read_deep(name, head, max_pixels)
            image = opened(name, max_pixels)
        with image as source:
            return _read(source, name, max_pixels)
    except DAMAGE as error:
        raise damaged(name, error) from None
    except (MissingPart, UnsupportedError) as error:
        raise (error if str(error).startswith(name) else error.within(name)) from None


def most_bytes(name: str, max_pixels: int | None) -> int:
    """The most bytes of a picture's pixels: `byte_limit`, or 8 for each of the `max_pixels` that a user asks for,
    unless the environment sets the limit.
    """
    least = byte_limit(name)
    return least if max_pixels is None or os.environ.get(MOST_UNPACKED) else max(least, 8 * max_pixels)


def check_size(name: str, width: int, height: int, wanted: int, max_pixels: int | None) -> None:
    """Raises `FileError` for more pixels, or more bytes of pixels, than the limits allow."""
    most = pixel_limit() if max_pixels is None else max_pixels
    if width * height > most:
        raise FileError(
            f"{name}: {width}x{height} pixels are more than {most:,}: a decompression bomb? if you trust the file, "
            f"raise the limit with {ENVIRONMENT} or --max-pixels (max_pixels in Python)"
        )
    Budget(name, most_bytes(name, max_pixels)).unpack(wanted)


def _read_deep(name: str, head: bytes, max_pixels: int | None) -> Picture:
    """Radiance pictures, and Netpbm pictures of more than 8 bits."""

    def check(width: int, height: int, wanted: int) -> None:
        check_size(name, width, height, wanted, max_pixels)

    if head.startswith(radiance.HEAD):
        pixels, lines = radiance.read(name, check)
        return Picture(pixels, False, "RGB", format="HDR", save={"lines": lines})
    pixels = netpbm.read(name, check)
    mode = "RGB" if pixels.ndim == 3 else "F" if pixels.dtype.kind == "f" else "I;16"
    return Picture(pixels, False, mode, format="PPM")


def _read_tiff(name: str, max_pixels: int | None, reals: bool) -> Picture:
    """Reads by Pillow if it keeps the meaning of the samples, else by tifffile."""
    layout = Layout.of(name, reals)
    check_size(name, layout.width, layout.height, int(np.prod(layout.shape)) * layout.dtype.itemsize, max_pixels)
    about = {"format": "TIFF", "icc": layout.icc, "tags": layout.tags, "lost": layout.lost, "layout": layout}
    about["xmp"] = next((t.value for t in layout.tags if t.code == XMP and isinstance(t.value, bytes)), None)
    about["save"] = {"packed": layout.compression != 1}
    if layout.for_pillow:
        with opened(name, max_pixels) as image:
            compression = image.info.get("compression", "raw")
            dpi = image.info.get("dpi")
            if layout.orientation >= 5:
                image.filename = ""  # type: ignore[attr-defined]  # else Pillow maps plain pixels with width and height exchanged, and scrambles them
            image.load()  # rotated as the tag says
            plain = _plain_mode(image)
            pixels, alpha = _pixels(plain)
        about["save"] |= {"compression": compression if compression in LOSSLESS else "tiff_adobe_deflate"}
        about["save"] |= {"dpi": dpi} if dpi else {}
        return Picture(pixels, alpha, plain.mode, **about)
    rows = Rows(name, layout)
    try:
        pixels = rows.read(0, layout.height)
    finally:
        rows.close()
    resolution = {t.code: t.value for t in layout.tags if t.code in (X_RESOLUTION, Y_RESOLUTION, UNIT)}
    if X_RESOLUTION in resolution and Y_RESOLUTION in resolution:
        inch = {2: 1.0, 3: 2.54}.get(resolution.get(UNIT, (2,))[0])
        parts = [resolution[c] for c in (X_RESOLUTION, Y_RESOLUTION)]
        if inch and all(p[1] for p in parts):
            about["save"] |= {"dpi": tuple(p[0] / p[1] * inch for p in parts)}
    return Picture(np.ascontiguousarray(pixels), layout.alpha, layout.mode, layout.orientation, **about)


LOSSLESS = frozenset({"raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "lzma", "zstd"})
"""Lossless compressions of TIFF for any pixels. Results of JPEG and fax files are deflated instead: another JPEG
encoding would change pixels by more than the filter does; fax stores only single bits."""


def _read(image: Image.Image, name: str, max_pixels: int | None) -> Picture:
    frames = getattr(image, "n_frames", 1)
    form = image.format or "PNG"
    lost: list[str] = []
    if form == "MPO":  # a JPEG that a phone has extended by a preview or a depth map
        form = "JPEG"
        lost.append(f"{frames - 1} more picture{'s' if frames > 2 else ''} in the same file")
    elif frames > 1:
        raise UnsupportedError(f"holds {frames} frames; split it into single pictures first")
    # Read before EXIF, for which Pillow may decode the picture.
    deep, stored = _deep_channels(image), _raw_mode(image)
    wide = deep or 4 if image.mode in ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr") else deep or 2
    Budget(name, most_bytes(name, max_pixels)).unpack(
        image.width * image.height * wide * (2 if deep or image.mode.startswith("I") else 1)
    )
    orientation = orientation_of(image)
    info = image.info
    raw = info.get("exif") or None
    if raw and not raw.startswith(EXIF_HEAD):  # WebP stores it without, and JPEG needs it
        raw = EXIF_HEAD + raw
    if raw is None and form != "PPM":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                raw = image.getexif().tobytes() if len(image.getexif()) else None
            except DAMAGE:
                lost.append("EXIF (damaged)")
    chunks: tuple[Chunk, ...] = ()
    if form == "PNG":
        chunks, dropped = chunks_of(name)
        lost += dropped
    if info.get("photoshop"):
        lost.append("Photoshop data (IPTC)")
    common: dict[str, Any] = {
        "orientation": orientation, "format": form, "icc": info.get("icc_profile"), "exif": raw,
        "save": _save_options(image, name), "chunks": chunks, "xmp": _xmp(info), "lost": tuple(lost),
    }  # fmt: skip
    if deep:
        key = info.get("transparency")
        pixels = _read_deep_png(image, deep)
        if isinstance(key, tuple):
            clear = (pixels == np.array(key, np.uint16)).all(axis=-1, keepdims=True)
            pixels = np.concatenate([pixels, np.where(clear, 0, 65535).astype(np.uint16)], axis=-1)
            deep = 4
        return Picture(pixels, deep in (2, 4), {2: "LA", 3: "RGB", 4: "RGBA"}[deep], **common)
    if form == "JPEG" and image.mode == "RGB":
        # Pillow stores colours as four bytes per pixel, the last unused. Conversion to three takes as long as the
        # codec.
        return Picture(decoded(image), False, "RGBX", **common)
    image.load()
    plain = _plain_mode(image)
    pixels, alpha = _pixels(plain)
    keyed = _keyed(pixels, info.get("transparency"), stored)
    if keyed is not None:
        return Picture(keyed, True, "LA", **common)
    return Picture(pixels, alpha, plain.mode, **common)


def _xmp(info: Mapping[Any, Any]) -> bytes | None:
    found = info.get("xmp") or info.get("XML:com.adobe.xmp")
    return found.encode() if isinstance(found, str) else found if isinstance(found, bytes) else None


def _save_options(image: Image.Image, name: str) -> dict[str, Any]:
    """The encoder's settings for a file like the one that was read."""
    save: dict[str, Any] = {}
    if image.info.get("dpi"):
        save["dpi"] = image.info["dpi"]
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        save["qtables"] = image.quantization
        save["subsampling"] = JpegImagePlugin.get_sampling(image)
        save["progressive"] = bool(image.info.get("progressive"))
        if image.info.get("comment"):
            save["comment"] = image.info["comment"]
    elif image.format == "GIF" and image.info.get("comment"):
        save["comment"] = image.info["comment"]
    elif image.format == "WEBP":
        save["lossless"] = save["exact"] = b"VP8L" in _riff_chunks(name)
        save["quality"] = 100 if save["lossless"] else 95
    return save


def _riff_chunks(name: str) -> list[bytes]:
    """The names of a WebP file's chunks: VP8L means lossless pixels."""
    found = []
    with Path(name).open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            found.append(head[:4])
            size = int.from_bytes(head[4:], "little")
            file.seek(size + size % 2, 1)
    return found


def _deep_channels(image: Any) -> int:
    """Channels of 16 bits each that Pillow would truncate to 8 bits; 0 if it keeps them."""
    if image.mode not in ("LA", "RGB", "RGBA"):
        return 0
    if image.format == "PNG" and image.tile and str(image.tile[0].args).endswith(";16B"):
        return {"LA": 2, "RGB": 3, "RGBA": 4}[str(image.tile[0].args).partition(";")[0]]
    return 0


def _read_deep_png(image: Image.Image, channels: int) -> NDArray[np.uint16]:
    """(h, w, channels) uint16 of a 16-bit PNG: from the bytes that Pillow decodes, in one or two passes."""
    if channels == 2:  # 4 bytes per pixel, as for 8-bit RGBA
        return unpacked(_decode_again(image, "RGBA", "RGBA"), "RGBA", 4).view(">u2").astype(np.uint16)
    mode = "RGB" if channels == 3 else "RGBA"
    result = unpacked(_decode_again(image, mode, f"{mode};16B"), mode, channels).astype(np.uint16)
    result <<= 8
    result |= unpacked(_decode_again(image, mode, f"{mode};16L"), mode, channels)
    return result


def _decode_again(image: Image.Image, mode: str, raw: str) -> Image.Image:
    again = Image.open(image.filename)  # type: ignore[attr-defined]
    again._mode = mode  # the decoder's target; Pillow has no such mode
    again.tile = [tile._replace(args=raw) for tile in again.tile]
    again.load()
    return again


def need(module: str, purpose: str) -> Any:
    """An optional package, or `MissingPart` with the command that installs it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingPart(f"{purpose} needs {module}; pip install {module}") from None


def write_picture(picture: Picture, path: str | PathLike[str], force: bool = False) -> tuple[str, ...]:
    """Writes the picture, whole or not at all; the suffix determines the format. Returns the names of parts that are
    not kept.

    Raises `FileError` if the file exists and `force` is off, or if it cannot be written; `UnsupportedError` if the
    format cannot store the pixels (alpha or 16 bits in JPEG).
    """
    name = fspath(path)
    form = form_of(name)
    _check_fits(picture, form, name)
    if picture.mode == "RGBX" and form != "JPEG":
        picture = replace(picture, pixels=picture.pixels[..., :3], mode="RGB")
    lost = list(picture.lost)
    if form == "HDR":
        return _write_hdr(picture.upright(), name, force, lost)
    through_pillow = _pillow_writes(picture)
    if form == "TIFF" and not through_pillow:
        if picture.exif:
            lost.append("EXIF")
        lost += _header(picture)
        with writing(name, force) as temporary, encoding(name):
            _write_tiff(picture, temporary)
        return tuple(lost)
    if picture.orientation != 1 and not _keeps_exif(picture, form):
        picture = picture.upright()
    options = _options(picture, form, lost)
    with writing(name, force) as temporary, encoding(name):
        if form == "PNG" and not through_pillow:
            _write_deep_png(picture, temporary, options)
        else:
            image = _image(picture.pixels, picture.mode)
            with open(temporary, "wb") as file:
                if form == "PNG" and picture.format == "PNG" and picture.chunks:
                    with with_chunks(file, picture.chunks) as inside:
                        image.save(inside, format=form, **options)
                else:
                    image.save(file, format=form, **options)
    return tuple(lost)


def _write_hdr(picture: Picture, name: str, force: bool, lost: list[str]) -> tuple[str, ...]:
    """Writes a Radiance picture, which holds no more than the lines of another one's header."""
    lines: tuple[bytes, ...] = picture.save.get("lines", ())
    with writing(name, force) as temporary, encoding(name):
        content, gone = radiance.coded(picture.pixels, lines)
        Path(temporary).write_bytes(content)
    there = {"EXIF": picture.exif, "the colour profile": picture.icc, "XMP": picture.xmp}
    there |= {"the comment": picture.save.get("comment"), "the resolution": picture.save.get("dpi")}
    lost += [what for what, value in there.items() if value]
    lost += sorted({c.said for c in picture.chunks if not c.is_xmp and c.kind != b"pHYs"})
    apart = (X_RESOLUTION, Y_RESOLUTION, UNIT, XMP)
    return (*lost, *names_of(tuple(t for t in picture.tags if t.code not in apart)), *gone)


def form_of(name: str) -> str:
    """The format of a file's suffix. Raises `UnsupportedError`."""
    form = FORMATS.get(Path(name).suffix.lower())
    if form is None:
        raise UnsupportedError(f"{name}: no known picture format; end the name with .jpg, .png, .tif or .webp")
    return form


def _pillow_writes(picture: Picture) -> bool:
    """Whether Pillow has a pixel type for the picture."""
    if picture.mode == "DATA":
        return False
    return picture.pixels.dtype == np.uint8 or (picture.pixels.ndim == 2 and picture.pixels.dtype != np.float64)


def _keeps_exif(picture: Picture, form: str) -> bool:
    """Whether the picture has EXIF, with its orientation, that the format can hold."""
    if not picture.exif:
        return False
    if form == "TIFF":
        return _parsed(picture.exif) is not None
    return form != "JPEG" or len(picture.exif) <= MOST_EXIF


def _options(picture: Picture, form: str, lost: list[str]) -> dict[str, Any]:
    """The arguments of Pillow's encoder; parts that it cannot store are added to `lost`."""
    same = form == picture.format
    options = {k: v for k, v in picture.save.items() if (same or k == "dpi") and k not in ("packed", "lines")}
    if form in ("JPEG", "WEBP") and not same:
        options["quality"] = 95
    if "dpi" in options and not all(0 < d <= MOST_DPI for d in options["dpi"]):
        del options["dpi"]
        lost.append("the resolution")
    if picture.icc:
        options["icc_profile"] = picture.icc
    exif = picture.exif
    if exif and not _keeps_exif(picture, form):
        lost.append("EXIF (damaged)" if form == "TIFF" else f"EXIF ({len(exif):,} bytes, JPEG holds {MOST_EXIF:,})")
    elif exif and form != "TIFF":
        options["exif"] = exif
    if form == "TIFF":
        _tiff_options(picture, options, lost)
    elif picture.tags:
        apart = (X_RESOLUTION, Y_RESOLUTION, UNIT, XMP)
        lost += names_of(tuple(t for t in picture.tags if t.code not in apart))
    if form == "PNG" and same:
        if any(c.kind == b"pHYs" for c in picture.chunks):
            options.pop("dpi", None)
    else:
        if picture.xmp and form in ("JPEG", "WEBP"):
            if form == "JPEG" and len(picture.xmp) > 65_504:
                lost.append(f"XMP ({len(picture.xmp):,} bytes, JPEG holds 65,504)")
            else:
                options["xmp"] = picture.xmp
        elif picture.xmp and form == "PNG":
            options["pnginfo"] = _xmp_text(picture.xmp)
        kept = (b"pHYs",) if "dpi" in options or form == "PNG" else ()
        lost += _header(picture)
        lost += sorted({c.said for c in picture.chunks if c.kind not in kept and not c.is_xmp})
        if "comment" in picture.save and not same:
            lost.append("the comment")
    return options


def _header(picture: Picture) -> list[str]:
    """What the header of a Radiance picture says besides the pixels, such as EXPOSURE."""
    lines: tuple[bytes, ...] = picture.save.get("lines", ())
    return [line.partition(b"=")[0][:40].decode("latin-1") for line in lines if not line.startswith(b"#")]


def _xmp_text(xmp: bytes) -> Any:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
    return info


def _tiff_options(picture: Picture, options: dict[str, Any], lost: list[str]) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag in picture.tags:
        value: Any = tag.value
        if tag.type in (5, 10):
            pairs = list(zip(value[::2], value[1::2], strict=True))
            if not all(below for _, below in pairs):
                continue
            value = tuple(TiffImagePlugin.IFDRational(*pair) for pair in pairs)
        elif tag.type == 2:
            value = bytes(value).rstrip(b"\0")  # bytes, because Pillow writes text as ASCII
        if tag.type not in FIELD_TYPES.get(tag.code, (tag.type,)):  # libtiff writes no tag of another type
            lost += names_of((tag,))
            continue
        tags.tagtype[tag.code] = tag.type
        tags[tag.code] = value if isinstance(value, (bytes, str)) or len(value) > 1 else value[0]
    if picture.xmp and XMP not in tags:
        tags.tagtype[XMP] = 1
        tags[XMP] = picture.xmp
    exif = _parsed(picture.exif) if picture.exif else None
    if exif is not None:
        for code, value in exif.items():
            if code not in tags and code not in OF_PIXELS:
                tags[code] = exif.get_ifd(code) if code in TiffTags.TAGS_V2_GROUPS else value
    if X_RESOLUTION in tags:
        options.pop("dpi", None)
    options["tiffinfo"] = tags


def _check_fits(picture: Picture, form: str, name: str) -> None:
    wrong = None
    narrow = {"JPEG": "uint8", "WEBP": "uint8", "PNG": "uint8 uint16", "HDR": "float32 float64"}.get(form)
    if narrow and picture.pixels.dtype.name not in narrow.split():
        wrong = f"{picture.pixels.dtype} pixels"
    elif picture.alpha and form == "JPEG":
        wrong = "an alpha channel"
    elif picture.mode == "CMYK" and form not in ("JPEG", "TIFF"):
        wrong = "CMYK colours"
    elif picture.mode == "DATA" and form != "TIFF":
        wrong = f"{picture.channels} channels of this meaning"
    elif form == "HDR" and picture.mode != "RGB":
        wrong = "other pixels than RGB"
    if wrong:
        other = ".tif" if wrong.startswith(("float", "CMYK")) or picture.mode == "DATA" else ".png"
        raise UnsupportedError(f"{name}: {form} cannot hold {wrong}; end the name with {other}")


def _write_deep_png(picture: Picture, temporary: str, options: dict[str, Any]) -> None:
    """16-bit LA, RGB or RGBA. Rows are stored as differences to the left pixel (PNG filter type 1) and deflated."""
    height, width, channels = picture.pixels.shape
    step = 2 * channels
    strip = max(1, (1 << 24) // (width * step))

    def coded() -> Iterator[bytes]:
        deflate = zlib.compressobj(6)
        for y in range(0, height, strip):
            part = picture.pixels[y : y + strip]
            rows = part.astype(">u2").reshape(len(part), width * channels).view(np.uint8)
            lines = np.empty((len(part), 1 + rows.shape[1]), np.uint8)
            lines[:, 0] = 1
            lines[:, 1 : 1 + step] = rows[:, :step]
            np.subtract(rows[:, step:], rows[:, :-step], out=lines[:, 1 + step :])
            yield deflate.compress(lines.data)
        yield deflate.flush()

    colour = {2: 4, 3: 2, 4: 6}[channels]
    chunks = [Chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))]
    if picture.icc:
        chunks.append(Chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(picture.icc)))
    if "dpi" in options:
        dots = [round(float(d) / 0.0254) for d in options["dpi"]]
        chunks.append(Chunk(b"pHYs", struct.pack(">IIB", *dots, 1)))
    if picture.exif:
        chunks.append(Chunk(b"eXIf", picture.exif.removeprefix(EXIF_HEAD)))
    if picture.format == "PNG":
        chunks += picture.chunks
    elif picture.xmp:
        chunks.append(Chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + picture.xmp))
    with open(temporary, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for chunk in chunks:
            file.write(written(chunk))
        for data in coded():
            if data:
                file.write(written(Chunk(b"IDAT", data)))
        file.write(written(Chunk(b"IEND", b"")))


def _write_tiff(picture: Picture, temporary: str) -> None:
    """Writes pixels for which Pillow has no type, by tifffile."""
    need("tifffile", f"TIFF of {picture.pixels.dtype} in {picture.channels} channels")
    pixels = np.ascontiguousarray(picture.pixels)
    tags = picture.tags
    known = {t.code for t in tags}
    if picture.xmp and XMP not in known:
        tags = (*tags, Tag(XMP, 1, picture.xmp))
    if X_RESOLUTION not in known and picture.save.get("dpi"):
        dots = [round(float(d) * 1000) for d in picture.save["dpi"]]
        tags = (*tags, Tag(X_RESOLUTION, 5, (dots[0], 1000)), Tag(Y_RESOLUTION, 5, (dots[1], 1000)), Tag(UNIT, 3, (2,)))
    stored = TiffDetails.of(
        picture.mode, pixels.shape[2] if pixels.ndim == 3 else 1, picture.alpha, picture.layout,
        orientation=picture.orientation, icc=picture.icc, tags=tags, packed=bool(picture.save.get("packed")),
    )  # fmt: skip
    write_rows(temporary, pixels.shape, pixels.dtype, pixels, stored)


def with_pixels(picture: Picture, pixels: NDArray) -> Picture:
    """The picture with a result of another pixel type, perhaps; without a channel that is not used."""
    if pixels.dtype == picture.pixels.dtype:
        return replace(picture, pixels=pixels)
    mode = picture.mode
    if mode == "RGBX":
        pixels, mode = np.ascontiguousarray(pixels[..., :3]), "RGB"
    if pixels.ndim == 2:
        mode = {"float32": "F"}.get(pixels.dtype.name, "DATA" if mode == "DATA" else "L")
    return replace(picture, pixels=pixels, mode=mode)


def without_outdated(picture: Picture, moved: bool) -> Picture:
    """The picture without metadata that is wrong after its pixels `moved` (by a stride, or a border that shrinks)."""
    tags, lost = kept_tags(picture.tags, moved)
    return picture if not lost else replace(picture, tags=tags, lost=(*picture.lost, *lost))
