"""Waiting for another thread or process: for a condition, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable

SECONDS = 120.0
"""Longer than what is waited for takes on a machine with much else to do."""


def until(condition: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    """Returns as soon as the condition holds. Raises AssertionError, with what was waited for, where it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.002)
