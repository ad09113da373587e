"""One function per command: from parsed arguments to a verb, from its result to what is printed."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dojang.app.options import COMMANDS
from dojang.base.errors import UsageError
from dojang.base.showing import one_line, shown
from dojang.base.wording import counted
from dojang.report.table import Style

if TYPE_CHECKING:
    from dojang.arith.devices import Placement
    from dojang.arith.memory import MemoryUse
    from dojang.base.result import Result

SHOWN = ("json", "csv", "html", "columns", "force", "output", "command")
"""Arguments that say how to show, not what to do."""

CORRELATION = "the kernel is pressed on the picture as it stands (correlation), not flipped"

LONG_SECONDS = 10.0
"""From then on a diagnosis says where it is, even where nobody may be watching."""

EXPLAINED = "batch 1, taps on padding counted, float32"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command prints on stdout, its exit code, and one line for stderr where a check failed.

    `data` is output for programs (CSV): names in it are escaped on a terminal only.
    """

    text: str
    code: int = 0
    complaint: str | None = None
    data: bool = False


def count(args: argparse.Namespace) -> Answer:
    """`dojang count`."""
    from dojang.app import verbs
    from dojang.report.csv_count import count_csv, devices_csv
    from dojang.report.text_count import count_text

    if args.json and args.csv:
        raise UsageError("--json and --csv are two shapes of one result; choose one")
    columns = _columns(args.columns)
    if columns and (args.json or args.csv):
        raise UsageError("--columns chooses columns of the printed table; --json and --csv have all of them")
    if args.explain:
        return Answer(_said(args, verbs.explain(**_keywords(args, "explain")), EXPLAINED))
    if args.html:
        _may_write(args.html, args.force)
    if args.weights:
        verbs.load(args.net, weights=args.weights, input_size=args.input_size, num_classes=args.num_classes)
    result = verbs.count(**_keywords(args))
    held = _memory(args)
    placed = _devices(args)
    more = (held.to_dict() if held else {}) | ({"devices": placed.to_dict()} if placed else {})
    if args.json:
        text = _json(args, result, more=more)
    elif placed:
        text = devices_csv(placed) if args.csv else _said(args, placed)
    else:
        text = count_csv(result) if args.csv else count_text(result, width(), style(), columns)
        text += f"\n\n{_said(args, held)}" if held else ""
    if args.html:
        from dojang.arith.symbol import symbolic
        from dojang.report.html import count_html

        if symbolic(result.peak_bytes) or symbolic(result.macs):
            raise UsageError("--html draws numbers; give sizes as numbers, or leave out --html to see formulas")
        _write_page(args.html, count_html(result, placed), args.force)
    over = verbs.over_budget(result, args.max_macs, args.max_params)
    return Answer(text, 1 if over else 0, over, data=args.csv)


def _devices(args: argparse.Namespace) -> Placement | None:
    """The network over devices, where that is asked for; its text takes the place of the cost table."""
    from dojang.app import verbs

    if args.devices is None:
        return None
    if args.columns or args.memory or args.machine is not None or args.depth is not None:
        raise UsageError("--devices has a table of its own; leave out --columns, --depth, --memory and --machine")
    if args.no_bias or args.unit != "mac" or args.exact_padding:
        raise UsageError("--devices counts MACs and all parameters; leave out --unit, --no-bias, --exact-padding")
    return verbs.over_devices(**_keywords(args, "over_devices"))


def _columns(given: tuple[str, ...] | None) -> tuple[str, ...]:
    """The columns that a person names; raises `UsageError` for one that there is not."""
    from dojang.base.wording import did_you_mean
    from dojang.report.count_rows import NAMED

    if given is None:
        return ()
    if given == ("all",):
        return tuple(NAMED)
    strange = next((name for name in given if name not in NAMED), None)
    if strange is not None or not given:
        hint = did_you_mean(strange or "", NAMED, f"columns are {', '.join(NAMED)}")
        raise UsageError(f"--columns: there is no column {strange or ''!r}; {hint}")
    return given


def _memory(args: argparse.Namespace) -> MemoryUse | None:
    """Memory, traffic and time, where they are asked for."""
    from dojang.app import verbs

    if not args.memory and args.machine is None:
        if args.optimiser is not None:
            raise UsageError("--optimiser belongs to --memory")
        return None
    if args.csv:
        raise UsageError("--csv has one line per layer; memory and time are in the text and in --json")
    given = _keywords(args, "memory")
    given["optimiser"] = args.optimiser or "momentum"
    return verbs.memory(**given)


