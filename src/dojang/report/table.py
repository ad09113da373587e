"""Tables and numbers as text: columns aligned within a width, separators, units, and marks for lower bounds."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from textwrap import wrap

from dojang.base.showing import columns_of, first_columns, last_columns, shown
from dojang.report.markup import escape

WIDTH = 80
"""Columns of text if the width of the terminal is not known."""

_PREFIXES = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "K"))


@dataclass(frozen=True, slots=True)
class Style:
    """Whether text is marked up for a terminal. Without colour every mark is the text itself.

    Control characters in marked text are escaped (`shown`): a name can neither move the cursor nor begin a line.
    """

    color: bool = False

    def bold(self, text: str) -> str:
        """Headings and what matters."""
        return self._marked(1, shown(text))

    def dim(self, text: str) -> str:
        """Conventions and remarks."""
        return self._marked(2, shown(text, keep="\n"))

    def good(self, text: str) -> str:
        """What became better or passed."""
        return self._marked(32, shown(text, keep="\n"))

    def bad(self, text: str) -> str:
        """What became worse or failed."""
        return self._marked(31, shown(text, keep="\n"))

    def _marked(self, code: int, text: str) -> str:
        return f"{_MARK}{code}m{text}{_MARK}0m" if self.color else text


_MARK = f"\x1b[{os.urandom(8).hex()}:"
"""The beginning of a mark until it is printed. It is random, so that no name can contain it."""
_MARKS = re.compile(f"({re.escape(_MARK)}(?:0|1|2|31|32)m)")


def printed(text: str) -> str:
    """A report for a terminal: marks become escape sequences, all control characters but "\n" are shown as escapes."""
    parts = _MARKS.split(text)
    return "".join(part.replace(_MARK, "\x1b[") if i % 2 else shown(part, keep="\n") for i, part in enumerate(parts))


_TAGS = {
    "0m": "</span>",
    "1m": '<span style="font-weight:600">',
    "2m": '<span style="opacity:.7">',
    "31m": '<span style="color:#b3261e">',
    "32m": '<span style="color:#1a7f4b">',
}


def marked_html(text: str) -> str:
    """A report for a notebook: marks as elements with their style, everything else escaped.

    >>> marked_html("a < b")
    'a &lt; b'
    """
    parts = _MARKS.split(text)
    return "".join(_TAGS[part.removeprefix(_MARK)] if i % 2 else escape(part) for i, part in enumerate(parts))


PLAIN = Style()


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its heading, and whether it is of numbers (right-aligned) or of words.

    With `shrink`, cells lose their middle (names) or, with `prose`, their end if the table is too wide.
    """

    title: str
    right: bool = True
    shrink: bool = False
    prose: bool = False


def number(value: int | None, lower_bound: bool = False) -> str:
    """A whole number with thousands separators; "≥ " before a lower bound, "?" for unknown.

    >>> number(105415200), number(1000, lower_bound=True), number(None)
    ('105,415,200', '≥ 1,000', '?')
    """
    if value is None:
        return "?"
    return f"{'≥ ' if lower_bound else ''}{value:,}"


def short(value: float | None, lower_bound: bool = False) -> str:
    """Three digits and K, M, G or T for powers of 1000.

    >>> short(105415200), short(1024), short(999), short(2712, lower_bound=True)
    ('105M', '1.02K', '999', '≥ 2.71K')
    """
    if value is None:
        return "?"
    mark = "≥ " if lower_bound else ""
    if isinstance(value, int) and abs(value) >= 10**18:  # beyond what a float divides: whole T
        return f"{mark}{value // 10**12:,}T"
    for scale, prefix in _PREFIXES:
        if abs(value) >= scale * (1 - 5e-4):
            return f"{mark}{_three(value / scale)}{prefix}"
    return f"{mark}{_three(value) if isinstance(value, float) else value}"


def _three(value: float) -> str:
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f}"


def size(count: int | None, lower_bound: bool = False) -> str:
    """Bytes in B, KB, MB, GB, of powers of 1000.

    >>> size(1161600), size(12), size(None)
    ('1.16 MB', '12 B', '?')
    """
    if count is None:
        return "?"
    text = short(count, lower_bound)
    return f"{text[:-1]} {text[-1]}B" if text[-1] in "KMGT" else f"{text} B"


def span(values: Sequence[tuple[int, bool]], show: Callable[[int, bool], str] = number) -> str:
    """A figure of several paths, from the least to the greatest; each value says whether it is a lower bound.

    >>> span([(192, False), (5_000, False), (338_880, True)]), span([(7, False)]), span([(7, True), (7, False)])
    ('192 to ≥ 338,880', '7', '≥ 7')
    """
    low, high = min(value for value, _ in values), max(value for value, _ in values)
    open_low, open_high = all(bound for value, bound in values if value == low), any(bound for _, bound in values)
    if show(low, False) == show(high, False):
        return show(high, open_high)
    return f"{show(low, open_low)} to {show(high, open_high)}"


