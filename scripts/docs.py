"""Writes the parts of docs/ that the program knows: command help, operators, tables, and how old measured figures are.
`--check` only compares.

A generated part stands between `<!-- made: NAME -->` and `<!-- end -->`; everything else is written by hand.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))
import reference

from dojang.app.parser import build_parser
from dojang.arith.kinds import field_trade, kinds
from dojang.arith.ops import OPS
from dojang.arith.standard import CONTROL
from dojang.engine.plan.rules.standard import KINDS as STANDARD_KERNELS
from dojang.evidence.severity import SEVERITY
from dojang.filters.borders import OTHER_NAMES as BORDER_NAMES
from dojang.formats.onnx.infer import OUTPUTS as ONNX_OUTPUTS
from dojang.formats.onnx.read import RULES as ONNX_RULES
from record import RESULTS, Record, records

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"

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


def onnx_operators() -> str:
    """Every operator of ONNX that is read: as dojang's own layers and operators, or as the standard defines it."""
    own = sorted(set(ONNX_RULES) - {"If", "Loop", "Scan"})
    rows = [
        ("as dojang's own operators", [name for name in own if "." not in name]),
        ("as the standard defines them, by a kernel where their form allows", sorted(STANDARD_KERNELS)),
        ("as the standard defines them, in NumPy, where the form is another one or the operator has no row", sorted(
            name for name in ONNX_OUTPUTS if "." not in name and name not in STANDARD_KERNELS)),
        ("as networks of their own where values decide", sorted(CONTROL)),
        ("of ONNX Runtime (`com.microsoft`)", sorted(
            name.rpartition(".")[2] for name in {*ONNX_RULES, *ONNX_OUTPUTS} if name.startswith("com.microsoft."))),
    ]  # fmt: skip
    lines = ["| read | operators |", "|---|---|"]
    return "\n".join([*lines, *(f"| {how} | {', '.join(f'`{name}`' for name in names)} |" for how, names in rows)])


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


def borders() -> str:
    """The borders of pictures, and their names in other libraries."""
    rows = ["| border | around abcd | SciPy | OpenCV | NumPy | PyTorch |", "|---|---|---|---|---|---|"]
    for border, (around, names) in BORDER_NAMES.items():
        cells = (names.get(library, "") for library in ("scipy", "opencv", "numpy", "torch"))
        others = " | ".join(", ".join(f"`{n}`" for n in cell.split(", ")) if cell else "-" for cell in cells)
        shown = around.replace("|", r"\|")
        rows.append(f"| `{border}` | {shown} | {others} |")
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


def severities() -> str:
    """Every kind of finding with its severity, as --fail-on goes by it."""
    rows = ["| severity | kind | what it says |", "|---|---|---|"]
    rows += [f"| {severity} | `{kind}` | {says} |" for kind, (severity, says) in SEVERITY.items()]
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


def results() -> str:
    """Every result file: what it measures, when, and whether that code has changed since."""
    rows = ["| file | measured | commit | machine | the measured code |", "|---|---|---|---|---|"]
    rows += [
        f"| [{r.name}](../bench/results/{r.name}) | {r.date} | `{r.commit}` | {r.machine.split(', one core')[0]} | "
        f"{'is the same' if r.current else 'has changed since'}: {', '.join(f'`{m}`' for m in r.measures)} |"
        for r in records()
    ]
    return "\n".join(rows)


def cited(text: str) -> list[Record]:
    """The result files that a page names, in or out of links."""
    names = set(re.findall(r"([\w-]+\.txt)\b", text))
    return [r for r in records() if r.name in names]


def titles() -> str:
    """Every page with its title, for the README."""
    rows = [
        (f"docs/{page.name}", page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# "))
        for page in sorted(DOCS.glob("*.md"))
    ]
    return "\n".join(["| page | about |", "|---|---|", *(f"| [{name}]({name}) | {title} |" for name, title in rows)])


AGES = {
    "en": ("The measured code **has changed since** these were measured", "Measured with the code as it is now"),
    "ko": ("측정한 뒤에 **해당 코드가 바뀐** 결과", "지금 코드로 측정한 결과"),
}


def age(text: str, language: str) -> str:
    """How old the measured figures of a page are: files whose code has changed since, then the others."""
    groups = ([r for r in cited(text) if not r.current], [r for r in cited(text) if r.current])
    return "\n\n".join(
        f"*{said}:* " + ", ".join(f"`{r.name}` ({r.date}, {r.commit})" for r in found) + "."
        for found, said in zip(groups, AGES[language], strict=True)
        if found
    )


def transcript() -> str:
    """What `make demo` printed when the picture of the README was made."""
    printed = (RESULTS / "demo.txt").read_text(encoding="utf-8").split("\n\n", 1)[1]
    return f"```\n{printed.strip()}\n```"


MAKERS: dict[str, Callable[[], str]] = {
    "onnx_operators": onnx_operators,
    **reference.MAKERS,
    "operators": operators,
    "kinds": kind_table,
    "trade": trade,
    "borders": borders,
    "commands": commands,
    "severities": severities,
    "results": results,
    "titles": titles,
    "transcript": transcript,
}


def made(text: str, language: str) -> str:
    """A page with its generated parts made anew."""
    by_hand = PART.sub("", text)

    def part(found: re.Match[str]) -> str:
        content = age(by_hand, language) if found[2] == "age" else MAKERS[found[2]]()
        return f"{found[1]}\n{content}\n\n{found[3]}"

    return PART.sub(part, text)


def pages() -> list[Path]:
    """The pages that may have such parts."""
    return [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("README*.md"))]


def main(check: bool) -> int:
    """Rewrites the pages, or says which are stale."""
    stale = []
    for page in pages():
        old = page.read_text(encoding="utf-8")
        new = made(old, "ko" if page.stem.endswith(".ko") else "en")
        if new != old:
            stale.append(page.name)
            if not check:
                page.write_text(new, encoding="utf-8")
    if check and stale:
        print(f"stale: {', '.join(stale)}; run scripts/docs.py", file=sys.stderr)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv) or reference.main("--check" in sys.argv))
