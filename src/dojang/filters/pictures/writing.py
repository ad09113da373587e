"""Pictures as files: JPEG, PNG (8 and 16 bit), TIFF, WebP and Radiance. What a format cannot keep is named."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from PIL import TiffImagePlugin, TiffTags

from dojang.base.errors import UnsupportedError
from dojang.filters.pictures import radiance
from dojang.filters.pictures.atomic import writing
from dojang.filters.pictures.images import EXIF_HEAD, Picture, form_of, need, parsed
from dojang.filters.pictures.opening import encoding
from dojang.filters.pictures.pil import image_of
from dojang.filters.pictures.png import Chunk, with_chunks, written
from dojang.filters.pictures.tiff import UNIT, X_RESOLUTION, XMP, Y_RESOLUTION, Tag, names_of
from dojang.filters.pictures.tiff_writing import TiffDetails, write_rows

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
            image = image_of(picture.pixels, picture.mode)
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
        return parsed(picture.exif) is not None
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
    exif = parsed(picture.exif) if picture.exif else None
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
