"""Ctrl-C that something swallowed is raised again when the work goes on."""

import contextlib
import signal

import pytest

from dojang.app.interrupt import check, heard
from dojang.app.progress import Stages, train_bar


def swallow() -> None:
    """What an import that catches everything does to it."""
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_swallowed_interrupt_is_raised_by_progress() -> None:
    with heard():
        swallow()
        for tell in (Stages("x", quiet=True).stage, lambda _: Stages("x", quiet=True).step(1)):
            with pytest.raises(KeyboardInterrupt):
                tell("y")
        with train_bar() as bar, pytest.raises(KeyboardInterrupt):
            bar(None)  # type: ignore[arg-type]  # raised before it is looked at
    check()  # forgotten outside


def test_an_interrupt_is_raised_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), heard():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_handler_is_left_alone() -> None:
    heeded = []
    before = signal.signal(signal.SIGINT, lambda *_: heeded.append(1))
    try:
        with heard():
            signal.raise_signal(signal.SIGINT)
            check()
    finally:
        signal.signal(signal.SIGINT, before)
    assert heeded == [1]
