"""Pictures in class folders, on disk or in a .zip that is read in place: decode, resize, label by folder."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from dojang.base.budget import ENVIRONMENT, Budget, unpacked_limit
from dojang.base.errors import DataError, FileError, UsageError
from dojang.base.pictures import FORMATS
from dojang.base.reading import damaged_as, read_bytes, unpacked, zipped
from dojang.training.asked import WHITE
from dojang.training.meaning import sizes
from dojang.training.parts import PART_NAMES, as_two, part_of, parts_of, said
from dojang.training.streams import StreamedSamples, fits, some_of

Array = NDArray[Any]

MAX_PIXELS = 1 << 26
"""Largest picture that is decoded: 64 Mpixel, beyond today's cameras; a larger header is taken for a bomb."""

MAX_FILE_BYTES = 1 << 28
"""Largest file of one picture, in a folder or unpacked from a .zip: 256 MiB."""

PICTURE_TIMES = 64
"""Pictures may take so many times the bytes of their files: photographs take 5 to 30 times, drawings up to 60."""

ALONE = 1 << 22
"""Pixels from which on pictures are decoded one at a time, so that the memory in between is that of one."""

_GREY = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"}
# What file managers leave behind; everything else in a class folder has to be a picture.
_LITTER = {"thumbs.db", "desktop.ini", "__macosx"}
_LARGE = Lock()


@dataclass(frozen=True)
class SampleSize:
    """The size that samples are brought to; None where they are taken as they come. `white`: the value of white in
    pictures of more than 8 bits, where it is known.
    """

    channels: int | None = None
    size: tuple[int, int] | None = None
    white: int | None = None

    @classmethod
    def of(cls, size: int | Sequence[int] | None, values: str | None = None) -> SampleSize:
        """From one side, (h, w), (c, h, w) or None, and `Asked.values`."""
        white = WHITE.get(values or "")
        if size is None:
            return cls(white=white)
        sides = (size, size) if isinstance(size, int) else tuple(size)
        if len(sides) not in (2, 3) or any(s < 1 for s in sides):
            raise UsageError(f"size {sides}: give (h, w) or (c, h, w), each at least 1")
        channels = sides[0] if len(sides) == 3 else None
        return cls(channels, (sides[-2], sides[-1]), white)


@dataclass(frozen=True, eq=False)
class Tree:
    """Pictures by part and class: (x, y) of "train", and of "test" and "val" where there are such folders.

    `classes` are in sorted order of their names; `split` says which folders the parts are. `files` are the places of
    the pictures, by part.
    """

    parts: dict[str, tuple[Any, Array]]
    classes: tuple[str, ...]
    files: dict[str, Array]
    split: str = ""
    notes: tuple[str, ...] = ()


def read_folder(path: Path, target: SampleSize, least: int = 2) -> Tree:
    """Pictures of a folder with one sub-folder per class, or with folders of parts (train, test, …) that hold such.

    `least` is the least number of classes. Pictures that do not fit into memory are decoded when they are needed.
    """
    files, folders = [], []
    for root, below, names in os.walk(path, followlinks=True):
        parts = Path(root).relative_to(path).parts
        if len(parts) >= 6:  # also what ends a loop of links
            below.clear()
        folders.append(parts)
        files += [(*parts, name) for name in names]

    def read(parts: tuple[str, ...]) -> bytes:
        return read_bytes(path.joinpath(*parts), MAX_FILE_BYTES, "a picture")

    return _tree(path, files, folders, read, target, least)


def read_zip(path: Path, target: SampleSize, least: int = 2) -> Tree:
    """The same out of a .zip, nothing unpacked to disk."""
    with contextlib.ExitStack() as stack:
        archive = stack.enter_context(zipped(path))
        entries = {}
        folders = []
        for info in archive.infolist():
            parts = tuple(p for p in info.filename.replace("\\", "/").split("/") if p)
            if info.is_dir():
                folders.append(parts)
            elif parts:
                entries[parts] = info

        def read(parts: tuple[str, ...]) -> bytes:
            # a budget for each picture: its bytes are let go once it is decoded
            place, info = f"{path}: {'/'.join(parts)}", entries[parts]
            if info.file_size > MAX_FILE_BYTES:
                raise FileError(f"{place}: unpacks to {info.file_size} bytes, more than {MAX_FILE_BYTES}; not trusted")
            return unpacked(archive, info, place, Budget(place, MAX_FILE_BYTES))

        tree = _tree(path, list(entries), folders, read, target, least)
        if any(isinstance(x, StreamedSamples) for x, _ in tree.parts.values()):
            weakref.finalize(read, stack.pop_all().close)  # open as long as somebody may read
        return tree


