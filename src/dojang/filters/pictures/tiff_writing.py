"""TIFF written by tifffile: whole, or tile by tile as the pixels are computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dojang.filters.pictures.tiff import (
    DATE,
    DESCRIPTION,
    ORIENTATION,
    SOFTWARE,
    UNIT,
    X_RESOLUTION,
    Y_RESOLUTION,
    Layout,
    Tag,
)
from dojang.filters.pictures.tiff_codecs import tifffile_package

TILE = 256
_WORDS = {DESCRIPTION: "description", SOFTWARE: "software", DATE: "datetime"}  # written by arguments of tifffile


@dataclass(frozen=True)
class TiffDetails:
    """The layout and the tags of a TIFF that is written."""

    photometric: int = 1
    extras: tuple[int, ...] = ()
    orientation: int = 1
    icc: bytes | None = None
    tags: tuple[Tag, ...] = ()
    packed: bool = False  # deflated

    @classmethod
    def of(cls, mode: str, channels: int, alpha: bool, layout: Layout | None = None, **more: Any) -> TiffDetails:
        """The details for pixels of a mode; extra samples of a layout that was read keep their meaning."""
        if layout is not None and mode == "DATA":
            photometric = 1 if layout.photometric == 0 else layout.photometric
            return cls(photometric, tuple(2 if e == 1 else e for e in layout.extras), **more)
        colours = channels - int(alpha)
        photometric = 5 if mode == "CMYK" else 2 if colours == 3 else 1
        extras = (0,) * (colours - {5: 4, 2: 3, 1: 1}[photometric]) + (2,) * int(alpha)
        return cls(photometric, extras, **more)


def write_rows(
    path: str, shape: tuple[int, ...], dtype: np.dtype, blocks: Iterator[NDArray] | NDArray, stored: TiffDetails
) -> None:
    """Writes a TIFF by tifffile: a whole array, or an iterator of tiles of `TILE` x `TILE` pixels."""
    tifffile = tifffile_package()
    given = {tag.code: tag for tag in stored.tags}
    channels = int(np.prod(shape[2:]))
    resolution: dict[str, Any] = {}
    if all(c in given and given[c].type == 5 and all(given[c].value[:2]) for c in (X_RESOLUTION, Y_RESOLUTION)):
        resolution = {"resolution": (given[X_RESOLUTION].value[:2], given[Y_RESOLUTION].value[:2])}
        if UNIT in given and given[UNIT].value[0] in (1, 2, 3):
            resolution["resolutionunit"] = int(given[UNIT].value[0])
    apart = (X_RESOLUTION, Y_RESOLUTION, UNIT, DESCRIPTION, SOFTWARE, DATE)
    words: dict[str, Any] = {n: bytes(given[c].value).rstrip(b"\0") if c in given else None for c, n in _WORDS.items()}
    date = words.pop("datetime")
    if date and len(date) == 19 and date.isascii():
        words["datetime"] = date.decode()
    tags = [(t.code, t.type, t.count, t.value, True) for t in stored.tags if t.code not in apart]
    tags.append((ORIENTATION, 3, 1, stored.orientation, True))
    tiled = not isinstance(blocks, np.ndarray)
    height, width = int(shape[0]), int(np.prod(shape[1:2]))
    strip = max(1, min(height, (1 << 18) // max(1, width)))
    tifffile.imwrite(
        path,
        blocks,
        shape=shape,
        dtype=dtype,
        photometric=stored.photometric,
        extrasamples=stored.extras or None,
        planarconfig=1 if channels > 1 else None,
        iccprofile=stored.icc,
        compression="zlib" if stored.packed else None,
        bigtiff=int(np.prod(shape)) * dtype.itemsize > (1 << 31),
        metadata=None,
        extratags=tags,
        **{"software": None, **words},
        **({"tile": (TILE, TILE)} if tiled else {"rowsperstrip": strip}),
        **resolution,
    )
