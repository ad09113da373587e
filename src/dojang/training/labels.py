"""What labels mean, and which number each class has: names, truth values, one-hot rows, numbers from 0 or from 1.

Every place that meets labels of two origins (train and test part, data and network) maps them with `renumbered`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dojang.base.errors import DataError
from dojang.training.asked import NOTHING, Asked, Task

Array = NDArray[Any]

NUMBERS, FROM_1, VALUES, ONE_HOT, MANY, AMOUNTS = "numbers", "from 1", "values", "one-hot", "many", "amounts"
"""How labels are stored: class numbers from 0, or from 1; values that name classes; one-hot rows; a truth value per
class; amounts to be predicted."""


@dataclass(frozen=True)
class Labels:
    """The meaning of labels. `classes` are the names of class 0, 1, … (empty for a regression); `named`: they stand in
    the data, and are not numbers that were made up. `notes`: what was understood, in sentences.
    """

    task: Task
    kind: str
    classes: tuple[str, ...]
    named: bool = False
    notes: tuple[str, ...] = ()

    def encoded(self, y: Array, samples: int, where: str) -> Array:
        """Raw labels as int64 (n,) for classes, bool (n, k) for several per sample, float32 (n, k) for amounts.

        Raises DataError for labels that these classes do not have, and for another number of them than of samples.
        """
        y = _plain(y)
        if y.ndim == 0 or len(y) != samples:
            count = 0 if y.ndim == 0 else len(y)
            raise DataError(f"{where}: {samples} samples but {count} labels; give one label for each sample")
        if self.kind == AMOUNTS:
            return _amounts(y, samples, where)
        if self.kind in (ONE_HOT, MANY):
            if y.ndim != 2 or y.shape[1] != len(self.classes) or not _truths(y):
                raise DataError(f"{where}: labels of shape {y.shape} are no rows of {len(self.classes)} values 0 or 1")
            if self.kind == MANY:
                return y.astype(bool)
            if not (y != 0).sum(axis=1).min() == (y != 0).sum(axis=1).max() == 1:
                raise DataError(f"{where}: a row of the labels is not one-hot, as those of the train part are")
            return (y != 0).argmax(axis=1).astype(np.int64)
        if y.ndim > 1 and _truths(y) and y.ndim == 2 and y.shape[1] == len(self.classes):
            return Labels("classification", ONE_HOT, self.classes).encoded(y, samples, where)
        if y.size != samples:
            raise DataError(f"{where}: labels have shape {y.shape}; use one class number per sample")
        y = y.reshape(samples)
        if self.kind in (NUMBERS, FROM_1):
            return self._numbers(y, where)
        if y.dtype.kind == "f" and not _whole(y):
            i = int(np.flatnonzero(~_are_whole(y))[0])
            raise DataError(
                f"{where}: label {y[i]:g} of sample {i} is no class; use whole numbers as in the train part"
            )
        values, at = np.unique(y, return_inverse=True)
        names = _names(values, where)
        known = {name: i for i, name in enumerate(self.classes)}
        missing = [name for name in names if name not in known]
        if missing:
            raise DataError(
                f"{where}: label {missing[0]!r:.60} is none of the {len(known)} classes {_some(self.classes)}"
            )
        return np.asarray([known[name] for name in names], np.int64)[at.reshape(-1)]

    def _numbers(self, y: Array, where: str) -> Array:
        if y.dtype.kind == "f" and _whole(y):
            y = y.astype(np.int64)
        if y.dtype.kind == "f":
            raise DataError(f"{where}: labels are {y.dtype}, those of the train part class numbers")
        if y.dtype.kind not in "iub":
            raise DataError(f"{where}: labels are of type {y.dtype}; use integers for classes, floats for regression")
        y, count = y.astype(np.int64), len(self.classes)
        least = 1 if self.kind == FROM_1 else 0
        wrong = np.flatnonzero((y < least) | (y >= count + least))
        if len(wrong):
            i = int(wrong[0])
            raise DataError(
                f"{where}: label {y[i]} of sample {i} is out of range; {count} classes are {least} … "
                f"{count - 1 + least}"
            )
        return y - least


def labels_of(y: Array, names: Sequence[str] | None, asked: Asked = NOTHING, where: str = "labels") -> Labels:
    """What the labels of a train part mean. `names`: those of the classes, where the data say them.

    Raises DataError where it cannot be told, naming the flag that says it.
    """
    y = _plain(y)
    given = tuple(names) if names else ()
    if len(set(given)) < len(given):
        twice = next(name for i, name in enumerate(given) if name in given[:i])
        raise DataError(f"{where}: the class name {twice!r:.60} stands there twice; give each class one name")
    if y.ndim > 2:
        raise DataError(
            f"{where}: labels have shape {y.shape}, a map for each sample; only labels of whole samples are learnt here"
        )
    if y.dtype.kind not in "buifUS":
        raise DataError(f"{where}: labels are of type {y.dtype}; use integers for classes, floats for regression")
    if y.size == 0:
        return Labels("regression" if y.dtype.kind == "f" else "classification", NUMBERS, given, bool(given))
    if asked.task == "regression":
        return _regression(y, where)
    if asked.task == "multilabel":
        return _many(y, given, where, "")
    if y.ndim == 2:
        return _rows(y, given, asked, where)
    if y.dtype.kind in "USb":
        return _values(y, given, where, "truth values" if y.dtype.kind == "b" else "")
    return _whole_numbers(y, given, asked, where)


def renumbered(y: Array, old: Sequence[str], new: Sequence[str], where: str, whose: str) -> Array:
    """Labels numbered by the names `old` as `new` numbers them; rows of truth values get their columns in that order.

    Raises DataError for a class with samples that `new` does not have.
    """
    place = {name: i for i, name in enumerate(new)}
    used = set(np.flatnonzero(y.any(axis=0)) if y.ndim == 2 else np.unique(y))
    missing = [name for i, name in enumerate(old) if name not in place and i in used]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"{where}: class {missing[0]!r:.60}{more} is not among {whose}: {_some(new)}")
    if y.ndim == 2:
        out = np.zeros((len(y), len(place)), bool)
        for i, name in enumerate(old):
            if name in place:
                out[:, place[name]] = y[:, i]
        return out
    return np.asarray([place.get(name, -1) for name in old], np.int64)[y]


def _rows(y: Array, given: tuple[str, ...], asked: Asked, where: str) -> Labels:
    count = y.shape[1]
    if y.dtype.kind not in "US" and _truths(y) and count > 1:
        per_row = (y != 0).sum(axis=1)
        if per_row.min() == per_row.max() == 1:
            note = "the labels are one-hot rows: one class for each sample (--task multilabel says otherwise)"
            return Labels("classification", ONE_HOT, _made(given, count, where), bool(given), (note,))
        if asked.task == "classification":
            raise DataError(
                f"{where}: --task classification needs one class for each sample; a row has {per_row.max()}"
            )
        return _many(y, given, where, "the labels are rows of 0 and 1 with several classes to a sample")
    if asked.task == "classification" or y.dtype.kind in "US":
        raise DataError(f"{where}: labels have shape {y.shape}; use one class number per sample, or one-hot rows")
    shares = y.dtype.kind == "f" and bool((y >= 0).all()) and bool(np.allclose(y.sum(axis=1), 1, atol=1e-4))
    if shares and count > 1:
        raise DataError(
            f"{where}: each row of the labels sums to 1: shares of classes, or amounts? Give class numbers, or say "
            "--task regression"
        )
    if y.dtype.kind in "iu":
        raise DataError(f"{where}: labels have shape {y.shape}; use one class number per sample, or --task regression")
    return _regression(y, where, said=False)


def _whole_numbers(y: Array, given: tuple[str, ...], asked: Asked, where: str) -> Labels:
    """Meaning of numbers (n,): by the names of the classes, else by the outputs of the network, else by their range."""
    outputs, floats = asked.outputs, y.dtype.kind == "f"
    if floats and not _whole(y):
        if asked.task == "classification":
            raise DataError(f"{where}: labels such as {y[np.rint(y) != y][0]:g} are no classes; use whole numbers")
        return _regression(y, where, said=False)
    values = np.unique(y)
    low, high, count = int(values[0]), int(values[-1]), len(values)
    if given:
        return _given(y, given, low, high, where)
    from_0, from_1 = low >= 0 and high + 1 == count, low == 1 and high == count
    if floats and asked.task is None:
        if outputs == 1 or not (from_0 or from_1 or outputs == high + 1):
            return _regression(y, where, said=False)
        if outputs is None or outputs not in (count, high + 1):
            raise DataError(
                f"{where}: labels are floats, all whole and from {low} to {high}: classes or amounts? Say --task "
                "classification or --task regression"
            )
    note = ("labels are floats, all whole, and name classes",) if floats else ()
    # Fewer than all classes may have samples, which the outputs of the network tell.
    if from_0 or (low >= 0 and outputs == high + 1):
        if high + 1 > count:
            note += (f"{high + 1 - count} of {high + 1} classes have no samples",)
        return Labels("classification", NUMBERS, tuple(str(i) for i in range(high + 1)), notes=note)
    if from_1 or (low, high, count) == (-1, 1, 2) or asked.task == "classification":
        return _values(y, (), where, f"numbers from {low} to {high}", note)
    if count == 1 and low >= 0:
        return Labels("classification", NUMBERS, tuple(str(i) for i in range(high + 1)), notes=note)
    raise DataError(
        f"{where}: labels are {count} different numbers from {low} to {high}, with gaps or not from 0 or 1: classes or "
        "amounts? Say --task classification or --task regression"
    )


def _given(y: Array, given: tuple[str, ...], low: int, high: int, where: str) -> Labels:
    if low >= 0 and high < len(given):
        return Labels("classification", NUMBERS, given, True)
    names = {str(int(v)) for v in np.unique(y)}
    if names <= set(given):
        return Labels("classification", VALUES, given, True, ("labels name classes by their own names",))
    if low == 1 and high == len(given):
        return Labels("classification", FROM_1, given, True, ("labels number the classes from 1",))
    return Labels("classification", NUMBERS, given, True)  # which says which label is out of range


def _values(y: Array, given: tuple[str, ...], where: str, what: str, notes: tuple[str, ...] = ()) -> Labels:
    names = tuple(_names(np.unique(y), where))
    if given:
        extra = [name for name in names if name not in given]
        if extra and y.dtype.kind == "b" and len(given) == 2:
            return Labels("classification", NUMBERS, given, True)
        if extra:
            raise DataError(f"{where}: label {extra[0]!r:.60} is none of the {len(given)} classes {_some(given)}")
    classes = given or (tuple(sorted(names)) if y.dtype.kind in "US" else names)
    said = (f"labels are {what}: each different one is a class of that name",) if what else ()
    return Labels("classification", VALUES, classes, True, (*notes, *said))


def _many(y: Array, given: tuple[str, ...], where: str, note: str) -> Labels:
    if y.ndim != 2 or y.dtype.kind in "US" or not _truths(y):
        raise DataError(f"{where}: --task multilabel needs rows of 0 and 1, one value for each class; got {y.shape}")
    return Labels("multilabel", MANY, _made(given, y.shape[1], where), bool(given), (note,) if note else ())


def _regression(y: Array, where: str, said: bool = True) -> Labels:
    if y.dtype.kind in "US":
        raise DataError(f"{where}: --task regression needs numbers; labels are text")
    note = ("whole numbers are amounts to predict",) if said and y.dtype.kind in "iub" else ()
    return Labels("regression", AMOUNTS, (), notes=note)


def _amounts(y: Array, samples: int, where: str) -> Array:
    if y.dtype.kind not in "buif":
        raise DataError(f"{where}: labels are {y.dtype}, those of the train part amounts")
    return narrowed(y.reshape(samples, -1), f"{where}, targets")


def narrowed(x: Array, where: str) -> Array:
    """Numbers as float32. Raises DataError for one that float32 does not hold."""
    with np.errstate(over="ignore"):
        out = np.ascontiguousarray(x, np.float32)
    if x.dtype.kind == "f" and x.dtype.itemsize > 4 and not np.isfinite(out).all():
        bad = np.isinf(out) & np.isfinite(x)
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            raise DataError(f"{where}: sample {at[0]} holds {x[at]:.0e}, more than float32 holds; scale the values")
    return out


def _made(given: tuple[str, ...], count: int, where: str) -> tuple[str, ...]:
    if given and len(given) != count:
        raise DataError(f"{where}: {len(given)} class names, but {count} values in each row of the labels")
    return given or tuple(str(i) for i in range(count))


def _plain(y: Array) -> Array:
    """Objects that are all text as text; a last axis of one value left out."""
    if y.dtype.kind == "O" and all(isinstance(v, str) for v in y.ravel()):
        y = y.astype(str)
    return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y


def _names(values: Array, where: str) -> list[str]:
    if values.dtype.kind == "S":
        try:
            return [bytes(v).decode() for v in values]
        except UnicodeDecodeError:
            raise DataError(f"{where}: labels are bytes that are no UTF-8 text") from None
    return [str(int(v)) if values.dtype.kind in "iuf" else str(v) for v in values]


def _truths(y: Array) -> bool:
    return y.dtype.kind == "b" or (y.dtype.kind in "iuf" and bool(((y == 0) | (y == 1)).all()))


def _whole(y: Array) -> bool:
    return bool(_are_whole(y).all())


def _are_whole(y: Array) -> Array:
    return np.isfinite(y) & (np.rint(y) == y) & (np.abs(y, dtype=np.result_type(y, np.float64)) < 1 << 53)


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" … ({len(names)})" if len(names) > most else "")
