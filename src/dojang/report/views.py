"""How each result is shown: as text for a terminal and for `print`, as HTML for a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from dojang.base.result import Form, Result
from dojang.report.table import PLAIN, WIDTH, Style, marked_html, printed

NOTEBOOK_WIDTH = 120
"""Columns of the table in a notebook, whose cells are wider than a terminal of 80 columns."""

VIEWS: Mapping[str, str] = {
    "Bench": "text:bench_text",
    "Check": "text_arith:check_text",
    "Comparison": "text_arith:compare_text",
    "Count": "text_count:count_text",
    "Diagnosis": "text_slim:diagnosis_text",
    "Environment": "text:env_text",
    "Explanation": "text_arith:explain_text",
    "Exported": "text:exported_text",
    "FilterPlans": "text_filter:filter_plan_text",
    "FilterReport": "text_filter:filter_text",
    "Listing": "text_arith:listing_text",
    "MemoryUse": "text_memory:memory_text",
    "Placement": "text_devices:devices_text",
    "Plan": "text:plan_text",
    "Run": "text:run_text",
    "ShownPage": "text:page_text",
    "Slimming": "text_slim:slim_text",
    "Solutions": "text_arith:solve_text",
    "Trained": "text:trained_text",
}
"""For each result type the module and function, within this package, that write it as text. They are loaded when a
result of that type is shown, because some of them load NumPy."""


def text_of(result: Result, width: int = WIDTH, style: Style = PLAIN) -> str:
    """The table of a result, within `width` columns. `table.printed` turns marks of `style` into escape sequences."""
    module, _, name = VIEWS[type(result).__name__].partition(":")
    return getattr(import_module(f"dojang.report.{module}"), name)(result, width, style)


def show(result: Result, form: Form) -> str:
    """A result as plain text, or as a piece of HTML: the same table, its headings bold, everything else escaped."""
    if form == "text":
        return printed(text_of(result))
    return (
        '<div style="overflow-x:auto"><pre style="font-family:ui-monospace,monospace;line-height:1.35">'
        f"{marked_html(text_of(result, NOTEBOOK_WIDTH, Style(True)))}</pre></div>"
    )
