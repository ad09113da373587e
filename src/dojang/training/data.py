"""Data sets: a train part and a test part as arrays, what they mean, and how they may be varied while training.

Needs NumPy only. `from_arrays` takes arrays that are at hand; `load.load` reads every source of `sources.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dojang.base.errors import DataError, UsageError

Task = Literal["classification", "regression", "unlabelled"]
Array = NDArray[Any]
Size = int | Sequence[int]

TEST_FRACTION = 0.2
"""Share of the samples (of each class) that becomes the test part when the source names none."""

SELECTION_FRACTION = 0.1
"""Share of the train part that `Data.selection` sets apart unless told otherwise."""

# Rows per block where a whole-array pass would copy the data (statistics, the search for NaN): 4096 pictures of
# 3×32×32 are 48 MB as float32.
_BLOCK = 4096

LARGEST = 1e15
"""Largest magnitude of a sample's value: squares of such values, summed over 10^8 of them, still fit into float32."""


@dataclass(frozen=True)
class Augment:
    """How a sample may be varied in training. `crop`: zero-pad by so many pixels, then cut the old size at random.

    `mirror`: flip left to right with probability one half; only where a mirrored sample still is of its class.
    """

    crop: int = 0
    mirror: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for a negative crop."""
        if self.crop < 0:
            raise UsageError(f"crop of {self.crop} pixels: padding cannot be negative; use 0 for none")


@dataclass(frozen=True)
class Normalisation:
    """Per channel (x − mean) / std, with x in 0…1 for uint8 data (value / 255) and as it stands for float data."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Raise UsageError where the figures cannot normalise."""
        if len(self.mean) != len(self.std) or not self.mean:
            raise UsageError(f"{len(self.mean)} means and {len(self.std)} deviations: give one of each per channel")
        if not all(np.isfinite(self.mean)) or not all(np.isfinite(self.std)) or min(self.std) <= 0:
            raise UsageError(f"mean {self.mean}, std {self.std}: means must be finite, deviations greater than 0")

    @classmethod
    def none(cls, channels: int) -> Normalisation:
        """Leave the values as they are (uint8 still becomes 0…1)."""
        return cls((0.0,) * channels, (1.0,) * channels)

    @classmethod
    def of(cls, x: Array) -> Normalisation:
        """Mean and standard deviation of every channel of `x` (n, c, …), summed in float64.

        A channel that is constant gets the deviation 1, since it carries nothing to scale.
        """
        axes = (0, *range(2, x.ndim))
        count = x.size // x.shape[1]
        scale = 255.0 if x.dtype == np.uint8 else 1.0
        blocks = [x[i : i + _BLOCK] for i in range(0, len(x), _BLOCK)]
        mean = sum(np.sum(b, axis=axes, dtype=np.float64) for b in blocks) / count
        shape = (1, -1) + (1,) * (x.ndim - 2)
        spread = sum(np.sum(np.square(b - np.reshape(mean, shape)), axis=axes) for b in blocks) / count
        std = np.sqrt(spread) / scale
        return cls(tuple((mean / scale).tolist()), tuple(np.where(std > 1e-7, std, 1.0).tolist()))

    def factors(self, dtype: np.dtype[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(a, b) per channel such that the normalised value is x · a + b for x stored as `dtype`."""
        std = np.asarray(self.std, np.float64)
        scale = 255.0 if dtype == np.uint8 else 1.0
        return (1.0 / (scale * std)).astype(np.float32), (-np.asarray(self.mean) / std).astype(np.float32)

    def apply(self, x: Array) -> NDArray[np.float32]:
        """`x` (n, c, …) as normalised float32, C-contiguous: what the network sees."""
        a, b = self.factors(x.dtype)
        shape = (1, -1) + (1,) * (x.ndim - 2)
        out = np.ascontiguousarray(x).astype(np.float32)
        out *= a.reshape(shape)
        out += b.reshape(shape)
        return out

    def to_dict(self) -> dict[str, Any]:
        """As lists, for JSON."""
        return {"mean": list(self.mean), "std": list(self.std)}


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set.

    `x` (n, c, h, w) is uint8 or float32; `y` is int64 (n,) for classes, float32 (n, k) for regression.
    """

    x: Array
    y: Array
    normalisation: Normalisation

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.x)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample, (c, h, w) for pictures."""
        return self.x.shape[1:]

    def take(self, indices: Array | slice | Sequence[int]) -> Split:
        """The samples at `indices`, in that order."""
        return replace(self, x=self.x[indices], y=self.y[indices])

    def inputs(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Samples `start` to `stop` as the network sees them: normalised float32 (n, c, h, w)."""
        return self.normalisation.apply(self.x[start:stop])

    def accuracy(self, outputs: Array) -> float:
        """Share of right classes, or R², of what any runtime gave for all samples: (n, classes) or (n, k).

        The same figure as `score.evaluate` measures for a PyTorch module; R² is defined there.
        """
        out = np.asarray(outputs).reshape(len(self), -1)
        if self.y.dtype.kind != "f":
            return float((out.argmax(axis=1) == self.y).mean())
        y = self.y.astype(np.float64)
        variance = y.var(axis=0)
        return 1.0 - float((np.square(out - y).mean(axis=0) / np.where(variance > 0, variance, 1.0)).mean())


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in two parts. The test part is for final figures; choices are made on `selection()`.

    `classes` are the names of labels 0, 1, … (empty for regression); `hash` is a SHA-256 of both parts' content.
    Of samples without labels both parts are all of them.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    task: Task
    augment: Augment
    hash: str

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample, (c, h, w) for pictures."""
        return self.train.sample_shape

    @property
    def outputs(self) -> int:
        """How many numbers a network for this data gives per sample: one per class, or per regression target."""
        return len(self.classes) if self.task == "classification" else self.train.y.shape[1]

    @property
    def normalisation(self) -> Normalisation:
        """The normalisation of both parts: computed from the train part unless `normalised` set another."""
        return self.train.normalisation

    def normalised(self, normalisation: Normalisation) -> Data:
        """The same data under another normalisation, such as the one a trained network states for its input."""
        channels = self.train.x.shape[1]
        if len(normalisation.mean) != channels:
            raise DataError(
                f"{self.name}: the network normalises {len(normalisation.mean)} channels, the data have {channels}"
            )
        train, test = (replace(part, normalisation=normalisation) for part in (self.train, self.test))
        return replace(self, train=train, test=test)

    def selection(self, fraction: float = SELECTION_FRACTION, seed: int = 0) -> Data:
        """The train part split again: `train` is what remains, `test` the selection part. The old test part is gone.

        For choices (which cut, which setting) that must use neither what was trained on nor what is reported on.
        Keeps the normalisation, so that a network trained on the whole stays valid.
        """
        rest, chosen = split_indices(self.train.y, self.task, fraction, seed, f"{self.name}, selection")
        train, test = self.train.take(rest), self.train.take(chosen)
        digest = content_hash(train, test, self.classes)
        return replace(self, name=f"{self.name} (selection)", train=train, test=test, hash=digest)

    def to_dict(self) -> dict[str, Any]:
        """What a record of a run keeps: sizes, classes, hash; not the samples."""
        return {
            "name": self.name,
            "task": self.task,
            "classes": list(self.classes),
            "train_samples": len(self.train),
            "test_samples": len(self.test),
            "sample_shape": list(self.sample_shape),
            "normalisation": self.normalisation.to_dict(),
            "augment": {"crop": self.augment.crop, "mirror": self.augment.mirror},
            "hash": self.hash,
        }


def from_arrays(
    x: Array,
    y: Array,
    x_test: Array | None = None,
    y_test: Array | None = None,
    *,
    classes: Sequence[str] | None = None,
    name: str = "arrays",
    augment: Augment | None = None,
    seed: int = 0,
) -> Data:
    """A data set from arrays: `x` (n, c, h, w) or (n, h, w), `y` integers for classes or floats for regression.

    uint8 `x` is read as pictures, value / 255, and may be channels-last (n, h, w, 1|3|4); any other type becomes
    float32 and stands as it is. Without a test part TEST_FRACTION of each class is drawn with `seed`.

    Raises DataError: sizes that do not agree, NaN, labels out of range, one class only.
    """
    test = None
    if x_test is not None:
        if y_test is None:
            raise DataError(f"{name}, test part: samples without labels; give y_test beside x_test")
        test = as_samples(np.asarray(x_test), f"{name}, test part"), np.asarray(y_test)
    train = as_samples(np.asarray(x), name), np.asarray(y)
    return assembled(name, train, test, tuple(classes) if classes else None, augment or Augment(), seed)


def unlabelled(x: Array, name: str) -> Data:
    """Samples without labels, for what needs none: `x` as in `from_arrays`, also none at all; values stay as they are.

    Raises DataError: types and shapes that are no samples, NaN.
    """
    x = as_samples(x, name) if len(x) else np.asarray(x, np.float32)
    check_finite(x, name)
    part = Split(x, np.empty((len(x), 0), np.float32), Normalisation.none(x.shape[1]))
    return Data(name, part, part, (), "unlabelled", Augment(), content_hash(part, part, ()))


def assembled(
    name: str,
    train: tuple[Array, Array],
    test: tuple[Array, Array] | None,
    classes: tuple[str, ...] | None,
    augment: Augment,
    seed: int,
) -> Data:
    """Samples in the final form and raw labels, checked against each other, split where there is no test part."""
    x, y = train
    task: Task = "regression" if y.dtype.kind == "f" else "classification"
    if task == "regression":
        classes = ()
    elif classes is None:
        classes = _class_names(y, name)
    y = as_targets(y, len(x), classes, name)
    if task == "classification" and len(np.unique(y)) < 2:
        raise DataError(f"{name}: all {len(y)} samples are of one class; give samples of at least two classes")
    check_finite(x, name)
    if test is None:
        rest, chosen = split_indices(y, task, TEST_FRACTION, seed, name)
        (x, y), (x_test, y_test) = (x[rest], y[rest]), (x[chosen], y[chosen])
    else:
        where = f"{name}, test part"
        x_test, y_test = test
        if (y_test.dtype.kind == "f") != (task == "regression"):
            raise DataError(f"{where}: labels are {y_test.dtype}, those of the train part {train[1].dtype}")
        y_test = as_targets(y_test, len(x_test), classes, where)
        if x_test.shape[1:] != x.shape[1:]:
            raise DataError(
                f"{where}: samples are {_by(x_test.shape[1:])}, those of the train part {_by(x.shape[1:])}; "
                "give one size (--input-size C,H,W) to resize"
            )
        if y_test.shape[1:] != y.shape[1:]:
            raise DataError(f"{where}: {y_test.shape[1]} targets per sample, {y.shape[1]} in the train part")
        if x_test.dtype != x.dtype:
            raise DataError(f"{where}: samples are {x_test.dtype}, those of the train part {x.dtype}; use one type")
    check_finite(x_test, f"{name}, test part")
    normalisation = Normalisation.of(x)
    parts = Split(x, y, normalisation), Split(x_test, y_test, normalisation)
    return Data(name, *parts, classes, task, augment, content_hash(*parts, classes))


def as_samples(x: Array, where: str) -> Array:
    """`x` as (n, c, …) uint8 or float32. Rank 3 is (n, h, w), one channel; uint8 may be channels-last."""
    if x.dtype.kind not in "buif":
        raise DataError(f"{where}: samples are of type {x.dtype}; use uint8 or floats")
    if x.ndim < 2 or x.size == 0:
        raise DataError(f"{where}: samples have shape {x.shape}; use (n, c, h, w) with n of at least 1")
    if x.ndim == 3:
        x = x[:, None]
    elif x.dtype == np.uint8 and x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        x = np.moveaxis(x, 3, 1)
    return np.ascontiguousarray(x, dtype=np.uint8 if x.dtype == np.uint8 else np.float32)


def as_targets(y: Array, samples: int, classes: tuple[str, ...] | None, where: str) -> Array:
    """Labels as int64 (n,) within 0 … classes − 1, or regression targets as float32 (n, k)."""
    if y.ndim == 0 or len(y) != samples:
        count = 0 if y.ndim == 0 else len(y)
        raise DataError(f"{where}: {samples} samples but {count} labels; give one label for each sample")
    if np.issubdtype(y.dtype, np.floating):
        y = y.reshape(samples, -1).astype(np.float32)
        check_finite(y, f"{where}, targets")
        return y
    if y.dtype.kind not in "iu":
        raise DataError(f"{where}: labels are of type {y.dtype}; use integers for classes, floats for regression")
    if y.size != samples:
        raise DataError(f"{where}: labels have shape {y.shape}; use one class number per sample")
    y = y.reshape(samples).astype(np.int64)
    count = len(classes or ())
    wrong = np.flatnonzero((y < 0) | (y >= count))
    if len(wrong):
        i = int(wrong[0])
        raise DataError(f"{where}: label {y[i]} of sample {i} is out of range; {count} classes are 0 … {count - 1}")
    return y


def check_finite(x: Array, where: str) -> None:
    """Raise DataError that names the first sample with NaN, infinity, or values above `LARGEST`."""
    if x.dtype.kind != "f":
        return
    for start in range(0, len(x), _BLOCK):
        block = x[start : start + _BLOCK].reshape(len(x[start : start + _BLOCK]), -1)
        fine = (np.abs(block) <= LARGEST).all(axis=1)  # NaN is not
        if not fine.all():
            bad = int(np.argmin(fine))
            if not np.isfinite(block[bad]).all():
                raise DataError(f"{where}: sample {start + bad} holds NaN or infinity; repair or remove it")
            most = np.abs(block[bad]).max()
            raise DataError(
                f"{where}: sample {start + bad} holds values up to {most:.0e}, above {LARGEST:.0e}; "
                "their squares overflow float32: scale the samples"
            )


def split_indices(y: Array, task: Task, fraction: float, seed: int, where: str) -> tuple[Array, Array]:
    """(rest, chosen): sorted indices, with `fraction` of each class (at least one sample) chosen with `seed`.

    Regression draws from all samples alike.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"{where}: a fraction of {fraction} is not between 0 and 1")
    if not 0 <= seed < 1 << 63:
        raise UsageError(f"seed {seed!r:.40} is no whole number from 0 to below 2^63; give one")
    rng = np.random.default_rng([seed, 0x5B11])
    groups = [np.flatnonzero(y == c) for c in np.unique(y)] if task == "classification" else [np.arange(len(y))]
    chosen = []
    for group in groups:
        if len(group) < 2:
            raise DataError(
                f"{where}: a class (label {y[group[0]]}) has one sample, too few to split into two parts; "
                "add samples or name the test part apart (--val-data)"
            )
        count = min(max(1, round(fraction * len(group))), len(group) - 1)
        chosen.append(rng.permutation(group)[:count])
    picked = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(len(y)), picked, assume_unique=True), picked


def content_hash(train: Split, test: Split, classes: tuple[str, ...]) -> str:
    """SHA-256, in hexadecimal, of shapes, types and bytes of both parts and of the class names."""
    digest = hashlib.sha256(repr(classes).encode())
    for array in (train.x, train.y, test.x, test.y):
        digest.update(f"{array.shape}{array.dtype.str}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _class_names(y: Array, where: str) -> tuple[str, ...]:
    """Names for integer labels without names: "0", "1", … up to the largest label."""
    if y.dtype.kind not in "iu" or y.size == 0:
        return ()
    top = int(y.max())
    if top >= max(y.size, 2):
        at = int(y.argmax())
        raise DataError(f"{where}: label {top} of sample {at} is out of range for {y.size} samples; number from 0")
    return tuple(str(i) for i in range(top + 1))


def _by(shape: Sequence[int]) -> str:
    return "×".join(str(s) for s in shape)
