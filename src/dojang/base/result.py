"""The base class of results: frozen objects that print as a table, display in a notebook, and convert to JSON.

`dojang.report` displays results, but this package must not import it. So `dojang/__init__.py` gives the function that
displays them to `show_with`; it is imported when a result is first printed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

Form = Literal["text", "html"]
Show = Callable[["Result", Form], str]

_show: list[Show] = []


def show_with(show: Show) -> None:
    """Sets the function that turns a result into text or HTML; it replaces the previous one."""
    _show[:] = [show]


class Result(ABC):
    """The base of every result. `print(result)` shows the table that the command line prints."""

    __slots__ = ()

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The content of the JSON document that the command prints with `--json`."""

    def __str__(self) -> str:
        return _show[0](self, "text")

    def _repr_html_(self) -> str:
        """The same table as self-contained HTML, for notebooks."""
        return _show[0](self, "html")
