"""Both READMEs have the same commands; the program, make or pip understands each; the Python runs."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dojang.app.parser import build_parser
from test_results import FILES, figures, stands

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """The lines of all blocks, without comments."""
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = (line.partition("#")[0].rstrip() for _, block in BLOCK.findall(text) for line in block.splitlines())
    return [line for line in lines if line]


def test_both_pages_have_the_same_commands() -> None:
    assert commands("README.ko.md") == commands("README.md")


SHELL = [
    line
    for language, block in BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    if language == "sh"
    for line in block.splitlines()
]


@pytest.mark.parametrize("line", SHELL)
def test_each_command_is_understood(line: str) -> None:
    program, *words = shlex.split(line, comments=True)
    if program == "dojang":
        build_parser().parse_args(words)  # raises SystemExit where it is not understood
    elif program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    elif program == "pip":
        assert words[1:3] == ["--constraint", "constraints.txt"]  # else pip takes a torch of gigabytes
        found = re.fullmatch(r"\.\[([\w,]+)\]", words[3])
        assert found
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert {*found[1].split(",")} <= {*project["optional-dependencies"]}
    else:
        assert program in ("scripts/check", ".venv/bin/python")
        assert [word for word in words if not (ROOT / word).exists()] == []


def test_dojang_is_among_them() -> None:
    assert sum(line.startswith("dojang ") for line in SHELL) >= 12


@pytest.mark.parametrize("shade", ["light", "dark"])
def test_the_picture_shows_the_run_that_is_recorded(shade: str) -> None:
    drawn = ElementTree.parse(ROOT / "docs" / "pictures" / f"before-after-{shade}.svg")
    texts = [
        node.text or "" for kind in ("text", "desc") for node in drawn.iter(f"{{http://www.w3.org/2000/svg}}{kind}")
    ]
    shown = [number for text in texts for number in figures(text)]
    assert len(shown) >= 12
    table = FILES["demo.txt"].partition("Before and after\n")[2].partition("Note:")[0]
    assert [number for number in shown if not stands(number, table)] == []


def test_the_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = (block for language, block in BLOCK.findall(text) if language == "python")
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert capsys.readouterr().out.split() == re.findall(r"print.*# (\d+)", block)
    assert names["y"].shape == (1, 16, 8, 8)  # pyright: ignore[reportAttributeAccessIssue]
