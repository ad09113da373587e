"""One function per command: from parsed arguments to a verb, from its result to what is printed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dojang.base.errors import UsageError
from dojang.base.showing import one_line, shown
from dojang.report.table import Style

if TYPE_CHECKING:
    from dojang.arith.memory import Held

SHOWN = ("json", "csv", "html", "force", "output", "command")
"""Arguments that say how to show, not what to do."""


CORRELATION = "the kernel is pressed on the picture as it stands (correlation), not flipped"


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
    from dojang.report.text import count_csv, count_text

    if args.json and args.csv:
        raise UsageError("--json and --csv are two shapes of one result; choose one")
    if args.explain:
        return _explain(args)
    if args.html:
        _may_write(args.html, args.force)
    if args.weights:
        verbs.load(args.net, weights=args.weights, input_size=args.input_size, num_classes=args.num_classes)
    result = verbs.count(
        args.net,
        input_size=args.input_size,
        num_classes=args.num_classes,
        batch_size=args.batch_size,
        bias=not args.no_bias,
        exact_padding=args.exact_padding,
        unit=args.unit,
    )
    held = _held(args)
    if args.json:
        text = _json("count", args, {**result.to_dict(), **(held.to_dict() if held else {})})
    else:
        text = count_csv(result) if args.csv else count_text(result, width(), style())
    if held and not args.json:
        from dojang.report.text_memory import memory_text

        text += f"\n\n{memory_text(held, width(), style())}"
    if args.html:
        from dojang.arith.symbol import symbolic
        from dojang.report.html import count_html

        if symbolic(result.peak_bytes) or symbolic(result.total.macs):
            raise UsageError("--html draws numbers; give sizes as numbers, or leave out --html to see formulas")
        _write_page(args.html, count_html(result), args.force)
    over = verbs.over_budget(result, args.max_macs, args.max_params)
    return Answer(text, 1 if over else 0, over, data=args.csv)


def _held(args: argparse.Namespace) -> Held | None:
    """Memory, traffic and time, where they are asked for."""
    from dojang.app import verbs

    if not args.memory and args.machine is None:
        if args.optimiser is not None:
            raise UsageError("--optimiser belongs to --memory")
        return None
    if args.csv:
        raise UsageError("--csv has one line per layer; memory and time are in the text and in --json")
    return verbs.held(
        args.net,
        input_size=args.input_size,
        num_classes=args.num_classes,
        batch_size=args.batch_size,
        optimiser=args.optimiser or "momentum",
        machine=args.machine,
    )


def _explain(args: argparse.Namespace) -> Answer:
    from dojang.app import verbs
    from dojang.report.text_arith import explain_text

    steps = verbs.explain(args.net, args.explain, input_size=args.input_size, num_classes=args.num_classes)
    if args.json:
        convention = "batch 1, taps on padding counted, float32"
        return Answer(_json("count", args, {"layer": args.explain, "steps": [s.to_dict() for s in steps]}, convention))
    return Answer(explain_text(args.explain, steps, width(), style()))


def solve(args: argparse.Namespace) -> Answer:
    """`dojang solve`: exit 1 when nothing fits."""
    from dojang.app import verbs
    from dojang.report.text_arith import solve_text

    def value(sizes: tuple[int, ...] | None) -> int | tuple[int, ...] | None:
        return sizes[0] if sizes is not None and len(sizes) == 1 else sizes

    found = verbs.solve(
        args.in_shape,
        args.out_shape,
        value(args.kernel),
        value(args.stride),
        value(args.padding),
        value(args.dilation) or 1,
        args.groups,
        args.filters,
        not args.no_bias,
        args.transposed,
    )
    convention = "shapes channels first, one input; MACs with taps on padding"
    text = _json("solve", args, found.to_dict(), convention) if args.json else solve_text(found, width(), style())
    return Answer(text, 0 if found.solutions else 1)


def check(args: argparse.Namespace) -> Answer:
    """`dojang check`: exit 1 when a cell is wrong."""
    from dojang.app import verbs
    from dojang.report.text_arith import check_text

    found = verbs.check(args.table, args.net, input_size=args.input_size)
    text = _json("check", args, found.to_dict()) if args.json else check_text(found, width(), style())
    return Answer(text, 1 if found.mismatches else 0)


def compare(args: argparse.Namespace) -> Answer:
    """`dojang compare`."""
    from dojang.app import verbs
    from dojang.report.text_arith import compare_text

    found = verbs.compare(args.a, args.b, input_size=args.input_size)
    return Answer(_json("compare", args, found.to_dict()) if args.json else compare_text(found, width(), style()))


def filter(args: argparse.Namespace) -> Answer:
    """`dojang filter`."""
    from dojang.app import filtering
    from dojang.app.progress import Bar
    from dojang.report.text_filter import filter_plan_text, filter_text

    args.kernel = args.kernel if len(args.kernel) > 1 else args.kernel[0]
    given = {name: getattr(args, name) for name in ("border", "stride", "dilation", "value")}
    if args.plan:
        plans = filtering.filter_plans(args.images, args.kernel, **given)
        if args.json:
            return Answer(_json("filter", args, {"pictures": [plan.to_dict() for plan in plans]}, CORRELATION))
        return Answer(filter_plan_text(plans, width(), style()))
    with Bar(len(args.images), "filter", "picture") as bar:
        report = filtering.filter_files(
            args.images,
            args.kernel,
            **given,
            output=args.output,
            force=args.force,
            progress=lambda done, total: bar.to(done),
        )
    text = _json("filter", args, report.to_dict(), CORRELATION) if args.json else filter_text(report)
    complaints = [
        bad.message if bad.message.startswith(bad.source) else f"{bad.source}: {bad.message}" for bad in report.failed
    ]
    for line in complaints[:-1]:
        sys.stderr.write(f"dojang: {one_line(line)}\n")
    return Answer(
        text, max((bad.exit_code for bad in report.failed), default=0), complaints[-1] if complaints else None
    )


def run(args: argparse.Namespace) -> Answer:
    """`dojang run`."""
    from dojang.app import running
    from dojang.report.text import run_text

    result = running.run(
        args.net,
        args.input,
        weights=args.weights,
        input_size=args.input_size,
        num_classes=args.num_classes,
        top=args.top,
        plan=args.plan,
        output=args.output,
        force=args.force,
    )
    convention = "probability is the softmax of the scores; float32"
    return Answer(_json("run", args, result.to_dict(), convention) if args.json else run_text(result, width(), style()))


def train(args: argparse.Namespace) -> Answer:
    """`dojang train`."""
    from dojang.app import training
    from dojang.app.progress import train_bar
    from dojang.report.text import trained_text

    with train_bar() as told:
        result = training.train(
            args.net,
            args.data,
            epochs=args.epochs,
            batch_size=args.batch_size,
            lr=args.lr,
            seed=args.seed,
            device=args.device,
            precision=args.precision,
            label_smoothing=args.label_smoothing,
            resume=args.resume,
            output=args.output,
            force=args.force,
            weights=args.weights,
            input_size=args.input_size,
            num_classes=args.num_classes,
            val_data=args.val_data,
            progress=told,
        )
    convention = "accuracy is a fraction of samples; gap = train accuracy - test accuracy"
    return Answer(_json("train", args, result.to_dict(), convention) if args.json else trained_text(result, style()))


def diagnose(args: argparse.Namespace) -> Answer:
    """`dojang diagnose`: exit 1 when a finding is as severe as --fail-on."""
    from dojang.app import diagnosing
    from dojang.report.text_slim import diagnosis_text

    if args.html:
        _may_write(args.html, args.force)
    result = diagnosing.diagnose(
        args.net,
        args.data,
        samples=args.samples,
        threshold=args.threshold,
        seed=args.seed,
        weights=args.weights,
        input_size=args.input_size,
        num_classes=args.num_classes,
        val_data=args.val_data,
    )
    text = _json("diagnose", args, result.to_dict()) if args.json else diagnosis_text(result, width(), style())
    if args.html:
        from dojang.app import verbs
        from dojang.app.together import first
        from dojang.report.html_slim import diagnosis_html

        cost = verbs.count(args.net, input_size=args.input_size, num_classes=args.num_classes)
        if first():
            _write_page(args.html, diagnosis_html(result, cost), args.force)
    bad = result.at_least(args.fail_on) if args.fail_on else ()
    if not bad:
        return Answer(text)
    return Answer(text, 1, f"{result.network}: {len(bad)} findings of severity {args.fail_on} or worse")


def slim(args: argparse.Namespace) -> Answer:
    """`dojang slim`."""
    from pathlib import Path

    from dojang.app import slimming
    from dojang.app.progress import Stages
    from dojang.app.together import first
    from dojang.report.text_slim import slim_text

    stages = Stages("slim", quiet=not first())
    try:
        result = slimming.slim(
            args.net,
            args.data,
            lossless=args.lossless,
            max_drop=args.max_drop,
            target_macs=args.target_macs,
            target_time=args.target_time,
            train_samples=args.train_samples,
            target_ms=args.target_ms,
            resume=args.resume,
            epochs=args.epochs,
            final_epochs=args.final_epochs,
            runtime=args.runtime,
            batch_size=args.batch_size,
            seed=args.seed,
            device=args.device,
            precision=args.precision,
            importance=args.importance,
            output=args.output or Path("out") / f"{Path(args.net.rpartition(':')[2]).stem}-slim",
            force=args.force,
            weights=args.weights,
            input_size=args.input_size,
            num_classes=args.num_classes,
            val_data=args.val_data,
            told=stages,
        )
    finally:
        stages.close()
    return Answer(_json("slim", args, result.to_dict()) if args.json else slim_text(result, width(), style()))


def export(args: argparse.Namespace) -> Answer:
    """`dojang export`."""
    from dojang.app import exporting
    from dojang.report.text import exported_text

    result = exporting.export(
        args.net,
        args.format,
        output=args.output,
        force=args.force,
        weights=args.weights,
        input_size=args.input_size,
        num_classes=args.num_classes,
    )
    return Answer(_json("export", args, result.to_dict()) if args.json else exported_text(result))


def bench(args: argparse.Namespace) -> Answer:
    """`dojang bench`."""
    from dojang.app import benching
    from dojang.report.text import bench_text

    result = benching.bench(
        args.net,
        peers=args.peers,
        batch_size=args.batch_size,
        rounds=args.rounds,
        seed=args.seed,
        weights=args.weights,
        input_size=args.input_size,
        num_classes=args.num_classes,
    )
    return Answer(_json("bench", args, result.to_dict()) if args.json else bench_text(result, width(), style()))


def list(args: argparse.Namespace) -> Answer:
    """`dojang list`."""
    from dojang.app import verbs
    from dojang.report.text import list_text

    if args.html and args.what != "kernels":
        raise UsageError(f"--html shows kernels; there is no page of {args.what}")
    if args.html:
        _may_write(args.html, args.force)
    listing = verbs.list_all(args.what)
    if args.html:
        from dojang.app.filtering import kernel_gallery
        from dojang.report.html_filter import gallery_html

        _write_page(args.html, gallery_html(kernel_gallery()), args.force)
    if args.what == "kinds" and not args.json:
        from dojang.report.text_arith import kinds_text

        return Answer(kinds_text(listing, width(), style()))
    convention = "params with biases; MACs of one input, taps on padding counted" if args.what == "networks" else None
    return Answer(
        _json("list", args, listing.to_dict(), convention) if args.json else list_text(listing, width(), style())
    )


def env(args: argparse.Namespace) -> Answer:
    """`dojang env`."""
    from dojang.app import record
    from dojang.report.text import env_text

    if not args.measure and (args.output is not None or args.force):
        raise UsageError("-o and --force go with --measure, which writes a machine file")
    done = record.measured(args.output, args.force) if args.measure else None
    facts = record.environment() | ({"measured": done} if done else {})
    return Answer(_json("env", args, facts) if args.json else env_text(facts))


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


def _json(command: str, args: argparse.Namespace, result: Mapping[str, Any], convention: Any = None) -> str:
    from dojang.report.json import document, dumps

    inputs = {k: v for k, v in vars(args).items() if k not in SHOWN}
    return dumps(document(command, inputs, result, convention))
