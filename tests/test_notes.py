"""Every command on docs/notes.md is run, and prints the lines that stand under it, in their order.

The same holds for the examples of docs/arithmetic.md.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from dojang.app.cli import main

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"```\n(\$ dojang .*?)```", re.DOTALL)


def examples() -> list[tuple[str, str, list[str]]]:
    """(page, command, lines expected) of every command shown."""
    found = []
    for page in ("notes.md", "arithmetic.md"):
        for block in BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8")):
            for part in re.split(r"^\$ dojang ", block, flags=re.MULTILINE)[1:]:
                command, *lines = part.rstrip("\n").split("\n")
                found.append((page, command, lines))
    return found


EXAMPLES = examples()


@pytest.mark.parametrize(("command", "lines"), [e[1:] for e in EXAMPLES], ids=[e[1] for e in EXAMPLES])
def test_the_program_prints_what_the_page_says(
    command: str, lines: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("NO_COLOR", "1")
    code = main(shlex.split(command))
    captured = capsys.readouterr()
    assert code == (1 if command.startswith("check ") else 0)
    assert captured.err == ""
    assert lines, "a command without the lines that it prints shows nothing"
    printed = iter(captured.out.splitlines())
    for line in lines:
        assert any(shown.startswith(line) for shown in printed), f"{line!r} is not printed, or not in this order"


def test_there_is_an_example_for_every_claim() -> None:
    page = (ROOT / "docs" / "notes.md").read_text(encoding="utf-8")
    claims = re.split(r"^\*\*", page, flags=re.MULTILINE)[1:]
    assert len(claims) >= 12
    assert all("```\n$ dojang " in claim for claim in claims)