def solve(args: argparse.Namespace) -> Answer:
    """`dojang solve`: exit 1 when nothing fits."""
    from dojang.app import verbs

    found = verbs.solve(**_keywords(args))
    text = _said(args, found, "shapes channels first, one input; MACs with taps on padding")
    return Answer(text, 0 if found.solutions else 1)


def check(args: argparse.Namespace) -> Answer:
    """`dojang check`: exit 1 when a cell is wrong."""
    from dojang.app import verbs

    found = verbs.check(**_keywords(args))
    return Answer(_said(args, found), 1 if found.mismatches else 0)


def compare(args: argparse.Namespace) -> Answer:
    """`dojang compare`."""
    from dojang.app import verbs

    return Answer(_said(args, verbs.compare(**_keywords(args))))


def filter(args: argparse.Namespace) -> Answer:
    """`dojang filter`."""
    from dojang.app import filtering
    from dojang.app.progress import Bar

    args.kernel = args.kernel if len(args.kernel) > 1 else args.kernel[0]
    if args.html and args.plan:
        raise UsageError("--html shows results, and --plan writes none; choose one")
    if args.html:
        _may_write(args.html, args.force)
    if args.plan:
        return Answer(_said(args, filtering.filter_plans(**_keywords(args, "filter_plans")), CORRELATION))
    with Bar(len(args.images), "filter", "picture") as bar:
        report = filtering.filter_files(**_keywords(args), progress=lambda done, total: bar.to(done))
    if args.html:
        from dojang.report.html_closeup import filter_html

        given = {k: v for k, v in _keywords(args, "filter_plans").items() if k not in ("images", "offset")}
        seen = filtering.close_ups(report, **given)
        _write_page(args.html, filter_html(seen, len(report.done) - len(seen)), args.force)
    for one in report.done:
        if one.warning:
            sys.stderr.write(f"dojang: warning: {one_line(one.target)}: {one_line(one.warning)}\n")
    complaints = [
        bad.message if bad.message.startswith(bad.source) else f"{bad.source}: {bad.message}" for bad in report.failed
    ]
    for line in complaints[:-1]:
        sys.stderr.write(f"dojang: {one_line(line)}\n")
    code = max((bad.exit_code for bad in report.failed), default=0)
    return Answer(_said(args, report, CORRELATION), code, complaints[-1] if complaints else None)


def run(args: argparse.Namespace) -> Answer:
    """`dojang run`."""
    from dojang.app import running

    if args.html and (args.plan or args.mean or args.std or args.normalise):
        raise UsageError("--html shows the run as `dojang show` does; leave out --plan, --mean, --std and --normalise")
    if args.html:
        _may_write(args.html, args.force)
    result = running.run(**_keywords(args))
    if args.html:
        from dojang.app import showing

        loaded = {name: getattr(args, name) for name in ("weights", "input_size", "num_classes")}
        showing.show(args.net, args.input, **loaded, output=args.html, force=args.force)
    return Answer(_said(args, result, result.convention))


def show(args: argparse.Namespace) -> Answer:
    """`dojang show`: with -o it writes a page; else it serves one until it is interrupted."""
    from dojang.app import showing

    page = showing.show(**_keywords(args))
    said = _said(args, page, "size_bytes is the size of the page")
    if page.url is None:
        return Answer(said)
    from dojang.report.table import printed

    try:
        sys.stdout.write(f"{printed(said)}\n")
        sys.stdout.flush()
        page.wait()
    except KeyboardInterrupt:
        pass  # the way to end it
    finally:
        page.close()
    return Answer("")


def train(args: argparse.Namespace) -> Answer:
    """`dojang train`."""
    from dojang.app import training
    from dojang.app.progress import train_bar

    with train_bar() as progress:
        result = training.train(**_keywords(args), progress=progress, told=tell_first)
    return Answer(_said(args, result, "accuracy is a fraction of samples; gap = train accuracy - test accuracy"))


def tell_first(paragraph: str) -> None:
    """A paragraph on stderr, its sentences broken into lines, from process 0 alone."""
    from textwrap import fill

    from dojang.app.together import is_main_process

    if is_main_process():
        sys.stderr.write(fill(shown(paragraph), 100, break_long_words=False, break_on_hyphens=False) + "\n")
        sys.stderr.flush()


