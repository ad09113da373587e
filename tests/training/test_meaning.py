"""What people's arrays mean: each way of storing the same data gives the same data set, or a question with its flag."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dojang.base.errors import DataError, UsageError
from dojang.training.asked import Asked
from dojang.training.data import Augment, from_arrays
from dojang.training.understood import VARIED_FROM, unvaried_where_short

RNG = np.random.default_rng(14)
N = 40
TRUE = np.arange(N) % 4  # the class of each sample, in every way of storing it
NAMES = ("ant", "bee", "cow", "dog")
X = RNG.random((N, 1, 3, 5)).astype(np.float32)

CLASSES: dict[str, tuple[np.ndarray, tuple[str, ...] | None, Asked]] = {
    "numbers from 0": (TRUE, None, Asked()),
    "bytes": (TRUE.astype(np.uint8), None, Asked()),
    "a column": (TRUE[:, None], None, Asked()),
    "numbers from 1": (TRUE + 1, None, Asked()),
    "numbers from 1, named": (TRUE + 1, NAMES, Asked()),
    "names": (np.asarray(NAMES)[TRUE], None, Asked()),
    "names as bytes": (np.asarray(NAMES, "S")[TRUE], None, Asked()),
    "names as objects": (np.asarray(NAMES, object)[TRUE], None, Asked()),
    "names, and their list": (np.asarray(NAMES)[TRUE], NAMES, Asked()),
    "one-hot": (np.eye(4, dtype=int)[TRUE], None, Asked()),
    "one-hot floats": (np.eye(4, dtype=np.float32)[TRUE], None, Asked()),
    "one-hot truth values": (np.eye(4, dtype=bool)[TRUE], NAMES, Asked()),
    "floats, asked": (TRUE.astype(float), None, Asked(task="classification")),
    "floats, by the network": (TRUE.astype(float), None, Asked(outputs=4)),
    "numbers with gaps, asked": (np.asarray([3, 10, 11, 40])[TRUE], None, Asked(task="classification")),
    "digits as names": (np.asarray(["3", "10", "11", "40"])[TRUE], ("3", "10", "11", "40"), Asked()),
    "their numbers, and names": (np.asarray([3, 10, 11, 40])[TRUE], ("3", "10", "11", "40"), Asked()),
}


@pytest.mark.parametrize("way", CLASSES)
def test_classes_are_the_same_however_they_are_stored(way: str) -> None:
    y, classes, asked = CLASSES[way]
    data = from_arrays(X, y, X, y, classes=classes, asked=asked)
    assert data.task == "classification"
    assert data.outputs == 4
    assert np.array_equal(data.train.y, TRUE)
    assert np.array_equal(data.test.y, TRUE)
    assert data.train.y.dtype == np.int64
    if "name" in way and "digits" not in way and "their" not in way:
        assert data.classes == NAMES


def test_truth_values_are_two_classes() -> None:
    data = from_arrays(X, TRUE > 1)
    assert data.classes == ("False", "True")
    assert sorted({*zip(data.train.x.sum((1, 2, 3)).tolist(), data.train.y.tolist(), strict=True)}) == sorted(
        (s, t)
        for s, t in zip(X.sum((1, 2, 3)).tolist(), (TRUE > 1).astype(int).tolist(), strict=True)
        if s in data.train.x.sum((1, 2, 3)).tolist()
    )
    signs = from_arrays(X, np.where(TRUE > 1, 1, -1))
    assert signs.classes == ("-1", "1")


SEVERAL = np.asarray([[1, 1, 0], [0, 0, 0], [0, 1, 0], [1, 0, 1]])[TRUE]


@pytest.mark.parametrize("kind", [int, float, bool, np.uint8])
def test_rows_with_several_ones_are_several_classes_to_a_sample(kind: type) -> None:
    data = from_arrays(X, SEVERAL.astype(kind), X, SEVERAL.astype(kind))
    assert (data.task, data.outputs) == ("multilabel", 3)
    assert np.array_equal(data.train.y, SEVERAL.astype(bool))
    one_hot = from_arrays(X, np.eye(4)[TRUE].astype(kind), asked=Asked(task="multilabel"))
    assert one_hot.task == "multilabel"


AGES = RNG.integers(18, 80, N)
AMOUNTS: dict[str, tuple[np.ndarray, Asked]] = {
    "ages, asked": (AGES, Asked(task="regression")),
    "numbers from 0, asked": (TRUE, Asked(task="regression")),
    "floats": (RNG.random(N), Asked()),
    "whole floats with gaps": (AGES.astype(float), Asked()),
    "whole floats, by the network": (TRUE.astype(float), Asked(outputs=1)),
    "two amounts": (RNG.random((N, 2)), Asked()),
    "truth values, asked": (TRUE > 1, Asked(task="regression")),
}


@pytest.mark.parametrize("way", AMOUNTS)
def test_amounts_stay_amounts(way: str) -> None:
    y, asked = AMOUNTS[way]
    data = from_arrays(X, y, X, y, asked=asked)
    assert data.task == "regression"
    assert np.allclose(data.train.y, np.asarray(y, float).reshape(N, -1))


UNCLEAR: dict[str, tuple[np.ndarray, tuple[str, ...] | None, Asked, str]] = {
    "ages": (AGES, None, Asked(), "--task classification or --task regression"),
    "whole floats from 0": (TRUE.astype(float), None, Asked(), "--task classification or --task regression"),
    "whole floats, other outputs": (TRUE.astype(float), None, Asked(outputs=7), "--task"),
    "shares": (np.full((N, 4), 0.25), None, Asked(), "--task regression"),
    "rows of numbers": (np.full((N, 3), 7), None, Asked(), "--task regression"),
    "a map": (np.zeros((N, 3, 5), int), None, Asked(), "a map for each sample"),
    "amounts as classes": (RNG.random(N), None, Asked(task="classification"), "are no classes"),
    "names as amounts": (np.asarray(NAMES)[TRUE], None, Asked(task="regression"), "needs numbers"),
    "names that are not listed": (np.asarray(NAMES)[TRUE], ("ant", "bee"), Asked(), "'cow' is none of the 2"),
    "a name twice": (TRUE, ("ant", "bee", "ant", "dog"), Asked(), "'ant' stands there twice"),
    "several, as one class": (SEVERAL, None, Asked(task="classification"), "one class for each sample"),
    "numbers, as several": (TRUE, None, Asked(task="multilabel"), "rows of 0 and 1"),
}


@pytest.mark.parametrize("way", UNCLEAR)
def test_what_cannot_be_told_is_asked_for_in_one_line(way: str) -> None:
    y, classes, asked, message = UNCLEAR[way]
    with pytest.raises(DataError, match=message) as caught:
        from_arrays(X, y, classes=classes, asked=asked)
    assert "\n" not in str(caught.value)


def test_a_part_that_says_other_labels_is_refused() -> None:
    for y_test, message in (
        (np.asarray(["ant", "emu"])[TRUE % 2], "'emu' is none of the 4 classes"),
        (TRUE[:-1], "40 samples but 39 labels"),
        (np.full(N, 9), "'9' is none"),
    ):
        with pytest.raises(DataError, match=message):
            from_arrays(X, np.asarray(NAMES)[TRUE], X, y_test)
    with pytest.raises(DataError, match="not one-hot"):
        from_arrays(X, np.eye(4)[TRUE], X, np.ones((N, 4)))
    with pytest.raises(UsageError, match="task 'clasification' is not known; use classification"):
        Asked(task="clasification")


SHAPES: dict[str, tuple[tuple[int, ...], Callable[[np.ndarray], np.ndarray]]] = {
    "as it is": ((3, 4, 5), lambda x: x),
    "channels last": ((3, 4, 5), lambda x: np.moveaxis(x, 1, -1)),
    "grey without a channel": ((1, 4, 5), lambda x: x[:, 0]),
    "grey, channel last": ((1, 4, 5), lambda x: np.moveaxis(x, 1, -1)),
    "a signal": ((2, 9), lambda x: x),
    "a signal, channels last": ((2, 9), lambda x: np.moveaxis(x, 1, -1)),
    "a signal without a channel": ((1, 9), lambda x: x[:, 0]),
    "a volume": ((2, 3, 4, 5), lambda x: x),
    "a volume, channels last": ((2, 3, 4, 5), lambda x: np.moveaxis(x, 1, -1)),
    "a volume without a channel": ((1, 3, 4, 5), lambda x: x[:, 0]),
    "features": ((12,), lambda x: x.reshape(len(x), 3, 4)),
    "as many channels as pixels": ((3, 3, 3), lambda x: x),
}


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("way", SHAPES)
def test_samples_become_what_the_network_takes(way: str, kind: type) -> None:
    shape, stored = SHAPES[way]
    x = RNG.integers(0, 100, (N, *shape)).astype(kind)
    data = from_arrays(stored(x), TRUE, stored(x), TRUE, asked=Asked(shape=shape))
    assert data.train.x.dtype == (np.uint8 if kind == np.uint8 else np.float32)
    assert np.array_equal(data.train.x, x)
    assert np.array_equal(data.test.x, x)
    assert data.train.x.flags.c_contiguous


def test_two_possible_channel_axes_are_asked_for() -> None:
    x = RNG.random((N, 3, 8, 3))
    with pytest.raises(DataError, match="--layout channels-first or channels-last"):
        from_arrays(x, TRUE, asked=Asked(shape=(3, 4, 4)))
    for layout, true in (("channels-first", x), ("channels-last", np.moveaxis(x, 3, 1))):
        data = from_arrays(x, TRUE, x, TRUE, asked=Asked(shape=(3, 4, 4), layout=layout))
        assert np.array_equal(data.train.x, true.astype(np.float32))


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64, np.uint16, np.float32, np.float64])
def test_pictures_of_0_to_255_are_the_same_in_every_type(kind: type) -> None:
    x = RNG.integers(0, 256, (N, 3, 6, 5))
    data = from_arrays(x.astype(kind), TRUE, x.astype(kind), TRUE)
    assert data.hash == from_arrays(x.astype(np.uint8), TRUE, x.astype(np.uint8), TRUE).hash
    assert np.allclose(data.normalisation.mean, x.mean((0, 2, 3)) / 255)
    plain = from_arrays(x.astype(kind), TRUE, x.astype(kind), TRUE, asked=Asked(values="as-is"))
    assert np.allclose(plain.normalisation.mean, x.mean((0, 2, 3)))


def test_values_that_are_named_are_divided() -> None:
    x = RNG.random((N, 2, 9)) * 255
    data = from_arrays(x, TRUE, x, TRUE, asked=Asked(shape=(2, 9), values="0-255"))
    assert np.allclose(data.train.x, x / 255)
    deep = RNG.integers(0, 65536, (N, 1, 4, 4)).astype(np.uint16)
    data = from_arrays(deep, TRUE, deep, TRUE, asked=Asked(values="0-65535"))
    assert np.allclose(data.train.x, deep / 65535)
    with pytest.raises(DataError, match="not within 0-255"):
        from_arrays(deep, TRUE, asked=Asked(values="0-255"))
    # whole numbers that are no pictures stay as they are
    counts = RNG.integers(0, 17, (N, 1, 8, 8)).astype(np.float32)
    assert np.array_equal(from_arrays(counts, TRUE, counts, TRUE).train.x, counts)


def test_short_trainings_from_scratch_do_not_vary_pictures_and_say_so() -> None:
    data = from_arrays(
        np.zeros((20, 3, 8, 8), np.uint8), np.arange(20) % 2, classes=["a", "b"], augment=Augment(2, True)
    )
    short, long = (unvaried_where_short(data, epochs) for epochs in (VARIED_FROM - 1, VARIED_FROM))
    assert (short.augment, long.augment) == (Augment(), data.augment)
    assert any("not varied" in note for note in short.notes)
    assert not any("not varied" in note for note in long.notes)


FRACTIONS = {
    "a fraction": (1.5, "label 1.5 of sample 1 is no class"),
    "not a number": (np.nan, "label nan of sample 1 is no class"),
    "infinite": (np.inf, "label inf of sample 1 is no class"),
}


@pytest.mark.parametrize("what", FRACTIONS)
@pytest.mark.parametrize("first", [1, 5])
def test_a_test_label_that_is_no_whole_number_is_no_class(what: str, first: int) -> None:
    """Of classes 1, 2, … the label 1.5 was read as 1."""
    value, said = FRACTIONS[what]
    x, y = np.zeros((8, 1, 2, 2), np.float32), np.arange(8) % 4 + first
    test = y.astype(float)
    test[1] = value
    with pytest.raises(DataError, match=said):
        from_arrays(x, y, x, test, asked=Asked(task="classification"))


def test_a_label_out_of_range_is_told_as_it_stands() -> None:
    x, y = np.zeros((8, 1, 2, 2), np.float32), np.arange(8) % 4
    with pytest.raises(DataError, match="label 0 of sample 0 is out of range; 4 classes are 1 … 4"):
        from_arrays(x, y + 1, x, y, classes=["a", "b", "c", "d"])


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.longdouble])
def test_amounts_of_any_float_type_are_the_same(kind: type) -> None:
    y = np.arange(8) * 0.25
    found = from_arrays(np.zeros((8, 1, 2, 2), np.float32), y.astype(kind), np.zeros((8, 1, 2, 2)), y)
    assert found.test.y[:, 0].tolist() == y.tolist()


def test_what_float32_does_not_hold_is_not_called_infinite() -> None:
    x, y = np.zeros((8, 1, 2, 2)), np.arange(8) % 2
    with pytest.raises(DataError, match="sample 3 holds 1e\\+200, more than float32 holds"):
        from_arrays(np.where(np.arange(8)[:, None, None, None] == 3, 1e200, x), y)
    with pytest.raises(DataError, match="targets: sample 2 holds 1e\\+300, more than float32 holds"):
        from_arrays(x, np.where(np.arange(8) == 2, 1e300, 0.5))
