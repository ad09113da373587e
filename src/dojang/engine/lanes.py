"""The memory of runs: one lane for each run at a time, shared by all batch sizes of a network.

A lane's memory is as large as the largest batch that it met needs, and the batch sizes take turns in it, so that many
of them hold no more than one. It shrinks when it was at least twice too large for `SPARE_RUNS` runs in a row.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Collection

import numpy as np

from dojang.engine.build import Build
from dojang.engine.context import Context
from dojang.native import forks

MOST_IDLE = 4  # lanes that are kept for callers on several threads
LARGE = 8 << 20  # bytes: smaller lanes are not worth shrinking
SPARE_RUNS = 32


class Lane:
    """Memory of one run at a time, and the builds that are bound to it."""

    __slots__ = ("__weakref__", "arena", "contexts", "nbytes", "spare")

    def __init__(self) -> None:
        """No memory yet."""
        self.clear()

    def clear(self) -> None:
        """Lets the memory go."""
        self.nbytes = self.spare = 0
        self.contexts: dict[Build, Context] = {}  # they point into the arena, and go with it
        self.arena = np.empty(0, np.float32)

    def bind(self, build: Build) -> Context:
        """The build made ready in this memory, which grows if need be. Raises `MemoryError`; the lane is then empty."""
        if self.nbytes < build.run_bytes:
            self.clear()  # first, so that old and new are not there at once
            raw = np.empty(build.run_bytes // 4 + 32, np.float32)
            skip = -raw.ctypes.data % 64 // 4
            self.arena = raw[skip : skip + -(-build.run_bytes // 4)]
            self.nbytes = build.run_bytes
        context = Context(build, self.arena)
        self.contexts[build] = context
        return context


class Lanes:
    """All lanes of one network, at most `most`: a thread that finds none waits until another has done its run."""

    def __init__(self, most: int) -> None:
        """No lane yet."""
        self.most = max(most, MOST_IDLE)
        self._idle: list[Lane] = []
        self.after_fork()
        forks.renew(self)

    def after_fork(self) -> None:
        """Lanes that were in use are those of threads that a child does not have."""
        self._all = weakref.WeakSet(self._idle)  # those in use too; one that an interrupt lost goes by itself
        self._lock, self._bell, self._waiting = threading.RLock(), queue.SimpleQueue[None](), 0

    def take(self) -> Lane:
        """A lane for one run."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._another()

    def give(self, lane: Lane, build: Build) -> None:
        """The lane back, after a run of `build`."""
        if lane.nbytes > LARGE:
            lane.spare = lane.spare + 1 if lane.nbytes > 2 * build.run_bytes else 0
            if lane.spare >= SPARE_RUNS:
                lane.clear()
        if len(self._idle) < MOST_IDLE or self._waiting:
            self._idle.append(lane)
            if self._waiting:
                self._bell.put(None)

    def keep(self, builds: Collection[Build]) -> None:
        """Forgets all other builds."""
        for lane in tuple(self._all):
            lane.contexts = {b: c for b, c in tuple(lane.contexts.items()) if b in builds}

    @property
    def nbytes(self) -> int:
        """Bytes of all lanes."""
        return sum(lane.nbytes for lane in tuple(self._all))

    def _another(self) -> Lane:
        while True:
            with self._lock:
                if self._idle:
                    return self._idle.pop()
                if len(self._all) < self.most:
                    lane = Lane()
                    self._all.add(lane)
                    return lane
                self._waiting += 1
            try:
                self._bell.get(timeout=0.05)  # not for good: an interrupt may have lost the lane that we wait for
            except queue.Empty:
                pass
            finally:
                self._waiting -= 1
