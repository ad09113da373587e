"""What the verbs give back where no single room owns the result: frozen, with `to_dict` for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

MOST_VALUES = 1000
"""Outputs with more numbers than this are not written into JSON; `-o OUT.npy` has them."""


@dataclass(frozen=True, slots=True)
class Guess:
    """One class of an answer: its number, its name (the number where names are not known), score and probability."""

    index: int
    name: str
    score: float
    probability: float


@dataclass(frozen=True, eq=False)
class Run:
    """A forward pass. `top` has the best classes of every sample, empty where the output is not one row per sample.

    `outputs` are the arrays, by the names of the network's outputs; `prepared` says how the input was made.
    """

    network: str
    source: str
    prepared: str
    outputs: Mapping[str, Any]
    top: tuple[tuple[Guess, ...], ...] = ()
    files: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Shapes and extremes of the outputs; their values where they are few."""
        return {
            "network": self.network,
            "prepared": self.prepared,
            "top": [[asdict(guess) for guess in sample] for sample in self.top],
            "outputs": [
                {
                    "name": name,
                    "shape": list(array.shape),
                    "min": float(array.min()) if array.size else None,
                    "max": float(array.max()) if array.size else None,
                    "values": array.tolist() if array.size <= MOST_VALUES else None,
                }
                for name, array in self.outputs.items()
            ],
            "files": list(self.files),
        }


@dataclass(frozen=True)
class Trained:
    """A finished training: the record of the run (`train.record.History.to_dict()`) and the files written."""

    network: str
    history: Mapping[str, Any]
    files: tuple[str, ...]
    fresh: bool

    def to_dict(self) -> dict[str, Any]:
        """The record with its files."""
        return {"network": self.network, **self.history, "started": "fresh" if self.fresh else "from weights",
                "files": list(self.files)}  # fmt: skip


@dataclass(frozen=True)
class Exported:
    """A network written in another format."""

    network: str
    format: str
    file: str
    size_bytes: int
    checked: str

    def to_dict(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


@dataclass(frozen=True)
class Listing:
    """Rows of `dojang list`: one dict each, with the same keys."""

    what: str
    rows: tuple[Mapping[str, Any], ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """The rows under the name of the list."""
        return {self.what: [dict(row) for row in self.rows]}
