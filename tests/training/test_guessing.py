"""Whether a network's outputs stand for the classes in another order."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from dojang.training.guessing import other_order


@dataclass
class Labels:
    """A part of a data set, of which only the labels count."""

    y: np.ndarray


def found(y: np.ndarray, answers: np.ndarray) -> tuple[float, dict[int, int]]:
    part: Any = Labels(y)
    return other_order(answers, part)


@pytest.mark.parametrize("seed", range(4))
def test_an_order_is_found_again(seed: int) -> None:
    rng = np.random.default_rng(seed)
    many = int(rng.integers(3, 12))
    y, turn = rng.integers(0, many, 60 * many), rng.permutation(many)
    answers = np.where(rng.random(len(y)) < 0.8, turn[y], rng.integers(0, many + 3, len(y)))
    share, order = found(y, answers)
    assert order == dict(enumerate(turn)) or share > 0.75
    assert 0.7 < share < 0.95


def test_chance_makes_no_order() -> None:
    """One or two samples to a class, and answers that are right for some of them or for none."""
    rng = np.random.default_rng(0)
    y = np.arange(100)
    answers = np.where(rng.random(100) < 0.3, y, rng.integers(0, 100, 100))
    assert found(y, answers)[0] < 0.1
    assert found(rng.integers(0, 1000, 50), rng.integers(0, 1000, 50))[0] < 0.1


def test_classes_that_are_absent_are_not_named() -> None:
    y = np.repeat([1, 2, 3], 30)
    share, order = found(y, np.array([0, 0, 1, 2])[y])
    assert share == 1
    assert order == {1: 0, 2: 1, 3: 2}


def test_many_classes_take_little_time_and_memory() -> None:
    y = np.arange(3000) * 1000
    assert found(y, y)[0] == 0  # no class is seen twice
