"""Text that is a key depends on the fields alone, whatever an interrupt left behind."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil

import pytest

import dojang.arith.conv
import dojang.engine.kernels
import dojang.filters.code
import dojang.filters.kernels
import dojang.native
from dojang.base.record import plain_repr

ROOMS = (dojang.engine.kernels, dojang.filters.code, dojang.filters.kernels)
FILES = ["dojang.arith.conv", "dojang.native.emit", "dojang.native.machine", "dojang.native.transforms"]


@dataclasses.dataclass(frozen=True)
class Guarded:
    size: int


Plain = plain_repr(dataclasses.make_dataclass("Plain", [("size", int), ("hidden", int, dataclasses.field(repr=False))]))


def interrupted(shown: object) -> None:
    """Leaves what an interrupt leaves that comes before the guard's `try`: the object is said to be shown for good."""
    guard = type(shown).__repr__
    for cell in getattr(guard, "__closure__", None) or ():
        if isinstance(cell.cell_contents, set):
            import _thread

            cell.cell_contents.add((id(shown), _thread.get_ident()))


def test_an_interrupted_text_says_another_thing_unless_it_is_plain() -> None:
    guarded, plain = Guarded(3), Plain(3, 4)
    for one in (guarded, plain):
        interrupted(one)
    assert repr(guarded) == "..."  # what dataclasses do
    assert repr(plain) == "Plain(size=3)"


@pytest.mark.parametrize(
    "name",
    [*FILES, *(m.name for room in ROOMS for m in pkgutil.walk_packages(room.__path__, f"{room.__name__}."))],
)
def test_records_that_keys_are_made_of_are_plain(name: str) -> None:
    for found in vars(importlib.import_module(name)).values():
        if isinstance(found, type) and dataclasses.is_dataclass(found) and found.__module__ == name:
            assert not hasattr(found.__repr__, "__wrapped__"), f"{found.__name__} needs @plain_repr"
