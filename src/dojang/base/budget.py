"""Limits for reading a file: bytes unpacked, letters of text, and steps of work. Every reader uses them.

A small file can need unbounded memory or time: an archive that unpacks to gigabytes, blocks that multiply when they
are substituted, a loop over a size of 10^12. A reader makes one `Budget` for its file and announces *beforehand* what
it is going to use; the budget raises an error that names the file. Standard library only.

>>> budget = Budget("t.npz", unpacked_bytes=100)
>>> budget.unpack(60)
>>> budget.unpack(60)
Traceback (most recent call last):
...
dojang.base.errors.FileError: t.npz: unpacks to more than 100 bytes, the limit for one file; split it, or ...
"""

from __future__ import annotations

import os

from dojang.base.errors import FileError, UsageError

UNPACKED_BYTES = 1 << 28
"""Every file may unpack to so many bytes: 256 MiB."""
UNPACKED_TIMES = 16
"""A large file may unpack to so many times its own size; weights compress by a factor of 1 to 3, MNIST by 5."""
LETTERS = 1 << 24
"""The most letters of a network's text after its blocks are substituted."""
STEPS = 1 << 24
"""The most steps of work (nodes, positions) that one file may need."""
ENVIRONMENT = "DOJANG_MAX_UNPACKED"
"""Environment variable that sets the limit on unpacked bytes of one file, in bytes, instead of both limits above."""


class Budget:
    """The limits for reading one file. `place` names it, and begins every message."""

    def __init__(
        self,
        place: str,
        unpacked_bytes: int | None = None,
        letters: int = LETTERS,
        steps: int = STEPS,
        file_bytes: int = 0,
    ) -> None:
        """`unpacked_bytes` defaults to `unpacked_limit(file_bytes)`; `file_bytes` is the size of what is unpacked."""
        self.place = place
        self.unpacked_bytes = unpacked_limit(file_bytes) if unpacked_bytes is None else unpacked_bytes
        self.letters, self.steps = letters, steps
        self._unpacked = self._letters = self._steps = 0

    def unpack(self, count: int) -> None:
        """Announces that `count` more bytes will be unpacked. Raises `FileError`."""
        self._unpacked += count
        if self._unpacked > self.unpacked_bytes:
            raise FileError(
                f"{self.place}: unpacks to more than {self.unpacked_bytes:,} bytes, the limit for one file; "
                f"split it, or raise the limit with {ENVIRONMENT}"
            )

    def write_letters(self, count: int) -> None:
        """Announces that the text will grow by `count` letters. Raises `FileError`."""
        self._letters += count
        if self._letters > self.letters:
            raise FileError(f"{self.place}: grows beyond {self.letters:,} letters when its blocks are written out")

    def step(self, count: int = 1) -> None:
        """Announces `count` more steps of work. Raises `FileError`."""
        self._steps += count
        if self._steps > self.steps:
            raise FileError(
                f"{self.place}: needs more than {self.steps:,} steps of work, the limit for one file; split it"
            )


def unpacked_limit(file_bytes: int = 0, times: int = UNPACKED_TIMES, least: int = UNPACKED_BYTES) -> int:
    """The limit in bytes for a file of `file_bytes`: `least` or `times` its size, whichever is larger.

    The environment variable `ENVIRONMENT` replaces both. Raises `UsageError` if it is not a number of bytes.
    """
    said = os.environ.get(ENVIRONMENT)
    if not said:
        return max(least, times * file_bytes)
    if not (said.isascii() and said.isdigit() and len(said) < 20 and int(said)):
        raise UsageError(f"{ENVIRONMENT}={said[:40]}: give a number of bytes, such as {UNPACKED_BYTES}")
    return int(said)
