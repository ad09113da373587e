"""How well each class is answered, and which classes are mistaken for which: as text and as part of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dojang.report.heat import heat_figure, maps
from dojang.report.page import html_table, paragraph
from dojang.report.table import PLAIN, WIDTH, Column, Style, fits, percent, table
from dojang.report.table import paragraph as wrapped

Confusion = Mapping[str, Any]
"""A confusion matrix as it stands in JSON: `training.confusion.Confusion.to_dict`."""

MOST_LINES = 20
"""Text shows every class up to so many, and of more those of lowest recall."""

MOST_COLUMNS = 20
"""A page shows the matrix as numbers up to so many classes, and of more as a heat map."""

MISTAKES = 5
"""The most mistakes that text names."""

RECALL_AND_PRECISION = (
    "Recall: of the samples of a class, the share that is answered as it. Precision: of the answers that name a class, "
    "the share that is right."
)

ROWS_AND_COLUMNS = "Rows are labels, columns are answers."


def confusion_text(seen: Confusion, width: int = WIDTH, style: Style = PLAIN) -> str:
    """The warning if there is one; recall and precision by class, with the matrix where it fits; the mistakes."""
    parts = [style.bad(wrapped(f"Warning: {seen['warning']}.", width))] if seen["warning"] else []
    order = list(range(len(seen["classes"])))
    few = len(order) <= MOST_LINES
    if not few:
        known = [i for i in order if seen["recall"][i] is not None]
        order = sorted(known, key=lambda i: seen["recall"][i])[:MOST_LINES]
    columns = [Column("class", right=False, shrink=True), Column("samples"), Column("recall"), Column("precision")]
    rows = [_row(seen, i) for i in order]
    wide = [*columns, *(Column(str(i)) for i in order)]
    if few and seen["matrix"] is not None:
        named = [f"{i} {name}" if name != str(i) else name for i, name in enumerate(seen["classes"])]
        full = [[named[i], *row[1:], *map(str, seen["matrix"][i])] for i, row in zip(order, rows, strict=True)]
        if fits(wide, full, width):
            said = "Test part by class. The numbered columns count its samples by the class that was answered."
            parts += [wrapped(said, width), table(wide, full, (), width, style)]
            return "\n".join([*parts, *_mistakes(seen, width)])
    which = "" if few else f" The {len(order)} of {len(seen['classes'])} classes with the lowest recall."
    said = f"Test part by class.{which} The counts of every answer are in --json and on the page."
    return "\n".join([*parts, wrapped(said, width), table(columns, rows, (), width, style), *_mistakes(seen, width)])


def by_label_text(seen: Mapping[str, Any], width: int = WIDTH, style: Style = PLAIN) -> str:
    """Recall and precision of each class where a sample has any number of them; of many classes the least recalled."""
    order = list(range(len(seen["classes"])))
    which = ""
    if len(order) > MOST_LINES:
        known = [i for i in order if seen["recall"][i] is not None]
        order = sorted(known, key=lambda i: seen["recall"][i])[:MOST_LINES]
        which = f" The {len(order)} of {len(seen['classes'])} classes with the lowest recall."
    columns = [Column("class", right=False, shrink=True), Column("samples"), Column("recall"), Column("precision")]
    said = f"Test part by class; a sample may have several.{which}"
    return f"{wrapped(said, width)}\n{table(columns, [_row(seen, i) for i in order], (), width, style)}"


def by_label_html(seen: Mapping[str, Any]) -> str:
    """The same for a page, every class."""
    columns = ("classes", "support", "recall", "precision")
    rows = [
        [name, (f"{support:,}", support), (percent(recall, 1), recall), (percent(precision, 1), precision)]
        for name, support, recall, precision in zip(*(seen[key] for key in columns), strict=True)
    ]
    heads = ["class", "samples", "recall", "precision"]
    said = paragraph(f"{RECALL_AND_PRECISION} A sample may have several classes.")
    return said + html_table(heads, rows, numeric=(1, 2, 3), sortable=True)


def _row(seen: Confusion, i: int) -> list[str]:
    return [
        seen["classes"][i],
        f"{seen['support'][i]:,}",
        percent(seen["recall"][i], 1),
        percent(seen["precision"][i], 1),
    ]


def _mistakes(seen: Confusion, width: int) -> list[str]:
    """The most frequent mistakes as a sentence."""
    found = seen["mistakes"][:MISTAKES]
    said = ", ".join(f"{one['label']} as {one['answer']} ({one['count']:,})" for one in found)
    return [wrapped(f"Most frequent mistakes (label as answer): {said}.", width)] if found else []


def confusion_html(seen: Confusion) -> str:
    """The same for a page: the warning, a table that can be sorted, the matrix as numbers or as a heat map."""
    classes = seen["classes"]
    warning = paragraph(f"Warning: {seen['warning']}.", "bad") if seen["warning"] else ""
    rows = [
        [
            name,
            (f"{support:,}", support),
            (percent(recall, 1), recall),
            (percent(precision, 1), precision),
        ]
        for name, support, recall, precision in zip(
            classes, seen["support"], seen["recall"], seen["precision"], strict=True
        )
    ]
    said = (
        f"{RECALL_AND_PRECISION} Mean recall {percent(seen['balanced_accuracy'])}; the largest class is "
        f"{seen['majority_class']} with {percent(seen['majority_share'])} of the samples."
    )
    by_class = html_table(["class", "samples", "recall", "precision"], rows, numeric=(1, 2, 3), sortable=True)
    return warning + paragraph(said) + by_class + _matrix(seen)


def heat_of(matrix: Sequence[Sequence[int]]) -> str:
    """The matrix as a heat map: of each label's samples the share that gets each answer."""
    shares = [[count / max(1, sum(row)) for count in row] for row in matrix]
    return maps([heat_figure(shares, "Confusion matrix", f"{ROWS_AND_COLUMNS} Bright is a large share of the row.")])


def _matrix(seen: Confusion) -> str:
    classes, matrix = seen["classes"], seen["matrix"]
    if matrix is None:
        found = [[one["label"], one["answer"], (f"{one['count']:,}", one["count"])] for one in seen["mistakes"]]
        return paragraph("The most frequent mistakes.") + html_table(["label", "answered as", "samples"], found, (2,))
    if len(classes) > MOST_COLUMNS:
        return heat_of(matrix)
    rows = [[name, *((f"{n:,}", n) for n in row)] for name, row in zip(classes, matrix, strict=True)]
    table = html_table(["label", *classes], rows, numeric=range(1, len(classes) + 1))
    return paragraph(f"Confusion matrix, in samples of the test part. {ROWS_AND_COLUMNS}") + table
