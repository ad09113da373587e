"""The parser of the command line, made from the table of commands. Only the standard library is imported."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from dojang.app.options import COMMANDS, Option
from dojang.base.errors import UsageError
from dojang.base.version import __version__


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raises `UsageError` instead of printing the usage and leaving."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def build_parser() -> Parser:
    """The parser of the whole command line."""
    parser = Parser(
        prog="dojang",
        description="Count, run and slim convolutional networks.",
        epilog="`dojang COMMAND --help` shows the flags of a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"dojang {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for command in COMMANDS.values():
        does = f"{command.does[0].upper()}{command.does[1:]}."
        one = commands.add_parser(command.name, help=command.does, description=does, allow_abbrev=False)
        for option in command.options:
            _add(one, option)
    return parser


def _add(parser: Parser, option: Option) -> None:
    """One option as argparse takes it; its default is said in its help."""
    if isinstance(option.default, bool):
        flag = f"--no-{option.name.replace('_', '-')}" if option.default else option.flags[0]
        parser.add_argument(flag, dest=option.dest, action="store_true", help=option.help)
        return
    does = option.help
    if option.default is not None and "(default" not in does:
        said = f"{option.default:g}" if isinstance(option.default, float) else option.default
        does = f"{does} (default {said})"
    given: dict[str, Any] = {"help": does, "default": option.default, "type": option.type, "choices": option.choices}
    if option.metavar is not None:
        given["metavar"] = option.metavar
    if option.several:
        given |= {"action": "append"} if option.flags else {"nargs": "+"}
    if option.optional:
        given["nargs"] = "?"
    if option.flags:
        given |= {"dest": option.dest, "required": option.required}
    parser.add_argument(*(option.flags or (option.name,)), **given)
