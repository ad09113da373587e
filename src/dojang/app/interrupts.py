"""Signals as interrupts: a command that is told to end keeps what it has and removes its temporary files."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Ctrl-C, `kill`, and a terminal that was closed."""


class Interrupts:
    """Whether a signal came: an exception that was raised for it may come out as another, from C code say."""

    came = False


@contextmanager
def ended_by_signals() -> Generator[Interrupts]:
    """Within the block `SIGNALS` raise KeyboardInterrupt; one that was ignored, as by `nohup`, stays ignored."""
    state = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield state
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        state.came = True
        raise KeyboardInterrupt

    plain = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: handler for number in SIGNALS if (handler := signal.getsignal(number)) in plain}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield state
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
