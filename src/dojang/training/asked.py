"""What a person, or the network that is to take them, says of data: what the data alone do not tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from dojang.base.errors import UsageError

Task = Literal["classification", "regression", "multilabel", "unlabelled"]
TaskFlag = Literal["classification", "regression", "multilabel"]
Values = Literal["as-is", "0-255", "0-65535", "normalised"]
Layout = Literal["channels-first", "channels-last"]
PerChannel = float | Sequence[float]

WHITE: Mapping[str, int] = {"0-255": 255, "0-65535": 65535}
"""The largest value of samples, by which they are divided, where `values` says it."""


@dataclass(frozen=True)
class Asked:
    """How data are to be read. None leaves it to the rules of `meaning` and `labels`, which ask where they cannot tell.

    `shape`: one sample as the network takes it, channels first. `outputs`: how many numbers the network gives for a
    sample. `task`: what the labels mean. `values`: what the numbers of samples mean: "as-is" takes them as they stand,
    "0-255" and "0-65535" divide by 255 and 65535, "normalised" says that the network's mean and deviation are applied
    already. `layout`: which axis of a sample is the channel, the first or the last one. `mean`, `std`: one number, or
    one for each channel; (x / 255 − mean) / std for pixels, (x − mean) / std for floats.
    """

    shape: tuple[int, ...] | None = None
    outputs: int | None = None
    task: str | None = None
    values: str | None = None
    layout: str | None = None
    mean: PerChannel | None = None
    std: PerChannel | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for a word that is not known."""
        for name, value, known in (
            ("task", self.task, get_args(TaskFlag)),
            ("values", self.values, get_args(Values)),
            ("layout", self.layout, get_args(Layout)),
        ):
            if value is not None and value not in known:
                raise UsageError(f"{name} {value!r:.40} is not known; use {', '.join(known[:-1])} or {known[-1]}")


NOTHING = Asked()
"""Nothing is asked for."""
