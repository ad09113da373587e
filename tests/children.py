"""Processes that tests start: none outlives its test, and one that does not end says where it stands."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

import psutil

SECONDS = 200.0
"""Longer than any of them takes on a machine with much else to do, and shorter than the limit of a test."""

STACKS = {**os.environ, "PYTHONFAULTHANDLER": "1"}
"""The environment of a process that prints the stacks of all its threads when SIGABRT ends it."""


def end(process: subprocess.Popen[str], how: signal.Signals = signal.SIGKILL) -> None:
    """Sends a signal to a process, and then to all that it has started, in whatever session they are."""
    with contextlib.suppress(psutil.NoSuchProcess):
        first = psutil.Process(process.pid)
        for one in (first, *first.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(how)


def finished(process: subprocess.Popen[str], seconds: float = SECONDS) -> tuple[str, str]:
    """What it wrote. Behind the limit: an AssertionError with the stacks of all its threads (`STACKS`)."""
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        left = psutil.Process(process.pid).children(recursive=True)
        end(process, signal.SIGABRT)
        try:
            out, err = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            for one in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            process.kill()
            out, err = process.communicate(timeout=10)
        raise AssertionError(f"{process.args} has not ended after {seconds:g} s\n{out}\n{err}") from None
    except BaseException:
        end(process)
        raise
