"""The HTML pages of a diagnosis and of a slimming."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dojang.arith.cost import Count
from dojang.diagnosis.correlation import Correlation
from dojang.evidence.finding import Finding
from dojang.report.front_chart import curves_chart, front_chart
from dojang.report.heat import heat_figure, maps
from dojang.report.html import layer_chart
from dojang.report.html_checks import check_sections
from dojang.report.layers import HEADS, layer_rows, legend
from dojang.report.page import cards, figure, html_table, page, paragraph
from dojang.report.results import NOT_LOOKED, Diagnosis, Slimming
from dojang.report.svg import LINES, ChartBar, Series, bar_chart, line_chart
from dojang.report.svg_cost import colour_of
from dojang.report.table import milliseconds, names, number, ranges, short, size
from dojang.report.text_slim import (
    BITS_HEADS,
    BITS_SAID,
    CANDIDATE_HEADS,
    NO_REWRITE,
    bits_rows,
    candidate_rows,
    channels_said,
    check_said,
    control_said,
    finish_said,
    in_floats,
    outcome_rows,
    shown_as,
)
from dojang.slimming.result import Edit, NetworkFigures, Outcome, Refused, SlimResult

MOST_CURVES = 6
"""Energy curves that are drawn: more cannot be told apart."""


def diagnosis_html(diagnosis: Diagnosis, count: Count) -> str:
    """The findings, and where the network's parameters and MACs are."""
    lead = f"{diagnosis.samples:,} samples." if diagnosis.samples else "Without data."
    chart = figure(layer_chart(count), "Each column of bars has its own scale.")
    drawn = maps([correlation_figure(found) for found in diagnosis.correlations])
    said = paragraph(
        "Each square is the correlation of a filter of one layer (row) with one of the next (column), its size by "
        "brightness, in an order in which structure shows. Any such matrix shows some; whether a layer splits into "
        "groups is measured, and stands above.",
        "muted",
    )
    sections = [
        ("Findings", findings_table(diagnosis.findings) + "".join(paragraph(f"Note: {n}.") for n in diagnosis.notes)),
        ("Not judged", not_judged_table(diagnosis)),
        ("Where it goes", chart),
        ("What every layer uses", _every_layer(diagnosis)),
        ("Groups of filters", _groups(diagnosis)),
        *check_sections(diagnosis),
        ("How filters move together", said + drawn if drawn else ""),
    ]
    return page(
        f"{diagnosis.network}: what is wasted",
        lead,
        sections,
        pictures=bool(drawn) or diagnosis.checks.answers is not None,
    )


def _every_layer(diagnosis: Diagnosis) -> str:
    rows = layer_rows(diagnosis)
    if not rows:
        return ""
    curves = [
        Series(s.layer, tuple((100 * (i + 1) / len(s.outputs), 100 * v) for i, v in enumerate(s.outputs)))
        for s in diagnosis.spectra
        if len(s.outputs) > 1
    ]
    curves = [replace(curve, kind=LINES[i % len(LINES)]) for i, curve in enumerate(curves)]
    if len(curves) > MOST_CURVES:  # from the first layer to the last, evenly
        curves = [curves[round(i * (len(curves) - 1) / (MOST_CURVES - 1))] for i in range(MOST_CURVES)]
    chart = line_chart("Energy curves", "directions, % of the channels", "% of the output's variance", curves)
    said = f"Part of the output's variance in its first directions, {len(curves)} of {len(diagnosis.spectra)} layers."
    drawn = figure(chart, said) if curves else ""
    return (
        html_table(list(HEADS), rows, numeric=tuple(range(1, len(HEADS))))
        + paragraph(legend(diagnosis), "muted")
        + drawn
    )


def _groups(diagnosis: Diagnosis) -> str:
    """One row per layer: whether it splits into groups, and what that changes."""
    rows: list[list[str]] = []
    for layer in diagnosis.groupings:
        best = layer.splits[-1] if layer.splits else None
        figures = ["none", "", "", ""] if best is None else [
            str(best.groups), *(f"{v:.2%}" for v in (best.change, best.random_change, best.chance_change))]  # fmt: skip
        rows.append([layer.layer, *figures, f"{layer.fit_samples} + {layer.judge_samples}"])
    if not rows:
        return ""
    heads = ["layer", "groups", "outputs move by", "random splits", "layers without groups", "samples"]
    said = (
        "Layers that were split into groups and fitted again: how far their outputs move, as a part of their variance, "
        "on samples that did not fit them (samples: to fit + to judge). Random splits of the same layer, and the best "
        "splits of layers of the same spectrum or kernels but without groups, stand beside."
    )
    return html_table(heads, rows, numeric=(2, 3, 4)) + paragraph(said, "muted")