def milliseconds(value: float | None) -> str:
    """A time with three digits.

    >>> milliseconds(24.061), milliseconds(0.0824)
    ('24.1 ms', '82.4 µs')
    """
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{_three(value / 1000)} s"
    return f"{_three(value)} ms" if abs(value) >= 1 else f"{_three(value * 1000)} µs"


def percent(fraction: float | None, digits: int = 2) -> str:
    """A fraction as percent.

    >>> percent(0.9861), percent(None)
    ('98.61 %', '-')
    """
    return "-" if fraction is None else f"{100 * fraction:.{digits}f} %"


def sizes(values: Sequence[int] | None) -> str:
    """A shape as people write it: 64x112x112; "?" when it is not known, "1" for a single value.

    >>> sizes((64, 112, 112)), sizes(()), sizes(None)
    ('64x112x112', '1', '?')
    """
    if values is None:
        return "?"
    return "x".join(map(str, values)) or "1"


def names(items: Sequence[str], most: int = 4) -> str:
    """Some names and how many more.

    >>> names(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    if len(items) <= most:
        return ", ".join(items)
    return f"{', '.join(items[:most])} and {len(items) - most} more"


def ranges(numbers: Sequence[int], most: int = 6) -> str:
    """Sorted whole numbers, with runs written as ranges.

    >>> ranges([1, 2, 3, 7, 9, 10])
    '1-3, 7, 9, 10'
    """
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    parts: list[str] = []
    for run in runs:
        parts += [f"{run[0]}-{run[-1]}"] if len(run) > 2 else [str(n) for n in run]
    return names(parts, most)


def clip(text: str, width: int, prose: bool = False) -> str:
    """The text without its middle (of prose: its end) if longer than `width`: ends of layer names say the most.

    >>> clip("inception3a.branch1.conv", 12)
    'incept….conv'
    >>> clip("첫번째합성곱층.conv", 12)
    '첫번째….conv'
    """
    if columns_of(text) <= width:
        return text
    if width < 3:
        return first_columns(text, width)
    if prose:
        return f"{first_columns(text, width - 1).rstrip()}…"
    tail = (width - 1) // 2
    if width == 3:
        return f"{first_columns(text, 2)}…"
    return f"{first_columns(text, width - 1 - tail)}…{last_columns(text, tail)}"


def padded(text: str, width: int, right: bool = False) -> str:
    """The text with spaces up to `width` columns, behind it or (`right`) before it.

    >>> padded("도장", 6) + "|", padded("도장", 6, right=True)
    ('도장  |', '  도장')
    """
    space = " " * (width - columns_of(text))
    return space + text if right else text + space


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    footer: Sequence[Sequence[str]] = (),
    width: int = WIDTH,
    style: Style = PLAIN,
    bold: Sequence[int] = (),
) -> str:
    """Rows under their headings, a rule before `footer`. Columns marked `shrink` are clipped to keep within `width`,
    names only as far as they stay different: a line too long is less harm than rows that cannot be told apart.
    `bold` are the places of rows that stand out.
    """
    rows, footer = ([[shown(cell) for cell in row] for row in part] for part in (rows, footer))
    everything = [*rows, *footer]
    wide = [max([columns_of(c.title), *(columns_of(row[i]) for row in everything)]) for i, c in enumerate(columns)]
    over = sum(wide) + 2 * (len(columns) - 1) - width
    for i in sorted((i for i, c in enumerate(columns) if c.shrink), key=lambda i: -wide[i]):
        if over > 0:
            wanted = max(8, wide[i] - over)
            kept = wanted if columns[i].prose else _telling([row[i] for row in everything], wanted, wide[i])
            less = min(over, max(0, wide[i] - kept))
            wide[i] -= less
            over -= less

    def line(cells: Sequence[str]) -> str:
        parts = [
            padded(cell, w, right=True) if column.right else padded(clip(cell, w, column.prose), w)
            for cell, w, column in zip(cells, wide, columns, strict=True)
        ]
        return "  ".join(parts).rstrip()

    marked = frozenset(bold)
    lines = [style.bold(line([c.title for c in columns]))]
    lines += [style.bold(line(row)) if place in marked else line(row) for place, row in enumerate(rows)]
    if footer:
        lines += ["-" * (max(map(columns_of, lines)) if not style.color else len(line([c.title for c in columns])))]
        lines += [style.bold(line(row)) for row in footer]
    return "\n".join(lines)


def _telling(cells: Sequence[str], least: int, most: int) -> int:
    """The smallest width from `least` on at which names that differ still differ when clipped; `most` if none is."""
    names = set(cells)
    return next((w for w in range(least, most) if len({clip(name, w) for name in names}) == len(names)), most)


def fits(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> bool:
    """Whether the table fits into `width` without clipping."""
    wide = [max([columns_of(c.title), *(columns_of(row[i]) for row in rows)]) for i, c in enumerate(columns)]
    return sum(wide) + 2 * (len(columns) - 1) <= width


def paragraph(text: str, width: int = WIDTH, indent: str = "") -> str:
    """Prose, wrapped; the lines after the first are indented."""
    return "\n".join(
        wrap(shown(text, keep="\n"), width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    )