def _tree(
    path: Path,
    files: list[tuple[str, ...]],
    folders: list[tuple[str, ...]],
    read: Callable[[tuple[str, ...]], bytes],
    target: SampleSize,
    least: int,
) -> Tree:
    files = sorted(f for f in files if not _litter(f))
    every = {f[:i] for f in files for i in range(1, len(f))}
    every |= {f[:i] for f in folders for i in range(1, len(f) + 1) if not _litter(f)}
    prefix: tuple[str, ...] = ()
    # A single folder around everything, as a .zip of a folder has, says nothing.
    while (tops := _tops(every, prefix)) and len(tops) == 1 and _tops(every, (*prefix, tops[0])):
        prefix = (*prefix, tops[0])
    found = _parts(path, tops, every, prefix)
    roots = {part: (*prefix, name) for part, name in found.items()} or {"train": prefix}
    groups = {part: _by_class(path, files, every, root) for part, root in roots.items()}
    for part, group in groups.items():
        if not group and found:
            raise DataError(f"{path}: {found[part]} is empty; put class folders with pictures into it, or take it away")
    classes = tuple(sorted(groups["train"]))
    if len(classes) < least:
        only = f"only {classes[0]!r}" if classes else "none"
        raise DataError(f"{path}: pictures need at least two class folders; found {only}")
    for part, group in groups.items():
        extra = next((name for name in group if name not in classes), None)
        if extra is not None:
            raise DataError(f"{path}: class {extra!r} of the {PART_NAMES[part]} is not in the train part")
    listed = {
        part: [(file, classes.index(name)) for name in sorted(group) for file in group[name]]
        for part, group in groups.items()
    }
    flat = [item for part in listed.values() for item in part]
    x = _decoded(path, [file for file, _ in flat], read, target)
    y = np.asarray([label for _, label in flat], np.int64)
    places = np.asarray([f"{path}/{'/'.join(file)}" for file, _ in flat], object)
    parts, named, start = {}, {}, 0
    for part, items in listed.items():
        at = slice(start, start + len(items))
        parts[part], named[part] = (some_of(x, at), y[at]), places[at]
        start += len(items)
    notes = ("the samples are larger than memory allows: they are decoded when they are needed",)
    return Tree(parts, classes, named, said(found) if found else "", notes if isinstance(x, StreamedSamples) else ())


def _parts(path: Path, tops: list[str], every: set[tuple[str, ...]], prefix: tuple[str, ...]) -> dict[str, str]:
    """The folder of each part; none where the folders are classes, of which one may be named "train" (the vehicle)."""
    known = [name for name in tops if part_of(name) is not None]
    nested = [name for name in known if _tops(every, (*prefix, name))]
    named = {part_of(name) for name in known}
    if not known or (not nested and not {"train"} < named):
        return {}
    if "train" not in named:
        raise DataError(
            f"{path}: {' and '.join(known)} {'names a part' if len(known) == 1 else 'name parts'} of data, and there "
            "is none to train on; add train/"
        )
    return as_two(parts_of(tops, str(path)))


def _litter(parts: tuple[str, ...]) -> bool:
    return any(p.startswith(".") or p.lower() in _LITTER for p in parts)


def _tops(every: set[tuple[str, ...]], prefix: tuple[str, ...]) -> list[str]:
    depth = len(prefix)
    return sorted(p[depth] for p in every if len(p) == depth + 1 and p[:depth] == prefix)


def _by_class(
    path: Path, files: list[tuple[str, ...]], every: set[tuple[str, ...]], root: tuple[str, ...]
) -> dict[str, list[tuple[str, ...]]]:
    depth = len(root)
    group: dict[str, list[tuple[str, ...]]] = {name: [] for name in _tops(every, root)}
    for file in files:
        if file[:depth] != root:
            continue
        if len(file) > depth + 1:
            group[file[depth]].append(file)
        elif Path(file[-1]).suffix.lower() in Image.registered_extensions():
            raise DataError(f"{path}: {'/'.join(file)} is in no class folder; move it into one")
    for name, members in group.items():
        inner = [below for below in _tops(every, (*root, name)) if part_of(below) is not None]
        if {"train", "test"} <= {part_of(below) for below in inner}:
            raise DataError(
                f"{path}: class folder {'/'.join((*root, name))} holds {' and '.join(inner)}; put the parts "
                f"outside and the classes inside, as in {inner[-1]}/{name}"
            )
        if not members:
            raise DataError(f"{path}: class folder {'/'.join((*root, name))} is empty; add pictures or remove it")
    return group


