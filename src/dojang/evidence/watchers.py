"""What looks at activations while the network is run for other evidence, so that one pass serves all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from dojang.evidence.activations import Run

Array = np.ndarray


class Watcher(Protocol):
    """Sees the values that it names, batch by batch."""

    @property
    def values(self) -> Sequence[str]:
        """The names of the values."""
        ...

    def add(self, found: Mapping[str, Array]) -> None:
        """Takes the values of one batch, arrays (n, …) by name."""
        ...


def seen_by(run: Run, watchers: Sequence[Watcher]) -> Run:
    """A run of the network that also shows each batch to the watchers."""

    def shown(x: object, taps: Sequence[str]) -> Mapping[str, Array]:
        found = run(x, list(dict.fromkeys((*taps, *(value for own in watchers for value in own.values)))))
        for own in watchers:
            own.add(found)
        return found

    return shown
