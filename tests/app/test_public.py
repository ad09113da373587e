from __future__ import annotations

import importlib
from types import ModuleType

import pytest

import dojang

PUBLIC = [
    *("Conv", "DojangError", "Graph", "__version__", "check", "compare", "compile", "conv", "conv_transpose"),
    *("convolve", "count", "export", "filter", "load", "run", "solve"),
]
ROOMS = ["diagnose", "slim", "train"]


def test_public_names() -> None:
    assert sorted(dojang.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(dojang, name) is not None
    assert set(PUBLIC) | set(ROOMS) <= set(dir(dojang))


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'cuont'"):
        getattr(dojang, "cuont")  # noqa: B009


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_are_packages_and_verbs(room: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(f"dojang.{room}")
    assert getattr(dojang, room) is module
    assert isinstance(module, ModuleType)
    home = importlib.import_module(dojang._VERBS[room])
    assert callable(getattr(home, room))
    monkeypatch.setattr(home, room, lambda *args, **more: (args, more))
    assert getattr(dojang, room)(1, 2, three=3) == ((1, 2), {"three": 3})


def test_count_takes_names_and_graphs() -> None:
    net = dojang.load("alexnet")
    assert dojang.count(net).total.params == dojang.count("alexnet").total.params == 60_965_224
    assert dojang.count("alexnet").total.macs == 724_406_816
