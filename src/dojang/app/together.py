"""Several processes, as `torchrun` starts them: this one's share of the samples, and what process 0 tells the others.

Process 0 alone looks at the clock, searches, decides and writes; the others lend a hand where samples are shared out.
So no two can decide differently, whatever each of them measures.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from dojang.base.errors import CheckFailed, DataError

if TYPE_CHECKING:
    import numpy as np


class Together(Protocol):
    """The processes of one run; `training.world.World` where there are several."""

    @property
    def rank(self) -> int:
        """Which process this is, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def share(self, items: np.ndarray) -> np.ndarray:
        """This process's consecutive part."""
        ...

    def reduced(self, how: str, array: np.ndarray) -> np.ndarray:
        """Elementwise "sum", "min" or "max" over all processes."""
        ...

    def broadcast(self, value: Any) -> Any:
        """What process 0 gives, in every process."""
        ...

    def gathered(self, value: Any) -> list[Any]:
        """What every process gives, in their order, in each of them."""
        ...


@dataclass(frozen=True)
class Alone:
    """One process. Needs no PyTorch."""

    rank: int = 0
    size: int = 1

    def share(self, items: np.ndarray) -> np.ndarray:
        """All of them."""
        return items

    def reduced(self, how: str, array: np.ndarray) -> np.ndarray:
        """The array."""
        del how
        return array

    def broadcast(self, value: Any) -> Any:
        """The value."""
        return value

    def gathered(self, value: Any) -> list[Any]:
        """The value alone."""
        return [value]


@contextmanager
def together(device: str = "cpu") -> Iterator[Together]:
    """The processes that `torchrun` (or the caller, by `torch.distributed`) has set up, or this one alone.

    Raises MissingPart where there are several and no PyTorch.
    """
    opened = False
    if (distributed := sys.modules.get("torch.distributed")) is not None:
        opened = distributed.is_available() and distributed.is_initialized()
    if not opened and not several():
        yield Alone()
        return
    from dojang.app.networks import torch_format

    torch_format()
    from dojang.training.world import joined

    with joined(device) as world:
        yield world


def several() -> bool:
    """Whether `torchrun` has started several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_main_process() -> bool:
    """Whether this is the process that speaks: the only one, or number 0."""
    return not several() or os.environ.get("RANK", "0") == "0"


def by_main_process(processes: Together, make: Callable[[], Any]) -> Any:
    """What process 0 makes, in every process; what it raises is raised in every process."""
    made, failed = None, None
    if processes.rank == 0:
        try:
            made = make()
        except Exception as error:
            if processes.size == 1:
                raise
            failed = error
    made, failed = processes.broadcast((made, failed))
    if failed is not None:
        raise failed
    return made


SHARED = (DataError, CheckFailed)
"""Errors that a shared piece of work raises in every process alike."""


class Lead:
    """Process 0 among several: what it does alone, with pieces of work in which the others take part.

    The others run `take_part`.
    """

    def __init__(self, processes: Together) -> None:
        self._processes = processes
        self._sharing = False

    def shared(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work(...)`, done by all processes at once with the arguments that process 0 gives."""
        if self._processes.size == 1:
            return work

        def begun(*arguments: Any) -> Any:
            self._processes.broadcast(("work", arguments))
            self._sharing = True
            try:
                done = work(*arguments)
            except SHARED:
                self._sharing = False
                raise
            self._sharing = False
            return done

        return begun

    def through(self, whole: Callable[[], Any], sent: Callable[[Any], Any]) -> Any:
        """The result of process 0's whole work; the others get it as `sent(result)`, or its error."""
        try:
            result = whole()
        except Exception as error:
            if not self._sharing:  # in the middle of shared work the others do not listen; they notice that it ended
                self._processes.broadcast(("failed", error))
            raise
        self._processes.broadcast(("done", sent(result) if self._processes.size > 1 else None))
        return result


def take_part(processes: Together, work: Callable[..., Any]) -> Any:
    """What another process than 0 does: its part of each shared `work`, until there is a result, which it returns.

    Raises what process 0 has raised; CheckFailed when that has ended without a word.
    """
    while True:
        kind, said = processes.broadcast(None)
        if kind == "failed":
            raise said
        if kind == "done":
            return said
        try:
            work(*said)
        except SHARED:
            continue  # process 0 has the same error, and decides
        except RuntimeError as error:
            line = (str(error).splitlines() or [""])[0]
            raise CheckFailed(f"process {processes.rank} has lost the others ({line})") from None
