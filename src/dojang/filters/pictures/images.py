"""A picture: its pixels as a NumPy array, the other parts of its file, and the formats that are written.

`reading.py` makes pictures of files, `writing.py` files of pictures, `pil.py` NumPy arrays of PIL images.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dojang.base.errors import MissingPart, UnsupportedError
from dojang.filters.pictures.opening import DAMAGE
from dojang.filters.pictures.png import Chunk
from dojang.filters.pictures.tiff import ORIENTATION, Layout, Tag, kept_tags

EXIF_HEAD = b"Exif\0\0"
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
            exif = parsed(raw)
            if exif is None:
                raw, lost = None, (*lost, "EXIF (damaged)")
            else:
                exif[ORIENTATION] = 1
                raw = exif.tobytes()
        return replace(self, pixels=pixels, orientation=1, exif=raw, lost=lost)


def parsed(raw: bytes) -> Image.Exif | None:
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


def form_of(name: str) -> str:
    """The format of a file's suffix. Raises `UnsupportedError`."""
    form = FORMATS.get(Path(name).suffix.lower())
    if form is None:
        raise UnsupportedError(f"{name}: no known picture format; end the name with .jpg, .png, .tif or .webp")
    return form


def need(module: str, purpose: str) -> Any:
    """An optional package, or `MissingPart` with the command that installs it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingPart(f"{purpose} needs {module}; pip install {module}") from None


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
