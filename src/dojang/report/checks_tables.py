"""The checks of a diagnosis as tables: headings, rows and what they mean, for text and page alike."""

from __future__ import annotations

from dataclasses import dataclass

from dojang.base.wording import counted
from dojang.report.checks import Answers
from dojang.report.confusion import RECALL_AND_PRECISION
from dojang.report.results import Diagnosis
from dojang.report.table import milliseconds, number, percent, short


@dataclass(frozen=True)
class CheckTable:
    """A table under a title. The first `words` columns are text, the others numbers; `said` says what they mean."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    said: str
    words: int = 1


def tables(diagnosis: Diagnosis) -> list[CheckTable]:
    """The tables that have rows, in the order in which they are read."""
    checks = diagnosis.checks
    found = [times(diagnosis)]
    if checks.answers is not None:
        found += [by_class(checks.answers), mistakes(checks.answers), wrong(checks.answers)]
    found += [scales(diagnosis), bypasses(diagnosis), sensitivities(diagnosis)]
    return [table for table in found if table.rows]


def times(diagnosis: Diagnosis) -> CheckTable:
    """Where the time of one call goes; the layers that one step computes are in one row."""
    times, rows = diagnosis.times, list[tuple[str, ...]]()
    said = ""
    if times is not None:
        parts = [(row.layer, len(row.members), row.ms) for row in sorted(times.layers, key=lambda row: -row.ms)]
        rows += [(name, str(count), milliseconds(ms), f"{ms / times.call_ms:.1%}") for name, count, ms in parts]
        for name, ms in (("(changes of layout)", times.layout_ms), ("(Python)", times.outside_ms)):
            rows.append((name, "", milliseconds(ms), f"{ms / times.call_ms:.1%}"))
        rows.append(("sum", "", milliseconds(times.sum_ms), f"{times.sum_ms / times.call_ms:.1%}"))
        said = (
            f"One call takes {milliseconds(times.call_ms)} for a batch of {times.batch} on "
            f"{counted(times.threads, 'thread')} of dojang's engine, measured apart from its layers; each share is of "
            "that call. A step that computes several nodes counts once, for the layer with most MACs. All are means "
            "over the faster half of the calls."
            + (f" Do not rely on these times: {times.doubt}." if times.doubt else "")
        )
    return CheckTable("Where the time of a call goes", ("layer", "nodes", "time", "share"), tuple(rows), said)


def by_class(answers: Answers) -> CheckTable:
    """Recall and precision of every class."""
    c = answers.confusion
    rows = zip(c.classes, c.support, c.recall, c.precision, strict=True)
    shown = tuple((name, number(n), percent(r), percent(p)) for name, n, r, p in rows if n or p is not None)
    learnt = ", which the network may have been trained on" if answers.part == "train" else ""
    said = (
        f"Accuracy {percent(c.accuracy)} on {c.samples:,} samples of the {answers.part} part{learnt}; mean recall "
        f"{percent(c.balanced_accuracy)}; always answering {c.majority} is right on {percent(c.majority_share)}. "
        f"{RECALL_AND_PRECISION}"
    )
    return CheckTable("Accuracy by class", ("class", "samples", "recall", "precision"), shown, said)


def mistakes(answers: Answers) -> CheckTable:
    """The most frequent pairs of label and wrong answer."""
    rows = tuple((m.label, m.answer, number(m.count)) for m in answers.confusion.mistakes())
    said = "The most frequent mistakes; --json has the whole matrix."
    return CheckTable("What is taken for what", ("label", "answer", "samples"), rows, said, 2)


def wrong(answers: Answers) -> CheckTable:
    """The samples that are answered wrong, the most confident first."""
    named = any(w.file is not None for w in answers.wrong)
    rows = tuple(
        (str(w.index), w.label, w.answer, percent(w.probability), *((w.file or "-",) if named else ()))
        for w in answers.wrong
    )
    said = (
        f"The most confident wrong answer first, of {len(answers.wrong):,}. The number counts within the "
        f"{answers.part} part, from 0; the probability of the answer is {answers.probability}."
    )
    heads = ("sample", "label", "answer", "probability", *(("file",) if named else ()))
    return CheckTable("Samples that are answered wrong", heads, rows, said, 3)


def scales(diagnosis: Diagnosis) -> CheckTable:
    """The scale of every layer's activations."""
    rows = tuple(
        (
            s.layer, s.activation or "-", f"{s.rms:.3g}", f"{s.least:.3g}", f"{s.most:.3g}", f"{s.zeros:.0%}",
            "-" if s.saturated is None else f"{s.saturated:.0%}",
        )
        for s in diagnosis.checks.scales
    )  # fmt: skip
    said = (
        "Behind the layer's norm and activation, over all samples, places and channels. rms: root of the mean square. "
        "Saturated: share at an end of the activation's range, where its slope is 0 or nearly so."
    )
    heads = ("layer", "activation", "rms", "least", "most", "zeros", "saturated")
    return CheckTable("How large activations are", heads, rows, said, 2)


def bypasses(diagnosis: Diagnosis) -> CheckTable:
    """What leaving out each block costs."""
    rows = diagnosis.checks.bypasses
    shown = tuple(
        (
            row.at, row.kind, short(row.params), short(row.macs), _part(row.output_change), _part(row.answers_changed),
            percent(row.accuracy),
        )
        for row in rows
    )  # fmt: skip
    before = "" if not rows or rows[0].accuracy_before is None else (
        f" With all blocks the accuracy on these samples is {percent(rows[0].accuracy_before)}.")  # fmt: skip
    said = (
        f"Each block left out by itself, without new training, on {rows[0].samples if rows else 0} samples.{before} "
        "Output: root mean square of the change of the first output, relative to its deviation over the samples. "
        "Answers: share of the samples whose best class is another."
    )
    heads = ("block", "kind", "params", "MACs", "output", "answers", "accuracy")
    return CheckTable("What bypassing each block costs", heads, shown, said, 2)


def sensitivities(diagnosis: Diagnosis) -> CheckTable:
    """What rounding each layer's weights changes, one row for each layer."""
    rows = diagnosis.checks.sensitivities
    formats = tuple(dict.fromkeys(row.format for row in rows))
    by_layer: dict[str, list[str]] = {}
    for row in rows:
        by_layer.setdefault(row.layer or "(all layers)", []).extend(
            (_part(row.output_change), _part(row.answers_changed))
        )
    heads = ("layer", *(head for name in formats for head in (name, "answers")))
    said = (
        f"Weights rounded, activations not, on {rows[0].samples if rows else 0} samples; int8 with one symmetric scale "
        "for each output channel. Under the format: root mean square of the change of the first output, relative to "
        "its deviation over the samples; answers: share of the samples whose best class is another."
    )
    shown = tuple((name, *cells) for name, cells in by_layer.items())
    return CheckTable("What rounding the weights changes", heads, shown, said)


def _part(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
