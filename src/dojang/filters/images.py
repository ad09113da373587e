"""Picture files through Pillow: pixels as NumPy arrays, and all that is not pixels kept for the way out.

JPEG, PNG (8 and 16 bit), TIFF and WebP. Sixteen-bit colour PNG is read by Pillow's own decoder, asked for the high
and for the low bytes, because Pillow has no such pixel type; 16-bit colour TIFF needs the optional tifffile.
"""

from __future__ import annotations

import ctypes
import struct
import warnings
import zlib
from dataclasses import dataclass, field, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, TiffImagePlugin

from dojang.base.errors import MissingPart, UnsupportedError
from dojang.filters.atomic import writing
from dojang.filters.memory import empty
from dojang.filters.opening import DAMAGE, MAX_PIXELS, damaged, first_line, load, opened

ORIENTATION = 0x0112
FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}


@dataclass(frozen=True)
class Picture:
    """Pixels (h, w) or (h, w, c), uint8, uint16 or float32, and what the file said beside them.

    In mode "RGBX" the fourth channel means nothing; `channels` counts without it.
    """

    pixels: NDArray
    alpha: bool = False
    mode: str = "RGB"
    orientation: int = 1
    format: str = "PNG"
    icc: bytes | None = None
    exif: bytes | None = None
    save: dict[str, Any] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """Channels that mean something."""
        return 3 if self.mode == "RGBX" else self.pixels.shape[2] if self.pixels.ndim == 3 else 1

    def upright(self) -> Picture:
        """The picture with its pixels turned as EXIF says they are shown, and the tag set to 1."""
        if self.orientation == 1:
            return self
        pixels = np.ascontiguousarray(turn(self.pixels, self.orientation))
        exif = Image.Exif()
        exif.load(self.exif or b"")
        exif[ORIENTATION] = 1
        return Picture(pixels, self.alpha, self.mode, 1, self.format, self.icc, exif.tobytes(), self.save)


def turn(pixels: NDArray, orientation: int) -> NDArray:
    """The pixels as shown, a view. Source: EXIF 2.32, tag 0x0112."""
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
    return _pixels(_plain_mode(image))


def to_pil(pixels: NDArray, like: Image.Image) -> Image.Image:
    """A PIL image of the pixels, with the other's `info` (profile, EXIF, resolution)."""
    image = _image(pixels, _plain_mode(like).mode)
    image.info = dict(like.info)
    for gone in ("transparency", "background"):
        image.info.pop(gone, None)
    return image


def _plain_mode(image: Image.Image) -> Image.Image:
    mode = image.mode
    transparent = "transparency" in image.info
    if mode in ("P", "PA"):
        return image.convert("RGBA" if transparent or mode == "PA" else "RGB")
    if mode == "1":
        return image.convert("L")
    if mode == "YCbCr":
        return image.convert("RGB")
    if transparent and mode in ("L", "RGB"):
        return image.convert("LA" if mode == "L" else "RGBA")
    if mode in ("L", "LA", "RGB", "RGBA", "CMYK", "F") or mode.startswith("I;16"):
        return image
    if mode == "I" and image.format == "PNG":
        return image
    raise UnsupportedError(f'a picture of mode "{mode}" cannot be filtered; convert it to L, RGB or RGBA')


def _pixels(image: Image.Image) -> tuple[NDArray, bool]:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16), False
    if image.mode in ("RGB", "RGBA", "CMYK"):
        image.load()
        return unpacked(image, image.mode, len(image.mode)), image.mode == "RGBA"
    return np.asarray(image), image.mode == "LA"


def unpacked(image: Image.Image, raw: str, channels: int) -> NDArray[np.uint8]:
    """(h, w, channels) uint8, as `image.tobytes("raw", raw)` gives them, but by strips that stay in cache.

    Pillow's own way joins a list of small pieces at the end, which for large pictures takes longer than decoding them.
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
    """(h, w, 4) uint8 of an RGB picture: Pillow's own memory, where it lies in one piece."""
    load(image)
    try:
        return np.asarray(_Lent(image))
    except (AttributeError, ValueError, MemoryError):  # an older Pillow, or in pieces after all
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


def read_picture(path: str | PathLike[str], max_pixels: int = MAX_PIXELS, image: Image.Image | None = None) -> Picture:
    """The picture in a file, which may be open already (`opening.begun`).

    Raises `FileError` for a file that cannot be read, is no picture, is damaged, or has more than `max_pixels`
    pixels; `UnsupportedError` for several frames and for pixel types that cannot be filtered.
    """
    name = fspath(path)
    try:
        with image or opened(name, max_pixels) as source:
            return _read(source, name)
    except DAMAGE as error:
        raise damaged(name, error) from None
    except (MissingPart, UnsupportedError) as error:
        raise error.within(name) from None


