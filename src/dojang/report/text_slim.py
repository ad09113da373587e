"""What diagnose and slim print for a person, at 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dojang.arith.cost import Count
from dojang.evidence.finding import Finding
from dojang.report.layers import HEADS, layer_rows, legend
from dojang.report.results import NOT_LOOKED, Diagnosis, Slimming
from dojang.report.table import (
    PLAIN,
    WIDTH,
    Column,
    Style,
    milliseconds,
    names,
    number,
    paragraph,
    percent,
    ranges,
    short,
    size,
    table,
)
from dojang.report.text_checks import checks_text
from dojang.slimming.result import Edit, NetworkFigures, Refused, SlimResult

MOST = 12
"""Lines of findings or refusals of one kind that are printed; JSON and HTML have them all."""

NO_REWRITE = "no rewrite is made for this kind of finding; it says where the cost is"

LEFT_OUT = ("90 % in", "99.9 % in", "of", "params")
"""Columns about layers that only the page has, for want of room."""


def diagnosis_text(diagnosis: Diagnosis, width: int = WIDTH, style: Style = PLAIN) -> str:
    """Every finding with its evidence, most severe first."""
    seen = f"on {diagnosis.samples:,} samples" if diagnosis.samples else "without data"
    lines = [style.bold(f"{diagnosis.network} {seen}: {_plural(len(diagnosis.findings), 'finding')}")]
    lines += [finding_line(finding, width, style) for finding in diagnosis.findings]
    lines += [paragraph(f"Note: {note}.", width) for note in diagnosis.notes]
    lines += [style.dim(paragraph(f"Not judged: {said}.", width, "  ")) for said in unjudged_said(diagnosis)]
    return "\n".join([*lines, *_every_layer(diagnosis, width, style), *checks_text(diagnosis, width, style)])


def unjudged_said(diagnosis: Diagnosis) -> list[str]:
    """What was not looked at, one sentence for each kind and reason, with the layers that it is about."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in diagnosis.not_judged:
        found.setdefault((one.kind, one.reason), []).append(one.layer)
    return [f"{kind}{f' in {names(own)}' if any(own) else ''}: {why}" for (kind, why), own in found.items()]


def _every_layer(diagnosis: Diagnosis, width: int, style: Style) -> list[str]:
    rows = layer_rows(diagnosis)
    if not rows:
        return []
    columns = [Column(head, right=head != "layer", shrink=head == "layer") for head in HEADS]
    kept = [i for i, head in enumerate(HEADS) if head not in LEFT_OUT]
    shown = table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows], (), width, style)
    return ["", style.bold("What every layer uses"), shown, style.dim(paragraph(legend(diagnosis, "99 %"), width))]


def finding_line(finding: Finding, width: int = WIDTH, style: Style = PLAIN) -> str:
    """Layer, kind, channels, evidence."""
    channels = f" {_plural(len(finding.channels), 'channel')} ({ranges(finding.channels)})" if finding.channels else ""
    text = paragraph(f"  {finding.layer}: {finding.kind}{channels}: {finding.evidence}", width, "    ")
    return style.bad(text) if finding.severity == "error" else text


def slim_text(done: Slimming, width: int = WIDTH, style: Style = PLAIN) -> str:
    """What the network costs, what was found and what became of it, the other edits and refusals, before and after."""
    return "\n".join(
        [
            *_costs(done.counts[0], width, style),
            *_answers(done, width, style),
            *_other_cuts(done.result, width, style),
            *_other_refusals(done.result, width, style),
            *_tried(done.result, width, style),
            *_bits(done.result, width, style),
            *_outcome(done, width, style),
        ]
    )


def _costs(count: Count, width: int, style: Style) -> list[str]:
    layers = [layer for layer in count.layers if layer.cost.macs or (layer.cost.params and layer.op != "batchnorm")]
    columns = [Column("layer", right=False, shrink=True), Column("op", right=False), Column("params"), Column("MACs")]
    rows = [[x.name, x.op, number(x.cost.params), number(x.cost.macs)] for x in layers]
    total = count.total
    more = len(rows) - MOST
    if more > 0:
        heavy = sorted(range(len(rows)), key=lambda i: -layers[i].cost.macs)[:MOST]
        rows = [rows[i] for i in sorted(heavy)]
    shown = table(columns, rows, [["total", "", number(total.params), number(total.macs)]], width, style)
    rest = [style.dim(f"(the {MOST} layers with most MACs; {more} more in the report)")] if more > 0 else []
    return [style.bold(f"What {count.network} costs"), shown, *rest, ""]