def _decoded(
    path: Path, files: list[tuple[str, ...]], read: Callable[[tuple[str, ...]], bytes], target: SampleSize
) -> Any:
    """All pictures as uint8 (n, c, h, w): one channel when all are grey, three otherwise, or as the target says.

    `StreamedSamples` where they do not fit into memory.
    """
    if files:
        first = decoded(read(files[0]), f"{path}: {'/'.join(files[0])}", target)
        if not fits(first.size, len(files)):
            return _streamed(path, files, read, target, first)
    arrays: list[Array] = []
    stored = taken = 0
    for file, (size, array) in zip(files, _decode_all(path, files, read, target), strict=True):
        arrays.append(array)
        stored, taken = stored + size, taken + array.size
        if taken > unpacked_limit(stored, PICTURE_TIMES):
            raise FileError(
                f"{path}: its pictures take {taken:,} bytes up to {'/'.join(file)}, more than "
                f"{unpacked_limit(stored, PICTURE_TIMES):,}; give a smaller size (--input-size C,H,W), or raise the "
                f"limit with {ENVIRONMENT}"
            )
        if array.shape[:2] != arrays[0].shape[:2]:
            raise DataError(
                f"{path}: {'/'.join(file)} is {sizes(array.shape[:2])} while {'/'.join(files[0])} is "
                f"{sizes(arrays[0].shape[:2])}; give one size (--input-size C,H,W) to resize"
            )
    channels = max(a.shape[2] for a in arrays)
    x = np.empty((len(arrays), channels, *arrays[0].shape[:2]), np.uint8)
    for i, array in enumerate(arrays):
        x[i] = array.transpose(2, 0, 1)  # a grey picture among coloured ones is repeated in every channel
    return x


def _streamed(
    path: Path,
    files: list[tuple[str, ...]],
    read: Callable[[tuple[str, ...]], bytes],
    target: SampleSize,
    first: Array,
) -> StreamedSamples:
    """Pictures that are decoded when they are asked for, by several threads."""
    if target.size is None:
        raise DataError(
            f"{path}: {len(files)} pictures of {sizes(first.shape[:2])} do not fit into memory; give one size "
            "(--input-size C,H,W), and they are decoded when they are needed"
        )
    channels, (h, w) = target.channels or first.shape[2], target.size
    same = SampleSize(channels, (h, w), target.white)

    def samples(rows: Array) -> Array:
        out = np.empty((len(rows), channels, h, w), np.uint8)
        for place, (_, array) in zip(out, _decode_all(path, [files[i] for i in rows], read, same), strict=True):
            place[:] = array.transpose(2, 0, 1)
        return out

    def digest(rows: Array) -> bytes:
        found = sha256(repr(same).encode())
        for i in rows:
            found.update(sha256(read(files[i])).digest())
        return found.digest()

    return StreamedSamples(samples, (len(files), channels, h, w), np.uint8, digest)


def _decode_all(
    path: Path, files: list[tuple[str, ...]], read: Callable[[tuple[str, ...]], bytes], target: SampleSize
) -> Iterator[tuple[int, Array]]:
    """The size of each file, and its picture."""

    def decode(item: tuple[tuple[str, ...], bytes]) -> tuple[int, Array]:
        return len(item[1]), decoded(item[1], f"{path}: {'/'.join(item[0])}", target)

    # Pillow decodes outside the interpreter lock, so threads help with photographs; blocks bound what is in memory.
    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")  # Pillow warns of what is an error here (bombs) or harmless (EXIF)
        start = 0
        while start < len(files):
            # as many files as are 256 or hold 64 MiB, whatever comes first
            block: list[tuple[tuple[str, ...], bytes]] = []
            size = 0
            while start < len(files) and len(block) < 256 and size < 1 << 26:
                block.append((files[start], read(files[start])))
                size += len(block[-1][1])
                start += 1
            yield from pool.map(decode, block)


def size_of_picture(path: Path) -> tuple[int, int]:
    """Height and width of a picture when it is upright, without decoding it."""
    raw = read_bytes(path, MAX_FILE_BYTES, "a picture")
    with damaged_as(str(path), "no picture that can be read"):
        try:
            image = Image.open(io.BytesIO(raw), formats=FORMATS)
        except UnidentifiedImageError:  # its message would name a Python object
            raise FileError(f"{path}: no picture that can be read; remove or replace it") from None
        with image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (width, height) if turned else (height, width)


