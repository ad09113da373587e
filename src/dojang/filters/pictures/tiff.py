"""TIFF: what its samples mean, in small and large pictures. `tiff_rows` reads them and `tiff_writing` writes them.

`Layout.of` reads the tags of the first page with its own small parser (TIFF 6.0 and BigTIFF), so that the meaning of
samples does not depend on the library that decodes them. For other layouts, an error names what is not supported.

| photometric | samples | meaning in dojang |
|---|---|---|
| 0 white is zero, 1 black is zero | 1 and extra ones | grey; 0 is inverted while it is read |
| 2 RGB | 3 and extra ones | colours |
| 3 palette | 1 | colours of the palette, 8 bits each |
| 5 separated, four inks | 4 and extra ones | CMYK, filtered without conversion |
| 6 YCbCr | 3, up to 8 bits | RGB, by Pillow |

Extra samples: one of associated alpha (1) becomes unassociated, one of unassociated alpha (2) is kept and not
filtered; unspecified ones (0) are filtered like colours and stay unspecified. One extra sample after three colours, of
which the file does not say the meaning, is alpha, as in Pillow and most viewers.
Sources: TIFF 6.0, Aldus 1992; "The BigTIFF File Format", 2007; Adobe PageMaker 6.0 TIFF Technical Notes (ExtraSamples).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dojang.base.errors import UnsupportedError
from dojang.base.reading import damaged_as, opened
from dojang.filters.pictures.tiff_codecs import missing_codec, tifffile_package

SUBFILE, SUB_PAGES = 254, 330
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
ORIENTATION, SAMPLES, PLANAR, PREDICTOR, PALETTE, INK_SET = 274, 277, 284, 317, 320, 332
EXTRA, FORMAT, X_RESOLUTION, Y_RESOLUTION, UNIT, XMP, ICC = 338, 339, 282, 283, 296, 700, 34675
DESCRIPTION, SOFTWARE, DATE = 270, 305, 306

_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}
_OTHER = {4: "a transparency mask", 8: "CIE L*a*b*", 9: "ICC L*a*b*", 10: "ITU L*a*b*", 32803: "a colour filter array",
          34892: "linear raw", 32844: "LogL", 32845: "LogLuv"}  # fmt: skip
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u", 5: "complex i", 6: "complex f"}
# Tags of the layout, which are written again. All others are copied, or named as lost.
_LAYOUT_TAGS = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 274, 277, 278, 279, 280, 281, 284, 288, 289, 292, 293,
     297, 317, 320, 322, 323, 324, 325, 332, 338, 339, 340, 341, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529,
     530, 531, 532, 34675, 50674}
)  # fmt: skip
_CARRIED = {
    269: "DocumentName", 270: "ImageDescription", 271: "Make", 272: "Model", 282: "XResolution", 283: "YResolution",
    285: "PageName", 296: "ResolutionUnit", 305: "Software", 306: "DateTime", 315: "Artist", 316: "HostComputer",
    700: "XMP", 33432: "Copyright", 33723: "IPTC", 34377: "Photoshop", 42112: "GDAL_METADATA", 42113: "GDAL_NODATA",
}  # fmt: skip
_PLACED = {33550: "ModelPixelScale", 33922: "ModelTiepoint", 34264: "ModelTransformation", 34735: "GeoKeyDirectory",
           34736: "GeoDoubleParams", 34737: "GeoAsciiParams"}  # fmt: skip
_NAMES = {330: "SubIFDs", 34665: "EXIF", 34853: "GPS", 301: "TransferFunction", 318: "WhitePoint", 334: "NumberOfInks",
          319: "PrimaryChromaticities", 333: "InkNames", 336: "DotRange", 37724: "ImageSourceData"}  # fmt: skip
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_CODES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q", 17: "q", 18: "Q"}
MOST_VALUE = 1 << 26  # the most bytes of all tags of a page, such as a colour profile or metadata
MOST_NUMBERS = 1 << 20  # the most numbers of all tags of a page, such as a palette or map coordinates
MOST_PAGES = 1 << 16
_OF_PILLOW = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000})
"""Compressions that Pillow's libtiff decodes: none, fax, LZW, JPEG, Deflate, PackBits, LZMA, Zstandard."""
_WITH_PREDICTOR = frozenset({5, 8, 32946, 34925, 50000})
"""Compressions that have a predictor (LZW, Deflate, LZMA, Zstandard). For others libtiff ignores its tag, which some
readers do not."""
MOST_SAMPLES = 0xFFFF  # per pixel: TIFF 6.0 stores their number in 16 bits


