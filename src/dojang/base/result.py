"""What every verb gives back: a frozen object that prints as a table, shows itself in a notebook, and becomes JSON.

How a result looks is told by `dojang.report`, which this package must not import. So `dojang/__init__.py` names the
function that shows results (`show_with`), and that function is loaded when a result is first printed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

Form = Literal["text", "html"]
Show = Callable[["Result", Form], str]

_show: list[Show] = []


def show_with(show: Show) -> None:
    """Names the function that turns a result into text or HTML; it replaces the one named before."""
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
        """The same table as a piece of HTML that needs nothing beside itself, for notebooks."""
        return _show[0](self, "html")