def decoded(raw: bytes, where: str, target: SampleSize) -> Array:
    """One picture as uint8 (h, w, c), turned upright, c 1 for grey and 3 for colour (or 4), alpha dropped.

    With a target size it is scaled to cover that and centre-cropped.
    """
    with damaged_as(where, "no picture that can be read"):
        try:
            image = Image.open(io.BytesIO(raw), formats=FORMATS)
        except UnidentifiedImageError:  # its message would name a Python object
            raise FileError(f"{where}: no picture that can be read; remove or replace it") from None
        with image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise FileError(
                    f"{where}: {width}×{height} pixels, more than {MAX_PIXELS}; not trusted, make it smaller"
                )
            with _LARGE if width * height > ALONE else contextlib.nullcontext():
                return _upright(image, where, target)


def _upright(image: Image.Image, where: str, target: SampleSize) -> Array:
    if target.size is not None and image.format == "JPEG":
        # Decoding at a half, quarter or eighth is several times faster; at least twice the target remains.
        image.draft(None, (2 * target.size[1], 2 * target.size[0]))
    ImageOps.exif_transpose(image, in_place=True)
    channels = target.channels or (1 if image.mode in _GREY else 3)
    picture = _in_colour(image, channels, where, target.white)
    if target.size is not None:
        picture = ImageOps.fit(picture, (target.size[1], target.size[0]), Image.Resampling.BILINEAR)
    array = np.asarray(picture)
    return array[:, :, None] if array.ndim == 2 else array


def _in_colour(image: Image.Image, channels: int, where: str, white: int | None = None) -> Image.Image:
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    if channels not in modes:
        raise UsageError(f"{where}: a picture cannot have {channels} channels; use 1, 3 or 4")
    if image.mode == "F":
        raise DataError(f"{where}: a picture of floating-point values; store it in 8 or 16 bits, or use .npz")
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _in_8_bits(image, where, white)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == modes[channels] else image.convert(modes[channels])


def _in_8_bits(image: Image.Image, where: str, white: int | None) -> Image.Image:
    """A grey picture of 16 or 32 bits in 8. Pillow's own conversion clips at 255.

    16 bits have white at 65535, unless `white` says otherwise; 32 bits say nothing, and it is asked for.
    """
    deep = np.asarray(image)
    if white is None and image.mode == "I" and image.format != "PNG":
        raise DataError(
            f"{where}: 32 bits do not say which value is white (values from {deep.min()} to {deep.max()}); say "
            "--values 0-255 or 0-65535"
        )
    white = white or 65535
    if deep.min() < 0 or deep.max() > white:
        raise DataError(
            f"{where}: values from {deep.min()} to {deep.max()} are not within 0-{white}; give other --values"
        )
    return Image.fromarray((deep // (white // 255)).astype(np.uint8))


def resized(x: Any, target: SampleSize, where: str) -> Any:
    """Samples (n, c, h, w) brought to the target: scaled to cover it, centre-cropped, colour converted.

    Grey to colour repeats the channel; colour to grey is 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601).
    """
    if target.size is None or (x.shape[2:] == target.size and target.channels in (None, x.shape[1])):
        return x
    if isinstance(x, StreamedSamples):
        return _resized_when_read(x, target, where)
    if x.ndim != 4:
        raise DataError(f"{where}: samples of shape {x.shape[1:]} cannot be resized to {target.size}")
    channels = target.channels or x.shape[1]
    if channels != x.shape[1]:
        if x.shape[1] == 1:
            x = np.repeat(x, channels, axis=1)
        elif x.shape[1] == 3 and channels == 1:
            grey = np.tensordot(x.astype(np.float32), np.array([0.299, 0.587, 0.114], np.float32), (1, 0))
            x = (np.rint(grey).astype(np.uint8) if x.dtype == np.uint8 else grey)[:, None]
        else:
            raise DataError(f"{where}: samples of {x.shape[1]} channels cannot become {channels}; use --input-size")
    if x.shape[2:] == target.size:
        return x
    out = np.empty((len(x), channels, *target.size), x.dtype)
    size = (target.size[1], target.size[0])
    for sample, place in zip(x.reshape(-1, *x.shape[2:]), out.reshape(-1, *target.size), strict=True):
        place[:] = np.asarray(ImageOps.fit(Image.fromarray(sample), size, Image.Resampling.BILINEAR))
    return out


def _resized_when_read(x: StreamedSamples, target: SampleSize, where: str) -> StreamedSamples:
    """Samples that stay where they are stored; each is resized when it is asked for."""
    one = resized(np.zeros((1, *x.shape[1:]), x.dtype), target, where)

    def digest(rows: Array) -> bytes:
        return sha256(repr(target).encode() + x.view(rows).digest()).digest()

    return StreamedSamples(lambda rows: resized(x[rows], target, where), (len(x), *one.shape[1:]), one.dtype, digest)
