"""A process that forks while its other threads are at work: the child gets whole state and free locks.

A fork copies memory as it is at that moment and only the thread that forked. A lock that another thread held stays
held for good in the child, and what that thread was changing stays half changed. Two remedies: a lock that guards
foreign state (LLVM's) is taken by the forking thread first, so that the state is whole; an object of ours is told
afterwards, in the child, and makes itself new.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any, Protocol


class Renewed(Protocol):
    """Something that a child process must make new."""

    def after_fork(self) -> None:
        """Called in the child, which has one thread."""


_objects: weakref.WeakSet[Any] = weakref.WeakSet()


def renew(thing: Renewed) -> None:
    """Calls `thing.after_fork()` in every child process, as long as the thing lives."""
    _objects.add(thing)


def whole(*locks: Any) -> None:
    """Lets no fork happen while another thread holds one of these locks, which are always taken in this order."""
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


class ForkSafeLock:
    """A lock for `with` that is free in every child process.

    `with` on a lock of the interpreter is the one form in which no signal handler and no interrupt comes between
    taking it and being sure to give it back.
    """

    __slots__ = ("__weakref__", "lock")

    def __init__(self) -> None:
        """A free lock."""
        self.after_fork()
        renew(self)

    def after_fork(self) -> None:
        """A free lock."""
        self.lock = threading.Lock()
