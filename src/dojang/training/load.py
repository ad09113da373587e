"""A data set by the name of its source: what `sources.py` reads, checked and split by `data.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dojang.base.errors import DataError
from dojang.training.data import Array, Data, Size, assembled
from dojang.training.sources import read


def load(spec: str | Path, *, size: Size | None = None, val: str | Path | None = None, seed: int = 0) -> Data:
    """The data set that `spec` names: "digits", a folder or .zip of class folders, .npz, IDX files, CIFAR-10 batches.

    `size` is (h, w), (c, h, w) or one side: samples of another size are scaled to cover it and centre-cropped, and
    colour is converted when `c` is given. `val` names the test part apart, and `spec` then trains whole (without a
    test part of its own). Where neither names one, TEST_FRACTION of each class is drawn with `seed`.

    Raises FileError for what cannot be read, DataError for content that cannot be used, UsageError for `size`.
    """
    source = read(spec, size)
    test, classes = source.test, source.classes
    if val is not None:
        other = read(val, size)
        test = other.test if other.test is not None else other.train
        if classes and other.classes and classes != other.classes:
            test = (test[0], _renamed(test[1], other.classes, classes, str(val)))
    return assembled(source.name, source.train, test, classes, source.augment, seed)


def _renamed(y: Array, old: tuple[str, ...], new: tuple[str, ...], where: str) -> Array:
    """Labels of a test part that was read by itself, in the class numbering of the train part."""
    missing = [name for name in old if name not in new]
    if missing:
        raise DataError(f"{where}: class {missing[0]!r} of the test part is not among the {len(new)} trained classes")
    return np.asarray([new.index(name) for name in old], np.int64)[y]
