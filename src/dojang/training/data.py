"""Data sets: a train part and a test part as arrays, what they mean, and how they may be varied while training.

Needs NumPy only. `from_arrays` takes arrays that are at hand; `load.load` reads every source of `sources.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dojang.arith.outputs import Numbers, yes_above
from dojang.base.errors import DataError, UsageError
from dojang.training.asked import NOTHING, Asked, Task
from dojang.training.labels import Labels, labels_of
from dojang.training.meaning import samples_of, sizes
from dojang.training.parts import PART_NAMES
from dojang.training.streams import StreamedSamples, blocks_of, some_of

Array = Any
"""A NumPy array, or, for samples that are larger than memory, a `StreamedSamples` one."""
Size = int | Sequence[int]

TEST_FRACTION = 0.2
"""Share of the samples (of each class) that becomes the test part when the source names none."""

SELECTION_FRACTION = 0.1
"""Share of the train part that is set aside for choices, the best epoch among them, unless another is asked for."""

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
        count = len(x) * prod(x.shape[2:])
        scale = 255.0 if x.dtype == np.uint8 else 1.0
        shape = (1, -1) + (1,) * (x.ndim - 2)
        if isinstance(x, StreamedSamples):
            # one pass: sums around the mean of the first block, which lose no digits
            around, total, squares = None, 0.0, 0.0
            for block in blocks_of(x):
                wide = block.astype(np.float64)
                around = wide.mean(axis=axes) if around is None else around
                wide -= around.reshape(shape)
                total, squares = total + wide.sum(axis=axes), squares + np.square(wide).sum(axis=axes)
            offset = np.asarray(total) / count
            mean, spread = np.asarray(around) + offset, np.asarray(squares) / count - np.square(offset)
        else:
            mean = np.asarray(sum(np.sum(b, axis=axes, dtype=np.float64) for b in blocks_of(x))) / count
            spread = (
                np.asarray(sum(np.sum(np.square(b - np.reshape(mean, shape)), axis=axes) for b in blocks_of(x))) / count
            )
        std = np.sqrt(np.maximum(spread, 0)) / scale
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

    `x` (n, c, …) is uint8 or float32; `y` is int64 (n,) for classes, bool (n, k) for several classes to a sample,
    float32 (n, k) for regression. `files` (n,) are the places of the samples where each is a file, else None.
    """

    x: Array
    y: Array
    normalisation: Normalisation
    files: Array | None = None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.x)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample, (c, h, w) for pictures."""
        return self.x.shape[1:]

    @property
    def task(self) -> Task:
        """What the labels mean, by their type."""
        return {"f": "regression", "b": "multilabel"}.get(self.y.dtype.kind, "classification")  # pyright: ignore[reportReturnType]

    def take(self, indices: Array | slice | Sequence[int]) -> Split:
        """The samples at `indices`, in that order."""
        files = None if self.files is None else self.files[indices]
        return replace(self, x=some_of(self.x, indices), y=self.y[indices], files=files)

    def inputs(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Samples `start` to `stop` as the network sees them: normalised float32 (n, c, h, w)."""
        return self.normalisation.apply(self.x[start:stop])

    def accuracy(self, outputs: Array, numbers: Numbers = "scores") -> float:
        """Share of right classes, or R², of what any runtime gave for all samples: (n, classes) or (n, k).

        With several classes to a sample it is the share of right answers to "does this sample have this class?", where
        a probability above one half is a yes. `numbers` says what the outputs are: scores (above 0), or probabilities.

        The same figure as `score.evaluate` measures for a PyTorch module; R² is defined there.
        """
        out = np.asarray(outputs).reshape(len(self), -1)
        if self.task == "multilabel":
            return float(((out > yes_above(numbers)) == self.y).mean())
        if self.task == "classification":
            return float((out.argmax(axis=1) == self.y).mean())
        y = self.y.astype(np.float64)
        variance = y.var(axis=0)
        return 1.0 - float((np.square(out - y).mean(axis=0) / np.where(variance > 0, variance, 1.0)).mean())


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in two parts. The test part is for final figures; choices are made on `selection()`.

    `classes` are the names of labels 0, 1, … (empty for regression); `named`: they stand in the data, and are not
    numbers that were made up. `hash` is a SHA-256 of the parts' content. `val`: the part that the data themselves set
    aside for choices. `split`: where the parts come from, `notes`: what else was understood, in sentences. Of samples
    without labels both parts are all of them.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    task: Task
    augment: Augment
    hash: str
    val: Split | None = None
    named: bool = False
    split: str = ""
    notes: tuple[str, ...] = ()
    values: str | None = None

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample, (c, h, w) for pictures."""
        return self.train.sample_shape

    @property
    def outputs(self) -> int:
        """How many numbers a network for this data gives per sample: one per class, or per regression target."""
        return len(self.classes) if self.task in ("classification", "multilabel") else self.train.y.shape[1]

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
        return self.each(lambda part: replace(part, normalisation=normalisation))

    def each(self, change: Callable[[Split], Split]) -> Data:
        """The same data with each part changed."""
        val = None if self.val is None else change(self.val)
        return replace(self, train=change(self.train), test=change(self.test), val=val)

    def selection(self, fraction: float = SELECTION_FRACTION, seed: int = 0) -> Data:
        """The train part split again: `train` is what remains, `test` the selection part. The old test part is gone.

        Where the data have a part of their own for choices (`val`), that is the selection part; all of `train` stays.

        For choices (which cut, which setting) that must use neither what was trained on nor what is reported on.
        Keeps the normalisation, so that a network trained on the whole stays valid.
        """
        if self.val is not None:
            train, test = self.train, self.val
        else:
            rest, chosen = split_indices(self.train.y, self.task, fraction, seed, f"{self.name}, selection")
            train, test = self.train.take(rest), self.train.take(chosen)
        digest = content_hash((train, test), self.classes)
        return replace(self, name=f"{self.name} (selection)", train=train, test=test, val=None, hash=digest)

    def to_dict(self) -> dict[str, Any]:
        """What a record of a run keeps: sizes, classes, hash; not the samples."""
        return {
            "name": self.name,
            "task": self.task,
            "classes": list(self.classes),
            "train_samples": len(self.train),
            "test_samples": len(self.test),
            "val_samples": 0 if self.val is None else len(self.val),
            "split": self.split,
            "sample_shape": list(self.sample_shape),
            "normalisation": self.normalisation.to_dict(),
            "augment": {"crop": self.augment.crop, "mirror": self.augment.mirror},
            "hash": self.hash,
        }


def from_arrays(
    x: Any,
    y: Any,
    x_test: Any = None,
    y_test: Any = None,
    *,
    classes: Sequence[str] | None = None,
    name: str = "arrays",
    augment: Augment | None = None,
    seed: int = 0,
    asked: Asked = NOTHING,
) -> Data:
    """A data set from arrays: `x` (n, c, …) or (n, h, w), `y` classes or amounts; `asked` says what they do not tell.

    uint8 `x` is read as pictures, value / 255, as are whole numbers from 0 to 255 in the form of pictures; any other
    values become float32 and stand as they are. `y` are numbers from 0 or 1, names, truth values or one-hot rows for
    classes, rows of 0 and 1 for several classes to a sample, floats for a regression. Without a test part TEST_FRACTION
    of each class is drawn with `seed`.

    Raises DataError: sizes that do not agree, NaN, labels out of range, one class only, what cannot be told.
    """
    raw = [(np.asarray(x), name)]
    ys = [_labels(y)]
    if x_test is not None:
        if y_test is None:
            raise DataError(f"{name}, test part: samples without labels; give y_test beside x_test")
        raw.append((np.asarray(x_test), f"{name}, test part"))
        ys.append(_labels(y_test))
    xs, notes = samples_of(raw, asked)
    parts: dict[str, Any] = dict(zip(("train", "test"), zip(xs, ys, strict=True), strict=False))
    given = tuple(classes) if classes is not None and len(classes) else None
    return assembled(name, parts, given, augment or Augment(), seed, asked, notes)


def _labels(y: Any) -> NDArray[Any]:
    """Labels as an array; lists of text and of unequal length as they are, which `labels` judges."""
    try:
        return np.asarray(y)
    except ValueError:
        return np.asarray(y, dtype=object)


def unlabelled(x: Array, name: str, asked: Asked = NOTHING) -> Data:
    """Samples without labels, for what needs none: `x` as in `from_arrays`, also none at all; values stay as they are.

    Raises DataError: types and shapes that are no samples, NaN.
    """
    notes: tuple[str, ...] = ()
    if len(x):
        (x,), notes = samples_of([(x, name)], asked)
    else:
        x = np.asarray(x, np.float32)
    check_finite(x, name)
    part = Split(x, np.empty((len(x), 0), np.float32), Normalisation.none(x.shape[1]))
    digest = content_hash((part, part), ())
    return Data(name, part, part, (), "unlabelled", Augment(), digest, notes=notes, values=asked.values)


def assembled(
    name: str,
    raw: Mapping[str, tuple[Array, NDArray[Any]]],
    classes: tuple[str, ...] | None,
    augment: Augment,
    seed: int,
    asked: Asked = NOTHING,
    notes: tuple[str, ...] = (),
    split: str = "",
    files: Mapping[str, Array] | None = None,
) -> Data:
    """Samples in the final form and raw labels by part ("train", "test", "val"), checked against each other.

    Without "test" a test part is split off. `notes` and `split` say what is known already. `files`: the places of the
    samples by part, where each is a file.
    """
    places = dict(files or {})
    x, y_raw = raw["train"]
    labels = labels_of(y_raw, classes, asked, name)
    y = labels.encoded(y_raw, len(x), name)
    if labels.task == "classification" and len(np.unique(y)) < 2:
        raise DataError(f"{name}: all {len(y)} samples are of one class; give samples of at least two classes")
    check_finite(x, name)
    check_finite(y, f"{name}, targets")
    parts: dict[str, tuple[Array, Array]] = {"train": (x, y)}
    for part in ("test", "val"):
        if part in raw:
            parts[part] = _beside(raw[part], parts["train"], labels, f"{name}, {PART_NAMES[part]}")
    if "test" not in parts:
        rest, chosen = split_indices(y, labels.task, TEST_FRACTION, seed, name)
        parts["test"], parts["train"] = (some_of(x, chosen), y[chosen]), (some_of(x, rest), y[rest])
        if "train" in places:
            places["test"], places["train"] = places["train"][chosen], places["train"][rest]
        whose = "of each class" if labels.task == "classification" else "of the samples"
        split = f"{100 * TEST_FRACTION:.0f} % {whose} were drawn as the test part with seed {seed}"
    normalisation = Normalisation.of(parts["train"][0])
    done = {part: Split(*pair, normalisation, places.get(part)) for part, pair in parts.items()}
    return Data(
        name,
        done["train"],
        done["test"],
        labels.classes,
        labels.task,
        augment,
        content_hash([done[k] for k in ("train", "test", "val") if k in done], labels.classes),
        val=done.get("val"),
        named=labels.named,
        split=split or "the test part is the data's own",
        notes=(*notes, *labels.notes),
        values=asked.values,
    )


def _beside(raw: tuple[Array, Array], train: tuple[Array, Array], labels: Labels, where: str) -> tuple[Array, Array]:
    """A part beside the train part, checked against it."""
    x, y = raw[0], labels.encoded(raw[1], len(raw[0]), where)
    if x.shape[1:] != train[0].shape[1:]:
        raise DataError(
            f"{where}: samples are {sizes(x.shape[1:])}, those of the train part {sizes(train[0].shape[1:])}; "
            "give one size (--input-size C,H,W) to resize"
        )
    if y.shape[1:] != train[1].shape[1:]:
        raise DataError(f"{where}: {y.shape[1]} targets per sample, {train[1].shape[1]} in the train part")
    if x.dtype != train[0].dtype:
        raise DataError(f"{where}: samples are {x.dtype}, those of the train part {train[0].dtype}; use one type")
    check_finite(x, where)
    check_finite(y, f"{where}, targets")
    return x, y


def check_finite(x: Array, where: str) -> None:
    """Raise DataError that names the first sample with NaN, infinity, or values above `LARGEST`."""
    if x.dtype.kind != "f":
        return
    start = 0
    for found in blocks_of(x):
        block = found.reshape(len(found), -1)
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
        start += len(found)


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


def content_hash(parts: Iterable[Split], classes: tuple[str, ...]) -> str:
    """SHA-256, in hexadecimal, of shapes, types and bytes of all parts and of the class names."""
    digest = hashlib.sha256(repr(classes).encode())
    for part in parts:
        for array in (part.x, part.y):
            digest.update(f"{array.shape}{array.dtype.str}".encode())
            if isinstance(array, StreamedSamples):
                digest.update(array.digest())
            else:
                digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
