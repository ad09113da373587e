"""Where data sets come from: one reader per kind, each giving arrays in the final form of `Data`."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dojang.base.budget import Budget
from dojang.base.errors import DataError, FileError, MissingPart
from dojang.base.reading import check_array_shape, damaged_as, gzipped, opened, read_bytes, read_text, take
from dojang.formats.arrays import is_npy, read_npy, read_npz
from dojang.training.data import Augment, Size, as_samples
from dojang.training.pictures import SampleSize, read_folder, read_zip, resized

Array = NDArray[Any]
Part = tuple[Array, Array]

# Header of an IDX file: two zero bytes, a type code, the number of axes, then the axes as big-endian uint32.
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

# One label byte, then 32×32 pixels as three planes (https://www.cs.toronto.edu/~kriz/cifar.html).
_CIFAR_RECORD = 1 + 3 * 32 * 32
_CIFAR_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True, eq=False)
class Source:
    """What a reader found: (x, y) to train on, (x, y) to test on or None, class names or None (then "0", "1", …)."""

    name: str
    train: Part
    test: Part | None
    classes: tuple[str, ...] | None
    augment: Augment


def read(spec: str | Path, size: Size | None = None) -> Source:
    """The source that `spec` names, every sample of it resized when `size` is given (see `load.load`)."""
    target = SampleSize.of(size)
    if str(spec) == "digits":
        return _fitted(_digits(), target)
    path = Path(spec)
    if not _there(path):
        raise FileError(
            f"{path}: no such data; give digits, a folder or .zip of class folders, .npz, IDX or CIFAR-10 files"
        )
    try:
        return _read_path(path, target)
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


def _read_path(path: Path, target: SampleSize) -> Source:
    if path.is_dir():
        files = {p.name for p in path.iterdir() if p.is_file()}
        if any(_is_idx_images(name) for name in files):
            return _fitted(_idx_folder(path, files), target)
        if any(name.endswith(".bin") for name in files):
            return _fitted(_cifar_folder(path, files), target)
        return _pictures(path, read_folder, target)
    kind = path.suffix.lower()
    if kind == ".zip":
        return _pictures(path, read_zip, target)
    if kind == ".npz":
        return _said(_npz(path), target)
    if kind == ".bin":
        x, y = _cifar_file(path)
        return _fitted(Source(path.name, (x, y), None, _cifar_names(path.parent), Augment(4, True)), target)
    if _is_idx_images(path.name):
        return _fitted(Source(path.name, _idx_pair(path), None, None, Augment(crop=2)), target)
    raise FileError(
        f"{path}: {kind or 'no suffix'} is no kind of data known here; give a folder, .zip, .npz, IDX or CIFAR-10 files"
    )


def _fitted(source: Source, target: SampleSize) -> Source:
    """`source` with every sample resized and its colour converted to the target, where there is one."""
    train = (resized(source.train[0], target, source.name), source.train[1])
    test = None if source.test is None else (resized(source.test[0], target, source.name), source.test[1])
    return Source(source.name, train, test, source.classes, source.augment)


def _said(source: Source, target: SampleSize) -> Source:
    """`_fitted` for arrays somebody made: that they were not what the network takes is said, it may be a mistake."""
    fitted = _fitted(source, target)
    had, has = ("×".join(map(str, s.train[0].shape[1:])) for s in (source, fitted))
    if has != had:
        warnings.warn(f"{source.name}: samples of {had} were made {has}, which the network takes", stacklevel=2)
    return fitted


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
    return Source("digits", (x, bunch.target.astype(np.int64)), None, classes, Augment())


def _pictures(path: Path, reader: Callable[[Path, SampleSize], Any], target: SampleSize) -> Source:
    tree = reader(path, target)
    side = min(tree.train[0].shape[2:])
    # A mirrored "b" is a "d": folders named by one character or a number hold signs, not things.
    signs = any(len(name) == 1 or name.isdigit() for name in tree.classes)
    augment = Augment(crop=side // 8, mirror=not signs and tree.train[0].shape[1] > 1)
    return Source(path.name, tree.train, tree.test, tree.classes, augment)


def npz_samples(path: Path) -> Array | None:
    """The array `x` (or `x_train`) of an .npz without labels, or of an .npy; None for a file that has labels."""
    arrays = _arrays(path, single=True)
    if any(name in arrays for name in ("y", "y_train")):
        return None
    for name in ("x", "x_train"):
        if name in arrays:
            return arrays[name]
    raise DataError(f"{path}: needs an array x; found {', '.join(sorted(arrays)) or 'none of the known names'}")


_KNOWN = ("x", "y", "x_train", "y_train", "x_test", "y_test", "classes")


def _arrays(path: Path, single: bool = False) -> dict[str, Array]:
    """The known arrays of an .npz; with `single` the one of an .npy counts as x."""
    if not is_npy(path):
        return read_npz(path, _KNOWN)
    if single:
        return {"x": read_npy(path)}
    raise FileError(f"{path}: a single array, not an .npz of x and y; write it with numpy.savez")


def _npz(path: Path) -> Source:
    """Arrays `x` and `y` (or `x_train` and `y_train`), optionally `x_test`, `y_test`, and names in `classes`."""
    arrays = _arrays(path)
    x, y = (arrays.get(k, arrays.get(f"{k}_train")) for k in ("x", "y"))
    if x is None or y is None:
        found = ", ".join(sorted(arrays)) or "none of the known names"
        raise DataError(f"{path}: needs arrays x and y; found {found}")
    x = as_samples(x, str(path))
    test = None
    if "x_test" in arrays or "y_test" in arrays:
        if not {"x_test", "y_test"} <= arrays.keys():
            raise DataError(f"{path}: x_test and y_test go together; one of them is missing")
        test = (as_samples(arrays["x_test"], f"{path}, test part"), arrays["y_test"])
    names = None
    if "classes" in arrays:
        with damaged_as(f"{path}: classes", "not read as names"):  # letters that Unicode does not have
            names = tuple(str(c) for c in arrays["classes"].ravel())
    return Source(path.name, (x, y), test, names, Augment())


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
    return Source(path.name, parts[0], parts[1] if test else None, None, Augment(crop=2))


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
    return as_samples(x, str(images)), y.astype(np.int64)


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
        raise FileError(f"{path}: {state}: {'×'.join(map(str, shape))} values need {expected} bytes; fetch it again")
    with damaged_as(place, "not read as an array"):
        return np.frombuffer(body, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _cifar_folder(path: Path, files: set[str]) -> Source:
    """`data_batch_1.bin` … with `test_batch.bin`, the binary version of CIFAR-10."""
    train = sorted(name for name in files if name.startswith("data_batch") and name.endswith(".bin"))
    if not train:
        raise DataError(f"{path}: .bin files but no data_batch_1.bin … of CIFAR-10; name one file")
    parts = [_cifar_file(path / name) for name in train]
    x, y = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    test = _cifar_file(path / "test_batch.bin") if "test_batch.bin" in files else None
    return Source(path.name, (x, y), test, _cifar_names(path), Augment(crop=4, mirror=True))


def _cifar_file(path: Path) -> Part:
    raw = np.frombuffer(read_bytes(path), np.uint8)
    if raw.size == 0 or raw.size % _CIFAR_RECORD:
        raise FileError(
            f"{path}: {raw.size} bytes are no whole number of CIFAR-10 records of {_CIFAR_RECORD}; truncated? "
            "Fetch it again"
        )
    records = raw.reshape(-1, _CIFAR_RECORD)
    return np.ascontiguousarray(records[:, 1:]).reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)


def _cifar_names(folder: Path) -> tuple[str, ...]:
    meta = folder / "batches.meta.txt"
    if not meta.is_file():
        return _CIFAR_NAMES
    names = tuple(line.strip() for line in read_text(meta).splitlines() if line.strip())
    if len(names) != 10:
        raise DataError(f"{meta}: {len(names)} class names; CIFAR-10 has 10")
    return names
