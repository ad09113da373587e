"""The binary versions of CIFAR-10 and CIFAR-100 (https://www.cs.toronto.edu/~kriz/cifar.html)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dojang.base.errors import DataError, FileError
from dojang.base.reading import read_bytes, read_text

Array = NDArray[Any]

_PIXELS = 3 * 32 * 32  # 32×32 pixels as three planes
NAMES_10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""CIFAR-10's classes, in its own order."""

_LABELS = {10: (10,), 100: (20, 100)}
"""Labels before the pixels of a record, each below this number: the class; of CIFAR-100 superclass and class."""


def file_of(path: Path) -> tuple[Array, Array, int]:
    """(pictures, labels, 10 or 100) of one file; of CIFAR-100 the labels are the 100 classes, not the 20 superclasses.

    Raises FileError where its length is that of neither, or its labels are.
    """
    raw = np.frombuffer(read_bytes(path), np.uint8)
    fitting = {
        n: len(tops) + _PIXELS for n, tops in _LABELS.items() if raw.size and raw.size % (len(tops) + _PIXELS) == 0
    }
    if not fitting:
        raise FileError(
            f"{path}: {raw.size} bytes are no whole number of records of CIFAR-10 ({1 + _PIXELS} bytes) or CIFAR-100 "
            f"({2 + _PIXELS}); truncated? Fetch it again"
        )
    records = {n: raw.reshape(-1, size) for n, size in fitting.items()}
    sound = {n: r for n, r in records.items() if all((r[:, i] < top).all() for i, top in enumerate(_LABELS[n]))}
    if len(sound) != 1 and len(fitting) > 1:
        raise FileError(f"{path}: {raw.size} bytes are records of CIFAR-10 and of CIFAR-100; split the file")
    kind, found = next(iter((sound or records).items()))
    label = len(_LABELS[kind])
    pictures = np.ascontiguousarray(found[:, label:]).reshape(-1, 3, 32, 32)
    return pictures, found[:, label - 1].astype(np.int64), kind


def folder_of(path: Path, files: set[str]) -> tuple[dict[str, tuple[Array, Array]], int]:
    """The parts of a folder, and 10 or 100: data_batch_1.bin … and test_batch.bin, or train.bin and test.bin."""
    train = sorted(name for name in files if name.startswith("data_batch") and name.endswith(".bin"))
    test = "test_batch.bin"
    if not train and "train.bin" in files:
        train, test = ["train.bin"], "test.bin"
    if not train:
        raise DataError(
            f"{path}: .bin files but no data_batch_1.bin … of CIFAR-10 and no train.bin of CIFAR-100; name one file"
        )
    read = {name: file_of(path / name) for name in (*train, *((test,) if test in files else ()))}
    kinds = {kind for _, _, kind in read.values()}
    if len(kinds) > 1:
        raise DataError(f"{path}: holds files of CIFAR-10 and of CIFAR-100; put them into two folders")
    x, y = (np.concatenate([read[name][i] for name in train]) for i in (0, 1))
    parts = {"train": (x, y)}
    if test in read:
        parts["test"] = read[test][:2]
    return parts, kinds.pop()


def names_of(folder: Path, kind: int) -> tuple[str, ...] | None:
    """The names of the classes: those in the folder, else CIFAR-10's own; None for CIFAR-100 without its list."""
    meta = folder / ("batches.meta.txt" if kind == 10 else "fine_label_names.txt")
    if not meta.is_file():
        return NAMES_10 if kind == 10 else None
    names = tuple(line.strip() for line in read_text(meta).splitlines() if line.strip())
    if len(names) != kind:
        raise DataError(f"{meta}: {len(names)} class names; CIFAR-{kind} has {kind}")
    return names