def diagnose(args: argparse.Namespace) -> Answer:
    """`dojang diagnose`: exit 1 when a finding is as severe as --fail-on."""
    from dojang.app import diagnosing
    from dojang.app.progress import Stages
    from dojang.app.together import is_main_process

    if args.html:
        _may_write(args.html, args.force)
    stages = Stages("diagnose", quiet=not is_main_process(), after=LONG_SECONDS)
    try:
        result = diagnosing.diagnose(**_keywords(args), progress=stages)
    finally:
        stages.close()
    if args.html:
        from dojang.app import verbs
        from dojang.report.html_slim import diagnosis_html

        cost = verbs.count(args.net, input_size=args.input_size, num_classes=args.num_classes)
        if is_main_process():
            _write_page(args.html, diagnosis_html(result, cost), args.force)
    bad = result.at_least(args.fail_on) if args.fail_on else ()
    if not bad:
        return Answer(_said(args, result))
    complaint = f"{result.network}: {counted(len(bad), 'finding')} of severity {args.fail_on} or worse"
    return Answer(_said(args, result), 1, complaint)


def slim(args: argparse.Namespace) -> Answer:
    """`dojang slim`."""
    from pathlib import Path

    from dojang.app import slimming
    from dojang.app.progress import Stages
    from dojang.app.together import is_main_process

    given = _keywords(args)
    given["output"] = args.output or Path("out") / f"{Path(args.net.rpartition(':')[2]).stem}-slim"
    stages = Stages("slim", quiet=not is_main_process())
    try:
        result = slimming.slim(**given, progress=stages)
    finally:
        stages.close()
    return Answer(_said(args, result))


def export(args: argparse.Namespace) -> Answer:
    """`dojang export`."""
    from dojang.app import exporting

    convention = "size_bytes is the size of the file; the file was read back and compared with the network"
    return Answer(_said(args, exporting.export(**_keywords(args)), convention))


def bench(args: argparse.Namespace) -> Answer:
    """`dojang bench`."""
    from dojang.app import benching

    return Answer(_said(args, benching.bench(**_keywords(args))))


LISTED = {
    "networks": "params with biases; MACs of one input, taps on padding counted",
    "tables": "rows of the table as it was published",
    "kernels": "taps as they are pressed on the picture (correlation), row by row",
    "kinds": "weights without biases; MACs of one input, taps on padding counted",
    "algorithms": "algorithms for convolutions, in the order in which they are asked; the last one takes every problem",
    "operators": "yes: this part knows the operator; no: it does not, and --json says why; -: there is nothing to do",
}
"""What the figures of each list mean."""


def list(args: argparse.Namespace) -> Answer:
    """`dojang list`."""
    from dojang.app import verbs

    if args.html and args.what != "kernels":
        raise UsageError(f"--html shows kernels; there is no page of {args.what}")
    if args.html:
        _may_write(args.html, args.force)
    listing = verbs.available(**_keywords(args))
    if args.html:
        from dojang.app.filtering import kernel_gallery
        from dojang.report.html_filter import gallery_html

        _write_page(args.html, gallery_html(kernel_gallery()), args.force)
    return Answer(_said(args, listing, LISTED[args.what]))


def env(args: argparse.Namespace) -> Answer:
    """`dojang env`."""
    from dojang.app import record

    if not args.measure and (args.output is not None or args.force):
        raise UsageError("-o and --force go with --measure, which writes a machine file")
    convention = "sizes in bytes; peaks of one core, in GFLOP/s and GB/s of powers of 1000"
    return Answer(_said(args, record.environment(**_keywords(args)), convention))


def _may_write(path: str, force: bool) -> None:
    """Refuses a file that exists before the work begins, not after."""
    from dojang.base.writing import check_target

    check_target(path, force)


def _write_page(path: str, content: str, force: bool) -> None:
    from dojang.base.writing import replace_text

    replace_text(path, content, force)
    sys.stderr.write(f"wrote {shown(path)}\n")


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


def _keywords(args: argparse.Namespace, verb: str | None = None) -> dict[str, Any]:
    """The arguments of a verb (by default the command's own) among those of the command."""
    return COMMANDS[args.command].keywords(vars(args), verb)


def _said(args: argparse.Namespace, result: Result, convention: str | None = None) -> str:
    """The result as it was asked for: a JSON document, or text for the terminal."""
    if args.json:
        return _json(args, result, convention)
    from dojang.report.views import text_of

    return text_of(result, width(), style())


def _json(
    args: argparse.Namespace, result: Result, convention: str | None = None, more: dict[str, Any] | None = None
) -> str:
    from dojang.report.json import document, dumps

    inputs = {k: v for k, v in vars(args).items() if k not in SHOWN}
    return dumps(document(args.command, inputs, {**result.to_dict(), **(more or {})}, convention))
