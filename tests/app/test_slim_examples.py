"""Every example of slimming by one's own loop runs, keeps its class and meets its target; it asserts so itself."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

EXAMPLES = sorted((Path(__file__).parents[2] / "docs" / "examples" / "slim").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    runpy.run_path(str(example), run_name="__main__")
    said = capsys.readouterr().out
    assert "Every network that was tried" in said
    assert "Control: the original tuned 1 time" in said
    assert "was not reached" not in said
