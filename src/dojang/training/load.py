"""A data set by the name of its source: what `sources.py` reads, checked and split by `data.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dojang.base.errors import DataError
from dojang.training.asked import NOTHING, Asked
from dojang.training.data import Array, Data, Size, assembled
from dojang.training.labels import FROM_1, VALUES, Labels, labels_of, renumbered
from dojang.training.sources import Source, read


def load(
    spec: str | Path,
    *,
    size: Size | None = None,
    val: str | Path | None = None,
    seed: int = 0,
    asked: Asked = NOTHING,
) -> Data:
    """The data set that `spec` names: "digits", a folder or .zip of class folders, .npz, .zarr, IDX or CIFAR files.

    `size` is (h, w), (c, h, w) or one side: samples of another size are scaled to cover it and centre-cropped, and
    colour is converted when `c` is given. `val` names the test part apart, and `spec` then trains whole (without a
    test part of its own). Where neither names one, TEST_FRACTION of each class is drawn with `seed`. `asked` says what
    arrays do not tell.

    Raises FileError for what cannot be read, DataError for content that cannot be used, UsageError for `size`.
    """
    source = read(spec, size, asked)
    parts, files, split = dict(source.parts), dict(source.files), source.split
    if val is not None:
        other = read(val, size, asked, least=1)
        name = "test" if "test" in other.parts else "train"
        own = " (its own test part is not used)" if "test" in parts else ""
        parts["test"] = _numbered_as(source, other, name, asked, str(val))
        files = {part: places for part, places in files.items() if part != "test"}
        files |= {"test": other.files[name]} if name in other.files else {}
        split = f"the test part is {'the test part of ' * (name == 'test')}{val}{own}"
    return assembled(source.name, parts, source.classes, source.augment, seed, asked, source.notes, split, files)


def _numbered_as(source: Source, other: Source, part: str, asked: Asked, where: str) -> tuple[Array, Array]:
    """A part of another source, its labels numbered by name as those of `source`, where both have names."""
    x, y = other.parts[part]
    if other.classes is None or source.classes is None:
        if other.classes is not None and not _by_value(source, asked):
            raise DataError(
                f"{where}: names its classes, {source.name} numbers them; which is which is not known: name both"
            )
        return (x, y) if other.classes is None else (x, _names(y, other, asked, where))
    own = labels_of(y, other.classes, asked, where)
    if own.task == "regression":
        return x, y
    mine = labels_of(source.parts["train"][1], source.classes, asked, source.name)
    numbers = renumbered(own.encoded(y, len(x), where), own.classes, mine.classes, where, "the trained classes")
    return x, _raw(numbers, mine)


def _by_value(source: Source, asked: Asked) -> bool:
    return labels_of(source.parts["train"][1], None, asked, source.name).kind == VALUES


def _names(y: Array, other: Source, asked: Asked, where: str) -> Array:
    own = labels_of(y, other.classes, asked, where)
    return np.asarray(own.classes)[own.encoded(y, len(y), where)]


def _raw(numbers: Array, labels: Labels) -> Array:
    """Numbers from 0 as the labels of the other part are stored, which are then read together."""
    if labels.kind == FROM_1:
        return numbers + 1
    return np.asarray(labels.classes)[numbers] if labels.kind == VALUES else numbers