def _read(image: Image.Image, name: str) -> Picture:
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise UnsupportedError(f"holds {frames} frames; split it into single pictures first")
    form = image.format or "PNG"
    deep = _deep_channels(image)  # asked before EXIF, for which Pillow may decode the picture
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of EXIF it cannot read; the pixels are what matters here
        exif = image.getexif()
        orientation = int(exif.get(ORIENTATION, 1) or 1)
    info = image.info
    icc = info.get("icc_profile")
    save = _save_options(image, name)
    raw = info.get("exif") or (exif.tobytes() if form != "TIFF" and len(exif) else None)
    common = {"orientation": orientation, "format": form, "icc": icc, "exif": raw, "save": save}
    if deep and form == "PNG":
        pixels = _read_deep_png(image, deep)
        return Picture(pixels, deep in (2, 4), {2: "LA", 3: "RGB", 4: "RGBA"}[deep], **common)
    if deep and form == "TIFF":
        return _read_deep_tiff(name, common)
    if form == "JPEG" and image.mode == "RGB":
        # As Pillow holds colours: four bytes a pixel, the last unused. To and from three takes as long as the codec.
        return Picture(decoded(image), False, "RGBX", **common)
    image.load()
    if form == "TIFF":  # Pillow has turned the pixels as the tag says, and dropped the tag
        common["orientation"] = 1
    plain = _plain_mode(image)
    pixels, alpha = _pixels(plain)
    return Picture(pixels, alpha, plain.mode, **common)


def _save_options(image: Image.Image, name: str) -> dict[str, Any]:
    """What the encoder needs to write such a file again as the last one did."""
    save: dict[str, Any] = {}
    if image.info.get("dpi"):
        save["dpi"] = image.info["dpi"]
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        save["qtables"] = image.quantization
        save["subsampling"] = JpegImagePlugin.get_sampling(image)
        save["progressive"] = bool(image.info.get("progressive"))
    elif image.format == "WEBP":
        save["lossless"] = save["exact"] = b"VP8L" in _riff_chunks(name)
        save["quality"] = 100 if save["lossless"] else 95
    elif image.format == "TIFF":
        save["compression"] = image.info.get("compression", "raw")
    return save


def _riff_chunks(name: str) -> list[bytes]:
    """The names of a WebP file's chunks: VP8L means that its pixels are stored without loss."""
    found = []
    with Path(name).open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            found.append(head[:4])
            size = int.from_bytes(head[4:], "little")
            file.seek(size + size % 2, 1)
    return found


def _deep_channels(image: Any) -> int:
    """Channels of 16 bits each that Pillow's own pixel types would cut to 8 bits; 0 if it keeps them."""
    if image.mode not in ("LA", "RGB", "RGBA"):
        return 0
    if image.format == "PNG" and image.tile and str(image.tile[0].args).endswith(";16B"):
        return {"LA": 2, "RGB": 3, "RGBA": 4}[str(image.tile[0].args).partition(";")[0]]
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(258, (8,))
        return len(image.getbands()) if max(bits) > 8 else 0
    return 0


def _read_deep_png(image: Image.Image, channels: int) -> NDArray[np.uint16]:
    """(h, w, channels) uint16 of a 16-bit PNG: its bytes as Pillow un-filters them, in one or two passes."""
    if "transparency" in image.info:
        raise UnsupportedError("16-bit colour with one transparent colour; store an alpha channel instead")
    width, height = image.size
    if channels == 2:  # 4 bytes a pixel: as if it were 8-bit RGBA
        pixel_bytes = np.asarray(_decode_again(image, "RGBA", "RGBA"))
        return pixel_bytes.view(">u2").astype(np.uint16)
    mode = "RGB" if channels == 3 else "RGBA"
    result = np.empty((height, width, channels), np.uint16)
    result[...] = np.asarray(_decode_again(image, mode, f"{mode};16B"))
    result <<= 8
    result |= np.asarray(_decode_again(image, mode, f"{mode};16L"))
    return result


def _decode_again(image: Image.Image, mode: str, raw: str) -> Image.Image:
    again = Image.open(image.filename)  # type: ignore[attr-defined]
    again._mode = mode  # the decoder's target; the file itself has no name for it
    again.tile = [tile._replace(args=raw) for tile in again.tile]
    again.load()
    return again


