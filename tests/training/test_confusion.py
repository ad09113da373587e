"""Confusion matrices and what is read off them against scikit-learn, on random answers of skewed classes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics

from dojang.base.errors import DataError, ShapeError
from dojang.training.confusion import MATRIX_CLASSES, Confusion, confusion
from dojang.training.data import Normalisation, Split
from dojang.training.score import by_label_on
from dojang.training.world import World


@pytest.mark.parametrize("seed", range(12))
def test_every_figure_equals_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, samples = int(rng.integers(2, 12)), int(rng.integers(1, 300))
    names = [f"class {i}" for i in range(count)]
    labels = rng.choice(count, samples, p=rng.dirichlet(np.full(count, 0.5)))
    answers = np.where(rng.random(samples) < 0.6, labels, rng.integers(0, count, samples))
    seen = confusion(answers, labels, names)
    numbers = list(range(count))
    assert np.array_equal(seen.matrix, metrics.confusion_matrix(labels, answers, labels=numbers))
    assert seen.accuracy == pytest.approx(metrics.accuracy_score(labels, answers))
    not_answered: Any = np.nan
    precision, recall, _, support = metrics.precision_recall_fscore_support(
        labels, answers, labels=numbers, zero_division=not_answered
    )
    assert np.array_equal(seen.support, np.asarray(support))
    for ours, theirs in ((seen.recall, recall), (seen.precision, precision)):
        assert np.array([np.nan if v is None else v for v in ours]) == pytest.approx(theirs, nan_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # answers that name classes without samples
        assert seen.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(labels, answers))
    wrong = [(f"class {labels[i]}", f"class {answers[i]}") for i in range(samples) if labels[i] != answers[i]]
    assert {(m.label, m.answer): m.count for m in seen.mistakes(count * count)} == {p: wrong.count(p) for p in wrong}
    frequencies = [m.count for m in seen.mistakes(count * count)]
    assert frequencies == sorted(frequencies, reverse=True)


def test_always_answering_the_largest_class_is_called_no_learning() -> None:
    labels = np.repeat([0, 1], [950, 50])
    seen = confusion(np.zeros(1000, int), labels, ["fine", "broken"])
    assert (seen.majority, seen.majority_share) == ("fine", 0.95)
    assert seen.majority_warning() == (
        "an accuracy of 95.00 % shows no learning: always answering class fine gives the same"
    )
    worse = labels.copy()
    worse[:100] = 1
    assert confusion(worse, labels, "ab").majority_warning() == (
        "an accuracy of 90.00 % shows no learning: always answering class a gives 95.00 %"
    )
    assert confusion(labels, labels, "ab").majority_warning() is None


def test_equal_classes_and_no_samples_give_no_warning() -> None:
    assert confusion([0, 0], [0, 1], "ab").majority_warning() is None
    none = confusion([], [], "ab")
    assert (none.accuracy, none.majority, none.majority_share, none.majority_warning()) == (None,) * 4
    assert none.recall == none.precision == (None, None)


def test_a_document_leaves_out_a_matrix_of_very_many_classes() -> None:
    small, large = (confusion([0, 1], [1, 1], [str(i) for i in range(n)]) for n in (3, MATRIX_CLASSES + 1))
    assert small.to_dict()["matrix"] == [[0, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert large.to_dict()["matrix"] is None
    assert large.to_dict()["mistakes"] == [{"label": "1", "answer": "0", "count": 1}]


@pytest.mark.parametrize(
    ("answers", "labels", "said"),
    [
        ([0, 2], [0, 1], "answer 2 of sample 1 is no class; 2 classes are 0 … 1"),
        ([0, 1], [-1, 1], "label -1 of sample 0 is no class"),
        ([0.0, 1.0], [0, 1], "answers are of type float64"),
    ],
)
def test_numbers_that_are_no_class_are_refused(answers: list[float], labels: list[int], said: str) -> None:
    with pytest.raises(DataError, match=said):
        confusion(answers, labels, "ab")


def test_sizes_that_do_not_agree_are_refused() -> None:
    with pytest.raises(ShapeError, match="one class number each"):
        confusion([0, 1, 0], [0, 1], "ab")
    with pytest.raises(ShapeError, match="2 rows and 2 columns"):
        Confusion(("a", "b"), ((1, 0),))


def test_recall_by_label_equals_scikit_learns() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((70, 6)).astype("f4"), rng.random((70, 4)) < [0.5, 0.2, 0.8, 0.0]
    split = Split(x, y, Normalisation((0.0,) * 6, (1.0,) * 6))
    module = torch.nn.Linear(6, 4)
    seen = by_label_on(module, split, World(torch.device("cpu")), ("a", "b", "c", "d"), batch_size=32)
    assert seen is not None
    told = (module(torch.from_numpy(x)) > 0).numpy()
    nothing: Any = np.nan
    precision, recall, _, support = metrics.precision_recall_fscore_support(y, told, zero_division=nothing)
    row = seen.to_dict()
    np.testing.assert_allclose(np.array(row["recall"], float), recall)
    np.testing.assert_allclose(np.array(row["precision"], float), precision)
    assert row["support"] == np.asarray(support).tolist()
    assert row["recall"][3] is None  # no sample has it
