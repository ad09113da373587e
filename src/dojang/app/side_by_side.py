"""Modules tuned side by side: each of several processes, as `torchrun` starts them, tunes some of them.

Process 0 searches and decides; it hands modules out, and gets back what `tune` made of them. Where the owner's script
has set up `torch.distributed` itself, its loop may share its work among processes: then all tune each module together.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from dojang.app.together import Lead, Together
from dojang.base.errors import DojangError, UsageError

Tuned = Callable[[Any, float], Any]
"""What tunes a module in place for a share, or gives another one: `own_loop.OwnLoop.tune_once`."""


@dataclass(frozen=True)
class SideBySide:
    """The processes that tune. `by_owner`: the owner's script has set up the group, so its loop may use it."""

    processes: Together
    by_owner: bool = False

    def work(self, tune: Tuned) -> Callable[[Sequence[bytes]], list[Any]]:
        """What every process does with modules that were handed out: ("done", state) or ("failed", error) of each."""

        def tuned(modules: Sequence[bytes]) -> list[Any]:
            mine: dict[int, Any] = {}
            for place, packed in enumerate(modules):
                if self.by_owner or place % self.processes.size == self.processes.rank:
                    mine[place] = _one(tune, packed)
            every = self.processes.gathered(mine)
            return [next(own[place] for own in every if place in own) for place in range(len(modules))]

        return tuned

    def many(self, lead: Lead, tune: Tuned, modules: Sequence[Any], share: float) -> list[Any]:
        """Copies of the modules tuned for a share of one whole tuning, by process 0. Raises the first error that `tune`
        raised.
        """
        copies = [deepcopy(module) for module in modules]
        answers = lead.shared(self.work(tune))([packed((module, share)) for module in copies])
        for copy, (how, said) in zip(copies, answers, strict=True):
            if how == "failed":
                raise said
            copy.load_state_dict(said)
        return copies


def _one(tune: Tuned, packed_module: bytes) -> tuple[str, Any]:
    try:
        found = tune(*pickle.loads(packed_module))
    except DojangError as error:
        return "failed", error
    return "done", {name: value.detach().cpu() for name, value in found.state_dict().items()}


def packed(asked: tuple[Any, float]) -> bytes:
    """A module and its share for another process. Raises `UsageError` where it cannot be sent."""
    try:
        return pickle.dumps(asked)
    except Exception as error:  # whatever the owner's class raises
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{type(asked[0]).__name__} cannot be sent to other processes ({line:.100}); slim it in one process"
        ) from None


def opened() -> bool:
    """Whether `torch.distributed` has a group already, told without importing PyTorch."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()