@dataclass(frozen=True, slots=True)
class Tag:
    """One tag: number, type of the values, and the values (bytes for ASCII and undefined ones)."""

    code: int
    type: int
    value: Any

    @property
    def count(self) -> int:
        """How many values, as TIFF counts them."""
        return len(self.value) // 2 if self.type in (5, 10) else len(self.value)


@dataclass(frozen=True)
class Layout:
    """The layout of the samples in the first page of a TIFF file, and the other tags that are kept."""

    width: int
    height: int
    photometric: int = 1
    samples: int = 1
    bits: int = 8
    kind: str = "u"
    extras: tuple[int, ...] = ()
    planar: int = 1
    orientation: int = 1
    compression: int = 1
    fill_order: int = 1
    pages: int = 1
    palette: NDArray[np.uint8] | None = None
    icc: bytes | None = None
    tags: tuple[Tag, ...] = ()
    lost: tuple[str, ...] = ()
    marked: tuple[int, ...] = field(default=())  # the stored ExtraSamples, before missing ones are filled in
    foreign: bool = False  # big-endian BigTIFF, which Pillow does not open
    predictor: int = 1
    masks: int = 0  # pages that say which pixels of another are seen
    reduced: bool = False  # the first page is a small copy of another
    big_end: bool = False  # the most significant byte first

    @classmethod
    def of(cls, name: str, reals: bool = False) -> Layout:
        """The layout of the first page. Raises `FileError` for damage, `UnsupportedError` for layouts that are not in
        the table. With `reals`, samples that no picture holds become floats that hold all their values.
        """
        with damaged_as(name, "damaged or truncated picture"):
            with opened(name, "a picture") as file:
                tags, kinds = _tags(file)
                file.seek(0)
                head = file.read(4)
            layout = replace(_layout(tags, kinds), foreign=head == b"MM\0+", big_end=head[:2] == b"MM")
        try:
            layout.check(reals)
        except UnsupportedError as error:
            raise error.within(name) from None
        return layout

    def check(self, reals: bool = False) -> None:
        """Raises `UnsupportedError` for samples whose meaning is not in the table; `reals` as in `of`."""
        colours = _COLOURS.get(self.photometric)
        if self.reduced:
            raise UnsupportedError("its first page is a reduced copy, as in raw photographs; export it as plain TIFF")
        if self.pages > 1:
            raise UnsupportedError(f"holds {self.pages} pages; split it into single pictures first")
        if self.masks:
            raise UnsupportedError("a transparency mask in a page of its own; store it as alpha")
        if colours is None:
            said = _OTHER.get(self.photometric, f"photometric interpretation {self.photometric}")
            raise UnsupportedError(f"its samples are {said}, which is not filtered; convert it to grey or RGB")
        if self.samples < colours:
            raise UnsupportedError(f"{self.samples} samples per pixel, but {self._said()} has {colours}")
        whole = self.kind == "u" and (self.bits in (8, 16) or (self.bits in (1, 2, 4) and self.samples == 1))
        if not (whole or (self.kind == "f" and self.bits in (32, 64)) or (reals and self.exact_in)):
            name = {"u": "uint", "i": "int", "f": "float"}.get(self.kind, self.kind)
            remedy = f"ask for floats with --dtype {self.exact_in}" if self.exact_in else "convert it first"
            raise UnsupportedError(
                f"its samples are {name}{self.bits}; pictures are uint8, uint16, float32 or float64: {remedy}"
            )
        if self.photometric == 3 and (self.palette is None or self.bits > 8 or self.samples != 1 or self.kind != "u"):
            raise UnsupportedError("a palette with extra samples or of more than 8 bits; convert it to RGB")
        if self.photometric == 6 and (self.bits != 8 or self.samples != 3):
            raise UnsupportedError(f"YCbCr of {self.samples} samples of {self.bits} bits; convert it to RGB")
        if self.photometric == 6 and self.planar == 2:
            raise UnsupportedError("YCbCr in separate planes; convert it to RGB")
        if self.photometric == 0 and not (self.kind == "u" and self.bits <= 16):
            kind = {"f": "floating-point", "i": "signed"}.get(self.kind, f"{self.bits}-bit")
            raise UnsupportedError(f"{kind} samples with white at zero; convert it so that black is zero")
        if self.predictor != 1 and self.compression not in _WITH_PREDICTOR:
            kind = {1: "no compression", 32773: "PackBits"}.get(self.compression, f"compression {self.compression}")
            raise UnsupportedError(f"{kind} with a predictor, which readers take in different ways; store it deflated")
        alphas = [e for e in self.extras if e in (1, 2)]
        if alphas and (len(alphas) > 1 or self.extras[-1] not in (1, 2)):
            raise UnsupportedError(f"its extra samples are {self.extras}: only the last may be alpha; reorder them")
        if alphas and self.exact_in and self.kind != "f":
            raise UnsupportedError(
                f"alpha in samples of {'u' * (self.kind == 'u')}int{self.bits}; convert it to uint16"
            )
        if self.associated and len(self.extras) > 1:
            raise UnsupportedError("associated alpha together with other extra samples; make it unassociated")
        if not 1 <= self.orientation <= 8:
            raise UnsupportedError(f"orientation {self.orientation} is none; set it to 1")

    def _said(self) -> str:
        return {0: "grey", 1: "grey", 2: "RGB", 3: "a palette", 5: "CMYK", 6: "YCbCr"}[self.photometric]

    @property
    def alpha(self) -> bool:
        """Whether the last channel is alpha."""
        return bool(self.extras) and self.extras[-1] in (1, 2)

    @property
    def associated(self) -> bool:
        """Whether the stored colours are multiplied by alpha."""
        return bool(self.extras) and self.extras[-1] == 1

    @property
    def channels(self) -> int:
        """The number of channels of the filtered picture."""
        return 3 if self.photometric in (3, 6) else self.samples

    @property
    def exact_in(self) -> str:
        """The float type that holds all values of samples that no picture holds; "" for all other samples."""
        return {"i8": "float32", "i16": "float32", "f16": "float32", "i32": "float64", "u32": "float64"}.get(
            f"{self.kind}{self.bits}", ""
        )

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the filtered picture."""
        if self.exact_in:
            return np.dtype(self.exact_in)
        return np.dtype(f"{self.kind}{max(1, self.bits // 8)}")

    @property
    def shape(self) -> tuple[int, ...]:
        """(h, w) or (h, w, channels) of the filtered picture."""
        return (self.height, self.width, self.channels) if self.channels > 1 else (self.height, self.width)

    @property
    def mode(self) -> str:
        """Pillow's name for such pixels, or "DATA" for channels without a name."""
        colours = self.channels - len(self.extras) if self.photometric not in (3, 6) else 3
        if len(self.extras) > 1 or (self.extras and not self.alpha):
            return "DATA"
        if colours == 4:
            return "DATA" if self.alpha else "CMYK"
        if colours == 3:
            return "RGBA" if self.alpha else "RGB"
        return "LA" if self.alpha else {"uint8": "L", "uint16": "I;16", "float32": "F"}.get(self.dtype.name, "DATA")

    @property
    def for_pillow(self) -> bool:
        """Whether Pillow decodes such pixels as in the table, without losing bits."""
        if self.foreign or (self.associated and self.planar == 2) or self.compression not in _OF_PILLOW:
            return False
        if self.exact_in:
            return False
        if self.kind == "f":
            # Pillow exchanges the bytes of big-endian floats that libtiff has exchanged while it unpacked them
            swapped = self.big_end and self.compression != 1
            return self.bits == 32 and self.samples == 1 and self.photometric == 1 and not swapped
        if self.bits == 16:
            return self.samples == 1 and self.photometric == 1
        if self.extras:
            return self.photometric == 2 and len(self.extras) == 1 and self.alpha
        return True

    @property
    def in_bands(self) -> bool:
        """Whether rows can be read separately: samples of whole bytes that the installed tifffile can decode."""
        if self.bits < 8 or self.photometric == 6 or self.fill_order != 1:
            return False
        try:
            return not missing_codec(tifffile_package(), self.compression, self.predictor)
        except ImportError:
            return False

    def meant(self, raw: NDArray) -> NDArray:
        """Converts stored rows (rows, w, samples) to pixels (rows, w, channels) or (rows, w)."""
        if self.photometric == 3:
            assert self.palette is not None
            return self.palette[raw[..., 0]]
        rows = raw.astype(self.dtype, copy=False)
        if self.photometric == 0:
            rows = rows.copy()
            colour = rows[..., :1]
            np.subtract(np.iinfo(self.dtype).max, colour, out=colour)
        if self.associated:
            rows = unassociated(rows)
        return rows if self.channels > 1 else rows[..., 0]


