"""Charts as inline SVG, coloured by the page's style sheet (light and dark), with descriptions for screen readers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from dojang.base.showing import columns_of
from dojang.report.markup import escape
from dojang.report.table import clip

LETTER = 7.3
"""Average width of a letter in the charts' 13-pixel type, in pixels; used to leave space for labels."""


LINES = ("l0", "l1", "l2", "l3", "l4", "l5")
"""Classes of lines that stand beside each other: each has a colour and a dash of its own."""


def letters_wide(text: str) -> float:
    """About how many pixels wide a text of a chart is; Hangul and other wide letters count twice."""
    return LETTER * columns_of(text)


@dataclass(frozen=True, slots=True)
class ChartBar:
    """One bar: its value, its text, and a style-sheet class: what it is ("conv", "dense", "faint" for other types), or
    "a", "b", "good", "bad".
    """

    value: float
    text: str
    kind: str = "a"


@dataclass(frozen=True, slots=True)
class Series:
    """A line through points (x, y), with its name at its end and a style-sheet class."""

    name: str
    points: tuple[tuple[float, float], ...]
    kind: str = "a"


def bar_chart(
    title: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[ChartBar]]], width: int = 720, row: int = 22
) -> str:
    """Horizontal bars: one row per label, one column of bars per heading, each column on its own scale from 0."""
    label = min(210.0, 12 + max((letters_wide(name) for name, _ in rows), default=4 * LETTER))
    gap = 18.0
    each = (width - label - gap * len(columns)) / max(1, len(columns))
    texts = [max((letters_wide(bars[c].text) for _, bars in rows), default=0) + 8 for c in range(len(columns))]
    tops = [max((bars[c].value for _, bars in rows), default=0) or 1 for c in range(len(columns))]
    height = 30 + row * len(rows) + 6
    parts = [chart_head(title, _said(columns, rows), width, height)]
    for c, heading in enumerate(columns):
        x = label + gap + c * (each + gap)
        parts.append(f'<text class="head" x="{x:.1f}" y="16">{escape(heading)}</text>')
    for r, (name, bars) in enumerate(rows):
        y = 30 + r * row
        middle = y + row / 2 + 4
        shown = clip(name, int(label / LETTER) - 1)
        parts.append(f'<text class="label" x="{label:.1f}" y="{middle:.1f}" text-anchor="end">{escape(shown)}</text>')
        for c, bar in enumerate(bars):
            x = label + gap + c * (each + gap)
            long = max(0.0, (each - texts[c]) * bar.value / tops[c])
            parts.append(
                f'<rect class="{bar.kind}" x="{x:.1f}" y="{y + 3}" width="{max(long, 0.75 if bar.value else 0):.1f}" '
                f'height="{row - 6}" rx="2"/>'
                f'<text class="value" x="{x + long + 6:.1f}" y="{middle:.1f}">{escape(bar.text)}</text>'
            )
    return "".join([*parts, "</svg>"])


