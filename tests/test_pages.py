"""Every Python block of the pages runs: in order, page by page, each page in a process and a folder of its own.

A block that cannot run everywhere begins with the line `# Not run by the tests: REASON`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"# Not run by the tests: \S")


def blocks(page: Path) -> list[tuple[int, str]]:
    """The Python blocks of a page that run, with the line that each begins on."""
    text = page.read_text(encoding="utf-8")
    found = [(text[: m.start(1)].count("\n"), m[1]) for m in BLOCK.finditer(text)]
    assert len(found) == text.count("```python"), f"{page.name}: a Python block that is indented or not closed"
    return [(line, code) for line, code in found if not NOT_RUN.match(code)]


PAGES = [page for page in (*ROOT.glob("README*.md"), *sorted((ROOT / "docs").rglob("*.md"))) if blocks(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_on_pages_runs(page: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    for line, code in blocks(page):  # at their own lines, so that a traceback tells the place on the page
        lines += [""] * (line - len(lines)) + code.splitlines()
    script = tmp_path / f"{page.stem}.py"
    script.write_text("\n".join(lines), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_page_whose_block_names_nothing_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("A\n\n```python\nx = 1\n```\n\n```python\nprint(x, y)\n```\n")
    with pytest.raises(AssertionError, match="(?s)line 8, in <module>.*NameError: name 'y'"):
        test_python_on_pages_runs(tmp_path / "page.md", tmp_path)


def test_the_program_names_no_page_that_is_not_here() -> None:
    """Docstrings and messages refer to files of the repository only."""
    for source in sorted((ROOT / "src").rglob("*.py")):
        for name in re.findall(r"[\w./-]+\.md\b", source.read_text(encoding="utf-8")):
            assert any((folder / name).is_file() for folder in (ROOT, ROOT / "docs")), f"{source}: {name}"