def correlation_figure(found: Correlation) -> str:
    """The correlation of filters of two adjacent layers as a heat map, in the order in which structure shows."""
    ordered = found.matrix[list(found.row_order)][:, list(found.column_order)].tolist()
    said = f"{len(ordered)} filters by {len(ordered[0])}, {found.pixels:,} pixels."
    return heat_figure(ordered, f"{found.before} and {found.after}", said)


def findings_table(findings: Sequence[Finding]) -> str:
    """One row per finding, all channels named."""
    if not findings:
        return paragraph("Nothing was found.")
    rows = [
        [f.layer, f.kind, f.severity, str(len(f.channels)) if f.channels else "", ranges(f.channels, 40), f.evidence]
        for f in findings
    ]
    return html_table(["layer", "finding", "severity", "how many", "channels", "evidence"], rows, numeric=(3,))


def not_judged_table(diagnosis: Diagnosis) -> str:
    """One row for each kind of finding that was not looked for: where, and why."""
    rows = [[one.layer or "the whole network", one.kind, one.reason] for one in diagnosis.not_judged]
    return html_table(["layer", "kind of finding", "reason"], rows) if rows else ""


OUTCOMES = {"cut": "cut", "refused": "refused", "informs": "only informs"}
"""How the outcome of a finding is shown."""


def answers_table(result: SlimResult) -> str:
    """One row per finding: what was found, and the edits that answered it or the reasons why it was not cut."""
    if not result.answers:
        return paragraph("Nothing was found.")
    rows = [
        [
            a.finding.layer,
            a.finding.kind,
            ranges(a.finding.channels, 40),
            a.finding.evidence,
            OUTCOMES[a.verdict],
            "; ".join(_became(result, a)),
        ]
        for a in result.answers
    ]
    return html_table(["layer", "finding", "channels", "evidence", "outcome", "by what, or why not"], rows)


def _became(result: SlimResult, answer: Outcome) -> list[str]:
    """What the edits and refusals of a finding did to it, in words."""
    edits, refused = (result.edits[i] for i in answer.edits), (result.refused[i] for i in answer.refused)
    said = [f"{edit.rewrite}{channels_said(edit, answer.finding)}" for edit in edits]
    said += [f"{one.rewrite}{channels_said(one, answer.finding)} refused: {one.reason}" for one in refused]
    return said or [NO_REWRITE]


def _data_said(data: Mapping[str, Any]) -> str:
    if data.get("task") == "unlabelled":
        return f"Data {data['name']}: {data['train_samples']:,} samples without labels."
    return f"Data {data['name']}: {data['train_samples']:,} training and {data['test_samples']:,} test samples."


def slim_html(done: Slimming) -> str:
    """Before and after, every finding with what became of it, each cut with its check, refusals, the layers."""
    result = done.result
    lead = (
        f"{_data_said(done.data)} Runtime {done.runtime} {done.runtime_version or ''}, batches of {done.batch}, "
        f"seed {result.seed}, {done.seconds:.0f} s."
    )
    table = html_table(
        ["", "before", "after", "change"],
        [list(row) for row in outcome_rows(result.before, result.after, done.metric, result.control)],
        numeric=(1, 2, 3),
    )
    notes = paragraph(f"{control_said(result.control)}.") if result.control else ""
    notes += paragraph(f"{finish_said(result.finish)}.") if result.finish else ""
    notes += "".join(paragraph(f"Note: {note}.") for note in result.notes)
    same = paragraph(f"The ONNX file: {done.same_answers}.") if done.same_answers else ""
    outcome = [
        _headline(result.before, result.after, done.metric),
        figure(outcome_chart(result.before, result.after), "Each figure on its own scale; shorter is cheaper."),
        table,
        notes,
        same,
        paragraph(f"Convention: {done.convention}.", "muted"),
    ]
    sections = [
        ("Before and after", "".join(outcome)),
        (
            "What was found, and what became of it",
            paragraph(f"{NOT_LOOKED}.") if NOT_LOOKED in done.diagnosis.notes else answers_table(result),
        ),
        ("What was cut", _edits(result.edits)),
        ("What was refused", _refused(result.refused)),
        *_candidates(result),
        *_bits(result),
        ("Where it went", figure(layers_chart(*done.counts), "Upper bar before, lower bar after.")),
    ]
    return page(f"{done.network}, slimmed", lead, sections)


def _bits(result: SlimResult) -> list[tuple[str, str]]:
    """How each layer keeps its weights, its noise as a picture and as a table."""
    if not result.bits:
        return []
    said = f"{BITS_SAID}. Shorter bars: more noise. Layers in floats have no bar for whole, or a red one for own."
    table = html_table(list(BITS_HEADS), bits_rows(result), numeric=(2, 3, 4, 5))
    kept = "".join(paragraph(f"{why}.") for why in in_floats(result))
    return [("Bits, and where the error comes from", figure(noise_chart(result), said) + kept + table)]


