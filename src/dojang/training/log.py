"""What a training leaves behind while it runs: `log.csv`, one row per epoch, and events for TensorBoard."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, final

from dojang.base.errors import MissingPart, UsageError
from dojang.base.writing import replace_text
from dojang.training.record import Epoch

LOG_FILE = "log.csv"
EVENTS = "tensorboard"
"""The folder of event files beside the log; `tensorboard --logdir` takes it or any folder above it."""

TensorBoard = Literal["auto", "on", "off"]
"""Whether events are written: "auto" writes them where the package `tensorboard` is installed."""


@final
class Log:
    """Writes the curve of a run into a folder, after every epoch; without a folder it writes nothing.

    The log is rewritten whole and then renamed, so that a kill at any moment leaves whole rows; a run that is resumed
    starts from the rows of its state, so that no epoch stands there twice.
    """

    def __init__(self, directory: Path | None, metric: str, tensorboard: TensorBoard) -> None:
        """Raises MissingPart where events are asked for and the package is not installed; UsageError for the word."""
        if tensorboard not in ("auto", "on", "off"):
            raise UsageError(f"tensorboard {tensorboard!r} is not known; use auto, on or off")
        self._directory, self.metric = directory, metric
        self._writer: Any = None
        self._rows: list[Epoch] = []
        self._wanted = directory is not None and tensorboard != "off" and _has_tensorboard(tensorboard == "on")

    def begin(self, curve: Sequence[Epoch]) -> None:
        """Write the rows that the run has already: none of a new run, whose older events are removed."""
        if self._directory is None:
            return
        self._rows = list(curve)
        self._write()
        if not self._wanted:
            return
        from torch.utils.tensorboard import SummaryWriter

        folder = self._directory / EVENTS
        if not curve:
            for old in folder.glob("events.out.tfevents.*"):
                with contextlib.suppress(OSError):
                    old.unlink()
        # Later points of a run that was killed are hidden by TensorBoard: they are measured anew.
        self._writer = SummaryWriter(str(folder), purge_step=len(curve) + 1)

    def add(self, point: Epoch) -> None:
        """One more epoch."""
        if self._directory is None:
            return
        self._rows.append(point)
        self._write()
        if self._writer is not None:
            for name, value in self._named(point):
                if name != "epoch" and value is not None:
                    self._writer.add_scalar(_tag(name), value, point.epoch)
            self._writer.flush()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Closes the event file."""
        if self._writer is not None:
            self._writer.close()

    def _named(self, point: Epoch) -> list[tuple[str, Any]]:
        return [(_column(field.name, self.metric), getattr(point, field.name)) for field in fields(Epoch)]

    def _write(self) -> None:
        if self._directory is None:
            return
        lines = [",".join(_column(field.name, self.metric) for field in fields(Epoch))]
        lines += [",".join("" if v is None else repr(v) for _, v in self._named(point)) for point in self._rows]
        replace_text(self._directory / LOG_FILE, "\n".join(lines) + "\n", durable=False)


def _column(name: str, metric: str) -> str:
    """The name of a figure: what is called accuracy in the curve is R² for a regression."""
    return name if metric == "accuracy" else name.replace("accuracy", metric)


def _tag(name: str) -> str:
    """TensorBoard draws train/x and test/x beside each other.

    >>> _tag("test_accuracy"), _tag("lr")
    ('test/accuracy', 'lr')
    """
    part, _, rest = name.partition("_")
    return f"{part}/{rest}" if part in ("train", "test") and rest else name


def _has_tensorboard(asked: bool) -> bool:
    """Whether events can be written. Raises MissingPart where they are asked for and cannot."""
    try:
        if find_spec("tensorboard") is None:
            raise ModuleNotFoundError("it is not installed")
        from torch.utils import tensorboard
    except (ImportError, ValueError) as error:  # ValueError: a module that stands in `sys.modules` without a spec
        if asked:
            raise MissingPart(
                f"TensorBoard events need the package tensorboard ({error}): pip install 'dojang[tensorboard]'"
            ) from None
        return False
    del tensorboard
    return True
