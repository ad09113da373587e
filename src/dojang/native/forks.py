"""Forking while other threads work: the child process gets consistent state and free locks.

A fork copies the memory of that moment, but only the thread that forked. A lock that another thread held stays locked
forever in the child, and what that thread was changing stays half changed. Two remedies: the forking thread first
takes the locks that guard foreign state (LLVM's), so that the state is consistent; objects of dojang are initialised
again in the child.
"""

from __future__ import annotations

import os
import weakref
from typing import Any, Protocol


class Renewed(Protocol):
    """An object that must be initialised again in a child process."""

    def after_fork(self) -> None:
        """Initialises the object again. Called in the child, which has one thread."""


_objects: weakref.WeakSet[Any] = weakref.WeakSet()


def renew(thing: Renewed) -> None:
    """Calls `thing.after_fork()` in every child process, as long as the object lives."""
    _objects.add(thing)


def whole(*locks: Any) -> None:
    """Prevents forks while another thread holds one of these locks, which are always taken in this order."""
    if not hasattr(os, "register_at_fork"):
        return

    def take() -> None:
        for lock in locks:
            lock.acquire()

    def give() -> None:
        for lock in reversed(locks):
            lock.release()

    os.register_at_fork(before=take, after_in_parent=give, after_in_child=give)


def _renew_all() -> None:
    for thing in tuple(_objects):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
