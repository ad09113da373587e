"""Writes the parts of docs/ that the program knows: command help, operators, tables. `--check` only compares.

A generated part stands between `<!-- made: NAME -->` and `<!-- end -->`; everything else is written by hand.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import reference

from dojang.app.parser import build_parser
from dojang.arith.kinds import field_trade, kinds
from dojang.arith.ops import OPS

DOCS = Path(__file__).parent.parent / "docs"
PART = re.compile(r"(<!-- made: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def operators() -> str:
    """Every operator with its attributes; what is in brackets may be left out."""
    rows = ["| operator | takes | attributes (default) |", "|---|---|---|"]
    for op in OPS.values():
        least, most = op.inputs
        takes = "nothing" if most == 0 else f"{least}" if least == most else f"{least} or more"
        attrs = [
            f"**{name}**" if spec.required else f"{name} ({'-' if spec.default is None else show(spec.default)})"
            for name, spec in op.attrs.items()
        ]
        rows.append(f"| `{op.name}` | {takes} | {', '.join(attrs) or '-'} |")
    return "\n".join(rows)


def show(value: object) -> str:
    """A default as the notation writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join("0" if v == (0, 0) else str(v) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def kind_table() -> str:
    """What each kind of convolution costs beside the plain one: 64 to 64 channels, 3x3, 32x32."""
    plain = kinds()[0]
    rows = ["| kind | layers | weights | MACs | of plain | source |", "|---|---|---|---|---|---|"]
    for kind in kinds():
        d = kind.to_dict(plain)
        rows.append(
            f"| {d['kind']} | {', '.join(d['layers'])} | {d['weights_formula']} = {d['weights']:,} | "
            f"{d['macs_formula']} = {d['macs']:,} | {d['weights_ratio']:.3f}, {d['macs_ratio']:.3f} | {d['source']} |"
        )
    return "\n".join(rows)


def trade() -> str:
    """Ways to see 7x7 pixels."""
    rows = ["| kernel | dilation | layers | weights, 64 channels | of one 7x7 |", "|---|---|---|---|---|"]
    table = field_trade(7, 64)
    whole = table[0]["weights"]
    rows += [
        f"| {r['kernel']}x{r['kernel']} | {r['dilation']} | {r['layers']} | {r['weights']:,} "
        f"| {r['weights'] / whole:.2f} |"
        for r in table
    ]
    return "\n".join(rows)


def commands() -> str:
    """The help of every command at 80 columns."""
    os.environ["COLUMNS"] = "80"
    parser = build_parser()
    choices = next(a.choices for a in parser._actions if isinstance(a.choices, dict))  # argparse has no public way
    parts = [f"```\n{parser.format_help().rstrip()}\n```"]
    parts += [
        f"## dojang {name}\n\n```\n{sub.format_help().rstrip()}\n```\n\n{reference.in_python(name)}"
        for name, sub in choices.items()
    ]
    return "\n\n".join(parts)


MAKERS: dict[str, Callable[[], str]] = {
    **reference.MAKERS,
    "operators": operators,
    "kinds": kind_table,
    "trade": trade,
    "commands": commands,
}


def made(text: str) -> str:
    """A page with its generated parts made anew."""
    return PART.sub(lambda m: m.group(1) + "\n" + MAKERS[m.group(2)]() + "\n\n" + m.group(3), text)


def main(check: bool) -> int:
    """Rewrites the pages, or says which are stale."""
    stale = []
    for page in sorted(DOCS.glob("*.md")):
        old = page.read_text(encoding="utf-8")
        new = made(old)
        if new != old:
            stale.append(page.name)
            if not check:
                page.write_text(new, encoding="utf-8")
    if check and stale:
        print(f"stale: {', '.join(stale)}; run scripts/docs.py", file=sys.stderr)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv) or reference.main("--check" in sys.argv))
