"""Picture files as pixels: by Pillow, and by tifffile (optional) where Pillow would truncate or misread samples.

The formats of `base.pictures` are read. Colour PNGs of 16 bits are read by Pillow's decoder in two passes, for the high
and the low bytes, because Pillow has no such pixel type. `tiff.py` interprets the samples of a TIFF.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from dojang.base.budget import ENVIRONMENT as MOST_UNPACKED
from dojang.base.budget import Budget
from dojang.base.errors import FileError, MissingPart, UnsupportedError
from dojang.base.pictures import ENVIRONMENT, byte_limit, pixel_limit
from dojang.base.reading import opened as regular
from dojang.filters.pictures import netpbm, radiance
from dojang.filters.pictures.images import EXIF_HEAD, Picture
from dojang.filters.pictures.opening import DAMAGE, damaged, opened
from dojang.filters.pictures.pil import (
    decoded,
    keyed_alpha,
    orientation_of,
    pixels_of,
    plain_mode,
    raw_mode,
    unpacked,
)
from dojang.filters.pictures.png import Chunk, chunks_of
from dojang.filters.pictures.tiff import UNIT, X_RESOLUTION, XMP, Y_RESOLUTION, Layout
from dojang.filters.pictures.tiff_rows import Rows

TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


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
            plain = plain_mode(image)
            pixels, alpha = pixels_of(plain)
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
    deep, stored = _deep_channels(image), raw_mode(image)
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
    plain = plain_mode(image)
    pixels, alpha = pixels_of(plain)
    keyed = keyed_alpha(pixels, info.get("transparency"), stored)
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
