"""The short part of the random convolutions; `python bench/random_convs.py` runs as many as wanted."""

import pytest

pytest.importorskip("torch")

from random_convs import check, problems


def test_random_convolutions_against_pytorch() -> None:
    wrong = [line for seed, conv in enumerate(problems(16, seed=3)) for line in check(conv, seed)]
    assert wrong == []