def line_chart(
    title: str, x_name: str, y_name: str, series: Sequence[Series], width: int = 720, height: int = 300
) -> str:
    """Lines over common axes with a light grid; each line is named at its right end."""
    points = [p for s in series for p in s.points]
    if not points:
        return ""
    x_low, x_high = min(p[0] for p in points), max(p[0] for p in points)
    marks = ticks(min(p[1] for p in points), max(p[1] for p in points))
    y_low, y_high = marks[0], marks[-1]
    left, right, top, bottom = 56.0, 28 + min(200.0, max(letters_wide(s.name) for s in series)), 26.0, 40.0
    wide, high = width - left - right, height - top - bottom

    def at(x: float, y: float) -> tuple[float, float]:
        share = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        return left + wide * share, top + high * (1 - (y - y_low) / (y_high - y_low))

    said = "; ".join(f"{s.name}: {s.points[0][1]:.4g} to {s.points[-1][1]:.4g}" for s in series if s.points)
    parts = [
        chart_head(title, said, width, height),
        f'<text class="head" x="{left:.1f}" y="14">{escape(y_name)}</text>',
    ]
    for mark in marks:
        _, y = at(x_low, mark)
        parts.append(
            f'<line class="grid" x1="{left:.1f}" x2="{left + wide:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="label" x="{left - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{mark:g}</text>'
        )
    whole = all(x == int(x) for x, _ in points)
    for mark in ticks(x_low, x_high, inside=True, whole=whole):
        x, y = at(mark, y_low)
        parts.append(f'<text class="label" x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{mark:g}</text>')
    parts.append(
        f'<text class="label" x="{left + wide / 2:.1f}" y="{height - 4}" text-anchor="middle">{escape(x_name)}</text>'
    )
    ends: list[float] = []
    for line in sorted((s for s in series if s.points), key=lambda s: at(*s.points[-1])[1]):
        path = " ".join("{:.1f},{:.1f}".format(*at(*p)) for p in line.points)
        x, y = at(*line.points[-1])
        parts.append(f'<polyline class="{line.kind}" points="{path}"/>')
        parts.append(f'<circle class="{line.kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
        y = max([y, *(e + 15 for e in ends[-1:])])  # names that would touch are moved apart
        ends.append(y)
        name = clip(line.name, int(200 / LETTER))
        parts.append(f'<text class="value" x="{x + 9:.1f}" y="{y + 4:.1f}">{escape(name)}</text>')
    return "".join([*parts, "</svg>"])


def point_chart(
    title: str, x_name: str, y_name: str, groups: Sequence[Series], width: int = 720, height: int = 320
) -> str:
    """Points over common axes with a light grid; the groups are named below. "" without points."""
    points = [p for group in groups for p in group.points]
    if not points:
        return ""
    across, up = (ticks(min(p[i] for p in points), max(p[i] for p in points)) for i in (0, 1))
    left, right, top, bottom = 56.0, 20.0, 26.0, 62.0
    wide, high = width - left - right, height - top - bottom

    def at(x: float, y: float) -> tuple[float, float]:
        shares = [(v - marks[0]) / ((marks[-1] - marks[0]) or 1.0) for v, marks in ((x, across), (y, up))]
        return left + wide * shares[0], top + high * (1 - shares[1])

    said = "; ".join(f"{g.name}: " + ", ".join(f"{x:.4g} {y:.4g}" for x, y in g.points) for g in groups if g.points)
    parts = [
        chart_head(title, said, width, height),
        f'<text class="head" x="{left:.1f}" y="14">{escape(y_name)}</text>',
    ]
    for mark in up:
        _, y = at(across[0], mark)
        parts.append(
            f'<line class="grid" x1="{left:.1f}" x2="{left + wide:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="label" x="{left - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{mark:g}</text>'
        )
    for mark in across:
        x, _ = at(mark, up[0])
        parts.append(f'<text class="label" x="{x:.1f}" y="{top + high + 18:.1f}" text-anchor="middle">{mark:g}</text>')
    parts.append(
        f'<text class="label" x="{left + wide / 2:.1f}" y="{top + high + 34:.1f}" text-anchor="middle">'
        f"{escape(x_name)}</text>"
    )
    place = left
    for group in groups:
        if not group.points:
            continue
        for x, y in (at(*p) for p in group.points):
            parts.append(f'<circle class="{group.kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        parts.append(f'<circle class="{group.kind}" cx="{place:.1f}" cy="{height - 10}" r="4"/>')
        parts.append(f'<text class="label" x="{place + 9:.1f}" y="{height - 6}">{escape(group.name)}</text>')
        place += LETTER * len(group.name) + 34
    return "".join([*parts, "</svg>"])


def field_chart(title: str, image: tuple[int, int], fields: Sequence[tuple[str, tuple[int, int]]]) -> str:
    """Receptive fields (h, w) of the middle output, drawn to scale over the image, each with its name.

    What reaches beyond twice the image's size is drawn at its edge.
    """
    most = [min(2 * side, max([side, *(f[a] for _, f in fields)])) for a, side in enumerate(image)]
    scale = 340 / max(most)
    height, wide = most[0] * scale, most[1] * scale
    lines = max(height + 20, 24 + 19 * len(fields))
    middle_x, middle_y = 10 + wide / 2, lines / 2

    def box(size: tuple[int, int], kind: str) -> tuple[str, float, float]:
        h, w = (min(side, limit) * scale for side, limit in zip(size, most, strict=True))
        x, y = middle_x - w / 2, middle_y - h / 2
        rect = f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}"/>'
        return rect, x + w, y

    parts = [chart_head(title, "; ".join(f"{name}: {f[0]}x{f[1]}" for name, f in fields), 720, lines)]
    drawn, right, top = box(image, "image")
    parts.append(drawn)
    frame = f"input {image[0]}x{image[1]}"
    if right - 10 - letters_wide(frame) > 12:  # else it would not fit into the frame
        x, y = middle_x - min(image[1], most[1]) * scale / 2 + 6, middle_y + min(image[0], most[0]) * scale / 2 - 7
        parts.append(f'<text class="label" x="{x:.1f}" y="{y:.1f}">{frame}</text>')
    order = sorted(fields, key=lambda f: -f[1][0])
    for place, (name, size) in enumerate(order):
        rect, right, top = box(size, "field")
        y = 20 + place * (lines - 30) / max(1, len(order) - 1) if len(order) > 1 else middle_y
        # a horizontal line to the frame, then a line to the name; names have the order of the corners, so no lines
        # cross
        leader = f"{right:.1f},{top:.1f} {wide + 16:.1f},{top:.1f} {wide + 60:.1f},{y:.1f}"
        parts.append(f'{rect}<polyline class="grid" fill="none" points="{leader}"/>')
        seen = f" {size[0]}x{size[1]}"
        said = clip(name, int((720 - wide - 70 - letters_wide(seen)) / LETTER)) + seen
        parts.append(f'<text class="value" x="{wide + 66:.1f}" y="{y + 4:.1f}">{escape(said)}</text>')
    return "".join([*parts, "</svg>"])


def ticks(low: float, high: float, most: int = 6, inside: bool = False, whole: bool = False) -> list[float]:
    """Round numbers (with `whole` whole ones) that span low to high (or lie inside it), at most about `most`.

    >>> ticks(0.13, 0.97)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> ticks(1, 30, inside=True)
    [10.0, 20.0, 30.0]
    >>> ticks(1, 12, inside=True, whole=True)
    [5.0, 10.0]
    """
    if high <= low:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / (most - 1)
    scale = 10 ** floor(log10(raw))
    fits = (s * scale for s in (1, 2, 2.5, 5, 10, 20, 50, 100) if s * scale >= raw * (1 - 1e-9))
    step = next((s for s in fits if not whole or s == int(s)), 1.0)
    slack = 1e-9
    if inside:
        start, stop = ceil(low / step - slack), floor(high / step + slack)
    else:
        start, stop = floor(low / step + slack), ceil(high / step - slack)
    return [round(i * step, 12) + 0.0 for i in range(start, stop + 1)]


def chart_head(title: str, said: str, width: float, height: float) -> str:
    """The opening tag of a chart, with its title and its content in words."""
    return (
        f'<svg role="img" viewBox="0 0 {width:g} {height:g}" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title><desc>{escape(said)}</desc>"
    )


def _said(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[ChartBar]]]) -> str:
    """The chart in words, for screen readers."""
    each = (f"{name}: " + ", ".join(f"{c} {b.text}" for c, b in zip(columns, bars, strict=True)) for name, bars in rows)
    return "; ".join(each)
