"""The checks of a diagnosis as sections of its page."""

from __future__ import annotations

from dojang.report.checks import MOST_WRONG
from dojang.report.checks_tables import tables
from dojang.report.confusion import heat_of
from dojang.report.page import html_table, paragraph
from dojang.report.results import Diagnosis
from dojang.training.confusion import MATRIX_CLASSES


def check_sections(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """A section for each table; the confusion matrix as a heat map behind the accuracy by class."""
    sections: list[tuple[str, str]] = []
    for shown in tables(diagnosis):
        numeric = tuple(range(shown.words, len(shown.heads)))
        rows = [list(row) for row in shown.rows[:MOST_WRONG]]
        body = html_table(list(shown.heads), rows, numeric=numeric) + paragraph(shown.said, "muted")
        if shown.title == "Accuracy by class":
            body += _matrix(diagnosis)
        sections.append((shown.title, body))
    return sections


def _matrix(diagnosis: Diagnosis) -> str:
    """The confusion matrix: each row the share of a label's samples by answer; "" for too many classes."""
    answers = diagnosis.checks.answers
    if answers is None or not 1 < len(answers.confusion.classes) <= MATRIX_CLASSES:
        return ""
    return heat_of(answers.confusion.matrix)
