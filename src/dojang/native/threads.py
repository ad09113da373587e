"""The number of threads: what the caller gave, what the environment says, what this process may use.

>>> with limited(3):
...     default_threads()
3
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf
from pathlib import Path, PurePosixPath
from time import monotonic

from dojang.base.errors import UsageError

ENVIRONMENT = "DOJANG_THREADS"
MOST_THREADS = 64
"""The most threads, whatever number is given."""
_said: ContextVar[int | None] = ContextVar("dojang_threads", default=None)


def default_threads(cores: int | None = None) -> int:
    """Threads of a network or a picture if the caller gives no number: `asked_threads()`, else `usable_cores()`, but at
    most `cores` (those of a machine). Raises `UsageError` as `asked_threads` does.
    """
    return asked_threads() or (usable_cores() if cores is None else min(cores, usable_cores()))


def asked_threads() -> int | None:
    """The number of `limited`, else that of DOJANG_THREADS, else None. Raises `UsageError` if the environment variable
    is not a whole number of at least 1.
    """
    said = _said.get()
    text = os.environ.get(ENVIRONMENT, "").strip()
    if said is not None or not text:
        return said
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):
        raise UsageError(f"{ENVIRONMENT}={text[:40]}: give a whole number of at least 1, such as 4, or unset it")
    return int(text)


@contextmanager
def limited(threads: int | None) -> Generator[None]:
    """In this block, the default number of threads; None changes nothing."""
    if threads is None:
        yield
        return
    if threads < 1:
        raise UsageError(f"threads must be at least 1, got {threads}")
    token = _said.set(threads)
    try:
        yield
    finally:
        _said.reset(token)


def usable_cores(root: str | os.PathLike[str] = "/") -> int:
    """Cores that this process may use now: those of its affinity mask, and at most its control groups' quota of
    processor time, rounded up; at least 1. `root` is where `proc` and the control groups are found.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _recent_quota() if root == "/" else cpu_quota(root)
    return cores if quota is None else max(1, min(cores, -int(-quota // 1)))


QUOTA_SECONDS = 1.0
"""How long a quota that was read is taken to hold: reading it takes 0.1 ms, as long as filtering a small picture."""
_read: tuple[float, float | None] = (-inf, None)  # when, and the quota


def _recent_quota() -> float | None:
    """`cpu_quota` of the last second."""
    global _read
    now = monotonic()
    if not 0 <= now - _read[0] < QUOTA_SECONDS:
        _read = now, cpu_quota()
    return _read[1]


def cpu_quota(root: str | os.PathLike[str] = "/") -> float | None:
    """The processor time per period, in processors, that the control groups allow: the least of a group and all its
    parents; None without a limit. Reads version 2 (`cpu.max`) and version 1 (`cpu.cfs_quota_us`).
    """
    top = Path(root)
    found: list[float] = []
    for folder in _groups(top):
        quota = _quota_of(folder)
        if quota is not None:
            found.append(quota)
    return min(found, default=None)


def _quota_of(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()[:2]
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        each, of = int(quota), int(period)  # "max" and −1 mean no limit
    except (OSError, ValueError):
        return None
    return each / of if each > 0 and of > 0 else None


def _groups(root: Path) -> Iterator[Path]:
    """The folders of this process's control groups that may limit processor time, with all their parents."""
    try:
        own = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except (OSError, ValueError):
        return
    for line in own:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        second = number == "0" and not controllers
        if not second and "cpu" not in controllers.split(","):
            continue
        for inside, at in _mounted(mounts, second):
            # In a container the group's path begins with the part of the tree that is mounted, or lies outside of it.
            try:
                below = PurePosixPath(path).relative_to(inside).parts
            except ValueError:
                below = ()
            if ".." in below:
                below = ()
            folder = root / at.lstrip("/")
            for depth in range(len(below), -1, -1):
                yield folder.joinpath(*below[:depth])


def _mounted(mounts: list[str], second: bool) -> Iterator[tuple[str, str]]:
    """(part of the tree, where it is mounted) of the version 2 tree, or of the version 1 tree of processor time."""
    for line in mounts:
        left, dash, right = line.partition(" - ")
        places, kind = left.split(), right.split()
        if not dash or len(places) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2" if second else (kind[0] == "cgroup" and "cpu" in kind[2].split(",")):
            yield _plain(places[3]), _plain(places[4])


def _plain(text: str) -> str:
    r"""A path of mountinfo, in which spaces are written as \040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
