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

if TYPE_CHECKING:
    import numpy as np


class Together(Protocol):
    """The processes of one run; `train.world.World` where there are several."""

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

    def told(self, value: Any) -> Any:
        """What process 0 gives, in every process."""
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

    def told(self, value: Any) -> Any:
        """The value."""
        return value


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
    from dojang.train.world import joined

    with joined(device) as world:
        yield world


def several() -> bool:
    """Whether `torchrun` has started several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def first() -> bool:
    """Whether this is the process that speaks: the only one, or number 0."""
    return not several() or os.environ.get("RANK", "0") == "0"


def by_first(us: Together, make: Callable[[], Any]) -> Any:
    """What process 0 makes, in every process; what it raises is raised in every process."""
    made, failed = None, None
    if us.rank == 0:
        try:
            made = make()
        except Exception as error:
            if us.size == 1:
                raise
            failed = error
    made, failed = us.told((made, failed))
    if failed is not None:
        raise failed
    return made