def unassociated(rows: NDArray) -> NDArray:
    """Colours divided by the alpha with which they are multiplied: ⌊c · top / a⌋, at most the top; 0 where alpha is 0.

    Equal to Pillow's conversion of "RGBa" pixels; floats are divided without rounding.
    """
    alpha = rows[..., -1:]
    if rows.dtype.kind == "f":
        with np.errstate(divide="ignore", invalid="ignore"):
            colours = np.where(alpha != 0, rows[..., :-1] / alpha, 0).astype(rows.dtype)
    else:
        top = int(np.iinfo(rows.dtype).max)
        divided = rows[..., :-1].astype(np.uint32) * np.uint32(top) // np.maximum(alpha, 1).astype(np.uint32)
        colours = np.where(alpha != 0, np.minimum(divided, top), 0).astype(rows.dtype)
    return np.concatenate([colours, alpha], axis=-1)


def _layout(tags: Mapping[int, Tag], kinds: list[int]) -> Layout:
    def numbers(code: int, default: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(int(v) for v in tags[code].value) if code in tags else default

    def one(code: int, default: int) -> int:
        return numbers(code, (default,))[0]

    bits, formats = numbers(BITS, (1,)), numbers(FORMAT, (1,))
    if len(set(bits)) > 1 or len(set(formats)) > 1:
        raise ValueError(f"its samples have different types: {bits} bits, formats {formats}")
    width, height, samples = one(WIDTH, 0), one(HEIGHT, 0), one(SAMPLES, 1)
    if width < 1 or height < 1 or samples < 1:
        raise ValueError(f"{width}x{height} pixels of {samples} samples")
    if samples > MOST_SAMPLES:
        raise ValueError(f"{samples:,} samples per pixel; TIFF allows {MOST_SAMPLES:,}")
    photometric = one(PHOTOMETRIC, 1)
    if photometric == 5 and one(INK_SET, 1) != 1:
        photometric = -5  # inks that are not CMYK
    marked = numbers(EXTRA, ())
    extra = max(0, samples - _COLOURS.get(photometric, samples))
    extras = (marked + (0,) * extra)[:extra]
    if not marked and extra == 1 and photometric == 2:
        extras = (2,)
    # as in Pillow, a single value that is none of the three means alpha
    extras = tuple(e if e in (0, 1, 2) else 2 if extra == 1 else 0 for e in extras)
    palette = None
    if PALETTE in tags and photometric == 3 and bits[0] <= 8:  # `check` refuses others
        table = np.asarray(tags[PALETTE].value, np.uint16)
        palette = np.ascontiguousarray((table.reshape(3, -1).T >> 8).astype(np.uint8))
        if len(palette) != 1 << bits[0]:
            raise ValueError(f"its palette has {len(palette)} colours, {bits[0]} bits need {1 << bits[0]}")
    kept = tuple(t for code, t in sorted(tags.items()) if (code in _CARRIED or code in _PLACED) and _says(t))
    lost = tuple(
        _NAMES.get(code, f"tag {code}")
        for code in sorted(tags)
        if code not in _LAYOUT_TAGS and code not in _CARRIED and code not in _PLACED
    )
    masks = sum(1 for kind in kinds[1:] if kind & 4)
    smaller = sum(1 for kind in kinds[1:] if kind & 1 and not kind & 4)
    pages = len(kinds) - masks - smaller
    lost += (f"{smaller} reduced cop{'y' if smaller == 1 else 'ies'}",) if smaller else ()
    reduced = bool(kinds[0] & 1) and (len(kinds) > 1 or SUB_PAGES in tags)
    icc = tags[ICC].value if ICC in tags and isinstance(tags[ICC].value, bytes) else None
    return Layout(
        width, height, photometric, samples, bits[0], _KINDS.get(formats[0], f"format {formats[0]} "), extras,
        one(PLANAR, 1), one(ORIENTATION, 1), one(COMPRESSION, 1), one(FILL_ORDER, 1), pages, palette, icc or None,
        kept, lost, marked, predictor=one(PREDICTOR, 1), masks=masks, reduced=reduced,
    )  # fmt: skip


def _says(tag: Tag) -> bool:
    """Whether a tag is valid: TIFF allows no tag without a value, and three units of resolution."""
    return bool(tag.count) and (tag.code != UNIT or tag.value[0] in (1, 2, 3))


def _tags(file: BinaryIO) -> tuple[dict[int, Tag], list[int]]:
    """The tags of the first page, without the offsets of pixels, and what each page is (NewSubfileType)."""
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}[head[:2]]
    (version,) = struct.unpack(order + "H", head[2:4])
    if version not in (42, 43):
        raise ValueError(f"version {version} is not TIFF")
    big = version == 43
    (at,) = struct.unpack(order + ("Q" if big else "I"), head[8:16] if big else head[4:8])
    size = os.fstat(file.fileno()).st_size
    found: dict[int, Tag] = {}
    kinds: list[int] = []
    seen: set[int] = set()
    while at and len(seen) < MOST_PAGES:
        if at in seen or at + 2 > size:
            raise ValueError("its chain of pages is broken")
        seen.add(at)
        file.seek(at)
        (count,) = struct.unpack(order + ("Q" if big else "H"), file.read(8 if big else 2))
        each = 20 if big else 12
        if count > 1 << 16:
            raise ValueError(f"{count} tags")
        block = file.read(count * each + (8 if big else 4))
        if len(seen) == 1:
            if len(block) < count * each:
                raise ValueError("its tags are cut off")
            length = numbers = 0
            for i in range(count):
                tag = _tag(file, block[i * each : (i + 1) * each], order, big)
                if tag is not None and tag.code not in found:
                    found[tag.code] = tag
                    # values may overlap: all together may be far more than the file
                    length += tag.count * _SIZES[tag.type]
                    numbers += 0 if isinstance(tag.value, bytes) else len(tag.value)
                    if length > MOST_VALUE or numbers > MOST_NUMBERS:
                        raise ValueError(f"its tags hold {length:,} bytes up to tag {tag.code}")
        kinds.append(_subfile_type(block, count, each, order))
        rest = block[count * each :]
        if len(rest) < (8 if big else 4):
            break
        (at,) = struct.unpack(order + ("Q" if big else "I"), rest)
    return found, kinds


