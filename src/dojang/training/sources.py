"""Where data sets come from: one reader per kind, each giving arrays in the final form of `Data`."""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dojang.base.budget import Budget
from dojang.base.errors import DataError, FileError, MissingPart
from dojang.base.reading import check_array_shape, damaged_as, gzipped, opened, take
from dojang.base.wording import did_you_mean
from dojang.formats.arrays import is_npy, npz_names, read_npy, read_npz
from dojang.training import cifar
from dojang.training.asked import NOTHING, Asked
from dojang.training.data import Augment, Size
from dojang.training.labels import narrowed
from dojang.training.meaning import check_samples, samples_of, sizes
from dojang.training.named_arrays import array_names, class_names, pairs_of
from dojang.training.parts import PART_NAMES, said
from dojang.training.pictures import SampleSize, Tree, read_folder, read_zip, resized
from dojang.training.zarrs import read_zarr

Array = NDArray[Any]
Part = tuple[Array, Array]

# Header of an IDX file: two zero bytes, a type code, the number of axes, then the axes as big-endian uint32.
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


@dataclass(frozen=True, eq=False)
class Source:
    """What a reader found: (x, y) by part ("train", "test", "val"), the names of the classes where the source has them.

    `split` says where the parts come from, `notes` what else was understood, in sentences. `files`: the places of the
    samples by part, where each is a file.
    """

    name: str
    parts: Mapping[str, Part]
    classes: tuple[str, ...] | None
    augment: Augment
    split: str = ""
    notes: tuple[str, ...] = ()
    files: Mapping[str, Array] = field(default_factory=dict[str, Array])


def read(spec: str | Path, size: Size | None = None, asked: Asked = NOTHING, least: int = 2) -> Source:
    """The source that `spec` names, every sample of it resized when `size` is given (see `load.load`).

    `asked` says what arrays do not tell; `least` is the least number of class folders.
    """
    target = SampleSize.of(size, asked.values)
    if str(spec) == "digits":
        return _fitted(_digits(), target)
    path = Path(spec)
    if not _there(path):
        kinds = "give digits, a folder or .zip of class folders, .npz, .zarr, IDX or CIFAR files"
        near = did_you_mean(path.name, ("digits", *_beside(path)), kinds)
        raise FileError(f"{path}: no such data; {near}")
    try:
        return _read_path(path, target, asked, least)
    except PermissionError as error:
        raise FileError(
            f"{path}: cannot be read ({error.strerror}: {error.filename}); change its permissions"
        ) from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or error})") from None


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file system takes
        return False


def _read_path(path: Path, target: SampleSize, asked: Asked, least: int) -> Source:
    kind = path.suffix.lower()
    if path.is_dir():
        files = {p.name for p in path.iterdir() if p.is_file()}
        if kind == ".zarr" or files & {"zarr.json", ".zgroup", ".zarray"}:
            return _zarr(path, target, asked)
        if any(_is_idx_images(name) for name in files):
            return _fitted(_idx_folder(path, files), target)
        if any(name.endswith(".bin") for name in files):
            parts, classes = cifar.folder_of(path, files)
            return _fitted(_cifar(path.name, parts, classes, path), target)
        if {"data_batch_1", "test_batch"} <= files or {"train", "test", "meta"} <= files:
            raise FileError(
                f"{path}: CIFAR's version for Python is pickled, which is not read; take the binary version"
            )
        return _pictures(path, read_folder, target, least)
    if kind == ".zip":
        return _pictures(path, read_zip, target, least)
    if kind == ".npz":
        return _npz(path, target, asked)
    if kind == ".bin":
        x, y, classes = cifar.file_of(path)
        return _fitted(_cifar(path.name, {"train": (x, y)}, classes, path.parent), target)
    if _is_idx_images(path.name):
        return _fitted(Source(path.name, {"train": _idx_pair(path)}, None, Augment(crop=2)), target)
    raise FileError(
        f"{path}: {kind or 'no suffix'} is no kind of data known here; give a folder, .zip, .npz, .zarr, IDX or CIFAR "
        "files"
    )


def _fitted(source: Source, target: SampleSize) -> Source:
    """`source` with every sample resized and its colour converted to the target, where there is one."""
    parts = {part: (resized(x, target, source.name), y) for part, (x, y) in source.parts.items()}
    return replace(source, parts=parts)


