"""The page `docs/finding-to-cut.md`: its example prints what it says, and every function that it names is there."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
from pathlib import Path

import pytest

from dojang.evidence.finding import KINDS
from dojang.slimming.search import MADE_FOR

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "finding-to-cut.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if re.match(r"\| \d+ \|", line)]


def block(kind: str) -> str:
    found = re.search(rf"```{kind}\n(.*?)```", PAGE, re.S)
    assert found
    return found[1]


def test_the_example_prints_what_the_page_says():
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(block("python"), "finding-to-cut.md", "exec"), {})
    assert said.getvalue() == block("text")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_function_stands_in_the_file_that_is_named(row):
    files = re.findall(r"`([\w/]+)\.py`", row[2])
    names = re.findall(r"`([\w.]+)`", row[1])
    modules = [importlib.import_module("dojang." + file.replace("/", ".")) for file in files]
    for name in names:
        owner, _, member = name.partition(".")
        holders = [m for m in modules if hasattr(m, owner)]
        if owner == "Evidence":
            holders = [importlib.import_module("dojang.evidence.evidence")]
        assert holders, name
        assert not member or hasattr(getattr(holders[0], owner), member), name


def test_the_table_of_findings_is_that_of_the_search():
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*?) \|$", PAGE, re.M))
    assert set(rows) == set(KINDS)
    for kind, said in rows.items():
        assert (MADE_FOR[kind] in said) if kind in MADE_FOR else said.startswith("none")