def _answers(done: Slimming, width: int, style: Style) -> list[str]:
    """Every finding, and under it the edits that answered it or the reasons why it was not cut."""
    seen = f"{done.diagnosis.samples:,} training samples" if done.diagnosis.samples else "without data"
    lines = [style.bold(f"What was found ({seen}), and what became of it")]
    asking = [answer for answer in done.result.answers if not answer.informs]
    shown: set[int] = set()
    for answer in asking[:MOST]:
        lines.append(finding_line(answer.finding, width, style))
        for place in answer.edits:
            edit = done.result.edits[place]
            name = f"{edit.rewrite}{channels_said(edit, answer.finding)}"
            if place in shown:
                lines.append(paragraph(f"    cut by the same {name}", width, "      "))
            else:
                lines += _edit_lines(edit, f"    cut by {name}", width, "      ")
            shown.add(place)
        for place in answer.refused:
            one = done.result.refused[place]
            name = f"{one.rewrite}{channels_said(one, answer.finding)}"
            lines.append(paragraph(f"    {name} refused: {one.reason}", width, "      "))
    none = NOT_LOOKED if NOT_LOOKED in done.diagnosis.notes else "nothing was found that a rewrite could answer"
    lines += _more(asking) or ([] if asking else [f"  {none}"])
    informing = [answer for answer in done.result.answers if answer.informs]
    if informing:
        lines += ["", style.bold("Where the cost is (no rewrite is made for these findings)")]
        lines += [finding_line(answer.finding, width, style) for answer in informing[:MOST]] + _more(informing)
    return [*lines, ""]


def _more(items: Sequence[Any]) -> list[str]:
    more = len(items) - MOST
    return [f"  and {more} more in the report"] if more > 0 else []


def channels_said(one: Edit | Refused, finding: Finding) -> str:
    """Which part of a finding's channels an edit or a refusal is about."""
    if not finding.channels:
        return ""
    own = set(one.channels.get(finding.layer, ())) & set(finding.channels)
    return f" ({len(own)} of {_plural(len(finding.channels), 'channel')})"


def _edit_lines(edit: Edit, head: str, width: int, indent: str) -> list[str]:
    return [
        paragraph(f"{head}: {edit.claim}, {_saved_said(edit)}", width, indent),
        paragraph(f"{indent}{edit.found or names(edit.layers)}", width, f"{indent}  "),
        paragraph(f"{indent}check: {check_said(edit)}", width, f"{indent}  "),
    ]


def _saved_said(edit: Edit) -> str:
    """What an edit saves, and what it costs: that is a negative saving."""
    amounts: list[tuple[float, str]] = [
        (edit.params_saved, f"{number(abs(edit.params_saved))} parameters"),
        (edit.macs_saved, f"{number(abs(edit.macs_saved))} MACs"),
    ]
    if edit.ms_saved is not None:
        amounts.append((edit.ms_saved, milliseconds(abs(edit.ms_saved))))
    saves, costs = [said for amount, said in amounts if amount >= 0], [said for amount, said in amounts if amount < 0]
    parts = [f"saves {', '.join(saves)}"] if saves else []
    return "; ".join([*parts, f"costs {', '.join(costs)} more"] if costs else parts)


def _other_cuts(result: SlimResult, width: int, style: Style) -> list[str]:
    """The edits that answer no finding."""
    asking = [answer for answer in result.answers if not answer.informs][:MOST]
    shown = {place for answer in asking for place in answer.edits}
    rest = [edit for place, edit in enumerate(result.edits) if place not in shown]
    if shown and not rest:
        return []
    lines = [style.bold("What else was cut" if shown else "What was cut")]
    if not rest:
        return [*lines, "  nothing", ""]
    return [*lines, *(line for edit in rest for line in _edit_lines(edit, f"  {edit.rewrite}", width, "    ")), ""]


def check_said(edit: Edit) -> str:
    """The check of an edit in words."""
    check = edit.check
    if "largest_difference_float64" in check:
        return (
            f"outputs differ by at most {check['largest_difference_float64']:.1e} of the largest in float64, "
            f"{check['largest_difference_stored']:.1e} with weights stored as float32, on {check['inputs']}"
        )
    if "accuracy_after" in check:
        after = "after fine-tuning" if check.get("tuned") else "without fine-tuning"
        name, show = _measure(check)
        return (
            f"{name} on the {check.get('split', 'selection')} samples {show(check['accuracy_before'])} before, "
            f"{show(check['accuracy_after'])} {after}" + (f"; {check['also']}" if "also" in check else "")
        )
    said = [str(check["says"])] if "says" in check else []
    if "largest_difference_on_samples_float32" in check:
        most = check["largest_difference_on_samples_float32"]
        said.append(f"on samples the outputs differ by at most {most:.1e} of the largest in float32")
    return "; ".join(said)