def _read_deep_tiff(name: str, common: dict[str, Any]) -> Picture:
    tifffile = need("tifffile", "16-bit colour TIFF")
    with tifffile.TiffFile(name) as file:
        page = file.pages[0]
        try:
            pixels = page.asarray()
        except (ValueError, RuntimeError) as error:  # a codec that lives in imagecodecs
            raise MissingPart(f"{first_line(error)}; pip install imagecodecs") from None
    if pixels.dtype not in (np.uint16, np.float32) or pixels.ndim != 3 or page.planarconfig != 1:
        raise UnsupportedError(f"a TIFF of {pixels.dtype} {pixels.shape} cannot be filtered as a picture; use .npy")
    alpha = pixels.shape[-1] in (2, 4)
    return Picture(pixels, alpha, {2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[-1]], **common)


def need(module: str, purpose: str) -> Any:
    """An optional package, or `MissingPart` with the line that installs it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingPart(f"{purpose} needs {module}; pip install {module}") from None


def write_picture(picture: Picture, path: str | PathLike[str], force: bool = False) -> None:
    """Writes the picture, whole or not at all; the suffix chooses the format.

    Raises `FileError` if the file exists and not `force`, or cannot be written; `UnsupportedError` if the format
    cannot hold what the picture has (alpha or 16 bits in JPEG).
    """
    name = fspath(path)
    form = FORMATS.get(Path(name).suffix.lower())
    if form is None:
        raise UnsupportedError(f"{name}: no known picture format; end the name with .jpg, .png, .tif or .webp")
    _check_fits(picture, form, name)
    if picture.mode == "RGBX" and form != "JPEG":
        picture = replace(picture, pixels=picture.pixels[..., :3], mode="RGB")
    options = dict(picture.save) if form == picture.format else {k: v for k, v in picture.save.items() if k == "dpi"}
    if form in ("JPEG", "WEBP") and form != picture.format:
        options["quality"] = 95
    if picture.icc:
        options["icc_profile"] = picture.icc
    if picture.exif:
        options["exif"] = picture.exif
    with writing(name, force) as temporary:
        if picture.pixels.dtype == np.uint16 and picture.pixels.ndim == 3:
            writer = _write_deep_png if form == "PNG" else _write_deep_tiff
            writer(picture, temporary, options)
            return
        image = _image(picture.pixels, picture.mode)
        with open(temporary, "wb") as file:
            image.save(file, format=form, **options)


def _check_fits(picture: Picture, form: str, name: str) -> None:
    wrong = None
    if picture.pixels.dtype != np.uint8 and form in ("JPEG", "WEBP"):
        wrong = f"{picture.pixels.dtype} pixels"
    elif picture.pixels.dtype == np.float32 and form != "TIFF":
        wrong = "float32 pixels"
    elif picture.alpha and form == "JPEG":
        wrong = "an alpha channel"
    elif picture.mode == "CMYK" and form not in ("JPEG", "TIFF"):
        wrong = "CMYK colours"
    if wrong:
        other = ".tif" if wrong.startswith(("float", "CMYK")) else ".png"
        raise UnsupportedError(f"{name}: {form} cannot hold {wrong}; end the name with {other}")


def _write_deep_png(picture: Picture, temporary: str, options: dict[str, Any]) -> None:
    """16-bit LA, RGB or RGBA. Each row is stored as differences to its left (PNG filter type 1), then deflated."""
    height, width, channels = picture.pixels.shape
    step = 2 * channels
    rows = picture.pixels.astype(">u2").reshape(height, width * channels).view(np.uint8)
    coded = np.empty((height, 1 + rows.shape[1]), np.uint8)
    coded[:, 0] = 1
    coded[:, 1 : 1 + step] = rows[:, :step]
    np.subtract(rows[:, step:], rows[:, :-step], out=coded[:, 1 + step :])
    colour = {2: 4, 3: 2, 4: 6}[channels]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))]
    if picture.icc:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(picture.icc)))
    if "dpi" in options:
        dots = [round(float(d) / 0.0254) for d in options["dpi"]]
        chunks.append((b"pHYs", struct.pack(">IIB", *dots, 1)))
    if picture.exif:
        chunks.append((b"eXIf", picture.exif.removeprefix(b"Exif\0\0")))
    chunks += [(b"IDAT", zlib.compress(coded.tobytes(), 6)), (b"IEND", b"")]
    with open(temporary, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, data in chunks:
            file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


def _write_deep_tiff(picture: Picture, temporary: str, options: dict[str, Any]) -> None:
    tifffile = need("tifffile", "16-bit colour TIFF")
    channels = picture.pixels.shape[-1]
    tifffile.imwrite(
        temporary,
        picture.pixels,
        photometric="rgb" if channels >= 3 else "minisblack",
        extrasamples=["unassalpha"] if picture.alpha else None,
        iccprofile=picture.icc,
        resolution=options.get("dpi"),
        metadata=None,
        extratags=[(ORIENTATION, "H", 1, picture.orientation, True)] if picture.orientation != 1 else (),
    )