def _said(source: Source, target: SampleSize) -> Source:
    """`_fitted` for arrays somebody made: that they were not what the network takes is said, it may be a mistake."""
    fitted = _fitted(source, target)
    had, has = ("×".join(map(str, s.parts["train"][0].shape[1:])) for s in (source, fitted))
    if has != had:
        warnings.warn(f"{source.name}: samples of {had} were made {has}, which the network takes", stacklevel=2)
    return fitted


def _cifar(name: str, parts: Mapping[str, Part], classes: int, folder: Path) -> Source:
    split = "the test part is the data's own" if "test" in parts else ""
    note = f"read as the binary version of CIFAR-{classes}" + (" with its 100 classes" if classes == 100 else "")
    return Source(name, parts, cifar.names_of(folder, classes), MIRRORED, split, (note, MIRROR_RULE))


MIRRORED = Augment(crop=4, mirror=True)
"""How CIFAR's pictures are usually varied (He et al., "Deep residual learning", 2016, section 4.2)."""

MIRROR_RULE = "pictures are mirrored at random, because what they show (CIFAR's classes) is the same mirrored"
"""The only rule by which pictures are mirrored without being asked for."""


def _digits() -> Source:
    """The 1797 handwritten digits of 8×8 pixels that scikit-learn ships, values 0 … 16 as float32 0 … 1 (exact).

    Optical Recognition of Handwritten Digits, Alpaydin and Kaynak 1998, UCI; the test part of that set.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise MissingPart("the digits data need scikit-learn: pip install 'dojang[data]'") from None
    bunch: Any = load_digits()
    x = (bunch.images[:, None] / 16).astype(np.float32)
    classes = tuple(str(i) for i in range(10))
    # No shifts: these digits touch the edges of their 8×8 frames, and a shift would cut strokes off.
    return Source("digits", {"train": (x, bunch.target.astype(np.int64))}, classes, Augment())


def _pictures(path: Path, reader: Callable[[Path, SampleSize, int], Tree], target: SampleSize, least: int) -> Source:
    """Pictures in class folders. They are mirrored only where the classes are those of CIFAR-10: whether a mirrored
    picture is of the same class (an arrow to the left, a "b") cannot be told from names of folders.
    """
    tree = reader(path, target, least)
    x = tree.parts["train"][0]
    mirrored = set(tree.classes) == set(cifar.NAMES_10) and x.shape[1] > 1
    augment = replace(Augment(crop=min(x.shape[2:]) // 8), mirror=mirrored)
    notes = (MIRROR_RULE,) if mirrored else ()
    return Source(path.name, tree.parts, tree.classes, augment, tree.split, (*tree.notes, *notes), tree.files)


def npz_samples(path: Path) -> Array | None:
    """The array `x` (or `x_train`) of an .npz without labels, or of an .npy; None for a file that has labels."""
    arrays = _arrays(path, single=True)
    if any(name in arrays for name in ("y", "y_train")):
        return None
    for name in ("x", "x_train"):
        if name in arrays:
            return arrays[name]
    raise DataError(f"{path}: needs an array x; found {', '.join(sorted(arrays)) or 'none of the known names'}")


def _arrays(path: Path, single: bool = False) -> dict[str, Array]:
    """The known arrays of an .npz, named as `array_names` says; with `single` the one of an .npy counts as x."""
    if is_npy(path):
        if single:
            return {"x": read_npy(path)}
        raise FileError(f"{path}: a single array, not an .npz of x and y; write it with numpy.savez")
    known = array_names(npz_names(path), str(path))
    return {known[name]: array for name, array in read_npz(path, known).items()}


def _npz(path: Path, target: SampleSize, asked: Asked) -> Source:
    """Arrays `x` and `y` (or `x_train` and `y_train`), optionally those of other parts, and names in `classes`."""
    arrays = _arrays(path)
    found = pairs_of(arrays, str(path))
    where = {part: str(path) if part == "train" else f"{path}, {PART_NAMES[part]}" for part in found}
    xs, notes = samples_of([(pair[0], where[part]) for part, pair in found.items()], asked)
    parts = {part: (x, pair[1]) for x, (part, pair) in zip(xs, found.items(), strict=True)}
    names = None
    if "classes" in arrays:
        with damaged_as(f"{path}: classes", "not read as names"):  # letters that Unicode does not have
            names = class_names(arrays["classes"])
    split = said({part: f"the arrays of {part}" for part in parts}) if len(parts) > 1 else ""
    return _said(Source(path.name, parts, names, Augment(), split, notes), target)


def _zarr(path: Path, target: SampleSize, asked: Asked) -> Source:
    """A Zarr group with the arrays that an .npz has."""
    parts, names, notes = read_zarr(path, asked)
    split = said({part: f"the arrays of {part}" for part in parts}) if len(parts) > 1 else ""
    return _said(Source(path.name, parts, names, Augment(), split, notes), target)


def _is_idx_images(name: str) -> bool:
    return "images" in name and "idx" in name and name.removesuffix(".gz").endswith("ubyte")


def _idx_folder(path: Path, files: set[str]) -> Source:
    """`train-images-idx3-ubyte` and `t10k-images-idx3-ubyte` with their labels, plain or .gz, of one data set."""
    images = sorted(name for name in files if _is_idx_images(name))
    # Unpacked beside packed: the same file twice; the unpacked one reads faster.
    images = [name for name in images if name.removesuffix(".gz") == name or name.removesuffix(".gz") not in images]
    train = [name for name in images if "train" in name]
    test = [name for name in images if "t10k" in name or "test" in name]
    if len(train) != 1 or len(test) > 1:
        raise DataError(f"{path}: {len(train)} train and {len(test)} test image files in IDX form; name one file")
    parts = [_idx_pair(path / name) for name in train + test]
    found: dict[str, Part] = dict(zip(("train", "test"), parts, strict=False))
    split = said(dict(zip(("train", "test"), train + test, strict=False))) if test else ""
    return Source(path.name, found, None, Augment(crop=2), split)


def _idx_pair(images: Path) -> Part:
    labels = images.with_name(images.name.replace("images", "labels").replace("idx3", "idx1"))
    options = [labels, labels.with_name(labels.name + ".gz"), labels.with_name(labels.name.removesuffix(".gz"))]
    found = [p for p in options if p.exists()]
    if not found:
        raise FileError(f"{images}: its labels {labels.name} are missing; put them beside it")
    x, y = _idx_array(images), _idx_array(found[0])
    if y.ndim != 1:
        raise DataError(f"{found[0]}: labels have {y.ndim} axes; a label file has 1")
    if x.ndim not in (3, 4):
        raise DataError(f"{images}: images have {x.ndim} axes; an image file has 3")
    check_samples(x, str(images))
    if not np.array_equal(y, np.floor(y)) or not np.isfinite(y).all():
        raise DataError(f"{found[0]}: its labels are no whole numbers; use the numbers of the classes from 0")
    x = x if x.ndim == 4 else x[:, None]
    return (x if x.dtype == np.uint8 else narrowed(x, str(images))), y.astype(np.int64)


def _idx_array(path: Path) -> Array:
    """The array in an IDX file (http://yann.lecun.com/exdb/mnist), .gz or plain, read no further than it declares."""
    place = str(path)
    with gzipped(path) if path.suffix == ".gz" else opened(path) as file:
        head = file.read(4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _IDX_TYPES or not 1 <= head[3] <= 4:
            raise FileError(f"{path}: does not start like an IDX file (two zero bytes, a type, the axes)")
        raw = file.read(4 * head[3])
        if len(raw) < 4 * head[3]:
            raise FileError(f"{path}: truncated in its header")
        shape = struct.unpack(f">{head[3]}I", raw)
        check_array_shape(shape, place)
        dtype = np.dtype(_IDX_TYPES[head[2]])
        expected = prod(shape) * dtype.itemsize
        if path.suffix == ".gz":
            Budget(place, file_bytes=path.stat().st_size).unpack(expected)
        # Read what is there before believing the header: a damaged one may declare terabytes.
        body = take(file.read, expected + 1)
    if len(body) != expected:
        state = "truncated" if len(body) < expected else "longer than it declares"
        raise FileError(f"{path}: {state}: {sizes(shape)} values need {expected} bytes; fetch it again")
    with damaged_as(place, "not read as an array"):
        return np.frombuffer(body, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _beside(path: Path) -> list[str]:
    """Names in the folder of a path that is not there, a few hundred at most."""
    try:
        with os.scandir(path.parent) as entries:
            return [entry.name for entry, _ in zip(entries, range(300), strict=False)]
    except (OSError, ValueError):
        return []
