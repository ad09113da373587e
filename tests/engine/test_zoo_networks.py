"""Published networks end to end against PyTorch in float64; `python bench/zoo_errors.py` does all of them."""

import pytest

pytest.importorskip("torch")

from zoo_errors import errors


@pytest.mark.parametrize("name", ["digits-cnn", "mobilenet-v2", "nin-cifar10-root16", "resnet18"])
def test_published_network(name: str) -> None:
    found = errors(name)
    assert found.fine, found
