"""The generated parts of docs/ are what the program says now; changelog, glossary and names keep up with the code."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import dojang

ROOT = Path(__file__).parent.parent


def pages() -> list[Path]:
    """All pages in English and Korean."""
    return [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]


def test_generated_pages_are_current():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "docs.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_changelog_begins_with_this_version():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+) \(20\d\d-\d\d-\d\d\)$", changes, re.MULTILINE)[1] == dojang.__version__


def test_the_glossary_has_each_word_once_in_order():
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    table = page.split("## Words that are avoided")[0]
    words = [
        row[1].replace(" *(dojang)*", "") for row in re.finditer(r"^\| (?!word)([^|-][^|]*?) \|", table, re.MULTILINE)
    ]
    assert len(words) > 50
    assert words == sorted(set(words), key=str.casefold)


def test_every_public_name_is_documented():
    missing = [name for name in dojang.__all__ if not name.startswith("__") and not getattr(dojang, name).__doc__]
    assert missing == []


def test_pages_use_python_names_that_exist():
    """Imports in Python blocks, which not every page's own test runs, find what they name."""
    for page in pages():
        for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            for found in re.finditer(
                r"^\s*(?:from (dojang[\w.]*) import (.+)|import (dojang[\w.]+))$", block, re.MULTILINE
            ):
                module = import_module(found[1] or found[3])
                for name in re.findall(r"(\w+)(?: as \w+)?(?:,|$)", found[2] or ""):
                    there = hasattr(module, name) or find_spec(f"{module.__name__}.{name}")
                    assert there, f"{page.name}: {found[0].strip()}"
