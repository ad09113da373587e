from __future__ import annotations

import pytest

import dojang

PUBLIC = [
    *("Conv", "DojangError", "Graph", "__version__", "check", "compare", "compile", "conv", "conv_transpose"),
    *("convolve", "count", "diagnose", "export", "filter", "load", "run", "slim", "solve", "train"),
]


def test_public_names() -> None:
    assert sorted(dojang.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(dojang, name) is not None
    assert set(PUBLIC) <= set(dir(dojang))


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'cuont'"):
        getattr(dojang, "cuont")  # noqa: B009


def test_count_takes_names_and_graphs() -> None:
    net = dojang.load("alexnet")
    assert dojang.count(net).total.params == dojang.count("alexnet").total.params == 60_965_224
    assert dojang.count("alexnet").total.macs == 724_406_816
