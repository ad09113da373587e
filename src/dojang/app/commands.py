"""One function per command: from parsed arguments to a verb, from its result to what is printed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dojang.arith.errors import UsageError
from dojang.report.table import Style

SHOWN = ("json", "csv", "html", "force", "output", "command")
"""Arguments that say how to show, not what to do."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command prints on stdout, its exit code, and one line for stderr where a check failed."""

    text: str
    code: int = 0
    complaint: str | None = None


def count(args: argparse.Namespace) -> Answer:
    """`dojang count`."""
    from dojang.app import verbs
    from dojang.report.text import count_csv, count_text

    if args.json and args.csv:
        raise UsageError("--json and --csv are two shapes of one result; choose one")
    result = verbs.count(
        args.net,
        input_size=args.input_size,
        num_classes=args.num_classes,
        batch_size=args.batch_size,
        bias=not args.no_bias,
        exact_padding=args.exact_padding,
        unit=args.unit,
    )
    if args.json:
        text = _json("count", args, result.to_dict())
    else:
        text = count_csv(result) if args.csv else count_text(result, width(), style())
    over = verbs.over_budget(result, args.max_macs, args.max_params)
    return Answer(text, 1 if over else 0, over)


def env(args: argparse.Namespace) -> Answer:
    """`dojang env`."""
    from dojang.app import record
    from dojang.report.text import env_text

    facts = record.environment()
    return Answer(_json("env", args, facts) if args.json else env_text(facts))


def width() -> int:
    """Columns of the terminal; 80 when the result goes elsewhere."""
    if not sys.stdout.isatty():
        return 80
    import shutil

    return max(60, shutil.get_terminal_size((80, 24)).columns)


def style() -> Style:
    """Marked up on a terminal, unless NO_COLOR is set (https://no-color.org) or the terminal is dumb."""
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return Style(sys.stdout.isatty() and not plain)


def _json(command: str, args: argparse.Namespace, result: Mapping[str, Any], convention: Any = None) -> str:
    from dojang.report.json import document, dumps

    inputs = {k: v for k, v in vars(args).items() if k not in SHOWN}
    return dumps(document(command, inputs, result, convention))
