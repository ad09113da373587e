"""The short part of the random convolutions; `python bench/random_convs.py` runs as many as wanted."""

import pytest

pytest.importorskip("torch")

from random_convs import again


def test_random_convolutions_against_pytorch() -> None:
    wrong = [line for number in range(16) for line in again(seed=3, number=number)]
    assert wrong == []