def _other_refusals(result: SlimResult, width: int, style: Style) -> list[str]:
    """The refusals that speak of no finding."""
    refused = [one for one in result.refused if not one.findings]
    if not refused:
        return []
    lines = [style.bold("What else was refused" if len(refused) < len(result.refused) else "What was refused")]
    lines += [paragraph(f"  {r.rewrite}, {names(r.layers)}: {r.reason}", width, "    ") for r in refused[:MOST]]
    return [*lines, *_more(refused), ""]


def candidate_rows(result: SlimResult) -> list[list[str]]:
    """Every network that was tried: how it was ranked, its multiplications, how far outputs moved, what it lost."""
    return [
        [
            str(one["ranking"]),
            f"{one['macs'] / max(1, result.before.macs):.0%}",
            "-" if one.get("time") is None else f"{one['time']:.0%}",
            f"{one['outputs_moved']:.2%}",
            "-" if one["measure"] is None else f"{one['measure']:.4f}",
            "-" if one["lost"] is None else _with_error(one["lost"], one["standard_error"]),
            "taken" if one["taken"] else str(one.get("why") or ""),
        ]
        for one in result.candidates
    ]


CANDIDATE_HEADS = ("made of", "MACs left", "time left", "outputs moved", "measure", "lost to the control", "outcome")

CANDIDATES_SAID = (
    "MACs and time left are parts of the original's, the time as it is predicted; outputs moved is the squared change "
    "of the outputs over their squared spread on samples, before tuning; measure and loss are those after the tuning "
    "that the network had"
)


def _with_error(value: float, error: float | None) -> str:
    return f"{value:+.4f}" if error is None else f"{value:+.4f} ± {error:.2g}"


def _tried(result: SlimResult, width: int, style: Style) -> list[str]:
    rows = candidate_rows(result)
    if not rows:
        return []
    columns = [Column(head, right=0 < place < len(CANDIDATE_HEADS) - 1) for place, head in enumerate(CANDIDATE_HEADS)]
    said = style.dim(paragraph(f"{CANDIDATES_SAID}.", width))
    return [style.bold("Every network that was tried"), table(columns, rows, (), width, style), said, ""]


BITS_HEADS = ("layer", "op", "weights", "bits", "own S/N", "whole S/N")
BITS_SAID = (
    "S/N is the signal to noise of a layer's output against float32 in decibels: own, when it alone is in 8 bits and "
    "reads exact numbers; whole, when all layers before it are in 8 bits, too; at 20 dB the error is a tenth of "
    "the output"
)


def bits_rows(result: SlimResult) -> list[list[str]]:
    """One row for each layer, in the order of `BITS_HEADS`."""
    return [
        [row.layer, row.op, number(row.weights), str(row.bits), *(_db(v) for v in (row.own_db, row.whole_db))]
        for row in result.bits
    ]


def _db(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} dB"


def in_floats(result: SlimResult) -> list[str]:
    """Why layers keep their floats, a sentence for each reason."""
    found: dict[str, list[str]] = {}
    for row in result.bits:
        if row.why:
            found.setdefault(row.why, []).append(row.layer)
    return [f"{names(layers)} {'keeps its' if len(layers) == 1 else 'keep their'} floats: {why}"
            for why, layers in found.items()]  # fmt: skip


def _bits(result: SlimResult, width: int, style: Style) -> list[str]:
    if not result.bits:
        return []
    columns = [Column(head, right=place > 1, shrink=place == 0) for place, head in enumerate(BITS_HEADS)]
    rows = bits_rows(result)
    lines = [style.bold("Bits of each layer")]
    if len(rows) > MOST:
        worst = sorted(range(len(rows)), key=lambda i: _least(result.bits[i].own_db))[:MOST]
        lines += [table(columns, [rows[i] for i in sorted(worst)], (), width, style)]
        lines += [style.dim(f"(the {MOST} layers with most noise; {len(rows) - MOST} more in the report)")]
    else:
        lines += [table(columns, rows, (), width, style)]
    lines += [paragraph(f"{said}.", width) for said in in_floats(result)]
    return [*lines, style.dim(paragraph(f"{BITS_SAID}.", width)), ""]


def _least(db: float | None) -> float:
    return float("inf") if db is None else db


