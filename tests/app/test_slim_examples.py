"""Every example of slimming by one's own loop runs, keeps its class and meets its target; it asserts so itself."""

from __future__ import annotations

import ast
import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

EXAMPLES = sorted((Path(__file__).parents[2] / "docs" / "examples" / "slim").glob("*.py"))


def imported(example: Path) -> set[str]:
    """The packages that a script imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(example.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in imported(example):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    torch.set_num_threads(1)
    runpy.run_path(str(example), run_name="__main__")
    said = capsys.readouterr().out
    assert "Every network that was tried" in said
    assert "Control: the original tuned 1 time" in said
    assert "was not reached" not in said