def _subfile_type(block: bytes, count: int, each: int, order: str) -> int:
    """NewSubfileType of a page's tags: 1 marks a reduced copy, 4 a mask; 0 if it does not say."""
    for at in range(0, min(count * each, len(block) - each + 1), each):
        code, kind = struct.unpack(order + "HH", block[at : at + 4])
        if code == SUBFILE:
            value = block[at + each - (8 if each == 20 else 4) : at + each]
            return int(struct.unpack(order + ("H" if kind == 3 else "I"), value[: 2 if kind == 3 else 4])[0])
    return 0


def _tag(file: BinaryIO, entry: bytes, order: str, big: bool) -> Tag | None:
    code, kind = struct.unpack(order + "HH", entry[:4])
    (count,) = struct.unpack(order + ("Q" if big else "I"), entry[4 : 12 if big else 8])
    if (
        code in (273, 279, 324, 325, 288, 289) or kind not in _SIZES
    ):  # the offsets of pixels are only needed for decoding
        return None
    if code not in _LAYOUT_TAGS and code not in _CARRIED and code not in _PLACED:
        return Tag(code, 7, b"")  # only that it is there is said
    length, inline = count * _SIZES[kind], entry[12:] if big else entry[8:]
    letters = kind in (2, 7) or (kind in (1, 6) and code in (XMP, ICC, 33723, 34377))
    if length > MOST_VALUE or (not letters and count > MOST_NUMBERS):
        raise ValueError(f"tag {code} of {length:,} bytes")
    if length <= len(inline):
        data = inline[:length]
    else:
        (at,) = struct.unpack(order + ("Q" if big else "I"), inline)
        file.seek(at)
        data = file.read(length)
        if len(data) < length:
            raise ValueError(f"tag {code} is cut off")
    if letters:
        return Tag(code, kind, data)
    if kind in (5, 10):
        return Tag(code, kind, struct.unpack(f"{order}{2 * count}{'I' if kind == 5 else 'i'}", data))
    return Tag(code, kind, struct.unpack(f"{order}{count}{_CODES[kind]}", data))


def kept_tags(tags: tuple[Tag, ...], moved: bool) -> tuple[tuple[Tag, ...], tuple[str, ...]]:
    """The tags that are still true for the result, and the names of those that are not, such as positions if pixels
    `moved`.
    """
    if not moved:
        return tags, ()
    return tuple(t for t in tags if t.code not in _PLACED), tuple(_PLACED[t.code] for t in tags if t.code in _PLACED)


def names_of(tags: tuple[Tag, ...]) -> tuple[str, ...]:
    """The tags' names."""
    return tuple(_CARRIED.get(t.code) or _PLACED.get(t.code) or f"tag {t.code}" for t in tags)