def _outcome(done: Slimming, width: int, style: Style) -> list[str]:
    before, after = done.result.before, done.result.after
    columns = [Column("", right=False), Column("before"), Column("after"), Column("change")]
    rows = [list(row) for row in outcome_rows(before, after, done.metric, done.result.control)]
    lines = [style.bold("Before and after"), table(columns, rows, width=width, style=style), ""]
    lines += [paragraph(f"{control_said(done.result.control)}.", width)] if done.result.control else []
    lines += [paragraph(f"{finish_said(done.result.finish)}.", width)] if done.result.finish else []
    lines += [paragraph(f"Note: {note}.", width) for note in done.result.notes]
    for name, found in done.result.certificate.items():
        lines.append(
            paragraph(
                f"Against the original on {found['inputs']} {name} inputs: at most {found['float64']:.1e} of the "
                f"largest output apart in float64, {found['float32']:.1e} in float32.",
                width,
            )
        )
    if done.same_answers:
        lines.append(paragraph(f"{done.same_answers[0].upper()}{done.same_answers[1:]}.", width))
    lines.append(style.dim(paragraph(f"Convention: {done.convention}.", width)))
    lines += [f"wrote {file}" for file in done.files]
    return lines


def control_said(control: Mapping[str, Any]) -> str:
    """What the control is, and what became of it."""
    if control["epochs"] is None:
        tuned = f"tuned {_plural(control['tunings'], 'time')} as the result was" if control["tunings"] else "as it came"
        error = f" ± {control['standard_error']:.2g} (standard error)" if control["standard_error"] is not None else ""
        how = f"loses {control['lost']:.4g}" if control["lost"] >= 0 else f"is better by {-control['lost']:.4g}"
        return f"Control: the original {tuned}; the result {how}{error}{' to it' if control['lost'] >= 0 else ''}"
    said = (
        f"Control: the original fine-tuned as the result was, {_plural(control['tunings'], 'time')}, "
        f"{_plural(control['epochs'], 'epoch')} in all, figures after the last epoch"
    )
    return said if control["accuracy"] is not None else f"{said}; it failed: {control['failed']}"


def finish_said(finish: Mapping[str, Any]) -> str:
    """What the last fine-tuning was, and what it gave."""
    kept = "" if finish["kept"] else ", not kept"
    name, show = _measure(finish)
    return (
        f"Last fine-tuning: {_plural(finish['epochs'], 'epoch')}, taught by the {finish['teacher']}{kept}; {name} on "
        f"the {finish['split']} samples {show(finish['accuracy_before'])} before it, "
        f"{show(finish['accuracy_after'])} after it"
    )


def _measure(facts: Mapping[str, Any]) -> tuple[str, Callable[[float | None], str]]:
    """What a check measured, and how it is shown: accuracy, where nothing else is said."""
    name, show = shown_as(facts.get("metric", "accuracy"))
    return name.removeprefix("test "), lambda value: "-" if value is None else show(value)


PLAIN_METRICS = ("r2", "evaluate")
"""Measures that are shown as they are, not in percent."""


def shown_as(metric: str) -> tuple[str, Callable[[float], str]]:
    """What a measure is called, and how its values are shown."""
    if metric == "evaluate":
        return "evaluate", lambda v: f"{v:.4f}"
    return ("test R²", lambda v: f"{v:.4f}") if metric == "r2" else (f"test {metric}", percent)


def outcome_rows(
    before: NetworkFigures, after: NetworkFigures, metric: str, control: Mapping[str, Any] | None = None
) -> list[tuple[str, str, str, str]]:
    """Name, before, after, change of every figure; for the control its own accuracy, and the result's beyond it."""
    name, show = shown_as(metric)
    plain = metric in PLAIN_METRICS
    rows = [
        ("parameters", number(before.params), number(after.params), _times(before.params, after.params)),
        ("MACs", number(before.macs), number(after.macs), _times(before.macs, after.macs)),
    ]
    if before.accuracy is not None and after.accuracy is not None:
        change = after.accuracy - before.accuracy
        points = f"{change:+.4f}" if plain else f"{100 * change:+.2f} points"
        rows.append((name, show(before.accuracy), show(after.accuracy), points))
        if control is not None and control["accuracy"] is not None:
            change = after.accuracy - control["accuracy"]
            points = f"{change:+.4f}" if plain else f"{100 * change:+.2f} points"
            rows.append(("  against the control", show(control["accuracy"]), show(after.accuracy), points))
    if before.median_ms is not None and after.median_ms is not None:
        change = _times(before.median_ms, after.median_ms)
        rows.append(("median time", milliseconds(before.median_ms), milliseconds(after.median_ms), change))
    sizes = before.size_bytes, after.size_bytes
    rows.append(("file size", size(sizes[0]), size(sizes[1]), _times(*sizes)))
    return rows


def _times(before: float, after: float) -> str:
    """How many times less or more, from 0.005 on."""
    if not before or not after:
        return "-"
    if abs(before / after - 1) < 0.005:
        return "the same"
    return f"{short(before / after)} x less" if after < before else f"{short(after / before)} x more"


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
