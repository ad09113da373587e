"""The parser of the command line, made from the table of commands. Only the standard library is imported."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import takewhile
from textwrap import fill
from typing import Any, NoReturn

from dojang.app.options import COMMANDS, Option
from dojang.base.errors import UsageError
from dojang.base.version import __version__
from dojang.base.wording import did_you_mean


class Help(argparse.HelpFormatter):
    """Help whose examples keep their lines."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("examples:"):
            return "\n".join(f"{indent}{line}" for line in text.splitlines())
        return super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raises `UsageError` instead of printing the usage and leaving."""
        raise UsageError(f"{message} (see {self.prog} --help)")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse does it, but a command refuses a flag that it does not have before anything else, by name."""
        if self._subparsers is None:
            for word in takewhile("--".__ne__, args or ()):
                flag = word.partition("=")[0]
                if flag.startswith("--") and " " not in word and flag not in self._option_string_actions:
                    flags = [name for name in self._option_string_actions if name.startswith("--")]
                    # Without the dashes, which make all flags alike.
                    near = did_you_mean(flag[2:], (name[2:] for name in flags), "", most=2)
                    hint = f"; {near.replace('mean ', 'mean --').replace(' or ', ' or --')}" if near else ""
                    self.error(f"there is no flag {flag}{hint}")
        known, more = super().parse_known_args(args, namespace)
        if more and self._subparsers is None:
            self.error(f"unrecognized arguments: {' '.join(more)}")
        return known, more

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuses what is none of an argument's choices, and names the nearest of them."""
        choices = [str(choice) for choice in action.choices or ()]
        if choices and value not in choices:
            said = "/".join(action.option_strings) or str(action.metavar).partition("{")[0]
            hint = did_you_mean(str(value), choices, f"use {', '.join(choices)}")
            self.error(f"{said} {value!r} is not known; {hint}".lstrip())


def overview() -> str:
    """What `dojang` alone says: what it is, three lines to begin with, and the commands."""
    widest = max(map(len, COMMANDS))
    lines = [
        "dojang counts, runs, looks into and slims convolutional networks.",
        "",
        "Three lines to begin with, which need no file:",
        "  dojang count resnet50                  what each layer costs",
        "  dojang show stamp                      a filter at work, in the browser",
        "  dojang slim digits-cnn --data digits   find and cut waste, each cut measured",
        "",
        "Commands:",
    ]
    for command in COMMANDS.values():
        text = fill(
            command.does, 80, initial_indent=f"  {command.name:{widest}}  ", subsequent_indent=" " * (widest + 4)
        )
        lines.append(text)
    return "\n".join([*lines, "", "`dojang COMMAND --help` shows the flags of a command and examples."])


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
        said = "\n".join(("examples:", *(f"  {example}" for example in command.examples)))
        one = commands.add_parser(
            command.name, help=command.does, description=does, epilog=said, allow_abbrev=False, formatter_class=Help
        )
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
    elif option.choices and not option.flags:  # so that the message that it is missing names them
        given["metavar"] = f"{{{','.join(option.choices)}}}"
    if option.several:
        given |= {"action": "append"} if option.flags else {"nargs": "+"}
    if option.optional:
        given["nargs"] = "?"
    if option.flags:
        given |= {"dest": option.dest, "required": option.required}
    parser.add_argument(*(option.flags or (option.name,)), **given)
