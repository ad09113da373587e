"""Which classes are mistaken for which: the confusion matrix of a set of answers, and what is read off it.

Needs NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dojang.base.errors import DataError, ShapeError

MATRIX_CLASSES = 100
"""With more classes than these, a document leaves the matrix out: it would be longer than everything else in it."""

MISTAKES = 20
"""So many of the most frequent mistakes stand in a document."""


@dataclass(frozen=True)
class Mistake:
    """`count` samples of class `label` were answered as class `answer`; both are names of classes."""

    label: str
    answer: str
    count: int


@dataclass(frozen=True)
class Confusion:
    """The confusion matrix of some samples: `matrix[i][j]` of them have label `classes[i]` and the answer `classes[j]`.

    Rows are labels and columns are answers, as in scikit-learn.
    """

    classes: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        """Raise ShapeError unless the matrix has one row and one column for each class."""
        count = len(self.classes)
        if len(self.matrix) != count or any(len(row) != count for row in self.matrix):
            raise ShapeError(f"a confusion matrix of {count} classes has {count} rows and {count} columns")

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        return np.asarray(self.matrix, np.int64).reshape(len(self.classes), len(self.classes))

    @property
    def samples(self) -> int:
        """Number of samples, which is the sum of the matrix."""
        return int(self._counts.sum())

    @property
    def accuracy(self) -> float | None:
        """Share of samples whose answer is their label; None without samples."""
        return _share(np.trace(self._counts), self._counts.sum())

    @property
    def support(self) -> tuple[int, ...]:
        """For each class the number of samples with this label."""
        return tuple(self._counts.sum(axis=1).tolist())

    @property
    def answered(self) -> tuple[int, ...]:
        """For each class the number of samples with this answer."""
        return tuple(self._counts.sum(axis=0).tolist())

    @property
    def recall(self) -> tuple[float | None, ...]:
        """For each class the share of its samples that are answered as it; None for a class without samples."""
        return tuple(_share(a, b) for a, b in zip(np.diag(self._counts), self.support, strict=True))

    @property
    def precision(self) -> tuple[float | None, ...]:
        """For each class the share of the answers naming it that are right; None for a class that no answer names."""
        return tuple(_share(a, b) for a, b in zip(np.diag(self._counts), self.answered, strict=True))

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean recall over the classes that have samples; None without samples."""
        known = [value for value in self.recall if value is not None]
        return sum(known) / len(known) if known else None

    @property
    def majority(self) -> str | None:
        """The class with the most samples (the first of equals); None without samples."""
        return self.classes[int(np.argmax(self.support))] if self.samples else None

    @property
    def majority_share(self) -> float | None:
        """Share of the samples in the largest class: the accuracy of always answering that class."""
        return _share(max(self.support, default=0), self.samples)

    def mistakes(self, most: int = MISTAKES) -> tuple[Mistake, ...]:
        """The `most` most frequent pairs of a label and a wrong answer, the most frequent first."""
        wrong = self._counts - np.diag(np.diag(self._counts))
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        pairs = (divmod(int(i), len(self.classes)) for i in order)
        return tuple(Mistake(self.classes[i], self.classes[j], int(wrong[i, j])) for i, j in pairs if wrong[i, j])

    def majority_warning(self) -> str | None:
        """A sentence where the accuracy is no better than that of always answering the largest class, else None.

        Only where one class has more samples than another: for equal classes a low accuracy says it by itself.
        """
        share, accuracy = self.majority_share, self.accuracy
        if share is None or accuracy is None or accuracy > share:
            return None
        there = [count for count in self.support if count]
        if min(there) == max(there) and len(there) == len(self.classes):
            return None
        than = "the same" if accuracy == share else f"{100 * share:.2f} %"
        return (
            f"an accuracy of {100 * accuracy:.2f} % shows no learning: always answering class {self.majority} gives "
            f"{than}"
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON. `matrix` is None for more than MATRIX_CLASSES classes; `mistakes` are the most frequent ones."""
        return {
            "samples": self.samples,
            "classes": list(self.classes),
            "support": list(self.support),
            "recall": list(self.recall),
            "precision": list(self.precision),
            "balanced_accuracy": self.balanced_accuracy,
            "majority_class": self.majority,
            "majority_share": self.majority_share,
            "warning": self.majority_warning(),
            "matrix": [list(row) for row in self.matrix] if len(self.classes) <= MATRIX_CLASSES else None,
            "mistakes": [vars(mistake) for mistake in self.mistakes()],
        }


@dataclass(frozen=True)
class ByLabel:
    """Where a sample has any number of classes: of each class the samples that have it (`support`), those that were
    answered to have it (`answered`), and those of which both is true (`right`), over `samples` samples.
    """

    classes: tuple[str, ...]
    samples: int
    support: tuple[int, ...]
    answered: tuple[int, ...]
    right: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with recall (right / support) and precision (right / answered), None where that is 0 / 0."""
        return {
            "samples": self.samples,
            "classes": list(self.classes),
            "support": list(self.support),
            "answered": list(self.answered),
            "recall": [_share(a, b) for a, b in zip(self.right, self.support, strict=True)],
            "precision": [_share(a, b) for a, b in zip(self.right, self.answered, strict=True)],
        }


def confusion(answers: ArrayLike, labels: ArrayLike, classes: Sequence[str]) -> Confusion:
    """The confusion matrix of `answers` to samples with `labels`: both are class numbers (n,), 0 … classes − 1.

    Raises ShapeError where there is not one answer for each label, DataError for a number that is no class.

    >>> seen = confusion([0, 0, 1, 0], [0, 0, 1, 1], ["cat", "dog"])
    >>> seen.matrix, seen.recall
    (((2, 0), (1, 1)), (1.0, 0.5))
    """
    answered, meant = (np.asarray(numbers) for numbers in (answers, labels))
    if answered.ndim != 1 or answered.shape != meant.shape:
        raise ShapeError(f"answers {answered.shape} and labels {meant.shape}: give one class number each per sample")
    count = len(classes)
    for name, numbers in (("answer", answered), ("label", meant)):
        if numbers.size and numbers.dtype.kind not in "iu":
            raise DataError(f"{name}s are of type {numbers.dtype}; give class numbers, which are integers")
        wrong = np.flatnonzero((numbers < 0) | (numbers >= count))
        if len(wrong):
            at = int(wrong[0])
            raise DataError(f"{name} {numbers[at]} of sample {at} is no class; {count} classes are 0 … {count - 1}")
    cells = meant.astype(np.int64) * count + answered.astype(np.int64)
    return of_counts(np.bincount(cells, minlength=count * count).reshape(count, count), classes)


def of_counts(counts: NDArray[Any], classes: Sequence[str]) -> Confusion:
    """The confusion matrix that is at hand as an array (classes, classes) of counts, rows being labels."""
    return Confusion(tuple(classes), tuple(tuple(row) for row in counts.tolist()))


def _share(part: Any, whole: Any) -> float | None:
    return int(part) / int(whole) if whole else None
