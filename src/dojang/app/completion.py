"""Completion of the command line in bash, zsh and fish, by argcomplete (`pip install 'dojang[completion]'`).

    eval "$(register-python-argcomplete dojang)"                      # bash and zsh
    register-python-argcomplete --shell fish dojang | source          # fish

Commands, flags and their choices come from the parser; names of networks, tables and kernels from what there is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from dojang.base.errors import MissingPart


def complete(parser: argparse.ArgumentParser) -> None:
    """Writes the words that may come next, and ends the program; returns if the shell asked for none."""
    try:
        import argcomplete
    except ModuleNotFoundError:
        raise MissingPart("argcomplete is not installed; pip install 'dojang[completion]'") from None
    for action in _every(parser):
        names = NAMES.get(action.dest)
        if names is not None and not action.choices:
            setattr(action, "completer", _or_files(names))  # noqa: B010 - an attribute that argcomplete looks for
    argcomplete.autocomplete(parser)


def _every(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The arguments of the parser and of its commands."""
    found = list(parser._actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                found += inner._actions
    return found


def _networks() -> list[str]:
    from dojang.formats import zoo

    return [*zoo.names(), "stamp"]


def _tables() -> list[str]:
    from dojang.formats import tables

    return list(tables.names())


def _kernels() -> list[str]:
    from dojang.filters.kernels.named import NAMED

    return list(NAMED)


NAMES: dict[str, Callable[[], list[str]]] = {
    **dict.fromkeys(("net", "a", "b", "before"), _networks),
    "table": _tables,
    "kernel": _kernels,
    "data": lambda: ["digits"],
    "device": lambda: ["auto", "cpu", "cuda"],
    "machine": lambda: ["here", "a100", "h200", "raspberry-pi-5"],
}
"""Where the words for an argument come from, beside files."""


def _or_files(names: Callable[[], list[str]]) -> Callable[..., list[str]]:
    """A completer of names and of files."""

    def completer(prefix: str, **more: Any) -> list[str]:
        from argcomplete.completers import FilesCompleter

        files = FilesCompleter()(prefix, **more)
        return [*(name for name in names() if name.startswith(prefix)), *files]

    return completer
