"""The checks of a diagnosis for a terminal."""

from __future__ import annotations

from dojang.report.checks_tables import tables
from dojang.report.results import Diagnosis
from dojang.report.table import Column, Style, paragraph, table

MOST_ROWS = 12
"""Rows of each table that are printed; the page and JSON have more."""


def checks_text(diagnosis: Diagnosis, width: int, style: Style) -> list[str]:
    """Every table with at most `MOST_ROWS` rows, and what it means."""
    lines: list[str] = []
    for shown in tables(diagnosis):
        columns = [Column(head, right=i >= shown.words, shrink=i == 0) for i, head in enumerate(shown.heads)]
        rows = [list(row) for row in shown.rows[:MOST_ROWS]]
        more = len(shown.rows) - MOST_ROWS
        lines += ["", style.bold(shown.title), table(columns, rows, (), width, style)]
        lines += [style.dim(f"(and {more} more rows, in --json and --html)")] if more > 0 else []
        lines.append(style.dim(paragraph(shown.said, width)))
    return lines
