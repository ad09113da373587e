"""Progress on stderr: a bar on a terminal, otherwise silence or one line per stage."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, final

from dojang.base.showing import shown

if TYPE_CHECKING:
    from dojang.training.record import Progress

STEP_SECONDS = 30.0
"""Where there is no terminal, a line says at most this often how far a stage is, and what is left of it."""

QUIET_SECONDS = 5.0
"""Where there is no terminal, lines about a long job come at most this often."""


class ProgressDisplay(Protocol):
    """Who is told of progress: `stage` begins a part of the work, `step` moves within it."""

    def stage(self, name: str, total: int | None = None) -> None:
        """A part begins."""
        ...

    def step(self, done: int, total: int | None = None, remark: str = "") -> None:
        """Some of it is done."""
        ...


class Silent:
    """Tells nobody."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Nothing."""

    def step(self, done: int, total: int | None = None, remark: str = "") -> None:
        """Nothing."""


@final
class Bar:
    """A progress bar with a changing remark; nothing at all when stderr is no terminal.

    `Bar(total, "filter")` as a context manager; `to(done, remark)` moves it.
    """

    def __init__(self, total: int, title: str, unit: str = "it") -> None:
        """Shows the bar where stderr is a terminal."""
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=title, unit=unit, file=sys.stderr, dynamic_ncols=True, leave=False)

    def to(self, done: int, remark: str = "") -> None:
        """Moves the bar to `done` of its total."""
        if self._bar is not None:
            if remark:
                self._bar.set_postfix_str(shown(remark), refresh=False)
            self._bar.update(done - self._bar.n)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()


@final
class Stages:
    """A long job in named stages, told on stderr: a bar for each on a terminal, with an estimate of what is left; else
    one line per stage, and one now and then within it.

    `stage` starts the next; `step` counts within it.
    """

    def __init__(self, title: str, quiet: bool = False, after: float = 0.0) -> None:
        """Silent when `quiet`, as for calls from Python. `after`: seconds before the first line."""
        self._title, self._quiet, self._after = title, quiet, after
        self._started = self._began = self._told = time.monotonic()
        self._total: int | None = None
        self._bar: Any = None
        self._name = ""

    def stage(self, name: str, total: int | None = None) -> None:
        """Begins a stage; with `total` its steps show as a bar."""
        self._close()
        self._name, self._total = name, total
        self._began = self._told = time.monotonic()
        if self._quiet:
            return
        if not sys.stderr.isatty():
            self._line("")
            return
        from tqdm import tqdm

        desc, form = f"{self._title}: {shown(name)}", "{desc} [{elapsed}]" if total is None else None
        self._bar = tqdm(total=total, desc=desc, file=sys.stderr, dynamic_ncols=True, leave=False, bar_format=form)

    def step(self, done: int, total: int | None = None, remark: str = "") -> None:
        """Moves within the stage; `total` may become known late."""
        self._total = self._total if total is None else total
        if self._bar is None:
            now = time.monotonic()
            if not self._quiet and not sys.stderr.isatty() and done and now - self._told >= STEP_SECONDS:
                self._told = now
                left = "" if not self._total else f" of {self._total}, about "
                left += f"{(now - self._began) / done * (self._total - done):.0f} s left" if self._total else ""
                self._line(f": {done}{left}")
            return
        if total is not None and self._bar.total != total:
            self._bar.total = total
            self._bar.bar_format = None
        if remark:
            self._bar.set_postfix_str(shown(remark), refresh=False)
        self._bar.n = done
        self._bar.refresh() if done == 0 else self._bar.update(0)

    def _line(self, more: str) -> None:
        """One line on stderr, once `after` seconds have gone."""
        seconds = time.monotonic() - self._started
        if seconds >= self._after:
            sys.stderr.write(f"{self._title}: {shown(self._name)}{more} ({seconds:.0f} s)\n")
            sys.stderr.flush()

    def close(self) -> None:
        """Takes the bar away."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@contextmanager
def train_bar() -> Iterator[Callable[[Progress], None]]:
    """What `training.loop.fit` tells, as a bar over all steps on a terminal, else as a line now and then.

    Lines come at the end of an epoch, at most one every five seconds.
    """
    bar: Any = None
    told = time.monotonic()

    def tell(now: Progress) -> None:
        nonlocal bar, told
        if sys.stderr.isatty():
            if bar is None:
                from tqdm import tqdm

                total = now.epochs * now.steps
                bar = tqdm(total=total, desc="train", unit="step", file=sys.stderr, dynamic_ncols=True, leave=False)
            remark = f"epoch {now.epoch}/{now.epochs}, loss {now.loss:.3f}"
            if now.done is not None and now.done.test_accuracy is not None:
                remark += f", test {now.done.test_accuracy:.3f}"
            bar.set_postfix_str(remark, refresh=False)
            bar.update((now.epoch - 1) * now.steps + now.step - bar.n)
        elif now.done is not None and (time.monotonic() - told > QUIET_SECONDS or now.epoch == now.epochs):
            told = time.monotonic()
            test = "" if now.done.test_accuracy is None else f", test {now.done.test_accuracy:.4f}"
            sys.stderr.write(
                f"epoch {now.epoch}/{now.epochs}: loss {now.loss:.4f}, train {now.done.train_accuracy:.4f}{test}\n"
            )
            sys.stderr.flush()

    try:
        yield tell
    finally:
        if bar is not None:
            bar.close()
