"""The candidates of a slimming as pictures: measure against time, and learning curves beside the control's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dojang.report.svg import Series, line_chart, point_chart
from dojang.slimming.result import SlimResult

STYLE = (
    "<style>svg{font:13px sans-serif;background:#fff}.a{fill:#2563a8}.b{fill:#c2571a}.good{fill:#2b7d3f}"
    ".faint{fill:#999}.grid{stroke:#ddd}.label{fill:#555}.head,.value{fill:#222}</style>"
)
"""What a page's style sheet says, for a file that stands alone."""

MOST_CURVES = 8
"""Learning curves that are drawn, those that went on longest: more cannot be told apart."""


def front_chart(result: SlimResult) -> str:
    """What every candidate that was measured scored last, against its part of the time, or of the multiplications where
    not all were timed; the one that was taken, and the control. "" where fewer than two were measured.
    """
    measured = [one for one in result.candidates if one["measure"] is not None]
    if len(measured) < 2:
        return ""
    timed = all(one.get("time") is not None for one in measured)

    def point(one: Mapping[str, Any]) -> tuple[float, float]:
        part = one["time"] if timed else one["macs"] / max(1, result.before.macs)
        return float(part), float(one["measure"])

    controls = [curve[-1][2] for one in measured if (curve := one.get("curve")) and curve[-1][2] is not None]
    groups = [
        Series("not taken, tuned in part or in whole", tuple(point(o) for o in measured if not o["taken"]), "faint"),
        Series("taken", tuple(point(o) for o in measured if o["taken"]), "a"),
        Series("control, the original tuned alike", ((1.0, max(controls)),) if controls else (), "good"),
    ]
    what = "part of the original's time" if timed else "part of the original's MACs"
    return point_chart("Measure against time", what, "measure on the selection, after its last rung", groups)


def curves_chart(result: SlimResult) -> str:
    """The measure after every rung, of the candidates that went on longest and of the control. "" without rungs."""
    curves = [(one, one["curve"]) for one in result.candidates if len(one.get("curve") or ()) > 1]
    if not curves:
        return ""
    ranked = sorted(curves, key=lambda pair: (not pair[0]["taken"], -len(pair[1])))[:MOST_CURVES]
    series = [Series(str(one["ranking"])[:40], tuple((s, m) for s, m, _ in curve), "a" if one["taken"] else "faint")
              for one, curve in ranked]  # fmt: skip
    longest = max((curve for _, curve in curves), key=len)
    control = tuple((share, value) for share, _, value in longest if value is not None)
    series += [Series("control", control, "b")] if control else []
    return line_chart("Learning curves", "part of one whole tuning", "measure on the selection", series)


def standing_alone(chart: str) -> str:
    """A chart as a file of its own, with its colours."""
    head, _, rest = chart.partition(">")
    return f"{head}>{STYLE}{rest}\n"