def noise_chart(result: SlimResult) -> str:
    """The signal to noise of every layer in order, own and whole."""
    rows = []
    for row in result.bits:
        own, whole = (ChartBar(0 if v is None else max(0.0, v), "-" if v is None else f"{v:.1f}", kind) for v, kind in
                      ((row.own_db, "a" if row.bits == 8 else "bad"), (row.whole_db, "b")))  # fmt: skip
        rows.append((row.layer, [own, whole]))
    return bar_chart("Signal to noise by layer", ["own, dB", "whole, dB"], rows, row=19)


def _candidates(result: SlimResult) -> list[tuple[str, str]]:
    """Every network that was tried, as a table, and what was measured of them against their multiplications."""
    rows = candidate_rows(result)
    if not rows:
        return []
    front, curves = front_chart(result), curves_chart(result)
    drawn = (
        figure(front, "Every candidate that was measured; further left is faster, higher is better.") if front else ""
    )
    if curves:
        drawn += figure(curves, "Candidates are compared after equally long tuning; so is the control.")
    return [
        (
            "Every network that was tried",
            drawn + html_table(list(CANDIDATE_HEADS), rows, numeric=(1, 2, 3, 4, 5)),
        )
    ]


def _headline(before: NetworkFigures, after: NetworkFigures, metric: str) -> str:
    items = [
        (f"{short(before.macs)} → {short(after.macs)}", "MACs"),
        (f"{short(before.params)} → {short(after.params)}", "parameters"),
    ]
    if before.median_ms is not None and after.median_ms is not None:
        items.append((f"{milliseconds(before.median_ms)} → {milliseconds(after.median_ms)}", "median time"))
    if before.accuracy is not None and after.accuracy is not None:
        name, show = shown_as(metric)
        items.append((f"{show(before.accuracy)} → {show(after.accuracy)}", name))
    return cards(items)


def outcome_chart(before: NetworkFigures, after: NetworkFigures) -> str:
    """Costs before and after, side by side."""
    names_, sides = ["parameters", "MACs", "file size"], []
    timed = before.median_ms is not None and after.median_ms is not None
    for name, side, kind in (("before", before, "faint"), ("after", after, "a")):
        bars = [
            ChartBar(side.params, short(side.params), kind),
            ChartBar(side.macs, short(side.macs), kind),
            ChartBar(side.size_bytes, size(side.size_bytes), kind),
        ]
        if timed and side.median_ms is not None:
            bars.append(ChartBar(side.median_ms, milliseconds(side.median_ms), kind))
        sides.append((name, bars))
    return bar_chart("Costs before and after", names_ + ["median time"] * timed, sides)


def layers_chart(before: Count, after: Count) -> str:
    """Parameters and MACs of every layer that has any, before and after, by name."""
    new = {layer.name: layer for layer in after.layers}
    rows = []
    for layer in before.layers:
        if not layer.cost.macs:
            continue
        old = [ChartBar(layer.cost.params, number(layer.cost.params), "faint")]
        old.append(ChartBar(layer.cost.macs, number(layer.cost.macs), "faint"))
        rows.append((layer.name, old))
        now = new.get(layer.name)
        if now is None:
            rows.append(("", [ChartBar(0, "gone", "faint"), ChartBar(0, "gone", "faint")]))
        else:
            colour = colour_of([now])
            bars = [
                ChartBar(now.cost.params, number(now.cost.params), colour),
                ChartBar(now.cost.macs, number(now.cost.macs), colour),
            ]
            rows.append(("", bars))
    return bar_chart("Parameters and MACs by layer, before and after", ["parameters", "MACs"], rows, row=19)


def _edits(edits: Sequence[Edit]) -> str:
    if not edits:
        return paragraph("Nothing.")
    rows = [
        [
            edit.rewrite,
            edit.claim,
            edit.found or names(edit.layers, 12),
            _less(edit.params_saved, number),
            _less(edit.macs_saved, number),
            _less(edit.ms_saved, milliseconds),
            check_said(edit),
        ]
        for edit in edits
    ]
    heads = ["cut", "claim", "where", "parameters", "MACs", "time", "check"]
    said = "Parameters, MACs and time: how the cut changes them, each time against the network before that cut."
    return paragraph(said) + html_table(heads, rows, numeric=(3, 4, 5))


def _less(saved: float | None, shown: Callable[[Any], str]) -> str:
    """A saving as the change that it is: with a minus sign, or a plus where it is none."""
    if saved is None:
        return "-"
    return f"{'−' if saved > 0 else '+' if saved < 0 else ''}{shown(abs(saved))}"


def _refused(refused: Sequence[Refused]) -> str:
    if not refused:
        return ""
    return html_table(["cut", "layers", "reason"], [[r.rewrite, names(r.layers, 12), r.reason] for r in refused])
