"""Ctrl-C that is not lost: libraries that catch every exception while they are imported swallow the first one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_seen: list[int] = []


@contextmanager
def heard() -> Iterator[None]:
    """Within, Ctrl-C raises KeyboardInterrupt as ever, and is remembered for `check`.

    Only where Python's own handler is in force, in the main thread; elsewhere nothing is changed.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return

    def handle(signum: int, frame: FrameType | None) -> None:
        _seen.append(signum)
        signal.default_int_handler(signum, frame)

    _seen.clear()
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _seen.clear()


def check() -> None:
    """Raises KeyboardInterrupt where one was raised before and went no further."""
    if _seen:
        raise KeyboardInterrupt
